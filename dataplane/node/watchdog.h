/* watchdog.h - notices workers whose loop does not turn: they hold their clients for ever and look healthy from outside.
 *
 * A worker writes into its region of the board when its loop turned last; a timer makes it turn every 100 ms. One that
 * has not turned for limits.watchdog is looked at in /proc before it is judged, because on a starved machine the innocent
 * do not turn either: who wants to run is measured by the CPU time it got, not by the clock. A stuck worker is asked for
 * a backtrace (WATCHDOG_SIGNAL, see worker/backtrace.h), gets a moment to write it, and is to be replaced then. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "proto/limits.h"
#include <signal.h>
#include <sys/types.h>

#define WATCHDOG_SIGNAL   SIGUSR2
#define WATCHDOG_PRINT_MS 200u /* for the backtrace */

/* What is seen of a worker at one moment. */
struct watchdog_sight {
    uint64_t turned_ms; /* its loop's last turn, monotonic; 0: none yet */
    uint64_t cpu_ms;    /* that its main thread has used in all */
    char state;         /* as in /proc/PID/stat: R, S, D, T, ... */
};
enum watchdog_verdict {
    WATCHDOG_TURNS,   /* or is not to be judged: not begun, ended, under a debugger */
    WATCHDOG_WAITS,   /* overdue, but one look proves nothing */
    WATCHDOG_STARVED, /* wants to run and has not got the CPU time that it may use */
    WATCHDOG_SPINS,   /* had that time and did not turn */
    WATCHDOG_BLOCKED, /* waits inside of a turn */
    WATCHDOG_STOPPED, /* by a signal */
    WATCHDOG_VERDICTS
};
const char *watchdog_verdict_name(enum watchdog_verdict verdict);

/* Pure. turned: the first sight after its last turn, from which the CPU time that it used counts; last: the look before
 * this one. */
enum watchdog_verdict watchdog_judge(const struct watchdog_sight *turned, const struct watchdog_sight *last,
                                     const struct watchdog_sight *now, uint64_t now_ms, uint64_t limit_ms);
/* State and CPU time out of the text of /proc/PID/task/PID/stat. ERR_SYNTAX. */
MUST_CHECK enum err watchdog_parse_stat(struct span text, uint64_t ticks_per_second, struct watchdog_sight *ret);

struct watchdog_subject {
    uint64_t pid; /* 0: nobody */
    struct watchdog_sight turned, last;
    uint64_t asked_ms; /* for a backtrace; 0: not */
    enum watchdog_verdict verdict;
    bool told_starved; /* once for each time without a turn */
};
struct watchdog {
    struct watchdog_subject subjects[NODE_WORKERS_MAX]; /* by slot */
    uint64_t stuck;                                     /* in all */
    uint64_t starved;
};
/* Looks at a slot's worker (pid 0: it has none), which turned last at turned_ms. Logs what it finds, and asks a stuck one
 * for its backtrace. True: its time is over, replace it by `*ret_signal` (SIGABRT for one that spins, which may be its
 * table's fault and counts as a crash; SIGKILL for others); `*ret_verdict` says why. To be called every quarter of the
 * limit; limit_ms 0 never judges. */
bool watchdog_look(struct watchdog *watchdog, unsigned slot, uint64_t pid, uint64_t turned_ms, uint64_t now_ms,
                   uint64_t limit_ms, enum watchdog_verdict *ret_verdict, int *ret_signal);
