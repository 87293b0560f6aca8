/* Nodes' pages as figures: what is read, summed, compared, and the quantiles of it. */
#include "admin-cli/top_sample.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct top_sample a, b;
static struct arena arena;
static struct top_change change;

static int set_up(UNUSED void **state)
{
    top_sample_begin(&a, 1000);
    top_sample_begin(&b, 3000);
    arena_init(&arena, 1u << 26);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    top_sample_release(&a);
    top_sample_release(&b);
    top_sample_release(&b); /* twice is fine */
    arena_release(&arena);
    return 0;
}

static void add(struct top_sample *sample, const char *page)
{
    assert_int_equal(top_sample_add(sample, span_cstr(page)), OK);
}

static void compare(void)
{
    assert_int_equal(top_compare(&arena, &a, &b, &change), OK);
}

#define LABELS(route, model) "{team=\"t\",route=\"" route "\",provider=\"p\",model=\"" model "\""
#define REQUESTS(route, model, outcome, n)                                                                             \
    "fairlead_requests_total" LABELS(route, model) ",outcome=\"" outcome "\"} " n "\n"
#define BUCKET(le, n) "fairlead_ttft_seconds_bucket{route=\"chat\",provider=\"p\",model=\"p/m\",le=\"" le "\"} " n "\n"

static void sums_and_differences(UNUSED void **state)
{
    add(&a, "# HELP fairlead_requests_total Requests.\n" REQUESTS("chat", "p/m", "ok", "10"));
    add(&b,
        REQUESTS("chat", "p/m", "ok", "30") REQUESTS("chat", "p/m", "error", "5") REQUESTS(
            "chat", "p/m", "client_error", "4") REQUESTS("chat", "p/m", "cancelled", "2") REQUESTS("code", "p/m", "ok",
                                                                                                   "7")
            REQUESTS("code", "p/n", "truncated", "1") "fairlead_attempts_total" LABELS(
                "chat",
                "p/m") "} 50\n"
                       "fairlead_attempt_failures_total" LABELS(
                           "chat",
                           "p/m") "} 6\n"
                                  "fairlead_tokens_total" LABELS(
                                      "chat",
                                      "p/m") ",kind=\"output\"} 800\n"
                                             "fairlead_tokens_total" LABELS(
                                                 "chat",
                                                 "p/m") ",kind=\"input\"} 999\n"
                                                        "fairlead_cost_usd_total" LABELS(
                                                            "chat",
                                                            "p/m") "} 0.25\n"
                                                                   "fairlead_cost_list_usd_total" LABELS(
                                                                       "chat",
                                                                       "p/m") "} 0.5\n"
                                                                              "fairlead_requests_open "
                                                                              "3\nfairlead_streams_open "
                                                                              "2\nfairlead_connections_open 9\n"
                                                                              "fairlead_breaker_state{provider=\"p\","
                                                                              "model=\"p/m\",state=\"closed\"} 0\n"
                                                                              "fairlead_breaker_state{provider=\"p\","
                                                                              "model=\"p/m\",state=\"open\"} 1\n"
                                                                              "other_total{route=\"chat\"} 1000\n");
    compare();
    assert_float_equal(change.seconds, 2, 0);
    assert_int_equal(change.route_count, 2);
    assert_int_equal(change.model_count, 2);
    const struct top_row *chat = &change.routes[0];
    assert_true(span_eq(chat->name, SPAN("chat")));
    assert_float_equal(chat->requests, 31, 0); /* 41 less 10 */
    assert_float_equal(chat->ok, 20, 0);
    assert_float_equal(chat->errors, 5, 0); /* the client's own are none of ours */
    assert_float_equal(chat->cancelled, 2, 0);
    assert_float_equal(chat->attempts, 50, 0);
    assert_float_equal(chat->failures, 6, 0);
    assert_float_equal(chat->output_tokens, 800, 0);
    assert_float_equal(chat->cost, 0.25, 0);
    assert_float_equal(chat->list, 0.5, 0);
    assert_float_equal(change.routes[1].requests, 8, 0);
    assert_float_equal(change.routes[1].errors, 1, 0); /* whatever else went wrong */
    assert_float_equal(change.models[0].requests, 38, 0);
    assert_float_equal(change.all.requests, 39, 0);
    assert_float_equal(b.requests_open, 3, 0);
    assert_float_equal(b.streams_open, 2, 0);
    assert_int_equal(b.breaker_count, 1);
    assert_true(span_eq(b.breakers[0].model, SPAN("p/m")) && span_eq(b.breakers[0].state, SPAN("open")));
}

