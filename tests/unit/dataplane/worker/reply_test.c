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
        struct reply_frame frame = { .headers = SPAN("x-request-id: r\r\n") };
        assert_int_equal(reply_error_whole(&error, &frame, &out), OK);
        struct span text = buf_span(&out);
        struct span body = span_skip(text, span_find(text, SPAN("\r\n\r\n")) + 4);
        assert_true(span_find(text, SPAN("\r\nx-request-id: r\r\n")) != SIZE_MAX);
        assert_true((status == 503 || status == 429) == (span_find(text, SPAN("retry-after: ")) != SIZE_MAX));
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

static void head_and_event(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(1 << 16);
    struct reply_error error = { .outcome = OUTCOME_BAD_METHOD, .allow = SPAN("POST") };
    struct reply_frame frame = { .headers = SPAN(""), .close = true, .head_only = true };
    assert_int_equal(reply_error_whole(&error, &frame, &out), OK);
    assert_true(span_starts(buf_span(&out), SPAN("HTTP/1.1 405 Method Not Allowed\r\n")));
    assert_true(span_find(buf_span(&out), SPAN("allow: POST\r\n")) != SIZE_MAX);
    assert_true(span_find(buf_span(&out), SPAN("connection: close\r\n")) != SIZE_MAX);
    assert_true(span_ends(buf_span(&out), SPAN("\r\n\r\n")));
    buf_clear(&out);
    error = (struct reply_error){ .outcome = OUTCOME_TRUNCATED, .message = "line\nbreak" };
    assert_int_equal(reply_error_event(&error, &out), OK);
    assert_true(span_starts(buf_span(&out), SPAN("data: {\"error\":")));
    assert_true(span_ends(buf_span(&out), SPAN("}\n\n")));
    assert_true(span_find(buf_span(&out), SPAN("line\\nbreak")) != SIZE_MAX); /* one event, whatever the words */
    buf_release(&out);
}

static void a_stream_is_framed_by_version(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(1 << 16);
    struct reply_head head = { .status = 200, .stream = true, .content_type = SPAN("text/event-stream") };
    assert_int_equal(reply_head_begin(&head, &out), OK);
    assert_true(span_find(buf_span(&out), SPAN("transfer-encoding: chunked")) != SIZE_MAX);
    assert_true(span_find(buf_span(&out), SPAN("content-length")) == SIZE_MAX);
    buf_clear(&out);
    head.http10 = head.close = true;
    assert_int_equal(reply_head_begin(&head, &out), OK);
    assert_true(span_find(buf_span(&out), SPAN("chunked")) == SIZE_MAX);
    assert_true(span_find(buf_span(&out), SPAN("connection: close")) != SIZE_MAX);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_outcome_is_complete),
        cmocka_unit_test(head_and_event),
        cmocka_unit_test(a_stream_is_framed_by_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
