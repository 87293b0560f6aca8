#include "proto/record_dir.h"
#include "common/buf.h"
#include "common/fault.h"
#include "common/file.h"
#include "proto/record.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

#define FILE_1  "records-20261122T104500.123Z.jsonl"
#define FILE_2  "records-20261122T114500.000Z.jsonl"
#define FILE_3  "records-20261122T124500.000Z.jsonl"
#define AT(t)   "{\"time\":\"2026-11-22T" t "Z\"}"
#define AT_MS   INT64_C(1795344300000) /* 10:45:00 */
#define HOUR_MS INT64_C(3600000)

static char dir[64];

static int set_up(UNUSED void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/fl-record-dir-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(UNUSED void **state)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static void put(const char *name, struct span text)
{
    char *path = file_join(dir, name);
    assert_int_equal(file_write_atomic(path, text, 0600), OK);
    free(path);
}

static enum err gather(void *user, struct span line)
{
    const enum err err = buf_append(user, line);
    return err ? err : buf_append_byte(user, ' ');
}

static void gives(int64_t since_ms, const char *lines)
{
    struct buf all = BUF_INIT(1u << 20);
    assert_int_equal(record_dir_each(dir, since_ms, gather, &all), OK);
    assert_string_equal(buf_cstr(&all), lines);
    buf_release(&all);
}

static void files_come_in_the_order_of_their_names(UNUSED void **state)
{
    struct record_dir files;
    put(FILE_2, SPAN(AT("11:45:00.000") "\n"));
    put(FILE_1, SPAN(AT("10:45:00.123") "\n" AT("10:45:01.000") "\n"));
    put("notes.txt", SPAN(AT("12:00:00.000") "\n"));
    put("records-20261122T104500.123Z.jsonl.old", SPAN(AT("12:00:00.000") "\n"));
    put("records-20261322T104500.123Z.jsonl", SPAN(AT("12:00:00.000") "\n")); /* no such month */
    assert_int_equal(record_dir_list(dir, &files), OK);
    assert_int_equal(files.count, 2);
    assert_string_equal(files.names[0], FILE_1);
    record_dir_release(&files);
    gives(0, AT("10:45:00.123") " " AT("10:45:01.000") " " AT("11:45:00.000") " ");
}

static void a_directory_that_is_not_there_is_empty(UNUSED void **state)
{
    struct record_dir files;
    assert_int_equal(record_dir_list("/tmp/fl-no-such-directory", &files), OK);
    assert_int_equal(files.count, 0);
    record_dir_release(&files);
}

static void what_is_too_old_is_left_out(UNUSED void **state)
{
    put(FILE_1, SPAN(AT("10:45:01.000") "\n"));
    put(FILE_2, SPAN(AT("11:45:01.000") "\n" AT("10:50:00.000") "\n{\"n\":1}\n"));
    put(FILE_3, SPAN(AT("12:45:01.000") "\n"));
    gives(AT_MS + HOUR_MS, AT("11:45:01.000") " {\"n\":1} " AT("12:45:01.000") " ");
    gives(AT_MS + 3 * HOUR_MS, "");
}

/* The store's own lines, what no node writes, and what a killed process tore. */
static void only_whole_records_are_given(UNUSED void **state)
{
    static char text[3 * RECORD_LINE_MAX];
    const struct span first = SPAN("{\"kind\":\"batch\",\"bytes\":9}\n{\"a\":1}\nno object\n\n{\"b\":\n");
    memcpy(text, first.ptr, first.len);
    memset(text + first.len, 'x', 2 * RECORD_LINE_MAX);
    const struct span last = SPAN("}\n{\"c\":1}\n{\"torn\":1}");
    memcpy(text + first.len + 2 * RECORD_LINE_MAX, last.ptr, last.len);
    put(FILE_1, span_of(text, first.len + 2 * RECORD_LINE_MAX + last.len));
    gives(0, "{\"a\":1} {\"c\":1} ");
}

/* Longer than what is read at once, so that lines lie across. */
static void lines_across_reads(UNUSED void **state)
{
    struct buf text = BUF_INIT(8u << 20), all = BUF_INIT(8u << 20);
    for (unsigned i = 0; i < 20000; i++)
        assert_int_equal(buf_printf(&text, "{\"n\":%u,\"more\":\"%0*u\"}\n", i, 50 + (int)(i % 100), i), OK);
    put(FILE_1, buf_span(&text));
    assert_int_equal(record_dir_each(dir, 0, gather, &all), OK);
    assert_int_equal(all.len, text.len);
    for (size_t i = 0; i < text.len; i++)
        if (buf_span(&text).ptr[i] != '\n')
            assert_true(buf_span(&all).ptr[i] == buf_span(&text).ptr[i]);
    buf_release(&text);
    buf_release(&all);
}

static void errors_end_the_walk(UNUSED void **state)
{
    struct buf small = BUF_INIT(30);
    put(FILE_1, SPAN(AT("10:45:01.000") "\n" AT("10:45:02.000") "\n"));
    assert_int_equal(record_dir_each(dir, 0, gather, &small), ERR_FULL);
    buf_release(&small);
    struct buf all = BUF_INIT(1024);
    fault_arm(FAULT_READ, 0, 1);
    assert_int_equal(record_dir_each(dir, 0, gather, &all), ERR_IO);
    fault_disarm_all();
    enum err err = ERR_NOMEM;
    for (uint64_t n = 0; err == ERR_NOMEM; n++) {
        buf_clear(&all);
        fault_arm(FAULT_ALLOC, n, 1);
        err = record_dir_each(dir, 0, gather, &all);
        fault_disarm_all();
    }
    assert_int_equal(err, OK);
    buf_release(&all);
}

static void names_only_rise(UNUSED void **state)
{
    char name[RECORD_FILE_NAME_BYTES];
    record_file_next_name("", AT_MS + 123, name);
    assert_string_equal(name, FILE_1);
    assert_int_equal(record_file_begun_ms(name), AT_MS + 123);
    record_file_next_name(FILE_1, AT_MS + 123, name); /* in the same millisecond */
    assert_string_equal(name, "records-20261122T104500.124Z.jsonl");
    record_file_next_name(FILE_2, AT_MS, name); /* the clock was set back */
    assert_string_equal(name, "records-20261122T114500.001Z.jsonl");
    assert_int_equal(record_file_begun_ms("records-.jsonl"), 0);
    assert_int_equal(record_file_begun_ms(""), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_come_in_the_order_of_their_names, set_up, tear_down),
        cmocka_unit_test(a_directory_that_is_not_there_is_empty),
        cmocka_unit_test_setup_teardown(what_is_too_old_is_left_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_whole_records_are_given, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lines_across_reads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(errors_end_the_walk, set_up, tear_down),
        cmocka_unit_test(names_only_rise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
