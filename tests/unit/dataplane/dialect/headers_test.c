#include "dataplane/dialect/headers.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define H(name, value)                                                                                                 \
    {                                                                                                                  \
        { name, sizeof(name) - 1 },                                                                                    \
        {                                                                                                              \
            value, sizeof(value) - 1                                                                                   \
        }                                                                                                              \
    }

static const struct header_pair client[] = {
    H("Host", "evil.example"),
    H("Authorization", "Bearer fl-secret"),
    H("X-Api-Key", "fl-secret"),
    H("Cookie", "session=1"),
    H("Content-Type", "application/json; charset=x"),
    H("Content-Length", "12"),
    H("Transfer-Encoding", "chunked"),
    H("Connection", "x-custom"),
    H("Accept-Encoding", "gzip, br"),
    H("Traceparent", "00-1-2-01"),
    H("OpenAI-Organization", "org-theirs"),
    H("X-Forwarded-For", "10.0.0.1"),
    H("x-fairlead-model", "forged"),
    H("Anthropic-Beta", "tools"),
    H("X-Custom", "from client"),
    H("User-Agent", "OpenAI/JS"),
};

static struct span value_of(const struct header_pair *list, unsigned count, const char *name)
{
    unsigned seen = 0;
    struct span value = { NULL, 0 };
    for (unsigned i = 0; i < count; i++)
        if (span_eq(list[i].name, span_cstr(name))) { /* names go up in lower case */
            value = list[i].value;
            seen++;
        }
    assert_true(seen <= 1);
    return value;
}

static void only_the_allowed_goes_up(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct span forward[] = { SPAN("anthropic-beta"), SPAN("cookie"), SPAN("x-forwarded-for"), SPAN("x-custom") };
    struct header_pair extra[] = { H("X-Custom", "from policy"), H("Host", "elsewhere"), H("x-team", "a") };
    struct provider provider = { .forward_headers = { forward, 4 }, .headers = extra, .header_count = 3 };
    struct header_pair *list;
    unsigned count;
    assert_int_equal(headers_up(&arena, &provider, client, ARRAY_LEN(client), true, &list, &count), OK);
    assert_int_equal(count, 7);
    assert_true(span_eq(value_of(list, count, "content-type"), SPAN("application/json")));
    assert_true(span_eq(value_of(list, count, "accept"), SPAN("text/event-stream")));
    assert_true(span_eq(value_of(list, count, "accept-encoding"), SPAN("identity")));
    assert_true(span_eq(value_of(list, count, "traceparent"), SPAN("00-1-2-01")));
    assert_true(span_eq(value_of(list, count, "anthropic-beta"), SPAN("tools")));
    assert_true(span_eq(value_of(list, count, "x-custom"), SPAN("from policy")));
    assert_true(span_eq(value_of(list, count, "x-team"), SPAN("a")));
    assert_int_equal(headers_up(&arena, &provider, NULL, 0, false, &list, &count), OK);
    assert_true(span_eq(value_of(list, count, "accept"), SPAN("application/json")));
    arena_release(&arena);
}

static void too_many_are_refused(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct header_pair many[HEADERS_MAX];
    for (size_t i = 0; i < HEADERS_MAX; i++)
        many[i] = (struct header_pair)H("tracestate", "x");
    struct provider provider = { .header_count = 0 };
    struct header_pair *list;
    unsigned count;
    assert_int_equal(headers_up(&arena, &provider, many, HEADERS_MAX, true, &list, &count), ERR_TOO_MANY);
    assert_int_equal(headers_up(&arena, &provider, many, HEADERS_MAX - 3, true, &list, &count), OK);
    arena_release(&arena);
    arena_init(&arena, 100);
    assert_int_equal(headers_up(&arena, &provider, many, 1, true, &list, &count), ERR_NOMEM);
    arena_release(&arena);
}

static void only_the_allowed_comes_down(void **state)
{
    (void)state;
    static const char *const stays[] = { "set-cookie",       "openai-organization", "openai-project",
                                         "server",           "connection",          "transfer-encoding",
                                         "content-encoding", "content-length",      "x-ratelimit-remaining-requests",
                                         "x-request-id",     "x-fairlead-model",    "strict-transport-security" };
    for (size_t i = 0; i < ARRAY_LEN(stays); i++)
        assert_false(headers_goes_down(span_cstr(stays[i])));
    assert_true(headers_goes_down(SPAN("content-type")) && headers_goes_down(SPAN("Retry-After")));
}

static void credentials_stand_in_their_header(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1 << 16);
    struct header_pair header;
    bool needed;
    assert_int_equal(headers_credential(&arena, AUTH_SCHEME_BEARER, SPAN("sk-1"), &header, &needed), OK);
    assert_true(needed && span_eq(header.name, SPAN("authorization")) && span_eq(header.value, SPAN("Bearer sk-1")));
    assert_int_equal(headers_credential(&arena, AUTH_SCHEME_API_KEY, SPAN("k"), &header, &needed), OK);
    assert_true(needed && span_eq(header.name, SPAN("api-key")) && span_eq(header.value, SPAN("k")));
    assert_int_equal(headers_credential(&arena, AUTH_SCHEME_X_API_KEY, SPAN("k"), &header, &needed), OK);
    assert_true(needed && span_eq(header.name, SPAN("x-api-key")));
    assert_int_equal(headers_credential(&arena, AUTH_SCHEME_NONE, SPAN(""), &header, &needed), OK);
    assert_false(needed);
    static const char *const bad[] = { "", "a b", "a\r\nhost: x", "a\n", "\xc3\xa4", "\x7f" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(headers_credential(&arena, AUTH_SCHEME_BEARER, span_cstr(bad[i]), &header, &needed),
                         ERR_INVALID);
    arena_release(&arena);
}

static void the_least_remaining_share_counts(void **state)
{
    (void)state;
    struct header_pair openai[] = { H("x-ratelimit-limit-requests", "1000"), H("x-ratelimit-remaining-requests", "900"),
                                    H("x-ratelimit-limit-tokens", "200"), H("X-RateLimit-Remaining-Tokens", " 50 ") };
    assert_int_equal(headers_remaining_ppm_plus_1(openai, 2), 900001);
    assert_int_equal(headers_remaining_ppm_plus_1(openai, 4), 250001);
    assert_int_equal(headers_remaining_ppm_plus_1(openai, 1), 0);
    struct header_pair odd[] = { H("x-ratelimit-limit-requests", "0"), H("x-ratelimit-remaining-requests", "5"),
                                 H("x-ratelimit-limit-tokens", "ten"), H("x-ratelimit-remaining-tokens", "1") };
    assert_int_equal(headers_remaining_ppm_plus_1(odd, 4), 0);
    struct header_pair more[] = { H("anthropic-ratelimit-tokens-limit", "5"),
                                  H("anthropic-ratelimit-tokens-remaining", "18446744073709551615") };
    assert_int_equal(headers_remaining_ppm_plus_1(more, 2), 1000001);
    struct header_pair none[] = { H("x-ratelimit-limit-requests", "9"), H("x-ratelimit-remaining-requests", "0") };
    assert_int_equal(headers_remaining_ppm_plus_1(none, 2), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_allowed_goes_up),         cmocka_unit_test(too_many_are_refused),
        cmocka_unit_test(only_the_allowed_comes_down),      cmocka_unit_test(credentials_stand_in_their_header),
        cmocka_unit_test(the_least_remaining_share_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
