/* contexts.h - named targets of the CLI: which home or admin address, which team and key by default.
 *
 * $XDG_CONFIG_HOME/fairlead/contexts.yaml (else ~/.config/...), 0600:
 *
 *     schema: fairlead/1
 *     kind: contexts
 *     current: prod                 # left out: none
 *     contexts:
 *       prod: {home: /var/lib/fairlead, team: search}
 *       lab: {address: "ipc:///srv/lab/run/admin.ipc", key: key_b52wvpe8ggqt}
 *
 * Where a command goes, the first that is said: --address and --home; --context; $FAIRLEAD_CONTEXT; $FAIRLEAD_HOME; the
 * file's current one; the usual home. With --home or --address alone the file is not even read: what is named there must
 * not be mixed with another target. */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "common/err.h"

#define CONTEXTS_BYTES_MAX 65536u
#define CONTEXTS_MAX       200u /* people choose among them by name */

struct context {
    const char *name;
    const char *home, *address, *team, *key; /* NULL: not said */
};
struct contexts {
    struct context items[CONTEXTS_MAX];
    uint32_t count;
    const char *current; /* NULL: none */
};

/* malloc'd; NULL: neither variable is set. */
char *contexts_path(void);
/* Pure; all lives in the arena. ERR_INVALID, ERR_SYNTAX ...: *ret_why says what and where. */
MUST_CHECK enum err contexts_parse(struct arena *arena, const char *file, struct span text, struct contexts *ret,
                                   const char **ret_why);
/* The text that contexts_parse reads. ERR_FULL, ERR_NOMEM. */
MUST_CHECK enum err contexts_print(const struct contexts *contexts, struct buf *out);
/* No file: none. ERR_DENIED: somebody else could have written it. */
MUST_CHECK enum err contexts_load(struct arena *arena, const char *path, struct contexts *ret, const char **ret_why);
/* ERR_INVALID, ERR_SYNTAX: what could not be read again is not written. */
MUST_CHECK enum err contexts_store(const char *path, const struct contexts *contexts);
/* NULL when there is none of that name. */
struct context *contexts_find(struct contexts *contexts, const char *name);
/* What may be a name: letters, digits, '.', '_', '-', at most 64, no '-' in front. */
bool contexts_name_good(const char *name);
