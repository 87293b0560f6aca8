#include "dataplane/worker/peer.h"
#include "common/clock.h"
#include "common/fault.h"

#define PEER_LINGER_MS 1000u /* for a request on its way to meet a shut connection instead of a reset */

static const struct span preface = { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24 };

static unsigned legal_from(enum peer_state state)
{
    switch (state) {
    case PEER_OPENING:
        return 1u << PEER_FIRST | 1u << PEER_SPEAKING | 1u << PEER_CLOSED;
    case PEER_FIRST:
        return 1u << PEER_SPEAKING | 1u << PEER_LEAVING | 1u << PEER_CLOSED;
    case PEER_SPEAKING:
    case PEER_LEAVING:
        return 1u << PEER_CLOSED;
    case PEER_CLOSED:
    case PEER_STATES:
        break;
    }
    return 0;
}

static void go(struct peer *peer, enum peer_state to)
{
    REQUIRE(legal_from(peer->state) & 1u << to);
    peer->state = to;
}

static void due_in(struct peer *peer, uint64_t ms)
{
    deadline_set(&peer->timer, core_now_ms(peer->core) + ms);
}

/* ---- the end ---- */

static void closed(struct peer *peer)
{
    if (--peer->closing > 0)
        return;
    core_gauge(peer->core, WORKER_CONNECTIONS_OPEN, -1);
    peer->owner->closed(peer->owner, peer);
    free(peer);
}

static void on_stream_closed(void *user)
{
    closed(user);
}

static void on_timer_closed(uv_handle_t *handle)
{
    closed(CONTAINER_OF(handle, struct peer, timer.timer));
}

void peer_abort(struct peer *peer)
{
    if (peer->state == PEER_CLOSED)
        return;
    struct speaker *speaker = peer->speaker;
    go(peer, PEER_CLOSED);
    peer->speaker = NULL;
    if (speaker)
        speaker->ops->release(speaker);
    peer->closing = 2;
    stream_close(&peer->stream, on_stream_closed);
    deadline_close(&peer->timer, on_timer_closed);
}

static void host_close(struct speaker_host *host)
{
    peer_abort(CONTAINER_OF(host, struct peer, host));
}

/* Nothing was asked, and no more is awaited. */
static void leave(struct peer *peer)
{
    if (stream_shutdown(&peer->stream)) {
        peer_abort(peer);
        return;
    }
    go(peer, PEER_LEAVING);
    due_in(peer, PEER_LINGER_MS);
}

/* ---- which protocol ---- */

/* False: none could be, the connection is gone. */
static bool speak(struct peer *peer, enum stream_protocol protocol)
{
    enum err err;
    if (protocol == STREAM_HTTP2)
        err = h2_speak(peer->core, &peer->stream, &peer->host, &peer->speaker);
    else
        err = conn_speak(peer->core, &peer->stream, &peer->host, &peer->speaker);
    if (err) {
        peer_abort(peer);
        return false;
    }
    go(peer, PEER_SPEAKING);
    deadline_lift(&peer->timer);
    if (peer->core->draining)
        peer->speaker->ops->drain(peer->speaker);
    return true;
}

static void give(struct peer *peer, struct span bytes, uint64_t began_ns)
{
    if (peer->state == PEER_SPEAKING && bytes.len > 0)
        peer->speaker->ops->bytes(peer->speaker, bytes, began_ns);
}

/* The first bytes of plaintext. A beginning of the preface waits for more; anything else is HTTP/1's to judge. */
static void decide(struct peer *peer, struct span bytes, uint64_t began_ns)
{
    const struct span wanted = span_skip(preface, peer->matched);
    const size_t n = size_min(wanted.len, bytes.len);
    const bool same = memcmp(wanted.ptr, bytes.ptr, n) == 0;
    const unsigned before = peer->matched;
    if (same && n < wanted.len) {
        if (before == 0)
            due_in(peer, peer->core->config->limits.head_time_ms);
        peer->matched += (unsigned)n;
        return;
    }
    if (!speak(peer, same ? STREAM_HTTP2 : STREAM_HTTP1))
        return;
    give(peer, span_head(preface, before), began_ns);
    give(peer, bytes, began_ns);
}

static void on_opened(void *user)
{
    struct peer *peer = user;
    const enum stream_protocol protocol = stream_facts(&peer->stream)->protocol;
    if (protocol != STREAM_UNKNOWN || !peer->stream.setup->http2) {
        (void)speak(peer, protocol);
        return;
    }
    go(peer, PEER_FIRST);
    due_in(peer, peer->core->draining ? peer->core->config->limits.drain_first_ms : peer->core->config->limits.idle_ms);
}

/* ---- events ---- */

static void on_bytes(void *user, struct span bytes)
{
    struct peer *peer = user;
    const uint64_t began_ns = clock_ns();
    if (peer->state == PEER_SPEAKING)
        peer->speaker->ops->bytes(peer->speaker, bytes, began_ns);
    else if (peer->state == PEER_FIRST)
        decide(peer, bytes, began_ns);
}

static void on_ended(void *user, bool failed)
{
    struct peer *peer = user;
    if (peer->state == PEER_SPEAKING && !failed)
        peer->speaker->ops->ended(peer->speaker);
    else
        peer_abort(peer);
}

static void on_written(void *user, bool failed)
{
    struct peer *peer = user;
    if (failed)
        peer_abort(peer);
    else if (peer->state == PEER_SPEAKING)
        peer->speaker->ops->written(peer->speaker);
}

static const struct stream_events stream_events = {
    .opened = on_opened, .bytes = on_bytes, .ended = on_ended, .written = on_written
};

static void on_timer(struct deadline *timer)
{
    struct peer *peer = CONTAINER_OF(timer, struct peer, timer);
    if (peer->state == PEER_FIRST && peer->matched == 0)
        leave(peer);
    else if (peer->state != PEER_SPEAKING)
        peer_abort(peer);
}

void peer_drain(struct peer *peer)
{
    if (peer->state == PEER_SPEAKING)
        peer->speaker->ops->drain(peer->speaker);
    else if (peer->state == PEER_FIRST && peer->matched == 0)
        due_in(peer, peer->core->config->limits.drain_first_ms);
}

void peer_drain_passed(struct peer *peer)
{
    if (peer->state == PEER_SPEAKING)
        peer->speaker->ops->drain_passed(peer->speaker);
    else
        peer_abort(peer);
}

enum err peer_accept(struct core *core, uv_stream_t *server, struct listener_setup *setup, struct peer_owner *owner,
                     struct peer **ret)
{
    struct peer *peer = fault_calloc(1, sizeof(*peer));
    if (!peer)
        return ERR_NOMEM;
    peer->core = core;
    peer->owner = owner;
    peer->host.close = host_close;
    deadline_init(&peer->timer, core->loop, on_timer);
    core_gauge(core, WORKER_CONNECTIONS_OPEN, 1);
    *ret = peer;
    if (stream_accept(&peer->stream, core, server, setup, &stream_events, peer))
        peer_abort(peer);
    else if (stream_opened(&peer->stream))
        on_opened(peer);
    else
        due_in(peer, core->config->limits.head_time_ms);
    return OK;
}
