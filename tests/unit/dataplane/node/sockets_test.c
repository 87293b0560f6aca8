#include "dataplane/node/sockets.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], path[80];

static int set_up(UNUSED void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/fl-sockets-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/api", dir);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    (void)unlink(path);
    return rmdir(dir);
}

static int connect_to(const char *at)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", at);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    const int number = connect(fd, (struct sockaddr *)&address, sizeof(address)) ? errno : 0;
    (void)close(fd);
    return number;
}

static void tcp_sockets_share_the_port_that_was_chosen(UNUSED void **state)
{
    struct address first, second;
    int fds[2] = { -1, -1 }, other = -1;
    assert_int_equal(address_parse(SPAN("127.0.0.1:0"), &first), OK);
    assert_int_equal(socket_listen(&first, true, &fds[0]), OK);
    assert_int_not_equal(address_port(&first), 0);
    second = first;
    assert_int_equal(socket_listen(&second, true, &other), ERR_EXISTS);
    assert_int_equal(socket_listen(&second, false, &fds[1]), OK);
    assert_true(address_agrees(&first, &second));
    for (unsigned i = 0; i < 2; i++) {
        assert_true(socket_is_listening(fds[i]));
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
        assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
        assert_int_equal(close(fds[i]), 0);
    }
    assert_int_equal(address_parse(SPAN("192.0.2.1:1"), &first), OK);
    assert_int_equal(socket_listen(&first, true, &other), ERR_NOT_FOUND);
}

static void a_unix_socket_has_its_mode_and_path(UNUSED void **state)
{
    struct stat file;
    char longer[90];
    int fd = -1;
    assert_int_equal(socket_listen_unix(path, 0620, true, &fd), OK);
    assert_int_equal(stat(path, &file), 0);
    assert_int_equal(file.st_mode & 0777, 0620);
    assert_int_equal(connect_to(path), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(socket_is_listening(fd) && socket_is_at(fd, path) && !socket_is_at(fd, dir));
    (void)snprintf(longer, sizeof(longer), "%s2", path);
    assert_false(socket_is_at(fd, longer));
    assert_int_equal(close(fd), 0);
}

static void a_stale_file_is_replaced_and_a_live_one_is_not(UNUSED void **state)
{
    int theirs = -1, ours = -1;
    assert_int_equal(socket_listen_unix(path, 0600, true, &theirs), OK);
    assert_int_equal(socket_listen_unix(path, 0600, true, &ours), ERR_EXISTS);
    assert_int_equal(connect_to(path), 0); /* theirs goes on */
    assert_int_equal(close(theirs), 0);    /* as one that was killed */
    assert_int_equal(connect_to(path), ECONNREFUSED);
    assert_int_equal(socket_listen_unix(path, 0600, true, &ours), OK);
    assert_int_equal(connect_to(path), 0);
    assert_int_equal(socket_listen_unix(path, 0600, false, &theirs), OK); /* whoever listens */
    assert_int_equal(close(ours), 0);
    assert_int_equal(connect_to(path), 0);
    assert_int_equal(close(theirs), 0);
}

static void what_is_no_socket_is_nobodys_to_remove(UNUSED void **state)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && close(fd) == 0);
    assert_int_equal(socket_listen_unix(path, 0600, false, &fd), ERR_EXISTS);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(socket_listen_unix("/nonexistent/dir/api", 0600, true, &fd), ERR_NOT_FOUND);
    char longer[120];
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(socket_listen_unix(longer, 0600, true, &fd), ERR_TOO_LARGE);
    assert_false(socket_is_listening(STDIN_FILENO));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_false(socket_is_listening(fd));
    assert_int_equal(close(fd), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(tcp_sockets_share_the_port_that_was_chosen),
        TEST(a_unix_socket_has_its_mode_and_path),
        TEST(a_stale_file_is_replaced_and_a_live_one_is_not),
        TEST(what_is_no_socket_is_nobodys_to_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
