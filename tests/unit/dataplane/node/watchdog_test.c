#include "dataplane/node/watchdog.h"
#include "common/log.h"
#include "dataplane/worker/backtrace.h"
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define LIMIT 1000u

static void judges_by_state_and_cpu_time(UNUSED void **state)
{
    static const struct {
        const char *what;
        struct watchdog_sight turned, last, now; /* {turn, CPU time, state} */
        uint64_t now_ms;
        enum watchdog_verdict verdict;
    } cases[] = {
        { "turns", { 5000, 0, 'S' }, { 5000, 0, 'S' }, { 5900, 0, 'S' }, 6000, WATCHDOG_TURNS },
        { "just in time", { 5000, 0, 'S' }, { 5000, 0, 'S' }, { 5000, 0, 'S' }, 5999, WATCHDOG_TURNS },
        { "has not begun", { 0, 0, 'S' }, { 0, 0, 'S' }, { 0, 0, 'S' }, 60000, WATCHDOG_TURNS },
        { "turned after we asked the time",
          { 7000, 0, 'S' },
          { 7000, 0, 'S' },
          { 7000, 0, 'S' },
          6000,
          WATCHDOG_TURNS },
        { "ended", { 5000, 0, 'R' }, { 5000, 0, 'R' }, { 5000, 0, 'Z' }, 9000, WATCHDOG_TURNS },
        { "under a debugger", { 5000, 0, 't' }, { 5000, 0, 't' }, { 5000, 0, 't' }, 9000, WATCHDOG_TURNS },
        { "blocked", { 5000, 70, 'S' }, { 5000, 70, 'S' }, { 5000, 70, 'S' }, 6000, WATCHDOG_BLOCKED },
        { "blocked by a disk", { 5000, 0, 'R' }, { 5000, 9, 'D' }, { 5000, 9, 'D' }, 6000, WATCHDOG_BLOCKED },
        { "seen asleep once", { 5000, 0, 'R' }, { 5000, 0, 'R' }, { 5000, 0, 'S' }, 6000, WATCHDOG_WAITS },
        { "awake between the looks", { 5000, 0, 'S' }, { 5000, 0, 'S' }, { 5000, 10, 'S' }, 6000, WATCHDOG_WAITS },
        { "turned since the last look", { 4000, 0, 'S' }, { 4000, 0, 'S' }, { 5000, 0, 'S' }, 6000, WATCHDOG_WAITS },
        { "spins", { 5000, 300, 'R' }, { 5000, 1100, 'R' }, { 5000, 1300, 'R' }, 6010, WATCHDOG_SPINS },
        { "spins, now and then preempted",
          { 5000, 0, 'R' },
          { 5000, 900, 'R' },
          { 5000, 1000, 'S' },
          8000,
          WATCHDOG_SPINS },
        { "starved", { 5000, 300, 'R' }, { 5000, 300, 'R' }, { 5000, 300, 'R' }, 9000, WATCHDOG_STARVED },
        { "half starved", { 5000, 300, 'R' }, { 5000, 800, 'R' }, { 5000, 1290, 'R' }, 60000, WATCHDOG_STARVED },
        { "woken late", { 5000, 300, 'S' }, { 5000, 300, 'S' }, { 5000, 300, 'R' }, 6500, WATCHDOG_STARVED },
        { "stopped", { 5000, 0, 'S' }, { 5000, 0, 'T' }, { 5000, 0, 'T' }, 6000, WATCHDOG_STOPPED },
        { "stopped just now", { 5000, 0, 'S' }, { 5000, 0, 'S' }, { 5000, 0, 'T' }, 6000, WATCHDOG_WAITS },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const enum watchdog_verdict v =
            watchdog_judge(&cases[i].turned, &cases[i].last, &cases[i].now, cases[i].now_ms, LIMIT);
        if (v != cases[i].verdict)
            fail_msg("%s: %s", cases[i].what, watchdog_verdict_name(v));
        assert_int_equal(watchdog_judge(&cases[i].turned, &cases[i].last, &cases[i].now, cases[i].now_ms, 0),
                         WATCHDOG_TURNS); /* the watchdog is off */
    }
}

