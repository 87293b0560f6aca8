#include "controlplane/evidence/recordstore.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define SEGMENT_1 "records-20261122T104500.123Z.jsonl"
#define SEGMENT_2 "records-20261122T114500.000Z.jsonl"
#define LINE(id)  "{\"time\":\"2026-11-22T10:45:00.123Z\",\"request_id\":\"" id "\"}\n"

static char dir[64];
static struct recordstore *rs;

static int set_up(UNUSED void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/fl-recordstore-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(UNUSED void **state)
{
    char command[128];
    recordstore_close(rs);
    rs = NULL;
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static void restart(void)
{
    recordstore_close(rs);
    assert_int_equal(recordstore_open(dir, 0, &rs), OK);
}

static enum err ship(const char *node, const char *segment, uint64_t from, const char *lines)
{
    return recordstore_append(rs, &(struct recordstore_batch){ .node = span_cstr(node),
                                                               .segment = span_cstr(segment),
                                                               .from = from,
                                                               .to = from + strlen(lines),
                                                               .lines = span_cstr(lines) });
}

static void stands(const char *node, const char *segment, uint64_t offset)
{
    struct span at;
    uint64_t here;
    recordstore_position(rs, span_cstr(node), &at, &here);
    assert_true(span_eq(at, span_cstr(segment)));
    assert_int_equal(here, offset);
}

static enum err gather(void *user, struct span line)
{
    const enum err err = buf_append(user, line);
    return err ? err : buf_append_byte(user, '\n');
}

static void holds(int64_t since_ms, const char *lines)
{
    struct buf all = BUF_INIT(1u << 20);
    assert_int_equal(recordstore_each(rs, since_ms, gather, &all), OK);
    assert_string_equal(buf_cstr(&all), lines);
    buf_release(&all);
}

static char *newest(void)
{
    struct record_dir files;
    assert_int_equal(record_dir_list(dir, &files), OK);
    assert_true(files.count > 0);
    char *path = file_join(dir, files.names[files.count - 1]);
    record_dir_release(&files);
    return path;
}

static void lines_arrive_in_order_and_positions_outlive_restarts(UNUSED void **state)
{
    const uint64_t length = strlen(LINE("a1"));
    restart();
    stands("a", "", 0);
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1")), OK);
    assert_int_equal(ship("b", SEGMENT_2, 0, LINE("b1") LINE("b2")), OK);
    stands("a", SEGMENT_1, length);
    restart();
    stands("a", SEGMENT_1, length);
    stands("b", SEGMENT_2, 2 * length);
    assert_int_equal(ship("a", SEGMENT_1, length, LINE("a2")), OK);
    assert_int_equal(ship("a", SEGMENT_2, 0, LINE("a3")), OK);
    holds(0, LINE("a1") LINE("b1") LINE("b2") LINE("a2") LINE("a3"));
    char *path = newest();
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    free(path);
    const struct recordstore_stats stats = recordstore_stats(rs);
    assert_true(stats.lines == 2 && stats.files == 1 && stats.nodes == 2 &&
                stats.held_bytes == (uint64_t)status.st_size);
}

static void repetitions_and_gaps_are_refused(UNUSED void **state)
{
    const uint64_t length = strlen(LINE("a1"));
    restart();
    assert_int_equal(ship("a", SEGMENT_1, 1, LINE("a1")), ERR_CONFLICT); /* nothing is known of what stood before */
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1")), OK);
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1")), ERR_CONFLICT);          /* again */
    assert_int_equal(ship("a", SEGMENT_1, 2 * length, LINE("a3")), ERR_CONFLICT); /* one is missing */
    assert_int_equal(ship("a", SEGMENT_2, 10, LINE("a3")), ERR_CONFLICT);         /* not from its start */
    restart(); /* killed before it could acknowledge: the node asks, and goes on behind it */
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1")), ERR_CONFLICT);
    stands("a", SEGMENT_1, length);
    assert_int_equal(ship("a", SEGMENT_2, 0, LINE("a2")), OK);
    assert_int_equal(ship("a", SEGMENT_1, length, LINE("late")), ERR_CONFLICT); /* its segment is done */
    stands("a", SEGMENT_2, length);
    assert_int_equal(recordstore_stats(rs).refused, 2);
    holds(0, LINE("a1") LINE("a2"));
}

static void what_no_node_sends_is_refused(UNUSED void **state)
{
    static const struct {
        const char *node, *segment, *lines;
    } bad[] = {
        { "", SEGMENT_1, LINE("a") },
        { "a b", SEGMENT_1, LINE("a") },
        { "a\n", SEGMENT_1, LINE("a") },
        { "a", "", LINE("a") },
        { "a", "a name that is far longer than any segment's name is", LINE("a") },
        { "a", SEGMENT_1, "{\"torn\":" },
        { "a", SEGMENT_1, LINE("a") "{\"torn\":\n" },
        { "a", SEGMENT_1, "no object\n" },
        { "a", SEGMENT_1, "\n" },
    };
    restart();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(ship(bad[i].node, bad[i].segment, 0, bad[i].lines), ERR_INVALID);
    struct recordstore_batch batch = {
        .node = SPAN("a"), .segment = SPAN(SEGMENT_1), .from = 5, .to = 4, .lines = SPAN("")
    };
    assert_int_equal(recordstore_append(rs, &batch), ERR_INVALID);
    batch =
        (struct recordstore_batch){ .node = SPAN("a"), .segment = SPAN(SEGMENT_1), .to = 3, .lines = SPAN(LINE("a")) };
    assert_int_equal(recordstore_append(rs, &batch), ERR_INVALID);
    holds(0, "");
}

/* Lines that look like the store's own, and offsets that pass lines which the node left out. */
static void lines_do_not_speak_for_the_store(UNUSED void **state)
{
    const char *const forged = "{\"kind\":\"position\",\"node\":\"a\",\"segment\":\"" SEGMENT_2 "\",\"offset\":7}\n";
    restart();
    assert_int_equal(ship("a", SEGMENT_1, 0, forged), OK);
    stands("a", SEGMENT_1, strlen(forged));
    const struct recordstore_batch batch = {
        .node = SPAN("a"), .segment = SPAN(SEGMENT_1), .from = strlen(forged), .to = 5000, .lines = SPAN(LINE("a1"))
    };
    assert_int_equal(recordstore_append(rs, &batch), OK);
    restart();
    stands("a", SEGMENT_1, 5000);
    assert_int_equal(recordstore_append(rs, &(struct recordstore_batch){ .node = SPAN("a"),
                                                                         .segment = SPAN(SEGMENT_1),
                                                                         .from = 5000,
                                                                         .to = 9000,
                                                                         .lines = SPAN("") }),
                     OK);
    restart();
    stands("a", SEGMENT_1, 9000);
    holds(0, LINE("a1"));
}

/* Killed, or out of power, at every byte of a batch: what was not whole is not there, and comes again. */
static void a_torn_end_is_cut(UNUSED void **state)
{
    const uint64_t length = strlen(LINE("a1"));
    restart();
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1")), OK);
    const off_t before = (off_t)recordstore_stats(rs).held_bytes;
    assert_int_equal(ship("a", SEGMENT_1, length, LINE("a2") LINE("a3")), OK);
    const off_t after = (off_t)recordstore_stats(rs).held_bytes;
    char *path = newest();
    for (off_t at = before; at <= after; at += 3) {
        const bool whole = at == after;
        assert_int_equal(truncate(path, at), 0);
        restart();
        stands("a", SEGMENT_1, whole ? 3 * length : length);
        assert_int_equal(recordstore_stats(rs).held_bytes, whole ? after : before);
        assert_int_equal(ship("a", SEGMENT_1, length, LINE("a2") LINE("a3")), whole ? ERR_CONFLICT : OK);
        holds(0, LINE("a1") LINE("a2") LINE("a3"));
    }
    /* Bytes that never reached the disk read as zeros. */
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "\0\0\0", 3, after - 20), 3);
    (void)close(fd);
    restart();
    stands("a", SEGMENT_1, length);
    free(path);
}

