#include "dataplane/route/retry.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void the_clients_own_4xx_is_passed_through_and_never_retried(void **state)
{
    (void)state;
    static const unsigned own[] = { 400, 405, 406, 410, 413, 415, 422, 431, 499 };
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        struct retry_rule rule = retry_rule(RETRY_STATUS, own[i], false);
        assert_true(rule.pass_through);
        assert_false(rule.next || rule.breaker || rule.credential_bad);
    }
    struct retry_rule rule = retry_rule(RETRY_REFUSAL_IN_200, 200, false);
    assert_true(rule.pass_through && !rule.next);
}

static void what_is_ours_or_the_providers_moves_on(void **state)
{
    (void)state;
    static const unsigned theirs[] = { 0, 100, 301, 402, 408, 500, 502, 503, 504, 529, 599, 700, 5000 };
    for (size_t i = 0; i < ARRAY_LEN(theirs); i++) {
        struct retry_rule rule = retry_rule(RETRY_STATUS, theirs[i], false);
        assert_true(rule.next && rule.breaker);
        assert_false(rule.pass_through);
    }
    static const unsigned credential[] = { 401, 403 };
    for (size_t i = 0; i < ARRAY_LEN(credential); i++) {
        struct retry_rule rule = retry_rule(RETRY_STATUS, credential[i], false);
        assert_true(rule.next && rule.credential_bad);
        assert_false(rule.breaker || rule.pass_through);
    }
    struct retry_rule gone = retry_rule(RETRY_STATUS, 404, false);
    assert_true(gone.next && !gone.breaker && !gone.pass_through);
    struct retry_rule busy = retry_rule(RETRY_STATUS, 429, false);
    assert_true(busy.next && busy.cool_down && !busy.breaker && !busy.pass_through);
    assert_true(retry_rule(RETRY_STATUS, 503, false).cool_down);
    for (unsigned f = RETRY_CONNECT; f < RETRY_FAILURES; f++) {
        struct retry_rule rule = retry_rule((enum retry_failure)f, 200, false);
        assert_true(rule.next != rule.pass_through);
        assert_true(strlen(retry_failure_name((enum retry_failure)f)) > 0);
    }
}

static void after_first_content_nothing_is_retried(void **state)
{
    (void)state;
    for (unsigned f = 0; f < RETRY_FAILURES; f++)
        for (unsigned status = 0; status < 1000; status++) {
            struct retry_rule rule = retry_rule((enum retry_failure)f, status, true);
            assert_false(rule.next || rule.pass_through);
        }
    assert_true(retry_rule(RETRY_RESET, 0, true).breaker);
}

static void the_budget_is_a_fifth_and_three(void **state)
{
    (void)state;
    struct retry_budget budget = { .active = 0 };
    for (unsigned i = 0; i < 3; i++)
        assert_true(retry_take(&budget));
    assert_false(retry_take(&budget));
    budget.active = 100;
    for (unsigned i = 3; i < 23; i++)
        assert_true(retry_take(&budget));
    assert_false(retry_take(&budget));
    retry_give(&budget);
    assert_true(retry_take(&budget));
    budget.active = UINT32_MAX;
    assert_true(retry_take(&budget));
}

static void retry_after_is_read_in_both_forms(void **state)
{
    (void)state;
    /* 784111777 is RFC 9110's example date. */
    const int64_t now = INT64_C(784111777) * 1000;
    static const struct {
        const char *text;
        uint32_t ms;
    } cases[] = {
        { "0", 0 },
        { " 7 ", 7000 },
        { "299", 299000 },
        { "300", 300000 },
        { "86400", 300000 },
        { "99999999999999999999999", 300000 },
        { "-1", 0 },
        { "1.5", 0 },
        { "soon", 0 },
        { "", 0 },
        { "Sun, 06 Nov 1994 08:49:37 GMT", 0 },
        { "Sun, 06 Nov 1994 08:49:39 GMT", 2000 },
        { "Sun, 06 Nov 1994 08:48:00 GMT", 0 },
        { "Mon, 07 Nov 1994 08:49:37 GMT", 300000 },
        { "Sun, 06 Nov 1994 08:49:39 CET", 0 },
        { "Sun, 06 Noo 1994 08:49:39 GMT", 0 },
        { "Sun, 66 Nov 1994 08:49:39 GMT", 0 },
        { "Sun, 06 Nov 1994 0x:49:39 GMT", 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(retry_after_ms(span_cstr(cases[i].text), now), cases[i].ms);
    /* Leap day and year's end: 2024-02-29T23:59:59Z = 1709251199, 2027-01-01 = 1798761600. */
    assert_int_equal(retry_after_ms(SPAN("Thu, 29 Feb 2024 23:59:59 GMT"), INT64_C(1709251198000)), 1000);
    assert_int_equal(retry_after_ms(SPAN("Fri, 01 Jan 2027 00:00:00 GMT"), INT64_C(1798761599500)), 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_clients_own_4xx_is_passed_through_and_never_retried),
        cmocka_unit_test(what_is_ours_or_the_providers_moves_on),
        cmocka_unit_test(after_first_content_nothing_is_retried),
        cmocka_unit_test(the_budget_is_a_fifth_and_three),
        cmocka_unit_test(retry_after_is_read_in_both_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
