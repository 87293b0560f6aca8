#include "controlplane/evidence/catalog.h"
#include "common/json.h"
#include "controlplane/evidence/catalog_internal.h"
#include "controlplane/policy/names.h"
#include "controlplane/policy/presets.h"
#include <math.h>

/* Companies whose models LiteLLM lists bare: how it names them -> prefix. Presets' own prefixes need no row. */
static const struct {
    const char *company, *prefix;
} companies[] = {
    { "text-completion-openai", "openai" },
    { "cohere_chat", "cohere" },
    { "azure_text", "azure" },
    { "fireworks_ai-embedding-models", "fireworks_ai" },
    { "anthropic", "anthropic" },
};

const char *catalog_form_name(enum catalog_form form)
{
    switch (form) {
    case CATALOG_LITELLM:
        return "LiteLLM";
    case CATALOG_OPENROUTER:
        return "OpenRouter";
    case CATALOG_OURS:
        return "Fairlead";
    }
    return "unknown";
}

/* ---- names ---- */

bool catalog_is_mapped(struct span name)
{
    const struct policy_preset *preset;
    struct span model;
    for (size_t i = 0; (preset = policy_preset_at(i)); i++) {
        if (names_model_of(preset, name, &model))
            return true;
    }
    return false;
}

static const char *prefix_of(struct span company)
{
    const struct policy_preset *preset;
    for (size_t i = 0; i < ARRAY_LEN(companies); i++) {
        if (span_eq(company, span_cstr(companies[i].company)))
            return companies[i].prefix;
    }
    for (size_t i = 0; (preset = policy_preset_at(i)); i++) {
        if (preset->book_prefix && span_eq(company, span_cstr(preset->book_prefix)))
            return preset->book_prefix;
    }
    return NULL;
}

/* People write these names in policies, and terminals show them. */
static bool name_is_good(struct span name)
{
    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] <= ' ' || name.ptr[i] > '~')
            return false;
    }
    return name.len > 0 && name.len <= NAME_BYTES_MAX;
}

static bool starts_with_prefix(struct span name, const char *prefix)
{
    size_t n = strlen(prefix);
    return name.len > n + 1 && memcmp(name.ptr, prefix, n) == 0 && name.ptr[n] == '/';
}

/* ---- building ---- */

enum err catalog_room(struct catalog_build *b, uint32_t most)
{
    if (most > CATALOG_ENTRIES_MAX) {
        b->why = "more than 100000 entries";
        return ERR_TOO_MANY;
    }
    b->capacity = most;
    b->drafts = ARENA_ARRAY(b->arena, most ? most : 1, struct catalog_draft);
    b->why = "out of memory";
    return b->drafts ? OK : ERR_NOMEM;
}

struct catalog_draft *catalog_add(struct catalog_build *b, struct span name, struct span company)
{
    REQUIRE(b->count < b->capacity);
    const char *prefix = prefix_of(company);
    bool bare = prefix && !catalog_is_mapped(name) && !starts_with_prefix(name, prefix);
    struct catalog_draft *draft = &b->drafts[b->count];
    if (!name_is_good(name) || (bare && name.len + strlen(prefix) + 1 > NAME_BYTES_MAX)) {
        b->skipped++;
        return NULL;
    }
    *draft = (struct catalog_draft){ .bare = bare, .order = b->count };
    draft->written = arena_dup(b->arena, name);
    draft->entry.name = draft->written;
    if (bare)
        draft->entry.name = span_cstr(arena_printf(b->arena, "%s/" SPAN_FMT, prefix, SPAN_ARG(name)));
    if (!draft->written.ptr || !draft->entry.name.ptr)
        return NULL;
    draft->entry.deprecated_on = SPAN("");
    b->count++;
    return draft;
}

