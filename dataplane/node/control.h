/* control.h - the words between master and workers on run/node.sock (a Unix stream socket, mode 0600). Pure framing; the
 * two sides do their own I/O.
 *
 * A worker is started as `fairlead-dataplane --worker --slot N --region R --home DIR --config-copy FILE` with its slot's
 * listening sockets, one for each of the configuration's listeners and in their order, as descriptors from
 * CONTROL_LISTENER_FD on. FILE is the master's copy of the configuration in force, so that a file that is being edited
 * reaches nobody by a crash. A slot is a place to serve from; a region is one process's part of the board: while a slot's
 * old worker drains, its new one has another.
 *
 * It connects to run/node.sock, and again (every 50 ms, for ever) whenever the connection is lost: it goes on serving
 * meanwhile. Its first message is hello, carrying duplicates of its listeners in SCM_RIGHTS, so that a restarted master
 * adopts worker and sockets; by then it accepts and serves the table that the store holds. Messages are lines of at most
 * CONTROL_LINE_BYTES, ended by '\n':
 *   worker -> master:  hello pid=P slot=S region=R layout=L boot=B (+ descriptors; none when it drains)
 *                      serving epoch=E generation=G evidence=V directory=D
 *                      bad-table epoch=E generation=G reason=...  (could not decode; keeps what it has)
 *                      leaving                                    (was told to by a signal; goes on until `drain` comes,
 *                                                                  so that its slot is filled before)
 *                      drained                                    (last connection closed; about to exit 0)
 *   master -> worker:  wake                                       (something was committed)
 *                      drain ms=N                                 (stop accepting, finish, then exit)
 *                      adopt-listener slot=N                      (+ descriptors: accept there, too; its worker is down)
 *                      drop-listener slot=N                       (no more: its worker is back)
 *
 * Adopted listeners outlive the connection, and the master: they are dropped when told, or with the worker. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"
#include "proto/limits.h"
#include "proto/tables.h"

#define CONTROL_LISTENER_FD 3
#define CONTROL_LINE_BYTES  512u

enum control_kind {
    CONTROL_HELLO,
    CONTROL_SERVING,
    CONTROL_BAD_TABLE,
    CONTROL_LEAVING,
    CONTROL_DRAINED,
    CONTROL_WAKE,
    CONTROL_DRAIN,
    CONTROL_ADOPT_LISTENER,
    CONTROL_DROP_LISTENER
};
struct control_message {
    enum control_kind kind;
    uint64_t pid, slot, region, layout;
    struct table_version version; /* serving, bad-table */
    uint64_t ms;                  /* drain */
    char reason[256];             /* bad-table; one line */
    char boot[64];
};
MUST_CHECK enum err control_format(const struct control_message *message, struct buf *out);
/* Takes one line off the front of `in`: ERR_AGAIN when none is complete, ERR_SYNTAX for a line that is none of ours, ERR_TOO_LARGE. */
MUST_CHECK enum err control_parse(struct buf *in, struct control_message *ret);

/* Descriptors in passing. */
struct control_fds {
    unsigned count;
    int fds[NODE_LISTENERS_MAX];
};
void control_fds_close(struct control_fds *fds); /* all of them; empty again */
/* sendmsg/recvmsg with descriptors (which stay the sender's), if any. Blocking-free: ERR_AGAIN. */
MUST_CHECK enum err control_send_fds(int socket, struct span bytes, const struct control_fds *fds);
/* Adds what comes to *fds; beyond NODE_LISTENERS_MAX it is closed: a peer must not fill our table of them. ERR_CLOSED on
 * EOF. */
MUST_CHECK enum err control_recv_fds(int socket, struct buf *into, struct control_fds *fds);
