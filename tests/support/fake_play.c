#include "tests/support/fake_play.h"
#include "tests/support/fake_ask.h"
#include "tests/support/fake_conn.h"
#include "tests/support/fake_control.h"
#include "common/clock.h"
#include <unistd.h>

#define EXIT_DIED 70

enum route { ROUTE_NONE, ROUTE_MODELS, ROUTE_MODEL, ROUTE_CHAT, ROUTE_COMPLETION, ROUTE_EMBEDDING };

static void put(struct fake_conn *conn, struct span bytes)
{
    fake_must(buf_append(&conn->out, bytes));
}

static uint64_t now_us(void)
{
    return uv_hrtime() / 1000;
}

static bool hit_by(const struct fake_play *play, enum fake_fault_kind kind)
{
    return play->hit && play->answer.shape.fault.kind == kind;
}

/* ---- heads and whole bodies ---- */

static const char *reason_phrase(unsigned status)
{
    switch (status) {
    case 200:
        return "OK";
    case 302:
        return "Found";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 404:
        return "Not Found";
    case 429:
        return "Too Many Requests";
    default:
        return status < 500 ? "Refused" : "Server Error";
    }
}

static void put_bad_headers(struct fake_conn *conn)
{
    const struct fake_fault *fault = &conn->play.answer.shape.fault;
    if (hit_by(&conn->play, FAKE_FAULT_SETCOOKIE))
        put(conn, SPAN("set-cookie: __cf_bm=fake; path=/; HttpOnly\r\nopenai-organization: org-fake\r\n"
                       "openai-project: proj_fake\r\nserver: fakellm\r\n"));
    if (hit_by(&conn->play, FAKE_FAULT_BIGHEAD)) {
        size_t n = fault->has_arg ? fault->arg : 64 * 1024;
        char *at;
        put(conn, SPAN("x-big: "));
        fake_must(buf_reserve(&conn->out, n, &at));
        memset(at, 'b', n);
        buf_commit(&conn->out, n);
        put(conn, SPAN("\r\n"));
    }
}

/* length SIZE_MAX: a body whose length is not known. extra: further header lines. */
static void put_head(struct fake_conn *conn, unsigned status, const char *type, size_t length, const char *extra)
{
    struct fake_play *play = &conn->play;
    size_t before = conn->out.len;
    fake_must(buf_printf(&conn->out, "HTTP/1.1 %u %s\r\ncontent-type: %s\r\nx-request-id: req_%s\r\n%s", status,
                         reason_phrase(status), type, play->answer.id, extra));
    if (play->hit)
        put_bad_headers(conn);
    if (length != SIZE_MAX)
        fake_must(buf_printf(&conn->out, "content-length: %zu\r\n", length));
    else if (conn->request.http10)
        conn->request.keep_alive = false;
    else
        put(conn, SPAN("transfer-encoding: chunked\r\n"));
    if (!conn->request.keep_alive)
        put(conn, SPAN("connection: close\r\n"));
    else if (conn->request.http10)
        put(conn, SPAN("connection: keep-alive\r\n"));
    put(conn, SPAN("\r\n"));
    if (hit_by(play, FAKE_FAULT_SLOWHEAD) && !conn->tls) {
        conn->trickle = conn->out.len - before;
        conn->trickle_ms = play->answer.shape.fault.has_arg ? play->answer.shape.fault.arg : 100;
        fake_conn_timer(conn, conn->trickle_ms);
    }
}

static void end_play(struct fake_conn *conn)
{
    struct fake_play *play = &conn->play;
    if (play->stream_open)
        conn->server->stats.streams_open--;
    play->stream_open = false;
    play->state = FAKE_PLAY_IDLE;
}

static void finish(struct fake_conn *conn)
{
    end_play(conn);
    fake_conn_finish(conn);
}

/* What is in out goes, then FIN. */
static void hang_up(struct fake_conn *conn)
{
    end_play(conn);
    conn->close_when_flushed = true;
    fake_conn_finish(conn);
}

static void hang_up_rst(struct fake_conn *conn)
{
    end_play(conn);
    fake_conn_flush(conn);
    fake_conn_reset(conn);
}

