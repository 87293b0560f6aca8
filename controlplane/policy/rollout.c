/* The `rollout:` section: how a version goes live when it is pushed. Anything left out has a default. */
#include "common/arena.h"
#include "controlplane/decide/rollout_plan.h"
#include "controlplane/policy/fields.h"
#include "controlplane/policy/tree.h"

static void wrong(struct diags *diags, const struct yaml_node *node, const char *wanted)
{
    const bool text = node->kind == YAML_SCALAR && !yaml_is_null(node) && node->text.len > 0;
    diag_error(diags, node, "'" SPAN_FMT "' must be %s%s" SPAN_FMT "%s", SPAN_ARG(node->key->text), wanted,
               text ? ", not '" : "", SPAN_ARG(text ? span_head(node->text, 100) : SPAN("")), text ? "'" : "");
}

static void read_unit(struct diags *diags, struct arena *arena, const struct yaml_node *node, struct rollout_plan *plan)
{
    if (!node)
        return;
    const enum err err =
        node->kind == YAML_SCALAR ? rollout_unit_text(arena, node->text, &plan->unit, &plan->header) : ERR_INVALID;
    if (err == ERR_NOMEM)
        diags->failed = true;
    else if (err)
        wrong(diags, node, "key, user, request or header:NAME");
}

static void read_routes(struct diags *diags, struct arena *arena, const struct policy *policy,
                        const struct yaml_node *node, struct rollout_plan *plan)
{
    if (!field_list(diags, arena, node, &plan->routes))
        return;
    const struct yaml_node *at = node->first;
    for (uint32_t i = 0; i < plan->routes.count; i++, at = at->next) {
        const struct span name = plan->routes.items[i];
        if (!strmap_get(&policy->routes.by_name, name))
            diag_error(diags, at, "there is no route '" SPAN_FMT "'%s", SPAN_ARG(name),
                       suggest(diags, name, &policy->routes.by_name));
    }
}

static void read_steps(struct diags *diags, const struct yaml_node *list, struct rollout_plan *plan)
{
    uint32_t steps[ROLLOUT_STEPS_MAX], count = 0;
    if (!list)
        return;
    if (list->kind != YAML_LIST || list->count == 0 || list->count > ROLLOUT_STEPS_MAX) {
        diag_error(diags, list,
                   "'steps' must be a list of at most %u percentages that ends with 100, such as [5, 25, 100]",
                   ROLLOUT_STEPS_MAX);
        return;
    }
    for (const struct yaml_node *node = list->first; node; node = node->next) {
        if (node->kind != YAML_SCALAR || rollout_share_text(node->text, &steps[count]) != OK) {
            diag_error(diags, node, "a step must be a percentage from 0.01 to 100");
            return;
        }
        if ((count > 0 && steps[count] <= steps[count - 1]) || (!node->next && steps[count] != ASSIGNMENT_BUCKETS))
            diag_error(diags, node, "'steps' must rise and end with 100");
        count++;
    }
    memcpy(plan->steps, steps, sizeof(steps));
    plan->step_count = count;
}

/* ---- guards ---- */

