#include "dataplane/node/listening.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], path[80], other_path[80], at_path[96], at_other[96];
static const struct passed nothing;

static int set_up(UNUSED void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/fl-listening-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/api", dir);
    (void)snprintf(other_path, sizeof(other_path), "%s/other", dir);
    (void)snprintf(at_path, sizeof(at_path), "unix:%s", path);
    (void)snprintf(at_other, sizeof(at_other), "unix:%s", other_path);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    (void)unlink(path);
    (void)unlink(other_path);
    return rmdir(dir);
}

static struct listening plan(unsigned workers, const char *const *addresses, unsigned count)
{
    struct node_config config = { .workers = workers };
    struct listening l;
    char *message = NULL;
    if (node_config_listen(&config, addresses, count, &message))
        fail_msg("%s", message);
    listening_plan(&l, &config);
    node_config_release(&config);
    return l;
}
#define PLAN(workers, ...)                                                                                             \
    plan(workers, (const char *const[]){ __VA_ARGS__ }, ARRAY_LEN(((const char *const[]){ __VA_ARGS__ })))

static void open_all(struct listening *l, const struct passed *passed)
{
    struct listening_fault fault;
    if (listening_open(l, passed, true, &fault))
        fail_msg("%s: %s", l->lines[fault.line].text, fault.hint);
}

static uint16_t port_of(int fd)
{
    struct address address;
    assert_int_equal(socket_address(fd, &address), OK);
    return address_port(&address);
}

static ino_t inode_of(int fd)
{
    struct stat file;
    assert_int_equal(fstat(fd, &file), 0);
    return file.st_ino;
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

static void tcp_has_a_queue_a_slot_and_others_share_one(UNUSED void **state)
{
    struct control_fds fds;
    struct listening l = PLAN(2, "127.0.0.1:0", at_path, "127.0.0.1:0");
    open_all(&l, &nothing);
    listening_of(&l, 1, &fds);
    assert_int_equal(fds.count, 3);
    assert_int_equal(port_of(l.fds[0][0]), port_of(fds.fds[0]));
    assert_int_not_equal(inode_of(l.fds[0][0]), inode_of(fds.fds[0]));
    assert_int_equal(inode_of(l.fds[0][1]), inode_of(fds.fds[1]));
    assert_int_not_equal(port_of(fds.fds[0]), port_of(fds.fds[2]));
    assert_int_equal(connect_to(path), 0);
    listening_close(&l);
    assert_int_equal(connect_to(path), ECONNREFUSED);
    listening_unlink(&l, NULL);
    assert_int_equal(connect_to(path), ENOENT);
}

static void a_plan_keeps_what_stays(UNUSED void **state)
{
    struct listening one = PLAN(2, "127.0.0.1:0", at_path, at_other), two = PLAN(3, at_path, "127.0.0.1:0");
    open_all(&one, &nothing);
    assert_int_equal(listening_keep(&two, &one), OK);
    open_all(&two, &nothing);
    assert_int_equal(inode_of(two.fds[1][1]), inode_of(one.fds[1][0]));
    assert_int_equal(port_of(two.fds[2][1]), port_of(one.fds[0][0]));
    assert_int_equal(inode_of(two.fds[2][0]), inode_of(one.fds[0][1]));
    listening_unlink(&one, &two); /* while others still hold it */
    listening_close(&one);
    assert_int_equal(connect_to(path), 0);
    assert_int_equal(connect_to(other_path), ENOENT);
    listening_close(&two);
    listening_unlink(&two, NULL);
}

static void tells_what_cannot_be_had(UNUSED void **state)
{
    static const struct {
        const char *address;
        enum err err;
        const char *hint;
    } cases[] = { { "192.0.2.1:1", ERR_NOT_FOUND, "no such address" },
                  { "unix:/nonexistent/dir/api", ERR_NOT_FOUND, "no such directory" },
                  { "systemd:api", ERR_NOT_FOUND, "FileDescriptorName=" } };
    struct listening_fault fault;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct listening l = PLAN(1, "127.0.0.1:0", cases[i].address);
        assert_int_equal(listening_open(&l, &nothing, true, &fault), cases[i].err);
        assert_int_equal(fault.line, 1);
        assert_non_null(strstr(fault.hint, cases[i].hint));
        listening_close(&l);
    }
    struct listening holder = PLAN(1, at_path), late = PLAN(1, at_path);
    open_all(&holder, &nothing);
    assert_int_equal(listening_open(&late, &nothing, true, &fault), ERR_EXISTS);
    assert_non_null(strstr(fault.hint, "the file is no socket"));
    listening_unlink(&late, NULL); /* another's */
    assert_int_equal(connect_to(path), 0);
    listening_close(&holder);
    listening_unlink(&holder, NULL);
}

