/* worker.h - one worker process: a libuv loop and what it owns. No state worth keeping: kill -9 costs only the streams it carries. */
#pragma once
#include "dataplane/node/config.h"

struct worker_options {
    const struct node_config *config;
    unsigned slot;
    int listener_fd; /* bound and listening, SO_REUSEPORT */
};
/* Runs until drained, or SIGTERM (drain with the configured deadline; a second one stops at once). Returns the exit status. */
int worker_run(const struct worker_options *options);
