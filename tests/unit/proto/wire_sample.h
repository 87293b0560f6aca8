/* wire_sample.h - random objects that keep every promise of tables.h and links.h, for tests and for the fuzzers' seeds.
 *
 * The arena must be large enough (a few MiB): running out stops the test. */
#pragma once
#include "common/arena.h"
#include "proto/links.h"

static inline uint32_t sample_below(struct prng *prng, uint32_t n)
{
    return (uint32_t)(prng_u64(prng) % n);
}

static inline struct span sample_text(struct arena *arena, struct prng *prng, const char *what)
{
    char *text = arena_printf(arena, "%s-%08x", what, (unsigned)sample_below(prng, UINT32_MAX));
    REQUIRE(text);
    return span_cstr(text);
}

/* Ascending with i. */
static inline struct span sample_name(struct arena *arena, struct prng *prng, const char *what, uint32_t i)
{
    char *text = arena_printf(arena, "%s%06u-%04x", what, i, (unsigned)sample_below(prng, 65536));
    REQUIRE(text);
    return span_cstr(text);
}

static inline struct sha256 sample_hash(struct prng *prng)
{
    uint64_t seed = prng_u64(prng);
    return sha256_of(span_of(&seed, sizeof(seed)));
}

static inline struct span_list sample_texts(struct arena *arena, struct prng *prng, const char *what)
{
    uint32_t count = sample_below(prng, 4);
    struct span *items = ARENA_ARRAY(arena, count, struct span);
    REQUIRE(items);
    for (uint32_t i = 0; i < count; i++)
        items[i] = sample_text(arena, prng, what);
    return (struct span_list){ .items = items, .count = count };
}

#define SAMPLE_ARRAY(arena, n, type) ((type *)sample_must(ARENA_ARRAY((arena), (n), type)))
static inline void *sample_must(void *pointer)
{
    REQUIRE(pointer);
    return pointer;
}

static inline bool sample_bool(struct prng *prng)
{
    return sample_below(prng, 2) == 1;
}

static inline struct price sample_price(struct prng *prng)
{
#define NANO() ((int64_t)(prng_u64(prng) >> (1 + sample_below(prng, 60))))
    return (struct price){ .known = sample_below(prng, PRICE_LONG * 2),
                           .input = NANO(),
                           .output = NANO(),
                           .cache_read = NANO(),
                           .cache_write = NANO(),
                           .reasoning = NANO(),
                           .request = NANO(),
                           .long_above = prng_u64(prng),
                           .long_input = NANO(),
                           .long_output = NANO(),
                           .long_cache_read = NANO() };
#undef NANO
}

static inline struct timeouts sample_timeouts(struct prng *prng)
{
    return (struct timeouts){ .connect_ms = sample_below(prng, 9000),
                              .first_token_ms = sample_below(prng, 9000),
                              .idle_ms = sample_below(prng, 9000),
                              .total_ms = sample_below(prng, 9000),
                              .hold_ms = sample_below(prng, 9000) };
}

static inline struct requirement sample_requirement(struct arena *arena, struct prng *prng)
{
    return (struct requirement){ .regions = sample_texts(arena, prng, "region"),
                                 .has_retention = sample_bool(prng),
                                 .max_retention_days = sample_below(prng, 100),
                                 .no_training = sample_bool(prng) };
}

