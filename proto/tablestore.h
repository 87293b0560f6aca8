/* tablestore.h - the node's LMDB: where the master (one writer) puts tables and workers read them.
 *
 * Everything a request obeys is read in one transaction. Objects are stored as they travelled, each with its hash; the
 * reader checks the hash before decoding. Keys of people (key records) are separate entries by SHA-256, so that a
 * changed key costs one entry, not a table. */
#pragma once
#include "common/arena.h"
#include "proto/links.h"
#include "proto/snapshot.h"

struct tablestore;

MUST_CHECK enum err tablestore_open(const char *dir, bool read_only,
                                    struct tablestore **ret); /* errors of snapshot_open */
void tablestore_close(struct tablestore *store);
struct snapshot *tablestore_snapshot(struct tablestore *store);

/* -- reading (workers, and the master at start) -- */
/* Begins a read transaction; *ret_txn_id is the one workers remember. */
MUST_CHECK enum err tablestore_begin(struct tablestore *store, uint64_t *ret_txn_id);
void tablestore_end(struct tablestore *store);
/* Coordinates of what is stored; all zero when nothing was ever applied. Within begin/end. */
MUST_CHECK enum err tablestore_version(struct tablestore *store, struct table_version *ret);
/* What the last revert refused (directory_seq is 0); ERR_NOT_FOUND: nothing. Within begin/end. */
MUST_CHECK enum err tablestore_refused(struct tablestore *store, struct table_version *ret);
/* Bytes of one object, borrowed until tablestore_end, hash checked: ERR_NOT_FOUND, ERR_CORRUPT. OBJECT_DIRECTORY gives
 * the encoded teams. */
MUST_CHECK enum err tablestore_object(struct tablestore *store, enum object_kind kind, const struct sha256 *artifact,
                                      struct span *ret_bytes);
/* Key record by hash; decoded into arena. ERR_NOT_FOUND, ERR_CORRUPT, ERR_NOMEM. */
MUST_CHECK enum err tablestore_key(struct tablestore *store, struct arena *arena, const struct sha256 *hash,
                                   struct key_record **ret);
/* The same by its id, for people: looks at every record (a million take a second). */
MUST_CHECK enum err tablestore_key_named(struct tablestore *store, struct arena *arena, struct span id,
                                         struct key_record **ret);
/* Hashes of the artifacts held, newest use first. */
MUST_CHECK enum err tablestore_artifacts(struct tablestore *store, struct arena *arena, struct sha256 **ret,
                                         uint32_t *ret_count);

/* -- writing (the master only): gathers changes, then commits all or nothing -- */
struct table_change {
    const struct object *head; /* NULL: unchanged */
    const struct object *evidence;
    const struct object *artifacts; /* to add */
    uint32_t artifact_count;
    const struct directory_delta
        *directory; /* one delta, or one page of a full resync (applied when the last page comes) */
};
/* Compares with what is stored *now*: head older or equal (same epoch) ERR_STALE; another epoch than allowed_epoch
 * (when something is stored and allowed_epoch differs; 0 allows the stored one) ERR_CONFLICT, the same for evidence and
 * directory; sequences of another epoch than the head's count as 0 in table_version; evidence not newer ERR_STALE; a
 * delta whose from_seq is not ours ERR_CONFLICT, one (or a full resync) not newer ERR_STALE; a head naming an artifact
 * that is neither stored nor added ERR_NOT_FOUND; ERR_NOSPACE, ERR_IO. Keeps the last ARTIFACTS_KEPT artifacts, those
 * of the head always; without a head the last ARTIFACTS_HELD, as they may have come ahead of theirs. Keeps the head before this one for tablestore_revert. */
MUST_CHECK enum err tablestore_apply(struct tablestore *store, const struct table_change *change,
                                     uint64_t allowed_epoch, struct table_version *ret_now);
/* A head that was served this long is not what crashes workers now: then evidence alone goes back, if it can. */
#define TABLESTORE_HEAD_PROVEN_MS 60000
/* Back to the previous head and evidence (after crashes); their coordinates are remembered as refused so that they, and
 * older ones, are not applied again (ERR_STALE). Evidence without a previous one is dropped. The directory stays as it
 * is. ERR_NOT_FOUND: no previous. */
MUST_CHECK enum err tablestore_revert(struct tablestore *store, struct table_version *ret_now);
/* Small facts of the master's own that must survive it: "pinned", "adopted_epoch", "refused". ERR_NOT_FOUND. */
MUST_CHECK enum err tablestore_note_get(struct tablestore *store, struct arena *arena, struct span name,
                                        struct span *ret);
MUST_CHECK enum err tablestore_note_put(struct tablestore *store, struct span name, struct span value);
