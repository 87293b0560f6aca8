/* diff.c - what changes between two artifacts, or two lists of teams, in words.
 *
 * Each object is described as facts (label, value) in a fixed order; two objects of one name are compared fact by fact.
 * So nothing that a description names can change unseen, and a new field needs one line here. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"
#include "common/units.h"
#include "controlplane/policy/policy.h"

#define SCRATCH_BYTES_MAX ((size_t)64 << 20) /* one pair of objects' facts; a list of globs is the largest */

struct fact {
    const char *label; /* NULL: memory was out */
    const char *value; /* "" : not set */
};
struct facts {
    struct arena *scratch;
    struct fact *items;
    uint32_t count, capacity;
    bool failed;
};
struct differ {
    struct arena *arena;
    struct arena scratch;
    struct policy_change *items;
    uint32_t count, capacity;
    bool failed;
};

/* ---- facts ---- */

static void put(struct facts *f, const char *label, const char *value)
{
    if (f->count == f->capacity) {
        uint32_t capacity = f->capacity ? 2 * f->capacity : 32;
        struct fact *items = ARENA_ARRAY(f->scratch, capacity, struct fact);
        if (!items) {
            f->failed = true;
            return;
        }
        if (f->count > 0)
            memcpy(items, f->items, f->count * sizeof *items);
        f->items = items;
        f->capacity = capacity;
    }
    f->failed |= !label || !value;
    f->items[f->count++] = (struct fact){ .label = label ? label : "", .value = value ? value : "" };
}

static void put_span(struct facts *f, const char *label, struct span value)
{
    put(f, label, arena_printf(f->scratch, SPAN_FMT, SPAN_ARG(value)));
}

static void put_number(struct facts *f, const char *label, uint64_t value)
{
    put(f, label, value ? arena_printf(f->scratch, "%llu", (unsigned long long)value) : "");
}

static void put_duration(struct facts *f, const char *label, uint32_t ms)
{
    char text[UNITS_TEXT_BYTES];
    put(f, label, ms ? arena_printf(f->scratch, "%s", units_format_duration(ms, text)) : "");
}

static const char *share_text(struct arena *scratch, uint32_t ppm)
{
    char text[UNITS_TEXT_BYTES];
    return arena_printf(scratch, "%s", units_format_share(ppm, text));
}

static void put_share(struct facts *f, const char *label, uint32_t ppm)
{
    put(f, label, ppm ? share_text(f->scratch, ppm) : "");
}

static void put_usd(struct facts *f, const char *label, int64_t nano, const char *unit)
{
    char text[UNITS_TEXT_BYTES];
    put(f, label, arena_printf(f->scratch, "$%s%s", units_format_usd(nano, text), unit));
}

static void put_flag(struct facts *f, const char *label, bool value)
{
    put(f, label, value ? "yes" : "no");
}

static void put_list(struct facts *f, const char *label, const struct span_list *list)
{
    struct buf text;
    buf_init(&text, SCRATCH_BYTES_MAX);
    for (uint32_t i = 0; i < list->count && !f->failed; i++)
        f->failed |= buf_printf(&text, "%s" SPAN_FMT, i ? ", " : "", SPAN_ARG(list->items[i])) != OK;
    struct span copy = arena_dup(f->scratch, buf_span(&text));
    put(f, label, copy.ptr);
    buf_release(&text);
}

static void put_timeouts(struct facts *f, const struct timeouts *t)
{
    put_duration(f, "timeout connect", t->connect_ms);
    put_duration(f, "timeout first_token", t->first_token_ms);
    put_duration(f, "timeout idle", t->idle_ms);
    put_duration(f, "timeout total", t->total_ms);
    put_duration(f, "timeout hold", t->hold_ms);
}

static void put_requirement(struct facts *f, const struct requirement *r)
{
    put_list(f, "required region", &r->regions);
    put(f, "required max_retention_days",
        r->has_retention ? arena_printf(f->scratch, "%u", r->max_retention_days) : "");
    put(f, "required no_training", r->no_training ? "yes" : "");
}

/* ---- descriptions ---- */

static const char *auth_name(enum auth_scheme auth)
{
    switch (auth) {
    case AUTH_SCHEME_NONE:
        return "none";
    case AUTH_SCHEME_BEARER:
        return "bearer";
    case AUTH_SCHEME_API_KEY:
        return "api-key";
    case AUTH_SCHEME_X_API_KEY:
        return "x-api-key";
    }
    return "";
}

