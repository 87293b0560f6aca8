#include "tests/support/load_run.h"
#include "common/sse.h"
#include <errno.h>
#include <llhttp.h>
#include <signal.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <uv.h>

#define EVENT_BYTES_MAX (128u * 1024 * 1024)
#define RECONNECT_MS    10 /* keeps a dead server from being asked in a busy loop */
#define USER_DIGITS     10
#define SLOW_READ_BYTES 1024

enum conn_state { CONN_CLOSED, CONN_CONNECTING, CONN_OPEN, CONN_CLOSING };

struct conn {
    struct run *run;
    uv_tcp_t tcp;
    uv_timer_t timer;  /* the request's time, or the pause before a new connection */
    uv_timer_t reader; /* resumes slow reading */
    uv_connect_t connect;
    uv_write_t write;
    char *unsent; /* owned by write */
    enum conn_state state;
    bool active; /* a request is under way */
    bool idle;   /* on the stack of connections that wait for work */
    bool complete, aborting, held;
    bool done_seen, error_seen, content_seen, got_bytes;
    uint64_t due_ns, events, number;
    llhttp_t parser;
    struct sse_framer sse;
    char field[64]; /* name of the header that is being read */
    size_t field_len;
    char value[LOAD_VALUE_BYTES];
    size_t value_len;
    bool in_value;
    uint32_t headers_seen; /* a bit for each counted header */
    char body_head[160];
    size_t body_head_len;
};

struct run {
    const struct load_plan *plan;
    struct load_tally *tally;
    uv_loop_t loop;
    llhttp_settings_t settings;
    struct conn *conns;
    struct conn **idle;
    size_t idle_count;
    uint64_t started_ns, issued, active;
    bool stopping, ended;
    int timer_fd;
    uv_poll_t arrivals;
    uv_timer_t end, progress;
    uv_signal_t signals[2];
    uint64_t last_progress;
    char read_buffer[256 * 1024];
};

static void take_work(struct conn *conn);
static void maybe_end(struct run *run);

/* ---- one request's outcome ---- */

static void note_failure(struct conn *conn, enum load_failure failure)
{
    struct load_tally *tally = conn->run->tally;
    if (tally->first_failure[0] != '\0')
        return;
    (void)snprintf(tally->first_failure, sizeof(tally->first_failure), "%s after %.3f s, status %u: %.*s",
                   load_failure_name(failure), (double)(uv_hrtime() - conn->run->started_ns) / 1e9,
                   conn->parser.status_code, (int)conn->body_head_len, conn->body_head);
}

static void on_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;
    conn->state = CONN_CLOSED;
    if (!conn->active)
        take_work(conn);
}

static void drop(struct conn *conn)
{
    if (conn->state == CONN_CLOSED || conn->state == CONN_CLOSING)
        return;
    conn->state = CONN_CLOSING;
    uv_timer_stop(&conn->reader);
    uv_close((uv_handle_t *)&conn->tcp, on_closed);
}

static void on_pause_over(uv_timer_t *timer)
{
    take_work(timer->data);
}

static void settle(struct conn *conn, enum load_failure failure, bool reusable)
{
    struct run *run = conn->run;
    struct load_tally *tally = run->tally;
    uv_timer_stop(&conn->timer);
    conn->active = false;
    run->active--;
    tally->requests++;
    if (conn->aborting) {
        tally->aborted++;
    } else {
        tally->failures[failure]++;
        if (failure == LOAD_OK)
            load_samples_add(&tally->latency, (uv_hrtime() - conn->due_ns) / 1000);
        else
            note_failure(conn, failure);
    }
    if (failure == LOAD_CONNECT) {
        drop(conn);
        uv_timer_start(&conn->timer, on_pause_over, RECONNECT_MS, 0);
    } else if (reusable && !run->plan->close) {
        take_work(conn);
    } else if (conn->state == CONN_CLOSED) {
        take_work(conn);
    } else {
        drop(conn);
    }
    maybe_end(run);
}

