#include "common/opts.h"
#include "common/buf.h"
#include "common/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static const struct opt table[] = {
    { .name = "help", .letter = 'h', .kind = OPT_FLAG, .help = "Show this help" },
    { .name = "home", .kind = OPT_TEXT, .value = "DIR", .help = "Where state is kept" },
    { .name = "config", .letter = 'c', .kind = OPT_TEXT, .value = "FILE", .help = "Read settings from FILE" },
    { .name = "verbose", .letter = 'v', .kind = OPT_FLAG, .help = "Say more" },
    { .name = "set", .letter = 's', .kind = OPT_MANY, .value = "KEY=VALUE", .help = "Set one value" },
};
#define COUNT ARRAY_LEN(table)

static struct opts_result result;
static char *message;

static int tear_down(void **state UNUSED)
{
    fault_disarm_all();
    free(message);
    message = NULL;
    return 0;
}

/* argv: up to 8 words, NULL-terminated. */
static enum err parse(char *const *words)
{
    int argc = 0;
    while (words[argc])
        argc++;
    free(message);
    message = NULL;
    return opts_parse(table, COUNT, argc, words, &result, &message);
}
#define PARSE(...) parse((char *[]){ "prog", __VA_ARGS__, NULL })

static void every_spelling(void **state UNUSED)
{
    assert_int_equal(PARSE("--home", "/a", "--config=/b", "-v", "arg"), OK);
    assert_null(message);
    assert_string_equal(opts_text(&result, "home", "x"), "/a");
    assert_string_equal(opts_text(&result, "config", "x"), "/b");
    assert_true(opts_flag(&result, "verbose"));
    assert_false(opts_flag(&result, "help"));
    assert_string_equal(opts_text(&result, "set", "otherwise"), "otherwise");
    assert_null(opts_text(&result, "set", NULL));
    assert_int_equal(result.arg_count, 1);
    assert_string_equal(result.args[0], "arg");
    assert_int_equal(PARSE("-vc", "/c", "-hc/d"), OK);
    assert_true(opts_flag(&result, "help"));
    assert_string_equal(opts_text(&result, "config", "x"), "/d"); /* the last one wins */
    assert_int_equal(PARSE("--home="), OK);
    assert_string_equal(opts_text(&result, "home", "x"), "");
    assert_int_equal(PARSE("--home=a=b"), OK);
    assert_string_equal(opts_text(&result, "home", "x"), "a=b");
}

static void repeated_values_keep_their_order(void **state UNUSED)
{
    assert_int_equal(PARSE("-s", "a=1", "x", "--set=b=2", "-sc=3"), OK);
    assert_int_equal(result.given_count, 3);
    assert_string_equal(result.given[0].value, "a=1");
    assert_string_equal(result.given[1].value, "b=2");
    assert_string_equal(result.given[2].value, "c=3");
    assert_ptr_equal(result.given[2].opt, &table[4]);
}

static void two_dashes_end_the_options(void **state UNUSED)
{
    assert_int_equal(PARSE("-", "--", "-v", "--", "--home"), OK);
    assert_int_equal(result.given_count, 0);
    assert_int_equal(result.arg_count, 4);
    assert_string_equal(result.args[0], "-");
    assert_string_equal(result.args[1], "-v");
    assert_string_equal(result.args[2], "--");
    assert_string_equal(result.args[3], "--home");
    assert_int_equal(opts_parse(table, COUNT, 0, (char *[]){ NULL }, &result, &message), OK);
}

static void mistakes_are_explained(void **state UNUSED)
{
    assert_int_equal(PARSE("--hoem", "/a"), ERR_INVALID);
    assert_string_equal(message, "unknown option --hoem; did you mean --home?");
    assert_int_equal(PARSE("--hom=secret"), ERR_INVALID);
    assert_string_equal(message, "unknown option --hom; did you mean --home?"); /* the value is not repeated */
    assert_int_equal(PARSE("--completely-different"), ERR_INVALID);
    assert_string_equal(message, "unknown option --completely-different");
    assert_int_equal(PARSE("-vx"), ERR_INVALID);
    assert_string_equal(message, "unknown option -x");
    assert_int_equal(PARSE("--home"), ERR_INVALID);
    assert_string_equal(message, "option --home needs a value: --home DIR");
    assert_int_equal(PARSE("-vc"), ERR_INVALID);
    assert_string_equal(message, "option --config needs a value: --config FILE");
    assert_int_equal(PARSE("--verbose=1"), ERR_INVALID);
    assert_string_equal(message, "option --verbose takes no value");
    fault_arm(FAULT_ALLOC, 0, 1);
    assert_int_equal(PARSE("--home"), ERR_INVALID);
    assert_null(message);
}

