#include "controlplane/policy/prior.h"
#include "common/digest.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void test_sums_are_exact(void **state)
{
    (void)state;
    struct prng prng;
    prng_seed(&prng, 42);
    for (unsigned round = 0; round < 20000; round++) {
        double raw[TIER_MEMBERS_MAX];
        uint32_t ppm[TIER_MEMBERS_MAX], count = 1 + (uint32_t)(prng_u64(&prng) % TIER_MEMBERS_MAX);
        uint64_t range = UINT64_C(1) << (prng_u64(&prng) % 20), sum = 0;
        double total = 0;
        for (uint32_t i = 0; i < count; i++)
            total += raw[i] = (double)(prng_u64(&prng) % (range + 1));
        if (total <= 0)
            total = raw[0] = 1;
        prior_normalise(raw, count, ppm);
        for (uint32_t i = 0; i < count; i++) {
            sum += ppm[i];
            double exact = raw[i] / total * WEIGHT_WHOLE;
            assert_true((double)ppm[i] > exact - 1.0001 && (double)ppm[i] < exact + 1.0001);
            assert_true(raw[i] > 0 || ppm[i] == 0);
        }
        assert_int_equal(sum, WEIGHT_WHOLE);
    }
}

static void test_extremes(void **state)
{
    (void)state;
    uint32_t ppm[3];
    prior_normalise((const double[]){ 0, 5, 0 }, 3, ppm);
    assert_int_equal(ppm[0], 0);
    assert_int_equal(ppm[1], 1000000);
    prior_normalise((const double[]){ 1, 999999999, 1 }, 3, ppm);
    assert_int_equal(ppm[0] + ppm[1] + ppm[2], 1000000);
    prior_normalise((const double[]){ 1, 1, 1 }, 3, ppm);
    assert_int_equal(ppm[0], 333334);
    assert_int_equal(ppm[1], 333333);
}

static void test_cost(void **state)
{
    (void)state;
    struct price p = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 2500000000, .output = 10000000000 };
    /* 1,000 in at $2.50 and 300 out at $10 per million: $0.0025 + $0.0030 */
    assert_int_equal(prior_cost(&p, 0, 1000, 300), 5500000);
    assert_int_equal(prior_cost(&p, 120000, 1000, 300), 4840000);
    p.request = 7;
    assert_int_equal(prior_cost(&p, 0, 0, 0), 7);
    p.known |= PRICE_LONG;
    p.long_above = 999;
    p.long_input = 5000000000;
    p.long_output = 1;
    assert_int_equal(prior_cost(&p, 0, 1000, 300), 5000008); /* 0.0003 of a nano-dollar is rounded up */
    assert_int_equal(prior_cost(&p, 0, 999, 0), 2497507);
    p = (struct price){ .input = INT64_MAX, .output = INT64_MAX };
    assert_true(prior_cost(&p, 0, UINT32_MAX, UINT32_MAX) == INT64_MAX);
}

static void test_cheaper_gets_more(void **state)
{
    (void)state;
    uint32_t ppm[3];
    const int64_t costs[] = { 30, 10, 20 };
    prior_weights(costs, 3, &(struct objective_weights){ .cost = 1 }, ppm);
    /* e^-6, 1, e^-3 over their sum */
    assert_int_equal(ppm[0], 2356);
    assert_int_equal(ppm[1], 950330);
    assert_int_equal(ppm[2], 47314);
    prior_weights(costs, 3, &(struct objective_weights){ .cost = 1, .ttft = 3 }, ppm);
    assert_true(ppm[1] > ppm[2] && ppm[2] > ppm[0] && ppm[0] > 100000);
    prior_weights(costs, 3, &(struct objective_weights){ .ttft = 3 }, ppm);
    assert_int_equal(ppm[0], 333334);
    prior_weights((const int64_t[]){ 5, 5, 5 }, 3, &(struct objective_weights){ .cost = 1 }, ppm);
    assert_int_equal(ppm[2], 333333);
}

static void test_five_times_the_price_is_dear_beside_fifty_times(UNUSED void **state)
{
    const int64_t costs[] = { 100, 500, 5000 }, near[] = { 100, 101, 102 };
    const struct objective_weights cheapest = { .cost = 1 };
    uint32_t ppm[3];
    prior_weights(costs, 3, &cheapest, ppm);
    assert_true(ppm[0] > 950000); /* the range alone would leave the middle one 37% */
    assert_true(ppm[1] > ppm[2]);
    prior_weights(near, 3, &cheapest, ppm);
    assert_true(ppm[0] > 900000);                  /* the relation alone would give a third to each */
    assert_true(prior_cost_penalty(5, 0, 5) == 1); /* free beats everything */
    assert_true(prior_cost_penalty(7, 7, 7) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_are_exact),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_cost),
        cmocka_unit_test(test_cheaper_gets_more),
        cmocka_unit_test(test_five_times_the_price_is_dear_beside_fifty_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
