/* route.c - routes with their tiers, and aliases. */
#include "common/arena.h"
#include "controlplane/policy/compiler.h"
#include "controlplane/policy/prior.h"

static const char *const prefer_words[] = { "cheapest", "fastest", "balanced", NULL };
static const enum prefer prefer_values[] = { PREFER_CHEAPEST, PREFER_FASTEST, PREFER_BALANCED };
static const struct objective_weights prefer_objectives[] = { OBJECTIVES_CHEAPEST, OBJECTIVES_FASTEST,
                                                              OBJECTIVES_BALANCED };

struct route_reader {
    struct compiler *c;
    struct route *out;
    const struct artifact *artifact;
    const struct yaml_node *node;
    uint32_t *seen; /* per model: the last tier (from 1) that has it; 0: none. All 0 between routes */
};

/* ---- data requirements ---- */

/* Why a model's data facts do not meet the requirement; NULL: they do. An unknown fact meets nothing. */
static const char *unmet(const struct requirement *require, const struct data_facts *data)
{
    bool region_found = require->regions.count == 0;
    for (uint32_t i = 0; i < require->regions.count; i++) {
        for (uint32_t k = 0; k < data->regions.count; k++)
            region_found |= span_eq(require->regions.items[i], data->regions.items[k]);
    }
    if (!region_found)
        return data->regions.count == 0 ? "its provider's regions are not known" : "it is in no required region";
    if (require->has_retention && !data->retention_known)
        return "its provider's retention_days is not known";
    if (require->has_retention && data->retention_days > require->max_retention_days)
        return "its provider keeps data longer";
    if (require->no_training && (!data->trains_known || data->trains))
        return data->trains_known ? "its provider trains on data"
                                  : "it is not known whether its provider trains on data";
    return NULL;
}

/* A model that the route's own requirement always excludes is there in vain; a route of only such models serves nobody.
 */
static void check_requirement(struct route_reader *r)
{
    uint32_t members = 0, usable = 0;
    for (uint32_t t = 0; t < r->out->tier_count; t++) {
        const struct tier *tier = &r->out->tiers[t];
        members += tier->member_count;
        for (uint32_t m = 0; m < tier->member_count; m++) {
            const struct model *model = &r->artifact->models[tier->members[m].model];
            const char *why = unmet(&r->out->require, &r->artifact->providers[model->provider].data);
            if (why)
                diag_warning(r->c->diags, yaml_get(r->node, "require"), "'" SPAN_FMT "' is never used in tier %u: %s",
                             SPAN_ARG(model->name), t + 1, why);
            else
                usable++;
        }
    }
    if (members > 0 && usable == 0)
        diag_error(r->c->diags, yaml_get(r->node, "require"), "no model of route '" SPAN_FMT "' meets what it requires",
                   SPAN_ARG(r->out->name));
}

/* ---- members ---- */

static void member_add(struct route_reader *r, struct tier *tier, const struct yaml_node *at)
{
    struct span name;
    if (!field_text(r->c->diags, at, &name))
        return;
    const struct model_draft *model = model_require(r->c, name, at, true);
    if (!model)
        return;
    for (uint32_t i = 0; i < tier->member_count; i++) {
        if (tier->members[i].model == model->index) {
            diag_error(r->c->diags, at, "'" SPAN_FMT "' stands twice in this tier", SPAN_ARG(name));
            return;
        }
    }
    tier->members[tier->member_count++].model = model->index;
}

/* Weights in a map. An absent or wrong one is reported and counts as 1, so that the rest is still checked. */
static void read_weights(struct route_reader *r, struct tier *tier, const struct yaml_node *models)
{
    double raw[TIER_MEMBERS_MAX];
    double sum = 0;
    for (const struct yaml_node *child = models->first; child; child = child->next) {
        uint32_t before = tier->member_count;
        uint64_t weight = 1;
        field_count(r->c->diags, child, 0, WEIGHT_WHOLE, &weight);
        member_add(r, tier, child->key);
        if (tier->member_count > before) {
            raw[before] = (double)weight;
            sum += raw[before];
        }
    }
    if (tier->member_count == 0)
        return;
    if (sum <= 0) {
        diag_error(r->c->diags, models, "all weights are 0: this tier would serve nobody");
        return;
    }
    uint32_t ppm[TIER_MEMBERS_MAX];
    prior_normalise(raw, tier->member_count, ppm);
    for (uint32_t i = 0; i < tier->member_count; i++)
        tier->members[i].weight_ppm = ppm[i];
}

