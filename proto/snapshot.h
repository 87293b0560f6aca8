/* snapshot.h - a crash-safe ordered store that many processes read without locks: the only includer of lmdb.h.
 *
 * Opened once per process, after exec; the descriptor is close-on-exec; the map is sparse and fixed. One writer process
 * per environment (held by the owner's own lock file), any number of readers. Values borrow from the map: they die with
 * their transaction. Not thread-safe per handle. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

#define SNAPSHOT_MAP_BYTES     (16ull << 30) /* sparse; the most a store may ever grow to */
#define SNAPSHOT_KEY_BYTES_MAX 511u          /* LMDB's own */
#define SNAPSHOT_TREES_MAX     16u

struct snapshot;
struct snapshot_txn;

struct snapshot_options {
    const char *path; /* directory; made when missing, mode 0700 */
    bool read_only;
    uint64_t map_bytes;       /* 0: SNAPSHOT_MAP_BYTES */
    const char *const *trees; /* named trees; index in this array is the tree number everywhere */
    unsigned tree_count;
};
/* ERR_NOT_FOUND (read-only and absent), ERR_CORRUPT, ERR_UNSUPPORTED (other format version), ERR_DENIED, ERR_NOSPACE,
 * ERR_IO, ERR_NOMEM, ERR_CONFLICT. */
MUST_CHECK enum err snapshot_open(const struct snapshot_options *options, struct snapshot **ret);
void snapshot_close(struct snapshot *snapshot);
/* Frees reader slots of dead processes; returns how many. Call at start, on each child's death, each minute. */
unsigned snapshot_check_readers(struct snapshot *snapshot);
uint64_t snapshot_bytes_used(struct snapshot *snapshot); /* of the map, for tests and metrics */

/* Read transactions are recycled inside: begin and end cost no allocation. One at a time per handle (REQUIREd). */
MUST_CHECK enum err snapshot_read_begin(struct snapshot *snapshot, struct snapshot_txn **ret);
void snapshot_read_end(struct snapshot_txn *txn);
/* Number of the commit being read. Under a very busy writer what is read may be newer than its number, never older: who
 * remembers the number and looks again when it differs misses nothing. */
uint64_t snapshot_txn_id(const struct snapshot_txn *txn);
MUST_CHECK enum err snapshot_write_begin(struct snapshot *snapshot, struct snapshot_txn **ret);
MUST_CHECK enum err
snapshot_commit(struct snapshot_txn *txn);     /* durable when OK; ERR_NOSPACE, ERR_IO; the txn is gone either way */
void snapshot_abort(struct snapshot_txn *txn); /* NULL is fine */

/* ERR_NOT_FOUND. */
MUST_CHECK enum err snapshot_get(struct snapshot_txn *txn, unsigned tree, struct span key, struct span *ret_value);
MUST_CHECK enum err snapshot_put(struct snapshot_txn *txn, unsigned tree, struct span key,
                                 struct span value);                                           /* ERR_NOSPACE */
MUST_CHECK enum err snapshot_delete(struct snapshot_txn *txn, unsigned tree, struct span key); /* ERR_NOT_FOUND */
MUST_CHECK enum err snapshot_drop_all(struct snapshot_txn *txn, unsigned tree);                /* empties a tree */
uint64_t snapshot_count(struct snapshot_txn *txn, unsigned tree);
/* Calls visit for every key >= from with this prefix, in order, until visit returns false. The tree must not be changed
 * in between. */
typedef bool snapshot_visit(void *user, struct span key, struct span value);
MUST_CHECK enum err snapshot_each(struct snapshot_txn *txn, unsigned tree, struct span prefix, struct span from,
                                  snapshot_visit *visit, void *user);
MUST_CHECK enum err snapshot_last(struct snapshot_txn *txn, unsigned tree, struct span *ret_key,
                                  struct span *ret_value);
/* A consistent compacted copy into a new directory. */
MUST_CHECK enum err snapshot_copy(struct snapshot *snapshot, const char *to_dir);
/* Big-endian 8 bytes: numbers that sort as keys. */
void snapshot_key_u64(uint64_t number, char out[8]);
MUST_CHECK enum err snapshot_key_to_u64(struct span key, uint64_t *ret);
