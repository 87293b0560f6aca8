#include "controlplane/evidence/telemetry.h"
#include "common/fault.h"
#include "common/hist.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include "tests/unit/controlplane/journal/heard.h"

#define T0 INT64_C(1800000000000)

static struct telemetry *telemetry;

static int setup(void **state)
{
    (void)state;
    return telemetry_new(&telemetry);
}

static int teardown(void **state)
{
    (void)state;
    fault_disarm_all();
    telemetry_free(telemetry);
    return 0;
}

static enum err report(const char *node, const char *incarnation, uint64_t seq, struct model_telemetry *m,
                       uint32_t count, int64_t now_ms)
{
    const char *why = NULL;
    const struct evidence_report r = { .source = EVIDENCE_FROM_NODE,
                                       .sender = span_cstr(node),
                                       .incarnation = span_cstr(incarnation),
                                       .seq = seq,
                                       .telemetry = m,
                                       .telemetry_count = count };
    enum err err = telemetry_take(telemetry, &r, now_ms, &why);
    assert_true((err == ERR_INVALID) == (why != NULL));
    return err;
}

/* attempts all of which had a TTFT of ttft_us each. */
static struct model_telemetry totals(uint64_t attempts, uint64_t failures, uint64_t ttft_us)
{
    return (struct model_telemetry){ .model = SPAN("p/m"),
                                     .attempts = attempts,
                                     .failures = failures,
                                     .ttft_count = attempts,
                                     .ttft_sum_us = attempts * ttft_us,
                                     .gap_count = 10 * attempts,
                                     .gap_sum_us = 10 * attempts * 20000,
                                     .remaining_ppm = 1000001 };
}

static struct telemetry_view look(int64_t now_ms)
{
    struct telemetry_view v;
    assert_true(telemetry_view(telemetry, SPAN("p/m"), now_ms, &v));
    return v;
}

static void differences_count_once(void **state)
{
    (void)state;
    struct model_telemetry a = totals(10, 1, 1000), b = totals(20, 2, 1000);
    assert_int_equal(report("n", "i", 1, &a, 1, T0), OK);
    assert_int_equal(report("n", "i", 1, &a, 1, T0), ERR_STALE); /* repeated */
    assert_int_equal(look(T0).samples, 10);
    assert_int_equal(report("n", "i", 3, &b, 1, T0), OK);        /* one was lost */
    assert_int_equal(report("n", "i", 2, &a, 1, T0), ERR_STALE); /* overtaken */
    struct telemetry_view v = look(T0);
    assert_int_equal(v.samples, 20);
    assert_int_equal(v.errors_ppm, 100000);
    assert_int_equal(v.ttft_ewma_us, 1000);
    assert_int_equal(v.token_gap_us, 20000);
    assert_int_equal(v.remaining_ppm, 1000001);
    struct telemetry_view none;
    assert_false(telemetry_view(telemetry, SPAN("p/x"), T0, &none));
}

static void breakers_and_crashes_are_told(void **state)
{
    (void)state;
    struct heard heard = { .count = 0 };
    const struct event_sink sink = { .happened = heard_take, .user = &heard };
    struct model_telemetry m = totals(10, 1, 1000);
    telemetry_tell(telemetry, &sink);
    assert_int_equal(report("n", "i", 1, &m, 1, T0), OK);
    assert_heard(&heard, "");
    m.breaker_open = 1;
    assert_int_equal(report("n", "i", 2, &m, 1, T0), OK);
    assert_int_equal(report("n", "i", 2, &m, 1, T0), ERR_STALE);
    assert_int_equal(report("n", "i", 3, &m, 1, T0), OK);
    assert_heard(&heard, "breaker p/m|is ejected: its breaker opened|failures in a row, or half of its attempts|n\n");
    m.breaker_open = 0;
    assert_int_equal(report("n", "i", 4, &m, 1, T0), OK);
    assert_heard(&heard, "breaker p/m|is let in again: its breaker closed, or tries it||n\n");
    const char *why = NULL;
    struct evidence_report r = {
        .source = EVIDENCE_FROM_NODE, .sender = SPAN("n"), .incarnation = SPAN("i"), .seq = 5, .worker_crashes = 1
    };
    assert_int_equal(telemetry_take(telemetry, &r, T0, &why), OK);
    assert_int_equal(telemetry_take(telemetry, &r, T0, &why), ERR_STALE);
    r.seq++;
    r.worker_crashes = 3;
    assert_int_equal(telemetry_take(telemetry, &r, T0, &why), OK);
    assert_heard(&heard, "worker n|had a worker crash||n\nworker n|had 2 workers crash||n\n");
    r.incarnation = SPAN("j"); /* what crashed before we listened is not now */
    r.seq = 7;
    r.worker_crashes = 9;
    assert_int_equal(telemetry_take(telemetry, &r, T0, &why), OK);
    assert_heard(&heard, "");
    telemetry_tell(telemetry, NULL);
}

