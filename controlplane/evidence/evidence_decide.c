#include "controlplane/evidence/evidence.h"
#include "controlplane/evidence/evidence_internal.h"

#define PROBE_STALE_ROUNDS 3     /* missed probes after which the last one says nothing any more */
#define PROBE_STALE_MS     30000 /* and this on top, for a slow or restarting prober */

/* ---- overrides ---- */

const struct override *evidence_override(const struct evidence_state *state, enum override_kind kind,
                                         struct span target, int64_t now_ms)
{
    for (uint32_t i = 0; state->head && i < state->head->override_count; i++) {
        const struct override *o = &state->head->overrides[i];
        if (o->kind == kind && span_eq(o->target, target) && (o->expires_at_ms == 0 || now_ms < o->expires_at_ms))
            return o;
    }
    return NULL;
}

const struct override *evidence_withdrawn(const struct evidence_state *state, const struct followed_model *m,
                                          int64_t now_ms)
{
    const struct override *o = evidence_override(state, OVERRIDE_DRAIN, m->model->name, now_ms);
    if (!o)
        o = evidence_override(state, OVERRIDE_BLOCK, m->model->name, now_ms);
    if (!o)
        o = evidence_override(state, OVERRIDE_DRAIN, m->provider->name, now_ms);
    return o ? o : evidence_override(state, OVERRIDE_BLOCK, m->provider->name, now_ms);
}

/* ---- health ---- */

bool evidence_probe_fresh(const struct provider *provider, const struct probe_state *probe, int64_t now_ms)
{
    return probe && now_ms - probe->at_ms <= (int64_t)provider->probe_every_ms * PROBE_STALE_ROUNDS + PROBE_STALE_MS;
}

static struct health_probe probe_of(const struct evidence_state *state, const struct provider *provider,
                                    struct span name, int64_t now_ms)
{
    const struct probe_state *probe = probes_find(state->probes, name);
    if (provider->probe == PROBE_HOW_NONE || !evidence_probe_fresh(provider, probe, now_ms))
        return (struct health_probe){ .why = "" };
    return (struct health_probe){
        .known = true, .ok_streak = probe->ok_streak, .fail_streak = probe->fail_streak, .why = probe->why
    };
}

uint32_t evidence_judge(const struct evidence_state *state, int64_t now_ms, struct health_verdict *verdicts)
{
    for (uint32_t i = 0; i < state->model_count; i++) {
        const struct followed_model *m = &state->models[i];
        struct telemetry_view view = { 0 };
        (void)telemetry_view(state->telemetry, m->model->name, now_ms, &view);
        const struct health_input input = { .provider = probe_of(state, m->provider, m->provider->name, now_ms),
                                            .model = probe_of(state, m->provider, m->model->name, now_ms),
                                            .recent = view.recent,
                                            .recent_failures = view.recent_failures,
                                            .previous = &state->verdicts[i] };
        health_judge(&input, now_ms, &verdicts[i]);
    }
    return health_settle(verdicts, state->verdicts, state->model_count, now_ms);
}

static enum err decide_health(struct evidence_state *state, struct arena *arena, int64_t now_ms)
{
    struct health_verdict *verdicts = ARENA_ARRAY(arena, (size_t)state->model_count + 1, struct health_verdict);
    if (!verdicts)
        return ERR_NOMEM;
    state->doubted = evidence_judge(state, now_ms, verdicts);
    if (state->model_count > 0)
        memcpy(state->verdicts, verdicts, state->model_count * sizeof *verdicts);
    return OK;
}

/* ---- models ---- */

void evidence_price_of(const struct evidence_state *state, const struct model *model, int64_t now_ms,
                       struct price *ret_price, enum price_source *ret_source, bool *ret_stale)
{
    *ret_stale = false;
    if (model->price_source != PRICE_SOURCE_POLICY && model->identity.len > 0 &&
        prices_find(state->prices, model->identity, now_ms, ret_price, ret_source, ret_stale) &&
        (ret_price->known & model->price.known & (PRICE_INPUT | PRICE_OUTPUT)) ==
            (model->price.known &
             (PRICE_INPUT | PRICE_OUTPUT))) /* what the policy was compiled with must not get lost */
        return;
    *ret_price = model->price;
    *ret_source = PRICE_SOURCE_NONE;
    *ret_stale = false;
}

static bool fill_model(const struct evidence_state *state, struct arena *arena, const struct followed_model *m,
                       int64_t now_ms, struct model_evidence *e)
{
    const struct health_verdict *verdict = evidence_verdict(state, m);
    struct telemetry_view view = { 0 };
    e->name = arena_dup(arena, m->model->name);
    e->health = verdict->health;
    e->health_why = arena_dup(arena, span_cstr(verdict->why));
    e->health_since_ms = verdict->since_ms;
    evidence_price_of(state, m->model, now_ms, &e->price, &e->price_source, &e->price_stale);
    if (e->price_source == PRICE_SOURCE_NONE)
        e->price = (struct price){ 0 };
    if (telemetry_view(state->telemetry, m->model->name, now_ms, &view)) {
        e->samples = view.samples;
        e->ttft_ewma_us = view.ttft_ewma_us;
        e->ttft_p95_us = view.ttft_p95_us;
        e->token_gap_us = view.token_gap_us;
        e->errors_ppm = view.errors_ppm;
    }
    return e->name.ptr && e->health_why.ptr;
}

