#include "dataplane/worker/h2_internal.h"
#include "common/digest.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/worker/reply.h"

#define OWN_FIELDS 4u /* status, date, content-type, content-length */

static struct h2_stream *stream_of(struct sink *sink)
{
    return CONTAINER_OF(sink, struct h2_stream, sink);
}

static nghttp2_nv field(struct span name, struct span value)
{
    return (nghttp2_nv){ .name = (uint8_t *)(uintptr_t)name.ptr,
                         .namelen = name.len,
                         .value = (uint8_t *)(uintptr_t)value.ptr,
                         .valuelen = value.len };
}

static size_t count_lines(struct span lines)
{
    size_t count = 0;
    for (size_t i = 0; i < lines.len; i++)
        count += lines.ptr[i] == '\n';
    return count;
}

/* "name: value\r\n"... -> fields that borrow from the lines. */
static size_t add_lines(struct span lines, nghttp2_nv *to)
{
    size_t count = 0;
    struct span line;
    while (lines.len > 0 && span_split(&lines, '\n', &line)) {
        const size_t colon = span_find_byte(line, ':');
        if (colon != SIZE_MAX)
            to[count++] =
                field(span_head(line, colon), span_trim(span_head(span_skip(line, colon + 1), line.len - colon - 2)));
    }
    return count;
}

/* length: of the body; UINT64_MAX: not said, it is a stream. bodiless: no byte of it follows. */
static enum err send_head(struct h2_stream *s, const struct sink_head *head, uint64_t length, bool bodiless)
{
    char status[8], bytes[24];
    nghttp2_nv *fields = fault_calloc(OWN_FIELDS + count_lines(head->lines), sizeof(*fields));
    if (!fields)
        return ERR_NOMEM;
    size_t count = 0;
    (void)snprintf(status, sizeof(status), "%03u", head->status % 1000u);
    fields[count++] = field(SPAN(":status"), span_cstr(status));
    fields[count++] = field(SPAN("date"), core_date(s->h2->core));
    if (!span_empty(head->content_type))
        fields[count++] = field(SPAN("content-type"), head->content_type);
    if (length != UINT64_MAX && head->status != 204) { /* RFC 9110 section 8.6 */
        (void)snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)length);
        fields[count++] = field(SPAN("content-length"), span_cstr(bytes));
    }
    count += add_lines(head->lines, fields + count);
    const nghttp2_data_provider body = { .source.ptr = s, .read_callback = h2_take };
    const int failed = nghttp2_submit_response(s->h2->session, s->id, fields, count, bodiless ? NULL : &body);
    free(fields);
    return failed ? ERR_NOMEM : OK;
}

/* Something was put into `out`, or it has ended. */
static void put(struct h2_stream *s, bool was_empty)
{
    struct h2 *h2 = s->h2;
    if (was_empty)
        s->progress_ms = core_now_ms(h2->core);
    if (s->deferred) {
        s->deferred = false;
        (void)nghttp2_session_resume_data(h2->session,
                                          s->id); /* fails only without memory: then it stalls, and is cut */
    }
    h2_account_stream(s);
    h2_account(h2); /* first: by what is held now the exchange decides whether to pause */
    s->full = s->full || s->out.len > core_write_queue_max(h2->core);
    h2_dirty(h2);
}

static void sink_go_on(struct sink *sink)
{
    struct h2_stream *s = stream_of(sink);
    const nghttp2_nv status = field(SPAN(":status"), SPAN("100"));
    if (nghttp2_submit_headers(s->h2->session, NGHTTP2_FLAG_NONE, s->id, NULL, &status, 1, NULL))
        log_debug("h2.continue",
                  LOG_STR("failed", "out of memory")); /* clients send the body all the same in the end */
    h2_dirty(s->h2);
}

static enum err sink_whole(struct sink *sink, const struct sink_head *head, struct buf *body)
{
    struct h2_stream *s = stream_of(sink);
    const bool bodiless = head->bodiless || body->len == 0;
    const enum err err = send_head(s, head, body->len, bodiless);
    if (err == OK && !bodiless) {
        s->out = *body;
        s->out.max = H2_ANSWER_BYTES;
        buf_init(body, body->max);
    }
    buf_release(body);
    if (err == OK) {
        s->answered = true;
        put(s, true);
    }
    return err;
}

