/* conn.h - one client's connection: its bytes, its timeouts, its turn.
 *
 * Requests are taken one at a time and in order; what is pipelined behind one waits in a bounded buffer (and, when that
 * is full, in the socket). Reading goes on while an answer is made, so that a client that leaves is noticed at once. A
 * client that closes its sending side with a request outstanding is taken to have left: half-closed clients are
 * vanishingly rare among HTTP clients, and paying for answers that nobody reads is not.
 *
 * A connection frees itself when its handles are closed. */
#pragma once
#include "dataplane/worker/core.h"

struct conn;
struct conn_owner { /* the listener's */
    void (*closed)(struct conn_owner *owner, struct conn *conn);
};
/* Takes over an accepted socket by uv_accept from `server`. ERR_NOMEM, ERR_IO: the socket was not taken or is closed
 * again. */
MUST_CHECK enum err conn_accept(struct core *core, uv_stream_t *server, struct conn_owner *owner, struct conn **ret);
/* Links of the owner's list; the owner sets and reads them. */
struct conn *conn_next(const struct conn *conn);
struct conn *conn_previous(const struct conn *conn);
void conn_link(struct conn *conn, struct conn *previous, struct conn *next);
/* The worker drains: an idle connection closes now, another after the answer it has under way. */
void conn_drain(struct conn *conn);
/* The drain's deadline: ends what is under way with an honest error, then closes. */
void conn_drain_passed(struct conn *conn);
/* At once. */
void conn_abort(struct conn *conn);