static const char *lane_name(enum lane_kind lane)
{
    switch (lane) {
    case LANE_AUTO:
        return "auto";
    case LANE_CURL:
        return "curl";
    case LANE_DIRECT:
        return "direct";
    }
    return "";
}

static const char *probe_name(enum probe_how how)
{
    switch (how) {
    case PROBE_HOW_MODELS:
        return "models";
    case PROBE_HOW_CONNECT:
        return "connect";
    case PROBE_HOW_COMPLETION:
        return "completion";
    case PROBE_HOW_NONE:
        return "none";
    }
    return "";
}

static void describe_provider(struct facts *f, const struct artifact *a, uint32_t index)
{
    const struct provider *p = &a->providers[index];
    put_span(f, "preset", p->preset);
    put_span(f, "base_url", p->base_url);
    put(f, "auth", auth_name(p->auth));
    put(f, "paths", p->path_style == PATH_STYLE_AZURE ? "azure" : "openai");
    put_span(f, "query", p->query);
    put_list(f, "credentials", &p->credentials);
    put_share(f, "discount", p->discount_ppm);
    put_list(f, "regions", &p->data.regions);
    put(f, "retention_days", p->data.retention_known ? arena_printf(f->scratch, "%u", p->data.retention_days) : "");
    put(f, "trains", p->data.trains_known ? p->data.trains ? "yes" : "no" : "");
    put_flag(f, "stream_usage", p->stream_usage);
    put(f, "lane", lane_name(p->lane));
    put_flag(f, "http2", p->http2);
    put_span(f, "proxy", p->proxy);
    put(f, "probe", probe_name(p->probe));
    put_duration(f, "probe every", p->probe_every_ms);
    put_span(f, "probe model", p->probe_model);
    for (uint32_t i = 0; i < p->header_count; i++)
        put_span(f, arena_printf(f->scratch, "header " SPAN_FMT, SPAN_ARG(p->headers[i].name)), p->headers[i].value);
    put_list(f, "forwarded headers", &p->forward_headers);
}

static void describe_price(struct facts *f, const struct price *p)
{
    static const char per_million[] = " per million tokens";
    const struct {
        const char *label;
        uint32_t bit;
        int64_t nano;
    } parts[] = { { "price input", PRICE_INPUT, p->input },
                  { "price output", PRICE_OUTPUT, p->output },
                  { "price cache_read", PRICE_CACHE_READ, p->cache_read },
                  { "price cache_write", PRICE_CACHE_WRITE, p->cache_write },
                  { "price reasoning", PRICE_REASONING, p->reasoning },
                  { "price long input", PRICE_LONG, p->long_input },
                  { "price long output", PRICE_LONG, p->long_output },
                  { "price long cache_read", PRICE_LONG, p->long_cache_read } };
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (p->known & parts[i].bit)
            put_usd(f, parts[i].label, parts[i].nano, per_million);
    }
    if (p->known & PRICE_REQUEST)
        put_usd(f, "price request", p->request, "");
    if (p->known & PRICE_LONG)
        put_number(f, "price long above", p->long_above);
}

static void describe_model(struct facts *f, const struct artifact *a, uint32_t index)
{
    static const struct {
        uint32_t bit;
        const char *label;
    } caps[] = { { CAP_CHAT, "can chat" },
                 { CAP_COMPLETIONS, "can completions" },
                 { CAP_EMBEDDINGS, "can embeddings" },
                 { CAP_TOOLS, "can tools" },
                 { CAP_IMAGES, "can images" },
                 { CAP_JSON, "can json" },
                 { CAP_AUDIO, "can audio" },
                 { CAP_STREAM, "can stream" } };
    const struct model *m = &a->models[index];
    put_span(f, "sends", m->sends);
    put_span(f, "book entry", m->identity);
    put(f, "price from", m->price_source == PRICE_SOURCE_POLICY ? "policy" : m->price_source ? "book" : "");
    describe_price(f, &m->price);
    for (size_t i = 0; i < ARRAY_LEN(caps); i++)
        put_flag(f, caps[i].label, m->capabilities & caps[i].bit);
    put_number(f, "context", m->context_tokens);
    put_number(f, "max_output", m->output_tokens_max);
    put_timeouts(f, &m->timeouts);
}

