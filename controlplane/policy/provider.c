/* provider.c - providers: presets, where they are, credentials, data facts, probes, headers. */
#include "common/arena.h"
#include "controlplane/policy/compiler.h"
#include "controlplane/policy/presets.h"

static const char *const auth_words[] = { "none", "bearer", "api-key", "x-api-key", NULL };
static const enum auth_scheme auth_values[] = { AUTH_SCHEME_NONE, AUTH_SCHEME_BEARER, AUTH_SCHEME_API_KEY,
                                                AUTH_SCHEME_X_API_KEY };
static const char *const lane_words[] = { "auto", "curl", "direct", NULL };
static const enum lane_kind lane_values[] = { LANE_AUTO, LANE_CURL, LANE_DIRECT };
static const char *const probe_words[] = { "models", "connect", "completion", "none", NULL };
static const enum probe_how probe_values[] = { PROBE_HOW_MODELS, PROBE_HOW_CONNECT, PROBE_HOW_COMPLETION,
                                               PROBE_HOW_NONE };

bool split_model_name(struct span name, struct span *ret_provider, struct span *ret_model)
{
    size_t slash = span_find_byte(name, '/');
    if (slash == SIZE_MAX || slash == 0 || slash + 1 == name.len)
        return false;
    *ret_provider = span_head(name, slash);
    *ret_model = span_skip(name, slash + 1);
    return true;
}

static struct span lower_dup(struct compiler *c, struct span text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    char *copy = arena_alloc(c->arena, text.len + 1);
    if (!copy) {
        c->failed = true;
        return SPAN("");
    }
    for (size_t i = 0; i < text.len; i++) {
        char ch = text.ptr[i];
        if (ch >= 'A' && ch <= 'Z')
            ch = letters[ch - 'A'];
        copy[i] = ch;
    }
    copy[text.len] = '\0';
    return span_of(copy, text.len);
}

static struct span dup(struct compiler *c, struct span text)
{
    struct span copy = arena_dup(c->arena, text);
    if (copy.ptr)
        return copy;
    c->failed = true;
    return SPAN("");
}

/* ---- where ---- */

/* A name or address: letters, digits, . - _, or in brackets an IPv6 address. */
static bool host_take(struct span *rest, struct span *ret_host)
{
    bool bracket = rest->len > 0 && rest->ptr[0] == '[';
    size_t length = bracket ? 1 : 0;
    for (; length < rest->len; length++) {
        char ch = rest->ptr[length];
        bool hex = (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'f') || (ch >= 'A' && ch <= 'F');
        bool letter = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
        if (bracket ? !(hex || ch == ':' || ch == '.') : !(letter || ch == '.' || ch == '-' || ch == '_'))
            break;
    }
    if (bracket) {
        if (length < 4 || length == rest->len || rest->ptr[length] != ']')
            return false;
        *ret_host = span_of(rest->ptr + 1, length - 1);
        *rest = span_skip(*rest, length + 1);
        return true;
    }
    *ret_host = span_head(*rest, length);
    *rest = span_skip(*rest, length);
    return length > 0 && length <= 253; /* RFC 1035 2.3.4 */
}

static bool port_take(struct span *rest, bool tls, uint16_t *ret_port)
{
    *ret_port = tls ? 443 : 80;
    if (rest->len == 0 || rest->ptr[0] != ':')
        return true;
    size_t end = 1;
    while (end < rest->len && rest->ptr[end] != '/')
        end++;
    uint64_t port;
    if (span_to_u64(span_of(rest->ptr + 1, end - 1), &port) != OK || port == 0 || port > 65535)
        return false;
    *ret_port = (uint16_t)port;
    *rest = span_skip(*rest, end);
    return true;
}

/* RFC 3986 3.3 pchar without percent signs, so that a path has one spelling; no query, no fragment. */
static bool path_is_plain(struct span path)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@/";
    for (size_t i = 0; i < path.len; i++) {
        if (!path.ptr[i] || !strchr(allowed, path.ptr[i]))
            return false;
    }
    return span_find(path, SPAN("/../")) == SIZE_MAX && !span_ends(path, SPAN("/.."));
}

