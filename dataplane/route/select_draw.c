#include "dataplane/route/select_draw.h"

__extension__ typedef unsigned __int128 wide;

void pool_remove(struct pool *pool, uint32_t at)
{
    for (uint32_t i = at; i + 1 < pool->count; i++)
        pool->items[i] = pool->items[i + 1];
    pool->count--;
}

/* Weight for drawing: among zeros only, each counts the same. */
static uint64_t weight_of(const struct pool *pool, uint32_t at, uint64_t sum)
{
    return sum > 0 ? pool->items[at]->weight : 1;
}

static uint64_t sum_of(const struct pool *pool)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < pool->count; i++)
        sum += pool->items[i]->weight;
    return sum;
}

/* One draw by weight. The multiplication maps 64 random bits to [0, sum) with a bias below sum / 2^64 < 2^-37. */
static uint32_t draw_one(const struct pool *pool, struct prng *prng)
{
    uint64_t sum = sum_of(pool);
    uint64_t range = sum > 0 ? sum : pool->count;
    uint64_t at = (uint64_t)(((wide)prng_u64(prng) * range) >> 64);
    uint32_t i = 0;
    for (; i + 1 < pool->count; i++) {
        uint64_t weight = weight_of(pool, i, sum);
        if (at < weight)
            break;
        at -= weight;
    }
    return i;
}

/* Where both draws fell on one member, or load did not decide, it is the weight that chose. */
static uint32_t draw_two(const struct pool *pool, struct prng *prng, bool *ret_by_load)
{
    uint32_t a = draw_one(pool, prng), b = draw_one(pool, prng);
    *ret_by_load = pool->items[b]->load != pool->items[a]->load;
    return pool->items[b]->load < pool->items[a]->load ? b : a;
}

static uint32_t least(const struct pool *pool, enum draw_rule rule)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < pool->count; i++) {
        const struct candidate *c = pool->items[i], *b = pool->items[best];
        if (rule == DRAW_CHEAPEST ? c->step->estimate_nano < b->step->estimate_nano : c->load < b->load)
            best = i;
    }
    return best;
}

uint32_t draw_first(const struct pool *pool, enum draw_rule rule, struct prng *prng, bool *ret_by_load)
{
    bool by_load = false;
    uint32_t first = 0;
    REQUIRE(pool->count > 0);
    switch (rule) {
    case DRAW_NONE:
        break;
    case DRAW_WEIGHT:
        first = draw_one(pool, prng);
        break;
    case DRAW_TWO:
        first = draw_two(pool, prng, &by_load);
        break;
    case DRAW_CHEAPEST:
    case DRAW_FASTEST:
        first = least(pool, rule);
        break;
    }
    if (ret_by_load)
        *ret_by_load = by_load;
    return first;
}

static uint32_t ppb(wide part, wide whole)
{
    REQUIRE(whole > 0);
    return (uint32_t)((part * DRAW_CERTAIN_PPB * 2 + whole) / (whole * 2));
}

/* select.h's formula. */
static uint32_t chance_of_two(const struct pool *pool, uint32_t at, uint64_t sum)
{
    const uint64_t load = pool->items[at]->load, weight = weight_of(pool, at, sum);
    const wide whole = sum > 0 ? sum : pool->count;
    wide part = (wide)weight * weight;
    for (uint32_t j = 0; j < pool->count; j++) {
        if (j == at || pool->items[j]->load < load)
            continue;
        part += (wide)weight * weight_of(pool, j, sum) * (pool->items[j]->load == load ? 1 : 2);
    }
    return ppb(part, whole * whole);
}

uint32_t draw_chance(const struct pool *pool, enum draw_rule rule, uint32_t at)
{
    const uint64_t sum = sum_of(pool);
    REQUIRE(at < pool->count);
    switch (rule) {
    case DRAW_NONE:
        return at == 0 ? DRAW_CERTAIN_PPB : 0;
    case DRAW_WEIGHT:
        return ppb(weight_of(pool, at, sum), sum > 0 ? sum : pool->count);
    case DRAW_TWO:
        return chance_of_two(pool, at, sum);
    case DRAW_CHEAPEST:
    case DRAW_FASTEST:
        return at == least(pool, rule) ? DRAW_CERTAIN_PPB : 0;
    }
    return 0;
}
