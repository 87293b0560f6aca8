/* house.h - the programs of one machine, started, watched and stopped together: what `fairlead up` and `fairlead dev`
 * share. Control plane, node, prober, price feed. */
#pragma once
#include "admin-cli/cli.h"
#include <sys/types.h>

#define HOUSE_ARGS_MAX 16u

struct house_part {          /* one program */
    const char *name, *lock; /* program and its lock in the home, which tells its pid */
    char *args[HOUSE_ARGS_MAX];
    unsigned arg_count;
    pid_t pid; /* ours; 0: not running, or another supervisor's that is watched by its lock */
    uint64_t started_ms, start_at_ms;
    unsigned crashes;
    int output; /* where it logs; -1: to our stderr */
};
enum { HOUSE_CONTROL, HOUSE_NODE, HOUSE_PROBER, HOUSE_PRICEFEED, HOUSE_PARTS };

/* The home made, its name final (cli->home). An exit code. */
int house_make_home(struct cli *cli);
/* Its lock, held until the descriptor is closed; ERR_CONFLICT: *ret_pid supervises it already. */
MUST_CHECK enum err house_lock(const struct cli *cli, int *ret_fd, long *ret_pid);
/* SIGINT, SIGTERM and SIGHUP ask to stop. */
void house_take_signals(void);
bool house_stop_asked(void);
/* By the command line: listen, operations, workers, prices, admin-group. */
void house_describe(const struct cli *cli, struct house_part *parts, int output);
/* Starts what does not run, pushes the files that the options or the home name, waits until the node serves. */
int house_bring_up(struct cli *cli, struct house_part *parts);
/* Takes note of what ended, and starts it again when its pause is over. */
void house_watch(const struct cli *cli, struct house_part *parts);
/* The node first, so that no request is cut; the control plane last. parts: NULL when none is ours. */
bool house_stop(const struct cli *cli, const struct house_part *parts);
/* The first line of a file in the home; malloc'd, NULL when there is none. */
char *house_line(const struct cli *cli, const char *relative);
