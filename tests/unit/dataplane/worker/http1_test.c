#include "dataplane/worker/http1.h"
#include "dataplane/worker/http1_chars.h"
#include "common/fault.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* Which bytes are right is held by tests/conformance; here is what the parser reports and how it is driven. */

static void assert_span(struct span actual, const char *expected)
{
    if (!span_eq(actual, span_cstr(expected)))
        fail_msg("got '" SPAN_FMT "', expected '%s'", SPAN_ARG(actual), expected);
}

static enum http1_event next(struct http1 *parser, struct span *input)
{
    enum http1_event event = HTTP1_MORE;
    struct span body = { 0 };
    enum err err = http1_next(parser, input, &event, &body);
    if (err)
        fail_msg("%s: %s", err_name(err), http1_why(parser));
    return event;
}

static enum err error_of(enum http1_kind kind, const char *text)
{
    struct http1 parser;
    struct span input = span_cstr(text), body;
    enum http1_event event = HTTP1_HEAD;
    http1_init(&parser, kind);
    enum err err = OK;
    while (!err && event != HTTP1_MORE && event != HTTP1_END)
        err = http1_next(&parser, &input, &event, &body);
    if (err) { /* and it stays so */
        input = SPAN("GET / HTTP/1.0\r\n\r\n");
        assert_int_equal(http1_next(&parser, &input, &event, &body), err);
        assert_int_equal(http1_eof(&parser, &event), err);
        assert_true(strlen(http1_why(&parser)) > 0);
    }
    http1_release(&parser);
    return err;
}

static void a_request_is_reported(void **state)
{
    (void)state;
    struct http1 parser;
    http1_init(&parser, HTTP1_REQUEST);
    struct span input =
        SPAN("POST /v1/chat?x=1&y HTTP/1.1\r\nhost: Example:80\r\nExpect: 100-Continue\r\nX-A:\t b c \r\n"
             "Content-Length: 5\r\n\r\nhelloGET");
    struct span body;
    enum http1_event event;
    assert_int_equal(next(&parser, &input), HTTP1_HEAD);
    const struct http1_head *head = http1_head(&parser);
    assert_int_equal(head->method, HTTP1_POST);
    assert_span(head->method_name, "POST");
    assert_span(head->target, "/v1/chat?x=1&y");
    assert_span(head->path, "/v1/chat");
    assert_span(head->query, "x=1&y");
    assert_span(head->authority, "Example:80");
    assert_int_equal(head->version_minor, 1);
    assert_int_equal(head->header_count, 4);
    assert_span(head->headers[2].name, "X-A");
    assert_span(head->headers[2].value, "b c");
    assert_int_equal(head->content_length, 5);
    assert_true(head->has_body && head->keep_alive && head->expect_continue);
    assert_false(head->chunked || head->until_close || head->upgrade);
    assert_ptr_equal(http1_find(head, SPAN("x-a")), &head->headers[2]);
    assert_null(http1_find(head, SPAN("x-b")));
    const char *at = input.ptr;
    assert_int_equal(http1_next(&parser, &input, &event, &body), OK);
    assert_int_equal(event, HTTP1_BODY);
    assert_ptr_equal(body.ptr, at); /* lent, not copied */
    assert_span(body, "hello");
    assert_int_equal(next(&parser, &input), HTTP1_END);
    assert_span(input, "GET");
    assert_int_equal(next(&parser, &input), HTTP1_MORE); /* nothing is taken before the reset */
    assert_span(input, "GET");
    http1_reset(&parser);
    assert_true(http1_idle(&parser));
    assert_int_equal(next(&parser, &input), HTTP1_MORE);
    assert_false(http1_idle(&parser));
    assert_int_equal(input.len, 0);
    http1_release(&parser);
}

