/* What of a supervisor can be judged without processes; the rest is in tests/system. */
#include "dataplane/node/supervisor.h"
#include "dataplane/node/supervisor_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static void one_that_starts_is_watched_with_more_patience(UNUSED void **state)
{
    static struct supervisor s;
    struct process p = { .pid = 4711, .started_ms = 5000, .region = PROCESS_NO_REGION, .state = PROCESS_STARTING };
    uint64_t turned_ms, limit_ms;
    s = (struct supervisor){ .slot_count = 2 };
    assert_int_equal(supervisor_watched(&s, 1, 1000, &turned_ms, &limit_ms), 0); /* nobody is there */
    s.slots[1].process = &p;
    assert_int_equal(supervisor_watched(&s, 1, 1000, &turned_ms, &limit_ms), 4711);
    assert_int_equal(turned_ms, 5000);
    assert_int_equal(limit_ms, SUPERVISOR_START_MS);
    assert_int_equal(supervisor_watched(&s, 1, SUPERVISOR_START_MS + 1, &turned_ms, &limit_ms), 4711);
    assert_int_equal(limit_ms, SUPERVISOR_START_MS + 1);
    assert_int_equal(supervisor_watched(&s, 1, 0, &turned_ms, &limit_ms), 4711);
    assert_int_equal(limit_ms, 0);                                               /* off is off */
    assert_int_equal(supervisor_watched(&s, 2, 1000, &turned_ms, &limit_ms), 0); /* no such slot */
    p.state = PROCESS_DRAINING;
    assert_int_equal(supervisor_watched(&s, 1, 1000, &turned_ms, &limit_ms), 0);
    p.state = PROCESS_UP; /* on a board that is gone: its turns cannot be seen */
    assert_int_equal(supervisor_watched(&s, 1, 1000, &turned_ms, &limit_ms), 0);
}

static void who_can_be_adopted_is_on_this_board(UNUSED void **state)
{
    static struct supervisor s;
    struct board *board;
    char path[64];
    unsigned region;
    (void)snprintf(path, sizeof(path), "/dev/shm/fl-supervisor-test-%ld", (long)getpid());
    assert_int_equal(board_create(path, 2, &board), OK);
    assert_int_equal(board_region_take(board, &region), OK);
    atomic_store(&board_region(board, region)->pid, 4711);
    s = (struct supervisor){ .options.board = board, .slot_count = 1 };
    const struct control_message good = { .pid = 4711, .region = region, .layout = BOARD_LAYOUT };
    struct control_message hello = good;
    assert_null(supervisor_cannot_adopt(&s, &hello));
    hello.layout = BOARD_LAYOUT + 1; /* a worker of another version's master: it counts where we cannot read */
    assert_string_equal(supervisor_cannot_adopt(&s, &hello), "other layout of the board");
    hello = good;
    hello.slot = NODE_WORKERS_MAX;
    assert_string_equal(supervisor_cannot_adopt(&s, &hello), "no such slot");
    static const struct {
        uint64_t pid, region;
    } others[] = { { 4712, 0 }, { 4711, 1 }, { 4711, 2 }, { 4711, UINT64_MAX } };
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        hello = good;
        hello.pid = others[i].pid;
        hello.region = others[i].region;
        assert_string_equal(supervisor_cannot_adopt(&s, &hello), "its region of the board is another's");
    }
    s.settled = true;
    assert_string_equal(supervisor_cannot_adopt(&s, &good), "too late");
    s.settled = false;
    s.draining = true;
    assert_string_equal(supervisor_cannot_adopt(&s, &good), "too late");
    board_close(board);
    assert_int_equal(unlink(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_starts_is_watched_with_more_patience),
        cmocka_unit_test(who_can_be_adopted_is_on_this_board),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
