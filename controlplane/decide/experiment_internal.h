/* experiment_internal.h - what experiment.c gathers and experiment_judge.c judges. For these two files only. */
#pragma once
#include "controlplane/decide/experiment.h"

#define EXPERIMENT_WATCHED_MAX 2u /* errors and refusals */
#define EXPERIMENT_RECENT                                                                                              \
    50u /* requests of an arm that the tripwire looks back on: enough that half of them is no accident */

struct unit {
    uint64_t id; /* its hash; folded: the cell */
    uint32_t arm;
};
struct moments { /* Welford's, of one unit and guard */
    double mean, squares;
    uint32_t n;
};
/* The last outcomes of an arm, and the baseline's counts when each came: the baseline is judged over the same time. */
struct recent {
    struct recent_outcome {
        uint64_t unit;
        uint64_t baseline_requests, baseline_bad;
        bool bad;
    } outcomes[EXPERIMENT_RECENT];
    uint64_t seen;
    uint64_t requests, bad; /* of all time */
};
struct growth { /* of an arm and its baseline, at a look */
    double requests, units;
};
/* What experiment_needed said of an arm and guard since the last look: rollouts are asked about far more often than there
 * are looks, and each answer walks all units many times. */
struct foreseen {
    bool kept;
    enum needed answer;
    double change;     /* that was asked about */
    uint64_t requests; /* of all arms, known: that many are enough */
};
struct experiment {
    struct experiment_options options;
    struct guard guards[EXPERIMENT_GUARDS_MAX];
    uint32_t histogram_of[EXPERIMENT_GUARDS_MAX], histograms; /* TTFT guards, numbered */
    struct unit *units;
    struct moments *moments;             /* [unit][guard] */
    uint32_t *buckets;                   /* [unit][histogram][bucket] */
    uint32_t count, capacity;            /* of units */
    uint32_t *slots, slot_count;         /* open addressing: 1 + unit; a power of two, at most half full */
    uint32_t cells[EXPERIMENT_ARMS_MAX]; /* folded: how many cells an arm has; else 0 */
    /* For a look, as large as capacity so that a look cannot fail. */
    double *values, *weights, *parts;
    uint32_t *members;
    struct sequence_ratio ratio;
    struct experiment_counts counts;
    uint64_t next_look;
    uint32_t watched[EXPERIMENT_WATCHED_MAX], watched_count; /* guards */
    struct recent recent[EXPERIMENT_ARMS_MAX][EXPERIMENT_WATCHED_MAX];
    struct judgement judged[EXPERIMENT_ARMS_MAX][EXPERIMENT_GUARDS_MAX];
    struct growth before[EXPERIMENT_ARMS_MAX][EXPERIMENT_GUARDS_MAX], now[EXPERIMENT_ARMS_MAX][EXPERIMENT_GUARDS_MAX];
    struct foreseen foreseen[EXPERIMENT_ARMS_MAX][EXPERIMENT_GUARDS_MAX];
};
/* Judges one arm and guard anew, and forgets what was foreseen of it; part of a look. */
void experiment_judge_now(struct experiment *e, uint32_t arm, uint32_t guard);
