#include "common/notify.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int manager;        /* what the messages come to */
static char address[108];  /* of it, as in NOTIFY_SOCKET */
static char message[2048]; /* the last */

static void listen_at(const char *text)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    (void)snprintf(address, sizeof(address), "%s", text);
    memcpy(to.sun_path, text, strlen(text));
    if (text[0] == '@')
        to.sun_path[0] = '\0';
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(manager >= 0);
    assert_int_equal(
        bind(manager, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text))), 0);
    assert_int_equal(setenv("NOTIFY_SOCKET", text, 1), 0);
}

static int abstract(UNUSED void **state)
{
    char text[64];
    (void)snprintf(text, sizeof(text), "@fl-notify-%d", (int)getpid());
    listen_at(text);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    (void)unsetenv("NOTIFY_SOCKET");
    (void)unsetenv("WATCHDOG_USEC");
    (void)unsetenv("WATCHDOG_PID");
    return close(manager);
}

/* "" when nothing came. */
static const char *heard(void)
{
    const ssize_t n = recv(manager, message, sizeof(message) - 1, 0);
    if (n < 0)
        assert_int_equal(errno, EAGAIN);
    message[n < 0 ? 0 : n] = '\0';
    return message;
}

static void tells_and_takes_the_environment(UNUSED void **state)
{
    struct notify n;
    notify_open(&n);
    assert_null(getenv("NOTIFY_SOCKET"));
    notify_say(&n, "READY=1\nSTATUS=%s", "serving");
    assert_string_equal(heard(), "READY=1\nSTATUS=serving");
    notify_reloading(&n);
    assert_int_equal(strncmp(heard(), "RELOADING=1\nMONOTONIC_USEC=", 27), 0);
    assert_true(strtoull(message + 27, NULL, 10) > 0);
    assert_int_equal(notify_restore_environment(&n), OK);
    assert_string_equal(getenv("NOTIFY_SOCKET"), address);
    assert_null(getenv("WATCHDOG_USEC"));
    notify_close(&n);
    notify_say(&n, "READY=1");
    assert_string_equal(heard(), "");
}

static void a_path_is_an_address_too(UNUSED void **state)
{
    struct notify n;
    char text[64];
    (void)close(manager);
    (void)snprintf(text, sizeof(text), "/tmp/fl-notify-%d", (int)getpid());
    listen_at(text);
    notify_open(&n);
    notify_say(&n, "STOPPING=1");
    assert_string_equal(heard(), "STOPPING=1");
    assert_int_equal(notify_restore_environment(&n), OK);
    assert_string_equal(getenv("NOTIFY_SOCKET"), text);
    assert_int_equal(unlink(text), 0);
    notify_say(&n, "STOPPING=1"); /* nobody is there any more: no harm */
    notify_close(&n);
}

static void is_silent_without_a_manager(UNUSED void **state)
{
    static const char *const odd[] = { NULL, "", "@", "relative", "vsock:2:1", "/" };
    struct notify n;
    char too_long[200] = "/";
    memset(too_long + 1, 'a', sizeof(too_long) - 2);
    too_long[sizeof(too_long) - 1] = '\0';
    for (size_t i = 0; i <= ARRAY_LEN(odd); i++) {
        const char *text = i < ARRAY_LEN(odd) ? odd[i] : too_long;
        assert_int_equal(text ? setenv("NOTIFY_SOCKET", text, 1) : unsetenv("NOTIFY_SOCKET"), 0);
        notify_open(&n);
        assert_int_equal(n.fd, -1);
        assert_null(getenv("NOTIFY_SOCKET"));
        notify_say(&n, "READY=1");
        notify_alive(&n, 1);
        assert_int_equal(notify_restore_environment(&n), OK);
        assert_null(getenv("NOTIFY_SOCKET"));
        notify_close(&n);
    }
}

static void pings_each_half_of_the_time(UNUSED void **state)
{
    struct notify n;
    assert_int_equal(setenv("WATCHDOG_USEC", "2000000", 1), 0);
    notify_open(&n);
    assert_null(getenv("WATCHDOG_USEC"));
    static const struct {
        uint64_t now_ms;
        bool pings;
    } cases[] = { { 5000, true }, { 5001, false }, { 5999, false }, { 6000, true }, { 6999, false }, { 9000, true } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        notify_alive(&n, cases[i].now_ms);
        assert_string_equal(heard(), cases[i].pings ? "WATCHDOG=1" : "");
    }
    assert_int_equal(notify_restore_environment(&n), OK);
    assert_string_equal(getenv("WATCHDOG_USEC"), "2000000");
    notify_close(&n);
    assert_int_equal(setenv("WATCHDOG_PID", "1", 1), 0); /* another process is watched */
    notify_open(&n);
    notify_alive(&n, 5000);
    assert_string_equal(heard(), "");
    notify_close(&n);
}

static void a_long_message_is_cut(UNUSED void **state)
{
    struct notify n;
    char status[4000];
    memset(status, 'a', sizeof(status) - 1);
    status[sizeof(status) - 1] = '\0';
    notify_open(&n);
    notify_say(&n, "STATUS=%s", status);
    assert_int_equal(strlen(heard()), NOTIFY_BYTES_MAX - 1);
    notify_close(&n);
}

/* A manager that does not read does not hold us. */
static void never_blocks(UNUSED void **state)
{
    struct notify n;
    notify_open(&n);
    for (unsigned i = 0; i < 5000; i++)
        notify_say(&n, "STATUS=%u", i);
    assert_string_equal(heard(), "STATUS=0");
    notify_close(&n);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, abstract, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(tells_and_takes_the_environment), TEST(a_path_is_an_address_too), TEST(is_silent_without_a_manager),
        TEST(pings_each_half_of_the_time),     TEST(a_long_message_is_cut),    TEST(never_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
