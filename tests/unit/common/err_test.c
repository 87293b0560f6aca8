#include "common/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void every_error_has_its_own_stable_name(void **state UNUSED)
{
    for (int i = 0; i < ERR_COUNT; i++) {
        const char *name = err_name((enum err)i);
        assert_string_not_equal(name, "unknown");
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz_"), strlen(name));
        for (int j = 0; j < i; j++)
            assert_string_not_equal(name, err_name((enum err)j));
    }
    assert_string_equal(err_name(OK), "ok");
    assert_string_equal(err_name(ERR_TOO_LARGE), "too_large");
    assert_string_equal(err_name(ERR_NO_CANDIDATE), "no_candidate");
}

static void a_number_that_is_no_error_has_a_name_too(void **state UNUSED)
{
    assert_string_equal(err_name(ERR_COUNT), "unknown");
    assert_string_equal(err_name((enum err)1000), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_has_its_own_stable_name),
        cmocka_unit_test(a_number_that_is_no_error_has_a_name_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
