/* What clients are told: every outcome has a status and words, and every error the shape that SDKs know. */
#include "common/arena.h"
#include "common/json.h"
#include "dataplane/worker/reply.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void every_outcome_is_complete(void **state)
{
    (void)state;
    for (int i = 0; i < OUTCOME_COUNT; i++) {
        enum outcome outcome = (enum outcome)i;
        assert_non_null(outcome_name(outcome));
        unsigned status = outcome_status(outcome);
        assert_true(status >= 200 && status < 600);
        assert_true(!outcome_is_clients(outcome) || status / 100 == 4);
        if (outcome == OUTCOME_OK || outcome == OUTCOME_PASSED || outcome == OUTCOME_CANCELLED)
            continue;
        struct buf out = BUF_INIT(1 << 16);
        struct reply_error error = { .outcome = outcome };
        assert_int_equal(reply_error_lines(&error, &out), OK);
        assert_true((status == 503 || status == 429) == span_starts(buf_span(&out), SPAN("retry-after: ")));
        assert_true((status == 401) == span_starts(buf_span(&out), SPAN("www-authenticate: Bearer realm=")));
        buf_clear(&out);
        assert_int_equal(reply_error_body(&error, &out), OK);
        struct span body = buf_span(&out);
        struct arena arena;
        struct json_index ix;
        arena_init(&arena, 1 << 16);
        assert_int_equal(json_index(&arena, body, &json_limits_default, &ix, NULL), OK);
        uint32_t object = json_get(&ix, 0, SPAN("error"));
        static const char *const members[] = { "message", "type", "code" };
        for (size_t k = 0; k < ARRAY_LEN(members); k++) {
            uint32_t token = json_get(&ix, object, span_cstr(members[k]));
            assert_true(token != JSON_NONE && json_kind(&ix, token) == JSON_STRING && json_raw(&ix, token).len > 2);
        }
        assert_true(json_get(&ix, object, SPAN("param")) != JSON_NONE);
        arena_release(&arena);
        buf_release(&out);
    }
}

static void lines_and_event(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(1 << 16);
    struct reply_error error = { .outcome = OUTCOME_BAD_METHOD, .allow = SPAN("POST") };
    assert_int_equal(reply_error_lines(&error, &out), OK);
    assert_true(span_eq(buf_span(&out), SPAN("allow: POST\r\n")));
    buf_clear(&out);
    error = (struct reply_error){ .outcome = OUTCOME_BUSY, .retry_after_s = 7 };
    assert_int_equal(reply_error_lines(&error, &out), OK);
    assert_true(span_eq(buf_span(&out), SPAN("retry-after: 7\r\n")));
    buf_clear(&out);
    error = (struct reply_error){ .outcome = OUTCOME_TRUNCATED, .message = "line\nbreak" };
    assert_int_equal(reply_error_event(&error, &out), OK);
    assert_true(span_starts(buf_span(&out), SPAN("data: {\"error\":")));
    assert_true(span_ends(buf_span(&out), SPAN("}\n\n")));
    assert_true(span_find(buf_span(&out), SPAN("line\\nbreak")) != SIZE_MAX); /* one event, whatever the words */
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_outcome_is_complete),
        cmocka_unit_test(lines_and_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
