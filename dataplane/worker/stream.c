#include "dataplane/worker/stream.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/worker/proxy_v2.h"
#include "dataplane/worker/stream_tls.h"
#include <arpa/inet.h>

union peer_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage room;
};

static void account(struct stream *stream)
{
    const size_t now = outbox_memory(&stream->outbox);
    if (now != stream->accounted)
        core_account(stream->core, stream->accounted, now);
    stream->accounted = now;
}

/* ---- in ---- */

void stream_opened_now(struct stream *stream)
{
    stream->opened = true;
    stream->events->opened(stream->user);
}

void stream_give(struct stream *stream, struct span bytes)
{
    if (!stream->closing && bytes.len > 0)
        stream->events->bytes(stream->user, bytes);
}

static void end(struct stream *stream, bool failed)
{
    if (stream->closing || stream->ended)
        return;
    stream->ended = true;
    stream_read(stream, false);
    stream->events->ended(stream->user, failed);
}

/* What comes after the PROXY header. Once our side is shut nobody reads it any more. */
static void take(struct stream *stream, struct span bytes)
{
    if (stream->tls && !stream->shutting) {
        const enum err err = stream_tls_take(stream, bytes);
        account(stream);
        if (err)
            end(stream, err != ERR_CLOSED);
        return;
    }
    if (!stream->opened)
        stream_opened_now(stream);
    stream_give(stream, bytes);
}

/* False: nothing is left for whoever comes after the header. */
static bool take_proxy(struct stream *stream, struct span *bytes)
{
    const enum err err = proxy_v2_take(stream->proxy, bytes);
    if (err == ERR_AGAIN)
        return false;
    if (err) {
        log_debug("proxy.malformed", LOG_STR("from", stream->facts.client));
        end(stream, true);
        return false;
    }
    (void)proxy_v2_client(stream->proxy, stream->facts.client, sizeof(stream->facts.client));
    free(stream->proxy);
    stream->proxy = NULL;
    return true;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    const struct stream *stream = handle->data;
    (void)suggested;
    *ret = uv_buf_init(stream->core->read_buffer, CORE_READ_BYTES);
}

static void on_read(uv_stream_t *socket, ssize_t n, const uv_buf_t *buf)
{
    struct stream *stream = socket->data;
    if (n == 0)
        return;
    if (n < 0 || fault_hit(FAULT_READ)) {
        end(stream, n != UV_EOF);
        return;
    }
    struct span bytes = span_of(buf->base, (size_t)n);
    if (!stream->proxy || take_proxy(stream, &bytes))
        take(stream, bytes);
}

void stream_read(struct stream *stream, bool on)
{
    if (stream->reading == on || stream->closing || (on && stream->ended))
        return;
    stream->reading = on;
    if (on)
        /* Fails only for a socket that is closing or was never open, which is the caller's promise. */
        REQUIRE(uv_read_start(&stream->socket.stream, on_alloc, on_read) == 0);
    else
        (void)uv_read_stop(&stream->socket.stream);
}

/* ---- out ---- */

static void on_shutdown(uv_shutdown_t *request, int status)
{
    struct stream *stream = request->data;
    if (status < 0 && !stream->closing)
        stream->events->ended(stream->user, true);
}

static enum err shut(struct stream *stream)
{
    stream->shutdown.data = stream;
    return uv_shutdown(&stream->shutdown, &stream->socket.stream, on_shutdown) ? ERR_CLOSED : OK;
}

static void on_written(void *user, bool failed)
{
    struct stream *stream = user;
    account(stream);
    if (stream->closing)
        return;
    if (!failed && stream->shutting && stream_idle(stream))
        failed = shut(stream) != OK;
    stream->events->written(stream->user, failed);
}

enum err stream_write(struct stream *stream, const struct span *parts, unsigned count)
{
    const enum err err =
        stream->tls ? stream_tls_write(stream, parts, count) : outbox_write(&stream->outbox, parts, count);
    account(stream);
    return err;
}

