#include "common/clock.h"
#include "common/log.h"
#include "common/units.h"
#include "dataplane/account/usage.h"
#include "dataplane/dialect/headers.h"
#include "dataplane/worker/exchange_internal.h"
#include "dataplane/worker/http1_chars.h"

/* ---- to the client ---- */

static enum err stream_head(struct exchange *x, struct sink_head *ret)
{
    struct buf *lines = &x->core->lines;
    buf_clear(lines);
    enum err err = http1_write_header(lines, SPAN("cache-control"), SPAN("no-cache"));
    if (err == OK && x->content_seen)
        err = buf_append(lines, buf_span(&x->down));
    if (err == OK)
        err = exchange_own_headers(x, false, lines);
    *ret = (struct sink_head){ .status = 200,
                               .close = x->close,
                               .content_type = SPAN("text/event-stream; charset=utf-8"),
                               .lines = buf_span(lines) };
    return err;
}

static void heed_queue(struct exchange *x)
{
    if (x->paused || !x->attempt.upstream || x->sink->ops->queued(x->sink) <= core_write_queue_max(x->core))
        return;
    x->paused = true;
    x->idle_due = DEADLINE_NONE; /* it is the client now that takes its time: conn's write stall is the limit */
    upstream_pause(x->attempt.upstream);
}

enum err exchange_write_stream(struct exchange *x, struct span bytes, bool last)
{
    struct sink_head head;
    enum err err = x->head_sent ? OK : stream_head(x, &head);
    if (err == OK)
        err = x->sink->ops->stream(x->sink, x->head_sent ? NULL : &head, bytes, last);
    if (err)
        return err;
    if (!x->head_sent) {
        x->head_sent = true;
        x->status_sent = head.status;
        if (!x->shadow)
            core_gauge(x->core, WORKER_STREAMS_OPEN, 1);
    }
    x->output_bytes += bytes.len;
    if (x->content)
        (void)exchange_content_sent(x, bytes);
    heed_queue(x);
    return OK;
}

void exchange_reckon(struct exchange *x)
{
    struct attempt *a = &x->attempt;
    if (!a->running)
        return; /* none, or failed: that is not the client's to pay */
    enum upstream_phase phase = a->upstream ? upstream_phase(a->upstream) : a->phase;
    if (!x->content_seen && !x->usage.known && phase < UPSTREAM_SENT)
        return; /* nothing was asked of the provider yet */
    x->usage = usage_settle(&x->usage, x->ask.input_bytes, x->content_bytes);
    x->cost = cost_of(x->price, a->provider->discount_ppm, &x->usage);
}

/* What is known only at the end, as a comment: every SSE reader skips it. */
static enum err write_tail(struct exchange *x, struct buf *out)
{
    char usd[UNITS_TEXT_BYTES];
    exchange_reckon(x);
    return buf_printf(out,
                      ": fairlead model=" SPAN_FMT " attempts=%u input_tokens=%llu output_tokens=%llu estimated=%d "
                      "cost_usd=%s\n\n",
                      SPAN_ARG(x->attempt.model->name), x->attempts, (unsigned long long)x->usage.input,
                      (unsigned long long)x->usage.output, x->usage.estimated ? 1 : 0,
                      units_format_usd(x->cost.charged_nano, usd));
}

/* After [DONE] the end of the upstream's message may take a little longer, and its connection is worth the wait: but
 * not the client's. What the lane still reads of ours must stay, so it is let go only when it needs the body no more. */
static void keep_tail(struct exchange *x)
{
    struct attempt *a = &x->attempt;
    if (!a->upstream || !upstream_release_body(a->upstream))
        return;
    if (x->paused)
        upstream_resume(a->upstream);
    a->phase = upstream_phase(a->upstream);
    x->tail = a->upstream;
    a->upstream = NULL;
}

