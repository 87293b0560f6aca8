#include "dataplane/worker/refusal.h"
#include "common/digest.h"
#include "common/fault.h"
#include "dataplane/worker/deadline.h"
#include "dataplane/worker/http1_answer.h"
#include "dataplane/worker/reply.h"
#include "dataplane/worker/socket.h"

#define REFUSALS_MAX      1024u /* a flood over the cap must not hold more descriptors than the cap was for */
#define REFUSAL_LINGER_MS 1000u
#define REFUSAL_BYTES     (256u << 10) /* a client that goes on sending what nobody reads is cut */

struct refusal {
    union socket socket;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct deadline timer;
    struct refusals *refusals;
    struct buf text;
    size_t dropped;
    unsigned closing; /* handles still open */
};

static enum err write_text(struct core *core, struct buf *out)
{
    const struct reply_error error = { .outcome = OUTCOME_BUSY,
                                       .message = "This gateway has as many connections as it takes. Try again soon." };
    struct buf body = BUF_INIT(4096);
    char id[REQUEST_ID_BYTES];
    request_id_make(&core->ids, core_wall_ms(core), id);
    buf_clear(&core->lines);
    enum err err = http1_write_header(&core->lines, SPAN("x-request-id"), span_cstr(id));
    if (err == OK)
        err = reply_error_lines(&error, &core->lines);
    if (err == OK)
        err = reply_error_body(&error, &body);
    const struct sink_head head = { .status = outcome_status(error.outcome),
                                    .close = true,
                                    .content_type = REPLY_ERROR_TYPE,
                                    .lines = buf_span(&core->lines) };
    if (err == OK)
        err =
            http1_answer_head(&(struct http1_answer){ .head = &head, .bytes = body.len, .date = core_date(core) }, out);
    if (err == OK)
        err = buf_append(out, buf_span(&body));
    buf_release(&body);
    return err;
}

static void on_closed(uv_handle_t *handle)
{
    struct refusal *refusal = handle->data;
    struct refusals *refusals = refusal->refusals;
    if (--refusal->closing > 0)
        return;
    buf_release(&refusal->text);
    free(refusal);
    refusals->count--;
    refusals->ended(refusals->user);
}

static void end(struct refusal *refusal)
{
    if (refusal->closing)
        return;
    refusal->closing = 2;
    uv_close(&refusal->socket.handle, on_closed);
    deadline_close(&refusal->timer, on_closed);
}

static void on_timer(struct deadline *timer)
{
    end(CONTAINER_OF(timer, struct refusal, timer));
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    const struct refusal *refusal = handle->data;
    (void)suggested;
    *ret = uv_buf_init(refusal->refusals->core->read_buffer, CORE_READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct refusal *refusal = stream->data;
    (void)buf;
    refusal->dropped += n > 0 ? (size_t)n : 0;
    if (n < 0 || refusal->dropped > REFUSAL_BYTES)
        end(refusal);
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    if (status < 0)
        end(request->data);
}

static void on_written(uv_write_t *request, int status)
{
    struct refusal *refusal = request->data;
    if (status < 0 || uv_shutdown(&refusal->shutdown, &refusal->socket.stream, on_shutdown))
        end(refusal);
}

static bool tell(struct refusal *refusal)
{
    struct core *core = refusal->refusals->core;
    if (refusal->refusals->count > REFUSALS_MAX || write_text(core, &refusal->text))
        return false;
    const struct span text = buf_span(&refusal->text);
    const uv_buf_t part = uv_buf_init((char *)(uintptr_t)text.ptr, (unsigned)text.len);
    if (uv_write(&refusal->write, &refusal->socket.stream, &part, 1, on_written) ||
        uv_read_start(&refusal->socket.stream, on_alloc, on_read))
        return false;
    deadline_set(&refusal->timer, core_now_ms(core) + REFUSAL_LINGER_MS);
    return true;
}

enum err refusal_begin(struct refusals *refusals, uv_stream_t *server, bool plaintext)
{
    struct refusal *refusal = fault_calloc(1, sizeof(*refusal));
    if (!refusal)
        return ERR_NOMEM;
    refusal->refusals = refusals;
    buf_init(&refusal->text, 4096);
    socket_init(&refusal->socket, refusals->core->loop, server->type == UV_TCP, refusal);
    deadline_init(&refusal->timer, refusals->core->loop, on_timer);
    refusal->write.data = refusal->shutdown.data = refusal->timer.timer.data = refusal;
    refusals->count++;
    if (uv_accept(server, &refusal->socket.stream) || !plaintext || !tell(refusal))
        end(refusal);
    return OK;
}
