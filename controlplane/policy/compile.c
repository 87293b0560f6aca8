/* compile.c - a loaded policy becomes an artifact: the steps, the defaults, and what this version refuses. */
#include "common/arena.h"
#include "controlplane/decide/rollout_plan.h"
#include "controlplane/policy/compiler.h"

static void read_default_probe(struct compiler *c, const struct yaml_node *map)
{
    static const char *const known[] = { "every", "how", NULL };
    static const char *const words[] = { "models", "connect", "none", NULL };
    size_t word;
    if (!fields_check(c->diags, map, "'probe'", known))
        return;
    c->default_probe = map;
    const struct yaml_node *every = yaml_get(map, "every");
    field_word(c->diags, yaml_get(map, "how"), words, &word); /* read again by each provider */
    if (field_duration(c->diags, every, false, &c->probe_every_ms) && c->probe_every_ms < PROBE_EVERY_LEAST_MS)
        diag_error(c->diags, every, "'every' must be at least %us", PROBE_EVERY_LEAST_MS / 1000);
}

static void read_defaults(struct compiler *c)
{
    static const char *const known[] = { "timeouts", "attempts", "deadline", "headers", "probe", "mix", NULL };
    static const char *const header_fields[] = { "forward", NULL };
    static const char *const mix_fields[] = { "input", "output", NULL };
    const struct yaml_node *map = c->policy->defaults;
    uint64_t value;
    c->timeouts = (struct timeouts){ .connect_ms = DEFAULT_CONNECT_MS,
                                     .first_token_ms = DEFAULT_FIRST_TOKEN_MS,
                                     .idle_ms = DEFAULT_IDLE_MS,
                                     .total_ms = DEFAULT_TOTAL_MS,
                                     .hold_ms = DEFAULT_HOLD_MS };
    c->attempts = DEFAULT_ATTEMPTS;
    c->deadline_ms = DEFAULT_DEADLINE_MS;
    c->mix_input_tokens = DEFAULT_MIX_INPUT_TOKENS;
    c->mix_output_tokens = DEFAULT_MIX_OUTPUT_TOKENS;
    c->probe_every_ms = DEFAULT_PROBE_EVERY_MS;
    if (!fields_check(c->diags, map, "'defaults'", known))
        return;
    field_timeouts(c->diags, yaml_get(map, "timeouts"), &c->timeouts);
    if (field_count(c->diags, yaml_get(map, "attempts"), 1, ATTEMPTS_MAX, &value))
        c->attempts = (uint32_t)value;
    field_duration(c->diags, yaml_get(map, "deadline"), true, &c->deadline_ms);
    const struct yaml_node *headers = yaml_get(map, "headers"), *mix = yaml_get(map, "mix");
    if (fields_check(c->diags, headers, "'headers'", header_fields))
        read_forward_headers(c, yaml_get(headers, "forward"), &c->forward_headers);
    if (fields_check(c->diags, mix, "'mix'", mix_fields)) {
        if (field_count(c->diags, yaml_get(mix, "input"), 0, TOKENS_MOST, &value))
            c->mix_input_tokens = (uint32_t)value;
        if (field_count(c->diags, yaml_get(mix, "output"), 0, TOKENS_MOST, &value))
            c->mix_output_tokens = (uint32_t)value;
    }
    read_default_probe(c, yaml_get(map, "probe"));
}

/* For what is wrong with it; who pushes the policy reads it again. */
static void check_rollout(struct compiler *c)
{
    struct rollout_plan plan;
    bool has;
    if (policy_rollout(c->arena, c->policy, c->diags, &plan, &has) == ERR_NOMEM)
        c->failed = true;
}

static void warn_of_nothing(struct compiler *c)
{
    const struct policy *p = c->policy;
    if (p->routes.count == 0 && p->models.count == 0)
        diag_error(c->diags, p->policy_document, "this policy has neither routes nor models: it would serve nobody");
    else if (p->routes.count == 0)
        diag_warning(c->diags, p->policy_document,
                     "this policy has no routes: only teams that list provider/model in 'models' reach anything");
}

enum err policy_compile(struct arena *arena, const struct policy *policy, const struct policy_book *book,
                        uint32_t policy_version, struct diags *diags, const struct artifact **ret_artifact)
{
    if (!policy->has_policy) {
        diag_error(diags, policy->directory_document, "there is no 'kind: policy' document");
        return ERR_INVALID;
    }
    struct compiler c = { .arena = arena, .policy = policy, .book = book, .diags = diags };
    struct artifact *artifact = ARENA_NEW(arena, struct artifact);
    if (!artifact)
        return ERR_NOMEM;
    strmap_init(&c.providers, arena);
    strmap_init(&c.models, arena);
    read_defaults(&c);
    check_rollout(&c);
    compile_providers(&c);
    if (!c.failed)
        compile_models(&c);
    if (!c.failed)
        compile_order(&c, artifact);
    if (!c.failed)
        compile_routes(&c, artifact);
    if (!c.failed)
        compile_aliases(&c, artifact);
    compile_records(&c, artifact);
    warn_of_nothing(&c);
    if (c.failed || diags->failed)
        return ERR_NOMEM;
    if (diags_bad(diags))
        return ERR_INVALID;
    artifact->schema = TABLE_SCHEMA;
    artifact->policy_version = policy_version;
    artifact->policy_hash = arena_dup(arena, policy->hash);
    if (!artifact->policy_hash.ptr)
        return ERR_NOMEM;
    *ret_artifact = artifact;
    return OK;
}
