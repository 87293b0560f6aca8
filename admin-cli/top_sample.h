/* top_sample.h - nodes' metrics pages as numbers by route and by model, and what changed between two looks. Pure. */
#pragma once
#include "common/arena.h"
#include "common/err.h"
#include "common/span.h"
#include "common/strmap.h"

#define TOP_EDGES_MAX 32u    /* of the TTFT histogram */
#define TOP_ROWS_MAX  20000u /* names come from the policy; more do not fit any screen */

/* Sums since the nodes began; as a difference: of the time between. */
struct top_row {
    struct span name;
    double requests, ok, errors, cancelled; /* errors: ours and upstream's, not the client's own */
    double attempts, failures;
    double output_tokens;
    double cost, list;          /* US dollars */
    double ttft[TOP_EDGES_MAX]; /* cumulative counts by edge, as the page has them */
};
struct top_rows {
    struct top_row *rows; /* in order of arrival */
    uint32_t count, room;
    struct strmap by_name;
};
struct top_breaker {
    struct span model, state; /* "open", "half_open", "probing" */
};
#define TOP_BREAKERS_MAX 100u /* shown by name */
struct top_sample {
    struct arena arena;
    uint64_t at_ms; /* monotonic */
    struct top_rows routes, models;
    double edges[TOP_EDGES_MAX]; /* upper bounds in seconds; the last is INFINITY */
    uint32_t edge_count;
    double requests_open, streams_open, connections_open;
    struct top_breaker breakers[TOP_BREAKERS_MAX];
    uint32_t breaker_count; /* also of those beyond */
    uint32_t nodes;         /* pages taken in */
};

void top_sample_begin(struct top_sample *sample, uint64_t at_ms);
/* Adds a page (Prometheus text format 0.0.4). Lines of other metrics are skipped, and malformed ones: a page is for
 * looking at. ERR_NOMEM, ERR_TOO_MANY. */
MUST_CHECK enum err top_sample_add(struct top_sample *sample, struct span page);
void top_sample_release(struct top_sample *sample); /* all-zero is fine */

/* What happened from one sample to a later one; rows of `then`, busiest first, in the arena. A counter that went down
 * began anew: what it holds is new. */
struct top_change {
    double seconds;
    struct top_row *routes, *models, all;
    uint32_t route_count, model_count;
};
MUST_CHECK enum err top_compare(struct arena *arena, const struct top_sample *before, const struct top_sample *then,
                                struct top_change *ret);
/* Seconds below which this share of a change's first tokens came, between the edges by a straight line; NAN without any,
 * the last finite edge when it lies beyond. */
double top_quantile(const struct top_sample *sample, const struct top_row *row, double share);