static void keep_alive_follows_version_and_connection(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool keep_alive, upgrade;
    } cases[] = {
        { "GET / HTTP/1.1\r\nHost: a\r\n\r\n", true, false },
        { "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", false, false },
        { "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\nConnection: keep-alive\r\n\r\n", false, false },
        { "GET / HTTP/1.0\r\n\r\n", false, false },
        { "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true, false },
        { "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", true, true },
        { "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n", true, false },
        { "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", false, false },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct http1 parser;
        http1_init(&parser, HTTP1_REQUEST);
        struct span input = span_cstr(cases[i].text);
        assert_int_equal(next(&parser, &input), HTTP1_HEAD);
        if (http1_head(&parser)->keep_alive != cases[i].keep_alive || http1_head(&parser)->upgrade != cases[i].upgrade)
            fail_msg("%s", cases[i].text);
        http1_release(&parser);
    }
}

static void refusals_can_be_told_apart(void **state)
{
    (void)state;
    assert_int_equal(error_of(HTTP1_REQUEST, "GET / HTTP/1.1\nHost"), ERR_SYNTAX);
    assert_int_equal(error_of(HTTP1_REQUEST, "GET / HTTP/1.1\r\n\r\n"), ERR_INVALID);
    assert_int_equal(error_of(HTTP1_REQUEST, "GET / HTTP/2.0"), ERR_INVALID);
    assert_int_equal(error_of(HTTP1_REQUEST, "get"), ERR_UNSUPPORTED);
    assert_int_equal(error_of(HTTP1_REQUEST, "GET / HTTP/1.1\r\nHost: a\r\nHost:"), ERR_DUPLICATE);
    assert_int_equal(error_of(HTTP1_REQUEST, "GET / HTTP/1.1\r\nTransfer-Encoding: g"), ERR_UNSUPPORTED);
    assert_int_equal(error_of(HTTP1_REQUEST, "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length:"),
                     ERR_INVALID);
    assert_int_equal(error_of(HTTP1_RESPONSE, "HTTP/1.1 101 X\r\n\r\n"), ERR_INVALID);
    struct buf text = BUF_INIT(1 << 20);
    assert_int_equal(buf_append(&text, SPAN("GET / HTTP/1.1\r\n")), OK);
    for (int i = 0; i <= HTTP1_HEADERS_MAX; i++)
        assert_int_equal(buf_append(&text, SPAN("A: b\r\n")), OK);
    assert_int_equal(error_of(HTTP1_REQUEST, buf_cstr(&text)), ERR_TOO_MANY);
    buf_clear(&text);
    assert_int_equal(buf_append(&text, SPAN("GET / HTTP/1.1\r\nA: ")), OK);
    while (text.len <= HTTP1_HEAD_BYTES_MAX)
        assert_int_equal(buf_append(&text, SPAN("aaaaaaaa")), OK);
    assert_int_equal(error_of(HTTP1_REQUEST, buf_cstr(&text)), ERR_TOO_LARGE);
    buf_release(&text);
}

static void the_largest_head_is_taken(void **state)
{
    (void)state;
    for (size_t more = 0; more < 2; more++) {
        struct http1 parser;
        struct buf text = BUF_INIT(1 << 20);
        assert_int_equal(buf_append(&text, SPAN("GET / HTTP/1.0\r\nA: ")), OK);
        while (text.len < HTTP1_HEAD_BYTES_MAX - 4 + more)
            assert_int_equal(buf_append_byte(&text, 'a'), OK);
        assert_int_equal(buf_append(&text, SPAN("\r\n\r\n")), OK);
        http1_init(&parser, HTTP1_REQUEST);
        struct span input = buf_span(&text), body;
        enum http1_event event;
        assert_int_equal(http1_next(&parser, &input, &event, &body), more ? ERR_TOO_LARGE : OK);
        http1_release(&parser);
        buf_release(&text);
    }
}