static void counts_are_bounded(void **state UNUSED)
{
    char *words[OPTS_VALUES_MAX + 3] = { "prog" };
    for (size_t i = 1; i <= OPTS_VALUES_MAX; i++)
        words[i] = "a";
    assert_int_equal(parse(words), OK);
    assert_int_equal(result.arg_count, OPTS_VALUES_MAX);
    words[OPTS_VALUES_MAX + 1] = "a";
    assert_int_equal(parse(words), ERR_TOO_MANY);
    assert_string_equal(message, "more than 64 arguments");
    for (size_t i = 1; i <= OPTS_VALUES_MAX + 1; i++)
        words[i] = "-v";
    assert_int_equal(parse(words), ERR_TOO_MANY);
    assert_string_equal(message, "more than 64 options");
}

static void help_is_aligned(void **state UNUSED)
{
    struct buf out = BUF_INIT(10000);
    assert_int_equal(opts_help(table, COUNT, &out), OK);
    assert_string_equal(buf_cstr(&out), "  -h, --help               Show this help\n"
                                        "      --home DIR           Where state is kept\n"
                                        "  -c, --config FILE        Read settings from FILE\n"
                                        "  -v, --verbose            Say more\n"
                                        "  -s, --set KEY=VALUE ...  Set one value\n");
    buf_release(&out);
    struct buf small = BUF_INIT(30);
    assert_int_equal(opts_help(table, COUNT, &small), ERR_FULL);
    buf_release(&small);
}

static void long_help_is_wrapped(void **state UNUSED)
{
    static const struct opt rows[] = {
        { .name = "a-name-that-is-longer-than-the-column", .kind = OPT_TEXT, .value = "VALUE", .help = "Below" },
        { .name = "b",
          .kind = OPT_FLAG,
          .help = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
                  "seventeen eighteen nineteen twenty twenty-one twenty-two" },
    };
    struct buf out = BUF_INIT(10000);
    assert_int_equal(opts_help(rows, ARRAY_LEN(rows), &out), OK);
    struct span rest = buf_span(&out), text;
    unsigned lines = 0;
    while (span_split(&rest, '\n', &text)) {
        assert_true(text.len <= 100);
        assert_false(span_ends(text, SPAN(" ")));
        lines += text.len > 0;
    }
    assert_int_equal(lines, 4);
    assert_non_null(strstr(buf_cstr(&out), "VALUE\n           Below\n      --b  one two"));
    assert_non_null(strstr(buf_cstr(&out), "twenty-one twenty-two\n"));
    buf_release(&out);
}

static void a_flag_may_have_a_duration(void **state)
{
    (void)state;
    static const struct opt hold[] = { { "hold", 'H', OPT_TIME, "[TIME]", "hold" } };
    static const struct {
        const char *argv[4];
        const char *value;
    } cases[] = {
        { { "x", "--hold", "10m", "file" }, "10m" }, { { "x", "--hold", "file", NULL }, NULL },
        { { "x", "file", "--hold", NULL }, NULL },   { { "x", "--hold=5s", "file", NULL }, "5s" },
        { { "x", "-H", "1h", "file" }, "1h" },       { { "x", "-H", "file", NULL }, NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct opts_result r;
        char *said = NULL, *argv[4];
        int argc = 0;
        for (; argc < 4 && cases[i].argv[argc]; argc++)
            argv[argc] = (char *)(uintptr_t)cases[i].argv[argc];
        assert_int_equal(opts_parse(hold, 1, argc, argv, &r, &said), OK);
        assert_true(opts_flag(&r, "hold"));
        const char *value = opts_text(&r, "hold", NULL);
        assert_true(cases[i].value ? value && strcmp(value, cases[i].value) == 0 : value == NULL);
        assert_int_equal(r.arg_count, 1);
        assert_string_equal(r.args[0], "file");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_spelling, tear_down),
        cmocka_unit_test_teardown(repeated_values_keep_their_order, tear_down),
        cmocka_unit_test_teardown(two_dashes_end_the_options, tear_down),
        cmocka_unit_test_teardown(mistakes_are_explained, tear_down),
        cmocka_unit_test(a_flag_may_have_a_duration),
        cmocka_unit_test_teardown(counts_are_bounded, tear_down),
        cmocka_unit_test_teardown(help_is_aligned, tear_down),
        cmocka_unit_test_teardown(long_help_is_wrapped, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
