#include "controlplane/decide/rollout_plan.h"
#include "common/arena.h"

/* Tolerances that a team would want to be asked about before it accepts them: a point of errors is a hundredth of all
 * requests; a fifth more time or money is noticed by users and accountants. */
static const double tolerances[METRICS] = {
    [METRIC_ERRORS] = 0.01,   [METRIC_TTFT] = 0.20,    [METRIC_SPEED] = 0.20,     [METRIC_COST] = 0.20,
    [METRIC_REFUSALS] = 0.02, [METRIC_CANCELS] = 0.02, [METRIC_FALLBACKS] = 0.05, [METRIC_FEEDBACK] = 0.10,
};
#define TTFT_QUANTILE_DEFAULT 0.9
#define TOLERANCE_MOST        10.0 /* ten times as slow or dear: whoever wants more wants no guard */
#define STEPS_WORDS           "steps are percentages that rise and end with 100, such as 5,25,100"

bool rollout_metric(struct span name, enum metric *ret)
{
    char text[16];
    if (name.len >= sizeof(text))
        return false;
    snprintf(text, sizeof(text), SPAN_FMT, SPAN_ARG(name));
    return metric_of(text, ret);
}

struct guard rollout_guard_default(enum metric metric, struct span name)
{
    struct guard guard = { .metric = metric, .tolerance = tolerances[metric] };
    if (metric == METRIC_TTFT)
        guard.quantile = TTFT_QUANTILE_DEFAULT;
    if (metric == METRIC_FEEDBACK) {
        name = span_empty(name) ? SPAN("feedback") : span_head(name, sizeof(guard.name) - 1);
        snprintf(guard.name, sizeof(guard.name), SPAN_FMT, SPAN_ARG(name));
    }
    return guard;
}

void rollout_plan_defaults(struct rollout_plan *plan)
{
    *plan = (struct rollout_plan){ .unit = UNIT_KEY,
                                   .steps = { 500, 2500, ASSIGNMENT_BUCKETS },
                                   .step_count = 3,
                                   .hold_ms = 600000,
                                   .too_little_after_ms = 2 * 3600000 };
    for (unsigned i = 0; i < METRICS; i++)
        plan->guards[plan->guard_count++] = rollout_guard_default((enum metric)i, SPAN(""));
}

static uint32_t guard_at(const struct rollout_plan *plan, enum metric metric, const char *name)
{
    uint32_t i = 0;
    while (i < plan->guard_count && (plan->guards[i].metric != metric || strcmp(plan->guards[i].name, name) != 0))
        i++;
    return i;
}

bool rollout_feedback_name(struct span name)
{
    for (size_t i = 0; i < name.len; i++) {
        const char c = name.ptr[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '-' && c != '_' &&
            c != '.')
            return false;
    }
    return name.len > 0 && name.len <= EXPERIMENT_NAME_BYTES_MAX;
}

enum err rollout_guard_set(struct rollout_plan *plan, const struct guard *guard)
{
    const uint32_t at = guard_at(plan, guard->metric, guard->name);
    if (!guard_good(guard))
        return ERR_INVALID;
    if (at == EXPERIMENT_GUARDS_MAX)
        return ERR_TOO_MANY;
    plan->guards[at] = *guard;
    plan->guard_count += at == plan->guard_count;
    return OK;
}

void rollout_guard_drop(struct rollout_plan *plan, enum metric metric, struct span name)
{
    const struct guard wanted = rollout_guard_default(metric, name);
    const uint32_t at = guard_at(plan, metric, wanted.name);
    if (at == plan->guard_count)
        return;
    plan->guard_count--;
    memmove(&plan->guards[at], &plan->guards[at + 1], (plan->guard_count - at) * sizeof(plan->guards[0]));
}

enum err rollout_tolerance(struct span text, double *ret)
{
    int64_t millionths;
    const bool percent = span_ends(text, SPAN("%"));
    if (percent)
        text = span_head(text, text.len - 1);
    if (json_decimal_text(text, 6, &millionths) != OK)
        return ERR_INVALID;
    const double value = (double)millionths / (percent ? 1e8 : 1e6);
    if (value < 0 || value > TOLERANCE_MOST)
        return ERR_INVALID;
    *ret = value;
    return OK;
}

enum err rollout_quantile(struct span text, double *ret)
{
    int64_t hundredths;
    if (!span_starts(text, SPAN("p")) || json_decimal_text(span_skip(text, 1), 2, &hundredths) != OK ||
        hundredths < 5000 || hundredths > 9900)
        return ERR_INVALID;
    *ret = (double)hundredths / 10000;
    return OK;
}

