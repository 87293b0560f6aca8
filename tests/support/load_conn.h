/* load_conn.h - one connection of the load generator: sends one request at a time, reads its response and judges it. */
#pragma once
#include "tests/support/load_run.h"
#include "common/buf.h"
#include "common/sse.h"
#include <llhttp.h>
#include <uv.h>

enum load_conn_state { LOAD_CONN_CLOSED, LOAD_CONN_CONNECTING, LOAD_CONN_OPEN, LOAD_CONN_CLOSING };

struct load_conn;

/* What the connections of a run share. */
struct load_shared {
    const struct load_plan *plan;
    struct load_tally *tally;
    uv_loop_t loop;
    llhttp_settings_t settings;
    uint64_t started_ns;
    uint64_t active;                                /* requests under way */
    void (*on_free)(struct load_conn *conn);        /* it may take a request now */
    void (*on_settled)(struct load_shared *shared); /* a request has ended, and its connection was told so */
    char read_buffer[256 * 1024];
};

struct load_conn {
    struct load_shared *shared;
    uv_tcp_t tcp;
    uv_timer_t timer;  /* the request's time, or the pause before a new connection */
    uv_timer_t reader; /* resumes slow reading */
    uv_connect_t connect;
    uv_write_t write;
    char *unsent;           /* owned by write */
    struct fake_tls *tls;   /* NULL: plain */
    struct buf plain, wire; /* of TLS: not encrypted yet; not sent yet */
    enum load_conn_state state;
    bool active; /* a request is under way */
    bool idle;   /* waits for a request to be due; the run's own mark */
    bool complete, aborting, held;
    bool done_seen, error_seen, content_seen, got_bytes;
    uint64_t due_ns, number, events;
    llhttp_t parser;
    struct sse_framer sse;
    char field[64]; /* name of the header that is being read */
    size_t field_len;
    char value[LOAD_VALUE_BYTES];
    size_t value_len;
    bool in_value;
    uint32_t headers_seen; /* a bit for each counted header */
    char body_head[160];   /* for the first failure's report */
    size_t body_head_len;
};

void load_conn_settings(llhttp_settings_t *settings);
MUST_CHECK enum err load_conn_init(struct load_conn *conn, struct load_shared *shared); /* conn is zeroed. ERR_IO */
void load_conn_end(struct load_conn *conn);     /* closes its handles; a request under way is unfinished */
void load_conn_release(struct load_conn *conn); /* after the loop has ended */
/* No request, no pause, and neither opening nor closing. */
bool load_conn_is_free(const struct load_conn *conn);
/* Sends the request, over a new connection when there is none. due_ns: where its latency counts from. */
void load_conn_start(struct load_conn *conn, uint64_t number, uint64_t due_ns);