static inline struct provider sample_provider(struct arena *arena, struct prng *prng, uint32_t i)
{
    uint32_t headers = sample_below(prng, 3);
    struct header_pair *pairs = SAMPLE_ARRAY(arena, headers, struct header_pair);
    for (uint32_t h = 0; h < headers; h++)
        pairs[h] =
            (struct header_pair){ .name = sample_text(arena, prng, "x"), .value = sample_text(arena, prng, "v") };
    return (struct provider){ .name = sample_name(arena, prng, "provider", i),
                              .preset = sample_text(arena, prng, "preset"),
                              .base_url = sample_text(arena, prng, "https://host"),
                              .tls = sample_bool(prng),
                              .host = sample_text(arena, prng, "host"),
                              .port = (uint16_t)prng_u64(prng),
                              .path = sample_text(arena, prng, "/v1"),
                              .auth = (enum auth_scheme)sample_below(prng, 4),
                              .path_style = (enum path_style)sample_below(prng, 2),
                              .query = sample_text(arena, prng, "api-version="),
                              .credentials = sample_texts(arena, prng, "credential"),
                              .discount_ppm = sample_below(prng, 1000001),
                              .data = { .regions = sample_texts(arena, prng, "eu"),
                                        .retention_known = sample_bool(prng),
                                        .retention_days = sample_below(prng, 99),
                                        .trains_known = sample_bool(prng),
                                        .trains = sample_bool(prng) },
                              .stream_usage = sample_bool(prng),
                              .lane = (enum lane_kind)sample_below(prng, 3),
                              .http2 = sample_bool(prng),
                              .proxy = sample_text(arena, prng, "http://proxy"),
                              .probe = (enum probe_how)sample_below(prng, 4),
                              .probe_every_ms = sample_below(prng, 60000),
                              .probe_model = sample_text(arena, prng, "m"),
                              .headers = pairs,
                              .header_count = headers,
                              .forward_headers = sample_texts(arena, prng, "h"),
                              .where = sample_text(arena, prng, "p.yaml:") };
}

static inline struct tier sample_tier(struct arena *arena, struct prng *prng, uint32_t models)
{
    uint32_t count = 1 + sample_below(prng, 4), left = 1000000;
    struct tier_member *members = SAMPLE_ARRAY(arena, count, struct tier_member);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t weight = i + 1 == count ? left : sample_below(prng, left + 1);
        left -= weight;
        members[i] = (struct tier_member){ .model = sample_below(prng, models), .weight_ppm = weight };
    }
    return (struct tier){
        .prefer = (enum prefer)sample_below(prng, 4),
        .objectives = { .cost = sample_below(prng, 9),
                        .ttft = sample_below(prng, 9),
                        .speed = sample_below(prng, 9),
                        .errors = sample_below(prng, 9),
                        .headroom = sample_below(prng, 9) },
        .within = { .ttft_p95_ms = sample_below(prng, 9000),
                    .errors_ppm = sample_below(prng, 1000),
                    .cost_nano_max = sample_below(prng, 1000) },
        .members = members,
        .member_count = count,
    };
}

static inline struct route sample_route(struct arena *arena, struct prng *prng, uint32_t i, uint32_t models)
{
    struct route route = { .name = sample_name(arena, prng, "route", i),
                           .tier_count = 1 + sample_below(prng, 3),
                           .require = sample_requirement(arena, prng),
                           .max_cost_nano = sample_below(prng, 99999),
                           .attempts = 1 + sample_below(prng, ATTEMPTS_MAX),
                           .deadline_ms = sample_below(prng, 99999),
                           .timeouts = sample_timeouts(prng),
                           .mix_input_tokens = sample_below(prng, 5000),
                           .mix_output_tokens = sample_below(prng, 5000),
                           .where = sample_text(arena, prng, "p.yaml:") };
    for (uint32_t t = 0; t < route.tier_count; t++)
        route.tiers[t] = sample_tier(arena, prng, models);
    return route;
}

