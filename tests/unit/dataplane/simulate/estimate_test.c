/* Worlds whose truth is known: users with habits of their own, models with their own speed, length and failures, a
 * logging policy with known propensities. Seeds are fixed, so that a test that passes does so for ever. */
#include "dataplane/simulate/estimate.h"
#include "common/arena.h"
#include "common/digest.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { SLOW, FAST, NEW, MODELS };
enum { ROUTES = 2, CELLS = ROUTES * MODELS, USERS_MAX = 200, ROWS_MAX = 6000, INPUT = 1100 };
#define SECOND_ROUTE 0.3 /* its share of the requests */

static struct price prices[MODELS] = {
    [SLOW] = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 1000000, .output = 2000000 },
    [FAST] = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 3000000, .output = 9000000 },
    [NEW] = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 2000000, .output = 4000000 },
};
static const double mean_ttft[MODELS] = { 400000, 150000, 250000 };
static const double mean_output[MODELS] = { 200, 300, 250 };
static const double failure[MODELS] = { 0.03, 0.01, 0.02 };

struct world {
    struct prng prng;
    struct estimate_model models[MODELS];
    struct estimate_cell cells[CELLS];
    struct estimate_choice choices[ESTIMATE_TARGETS][ROUTES][MODELS];
    struct estimate_decision decisions[ESTIMATE_TARGETS][ROUTES];
    double log[ROUTES][MODELS];
    unsigned users;
    double habits[USERS_MAX];
    size_t count;
    struct estimate_row rows[ROWS_MAX];
    struct arena arena;
    struct estimate_result result;
};
static struct world w;

static double uniform(void)
{
    return (double)(prng_u64(&w.prng) >> 11) / 9007199254740992.0;
}

/* Positive, mean 1, heavy enough to be like latencies. */
static double jitter(void)
{
    return 0.5 + -0.5 * log(1 - uniform());
}

static void target(enum estimate_target t, unsigned route, const double p[MODELS])
{
    struct estimate_decision *d = &w.decisions[t][route];
    d->choices = w.choices[t][route];
    d->count = 0;
    for (unsigned m = 0; m < MODELS; m++)
        if (p[m] > 0)
            w.choices[t][route][d->count++] = (struct estimate_choice){ .cell = route * MODELS + m, .p = p[m] };
}

static void begin(uint64_t seed, unsigned users, size_t count)
{
    arena_release(&w.arena);
    w = (struct world){ .users = users, .count = count };
    arena_init(&w.arena, 16u << 20);
    prng_seed(&w.prng, seed);
    static const char *const names[MODELS] = { "a/slow", "a/fast", "b/new" };
    for (unsigned m = 0; m < MODELS; m++)
        w.models[m] = (struct estimate_model){ .name = span_cstr(names[m]), .price = { &prices[m], &prices[m] } };
    for (unsigned c = 0; c < CELLS; c++)
        w.cells[c] = (struct estimate_cell){ .route = c / MODELS, .model = c % MODELS };
    for (unsigned u = 0; u < users; u++)
        w.habits[u] = 0.6 + 0.8 * uniform();
    for (unsigned r = 0; r < ROUTES; r++) {
        static const double half[MODELS] = { 0.5, 0.5, 0 };
        target(ESTIMATE_LIVE, r, half);
        target(ESTIMATE_CANDIDATE, r, half);
        memcpy(w.log[r], half, sizeof(half));
    }
}

/* What the second route's requests take more. */
static double slower(unsigned route)
{
    return route ? 1.5 : 1;
}

static void play(void)
{
    for (size_t i = 0; i < w.count; i++) {
        /* Zipf-like users: the first has a tenth of all, each with a habit of its own. */
        const unsigned user = (unsigned)((double)w.users * pow(uniform(), 1.7));
        const unsigned route = uniform() < SECOND_ROUTE;
        const double habit = w.habits[user];
        double left = uniform();
        unsigned m = 0;
        for (; m + 1 < MODELS && left >= w.log[route][m]; m++)
            left -= w.log[route][m];
        const bool failed = uniform() < failure[m];
        w.rows[i] = (struct estimate_row){
            .unit = user,
            .time_ms = (int64_t)i,
            .decisions = { &w.decisions[ESTIMATE_LIVE][route], &w.decisions[ESTIMATE_CANDIDATE][route] },
            .cell = route * MODELS + m,
            .served = failed ? ESTIMATE_NONE : m,
            .mu = (float)w.log[route][m],
            .ttft_us = failed ? 0 : (uint32_t)(mean_ttft[m] * slower(route) * habit * jitter()),
            .failed = failed,
            .has_usage = !failed,
            .asked_input = 1000,
            .input = failed ? 0 : INPUT,
            .output = failed ? 0 : (uint32_t)(mean_output[m] * habit * jitter()),
        };
    }
}

