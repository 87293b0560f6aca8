#include "common/hist.h"

#define SUB_COUNT (1U << HIST_SUB_BITS)

/* Below SUB_COUNT each value has its own bucket; from there on each power of two has SUB_COUNT of them. */
unsigned hist_bucket(uint64_t value)
{
    if (value < SUB_COUNT)
        return (unsigned)value;
    if (value >> HIST_VALUE_BITS)
        return HIST_BUCKETS - 1;
    unsigned shift = 63U - (unsigned)__builtin_clzll(value) - HIST_SUB_BITS;
    return ((shift + 1) << HIST_SUB_BITS) + (unsigned)((value >> shift) & (SUB_COUNT - 1));
}

uint64_t hist_bucket_floor(unsigned bucket)
{
    REQUIRE(bucket < HIST_BUCKETS);
    unsigned power = bucket >> HIST_SUB_BITS, step = bucket & (SUB_COUNT - 1);
    return power == 0 ? step : (uint64_t)(SUB_COUNT + step) << (power - 1);
}

uint64_t hist_bucket_ceiling(unsigned bucket)
{
    unsigned power = bucket >> HIST_SUB_BITS;
    uint64_t width = UINT64_C(1) << (power == 0 ? 0 : power - 1);
    return hist_bucket_floor(bucket) + width - 1;
}

static uint64_t add_saturating(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

void hist_add(struct hist *hist, uint64_t value)
{
    hist->count++;
    hist->sum = add_saturating(hist->sum, value);
    hist->buckets[hist_bucket(value)]++;
}

void hist_merge(struct hist *into, const struct hist *from)
{
    into->count = add_saturating(into->count, from->count);
    into->sum = add_saturating(into->sum, from->sum);
    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        into->buckets[i] = add_saturating(into->buckets[i], from->buckets[i]);
}

uint64_t hist_quantile(const struct hist *hist, double quantile)
{
    if (hist->count == 0)
        return 0;
    double total = (double)hist->count;
    uint64_t rank = 1;
    if (quantile >= 1) {
        rank = hist->count;
    } else if (quantile > 0) {
        /* The product may be off by one ulp either way (0.07 * 100 > 7), so the quotient decides. */
        rank = (uint64_t)(quantile * total);
        if (rank == 0 || (double)rank / total < quantile)
            rank++;
    }
    uint64_t seen = 0;
    unsigned bucket = 0;
    for (; bucket < HIST_BUCKETS - 1; bucket++) {
        seen = add_saturating(seen, hist->buckets[bucket]);
        if (seen >= rank)
            break;
    }
    return hist_bucket_ceiling(bucket);
}
