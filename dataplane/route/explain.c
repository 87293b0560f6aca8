#include "dataplane/route/explain.h"
#include "common/units.h"
#include "dataplane/account/cost.h"
#include "dataplane/account/usage.h"
#include <stdarg.h>

#define LIST_TEXT_BYTES 128u /* of regions or credentials named in one rule */

struct subject { /* one candidate, and all that is asked about it */
    const struct explain_input *in;
    const struct plan_step *step;
    const struct model *model;
    const struct provider *provider;
    const struct model_view *view;
    const struct tier *tier; /* NULL: asked for by name */
    struct select_live live;
};

static struct subject subject_of(const struct explain_input *in, const struct plan_step *step)
{
    const struct select_input *select = in->select;
    const struct artifact *a = select->arm->compiled->artifact;
    struct subject s = { .in = in,
                         .step = step,
                         .model = &a->models[step->model],
                         .view = &select->arm->models[step->model],
                         .tier = select->target.route ? &select->target.route->tiers[step->tier] : NULL };
    s.provider = &a->providers[s.model->provider];
    select->source.live(select->source.user, step->model, &s.live);
    return s;
}

static void say(struct explain_rule *rule, struct span where, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void say(struct explain_rule *rule, struct span where, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start stands above; the analyzer loses it */
    (void)vsnprintf(rule->text, sizeof(rule->text), fmt, args);
    va_end(args);
    rule->where = where;
}

/* "eu, us": cut when it is long. */
static const char *list_text(const struct span_list *list, char out[LIST_TEXT_BYTES])
{
    size_t len = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < list->count && len < LIST_TEXT_BYTES; i++) {
        const int n =
            snprintf(out + len, LIST_TEXT_BYTES - len, "%s" SPAN_FMT, i ? ", " : "", SPAN_ARG(list->items[i]));
        len += n > 0 ? (size_t)n : 0;
    }
    return out;
}

static const char *endpoint_text(enum endpoint endpoint)
{
    switch (endpoint) {
    case ENDPOINT_CHAT:
        return "chat";
    case ENDPOINT_COMPLETIONS:
        return "completions";
    case ENDPOINT_EMBEDDINGS:
        return "embeddings";
    case ENDPOINT_NONE:
    case ENDPOINT_MODELS:
    case ENDPOINT_MODEL:
    case ENDPOINT_FEEDBACK:
        break;
    }
    return "none";
}

/* ---- rules ---- */

static void say_capability(const struct subject *s, const char *asked, const char *field, struct explain_rule *ret)
{
    say(ret, s->model->where, "the request %s; the model is not known to take it (capabilities: %s)", asked, field);
}

static void say_data(const struct subject *s, struct explain_rule *ret)
{
    const struct select_input *in = s->in->select;
    const struct data_facts *facts = &s->provider->data;
    const bool by_team = select_judge_data(in->team_require, facts) == s->step->reason;
    const struct requirement *need = by_team ? in->team_require : in->target.route ? &in->target.route->require : NULL;
    char wanted[LIST_TEXT_BYTES], has[LIST_TEXT_BYTES];
    if (!need)
        return;
    const char *who = by_team ? "the team" : "the route";
    if (s->step->reason == PLAN_REGION)
        say(ret, need->where, "%s requires region %s; " SPAN_FMT " is in %s", who, list_text(&need->regions, wanted),
            SPAN_ARG(s->provider->name), facts->regions.count ? list_text(&facts->regions, has) : "none that is known");
    else if (s->step->reason == PLAN_TRAINING)
        say(ret, need->where, "%s requires no training on its data; " SPAN_FMT " %s", who, SPAN_ARG(s->provider->name),
            facts->trains_known ? "trains" : "does not say");
    else if (facts->retention_known)
        say(ret, need->where, "%s allows data to be kept for %u days; " SPAN_FMT " keeps it for %u", who,
            need->max_retention_days, SPAN_ARG(s->provider->name), facts->retention_days);
    else
        say(ret, need->where, "%s allows data to be kept for %u days; how long " SPAN_FMT " keeps it is not known", who,
            need->max_retention_days, SPAN_ARG(s->provider->name));
}

