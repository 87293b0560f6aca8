/* HTTP/2 with one client: nghttp2's own, or frames made by hand where no library would send them. */
#include "tests/unit/dataplane/worker/h2_rig.h"
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* ---- a client ---- */

#define STREAMS 512
struct got { /* of one stream, by its id */
    unsigned status, interim;
    struct buf head, body;
    bool ended, closed;
    uint32_t code;
};
struct client {
    struct rig rig;
    nghttp2_session *session;
    struct got got[STREAMS];
    bool deaf; /* reads nothing */
    bool goaway;
    uint32_t goaway_code;
    int32_t goaway_last, goaway_first;
    unsigned goaways, pongs, settings;
    int error; /* of its session */
};

static struct got *got_of(struct client *c, int32_t id)
{
    assert_true(id > 0 && id / 2 < STREAMS);
    return &c->got[id / 2];
}
static int on_field(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                    const uint8_t *value, size_t value_len, uint8_t flags, void *user)
{
    struct got *got = got_of(user, frame->hd.stream_id);
    (void)session;
    (void)flags;
    const struct span n = span_of(name, name_len), v = span_of(value, value_len);
    if (span_eq(n, SPAN(":status"))) {
        uint64_t status = 0;
        assert_int_equal(span_to_u64(v, &status), OK);
        if (status < 200)
            got->interim++;
        else
            got->status = (unsigned)status;
    }
    assert_int_equal(buf_printf(&got->head, SPAN_FMT ": " SPAN_FMT "\n", SPAN_ARG(n), SPAN_ARG(v)), OK);
    return 0;
}
static int on_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user)
{
    (void)session;
    (void)flags;
    assert_int_equal(buf_append(&got_of(user, id)->body, span_of(data, len)), OK);
    return 0;
}
static int on_got(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct client *c = user;
    (void)session;
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        c->goaway = true;
        if (!c->goaways++)
            c->goaway_first = frame->goaway.last_stream_id;
        c->goaway_code = frame->goaway.error_code;
        c->goaway_last = frame->goaway.last_stream_id;
    }
    c->pongs += frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK);
    c->settings += frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK);
    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        got_of(c, frame->hd.stream_id)->ended = true;
    return 0;
}
static int on_end(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    (void)session;
    got_of(user, id)->closed = true;
    got_of(user, id)->code = code;
    return 0;
}

/* window 0: the library gives windows back by itself; else the streams' and the connection's, kept by the test. */
static void client_open(struct client *c, int32_t window)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    assert_int_equal(rig_open(&c->rig), OK);
    assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_field);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_got);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_end);
    assert_int_equal(nghttp2_option_new(&option), 0);
    nghttp2_option_set_no_auto_window_update(option, window != 0);
    nghttp2_option_set_no_http_messaging(option, 1); /* it sends what it is told to */
    nghttp2_option_set_peer_max_concurrent_streams(option, STREAMS);
    nghttp2_option_set_max_send_header_block_length(option, 4u << 20);
    assert_int_equal(nghttp2_session_client_new2(&c->session, callbacks, c, option), 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    const nghttp2_settings_entry entry = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window ? (uint32_t)window : 65535 };
    assert_int_equal(nghttp2_submit_settings(c->session, 0, &entry, 1), 0);
    for (unsigned i = 0; i < STREAMS; i++) {
        buf_init(&c->got[i].head, 1u << 20);
        buf_init(&c->got[i].body, 64u << 20);
    }
}
/* Bytes go to and fro until nothing moves. */
static void pump(struct client *c)
{
    bool moved = true;
    while (moved) {
        const uint8_t *bytes;
        ssize_t n;
        moved = false;
        while (c->error == 0 && (n = nghttp2_session_mem_send(c->session, &bytes)) > 0) {
            rig_give(&c->rig, span_of(bytes, (size_t)n));
            moved = true;
        }
        rig_turn(&c->rig);
        const struct span wire = buf_span(&c->rig.socket.wire);
        if (c->deaf || wire.len == 0)
            continue;
        n = c->error ? (ssize_t)wire.len : nghttp2_session_mem_recv(c->session, (const uint8_t *)wire.ptr, wire.len);
        if (n < 0)
            c->error = (int)n;
        buf_consume(&c->rig.socket.wire, wire.len);
        moved = true;
    }
}
#define UNTIL(c, condition)                                                                                            \
    do {                                                                                                               \
        const uint64_t until_ms_ = clock_ms() + 10000;                                                                 \
        for (pump(c); !(condition); pump(c)) {                                                                         \
            poll(NULL, 0, 1);                                                                                          \
            if (clock_ms() > until_ms_)                                                                                \
                fail_msg("never: %s", #condition);                                                                     \
        }                                                                                                              \
    } while (0)

static void client_end(struct client *c)
{
    nghttp2_session_del(c->session);
    for (unsigned i = 0; i < STREAMS; i++) {
        buf_release(&c->got[i].head);
        buf_release(&c->got[i].body);
    }
    rig_end(&c->rig);
}
static struct client *client_new(struct node_limits limits, int32_t window)
{
    struct client *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    c->rig.config.limits = limits;
    client_open(c, window);
    pump(c);
    return c;
}
static void client_free(struct client *c)
{
    client_end(c);
    free(c);
}
#define NV(n, v)                                                                                                       \
    (nghttp2_nv)                                                                                                       \
    {                                                                                                                  \
        .name = (uint8_t *)(uintptr_t)(n), .namelen = strlen(n), .value = (uint8_t *)(uintptr_t)(v),                   \
        .valuelen = strlen(v)                                                                                          \
    }
struct upload {
    struct span rest;
    bool open; /* more may come: the end is not said */
    bool trailers;
};
static ssize_t read_upload(nghttp2_session *session, int32_t id, uint8_t *to, size_t max, uint32_t *flags,
                           nghttp2_data_source *source, void *user)
{
    struct upload *up = source->ptr;
    (void)user;
    const struct span part = span_head(up->rest, max);
    if (part.len > 0)
        memcpy(to, part.ptr, part.len);
    up->rest = span_skip(up->rest, part.len);
    if (part.len == 0 && up->open)
        return NGHTTP2_ERR_DEFERRED;
    if (up->rest.len == 0 && !up->open) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (up->trailers) {
            const nghttp2_nv trailer = NV("x-trailer", "1");
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            assert_int_equal(nghttp2_submit_trailer(session, id, &trailer, 1), 0);
        }
    }
    return (ssize_t)part.len;
}
/* up NULL: no body. extra: NULL, or one more field. */
static int32_t ask_with(struct client *c, const char *method, const char *path, const nghttp2_nv *extra,
                        struct upload *up)
{
    nghttp2_nv fields[5] = { NV(":method", method), NV(":scheme", "http"), NV(":authority", "h.example"),
                             NV(":path", path) };
    size_t count = 4;
    if (extra)
        fields[count++] = *extra;
    const nghttp2_data_provider body = { .source.ptr = up, .read_callback = read_upload };
    const int32_t id = nghttp2_submit_request(c->session, NULL, fields, count, up ? &body : NULL, NULL);
    assert_true(id > 0);
    return id;
}
static int32_t get(struct client *c)
{
    return ask_with(c, "GET", "/v1/models", NULL, NULL);
}
static bool has(const struct buf *buf, const char *text)
{
    return span_find(buf_span(buf), span_cstr(text)) != SIZE_MAX;
}

