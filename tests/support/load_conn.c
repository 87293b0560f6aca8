#include "tests/support/load_conn.h"
#include "tests/support/fake_tls.h"

#define EVENT_BYTES_MAX (128u * 1024 * 1024)
#define RECONNECT_MS    10 /* keeps a dead server from being asked in a busy loop */
#define VARY_DIGITS     10
#define PLAIN_BYTES     (64 * 1024) /* read out of TLS at once */
#define SLOW_READ_BYTES 1024

/* ---- one request's outcome ---- */

static void note_failure(struct load_conn *conn, enum load_failure failure)
{
    struct load_tally *tally = conn->shared->tally;
    if (tally->first_failure[0] != '\0')
        return;
    (void)snprintf(tally->first_failure, sizeof(tally->first_failure), "%s after %.3f s, status %u: %.*s",
                   load_failure_name(failure), (double)(uv_hrtime() - conn->shared->started_ns) / 1e9,
                   conn->parser.status_code, (int)conn->body_head_len, conn->body_head);
}

static void on_closed(uv_handle_t *handle)
{
    struct load_conn *conn = handle->data;
    conn->state = LOAD_CONN_CLOSED;
    fake_tls_free(conn->tls);
    conn->tls = NULL;
    if (!conn->active)
        conn->shared->on_free(conn);
}

static void drop(struct load_conn *conn)
{
    if (conn->state == LOAD_CONN_CLOSED || conn->state == LOAD_CONN_CLOSING)
        return;
    conn->state = LOAD_CONN_CLOSING;
    uv_timer_stop(&conn->reader);
    uv_close((uv_handle_t *)&conn->tcp, on_closed);
}

static void on_pause_over(uv_timer_t *timer)
{
    struct load_conn *conn = timer->data;
    conn->shared->on_free(conn);
}

static uint64_t waited_us(const struct load_conn *conn)
{
    return (uv_hrtime() - conn->due_ns) / 1000;
}

static void settle(struct load_conn *conn, enum load_failure failure, bool reusable)
{
    struct load_shared *shared = conn->shared;
    struct load_tally *tally = shared->tally;
    const struct load_watch *watch = shared->plan->watch;
    uv_timer_stop(&conn->timer);
    conn->active = false;
    shared->active--;
    tally->requests++;
    if (conn->aborting) {
        tally->aborted++;
    } else {
        tally->failures[failure]++;
        if (failure == LOAD_OK)
            load_samples_add(&tally->latency, waited_us(conn));
        else
            note_failure(conn, failure);
        if (watch && watch->ended)
            watch->ended(watch->user, conn->number, failure, waited_us(conn));
    }
    if (failure == LOAD_CONNECT) {
        drop(conn);
        uv_timer_start(&conn->timer, on_pause_over, RECONNECT_MS, 0);
    } else if (reusable && !shared->plan->close) {
        conn->shared->on_free(conn);
    } else if (conn->state == LOAD_CONN_CLOSED) {
        conn->shared->on_free(conn);
    } else {
        drop(conn);
    }
    shared->on_settled(shared);
}

static void finish_response(struct load_conn *conn)
{
    const struct load_plan *plan = conn->shared->plan;
    unsigned status = conn->parser.status_code;
    enum load_failure failure = LOAD_OK;
    if (status < ARRAY_LEN(plan->status_expected))
        conn->shared->tally->statuses[status]++;
    if (status >= ARRAY_LEN(plan->status_expected) || !plan->status_expected[status])
        failure = LOAD_STATUS;
    else if (plan->stream && status < 300 && conn->error_seen)
        failure = LOAD_ERROR_EVENT;
    else if (plan->stream && status < 300 && !conn->done_seen)
        failure = LOAD_NO_DONE;
    /* A response may overtake its request: what is still to be written would be in the next one's way. */
    settle(conn, failure, llhttp_should_keep_alive(&conn->parser) != 0 && !conn->unsent);
}

