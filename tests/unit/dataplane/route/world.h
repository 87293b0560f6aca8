/* world.h - a small policy for the tests of route/: mutable plain structs, then encoded and decoded as a node would. */
#pragma once
#include "dataplane/route/select.h"
#include "proto/wire.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { AZURE, OPENAI_41, OPENAI_4O, VLLM, WORLD_MODELS };
enum { BULK, CHAT, PRIVATE, WORLD_ROUTES };

struct world {
    struct span azure_regions[1], openai_regions[2];
    struct provider providers[3];
    struct model models[WORLD_MODELS];
    struct tier_member chat_first[2], chat_second[1], bulk[3], private[2];
    struct route routes[WORLD_ROUTES];
    struct alias aliases[2];
    struct artifact artifact;
    struct arm arm;
    struct head head;
    struct evidence evidence;
    struct span team_routes[2], team_models[1];
    struct team team;
    struct teams teams;
    bool has_evidence;
    struct compiled *compiled;
    struct teams_view *teams_view;
    struct table *table;
};

#define WORLD_ALL                                                                                                      \
    (CAP_CHAT | CAP_COMPLETIONS | CAP_EMBEDDINGS | CAP_TOOLS | CAP_IMAGES | CAP_JSON | CAP_AUDIO | CAP_STREAM)

static inline struct model world_model(const char *name, uint32_t provider, int64_t dollars)
{
    return (struct model){
        .name = span_cstr(name),
        .provider = provider,
        .sends = span_cstr(name),
        .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = dollars * 1000000000, .output = dollars * 1000000000 },
        .price_source = PRICE_SOURCE_BOOK,
        .capabilities = WORLD_ALL
    };
}

static inline void world_init(struct world *w)
{
    *w = (struct world){ .has_evidence = false };
    w->azure_regions[0] = SPAN("eu");
    w->openai_regions[0] = SPAN("us");
    w->openai_regions[1] = SPAN("eu");
    w->providers[0] = (struct provider){
        .name = SPAN("azure"),
        .data = { .regions = { w->azure_regions, 1 }, .retention_known = true, .trains_known = true }
    };
    w->providers[1] = (struct provider){ .name = SPAN("openai"),
                                         .data = { .regions = { w->openai_regions, 2 },
                                                   .retention_known = true,
                                                   .retention_days = 30,
                                                   .trains_known = true,
                                                   .trains = true } };
    w->providers[2] = (struct provider){ .name = SPAN("vllm") };
    w->models[AZURE] = world_model("azure/gpt-4o", 0, 4);
    w->models[OPENAI_41] = world_model("openai/gpt-4.1", 1, 2);
    w->models[OPENAI_4O] = world_model("openai/gpt-4o", 1, 3);
    w->models[VLLM] = world_model("vllm/llama:8b", 2, 1);
    w->chat_first[0] = (struct tier_member){ AZURE, 700000 };
    w->chat_first[1] = (struct tier_member){ OPENAI_4O, 300000 };
    w->chat_second[0] = (struct tier_member){ VLLM, 1000000 };
    w->bulk[0] = (struct tier_member){ OPENAI_41, 200000 };
    w->bulk[1] = (struct tier_member){ OPENAI_4O, 300000 };
    w->bulk[2] = (struct tier_member){ VLLM, 500000 };
    w->private[0] = (struct tier_member){ AZURE, 500000 };
    w->private[1] = (struct tier_member){ VLLM, 500000 };
    w->routes[BULK] = (struct route){ .name = SPAN("bulk"),
                                      .tiers = { { .prefer = PREFER_CHEAPEST, .members = w->bulk, .member_count = 3 } },
                                      .tier_count = 1,
                                      .attempts = 3,
                                      .mix_input_tokens = 1000,
                                      .mix_output_tokens = 500 };
    w->routes[CHAT] = (struct route){ .name = SPAN("chat"),
                                      .tiers = { { .members = w->chat_first, .member_count = 2 },
                                                 { .members = w->chat_second, .member_count = 1 } },
                                      .tier_count = 2,
                                      .attempts = 3,
                                      .mix_input_tokens = 1000,
                                      .mix_output_tokens = 500 };
    w->routes[PRIVATE] = (struct route){ .name = SPAN("private"),
                                         .tiers = { { .members = w->private, .member_count = 2 } },
                                         .tier_count = 1,
                                         .attempts = 3 };
    w->aliases[0] = (struct alias){ .name = SPAN("gpt-4o"), .target = SPAN("chat") };
    w->aliases[1] = (struct alias){ .name = SPAN("llama"), .target = SPAN("vllm/llama:8b") };
    w->artifact = (struct artifact){ .schema = TABLE_SCHEMA,
                                     .policy_version = 1,
                                     .providers = w->providers,
                                     .provider_count = 3,
                                     .models = w->models,
                                     .model_count = WORLD_MODELS,
                                     .routes = w->routes,
                                     .route_count = WORLD_ROUTES,
                                     .aliases = w->aliases,
                                     .alias_count = 2 };
    w->arm = (struct arm){ .name = SPAN("stable"), .policy_version = 1 };
    w->head = (struct head){ .epoch = 1, .generation = 1, .arms = &w->arm, .arm_count = 1 };
    w->evidence = (struct evidence){ .epoch = 1, .seq = 1, .expires_at_ms = 1000000 };
    w->team_routes[0] = SPAN("chat");
    w->team_routes[1] = SPAN("bul*");
    w->team_models[0] = SPAN("openai/*");
    w->team =
        (struct team){ .name = SPAN("research"), .routes = { w->team_routes, 2 }, .models = { w->team_models, 1 } };
    w->teams = (struct teams){ .epoch = 1, .seq = 1, .items = &w->team, .count = 1 };
}

