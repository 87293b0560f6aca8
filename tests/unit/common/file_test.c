#include "common/file.h"
#include "common/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];
static char path_storage[4][256];

/* "name" in this test's directory; the slot says which of four strings to use. */
static const char *in_dir(unsigned slot, const char *name)
{
    (void)snprintf(path_storage[slot], sizeof path_storage[slot], "%s/%s", dir, name);
    return path_storage[slot];
}

static int set_up(void **state UNUSED)
{
    static const char template[] = "/tmp/fairlead-file-test.XXXXXX";
    memcpy(dir, template, sizeof template);
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *status UNUSED, int type UNUSED, struct FTW *at UNUSED)
{
    return remove(path);
}

static int tear_down(void **state UNUSED)
{
    fault_disarm_all();
    return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int count_one_entries;
static int count_one(const char *path UNUSED, const struct stat *status UNUSED, int type UNUSED, struct FTW *at)
{
    count_one_entries += at->level > 0;
    return 0;
}

static int entries(void)
{
    count_one_entries = 0;
    assert_int_equal(nftw(dir, count_one, 8, FTW_PHYS), 0);
    return count_one_entries;
}

static void write_then_read(void **state UNUSED)
{
    const char *path = in_dir(0, "a");
    assert_false(file_exists(path));
    assert_int_equal(file_write_atomic(path, SPAN("hello"), 0640), OK);
    assert_true(file_exists(path));
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
    struct buf buf = BUF_INIT(1000);
    assert_int_equal(buf_append(&buf, SPAN("> ")), OK);
    assert_int_equal(file_read(path, 100, &buf), OK);
    assert_string_equal(buf_cstr(&buf), "> hello");
    assert_int_equal(file_write_atomic(path, SPAN(""), 0600), OK);
    buf_clear(&buf);
    assert_int_equal(file_read(path, 100, &buf), OK);
    assert_int_equal(buf.len, 0);
    assert_int_equal(entries(), 1); /* no temporary file is left */
    buf_release(&buf);
}

static void reads_are_bounded(void **state UNUSED)
{
    static char large[200000];
    memset(large, 'x', sizeof large);
    const char *path = in_dir(0, "large");
    assert_int_equal(file_write_atomic(path, span_of(large, sizeof large), 0600), OK);
    struct buf buf = BUF_INIT(SIZE_MAX);
    assert_int_equal(file_read(path, sizeof large - 1, &buf), ERR_TOO_LARGE);
    assert_int_equal(buf.len, 0);
    assert_int_equal(file_read(path, sizeof large, &buf), OK);
    assert_true(span_eq(buf_span(&buf), span_of(large, sizeof large)));
    buf_release(&buf);
    struct buf small = BUF_INIT(sizeof large + 3);
    assert_int_equal(buf_append(&small, SPAN("abcd")), OK);
    assert_int_equal(file_read(path, SIZE_MAX, &small), ERR_TOO_LARGE);
    assert_string_equal(buf_cstr(&small), "abcd");
    buf_consume(&small, 1);
    assert_int_equal(file_read(path, SIZE_MAX, &small), OK);
    assert_int_equal(small.len, sizeof large + 3);
    buf_release(&small);
}

static void standard_input_is_a_dash(void **state UNUSED)
{
    assert_int_equal(file_write_atomic(in_dir(0, "in"), SPAN("piped"), 0600), OK);
    int kept = dup(STDIN_FILENO), fd = open(in_dir(0, "in"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && dup2(fd, STDIN_FILENO) == STDIN_FILENO);
    struct buf buf = BUF_INIT(100);
    assert_int_equal(file_read("-", 100, &buf), OK);
    assert_string_equal(buf_cstr(&buf), "piped");
    assert_int_equal(fcntl(STDIN_FILENO, F_GETFD), 0); /* left open */
    if (kept >= 0)
        (void)dup2(kept, STDIN_FILENO);
    (void)close(kept);
    (void)close(fd);
    buf_release(&buf);
}

static void what_cannot_be_read(void **state UNUSED)
{
    struct buf buf = BUF_INIT(100);
    assert_int_equal(file_read(in_dir(0, "none"), 10, &buf), ERR_NOT_FOUND);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(file_read(dir, 10, &buf), ERR_IO);
    assert_int_equal(errno, EISDIR);
    assert_int_equal(file_write_atomic(in_dir(0, "a"), SPAN("x"), 0), OK);
    if (geteuid() != 0)
        assert_int_equal(file_read(in_dir(0, "a"), 10, &buf), ERR_DENIED);
    assert_int_equal(file_write_atomic(in_dir(0, "b"), SPAN("x"), 0600), OK);
    fault_arm(FAULT_READ, 0, 1);
    assert_int_equal(file_read(in_dir(0, "b"), 10, &buf), ERR_IO);
    assert_int_equal(errno, EIO);
    fault_arm(FAULT_READ, 1, 1);
    assert_int_equal(file_read(in_dir(0, "b"), 10, &buf), ERR_IO);
    assert_int_equal(buf.len, 0); /* what was read before the error is taken back */
    fault_arm(FAULT_ALLOC, 0, 1);
    struct buf unborn = BUF_INIT(100);
    assert_int_equal(file_read(in_dir(0, "b"), 10, &unborn), ERR_NOMEM);
    buf_release(&buf);
}

static void a_failed_write_leaves_the_old_file_alone(void **state UNUSED)
{
    const char *path = in_dir(0, "a");
    assert_int_equal(file_write_atomic(path, SPAN("old"), 0600), OK);
    static const struct {
        enum fault_kind kind;
        enum err err;
    } rows[] = { { FAULT_WRITE, ERR_NOSPACE }, { FAULT_FSYNC, ERR_IO }, { FAULT_ALLOC, ERR_NOMEM } };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        fault_arm(rows[i].kind, 0, 1);
        assert_int_equal(file_write_atomic(path, SPAN("new"), 0600), rows[i].err);
        fault_disarm_all();
        struct buf buf = BUF_INIT(100);
        assert_int_equal(file_read(path, 100, &buf), OK);
        assert_string_equal(buf_cstr(&buf), "old");
        buf_release(&buf);
        assert_int_equal(entries(), 1);
    }
    assert_int_equal(file_write_atomic(in_dir(1, "none/a"), SPAN("x"), 0600), ERR_IO);
    assert_int_equal(errno, ENOENT);
}

static void directories_are_made_on_the_way(void **state UNUSED)
{
    const char *path = in_dir(0, "a/b//c/");
    assert_int_equal(file_make_dirs(path, 0700), OK);
    struct stat status;
    assert_int_equal(stat(in_dir(1, "a/b/c"), &status), 0);
    assert_true(S_ISDIR(status.st_mode));
    assert_int_equal(status.st_mode & 0777, 0700);
    assert_int_equal(file_make_dirs(path, 0700), OK);
    assert_int_equal(file_make_dirs("/", 0755), OK);
    assert_int_equal(file_write_atomic(in_dir(1, "file"), SPAN(""), 0600), OK);
    assert_int_equal(file_make_dirs(in_dir(1, "file"), 0700), ERR_IO);
    assert_int_equal(errno, ENOTDIR);
    assert_int_equal(file_make_dirs(in_dir(1, "file/x"), 0700), ERR_IO);
    fault_arm(FAULT_ALLOC, 0, 1);
    assert_int_equal(file_make_dirs(path, 0700), ERR_NOMEM);
}

static void one_holder_at_a_time(void **state UNUSED)
{
    const char *path = in_dir(0, "lock");
    assert_int_equal(file_write_atomic(path, SPAN("99999999 something longer than a pid"), 0600), OK);
    int fd = -1, second = -1;
    long pid = -1;
    assert_int_equal(file_lock(path, &fd, &pid), OK);
    assert_true(fd >= 0);
    assert_int_equal(pid, -1);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(file_lock(path, &second, &pid), ERR_CONFLICT);
    assert_int_equal(second, -1);
    assert_int_equal(pid, getpid());
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(file_lock(path, &second, &pid), ERR_CONFLICT);
    assert_int_equal(pid, 0); /* unreadable */
    (void)close(fd);
    assert_int_equal(file_lock(path, &second, &pid), OK);
    (void)close(second);
    assert_int_equal(file_lock(in_dir(1, "none/lock"), &second, &pid), ERR_IO);
    fault_arm(FAULT_WRITE, 0, 1);
    assert_int_equal(file_lock(path, &second, &pid), ERR_NOSPACE);
    fault_disarm_all();
    assert_int_equal(file_lock(path, &second, &pid), OK); /* the failed one holds nothing */
    (void)close(second);
}

static void assert_owned_string(char *text, const char *expected)
{
    assert_non_null(text);
    assert_string_equal(text, expected);
    free(text);
}

static void joining(void **state UNUSED)
{
    assert_owned_string(file_join("/a", "b"), "/a/b");
    assert_owned_string(file_join("/a//", "b"), "/a/b");
    assert_owned_string(file_join("/", "b"), "/b");
    assert_owned_string(file_join("", "b"), "b");
    fault_arm(FAULT_ALLOC, 0, 1);
    assert_null(file_join("/a", "b"));
}

static void the_home_is_the_nearest_that_is_named(void **state UNUSED)
{
    setenv("FAIRLEAD_HOME", "/f", 1);
    setenv("STATE_DIRECTORY", "/s/one:/s/two", 1);
    setenv("XDG_STATE_HOME", "/x", 1);
    setenv("HOME", "/h", 1);
    assert_owned_string(file_default_home(), "/f");
    setenv("FAIRLEAD_HOME", "", 1); /* empty is not named */
    assert_owned_string(file_default_home(), "/s/one");
    unsetenv("STATE_DIRECTORY");
    assert_owned_string(file_default_home(), "/x/fairlead");
    unsetenv("XDG_STATE_HOME");
    assert_owned_string(file_default_home(), "/h/.local/state/fairlead");
    unsetenv("HOME");
    assert_owned_string(file_default_home(), "/var/lib/fairlead");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(write_then_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_are_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(standard_input_is_a_dash, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_write_leaves_the_old_file_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(directories_are_made_on_the_way, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_holder_at_a_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(joining, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_home_is_the_nearest_that_is_named, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
