#include "dataplane/worker/outbox.h"
#include "common/fault.h"

#define SOCKET_DEAD SIZE_MAX

static enum err write_pending(struct outbox *outbox);

void outbox_init(struct outbox *outbox, uv_stream_t *stream, void (*written)(void *user, bool failed), void *user)
{
    *outbox = (struct outbox){ .stream = stream, .written = written, .user = user };
    buf_init(&outbox->pending, OUTBOX_BYTES);
    buf_init(&outbox->writing, OUTBOX_BYTES);
}

void outbox_release(struct outbox *outbox)
{
    buf_release(&outbox->pending);
    buf_release(&outbox->writing);
}

static void on_written(uv_write_t *request, int status)
{
    struct outbox *outbox = request->data;
    outbox->active = false;
    buf_release(&outbox->writing);
    outbox->written(outbox->user, status < 0 || write_pending(outbox) != OK);
}

static enum err write_pending(struct outbox *outbox)
{
    if (outbox->active || outbox->pending.len == 0 || uv_is_closing((uv_handle_t *)outbox->stream))
        return OK;
    outbox->writing = outbox->pending;
    buf_init(&outbox->pending, OUTBOX_BYTES);
    struct span bytes = buf_span(&outbox->writing);
    uv_buf_t part = uv_buf_init((char *)(uintptr_t)bytes.ptr, (unsigned)bytes.len);
    outbox->request.data = outbox;
    if (fault_hit(FAULT_WRITE) || uv_write(&outbox->request, outbox->stream, &part, 1, on_written))
        return ERR_CLOSED;
    outbox->active = true;
    outbox->progress_ms = uv_now(outbox->stream->loop);
    outbox->unsent = bytes.len;
    return OK;
}

/* How many bytes of these parts the socket takes now, or SOCKET_DEAD. */
static size_t try_write(struct outbox *outbox, const struct span *parts, unsigned count)
{
    uv_buf_t bufs[OUTBOX_PARTS_MAX];
    REQUIRE(count <= OUTBOX_PARTS_MAX);
    if (!outbox->active && outbox->writing.len > 0)
        return SOCKET_DEAD; /* a write that could not begin: nothing may follow what it had */
    if (!outbox_idle(outbox) || count == 0)
        return 0;
    for (unsigned i = 0; i < count; i++)
        bufs[i] = uv_buf_init((char *)(uintptr_t)parts[i].ptr, (unsigned)parts[i].len);
    int took = fault_hit(FAULT_WRITE) ? UV_ECONNRESET : uv_try_write(outbox->stream, bufs, count);
    if (took >= 0)
        return (size_t)took;
    return took == UV_EAGAIN ? 0 : SOCKET_DEAD;
}

enum err outbox_write(struct outbox *outbox, const struct span *parts, unsigned count)
{
    size_t took = try_write(outbox, parts, count);
    enum err err = took == SOCKET_DEAD ? ERR_CLOSED : OK;
    for (unsigned i = 0; i < count && err == OK; i++) {
        struct span rest = span_skip(parts[i], took);
        took -= size_min(took, parts[i].len);
        if (rest.len > 0)
            err = buf_append(&outbox->pending, rest);
    }
    return err == OK ? write_pending(outbox) : err;
}

enum err outbox_write_body(struct outbox *outbox, struct span head, struct buf *body)
{
    const struct span parts[] = { head, buf_span(body) };
    enum err err;
    size_t took = try_write(outbox, parts, body->len > 0 ? 2 : 1);
    if (took == SOCKET_DEAD) {
        err = ERR_CLOSED;
    } else if (took < head.len || outbox->pending.len > 0) {
        err = buf_append(&outbox->pending, span_skip(head, took));
        if (err == OK)
            err = buf_append(&outbox->pending, buf_span(body));
    } else {
        err = OK;
        buf_consume(body, took - head.len);
        if (body->len > 0) { /* the rest needs no copy */
            buf_release(&outbox->pending);
            outbox->pending = *body;
            outbox->pending.max = OUTBOX_BYTES;
            buf_init(body, body->max);
        }
    }
    buf_release(body);
    return err == OK ? write_pending(outbox) : err;
}

bool outbox_stalled(struct outbox *outbox, uint64_t stall_ms, uint64_t *ret_next_ms)
{
    uint64_t now_ms = uv_now(outbox->stream->loop);
    *ret_next_ms = UINT64_MAX;
    if (!outbox->active)
        return false;
    size_t unsent = uv_stream_get_write_queue_size(outbox->stream);
    if (unsent < outbox->unsent) {
        outbox->unsent = unsent;
        outbox->progress_ms = now_ms;
    }
    *ret_next_ms = outbox->progress_ms + stall_ms;
    return *ret_next_ms <= now_ms;
}