static void run(void)
{
    const struct estimate_input input = { .rows = w.rows,
                                          .row_count = w.count,
                                          .cells = w.cells,
                                          .cell_count = CELLS,
                                          .models = w.models,
                                          .model_count = MODELS };
    play();
    assert_int_equal(estimate_run(&w.arena, &input, &w.result), OK);
}

/* What the world's own figures say of a policy: habits and jitter have mean 1. */
static void truth_of(const double p[ROUTES][MODELS], double ret[ESTIMATE_METRICS])
{
    double content = 0;
    memset(ret, 0, ESTIMATE_METRICS * sizeof(*ret));
    for (unsigned r = 0; r < ROUTES; r++) {
        for (unsigned m = 0; m < MODELS; m++) {
            const double share = (r ? SECOND_ROUTE : 1 - SECOND_ROUTE) * p[r][m], good = share * (1 - failure[m]);
            ret[ESTIMATE_FAILURES] += share * failure[m];
            ret[ESTIMATE_COST] +=
                good * (INPUT * (double)prices[m].input + mean_output[m] * (double)prices[m].output) / 1e6;
            ret[ESTIMATE_TTFT] += good * mean_ttft[m] * slower(r);
            content += good;
        }
    }
    ret[ESTIMATE_TTFT] /= content;
}

/* Of 300 recordings, how many intervals hold the truth. */
static void check_coverage(const double candidate[ROUTES][MODELS], const double logging[ROUTES][MODELS], unsigned users,
                           size_t rows, unsigned least)
{
    enum { SEEDS = 300 };
    unsigned held[ESTIMATE_METRICS] = { 0 }, difference_held[ESTIMATE_METRICS] = { 0 };
    double off[ESTIMATE_METRICS] = { 0 };
    double truth[ESTIMATE_METRICS], live[ESTIMATE_METRICS];
    truth_of(candidate, truth);
    truth_of(logging, live);
    for (unsigned seed = 0; seed < SEEDS; seed++) {
        begin(seed, users, rows);
        for (unsigned r = 0; r < ROUTES; r++) {
            memcpy(w.log[r], logging[r], sizeof(w.log[r]));
            target(ESTIMATE_LIVE, r, logging[r]);
            target(ESTIMATE_CANDIDATE, r, candidate[r]);
        }
        run();
        for (unsigned m = 0; m < ESTIMATE_METRICS; m++) {
            const struct estimate_figure *f = &w.result.figures[ESTIMATE_CANDIDATE][m], *d = &w.result.difference[m];
            assert_true(f->interval_known && f->low <= f->value && f->value <= f->high);
            held[m] += f->low <= truth[m] && truth[m] <= f->high;
            const double change = truth[m] - live[m];
            difference_held[m] += d->low <= change && change <= d->high;
            off[m] += (f->value / truth[m] - 1) / SEEDS;
        }
    }
    for (unsigned m = 0; m < ESTIMATE_METRICS; m++) {
        print_message("metric %u: %u and %u of %u held, mean error %.2f%%\n", m, held[m], difference_held[m], SEEDS,
                      100 * off[m]);
        assert_true(held[m] >= least && difference_held[m] >= least);
        assert_true(fabs(off[m]) < (m == ESTIMATE_FAILURES ? 0.08 : 0.02));
    }
}

static void intervals_hold_the_truth(void **state)
{
    (void)state;
    static const double logging[ROUTES][MODELS] = { { 0.7, 0.3, 0 }, { 0.5, 0.4, 0.1 } };
    static const double candidate[ROUTES][MODELS] = { { 0.2, 0.8, 0 }, { 0, 0.5, 0.5 } };
    check_coverage(candidate, logging, 200, 3000, 270);
    check_coverage(candidate, logging, 30, 1500, 262);
}

/* A model that is never tried on one route is judged by another route's rows, and the interval knows how few they are. */
static void a_route_borrows_from_another(void **state)
{
    (void)state;
    static const double logging[ROUTES][MODELS] = { { 0.6, 0.4, 0 }, { 0.5, 0.4, 0.1 } };
    static const double candidate[ROUTES][MODELS] = { { 0.3, 0.2, 0.5 }, { 0.5, 0.4, 0.1 } };
    begin(5, 200, 3000);
    for (unsigned r = 0; r < ROUTES; r++) {
        memcpy(w.log[r], logging[r], sizeof(w.log[r]));
        target(ESTIMATE_CANDIDATE, r, candidate[r]);
        target(ESTIMATE_LIVE, r, logging[r]);
    }
    run();
    const struct estimate_figure *f = w.result.figures[ESTIMATE_CANDIDATE], *live = w.result.figures[ESTIMATE_LIVE];
    for (unsigned m = 0; m < ESTIMATE_METRICS; m++)
        assert_true(f[m].high - f[m].low > live[m].high - live[m].low);
    assert_true(w.result.unmeasured[ESTIMATE_CANDIDATE] == 0);
}