/* A stream that ended well; its last bytes stand in the scratch buffer, unless `err`. */
static void complete(struct exchange *x, enum err err)
{
    keep_tail(x);
    exchange_attempt_close(x, NULL);
    if (err == OK)
        err = exchange_write_stream(x, buf_span(&x->core->scratch), true);
    exchange_finish(x, err ? OUTCOME_INTERNAL : OUTCOME_OK, err ? err_name(err) : NULL, err != OK);
}

void exchange_truncated(struct exchange *x, bool by_us, const char *message)
{
    exchange_reckon(x);
    if (by_us)
        exchange_attempt_close(x, "cut");
    else
        exchange_attempt_broke(x);
    exchange_refuse_with(x, OUTCOME_TRUNCATED, message);
}

void exchange_hold_passed(struct exchange *x)
{
    x->early_head = x->early_head || !x->head_sent;
    x->hold_due = x->attempt.timeouts.hold_ms ? core_now_ms(x->core) + x->attempt.timeouts.hold_ms : DEADLINE_NONE;
    if (exchange_write_stream(x, SPAN(": keep-alive\n\n"), false))
        log_warn("keepalive.failed",
                 LOG_STR("request", x->request_id)); /* out of memory: tried again after the next hold */
}

/* The buffered answer goes down whole, as it came; the attempt ends with this failure (NULL: it served). On error nothing was sent. */
static enum err send_whole(struct exchange *x, const char *failure)
{
    struct buf *lines = &x->core->lines;
    buf_clear(lines);
    enum err err = buf_append(lines, buf_span(&x->down));
    if (err == OK)
        err = exchange_own_headers(x, true, lines);
    exchange_attempt_close(x, failure);
    return err == OK ? exchange_send_whole(x, x->attempt.status, x->attempt.content_type, &x->answer) : err;
}

/* The provider's own answer to a mistake of the client's. */
void exchange_pass(struct exchange *x)
{
    if (x->last_failure != RETRY_STATUS || x->head_sent) {
        exchange_attempt_close(x, retry_failure_name(x->last_failure));
        exchange_refuse(x, &(struct reply_error){
                               .outcome = OUTCOME_BAD_BODY, .message = x->feed_message, .code = "provider_refused" });
        return;
    }
    const enum err err = send_whole(x, retry_failure_name(RETRY_STATUS));
    if (err)
        exchange_refuse_with(x, OUTCOME_BUSY, NULL);
    else
        exchange_finish(x, OUTCOME_PASSED, "provider_refused", false);
}

/* ---- from the provider: events of a stream ---- */

static enum err fail_feed(struct exchange *x, enum retry_failure failure, struct span message)
{
    x->feed_failed = true;
    x->feed_failure = failure;
    x->feed_message = span_empty(message) ? NULL : arena_printf(&x->arena, SPAN_FMT, SPAN_ARG(message));
    return ERR_CANCELLED;
}

/* Before content: held, as another provider may have to begin anew. */
static enum err forward(struct exchange *x, struct span raw)
{
    if (x->content_seen)
        return buf_append(&x->core->scratch, raw) ? fail_feed(x, RETRY_TOO_LARGE, SPAN("")) : OK;
    if (x->answer.len + raw.len > EXCHANGE_HELD_BYTES || buf_append(&x->answer, raw))
        return fail_feed(x, RETRY_TOO_LARGE, SPAN(""));
    return OK;
}

static enum err first_content(struct exchange *x)
{
    x->content_seen = true;
    exchange_go(x, EXCHANGE_RELAYING);
    x->hold_due = x->content_due = x->first_due = DEADLINE_NONE;
    exchange_attempt_succeeded(x);
    if (upstream_release_body(x->attempt.upstream))
        exchange_free_body(x);
    if (buf_append(&x->core->scratch, buf_span(&x->answer)))
        return fail_feed(x, RETRY_TOO_LARGE, SPAN(""));
    buf_release(&x->answer);
    return OK;
}

static enum err on_done_event(struct exchange *x, struct span raw)
{
    if (!x->content_seen)
        return fail_feed(x, RETRY_EMPTY, SPAN(""));
    x->done_seen = true;
    if (write_tail(x, &x->core->scratch))
        return fail_feed(x, RETRY_TOO_LARGE, SPAN(""));
    return forward(x, raw);
}