/* `errors: 1%`, `errors: off`, or {tolerance, quantile, metric}. */
static void read_guard(struct diags *diags, const struct yaml_node *node, enum metric metric, struct rollout_plan *plan)
{
    static const char *const fields[] = { "tolerance", NULL };
    static const char *const ttft_fields[] = { "tolerance", "quantile", NULL };
    static const char *const feedback_fields[] = { "tolerance", "metric", NULL };
    struct guard guard = rollout_guard_default(metric, SPAN(""));
    if (node->kind == YAML_SCALAR && span_eq(node->text, SPAN("off"))) {
        rollout_guard_drop(plan, metric, SPAN(""));
        return;
    }
    const struct yaml_node *tolerance = node, *quantile = NULL, *name = NULL;
    if (node->kind == YAML_MAP) {
        fields_check(diags, node, metric_name(metric),
                     metric == METRIC_TTFT       ? ttft_fields
                     : metric == METRIC_FEEDBACK ? feedback_fields
                                                 : fields);
        tolerance = yaml_get(node, "tolerance");
        quantile = yaml_get(node, "quantile");
        name = yaml_get(node, "metric");
    }
    if (tolerance && (tolerance->kind != YAML_SCALAR || rollout_tolerance(tolerance->text, &guard.tolerance) != OK))
        wrong(diags, tolerance, "a share such as 1% (at most 1000%), or off");
    if (quantile && (quantile->kind != YAML_SCALAR || rollout_quantile(quantile->text, &guard.quantile) != OK))
        wrong(diags, quantile, "a quantile from p50 to p99, such as p90");
    if (name && (name->kind != YAML_SCALAR || !rollout_feedback_name(name->text))) {
        wrong(diags, name, "the name of a metric: 1 to 64 letters, digits, '-', '_' or '.'");
    } else if (name) {
        rollout_guard_drop(plan, metric, SPAN("")); /* this one stands for the default */
        memset(guard.name, 0, sizeof(guard.name));
        memcpy(guard.name, name->text.ptr, name->text.len);
    }
    const enum err err = rollout_guard_set(plan, &guard);
    if (err == ERR_INVALID)
        wrong(diags, tolerance ? tolerance : node, "less than 100%: more than all of it cannot be lost");
    else if (err)
        diag_error(diags, node, "there are more than %u guards", EXPERIMENT_GUARDS_MAX);
}

static void read_guards(struct diags *diags, const struct yaml_node *map, struct rollout_plan *plan)
{
    const char *words[METRICS + 1] = { NULL };
    if (!map)
        return;
    if (map->kind == YAML_SCALAR && span_eq(map->text, SPAN("none"))) {
        plan->guard_count = 0;
        return;
    }
    for (unsigned i = 0; i < METRICS; i++)
        words[i] = metric_name((enum metric)i);
    if (map->kind != YAML_MAP)
        wrong(diags, map, "a map of guards, or none");
    else
        fields_check(diags, map, "'guards'", words);
    for (unsigned i = 0; i < METRICS; i++) {
        const struct yaml_node *node = yaml_get(map, words[i]);
        if (node)
            read_guard(diags, node, (enum metric)i, plan);
    }
}

/* ---- time ---- */

static void read_too_little(struct diags *diags, const struct yaml_node *map, struct rollout_plan *plan)
{
    static const char *const known[] = { "after", "then", NULL };
    static const char *const words[] = { "wait", "proceed", NULL };
    size_t word;
    if (!fields_check(diags, map, "'too_little'", known))
        return;
    field_duration(diags, yaml_get(map, "after"), true, &plan->too_little_after_ms);
    if (field_word(diags, yaml_get(map, "then"), words, &word))
        plan->too_little_proceeds = word == 1;
}

enum err policy_rollout(struct arena *arena, const struct policy *policy, struct diags *diags,
                        struct rollout_plan *ret_plan, bool *ret_has)
{
    static const char *const known[] = { "unit", "routes", "steps", "hold", "guards", "too_little", NULL };
    const struct yaml_node *map = policy->rollout;
    struct rollout_plan plan;
    *ret_has = map != NULL && !yaml_is_null(map);
    if (map && yaml_is_null(map))
        diag_warning(diags, map->key, "'rollout' is empty; remove it, or write {} for the usual steps and guards");
    if (!*ret_has || !fields_check(diags, map, "'rollout'", known))
        return OK;
    rollout_plan_defaults(&plan);
    read_unit(diags, arena, yaml_get(map, "unit"), &plan);
    read_routes(diags, arena, policy, yaml_get(map, "routes"), &plan);
    read_steps(diags, yaml_get(map, "steps"), &plan);
    field_duration(diags, yaml_get(map, "hold"), true, &plan.hold_ms);
    read_guards(diags, yaml_get(map, "guards"), &plan);
    read_too_little(diags, yaml_get(map, "too_little"), &plan);
    if (diags->failed)
        return ERR_NOMEM;
    *ret_plan = plan;
    return OK;
}
