#include "dataplane/worker/h2_head.h"
#include "common/fault.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* "name=value|name=value": fields in order. "\\" before '|' is not known: no test needs it. */
static enum err judge_within(struct h2_head *head, const char *text, bool ends, size_t bytes, size_t fields)
{
    struct span rest = span_cstr(text), one;
    h2_head_init(head, bytes, fields);
    while (span_split(&rest, '|', &one)) {
        size_t at = span_find_byte(one, '=');
        assert_true(at != SIZE_MAX);
        h2_head_add(head, span_head(one, at), span_skip(one, at + 1));
    }
    return h2_head_done(head, ends);
}
static enum err judge(struct h2_head *head, const char *text)
{
    return judge_within(head, text, false, 32768, 100);
}

#define POST ":method=POST|:scheme=https|:authority=a.example:8443|:path=/v1/x?q=1"

static void presents_a_request_as_http1_does(void **state)
{
    (void)state;
    struct h2_head h;
    assert_int_equal(judge(&h, POST "|authorization=Bearer k|content-length=12|expect=100-Continue|x-empty="), OK);
    assert_int_equal(h.head.method, HTTP1_POST);
    assert_true(span_eq(h.head.method_name, SPAN("POST")));
    assert_true(span_eq(h.head.target, SPAN("/v1/x?q=1")));
    assert_true(span_eq(h.head.path, SPAN("/v1/x")));
    assert_true(span_eq(h.head.query, SPAN("q=1")));
    assert_true(span_eq(h.head.authority, SPAN("a.example:8443")));
    assert_int_equal(h.head.header_count, 4);
    assert_true(span_eq(http1_find(&h.head, SPAN("authorization"))->value, SPAN("Bearer k")));
    assert_true(span_eq(h.head.headers[3].name, SPAN("x-empty")));
    assert_int_equal(h.head.headers[3].value.len, 0);
    assert_int_equal(h.head.content_length, 12);
    assert_int_equal(h.head.version_minor, 1);
    assert_true(h.head.has_body && h.head.keep_alive && h.head.expect_continue);
    assert_false(h.head.chunked);
    h2_head_release(&h);
    assert_int_equal(judge_within(&h, ":method=GET|:scheme=http|:path=/|host=h", true, 32768, 100), OK);
    assert_true(span_eq(h.head.authority, SPAN("h")));
    assert_false(h.head.has_body);
    assert_int_equal(h.head.content_length, -1);
    h2_head_release(&h);
    assert_int_equal(judge(&h, POST "|expect=200-ok"), OK);
    assert_true(h.head.expect_unknown && !h.head.expect_continue);
    h2_head_release(&h);
    assert_int_equal(judge(&h, ":method=OPTIONS|:scheme=http|:path=*|:authority=h|host=H|te=trailers"), OK);
    assert_true(span_eq(h.head.path, SPAN("*")));
    h2_head_release(&h);
    assert_int_equal(judge(&h, POST "|content-length=0"), OK);
    assert_false(h.head.has_body);
    h2_head_release(&h);
}

