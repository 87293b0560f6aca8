#include "dataplane/worker/exchange.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/units.h"
#include "dataplane/worker/exchange_internal.h"

const char *exchange_state_name(enum exchange_state state)
{
    static const char *const names[EXCHANGE_STATES] = {
        [EXCHANGE_IDLE] = "idle",         [EXCHANGE_READING] = "reading",     [EXCHANGE_TRYING] = "trying",
        [EXCHANGE_HOLDING] = "holding",   [EXCHANGE_GATHERING] = "gathering", [EXCHANGE_RELAYING] = "relaying",
        [EXCHANGE_RETRYING] = "retrying", [EXCHANGE_TAILING] = "tailing",     [EXCHANGE_SETTLED] = "settled",
    };
    return names[state];
}

#define BIT(state) (1u << (state))

static unsigned legal_from(enum exchange_state state)
{
    switch (state) {
    case EXCHANGE_IDLE:
        return BIT(EXCHANGE_READING) | BIT(EXCHANGE_SETTLED);
    case EXCHANGE_READING:
        return BIT(EXCHANGE_RETRYING) | BIT(EXCHANGE_TRYING) | BIT(EXCHANGE_SETTLED);
    case EXCHANGE_TRYING:
        return BIT(EXCHANGE_HOLDING) | BIT(EXCHANGE_GATHERING) | BIT(EXCHANGE_RETRYING) | BIT(EXCHANGE_SETTLED);
    case EXCHANGE_HOLDING:
        return BIT(EXCHANGE_RELAYING) | BIT(EXCHANGE_RETRYING) | BIT(EXCHANGE_SETTLED);
    case EXCHANGE_GATHERING:
        return BIT(EXCHANGE_RETRYING) | BIT(EXCHANGE_SETTLED);
    case EXCHANGE_RELAYING:
        return BIT(EXCHANGE_TAILING) | BIT(EXCHANGE_SETTLED);
    case EXCHANGE_RETRYING:
        return BIT(EXCHANGE_TRYING) | BIT(EXCHANGE_RETRYING) | BIT(EXCHANGE_SETTLED);
    case EXCHANGE_TAILING:
        return BIT(EXCHANGE_SETTLED);
    case EXCHANGE_SETTLED:
        return BIT(EXCHANGE_IDLE);
    case EXCHANGE_STATES:
        break;
    }
    return 0;
}

void exchange_go(struct exchange *x, enum exchange_state to)
{
    REQUIRE(legal_from(x->state) & BIT(to));
    x->state = to;
}

void exchange_busy(struct exchange *x, uint64_t since_ns)
{
    if (!x->busy_since_ns)
        x->busy_since_ns = since_ns;
}

void exchange_rest(struct exchange *x)
{
    if (x->busy_since_ns)
        x->overhead_ns += clock_ns() - x->busy_since_ns;
    x->busy_since_ns = 0;
}

static void on_timer(struct deadline *timer);

/* A spare one, or a new one: its handle and its structure are kept from request to request. */
static struct exchange *take(struct core *core)
{
    struct exchange *x = core->spare;
    if (x) {
        core->spare = x->next;
        core->spare_count--;
        return x;
    }
    x = fault_calloc(1, sizeof(*x));
    if (!x)
        return NULL;
    x->core = core;
    deadline_init(&x->timer, core->loop, on_timer);
    return x;
}

static void on_closed(uv_handle_t *timer)
{
    free(CONTAINER_OF(timer, struct exchange, timer.timer));
}

static void give_back(struct exchange *x)
{
    struct core *core = x->core;
    deadline_lift(&x->timer);
    if (core->spare_count >= EXCHANGE_SPARE_MAX) {
        deadline_close(&x->timer, on_closed);
        return;
    }
    x->next = core->spare;
    core->spare = x;
    core->spare_count++;
}

void exchange_close_idle(struct core *core)
{
    exchange_shadows_close(core);
    while (core->tails)
        exchange_tail_over(core->tails);
    while (core->spare) {
        struct exchange *x = core->spare;
        core->spare = x->next;
        deadline_close(&x->timer, on_closed);
    }
    core->spare_count = 0;
}

