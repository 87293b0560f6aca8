#include "dataplane/worker/conn.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/worker/deadline.h"
#include "dataplane/worker/exchange.h"
#include "dataplane/worker/http1.h"
#include "dataplane/worker/http1_answer.h"
#include "dataplane/worker/outbox.h"
#include "dataplane/worker/reply.h"

#define CONN_WAITING_BYTES   (256u << 10) /* pipelined bytes behind a request under way: more stay in the socket */
#define CONN_LINGER_MS       1000u /* after an early answer: for the client to read it before a reset could destroy it */
#define CONN_LINGER_BYTES    (4u << 20)  /* a client that goes on sending what nobody reads is cut */
#define CONN_BODY_STEP_BYTES (64u << 10) /* of a body, in body_time each: one that trickles holds its memory for ever */
#define CONN_TRIM_MS         1000u       /* idle for so long, a connection gives its buffers back */

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
    struct sink sink;
    struct core *core;
    struct conn_owner *owner;
    struct conn *previous, *next;
    enum conn_state state;
    uv_tcp_t tcp;
    struct deadline timer;
    struct http1 parser;
    struct exchange *exchange;
    struct buf waiting; /* read, but not its turn yet */
    struct outbox outbox;
    uv_shutdown_t shutdown_request;
    bool reading, broken, ended, full;
    bool in_turn;  /* turn() is on the stack: it goes on by itself */
    bool turn_due; /* the timer calls go_on */
    bool trimmed;
    bool close_after; /* the client's wish, or the exchange's, or the drain's */
    bool http10;      /* the request under way */
    size_t accounted;
    size_t lingered, body_step; /* dropped after the answer; of the body since its time was last set */
    uint64_t stall_due, phase_due;
    unsigned closing; /* handles still open */
};

static void become_idle(struct conn *conn);
static void set_reading(struct conn *conn, bool on);

static const char *state_name(enum conn_state state)
{
    static const char *const names[CONN_STATES] = {
        [CONN_IDLE] = "idle",           [CONN_HEAD] = "head",         [CONN_BODY] = "body",
        [CONN_ANSWERING] = "answering", [CONN_SKIPPING] = "skipping", [CONN_FLUSHING] = "flushing",
        [CONN_LINGERING] = "lingering", [CONN_CLOSED] = "closed",
    };
    return (unsigned)state < CONN_STATES ? names[state] : "none";
}

#define BIT(state) (1u << (state))

static unsigned legal_from(enum conn_state state)
{
    const unsigned end = BIT(CONN_FLUSHING) | BIT(CONN_CLOSED);
    switch (state) {
    case CONN_IDLE:
        return BIT(CONN_HEAD) | end;
    case CONN_HEAD:
        return BIT(CONN_BODY) | BIT(CONN_SKIPPING) | end;
    case CONN_BODY:
        return BIT(CONN_ANSWERING) | BIT(CONN_SKIPPING) | end;
    case CONN_ANSWERING:
    case CONN_SKIPPING:
        return BIT(CONN_IDLE) | end;
    case CONN_FLUSHING:
        return BIT(CONN_LINGERING) | BIT(CONN_CLOSED);
    case CONN_LINGERING:
        return BIT(CONN_CLOSED);
    case CONN_CLOSED:
    case CONN_STATES:
        break;
    }
    return 0;
}

static void go(struct conn *conn, enum conn_state to)
{
    if (!(legal_from(conn->state) & BIT(to)))
        log_error("conn.edge", LOG_STR("from", state_name(conn->state)), LOG_STR("to", state_name(to)));
    REQUIRE(legal_from(conn->state) & BIT(to));
    conn->state = to;
}

static void account(struct conn *conn)
{
    size_t now = conn->waiting.cap + outbox_memory(&conn->outbox) + http1_memory(&conn->parser);
    core_account(conn->core, conn->accounted, now);
    conn->accounted = now;
}

static void rearm(struct conn *conn)
{
    deadline_set(&conn->timer, conn->stall_due < conn->phase_due ? conn->stall_due : conn->phase_due);
}

