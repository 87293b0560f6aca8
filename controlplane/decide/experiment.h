/* experiment.h - does an arm do harm, judged by unit, however often somebody looks. Pure: no clock, no I/O.
 *
 * Units (keys, users, ...) are what the hash assigns, so units are what is compared: a key with a million requests is one
 * observation, not a million, and its bursts hurt nobody's arithmetic. For each unit and guard there is a mean x and the
 * number of requests n; units weigh n / (n + EXPERIMENT_WEIGHT_HALF), so that one with few requests says little and a heavy one never more than one
 * unit. All of it is judged by the only randomness that is really known, the assignment itself:
 *
 *   Harm, two-sided difference: the randomisation test (sequence.h). If the arm changes nothing, each unit would have
 *     shown the same whichever arm it fell to, so the sum over the arm's units of d = w (x - mean) has a known distribution,
 *     whatever the units, their traffic, bursts, or days look like. Its tail is computed, not simulated: a look
 *     needs tails of 1e-5, which is a million permutations. A t interval (what was tried first: Welch with
 *     effective units, linearised variance) is wrong by factors in such tails where an arm of 5% has ten units with skewed values.
 *   Relative metrics: treated values divided by (1 + tolerance), then the same test. Where the arms' spreads differ the
 *     test is studentised by the larger variance (Chung, Romano, Annals of Statistics 41 (2013)), so that an arm that only spreads costs wider is not
 *     called dearer.
 *   TTFT: the share of a unit's requests over a threshold, the arms' thresholds in the ratio (1 + tolerance), set so that
 *     1 - quantile of both together lies above; the same test of equal shares. Values stand in buckets of factor
 *     2^(1/EXPERIMENT_BUCKETS_PER_OCTAVE); censored ones (INFINITY) are above every threshold.
 *   Shares against a tolerance, and their intervals: Chernoff's bound with effective requests and the spread between units as dispersion.
 *     It is honest where no error was seen at all.
 *   Intervals are the hypotheses not rejected (relative ones: studentised, so they stay open while units are too few).
 *
 * Looks: one when the requests of all arms together have grown by half since the last one, so that the moment depends
 * neither on outcomes nor on arms. Each look of an arm and guard spends some (sequence_spend) of its part of alpha (parts are equal: guards times
 * treated arms). The union bound makes everything true at all looks at once; asking in between changes nothing. Against mixture
 * sequences (Waudby-Smith et al., arXiv:2103.06476) this costs some 10 to 30% of width and needs no
 * model of time: a unit's mean moves as its traffic grows, which those sequences do not allow. Unit-level variance: Deng,
 * Knoblich, Lu, KDD 2018.
 *
 * What is claimed: with no effect at all, alpha holds over all guards, arms and looks (tests/bench/aa measures it). The
 * p-value tests the tolerance (one-sided) or no difference (two-sided), and is corrected for all of that: it may be compared with alpha
 * as it stands.
 *
 * Memory: EXPERIMENT_UNITS_MAX units are told apart. When more come, units of an arm are put together by hash into cells, as many for each
 * arm as its share of the units asks for, and the cells are compared instead: nothing is left out, and cells are as
 * independent as units are. Not thread-safe. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "controlplane/decide/sequence.h"

#define EXPERIMENT_ARMS_MAX   SEQUENCE_ARMS_MAX
#define EXPERIMENT_GUARDS_MAX 12u /* alpha is split over guards: with more of them none would be found */
#define EXPERIMENT_UNITS_MAX                                                                                           \
    8192u /* 6 MB with a TTFT guard and 30 ms a look; a flood of forged user names must not cost more */
#define EXPERIMENT_UNITS_LEAST        5.0 /* effective, in each arm: fewer say more about who they are than about the arm */
#define EXPERIMENT_WEIGHT_HALF        20.0
#define EXPERIMENT_LOOK_FIRST         100u
#define EXPERIMENT_LOOK_GROWTH        1.5
#define EXPERIMENT_BUCKETS_PER_OCTAVE 8
#define EXPERIMENT_BUCKETS            161 /* 1 ms to 2^20 ms (17 minutes); the last holds what is longer or never came */
#define EXPERIMENT_RATIO_ALPHA        0.01
#define EXPERIMENT_NAME_BYTES_MAX     64u

enum metric {
    METRIC_ERRORS,
    METRIC_TTFT,     /* ms; INFINITY: censored (timed out, or failed before content) */
    METRIC_SPEED,    /* output tokens per second after the first */
    METRIC_COST,     /* nano-dollars per request */
    METRIC_REFUSALS, /* and empty answers */
    METRIC_CANCELS,
    METRIC_FALLBACKS,
    METRIC_FEEDBACK, /* -1..1 */
    METRICS
};
const char *metric_name(enum metric metric); /* "errors", "ttft", ... */
bool metric_of(const char *name, enum metric *ret);
bool metric_is_absolute(
    enum metric metric); /* changes are differences (shares and feedback); else relative (0.2 = 20% more) */
