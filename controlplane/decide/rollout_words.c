/* What a rollout says of its guards: a sentence for people, and every number as JSON. */
#include "controlplane/decide/rollout.h"
#include <math.h>

#define VALUE_BYTES 32u

/* A level of the metric, as people read it. */
static const char *level(enum metric metric, double value, char *out)
{
    switch (metric) {
    case METRIC_ERRORS:
    case METRIC_REFUSALS:
    case METRIC_CANCELS:
    case METRIC_FALLBACKS:
        snprintf(out, VALUE_BYTES, "%.2f%%", value * 100);
        break;
    case METRIC_TTFT:
        snprintf(out, VALUE_BYTES, isfinite(value) ? "%.0f ms" : "never", value);
        break;
    case METRIC_SPEED:
        snprintf(out, VALUE_BYTES, "%.1f tokens/s", value);
        break;
    case METRIC_COST:
        snprintf(out, VALUE_BYTES, "$%.6f", value / 1e9);
        break;
    case METRIC_FEEDBACK:
    case METRICS:
        snprintf(out, VALUE_BYTES, "%.3f", value);
        break;
    }
    return out;
}

/* A change, with its sign: points of shares, a difference of scores, else percent. */
static const char *change(enum metric metric, double value, char *out)
{
    if (isnan(value))
        snprintf(out, VALUE_BYTES, "unknown");
    else if (isinf(value))
        snprintf(out, VALUE_BYTES, value < 0 ? "anything less" : "anything more");
    else if (metric == METRIC_FEEDBACK)
        snprintf(out, VALUE_BYTES, "%+.3f", value);
    else
        snprintf(out, VALUE_BYTES, metric_is_absolute(metric) ? "%+.2f points" : "%+.1f%%", value * 100);
    return out;
}

static double tolerated_change(const struct guard *g)
{
    return metric_less_is_harm(g->metric) ? -g->tolerance : g->tolerance;
}

static void metric_title(const struct guard *g, char *out, size_t bytes)
{
    if (g->metric == METRIC_TTFT)
        snprintf(out, bytes, "ttft p%g", g->quantile * 100);
    else
        snprintf(out, bytes, "%s%s%s", metric_name(g->metric), *g->name ? " " : "", g->name);
}

void rollout_guard_words(const struct rollout *r, uint32_t guard, const struct judgement *j, char *out, size_t bytes)
{
    const struct guard *g = &r->plan.guards[guard];
    const enum metric m = g->metric;
    char before[VALUE_BYTES], after[VALUE_BYTES], by[VALUE_BYTES], low[VALUE_BYTES], high[VALUE_BYTES],
        tolerated[VALUE_BYTES], name[80];
    metric_title(g, name, sizeof(name));
    if (j->verdict == VERDICT_TOO_LITTLE) {
        snprintf(out, bytes, "%s: too few %s to judge (%llu and %llu, with %llu and %llu requests)", name,
                 rollout_unit_plural(r->plan.unit), (unsigned long long)j->units[0], (unsigned long long)j->units[1],
                 (unsigned long long)j->requests[0], (unsigned long long)j->requests[1]);
        return;
    }
    snprintf(
        out, bytes,
        "%s: v%u %s, v%u %s: %s, surely between %s and %s; tolerated %s (%llu and %llu requests of %llu and %llu %s)",
        name, r->to, level(m, j->treatment, after), r->from, level(m, j->baseline, before), change(m, j->change, by),
        change(m, j->low, low), change(m, j->high, high), change(m, tolerated_change(g), tolerated),
        (unsigned long long)j->requests[0], (unsigned long long)j->requests[1], (unsigned long long)j->units[0],
        (unsigned long long)j->units[1], rollout_unit_plural(r->plan.unit));
}

static void number(struct json_writer *w, const char *name, double value)
{
    json_key(w, span_cstr(name));
    json_put_double(w, value);
}

/* The same for tables. */
static void put_words(const struct guard *g, const struct judgement *j, struct json_writer *w)
{
    char text[VALUE_BYTES], high[VALUE_BYTES], title[80], interval[2 * VALUE_BYTES + 8];
    const enum metric m = g->metric;
    const bool known = j->verdict != VERDICT_TOO_LITTLE;
    metric_title(g, title, sizeof(title));
    snprintf(interval, sizeof(interval), "%s to %s", change(m, j->low, text), change(m, j->high, high));
    json_key(w, SPAN("words"));
    json_object_open(w);
    json_member_cstr(w, "title", title);
    json_member_cstr(w, "baseline", known ? level(m, j->baseline, text) : "-");
    json_member_cstr(w, "treatment", known ? level(m, j->treatment, text) : "-");
    json_member_cstr(w, "change", known ? change(m, j->change, text) : "-");
    json_member_cstr(w, "interval", known ? interval : "-");
    json_member_cstr(w, "tolerance", change(m, tolerated_change(g), text));
    json_object_close(w);
}

void rollout_judgement_members(const struct guard *g, const struct judgement *j, struct json_writer *w)
{
    json_member_cstr(w, "metric", metric_name(g->metric));
    json_member_cstr(w, "name", g->name);
    json_member_cstr(w, "verdict", verdict_name(j->verdict));
    json_member_bool(w, "absolute", metric_is_absolute(g->metric));
    number(w, "tolerance", g->tolerance);
    number(w, "quantile", g->quantile);
    number(w, "baseline", j->baseline);
    number(w, "treatment", j->treatment);
    number(w, "change", j->change);
    number(w, "low", j->low);
    number(w, "high", j->high);
    number(w, "p_value", j->p_value);
    json_member_u64(w, "units_baseline", j->units[0]);
    json_member_u64(w, "units_treatment", j->units[1]);
    json_member_u64(w, "requests_baseline", j->requests[0]);
    json_member_u64(w, "requests_treatment", j->requests[1]);
    number(w, "units_effective_baseline", j->units_effective[0]);
    number(w, "units_effective_treatment", j->units_effective[1]);
    json_member_u64(w, "looks", j->looks);
    put_words(g, j, w);
}

void rollout_evidence_json(const struct rollout *r, const struct rollout_evidence *e, struct json_writer *w)
{
    json_key(w, SPAN("ratio"));
    json_object_open(w);
    json_member_bool(w, "mismatch", e->ratio.mismatch);
    number(w, "p_value", e->ratio.p_value);
    json_member_u64(w, "units_baseline", e->ratio.units[0]);
    json_member_u64(w, "units_treatment", e->ratio.units[1]);
    json_object_close(w);
    json_member_cstr(w, "tripwire", e->tripwire);
    json_key(w, SPAN("guards"));
    json_array_open(w);
    for (uint32_t i = 0; i < r->plan.guard_count; i++) {
        json_object_open(w);
        rollout_judgement_members(&r->plan.guards[i], &e->judgements[i], w);
        json_object_close(w);
    }
    json_array_close(w);
}
