/* sockets.h - the listening sockets of a node: one for each worker slot, all on one address (SO_REUSEPORT), made and
 * kept by the master, so that connections that wait in a queue outlive the worker that would have taken them. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "dataplane/node/address.h"

#define SOCKETS_BACKLOG 1024 /* connections that wait while a worker is replaced; the kernel's own cap applies, too */

/* Bound and listening, close-on-exec, non-blocking. With port 0 the system's choice is written back to *address, so
 * that the next socket gets the same. exclusive: first makes sure that nobody listens there; SO_REUSEPORT alone would
 * share the port with another node of this user without a word. ERR_EXISTS: in use. ERR_DENIED. ERR_NOT_FOUND: no such
 * address here. ERR_IO. */
MUST_CHECK enum err socket_listen(struct address *address, bool exclusive, int *ret_fd);
MUST_CHECK enum err socket_address(int fd, struct address *ret); /* ERR_IO, ERR_INVALID: not a listening TCP socket */
/* A Unix stream socket, mode 0600, replacing a file that nobody listens on. ERR_EXISTS, ERR_TOO_LARGE (path), ERR_IO.
 */
MUST_CHECK enum err socket_listen_unix(const char *path, int *ret_fd);