/* ---- frames by hand ---- */

static void put_frame(struct buf *out, unsigned type, unsigned flags, uint32_t id, struct span payload)
{
    const char head[9] = {
        (char)(payload.len >> 16), (char)(payload.len >> 8), (char)payload.len, (char)type, (char)flags,
        (char)(id >> 24),          (char)(id >> 16),         (char)(id >> 8),   (char)id
    };
    assert_int_equal(buf_append(out, span_of(head, 9)), OK);
    assert_int_equal(buf_append(out, payload), OK);
}
#define PREFACE SPAN("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
/* GET / of host "h", by the static table. */
#define GET_BLOCK SPAN("\x82\x86\x84\x41\x01h")
#define END_ALL   (NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM)

/* Hands made frames to a connection that has been greeted; what comes back is read by a fresh client session's eyes: the
 * GOAWAY, if any. */
struct flood {
    struct rig rig;
    struct buf out;
};
static void flood_open(struct flood *f)
{
    assert_int_equal(rig_open(&f->rig), OK);
    buf_init(&f->out, 64u << 20);
    assert_int_equal(buf_append(&f->out, PREFACE), OK);
    put_frame(&f->out, NGHTTP2_SETTINGS, 0, 0, SPAN(""));
    put_frame(&f->out, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, SPAN(""));
    rig_give(&f->rig, buf_span(&f->out));
    buf_clear(&f->out);
    rig_turn(&f->rig);
}
static void flood_send(struct flood *f)
{
    rig_give(&f->rig, buf_span(&f->out));
    buf_clear(&f->out);
    rig_turn(&f->rig);
}
/* The last frame of a kind that came back; its payload, or an empty span. */
static struct span came(struct flood *f, unsigned type, unsigned *ret_count)
{
    struct span rest = buf_span(&f->rig.socket.wire), found = SPAN("");
    *ret_count = 0;
    while (rest.len >= 9) {
        const unsigned char *h = (const unsigned char *)rest.ptr;
        const size_t len = (size_t)h[0] << 16 | (size_t)h[1] << 8 | h[2];
        assert_true(rest.len >= 9 + len);
        if (h[3] == type) {
            found = span_head(span_skip(rest, 9), len);
            (*ret_count)++;
        }
        rest = span_skip(rest, 9 + len);
    }
    return found;
}
static uint32_t goaway_of(struct flood *f) /* its code; UINT32_MAX: none came */
{
    unsigned count;
    const struct span payload = came(f, NGHTTP2_GOAWAY, &count);
    if (count == 0)
        return UINT32_MAX;
    const unsigned char *p = (const unsigned char *)payload.ptr + 4;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static void flood_end(struct flood *f)
{
    buf_release(&f->out);
    rig_end(&f->rig);
}

/* ---- requests and answers ---- */

static void answers_a_request(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .rest = SPAN("{\"model\":\"chat\"}") };
    const nghttp2_nv mark = NV("x-mark", "m1");
    const int32_t id = ask_with(c, "POST", "/v1/chat/completions?a=b", &mark, &up);
    pump(c);
    struct exchange *x = newest();
    assert_int_equal(x->method, HTTP1_POST);
    assert_string_equal(x->path, "/v1/chat/completions");
    assert_string_equal(x->query, "a=b");
    assert_string_equal(x->authority, "h.example");
    assert_string_equal(x->x, "m1");
    assert_true(x->has_body && x->whole);
    assert_true(span_eq(buf_span(&x->body), SPAN("{\"model\":\"chat\"}")));
    assert_false(got_of(c, id)->status);
    assert_int_equal(x_whole(x, 200, "{\"ok\":true}"), OK);
    pump(c);
    struct got *g = got_of(c, id);
    assert_int_equal(g->status, 200);
    assert_true(g->ended && g->closed && g->code == 0);
    assert_true(has(&g->head, "content-length: 11\n"));
    assert_true(has(&g->head, "content-type: application/json\n"));
    assert_true(has(&g->head, "x-request-id: req_1\n"));
    assert_true(has(&g->head, "x-empty: \n"));
    assert_true(has(&g->head, "x-two: a: b\n"));
    assert_true(has(&g->head, "date: "));
    assert_false(has(&g->head, "connection:"));
    assert_true(span_eq(buf_span(&g->body), SPAN("{\"ok\":true}")));
    assert_false(c->goaway);
    client_free(c);
}

static void a_request_without_body_is_whole_at_once(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c), head = ask_with(c, "HEAD", "/v1/models", NULL, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 2);
    assert_true(rig_x[0].whole && !rig_x[0].has_body && rig_x[1].whole);
    assert_int_equal(x_whole(&rig_x[0], 200, "models"), OK);
    assert_int_equal(x_whole(&rig_x[1], 200, "models"), OK);
    pump(c);
    assert_true(span_eq(buf_span(&got_of(c, id)->body), SPAN("models")));
    assert_true(got_of(c, head)->ended && got_of(c, head)->body.len == 0);
    assert_true(has(&got_of(c, head)->head, "content-length: 6\n"));
    client_free(c);
}

static void streams_event_by_event(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c);
    pump(c);
    struct exchange *x = newest();
    assert_int_equal(x_stream(x, true, SPAN("data: 1\n\n"), false), OK);
    pump(c);
    struct got *g = got_of(c, id);
    assert_int_equal(g->status, 200);
    assert_true(has(&g->head, "content-type: text/event-stream"));
    assert_false(has(&g->head, "content-length"));
    assert_true(span_eq(buf_span(&g->body), SPAN("data: 1\n\n")));
    assert_false(g->ended);
    assert_int_equal(x_stream(x, false, SPAN("data: 2\n\n"), false), OK);
    pump(c);
    assert_true(span_eq(buf_span(&g->body), SPAN("data: 1\n\ndata: 2\n\n")));
    assert_int_equal(x_stream(x, false, SPAN(""), true), OK);
    pump(c);
    assert_true(g->ended && g->closed && g->code == 0);
    client_free(c);
}

static void many_answers_of_one_turn_are_one_write(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    for (unsigned i = 0; i < 20; i++)
        (void)get(c);
    pump(c);
    const unsigned before = c->rig.socket.writes;
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(x_stream(&rig_x[i], true, SPAN("data: 1\n\n"), false), OK);
    rig_turn(&c->rig);
    assert_int_equal(c->rig.socket.writes, before + 1);
    client_free(c);
}

