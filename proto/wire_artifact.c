#include "proto/wire_internal.h"
#include "proto/head.h"
#include "proto/wire.h"
#include "artifact.pb-c.h"

#define PPM 1000000u

/* ---- artifact ---- */

#define P struct timeouts
#define W Wire__Timeouts
static const struct wire_field timeouts_fields[] = {
    U32_(connect_ms), U32_(first_token_ms), U32_(idle_ms), U32_(total_ms), U32_(hold_ms),
};
#undef P
#undef W
static const struct wire_message timeouts_message =
    WIRE_MESSAGE("timeouts", timeouts_fields, struct timeouts, wire__timeouts__descriptor, NULL);

#define P struct data_facts
#define W Wire__DataFacts
static const struct wire_field data_facts_fields[] = {
    TEXTS_(regions, NAMES_MAX), BOOL_(retention_known), U32_(retention_days), BOOL_(trains_known), BOOL_(trains),
};
#undef P
#undef W
static const struct wire_message data_facts_message =
    WIRE_MESSAGE("data", data_facts_fields, struct data_facts, wire__data_facts__descriptor, NULL);

#define P struct header_pair
#define W Wire__HeaderPair
static const struct wire_field header_pair_fields[] = { ID_(name), TEXT_(value) };
#undef P
#undef W
static const struct wire_message header_pair_message =
    WIRE_MESSAGE("header", header_pair_fields, struct header_pair, wire__header_pair__descriptor, NULL);

static const char *provider_check(const void *plain)
{
    const struct provider *p = plain;
    return p->discount_ppm > PPM ? "a discount of more than everything" : NULL;
}

#define P struct provider
#define W Wire__Provider
static const struct wire_field provider_fields[] = {
    ID_(name),
    NAME_(preset),
    TEXT_(base_url),
    BOOL_(tls),
    TEXT_(host),
    U16_(port),
    TEXT_(path),
    ENUM_(auth, AUTH_SCHEME_NONE, AUTH_SCHEME_X_API_KEY),
    ENUM_(path_style, PATH_STYLE_OPENAI, PATH_STYLE_AZURE),
    TEXT_(query),
    TEXTS_(credentials, CREDENTIALS_PER_PROVIDER_MAX),
    U32_(discount_ppm),
    PART_(data, &data_facts_message),
    BOOL_(stream_usage),
    ENUM_(lane, LANE_AUTO, LANE_DIRECT),
    BOOL_(http2),
    TEXT_(proxy),
    ENUM_(probe, PROBE_HOW_MODELS, PROBE_HOW_NONE),
    U32_(probe_every_ms),
    TEXT_(probe_model),
    LIST_(headers, header_count, HEADERS_PER_PROVIDER_MAX, &header_pair_message),
    TEXTS_(forward_headers, HEADERS_PER_PROVIDER_MAX),
    TEXT_(where),
};
#undef P
#undef W
static const struct wire_message provider_message =
    WIRE_MESSAGE("provider", provider_fields, struct provider, wire__provider__descriptor, provider_check);

#define P struct model
#define W Wire__Model
static const struct wire_field model_fields[] = {
    ID_(name),
    U32_(provider),
    TEXT_(sends),
    TEXT_(identity),
    PART_(price, &wire_price),
    ENUM_(price_source, PRICE_SOURCE_NONE, PRICE_SOURCE_BOOK),
    U32_(capabilities),
    U64_(context_tokens),
    U64_(output_tokens_max),
    PART_(timeouts, &timeouts_message),
    BOOL_(from_wildcard),
    TEXT_(where),
};
#undef P
#undef W
static const struct wire_message model_message =
    WIRE_MESSAGE("model", model_fields, struct model, wire__model__descriptor, NULL);

#define P struct tier_member
#define W Wire__TierMember
static const struct wire_field tier_member_fields[] = { U32_(model), U32_(weight_ppm) };
#undef P
#undef W
static const struct wire_message tier_member_message =
    WIRE_MESSAGE("member", tier_member_fields, struct tier_member, wire__tier_member__descriptor, NULL);

#define P struct bounds
#define W Wire__Bounds
static const struct wire_field bounds_fields[] = { U32_(ttft_p95_ms), U32_(errors_ppm), I64_(cost_nano_max),
                                                   TEXT_(where) };
#undef P
#undef W
static const struct wire_message bounds_message =
    WIRE_MESSAGE("within", bounds_fields, struct bounds, wire__bounds__descriptor, NULL);

