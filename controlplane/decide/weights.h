/* weights.h - the weights of a scored tier, from price and evidence. Pure.
 *
 * For each member i and objective o there is a penalty x[o][i] in 0..1, 0 for the tier's best:
 *
 *   cost      of the expected cost of the route's usual token mix, as controlplane/policy/prior has it (prior_cost_penalty):
 *             without other evidence the weights are the policy's prior.
 *   ttft      1 - least/t with t the mean of the EWMA and the p95 of the time to first token: relative, so that two models
 *             within noise of each other stay within noise (a range would blow 500 and 505 ms up to best and worst).
 *   speed     1 - least/g with g the inter-token time.
 *   errors    (e - least) / WEIGHTS_ERRORS_FULL of the error rate e, at most 1: absolute, 20% more errors are as bad as it
 *             gets.
 *   headroom  (WEIGHTS_HEADROOM_LOW - r) / WEIGHTS_HEADROOM_LOW of the share r that rate-limit headers leave, 0 above it:
 *             only scarcity matters.
 *
 * Measured penalties (all but cost) are trusted by how much and how fresh the evidence is: with n samples, the last one
 * a ms ago, trust = n / (n + WEIGHTS_TRUST_SAMPLES) * 2^(-a / WEIGHTS_TRUST_HALF_LIFE_MS), and x is drawn towards the
 * mean of the members that are known: who is not known is neither rewarded nor punished.
 *
 *   score = sum(w[o] * x[o]) / sum(w[o])        raw = exp(-PRIOR_SHARPNESS * score)
 *
 * is the softmax over the tier. Then:
 *   - a member that is down gets 0 at once (all down: nobody is excluded, the least bad are tried);
 *   - a member outside a `within` bound gets 0; one that was outside comes back only with a tenth to spare, or when
 * evidence about it has run out. If all are outside, the one nearest to its bounds stays. A bound on what is not known
 * does not exclude;
 *   - every other gets at least the floor: WEIGHTS_FLOOR_PPM, or a fifth of the whole shared by all where there are
 * many. That is the exploration;
 *   - no weight moves more than WEIGHTS_STEP_PPM per evidence (all move by the same share of their way, so the sum
 * holds); who comes back starts at the floor;
 *   - nothing moves unless some weight would move by WEIGHTS_STILL_PPM: noise publishes nothing.
 * Weights sum to WEIGHT_WHOLE exactly. */
#pragma once
#include "common/base.h"
#include "controlplane/policy/prior.h"
#include "proto/tables.h"

#define WEIGHTS_ERRORS_FULL_PPM    200000u
#define WEIGHTS_HEADROOM_LOW_PPM   200000u
#define WEIGHTS_TRUST_SAMPLES      10.0
#define WEIGHTS_TRUST_HALF_LIFE_MS 60000.0
#define WEIGHTS_FLOOR_PPM          5000u /* one request in 200 finds out whether a dear or slow model has become better */
#define WEIGHTS_STEP_PPM                                                                                               \
    50000u /* with an evidence a second: from one model to another in 20 s, faster than people act, slower than noise  \
            */
#define WEIGHTS_STILL_PPM           10000u
#define WEIGHTS_BACK_SHARE          0.9 /* of a bound: hysteresis, so that a model at its bound does not come and go */
#define WEIGHTS_BOUND_SAMPLES_LEAST 10u /* fewer attempts say nothing about a bound */

enum weights_objective {
    WEIGHTS_COST,
    WEIGHTS_TTFT,
    WEIGHTS_SPEED,
    WEIGHTS_ERRORS,
    WEIGHTS_HEADROOM,
    WEIGHTS_OBJECTIVES
};
enum weights_exclusion { WEIGHTS_IN, WEIGHTS_DOWN, WEIGHTS_OVER_TTFT, WEIGHTS_OVER_ERRORS, WEIGHTS_OVER_COST };
const char *weights_objective_name(enum weights_objective objective);
const char *weights_exclusion_name(enum weights_exclusion exclusion); /* "", "down", "ttft_p95", "errors", "cost" */

struct weights_member {
    int64_t cost_nano; /* of the usual mix, discounted */
    bool down;
    uint32_t samples;                                 /* 0: nothing measured */
    int64_t age_ms;                                   /* of the last sample */
    uint32_t ttft_ewma_us, ttft_p95_us, token_gap_us; /* 0: unknown */
    uint32_t errors_ppm;
    uint32_t remaining_ppm;     /* over 1,000,000: unknown */
    enum weights_exclusion was; /* what the previous decision said */
};
struct weights_outcome {
    double penalty[WEIGHTS_OBJECTIVES]; /* after trust */
    double score;
    enum weights_exclusion excluded;
    uint32_t target_ppm; /* where it is heading */
    uint32_t weight_ppm;
};

/* previous: weights before, summing to WEIGHT_WHOLE. count: 1..TIER_MEMBERS_MAX. */
void weights_decide(const struct tier *tier, const struct weights_member *members, uint32_t count,
                    const uint32_t *previous, struct weights_outcome *ret);
