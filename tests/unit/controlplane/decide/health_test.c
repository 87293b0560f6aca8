#include "controlplane/decide/health.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct health_verdict judge(const struct health_verdict *previous, uint32_t ok, uint32_t failed, double recent,
                                   double failures, int64_t now_ms)
{
    struct health_verdict v;
    const struct health_input in = {
        .provider = { .known = ok + failed > 0, .ok_streak = ok, .fail_streak = failed, .why = "test" },
        .model = { .why = "" },
        .recent = recent,
        .recent_failures = failures,
        .previous = previous
    };
    health_judge(&in, now_ms, &v);
    return v;
}

static void probes_mark_down_and_up(void **state)
{
    (void)state;
    struct health_verdict v = { 0 };
    v = judge(&v, 1, 0, 0, 0, 100);
    assert_int_equal(v.health, HEALTH_UP);
    assert_int_equal(v.since_ms, 100);
    for (uint32_t failed = 1; failed < HEALTH_DOWN_AFTER; failed++) {
        v = judge(&v, 0, failed, 0, 0, 100 + failed);
        assert_int_equal(v.health, HEALTH_UP);
        assert_int_equal(v.since_ms, 100);
        assert_non_null(strstr(v.why, "of the 3 failed probes that mark it down: test"));
    }
    v = judge(&v, 0, HEALTH_DOWN_AFTER, 0, 0, 200);
    assert_int_equal(v.health, HEALTH_DOWN);
    assert_int_equal(v.since_ms, 200);
    assert_non_null(strstr(v.why, "3 probes in a row failed: test"));
    v = judge(&v, 0, 9, 0, 0, 250);
    assert_int_equal(v.since_ms, 200);
    v = judge(&v, 1, 0, 0, 0, 300);
    assert_int_equal(v.health, HEALTH_DOWN);
    assert_string_equal(v.why, "1 of the 2 good probes that mark it up: test");
    v = judge(&v, HEALTH_UP_AFTER, 0, 0, 0, 400);
    assert_int_equal(v.health, HEALTH_UP);
    assert_int_equal(v.since_ms, 400);
}

static void a_dead_prober_says_nothing(void **state)
{
    (void)state;
    struct health_verdict v = { .health = HEALTH_DOWN, .since_ms = 1 };
    v = judge(&v, 0, 0, 0, 0, 100);
    assert_int_equal(v.health, HEALTH_UNKNOWN);
    v = judge(&v, 0, 0, 5, 0, 200);
    assert_int_equal(v.health, HEALTH_UP);
}

static void telemetry_marks_down_with_enough_samples(void **state)
{
    (void)state;
    const struct health_verdict up = { .health = HEALTH_UP, .since_ms = 1 };
    assert_int_equal(judge(&up, 2, 0, HEALTH_SAMPLES_LEAST - 1, HEALTH_SAMPLES_LEAST - 1, 10).health, HEALTH_UP);
    assert_int_equal(judge(&up, 2, 0, 100, 49, 10).health, HEALTH_UP);
    struct health_verdict v = judge(&up, 2, 0, 100, 60, 10);
    assert_int_equal(v.health, HEALTH_DOWN);
    assert_true(v.by_telemetry);
    assert_non_null(strstr(v.why, "60%"));
    /* it rests, though probes are good and nothing is left of the samples */
    v = judge(&v, 9, 0, 1, 0.6, 10 + HEALTH_REST_MS - 1);
    assert_int_equal(v.health, HEALTH_DOWN);
    assert_int_equal(judge(&v, 9, 0, 30, 8, 10 + HEALTH_REST_MS).health, HEALTH_DOWN); /* still bad */
    v = judge(&v, 9, 0, 1, 0.6, 10 + HEALTH_REST_MS);
    assert_int_equal(v.health, HEALTH_UP);
}

static void a_models_own_probe_comes_first(void **state)
{
    (void)state;
    const struct health_verdict up = { .health = HEALTH_UP, .since_ms = 1 };
    struct health_verdict v;
    const struct health_input in = { .provider = { .known = true, .ok_streak = 5, .why = "" },
                                     .model = { .known = true, .fail_streak = 3, .why = "404" },
                                     .previous = &up };
    health_judge(&in, 5, &v);
    assert_int_equal(v.health, HEALTH_DOWN);
}

static void requests_outrank_probes(void **state)
{
    (void)state;
    const struct health_verdict up = { .health = HEALTH_UP, .since_ms = 1 };
    struct health_verdict v;
    struct health_input in = { .provider = { .known = true, .fail_streak = 9, .why = "timeout" },
                               .model = { .why = "" },
                               .recent = 100,
                               .recent_failures = 1,
                               .answered_at_ms = 10000,
                               .previous = &up };
    health_judge(&in, 10000 + HEALTH_ANSWERED_MS, &v);
    assert_int_equal(v.health, HEALTH_UP);
    assert_string_equal(v.why, "requests are answered, though 9 probes in a row failed: timeout");
    health_judge(&in, 10000 + HEALTH_ANSWERED_MS + 1, &v); /* the answers stopped: a real outage */
    assert_int_equal(v.health, HEALTH_DOWN);
    in.previous = &v; /* and they came again */
    in.answered_at_ms = 20000;
    health_judge(&in, 20000, &v);
    assert_int_equal(v.health, HEALTH_UP);
    in.recent_failures = 21;
    health_judge(&in, 20000, &v);
    assert_int_equal(v.health, HEALTH_DOWN);
    in.recent_failures = 0;
    in.recent = HEALTH_SAMPLES_LEAST - 1;
    health_judge(&in, 20000, &v);
    assert_int_equal(v.health, HEALTH_DOWN);
}

static void a_clock_set_back_ends_the_rest(void **state)
{
    (void)state;
    const struct health_verdict down = { .health = HEALTH_DOWN, .by_telemetry = true, .since_ms = 5000000 };
    assert_int_equal(judge(&down, 9, 0, 1, 0, 1000).health, HEALTH_UP);
}

static void never_all_at_once(void **state)
{
    (void)state;
    const struct health_verdict up = { .health = HEALTH_UP, .since_ms = 1 },
                                down = { .health = HEALTH_DOWN, .since_ms = 2 };
    struct health_verdict previous[3] = { up, up, down }, fresh[3] = { down, down, down };
    assert_int_equal(health_settle(fresh, previous, 3, 9), 2);
    assert_int_equal(fresh[0].health, HEALTH_UP);
    assert_int_equal(fresh[1].health, HEALTH_UP);
    assert_int_equal(fresh[2].health, HEALTH_DOWN); /* was so before */
    assert_true(fresh[0].quarantined);
    assert_int_equal(fresh[0].since_ms, 1);
    struct health_verdict one_left[3] = { down, down, up };
    assert_int_equal(health_settle(one_left, previous, 3, 9), 0);
    assert_int_equal(one_left[0].health, HEALTH_DOWN);
    struct health_verdict all_were[2] = { down, down }, all_are[2] = { down, down };
    assert_int_equal(health_settle(all_are, all_were, 2, 9), 2);
    assert_int_equal(all_are[0].health, HEALTH_UNKNOWN);
    assert_int_equal(health_settle(all_are, all_were, 0, 9), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probes_mark_down_and_up),
        cmocka_unit_test(a_dead_prober_says_nothing),
        cmocka_unit_test(telemetry_marks_down_with_enough_samples),
        cmocka_unit_test(a_models_own_probe_comes_first),
        cmocka_unit_test(requests_outrank_probes),
        cmocka_unit_test(a_clock_set_back_ends_the_rest),
        cmocka_unit_test(never_all_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