static inline struct artifact *wire_sample_artifact(struct arena *arena, struct prng *prng)
{
    struct artifact *a = sample_must(ARENA_NEW(arena, struct artifact));
    *a = (struct artifact){ .schema = TABLE_SCHEMA,
                            .policy_version = sample_below(prng, 99),
                            .policy_hash = sample_text(arena, prng, "hash"),
                            .provider_count = 2 + sample_below(prng, 3),
                            .model_count = 2 + sample_below(prng, 6),
                            .route_count = 2 + sample_below(prng, 6),
                            .alias_count = 2 + sample_below(prng, 3),
                            .content = { .share_ppm = sample_below(prng, 1000001),
                                         .bytes = sample_below(prng, CONTENT_BYTES_MAX + 1) } };
    struct span *teams = SAMPLE_ARRAY(arena, 2, struct span);
    teams[0] = sample_name(arena, prng, "team", 0);
    teams[1] = sample_name(arena, prng, "team", 1);
    a->content.teams = (struct span_list){ .items = teams, .count = sample_below(prng, 3) };
    a->providers = SAMPLE_ARRAY(arena, a->provider_count, struct provider);
    a->models = SAMPLE_ARRAY(arena, a->model_count, struct model);
    a->routes = SAMPLE_ARRAY(arena, a->route_count, struct route);
    a->aliases = SAMPLE_ARRAY(arena, a->alias_count, struct alias);
    for (uint32_t i = 0; i < a->provider_count; i++)
        a->providers[i] = sample_provider(arena, prng, i);
    for (uint32_t i = 0; i < a->model_count; i++)
        a->models[i] = (struct model){ .name = sample_name(arena, prng, "provider/model", i),
                                       .provider = sample_below(prng, a->provider_count),
                                       .sends = sample_text(arena, prng, "sends"),
                                       .identity = sample_text(arena, prng, "book/"),
                                       .price = sample_price(prng),
                                       .price_source = (enum price_source)sample_below(prng, 5),
                                       .capabilities = sample_below(prng, 256),
                                       .context_tokens = prng_u64(prng),
                                       .output_tokens_max = prng_u64(prng),
                                       .timeouts = sample_timeouts(prng),
                                       .from_wildcard = sample_bool(prng),
                                       .where = sample_text(arena, prng, "p:") };
    for (uint32_t i = 0; i < a->route_count; i++)
        a->routes[i] = sample_route(arena, prng, i, a->model_count);
    for (uint32_t i = 0; i < a->alias_count; i++)
        a->aliases[i] =
            (struct alias){ .name = sample_name(arena, prng, "alias", i), .target = sample_text(arena, prng, "to") };
    return a;
}

/* Of every second route, so that no two share one. */
static inline struct assignment sample_assignment(struct arena *arena, struct prng *prng, uint32_t i, uint32_t arms)
{
    struct assignment a = { .id = sample_name(arena, prng, "rollout", i),
                            .unit = (enum unit_kind)sample_below(prng, 4),
                            .ranges = SAMPLE_ARRAY(arena, 4, struct bucket_range),
                            .range_count = arms > 1 ? sample_below(prng, 5) : 0 };
    struct span *routes = SAMPLE_ARRAY(arena, 2, struct span);
    for (uint32_t k = 0; k < 2; k++)
        routes[k] = sample_name(arena, prng, "route", 2 * i + k);
    a.routes = (struct span_list){ .items = routes, .count = 2 };
    if (a.unit == UNIT_HEADER)
        a.header = SPAN("x-tenant");
    for (size_t k = 0; k < sizeof a.salt; k++)
        a.salt[k] = (uint8_t)prng_u64(prng);
    for (uint32_t k = 0; k < a.range_count; k++)
        a.ranges[k] = (struct bucket_range){ .arm = 1 + sample_below(prng, arms - 1),
                                             .first = 2500 * k + sample_below(prng, 1000),
                                             .count = 1 + sample_below(prng, 1500) };
    return a;
}

