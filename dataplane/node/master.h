/* master.h - the master process of a node: one loop, and the rooms that hang on it (supervisor, replica, uplink,
 * records, exporter). Only writer of the node's store and of its board's labels. */
#pragma once
#include "dataplane/node/config.h"

struct master_options {
    struct node_config *config;     /* replaced by its copy at the start, and by each reload */
    const char *file;               /* of the configuration, as the command line names it; NULL */
    const char *program;            /* absolute path of this program, for self-tests and as what to upgrade to */
    const char *const *arguments;   /* of this program, NULL-terminated; [0] is its name */
    const char *const *worker_args; /* more arguments for workers, NULL-terminated */
    enum err (*read)(void *user, const char *copy, struct node_config *ret, char **ret_message); /* see changes.h */
    void *read_user;
    const char *heritage; /* descriptor, in digits, of what another master left to this one; NULL */
};
/* Runs until SIGTERM or SIGINT has drained the workers (again: at once). SIGHUP is a reload. Returns the exit status: 0
 * drained, 2 the home is another master's, 1 it could not start. An upgrade does not return: another program goes on. */
int master_run(const struct master_options *options);
