#include "controlplane/policy/fields.h"
#include "common/arena.h"
#include "common/units.h"
#include "controlplane/policy/tree.h"

const char *suggest_word(struct diags *diags, struct span name, const char *const *words)
{
    const char *best = NULL;
    unsigned bound = 1 + (unsigned)(size_min(name.len, 80) / 4), best_distance = bound + 1;
    for (size_t i = 0; words[i]; i++) {
        unsigned distance = span_distance(name, span_cstr(words[i]), bound);
        if (distance < best_distance) {
            best = words[i];
            best_distance = distance;
        }
    }
    for (size_t i = 0; !best && words[i] && name.len >= 3; i++) { /* "max_cost" for "max_cost_usd" */
        if (span_find(span_cstr(words[i]), name) != SIZE_MAX)
            best = words[i];
    }
    const char *text = best ? arena_printf(diags->arena, " (did you mean '%s'?)", best) : "";
    return text ? text : "";
}

#define FIELDS_LISTED_MAX 8u /* more of them help nobody in one line */

/* "; it has a, b, c" for a few, else "". In the diags' arena. */
static const char *listed(struct diags *diags, const char *const *words)
{
    const char *text = "";
    size_t count = 0;
    while (words[count])
        count++;
    for (size_t i = 0; text && i < count && count <= FIELDS_LISTED_MAX; i++)
        text = arena_printf(diags->arena, "%s%s%s", text, i ? ", " : "; its fields: ", words[i]);
    return text ? text : "";
}

const char *suggest(struct diags *diags, struct span name, const struct strmap *known)
{
    /* Looking through 100,000 names takes milliseconds: not for each of many errors. */
    if (diags->errors > DIAGS_MAX || (known->count > 1000 && diags->errors > 20))
        return "";
    struct span near = strmap_nearest(known, name);
    const char *text = near.len ? arena_printf(diags->arena, " (did you mean '" SPAN_FMT "'?)", SPAN_ARG(near)) : "";
    return text ? text : "";
}

bool fields_check(struct diags *diags, const struct yaml_node *node, const char *what, const char *const *known)
{
    if (!node)
        return false;
    if (node->kind != YAML_MAP) {
        if (!yaml_is_null(node))
            diag_error(diags, node, "%s must be a map of fields%s", what, listed(diags, known));
        return false;
    }
    for (const struct yaml_node *child = node->first; child; child = child->next) {
        struct span name = child->key->text;
        size_t i = 0;
        while (known[i] && !span_eq(name, span_cstr(known[i])))
            i++;
        if (known[i])
            continue;
        const char *near = suggest_word(diags, name, known);
        diag_error(diags, child->key, "%s has no field '" SPAN_FMT "'%s", what, SPAN_ARG(name),
                   *near ? near : listed(diags, known));
    }
    return true;
}

/* What the node is called in messages: its key, or "this" in a list. */
static const char *label(struct diags *diags, const struct yaml_node *node)
{
    const char *text = node->key ? arena_printf(diags->arena, "'" SPAN_FMT "'", SPAN_ARG(node->key->text)) : "this";
    return text ? text : "this";
}

/* What was written, for messages. */
static const char *shown(struct diags *diags, const struct yaml_node *node)
{
    if (node->kind == YAML_MAP)
        return "a map";
    if (node->kind == YAML_LIST)
        return "a list";
    if (yaml_is_null(node) || node->text.len == 0)
        return "nothing";
    const char *text = arena_printf(diags->arena, "'%.*s'", (int)size_min(node->text.len, 100), node->text.ptr);
    return text ? text : "this";
}

static bool refuse(struct diags *diags, const struct yaml_node *node, const char *wanted)
{
    diag_error(diags, node, "%s must be %s, not %s", label(diags, node), wanted, shown(diags, node));
    return false;
}

bool field_text(struct diags *diags, const struct yaml_node *node, struct span *ret)
{
    if (!node)
        return false;
    if (node->kind != YAML_SCALAR || yaml_is_null(node) || node->text.len == 0)
        return refuse(diags, node, "text");
    *ret = node->text;
    return true;
}

bool field_bool(struct diags *diags, const struct yaml_node *node, bool *ret)
{
    if (!node)
        return false;
    if (node->kind == YAML_SCALAR && span_eq(node->text, SPAN("true")))
        *ret = true;
    else if (node->kind == YAML_SCALAR && span_eq(node->text, SPAN("false")))
        *ret = false;
    else
        return refuse(diags, node, "true or false");
    return true;
}