/* Once content flows: events like the last one that was read go on together, unread. */
static size_t on_known(void *user, struct span bytes)
{
    struct exchange *x = user;
    size_t taken = 0, n, content_bytes;
    uint64_t content = 0;
    if (!x->content_seen || x->done_seen)
        return 0;
    while ((n = event_mold_match(&x->mold, span_skip(bytes, taken), &content_bytes)) > 0) {
        taken += n;
        content += content_bytes;
    }
    if (taken == 0 || buf_append(&x->core->scratch, span_head(bytes, taken)))
        return 0;
    x->content_bytes += content;
    return taken;
}

/* The last reason counts, but for a refusal in words: it ends with an ordinary one. */
static void note_finish(struct exchange *x, enum finish finish)
{
    if (finish != FINISH_NONE && x->finish != FINISH_REFUSAL)
        x->finish = finish;
}

static enum err on_event(void *user, const struct sse_event *event)
{
    struct exchange *x = user;
    struct event_facts facts;
    if (x->done_seen)
        return OK;
    arena_reset(&x->core->event_arena);
    if (openai_chat_event(&x->core->event_arena, x->ask.endpoint, event, &facts))
        return fail_feed(x, RETRY_TOO_LARGE, SPAN(""));
    if (facts.usage.known)
        usage_merge(&x->usage, &facts.usage);
    x->content_bytes += facts.content_bytes;
    x->finished = x->finished || facts.finished;
    note_finish(x, facts.finish);
    switch (facts.class) {
    case EVENT_CONTENT:
        if (!x->content_seen && first_content(x))
            return ERR_CANCELLED;
        event_mold_cast(&x->mold, event->raw, facts.content, facts.padding);
        return forward(x, event->raw);
    case EVENT_OPENING:
    case EVENT_FINISH:
        return forward(x, event->raw);
    case EVENT_USAGE:
        return x->attempt.body.usage_added ? OK : forward(x, event->raw);
    case EVENT_DONE:
        return on_done_event(x, event->raw);
    case EVENT_ERROR:
        return fail_feed(x, facts.error_retryable ? RETRY_ERROR_IN_200 : RETRY_REFUSAL_IN_200, facts.error_message);
    case EVENT_GARBAGE:
        break;
    }
    return fail_feed(x, RETRY_GARBAGE, SPAN(""));
}

static void feed(struct exchange *x, struct span bytes)
{
    struct buf *out = &x->core->scratch;
    buf_clear(out);
    x->feed_failed = false;
    enum err err = sse_feed(&x->framer, bytes, on_event, x);
    if (err && !x->feed_failed && !x->done_seen)
        (void)fail_feed(x, RETRY_TOO_LARGE, SPAN(""));
    arena_reset(&x->core->event_arena); /* one huge event must not stay */
    exchange_account(x);
    if (x->done_seen && !x->feed_failed) {
        complete(x, OK);
    } else if (out->len > 0 && x->content_seen && exchange_write_stream(x, buf_span(out), false)) {
        exchange_reckon(x);
        exchange_finish(x, OUTCOME_INTERNAL, "nomem", true);
    } else if (x->feed_failed && x->content_seen) {
        exchange_truncated(x, false, x->feed_message);
    } else if (x->feed_failed) {
        exchange_attempt_failed(x, x->feed_failure);
    } else {
        exchange_rest(x);
        exchange_rearm(x);
    }
    if (out->cap > 4 * CORE_READ_BYTES)
        buf_release(out); /* one huge event must not stay the size of every worker */
}

/* ---- from the provider: heads, whole bodies, ends ---- */

/* http1_write_header would refuse it, and with it the answer. */
static bool may_stand_in_head(struct span value)
{
    for (size_t i = 0; i < value.len; i++)
        if (!http1_is(value.ptr[i], HTTP1_VALUE))
            return false;
    return value.len <= LEDGER_TEXT_MAX;
}

