/* tables.h - what a request obeys, as plain structs: artifact, head, evidence, directory. What both planes must agree
 * on.
 *
 * All spans are followed by a NUL and live in the arena that the object was decoded into or compiled in; arrays
 * likewise. Objects are immutable once made. All-zero is the valid empty object. Money is in nano-dollars; prices in
 * nano-dollars per million tokens; shares in parts per million (ppm); times in milliseconds since 1970 (…_at_ms) or
 * durations (…_ms). */
#pragma once
#include "common/base.h"
#include "common/digest.h"
#include "common/span.h"
#include "proto/limits.h"

struct span_list {
    const struct span *items;
    uint32_t count;
};

/* ---- money ---- */

/* A price that is absent is not zero: look at `known`. Absent cache_read, cache_write and reasoning fall back to input,
 * input and output. */
enum price_part {
    PRICE_INPUT = 1u << 0,
    PRICE_OUTPUT = 1u << 1,
    PRICE_CACHE_READ = 1u << 2,
    PRICE_CACHE_WRITE = 1u << 3,
    PRICE_REASONING = 1u << 4,
    PRICE_REQUEST = 1u << 5, /* nano-dollars per call */
    PRICE_LONG = 1u << 6,    /* the long-context tier is there */
};
struct price {
    uint32_t known;                                            /* enum price_part bits */
    int64_t input, output, cache_read, cache_write, reasoning; /* nano-dollars per million tokens */
    int64_t request;                                           /* nano-dollars per call */
    /* A prompt of more than long_above tokens is billed wholly at these. */
    uint64_t long_above;
    int64_t long_input, long_output, long_cache_read;
};
enum price_source { PRICE_SOURCE_NONE, PRICE_SOURCE_POLICY, PRICE_SOURCE_SET, PRICE_SOURCE_FEED, PRICE_SOURCE_BOOK };

/* ---- artifact: one compiled policy version ---- */

enum auth_scheme {
    AUTH_SCHEME_NONE,    /* local servers */
    AUTH_SCHEME_BEARER,  /* Authorization: Bearer */
    AUTH_SCHEME_API_KEY, /* api-key: (Azure) */
    AUTH_SCHEME_X_API_KEY
};
enum path_style {
    PATH_STYLE_OPENAI, /* base_url + /chat/completions; base_url ends in /v1 where the provider has it */
    PATH_STYLE_AZURE   /* base_url + /openai/deployments/{sends}/chat/completions?api-version=... */
};
enum lane_kind { LANE_AUTO, LANE_CURL, LANE_DIRECT };
enum probe_how { PROBE_HOW_MODELS, PROBE_HOW_CONNECT, PROBE_HOW_COMPLETION, PROBE_HOW_NONE };

struct timeouts { /* 0: not set here; the nearer one wins (route, model, provider, defaults); in a model all but total
                     are set */
    uint32_t connect_ms;
    uint32_t first_token_ms;
    uint32_t idle_ms;
    uint32_t total_ms; /* 0: off */
    uint32_t hold_ms;  /* how long a stream's client waits for content before headers and comments go out */
};
struct data_facts {
    struct span_list regions;
    bool retention_known;
    uint32_t retention_days;
    bool trains_known;
    bool trains;
};
struct header_pair {
    struct span name, value;
};
struct provider {
    struct span name;
    struct span preset;   /* "" without one */
    struct span base_url; /* http(s)://host[:port][/path], no trailing slash */
    bool tls;
    struct span host; /* lower case, without brackets */
    uint16_t port;
    struct span path; /* "/v1" or "" */
    enum auth_scheme auth;
    enum path_style path_style;
    struct span query; /* "api-version=2024-10-21" or "" */
    struct span_list credentials;
    uint32_t discount_ppm;
    struct data_facts data;
    bool stream_usage; /* takes stream_options.include_usage */
    enum lane_kind lane;
    bool http2;
    struct span proxy; /* "" or http://host:port */
    enum probe_how probe;
    uint32_t probe_every_ms;
    struct span probe_model;     /* for PROBE_HOW_COMPLETION: what is sent as model */
    struct header_pair *headers; /* added to each request upstream */
    uint32_t header_count;
    struct span_list forward_headers; /* client headers that go up besides the fixed allow-list; lower case */
    struct span where;                /* "policy.yaml:12" */
};