static void reads_what_the_kernel_says(UNUSED void **state)
{
    struct watchdog_sight sight = { .turned_ms = 7 };
    assert_int_equal(watchdog_parse_stat(SPAN("4711 (a) R b) S 1 4711 4711 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 1 0\n"),
                                         100, &sight),
                     OK);
    assert_int_equal(sight.state, 'S');
    assert_int_equal(sight.cpu_ms, 3000);
    assert_int_equal(sight.turned_ms, 7);
    static const char *const wrong[] = { "",
                                         "4711",
                                         "4711 (a)",
                                         "4711 (a) ",
                                         "4711 (a) SS 1 2 3 4 5 6 7 8 9 10 11 12",
                                         "4711 (a) S 1 2 3 4 5 6 7 8 9 10 x 12 13",
                                         "4711 (a) S 1 2 3 4 5 6 7 8 9 10" };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(watchdog_parse_stat(span_cstr(wrong[i]), 100, &sight), ERR_SYNTAX);
}

/* ---- real processes ---- */

static struct watchdog dog;
static uint64_t now_ms;

struct child {
    pid_t pid;
    int output; /* what it writes to standard error */
};

static _Noreturn void spin(void)
{
    for (volatile unsigned turns = 0;; turns++)
        ;
}

static struct child start_child(bool spins)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        if (backtrace_on_signal(WATCHDOG_SIGNAL))
            _exit(1);
        (void)!write(STDERR_FILENO, "!", 1);
        if (spins)
            spin();
        for (;;)
            pause();
    }
    (void)close(ends[1]);
    char begun;
    assert_int_equal(read(ends[0], &begun, 1), 1);
    return (struct child){ pid, ends[0] };
}

static char text[65536]; /* what the child wrote */
static size_t text_len;

/* Until it has told where it stands: on a busy machine it gets its turn after the watchdog has decided. */
static void await_backtrace(const struct child *child)
{
    do {
        struct pollfd ready = { .fd = child->output, .events = POLLIN };
        assert_int_equal(poll(&ready, 1, 60000), 1);
        const ssize_t n = read(child->output, text + text_len, sizeof(text) - 1 - text_len);
        assert_true(n > 0);
        text_len += (size_t)n;
        text[text_len] = '\0';
    } while (!strstr(text, "worker.backtrace end\n"));
}

/* Ends it, and returns all that it wrote. */
static const char *end_child(const struct child *child)
{
    size_t len = text_len;
    assert_int_equal(kill(child->pid, SIGKILL), 0);
    assert_int_equal(waitpid(child->pid, NULL, 0), child->pid);
    for (ssize_t n; (n = read(child->output, text + len, sizeof(text) - 1 - len)) > 0;)
        len += (size_t)n;
    text[len] = '\0';
    text_len = 0;
    (void)close(child->output);
    return text;
}

/* Looks four times a limit, at a clock that the test turns, until it is to be replaced; 0: never within `looks`. */
static int signal_of(const struct child *child, uint64_t limit_ms, unsigned looks, uint64_t real_ms,
                     enum watchdog_verdict *ret_verdict)
{
    dog = (struct watchdog){ .stuck = 0 };
    now_ms = 50000;
    for (unsigned i = 0; i < looks; i++) {
        int number;
        if (watchdog_look(&dog, 3, (uint64_t)child->pid, 50000, now_ms, limit_ms, ret_verdict, &number))
            return number;
        now_ms += limit_ms / 4;
        (void)usleep((useconds_t)real_ms * 1000);
    }
    return 0;
}

static void a_blocked_worker_is_killed(UNUSED void **state)
{
    enum watchdog_verdict verdict;
    const struct child child = start_child(false);
    assert_int_equal(signal_of(&child, LIMIT, 1000, 10, &verdict), SIGKILL);
    assert_int_equal(verdict, WATCHDOG_BLOCKED);
    assert_int_equal(dog.stuck, 1);
    await_backtrace(&child);
    const char *said = end_child(&child);
    assert_non_null(strstr(said, "worker.backtrace begin\n"));
    assert_non_null(strstr(said, "watchdog_test"));
    assert_non_null(strstr(said, "worker.backtrace end\n"));
}

