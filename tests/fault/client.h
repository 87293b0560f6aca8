/* client.h - one client at a time, who asks over any of world.h's listeners, and of whom every byte is kept: over TLS
 * by OpenSSL, over HTTP/2 by nghttp2. What it allocates is not counted by the faults.
 *
 * Answers are texts in the form of HTTP/1.1, whatever carried them: one with all answers of a connection, or one for
 * each stream of HTTP/2 (its data in chunks, the last one when the stream has ended). */
#pragma once
#include "tests/fault/world.h"
#include <nghttp2/nghttp2.h>

#define CLIENT_TEXT_MAX (8u << 20)
#define CLIENT_STREAMS  4u

struct manner { /* how a client comes */
    enum world_listener at;
    bool http2, tls12;
    bool certificate; /* shows the robot's */
    bool resumes;     /* the newest session of TLS that it has */
};
struct heard {
    char *text; /* CLIENT_TEXT_MAX, plain memory */
    size_t len, body_len;
    int32_t id; /* of its stream */
    int64_t declared;
    bool data; /* of the body has come */
    bool closed;
};
struct visitor {
    struct world *world;
    int fd;
    SSL_CTX *contexts[2]; /* without, and with a certificate */
    SSL_SESSION *newest;
    SSL *ssl;
    nghttp2_session *http2;
    const uint8_t *out; /* what the socket has not taken of the session's */
    size_t out_len;
    struct heard heard[CLIENT_STREAMS];
    unsigned texts;
    struct span body; /* of each request over HTTP/2 */
    size_t sent[CLIENT_STREAMS];
    bool ready; /* all handshakes are done */
    bool ended, reused;
    const char *wrong; /* what the worker may never do */
};

/* ---- answers ---- */

static void heard_add(struct heard *heard, const char *bytes, size_t len)
{
    assert_true(heard->len + len < CLIENT_TEXT_MAX);
    memcpy(heard->text + heard->len, bytes, len);
    heard->len += len;
    heard->text[heard->len] = '\0';
}

static void heard_say(struct heard *heard, const char *text)
{
    heard_add(heard, text, strlen(text));
}

static struct heard *heard_of(struct visitor *v, int32_t id)
{
    for (unsigned i = 0; i < v->texts; i++)
        if (v->heard[i].id == id)
            return &v->heard[i];
    fail_msg("stream %d was not asked for", id);
    return NULL;
}

static int on_field(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                    const uint8_t *value, size_t value_len, uint8_t flags, void *user)
{
    struct heard *heard = heard_of(user, frame->hd.stream_id);
    const struct span n = span_of(name, name_len), text = span_of(value, value_len);
    uint64_t number;
    (void)session;
    (void)flags;
    if (span_eq(n, SPAN("content-length"))) { /* the chunks that we write have none */
        assert_int_equal(span_to_u64(text, &number), OK);
        heard->declared = (int64_t)number;
        return 0;
    }
    const bool status = span_eq(n, SPAN(":status"));
    if (status)
        heard_say(heard, "HTTP/1.1 ");
    else
        heard_add(heard, n.ptr, n.len);
    heard_say(heard, status ? "" : ": ");
    heard_add(heard, text.ptr, text.len);
    heard_say(heard, "\r\n");
    return 0;
}

static int on_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user)
{
    struct heard *heard = heard_of(user, id);
    char size[24];
    (void)session;
    (void)flags;
    heard->data = true;
    heard->body_len += len;
    snprintf(size, sizeof(size), "%zx\r\n", len);
    heard_say(heard, size);
    heard_add(heard, (const char *)data, len);
    heard_say(heard, "\r\n");
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct visitor *v = user;
    (void)session;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    struct heard *heard = heard_of(v, frame->hd.stream_id);
    if (frame->hd.type == NGHTTP2_HEADERS)
        heard_say(heard, "\r\n");
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
        heard_say(heard, "0\r\n\r\n");
        if (heard->declared >= 0 && heard->body_len != (size_t)heard->declared)
            v->wrong = "a body of another length than was said";
    }
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    (void)session;
    (void)code;
    heard_of(user, id)->closed = true;
    return 0;
}

