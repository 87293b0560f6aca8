#include "controlplane/pilot/measure.h"
#include <math.h>

enum outcome { OUTCOME_OK, OUTCOME_CLIENT_ERROR, OUTCOME_ERROR, OUTCOME_CANCELLED, OUTCOME_TRUNCATED, OUTCOME_UNKNOWN };

static enum outcome outcome_of(const struct record *r)
{
    static const char *const names[] = { "ok", "client_error", "error", "cancelled", "truncated" };
    unsigned i = 0;
    while (i < OUTCOME_UNKNOWN && !span_eq(r->outcome, span_cstr(names[i])))
        i++;
    return (enum outcome)i;
}

static bool errors(const struct record *r, enum outcome outcome, double *ret)
{
    switch (outcome) {
    case OUTCOME_OK:
        *ret = 0;
        return true;
    case OUTCOME_ERROR:
    case OUTCOME_TRUNCATED:
        *ret = 1;
        return true;
    case OUTCOME_CLIENT_ERROR:
        *ret = 1;
        return r->has_features && r->status != 402 && r->status != 429;
    case OUTCOME_CANCELLED:
    case OUTCOME_UNKNOWN:
        return false;
    }
    return false;
}

static uint64_t first_content_us(const struct record *r)
{
    uint64_t us = r->ttft_us;
    for (unsigned i = 0; i + 1 < r->attempt_count; i++)
        us += r->attempts[i].duration_us;
    return us;
}

static bool ttft(const struct record *r, enum outcome outcome, double *ret)
{
    if (outcome == OUTCOME_UNKNOWN || r->attempt_count == 0)
        return false;
    if (r->ttft_us > 0)
        *ret = (double)first_content_us(r) / 1000;
    else if (outcome == OUTCOME_OK && !r->stream)
        *ret = (double)r->total_us / 1000;
    else
        *ret = INFINITY;
    return isfinite(*ret) || outcome == OUTCOME_ERROR || outcome == OUTCOME_CANCELLED;
}

static bool speed(const struct record *r, enum outcome outcome, double *ret)
{
    const uint64_t from_us = first_content_us(r);
    if (outcome != OUTCOME_OK || !r->stream || !r->usage_known || r->estimated || r->output < MEASURE_SPEED_TOKENS ||
        r->total_us <= from_us || r->ttft_us == 0)
        return false;
    *ret = (double)(r->output - 1) * 1e6 / (double)(r->total_us - from_us);
    return true;
}

static bool refusals(const struct record *r, enum outcome outcome, double *ret)
{
    if (outcome != OUTCOME_OK || span_eq(r->endpoint, SPAN("embeddings")))
        return false;
    const bool refused = span_eq(r->finish, SPAN("content_filter")) || span_eq(r->finish, SPAN("refusal"));
    const bool empty = r->usage_known && !r->estimated && r->output == 0;
    *ret = refused || empty;
    return true;
}

static bool measure(const struct record *r, enum outcome outcome, enum metric metric, double *ret)
{
    const bool answered = outcome == OUTCOME_OK || outcome == OUTCOME_TRUNCATED || outcome == OUTCOME_CANCELLED;
    switch (metric) {
    case METRIC_ERRORS:
        return errors(r, outcome, ret);
    case METRIC_TTFT:
        return ttft(r, outcome, ret);
    case METRIC_SPEED:
        return speed(r, outcome, ret);
    case METRIC_COST:
        *ret = (double)r->cost_nano;
        return answered && r->attempt_count > 0 && r->cost_nano >= 0;
    case METRIC_REFUSALS:
        return refusals(r, outcome, ret);
    case METRIC_CANCELS:
        *ret = outcome == OUTCOME_CANCELLED;
        return answered;
    case METRIC_FALLBACKS:
        *ret = r->attempt_count > 1;
        return r->attempt_count > 0;
    case METRIC_FEEDBACK:
    case METRICS:
        return false;
    }
    return false;
}

uint32_t measure_record(const struct record *record, const struct guard *guards, uint32_t guard_count, double *values)
{
    const enum outcome outcome = outcome_of(record);
    uint32_t mask = 0;
    REQUIRE(guard_count <= EXPERIMENT_GUARDS_MAX);
    for (uint32_t i = 0; i < guard_count; i++) {
        values[i] = 0;
        if (measure(record, outcome, guards[i].metric, &values[i]))
            mask |= 1u << i;
    }
    return mask;
}
