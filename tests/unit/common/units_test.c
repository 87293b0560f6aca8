#include "common/units.h"
#include "common/digest.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void durations(void **state UNUSED)
{
    static const struct {
        const char *text;
        enum err err;
        uint64_t ms;
    } rows[] = {
        { "250ms", OK, 250 },
        { "3s", OK, 3000 },
        { "10m", OK, 600000 },
        { "24h", OK, 86400000 },
        { "7d", OK, 604800000 },
        { "1h30m", OK, 5400000 },
        { "1d2h3m4s5ms", OK, 93784005 },
        { "0", OK, 0 },
        { "0s", OK, 0 },
        { "18446744073709551615ms", OK, UINT64_MAX },
        { "", ERR_SYNTAX, 0 },
        { "5", ERR_SYNTAX, 0 },
        { "s", ERR_SYNTAX, 0 },
        { "-3s", ERR_SYNTAX, 0 },
        { "3 s", ERR_SYNTAX, 0 },
        { "3S", ERR_SYNTAX, 0 },
        { "3sec", ERR_SYNTAX, 0 },
        { "1.5s", ERR_SYNTAX, 0 },
        { "1h30", ERR_SYNTAX, 0 },
        { "30m1h", ERR_SYNTAX, 0 },
        { "1m1m", ERR_SYNTAX, 0 },
        { "18446744073709551616ms", ERR_TOO_LARGE, 0 },
        { "18446744073709551615s", ERR_TOO_LARGE, 0 },
        { "1s18446744073709551615ms", ERR_TOO_LARGE, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t ms = 77;
        enum err err = units_parse_duration(span_cstr(rows[i].text), &ms);
        if (err != rows[i].err || ms != (err ? 77 : rows[i].ms))
            fail_msg("'%s': %s", rows[i].text, err_name(err));
    }
}

static void formatted_durations_read_back(void **state UNUSED)
{
    char text[UNITS_TEXT_BYTES];
    assert_string_equal(units_format_duration(0, text), "0s");
    assert_string_equal(units_format_duration(250, text), "250ms");
    assert_string_equal(units_format_duration(3000, text), "3s");
    assert_string_equal(units_format_duration(90000, text), "1m30s");
    assert_string_equal(units_format_duration(86400000, text), "1d");
    assert_string_equal(units_format_duration(UINT64_MAX, text), "213503982334d14h25m51s615ms");
    struct prng prng;
    prng_seed(&prng, 8);
    for (int i = 0; i < 5000; i++) {
        uint64_t ms = prng_u64(&prng) >> (prng_u64(&prng) % 64), back;
        assert_int_equal(units_parse_duration(span_cstr(units_format_duration(ms, text)), &back), OK);
        assert_true(back == ms);
    }
}

static void sizes(void **state UNUSED)
{
    static const struct {
        const char *text;
        enum err err;
        uint64_t bytes;
    } rows[] = {
        { "1000", OK, 1000 },
        { "0", OK, 0 },
        { "12B", OK, 12 },
        { "64k", OK, 65536 },
        { "64K", OK, 65536 },
        { "64KiB", OK, 65536 },
        { "64kB", OK, 64000 },
        { "32MiB", OK, 33554432 },
        { "32M", OK, 33554432 },
        { "2MB", OK, 2000000 },
        { "1GB", OK, 1000000000 },
        { "1GiB", OK, 1073741824 },
        { "16777215T", OK, UINT64_C(16777215) << 40 },
        { "16777216T", ERR_TOO_LARGE, 0 },
        { "18446744073709551616", ERR_TOO_LARGE, 0 },
        { "", ERR_SYNTAX, 0 },
        { "k", ERR_SYNTAX, 0 },
        { "1.5M", ERR_SYNTAX, 0 },
        { "-1", ERR_SYNTAX, 0 },
        { "1 MiB", ERR_SYNTAX, 0 },
        { "1MiBs", ERR_SYNTAX, 0 },
        { "1P", ERR_SYNTAX, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t bytes = 77;
        enum err err = units_parse_bytes(span_cstr(rows[i].text), &bytes);
        if (err != rows[i].err || bytes != (err ? 77 : rows[i].bytes))
            fail_msg("'%s': %s", rows[i].text, err_name(err));
    }
}

static void shares(void **state UNUSED)
{
    static const struct {
        const char *text;
        enum err err;
        uint32_t ppm;
    } rows[] = {
        { "2%", OK, 20000 },       { "0.5%", OK, 5000 },
        { "12%", OK, 120000 },     { "100%", OK, 1000000 },
        { "0.0001%", OK, 1 },      { "0.02", OK, 20000 },
        { "1", OK, 1000000 },      { "0", OK, 0 },
        { "5e-2", OK, 50000 },     { "100.0001%", ERR_INVALID, 0 },
        { "2", ERR_INVALID, 0 },   { "99999999999999999999%", ERR_INVALID, 0 },
        { "-1%", ERR_INVALID, 0 }, { "0.00001%", ERR_INVALID, 0 }, /* finer than a millionth */
        { "%", ERR_SYNTAX, 0 },    { "", ERR_SYNTAX, 0 },
        { "2%%", ERR_SYNTAX, 0 },  { "two%", ERR_SYNTAX, 0 },
        { "2 %", ERR_SYNTAX, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint32_t ppm = 77;
        enum err err = units_parse_share(span_cstr(rows[i].text), &ppm);
        if (err != rows[i].err || ppm != (err ? 77 : rows[i].ppm))
            fail_msg("'%s': %s", rows[i].text, err_name(err));
    }
}

static void money(void **state UNUSED)
{
    static const struct {
        const char *text;
        enum err err;
        int64_t nano;
    } rows[] = {
        { "0.15", OK, 150000000 },
        { "$0.50", OK, 500000000 },
        { "5e-07", OK, 500 },
        { "1.5E+1", OK, INT64_C(15000000000) },
        { "100", OK, INT64_C(100000000000) },
        { "007", OK, INT64_C(7000000000) },
        { "0.000000001", OK, 1 },
        { "0.0000000010000", OK, 1 },
        { "1000000000000000e-24", OK, 1 },
        { "0e999999999999999999999", OK, 0 },
        { "-0", OK, 0 },
        { "9223372036.854775807", OK, INT64_MAX },
        { "9223372036.854775808", ERR_TOO_LARGE, 0 },
        { "1e999999999999999999999", ERR_TOO_LARGE, 0 },
        { "1e10", ERR_TOO_LARGE, 0 },
        { "0.0000000001", ERR_INVALID, 0 },
        { "1e-999999999999999999999", ERR_INVALID, 0 },
        { "-0.01", ERR_INVALID, 0 },
        { "-1e99", ERR_INVALID, 0 },
        { "", ERR_SYNTAX, 0 },
        { "$", ERR_SYNTAX, 0 },
        { ".5", ERR_SYNTAX, 0 },
        { "5.", ERR_SYNTAX, 0 },
        { "1e", ERR_SYNTAX, 0 },
        { "1e-", ERR_SYNTAX, 0 },
        { "+1", ERR_SYNTAX, 0 },
        { "1,5", ERR_SYNTAX, 0 },
        { "0x10", ERR_SYNTAX, 0 },
        { "1 USD", ERR_SYNTAX, 0 },
        { "nan", ERR_SYNTAX, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t nano = 77;
        enum err err = units_parse_usd(span_cstr(rows[i].text), &nano);
        if (err != rows[i].err || nano != (err ? 77 : rows[i].nano))
            fail_msg("'%s': %s", rows[i].text, err_name(err));
    }
}

static void formatted_money_reads_back(void **state UNUSED)
{
    char text[UNITS_TEXT_BYTES];
    assert_string_equal(units_format_share(0, text), "0%");
    assert_string_equal(units_format_share(1, text), "0.0001%");
    assert_string_equal(units_format_share(15000, text), "1.5%");
    assert_string_equal(units_format_share(1000000, text), "100%");
    assert_string_equal(units_format_usd(0, text), "0.00");
    assert_string_equal(units_format_usd(123000, text), "0.000123");
    assert_string_equal(units_format_usd(1, text), "0.000000001");
    assert_string_equal(units_format_usd(500000000, text), "0.50");
    assert_string_equal(units_format_usd(INT64_C(100000000000), text), "100.00");
    assert_string_equal(units_format_usd(-1500000000, text), "-1.50");
    assert_string_equal(units_format_usd(INT64_MIN, text), "-9223372036.854775808");
    struct prng prng;
    prng_seed(&prng, 9);
    for (int i = 0; i < 5000; i++) {
        int64_t nano = (int64_t)(prng_u64(&prng) >> (1 + prng_u64(&prng) % 63)), back;
        assert_int_equal(units_parse_usd(span_cstr(units_format_usd(nano, text)), &back), OK);
        assert_true(back == nano);
    }
}

static void digits_are_written(void **state UNUSED)
{
    char out[UNITS_U64_BYTES];
    static const uint64_t values[] = { 0, 9, 10, 99, 100, 1234567890, UINT64_MAX };
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        uint64_t back;
        size_t n = units_put_u64(values[i], out);
        assert_int_equal(span_to_u64(span_of(out, n), &back), OK);
        assert_true(back == values[i]);
        assert_true(n == 1 || out[0] != '0');
    }
    assert_memory_equal((units_put_padded(7, 3, out), out), "007", 3);
    assert_memory_equal((units_put_padded(1234, 2, out), out), "34", 2);
}

static void numbers_are_written_as_printf_does(void **state)
{
    (void)state;
    uint64_t power = 1;
    for (int digits = 1; digits <= UNITS_U64_BYTES; digits++, power *= 10) {
        const uint64_t values[] = { power - 1, power, power + 1, UINT64_MAX };
        for (size_t i = 0; i < ARRAY_LEN(values); i++) {
            char text[UNITS_U64_BYTES + 1] = { 0 }, expected[UNITS_U64_BYTES + 1];
            (void)snprintf(expected, sizeof(expected), "%" PRIu64, values[i]);
            assert_int_equal(units_put_u64(values[i], text), strlen(expected));
            assert_string_equal(text, expected);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_written_as_printf_does),
        cmocka_unit_test(durations),
        cmocka_unit_test(formatted_durations_read_back),
        cmocka_unit_test(sizes),
        cmocka_unit_test(shares),
        cmocka_unit_test(money),
        cmocka_unit_test(formatted_money_reads_back),
        cmocka_unit_test(digits_are_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