static void a_broken_answer_is_reset(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c), other = get(c);
    pump(c);
    struct exchange *x = &rig_x[0];
    assert_int_equal(x_stream(x, true, SPAN("data: 1\n\n"), false), OK);
    x->over = true;
    x->sink->ops->end(x->sink, true, true);
    pump(c);
    assert_true(got_of(c, id)->closed && !got_of(c, id)->ended);
    assert_int_equal(got_of(c, id)->code, NGHTTP2_INTERNAL_ERROR);
    assert_int_equal(x_whole(&rig_x[1], 200, "fine"), OK);
    pump(c);
    assert_true(got_of(c, other)->ended);
    client_free(c);
}

static void says_continue_to_who_expects_it(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .open = true };
    const nghttp2_nv expect = NV("expect", "100-continue");
    const int32_t id = ask_with(c, "POST", "/", &expect, &up);
    pump(c);
    assert_true(newest()->expects);
    assert_int_equal(got_of(c, id)->interim, 1);
    assert_int_equal(got_of(c, id)->status, 0);
    up = (struct upload){ .rest = SPAN("body") };
    assert_int_equal(nghttp2_session_resume_data(c->session, id), 0);
    pump(c);
    assert_true(newest()->whole && newest()->body.len == 4);
    assert_int_equal(x_whole(newest(), 200, "ok"), OK);
    pump(c);
    assert_int_equal(got_of(c, id)->status, 200);
    client_free(c);
}

static void trailers_end_a_body_and_are_forgotten(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .rest = SPAN("body"), .trailers = true };
    (void)ask_with(c, "POST", "/", NULL, &up);
    pump(c);
    assert_true(newest()->whole && newest()->body.len == 4);
    assert_int_equal(x_whole(newest(), 200, "ok"), OK);
    pump(c);
    client_free(c);
}

static void a_body_larger_than_the_windows_comes_whole(void **state)
{
    (void)state;
    const size_t len = 3 * H2_CONNECTION_WINDOW + 1;
    char *bytes = malloc(len);
    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 >> 3);
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .rest = span_of(bytes, len) };
    (void)ask_with(c, "POST", "/", NULL, &up);
    pump(c);
    assert_true(newest()->whole);
    assert_true(span_eq(buf_span(&newest()->body), span_of(bytes, len)));
    assert_int_equal(x_whole(newest(), 200, "ok"), OK);
    pump(c);
    client_free(c);
    free(bytes);
}

/* What is left of a body that nobody wants: read when it is short, refused when it is long. */
static void the_rest_of_a_refused_body_is_forgotten_or_refused(void **state)
{
    (void)state;
    static char bytes[1 << 20];
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    rig_begin = BEGIN_REFUSED;
    struct upload small = { .rest = span_of(bytes, 5000) }, large = { .rest = span_of(bytes, sizeof(bytes)) };
    const int32_t first = ask_with(c, "POST", "/", NULL, &small);
    (void)ask_with(c, "POST", "/", NULL, &large);
    const nghttp2_nv length = NV("content-length", "1048576");
    struct upload told = { .rest = span_of(bytes, sizeof(bytes)) };
    const int32_t third = ask_with(c, "POST", "/", &length, &told);
    pump(c);
    for (int32_t id = first; id <= third; id += 2) {
        assert_int_equal(got_of(c, id)->status, 401);
        assert_true(got_of(c, id)->ended && got_of(c, id)->closed);
        assert_int_equal(got_of(c, id)->code, NGHTTP2_NO_ERROR);
    }
    assert_int_equal(small.rest.len, 0);
    assert_true(large.rest.len > 0 && told.rest.len > 0);
    rig_begin = BEGIN_GOOD;
    rig_body_max = 100000;
    struct upload again = { .rest = span_of(bytes, sizeof(bytes)) };
    const int32_t fourth = ask_with(c, "POST", "/", NULL, &again);
    pump(c);
    assert_int_equal(got_of(c, fourth)->status, 413);
    assert_true(got_of(c, fourth)->closed && got_of(c, fourth)->code == NGHTTP2_NO_ERROR);
    assert_false(c->goaway);
    assert_int_equal(c->error, 0);
    client_free(c);
}

static void a_request_that_nothing_was_done_for_may_be_sent_again(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    rig_begin = BEGIN_NO_MEMORY;
    const int32_t id = get(c);
    pump(c);
    assert_true(got_of(c, id)->closed);
    assert_int_equal(got_of(c, id)->code, NGHTTP2_REFUSED_STREAM);
    client_free(c);
}

/* ---- the client's side of things ---- */

static void a_cancelled_stream_ends_its_own_exchange_only(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c), other = get(c);
    pump(c);
    assert_int_equal(x_stream(&rig_x[0], true, SPAN("1"), false), OK);
    pump(c);
    assert_int_equal(nghttp2_submit_rst_stream(c->session, 0, id, NGHTTP2_CANCEL), 0);
    pump(c);
    assert_true(rig_x[0].gone);
    assert_false(rig_x[1].over);
    assert_int_equal(x_whole(&rig_x[1], 200, "fine"), OK);
    pump(c);
    assert_true(got_of(c, other)->ended);
    assert_false(c->goaway);
    client_free(c);
}

static void malformed_requests_are_refused_alone(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
        unsigned status; /* 0: reset */
    } cases[] = {
        { "connection", "close", 0 },
        { "transfer-encoding", "chunked", 0 },
        { "upgrade", "h2c", 0 },
        { "te", "gzip", 0 },
        { "x", "a\r\nb", 0 },
        { "x", " a", 0 },
        { "x y", "a", 0 },
        { ":path", "/", 0 },
        { ":status", "200", 0 },
        { "content-length", "1x", 0 },
        { "content-length", "5", 0 }, /* and no body */
        { "host", "other.example", 400 },
        { "host", "a b", 0 },
    };
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const nghttp2_nv extra = NV(cases[i].name, cases[i].value);
        const int32_t id = ask_with(c, "GET", "/", &extra, NULL);
        pump(c);
        struct got *g = got_of(c, id);
        if (rig_x_count || g->status != cases[i].status || !g->closed)
            fail_msg("%s: %s: status %u, exchanges %u", cases[i].name, cases[i].value, g->status, rig_x_count);
        if (!cases[i].status)
            assert_int_equal(g->code, NGHTTP2_PROTOCOL_ERROR);
        assert_false(c->goaway);
    }
    static const char *const methods[] = { "CONNECT", "BREW" };
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        const int32_t id = ask_with(c, methods[i], "/", NULL, NULL);
        pump(c);
        assert_true(got_of(c, id)->closed);
        assert_int_equal(rig_x_count, 0);
    }
    const int32_t path = ask_with(c, "GET", "/%zz", NULL, NULL);
    pump(c);
    assert_int_equal(got_of(c, path)->status, 400);
    assert_true(has(&got_of(c, path)->body, "target is malformed"));
    assert_true(has(&got_of(c, path)->head, "x-request-id: req_"));
    (void)get(c);
    pump(c);
    assert_int_equal(x_whole(newest(), 200, "fine"), OK);
    pump(c);
    assert_false(c->goaway);
    client_free(c);
}

