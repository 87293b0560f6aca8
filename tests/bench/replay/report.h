/* report.h - adds up what a replay's requests came to, per model, and prints it. */
#pragma once
#include "tests/bench/replay/play.h"
#include "tests/bench/replay/prices.h"
#include "common/buf.h"

struct report_times {
    uint64_t *us; /* ascending */
    size_t count;
};

/* One model's requests, or all. Tokens, cost and times are those of requests that succeeded. */
struct report_group {
    const char *name;
    uint64_t requests, errors;
    uint64_t input_tokens, output_tokens;
    uint64_t cost_nano;
    uint64_t unpriced; /* requests whose cost is not in cost_nano, since nobody said it and the model has no price */
    struct report_times ttft, total;
};

/* What the same successful requests would have cost at one model. */
struct report_instead {
    const struct price_entry *price; /* NULL: no prices were given */
    uint64_t cost_nano;
};

struct report {
    const char *trace_name;
    const struct play *play;
    uint64_t span_ns;       /* of the trace, from the start of the run to the last request */
    uint64_t usage_missing; /* successful requests whose tokens are the trace's */
    struct report_group groups[PLAY_MODELS_MAX];
    unsigned count;
    struct report_group all;
    struct report_instead dearest, cheapest;
};

/* Borrows from play and prices. ERR_NOMEM; *report is to be released in any case. */
MUST_CHECK enum err report_make(const struct play *play, const struct price_list *prices, const char *trace_name,
                                struct report *report);
void report_release(struct report *report);
/* ERR_NOMEM, ERR_FULL. */
MUST_CHECK enum err report_table(const struct report *report, struct buf *out);
MUST_CHECK enum err report_json(const struct report *report, struct buf *out);
