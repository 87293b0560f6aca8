#include "proto/record.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/fault.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define BEGINS "{\"time\":\"2025-11-24T16:00:00.123Z\",\"request_id\":\"req_1\""

/* dataplane/account/ledger_test reads what the ledger wrote; here stands what it never writes. */
static enum err read_into(struct arena *arena, const char *line, struct record *record)
{
    arena_reset(arena);
    return record_read(arena, span_cstr(line), record);
}

static int set_up(void **state)
{
    static struct arena arena;
    arena_init(&arena, 1 << 20);
    *state = &arena;
    return 0;
}

static int tear_down(void **state)
{
    arena_release(*state);
    return 0;
}

static void members_come_in_any_order(void **state)
{
    struct record r;
    assert_int_equal(read_into(*state,
                               "{\"total_us\":9,\"usage\":{\"output\":2,\"input\":1},\"team\":\"t\\u0041\","
                               "\"request_id\":\"req_1\",\"time\":\"2025-11-24T16:00:00Z\",\"unit\":\"ff\"}",
                               &r),
                     OK);
    assert_true(r.total_us == 9 && r.usage_known && r.input == 1 && r.output == 2);
    assert_true(span_eq(r.team, SPAN("tA")) && r.time_ms == 1764000000000);
    assert_true(r.has_unit && r.unit == 255);
}

static void what_is_not_known_is_skipped(void **state)
{
    struct record r;
    assert_int_equal(read_into(*state,
                               BEGINS ",\"later\":{\"a\":[{\"b\":[[1]]}]},\"usage\":{\"new\":null,\"input\":3},"
                                      "\"team\":null,\"unit\":null,\"attempts\":[{\"x\":{},\"model\":\"m\"}]}",
                               &r),
                     OK);
    assert_true(r.input == 3 && r.team.len == 0 && !r.has_unit);
    assert_true(r.attempt_count == 1 && span_eq(r.attempts[0].model, SPAN("m")));
}

static void broken_lines_are_refused_and_leave_nothing(void **state)
{
    static const struct {
        const char *line;
        enum err err;
    } cases[] = {
        { "", ERR_SYNTAX },
        { "[]", ERR_SYNTAX },
        { BEGINS, ERR_SYNTAX },
        { BEGINS "}{}", ERR_SYNTAX },
        { "{}", ERR_INVALID },
        { "{\"time\":\"2025-11-24T16:00:00Z\"}", ERR_INVALID },
        { "{\"request_id\":\"a\"}", ERR_INVALID },
        { "{\"time\":\"now\",\"request_id\":\"a\"}", ERR_INVALID },
        { "{\"time\":\"soon\",\"request_id\":\"a\"}", ERR_INVALID },
        { "{\"time\":12,\"request_id\":\"a\"}", ERR_INVALID },
        { BEGINS ",\"team\":7}", ERR_INVALID },
        { BEGINS ",\"team\":\"\\ud800\"}", ERR_INVALID },
        { BEGINS ",\"status\":-1}", ERR_INVALID },
        { BEGINS ",\"status\":4294967296}", ERR_INVALID },
        { BEGINS ",\"total_us\":1.5}", ERR_INVALID },
        { BEGINS ",\"stream\":0}", ERR_INVALID },
        { BEGINS ",\"unit\":\"0123456789abcdef0\"}", ERR_INVALID },
        { BEGINS ",\"unit\":\"XY\"}", ERR_INVALID },
        { BEGINS ",\"unit\":5}", ERR_INVALID },
        { BEGINS ",\"usage\":[]}", ERR_INVALID },
        { BEGINS ",\"usage\":{\"input\":\"1\"}}", ERR_INVALID },
        { BEGINS ",\"features\":1}", ERR_INVALID },
        { BEGINS ",\"attempts\":{}}", ERR_INVALID },
        { BEGINS ",\"attempts\":[1]}", ERR_INVALID },
        { BEGINS ",\"attempts\":[{},{},{},{},{},{},{},{},{}]}", ERR_INVALID },
        { BEGINS ",\"kind\":7}", ERR_INVALID },
        { BEGINS ",\"kind\":\"tomorrow\"}", ERR_UNSUPPORTED },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct record r = { .status = 77 };
        assert_int_equal(read_into(*state, cases[i].line, &r), cases[i].err);
        assert_int_equal(r.status, 77);
    }
}

