#include "common/json.h"
#include "common/arena.h"
#include "common/buf.h"
#include "common/fault.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <locale.h>
#include <math.h>

struct fixture {
    struct arena arena;
    struct json_index ix;
    struct json_error error;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    arena_init(&f->arena, 256u << 20);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    arena_release(&f->arena);
    free(f);
    return 0;
}

static enum err parse(struct fixture *f, struct span text)
{
    arena_reset(&f->arena);
    /* A heap copy of the exact size: AddressSanitizer sees the first byte read too many. */
    char *copy = malloc(text.len ? text.len : 1);
    memcpy(copy, text.ptr, text.len);
    assert_int_equal(arena_defer(&f->arena, free, copy), OK);
    return json_index(&f->arena, span_of(copy, text.len), &json_limits_default, &f->ix, &f->error);
}

#define SPAN_INIT(literal)                                                                                             \
    {                                                                                                                  \
        literal, sizeof(literal) - 1                                                                                   \
    } /* SPAN is no constant expression */
#define PARSE(f, text) assert_int_equal(parse((f), SPAN(text)), OK)

static void assert_span(struct span actual, struct span expected)
{
    if (!span_eq(actual, expected))
        fail_msg("got '" SPAN_FMT "', expected '" SPAN_FMT "'", SPAN_ARG(actual), SPAN_ARG(expected));
}

static void tokens_stand_in_document_order(void **state)
{
    struct fixture *f = *state;
    PARSE(f, " {\"a\": [1, {\"b\":null}, []], \"c\" :\"\\n\"} ");
    static const struct {
        enum json_kind kind;
        struct span raw;
        uint32_t next, count, escaped;
    } expected[] = {
        { JSON_OBJECT, SPAN_INIT("{\"a\": [1, {\"b\":null}, []], \"c\" :\"\\n\"}"), 10, 2, 0 },
        { JSON_STRING, SPAN_INIT("\"a\""), 2, 0, 0 },
        { JSON_ARRAY, SPAN_INIT("[1, {\"b\":null}, []]"), 8, 3, 0 },
        { JSON_NUMBER, SPAN_INIT("1"), 4, 0, 0 },
        { JSON_OBJECT, SPAN_INIT("{\"b\":null}"), 7, 1, 0 },
        { JSON_STRING, SPAN_INIT("\"b\""), 6, 0, 0 },
        { JSON_NULL, SPAN_INIT("null"), 7, 0, 0 },
        { JSON_ARRAY, SPAN_INIT("[]"), 8, 0, 0 },
        { JSON_STRING, SPAN_INIT("\"c\""), 9, 0, 0 },
        { JSON_STRING, SPAN_INIT("\"\\n\""), 10, 0, 1 },
    };
    assert_int_equal(f->ix.count, ARRAY_LEN(expected));
    for (uint32_t i = 0; i < ARRAY_LEN(expected); i++) {
        assert_int_equal(json_kind(&f->ix, i), expected[i].kind);
        assert_span(json_raw(&f->ix, i), expected[i].raw);
        assert_int_equal(f->ix.tokens[i].next, expected[i].next);
        assert_int_equal(f->ix.tokens[i].count, expected[i].count);
        assert_int_equal(f->ix.tokens[i].escaped, expected[i].escaped);
    }
}

static void children_are_reached_by_next(void **state)
{
    struct fixture *f = *state;
    PARSE(f, "[[1,2],{\"k\":[3]},4,[]]");
    uint32_t child = json_first(&f->ix, 0);
    assert_span(json_raw(&f->ix, child), SPAN("[1,2]"));
    child = json_next(&f->ix, 0, child);
    assert_span(json_raw(&f->ix, child), SPAN("{\"k\":[3]}"));
    assert_span(json_raw(&f->ix, json_get(&f->ix, child, SPAN("k"))), SPAN("[3]"));
    child = json_next(&f->ix, 0, child);
    assert_span(json_raw(&f->ix, child), SPAN("4"));
    assert_int_equal(json_first(&f->ix, child), JSON_NONE);
    child = json_next(&f->ix, 0, child);
    assert_int_equal(json_first(&f->ix, child), JSON_NONE);
    assert_int_equal(json_next(&f->ix, 0, child), JSON_NONE);
}

