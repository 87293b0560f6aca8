/* telemetry.h - from cumulative counters of many nodes to what models do now. Plain memory, no clock.
 *
 * Each report holds totals since its sender's incarnation began, so a lost or repeated message changes nothing: only
 * the difference to the sender's last totals counts. The first report of a new incarnation counts from zero when it is
 * its first (seq <= 1), else it only sets the base: what happened before we listened is not now. Differences go into
 *   - sums that halve every TELEMETRY_HALF_LIFE_MS: TTFT, inter-token time and error rate are ratios of such sums (an
 * exponentially weighted mean by request);
 *   - a histogram of TTFT in TELEMETRY_SLOTS slots of a minute, for the p95 of the last five minutes, and the number of
 * attempts in them (`samples`).
 *
 * A clock that was set back: what was stamped later than now counts as stamped now, so nothing waits for the old time to
 * come round again. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "controlplane/journal/event.h"
#include "proto/links.h"

#define TELEMETRY_HALF_LIFE_MS 30000
#define TELEMETRY_SLOT_MS      60000
#define TELEMETRY_SLOTS        5u
#define TELEMETRY_GONE_MS      300000 /* a node not heard of for so long is forgotten */
#define TELEMETRY_FRESH_MS     30000  /* its breakers and rate-limit headers count for so long */
#define TELEMETRY_SENDERS_MAX  4096u  /* nodes; stops a sender with a new name each second from filling memory */
#define TELEMETRY_MODELS_MAX   EVIDENCE_MODELS_MAX

struct telemetry_view {
    uint32_t samples;                                 /* attempts in the last five minutes; 0: nothing known */
    uint32_t ttft_ewma_us, ttft_p95_us, token_gap_us; /* 0: unknown */
    uint32_t errors_ppm;
    uint32_t remaining_ppm; /* least over fresh nodes; 1,000,001: unknown */
    uint32_t breakers_open; /* nodes */
    int64_t heard_at_ms;    /* of the last attempt seen; 0 never */
};
struct telemetry_recent {      /* the part of a view that health needs; cheap */
    double attempts, failures; /* decayed */
    int64_t
        answered_at_ms; /* of the last report that held an attempt which neither failed nor was cancelled; 0 never */
};
struct telemetry;

MUST_CHECK enum err telemetry_new(struct telemetry **ret);
void telemetry_free(struct telemetry *telemetry);
/* Breakers that open and close, workers that crash: told as they are heard of. sink: borrowed; NULL: nobody listens. */
void telemetry_tell(struct telemetry *telemetry, const struct event_sink *sink);
/* ERR_INVALID: a counter went down within an incarnation, a model twice, or histogram of another shape (*ret_why,
 * static); nothing changed. ERR_STALE: an old or repeated report, nothing changed. ERR_TOO_MANY, ERR_NOMEM: as far as
 * it went; the rest comes with the next totals. */
MUST_CHECK enum err telemetry_take(struct telemetry *telemetry, const struct evidence_report *report, int64_t now_ms,
                                   const char **ret_why);
/* Forgets nodes that are gone. */
void telemetry_age(struct telemetry *telemetry, int64_t now_ms);
/* All zero: nothing known of this model. */
struct telemetry_recent telemetry_recent(const struct telemetry *telemetry, struct span model, int64_t now_ms);
/* False: nothing known of this model. Costs a walk over a histogram and over all nodes: for once a decision. */
bool telemetry_view(const struct telemetry *telemetry, struct span model, int64_t now_ms, struct telemetry_view *ret);
uint32_t telemetry_nodes(const struct telemetry *telemetry);
