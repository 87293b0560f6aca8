/* supervisor.h - the workers of a node: started, adopted, watched, replaced, drained.
 *
 * A slot is a place for one worker process: a listening socket, a region of the board, a number. When its process ends
 * the slot is filled again at once; one that ends again and again (more than SLOT_CRASHES_QUICK times in
 * SLOT_CRASHES_WITHIN_MS) is started later and later. Meanwhile its socket is lent to a sibling, which accepts what waits
 * in both queues, until the slot's worker is up again.
 *
 * A master that was killed leaves workers that serve on. The next one listens on run/node.sock first, for
 * SUPERVISOR_ADOPT_MS at most, and takes over those that come with their sockets; then it fills what is empty. */
#pragma once
#include "dataplane/node/config.h"
#include "dataplane/node/hub.h"
#include "dataplane/node/sockets.h"
#include "proto/board.h"
#include "proto/limits.h"

#define SUPERVISOR_ADOPT_MS    500u
#define SLOT_CRASHES_QUICK     5u
#define SLOT_CRASHES_WITHIN_MS 10000u
#define SLOT_BACKOFF_MS_MAX    5000u
#define SUPERVISOR_GRACE_MS    3000u /* beyond the drain's deadline, before a worker is killed */

enum slot_state { SLOT_EMPTY, SLOT_STARTING, SLOT_UP, SLOT_DRAINING, SLOT_BACKING_OFF, SLOT_STATES };
const char *slot_state_name(enum slot_state state);

struct slot {
    struct supervisor *supervisor;
    unsigned number;
    enum slot_state state;
    int listener_fd;      /* -1: not yet */
    struct slot *lent_to; /* whose worker accepts here, too; NULL: nobody's */
    uint64_t pid;         /* of its process, 0: none */
    bool adopted;
    struct slot_process *process;            /* watches it */
    struct hub_peer *peer;                   /* NULL: not connected now */
    uv_timer_t timer;                        /* backing off */
    uint64_t crashes_ms[SLOT_CRASHES_QUICK]; /* when its last processes ended, a ring */
    unsigned crash_at;
    unsigned backoffs; /* in a row */
    uint64_t starts;
};

struct supervisor_events {
    /* A process has ended, its region stands as it left it; now is the time to fold and clear it. */
    void (*ended)(void *user, unsigned slot, bool crashed);
    void (*serving)(void *user); /* some worker serves something else, or is up now */
    void (*bad_table)(void *user, const struct table_version *version, const char *reason);
    void (*listening)(void *user, const struct address *address); /* all sockets stand */
    void (*failed)(void *user);                                   /* they cannot be had: it was logged */
    void (*emptied)(void *user);                                  /* after a drain: no process is left */
    void *user;
};
struct supervisor_options {
    uv_loop_t *loop;
    const struct node_config *config;
    struct board *board;
    const char *program;            /* absolute path; borrowed */
    const char *const *worker_args; /* more arguments, NULL-terminated (log level); borrowed */
    int hub_fd;                     /* listening; owned from here on */
    bool successor;                 /* another master may have left workers */
    struct supervisor_events events;
};
struct supervisor {
    struct supervisor_options options;
    struct hub hub;
    struct address address;
    struct slot slots[NODE_WORKERS_MAX];
    unsigned slot_count;
    uv_timer_t adoption, deadline;
    uint64_t begun_ms;
    bool settled; /* adoption is over */
    bool draining, emptied, closed;
    uint64_t restarts; /* processes that ended unasked */
};

MUST_CHECK enum err supervisor_open(struct supervisor *supervisor, const struct supervisor_options *options);
void supervisor_wake(struct supervisor *supervisor);
void supervisor_reload(struct supervisor *supervisor);
/* Stops accepting, lets what runs finish for drain_ms; then `emptied`. A second call makes haste. */
void supervisor_drain(struct supervisor *supervisor, uint64_t drain_ms);
/* Workers that have said hello. */
unsigned supervisor_up(const struct supervisor *supervisor);
/* Is the slot's worker up? For the minimum of what is served. */
bool supervisor_slot_up(const struct supervisor *supervisor, unsigned slot);
/* Closes handles and sockets; processes that still run go on. */
void supervisor_close(struct supervisor *supervisor);
