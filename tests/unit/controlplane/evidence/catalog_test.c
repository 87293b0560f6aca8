#include "controlplane/evidence/catalog.h"
#include "common/fault.h"
#include "common/file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define USD(cents) ((int64_t)(cents)*10000000) /* cents (of dollars per million tokens) in nano-dollars */

static struct arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, CATALOG_ARENA_MAX);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

static struct catalog read_good(const char *text)
{
    struct catalog catalog;
    const char *why = NULL;
    enum err err = catalog_read(&arena, span_cstr(text), &catalog, &why);
    if (err)
        fail_msg("%s: %s", err_name(err), why);
    return catalog;
}

static const struct catalog_entry *entry(const struct catalog *catalog, const char *name)
{
    for (uint32_t i = 0; i < catalog->count; i++) {
        if (span_eq(catalog->entries[i].name, span_cstr(name)))
            return &catalog->entries[i];
    }
    fail_msg("no entry '%s'", name);
    return NULL;
}

static bool is_unmapped(const struct catalog *catalog, const char *name)
{
    for (uint32_t i = 0; i < catalog->unmapped.count; i++) {
        if (span_eq(catalog->unmapped.items[i], span_cstr(name)))
            return true;
    }
    return false;
}

/* ---- forms ---- */

static void reads_litellm(void **state)
{
    (void)state;
    struct catalog c = read_good(
        "{\"sample_spec\":{\"litellm_provider\":\"one of\",\"input_cost_per_token\":0},\"rules\":{\"x\":1},"
        "\"gpt-x\":{\"litellm_provider\":\"openai\",\"mode\":\"chat\",\"input_cost_per_token\":2.5e-06,\"output_cost_"
        "per_token\":1e-05,"
        "\"cache_read_input_token_cost\":1.25e-06,\"cache_creation_input_token_cost\":3e-06,\"output_cost_per_"
        "reasoning_token\":2e-05,"
        "\"input_cost_per_request\":0.005,\"input_cost_per_token_batches\":9,\"input_cost_per_token_above_272k_"
        "tokens\":6e-06,"
        "\"input_cost_per_token_above_200k_tokens\":5e-06,\"output_cost_per_token_above_200k_tokens\":1.5e-05,"
        "\"cache_read_input_token_cost_above_200k_tokens\":2.5e-06,\"input_cost_per_token_above_128k_tokens_priority\":"
        "1,"
        "\"supports_function_calling\":true,\"supports_response_schema\":true,\"max_input_tokens\":128000,\"max_output_"
        "tokens\":16384,"
        "\"deprecation_date\":\"2027-01-31\"},"
        "\"img\":{\"litellm_provider\":\"openai\",\"mode\":\"image_generation\",\"output_cost_per_image\":0.04},"
        "\"free/"
        "one\":{\"litellm_provider\":\"free\",\"mode\":\"chat\",\"input_cost_per_token\":0,\"output_cost_per_token\":0."
        "0},"
        "\"odd\":{\"litellm_provider\":\"x\",\"input_cost_per_token\":0.0000029999900000000002,\"output_cost_per_"
        "token\":5e-16},"
        "\"neg\":{\"litellm_provider\":\"x\",\"input_cost_per_token\":-3e-6,\"output_cost_per_token\":1e-6},"
        "\"text\":{\"litellm_provider\":\"x\",\"input_cost_per_token\":\"cheap\",\"output_cost_per_token\":1e-6},"
        "\"huge\":{\"litellm_provider\":\"x\",\"input_cost_per_token\":5,\"output_cost_per_token\":1e-6},"
        "\"bad name\":{\"litellm_provider\":\"x\"}}");
    assert_int_equal(c.form, CATALOG_LITELLM);
    assert_int_equal(c.count, 7);
    assert_int_equal(c.skipped, 3);
    assert_int_equal(c.unpriced, 4);
    assert_int_equal(c.bad, 3);
    assert_int_equal(c.rounded, 2);
    const struct catalog_entry *x = entry(&c, "openai/gpt-x");
    assert_int_equal(x->price.known, PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ | PRICE_CACHE_WRITE |
                                         PRICE_REASONING | PRICE_REQUEST | PRICE_LONG);
    assert_int_equal(x->price.input, USD(250));
    assert_int_equal(x->price.output, USD(1000));
    assert_int_equal(x->price.cache_read, USD(125));
    assert_int_equal(x->price.cache_write, USD(300));
    assert_int_equal(x->price.reasoning, USD(2000));
    assert_int_equal(x->price.request, 5000000);
    assert_int_equal(x->price.long_above, 200000);
    assert_int_equal(x->price.long_input, USD(500));
    assert_int_equal(x->price.long_output, USD(1500));
    assert_int_equal(x->price.long_cache_read, USD(250));
    assert_int_equal(x->context_tokens, 128000);
    assert_int_equal(x->output_tokens_max, 16384);
    assert_int_equal(x->capabilities, CAP_CHAT | CAP_TOOLS | CAP_JSON);
    assert_int_equal(x->capabilities_known,
                     CAP_CHAT | CAP_COMPLETIONS | CAP_EMBEDDINGS | CAP_TOOLS | CAP_IMAGES | CAP_JSON);
    assert_true(span_eq(x->deprecated_on, SPAN("2027-01-31")));
    assert_int_equal(entry(&c, "openai/img")->price.known, 0);
    assert_int_equal(entry(&c, "openai/img")->capabilities, 0);
    assert_int_equal(entry(&c, "free/one")->price.known, PRICE_INPUT | PRICE_OUTPUT);
    assert_int_equal(entry(&c, "odd")->price.input, 2999990000);
    assert_int_equal(entry(&c, "odd")->price.output, 1); /* half a nano-dollar: up */
    assert_int_equal(entry(&c, "neg")->price.known, 0);
    assert_int_equal(entry(&c, "text")->price.known, 0);
    assert_int_equal(entry(&c, "huge")->price.known, 0);
    assert_true(is_unmapped(&c, "odd"));
    assert_false(is_unmapped(&c, "openai/gpt-x"));
}

