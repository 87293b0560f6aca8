#include "common/log.h"
#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int ends[2];
static char *line; /* what log_write wrote last */
static size_t line_len;
static char storage[65536];
static uint64_t fixed_ns(void *user UNUSED)
{
    return 0;
}
static int64_t fixed_wall(void *user UNUSED)
{
    return INT64_C(1795340880123);
}

static int set_up(void **state UNUSED)
{
    static const struct clock_source source = { .monotonic_ns = fixed_ns, .wall_ms = fixed_wall };
    clock_replace(&source);
    log_setup("test", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    if (pipe2(ends, O_NONBLOCK) != 0)
        return -1;
    log_set_fd(ends[1]);
    return 0;
}

static int tear_down(void **state UNUSED)
{
    clock_replace(NULL);
    log_set_fd(2);
    return close(ends[0]) | close(ends[1]);
}

static const char *take(void)
{
    ssize_t got = read(ends[0], storage, sizeof storage - 1);
    line_len = got > 0 ? (size_t)got : 0;
    storage[line_len] = '\0';
    line = storage;
    return line;
}

/* The line behind its pid, which differs from run to run. */
static const char *take_event(void)
{
    const char *at = strstr(take(), "event");
    return at ? at : line;
}

static void one_event_is_one_line_of_text(void **state UNUSED)
{
    log_info("worker.started", LOG_U64("slot", 3), LOG_STR("version", "0.1.0"), LOG_I64("delta", -5),
             LOG_ERR(ERR_FULL));
    char expected[256];
    (void)snprintf(expected, sizeof expected,
                   "time=2026-11-22T09:48:00.123Z level=info program=test pid=%ld event=worker.started slot=3 "
                   "version=0.1.0 delta=-5 error=full\n",
                   (long)getpid());
    assert_string_equal(take(), expected);
    log_warn("bare");
    assert_string_equal(take_event(), "event=bare\n");
}

static void json_lines(void **state UNUSED)
{
    log_setup("test", LOG_LEVEL_DEBUG, LOG_FORMAT_JSON);
    log_debug("e", LOG_U64("n", UINT64_MAX), LOG_I64("i", INT64_MIN),
              LOG_SPAN("s", SPAN("a\"\\\n\t\x7f\x01\xc3\xa9\xff")), LOG_STR("none", NULL));
    char expected[512];
    (void)snprintf(
        expected, sizeof expected,
        "{\"time\":\"2026-11-22T09:48:00.123Z\",\"level\":\"debug\",\"program\":\"test\",\"pid\":%ld,\"event\":\"e\","
        "\"n\":18446744073709551615,\"i\":-9223372036854775808,"
        "\"s\":\"a\\\"\\\\\\n\\u0009\\u007f\\u0001\xc3\xa9\xef\xbf\xbd\",\"none\":\"\"}\n",
        (long)getpid());
    assert_string_equal(take(), expected);
}

static void text_is_quoted_where_it_must_be(void **state UNUSED)
{
    log_info("e", LOG_STR("a", ""), LOG_STR("b", "two words"), LOG_STR("c", "x=y"), LOG_STR("d", "say \"hi\""),
             LOG_STR("e", "forged\nlevel=error"), LOG_STR("f", "\x1b[31m"), LOG_STR("g", "\xc3\xa9"),
             LOG_STR("h", "\xc2\x9b"), LOG_STR("i", "\xc0\xaf"));
    assert_string_equal(take_event(), "event=e a=\"\" b=\"two words\" c=\"x=y\" d=\"say \\\"hi\\\"\" "
                                      "e=\"forged\\nlevel=error\" f=\"\\x1b[31m\" g=\"\xc3\xa9\" h=\"\\u009b\" "
                                      "i=\"\\xc0\\xaf\"\n");
}

static void levels(void **state UNUSED)
{
    log_setup("test", LOG_LEVEL_WARN, LOG_FORMAT_TEXT);
    assert_false(log_enabled(LOG_LEVEL_INFO));
    log_info("quiet");
    log_debug("quiet");
    assert_string_equal(take(), "");
    log_error("loud");
    assert_string_equal(take_event(), "event=loud\n");
    assert_non_null(strstr(line, " level=error "));
    enum log_level level = LOG_LEVEL_DEBUG;
    assert_int_equal(log_parse_level(SPAN("warn"), &level), OK);
    assert_int_equal(level, LOG_LEVEL_WARN);
    assert_int_equal(log_parse_level(SPAN("WARN"), &level), ERR_INVALID);
    assert_int_equal(log_parse_level(SPAN("warning"), &level), ERR_INVALID);
    assert_int_equal(level, LOG_LEVEL_WARN);
    enum log_format format = LOG_FORMAT_TEXT;
    assert_int_equal(log_parse_format(SPAN("json"), &format), OK);
    assert_int_equal(format, LOG_FORMAT_JSON);
    assert_int_equal(log_parse_format(SPAN("text"), &format), OK);
    assert_int_equal(format, LOG_FORMAT_TEXT);
    assert_int_equal(log_parse_format(SPAN("xml"), &format), ERR_INVALID);
}

static void secrets_are_never_printed(void **state UNUSED)
{
    static const char *const keys[] = { "authorization", "Authorization",      "key",    "api_key",
                                        "x-api-key",     "credential",         "token",  "access_token",
                                        "password",      "db-password",        "secret", "cookie",
                                        "set-cookie",    "Proxy-Authorization" };
    for (size_t format = LOG_FORMAT_TEXT; format <= LOG_FORMAT_JSON; format++) {
        log_setup("test", LOG_LEVEL_INFO, (enum log_format)format);
        for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
            log_info("e", LOG_STR(keys[i], "hunter2"));
            assert_non_null(strstr(take(), "[redacted]"));
            assert_null(strstr(line, "hunter2"));
            log_info("e", LOG_U64(keys[i], 987654321));
            assert_null(strstr(take_event(), "987654321"));
        }
        static const char *const values[] = { "sk-hunter2", "fl-hunter2", "Bearer hunter2", "bearer hunter2",
                                              " sk-hunter2" };
        for (size_t i = 0; i < ARRAY_LEN(values); i++) {
            log_info("e", LOG_STR("value", values[i]));
            assert_non_null(strstr(take(), "[redacted]"));
            assert_null(strstr(line, "hunter2"));
        }
    }
    log_setup("test", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_info("e", LOG_STR("key_id", "k7"), LOG_U64("tokens", 12), LOG_STR("monkey", "m"), LOG_STR("name", "task-1"));
    assert_string_equal(take_event(), "event=e key_id=k7 tokens=12 monkey=m name=task-1\n");
}

static void long_values_are_cut_between_characters(void **state UNUSED)
{
    static char text[10000];
    memset(text, 'x', sizeof text);
    log_info("e", LOG_SPAN("v", span_of(text, 2048)));
    assert_int_equal(strlen(take_event()), strlen("event=e v=\n") + 2048);
    log_info("e", LOG_SPAN("v", span_of(text, 2049)));
    assert_true(span_ends(span_cstr(take_event()), SPAN("xxx...\"\n")));
    assert_int_equal(strlen(strstr(line, "event")), strlen("event=e v=\"...\"\n") + 2048);
    memcpy(text + 2047, "\xc3\xa9", 2);
    log_info("e", LOG_SPAN("v", span_of(text, sizeof text)));
    assert_true(span_ends(span_cstr(take_event()), SPAN("xxx...\"\n")));
    assert_int_equal(strlen(strstr(line, "event")), strlen("event=e v=\"...\"\n") + 2047);
}

static void a_line_that_is_too_long_stays_well_formed(void **state UNUSED)
{
    static char noise[2048]; /* each byte becomes six in JSON */
    memset(noise, 1, sizeof noise);
    const struct log_field fields[] = { LOG_U64("first", 1), LOG_SPAN("a", span_of(noise, sizeof noise)),
                                        LOG_SPAN("b", span_of(noise, sizeof noise)), LOG_U64("last", 2) };
    log_setup("test", LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    log_write(LOG_LEVEL_INFO, "e", fields, ARRAY_LEN(fields));
    take();
    assert_true(line_len > 2048 * 6 && line_len <= 16384);
    assert_non_null(strstr(line, "\"first\":1,\"a\":\"\\u0001"));
    assert_null(strstr(line, "\"b\""));
    assert_true(span_ends(span_cstr(line), SPAN("\\u0001\",\"cut\":true}\n")));
    log_setup("test", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    struct log_field many[9];
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = (struct log_field)LOG_SPAN("a", span_of(noise, sizeof noise));
    log_write(LOG_LEVEL_INFO, "e", many, ARRAY_LEN(many));
    assert_true(span_ends(span_cstr(take()), SPAN("\\x01\" cut=true\n")));
}

static void errno_survives_and_a_dead_pipe_harms_nobody(void **state UNUSED)
{
    errno = ENOSPC;
    log_info("e");
    assert_int_equal(errno, ENOSPC);
    log_set_fd(-1);
    log_info("e");
    assert_int_equal(errno, ENOSPC);
}

static void errors_are_copied_from_their_event_on(void **state UNUSED)
{
    int copy[2];
    char text[256];
    assert_int_equal(pipe2(copy, O_NONBLOCK), 0);
    log_copy_errors(copy[1]);
    log_warn("well.enough");
    assert_true(read(copy[0], text, sizeof text) < 0);
    log_error("file.gone", LOG_STR("path", "/a b"));
    assert_non_null(strstr(take(), "program=test"));
    const ssize_t n = read(copy[0], text, sizeof text - 1);
    assert_true(n > 0);
    text[n] = '\0';
    assert_string_equal(text, "event=file.gone path=\"/a b\"\n");
    log_copy_errors(-1);
    log_error("file.gone");
    assert_true(read(copy[0], text, sizeof text) < 0);
    assert_int_equal(close(copy[0]) | close(copy[1]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_event_is_one_line_of_text, set_up, tear_down),
        cmocka_unit_test_setup_teardown(json_lines, set_up, tear_down),
        cmocka_unit_test_setup_teardown(text_is_quoted_where_it_must_be, set_up, tear_down),
        cmocka_unit_test_setup_teardown(levels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(secrets_are_never_printed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(long_values_are_cut_between_characters, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_line_that_is_too_long_stays_well_formed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(errno_survives_and_a_dead_pipe_harms_nobody, set_up, tear_down),
        cmocka_unit_test_setup_teardown(errors_are_copied_from_their_event_on, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