static void phase_due_in(struct conn *conn, uint64_t ms)
{
    conn->phase_due = ms ? core_now_ms(conn->core) + ms : DEADLINE_NONE;
    rearm(conn);
}

static void schedule_turn(struct conn *conn)
{
    conn->turn_due = true;
    conn->phase_due = 0;
    rearm(conn);
}

/* ---- the end ---- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;
    if (--conn->closing > 0)
        return;
    core_gauge(conn->core, WORKER_CONNECTIONS_OPEN, -1);
    buf_release(&conn->waiting);
    outbox_release(&conn->outbox);
    http1_release(&conn->parser);
    account(conn);
    conn->owner->closed(conn->owner, conn);
    free(conn);
}

static void close_now(struct conn *conn)
{
    if (conn->state == CONN_CLOSED)
        return;
    go(conn, CONN_CLOSED);
    struct exchange *x = conn->exchange;
    conn->exchange = NULL;
    if (x)
        exchange_client_gone(x);
    conn->closing = 2;
    uv_close((uv_handle_t *)&conn->tcp, on_handle_closed);
    deadline_close(&conn->timer, on_handle_closed);
}

void conn_abort(struct conn *conn)
{
    close_now(conn);
}

/* ---- output ---- */

static void on_shutdown(uv_shutdown_t *request, int status)
{
    struct conn *conn = request->data;
    if (conn->state == CONN_CLOSED)
        return;
    if (status < 0 || conn->ended)
        close_now(conn);
}

/* All output has gone: shut our side, and let the client read it before the socket dies. */
static void flushed(struct conn *conn)
{
    if (conn->state != CONN_FLUSHING)
        return;
    go(conn, CONN_LINGERING);
    conn->turn_due = false; /* of the answer that ended: nothing follows it */
    conn->shutdown_request.data = conn;
    if (conn->ended || uv_shutdown(&conn->shutdown_request, (uv_stream_t *)&conn->tcp, on_shutdown)) {
        close_now(conn);
        return;
    }
    phase_due_in(conn, CONN_LINGER_MS);
    set_reading(conn, true);
}

/* No request is under way; the last answer may still be on its way. */
static void close_when_flushed(struct conn *conn)
{
    if (outbox_idle(&conn->outbox))
        close_now(conn);
    else
        go(conn, CONN_FLUSHING);
}

static void below_half(struct conn *conn)
{
    if (!conn->full || outbox_queued(&conn->outbox) > core_write_queue_max(conn->core) / 2)
        return;
    conn->full = false;
    if (conn->exchange)
        exchange_writable(conn->exchange);
    else if (conn->state == CONN_IDLE && conn->waiting.len > 0)
        schedule_turn(conn);
}

static void on_written(void *user, bool failed)
{
    struct conn *conn = user;
    account(conn);
    if (conn->state == CONN_CLOSED)
        return;
    if (failed) {
        close_now(conn);
        return;
    }
    below_half(conn);
    if (conn->state != CONN_CLOSED && outbox_idle(&conn->outbox))
        flushed(conn);
}

static void broken(struct conn *conn)
{
    conn->broken = true; /* the exchange is told from the timer, never from within its own write */
    conn->phase_due = 0;
    rearm(conn);
}

static void wrote(struct conn *conn, enum err err)
{
    if (err) {
        broken(conn);
        return;
    }
    account(conn);
    if (!conn->outbox.active)
        return;
    conn->full = conn->full || outbox_queued(&conn->outbox) > core_write_queue_max(conn->core);
    if (conn->stall_due == DEADLINE_NONE) {
        conn->stall_due = core_now_ms(conn->core) + conn->core->config->limits.write_stall_ms;
        rearm(conn);
    }
}

static bool deaf(const struct conn *conn)
{
    return conn->broken || conn->state == CONN_CLOSED;
}

static void write_parts(struct conn *conn, const struct span *parts, unsigned count)
{
    if (!deaf(conn))
        wrote(conn, outbox_write(&conn->outbox, parts, count));
}

