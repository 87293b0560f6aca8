#include "dataplane/route/select.h"
#include "common/buf.h"
#include "dataplane/account/cost.h"
#include "dataplane/account/usage.h"

__extension__ typedef unsigned __int128 wide;

/* One member of one tier, judged. */
struct candidate {
    struct plan_step *step; /* in plan.all */
    uint64_t weight;
    uint64_t load; /* (outstanding + 1) x TTFT in us */
    uint32_t outstanding, ttft_us;
    uint64_t until_ms; /* end of an ejection */
    int64_t since_ms;  /* start of being down; 0: not known */
    bool ejected;      /* by its breaker: half of the tier's may be taken back */
};
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

static enum plan_reason judge_data(const struct requirement *need, const struct data_facts *facts)
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
        reason = judge_data(in->team_require, facts);
    if (reason == PLAN_NONE && route)
        reason = judge_data(&route->require, facts);
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

/* ---- ordering those who are eligible; picked ones leave the array ---- */

struct pool {
    struct candidate *items[TIER_MEMBERS_MAX];
    uint32_t count;
};

static void pool_remove(struct pool *pool, uint32_t at)
{
    for (uint32_t i = at; i + 1 < pool->count; i++)
        pool->items[i] = pool->items[i + 1];
    pool->count--;
}

/* Weight for drawing: among zeros only, each counts the same. */
static uint64_t pool_weight(const struct pool *pool, uint32_t at, uint64_t sum)
{
    return sum > 0 ? pool->items[at]->weight : 1;
}

static uint64_t pool_sum(const struct pool *pool)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < pool->count; i++)
        sum += pool->items[i]->weight;
    return sum;
}

/* One draw by weight. The multiplication maps 64 random bits to [0, sum) with a bias below sum / 2^64 < 2^-37. */
static uint32_t pool_draw(const struct pool *pool, struct prng *prng)
{
    uint64_t sum = pool_sum(pool);
    uint64_t range = sum > 0 ? sum : pool->count;
    uint64_t at = (uint64_t)(((wide)prng_u64(prng) * range) >> 64);
    uint32_t i = 0;
    for (; i + 1 < pool->count; i++) {
        uint64_t weight = pool_weight(pool, i, sum);
        if (at < weight)
            break;
        at -= weight;
    }
    return i;
}

static uint32_t ppb(wide part, wide whole)
{
    REQUIRE(whole > 0);
    return (uint32_t)((part * 1000000000u * 2 + whole) / (whole * 2));
}

static uint32_t first_by_weight(const struct pool *pool, struct prng *prng, uint32_t *ret_ppb)
{
    uint64_t sum = pool_sum(pool);
    uint32_t first = pool_draw(pool, prng);
    *ret_ppb = ppb(pool_weight(pool, first, sum), sum > 0 ? sum : pool->count);
    return first;
}

/* The header's formula. Where both draws fell on one member, or load did not decide, it is the weight that chose. */
static uint32_t first_of_two(const struct pool *pool, struct prng *prng, enum plan_reason *ret_reason,
                             uint32_t *ret_ppb)
{
    uint64_t sum = pool_sum(pool);
    uint32_t a = pool_draw(pool, prng), b = pool_draw(pool, prng);
    uint32_t first = pool->items[b]->load < pool->items[a]->load ? b : a;
    *ret_reason = pool->items[b]->load == pool->items[a]->load ? PLAN_WEIGHT : PLAN_LESS_LOADED;
    uint64_t load = pool->items[first]->load, weight = pool_weight(pool, first, sum);
    wide part = (wide)weight * weight;
    for (uint32_t j = 0; j < pool->count; j++) {
        if (j == first || pool->items[j]->load < load)
            continue;
        part += (wide)weight * pool_weight(pool, j, sum) * (pool->items[j]->load == load ? 1 : 2);
    }
    wide whole = sum > 0 ? sum : pool->count;
    *ret_ppb = ppb(part, whole * whole);
    return first;
}

static uint32_t first_by_wish(const struct pool *pool, enum resolve_wish wish)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < pool->count; i++) {
        const struct candidate *c = pool->items[i], *b = pool->items[best];
        if (wish == RESOLVE_CHEAPEST ? c->step->estimate_nano < b->step->estimate_nano : c->load < b->load)
            best = i;
    }
    return best;
}

