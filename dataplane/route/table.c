#include "dataplane/route/table.h"
#include "common/fault.h"
#include "proto/board.h"
#include "proto/wire.h"

/* Decoded objects take a few times their encoded size; these stop an object that decodes to much more. */
#define COMPILED_ARENA_MAX ((size_t)1 << 30)
#define TEAMS_ARENA_MAX    ((size_t)256 << 20)
#define TABLE_ARENA_MAX    ((size_t)512 << 20)

static enum err why_is(const char **ret_why, const char *why, enum err err)
{
    if (ret_why)
        *ret_why = why;
    return err;
}

/* The decoders' reasons may live in the arena that goes with the failed object. One thread builds tables; the text
 * holds until the next failure. */
static enum err why_copied(const char **ret_why, const char *what, const char *why, enum err err)
{
    static char kept[256];
    (void)snprintf(kept, sizeof kept, "%s: %s", what, why ? why : err_name(err));
    return why_is(ret_why, kept, err);
}

/* ---- compiled ---- */

/* NULL when memory is out. */
static uint32_t *labels_new(struct arena *arena, uint32_t count)
{
    return ARENA_ARRAY(arena, count, uint32_t);
}

static enum err put_name(struct strmap *map, struct span name, void *value, const char **ret_why)
{
    enum err err = strmap_put(map, name.ptr ? name : SPAN(""), value);
    return err == ERR_EXISTS ? why_is(ret_why, "a name stands twice", ERR_INVALID) : err;
}

static enum err compiled_index(struct compiled *c, const struct table_labels *labels, const char **ret_why)
{
    const struct artifact *a = c->artifact;
    strmap_init(&c->routes, &c->arena);
    strmap_init(&c->models, &c->arena);
    strmap_init(&c->aliases, &c->arena);
    strmap_init(&c->providers, &c->arena);
    c->route_labels = labels_new(&c->arena, a->route_count);
    c->model_labels = labels_new(&c->arena, a->model_count);
    if (!c->route_labels || !c->model_labels)
        return ERR_NOMEM;
    enum err err = OK;
    for (uint32_t i = 0; i < a->provider_count && !err; i++)
        err = put_name(&c->providers, a->providers[i].name, &a->providers[i], ret_why);
    for (uint32_t i = 0; i < a->model_count && !err; i++) {
        err = put_name(&c->models, a->models[i].name, &a->models[i], ret_why);
        c->model_labels[i] = labels->find(labels->user, BOARD_LABEL_MODEL, a->models[i].name);
    }
    for (uint32_t i = 0; i < a->route_count && !err; i++) {
        err = put_name(&c->routes, a->routes[i].name, &a->routes[i], ret_why);
        c->route_labels[i] = labels->find(labels->user, BOARD_LABEL_ROUTE, a->routes[i].name);
    }
    for (uint32_t i = 0; i < a->alias_count && !err; i++)
        err = put_name(&c->aliases, a->aliases[i].name, &a->aliases[i], ret_why);
    return err;
}

enum err compiled_new(struct span artifact_bytes, const struct table_labels *labels, struct compiled **ret,
                      const char **ret_why)
{
    struct compiled *c = fault_calloc(1, sizeof *c);
    if (!c)
        return ERR_NOMEM;
    c->refs = 1;
    arena_init(&c->arena, COMPILED_ARENA_MAX);
    struct artifact *artifact;
    const char *why = NULL;
    enum err err = wire_decode_artifact(&c->arena, artifact_bytes, &artifact, &why);
    if (!err) {
        c->artifact = artifact;
        err = compiled_index(c, labels, &why);
    }
    if (err) {
        (void)why_copied(ret_why, "artifact", why, err);
        compiled_unref(c);
        return err;
    }
    *ret = c;
    return OK;
}

void compiled_unref(struct compiled *compiled)
{
    if (!compiled)
        return;
    REQUIRE(compiled->refs > 0);
    if (--compiled->refs > 0)
        return;
    arena_release(&compiled->arena);
    free(compiled);
}

/* ---- teams ---- */

static enum err teams_index(struct teams_view *view, const struct table_labels *labels, const char **ret_why)
{
    strmap_init(&view->by_name, &view->arena);
    struct team_view *items = ARENA_ARRAY(&view->arena, view->teams->count, struct team_view);
    if (!items)
        return ERR_NOMEM;
    enum err err = OK;
    for (uint32_t i = 0; i < view->teams->count && !err; i++) {
        const struct team *team = &view->teams->items[i];
        items[i] =
            (struct team_view){ .team = team, .label = labels->find(labels->user, BOARD_LABEL_TEAM, team->name) };
        err = put_name(&view->by_name, team->name, &items[i], ret_why);
    }
    return err;
}