static bool parse_url(struct compiler *c, struct span url, struct provider *out)
{
    struct span rest = url;
    out->tls = span_starts_nocase(url, SPAN("https://"));
    if (!out->tls && !span_starts_nocase(url, SPAN("http://")))
        return false;
    rest = span_skip(rest, out->tls ? 8 : 7);
    struct span host;
    if (!host_take(&rest, &host) || !port_take(&rest, out->tls, &out->port))
        return false;
    while (rest.len > 0 && rest.ptr[rest.len - 1] == '/')
        rest.len--;
    if ((rest.len > 0 && rest.ptr[0] != '/') || !path_is_plain(rest))
        return false;
    out->host = lower_dup(c, host);
    out->path = dup(c, rest);
    while (url.len > 0 && url.ptr[url.len - 1] == '/')
        url.len--;
    out->base_url = dup(c, url);
    return true;
}

static bool host_is_loopback(struct span host)
{
    return span_eq(host, SPAN("localhost")) || span_eq(host, SPAN("::1")) || span_starts(host, SPAN("127."));
}

static void read_where(struct compiler *c, struct provider_draft *d)
{
    const struct yaml_node *node = chain_get(&d->chain, "base_url");
    struct span url = d->preset && d->preset->base_url[0] ? span_cstr(d->preset->base_url) : SPAN("");
    if (node && !field_text(c->diags, node, &url))
        return;
    if (url.len == 0)
        diag_error(c->diags, d->node->key, "provider '" SPAN_FMT "' needs a base_url", SPAN_ARG(d->out.name));
    else if (!parse_url(c, url, &d->out))
        diag_error(c->diags, node, "'base_url' must be http(s)://host[:port][/path], without user, query or fragment");
}

static void read_proxy(struct compiler *c, struct provider_draft *d)
{
    const struct yaml_node *node = chain_get(&d->chain, "proxy");
    struct span url;
    struct provider parsed = { 0 };
    if (!field_text(c->diags, node, &url))
        return;
    if (!parse_url(c, url, &parsed) || parsed.tls || parsed.path.len > 0)
        diag_error(c->diags, node, "'proxy' must be http://host:port");
    else if (d->out.host.len > 0 && !d->out.tls && d->out.credentials.count > 0)
        /* The node checks the provider's host, not the proxy's: such a policy could have keys sent anywhere. */
        diag_error(c->diags, node,
                   "this proxy would see the credentials, since 'base_url' is not https; remove one of the three");
    else
        d->out.proxy = parsed.base_url;
}

/* ---- how ---- */

static void read_preset(struct compiler *c, struct provider_draft *d)
{
    const struct yaml_node *node = chain_get(&d->chain, "preset");
    struct span name;
    if (!field_text(c->diags, node, &name))
        return;
    d->preset = policy_preset_find(name);
    if (d->preset) {
        d->out.preset = dup(c, name);
        return;
    }
    const char *names[64] = { NULL };
    const struct policy_preset *preset;
    for (size_t i = 0; (preset = policy_preset_at(i)) && i + 1 < ARRAY_LEN(names); i++)
        names[i] = preset->name;
    diag_error(c->diags, node, "there is no preset '" SPAN_FMT "'%s", SPAN_ARG(name),
               suggest_word(c->diags, name, names));
}

static void read_query(struct compiler *c, struct provider_draft *d)
{
    const struct yaml_node *node = chain_get(&d->chain, "api_version");
    struct span version;
    d->out.query = d->preset && d->preset->query ? span_cstr(d->preset->query) : SPAN("");
    if (!field_text(c->diags, node, &version))
        return;
    if (d->out.path_style != PATH_STYLE_AZURE) {
        diag_error(c->diags, node, "'api_version' is for preset azure only");
        return;
    }
    for (size_t i = 0; i < version.len; i++) {
        char ch = version.ptr[i];
        if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '-')) {
            diag_error(c->diags, node, "'api_version' must look like 2024-10-21");
            return;
        }
    }
    char *query = arena_printf(c->arena, "api-version=" SPAN_FMT, SPAN_ARG(version));
    c->failed |= !query;
    d->out.query = span_cstr(query);
}

