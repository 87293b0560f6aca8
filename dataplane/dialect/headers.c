#include "dataplane/dialect/headers.h"

/* Client headers that go up to any provider. What is absent, and why:
 *   authorization, cookie, api keys     the client's secrets are ours alone
 *   host, forwarded, x-forwarded-*      the destination comes from the table; who asks is nobody's business up there
 *   user-agent, x-stainless-*           tell a provider what our users run
 *   accept-encoding, content-encoding   we read what we relay: identity always
 *   openai-organization, -project       choose whose account pays: the credential does
 *   idempotency-key                     a failover sends the request to another provider: it would promise too much
 *   x-request-id                        ours goes into the record; correlating ids across companies needs a policy
 * A policy may forward more (`headers: {forward: [...]}`), but never what headers_never_up names. */
static const char *const up[] = {
    "accept-language", /* some models answer in the reader's language */
    "traceparent",     /* W3C Trace Context: made to cross companies */
    "tracestate",
};

static const char *const never_up[] = {
    "authorization",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "cookie",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "content-length",
    "content-type", /* set by us */
    "content-encoding",
    "accept", /* set by us */
    "accept-encoding",
    "forwarded",
    "via",
};
static const char *const never_up_prefixes[] = { "x-forwarded-", "x-fairlead-", "x-real-ip", "cf-connecting-" };

/* Response headers that come down. Not: set-cookie, openai-organization and other account ids, server and via (whose
 * house it is), x-request-id (ours stands there), hop-by-hop ones, content-length and -encoding (conn's), x-ratelimit-*
 * (shares of our account, not of the client's; read by headers_remaining_ppm_plus_1). */
static const char *const down[] = {
    "content-type",
    "retry-after",          /* with errors that are passed through */
    "retry-after-ms",       /* the same, as OpenAI's SDKs read it */
    "openai-processing-ms", /* how long the provider itself took */
    "openai-version",
    "openai-model",
    "x-ms-region", /* Azure: where it ran */
    "warning",
    "deprecation", /* RFC 9745: the model goes away; people must learn of it */
    "sunset",      /* RFC 8594 */
};

static bool in_list(const char *const *list, size_t count, struct span name)
{
    for (size_t i = 0; i < count && name.len > 0; i++)
        if (((list[i][0] ^ name.ptr[0]) & ~0x20) == 0 && span_eq_nocase(span_cstr(list[i]), name))
            return true;
    return false;
}

bool headers_never_up(struct span name)
{
    for (size_t i = 0; i < ARRAY_LEN(never_up_prefixes) && name.len > 0; i++)
        if (((never_up_prefixes[i][0] ^ name.ptr[0]) & ~0x20) == 0 &&
            span_starts_nocase(name, span_cstr(never_up_prefixes[i])))
            return true;
    return in_list(never_up, ARRAY_LEN(never_up), name);
}

bool headers_goes_down(struct span name)
{
    return in_list(down, ARRAY_LEN(down), name);
}

struct span headers_find(const struct header_pair *headers, size_t count, struct span name)
{
    for (size_t i = 0; i < count; i++)
        if (span_eq_nocase(headers[i].name, name))
            return headers[i].value.ptr ? headers[i].value : SPAN("");
    return span_of(NULL, 0);
}

static bool goes_up(const struct provider *provider, struct span name)
{
    bool allowed = in_list(up, ARRAY_LEN(up), name);
    for (uint32_t i = 0; i < provider->forward_headers.count && !allowed; i++)
        allowed = span_eq_nocase(provider->forward_headers.items[i], name);
    return allowed && !headers_never_up(name);
}

static bool sets(const struct provider *provider, struct span name)
{
    return headers_find(provider->headers, provider->header_count, name).ptr != NULL;
}

/* Lower-case copy; .ptr NULL when the arena is full. */
static struct span lower(struct arena *arena, struct span name)
{
    char *copy = arena_alloc(arena, name.len + 1);
    if (!copy)
        return span_of(NULL, 0);
    memcpy(copy, name.ptr, name.len);
    for (size_t i = 0; i < name.len; i++)
        if (copy[i] >= 'A' && copy[i] <= 'Z')
            copy[i] = (char)(copy[i] | 0x20);
    return span_of(copy, name.len);
}