enum capability {
    CAP_CHAT = 1u << 0,
    CAP_COMPLETIONS = 1u << 1,
    CAP_EMBEDDINGS = 1u << 2,
    CAP_TOOLS = 1u << 3,
    CAP_IMAGES = 1u << 4,
    CAP_JSON = 1u << 5, /* response_format */
    CAP_AUDIO = 1u << 6,
    CAP_STREAM = 1u << 7,
};
struct model {
    struct span name;     /* "azure-we/gpt-4o" */
    uint32_t provider;    /* index */
    struct span sends;    /* upstream's name */
    struct span identity; /* entry in the price book ("azure/gpt-4o-2024-08-06"); "" when priced by the policy */
    struct price price;   /* always known; the book's at compile time unless price_source is POLICY */
    enum price_source price_source;
    uint32_t capabilities;   /* what it can; all that is not known to be missing */
    uint64_t context_tokens; /* 0: unknown */
    uint64_t output_tokens_max;
    struct timeouts timeouts; /* complete */
    bool from_wildcard;
    struct span where;
};

enum prefer { PREFER_WEIGHTS /* hand-set */, PREFER_CHEAPEST, PREFER_FASTEST, PREFER_BALANCED };
struct tier_member {
    uint32_t model; /* index */
    uint32_t
        weight_ppm; /* policy weight: hand-set, or what the policy alone says of a scored list; sums to 1,000,000 */
};
struct bounds { /* 0: no bound */
    uint32_t ttft_p95_ms;
    uint32_t errors_ppm;
    int64_t cost_nano_max; /* of the usual mix, per request */
    struct span where;
};
struct objective_weights { /* relative, for scored tiers; set from `prefer` or given */
    uint32_t cost, ttft, speed, errors, headroom;
};
struct tier {
    enum prefer prefer;
    struct objective_weights objectives;
    struct bounds within;
    struct tier_member *members;
    uint32_t member_count;
    struct span where;
};
struct requirement {          /* what a route or a team demands of a model's data facts */
    struct span_list regions; /* any of these; empty: any */
    bool has_retention;
    uint32_t max_retention_days;
    bool no_training;
    struct span where; /* "" when nothing is required */
};
struct route {
    struct span name;
    struct tier tiers[TIERS_MAX];
    uint32_t tier_count;
    struct requirement require;
    int64_t max_cost_nano;                        /* 0: none; a dearer estimate is refused */
    uint32_t attempts;                            /* 1..ATTEMPTS_MAX */
    uint32_t deadline_ms;                         /* to first content, over all attempts; 0: none */
    struct timeouts timeouts;                     /* 0 = as the model says */
    uint32_t mix_input_tokens, mix_output_tokens; /* usual token mix for scoring; from policy, else defaults */
    struct span where, max_cost_where;
};
struct alias {
    struct span name;
    struct span target; /* a route or provider/model, checked at compile time */
};
/* Whose prompts and answers the records keep, besides what decisions need. Nobody's, unless a policy says so. */
struct recorded_content {
    struct span_list teams; /* sorted; empty: nobody's */
    uint32_t share_ppm;     /* of their requests */
    uint32_t bytes;         /* of the prompt, and of the answer; CONTENT_BYTES_MAX */
};
struct artifact {
    uint32_t schema;
    uint64_t requires;       /* feature bits that a node must know */
    struct sha256 hash;      /* of the encoded bytes; set by wire on encode and decode, not encoded */
    uint32_t policy_version; /* 0 until pushed: not part of the content hash of a policy, but of the artifact */
    struct span policy_hash; /* hex; of the normalised source */
    struct provider *providers;
    uint32_t provider_count;
    struct model *models; /* sorted by name */
    uint32_t model_count;
    struct route *routes; /* sorted by name */
    uint32_t route_count;
    struct alias *aliases; /* sorted by name */
    uint32_t alias_count;
    struct recorded_content content;
};

/* ---- head: which artifacts are live, and what operators decided ---- */

#define ASSIGNMENT_BUCKETS    10000u
#define ASSIGNMENT_SALT_BYTES 16u
struct arm {          /* arms[0] is what everybody obeys whom no assignment sends elsewhere; names are unique */
    struct span name; /* "stable", "canary", ... */
    uint32_t policy_version;
    struct sha256 artifact; /* two arms may share one */
};
/* What is kept constant: everything of one unit obeys one arm. USER and HEADER fall back to the key where a request
 * has none. */
enum unit_kind { UNIT_KEY, UNIT_USER, UNIT_HEADER, UNIT_REQUEST };
struct bucket_range {
    uint32_t arm;          /* index; never 0: what is in no range is arm 0's */
    uint32_t first, count; /* of ASSIGNMENT_BUCKETS; count is never 0 */
};
/* Which units obey which arm. Growing an arm extends its ranges into buckets that were arm 0's, so nobody moves back.
 */