bool metric_less_is_harm(enum metric metric); /* speed, feedback */

struct guard {
    enum metric metric;
    char name[EXPERIMENT_NAME_BYTES_MAX + 1]; /* METRIC_FEEDBACK: which */
    double tolerance; /* >= 0, towards harm: 0.01 is one point of a share; 0.2 is a fifth of others */
    double quantile;  /* METRIC_TTFT: 0.5..0.99; else unused */
};
struct experiment_options {
    uint32_t arms;                      /* 2..EXPERIMENT_ARMS_MAX; arm 0 is the baseline */
    double shares[EXPERIMENT_ARMS_MAX]; /* of units, expected; any scale, above 0 */
    const struct guard *guards;         /* copied */
    uint32_t guard_count;               /* 1..EXPERIMENT_GUARDS_MAX */
    double alpha;                       /* 0 < alpha < 1, for the whole of this stage */
    bool two_sided;                     /* experiments: p-values ask for any difference, in both directions */
};
struct experiment;
/* ERR_INVALID: options out of the bounds above; ERR_NOMEM. */
MUST_CHECK enum err experiment_new(const struct experiment_options *options, struct experiment **ret);
void experiment_free(struct experiment *e); /* NULL is fine */

struct observation {
    uint32_t arm;
    uint64_t unit;        /* its hash */
    uint32_t guard_mask;  /* whose values are set */
    const double *values; /* by guard. Shares: 0 or 1 */
};
/* ERR_INVALID: no such arm, NaN, or a value outside its metric's range: nothing of it counts. ERR_NOMEM: likewise. A unit that was seen in
 * another arm first counts there, as a stray (a unit cannot change arms within a stage: someone's hash is wrong). */
MUST_CHECK enum err experiment_add(struct experiment *e, const struct observation *o);
struct experiment_counts {
    uint64_t requests, strays, refused;
    uint64_t units; /* told apart; after folding: cells */
    bool folded;
};
void experiment_counts(const struct experiment *e, struct experiment_counts *ret);

/* Takes a look when it is time, and says whether it did. Only then do judgements change. */
bool experiment_look(struct experiment *e);

enum verdict {
    VERDICT_TOO_LITTLE, /* too few units in an arm: another unit (user, request) would answer */
    VERDICT_UNDECIDED,
    VERDICT_HARM,   /* beyond the tolerance. Stays */
    VERDICT_NO_HARM /* harm beyond the tolerance is excluded */
};
const char *verdict_name(enum verdict verdict); /* "too_little", ... */
struct judgement {
    enum verdict verdict;
    double baseline, treatment; /* means of units; TTFT: quantiles in ms, INFINITY when that many are censored */
    double change, low, high;   /* treatment - baseline, or treatment / baseline - 1. (low, high) is valid at all looks
                                   together; an end that is not known yet is the metric's limit or infinite. low = 0 or
                                   high = 0: there is a change, its size is not known. NAN: there is no baseline */
    double p_value;             /* corrected for looks, guards and arms */
    uint64_t units[2], requests[2];
    double units_effective[2];
    uint32_t looks; /* with enough units */
};
/* arm: 1..arms-1. */
void experiment_judge(const struct experiment *e, uint32_t arm, uint32_t guard, struct judgement *ret);

struct ratio_check {
    bool
        mismatch; /* arms did not get the units they should have: what is seen is not what was assigned; trust no judgement */
    double p_value;
    uint64_t units[EXPERIMENT_ARMS_MAX]; /* distinct, of the first EXPERIMENT_UNITS_MAX */
};
void experiment_ratio(const struct experiment *e, struct ratio_check *ret);

/* Gross harm, without waiting for a look: see experiment.c for the thresholds. Needs a guard on errors or refusals. Writes the reason. */
bool experiment_tripwire(const struct experiment *e, uint32_t arm, char *why, size_t why_bytes);

/* How many more requests (of all arms, mixed as so far) until a change of this size (as in struct judgement, any sign) would be found with
 * probability 0.8, if units go on coming and asking as they did. */
enum needed {
    NEEDED_KNOWN,
    NEEDED_UNKNOWN, /* no look yet, or too few units to say */
    NEEDED_NEVER /* these units differ too much from each other: more of their requests do not help. Another unit would */
};
enum needed experiment_needed(const struct experiment *e, uint32_t arm, uint32_t guard, double change,
                              uint64_t *ret_requests_more);