static void makes_names_whole(void **state)
{
    (void)state;
    struct catalog c = read_good(
        "{\"command-r\":{\"litellm_provider\":\"cohere_chat\"},\"deepseek-chat\":{\"litellm_provider\":\"deepseek\"},"
        "\"deepseek/"
        "deepseek-chat\":{\"litellm_provider\":\"deepseek\"},\"claude-x\":{\"litellm_provider\":\"anthropic\"},"
        "\"bedrock/y\":{\"litellm_provider\":\"bedrock\"},\"azure/gpt-4o\":{\"litellm_provider\":\"azure\"},"
        "\"1024-x-1024/dall-e-2\":{\"litellm_provider\":\"openai\"}}");
    assert_int_equal(c.count, 7);
    (void)entry(&c, "cohere/command-r");
    (void)entry(&c, "deepseek/deepseek-chat");
    (void)entry(&c, "deepseek-chat"); /* its whole name is taken */
    (void)entry(&c, "anthropic/claude-x");
    (void)entry(&c, "azure/gpt-4o");
    (void)entry(&c, "openai/1024-x-1024/dall-e-2");
    assert_int_equal(c.duplicate, 0);
    assert_int_equal(c.unmapped.count, 3);
    assert_true(is_unmapped(&c, "anthropic/claude-x") && is_unmapped(&c, "bedrock/y") &&
                is_unmapped(&c, "deepseek-chat"));
    for (uint32_t i = 1; i < c.count; i++)
        assert_true(span_cmp(c.entries[i - 1].name, c.entries[i].name) < 0);
    c = read_good(
        "{\"a\":{\"litellm_provider\":\"x\",\"input_cost_per_token\":1e-6},\"a\":{\"litellm_provider\":\"x\"}}");
    assert_int_equal(c.count, 1);
    assert_int_equal(c.duplicate, 1);
    assert_int_equal(c.entries[0].price.input, USD(100)); /* the first holds */
}

