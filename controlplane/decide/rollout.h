/* rollout.h - the life of one rollout: which step it is at, and what comes next. Pure: no clock, no I/O.
 *
 *   running -> running (next step) | paused | done | aborted | rolled back
 *   paused  -> running | done | aborted | rolled back
 *
 * A step lasts until its hold time has passed *and* every guard has evidence of no harm beyond its tolerance. Harm shown
 * by any guard, or the tripwire, rolls back at once, paused or not, locked or not. A lock or a pause holds back steps
 * only; time spent paused is no hold time, nor is time that a clock set back repeats. Where evidence stays too little for
 * too_little_after, the plan says whether to wait or to go on. Guards that no request of either arm could feed (no
 * feedback, no streams) hold nothing up as long as others have evidence. The last step, 100%, is the end: there is no
 * concurrent traffic left to compare with. */
#pragma once
#include "controlplane/decide/rollout_plan.h"

#define ROLLOUT_ALPHA         0.05 /* that harmless versions are rolled back: for a whole rollout, split over its steps */
#define ROLLOUT_DECISIONS_MAX (2 * ROLLOUT_STEPS_MAX + 8) /* kept in the state; all stand in the audit log */
#define ROLLOUT_REASON_BYTES  512u
#define ROLLOUT_STATE_SCHEMA  1

enum rollout_phase { ROLLOUT_RUNNING, ROLLOUT_PAUSED, ROLLOUT_DONE, ROLLOUT_ABORTED, ROLLOUT_ROLLED_BACK };
enum rollout_action { ROLLOUT_STAY, ROLLOUT_STEP, ROLLOUT_FINISH, ROLLOUT_ROLL_BACK, ROLLOUT_PAUSE };

struct rollout_decided { /* one decision that changed something */
    int64_t at_ms;
    struct span what; /* "5% -> 25%", "paused", ... */
    struct span by;   /* "fairlead" where no person did it */
    struct span reason;
};
struct rollout {
    uint64_t id;
    uint32_t from, to; /* policy versions */
    struct rollout_plan plan;
    uint8_t salt[16]; /* of the assignment */
    enum rollout_phase phase;
    uint32_t step;       /* index into plan.steps */
    uint64_t generation; /* of the head by which this step began: only records from there on count. 0: not stored yet */
    int64_t started_at_ms, step_at_ms, ended_at_ms;
    int64_t held_ms;      /* running time in this step, as of looked_at_ms */
    int64_t looked_at_ms; /* last time that was accounted for */
    struct span by;
    struct rollout_decided decisions[ROLLOUT_DECISIONS_MAX]; /* oldest first; the oldest goes when full */
    uint32_t decision_count;
};

/* What was seen in this step. judgements: one for each guard of the plan. */
struct rollout_evidence {
    const struct judgement *judgements;
    struct ratio_check ratio;
    const char *tripwire; /* why it went off; NULL: it did not */
    bool locked;
};
struct rollout_decision {
    enum rollout_action action;
    bool waits;                        /* STAY, though the hold time is over: evidence is missing */
    bool too_little;                   /* and it stayed so for too_little_after */
    int64_t hold_left_ms;              /* of the present step; 0: over */
    char reason[ROLLOUT_REASON_BYTES]; /* a sentence with the numbers */
};

bool rollout_live(const struct rollout *r);      /* running or paused */
uint32_t rollout_share(const struct rollout *r); /* of `to`, in buckets; by phase */
double rollout_step_alpha(const struct rollout *r);
const char *rollout_phase_name(enum rollout_phase phase);
const char *rollout_action_name(enum rollout_action action);

/* Running at step 0. id, versions, plan, salt and by are the caller's to fill before. */
void rollout_start(struct rollout *r, int64_t now_ms);
/* Accounts for the time since the last look. A clock that was set back adds nothing. */
void rollout_advance(struct rollout *r, int64_t now_ms);
/* What is to be done now; changes nothing. Call after rollout_advance. r is running or paused. */
void rollout_decide(const struct rollout *r, const struct rollout_evidence *evidence, struct rollout_decision *ret);
/* Does it. Texts are copied into the arena. ERR_CONFLICT: not from this phase; ERR_NOMEM. STAY is no change. */
MUST_CHECK enum err rollout_apply(struct rollout *r, struct arena *arena, enum rollout_action action, struct span by,
                                  const char *reason, int64_t now_ms);
/* What people do. To the end at once with `full`. ERR_CONFLICT, ERR_NOMEM. */
MUST_CHECK enum err rollout_promote(struct rollout *r, struct arena *arena, bool full, struct span by,
                                    const char *reason, int64_t now_ms);
/* anew: this step begins again, with a head and measurements of its own: what was measured is not trusted. */
MUST_CHECK enum err rollout_resume(struct rollout *r, struct arena *arena, bool anew, struct span by,
                                   const char *reason, int64_t now_ms);
MUST_CHECK enum err rollout_abort(struct rollout *r, struct arena *arena, struct span by, const char *reason,
                                  int64_t now_ms);

/* "errors: v18 4.1%, v17 1.0%: +3.1 points, between +1.4 and +5.0; tolerated +1 point (412 requests of 30 keys, ...)". */
void rollout_guard_words(const struct rollout *r, uint32_t guard, const struct judgement *j, char *out, size_t bytes);
/* "metric","name","verdict","absolute","tolerance" and every number of the judgement, as members of an open object. */
void rollout_judgement_members(const struct guard *guard, const struct judgement *j, struct json_writer *w);
/* {"ratio":{...},"guards":[{"metric","name","verdict","tolerance",...every number of the judgement}]} as members. */
void rollout_evidence_json(const struct rollout *r, const struct rollout_evidence *evidence, struct json_writer *w);

/* ---- rollout_json.c: the state as it is stored ---- */
void rollout_json(const struct rollout *r, struct json_writer *w);
/* The member "decisions" of an open object: [{"at_ms","what","by","reason"}]. */
void rollout_decisions_member(const struct rollout *r, struct json_writer *w);
/* Strict. ERR_CORRUPT, ERR_UNSUPPORTED (of a later schema), ERR_NOMEM. */
MUST_CHECK enum err rollout_read(struct arena *arena, const struct json_index *ix, uint32_t object,
                                 struct rollout *ret);
