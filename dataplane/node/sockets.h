/* sockets.h - listening sockets, one by one: bound and listening, close-on-exec, non-blocking. Who keeps them is another
 * room's affair. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "dataplane/node/address.h"

#define SOCKETS_BACKLOG 1024 /* connections that wait while a worker is replaced; the kernel's own cap applies, too */

/* Over TCP, sharing its address with others of this user (SO_REUSEPORT), so that each worker slot has one and the kernel
 * spreads the connections. With port 0 the system's choice is written back to *address, so that the next socket gets the
 * same. exclusive: first makes sure that nobody listens there; SO_REUSEPORT alone would share the port with another node
 * of this user without a word. ERR_EXISTS: in use. ERR_DENIED. ERR_NOT_FOUND: no such address here. ERR_IO. */
MUST_CHECK enum err socket_listen(struct address *address, bool exclusive, int *ret_fd);
MUST_CHECK enum err socket_address(int fd, struct address *ret); /* ERR_IO, ERR_INVALID: not a listening TCP socket */
/* A Unix stream socket, mode 0600 or another. A socket's file that stands at `path` is replaced; exclusive: only after
 * a connection to it was refused, which proves that nobody listens. ERR_EXISTS: somebody listens, or the file is no
 * socket. ERR_TOO_LARGE (path), ERR_DENIED, ERR_NOT_FOUND (directory), ERR_IO. */
MUST_CHECK enum err socket_listen_unix(const char *path, unsigned mode, bool exclusive, int *ret_fd);
/* Takes the file of a Unix socket away; only_stale: unless somebody listens there. What is no socket stays. */
void socket_unlink(const char *path, bool only_stale);
bool socket_is_listening(int fd); /* a stream over TCP or a Unix socket */
/* Is it the Unix socket that was bound to this path? */
bool socket_is_at(int fd, const char *path);
