/* model.c - models: exact entries, wildcards, prices and capabilities. */
#include "common/arena.h"
#include "controlplane/policy/compiler.h"
#include "controlplane/policy/names.h"
#include "controlplane/policy/presets.h"
#include <time.h>

#define PRICE_MOST_NANO                                                                                                \
    INT64_C(1000000000000000)          /* a million dollars per million tokens: a slip; keeps sums in 64 bits */
#define DEPRECATED_SOON_S (30 * 86400) /* time to move to another model */
#define CAP_ALL                                                                                                        \
    (CAP_CHAT | CAP_COMPLETIONS | CAP_EMBEDDINGS | CAP_TOOLS | CAP_IMAGES | CAP_JSON | CAP_AUDIO | CAP_STREAM)
#define CAP_USES (CAP_CHAT | CAP_COMPLETIONS | CAP_EMBEDDINGS) /* what our endpoints can ask for */

static const struct {
    const char *name;
    uint32_t bit;
} capability_names[] = {
    { "chat", CAP_CHAT },   { "completions", CAP_COMPLETIONS }, { "embeddings", CAP_EMBEDDINGS },
    { "tools", CAP_TOOLS }, { "images", CAP_IMAGES },           { "json", CAP_JSON },
    { "audio", CAP_AUDIO }, { "stream", CAP_STREAM },
};

/* ---- capabilities ---- */

/* What the book knows, else everything; then what the policy says, the nearest `like` last. */
static uint32_t read_capabilities(struct compiler *c, const struct chain *chain, const struct catalog_entry *entry)
{
    static const char *const known[] = { "chat", "completions", "embeddings", "tools", "images",
                                         "json", "audio",       "stream",     NULL };
    uint32_t caps = CAP_ALL;
    if (entry)
        caps = (entry->capabilities & entry->capabilities_known) | (CAP_ALL & ~entry->capabilities_known);
    fields_check(c->diags, yaml_get(chain->nodes[0], "capabilities"), "'capabilities'", known);
    for (size_t i = 0; i < ARRAY_LEN(capability_names); i++) {
        bool can;
        if (field_bool(c->diags, chain_get_in(chain, "capabilities", capability_names[i].name), &can))
            caps = can ? caps | capability_names[i].bit : caps & ~capability_names[i].bit;
    }
    return caps;
}

/* ---- prices ---- */

static void read_amount(struct compiler *c, const struct yaml_node *map, const char *field, uint32_t bit,
                        struct price *price, int64_t *ret)
{
    const struct yaml_node *node = yaml_get(map, field);
    if (!field_usd(c->diags, node, ret))
        return;
    if (*ret > PRICE_MOST_NANO)
        diag_error(c->diags, node, "'%s' is more than a million dollars", field);
    price->known |= bit;
}

static void read_long_price(struct compiler *c, const struct yaml_node *map, struct price *price)
{
    static const char *const known[] = { "above", "input", "output", "cache_read", NULL };
    if (!fields_check(c->diags, map, "'long'", known))
        return;
    uint32_t before = price->known;
    bool has_above = field_count(c->diags, yaml_get(map, "above"), 1, TOKENS_MOST, &price->long_above);
    struct price seen = { 0 };
    read_amount(c, map, "input", PRICE_INPUT, &seen, &price->long_input);
    read_amount(c, map, "output", PRICE_OUTPUT, &seen, &price->long_output);
    read_amount(c, map, "cache_read", PRICE_CACHE_READ, &seen, &price->long_cache_read);
    if (!yaml_get(map, "above") || !(seen.known & PRICE_INPUT) || !(seen.known & PRICE_OUTPUT))
        diag_error(c->diags, map, "'long' needs above (tokens), input and output");
    if (!(seen.known & PRICE_CACHE_READ)) /* absent: as the long input */
        price->long_cache_read = price->long_input;
    price->known = before | (has_above ? (uint32_t)PRICE_LONG : 0);
}

