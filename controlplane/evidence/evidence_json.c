#include "controlplane/evidence/evidence.h"
#include "controlplane/evidence/evidence_internal.h"

static const char *health_name(enum health health)
{
    static const char *const names[] = { "unknown", "up", "down" };
    return names[health];
}

static const char *how_name(enum probe_how how)
{
    static const char *const names[] = { "models", "connect", "completion", "none" };
    return names[how];
}

static const char *override_name(enum override_kind kind)
{
    static const char *const names[] = { "drain", "block", "freeze" };
    return names[kind];
}

static void put_double(struct json_writer *w, const char *key, double value)
{
    json_key(w, span_cstr(key));
    json_put_double(w, value);
}

static void put_override(struct json_writer *w, const struct override *o)
{
    json_key(w, SPAN("override"));
    if (!o) {
        json_put_null(w);
        return;
    }
    json_object_open(w);
    json_member_cstr(w, "kind", override_name(o->kind));
    json_member_string(w, "reason", o->reason);
    json_member_string(w, "by", o->by);
    json_member_i64(w, "expires_at_ms", o->expires_at_ms);
    json_object_close(w);
}

/* ---- providers ---- */

static void put_model(const struct evidence_state *state, const struct followed_model *m, int64_t now_ms,
                      struct json_writer *w)
{
    const struct health_verdict *verdict = evidence_verdict(state, m);
    struct telemetry_view view = { .remaining_ppm = 1000001 };
    (void)telemetry_view(state->telemetry, m->model->name, now_ms, &view);
    json_object_open(w);
    json_member_string(w, "name", m->model->name);
    json_member_cstr(w, "health", health_name(verdict->health));
    json_member_cstr(w, "why", verdict->why);
    json_member_i64(w, "since_ms", verdict->since_ms);
    json_member_bool(w, "quarantined", verdict->quarantined);
    json_member_u64(w, "samples", view.samples);
    json_member_u64(w, "ttft_ewma_us", view.ttft_ewma_us);
    json_member_u64(w, "ttft_p95_us", view.ttft_p95_us);
    json_member_u64(w, "token_gap_us", view.token_gap_us);
    json_member_u64(w, "errors_ppm", view.errors_ppm);
    json_key(w, SPAN("remaining_ppm"));
    if (view.remaining_ppm > 1000000)
        json_put_null(w);
    else
        json_put_u64(w, view.remaining_ppm);
    json_member_u64(w, "breakers_open", view.breakers_open);
    put_override(w, evidence_withdrawn(state, m, now_ms));
    json_object_close(w);
}

static void put_probe(const struct evidence_state *state, const struct provider *p, int64_t now_ms,
                      struct json_writer *w)
{
    const struct probe_state *probe = probes_find(state->probes, p->name);
    bool fresh = p->probe != PROBE_HOW_NONE && evidence_probe_fresh(p, probe, now_ms);
    enum health health = !fresh ? HEALTH_UNKNOWN : probe->fail_streak >= HEALTH_DOWN_AFTER ? HEALTH_DOWN : HEALTH_UP;
    json_member_cstr(w, "health", health_name(health));
    json_member_cstr(w, "why", fresh ? probe->why : "");
    json_member_i64(w, "since_ms", fresh ? probe->since_ms : 0);
    json_key(w, SPAN("probe"));
    json_object_open(w);
    json_member_cstr(w, "how", how_name(p->probe));
    json_member_u64(w, "every_ms", p->probe_every_ms);
    json_member_i64(w, "at_ms", probe ? probe->at_ms : 0);
    json_member_u64(w, "ok_streak", probe ? probe->ok_streak : 0);
    json_member_u64(w, "fail_streak", probe ? probe->fail_streak : 0);
    json_member_u64(w, "latency_us", probe ? probe->latency_us : 0);
    json_member_bool(w, "stale", probe && !fresh);
    json_member_i64(w, "certificate_expires_at_ms", probe ? probe->certificate_expires_at_ms : 0);
    json_object_close(w);
}

static bool named_before(const struct evidence_state *state, uint32_t artifact, struct span name)
{
    for (uint32_t i = 0; i < artifact; i++) {
        const struct artifact *a = state->followed[i]->artifact;
        for (uint32_t k = 0; k < a->provider_count; k++) {
            if (span_eq(a->providers[k].name, name))
                return true;
        }
    }
    return false;
}

static void put_provider(const struct evidence_state *state, const struct provider *p, int64_t now_ms,
                         struct json_writer *w)
{
    const struct override *o = evidence_override(state, OVERRIDE_DRAIN, p->name, now_ms);
    json_object_open(w);
    json_member_string(w, "name", p->name);
    json_member_string(w, "base_url", p->base_url);
    put_probe(state, p, now_ms, w);
    put_override(w, o ? o : evidence_override(state, OVERRIDE_BLOCK, p->name, now_ms));
    json_key(w, SPAN("models"));
    json_array_open(w);
    for (uint32_t i = 0; i < state->model_count; i++) {
        if (span_eq(state->models[i].provider->name, p->name))
            put_model(state, &state->models[i], now_ms, w);
    }
    json_array_close(w);
    json_object_close(w);
}

