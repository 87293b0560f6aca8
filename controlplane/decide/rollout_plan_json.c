/* A plan as it is stored. */
#include "common/arena.h"
#include "common/json_fields.h"
#include "controlplane/decide/rollout_plan.h"

void rollout_guards_json(const struct guard *guards, uint32_t count, struct json_writer *w)
{
    json_array_open(w);
    for (uint32_t i = 0; i < count; i++) {
        json_object_open(w);
        json_member_cstr(w, "metric", metric_name(guards[i].metric));
        json_member_cstr(w, "name", guards[i].name);
        json_key(w, SPAN("tolerance"));
        json_put_double(w, guards[i].tolerance);
        json_key(w, SPAN("quantile"));
        json_put_double(w, guards[i].quantile);
        json_object_close(w);
    }
    json_array_close(w);
}

void rollout_plan_json(const struct rollout_plan *plan, struct json_writer *w)
{
    json_object_open(w);
    json_member_cstr(w, "unit", rollout_unit_name(plan->unit));
    json_member_string(w, "header", plan->header);
    json_key(w, SPAN("routes"));
    json_array_open(w);
    for (uint32_t i = 0; i < plan->routes.count; i++)
        json_put_string(w, plan->routes.items[i]);
    json_array_close(w);
    json_key(w, SPAN("steps"));
    json_array_open(w);
    for (uint32_t i = 0; i < plan->step_count; i++)
        json_put_u64(w, plan->steps[i]);
    json_array_close(w);
    json_member_u64(w, "hold_ms", plan->hold_ms);
    json_key(w, SPAN("guards"));
    rollout_guards_json(plan->guards, plan->guard_count, w);
    json_member_u64(w, "too_little_after_ms", plan->too_little_after_ms);
    json_member_bool(w, "too_little_proceeds", plan->too_little_proceeds);
    json_object_close(w);
}

void rollout_unit_read(struct json_fields *f, uint32_t object, enum unit_kind *ret_unit, struct span *ret_header)
{
    const struct span name = json_field_text(f, object, "unit"), header = json_field_text(f, object, "header");
    unsigned kind = 0;
    while (kind <= UNIT_REQUEST && !span_eq(name, span_cstr(rollout_unit_name((enum unit_kind)kind))))
        kind++;
    if (!f->err && (kind > UNIT_REQUEST || (kind == UNIT_HEADER) != (header.len > 0)))
        f->err = ERR_CORRUPT;
    if (f->err)
        return;
    *ret_unit = (enum unit_kind)kind;
    *ret_header = header;
}

void rollout_routes_read(struct json_fields *f, uint32_t object, struct span_list *ret)
{
    const uint32_t array = json_field(f, object, "routes", JSON_ARRAY);
    if (f->err)
        return;
    struct span *items = ARENA_ARRAY(f->arena, (size_t)json_count(f->ix, array) + 1, struct span);
    if (!items) {
        f->err = ERR_NOMEM;
        return;
    }
    *ret = (struct span_list){ .items = items };
    for (uint32_t t = json_first(f->ix, array); t != JSON_NONE; t = json_next(f->ix, array, t))
        items[ret->count++] = json_item_text(f, t);
}

static void read_steps(struct json_fields *f, uint32_t array, struct rollout_plan *plan)
{
    for (uint32_t t = f->err ? JSON_NONE : json_first(f->ix, array); t != JSON_NONE && !f->err;
         t = json_next(f->ix, array, t)) {
        const uint32_t step = (uint32_t)json_item_u64(f, t, ASSIGNMENT_BUCKETS);
        const uint32_t last = plan->step_count ? plan->steps[plan->step_count - 1] : 0;
        if (plan->step_count == ROLLOUT_STEPS_MAX || step <= last)
            f->err = ERR_CORRUPT;
        else
            plan->steps[plan->step_count++] = step;
    }
    if (!f->err && plan->step_count > 0 && plan->steps[plan->step_count - 1] != ASSIGNMENT_BUCKETS)
        f->err = ERR_CORRUPT;
}

void rollout_guards_read(struct json_fields *f, uint32_t array, struct guard *guards, uint32_t *ret_count)
{
    *ret_count = 0;
    for (uint32_t t = f->err ? JSON_NONE : json_first(f->ix, array); t != JSON_NONE && !f->err;
         t = json_next(f->ix, array, t)) {
        enum metric metric;
        const struct span word = json_field_text(f, t, "metric"), name = json_field_text(f, t, "name");
        if (!f->err && (*ret_count == EXPERIMENT_GUARDS_MAX || !rollout_metric(word, &metric) ||
                        name.len > EXPERIMENT_NAME_BYTES_MAX))
            f->err = ERR_CORRUPT;
        if (f->err)
            return;
        struct guard guard = rollout_guard_default(metric, name);
        guard.tolerance = json_field_double(f, t, "tolerance");
        guard.quantile = json_field_double(f, t, "quantile");
        if (!f->err && !guard_good(&guard))
            f->err = ERR_CORRUPT;
        guards[(*ret_count)++] = guard;
    }
}

enum err rollout_plan_read(struct arena *arena, const struct json_index *ix, uint32_t object, struct rollout_plan *ret)
{
    struct json_fields f = { .arena = arena, .ix = ix };
    struct rollout_plan plan = { 0 };
    rollout_unit_read(&f, object, &plan.unit, &plan.header);
    rollout_routes_read(&f, object, &plan.routes);
    read_steps(&f, json_field(&f, object, "steps", JSON_ARRAY), &plan);
    plan.hold_ms = (uint32_t)json_field_u64(&f, object, "hold_ms", ROLLOUT_HOLD_MOST_MS);
    rollout_guards_read(&f, json_field(&f, object, "guards", JSON_ARRAY), plan.guards, &plan.guard_count);
    plan.too_little_after_ms = (uint32_t)json_field_u64(&f, object, "too_little_after_ms", ROLLOUT_HOLD_MOST_MS);
    plan.too_little_proceeds = json_field_bool(&f, object, "too_little_proceeds");
    if (!f.err)
        *ret = plan;
    return f.err;
}
