#include "dataplane/worker/h2_budget.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static unsigned take_all(struct h2_budget *budget, uint64_t now_ms)
{
    unsigned n = 0;
    while (n < 1000000 && h2_budget_take(budget, now_ms))
        n++;
    return n;
}

static void spends_what_it_has_and_no_more(void **state)
{
    (void)state;
    struct h2_budget budget;
    h2_budget_init(&budget, 5, 10, 1000);
    assert_int_equal(take_all(&budget, 1000), 5);
    assert_false(h2_budget_take(&budget, 1000));
}

static void time_gives_back(void **state)
{
    (void)state;
    struct h2_budget budget;
    h2_budget_init(&budget, 5, 10, 1000);
    assert_int_equal(take_all(&budget, 1000), 5);
    assert_int_equal(take_all(&budget, 1099), 0); /* a tenth of a second each */
    assert_int_equal(take_all(&budget, 1100), 1);
    assert_int_equal(take_all(&budget, 1300), 2);
    assert_int_equal(take_all(&budget, 1300 + 3600000), 5); /* never more than the most */
    assert_int_equal(take_all(&budget, UINT64_MAX), 5);
    assert_int_equal(take_all(&budget, 0), 0); /* a clock that goes back gives nothing */
}

static void work_gives_back(void **state)
{
    (void)state;
    struct h2_budget budget;
    h2_budget_init(&budget, 5, 0, 0);
    h2_budget_earn(&budget, 100);
    assert_int_equal(take_all(&budget, 0), 5);
    h2_budget_earn(&budget, 2);
    assert_int_equal(take_all(&budget, 0), 2);
    h2_budget_earn(&budget, UINT32_MAX);
    assert_int_equal(take_all(&budget, 0), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spends_what_it_has_and_no_more),
        cmocka_unit_test(time_gives_back),
        cmocka_unit_test(work_gives_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