static void read_credentials(struct compiler *c, struct provider_draft *d)
{
    const struct yaml_node *node = chain_get(&d->chain, "credentials");
    struct provider *out = &d->out;
    size_t word;
    bool auth_said = field_word(c->diags, chain_get(&d->chain, "auth"), auth_words, &word);
    out->auth = auth_said ? auth_values[word] : d->preset ? d->preset->auth : AUTH_SCHEME_BEARER;
    if (field_list(c->diags, c->arena, node, &out->credentials)) {
        const struct yaml_node *at = node->first;
        for (uint32_t i = 0; i < out->credentials.count; i++, at = at->next)
            name_check(c->diags, at, out->credentials.items[i], NAME_PLAIN, "credential");
        if (out->credentials.count > CREDENTIALS_PER_PROVIDER_MAX)
            diag_error(c->diags, node, "more than %u credentials", CREDENTIALS_PER_PROVIDER_MAX);
    }
    if (out->credentials.count > 0 && out->auth == AUTH_SCHEME_NONE)
        diag_error(c->diags, node, "with 'auth: none' no credential is ever sent; remove one of the two");
    if (out->credentials.count > 0 || out->auth == AUTH_SCHEME_NONE)
        return;
    bool optional = !d->preset || d->preset->local;
    if (!optional || auth_said)
        diag_error(c->diags, d->node->key,
                   "provider '" SPAN_FMT "' needs credentials, a list of names such as [" SPAN_FMT "]",
                   SPAN_ARG(out->name), SPAN_ARG(out->name));
    out->auth = AUTH_SCHEME_NONE;
}

static void read_data(struct compiler *c, struct provider_draft *d)
{
    static const char *const known[] = { "regions", "retention_days", "trains", NULL };
    struct data_facts *data = &d->out.data;
    fields_check(c->diags, yaml_get(d->node, "data"), "'data'", known);
    field_list(c->diags, c->arena, chain_get_in(&d->chain, "data", "regions"), &data->regions);
    uint64_t days;
    if (field_count(c->diags, chain_get_in(&d->chain, "data", "retention_days"), 0, RETENTION_DAYS_MOST, &days)) {
        data->retention_known = true;
        data->retention_days = (uint32_t)days;
    }
    data->trains_known = field_bool(c->diags, chain_get_in(&d->chain, "data", "trains"), &data->trains);
}

static void read_probe(struct compiler *c, struct provider_draft *d)
{
    static const char *const known[] = { "every", "how", "model", NULL };
    struct provider *out = &d->out;
    fields_check(c->diags, yaml_get(d->node, "probe"), "'probe'", known);
    const struct yaml_node *how = chain_get_in(&d->chain, "probe", "how");
    const struct yaml_node *every = chain_get_in(&d->chain, "probe", "every");
    const struct yaml_node *model = chain_get_in(&d->chain, "probe", "model");
    if (!how)
        how = yaml_get(c->default_probe, "how");
    out->probe = d->preset ? d->preset->probe : PROBE_HOW_MODELS;
    out->probe_every_ms = c->probe_every_ms;
    size_t word;
    if (field_word(c->diags, how, probe_words, &word))
        out->probe = probe_values[word];
    uint32_t least = out->probe == PROBE_HOW_COMPLETION ? PROBE_COMPLETION_LEAST_MS : PROBE_EVERY_LEAST_MS;
    if (field_duration(c->diags, every, false, &out->probe_every_ms) && out->probe_every_ms < least)
        diag_error(c->diags, every, "'every' must be at least %us for this kind of probe", least / 1000);
    if (every && out->probe == PROBE_HOW_NONE)
        diag_error(c->diags, every, "'every' has no effect with 'how: none'");
    if (out->probe_every_ms < least)
        out->probe_every_ms = least;
    if (out->probe == PROBE_HOW_COMPLETION) {
        if (!model)
            diag_error(c->diags, d->node->key,
                       "a completion probe needs 'model', the provider's own name of a cheap one");
        field_text(c->diags, model, &out->probe_model);
    } else if (model) {
        diag_error(c->diags, model, "'model' is for 'how: completion' only");
    }
}