/* ---- reading ---- */

static struct load_conn *conn_of(llhttp_t *parser)
{
    return CONTAINER_OF(parser, struct load_conn, parser);
}

static void end_header(struct load_conn *conn)
{
    struct load_tally *tally = conn->shared->tally;
    const struct load_watch *watch = conn->shared->plan->watch;
    if (!conn->in_value)
        return;
    if (watch && watch->header)
        watch->header(watch->user, conn->number, span_of(conn->field, conn->field_len),
                      span_of(conn->value, conn->value_len));
    for (unsigned i = 0; i < tally->header_count; i++) {
        if (!span_eq_nocase(tally->headers[i].name, span_of(conn->field, conn->field_len)))
            continue;
        conn->headers_seen |= 1u << i;
        load_tally_value(&tally->headers[i], span_of(conn->value, conn->value_len));
    }
    conn->in_value = false;
    conn->field_len = conn->value_len = 0;
}

static size_t copy_part(char *into, size_t used, size_t max, const char *at, size_t n)
{
    n = size_min(n, max - used);
    memcpy(into + used, at, n);
    return used + n;
}

static int on_field(llhttp_t *parser, const char *at, size_t n)
{
    struct load_conn *conn = conn_of(parser);
    end_header(conn);
    conn->field_len = copy_part(conn->field, conn->field_len, sizeof(conn->field), at, n);
    return 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t n)
{
    struct load_conn *conn = conn_of(parser);
    conn->in_value = true;
    conn->value_len = copy_part(conn->value, conn->value_len, sizeof(conn->value), at, n);
    return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct load_conn *conn = conn_of(parser);
    struct load_tally *tally = conn->shared->tally;
    end_header(conn);
    if (parser->status_code < 200)
        return 0;
    for (unsigned i = 0; i < tally->header_count; i++) {
        if (!(conn->headers_seen & 1u << i))
            load_tally_value(&tally->headers[i], SPAN("(absent)"));
    }
    return 0;
}

/* A member of this name with a string that is not empty. */
static bool says(struct span data, struct span member)
{
    size_t at = span_find(data, member);
    return at != SIZE_MAX && at + member.len < data.len && data.ptr[at + member.len] != '"';
}

static bool has_content(struct span data)
{
    return says(data, SPAN("\"content\":\"")) || says(data, SPAN("\"text\":\"")) ||
           says(data, SPAN("\"reasoning_content\":\"")) || span_find(data, SPAN("\"tool_calls\":[")) != SIZE_MAX;
}

static enum err on_event(void *user, const struct sse_event *event)
{
    struct load_conn *conn = user;
    struct load_shared *shared = conn->shared;
    const struct load_watch *watch = shared->plan->watch;
    if (watch && watch->event)
        watch->event(watch->user, conn->number, event);
    if (!event->has_data)
        return OK;
    shared->tally->events++;
    conn->events++;
    if (span_eq(event->data, SPAN("[DONE]")))
        conn->done_seen = true;
    else if (span_starts(event->data, SPAN("{\"error\"")) || span_eq(event->type, SPAN("error")))
        conn->error_seen = true;
    if (!conn->content_seen && has_content(event->data)) {
        conn->content_seen = true;
        load_samples_add(&shared->tally->ttft, waited_us(conn));
        if (watch && watch->content)
            watch->content(watch->user, conn->number, waited_us(conn));
    }
    if (shared->plan->abort_after > 0 && conn->events >= shared->plan->abort_after) {
        conn->aborting = true;
        return ERR_CANCELLED;
    }
    return OK;
}

static int on_body(llhttp_t *parser, const char *at, size_t n)
{
    struct load_conn *conn = conn_of(parser);
    const struct load_watch *watch = conn->shared->plan->watch;
    conn->body_head_len = copy_part(conn->body_head, conn->body_head_len, sizeof(conn->body_head), at, n);
    if (conn->shared->plan->stream && parser->status_code < 300)
        return sse_feed(&conn->sse, span_of(at, n), on_event, conn) == OK ? 0 : -1;
    if (watch && watch->body)
        watch->body(watch->user, conn->number, span_of(at, n));
    return 0;
}