static void a_body_of_another_length_than_announced_is_reset(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const nghttp2_nv length = NV("content-length", "5");
    struct upload less = { .rest = SPAN("1234") }, more = { .rest = SPAN("123456") };
    const int32_t first = ask_with(c, "POST", "/", &length, &less);
    pump(c);
    const int32_t second = ask_with(c, "POST", "/", &length, &more);
    pump(c);
    assert_int_equal(got_of(c, first)->code, NGHTTP2_PROTOCOL_ERROR);
    assert_int_equal(got_of(c, second)->code, NGHTTP2_PROTOCOL_ERROR);
    assert_true(rig_x[0].gone && rig_x[1].gone && !rig_x[0].whole && !rig_x[1].whole);
    assert_false(c->goaway);
    client_free(c);
}

static void garbage_ends_with_goaway(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 1, GET_BLOCK);
    flood_send(f);
    put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 3,
              SPAN("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")); /* no HPACK */
    flood_send(f);
    assert_int_equal(goaway_of(f), NGHTTP2_COMPRESSION_ERROR);
    assert_true(rig_x[0].gone);
    assert_true(f->rig.socket.shut);
    flood_end(f);

    memset(f, 0, sizeof(*f));
    assert_int_equal(rig_open(&f->rig), OK);
    rig_give(&f->rig, SPAN("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    rig_turn(&f->rig);
    assert_int_equal(goaway_of(f), NGHTTP2_PROTOCOL_ERROR);
    assert_true(f->rig.socket.shut);
    flood_end(f);
    free(f);
}

static void a_client_that_leaves_ends_everything(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    (void)get(c);
    (void)get(c);
    pump(c);
    c->rig.speaker->ops->ended(c->rig.speaker);
    assert_null(c->rig.speaker);
    assert_true(rig_x[0].gone && rig_x[1].gone);
    client_free(c);
}

static void a_client_that_says_goaway_is_served_to_its_last_stream(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c);
    pump(c);
    assert_int_equal(nghttp2_submit_goaway(c->session, 0, 0, NGHTTP2_NO_ERROR, NULL, 0), 0);
    pump(c);
    assert_false(c->rig.socket.shut);
    assert_int_equal(x_whole(newest(), 200, "last"), OK);
    pump(c);
    assert_true(got_of(c, id)->ended);
    assert_true(c->rig.socket.shut);
    client_free(c);
}

/* ---- backpressure ---- */

static void a_stalled_stream_holds_up_only_itself(void **state)
{
    (void)state;
    static char bytes[20000];
    memset(bytes, 'x', sizeof(bytes));
    struct client *c = client_new((struct node_limits){ .write_queue_bytes = 65536 }, 1000);
    const int32_t slow = get(c), quick = get(c);
    pump(c);
    struct exchange *x = &rig_x[0], *y = &rig_x[1];
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(x_stream(x, i == 0, span_of(bytes, sizeof(bytes)), false), OK);
    pump(c);
    assert_int_equal(got_of(c, slow)->body.len, 1000); /* its window */
    assert_int_equal(x->sink->ops->queued(x->sink), 5 * sizeof(bytes) - 1000);
    assert_int_equal(y->sink->ops->queued(y->sink), 0);
    assert_int_equal(x->writable, 0);
    assert_int_equal(x_stream(y, true, span_of(bytes, 900), true), OK);
    pump(c);
    assert_true(got_of(c, quick)->ended && got_of(c, quick)->body.len == 900);
    /* Half the limit is the mark. */
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, slow, (int32_t)(5 * sizeof(bytes) - 1000 - 32769)), 0);
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, 0, 200000), 0);
    pump(c);
    assert_int_equal(x->sink->ops->queued(x->sink), 32769);
    assert_int_equal(x->writable, 0);
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, slow, 1), 0);
    pump(c);
    assert_int_equal(x->writable, 1);
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, slow, 100000), 0);
    pump(c);
    assert_int_equal(x->writable, 1);
    assert_int_equal(got_of(c, slow)->body.len, 5 * sizeof(bytes));
    client_free(c);
}

static void a_socket_that_is_full_is_given_no_more(void **state)
{
    (void)state;
    const size_t limit = 32768, len = 60000;
    char *bytes = calloc(1, len);
    assert_non_null(bytes);
    struct client *c = client_new((struct node_limits){ .write_queue_bytes = limit }, 1 << 20);
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, 0, 1 << 22), 0);
    int32_t ids[10];
    for (unsigned i = 0; i < 10; i++)
        ids[i] = get(c);
    pump(c);
    c->rig.socket.room = 0;
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(x_stream(&rig_x[i], true, span_of(bytes, len), false), OK);
    pump(c);
    assert_true(stream_queued(&c->rig.socket.stream) > 0);
    assert_true(stream_queued(&c->rig.socket.stream) <= 2 * limit + (17u << 10));
    size_t held = 0;
    for (unsigned i = 0; i < 10; i++)
        held += rig_x[i].sink->ops->queued(rig_x[i].sink);
    assert_true(held + stream_queued(&c->rig.socket.stream) >= 10 * len);
    /* Fair: all have moved when the first is not half done. */
    for (unsigned turns = 0; got_of(c, ids[0])->body.len < len / 2; turns++) {
        assert_true(turns < 1000);
        rig_take(&c->rig, 10000);
        pump(c);
    }
    for (unsigned i = 0; i < 10; i++)
        assert_true(got_of(c, ids[i])->body.len > 0);
    rig_take(&c->rig, SIZE_MAX);
    pump(c);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(got_of(c, ids[i])->body.len, len);
        assert_int_equal(rig_x[i].sink->ops->queued(rig_x[i].sink), 0);
    }
    client_free(c);
    free(bytes);
}

