/* hist.h - mergeable log-linear histogram of unsigned values: HIST_SUB_BITS linear steps in each power of two, so a
 * quantile is at most 1/16 (6.25%) too high. Values at or above 2^HIST_VALUE_BITS are counted in the last bucket.
 *
 * Counts are plain; the board has an atomic layout of the same buckets (hist_bucket gives the index). */
#pragma once
#include "common/base.h"

#define HIST_SUB_BITS   4
#define HIST_VALUE_BITS 36 /* 2^36 us = 19 hours */
#define HIST_BUCKETS    (((HIST_VALUE_BITS - HIST_SUB_BITS + 1) << HIST_SUB_BITS))

struct hist {
    uint64_t count;
    uint64_t sum;
    uint64_t buckets[HIST_BUCKETS];
};

unsigned hist_bucket(uint64_t value);          /* 0 .. HIST_BUCKETS - 1 */
uint64_t hist_bucket_floor(unsigned bucket);   /* least value of the bucket */
uint64_t hist_bucket_ceiling(unsigned bucket); /* greatest value of the bucket */
void hist_add(struct hist *hist, uint64_t value);
void hist_merge(struct hist *into, const struct hist *from);
/* Smallest bucket ceiling with at least quantile (0..1) of the values at or below it; 0 when empty. */
uint64_t hist_quantile(const struct hist *hist, double quantile);
