#include "controlplane/decide/weights.h"
#include "common/digest.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define ROUNDS 2000

static struct prng prng;

static uint32_t below(uint32_t n)
{
    return (uint32_t)(prng_u64(&prng) % n);
}

static struct tier tier_of(enum prefer prefer)
{
    static const struct objective_weights weights[] = { [PREFER_CHEAPEST] = { 8, 1, 0, 2, 1 },
                                                        [PREFER_FASTEST] = { 1, 5, 3, 2, 1 },
                                                        [PREFER_BALANCED] = { 4, 3, 2, 2, 1 } };
    return (struct tier){ .prefer = prefer, .objectives = weights[prefer] };
}

static struct weights_member healthy(int64_t cost)
{
    return (struct weights_member){ .cost_nano = cost,
                                    .samples = 1000,
                                    .ttft_ewma_us = 500000,
                                    .ttft_p95_us = 900000,
                                    .token_gap_us = 20000,
                                    .remaining_ppm = 1000001 };
}

static struct weights_member random_member(void)
{
    return (struct weights_member){ .cost_nano = (int64_t)below(1000000),
                                    .down = below(5) == 0,
                                    .samples = below(3) ? below(2000) : 0,
                                    .age_ms = below(400000),
                                    .ttft_ewma_us = below(4) ? below(5000000) : 0,
                                    .ttft_p95_us = below(4) ? below(9000000) : 0,
                                    .token_gap_us = below(4) ? below(100000) : 0,
                                    .errors_ppm = below(3) ? 0 : below(1000001),
                                    .remaining_ppm = below(2) ? below(1000001) : 1000001,
                                    .was = (enum weights_exclusion)below(5) };
}

static void random_weights(uint32_t count, uint32_t *ppm)
{
    double raw[TIER_MEMBERS_MAX], sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += raw[i] = below(4) ? prng_unit(&prng) : 0;
    if (sum <= 0)
        raw[0] = 1;
    prior_normalise(raw, count, ppm);
}

static void equal_weights(uint32_t count, uint32_t *ppm)
{
    double raw[TIER_MEMBERS_MAX];
    for (uint32_t i = 0; i < count; i++)
        raw[i] = 1;
    prior_normalise(raw, count, ppm);
}

/* Decides until nothing moves; returns the rounds. */
static unsigned settle(const struct tier *tier, struct weights_member *m, uint32_t count, uint32_t *ppm,
                       struct weights_outcome *out)
{
    for (unsigned round = 1; round < 200; round++) {
        bool moved = false;
        weights_decide(tier, m, count, ppm, out);
        for (uint32_t i = 0; i < count; i++) {
            moved |= ppm[i] != out[i].weight_ppm;
            ppm[i] = out[i].weight_ppm;
            m[i].was = out[i].excluded;
        }
        if (!moved)
            return round;
    }
    fail_msg("no convergence");
    return 0;
}

static void sums_floor_and_step_hold(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        struct weights_member m[TIER_MEMBERS_MAX];
        struct weights_outcome out[TIER_MEMBERS_MAX];
        uint32_t before[TIER_MEMBERS_MAX], count = 1 + below(TIER_MEMBERS_MAX), in = 0;
        struct tier tier = tier_of((enum prefer)(PREFER_CHEAPEST + below(3)));
        bool all_down = true, settled_before = true;
        if (below(2))
            tier.within = (struct bounds){ .ttft_p95_ms = below(9000),
                                           .errors_ppm = below(100000),
                                           .cost_nano_max = below(1000000) };
        for (uint32_t i = 0; i < count; i++) {
            m[i] = random_member();
            all_down &= m[i].down;
        }
        random_weights(count, before);
        weights_decide(&tier, m, count, before, out);
        uint64_t sum = 0, targets = 0;
        uint32_t least = WEIGHTS_FLOOR_PPM < WEIGHT_WHOLE / 5 / count ? WEIGHTS_FLOOR_PPM : WEIGHT_WHOLE / 5 / count;
        for (uint32_t i = 0; i < count; i++) {
            sum += out[i].weight_ppm;
            targets += out[i].target_ppm;
            in += out[i].excluded == WEIGHTS_IN;
            if (out[i].excluded == WEIGHTS_IN) {
                assert_true(out[i].weight_ppm >= least);
                settled_before &= before[i] >= least;
            }
            if (m[i].down && !all_down) {
                assert_int_equal(out[i].weight_ppm, 0);
                settled_before &= before[i] == 0;
            }
            assert_true(out[i].score >= 0 && out[i].score <= 1);
        }
        assert_int_equal(sum, WEIGHT_WHOLE);
        assert_int_equal(targets, WEIGHT_WHOLE);
        assert_true(in > 0);
        for (uint32_t i = 0; settled_before && i < count; i++) { /* nothing was forced: the step holds */
            int64_t moved = (int64_t)out[i].weight_ppm - before[i];
            assert_true(moved <= WEIGHTS_STEP_PPM + 1 && moved >= -(int64_t)WEIGHTS_STEP_PPM - 1);
        }
    }
}