static inline uint32_t world_label(void *user, unsigned kind, struct span name)
{
    (void)user;
    return kind * 100 + (uint32_t)name.len;
}
static const struct table_labels world_labels = { .find = world_label };

/* Artifact and teams: once per world. */
static inline void world_compile(struct world *w)
{
    struct buf out = BUF_INIT(ARTIFACT_BYTES_MAX);
    const char *why = NULL;
    assert_int_equal(wire_encode_artifact(&w->artifact, &out), OK);
    enum err err = compiled_new(buf_span(&out), &world_labels, &w->compiled, &why);
    if (err)
        fail_msg("%s", why);
    buf_clear(&out);
    assert_int_equal(wire_encode_teams(&w->teams, &out), OK);
    assert_int_equal(teams_view_new(buf_span(&out), &world_labels, &w->teams_view, &why), OK);
    buf_release(&out);
    w->arm.artifact = w->compiled->artifact->hash;
}

/* Head and evidence as they stand in w now. */
static inline enum err world_table(struct world *w, struct table **ret, const char **ret_why)
{
    struct buf head = BUF_INIT(HEAD_BYTES_MAX), evidence = BUF_INIT(EVIDENCE_BYTES_MAX);
    struct table_version version = { 1, w->head.generation, w->evidence.seq, 1 };
    assert_int_equal(wire_encode_head(&w->head, &head), OK);
    if (w->has_evidence)
        assert_int_equal(wire_encode_evidence(&w->evidence, &evidence), OK);
    enum err err =
        table_new(buf_span(&head), buf_span(&evidence), &w->compiled, 1, w->teams_view, &version, ret, ret_why);
    buf_release(&head);
    buf_release(&evidence);
    return err;
}

static inline void world_build(struct world *w)
{
    const char *why = "";
    if (!w->compiled)
        world_compile(w);
    table_unref(w->table);
    w->table = NULL;
    if (world_table(w, &w->table, &why))
        fail_msg("%s", why);
}

static inline void world_release(struct world *w)
{
    table_unref(w->table);
    compiled_unref(w->compiled);
    teams_view_unref(w->teams_view);
}