/* ---- headers ---- */

bool header_is_reserved(struct span name)
{
    static const char *const reserved[] = { "accept-encoding",
                                            "api-key",
                                            "authorization",
                                            "connection",
                                            "content-encoding",
                                            "content-length",
                                            "content-type",
                                            "cookie",
                                            "expect",
                                            "forwarded",
                                            "host",
                                            "keep-alive",
                                            "proxy-authorization",
                                            "proxy-connection",
                                            "te",
                                            "trailer",
                                            "transfer-encoding",
                                            "upgrade",
                                            "via",
                                            "x-api-key",
                                            "x-forwarded-for",
                                            "x-goog-api-key" };
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++) {
        if (span_eq(name, span_cstr(reserved[i])))
            return true;
    }
    return false;
}

/* RFC 9110 5.6.2: a token; and none of those that are ours. */
static bool header_name_check(struct compiler *c, const struct yaml_node *node, struct span name)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";
    bool good = name.len > 0 && name.len <= NAME_BYTES_MAX;
    for (size_t i = 0; i < name.len && good; i++) {
        char ch = name.ptr[i];
        good = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || (ch && strchr(marks, ch));
    }
    if (!good)
        diag_error(c->diags, node, "'" SPAN_FMT "' is no name of a header", SPAN_ARG(name));
    else if (header_is_reserved(name))
        diag_error(c->diags, node, "header '" SPAN_FMT "' is set by Fairlead itself", SPAN_ARG(name));
    else
        return true;
    return false;
}

void read_forward_headers(struct compiler *c, const struct yaml_node *node, struct span_list *ret)
{
    struct span_list list = { 0 };
    if (!field_list(c->diags, c->arena, node, &list))
        return;
    struct span *lower = ARENA_ARRAY(c->arena, list.count + 1, struct span);
    if (!lower) {
        c->failed = true;
        return;
    }
    const struct yaml_node *at = node->first;
    for (uint32_t i = 0; i < list.count; i++, at = at->next) {
        lower[i] = lower_dup(c, list.items[i]);
        header_name_check(c, at, lower[i]);
    }
    *ret = (struct span_list){ .items = lower, .count = list.count };
}

static void read_added_headers(struct compiler *c, struct provider_draft *d, const struct yaml_node *add)
{
    if (!add)
        return;
    if (add->kind != YAML_MAP) {
        diag_error(c->diags, add, "'add' must be a map from header names to values");
        return;
    }
    struct header_pair *pairs = ARENA_ARRAY(c->arena, add->count + 1, struct header_pair);
    c->failed |= !pairs;
    uint32_t count = 0;
    for (const struct yaml_node *child = add->first; child && pairs; child = child->next) {
        struct span name = lower_dup(c, child->key->text), value;
        if (!header_name_check(c, child->key, name) || !field_text(c->diags, child, &value))
            continue;
        bool printable = true;
        for (size_t i = 0; i < value.len; i++)
            printable &= value.ptr[i] >= 0x20 && value.ptr[i] < 0x7f;
        if (!printable)
            diag_error(c->diags, child, "a header's value must be printable ASCII on one line");
        else
            pairs[count++] = (struct header_pair){ .name = name, .value = value };
    }
    d->out.headers = pairs;
    d->out.header_count = count;
}

static void read_headers(struct compiler *c, struct provider_draft *d)
{
    static const char *const known[] = { "forward", "add", NULL };
    fields_check(c->diags, yaml_get(d->node, "headers"), "'headers'", known);
    d->out.forward_headers = c->forward_headers;
    read_forward_headers(c, chain_get_in(&d->chain, "headers", "forward"), &d->out.forward_headers);
    read_added_headers(c, d, chain_get_in(&d->chain, "headers", "add"));
}