static void a_stream_that_takes_nothing_is_cut(void **state)
{
    (void)state;
    static char bytes[5000];
    struct client *c = client_new((struct node_limits){ .write_stall_ms = 50 }, 1000);
    const int32_t stalled = get(c), whole = get(c), idle = get(c);
    pump(c);
    assert_int_equal(x_stream(&rig_x[0], true, span_of(bytes, sizeof(bytes)), false), OK);
    /* One whose exchange has ended long ago. */
    assert_int_equal(x_stream(&rig_x[1], true, span_of(bytes, sizeof(bytes)), true), OK);
    assert_int_equal(x_stream(&rig_x[2], true, SPAN("1"), false), OK);
    UNTIL(c, got_of(c, stalled)->closed && got_of(c, whole)->closed);
    assert_true(rig_x[0].gone);
    assert_false(got_of(c, stalled)->ended || got_of(c, whole)->ended);
    assert_true(got_of(c, stalled)->code != 0 && got_of(c, whole)->code != 0);
    assert_false(got_of(c, idle)->closed || rig_x[2].over); /* nothing waits for it */
    client_free(c);
}

static void a_connection_that_takes_nothing_is_cut(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .write_stall_ms = 50 }, 0);
    (void)get(c);
    pump(c);
    c->rig.socket.room = 0;
    c->rig.socket.stalled = true;
    assert_int_equal(x_stream(newest(), true, SPAN("1"), false), OK);
    UNTIL(c, !c->rig.speaker);
    assert_true(rig_x[0].gone);
    client_free(c);
}

static void a_dead_socket_ends_the_connection(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    (void)get(c);
    pump(c);
    c->rig.socket.refuse = ERR_CLOSED;
    assert_int_equal(x_stream(newest(), true, SPAN("1"), false), OK);
    assert_false(newest()->over); /* not from within its own call */
    UNTIL(c, !c->rig.speaker);
    assert_true(rig_x[0].gone);
    client_free(c);
}

/* ---- limits and floods: at the limit it is served, one over it is not ---- */

static void a_head_over_its_limits_gets_431(void **state)
{
    (void)state;
    char value[4096];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    struct client *c = client_new((struct node_limits){ .head_bytes = 4096, .headers = 3 }, 0);
    const size_t others = strlen(":methodGET:schemehttp:authorityh.example:path/") + 4 * 32 + strlen("x-mark") + 32;
    value[4096 - others] = '\0';
    const nghttp2_nv fits = NV("x-mark", value);
    (void)ask_with(c, "GET", "/", &fits, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 1);
    value[4096 - others] = 'v';
    value[4096 - others + 1] = '\0';
    const nghttp2_nv over = NV("x-mark", value);
    const int32_t large = ask_with(c, "GET", "/", &over, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 1);
    assert_int_equal(got_of(c, large)->status, 431);
    nghttp2_nv many[8] = { NV(":method", "GET"), NV(":scheme", "http"), NV(":authority", "h"), NV(":path", "/"),
                           NV("a", "1"),         NV("b", "2"),          NV("c", "3"),          NV("d", "4") };
    (void)nghttp2_submit_request(c->session, NULL, many, 7, NULL, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 2);
    const int32_t id = nghttp2_submit_request(c->session, NULL, many, 8, NULL, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 2);
    assert_int_equal(got_of(c, id)->status, 431);
    assert_false(c->goaway);
    client_free(c);
}

/* One field of 4000 bytes goes into the table; each byte after that stands for all of it. */
static void hpack_bomb(struct buf *block, unsigned times)
{
    char value[3801];
    memset(value, 'v', 3800);
    value[3800] = '\0';
    assert_int_equal(buf_append(block, GET_BLOCK), OK);
    assert_int_equal(buf_append(block, SPAN("\x40\x01x\x7f\xd9\x1c")), OK); /* 3800 = 127 + 0x59 + (0x1c << 7) */
    assert_int_equal(buf_append(block, span_of(value, 3800)), OK);
    for (unsigned i = 1; i < times; i++)
        assert_int_equal(buf_append(block, SPAN("\xbe")), OK);
}

static void an_hpack_bomb_is_stopped(void **state)
{
    (void)state;
    const uint32_t pseudo = (uint32_t)strlen(":methodGET:schemehttp:authorityh:path/") + 4 * 32, one = 3801 + 32;
    const unsigned most = (H2_HEAD_BOMB * 4096u + H2_HEAD_BOMB - 1 - pseudo) / one;
    for (unsigned over = 0; over < 2; over++) {
        struct flood *f = calloc(1, sizeof(*f));
        assert_non_null(f);
        f->rig.config.limits.head_bytes = 4096;
        flood_open(f);
        struct buf block = BUF_INIT(1u << 20);
        hpack_bomb(&block, most + over);
        put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 1, buf_span(&block));
        const size_t before = f->rig.core.buffered;
        flood_send(f);
        unsigned answered;
        (void)came(f, NGHTTP2_HEADERS, &answered);
        assert_int_equal(answered, over ? 0 : 1); /* 431 */
        assert_int_equal(goaway_of(f), over ? NGHTTP2_ENHANCE_YOUR_CALM : UINT32_MAX);
        assert_true(f->rig.core.buffered < before + 40000);
        assert_int_equal(rig_x_count, 0);
        buf_release(&block);
        flood_end(f);
        free(f);
    }
}

/* After `count` frames more the budget is just spent; then one over. */
static void spend_all_frames(unsigned type, unsigned flags, uint32_t id, struct span payload)
{
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    if (id > 0) { /* a stream to send them on */
        put_frame(&f->out, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, GET_BLOCK);
        flood_send(f);
    }
    rig_h2(&f->rig)->frames.per_s = 0; /* the clock shall not help */
    const uint64_t left = rig_h2(&f->rig)->frames.left / 1000;
    assert_true(left > H2_FRAMES - 10);
    for (uint64_t i = 0; i < left; i++)
        put_frame(&f->out, type, flags, id, payload);
    flood_send(f);
    if (goaway_of(f) != UINT32_MAX)
        fail_msg("frame type %u: too early", type);
    assert_false(f->rig.socket.shut);
    put_frame(&f->out, type, flags, id, payload);
    flood_send(f);
    if (goaway_of(f) != NGHTTP2_ENHANCE_YOUR_CALM)
        fail_msg("frame type %u: %u", type, goaway_of(f));
    assert_true(f->rig.socket.shut);
    if (id > 0)
        assert_true(rig_x[0].gone);
    /* What it sends on is read by nobody; it is cut in the end. */
    const unsigned exchanges = rig_x_count;
    put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 101, GET_BLOCK);
    flood_send(f);
    assert_int_equal(rig_x_count, exchanges);
    static char junk[CORE_READ_BYTES];
    for (size_t sent = 0; sent <= H2_LINGER_BYTES && f->rig.speaker; sent += sizeof(junk))
        rig_give(&f->rig, span_of(junk, sizeof(junk)));
    assert_null(f->rig.speaker);
    flood_end(f);
    free(f);
}

