/* links.h - the messages on the four links, as plain structs. Encoded and decoded by wire; carried by channel.
 *
 * fetch    (node -> control plane): long poll for tables, and what the node has committed and serves.
 * evidence (prober, pricefeed, node -> control plane): probe results, prices, telemetry.
 * admin    (CLI -> control plane): one command, one JSON result.
 * All are request/reply; a mutation carries a request id that is stored with its result, so that a repeat changes
 * nothing. */
#pragma once
#include "proto/tables.h"

#define LINK_PROTOCOL 1u

enum object_kind { OBJECT_HEAD = 1, OBJECT_ARTIFACT, OBJECT_EVIDENCE, OBJECT_DIRECTORY };

/* One object as it travels and as it is stored: bytes with their coordinates and their hash. */
struct object {
    enum object_kind kind;
    uint32_t schema;
    uint64_t seq; /* generation, evidence sequence or directory sequence; 0 for artifacts */
    struct sha256 hash;
    struct span bytes;
};

struct nack {
    enum object_kind kind;
    uint64_t epoch, seq;
    struct sha256 hash;
    struct span reason; /* "crashed", "corrupt", "unsupported: ..." */
    int64_t at_ms;
};

struct fetch_request {
    uint32_t protocol;
    struct span node;        /* its name */
    struct span incarnation; /* of the master process */
    struct span version;
    struct table_version committed;
    struct table_version serving; /* minimum over workers */
    uint32_t workers;
    struct sha256 *artifacts; /* those the node holds */
    uint32_t artifact_count;
    struct nack *nacks; /* the present ones */
    uint32_t nack_count;
    bool pinned;                     /* nodes pin --local: told, not followed */
    uint64_t adopt_epoch;            /* epoch that the node accepts; another one in the reply is NACKed until adopted */
    struct span directory_cursor;    /* continues a paged resync: last key hash seen (32 bytes), or empty */
    uint64_t directory_resync_seq;   /* sequence of the resync in progress, 0 without one */
    uint64_t directory_resync_epoch; /* and its epoch: a cursor of another one is not followed */
    uint32_t wait_ms;                /* answer within this time, with nothing if there is nothing */
    int64_t clock_ms;                /* the node's wall clock as it asks; 0: not told */
    struct span_list unresolved_credentials; /* names; those models are excluded on this node and shown */
};
struct fetch_reply {
    uint32_t protocol;
    struct span error;      /* "" or why nothing can be given */
    struct object *objects; /* artifacts first, then head; evidence; directory (a directory_delta) */
    uint32_t object_count;
    uint64_t adopted_epoch; /* nodes adopt: the epoch an operator allowed this node to take; 0 none */
};

/* -- evidence -- */
struct probe_result {
    struct span provider;
    struct span model; /* "" when the probe speaks for the provider */
    bool ok;
    struct span why; /* "connect refused", "401: credential", ... */
    uint32_t latency_us;
    int64_t at_ms;
    int64_t certificate_expires_at_ms; /* 0 unknown */
};
struct probe_target {
    struct span provider;
    struct span base_url;
    enum probe_how how;
    enum auth_scheme auth;
    enum path_style path_style;
    struct span query;
    struct span_list credentials;
    struct span model; /* for completion: what is sent */
    uint32_t every_ms;
    uint32_t timeout_ms;
    struct span proxy; /* "" or http://host:port, as requests go */
};
struct catalog_entry {
    struct span name; /* catalog's own name, normalised by the rule in controlplane/evidence/catalog */
    struct price price;
    uint64_t context_tokens, output_tokens_max;
    uint32_t capabilities;
    uint32_t capabilities_known; /* mask: which bits of capabilities are known */
    struct span deprecated_on;   /* "2026-12-31" or "" */
};
/* Cumulative since the incarnation began: a lost or repeated message changes nothing. */
struct model_telemetry {
    struct span model; /* provider/model */
    uint64_t attempts, failures, timeouts, cancelled;
    uint64_t input_tokens, output_tokens, cost_nano;
    uint64_t ttft_count, ttft_sum_us;
    uint64_t gap_count, gap_sum_us; /* inter-token */
    uint64_t *ttft_buckets;         /* HIST_BUCKETS of common/hist, or NULL */
    uint32_t ttft_bucket_count;
    uint32_t breaker_open;  /* 1 while open on this node */
    uint32_t remaining_ppm; /* least of the rate-limit headers' remaining shares; 1000001: unknown */
};
enum evidence_source { EVIDENCE_FROM_PROBER = 1, EVIDENCE_FROM_PRICEFEED, EVIDENCE_FROM_NODE };
struct evidence_report {
    uint32_t protocol;
    enum evidence_source source;
    struct span sender; /* node or program name */
    struct span incarnation;
    uint64_t seq; /* rises by one per report of this incarnation */
    struct probe_result *probes;
    uint32_t probe_count;
    struct catalog_entry *prices; /* only what changed since book_base */
    uint32_t price_count;
    struct span_list price_removed;
    struct span price_origin;  /* file or URL */
    uint64_t worker_crashes;   /* of a node: since the incarnation began */
    bool price_full;           /* this report begins a whole catalog: what is not named is gone */
    uint64_t price_base;       /* feed's book version that the changes apply to */
    struct span price_problem; /* "" or why the feed cannot use its source now: shown, changes nothing */
    struct model_telemetry *telemetry;
    uint32_t telemetry_count;
    /* A node's records, in reports of their own: nothing else in such a one is looked at, seq does not count, and what
     * was taken follows from the offsets alone. Nothing in it: the node asks where it stands. */
    bool ships_records;
    struct span records_segment; /* name of a file of the node's */
    uint64_t records_from, records_to;
    struct span records; /* whole lines, RECORDS_BATCH_BYTES_MAX at most */
};
struct evidence_reply {
    uint32_t protocol;
    struct span error;            /* "" when taken */
    uint64_t price_base;          /* version now held; 0: send everything */
    struct probe_target *targets; /* to a prober: what to probe from now on */
    uint32_t target_count;
    struct span records_segment; /* to a node that ships: where its next batch has to begin; "": with its oldest */
    uint64_t records_offset;
};

/* -- admin -- */
struct admin_arg {
    struct span name, value; /* value may be a whole file */
};
struct admin_request {
    uint32_t protocol;
    struct span request_id; /* random; the same id is executed once */
    struct span command;    /* "policy.push" */
    struct span user;       /* who asks, for people; the role comes from the link */
    struct admin_arg *args;
    uint32_t arg_count;
    bool dry_run;
};
enum admin_status {
    ADMIN_OK,
    ADMIN_INVALID,
    ADMIN_NOT_FOUND,
    ADMIN_CONFLICT,
    ADMIN_DENIED,
    ADMIN_UNAVAILABLE,
    ADMIN_INTERNAL
};
struct admin_reply {
    uint32_t protocol;
    enum admin_status status;
    struct span message; /* one line for people; what is wrong, where, what to do */
    struct span result;  /* JSON */
};