static enum err sink_stream(struct sink *sink, const struct sink_head *head, struct span bytes, bool last)
{
    struct h2_stream *s = stream_of(sink);
    const size_t before = s->out.len;
    enum err err = buf_append(&s->out, bytes);
    if (err == OK && head)
        err = send_head(s, head, UINT64_MAX, head->bodiless);
    if (err) {
        buf_truncate(&s->out, before);
        return ERR_NOMEM;
    }
    s->answered = last;
    put(s, before == 0);
    return OK;
}

static size_t sink_queued(const struct sink *sink)
{
    return CONTAINER_OF(sink, const struct h2_stream, sink)->out.len;
}

static void sink_end(struct sink *sink, bool close, bool abort)
{
    struct h2_stream *s = stream_of(sink);
    (void)close; /* of HTTP/1: this connection goes by its own drain */
    s->exchange = NULL;
    if (!abort && s->answered)
        return;
    buf_release(&s->out);
    h2_account_stream(s);
    s->cut = true;
    if (!s->h2->deaf)
        h2_reset(s, NGHTTP2_INTERNAL_ERROR);
}

const struct sink_ops h2_sink_ops = {
    .go_on = sink_go_on, .whole = sink_whole, .stream = sink_stream, .queued = sink_queued, .end = sink_end
};

void h2_refuse(struct h2_stream *s, enum err err)
{
    char text[256];
    const enum outcome outcome = outcome_of_http1(err);
    (void)snprintf(text, sizeof(text), "The request is not acceptable HTTP: %s. Nothing was sent to a provider.",
                   s->head.why ? s->head.why : "");
    const struct reply_error error = { .outcome = outcome, .message = outcome == OUTCOME_MALFORMED ? text : NULL };
    struct buf body = BUF_INIT(64u << 10), lines = BUF_INIT(4096);
    char id[REQUEST_ID_BYTES];
    request_id_make(&s->h2->core->ids, core_wall_ms(s->h2->core), id);
    enum err failed = http1_write_header(&lines, SPAN("x-request-id"), span_cstr(id));
    if (failed == OK)
        failed = reply_error_lines(&error, &lines);
    if (failed == OK)
        failed = reply_error_body(&error, &body);
    const struct sink_head head = { .status = outcome_status(outcome),
                                    .bodiless = s->head.head.method == HTTP1_HEAD_METHOD,
                                    .content_type = REPLY_ERROR_TYPE,
                                    .lines = buf_span(&lines) };
    if (failed == OK)
        failed = sink_whole(&s->sink, &head, &body);
    core_count(s->h2->core, WORKER_BAD_REQUESTS);
    log_debug("request.refused", LOG_STR("request", id), LOG_STR("outcome", outcome_name(outcome)));
    buf_release(&body);
    buf_release(&lines);
    if (failed)
        sink_end(&s->sink, false, true);
}

ssize_t h2_take(nghttp2_session *session, int32_t id, uint8_t *to, size_t max, uint32_t *flags,
                nghttp2_data_source *source, void *user)
{
    struct h2_stream *s = source->ptr;
    (void)session;
    (void)id;
    (void)user;
    if (s->cut)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* a reset: its end must not be taken for the answer's */
    const struct span bytes = span_head(buf_span(&s->out), max);
    if (bytes.len == 0 && !s->answered) {
        s->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (bytes.len > 0) {
        memcpy(to, bytes.ptr, bytes.len);
        buf_consume(&s->out, bytes.len);
        s->progress_ms = core_now_ms(s->h2->core);
    }
    if (s->out.len == 0) {
        buf_release(&s->out);
        if (s->answered)
            *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    h2_account_stream(s);
    return (ssize_t)bytes.len;
}

void h2_answer_sent(struct h2_stream *s)
{
    s->sent = true;
    h2_budget_earn(&s->h2->resets, 1);
    if (s->side == H2_SIDE_DONE)
        return;
    /* RFC 9113 section 8.1: told that the rest is not wanted. What is short, or will be, is read instead: some clients
     * take any reset for a failure. */
    const struct http1_head *head = &s->head.head;
    if (s->h2->hurried || head->expect_continue || head->content_length > EXCHANGE_DISCARD_BYTES)
        h2_reset(s, NGHTTP2_NO_ERROR);
}