static bool stops_midway(const struct fake_play *play)
{
    if (!play->hit)
        return false;
    switch (play->answer.shape.fault.kind) {
    case FAKE_FAULT_CUT:
    case FAKE_FAULT_RESET:
    case FAKE_FAULT_NODONE:
    case FAKE_FAULT_SILENT:
    case FAKE_FAULT_DIE:
        return true;
    default:
        return false;
    }
}

/* How an answer that is not complete ends; what was sent before is in out. */
static void stop_midway(struct fake_conn *conn)
{
    switch (conn->play.answer.shape.fault.kind) {
    case FAKE_FAULT_RESET:
        hang_up_rst(conn);
        return;
    case FAKE_FAULT_SILENT:
        conn->play.state = FAKE_PLAY_SILENT;
        fake_conn_flush(conn);
        return;
    case FAKE_FAULT_DIE:
        fake_conn_flush(conn);
        _exit(EXIT_DIED);
    default:
        hang_up(conn);
        return;
    }
}

static void send_body(struct fake_conn *conn, unsigned status, const char *type, const char *extra, struct span body)
{
    put_head(conn, status, type, body.len, extra);
    if (stops_midway(&conn->play)) {
        put(conn, span_head(body, body.len / 2));
        stop_midway(conn);
        return;
    }
    put(conn, body);
    finish(conn);
}

static void send_json(struct fake_conn *conn, unsigned status, const char *extra)
{
    send_body(conn, status, "application/json", extra, buf_span(&conn->server->body));
}

static void send_error(struct fake_conn *conn, unsigned status, const char *message, const char *extra)
{
    buf_clear(&conn->server->body);
    fake_error_object(status, span_cstr(message), &conn->server->body);
    send_json(conn, status, extra);
}

/* ---- faults that answer at once ---- */

static const char overloaded[] =
    "{\"error\":{\"message\":\"The model is overloaded, try again later\",\"type\":\"overloaded_error\","
    "\"param\":null,\"code\":\"overloaded\"}}";

static void send_stream_of(struct fake_conn *conn, bool role, struct span event)
{
    struct fake_answer *answer = &conn->play.answer;
    bool chunked = !conn->request.http10;
    put_head(conn, 200, "text/event-stream", SIZE_MAX, "");
    if (role) {
        fake_answer_open(answer, conn->server->knobs.name);
        fake_event_role(answer, chunked, &conn->out);
    }
    if (event.len > 0)
        fake_event_data(event, chunked, &conn->out);
    if (chunked)
        put(conn, SPAN("0\r\n\r\n"));
    finish(conn);
}

static void send_status_fault(struct fake_conn *conn)
{
    const struct fake_fault *fault = &conn->play.answer.shape.fault;
    char extra[64] = "";
    char message[64];
    if (fault->has_arg)
        (void)snprintf(extra, sizeof(extra), "retry-after: %llu\r\n", (unsigned long long)fault->arg);
    (void)snprintf(message, sizeof(message), "simulated %u", fault->status);
    send_error(conn, fault->status, message, extra);
}

static void send_garbage(struct fake_conn *conn)
{
    static const char bytes[] = "\x01\x02<html>not what you wanted\xff\xfe{{{]";
    if (conn->play.answer.shape.fault.arg == 1) {
        put(conn, span_of(bytes, sizeof(bytes) - 1));
        hang_up(conn);
        return;
    }
    send_body(conn, 200, conn->play.answer.stream ? "text/event-stream" : "application/json", "",
              span_of(bytes, sizeof(bytes) - 1));
}

/* False: this fault leaves the answer to be given, changed on the way. */
static bool is_at_once(const struct fake_fault *fault)
{
    switch (fault->kind) {
    case FAKE_FAULT_REFUSE:
    case FAKE_FAULT_HANG:
    case FAKE_FAULT_STATUS:
    case FAKE_FAULT_OVERLOAD200:
    case FAKE_FAULT_ERROR200:
    case FAKE_FAULT_EMPTY:
    case FAKE_FAULT_GARBAGE:
    case FAKE_FAULT_REDIRECT:
        return true;
    case FAKE_FAULT_DIE:
        return !fault->has_arg;
    default:
        return false;
    }
}

