/* simulations.h - simulations as jobs: each a throwaway `fairlead-dataplane --simulate` with its files in a private
 * directory under home/run, so that a long one holds up nobody and a crash of one costs nothing.
 *
 * On the daemon's loop, single-threaded. The children run at a lower priority than the control plane. What earlier
 * daemons left behind is removed at the start. Finished ones are kept for a while, so that their result can be fetched. */
#pragma once
#include "common/err.h"
#include "common/span.h"
#include <uv.h>

#define SIMULATIONS_RUNNING_MAX 2u /* at once: they read the same disk and want a core each, on a machine that serves */
#define SIMULATIONS_KEPT_MAX    8u /* with those that run: results may be megabytes */
#define SIMULATIONS_ID_BYTES    24u

struct simulations;

struct simulations_options {
    uv_loop_t *loop;
    const char *home;    /* borrowed */
    const char *program; /* borrowed; NULL: fairlead-dataplane beside this program, else by PATH */
};
/* ERR_NOMEM, ERR_IO (run/simulations cannot be made). */
MUST_CHECK enum err simulations_new(const struct simulations_options *options, struct simulations **ret);
/* Ends what runs; run the loop until the handles are closed. NULL is fine. */
void simulations_close(struct simulations *s);

struct simulation_order {
    struct span live, candidate, head, evidence, directory; /* proto/simulation.h's files */
    const char *records;                                    /* a directory of record files */
    int64_t since_ms;
    uint64_t limit;      /* 0: as many as one takes */
    uint32_t timeout_ms; /* then it is ended */
};
/* *ret_id borrows from the job. ERR_AGAIN: SIMULATIONS_RUNNING_MAX run. ERR_IO (spawn, disk), ERR_NOSPACE, ERR_NOMEM. */
MUST_CHECK enum err simulations_start(struct simulations *s, const struct simulation_order *order, const char **ret_id);

enum simulation_state { SIMULATION_RUNNING, SIMULATION_DONE, SIMULATION_FAILED, SIMULATION_CANCELLED };
const char *simulation_state_name(enum simulation_state state);
struct simulation_status {
    enum simulation_state state;
    uint64_t records, bytes, bytes_total; /* read so far */
    struct span result;                   /* SIMULATION_DONE: the tool's last line, JSON; borrows */
    const char *why;                      /* SIMULATION_FAILED; borrows */
};
MUST_CHECK enum err simulations_look(const struct simulations *s, struct span id,
                                     struct simulation_status *ret);           /* ERR_NOT_FOUND */
MUST_CHECK enum err simulations_cancel(struct simulations *s, struct span id); /* ERR_NOT_FOUND; a finished one stays */