static int on_complete(llhttp_t *parser)
{
    if (parser->status_code < 200) /* an interim response; the real one follows */
        return 0;
    conn_of(parser)->complete = true;
    return HPE_PAUSED;
}

static void on_broken(struct load_conn *conn, ssize_t code)
{
    if (!conn->active) {
        drop(conn); /* an idle connection may be closed by the other side */
        return;
    }
    if (code == UV_EOF && conn->got_bytes && llhttp_finish(&conn->parser) == HPE_PAUSED && conn->complete) {
        finish_response(conn);
        return;
    }
    enum load_failure failure = code != UV_EOF ? LOAD_RESET : conn->got_bytes ? LOAD_CUT : LOAD_NO_RESPONSE;
    settle(conn, failure, false);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    struct load_conn *conn = handle->data;
    (void)suggested;
    bool slow = conn->shared->plan->read_rate > 0 || conn->shared->plan->hold;
    *ret = uv_buf_init(conn->shared->read_buffer, slow ? SLOW_READ_BYTES : sizeof(conn->shared->read_buffer));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes);

static void on_read_again(uv_timer_t *timer)
{
    struct load_conn *conn = timer->data;
    if (conn->state == LOAD_CONN_OPEN)
        uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
}

static void hold_back(struct load_conn *conn, size_t n)
{
    const struct load_plan *plan = conn->shared->plan;
    if (plan->hold && !conn->held) {
        conn->held = true;
        uv_timer_stop(&conn->timer);
        uv_read_stop((uv_stream_t *)&conn->tcp);
        if (++conn->shared->tally->held == plan->connections)
            fprintf(stderr, "holding %u\n", plan->connections);
    } else if (plan->read_rate > 0 && conn->active) {
        uv_read_stop((uv_stream_t *)&conn->tcp);
        uv_timer_start(&conn->reader, on_read_again, n * 1000 / plan->read_rate + 1, 0);
    }
}

/* Bytes of HTTP. */
static void take(struct load_conn *conn, const char *at, size_t n)
{
    conn->got_bytes = true;
    if (!conn->active) {
        drop(conn); /* bytes that nobody asked for */
        return;
    }
    llhttp_errno_t code = llhttp_execute(&conn->parser, at, n);
    if (conn->aborting) {
        settle(conn, LOAD_OK, false);
    } else if (conn->complete) {
        bool all_used = llhttp_get_error_pos(&conn->parser) == at + n;
        if (all_used)
            finish_response(conn);
        else
            settle(conn, LOAD_MALFORMED, false);
    } else if (code != HPE_OK) {
        settle(conn, LOAD_MALFORMED, false);
    } else {
        hold_back(conn, n);
    }
}

static void flush_tls(struct load_conn *conn);

static void take_tls(struct load_conn *conn, struct span wire)
{
    static char plain[PLAIN_BYTES];
    size_t n = 0;
    enum err err = fake_tls_feed(conn->tls, wire);
    while (err == OK && conn->state == LOAD_CONN_OPEN) {
        err = fake_tls_read(conn->tls, plain, sizeof(plain), &n);
        if (err == OK)
            take(conn, plain, n);
    }
    if (conn->state != LOAD_CONN_OPEN)
        return;
    if (err == ERR_AGAIN)
        flush_tls(conn);
    else
        on_broken(conn, err == ERR_CLOSED && fake_tls_is_ready(conn->tls) ? UV_EOF : UV_EPROTO);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
    struct load_conn *conn = stream->data;
    if (n == 0)
        return;
    if (n < 0) {
        on_broken(conn, n);
        return;
    }
    conn->shared->tally->bytes_in += (uint64_t)n;
    if (conn->tls)
        take_tls(conn, span_of(bytes->base, (size_t)n));
    else
        take(conn, bytes->base, (size_t)n);
}