static void nodes_add_up(void **state)
{
    (void)state;
    struct model_telemetry a = totals(10, 0, 1000), b = totals(30, 0, 5000);
    a.remaining_ppm = 700000;
    b.remaining_ppm = 300000;
    b.breaker_open = 1;
    assert_int_equal(report("n1", "i", 1, &a, 1, T0), OK);
    assert_int_equal(report("n2", "i", 1, &b, 1, T0), OK);
    struct telemetry_view v = look(T0);
    assert_int_equal(v.samples, 40);
    assert_int_equal(v.ttft_ewma_us, 4000);
    assert_int_equal(v.remaining_ppm, 300000);
    assert_int_equal(v.breakers_open, 1);
    assert_int_equal(look(T0 + TELEMETRY_FRESH_MS + 1).breakers_open, 0);
    assert_int_equal(telemetry_nodes(telemetry), 2);
    telemetry_age(telemetry, T0 + TELEMETRY_GONE_MS + 1);
    assert_int_equal(telemetry_nodes(telemetry), 0);
    telemetry_age(telemetry, T0 + 3 * TELEMETRY_GONE_MS);
    assert_false(telemetry_view(telemetry, SPAN("p/m"), T0 + 3 * TELEMETRY_GONE_MS, &v));
}

static void restarts_begin_at_zero(void **state)
{
    (void)state;
    struct model_telemetry a = totals(1000, 0, 1000), b = totals(1010, 0, 1000), c = totals(5, 5, 1000);
    assert_int_equal(report("n", "old", 50, &a, 1, T0), OK); /* we are new: its past is not now */
    assert_int_equal(look(T0).samples, 0);
    assert_int_equal(report("n", "old", 51, &b, 1, T0), OK);
    assert_int_equal(look(T0).samples, 10);
    assert_int_equal(report("n", "new", 1, &c, 1, T0), OK); /* less than before: another life */
    struct telemetry_view v = look(T0);
    assert_int_equal(v.samples, 15);
    assert_int_equal(v.errors_ppm, 333333);
    assert_int_equal(report("n", "old", 52, &b, 1, T0), ERR_STALE); /* a late message of the dead */
    assert_int_equal(look(T0).samples, 15);
}

static void nonsense_is_refused_whole(void **state)
{
    (void)state;
    struct model_telemetry two[2] = { totals(10, 1, 1000), totals(10, 1, 1000) };
    uint64_t short_buckets[3] = { 0 };
    two[1].model = SPAN("p/n");
    assert_int_equal(report("n", "i", 1, two, 2, T0), OK);
    two[0].attempts = 20;
    two[1].failures = 0; /* went down */
    assert_int_equal(report("n", "i", 2, two, 2, T0), ERR_INVALID);
    assert_int_equal(look(T0).samples, 10);
    two[1].failures = 1;
    two[1].ttft_buckets = short_buckets;
    two[1].ttft_bucket_count = 3;
    assert_int_equal(report("n", "i", 2, two, 2, T0), ERR_INVALID);
    two[1].ttft_bucket_count = 0;
    two[1].model = two[0].model; /* its difference to the first would be below zero */
    assert_int_equal(report("n", "i", 2, two, 2, T0), ERR_INVALID);
    two[1].model = SPAN("");
    assert_int_equal(report("n", "i", 2, two, 2, T0), ERR_INVALID);
    two[1].model = SPAN("p/n");
    two[1].ttft_buckets = NULL;
    assert_int_equal(report("n", "i", 2, two, 2, T0), OK); /* refused numbers are not used up */
    assert_int_equal(look(T0).samples, 20);
}