static void keep_headers(struct exchange *x, const struct upstream_head *head)
{
    struct attempt *a = &x->attempt;
    struct header_pair pairs[HEADERS_MAX];
    size_t count = size_min(head->header_count, HEADERS_MAX);
    for (size_t i = 0; i < count; i++) {
        pairs[i] = (struct header_pair){ .name = head->headers[i].name, .value = head->headers[i].value };
        /* Errors: it does not fit, or could break our head: then the client goes without. */
        if (headers_goes_down(pairs[i].name) && !span_eq(pairs[i].name, SPAN("content-type")) &&
            http1_write_header(&x->down, pairs[i].name, pairs[i].value))
            log_debug("header.dropped", LOG_SPAN("name", pairs[i].name));
    }
    struct span type = headers_find(pairs, count, SPAN("content-type"));
    a->content_type = may_stand_in_head(type) ? arena_dup(&x->arena, type) : SPAN("");
    if (!a->content_type.ptr)
        a->content_type = SPAN("");
    a->event_stream = span_starts_nocase(type, SPAN("text/event-stream"));
    a->retry_after_ms = retry_after_ms(headers_find(pairs, count, SPAN("retry-after")), core_wall_ms(x->core));
    uint32_t remaining = headers_remaining_ppm_plus_1(pairs, count);
    if (remaining) {
        atomic_store_explicit(&a->shared->remaining_ppm_plus_1, remaining, memory_order_relaxed);
        atomic_store_explicit(&a->shared->remaining_at_ms, core_now_ms(x->core), memory_order_relaxed);
    }
}

static void on_head(void *user, const struct upstream_head *head)
{
    struct exchange *x = user;
    struct attempt *a = &x->attempt;
    exchange_busy(x, clock_ns());
    core_count(x->core, head->reused ? WORKER_UPSTREAM_REUSED : WORKER_UPSTREAM_CONNECTS);
    a->status = head->status;
    keep_headers(x, head);
    x->idle_due = a->timeouts.idle_ms ? core_now_ms(x->core) + a->timeouts.idle_ms : DEADLINE_NONE;
    if (head->status / 100 == 2 && x->ask.stream && a->event_stream) {
        exchange_go(x, EXCHANGE_HOLDING);
        sse_init(&x->framer, EXCHANGE_EVENT_BYTES);
        x->framer.known = on_known;
        x->framing = true;
    } else {
        exchange_go(x, EXCHANGE_GATHERING);
    }
    exchange_rest(x);
    exchange_rearm(x);
}

static void gather(struct exchange *x, struct span bytes)
{
    size_t max = x->attempt.status / 100 == 2 ? EXCHANGE_ANSWER_BYTES : EXCHANGE_ERROR_BYTES;
    if (x->answer.len + bytes.len > max || buf_append(&x->answer, bytes)) {
        exchange_attempt_failed(x, RETRY_TOO_LARGE);
        return;
    }
    exchange_account(x);
    if (x->shadow && exchange_shadows_yield(x->core)) {
        exchange_shadow_yields(x);
        return;
    }
    if (core_is_full(x->core)) {
        exchange_refuse_with(x, OUTCOME_BUSY, NULL);
        return;
    }
    exchange_rest(x);
    exchange_rearm(x);
}

static void on_body(void *user, struct span bytes)
{
    struct exchange *x = user;
    if (x->state == EXCHANGE_TAILING)
        return;
    if (!x->content_seen)
        exchange_busy(x, clock_ns());
    if (x->idle_due != DEADLINE_NONE)
        x->idle_due = core_now_ms(x->core) + x->attempt.timeouts.idle_ms;
    if (x->state == EXCHANGE_GATHERING)
        gather(x, bytes);
    else
        feed(x, bytes);
}

