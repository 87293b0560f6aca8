/* diag.h - what is wrong with a policy or a directory, collected: "file:line:column: error: message".
 *
 * Bounded; the same text at the same place is kept once. Memory comes from the arena given to diags_init. Running out
 * of memory is remembered in `failed` and counts as an error, so that nothing is taken for clean by accident. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "common/strmap.h"

struct arena;
struct buf;
struct json_writer;
struct yaml_node;

#define DIAGS_MAX 200u /* a file that is no policy at all must not bury its first error, nor fill memory */

enum diag_severity { DIAG_ERROR, DIAG_WARNING };
struct diag {
    enum diag_severity severity;
    const char *file; /* "" when it belongs to no file */
    uint32_t line;    /* from 1; 0: the whole file */
    uint32_t column;
    const char *message;
};
struct diags {
    struct arena *arena;
    struct diag items[DIAGS_MAX];
    uint32_t count;
    uint32_t errors, warnings; /* all, also those beyond DIAGS_MAX */
    bool failed;               /* memory ran out while something was reported */
    struct strmap seen;
};

void diags_init(struct diags *diags, struct arena *arena);
/* node NULL: no place. */
void diag_error(struct diags *diags, const struct yaml_node *node, const char *fmt, ...) PRINTF_LIKE(3, 4);
void diag_warning(struct diags *diags, const struct yaml_node *node, const char *fmt, ...) PRINTF_LIKE(3, 4);
void diag_at(struct diags *diags, enum diag_severity severity, const char *file, uint32_t line, uint32_t column,
             const char *fmt, ...) PRINTF_LIKE(6, 7);
/* Why reading a file failed, in words; the same whoever met it, so that two readers make one diagnostic. */
void diag_unreadable(struct diags *diags, const char *file, enum err err);
/* True when something is wrong (warnings are not). */
bool diags_bad(const struct diags *diags);
/* By file, line, column; errors before warnings at one place. */
void diags_sort(struct diags *diags);
/* Sorts, then one line each, then "… and N more". ERR_FULL, ERR_NOMEM. */
MUST_CHECK enum err diags_text(struct diags *diags, struct buf *out);
/* Sorts, then {"errors":n,"warnings":n,"items":[{"severity","file","line","column","message"}]}. */
void diags_json(struct diags *diags, struct json_writer *w);
