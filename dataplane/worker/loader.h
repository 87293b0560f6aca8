/* loader.h - keeps a worker's table the newest that was committed: reads the node's store, rebuilds only the layers
 * that changed.
 *
 * A change is noticed by the id of the read transaction (the environment's own "last id" runs ahead of what a reader
 * sees). A table that cannot be decoded is reported once and the last good one goes on serving. On the loop's thread
 * only; never blocks beyond a page fault. */
#pragma once
#include "common/arena.h"
#include "common/err.h"
#include "dataplane/route/table.h"
#include "proto/board.h"
#include "proto/tablestore.h"

struct loader_events {
    void (*serving)(void *user, const struct table_version *version);
    void (*bad)(void *user, const struct table_version *version, const char *why); /* why: one line, until it returns */
    void *user;
};
struct known_key;
#define LOADER_KEYS_KNOWN                                                                                              \
    256u /* records of keys that were asked for lately, by the first byte of their hash: some 1.1 MB */
struct loader {
    char *store_path;
    struct tablestore *store; /* NULL until the master has made it */
    struct table_labels labels;
    struct loader_events events;
    struct table *table;          /* NULL: nothing was ever committed */
    bool looked;                  /* txn_id is meaningful */
    uint64_t txn_id;              /* of the transaction that was last looked at */
    struct table_version version; /* of `table`; with no head yet, of the directory alone */
    struct teams_view *teams;
    struct sha256 teams_hash;
    struct {
        struct sha256 hash;
        struct compiled *compiled; /* NULL: free */
        uint64_t used;             /* higher: later */
    } cache[ARTIFACTS_KEPT];
    uint64_t uses;
    struct known_key *known[LOADER_KEYS_KNOWN]; /* each good for the transaction it was read in, and no other */
    uint64_t switches, errors;
};

/* store_path is copied. The board gives labels and must outlive the loader. A store that is not there yet is looked for
 * at each refresh. ERR_NOMEM. */
MUST_CHECK enum err loader_init(struct loader *loader, const char *store_path, struct board *board,
                                const struct loader_events *events);
void loader_release(struct loader *loader);
/* Takes what was committed since the last look, if anything. Errors are counted, logged and reported; the last good
 * table stays. */
void loader_refresh(struct loader *loader);
/* The key record by hash, as it stands in the same transaction in which the table was found to be the newest; it lives
 * as long as the arena's content. ERR_NOT_FOUND: no such key. ERR_AGAIN: there is no store yet. ERR_CORRUPT, ERR_NOMEM, ERR_IO, ERR_TOO_MANY. */
MUST_CHECK enum err loader_key(struct loader *loader, struct arena *arena, const struct sha256 *hash,
                               struct key_record **ret);
