#include "dataplane/route/select.h"
#include "common/buf.h"
#include "dataplane/account/cost.h"
#include "dataplane/account/usage.h"
#include "dataplane/route/select_draw.h"

struct tier_work {
    struct candidate *items;
    uint32_t count;
    enum prefer prefer;
};
struct work {
    struct arena *arena;
    const struct select_input *in;
    struct prng *prng;
    struct plan *plan;
    uint32_t attempts;
};

/* ---- judging one member ---- */

static bool satisfies_region(const struct requirement *need, const struct data_facts *facts)
{
    if (need->regions.count == 0)
        return true;
    /* Data may go to any of the provider's regions, so each must be allowed; none known satisfies nothing. */
    for (uint32_t i = 0; i < facts->regions.count; i++) {
        bool allowed = false;
        for (uint32_t j = 0; j < need->regions.count && !allowed; j++)
            allowed = span_eq_nocase(need->regions.items[j], facts->regions.items[i]);
        if (!allowed)
            return false;
    }
    return facts->regions.count > 0;
}

enum plan_reason select_judge_data(const struct requirement *need, const struct data_facts *facts)
{
    if (!need)
        return PLAN_NONE;
    if (!satisfies_region(need, facts))
        return PLAN_REGION;
    if (need->has_retention && !(facts->retention_known && facts->retention_days <= need->max_retention_days))
        return PLAN_RETENTION;
    if (need->no_training && !(facts->trains_known && !facts->trains))
        return PLAN_TRAINING;
    return PLAN_NONE;
}

static enum plan_reason judge_capabilities(const struct model *model, const struct ask *ask)
{
    static const struct {
        enum endpoint endpoint;
        enum capability capability;
    } endpoints[] = { { ENDPOINT_CHAT, CAP_CHAT },
                      { ENDPOINT_COMPLETIONS, CAP_COMPLETIONS },
                      { ENDPOINT_EMBEDDINGS, CAP_EMBEDDINGS } };
    uint32_t can = model->capabilities;
    for (size_t i = 0; i < ARRAY_LEN(endpoints); i++)
        if (ask->endpoint == endpoints[i].endpoint && !(can & endpoints[i].capability))
            return PLAN_NO_ENDPOINT;
    if (ask->stream && !(can & CAP_STREAM))
        return PLAN_NO_STREAM;
    if (ask->has_tools && !(can & CAP_TOOLS))
        return PLAN_NO_TOOLS;
    if (ask->has_images && !(can & CAP_IMAGES))
        return PLAN_NO_IMAGES;
    if (ask->has_audio && !(can & CAP_AUDIO))
        return PLAN_NO_AUDIO;
    if (ask->wants_json && !(can & CAP_JSON))
        return PLAN_NO_JSON;
    return PLAN_NONE;
}

int64_t select_estimate(const struct arm_view *arm, const struct route *route, uint32_t model, const struct ask *ask)
{
    uint64_t output = ask->max_output_tokens;
    if (ask->endpoint == ENDPOINT_EMBEDDINGS)
        output = 0;
    else if (output == 0 && route)
        output = route->mix_output_tokens;
    uint64_t choices = ask->choices > 0 ? ask->choices : 1;
    struct usage usage = { .known = true, .input = usage_tokens_of_bytes(ask->input_bytes) };
    if (__builtin_mul_overflow(output, choices, &usage.output) || usage.output > USAGE_TOKENS_MAX)
        usage.output = USAGE_TOKENS_MAX;
    return cost_of(arm->models[model].price, 0, &usage).list_nano;
}

bool select_too_dear(const struct route *route, int64_t spent_nano, int64_t estimate_nano)
{
    int64_t sum;
    if (!route || route->max_cost_nano <= 0)
        return false;
    return __builtin_add_overflow(spent_nano, estimate_nano, &sum) || sum > route->max_cost_nano;
}

static bool override_holds(bool on, int64_t until_ms, int64_t now_ms)
{
    return on && (until_ms == 0 || now_ms < until_ms);
}

static bool was_tried(const struct select_input *in, uint32_t model)
{
    for (uint32_t i = 0; i < in->tried_count; i++)
        if (in->tried[i] == model)
            return true;
    return false;
}

static bool out_of_bounds(const struct select_input *in, const struct tier *tier, const struct model_view *view)
{
    const struct bounds *b = &tier->within;
    if (in->evidence_valid && view->samples > 0) {
        if (b->ttft_p95_ms > 0 && view->ttft_p95_us / 1000 > b->ttft_p95_ms)
            return true;
        if (b->errors_ppm > 0 && view->errors_ppm > b->errors_ppm)
            return true;
    }
    if (b->cost_nano_max <= 0 || !in->target.route)
        return false;
    struct usage mix = { .known = true,
                         .input = in->target.route->mix_input_tokens,
                         .output = in->target.route->mix_output_tokens };
    return cost_of(view->price, 0, &mix).list_nano > b->cost_nano_max;
}

