/* teams.c - a directory becomes teams. */
#include "common/arena.h"
#include "controlplane/policy/fields.h"
#include "controlplane/policy/tree.h"

struct team_reader {
    struct arena *arena;
    struct diags *diags;
    const struct artifact *artifact; /* NULL: nothing to check against */
    struct strmap routes, models, aliases;
    uint64_t compared; /* names held against globs so far */
    bool failed;
};

/* Globs that match nothing are only worth a warning: 100,000 teams times 100,000 routes are not worth the minutes. */
#define GLOB_COMPARISONS_MAX UINT64_C(20000000)

static bool is_glob(struct span text)
{
    return span_find_byte(text, '*') != SIZE_MAX || span_find_byte(text, '?') != SIZE_MAX;
}

static bool any_matches(struct team_reader *t, const struct strmap *names, struct span pattern)
{
    struct span name;
    void *value;
    for (size_t at = 0; strmap_each(names, &at, &name, &value);) {
        if (t->compared++ > GLOB_COMPARISONS_MAX || span_glob(pattern, name))
            return true;
    }
    return false;
}

static void check_route(struct team_reader *t, const struct yaml_node *at, struct span name)
{
    if (!t->artifact)
        return;
    if (is_glob(name)) {
        if (!any_matches(t, &t->routes, name))
            diag_warning(t->diags, at, "no route matches '" SPAN_FMT "'", SPAN_ARG(name));
    } else if (strmap_has(&t->aliases, name)) {
        diag_error(t->diags, at, "'" SPAN_FMT "' is an alias; name the route", SPAN_ARG(name));
    } else if (!strmap_has(&t->routes, name)) {
        diag_error(t->diags, at, "there is no route '" SPAN_FMT "'%s", SPAN_ARG(name),
                   suggest(t->diags, name, &t->routes));
    }
}

static void check_model(struct team_reader *t, const struct yaml_node *at, struct span name)
{
    if (span_find_byte(name, '/') == SIZE_MAX) {
        diag_error(t->diags, at, "'" SPAN_FMT "' must be provider/model, which may have * in it", SPAN_ARG(name));
        return;
    }
    if (!t->artifact)
        return;
    if (is_glob(name)) {
        if (!any_matches(t, &t->models, name))
            diag_warning(t->diags, at, "no model matches '" SPAN_FMT "'", SPAN_ARG(name));
    } else if (!strmap_has(&t->models, name)) {
        diag_error(t->diags, at, "there is no model '" SPAN_FMT "'%s", SPAN_ARG(name),
                   suggest(t->diags, name, &t->models));
    }
}

static void read_names(struct team_reader *t, const struct yaml_node *node, struct span_list *ret,
                       void (*check)(struct team_reader *, const struct yaml_node *, struct span))
{
    if (!field_list(t->diags, t->arena, node, ret))
        return;
    const struct yaml_node *at = node->first;
    for (uint32_t i = 0; i < ret->count; i++, at = at->next)
        check(t, at, ret->items[i]);
    if (ret->count == 0)
        diag_warning(t->diags, node, "an empty list allows nothing, as if it were not there");
}

/* Read for what is wrong in them, then refused: a limit that nobody keeps is worse than none. */
static void refuse_limits(struct team_reader *t, const struct yaml_node *team)
{
    static const char *const budget_fields[] = { "usd", "per", "zone", NULL };
    static const char *const rate_fields[] = { "requests", "tokens", "per", NULL };
    static const char *const budget_periods[] = { "hour", "day", "week", "month", "year", NULL };
    static const char *const rate_periods[] = { "second", "minute", "hour", "day", NULL };
    const struct yaml_node *budget = yaml_get(team, "budget"), *rate = yaml_get(team, "rate");
    int64_t nano;
    uint64_t count;
    size_t word;
    struct span zone;
    if (fields_check(t->diags, budget, "'budget'", budget_fields)) {
        field_usd(t->diags, yaml_get(budget, "usd"), &nano);
        field_word(t->diags, yaml_get(budget, "per"), budget_periods, &word);
        field_text(t->diags, yaml_get(budget, "zone"), &zone);
    }
    if (fields_check(t->diags, rate, "'rate'", rate_fields)) {
        field_count(t->diags, yaml_get(rate, "requests"), 1, TOKENS_MOST, &count);
        field_count(t->diags, yaml_get(rate, "tokens"), 1, UINT64_C(1000000000000), &count);
        field_word(t->diags, yaml_get(rate, "per"), rate_periods, &word);
    }
    if (budget)
        diag_error(t->diags, budget->key, "budgets are not enforced by this version yet; remove 'budget'");
    if (rate)
        diag_error(t->diags, rate->key, "rate limits are not enforced by this version yet; remove 'rate'");
}