static uint32_t pick_first(const struct work *w, const struct tier_work *t, const struct pool *pool,
                           enum plan_reason *ret_reason, uint32_t *ret_ppb)
{
    enum resolve_wish wish = t->prefer == PREFER_WEIGHTS ? RESOLVE_AS_TOLD : w->in->target.wish;
    *ret_ppb = 1000000000u;
    if (w->in->target.model || pool->count == 1) {
        *ret_reason = w->in->target.model ? PLAN_DIRECT : PLAN_ONLY;
        return 0;
    }
    if (wish != RESOLVE_AS_TOLD) {
        *ret_reason = wish == RESOLVE_CHEAPEST ? PLAN_CHEAPEST : PLAN_FASTEST;
        return first_by_wish(pool, wish);
    }
    if (t->prefer == PREFER_WEIGHTS) {
        *ret_reason = PLAN_WEIGHT;
        return first_by_weight(pool, w->prng, ret_ppb);
    }
    return first_of_two(pool, w->prng, ret_reason, ret_ppb);
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

static void order_tier(const struct work *w, const struct tier_work *t)
{
    struct pool pool = { .count = 0 };
    for (uint32_t i = 0; i < t->count; i++)
        if (t->items[i].step->reason == PLAN_NONE)
            pool.items[pool.count++] = &t->items[i];
    bool leads = w->plan->count == 0;
    enum resolve_wish wish = t->prefer == PREFER_WEIGHTS ? RESOLVE_AS_TOLD : w->in->target.wish;
    for (bool first = true; pool.count > 0; first = false) {
        enum plan_reason reason = leads ? PLAN_NEXT : PLAN_NEXT_TIER;
        enum plan_reason drawn; /* a later place needs no reason of its own */
        uint32_t at, chance;
        if (first && leads)
            at = pick_first(w, t, &pool, &reason, &w->plan->propensity_ppb);
        else if (wish != RESOLVE_AS_TOLD)
            at = first_by_wish(&pool, wish);
        else
            at = first && t->prefer != PREFER_WEIGHTS ? first_of_two(&pool, w->prng, &drawn, &chance)
                                                      : pool_draw(&pool, w->prng);
        plan_add(w, pool.items[at], reason);
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

static void order_least_bad(const struct work *w, const struct tier_work *t)
{
    struct pool pool = { .count = 0 };
    for (uint32_t i = 0; i < t->count; i++) {
        enum plan_reason reason = t->items[i].step->reason;
        if (reason >= PLAN_OUT_OF_BOUNDS && reason <= PLAN_DOWN)
            pool.items[pool.count++] = &t->items[i];
    }
    while (pool.count > 0) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < pool.count; i++)
            if (less_bad(pool.items[i], pool.items[best]))
                best = i;
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

enum err select_plan(struct arena *arena, const struct select_input *input, struct prng *prng, struct plan *ret_plan)
{
    const struct route *route = input->target.route;
    REQUIRE((route != NULL) != (input->target.model != NULL));
    uint32_t tiers = route ? route->tier_count : 1, members = route ? 0 : 1;
    REQUIRE(tiers <= TIERS_MAX);
    for (uint32_t i = 0; route && i < tiers; i++)
        members += route->tiers[i].member_count;
    struct plan plan = { .all_count = members, .all = ARENA_ARRAY(arena, members, struct plan_step) };
    if (!plan.all)
        return ERR_NOMEM;
    uint32_t attempts = input->attempts_max > 0 ? input->attempts_max : route ? route->attempts : 1;
    struct work w = { .arena = arena,
                      .in = input,
                      .prng = prng,
                      .plan = &plan,
                      .attempts = attempts < 1              ? 1
                                  : attempts > ATTEMPTS_MAX ? ATTEMPTS_MAX
                                                            : attempts };
    struct tier_work work[TIERS_MAX];
    for (uint32_t i = 0, at = 0; i < tiers; at += work[i].count, i++) {
        enum err err = judge_tier(&w, i, plan.all + at, &work[i]);
        if (err)
            return err;
    }
    for (uint32_t i = 0; i < tiers; i++)
        order_tier(&w, &work[i]);
    if (plan.count == 0) {
        for (uint32_t i = 0; i < tiers; i++)
            order_least_bad(&w, &work[i]);
        plan.propensity_ppb = plan.count > 0 ? 1000000000u : 0;
    }
    *ret_plan = plan;
    return plan.count > 0 ? OK : ERR_NO_CANDIDATE;
}