static void describe_tier(struct facts *f, const struct artifact *a, const struct tier *t, uint32_t number)
{
    static const char *const prefers[] = { "weights by hand", "cheapest", "fastest", "balanced" };
    const char *tier = arena_printf(f->scratch, "tier %u:", number);
    const struct objective_weights *o = &t->objectives;
    put(f, arena_printf(f->scratch, "%s prefer", tier), t->prefer <= PREFER_BALANCED ? prefers[t->prefer] : "");
    if (t->prefer != PREFER_WEIGHTS)
        put(f, arena_printf(f->scratch, "%s objectives", tier),
            arena_printf(f->scratch, "cost %u, ttft %u, speed %u, errors %u, headroom %u", o->cost, o->ttft, o->speed,
                         o->errors, o->headroom));
    put_duration(f, arena_printf(f->scratch, "%s within ttft_p95", tier), t->within.ttft_p95_ms);
    put_share(f, arena_printf(f->scratch, "%s within errors", tier), t->within.errors_ppm);
    if (t->within.cost_nano_max)
        put_usd(f, arena_printf(f->scratch, "%s within cost", tier), t->within.cost_nano_max, "");
    for (uint32_t i = 0; i < t->member_count; i++) {
        struct span name = a->models[t->members[i].model].name;
        const char *kind = t->prefer == PREFER_WEIGHTS ? "weight" : "starting weight";
        put(f, arena_printf(f->scratch, "%s " SPAN_FMT " %s", tier, SPAN_ARG(name), kind),
            share_text(f->scratch, t->members[i].weight_ppm));
    }
}

static void describe_route(struct facts *f, const struct artifact *a, uint32_t index)
{
    const struct route *r = &a->routes[index];
    for (uint32_t i = 0; i < r->tier_count; i++)
        describe_tier(f, a, &r->tiers[i], i + 1);
    put_requirement(f, &r->require);
    if (r->max_cost_nano)
        put_usd(f, "max_cost_usd", r->max_cost_nano, "");
    put_number(f, "attempts", r->attempts);
    put_duration(f, "deadline", r->deadline_ms);
    put_timeouts(f, &r->timeouts);
    put_number(f, "mix input", r->mix_input_tokens);
    put_number(f, "mix output", r->mix_output_tokens);
}

static void describe_alias(struct facts *f, const struct artifact *a, uint32_t index)
{
    put_span(f, "target", a->aliases[index].target);
}

static void describe_team(struct facts *f, const struct team *t)
{
    put_list(f, "routes", &t->routes);
    put_list(f, "models", &t->models);
    put_requirement(f, &t->require);
    put_flag(f, "may choose_arm", t->may & TEAM_MAY_CHOOSE_ARM);
    put_flag(f, "may explain", t->may & TEAM_MAY_EXPLAIN);
}

/* ---- comparing ---- */

static void add_change(struct differ *d, const char *kind, const char *what, const char *text)
{
    if (d->count == d->capacity) {
        uint32_t capacity = d->capacity ? 2 * d->capacity : 64;
        struct policy_change *items = ARENA_ARRAY(d->arena, capacity, struct policy_change);
        if (!items) {
            d->failed = true;
            return;
        }
        if (d->count > 0)
            memcpy(items, d->items, d->count * sizeof *items);
        d->items = items;
        d->capacity = capacity;
    }
    d->failed |= !what || !text;
    if (!d->failed)
        d->items[d->count++] = (struct policy_change){ .kind = kind, .what = span_cstr(what), .text = span_cstr(text) };
}

static const struct fact *find_fact(const struct facts *f, const struct fact *wanted, uint32_t guess)
{
    if (guess < f->count && strcmp(f->items[guess].label, wanted->label) == 0)
        return &f->items[guess];
    for (uint32_t i = 0; i < f->count; i++) {
        if (strcmp(f->items[i].label, wanted->label) == 0)
            return &f->items[i];
    }
    return NULL;
}

