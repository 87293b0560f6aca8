#include "common/span.h"
#include "common/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void comparisons(void **state UNUSED)
{
    assert_true(span_eq(SPAN("a"), span_cstr("a")));
    assert_false(span_eq(SPAN("a"), SPAN("A")));
    assert_true(span_eq(span_cstr(NULL), SPAN("")));
    assert_true(span_eq_nocase(SPAN("Content-TYPE"), SPAN("content-type")));
    assert_false(span_eq_nocase(SPAN("@"), SPAN("`"))); /* 0x20 apart, but no letters */
    assert_false(span_eq_nocase(SPAN("ab"), SPAN("abc")));
    assert_true(span_cmp(SPAN("ab"), SPAN("abc")) < 0);
    assert_true(span_cmp(SPAN("b"), SPAN("abc")) > 0);
    assert_true(span_cmp(SPAN("\x7f"), SPAN("\x80")) < 0); /* unsigned */
    assert_int_equal(span_cmp(span_cstr(NULL), SPAN("")), 0);
    assert_true(span_starts(SPAN("abc"), SPAN("ab")));
    assert_true(span_starts(SPAN("abc"), SPAN("")));
    assert_false(span_starts(SPAN("ab"), SPAN("abc")));
    assert_true(span_starts_nocase(SPAN("BEARER x"), SPAN("bearer ")));
    assert_true(span_ends(SPAN("abc"), SPAN("bc")));
    assert_false(span_ends(SPAN("c"), SPAN("bc")));
}

static void cutting(void **state UNUSED)
{
    assert_true(span_eq(span_skip(SPAN("abc"), 1), SPAN("bc")));
    assert_true(span_eq(span_skip(SPAN("abc"), 9), SPAN("")));
    assert_true(span_eq(span_head(SPAN("abc"), 2), SPAN("ab")));
    assert_true(span_eq(span_head(SPAN("abc"), SIZE_MAX), SPAN("abc")));
    assert_true(span_eq(span_trim(SPAN(" \ta b\t ")), SPAN("a b")));
    assert_true(span_eq(span_trim(SPAN(" \t ")), SPAN("")));
    assert_true(span_eq(span_trim(SPAN("\na")), SPAN("\na"))); /* a line end is not padding */
    assert_int_equal(span_find_byte(SPAN("abcb"), 'b'), 1);
    assert_true(span_find_byte(SPAN("abc"), 'x') == SIZE_MAX);
    char line[40];
    memset(line, 'x', sizeof(line));
    assert_true(span_find_eol(span_of(line, sizeof(line))) == SIZE_MAX);
    assert_true(span_find_eol(span_of(NULL, 0)) == SIZE_MAX);
    for (size_t i = sizeof(line); i-- > 0;) {
        line[i] = i % 2 ? '\r' : '\n';
        assert_int_equal(span_find_eol(span_of(line, sizeof(line))), i);
        assert_true(span_find_eol(span_of(line, i)) == SIZE_MAX);
    }
    assert_true(span_find_byte(span_cstr(NULL), 'x') == SIZE_MAX);
    assert_int_equal(span_find(SPAN("aabab"), SPAN("bab")), 2);
    assert_int_equal(span_find(SPAN("a"), SPAN("")), 0);
    assert_true(span_find(SPAN("a"), SPAN("aa")) == SIZE_MAX);
    assert_true(span_find(SPAN(""), SPAN("a")) == SIZE_MAX);
}

static void assert_split(const char *text, const char *joined)
{
    struct span rest = span_cstr(text), part;
    char got[64] = "";
    size_t len = 0;
    while (span_split(&rest, ',', &part))
        len += (size_t)snprintf(got + len, sizeof got - len, "[" SPAN_FMT "]", SPAN_ARG(part));
    assert_string_equal(got, joined);
    assert_false(span_split(&rest, ',', &part));
}

static void splitting_keeps_empty_parts(void **state UNUSED)
{
    assert_split("a,,b", "[a][][b]");
    assert_split("a", "[a]");
    assert_split("a,", "[a][]");
    assert_split(",", "[][]");
    assert_split("", "[]");
    assert_split(NULL, "");
}

static void globs(void **state UNUSED)
{
    static const struct {
        const char *pattern, *text;
        bool matches;
    } rows[] = {
        { "", "", true },
        { "", "a", false },
        { "*", "", true },
        { "*", "openai/gpt-4o", true },
        { "openai/*", "openai/a/b", true },
        { "openai/*", "azure/a", false },
        { "*-preview", "gpt-4-preview", true },
        { "*-preview", "gpt-preview-4", false },
        { "gpt-?o", "gpt-4o", true },
        { "gpt-?o", "gpt-o", false },
        { "a*b*c", "aXbYbZc", true },
        { "a*b*c", "aXbYbZ", false },
        { "**a", "bba", true },
        { "a?", "a", false },
        { "[ab]", "a", false },
        { "[ab]", "[ab]", true },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (span_glob(span_cstr(rows[i].pattern), span_cstr(rows[i].text)) != rows[i].matches)
            fail_msg("'%s' on '%s'", rows[i].pattern, rows[i].text);
    }
}

static void a_hostile_glob_ends(void **state UNUSED)
{
    char pattern[201], text[20000];
    for (size_t i = 0; i < 200; i += 2)
        memcpy(pattern + i, "*a", 2);
    pattern[200] = 'b';
    memset(text, 'a', sizeof text);
    assert_false(span_glob(span_of(pattern, sizeof pattern), span_of(text, sizeof text)));
}

