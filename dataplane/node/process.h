/* process.h - one worker process, as its master sees it: started, or taken over from a master before; watched until its
 * end by its pidfd, whoever its parent is.
 *
 * Until it is up its standard input is a file in memory, into which it writes what it fails of. A process that ends is
 * waited for when it is our child, so that none stays as a zombie; that of another (a killed
 * master's) leaves no status. */
#pragma once
#include "common/err.h"
#include "dataplane/node/control.h"
#include "dataplane/node/hub.h"
#include <uv.h>

#define PROCESS_NO_REGION UINT32_MAX /* on a board of another layout: its counters are lost to us */

enum process_state {
    PROCESS_STARTING, /* has not said hello */
    PROCESS_UP,       /* accepts */
    PROCESS_DRAINING, /* accepts no more, or was told so */
    PROCESS_STATES
};

struct process_end {
    bool known; /* else: not our child, and its status another's */
    int signal; /* 0: it ended by itself */
    int status; /* then */
};
struct process {
    void *owner;
    void (*ended)(struct process *process, const struct process_end *end); /* it is freed by itself afterwards */
    uint64_t pid;
    unsigned slot, region, generation;
    enum process_state state;
    bool adopted;          /* another master started it */
    uint64_t started_ms;   /* monotonic; 0: unknown */
    uint64_t kill_ms;      /* draining: when patience ends, monotonic; 0: no deadline */
    struct hub_peer *peer; /* NULL: not connected now */
    struct process *next;  /* the owner's */
    struct process_watch *watch;
};
struct process_start {
    uv_loop_t *loop;
    const char *const *args; /* of the program, NULL-terminated; args[0]: its name */
    const struct control_fds *listeners;
};

/* Both fill pid (start), watch and ended; else the process is as it was. ERR_NOMEM, ERR_IO (told). */
MUST_CHECK enum err process_start(struct process *process, const struct process_start *start);
MUST_CHECK enum err process_watch(struct process *process, uv_loop_t *loop);
/* The first error that it logged before it was up (log_copy_errors), cut to fit; "": it said nothing, or is not of our
 * starting. */
void process_said(const struct process *process, char *out, size_t out_bytes);
void process_move(struct process *process, enum process_state to); /* a legal edge */
void process_signal(const struct process *process, int number);    /* pid and pidfd agree: never a stranger's pid */
/* Watches no more, without an event; the process goes on. Frees it once its handles are closed. */
void process_forget(struct process *process);
/* Does this pid run, as a worker (of any home)? Of a pid from the board, which may be another program's by now. */
bool process_is_worker(uint64_t pid);