static int on_invalid(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user)
{
    (void)session;
    (void)frame;
    ((struct visitor *)user)->wrong = nghttp2_strerror(error);
    return 0;
}

/* ---- life ---- */

static int client_keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct visitor *v = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    if (SSL_SESSION_get_protocol_version(session) != TLS1_3_VERSION)
        return 0;
    SSL_SESSION_free(v->newest);
    v->newest = session;
    return 1;
}

UNUSED static void client_open(struct visitor *v, struct world *world)
{
    *v = (struct visitor){ .world = world, .fd = -1 };
    for (unsigned i = 0; i < CLIENT_STREAMS; i++) {
        v->heard[i].text = malloc(CLIENT_TEXT_MAX);
        assert_non_null(v->heard[i].text);
        v->heard[i].text[0] = '\0';
    }
    for (unsigned i = 0; i < ARRAY_LEN(v->contexts); i++) {
        SSL_CTX *ctx = v->contexts[i] = SSL_CTX_new(TLS_client_method());
        assert_non_null(ctx);
        assert_int_equal(SSL_CTX_load_verify_file(ctx, world->server.certificate_file), 1);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        if (i == 1) {
            assert_int_equal(SSL_CTX_use_certificate(ctx, world->robot.certificate), 1);
            assert_int_equal(SSL_CTX_use_PrivateKey(ctx, world->robot.key), 1);
            continue;
        }
        SSL_CTX_set_app_data(ctx, v);
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(ctx, client_keep_session);
    }
}

UNUSED static void client_hang_up(struct visitor *v)
{
    world_uncounted = true;
    if (v->ssl && v->ready)
        (void)SSL_shutdown(v->ssl);
    ERR_clear_error();
    SSL_free(v->ssl);
    world_uncounted = false;
    nghttp2_session_del(v->http2);
    v->ssl = NULL;
    v->http2 = NULL;
    if (v->fd >= 0)
        close(v->fd);
    v->fd = -1;
}

UNUSED static void client_close(struct visitor *v)
{
    client_hang_up(v);
    SSL_SESSION_free(v->newest);
    for (unsigned i = 0; i < ARRAY_LEN(v->contexts); i++)
        SSL_CTX_free(v->contexts[i]);
    for (unsigned i = 0; i < CLIENT_STREAMS; i++)
        free(v->heard[i].text);
}

static void client_begin_tls(struct visitor *v, const struct manner *manner)
{
    const char *protocols = manner->http2 ? "\x02h2" : "\x08http/1.1";
    world_uncounted = true;
    v->ssl = SSL_new(v->contexts[manner->certificate]);
    assert_non_null(v->ssl);
    assert_int_equal(SSL_set_fd(v->ssl, v->fd), 1);
    assert_int_equal(SSL_set_alpn_protos(v->ssl, (const unsigned char *)protocols, (unsigned)strlen(protocols)), 0);
    if (manner->tls12)
        assert_int_equal(SSL_set_max_proto_version(v->ssl, TLS1_2_VERSION), 1);
    if (manner->resumes && v->newest)
        assert_int_equal(SSL_set_session(v->ssl, v->newest), 1);
    SSL_set_connect_state(v->ssl);
    world_uncounted = false;
}

static void client_begin_http2(struct visitor *v)
{
    nghttp2_session_callbacks *callbacks;
    assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_field);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid);
    assert_int_equal(nghttp2_session_client_new(&v->http2, callbacks, v), 0);
    nghttp2_session_callbacks_del(callbacks);
    assert_int_equal(nghttp2_submit_settings(v->http2, 0, NULL, 0), 0);
}