/* The policy's own price; US dollars per million tokens are nano-dollars per million tokens times 10^9. */
static void read_price(struct compiler *c, const struct yaml_node *map, uint32_t caps, struct price *price)
{
    static const char *const known[] = { "input",     "output",  "cached_input", "cache_read", "cache_write",
                                         "reasoning", "request", "long",         NULL };
    if (!fields_check(c->diags, map, "'price'", known))
        return;
    read_amount(c, map, "input", PRICE_INPUT, price, &price->input);
    read_amount(c, map, "output", PRICE_OUTPUT, price, &price->output);
    read_amount(c, map, "cached_input", PRICE_CACHE_READ, price, &price->cache_read);
    if (yaml_get(map, "cached_input") && yaml_get(map, "cache_read"))
        diag_error(c->diags, yaml_get(map, "cache_read"), "'cache_read' and 'cached_input' are the same; remove one");
    else
        read_amount(c, map, "cache_read", PRICE_CACHE_READ, price, &price->cache_read);
    read_amount(c, map, "cache_write", PRICE_CACHE_WRITE, price, &price->cache_write);
    read_amount(c, map, "reasoning", PRICE_REASONING, price, &price->reasoning);
    read_amount(c, map, "request", PRICE_REQUEST, price, &price->request);
    read_long_price(c, yaml_get(map, "long"), price);
    if (!yaml_get(map, "input"))
        diag_error(c->diags, map, "'price' needs input (US dollars per million tokens; 0 for what costs nothing)");
    if (!yaml_get(map, "output") && (caps & (CAP_CHAT | CAP_COMPLETIONS)))
        diag_error(c->diags, map, "'price' needs output (US dollars per million tokens; 0 for what costs nothing)");
}

static bool price_is_enough(const struct price *price, uint32_t caps)
{
    bool output_needed = caps & (CAP_CHAT | CAP_COMPLETIONS);
    return (price->known & PRICE_INPUT) && (!output_needed || (price->known & PRICE_OUTPUT));
}

/* The book's name that looks most like `wanted`. */
static const char *suggest_book(struct compiler *c, struct span wanted)
{
    const struct catalog_entry *entry;
    struct span best = SPAN("");
    unsigned bound = 1 + (unsigned)(size_min(wanted.len, 80) / 4), best_distance = bound + 1;
    if (c->diags->errors > 20) /* a book has thousands of names: not for each of many errors */
        return "";
    for (size_t i = 0; (entry = c->book->at(c->book->user, i)); i++) {
        unsigned distance = span_distance(wanted, entry->name, bound);
        if (distance < best_distance ||
            (distance == best_distance && distance <= bound && span_cmp(entry->name, best) < 0)) {
            best = entry->name;
            best_distance = distance;
        }
    }
    const char *text = best.len ? arena_printf(c->arena, "; the book has '" SPAN_FMT "'", SPAN_ARG(best)) : "";
    return text ? text : "";
}

static const struct catalog_entry *book_find(struct compiler *c, struct model_draft *d, struct span model,
                                             struct span is, struct book_candidates *candidates)
{
    names_candidates(d->provider->preset, model, d->out.sends, is, candidates);
    for (uint32_t i = 0; c->book && i < candidates->count; i++) {
        const struct catalog_entry *entry = c->book->find(c->book->user, span_cstr(candidates->keys[i]));
        if (entry)
            return entry;
    }
    return NULL;
}

static void report_unknown_price(struct compiler *c, const struct yaml_node *at, const struct model_draft *d,
                                 const struct book_candidates *candidates)
{
    if (!c->book) {
        diag_warning(c->diags, at, "without a price book, the price of '" SPAN_FMT "' is not known",
                     SPAN_ARG(d->out.name));
        return;
    }
    char looked[300] = "";
    for (uint32_t i = 0; i < candidates->count; i++) {
        size_t length = strlen(looked);
        snprintf(looked + length, sizeof looked - length, "%s'%s'", i ? ", " : "", candidates->keys[i]);
    }
    if (candidates->count > 0)
        diag_error(c->diags, at,
                   "no price is known for '" SPAN_FMT
                   "': the price book has no %s%s; write 'price: {input: ..., output: ...}' "
                   "or 'is: <name in the book>'",
                   SPAN_ARG(d->out.name), looked, suggest_book(c, span_cstr(candidates->keys[0])));
    else
        diag_error(c->diags, at,
                   "no price is known for '" SPAN_FMT
                   "': write 'price: {input: ..., output: ...}', in US dollars per million "
                   "tokens (0 for what costs nothing)",
                   SPAN_ARG(d->out.name));
}

/* ---- one model ---- */