#define P struct objective_weights
#define W Wire__ObjectiveWeights
static const struct wire_field objective_fields[] = {
    U32_(cost), U32_(ttft), U32_(speed), U32_(errors), U32_(headroom),
};
#undef P
#undef W
static const struct wire_message objectives_message =
    WIRE_MESSAGE("objectives", objective_fields, struct objective_weights, wire__objective_weights__descriptor, NULL);

static const char *tier_check(const void *plain)
{
    const struct tier *tier = plain;
    uint64_t sum = 0;
    if (tier->member_count == 0)
        return "no members";
    for (uint32_t i = 0; i < tier->member_count; i++)
        sum += tier->members[i].weight_ppm;
    return sum == PPM ? NULL : "weights do not sum to 1,000,000";
}

#define P struct tier
#define W Wire__Tier
static const struct wire_field tier_fields[] = {
    ENUM_(prefer, PREFER_WEIGHTS, PREFER_BALANCED),
    PART_(objectives, &objectives_message),
    PART_(within, &bounds_message),
    LIST_(members, member_count, TIER_MEMBERS_MAX, &tier_member_message),
    TEXT_(where),
};
#undef P
#undef W
static const struct wire_message tier_message =
    WIRE_MESSAGE("tier", tier_fields, struct tier, wire__tier__descriptor, tier_check);

static const char *route_check(const void *plain)
{
    const struct route *route = plain;
    if (route->tier_count == 0)
        return "no tiers";
    if (route->attempts < 1 || route->attempts > ATTEMPTS_MAX)
        return "attempts out of range";
    return route->max_cost_nano < 0 ? "negative cost ceiling" : NULL;
}

#define P struct route
#define W Wire__Route
static const struct wire_field route_fields[] = {
    ID_(name),
    INLINE_(tiers, tier_count, TIERS_MAX, &tier_message),
    PART_(require, &wire_requirement),
    I64_(max_cost_nano),
    U32_(attempts),
    U32_(deadline_ms),
    PART_(timeouts, &timeouts_message),
    U32_(mix_input_tokens),
    U32_(mix_output_tokens),
    TEXT_(where),
    TEXT_(max_cost_where),
};
#undef P
#undef W
static const struct wire_message route_message =
    WIRE_MESSAGE("route", route_fields, struct route, wire__route__descriptor, route_check);

#define P struct alias
#define W Wire__Alias
static const struct wire_field alias_fields[] = { ID_(name), ID_(target) };
#undef P
#undef W
static const struct wire_message alias_message =
    WIRE_MESSAGE("alias", alias_fields, struct alias, wire__alias__descriptor, NULL);

static bool sorted(const struct span_list *names)
{
    return wire_ascending(names->items, names->count, sizeof *names->items, 0);
}

static const char *content_check(const void *plain)
{
    const struct recorded_content *c = plain;
    if (c->share_ppm > PPM)
        return "a share of more than everything";
    if (c->bytes > CONTENT_BYTES_MAX)
        return "more bytes than a record holds";
    return sorted(&c->teams) ? NULL : "teams are not sorted or not unique";
}

#define P struct recorded_content
#define W Wire__RecordedContent
static const struct wire_field content_fields[] = { TEXTS_(teams, CONTENT_TEAMS_MAX), U32_(share_ppm), U32_(bytes) };
#undef P
#undef W
static const struct wire_message content_message =
    WIRE_MESSAGE("content", content_fields, struct recorded_content, wire__recorded_content__descriptor, content_check);

static const char *routes_in_range(const struct artifact *a)
{
    for (uint32_t r = 0; r < a->route_count; r++)
        for (uint32_t t = 0; t < a->routes[r].tier_count; t++)
            for (uint32_t m = 0; m < a->routes[r].tiers[t].member_count; m++)
                if (a->routes[r].tiers[t].members[m].model >= a->model_count)
                    return "a tier's member names no model";
    return NULL;
}

static const char *artifact_check(const void *plain)
{
    const struct artifact *a = plain;
    for (uint32_t i = 0; i < a->model_count; i++)
        if (a->models[i].provider >= a->provider_count)
            return "a model names no provider";
    if (!WIRE_ASCENDING(a->models, a->model_count, struct model, name))
        return "models are not sorted or not unique";
    if (!WIRE_ASCENDING(a->routes, a->route_count, struct route, name))
        return "routes are not sorted or not unique";
    if (!WIRE_ASCENDING(a->aliases, a->alias_count, struct alias, name))
        return "aliases are not sorted or not unique";
    return routes_in_range(a);
}

