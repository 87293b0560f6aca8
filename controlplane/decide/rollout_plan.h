/* rollout_plan.h - how a version goes live: steps, hold time, guards, and what too little traffic leads to. The words
 * that people write for it, in a policy and on the command line, its defaults, and its JSON. Pure. */
#pragma once
#include "common/err.h"
#include "common/json.h"
#include "controlplane/decide/experiment.h"
#include "proto/tables.h"

struct arena;
struct json_fields;

#define ROLLOUT_STEPS_MAX 16u /* each splits the error probability further; more are a slip */

#define ROLLOUT_HOLD_MOST_MS (30u * 86400000u)
#define ROLLOUT_SHARE_DIGITS 2 /* of a percentage: a bucket is a hundredth of one */

struct rollout_plan {
    enum unit_kind unit;
    struct span header;                /* lower case; UNIT_HEADER only */
    struct span_list routes;           /* empty: all */
    uint32_t steps[ROLLOUT_STEPS_MAX]; /* buckets; rising; the last is ASSIGNMENT_BUCKETS */
    uint32_t step_count;               /* 0: straight to 100% */
    uint32_t hold_ms;                  /* least running time of each step */
    struct guard guards[EXPERIMENT_GUARDS_MAX];
    uint32_t guard_count; /* 0: only time decides */
    uint32_t too_little_after_ms;
    bool too_little_proceeds; /* else it waits */
};

/* key, 5-25-100, 10 minutes, every guard, and waiting where traffic is too little. */
void rollout_plan_defaults(struct rollout_plan *plan);

/* The guard of this metric with its default tolerance. name: of a feedback metric; "" for the others. */
struct guard rollout_guard_default(enum metric metric, struct span name);
/* A metric's name as people write it. */
bool rollout_metric(struct span name, enum metric *ret);
/* What may stand in feedback's "metric": letters, digits, '-', '_', '.'. */
bool rollout_feedback_name(struct span name);
/* Puts the guard in the place of the one of the same metric and name, or behind them. ERR_INVALID: a tolerance that no
 * experiment takes (guard_good); ERR_TOO_MANY. */
MUST_CHECK enum err rollout_guard_set(struct rollout_plan *plan, const struct guard *guard);
void rollout_guard_drop(struct rollout_plan *plan, enum metric metric, struct span name);
/* "errors=1%", "ttft=20%@p95", "feedback:stars=5%", "cost=off", "none". ERR_INVALID with *ret_why (static); ERR_TOO_MANY. */
MUST_CHECK enum err rollout_guard_text(struct rollout_plan *plan, struct span text, const char **ret_why);
/* Tolerance as people write it: "1%", "0.01". ERR_INVALID. */
MUST_CHECK enum err rollout_tolerance(struct span text, double *ret);
/* "p50" to "p99", "p97.5". ERR_INVALID. */
MUST_CHECK enum err rollout_quantile(struct span text, double *ret);
/* "key", "user", "request", "header:x-tenant". The header's name is copied into the arena in lower case. ERR_INVALID,
 * ERR_NOMEM. */
MUST_CHECK enum err rollout_unit_text(struct arena *arena, struct span text, enum unit_kind *ret_unit,
                                      struct span *ret_header);
/* "5" or "5%" or "0.5" -> buckets. ERR_INVALID. */
MUST_CHECK enum err rollout_share_text(struct span text, uint32_t *ret_buckets);
/* "1,5,25,100" in place of the plan's steps; ERR_INVALID with *ret_why (static). */
MUST_CHECK enum err rollout_steps_text(struct rollout_plan *plan, struct span text, const char **ret_why);
/* True: nothing is compared, the version goes to 100% at once. */
bool rollout_plan_straight(const struct rollout_plan *plan);

/* "key", "header x-tenant", for "5% of keys". */
const char *rollout_unit_name(enum unit_kind unit);
const char *rollout_unit_plural(enum unit_kind unit);
/* "5%", "0.25%"; out >= 16 bytes; returns out. */
char *rollout_share_format(uint32_t buckets, char *out);

/* ---- rollout_plan_json.c: strict, as json_fields.h is ---- */
void rollout_plan_json(const struct rollout_plan *plan, struct json_writer *w);
/* What rollout_plan_json wrote, in the arena. ERR_CORRUPT, ERR_NOMEM. */
MUST_CHECK enum err rollout_plan_read(struct arena *arena, const struct json_index *ix, uint32_t object,
                                      struct rollout_plan *ret);
/* Parts that experiments have too; an array of guards, and members "unit", "header" and "routes" of an object. */
void rollout_guards_json(const struct guard *guards, uint32_t count, struct json_writer *w);
void rollout_guards_read(struct json_fields *f, uint32_t array, struct guard *guards /* EXPERIMENT_GUARDS_MAX */,
                         uint32_t *ret_count);
void rollout_unit_read(struct json_fields *f, uint32_t object, enum unit_kind *ret_unit, struct span *ret_header);
void rollout_routes_read(struct json_fields *f, uint32_t object, struct span_list *ret);
