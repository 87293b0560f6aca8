/* select_draw.h - who of a tier's eligible members comes first: the draw, and the exact chance of each to win it. Both
 * stand side by side here, so that what is recorded and what is simulated cannot differ from what is done. Shared by
 * select.c and its tests alone. Pure. */
#pragma once
#include "common/digest.h"
#include "dataplane/route/select.h"

/* One member of one tier, judged. */
struct candidate {
    struct plan_step *step; /* in plan.all */
    uint64_t weight;
    uint64_t load; /* (outstanding + 1) x TTFT in us */
    uint32_t outstanding, ttft_us;
    uint64_t until_ms; /* end of an ejection */
    int64_t since_ms;  /* start of being down; 0: not known */
    bool ejected;      /* by its breaker: half of the tier's may be taken back */
};
struct pool { /* those who are left; the picked ones leave it */
    struct candidate *items[TIER_MEMBERS_MAX];
    uint32_t count;
};
void pool_remove(struct pool *pool, uint32_t at);

enum draw_rule {
    DRAW_NONE,     /* the first of the pool: there is one, or it was asked for by name */
    DRAW_WEIGHT,   /* one draw by weight; among zeros only, each counts the same */
    DRAW_TWO,      /* two draws by weight with replacement; the less loaded of both, the first drawn when equal */
    DRAW_CHEAPEST, /* least estimate; nothing is drawn */
    DRAW_FASTEST,  /* least load; nothing is drawn */
};
#define DRAW_CERTAIN_PPB 1000000000u

/* An index into the pool, which is not empty. *ret_by_load (may be NULL): two different ones were drawn, and load
 * decided. */
uint32_t draw_first(const struct pool *pool, enum draw_rule rule, struct prng *prng, bool *ret_by_load);
/* The exact probability that draw_first gives `at`, to the nearest 10^-9. */
uint32_t draw_chance(const struct pool *pool, enum draw_rule rule, uint32_t at);