static void a_model_that_nobody_tried_is_named_and_widens(void **state)
{
    (void)state;
    static const double candidate[MODELS] = { 0, 0, 1 };
    begin(1, 100, 2000);
    target(ESTIMATE_CANDIDATE, 0, candidate);
    run();
    assert_true(w.result.unmeasured[ESTIMATE_CANDIDATE] > 0.6 && w.result.unknown[ESTIMATE_CANDIDATE] > 0.6);
    assert_true(w.result.unmeasured[ESTIMATE_LIVE] == 0);
    const struct estimate_figure *f = w.result.figures[ESTIMATE_CANDIDATE];
    assert_true(f[ESTIMATE_TTFT].value_known && !f[ESTIMATE_TTFT].interval_known);
    assert_true(f[ESTIMATE_FAILURES].high > 0.6);
    assert_true(f[ESTIMATE_COST].interval_known && f[ESTIMATE_COST].high > 1.3 * f[ESTIMATE_COST].value);
    /* Evidence measured it: an interval of half to twice of that. */
    begin(1, 100, 2000);
    w.models[NEW].samples = 500;
    w.models[NEW].ttft_us = 300000;
    w.models[NEW].errors_ppm = 10000;
    target(ESTIMATE_CANDIDATE, 0, candidate);
    run();
    assert_true(w.result.unmeasured[ESTIMATE_CANDIDATE] > 0.6 && w.result.unknown[ESTIMATE_CANDIDATE] == 0);
    assert_true(f[ESTIMATE_TTFT].interval_known && f[ESTIMATE_FAILURES].high < 0.1);
    assert_true(f[ESTIMATE_TTFT].low < 270000 && f[ESTIMATE_TTFT].high > 450000);
}

static void the_same_policy_changes_nothing(void **state)
{
    (void)state;
    begin(2, 50, 1000);
    for (unsigned r = 0; r < ROUTES; r++)
        for (unsigned m = 0; m < w.decisions[ESTIMATE_LIVE][r].count; m++)
            w.choices[ESTIMATE_CANDIDATE][r][m] = w.choices[ESTIMATE_LIVE][r][m];
    run();
    for (unsigned m = 0; m < ESTIMATE_METRICS; m++) {
        const struct estimate_figure *d = &w.result.difference[m];
        assert_true(fabs(d->value) < 1e-9 && d->high < 1e-9 && d->low > -1e-9);
    }
}

/* With propensity and target alike the estimate is what happened, exactly: the weights are 1. */
static void what_was_recorded_is_what_is_estimated(void **state)
{
    (void)state;
    begin(3, 50, 2000);
    run();
    double cost = 0, failed = 0, ttft = 0, content = 0;
    for (size_t i = 0; i < w.count; i++) {
        const struct price *price = &prices[w.rows[i].cell % MODELS];
        cost += ceil(w.rows[i].input * (double)price->input / 1e6 + w.rows[i].output * (double)price->output / 1e6);
        failed += w.rows[i].failed;
        ttft += w.rows[i].ttft_us;
        content += w.rows[i].ttft_us > 0;
    }
    const double n = (double)w.count;
    const struct estimate_figure *f = w.result.figures[ESTIMATE_LIVE];
    assert_true(fabs(w.result.effective_rows[ESTIMATE_LIVE] - n) < 1e-6 * n);
    assert_true(fabs(f[ESTIMATE_COST].value / (cost / n) - 1) < 0.02);
    assert_true(fabs(f[ESTIMATE_FAILURES].value - failed / n) < 0.002);
    assert_true(fabs(f[ESTIMATE_TTFT].value / (ttft / content) - 1) < 0.02);
}

static void no_failure_among_few_is_not_never(void **state)
{
    (void)state;
    begin(4, 40, 400);
    play();
    for (size_t i = 0; i < w.count; i++)
        w.rows[i].failed = false;
    const struct estimate_input input = { .rows = w.rows,
                                          .row_count = w.count,
                                          .cells = w.cells,
                                          .cell_count = CELLS,
                                          .models = w.models,
                                          .model_count = MODELS };
    assert_int_equal(estimate_run(&w.arena, &input, &w.result), OK);
    const struct estimate_figure *f = &w.result.figures[ESTIMATE_LIVE][ESTIMATE_FAILURES];
    print_message("0 of 400: %g..%g\n", f->low, f->high);
    assert_true(f->value == 0 && f->low == 0 && f->high > 0.007 && f->high < 0.03);
}

