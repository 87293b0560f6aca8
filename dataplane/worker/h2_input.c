#include "dataplane/worker/h2_internal.h"

static struct h2_stream *stream_of(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

/* Judged before nghttp2 sees it. False: one too many, the connection is broken off. */
static bool may_begin(struct h2 *h2, const struct h2_frame *frame)
{
    switch (frame->type) {
    case NGHTTP2_HEADERS:
        h2->continuations = 0;
        if (h2->count < h2_streams_max(h2) || stream_of(h2->session, (int32_t)frame->id))
            return true;
        return h2_spend(h2, &h2->resets, "streams"); /* nghttp2 refuses it */
    case NGHTTP2_CONTINUATION:
        if (h2->continuations++ < H2_CONTINUATIONS)
            return true;
        h2_break_off(h2, NGHTTP2_ENHANCE_YOUR_CALM, "continuations");
        return false;
    case NGHTTP2_DATA:
        if (frame->length > 0 || (frame->flags & NGHTTP2_FLAG_END_STREAM))
            return true;
        break;
    default:
        break;
    }
    return h2_spend(h2, &h2->frames, "frames"); /* it costs the client nothing, and may be sent without end */
}

/* A code of nghttp2's -> what the client is told. */
static void failed(struct h2 *h2, ssize_t code)
{
    if (code == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        h2_break_off(h2, NGHTTP2_PROTOCOL_ERROR, "bad preface");
    else
        h2_break_off(h2, code == NGHTTP2_ERR_NOMEM ? NGHTTP2_INTERNAL_ERROR : NGHTTP2_ENHANCE_YOUR_CALM,
                     nghttp2_strerror((int)code));
}

void h2_input(struct h2 *h2, struct span bytes)
{
    while (bytes.len > 0 && !h2->deaf) {
        bool begins;
        const struct span piece = h2_cut(&h2->cutter, &bytes, &begins);
        if (begins && !may_begin(h2, &h2->cutter.frame))
            return;
        const ssize_t n = nghttp2_session_mem_recv(h2->session, (const uint8_t *)piece.ptr, piece.len);
        if (n < 0)
            failed(h2, n);
    }
    /* Beside what its streams are told: heads, interim heads, windows and resets. */
    if (nghttp2_session_get_outbound_queue_size(h2->session) > H2_QUEUE + 4u * h2_streams_max(h2))
        h2_break_off(h2, NGHTTP2_ENHANCE_YOUR_CALM, "queue");
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h2 = user;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct h2_stream *s = h2_stream_new(h2, frame->hd.stream_id);
    if (!s)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    (void)nghttp2_session_set_stream_user_data(session, s->id, s);
    h2_due_in(h2, &s->phase_due, h2->core->config->limits.head_time_ms);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                     const uint8_t *value, size_t value_len, uint8_t flags, void *user)
{
    struct h2 *h2 = user;
    struct h2_stream *s = stream_of(session, frame->hd.stream_id);
    const uint64_t most = h2->core->config->limits.head_bytes;
    (void)flags;
    if (!s || h2->deaf)
        return 0;
    if (s->side != H2_SIDE_HEAD) { /* trailers: of no use to anybody */
        s->trailers += name_len + value_len + H2_FIELD_OVERHEAD;
        return s->trailers > most ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
    }
    h2_head_add(&s->head, span_of(name, name_len), span_of(value, value_len));
    if (s->head.size / H2_HEAD_BOMB <= most)
        return 0;
    h2_break_off(h2, NGHTTP2_ENHANCE_YOUR_CALM, "head");
    return NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* nghttp2 would leave it out and go on: two readers that disagree. */
static int on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name,
                             nghttp2_rcbuf *value, uint8_t flags, void *user)
{
    (void)session;
    (void)frame;
    (void)name;
    (void)value;
    (void)flags;
    (void)user;
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static void on_head(struct h2_stream *s, bool ends)
{
    struct h2 *h2 = s->h2;
    const enum err err = h2_head_done(&s->head, ends);
    bool ended = false;
    s->side = H2_SIDE_BODY;
    h2_due_in(h2, &s->phase_due, h2->core->config->limits.body_time_ms);
    h2_account_stream(s);
    if (err) {
        h2_refuse(s, err);
        return;
    }
    struct exchange *x = exchange_begin(h2->core, &s->sink, &s->head.head, h2->began_ns, &ended);
    if (!x) {
        core_count(h2->core, WORKER_BAD_REQUESTS);
        s->cut = true;
        h2_reset(s, NGHTTP2_REFUSED_STREAM); /* nothing was done for it: RFC 9113 section 8.7 */
    } else if (!ended) {
        s->exchange = x;
    }
}

static void on_end(struct h2_stream *s)
{
    s->side = H2_SIDE_DONE;
    s->phase_due = DEADLINE_NONE;
    if (s->exchange)
        exchange_body_end(s->exchange, s->h2->began_ns);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h2 = user;
    const bool ends = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    struct h2_stream *s = NULL;
    if (h2->deaf)
        return 0;
    switch (frame->hd.type) {
    case NGHTTP2_SETTINGS:
        if (!h2->greeted)
            h2_greeted(h2);
        break;
    case NGHTTP2_PING: /* we send one only: with the notice of a drain */
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) && h2->state == H2_NOTICED)
            h2_last_goaway(h2);
        break;
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
        s = stream_of(session, frame->hd.stream_id);
        break;
    default:
        break;
    }
    if (s && frame->hd.type == NGHTTP2_HEADERS && s->side == H2_SIDE_HEAD)
        on_head(s, ends);
    if (s && ends)
        on_end(s);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t len, void *user)
{
    struct h2 *h2 = user;
    struct h2_stream *s = stream_of(session, id);
    (void)flags;
    if (nghttp2_session_consume(session, id, len))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!s || h2->deaf)
        return 0;
    if (s->exchange) {
        s->body_step += len;
        if (s->body_step >= EXCHANGE_BODY_STEP_BYTES) {
            s->body_step = 0;
            s->phase_due =
                core_now_ms(h2->core) + h2->core->config->limits.body_time_ms; /* later: the timer finds it */
        }
        if (exchange_body(s->exchange, span_of(bytes, len)))
            return 0;
    }
    s->forgotten += len; /* it has ended, perhaps just now */
    if (s->sent && s->forgotten > EXCHANGE_DISCARD_BYTES)
        h2_reset(s, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_closed(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    struct h2 *h2 = user;
    struct h2_stream *s = stream_of(session, id);
    if (!s)
        return 0;
    if (s->side == H2_SIDE_HEAD && code != NGHTTP2_NO_ERROR)
        core_count(h2->core, WORKER_BAD_REQUESTS);
    const bool early = !s->sent && !s->cut;
    struct exchange *x = s->exchange;
    s->cut = true; /* what the exchange says of it now is told to nobody */
    s->id = 0;
    if (x)
        exchange_client_gone(x);
    (void)nghttp2_session_set_stream_user_data(session, id, NULL);
    h2_stream_free(s);
    if (early && !h2->deaf)
        (void)h2_spend(h2, &h2->resets, "resets");
    return 0;
}

static int on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h2 = user;
    if (frame->hd.type == NGHTTP2_DATA)
        h2_budget_earn(&h2->frames, H2_FRAMES_PER_DATA);
    if (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    struct h2_stream *s = stream_of(session, frame->hd.stream_id);
    if (s && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        h2_answer_sent(s);
    return 0;
}

/* An answer's head that cannot be framed. */
static int on_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int why, void *user)
{
    struct h2_stream *s = frame->hd.type == NGHTTP2_HEADERS ? stream_of(session, frame->hd.stream_id) : NULL;
    (void)why;
    (void)user;
    if (s)
        h2_reset(s, NGHTTP2_INTERNAL_ERROR);
    return 0;
}

enum err h2_callbacks(nghttp2_session_callbacks **ret)
{
    nghttp2_session_callbacks *c;
    if (nghttp2_session_callbacks_new(&c))
        return ERR_NOMEM;
    nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(c, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback2(c, on_invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(c, on_closed);
    nghttp2_session_callbacks_set_on_frame_send_callback(c, on_sent);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(c, on_not_sent);
    *ret = c;
    return OK;
}
