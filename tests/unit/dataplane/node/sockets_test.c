#include "dataplane/node/sockets.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], path[80], other_path[80];

static int set_up(UNUSED void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/fl-sockets-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/api", dir);
    (void)snprintf(other_path, sizeof(other_path), "%s/other", dir);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    (void)unlink(path);
    (void)unlink(other_path);
    return rmdir(dir);
}

/* A configuration with these listeners; release_config. */
static struct node_config config_of(unsigned workers, const char *const *addresses, unsigned count)
{
    struct node_config config = { .workers = workers };
    char *message = NULL;
    if (node_config_listen(&config, addresses, count, &message))
        fail_msg("%s", message);
    return config;
}
#define CONFIG(workers, ...)                                                                                           \
    config_of(workers, (const char *const[]){ __VA_ARGS__ }, ARRAY_LEN(((const char *const[]){ __VA_ARGS__ })))

static void open_all(struct sockets *s, const struct node_config *config)
{
    struct sockets_fault fault;
    assert_int_equal(sockets_init(s, config), OK);
    if (sockets_open(s, true, &fault))
        fail_msg("%s: %s", fault.address, fault.hint);
}

static uint16_t port_of(int fd)
{
    struct address address;
    assert_int_equal(socket_address(fd, &address), OK);
    return address_port(&address);
}