static void read_sizes(struct compiler *c, const struct chain *chain, struct model_draft *d,
                       const struct catalog_entry *entry)
{
    d->out.context_tokens = entry ? entry->context_tokens : 0;
    d->out.output_tokens_max = entry ? entry->output_tokens_max : 0;
    field_count(c->diags, chain_get(chain, "context"), 1, TOKENS_MOST, &d->out.context_tokens);
    field_count(c->diags, chain_get(chain, "max_output"), 1, TOKENS_MOST, &d->out.output_tokens_max);
}

/* Deprecated, or so before long. Dates of the book are ISO 8601, so they compare as text. */
static bool is_deprecated(const struct compiler *c, const struct catalog_entry *entry, bool *ret_past)
{
    char today[16] = "", soon[16] = "";
    const time_t now = (time_t)(c->book->now_ms / 1000), then = now + DEPRECATED_SOON_S;
    struct tm tm;
    if (c->book->now_ms <= 0 || entry->deprecated_on.len != 10 || !gmtime_r(&now, &tm) ||
        strftime(today, sizeof today, "%Y-%m-%d", &tm) == 0 || !gmtime_r(&then, &tm) ||
        strftime(soon, sizeof soon, "%Y-%m-%d", &tm) == 0)
        return false;
    *ret_past = span_cmp(entry->deprecated_on, span_cstr(today)) <= 0;
    return span_cmp(entry->deprecated_on, span_cstr(soon)) <= 0;
}

static void warn_deprecated(struct compiler *c, const struct model_draft *d, const struct catalog_entry *entry,
                            const struct yaml_node *at)
{
    bool past, expanded = d->out.from_wildcard && at == d->provider->wildcard->key; /* told of once for all of it */
    if (!expanded && is_deprecated(c, entry, &past))
        diag_warning(c->diags, at,
                     past ? "'" SPAN_FMT "' is deprecated since " SPAN_FMT ", says the price book"
                          : "'" SPAN_FMT "' will be deprecated on " SPAN_FMT ", says the price book",
                     SPAN_ARG(d->out.name), SPAN_ARG(entry->deprecated_on));
}

/* From the policy, else from the book. */
static void settle_price(struct compiler *c, const struct chain *chain, struct model_draft *d,
                         const struct yaml_node *at, const struct catalog_entry *entry,
                         const struct book_candidates *candidates)
{
    const struct yaml_node *price = chain_get(chain, "price");
    d->out.identity = SPAN("");
    if (price) {
        read_price(c, price, d->out.capabilities, &d->out.price);
        d->out.price_source = PRICE_SOURCE_POLICY;
        return;
    }
    if (!entry) {
        report_unknown_price(c, at, d, candidates);
        return;
    }
    d->out.identity = arena_dup(c->arena, entry->name);
    c->failed |= !d->out.identity.ptr;
    if (!price_is_enough(&entry->price, d->out.capabilities)) {
        diag_error(c->diags, at,
                   "the price book's '" SPAN_FMT "' has no %s price; write 'price: {input: ..., output: ...}'",
                   SPAN_ARG(entry->name), entry->price.known & PRICE_INPUT ? "output" : "input");
        return;
    }
    d->out.price = entry->price;
    d->out.price_source = PRICE_SOURCE_BOOK;
}

static struct model_draft *model_add(struct compiler *c, struct provider_draft *provider, struct span name)
{
    if (c->model_count == MODELS_MAX) {
        if (!c->models_full)
            diag_error(c->diags, c->policy->policy_document,
                       "more than %u models; narrow the wildcards with 'allow' and 'deny'", MODELS_MAX);
        c->models_full = true;
        return NULL;
    }
    if (c->model_count == c->model_capacity) {
        uint32_t capacity = c->model_capacity ? 2 * c->model_capacity : 64;
        struct model_draft **list = ARENA_ARRAY(c->arena, capacity, struct model_draft *);
        if (!list) {
            c->failed = true;
            return NULL;
        }
        if (c->model_count > 0)
            memcpy(list, c->model_list, c->model_count * sizeof(struct model_draft *));
        c->model_list = list;
        c->model_capacity = capacity;
    }
    struct model_draft *d = ARENA_NEW(c->arena, struct model_draft);
    if (!d || strmap_put(&c->models, name, d) != OK) {
        c->failed = true;
        return NULL;
    }
    d->out.name = name;
    d->provider = provider;
    provider->used = true;
    c->model_list[c->model_count++] = d;
    return d;
}

/* Fills a draft from its entry (or its wildcard's). model: what stands after the provider; at: where errors are shown.
 */
