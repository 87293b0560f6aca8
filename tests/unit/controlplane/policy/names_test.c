/* Names of price books, and the table of presets. */
#include "controlplane/policy/names.h"
#include "controlplane/policy/presets.h"
#include "tests/unit/controlplane/policy/support.h"

static void expect(const char *preset, const char *model, const char *sends, const char *is, const char *wanted)
{
    struct book_candidates c;
    char text[4 * BOOK_KEY_BYTES_MAX] = "";
    names_candidates(preset ? policy_preset_find(span_cstr(preset)) : NULL, span_cstr(model), span_cstr(sends),
                     span_cstr(is), &c);
    for (uint32_t i = 0; i < c.count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "", c.keys[i]);
    assert_string_equal(text, wanted);
}

static void test_candidates(void **state)
{
    (void)state;
    expect("openai", "gpt-4o", "gpt-4o", "", "openai/gpt-4o gpt-4o");
    expect("openai", "fast", "gpt-4o-mini", "", "openai/gpt-4o-mini openai/fast gpt-4o-mini fast");
    expect("azure", "gpt-4o", "our-deployment", "", "azure/gpt-4o azure/our-deployment");
    expect("azure", "gpt-4o", "prod", "azure/gpt-4o-2024-08-06",
           "azure/gpt-4o-2024-08-06 azure/azure/gpt-4o-2024-08-06");
    expect("groq", "llama-3.1-8b-instant", "llama-3.1-8b-instant", "", "groq/llama-3.1-8b-instant");
    expect("together", "llama-70b", "meta-llama/L-70b", "", "together_ai/meta-llama/L-70b together_ai/llama-70b");
    expect("openrouter", "openai/gpt-4o", "openai/gpt-4o", "", "openrouter/openai/gpt-4o");
    expect("vllm", "llama", "llama", "", "");
    expect("vllm", "llama", "llama", "groq/llama", "groq/llama");
    expect(NULL, "llama", "llama", "", "");
    expect(NULL, "llama", "llama", "x", "x");
    static char long_name[BOOK_KEY_BYTES_MAX + 2];
    memset(long_name, 'x', sizeof long_name - 1);
    expect("openai", long_name, long_name, "", "");
}

static void test_model_of(void **state)
{
    (void)state;
    const struct policy_preset *openai = policy_preset_find(SPAN("openai"));
    struct span model = SPAN("");
    assert_true(names_model_of(openai, SPAN("openai/gpt-4o"), &model));
    assert_true(span_eq(model, SPAN("gpt-4o")));
    assert_true(names_model_of(policy_preset_find(SPAN("openrouter")), SPAN("openrouter/openai/o3"), &model));
    assert_true(span_eq(model, SPAN("openai/o3")));
    assert_false(names_model_of(openai, SPAN("gpt-4o"), &model));
    assert_false(names_model_of(openai, SPAN("openai/"), &model));
    assert_false(names_model_of(openai, SPAN("openai_text/x"), &model));
    assert_false(names_model_of(policy_preset_find(SPAN("vllm")), SPAN("vllm/x"), &model));
    assert_false(names_model_of(NULL, SPAN("openai/x"), &model));
}

/* Each preset must compile as it stands: its address parses, its probe is free, its names are unlike. */
static void test_presets(void **state)
{
    const struct policy_preset *preset;
    struct buf text = BUF_INIT(1u << 20);
    size_t count = 0;
    assert_int_equal(buf_append_cstr(&text, "schema: fairlead/1\nkind: policy\nproviders:\n"), OK);
    for (; (preset = policy_preset_at(count)); count++) {
        assert_ptr_equal(policy_preset_find(span_cstr(preset->name)), preset);
        assert_int_not_equal(preset->probe, PROBE_HOW_COMPLETION);
        assert_true(preset->about && preset->base_url);
        assert_true(preset->local ? !preset->key_env && !preset->book_prefix : preset->key_env && preset->book_prefix);
        assert_int_equal(buf_printf(&text, "  %s: {preset: %s%s%s}\n", preset->name, preset->name,
                                    preset->base_url[0] ? "" : ", base_url: 'https://x.example'",
                                    preset->local ? "" : ", credentials: [k]"),
                         OK);
    }
    assert_int_equal(buf_append_cstr(&text, "models: {ollama/x: {price: {input: 0, output: 0}}}\n"), OK);
    const struct artifact *a = compile_text(*state, buf_cstr(&text));
    assert_int_equal(a->provider_count, count);
    for (uint32_t i = 0; i < a->provider_count; i++) {
        const struct provider *p = &a->providers[i];
        preset = policy_preset_find(p->preset);
        assert_true(p->tls == !preset->local || !preset->base_url[0]);
        assert_int_equal(p->auth, preset->local ? AUTH_SCHEME_NONE : preset->auth);
        assert_true(p->host.len > 0 && p->port > 0);
    }
    assert_null(policy_preset_find(SPAN("nobody")));
    buf_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_candidates),
        cmocka_unit_test(test_model_of),
        cmocka_unit_test_setup_teardown(test_presets, fixture_up, fixture_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
