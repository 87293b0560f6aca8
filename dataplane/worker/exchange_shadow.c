/* Shadows: what a client asked for is sent again under another arm, beside the client's own request; the answer is
 * read, counted, recorded and thrown away.
 *
 * A shadow is an exchange whose sink takes everything and keeps nothing. It borrows nothing from the request that it
 * repeats: body, headers and key are copied before that one's first attempt, the table is pinned once more. It takes
 * no place among the clients' requests (caps, retry budget), says nothing to the breakers, and is the first to yield
 * when the worker has much to do. */
#include "common/clock.h"
#include "common/fault.h"
#include "dataplane/dialect/headers.h"
#include "dataplane/route/ask.h"
#include "dataplane/worker/exchange_internal.h"
#include "dataplane/worker/stream.h"

#define SHADOWS_OPEN_MAX    64u          /* in one worker: an arm that hangs must not pile them up */
#define SHADOW_BODY_BYTES   (4u << 20)   /* a copy of more is not worth the memory */
#define SHADOW_ANSWER_BYTES (8u << 20)   /* an unstreamed answer is held whole until it is known to be one */
#define SHADOW_ARENA_BYTES  (128u << 10) /* of the head and the key: a head is 32 KiB at most, by default */
#define SHADOW_TOTAL_MS     600000u      /* an answer without end costs money, and nobody would notice */
#define SHADOW_UNSENT_MS    100u /* between two records of unsent ones: a budget that stays spent fills no disk */

struct exchange_shadow {
    struct sink sink;
    struct stream_facts client; /* nobody */
    struct http1_head head;
    struct core *core;
    struct exchange *x;
    struct exchange_shadow *next, **link; /* of core->shadows; before it is sent: of those wanted */
    struct arena arena;                   /* all that it has copied */
    struct table *table;                  /* until the exchange has it */
    const struct shadow *rule;            /* in the table's head */
    const struct team_view *team;
    struct key_record key;
    struct openai_chat_place place;
    struct header_pair *headers;
    struct buf body; /* until the exchange has it */
    struct span of;
    int64_t taken_nano;  /* of the budget */
    int64_t unsent_nano; /* what the budget had no room for; 0: it was sent */
    size_t accounted;
};

/* ---- the sink ---- */

static void ignore_go_on(struct sink *sink)
{
    (void)sink;
}

static enum err ignore_whole(struct sink *sink, const struct sink_head *head, struct buf *body)
{
    (void)sink;
    (void)head;
    buf_release(body);
    return OK;
}

static enum err ignore_stream(struct sink *sink, const struct sink_head *head, struct span bytes, bool last)
{
    (void)sink;
    (void)head;
    (void)bytes;
    (void)last;
    return OK;
}

static size_t nothing_queued(const struct sink *sink)
{
    (void)sink;
    return 0;
}

static void drop(struct exchange_shadow *s)
{
    core_account(s->core, s->accounted, 0);
    table_unref(s->table);
    buf_release(&s->body);
    arena_release(&s->arena);
    free(s);
}

static void on_end(struct sink *sink, UNUSED bool close, UNUSED bool abort)
{
    struct exchange_shadow *s = CONTAINER_OF(sink, struct exchange_shadow, sink);
    *s->link = s->next;
    if (s->next)
        s->next->link = s->link;
    core_gauge(s->core, WORKER_SHADOWS_OPEN, -1);
    drop(s);
}

static const struct sink_ops shadow_sink = {
    .go_on = ignore_go_on, .whole = ignore_whole, .stream = ignore_stream, .queued = nothing_queued, .end = on_end
};

/* ---- what is wanted ---- */

static bool wanted(const struct exchange *x, const struct shadow *rule, struct span route)
{
    return arms_shadow(rule, route, span_cstr(x->request_id)) && (rule->tools || !x->ask.has_tools);
}

bool exchange_shadows_yield(const struct core *core)
{
    return core->buffered > core->config->limits.buffered_bytes / 2 ||
           core->retries.active > core->config->limits.connections / 2;
}

