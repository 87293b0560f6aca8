#include "dataplane/node/tally.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static void adds_up(UNUSED void **state)
{
    char path[64];
    struct board *board;
    struct tally ended = { .slots = NULL }, all = { .slots = NULL };
    (void)snprintf(path, sizeof(path), "/dev/shm/fl-tally-%ld", (long)getpid());
    assert_int_equal(board_create(path, 2, &board), OK);
    for (unsigned slot = 0; slot < 2; slot++) {
        unsigned number;
        assert_int_equal(board_region_take(board, &number), OK);
        struct board_region *region = board_region(board, number);
        for (uint32_t route = 1; route <= 100; route++) {
            struct board_series *s = board_series(region, 1, route, 2);
            board_add(&s->counters[SERIES_REQUESTS], route);
            board_hist_add(&s->ttft_us, 1000);
        }
        for (uint32_t version = 1; version <= 2; version++) {
            struct board_arm *arm =
                board_arm(region, &(struct board_arm_id){ .version = version, .name = SPAN("stable") });
            board_add(&arm->counters[ARM_COST_NANO], 10 * version);
            board_hist_add(&arm->ttft_us, 1000);
        }
        board_add(&region->counters[WORKER_BAD_REQUESTS], 3);
        board_add(&region->counters[WORKER_CONNECTIONS_OPEN], 5);
    }
    /* One worker ends: its counters stay, its gauges go, and nothing is counted twice. */
    tally_add_region(&ended, board_region(board, 0), false);
    board_region_free(board, 0);
    tally_sum(&all, &ended, board);
    assert_int_equal(all.workers[WORKER_BAD_REQUESTS], 6);
    assert_int_equal(all.workers[WORKER_CONNECTIONS_OPEN], 5);
    uint64_t requests = 0, series = 0;
    const struct tally_series *s;
    for (uint32_t at = 0; (s = tally_each(&all, &at));) {
        requests += s->counters[SERIES_REQUESTS];
        series += s->counters[SERIES_REQUESTS] > 0;
        if (s->counters[SERIES_REQUESTS] > 0)
            assert_int_equal(s->ttft_us.count, 2);
    }
    assert_int_equal(requests, 2 * 5050);
    assert_int_equal(series, 100);
    assert_int_equal(all.arm_count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(all.arms[i].counters[ARM_COST_NANO], 20 * all.arms[i].version);
        assert_int_equal(all.arms[i].ttft_us.count, 2);
    }
    assert_int_equal(all.lost, 0);
    tally_release(&all);
    tally_release(&ended);
    board_close(board);
    (void)unlink(path);
}

/* Workers come and go with ever new policies: what they have counted stays, but not a line of the metrics for each. */
static void arms_of_old_policies_become_one(UNUSED void **state)
{
    enum { POLICIES = 300, EACH = 10 };
    char path[64];
    struct board *board;
    struct tally ended = { .slots = NULL };
    (void)snprintf(path, sizeof(path), "/dev/shm/fl-tally-%ld", (long)getpid());
    assert_int_equal(board_create(path, 1, &board), OK);
    for (uint32_t first = 1; first <= POLICIES; first += EACH) {
        unsigned number;
        assert_int_equal(board_region_take(board, &number), OK);
        struct board_region *region = board_region(board, number);
        for (uint32_t version = first; version < first + EACH; version++) {
            struct board_arm *arm =
                board_arm(region, &(struct board_arm_id){ .version = version, .name = SPAN("stable") });
            board_add(&arm->counters[ARM_OK], 1);
            board_hist_add(&arm->ttft_us, 1000);
        }
        tally_add_region(&ended, region, false);
        board_region_free(board, number);
    }
    assert_int_equal(ended.arm_count, TALLY_ARMS_MAX);
    uint64_t ok = 0, ttfts = 0;
    for (uint32_t i = 0; i < ended.arm_count; i++) {
        const struct tally_arm *arm = &ended.arms[i];
        const bool other = arm->version == 0;
        assert_true(other || arm->version > POLICIES - TALLY_ARMS_MAX + 1);
        assert_true(span_eq(span_of(arm->name, arm->name_len), other ? SPAN("other") : SPAN("stable")));
        assert_int_equal(arm->counters[ARM_OK], other ? POLICIES - TALLY_ARMS_MAX + 1 : 1);
        ok += arm->counters[ARM_OK];
        ttfts += arm->ttft_us.count;
    }
    assert_int_equal(ok, POLICIES);
    assert_int_equal(ttfts, POLICIES);
    struct tally all = { .slots = NULL }; /* one more of an old policy does not push out a newer one */
    unsigned number;
    assert_int_equal(board_region_take(board, &number), OK);
    board_add(&board_arm(board_region(board, number), &(struct board_arm_id){ .version = 3, .name = SPAN("stable") })
                   ->counters[ARM_OK],
              1);
    tally_sum(&all, &ended, board);
    assert_int_equal(all.arm_count, TALLY_ARMS_MAX);
    for (uint32_t i = 0; i < all.arm_count; i++)
        assert_int_equal(all.arms[i].counters[ARM_OK], all.arms[i].version ? 1 : POLICIES - TALLY_ARMS_MAX + 2);
    assert_int_equal(all.lost, 0);
    tally_release(&all);
    tally_release(&ended);
    board_close(board);
    (void)unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(adds_up), cmocka_unit_test(arms_of_old_policies_become_one) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
