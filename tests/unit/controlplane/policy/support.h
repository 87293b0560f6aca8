/* support.h - a source of files in memory and a small price book, for the tests of this folder. */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "common/units.h"
#include "controlplane/policy/policy.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* ---- files ---- */

struct memory_files {
    struct {
        struct span name, text;
    } files[16];
    size_t count;
};

static inline enum err memory_read(void *user, struct span path, struct buf *text)
{
    const struct memory_files *m = user;
    for (size_t i = 0; i < m->count; i++) {
        if (span_eq(m->files[i].name, path))
            return buf_append(text, m->files[i].text);
    }
    return ERR_NOT_FOUND;
}

static inline enum err memory_glob(void *user, struct span pattern, struct arena *arena, struct span_list *ret)
{
    const struct memory_files *m = user;
    struct span *paths = ARENA_ARRAY(arena, m->count + 1, struct span);
    uint32_t count = 0;
    if (!paths)
        return ERR_NOMEM;
    for (size_t i = 0; i < m->count; i++) {
        if (span_glob(pattern, m->files[i].name))
            paths[count++] = m->files[i].name;
    }
    *ret = (struct span_list){ .items = paths, .count = count };
    return OK;
}

static inline void memory_add(struct memory_files *m, const char *name, struct span text)
{
    assert_true(m->count < ARRAY_LEN(m->files));
    m->files[m->count].name = span_cstr(name);
    m->files[m->count++].text = text;
}

static inline struct policy_source memory_source(struct memory_files *m)
{
    return (struct policy_source){ .user = m, .read = memory_read, .glob = memory_glob };
}

/* ---- prices ---- */

#define CHAT_CAPS                (CAP_CHAT | CAP_TOOLS | CAP_JSON | CAP_STREAM)
#define NANO(dollars_times_1000) (INT64_C(1000000) * (dollars_times_1000))

/* Figures are this test's own, not any provider's. */
static const struct catalog_entry book_entries[] = {
    { .name = { "openai/gpt-4o", 13 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ,
                 .input = NANO(2500),
                 .output = NANO(10000),
                 .cache_read = NANO(1250) },
      .context_tokens = 128000,
      .output_tokens_max = 16384,
      .capabilities = CHAT_CAPS | CAP_IMAGES,
      .capabilities_known = CHAT_CAPS | CAP_IMAGES | CAP_EMBEDDINGS | CAP_COMPLETIONS },
    { .name = { "openai/gpt-4o-mini", 18 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(150), .output = NANO(600) },
      .context_tokens = 128000 },
    { .name = { "openai/gpt-4.1", 14 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(2000), .output = NANO(8000) } },
    { .name = { "openai/gpt-5-preview", 20 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(1), .output = NANO(1) } },
    { .name = { "openai/gpt-image-1", 18 },
      .price = { .known = PRICE_INPUT, .input = NANO(5000) },
      .capabilities_known = CAP_CHAT | CAP_COMPLETIONS | CAP_EMBEDDINGS },
    { .name = { "openai/o3", 9 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(2000), .output = NANO(8000) } },
    { .name = { "openai/text-embedding-3-small", 29 },
      .price = { .known = PRICE_INPUT, .input = NANO(20) },
      .capabilities = CAP_EMBEDDINGS,
      .capabilities_known = CAP_EMBEDDINGS | CAP_CHAT | CAP_COMPLETIONS },
    { .name = { "openai/gpt-broken", 17 }, .price = { .known = PRICE_INPUT, .input = NANO(1) } },
    { .name = { "azure/gpt-4o-2024-08-06", 23 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(2750), .output = NANO(11000) } },
    { .name = { "groq/llama-3.3-70b-versatile", 28 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(590), .output = NANO(790) } },
    { .name = { "mistral/later", 13 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(1), .output = NANO(1) },
      .deprecated_on = { "2027-06-01", 10 } },
    { .name = { "mistral/old", 11 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(1), .output = NANO(1) },
      .deprecated_on = { "2026-12-31", 10 } },
    { .name = { "mistral/soon", 12 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(1), .output = NANO(1) },
      .deprecated_on = { "2027-02-14", 10 } },
    { .name = { "deepseek-chat", 13 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = NANO(280), .output = NANO(420) } },
};

static inline const struct catalog_entry *test_book_find(void *user, struct span name)
{
    (void)user;
    for (size_t i = 0; i < ARRAY_LEN(book_entries); i++) {
        if (span_eq(book_entries[i].name, name))
            return &book_entries[i];
    }
    return NULL;
}

static inline const struct catalog_entry *test_book_at(void *user, size_t i)
{
    (void)user;
    return i < ARRAY_LEN(book_entries) ? &book_entries[i] : NULL;
}

static const struct policy_book test_book = {
    .find = test_book_find, .at = test_book_at, .version = 1, .now_ms = INT64_C(1800000000000)
}; /* 2027-01-15 */

/* ---- one policy in one text ---- */

struct fixture {
    struct arena arena;
    struct diags diags;
    struct buf text;
    struct memory_files files;
};

static inline int fixture_up(void **state)
{
    static struct fixture fixture;
    memset(&fixture, 0, sizeof fixture);
    arena_init(&fixture.arena, POLICY_ARENA_MAX);
    buf_init(&fixture.text, 64u << 20);
    diags_init(&fixture.diags, &fixture.arena);
    *state = &fixture;
    return 0;
}

static inline int fixture_down(void **state)
{
    struct fixture *f = *state;
    arena_release(&f->arena);
    buf_release(&f->text);
    return 0;
}

static inline const char *diags_shown(struct fixture *f)
{
    buf_clear(&f->text);
    assert_int_equal(diags_text(&f->diags, &f->text), OK);
    return buf_cstr(&f->text);
}

static inline const struct policy *load_text(struct fixture *f, const char *text)
{
    const struct policy *policy = NULL;
    f->files.count = 0;
    memory_add(&f->files, "p.yaml", span_cstr(text));
    struct policy_source source = memory_source(&f->files);
    enum err err = policy_load(&f->arena, &source, SPAN("p.yaml"), &f->diags, &policy);
    if (err)
        print_message("%s", diags_shown(f));
    assert_int_equal(err, OK);
    return policy;
}

/* Compiles; what is wrong is printed and fails the test. */
static inline const struct artifact *compile_text(struct fixture *f, const char *text)
{
    const struct artifact *artifact = NULL;
    const struct policy *policy = load_text(f, text);
    enum err err = policy_compile(&f->arena, policy, &test_book, 7, &f->diags, &artifact);
    if (err)
        print_message("%s", diags_shown(f));
    assert_int_equal(err, OK);
    return artifact;
}

static inline const struct model *find_model(const struct artifact *a, const char *name)
{
    for (uint32_t i = 0; i < a->model_count; i++) {
        if (span_eq(a->models[i].name, span_cstr(name)))
            return &a->models[i];
    }
    return NULL;
}

static inline const struct provider *find_provider(const struct artifact *a, const char *name)
{
    for (uint32_t i = 0; i < a->provider_count; i++) {
        if (span_eq(a->providers[i].name, span_cstr(name)))
            return &a->providers[i];
    }
    return NULL;
}

static inline const struct route *find_route(const struct artifact *a, const char *name)
{
    for (uint32_t i = 0; i < a->route_count; i++) {
        if (span_eq(a->routes[i].name, span_cstr(name)))
            return &a->routes[i];
    }
    return NULL;
}

#define assert_span_equal(span, text) assert_string_equal((span).ptr, text)