static void responses_end_as_they_should(void **state)
{
    (void)state;
    struct http1 parser;
    enum http1_event event;
    struct span body;
    http1_init(&parser, HTTP1_RESPONSE);
    struct span input =
        SPAN("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 200 Fine day\r\nA: b\r\n\r\nxyz");
    assert_int_equal(next(&parser, &input), HTTP1_HEAD);
    assert_int_equal(http1_head(&parser)->status, 200);
    assert_span(http1_head(&parser)->reason, "Fine day");
    assert_int_equal(http1_head(&parser)->header_count, 1);
    assert_true(http1_head(&parser)->until_close);
    assert_false(http1_head(&parser)->keep_alive);
    assert_int_equal(http1_next(&parser, &input, &event, &body), OK);
    assert_span(body, "xyz");
    assert_int_equal(next(&parser, &input), HTTP1_MORE);
    assert_int_equal(http1_eof(&parser, &event), OK);
    assert_int_equal(event, HTTP1_END);
    http1_reset(&parser);
    assert_int_equal(http1_eof(&parser, &event), OK); /* nothing under way */
    assert_int_equal(event, HTTP1_MORE);

    http1_answers_head(&parser);
    input = SPAN("HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
    assert_int_equal(next(&parser, &input), HTTP1_HEAD);
    assert_int_equal(http1_head(&parser)->content_length, 77);
    assert_false(http1_head(&parser)->has_body);
    assert_int_equal(next(&parser, &input), HTTP1_END);
    http1_reset(&parser); /* the next answers something else again */
    assert_int_equal(next(&parser, &input), HTTP1_HEAD);
    assert_true(http1_head(&parser)->has_body);
    assert_int_equal(http1_eof(&parser, &event), ERR_CLOSED);
    http1_release(&parser);
}

static void a_cut_message_is_told_from_a_complete_one(void **state)
{
    (void)state;
    static const char *cut[] = { "H",
                                 "HTTP/1.1 200 OK\r\n",
                                 "HTTP/1.1 100 Continue\r\n\r\n",
                                 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na",
                                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
                                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(cut); i++) {
        struct http1 parser;
        struct span input = span_cstr(cut[i]);
        enum http1_event event;
        http1_init(&parser, HTTP1_RESPONSE);
        while (next(&parser, &input) != HTTP1_MORE)
            continue;
        if (http1_eof(&parser, &event) != ERR_CLOSED)
            fail_msg("%s", cut[i]);
        http1_release(&parser);
    }
}

static void an_idle_connection_costs_little(void **state)
{
    (void)state;
    struct http1 parser;
    assert_true(sizeof(parser) <= 512);
    http1_init(&parser, HTTP1_REQUEST);
    for (int round = 0; round < 3; round++) {
        struct span input = SPAN("GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n");
        assert_int_equal(next(&parser, &input), HTTP1_HEAD);
        assert_int_equal(next(&parser, &input), HTTP1_END);
        http1_reset(&parser);
        assert_int_equal(next(&parser, &input), HTTP1_MORE); /* the empty line */
        assert_true(http1_idle(&parser));
        http1_trim(&parser);
        assert_null(parser.bytes.data);
        assert_null(parser.headers);
    }
    http1_release(&parser);
    http1_release(NULL);
}

static void an_end_can_be_told_twice(void **state)
{
    (void)state;
    struct http1 parser;
    http1_init(&parser, HTTP1_RESPONSE);
    struct span input = SPAN("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nrest");
    assert_int_equal(next(&parser, &input), HTTP1_HEAD);
    assert_int_equal(next(&parser, &input), HTTP1_END);
    http1_end_again(&parser);
    assert_int_equal(next(&parser, &input), HTTP1_END);
    assert_int_equal(next(&parser, &input), HTTP1_MORE);
    assert_int_equal(input.len, 4);
    http1_release(&parser);
}

static void each_failed_allocation_is_reported(void **state)
{
    (void)state;
    unsigned failures = 0;
    for (uint64_t nth = 0;; nth++) {
        struct http1 parser;
        struct span input = SPAN("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), body;
        enum http1_event event;
        http1_init(&parser, HTTP1_REQUEST);
        fault_arm(FAULT_ALLOC, nth, 1);
        enum err err = http1_next(&parser, &input, &event, &body);
        fault_disarm_all();
        http1_release(&parser);
        if (err == OK)
            break;
        assert_int_equal(err, ERR_NOMEM);
        failures++;
    }
    assert_true(failures >= 2);
}

static void writers_refuse_what_would_end_a_line(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT(200);
    static const struct {
        struct span name, value;
    } bad[] = {
        { { "A", 1 }, { "b\rc", 3 } }, { { "A", 1 }, { "b\nc", 3 } },   { { "A", 1 }, { "b\0c", 3 } },
        { { "A", 1 }, { "\x7F", 1 } }, { { "A b", 3 }, { "c", 1 } },    { { "A:", 2 }, { "c", 1 } },
        { { "", 0 }, { "c", 1 } },     { { "A\r\nB", 4 }, { "c", 1 } },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(http1_write_header(&buf, bad[i].name, bad[i].value), ERR_INVALID);
    assert_int_equal(http1_write_request_line(&buf, SPAN("GET"), SPAN("/a b")), ERR_INVALID);
    assert_int_equal(http1_write_request_line(&buf, SPAN("GET"), SPAN("/a\r\nX: y")), ERR_INVALID);
    assert_int_equal(http1_write_request_line(&buf, SPAN("G T"), SPAN("/")), ERR_INVALID);
    assert_int_equal(http1_write_request_line(&buf, SPAN("GET"), SPAN("")), ERR_INVALID);
    assert_int_equal(buf.len, 0);
    buf_release(&buf);
    buf_init(&buf, 8);
    assert_int_equal(http1_write_header(&buf, SPAN("Name"), SPAN("long")), ERR_FULL);
    assert_int_equal(buf.len, 0);
    buf_release(&buf);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT(4096);
    assert_int_equal(http1_write_status_line(&buf, 429), OK);
    assert_int_equal(http1_write_header(&buf, SPAN("Transfer-Encoding"), SPAN("chunked")), OK);
    assert_int_equal(http1_write_header_u64(&buf, SPAN("Retry-After"), 3), OK);
    assert_int_equal(http1_write_head_end(&buf), OK);
    assert_int_equal(http1_write_chunk_size(&buf, 26), OK);
    assert_int_equal(buf_append(&buf, SPAN("abcdefghijklmnopqrstuvwxyz")), OK);
    assert_int_equal(buf_append(&buf, HTTP1_CHUNK_END), OK);
    assert_int_equal(buf_append(&buf, HTTP1_LAST_CHUNK), OK);
    struct http1 parser;
    enum http1_event event;
    struct span input = buf_span(&buf), body;
    http1_init(&parser, HTTP1_RESPONSE);
    assert_int_equal(next(&parser, &input), HTTP1_HEAD);
    assert_int_equal(http1_head(&parser)->status, 429);
    assert_span(http1_head(&parser)->reason, "Too Many Requests");
    assert_int_equal(http1_next(&parser, &input, &event, &body), OK);
    assert_span(body, "abcdefghijklmnopqrstuvwxyz");
    assert_int_equal(next(&parser, &input), HTTP1_END);
    assert_int_equal(input.len, 0);
    http1_release(&parser);
    buf_release(&buf);
}

/* Sixteen at a time finds what one at a time finds: each byte, at each place of a block and behind it. */
static void a_value_ends_where_its_bytes_do(void **state)
{
    (void)state;
    char text[40];
    for (unsigned byte = 0; byte < 256; byte++) {
        for (size_t at = 0; at < sizeof(text); at++) {
            memset(text, 'a', sizeof(text));
            text[at] = (char)byte;
            const char *end = text + sizeof(text), *expected = http1_is((char)byte, HTTP1_VALUE) ? end : text + at;
            assert_ptr_equal(http1_value_run(text, end), expected);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_ends_where_its_bytes_do),
        cmocka_unit_test(a_request_is_reported),
        cmocka_unit_test(keep_alive_follows_version_and_connection),
        cmocka_unit_test(refusals_can_be_told_apart),
        cmocka_unit_test(the_largest_head_is_taken),
        cmocka_unit_test(responses_end_as_they_should),
        cmocka_unit_test(a_cut_message_is_told_from_a_complete_one),
        cmocka_unit_test(an_idle_connection_costs_little),
        cmocka_unit_test(an_end_can_be_told_twice),
        cmocka_unit_test(each_failed_allocation_is_reported),
        cmocka_unit_test(writers_refuse_what_would_end_a_line),
        cmocka_unit_test(what_is_written_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
