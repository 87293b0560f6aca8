#include "dataplane/worker/conn_internal.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"

#define CONN_WAITING_BYTES (256u << 10) /* pipelined bytes behind a request under way: more stay in the socket */
#define CONN_LINGER_MS     1000u /* after an early answer: for the client to read it before a reset could destroy it */
#define CONN_LINGER_BYTES  (4u << 20) /* a client that goes on sending what nobody reads is cut */
#define CONN_TRIM_MS       1000u      /* idle for so long, a connection gives its buffers back */

static void become_idle(struct conn *conn);

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
    const size_t now = conn->waiting.cap + http1_memory(&conn->parser);
    if (now != conn->accounted)
        core_account(conn->core, conn->accounted, now);
    conn->accounted = now;
}

void conn_rearm(struct conn *conn)
{
    deadline_set(&conn->timer, conn->stall_due < conn->phase_due ? conn->stall_due : conn->phase_due);
}

static void phase_due_in(struct conn *conn, uint64_t ms)
{
    conn->phase_due = ms ? core_now_ms(conn->core) + ms : DEADLINE_NONE;
    conn_rearm(conn);
}

static void schedule_turn(struct conn *conn)
{
    conn->turn_due = true;
    conn->phase_due = 0;
    conn_rearm(conn);
}

/* ---- the end ---- */

static void on_timer_closed(uv_handle_t *handle)
{
    struct conn *conn = CONTAINER_OF(handle, struct conn, timer.timer);
    http1_release(&conn->parser); /* not earlier: whoever closes may be reading it */
    buf_release(&conn->waiting);
    account(conn);
    free(conn);
}

static void release(struct speaker *speaker)
{
    struct conn *conn = CONTAINER_OF(speaker, struct conn, speaker);
    struct exchange *x = conn->exchange;
    go(conn, CONN_CLOSED);
    conn->exchange = NULL;
    if (x)
        exchange_client_gone(x);
    deadline_close(&conn->timer, on_timer_closed);
}

static void close_now(struct conn *conn)
{
    if (conn->state != CONN_CLOSED)
        conn->speaker.host->close(conn->speaker.host);
}

/* ---- output ---- */

/* All output has gone: shut our side, and let the client read it before the socket dies. */
static void flushed(struct conn *conn)
{
    if (conn->state != CONN_FLUSHING)
        return;
    go(conn, CONN_LINGERING);
    http1_release(&conn->parser); /* a full worker's refusals must not hold what they were refused for */
    buf_release(&conn->waiting);
    account(conn);
    conn->turn_due = false; /* of the answer that ended: nothing follows it */
    if (conn->ended || stream_shutdown(conn->speaker.stream)) {
        close_now(conn);
        return;
    }
    phase_due_in(conn, CONN_LINGER_MS);
    stream_read(conn->speaker.stream, true);
}

/* No request is under way; the last answer may still be on its way. A request that is, too, must not meet a reset. */
static void leave(struct conn *conn)
{
    go(conn, CONN_FLUSHING);
    if (stream_idle(conn->speaker.stream))
        flushed(conn);
}

static void below_half(struct conn *conn)
{
    if (!conn->full || stream_queued(conn->speaker.stream) > core_write_queue_max(conn->core) / 2)
        return;
    conn->full = false;
    if (conn->exchange)
        exchange_writable(conn->exchange);
    else if (conn->state == CONN_IDLE && conn->waiting.len > 0)
        schedule_turn(conn);
}

static void written(struct speaker *speaker)
{
    struct conn *conn = CONTAINER_OF(speaker, struct conn, speaker);
    below_half(conn);
    if (conn->state != CONN_CLOSED && stream_idle(conn->speaker.stream))
        flushed(conn);
}

void conn_broken(struct conn *conn)
{
    conn->broken = true; /* the exchange is told from the timer, never from within its own write */
    conn->phase_due = 0;
    conn_rearm(conn);
}

/* The exchange is over. Its last call may come from deep within a read of ours: then the turn goes on after it
 * returned. */