/* The override that holds, of those that do the one that ends last. */
static const struct override *override_of(const struct subject *s, enum override_kind kind)
{
    const struct head *head = s->in->table->head;
    const struct override *found = NULL;
    for (uint32_t i = 0; i < head->override_count; i++) {
        const struct override *o = &head->overrides[i];
        if (o->kind != kind || (o->expires_at_ms && s->in->select->wall_ms >= o->expires_at_ms) ||
            !(span_eq(o->target, s->model->name) || span_eq(o->target, s->provider->name)))
            continue;
        if (!found || o->expires_at_ms == 0 || (found->expires_at_ms && o->expires_at_ms > found->expires_at_ms))
            found = o;
    }
    return found;
}

static void say_override(const struct subject *s, enum override_kind kind, struct explain_rule *ret)
{
    const struct override *o = override_of(s, kind);
    const char *word = kind == OVERRIDE_DRAIN ? "drained" : "blocked";
    char left[UNITS_TEXT_BYTES];
    if (!o) {
        say(ret, SPAN(""), "%s by an operator", word);
        return;
    }
    const int64_t ms = o->expires_at_ms ? o->expires_at_ms - s->in->select->wall_ms : 0;
    say(ret, SPAN(""), SPAN_FMT " is %s by " SPAN_FMT "%s" SPAN_FMT ", %s%s", SPAN_ARG(o->target), word,
        SPAN_ARG(o->by), span_empty(o->reason) ? "" : ": ", SPAN_ARG(span_head(o->reason, 200)),
        ms > 0 ? "for another " : "until it is lifted",
        ms > 0 ? units_format_duration(((uint64_t)ms + 999) / 1000 * 1000, left) : "");
}

static const struct model_evidence *evidence_of(const struct subject *s)
{
    const struct evidence *e = s->in->table->evidence;
    for (uint32_t i = 0; e && i < e->model_count; i++)
        if (span_eq(e->models[i].name, s->model->name))
            return &e->models[i];
    return NULL;
}

static void say_down(const struct subject *s, struct explain_rule *ret)
{
    const struct model_evidence *e = evidence_of(s);
    char since[UNITS_TEXT_BYTES];
    const int64_t ms = e && e->health_since_ms ? s->in->select->wall_ms - e->health_since_ms : -1;
    say(ret, SPAN(""), "the control plane found it down%s%s%s" SPAN_FMT, ms >= 0 ? " for " : "",
        ms >= 0 ? units_format_duration((uint64_t)ms / 1000 * 1000, since) : "", e && e->health_why.len ? ": " : "",
        SPAN_ARG(e ? e->health_why : SPAN("")));
}

static void say_ejected(const struct subject *s, struct explain_rule *ret)
{
    const uint64_t now = s->in->select->now_ms, until = breaker_until_ms(s->live.breaker);
    char left[UNITS_TEXT_BYTES];
    if (breaker_state(s->live.breaker, now) == BREAKER_OPEN)
        say(ret, SPAN(""), "its breaker on this node is open for another %s, ejection %u in a row",
            units_format_duration((until - now + 999) / 1000 * 1000, left), breaker_ejections(s->live.breaker));
    else if (s->live.cool_until_ms > now)
        say(ret, SPAN(""), "it asked to be left alone (Retry-After) for another %s",
            units_format_duration((s->live.cool_until_ms - now + 999) / 1000 * 1000, left));
    else
        say(ret, SPAN(""), "it failed too often on this node; that has just ended");
}

