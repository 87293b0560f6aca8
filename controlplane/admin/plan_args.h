/* plan_args.h - how a push, an experiment or a shadow is asked for: the policy's own plan, changed by arguments. */
#pragma once
#include "controlplane/admin/candidate.h"
#include "controlplane/pilot/apply.h"

/* The plan for this push: the policy's `rollout:` or, with any of the arguments steps, hold, unit, guards and routes, the
 * defaults, changed by those. Straight (rollout_plan_straight) without any, or with `now`. */
enum admin_status plan_args(struct command_call *call, struct candidate *c, struct rollout_plan *ret);
/* Comma-separated route names of an argument, sorted; each must be in the artifact. */
enum admin_status plan_routes_arg(struct command_call *call, const struct artifact *artifact, struct span_list *ret);
/* The arguments unit and guards (or metric) of an experiment likewise. */
enum admin_status plan_unit_arg(struct command_call *call, enum unit_kind *unit, struct span *header);
/* Refuses what could judge nobody: so few keys that an arm can expect less than EXPERIMENT_UNITS_LEAST of them. share: of
 * the smallest arm, in buckets. */
enum admin_status plan_check_units(struct command_call *call, enum unit_kind unit, uint32_t share,
                                   const char *otherwise);
/* Reads head and state; who asks is `by`. */
enum admin_status plan_begin(struct command_call *call, struct apply *ret);
/* ADMIN_CONFLICT where operators locked the policy. */
enum admin_status plan_check_lock(struct command_call *call, const struct pilot_state *state);
/* ADMIN_CONFLICT where a rollout or an experiment covers one of these routes. */
enum admin_status plan_check_free(struct command_call *call, const struct pilot_state *state,
                                  const struct span_list *routes);