static void several_nodes(UNUSED void **state)
{
    add(&b, REQUESTS("chat", "p/m", "ok", "10") "fairlead_requests_open 1\n");
    add(&b, REQUESTS("chat", "p/m", "ok", "5") REQUESTS("new", "p/m", "ok", "1") "fairlead_requests_open 2\n");
    assert_int_equal(b.nodes, 2);
    assert_float_equal(b.routes.rows[0].requests, 15, 0);
    assert_float_equal(b.models.rows[0].requests, 16, 0);
    assert_float_equal(b.requests_open, 3, 0);
}

static void a_counter_that_began_anew(UNUSED void **state)
{
    add(&a, REQUESTS("chat", "p/m", "ok", "100"));
    add(&b, REQUESTS("chat", "p/m", "ok", "4"));
    compare();
    assert_float_equal(change.all.requests, 4, 0);
}

static void quantiles(UNUSED void **state)
{
    add(&a, BUCKET("0.1", "100") BUCKET("0.2", "100") BUCKET("1", "100") BUCKET("+Inf", "100"));
    add(&b, BUCKET("0.1", "110") BUCKET("0.2", "130") BUCKET("1", "138") BUCKET("+Inf", "140"));
    compare();
    const struct top_row *row = &change.models[0];
    assert_float_equal(top_quantile(&b, row, 0.25), 0.1, 1e-9);
    assert_float_equal(top_quantile(&b, row, 0.5), 0.15, 1e-9);
    assert_float_equal(top_quantile(&b, row, 0.95), 1, 1e-9);
    assert_float_equal(top_quantile(&b, row, 0.99), 1, 1e-9); /* beyond the last edge: at least that */
    const struct top_row none = { 0 };
    assert_true(isnan(top_quantile(&b, &none, 0.5)));
    struct top_sample empty = { 0 };
    assert_true(isnan(top_quantile(&empty, row, 0.5)));
}

/* Pages are for looking at: what is malformed is passed over, whatever it is. */
static void malformed(UNUSED void **state)
{
    add(&b, "\n{\nfairlead_requests_total\nfairlead_requests_total{\nfairlead_requests_total{route=\n"
            "fairlead_requests_total{route=\"chat\nfairlead_requests_total{route=\"chat\"\n"
            "fairlead_requests_total{route=\"chat\"}\nfairlead_requests_total{route=\"chat\"} x\n"
            "fairlead_requests_total{a=\"\",b=\"\",c=\"\",d=\"\",e=\"\",f=\"\",g=\"\",h=\"\",i=\"\",j=\"\",k=\"\",l="
            "\"\",route=\"chat\"} 1\n"
            "fairlead_ttft_seconds_bucket{route=\"chat\",le=\"x\"} 1\n"
            "fairlead_ttft_seconds_bucket{route=\"chat\",le=\"2\"} "
            "1\nfairlead_ttft_seconds_bucket{route=\"chat\",le=\"1\"} 1\n"
            "fairlead_requests_total{route=\"a\\\"b\\\\\",outcome=\"ok\"} 3 1700000000\n");
    assert_int_equal(b.routes.count, 2);
    assert_true(span_eq(b.routes.rows[0].name, SPAN("chat"))); /* of the histogram */
    assert_float_equal(b.routes.rows[0].requests, 0, 0);
    assert_float_equal(b.routes.rows[1].requests, 3, 0);
    assert_int_equal(b.edge_count, 1);
    for (unsigned cut = 0; cut < 60; cut++) {
        static const char line[] = "fairlead_requests_total{route=\"chat\",outcome=\"ok\"} 12345.5e1";
        char *copy = malloc(cut + 1); /* so that a byte read beyond is noticed */
        assert_non_null(copy);
        memcpy(copy, line, cut);
        assert_int_equal(top_sample_add(&a, span_of(copy, cut)), OK);
        free(copy);
    }
}

static void too_many_rows(UNUSED void **state)
{
    char line[128];
    for (unsigned i = 0; i < TOP_ROWS_MAX; i++) {
        snprintf(line, sizeof(line), "fairlead_requests_total{route=\"r%u\",outcome=\"ok\"} 1\n", i);
        add(&b, line);
    }
    assert_int_equal(top_sample_add(&b, SPAN("fairlead_requests_total{route=\"x\",outcome=\"ok\"} 1\n")), ERR_TOO_MANY);
    assert_int_equal(b.routes.count, TOP_ROWS_MAX);
    assert_true(span_eq(b.routes.rows[777].name, SPAN("r777")));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(sums_and_differences),
        TEST(several_nodes),
        TEST(a_counter_that_began_anew),
        TEST(quantiles),
        TEST(malformed),
        TEST(too_many_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
