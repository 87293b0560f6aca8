/* experiment.h - does an arm do harm, judged by unit, however often somebody looks. Pure: no clock, no I/O.
 *
 * Units (keys, users, ...) are what the hash assigns, so units are what is compared: a key with a million requests is
 * one observation, not a million, and its bursts cannot fake an effect. For each unit and guard there is a mean x and
 * the number of requests n. Units weigh w = n / (n + EXPERIMENT_WEIGHT_HALF): one with few requests says little, and a
 * heavy one never more than one unit. All is judged by the only randomness that is really known, the assignment:
 *
 *   Harm, or any difference: the randomisation test (sequence.h). If the arm changes nothing, each unit would have shown
 *     the same whichever arm it fell to, so the sum of d = w (x - mean) over the arm's units has a known distribution,
 *     whatever the units, their traffic, bursts or days look like. Its tail is computed, not simulated: a look needs
 *     tails of 1e-4 and less, too many permutations; and a t interval would lean on the normal shape of exactly such
 *     tails, where an arm of 5% has ten units with skewed values.
 *   Relative metrics: treated values divided by (1 + tolerance), then the same test. Where the arms' spreads differ it is
 *     studentised by the larger variance (Chung, Romano, Annals of Statistics 41, 2013), so that an arm that only spreads
 *     costs wider is not called dearer.
 *   TTFT: the share of a unit's requests over a threshold, the arms' thresholds in the ratio (1 + tolerance), set so that
 *     1 - quantile of both together lies above; then the test of equal shares. (Sequences for quantiles by counting what
 *     lies above: Howard, Ramdas, Bernoulli 28, 2022; there for independent values, here by unit.) Values stand in buckets
 *     of factor 2^(1/EXPERIMENT_BUCKETS_PER_OCTAVE); censored ones (INFINITY) are above every threshold.
 *   Shares against a tolerance, and their intervals: Chernoff's bound, with effective requests, and how much units differ
 *     as dispersion. Honest where not a single error was seen.
 *   Other intervals are the hypotheses that are not rejected; an end stays open while units are too few to set it.
 *
 * Looks: one when the requests of all arms together have grown by half since the last one, so that the moment depends
 * neither on outcomes nor on arms. Each spends some (sequence_spend) of the part of alpha that an arm and guard has; parts
 * are equal. By the union bound everything holds at all looks together, and asking in between changes nothing. The z that
 * this asks for is about that of a normal mixture (Waudby-Smith et al., arXiv:2103.06476), without its model of time: a
 * unit's mean moves as its traffic grows. Variance by unit: Deng, Knoblich, Lu, KDD 2018.
 *
 * What is claimed: with no effect, alpha holds over all guards, arms and looks; tests/bench/aa measures it, and what is
 * found when. The p-value tests the tolerance (one-sided) or no difference (two-sided) and is corrected for all of that:
 * compare it with alpha as it stands.
 *
 * Memory: EXPERIMENT_UNITS_MAX units are told apart. When more come, an arm's units are put together by hash into cells,
 * as many for each arm as its share of the units asks for, and cells are compared instead: nothing is left out, and cells
 * are as independent as units are. Not thread-safe, asking neither (there is one scratch). */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "controlplane/decide/sequence.h"

#define EXPERIMENT_ARMS_MAX   SEQUENCE_ARMS_MAX
#define EXPERIMENT_GUARDS_MAX 12u /* alpha is split over guards: with more of them none would be found */
#define EXPERIMENT_UNITS_MAX                                                                                           \
    8192u /* 7 MB with one TTFT guard, and 15 ms a look: what a flood of made-up user names may cost */
#define EXPERIMENT_UNITS_LEAST        5.0 /* effective, in each arm: fewer speak of who they are, not of the arm */
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
bool metric_is_absolute(enum metric metric);  /* changes are differences, not relative: shares, feedback */
bool metric_less_is_harm(enum metric metric); /* speed, feedback */

struct guard {
    enum metric metric;
    char name[EXPERIMENT_NAME_BYTES_MAX + 1]; /* METRIC_FEEDBACK: which */
    double tolerance; /* >= 0, towards harm: 0.01 is one point of a share; 0.2 is a fifth of others */
    double quantile;  /* METRIC_TTFT: 0.5..0.99; else unused */
};
/* Within the bounds above; an experiment takes no other guard. A tolerance of 1 or more is good for TTFT and cost alone:
 * no more than all of a share, of a speed or of a vote can be lost. */
bool guard_good(const struct guard *guard);
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
/* ERR_INVALID: no such arm, NaN, or a value outside its metric's range: nothing of it counts. ERR_NOMEM: likewise. A unit
 * that was seen in another arm first counts there, as a stray (a unit cannot change arms within a stage: somebody's hash
 * is wrong); after folding units are no longer known, and it counts where it says. */
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
    bool mismatch; /* what is seen is not what was assigned (lost records, a wrong hash): trust no judgement */
    double p_value;
    uint64_t units[EXPERIMENT_ARMS_MAX]; /* distinct, of the first EXPERIMENT_UNITS_MAX */
};
void experiment_ratio(const struct experiment *e, struct ratio_check *ret);

/* Gross harm, without waiting for a look (thresholds: experiment.c). Needs a guard on errors or refusals. Writes why. */
bool experiment_tripwire(const struct experiment *e, uint32_t arm, char *why, size_t why_bytes);

/* How many more requests (of all arms, mixed as so far) until a change of this size (as in struct judgement, any sign)
 * would be found with probability 0.8, if units go on coming and asking as they did. The answer is found once after a
 * look and kept until the next one (for the change last asked about); what is still missing of it shrinks as requests
 * come. */
enum needed {
    NEEDED_KNOWN,
    NEEDED_UNKNOWN, /* no look yet, or too few units to say */
    NEEDED_NEVER    /* units differ too much for more of their requests to help; another unit might */
};
enum needed experiment_needed(struct experiment *e, uint32_t arm, uint32_t guard, double change,
                              uint64_t *ret_requests_more);
