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

/* What is written here and what proto/record reads are one format. */
static struct record read_back(struct arena *arena, const struct ledger_record *record)
{
    struct buf out = BUF_INIT(1 << 16);
    struct record read;
    assert_int_equal(ledger_write(record, &out), OK);
    assert_int_equal(record_read(arena, arena_dup(arena, buf_span(&out)), &read), OK);
    buf_release(&out);
    return read;
}

#define IS(field, text) assert_true(span_eq(read.field, SPAN(text)))

static void the_reader_finds_what_was_written(void **state UNUSED)
{
    static const struct ledger_features features = {
        .input_tokens = 120, .max_output = UINT64_MAX, .choices = 2, .tools = true, .json = true
    };
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct ledger_record written = sample;
    written.assignment = SPAN("rollout-7");
    written.unit_kind = "user";
    written.unit = 0x0123456789abcdef;
    written.arm_why = "bucket";
    written.forced = true;
    written.features = &features;
    written.finish = FINISH_TOOL_CALLS;
    const struct record read = read_back(&arena, &written);
    assert_int_equal(read.kind, RECORD_REQUEST);
    assert_int_equal(read.time_ms, 1764000000123);
    IS(request_id, "req_1");
    IS(node, "n1");
    IS(key_id, "key_a");
    IS(team, "research");
    IS(asked, "gpt-4o");
    IS(route, "chat");
    IS(model, "b/y");
    IS(endpoint, "chat");
    IS(arm, "stable");
    IS(assignment, "rollout-7");
    IS(unit_kind, "user");
    IS(arm_why, "bucket");
    IS(outcome, "ok");
    IS(finish, "tool_calls");
    IS(error, "");
    assert_true(read.stream && read.forced && read.has_unit && read.unit == 0x0123456789abcdef);
    assert_true(read.policy_version == 17 && read.generation == 4812 && read.epoch == 0);
    assert_true(read.has_features && read.input_tokens_est == 120 && read.max_output == UINT32_MAX);
    assert_true(read.choices == 2 && read.tools && read.json && !read.images && !read.audio);
    assert_true(read.propensity_ppb == 700000000 && read.status == 200);
    assert_true(read.usage_known && read.input == 10 && read.cached == 4 && read.output == 5 && !read.estimated);
    assert_true(read.cost_list_nano == 1234 && read.cost_nano == 1111);
    assert_int_equal(read.attempt_count, 2);
    IS(attempts[0].model, "a/x");
    IS(attempts[0].error, "status");
    IS(attempts[1].why, "next");
    assert_true(read.attempts[0].status == 500 && read.attempts[0].duration_us == 12);
    assert_true(read.attempts[1].ttft_us == 300);
    IS(attempts[1].error, "");
    arena_release(&arena);
}

static void a_plain_record_has_no_unit_and_a_shadow_says_whose_it_is(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct ledger_record written = sample;
    written.usage.known = false;
    struct record read = read_back(&arena, &written);
    assert_false(read.has_unit || read.forced || read.has_features || read.usage_known);
    IS(arm_why, "");
    IS(assignment, "");
    IS(finish, "");
    written.kind = RECORD_SHADOW;
    written.of = SPAN("req_0");
    read = read_back(&arena, &written);
    assert_int_equal(read.kind, RECORD_SHADOW);
    IS(of, "req_0");
    assert_int_equal(read.estimate_nano, 0);
    arena_release(&arena);
    written.estimate_nano = 1234567890123;
    read = read_back(&arena, &written);
    assert_int_equal(read.estimate_nano, 1234567890123);
    arena_release(&arena);
}

static void feedback_reads_back(void **state UNUSED)
{
    struct arena arena;
    struct buf out = BUF_INIT(4096);
    struct record read;
    arena_init(&arena, 1 << 20);
    const struct ledger_feedback feedback = { .time_ms = 1764000000123,
                                              .request_id = SPAN("req_1"),
                                              .node = SPAN("n1"),
                                              .team = SPAN("research"),
                                              .metric = SPAN("thumbs"),
                                              .score = -0.25 };
    assert_int_equal(ledger_write_feedback(&feedback, &out), OK);
    assert_int_equal(record_read(&arena, buf_span(&out), &read), OK);
    assert_int_equal(read.kind, RECORD_FEEDBACK);
    assert_int_equal(read.time_ms, 1764000000123);
    IS(request_id, "req_1");
    IS(team, "research");
    IS(metric, "thumbs");
    assert_true(read.score < -0.2499 && read.score > -0.2501);
    buf_release(&out);
    struct buf small = BUF_INIT(40);
    assert_int_equal(buf_append(&small, SPAN("before")), OK);
    assert_int_equal(ledger_write_feedback(&feedback, &small), ERR_FULL);
    assert_true(span_eq(buf_span(&small), SPAN("before")));
    buf_release(&small);
    arena_release(&arena);
}