enum err teams_view_new(struct span teams_bytes, const struct table_labels *labels, struct teams_view **ret,
                        const char **ret_why)
{
    struct teams_view *view = fault_calloc(1, sizeof *view);
    if (!view)
        return ERR_NOMEM;
    view->refs = 1;
    arena_init(&view->arena, TEAMS_ARENA_MAX);
    struct teams *teams;
    const char *why = NULL;
    enum err err = wire_decode_teams(&view->arena, teams_bytes, &teams, &why);
    if (!err) {
        view->teams = teams;
        err = teams_index(view, labels, &why);
    }
    if (err) {
        (void)why_copied(ret_why, "teams", why, err);
        teams_view_unref(view);
        return err;
    }
    *ret = view;
    return OK;
}

void teams_view_unref(struct teams_view *teams)
{
    if (!teams)
        return;
    REQUIRE(teams->refs > 0);
    if (--teams->refs > 0)
        return;
    arena_release(&teams->arena);
    free(teams);
}

/* ---- table ---- */

/* The later end of two; 0 (until lifted) is the latest. */
static int64_t later(bool had_one, int64_t a, int64_t b)
{
    if (!had_one)
        return b;
    return a == 0 || b == 0 ? 0 : a > b ? a : b;
}

static void override_model(struct model_view *view, const struct override *o)
{
    bool *on = o->kind == OVERRIDE_DRAIN ? &view->drained : &view->blocked;
    int64_t *until = o->kind == OVERRIDE_DRAIN ? &view->drained_until_ms : &view->blocked_until_ms;
    *until = later(*on, *until, o->expires_at_ms);
    *on = true;
    view->override_reason = o->reason;
}

/* Overrides of what this arm does not have are not ours to judge: another arm, or a later policy, may have it. Freezes
 * are the control plane's business. */
static void apply_overrides(const struct head *head, struct arm_view *arm)
{
    const struct artifact *a = arm->compiled->artifact;
    for (uint32_t i = 0; i < head->override_count; i++) {
        const struct override *o = &head->overrides[i];
        if (o->kind == OVERRIDE_FREEZE)
            continue;
        const struct model *model = strmap_get(&arm->compiled->models, o->target);
        const struct provider *provider = strmap_get(&arm->compiled->providers, o->target);
        if (model)
            override_model(&arm->models[table_model_index(arm, model)], o);
        if (!provider)
            continue;
        for (uint32_t m = 0; m < a->model_count; m++)
            if (&a->providers[a->models[m].provider] == provider)
                override_model(&arm->models[m], o);
    }
}

static void apply_model_evidence(const struct evidence *evidence, struct arm_view *arm)
{
    for (uint32_t i = 0; i < evidence->model_count; i++) {
        const struct model_evidence *e = &evidence->models[i];
        const struct model *model = strmap_get(&arm->compiled->models, e->name);
        if (!model)
            continue;
        struct model_view *view = &arm->models[table_model_index(arm, model)];
        view->health = e->health;
        view->health_since_ms = e->health_since_ms;
        /* What the policy says of a price goes before everything else. */
        if (e->price_source != PRICE_SOURCE_NONE && model->price_source != PRICE_SOURCE_POLICY) {
            view->price = &e->price;
            view->price_source = e->price_source;
            view->price_stale = e->price_stale;
        }
        view->samples = e->samples;
        view->ttft_ewma_us = e->ttft_ewma_us;
        view->ttft_p95_us = e->ttft_p95_us;
        view->errors_ppm = e->errors_ppm;
    }
}

static int compare_rows(const void *a, const void *b)
{
    uint32_t x = ((const struct weight_row *)a)->slot, y = ((const struct weight_row *)b)->slot;
    return x < y ? -1 : x > y;
}

static enum err apply_weights(struct arena *arena, const struct evidence *evidence, struct arm_view *arm,
                              const char **ret_why)
{
    uint32_t ours = 0;
    for (uint32_t i = 0; i < evidence->weight_count; i++)
        ours += sha256_eq(&evidence->weights[i].artifact, &arm->compiled->artifact->hash);
    arm->weights = ARENA_ARRAY(arena, ours, struct weight_row);
    if (!arm->weights)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < evidence->weight_count; i++) {
        const struct tier_weights *w = &evidence->weights[i];
        if (!sha256_eq(&w->artifact, &arm->compiled->artifact->hash))
            continue;
        const struct route *route = strmap_get(&arm->compiled->routes, w->route);
        if (!route || w->tier >= route->tier_count || w->count != route->tiers[w->tier].member_count)
            return why_is(ret_why, "weights do not fit their artifact", ERR_INVALID);
        arm->weights[arm->weight_count++] =
            (struct weight_row){ .slot = table_route_index(arm, route) * TIERS_MAX + w->tier, .ppm = w->weights_ppm };
    }
    if (arm->weight_count > 1)
        qsort(arm->weights, arm->weight_count, sizeof *arm->weights, compare_rows);
    for (uint32_t i = 1; i < arm->weight_count; i++)
        if (arm->weights[i].slot == arm->weights[i - 1].slot)
            return why_is(ret_why, "weights of one tier stand twice", ERR_INVALID);
    return OK;
}

