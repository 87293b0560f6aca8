/* select.h - orders the models that may serve one request, and says why.
 *
 * Pure: no I/O, no clock; randomness, time and the node's live facts are passed in. Nothing is allocated beyond the
 * arena; results borrow from it and from the table.
 *
 * Each member of each tier is first judged alone. Hard exclusions (capabilities, data rules, length, cost, overrides,
 * credential, already tried) are final. Soft ones (out of the tier's bounds, being probed, ejected by the breaker,
 * down) stand as long as any model of any tier is left; if none is, the soft ones are tried after all, least bad first.
 * No more than half of a tier's members (but at least one) are ejected by breakers at once: of the others, those whose
 * ejection ends soonest are taken back.
 *
 * Order within a tier, w being the members' weights (evidence's while it is valid, else the policy's), renormalised
 * over who is eligible:
 *   hand-set weights   one draw by weight for the first place. P(i) = w_i / W.
 *   scored lists       two draws by weight, with replacement; the one with the lower (outstanding + 1) x TTFT goes first,
 *                      the first drawn when equal. P(i) = (w_i^2 + sum over j != i of c_ij w_i w_j) / W^2,
 *                      c_ij = 2 when i is less loaded than j, 1 when equal, 0 else. Without replacement two members
 *                      would both be drawn always, and their weights (price, errors) would never matter.
 *   ":floor", ":nitro" on scored lists: least estimated cost, or least (outstanding + 1) x TTFT first; nothing is drawn.
 * The places after the first follow by successive draws by weight without replacement; members of weight 0 come last,
 * in random order. A TTFT nobody has measured is taken to be the best known one of the tier, so that it gets
 * measured. */
#pragma once
#include "common/digest.h"
#include "dataplane/dialect/chat.h"
#include "dataplane/route/breaker.h"
#include "dataplane/route/resolve.h"

/* Included, then not reached, then soft and hard exclusions from the nearest to the farthest from serving. */
enum plan_reason {
    PLAN_NONE,
    PLAN_DIRECT,      /* asked for by name */
    PLAN_ONLY,        /* the one candidate of its tier */
    PLAN_WEIGHT,      /* drawn by weight: load did not decide */
    PLAN_LESS_LOADED, /* of two different ones drawn by weight, the less loaded */
    PLAN_CHEAPEST,    /* ":floor" */
    PLAN_FASTEST,     /* ":nitro" */
    PLAN_NEXT,        /* same tier, after the first */
    PLAN_NEXT_TIER,   /* a later tier */
    PLAN_LEAST_BAD,   /* excluded, but nothing else is left */
    PLAN_INCLUDED_END,
    PLAN_BEYOND = PLAN_INCLUDED_END, /* eligible, but more attempts than the route allows */
    PLAN_OUT_OF_BOUNDS,              /* soft: the tier's `within` */
    PLAN_PROBED,                     /* soft: half-open, and another request probes it now */
    PLAN_EJECTED,                    /* soft: breaker open, or cooling down as Retry-After asked */
    PLAN_DOWN,                       /* soft: probes say so */
    PLAN_TRIED,                      /* hard from here on */
    PLAN_NO_CREDENTIAL,              /* not resolved on this node */
    PLAN_DRAINED,
    PLAN_BLOCKED,
    PLAN_TOO_DEAR, /* estimate over the route's max_cost */
    PLAN_TOO_LONG, /* estimated input and asked-for output exceed the context */
    PLAN_REGION,   /* data rules of route or team; facts that are not known do not satisfy them */
    PLAN_RETENTION,
    PLAN_TRAINING,
    PLAN_NO_JSON,
    PLAN_NO_AUDIO,
    PLAN_NO_IMAGES,
    PLAN_NO_TOOLS,
    PLAN_NO_STREAM,
    PLAN_NO_ENDPOINT,
    PLAN_REASONS
};
const char *plan_reason_name(enum plan_reason reason); /* "less_loaded", "drained", ...: stable, in records */
const char *plan_reason_text(enum plan_reason reason); /* for people, after the model's name: "was drawn by weight" */
static inline bool plan_reason_included(enum plan_reason reason)
{
    return reason > PLAN_NONE && reason < PLAN_INCLUDED_END;
}

