#include "dataplane/node/control.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void put(struct buf *buf, const char *text)
{
    assert_int_equal(buf_append_cstr(buf, text), OK);
}

static void every_word_comes_back(UNUSED void **state)
{
    const struct table_version version = {
        .epoch = 1, .generation = UINT64_MAX, .evidence_seq = 3, .directory_seq = 4
    };
    struct control_message messages[] = {
        { .kind = CONTROL_HELLO, .pid = 7, .slot = 63, .region = 255, .layout = 1, .boot = "abc-def" },
        { .kind = CONTROL_SERVING, .version = version },
        { .kind = CONTROL_BAD_TABLE, .version = { .epoch = 1, .generation = 2 }, .reason = "it = bad, really" },
        { .kind = CONTROL_LEAVING },
        { .kind = CONTROL_DRAINED },
        { .kind = CONTROL_WAKE },
        { .kind = CONTROL_DRAIN, .ms = 30000 },
        { .kind = CONTROL_ADOPT_LISTENER, .slot = 3 },
        { .kind = CONTROL_DROP_LISTENER, .slot = 63 },
    };
    struct buf buf = BUF_INIT(8 * CONTROL_LINE_BYTES);
    for (size_t i = 0; i < ARRAY_LEN(messages); i++)
        assert_int_equal(control_format(&messages[i], &buf), OK);
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        struct control_message got;
        assert_int_equal(control_parse(&buf, &got), OK);
        assert_int_equal(got.kind, messages[i].kind);
        assert_true(got.pid == messages[i].pid && got.slot == messages[i].slot && got.region == messages[i].region);
        assert_true(got.layout == messages[i].layout);
        assert_true(got.ms == messages[i].ms);
        assert_memory_equal(&got.version, &messages[i].version, sizeof(got.version));
        assert_string_equal(got.reason, messages[i].reason);
        assert_string_equal(got.boot, messages[i].boot);
    }
    struct control_message none;
    assert_int_equal(control_parse(&buf, &none), ERR_AGAIN);
    buf_release(&buf);
}

static void comes_in_pieces(UNUSED void **state)
{
    static const char line[] = "drain ms=12\n";
    struct buf buf = BUF_INIT(CONTROL_LINE_BYTES);
    struct control_message got;
    for (size_t i = 0; i < sizeof(line) - 2; i++) {
        assert_int_equal(buf_append_byte(&buf, line[i]), OK);
        assert_int_equal(control_parse(&buf, &got), ERR_AGAIN);
    }
    assert_int_equal(buf_append_byte(&buf, '\n'), OK);
    assert_int_equal(control_parse(&buf, &got), OK);
    assert_int_equal(got.ms, 12);
    buf_release(&buf);
}

static void refuses_what_is_none_of_ours(UNUSED void **state)
{
    static const char *const lines[] = {
        "\n",
        "wakes\n",
        "wake \n",
        "wake now\n",
        "drain\n",
        "adopt-listener\n",
        "drop-listener slot=\n",
        "drain ms=\n",
        "drain ms=-1\n",
        "drain ms=1 x\n",
        "drain s=1\n",
        "hello pid=1 slot=0 region=0 layout=1\n",
        "hello pid=1 slot=0 layout=1 boot=b\n",
        "hello pid=x slot=0 region=0 layout=1 boot=b\n",
        "serving epoch=1 generation=2 evidence=3\n",
        "serving epoch=1 generation=18446744073709551616 evidence=3 directory=4\n",
        "bad-table epoch=1 generation=2\n",
        "GET / HTTP/1.1\r\n",
        ("hello pid=1 slot=0 region=0 layout=1 "
         "boot=0123456789012345678901234567890123456789012345678901234567890123456789\n"),
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        struct buf buf = BUF_INIT(CONTROL_LINE_BYTES);
        struct control_message got;
        put(&buf, lines[i]);
        if (control_parse(&buf, &got) != ERR_SYNTAX)
            fail_msg("taken: %s", lines[i]);
        buf_release(&buf);
    }
    struct buf buf = BUF_INIT(2 * CONTROL_LINE_BYTES);
    struct control_message got;
    assert_int_equal(buf_append(&buf, span_of("drain ms=1\0\n", 12)), OK);
    assert_int_equal(control_parse(&buf, &got), ERR_SYNTAX);
    for (unsigned i = 0; i < CONTROL_LINE_BYTES; i++)
        assert_int_equal(buf_append_byte(&buf, 'x'), OK);
    assert_int_equal(control_parse(&buf, &got), ERR_TOO_LARGE);
    buf_release(&buf);
}