void evidence_json_providers(const struct evidence_state *state, int64_t now_ms, struct json_writer *w)
{
    json_array_open(w);
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct artifact *a = state->followed[i]->artifact;
        for (uint32_t k = 0; k < a->provider_count; k++) {
            if (!named_before(state, i, a->providers[k].name))
                put_provider(state, &a->providers[k], now_ms, w);
        }
    }
    json_array_close(w);
}

void evidence_json_models(const struct evidence_state *state, int64_t now_ms, struct json_writer *w)
{
    const struct policy_book *book = prices_book(state->prices);
    json_array_open(w);
    for (uint32_t i = 0; i < state->model_count; i++) {
        const struct followed_model *m = &state->models[i];
        const bool own = m->model->price_source == PRICE_SOURCE_POLICY || span_empty(m->model->identity);
        const struct catalog_entry *entry =
            span_empty(m->model->identity) ? NULL : book->find(book->user, m->model->identity);
        enum price_source source = PRICE_SOURCE_NONE;
        struct price price;
        bool stale = false;
        if (!own)
            evidence_price_of(state, m->model, now_ms, &price, &source, &stale);
        json_object_open(w);
        json_member_string(w, "name", m->model->name);
        json_member_string(w, "identity", m->model->identity);
        json_member_bool(w, "priced", own || source != PRICE_SOURCE_NONE);
        json_member_bool(w, "stale", stale);
        json_member_bool(w, "disputed", m->price_disputed);
        json_member_string(w, "deprecated_on", entry ? entry->deprecated_on : SPAN(""));
        json_object_close(w);
    }
    json_array_close(w);
}

/* ---- weights ---- */

static const char *prefer_name(enum prefer prefer)
{
    static const char *const names[] = { "weights", "cheapest", "fastest", "balanced" };
    return names[prefer];
}

static void put_member(const struct evidence_state *state, const struct followed *f, const struct tier_member *member,
                       uint32_t current, const struct weights_outcome *o, struct json_writer *w)
{
    json_object_open(w);
    json_member_string(w, "model", f->artifact->models[member->model].name);
    json_member_u64(w, "policy_ppm", member->weight_ppm);
    json_member_u64(w, "weight_ppm", current);
    if (o) {
        json_member_u64(w, "target_ppm", o->target_ppm);
        json_member_cstr(w, "excluded", evidence_excluded(state, f, member, o));
        put_double(w, "score", o->score);
        json_key(w, SPAN("terms"));
        json_object_open(w);
        for (unsigned k = 0; k < WEIGHTS_OBJECTIVES; k++)
            put_double(w, weights_objective_name((enum weights_objective)k), o->penalty[k]);
        json_object_close(w);
    }
    json_object_close(w);
}

/* t: what we follow of it; NULL for hand-set weights. */
static void put_tier(const struct evidence_state *state, const struct followed *f, const struct route *route,
                     uint32_t index, const struct followed_tier *t, struct json_writer *w)
{
    const struct tier *tier = &route->tiers[index];
    json_object_open(w);
    json_member_u64(w, "policy_version", f->artifact->policy_version);
    json_member_string(w, "route", route->name);
    json_member_u64(w, "tier", index + 1);
    json_member_cstr(w, "prefer", prefer_name(tier->prefer));
    json_member_bool(w, "frozen", t && (t->frozen || t->held));
    json_key(w, SPAN("members"));
    json_array_open(w);
    for (uint32_t i = 0; i < tier->member_count; i++)
        put_member(state, f, &tier->members[i], t ? t->weights_ppm[i] : tier->members[i].weight_ppm,
                   t ? &t->last[i] : NULL, w);
    json_array_close(w);
    json_object_close(w);
}

void evidence_json_weights(const struct evidence_state *state, struct json_writer *w)
{
    json_array_open(w);
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct followed *f = state->followed[i];
        const struct artifact *a = f->artifact;
        uint32_t next = 0; /* followed tiers stand in the same order */
        for (uint32_t r = 0; r < a->route_count; r++) {
            for (uint32_t t = 0; t < a->routes[r].tier_count; t++) {
                bool scored = a->routes[r].tiers[t].prefer != PREFER_WEIGHTS;
                put_tier(state, f, &a->routes[r], t, scored ? &f->tiers[next++] : NULL, w);
            }
        }
    }
    json_array_close(w);
}

/* ---- prices, summary ---- */

void evidence_json_prices(const struct evidence_state *state, struct span pattern, bool unmapped_only,
                          struct json_writer *w)
{
    prices_json(state->prices, pattern, unmapped_only, state->now_ms, w);
}

void evidence_json_summary(const struct evidence_state *state, int64_t now_ms, struct json_writer *w)
{
    uint32_t up = 0;
    json_object_open(w);
    json_key(w, SPAN("prices"));
    json_object_open(w);
    prices_json_summary(state->prices, now_ms, w);
    json_object_close(w);
    json_member_u64(w, "models", state->model_count);
    json_key(w, SPAN("models_down"));
    json_array_open(w);
    for (uint32_t i = 0; i < state->model_count; i++) {
        up += state->verdicts[i].health == HEALTH_UP;
        if (state->verdicts[i].health == HEALTH_DOWN)
            json_put_string(w, state->models[i].model->name);
    }
    json_array_close(w);
    json_member_u64(w, "models_up", up);
    json_member_u64(w, "health_quarantined", state->doubted);
    json_member_u64(w, "nodes_reporting", telemetry_nodes(state->telemetry));
    json_object_close(w);
}
