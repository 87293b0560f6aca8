#include "controlplane/decide/experiment.h"
#include "common/digest.h"
#include "common/fault.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct guard guards[] = {
    { .metric = METRIC_ERRORS },
    { .metric = METRIC_TTFT, .quantile = 0.9, .tolerance = 0.1 },
    { .metric = METRIC_COST, .tolerance = 0.1 },
    { .metric = METRIC_SPEED, .tolerance = 0.1 },
    { .metric = METRIC_FEEDBACK, .name = "thumbs", .tolerance = 0.2 },
};
enum { ERRORS, TTFT, COST, SPEED, FEEDBACK, GUARDS };

static struct experiment *experiment(uint32_t arms, bool two_sided)
{
    struct experiment_options options = { .arms = arms,
                                          .shares = { 1, 1, 1, 1 },
                                          .guards = guards,
                                          .guard_count = GUARDS,
                                          .alpha = 0.05,
                                          .two_sided = two_sided };
    struct experiment *e;
    assert_int_equal(experiment_new(&options, &e), OK);
    return e;
}

static struct prng prng;

/* What an arm is like: each factor 1 is the baseline. */
struct arm {
    double errors, ttft, cost, speed, likes;
};
static const struct arm usual = { .errors = 0.02, .ttft = 1, .cost = 1, .speed = 1, .likes = 0.7 };

static uint32_t arm_of(uint64_t unit, uint32_t arms)
{
    return (uint32_t)(unit * 0x9e3779b97f4a7c15u >> 40) % arms;
}

static void play(struct experiment *e, const struct arm *arms, uint32_t arm_count, uint32_t units, uint32_t requests)
{
    for (uint32_t i = 0; i < requests; i++) {
        uint64_t unit = 1 + prng_u64(&prng) % units;
        uint32_t arm = arm_of(unit, arm_count);
        const struct arm *a = &arms[arm];
        double own = 1 + (double)(unit % 7) / 7;
        double values[GUARDS] = { [ERRORS] = prng_unit(&prng) < a->errors * own,
                                  [TTFT] = 200 * own * a->ttft * (0.5 + 2 * prng_unit(&prng)),
                                  [COST] = 1e6 * own * a->cost * (0.5 + prng_unit(&prng)),
                                  [SPEED] = 50 * own * a->speed * (0.5 + prng_unit(&prng)),
                                  [FEEDBACK] = prng_unit(&prng) < a->likes ? 1 : -1 };
        struct observation o = { .arm = arm, .unit = unit, .guard_mask = 0x1f, .values = values };
        assert_int_equal(experiment_add(e, &o), OK);
        (void)experiment_look(e);
    }
}

static struct judgement judge(const struct experiment *e, uint32_t arm, uint32_t guard)
{
    struct judgement j;
    experiment_judge(e, arm, guard, &j);
    return j;
}

static void test_nothing_yet(void **state)
{
    (void)state;
    struct experiment *e = experiment(2, false);
    assert_false(experiment_look(e));
    for (uint32_t g = 0; g < GUARDS; g++) {
        struct judgement j = judge(e, 1, g);
        assert_int_equal(j.verdict, VERDICT_TOO_LITTLE);
        assert_true(j.p_value == 1 && isnan(j.change) && j.looks == 0);
    }
    struct ratio_check ratio;
    experiment_ratio(e, &ratio);
    assert_false(ratio.mismatch);
    assert_false(experiment_tripwire(e, 1, NULL, 0));
    experiment_free(e);
    experiment_free(NULL);
}

static void test_few_units_say_too_little(void **state)
{
    (void)state;
    prng_seed(&prng, 1);
    struct experiment *e = experiment(2, false);
    const struct arm arms[2] = { usual, { .errors = 0.3, .ttft = 3, .cost = 3, .speed = 0.3, .likes = 0.1 } };
    play(e, arms, 2, 8, 20000);
    for (uint32_t g = 0; g < GUARDS; g++) {
        struct judgement j = judge(e, 1, g);
        assert_int_equal(j.verdict, VERDICT_TOO_LITTLE);
        assert_true(j.units[0] + j.units[1] == 8 && j.requests[0] + j.requests[1] > 15000);
        assert_true(j.baseline > 0 || g == FEEDBACK);
    }
    experiment_free(e);
}