static void say_bounds(const struct subject *s, struct explain_rule *ret)
{
    const struct route *route = s->in->select->target.route;
    const struct bounds *b = s->tier ? &s->tier->within : NULL;
    const struct model_view *v = s->view;
    char is[UNITS_TEXT_BYTES], most[UNITS_TEXT_BYTES];
    if (!b || !route)
        return;
    if (b->ttft_p95_ms > 0 && v->samples > 0 && v->ttft_p95_us / 1000 > b->ttft_p95_ms) {
        say(ret, b->where, "the tier wants ttft_p95 within %s; it is %s", units_format_duration(b->ttft_p95_ms, most),
            units_format_duration(v->ttft_p95_us / 1000, is));
    } else if (b->errors_ppm > 0 && v->samples > 0 && v->errors_ppm > b->errors_ppm) {
        say(ret, b->where, "the tier wants errors within %.2f%%; they are %.2f%%", b->errors_ppm / 1e4,
            v->errors_ppm / 1e4);
    } else {
        const struct usage mix = { .known = true,
                                   .input = route->mix_input_tokens,
                                   .output = route->mix_output_tokens };
        say(ret, b->where, "the tier wants a usual request within $%s; it costs $%s",
            units_format_usd(b->cost_nano_max, most), units_format_usd(cost_of(v->price, 0, &mix).list_nano, is));
    }
}

static void say_too_dear(const struct subject *s, struct explain_rule *ret)
{
    const struct route *route = s->in->select->target.route;
    char estimate[UNITS_TEXT_BYTES], most[UNITS_TEXT_BYTES];
    if (route)
        say(ret, route->max_cost_where, "the route allows $%s (max_cost_usd); the estimate is $%s",
            units_format_usd(route->max_cost_nano, most), units_format_usd(s->step->estimate_nano, estimate));
}

static void say_credential(const struct subject *s, struct explain_rule *ret)
{
    char names[LIST_TEXT_BYTES];
    if (s->provider->credentials.count == 0)
        say(ret, s->provider->where, "provider " SPAN_FMT " names no credential", SPAN_ARG(s->provider->name));
    else
        say(ret, s->provider->where, "this node has no secret for %s%s",
            s->provider->credentials.count > 1 ? "any of " : "", list_text(&s->provider->credentials, names));
}

void explain_rule(const struct explain_input *in, const struct plan_step *step, struct explain_rule *ret)
{
    const struct subject s = subject_of(in, step);
    const struct ask *ask = in->select->ask;
    const struct route *route = in->select->target.route;
    *ret = (struct explain_rule){ .where = SPAN("") };
    switch (step->reason) {
    case PLAN_NO_ENDPOINT:
        say_capability(&s, "is one of another endpoint", endpoint_text(ask->endpoint), ret);
        break;
    case PLAN_NO_STREAM:
        say_capability(&s, "asks for a stream", "stream", ret);
        break;
    case PLAN_NO_TOOLS:
        say_capability(&s, "has tools", "tools", ret);
        break;
    case PLAN_NO_IMAGES:
        say_capability(&s, "has images", "images", ret);
        break;
    case PLAN_NO_AUDIO:
        say_capability(&s, "has audio", "audio", ret);
        break;
    case PLAN_NO_JSON:
        say_capability(&s, "has a response_format", "json", ret);
        break;
    case PLAN_REGION:
    case PLAN_RETENTION:
    case PLAN_TRAINING:
        say_data(&s, ret);
        break;
    case PLAN_TOO_LONG:
        say(ret, s.model->where, "its context is %llu tokens; this needs %llu in and %llu out",
            (unsigned long long)s.model->context_tokens, (unsigned long long)usage_tokens_of_bytes(ask->input_bytes),
            (unsigned long long)ask->max_output_tokens);
        break;
    case PLAN_TOO_DEAR:
        say_too_dear(&s, ret);
        break;
    case PLAN_BLOCKED:
        say_override(&s, OVERRIDE_BLOCK, ret);
        break;
    case PLAN_DRAINED:
        say_override(&s, OVERRIDE_DRAIN, ret);
        break;
    case PLAN_NO_CREDENTIAL:
        say_credential(&s, ret);
        break;
    case PLAN_TRIED:
        say(ret, SPAN(""), "it stands among the attempts already");
        break;
    case PLAN_DOWN:
        say_down(&s, ret);
        break;
    case PLAN_EJECTED:
        say_ejected(&s, ret);
        break;
    case PLAN_PROBED:
        say(ret, SPAN(""), "after failures one request at a time tries it again, and one does now");
        break;
    case PLAN_OUT_OF_BOUNDS:
        say_bounds(&s, ret);
        break;
    case PLAN_BEYOND:
        if (route)
            say(ret, route->where, "the route allows %u attempts", route->attempts);
        break;
    case PLAN_LEAST_BAD:
        say(ret, SPAN(""), "every other candidate is excluded for good, or worse");
        break;
    case PLAN_NONE:
    case PLAN_DIRECT:
    case PLAN_ONLY:
    case PLAN_WEIGHT:
    case PLAN_LESS_LOADED:
    case PLAN_CHEAPEST:
    case PLAN_FASTEST:
    case PLAN_NEXT:
    case PLAN_NEXT_TIER:
    case PLAN_REASONS:
        break;
    }
}