static bool has_room(const struct exchange *x)
{
    const struct core *core = x->core;
    return !core->draining && !exchange_shadows_yield(core) && x->body.len <= SHADOW_BODY_BYTES &&
           atomic_load_explicit(&core->region->counters[WORKER_SHADOWS_OPEN], memory_order_relaxed) < SHADOWS_OPEN_MAX;
}

static enum err copy_headers(struct exchange_shadow *s, const struct exchange *x)
{
    s->headers = ARENA_ARRAY(&s->arena, x->head->header_count, struct header_pair);
    if (!s->headers && x->head->header_count)
        return ERR_NOMEM;
    for (unsigned i = 0; i < x->head->header_count; i++) {
        if (headers_never_up(x->headers[i].name))
            continue; /* the client's key, too, is not kept twice */
        struct header_pair *copy = &s->headers[s->head.header_count++];
        *copy = (struct header_pair){ .name = arena_dup(&s->arena, x->headers[i].name),
                                      .value = arena_dup(&s->arena, x->headers[i].value) };
        if (!copy->name.ptr || !copy->value.ptr)
            return ERR_NOMEM;
    }
    return OK;
}

/* As much of the key's record as decisions and the record need. */
static enum err copy_key(struct exchange_shadow *s, const struct key_record *key)
{
    struct span *routes = ARENA_ARRAY(&s->arena, key->routes.count, struct span);
    if (!routes && key->routes.count)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < key->routes.count; i++) {
        routes[i] = arena_dup(&s->arena, key->routes.items[i]);
        if (!routes[i].ptr)
            return ERR_NOMEM;
    }
    s->key = (struct key_record){ .id = arena_dup(&s->arena, key->id),
                                  .team = arena_dup(&s->arena, key->team),
                                  .routes = { .items = routes, .count = key->routes.count } };
    return s->key.id.ptr && s->key.team.ptr ? OK : ERR_NOMEM;
}

static struct exchange_shadow *make(struct exchange *x, const struct shadow *rule)
{
    struct exchange_shadow *s = fault_calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->core = x->core;
    arena_init(&s->arena, SHADOW_ARENA_BYTES);
    buf_init(&s->body, SHADOW_BODY_BYTES);
    s->sink = (struct sink){ .ops = &shadow_sink, .client = &s->client };
    s->head = (struct http1_head){ .method = HTTP1_POST, .content_length = (int64_t)x->body.len };
    s->table = table_ref(x->table);
    s->rule = rule;
    s->team = x->principal.team;
    s->place = (struct openai_chat_place){ .endpoint = x->place.endpoint };
    enum err err = copy_headers(s, x);
    if (!err)
        err = copy_key(s, x->key);
    if (!err)
        err = buf_append(&s->body, buf_span(&x->body));
    s->of = arena_dup(&s->arena, span_cstr(x->request_id));
    s->accounted = s->arena.held;
    core_account(x->core, 0, s->accounted);
    if (!err && s->of.ptr)
        return s;
    drop(s);
    return NULL;
}

struct exchange_shadow *exchange_shadows_take(struct exchange *x)
{
    const struct head *head = x->table->head;
    struct exchange_shadow *list = NULL;
    if (x->choice.why == ARM_FORCED)
        return NULL;
    const struct span route = resolve_route_meant(&x->table->arms[0], x->ask.model);
    for (uint32_t i = 0; i < head->shadow_count; i++) {
        if (!wanted(x, &head->shadows[i], route))
            continue;
        struct exchange_shadow *s = has_room(x) ? make(x, &head->shadows[i]) : NULL;
        if (!s) {
            core_count(x->core, WORKER_SHADOWS_SKIPPED);
            continue;
        }
        s->next = list;
        list = s;
    }
    return list;
}

/* ---- its life ---- */