/* ---- sending ---- */

static void on_written(uv_write_t *write, int status)
{
    struct load_conn *conn = write->data;
    free(conn->unsent);
    conn->unsent = NULL;
    if (conn->tls && status == 0 && conn->state == LOAD_CONN_OPEN) /* a broken connection shows in reading, too */
        flush_tls(conn);
}

/* What the socket does not take at once is copied. */
static bool send_bytes(struct load_conn *conn, struct span out)
{
    uv_buf_t bytes = uv_buf_init((char *)(uintptr_t)out.ptr, (unsigned)out.len);
    int n = uv_try_write((uv_stream_t *)&conn->tcp, &bytes, 1);
    if (n < 0 && n != UV_EAGAIN)
        return false;
    size_t left = out.len - (n > 0 ? (size_t)n : 0);
    if (left == 0)
        return true;
    conn->unsent = malloc(left);
    if (!conn->unsent)
        return false;
    memcpy(conn->unsent, out.ptr + out.len - left, left);
    bytes = uv_buf_init(conn->unsent, (unsigned)left);
    if (uv_write(&conn->write, (uv_stream_t *)&conn->tcp, &bytes, 1, on_written) == 0)
        return true;
    free(conn->unsent);
    conn->unsent = NULL;
    return false;
}

/* Sends what is encrypted, one write at a time. */
static void flush_tls(struct load_conn *conn)
{
    enum err err = fake_tls_write(conn->tls, &conn->plain, &conn->wire);
    if (err == OK && (conn->unsent || conn->wire.len == 0))
        return;
    if (err == OK && send_bytes(conn, buf_span(&conn->wire)))
        buf_clear(&conn->wire);
    else if (conn->active)
        settle(conn, LOAD_RESET, false);
    else
        drop(conn);
}

/* The digits in the shared request change with each request: all that is not sent at once is copied. */
static void set_varying(const struct load_plan *plan, uint64_t number)
{
    for (unsigned k = 0; k < plan->vary_count; k++) {
        const struct load_vary *vary = &plan->varies[k];
        char *digits = (char *)(uintptr_t)(plan->request.ptr + vary->at);
        /* Knuth's multiplicative hash, odd and so one-to-one in 64 bits. */
        uint64_t value = vary->count ? (number * UINT64_C(0x9e3779b97f4a7c15) >> 32) % vary->count : number;
        for (unsigned i = VARY_DIGITS; i-- > 0; value /= 10)
            digits[i] = (char)(vary->zero + (char)(value % 10));
    }
}

static void on_timeout(uv_timer_t *timer)
{
    settle(timer->data, LOAD_TIMEOUT, false);
}

static void send_request(struct load_conn *conn)
{
    struct load_shared *shared = conn->shared;
    const struct load_plan *plan = shared->plan;
    conn->complete = conn->done_seen = conn->error_seen = conn->content_seen = conn->got_bytes = false;
    conn->events = 0;
    conn->headers_seen = 0;
    conn->body_head_len = 0;
    conn->in_value = false;
    conn->field_len = conn->value_len = 0;
    llhttp_init(&conn->parser, HTTP_RESPONSE, &shared->settings);
    if (plan->stream) {
        sse_release(&conn->sse);
        sse_init(&conn->sse, EVENT_BYTES_MAX);
    }
    set_varying(plan, conn->number);
    uv_timer_start(&conn->timer, on_timeout, plan->timeout_ms, 0);
    struct span request = plan->request;
    if (plan->watch && plan->watch->request)
        request = plan->watch->request(plan->watch->user, conn->number);
    shared->tally->bytes_out += request.len;
    if (conn->tls && buf_append(&conn->plain, request) == OK)
        flush_tls(conn);
    else if (conn->tls || !send_bytes(conn, request))
        settle(conn, LOAD_RESET, false);
}