static void test_harm_is_found_and_measured(void **state)
{
    (void)state;
    prng_seed(&prng, 2);
    struct experiment *e = experiment(2, false);
    const struct arm arms[2] = { usual, { .errors = 0.1, .ttft = 2, .cost = 1.5, .speed = 0.5, .likes = 0.3 } };
    play(e, arms, 2, 400, 30000);
    static const double change[GUARDS] = { [TTFT] = 1, [COST] = 0.5, [SPEED] = -0.5, [FEEDBACK] = -0.8 };
    for (uint32_t g = 0; g < GUARDS; g++) {
        struct judgement j = judge(e, 1, g);
        assert_int_equal(j.verdict, VERDICT_HARM);
        assert_true(j.p_value < 1e-4);
        assert_true(j.low <= j.change && j.change <= j.high);
        double truth = g == ERRORS ? 0.08 * (1 + 3.0 / 7) : change[g];
        assert_true(j.low < truth && truth < j.high);
        assert_true(j.high - j.low < 0.5 && j.high > j.low);
        assert_true(j.units_effective[1] > 100 && j.units[0] + j.units[1] == 400);
    }
    experiment_free(e);
}

static void test_no_harm_is_shown(void **state)
{
    (void)state;
    prng_seed(&prng, 3);
    struct experiment *e = experiment(2, false);
    const struct arm arms[2] = { usual, { .errors = 0.01, .ttft = 0.8, .cost = 0.8, .speed = 1.3, .likes = 0.8 } };
    play(e, arms, 2, 400, 30000);
    assert_int_equal(judge(e, 1, ERRORS).verdict, VERDICT_NO_HARM); /* tolerance 0: better is needed */
    for (uint32_t g = 1; g < GUARDS; g++)
        assert_int_equal(judge(e, 1, g).verdict, VERDICT_NO_HARM);
    experiment_free(e);
}

/* A rise within the tolerance is no harm, however sure it is. */
static void test_tolerance(void **state)
{
    (void)state;
    prng_seed(&prng, 4);
    struct experiment *e = experiment(2, true);
    const struct arm arms[2] = { usual, { .errors = 0.02, .ttft = 1.05, .cost = 1.05, .speed = 0.95, .likes = 0.65 } };
    play(e, arms, 2, 2000, 200000);
    for (uint32_t g = 0; g < GUARDS; g++)
        assert_int_not_equal(judge(e, 1, g).verdict, VERDICT_HARM);
    assert_true(judge(e, 1, COST).p_value < 0.05 || judge(e, 1, COST).low < 0.05);
    experiment_free(e);
}

/* No error anywhere: the interval is what so many requests allow, not a point. */
static void test_zero_variance(void **state)
{
    (void)state;
    prng_seed(&prng, 5);
    const struct guard guard = { .metric = METRIC_ERRORS, .tolerance = 0.05 };
    struct experiment_options options = {
        .arms = 2, .shares = { 1, 1 }, .guards = &guard, .guard_count = 1, .alpha = 0.05
    };
    struct experiment *e;
    assert_int_equal(experiment_new(&options, &e), OK);
    double last = 1;
    for (uint32_t i = 0; i < 4000; i++) {
        double value = 0;
        uint64_t unit = prng_u64(&prng);
        struct observation o = { .arm = unit & 1, .unit = unit, .guard_mask = 1, .values = &value };
        assert_int_equal(experiment_add(e, &o), OK);
        if (!experiment_look(e))
            continue;
        struct judgement j = judge(e, 1, 0);
        double n = (double)j.requests[1];
        assert_true(j.change == 0 && j.p_value == 1 && j.low < 0);
        assert_true(j.high >= -log(0.05) / n); /* the rule of three, at least */
        assert_true(j.high < last && j.high < 40 / n);
        assert_int_equal(j.verdict, j.high < 0.05 ? VERDICT_NO_HARM : VERDICT_UNDECIDED);
        last = j.high;
    }
    assert_int_equal(judge(e, 1, 0).verdict, VERDICT_NO_HARM);
    experiment_free(e);
}

static void test_censored(void **state)
{
    (void)state;
    prng_seed(&prng, 6);
    struct experiment *e = experiment(2, false);
    for (uint32_t i = 0; i < 20000; i++) {
        uint64_t unit = prng_u64(&prng) % 300;
        double values[GUARDS] = { [TTFT] = (unit & 1) && prng_unit(&prng) < 0.3 ? INFINITY : 100 + prng_unit(&prng) };
        struct observation o = { .arm = unit & 1, .unit = unit, .guard_mask = 1u << TTFT, .values = values };
        assert_int_equal(experiment_add(e, &o), OK);
        (void)experiment_look(e);
    }
    struct judgement j = judge(e, 1, TTFT);
    assert_int_equal(j.verdict, VERDICT_HARM);
    assert_true(j.baseline > 90 && j.baseline < 115 && isinf(j.treatment) && isinf(j.change));
    assert_true(j.low > 1 && isinf(j.high));
    assert_int_equal(judge(e, 1, COST).verdict, VERDICT_TOO_LITTLE);
    experiment_free(e);
}

