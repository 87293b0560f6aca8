/* versions.h - what the control plane must never forget: policy versions, artifacts, heads, the directory and its
 * journal, answers to requests, the audit log, and blobs of state. One store, one writer; LMDB behind it (a cluster's
 * etcd later behind the same calls).
 *
 * Reads and writes happen in a transaction: begin, calls, commit or abort. A mutation and its answer are put in the
 * same transaction, so that a request id is executed once: whatever the client or the link repeats, versions_answer_get
 * finds the first answer. Not thread-safe; one transaction at a time. Results are copied into the caller's arena. */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "common/err.h"
#include "proto/tables.h"

struct versions;

#define VERSIONS_JOURNAL_MAX 20000u /* directory deltas kept; a node further behind resyncs in full */
#define VERSIONS_ANSWERS_MAX 20000u /* answered request ids kept: no client repeats one after that many others */
#define VERSIONS_ANSWERS_BYTES_MAX                                                                                     \
    ((uint64_t)64 << 20)          /* and all of them together: clients that ask for much must not fill the store */
#define VERSIONS_HEADS_MAX 10000u /* heads kept, for history; the live one always */

enum version_state { VERSION_STORED, VERSION_LIVE, VERSION_RETIRED, VERSION_ROLLED_BACK };
struct version_record {
    uint32_t version; /* 1, 2, 3... never reused */
    enum version_state state;
    struct span policy_hash; /* hex */
    struct sha256 artifact;
    struct span author, message;
    int64_t created_at_ms;
    int64_t full_at_ms;       /* when it last came to hold 100%; 0: never */
    uint64_t full_generation; /* of the head by which it did */
    uint64_t book_version;
    struct span bundle; /* the source as pushed; empty when asked without it */
};

MUST_CHECK enum err versions_open(const char *dir,
                                  struct versions **ret); /* errors of snapshot_open; a new store gets epoch 1 */
void versions_close(struct versions *versions);
struct snapshot;
struct snapshot *versions_snapshot(struct versions *versions);

MUST_CHECK enum err versions_begin(struct versions *versions, bool write);
MUST_CHECK enum err versions_commit(struct versions *versions); /* of a write; durable when OK */
void versions_abort(struct versions *versions);                 /* ends a read or drops a write; harmless without one */

/* -- numbers -- */
struct versions_numbers {
    uint64_t epoch, generation, directory_seq, audit_seq, evidence_reserved;
    uint64_t adopt_all_epoch; /* every node may take tables of this epoch; 0: of none but its own */
    uint32_t version_last;
};
MUST_CHECK enum err versions_numbers(struct versions *versions, struct versions_numbers *ret);
/* Evidence sequences never repeat over restarts: reserves `count` more and returns the first. */
MUST_CHECK enum err versions_reserve_evidence(struct versions *versions, uint64_t count, uint64_t *ret_first);
MUST_CHECK enum err versions_raise_epoch(struct versions *versions); /* by restore */
/* `nodes adopt --all`: holds for the present epoch and ends with it. */
MUST_CHECK enum err versions_adopt_all(struct versions *versions);

/* -- versions and artifacts -- */
MUST_CHECK enum err versions_add(struct versions *versions,
                                 struct version_record *record); /* gives it the next number */
MUST_CHECK enum err versions_get(struct versions *versions, struct arena *arena, uint32_t version, bool with_bundle,
                                 struct version_record **ret);
MUST_CHECK enum err versions_update(struct versions *versions,
                                    const struct version_record *record); /* all but the bundle */
MUST_CHECK enum err versions_find_hash(struct versions *versions, struct arena *arena, struct span policy_hash,
                                       struct version_record **ret); /* newest with it; ERR_NOT_FOUND */
MUST_CHECK enum err versions_list(struct versions *versions, struct arena *arena, struct version_record **ret,
                                  uint32_t *ret_count); /* newest first, no bundles */
MUST_CHECK enum err versions_artifact_put(struct versions *versions, const struct sha256 *hash, struct span bytes);
MUST_CHECK enum err versions_artifact_get(struct versions *versions, struct arena *arena, const struct sha256 *hash,
                                          struct span *ret); /* hash checked: ERR_CORRUPT */

/* -- heads -- */
/* Gives it the next generation and the epoch, stores it as the live one. */
MUST_CHECK enum err versions_head_put(struct versions *versions, struct head *head);
MUST_CHECK enum err versions_head_get(struct versions *versions, struct arena *arena,
                                      uint64_t generation /* 0: the live one */, struct head **ret); /* ERR_NOT_FOUND */
MUST_CHECK enum err versions_head_bytes(struct versions *versions, struct arena *arena,
                                        struct span *ret); /* of the live one, encoded */

/* -- directory -- */
/* Each call is one directory change: raises directory_seq by one and journals it. */
MUST_CHECK enum err versions_teams_put(struct versions *versions, struct teams *teams, struct span bundle);
/* Empty teams when never put; ret_bundle may be NULL. */
MUST_CHECK enum err versions_teams_get(struct versions *versions, struct arena *arena, struct teams **ret,
                                       struct span *ret_bundle);
/* By hash. ERR_EXISTS: the hash or the id is another key's. */
MUST_CHECK enum err versions_key_put(struct versions *versions, const struct key_record *key);
MUST_CHECK enum err versions_key_by_id(struct versions *versions, struct arena *arena, struct span id,
                                       struct key_record **ret);
typedef bool versions_key_visit(void *user, const struct key_record *key);
MUST_CHECK enum err versions_keys_each(struct versions *versions, versions_key_visit *visit,
                                       void *user); /* in order of hash */
/* What a node at (epoch, seq) lacks. cursor and resync_seq: of a paged resync in progress, else empty and 0.
 * ERR_NOT_FOUND: it lacks nothing. */
MUST_CHECK enum err versions_directory_since(struct versions *versions, struct arena *arena, uint64_t node_epoch,
                                             uint64_t node_seq, struct span cursor, uint64_t resync_seq,
                                             struct directory_delta **ret);

/* -- answers, audit, blobs -- */
MUST_CHECK enum err versions_answer_get(struct versions *versions, struct arena *arena, struct span request_id,
                                        struct span *ret); /* ERR_NOT_FOUND */
/* The oldest are forgotten beyond VERSIONS_ANSWERS_MAX or VERSIONS_ANSWERS_BYTES_MAX; the newest never. An id is put
 * once. */
MUST_CHECK enum err versions_answer_put(struct versions *versions, struct span request_id, struct span answer);
/* One line: a decision with its rollout's state and all that led to it. No state that is kept may make a line too long,
 * since a decision without its line is not taken. */
#define AUDIT_LINE_BYTES_MAX (4u << 20)
/* Appends one JSON object (a line) to the log; only ever grows. */
MUST_CHECK enum err versions_audit_put(struct versions *versions, struct span json);
typedef bool versions_audit_visit(void *user, uint64_t seq, struct span json);
MUST_CHECK enum err versions_audit_each(struct versions *versions, uint64_t from_seq, versions_audit_visit *visit,
                                        void *user);
MUST_CHECK enum err versions_blob_get(struct versions *versions, struct arena *arena, struct span name,
                                      struct span *ret); /* ERR_NOT_FOUND */
MUST_CHECK enum err versions_blob_put(struct versions *versions, struct span name, struct span bytes);