UNUSED static void client_connect(struct visitor *v, const struct manner *manner)
{
    static const char proxy[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x01\xbb";
    const struct sockaddr_storage *address = &v->world->addresses[manner->at];
    v->fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(v->fd >= 0);
    assert_int_equal(connect(v->fd, (const struct sockaddr *)address, v->world->address_lens[manner->at]), 0);
    assert_int_equal(fcntl(v->fd, F_SETFL, O_NONBLOCK), 0);
    if (address->ss_family == AF_INET) /* windows are given back in small frames */
        (void)setsockopt(v->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    for (unsigned i = 0; i < CLIENT_STREAMS; i++) {
        v->heard[i] = (struct heard){ .text = v->heard[i].text, .declared = -1 };
        v->heard[i].text[0] = '\0';
        v->sent[i] = 0;
    }
    v->texts = manner->http2 ? 0 : 1;
    v->out_len = 0;
    v->ended = v->reused = false;
    v->ready = manner->at != WORLD_TLS;
    v->wrong = NULL;
    if (manner->at == WORLD_PROXIED)
        assert_int_equal(send(v->fd, proxy, sizeof(proxy) - 1, MSG_NOSIGNAL), sizeof(proxy) - 1);
    if (manner->at == WORLD_TLS)
        client_begin_tls(v, manner);
    if (manner->http2)
        client_begin_http2(v);
}

/* ---- bytes ---- */

/* What OpenSSL's answer means: bytes, -1: later, 0: never. */
static ssize_t client_tls_result(struct visitor *v, int n)
{
    const int what = SSL_get_error(v->ssl, n);
    ERR_clear_error(); /* the worker's calls share the queue */
    return what == SSL_ERROR_NONE ? n : what == SSL_ERROR_WANT_READ || what == SSL_ERROR_WANT_WRITE ? -1 : 0;
}

static ssize_t client_receive(struct visitor *v, char *to, size_t room)
{
    if (!v->ssl) {
        const ssize_t n = recv(v->fd, to, room, 0);
        return n < 0 && errno != EAGAIN ? 0 : n;
    }
    world_uncounted = true;
    ERR_clear_error();
    const ssize_t n = client_tls_result(v, SSL_read(v->ssl, to, (int)room));
    world_uncounted = false;
    return n;
}

static ssize_t client_send(struct visitor *v, const char *bytes, size_t len)
{
    if (!v->ssl) {
        const ssize_t n = send(v->fd, bytes, len, MSG_NOSIGNAL);
        return n < 0 && errno != EAGAIN ? 0 : n;
    }
    world_uncounted = true;
    ERR_clear_error();
    const ssize_t n = client_tls_result(v, SSL_write(v->ssl, bytes, (int)len));
    world_uncounted = false;
    return n;
}

static void client_shake_hands(struct visitor *v)
{
    const unsigned char *protocol;
    unsigned len;
    world_uncounted = true;
    ERR_clear_error();
    const ssize_t n = client_tls_result(v, SSL_do_handshake(v->ssl));
    world_uncounted = false;
    v->ready = n > 0;
    v->ended = n == 0;
    if (!v->ready)
        return;
    v->reused = SSL_session_reused(v->ssl);
    SSL_get0_alpn_selected(v->ssl, &protocol, &len);
    if (len != (v->http2 ? 2 : 8))
        v->wrong = "another protocol than the one that was offered";
}

static void client_hear(struct visitor *v)
{
    static char bytes[65536];
    while (v->fd >= 0 && !v->ended) {
        const ssize_t n = client_receive(v, bytes, sizeof(bytes));
        if (n < 0)
            break;
        v->ended = n == 0;
        if (n > 0 && !v->http2)
            heard_add(&v->heard[0], bytes, (size_t)n);
        else if (n > 0 && nghttp2_session_mem_recv(v->http2, (const uint8_t *)bytes, (size_t)n) != n)
            v->wrong = "what is no HTTP/2";
    }
}

static void client_tell(struct visitor *v)
{
    while (v->http2 && !v->ended) {
        if (v->out_len == 0) {
            const ssize_t n = nghttp2_session_mem_send(v->http2, &v->out);
            assert_true(n >= 0);
            if (n == 0)
                return;
            v->out_len = (size_t)n;
        }
        const ssize_t n = client_send(v, (const char *)v->out, v->out_len);
        if (n <= 0)
            return; /* full, or dead: the worker's last words may still be there */
        v->out += n;
        v->out_len -= (size_t)n;
    }
}

/* One turn of the loop and of the client; waits at most wait_ms for something to happen. */
UNUSED static void client_turn(struct visitor *v, int wait_ms)
{
    uv_loop_t *loop = &v->world->rig.loop;
    const int due_ms = uv_backend_timeout(loop);
    struct pollfd ready[] = { { .fd = uv_backend_fd(loop), .events = POLLIN },
                              { .fd = v->ended ? -1 : v->fd, .events = POLLIN } };
    if (v->ready)
        client_tell(v);
    if (due_ms >= 0 && due_ms < wait_ms)
        wait_ms = due_ms;
    (void)poll(ready, 2, wait_ms);
    (void)uv_run(loop, UV_RUN_NOWAIT);
    if (v->fd >= 0 && !v->ready && !v->ended)
        client_shake_hands(v);
    if (v->ready)
        client_hear(v);
}

/* ---- requests ---- */

/* Sends it in pieces that the worker takes meanwhile; false: the worker closed before all was sent. */
UNUSED static bool client_say(struct visitor *v, const char *text, size_t len)
{
    const uint64_t until_ms = clock_ms() + WORLD_WAIT_MS;
    while (len > 0 && !v->ended) {
        const ssize_t n = v->ready ? client_send(v, text, size_min(len, 60000)) : -1;
        if (n == 0)
            return false;
        text += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
        client_turn(v, n < 0 ? 1 : 0);
        assert_true(clock_ms() < until_ms);
    }
    return len == 0;
}

static ssize_t client_upload(nghttp2_session *session, int32_t id, uint8_t *to, size_t max, uint32_t *flags,
                             nghttp2_data_source *source, void *user)
{
    struct visitor *v = user;
    size_t *sent = &v->sent[source->fd];
    const struct span part = span_head(span_skip(v->body, *sent), max);
    (void)session;
    (void)id;
    memcpy(to, part.ptr, part.len);
    *sent += part.len;
    if (*sent == v->body.len)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)part.len;
}

#define FIELD(n, v)                                                                                                    \
    (nghttp2_nv)                                                                                                       \
    {                                                                                                                  \
        .name = (uint8_t *)(uintptr_t)(n), .namelen = strlen(n), .value = (uint8_t *)(uintptr_t)(v),                   \
        .valuelen = strlen(v)                                                                                          \
    }
/* On a stream of its own. authorization NULL: none. The body stays the caller's until the answer. */
UNUSED static void client_ask(struct visitor *v, const char *authorization, struct span body)
{
    const nghttp2_nv fields[] = { FIELD(":method", "POST"), FIELD(":scheme", "http"), FIELD(":authority", "h"),
                                  FIELD(":path", "/v1/chat/completions"),
                                  FIELD("authorization", authorization ? authorization : "") };
    const nghttp2_data_provider upload = { .source.fd = (int)v->texts, .read_callback = client_upload };
    assert_true(v->texts < CLIENT_STREAMS);
    v->body = body;
    const int32_t id = nghttp2_submit_request(v->http2, NULL, fields, authorization ? 5 : 4, &upload, NULL);
    assert_true(id > 0);
    v->heard[v->texts++].id = id;
}

UNUSED static void client_cancel(struct visitor *v)
{
    for (unsigned i = 0; i < v->texts; i++)
        assert_int_equal(nghttp2_submit_rst_stream(v->http2, 0, v->heard[i].id, NGHTTP2_CANCEL), 0);
}
