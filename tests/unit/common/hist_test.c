#include "common/hist.h"
#include "common/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void buckets_tile_the_range(void **state UNUSED)
{
    assert_int_equal(hist_bucket_floor(0), 0);
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        uint64_t floor = hist_bucket_floor(i), ceiling = hist_bucket_ceiling(i);
        assert_true(floor <= ceiling);
        assert_int_equal(hist_bucket(floor), i);
        assert_int_equal(hist_bucket(ceiling), i);
        if (i + 1 < HIST_BUCKETS)
            assert_true(hist_bucket_floor(i + 1) == ceiling + 1);
        assert_true((ceiling - floor) * 16 <= floor); /* at most 1/16 too high */
    }
    assert_true(hist_bucket_ceiling(HIST_BUCKETS - 1) == (UINT64_C(1) << HIST_VALUE_BITS) - 1);
    assert_int_equal(hist_bucket(UINT64_C(1) << HIST_VALUE_BITS), HIST_BUCKETS - 1);
    assert_int_equal(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
}

static int by_value(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* Values over many magnitudes, some of them equal. */
static uint64_t draw(struct prng *prng)
{
    return (prng_u64(prng) >> 28) >> (prng_u64(prng) % 36);
}

static void a_quantile_is_near_the_sorted_value(void **state UNUSED)
{
    static const double quantiles[] = { 0, 0.001, 0.01, 0.05, 0.07, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1 };
    struct prng prng;
    prng_seed(&prng, 5);
    for (int round = 0; round < 200; round++) {
        uint64_t values[300];
        size_t count = 1 + prng_u64(&prng) % ARRAY_LEN(values);
        struct hist hist = { .count = 0 };
        for (size_t i = 0; i < count; i++) {
            values[i] = draw(&prng);
            hist_add(&hist, values[i]);
        }
        qsort(values, count, sizeof values[0], by_value);
        for (size_t q = 0; q < ARRAY_LEN(quantiles); q++) {
            size_t rank = 1; /* least rank with rank / count >= quantile */
            while ((double)rank / (double)count < quantiles[q])
                rank++;
            uint64_t exact = values[rank - 1], told = hist_quantile(&hist, quantiles[q]);
            assert_true(told >= exact);
            assert_true(told - exact <= exact / 16);
        }
    }
}

static void a_merge_equals_one_histogram_of_all(void **state UNUSED)
{
    struct hist a = { .count = 0 }, b = { .count = 0 }, all = { .count = 0 };
    struct prng prng;
    prng_seed(&prng, 6);
    for (int i = 0; i < 2000; i++) {
        uint64_t value = draw(&prng);
        hist_add(i % 3 ? &a : &b, value);
        hist_add(&all, value);
    }
    hist_merge(&a, &b);
    assert_memory_equal(&a, &all, sizeof a);
    assert_int_equal(all.count, 2000);
}

static void edges(void **state UNUSED)
{
    struct hist hist = { .count = 0 };
    assert_int_equal(hist_quantile(&hist, 0.5), 0);
    hist_add(&hist, 7);
    assert_int_equal(hist_quantile(&hist, -1), 7);
    assert_int_equal(hist_quantile(&hist, 2), 7);
    assert_int_equal(hist_quantile(&hist, 0.5), 7);
    hist_add(&hist, UINT64_MAX);
    assert_true(hist_quantile(&hist, 1) == (UINT64_C(1) << HIST_VALUE_BITS) - 1);
    hist_add(&hist, UINT64_MAX);
    assert_true(hist.sum == UINT64_MAX); /* does not wrap */
    assert_int_equal(hist.count, 3);
    assert_int_equal(hist_quantile(&hist, __builtin_nan("")), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_tile_the_range),
        cmocka_unit_test(a_quantile_is_near_the_sorted_value),
        cmocka_unit_test(a_merge_equals_one_histogram_of_all),
        cmocka_unit_test(edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