static void model_read(struct compiler *c, struct model_draft *d, struct span model, const struct chain *chain,
                       const struct yaml_node *at)
{
    struct span is = SPAN("");
    struct book_candidates candidates;
    d->out.sends = model;
    field_text(c->diags, chain_get(chain, "sends"), &d->out.sends);
    const struct yaml_node *is_node = chain_get(chain, "is");
    field_text(c->diags, is_node, &is);
    const struct catalog_entry *entry = book_find(c, d, model, is, &candidates);
    if (is.len > 0 && c->book && !entry)
        diag_error(c->diags, is_node, "the price book has no '" SPAN_FMT "'%s", SPAN_ARG(is), suggest_book(c, is));
    if (entry)
        warn_deprecated(c, d, entry, at);
    d->out.capabilities = read_capabilities(c, chain, entry);
    if (!(d->out.capabilities & CAP_USES))
        diag_error(c->diags, at, "'" SPAN_FMT "' can do neither chat, completions nor embeddings",
                   SPAN_ARG(d->out.name));
    read_sizes(c, chain, d, entry);
    if (is.len == 0 || entry || !c->book)
        settle_price(c, chain, d, at, entry, &candidates);
    else
        d->out.identity = SPAN("");
    d->out.timeouts = d->provider->timeouts;
    for (uint32_t i = chain->count; i > 0; i--)
        field_timeouts(c->diags, yaml_get(chain->nodes[i - 1], "timeouts"), &d->out.timeouts);
    d->out.where = place_of(c->arena, at);
    c->failed |= !d->out.where.ptr;
}

static void read_exact(struct compiler *c, const struct entry *entry, struct provider_draft *provider,
                       struct span model)
{
    static const char *const known[] = { "like",       "sends",        "is",       "price", "context",
                                         "max_output", "capabilities", "timeouts", NULL };
    struct chain chain;
    char what[NAME_BYTES_MAX + 32];
    snprintf(what, sizeof what, "model " SPAN_FMT, SPAN_ARG(span_head(entry->name, NAME_BYTES_MAX)));
    fields_check(c->diags, entry->node, what, known);
    struct model_draft *d = model_add(c, provider, entry->name);
    if (!d)
        return;
    chain_make(c->diags, &c->policy->models, entry->node, "model", &chain);
    model_read(c, d, model, &chain, entry->node->key);
}

/* ---- wildcards ---- */

static void read_wildcard(struct compiler *c, const struct entry *entry, struct provider_draft *provider)
{
    static const char *const known[] = { "allow", "deny", "price", "capabilities", "timeouts", NULL };
    char what[NAME_BYTES_MAX + 32];
    snprintf(what, sizeof what, "wildcard " SPAN_FMT, SPAN_ARG(span_head(entry->name, NAME_BYTES_MAX)));
    fields_check(c->diags, entry->node, what, known);
    provider->wildcard = entry->node;
    provider->used = true;
    const struct yaml_node *allow = yaml_get(entry->node, "allow"), *deny = yaml_get(entry->node, "deny");
    if (field_list(c->diags, c->arena, allow, &provider->allow) && provider->allow.count == 0)
        diag_error(c->diags, allow, "an empty 'allow' lets nothing through; remove it to allow everything");
    if (field_list(c->diags, c->arena, deny, &provider->deny) && provider->deny.count == 0)
        diag_warning(c->diags, deny, "an empty 'deny' refuses nothing; remove it");
}

static bool matches_any(const struct span_list *patterns, struct span name)
{
    for (uint32_t i = 0; i < patterns->count; i++) {
        if (span_glob(patterns->items[i], name))
            return true;
    }
    return false;
}

static bool wildcard_allows(const struct provider_draft *provider, struct span model)
{
    return (provider->allow.count == 0 || matches_any(&provider->allow, model)) && !matches_any(&provider->deny, model);
}

static struct model_draft *model_from_wildcard(struct compiler *c, struct provider_draft *provider, struct span name,
                                               struct span model, const struct yaml_node *at)
{
    struct model_draft *d = model_add(c, provider, name);
    if (!d)
        return NULL;
    struct chain chain = { .nodes = { provider->wildcard }, .count = 1 };
    d->out.from_wildcard = true;
    model_read(c, d, model, &chain, at);
    return d;
}

