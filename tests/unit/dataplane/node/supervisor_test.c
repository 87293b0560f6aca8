/* What of a supervisor can be judged without processes; the rest is in tests/system. */
#include "dataplane/node/supervisor.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void one_that_starts_is_watched_with_more_patience(UNUSED void **state)
{
    static struct supervisor s;
    struct process p = { .pid = 4711, .started_ms = 5000, .region = PROCESS_NO_REGION, .state = PROCESS_STARTING };
    uint64_t turned_ms, limit_ms;
    s = (struct supervisor){ .slot_count = 2 };
    assert_int_equal(supervisor_watched(&s, 1, 1000, &turned_ms, &limit_ms), 0); /* nobody is there */
    s.slots[1].process = &p;
    assert_int_equal(supervisor_watched(&s, 1, 1000, &turned_ms, &limit_ms), 4711);
    assert_int_equal(turned_ms, 5000);
    assert_int_equal(limit_ms, SUPERVISOR_START_MS);
    assert_int_equal(supervisor_watched(&s, 1, SUPERVISOR_START_MS + 1, &turned_ms, &limit_ms), 4711);
    assert_int_equal(limit_ms, SUPERVISOR_START_MS + 1);
    assert_int_equal(supervisor_watched(&s, 1, 0, &turned_ms, &limit_ms), 4711);
    assert_int_equal(limit_ms, 0);                                               /* off is off */
    assert_int_equal(supervisor_watched(&s, 2, 1000, &turned_ms, &limit_ms), 0); /* no such slot */
    p.state = PROCESS_DRAINING;
    assert_int_equal(supervisor_watched(&s, 1, 1000, &turned_ms, &limit_ms), 0);
    p.state = PROCESS_UP; /* on a board that is gone: its turns cannot be seen */
    assert_int_equal(supervisor_watched(&s, 1, 1000, &turned_ms, &limit_ms), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_starts_is_watched_with_more_patience),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