static void test_each_arm_by_itself(void **state)
{
    (void)state;
    prng_seed(&prng, 7);
    struct experiment *e = experiment(3, false);
    const struct arm arms[3] = { usual, usual, { .errors = 0.2, .ttft = 1, .cost = 1, .speed = 1, .likes = 0.7 } };
    play(e, arms, 3, 600, 20000);
    assert_int_not_equal(judge(e, 1, ERRORS).verdict, VERDICT_HARM);
    assert_int_equal(judge(e, 2, ERRORS).verdict, VERDICT_HARM);
    experiment_free(e);
}

static void test_refused(void **state)
{
    (void)state;
    struct experiment *e = experiment(2, false);
    double values[GUARDS] = { 0 };
    struct observation o = { .arm = 1, .unit = 5, .guard_mask = 0x1f, .values = values };
    static const struct {
        uint32_t guard;
        double value;
    } bad[] = { { ERRORS, NAN },    { ERRORS, 2 },     { ERRORS, -1 }, { TTFT, NAN },       { TTFT, -1 },
                { COST, INFINITY }, { COST, -1 },      { COST, NAN },  { SPEED, INFINITY }, { FEEDBACK, 1.5 },
                { FEEDBACK, -2 },   { FEEDBACK, NAN }, { COST, 1e19 } };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        values[bad[i].guard] = bad[i].value;
        assert_int_equal(experiment_add(e, &o), ERR_INVALID);
        values[bad[i].guard] = 0;
    }
    o.arm = 2;
    assert_int_equal(experiment_add(e, &o), ERR_INVALID);
    o.arm = 1;
    o.guard_mask = 0x20;
    assert_int_equal(experiment_add(e, &o), ERR_INVALID);
    struct experiment_counts counts;
    experiment_counts(e, &counts);
    assert_int_equal(counts.refused, ARRAY_LEN(bad) + 2);
    assert_int_equal(counts.requests, 0);
    assert_int_equal(counts.units, 0);
    experiment_free(e);

    struct experiment_options options = {
        .arms = 2, .shares = { 1, 1 }, .guards = guards, .guard_count = 1, .alpha = 0.05
    };
    struct experiment_options wrong[9];
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        wrong[i] = options;
    const struct guard bad_guards[] = { { .metric = METRICS },
                                        { .metric = METRIC_ERRORS, .tolerance = NAN },
                                        { .metric = METRIC_SPEED, .tolerance = 1 },
                                        { .metric = METRIC_TTFT, .quantile = 1 } };
    wrong[0].arms = 1;
    wrong[1].arms = EXPERIMENT_ARMS_MAX + 1;
    wrong[2].alpha = NAN;
    wrong[3].shares[1] = 0;
    wrong[4].guard_count = 0;
    for (size_t i = 0; i < 4; i++)
        wrong[5 + i].guards = &bad_guards[i];
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(experiment_new(&wrong[i], &e), ERR_INVALID);
}

static void test_stray(void **state)
{
    (void)state;
    struct experiment *e = experiment(2, false);
    double values[GUARDS] = { 0 };
    struct observation o = { .arm = 0, .unit = 5, .guard_mask = 1, .values = values };
    for (uint32_t i = 0; i < 200; i++) {
        o.arm = i > 0;
        assert_int_equal(experiment_add(e, &o), OK);
    }
    assert_true(experiment_look(e));
    struct experiment_counts counts;
    experiment_counts(e, &counts);
    assert_int_equal(counts.strays, 199);
    assert_int_equal(counts.units, 1);
    assert_int_equal(judge(e, 1, ERRORS).requests[0], 200);
    assert_int_equal(judge(e, 1, ERRORS).units[1], 0);
    experiment_free(e);
}

