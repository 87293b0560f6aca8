/* passed.h - the sockets that systemd opened for us and passed at our start (socket activation, sd_listen_fds(3)). They
 * stay open here as long as the program runs, also those that no listener names now: the next configuration may. */
#pragma once
#include "common/base.h"
#include "common/err.h"

#define PASSED_MAX 64u /* more is a broken environment; each is looked at */

struct passed {
    int fds[PASSED_MAX];
    char *names[PASSED_MAX];
    unsigned count;
};

/* Takes them from the environment (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES) and clears it, so that no child takes them for
 * its own; before the first child. What was passed to another process is not ours. Once in a process's life: a second one
 * gets none. ERR_NOMEM: nothing is kept. */
MUST_CHECK enum err passed_take(struct passed *passed);
/* The socket of this FileDescriptorName, or, for "", the only one. Borrowed; non-blocking, close-on-exec. ERR_NOT_FOUND:
 * none has it. ERR_INVALID: several have it, or it is no listening stream over TCP or a Unix socket. *ret_hint (static)
 * tells people what to do. */
MUST_CHECK enum err passed_find(const struct passed *passed, const char *name, int *ret_fd, const char **ret_hint);
void passed_release(struct passed *passed);