static void reads_openrouter(void **state)
{
    (void)state;
    struct catalog c = read_good(
        "{\"data\":[{\"id\":\"a/b\",\"context_length\":1000,\"top_provider\":{\"max_completion_tokens\":100},"
        "\"pricing\":{\"prompt\":\"0.0000025\",\"completion\":\"0.0000006000000000000001\",\"input_cache_read\":\"0."
        "00000125\","
        "\"input_cache_write\":\"0.000003\",\"internal_reasoning\":\"0.00001\",\"request\":\"0.01\",\"overrides\":["
        "{\"min_prompt_tokens\":256000,\"prompt\":\"9\"},{\"min_prompt_tokens\":32000,\"prompt\":\"0.000005\","
        "\"completion\":\"0.00001\"}]},"
        "\"architecture\":{\"input_modalities\":[\"text\",\"image\"],\"output_modalities\":[\"text\"]},\"supported_"
        "parameters\":[\"tools\"],"
        "\"expiration_date\":null},"
        "{\"id\":\"openrouter/auto\",\"pricing\":{\"prompt\":\"-1\",\"completion\":\"-1\"}},{\"name\":\"none\"}]}");
    assert_int_equal(c.form, CATALOG_OPENROUTER);
    assert_int_equal(c.count, 2);
    assert_int_equal(c.skipped, 1);
    assert_int_equal(c.unpriced, 1);
    assert_int_equal(c.bad, 0);
    assert_int_equal(c.rounded, 1);
    const struct catalog_entry *x = entry(&c, "openrouter/a/b");
    assert_int_equal(x->price.input, USD(250));
    assert_int_equal(x->price.output, USD(60));
    assert_int_equal(x->price.cache_read, USD(125));
    assert_int_equal(x->price.cache_write, USD(300));
    assert_int_equal(x->price.reasoning, USD(1000));
    assert_int_equal(x->price.request, 10000000);
    assert_int_equal(x->price.long_above, 31999);
    assert_int_equal(x->price.long_input, USD(500));
    assert_int_equal(x->capabilities, CAP_CHAT | CAP_IMAGES | CAP_TOOLS);
    assert_int_equal(x->context_tokens, 1000);
    assert_int_equal(x->output_tokens_max, 100);
    assert_int_equal(entry(&c, "openrouter/openrouter/auto")->price.known, 0);
}

static const char ours[] =
    "schema: fairlead/1\nkind: prices\nprices:\n"
    "  openai/gpt-4o: {input: 2.50, output: 10, cache_read: 1.25, context: 128000, max_output: 16384,\n"
    "    can: [chat, tools, images, json], source: \"https://example.com, as of 2026-08-01\"}\n"
    "  gemini/pro: {input: 1.25, output: 10, long: {above: 200000, input: 2.5, output: 15}, deprecated: 2027-01-31}\n"
    "  openai/embed: {input: 0.02, can: [embeddings]}\n";

static void reads_ours(void **state)
{
    (void)state;
    struct catalog c = read_good(ours);
    assert_int_equal(c.form, CATALOG_OURS);
    assert_int_equal(c.count, 3);
    const struct catalog_entry *x = entry(&c, "openai/gpt-4o");
    assert_int_equal(x->price.known, PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ);
    assert_int_equal(x->price.input, USD(250));
    assert_int_equal(x->capabilities, CAP_CHAT | CAP_TOOLS | CAP_IMAGES | CAP_JSON);
    assert_int_equal(entry(&c, "gemini/pro")->price.long_above, 200000);
    assert_int_equal(entry(&c, "gemini/pro")->price.long_output, USD(1500));
    c = read_good("{\"schema\":\"fairlead/1\",\"kind\":\"prices\",\"prices\":{\"a/b\":{\"input\":1,\"output\":2}}}");
    assert_int_equal(c.form, CATALOG_OURS);
    assert_int_equal(c.count, 1);
    c = read_good("{}");
    assert_int_equal(c.count, 0);
    c = read_good("schema: fairlead/1\nkind: prices\nprices:\n");
    assert_int_equal(c.count, 0);
}

static void refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
        enum err err;
    } bad[] = {
        { "", "empty", ERR_SYNTAX },
        { " \n", "empty", ERR_SYNTAX },
        { "{\"gpt-4o\": {\"litellm_provider\": \"openai\", \"inpu", "line 1", ERR_SYNTAX },
        { "{\"error\": {\"message\": \"no\"}}", "neither", ERR_INVALID },
        { "[1,2]", "neither", ERR_INVALID },
        { "<html>", "no price catalog", ERR_INVALID },
        { "schema: fairlead/1\nkind: policy\nprices: {}\n", "no price catalog", ERR_INVALID },
        { "schema: fairlead/1\nkind: prices\nprices:\n  a/b: {input: 1, output: 2, cached: 3}\n", "line 4",
          ERR_INVALID },
        { "schema: fairlead/1\nkind: prices\nprices:\n  a/b: {input: 1}\n", "input and output", ERR_INVALID },
        { "schema: fairlead/1\nkind: prices\nprices:\n  a/b: {input: -1, output: 2}\n", "not an amount", ERR_INVALID },
        { "schema: fairlead/1\nkind: prices\nprices:\n  a/b: {input: 0.0000000001, output: 2}\n", "finer",
          ERR_INVALID },
        { "schema: fairlead/1\nkind: prices\nprices:\n  a/b: {input: 1, output: 2, deprecated: soon}\n", "date",
          ERR_INVALID },
        { "schema: fairlead/1\nkind: prices\nprices:\n  a/b: {input: 1, output: 2, can: [fly]}\n", "capability",
          ERR_INVALID },
        { "schema: fairlead/1\nkind: prices\nprices:\n  a/b: {input: 1, output: 2, long: {above: 5}}\n", "'long'",
          ERR_INVALID },
        { "schema: fairlead/1\nkind: prices\nprices:\n  a/b: {input: 1, output: 2}\n  a/b: {input: 1, output: 2}\n",
          "line 5", ERR_DUPLICATE },
        { "schema: fairlead/1\nkind: prices\nextra: 1\nprices:\n", "unknown field", ERR_INVALID },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct catalog catalog = { .count = 77 };
        const char *why = NULL;
        enum err err = catalog_read(&arena, span_cstr(bad[i].text), &catalog, &why);
        if (err != bad[i].err || !why || !strstr(why, bad[i].why))
            fail_msg("case %zu: %s, '%s'", i, err_name(err), why ? why : "(null)");
        assert_int_equal(catalog.count, 77);
    }
}

