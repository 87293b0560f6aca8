/* probes.h - latest probe results per provider and per model, and what probers shall probe. Plain memory, no clock. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "proto/links.h"

#define PROBES_KEPT_MAX     (PROVIDERS_MAX + MODELS_MAX) /* results for names that nobody follows must not fill memory */
#define PROBE_WHY_BYTES_MAX 160u
#define PROBE_TIMEOUT_MS    5000u /* a provider that takes longer to list its models is not healthy */

/* Of one provider, or one model of it. */
struct probe_state {
    char *name;                      /* "openai" or "openai/gpt-4o" */
    uint32_t ok_streak, fail_streak; /* the last results in a row; one of them is 0 */
    int64_t at_ms;                   /* of the last result */
    int64_t since_ms;                /* of the first of this streak */
    uint32_t latency_us;
    int64_t certificate_expires_at_ms; /* 0 unknown */
    char why[PROBE_WHY_BYTES_MAX + 1];
};
struct arena;
struct probes;

MUST_CHECK enum err probes_new(struct probes **ret);
void probes_free(struct probes *probes);
/* A result that is not newer than the last changes nothing; a time in the future counts as now, and a last result in
 * the future is one of before the clock was set back. ERR_NOMEM, ERR_TOO_MANY. */
MUST_CHECK enum err probes_take(struct probes *probes, const struct probe_result *result, int64_t now_ms);
/* NULL: never probed. */
const struct probe_state *probes_find(const struct probes *probes, struct span name);
/* Forgets all that keep() does not want. */
void probes_retain(struct probes *probes, bool (*keep)(void *user, struct span name), void *user);

/* One target per provider of these artifacts (the first that names it wins), in `arena`, borrowing from the artifacts.
 * Providers whose policy says `how: none` have none. A completion is asked for only where the policy says so and names
 * the model. ERR_NOMEM. */
MUST_CHECK enum err probes_targets(struct arena *arena, const struct artifact *const *artifacts, uint32_t count,
                                   struct probe_target **ret_targets, uint32_t *ret_count);
