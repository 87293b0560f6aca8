#include "dataplane/route/auth.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define KEY_A "fl-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define KEY_B "fl-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static struct header_pair header(const char *name, const char *value)
{
    return (struct header_pair){ span_cstr(name), span_cstr(value) };
}

static void the_key_is_found_in_every_header(void **state)
{
    (void)state;
    const struct header_pair each[] = {
        header("Authorization", "Bearer " KEY_A),
        header("authorization", "bearer   " KEY_A " "),
        header("X-Api-Key", KEY_A),
        header("x-goog-api-key", KEY_A),
        header("api-key", KEY_A),
    };
    for (size_t i = 0; i < ARRAY_LEN(each); i++) {
        struct header_pair headers[] = { header("host", "x"), each[i], header("accept", "*/*") };
        struct span key = { NULL, 0 };
        const char *why = NULL;
        assert_int_equal(auth_extract(headers, 3, &key, &why), OK);
        assert_true(span_eq(key, SPAN(KEY_A)));
    }
}

static enum err extract(const struct header_pair *headers, size_t count)
{
    struct span key = { NULL, 0 };
    const char *why = NULL;
    enum err err = auth_extract(headers, count, &key, &why);
    assert_true((err == OK) == (why == NULL));
    assert_true((err == OK) == (key.ptr != NULL));
    return err;
}

static void conflicting_and_missing_keys_are_refused(void **state)
{
    (void)state;
    struct header_pair same[] = { header("authorization", "Bearer " KEY_A), header("x-api-key", KEY_A) };
    struct header_pair other[] = { header("authorization", "Bearer " KEY_A), header("x-api-key", KEY_B) };
    struct header_pair twice[] = { header("x-api-key", KEY_A), header("x-api-key", KEY_B) };
    struct header_pair empty[] = { header("authorization", "Bearer " KEY_A), header("x-api-key", "") };
    struct header_pair basic[] = { header("authorization", "Basic dTpw"), header("api-key", KEY_B) };
    struct header_pair bearer_like[] = { header("authorization", "BearerX " KEY_A) };
    assert_int_equal(extract(same, 2), OK);
    assert_int_equal(extract(other, 2), ERR_CONFLICT);
    assert_int_equal(extract(twice, 2), ERR_CONFLICT);
    assert_int_equal(extract(empty, 2), ERR_CONFLICT);
    assert_int_equal(extract(basic, 2), OK);
    assert_int_equal(extract(bearer_like, 1), ERR_NOT_FOUND);
    assert_int_equal(extract(NULL, 0), ERR_NOT_FOUND);
}

static void what_cannot_be_our_key_is_refused_early(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "sk-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "fl-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", /* 39 */
        "fl-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaal",
        "fl-Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "fl-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ",
        "fl-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xc3\xa4",
        "fl-",
        "",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(auth_key_well_formed(span_cstr(bad[i])));
    char made[64], huge[300] = AUTH_KEY_PREFIX;
    for (unsigned i = 0; i < 1000; i++)
        assert_true(auth_key_well_formed(span_cstr(random_id(AUTH_KEY_PREFIX, AUTH_KEY_RANDOM_LEAST, made))));
    memset(huge + 3, 'a', 290);
    assert_false(auth_key_well_formed(span_cstr(huge)));
    struct header_pair wrong[] = { header("authorization", "Bearer sk-something") };
    assert_int_equal(extract(wrong, 1), ERR_UNAUTHORIZED);
}

static void records_are_judged(void **state)
{
    (void)state;
    struct team team = { .name = SPAN("t") };
    struct team_view view = { .team = &team };
    struct key_record good = { .id = SPAN("key_1") }, revoked = { .revoked = true }, ends = { .expires_at_ms = 1000 };
    const char *why = NULL;
    assert_int_equal(auth_judge(&good, &view, 5, &why), OK);
    assert_null(why);
    assert_int_equal(auth_judge(&ends, &view, 999, &why), OK);
    assert_int_equal(auth_judge(&ends, &view, 1000, &why), ERR_UNAUTHORIZED);
    assert_non_null(strstr(why, "expired"));
    assert_int_equal(auth_judge(&revoked, &view, 5, &why), ERR_UNAUTHORIZED);
    assert_non_null(strstr(why, "revoked"));
    assert_int_equal(auth_judge(NULL, &view, 5, &why), ERR_UNAUTHORIZED);
    assert_int_equal(auth_judge(&good, NULL, 5, &why), ERR_UNAUTHORIZED);
}

static void a_key_narrows_what_its_team_may(void **state)
{
    (void)state;
    struct span routes[] = { SPAN("chat"), SPAN("bulk-*") }, models[] = { SPAN("openai/gpt-*") };
    struct span only_chat[] = { SPAN("chat") }, wide[] = { SPAN("*") };
    struct team team = { .routes = { routes, 2 }, .models = { models, 1 } };
    struct team_view view = { .team = &team };
    struct key_record plain = { .revoked = false }, narrow = { .routes = { only_chat, 1 } },
                      any = { .routes = { wide, 1 } };
    struct auth_principal p = { &plain, &view }, n = { &narrow, &view }, a = { &any, &view };
    assert_true(auth_may_route(&p, SPAN("chat")) && auth_may_route(&p, SPAN("bulk-eu")));
    assert_false(auth_may_route(&p, SPAN("private")));
    assert_true(auth_may_model(&p, SPAN("openai/gpt-4o")));
    assert_false(auth_may_model(&p, SPAN("openai/o3")));
    assert_true(auth_may_route(&n, SPAN("chat")));
    assert_false(auth_may_route(&n, SPAN("bulk-eu")));
    assert_false(auth_may_model(&n, SPAN("openai/gpt-4o")));
    assert_true(auth_may_model(&a, SPAN("openai/gpt-4o")));
    assert_false(auth_may_route(&a, SPAN("private")));
}

static void a_certificate_stands_for_a_key(void **state)
{
    (void)state;
    struct arena arena;
    struct key_record *record = NULL;
    const char *why = NULL;
    arena_init(&arena, 4096);
    assert_int_equal(auth_by_certificate(&arena, SPAN("ci.example.com"), SPAN("research"), &record), OK);
    assert_true(span_eq(record->id, SPAN("certificate:ci.example.com")));
    assert_true(span_eq(record->team, SPAN("research")));
    assert_int_equal(record->routes.count, 0); /* all of the team's */
    assert_int_equal(auth_judge(record, NULL, 1, &why), ERR_UNAUTHORIZED);
    assert_non_null(strstr(why, "client certificate"));
    arena_release(&arena);
    arena_init(&arena, 0);
    assert_int_equal(auth_by_certificate(&arena, SPAN("x"), SPAN("y"), &record), ERR_NOMEM);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_is_found_in_every_header),
        cmocka_unit_test(conflicting_and_missing_keys_are_refused),
        cmocka_unit_test(what_cannot_be_our_key_is_refused_early),
        cmocka_unit_test(records_are_judged),
        cmocka_unit_test(a_key_narrows_what_its_team_may),
        cmocka_unit_test(a_certificate_stands_for_a_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