enum err stream_write_body(struct stream *stream, struct span head, struct buf *body)
{
    enum err err;
    if (stream->tls) {
        const struct span parts[] = { head, buf_span(body) };
        err = stream_tls_write(stream, parts, ARRAY_LEN(parts));
        buf_release(body);
    } else {
        err = outbox_write_body(&stream->outbox, head, body);
    }
    account(stream);
    return err;
}

bool stream_stalled(struct stream *stream, uint64_t stall_ms, uint64_t *ret_next_ms)
{
    return outbox_stalled(&stream->outbox, stall_ms, ret_next_ms);
}

enum err stream_shutdown(struct stream *stream)
{
    if (stream->shutting)
        return OK;
    const enum err err = stream->tls ? stream_tls_shutdown(stream) : OK;
    account(stream);
    stream->shutting = true;
    if (err)
        return ERR_CLOSED;
    return stream_idle(stream) ? shut(stream) : OK;
}

/* ---- beginning and end ---- */

static void find_client(struct stream *stream, union peer_address *peer)
{
    char *out = stream->facts.client;
    int length = (int)sizeof(*peer);
    char text[INET6_ADDRSTRLEN];
    const struct in6_addr *address = &peer->v6.sin6_addr;
    if (!socket_is_tcp(&stream->socket) || uv_tcp_getpeername(&stream->socket.tcp, &peer->any, &length)) {
        const bool left = socket_is_tcp(&stream->socket);
        peer->any.sa_family = left ? AF_UNSPEC : AF_UNIX;
        (void)snprintf(out, STREAM_ADDRESS_BYTES, "%s", left ? "gone" : "unix");
    } else if (peer->any.sa_family == AF_INET) {
        (void)inet_ntop(AF_INET, &peer->v4.sin_addr, text, sizeof(text));
        (void)snprintf(out, STREAM_ADDRESS_BYTES, "%s:%u", text, ntohs(peer->v4.sin_port));
    } else if (IN6_IS_ADDR_V4MAPPED(address)) {
        (void)inet_ntop(AF_INET, address->s6_addr + 12, text, sizeof(text));
        (void)snprintf(out, STREAM_ADDRESS_BYTES, "%s:%u", text, ntohs(peer->v6.sin6_port));
    } else {
        (void)inet_ntop(AF_INET6, address, text, sizeof(text));
        (void)snprintf(out, STREAM_ADDRESS_BYTES, "[%s]:%u", text, ntohs(peer->v6.sin6_port));
    }
}

/* What must come before the client's own bytes. */
static enum err expect(struct stream *stream)
{
    union peer_address peer;
    find_client(stream, &peer);
    if (listener_setup_trusts(stream->setup, &peer.any)) {
        stream->proxy = fault_calloc(1, sizeof(*stream->proxy));
        if (!stream->proxy)
            return ERR_NOMEM;
    }
    const enum err err = stream->setup->tls ? stream_tls_open(stream) : OK;
    stream->opened = !stream->proxy && !stream->tls;
    return err;
}

enum err stream_accept(struct stream *stream, struct core *core, uv_stream_t *server, struct listener_setup *setup,
                       const struct stream_events *events, void *user)
{
    *stream = (struct stream){ .core = core, .setup = listener_setup_ref(setup), .events = events, .user = user };
    socket_init(&stream->socket, core->loop, server->type == UV_TCP, stream);
    outbox_init(&stream->outbox, &stream->socket.stream, on_written, stream);
    if (uv_accept(server, &stream->socket.stream))
        return ERR_IO;
    if (socket_is_tcp(&stream->socket))
        (void)uv_tcp_nodelay(&stream->socket.tcp, 1); /* fails only for a socket that is dead: reading will tell */
    const enum err err = expect(stream);
    if (err == OK)
        stream_read(stream, true);
    return err;
}

static void on_closed(uv_handle_t *handle)
{
    struct stream *stream = handle->data;
    outbox_release(&stream->outbox);
    account(stream);
    listener_setup_unref(stream->setup);
    free(stream->proxy);
    stream_tls_free(stream->tls);
    stream->closed(stream->user);
}

void stream_close(struct stream *stream, void (*closed)(void *user))
{
    REQUIRE(!stream->closing);
    stream->closing = true;
    stream->closed = closed;
    uv_close(&stream->socket.handle, on_closed);
}
