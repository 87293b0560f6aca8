/* control.h - the words between master and workers on run/node.sock (a Unix stream socket, mode 0600). Pure framing; the
 * two sides do their own I/O.
 *
 * A worker is started as `fairlead-dataplane --worker --slot N --home DIR [--config FILE]` with its slot's listening
 * socket as descriptor CONTROL_LISTENER_FD. It connects to run/node.sock, and again (every 50 ms, for ever) whenever the
 * connection is lost: it goes on serving meanwhile. Its first message is hello, carrying a duplicate of the listener in
 * SCM_RIGHTS, so that a restarted master adopts worker and socket. Messages are lines of at most CONTROL_LINE_BYTES,
 * ended by '\n':
 *   worker -> master:  hello pid=P slot=S layout=L boot=B        (+ descriptor)
 *                      serving epoch=E generation=G evidence=V directory=D
 *                      bad-table epoch=E generation=G reason=...  (could not decode; keeps what it has)
 *                      drained                                    (last connection closed; about to exit 0)
 *   master -> worker:  wake                                       (something was committed)
 *                      drain ms=N                                 (stop accepting, finish, then exit)
 *                      reload                                     (configuration and credentials changed)
 *                      adopt-listener slot=N                      (+ descriptor: accept there, too; its worker is down)
 *                      drop-listener slot=N                       (no more: its worker is back)
 *
 * Adopted listeners outlive the connection, and the master: they are dropped when told, or with the worker. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"
#include "proto/tables.h"

#define CONTROL_LISTENER_FD 3
#define CONTROL_LINE_BYTES  512u

enum control_kind {
    CONTROL_HELLO,
    CONTROL_SERVING,
    CONTROL_BAD_TABLE,
    CONTROL_DRAINED,
    CONTROL_WAKE,
    CONTROL_DRAIN,
    CONTROL_RELOAD,
    CONTROL_ADOPT_LISTENER,
    CONTROL_DROP_LISTENER
};
struct control_message {
    enum control_kind kind;
    uint64_t pid, slot, layout;
    struct table_version version; /* serving, bad-table */
    uint64_t ms;                  /* drain */
    char reason[256];             /* bad-table; one line */
    char boot[64];
};
MUST_CHECK enum err control_format(const struct control_message *message, struct buf *out);
/* Takes one line off the front of `in`: ERR_AGAIN when none is complete, ERR_SYNTAX for a line that is none of ours, ERR_TOO_LARGE. */
MUST_CHECK enum err control_parse(struct buf *in, struct control_message *ret);
/* sendmsg/recvmsg with one descriptor (or -1). Blocking-free: ERR_AGAIN. ret_fd is -1 when none came. ERR_CLOSED on EOF. */
MUST_CHECK enum err control_send_fd(int socket, struct span bytes, int fd);
MUST_CHECK enum err control_recv_fd(int socket, struct buf *into, int *ret_fd);
