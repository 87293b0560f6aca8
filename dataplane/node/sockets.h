/* sockets.h - the listening sockets of a node, made and kept by the master, so that connections that wait in a queue
 * outlive the worker that would have taken them.
 *
 * A listener of the configuration is a place to connect to. Over TCP it has one socket for each worker slot, all on one
 * address (SO_REUSEPORT), so that the kernel spreads the connections; a Unix socket, or one that systemd passed, is one
 * queue that all slots share. Callers need not know which: they ask for the socket of a listener and a slot.
 * Descriptors are close-on-exec and non-blocking, and stay the property of this room. One thread. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "dataplane/node/address.h"
#include "dataplane/node/config.h"
#include "proto/limits.h"
#include <sys/types.h>

#define SOCKETS_BACKLOG    1024 /* connections that wait while a worker is replaced; the kernel's own cap applies, too */
#define SOCKETS_PASSED_MAX 64u  /* by systemd; more is a broken environment, and each is looked at */

struct sockets_place { /* one listener */
    char *address;     /* as it is configured */
    enum listener_kind kind;
    unsigned mode;             /* of a Unix socket's file */
    struct address bound;      /* TCP: with the port that the system chose, when there is a socket */
    dev_t device;              /* of a Unix socket's file: only our own is taken away */
    ino_t inode;               /* 0: none */
    int fds[NODE_WORKERS_MAX]; /* by slot, or -1; of a shared queue only the first */
};
struct sockets_passed {
    int fd; /* -1: a place has it */
    char *name;
};
struct sockets {
    struct sockets_place *places[NODE_LISTENERS_MAX]; /* in the configuration's order */
    unsigned count, slots;
    struct sockets_passed passed[SOCKETS_PASSED_MAX];
    unsigned passed_count;
};
struct sockets_fault {
    char address[IPC_PATH_BYTES_MAX + 16]; /* of the listener that cannot be had */
    const char *hint;                      /* static: what to do about it, or "" */
};

/* Places for the configuration's listeners and workers, without a socket yet. Takes what systemd passed
 * (sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES) and clears the environment, so that no child takes it for
 * its own. ERR_NOMEM. */
MUST_CHECK enum err sockets_init(struct sockets *sockets, const struct node_config *config);
/* A socket that comes from elsewhere: a worker of the master before us, or ourselves before an upgrade. OK: it is ours
 * from here on (of a shared queue the first is kept and others are closed, as they are the same). ERR_INVALID: it is
 * none of this listener's. ERR_EXISTS: the slot has one. On error it stays the caller's. */
MUST_CHECK enum err sockets_adopt(struct sockets *sockets, unsigned listener, unsigned slot, int fd);
/* Opens what is missing. exclusive: first makes sure that nobody else listens there; SO_REUSEPORT alone would share a
 * port with another node of this user without a word. False while workers of a master before us may still hold it.
 * ERR_EXISTS: in use. ERR_DENIED. ERR_NOT_FOUND: no such address or directory here, or systemd passed no such socket.
 * ERR_INVALID: what it passed is no listening stream. ERR_IO. On error what was opened stays until sockets_close. */
MUST_CHECK enum err sockets_open(struct sockets *sockets, bool exclusive, struct sockets_fault *ret_fault);
/* Makes it the sockets of another configuration: a listener that stays (the same address) keeps its own, missing ones
 * are opened, the rest is closed. Errors as above, and ERR_NOMEM: nothing has changed. */
MUST_CHECK enum err sockets_change(struct sockets *sockets, const struct node_config *config,
                                   struct sockets_fault *ret_fault);
/* The socket of a listener for a slot, borrowed; -1: there is none yet. */
int sockets_fd(const struct sockets *sockets, unsigned listener, unsigned slot);
/* All slots have the same queue: it need not be lent when a slot's worker is down. */
bool sockets_shared(const struct sockets *sockets, unsigned listener);
/* A line for each listener: where it really is, ADDR:PORT or unix:PATH. The first line is that of the first TCP
 * listener (else of the first); in further lines "systemd:NAME" follows for a passed one. */
MUST_CHECK enum err sockets_describe(const struct sockets *sockets, struct buf *out);
/* Closes them all. leave: for good, so that Unix sockets' files go, too. */
void sockets_close(struct sockets *sockets, bool leave);

/* A single TCP socket, bound and listening. With port 0 the system's choice is written back to *address. Errors as of
 * sockets_open. */
MUST_CHECK enum err socket_listen(struct address *address, bool exclusive, int *ret_fd);
MUST_CHECK enum err socket_address(int fd, struct address *ret); /* ERR_IO, ERR_INVALID: not a listening TCP socket */
/* A Unix stream socket, mode 0600 or another. A socket's file that stands at `path` is replaced; exclusive: only after
 * a connection to it was refused, which proves that nobody listens. ERR_EXISTS: somebody listens, or the file is no
 * socket. ERR_TOO_LARGE (path), ERR_DENIED, ERR_NOT_FOUND (directory), ERR_IO. */
MUST_CHECK enum err socket_listen_unix(const char *path, unsigned mode, bool exclusive, int *ret_fd);
