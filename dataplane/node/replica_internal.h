/* replica_internal.h - shared by replica*.c alone: the reply being judged, and who refuses it. */
#pragma once
#include "dataplane/node/replica.h"

/* A reply in the making of a commit. All in staged_arena. */
struct staged {
    const struct object *head, *evidence, *directory; /* NULL: none, or left out */
    struct object artifacts[ARTIFACTS_KEPT];
    uint32_t artifact_count;
    struct head *head_decoded;
    struct evidence *evidence_decoded;
    struct directory_delta *delta;
    uint64_t allowed_epoch; /* for tablestore_apply */
    bool refused;           /* something of it was: ask again later, not at once */
};

void replica_nack(struct replica *replica, const struct object *object, uint64_t epoch, const char *reason);
bool replica_nacked(const struct replica *replica, enum object_kind kind, const struct sha256 *hash);
void replica_nacks_forget(struct replica *replica, enum object_kind kind); /* a good one of this kind was applied */
/* Sorts a reply's objects into *staged, leaves out what is old, refuses what is bad. ERR_NOMEM. */
MUST_CHECK enum err replica_stage(struct replica *replica, const struct fetch_reply *reply, struct staged *staged);
/* An artifact's bytes, of those staged or, within a read transaction, of those stored. Errors of tablestore_object. */
MUST_CHECK enum err replica_artifact(struct replica *replica, const struct staged *staged, const struct sha256 *hash,
                                     struct span *ret);
/* Frames for the self-test: the new head, its artifacts (new and stored), evidence and teams. */
MUST_CHECK enum err replica_frames(struct replica *replica, const struct staged *staged, struct buf *out);
/* Labels of everything that will be in use with `staged`: before the commit, as workers look at the store with their next
 * request, and what finds no label then has none for good. */
MUST_CHECK enum err replica_label_staged(struct replica *replica, const struct staged *staged);
/* After a commit and at start: version, labels, credentials, expiry as stored; tells the board. */
MUST_CHECK enum err replica_look(struct replica *replica);