static struct ledger_content said(struct span prompt, struct span answer)
{
    return (struct ledger_content){ .time_ms = 1764000000123,
                                    .request_id = SPAN("req_1"),
                                    .node = SPAN("n1"),
                                    .team = SPAN("research"),
                                    .prompt = prompt,
                                    .answer = answer };
}

/* The line, which is held to what every line promises, and indexed. */
static void check_content(const struct ledger_content *content, struct arena *arena, struct json_index *ix)
{
    struct buf out = BUF_INIT(1 << 16);
    struct record read;
    assert_int_equal(ledger_write_content(content, &out), OK);
    assert_true(out.len <= LEDGER_LINE_MAX && span_find_byte(buf_span(&out), '\n') == SIZE_MAX);
    assert_true(record_is_content(buf_span(&out)));
    const struct span line = arena_dup(arena, buf_span(&out));
    assert_int_equal(record_read(arena, line, &read), OK);
    assert_int_equal(read.kind, RECORD_CONTENT);
    IS(of, "req_1");
    assert_int_equal(json_index(arena, line, &json_limits_default, ix, NULL), OK);
    buf_release(&out);
}

static struct span text_in(struct arena *arena, const struct json_index *ix, const char *name)
{
    struct span text;
    const uint32_t token = json_get(ix, 0, span_cstr(name));
    assert_true(token != JSON_NONE);
    assert_int_equal(json_string(arena, ix, token, &text), OK);
    return text;
}

static bool flag(const struct json_index *ix, const char *name)
{
    bool value;
    assert_int_equal(json_bool(ix, json_get(ix, 0, span_cstr(name)), &value), OK);
    return value;
}

static void what_was_said_reads_back(void **state UNUSED)
{
    struct arena arena;
    struct json_index ix;
    arena_init(&arena, 4 << 20);
    struct ledger_content content = said(SPAN("{\"model\":\"chat\"}"), SPAN("data: \xe2\x82\xac\n\n"));
    check_content(&content, &arena, &ix);
    says(&ix, 0, "kind", "content");
    says(&ix, 0, "request_id", "req_1");
    says(&ix, 0, "team", "research");
    says(&ix, 0, "prompt", "{\"model\":\"chat\"}");
    says(&ix, 0, "answer", "data: \xe2\x82\xac\n\n");
    assert_false(flag(&ix, "prompt_cut") || flag(&ix, "answer_cut"));
    content.answer_cut = true; /* in the middle of a character */
    content.answer = SPAN("a\xe2\x82");
    check_content(&content, &arena, &ix);
    says(&ix, 0, "answer", "a");
    assert_true(flag(&ix, "answer_cut") && !flag(&ix, "prompt_cut"));
    arena_release(&arena);
}

/* A client cannot make a request's line look like one of these. */
static void only_content_says_that_it_is(void **state UNUSED)
{
    struct buf out = BUF_INIT(1 << 16);
    struct ledger_record written = sample;
    written.asked = written.team = SPAN("\",\"kind\":\"content\",\"of\":\"");
    assert_int_equal(ledger_write(&written, &out), OK);
    assert_false(record_is_content(buf_span(&out)));
    buf_release(&out);
}

