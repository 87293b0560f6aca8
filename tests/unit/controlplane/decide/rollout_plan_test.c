#include "controlplane/decide/rollout_plan.h"
#include "common/arena.h"
#include "common/buf.h"
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <cmocka.h>

static struct arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 1u << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

static void steps_rise_and_end_with_100(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "5", "5,100,100", "25,5,100", "0,100", "5;100", "0.001,100", "101", "5,,100"
    };
    struct rollout_plan plan;
    const char *why = NULL;
    rollout_plan_defaults(&plan);
    assert_int_equal(rollout_steps_text(&plan, SPAN("0.5, 5%,25,100"), &why), OK);
    assert_int_equal(plan.step_count, 4);
    assert_int_equal(plan.steps[0], 50);
    assert_int_equal(plan.steps[3], ASSIGNMENT_BUCKETS);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(rollout_steps_text(&plan, span_cstr(bad[i]), &why), ERR_INVALID);
        assert_non_null(strstr(why, "rise"));
    }
    assert_int_equal(plan.step_count, 4); /* untouched */
    assert_false(rollout_plan_straight(&plan));
    assert_int_equal(rollout_steps_text(&plan, SPAN("100"), &why), OK);
    assert_true(rollout_plan_straight(&plan));
}

static const struct guard *guard_of(const struct rollout_plan *plan, enum metric metric, const char *name)
{
    for (uint32_t i = 0; i < plan->guard_count; i++) {
        if (plan->guards[i].metric == metric && strcmp(plan->guards[i].name, name) == 0)
            return &plan->guards[i];
    }
    return NULL;
}

static void guards_by_words(void **state)
{
    (void)state;
    static const char *const bad[] = { "error=1%",
                                       "errors=",
                                       "errors=x",
                                       "errors=-1%",
                                       "errors=1%@p90",
                                       "ttft=20%@90",
                                       "errors:x=1%",
                                       "ttft=20%@p100",
                                       "ttft=20%@p49",
                                       "cost=1001%",
                                       "errors=100%", /* an experiment takes none of these, and nobody would judge */
                                       "errors=1",
                                       "speed=100%",
                                       "feedback=150%",
                                       "feedback:a b",
                                       "feedback:\xff",
                                       "feedback:",
                                       "" };
    struct rollout_plan plan;
    const char *why = NULL;
    rollout_plan_defaults(&plan);
    assert_int_equal(plan.guard_count, METRICS); /* every one is on */
    assert_int_equal(rollout_guard_text(&plan, SPAN("errors=0.5%"), &why), OK);
    assert_int_equal(rollout_guard_text(&plan, SPAN("ttft=30%@p95"), &why), OK);
    assert_int_equal(rollout_guard_text(&plan, SPAN("feedback:stars=0.05"), &why), OK);
    assert_int_equal(rollout_guard_text(&plan, SPAN("cost=300%"), &why), OK);
    assert_int_equal(rollout_guard_text(&plan, SPAN("cost=off"), &why), OK);
    assert_int_equal(plan.guard_count, METRICS);
    assert_true(fabs(guard_of(&plan, METRIC_ERRORS, "")->tolerance - 0.005) < 1e-12);
    assert_true(fabs(guard_of(&plan, METRIC_TTFT, "")->quantile - 0.95) < 1e-12);
    assert_true(fabs(guard_of(&plan, METRIC_FEEDBACK, "stars")->tolerance - 0.05) < 1e-12);
    assert_non_null(guard_of(&plan, METRIC_FEEDBACK, "feedback"));
    assert_null(guard_of(&plan, METRIC_COST, ""));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        why = NULL;
        assert_int_equal(rollout_guard_text(&plan, span_cstr(bad[i]), &why), ERR_INVALID);
        assert_non_null(why);
    }
    assert_int_equal(rollout_guard_text(&plan, SPAN("none"), &why), OK);
    assert_int_equal(plan.guard_count, 0);
    for (unsigned i = 0; i < EXPERIMENT_GUARDS_MAX; i++) {
        char text[40];
        snprintf(text, sizeof(text), "feedback:m%u=1%%", i);
        assert_int_equal(rollout_guard_text(&plan, span_cstr(text), &why), OK);
    }
    assert_int_equal(rollout_guard_text(&plan, SPAN("errors=1%"), &why), ERR_TOO_MANY);
}