static void finish_response(struct conn *conn)
{
    const struct load_plan *plan = conn->run->plan;
    unsigned status = conn->parser.status_code;
    enum load_failure failure = LOAD_OK;
    if (status < ARRAY_LEN(plan->status_expected))
        conn->run->tally->statuses[status]++;
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

static struct conn *conn_of(llhttp_t *parser)
{
    return CONTAINER_OF(parser, struct conn, parser);
}

static void end_header(struct conn *conn)
{
    struct load_tally *tally = conn->run->tally;
    if (!conn->in_value)
        return;
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
    struct conn *conn = conn_of(parser);
    end_header(conn);
    conn->field_len = copy_part(conn->field, conn->field_len, sizeof(conn->field), at, n);
    return 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t n)
{
    struct conn *conn = conn_of(parser);
    conn->in_value = true;
    conn->value_len = copy_part(conn->value, conn->value_len, sizeof(conn->value), at, n);
    return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct conn *conn = conn_of(parser);
    struct load_tally *tally = conn->run->tally;
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
    struct conn *conn = user;
    struct run *run = conn->run;
    if (!event->has_data)
        return OK;
    run->tally->events++;
    conn->events++;
    if (span_eq(event->data, SPAN("[DONE]")))
        conn->done_seen = true;
    else if (span_starts(event->data, SPAN("{\"error\"")) || span_eq(event->type, SPAN("error")))
        conn->error_seen = true;
    if (!conn->content_seen && has_content(event->data)) {
        conn->content_seen = true;
        load_samples_add(&run->tally->ttft, (uv_hrtime() - conn->due_ns) / 1000);
    }
    if (run->plan->abort_after > 0 && conn->events >= run->plan->abort_after) {
        conn->aborting = true;
        return ERR_CANCELLED;
    }
    return OK;
}

static int on_body(llhttp_t *parser, const char *at, size_t n)
{
    struct conn *conn = conn_of(parser);
    conn->body_head_len = copy_part(conn->body_head, conn->body_head_len, sizeof(conn->body_head), at, n);
    if (conn->run->plan->stream && parser->status_code < 300)
        return sse_feed(&conn->sse, span_of(at, n), on_event, conn) == OK ? 0 : -1;
    return 0;
}

static int on_complete(llhttp_t *parser)
{
    if (parser->status_code < 200) /* an interim response; the real one follows */
        return 0;
    conn_of(parser)->complete = true;
    return HPE_PAUSED;
}

static void on_broken(struct conn *conn, ssize_t code)
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
    struct conn *conn = handle->data;
    (void)suggested;
    bool slow = conn->run->plan->read_rate > 0 || conn->run->plan->hold;
    *ret = uv_buf_init(conn->run->read_buffer, slow ? SLOW_READ_BYTES : sizeof(conn->run->read_buffer));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes);

static void on_read_again(uv_timer_t *timer)
{
    struct conn *conn = timer->data;
    if (conn->state == CONN_OPEN)
        uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
}