/* ---- everything ---- */

static void put_nano(struct json_writer *w, const char *key, int64_t nano)
{
    json_member_i64(w, key, nano);
}

static void put_price(struct json_writer *w, const struct subject *s)
{
    static const char *const sources[] = { "none", "policy", "set", "feed", "book" };
    const struct price *price = s->view->price;
    json_key(w, SPAN("price"));
    json_object_open(w);
    json_member_cstr(w, "source", sources[s->view->price_source]);
    json_member_bool(w, "stale", s->view->price_stale || !s->in->select->evidence_valid);
    put_nano(w, "input_nano_per_million", price->input);
    put_nano(w, "output_nano_per_million", price->output);
    put_nano(w, "request_nano", price->request);
    json_object_close(w);
}

static void put_breaker(struct json_writer *w, const struct subject *s)
{
    const uint64_t now = s->in->select->now_ms, until = breaker_until_ms(s->live.breaker);
    json_key(w, SPAN("breaker"));
    json_object_open(w);
    json_member_cstr(w, "state", breaker_state_name(breaker_state(s->live.breaker, now)));
    json_member_u64(w, "ejections", breaker_ejections(s->live.breaker));
    json_member_u64(w, "ends_in_ms", until > now ? until - now : 0);
    json_object_close(w);
}

static void put_health(struct json_writer *w, const struct subject *s)
{
    static const char *const names[] = { "unknown", "up", "down" };
    const struct model_evidence *e = evidence_of(s);
    json_key(w, SPAN("health"));
    json_object_open(w);
    json_member_cstr(w, "state", names[s->in->select->evidence_valid ? s->view->health : HEALTH_UNKNOWN]);
    json_member_i64(w, "since_ms", s->view->health_since_ms);
    json_member_string(w, "why", e ? e->health_why : SPAN(""));
    json_object_close(w);
}

static void put_override(struct json_writer *w, const struct subject *s)
{
    static const char *const kinds[] = { "drain", "block", "freeze" };
    const struct override *block = override_of(s, OVERRIDE_BLOCK);
    const struct override *o = block ? block : override_of(s, OVERRIDE_DRAIN);
    json_key(w, SPAN("override"));
    if (!o) {
        json_put_null(w);
        return;
    }
    json_object_open(w);
    json_member_cstr(w, "kind", kinds[o->kind]);
    json_member_string(w, "target", o->target);
    json_member_string(w, "reason", o->reason);
    json_member_string(w, "by", o->by);
    json_member_i64(w, "set_at_ms", o->set_at_ms);
    json_member_i64(w, "expires_at_ms", o->expires_at_ms);
    json_object_close(w);
}

