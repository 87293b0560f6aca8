/* prior.h - weights that the policy alone gives to a tier: hand-set ones normalised, scored ones from prices. Pure. */
#pragma once
#include "common/base.h"
#include "proto/tables.h"

#define WEIGHT_WHOLE 1000000u /* weights of a tier sum to this, exactly */

/* Shares of WEIGHT_WHOLE in proportion to `raw`, by largest remainder (ties: the earlier one), so that they sum to it
 * exactly. At least one raw weight must be positive; count is 1..TIER_MEMBERS_MAX. */
void prior_normalise(const double *raw, uint32_t count, uint32_t *ret_ppm);

/* What one request of the usual mix costs at this price, in nano-dollars; rounded up. */
int64_t prior_cost(const struct price *price, uint32_t discount_ppm, uint64_t input_tokens, uint64_t output_tokens);

/* How dear a cost is within its tier, 0 (the cheapest) to 1. The larger of two views: its place in the tier's range, so that
 * the cheapest of near-equal prices still wins; and 1 - least/cost, so that five times the price is dear even beside a
 * model of fifty times. Prices carry no noise: both may be used to the full. */
double prior_cost_penalty(double cost, double least, double most);

/* Before there is any evidence only cost is known. With s the share of `cost` among the objectives and x the penalty of
 * each cost:
 *
 *     w = exp(-PRIOR_SHARPNESS * s * x)
 *
 * so that the cheapest gets the most, and all objectives but cost (s = 0) give equal weights. Then prior_normalise. */
#define PRIOR_SHARPNESS 6.0 /* the dearest in a tier judged by cost alone gets e^-6, 0.25% of the cheapest's weight */
void prior_weights(const int64_t *costs, uint32_t count, const struct objective_weights *objectives, uint32_t *ret_ppm);
