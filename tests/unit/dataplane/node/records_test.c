#include "dataplane/node/records.h"
#include "common/fault.h"
#include "common/file.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], board_path[64];
static struct board *board;

static int set_up(UNUSED void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/fl-records-XXXXXX");
    (void)snprintf(board_path, sizeof(board_path), "/dev/shm/fl-records-%ld", (long)getpid());
    assert_non_null(mkdtemp(dir));
    return board_create(board_path, 1, &board);
}

static int tear_down(UNUSED void **state)
{
    char command[128];
    board_close(board);
    (void)unlink(board_path);
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_segment(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* All segments one after the other; returns how many there are. */
static int content(struct buf *out)
{
    struct dirent **list;
    const int count = scandir(dir, &list, is_segment, by_name);
    buf_clear(out);
    for (int i = 0; i < count; i++) {
        char *path = file_join(dir, list[i]->d_name);
        struct stat status;
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 0777, 0600);
        assert_int_equal(file_read(path, 1u << 20, out), OK);
        free(path);
        free(list[i]);
    }
    free(list);
    return count;
}

static void put_and_drain(struct records *r, const char *line)
{
    assert_int_equal(board_record_put(board_region(board, 0), span_cstr(line)), OK);
    records_drain(r, board_region(board, 0));
}

static void writes_and_goes_on(UNUSED void **state)
{
    struct records r;
    struct buf all = BUF_INIT(1u << 20);
    assert_int_equal(records_open(&r, dir, 1000, 3), OK);
    put_and_drain(&r, "{\"n\":1}");
    put_and_drain(&r, "{\"n\":2}");
    records_close(&r);
    assert_int_equal(content(&all), 1);
    assert_string_equal(buf_cstr(&all), "{\"n\":1}\n{\"n\":2}\n");
    /* A torn line of a killed master is cut off, and its segment continued. */
    struct dirent **list;
    assert_int_equal(scandir(dir, &list, is_segment, by_name), 1);
    char *path = file_join(dir, list[0]->d_name);
    FILE *f = fopen(path, "a");
    fputs("{\"torn", f);
    fclose(f);
    free(path);
    free(list[0]);
    free(list);
    assert_int_equal(records_open(&r, dir, 1000, 3), OK);
    put_and_drain(&r, "{\"n\":3}");
    assert_int_equal(r.written, 1);
    records_close(&r);
    assert_int_equal(content(&all), 1);
    assert_string_equal(buf_cstr(&all), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    buf_release(&all);
}

static void rotates_and_removes_the_oldest(UNUSED void **state)
{
    struct records r;
    struct buf all = BUF_INIT(1u << 20);
    char line[64];
    assert_int_equal(records_open(&r, dir, 20, 3), OK);
    for (int i = 0; i < 10; i++) { /* two a segment */
        (void)snprintf(line, sizeof(line), "{\"n\":10%d}", i);
        put_and_drain(&r, line);
    }
    records_close(&r);
    assert_int_equal(content(&all), 3);
    assert_string_equal(buf_cstr(&all),
                        "{\"n\":104}\n{\"n\":105}\n{\"n\":106}\n{\"n\":107}\n{\"n\":108}\n{\"n\":109}\n");
    buf_release(&all);
}

static void a_full_disk_drops_and_counts(UNUSED void **state)
{
    struct records r;
    struct buf all = BUF_INIT(1u << 20);
    assert_int_equal(records_open(&r, dir, 1000, 3), OK);
    put_and_drain(&r, "{\"n\":1}");
    fault_arm(FAULT_WRITE, 0, 1);
    put_and_drain(&r, "{\"n\":2}");
    fault_disarm_all();
    put_and_drain(&r, "{\"n\":3}");
    assert_int_equal(r.dropped, 1);
    assert_int_equal(r.written, 2);
    records_close(&r);
    (void)content(&all);
    assert_string_equal(buf_cstr(&all), "{\"n\":1}\n{\"n\":3}\n");
    buf_release(&all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(writes_and_goes_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rotates_and_removes_the_oldest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_disk_drops_and_counts, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