static void compare_facts(struct differ *d, const char *what, const struct facts *before, const struct facts *after)
{
    d->failed |= before->failed || after->failed;
    for (uint32_t i = 0; i < before->count; i++) {
        const struct fact *old = &before->items[i], *new = find_fact(after, old, i);
        if (old->value[0] && (!new || !new->value[0]))
            add_change(d, "changed", what, arena_printf(d->arena, "%s: %s %s is gone", what, old->label, old->value));
        else if (new &&strcmp(old->value, new->value) != 0)
            add_change(d, "changed", what,
                       old->value[0]
                           ? arena_printf(d->arena, "%s: %s %s -> %s", what, old->label, old->value, new->value)
                           : arena_printf(d->arena, "%s: %s %s is new", what, new->label, new->value));
    }
    for (uint32_t i = 0; i < after->count; i++) {
        const struct fact *new = &after->items[i];
        if (new->value[0] && !find_fact(before, new, i))
            add_change(d, "changed", what, arena_printf(d->arena, "%s: %s %s is new", what, new->label, new->value));
    }
}

/* A kind of object in an artifact: how many, what they are called, how they are described. */
struct kind {
    const char *name;
    uint32_t (*count)(const struct artifact *);
    struct span (*name_of)(const struct artifact *, uint32_t);
    void (*describe)(struct facts *, const struct artifact *, uint32_t);
};

static uint32_t count_providers(const struct artifact *a)
{
    return a->provider_count;
}
static uint32_t count_models(const struct artifact *a)
{
    return a->model_count;
}
static uint32_t count_routes(const struct artifact *a)
{
    return a->route_count;
}
static uint32_t count_aliases(const struct artifact *a)
{
    return a->alias_count;
}
static struct span provider_name(const struct artifact *a, uint32_t i)
{
    return a->providers[i].name;
}
static struct span model_name(const struct artifact *a, uint32_t i)
{
    return a->models[i].name;
}
static struct span route_name(const struct artifact *a, uint32_t i)
{
    return a->routes[i].name;
}
static struct span alias_name(const struct artifact *a, uint32_t i)
{
    return a->aliases[i].name;
}

static const struct kind kinds[] = {
    { "provider", count_providers, provider_name, describe_provider },
    { "model", count_models, model_name, describe_model },
    { "route", count_routes, route_name, describe_route },
    { "alias", count_aliases, alias_name, describe_alias },
};

static void add_whole(struct differ *d, const char *change, const char *kind, struct span name)
{
    const char *what = arena_printf(d->arena, "%s " SPAN_FMT, kind, SPAN_ARG(name));
    add_change(d, change, what, what ? arena_printf(d->arena, "%s %s", what, change) : NULL);
}

static void compare_pair(struct differ *d, const struct kind *kind, const struct artifact *before, uint32_t b,
                         const struct artifact *after, uint32_t a)
{
    arena_reset(&d->scratch);
    struct facts old = { .scratch = &d->scratch }, new = { .scratch = &d->scratch };
    const char *what = arena_printf(&d->scratch, "%s " SPAN_FMT, kind->name, SPAN_ARG(kind->name_of(before, b)));
    if (!what) {
        d->failed = true;
        return;
    }
    kind->describe(&old, before, b);
    kind->describe(&new, after, a);
    uint32_t first = d->count;
    compare_facts(d, what, &old, &new);
    if (d->count == first)
        return;
    struct span kept = arena_dup(d->arena, span_cstr(what)); /* `what` goes with the scratch */
    d->failed |= !kept.ptr;
    for (uint32_t i = first; i < d->count; i++)
        d->items[i].what = kept;
}

/* Both sides are sorted by name: one walk. */
static void compare_kind(struct differ *d, const struct kind *kind, const struct artifact *before,
                         const struct artifact *after)
{
    uint32_t b = 0, a = 0, before_count = kind->count(before), after_count = kind->count(after);
    while ((b < before_count || a < after_count) && !d->failed) {
        int order = b == before_count  ? 1
                    : a == after_count ? -1
                                       : span_cmp(kind->name_of(before, b), kind->name_of(after, a));
        if (order < 0)
            add_whole(d, "removed", kind->name, kind->name_of(before, b++));
        else if (order > 0)
            add_whole(d, "added", kind->name, kind->name_of(after, a++));
        else
            compare_pair(d, kind, before, b++, after, a++);
    }
}