static void longer_than_any_line_of_ours(void **state)
{
    static char line[RECORD_LINE_MAX + 2];
    struct record r;
    memset(line, ' ', sizeof(line) - 1);
    memcpy(line, BEGINS "}", sizeof(BEGINS));
    assert_int_equal(read_into(*state, line, &r), ERR_SYNTAX);
    line[RECORD_LINE_MAX] = '\0';
    assert_int_equal(read_into(*state, line, &r), OK);
}

static void memory_that_runs_out_is_said(void **state)
{
    struct record r;
    enum err err = ERR_NOMEM;
    for (uint64_t n = 0; err == ERR_NOMEM; n++) {
        arena_release(*state);
        fault_arm(FAULT_ALLOC, n, 1);
        err = record_read(*state, SPAN(BEGINS ",\"team\":\"\\n\"}"), &r);
        fault_disarm_all();
        assert_true(err == OK || err == ERR_NOMEM);
    }
}

/* FAIRLEAD_RECORD_LINES=1000000 for the figure in README.md. */
static void many_lines_take_little_time(void **state)
{
    static const char line[] =
        "{\"time\":\"2025-11-24T16:00:00.123Z\",\"request_id\":\"req_0123456789abcdefghij\",\"node\":\"node-1\","
        "\"worker\":2,\"client\":\"192.0.2.1:1234\",\"key_id\":\"key_0123456789\",\"team\":\"research\","
        "\"endpoint\":\"chat\",\"stream\":true,\"asked\":\"chat\",\"route\":\"chat\",\"arm\":\"stable\","
        "\"policy_version\":17,\"epoch\":1,\"generation\":4812,\"assignment\":\"rollout-7\","
        "\"unit\":\"0123456789abcdef\",\"unit_kind\":\"key\",\"arm_why\":\"bucket\",\"features\":{\"input_tokens\":120,"
        "\"max_output\":0,\"choices\":1,\"tools\":false,\"images\":false,\"audio\":false,\"json\":false},\"attempts\":"
        "[{\"model\":\"openai/gpt-4o\",\"why\":\"weight\",\"because\":\"was drawn by weight (98.2% likely)\","
        "\"status\":200,\"error\":null,\"ttft_us\":300123,\"duration_us\":901123}],\"model\":\"openai/gpt-4o\","
        "\"propensity_ppb\":982000000,\"status\":200,\"outcome\":\"ok\",\"error\":null,\"finish\":\"stop\",\"usage\":"
        "{\"input\":120,\"cached\":0,\"cache_write\":0,\"output\":250,\"reasoning\":0},\"estimated\":false,"
        "\"suspect\":false,\"cost_list_nano_usd\":2800000,\"cost_nano_usd\":2800000,\"price_source\":\"book\","
        "\"price_stale\":false,\"book_version\":3,\"input_bytes\":1700,\"output_bytes\":48000,\"ttft_us\":300201,"
        "\"total_us\":901300,\"overhead_us\":41}";
    const char *wanted = getenv("FAIRLEAD_RECORD_LINES");
    const unsigned long count = wanted ? strtoul(wanted, NULL, 10) : 1000;
    const uint64_t began_ns = clock_ns();
    for (unsigned long i = 0; i < count; i++) {
        struct record r;
        assert_int_equal(read_into(*state, line, &r), OK);
        assert_int_equal(r.overhead_us, 41);
    }
    print_message("%lu lines of %zu bytes in %.2f s\n", count, sizeof(line) - 1, (double)(clock_ns() - began_ns) / 1e9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_come_in_any_order),
        cmocka_unit_test(what_is_not_known_is_skipped),
        cmocka_unit_test(broken_lines_are_refused_and_leave_nothing),
        cmocka_unit_test(longer_than_any_line_of_ours),
        cmocka_unit_test(memory_that_runs_out_is_said),
        cmocka_unit_test(many_lines_take_little_time),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