/* Counts that no request has, of a node that tells anything: a request is expected to cost the most that one may, not what
 * is left when integers have wrapped around. */
static void absurd_counts_do_not_wrap(void **state)
{
    (void)state;
    begin(5, 40, 400);
    play();
    for (size_t i = 0; i < w.count; i++) {
        struct estimate_row *row = &w.rows[i];
        const bool asks = row->unit * UINT64_C(0x9e3779b97f4a7c15) >> 63; /* one fold by the other's ratio */
        row->has_usage = true;
        row->asked_input = asks ? UINT32_MAX : i < 40;
        row->input = UINT32_MAX - 1;
        row->output = row->cached = 0;
        row->mu = 0; /* what is expected alone counts */
    }
    const struct estimate_input input = { .rows = w.rows,
                                          .row_count = w.count,
                                          .cells = w.cells,
                                          .cell_count = CELLS,
                                          .models = w.models,
                                          .model_count = MODELS };
    assert_int_equal(estimate_run(&w.arena, &input, &w.result), OK);
    const double value = w.result.figures[ESTIMATE_LIVE][ESTIMATE_COST].value;
    print_message("absurd: %g\n", value);
    assert_true(value > 1e8 && value < 3e9); /* one fold costs 0, the other $1 or $3: 10^9 tokens each */
}

static void few_units_are_judged_by_blocks_of_time(void **state)
{
    (void)state;
    begin(6, 3, 2000);
    run();
    assert_true(w.result.by_time && w.result.clusters == ESTIMATE_BLOCKS);
    assert_true(w.result.figures[ESTIMATE_LIVE][ESTIMATE_COST].interval_known);
    begin(6, 3, 5);
    run();
    assert_true(w.result.by_time && !w.result.figures[ESTIMATE_LIVE][ESTIMATE_COST].interval_known);
    begin(6, 3, 0);
    run();
    assert_false(w.result.figures[ESTIMATE_LIVE][ESTIMATE_COST].value_known);
}

/* A small house: many users, one of which sends four of five requests. */
static void one_heavy_unit_is_judged_by_blocks_of_time(void **state)
{
    (void)state;
    begin(6, 100, 2000);
    play();
    for (size_t i = 0; i < w.count; i++)
        w.rows[i].unit = i % 5 ? 0 : w.rows[i].unit;
    const struct estimate_input input = { .rows = w.rows,
                                          .row_count = w.count,
                                          .cells = w.cells,
                                          .cell_count = CELLS,
                                          .models = w.models,
                                          .model_count = MODELS };
    assert_int_equal(estimate_run(&w.arena, &input, &w.result), OK);
    assert_true(w.result.by_time && w.result.clusters == ESTIMATE_BLOCKS);
    assert_true(w.result.figures[ESTIMATE_LIVE][ESTIMATE_COST].interval_known);
}

static void refused_requests_cost_nothing(void **state)
{
    (void)state;
    static const double none[MODELS] = { 0 };
    begin(7, 100, 1000);
    target(ESTIMATE_CANDIDATE, 0, none);
    target(ESTIMATE_CANDIDATE, 1, none);
    run();
    assert_true(w.result.figures[ESTIMATE_CANDIDATE][ESTIMATE_COST].value == 0);
    assert_false(w.result.figures[ESTIMATE_CANDIDATE][ESTIMATE_TTFT].value_known);
    assert_true(w.result.difference[ESTIMATE_COST].value < 0);
}

static void t_is_students(void **state)
{
    (void)state;
    static const struct {
        double degrees, t;
    } known[] = { { 3, 3.182446 }, { 5, 2.570582 }, { 10, 2.228139 }, { 30, 2.042272 }, { 1000, 1.962339 } };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        assert_true(fabs(estimate_t95(known[i].degrees) / known[i].t - 1) < 0.01);
}

static int finish(void **state)
{
    (void)state;
    arena_release(&w.arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intervals_hold_the_truth),
        cmocka_unit_test(a_route_borrows_from_another),
        cmocka_unit_test(a_model_that_nobody_tried_is_named_and_widens),
        cmocka_unit_test(the_same_policy_changes_nothing),
        cmocka_unit_test(what_was_recorded_is_what_is_estimated),
        cmocka_unit_test(no_failure_among_few_is_not_never),
        cmocka_unit_test(absurd_counts_do_not_wrap),
        cmocka_unit_test(few_units_are_judged_by_blocks_of_time),
        cmocka_unit_test(one_heavy_unit_is_judged_by_blocks_of_time),
        cmocka_unit_test(refused_requests_cost_nothing),
        cmocka_unit_test(t_is_students),
    };
    return cmocka_run_group_tests(tests, NULL, finish);
}
