/* worker.h - one worker process: a libuv loop and what it owns. No state worth keeping: kill -9 costs only the streams it carries. */
#pragma once
#include "dataplane/node/config.h"
#include "dataplane/node/control.h"

struct worker_options {
    const struct node_config *config;
    unsigned slot, region;
    struct control_fds listeners; /* bound and listening, one for each of the configuration's; taken over */
};
/* Runs until drained, or SIGTERM (drain with the configured deadline, once the master has another in its place; a second
 * one stops at once). Returns the exit status. */
int worker_run(const struct worker_options *options);