static void sink_go_on(struct sink *sink)
{
    const struct span go_on = SPAN("HTTP/1.1 100 Continue\r\n\r\n");
    write_parts(CONTAINER_OF(sink, struct conn, sink), &go_on, 1);
}

/* The head of an answer, in core->head. A connection that drains says so; one that said so keeps its word. */
static enum err write_head(struct conn *conn, struct http1_answer answer)
{
    conn->close_after = conn->close_after || answer.head->close || conn->core->draining;
    answer.http10 = conn->http10;
    answer.close = conn->close_after;
    answer.date = core_date(conn->core);
    buf_clear(&conn->core->head);
    return http1_answer_head(&answer, &conn->core->head) ? ERR_NOMEM : OK;
}

static enum err sink_whole(struct sink *sink, const struct sink_head *head, struct buf *body)
{
    struct conn *conn = CONTAINER_OF(sink, struct conn, sink);
    enum err err = write_head(conn, (struct http1_answer){ .head = head, .bytes = body->len });
    if (err || deaf(conn) || head->bodiless)
        buf_release(body);
    if (err == OK && !deaf(conn))
        wrote(conn, outbox_write_body(&conn->outbox, buf_span(&conn->core->head), body));
    return err;
}

static enum err sink_stream(struct sink *sink, const struct sink_head *head, struct span bytes, bool last)
{
    struct conn *conn = CONTAINER_OF(sink, struct conn, sink);
    const bool chunked = !conn->http10;
    struct span parts[5];
    unsigned count = 0;
    char size[24];
    if (head) {
        conn->close_after = conn->close_after || !chunked; /* HTTP/1.0: the stream's end is the connection's */
        const enum err err = write_head(conn, (struct http1_answer){ .head = head, .stream = true });
        if (err)
            return err;
        parts[count++] = buf_span(&conn->core->head);
    }
    if (bytes.len > 0) {
        const int digits = snprintf(size, sizeof(size), "%zx\r\n", bytes.len);
        if (chunked)
            parts[count++] = span_of(size, (size_t)digits);
        parts[count++] = bytes;
        if (chunked)
            parts[count++] = HTTP1_CHUNK_END;
    }
    if (last && chunked)
        parts[count++] = HTTP1_LAST_CHUNK;
    if (count > 0)
        write_parts(conn, parts, count);
    return OK;
}

static size_t sink_queued(const struct sink *sink)
{
    const struct conn *conn = CONTAINER_OF(sink, struct conn, sink);
    return outbox_queued(&conn->outbox);
}

/* The exchange is over. Its last call may come from deep within a read of ours: then the turn goes on after it
 * returned. */
static void sink_end(struct sink *sink, bool close, bool abort)
{
    struct conn *conn = CONTAINER_OF(sink, struct conn, sink);
    conn->exchange = NULL;
    if (conn->state == CONN_CLOSED)
        return;
    conn->close_after = conn->close_after || close || conn->core->draining;
    if (abort || conn->broken) {
        close_now(conn);
        return;
    }
    if (conn->close_after)
        go(conn, CONN_FLUSHING);
    else
        go(conn, conn->state == CONN_ANSWERING ? CONN_IDLE : CONN_SKIPPING);
    if (conn->in_turn)
        return;
    /* From an upstream's callback or a timer: the next request must not start in there. */
    if (conn->state == CONN_IDLE && conn->waiting.len == 0)
        become_idle(conn);
    else
        schedule_turn(conn);
}

static const struct sink_ops sink_ops = {
    .go_on = sink_go_on, .whole = sink_whole, .stream = sink_stream, .queued = sink_queued, .end = sink_end
};

/* ---- input ---- */