static void another_file_is_not_touched(UNUSED void **state)
{
    char *path = file_join(dir, SEGMENT_1);
    struct buf text = BUF_INIT(4096);
    assert_int_equal(file_write_atomic(path, SPAN(LINE("mine")), 0600), OK);
    assert_int_equal(recordstore_open(dir, 0, &rs), ERR_CORRUPT);
    assert_int_equal(file_read(path, 4096, &text), OK);
    assert_string_equal(buf_cstr(&text), LINE("mine"));
    buf_release(&text);
    free(path);
}

static void a_full_disk_takes_nothing_and_goes_on_later(UNUSED void **state)
{
    const uint64_t length = strlen(LINE("a1"));
    restart();
    fault_arm(FAULT_WRITE, 0, 1); /* the file cannot be begun */
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1")), ERR_NOSPACE);
    fault_disarm_all();
    stands("a", "", 0);
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1")), OK);
    fault_arm(FAULT_WRITE, 0, 1); /* it cannot be continued */
    assert_int_equal(ship("a", SEGMENT_1, length, LINE("a2")), ERR_NOSPACE);
    fault_disarm_all();
    stands("a", SEGMENT_1, length);
    assert_int_equal(ship("a", SEGMENT_1, length, LINE("a2")), OK);
    restart();
    holds(0, LINE("a1") LINE("a2"));
}