static void weigh_list(struct route_reader *r, struct tier *tier)
{
    int64_t costs[TIER_MEMBERS_MAX];
    uint32_t ppm[TIER_MEMBERS_MAX];
    if (tier->member_count == 0)
        return;
    for (uint32_t i = 0; i < tier->member_count; i++) {
        const struct model *model = &r->artifact->models[tier->members[i].model];
        costs[i] = prior_cost(&model->price, r->artifact->providers[model->provider].discount_ppm,
                              r->out->mix_input_tokens, r->out->mix_output_tokens);
    }
    prior_weights(costs, tier->member_count, &tier->objectives, ppm);
    for (uint32_t i = 0; i < tier->member_count; i++)
        tier->members[i].weight_ppm = ppm[i];
}

/* ---- tiers ---- */

static void read_objectives(struct route_reader *r, const struct yaml_node *map, struct objective_weights *out)
{
    static const char *const known[] = { "cost", "ttft", "speed", "errors", "headroom", NULL };
    uint32_t *const slots[] = { &out->cost, &out->ttft, &out->speed, &out->errors, &out->headroom };
    uint64_t sum = 0;
    if (!fields_check(r->c->diags, map, "'objectives'", known))
        return;
    *out = (struct objective_weights){ 0 };
    for (size_t i = 0; known[i]; i++) {
        uint64_t value = 0;
        field_count(r->c->diags, yaml_get(map, known[i]), 0, OBJECTIVE_MOST, &value);
        *slots[i] = (uint32_t)value;
        sum += value;
    }
    if (sum == 0)
        diag_error(r->c->diags, map,
                   "'objectives' weighs nothing; give at least one of cost, ttft, speed, errors, headroom");
}

static void read_bounds(struct route_reader *r, const struct yaml_node *map, struct bounds *out)
{
    static const char *const known[] = { "ttft_p95", "errors", "cost", NULL };
    struct diags *diags = r->c->diags;
    if (!fields_check(diags, map, "'within'", known))
        return;
    out->where = place_of(r->c->arena, map->key);
    r->c->failed |= !out->where.ptr;
    if (map->count == 0)
        diag_warning(diags, map, "an empty 'within' bounds nothing");
    const struct yaml_node *errors = yaml_get(map, "errors"), *cost = yaml_get(map, "cost");
    field_duration(diags, yaml_get(map, "ttft_p95"), false, &out->ttft_p95_ms);
    if (field_share(diags, errors, &out->errors_ppm) && out->errors_ppm == 0)
        diag_error(diags, errors,
                   "a bound of no errors at all excludes every model sooner or later; write at least 0.1%%");
    if (field_usd(diags, cost, &out->cost_nano_max) && out->cost_nano_max == 0)
        diag_error(diags, cost, "'cost' must be more than nothing: US dollars for one usual request");
}

/* Fields that only a scored tier reads. */
static void refuse_scoring(struct route_reader *r, const struct yaml_node *node)
{
    static const char *const scoring[] = { "prefer", "objectives", "within" };
    for (size_t i = 0; i < ARRAY_LEN(scoring); i++) {
        const struct yaml_node *field = yaml_get(node, scoring[i]);
        if (field)
            diag_error(r->c->diags, field->key,
                       "'%s' has no effect on weights set by hand; write the models as a list, or remove it",
                       scoring[i]);
    }
}

static void read_scoring(struct route_reader *r, const struct yaml_node *node, struct tier *tier)
{
    const struct yaml_node *prefer = yaml_get(node, "prefer"), *objectives = yaml_get(node, "objectives");
    size_t word = 2; /* balanced: what nobody said otherwise */
    field_word(r->c->diags, prefer, prefer_words, &word);
    tier->prefer = prefer_values[word];
    tier->objectives = prefer_objectives[word];
    if (prefer && objectives)
        diag_error(r->c->diags, objectives->key, "'objectives' and 'prefer' say the same in two ways; remove one");
    read_objectives(r, objectives, &tier->objectives);
    read_bounds(r, yaml_get(node, "within"), &tier->within);
}

/* Warns of a tier that adds no model: when those before have failed, so have its own. */
static void note_members(struct route_reader *r, const struct tier *tier, const struct yaml_node *node,
                         uint32_t tier_number)
{
    uint32_t fresh = 0;
    for (uint32_t i = 0; i < tier->member_count; i++) {
        uint32_t *seen = &r->seen[tier->members[i].model];
        fresh += *seen == 0;
        *seen = tier_number;
    }
    if (tier->member_count > 0 && fresh == 0)
        diag_warning(r->c->diags, node, "tier %u is never reached: all its models are in the tiers before it",
                     tier_number);
}