static void the_past_fades(void **state)
{
    (void)state;
    struct model_telemetry a = totals(100, 100, 9000), b;
    assert_int_equal(report("n", "i", 1, &a, 1, T0), OK);
    assert_int_equal(look(T0).errors_ppm, 1000000);
    b = totals(200, 100, 9000);
    b.ttft_sum_us = a.ttft_sum_us + 100 * 1000;
    assert_int_equal(report("n", "i", 2, &b, 1, T0 + TELEMETRY_HALF_LIFE_MS), OK);
    struct telemetry_view v = look(T0 + TELEMETRY_HALF_LIFE_MS);
    assert_int_equal(v.errors_ppm, 333333); /* 50 of 150 */
    assert_int_equal(v.ttft_ewma_us, (50 * 9000 + 100 * 1000) / 150);
    struct telemetry_recent recent = telemetry_recent(telemetry, SPAN("p/m"), T0 + TELEMETRY_HALF_LIFE_MS);
    assert_true(recent.attempts > 149.9 && recent.attempts < 150.1);
    assert_true(recent.failures > 49.9 && recent.failures < 50.1);
    assert_int_equal(recent.answered_at_ms, T0 + TELEMETRY_HALF_LIFE_MS);
    recent = telemetry_recent(telemetry, SPAN("p/m"), T0 + 2 * TELEMETRY_HALF_LIFE_MS);
    assert_true(recent.attempts > 74.9 && recent.attempts < 75.1);
    assert_int_equal(look(T0 + 4 * TELEMETRY_SLOT_MS).samples, 200);
    v = look(T0 + 7 * TELEMETRY_SLOT_MS);
    assert_int_equal(v.samples, 0);
    assert_int_equal(v.errors_ppm, 0);
}

static void a_clock_set_back_stops_nothing(void **state)
{
    (void)state;
    const int64_t hour = 3600000;
    struct model_telemetry a = totals(100, 100, 9000), b = totals(101, 100, 9000);
    assert_int_equal(report("n", "i", 1, &a, 1, T0 + hour), OK);
    assert_int_equal(report("n", "i", 2, &b, 1, T0), OK);
    struct telemetry_recent recent =
        telemetry_recent(telemetry, SPAN("p/m"), T0 + 10 * (int64_t)TELEMETRY_HALF_LIFE_MS);
    assert_true(recent.attempts < 1);
    assert_int_equal(recent.answered_at_ms, T0);
}

static void quantiles_come_from_histograms(void **state)
{
    (void)state;
    uint64_t buckets[HIST_BUCKETS] = { 0 };
    struct model_telemetry a = totals(100, 0, 1000);
    a.ttft_buckets = buckets;
    a.ttft_bucket_count = HIST_BUCKETS;
    buckets[hist_bucket(1000)] = 90;
    buckets[hist_bucket(50000)] = 10;
    assert_int_equal(report("n", "i", 1, &a, 1, T0), OK);
    assert_int_equal(look(T0).ttft_p95_us, hist_bucket_ceiling(hist_bucket(50000)));
    a = totals(1100, 0, 1000);
    a.ttft_buckets = buckets;
    a.ttft_bucket_count = HIST_BUCKETS;
    buckets[hist_bucket(1000)] = 1090;
    assert_int_equal(report("n", "i", 2, &a, 1, T0 + 1000), OK);
    assert_int_equal(look(T0 + 1000).ttft_p95_us, hist_bucket_ceiling(hist_bucket(1000)));
    assert_int_equal(look(T0 + 10 * TELEMETRY_SLOT_MS).ttft_p95_us, 0);
    buckets[hist_bucket(1000)] = 1;
    a.attempts++;
    assert_int_equal(report("n", "i", 3, &a, 1, T0 + 2000), ERR_INVALID);
}

static void survives_no_memory(void **state)
{
    (void)state;
    uint64_t buckets[HIST_BUCKETS] = { [100] = 3 };
    enum err err = ERR_NOMEM;
    for (uint64_t n = 0; err != OK; n++) {
        struct model_telemetry a = totals(3, 0, 1000);
        a.ttft_buckets = buckets;
        a.ttft_bucket_count = HIST_BUCKETS;
        assert_true(n < 50);
        fault_arm(FAULT_ALLOC, n, 1);
        err = report("n", "i", n + 1, &a, 1, T0);
        fault_disarm_all();
        assert_true(err == OK || err == ERR_NOMEM);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(differences_count_once),
        TEST(nodes_add_up),
        TEST(breakers_and_crashes_are_told),
        TEST(nodes_add_up),
        TEST(restarts_begin_at_zero),
        TEST(nonsense_is_refused_whole),
        TEST(the_past_fades),
        TEST(quantiles_come_from_histograms),
        TEST(survives_no_memory),
        TEST(a_clock_set_back_stops_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
