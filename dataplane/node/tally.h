/* tally.h - the node's counters: what worker processes that ended have left (accumulators), and sums with those that
 * run. Master only.
 *
 * A worker's region counts from zero; when its process has ended, the region is folded in here and cleared, so that
 * totals never fall. Gauges are not folded: they ended with the process. */
#pragma once
#include "common/hist.h"
#include "proto/board.h"

#define TALLY_ARMS_MAX                                                                                                 \
    64u /* policies come and go for years, and each would stay on the metrics page; four times what a worker counts */

struct tally_series {
    uint32_t team, route, model; /* labels */
    uint64_t counters[SERIES_COUNTERS];
    struct hist ttft_us, duration_us;
};
struct tally_arm {
    uint32_t version;
    bool shadow;
    uint32_t name_len;
    char name[BOARD_ARM_NAME_BYTES];
    uint64_t counters[ARM_COUNTERS];
    struct hist ttft_us;
};
struct tally {
    struct tally_series **slots; /* open addressing by triple; NULL: free */
    uint32_t capacity, count;
    uint64_t workers[WORKER_COUNTERS];
    struct hist overhead_us;
    struct tally_arm *arms; /* at most TALLY_ARMS_MAX: those of the oldest policies go to "other", of version 0 */
    uint32_t arm_count, arm_capacity;
    uint64_t lost; /* series and arms left out: memory was out */
};

void tally_release(struct tally *tally); /* NULL is fine; all-zero again */
/* Adds one region. gauges: also the counters that only tell of now. */
void tally_add_region(struct tally *tally, const struct board_region *region, bool gauges);
void tally_add(struct tally *tally, const struct tally *from);
/* Everything: `ended` and all regions of the board that are taken. */
void tally_sum(struct tally *tally, const struct tally *ended, struct board *board);
/* for (uint32_t at = 0; (s = tally_each(&t, &at));) in no order. */
const struct tally_series *tally_each(const struct tally *tally, uint32_t *at);
/* Sums into the series of this triple; for coarser views (all teams: team 0). NULL: memory is out. */
struct tally_series *tally_series(struct tally *tally, uint32_t team, uint32_t route, uint32_t model);
void tally_merge_series(struct tally_series *into, const struct tally_series *from);
