#include "dataplane/route/arms.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const uint8_t salt[ARMS_SALT_BYTES] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

/* From an implementation written apart from ours, after the paper; it gives the paper's own vector. */
static void buckets_agree_with_other_implementations(void **state)
{
    (void)state;
    assert_int_equal(arms_bucket(salt, SPAN("")), 4353);
    assert_int_equal(arms_bucket(salt, SPAN("key_a")), 7934);
    assert_int_equal(arms_bucket(salt, SPAN("user-42")), 9767);
    assert_int_equal(arms_bucket(salt, SPAN("key_2n7h4j9x")), 6209);
    assert_int_equal(arms_bucket(salt, SPAN("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")), 4075);
}

static uint32_t pick(uint32_t stable, uint32_t second, uint32_t third, unsigned unit)
{
    struct arm arms[] = { { .buckets = stable }, { .buckets = second }, { .buckets = third } };
    struct head head = { .arms = arms, .arm_count = third ? 3 : second ? 2 : 1 };
    char text[16];
    int len = snprintf(text, sizeof text, "unit-%u", unit);
    return arms_pick(&head, salt, span_of(text, (size_t)len));
}

static void one_arm_has_everyone(void **state)
{
    (void)state;
    for (unsigned unit = 0; unit < 1000; unit++)
        assert_int_equal(pick(10000, 0, 0, unit), 0);
}

static void shares_are_met(void **state)
{
    (void)state;
    unsigned count[3] = { 0 };
    for (unsigned unit = 0; unit < 100000; unit++)
        count[pick(7000, 2000, 1000, unit)]++;
    /* Five standard deviations: sqrt(100000 x 0.2 x 0.8) = 126, sqrt(100000 x 0.1 x 0.9) = 95. */
    assert_in_range(count[1], 20000 - 632, 20000 + 632);
    assert_in_range(count[2], 10000 - 474, 10000 + 474);
}

static void growing_an_arm_only_takes_from_stable(void **state)
{
    (void)state;
    for (unsigned unit = 0; unit < 20000; unit++) {
        uint32_t before = pick(9500, 500, 0, unit), after = pick(7500, 2500, 0, unit);
        assert_true(before == 0 || after == 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_agree_with_other_implementations),
        cmocka_unit_test(one_arm_has_everyone),
        cmocka_unit_test(shares_are_met),
        cmocka_unit_test(growing_an_arm_only_takes_from_stable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