static void floods_of_frames_end_with_goaway(void **state)
{
    (void)state;
    spend_all_frames(NGHTTP2_PING, 0, 0, SPAN("12345678"));
    spend_all_frames(NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, SPAN("12345678"));
    spend_all_frames(NGHTTP2_SETTINGS, 0, 0, SPAN(""));
    spend_all_frames(NGHTTP2_SETTINGS, 0, 0, SPAN("\x00\x01\x00\x00\x10\x00"));
    spend_all_frames(NGHTTP2_WINDOW_UPDATE, 0, 0, SPAN("\x00\x00\x00\x01"));
    spend_all_frames(NGHTTP2_WINDOW_UPDATE, 0, 1, SPAN("\x00\x00\x00\x01"));
    spend_all_frames(NGHTTP2_PRIORITY, 0, 1, SPAN("\x00\x00\x00\x05\x10"));
    spend_all_frames(NGHTTP2_DATA, 0, 1, SPAN(""));
    spend_all_frames(0x7b, 0, 0, SPAN("unknown"));
}

/* Frames that answer ours are no flood. */
static void window_updates_for_what_was_sent_are_free(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    rig_h2(&c->rig)->frames.per_s = 0;
    (void)get(c);
    pump(c);
    for (unsigned i = 0; i < 3 * H2_FRAMES; i++) {
        assert_int_equal(x_stream(newest(), i == 0, SPAN("data: 1\n\n"), false), OK);
        pump(c);
        assert_int_equal(nghttp2_submit_window_update(c->session, 0, 1, 9), 0);
        assert_int_equal(nghttp2_submit_window_update(c->session, 0, 0, 9), 0);
        pump(c);
    }
    assert_false(c->goaway);
    client_free(c);
}

static void rapid_resets_end_with_goaway(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    rig_h2(&f->rig)->resets.per_s = 0;
    uint32_t id = 1;
    for (unsigned i = 0; i < H2_RESETS; i++, id += 2) {
        put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, id, GET_BLOCK);
        put_frame(&f->out, NGHTTP2_RST_STREAM, 0, id, SPAN("\x00\x00\x00\x08"));
    }
    flood_send(f);
    assert_int_equal(goaway_of(f), UINT32_MAX);
    assert_int_equal(rig_x_count, H2_RESETS);
    for (unsigned i = 0; i < 1000; i++, id += 2) {
        put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, id, GET_BLOCK);
        put_frame(&f->out, NGHTTP2_RST_STREAM, 0, id, SPAN("\x00\x00\x00\x08"));
    }
    flood_send(f);
    assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(rig_x_count, H2_RESETS + 1);
    for (unsigned i = 0; i < rig_x_count; i++)
        assert_true(rig_x[i].gone);
    flood_end(f);
    free(f);
}

/* The client makes us reset: the same budget. */
static void resets_that_the_client_provokes_count(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    rig_h2(&f->rig)->resets.per_s = 0;
    uint32_t id = 1;
    for (unsigned i = 0; i <= H2_RESETS; i++, id += 2) {
        assert_int_equal(goaway_of(f), UINT32_MAX);
        put_frame(&f->out, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, GET_BLOCK);
        put_frame(&f->out, NGHTTP2_WINDOW_UPDATE, 0, id, SPAN("\x7f\xff\xff\xff")); /* over 2^31-1 */
        flood_send(f);
    }
    assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
    flood_end(f);
    free(f);
}

static void answered_requests_earn_resets(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    rig_h2(&c->rig)->resets.per_s = 0;
    rig_h2(&c->rig)->resets.left = 0;
    (void)get(c);
    pump(c);
    assert_int_equal(x_whole(newest(), 200, "ok"), OK);
    pump(c);
    for (unsigned i = 0; i < 2; i++) {
        assert_false(c->goaway);
        const int32_t id = get(c);
        pump(c);
        assert_int_equal(nghttp2_submit_rst_stream(c->session, 0, id, NGHTTP2_CANCEL), 0);
        pump(c);
    }
    assert_true(c->goaway);
    assert_int_equal(c->goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    client_free(c);
}

static void streams_at_once_are_limited(void **state)
{
    (void)state;
    for (unsigned acked = 0; acked < 2; acked++) {
        struct flood *f = calloc(1, sizeof(*f));
        assert_non_null(f);
        f->rig.config.limits.http2_streams = 5;
        assert_int_equal(rig_open(&f->rig), OK);
        buf_init(&f->out, 1u << 20);
        assert_int_equal(buf_append(&f->out, PREFACE), OK);
        put_frame(&f->out, NGHTTP2_SETTINGS, 0, 0, SPAN(""));
        if (acked)
            put_frame(&f->out, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, SPAN(""));
        for (uint32_t i = 0; i < 5; i++)
            put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 2 * i + 1, GET_BLOCK);
        rig_turn(&f->rig); /* our settings go out before the client's acknowledgement comes */
        flood_send(f);
        unsigned resets;
        (void)came(f, NGHTTP2_RST_STREAM, &resets);
        assert_int_equal(rig_x_count, 5);
        assert_int_equal(resets, 0);
        put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 11, GET_BLOCK);
        flood_send(f);
        const struct span code = came(f, NGHTTP2_RST_STREAM, &resets);
        assert_int_equal(rig_x_count, 5);
        if (acked) {
            assert_int_equal(goaway_of(f), NGHTTP2_PROTOCOL_ERROR); /* it was told, and has said so */
        } else {
            assert_int_equal(resets, 1);
            assert_true(span_eq(code, SPAN("\x00\x00\x00\x07"))); /* REFUSED_STREAM */
            assert_int_equal(goaway_of(f), UINT32_MAX);
            for (uint32_t i = 0; i < H2_RESETS; i++) /* it never acknowledges: bounded all the same */
                put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 2 * i + 13, GET_BLOCK);
            rig_h2(&f->rig)->resets.per_s = 0;
            flood_send(f);
            assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
        }
        flood_end(f);
        free(f);
    }
}

static void a_flood_of_continuations_is_stopped(void **state)
{
    (void)state;
    static char zeros[16000];
    static const size_t sizes[] = { 0, 1, sizeof(zeros) };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct flood *f = calloc(1, sizeof(*f));
        assert_non_null(f);
        flood_open(f);
        /* A field whose value is to be 60,000 bytes long: never whole. */
        put_frame(&f->out, NGHTTP2_HEADERS, 0, 1, SPAN("\x82\x86\x84\x41\x01h\x00\x01x\x7f\xe1\xd3\x03"));
        const size_t before = f->rig.core.buffered;
        for (unsigned n = 0; n < (sizes[i] < 1000 ? H2_CONTINUATIONS : 3); n++)
            put_frame(&f->out, NGHTTP2_CONTINUATION, 0, 1, span_of(zeros, sizes[i]));
        flood_send(f);
        assert_int_equal(goaway_of(f), UINT32_MAX);
        for (unsigned n = 0; n < 1000; n++)
            put_frame(&f->out, NGHTTP2_CONTINUATION, 0, 1, span_of(zeros, sizes[i]));
        flood_send(f);
        assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
        assert_true(f->rig.core.buffered < before + (128u << 10));
        assert_int_equal(rig_x_count, 0);
        flood_end(f);
        free(f);
    }
}

