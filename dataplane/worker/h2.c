#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/worker/h2_internal.h"
#include <malloc.h>

static const char *state_name(enum h2_state state)
{
    static const char *const names[H2_STATES] = {
        [H2_OPEN] = "open",           [H2_NOTICED] = "noticed", [H2_LEAVING] = "leaving",
        [H2_LINGERING] = "lingering", [H2_CLOSED] = "closed",
    };
    return (unsigned)state < H2_STATES ? names[state] : "none";
}

#define BIT(state) (1u << (state))

static unsigned legal_from(enum h2_state state)
{
    switch (state) {
    case H2_OPEN:
        return BIT(H2_NOTICED) | BIT(H2_LEAVING) | BIT(H2_CLOSED);
    case H2_NOTICED:
        return BIT(H2_LEAVING) | BIT(H2_CLOSED);
    case H2_LEAVING:
        return BIT(H2_LINGERING) | BIT(H2_CLOSED);
    case H2_LINGERING:
        return BIT(H2_CLOSED);
    case H2_CLOSED:
    case H2_STATES:
        break;
    }
    return 0;
}

static void go(struct h2 *h2, enum h2_state to)
{
    if (!(legal_from(h2->state) & BIT(to)))
        log_error("h2.edge", LOG_STR("from", state_name(h2->state)), LOG_STR("to", state_name(to)));
    REQUIRE(legal_from(h2->state) & BIT(to));
    h2->state = to;
}

/* ---- memory ---- */

void h2_account(struct h2 *h2)
{
    core_account(h2->core, h2->accounted, h2->held);
    h2->accounted = h2->held;
}

void h2_account_stream(struct h2_stream *s)
{
    const size_t now = sizeof(*s) + s->out.cap + h2_head_memory(&s->head);
    s->h2->held += now - s->accounted;
    s->accounted = now;
}

/* nghttp2's memory fails on demand and is counted, as all of ours. */
static void *counted(struct h2 *h2, void *made)
{
    h2->held += made ? malloc_usable_size(made) : 0;
    return made;
}

static void *mem_malloc(size_t bytes, void *user)
{
    return counted(user, fault_malloc(bytes));
}

static void *mem_calloc(size_t count, size_t bytes, void *user)
{
    return counted(user, fault_calloc(count, bytes));
}

static void mem_free(void *ptr, void *user)
{
    struct h2 *h2 = user;
    h2->held -= ptr ? malloc_usable_size(ptr) : 0;
    free(ptr);
}

static void *mem_realloc(void *ptr, size_t bytes, void *user)
{
    struct h2 *h2 = user;
    const size_t before = ptr ? malloc_usable_size(ptr) : 0;
    void *made = fault_realloc(ptr, bytes);
    if (made)
        h2->held += malloc_usable_size(made) - before;
    return made;
}

/* ---- time ---- */

void h2_due_in(struct h2 *h2, uint64_t *due, uint64_t ms)
{
    *due = core_now_ms(h2->core) + ms;
    if (*due < h2->timer.due_ms)
        deadline_set(&h2->timer, *due);
}

