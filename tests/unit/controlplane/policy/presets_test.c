/* The table of presets: what each row must be like, the facts whose mistakes cost money or refuse every call, and what
 * each finds in the public catalog. */
#include "controlplane/policy/presets.h"
#include "common/file.h"
#include "controlplane/evidence/catalog.h"
#include "controlplane/policy/names.h"
#include "tests/unit/controlplane/policy/support.h"

static void rows_are_whole(void **state)
{
    (void)state;
    const struct policy_preset *p, *other;
    for (size_t i = 0; (p = policy_preset_at(i)); i++) {
        struct span url = span_cstr(p->base_url);
        if (p->local)
            assert_true(url.len == 0 || span_starts(url, SPAN("http://127.0.0.1:")));
        else if (p->path_style != PATH_STYLE_AZURE)
            assert_true(span_starts(url, SPAN("https://")));
        assert_false(span_ends(url, SPAN("/")));
        assert_true((p->query != NULL) == (p->path_style == PATH_STYLE_AZURE));
        assert_int_not_equal(p->auth, AUTH_SCHEME_NONE); /* a credential that is given is sent somewhere */
        for (size_t j = 0; j < i && (other = policy_preset_at(j)); j++) {
            assert_string_not_equal(p->name, other->name);
            assert_true(url.len == 0 || strcmp(p->base_url, other->base_url) != 0);
            assert_true(p->local || other->local || strcmp(p->key_env, other->key_env) != 0);
            assert_true(p->local || other->local || strcmp(p->book_prefix, other->book_prefix) != 0);
        }
    }
    assert_non_null(policy_preset_find(SPAN("openai-compatible")));
    assert_null(policy_preset_find(SPAN("")));
    assert_null(policy_preset_find(SPAN("OpenAI")));
}

static void locals_listen_where_they_do(void **state)
{
    (void)state;
    static const char *const rows[][2] = { { "vllm", "http://127.0.0.1:8000/v1" },
                                           { "sglang", "http://127.0.0.1:30000/v1" },
                                           { "ollama", "http://127.0.0.1:11434/v1" },
                                           { "lmstudio", "http://127.0.0.1:1234/v1" },
                                           { "llamacpp", "http://127.0.0.1:8080/v1" } };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct policy_preset *p = policy_preset_find(span_cstr(rows[i][0]));
        assert_true(p && p->local && p->stream_usage);
        assert_string_equal(p->base_url, rows[i][1]);
    }
}

/* Asking these for usage refuses the call (mistral, cohere) or is known to be needless; all others must be asked: a
 * stream whose usage never comes is charged by an estimate. */
static void usage_is_asked_for_where_it_is_taken(void **state)
{
    (void)state;
    static const char *const unasked[] = { "mistral", "cohere", "openrouter", "perplexity", "deepinfra" };
    const struct policy_preset *p;
    for (size_t i = 0; (p = policy_preset_at(i)); i++) {
        bool wanted = true;
        for (size_t j = 0; j < ARRAY_LEN(unasked); j++)
            wanted &= strcmp(p->name, unasked[j]) != 0;
        if (p->stream_usage != wanted)
            fail_msg("%s: stream_usage is %d", p->name, p->stream_usage);
    }
}

static void free_probes_only(void **state)
{
    (void)state;
    const struct policy_preset *p;
    for (size_t i = 0; (p = policy_preset_at(i)); i++) {
        bool lists = strcmp(p->name, "cohere") != 0 && strcmp(p->name, "perplexity") != 0;
        assert_int_equal(p->probe, lists ? PROBE_HOW_MODELS : PROBE_HOW_CONNECT);
    }
}

/* ---- the real catalog ---- */

struct found {
    uint32_t all, text; /* entries with the preset's prefix; of them, with prices for text */
};

static struct found find(const struct policy_preset *p, const struct catalog *catalog)
{
    struct found found = { 0 };
    struct span model;
    for (uint32_t i = 0; i < catalog->count; i++) {
        const struct catalog_entry *e = &catalog->entries[i];
        if (!names_model_of(p, e->name, &model))
            continue;
        const uint32_t text = CAP_CHAT | CAP_COMPLETIONS | CAP_EMBEDDINGS;
        found.all++;
        found.text += (e->capabilities & text) && (e->price.known & PRICE_INPUT);
    }
    return found;
}

/* A prefix that the catalog does not use would find nothing: no price, no wildcard. */
static void catalog_knows_every_prefix(void **state)
{
    (void)state;
    const char *data = getenv("FAIRLEAD_DATA"), *why = NULL;
    char path[1024];
    struct buf text = BUF_INIT(CATALOG_BYTES_MAX);
    struct arena arena;
    struct catalog catalog = { 0 };
    const struct policy_preset *p;
    arena_init(&arena, CATALOG_ARENA_MAX);
    snprintf(path, sizeof path, "%s/prices/litellm_model_prices_and_context_window.json",
             data ? data : FAIRLEAD_SOURCE_DIR "/../shared/data");
    if (file_read(path, CATALOG_BYTES_MAX, &text) != OK) {
        print_message("skipped: no %s; public at github.com/BerriAI/litellm; set FAIRLEAD_DATA\n", path);
        buf_release(&text);
        skip();
    }
    assert_int_equal(catalog_read(&arena, buf_span(&text), &catalog, &why), OK);
    for (size_t i = 0; (p = policy_preset_at(i)); i++) {
        if (!p->book_prefix)
            continue;
        struct found found = find(p, &catalog);
        print_message("%-12s %4u entries, %4u priced text models\n", p->name, found.all, found.text);
        assert_true(found.text >= 5 && found.text <= found.all);
    }
    arena_release(&arena);
    buf_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_whole),
        cmocka_unit_test(locals_listen_where_they_do),
        cmocka_unit_test(usage_is_asked_for_where_it_is_taken),
        cmocka_unit_test(free_probes_only),
        cmocka_unit_test(catalog_knows_every_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
