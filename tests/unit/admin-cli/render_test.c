/* Tables and cells: aligned, harmless, cut only on a terminal. */
#include "admin-cli/cli.h"
#include "capture.h"
#include "common/clock.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <cmocka.h>

#define NOW_MS 1795345875000

static int64_t fixed_wall_ms(UNUSED void *user)
{
    return NOW_MS;
}

static uint64_t fixed_ns(UNUSED void *user)
{
    return 1;
}

struct fixture {
    struct cli cli;
    struct json_index ix;
    struct capture capture;
};

static void begin(struct fixture *f, const char *json)
{
    static const struct clock_source source = { .monotonic_ns = fixed_ns, .wall_ms = fixed_wall_ms };
    clock_replace(&source);
    memset(f, 0, sizeof(*f));
    arena_init(&f->cli.arena, 64u << 20);
    assert_int_equal(json_index(&f->cli.arena, span_cstr(json), &json_limits_default, &f->ix, NULL), OK);
}

static void end(struct fixture *f)
{
    arena_release(&f->cli.arena);
    clock_replace(NULL);
}

static void check_table(const char *json, const struct column *columns, size_t count, const char *expected)
{
    struct fixture f;
    begin(&f, json);
    capture_begin(&f.capture);
    render_table(&f.cli, &f.ix, 0, columns, count, "(none)");
    capture_end(&f.capture);
    assert_string_equal(f.capture.text[0], expected);
    capture_release(&f.capture);
    end(&f);
}

static void aligned(UNUSED void **state)
{
    static const struct column columns[] = { { "NAME", "name", COLUMN_TEXT },
                                             { "N", "n", COLUMN_NUMBER },
                                             { "LAST", "last", COLUMN_TEXT } };
    check_table("[{\"name\":\"a\",\"n\":1,\"last\":\"x\"},{\"name\":\"Zürich\",\"n\":1200,\"last\":\"yy\"}]", columns,
                3,
                "NAME       N  LAST\n"
                "a          1  x\n"
                "Zürich  1200  yy\n");
    /* absent, null and empty members are dashes; no trailing spaces */
    check_table("[{\"name\":\"\",\"last\":null},{}]", columns, 3,
                "NAME  N  LAST\n"
                "-     -  -\n"
                "-     -  -\n");
}

static void empty(UNUSED void **state)
{
    static const struct column columns[] = { { "NAME", "name", COLUMN_TEXT } };
    check_table("[]", columns, 1, "(none)\n");
    check_table("{}", columns, 1, "(none)\n"); /* no array at all */
}

static void nested(UNUSED void **state)
{
    static const struct column columns[] = { { "P", "^p", COLUMN_TEXT }, { "M", "m.x", COLUMN_NUMBER } };
    struct fixture f;
    begin(&f, "[{\"p\":\"a\",\"in\":[{\"m\":{\"x\":1}},{\"m\":{\"x\":2}}]},{\"p\":\"b\",\"in\":[]},{\"p\":\"c\"}]");
    capture_begin(&f.capture);
    render_nested(&f.cli, &f.ix, 0, "in", columns, 2, "");
    capture_end(&f.capture);
    assert_string_equal(f.capture.text[0], "P  M\na  1\na  2\nb  -\nc  -\n");
    capture_release(&f.capture);
    end(&f);
}

static void check_cell(const char *json, enum column_kind kind, const char *expected)
{
    struct fixture f;
    const struct column column = { "", "v", kind };
    begin(&f, json);
    assert_string_equal(render_cell(&f.cli, &f.ix, 0, &column), expected);
    end(&f);
}

static void harmless(UNUSED void **state)
{
    check_cell("{\"v\":\"a\\u001b[31mb\\nc\\u007fd\"}", COLUMN_TEXT, "a [31mb c d");
    check_cell("{\"v\":\"x\\u009b31my\"}", COLUMN_TEXT, "x 31my");           /* C1: the one-byte CSI */
    check_cell("{\"v\":\"pay\\u202egnp.exe\"}", COLUMN_TEXT, "pay gnp.exe"); /* turns the direction */
    check_cell("{\"v\":\"\\u2066x\\u2069\\u2028\"}", COLUMN_TEXT, " x  ");
    check_cell("{\"v\":\"\\u00a0é€😀\"}", COLUMN_TEXT, "\u00a0é€😀");
    check_cell("{\"v\":[\"a\\u0007\",\"b\"]}", COLUMN_LIST, "a , b");
    check_cell("{\"v\":\"\\ud800\"}", COLUMN_TEXT, "?"); /* no text at all */
    check_cell("{\"v\":[\"\\n\"]}", COLUMN_TEXT, "[\"\\n\"]");
}