/* What stands for good, from the farthest to the nearest. */
static enum plan_reason judge_hard(const struct select_input *in, uint32_t index, const struct select_live *live,
                                   int64_t *ret_estimate)
{
    const struct artifact *a = in->arm->compiled->artifact;
    const struct model *model = &a->models[index];
    const struct model_view *view = &in->arm->models[index];
    const struct route *route = in->target.route;
    const struct data_facts *facts = &a->providers[model->provider].data;
    *ret_estimate = select_estimate(in->arm, route, index, in->ask);
    enum plan_reason reason = judge_capabilities(model, in->ask);
    if (reason == PLAN_NONE)
        reason = select_judge_data(in->team_require, facts);
    if (reason == PLAN_NONE && route)
        reason = select_judge_data(&route->require, facts);
    if (reason != PLAN_NONE)
        return reason;
    uint64_t tokens = usage_tokens_of_bytes(in->ask->input_bytes) + in->ask->max_output_tokens;
    if (model->context_tokens > 0 && tokens > model->context_tokens)
        return PLAN_TOO_LONG;
    if (select_too_dear(route, in->spent_nano, *ret_estimate))
        return PLAN_TOO_DEAR;
    if (override_holds(view->blocked, view->blocked_until_ms, in->wall_ms))
        return PLAN_BLOCKED;
    if (override_holds(view->drained, view->drained_until_ms, in->wall_ms))
        return PLAN_DRAINED;
    if (live->no_credential)
        return PLAN_NO_CREDENTIAL;
    return was_tried(in, index) ? PLAN_TRIED : PLAN_NONE;
}

static enum plan_reason judge_soft(const struct select_input *in, const struct tier *tier, struct candidate *c,
                                   const struct select_live *live)
{
    const struct model_view *view = &in->arm->models[c->step->model];
    if (in->evidence_valid && view->health == HEALTH_DOWN) {
        c->since_ms = view->health_since_ms;
        return PLAN_DOWN;
    }
    enum breaker_state state = breaker_state(live->breaker, in->now_ms);
    if (state == BREAKER_OPEN) {
        c->until_ms = breaker_until_ms(live->breaker);
        c->ejected = true;
        return PLAN_EJECTED;
    }
    if (in->now_ms < live->cool_until_ms) {
        c->until_ms = live->cool_until_ms;
        return PLAN_EJECTED;
    }
    if (state == BREAKER_PROBING)
        return PLAN_PROBED;
    return tier && out_of_bounds(in, tier, view) ? PLAN_OUT_OF_BOUNDS : PLAN_NONE;
}

static void judge(const struct work *w, const struct tier *tier, struct candidate *c)
{
    const struct select_input *in = w->in;
    struct select_live live = { .outstanding = 0 };
    in->source.live(in->source.user, c->step->model, &live);
    c->outstanding = live.outstanding;
    c->ttft_us = live.ttft_us;
    if (c->ttft_us == 0 && in->evidence_valid)
        c->ttft_us = in->arm->models[c->step->model].ttft_ewma_us;
    c->step->reason = judge_hard(in, c->step->model, &live, &c->step->estimate_nano);
    if (c->step->reason == PLAN_NONE)
        c->step->reason = judge_soft(in, tier, c, &live);
}

/* No more than half of the members are ejected at once (at least one may be): the others come back, soonest first. So
 * many at once are more likely our own network than theirs. */
static void limit_ejections(struct tier_work *t)
{
    uint32_t most = t->count / 2 > 0 ? t->count / 2 : 1;
    for (;;) {
        uint32_t ejected = 0;
        struct candidate *soonest = NULL;
        for (uint32_t i = 0; i < t->count; i++) {
            struct candidate *c = &t->items[i];
            if (!c->ejected)
                continue;
            ejected++;
            if (!soonest || c->until_ms < soonest->until_ms)
                soonest = c;
        }
        if (ejected <= most)
            return;
        soonest->ejected = false;
        soonest->step->reason = PLAN_NONE;
        soonest->step->forced = true;
    }
}

/* A TTFT that nobody knows is the best known one of the tier, or 1: then only outstanding counts. */
static void fill_loads(struct tier_work *t)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t ttft = t->items[i].ttft_us;
        if (ttft > 0 && (best == 0 || ttft < best))
            best = ttft;
    }
    for (uint32_t i = 0; i < t->count; i++) {
        struct candidate *c = &t->items[i];
        c->load = ((uint64_t)c->outstanding + 1) * (c->ttft_us > 0 ? c->ttft_us : best > 0 ? best : 1);
    }
}

