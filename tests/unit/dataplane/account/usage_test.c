#include "dataplane/account/usage.h"
#include "common/arena.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct usage read_text(const char *text)
{
    struct arena arena;
    struct json_index ix;
    struct usage usage;
    arena_init(&arena, 1 << 20);
    assert_int_equal(json_index(&arena, span_cstr(text), &json_limits_default, &ix, NULL), OK);
    usage_read(&ix, 0, &usage);
    arena_release(&arena);
    return usage;
}

static void assert_usage(const char *text, struct usage expected)
{
    struct usage got = read_text(text);
    assert_int_equal(got.known, expected.known);
    assert_int_equal(got.suspect, expected.suspect);
    assert_int_equal(got.input, expected.input);
    assert_int_equal(got.cached, expected.cached);
    assert_int_equal(got.cache_write, expected.cache_write);
    assert_int_equal(got.output, expected.output);
    assert_int_equal(got.reasoning, expected.reasoning);
}

static void each_way_of_counting_is_understood(void **state)
{
    (void)state;
    assert_usage("{\"prompt_tokens\":2006,\"completion_tokens\":300,\"total_tokens\":2306,"
                 "\"prompt_tokens_details\":{\"cached_tokens\":1920,\"audio_tokens\":0},"
                 "\"completion_tokens_details\":{\"reasoning_tokens\":128}}",
                 (struct usage){ .known = true, .input = 2006, .cached = 1920, .output = 300, .reasoning = 128 });
    assert_usage("{\"prompt_tokens\":1000,\"prompt_cache_hit_tokens\":640,\"prompt_cache_miss_tokens\":360,"
                 "\"completion_tokens\":123,\"total_tokens\":1123}",
                 (struct usage){ .known = true, .input = 1000, .cached = 640, .output = 123 });
    assert_usage("{\"prompt_tokens\":8,\"total_tokens\":8}", (struct usage){ .known = true, .input = 8 });
    /* Anthropic's own names: cache counts stand beside input_tokens. */
    assert_usage("{\"input_tokens\":21,\"cache_read_input_tokens\":1800,\"cache_creation_input_tokens\":230,"
                 "\"output_tokens\":393}",
                 (struct usage){ .known = true, .input = 2051, .cached = 1800, .cache_write = 230, .output = 393 });
    /* The same counts under OpenAI's names are within prompt_tokens. */
    assert_usage("{\"prompt_tokens\":2051,\"cache_read_input_tokens\":1800,\"cache_creation_input_tokens\":230,"
                 "\"completion_tokens\":393}",
                 (struct usage){ .known = true, .input = 2051, .cached = 1800, .cache_write = 230, .output = 393 });
    /* xAI, Gemini: reasoning stands beside completion_tokens, and only the total tells. */
    assert_usage("{\"prompt_tokens\":10,\"completion_tokens\":20,\"total_tokens\":130,"
                 "\"completion_tokens_details\":{\"reasoning_tokens\":100}}",
                 (struct usage){ .known = true, .input = 10, .output = 120, .reasoning = 100 });
}

static void absence_is_not_zero(void **state)
{
    (void)state;
    assert_usage("{}", (struct usage){ .known = false });
    assert_usage("{\"prompt_tokens\":null,\"completion_tokens\":null,\"prompt_tokens_details\":null}",
                 (struct usage){ .known = false });
    assert_usage("null", (struct usage){ .known = false });
    assert_usage("[1,2]", (struct usage){ .known = false });
    assert_usage("{\"prompt_tokens\":0,\"completion_tokens\":0}", (struct usage){ .known = true });
}

static void nonsense_is_clamped_and_marked(void **state)
{
    (void)state;
    assert_usage("{\"prompt_tokens\":10,\"prompt_tokens_details\":{\"cached_tokens\":50},\"completion_tokens\":1}",
                 (struct usage){ .known = true, .suspect = true, .input = 10, .cached = 10, .output = 1 });
    assert_usage("{\"prompt_tokens\":10,\"cache_read_input_tokens\":8,\"cache_creation_input_tokens\":8}",
                 (struct usage){ .known = true, .suspect = true, .input = 10, .cached = 8, .cache_write = 2 });
    assert_usage("{\"prompt_tokens\":1,\"completion_tokens\":5,\"completion_tokens_details\":{\"reasoning_tokens\":9}}",
                 (struct usage){ .known = true, .suspect = true, .input = 1, .output = 5, .reasoning = 5 });
    assert_usage("{\"prompt_tokens\":-4,\"completion_tokens\":7}",
                 (struct usage){ .known = true, .suspect = true, .output = 7 });
    assert_usage("{\"prompt_tokens\":\"12\",\"completion_tokens\":1.5}", (struct usage){ .suspect = true });
    assert_usage(
        "{\"prompt_tokens\":99999999999999999999999,\"completion_tokens\":1000000001}",
        (struct usage){ .known = true, .suspect = true, .input = USAGE_TOKENS_MAX, .output = USAGE_TOKENS_MAX });
    assert_usage(
        "{\"input_tokens\":1000000000,\"cache_read_input_tokens\":1000000000,\"output_tokens\":1}",
        (struct usage){
            .known = true, .suspect = true, .input = USAGE_TOKENS_MAX, .cached = USAGE_TOKENS_MAX, .output = 1 });
}

static void later_events_never_lower_a_count(void **state)
{
    (void)state;
    struct usage all = { .known = false };
    struct usage first = { .known = true, .input = 100, .cached = 40, .output = 1 };
    struct usage second = { .known = true, .output = 50, .reasoning = 10 };
    struct usage absent = { .known = false, .input = 9999 };
    usage_merge(&all, &absent);
    assert_false(all.known);
    usage_merge(&all, &first);
    usage_merge(&all, &second);
    usage_merge(&all, &absent);
    assert_true(all.known);
    assert_int_equal(all.input, 100);
    assert_int_equal(all.cached, 40);
    assert_int_equal(all.output, 50);
    assert_int_equal(all.reasoning, 10);
}

static void what_nobody_counted_is_estimated(void **state)
{
    (void)state;
    struct usage told = { .known = true, .input = 3, .output = 4 };
    struct usage kept = usage_settle(&told, 1000, 1000);
    assert_false(kept.estimated);
    assert_int_equal(kept.input, 3);
    told = (struct usage){ .known = true, .input = 3, .cached = 1 };
    kept = usage_settle(&told, 1000, 9); /* cut after the event that told the input */
    assert_true(kept.estimated && kept.input == 3 && kept.cached == 1 && kept.output == 3);
    assert_false(usage_settle(&told, 1000, 0).estimated); /* embeddings have no output */
    struct usage silent = { .known = false, .suspect = true };
    struct usage guessed = usage_settle(&silent, 401, 7);
    assert_true(guessed.known && guessed.estimated && guessed.suspect);
    assert_int_equal(guessed.input, 101);
    assert_int_equal(guessed.output, 2);
    assert_int_equal(usage_settle(&silent, UINT64_MAX, 0).input, USAGE_TOKENS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_way_of_counting_is_understood), cmocka_unit_test(absence_is_not_zero),
        cmocka_unit_test(nonsense_is_clamped_and_marked),     cmocka_unit_test(later_events_never_lower_a_count),
        cmocka_unit_test(what_nobody_counted_is_estimated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
