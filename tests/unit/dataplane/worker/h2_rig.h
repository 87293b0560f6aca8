/* h2_rig.h - one HTTP/2 connection whose socket and exchanges are played by the test: it defines stream_* and
 * exchange_*, so the real ones are not linked. Included by one test program each. */
#pragma once
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/worker/h2_internal.h"
#include "dataplane/worker/reply.h"

/* ---- the socket ---- */

/* What waits stands in stream.outbox.pending, where stream_queued looks for it. */
struct played {
    struct stream stream;
    struct buf wire; /* what it took */
    size_t room;     /* how much more it takes; SIZE_MAX: all */
    unsigned writes;
    bool shut, dead, stalled;
    enum err refuse; /* what the next write answers */
};

static void stream_drain(struct played *p)
{
    struct buf *waiting = &p->stream.outbox.pending;
    const size_t n = size_min(p->room, waiting->len);
    if (p->room != SIZE_MAX)
        p->room -= n;
    REQUIRE(buf_append(&p->wire, span_head(buf_span(waiting), n)) == OK);
    buf_consume(waiting, n);
}
enum err stream_write(struct stream *stream, const struct span *parts, unsigned count)
{
    struct played *p = CONTAINER_OF(stream, struct played, stream);
    REQUIRE(!p->dead && !p->shut);
    if (p->refuse)
        return p->refuse;
    p->writes++;
    for (unsigned i = 0; i < count; i++)
        REQUIRE(buf_append(&stream->outbox.pending, parts[i]) == OK);
    stream_drain(p);
    return OK;
}
bool stream_stalled(struct stream *stream, uint64_t stall_ms, uint64_t *ret_next_ms)
{
    (void)stall_ms;
    *ret_next_ms = UINT64_MAX;
    return CONTAINER_OF(stream, struct played, stream)->stalled && stream_queued(stream) > 0;
}
enum err stream_shutdown(struct stream *stream)
{
    struct played *p = CONTAINER_OF(stream, struct played, stream);
    REQUIRE(!p->shut && stream_idle(stream));
    p->shut = true;
    return OK;
}

/* ---- the exchanges ---- */

#define RIG_EXCHANGES 4096
struct exchange {
    struct sink *sink;
    enum http1_method method;
    char path[64], query[64], authority[64], x[64];
    bool expects, has_body;
    int64_t length;
    struct buf body;
    unsigned pieces;
    bool whole, gone, timed_out, drained, over;
    unsigned writable;
};
static struct exchange rig_x[RIG_EXCHANGES];
static unsigned rig_x_count;
static enum { BEGIN_GOOD, BEGIN_NO_MEMORY, BEGIN_REFUSED } rig_begin;
static size_t rig_body_max;

UNUSED static struct exchange *newest(void)
{
    REQUIRE(rig_x_count > 0);
    return &rig_x[rig_x_count - 1];
}
/* Whole answers and the end, as exchange.c gives them. */
static enum err x_whole(struct exchange *x, unsigned status, const char *text)
{
    struct buf body = BUF_INIT(64u << 20);
    enum err err = buf_append_cstr(&body, text);
    const struct sink_head head = { .status = status,
                                    .bodiless = x->method == HTTP1_HEAD_METHOD,
                                    .content_type = SPAN("application/json"),
                                    .lines = SPAN("x-request-id: req_1\r\nx-empty: \r\nx-two: a: b\r\n") };
    if (err == OK)
        err = x->sink->ops->whole(x->sink, &head, &body);
    buf_release(&body);
    x->over = true;
    x->sink->ops->end(x->sink, true, err != OK);
    return err;
}
UNUSED static enum err x_stream(struct exchange *x, bool first, struct span bytes, bool last)
{
    const struct sink_head head = { .status = 200,
                                    .content_type = SPAN("text/event-stream; charset=utf-8"),
                                    .lines = SPAN("cache-control: no-cache\r\n") };
    const enum err err = x->sink->ops->stream(x->sink, first ? &head : NULL, bytes, last);
    if (last || err) {
        x->over = true;
        x->sink->ops->end(x->sink, false, err != OK);
    }
    return err;
}