/* A request that never became an exchange. */
static void refuse(struct conn *conn, enum outcome outcome, const char *message)
{
    struct buf *lines = &conn->core->lines;
    struct buf body = BUF_INIT(64u << 10);
    char id[32];
    random_id("req_", 24, id);
    const struct reply_error error = { .outcome = outcome, .message = message };
    buf_clear(lines);
    enum err err = http1_write_header(lines, SPAN("x-request-id"), span_cstr(id));
    if (err == OK)
        err = reply_error_lines(&error, lines);
    if (err == OK)
        err = reply_error_body(&error, &body);
    core_count(conn->core, WORKER_BAD_REQUESTS);
    log_debug("request.refused", LOG_STR("request", id), LOG_STR("outcome", outcome_name(outcome)));
    const struct sink_head head = {
        .status = outcome_status(outcome), .close = true, .content_type = REPLY_ERROR_TYPE, .lines = buf_span(lines)
    };
    if (err == OK)
        err = sink_whole(&conn->sink, &head, &body);
    buf_release(&body);
    if (err || conn->broken) {
        close_now(conn);
        return;
    }
    go(conn, CONN_FLUSHING);
}

static void parser_failed(struct conn *conn, enum err err)
{
    char text[256];
    int n = snprintf(text, sizeof(text), "The request is not acceptable HTTP: %s. Nothing was sent to a provider.",
                     http1_why(&conn->parser));
    enum outcome outcome = outcome_of_http1(err);
    if (conn->exchange) { /* in its body */
        exchange_malformed(conn->exchange, n > 0 ? text : NULL);
        return;
    }
    if (conn->state == CONN_SKIPPING)
        close_now(conn);
    else
        refuse(conn, outcome, outcome == OUTCOME_MALFORMED && n > 0 ? text : NULL);
}

static void on_head(struct conn *conn, uint64_t began_ns)
{
    const struct http1_head *head = http1_head(&conn->parser);
    const struct node_limits *limits = &conn->core->config->limits;
    bool ended = false;
    if (head->header_count > limits->headers || conn->parser.bytes.len > limits->head_bytes) {
        refuse(conn, OUTCOME_HEAD_TOO_LARGE, NULL);
        return;
    }
    conn->http10 = head->version_minor == 0;
    conn->close_after = conn->close_after || !head->keep_alive;
    go(conn, CONN_BODY);
    conn->body_step = 0;
    phase_due_in(conn, limits->body_time_ms);
    struct exchange *x = exchange_begin(conn->core, &conn->sink, head, began_ns, &ended);
    if (!x) {
        core_count(conn->core, WORKER_BAD_REQUESTS);
        close_now(conn);
        return;
    }
    if (!ended)
        conn->exchange = x;
}

static void on_body(struct conn *conn, struct span bytes)
{
    if (conn->state == CONN_BODY) {
        conn->body_step += bytes.len;
        if (conn->body_step >= CONN_BODY_STEP_BYTES) {
            conn->body_step = 0;
            phase_due_in(conn, conn->core->config->limits.body_time_ms);
        }
        if (!exchange_body(conn->exchange, bytes))
            return;
    }
}

static void on_end(struct conn *conn, uint64_t began_ns)
{
    if (conn->state == CONN_SKIPPING) {
        go(conn, CONN_IDLE);
        return;
    }
    go(conn, CONN_ANSWERING);
    phase_due_in(conn, 0);
    exchange_body_end(conn->exchange, began_ns);
}

/* Between two requests. */
static void become_idle(struct conn *conn)
{
    http1_reset(&conn->parser);
    if (conn->core->draining) {
        close_when_flushed(conn);
        return;
    }
    conn->trimmed = false;
    phase_due_in(conn, size_min(conn->core->config->limits.idle_ms, CONN_TRIM_MS));
}

static bool takes_input(const struct conn *conn)
{
    if (conn->state == CONN_IDLE && conn->full)
        return false; /* the last answers first */
    return conn->state == CONN_IDLE || conn->state == CONN_HEAD || conn->state == CONN_BODY ||
           conn->state == CONN_SKIPPING;
}

