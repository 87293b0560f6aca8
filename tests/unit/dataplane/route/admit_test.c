#include "dataplane/route/admit.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct admit_load idle = { .has_policy = true, .requests_max = 10, .bytes_max = 1000 };

static void each_cap_refuses(void **state)
{
    (void)state;
    struct admit_load load = idle;
    load.bytes_more = 1000;
    load.requests_open = 9;
    assert_int_equal(admit_request(&load), ADMIT_OK);
    load.bytes_buffered = 1;
    assert_int_equal(admit_request(&load), ADMIT_BYTES);
    load.bytes_more = UINT64_MAX;
    assert_int_equal(admit_request(&load), ADMIT_BYTES);
    load = idle;
    load.bytes_buffered = 2000;
    assert_int_equal(admit_request(&load), ADMIT_BYTES);
    load.requests_open = 10;
    assert_int_equal(admit_request(&load), ADMIT_REQUESTS);
    load.has_policy = false;
    assert_int_equal(admit_request(&load), ADMIT_NO_POLICY);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(each_cap_refuses) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