static enum err fill_arm(struct table *table, uint32_t index, struct compiled *compiled, const char **ret_why)
{
    struct arm_view *view = &table->arms[index];
    view->arm = &table->head->arms[index];
    if (!sha256_eq(&view->arm->artifact, &compiled->artifact->hash))
        return why_is(ret_why, "the head names another artifact", ERR_INVALID);
    view->compiled = compiled;
    compiled->refs++;
    const struct artifact *a = compiled->artifact;
    view->models = ARENA_ARRAY(&table->arena, a->model_count, struct model_view);
    if (!view->models)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < a->model_count; i++) {
        view->models[i].price = &a->models[i].price;
        view->models[i].price_source = a->models[i].price_source;
    }
    apply_overrides(table->head, view);
    if (!table->evidence)
        return OK;
    apply_model_evidence(table->evidence, view);
    return apply_weights(&table->arena, table->evidence, view, ret_why);
}

static enum err fill_table(struct table *table, struct span head_bytes, struct span evidence_bytes,
                           struct compiled *const *compiled, uint32_t compiled_count, const char **ret_why)
{
    struct head *head;
    struct evidence *evidence;
    const char *why = NULL;
    enum err err = wire_decode_head(&table->arena, head_bytes, &head, &why);
    if (err)
        return why_copied(ret_why, "head", why, err);
    table->head = head;
    if (!span_empty(evidence_bytes)) {
        err = wire_decode_evidence(&table->arena, evidence_bytes, &evidence, &why);
        if (err)
            return why_copied(ret_why, "evidence", why, err);
        table->evidence = evidence;
    }
    if (head->arm_count != compiled_count)
        return why_is(ret_why, "the head and the artifacts at hand differ in number", ERR_INVALID);
    if (compiled_count == 0)
        return OK;
    table->arms = ARENA_ARRAY(&table->arena, compiled_count, struct arm_view);
    if (!table->arms)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < compiled_count && !err; i++)
        err = fill_arm(table, i, compiled[i], ret_why);
    return err;
}

enum err table_new(struct span head_bytes, struct span evidence_bytes, struct compiled *const *compiled,
                   uint32_t compiled_count, struct teams_view *teams, const struct table_version *version,
                   struct table **ret, const char **ret_why)
{
    REQUIRE(teams);
    struct table *table = fault_calloc(1, sizeof *table);
    if (!table)
        return ERR_NOMEM;
    table->refs = 1;
    table->version = *version;
    table->teams = teams;
    teams->refs++;
    arena_init(&table->arena, TABLE_ARENA_MAX);
    enum err err = fill_table(table, head_bytes, evidence_bytes, compiled, compiled_count, ret_why);
    if (err) {
        if (err == ERR_NOMEM)
            (void)why_is(ret_why, "out of memory", err);
        table_unref(table);
        return err;
    }
    *ret = table;
    return OK;
}

struct table *table_ref(struct table *table)
{
    table->refs++;
    return table;
}

void table_unref(struct table *table)
{
    if (!table)
        return;
    REQUIRE(table->refs > 0);
    if (--table->refs > 0)
        return;
    for (uint32_t i = 0; table->arms && i < table->head->arm_count; i++)
        compiled_unref(table->arms[i].compiled);
    teams_view_unref(table->teams);
    arena_release(&table->arena);
    free(table);
}

bool table_evidence_valid(const struct table *table, int64_t now_ms)
{
    return table->evidence && now_ms < table->evidence->expires_at_ms;
}

const struct team_view *table_team(const struct table *table, struct span name)
{
    return strmap_get(&table->teams->by_name, name);
}

const struct route *table_route(const struct arm_view *arm, struct span name)
{
    const struct route *route = strmap_get(&arm->compiled->routes, name);
    if (route)
        return route;
    const struct alias *alias = strmap_get(&arm->compiled->aliases, name);
    return alias ? strmap_get(&arm->compiled->routes, alias->target) : NULL;
}

const struct model *table_model(const struct arm_view *arm, struct span name)
{
    const struct model *model = strmap_get(&arm->compiled->models, name);
    if (model)
        return model;
    const struct alias *alias = strmap_get(&arm->compiled->aliases, name);
    return alias ? strmap_get(&arm->compiled->models, alias->target) : NULL;
}

const uint32_t *table_weights(const struct arm_view *arm, uint32_t route_index, uint32_t tier)
{
    if (arm->weight_count == 0)
        return NULL;
    struct weight_row wanted = { .slot = route_index * TIERS_MAX + tier };
    const struct weight_row *row =
        bsearch(&wanted, arm->weights, arm->weight_count, sizeof *arm->weights, compare_rows);
    return row ? row->ppm : NULL;
}

uint32_t table_route_index(const struct arm_view *arm, const struct route *route)
{
    return (uint32_t)(route - arm->compiled->artifact->routes);
}

uint32_t table_model_index(const struct arm_view *arm, const struct model *model)
{
    return (uint32_t)(model - arm->compiled->artifact->models);
}