#define P struct artifact
#define W Wire__Artifact
static const struct wire_field artifact_fields[] = {
    U32_(schema),
    U64_(requires),
    U32_(policy_version),
    TEXT_(policy_hash),
    LIST_(providers, provider_count, PROVIDERS_MAX, &provider_message),
    LIST_(models, model_count, MODELS_MAX, &model_message),
    LIST_(routes, route_count, ROUTES_MAX, &route_message),
    LIST_(aliases, alias_count, ROUTES_MAX, &alias_message),
    PART_(content, &content_message),
};
#undef P
#undef W
const struct wire_message wire_artifact =
    WIRE_MESSAGE("artifact", artifact_fields, struct artifact, wire__artifact__descriptor, artifact_check);

static const struct wire_limits artifact_limits = {
    .bytes_max = ARTIFACT_BYTES_MAX,
    .version_least = TABLE_SCHEMA_LEAST,
    .version = TABLE_SCHEMA,
    .version_at = offsetof(Wire__Artifact, schema),
    .requires_at = offsetof(Wire__Artifact, requires),
};

enum err wire_encode_artifact(const struct artifact *artifact, struct buf *out)
{
    return wire_encode(&wire_artifact, &artifact_limits, artifact, out);
}

enum err wire_decode_artifact(struct arena *arena, struct span bytes, struct artifact **ret, const char **ret_why)
{
    void *plain;
    enum err err = wire_decode(&wire_artifact, &artifact_limits, arena, bytes, &plain, ret_why);
    if (err)
        return err;
    *ret = plain;
    (*ret)->hash = sha256_of(bytes);
    return OK;
}

/* ---- head ---- */

#define P struct arm
#define W Wire__Arm
static const struct wire_field arm_fields[] = { ID_(name), U32_(policy_version), HASH_(artifact) };
#undef P
#undef W
static const struct wire_message arm_message = WIRE_MESSAGE("arm", arm_fields, struct arm, wire__arm__descriptor, NULL);

#define P struct override
#define W Wire__Override
static const struct wire_field override_fields[] = {
    ENUM_(kind, OVERRIDE_DRAIN, OVERRIDE_FREEZE),
    ID_(target),
    BYTES_(reason),
    BYTES_(by),
    I64_(set_at_ms),
    I64_(expires_at_ms),
};
#undef P
#undef W
static const struct wire_message override_message =
    WIRE_MESSAGE("override", override_fields, struct override, wire__override__descriptor, NULL);

#define P struct bucket_range
#define W Wire__BucketRange
static const struct wire_field range_fields[] = { U32_(arm), U32_(first), U32_(count) };
#undef P
#undef W
static const struct wire_message range_message =
    WIRE_MESSAGE("range", range_fields, struct bucket_range, wire__bucket_range__descriptor, NULL);

static bool is_header_name(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!((s.ptr[i] >= 'a' && s.ptr[i] <= 'z') || (s.ptr[i] >= '0' && s.ptr[i] <= '9') || s.ptr[i] == '-' ||
              s.ptr[i] == '_'))
            return false;
    return s.len > 0;
}

static const char *assignment_check(const void *plain)
{
    const struct assignment *a = plain;
    uint32_t end = 0;
    for (uint32_t i = 0; i < a->range_count; i++) {
        const struct bucket_range *range = &a->ranges[i];
        if (range->first >= ASSIGNMENT_BUCKETS || range->count == 0 || range->count > ASSIGNMENT_BUCKETS - range->first)
            return "a range outside the buckets";
        if (range->first < end)
            return "ranges are not sorted or overlap";
        end = range->first + range->count;
    }
    if (!sorted(&a->routes))
        return "routes are not sorted or not unique";
    if (a->unit == UNIT_HEADER)
        return is_header_name(a->header) ? NULL : "a unit by header needs the name of one, in lower case";
    return a->header.len > 0 ? "a header that no unit is taken from" : NULL;
}

#define P struct assignment
#define W Wire__Assignment
static const struct wire_field assignment_fields[] = {
    ID_(id),
    SALT_(salt),
    ENUM_(unit, UNIT_KEY, UNIT_REQUEST),
    NAME_(header),
    TEXTS_(routes, ASSIGNED_ROUTES_MAX),
    LIST_(ranges, range_count, ASSIGNMENT_RANGES_MAX, &range_message),
};
#undef P
#undef W
static const struct wire_message assignment_message =
    WIRE_MESSAGE("assignment", assignment_fields, struct assignment, wire__assignment__descriptor, assignment_check);

