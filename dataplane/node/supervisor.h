/* supervisor.h - the workers of a node: started, adopted, watched, replaced, drained.
 *
 * A slot is a place to serve from: a number and its listening sockets. One process at a time serves there; when it ends
 * the slot is filled again at once; one whose processes end again and again (more than SLOT_CRASHES_QUICK times in
 * SLOT_CRASHES_WITHIN_MS) is filled later and later. Meanwhile its sockets are lent to a sibling, which accepts what
 * waits in both queues, until the slot's worker is up again. A process that drains serves in no slot any more: it has its
 * region of the board until it ends, and several generations of such may run at once.
 *
 * To roll is to put a new process in the place of each: all the new ones are started, slot by slot, and serve beside the
 * old ones; when the last is up, all the old ones drain. Until then nothing is changed: if one of the new does not
 * come up, they all drain and the old ones go on.
 *
 * A master that was killed leaves workers that serve on. The next one listens on run/node.sock first, for
 * SUPERVISOR_ADOPT_MS at most, and takes over those that come with their sockets; then it fills what is empty. A master
 * that leaves on purpose hands all of it over (supervisor_leave). */
#pragma once
#include "dataplane/node/config.h"
#include "dataplane/node/heritage.h"
#include "dataplane/node/hub.h"
#include "dataplane/node/listening.h"
#include "dataplane/node/process.h"
#include "proto/board.h"
#include "proto/limits.h"

#define SUPERVISOR_ADOPT_MS    500u
#define SLOT_CRASHES_QUICK     5u
#define SLOT_CRASHES_WITHIN_MS 10000u
#define SLOT_BACKOFF_MS_MAX    5000u
#define SUPERVISOR_GRACE_MS    3000u  /* beyond the drain's deadline, before a worker is killed */
#define SUPERVISOR_START_MS    30000u /* a new worker that is not up by then is not to be waited for */
#define SUPERVISOR_WHY_BYTES   512u

enum slot_state { SLOT_EMPTY, SLOT_STARTING, SLOT_UP, SLOT_DRAINING, SLOT_BACKING_OFF, SLOT_STATES };
const char *slot_state_name(enum slot_state state);

struct slot {
    struct supervisor *supervisor;
    unsigned number;
    struct process *process; /* serves here; NULL: none does */
    struct process *next;    /* rolls in: will serve here; NULL */
    bool backing_off;
    struct slot *lent_to;                    /* whose worker accepts here, too; NULL: nobody's */
    uv_timer_t timer;                        /* backing off */
    uint64_t crashes_ms[SLOT_CRASHES_QUICK]; /* when its last processes ended, a ring */
    unsigned crash_at;
    unsigned backoffs; /* in a row */
    uint64_t starts;
};
enum slot_state slot_state(const struct slot *slot);

struct supervisor_events {
    /* A process has ended, its region stands as it left it; now is the time to fold it. It is freed afterwards. */
    void (*ended)(void *user, unsigned region, bool crashed);
    void (*serving)(void *user); /* some worker serves something else, or is up now */
    void (*bad_table)(void *user, const struct table_version *version, const char *reason);
    /* Does the process of this region serve the table that stands in the store, or is there none? */
    bool (*current)(void *user, const struct board_region *region);
    void (*listening)(void *user); /* all sockets stand */
    void (*failed)(void *user);    /* they cannot be had: it was logged */
    void (*emptied)(void *user);   /* after a drain: no process is left */
    /* Of a roll: so many of the slots have a new worker; or it waits, and why (NULL: no longer). */
    void (*rolling)(void *user, unsigned ready, unsigned of, const char *waits);
    void (*rolled)(void *user, const char *failure); /* NULL: all the old ones drain now */
    /* Somebody who is no worker: the peer's first line, without its end. False: cut it off. */
    bool (*asked)(void *user, struct hub_peer *peer, struct span line);
    void (*asker_gone)(void *user, struct hub_peer *peer);
    void *user;
};
struct supervisor_options {
    uv_loop_t *loop;
    const struct node_config *config;
    struct board *board;
    const char *config_file;        /* the copy in force, for workers; borrowed */
    const char *const *worker_args; /* more arguments, NULL-terminated; borrowed */
    int hub_fd;                     /* listening; owned from here on */
    const struct passed *passed;    /* sockets that systemd opened; borrowed */
    bool successor;                 /* another master may have left workers */
    struct heritage *heritage;      /* what one left on purpose; its sockets are taken. NULL */
    struct supervisor_events events;
};
struct roll {
    bool active, waiting;
    const struct node_config *config;
    const char *config_file;
    struct listening listening;
    unsigned at;          /* slot whose worker is awaited */
    uint64_t deadline_ms; /* for that one */
    uv_timer_t timer;
};
struct supervisor {
    struct supervisor_options options;
    struct hub hub;
    struct listening listening;
    struct slot slots[NODE_WORKERS_MAX];
    unsigned slot_count;
    struct process *processes; /* all: in slots, rolling in, draining */
    struct roll roll;
    uv_timer_t adoption, overdue;
    uint64_t begun_ms, drain_ms;
    unsigned generation; /* of configuration and program: counts rolls */
    bool settled;        /* adoption is over */
    bool draining, emptied, closed;
    uint64_t restarts; /* processes that ended unasked */
};

MUST_CHECK enum err supervisor_open(struct supervisor *supervisor, const struct supervisor_options *options);
void supervisor_wake(struct supervisor *supervisor);
/* Begins to roll: workers by this configuration (borrowed until `rolled`, and from then on when it went well) and file.
 * On error nothing has begun and *why says what is wrong: errors of listening_open, ERR_CONFLICT (one rolls already, or
 * all drain). */
MUST_CHECK enum err supervisor_roll(struct supervisor *supervisor, const struct node_config *config,
                                    const char *config_file, char why[SUPERVISOR_WHY_BYTES]);
/* Stops accepting, lets what runs finish for drain_ms; then `emptied`. A second call makes haste. */
void supervisor_drain(struct supervisor *supervisor, uint64_t drain_ms);
/* Ends the slot's worker for cause, such as a loop that does not turn; the slot is filled again. number: SIGKILL, or a
 * signal that counts as a crash (of its table). */
void supervisor_replace(struct supervisor *supervisor, unsigned slot, const char *why, int number);
/* Workers that serve in their slots. */
unsigned supervisor_up(const struct supervisor *supervisor);
/* Region of the worker that serves in this slot; NULL: none does. For the minimum of what is served. */
struct board_region *supervisor_region(const struct supervisor *supervisor, unsigned slot);
/* Whom the watchdog is to look at in this slot (0: nobody), since when it has not turned, monotonic, and what patience
 * it has: the limit, or, for one that starts, which reads the whole table before its first turn, SUPERVISOR_START_MS at
 * least. limit_ms 0 stays 0. */
uint64_t supervisor_watched(const struct supervisor *supervisor, unsigned slot, uint64_t limit_ms,
                            uint64_t *ret_turned_ms, uint64_t *ret_limit_ms);
/* Processes that drain beside those in the slots; *ret_until_ms: when the last of them is out of patience, monotonic. */
unsigned supervisor_draining(const struct supervisor *supervisor, uint64_t *ret_until_ms);
/* Closes handles and sockets; processes that still run go on. */
void supervisor_close(struct supervisor *supervisor);
/* The same, but what the next master needs is put into *heritage. ERR_IO: no descriptors; nothing was closed. Not while
 * it rolls. */
MUST_CHECK enum err supervisor_leave(struct supervisor *supervisor, struct heritage *heritage);
