/* opts.h - command-line options from one table: parsing, --help and completion come from the same rows. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

struct buf;

enum opt_kind {
    OPT_FLAG,
    OPT_TEXT,
    OPT_MANY, /* may repeat: values in order */
    OPT_TIME  /* a flag that may have a duration: the next argument is its value when it is one ("10m") */
};

struct opt {
    const char *name; /* "home": --home DIR, --home=DIR */
    char letter;      /* 'h' or 0 */
    enum opt_kind kind;
    const char *value; /* "DIR" in help; NULL for a flag */
    const char *help;  /* one sentence, no full stop */
};
#define OPTS_VALUES_MAX 64

struct opts_result {
    /* One row per given option, in order. */
    struct opts_given {
        const struct opt *opt;
        const char *value; /* NULL for a flag */
    } given[OPTS_VALUES_MAX];
    unsigned given_count;
    const char *args[OPTS_VALUES_MAX]; /* the rest; "--" ends the options */
    unsigned arg_count;
};

/* Whether an option of this kind takes the argument that follows it, which may be NULL. */
bool opts_takes_next(enum opt_kind kind, const char *next);
/* argv[0] is skipped. On error *message (malloc'd) says what is wrong and suggests the nearest option. ERR_INVALID,
 * ERR_TOO_MANY. */
MUST_CHECK enum err opts_parse(const struct opt *table, size_t count, int argc, char *const *argv,
                               struct opts_result *ret, char **ret_message);
bool opts_flag(const struct opts_result *r, const char *name);
const char *opts_text(const struct opts_result *r, const char *name,
                      const char *otherwise); /* the last one given wins */
/* Aligned, wrapped at 100 columns. */
MUST_CHECK enum err opts_help(const struct opt *table, size_t count, struct buf *out);