/* By the records of these the control plane learns that a budget is as good as spent (controlplane/pilot). */
static void leave_unsent(struct exchange_shadow *s)
{
    struct core *core = s->core;
    const uint64_t now_ms = core_now_ms(core);
    s->unsent_nano = s->x->plan.steps[0].estimate_nano;
    if (now_ms >= core->shadow_unsent_due_ms)
        core->shadow_unsent_due_ms = now_ms + SHADOW_UNSENT_MS;
    else
        s->x->key = NULL; /* no record */
    exchange_finish(s->x, OUTCOME_CANCELLED, "budget", true);
}

bool exchange_shadow_unsent(const struct exchange *x)
{
    return x->shadow && x->shadow->unsent_nano > 0;
}

static void begin(struct core *core, struct exchange_shadow *s)
{
    struct exchange *x = exchange_take(core);
    if (!x) {
        core_count(core, WORKER_SHADOWS_SKIPPED);
        drop(s);
        return;
    }
    s->x = x;
    s->next = core->shadows;
    s->link = &core->shadows;
    if (s->next)
        s->next->link = &s->next;
    core->shadows = s;
    core_gauge(core, WORKER_SHADOWS_OPEN, 1);
    x->shadow = s;
    x->sink = &s->sink;
    x->head = &s->head;
    x->headers = s->headers;
    x->place = s->place;
    x->key = &s->key;
    x->principal = (struct auth_principal){ .key = x->key, .team = s->team };
    x->table = s->table;
    x->arm = &x->table->arms[s->rule->arm];
    x->arm_chosen = true;
    x->body = s->body;
    x->input_bytes = x->body.len;
    s->table = NULL;
    buf_init(&s->body, 0);
    buf_init(&x->answer, SHADOW_ANSWER_BYTES);
    request_id_make(&core->ids, core_wall_ms(core), x->request_id);
    x->wall_ms = core_wall_ms(core);
    x->began_ns = clock_ns();
    exchange_busy(x, x->began_ns);
    exchange_go(x, EXCHANGE_READING);
    if (!exchange_decide(x))
        return;
    if (!board_budget_take(core->board, s->rule->id, x->plan.steps[0].estimate_nano, s->rule->budget_nano)) {
        leave_unsent(s);
        return;
    }
    s->taken_nano = x->plan.steps[0].estimate_nano;
    const uint64_t latest = core_now_ms(core) + SHADOW_TOTAL_MS;
    x->total_due = x->total_due < latest ? x->total_due : latest;
    exchange_go(x, EXCHANGE_RETRYING); /* the first attempt comes with the next turn: clients' come first */
    exchange_rest(x);
    exchange_account(x);
    exchange_rearm(x);
}

void exchange_shadows_send(struct core *core, struct exchange_shadow *list)
{
    while (list) {
        struct exchange_shadow *s = list;
        list = s->next;
        begin(core, s);
    }
}

void exchange_shadow_settle(struct exchange *x, struct ledger_record *record)
{
    struct exchange_shadow *s = x->shadow;
    int64_t spent = 0;
    record->kind = RECORD_SHADOW;
    record->of = s->of;
    record->estimate_nano = s->unsent_nano;
    record->assignment = s->rule->id;
    record->arm_why = NULL;
    if (__builtin_add_overflow(x->cost.charged_nano, x->spent_nano, &spent))
        spent = INT64_MAX;
    if (x->attempts == 0)
        spent = 0;
    board_budget_correct(x->core->board, s->rule->id, spent - s->taken_nano);
    s->taken_nano = spent;
}

/* What was sent is paid for, though nobody has read it to its end. */
static void cancel(struct exchange *x, const char *why)
{
    exchange_reckon(x);
    exchange_finish(x, OUTCOME_CANCELLED, why, true);
}

void exchange_shadow_yields(struct exchange *x)
{
    cancel(x, "busy");
}

void exchange_shadows_close(struct core *core)
{
    while (core->shadows)
        cancel(core->shadows->x, "shutting_down");
}
