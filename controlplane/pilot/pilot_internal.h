/* pilot_internal.h - what the pilot's files share: pilot.c (following, deciding), observe.c (measuring), report.c. */
#pragma once
#include "common/hist.h"
#include "controlplane/pilot/pilot.h"

#define VOTE_SLOTS (1u << 18) /* 8 MB; requests whose feedback can still be told an arm, the newest in each slot */
#define PAIR_SLOTS (1u << 16) /* 6 MB; shadows and their requests wait here for each other */
/* So many copies in a row, over all nodes, that what is left of a shadow's budget had no room for end it: the budget is
 * as good as spent. Not one: a single large request may not fit while others do. */
#define SHADOW_UNSENT_MAX 20u

struct vote_slot {
    uint64_t request; /* hash of its id; 0: empty */
    uint64_t unit;
    uint32_t arm;
    uint32_t voted; /* guards by mask: the first vote of each metric counts */
};
/* What was measured since a rollout's step, or an experiment, began. */
struct stage {
    bool on;
    char id[STATE_ID_BYTES]; /* of its assignment */
    uint64_t generation;
    int64_t since_ms;
    uint32_t versions[EXPERIMENT_ARMS_MAX];
    uint32_t arm_count;
    struct guard guards[EXPERIMENT_GUARDS_MAX];
    uint32_t guard_count;
    struct experiment *experiment; /* NULL: nothing is judged */
    struct vote_slot *votes;       /* NULL: no guard asks for feedback */
    uint64_t requests[EXPERIMENT_ARMS_MAX];
    uint64_t lost;             /* for want of memory */
    int64_t first_ms, last_ms; /* node's times of what was taken; 0: nothing yet */
    bool fresh;                /* something came since the last look */
};

/* One side's figures of a request that was shadowed. */
struct side {
    bool known;
    unsigned status;
    uint64_t total_us, tokens;
    int64_t cost_nano;
};
struct pair_slot {
    uint64_t request; /* hash; 0: empty */
    struct side real, copy;
};
struct shadow_stage {
    bool on;
    char id[STATE_ID_BYTES];
    uint64_t generation;
    struct span_list routes; /* in the pilot's arena */
    int64_t budget_nano;
    struct pair_slot *pairs;
    uint64_t copies, failed; /* all of the shadow's own records */
    uint64_t unsent; /* since the last copy: dearer, by their estimates, than what all copies left of the budget */
    int64_t spent_nano;
    uint64_t compared, same_status, real_failed, copy_failed;
    uint64_t real_tokens, copy_tokens;
    int64_t real_nano, copy_nano;
    struct hist real_us, copy_us; /* whole answers */
};

struct pilot {
    struct versions *versions;
    struct arena arena; /* of state */
    struct pilot_state state;
    uint64_t epoch; /* of the store: what another one decided does not count, though its ids and numbers are alike */
    bool followed;
    bool began; /* followed once */
    /* A rollout was running when this pilot began: nodes kept what happened meanwhile, and no step is taken before it has
     * come. resumed_at_ms: of the first tick; 0: not yet. */
    bool resumed;
    int64_t resumed_at_ms;
    struct stage rollout, experiment;
    struct shadow_stage shadow;
    struct judgement judgements[EXPERIMENT_GUARDS_MAX]; /* of the rollout's last look */
    struct rollout_evidence evidence;
    char tripwire[ROLLOUT_REASON_BYTES];
    int64_t retry_at_ms; /* after a commit that failed */
    uint8_t hash_key[16];
};

/* ---- observe.c ---- */
void stage_end(struct stage *stage);
/* Nothing measured yet. alpha and shares (sum to 1) are for the judgement. ERR_NOMEM, ERR_INVALID. */
MUST_CHECK enum err stage_begin(struct stage *stage, const char *id, uint64_t generation, int64_t since_ms,
                                const struct experiment_options *options, const uint32_t *versions);
void shadow_stage_end(struct shadow_stage *stage);
MUST_CHECK enum err shadow_stage_begin(struct shadow_stage *stage, const struct state_shadow *shadow);