/* All-zero but for the core and the timer. */
static void clean(struct exchange *x)
{
    struct core *core = x->core;
    struct deadline timer = x->timer;
    memset(x, 0, offsetof(struct exchange, timer));
    memset((char *)x + offsetof(struct exchange, timer) + sizeof(timer), 0,
           sizeof(*x) - offsetof(struct exchange, timer) - sizeof(timer));
    x->core = core;
    x->state = EXCHANGE_IDLE;
    x->first_due = x->idle_due = x->total_due = x->content_due = x->hold_due = x->tail_due = DEADLINE_NONE;
    arena_init(&x->arena, EXCHANGE_ARENA_BYTES);
    arena_init(&x->ask_arena, EXCHANGE_ASK_BYTES);
    buf_init(&x->body, (size_t)core->config->limits.body_bytes);
    buf_init(&x->answer, EXCHANGE_ANSWER_BYTES);
    buf_init(&x->down, EXCHANGE_DOWN_BYTES);
}

struct exchange *exchange_take(struct core *core)
{
    struct exchange *x = take(core);
    if (x)
        clean(x);
    return x;
}

void exchange_rearm(struct exchange *x)
{
    const uint64_t moments[] = { x->first_due, x->idle_due, x->total_due, x->content_due, x->hold_due, x->tail_due };
    uint64_t due = DEADLINE_NONE;
    if (x->state == EXCHANGE_SETTLED)
        return;
    if (x->state == EXCHANGE_RETRYING)
        due = 0;
    for (size_t i = 0; i < ARRAY_LEN(moments); i++)
        due = moments[i] < due ? moments[i] : due;
    deadline_set(&x->timer, due);
}

/* What was announced, in one piece: growing would copy a large body once more, and leave a hole each time. */
static void make_room_for_body(struct exchange *x)
{
    char *at;
    if (x->head->content_length > 0 &&
        buf_reserve(&x->body, size_min((size_t)x->head->content_length, EXCHANGE_BODY_AT_ONCE), &at) != OK)
        return; /* exchange_body will tell */
}

struct exchange *exchange_begin(struct core *core, struct sink *sink, const struct http1_head *head, uint64_t began_ns,
                                bool *ret_ended)
{
    struct exchange *x = exchange_take(core);
    if (!x)
        return NULL;
    x->sink = sink;
    x->head = head;
    x->began_ns = began_ns;
    x->wall_ms = core_wall_ms(core);
    request_id_make(&core->ids, x->wall_ms, x->request_id);
    exchange_busy(x, began_ns);
    core->retries.active++;
    core_gauge(core, WORKER_REQUESTS_OPEN, 1);
    *ret_ended = !exchange_let_in(x);
    if (!*ret_ended) {
        exchange_go(x, EXCHANGE_READING);
        make_room_for_body(x);
        exchange_rest(x);
        exchange_account(x);
    }
    return x;
}

bool exchange_body(struct exchange *x, struct span bytes)
{
    REQUIRE(x->state == EXCHANGE_READING);
    enum err err = buf_append(&x->body, bytes);
    x->input_bytes += bytes.len;
    exchange_account(x);
    if (err == OK && !core_is_full(x->core))
        return true;
    x->close = true; /* the rest of the body would have to be read */
    exchange_refuse_with(x, err == ERR_FULL ? OUTCOME_BODY_TOO_LARGE : OUTCOME_BUSY, NULL);
    return false;
}

void exchange_body_end(struct exchange *x, uint64_t began_ns)
{
    struct core *core = x->core;
    struct exchange_shadow *shadows = NULL;
    REQUIRE(x->state == EXCHANGE_READING);
    exchange_busy(x, began_ns);
    if (!exchange_decide(x))
        return;
    if (x->table->head->shadow_count)
        shadows = exchange_shadows_take(x); /* now: the body goes at first content, and x may end with its attempt */
    exchange_go(
        x, EXCHANGE_RETRYING); /* the first one needs not wait for the next turn: no upstream's callback is running */
    exchange_next_attempt(x);
    if (shadows)
        exchange_shadows_send(core, shadows);
}

void exchange_account(struct exchange *x)
{
    size_t now = x->arena.held + x->body.cap + x->ask_arena.held + x->answer.cap + x->down.cap + x->mold.raw.cap;
    if (x->framing)
        now += x->framer.pending.cap + x->framer.data.cap;
    if (now != x->accounted)
        core_account(x->core, x->accounted, now);
    x->accounted = now;
}

void exchange_free_body(struct exchange *x)
{
    buf_release(&x->body);
    arena_release(&x->ask_arena);
    exchange_account(x);
}