bool field_count(struct diags *diags, const struct yaml_node *node, uint64_t least, uint64_t most, uint64_t *ret)
{
    uint64_t value;
    if (!node)
        return false;
    if (node->kind != YAML_SCALAR || span_to_u64(node->text, &value) != OK || value < least || value > most) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "a whole number from %llu to %llu", (unsigned long long)least,
                 (unsigned long long)most);
        return refuse(diags, node, wanted);
    }
    *ret = value;
    return true;
}

bool field_duration(struct diags *diags, const struct yaml_node *node, bool off_allowed, uint32_t *ret_ms)
{
    uint64_t ms = 0;
    if (!node)
        return false;
    bool off = node->kind == YAML_SCALAR && span_eq(node->text, SPAN("off"));
    if (node->kind != YAML_SCALAR || (!off && units_parse_duration(node->text, &ms) != OK))
        return refuse(diags, node, "a duration such as 250ms, 3s or 1m30s");
    if (ms == 0 && !off_allowed) {
        diag_error(diags, node, "%s cannot be switched off; write a duration of at least 1ms", label(diags, node));
        return false;
    }
    if (ms > TIMEOUT_MOST_MS) {
        diag_error(diags, node, "%s is longer than a day (24h)", label(diags, node));
        return false;
    }
    *ret_ms = (uint32_t)ms;
    return true;
}

bool field_share(struct diags *diags, const struct yaml_node *node, uint32_t *ret_ppm)
{
    if (!node)
        return false;
    if (node->kind != YAML_SCALAR || units_parse_share(node->text, ret_ppm) != OK)
        return refuse(diags, node, "a share from 0% to 100%, such as 2%");
    return true;
}

bool field_usd(struct diags *diags, const struct yaml_node *node, int64_t *ret_nano)
{
    if (!node)
        return false;
    if (node->kind != YAML_SCALAR || units_parse_usd(node->text, ret_nano) != OK)
        return refuse(diags, node, "an amount of US dollars such as 0.50, with at most nine decimals");
    return true;
}

bool field_word(struct diags *diags, const struct yaml_node *node, const char *const *words, size_t *ret)
{
    if (!node)
        return false;
    char wanted[200] = "one of";
    for (size_t i = 0; words[i]; i++) {
        if (node->kind == YAML_SCALAR && span_eq(node->text, span_cstr(words[i]))) {
            *ret = i;
            return true;
        }
        size_t length = strlen(wanted);
        snprintf(wanted + length, sizeof wanted - length, "%s%s", i ? ", " : " ", words[i]);
    }
    return refuse(diags, node, wanted);
}

bool field_list(struct diags *diags, struct arena *arena, const struct yaml_node *node, struct span_list *ret)
{
    if (!node)
        return false;
    if (node->kind != YAML_LIST)
        return refuse(diags, node, "a list, such as [a, b]");
    if (node->count > LIST_ITEMS_MAX) {
        diag_error(diags, node, "%s has more than %u entries", label(diags, node), LIST_ITEMS_MAX);
        return false;
    }
    struct span *items = ARENA_ARRAY(arena, node->count, struct span);
    if (!items && node->count > 0) {
        diags->failed = true;
        return false;
    }
    uint32_t count = 0;
    bool good = true;
    for (const struct yaml_node *child = node->first; child; child = child->next) {
        if (!field_text(diags, child, &items[count])) {
            good = false;
            continue;
        }
        for (uint32_t i = 0; i < count; i++) {
            if (span_eq(items[i], items[count])) {
                diag_error(diags, child, "'" SPAN_FMT "' stands twice in this list", SPAN_ARG(items[i]));
                good = false;
            }
        }
        count++;
    }
    if (good)
        *ret = (struct span_list){ .items = items, .count = count };
    return good;
}

void field_timeouts(struct diags *diags, const struct yaml_node *map, struct timeouts *timeouts)
{
    static const char *const known[] = { "connect", "first_token", "idle", "total", "hold", NULL };
    if (!fields_check(diags, map, "'timeouts'", known))
        return;
    field_duration(diags, yaml_get(map, "connect"), false, &timeouts->connect_ms);
    field_duration(diags, yaml_get(map, "first_token"), false, &timeouts->first_token_ms);
    field_duration(diags, yaml_get(map, "idle"), false, &timeouts->idle_ms);
    field_duration(diags, yaml_get(map, "total"), true, &timeouts->total_ms);
    field_duration(diags, yaml_get(map, "hold"), false, &timeouts->hold_ms);
}

