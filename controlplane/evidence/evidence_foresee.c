#include "controlplane/evidence/evidence.h"
#include "controlplane/evidence/evidence_internal.h"

/* What is known of a model that may not be live anywhere: its price at least. */
static struct weights_member member_of(const struct evidence_state *state, const struct artifact *a,
                                       const struct model *model, const struct route *route, int64_t now_ms)
{
    const struct followed_model *m = evidence_model(state, model->name);
    struct weights_member member = { .remaining_ppm = 1000001 };
    struct price price;
    enum price_source source;
    bool stale;
    if (m) {
        member = (struct weights_member){ .down = evidence_verdict(state, m)->health == HEALTH_DOWN || m->withdrawn,
                                          .samples = m->view.samples,
                                          .age_ms = m->view.samples > 0 ? now_ms - m->view.heard_at_ms : 0,
                                          .ttft_ewma_us = m->view.ttft_ewma_us,
                                          .ttft_p95_us = m->view.ttft_p95_us,
                                          .token_gap_us = m->view.token_gap_us,
                                          .errors_ppm = m->view.errors_ppm,
                                          .remaining_ppm = m->view.remaining_ppm };
    }
    evidence_price_of(state, model, now_ms, &price, &source, &stale);
    member.cost_nano = prior_cost(&price, a->providers[model->provider].discount_ppm, route->mix_input_tokens,
                                  route->mix_output_tokens);
    return member;
}

static enum err foresee_tier(const struct evidence_state *state, struct arena *arena, const struct artifact *a,
                             const struct route *route, uint32_t index, int64_t now_ms, struct tier_weights *ret)
{
    const struct tier *tier = &route->tiers[index];
    struct weights_member members[TIER_MEMBERS_MAX];
    struct weights_outcome outcome[TIER_MEMBERS_MAX];
    uint32_t before[TIER_MEMBERS_MAX];
    *ret =
        (struct tier_weights){ .artifact = a->hash, .route = route->name, .tier = index, .count = tier->member_count };
    ret->weights_ppm = ARENA_ARRAY(arena, tier->member_count, uint32_t);
    if (!ret->weights_ppm)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < tier->member_count; i++) {
        members[i] = member_of(state, a, &a->models[tier->members[i].model], route, now_ms);
        before[i] = tier->members[i].weight_ppm;
    }
    weights_decide(tier, members, tier->member_count, before, outcome);
    for (uint32_t i = 0; i < tier->member_count; i++)
        ret->weights_ppm[i] = outcome[i].target_ppm;
    return OK;
}

static bool same_tier(const struct artifact *a, const struct tier *x, const struct artifact *b, const struct tier *y)
{
    bool same = x->prefer == y->prefer && evidence_same_members(a, x, b, y) &&
                memcmp(&x->objectives, &y->objectives, sizeof(x->objectives)) == 0 &&
                x->within.ttft_p95_ms == y->within.ttft_p95_ms && x->within.errors_ppm == y->within.errors_ppm &&
                x->within.cost_nano_max == y->within.cost_nano_max;
    for (uint32_t i = 0; same && i < x->member_count; i++)
        same = x->members[i].weight_ppm == y->members[i].weight_ppm;
    return same;
}

static const struct route *route_named(const struct artifact *a, struct span name)
{
    uint32_t low = 0, high = a->route_count; /* sorted by name */
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const int order = span_cmp(a->routes[middle].name, name);
        if (order == 0)
            return &a->routes[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Where the tier is the same in the live artifact: its weights there; NULL: those of the policy. False: it differs. */
static bool live_weights(const struct artifact *live, const struct artifact *a, const struct route *route,
                         uint32_t tier, const struct evidence *e, const struct tier_weights **ret)
{
    const struct route *there = route_named(live, route->name);
    *ret = NULL;
    if (!there || tier >= there->tier_count || !same_tier(live, &there->tiers[tier], a, &route->tiers[tier]))
        return false;
    for (uint32_t i = 0; i < e->weight_count && !*ret; i++)
        if (e->weights[i].tier == tier && span_eq(e->weights[i].route, route->name) &&
            sha256_eq(&e->weights[i].artifact, &live->hash))
            *ret = &e->weights[i];
    return true;
}

enum err evidence_foresee(const struct evidence_state *state, struct arena *arena, const struct artifact *live,
                          const struct artifact *artifact, int64_t now_ms, struct evidence *evidence)
{
    size_t more = 0;
    if (sha256_eq(&live->hash, &artifact->hash))
        return OK;
    for (uint32_t r = 0; r < artifact->route_count; r++)
        for (uint32_t t = 0; t < artifact->routes[r].tier_count; t++)
            more += artifact->routes[r].tiers[t].prefer != PREFER_WEIGHTS;
    struct tier_weights *all = ARENA_ARRAY(arena, evidence->weight_count + more + 1, struct tier_weights);
    if (!all)
        return ERR_NOMEM;
    uint32_t count = 0;
    for (uint32_t i = 0; i < evidence->weight_count;
         i++) /* in another arm it may be on its way: where it goes, counts */
        if (!sha256_eq(&evidence->weights[i].artifact, &artifact->hash))
            all[count++] = evidence->weights[i];
    for (uint32_t r = 0; r < artifact->route_count; r++) {
        const struct route *route = &artifact->routes[r];
        for (uint32_t t = 0; t < route->tier_count; t++) {
            const struct tier_weights *same;
            enum err err = OK;
            if (route->tiers[t].prefer == PREFER_WEIGHTS)
                continue;
            if (!live_weights(live, artifact, route, t, evidence, &same)) {
                err = foresee_tier(state, arena, artifact, route, t, now_ms, &all[count++]);
            } else if (same) {
                all[count] = *same;
                all[count++].artifact = artifact->hash;
            }
            if (err)
                return err;
        }
    }
    evidence->weights = all;
    evidence->weight_count = count;
    return count > EVIDENCE_WEIGHTS_MAX ? ERR_TOO_MANY : OK;
}
