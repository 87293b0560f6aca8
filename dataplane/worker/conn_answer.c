#include "dataplane/worker/conn_internal.h"
#include "common/log.h"
#include "dataplane/worker/http1_answer.h"

static void wrote(struct conn *conn, enum err err)
{
    if (err) {
        conn_broken(conn);
        return;
    }
    if (stream_idle(conn->speaker.stream))
        return;
    conn->full = conn->full || stream_queued(conn->speaker.stream) > core_write_queue_max(conn->core);
    if (conn->stall_due == DEADLINE_NONE) {
        conn->stall_due = core_now_ms(conn->core) + conn->core->config->limits.write_stall_ms;
        conn_rearm(conn);
    }
}

static bool deaf(const struct conn *conn)
{
    return conn->broken || conn->state == CONN_CLOSED;
}

static void write_parts(struct conn *conn, const struct span *parts, unsigned count)
{
    if (!deaf(conn))
        wrote(conn, stream_write(conn->speaker.stream, parts, count));
}

static void sink_go_on(struct sink *sink)
{
    const struct span go_on = SPAN("HTTP/1.1 100 Continue\r\n\r\n");
    write_parts(CONTAINER_OF(sink, struct conn, sink), &go_on, 1);
}

/* The head of an answer, in core->head. A connection that drains says so; one that said so keeps its word. */
static enum err write_head(struct conn *conn, struct http1_answer answer)
{
    conn->close_after = conn->close_after || answer.head->close || conn->core->draining;
    answer.http10 = conn->http10;
    answer.close = conn->close_after;
    answer.date = core_date(conn->core);
    buf_clear(&conn->core->head);
    return http1_answer_head(&answer, &conn->core->head) ? ERR_NOMEM : OK;
}

static enum err sink_whole(struct sink *sink, const struct sink_head *head, struct buf *body)
{
    struct conn *conn = CONTAINER_OF(sink, struct conn, sink);
    enum err err = write_head(conn, (struct http1_answer){ .head = head, .bytes = body->len });
    if (err || deaf(conn) || head->bodiless)
        buf_release(body);
    if (err == OK && !deaf(conn))
        wrote(conn, stream_write_body(conn->speaker.stream, buf_span(&conn->core->head), body));
    return err;
}

static enum err sink_stream(struct sink *sink, const struct sink_head *head, struct span bytes, bool last)
{
    struct conn *conn = CONTAINER_OF(sink, struct conn, sink);
    const bool chunked = !conn->http10;
    struct span parts[5];
    unsigned count = 0;
    char size[24];
    if (head) {
        conn->close_after = conn->close_after || !chunked; /* HTTP/1.0: the stream's end is the connection's */
        const enum err err = write_head(conn, (struct http1_answer){ .head = head, .stream = true });
        if (err)
            return err;
        parts[count++] = buf_span(&conn->core->head);
    }
    if (bytes.len > 0) {
        const int digits = snprintf(size, sizeof(size), "%zx\r\n", bytes.len);
        if (chunked)
            parts[count++] = span_of(size, (size_t)digits);
        parts[count++] = bytes;
        if (chunked)
            parts[count++] = HTTP1_CHUNK_END;
    }
    if (last && chunked)
        parts[count++] = HTTP1_LAST_CHUNK;
    if (count > 0)
        write_parts(conn, parts, count);
    return OK;
}

static size_t sink_queued(const struct sink *sink)
{
    const struct conn *conn = CONTAINER_OF(sink, struct conn, sink);
    return stream_queued(conn->speaker.stream);
}

static void sink_end(struct sink *sink, bool close, bool abort)
{
    conn_exchange_ended(CONTAINER_OF(sink, struct conn, sink), close, abort);
}

const struct sink_ops conn_sink_ops = {
    .go_on = sink_go_on, .whole = sink_whole, .stream = sink_stream, .queued = sink_queued, .end = sink_end
};

bool conn_refuse(struct conn *conn, enum outcome outcome, const char *message)
{
    struct buf *lines = &conn->core->lines;
    struct buf body = BUF_INIT(64u << 10);
    char id[REQUEST_ID_BYTES];
    request_id_make(&conn->core->ids, core_wall_ms(conn->core), id);
    const struct reply_error error = { .outcome = outcome, .message = message };
    buf_clear(lines);
    enum err err = http1_write_header(lines, SPAN("x-request-id"), span_cstr(id));
    if (err == OK)
        err = reply_error_lines(&error, lines);
    if (err == OK)
        err = reply_error_body(&error, &body);
    core_count(conn->core, WORKER_BAD_REQUESTS);
    log_debug("request.refused", LOG_STR("request", id), LOG_STR("outcome", outcome_name(outcome)));
    const struct sink_head head = {
        .status = outcome_status(outcome), .close = true, .content_type = REPLY_ERROR_TYPE, .lines = buf_span(lines)
    };
    if (err == OK)
        err = sink_whole(&conn->sink, &head, &body);
    buf_release(&body);
    return err == OK && !conn->broken;
}