static void a_stopped_worker_is_killed(UNUSED void **state)
{
    enum watchdog_verdict verdict;
    const struct child child = start_child(false);
    assert_int_equal(kill(child.pid, SIGSTOP), 0);
    assert_int_equal(signal_of(&child, LIMIT, 1000, 10, &verdict), SIGKILL);
    assert_int_equal(verdict, WATCHDOG_STOPPED);
    (void)end_child(&child);
}

static void a_spinning_worker_is_aborted(UNUSED void **state)
{
    enum watchdog_verdict verdict;
    const struct child child = start_child(true);
    assert_int_equal(signal_of(&child, 400, 10000, 50, &verdict), SIGABRT);
    assert_int_equal(verdict, WATCHDOG_SPINS);
    await_backtrace(&child);
    assert_non_null(strstr(end_child(&child), "worker.backtrace end\n"));
}

static void who_turns_again_is_acquitted(UNUSED void **state)
{
    enum watchdog_verdict verdict;
    int number;
    const struct child child = start_child(false);
    dog = (struct watchdog){ .stuck = 0 };
    now_ms = 50000;
    for (unsigned i = 0; i < 1000 && dog.stuck == 0; i++) {
        now_ms += LIMIT / 4;
        assert_false(watchdog_look(&dog, 0, (uint64_t)child.pid, 50000, now_ms, LIMIT, &verdict, &number));
        (void)usleep(10000);
    }
    assert_int_equal(dog.stuck, 1);
    for (unsigned i = 0; i < 3; i++) { /* it was slow to turn, and then it turned */
        now_ms += LIMIT / 4;
        assert_false(watchdog_look(&dog, 0, (uint64_t)child.pid, now_ms, now_ms, LIMIT, &verdict, &number));
    }
    assert_false(watchdog_look(&dog, 0, (uint64_t)child.pid, now_ms, now_ms + LIMIT - 1, LIMIT, &verdict, &number));
    (void)end_child(&child);
}

/* A machine that was suspended: all that the clock says is old, and nobody had a chance to turn. */
static void the_first_look_accuses_nobody(UNUSED void **state)
{
    enum watchdog_verdict verdict;
    int number;
    const struct child child = start_child(false);
    dog = (struct watchdog){ .stuck = 0 };
    assert_false(watchdog_look(&dog, 0, (uint64_t)child.pid, 50000, 50000, LIMIT, &verdict, &number));
    assert_false(watchdog_look(&dog, 0, (uint64_t)child.pid, 50000, 500000, LIMIT, &verdict, &number));
    assert_int_equal(dog.stuck, 0);
    (void)end_child(&child);
}

static void nobody_is_judged_without_a_turn_or_a_limit(UNUSED void **state)
{
    enum watchdog_verdict verdict;
    int number;
    dog = (struct watchdog){ .stuck = 0 };
    for (now_ms = 50000; now_ms < 90000; now_ms += 250) {
        assert_false(watchdog_look(&dog, 0, (uint64_t)getpid(), 0, now_ms, LIMIT, &verdict, &number));
        assert_false(watchdog_look(&dog, 0, (uint64_t)getpid(), 1, now_ms, 0, &verdict, &number));
        assert_false(watchdog_look(&dog, 0, 0, 1, now_ms, LIMIT, &verdict, &number));
    }
    assert_int_equal(dog.stuck, 0);
}

int main(void)
{
    log_setup("watchdog_test", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(judges_by_state_and_cpu_time),  cmocka_unit_test(reads_what_the_kernel_says),
        cmocka_unit_test(a_blocked_worker_is_killed),    cmocka_unit_test(a_stopped_worker_is_killed),
        cmocka_unit_test(a_spinning_worker_is_aborted),  cmocka_unit_test(who_turns_again_is_acquitted),
        cmocka_unit_test(the_first_look_accuses_nobody), cmocka_unit_test(nobody_is_judged_without_a_turn_or_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