static void adopts_what_is_its_own(UNUSED void **state)
{
    struct listening old = PLAN(2, "127.0.0.1:0", at_path), new = PLAN(2, "127.0.0.1:0", at_path), bare;
    struct control_fds fds = { .count = 2 };
    open_all(&old, &nothing);
    fds.fds[0] = dup(old.fds[1][0]);
    fds.fds[1] = dup(old.fds[1][1]);
    assert_true(listening_adopt(&new, 1, &fds));
    assert_int_equal(fds.count, 0);
    listening_close(&old);
    open_all(&new, &nothing);
    assert_int_equal(port_of(new.fds[0][0]), port_of(new.fds[1][0]));
    assert_int_equal(connect_to(path), 0);
    /* Another's, or too few: not its worker. */
    bare = PLAN(1, "127.0.0.1:1", at_other);
    fds = (struct control_fds){ .count = 2, .fds = { dup(new.fds[1][0]), dup(new.fds[1][1]) } };
    assert_false(listening_adopt(&bare, 0, &fds));
    assert_int_equal(bare.fds[0][0], -1);
    fds = (struct control_fds){ .count = 0 };
    assert_false(listening_adopt(&bare, 0, &fds));
    listening_close(&new);
    listening_unlink(&new, NULL);
}

static void describes_where_it_is(UNUSED void **state)
{
    struct address address;
    int fd = -1, local = -1;
    char expected[400];
    struct buf text = BUF_INIT(4096);
    assert_int_equal(address_parse(SPAN("127.0.0.1:0"), &address), OK);
    assert_int_equal(socket_listen(&address, true, &fd), OK);
    assert_int_equal(socket_listen_unix(other_path, 0600, true, &local), OK);
    char api[] = "api", here[] = "here";
    const struct passed passed = { .count = 2, .fds = { fd, local }, .names = { api, here } };
    struct listening l = PLAN(2, at_path, "systemd:here", "systemd:api", "127.0.0.1:0");
    open_all(&l, &passed);
    assert_int_equal(inode_of(l.fds[1][2]), inode_of(fd));
    assert_int_equal(listening_describe(&l, &text), OK);
    (void)snprintf(expected, sizeof(expected), "127.0.0.1:%u\n%s\n%s systemd:here\n127.0.0.1:%u\n", port_of(fd),
                   at_path, at_other, port_of(l.fds[0][3]));
    assert_string_equal(buf_cstr(&text), expected);
    buf_clear(&text);
    struct listening alone = PLAN(1, "systemd:here");
    open_all(&alone, &passed);
    assert_int_equal(listening_describe(&alone, &text), OK);
    (void)snprintf(expected, sizeof(expected), "%s\n", at_other);
    assert_string_equal(buf_cstr(&text), expected);
    struct listening both = PLAN(1, "127.0.0.1:0", "127.0.0.1:0");
    both.lines[0].tls = true;
    open_all(&both, NULL);
    buf_clear(&text);
    assert_int_equal(listening_describe(&both, &text), OK);
    (void)snprintf(expected, sizeof(expected), "127.0.0.1:%u\n127.0.0.1:%u tls\n", port_of(both.fds[0][1]),
                   port_of(both.fds[0][0]));
    assert_string_equal(buf_cstr(&text), expected);
    both.lines[1].tls = true;
    buf_clear(&text);
    assert_int_equal(listening_describe(&both, &text), OK);
    (void)snprintf(expected, sizeof(expected), "127.0.0.1:%u tls\n127.0.0.1:%u tls\n", port_of(both.fds[0][0]),
                   port_of(both.fds[0][1]));
    assert_string_equal(buf_cstr(&text), expected);
    listening_close(&both);
    listening_close(&alone);
    listening_close(&l);
    listening_unlink(&l, NULL);
    assert_int_equal(access(other_path, F_OK), 0); /* systemd's to remove */
    assert_int_equal(close(fd) | close(local), 0);
    buf_release(&text);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(tcp_has_a_queue_a_slot_and_others_share_one),
        TEST(a_plan_keeps_what_stays),
        TEST(tells_what_cannot_be_had),
        TEST(adopts_what_is_its_own),
        TEST(describes_where_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