static inline struct head *wire_sample_head(struct arena *arena, struct prng *prng)
{
    struct head *h = sample_must(ARENA_NEW(arena, struct head));
    *h = (struct head){ .epoch = prng_u64(prng),
                        .generation = prng_u64(prng),
                        .made_at_ms = (int64_t)prng_u64(prng),
                        .why = sample_text(arena, prng, "why"),
                        .by = sample_text(arena, prng, "by"),
                        .arms = SAMPLE_ARRAY(arena, 4, struct arm),
                        .arm_count = 1 + sample_below(prng, 4),
                        .assignments = SAMPLE_ARRAY(arena, 3, struct assignment),
                        .assignment_count = sample_below(prng, 4),
                        .shadows = SAMPLE_ARRAY(arena, 2, struct shadow),
                        .shadow_count = sample_below(prng, 3),
                        .overrides = SAMPLE_ARRAY(arena, 3, struct override),
                        .override_count = sample_below(prng, 4) };
    for (uint32_t i = 0; i < h->arm_count; i++)
        h->arms[i] = (struct arm){ .name = sample_name(arena, prng, "arm", i),
                                   .policy_version = sample_below(prng, 99),
                                   .artifact = sample_hash(prng) };
    for (uint32_t i = 0; i < h->assignment_count; i++)
        h->assignments[i] = sample_assignment(arena, prng, i, h->arm_count);
    for (uint32_t i = 0; i < h->shadow_count; i++)
        h->shadows[i] = (struct shadow){ .id = sample_name(arena, prng, "shadow", i),
                                         .arm = sample_below(prng, h->arm_count),
                                         .share_ppm = sample_below(prng, 1000001),
                                         .budget_nano = (int64_t)(prng_u64(prng) >> 1),
                                         .tools = sample_bool(prng) };
    for (uint32_t i = 0; i < h->override_count; i++)
        h->overrides[i] = (struct override){ .kind = (enum override_kind)sample_below(prng, 3),
                                             .target = sample_text(arena, prng, "target"),
                                             .reason = sample_text(arena, prng, "reason"),
                                             .by = sample_text(arena, prng, "by"),
                                             .set_at_ms = (int64_t)prng_u64(prng),
                                             .expires_at_ms = (int64_t)prng_u64(prng) };
    return h;
}

static inline struct evidence *wire_sample_evidence(struct arena *arena, struct prng *prng)
{
    struct evidence *e = sample_must(ARENA_NEW(arena, struct evidence));
    *e = (struct evidence){ .epoch = prng_u64(prng),
                            .seq = prng_u64(prng),
                            .made_at_ms = (int64_t)prng_u64(prng),
                            .expires_at_ms = (int64_t)prng_u64(prng),
                            .book_version = prng_u64(prng),
                            .model_count = 2 + sample_below(prng, 4),
                            .weight_count = 1 + sample_below(prng, 4) };
    e->models = SAMPLE_ARRAY(arena, e->model_count, struct model_evidence);
    e->weights = SAMPLE_ARRAY(arena, e->weight_count, struct tier_weights);
    for (uint32_t i = 0; i < e->model_count; i++)
        e->models[i] = (struct model_evidence){ .name = sample_name(arena, prng, "provider/model", i),
                                                .health = (enum health)sample_below(prng, 3),
                                                .health_why = sample_text(arena, prng, "why"),
                                                .health_since_ms = (int64_t)prng_u64(prng),
                                                .price_source = (enum price_source)sample_below(prng, 5),
                                                .price = sample_price(prng),
                                                .price_stale = sample_bool(prng),
                                                .samples = sample_below(prng, 999),
                                                .ttft_ewma_us = sample_below(prng, 999),
                                                .ttft_p95_us = sample_below(prng, 9999),
                                                .token_gap_us = sample_below(prng, 9999),
                                                .errors_ppm = sample_below(prng, 1000001) };
    for (uint32_t i = 0; i < e->weight_count; i++) {
        struct tier_weights *w = &e->weights[i];
        *w = (struct tier_weights){ .artifact = sample_hash(prng),
                                    .route = sample_text(arena, prng, "route"),
                                    .tier = sample_below(prng, TIERS_MAX),
                                    .frozen = sample_bool(prng),
                                    .weights_ppm = SAMPLE_ARRAY(arena, 2, uint32_t),
                                    .count = 2 };
        w->weights_ppm[0] = sample_below(prng, 1000001);
        w->weights_ppm[1] = 1000000 - w->weights_ppm[0];
    }
    return e;
}