static void cheaper_never_gets_less(void **state)
{
    (void)state;
    struct tier tier = tier_of(PREFER_CHEAPEST);
    for (int round = 0; round < ROUNDS; round++) {
        struct weights_member m[8];
        struct weights_outcome before[8], after[8];
        uint32_t ppm[8], count = 2 + below(7), who = below(count);
        for (uint32_t i = 0; i < count; i++)
            m[i] = healthy(1 + (int64_t)below(1000000));
        equal_weights(count, ppm);
        weights_decide(&tier, m, count, ppm, before);
        m[who].cost_nano -= (int64_t)below((uint32_t)m[who].cost_nano + 1);
        weights_decide(&tier, m, count, ppm, after);
        assert_true(after[who].target_ppm + 2 >= before[who].target_ppm); /* a millionth of rounding each */
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t k = 0; k < count; k++)
                assert_true(m[i].cost_nano >= m[k].cost_nano || after[i].target_ppm + 1 >= after[k].target_ppm);
        }
    }
}

static void without_evidence_it_is_the_prior(void **state)
{
    (void)state;
    const int64_t costs[] = { 100, 200, 400 };
    struct tier tier = tier_of(PREFER_BALANCED);
    struct weights_member m[3] = { 0 };
    struct weights_outcome out[3];
    uint32_t prior[3];
    prior_weights(costs, 3, &tier.objectives, prior);
    for (int i = 0; i < 3; i++)
        m[i] = (struct weights_member){ .cost_nano = costs[i], .remaining_ppm = 1000001 };
    weights_decide(&tier, m, 3, prior, out);
    for (int i = 0; i < 3; i++)
        assert_int_equal(out[i].weight_ppm, prior[i]);
}

static void converges_in_steps(void **state)
{
    (void)state;
    struct tier tier = tier_of(PREFER_FASTEST);
    struct weights_member m[2] = { healthy(100), healthy(100) };
    struct weights_outcome out[2];
    uint32_t ppm[2] = { 500000, 500000 };
    m[0].ttft_ewma_us = 5000000;
    m[0].ttft_p95_us = 9000000;
    unsigned rounds = settle(&tier, m, 2, ppm, out);
    assert_true(rounds > 3 && rounds < 30);
    assert_true(ppm[1] > 850000);
    m[1].ttft_ewma_us = 50000000; /* the other way round */
    m[1].ttft_p95_us = 90000000;
    rounds = settle(&tier, m, 2, ppm, out);
    assert_true(rounds > 10 && ppm[0] > 850000);
}

static void noise_does_not_flap(void **state)
{
    (void)state;
    struct tier tier = tier_of(PREFER_FASTEST);
    struct weights_member m[3] = { healthy(100), healthy(110), healthy(120) };
    struct weights_outcome out[3];
    uint32_t ppm[3], moves = 0;
    equal_weights(3, ppm);
    settle(&tier, m, 3, ppm, out);
    for (int round = 0; round < 500; round++) {
        for (int i = 0; i < 3; i++) {
            m[i].ttft_ewma_us = 495000 + below(10000); /* 1% either way */
            m[i].ttft_p95_us = 891000 + below(18000);
        }
        weights_decide(&tier, m, 3, ppm, out);
        for (int i = 0; i < 3; i++) {
            moves += ppm[i] != out[i].weight_ppm;
            ppm[i] = out[i].weight_ppm;
        }
    }
    assert_int_equal(moves, 0);
}

