#include "dataplane/node/heritage.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static struct heritage *sample(void)
{
    struct heritage *h = calloc(1, sizeof(*h));
    assert_non_null(h);
    heritage_init(h);
    h->layout = 3;
    h->lock_fd = 5;
    h->hub_fd = 6;
    h->operations_fd = 7;
    (void)snprintf(h->operations, sizeof(h->operations), "[::1]:4001");
    h->generation = 9;
    h->restarts = 12345678901;
    h->listening.slots = 2;
    h->listening.count = 2;
    h->listening.lines[0] = (struct listening_line){ .kind = LISTENER_TCP, .mode = 0600, .text = "127.0.0.1:0" };
    assert_int_equal(address_parse(SPAN("127.0.0.1:4000"), &h->listening.lines[0].address), OK);
    h->listening.lines[1] = (struct listening_line){ .kind = LISTENER_UNIX, .mode = 0660, .text = "unix:/a path/s" };
    for (unsigned slot = 0; slot < NODE_WORKERS_MAX; slot++) {
        for (unsigned i = 0; i < NODE_LISTENERS_MAX; i++)
            h->listening.fds[slot][i] = -1;
    }
    h->listening.fds[0][0] = 10;
    h->listening.fds[1][0] = 11;
    h->listening.fds[1][1] = 12;
    h->processes[0] = (struct heritage_process){ .pid = 77,
                                                 .started_ms = 1,
                                                 .kill_ms = 2,
                                                 .slot = 1,
                                                 .region = 47,
                                                 .generation = 9,
                                                 .state = PROCESS_DRAINING,
                                                 .adopted = true };
    h->processes[1] =
        (struct heritage_process){ .pid = 78, .region = PROCESS_NO_REGION, .state = PROCESS_UP, .in_slot = true };
    h->process_count = 2;
    h->asker_fd = 13;
    h->upgrade = true;
    h->asked_ms = 99;
    h->last = (struct heritage_change){
        .at_ms = 1700000000123, .took_ms = 45, .failed = true, .why = "line 4: no such field"
    };
    return h;
}

static void comes_back_as_it_was(UNUSED void **state)
{
    struct heritage *h = sample(), *back = calloc(1, sizeof(*back));
    struct buf text = BUF_INIT(HERITAGE_BYTES_MAX);
    assert_non_null(back);
    assert_int_equal(heritage_write(h, &text), OK);
    assert_int_equal(heritage_read(buf_span(&text), back), OK);
    assert_int_equal(back->layout, 3);
    assert_true(back->lock_fd == 5 && back->hub_fd == 6 && back->operations_fd == 7 && back->asker_fd == 13);
    assert_string_equal(back->operations, h->operations);
    assert_true(back->generation == 9 && back->restarts == h->restarts && back->upgrade && back->asked_ms == 99);
    assert_memory_equal(back->listening.fds, h->listening.fds, sizeof(h->listening.fds));
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(back->listening.lines[i].kind, h->listening.lines[i].kind);
        assert_int_equal(back->listening.lines[i].mode, h->listening.lines[i].mode);
        assert_string_equal(back->listening.lines[i].text, h->listening.lines[i].text);
    }
    assert_true(address_agrees(&h->listening.lines[0].address, &back->listening.lines[0].address));
    assert_int_equal(back->process_count, 2);
    for (unsigned i = 0; i < 2; i++) {
        const struct heritage_process *a = &h->processes[i], *b = &back->processes[i];
        assert_true(a->pid == b->pid && a->slot == b->slot && a->region == b->region && a->state == b->state);
        assert_true(a->started_ms == b->started_ms && a->kill_ms == b->kill_ms && a->generation == b->generation);
        assert_true(a->adopted == b->adopted && a->in_slot == b->in_slot);
    }
    assert_true(back->last.at_ms == h->last.at_ms && back->last.took_ms == 45);
    assert_true(back->last.failed && !back->last.upgrade);
    assert_string_equal(back->last.why, h->last.why);
    h->last = (struct heritage_change){ .at_ms = 5, .upgrade = true }; /* it went well: there is no reason */
    buf_clear(&text);
    assert_int_equal(heritage_write(h, &text), OK);
    assert_int_equal(heritage_read(buf_span(&text), back), OK);
    assert_true(back->last.at_ms == 5 && back->last.upgrade && !back->last.failed);
    assert_string_equal(back->last.why, "");
    buf_release(&text);
    free(back);
    free(h);
}

static void what_is_cut_or_wrong_is_refused(UNUSED void **state)
{
    static const char *const wrong[] = {
        "",
        "heritage\n",
        "heritage 1\n", /* without a lock */
        "heritage 1\nlock 3\nhub 4\nsocket 0 0 5\n",
        "heritage 1\nlock 3\nhub 4\nslots 65\n",
        "heritage 1\nlock 3\nhub 4\nprocess 1 0 0 0 1 0 0 0 1\n", /* init is no worker */
        "heritage 1\nlock 3\nhub 4\nprocess 77 64 0 0 1 0 0 0 1\n",
        "heritage 1\nlock 3\nhub 4\nprocess 77 0 256 0 1 0 0 0 1\n",
        "heritage 1\nlock 3\nhub 4\nprocess 77 0 0 0 3 0 0 0 1\n",
        "heritage 1\nlock 3\nhub 4\nline 9 384 - x\n",
        "heritage 1\nlock 3\nhub 4\nline 0 384 - x\n",
        "heritage 1\nlock 3 4\nhub 4\n",
        "heritage 1\nlock 3\nhub 4\nlast 1 2 3\n",
        "heritage 1\nlock 3\nhub 4\ngold 1\n",
    };
    struct heritage *got = calloc(1, sizeof(*got));
    assert_non_null(got);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        if (heritage_read(span_cstr(wrong[i]), got) != ERR_SYNTAX)
            fail_msg("taken: %s", wrong[i]);
    }
    assert_int_equal(heritage_read(SPAN("heritage 2\nlock 3\nhub 4\n"), got), ERR_UNSUPPORTED);
    free(got);
}

static void descriptors_stay_open_only_when_told(UNUSED void **state)
{
    struct heritage *h = calloc(1, sizeof(*h));
    assert_non_null(h);
    heritage_init(h);
    h->lock_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    h->listening.slots = h->listening.count = 1;
    h->listening.fds[0][0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const int lock = h->lock_fd, listener = h->listening.fds[0][0];
    heritage_keep_open(h, true);
    assert_true(fcntl(lock, F_GETFD) == 0 && fcntl(listener, F_GETFD) == 0);
    heritage_keep_open(h, false);
    assert_true(fcntl(lock, F_GETFD) == FD_CLOEXEC && fcntl(listener, F_GETFD) == FD_CLOEXEC);
    static const char *const args[] = { "none", NULL };
    heritage_become(h, "/none/such", args);
    assert_non_null(strstr(h->failure, "/none/such cannot be executed: No such file or directory"));
    assert_null(getenv(HERITAGE_ENV));
    assert_true(fcntl(lock, F_GETFD) == FD_CLOEXEC);
    heritage_close(h);
    assert_true(fcntl(lock, F_GETFD) < 0 && fcntl(listener, F_GETFD) < 0);
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_as_it_was),
        cmocka_unit_test(what_is_cut_or_wrong_is_refused),
        cmocka_unit_test(descriptors_stay_open_only_when_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