/* More units than are told apart: nothing is lost, cells of both arms are alike, and harm is still found. */
static void test_folding(void **state)
{
    (void)state;
    prng_seed(&prng, 8);
    const struct guard two[] = { { .metric = METRIC_ERRORS }, { .metric = METRIC_TTFT, .quantile = 0.9 } };
    struct experiment_options options = {
        .arms = 2, .shares = { 19, 1 }, .guards = two, .guard_count = 2, .alpha = 0.05
    };
    struct experiment *e;
    assert_int_equal(experiment_new(&options, &e), OK);
    uint64_t sent[2] = { 0 };
    for (uint32_t i = 0; i < 60000; i++) {
        uint64_t unit = prng_u64(&prng);
        uint32_t arm = unit % 20 == 0;
        double values[2] = { prng_unit(&prng) < (arm ? 0.03 : 0.01), 100 * (1 + prng_unit(&prng)) };
        struct observation o = { .arm = arm, .unit = unit, .guard_mask = 3, .values = values };
        assert_int_equal(experiment_add(e, &o), OK);
        sent[arm]++;
        (void)experiment_look(e);
    }
    struct experiment_counts counts;
    experiment_counts(e, &counts);
    assert_true(counts.folded && counts.requests == 60000 && counts.strays == 0);
    assert_true(counts.units > EXPERIMENT_UNITS_MAX / 4 && counts.units <= EXPERIMENT_UNITS_MAX / 2 + 4);
    struct judgement j = judge(e, 1, 0);
    assert_true(j.requests[0] > sent[0] / 2 && j.requests[1] > sent[1] / 2);
    double per_cell[2] = { (double)j.requests[0] / (double)j.units[0], (double)j.requests[1] / (double)j.units[1] };
    assert_true(per_cell[1] > 0.9 * per_cell[0] && per_cell[1] < 1.1 * per_cell[0]);
    assert_true(fabs(j.baseline - 0.01) < 0.002 && fabs(j.treatment - 0.03) < 0.01);
    assert_int_equal(j.verdict, VERDICT_HARM);
    assert_int_not_equal(judge(e, 1, 1).verdict, VERDICT_HARM);
    experiment_free(e);
}

/* Sizes as they come (nano-dollars) and their thousand-millionth part: the same verdict to the last digit that matters. */
static void test_scale(void **state)
{
    (void)state;
    const struct guard guard = { .metric = METRIC_COST };
    struct experiment_options options = {
        .arms = 2, .shares = { 1, 1 }, .guards = &guard, .guard_count = 1, .alpha = 0.05
    };
    struct judgement js[2];
    for (uint32_t k = 0; k < 2; k++) {
        struct experiment *e;
        prng_seed(&prng, 9);
        assert_int_equal(experiment_new(&options, &e), OK);
        for (uint32_t i = 0; i < 5000; i++) {
            uint64_t unit = prng_u64(&prng) % 200;
            double value = (k ? 1e12 : 1) * (1 + 1e-3 * prng_unit(&prng) + 1e-4 * (double)(unit & 1));
            struct observation o = { .arm = unit & 1, .unit = unit, .guard_mask = 1, .values = &value };
            assert_int_equal(experiment_add(e, &o), OK);
            (void)experiment_look(e);
        }
        js[k] = judge(e, 1, 0);
        experiment_free(e);
    }
    assert_int_equal(js[0].verdict, js[1].verdict);
    assert_true(fabs(js[0].low - js[1].low) < 1e-7 && fabs(js[0].high - js[1].high) < 1e-7);
    assert_true(fabs(js[0].change - 1e-4) < 5e-5);
}

/* An arm that only spreads costs wider is not dearer; the randomisation test, not studentised, would say so four
 * times in ten. */
static void test_wider_is_not_dearer(void **state)
{
    (void)state;
    const struct guard guard = { .metric = METRIC_COST };
    struct experiment_options options = {
        .arms = 2, .shares = { 9, 1 }, .guards = &guard, .guard_count = 1, .alpha = 0.05
    };
    uint32_t harm = 0;
    for (uint32_t round = 0; round < 100; round++) {
        struct experiment *e;
        prng_seed(&prng, 300 + round);
        assert_int_equal(experiment_new(&options, &e), OK);
        for (uint32_t i = 0; i < 1000; i++) {
            uint64_t unit = prng_u64(&prng);
            uint32_t arm = unit % 10 == 0;
            double value = 1 + (arm ? 0.9 : 0.1) * (prng_unit(&prng) < 0.5 ? 1 : -1);
            struct observation o = { .arm = arm, .unit = unit, .guard_mask = 1, .values = &value };
            assert_int_equal(experiment_add(e, &o), OK);
            (void)experiment_look(e);
        }
        harm += judge(e, 1, 0).verdict == VERDICT_HARM;
        experiment_free(e);
    }
    assert_true(harm <= 8);
}

