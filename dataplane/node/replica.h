/* replica.h - keeps the node's store the same as the control plane's tables: fetches, judges, applies, and reports.
 *
 * A long poll asks for what is newer; each object is checked (hash, schema, limits, invariants), a new head with its
 * artifacts is first tried in a throwaway process, then everything goes into the store in one commit and the workers
 * are woken. What is bad is refused (NACK) with the reason and remembered, and the last good table goes on. Without a
 * control plane nothing changes: the store is served for ever.
 *
 * A short report goes out besides whenever what is served, or refused, has changed, so that the control plane knows at
 * once. Master only, on its loop. */
#pragma once
#include "common/arena.h"
#include "dataplane/node/config.h"
#include "dataplane/node/trial.h"
#include "proto/board.h"
#include "proto/channel.h"
#include "proto/tablestore.h"

#define REPLICA_WAIT_MS      20000u
#define REPLICA_NACKS_MAX    16u  /* the present ones; the oldest gives way */
#define REPLICA_RETRY_MS     200u /* after a failed poll, doubled up to: */
#define REPLICA_RETRY_MS_MAX 5000u
#define REPLICA_REFUSED_WAIT_MS                                                                                        \
    2000u /* before asking again for what was refused: the answer comes at once and is the same */
#define REPLICA_CRASH_WITHIN_MS 10000u /* two worker crashes this near to each other and to a new tuple revert it */

struct replica_events {
    void (*committed)(void *user); /* wake the workers */
    void *user;
};
struct replica_options {
    uv_loop_t *loop;
    const struct node_config *config;
    struct board *board;
    struct tablestore *store;
    const char *program;
    struct replica_events events;
};
struct replica_nack {
    struct nack nack; /* its reason points into text */
    char text[256];
};
struct replica {
    struct replica_options options;
    struct channel_client *client;
    uv_async_t wake;
    uv_timer_t again, report;
    struct trial trial;
    struct arena staged_arena; /* the reply being judged */
    struct staged *staged;     /* NULL: none */
    struct table_version committed, serving, reported;
    uint64_t committed_txn;
    unsigned workers, reported_workers;
    bool polling, reporting, report_due, pinned, contact, closing;
    uint32_t failures;    /* in a row */
    uint64_t applied_ms;  /* when the present tuple was applied; 0: not by this process */
    uint64_t contact_ms;  /* of the last good answer */
    uint64_t crashed_ms;  /* when a worker crashed last */
    struct sha256 cursor; /* last key of a paged resync */
    bool has_cursor;
    uint64_t resync_seq, resync_epoch;
    struct replica_nack nacks[REPLICA_NACKS_MAX];
    unsigned nack_count;
    uint64_t nacks_by_kind[OBJECT_DIRECTORY + 1], applies, reverts;
    char incarnation[32];
    struct arena names_arena; /* credentials that the present artifacts name, and the arms' names */
    struct span_list credentials;
    int64_t evidence_expires_at_ms; /* 0: none */
    struct replica_arm {
        struct span name;
        uint32_t policy_version, share; /* of ASSIGNMENT_BUCKETS, for all routes */
    } arms[ARMS_MAX];
    uint32_t arm_count;
};

/* Puts labels of what is stored on the board and its version on the board; begins to poll. ERR_NOMEM, errors of
 * channel_client_open and tablestore. */
MUST_CHECK enum err replica_open(struct replica *replica, const struct replica_options *options);
/* The minimum of what workers serve, and how many there are. */
void replica_serving(struct replica *replica, const struct table_version *serving, unsigned workers);
void replica_worker_crashed(struct replica *replica);
void replica_bad_table(struct replica *replica, const struct table_version *version, const char *reason);
void replica_close(struct replica *replica); /* run the loop until the handles are closed, then: */
void replica_release(struct replica *replica);

/* `nodes pin --local`: notes it in the store of a home, whether its master runs or not; a running one sees it within
 * a second. Errors of tablestore. */
MUST_CHECK enum err replica_pin(const char *store_dir, bool pinned);