static void errors_say_where(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(parse(f, SPAN("{\n  \"a\": 1\n  \"b\": 2}")), ERR_SYNTAX);
    assert_int_equal(f->error.offset, 13);
    assert_int_equal(f->error.line, 3);
    assert_int_equal(f->error.column, 3);
    assert_string_equal(f->error.message, "a comma or } must follow");
    assert_int_equal(parse(f, SPAN("")), ERR_SYNTAX);
    assert_int_equal(f->error.offset, 0);
    assert_int_equal(f->error.line, 1);
    assert_int_equal(parse(f, SPAN("\"abc\\q\"")), ERR_SYNTAX);
    assert_int_equal(f->error.offset, 5);
    assert_int_equal(parse(f, SPAN("[1,]")), ERR_SYNTAX);
    assert_int_equal(f->error.offset, 3);
    assert_int_equal(json_index(&f->arena, SPAN("[1,]"), &json_limits_default, &f->ix, NULL), ERR_SYNTAX);
}

static void special_bytes_are_found_at_every_place_of_a_vector(void **state)
{
    struct fixture *f = *state;
    char text[150]; /* two of the longest steps, and all shorter ones behind them */
    static const unsigned char bad[] = { 0x00, 0x1F, 0x0A, 0x80, 0xFF, 0xC0 };
    for (size_t length = 2; length < sizeof(text); length++) {
        memset(text, 'x', length);
        text[0] = text[length - 1] = '"';
        assert_int_equal(parse(f, span_of(text, length)), OK);
        assert_int_equal(f->ix.tokens[0].end, length);
        for (size_t at = 1; at < length - 1; at++) {
            for (size_t i = 0; i < sizeof(bad); i++) {
                text[at] = (char)bad[i];
                assert_int_equal(parse(f, span_of(text, length)), ERR_SYNTAX);
                assert_int_equal(f->error.offset, at);
            }
            text[at] = '\x7F';
            assert_int_equal(parse(f, span_of(text, length)), OK);
            text[at] = '"';
            assert_int_equal(parse(f, span_of(text, length)), ERR_SYNTAX);
            assert_int_equal(f->error.offset, at + 1);
            text[at] = 'x';
        }
    }
}

/* Every sequence of up to three bytes, and four-byte ones at the borders, against the definition of UTF-8: code point
 * to bytes. */
static bool utf8_by_definition(const unsigned char *b, size_t n)
{
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    for (size_t i = 0; i < n;) {
        size_t length = b[i] < 0x80 ? 1 : b[i] >= 0xF8 ? 0 : b[i] >= 0xF0 ? 4 : b[i] >= 0xE0 ? 3 : b[i] >= 0xC0 ? 2 : 0;
        if (length == 0 || i + length > n)
            return false;
        uint32_t code = length == 1 ? b[i] : b[i] & (0x7Fu >> length);
        for (size_t k = 1; k < length; k++) {
            if ((b[i + k] & 0xC0) != 0x80)
                return false;
            code = code << 6 | (b[i + k] & 0x3Fu);
        }
        if (length > 1 && (code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)))
            return false;
        i += length;
    }
    return true;
}

static void utf8_is_judged_as_defined(void **state)
{
    struct fixture *f = *state;
    static const unsigned char probe[] = { 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0,
                                           0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF,
                                           0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF7, 0xF8, 0xFE, 0xFF };
    size_t n = sizeof(probe);
    for (size_t code = 0; code < n * n * n * n; code++) {
        unsigned char text[6] = {
            '"', probe[code % n], probe[code / n % n], probe[code / n / n % n], probe[code / n / n / n], '"'
        };
        bool accepted = json_index(&f->arena, span_of(text, 6), &json_limits_default, &f->ix, NULL) == OK;
        if (accepted != utf8_by_definition(text, 6))
            fail_msg("%02x %02x %02x %02x", text[1], text[2], text[3], text[4]);
        arena_reset(&f->arena);
    }
}

