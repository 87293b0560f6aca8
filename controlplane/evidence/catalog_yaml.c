#include "common/yaml.h"
#include "controlplane/evidence/catalog_internal.h"

#define PER_MILLION 9 /* dollars per million tokens, or per call -> nano-dollars */

static const struct {
    const char *name;
    uint32_t bit;
} capabilities[] = {
    { "chat", CAP_CHAT },   { "completions", CAP_COMPLETIONS }, { "embeddings", CAP_EMBEDDINGS },
    { "tools", CAP_TOOLS }, { "images", CAP_IMAGES },           { "json", CAP_JSON },
    { "audio", CAP_AUDIO },
};

/* Our own book is written by people: a mistake in it is an error with its place, never skipped. */
static enum err fail(struct catalog_build *b, const struct yaml_node *at, const char *what)
{
    const char *why = arena_printf(b->arena, "line %u, column %u: %s", at->line, at->column, what);
    b->why = why ? why : "out of memory";
    return ERR_INVALID;
}

static void report(void *user, uint32_t line, uint32_t column, const char *message)
{
    struct catalog_build *b = user;
    const char *why = arena_printf(b->arena, "line %u, column %u: %s", line, column, message);
    b->why = why ? why : "out of memory";
}

static enum err amount(struct catalog_build *b, const struct yaml_node *node, int64_t *ret)
{
    uint32_t rounded = b->rounded;
    if (node->kind != YAML_SCALAR || catalog_figure(b, node->text, PER_MILLION, ret) != CATALOG_FIGURE_KNOWN)
        return fail(b, node, "not an amount: write US dollars per million tokens, like 2.50");
    return b->rounded == rounded ? OK : fail(b, node, "finer than a nano-dollar");
}

static enum err count_of(struct catalog_build *b, const struct yaml_node *node, uint64_t *ret)
{
    if (node->kind != YAML_SCALAR || span_to_u64(node->text, ret) != OK || *ret == 0 || *ret > CATALOG_TOKENS_MOST)
        return fail(b, node, "not a number of tokens");
    return OK;
}

static enum err can(struct catalog_build *b, const struct yaml_node *list, struct catalog_entry *entry)
{
    if (list->kind != YAML_LIST)
        return fail(b, list, "'can' must be a list: [chat, tools]");
    for (size_t i = 0; i < ARRAY_LEN(capabilities); i++)
        entry->capabilities_known |= capabilities[i].bit;
    for (const struct yaml_node *item = list->first; item; item = item->next) {
        uint32_t bit = 0;
        for (size_t i = 0; i < ARRAY_LEN(capabilities); i++) {
            if (span_eq(item->text, span_cstr(capabilities[i].name)))
                bit = capabilities[i].bit;
        }
        if (!bit)
            return fail(b, item,
                        "no such capability; there are chat, completions, embeddings, tools, images, json, audio");
        entry->capabilities |= bit;
    }
    return OK;
}

static enum err read_long(struct catalog_build *b, const struct yaml_node *map, struct price *price)
{
    enum err err = OK;
    if (map->kind != YAML_MAP || !yaml_get(map, "above") || !yaml_get(map, "input") || !yaml_get(map, "output"))
        return fail(b, map, "'long' needs above (tokens), input and output");
    price->known |= PRICE_LONG;
    for (const struct yaml_node *f = map->first; f && !err; f = f->next) {
        if (span_eq(f->key->text, SPAN("above")))
            err = count_of(b, f, &price->long_above);
        else if (span_eq(f->key->text, SPAN("input")))
            err = amount(b, f, &price->long_input);
        else if (span_eq(f->key->text, SPAN("output")))
            err = amount(b, f, &price->long_output);
        else if (span_eq(f->key->text, SPAN("cache_read")))
            err = amount(b, f, &price->long_cache_read);
        else
            err = fail(b, f, "unknown field in 'long'");
    }
    return err;
}

