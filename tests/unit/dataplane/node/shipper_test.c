/* Against a control plane of the test's own, which keeps the rules of controlplane/evidence/recordstore: that one cannot
 * be linked here. Both together: tests/system/shipping.test.mjs. */
#include "dataplane/node/shipper.h"
#include "common/clock.h"
#include "common/file.h"
#include "proto/record.h"
#include "proto/wire.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

#define SEGMENT_1 "records-20261122T104500.001Z.jsonl"
#define SEGMENT_2 "records-20261122T104500.002Z.jsonl"
#define SEGMENT_3 "records-20261122T104500.003Z.jsonl"
#define LINE(id)  "{\"time\":\"2026-11-22T10:45:00.123Z\",\"request_id\":\"" id "\"}\n"
#define WAIT_MS   60000u /* a busy machine; never awaited when all is well */

struct world {
    uv_loop_t loop;
    char dir[64], address[96];
    struct node_config config;
    struct records records;
    struct shipper shipper;
    /* The control plane. */
    struct channel_server *server;
    uv_async_t wake;
    char segment[RECORD_FILE_NAME_BYTES];
    uint64_t offset;
    struct buf lines;
    const char *error; /* answered instead of taking anything */
    bool mute;         /* it takes, and its answer makes no sense */
    unsigned asked, taken, repeated;
};

static void wake(void *user)
{
    uv_async_send(user);
}

static void on_wake(uv_async_t *async)
{
    struct world *w = async->data;
    if (w->server)
        channel_server_dispatch(w->server);
}

static void take(struct world *w, const struct evidence_report *report)
{
    const int order = span_cmp(report->records_segment, span_cstr(w->segment));
    if (order < 0 || report->records_from != (order == 0 ? w->offset : 0)) {
        w->repeated++;
        return;
    }
    (void)snprintf(w->segment, sizeof(w->segment), SPAN_FMT, SPAN_ARG(report->records_segment));
    w->offset = report->records_to;
    w->taken++;
    assert_int_equal(buf_append(&w->lines, report->records), OK);
}

static void on_report(void *user, struct channel_call *call, struct span request,
                      UNUSED const struct channel_peer *peer)
{
    struct world *w = user;
    struct arena arena;
    struct evidence_report *report;
    struct buf out = BUF_INIT(1u << 16);
    arena_init(&arena, 16u << 20);
    assert_int_equal(wire_decode_evidence_report(&arena, request, &report), OK);
    assert_true(report->ships_records && span_eq(report->sender, SPAN("node-1")));
    w->asked++;
    if (!w->error && report->records_segment.len > 0)
        take(w, report);
    const struct evidence_reply reply = { .protocol = LINK_PROTOCOL,
                                          .error = span_cstr(w->error),
                                          .records_segment = span_cstr(w->segment),
                                          .records_offset = w->offset };
    assert_int_equal(wire_encode_evidence_reply(&reply, &out), OK);
    channel_reply(call, w->mute ? SPAN("?") : buf_span(&out));
    buf_release(&out);
    arena_release(&arena);
}

static void start_shipper(struct world *w)
{
    assert_int_equal(
        shipper_open(&w->shipper,
                     &(struct shipper_options){ .loop = &w->loop, .config = &w->config, .records = &w->records }),
        OK);
}

