#include "common/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static int disarm(void **state UNUSED)
{
    fault_disarm_all();
    unsetenv("FAIRLEAD_FAULT");
    unsetenv("FAIRLEAD_FAULT_ENABLE");
    return 0;
}

static unsigned pattern(enum fault_kind kind, unsigned operations)
{
    unsigned bits = 0;
    for (unsigned i = 0; i < operations; i++)
        bits |= (fault_hit(kind) ? 1U : 0U) << i;
    return bits;
}

static void exactly_the_armed_operations_fail(void **state UNUSED)
{
    assert_int_equal(pattern(FAULT_READ, 8), 0);
    fault_arm(FAULT_READ, 2, 3);
    assert_int_equal(pattern(FAULT_READ, 8), 0x1c);
    assert_int_equal(fault_seen(FAULT_READ), 8);
    assert_int_equal(pattern(FAULT_WRITE, 8), 0);
    fault_arm(FAULT_READ, 0, 1); /* counts from now */
    assert_int_equal(pattern(FAULT_READ, 3), 1);
    fault_arm(FAULT_READ, 0, 0);
    assert_int_equal(pattern(FAULT_READ, 3), 0);
    assert_int_equal(fault_seen(FAULT_READ), 3);
    fault_arm(FAULT_READ, 1, UINT64_MAX);
    assert_int_equal(pattern(FAULT_READ, 4), 0xe);
    fault_disarm_all();
    assert_int_equal(pattern(FAULT_READ, 4), 0);
}

static void allocations_fail_on_demand(void **state UNUSED)
{
    fault_arm(FAULT_ALLOC, 1, 2);
    char *kept = fault_malloc(4);
    assert_non_null(kept);
    memcpy(kept, "abc", 4);
    assert_null(fault_calloc(1, 4));
    assert_null(fault_realloc(kept, 8));
    assert_string_equal(kept, "abc"); /* realloc that fails leaves the old block */
    kept = fault_realloc(kept, 8);
    assert_string_equal(kept, "abc");
    free(kept);
}

static void environment_needs_the_second_variable(void **state UNUSED)
{
    setenv("FAIRLEAD_FAULT", "connect:0", 1);
    assert_int_equal(fault_from_env(), OK);
    assert_false(fault_hit(FAULT_CONNECT));
    setenv("FAIRLEAD_FAULT_ENABLE", "0", 1);
    assert_int_equal(fault_from_env(), OK);
    assert_false(fault_hit(FAULT_CONNECT));
    setenv("FAIRLEAD_FAULT_ENABLE", "1", 1);
    assert_int_equal(fault_from_env(), OK);
    assert_int_equal(pattern(FAULT_CONNECT, 4), 1);
}

static void environment_arms_all_kinds(void **state UNUSED)
{
    setenv("FAIRLEAD_FAULT_ENABLE", "1", 1);
    setenv("FAIRLEAD_FAULT",
           "alloc:0,read:1,write:0:2,connect:0,accept:0,commit:0,fsync:0,resolve:0,store:0,record:1,crash_table:3:1,"
           "drain:0",
           1);
    assert_int_equal(fault_from_env(), OK);
    assert_int_equal(pattern(FAULT_ALLOC, 4), 1);
    assert_int_equal(pattern(FAULT_READ, 4), 2);
    assert_int_equal(pattern(FAULT_WRITE, 4), 3);
    assert_int_equal(pattern(FAULT_CONNECT, 4), 1);
    assert_int_equal(pattern(FAULT_ACCEPT, 4), 1);
    assert_int_equal(pattern(FAULT_COMMIT, 4), 1);
    assert_int_equal(pattern(FAULT_FSYNC, 4), 1);
    assert_int_equal(pattern(FAULT_RESOLVE, 4), 1);
    assert_int_equal(pattern(FAULT_STORE, 4), 1);
    assert_int_equal(pattern(FAULT_RECORD, 4), 2);
    assert_int_equal(pattern(FAULT_CRASH_TABLE, 4), 8);
    assert_int_equal(pattern(FAULT_DRAIN, 4), 1);
}

static void a_bad_environment_arms_nothing(void **state UNUSED)
{
    static const char *const bad[] = {
        "",          "read",   "read:",   "read:x",  "read:1:",      "read:1:2:3",
        "nothing:0", "READ:0", "read:1,", "read:-1", "read:0,bad:0", "read: 0",
    };
    setenv("FAIRLEAD_FAULT_ENABLE", "1", 1);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        setenv("FAIRLEAD_FAULT", bad[i], 1);
        assert_int_equal(fault_from_env(), ERR_SYNTAX);
        assert_false(fault_hit(FAULT_READ));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(exactly_the_armed_operations_fail, disarm),
        cmocka_unit_test_teardown(allocations_fail_on_demand, disarm),
        cmocka_unit_test_teardown(environment_needs_the_second_variable, disarm),
        cmocka_unit_test_teardown(environment_arms_all_kinds, disarm),
        cmocka_unit_test_teardown(a_bad_environment_arms_nothing, disarm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