static inline struct teams *wire_sample_teams(struct arena *arena, struct prng *prng)
{
    struct teams *t = sample_must(ARENA_NEW(arena, struct teams));
    *t = (struct teams){ .epoch = prng_u64(prng),
                         .seq = prng_u64(prng),
                         .count = sample_below(prng, 5),
                         .items = SAMPLE_ARRAY(arena, 5, struct team) };
    for (uint32_t i = 0; i < t->count; i++)
        t->items[i] = (struct team){ .name = sample_name(arena, prng, "team", i),
                                     .routes = sample_texts(arena, prng, "route"),
                                     .models = sample_texts(arena, prng, "openai/"),
                                     .require = sample_requirement(arena, prng),
                                     .may = sample_below(prng, 4),
                                     .where = sample_text(arena, prng, "d:") };
    return t;
}

static inline struct key_record *wire_sample_key(struct arena *arena, struct prng *prng)
{
    struct key_record *k = sample_must(ARENA_NEW(arena, struct key_record));
    *k = (struct key_record){ .hash = sample_hash(prng),
                              .id = sample_text(arena, prng, "key_"),
                              .team = sample_text(arena, prng, "team"),
                              .routes = sample_texts(arena, prng, "route"),
                              .created_at_ms = (int64_t)prng_u64(prng),
                              .expires_at_ms = (int64_t)prng_u64(prng),
                              .revoked = sample_bool(prng),
                              .replaced_by = sample_text(arena, prng, "key_"),
                              .tags = SAMPLE_ARRAY(arena, 1, struct tag),
                              .tag_count = sample_below(prng, 2),
                              .hint = SPAN("wxyz") };
    k->tags[0] = (struct tag){ .name = sample_text(arena, prng, "t"), .value = sample_text(arena, prng, "v") };
    return k;
}

static inline struct directory_delta *wire_sample_directory_delta(struct arena *arena, struct prng *prng)
{
    struct directory_delta *d = sample_must(ARENA_NEW(arena, struct directory_delta));
    *d = (struct directory_delta){ .epoch = prng_u64(prng),
                                   .full = sample_bool(prng),
                                   .has_teams = sample_bool(prng),
                                   .key_count = sample_below(prng, 4),
                                   .removed_count = sample_below(prng, 4) };
    d->from_seq = d->full ? 0 : sample_below(prng, 1000);
    d->to_seq = d->from_seq + sample_below(prng, 1000);
    d->more = d->full && sample_bool(prng);
    if (d->has_teams)
        d->teams = *wire_sample_teams(arena, prng);
    d->keys = SAMPLE_ARRAY(arena, d->key_count, struct key_record);
    d->removed = SAMPLE_ARRAY(arena, d->removed_count, struct sha256);
    for (uint32_t i = 0; i < d->key_count; i++)
        d->keys[i] = *wire_sample_key(arena, prng);
    for (uint32_t i = 0; i < d->removed_count; i++)
        d->removed[i] = sample_hash(prng);
    return d;
}

static inline struct table_version sample_version(struct prng *prng)
{
    return (struct table_version){ .epoch = prng_u64(prng),
                                   .generation = prng_u64(prng),
                                   .evidence_seq = prng_u64(prng),
                                   .directory_seq = prng_u64(prng) };
}

static inline struct fetch_request *wire_sample_fetch_request(struct arena *arena, struct prng *prng)
{
    struct fetch_request *m = sample_must(ARENA_NEW(arena, struct fetch_request));
    *m = (struct fetch_request){ .protocol = LINK_PROTOCOL,
                                 .node = sample_text(arena, prng, "node"),
                                 .incarnation = sample_text(arena, prng, "i"),
                                 .version = SPAN("0.1.0"),
                                 .committed = sample_version(prng),
                                 .serving = sample_version(prng),
                                 .workers = sample_below(prng, 64),
                                 .artifacts = SAMPLE_ARRAY(arena, 3, struct sha256),
                                 .artifact_count = sample_below(prng, 4),
                                 .nacks = SAMPLE_ARRAY(arena, 3, struct nack),
                                 .nack_count = sample_below(prng, 4),
                                 .pinned = sample_bool(prng),
                                 .adopt_epoch = prng_u64(prng),
                                 .directory_resync_seq = prng_u64(prng),
                                 .directory_resync_epoch = prng_u64(prng),
                                 .wait_ms = sample_below(prng, 20000),
                                 .clock_ms = sample_below(prng, 1u << 30),
                                 .unresolved_credentials = sample_texts(arena, prng, "credential") };
    if (sample_bool(prng))
        m->directory_cursor = span_of(sample_text(arena, prng, "a cursor of thirty-two bytes......").ptr, SHA256_BYTES);
    for (uint32_t i = 0; i < 3; i++) {
        m->artifacts[i] = sample_hash(prng);
        m->nacks[i] = (struct nack){ .kind = (enum object_kind)(1 + sample_below(prng, 4)),
                                     .epoch = prng_u64(prng),
                                     .seq = prng_u64(prng),
                                     .hash = sample_hash(prng),
                                     .reason = sample_text(arena, prng, "crashed"),
                                     .at_ms = (int64_t)prng_u64(prng) };
    }
    return m;
}