static bool open_tls(struct load_conn *conn)
{
    const struct load_plan *plan = conn->shared->plan;
    buf_clear(&conn->plain);
    buf_clear(&conn->wire);
    if (plan->tls)
        conn->tls = fake_tls_dial(plan->tls, plan->tls_name);
    return !plan->tls || conn->tls;
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct load_conn *conn = connect->data;
    if (conn->state != LOAD_CONN_CONNECTING)
        return; /* timed out meanwhile */
    conn->state = LOAD_CONN_OPEN;
    if (status == 0)
        status = uv_tcp_nodelay(&conn->tcp, 1);
    if (status == 0)
        status = uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
    if (status != 0 || !open_tls(conn)) {
        settle(conn, LOAD_CONNECT, false);
        return;
    }
    conn->shared->tally->connections++;
    send_request(conn);
}

static void open_conn(struct load_conn *conn)
{
    uv_timer_start(&conn->timer, on_timeout, conn->shared->plan->timeout_ms, 0);
    conn->got_bytes = false;
    conn->body_head_len = 0;
    llhttp_init(&conn->parser, HTTP_RESPONSE, &conn->shared->settings);
    if (uv_tcp_init(&conn->shared->loop, &conn->tcp) != 0) {
        settle(conn, LOAD_CONNECT, false);
        return;
    }
    conn->tcp.data = conn;
    conn->state = LOAD_CONN_CONNECTING;
    if (uv_tcp_connect(&conn->connect, &conn->tcp, (const struct sockaddr *)&conn->shared->plan->address,
                       on_connected) != 0)
        settle(conn, LOAD_CONNECT, false);
}

/* ---- life ---- */

void load_conn_settings(llhttp_settings_t *settings)
{
    llhttp_settings_init(settings);
    settings->on_header_field = on_field;
    settings->on_header_value = on_value;
    settings->on_headers_complete = on_headers_complete;
    settings->on_body = on_body;
    settings->on_message_complete = on_complete;
}

enum err load_conn_init(struct load_conn *conn, struct load_shared *shared)
{
    conn->shared = shared;
    sse_init(&conn->sse, EVENT_BYTES_MAX);
    buf_init(&conn->plain, UINT32_MAX);
    buf_init(&conn->wire, UINT32_MAX);
    if (uv_timer_init(&shared->loop, &conn->timer) != 0 || uv_timer_init(&shared->loop, &conn->reader) != 0)
        return ERR_IO;
    conn->timer.data = conn->reader.data = conn->connect.data = conn->write.data = conn;
    return OK;
}

void load_conn_end(struct load_conn *conn)
{
    if (conn->active && conn->held)
        conn->aborting = true; /* held to the end, as it should be */
    if (conn->active)
        settle(conn, LOAD_UNFINISHED, false);
    drop(conn);
    uv_close((uv_handle_t *)&conn->timer, NULL);
    uv_close((uv_handle_t *)&conn->reader, NULL);
}

void load_conn_release(struct load_conn *conn)
{
    sse_release(&conn->sse);
    buf_release(&conn->plain);
    buf_release(&conn->wire);
}

bool load_conn_is_free(const struct load_conn *conn)
{
    bool ready = conn->state == LOAD_CONN_OPEN || conn->state == LOAD_CONN_CLOSED;
    return ready && !conn->active && !uv_is_active((const uv_handle_t *)&conn->timer);
}

void load_conn_start(struct load_conn *conn, uint64_t number, uint64_t due_ns)
{
    conn->due_ns = due_ns;
    conn->number = number;
    conn->active = true;
    conn->aborting = conn->held = false;
    conn->shared->active++;
    if (conn->state == LOAD_CONN_OPEN)
        send_request(conn);
    else
        open_conn(conn);
}