static void every_prefix_is_survived(void **state)
{
    (void)state;
    struct catalog catalog;
    for (size_t n = 0; n < sizeof ours; n++) {
        const char *why = NULL;
        char *copy = malloc(n ? n : 1); /* exact: the sanitizer sees an over-read */
        memcpy(copy, ours, n);
        enum err err = catalog_read(&arena, span_of(copy, n), &catalog, &why);
        assert_true(err == OK || why != NULL);
        free(copy);
        arena_reset(&arena);
    }
}

static void no_memory(void **state)
{
    (void)state;
    for (size_t max = 64; max < 16384; max += 64) {
        struct arena small;
        struct catalog catalog;
        const char *why = NULL;
        arena_init(&small, max);
        enum err err = catalog_read(&small,
                                    SPAN("{\"gpt-x\":{\"litellm_provider\":\"openai\",\"input_cost_per_token\":1e-6,"
                                         "\"output_cost_per_token\":2.00000000000000000001e-6}}"),
                                    &catalog, &why);
        assert_true(err == OK || err == ERR_NOMEM);
        assert_true(err == OK || why);
        arena_release(&small);
    }
}

/* ---- the real ones ---- */

static struct catalog read_real(const char *file)
{
    const char *data = getenv("FAIRLEAD_DATA");
    char path[1024];
    struct buf text = BUF_INIT(CATALOG_BYTES_MAX);
    struct catalog catalog = { 0 };
    const char *why = NULL;
    snprintf(path, sizeof path, "%s/prices/%s", data ? data : FAIRLEAD_SOURCE_DIR "/../shared/data", file);
    if (file_read(path, CATALOG_BYTES_MAX, &text) != OK) {
        print_message("skipped: no %s; public at github.com/BerriAI/litellm (model_prices_and_context_window.json) and "
                      "openrouter.ai/api/v1/models; set FAIRLEAD_DATA\n",
                      path);
        skip();
    }
    if (catalog_read(&arena, buf_span(&text), &catalog, &why) != OK)
        fail_msg("%s: %s", path, why);
    buf_release(&text); /* entries borrow nothing from the text */
    return catalog;
}

/* Worked by hand from the files' own figures: dollars per token times 10^15. */
struct worked {
    const char *name;
    int64_t input, output, cache_read, cache_write, reasoning;
    uint64_t long_above;
    int64_t long_input, long_output, long_cache_read;
};

static void check_worked(const struct catalog *c, const struct worked *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct price *p = &entry(c, rows[i].name)->price;
        assert_true(p->known & PRICE_INPUT);
        assert_int_equal(p->input, rows[i].input);
        assert_int_equal(p->output, rows[i].output);
        assert_int_equal(p->cache_read, rows[i].cache_read);
        assert_int_equal(p->cache_write, rows[i].cache_write);
        assert_int_equal(p->reasoning, rows[i].reasoning);
        assert_int_equal((p->known & PRICE_LONG) != 0, rows[i].long_above != 0);
        assert_int_equal(p->long_above, rows[i].long_above);
        assert_int_equal(p->long_input, rows[i].long_input);
        assert_int_equal(p->long_output, rows[i].long_output);
        assert_int_equal(p->long_cache_read, rows[i].long_cache_read);
    }
}