enum err exchange_own_headers(struct exchange *x, bool ended, struct buf *out)
{
    char text[UNITS_TEXT_BYTES];
    enum err err = http1_write_header(out, SPAN("x-request-id"), span_cstr(x->request_id));
    bool named = x->attempts && !(x->early_head && !x->content_seen);
    if (err == OK && named)
        err = http1_write_header(out, SPAN("x-fairlead-model"), x->rows[x->attempts - 1].model);
    if (err == OK && x->arm) {
        err = http1_write_header_u64(out, SPAN("x-fairlead-policy"), x->arm->arm->policy_version);
        if (err == OK)
            err = http1_write_header(out, SPAN("x-fairlead-arm"), x->arm->arm->name);
        if (err == OK)
            err = http1_write_header_u64(out, SPAN("x-fairlead-generation"), x->table->version.generation);
        if (err == OK && !x->early_head)
            err = http1_write_header_u64(out, SPAN("x-fairlead-attempts"), x->attempts);
    }
    if (err == OK && ended)
        err = http1_write_header(out, SPAN("x-fairlead-cost-usd"),
                                 span_cstr(units_format_usd(x->cost.charged_nano, text)));
    if (err == OK) {
        uint64_t ns = x->overhead_ns + (x->busy_since_ns ? clock_ns() - x->busy_since_ns : 0);
        err = http1_write_header_u64(out, SPAN("x-fairlead-overhead-us"), ns / 1000);
    }
    if (err == OK && x->explain)
        err = exchange_explain(x, out);
    return err;
}

/* A refused request's body is read and forgotten by conn when it is short and sure to come; else the connection closes.
 */
static bool body_in_the_way(const struct exchange *x)
{
    const struct http1_head *head = x->head;
    return x->state == EXCHANGE_IDLE && head->has_body &&
           (head->expect_continue || head->content_length < 0 || head->content_length > EXCHANGE_DISCARD_BYTES);
}

enum err exchange_send_whole(struct exchange *x, unsigned status, struct span type, struct buf *body)
{
    const struct sink_head head = { .status = status,
                                    .close = x->close,
                                    .bodiless = x->head->method == HTTP1_HEAD_METHOD,
                                    .content_type = type,
                                    .lines = buf_span(&x->core->lines) };
    const size_t bytes = body->len;
    /* Before it is sent: the sink takes the body over. */
    const size_t kept = x->content && !head.bodiless ? exchange_content_sent(x, buf_span(body)) : 0;
    enum err err = x->sink->ops->whole(x->sink, &head, body);
    if (err && x->content)
        exchange_content_back(x, kept);
    if (err)
        return err;
    x->status_sent = status;
    x->output_bytes += head.bodiless ? 0 : bytes;
    return OK;
}

static enum err send_error(struct exchange *x, const struct reply_error *error)
{
    struct buf body = BUF_INIT(EXCHANGE_REFUSAL_BYTES);
    buf_clear(&x->core->lines);
    enum err err = reply_error_lines(error, &x->core->lines);
    if (err == OK)
        err = exchange_own_headers(x, true, &x->core->lines);
    if (err == OK)
        err = reply_error_body(error, &body);
    if (err == OK)
        err = exchange_send_whole(x, outcome_status(error->outcome), REPLY_ERROR_TYPE, &body);
    buf_release(&body);
    return err;
}

static enum err send_error_event(struct exchange *x, const struct reply_error *error)
{
    struct buf event = BUF_INIT(EXCHANGE_REFUSAL_BYTES);
    enum err err = reply_error_event(error, &event);
    if (err == OK)
        err = exchange_write_stream(x, buf_span(&event), true);
    buf_release(&event);
    return err;
}

void exchange_refuse(struct exchange *x, const struct reply_error *error)
{
    x->close = x->close || body_in_the_way(x);
    /* A copy: callers make messages on their stacks. Without memory the record goes without. */
    x->refusal = error->message ? arena_printf(&x->arena, "%.*s", (int)LEDGER_TEXT_MAX, error->message) : NULL;
    enum err err = x->head_sent ? send_error_event(x, error) : send_error(x, error);
    /* Not even an error could be written: cut, so that nobody waits. */
    exchange_finish(x, error->outcome, error->code ? error->code : outcome_name(error->outcome), err != OK);
}

void exchange_refuse_with(struct exchange *x, enum outcome outcome, const char *message)
{
    exchange_refuse(x, &(struct reply_error){ .outcome = outcome, .message = message });
}

void exchange_tell_methods(struct exchange *x)
{
    struct buf none = BUF_INIT(0);
    x->close = x->close || body_in_the_way(x);
    buf_clear(&x->core->lines);
    enum err err = http1_write_header(&x->core->lines, SPAN("allow"), SPAN("GET, HEAD, POST, OPTIONS"));
    if (err == OK)
        err = exchange_send_whole(x, 204, SPAN(""), &none);
    exchange_finish(x, OUTCOME_OK, NULL, err != OK);
}

