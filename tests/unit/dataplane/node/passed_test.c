#include "dataplane/node/passed.h"
#include "dataplane/node/sockets.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static int kept[4];

/* Puts these descriptors where systemd puts them. */
static void pass(const int *fds, unsigned count, const char *names)
{
    char text[32];
    for (unsigned i = 0; i < ARRAY_LEN(kept); i++)
        kept[i] = fcntl(3 + (int)i, F_DUPFD_CLOEXEC, 100);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(dup2(fds[i], 3 + (int)i), 3 + (int)i);
    (void)snprintf(text, sizeof(text), "%d", (int)getpid());
    assert_int_equal(setenv("LISTEN_PID", text, 1), 0);
    (void)snprintf(text, sizeof(text), "%u", count);
    assert_int_equal(setenv("LISTEN_FDS", text, 1), 0);
    assert_int_equal(names ? setenv("LISTEN_FDNAMES", names, 1) : unsetenv("LISTEN_FDNAMES"), 0);
}

static void put_back(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(kept); i++) {
        (void)close(3 + (int)i);
        if (kept[i] >= 0) {
            (void)dup2(kept[i], 3 + (int)i);
            (void)close(kept[i]);
        }
    }
}

static int far(int fd) /* out of the way of descriptors 3 to 6 */
{
    const int there = fcntl(fd, F_DUPFD_CLOEXEC, 200);
    assert_true(there >= 0 && close(fd) == 0);
    return there;
}

static int listening_tcp(void)
{
    struct address address;
    int fd = -1;
    assert_int_equal(address_parse(SPAN("127.0.0.1:0"), &address), OK);
    assert_int_equal(socket_listen(&address, true, &fd), OK);
    return far(fd);
}

static void takes_them_by_name(UNUSED void **state)
{
    struct passed p, again;
    char path[64];
    int un = -1, fd = -1;
    const char *hint;
    (void)snprintf(path, sizeof(path), "/tmp/fl-passed-%d", (int)getpid());
    assert_int_equal(socket_listen_unix(path, 0600, true, &un), OK);
    const int fds[] = { listening_tcp(), far(un), far(socket(AF_INET, SOCK_DGRAM, 0)), listening_tcp() };
    assert_int_equal(fcntl(fds[0], F_SETFL, 0), 0);
    pass(fds, 4, "api:local:udp:api");
    assert_int_equal(passed_take(&p), OK);
    assert_null(getenv("LISTEN_PID"));
    assert_null(getenv("LISTEN_FDS"));
    assert_null(getenv("LISTEN_FDNAMES"));
    assert_int_equal(p.count, 4);
    for (fd = 3; fd < 7; fd++)
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(passed_find(&p, "local", &fd, &hint), OK);
    assert_int_equal(fd, 4);
    assert_int_equal(passed_find(&p, "local", &fd, &hint), OK); /* as often as it is asked for */
    assert_int_equal(passed_find(&p, "udp", &fd, &hint), ERR_INVALID);
    assert_non_null(strstr(hint, "ListenStream="));
    assert_int_equal(passed_find(&p, "api", &fd, &hint), ERR_INVALID);
    assert_non_null(strstr(hint, "several"));
    assert_int_equal(passed_find(&p, "", &fd, &hint), ERR_INVALID);
    assert_int_equal(passed_find(&p, "other", &fd, &hint), ERR_NOT_FOUND);
    assert_non_null(strstr(hint, "FileDescriptorName="));
    assert_int_equal(passed_take(&again), OK);
    assert_int_equal(again.count, 0);
    passed_release(&p);
    assert_int_equal(p.count, 0);
    assert_int_equal(access(path, F_OK), 0); /* systemd's to remove */
    assert_int_equal(unlink(path), 0);
    put_back();
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        (void)close(fds[i]);
}

static void takes_the_only_one_without_a_name(UNUSED void **state)
{
    struct passed p;
    const char *hint;
    int fd = -1;
    const int fds[] = { listening_tcp() };
    assert_int_equal(fcntl(fds[0], F_SETFL, 0), 0);
    pass(fds, 1, NULL);
    assert_int_equal(passed_take(&p), OK);
    assert_string_equal(p.names[0], "unknown");
    assert_int_equal(passed_find(&p, "", &fd, &hint), OK);
    assert_int_equal(fd, 3);
    assert_true(fcntl(3, F_GETFL) & O_NONBLOCK);
    passed_release(&p);
    put_back();
    (void)close(fds[0]);
}

static void takes_nothing_that_was_passed_to_another(UNUSED void **state)
{
    struct passed p;
    const int fds[] = { listening_tcp() };
    pass(fds, 1, "api");
    assert_int_equal(setenv("LISTEN_PID", "1", 1), 0);
    assert_int_equal(passed_take(&p), OK);
    assert_int_equal(p.count, 0);
    assert_null(getenv("LISTEN_FDS"));
    passed_release(&p);
    assert_true(fcntl(3, F_GETFD) >= 0); /* it is none of ours */
    put_back();
    (void)close(fds[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_them_by_name),
        cmocka_unit_test(takes_the_only_one_without_a_name),
        cmocka_unit_test(takes_nothing_that_was_passed_to_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