static void stop_shipper(struct world *w)
{
    shipper_close(&w->shipper);
    (void)uv_run(&w->loop, UV_RUN_NOWAIT); /* its handles are closed at the end of a turn */
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    (void)snprintf(w->dir, sizeof(w->dir), "/tmp/fl-shipper-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    (void)snprintf(w->address, sizeof(w->address), "ipc://%s/socket", w->dir);
    assert_int_equal(uv_loop_init(&w->loop), 0);
    assert_int_equal(uv_async_init(&w->loop, &w->wake, on_wake), 0);
    w->wake.data = w;
    w->config = (struct node_config){ .name = (char *)(uintptr_t) "node-1",
                                      .evidence = w->address,
                                      .records_ship_ppm = 1000000 };
    w->records = (struct records){ .dir = w->dir, .fd = -1 };
    buf_init(&w->lines, 16u << 20);
    const struct channel_server_options options = {
        .address = w->address, .parallel = 2, .handler = on_report, .user = w, .wake = wake, .wake_user = &w->wake
    };
    assert_int_equal(channel_server_open(&options, &w->server), OK);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    char command[128];
    shipper_close(&w->shipper);
    channel_server_close(w->server);
    w->server = NULL;
    uv_close((uv_handle_t *)&w->wake, NULL);
    while (uv_run(&w->loop, UV_RUN_DEFAULT))
        ;
    assert_int_equal(uv_loop_close(&w->loop), 0);
    buf_release(&w->lines);
    (void)snprintf(command, sizeof(command), "rm -r %s", w->dir);
    free(w);
    return system(command);
}

#define UNTIL(w, condition)                                                                                            \
    do {                                                                                                               \
        const uint64_t until_ms = clock_ms() + WAIT_MS;                                                                \
        while (!(condition) && clock_ms() < until_ms)                                                                  \
            (void)uv_run(&(w)->loop, UV_RUN_ONCE);                                                                     \
        assert_true(condition);                                                                                        \
    } while (0)

static void append(const struct world *w, const char *segment, const char *text)
{
    char *path = file_join(w->dir, segment);
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
    free(path);
}

static void drop(struct world *w, const char *segment)
{
    char *path = file_join(w->dir, segment);
    if (w->records.removing)
        w->records.removing(w->records.removing_user, segment);
    assert_int_equal(unlink(path), 0);
    free(path);
}

static void holds(struct world *w, const char *lines)
{
    const size_t bytes = strlen(lines);
    UNTIL(w, w->lines.len >= bytes);
    assert_string_equal(buf_cstr(&w->lines), lines);
}

static void ships_segment_after_segment(void **state)
{
    struct world *w = *state;
    append(w, SEGMENT_1, LINE("1") LINE("2"));
    append(w, SEGMENT_2, LINE("3"));
    start_shipper(w);
    holds(w, LINE("1") LINE("2") LINE("3"));
    append(w, SEGMENT_2, LINE("4"));
    holds(w, LINE("1") LINE("2") LINE("3") LINE("4"));
    append(w, SEGMENT_2, "{\"torn\":"); /* not whole yet: or never, as its master was killed */
    append(w, SEGMENT_3, LINE("5"));
    holds(w, LINE("1") LINE("2") LINE("3") LINE("4") LINE("5"));
    UNTIL(w, w->shipper.shipped == 5);
    assert_true(w->shipper.lost == 0 && w->repeated == 0);
}

static void begins_when_there_is_something(void **state)
{
    struct world *w = *state;
    start_shipper(w);
    UNTIL(w, w->asked == 1);
    append(w, SEGMENT_1, LINE("1"));
    holds(w, LINE("1"));
}

static void another_master_goes_on_where_this_one_was(void **state)
{
    struct world *w = *state;
    append(w, SEGMENT_1, LINE("1"));
    start_shipper(w);
    holds(w, LINE("1"));
    stop_shipper(w);
    append(w, SEGMENT_1, LINE("2"));
    append(w, SEGMENT_2, LINE("3"));
    start_shipper(w);
    holds(w, LINE("1") LINE("2") LINE("3"));
    assert_int_equal(w->repeated, 0);
}

/* The control plane took it, and was killed before it said so. */
static void a_lost_answer_repeats_nothing(void **state)
{
    struct world *w = *state;
    append(w, SEGMENT_1, LINE("1"));
    start_shipper(w);
    holds(w, LINE("1"));
    UNTIL(w, !w->shipper.sending);
    w->mute = true;
    append(w, SEGMENT_1, LINE("2"));
    UNTIL(w, w->taken == 2 && !w->shipper.known);
    w->mute = false;
    append(w, SEGMENT_1, LINE("3"));
    holds(w, LINE("1") LINE("2") LINE("3"));
    assert_int_equal(w->repeated, 0);
}

/* Its disk is full, or it lost its last file: what it says counts. */
static void ships_again_what_was_not_kept(void **state)
{
    struct world *w = *state;
    w->error = "nospace";
    append(w, SEGMENT_1, LINE("1") LINE("2"));
    start_shipper(w);
    UNTIL(w, w->asked == 1 && !w->shipper.sending);
    w->error = NULL;
    holds(w, LINE("1") LINE("2"));
    UNTIL(w, !w->shipper.sending);
    w->error = "nospace";
    const unsigned asked = w->asked;
    append(w, SEGMENT_1, LINE("3"));
    UNTIL(w, w->asked > asked && !w->shipper.sending);
    w->error = NULL;
    holds(w, LINE("1") LINE("2") LINE("3"));
    UNTIL(w, !w->shipper.sending);
    buf_clear(&w->lines);
    w->offset = strlen(LINE("1"));
    append(w, SEGMENT_1, LINE("4")); /* from where it stood; and is told where it stands */
    holds(w, LINE("2") LINE("3") LINE("4"));
}

static void what_is_removed_too_early_is_counted(void **state)
{
    struct world *w = *state;
    append(w, SEGMENT_1, LINE("1"));
    start_shipper(w);
    holds(w, LINE("1"));
    UNTIL(w, !w->shipper.sending);
    w->error = "away";
    append(w, SEGMENT_1, LINE("2"));
    append(w, SEGMENT_2, LINE("3") LINE("4"));
    append(w, SEGMENT_3, LINE("5"));
    drop(w, SEGMENT_1); /* is being read */
    drop(w, SEGMENT_2);
    w->error = NULL;
    holds(w, LINE("1") LINE("2") LINE("5"));
    assert_int_equal(w->shipper.lost, 2);
}

static void without_a_word_from_the_control_plane_all_counts_as_lost(void **state)
{
    struct world *w = *state;
    w->mute = true;
    append(w, SEGMENT_1, LINE("1") LINE("2"));
    append(w, SEGMENT_2, LINE("3"));
    start_shipper(w);
    drop(w, SEGMENT_1);
    w->mute = false;
    holds(w, LINE("3"));
    assert_int_equal(w->shipper.lost, 2);
}

static void a_segment_that_shrank_hides_nothing(void **state)
{
    struct world *w = *state;
    append(w, SEGMENT_1, LINE("1") LINE("2"));
    start_shipper(w);
    holds(w, LINE("1") LINE("2"));
    stop_shipper(w);
    char *path = file_join(w->dir, SEGMENT_1);
    assert_int_equal(truncate(path, (off_t)strlen(LINE("1"))), 0);
    w->records.fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC); /* as a master continues it */
    free(path);
    start_shipper(w);
    UNTIL(w, w->records.fd < 0); /* what comes now goes into another one */
    append(w, SEGMENT_2, LINE("3"));
    holds(w, LINE("1") LINE("2") LINE("3"));
}