/* The control plane's messages repeat what others wrote: the reason of a lock, names in a policy. */
static void harmless_and_whole(UNUSED void **state)
{
    char text[1000], expected[1000];
    struct arena arena;
    arena_init(&arena, 1u << 16);
    memset(text, 'x', sizeof(text));
    memset(expected, 'x', sizeof(expected));
    text[500] = '\x1b';
    expected[500] = ' ';
    text[sizeof(text) - 1] = expected[sizeof(expected) - 1] = '\0';
    assert_string_equal(render_whole(&arena, span_cstr(text)), expected);
    arena_release(&arena);
}

static void long_text(UNUSED void **state)
{
    char json[3000] = "{\"v\":\"", expected[3000] = "";
    for (int i = 0; i < 500; i++)
        text_add(json, sizeof(json), "é");
    text_add(json, sizeof(json), "\"}");
    for (int i = 0; i < 400; i++)
        text_add(expected, sizeof(expected), "é");
    text_add(expected, sizeof(expected), "…");
    check_cell(json, COLUMN_TEXT, expected);
}

static void lists(UNUSED void **state)
{
    check_cell("{\"v\":[\"a\",\"b\"]}", COLUMN_LIST, "a, b");
    check_cell("{\"v\":[]}", COLUMN_LIST, "-");
    check_cell("{\"v\":{}}", COLUMN_LIST, "-");
    check_cell("{\"v\":{\"regions\":[\"eu\",\"ch\"],\"max_retention_days\":0}}", COLUMN_LIST,
               "regions=eu+ch, max_retention_days=0");
}

static void numbers(UNUSED void **state)
{
    check_cell("{\"v\":1795345874000}", COLUMN_AGE, "1s");
    check_cell("{\"v\":1795345755000}", COLUMN_AGE, "2m");
    check_cell("{\"v\":1795338675000}", COLUMN_AGE, "2h");
    check_cell("{\"v\":1795173075000}", COLUMN_AGE, "2d");
    check_cell("{\"v\":1795345876000}", COLUMN_AGE, "0s"); /* from a clock that is ahead */
    check_cell("{\"v\":0}", COLUMN_AGE, "-");
    check_cell("{\"v\":1797937874500}", COLUMN_UNTIL, "in 30d"); /* a moment after it was set to 30 days */
    check_cell("{\"v\":1795349474900}", COLUMN_UNTIL, "in 60m");
    check_cell("{\"v\":1795345875000}", COLUMN_UNTIL, "expired");
    check_cell("{\"v\":0}", COLUMN_UNTIL, "-");
    check_cell("{\"v\":1795345875123}", COLUMN_TIME, "2026-11-22T11:11:15Z");
    check_cell("{\"v\":61000}", COLUMN_MS, "61s");
    check_cell("{\"v\":1234}", COLUMN_US, "1.2ms");
    check_cell("{\"v\":0}", COLUMN_US, "-");
    check_cell("{\"v\":10800}", COLUMN_NANO_USD, "0.0000108");
    check_cell("{\"v\":0}", COLUMN_NANO_USD, "-");
    check_cell("{\"v\":495463}", COLUMN_SHARE, "49.5%");
    check_cell("{\"v\":1000000}", COLUMN_SHARE, "100.0%");
    check_cell("{\"v\":2.5}", COLUMN_USD, "2.50");
    check_cell("{\"v\":0.075}", COLUMN_USD, "0.075");
    check_cell("{\"v\":0}", COLUMN_USD, "0.00");
    check_cell("{\"v\":1e-9}", COLUMN_USD, "0.000000001");
    check_cell("{\"v\":0.6666667}", COLUMN_SCORE, "0.667");
    check_cell("{\"v\":true}", COLUMN_TEXT, "yes");
    check_cell("{\"v\":\"soon\"}", COLUMN_AGE, "soon"); /* not the kind that was promised: shown as it is */
}

/* What a table looks like on a terminal so many columns wide. */
static void on_terminal(unsigned short width, const char *json, char *out, size_t out_bytes)
{
    static const struct column columns[] = { { "NAME", "name", COLUMN_TEXT }, { "TEXT", "text", COLUMN_TEXT } };
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0);
    assert_int_equal(grantpt(master), 0);
    assert_int_equal(unlockpt(master), 0);
    const int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(slave >= 0);
    const struct winsize size = { .ws_col = width, .ws_row = 24 };
    assert_int_equal(ioctl(slave, TIOCSWINSZ, &size), 0);
    struct fixture f;
    begin(&f, json);
    f.cli.terminal = true;
    fflush(stdout);
    const int saved = dup(STDOUT_FILENO);
    assert_true(dup2(slave, STDOUT_FILENO) >= 0);
    render_table(&f.cli, &f.ix, 0, columns, 2, "");
    fflush(stdout);
    assert_true(dup2(saved, STDOUT_FILENO) >= 0);
    close(saved);
    const ssize_t n = read(master, out, out_bytes - 1);
    assert_true(n > 0);
    out[n] = '\0';
    close(slave);
    close(master);
    end(&f);
}

