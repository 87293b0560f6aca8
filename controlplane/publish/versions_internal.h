/* versions_internal.h - what versions.c and versions_directory.c share. */
#pragma once
#include "controlplane/publish/versions.h"
#include "proto/snapshot.h"

enum tree {
    TREE_META,      /* name -> number, big-endian */
    TREE_VERSIONS,  /* version -> JSON record */
    TREE_BUNDLES,   /* version -> source as pushed */
    TREE_HASHES,    /* policy hash + version -> nothing: newest version of a content */
    TREE_ARTIFACTS, /* sha256 -> encoded artifact */
    TREE_HEADS,     /* generation -> encoded head */
    TREE_TEAMS,     /* "teams" -> encoded teams, "bundle" -> source */
    TREE_KEYS,      /* sha256 -> encoded key record */
    TREE_KEY_IDS,   /* id -> sha256 */
    TREE_JOURNAL,   /* directory seq -> sha256 of the changed key, or "teams" */
    TREE_ANSWERS,   /* request id -> arrival number + answer */
    TREE_ARRIVALS,  /* arrival number -> request id, for forgetting the oldest */
    TREE_AUDIT,     /* audit seq -> JSON */
    TREE_BLOBS,     /* name -> bytes */
    TREE_COUNT
};

struct versions {
    struct snapshot *snapshot;
    struct snapshot_txn *txn; /* NULL between transactions */
    bool writing;
};

MUST_CHECK enum err versions_number_get(struct versions *v, const char *name, uint64_t *ret); /* 0 when never put */
MUST_CHECK enum err versions_number_put(struct versions *v, const char *name, uint64_t number);
/* Next value of a counter, stored. */
MUST_CHECK enum err versions_number_next(struct versions *v, const char *name, uint64_t *ret);
/* snapshot_get with a copy into the arena. */
MUST_CHECK enum err versions_fetch(struct versions *v, struct arena *arena, enum tree tree, struct span key,
                                   struct span *ret);