static void a_share_takes_whole_units(void **state)
{
    struct world *w = *state;
    struct arena arena;
    unsigned lines[64] = { 0 }, units = 0;
    char line[160];
    w->config.records_ship_ppm = 500000;
    for (unsigned i = 0; i < 64 * 5; i++) {
        (void)snprintf(
            line, sizeof(line),
            "{\"time\":\"2026-11-22T10:45:00.123Z\",\"request_id\":\"r\",\"status\":%u,\"unit\":\"%016x\"}\n", i % 64,
            i % 64);
        append(w, SEGMENT_1, line);
    }
    append(w, SEGMENT_1, LINE("last\",\"kind\":\"feedback")); /* of which no unit is known */
    start_shipper(w);
    UNTIL(w, w->lines.len > 0 && span_find(buf_span(&w->lines), SPAN("\"last\"")) != SIZE_MAX);
    arena_init(&arena, 1u << 20);
    for (struct span rest = buf_span(&w->lines), text; span_split(&rest, '\n', &text) && text.len > 0;) {
        struct record record;
        arena_reset(&arena);
        assert_int_equal(record_read(&arena, text, &record), OK);
        if (record.kind == RECORD_REQUEST)
            lines[record.status]++;
    }
    arena_release(&arena);
    for (unsigned i = 0; i < 64; i++) {
        assert_true(lines[i] == 0 || lines[i] == 5);
        units += lines[i] == 5;
    }
    assert_true(units > 16 && units < 48); /* the same on every run: the hash is */
    assert_int_equal(w->shipper.left_out, (64 - units) * 5);
}

static void what_was_said_stays_on_the_node(void **state)
{
    struct world *w = *state;
    append(w, SEGMENT_1, LINE("1") LINE("2\",\"kind\":\"content\",\"prompt\":\"secret") LINE("3"));
    start_shipper(w);
    holds(w, LINE("1") LINE("3"));
    assert_int_equal(w->shipper.left_out, 0);
}

static void a_share_of_nothing_asks_nobody(void **state)
{
    struct world *w = *state;
    w->config.records_ship_ppm = 0;
    append(w, SEGMENT_1, LINE("1"));
    start_shipper(w);
    assert_null(w->shipper.client);
    assert_null(w->records.removing);
}

static void names_that_are_no_segments_are_not_opened(void **state)
{
    struct world *w = *state;
    append(w, SEGMENT_1, LINE("1"));
    (void)snprintf(w->segment, sizeof(w->segment), "../%s", SEGMENT_1);
    start_shipper(w);
    UNTIL(w, w->asked >= 2);
    assert_int_equal(w->taken, 0);
    w->segment[0] = '\0';
    holds(w, LINE("1"));
}

static void a_position_of_somebody_else_is_said(void **state)
{
    struct world *w = *state;
    append(w, SEGMENT_1, LINE("1"));
    (void)snprintf(w->segment, sizeof(w->segment), "%s", SEGMENT_2);
    w->offset = 77;
    start_shipper(w);
    UNTIL(w, w->shipper.elsewhere);
    append(w, SEGMENT_3, LINE("2"));
    holds(w, LINE("2"));
    assert_false(w->shipper.elsewhere);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ships_segment_after_segment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(begins_when_there_is_something, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_master_goes_on_where_this_one_was, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_lost_answer_repeats_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ships_again_what_was_not_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_removed_too_early_is_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_a_word_from_the_control_plane_all_counts_as_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_segment_that_shrank_hides_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_share_takes_whole_units, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_said_stays_on_the_node, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_share_of_nothing_asks_nobody, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_that_are_no_segments_are_not_opened, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_position_of_somebody_else_is_said, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