static bool name_is_good(struct span name)
{
    for (size_t i = 0; i < name.len; i++) {
        unsigned char ch = (unsigned char)name.ptr[i];
        if (ch <= ' ' || ch > '~' || strchr("*?\"'\\,{}[]", ch))
            return false;
    }
    return name.len > 0 && name.len <= NAME_BYTES_MAX;
}

/* Of the book's entries, what our endpoints can ask for, with a price: a catalog also lists image and speech models. */
static bool entry_is_usable(const struct catalog_entry *entry)
{
    uint32_t caps = (entry->capabilities & entry->capabilities_known) | (CAP_ALL & ~entry->capabilities_known);
    return (caps & CAP_USES) && price_is_enough(&entry->price, caps);
}

static void expand_wildcard(struct compiler *c, struct provider_draft *provider)
{
    const struct catalog_entry *entry;
    uint32_t found = 0, deprecated = 0;
    struct span first = SPAN("");
    for (size_t i = 0; (entry = c->book->at(c->book->user, i)) && !c->models_full && !c->failed; i++) {
        struct span model;
        if (!names_model_of(provider->preset, entry->name, &model) || !wildcard_allows(provider, model))
            continue;
        char *name = arena_printf(c->arena, SPAN_FMT "/" SPAN_FMT, SPAN_ARG(provider->out.name), SPAN_ARG(model));
        if (!name) {
            c->failed = true;
            return;
        }
        found++;
        if (!entry_is_usable(entry) || !name_is_good(span_cstr(name)) || strmap_has(&c->models, span_cstr(name)))
            continue;
        bool past;
        if (is_deprecated(c, entry, &past) && deprecated++ == 0)
            first = span_cstr(name);
        model_from_wildcard(c, provider, span_cstr(name), span_skip(span_cstr(name), provider->out.name.len + 1),
                            provider->wildcard->key);
    }
    if (deprecated > 0)
        diag_warning(c->diags, provider->wildcard->key,
                     "of what this wildcard lets through, the price book calls %u deprecated by now or within 30 days "
                     "('" SPAN_FMT "' is one); 'deny' leaves them out",
                     deprecated, SPAN_ARG(first));
    if (found == 0 && provider->preset && provider->preset->book_prefix)
        diag_warning(c->diags, provider->wildcard->key, "this wildcard matches no model of the price book");
}

/* ---- references ---- */

struct model_draft *model_require(struct compiler *c, struct span name, const struct yaml_node *at, bool report)
{
    struct model_draft *d = strmap_get(&c->models, name);
    struct span provider_name, model;
    if (d)
        return d;
    struct provider_draft *provider =
        split_model_name(name, &provider_name, &model) ? strmap_get(&c->providers, provider_name) : NULL;
    if (provider && provider->wildcard && name_is_good(name) && wildcard_allows(provider, model))
        return model_from_wildcard(c, provider, name, model, at);
    if (!report)
        return NULL;
    if (!split_model_name(name, &provider_name, &model))
        diag_error(c->diags, at, "'" SPAN_FMT "' is no provider/model%s", SPAN_ARG(name),
                   suggest(c->diags, name, &c->models));
    else if (!provider)
        diag_error(c->diags, at, "there is no provider '" SPAN_FMT "'%s", SPAN_ARG(provider_name),
                   suggest(c->diags, provider_name, &c->providers));
    else if (provider->wildcard)
        diag_error(c->diags, at, "'" SPAN_FMT "' is not allowed by the wildcard at %s:%u%s", SPAN_ARG(name),
                   provider->wildcard->key->file, provider->wildcard->key->line, suggest(c->diags, name, &c->models));
    else
        diag_error(c->diags, at, "there is no model '" SPAN_FMT "'%s", SPAN_ARG(name),
                   suggest(c->diags, name, &c->models));
    return NULL;
}

/* Makes what only a wildcard allows. Errors of missing models are for the route's own reading. */
static void require_of_tier(struct compiler *c, const struct yaml_node *models)
{
    if (!models || models->kind == YAML_SCALAR)
        return;
    for (const struct yaml_node *child = models->first; child; child = child->next) {
        const struct yaml_node *name = models->kind == YAML_MAP ? child->key : child;
        if (name->kind == YAML_SCALAR && !strmap_has(&c->models, name->text))
            (void)model_require(c, name->text, name, false);
    }
}

