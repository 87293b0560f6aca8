/* How a self-test's process may end, played by scripts. */
#include "dataplane/node/trial.h"
#include "common/file.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct outcome {
    bool done, ok;
    char why[300];
};

static void on_done(void *user, bool ok, const char *why)
{
    struct outcome *outcome = user;
    assert_false(outcome->done);
    outcome->done = true;
    outcome->ok = ok;
    (void)snprintf(outcome->why, sizeof(outcome->why), "%s", why);
}

static struct outcome play(const char *script, size_t frame_bytes, bool close_early)
{
    char dir[] = "/tmp/fl-trial-XXXXXX", path[64];
    struct outcome outcome = { .done = false };
    struct buf frames = BUF_INIT(frame_bytes + 1), second = BUF_INIT(1);
    struct trial trial;
    uv_loop_t loop;
    char *at;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/program", dir);
    assert_int_equal(file_write_atomic(path, span_cstr(script), 0700), OK);
    assert_int_equal(buf_reserve(&frames, frame_bytes, &at), OK);
    memset(at, 'x', frame_bytes);
    buf_commit(&frames, frame_bytes);
    assert_int_equal(uv_loop_init(&loop), 0);
    trial_init(&trial, &loop, path);
    assert_int_equal(trial_start(&trial, &frames, on_done, &outcome), OK);
    assert_int_equal(frames.len, 0);
    assert_int_equal(trial_start(&trial, &second, on_done, &outcome), ERR_AGAIN);
    if (close_early)
        trial_close(&trial);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_false(trial_running(&trial));
    assert_int_equal(uv_loop_close(&loop), 0);
    (void)unlink(path);
    (void)rmdir(dir);
    return outcome;
}

#define MANY ((size_t)4 << 20) /* more than a pipe holds */

static void ends_well(UNUSED void **state)
{
    char script[128];
    (void)snprintf(script, sizeof(script), "#!/bin/sh\ntest \"$1\" = --selftest && test \"$(wc -c)\" -eq %zu\n", MANY);
    const struct outcome outcome = play(script, MANY, false);
    assert_true(outcome.done && outcome.ok);
}

static void says_why_not(UNUSED void **state)
{
    struct outcome outcome = play("#!/bin/sh\ncat >/dev/null\necho 'invalid: too many arms'\nexit 1\n", 10, false);
    assert_true(outcome.done && !outcome.ok);
    assert_string_equal(outcome.why, "invalid: too many arms");
    outcome = play("#!/bin/sh\nexit 3\n", MANY, false); /* without reading: the pipe breaks under us */
    assert_true(outcome.done && !outcome.ok);
    assert_string_equal(outcome.why, "the self-test ended with 3");
    outcome = play("#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' y\nexit 1\n", 10, false);
    assert_true(outcome.done && !outcome.ok);
    assert_int_equal(strlen(outcome.why), 255); /* bounded */
}

static void is_killed(UNUSED void **state)
{
    const struct outcome outcome = play("#!/bin/sh\nkill -SEGV $$\n", 10, false);
    assert_true(outcome.done && !outcome.ok);
    assert_string_equal(outcome.why, "the self-test ended by signal 11");
}

static void takes_too_long(UNUSED void **state)
{
    const struct outcome outcome = play("#!/bin/sh\nexec sleep 1000\n", 10, false);
    assert_true(outcome.done && !outcome.ok);
    assert_non_null(strstr(outcome.why, "took longer than 5000 ms"));
}

static void is_closed_before_its_end(UNUSED void **state)
{
    const struct outcome outcome = play("#!/bin/sh\nexec sleep 1000\n", MANY, true);
    assert_false(outcome.done);
}

static void has_no_program(UNUSED void **state)
{
    struct trial trial;
    struct buf frames = BUF_INIT(16);
    uv_loop_t loop;
    assert_int_equal(buf_append(&frames, SPAN("x")), OK);
    assert_int_equal(uv_loop_init(&loop), 0);
    trial_init(&trial, &loop, "/nonexistent/program");
    assert_int_equal(trial_start(&trial, &frames, on_done, NULL), ERR_IO);
    assert_false(trial_running(&trial));
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_well),
        cmocka_unit_test(says_why_not),
        cmocka_unit_test(is_killed),
        cmocka_unit_test(takes_too_long),
        cmocka_unit_test(is_closed_before_its_end),
        cmocka_unit_test(has_no_program),
    };
    signal(SIGPIPE, SIG_IGN); /* as every program of ours does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
