/* health.h - which models are down, from probes and telemetry. Pure.
 *
 * Probes: HEALTH_DOWN_AFTER failed ones in a row mark down, HEALTH_UP_AFTER good ones in a row mark up again; between
 * them the last word stands. A probe that was answered 401 or 403 found the provider reachable: the prober reports it
 * as good. The provider's probe speaks for all of its models; a model's own probe (a completion) comes first. Probes
 * older than `probe_stale_ms` say nothing any more: a model marked down by a prober that died must not stay down.
 *
 * Requests outrank probes: where the prober sees nothing but failures (its own network is cut, or the provider's list
 * of models is broken) while requests are answered (at least HEALTH_SAMPLES_LEAST recent ones, less than HEALTH_ERRORS_UP of
 * them failed, the last was answered within HEALTH_ANSWERED_MS), the model stays up. In a real outage the answers stop, and the probes
 * are believed.
 *
 * Telemetry: a model whose recent attempts fail at HEALTH_ERRORS_DOWN or more, of at least HEALTH_SAMPLES_LEAST, is
 * down for at least HEALTH_REST_MS and until the rate over what is left in memory is low or no longer speaks; then it
 * is tried again.
 *
 * Never all at once: when every model would be down, those that newly went down keep the health they had (quarantined,
 * and shown): it is more likely that we are cut off or mistaken than that the world has ended, and a table without any
 * model helps nobody. */
#pragma once
#include "common/base.h"
#include "proto/tables.h"

#define HEALTH_DOWN_AFTER    3u
#define HEALTH_UP_AFTER      2u
#define HEALTH_SAMPLES_LEAST 20.0
#define HEALTH_ERRORS_DOWN   0.5
#define HEALTH_ERRORS_UP     0.2
#define HEALTH_REST_MS       30000
#define HEALTH_ANSWERED_MS   3000 /* nodes report each second: a success of this age is one of now */
#define HEALTH_WHY_BYTES_MAX 200u

struct health_probe {
    bool known; /* there is a result that is fresh */
    uint32_t ok_streak, fail_streak;
    const char *why; /* of the last result */
};
struct health_verdict {
    enum health health;
    bool by_telemetry; /* what marked it down */
    bool quarantined;  /* would be down, but is not believed */
    int64_t since_ms;
    char why[HEALTH_WHY_BYTES_MAX + 1];
};
struct health_input {
    struct health_probe provider, model;
    double recent, recent_failures; /* attempts over the last minute or so, decayed */
    int64_t answered_at_ms;         /* of the last attempt that is known to have been answered; 0: never */
    const struct health_verdict *previous;
};

/* One model by itself. *ret may be the previous verdict. */
void health_judge(const struct health_input *input, int64_t now_ms, struct health_verdict *ret);
/* All models together: applies "never all at once" to fresh verdicts. previous[i] is what verdicts[i] was before.
 * Returns how many were not believed. */
uint32_t health_settle(struct health_verdict *verdicts, const struct health_verdict *previous, uint32_t count,
                       int64_t now_ms);
