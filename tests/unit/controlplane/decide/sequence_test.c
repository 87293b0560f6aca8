#include "controlplane/decide/sequence.h"
#include "common/digest.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define ASSERT_NEAR(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

/* Published values (Abramowitz and Stegun, table 26.1 and 26.2). */
static void test_normal(void **state)
{
    (void)state;
    ASSERT_NEAR(sequence_normal_tail(0), 0.5, 1e-15);
    ASSERT_NEAR(sequence_normal_tail(1.959963984540054), 0.025, 1e-12);
    ASSERT_NEAR(sequence_normal_tail(-1.959963984540054), 0.975, 1e-12);
    ASSERT_NEAR(sequence_normal_quantile(log(0.025)), 1.959963984540054, 1e-9);
    ASSERT_NEAR(sequence_normal_quantile(log(0.975)), -1.959963984540054, 1e-9);
    ASSERT_NEAR(sequence_normal_quantile(log(1e-9)), 5.997807015008182, 1e-9);
    ASSERT_NEAR(sequence_normal_quantile(log(0.5)), 0, 1e-9);
    assert_true(sequence_normal_quantile(0) == -INFINITY);
    for (int i = 0; i <= 116; i++) { /* to 36.92 */
        double at = -6 + 0.37 * i;
        ASSERT_NEAR(sequence_normal_quantile(log(sequence_normal_tail(at))), at, 1e-6);
    }
    /* Far beyond what a double's tail can hold: z^2/2 is nearly all of it. */
    double z = sequence_normal_quantile(-1e5);
    ASSERT_NEAR(z * z / 2 + log(z) + 0.9189385332046727, 1e5, 1e-3);
}

static void test_spending_sums_to_alpha(void **state)
{
    (void)state;
    double sum = 0;
    for (uint32_t k = 1; k <= 100000; k++)
        sum += sequence_spend(0.05, k);
    assert_true(sum < 0.05);
    ASSERT_NEAR(sum, 0.05, 1e-5);
}

/* Exact tail of a sum over all 2^count assignments. */
static double exact_tail(const double *d, uint32_t count, double p, double sum, bool upper)
{
    double tail = 0;
    for (uint32_t set = 0; set < 1u << count; set++) {
        double s = 0, weight = 1;
        for (uint32_t i = 0; i < count; i++) {
            weight *= set >> i & 1 ? p : 1 - p;
            s += set >> i & 1 ? d[i] : 0;
        }
        if (upper ? s >= sum - 1e-9 : s <= sum + 1e-9)
            tail += weight;
    }
    return tail;
}

static double some_sum(struct prng *prng, const double *d, uint32_t count, double p)
{
    double s = 0;
    for (uint32_t i = 0; i < count; i++)
        s += prng_unit(prng) < p ? d[i] : 0;
    return s;
}

/* Against enumeration: the tail is right within a third where it is called a tail, in both directions, for skewed parts. */
static void test_randomisation_against_enumeration(void **state)
{
    (void)state;
    struct prng prng;
    prng_seed(&prng, 7);
    uint32_t compared = 0;
    for (uint32_t round = 0; round < 60; round++) {
        enum { COUNT = 16 };
        double d[COUNT], sum = 0, p = round % 2 ? 0.5 : 0.25;
        for (uint32_t i = 0; i < COUNT; i++)
            sum += d[i] = 0.3 + prng_unit(&prng) + (i % 4 == 0 ? 0.4 : 0);
        for (uint32_t i = 0; i < COUNT; i++)
            d[i] -= sum / COUNT;
        double at = some_sum(&prng, d, COUNT, round % 3 ? 0.5 : 0.7), z = sequence_randomised(d, COUNT, p, at, 0);
        if (fabs(z) < 1)
            continue;
        double exact = exact_tail(d, COUNT, p, at, z > 0), tail = sequence_normal_tail(fabs(z));
        if (exact < 1e-4)
            continue; /* a handful of the 65,536 assignments: no smooth tail */
        assert_true(tail > exact * 0.66 && tail < exact * 1.5);
        compared++;
    }
    assert_true(compared > 10);
}

/* Where the parts are alike the sum is binomial: the lattice counts. */
static void test_randomisation_on_a_lattice(void **state)
{
    (void)state;
    double d[16];
    for (uint32_t i = 0; i < 16; i++)
        d[i] = 1;
    for (uint32_t k = 10; k <= 15; k++) {
        double exact = exact_tail(d, 16, 0.4, k, true);
        double tail = sequence_normal_tail(sequence_randomised(d, 16, 0.4, k, 1));
        assert_true(tail > 0.9 * exact && tail < 1.1 * exact);
    }
    /* Everybody: the edge of what is possible, 0.4^16. */
    double edge = sequence_normal_tail(sequence_randomised(d, 16, 0.4, 16, 1));
    ASSERT_NEAR(log(edge), 16 * log(0.4), 0.1);
}