static void answer_whole(struct exchange *x, const struct event_facts *facts)
{
    x->content_seen = true;
    exchange_attempt_succeeded(x);
    if (facts->usage.known)
        usage_merge(&x->usage, &facts->usage);
    x->content_bytes = facts->content_bytes;
    x->finish = facts->finish;
    exchange_reckon(x);
    const enum err err = send_whole(x, NULL);
    exchange_finish(x, err ? OUTCOME_INTERNAL : OUTCOME_OK, err ? err_name(err) : NULL, err != OK);
}

static void judge_whole(struct exchange *x)
{
    struct event_facts facts;
    if (x->attempt.status / 100 != 2) {
        exchange_attempt_failed(x, RETRY_STATUS);
        return;
    }
    struct arena scratch;
    arena_init(&scratch, EXCHANGE_FACTS_BYTES);
    enum err err = openai_chat_answer(&scratch, x->ask.endpoint, buf_span(&x->answer), &facts);
    if (err == OK && facts.class == EVENT_ERROR)
        x->feed_message = arena_printf(&x->arena, SPAN_FMT, SPAN_ARG(facts.error_message));
    arena_release(&scratch);
    if (err)
        exchange_attempt_failed(x, RETRY_TOO_LARGE);
    else if (facts.class == EVENT_ERROR)
        exchange_attempt_failed(x, facts.error_retryable ? RETRY_ERROR_IN_200 : RETRY_REFUSAL_IN_200);
    else if (facts.class != EVENT_CONTENT || x->ask.stream)
        exchange_attempt_failed(x, x->answer.len ? RETRY_GARBAGE : RETRY_EMPTY);
    else
        answer_whole(x, &facts);
}

static enum retry_failure failure_of(const struct upstream_result *result)
{
    bool connecting = result->phase == UPSTREAM_CONNECTING;
    switch (result->err) {
    case ERR_REFUSED:
    case ERR_NOT_FOUND:
        return RETRY_CONNECT;
    case ERR_DENIED:
        return RETRY_TLS;
    case ERR_SYNTAX:
        return RETRY_PROTOCOL;
    case ERR_TOO_LARGE:
        return RETRY_PROTOCOL;
    case ERR_TIMEOUT:
        return connecting ? RETRY_CONNECT : RETRY_TIMEOUT;
    default:
        return connecting ? RETRY_CONNECT : RETRY_RESET;
    }
}

static void on_done(void *user, const struct upstream_result *result)
{
    struct exchange *x = user;
    if (result->certificate_expires_at_ms)
        board_certificate_seen(x->attempt.shared, result->certificate_expires_at_ms, core_now_ms(x->core));
    if (x->state == EXCHANGE_TAILING) {
        x->tail = NULL;
        exchange_tail_over(x);
        return;
    }
    x->attempt.upstream = NULL;
    x->attempt.phase = result->phase;
    if (!x->content_seen)
        exchange_busy(x, clock_ns());
    if (result->err && result->why)
        log_debug("upstream.failed", LOG_STR("request", x->request_id), LOG_SPAN("model", x->attempt.model->name),
                  LOG_ERR(result->err), LOG_STR("why", result->why));
    if (x->state == EXCHANGE_RELAYING) {
        buf_clear(&x->core->scratch);
        if (result->err == OK && x->finished)
            complete(x, write_tail(x, &x->core->scratch));
        else if (result->err == ERR_FULL)
            exchange_truncated(x, true, "This gateway holds as much as it may and could not wait for its reader.");
        else
            exchange_truncated(x, false, NULL);
    } else if (result->err) {
        exchange_attempt_failed(x, x->state == EXCHANGE_GATHERING && x->attempt.status / 100 != 2 ? RETRY_STATUS
                                                                                                  : failure_of(result));
    } else if (x->state == EXCHANGE_GATHERING) {
        judge_whole(x);
    } else {
        /* Bytes that never made an event are no answer either, but another kind of none. */
        exchange_attempt_failed(x, sse_unfinished(&x->framer).len > 0 ? RETRY_GARBAGE : RETRY_EMPTY);
    }
}

const struct upstream_events exchange_upstream_events = { .head = on_head, .body = on_body, .done = on_done };