enum err headers_up(struct arena *arena, const struct provider *provider, const struct header_pair *client,
                    size_t client_count, bool stream, struct header_pair **ret, unsigned *ret_count)
{
    const struct header_pair fixed[] = {
        { SPAN("content-type"), SPAN("application/json") },
        { SPAN("accept"), stream ? SPAN("text/event-stream") : SPAN("application/json") },
        { SPAN("accept-encoding"), SPAN("identity") },
    };
    unsigned count = 0;
    const size_t most = ARRAY_LEN(fixed) + client_count + provider->header_count;
    struct header_pair *list = ARENA_ARRAY(arena, size_min(most, HEADERS_MAX), struct header_pair);
    if (!list)
        return ERR_NOMEM;
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        list[count++] = fixed[i];
    for (size_t i = 0; i < client_count; i++) {
        if (!goes_up(provider, client[i].name) || sets(provider, client[i].name))
            continue;
        if (count == HEADERS_MAX)
            return ERR_TOO_MANY;
        list[count] = (struct header_pair){ lower(arena, client[i].name), client[i].value };
        if (!list[count++].name.ptr)
            return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < provider->header_count; i++) {
        if (headers_never_up(provider->headers[i].name))
            continue; /* a policy chooses neither host nor framing nor credential */
        if (count == HEADERS_MAX)
            return ERR_TOO_MANY;
        list[count] = (struct header_pair){ lower(arena, provider->headers[i].name), provider->headers[i].value };
        if (!list[count++].name.ptr)
            return ERR_NOMEM;
    }
    *ret = list;
    *ret_count = count;
    return OK;
}

enum err headers_credential(struct arena *arena, enum auth_scheme scheme, struct span secret, struct header_pair *ret,
                            bool *ret_needed)
{
    static const char *const names[] = { [AUTH_SCHEME_NONE] = "",
                                         [AUTH_SCHEME_BEARER] = "authorization",
                                         [AUTH_SCHEME_API_KEY] = "api-key",
                                         [AUTH_SCHEME_X_API_KEY] = "x-api-key" };
    REQUIRE((size_t)scheme < ARRAY_LEN(names));
    if (scheme == AUTH_SCHEME_NONE) {
        *ret_needed = false;
        return OK;
    }
    if (span_empty(secret))
        return ERR_INVALID;
    for (size_t i = 0; i < secret.len; i++)
        if (secret.ptr[i] <= ' ' || secret.ptr[i] > '~') /* a line feed would begin a header of its own */
            return ERR_INVALID;
    struct span prefix = scheme == AUTH_SCHEME_BEARER ? SPAN("Bearer ") : SPAN("");
    char *value = arena_alloc(arena, prefix.len + secret.len + 1);
    if (!value)
        return ERR_NOMEM;
    memcpy(value, prefix.ptr, prefix.len);
    memcpy(value + prefix.len, secret.ptr, secret.len);
    *ret = (struct header_pair){ span_cstr(names[scheme]), span_of(value, prefix.len + secret.len) };
    *ret_needed = true;
    return OK;
}

uint32_t headers_remaining_ppm_plus_1(const struct header_pair *headers, size_t count)
{
    static const struct {
        const char *limit, *remaining;
    } pairs[] = {
        { "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests" },
        { "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens" },
        { "anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining" },
        { "anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining" },
    };
    uint32_t least = 0;
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        struct span limit_text = headers_find(headers, count, span_cstr(pairs[i].limit));
        struct span remaining_text = headers_find(headers, count, span_cstr(pairs[i].remaining));
        uint64_t limit, remaining;
        if (!limit_text.ptr || !remaining_text.ptr || span_to_u64(span_trim(limit_text), &limit) ||
            span_to_u64(span_trim(remaining_text), &remaining) || limit == 0)
            continue;
        double share = remaining >= limit ? 1.0 : (double)remaining / (double)limit;
        uint32_t ppm_plus_1 = (uint32_t)(share * 1e6) + 1;
        if (least == 0 || ppm_plus_1 < least)
            least = ppm_plus_1;
    }
    return least;
}