static void hold_back(struct conn *conn, size_t n)
{
    const struct load_plan *plan = conn->run->plan;
    if (plan->hold && !conn->held) {
        conn->held = true;
        uv_timer_stop(&conn->timer);
        uv_read_stop((uv_stream_t *)&conn->tcp);
        if (++conn->run->tally->held == plan->connections)
            fprintf(stderr, "holding %u\n", plan->connections);
    } else if (plan->read_rate > 0 && conn->active) {
        uv_read_stop((uv_stream_t *)&conn->tcp);
        uv_timer_start(&conn->reader, on_read_again, n * 1000 / plan->read_rate + 1, 0);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
    struct conn *conn = stream->data;
    if (n == 0)
        return;
    if (n < 0) {
        on_broken(conn, n);
        return;
    }
    conn->run->tally->bytes_in += (uint64_t)n;
    conn->got_bytes = true;
    if (!conn->active) {
        drop(conn); /* bytes that nobody asked for */
        return;
    }
    llhttp_errno_t code = llhttp_execute(&conn->parser, bytes->base, (size_t)n);
    if (conn->aborting) {
        settle(conn, LOAD_OK, false);
    } else if (conn->complete) {
        bool all_used = llhttp_get_error_pos(&conn->parser) == bytes->base + n;
        if (all_used)
            finish_response(conn);
        else
            settle(conn, LOAD_MALFORMED, false);
    } else if (code != HPE_OK) {
        settle(conn, LOAD_MALFORMED, false);
    } else {
        hold_back(conn, (size_t)n);
    }
}

/* ---- sending ---- */

static void on_written(uv_write_t *write, int status)
{
    struct conn *conn = write->data;
    (void)status; /* a broken connection shows in reading, too */
    free(conn->unsent);
    conn->unsent = NULL;
}

/* The digits in the shared request change with each request: all that is not sent at once is copied. */
static void set_user(const struct load_plan *plan, uint64_t number)
{
    char *digits = (char *)(uintptr_t)(plan->request.ptr + plan->user_at);
    for (unsigned i = USER_DIGITS; i-- > 0; number /= 10)
        digits[i] = (char)('0' + number % 10);
}

static void on_timeout(uv_timer_t *timer)
{
    settle(timer->data, LOAD_TIMEOUT, false);
}

static void send_request(struct conn *conn)
{
    struct run *run = conn->run;
    const struct load_plan *plan = run->plan;
    conn->complete = conn->done_seen = conn->error_seen = conn->content_seen = conn->got_bytes = false;
    conn->events = 0;
    conn->headers_seen = 0;
    conn->body_head_len = 0;
    conn->in_value = false;
    conn->field_len = conn->value_len = 0;
    llhttp_init(&conn->parser, HTTP_RESPONSE, &run->settings);
    if (plan->stream) {
        sse_release(&conn->sse);
        sse_init(&conn->sse, EVENT_BYTES_MAX);
    }
    if (plan->user_at != SIZE_MAX)
        set_user(plan, conn->number);
    uv_timer_start(&conn->timer, on_timeout, plan->timeout_ms, 0);
    run->tally->bytes_out += plan->request.len;
    uv_buf_t bytes = uv_buf_init((char *)(uintptr_t)plan->request.ptr, (unsigned)plan->request.len);
    int n = uv_try_write((uv_stream_t *)&conn->tcp, &bytes, 1);
    if (n == (int)plan->request.len)
        return;
    if (n < 0 && n != UV_EAGAIN) {
        settle(conn, LOAD_RESET, false);
        return;
    }
    size_t sent = n > 0 ? (size_t)n : 0;
    size_t left = plan->request.len - sent;
    conn->unsent = malloc(left);
    if (!conn->unsent) {
        settle(conn, LOAD_RESET, false);
        return;
    }
    memcpy(conn->unsent, plan->request.ptr + sent, left);
    bytes = uv_buf_init(conn->unsent, (unsigned)left);
    if (uv_write(&conn->write, (uv_stream_t *)&conn->tcp, &bytes, 1, on_written) != 0) {
        free(conn->unsent);
        conn->unsent = NULL;
        settle(conn, LOAD_RESET, false);
    }
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct conn *conn = connect->data;
    if (conn->state != CONN_CONNECTING)
        return; /* timed out meanwhile */
    conn->state = CONN_OPEN;
    if (status == 0)
        status = uv_tcp_nodelay(&conn->tcp, 1);
    if (status == 0)
        status = uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
    if (status != 0) {
        settle(conn, LOAD_CONNECT, false);
        return;
    }
    conn->run->tally->connections++;
    send_request(conn);
}

static void open_conn(struct conn *conn)
{
    uv_timer_start(&conn->timer, on_timeout, conn->run->plan->timeout_ms, 0);
    conn->got_bytes = false;
    conn->body_head_len = 0;
    llhttp_init(&conn->parser, HTTP_RESPONSE, &conn->run->settings);
    if (uv_tcp_init(&conn->run->loop, &conn->tcp) != 0) {
        settle(conn, LOAD_CONNECT, false);
        return;
    }
    conn->tcp.data = conn;
    conn->state = CONN_CONNECTING;
    if (uv_tcp_connect(&conn->connect, &conn->tcp, (const struct sockaddr *)&conn->run->plan->address, on_connected) !=
        0)
        settle(conn, LOAD_CONNECT, false);
}

/* ---- who sends when ---- */

static bool may_issue(const struct run *run)
{
    return !run->stopping && run->issued < run->plan->requests;
}

static uint64_t due_ns(const struct run *run, uint64_t number)
{
    return run->started_ns + (uint64_t)((double)number * 1e9 / run->plan->rate);
}

static void start_request(struct conn *conn, uint64_t due)
{
    struct run *run = conn->run;
    conn->due_ns = due;
    conn->active = true;
    conn->aborting = conn->held = false;
    conn->number = run->issued++;
    run->active++;
    if (conn->state == CONN_OPEN)
        send_request(conn);
    else
        open_conn(conn);
}

static void set_alarm(struct run *run)
{
    uint64_t at = due_ns(run, run->issued);
    struct itimerspec spec = { .it_value = { .tv_sec = (time_t)(at / 1000000000),
                                             .tv_nsec = (long)(at % 1000000000) } };
    (void)timerfd_settime(run->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Gives what is due to connections that have nothing to do. */
static void dispatch(struct run *run)
{
    while (run->idle_count > 0 && may_issue(run)) {
        uint64_t due = due_ns(run, run->issued);
        if (due > uv_hrtime()) {
            set_alarm(run);
            return;
        }
        struct conn *conn = run->idle[--run->idle_count];
        conn->idle = false;
        start_request(conn, due);
    }
}

/* Of a connection that is open or closed, and has no request. */
static void take_work(struct conn *conn)
{
    struct run *run = conn->run;
    bool ready = conn->state == CONN_OPEN || conn->state == CONN_CLOSED;
    if (!ready || conn->active || conn->idle || !may_issue(run) || uv_is_active((uv_handle_t *)&conn->timer))
        return;
    if (run->plan->rate <= 0) {
        start_request(conn, uv_hrtime());
        return;
    }
    if (due_ns(run, run->issued) <= uv_hrtime())
        run->tally->waited++;
    conn->idle = true;
    run->idle[run->idle_count++] = conn;
    dispatch(run);
}

static void on_arrival(uv_poll_t *poll, int status, int events)
{
    struct run *run = poll->data;
    uint64_t expirations;
    (void)status;
    (void)events;
    if (read(run->timer_fd, &expirations, sizeof(expirations)) > 0)
        dispatch(run);
}

/* ---- the run ---- */

static void end_run(struct run *run)
{
    if (run->ended)
        return;
    run->ended = run->stopping = true;
    run->tally->seconds = (double)(uv_hrtime() - run->started_ns) / 1e9;
    for (unsigned i = 0; i < run->plan->connections; i++) {
        struct conn *conn = &run->conns[i];
        if (conn->active && conn->held)
            conn->aborting = true; /* held to the end, as it should be */
        if (conn->active)
            settle(conn, LOAD_UNFINISHED, false);
        drop(conn);
        uv_close((uv_handle_t *)&conn->timer, NULL);
        uv_close((uv_handle_t *)&conn->reader, NULL);
    }
    uv_close((uv_handle_t *)&run->end, NULL);
    uv_close((uv_handle_t *)&run->progress, NULL);
    for (size_t i = 0; i < ARRAY_LEN(run->signals); i++)
        uv_close((uv_handle_t *)&run->signals[i], NULL);
    if (run->timer_fd >= 0)
        uv_close((uv_handle_t *)&run->arrivals, NULL);
}

static void maybe_end(struct run *run)
{
    if (!run->ended && run->active == 0 && !may_issue(run))
        end_run(run);
}

static void on_drained(uv_timer_t *timer)
{
    end_run(timer->data);
}

static void stop_issuing(struct run *run)
{
    if (run->ended)
        return;
    run->stopping = true;
    if (run->plan->hold)
        end_run(run);
    else
        uv_timer_start(&run->end, on_drained, run->plan->drain_ms, 0);
    maybe_end(run);
}

static void on_time_over(uv_timer_t *timer)
{
    stop_issuing(timer->data);
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)number;
    stop_issuing(handle->data);
}

static void on_progress(uv_timer_t *timer)
{
    struct run *run = timer->data;
    uint64_t now = run->tally->requests;
    fprintf(stderr, "loadgen: %.0f s, %llu requests (%llu/s), %llu failed, %llu running\n",
            (double)(uv_hrtime() - run->started_ns) / 1e9, (unsigned long long)now,
            (unsigned long long)(now - run->last_progress), (unsigned long long)load_tally_failed(run->tally),
            (unsigned long long)run->active);
    run->last_progress = now;
}

static enum err open_arrivals(struct run *run)
{
    run->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); /* uv_hrtime's clock */
    if (run->timer_fd < 0 || uv_poll_init(&run->loop, &run->arrivals, run->timer_fd) != 0)
        return ERR_IO;
    run->arrivals.data = run;
    return uv_poll_start(&run->arrivals, UV_READABLE, on_arrival) == 0 ? OK : ERR_IO;
}

static enum err open_timers(struct run *run)
{
    static const int numbers[] = { SIGINT, SIGTERM };
    if (uv_timer_init(&run->loop, &run->end) != 0 || uv_timer_init(&run->loop, &run->progress) != 0)
        return ERR_IO;
    run->end.data = run->progress.data = run;
    if (run->plan->duration_ms > 0)
        uv_timer_start(&run->end, on_time_over, run->plan->duration_ms, 0);
    if (run->plan->progress)
        uv_timer_start(&run->progress, on_progress, 1000, 1000);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        if (uv_signal_init(&run->loop, &run->signals[i]) != 0)
            return ERR_IO;
        run->signals[i].data = run;
        uv_signal_start(&run->signals[i], on_signal, numbers[i]);
    }
    return OK;
}