static inline struct fetch_reply *wire_sample_fetch_reply(struct arena *arena, struct prng *prng)
{
    struct fetch_reply *m = sample_must(ARENA_NEW(arena, struct fetch_reply));
    *m = (struct fetch_reply){ .protocol = LINK_PROTOCOL,
                               .error = sample_text(arena, prng, "error"),
                               .objects = SAMPLE_ARRAY(arena, 3, struct object),
                               .object_count = sample_below(prng, 4),
                               .adopted_epoch = prng_u64(prng) };
    for (uint32_t i = 0; i < 3; i++) {
        struct span bytes = sample_text(arena, prng, "bytes");
        m->objects[i] = (struct object){ .kind = (enum object_kind)(1 + sample_below(prng, 4)),
                                         .schema = TABLE_SCHEMA,
                                         .seq = prng_u64(prng),
                                         .hash = sha256_of(bytes),
                                         .bytes = bytes };
    }
    return m;
}

static inline struct evidence_report *wire_sample_evidence_report(struct arena *arena, struct prng *prng)
{
    struct evidence_report *m = sample_must(ARENA_NEW(arena, struct evidence_report));
    *m = (struct evidence_report){ .protocol = LINK_PROTOCOL,
                                   .source = (enum evidence_source)(1 + sample_below(prng, 3)),
                                   .sender = sample_text(arena, prng, "sender"),
                                   .incarnation = sample_text(arena, prng, "i"),
                                   .seq = prng_u64(prng),
                                   .probes = SAMPLE_ARRAY(arena, 1, struct probe_result),
                                   .probe_count = sample_below(prng, 2),
                                   .prices = SAMPLE_ARRAY(arena, 1, struct catalog_entry),
                                   .price_count = sample_below(prng, 2),
                                   .price_removed = sample_texts(arena, prng, "gone"),
                                   .price_origin = sample_text(arena, prng, "https://"),
                                   .price_full = sample_bool(prng),
                                   .price_base = prng_u64(prng),
                                   .price_problem = sample_text(arena, prng, "problem"),
                                   .ships_records = sample_bool(prng),
                                   .records_segment = sample_text(arena, prng, "records"),
                                   .records_from = prng_u64(prng),
                                   .records_to = prng_u64(prng),
                                   .records = sample_text(arena, prng, "line"),
                                   .telemetry = SAMPLE_ARRAY(arena, 1, struct model_telemetry),
                                   .telemetry_count = sample_below(prng, 2) };
    m->probes[0] = (struct probe_result){ .provider = sample_text(arena, prng, "p"),
                                          .model = sample_text(arena, prng, "m"),
                                          .ok = sample_bool(prng),
                                          .why = SPAN("odd\0bytes"),
                                          .latency_us = sample_below(prng, 999),
                                          .at_ms = (int64_t)prng_u64(prng),
                                          .certificate_expires_at_ms = (int64_t)prng_u64(prng) };
    m->prices[0] = (struct catalog_entry){ .name = sample_text(arena, prng, "gpt"),
                                           .price = sample_price(prng),
                                           .context_tokens = prng_u64(prng),
                                           .output_tokens_max = prng_u64(prng),
                                           .capabilities = sample_below(prng, 256),
                                           .capabilities_known = sample_below(prng, 256),
                                           .deprecated_on = SPAN("2026-12-31") };
    struct model_telemetry *t = &m->telemetry[0];
    *t = (struct model_telemetry){ .model = sample_text(arena, prng, "p/m"),
                                   .attempts = prng_u64(prng),
                                   .failures = prng_u64(prng),
                                   .timeouts = prng_u64(prng),
                                   .cancelled = prng_u64(prng),
                                   .input_tokens = prng_u64(prng),
                                   .output_tokens = prng_u64(prng),
                                   .cost_nano = prng_u64(prng),
                                   .ttft_count = prng_u64(prng),
                                   .ttft_sum_us = prng_u64(prng),
                                   .gap_count = prng_u64(prng),
                                   .gap_sum_us = prng_u64(prng),
                                   .ttft_buckets = SAMPLE_ARRAY(arena, 5, uint64_t),
                                   .ttft_bucket_count = sample_below(prng, 6),
                                   .breaker_open = sample_below(prng, 2),
                                   .remaining_ppm = sample_below(prng, 1000002) };
    for (uint32_t i = 0; i < 5; i++)
        t->ttft_buckets[i] = prng_u64(prng);
    return m;
}