/* ---- ordering those who are eligible; picked ones leave the pool ---- */

/* For a place that is drawn for; `first`: the tier's first, for which a scored list draws two. */
static enum draw_rule rule_of(const struct work *w, const struct tier_work *t, bool first)
{
    const bool scored = t->prefer != PREFER_WEIGHTS;
    if (scored && w->in->target.wish != RESOLVE_AS_TOLD)
        return w->in->target.wish == RESOLVE_CHEAPEST ? DRAW_CHEAPEST : DRAW_FASTEST;
    return first && scored ? DRAW_TWO : DRAW_WEIGHT;
}

/* For the first place of all. */
static enum draw_rule leading_rule(const struct work *w, const struct tier_work *t, const struct pool *pool)
{
    return w->in->target.model || pool->count == 1 ? DRAW_NONE : rule_of(w, t, true);
}

static enum plan_reason leading_reason(const struct work *w, enum draw_rule rule, bool by_load)
{
    switch (rule) {
    case DRAW_NONE:
        return w->in->target.model ? PLAN_DIRECT : PLAN_ONLY;
    case DRAW_WEIGHT:
        return PLAN_WEIGHT;
    case DRAW_TWO:
        return by_load ? PLAN_LESS_LOADED : PLAN_WEIGHT;
    case DRAW_CHEAPEST:
        return PLAN_CHEAPEST;
    case DRAW_FASTEST:
        return PLAN_FASTEST;
    }
    return PLAN_NONE;
}

static void plan_add(const struct work *w, struct candidate *c, enum plan_reason reason)
{
    struct plan *plan = w->plan;
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->steps[i].model == c->step->model) { /* it stands in two tiers: once is enough */
            c->step->reason = PLAN_TRIED;
            return;
        }
    if (plan->count >= w->attempts) {
        if (c->step->reason == PLAN_NONE)
            c->step->reason = PLAN_BEYOND;
        return;
    }
    c->step->reason = reason;
    plan->steps[plan->count++] = *c->step;
}

static void fill_pool(const struct tier_work *t, struct pool *pool)
{
    pool->count = 0;
    for (uint32_t i = 0; i < t->count; i++)
        if (t->items[i].step->reason == PLAN_NONE)
            pool->items[pool->count++] = &t->items[i];
}

static void order_tier(const struct work *w, const struct tier_work *t)
{
    struct pool pool;
    fill_pool(t, &pool);
    bool leads = w->plan->count == 0;
    for (bool first = true; pool.count > 0; first = false) {
        const bool leading = first && leads;
        const enum draw_rule rule = leading ? leading_rule(w, t, &pool) : rule_of(w, t, first);
        bool by_load;
        uint32_t at = draw_first(&pool, rule, w->prng, &by_load);
        if (leading)
            w->plan->propensity_ppb = draw_chance(&pool, rule, at);
        plan_add(w, pool.items[at],
                 leading ? leading_reason(w, rule, by_load)
                 : leads ? PLAN_NEXT
                         : PLAN_NEXT_TIER); /* a later place needs no reason of its own */
        pool_remove(&pool, at);
    }
}

/* True when a is the lesser evil: the enum's order, then who ends sooner, then who began longer ago. */
static bool less_bad(const struct candidate *a, const struct candidate *b)
{
    if (a->step->reason != b->step->reason)
        return a->step->reason < b->step->reason;
    if (a->until_ms != b->until_ms)
        return a->until_ms < b->until_ms;
    return a->since_ms < b->since_ms;
}

static void fill_pool_least_bad(const struct tier_work *t, struct pool *pool)
{
    pool->count = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        enum plan_reason reason = t->items[i].step->reason;
        if (reason >= PLAN_OUT_OF_BOUNDS && reason <= PLAN_DOWN)
            pool->items[pool->count++] = &t->items[i];
    }
}

static uint32_t least_bad(const struct pool *pool)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < pool->count; i++)
        if (less_bad(pool->items[i], pool->items[best]))
            best = i;
    return best;
}

static void order_least_bad(const struct work *w, const struct tier_work *t)
{
    struct pool pool;
    fill_pool_least_bad(t, &pool);
    while (pool.count > 0) {
        uint32_t best = least_bad(&pool);
        pool.items[best]->step->forced = true;
        plan_add(w, pool.items[best], PLAN_LEAST_BAD);
        pool_remove(&pool, best);
    }
}

/* ---- all together ---- */