static void reads_litellm_whole(void **state)
{
    (void)state;
    static const struct worked rows[] = {
        { "openai/gpt-4o", 2500000000, 10000000000, 1250000000, 0, 0, 0, 0, 0, 0 },
        { "openai/gpt-5", 1250000000, 10000000000, 125000000, 0, 0, 0, 0, 0, 0 },
        { "openai/o3", 2000000000, 8000000000, 500000000, 0, 0, 0, 0, 0, 0 },
        { "openai/text-embedding-3-small", 20000000, 0, 0, 0, 0, 0, 0, 0, 0 },
        { "anthropic/claude-sonnet-4-5", 3000000000, 15000000000, 300000000, 3750000000, 0, 200000, 6000000000,
          22500000000, 600000000 },
        { "gemini/gemini-2.5-pro", 1250000000, 10000000000, 125000000, 0, 0, 200000, 2500000000, 15000000000,
          250000000 },
        { "gemini/gemini-2.5-flash", 300000000, 2500000000, 30000000, 0, 2500000000, 0, 0, 0, 0 },
        { "groq/llama-3.3-70b-versatile", 590000000, 790000000, 0, 0, 0, 0, 0, 0, 0 },
        { "deepseek/deepseek-chat", 280000000, 420000000, 28000000, 0, 0, 0, 0, 0, 0 },
        { "cohere/command-r-plus-08-2024", 2500000000, 10000000000, 0, 0, 0, 0, 0, 0, 0 },
        { "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo", 880000000, 880000000, 0, 0, 0, 0, 0, 0, 0 },
        { "dashscope/qwen-turbo", 50000000, 200000000, 0, 0, 500000000, 0, 0, 0, 0 },
    };
    struct catalog c = read_real("litellm_model_prices_and_context_window.json");
    assert_int_equal(c.form, CATALOG_LITELLM);
    assert_int_equal(c.count + c.skipped + c.duplicate, 2986);
    assert_int_equal(c.skipped, 2); /* sample_spec and fallback_generalizations */
    assert_int_equal(c.duplicate, 0);
    assert_int_equal(c.bad, 0);
    assert_true(c.rounded > 0 && c.rounded < 100);
    assert_true(c.unpriced > 300 && c.unpriced < 600);
    check_worked(&c, rows, ARRAY_LEN(rows));
    assert_false(is_unmapped(&c, "openai/gpt-4o"));
    assert_true(is_unmapped(&c, "anthropic/claude-sonnet-4-5"));
    print_message("LiteLLM: %u entries, %u unpriced, %u figures rounded, %u unmapped\n", c.count, c.unpriced, c.rounded,
                  c.unmapped.count);
}

static void reads_openrouter_whole(void **state)
{
    (void)state;
    static const struct worked rows[] = {
        { "openrouter/openai/gpt-4o", 2500000000, 10000000000, 1250000000, 0, 0, 0, 0, 0, 0 },
        { "openrouter/deepseek/deepseek-v4-flash-0731", 140000000, 280000000, 2800000, 0, 0, 0, 0, 0, 0 },
        { "openrouter/google/gemini-2.5-pro", 1250000000, 10000000000, 125000000, 375000000, 10000000000, 199999,
          2500000000, 15000000000, 250000000 },
        { "openrouter/openai/gpt-5.6-luna", 100000000, 600000000, 10000000, 125000000, 0, 271999, 200000000, 900000000,
          20000000 },
    };
    struct catalog c = read_real("openrouter_models_2026-08-01.json");
    assert_int_equal(c.form, CATALOG_OPENROUTER);
    assert_int_equal(c.count, 336);
    assert_int_equal(c.skipped + c.duplicate + c.bad, 0);
    assert_int_equal(c.unmapped.count, 0);
    assert_int_equal(c.unpriced, 5); /* the auto routers */
    check_worked(&c, rows, ARRAY_LEN(rows));
}

static void ships_a_good_book(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(CATALOG_BYTES_MAX);
    assert_int_equal(file_read(FAIRLEAD_SOURCE_DIR "/deploy/examples/prices.yaml", CATALOG_BYTES_MAX, &text), OK);
    struct catalog c = read_good(buf_cstr(&text));
    assert_int_equal(c.form, CATALOG_OURS);
    assert_true(c.count >= 50);
    assert_int_equal(c.unpriced, 0);
    assert_int_equal(entry(&c, "openai/gpt-4o")->price.input, USD(250));
    buf_release(&text);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(reads_litellm),
        TEST(makes_names_whole),
        TEST(reads_openrouter),
        TEST(reads_ours),
        TEST(refuses),
        TEST(every_prefix_is_survived),
        TEST(no_memory),
        TEST(reads_litellm_whole),
        TEST(reads_openrouter_whole),
        TEST(ships_a_good_book),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