/* What select drew by, and whether evidence or the policy gave it. */
static uint32_t weight_of(const struct explain_input *in, const struct plan_step *step, uint32_t member,
                          bool *ret_evidence)
{
    const struct route *route = in->select->target.route;
    const uint32_t *weights = NULL;
    *ret_evidence = false;
    if (!route)
        return 1000000;
    if (in->select->evidence_valid)
        weights = table_weights(in->select->arm, table_route_index(in->select->arm, route), step->tier);
    *ret_evidence = weights != NULL;
    return weights ? weights[member] : route->tiers[step->tier].members[member].weight_ppm;
}

/* Its place among the attempts, from 1; 0: none. */
static uint32_t place_of_step(const struct plan *plan, const struct plan_step *step)
{
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan_reason_included(step->reason) && plan->steps[i].model == step->model)
            return i + 1;
    return 0;
}

static void put_chance(struct json_writer *w, const struct explain_input *in, uint32_t at, uint32_t place)
{
    json_key(w, SPAN("first_ppm"));
    if (in->first_ppb)
        json_put_u64(w, (in->first_ppb[at] + 500) / 1000);
    else if (place == 1)
        json_put_u64(w, (in->plan->propensity_ppb + 500) / 1000);
    else
        json_put_null(w);
}

static void put_candidate(struct json_writer *w, const struct explain_input *in, uint32_t at, uint32_t member)
{
    const struct plan_step *step = &in->plan->all[at];
    const struct subject s = subject_of(in, step);
    struct explain_rule rule;
    bool from_evidence;
    const uint32_t weight = weight_of(in, step, member, &from_evidence), place = place_of_step(in->plan, step);
    explain_rule(in, step, &rule);
    json_object_open(w);
    json_member_string(w, "model", s.model->name);
    json_member_string(w, "where", s.model->where);
    json_key(w, SPAN("attempt"));
    if (place)
        json_put_u64(w, place);
    else
        json_put_null(w);
    json_member_bool(w, "excluded", !plan_reason_included(step->reason) && step->reason != PLAN_BEYOND);
    json_member_cstr(w, "reason", plan_reason_name(step->reason));
    json_member_cstr(w, "because", plan_reason_text(step->reason));
    json_member_cstr(w, "rule", rule.text);
    json_member_string(w, "rule_where", rule.where);
    json_member_u64(w, "weight_ppm", weight);
    json_member_cstr(w, "weight_from", from_evidence ? "evidence" : in->select->target.route ? "policy" : "none");
    put_chance(w, in, at, place);
    put_nano(w, "estimate_nano", step->estimate_nano);
    put_price(w, &s);
    json_member_u64(w, "ttft_ewma_us", s.view->ttft_ewma_us);
    json_member_u64(w, "ttft_p95_us", s.view->ttft_p95_us);
    json_member_u64(w, "ttft_node_us", s.live.ttft_us);
    json_member_u64(w, "ttft_us", s.live.ttft_us ? s.live.ttft_us : s.view->ttft_ewma_us); /* that load goes by */
    json_member_u64(w, "errors_ppm", s.view->errors_ppm);
    json_member_u64(w, "samples", s.view->samples);
    json_member_u64(w, "outstanding", s.live.outstanding);
    put_health(w, &s);
    put_breaker(w, &s);
    put_override(w, &s);
    json_object_close(w);
}

static void put_tiers(struct json_writer *w, const struct explain_input *in)
{
    static const char *const prefers[] = { "weights", "cheapest", "fastest", "balanced" };
    const struct route *route = in->select->target.route;
    json_key(w, SPAN("tiers"));
    json_array_open(w);
    for (uint32_t t = 0, at = 0; t < (route ? route->tier_count : 1); t++) {
        const struct tier *tier = route ? &route->tiers[t] : NULL;
        json_object_open(w);
        json_member_u64(w, "tier", t + 1);
        json_member_cstr(w, "prefer", tier ? prefers[tier->prefer] : "name");
        json_member_string(w, "where", tier ? tier->where : SPAN(""));
        json_key(w, SPAN("candidates"));
        json_array_open(w);
        for (uint32_t m = 0; m < (tier ? tier->member_count : 1) && at < in->plan->all_count; m++, at++)
            put_candidate(w, in, at, m);
        json_array_close(w);
        json_object_close(w);
    }
    json_array_close(w);
}