static void limits_are_told_apart(void **state)
{
    struct fixture *f = *state;
    struct json_limits limits = { .bytes_max = 10, .depth_max = 2, .tokens_max = 4 };
    assert_int_equal(json_index(&f->arena, SPAN("[1,2,3]"), &limits, &f->ix, NULL), OK);
    assert_int_equal(json_index(&f->arena, SPAN("[1,2,3,4]"), &limits, &f->ix, NULL), ERR_TOO_MANY);
    assert_int_equal(json_index(&f->arena, SPAN("[[]]"), &limits, &f->ix, NULL), OK);
    assert_int_equal(json_index(&f->arena, SPAN("[[[]]]"), &limits, &f->ix, &f->error), ERR_TOO_DEEP);
    assert_int_equal(f->error.offset, 2);
    assert_int_equal(json_index(&f->arena, SPAN("          1"), &limits, &f->ix, NULL), ERR_TOO_LARGE);
    limits.depth_max = 0;
    assert_int_equal(json_index(&f->arena, SPAN("1"), &limits, &f->ix, NULL), OK);
    assert_int_equal(json_index(&f->arena, SPAN("{}"), &limits, &f->ix, NULL), ERR_TOO_DEEP);
}

/* What lies deeper is checked all the same. */
static void deep_values_can_go_without_tokens(void **state)
{
    struct fixture *f = *state;
    const struct json_limits limits = { .bytes_max = 1000, .depth_max = 8, .tokens_max = 7, .depth_kept = 1 };
    const struct span text = SPAN("{\"a\":[1,[2,{\"b\":\"c\"}],\"d\"],\"e\":{\"f\":[]},\"g\":7}");
    assert_int_equal(json_index(&f->arena, text, &limits, &f->ix, NULL), OK);
    assert_int_equal(f->ix.count, 7);
    const uint32_t a = json_get(&f->ix, 0, SPAN("a")), e = json_get(&f->ix, 0, SPAN("e"));
    assert_true(span_eq(json_raw(&f->ix, a), SPAN("[1,[2,{\"b\":\"c\"}],\"d\"]")));
    assert_int_equal(json_count(&f->ix, a), 3);
    assert_int_equal(json_first(&f->ix, a), JSON_NONE);
    assert_int_equal(json_count(&f->ix, e), 1);
    assert_int_equal(json_get(&f->ix, e, SPAN("f")), JSON_NONE);
    assert_true(span_eq(json_raw(&f->ix, json_get(&f->ix, 0, SPAN("g"))), SPAN("7")));
    static const char *const bad[] = { "{\"a\":[1,[2,{b}]]}", "[[[1,]]]", "[[{\"a\"}]]", "[[[[}]]]", "[[[[" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(json_index(&f->arena, span_cstr(bad[i]), &limits, &f->ix, NULL), ERR_SYNTAX);
    assert_int_equal(json_index(&f->arena, SPAN("[[[[[[[[[1]]]]]]]]]"), &limits, &f->ix, NULL), ERR_TOO_DEEP);
    assert_int_equal(json_index(&f->arena, SPAN("[1,2,3,4,5,6,7]"), &limits, &f->ix, NULL), ERR_TOO_MANY);
}

static void deep_nesting_costs_no_stack(void **state)
{
    struct fixture *f = *state;
    size_t n = 1000000;
    char *text = malloc(n * 2);
    memset(text, '[', n);
    memset(text + n, ']', n);
    assert_int_equal(json_index(&f->arena, span_of(text, n * 2), &json_limits_default, &f->ix, &f->error),
                     ERR_TOO_DEEP);
    assert_int_equal(f->error.offset, 128);
    struct json_limits limits = json_limits_default;
    limits.depth_max = UINT32_MAX;
    assert_int_equal(json_index(&f->arena, span_of(text, n * 2), &limits, &f->ix, NULL), OK);
    assert_int_equal(f->ix.count, n);
    assert_int_equal(f->ix.tokens[0].next, n);
    assert_int_equal(f->ix.tokens[n - 1].end, n + 1);
    free(text);
}

static void memory_follows_tokens_not_bytes(void **state)
{
    struct fixture *f = *state;
    size_t n = 32u << 20;
    char *text = malloc(n);
    memset(text, ',', n);
    text[0] = text[n - 1] = '"';
    assert_int_equal(json_index(&f->arena, span_of(text, n), &json_limits_default, &f->ix, NULL), OK);
    assert_true(f->arena.used < 64 * 1024);
    free(text);

    arena_reset(&f->arena);
    n = 2000001; /* a million values */
    text = malloc(n);
    for (size_t i = 0; i < n; i++)
        text[i] = i % 2 ? '0' : ',';
    text[0] = '[';
    text[n - 1] = ']';
    assert_int_equal(json_index(&f->arena, span_of(text, n), &json_limits_default, &f->ix, NULL), OK);
    assert_int_equal(f->ix.count, 1000001);
    for (uint32_t i = 1; i <= 1000000; i++)
        assert_int_equal(f->ix.tokens[i].start, 2 * i - 1);
    assert_true(f->arena.used < 3 * sizeof(struct json_token) * 1000001);
    free(text);
}

static void each_failed_allocation_is_reported(void **state)
{
    struct fixture *f = *state;
    char text[20001];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = i % 2 ? '0' : ',';
    text[0] = '[';
    text[sizeof(text) - 1] = ']';
    unsigned failures = 0;
    for (uint64_t nth = 0;; nth++) {
        arena_release(&f->arena);
        fault_arm(FAULT_ALLOC, nth, 1);
        enum err err = json_index(&f->arena, span_of(text, sizeof(text)), &json_limits_default, &f->ix, &f->error);
        fault_disarm_all();
        if (err == OK)
            break;
        assert_int_equal(err, ERR_NOMEM);
        failures++;
    }
    assert_true(failures > 0);
}

static void names_are_compared_unescaped(void **state)
{
    struct fixture *f = *state;
    PARSE(f, "{\"mod\\u0065l\":1,\"b\":2,\"b\":3,\"\\ud83d\\ude00\":4,\"\":5,\"\\ud800\":6}");
    assert_span(json_raw(&f->ix, json_get(&f->ix, 0, SPAN("model"))), SPAN("1"));
    assert_span(json_raw(&f->ix, json_get(&f->ix, 0, SPAN("b"))), SPAN("2"));
    assert_span(json_raw(&f->ix, json_get(&f->ix, 0, SPAN("\xF0\x9F\x98\x80"))), SPAN("4"));
    assert_span(json_raw(&f->ix, json_get(&f->ix, 0, SPAN(""))), SPAN("5"));
    assert_int_equal(json_get(&f->ix, 0, SPAN("mode")), JSON_NONE);
    assert_int_equal(json_get(&f->ix, 0, SPAN("models")), JSON_NONE);
    assert_int_equal(json_get(&f->ix, 1, SPAN("model")), JSON_NONE);
    assert_int_equal(json_get(&f->ix, JSON_NONE, SPAN("model")), JSON_NONE);
    uint32_t value = 77;
    assert_int_equal(json_get_once(&f->ix, 0, SPAN("b"), &value), ERR_DUPLICATE);
    assert_int_equal(value, 77);
    assert_int_equal(json_get_once(&f->ix, 0, SPAN("model"), &value), OK);
    assert_span(json_raw(&f->ix, value), SPAN("1"));
    assert_int_equal(json_get_once(&f->ix, 0, SPAN("zz"), &value), OK);
    assert_int_equal(value, JSON_NONE);
    PARSE(f, "{\"model\":1,\"mode\\u006c\":2}");
    assert_int_equal(json_get_once(&f->ix, 0, SPAN("model"), &value), ERR_DUPLICATE);
}

static void strings_are_unescaped(void **state)
{
    struct fixture *f = *state;
    struct span got;
    PARSE(f, "\"plain\"");
    assert_int_equal(json_string(&f->arena, &f->ix, 0, &got), OK);
    assert_span(got, SPAN("plain"));
    assert_ptr_equal(got.ptr, f->ix.text.ptr + 1); /* borrowed */
    PARSE(f, "\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\uD834\\udd1e\\u0000z\"");
    assert_int_equal(json_string(&f->arena, &f->ix, 0, &got), OK);
    assert_span(got, SPAN("a\"\\/\b\f\n\r\tA\xC3\xA9\xE2\x82\xAC\xF0\x9D\x84\x9E\0z"));
    assert_int_equal(got.ptr[got.len], 0);
    assert_true(json_string_eq(&f->ix, 0, got));
    assert_false(json_string_eq(&f->ix, 0, span_head(got, got.len - 1)));
    static const char *lone[] = { "\"\\ud800\"",    "\"\\udc00\"",        "\"\\ud800x\"",
                                  "\"\\ud800\\n\"", "\"\\ud800\\ud800\"", "\"\\ud800\\u0041\"" };
    for (size_t i = 0; i < ARRAY_LEN(lone); i++) {
        assert_int_equal(parse(f, span_cstr(lone[i])), OK);
        assert_int_equal(json_string(&f->arena, &f->ix, 0, &got), ERR_INVALID);
        assert_false(json_string_eq(&f->ix, 0, SPAN("")));
    }
    PARSE(f, "[1]");
    assert_int_equal(json_string(&f->arena, &f->ix, 1, &got), ERR_INVALID);
}

static void whole_numbers_are_exact(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text;
        enum err err;
        int64_t value;
    } cases[] = {
        { "0", OK, 0 },
        { "-0", OK, 0 },
        { "1.0", OK, 1 },
        { "1e2", OK, 100 },
        { "120E-1", OK, 12 },
        { "-0.5e1", OK, -5 },
        { "0e999999999999999999999", OK, 0 },
        { "9223372036854775807", OK, INT64_MAX },
        { "-9223372036854775808", OK, INT64_MIN },
        { "9223372036854775808", ERR_TOO_LARGE, 0 },
        { "-9223372036854775809", ERR_TOO_LARGE, 0 },
        { "1e19", ERR_TOO_LARGE, 0 },
        { "1e999999999999999999999", ERR_TOO_LARGE, 0 },
        { "1e-999999999999999999999", ERR_INVALID, 0 },
        { "1.5", ERR_INVALID, 0 },
        { "0.1", ERR_INVALID, 0 },
        { "\"1\"", ERR_INVALID, 0 },
        { "true", ERR_INVALID, 0 },
        { "0.00000000000000000000000000001e29", OK, 1 },
        { "100000000000000000000000000000e-29", OK, 1 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t value = 77;
        assert_int_equal(parse(f, span_cstr(cases[i].text)), OK);
        if (json_i64(&f->ix, 0, &value) != cases[i].err || (cases[i].err == OK ? value != cases[i].value : value != 77))
            fail_msg("%s", cases[i].text);
    }
    uint64_t u = 77;
    PARSE(f, "[18446744073709551615,18446744073709551616,-1,-0,1.5]");
    assert_int_equal(json_u64(&f->ix, 1, &u), OK);
    assert_true(u == UINT64_MAX);
    assert_int_equal(json_u64(&f->ix, 2, &u), ERR_TOO_LARGE);
    assert_int_equal(json_u64(&f->ix, 3, &u), ERR_TOO_LARGE);
    assert_int_equal(json_u64(&f->ix, 4, &u), OK);
    assert_true(u == 0);
    assert_int_equal(json_u64(&f->ix, 5, &u), ERR_INVALID);
}

static void prices_are_exact(void **state)
{
    struct fixture *f = *state;
    int64_t value = 0;
    PARSE(f, "[5e-07,\"0.0000025\",1.5e-1,\"x\",\"\",\" 1\",\"+1\",\"1.\",1e-16,null]");
    assert_int_equal(json_decimal(&f->ix, 1, 15, &value), OK);
    assert_int_equal(value, 500000000);
    assert_int_equal(json_decimal(&f->ix, 2, 15, &value), OK);
    assert_int_equal(value, 2500000000);
    assert_int_equal(json_decimal(&f->ix, 3, 1, &value), ERR_INVALID);
    for (uint32_t token = 4; token <= 10; token++)
        assert_int_equal(json_decimal(&f->ix, token, 15, &value), ERR_INVALID);
    assert_int_equal(json_decimal_text(SPAN("0.3"), 9, &value), OK);
    assert_int_equal(value, 300000000);
    assert_int_equal(json_decimal_text(SPAN("-12.50"), 2, &value), OK);
    assert_int_equal(value, -1250);
    assert_int_equal(json_decimal_text(SPAN("00"), 2, &value), ERR_INVALID);
    assert_int_equal(json_decimal_text(SPAN("9223372036854775.808"), 3, &value), ERR_TOO_LARGE);
}

static void doubles_ignore_the_locale(void **state)
{
    struct fixture *f = *state;
    static const char *comma_locales[] = { "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8" };
    for (size_t i = 0; i < ARRAY_LEN(comma_locales); i++)
        if (setlocale(LC_ALL, comma_locales[i]))
            break;
    double value = 0;
    PARSE(f, "[1.5,-0.0,1e400,5e-324]");
    assert_int_equal(json_double(&f->ix, 1, &value), OK);
    assert_true(value >= 1.5 && value <= 1.5);
    assert_int_equal(json_double(&f->ix, 2, &value), OK);
    assert_true(signbit(value));
    assert_int_equal(json_double(&f->ix, 3, &value), ERR_TOO_LARGE);
    assert_int_equal(json_double(&f->ix, 4, &value), OK);
    assert_int_equal(json_double(&f->ix, 0, &value), ERR_INVALID);
    struct buf buf = BUF_INIT(4096);
    struct json_writer w;
    json_writer_init(&w, &buf);
    json_put_double(&w, 0.1 + 0.2);
    assert_int_equal(json_writer_end(&w), OK);
    assert_span(buf_span(&buf), SPAN("0.30000000000000004"));
    buf_release(&buf);
    setlocale(LC_ALL, "C");
}

static void writer_places_the_marks(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT(4096);
    struct json_writer w;
    json_writer_init(&w, &buf);
    json_object_open(&w);
    json_member_cstr(&w, "a\"b", "x\n\x01\x7F/\\");
    json_member_cstr(&w, "none", NULL);
    json_key(&w, SPAN("list"));
    json_array_open(&w);
    json_put_u64(&w, UINT64_MAX);
    json_put_i64(&w, INT64_MIN);
    json_put_bool(&w, true);
    json_array_open(&w);
    json_array_close(&w);
    json_object_open(&w);
    json_object_close(&w);
    json_put_double(&w, 0.1);
    json_put_double(&w, 1e300);
    json_put_double(&w, NAN);
    json_put_raw(&w, SPAN("[1 ]"));
    json_array_close(&w);
    json_member_string(&w, "utf8", SPAN("\xC3\xA9\xFF\xED\xA0\x80\xE2\x82"));
    json_member_decimal(&w, "d", 1250, 2);
    json_member_bool(&w, "f", false);
    json_object_close(&w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_span(
        buf_span(&buf),
        SPAN("{\"a\\\"b\":\"x\\n\\u0001\x7F/"
             "\\\\\",\"none\":null,\"list\":[18446744073709551615,-9223372036854775808,true,"
             "[],{},0.1,1e+300,null,[1 ]],\"utf8\":\"\xC3\xA9"
             "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\",\"d\":12.5,\"f\":false}"));
    buf_release(&buf);
}

static void a_string_is_measured_without_an_index(void **state UNUSED)
{
    const struct {
        struct span text;
        size_t length;
    } rows[] = {
        { SPAN("\""), 0 },
        { SPAN("abc\",1"), 3 },
        { SPAN("a\\\"b\\u00e9\xC3\xA9\\n\""), 14 },
        { SPAN("exactly sixteen.\"exactly sixteen."), 16 },
        { SPAN(""), SIZE_MAX },
        { SPAN("abc"), SIZE_MAX },
        { SPAN("a\\"), SIZE_MAX },
        { SPAN("a\\\""), SIZE_MAX },
        { SPAN("a\\x\""), SIZE_MAX },
        { SPAN("a\nb\""), SIZE_MAX },
        { SPAN("a\xC3\""), SIZE_MAX },
        { SPAN("\\u12\""), SIZE_MAX },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (json_string_length(rows[i].text) != rows[i].length)
            fail_msg("row %zu: %zu", i, json_string_length(rows[i].text));
}

static void as_much_is_quoted_as_fits(void **state UNUSED)
{
    /* 7 plain bytes, then two, two, six, three, four and (no UTF-8) three bytes of output */
    static const char text[] = "abcdefg\"\n\x01\xe2\x82\xac\xf0\x9f\x98\x80\xff";
    static const size_t steps[][2] = { { 7, 7 }, { 1, 2 }, { 1, 2 }, { 1, 6 }, { 3, 3 }, { 4, 4 }, { 1, 3 } };
    char whole[JSON_QUOTED_MAX(sizeof text)], out[JSON_QUOTED_MAX(sizeof text)];
    const struct span all = span_of(text, sizeof text - 1);
    const size_t length = json_quote(all, whole);
    for (size_t room = 2; room <= length + 3; room++) {
        size_t taken, in = 0, quoted = 0;
        for (size_t i = 0; i < ARRAY_LEN(steps) && quoted + steps[i][1] + 2 <= room; i++) {
            in += steps[i][0];
            quoted += steps[i][1];
        }
        if (quoted == 0 && room < 9) /* within the plain ones */
            in = quoted = room - 2;
        memset(out, '#', sizeof out);
        assert_int_equal(json_quote_some(all, room, out, &taken), quoted + 2);
        assert_int_equal(taken, in);
        assert_memory_equal(out, whole, quoted + 1);
        assert_true(out[quoted + 1] == '"' && out[quoted + 2] == '#');
    }
    size_t taken;
    assert_int_equal(json_quote_some(SPAN(""), 2, out, &taken), 2);
}

static void a_cut_character_is_left_out(void **state UNUSED)
{
    static const struct {
        const char *text;
        size_t left;
    } cases[] = { { "", 0 },          { "a", 1 },
                  { "a\xc3", 1 },     { "a\xc3\xa9", 3 },
                  { "a\xe2\x82", 1 }, { "a\xe2\x82\xac", 4 },
                  { "\xf0", 0 },      { "\xf0\x9f\x98", 0 },
                  { "\x80\x80", 2 },  { "\xf0\x9f\x98\x80", 4 } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(json_whole_characters(span_cstr(cases[i].text)).len, cases[i].left);
}

static void a_text_is_quoted_as_the_writer_does(void **state UNUSED)
{
    static const struct span texts[] = { { "", 0 },
                                         { NULL, 0 },
                                         { "a\"b\\c\n\x01\x1f", 8 },
                                         { "\xff", 1 },
                                         { "x\xe2\x82", 3 },
                                         { "\xe2\x82\xac in a longer text", 20 },
                                         { "\x02\x02\x02", 3 } };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct buf buf = BUF_INIT(256);
        struct json_writer w;
        json_writer_init(&w, &buf);
        json_put_string(&w, texts[i]);
        assert_int_equal(json_writer_end(&w), OK);
        const size_t room = JSON_QUOTED_MAX(texts[i].len);
        char *out = malloc(room); /* exactly that much: a sanitizer watches */
        assert_non_null(out);
        const size_t length = json_quote(texts[i], out);
        assert_true(length <= room);
        assert_span(span_of(out, length), buf_span(&buf));
        free(out);
        buf_release(&buf);
    }
}

static void writer_writes_decimals_exactly(void **state)
{
    (void)state;
    static const struct {
        int64_t value;
        int scale;
        const char *text;
    } cases[] = {
        { 0, 9, "0" },
        { 5, 9, "0.000000005" },
        { -1500000000, 9, "-1.5" },
        { 1000, 3, "1" },
        { 12, 0, "12" },
        { -1, 1, "-0.1" },
        { INT64_MIN, 18, "-9.223372036854775808" },
        { INT64_MAX, 0, "9223372036854775807" },
        { 7, 30, "0.000000000000000000000000000007" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf buf = BUF_INIT(100);
        struct json_writer w;
        json_writer_init(&w, &buf);
        json_put_decimal(&w, cases[i].value, cases[i].scale);
        assert_int_equal(json_writer_end(&w), OK);
        assert_span(buf_span(&buf), span_cstr(cases[i].text));
        int64_t back;
        assert_int_equal(json_decimal_text(buf_span(&buf), cases[i].scale, &back), OK);
        assert_true(back == cases[i].value);
        buf_release(&buf);
    }
}

static void writer_errors_stick(void **state)
{
    (void)state;
    struct json_writer w;
    struct buf buf = BUF_INIT(8);
    json_writer_init(&w, &buf);
    json_array_open(&w);
    json_put_cstr(&w, "longer than eight");
    json_array_close(&w);
    assert_int_equal(json_writer_end(&w), ERR_FULL);
    buf_release(&buf);
    buf_init(&buf, 1000);
    json_writer_init(&w, &buf);
    json_array_open(&w);
    assert_int_equal(json_writer_end(&w), ERR_INVALID);
    json_array_close(&w);
    assert_int_equal(json_writer_end(&w), OK);
    json_put_null(&w);
    assert_int_equal(json_writer_end(&w), ERR_INVALID);
    json_writer_init(&w, &buf);
    json_array_close(&w);
    assert_int_equal(json_writer_end(&w), ERR_INVALID);
    buf_clear(&buf);
    json_writer_init(&w, &buf);
    for (int i = 0; i < 63; i++)
        json_array_open(&w);
    assert_int_equal(w.err, OK);
    json_array_open(&w);
    assert_int_equal(w.err, ERR_TOO_DEEP);
    buf_release(&buf);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(tokens_stand_in_document_order),
        TEST(children_are_reached_by_next),
        TEST(errors_say_where),
        TEST(special_bytes_are_found_at_every_place_of_a_vector),
        TEST(utf8_is_judged_as_defined),
        TEST(limits_are_told_apart),
        TEST(deep_values_can_go_without_tokens),
        TEST(deep_nesting_costs_no_stack),
        TEST(memory_follows_tokens_not_bytes),
        TEST(each_failed_allocation_is_reported),
        TEST(names_are_compared_unescaped),
        TEST(strings_are_unescaped),
        TEST(whole_numbers_are_exact),
        TEST(prices_are_exact),
        TEST(doubles_ignore_the_locale),
        TEST(writer_places_the_marks),
        TEST(a_string_is_measured_without_an_index),
        TEST(a_text_is_quoted_as_the_writer_does),
        TEST(as_much_is_quoted_as_fits),
        TEST(a_cut_character_is_left_out),
        TEST(writer_writes_decimals_exactly),
        TEST(writer_errors_stick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
