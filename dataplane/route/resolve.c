#include "dataplane/route/resolve.h"
#include "common/buf.h"

#define MESSAGE_BYTES_MAX 8192u /* RESOLVE_NAMES_MAX names and then some */
#define ASKED_BYTES_MAX   100u  /* of a client's own text in our answer */

static bool resolve_exact(const struct arm_view *arm, const struct auth_principal *principal, struct span name,
                          struct resolved *ret)
{
    const struct route *route = table_route(arm, name);
    if (route) {
        *ret = (struct resolved){ .route = route };
        return auth_may_route(principal, route->name);
    }
    const struct model *model = table_model(arm, name);
    *ret = (struct resolved){ .model = model };
    return model && auth_may_model(principal, model->name);
}

static const struct {
    const char *text;
    enum resolve_wish wish;
} suffixes[] = { { ":floor", RESOLVE_CHEAPEST }, { ":nitro", RESOLVE_FASTEST } };

enum err resolve_name(const struct arm_view *arm, const struct auth_principal *principal, struct span name,
                      struct resolved *ret)
{
    struct resolved found;
    if (resolve_exact(arm, principal, name, &found)) {
        *ret = found;
        return OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        struct span suffix = span_cstr(suffixes[i].text);
        if (!span_ends(name, suffix) || !resolve_exact(arm, principal, span_head(name, name.len - suffix.len), &found))
            continue;
        found.wish = suffixes[i].wish;
        *ret = found;
        return OK;
    }
    return ERR_NOT_FOUND;
}

struct span resolve_route_meant(const struct arm_view *arm, struct span name)
{
    const struct route *route = table_route(arm, name);
    for (size_t i = 0; !route && i < ARRAY_LEN(suffixes) && !table_model(arm, name); i++)
        if (span_ends(name, span_cstr(suffixes[i].text)))
            route = table_route(arm, span_head(name, name.len - strlen(suffixes[i].text)));
    return route ? route->name : name;
}

struct listing {
    struct resolve_entry *entries;
    size_t count, max;
    bool more;
};

static bool listing_add(struct listing *list, struct span name, enum resolve_kind kind)
{
    if (list->count == list->max) {
        list->more = true;
        return false;
    }
    list->entries[list->count++] = (struct resolve_entry){ .name = name, .kind = kind };
    return true;
}

static bool alias_allowed(const struct arm_view *arm, const struct auth_principal *principal, const struct alias *alias)
{
    struct resolved ignored;
    return resolve_exact(arm, principal, alias->target, &ignored);
}

size_t resolve_list(const struct arm_view *arm, const struct auth_principal *principal, struct resolve_entry *entries,
                    size_t entries_max, size_t scan_max, bool *ret_more)
{
    const struct artifact *a = arm->compiled->artifact;
    struct listing list = { .entries = entries, .max = entries_max };
    list.more = a->route_count > scan_max || a->alias_count > scan_max || a->model_count > scan_max;
    bool room = true;
    for (uint32_t i = 0; room && i < a->route_count && i < scan_max; i++)
        if (auth_may_route(principal, a->routes[i].name))
            room = listing_add(&list, a->routes[i].name, RESOLVE_ROUTE);
    for (uint32_t i = 0; room && i < a->alias_count && i < scan_max; i++)
        if (alias_allowed(arm, principal, &a->aliases[i]))
            room = listing_add(&list, a->aliases[i].name, RESOLVE_ALIAS);
    for (uint32_t i = 0; room && i < a->model_count && i < scan_max; i++)
        if (auth_may_model(principal, a->models[i].name))
            room = listing_add(&list, a->models[i].name, RESOLVE_MODEL);
    if (ret_more)
        *ret_more = list.more;
    return list.count;
}

/* The allowed name nearest to what was asked for, within the distance that strmap_nearest uses too. */
static struct span nearest(const struct resolve_entry *entries, size_t count, struct span name)
{
    struct span best = SPAN("");
    unsigned bound = 1 + (unsigned)(name.len / 4);
    for (size_t i = 0; i < count && name.len <= SPAN_DISTANCE_LEN_MAX; i++) {
        unsigned distance = span_distance(name, entries[i].name, bound);
        if (distance <= bound) {
            best = entries[i].name;
            if (distance == 0)
                break;
            bound = distance - 1;
        }
    }
    return best;
}

static enum err write_message(struct buf *out, const struct resolve_entry *entries, size_t count, bool more,
                              struct span name)
{
    enum err err = buf_printf(out, "There is no model '" SPAN_FMT "%s' for this key.",
                              SPAN_ARG(span_head(name, ASKED_BYTES_MAX)), name.len > ASKED_BYTES_MAX ? "..." : "");
    struct span near = nearest(entries, count, name);
    if (!err && !span_empty(near))
        err = buf_printf(out, " Did you mean '" SPAN_FMT "'?", SPAN_ARG(near));
    if (!err)
        err = buf_append_cstr(out, count == 0 && !more ? " This key may use none; ask your administrator."
                                                       : " It may use: ");
    for (size_t i = 0; !err && i < count; i++)
        err = buf_printf(out, "%s" SPAN_FMT, i ? ", " : "", SPAN_ARG(entries[i].name));
    if (!err && more)
        err = buf_append_cstr(out, count ? ", and more (GET /v1/models lists them)" : "see GET /v1/models");
    if (!err && (count > 0 || more))
        err = buf_append_byte(out, '.');
    return err;
}

char *resolve_not_found_message(struct arena *arena, const struct arm_view *arm, const struct auth_principal *principal,
                                struct span name)
{
    struct resolve_entry entries[RESOLVE_NAMES_MAX];
    bool more;
    size_t count = resolve_list(arm, principal, entries, RESOLVE_NAMES_MAX, RESOLVE_SCAN_MAX, &more);
    struct buf out = BUF_INIT(MESSAGE_BYTES_MAX);
    enum err err = write_message(&out, entries, count, more, name);
    char *text = err == OK || err == ERR_FULL ? arena_alloc(arena, out.len + 1) : NULL;
    if (text)
        memcpy(text, buf_span(&out).ptr, out.len);
    buf_release(&out);
    return text;
}
