/* tablestore_record.h - what the node's store looks like inside: trees, keys, and records that tell when they are
 * garbled. Included by tablestore*.c only. */
#pragma once
#include "common/digest.h"
#include "proto/tablestore.h"

/* Trees. Key records stand in one of two, so that a paged resync fills the other and the switch is one word. */
enum { TREE_META, TREE_OBJECTS, TREE_NOTES, TREE_KEYS_A, TREE_KEYS_B, TREES };

#define STORE_LAYOUT       1u   /* of what this file writes; a store of another layout is ERR_UNSUPPORTED */
#define RECORD_STATE       100u /* a kind beside enum object_kind */
#define ARTIFACTS_HELD_MAX 64u  /* of a head and the one before it; a head that needs more is refused */
#define CHECK_BYTES        8u /* before a key record or a note: siphash24 of it, against a garbled disk and not a forger */

#define KEY_HEAD              SPAN("head")
#define KEY_HEAD_PREVIOUS     SPAN("head.previous")
#define KEY_EVIDENCE          SPAN("evidence")
#define KEY_EVIDENCE_PREVIOUS SPAN("evidence.previous")
#define KEY_TEAMS             SPAN("teams")
#define KEY_TEAMS_NEXT        SPAN("teams.next")
#define KEY_STATE             SPAN("state")
#define ARTIFACT_PREFIX       "artifact/"

/* Before the bytes of each object. */
struct seal {
    uint32_t kind, schema;
    uint64_t epoch, seq;
    struct sha256 hash; /* of the bytes behind it */
    uint64_t check;     /* of the fields above */
};
_Static_assert(sizeof(struct seal) == 64, "no padding: it is stored as it stands");

/* Where everything stands; written in each transaction. Sequences belong to their own epochs: a head of a restored
 * control plane does not make the directory of the one before it current. */
struct state {
    uint64_t epoch, generation;
    uint64_t evidence_epoch, evidence_seq;
    uint64_t directory_epoch, directory_seq;
    uint64_t resync_epoch, resync_seq; /* of the full resync being staged */
    uint64_t refused_epoch, refused_generation;
    uint64_t refused_evidence_epoch, refused_evidence_seq;
    int64_t head_at_ms; /* when the head was applied */
    uint32_t resyncing; /* 1 while pages are staged in the tree that is not active */
    uint32_t present;   /* 1 once anything was applied */
    uint32_t active;    /* 0: keys.a, 1: keys.b */
    uint32_t artifact_count;
    struct sha256 artifacts[ARTIFACTS_HELD_MAX]; /* newest use first */
};

struct tablestore {
    struct snapshot *snapshot;
    struct snapshot_txn *reader; /* NULL outside of begin and end */
    struct state state;          /* of transaction state_txn_id: hashed once per commit, not once per look (4.5 KB) */
    uint64_t state_txn_id;
    bool state_loaded;
    enum err state_err;
};

/* All getters: ERR_NOT_FOUND, ERR_CORRUPT, and ERR_UNSUPPORTED for what a newer program wrote. What they return borrows
 * from the transaction. */
MUST_CHECK enum err record_put_sealed(struct snapshot_txn *txn, unsigned tree, struct span key, struct seal seal,
                                      struct span bytes);
MUST_CHECK enum err record_get_object(struct snapshot_txn *txn, struct span key, enum object_kind kind,
                                      struct seal *ret, struct span *ret_bytes);
MUST_CHECK enum err record_load_state(struct snapshot_txn *txn, struct state *ret); /* all zero when there is none */
MUST_CHECK enum err record_store_state(struct snapshot_txn *txn, const struct state *state);
struct table_version record_version(const struct state *state);

/* A smaller record, CHECK_BYTES and the bytes: for the many and the small. hash_key ties a key record to the hash it is
 * stored under. */
MUST_CHECK enum err record_put_checked(struct snapshot_txn *txn, unsigned tree, struct span key,
                                       const uint8_t hash_key[16], struct span bytes);
MUST_CHECK enum err record_get_checked(struct snapshot_txn *txn, unsigned tree, struct span key,
                                       const uint8_t hash_key[16], struct span *ret);

struct artifact_key {
    char bytes[sizeof ARTIFACT_PREFIX - 1 + SHA256_BYTES];
};
struct artifact_key record_artifact_key(const struct sha256 *hash);
static inline struct span artifact_span(const struct artifact_key *key)
{
    return span_of(key->bytes, sizeof key->bytes);
}
static inline struct span hash_span(const struct sha256 *hash)
{
    return span_of(hash->bytes, SHA256_BYTES);
}