static void refuses_what_http1_would(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        enum err err;
    } cases[] = {
        { ":scheme=http|:authority=a|:path=/", ERR_INVALID },
        { ":method=GET|:authority=a|:path=/", ERR_INVALID },
        { ":method=GET|:scheme=http|:authority=a", ERR_INVALID },
        { ":method=GET|:scheme=http|:path=/", ERR_INVALID },
        { ":method=GET|:scheme=http|:authority=a|:path=", ERR_SYNTAX },
        { ":method=GET|:scheme=http|:authority=a|:path=x", ERR_SYNTAX },
        { ":method=GET|:scheme=http|:authority=a|:path=*", ERR_SYNTAX },
        { ":method=GET|:scheme=http|:authority=a|:path=/a b", ERR_SYNTAX },
        { ":method=GET|:scheme=http|:authority=a|:path=/#f", ERR_SYNTAX },
        { ":method=GET|:scheme=http|:authority=a|:path=/%4", ERR_SYNTAX },
        { ":method=GET|:scheme=http|:authority=a|:path=http://b/", ERR_SYNTAX },
        { ":method=GET|:scheme=ftp|:authority=a|:path=/", ERR_UNSUPPORTED },
        { ":method=BREW|:scheme=http|:authority=a|:path=/", ERR_UNSUPPORTED },
        { ":method=get|:scheme=http|:authority=a|:path=/", ERR_UNSUPPORTED },
        { ":method=CONNECT|:authority=a:1", ERR_UNSUPPORTED },
        { POST "|:method=POST", ERR_DUPLICATE },
        { POST "|:path=/", ERR_DUPLICATE },
        { POST "|:authority=b", ERR_DUPLICATE },
        { POST "|:scheme=http", ERR_DUPLICATE },
        { POST "|:status=200", ERR_INVALID },
        { POST "|:protocol=websocket", ERR_INVALID },
        { ":method=POST|x=1|:scheme=http|:authority=a|:path=/", ERR_INVALID },
        { ":method=GET|:scheme=http|:authority=u@a|:path=/", ERR_INVALID },
        { ":method=GET|:scheme=http|:authority=a,b|:path=/", ERR_INVALID },
        { POST "|host=other.example", ERR_INVALID },
        { POST "|host=a.example:8443|host=a.example:8443", ERR_DUPLICATE },
        { POST "|host=a b", ERR_INVALID },
        { POST "|X-Upper=1", ERR_SYNTAX },
        { POST "|x y=1", ERR_SYNTAX },
        { POST "|x:y=1", ERR_SYNTAX },
        { POST "|=1", ERR_SYNTAX },
        { POST "|x=a\rb", ERR_SYNTAX },
        { POST "|x=a\nb", ERR_SYNTAX },
        { POST "|x=a\x01", ERR_SYNTAX },
        { POST "|x=a\x7f", ERR_SYNTAX },
        { POST "|x= a", ERR_SYNTAX },
        { POST "|x=a\t", ERR_SYNTAX },
        { POST "|connection=close", ERR_INVALID },
        { POST "|keep-alive=1", ERR_INVALID },
        { POST "|proxy-connection=close", ERR_INVALID },
        { POST "|transfer-encoding=chunked", ERR_INVALID },
        { POST "|upgrade=h2c", ERR_INVALID },
        { POST "|te=gzip", ERR_INVALID },
        { POST "|content-length=1|content-length=1", ERR_DUPLICATE },
        { POST "|content-length=", ERR_INVALID },
        { POST "|content-length=+1", ERR_INVALID },
        { POST "|content-length=-1", ERR_INVALID },
        { POST "|content-length=1,1", ERR_INVALID },
        { POST "|content-length=0x1", ERR_INVALID },
        { POST "|content-length=9223372036854775808", ERR_INVALID },
        { POST "|content-length=00000000000000000001", ERR_INVALID },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct h2_head h;
        const enum err err = judge(&h, cases[i].fields);
        if (err != cases[i].err || (err && !h.why))
            fail_msg("%s: %s (%s)", cases[i].fields, err_name(err), h.why ? h.why : "no reason");
        h2_head_release(&h);
    }
    struct h2_head h;
    assert_int_equal(judge_within(&h, POST "|content-length=1", true, 32768, 100), ERR_INVALID);
    h2_head_release(&h);
    assert_int_equal(judge_within(&h, POST "|content-length=0", true, 32768, 100), OK);
    h2_head_release(&h);
}

static void a_zero_byte_is_a_control_character(void **state)
{
    (void)state;
    struct h2_head h;
    h2_head_init(&h, 32768, 100);
    h2_head_add(&h, SPAN("x"), span_of("a\0b", 3));
    assert_int_equal(h2_head_done(&h, true), ERR_SYNTAX);
    h2_head_release(&h);
}

static void holds_its_limits_to_the_byte(void **state)
{
    (void)state;
    struct h2_head h;
    const char *text = POST "|a=1|b=2";
    assert_int_equal(judge(&h, text), OK);
    const size_t size = h.size;
    h2_head_release(&h);
    assert_int_equal(judge_within(&h, text, false, size, 2), OK);
    h2_head_release(&h);
    assert_int_equal(judge_within(&h, text, false, size - 1, 2), ERR_TOO_LARGE);
    assert_int_equal(h.size, size); /* counted all the same */
    h2_head_release(&h);
    assert_int_equal(judge_within(&h, text, false, size, 1), ERR_TOO_MANY);
    h2_head_release(&h);
}

static void survives_each_failed_allocation(void **state)
{
    (void)state;
    char text[2048] = POST;
    for (unsigned i = 0; i < 40; i++) {
        size_t len = strlen(text);
        snprintf(text + len, sizeof(text) - len, "|header-%u=some value", i);
    }
    bool done = false;
    for (unsigned k = 0; k < 100 && !done; k++) {
        struct h2_head h;
        fault_arm(FAULT_ALLOC, k, 1);
        const enum err err = judge(&h, text);
        done = fault_seen(FAULT_ALLOC) <= k;
        fault_disarm_all();
        assert_int_equal(err, done ? OK : ERR_NOMEM);
        assert_true(h2_head_memory(&h) > 0 || err);
        h2_head_release(&h);
    }
    assert_true(done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presents_a_request_as_http1_does),   cmocka_unit_test(refuses_what_http1_would),
        cmocka_unit_test(a_zero_byte_is_a_control_character), cmocka_unit_test(holds_its_limits_to_the_byte),
        cmocka_unit_test(survives_each_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