void h2_dirty(struct h2 *h2)
{
    h2->dirty = true;
    if (h2->state < H2_LINGERING)
        deadline_set(&h2->timer, 0);
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* When this stream's answer has waited too long for its client to take something: an end, too, waits for a window. */
static uint64_t stall_of(const struct h2_stream *s)
{
    const bool waits = s->out.len > 0 || (s->answered && !s->sent && !s->cut);
    return waits ? s->progress_ms + s->h2->core->config->limits.write_stall_ms : DEADLINE_NONE;
}

static void rearm(struct h2 *h2)
{
    uint64_t due = sooner(sooner(h2->phase_due, h2->notice_due), h2->stall_due);
    if (h2->state < H2_LINGERING && !h2->deaf)
        for (const struct h2_stream *s = h2->streams; s; s = s->next)
            due = sooner(due, sooner(s->phase_due, stall_of(s)));
    deadline_set(&h2->timer, h2->dirty && h2->state < H2_LINGERING ? 0 : due);
}

static void wait_idle(struct h2 *h2)
{
    h2_due_in(h2, &h2->phase_due, h2->core->config->limits.idle_ms);
}

void h2_greeted(struct h2 *h2)
{
    h2->greeted = true;
    wait_idle(h2);
}

/* ---- streams ---- */

unsigned h2_streams_max(const struct h2 *h2)
{
    return (unsigned)h2->core->config->limits.http2_streams;
}

struct h2_stream *h2_stream_new(struct h2 *h2, int32_t id)
{
    const struct node_limits *limits = &h2->core->config->limits;
    struct h2_stream *s = fault_calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    *s = (struct h2_stream){ .h2 = h2, .next = h2->streams, .id = id };
    s->sink = (struct sink){ .ops = &h2_sink_ops, .client = stream_facts(h2->speaker.stream) };
    s->phase_due = DEADLINE_NONE;
    h2_head_init(&s->head, (size_t)limits->head_bytes, (size_t)limits->headers);
    buf_init(&s->out, H2_ANSWER_BYTES);
    if (h2->streams)
        h2->streams->previous = s;
    h2->streams = s;
    h2->count++;
    if (h2->state < H2_LEAVING)
        h2->phase_due = DEADLINE_NONE; /* no longer idle */
    h2_account_stream(s);
    return s;
}

void h2_stream_free(struct h2_stream *s)
{
    struct h2 *h2 = s->h2;
    if (s->previous)
        s->previous->next = s->next;
    else
        h2->streams = s->next;
    if (s->next)
        s->next->previous = s->previous;
    h2->count--;
    h2->held -= s->accounted;
    h2_head_release(&s->head);
    buf_release(&s->out);
    free(s);
    if (h2->count == 0 && h2->state < H2_LEAVING)
        wait_idle(h2);
}

void h2_reset(struct h2_stream *s, uint32_t code)
{
    /* Its client would wait for ever on a stream whose end cannot be said. */
    if (s->id && nghttp2_submit_rst_stream(s->h2->session, NGHTTP2_FLAG_NONE, s->id, code) == NGHTTP2_ERR_NOMEM)
        s->h2->speechless = true;
    h2_dirty(s->h2);
}

static void tell_gone(struct h2 *h2)
{
    for (struct h2_stream *s = h2->streams; s; s = s->next) {
        struct exchange *x = s->exchange;
        s->cut = true;
        if (x)
            exchange_client_gone(x);
        buf_release(&s->out);
        h2_account_stream(s);
    }
}

/* ---- the end ---- */

static void close_now(struct h2 *h2)
{
    h2->speaker.host->close(h2->speaker.host); /* release follows from within: h2 is no more */
}

/* Nothing of what goes on is of use any more, GOAWAY apart. */
static void become_deaf(struct h2 *h2)
{
    if (h2->deaf)
        return;
    h2->deaf = true;
    if (h2->state < H2_LEAVING)
        go(h2, H2_LEAVING);
    h2->phase_due = h2->notice_due = DEADLINE_NONE;
    tell_gone(h2);
    h2_due_in(h2, &h2->stall_due, h2->core->config->limits.write_stall_ms);
    h2_dirty(h2);
}

void h2_break_off(struct h2 *h2, uint32_t code, const char *why)
{
    if (h2->deaf)
        return;
    log_info("h2.broken_off", LOG_STR("client", stream_facts(h2->speaker.stream)->client), LOG_STR("why", why),
             LOG_STR("code", nghttp2_http2_strerror(code)));
    (void)nghttp2_session_terminate_session(h2->session, code); /* without memory it goes without a word */
    become_deaf(h2);
}

bool h2_spend(struct h2 *h2, struct h2_budget *budget, const char *what)
{
    if (h2->deaf)
        return false;
    if (h2_budget_take(budget, core_now_ms(h2->core)))
        return true;
    h2_break_off(h2, NGHTTP2_ENHANCE_YOUR_CALM, what);
    return false;
}

void h2_last_goaway(struct h2 *h2)
{
    if (h2->state >= H2_LEAVING)
        return;
    go(h2, H2_LEAVING);
    h2->notice_due = h2->phase_due = DEADLINE_NONE;
    (void)nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h2->session),
                                NGHTTP2_NO_ERROR, NULL, 0);
    h2_dirty(h2);
}