static void down_goes_at_once_and_returns_slowly(void **state)
{
    (void)state;
    struct tier tier = tier_of(PREFER_BALANCED);
    struct weights_member m[3] = { healthy(100), healthy(100), healthy(100) };
    struct weights_outcome out[3];
    uint32_t ppm[3];
    equal_weights(3, ppm);
    m[1].down = true;
    weights_decide(&tier, m, 3, ppm, out);
    assert_int_equal(out[1].weight_ppm, 0);
    assert_int_equal(out[1].excluded, WEIGHTS_DOWN);
    for (int i = 0; i < 3; i++)
        ppm[i] = out[i].weight_ppm;
    m[1].down = false;
    weights_decide(&tier, m, 3, ppm, out);
    assert_true(out[1].weight_ppm >= WEIGHTS_FLOOR_PPM &&
                out[1].weight_ppm <= WEIGHTS_FLOOR_PPM + WEIGHTS_STEP_PPM + 2);
    m[0].down = m[1].down = m[2].down = true; /* then nobody is excluded */
    uint32_t whole[3] = { WEIGHT_WHOLE, 0, 0 };
    weights_decide(&tier, m, 3, whole, out);
    for (int i = 0; i < 3; i++)
        assert_true(out[i].weight_ppm > 0);
    m[1].down = m[2].down = false; /* only the one that is down had any */
    weights_decide(&tier, m, 3, whole, out);
    assert_int_equal(out[0].weight_ppm, 0);
    assert_int_equal(out[1].weight_ppm + out[2].weight_ppm, WEIGHT_WHOLE);
}

static void bounds_exclude(void **state)
{
    (void)state;
    struct tier tier = tier_of(PREFER_CHEAPEST);
    struct weights_member m[2] = { healthy(100), healthy(900) };
    struct weights_outcome out[2];
    uint32_t ppm[2] = { 500000, 500000 };
    tier.within = (struct bounds){ .ttft_p95_ms = 1000, .errors_ppm = 20000 };
    settle(&tier, m, 2, ppm, out);
    assert_int_equal(out[0].excluded, WEIGHTS_IN);
    m[0].ttft_p95_us = 1000001;
    settle(&tier, m, 2, ppm, out);
    assert_int_equal(out[0].excluded, WEIGHTS_OVER_TTFT);
    assert_int_equal(ppm[0], 0);
    m[0].ttft_p95_us = 950000; /* inside, but not by a tenth */
    settle(&tier, m, 2, ppm, out);
    assert_int_equal(out[0].excluded, WEIGHTS_OVER_TTFT);
    m[0].ttft_p95_us = 890000;
    settle(&tier, m, 2, ppm, out);
    assert_true(ppm[0] > 900000);
    m[0].ttft_p95_us = 2000000;
    m[0].samples = 0; /* what is not known does not exclude */
    settle(&tier, m, 2, ppm, out);
    assert_int_equal(out[0].excluded, WEIGHTS_IN);
    m[0] = healthy(100);
    m[0].errors_ppm = 400000;
    m[1].ttft_p95_us = 1100000; /* all are outside: the one nearest to its bounds stays */
    settle(&tier, m, 2, ppm, out);
    assert_int_equal(out[0].excluded, WEIGHTS_OVER_ERRORS);
    assert_int_equal(out[1].excluded, WEIGHTS_IN);
    assert_int_equal(ppm[1], WEIGHT_WHOLE);
}

static void scarcity_and_errors_count(void **state)
{
    (void)state;
    struct tier tier = tier_of(PREFER_BALANCED);
    struct weights_member m[2] = { healthy(100), healthy(100) };
    struct weights_outcome out[2];
    uint32_t ppm[2] = { 500000, 500000 };
    m[0].errors_ppm = 100000;
    weights_decide(&tier, m, 2, ppm, out);
    assert_true(out[0].target_ppm < 450000);
    m[0].errors_ppm = 0;
    m[0].remaining_ppm = 500000;
    m[1].remaining_ppm = 1000000;
    weights_decide(&tier, m, 2, ppm, out);
    assert_int_equal(out[0].target_ppm, 500000); /* plenty */
    m[0].remaining_ppm = 10000;
    weights_decide(&tier, m, 2, ppm, out);
    assert_true(out[0].target_ppm < 450000);
    /* old or little evidence weighs less */
    m[0] = healthy(100);
    m[0].errors_ppm = 100000;
    weights_decide(&tier, m, 2, ppm, out);
    uint32_t fresh = out[0].target_ppm;
    m[0].age_ms = 180000;
    weights_decide(&tier, m, 2, ppm, out);
    assert_true(out[0].target_ppm > fresh);
}

static int seed(void **state)
{
    (void)state;
    prng_seed(&prng, 20260801);
    return 0;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup(f, seed)
    const struct CMUnitTest tests[] = {
        TEST(sums_floor_and_step_hold), TEST(cheaper_never_gets_less),   TEST(without_evidence_it_is_the_prior),
        TEST(converges_in_steps),       TEST(noise_does_not_flap),       TEST(down_goes_at_once_and_returns_slowly),
        TEST(bounds_exclude),           TEST(scarcity_and_errors_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