/* ---- all ---- */

static void read_flags(struct compiler *c, struct provider_draft *d)
{
    struct provider *out = &d->out;
    size_t word;
    out->stream_usage = d->preset ? d->preset->stream_usage : true;
    field_bool(c->diags, chain_get(&d->chain, "stream_usage"), &out->stream_usage);
    field_bool(c->diags, chain_get(&d->chain, "http2"), &out->http2);
    if (field_word(c->diags, chain_get(&d->chain, "lane"), lane_words, &word))
        out->lane = lane_values[word];
    if (out->lane == LANE_DIRECT && (out->http2 || out->proxy.len > 0))
        diag_error(c->diags, chain_get(&d->chain, "lane"),
                   "the direct lane speaks HTTP/1.1 without a proxy; remove 'lane: direct' or '%s'",
                   out->http2 ? "http2" : "proxy");
    field_share(c->diags, chain_get(&d->chain, "discount"), &out->discount_ppm);
    if (out->credentials.count > 0 && !out->tls && out->host.len > 0 && !host_is_loopback(out->host))
        diag_warning(c->diags, d->node->key, "credentials of '" SPAN_FMT "' go over plain http to " SPAN_FMT,
                     SPAN_ARG(out->name), SPAN_ARG(out->host));
}

static void read_provider(struct compiler *c, struct provider_draft *d)
{
    static const char *const known[] = { "like",     "preset",   "base_url",     "api_version", "auth",  "credentials",
                                         "discount", "data",     "probe",        "lane",        "http2", "proxy",
                                         "headers",  "timeouts", "stream_usage", NULL };
    char what[NAME_BYTES_MAX + 32];
    snprintf(what, sizeof what, "provider " SPAN_FMT, SPAN_ARG(span_head(d->out.name, NAME_BYTES_MAX)));
    fields_check(c->diags, d->node, what, known);
    chain_make(c->diags, &c->policy->providers, d->node, "provider", &d->chain);
    read_preset(c, d);
    d->out.path_style = d->preset ? d->preset->path_style : PATH_STYLE_OPENAI;
    read_where(c, d);
    read_query(c, d);
    read_credentials(c, d);
    read_data(c, d);
    read_probe(c, d);
    read_headers(c, d);
    read_proxy(c, d);
    read_flags(c, d);
    d->timeouts = c->timeouts;
    for (uint32_t i = d->chain.count; i > 0; i--) /* the nearest one last: it wins */
        field_timeouts(c->diags, yaml_get(d->chain.nodes[i - 1], "timeouts"), &d->timeouts);
}

void compile_providers(struct compiler *c)
{
    const struct section *section = &c->policy->providers;
    if (section->count > PROVIDERS_MAX) {
        diag_error(c->diags, c->policy->policy_document, "more than %u providers", PROVIDERS_MAX);
        return;
    }
    for (uint32_t i = 0; i < section->count && !c->failed; i++) {
        const struct entry *entry = &section->items[i];
        struct provider_draft *d = ARENA_NEW(c->arena, struct provider_draft);
        if (!d || strmap_put(&c->providers, entry->name, d) != OK) {
            c->failed = true;
            return;
        }
        d->node = entry->node;
        d->out = (struct provider){ .name = entry->name,
                                    .preset = SPAN(""),
                                    .base_url = SPAN(""),
                                    .host = SPAN(""),
                                    .path = SPAN(""),
                                    .query = SPAN(""),
                                    .proxy = SPAN(""),
                                    .probe_model = SPAN(""),
                                    .where = place_of(c->arena, entry->node->key) };
        c->failed |= !d->out.where.ptr;
        c->provider_count++;
        name_check(c->diags, entry->node->key, entry->name, NAME_PLAIN, "provider");
        read_provider(c, d);
    }
}
