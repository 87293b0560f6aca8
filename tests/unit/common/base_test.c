#include "common/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void arithmetic_says_when_it_does_not_fit(void **state UNUSED)
{
    size_t result = 7;
    assert_true(size_add(SIZE_MAX - 1, 1, &result));
    assert_true(result == SIZE_MAX);
    assert_false(size_add(SIZE_MAX, 1, &result));
    assert_true(size_mul(SIZE_MAX / 2, 2, &result));
    assert_true(result == SIZE_MAX - 1);
    assert_false(size_mul(SIZE_MAX / 2 + 1, 2, &result));
    assert_int_equal(size_min(3, 4), 3);
    assert_int_equal(size_max(3, 4), 4);
}

static void a_broken_promise_aborts_with_its_place(void **state UNUSED)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        REQUIRE(ends[0] < 0);
        _exit(0);
    }
    (void)close(ends[1]);
    char text[256];
    ssize_t got = read(ends[0], text, sizeof text - 1);
    assert_true(got > 0);
    text[got] = '\0';
    (void)close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, "base_test.c:"));
    assert_non_null(strstr(text, "ends[0] < 0"));
}

static void a_kept_promise_costs_nothing(void **state UNUSED)
{
    int evaluated = 0;
    REQUIRE(++evaluated == 1);
    assert_int_equal(evaluated, 1);
    struct pair {
        int a, b;
    } pair = { 1, 2 };
    assert_ptr_equal(CONTAINER_OF(&pair.b, struct pair, b), &pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arithmetic_says_when_it_does_not_fit),
        cmocka_unit_test(a_broken_promise_aborts_with_its_place),
        cmocka_unit_test(a_kept_promise_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
