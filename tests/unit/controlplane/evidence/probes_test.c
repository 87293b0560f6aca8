#include "controlplane/evidence/probes.h"
#include "common/arena.h"
#include "common/fault.h"
#include "controlplane/evidence/senders.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static enum err take(struct probes *probes, const char *provider, const char *model, bool ok, int64_t at_ms)
{
    const struct probe_result r = { .provider = span_cstr(provider),
                                    .model = span_cstr(model),
                                    .ok = ok,
                                    .why = SPAN("why"),
                                    .at_ms = at_ms,
                                    .latency_us = 5 };
    return probes_take(probes, &r, 1000);
}

static void streaks(void **state)
{
    (void)state;
    struct probes *p;
    assert_int_equal(probes_new(&p), OK);
    assert_int_equal(take(p, "b", "", true, 10), OK);
    assert_int_equal(take(p, "a", "", false, 10), OK);
    assert_int_equal(take(p, "b", "", true, 20), OK);
    assert_int_equal(take(p, "b", "", false, 15), OK); /* late */
    assert_int_equal(take(p, "b", "", false, 20), OK); /* repeated */
    const struct probe_state *s = probes_find(p, SPAN("b"));
    assert_int_equal(s->ok_streak, 2);
    assert_int_equal(s->fail_streak, 0);
    assert_int_equal(s->since_ms, 10);
    assert_int_equal(take(p, "b", "", false, 30), OK);
    s = probes_find(p, SPAN("b"));
    assert_int_equal(s->ok_streak, 0);
    assert_int_equal(s->fail_streak, 1);
    assert_int_equal(s->since_ms, 30);
    assert_int_equal(take(p, "a", "", true, 5000), OK); /* from the future: now */
    assert_int_equal(probes_find(p, SPAN("a"))->at_ms, 1000);
    assert_int_equal(take(p, "a", "m", true, 1), OK);
    assert_int_equal(take(p, "a", "a/n", true, 1), OK);
    assert_non_null(probes_find(p, SPAN("a/m")));
    assert_non_null(probes_find(p, SPAN("a/n")));
    assert_null(probes_find(p, SPAN("c")));
    probes_free(p);
}

static void a_clock_set_back_stops_nothing(void **state)
{
    (void)state;
    struct probes *p;
    const struct probe_result before = { .provider = SPAN("a"), .ok = false, .why = SPAN("no"), .at_ms = 90000 },
                              after = { .provider = SPAN("a"), .ok = true, .why = SPAN("yes"), .at_ms = 1000 };
    assert_int_equal(probes_new(&p), OK);
    assert_int_equal(probes_take(p, &before, 90000), OK);
    assert_int_equal(probes_take(p, &after, 1000), OK);
    assert_int_equal(probes_find(p, SPAN("a"))->ok_streak, 1);
    assert_int_equal(probes_find(p, SPAN("a"))->at_ms, 1000);
    probes_free(p);
}

static bool only_b(void *user, struct span name)
{
    (void)user;
    return span_eq(name, SPAN("b"));
}

static void forgets_and_bounds(void **state)
{
    (void)state;
    struct probes *p;
    char name[16];
    assert_int_equal(probes_new(&p), OK);
    for (unsigned i = 0; i < PROBES_KEPT_MAX; i++) {
        snprintf(name, sizeof name, "p%u", i);
        assert_int_equal(take(p, name, "", true, 1), OK);
    }
    assert_int_equal(take(p, "b", "", true, 1), ERR_TOO_MANY);
    probes_retain(p, only_b, NULL);
    assert_int_equal(take(p, "b", "", true, 1), OK);
    probes_retain(p, only_b, NULL);
    assert_non_null(probes_find(p, SPAN("b")));
    fault_arm(FAULT_ALLOC, 0, 1);
    assert_int_equal(take(p, "c", "", true, 1), ERR_NOMEM);
    fault_disarm_all();
    assert_null(probes_find(p, SPAN("c")));
    probes_free(p);
}

static void targets_cost_nothing(void **state)
{
    (void)state;
    struct arena arena;
    struct probe_target *t;
    uint32_t count;
    struct provider one[] = {
        { .name = SPAN("a"), .probe = PROBE_HOW_COMPLETION, .probe_model = SPAN("m"), .proxy = SPAN("http://x:1") },
        { .name = SPAN("b"), .probe = PROBE_HOW_COMPLETION },
        { .name = SPAN("c"), .probe = PROBE_HOW_NONE },
        { .name = SPAN("d"), .probe = PROBE_HOW_CONNECT, .probe_model = SPAN("m") }
    };
    struct provider two[] = { { .name = SPAN("d"), .probe = PROBE_HOW_MODELS },
                              { .name = SPAN("e"), .probe = PROBE_HOW_MODELS } };
    const struct artifact x = { .providers = one, .provider_count = 4 }, y = { .providers = two, .provider_count = 2 };
    const struct artifact *const both[] = { &x, &y };
    arena_init(&arena, 1u << 16);
    assert_int_equal(probes_targets(&arena, both, 2, &t, &count), OK);
    assert_int_equal(count, 4);
    assert_int_equal(t[0].how, PROBE_HOW_COMPLETION);
    assert_true(span_eq(t[0].proxy, SPAN("http://x:1")));
    assert_int_equal(t[1].how, PROBE_HOW_MODELS); /* no model is named: nothing is bought */
    assert_int_equal(t[2].how, PROBE_HOW_CONNECT);
    assert_int_equal(t[2].model.len, 0);
    assert_true(span_eq(t[3].provider, SPAN("e")));
    arena_release(&arena);
}

static void senders_are_recognised(void **state)
{
    (void)state;
    struct sender_mark m = { 0 };
    assert_int_equal(sender_mark_look(&m, SPAN("a"), 0), SENDER_REBORN);
    sender_mark_take(&m, SPAN("a"), 5);
    assert_int_equal(sender_mark_look(&m, SPAN("a"), 5), SENDER_OLD);
    assert_int_equal(sender_mark_look(&m, SPAN("a"), 6), SENDER_NEXT);
    sender_mark_take(&m, SPAN("b"), 1);
    assert_int_equal(sender_mark_look(&m, SPAN("a"), 9), SENDER_OLD);
    assert_int_equal(sender_mark_look(&m, SPAN("b"), 2), SENDER_NEXT);
    assert_int_equal(sender_mark_look(&m, SPAN("c"), 1), SENDER_REBORN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streaks),
        cmocka_unit_test(a_clock_set_back_stops_nothing),
        cmocka_unit_test(forgets_and_bounds),
        cmocka_unit_test(targets_cost_nothing),
        cmocka_unit_test(senders_are_recognised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