/* All is said: our side is shut, and the client gets a while to read it. False: h2 is no more. */
static bool linger(struct h2 *h2)
{
    go(h2, H2_LINGERING);
    h2->stall_due = DEADLINE_NONE;
    if (stream_shutdown(h2->speaker.stream)) {
        close_now(h2);
        return false;
    }
    h2_due_in(h2, &h2->phase_due, H2_LINGER_MS);
    return true;
}

static bool finished(struct h2 *h2)
{
    if (nghttp2_session_want_write(h2->session))
        return false;
    if (!nghttp2_session_want_read(h2->session))
        become_deaf(h2); /* after a GOAWAY of nghttp2's own, or the client's and its last stream */
    return h2->state == H2_LEAVING && (h2->deaf || h2->count == 0) && stream_idle(h2->speaker.stream);
}

/* ---- output ---- */

/* Takes what nghttp2 has to send, as long as the client's socket takes it. */
static enum err pull(struct h2 *h2)
{
    struct stream *stream = h2->speaker.stream;
    const size_t most = (size_t)core_write_queue_max(h2->core), full = size_min(most, H2_BATCH_BYTES);
    struct buf batch = BUF_INIT(2u * H2_BATCH_BYTES);
    enum err err = OK;
    ssize_t n = 1;
    while (err == OK && n > 0 && stream_queued(stream) <= most) {
        const uint8_t *bytes;
        n = nghttp2_session_mem_send(h2->session, &bytes);
        if (n > 0)
            err = buf_append(&batch, span_of(bytes, (size_t)n));
        else if (n < 0)
            err = ERR_NOMEM;
        if (err == OK && batch.len > 0 && (n == 0 || batch.len >= full)) {
            const struct span part = buf_span(&batch);
            err = stream_write(stream, &part, 1);
            buf_clear(&batch);
        }
    }
    buf_release(&batch);
    return err;
}

/* Whose buffer fell below half goes on. */
static void tell_writable(struct h2 *h2)
{
    const uint64_t half = core_write_queue_max(h2->core) / 2;
    for (struct h2_stream *s = h2->streams; s; s = s->next) {
        if (!s->full || s->out.len > half)
            continue;
        s->full = false;
        if (s->exchange)
            exchange_writable(s->exchange);
    }
}

/* False: h2 is no more. */
static bool flush(struct h2 *h2)
{
    if (h2->state >= H2_LINGERING)
        return true;
    if (h2->speechless)
        h2_break_off(h2, NGHTTP2_INTERNAL_ERROR, "no memory");
    do {
        h2->dirty = false;
        if (pull(h2)) {
            close_now(h2);
            return false;
        }
        if (!h2->deaf)
            tell_writable(h2);
    } while (h2->dirty && stream_queued(h2->speaker.stream) <= core_write_queue_max(h2->core));
    h2->dirty = false; /* what is left follows when the socket has taken what it has */
    if (finished(h2) && !linger(h2))
        return false;
    if (!stream_idle(h2->speaker.stream) && h2->stall_due == DEADLINE_NONE)
        h2_due_in(h2, &h2->stall_due, h2->core->config->limits.write_stall_ms);
    h2_account(h2);
    rearm(h2);
    return true;
}

/* ---- the timer ---- */