static void a_reason_stays_on_its_line(UNUSED void **state)
{
    struct control_message message = { .kind = CONTROL_BAD_TABLE, .reason = "a\nwake\n" }, got;
    struct buf buf = BUF_INIT(CONTROL_LINE_BYTES);
    assert_int_equal(control_format(&message, &buf), OK);
    assert_int_equal(control_parse(&buf, &got), OK);
    assert_string_equal(got.reason, "a wake ");
    assert_int_equal(buf.len, 0);
    buf_release(&buf);
}

static void descriptors_travel(UNUSED void **state)
{
    int pair[2];
    struct control_fds sent = { .count = 2, .fds = { open("/dev/null", O_RDONLY | O_CLOEXEC), dup(1) } };
    struct control_fds got = { .count = 0 }, none = { .count = 0 };
    struct buf in = BUF_INIT(CONTROL_LINE_BYTES);
    struct stat a, b;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(control_recv_fds(pair[1], &in, &got), ERR_AGAIN);
    assert_int_equal(control_send_fds(pair[0], SPAN("wake\n"), &sent), OK);
    assert_int_equal(control_recv_fds(pair[1], &in, &got), OK);
    assert_true(span_eq(buf_span(&in), SPAN("wake\n")));
    assert_int_equal(got.count, 2);
    for (unsigned i = 0; i < 2; i++) { /* in order */
        assert_true(fcntl(got.fds[i], F_GETFD) & FD_CLOEXEC);
        assert_true(fstat(got.fds[i], &a) == 0 && fstat(sent.fds[i], &b) == 0 && a.st_ino == b.st_ino);
    }
    control_fds_close(&got);
    assert_int_equal(got.count, 0);
    assert_int_equal(control_send_fds(pair[0], SPAN("wake\n"), &none), OK);
    assert_int_equal(control_recv_fds(pair[1], &in, &got), OK);
    assert_int_equal(got.count, 0);
    (void)close(pair[0]);
    assert_int_equal(control_recv_fds(pair[1], &in, &got), ERR_CLOSED);
    assert_int_equal(control_send_fds(pair[1], SPAN("wake\n"), &none), ERR_CLOSED);
    (void)close(pair[1]);
    control_fds_close(&sent);
    buf_release(&in);
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void no_more_descriptors_than_are_wanted(UNUSED void **state)
{
    int pair[2];
    struct control_fds sent = { .count = NODE_LISTENERS_MAX }, got = { .count = 0 };
    struct buf in = BUF_INIT(CONTROL_LINE_BYTES);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    for (unsigned i = 0; i < sent.count; i++)
        sent.fds[i] = 1;
    const unsigned before = open_descriptors();
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(control_send_fds(pair[0], SPAN("wake\n"), &sent), OK);
        assert_int_equal(control_recv_fds(pair[1], &in, &got), OK);
        assert_int_equal(got.count, NODE_LISTENERS_MAX);
        assert_int_equal(open_descriptors(), before + NODE_LISTENERS_MAX);
    }
    control_fds_close(&got);
    assert_int_equal(open_descriptors(), before);
    (void)close(pair[0]);
    (void)close(pair[1]);
    buf_release(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_word_comes_back),        cmocka_unit_test(comes_in_pieces),
        cmocka_unit_test(refuses_what_is_none_of_ours), cmocka_unit_test(a_reason_stays_on_its_line),
        cmocka_unit_test(descriptors_travel),           cmocka_unit_test(no_more_descriptors_than_are_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