static void misbehave(struct fake_conn *conn)
{
    struct fake_play *play = &conn->play;
    struct fake_fault *fault = &play->answer.shape.fault;
    buf_clear(&conn->server->body);
    switch (fault->kind) {
    case FAKE_FAULT_REFUSE:
        hang_up_rst(conn);
        return;
    case FAKE_FAULT_HANG:
        play->state = FAKE_PLAY_SILENT;
        return;
    case FAKE_FAULT_STATUS:
        send_status_fault(conn);
        return;
    case FAKE_FAULT_OVERLOAD200:
    case FAKE_FAULT_ERROR200:
        if (play->answer.stream && fault->kind == FAKE_FAULT_OVERLOAD200)
            send_stream_of(conn, false, span_of(overloaded, sizeof(overloaded) - 1));
        else
            send_body(conn, 200, "application/json", "", span_of(overloaded, sizeof(overloaded) - 1));
        return;
    case FAKE_FAULT_EMPTY:
        if (play->answer.stream)
            send_stream_of(conn, fault->arg == 1, fault->arg == 1 ? SPAN("[DONE]") : SPAN(""));
        else
            send_json(conn, 200, "");
        return;
    case FAKE_FAULT_GARBAGE:
        send_garbage(conn);
        return;
    case FAKE_FAULT_REDIRECT:
        send_json(conn, 302, "location: /redirected\r\n");
        return;
    case FAKE_FAULT_DIE:
        _exit(EXIT_DIED);
    default:
        REQUIRE(false);
    }
}

/* ---- the answer ---- */

static void wait_then(struct fake_conn *conn, uint64_t us)
{
    conn->play.state = FAKE_PLAY_WAITING;
    if (us == 0)
        fake_play_tick(conn);
    else
        fake_conn_timer(conn, (us + 999) / 1000);
}

static void send_whole(struct fake_conn *conn)
{
    struct fake_server *server = conn->server;
    if (hit_by(&conn->play, FAKE_FAULT_ERROREVENT)) {
        send_body(conn, 200, "application/json", "", span_of(overloaded, sizeof(overloaded) - 1));
        return;
    }
    buf_clear(&server->body);
    fake_answer_whole(&conn->play.answer, &server->text, &server->body);
    send_json(conn, 200, "");
}

static void open_stream(struct fake_conn *conn)
{
    put_head(conn, 200, "text/event-stream; charset=utf-8", SIZE_MAX, "cache-control: no-cache\r\n");
    fake_event_role(&conn->play.answer, !conn->request.http10, &conn->out);
    conn->play.head_sent = true;
}

/* Half of a chunk that promises more than comes. */
static void stop_stream(struct fake_conn *conn)
{
    enum fake_fault_kind kind = conn->play.answer.shape.fault.kind;
    bool chunked = !conn->request.http10;
    if (kind == FAKE_FAULT_NODONE || kind == FAKE_FAULT_ERROREVENT) {
        if (kind == FAKE_FAULT_ERROREVENT)
            fake_event_data(span_of(overloaded, sizeof(overloaded) - 1), chunked, &conn->out);
        if (chunked)
            put(conn, SPAN("0\r\n\r\n"));
        finish(conn);
        return;
    }
    if (kind == FAKE_FAULT_CUT) {
        if (chunked)
            put(conn, SPAN("400\r\n"));
        put(conn, SPAN("data: {\"id\":\"chatcmpl-"));
    }
    stop_midway(conn);
}

static bool must_stop(const struct fake_play *play)
{
    return (stops_midway(play) || hit_by(play, FAKE_FAULT_ERROREVENT)) && play->step >= play->answer.shape.fault.arg;
}

/* Sends what is due, and waits for the clock or for the peer. */
static void run(struct fake_conn *conn)
{
    struct fake_play *play = &conn->play;
    const struct fake_answer *answer = &play->answer;
    struct prng *prng = &conn->server->knobs.prng;
    uint64_t steps = fake_answer_steps(answer);
    bool chunked = !conn->request.http10;
    while (!conn->closing && !conn->writing) {
        uint64_t now = now_us();
        if (play->due_us <= now && !play->head_sent)
            open_stream(conn);
        if (conn->trickle > 0)
            return;
        while (play->due_us <= now && play->step < steps && !must_stop(play) &&
               fake_conn_unsent(conn) < FAKE_OUT_HIGH) {
            fake_event_token(answer, &conn->server->text, play->step++, chunked, &conn->out);
            play->due_us += play->step < steps ? fake_range_draw(answer->shape.token, prng) : 0;
        }
        if (play->due_us <= now && must_stop(play)) {
            stop_stream(conn);
            return;
        }
        if (play->due_us <= now && play->step == steps) {
            fake_event_tail(answer, chunked, &conn->out);
            if (chunked)
                put(conn, SPAN("0\r\n\r\n"));
            finish(conn);
            return;
        }
        fake_conn_flush(conn);
        if (play->due_us > now && !conn->closing) {
            fake_conn_timer(conn, (play->due_us - now + 999) / 1000);
            return;
        }
    }
}

