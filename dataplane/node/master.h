/* master.h - the master process of a node: one loop, and the rooms that hang on it (supervisor, replica, uplink,
 * records, exporter). Only writer of the node's store and of its board's labels. */
#pragma once
#include "dataplane/node/config.h"

struct master_options {
    struct node_config *config;     /* its credentials are replaced at SIGHUP */
    const char *program;            /* absolute path of this program, for workers and self-tests */
    const char *const *worker_args; /* more arguments for workers, NULL-terminated */
};
/* Runs until SIGTERM or SIGINT has drained the workers (again: at once). SIGHUP reads configuration and credentials
 * anew. Returns the exit status: 0 drained, 2 the home is another master's, 1 it could not start. */
int master_run(const struct master_options *options);
