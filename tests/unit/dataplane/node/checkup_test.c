/* Programs that are tried: the shell stands in for them. */
#include "dataplane/node/checkup.h"
#include "common/base.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>

#include <cmocka.h>

static uv_loop_t loop;
static struct checkup checkup;
static char said[CHECKUP_SAID_BYTES], failure[64];
static unsigned calls;

static void on_done(UNUSED void *user, const char *what, const char *how)
{
    calls++;
    (void)snprintf(said, sizeof(said), "%s", what);
    (void)snprintf(failure, sizeof(failure), "%s", how ? how : "");
}

static void try_out(const char *script)
{
    const char *const args[] = { "/bin/sh", "-c", script, NULL };
    calls = 0;
    said[0] = failure[0] = '\0';
    assert_int_equal(checkup_start(&checkup, args, on_done, NULL), OK);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(calls, 1);
    assert_null(checkup.run);
}

static void tells_the_first_line_and_the_end(UNUSED void **state)
{
    try_out("echo fairlead 1.2; echo more");
    assert_string_equal(said, "fairlead 1.2");
    assert_string_equal(failure, "");
    try_out("echo no such field >&2; exit 2");
    assert_string_equal(said, "no such field");
    assert_string_equal(failure, "ended with status 2");
    try_out("kill -9 $$");
    assert_string_equal(said, "");
    assert_string_equal(failure, "ended by signal 9");
}

/* More than fits, and more than a pipe holds: it must not wait for us for ever. */
static void one_that_talks_is_heard_out(UNUSED void **state)
{
    try_out("i=0; while [ $i -lt 20000 ]; do printf 'abcdefghij'; i=$((i+1)); done");
    assert_int_equal(strlen(said), CHECKUP_SAID_BYTES - 1);
    assert_string_equal(failure, "");
}

static void what_is_no_program_is_refused_at_once(UNUSED void **state)
{
    const char *const args[] = { "/none/such", NULL };
    calls = 0;
    assert_int_equal(checkup_start(&checkup, args, on_done, NULL), ERR_IO);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(calls, 0);
    assert_null(checkup.run);
}

static void one_that_is_closed_is_ended_and_waited_for(UNUSED void **state)
{
    const char *const args[] = { "/bin/sh", "-c", "exec sleep 600", NULL };
    calls = 0;
    assert_int_equal(checkup_start(&checkup, args, on_done, NULL), OK);
    checkup_close(&checkup);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(calls, 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_the_first_line_and_the_end),
        cmocka_unit_test(one_that_talks_is_heard_out),
        cmocka_unit_test(what_is_no_program_is_refused_at_once),
        cmocka_unit_test(one_that_is_closed_is_ended_and_waited_for),
    };
    if (uv_loop_init(&loop))
        return 1;
    checkup_init(&checkup, &loop);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed || uv_loop_close(&loop) != 0;
}
