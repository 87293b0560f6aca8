#include "admin-cli/policy_tests.h"
#include "common/buf.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 16u << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

#define HEAD "schema: fairlead/1\nkind: tests\n"

static void check_refused(const char *text, const char *expected)
{
    struct policy_tests tests;
    const char *why = "";
    assert_int_equal(policy_tests_read(&arena, "t.yaml", span_cstr(text), &tests, &why), ERR_INVALID);
    if (!span_starts(span_cstr(why), span_cstr(expected)))
        fail_msg("'%s' does not begin with '%s'", why, expected);
}

static void mistakes_are_told_with_their_place(void **state)
{
    (void)state;
    check_refused("", "t.yaml:1:1: one document");
    check_refused("schema: fairlead/1\nkind: policy\n", "t.yaml:1:1: 'schema: fairlead/1' and 'kind: tests'");
    check_refused(HEAD "tests: []\n", "t.yaml:3:8: a list of tests");
    check_refused(HEAD "polciy: x\ntests: [a]\n", "t.yaml:3:1: not a field of a file of tests");
    check_refused(HEAD "tests:\n  - {request: {team: t, model: m}, expect: {status: ok}}\n",
                  "t.yaml:4:5: a test needs a name");
    check_refused(HEAD "tests:\n  - {name: n, request: {team: t}, expect: {status: ok}}\n",
                  "t.yaml:4:24: a request needs a team and a model");
    check_refused(HEAD "tests:\n  - {name: n, request: {team: t, model: m}, expect: {}}\n",
                  "t.yaml:4:53: a test without anything expected");
    check_refused(HEAD "tests:\n  - {name: n, request: {team: t, model: m, tool: true}, expect: {status: ok}}\n",
                  "t.yaml:4:44: not a field of a request");
    check_refused(HEAD "tests:\n  - {name: n, request: {team: t, model: m, tools: 1}, expect: {status: ok}}\n",
                  "t.yaml:4:51: true or false");
    check_refused(HEAD "tests:\n  - {name: n, request: {team: t, model: m}, expect: {status: fine}}\n",
                  "t.yaml:4:62: ok, refused");
    check_refused(HEAD "tests:\n  - {name: n, request: {team: t, model: m}, expect: {first: {m: lots}}}\n",
                  "t.yaml:4:61: a share");
    check_refused(HEAD "tests:\n  - {name: n, request: {team: t, model: m}, expect: {cost_at_most_usd: much}}\n",
                  "t.yaml:4:72: an amount");
}

#define ANSWER                                                                                                         \
    "{\"verdict\":\"ok\",\"reason\":null,\"why\":\"it is served\",\"route\":\"chat\",\"candidates\":["                 \
    "{\"model\":\"a/one\",\"provider\":\"a\",\"regions\":[\"eu\"],\"tier\":1,\"eligible\":true,\"first\":0.7,"         \
    "\"estimate_usd\":0.002},"                                                                                         \
    "{\"model\":\"b/two\",\"provider\":\"b\",\"regions\":[\"eu\",\"us\"],\"tier\":1,\"eligible\":true,\"first\":0.3,"  \
    "\"estimate_usd\":0.03},"                                                                                          \
    "{\"model\":\"c/three\",\"provider\":\"c\",\"regions\":[],\"tier\":2,\"eligible\":false,\"first\":0,"              \
    "\"estimate_usd\":9}]}"

/* Failures of one expectation, by its first message ("" when it holds). */
static const char *judge(const char *expect, const char *answer)
{
    struct policy_tests tests;
    struct policy_failure failures[POLICY_FAILURES_MAX];
    struct json_index ix;
    const char *why = "";
    char *text =
        arena_printf(&arena, HEAD "tests:\n  - name: n\n    request: {team: t, model: m}\n    expect: %s\n", expect);
    if (policy_tests_read(&arena, "t.yaml", span_cstr(text), &tests, &why))
        fail_msg("%s", why);
    assert_int_equal(json_index(&arena, span_cstr(answer), &json_limits_default, &ix, NULL), OK);
    const unsigned count = policy_test_judge(&arena, &tests.items[0], &ix, 0, failures);
    if (count > 0)
        assert_int_equal(failures[0].at->line, 6);
    return count ? failures[0].message : "";
}

static void what_holds_passes(void **state)
{
    (void)state;
    static const char *const good[] = { "{status: ok}",
                                        "{models: [\"a/*\", b/two]}",
                                        "{never: [\"c/*\"]}",
                                        "{region: [eu, us]}",
                                        "{cost_at_most_usd: 0.03}",
                                        "{first: {a/one: 70%, b/two: 30%}}",
                                        "{first: {c/three: 0%}}",
                                        "{route: chat}" };
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_string_equal(judge(good[i], ANSWER), "");
    const char *refused = "{\"verdict\":\"refused\",\"reason\":\"region\",\"why\":\"no\",\"candidates\":[]}";
    assert_string_equal(judge("{status: refused, reason: region}", refused), "");
    assert_string_equal(judge("{reason: region}", refused), "");
}

static void what_does_not_hold_is_told(void **state)
{
    (void)state;
    assert_string_equal(judge("{models: \"a/*\"}", ANSWER), "b/two may serve it, which is none of them");
    assert_string_equal(judge("{never: [\"b/*\"]}", ANSWER), "b/two may serve it");
    assert_string_equal(judge("{region: eu}", ANSWER), "b/two may serve it, in region us");
    assert_string_equal(judge("{cost_at_most_usd: 0.01}", ANSWER), "b/two may serve it, for an estimated $0.03");
    assert_string_equal(judge("{first: {a/one: 69%}}", ANSWER), "it is the first choice for 70.00%");
    assert_string_equal(judge("{route: bulk}", ANSWER), "chat serves it");
    assert_string_equal(judge("{status: refused}", ANSWER), "expected refused, but it is ok: it is served");
    const char *refused = "{\"verdict\":\"refused\",\"reason\":\"too_long\",\"why\":\"no\",\"candidates\":[]}";
    assert_string_equal(judge("{region: eu}", refused), "expected ok, but it is refused: no");
    assert_string_equal(judge("{reason: region}", refused), "it is refused for another reason: too_long");
    const char *unknown = "{\"verdict\":\"ok\",\"candidates\":[{\"model\":\"a/b\",\"regions\":[],\"eligible\":true}]}";
    assert_string_equal(judge("{region: eu}", unknown), "a/b may serve it, whose regions nobody has said");
}

static void requests_are_asked_as_they_are_written(void **state)
{
    (void)state;
    struct policy_tests tests;
    struct buf out = BUF_INIT(1u << 16);
    struct json_writer w;
    const char *why = "";
    assert_int_equal(
        policy_tests_read(&arena, "t.yaml",
                          SPAN(HEAD "policy: p.yaml\ntests:\n  - {name: n, request: {team: t, model: \"12\", "
                                    "tools: true, input_tokens: 2000}, expect: {status: ok}}\n"),
                          &tests, &why),
        OK);
    assert_string_equal(tests.policy, "p.yaml");
    assert_null(tests.directory);
    json_writer_init(&w, &out);
    policy_tests_ask(&tests, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_true(
        span_eq(buf_span(&out),
                SPAN("{\"requests\":[{\"team\":\"t\",\"model\":\"12\",\"tools\":true,\"input_tokens\":2000}]}")));
    buf_release(&out);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = { T(mistakes_are_told_with_their_place), T(what_holds_passes),
                                        T(what_does_not_hold_is_told), T(requests_are_asked_as_they_are_written) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
