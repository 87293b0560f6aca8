/* The pages of a node: here, what no system test can bring about. */
#include "dataplane/node/metrics.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

#define WALL_MS INT64_C(1800000000000)

struct world {
    char path[64];
    struct board *board;
    struct node_config config;
    struct tally ended;
    struct supervisor supervisor;
    struct replica replica;
    struct records records;
    struct shipper shipper;
    struct buf page;
};

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    (void)snprintf(w->path, sizeof(w->path), "/dev/shm/fl-metrics-%ld", (long)getpid());
    assert_int_equal(board_create(w->path, 1, &w->board), OK);
    buf_init(&w->page, METRICS_BYTES_MAX);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    buf_release(&w->page);
    tally_release(&w->ended);
    board_close(w->board);
    (void)unlink(w->path);
    free(w);
    return 0;
}

static const char *page(struct world *w)
{
    const struct metrics_source source = { .config = &w->config,
                                           .board = w->board,
                                           .ended = &w->ended,
                                           .supervisor = &w->supervisor,
                                           .replica = &w->replica,
                                           .records = &w->records,
                                           .shipper = &w->shipper,
                                           .listen = "",
                                           .wall_ms = WALL_MS };
    buf_clear(&w->page);
    assert_int_equal(metrics_write(&source, &w->page), OK);
    return buf_cstr(&w->page);
}

static void shows(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("no %s in %s", line, strstr(text, "# HELP fairlead_certificate"));
}

static void certificates_by_provider(void **state)
{
    static const char *const models[] = { "zeta/m", "alpha/m", "zeta/n", "plain/m", "zeta/a/b", "gone/m" };
    static const int64_t expires_ms[] = { 9000, 50000, 2500, 0, 7000, -1500 }; /* from now; 0: unknown */
    struct world *w = *state;
    const char *text = page(w);
    shows(text, "# HELP fairlead_certificate_expires_seconds ");
    shows(text, "# TYPE fairlead_certificate_expires_seconds gauge\n");
    assert_null(strstr(text, "fairlead_certificate_expires_seconds{"));
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        const uint32_t label = board_label_add(w->board, BOARD_LABEL_MODEL, span_cstr(models[i]));
        if (expires_ms[i])
            board_certificate_seen(board_model(w->board, label), WALL_MS + expires_ms[i], 1);
    }
    text = page(w);
    shows(text, "\nfairlead_certificate_expires_seconds{provider=\"alpha\"} 50.000\n"
                "fairlead_certificate_expires_seconds{provider=\"gone\"} -1.500\n"
                "fairlead_certificate_expires_seconds{provider=\"zeta\"} 2.500\n");
    assert_null(strstr(text, "fairlead_certificate_expires_seconds{provider=\"plain\"}"));
}

static void counters_by_arm(void **state)
{
    struct world *w = *state;
    unsigned number;
    assert_int_equal(board_region_take(w->board, &number), OK);
    struct board_region *region = board_region(w->board, number);
    for (uint64_t shadow = 0; shadow < 2; shadow++) {
        struct board_arm *arm =
            board_arm(region, &(struct board_arm_id){ .version = 18, .shadow = shadow == 1, .name = SPAN("can\"ary") });
        board_add(&arm->counters[ARM_OK], 7 + shadow);
        board_add(&arm->counters[ARM_COST_NANO], 1000000001);
        board_hist_add(&arm->ttft_us, 1000);
    }
    const char *text = page(w);
    shows(text,
          "\nfairlead_arm_requests_total{policy=\"18\",arm=\"can\\\"ary\",traffic=\"clients\",outcome=\"ok\"} 7\n");
    shows(text,
          "\nfairlead_arm_requests_total{policy=\"18\",arm=\"can\\\"ary\",traffic=\"shadow\",outcome=\"ok\"} 8\n");
    shows(text, "\nfairlead_arm_cost_usd_total{policy=\"18\",arm=\"can\\\"ary\",traffic=\"shadow\"} 1.000000001\n");
    shows(text, "\nfairlead_arm_ttft_seconds_count{policy=\"18\",arm=\"can\\\"ary\",traffic=\"clients\"} 1\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(certificates_by_provider, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(counters_by_arm, set_up, tear_down) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