static void cut_on_a_terminal(UNUSED void **state)
{
    static const char json[] = "[{\"name\":\"n\",\"text\":\"éééééééééééééééééééééééééééééééééééééééééééééééééé\"},{"
                               "\"name\":\"n\",\"text\":\"ok\"}]";
    char out[2048];
    on_terminal(40, json, out, sizeof(out));
    assert_string_equal(out, "NAME  TEXT\r\n"
                             "n     ééééééééééééééééééééééééééééééééé…\r\n"
                             "n     ok\r\n");
    on_terminal(200, json, out, sizeof(out));
    assert_null(strstr(out, "…"));
}

static void not_cut_elsewhere(UNUSED void **state)
{
    static const struct column columns[] = { { "T", "t", COLUMN_TEXT } };
    char json[600] = "[{\"t\":\"", expected[600] = "T\n";
    for (int i = 0; i < 390; i++) {
        text_add(json, sizeof(json), "x");
        text_add(expected, sizeof(expected), "x");
    }
    text_add(json, sizeof(json), "\"}]");
    text_add(expected, sizeof(expected), "\n");
    check_table(json, columns, 1, expected);
}

static void diagnostics_and_changes(UNUSED void **state)
{
    struct fixture f;
    begin(&f,
          "{\"d\":{\"errors\":1,\"items\":[{\"file\":\"p.yaml\",\"line\":3,\"column\":7,\"severity\":\"error\","
          "\"message\":"
          "\"no \\u001bsuch field\"}]},\"c\":[{\"kind\":\"added\",\"text\":\"route a\"},{\"kind\":\"removed\",\"text\":"
          "\"route b\"},{\"kind\":\"changed\",\"text\":\"route c\"}]}");
    capture_begin(&f.capture);
    render_diagnostics(&f.cli, &f.ix, json_get(&f.ix, 0, SPAN("d")), stderr);
    render_changes(&f.cli, &f.ix, json_get(&f.ix, 0, SPAN("c")));
    capture_end(&f.capture);
    assert_string_equal(f.capture.text[1], "p.yaml:3:7: error: no  such field\n");
    assert_string_equal(f.capture.text[0], "  + route a\n  - route b\n  ~ route c\n");
    capture_release(&f.capture);
    end(&f);
}

static void check_wrapped(const char *line, size_t indent, size_t width, const char *expected)
{
    struct capture capture;
    capture_begin(&capture);
    render_wrapped(span_cstr(line), indent, width);
    capture_end(&capture);
    assert_string_equal(capture.text[0], expected);
    capture_release(&capture);
}

static void wrapped_at_spaces(UNUSED void **state)
{
    check_wrapped("short", 2, 10, "short\n");
    check_wrapped("1234567890", 2, 10, "1234567890\n");
    check_wrapped("who  it was too dear", 5, 12, "who  it was\n     too\n     dear\n");
    check_wrapped("who  it was too dear", 50, 8, "who  it\n    was\n    too\n    dear\n");
    check_wrapped("abcdefghijkl", 1, 5, "abcde\n fghi\n jkl\n");
    check_wrapped("\xc3\xa4\xc3\xb6\xc3\xbc \xc3\xa4", 0, 4, "\xc3\xa4\xc3\xb6\xc3\xbc\n\xc3\xa4\n");
}

static void audit_entries(UNUSED void **state)
{
    static const struct column columns[] = { { "PART", "part", COLUMN_FRACTION },
                                             { "WORD", "word", COLUMN_WORD },
                                             { "WHAT", "entry", COLUMN_AUDIT } };
    check_table(
        "[{\"part\":0.5,\"word\":\"no_harm\",\"entry\":{\"message\":\"locked\",\"args\":{\"reason\":\"audit week\"}}},"
        "{\"part\":0.0025,\"entry\":{\"message\":\"v2 is live\",\"args\":{\"message\":\"cap chat\"}}},"
        "{\"part\":1,\"entry\":{\"message\":\"unlocked\",\"args\":{\"reason\":\"\"}}},"
        "{\"part\":0,\"entry\":{\"message\":\"v1 is live\"}}]",
        columns, ARRAY_LEN(columns),
        " PART  WORD     WHAT\n"
        "  50%  no harm  locked (audit week)\n"
        "0.25%  -        v2 is live (cap chat)\n"
        " 100%  -        unlocked\n"
        "   0%  -        v1 is live\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aligned),
        cmocka_unit_test(empty),
        cmocka_unit_test(nested),
        cmocka_unit_test(harmless),
        cmocka_unit_test(harmless_and_whole),
        cmocka_unit_test(long_text),
        cmocka_unit_test(lists),
        cmocka_unit_test(numbers),
        cmocka_unit_test(cut_on_a_terminal),
        cmocka_unit_test(not_cut_elsewhere),
        cmocka_unit_test(diagnostics_and_changes),
        cmocka_unit_test(wrapped_at_spaces),
        cmocka_unit_test(audit_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
