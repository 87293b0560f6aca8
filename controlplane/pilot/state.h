/* state.h - what the control plane must not forget of rollouts, experiments and shadows: one blob in the store, put in the
 * transaction of whatever changed it. Each stays after its end, until the next of its kind begins, so that it can be
 * asked how it went. Pure but for state_load and state_store. */
#pragma once
#include "common/arena.h"
#include "controlplane/decide/rollout.h"
#include "controlplane/publish/versions.h"

#define STATE_SCHEMA         1
#define STATE_BYTES_MAX      (1u << 20) /* routes of three plans */
#define STATE_ID_BYTES       40u
#define EXPERIMENT_ALPHA     0.05
#define SHADOW_ALLOWANCE_MAX ((int64_t)1000000000000000) /* a million dollars: more is a slip, and sums stay in range */

struct state_lock {
    int64_t at_ms; /* 0: not locked */
    struct span by, reason;
};
struct state_arm {
    uint32_t version;
    uint32_t share; /* buckets; all sum to ASSIGNMENT_BUCKETS where the stable version is one of them */
};
/* Arms side by side until somebody stops it; nothing is decided but gross harm. */
struct state_experiment {
    uint64_t id;
    struct state_arm arms[EXPERIMENT_ARMS_MAX]; /* the first is the baseline */
    uint32_t arm_count;
    enum unit_kind unit;
    struct span header;
    struct span_list routes; /* sorted */
    struct guard metrics[EXPERIMENT_GUARDS_MAX];
    uint32_t metric_count;
    uint8_t salt[16];
    uint64_t generation;                /* of the head by which it began */
    int64_t started_at_ms, ended_at_ms; /* 0: runs */
    struct span by, ended_why;
};
struct state_shadow {
    uint64_t id;
    uint32_t version;
    struct span_list routes; /* sorted */
    uint32_t share_ppm;
    int64_t budget_nano;
    bool tools;
    uint64_t generation;
    int64_t started_at_ms, ended_at_ms; /* 0: runs */
    struct span by, ended_why;
};
struct pilot_state {
    uint64_t last_id; /* of rollouts, experiments and shadows together */
    struct state_lock lock;
    struct rollout *rollout;             /* NULL: never */
    struct state_experiment *experiment; /* likewise */
    struct state_shadow *shadow;
};

bool state_rolling(const struct pilot_state *state);       /* a rollout runs or is paused */
bool state_experimenting(const struct pilot_state *state); /* an experiment runs */
bool state_shadowing(const struct pilot_state *state);
/* "rollout-7", "experiment-8", "shadow-9"; out holds STATE_ID_BYTES; returns out. */
char *state_id(const char *kind, uint64_t id, char *out);
/* Whether two lists of routes have one in common; an empty one has all. Both sorted. */
bool state_routes_meet(const struct span_list *a, const struct span_list *b);
/* Sorts and drops repeated names, in place. */
void state_routes_sort(struct span_list *routes);

void state_json(const struct pilot_state *state, struct json_writer *w);
/* Strict. ERR_CORRUPT, ERR_UNSUPPORTED, ERR_NOMEM. */
MUST_CHECK enum err state_read(struct arena *arena, struct span json, struct pilot_state *ret);
/* In the transaction that is open. An empty one when nothing was ever stored. */
MUST_CHECK enum err state_load(struct versions *versions, struct arena *arena, struct pilot_state *ret);
/* ERR_INVALID: something that state_read would not take back; nothing of it is stored, and the store stays readable. */
MUST_CHECK enum err state_store(struct versions *versions, const struct pilot_state *state);
