#include "dataplane/worker/deadline.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static unsigned passed_count;
static uint64_t passed_at;

static void passed(struct deadline *deadline)
{
    passed_count++;
    passed_at = uv_now(deadline->timer.loop);
}

static void fires_once_and_not_early(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct deadline d;
    assert_int_equal(uv_loop_init(&loop), 0);
    deadline_init(&d, &loop, passed);
    passed_count = 0;
    uint64_t start = uv_now(&loop);
    deadline_set(&d, start + 20);
    deadline_set(&d, start + 60); /* later: only a store, but it must hold */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(passed_count, 1);
    assert_true(passed_at >= start + 60);
    start = uv_now(&loop);
    deadline_set(&d, start + 60000);
    deadline_set(&d, start + 10); /* earlier */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(passed_count, 2);
    assert_true(passed_at < start + 30000);
    deadline_set(&d, uv_now(&loop) + 5);
    deadline_lift(&d);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(passed_count, 2);
    deadline_set(&d, 0); /* the past: in the next turn, not within */
    assert_int_equal(passed_count, 2);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(passed_count, 3);
    deadline_close(&d, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(fires_once_and_not_early) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
