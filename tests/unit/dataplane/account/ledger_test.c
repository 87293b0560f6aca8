#include "dataplane/account/ledger.h"
#include "common/arena.h"
#include "common/fault.h"
#include "common/json.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct ledger_record sample = {
    .time_ms = 1764000000123,
    .request_id = { "req_1", 5 },
    .node = { "n1", 2 },
    .worker = 2,
    .client = { "192.0.2.1:1234", 14 },
    .key_id = { "key_a", 5 },
    .team = { "research", 8 },
    .asked = { "gpt-4o", 6 },
    .route = { "chat", 4 },
    .arm = { "stable", 6 },
    .policy_version = 17,
    .generation = 4812,
    .endpoint = ENDPOINT_CHAT,
    .stream = true,
    .attempts = { { .model = { "a/x", 3 }, .why = "weight", .status = 500, .error = "status", .duration_us = 12 },
                  { .model = { "b/y", 3 }, .why = "next", .status = 200, .ttft_us = 300, .duration_us = 900 } },
    .attempt_count = 2,
    .model = { "b/y", 3 },
    .propensity_ppb = 700000000,
    .status = 200,
    .outcome = LEDGER_OK,
    .usage = { .known = true, .input = 10, .cached = 4, .output = 5 },
    .cost = { .list_nano = 1234, .charged_nano = 1111 },
    .price_source = PRICE_SOURCE_BOOK,
    .book_version = 3,
};

static void check(const struct ledger_record *record, struct arena *arena, struct json_index *ix)
{
    struct buf out = BUF_INIT(1 << 16);
    assert_int_equal(ledger_write(record, &out), OK);
    assert_true(out.len <= LEDGER_LINE_MAX);
    assert_true(span_find_byte(buf_span(&out), '\n') == SIZE_MAX);
    struct span copy = arena_dup(arena, buf_span(&out));
    assert_int_equal(json_index(arena, copy, &json_limits_default, ix, NULL), OK);
    buf_release(&out);
}

static uint64_t number(const struct json_index *ix, uint32_t object, const char *name)
{
    uint64_t value;
    uint32_t token = json_get(ix, object, span_cstr(name));
    assert_true(token != JSON_NONE);
    assert_int_equal(json_u64(ix, token, &value), OK);
    return value;
}

static void says(const struct json_index *ix, uint32_t object, const char *name, const char *text)
{
    uint32_t token = json_get(ix, object, span_cstr(name));
    assert_true(token != JSON_NONE);
    assert_true(json_string_eq(ix, token, span_cstr(text)));
}

static void a_record_reads_back(void **state)
{
    (void)state;
    struct arena arena;
    struct json_index ix;
    arena_init(&arena, 1 << 20);
    check(&sample, &arena, &ix);
    says(&ix, 0, "time", "2025-11-24T16:00:00.123Z");
    says(&ix, 0, "outcome", "ok");
    says(&ix, 0, "model", "b/y");
    says(&ix, 0, "price_source", "book");
    assert_int_equal(number(&ix, 0, "cost_list_nano_usd"), 1234);
    assert_int_equal(number(&ix, 0, "cost_nano_usd"), 1111);
    assert_int_equal(number(&ix, json_get(&ix, 0, SPAN("usage")), "cached"), 4);
    uint32_t attempts = json_get(&ix, 0, SPAN("attempts"));
    uint32_t first = json_first(&ix, attempts), second = json_next(&ix, attempts, first);
    says(&ix, first, "error", "status");
    says(&ix, second, "why", "next");
    assert_int_equal(number(&ix, second, "ttft_us"), 300);
    assert_int_equal(json_next(&ix, attempts, second), JSON_NONE);
    assert_true(json_get(&ix, 0, SPAN("message")) == JSON_NONE);
    struct ledger_record refused = sample;
    refused.message = "No model may serve it: a/x is \"drained\".";
    check(&refused, &arena, &ix);
    says(&ix, 0, "message", "No model may serve it: a/x is \"drained\".");
    arena_release(&arena);
}

static void hostile_texts_are_escaped_and_cut(void **state)
{
    (void)state;
    struct arena arena;
    struct json_index ix;
    arena_init(&arena, 1 << 20);
    char bad[5000];
    memset(bad, 1, sizeof bad);
    memcpy(bad, "\"}\n\xff\xfe", 5);
    struct ledger_record record = sample;
    record.asked = span_of(bad, sizeof bad);
    check(&record, &arena, &ix);
    assert_true(json_get(&ix, 0, SPAN("cut")) == JSON_NONE);
    /* Everything at its worst: what must go are the attempts. */
    record.request_id = record.node = record.key_id = record.team = record.route = record.arm = record.model =
        record.asked;
    record.attempt_count = ATTEMPTS_MAX;
    for (unsigned i = 0; i < ATTEMPTS_MAX; i++)
        record.attempts[i] = (struct ledger_attempt){ .model = record.asked, .why = "weight", .error = "status" };
    record.usage = (struct usage){ true, true, true, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX };
    record.cost = (struct cost){ INT64_MAX, INT64_MAX };
    record.ttft_us = record.total_us = record.overhead_us = record.book_version = record.input_bytes = UINT64_MAX;
    check(&record, &arena, &ix);
    assert_true(json_get(&ix, 0, SPAN("cut")) != JSON_NONE);
    assert_true(json_get(&ix, 0, SPAN("attempts")) == JSON_NONE);
    assert_int_equal(number(&ix, 0, "attempt_count"), ATTEMPTS_MAX);
    arena_release(&arena);
}

static void nothing_is_appended_on_error(void **state)
{
    (void)state;
    struct buf small = BUF_INIT(100);
    assert_int_equal(buf_append(&small, SPAN("before")), OK);
    assert_int_equal(ledger_write(&sample, &small), ERR_FULL);
    assert_true(span_eq(buf_span(&small), SPAN("before")));
    buf_release(&small);
    struct buf out = BUF_INIT(1 << 16);
    enum err err = ERR_NOMEM;
    for (uint64_t n = 0; err == ERR_NOMEM; n++) {
        fault_arm(FAULT_ALLOC, n, 1);
        err = ledger_write(&sample, &out);
        fault_disarm_all();
        assert_true(err == OK || (err == ERR_NOMEM && out.len == 0));
    }
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_reads_back),
        cmocka_unit_test(hostile_texts_are_escaped_and_cut),
        cmocka_unit_test(nothing_is_appended_on_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