void conn_exchange_ended(struct conn *conn, bool close, bool abort)
{
    conn->exchange = NULL;
    if (conn->state == CONN_CLOSED)
        return;
    conn->close_after = conn->close_after || close;
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

/* ---- input ---- */

static void refuse(struct conn *conn, enum outcome outcome, const char *message)
{
    if (conn_refuse(conn, outcome, message))
        go(conn, CONN_FLUSHING);
    else
        close_now(conn);
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
    conn->used = true;
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
        if (conn->body_step >= EXCHANGE_BODY_STEP_BYTES) {
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
    conn->trimmed = false;
    phase_due_in(conn, conn->core->draining ? conn->core->config->limits.drain_idle_ms
                                            : size_min(conn->core->config->limits.idle_ms, CONN_TRIM_MS));
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
    if (conn->state == CONN_FLUSHING && stream_idle(conn->speaker.stream))
        flushed(conn);
}

/* Nothing that comes is looked at any more. */
static bool is_ending(const struct conn *conn)
{
    return conn->state == CONN_FLUSHING || conn->state == CONN_LINGERING || conn->state == CONN_CLOSED;
}

static void keep_waiting(struct conn *conn, struct span rest)
{
    if (rest.len > 0 && !is_ending(conn) && buf_append(&conn->waiting, rest)) {
        close_now(conn); /* out of memory; the limit cannot be passed: reading stops before */
        return;
    }
    if (conn->state == CONN_CLOSED)
        return;
    account(conn);
    stream_read(conn->speaker.stream, conn->waiting.len + STREAM_GIVEN_MAX <= CONN_WAITING_BYTES);
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
    if (conn->state == CONN_FLUSHING && stream_idle(conn->speaker.stream))
        flushed(conn);
    if (conn->ended && takes_input(conn))
        close_now(conn);
}

static void bytes(struct speaker *speaker, struct span input, uint64_t began_ns)
{
    struct conn *conn = CONTAINER_OF(speaker, struct conn, speaker);
    if (conn->state == CONN_LINGERING || conn->state == CONN_FLUSHING) {
        conn->lingered += input.len;
        if (conn->lingered > CONN_LINGER_BYTES)
            close_now(conn);
        return;
    }
    if (conn->waiting.len == 0 && !conn->turn_due)
        turn(conn, &input, began_ns);
    if (conn->state != CONN_CLOSED)
        keep_waiting(conn, input);
}

static void ended(struct speaker *speaker)
{
    struct conn *conn = CONTAINER_OF(speaker, struct conn, speaker);
    conn->ended = true;
    if (conn->state != CONN_FLUSHING) /* there the answer still goes out */
        close_now(conn);
}

/* ---- time ---- */

static bool stalled(struct conn *conn, uint64_t now_ms)
{
    if (conn->stall_due > now_ms)
        return false;
    return stream_stalled(conn->speaker.stream, conn->core->config->limits.write_stall_ms, &conn->stall_due);
}

static void on_idle_timer(struct conn *conn)
{
    uint64_t idle_ms = conn->core->config->limits.idle_ms;
    /* Not idle: its last answers are still on their way. write_stall_ms is the limit of that. */
    if (conn->waiting.len > 0 || !stream_idle(conn->speaker.stream)) {
        phase_due_in(conn, CONN_TRIM_MS);
        return;
    }
    if (conn->trimmed || idle_ms <= CONN_TRIM_MS || conn->core->draining) {
        leave(conn);
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
        conn_rearm(conn);
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
    if (conn->state == CONN_FLUSHING && stream_idle(conn->speaker.stream))
        flushed(conn);
    if (conn->state != CONN_CLOSED)
        conn_rearm(conn);
}

/* ---- beginning, draining ---- */

static void drain(struct speaker *speaker)
{
    struct conn *conn = CONTAINER_OF(speaker, struct conn, speaker);
    if (conn->state == CONN_IDLE && conn->waiting.len == 0 && !conn->turn_due)
        phase_due_in(conn,
                     conn->used ? conn->core->config->limits.drain_idle_ms : conn->core->config->limits.drain_first_ms);
}

static void drain_passed(struct speaker *speaker)
{
    struct conn *conn = CONTAINER_OF(speaker, struct conn, speaker);
    if (conn->exchange)
        exchange_drain_passed(conn->exchange);
    else if (conn->state == CONN_HEAD)
        refuse(conn, OUTCOME_DRAINING, NULL);
    else if (conn->state == CONN_IDLE)
        leave(conn);
    else if (conn->state == CONN_SKIPPING)
        close_now(conn);
    if (conn->state == CONN_FLUSHING && stream_idle(conn->speaker.stream))
        flushed(conn);
}

static const struct speaker_ops speaker_ops = {
    .bytes = bytes, .ended = ended, .written = written, .drain = drain, .drain_passed = drain_passed, .release = release
};

enum err conn_speak(struct core *core, struct stream *stream, struct speaker_host *host, struct speaker **ret)
{
    struct conn *conn = fault_calloc(1, sizeof(*conn));
    if (!conn)
        return ERR_NOMEM;
    conn->speaker = (struct speaker){ .ops = &speaker_ops, .host = host, .stream = stream };
    conn->sink = (struct sink){ .ops = &conn_sink_ops, .client = stream_facts(stream) };
    conn->core = core;
    conn->stall_due = conn->phase_due = DEADLINE_NONE;
    buf_init(&conn->waiting, CONN_WAITING_BYTES);
    http1_init(&conn->parser, HTTP1_REQUEST);
    deadline_init(&conn->timer, core->loop, on_timer);
    phase_due_in(conn, core->config->limits.idle_ms);
    *ret = &conn->speaker;
    return OK;
}
