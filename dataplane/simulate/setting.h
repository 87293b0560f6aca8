/* setting.h - one policy version with the directory, overrides and evidence around it, outside any node: what it would
 * decide of a request, by the workers' own code. Pure.
 *
 * What only a node knows is taken to be well: breakers closed, credentials there, nothing outstanding. */
#pragma once
#include "dataplane/route/select.h"

struct setting;
struct setting_objects { /* encoded, as on the links */
    struct span artifact;
    struct span head;      /* its overrides hold; empty: none */
    struct span evidence;  /* empty: none */
    struct span directory; /* a full directory_delta: the teams, and the keys with routes of their own; empty: none */
};
/* Borrows nothing. ERR_NOMEM, or what is wrong with an object: *ret_why (static, or until the next failure) says it. */
MUST_CHECK enum err setting_new(const struct setting_objects *objects, struct setting **ret, const char **ret_why);
void setting_free(struct setting *setting); /* NULL is fine */
const struct arm_view *setting_arm(const struct setting *setting);
bool setting_has_team(const struct setting *setting, struct span team);

enum setting_verdict { SETTING_OK, SETTING_UNKNOWN_TEAM, SETTING_UNKNOWN_MODEL, SETTING_REFUSED };
const char *setting_verdict_name(enum setting_verdict verdict); /* "ok", "unknown_team", ...: stable */
struct setting_answer {
    enum setting_verdict verdict;
    struct resolved target; /* SETTING_OK and SETTING_REFUSED */
    struct distribution distribution;
    enum plan_reason reason; /* SETTING_REFUSED: plan_chief_reason */
};
/* key_id: may be empty or unknown: a key that narrows nothing. ask->model is what is asked for. now in wall ms.
 * ERR_NOMEM. */
MUST_CHECK enum err setting_decide(const struct setting *setting, struct arena *arena, struct span team,
                                   struct span key_id, const struct ask *ask, int64_t now_ms,
                                   struct setting_answer *ret);
/* Why nobody serves it, for people, as a worker would tell the client; in arena, NULL when it is full. */
char *setting_explain(const struct setting *setting, struct arena *arena, struct span team, struct span key_id,
                      const struct ask *ask, int64_t now_ms, const struct setting_answer *answer);