/* Nobody uses it any more. */
static void dispose(struct exchange *x)
{
    exchange_go(x, EXCHANGE_SETTLED);
    arena_release(&x->arena);
    exchange_account(x);
    table_unref(x->table);
    give_back(x);
}

static void begin_tail(struct exchange *x)
{
    exchange_go(x, EXCHANGE_TAILING);
    x->total_due = x->content_due = x->hold_due = DEADLINE_NONE;
    x->tail_due = core_now_ms(x->core) + EXCHANGE_TAIL_MS;
    x->next = x->core->tails;
    x->core->tails = x;
    exchange_rearm(x);
}

void exchange_tail_over(struct exchange *x)
{
    struct exchange **at = &x->core->tails;
    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    upstream_cancel(x->tail);
    x->tail = NULL;
    dispose(x);
}

void exchange_finish(struct exchange *x, enum outcome outcome, const char *error, bool abort)
{
    struct core *core = x->core;
    struct sink *sink = x->sink;
    bool close = x->close;
    exchange_attempt_abandon(x);
    exchange_rest(x);
    exchange_settle(x, outcome, error);
    if (!x->shadow) {
        core->retries.active--;
        core_gauge(core, WORKER_REQUESTS_OPEN, -1);
        if (x->head_sent)
            core_gauge(core, WORKER_STREAMS_OPEN, -1);
    }
    buf_release(&x->answer);
    buf_release(&x->down);
    exchange_free_body(x);
    x->sink = NULL;
    x->head = NULL;
    x->shadow = NULL;
    if (x->tail)
        begin_tail(x);
    else
        dispose(x);
    sink->ops->end(sink, close, abort);
}

void exchange_body_timeout(struct exchange *x)
{
    x->close = true;
    exchange_refuse_with(x, OUTCOME_BODY_TIMEOUT, NULL);
}

void exchange_malformed(struct exchange *x, const char *message)
{
    x->close = true;
    core_count(x->core, WORKER_BAD_REQUESTS);
    exchange_refuse_with(x, OUTCOME_MALFORMED, message);
}

void exchange_client_gone(struct exchange *x)
{
    exchange_reckon(x);
    exchange_finish(x, OUTCOME_CANCELLED, "client_gone", true);
}

void exchange_writable(struct exchange *x)
{
    if (!x->paused || !x->attempt.upstream)
        return;
    x->paused = false;
    x->idle_due = core_now_ms(x->core) + x->attempt.timeouts.idle_ms;
    exchange_rearm(x);
    upstream_resume(x->attempt.upstream);
}

void exchange_drain_passed(struct exchange *x)
{
    x->close = true;
    exchange_reckon(x);
    if (x->content_seen)
        exchange_truncated(
            x, true, "This gateway process had to shut down before the answer was complete. Send the request again.");
    else
        exchange_refuse_with(x, OUTCOME_DRAINING, NULL);
}

/* Total and chain deadlines end the exchange, an attempt's own only the attempt. */
static void on_timer(struct deadline *timer)
{
    struct exchange *x = CONTAINER_OF(timer, struct exchange, timer);
    uint64_t now_ms = core_now_ms(x->core);
    if (x->state == EXCHANGE_TAILING) {
        exchange_tail_over(x);
        return;
    }
    exchange_busy(x, clock_ns());
    if (x->total_due <= now_ms || (x->content_due <= now_ms && !x->content_seen)) {
        exchange_attempt_overdue(x);
        if (x->content_seen)
            exchange_truncated(x, true,
                               "The answer took longer than its route allows and was cut. Send the request again.");
        else
            exchange_refuse_with(x, OUTCOME_UPSTREAM_TIMEOUT,
                                 "No model began to answer within the route's deadline. Try again.");
        return;
    }
    if (x->state == EXCHANGE_RETRYING) {
        exchange_next_attempt(x);
        return;
    }
    if (x->first_due <= now_ms || x->idle_due <= now_ms) {
        if (x->content_seen)
            exchange_truncated(x, false,
                               "The provider fell silent in the middle of its answer. Send the request again.");
        else
            exchange_attempt_failed(x, RETRY_TIMEOUT);
        return;
    }
    if (x->hold_due <= now_ms)
        exchange_hold_passed(x);
    exchange_rest(x);
    exchange_rearm(x);
}