/* may: [choose_arm, explain] */
static void read_may(struct team_reader *t, const struct yaml_node *node, uint32_t *ret)
{
    static const char *const words[] = { "choose_arm", "explain", NULL };
    static const uint32_t bits[] = { TEAM_MAY_CHOOSE_ARM, TEAM_MAY_EXPLAIN };
    size_t word;
    struct span_list list;
    if (!field_list(t->diags, t->arena, node, &list))
        return;
    for (const struct yaml_node *at = node->first; at; at = at->next)
        if (field_word(t->diags, at, words, &word))
            *ret |= bits[word];
}

static void read_team(struct team_reader *t, const struct entry *entry, struct team *out)
{
    static const char *const known[] = { "routes", "models", "require", "may", "budget", "rate", NULL };
    char what[NAME_BYTES_MAX + 32];
    snprintf(what, sizeof what, "team " SPAN_FMT, SPAN_ARG(span_head(entry->name, NAME_BYTES_MAX)));
    out->name = entry->name;
    out->where = place_of(t->arena, entry->node->key);
    t->failed |= !out->where.ptr;
    name_check(t->diags, entry->node->key, entry->name, NAME_PLAIN, "team");
    bool is_map = fields_check(t->diags, entry->node, what, known);
    if (is_map) {
        read_names(t, yaml_get(entry->node, "routes"), &out->routes, check_route);
        read_names(t, yaml_get(entry->node, "models"), &out->models, check_model);
        field_requirement(t->diags, t->arena, yaml_get(entry->node, "require"), &out->require);
        read_may(t, yaml_get(entry->node, "may"), &out->may);
        refuse_limits(t, entry->node);
    }
    if ((is_map && !yaml_get(entry->node, "routes") && !yaml_get(entry->node, "models")) || yaml_is_null(entry->node))
        diag_warning(t->diags, entry->node->key, "%s has neither 'routes' nor 'models': it can use nothing", what);
}

static void index_artifact(struct team_reader *t)
{
    const struct artifact *a = t->artifact;
    for (uint32_t i = 0; i < a->route_count; i++)
        t->failed |= strmap_put(&t->routes, a->routes[i].name, t) == ERR_NOMEM;
    for (uint32_t i = 0; i < a->model_count; i++)
        t->failed |= strmap_put(&t->models, a->models[i].name, t) == ERR_NOMEM;
    for (uint32_t i = 0; i < a->alias_count; i++)
        t->failed |= strmap_put(&t->aliases, a->aliases[i].name, t) == ERR_NOMEM;
}

static int by_name(const void *a, const void *b)
{
    const struct team *x = a, *y = b;
    return span_cmp(x->name, y->name);
}

enum err policy_teams(struct arena *arena, const struct policy *policy, const struct artifact *artifact,
                      struct diags *diags, const struct teams **ret_teams)
{
    if (!policy->has_directory) {
        diag_error(diags, policy->policy_document, "there is no 'kind: directory' document");
        return ERR_INVALID;
    }
    struct team_reader t = { .arena = arena, .diags = diags, .artifact = artifact };
    const struct section *section = &policy->teams;
    struct teams *teams = ARENA_NEW(arena, struct teams);
    if (section->count > TEAMS_MAX) {
        diag_error(diags, policy->directory_document, "more than %u teams", TEAMS_MAX);
        return ERR_INVALID;
    }
    if (!teams || !(teams->items = ARENA_ARRAY(arena, section->count + 1, struct team)))
        return ERR_NOMEM;
    strmap_init(&t.routes, arena);
    strmap_init(&t.models, arena);
    strmap_init(&t.aliases, arena);
    if (artifact)
        index_artifact(&t);
    for (uint32_t i = 0; i < section->count && !t.failed; i++)
        read_team(&t, &section->items[i], &teams->items[teams->count++]);
    if (section->count == 0)
        diag_warning(diags, policy->directory_document, "this directory has no teams: nobody gets in");
    qsort(teams->items, teams->count, sizeof *teams->items, by_name);
    if (t.failed || diags->failed)
        return ERR_NOMEM;
    if (diags_bad(diags))
        return ERR_INVALID;
    *ret_teams = teams;
    return OK;
}