enum catalog_figure catalog_figure(struct catalog_build *b, struct span text, int scale, int64_t *ret)
{
    int64_t exact;
    enum err err = json_decimal_text(text, scale, &exact);
    if (err) { /* finer than we keep, or nothing that can be a price */
        struct json_index ix;
        double value;
        exact = -1;
        if (json_index(b->arena, text, &json_limits_default, &ix, NULL) == OK && json_kind(&ix, 0) == JSON_NUMBER &&
            json_double(&ix, 0, &value) == OK && value >= 0 &&
            value * pow(10, scale) <= (double)CATALOG_PRICE_MOST_NANO) {
            exact = (int64_t)llround(value * pow(10, scale));
            b->rounded++;
        }
    }
    if (exact < 0 || exact > CATALOG_PRICE_MOST_NANO) {
        b->bad += !span_eq(text, SPAN("-1"));
        return CATALOG_FIGURE_BAD;
    }
    *ret = exact;
    return CATALOG_FIGURE_KNOWN;
}

/* ---- finishing ---- */

/* By name; whole names before made ones, then as written. */
static int by_name(const void *a, const void *b)
{
    const struct catalog_draft *x = a, *y = b;
    int order = span_cmp(x->entry.name, y->entry.name);
    if (order == 0)
        order = (int)x->bare - (int)y->bare;
    return order ? order : (x->order > y->order) - (x->order < y->order);
}

/* A made name that somebody else bears is given up for the name as it was written. */
static void give_way(struct catalog_build *b)
{
    bool again = false;
    for (uint32_t i = 1; i < b->count; i++) {
        struct catalog_draft *draft = &b->drafts[i];
        if (draft->bare && span_eq(draft->entry.name, b->drafts[i - 1].entry.name)) {
            draft->entry.name = draft->written;
            draft->bare = false;
            again = true;
        }
    }
    if (again)
        qsort(b->drafts, b->count, sizeof *b->drafts, by_name);
}

static enum err finish(struct catalog_build *b, enum catalog_form form, struct catalog *ret)
{
    struct catalog catalog = { .form = form, .rounded = b->rounded, .bad = b->bad, .skipped = b->skipped };
    if (b->count > 1)
        qsort(b->drafts, b->count, sizeof *b->drafts, by_name);
    give_way(b);
    catalog.entries = ARENA_ARRAY(b->arena, b->count + 1, struct catalog_entry);
    struct span *unmapped = ARENA_ARRAY(b->arena, b->count + 1, struct span);
    if (!catalog.entries || !unmapped)
        return ERR_NOMEM;
    catalog.unmapped.items = unmapped;
    catalog.duplicate = b->duplicate;
    for (uint32_t i = 0; i < b->count; i++) {
        const struct catalog_entry *entry = &b->drafts[i].entry;
        if (catalog.count > 0 && span_eq(catalog.entries[catalog.count - 1].name, entry->name)) {
            catalog.duplicate++;
            continue;
        }
        catalog.unpriced += !(entry->price.known & (PRICE_INPUT | PRICE_OUTPUT));
        if (!catalog_is_mapped(entry->name))
            unmapped[catalog.unmapped.count++] = entry->name;
        catalog.entries[catalog.count++] = *entry;
    }
    *ret = catalog;
    return OK;
}

enum err catalog_read(struct arena *arena, struct span text, struct catalog *ret, const char **ret_why)
{
    struct catalog_build b = { .arena = arena, .why = "out of memory" };
    enum catalog_form form = CATALOG_OURS;
    enum err err;
    struct span start = text;
    while (start.len > 0 &&
           (start.ptr[0] == ' ' || start.ptr[0] == '\n' || start.ptr[0] == '\r' || start.ptr[0] == '\t'))
        start = span_skip(start, 1);
    if (text.len > CATALOG_BYTES_MAX) {
        *ret_why = "larger than 64 MiB";
        return ERR_TOO_LARGE;
    }
    if (start.len == 0) {
        *ret_why = "it is empty";
        return ERR_SYNTAX;
    }
    if (start.ptr[0] == '{' || start.ptr[0] == '[')
        err = catalog_read_json(&b, text, &form);
    else
        err = catalog_read_yaml(&b, text);
    if (!err)
        err = finish(&b, form, ret);
    if (err)
        *ret_why = err == ERR_NOMEM ? "out of memory" : b.why;
    return err;
}