struct exchange *exchange_begin(struct core *core, struct sink *sink, const struct http1_head *head, uint64_t began_ns,
                                bool *ret_ended)
{
    (void)core;
    (void)began_ns;
    if (rig_begin == BEGIN_NO_MEMORY)
        return NULL;
    REQUIRE(rig_x_count < RIG_EXCHANGES);
    struct exchange *x = &rig_x[rig_x_count++];
    *x = (struct exchange){ .sink = sink,
                            .method = head->method,
                            .expects = head->expect_continue,
                            .has_body = head->has_body,
                            .length = head->content_length,
                            .body = BUF_INIT(64u << 20) };
    const struct http1_header *mark = http1_find(head, SPAN("x-mark"));
    snprintf(x->path, sizeof(x->path), SPAN_FMT, SPAN_ARG(head->path));
    snprintf(x->query, sizeof(x->query), SPAN_FMT, SPAN_ARG(head->query));
    snprintf(x->authority, sizeof(x->authority), SPAN_FMT, SPAN_ARG(head->authority));
    if (mark)
        snprintf(x->x, sizeof(x->x), SPAN_FMT, SPAN_ARG(mark->value));
    *ret_ended = rig_begin == BEGIN_REFUSED;
    if (*ret_ended)
        (void)x_whole(x, 401, "{}");
    else if (x->expects)
        sink->ops->go_on(sink);
    return x;
}
bool exchange_body(struct exchange *x, struct span bytes)
{
    REQUIRE(!x->over && !x->whole);
    x->pieces++;
    if (rig_body_max && x->body.len + bytes.len > rig_body_max) {
        (void)x_whole(x, 413, "{}");
        return false;
    }
    if (buf_append(&x->body, bytes) == OK)
        return true;
    (void)x_whole(x, 503, "{}");
    return false;
}
void exchange_body_end(struct exchange *x, uint64_t began_ns)
{
    (void)began_ns;
    REQUIRE(!x->over && !x->whole);
    x->whole = true;
}
void exchange_body_timeout(struct exchange *x)
{
    x->timed_out = true;
    (void)x_whole(x, 408, "{}");
}
void exchange_client_gone(struct exchange *x)
{
    REQUIRE(!x->over);
    x->gone = x->over = true;
    x->sink->ops->end(x->sink, false, true);
}
void exchange_writable(struct exchange *x)
{
    REQUIRE(!x->over);
    x->writable++;
}
void exchange_drain_passed(struct exchange *x)
{
    x->drained = true;
    (void)x_whole(x, 503, "{}");
}
void exchange_close_idle(struct core *core)
{
    (void)core;
}

/* ---- the connection ---- */

struct rig {
    uv_loop_t loop;
    struct node_config config;
    struct core core;
    struct speaker_host host;
    struct speaker *speaker; /* NULL: released */
    struct played socket;
};

UNUSED static struct h2 *rig_h2(struct rig *rig)
{
    return CONTAINER_OF(rig->speaker, struct h2, speaker);
}
static void rig_close(struct speaker_host *host)
{
    struct rig *rig = CONTAINER_OF(host, struct rig, host);
    struct speaker *speaker = rig->speaker;
    rig->speaker = NULL;
    rig->socket.dead = true;
    speaker->ops->release(speaker);
}

/* Limits that the test has set stay. */
static enum err rig_open(struct rig *rig)
{
    struct node_limits *l = &rig->config.limits;
    log_setup("test", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
#define DEFAULT(field, value)                                                                                          \
    if (!l->field)                                                                                                     \
    l->field = (value)
    DEFAULT(head_bytes, 32768);
    DEFAULT(headers, 100);
    DEFAULT(head_time_ms, 60000);
    DEFAULT(body_time_ms, 60000);
    DEFAULT(idle_ms, 60000);
    DEFAULT(buffered_bytes, 1u << 30);
    DEFAULT(write_queue_bytes, 65536);
    DEFAULT(write_stall_ms, 60000);
    DEFAULT(http2_streams, 100);
    DEFAULT(drain_first_ms, 60000); /* only the ping counts, however slow this machine is */
    DEFAULT(drain_idle_ms, 60000);
#undef DEFAULT
    REQUIRE(uv_loop_init(&rig->loop) == 0);
    rig->core = (struct core){ .loop = &rig->loop, .config = &rig->config };
    static struct board_region region; /* large: one for all, nobody reads its counters */
    rig->core.region = &region;
    core_renew_wall(&rig->core);
    rig->host.close = rig_close;
    snprintf(rig->socket.stream.facts.client, STREAM_ADDRESS_BYTES, "192.0.2.1:1");
    rig->socket.room = SIZE_MAX;
    buf_init(&rig->socket.wire, 256u << 20);
    buf_init(&rig->socket.stream.outbox.pending, 256u << 20);
    rig_x_count = 0;
    rig_begin = BEGIN_GOOD;
    rig_body_max = 0;
    return h2_speak(&rig->core, &rig->socket.stream, &rig->host, &rig->speaker);
}
/* One turn of the loop, in which the timer may fire. */
static void rig_turn(struct rig *rig)
{
    (void)uv_run(&rig->loop, UV_RUN_NOWAIT);
}
static void rig_give(struct rig *rig, struct span bytes)
{
    while (bytes.len > 0 && rig->speaker) { /* as a socket is read */
        const struct span part = span_head(bytes, CORE_READ_BYTES);
        bytes = span_skip(bytes, part.len);
        rig->speaker->ops->bytes(rig->speaker, part, clock_ns());
    }
}
/* The client takes what waits. */
UNUSED static void rig_take(struct rig *rig, size_t room)
{
    rig->socket.room = room;
    stream_drain(&rig->socket);
    if (rig->speaker)
        rig->speaker->ops->written(rig->speaker);
}
/* Nothing is left: no byte accounted, no exchange untold. */
static void rig_end(struct rig *rig)
{
    if (rig->speaker)
        rig_close(&rig->host);
    while (uv_run(&rig->loop, UV_RUN_NOWAIT))
        ;
    REQUIRE(uv_loop_close(&rig->loop) == 0);
    REQUIRE(rig->core.buffered == 0);
    for (unsigned i = 0; i < rig_x_count; i++) {
        REQUIRE(rig_x[i].over);
        buf_release(&rig_x[i].body);
    }
    rig_x_count = 0;
    buf_release(&rig->socket.wire);
    buf_release(&rig->socket.stream.outbox.pending);
}
