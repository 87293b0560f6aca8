#include "controlplane/evidence/evidence.h"
#include "controlplane/evidence/evidence_internal.h"

#define PROBE_STALE_ROUNDS 3     /* missed probes after which the last one says nothing any more */
#define PROBE_STALE_MS     30000 /* and this on top, for a slow or restarting prober */

/* ---- overrides ---- */

static bool in_force(const struct override *o, int64_t now_ms)
{
    return o->expires_at_ms == 0 || now_ms < o->expires_at_ms;
}

const struct override *evidence_override(const struct evidence_state *state, enum override_kind kind,
                                         struct span target, int64_t now_ms)
{
    for (uint32_t i = 0; state->head && i < state->head->override_count; i++) {
        const struct override *o = &state->head->overrides[i];
        if (o->kind == kind && span_eq(o->target, target) && in_force(o, now_ms))
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

const char *evidence_excluded(const struct evidence_state *state, const struct followed *f,
                              const struct tier_member *member, const struct weights_outcome *outcome)
{
    const struct followed_model *m = &state->models[f->facts[member->model].model];
    return outcome->excluded == WEIGHTS_DOWN && m->withdrawn ? m->withdrawn : weights_exclusion_name(outcome->excluded);
}

/* ---- health ---- */

bool evidence_probe_fresh(const struct provider *provider, const struct probe_state *probe, int64_t now_ms)
{
    const int64_t bound = (int64_t)provider->probe_every_ms * PROBE_STALE_ROUNDS + PROBE_STALE_MS;
    const int64_t age = probe ? now_ms - probe->at_ms : 0;
    return probe && age <= bound && age >= -bound; /* far in the future: the clock was set back */
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

void evidence_judge_one(const struct evidence_state *state, const struct followed_model *m, int64_t now_ms,
                        struct health_verdict *ret)
{
    const struct telemetry_recent recent = telemetry_recent(state->telemetry, m->model->name, now_ms);
    const struct health_input input = { .provider = probe_of(state, m->provider, m->provider->name, now_ms),
                                        .model = probe_of(state, m->provider, m->model->name, now_ms),
                                        .recent = recent.attempts,
                                        .recent_failures = recent.failures,
                                        .answered_at_ms = recent.answered_at_ms,
                                        .previous = evidence_verdict(state, m) };
    health_judge(&input, now_ms, ret);
}

uint32_t evidence_judge(const struct evidence_state *state, int64_t now_ms, struct health_verdict *verdicts)
{
    for (uint32_t i = 0; i < state->model_count; i++)
        evidence_judge_one(state, &state->models[i], now_ms, &verdicts[i]);
    return health_settle(verdicts, state->verdicts, state->model_count, now_ms);
}

static enum err decide_health(struct evidence_state *state, struct arena *arena, int64_t now_ms)
{
    struct health_verdict *verdicts = ARENA_ARRAY(arena, (size_t)state->model_count + 1, struct health_verdict);
    if (!verdicts)
        return ERR_NOMEM;
    state->doubted = evidence_judge(state, now_ms, verdicts);
    for (uint32_t i = 0; i < state->model_count; i++)
        evidence_tell_health(state, &state->models[i], &state->verdicts[i], &verdicts[i], now_ms);
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

/* Prices travel by the model's name, for all live artifacts. They may map one name to different entries of the book
 * (`is:` was changed): then no price travels, rather than one that is wrong for an arm. */
static void offer_price(struct followed_model *m, const struct price *price, enum price_source source, bool stale,
                        bool first)
{
    if (first) {
        m->price = *price;
        m->price_source = source;
        m->price_stale = stale;
        return;
    }
    m->price_disputed |= m->price_source != source || (source && !prices_equal(&m->price, price));
}

static bool same_member(const struct weights_member *a, const struct weights_member *b)
{
    return a->down == b->down && a->samples == b->samples && a->age_ms == b->age_ms &&
           a->ttft_ewma_us == b->ttft_ewma_us && a->ttft_p95_us == b->ttft_p95_us &&
           a->token_gap_us == b->token_gap_us && a->errors_ppm == b->errors_ppm && a->remaining_ppm == b->remaining_ppm;
}

static void learn_model(struct evidence_state *state, const struct model *model, struct model_facts *facts,
                        bool *priced, int64_t now_ms)
{
    struct followed_model *m = &state->models[facts->model];
    struct price price;
    enum price_source source;
    bool stale;
    const struct weights_member member = {
        .down = evidence_verdict(state, m)->health == HEALTH_DOWN || m->withdrawn,
        .samples = m->view.samples,
        .age_ms = m->view.samples > 0 ? now_ms - m->view.heard_at_ms : 0,
        .ttft_ewma_us = m->view.ttft_ewma_us,
        .ttft_p95_us = m->view.ttft_p95_us,
        .token_gap_us = m->view.token_gap_us,
        .errors_ppm = m->view.errors_ppm,
        .remaining_ppm = m->view.remaining_ppm,
    };
    evidence_price_of(state, model, now_ms, &price, &source, &stale);
    if (model->price_source != PRICE_SOURCE_POLICY) { /* which outranks what would be published */
        offer_price(m, &price, source, stale, !*priced);
        *priced = true;
    }
    facts->stirs = !prices_equal(&facts->price, &price) || !same_member(&facts->member, &member);
    facts->price = price;
    facts->member = member;
}

/* Everything that is looked up by name, once for each model. Needs fresh verdicts. */
static enum err learn_facts(struct evidence_state *state, struct arena *arena, int64_t now_ms)
{
    bool *priced = ARENA_ARRAY(arena, (size_t)state->model_count + 1, bool);
    if (!priced)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < state->model_count; i++) {
        struct followed_model *m = &state->models[i];
        m->view = (struct telemetry_view){ .remaining_ppm = 1000001 };
        (void)telemetry_view(state->telemetry, m->model->name, now_ms, &m->view);
        const struct override *o = evidence_withdrawn(state, m, now_ms);
        m->withdrawn = !o ? NULL : o->kind == OVERRIDE_BLOCK ? "blocked" : "drained";
        m->price_source = PRICE_SOURCE_NONE;
        m->price_disputed = false;
    }
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct followed *f = state->followed[i];
        for (uint32_t k = 0; k < f->artifact->model_count; k++)
            learn_model(state, &f->artifact->models[k], &f->facts[k], &priced[f->facts[k].model], now_ms);
    }
    return OK;
}

static bool fill_model(const struct evidence_state *state, struct arena *arena, const struct followed_model *m,
                       struct model_evidence *e)
{
    const struct health_verdict *verdict = evidence_verdict(state, m);
    e->name = arena_dup(arena, m->model->name);
    e->health = verdict->health;
    e->health_why = arena_dup(arena, span_cstr(verdict->why));
    e->health_since_ms = verdict->since_ms;
    if (m->price_source != PRICE_SOURCE_NONE && !m->price_disputed) {
        e->price = m->price;
        e->price_source = m->price_source;
        e->price_stale = m->price_stale;
    }
    e->samples = m->view.samples;
    e->ttft_ewma_us = m->view.ttft_ewma_us;
    e->ttft_p95_us = m->view.ttft_p95_us;
    e->token_gap_us = m->view.token_gap_us;
    e->errors_ppm = m->view.errors_ppm;
    return e->name.ptr && e->health_why.ptr;
}

/* ---- weights ---- */

static bool any_stirs(const struct followed *f, const struct tier *tier)
{
    for (uint32_t i = 0; i < tier->member_count; i++) {
        if (f->facts[tier->members[i].model].stirs)
            return true;
    }
    return false;
}

static void decide_tier(struct evidence_state *state, const struct followed *f, struct followed_tier *t)
{
    struct weights_member members[TIER_MEMBERS_MAX];
    struct weights_outcome outcome[TIER_MEMBERS_MAX];
    const struct artifact *a = f->artifact;
    const struct tier *tier = &t->route->tiers[t->tier];
    if (t->still && !any_stirs(f, tier)) /* of a hundred thousand routes, few are in use at a time */
        return;
    for (uint32_t i = 0; i < tier->member_count; i++) {
        const struct model_facts *facts = &f->facts[tier->members[i].model];
        members[i] = facts->member;
        members[i].cost_nano =
            prior_cost(&facts->price, a->providers[a->models[tier->members[i].model].provider].discount_ppm,
                       t->route->mix_input_tokens, t->route->mix_output_tokens);
        members[i].was = t->last[i].excluded;
    }
    weights_decide(tier, members, tier->member_count, t->weights_ppm, outcome);
    const bool held = evidence_hold_tier(state, f, t, members, outcome);
    t->still = !t->frozen;
    for (uint32_t i = 0; i < tier->member_count; i++) {
        if (t->frozen && !held)
            outcome[i].weight_ppm = t->weights_ppm[i];
        t->still &= outcome[i].weight_ppm == t->weights_ppm[i] && outcome[i].excluded == t->last[i].excluded;
        t->weights_ppm[i] = outcome[i].weight_ppm;
        t->last[i] = outcome[i];
    }
}

static void find_frozen(struct evidence_state *state, int64_t now_ms)
{
    for (uint32_t i = 0; i < state->followed_count; i++) {
        for (uint32_t k = 0; k < state->followed[i]->tier_count; k++)
            state->followed[i]->tiers[k].frozen = false;
    }
    for (uint32_t o = 0; state->head && o < state->head->override_count; o++) {
        const struct override *freeze = &state->head->overrides[o];
        if (freeze->kind != OVERRIDE_FREEZE || !in_force(freeze, now_ms))
            continue;
        for (uint32_t i = 0; i < state->followed_count * TIERS_MAX; i++) {
            struct followed_tier *t = evidence_tier(state->followed[i / TIERS_MAX], freeze->target, i % TIERS_MAX);
            if (t)
                t->frozen = true;
        }
    }
}

/* Weights that are the policy's own do not travel: a node without others has those. */
static bool is_prior(const struct followed_tier *t)
{
    const struct tier *tier = &t->route->tiers[t->tier];
    for (uint32_t i = 0; i < tier->member_count; i++) {
        if (t->weights_ppm[i] != tier->members[i].weight_ppm)
            return false;
    }
    return true;
}

static bool fill_weights(struct arena *arena, const struct followed *f, const struct followed_tier *t,
                         struct tier_weights *w)
{
    const uint32_t members = t->route->tiers[t->tier].member_count;
    *w =
        (struct tier_weights){ .artifact = f->hash, .tier = t->tier, .frozen = t->frozen || t->held, .count = members };
    w->route = arena_dup(arena, t->route->name);
    w->weights_ppm = ARENA_ARRAY(arena, members, uint32_t);
    if (!w->route.ptr || !w->weights_ppm)
        return false;
    memcpy(w->weights_ppm, t->weights_ppm, members * sizeof *w->weights_ppm);
    return true;
}

static enum err decide_weights(struct evidence_state *state, struct arena *arena, int64_t now_ms, struct evidence *e)
{
    size_t count = 0;
    find_frozen(state, now_ms);
    evidence_hold_begin(state);
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct followed *f = state->followed[i];
        for (uint32_t k = 0; k < f->tier_count; k++) {
            decide_tier(state, f, &f->tiers[k]);
            evidence_tell_weights(state, f, &f->tiers[k], now_ms);
            count += !is_prior(&f->tiers[k]);
        }
    }
    e->weights = ARENA_ARRAY(arena, count + 1, struct tier_weights);
    if (!e->weights)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct followed *f = state->followed[i];
        for (uint32_t k = 0; k < f->tier_count; k++) {
            if (!is_prior(&f->tiers[k]) && !fill_weights(arena, f, &f->tiers[k], &e->weights[e->weight_count++]))
                return ERR_NOMEM;
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
    if (!err)
        err = learn_facts(state, arena, now_ms);
    if (err)
        return err;
    e->made_at_ms = now_ms;
    e->expires_at_ms = now_ms + lifetime_ms;
    e->book_version = prices_version(state->prices);
    e->models = ARENA_ARRAY(arena, (size_t)state->model_count + 1, struct model_evidence);
    if (!e->models)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < state->model_count; i++) {
        if (!fill_model(state, arena, &state->models[i], &e->models[e->model_count++]))
            return ERR_NOMEM;
    }
    err = decide_weights(state, arena, now_ms, e);
    if (err)
        return err;
    state->significant = false;
    *ret = e;
    return OK;
}
