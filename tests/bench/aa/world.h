/* world.h - simulated traffic for experiments whose truth is known. */
#pragma once
#include "common/digest.h"
#include "controlplane/decide/experiment.h"

enum { WORLD_ERRORS, WORLD_TTFT, WORLD_SPEED, WORLD_COST, WORLD_REFUSALS, WORLD_FEEDBACK, WORLD_GUARDS };

struct world_setting {
    uint32_t units;    /* 0: each request is a unit of its own, alike and independent */
    uint32_t requests; /* of one experiment */
    double treated;    /* the treated arm's share of units */
    /* What the treated arm changes; 1: nothing. */
    double errors, ttft; /* factors */
    double spread;       /* of units' costs, with the same mean: no harm, but not "no effect" either */
    /* The baseline's rate of errors. */
    double errors_base;
};
/* Units other than requests are sticky (one arm for the whole experiment), Zipf-distributed in traffic, come in bursts
 * and by the time of day, and each has its own rate of errors, TTFT, speed, cost and moods. Incidents hit both arms. */
struct world;
struct world *world_new(const struct world_setting *setting, uint64_t seed);
void world_free(struct world *world);
/* The next request; ret->values stays valid until the next. */
void world_next(struct world *world, struct observation *ret);
/* errors, ttft p90, speed, cost, refusals, feedback; with tolerance 0. */
extern const struct guard world_guards[WORLD_GUARDS];

struct world_outcome {
    bool harm;       /* one-sided: some guard says harm */
    bool difference; /* two-sided: some guard's p-value is at most alpha */
    bool harm_of[WORLD_GUARDS];
    bool
        missed[WORLD_GUARDS]; /* one-sided: some look's interval did not hold what the setting says of errors or TTFT */
    bool ratio, tripwire;
    bool too_little;   /* the first guard was never judged */
    bool naive;        /* errors per request, a z test at 5% (one-sided) after each batch: what not to do */
    uint32_t found_at; /* requests until harm was said or the tripwire went; 0: never */
};
#define WORLD_BATCH 20u /* requests between two questions: everybody peeks all the time */
/* Plays one experiment at alpha 0.05, asking everything after each batch. `guards` are some of world_guards in a
 * row. both: two-sided as well; else it ends when harm was found. */
void world_play(const struct world_setting *setting, uint64_t seed, const struct guard *guards, uint32_t guard_count,
                bool both, struct world_outcome *ret);