static const char *unix_at(const char *at)
{
    static char texts[4][100];
    static unsigned next;
    char *text = texts[next++ % ARRAY_LEN(texts)];
    (void)snprintf(text, sizeof(texts[0]), "unix:%s", at);
    return text;
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

static void each_slot_has_its_own_over_tcp(UNUSED void **state)
{
    struct sockets s;
    struct node_config config = CONFIG(3, "127.0.0.1:0", "127.0.0.1:0");
    open_all(&s, &config);
    for (unsigned l = 0; l < 2; l++) {
        assert_false(sockets_shared(&s, l));
        for (unsigned i = 1; i < 3; i++) {
            assert_int_equal(port_of(sockets_fd(&s, l, i)), port_of(sockets_fd(&s, l, 0)));
            assert_int_not_equal(sockets_fd(&s, l, i), sockets_fd(&s, l, i - 1));
        }
    }
    assert_int_not_equal(port_of(sockets_fd(&s, 0, 0)), port_of(sockets_fd(&s, 1, 0)));
    sockets_close(&s, true);
    node_config_release(&config);
}

static void all_slots_share_a_unix_socket(UNUSED void **state)
{
    struct sockets s;
    struct stat file;
    struct node_config config = CONFIG(3, unix_at(path));
    config.listeners[0].mode = 0620;
    open_all(&s, &config);
    assert_true(sockets_shared(&s, 0));
    assert_int_equal(sockets_fd(&s, 0, 0), sockets_fd(&s, 0, 2));
    assert_int_equal(stat(path, &file), 0);
    assert_int_equal(file.st_mode & 0777, 0620);
    assert_int_equal(connect_to(path), 0);
    assert_true(fcntl(sockets_fd(&s, 0, 0), F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(sockets_fd(&s, 0, 0), F_GETFL) & O_NONBLOCK);
    sockets_close(&s, true);
    assert_int_equal(connect_to(path), ENOENT);
    node_config_release(&config);
}

static void a_stale_file_is_replaced_and_a_live_one_is_not(UNUSED void **state)
{
    struct sockets ours, theirs;
    struct sockets_fault fault;
    struct node_config config = CONFIG(1, unix_at(path));
    open_all(&theirs, &config);
    assert_int_equal(sockets_init(&ours, &config), OK);
    assert_int_equal(sockets_open(&ours, true, &fault), ERR_EXISTS);
    assert_string_equal(fault.address, config.listeners[0].address);
    assert_non_null(strstr(fault.hint, "another program"));
    assert_int_equal(connect_to(path), 0); /* theirs goes on */
    sockets_close(&theirs, false);         /* as one that was killed */
    assert_int_equal(connect_to(path), ECONNREFUSED);
    assert_int_equal(sockets_open(&ours, true, &fault), OK);
    assert_int_equal(connect_to(path), 0);
    sockets_close(&ours, true);
    const int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600); /* somebody's file is nobody's to remove */
    assert_true(fd >= 0 && close(fd) == 0);
    assert_int_equal(sockets_init(&ours, &config), OK);
    assert_int_equal(sockets_open(&ours, false, &fault), ERR_EXISTS);
    sockets_close(&ours, true);
    assert_int_equal(access(path, F_OK), 0);
    node_config_release(&config);
}

static void the_file_of_a_successor_stays(UNUSED void **state)
{
    struct sockets before, after;
    struct sockets_fault fault;
    struct node_config config = CONFIG(1, unix_at(path));
    open_all(&before, &config);
    assert_int_equal(sockets_init(&after, &config), OK);
    assert_int_equal(sockets_open(&after, false, &fault), OK);
    sockets_close(&before, true);
    assert_int_equal(connect_to(path), 0);
    sockets_close(&after, true);
    node_config_release(&config);
}

static void tells_what_cannot_be_had(UNUSED void **state)
{
    struct sockets s, holder;
    struct sockets_fault fault;
    char address[64];
    struct node_config first = CONFIG(1, "127.0.0.1:0");
    open_all(&holder, &first);
    (void)snprintf(address, sizeof(address), "127.0.0.1:%u", port_of(sockets_fd(&holder, 0, 0)));
    const struct {
        const char *address;
        enum err err;
        const char *hint;
    } cases[] = { { address, ERR_EXISTS, "--listen" },
                  { "192.0.2.1:1", ERR_NOT_FOUND, "no such address" },
                  { "unix:/nonexistent/dir/api", ERR_NOT_FOUND, "no such directory" },
                  { "systemd:api", ERR_NOT_FOUND, "FileDescriptorName=" } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct node_config config = CONFIG(2, cases[i].address);
        assert_int_equal(sockets_init(&s, &config), OK);
        assert_int_equal(sockets_open(&s, true, &fault), cases[i].err);
        assert_string_equal(fault.address, cases[i].address);
        assert_non_null(strstr(fault.hint, cases[i].hint));
        sockets_close(&s, true);
        node_config_release(&config);
    }
    sockets_close(&holder, true);
    node_config_release(&first);
}

static void adopts_what_is_a_listeners(UNUSED void **state)
{
    struct sockets old, new;
    struct sockets_fault fault;
    struct node_config config = CONFIG(2, "127.0.0.1:0", unix_at(path), "127.0.0.1:0");
    open_all(&old, &config);
    assert_int_equal(sockets_init(&new, &config), OK);
    const int tcp = dup(sockets_fd(&old, 0, 1)), un = dup(sockets_fd(&old, 1, 0)), again = dup(un);
    const uint16_t port = port_of(tcp);
    assert_int_equal(sockets_adopt(&new, 0, 1, un), ERR_INVALID);
    assert_int_equal(sockets_adopt(&new, 1, 1, tcp), ERR_INVALID);
    assert_int_equal(sockets_adopt(&new, 3, 0, tcp), ERR_INVALID);
    assert_int_equal(sockets_adopt(&new, 0, 2, tcp), ERR_INVALID);
    assert_int_equal(sockets_adopt(&new, 0, 1, STDIN_FILENO), ERR_INVALID);
    assert_int_equal(sockets_adopt(&new, 0, 1, tcp), OK);
    assert_int_equal(sockets_adopt(&new, 0, 1, tcp), ERR_EXISTS);
    assert_int_equal(sockets_adopt(&new, 1, 1, un), OK);
    assert_int_equal(sockets_adopt(&new, 1, 0, again), OK);
    assert_true(fcntl(again, F_GETFD) < 0); /* the same queue: one is enough */
    sockets_close(&old, false);
    assert_int_equal(sockets_open(&new, false, &fault), OK);
    assert_int_equal(sockets_fd(&new, 0, 1), tcp);
    assert_int_equal(port_of(sockets_fd(&new, 0, 0)), port);
    assert_int_equal(sockets_fd(&new, 1, 1), un);
    assert_int_equal(connect_to(path), 0);
    sockets_close(&new, true);
    assert_int_equal(access(path, F_OK), -1); /* it was ours by then */
    node_config_release(&config);
}

static void a_change_keeps_what_stays(UNUSED void **state)
{
    struct sockets s;
    struct sockets_fault fault;
    struct stat file;
    struct node_config one = CONFIG(2, "127.0.0.1:0", unix_at(path)),
                       two = CONFIG(3, unix_at(path), unix_at(other_path), "127.0.0.1:0"),
                       bad = CONFIG(4, unix_at(path), "127.0.0.1:0", "unix:/nonexistent/dir/api");
    open_all(&s, &one);
    const int tcp = sockets_fd(&s, 0, 1), un = sockets_fd(&s, 1, 0);
    two.listeners[0].mode = 0660;
    assert_int_equal(sockets_change(&s, &two, &fault), OK);
    assert_int_equal(s.count, 3);
    assert_int_equal(sockets_fd(&s, 0, 2), un);
    assert_int_equal(sockets_fd(&s, 2, 1), tcp);
    assert_int_equal(port_of(sockets_fd(&s, 2, 2)), port_of(tcp));
    assert_int_equal(connect_to(other_path), 0);
    assert_int_equal(stat(path, &file), 0);
    assert_int_equal(file.st_mode & 0777, 0660);
    /* What cannot be had leaves all as it was. */
    assert_int_equal(sockets_change(&s, &bad, &fault), ERR_NOT_FOUND);
    assert_string_equal(fault.address, "unix:/nonexistent/dir/api");
    assert_int_equal(s.count, 3);
    assert_int_equal(s.slots, 3);
    assert_int_equal(s.places[2]->fds[3], -1);
    assert_int_equal(connect_to(other_path), 0);
    assert_int_equal(sockets_change(&s, &one, &fault), OK);
    assert_int_equal(s.count, 2);
    assert_int_equal(sockets_fd(&s, 0, 1), tcp);
    assert_int_equal(s.places[0]->fds[2], -1);
    assert_int_equal(connect_to(other_path), ENOENT);
    sockets_close(&s, true);
    node_config_release(&one);
    node_config_release(&two);
    node_config_release(&bad);
}

static void a_change_of_address_keeps_the_port(UNUSED void **state)
{
    struct sockets s;
    struct sockets_fault fault;
    char wide[32], named[32];
    struct node_config one = CONFIG(1, "127.0.0.1:0");
    open_all(&s, &one);
    const int tcp = sockets_fd(&s, 0, 0);
    (void)snprintf(wide, sizeof(wide), "0.0.0.0:%u", port_of(tcp));
    (void)snprintf(named, sizeof(named), "localhost:%u", port_of(tcp));
    struct node_config two = CONFIG(1, named), three = CONFIG(1, wide);
    assert_int_equal(sockets_change(&s, &two, &fault), OK);
    assert_int_equal(sockets_fd(&s, 0, 0), tcp); /* only its spelling is another */
    assert_int_equal(sockets_change(&s, &three, &fault), OK);
    sockets_close(&s, true);
    node_config_release(&one);
    node_config_release(&two);
    node_config_release(&three);
}

/* ---- what systemd passes ---- */

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

static void takes_passed_sockets_by_name(UNUSED void **state)
{
    struct sockets s;
    struct sockets_fault fault;
    struct buf text = BUF_INIT(1024);
    char expected[200];
    int un = -1;
    assert_int_equal(socket_listen_unix(path, 0600, true, &un), OK);
    const int fds[] = { listening_tcp(), far(un), far(socket(AF_INET, SOCK_DGRAM, 0)), listening_tcp() };
    const uint16_t port = port_of(fds[0]);
    assert_int_equal(fcntl(fds[0], F_SETFL, 0), 0);
    pass(fds, 4, "api:local:udp:spare");
    struct node_config config = CONFIG(2, "systemd:local", "systemd:api"), udp = CONFIG(2, "systemd:udp"),
                       spare = CONFIG(2, "systemd:spare", "systemd:api"), any = CONFIG(2, "systemd:");
    open_all(&s, &config);
    assert_null(getenv("LISTEN_PID"));
    assert_null(getenv("LISTEN_FDS"));
    assert_null(getenv("LISTEN_FDNAMES"));
    assert_int_equal(sockets_fd(&s, 0, 1), 4);
    assert_int_equal(sockets_fd(&s, 1, 0), 3);
    assert_true(sockets_shared(&s, 1));
    assert_true(fcntl(3, F_GETFL) & O_NONBLOCK);
    for (int fd = 3; fd < 7; fd++)
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(sockets_describe(&s, &text), OK);
    (void)snprintf(expected, sizeof(expected), "127.0.0.1:%u\nunix:%s systemd:local\n", port, path);
    assert_string_equal(buf_cstr(&text), expected);
    /* Others later; what is no listening stream never. */
    assert_int_equal(sockets_change(&s, &udp, &fault), ERR_INVALID);
    assert_non_null(strstr(fault.hint, "ListenStream="));
    assert_int_equal(sockets_change(&s, &any, &fault), ERR_INVALID);
    assert_non_null(strstr(fault.hint, "several"));
    assert_int_equal(sockets_change(&s, &spare, &fault), OK);
    assert_int_equal(sockets_fd(&s, 0, 0), 6);
    assert_int_equal(sockets_change(&s, &config, &fault), OK); /* `local` was kept for it */
    assert_int_equal(sockets_fd(&s, 0, 0), 4);
    sockets_close(&s, true);
    assert_int_equal(access(path, F_OK), 0); /* systemd's to remove */
    put_back();
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        (void)close(fds[i]);
    buf_release(&text);
    node_config_release(&config);
    node_config_release(&udp);
    node_config_release(&spare);
    node_config_release(&any);
}

static void takes_the_only_passed_socket_without_a_name(UNUSED void **state)
{
    struct sockets s;
    struct node_config config = CONFIG(1, "systemd:");
    const int fds[] = { listening_tcp() };
    pass(fds, 1, NULL);
    open_all(&s, &config);
    assert_int_equal(sockets_fd(&s, 0, 0), 3);
    sockets_close(&s, true);
    put_back();
    (void)close(fds[0]);
    node_config_release(&config);
}

static void takes_nothing_that_was_passed_to_another(UNUSED void **state)
{
    struct sockets s;
    struct sockets_fault fault;
    struct node_config config = CONFIG(1, "systemd:api");
    const int fds[] = { listening_tcp() };
    pass(fds, 1, "api");
    assert_int_equal(setenv("LISTEN_PID", "1", 1), 0);
    assert_int_equal(sockets_init(&s, &config), OK);
    assert_int_equal(s.passed_count, 0);
    assert_null(getenv("LISTEN_FDS"));
    assert_int_equal(sockets_open(&s, true, &fault), ERR_NOT_FOUND);
    sockets_close(&s, true);
    assert_true(fcntl(3, F_GETFD) >= 0); /* it is none of ours */
    put_back();
    (void)close(fds[0]);
    node_config_release(&config);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(each_slot_has_its_own_over_tcp),
        TEST(all_slots_share_a_unix_socket),
        TEST(a_stale_file_is_replaced_and_a_live_one_is_not),
        TEST(the_file_of_a_successor_stays),
        TEST(tells_what_cannot_be_had),
        TEST(adopts_what_is_a_listeners),
        TEST(a_change_keeps_what_stays),
        TEST(a_change_of_address_keeps_the_port),
        TEST(takes_passed_sockets_by_name),
        TEST(takes_the_only_passed_socket_without_a_name),
        TEST(takes_nothing_that_was_passed_to_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
