/* Any bytes as a policy, a directory or a bundle: load, compile, compare, render. What comes out clean must hold the
 * invariants that both planes rely on. Seeds: tests/fuzz/seeds/policy. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"
#include "controlplane/policy/policy.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_MAX ((size_t)256 << 20)

static const struct catalog_entry entries[] = {
    { .name = { "openai/gpt-4o", 13 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 2500000000, .output = 10000000000 } },
    { .name = { "openai/gpt-4.1", 14 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 2000000000, .output = 8000000000 } },
    { .name = { "azure/gpt-4o-2024-08-06", 23 },
      .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 1, .output = INT64_C(1000000000000000) } },
};

static const struct catalog_entry *book_find(void *user, struct span name)
{
    (void)user;
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        if (span_eq(entries[i].name, name))
            return &entries[i];
    }
    return NULL;
}

static const struct catalog_entry *book_at(void *user, size_t i)
{
    (void)user;
    return i < ARRAY_LEN(entries) ? &entries[i] : NULL;
}

static enum err one_read(void *user, struct span path, struct buf *text)
{
    if (!span_eq(path, SPAN("p.yaml")))
        return ERR_NOT_FOUND;
    return buf_append(text, *(const struct span *)user);
}

static enum err one_glob(void *user, struct span pattern, struct arena *arena, struct span_list *ret_paths)
{
    static const struct span only = { "p.yaml", 6 };
    (void)user;
    (void)arena;
    *ret_paths = (struct span_list){ .items = &only, .count = span_glob(pattern, only) };
    return OK;
}

static void check_artifact(const struct artifact *a)
{
    for (uint32_t i = 0; i < a->model_count; i++) {
        const struct model *m = &a->models[i];
        MUST(i == 0 || span_cmp(a->models[i - 1].name, m->name) < 0);
        MUST(m->provider < a->provider_count && m->sends.len > 0 && (m->price.known & PRICE_INPUT));
        MUST(m->timeouts.connect_ms && m->timeouts.first_token_ms && m->timeouts.idle_ms && m->timeouts.hold_ms);
    }
    for (uint32_t i = 0; i < a->route_count; i++) {
        const struct route *r = &a->routes[i];
        MUST(i == 0 || span_cmp(a->routes[i - 1].name, r->name) < 0);
        MUST(r->tier_count > 0 && r->tier_count <= TIERS_MAX && r->attempts > 0 && r->attempts <= ATTEMPTS_MAX);
        for (uint32_t t = 0; t < r->tier_count; t++) {
            uint64_t sum = 0;
            MUST(r->tiers[t].member_count > 0 && r->tiers[t].member_count <= TIER_MEMBERS_MAX);
            for (uint32_t m = 0; m < r->tiers[t].member_count; m++) {
                MUST(r->tiers[t].members[m].model < a->model_count);
                sum += r->tiers[t].members[m].weight_ppm;
            }
            MUST(sum == 1000000);
        }
    }
    for (uint32_t i = 0; i < a->provider_count; i++)
        MUST(a->providers[i].host.len > 0 && a->providers[i].port > 0);
}

static void try_source(const struct policy_source *source, struct span root)
{
    static const struct policy_book book = { .find = book_find, .at = book_at };
    struct arena arena;
    arena_init(&arena, ARENA_MAX);
    struct diags *diags = ARENA_NEW(&arena, struct diags);
    const struct policy *policy;
    const struct artifact *artifact = NULL;
    const struct teams *teams = NULL;
    struct policy_changes changes;
    struct buf out = BUF_INIT(4u << 20);
    diags_init(diags, &arena);
    if (policy_load(&arena, source, root, diags, &policy) == OK) {
        MUST(policy_hash(policy).len == 64);
        if (policy_compile(&arena, policy, &book, 1, diags, &artifact) == OK) {
            check_artifact(artifact);
            MUST(policy_diff(&arena, artifact, artifact, &changes) == OK && changes.count == 0);
            MUST(policy_diff(&arena, NULL, artifact, &changes) == OK);
            MUST(policy_changes_text(&changes, &out) == OK);
        }
        if (policy_has_directory(policy) && policy_teams(&arena, policy, artifact, diags, &teams) == OK)
            MUST(policy_teams_diff(&arena, NULL, teams, &changes) == OK);
    } else {
        MUST(diags_bad(diags));
    }
    struct json_writer w;
    MUST(diags_text(diags, &out) == OK);
    json_writer_init(&w, &out);
    diags_json(diags, &w);
    MUST(json_writer_end(&w) == OK);
    buf_release(&out);
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span text = span_of(data, size);
    if (size > 1u << 20)
        return 0;
    struct policy_source source = { .user = &text, .read = one_read, .glob = one_glob };
    try_source(&source, SPAN("p.yaml"));
    if (size == 0 || data[0] != '{')
        return 0;
    struct arena arena;
    struct policy_bundle *bundle;
    arena_init(&arena, ARENA_MAX);
    if (policy_bundle_open(&arena, text, &bundle) == OK)
        try_source(&bundle->source, bundle->root);
    arena_release(&arena);
    return 0;
}