static enum err date(struct catalog_build *b, const struct yaml_node *node, struct span *ret)
{
    static const char shape[] = "dddd-dd-dd";
    bool good = node->kind == YAML_SCALAR && node->text.len == sizeof shape - 1;
    for (size_t i = 0; good && i < node->text.len; i++) {
        char c = node->text.ptr[i];
        good = shape[i] == 'd' ? c >= '0' && c <= '9' : c == shape[i];
    }
    if (!good)
        return fail(b, node, "not a date like 2027-01-31");
    *ret = node->text;
    return OK;
}

static enum err field(struct catalog_build *b, const struct yaml_node *f, struct catalog_entry *entry)
{
    struct price *p = &entry->price;
    const struct {
        const char *name;
        uint32_t bit;
        int64_t *at;
    } amounts[] = {
        { "input", PRICE_INPUT, &p->input },
        { "output", PRICE_OUTPUT, &p->output },
        { "cache_read", PRICE_CACHE_READ, &p->cache_read },
        { "cache_write", PRICE_CACHE_WRITE, &p->cache_write },
        { "reasoning", PRICE_REASONING, &p->reasoning },
        { "request", PRICE_REQUEST, &p->request },
    };
    for (size_t i = 0; i < ARRAY_LEN(amounts); i++) {
        if (span_eq(f->key->text, span_cstr(amounts[i].name))) {
            p->known |= amounts[i].bit;
            return amount(b, f, amounts[i].at);
        }
    }
    if (span_eq(f->key->text, SPAN("context")))
        return count_of(b, f, &entry->context_tokens);
    if (span_eq(f->key->text, SPAN("max_output")))
        return count_of(b, f, &entry->output_tokens_max);
    if (span_eq(f->key->text, SPAN("can")))
        return can(b, f, entry);
    if (span_eq(f->key->text, SPAN("long")))
        return read_long(b, f, p);
    if (span_eq(f->key->text, SPAN("deprecated")))
        return date(b, f, &entry->deprecated_on);
    if (span_eq(f->key->text, SPAN("source")))
        return OK; /* for people */
    return fail(b, f,
                "unknown field; there are input, output, cache_read, cache_write, reasoning, request, long, context, "
                "max_output, can, deprecated, source");
}

static enum err one(struct catalog_build *b, const struct yaml_node *node)
{
    enum err err = OK;
    if (node->kind != YAML_MAP)
        return fail(b, node, "a price must be a map: {input: 2.50, output: 10.00}");
    struct catalog_draft *draft = catalog_add(b, node->key->text, SPAN(""));
    if (!draft)
        return fail(b, node->key, "not a name that a policy could use");
    for (const struct yaml_node *f = node->first; f && !err; f = f->next)
        err = field(b, f, &draft->entry);
    bool embeds_only = draft->entry.capabilities == CAP_EMBEDDINGS;
    if (!err && draft->entry.price.known && (!yaml_get(node, "input") || (!embeds_only && !yaml_get(node, "output"))))
        err = fail(b, node, "input and output are both needed (0 for what costs nothing)");
    return err;
}

enum err catalog_read_yaml(struct catalog_build *b, struct span text)
{
    const struct yaml_node *root = NULL;
    enum err err = yaml_parse(b->arena, "prices", text, report, b, &root);
    if (err)
        return err;
    const struct yaml_node *schema = yaml_get(root, "schema"), *kind = yaml_get(root, "kind"),
                           *prices = yaml_get(root, "prices");
    if (!schema || !span_eq(schema->text, SPAN("fairlead/1")) || !kind || !span_eq(kind->text, SPAN("prices")) ||
        !prices) {
        b->why = "no price catalog: neither JSON nor YAML with 'schema: fairlead/1', 'kind: prices' and a map 'prices'";
        return ERR_INVALID;
    }
    if (!yaml_is_null(prices) && prices->kind != YAML_MAP)
        return fail(b, prices, "'prices' must be a map from names to prices");
    for (const struct yaml_node *f = root->first; f; f = f->next) {
        if (f != schema && f != kind && f != prices)
            return fail(b, f, "unknown field; there are schema, kind and prices");
    }
    err = catalog_room(b, prices->kind == YAML_MAP ? prices->count : 0);
    if (prices->kind != YAML_MAP)
        return err;
    for (const struct yaml_node *node = prices->first; node && !err; node = node->next)
        err = one(b, node);
    return err;
}