static void a_client_that_reads_no_answers_to_pings_is_bounded(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    f->rig.socket.room = 0;
    rig_h2(&f->rig)->frames.left = rig_h2(&f->rig)->frames.most = 1000000000; /* generous, to reach the queue's bound */
    const size_t before = f->rig.core.buffered;
    for (unsigned i = 0; i < 100 && !rig_h2(&f->rig)->deaf; i++) {
        for (unsigned j = 0; j < 1000; j++)
            put_frame(&f->out, NGHTTP2_PING, 0, 0, SPAN("12345678"));
        flood_send(f);
        assert_true(f->rig.core.buffered < before + (4u << 20));
    }
    assert_true(rig_h2(&f->rig)->deaf);
    flood_end(f);
    free(f);
}

/* ---- time ---- */

static void who_sends_no_preface_is_closed(void **state)
{
    (void)state;
    struct client *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    c->rig.config.limits.head_time_ms = 30;
    client_open(c, 0);
    c->error = 1; /* says nothing, and reads nothing */
    rig_give(&c->rig, SPAN("PRI * HTTP/2.0\r\n"));
    UNTIL(c, c->rig.socket.shut);
    UNTIL(c, !c->rig.speaker);
    client_free(c);
}

static void a_slow_head_ends_the_connection(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->rig.config.limits.head_time_ms = 30;
    flood_open(f);
    put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 1, GET_BLOCK);
    put_frame(&f->out, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM, 3, GET_BLOCK); /* to be continued */
    flood_send(f);
    for (const uint64_t until = clock_ms() + 10000; !f->rig.socket.shut;) {
        assert_true(clock_ms() < until);
        poll(NULL, 0, 1);
        rig_turn(&f->rig);
    }
    assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
    assert_true(rig_x_count == 1 && rig_x[0].gone);
    flood_end(f);
    free(f);
}

static void a_slow_body_gets_408(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .body_time_ms = 30 }, 0);
    struct upload up = { .rest = SPAN("some"), .open = true }, refused = { .rest = SPAN("some"), .open = true };
    const int32_t id = ask_with(c, "POST", "/", NULL, &up), other = get(c);
    pump(c);
    rig_begin = BEGIN_REFUSED;
    const int32_t unwanted = ask_with(c, "POST", "/", NULL, &refused);
    UNTIL(c, got_of(c, id)->status == 408);
    assert_true(rig_x[0].timed_out);
    UNTIL(c, got_of(c, unwanted)->closed && got_of(c, id)->closed); /* the rest is not waited for */
    assert_int_equal(got_of(c, unwanted)->code, NGHTTP2_NO_ERROR);
    assert_false(rig_x[1].over || got_of(c, other)->closed);
    assert_false(c->goaway);
    client_free(c);
}

static void an_idle_connection_is_closed_in_good_order(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .idle_ms = 50 }, 0);
    UNTIL(c, c->goaway);
    assert_int_equal(c->goaway_code, NGHTTP2_NO_ERROR);
    assert_true(c->rig.socket.shut);
    UNTIL(c, !c->rig.speaker); /* it does not close: it lingers no longer than so */
    client_free(c);
    c = client_new((struct node_limits){ .idle_ms = 50 }, 0);
    const int32_t id = get(c);
    UNTIL(c, rig_x_count == 1);
    for (unsigned i = 0; i < 100; i++) { /* longer than that: a stream is no idling */
        poll(NULL, 0, 1);
        pump(c);
    }
    assert_false(c->goaway);
    assert_int_equal(x_whole(newest(), 200, "late"), OK);
    UNTIL(c, got_of(c, id)->ended);
    UNTIL(c, c->goaway && c->rig.socket.shut);
    client_free(c);
}

/* ---- draining ---- */

static void drains_in_good_order(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t under_way = get(c);
    pump(c);
    c->deaf = true;
    c->rig.speaker->ops->drain(c->rig.speaker);
    const int32_t in_flight = get(c); /* sent before it has heard of it */
    pump(c);
    assert_int_equal(rig_x_count, 2);
    c->deaf = false;
    pump(c);
    assert_int_equal(c->goaways, 2);
    assert_int_equal(c->goaway_first, INT32_MAX);
    assert_int_equal(c->goaway_last, in_flight);
    assert_int_equal(c->goaway_code, NGHTTP2_NO_ERROR);
    assert_false(c->rig.socket.shut);
    assert_int_equal(x_stream(&rig_x[0], true, SPAN("1"), false), OK);
    assert_int_equal(x_whole(&rig_x[1], 200, "2"), OK);
    pump(c);
    assert_true(got_of(c, in_flight)->ended);
    assert_false(c->rig.socket.shut);
    assert_int_equal(x_stream(&rig_x[0], false, SPAN("2"), true), OK);
    pump(c);
    assert_true(got_of(c, under_way)->ended && got_of(c, under_way)->code == 0);
    assert_true(c->rig.socket.shut);
    c->rig.speaker->ops->ended(c->rig.speaker);
    assert_null(c->rig.speaker);
    client_free(c);
}

static void an_idle_connection_drains_at_once(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    c->rig.speaker->ops->drain(c->rig.speaker);
    pump(c);
    assert_true(c->goaway && c->rig.socket.shut);
    client_free(c);
}

static void a_client_that_answers_no_ping_drains_all_the_same(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    c->deaf = true;
    c->rig.speaker->ops->drain(c->rig.speaker);
    UNTIL(c, c->rig.socket.shut);
    client_free(c);
}

static void at_the_deadline_everybody_is_told(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .rest = SPAN("some"), .open = true }, refused = { .rest = SPAN("some"), .open = true };
    const int32_t waiting = get(c), sending = ask_with(c, "POST", "/", NULL, &up);
    pump(c);
    rig_begin = BEGIN_REFUSED;
    const int32_t forgotten = ask_with(c, "POST", "/", NULL, &refused);
    pump(c);
    c->rig.speaker->ops->drain(c->rig.speaker);
    pump(c);
    c->rig.speaker->ops->drain_passed(c->rig.speaker);
    pump(c);
    assert_true(rig_x[0].drained && rig_x[1].drained);
    assert_int_equal(got_of(c, waiting)->status, 503);
    assert_int_equal(got_of(c, sending)->status, 503);
    assert_int_equal(got_of(c, forgotten)->status, 401);
    assert_true(c->rig.socket.shut);
    client_free(c);
}

/* ---- memory ---- */