static inline struct evidence_reply *wire_sample_evidence_reply(struct arena *arena, struct prng *prng)
{
    struct evidence_reply *m = sample_must(ARENA_NEW(arena, struct evidence_reply));
    *m = (struct evidence_reply){ .protocol = LINK_PROTOCOL,
                                  .error = sample_text(arena, prng, "error"),
                                  .price_base = prng_u64(prng),
                                  .records_segment = sample_text(arena, prng, "records"),
                                  .records_offset = prng_u64(prng),
                                  .targets = SAMPLE_ARRAY(arena, 2, struct probe_target),
                                  .target_count = sample_below(prng, 3) };
    for (uint32_t i = 0; i < 2; i++)
        m->targets[i] = (struct probe_target){ .provider = sample_text(arena, prng, "p"),
                                               .base_url = sample_text(arena, prng, "https://"),
                                               .how = (enum probe_how)sample_below(prng, 4),
                                               .auth = (enum auth_scheme)sample_below(prng, 4),
                                               .path_style = (enum path_style)sample_below(prng, 2),
                                               .query = sample_text(arena, prng, "q"),
                                               .credentials = sample_texts(arena, prng, "c"),
                                               .model = sample_text(arena, prng, "m"),
                                               .every_ms = sample_below(prng, 9999),
                                               .timeout_ms = sample_below(prng, 9999),
                                               .proxy = sample_text(arena, prng, "http://proxy") };
    return m;
}

static inline struct admin_request *wire_sample_admin_request(struct arena *arena, struct prng *prng)
{
    struct admin_request *m = sample_must(ARENA_NEW(arena, struct admin_request));
    *m = (struct admin_request){ .protocol = LINK_PROTOCOL,
                                 .request_id = sample_text(arena, prng, "id"),
                                 .command = SPAN("policy.push"),
                                 .user = sample_text(arena, prng, "user"),
                                 .args = SAMPLE_ARRAY(arena, 2, struct admin_arg),
                                 .arg_count = sample_below(prng, 3),
                                 .dry_run = sample_bool(prng) };
    for (uint32_t i = 0; i < 2; i++)
        m->args[i] = (struct admin_arg){ .name = sample_text(arena, prng, "arg"), .value = SPAN("a\0file") };
    return m;
}

static inline struct admin_reply *wire_sample_admin_reply(struct arena *arena, struct prng *prng)
{
    struct admin_reply *m = sample_must(ARENA_NEW(arena, struct admin_reply));
    *m = (struct admin_reply){ .protocol = LINK_PROTOCOL,
                               .status = (enum admin_status)sample_below(prng, 7),
                               .message = sample_text(arena, prng, "message"),
                               .result = SPAN("{\"ok\":true}") };
    return m;
}