void field_requirement(struct diags *diags, struct arena *arena, const struct yaml_node *map, struct requirement *ret)
{
    static const char *const known[] = { "region", "max_retention_days", "no_training", NULL };
    if (!fields_check(diags, map, "'require'", known))
        return;
    ret->where = place_of(arena, map->key);
    diags->failed |= !ret->where.ptr;
    const struct yaml_node *region = yaml_get(map, "region");
    if (region && region->kind == YAML_LIST) {
        if (region->count == 0)
            diag_error(diags, region, "an empty list of regions allows every region; remove it or name one");
        field_list(diags, arena, region, &ret->regions);
    } else if (region) {
        struct span *one = ARENA_NEW(arena, struct span);
        if (!one)
            diags->failed = true;
        else if (field_text(diags, region, one))
            ret->regions = (struct span_list){ .items = one, .count = 1 };
    }
    uint64_t days = 0; /* gcc -O3 cannot see that it is always set */
    if (field_count(diags, yaml_get(map, "max_retention_days"), 0, RETENTION_DAYS_MOST, &days)) {
        ret->has_retention = true;
        ret->max_retention_days = (uint32_t)days;
    }
    const struct yaml_node *training = yaml_get(map, "no_training");
    if (field_bool(diags, training, &ret->no_training) && !ret->no_training)
        diag_warning(diags, training, "'no_training: false' demands nothing; remove it");
    if (map->count == 0)
        diag_warning(diags, map, "an empty 'require' demands nothing");
}

static bool name_byte(unsigned char c, enum name_kind kind)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-')
        return true;
    return (kind != NAME_PLAIN && c == ':') || (kind == NAME_MODEL && (c == '/' || c == '@' || c == '+'));
}

bool name_check(struct diags *diags, const struct yaml_node *node, struct span name, enum name_kind kind,
                const char *what)
{
    if (name.len == 0 || name.len > NAME_BYTES_MAX) {
        diag_error(diags, node, "the name of a %s must have 1 to %u characters", what, NAME_BYTES_MAX);
        return false;
    }
    for (size_t i = 0; i < name.len; i++) {
        if (name_byte((unsigned char)name.ptr[i], kind))
            continue;
        diag_error(diags, node, "the name of a %s may have letters, digits and %s only: '" SPAN_FMT "'", what,
                   kind == NAME_MODEL   ? ". _ - : / @ +"
                   : kind == NAME_ROUTE ? ". _ - :"
                                        : ". _ -",
                   SPAN_ARG(name));
        return false;
    }
    return true;
}

struct span place_of(struct arena *arena, const struct yaml_node *node)
{
    return span_cstr(arena_printf(arena, "%s:%u", node->file, node->line));
}

void chain_make(struct diags *diags, const struct section *section, const struct yaml_node *node, const char *what,
                struct chain *ret)
{
    ret->count = 0;
    ret->nodes[ret->count++] = node;
    for (;;) {
        const struct yaml_node *like = yaml_get(ret->nodes[ret->count - 1], "like");
        struct span name;
        if (!field_text(diags, like, &name))
            return;
        const struct yaml_node *next = strmap_get(&section->by_name, name);
        if (!next) {
            diag_error(diags, like, "'like' names no %s '" SPAN_FMT "'%s", what, SPAN_ARG(name),
                       suggest(diags, name, &section->by_name));
            return;
        }
        for (uint32_t i = 0; i < ret->count; i++) {
            if (ret->nodes[i] == next) {
                diag_error(diags, like, "'like' goes round in a circle, back to '" SPAN_FMT "'", SPAN_ARG(name));
                return;
            }
        }
        if (span_ends(name, SPAN("/*"))) {
            diag_error(diags, like, "'like' cannot name a wildcard");
            return;
        }
        if (ret->count == ARRAY_LEN(ret->nodes)) {
            diag_error(diags, like, "more than %u steps of 'like'", LIKE_DEPTH_MAX);
            return;
        }
        ret->nodes[ret->count++] = next;
    }
}

const struct yaml_node *chain_get(const struct chain *chain, const char *field)
{
    for (uint32_t i = 0; i < chain->count; i++) {
        const struct yaml_node *found = yaml_get(chain->nodes[i], field);
        if (found)
            return found;
    }
    return NULL;
}

const struct yaml_node *chain_get_in(const struct chain *chain, const char *map, const char *field)
{
    for (uint32_t i = 0; i < chain->count; i++) {
        const struct yaml_node *found = yaml_get(yaml_get(chain->nodes[i], map), field);
        if (found)
            return found;
    }
    return NULL;
}