/* ---- weights ---- */

static struct weights_member member_of(const struct evidence_state *state, const struct artifact *a,
                                       const struct route *route, const struct tier_member *member, int64_t now_ms)
{
    const struct model *model = &a->models[member->model];
    const struct followed_model *m = evidence_model(state, model->name);
    struct telemetry_view view = { .remaining_ppm = 1000001 };
    enum price_source source;
    struct price price;
    bool stale;
    REQUIRE(m);
    evidence_price_of(state, model, now_ms, &price, &source, &stale);
    (void)telemetry_view(state->telemetry, model->name, now_ms, &view);
    return (struct weights_member){
        .cost_nano = prior_cost(&price, a->providers[model->provider].discount_ppm, route->mix_input_tokens,
                                route->mix_output_tokens),
        .down = evidence_verdict(state, m)->health == HEALTH_DOWN || evidence_withdrawn(state, m, now_ms),
        .samples = view.samples,
        .age_ms = now_ms - view.heard_at_ms,
        .ttft_ewma_us = view.ttft_ewma_us,
        .ttft_p95_us = view.ttft_p95_us,
        .token_gap_us = view.token_gap_us,
        .errors_ppm = view.errors_ppm,
        .remaining_ppm = view.remaining_ppm,
    };
}

static void decide_tier(struct evidence_state *state, const struct artifact *a, struct followed_tier *t, int64_t now_ms)
{
    struct weights_member members[TIER_MEMBERS_MAX];
    struct weights_outcome outcome[TIER_MEMBERS_MAX];
    const struct tier *tier = &t->route->tiers[t->tier];
    for (uint32_t i = 0; i < tier->member_count; i++) {
        members[i] = member_of(state, a, t->route, &tier->members[i], now_ms);
        members[i].was = t->last[i].excluded;
    }
    weights_decide(tier, members, tier->member_count, t->weights_ppm, outcome);
    t->frozen = evidence_override(state, OVERRIDE_FREEZE, t->route->name, now_ms) != NULL;
    for (uint32_t i = 0; i < tier->member_count; i++) {
        if (t->frozen)
            outcome[i].weight_ppm = t->weights_ppm[i];
        t->weights_ppm[i] = outcome[i].weight_ppm;
        t->last[i] = outcome[i];
    }
}

static enum err decide_weights(struct evidence_state *state, struct arena *arena, int64_t now_ms, struct evidence *e)
{
    size_t count = 0;
    for (uint32_t i = 0; i < state->followed_count; i++)
        count += state->followed[i]->tier_count;
    e->weights = ARENA_ARRAY(arena, count + 1, struct tier_weights);
    if (!e->weights)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < state->followed_count; i++) {
        struct followed *f = state->followed[i];
        for (uint32_t k = 0; k < f->tier_count; k++) {
            struct followed_tier *t = &f->tiers[k];
            uint32_t members = t->route->tiers[t->tier].member_count;
            decide_tier(state, f->artifact, t, now_ms);
            struct tier_weights *w = &e->weights[e->weight_count++];
            *w = (struct tier_weights){ .artifact = f->hash, .tier = t->tier, .frozen = t->frozen, .count = members };
            w->route = arena_dup(arena, t->route->name);
            w->weights_ppm = ARENA_ARRAY(arena, members, uint32_t);
            if (!w->route.ptr || !w->weights_ppm)
                return ERR_NOMEM;
            memcpy(w->weights_ppm, t->weights_ppm, members * sizeof *w->weights_ppm);
        }
    }
    return OK;
}

enum err evidence_decide(struct evidence_state *state, struct arena *arena, int64_t now_ms, uint32_t lifetime_ms,
                         struct evidence **ret)
{
    state->now_ms = now_ms;
    telemetry_age(state->telemetry, now_ms);
    struct evidence *e = ARENA_NEW(arena, struct evidence);
    enum err err = e ? decide_health(state, arena, now_ms) : ERR_NOMEM;
    if (err)
        return err;
    e->made_at_ms = now_ms;
    e->expires_at_ms = now_ms + lifetime_ms;
    e->book_version = prices_version(state->prices);
    e->models = ARENA_ARRAY(arena, (size_t)state->model_count + 1, struct model_evidence);
    if (!e->models)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < state->model_count; i++) {
        if (!fill_model(state, arena, &state->models[i], now_ms, &e->models[e->model_count++]))
            return ERR_NOMEM;
    }
    err = decide_weights(state, arena, now_ms, e);
    if (err)
        return err;
    state->significant = false;
    *ret = e;
    return OK;
}