static void settings_init(llhttp_settings_t *settings)
{
    llhttp_settings_init(settings);
    settings->on_header_field = on_field;
    settings->on_header_value = on_value;
    settings->on_headers_complete = on_headers_complete;
    settings->on_body = on_body;
    settings->on_message_complete = on_complete;
}

static enum err start(struct run *run)
{
    unsigned count = run->plan->connections;
    run->conns = calloc(count, sizeof(*run->conns));
    run->idle = calloc(count, sizeof(struct conn *));
    if (!run->conns || !run->idle)
        return ERR_NOMEM;
    settings_init(&run->settings);
    enum err err = open_timers(run);
    if (err == OK && run->plan->rate > 0)
        err = open_arrivals(run);
    if (err != OK)
        return err;
    run->started_ns = uv_hrtime();
    for (unsigned i = 0; i < count; i++) {
        struct conn *conn = &run->conns[i];
        conn->run = run;
        sse_init(&conn->sse, EVENT_BYTES_MAX);
        if (uv_timer_init(&run->loop, &conn->timer) != 0 || uv_timer_init(&run->loop, &conn->reader) != 0)
            return ERR_IO;
        conn->timer.data = conn->reader.data = conn->connect.data = conn->write.data = conn;
    }
    for (unsigned i = 0; i < count && !run->ended; i++)
        take_work(&run->conns[i]);
    run->tally->waited = 0; /* the first ones found nobody who could have been late */
    maybe_end(run);
    return OK;
}

enum err load_run(const struct load_plan *plan, struct load_tally *tally)
{
    struct run *run = calloc(1, sizeof(*run));
    if (!run)
        return ERR_NOMEM;
    run->plan = plan;
    run->tally = tally;
    run->timer_fd = -1;
    if (uv_loop_init(&run->loop) != 0) {
        free(run);
        return ERR_IO;
    }
    enum err err = start(run);
    if (err == OK) {
        uv_run(&run->loop, UV_RUN_DEFAULT);
        REQUIRE(uv_loop_close(&run->loop) == 0);
        for (unsigned i = 0; i < plan->connections; i++)
            sse_release(&run->conns[i].sse);
    }
    if (run->timer_fd >= 0)
        close(run->timer_fd);
    free(run->idle);
    free(run->conns);
    free(run);
    return err;
}