static void read_tier(struct route_reader *r, const struct yaml_node *node, uint32_t tier_number)
{
    static const char *const known[] = { "models", "prefer", "objectives", "within", NULL };
    struct tier *tier = &r->out->tiers[tier_number - 1];
    struct diags *diags = r->c->diags;
    char what[32];
    snprintf(what, sizeof what, "tier %u", tier_number);
    if (!fields_check(diags, node, what, known))
        return;
    tier->where = place_of(r->c->arena, node);
    r->c->failed |= !tier->where.ptr;
    const struct yaml_node *models = yaml_get(node, "models");
    if (!models || models->kind == YAML_SCALAR || models->count == 0) {
        diag_error(diags, models ? models : node, "a tier needs 'models': a map with weights, or a list to be scored");
        return;
    }
    if (models->count > TIER_MEMBERS_MAX) {
        diag_error(diags, models, "more than %u models in one tier", TIER_MEMBERS_MAX);
        return;
    }
    tier->members = ARENA_ARRAY(r->c->arena, models->count, struct tier_member);
    if (!tier->members) {
        r->c->failed = true;
        return;
    }
    if (models->kind == YAML_MAP) {
        refuse_scoring(r, node);
        read_weights(r, tier, models);
    } else {
        read_scoring(r, node, tier);
        for (const struct yaml_node *child = models->first; child; child = child->next)
            member_add(r, tier, child);
        weigh_list(r, tier);
    }
    note_members(r, tier, node, tier_number);
}

static void read_tiers(struct route_reader *r)
{
    const struct yaml_node *tiers = yaml_get(r->node, "tiers");
    if (!tiers || tiers->kind != YAML_LIST || tiers->count == 0) {
        diag_error(r->c->diags, tiers ? tiers : r->node->key,
                   "route '" SPAN_FMT "' needs 'tiers', a list such as [{models: [provider/model]}]",
                   SPAN_ARG(r->out->name));
        return;
    }
    if (tiers->count > TIERS_MAX) {
        diag_error(r->c->diags, tiers, "more than %u tiers", TIERS_MAX);
        return;
    }
    r->out->tier_count = tiers->count;
    uint32_t number = 0;
    for (const struct yaml_node *tier = tiers->first; tier; tier = tier->next)
        read_tier(r, tier, ++number);
    for (uint32_t t = 0; t < r->out->tier_count; t++) {
        for (uint32_t m = 0; m < r->out->tiers[t].member_count; m++)
            r->seen[r->out->tiers[t].members[m].model] = 0;
    }
}

/* ---- routes ---- */

static void read_mix(struct compiler *c, const struct yaml_node *map, uint32_t *input, uint32_t *output)
{
    static const char *const known[] = { "input", "output", NULL };
    uint64_t value;
    if (!fields_check(c->diags, map, "'mix'", known))
        return;
    if (field_count(c->diags, yaml_get(map, "input"), 0, TOKENS_MOST, &value))
        *input = (uint32_t)value;
    if (field_count(c->diags, yaml_get(map, "output"), 0, TOKENS_MOST, &value))
        *output = (uint32_t)value;
    if (*input == 0 && *output == 0)
        diag_error(c->diags, map, "a mix of no tokens costs nothing everywhere");
}

static void read_route(struct route_reader *r)
{
    static const char *const known[] = { "tiers",    "require",  "max_cost_usd", "attempts",
                                         "deadline", "timeouts", "mix",          NULL };
    struct compiler *c = r->c;
    struct route *out = r->out;
    char what[NAME_BYTES_MAX + 32];
    snprintf(what, sizeof what, "route " SPAN_FMT, SPAN_ARG(span_head(out->name, NAME_BYTES_MAX)));
    if (!fields_check(c->diags, r->node, what, known)) {
        if (yaml_is_null(r->node))
            diag_error(c->diags, r->node->key, "%s is empty; it needs 'tiers'", what);
        return;
    }
    out->attempts = c->attempts;
    out->deadline_ms = c->deadline_ms;
    out->mix_input_tokens = c->mix_input_tokens;
    out->mix_output_tokens = c->mix_output_tokens;
    const struct yaml_node *attempts = yaml_get(r->node, "attempts"), *cost = yaml_get(r->node, "max_cost_usd");
    uint64_t value;
    if (field_count(c->diags, attempts, 1, ATTEMPTS_MAX, &value))
        out->attempts = (uint32_t)value;
    field_duration(c->diags, yaml_get(r->node, "deadline"), true, &out->deadline_ms);
    field_timeouts(c->diags, yaml_get(r->node, "timeouts"), &out->timeouts);
    if (cost) {
        out->max_cost_where = place_of(c->arena, cost->key);
        c->failed |= !out->max_cost_where.ptr;
    }
    if (field_usd(c->diags, cost, &out->max_cost_nano) && out->max_cost_nano == 0)
        diag_error(c->diags, cost, "'max_cost_usd: 0' would refuse every request; remove it or write an amount");
    read_mix(c, yaml_get(r->node, "mix"), &out->mix_input_tokens, &out->mix_output_tokens);
    read_tiers(r);
    if (attempts && out->attempts < out->tier_count)
        diag_warning(c->diags, attempts,
                     "with %u attempts, tier %u is only reached when models before it are known to be down",
                     out->attempts, out->tier_count);
    field_requirement(c->diags, c->arena, yaml_get(r->node, "require"), &out->require);
    if (yaml_get(r->node, "require"))
        check_requirement(r);
}