/* Deals with as much of `input` as its state allows; what is left waits for its turn. */
static void turn(struct conn *conn, struct span *input, uint64_t began_ns)
{
    enum http1_event event;
    struct span body;
    conn->in_turn = true;
    while (takes_input(conn) && input->len > 0) {
        if (conn->state == CONN_IDLE) {
            go(conn, CONN_HEAD);
            phase_due_in(conn, conn->core->config->limits.head_time_ms);
        }
        enum err err = http1_next(&conn->parser, input, &event, &body);
        if (err) {
            parser_failed(conn, err);
            break;
        }
        if (event == HTTP1_MORE) {
            account(conn);
            if (conn->state == CONN_HEAD && core_is_full(conn->core))
                refuse(conn, OUTCOME_BUSY, NULL);
            break;
        }
        if (event == HTTP1_HEAD)
            on_head(conn, began_ns);
        else if (event == HTTP1_BODY)
            on_body(conn, body);
        else
            on_end(conn, began_ns);
        if (conn->state == CONN_IDLE)
            become_idle(conn);
    }
    /* A message without a body ends without another byte. */
    if ((conn->state == CONN_BODY || conn->state == CONN_SKIPPING) && input->len == 0 &&
        http1_next(&conn->parser, input, &event, &body) == OK && event == HTTP1_END) {
        on_end(conn, began_ns);
        if (conn->state == CONN_IDLE)
            become_idle(conn);
    }
    conn->in_turn = false;
    if (conn->state == CONN_FLUSHING && outbox_idle(&conn->outbox))
        flushed(conn);
}

static void keep_waiting(struct conn *conn, struct span rest)
{
    if (rest.len > 0 && conn->state != CONN_FLUSHING && conn->state != CONN_CLOSED &&
        buf_append(&conn->waiting, rest)) {
        close_now(conn); /* out of memory; the limit cannot be passed: reading stops before */
        return;
    }
    if (conn->state == CONN_CLOSED)
        return;
    account(conn);
    set_reading(conn, conn->waiting.len + CORE_READ_BYTES <= CONN_WAITING_BYTES);
}

/* What waited, after an answer has ended. */
static void go_on(struct conn *conn)
{
    struct buf waiting = conn->waiting;
    buf_init(&conn->waiting, CONN_WAITING_BYTES);
    struct span input = buf_span(&waiting);
    if (conn->state == CONN_IDLE)
        become_idle(conn);
    if (conn->state != CONN_CLOSED && conn->state != CONN_FLUSHING)
        turn(conn, &input, clock_ns());
    keep_waiting(conn, input);
    buf_release(&waiting);
    if (conn->state == CONN_FLUSHING && outbox_idle(&conn->outbox))
        flushed(conn);
    if (conn->ended && takes_input(conn))
        close_now(conn);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    struct conn *conn = handle->data;
    (void)suggested;
    *ret = uv_buf_init(conn->core->read_buffer, CORE_READ_BYTES);
}

static void on_eof(struct conn *conn)
{
    conn->ended = true;
    set_reading(conn, false);
    if (conn->state != CONN_FLUSHING) /* there the answer still goes out */
        close_now(conn);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct conn *conn = stream->data;
    if (n == 0)
        return;
    if (n < 0 || fault_hit(FAULT_READ)) {
        if (n == UV_EOF)
            on_eof(conn);
        else
            close_now(conn);
        return;
    }
    struct span input = span_of(buf->base, (size_t)n);
    if (conn->state == CONN_LINGERING || conn->state == CONN_FLUSHING) {
        conn->lingered += input.len;
        if (conn->lingered > CONN_LINGER_BYTES)
            close_now(conn);
        return;
    }
    if (conn->waiting.len == 0 && !conn->turn_due)
        turn(conn, &input, clock_ns());
    if (conn->state != CONN_CLOSED)
        keep_waiting(conn, input);
}

static void set_reading(struct conn *conn, bool on)
{
    if (conn->state == CONN_CLOSED || conn->reading == on || (on && conn->ended))
        return;
    conn->reading = on;
    if (!on)
        (void)uv_read_stop((uv_stream_t *)&conn->tcp);
    else if (uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read))
        broken(conn);
}

/* ---- time ---- */

static bool stalled(struct conn *conn, uint64_t now_ms)
{
    if (conn->stall_due > now_ms)
        return false;
    return outbox_stalled(&conn->outbox, conn->core->config->limits.write_stall_ms, &conn->stall_due);
}

