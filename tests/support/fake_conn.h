/* fake_conn.h - the simulated provider's connections: libuv and llhttp below, whole requests above.
 *
 * One request at a time: what a client sends meanwhile waits. Whoever answers appends bytes to conn->out, calls
 * fake_conn_flush, and in the end fake_conn_finish. Out of memory ends the process: this is a test tool. */
#pragma once
#include "tests/support/fake_answer.h"
#include "tests/support/fake_play.h"
#include "common/arena.h"
#include "common/buf.h"
#include <llhttp.h>
#include <uv.h>

struct fake_server;
struct fake_tls;
struct fake_tls_server;

#define FAKE_HEADERS_MAX 128
#define FAKE_HEAD_MAX    (256u * 1024)        /* stops a peer that never ends its head */
#define FAKE_BODY_MAX    (256u * 1024 * 1024) /* more than any test sends */
#define FAKE_BACKLOG_MAX (4u * 1024 * 1024)   /* pipelined bytes that wait behind an answer */
#define FAKE_OUT_HIGH    (256u * 1024)        /* streams pause above this, until the peer has read */

struct fake_header {
    uint32_t name_at, name_len, value_at, value_len; /* in request.head */
};

struct fake_request {
    uint8_t method;  /* llhttp_method_t */
    struct buf head; /* the URL, then names and values back to back */
    size_t url_len;
    struct fake_header headers[FAKE_HEADERS_MAX];
    unsigned header_count;
    struct buf body;
    bool keep_alive;
    bool http10;
};

struct fake_conn {
    struct fake_server *server;
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_write_t write;
    unsigned handles; /* not yet closed */
    llhttp_t parser;
    struct fake_request request;
    struct buf backlog;  /* plain bytes not yet parsed */
    struct buf out;      /* plain bytes not yet written (or encrypted) */
    struct buf wire;     /* TLS only: encrypted bytes not yet written */
    struct buf inflight; /* owned by uv_write */
    size_t trickle;      /* bytes at the front of out that leave one at a time; plain connections only */
    uint64_t trickle_ms;
    bool in_value;  /* llhttp was last in a header's value */
    bool busy;      /* a whole request is being answered */
    bool finishing; /* its last byte is in out */
    bool writing;
    bool pumping;
    bool close_when_flushed;
    bool closing;
    struct fake_tls *tls; /* NULL: plain */
    struct fake_play play;
    struct fake_conn *next, *prev;
};

struct fake_stats {
    uint64_t connections, connections_open, requests, responses, bytes_in, bytes_out;
    uint64_t streams, streams_open, streams_cancelled; /* cancelled: the peer went away before the end */
    uint64_t requests_cancelled;                       /* the same for answers that are not streams, and hung ones */
    uint64_t auth_failures, bad_requests;
    uint64_t faults[FAKE_FAULT_KINDS];
};

#define FAKE_PATHS_MAX 32 /* further paths are counted as "other" */
struct fake_path_count {
    char path[96];
    uint64_t count;
};

struct fake_kept {
    uint8_t method;
    struct buf head;
    size_t url_len;
    struct fake_header headers[FAKE_HEADERS_MAX];
    unsigned header_count;
    struct buf body;
};

struct fake_server {
    uv_loop_t *loop;
    uv_tcp_t listener;
    uv_signal_t signals[2];
    struct fake_tls_server *tls; /* NULL: plain */
    struct fake_knobs knobs;
    struct fake_stats stats;
    struct fake_path_count paths[FAKE_PATHS_MAX];
    unsigned path_count;
    struct fake_kept *kept; /* ring of the last kept_cap requests */
    uint64_t kept_cap, kept_total;
    struct fake_conn *conns;
    struct arena arena;    /* for one request's JSON; reset after its plan is made */
    struct fake_text text; /* what answers are cut from */
    struct buf body;       /* scratch for one answer's body */
    uint64_t next_id;
    char id_prefix[12];
    llhttp_settings_t parser_settings;
    char read_buffer[64 * 1024]; /* shared: what is read is parsed or copied at once */
};

/* Binds and listens; *ret_port is the port in use. ERR_INVALID: no such address. ERR_IO: cannot bind (said on stderr).
 */
MUST_CHECK enum err fake_server_listen(struct fake_server *server, struct span address, int *ret_port);
void fake_server_stop(struct fake_server *server); /* closes every handle; the loop then ends */
void fake_server_release(struct fake_server *server);

struct span fake_request_url(const struct fake_request *request);
struct span fake_request_header(const struct fake_request *request, struct span name); /* empty when absent */

void fake_must(enum err err); /* ends the process unless OK */
/* Writes what is in out as far as the peer takes it. */
void fake_conn_flush(struct fake_conn *conn);
/* The answer is complete (in out); once it is written the next request is taken or the connection closed. */
void fake_conn_finish(struct fake_conn *conn);
void fake_conn_timer(struct fake_conn *conn, uint64_t ms); /* calls fake_play_tick then */
void fake_conn_close(struct fake_conn *conn);
void fake_conn_reset(struct fake_conn *conn); /* with RST */
static inline size_t fake_conn_unsent(const struct fake_conn *conn)
{
    return conn->out.len + conn->wire.len + conn->inflight.len;
}