static void require_references(struct compiler *c)
{
    const struct section *routes = &c->policy->routes, *aliases = &c->policy->aliases;
    for (uint32_t i = 0; i < routes->count; i++) {
        const struct yaml_node *tiers = yaml_get(routes->items[i].node, "tiers");
        if (!tiers || tiers->kind != YAML_LIST)
            continue;
        for (const struct yaml_node *tier = tiers->first; tier; tier = tier->next)
            require_of_tier(c, yaml_get(tier, "models"));
    }
    for (uint32_t i = 0; i < aliases->count; i++) {
        const struct yaml_node *node = aliases->items[i].node;
        if (node->kind == YAML_SCALAR && !strmap_has(&routes->by_name, node->text))
            (void)model_require(c, node->text, node, false);
    }
}

static void read_entry(struct compiler *c, const struct entry *entry)
{
    struct span provider_name, model;
    const struct yaml_node *at = entry->node->key;
    if (!split_model_name(entry->name, &provider_name, &model)) {
        diag_error(c->diags, at, "'" SPAN_FMT "' must be provider/model or provider/*", SPAN_ARG(entry->name));
        return;
    }
    struct provider_draft *provider = strmap_get(&c->providers, provider_name);
    if (!provider) {
        diag_error(c->diags, at, "there is no provider '" SPAN_FMT "'%s", SPAN_ARG(provider_name),
                   suggest(c->diags, provider_name, &c->providers));
        return;
    }
    if (span_eq(model, SPAN("*")))
        read_wildcard(c, entry, provider);
    else if (span_find_byte(model, '*') != SIZE_MAX)
        diag_error(c->diags, at, "the only wildcard is '" SPAN_FMT "/*', narrowed by 'allow' and 'deny'",
                   SPAN_ARG(provider_name));
    else if (name_check(c->diags, at, entry->name, NAME_MODEL, "model"))
        read_exact(c, entry, provider, model);
}

void compile_models(struct compiler *c)
{
    const struct section *section = &c->policy->models;
    for (uint32_t i = 0; i < section->count && !c->failed; i++)
        read_entry(c, &section->items[i]);
    require_references(c);
    for (uint32_t i = 0; i < c->policy->providers.count && c->book; i++) {
        struct provider_draft *provider = strmap_get(&c->providers, c->policy->providers.items[i].name);
        if (provider && provider->wildcard)
            expand_wildcard(c, provider);
    }
    for (uint32_t i = 0; i < c->policy->providers.count; i++) {
        const struct provider_draft *provider = strmap_get(&c->providers, c->policy->providers.items[i].name);
        if (provider && !provider->used)
            diag_warning(c->diags, provider->node->key, "provider '" SPAN_FMT "' is not used: no model is at it",
                         SPAN_ARG(provider->out.name));
    }
}

/* ---- order ---- */

static int by_model_name(const void *a, const void *b)
{
    const struct model_draft *const *x = a, *const *y = b;
    return span_cmp((*x)->out.name, (*y)->out.name);
}

static int by_provider_name(const void *a, const void *b)
{
    const struct provider *x = a, *y = b;
    return span_cmp(x->name, y->name);
}

void compile_order(struct compiler *c, struct artifact *artifact)
{
    artifact->providers = ARENA_ARRAY(c->arena, c->provider_count + 1, struct provider);
    artifact->models = ARENA_ARRAY(c->arena, c->model_count + 1, struct model);
    if (!artifact->providers || !artifact->models) {
        c->failed = true;
        return;
    }
    for (uint32_t i = 0; i < c->policy->providers.count; i++) {
        const struct provider_draft *d = strmap_get(&c->providers, c->policy->providers.items[i].name);
        if (d)
            artifact->providers[artifact->provider_count++] = d->out;
    }
    qsort(artifact->providers, artifact->provider_count, sizeof *artifact->providers, by_provider_name);
    for (uint32_t i = 0; i < artifact->provider_count; i++) {
        struct provider_draft *d = strmap_get(&c->providers, artifact->providers[i].name);
        d->index = i;
    }
    if (c->model_count > 0)
        qsort(c->model_list, c->model_count, sizeof(struct model_draft *), by_model_name);
    for (uint32_t i = 0; i < c->model_count; i++) {
        struct model_draft *d = c->model_list[i];
        d->index = i;
        d->out.provider = d->provider->index;
        artifact->models[i] = d->out;
    }
    artifact->model_count = c->model_count;
}