/* What only the node knows, asked once for every member looked at. */
struct select_live {
    uint64_t breaker;       /* the word */
    uint64_t cool_until_ms; /* monotonic: asked for by Retry-After; 0: none */
    uint32_t outstanding;   /* attempts running now, over all workers of the node */
    uint32_t ttft_us;       /* the node's own average; 0: none yet, evidence's is used */
    bool no_credential;
};
struct select_source {
    void (*live)(void *user, uint32_t model /* index in the arm's artifact */, struct select_live *ret);
    void *user;
};

struct select_input {
    const struct arm_view *arm;
    struct resolved target;
    const struct ask *ask;
    const struct requirement *team_require; /* NULL: none */
    bool evidence_valid;                    /* table_evidence_valid, now */
    int64_t wall_ms;                        /* overrides end by it */
    uint64_t now_ms;                        /* monotonic: breakers end by it */
    uint32_t attempts_max;                  /* 0: the route's (one model directly: 1) */
    int64_t spent_nano;    /* estimates of attempts that may be billed: the route's ceiling is for all */
    const uint32_t *tried; /* model indices */
    uint32_t tried_count;
    struct select_source source;
};

struct plan_step {
    uint32_t model; /* index */
    uint32_t tier;
    enum plan_reason reason;
    bool forced;           /* for breaker_enter: chosen although its breaker is open */
    int64_t estimate_nano; /* list price of the estimated tokens: see select_estimate */
};
struct plan {
    struct plan_step steps[ATTEMPTS_MAX]; /* best first; no model twice */
    uint32_t count;
    uint32_t propensity_ppb; /* exact probability that steps[0] came first, to the nearest 10^-9 */
    struct plan_step *all;   /* every member looked at, with its reason, in the route's order; in arena */
    uint32_t all_count;
};
/* ERR_NO_CANDIDATE: *ret_plan has count 0 and says why in `all`. ERR_NOMEM: the arena is full, *ret_plan is untouched.
 */
MUST_CHECK enum err select_plan(struct arena *arena, const struct select_input *input, struct prng *prng,
                                struct plan *ret_plan);

/* What select_plan may do with this input, without drawing: exact, by the same code. */
struct distribution {
    struct plan_step *all; /* every member, in the route's order; reason: PLAN_NONE for who is eligible; in arena */
    uint32_t *first_ppb;   /* aligned with `all`: the probability to be steps[0], to the nearest 10^-9; in arena */
    uint32_t all_count;
};
/* ERR_NO_CANDIDATE: every first_ppb is 0 and `all` says why, as in a plan. ERR_NOMEM: the arena is full, *ret is
 * untouched. attempts_max is of no meaning here. */
MUST_CHECK enum err select_distribution(struct arena *arena, const struct select_input *input,
                                        struct distribution *ret);

/* The reason that came nearest to serving, for choosing a status when there is no candidate: PLAN_NONE for an empty
 * route. */
enum plan_reason plan_chief_reason(const struct plan *plan);
/* "no model of route chat can serve this request: openai/gpt-4o is drained by an operator; ...": for the client;
 * bounded. A cost ceiling is named with its figure and the estimate. In arena; NULL when it is full. */
char *plan_explain(struct arena *arena, const struct select_input *input, const struct plan *plan);
/* With what was spent, this attempt would pass the route's ceiling. route may be NULL: none. */
bool select_too_dear(const struct route *route, int64_t spent_nano, int64_t estimate_nano);
/* Which rule of a requirement (NULL: none) these facts do not meet: PLAN_REGION, PLAN_RETENTION, PLAN_TRAINING, or
 * PLAN_NONE. */
enum plan_reason select_judge_data(const struct requirement *need, const struct data_facts *facts);
/* List price in nano-dollars of: estimated input tokens, and as output what the client allows (max_output_tokens, else
 * the route's usual mix) times the choices asked for. */
int64_t select_estimate(const struct arm_view *arm, const struct route *route, uint32_t model, const struct ask *ask);