static void gross(struct experiment *e, uint32_t n, uint32_t units, double bad0, double bad1)
{
    double values[GUARDS] = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        uint32_t arm = i & 1;
        values[ERRORS] = prng_unit(&prng) < (arm ? bad1 : bad0);
        struct observation o = {
            .arm = arm, .unit = 2 * (prng_u64(&prng) % units) + arm, .guard_mask = 1, .values = values
        };
        assert_int_equal(experiment_add(e, &o), OK);
    }
}

static void test_tripwire(void **state)
{
    (void)state;
    prng_seed(&prng, 10);
    char why[200] = "";
    struct experiment *e = experiment(2, false);
    gross(e, 400, 30, 0.01, 0.01);
    assert_false(experiment_tripwire(e, 1, why, sizeof why));
    gross(e, 150, 30, 0.9, 0.9); /* an outage of both */
    assert_false(experiment_tripwire(e, 1, why, sizeof why));
    gross(e, 400, 30, 0.01, 0.2); /* for statistics to judge */
    assert_false(experiment_tripwire(e, 1, why, sizeof why));
    gross(e, 100, 30, 0.01, 0.8);
    assert_true(experiment_tripwire(e, 1, why, sizeof why));
    assert_non_null(strstr(why, "errors: "));
    assert_non_null(strstr(why, "far more than the baseline"));
    experiment_free(e);

    e = experiment(2, false); /* nothing beside it: no comparison is claimed */
    for (uint64_t unit = 0; unit < 50; unit++)
        assert_int_equal(
            experiment_add(
                e,
                &(struct observation){ .arm = 1, .unit = unit, .guard_mask = 1, .values = (const double[]){ 1, 0 } }),
            OK);
    assert_true(experiment_tripwire(e, 1, why, sizeof why));
    assert_non_null(strstr(why, "next to none of the baseline's"));
    experiment_free(e);

    e = experiment(2, false); /* one unit that fails often is that unit's trouble; always, the arm's */
    gross(e, 400, 1, 0.01, 0.9);
    assert_false(experiment_tripwire(e, 1, why, sizeof why));
    gross(e, 100, 1, 0.01, 1);
    assert_true(experiment_tripwire(e, 1, why, 10));
    assert_int_equal(strlen(why), 9);
    experiment_free(e);
}

static void test_ratio(void **state)
{
    (void)state;
    prng_seed(&prng, 12);
    struct experiment *e = experiment(2, false);
    gross(e, 2000, 1000000, 0, 0);
    struct ratio_check ratio;
    experiment_ratio(e, &ratio);
    assert_false(ratio.mismatch);
    double values[GUARDS] = { 0 };
    for (uint32_t i = 0; i < 600; i++) { /* the other arm's records get lost */
        struct observation o = { .arm = 0, .unit = prng_u64(&prng), .guard_mask = 1, .values = values };
        assert_int_equal(experiment_add(e, &o), OK);
    }
    experiment_ratio(e, &ratio);
    assert_true(ratio.mismatch && ratio.p_value < 0.01 && ratio.units[0] > ratio.units[1] + 500);
    experiment_free(e);
}

/* The answer holds: with as much more traffic as it asks for, a change of that size is found in most runs, and with a
 * fifth of it in fewer. */
static void test_needed(void **state)
{
    (void)state;
    uint32_t found = 0, found_early = 0;
    for (uint32_t round = 0; round < 20; round++) {
        struct arm arms[2] = { usual, usual };
        prng_seed(&prng, 100 + round);
        struct experiment *e = experiment(2, false);
        uint64_t more;
        assert_int_equal(experiment_needed(e, 1, COST, 0.1, &more), NEEDED_UNKNOWN);
        play(e, arms, 2, 300, 500);
        assert_int_equal(experiment_needed(e, 1, COST, 0.12, &more), NEEDED_KNOWN);
        uint64_t less;
        assert_int_equal(experiment_needed(e, 1, COST, 0.15, &less), NEEDED_KNOWN);
        assert_true(less < more && more > 100 && more < 3000);
        assert_int_equal(experiment_needed(e, 1, COST, 0.001, &less), NEEDED_NEVER); /* the units differ by more */
        assert_int_equal(experiment_needed(e, 1, ERRORS, 0.05, &less), NEEDED_KNOWN);
        experiment_free(e);

        e = experiment(2, false);
        const double truth = 1.12 * 1.1; /* an eighth beyond the tolerance */
        arms[1].cost = truth;
        play(e, arms, 2, 300, (uint32_t)(500 + more) / 5);
        found_early += judge(e, 1, COST).verdict == VERDICT_HARM;
        play(e, arms, 2, 300, (uint32_t)(500 + more) * 4 / 5 + 1);
        found += judge(e, 1, COST).verdict == VERDICT_HARM;
        experiment_free(e);
    }
    assert_true(found >= 14);
    assert_true(found_early <= found / 2 + 2);
}

