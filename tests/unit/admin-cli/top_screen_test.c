/* One frame: it never leaves the screen it was given, and shows what is wrong first. */
#include "admin-cli/top_screen.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct cli cli;
static struct top_sample before, then;
static struct top_change change;
static struct json_index status, providers, rollout;
static struct buf out;

static void index_of(const char *json, struct json_index *ret)
{
    assert_int_equal(json_index(&cli.lasting, span_cstr(json), &json_limits_default, ret, NULL), OK);
}

static int set_up(UNUSED void **state)
{
    cli = (struct cli){ .context = { .name = "prod" } };
    arena_init(&cli.arena, 1u << 26);
    arena_init(&cli.lasting, 1u << 26);
    buf_init(&out, 1u << 22);
    top_sample_begin(&before, 1000);
    top_sample_begin(&then, 11000);
    for (unsigned i = 0; i < 40; i++) {
        char page[512];
        snprintf(page, sizeof(page),
                 "fairlead_requests_total{route=\"route-%u\",model=\"p/model-%u\",outcome=\"ok\"} %u\n"
                 "fairlead_attempts_total{route=\"route-%u\",model=\"p/model-%u\"} %u\n",
                 i, i, 1000 - i, i, i, 1000 - i);
        assert_int_equal(top_sample_add(&then, span_cstr(page)), OK);
    }
    assert_int_equal(
        top_sample_add(&then, SPAN("fairlead_breaker_state{model=\"p/x\",state=\"open\"} 1\n"
                                   "fairlead_requests_total{route=\"e\x1b[2Jvil\",outcome=\"ok\"} 90000\n")),
        OK);
    assert_int_equal(top_compare(&cli.arena, &before, &then, &change), OK);
    index_of("{\"arms\":[{\"version\":17,\"share\":0.95},{\"version\":18,\"share\":0.05}],\"nodes\":[{\"state\":"
             "\"current\"},"
             "{\"state\":\"silent\"},{\"state\":\"current\"}],\"overrides_set\":[{\"kind\":\"block\",\"target\":\"p/"
             "model-3\","
             "\"by\":\"ann\",\"reason\":\"it \\u001b[31mleaks\"}]}",
             &status);
    index_of("{\"providers\":[{\"models\":[{\"name\":\"p/"
             "model-1\",\"health\":\"down\",\"why\":\"timeouts\",\"override\":null},"
             "{\"name\":\"p/model-0\",\"health\":\"up\",\"why\":\"\",\"override\":{\"kind\":\"block\"}}]}]}",
             &providers);
    index_of("{\"lock\":{\"by\":\"ben\",\"reason\":\"freeze\"},\"rollout\":{\"id\":\"rollout-7\",\"phase\":\"running\","
             "\"from\":17,\"to\":18,\"step\":2,\"ended_at_ms\":0,\"next_words\":\"25% in 4m\"}}",
             &rollout);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    top_sample_release(&before);
    top_sample_release(&then);
    buf_release(&out);
    arena_release(&cli.arena);
    arena_release(&cli.lasting);
    return 0;
}

static const char *frame(size_t width, size_t height, bool terminal)
{
    const struct top_view view = { .cli = &cli,
                                   .sample = &then,
                                   .change = &change,
                                   .status = &status,
                                   .providers = &providers,
                                   .rollout = &rollout,
                                   .trouble = "",
                                   .source = "this node",
                                   .wall_ms = INT64_C(1800000000000) };
    buf_clear(&out);
    assert_int_equal(top_frame(&view, width, height, terminal, &out), OK);
    return buf_cstr(&out);
}

static void has(const char *text, const char *what)
{
    if (!strstr(text, what))
        fail_msg("'%s' is not in:\n%s", what, text);
}

static void shows_all(UNUSED void **state)
{
    const char *text = frame(SIZE_MAX, SIZE_MAX, false);
    has(text, "fairlead top · prod · 08:00:00Z · policy v17 95% + v18 5% · 3 nodes: 2 current, 1 silent\n");
    has(text, "requests/s · 0 open");
    has(text, "locked    by ben: freeze\n");
    has(text, "rollout   rollout-7 running: v17 -> v18, step 2; 25% in 4m\n");
    has(text, "block     p/model-3 by ann: it  [31mleaks\n");
    has(text, "breakers  p/x open\n");
    has(text, "\nroute-39 ");
    has(text, "\np/model-39 ");
    has(text, "down: timeouts\n");
    has(text, "up, block\n");
    assert_null(strchr(text, '\x1b'));
}

static size_t lines_of(const char *text)
{
    size_t lines = 1;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static void fits_any_screen(UNUSED void **state)
{
    static const size_t sizes[][2] = { { 200, 60 }, { 80, 24 }, { 40, 10 }, { 10, 5 }, { 1, 1 }, { 300, 12 } };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        const char *text = frame(sizes[i][0], sizes[i][1], true);
        assert_true(lines_of(text) <= sizes[i][1]);
        struct span rest = span_cstr(text), line;
        while (span_split(&rest, '\n', &line)) {
            size_t columns = 0;
            for (size_t at = 0; at < line.len; at++) {
                if (line.ptr[at] == '\x1b') { /* our own: CSI ... letter */
                    while (at + 1 < line.len && !((line.ptr[at] >= 'A' && line.ptr[at] <= 'Z') ||
                                                  (line.ptr[at] >= 'a' && line.ptr[at] <= 'z')))
                        at++;
                } else if (line.ptr[at] != '\r') {
                    columns += ((unsigned char)line.ptr[at] & 0xc0) != 0x80;
                }
            }
            if (columns > sizes[i][0])
                fail_msg("%zu columns on a screen of %zu: " SPAN_FMT, columns, sizes[i][0], SPAN_ARG(line));
        }
        assert_null(strstr(text, "\x1b[2J")); /* somebody's name must not clear it */
    }
    /* Both tables are there on the usual screen, each with how many more there are. */
    const char *text = frame(80, 24, true);
    has(text, "ROUTE");
    has(text, "MODEL");
    const char *more = strstr(text, " more");
    assert_non_null(more);
    has(more + 1, " more");
}

static void says_what_it_lacks(UNUSED void **state)
{
    struct top_sample none = { 0 };
    struct top_change nothing = { 0 };
    const struct top_view view = { .cli = &cli,
                                   .sample = &none,
                                   .change = &nothing,
                                   .trouble = "no figures from x (refused)",
                                   .source = "this node" };
    buf_clear(&out);
    assert_int_equal(top_frame(&view, 80, 24, false, &out), OK);
    has(buf_cstr(&out), "control plane not asked");
    has(buf_cstr(&out), "no figures from x (refused)\n");
    has(buf_cstr(&out), "no requests yet");
    buf_clear(&out);
    assert_int_equal(top_json(&view, &out), OK);
    struct json_index ix;
    assert_int_equal(json_index(&cli.arena, buf_span(&out), &json_limits_default, &ix, NULL), OK);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = { TEST(shows_all), TEST(fits_any_screen), TEST(says_what_it_lacks) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