/* False: h2 is no more. */
static bool phase_passed(struct h2 *h2)
{
    h2->phase_due = DEADLINE_NONE;
    if (h2->state == H2_LINGERING) {
        close_now(h2);
        return false;
    }
    if (!h2->greeted)
        h2_break_off(h2, NGHTTP2_ENHANCE_YOUR_CALM, "no preface");
    else if (h2->count == 0)
        h2_last_goaway(h2);
    return true;
}

static void stream_timer(struct h2_stream *s, uint64_t now_ms)
{
    if (s->phase_due <= now_ms) {
        s->phase_due = DEADLINE_NONE;
        if (s->side == H2_SIDE_HEAD) { /* no other frame may come before its end: RFC 9113 section 6.10 */
            h2_break_off(s->h2, NGHTTP2_ENHANCE_YOUR_CALM, "slow head");
            return;
        }
        if (s->exchange) {
            exchange_body_timeout(s->exchange);
            s->phase_due = now_ms + s->h2->core->config->limits.body_time_ms; /* for the answer to be taken */
        } else {
            h2_reset(s, NGHTTP2_NO_ERROR); /* of a body that nobody wants */
        }
    }
    if (stall_of(s) > now_ms)
        return;
    struct exchange *x = s->exchange;
    s->cut = true;
    if (x)
        exchange_client_gone(x); /* by which it resets */
    else
        h2_reset(s, NGHTTP2_CANCEL);
    buf_release(&s->out);
    h2_account_stream(s);
}

static void on_timer(struct deadline *timer)
{
    struct h2 *h2 = CONTAINER_OF(timer, struct h2, timer);
    const uint64_t now_ms = core_now_ms(h2->core);
    if (h2->dirty && !flush(h2)) /* what nobody has tried to send has not stalled */
        return;
    if (h2->stall_due <= now_ms &&
        stream_stalled(h2->speaker.stream, h2->core->config->limits.write_stall_ms, &h2->stall_due)) {
        close_now(h2);
        return;
    }
    if (h2->phase_due <= now_ms && !phase_passed(h2))
        return;
    if (h2->notice_due <= now_ms)
        h2_last_goaway(h2);
    for (struct h2_stream *s = h2->streams; s && !h2->deaf && h2->state < H2_LINGERING; s = s->next)
        stream_timer(s, now_ms);
    if (h2->state < H2_LINGERING)
        (void)flush(h2);
    else
        rearm(h2);
}

/* ---- the speaker ---- */

static struct h2 *h2_of(struct speaker *speaker)
{
    return CONTAINER_OF(speaker, struct h2, speaker);
}

static void on_bytes(struct speaker *speaker, struct span bytes, uint64_t began_ns)
{
    struct h2 *h2 = h2_of(speaker);
    if (h2->deaf || h2->state == H2_LINGERING) {
        h2->lingered += bytes.len;
        if (h2->lingered > H2_LINGER_BYTES)
            close_now(h2);
        return;
    }
    h2->began_ns = began_ns;
    h2_input(h2, bytes);
    (void)flush(h2);
}

static void on_ended(struct speaker *speaker)
{
    close_now(h2_of(speaker));
}

static void on_written(struct speaker *speaker)
{
    (void)flush(h2_of(speaker));
}

static void on_drain(struct speaker *speaker)
{
    struct h2 *h2 = h2_of(speaker);
    if (h2->state != H2_OPEN)
        return;
    go(h2, H2_NOTICED);
    (void)nghttp2_submit_shutdown_notice(h2->session);
    (void)nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL);
    /* Until the ping comes back, by which all that was on its way has come; but not for ever. */
    const struct node_limits *limits = &h2->core->config->limits;
    const bool fresh = nghttp2_session_get_last_proc_stream_id(h2->session) == 0;
    h2_due_in(h2, &h2->notice_due, fresh ? limits->drain_first_ms : limits->drain_idle_ms);
    h2_dirty(h2);
}