static void on_idle_timer(struct conn *conn)
{
    uint64_t idle_ms = conn->core->config->limits.idle_ms;
    /* Not idle: its last answers are still on their way. write_stall_ms is the limit of that. */
    if (conn->waiting.len > 0 || !outbox_idle(&conn->outbox)) {
        phase_due_in(conn, CONN_TRIM_MS);
        return;
    }
    if (conn->trimmed || idle_ms <= CONN_TRIM_MS) {
        close_now(conn);
        return;
    }
    conn->trimmed = true;
    http1_trim(&conn->parser);
    buf_release(&conn->waiting);
    account(conn);
    phase_due_in(conn, idle_ms - CONN_TRIM_MS);
}

static void on_timer(struct deadline *timer)
{
    struct conn *conn = CONTAINER_OF(timer, struct conn, timer);
    uint64_t now_ms = core_now_ms(conn->core);
    if (conn->broken || stalled(conn, now_ms)) {
        close_now(conn);
        return;
    }
    if (conn->phase_due > now_ms) {
        rearm(conn);
        return;
    }
    conn->phase_due = DEADLINE_NONE;
    if (conn->turn_due) {
        conn->turn_due = false;
        go_on(conn);
        return;
    }
    switch (conn->state) {
    case CONN_IDLE:
        on_idle_timer(conn);
        break;
    case CONN_SKIPPING:
        close_now(conn);
        break;
    case CONN_HEAD:
        refuse(conn, OUTCOME_HEAD_TIMEOUT, NULL);
        break;
    case CONN_BODY:
        exchange_body_timeout(conn->exchange);
        break;
    case CONN_FLUSHING:
    case CONN_ANSWERING:
        break;
    case CONN_LINGERING:
        close_now(conn);
        break;
    case CONN_CLOSED:
    case CONN_STATES:
        break;
    }
    if (conn->state == CONN_FLUSHING && outbox_idle(&conn->outbox))
        flushed(conn);
    if (conn->state != CONN_CLOSED)
        rearm(conn);
}

/* ---- the beginning ---- */

enum err conn_accept(struct core *core, uv_stream_t *server, struct conn_owner *owner, struct conn **ret)
{
    struct conn *conn = fault_calloc(1, sizeof(*conn));
    if (!conn)
        return ERR_NOMEM;
    conn->core = core;
    conn->owner = owner;
    conn->sink.ops = &sink_ops;
    conn->stall_due = conn->phase_due = DEADLINE_NONE;
    buf_init(&conn->waiting, CONN_WAITING_BYTES);
    outbox_init(&conn->outbox, (uv_stream_t *)&conn->tcp, on_written, conn);
    http1_init(&conn->parser, HTTP1_REQUEST);
    deadline_init(&conn->timer, core->loop, on_timer);
    conn->timer.timer.data = conn;
    REQUIRE(uv_tcp_init(core->loop, &conn->tcp) == 0);
    conn->tcp.data = conn;
    core_gauge(core, WORKER_CONNECTIONS_OPEN, 1);
    *ret = conn;
    int status = uv_accept(server, (uv_stream_t *)&conn->tcp);
    (void)uv_tcp_nodelay(&conn->tcp, 1); /* fails only for a socket that is dead: reading will tell */
    if (status) {
        close_now(conn);
        return OK; /* the owner has it in its list until it has closed */
    }
    phase_due_in(conn, core->config->limits.idle_ms);
    set_reading(conn, true);
    return OK;
}

struct conn *conn_next(const struct conn *conn)
{
    return conn->next;
}

struct conn *conn_previous(const struct conn *conn)
{
    return conn->previous;
}

void conn_link(struct conn *conn, struct conn *previous, struct conn *next)
{
    conn->previous = previous;
    conn->next = next;
}

void conn_drain(struct conn *conn)
{
    conn->close_after = true;
    if (conn->state == CONN_IDLE && conn->waiting.len == 0 && !conn->turn_due)
        close_when_flushed(conn);
}

void conn_drain_passed(struct conn *conn)
{
    if (conn->exchange)
        exchange_drain_passed(conn->exchange);
    else if (conn->state != CONN_FLUSHING && conn->state != CONN_LINGERING)
        close_now(conn);
}
