/* estimate.h - what recorded requests would have cost, and how soon and how often they would have been answered, had
 * another policy made the first choice. Pure arithmetic over rows in memory.
 *
 * Row i: a request with features x_i, the model A_i that was tried first, drawn with the recorded exact probability mu_i,
 * and its outcomes Y_i (of the whole request, with whatever fallback followed the first choice). A target policy pi gives
 * p(m | x_i). Estimated is the mean outcome under pi, doubly robust (Dudik, Langford & Li 2011; Robins & al. 1994):
 *
 *   psi_i = sum over m of p(m | x_i) q(x_i, m) + w_i (Y_i - q(x_i, A_i)),   w_i = min(p(A_i | x_i) / mu_i, WEIGHT_MAX)
 *   V     = mean of psi_i
 *
 *   q(x, m)  the direct model: means over the rows of the same route that tried m first; of the other half of the units
 *            (cross-fitting, Chernozhukov & al. 2018), so that no row helps to predict itself. Without any on the route:
 *            of all routes. For the cost, means of the tokens, priced with the target's prices; input tokens are the
 *            row's own. Without any row anywhere: what evidence measured (TTFT, errors), else it is not known.
 *   cost     nano-dollars a request; of recorded tokens at the target's prices, where the serving model is in it.
 *   failures share of requests that got no whole answer.
 *   ttft     microseconds; a ratio of two such means, sum of TTFT over count of requests with content, so that requests
 *            without content count for neither.
 *
 * Intervals: 95%, by clusters (units, so that a busy user counts as one): with S_c the sum of a cluster's
 * (psi_i - V), linearised for the ratio,
 *
 *   var = G/(G-1) x sum of S_c^2 / n^2 + sum over cells k of d_k^2 var(q_k),
 *   d_k = mean of p(k | x_i) - w_i [A_i = k]
 *
 * The second term is the direct model's own error where no correction reaches (no overlap, clipped weights); it is near
 * zero otherwise. Student's t with (sum n_c)^2 / sum n_c^2 - 1 degrees of freedom (Cornish & Fisher's expansion).
 * Shares use Wilson's score interval with the size that has this variance, so that no failure among few requests does not
 * read as "none ever". With fewer than UNITS_LEAST units the clusters are equal blocks of time (batch means).
 * Models of which no row exists widen the interval: answers of half to twice the length and TTFT (where evidence knows
 * one), failures 0 to 100%; a TTFT that nobody measured makes the TTFT's interval unknown and leaves these requests out.
 *
 * What this cannot see: that a model becomes slower when more is sent there, and another fallback after the first
 * choice. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "proto/tables.h"

struct arena;

#define ESTIMATE_NONE UINT32_MAX
#define ESTIMATE_WEIGHT_MAX                                                                                            \
    20.0 /* one rare choice must not outweigh hundreds of others; the bias is the direct model's */
#define ESTIMATE_UNITS_LEAST 8u  /* fewer clusters say nothing of the next one */
#define ESTIMATE_BLOCKS      32u /* of time, instead */

enum estimate_target { ESTIMATE_LIVE, ESTIMATE_CANDIDATE, ESTIMATE_TARGETS };
enum estimate_metric { ESTIMATE_COST, ESTIMATE_TTFT, ESTIMATE_FAILURES, ESTIMATE_METRICS };

struct estimate_model {
    struct span name;
    const struct price *price[ESTIMATE_TARGETS]; /* NULL: not in that policy */
    uint32_t discount_ppm[ESTIMATE_TARGETS];
    uint32_t ttft_us, errors_ppm, samples; /* evidence's; samples 0: it knows nothing */
};
struct estimate_cell { /* a route of a record, and a model */
    uint32_t route, model;
};
struct estimate_choice {
    uint32_t cell;
    double p;
};
struct estimate_decision { /* a target's distribution; count 0: refused */
    const struct estimate_choice *choices;
    uint32_t count;
};
struct estimate_row {
    uint64_t unit;
    int64_t time_ms;
    const struct estimate_decision *decisions[ESTIMATE_TARGETS];
    uint32_t cell;    /* what was tried first; ESTIMATE_NONE: nothing, or not known: no outcome */
    uint32_t served;  /* model; ESTIMATE_NONE: none */
    float mu;         /* probability of that first choice; 0: not known */
    uint32_t ttft_us; /* 0: no content */
    bool failed, has_usage;
    uint32_t asked_input; /* tokens estimated from the request: what the direct model prices without usage */
    uint32_t input, cached, cache_write, output, reasoning;
    int64_t cost_nano; /* as charged then */
};
struct estimate_input {
    struct estimate_row *rows; /* sorted by unit by estimate_run */
    size_t row_count;
    const struct estimate_cell *cells;
    uint32_t cell_count;
    const struct estimate_model *models;
    uint32_t model_count;
};

struct estimate_figure {
    double value, low, high; /* of a request; difference: candidate less live */
    bool value_known;        /* something is known at all */
    bool interval_known;     /* enough clusters, nothing of it unmeasured */
};
struct estimate_cell_result {
    double mass[ESTIMATE_TARGETS]; /* expected requests */
    uint32_t rows;                 /* that tried it first; 0: no data */
    double ttft_us, failures;      /* their means; of what stands for them without rows; ttft 0: unknown */
};
struct estimate_result {
    struct estimate_figure figures[ESTIMATE_TARGETS][ESTIMATE_METRICS], difference[ESTIMATE_METRICS];
    double effective_rows[ESTIMATE_TARGETS]; /* (sum w)^2 / sum w^2 */
    double clipped[ESTIMATE_TARGETS];        /* share of the rows whose weight was cut */
    double unmeasured[ESTIMATE_TARGETS];     /* share of the traffic to models without a row anywhere */
    double unknown[ESTIMATE_TARGETS];        /* of it: without evidence, too */
    uint32_t clusters;
    bool by_time;
    struct estimate_cell_result *cells; /* aligned with the input's; in arena */
};
/* ERR_NOMEM: the arena is full. No row at all: everything is unknown. */
MUST_CHECK enum err estimate_run(struct arena *arena, const struct estimate_input *input, struct estimate_result *ret);

/* Two-sided 95% quantile of Student's t, for two degrees of freedom or more. */
double estimate_t95(double degrees);