static void put_attempts(struct json_writer *w, const struct explain_input *in)
{
    const struct artifact *a = in->select->arm->compiled->artifact;
    json_key(w, SPAN("attempts"));
    json_array_open(w);
    for (uint32_t i = 0; i < in->plan->count; i++) {
        const struct plan_step *step = &in->plan->steps[i];
        json_object_open(w);
        json_member_string(w, "model", a->models[step->model].name);
        json_member_u64(w, "tier", step->tier + 1);
        json_member_cstr(w, "reason", plan_reason_name(step->reason));
        json_member_cstr(w, "because", plan_reason_text(step->reason));
        json_object_close(w);
    }
    json_array_close(w);
}

void explain_members(struct json_writer *w, const struct explain_input *in)
{
    const struct select_input *select = in->select;
    const struct route *route = select->target.route;
    const struct evidence *e = in->table->evidence;
    json_member_string(w, "route", route ? route->name : SPAN(""));
    json_member_string(w, "model", route ? SPAN("") : select->target.model->name);
    json_member_string(w, "where", route ? route->where : select->target.model->where);
    json_member_u64(w, "attempts_max", route ? route->attempts : 1);
    put_nano(w, "max_cost_nano", route ? route->max_cost_nano : 0);
    json_key(w, SPAN("evidence"));
    json_object_open(w);
    json_member_u64(w, "seq", e ? e->seq : 0);
    json_member_i64(w, "made_at_ms", e ? e->made_at_ms : 0);
    json_member_bool(w, "valid", select->evidence_valid);
    json_object_close(w);
    put_tiers(w, in);
    put_attempts(w, in);
    json_member_u64(w, "propensity_ppb", in->plan->propensity_ppb);
}

/* ---- in a header's room ---- */

static void put_brief(struct json_writer *w, const struct explain_input *in, const struct plan_step *step,
                      uint32_t member)
{
    struct explain_rule rule;
    bool from_evidence;
    const uint32_t weight = weight_of(in, step, member, &from_evidence);
    explain_rule(in, step, &rule);
    json_object_open(w);
    json_member_string(w, "m", in->select->arm->compiled->artifact->models[step->model].name);
    json_member_cstr(w, "why", plan_reason_name(step->reason));
    json_member_u64(w, "w", weight);
    if (rule.where.len)
        json_member_string(w, "at", rule.where);
    json_object_close(w);
}

void explain_brief(struct json_writer *w, const struct explain_input *in, size_t bytes_left)
{
    const struct route *route = in->select->target.route;
    uint32_t at = 0;
    bool fits = true;
    json_key(w, SPAN("candidates"));
    json_array_open(w);
    for (uint32_t t = 0; fits && t < (route ? route->tier_count : 1); t++) {
        const uint32_t members = route ? route->tiers[t].member_count : 1;
        for (uint32_t m = 0; fits && m < members && at < in->plan->all_count; m++) {
            const struct json_writer before = *w;
            const size_t len = w->buf->len;
            put_brief(w, in, &in->plan->all[at], m);
            fits = w->err == OK && buf_room(w->buf) >= bytes_left;
            if (fits) {
                at++;
            } else if (w->err == OK || w->err == ERR_FULL) {
                buf_truncate(w->buf, len);
                *w = before;
            }
        }
    }
    json_array_close(w);
    if (at < in->plan->all_count)
        json_member_u64(w, "more", in->plan->all_count - at);
}
