#include "admin-cli/replay_trace.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct replay_trace trace;

static int setup(void **state)
{
    (void)state;
    replay_trace_init(&trace);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    replay_trace_release(&trace);
    return 0;
}

static void take(const char *line)
{
    assert_int_equal(replay_trace_line(&trace, span_cstr(line)), OK);
}

static void azure_traces_are_read(void **state)
{
    (void)state;
    take("TIMESTAMP,ContextTokens,GeneratedTokens");
    take("2024-02-29 23:59:59.5000000,374,44\r");
    take("2024-02-28 23:59:59.2500000,396,109");
    take("2024-03-01 00:00:00,10,1");
    take("2024-13-01 00:00:00,10,1");
    take("");
    replay_trace_end(&trace);
    assert_int_equal(trace.count, 3);
    assert_int_equal(trace.skipped, 2); /* heading and the thirteenth month */
    assert_true(trace.items[0].at_us == 0 && trace.items[0].input_tokens == 396 && trace.items[0].output_tokens == 109);
    assert_true(trace.items[1].at_us == 86400250000 && trace.items[1].input_tokens == 374 && trace.items[1].stream);
    assert_true(trace.items[2].at_us == 86400750000);
    assert_true(trace.model_count == 1 && span_eq(trace.models[0], SPAN("chat")));
}

static void records_are_read(void **state)
{
    (void)state;
#define HEAD "{\"time\":\"2026-11-22T10:00:0"
#define REST ".000Z\",\"request_id\":\"req_1\",\"endpoint\":\"chat\","
    take(HEAD "2" REST "\"stream\":true,\"asked\":\"bulk\",\"features\":{\"input_tokens\":90,\"max_output\":500},"
              "\"usage\":{\"input\":100,\"cached\":0,\"cache_write\":0,\"output\":25,\"reasoning\":0}}");
    take(HEAD
         "1" REST
         "\"stream\":false,\"asked\":\"chat\",\"features\":{\"input_tokens\":90,\"max_output\":500},\"usage\":null}");
    take(HEAD "3" REST "\"stream\":false,\"asked\":\"chat\"}"); /* its body was never read */
    take("{\"kind\":\"batch\"}");
    take("{\"no\":");
    replay_trace_end(&trace);
    assert_int_equal(trace.count, 2);
    assert_int_equal(trace.skipped, 3);
    assert_true(trace.items[0].at_us == 0 && trace.items[0].input_tokens == 90 && trace.items[0].output_tokens == 500);
    assert_true(trace.items[1].at_us == 1000000 && trace.items[1].input_tokens == 100 &&
                trace.items[1].output_tokens == 25);
    assert_true(span_eq(trace.models[trace.items[0].model], SPAN("chat")) && !trace.items[0].stream);
    assert_true(span_eq(trace.models[trace.items[1].model], SPAN("bulk")) && trace.items[1].stream);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = { T(azure_traces_are_read), T(records_are_read) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