static void test_randomisation_trusts_no_single_unit(void **state)
{
    (void)state;
    double d[20];
    for (uint32_t i = 0; i < 20; i++)
        d[i] = i == 0 ? 0.95 : -0.05;
    /* That this unit and no other is treated has a probability, whatever its size. */
    double z = sequence_randomised(d, 20, 0.05, 0.95, 0);
    assert_true(sequence_normal_tail(z) >= 0.05 * pow(0.95, 19));
    double nothing[20] = { 0 };
    assert_true(sequence_randomised(nothing, 20, 0.5, 0, 0) == 0);
}

static void test_shares(void **state)
{
    (void)state;
    /* Nothing seen in either arm: a rise is excluded by what 100 requests can exclude, -ln(a)/n. */
    struct sequence_shares none = { .share = { 0, 0 }, .n = { 1e7, 100 }, .dispersion = 1 };
    double at = -log(0.001) / 100;
    double bound = 1 - exp(-at);
    ASSERT_NEAR(sequence_normal_tail(-sequence_shares(&none, bound)), 0.001, 1e-4);
    assert_true(sequence_shares(&none, 0) == 0);
    /* Falls with the hypothesis, through zero at the estimate. */
    struct sequence_shares s = { .share = { 0.01, 0.03 }, .n = { 5000, 2000 }, .dispersion = 2 };
    double last = INFINITY;
    for (int percent = -30; percent < 90; percent++) {
        double z = sequence_shares(&s, percent / 100.0);
        assert_true(z <= last);
        last = z;
    }
    assert_true(sequence_shares(&s, 0.019) >= 0 && sequence_shares(&s, 0.021) <= 0);
    double one = sequence_shares(&s, 0);
    s.dispersion = 4;
    assert_true(sequence_shares(&s, 0) < one);
    /* Edges: everything failed. */
    struct sequence_shares all = { .share = { 1, 1 }, .n = { 50, 50 }, .dispersion = 1 };
    assert_true(sequence_shares(&all, 0) == 0 && sequence_shares(&all, 1) < 0 && sequence_shares(&all, -1) > 0);
}

/* Chernoff's promise, by exact binomial tails: of 60 requests the bound never claims more than is true. */
static void test_shares_bound_holds(void **state)
{
    (void)state;
    for (uint32_t k = 0; k <= 60; k++)
        for (int percent = 2; percent < 100; percent += 7) {
            double p = percent / 100.0;
            double tail = 0, log_choose = 0;
            for (uint32_t i = 0; i <= k; i++) {
                if (i > 0)
                    log_choose += log((61.0 - i) / i);
                tail += exp(log_choose + i * log(p) + (60 - i) * log1p(-p));
            }
            struct sequence_shares s = { .share = { 0, k / 60.0 }, .n = { 1e9, 60 }, .dispersion = 1 };
            if (k / 60.0 < p)
                assert_true(sequence_normal_tail(-sequence_shares(&s, p)) >= fmin(tail, 0.5) * 0.999);
        }
}

static double falling(void *user, double at)
{
    (*(uint32_t *)user)++;
    return 3 - at * at * at;
}

static void test_crossing(void **state)
{
    (void)state;
    uint32_t calls = 0;
    double zero = cbrt(3), at = sequence_crossing(falling, &calls, -5, zero, 0.01, 100);
    assert_true(at >= 2 - 1e-9 && at - 2 < 0.01 * (2 - zero)); /* on the far side */
    at = sequence_crossing(falling, &calls, 11, zero, -0.01, -100);
    assert_true(at <= -2 + 1e-9 && -2 - at < 0.01 * (2 + zero));
    assert_true(sequence_crossing(falling, &calls, -1e9, zero, 1, 100) == 100);
    assert_true(calls < 60);
}

static void test_ratio(void **state)
{
    (void)state;
    const double shares[] = { 95, 5 };
    struct prng prng;
    prng_seed(&prng, 11);
    uint32_t alarms = 0;
    for (uint32_t round = 0; round < 400; round++) {
        struct sequence_ratio r;
        sequence_ratio_init(&r, shares, 2);
        for (uint32_t i = 0; i < 3000; i++)
            sequence_ratio_add(&r, prng_unit(&prng) < 0.05);
        alarms += sequence_ratio_p(&r) <= 0.05;
    }
    assert_true(alarms <= 20); /* 5% of 400 at most, asked after each unit */
    struct sequence_ratio r;
    sequence_ratio_init(&r, shares, 2);
    uint32_t units = 0;
    while (sequence_ratio_p(&r) > 0.01 && units < 100000) {
        sequence_ratio_add(&r, prng_unit(&prng) < 0.03);
        units++;
    }
    assert_true(units < 5000);
    assert_int_equal(r.counts[0] + r.counts[1], units);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_spending_sums_to_alpha),
        cmocka_unit_test(test_randomisation_against_enumeration),
        cmocka_unit_test(test_randomisation_on_a_lattice),
        cmocka_unit_test(test_randomisation_trusts_no_single_unit),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_shares_bound_holds),
        cmocka_unit_test(test_crossing),
        cmocka_unit_test(test_ratio),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
