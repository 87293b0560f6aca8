/* h2_client.h - two clients for h2_rig.h: nghttp2's own, and frames made by hand where no library would send them. */
#pragma once
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

UNUSED static struct got *got_of(struct client *c, int32_t id)
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
UNUSED static void client_open(struct client *c, int32_t window)
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
UNUSED static void pump(struct client *c)
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

UNUSED static void client_end(struct client *c)
{
    nghttp2_session_del(c->session);
    for (unsigned i = 0; i < STREAMS; i++) {
        buf_release(&c->got[i].head);
        buf_release(&c->got[i].body);
    }
    rig_end(&c->rig);
}
UNUSED static struct client *client_new(struct node_limits limits, int32_t window)
{
    struct client *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    c->rig.config.limits = limits;
    client_open(c, window);
    pump(c);
    return c;
}
UNUSED static void client_free(struct client *c)
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
UNUSED static ssize_t read_upload(nghttp2_session *session, int32_t id, uint8_t *to, size_t max, uint32_t *flags,
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
UNUSED static int32_t ask_with(struct client *c, const char *method, const char *path, const nghttp2_nv *extra,
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
UNUSED static int32_t get(struct client *c)
{
    return ask_with(c, "GET", "/v1/models", NULL, NULL);
}
UNUSED static bool has(const struct buf *buf, const char *text)
{
    return span_find(buf_span(buf), span_cstr(text)) != SIZE_MAX;
}

/* ---- frames by hand ---- */

UNUSED static void put_frame(struct buf *out, unsigned type, unsigned flags, uint32_t id, struct span payload)
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
UNUSED static void flood_open(struct flood *f)
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
UNUSED static void flood_send(struct flood *f)
{
    rig_give(&f->rig, buf_span(&f->out));
    buf_clear(&f->out);
    rig_turn(&f->rig);
}
/* The last frame of a kind that came back; its payload, or an empty span. */
UNUSED static struct span came(struct flood *f, unsigned type, unsigned *ret_count)
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
UNUSED static uint32_t goaway_of(struct flood *f) /* its code; UINT32_MAX: none came */
{
    unsigned count;
    const struct span payload = came(f, NGHTTP2_GOAWAY, &count);
    if (count == 0)
        return UINT32_MAX;
    const unsigned char *p = (const unsigned char *)payload.ptr + 4;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
UNUSED static void flood_end(struct flood *f)
{
    buf_release(&f->out);
    rig_end(&f->rig);
}