static enum err judge_tier(const struct work *w, uint32_t index, struct plan_step *steps, struct tier_work *t)
{
    const struct route *route = w->in->target.route;
    const struct tier *tier = route ? &route->tiers[index] : NULL;
    t->count = tier ? tier->member_count : 1;
    t->prefer = tier ? tier->prefer : PREFER_WEIGHTS;
    REQUIRE(t->count <= TIER_MEMBERS_MAX);
    t->items = ARENA_ARRAY(w->arena, t->count, struct candidate);
    if (!t->items)
        return ERR_NOMEM;
    const uint32_t *weights = NULL;
    if (tier && w->in->evidence_valid)
        weights = table_weights(w->in->arm, table_route_index(w->in->arm, route), index);
    for (uint32_t i = 0; i < t->count; i++) {
        struct candidate *c = &t->items[i];
        c->step = &steps[i];
        c->step->tier = index;
        c->step->model = tier ? tier->members[i].model : table_model_index(w->in->arm, w->in->target.model);
        c->weight = weights ? weights[i] : tier ? tier->members[i].weight_ppm : 1;
        judge(w, tier, c);
    }
    limit_ejections(t);
    fill_loads(t);
    return OK;
}

/* Every member of every tier: `all` gets them in the route's order, `tiers` (TIERS_MAX) the work. */
static enum err judge_all(const struct work *w, struct tier_work *tiers, uint32_t *ret_tiers,
                          struct plan_step **ret_all, uint32_t *ret_count)
{
    const struct route *route = w->in->target.route;
    REQUIRE((route != NULL) != (w->in->target.model != NULL));
    uint32_t count = route ? route->tier_count : 1, members = route ? 0 : 1;
    REQUIRE(count <= TIERS_MAX);
    for (uint32_t i = 0; route && i < count; i++)
        members += route->tiers[i].member_count;
    struct plan_step *all = ARENA_ARRAY(w->arena, members, struct plan_step);
    if (!all)
        return ERR_NOMEM;
    for (uint32_t i = 0, at = 0; i < count; at += tiers[i].count, i++) {
        enum err err = judge_tier(w, i, all + at, &tiers[i]);
        if (err)
            return err;
    }
    *ret_tiers = count;
    *ret_all = all;
    *ret_count = members;
    return OK;
}

enum err select_plan(struct arena *arena, const struct select_input *input, struct prng *prng, struct plan *ret_plan)
{
    const struct route *route = input->target.route;
    struct plan plan = { .count = 0 };
    uint32_t attempts = input->attempts_max > 0 ? input->attempts_max : route ? route->attempts : 1;
    struct work w = { .arena = arena,
                      .in = input,
                      .prng = prng,
                      .plan = &plan,
                      .attempts = attempts < 1              ? 1
                                  : attempts > ATTEMPTS_MAX ? ATTEMPTS_MAX
                                                            : attempts };
    struct tier_work work[TIERS_MAX];
    uint32_t tiers;
    enum err err = judge_all(&w, work, &tiers, &plan.all, &plan.all_count);
    if (err)
        return err;
    for (uint32_t i = 0; i < tiers; i++)
        order_tier(&w, &work[i]);
    if (plan.count == 0) {
        for (uint32_t i = 0; i < tiers; i++)
            order_least_bad(&w, &work[i]);
        plan.propensity_ppb = plan.count > 0 ? DRAW_CERTAIN_PPB : 0;
    }
    *ret_plan = plan;
    return plan.count > 0 ? OK : ERR_NO_CANDIDATE;
}

/* The pool that the first place of all is drawn from; empty: there is none. */
static enum draw_rule leading_pool(const struct work *w, const struct tier_work *work, uint32_t tiers,
                                   struct pool *pool)
{
    pool->count = 0;
    for (uint32_t i = 0; i < tiers; i++) {
        fill_pool(&work[i], pool);
        if (pool->count > 0)
            return leading_rule(w, &work[i], pool);
    }
    for (uint32_t i = 0; i < tiers; i++) {
        fill_pool_least_bad(&work[i], pool);
        if (pool->count > 0) {
            pool->items[0] = pool->items[least_bad(pool)];
            pool->count = 1;
            break;
        }
    }
    return DRAW_NONE;
}

enum err select_distribution(struct arena *arena, const struct select_input *input, struct distribution *ret)
{
    struct distribution d;
    struct work w = { .arena = arena, .in = input };
    struct tier_work work[TIERS_MAX];
    uint32_t tiers;
    struct pool pool;
    enum err err = judge_all(&w, work, &tiers, &d.all, &d.all_count);
    if (err)
        return err;
    d.first_ppb = ARENA_ARRAY(arena, d.all_count, uint32_t); /* zeroed */
    if (!d.first_ppb)
        return ERR_NOMEM;
    const enum draw_rule rule = leading_pool(&w, work, tiers, &pool);
    for (uint32_t i = 0; i < pool.count; i++)
        d.first_ppb[pool.items[i]->step - d.all] = draw_chance(&pool, rule, i);
    *ret = d;
    return pool.count > 0 ? OK : ERR_NO_CANDIDATE;
}
