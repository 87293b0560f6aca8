/* The framing that a client is told, by its version and by what is sent. */
#include "dataplane/worker/http1_answer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void check(const struct http1_answer *answer, struct span expected)
{
    struct buf out = BUF_INIT(1 << 12);
    assert_int_equal(http1_answer_head(answer, &out), OK);
    if (!span_eq(buf_span(&out), expected))
        fail_msg("wrote:\n" SPAN_FMT, SPAN_ARG(buf_span(&out)));
    buf_release(&out);
}

static void a_whole_answer_says_its_length(void **state)
{
    (void)state;
    struct sink_head head = { .status = 404, .content_type = SPAN("application/json"), .lines = SPAN("a: b\r\n") };
    struct http1_answer answer = { .head = &head, .bytes = 12, .date = SPAN("Thu, 01 Jan 1970 00:00:00 GMT") };
    check(&answer, SPAN("HTTP/1.1 404 Not Found\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
                        "content-type: application/json\r\ncontent-length: 12\r\na: b\r\n\r\n"));
    answer = (struct http1_answer){ .head = &head, .http10 = true };
    head = (struct sink_head){ .status = 200, .lines = SPAN("") };
    check(&answer, SPAN("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n"));
    head.close = true;
    check(&answer, SPAN("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
}

static void a_stream_is_framed_by_version(void **state)
{
    (void)state;
    const struct sink_head head = { .status = 200, .content_type = SPAN("text/event-stream"), .lines = SPAN("") };
    struct http1_answer answer = { .head = &head, .stream = true };
    check(&answer, SPAN("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"));
    answer.http10 = answer.close = true;
    check(&answer, SPAN("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"));
}

static void what_may_not_stand_in_a_head_is_refused(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(1 << 12);
    const struct sink_head head = { .status = 200, .content_type = SPAN("a\r\nb: c"), .lines = SPAN("") };
    assert_int_equal(http1_answer_head(&(struct http1_answer){ .head = &head }, &out), ERR_INVALID);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_answer_says_its_length),
        cmocka_unit_test(a_stream_is_framed_by_version),
        cmocka_unit_test(what_may_not_stand_in_a_head_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
