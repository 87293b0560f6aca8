/* Bytes to a client: a write that could not begin is the last. The rest is seen through stream and conn. */
#include "dataplane/worker/outbox.h"
#include "common/fault.h"
#include <sys/socket.h>
#include <unistd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void on_written(void *user, bool failed)
{
    (void)user;
    (void)failed;
}

static void nothing_follows_what_was_lost(void **state)
{
    (void)state;
    static char bytes[1u << 20]; /* more than the socket takes */
    const struct span part = { bytes, sizeof(bytes) }, more = SPAN("more");
    uv_loop_t loop;
    uv_pipe_t pipe;
    struct outbox outbox;
    int fds[2];
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(uv_pipe_init(&loop, &pipe, 0), 0);
    assert_int_equal(uv_pipe_open(&pipe, fds[0]), 0);
    outbox_init(&outbox, (uv_stream_t *)&pipe, on_written, NULL);
    fault_arm(FAULT_WRITE, 1, 1); /* the first takes a part, the second is for the rest */
    assert_int_equal(outbox_write(&outbox, &part, 1), ERR_CLOSED);
    fault_disarm_all();
    while (recv(fds[1], bytes, sizeof(bytes), 0) > 0)
        ;
    struct buf body = BUF_INIT(64);
    assert_int_equal(buf_append(&body, more), OK);
    assert_int_equal(outbox_write(&outbox, &more, 1), ERR_CLOSED);
    assert_int_equal(outbox_write_body(&outbox, more, &body), ERR_CLOSED);
    assert_int_equal(body.cap, 0);
    assert_true(recv(fds[1], bytes, sizeof(bytes), 0) < 0); /* it would stand in the place of what is missing */
    uv_close((uv_handle_t *)&pipe, NULL);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    outbox_release(&outbox);
    assert_int_equal(uv_loop_close(&loop), 0);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_follows_what_was_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
