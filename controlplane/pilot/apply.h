/* apply.h - one change of what is live: makes head, versions and state agree, in the write transaction that is open.
 *
 * apply_begin reads, the caller changes a->state, and one of the others stores everything. Errors are the store's; the
 * caller aborts its transaction then. */
#pragma once
#include "controlplane/pilot/state.h"

#define APPLY_WHY_BYTES 160u

struct apply {
    struct versions *versions;
    struct arena *arena;
    struct span by;
    int64_t now_ms;
    struct head *head; /* the live one, then the new one; without arms: nothing is live yet */
    struct pilot_state state;
};

/* versions, arena, by and now_ms are filled by the caller. */
MUST_CHECK enum err apply_begin(struct apply *a);
uint32_t apply_stable(const struct apply *a); /* version that holds what no assignment takes; 0: none is live */
/* Stores state and, as the next generation, the head that it asks for, with this stable version. What begins with it
 * (generation 0 in the state) gets its generation. ERR_NOT_FOUND: no such version. */
MUST_CHECK enum err apply_head(struct apply *a, uint32_t stable, const char *why);
/* The same, and `next` holds 100% from now; the version that did becomes `state_of_old`. */
MUST_CHECK enum err apply_full(struct apply *a, struct version_record *next, enum version_state state_of_old,
                               const char *why);
/* After rollout_start, _apply, _promote, _resume or _abort of a->state.rollout: stores what follows from it, a head only
 * where one is needed. why: for the head, such as "rollout-7: 25% of v18". */
MUST_CHECK enum err apply_rollout(struct apply *a, const char *why);
/* Ends experiment and shadow that run, in the state. */
void apply_end_experiment(struct apply *a, struct span why);
void apply_end_shadow(struct apply *a, struct span why);
