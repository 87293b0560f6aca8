#include "dataplane/route/auth.h"

bool auth_key_well_formed(struct span key)
{
    static const struct span prefix = { AUTH_KEY_PREFIX, sizeof(AUTH_KEY_PREFIX) - 1 };
    if (key.len < prefix.len + AUTH_KEY_RANDOM_LEAST || key.len > AUTH_KEY_BYTES_MAX || !span_starts(key, prefix))
        return false;
    for (size_t i = prefix.len; i < key.len; i++) {
        char c = key.ptr[i];
        if (!((c >= '2' && c <= '9') || (c >= 'a' && c <= 'z' && c != 'l')))
            return false;
    }
    return true;
}

/* The key that this header carries; an empty span with .ptr NULL when it carries none. */
static struct span key_of(const struct header_pair *header)
{
    static const struct span none = { NULL, 0 };
    struct span value = span_trim(header->value);
    if (span_eq_nocase(header->name, SPAN("x-api-key")) || span_eq_nocase(header->name, SPAN("x-goog-api-key")) ||
        span_eq_nocase(header->name, SPAN("api-key")))
        return value.ptr ? value : SPAN("");
    if (!span_eq_nocase(header->name, SPAN("authorization")) || !span_starts_nocase(value, SPAN("bearer")))
        return none;
    struct span rest = span_skip(value, 6);
    if (rest.len > 0 && rest.ptr[0] != ' ' && rest.ptr[0] != '\t')
        return none; /* another scheme that begins with the same letters */
    return span_trim(rest);
}

enum err auth_extract(const struct header_pair *headers, size_t count, struct span *ret_key, const char **ret_why)
{
    struct span found = { NULL, 0 };
    for (size_t i = 0; i < count; i++) {
        struct span key = key_of(&headers[i]);
        if (!key.ptr)
            continue;
        /* The client compares its own two keys: nothing secret can be timed here. */
        if (found.ptr && !span_eq(found, key)) {
            *ret_why = "Different API keys stand in the request's headers; send one.";
            return ERR_CONFLICT;
        }
        found = key;
    }
    if (!found.ptr) {
        *ret_why = "No API key was sent. Put it into the header 'Authorization: Bearer YOUR_KEY'.";
        return ERR_NOT_FOUND;
    }
    if (!auth_key_well_formed(found)) {
        *ret_why = "This is not a key of this gateway (its keys begin with 'fl-'). Ask your administrator for one.";
        return ERR_UNAUTHORIZED;
    }
    *ret_key = found;
    return OK;
}

enum err auth_judge(const struct key_record *record, const struct team_view *team, int64_t now_ms, const char **ret_why)
{
    const char *why = NULL;
    if (!record)
        why = "This API key is not known here.";
    else if (record->revoked)
        why = "This API key has been revoked.";
    else if (record->expires_at_ms != 0 && now_ms >= record->expires_at_ms)
        why = "This API key has expired.";
    else if (!team)
        why = span_starts(record->id, SPAN(AUTH_CERTIFICATE_PREFIX))
                  ? "The team that this client certificate stands for does not exist."
                  : "The team that this API key belongs to no longer exists.";
    if (!why)
        return OK;
    *ret_why = why;
    return ERR_UNAUTHORIZED;
}

enum err auth_by_certificate(struct arena *arena, struct span name, struct span team, struct key_record **ret)
{
    struct key_record *record = ARENA_NEW(arena, struct key_record);
    const char *id = arena_printf(arena, AUTH_CERTIFICATE_PREFIX SPAN_FMT, SPAN_ARG(name));
    if (!record || !id)
        return ERR_NOMEM;
    *record = (struct key_record){ .id = span_cstr(id), .team = team, .replaced_by = SPAN(""), .hint = SPAN("") };
    *ret = record;
    return OK;
}

static bool listed(const struct span_list *patterns, struct span name)
{
    for (uint32_t i = 0; i < patterns->count; i++)
        if (span_glob(patterns->items[i], name))
            return true;
    return false;
}

/* An empty list of a key narrows nothing. */
static bool key_allows(const struct auth_principal *principal, struct span name)
{
    return principal->key->routes.count == 0 || listed(&principal->key->routes, name);
}

bool auth_may_route(const struct auth_principal *principal, struct span route)
{
    return listed(&principal->team->team->routes, route) && key_allows(principal, route);
}

bool auth_may_model(const struct auth_principal *principal, struct span model)
{
    return listed(&principal->team->team->models, model) && key_allows(principal, model);
}