static void long_texts_share_the_line(void **state UNUSED)
{
    static char plain[CONTENT_BYTES_MAX], controls[CONTENT_BYTES_MAX], euros[CONTENT_BYTES_MAX];
    struct arena arena;
    struct json_index ix;
    arena_init(&arena, 16 << 20);
    memset(plain, 'x', sizeof plain);
    memset(controls, 1, sizeof controls);
    for (size_t i = 0; i + 3 <= sizeof euros; i += 3)
        memcpy(euros + i, "\xe2\x82\xac", 3);
    const struct span texts[] = { span_of(plain, sizeof plain), span_of(controls, sizeof controls),
                                  span_of(euros, sizeof euros - sizeof euros % 3), SPAN("short"), SPAN("") };
    for (size_t p = 0; p < ARRAY_LEN(texts); p++)
        for (size_t a = 0; a < ARRAY_LEN(texts); a++) {
            const struct ledger_content content = said(texts[p], texts[a]);
            arena_reset(&arena);
            check_content(&content, &arena, &ix);
            const struct span prompt = text_in(&arena, &ix, "prompt"), answer = text_in(&arena, &ix, "answer");
            assert_true(span_starts(texts[p], prompt) && span_starts(texts[a], answer));
            assert_int_equal(flag(&ix, "prompt_cut"), prompt.len < texts[p].len);
            assert_int_equal(flag(&ix, "answer_cut"), answer.len < texts[a].len);
            const size_t quoted[] = { prompt.len * (p == 1 ? 6 : 1), answer.len * (a == 1 ? 6 : 1) };
            if (p < 3 && a < 3) { /* neither drives the other out */
                assert_true(quoted[0] > LEDGER_LINE_MAX / 2 - 200 && quoted[1] > LEDGER_LINE_MAX / 2 - 200);
            } else if (p == 1 || a == 1) { /* what the short one leaves is the long one's */
                assert_true(quoted[0] + quoted[1] > LEDGER_LINE_MAX - 400);
            } else {
                assert_true(prompt.len == texts[p].len && answer.len == texts[a].len);
            }
        }
    arena_release(&arena);
}

static void the_longest_names_leave_room_for_words(void **state UNUSED)
{
    static char bad[300];
    struct buf out = BUF_INIT(1 << 16);
    memset(bad, 1, sizeof bad);
    struct ledger_content content = said(span_of(bad, sizeof bad), span_of(bad, sizeof bad));
    content.request_id = content.node = content.team = span_of(bad, sizeof bad);
    assert_int_equal(ledger_write_content(&content, &out), OK);
    assert_true(out.len <= LEDGER_LINE_MAX);
    buf_release(&out);
    struct buf small = BUF_INIT(100);
    assert_int_equal(buf_append(&small, SPAN("before")), OK);
    assert_int_equal(ledger_write_content(&content, &small), ERR_FULL);
    assert_true(span_eq(buf_span(&small), SPAN("before")));
    buf_release(&small);
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
        record.of = record.client = record.assignment = record.asked;
    record.kind = RECORD_SHADOW;
    record.attempt_count = ATTEMPTS_MAX;
    for (unsigned i = 0; i < ATTEMPTS_MAX; i++)
        record.attempts[i] = (struct ledger_attempt){ .model = record.asked, .why = "weight", .error = "status" };
    record.usage = (struct usage){ true, true, true, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX };
    record.cost = (struct cost){ INT64_MAX, INT64_MAX };
    record.ttft_us = record.total_us = record.overhead_us = record.book_version = record.input_bytes = UINT64_MAX;
    record.output_bytes = record.epoch = record.generation = record.unit = UINT64_MAX;
    record.policy_version = record.propensity_ppb = UINT32_MAX;
    const struct ledger_features features = {
        .input_tokens = UINT64_MAX, .max_output = UINT64_MAX, .choices = UINT32_MAX, .tools = true
    };
    record.features = &features;
    record.unit_kind = "request";
    record.arm_why = "remainder";
    record.forced = true;
    record.estimate_nano = INT64_MAX;
    record.finish = FINISH_CONTENT_FILTER;
    record.error = "shutting_down_and_all_that";
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
        cmocka_unit_test(the_reader_finds_what_was_written),
        cmocka_unit_test(a_plain_record_has_no_unit_and_a_shadow_says_whose_it_is),
        cmocka_unit_test(feedback_reads_back),
        cmocka_unit_test(what_was_said_reads_back),
        cmocka_unit_test(only_content_says_that_it_is),
        cmocka_unit_test(long_texts_share_the_line),
        cmocka_unit_test(the_longest_names_leave_room_for_words),
        cmocka_unit_test(hostile_texts_are_escaped_and_cut),
        cmocka_unit_test(nothing_is_appended_on_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