enum err rollout_guard_text(struct rollout_plan *plan, struct span text, const char **ret_why)
{
    struct span name, part;
    enum metric metric;
    if (span_eq(text, SPAN("none"))) {
        plan->guard_count = 0;
        return OK;
    }
    (void)span_split(&text, '=', &name);
    (void)span_split(&name, ':', &part); /* name: what stands behind, of feedback */
    if (!rollout_metric(part, &metric) || (name.ptr && (metric != METRIC_FEEDBACK || !rollout_feedback_name(name)))) {
        *ret_why =
            "a guard is errors, ttft, speed, cost, refusals, cancels, fallbacks, feedback or feedback:METRIC; or "
            "'none' for all";
        return ERR_INVALID;
    }
    if (span_eq(text, SPAN("off"))) {
        rollout_guard_drop(plan, metric, name);
        return OK;
    }
    struct guard guard = rollout_guard_default(metric, name);
    struct span tolerance;
    *ret_why = "a guard is written NAME=TOLERANCE, such as errors=1%, ttft=20%@p95 or cost=off; only of ttft and cost "
               "can 100% or more be tolerated";
    if (!text.ptr)
        return rollout_guard_set(plan, &guard); /* the name alone: as by default */
    (void)span_split(&text, '@', &tolerance);
    if (rollout_tolerance(tolerance, &guard.tolerance) != OK)
        return ERR_INVALID;
    if (text.ptr && (metric != METRIC_TTFT || rollout_quantile(text, &guard.quantile) != OK))
        return ERR_INVALID;
    return rollout_guard_set(plan, &guard);
}

static bool is_token(struct span name)
{
    for (size_t i = 0; i < name.len; i++) {
        const char c = name.ptr[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '-' && c != '_')
            return false;
    }
    return name.len > 0 && name.len <= NAME_BYTES_MAX;
}

enum err rollout_unit_text(struct arena *arena, struct span text, enum unit_kind *ret_unit, struct span *ret_header)
{
    *ret_header = SPAN("");
    if (span_eq(text, SPAN("key")))
        *ret_unit = UNIT_KEY;
    else if (span_eq(text, SPAN("user")))
        *ret_unit = UNIT_USER;
    else if (span_eq(text, SPAN("request")))
        *ret_unit = UNIT_REQUEST;
    else if (span_starts(text, SPAN("header:")) && is_token(span_skip(text, 7))) {
        char *name = arena_printf(arena, SPAN_FMT, SPAN_ARG(span_skip(text, 7)));
        if (!name)
            return ERR_NOMEM;
        for (char *at = name; *at; at++)
            *at = *at >= 'A' && *at <= 'Z' ? (char)(*at + 32) : *at;
        *ret_unit = UNIT_HEADER;
        *ret_header = span_cstr(name);
    } else
        return ERR_INVALID;
    return OK;
}

enum err rollout_share_text(struct span text, uint32_t *ret_buckets)
{
    int64_t buckets;
    if (span_ends(text, SPAN("%")))
        text = span_head(text, text.len - 1);
    if (json_decimal_text(text, ROLLOUT_SHARE_DIGITS, &buckets) != OK || buckets < 1 || buckets > ASSIGNMENT_BUCKETS)
        return ERR_INVALID;
    *ret_buckets = (uint32_t)buckets;
    return OK;
}

enum err rollout_steps_text(struct rollout_plan *plan, struct span text, const char **ret_why)
{
    struct span part;
    uint32_t steps[ROLLOUT_STEPS_MAX], count = 0, buckets;
    *ret_why = STEPS_WORDS;
    while (span_split(&text, ',', &part)) {
        if (count == ROLLOUT_STEPS_MAX || rollout_share_text(span_trim(part), &buckets) != OK ||
            (count > 0 && buckets <= steps[count - 1]))
            return ERR_INVALID;
        steps[count++] = buckets;
    }
    if (count == 0 || steps[count - 1] != ASSIGNMENT_BUCKETS)
        return ERR_INVALID;
    memcpy(plan->steps, steps, sizeof(steps));
    plan->step_count = count;
    return OK;
}

bool rollout_plan_straight(const struct rollout_plan *plan)
{
    return plan->step_count == 0 || plan->steps[0] == ASSIGNMENT_BUCKETS;
}

const char *rollout_unit_name(enum unit_kind unit)
{
    static const char *const names[] = {
        [UNIT_KEY] = "key", [UNIT_USER] = "user", [UNIT_HEADER] = "header", [UNIT_REQUEST] = "request"
    };
    return names[unit];
}

const char *rollout_unit_plural(enum unit_kind unit)
{
    static const char *const names[] = {
        [UNIT_KEY] = "keys", [UNIT_USER] = "users", [UNIT_HEADER] = "values of the header", [UNIT_REQUEST] = "requests"
    };
    return names[unit];
}

char *rollout_share_format(uint32_t buckets, char *out)
{
    if (buckets % 100 == 0)
        snprintf(out, 16, "%u%%", buckets / 100);
    else
        snprintf(out, 16, "%u.%0*u%%", buckets / 100, buckets % 10 == 0 ? 1 : 2,
                 buckets % 10 == 0 ? buckets % 100 / 10 : buckets % 100);
    return out;
}