struct assignment {
    struct span id; /* "rollout-7": in records, metrics and headers; unique in the head */
    uint8_t salt[ASSIGNMENT_SALT_BYTES];
    enum unit_kind unit;
    struct span header;          /* lower case; set for UNIT_HEADER only */
    struct span_list routes;     /* sorted; empty: all, and then it is the only one; else each in one of them at most */
    struct bucket_range *ranges; /* sorted by first, disjoint */
    uint32_t range_count;
};
/* A share of requests is sent again under another arm; the answers are discarded. */
struct shadow {
    struct span id;          /* unique in the head, assignments' ids included */
    uint32_t arm;            /* index; 0 is allowed: what noise looks like */
    struct span_list routes; /* sorted; empty: all */
    uint32_t share_ppm;
    int64_t budget_nano; /* per node and id; spent: the shadow ends there */
    bool tools;          /* requests with tools, too */
};
enum override_kind { OVERRIDE_DRAIN, OVERRIDE_BLOCK, OVERRIDE_FREEZE };
struct override {
    enum override_kind kind;
    struct span target; /* provider, provider/model, or (freeze) a route */
    struct span reason;
    struct span by;
    int64_t set_at_ms;
    int64_t expires_at_ms; /* 0: until lifted */
};
struct head {
    uint64_t epoch;      /* rises at restore */
    uint64_t generation; /* rises with every head */
    uint64_t requires;
    int64_t made_at_ms;
    struct span why; /* "push v3", "rollback v3 -> v2", "drain openai" */
    struct span by;
    struct arm *arms;
    uint32_t arm_count; /* 0: no policy has been pushed yet; ARMS_MAX */
    struct assignment *assignments;
    uint32_t assignment_count; /* ASSIGNMENTS_MAX; 0: everybody obeys arm 0 */
    struct shadow *shadows;
    uint32_t shadow_count; /* SHADOWS_MAX */
    struct override *overrides;
    uint32_t override_count;
};

/* ---- evidence ---- */

enum health { HEALTH_UNKNOWN, HEALTH_UP, HEALTH_DOWN };
struct model_evidence {
    struct span name; /* provider/model */
    enum health health;
    struct span health_why;
    int64_t health_since_ms;
    enum price_source price_source; /* NONE: use the artifact's */
    struct price price;
    bool price_stale;
    /* Measured over all nodes; samples 0: nothing known. */
    uint32_t samples;
    uint32_t ttft_ewma_us, ttft_p95_us;
    uint32_t token_gap_us; /* inter-token latency, EWMA */
    uint32_t errors_ppm;
};
struct tier_weights {
    struct sha256 artifact;
    struct span route;
    uint32_t tier;
    bool frozen;
    uint32_t *weights_ppm; /* aligned with the tier's members; sums to 1,000,000 */
    uint32_t count;
};
struct evidence {
    uint64_t epoch;
    uint64_t seq;
    int64_t made_at_ms;
    int64_t expires_at_ms;
    uint64_t book_version;         /* of the price book, into each record */
    struct model_evidence *models; /* sorted by name */
    uint32_t model_count;
    struct tier_weights *weights;
    uint32_t weight_count;
};

/* ---- directory: live, never rolled back ---- */

enum team_may {                                /* bits */
                TEAM_MAY_CHOOSE_ARM = 1u << 0, /* by the header x-fairlead-arm */
                TEAM_MAY_EXPLAIN = 1u << 1,    /* by the header x-fairlead-explain */
};
struct team {
    struct span name;
    struct span_list routes; /* names or globs; empty: none */
    struct span_list models; /* "provider/model" globs reachable directly; empty: none */
    struct requirement require;
    uint32_t may; /* enum team_may bits */
    struct span where;
};
struct teams {
    uint64_t epoch;
    uint64_t seq;       /* directory sequence at which this was current */
    struct team *items; /* sorted by name */
    uint32_t count;
};
struct tag {
    struct span name, value;
};
struct key_record {
    struct sha256 hash; /* of the whole key text */
    struct span id;     /* "key_..." stable, printable */
    struct span team;
    struct span_list routes; /* narrows the team's; empty: all of the team's */
    int64_t created_at_ms;
    int64_t expires_at_ms; /* 0: never */
    bool revoked;
    struct span replaced_by; /* id, while a rotation overlaps; "" otherwise */
    struct tag *tags;
    uint32_t tag_count;
    struct span hint; /* last four characters, for people */
};
struct directory_delta {
    uint64_t epoch;
    uint64_t from_seq; /* applies only to a directory at exactly this sequence; 0 with full */
    uint64_t to_seq;
    bool full;      /* replaces everything; may come in pages */
    bool more;      /* another page follows (full only); nothing is visible before the last */
    bool has_teams; /* teams replaced wholly by this list */
    struct teams teams;
    struct key_record *keys; /* put */
    uint32_t key_count;
    struct sha256 *removed; /* deleted */
    uint32_t removed_count;
};

/* What is current where: the tuple's coordinates. */
struct table_version {
    uint64_t epoch;
    uint64_t generation;
    uint64_t evidence_seq;
    uint64_t directory_seq;
};