static void numbers(void **state UNUSED)
{
    uint64_t u = 7;
    assert_int_equal(span_to_u64(SPAN("18446744073709551615"), &u), OK);
    assert_true(u == UINT64_MAX);
    assert_int_equal(span_to_u64(SPAN("18446744073709551616"), &u), ERR_TOO_LARGE);
    assert_int_equal(span_to_u64(SPAN("184467440737095516160"), &u), ERR_TOO_LARGE); /* wraps to 0 on the way */
    assert_int_equal(span_to_u64(SPAN("99999999999999999999999x"), &u), ERR_SYNTAX);
    static const char *const bad[] = { "", "-1", "+1", " 1", "1 ", "1.0", "0x1", "a" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(span_to_u64(span_cstr(bad[i]), &u), ERR_SYNTAX);
    assert_true(u == UINT64_MAX); /* untouched */
    int64_t s = 7;
    assert_int_equal(span_to_i64(SPAN("-9223372036854775808"), &s), OK);
    assert_true(s == INT64_MIN);
    assert_int_equal(span_to_i64(SPAN("9223372036854775807"), &s), OK);
    assert_true(s == INT64_MAX);
    assert_int_equal(span_to_i64(SPAN("9223372036854775808"), &s), ERR_TOO_LARGE);
    assert_int_equal(span_to_i64(SPAN("-9223372036854775809"), &s), ERR_TOO_LARGE);
    assert_int_equal(span_to_i64(SPAN("-0"), &s), OK);
    assert_int_equal(s, 0);
    assert_int_equal(span_to_i64(SPAN("--1"), &s), ERR_SYNTAX);
    assert_int_equal(span_to_i64(SPAN("-"), &s), ERR_SYNTAX);
}

static void distances(void **state UNUSED)
{
    assert_int_equal(span_distance(SPAN("chat"), SPAN("chat"), 2), 0);
    assert_int_equal(span_distance(SPAN("chat"), SPAN("caht"), 2), 1); /* one swap */
    assert_int_equal(span_distance(SPAN("chat"), SPAN("cat"), 2), 1);
    assert_int_equal(span_distance(SPAN("chat"), SPAN("chats"), 2), 1);
    assert_int_equal(span_distance(SPAN("chat"), SPAN("chit"), 2), 1);
    assert_int_equal(span_distance(SPAN("kitten"), SPAN("sitting"), 5), 3);
    assert_int_equal(span_distance(SPAN("ca"), SPAN("abc"), 5), 3); /* 2 where bytes may be edited twice */
    assert_int_equal(span_distance(SPAN("abcdef"), SPAN("uvwxyz"), 2), 3);
    assert_int_equal(span_distance(SPAN(""), SPAN("ab"), 2), 2);
    assert_int_equal(span_distance(SPAN(""), SPAN("abc"), 2), 3);
    char lengthy[200];
    memset(lengthy, 'a', sizeof lengthy);
    assert_int_equal(span_distance(span_of(lengthy, 200), span_of(lengthy, 200), 3), 0);
    assert_int_equal(span_distance(span_of(lengthy, 200), span_of(lengthy, 199), 3), 4);
}

/* Written from the definition, without rows or bounds. */
static unsigned plain_distance(struct span a, struct span b)
{
    if (a.len == 0 || b.len == 0)
        return (unsigned)(a.len + b.len);
    struct span a1 = span_head(a, a.len - 1), b1 = span_head(b, b.len - 1);
    unsigned best = plain_distance(a1, b1) + (a.ptr[a.len - 1] != b.ptr[b.len - 1]);
    unsigned insertion = plain_distance(a, b1) + 1, deletion = plain_distance(a1, b) + 1;
    best = insertion < best ? insertion : best;
    best = deletion < best ? deletion : best;
    if (a.len > 1 && b.len > 1 && a.ptr[a.len - 1] == b.ptr[b.len - 2] && a.ptr[a.len - 2] == b.ptr[b.len - 1]) {
        unsigned swap = plain_distance(span_head(a, a.len - 2), span_head(b, b.len - 2)) + 1;
        best = swap < best ? swap : best;
    }
    return best;
}

static void distance_equals_its_definition_within_the_bound(void **state UNUSED)
{
    struct prng prng;
    prng_seed(&prng, 1);
    for (int round = 0; round < 3000; round++) {
        char a[6], b[6];
        for (size_t i = 0; i < sizeof a; i++) {
            a[i] = (char)('a' + prng_u64(&prng) % 3);
            b[i] = (char)('a' + prng_u64(&prng) % 3);
        }
        struct span left = span_of(a, prng_u64(&prng) % 7), right = span_of(b, prng_u64(&prng) % 7);
        unsigned max = (unsigned)(prng_u64(&prng) % 7), expected = plain_distance(left, right);
        assert_int_equal(span_distance(left, right, max), expected > max ? max + 1 : expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comparisons),
        cmocka_unit_test(cutting),
        cmocka_unit_test(splitting_keeps_empty_parts),
        cmocka_unit_test(globs),
        cmocka_unit_test(a_hostile_glob_ends),
        cmocka_unit_test(numbers),
        cmocka_unit_test(distances),
        cmocka_unit_test(distance_equals_its_definition_within_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
