#include "common/clock.h"
#include "common/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static uint64_t fixed_ns(void *user)
{
    return *(uint64_t *)user;
}

static int64_t fixed_wall(void *user)
{
    return (int64_t)(*(uint64_t *)user / 1000);
}

static int restore(void **state UNUSED)
{
    clock_replace(NULL);
    return 0;
}

static void the_source_can_be_replaced(void **state UNUSED)
{
    uint64_t now = 5000000;
    const struct clock_source source = { .monotonic_ns = fixed_ns, .wall_ms = fixed_wall, .user = &now };
    clock_replace(&source);
    assert_int_equal(clock_ns(), 5000000);
    assert_int_equal(clock_ms(), 5);
    assert_int_equal(clock_wall_ms(), 5000);
    now += 1999999;
    assert_int_equal(clock_ms(), 6);
    int64_t parsed;
    assert_int_equal(clock_parse_wall(SPAN("now"), &parsed), OK);
    assert_int_equal(parsed, 6999);
}

static void the_system_clock_runs(void **state UNUSED)
{
    uint64_t first = clock_ns();
    assert_true(clock_ns() >= first);
    struct timespec real;
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &real), 0);
    int64_t difference = clock_wall_ms() - (int64_t)real.tv_sec * 1000;
    assert_in_range(difference + 1000, 0, 60000);
}

static const struct {
    int64_t ms;
    const char *text;
} moments[] = {
    { 0, "1970-01-01T00:00:00.000Z" },
    { -1, "1969-12-31T23:59:59.999Z" },
    { INT64_C(1795340880123), "2026-11-22T09:48:00.123Z" },
    { INT64_C(951782400000), "2000-02-29T00:00:00.000Z" },
    { INT64_C(951868799999), "2000-02-29T23:59:59.999Z" },
    { INT64_C(4107542400000), "2100-03-01T00:00:00.000Z" },
    { INT64_C(-62167219200000), "0000-01-01T00:00:00.000Z" },
    { INT64_C(253402300799999), "9999-12-31T23:59:59.999Z" },
};

static void known_moments(void **state UNUSED)
{
    for (size_t i = 0; i < ARRAY_LEN(moments); i++) {
        char text[CLOCK_TEXT_BYTES];
        int64_t ms;
        assert_string_equal(clock_format_wall(moments[i].ms, text), moments[i].text);
        assert_int_equal(clock_parse_wall(span_cstr(moments[i].text), &ms), OK);
        assert_true(ms == moments[i].ms);
    }
    char text[CLOCK_TEXT_BYTES];
    assert_string_equal(clock_format_wall(INT64_MAX, text), "292278994-08-17T07:12:55.807Z");
    assert_string_equal(clock_format_wall(INT64_MIN, text), "-292275055-05-16T16:47:04.192Z");
}

static void every_moment_agrees_with_libc_and_reads_back(void **state UNUSED)
{
    struct prng prng;
    prng_seed(&prng, 4);
    for (int i = 0; i < 20000; i++) {
        int64_t ms = (int64_t)(prng_u64(&prng) % UINT64_C(253402300800000)) - INT64_C(60000000000000) * (i % 2);
        char text[CLOCK_TEXT_BYTES], expected[CLOCK_TEXT_BYTES];
        int64_t in_second = (ms % 1000 + 1000) % 1000;
        time_t seconds = (time_t)((ms - in_second) / 1000);
        struct tm parts;
        assert_non_null(gmtime_r(&seconds, &parts));
        (void)snprintf(expected, sizeof expected, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ",
                       (unsigned)(parts.tm_year + 1900) % 10000, (unsigned)(parts.tm_mon + 1) % 100,
                       (unsigned)parts.tm_mday % 100, (unsigned)parts.tm_hour % 100, (unsigned)parts.tm_min % 100,
                       (unsigned)parts.tm_sec % 100, (unsigned)in_second % 1000);
        assert_string_equal(clock_format_wall(ms, text), expected);
        int64_t back;
        assert_int_equal(clock_parse_wall(span_cstr(text), &back), OK);
        assert_true(back == ms);
    }
}

static void spellings(void **state UNUSED)
{
    static const struct {
        const char *text;
        int64_t ms;
    } rows[] = {
        { "1970-01-02", 86400000 },
        { "1970-01-01T01:00:00+01:00", 0 },
        { "1969-12-31T22:30:00-01:30", 0 },
        { "1970-01-01T00:00:00-00:00", 0 },
        { "1970-01-01t00:00:01z", 1000 },
        { "1970-01-01 00:00:01Z", 1000 },
        { "1970-01-01T00:00:00.5Z", 500 },
        { "1970-01-01T00:00:00.123999999999999999999Z", 123 },
        { "1990-12-31T23:59:60Z", INT64_C(662688000000) }, /* RFC 3339, 5.8 */
        { "1996-12-19T16:39:57-08:00", INT64_C(851042397000) },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t ms;
        if (clock_parse_wall(span_cstr(rows[i].text), &ms) != OK || ms != rows[i].ms)
            fail_msg("%s", rows[i].text);
    }
}

static void what_is_no_date(void **state UNUSED)
{
    static const char *const bad[] = {
        "",
        "Now",
        "now ",
        "1970",
        "1970-01",
        "1970-1-1",
        "70-01-01",
        "1970-13-01",
        "1970-00-01",
        "1970-01-00",
        "1970-01-32",
        "2100-02-29",
        "2026-02-29",
        "2026-11-31",
        "1970-01-01T",
        "1970-01-01T00:00Z",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:60:00Z",
        "1970-01-01T00:00:61Z",
        "1970-01-01T00:00:00",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00,5Z",
        "1970-01-01T00:00:00+1:00",
        "1970-01-01T00:00:00+0100",
        "1970-01-01T00:00:00+24:00",
        "1970-01-01T00:00:00+01:60",
        "1970-01-01T00:00:00Zx",
        " 1970-01-01",
        "-970-01-01",
    };
    int64_t ms = 42;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (clock_parse_wall(span_cstr(bad[i]), &ms) != ERR_SYNTAX)
            fail_msg("accepted '%s'", bad[i]);
    }
    assert_int_equal(clock_parse_wall(span_of("1970-01-01\0", 11), &ms), ERR_SYNTAX);
    assert_int_equal(ms, 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_source_can_be_replaced, restore),
        cmocka_unit_test(the_system_clock_runs),
        cmocka_unit_test(known_moments),
        cmocka_unit_test(every_moment_agrees_with_libc_and_reads_back),
        cmocka_unit_test(spellings),
        cmocka_unit_test(what_is_no_date),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