static void units_by_words(void **state)
{
    (void)state;
    static const char *const bad[] = { "", "keys", "header:", "header:a b", "header" };
    enum unit_kind unit;
    struct span header;
    assert_int_equal(rollout_unit_text(&arena, SPAN("header:X-Tenant"), &unit, &header), OK);
    assert_int_equal(unit, UNIT_HEADER);
    assert_string_equal(header.ptr, "x-tenant");
    assert_int_equal(rollout_unit_text(&arena, SPAN("user"), &unit, &header), OK);
    assert_int_equal(unit, UNIT_USER);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(rollout_unit_text(&arena, span_cstr(bad[i]), &unit, &header), ERR_INVALID);
}

static void shares_as_people_write_them(void **state)
{
    (void)state;
    char out[16];
    assert_string_equal(rollout_share_format(500, out), "5%");
    assert_string_equal(rollout_share_format(50, out), "0.5%");
    assert_string_equal(rollout_share_format(1, out), "0.01%");
    assert_string_equal(rollout_share_format(1234, out), "12.34%");
    assert_string_equal(rollout_share_format(10000, out), "100%");
}

static enum err read_back(struct span json, struct rollout_plan *ret)
{
    struct json_index ix;
    assert_int_equal(json_index(&arena, json, &json_limits_default, &ix, NULL), OK);
    return rollout_plan_read(&arena, &ix, 0, ret);
}

static void json_goes_round_and_is_strict(void **state)
{
    (void)state;
    struct rollout_plan plan, again;
    struct json_writer w;
    struct buf out = BUF_INIT(1u << 16), twice = BUF_INIT(1u << 16);
    struct span routes[] = { SPAN("chat"), SPAN("bulk") };
    const char *why;
    rollout_plan_defaults(&plan);
    plan.unit = UNIT_HEADER;
    plan.header = SPAN("x-tenant");
    plan.routes = (struct span_list){ .items = routes, .count = 2 };
    plan.too_little_proceeds = true;
    assert_int_equal(rollout_guard_text(&plan, SPAN("feedback:stars=5%"), &why), OK);
    json_writer_init(&w, &out);
    rollout_plan_json(&plan, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_int_equal(read_back(buf_span(&out), &again), OK);
    json_writer_init(&w, &twice);
    rollout_plan_json(&again, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_true(span_eq(buf_span(&out), buf_span(&twice)));
    static const struct {
        const char *from, *to;
    } spoilt[] = { { "\"hold_ms\"", "\"held_ms\"" },
                   { "600000", "-1" },
                   { "\"unit\":\"header\"", "\"unit\":\"key\"" },
                   { "[500,2500,10000]", "[2500,500,10000]" },
                   { "[500,2500,10000]", "[500,2500]" },
                   { "\"ttft\"", "\"tfft\"" },
                   { "proceeds\":true", "proceeds\":1" } };
    for (size_t i = 0; i < ARRAY_LEN(spoilt); i++) {
        const struct span text = buf_span(&out);
        const size_t at = span_find(text, span_cstr(spoilt[i].from));
        assert_true(at != SIZE_MAX);
        const char *bad = arena_printf(&arena, SPAN_FMT "%s" SPAN_FMT, SPAN_ARG(span_head(text, at)), spoilt[i].to,
                                       SPAN_ARG(span_skip(text, at + strlen(spoilt[i].from))));
        assert_int_equal(read_back(span_cstr(bad), &again), ERR_CORRUPT);
    }
    buf_release(&out);
    buf_release(&twice);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_rise_and_end_with_100),
        cmocka_unit_test(guards_by_words),
        cmocka_unit_test(units_by_words),
        cmocka_unit_test(shares_as_people_write_them),
        cmocka_unit_test(json_goes_round_and_is_strict),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