static void each_failed_allocation_is_survived(void **state)
{
    (void)state;
    static char bytes[30000];
    bool done = false;
    for (unsigned k = 0; k < 2000 && !done; k++) {
        struct client *c = calloc(1, sizeof(*c));
        assert_non_null(c);
        /* The connection's own allocations fail, not the client's: it has no part in fault_malloc. */
        fault_arm(FAULT_ALLOC, 1000000, 1);
        assert_int_equal(rig_open(&c->rig), OK);
        rig_end(&c->rig);
        fault_arm(FAULT_ALLOC, k, 1);
        memset(c, 0, sizeof(*c));
        if (rig_open(&c->rig) == OK) {
            struct buf in = BUF_INIT(1u << 20); /* made while nothing fails */
            const uint64_t seen = fault_seen(FAULT_ALLOC);
            fault_disarm_all();
            assert_int_equal(buf_append(&in, PREFACE), OK);
            put_frame(&in, NGHTTP2_SETTINGS, 0, 0, SPAN(""));
            put_frame(&in, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, GET_BLOCK);
            put_frame(&in, NGHTTP2_DATA, 0, 1, SPAN("body"));
            put_frame(&in, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, SPAN("end"));
            put_frame(&in, NGHTTP2_HEADERS, END_ALL, 3, GET_BLOCK);
            put_frame(&in, NGHTTP2_HEADERS, END_ALL, 5, SPAN("\x82\x86\x04\x02/ \x41\x01h")); /* 400 */
            /* The wire and the bodies of the test's own are made beforehand. */
            char *room;
            assert_int_equal(buf_reserve(&c->rig.socket.wire, 1u << 20, &room), OK);
            assert_int_equal(buf_reserve(&c->rig.socket.stream.outbox.pending, 1u << 20, &room), OK);
            if (k >= seen)
                fault_arm(FAULT_ALLOC, k - seen, 1);
            if (c->rig.speaker)
                c->rig.speaker->ops->bytes(c->rig.speaker, buf_span(&in), clock_ns());
            for (unsigned i = 0; i < rig_x_count; i++) {
                struct exchange *x = &rig_x[i];
                if (x->over || !x->whole)
                    continue;
                if (i == 0) {
                    if (x_stream(x, true, span_of(bytes, sizeof(bytes)), false) == OK)
                        (void)x_stream(x, false, span_of(bytes, sizeof(bytes)), true);
                } else {
                    (void)x_whole(x, 200, "{}");
                }
            }
            rig_turn(&c->rig);
            if (c->rig.speaker)
                c->rig.speaker->ops->drain(c->rig.speaker);
            rig_turn(&c->rig);
            if (c->rig.speaker)
                c->rig.speaker->ops->drain_passed(c->rig.speaker);
            rig_turn(&c->rig);
            done = k >= seen && fault_seen(FAULT_ALLOC) <= k - seen;
            fault_disarm_all();
            if (done)
                assert_true(rig_x_count == 2 && c->rig.socket.shut);
            buf_release(&in);
        } else {
            fault_disarm_all();
            c->rig.speaker = NULL;
        }
        rig_end(&c->rig);
        free(c);
    }
    fault_disarm_all();
    assert_true(done);
}

/* What a connection and a stream hold; the figures of the README. */
static void memory_is_counted_and_bounded(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const size_t idle = c->rig.core.buffered;
    assert_true(idle > 0 && idle < 32u << 10);
    for (unsigned i = 0; i < 100; i++)
        (void)get(c);
    pump(c);
    assert_int_equal(rig_x_count, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(x_stream(&rig_x[i], true, SPAN("data: 1\n\n"), false), OK);
    pump(c);
    const size_t open = (c->rig.core.buffered - idle) / 100;
    assert_true(open < 3u << 10);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(x_stream(&rig_x[i], false, SPAN(""), true), OK);
    pump(c);
    const size_t after = c->rig.core.buffered;
    assert_true(after < idle + (16u << 10)); /* HPACK tables, the map of streams */
    print_message("bytes held: idle %zu, each open stream %zu, idle after 100 streams %zu\n", idle, open, after);
    client_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_a_request),
        cmocka_unit_test(a_request_without_body_is_whole_at_once),
        cmocka_unit_test(streams_event_by_event),
        cmocka_unit_test(many_answers_of_one_turn_are_one_write),
        cmocka_unit_test(a_broken_answer_is_reset),
        cmocka_unit_test(says_continue_to_who_expects_it),
        cmocka_unit_test(trailers_end_a_body_and_are_forgotten),
        cmocka_unit_test(a_body_larger_than_the_windows_comes_whole),
        cmocka_unit_test(the_rest_of_a_refused_body_is_forgotten_or_refused),
        cmocka_unit_test(a_request_that_nothing_was_done_for_may_be_sent_again),
        cmocka_unit_test(a_cancelled_stream_ends_its_own_exchange_only),
        cmocka_unit_test(malformed_requests_are_refused_alone),
        cmocka_unit_test(a_body_of_another_length_than_announced_is_reset),
        cmocka_unit_test(garbage_ends_with_goaway),
        cmocka_unit_test(a_client_that_leaves_ends_everything),
        cmocka_unit_test(a_client_that_says_goaway_is_served_to_its_last_stream),
        cmocka_unit_test(a_stalled_stream_holds_up_only_itself),
        cmocka_unit_test(a_socket_that_is_full_is_given_no_more),
        cmocka_unit_test(a_stream_that_takes_nothing_is_cut),
        cmocka_unit_test(a_connection_that_takes_nothing_is_cut),
        cmocka_unit_test(a_dead_socket_ends_the_connection),
        cmocka_unit_test(a_head_over_its_limits_gets_431),
        cmocka_unit_test(an_hpack_bomb_is_stopped),
        cmocka_unit_test(floods_of_frames_end_with_goaway),
        cmocka_unit_test(window_updates_for_what_was_sent_are_free),
        cmocka_unit_test(rapid_resets_end_with_goaway),
        cmocka_unit_test(resets_that_the_client_provokes_count),
        cmocka_unit_test(answered_requests_earn_resets),
        cmocka_unit_test(streams_at_once_are_limited),
        cmocka_unit_test(a_flood_of_continuations_is_stopped),
        cmocka_unit_test(a_client_that_reads_no_answers_to_pings_is_bounded),
        cmocka_unit_test(who_sends_no_preface_is_closed),
        cmocka_unit_test(a_slow_head_ends_the_connection),
        cmocka_unit_test(a_slow_body_gets_408),
        cmocka_unit_test(an_idle_connection_is_closed_in_good_order),
        cmocka_unit_test(drains_in_good_order),
        cmocka_unit_test(an_idle_connection_drains_at_once),
        cmocka_unit_test(a_client_that_answers_no_ping_drains_all_the_same),
        cmocka_unit_test(at_the_deadline_everybody_is_told),
        cmocka_unit_test(each_failed_allocation_is_survived),
        cmocka_unit_test(memory_is_counted_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