static int by_route_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return span_cmp(x->name, y->name);
}

static struct entry *sorted_entries(struct compiler *c, const struct section *section)
{
    struct entry *sorted = ARENA_ARRAY(c->arena, section->count + 1, struct entry);
    if (!sorted)
        c->failed = true;
    if (!sorted || section->count == 0)
        return sorted;
    memcpy(sorted, section->items, section->count * sizeof *sorted);
    qsort(sorted, section->count, sizeof *sorted, by_route_name);
    return sorted;
}

void compile_routes(struct compiler *c, struct artifact *artifact)
{
    const struct section *section = &c->policy->routes;
    if (section->count > ROUTES_MAX) {
        diag_error(c->diags, c->policy->policy_document, "more than %u routes", ROUTES_MAX);
        return;
    }
    const struct entry *entries = sorted_entries(c, section);
    uint32_t *seen = ARENA_ARRAY(c->arena, c->model_count + 1, uint32_t);
    artifact->routes = ARENA_ARRAY(c->arena, section->count + 1, struct route);
    if (!entries || !seen || !artifact->routes) {
        c->failed = true;
        return;
    }
    for (uint32_t i = 0; i < section->count && !c->failed; i++) {
        struct route *out = &artifact->routes[artifact->route_count++];
        struct route_reader r = { .c = c, .out = out, .artifact = artifact, .node = entries[i].node, .seen = seen };
        out->name = entries[i].name;
        out->where = place_of(c->arena, entries[i].node->key);
        c->failed |= !out->where.ptr;
        name_check(c->diags, entries[i].node->key, out->name, NAME_ROUTE, "route");
        read_route(&r);
    }
}

/* ---- aliases ---- */

static void read_alias(struct compiler *c, const struct entry *entry, struct alias *out)
{
    const struct policy *policy = c->policy;
    const struct yaml_node *at = entry->node->key;
    struct span target;
    name_check(c->diags, at, entry->name, NAME_MODEL, "alias");
    const struct yaml_node *route = strmap_get(&policy->routes.by_name, entry->name);
    if (route)
        diag_error(c->diags, at, "alias '" SPAN_FMT "' is never reached: a route has this name, at %s:%u",
                   SPAN_ARG(entry->name), route->key->file, route->key->line);
    if (strmap_has(&c->models, entry->name))
        diag_error(c->diags, at, "alias '" SPAN_FMT "' has the name of a model", SPAN_ARG(entry->name));
    if (!field_text(c->diags, entry->node, &target))
        return;
    *out = (struct alias){ .name = entry->name, .target = target };
    if (strmap_has(&policy->routes.by_name, target))
        return;
    if (strmap_has(&policy->aliases.by_name, target))
        diag_error(c->diags, entry->node, "'" SPAN_FMT "' is an alias itself; name the route or model",
                   SPAN_ARG(target));
    else if (span_find_byte(target, '/') != SIZE_MAX)
        (void)model_require(c, target, entry->node, true);
    else
        diag_error(c->diags, entry->node, "there is no route '" SPAN_FMT "'%s", SPAN_ARG(target),
                   suggest(c->diags, target, &policy->routes.by_name));
}

void compile_aliases(struct compiler *c, struct artifact *artifact)
{
    const struct section *section = &c->policy->aliases;
    const struct entry *entries = sorted_entries(c, section);
    artifact->aliases = ARENA_ARRAY(c->arena, section->count + 1, struct alias);
    if (!entries || !artifact->aliases) {
        c->failed = true;
        return;
    }
    for (uint32_t i = 0; i < section->count; i++)
        read_alias(c, &entries[i], &artifact->aliases[artifact->alias_count++]);
}