static void start_answer(struct fake_conn *conn)
{
    struct fake_play *play = &conn->play;
    struct fake_answer *answer = &play->answer;
    struct prng *prng = &conn->server->knobs.prng;
    uint64_t ttft = fake_range_draw(answer->shape.ttft, prng);
    if (answer->kind == FAKE_EMBEDDING) {
        wait_then(conn, ttft);
        return;
    }
    fake_answer_open(answer, conn->server->knobs.name);
    if (!answer->stream) {
        wait_then(conn, ttft + fake_answer_steps(answer) * fake_range_draw(answer->shape.token, prng));
        return;
    }
    play->stream_open = true;
    conn->server->stats.streams++;
    conn->server->stats.streams_open++;
    play->state = FAKE_PLAY_STREAM;
    play->due_us = now_us() + ttft;
    run(conn);
}

void fake_play_tick(struct fake_conn *conn)
{
    switch (conn->play.state) {
    case FAKE_PLAY_WAITING:
        if (conn->play.fault_due)
            misbehave(conn);
        else
            send_whole(conn);
        return;
    case FAKE_PLAY_STREAM:
        run(conn);
        return;
    case FAKE_PLAY_IDLE:
    case FAKE_PLAY_SILENT:
        return;
    }
}

void fake_play_drained(struct fake_conn *conn)
{
    if (conn->play.state == FAKE_PLAY_STREAM)
        run(conn);
}

void fake_play_gone(struct fake_conn *conn)
{
    struct fake_play *play = &conn->play;
    if (play->state == FAKE_PLAY_IDLE)
        return;
    if (play->stream_open)
        conn->server->stats.streams_cancelled++;
    else
        conn->server->stats.requests_cancelled++;
    end_play(conn);
}

void fake_play_release(struct fake_play *play)
{
    buf_release(&play->answer.model);
    buf_release(&play->answer.prefix);
}

/* ---- routing ---- */

static enum route find_route(struct span path, struct span *ret_rest)
{
    static const struct {
        struct span path;
        enum route route;
    } rows[] = {
        { { "/chat/completions", 17 }, ROUTE_CHAT },
        { { "/completions", 12 }, ROUTE_COMPLETION },
        { { "/embeddings", 11 }, ROUTE_EMBEDDING },
        { { "/models", 7 }, ROUTE_MODELS },
    };
    if (span_starts(path, SPAN("/v1/"))) {
        path = span_skip(path, 3);
    } else if (span_starts(path, SPAN("/openai/deployments/"))) {
        path = span_skip(path, strlen("/openai/deployments/"));
        size_t slash = span_find_byte(path, '/');
        path = span_skip(path, slash);
    }
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (span_eq(path, rows[i].path))
            return rows[i].route;
    }
    *ret_rest = span_skip(path, strlen("/models/"));
    return span_starts(path, SPAN("/models/")) ? ROUTE_MODEL : ROUTE_NONE;
}

static bool listed(struct span list, struct span wanted)
{
    struct span item;
    while (span_split(&list, ',', &item)) {
        if (span_eq(span_trim(item), wanted))
            return true;
    }
    return false;
}

static bool authorized(struct fake_conn *conn)
{
    const char *keys = conn->server->knobs.require_key;
    if (keys[0] == '\0')
        return true;
    struct span bearer = fake_request_header(&conn->request, SPAN("authorization"));
    if (span_starts_nocase(bearer, SPAN("bearer ")) && listed(span_cstr(keys), span_skip(bearer, 7)))
        return true;
    return listed(span_cstr(keys), fake_request_header(&conn->request, SPAN("api-key")));
}

/* A fault that the request itself asks for comes before the server's own. One with a count is for requests that cost
 * something: a probe must not use it up. */