/* Of two that see the same, one is asked all the time: the first answer after a look stands, counted down, until the
 * next look, and is then what the other one says that was never asked before. */
static void test_needed_is_kept(void **state)
{
    (void)state;
    const struct arm arms[2] = { usual, usual };
    struct experiment *asked = experiment(2, false), *fresh = experiment(2, false);
    uint64_t first[GUARDS], more;
    prng_seed(&prng, 7);
    play(asked, arms, 2, 300, 400); /* looks at 341 and 512 */
    for (uint32_t g = 0; g < GUARDS; g++)
        assert_int_equal(experiment_needed(asked, 1, g, 0.2, &first[g]), NEEDED_KNOWN);
    const uint32_t looks = judge(asked, 1, COST).looks;
    play(asked, arms, 2, 300, 40);
    assert_int_equal(judge(asked, 1, COST).looks, looks); /* no look in between */
    for (uint32_t g = 0; g < GUARDS; g++) {
        assert_int_equal(experiment_needed(asked, 1, g, 0.2, &more), NEEDED_KNOWN);
        assert_int_equal(more, first[g] - 40);
    }
    play(asked, arms, 2, 300, 260);
    assert_int_equal(judge(asked, 1, COST).looks, looks + 1);
    prng_seed(&prng, 7);
    play(fresh, arms, 2, 300, 700);
    for (uint32_t g = 0; g < GUARDS; g++) {
        uint64_t expected = 0;
        more = 0;
        assert_int_equal(experiment_needed(asked, 1, g, 0.2, &more), experiment_needed(fresh, 1, g, 0.2, &expected));
        assert_int_equal(more, expected);
        assert_true(more + 300 != first[g]); /* found anew */
    }
    experiment_free(asked);
    experiment_free(fresh);
}

static void test_names(void **state)
{
    (void)state;
    for (uint32_t m = 0; m < METRICS; m++) {
        enum metric metric;
        assert_true(metric_of(metric_name((enum metric)m), &metric) && metric == (enum metric)m);
    }
    enum metric metric;
    assert_false(metric_of("unknown", &metric));
    assert_string_equal(verdict_name(VERDICT_NO_HARM), "no_harm");
}

/* Any allocation may fail; what was there stays whole. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct experiment_options options = {
        .arms = 2, .shares = { 1, 1 }, .guards = guards, .guard_count = GUARDS, .alpha = 0.05
    };
    for (uint64_t n = 0; n < 9; n++) {
        struct experiment *e;
        fault_arm(FAULT_ALLOC, n, 1);
        assert_int_equal(experiment_new(&options, &e), ERR_NOMEM);
        fault_disarm_all();
    }
    struct experiment *e = experiment(2, false);
    uint32_t failed = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        double values[GUARDS] = { 0 };
        struct observation o = { .arm = i & 1, .unit = i, .guard_mask = 0x1f, .values = values };
        fault_arm(FAULT_ALLOC, i % 9, 1);
        enum err err = experiment_add(e, &o);
        fault_disarm_all();
        if (err != OK) {
            assert_int_equal(err, ERR_NOMEM);
            failed++;
            assert_int_equal(experiment_add(e, &o), OK);
        }
        (void)experiment_look(e);
    }
    assert_true(failed > 0);
    struct experiment_counts counts;
    experiment_counts(e, &counts);
    assert_true(counts.units == 1000 && counts.requests == 1000);
    experiment_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_yet),
        cmocka_unit_test(test_few_units_say_too_little),
        cmocka_unit_test(test_harm_is_found_and_measured),
        cmocka_unit_test(test_no_harm_is_shown),
        cmocka_unit_test(test_tolerance),
        cmocka_unit_test(test_zero_variance),
        cmocka_unit_test(test_censored),
        cmocka_unit_test(test_each_arm_by_itself),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_stray),
        cmocka_unit_test(test_folding),
        cmocka_unit_test(test_scale),
        cmocka_unit_test(test_wider_is_not_dearer),
        cmocka_unit_test(test_tripwire),
        cmocka_unit_test(test_ratio),
        cmocka_unit_test(test_needed),
        cmocka_unit_test(test_needed_is_kept),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
