/* The short version of tests/bench/aa: the same traffic, fewer experiments. The seeds are fixed, so that it fails when
 * the method is broken and never by chance. */
#include "tests/bench/aa/world.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define EXPERIMENTS 300u
#define REQUESTS    1600u

static void test_false_alarms(void **state)
{
    (void)state;
    static const struct {
        uint32_t units;
        double treated;
    } settings[] = { { 20, 0.5 }, { 200, 0.5 }, { 200, 0.1 } };
    for (size_t s = 0; s < ARRAY_LEN(settings); s++) {
        struct world_setting setting = { .units = settings[s].units,
                                         .requests = REQUESTS,
                                         .treated = settings[s].treated,
                                         .errors = 1,
                                         .ttft = 1,
                                         .errors_base = 0.05 };
        uint32_t harm = 0, difference = 0, ratio = 0, tripwire = 0, naive = 0;
        for (uint32_t i = 0; i < EXPERIMENTS; i++) {
            struct world_outcome o;
            world_play(&setting, 1000 * s + i, world_guards, WORLD_GUARDS, true, &o);
            harm += o.harm;
            difference += o.difference;
            ratio += o.ratio;
            tripwire += o.tripwire;
            naive += o.naive;
        }
        assert_true(harm <= EXPERIMENTS / 20 && difference <= EXPERIMENTS / 20);
        assert_true(ratio <= EXPERIMENTS / 100);
        assert_int_equal(tripwire, 0);
        /* The world is one in which it is easy to be wrong. */
        assert_true(naive > EXPERIMENTS / 5);
    }
}

/* Where there is an effect: the intervals hold it, at every look. */
static void test_intervals(void **state)
{
    (void)state;
    for (uint32_t effect = WORLD_ERRORS; effect <= WORLD_TTFT; effect++) {
        struct world_setting setting = { .units = 60,
                                         .requests = 3 * REQUESTS,
                                         .treated = 0.5,
                                         .errors = effect == WORLD_ERRORS ? 2 : 1,
                                         .ttft = effect == WORLD_TTFT ? 1.5 : 1,
                                         .errors_base = 0.1 };
        uint32_t missed = 0;
        for (uint32_t i = 0; i < EXPERIMENTS; i++) {
            struct world_outcome o;
            world_play(&setting, 5000 + i, &world_guards[effect], 1, true, &o);
            missed += o.missed[0];
        }
        assert_true(missed <= EXPERIMENTS / 10); /* two sides at 5% each */
    }
}

static void test_power(void **state)
{
    (void)state;
    static const struct {
        double errors, ttft;
    } harms[] = { { 6, 1 }, { 1, 2 } };
    for (size_t h = 0; h < ARRAY_LEN(harms); h++) {
        struct world_setting setting = { .units = 400,
                                         .requests = 4 * REQUESTS,
                                         .treated = 0.5,
                                         .errors = harms[h].errors,
                                         .ttft = harms[h].ttft,
                                         .errors_base = 0.05 };
        uint32_t found = 0;
        for (uint32_t i = 0; i < 20; i++) {
            struct world_outcome o;
            world_play(&setting, i, world_guards, WORLD_GUARDS, false, &o);
            found += o.harm;
            assert_false(o.ratio);
        }
        assert_true(found >= 17);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_false_alarms),
        cmocka_unit_test(test_intervals),
        cmocka_unit_test(test_power),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