static bool choose_fault(struct fake_conn *conn)
{
    struct fake_server *server = conn->server;
    struct fake_fault *own = &conn->play.answer.shape.fault;
    struct fake_fault *general = &server->knobs.shape.fault;
    bool hit;
    if (own->kind != FAKE_FAULT_NONE) {
        hit = fake_fault_roll(own, &server->knobs.prng);
    } else {
        *own = *general;
        hit = (general->remaining == UINT64_MAX || conn->request.method == HTTP_POST) &&
              fake_fault_roll(general, &server->knobs.prng);
    }
    if (hit)
        server->stats.faults[own->kind]++;
    else
        *own = (struct fake_fault){ 0 };
    return hit;
}

static void send_models(struct fake_conn *conn, enum route route, struct span model)
{
    struct span models = span_cstr(conn->server->knobs.models);
    buf_clear(&conn->server->body);
    if (route == ROUTE_MODELS) {
        fake_models_list(models, &conn->server->body);
    } else if (listed(models, model)) {
        fake_model_object(model, &conn->server->body);
    } else {
        send_error(conn, 404, "the model does not exist", "");
        return;
    }
    send_json(conn, 200, "");
}

static void send_control(struct fake_conn *conn, struct span path)
{
    buf_clear(&conn->server->body);
    unsigned status = fake_control_answer(conn, path, &conn->server->body);
    send_json(conn, status, "");
}

static bool model_offered(struct fake_conn *conn)
{
    struct span model = buf_span(&conn->play.answer.model);
    return !conn->server->knobs.strict_models ||
           listed(span_cstr(conn->server->knobs.models), span_of(model.ptr + 1, model.len - 2));
}

/* Resets the play, but keeps its buffers. */
static void prepare(struct fake_conn *conn)
{
    struct fake_server *server = conn->server;
    struct fake_play *play = &conn->play;
    struct buf model = play->answer.model;
    struct buf prefix = play->answer.prefix;
    *play = (struct fake_play){ .answer = { .model = model, .prefix = prefix, .shape = server->knobs.shape } };
    play->answer.shape.fault = (struct fake_fault){ 0 };
    play->answer.created = clock_wall_ms() / 1000;
    (void)snprintf(play->answer.id, sizeof(play->answer.id), "%s%08llx", server->id_prefix,
                   (unsigned long long)server->next_id++);
}

static void answer_post(struct fake_conn *conn, enum err asked, const char *message)
{
    if (asked != OK)
        send_error(conn, 400, message, "");
    else if (!model_offered(conn))
        send_error(conn, 404, "the model does not exist or you do not have access to it", "");
    else
        start_answer(conn);
}

void fake_play_start(struct fake_conn *conn)
{
    struct fake_server *server = conn->server;
    struct fake_play *play = &conn->play;
    struct span url = fake_request_url(&conn->request);
    struct span path = span_head(url, span_find_byte(url, '?'));
    struct span rest = SPAN("");
    const char *message = "";
    enum err asked = OK;
    prepare(conn);
    if (span_starts(path, SPAN("/__fake/"))) {
        send_control(conn, path);
        return;
    }
    fake_control_record(conn, path);
    enum route route = find_route(path, &rest);
    bool post = conn->request.method == HTTP_POST;
    if (post && route >= ROUTE_CHAT) {
        play->answer.kind = (enum fake_kind)(route - ROUTE_CHAT);
        asked = fake_ask(&server->arena, buf_span(&conn->request.body), span_cstr(server->knobs.name), &play->answer,
                         &message);
    }
    play->hit = choose_fault(conn);
    if (play->hit && is_at_once(&play->answer.shape.fault)) {
        play->fault_due = true;
        wait_then(conn, fake_range_draw(play->answer.shape.fault_ms, &server->knobs.prng));
    } else if (!authorized(conn)) {
        server->stats.auth_failures++;
        send_error(conn, 401, "Incorrect API key provided", "");
    } else if (route == ROUTE_NONE || post != (route >= ROUTE_CHAT)) {
        send_error(conn, route == ROUTE_NONE ? 404 : 405, "unknown URL or method", "");
    } else if (post) {
        answer_post(conn, asked, message);
    } else {
        send_models(conn, route, rest);
    }
    arena_reset(&server->arena);
}