static void the_oldest_go_and_positions_stay(UNUSED void **state)
{
    static char lines[512u << 10];
    uint64_t at = 0;
    restart();
    assert_int_equal(ship("quiet", SEGMENT_1, 0, LINE("first")), OK);
    while (at + 100 < sizeof(lines)) /* so many as fit */
        at += (uint64_t)snprintf(lines + at, sizeof(lines) - at, "%s", LINE("x"));
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(ship("busy", SEGMENT_1, i * at, lines), OK);
    const struct recordstore_stats stats = recordstore_stats(rs);
    assert_true(stats.held_bytes <= RECORDSTORE_BYTES_LEAST && stats.held_bytes > RECORDSTORE_BYTES_LEAST / 2);
    assert_true(stats.files >= 2);
    restart();
    assert_int_equal(recordstore_stats(rs).held_bytes, stats.held_bytes);
    stands("quiet", SEGMENT_1, strlen(LINE("first")));
    stands("busy", SEGMENT_1, 20 * at);
}

static unsigned told;
static void on_taken(void *user, const struct record *record)
{
    assert_ptr_equal(user, &told);
    assert_true(record->time_ms > 0);
    told++;
}

static void each_record_is_told_once(UNUSED void **state)
{
    told = 0;
    restart();
    recordstore_listen(rs, on_taken, &told);
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1") "{\"n\":1}\n" LINE("a2")), OK);
    assert_int_equal(ship("a", SEGMENT_1, 0, LINE("a1")), ERR_CONFLICT);
    assert_int_equal(told, 2);
    assert_int_equal(recordstore_stats(rs).unreadable, 1);
}

static void a_walk_begins_where_it_is_told(UNUSED void **state)
{
#define AT(second) "{\"time\":\"2026-11-22T10:45:" second "Z\",\"request_id\":\"x\"}\n"
    int64_t since_ms;
    restart();
    assert_int_equal(ship("a", SEGMENT_1, 0, AT("01.000") AT("02.999") AT("03.000") AT("02.000") AT("04.000")), OK);
    assert_int_equal(clock_parse_wall(SPAN("2026-11-22T10:45:03.000Z"), &since_ms), OK);
    holds(since_ms, AT("03.000") AT("04.000"));
    holds(since_ms + 1, AT("04.000"));
#undef AT
}

static void memory_that_runs_out_changes_nothing(UNUSED void **state)
{
    bool done = false;
    for (uint64_t n = 0; !done; n++) {
        recordstore_close(rs);
        rs = NULL;
        fault_arm(FAULT_ALLOC, n, 1);
        enum err err = recordstore_open(dir, 0, &rs);
        if (!err)
            err = ship("a", SEGMENT_1, 0, LINE("a1"));
        fault_disarm_all();
        assert_true(err == OK || err == ERR_NOMEM || err == ERR_CONFLICT);
        done = err == OK || err == ERR_CONFLICT;
    }
    restart();
    stands("a", SEGMENT_1, strlen(LINE("a1")));
    holds(0, LINE("a1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_arrive_in_order_and_positions_outlive_restarts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(repetitions_and_gaps_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_no_node_sends_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lines_do_not_speak_for_the_store, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_torn_end_is_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_file_is_not_touched, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_disk_takes_nothing_and_goes_on_later, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_oldest_go_and_positions_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(each_record_is_told_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_walk_begins_where_it_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_that_runs_out_changes_nothing, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