static void on_drain_passed(struct speaker *speaker)
{
    struct h2 *h2 = h2_of(speaker);
    if (h2->deaf || h2->state >= H2_LINGERING)
        return;
    h2->hurried = true;
    for (struct h2_stream *s = h2->streams; s; s = s->next) {
        if (s->exchange)
            exchange_drain_passed(s->exchange);
        else if (s->side == H2_SIDE_HEAD)
            h2_reset(s, NGHTTP2_REFUSED_STREAM);
        else if (s->sent)
            h2_reset(s, NGHTTP2_NO_ERROR);
    }
    h2_last_goaway(h2);
    (void)flush(h2);
}

static void on_timer_closed(uv_handle_t *timer)
{
    free(CONTAINER_OF(timer, struct h2, timer.timer));
}

static void on_release(struct speaker *speaker)
{
    struct h2 *h2 = h2_of(speaker);
    go(h2, H2_CLOSED);
    h2->deaf = true;
    tell_gone(h2);
    for (struct h2_stream *s = h2->streams, *next; s; s = next) {
        next = s->next;
        h2_stream_free(s);
    }
    nghttp2_session_del(h2->session);
    h2->held -= sizeof(*h2);
    h2_account(h2);
    deadline_close(&h2->timer, on_timer_closed);
}

static const struct speaker_ops speaker_ops = { .bytes = on_bytes,
                                                .ended = on_ended,
                                                .written = on_written,
                                                .drain = on_drain,
                                                .drain_passed = on_drain_passed,
                                                .release = on_release };

/* ---- the beginning ---- */

static enum err new_session(struct h2 *h2)
{
    nghttp2_mem mem = { h2, mem_malloc, mem_free, mem_calloc, mem_realloc };
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    enum err err = h2_callbacks(&callbacks);
    if (err == OK && nghttp2_option_new(&option))
        err = ERR_NOMEM;
    if (err == OK) {
        nghttp2_option_set_no_auto_window_update(option, 1);
        nghttp2_option_set_no_closed_streams(option, 1);
        nghttp2_option_set_max_outbound_ack(option, 2 * H2_QUEUE);
        nghttp2_option_set_max_deflate_dynamic_table_size(option, H2_TABLE_BYTES);
        if (nghttp2_session_server_new3(&h2->session, callbacks, h2, option, &mem))
            err = ERR_NOMEM;
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return err;
}

static enum err say_settings(struct h2 *h2)
{
    const nghttp2_settings_entry entries[] = {
        { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, h2_streams_max(h2) },
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)h2->core->config->limits.head_bytes },
        { NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, H2_TABLE_BYTES },
    };
    if (nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, entries, ARRAY_LEN(entries)) ||
        nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0, (int32_t)H2_CONNECTION_WINDOW))
        return ERR_NOMEM;
    return OK;
}

enum err h2_speak(struct core *core, struct stream *stream, struct speaker_host *host, struct speaker **ret)
{
    struct h2 *h2 = fault_calloc(1, sizeof(*h2));
    if (!h2)
        return ERR_NOMEM;
    *h2 = (struct h2){ .speaker = { .ops = &speaker_ops, .host = host, .stream = stream }, .core = core };
    h2->held = sizeof(*h2);
    h2->phase_due = h2->notice_due = h2->stall_due = DEADLINE_NONE;
    h2_cutter_init(&h2->cutter);
    h2_budget_init(&h2->frames, H2_FRAMES, H2_FRAMES_PER_S, core_now_ms(core));
    const unsigned twice = 2 * h2_streams_max(h2);
    h2_budget_init(&h2->resets, twice > H2_RESETS ? twice : H2_RESETS, H2_RESETS_PER_S, core_now_ms(core));
    enum err err = new_session(h2);
    if (err == OK)
        err = say_settings(h2);
    if (err) {
        nghttp2_session_del(h2->session);
        free(h2);
        return err;
    }
    deadline_init(&h2->timer, core->loop, on_timer);
    h2_due_in(h2, &h2->phase_due, core->config->limits.head_time_ms);
    h2_account(h2);
    h2_dirty(h2); /* our settings, even if nothing comes */
    *ret = &h2->speaker;
    return OK;
}
