#include "dataplane/simulate/files.h"
#include "common/file.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[64], paths[3][96];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/sources-XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (unsigned i = 0; i < ARRAY_LEN(paths); i++)
        (void)snprintf(paths[i], sizeof(paths[i]), "%s/%u", dir, i);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(paths); i++)
        (void)unlink(paths[i]);
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

/* changed_s: seconds since 1970. */
static void put(unsigned file, const char *text, int64_t changed_s)
{
    const struct timespec times[2] = { { .tv_sec = changed_s }, { .tv_sec = changed_s } };
    assert_int_equal(file_write_atomic(paths[file], span_cstr(text), 0600), OK);
    assert_int_equal(utimensat(AT_FDCWD, paths[file], times, 0), 0);
}

static void lines_come_from_the_last_to_the_first(void **state)
{
    (void)state;
    static const struct {
        const char *text, *lines; /* joined by '|' */
    } cases[] = { { "a\nbc\nd\n", "d|bc|a|" }, { "a\nb", "b|a|" }, { "a", "a|" },        { "\n", "|" },
                  { "\n\nx\n", "x|||" },       { "x\n\n", "|x|" }, { "a\n\nb", "b||a|" } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct record_lines lines;
        struct record_source source = { .path = paths[0] };
        struct span line;
        char all[64] = "";
        size_t len = 0;
        put(0, cases[i].text, 1000);
        assert_int_equal(record_lines_open(&source, &lines), OK);
        while (record_lines_next(&lines, &line)) {
            memcpy(all + len, line.ptr, line.len);
            len += line.len;
            all[len++] = '|';
        }
        record_lines_close(&lines);
        all[len] = '\0';
        assert_string_equal(all, cases[i].lines);
    }
}

static void the_newest_file_comes_first_and_old_ones_not_at_all(void **state)
{
    (void)state;
    struct record_sources sources;
    const char *path = dir, *bad = NULL;
    put(0, "old\n", 1000);
    put(1, "newest\n", 3000);
    put(2, "newer\n", 2000);
    assert_int_equal(record_sources_find(&path, 1, 1500000, &sources, &bad), OK);
    assert_int_equal(sources.count, 2);
    assert_string_equal(sources.items[0].path, paths[1]);
    assert_string_equal(sources.items[1].path, paths[2]);
    assert_int_equal(sources.bytes, 13);
    record_sources_release(&sources);
    path = paths[0];
    assert_int_equal(record_sources_find(&path, 1, 0, &sources, &bad), OK);
    assert_int_equal(sources.count, 1);
    record_sources_release(&sources);
    path = "/nowhere/at/all";
    assert_int_equal(record_sources_find(&path, 1, 0, &sources, &bad), ERR_NOT_FOUND);
    assert_string_equal(bad, path);
}

static void what_is_not_there_is_empty(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(16);
    put(0, "bytes", 1000);
    assert_int_equal(files_read(dir, "absent", 16, &out), OK);
    assert_int_equal(out.len, 0);
    assert_int_equal(files_read(dir, "0", 16, &out), OK);
    assert_true(span_eq(buf_span(&out), SPAN("bytes")));
    buf_clear(&out);
    assert_int_equal(files_read(dir, "0", 4, &out), ERR_TOO_LARGE);
    buf_release(&out);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = { T(lines_come_from_the_last_to_the_first),
                                        T(the_newest_file_comes_first_and_old_ones_not_at_all),
                                        T(what_is_not_there_is_empty) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