static void put_content(struct differ *d, const struct recorded_content *before, const struct recorded_content *after,
                        struct span team)
{
    const char *what = arena_printf(d->arena, "content of team " SPAN_FMT, SPAN_ARG(team));
    const char *share = share_text(d->arena, after ? after->share_ppm : 0);
    if (before && after) {
        arena_reset(&d->scratch);
        struct facts old = { .scratch = &d->scratch }, new = { .scratch = &d->scratch };
        put_share(&old, "recorded share", before->share_ppm);
        put_share(&new, "recorded share", after->share_ppm);
        put_number(&old, "recorded bytes", before->bytes);
        put_number(&new, "recorded bytes", after->bytes);
        if (what)
            compare_facts(d, what, &old, &new);
        d->failed |= !what;
    } else if (after) {
        add_change(d, "added", what,
                   what && share ? arena_printf(d->arena, "%s is now recorded: %s", what, share) : NULL);
    } else {
        add_change(d, "removed", what, what ? arena_printf(d->arena, "%s is no longer recorded", what) : NULL);
    }
}

/* Team by team, as that is whom it concerns; a share of nothing records nobody. */
static void compare_content(struct differ *d, const struct recorded_content *before,
                            const struct recorded_content *after)
{
    const uint32_t before_count = before->share_ppm ? before->teams.count : 0;
    const uint32_t after_count = after->share_ppm ? after->teams.count : 0;
    for (uint32_t b = 0, a = 0; (b < before_count || a < after_count) && !d->failed;) {
        const int order = b == before_count  ? 1
                          : a == after_count ? -1
                                             : span_cmp(before->teams.items[b], after->teams.items[a]);
        put_content(d, order <= 0 ? before : NULL, order >= 0 ? after : NULL,
                    order <= 0 ? before->teams.items[b] : after->teams.items[a]);
        b += order <= 0;
        a += order >= 0;
    }
}

static enum err finish(struct differ *d, struct policy_changes *ret)
{
    arena_release(&d->scratch);
    if (d->failed)
        return ERR_NOMEM;
    *ret = (struct policy_changes){ .items = d->items, .count = d->count };
    return OK;
}

enum err policy_diff(struct arena *arena, const struct artifact *before, const struct artifact *after,
                     struct policy_changes *ret_changes)
{
    static const struct artifact nothing;
    struct differ d = { .arena = arena };
    arena_init(&d.scratch, SCRATCH_BYTES_MAX);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        compare_kind(&d, &kinds[i], before ? before : &nothing, after);
    compare_content(&d, before ? &before->content : &nothing.content, &after->content);
    return finish(&d, ret_changes);
}

static void compare_teams(struct differ *d, const struct team *before, const struct team *after)
{
    arena_reset(&d->scratch);
    struct facts old = { .scratch = &d->scratch }, new = { .scratch = &d->scratch };
    const char *what = arena_printf(d->arena, "team " SPAN_FMT, SPAN_ARG(before->name));
    describe_team(&old, before);
    describe_team(&new, after);
    if (what)
        compare_facts(d, what, &old, &new);
    d->failed |= !what;
}

enum err policy_teams_diff(struct arena *arena, const struct teams *before, const struct teams *after,
                           struct policy_changes *ret_changes)
{
    static const struct teams nobody;
    struct differ d = { .arena = arena };
    before = before ? before : &nobody;
    arena_init(&d.scratch, SCRATCH_BYTES_MAX);
    for (uint32_t b = 0, a = 0; (b < before->count || a < after->count) && !d.failed;) {
        int order = b == before->count  ? 1
                    : a == after->count ? -1
                                        : span_cmp(before->items[b].name, after->items[a].name);
        if (order < 0)
            add_whole(&d, "removed", "team", before->items[b++].name);
        else if (order > 0)
            add_whole(&d, "added", "team", after->items[a++].name);
        else
            compare_teams(&d, &before->items[b++], &after->items[a++]);
    }
    return finish(&d, ret_changes);
}

enum err policy_changes_text(const struct policy_changes *changes, struct buf *out)
{
    for (uint32_t i = 0; i < changes->count; i++) {
        const struct policy_change *change = &changes->items[i];
        const char *mark = change->kind[0] == 'a' ? "+" : change->kind[0] == 'r' ? "-" : "~";
        enum err err = buf_printf(out, "%s " SPAN_FMT "\n", mark, SPAN_ARG(change->text));
        if (err)
            return err;
    }
    return OK;
}

void policy_changes_json(const struct policy_changes *changes, struct json_writer *w)
{
    json_array_open(w);
    for (uint32_t i = 0; i < changes->count; i++) {
        json_object_open(w);
        json_member_cstr(w, "kind", changes->items[i].kind);
        json_member_string(w, "what", changes->items[i].what);
        json_member_string(w, "text", changes->items[i].text);
        json_object_close(w);
    }
    json_array_close(w);
}
