/* conn_internal.h - what the files of HTTP/1's side of a client share.
 *
 *   conn.c         states, bytes in, time, the end
 *   conn_answer.c  the sink: answers in HTTP/1's framing */
#pragma once
#include "dataplane/worker/deadline.h"
#include "dataplane/worker/exchange.h"
#include "dataplane/worker/http1.h"
#include "dataplane/worker/reply.h"
#include "dataplane/worker/speaker.h"

enum conn_state {
    CONN_IDLE,      /* between requests */
    CONN_HEAD,      /* a head has begun */
    CONN_BODY,      /* an exchange reads its body */
    CONN_ANSWERING, /* an exchange has all it needs */
    CONN_SKIPPING,  /* the rest of a refused request's body is read and forgotten */
    CONN_FLUSHING,  /* closes when its output has gone */
    CONN_LINGERING, /* our side is shut; the client's last bytes are dropped */
    CONN_CLOSED,
    CONN_STATES
};

struct conn {
    struct speaker speaker;
    struct sink sink;
    struct core *core;
    enum conn_state state;
    struct deadline timer;
    struct http1 parser;
    struct exchange *exchange;
    struct buf waiting; /* read, but not its turn yet */
    bool broken, ended, full;
    bool used;     /* a head has come */
    bool in_turn;  /* turn() is on the stack: it goes on by itself */
    bool turn_due; /* the timer calls go_on */
    bool trimmed;
    bool close_after; /* the client's wish, or the exchange's; or an answer has said it, as we drain */
    bool http10;      /* the request under way */
    size_t accounted;
    size_t lingered, body_step; /* dropped after the answer; of the body since its time was last set */
    uint64_t stall_due, phase_due;
};

extern const struct sink_ops conn_sink_ops;
/* An error of a request that never became an exchange. False: it could not be written. */
MUST_CHECK bool conn_refuse(struct conn *conn, enum outcome outcome, const char *message);

/* conn.c, for the sink */
void conn_rearm(struct conn *conn);
void conn_broken(struct conn *conn);
void conn_exchange_ended(struct conn *conn, bool close, bool abort);