static const char *shadow_check(const void *plain)
{
    const struct shadow *s = plain;
    if (s->share_ppm > PPM)
        return "a share of more than everything";
    if (!sorted(&s->routes))
        return "routes are not sorted or not unique";
    return s->budget_nano < 0 ? "a negative budget" : NULL;
}

#define P struct shadow
#define W Wire__Shadow
static const struct wire_field shadow_fields[] = {
    ID_(id), U32_(arm), TEXTS_(routes, ASSIGNED_ROUTES_MAX), U32_(share_ppm), I64_(budget_nano), BOOL_(tools),
};
#undef P
#undef W
static const struct wire_message shadow_message =
    WIRE_MESSAGE("shadow", shadow_fields, struct shadow, wire__shadow__descriptor, shadow_check);

static const char *check_ids(const struct head *head)
{
    for (uint32_t i = 0; i < head->arm_count; i++)
        for (uint32_t k = 0; k < i; k++)
            if (span_eq(head->arms[i].name, head->arms[k].name))
                return "two arms of one name";
    for (uint32_t i = 0; i < head->assignment_count + head->shadow_count; i++)
        for (uint32_t k = 0; k < i; k++) {
            const uint32_t n = head->assignment_count;
            const struct span a = i < n ? head->assignments[i].id : head->shadows[i - n].id;
            const struct span b = k < n ? head->assignments[k].id : head->shadows[k - n].id;
            if (span_eq(a, b))
                return "two assignments or shadows of one id";
        }
    return NULL;
}

static const char *check_routes(const struct head *head)
{
    for (uint32_t i = 0; i < head->assignment_count; i++) {
        const struct span_list *routes = &head->assignments[i].routes;
        if (routes->count == 0 && head->assignment_count > 1)
            return "an assignment of all routes is not the only one";
        for (uint32_t other = 0; other < i; other++)
            for (uint32_t r = 0; r < routes->count; r++)
                if (head_lists(&head->assignments[other].routes, routes->items[r]))
                    return "a route in two assignments";
    }
    return NULL;
}

static bool needs_feature(const struct head *head)
{
    return head->arm_count > 1 || head->assignment_count > 0 || head->shadow_count > 0;
}

static const char *head_check(const void *plain)
{
    const struct head *head = plain;
    if (needs_feature(head) && !(head->requires & FEATURE_ARMS))
        return "arms, assignments or shadows without the feature that they need";
    for (uint32_t i = 0; i < head->assignment_count; i++)
        for (uint32_t k = 0; k < head->assignments[i].range_count; k++)
            if (head->assignments[i].ranges[k].arm == 0 || head->assignments[i].ranges[k].arm >= head->arm_count)
                return "an assignment's range names no arm that may have one";
    for (uint32_t i = 0; i < head->shadow_count; i++)
        if (head->shadows[i].arm >= head->arm_count)
            return "a shadow names no arm";
    const char *problem = check_ids(head);
    return problem ? problem : check_routes(head);
}

#define P struct head
#define W Wire__Head
static const struct wire_field head_fields[] = {
    U64_(requires),
    U64_(epoch),
    U64_(generation),
    I64_(made_at_ms),
    BYTES_(why),
    BYTES_(by),
    LIST_(arms, arm_count, ARMS_MAX, &arm_message),
    LIST_(assignments, assignment_count, ASSIGNMENTS_MAX, &assignment_message),
    LIST_(shadows, shadow_count, SHADOWS_MAX, &shadow_message),
    LIST_(overrides, override_count, OVERRIDES_MAX, &override_message),
};
#undef P
#undef W
const struct wire_message wire_head =
    WIRE_MESSAGE("head", head_fields, struct head, wire__head__descriptor, head_check);

static const struct wire_limits head_limits = {
    .bytes_max = HEAD_BYTES_MAX,
    .version_least = TABLE_SCHEMA_LEAST,
    .version = TABLE_SCHEMA,
    .version_at = offsetof(Wire__Head, schema),
    .requires_at = offsetof(Wire__Head, requires),
    .stamp = true,
};

enum err wire_encode_head(const struct head *head, struct buf *out)
{
    struct head stamped = *head;
    stamped.requires = (head->requires & ~FEATURE_ARMS) | (needs_feature(head) ? FEATURE_ARMS : 0);
    return wire_encode(&wire_head, &head_limits, &stamped, out);
}

enum err wire_decode_head(struct arena *arena, struct span bytes, struct head **ret, const char **ret_why)
{
    void *plain;
    enum err err = wire_decode(&wire_head, &head_limits, arena, bytes, &plain, ret_why);
    if (err == OK)
        *ret = plain;
    return err;
}
