#include "proto/wire_internal.h"
#include "proto/wire.h"
#include "links.pb-c.h"

/* ---- fetch ---- */

#define P struct table_version
#define W Wire__TableVersion
static const struct wire_field version_fields[] = { U64_(epoch), U64_(generation), U64_(evidence_seq),
                                                    U64_(directory_seq) };
#undef P
#undef W
static const struct wire_message version_message =
    WIRE_MESSAGE("version", version_fields, struct table_version, wire__table_version__descriptor, NULL);

#define P struct object
#define W Wire__Object
static const struct wire_field object_fields[] = {
    ENUM_(kind, OBJECT_HEAD, OBJECT_DIRECTORY), U32_(schema), U64_(seq), HASH_(hash), BYTES_(bytes),
};
#undef P
#undef W
static const struct wire_message object_message =
    WIRE_MESSAGE("object", object_fields, struct object, wire__object__descriptor, NULL);

#define P struct nack
#define W Wire__Nack
static const struct wire_field nack_fields[] = {
    ENUM_(kind, OBJECT_HEAD, OBJECT_DIRECTORY), U64_(epoch), U64_(seq), HASH_(hash), BYTES_(reason), I64_(at_ms),
};
#undef P
#undef W
static const struct wire_message nack_message =
    WIRE_MESSAGE("nack", nack_fields, struct nack, wire__nack__descriptor, NULL);

static const char *fetch_request_check(const void *plain)
{
    const struct fetch_request *m = plain;
    return m->directory_cursor.len != 0 && m->directory_cursor.len != SHA256_BYTES ? "directory_cursor is not a hash"
                                                                                   : NULL;
}

#define P struct fetch_request
#define W Wire__FetchRequest
static const struct wire_field fetch_request_fields[] = {
    U32_(protocol),
    ID_(node),
    ID_(incarnation),
    NAME_(version),
    PART_(committed, &version_message),
    PART_(serving, &version_message),
    U32_(workers),
    HASHES_(artifacts, artifact_count, ARTIFACTS_HELD),
    LIST_(nacks, nack_count, NACKS_MAX, &nack_message),
    BOOL_(pinned),
    U64_(adopt_epoch),
    BYTES_(directory_cursor),
    U64_(directory_resync_seq),
    U64_(directory_resync_epoch),
    U32_(wait_ms),
    I64_(clock_ms),
    TEXTS_(unresolved_credentials, NAMES_MAX),
};
#undef P
#undef W
const struct wire_message wire_fetch_request = WIRE_MESSAGE("fetch_request", fetch_request_fields, struct fetch_request,
                                                            wire__fetch_request__descriptor, fetch_request_check);

#define P struct fetch_reply
#define W Wire__FetchReply
static const struct wire_field fetch_reply_fields[] = {
    U32_(protocol),
    BYTES_(error),
    LIST_(objects, object_count, FETCH_OBJECTS_MAX, &object_message),
    U64_(adopted_epoch),
};
#undef P
#undef W
const struct wire_message wire_fetch_reply =
    WIRE_MESSAGE("fetch_reply", fetch_reply_fields, struct fetch_reply, wire__fetch_reply__descriptor, NULL);

/* ---- evidence ---- */

#define P struct probe_result
#define W Wire__ProbeResult
static const struct wire_field probe_result_fields[] = {
    ID_(provider), NAME_(model), BOOL_(ok), BYTES_(why), U32_(latency_us), I64_(at_ms), I64_(certificate_expires_at_ms),
};
#undef P
#undef W
static const struct wire_message probe_result_message =
    WIRE_MESSAGE("probe", probe_result_fields, struct probe_result, wire__probe_result__descriptor, NULL);

#define P struct probe_target
#define W Wire__ProbeTarget
static const struct wire_field probe_target_fields[] = {
    ID_(provider),
    TEXT_(base_url),
    ENUM_(how, PROBE_HOW_MODELS, PROBE_HOW_NONE),
    ENUM_(auth, AUTH_SCHEME_NONE, AUTH_SCHEME_X_API_KEY),
    ENUM_(path_style, PATH_STYLE_OPENAI, PATH_STYLE_AZURE),
    TEXT_(query),
    TEXTS_(credentials, CREDENTIALS_PER_PROVIDER_MAX),
    TEXT_(model),
    U32_(every_ms),
    U32_(timeout_ms),
    TEXT_(proxy),
};
#undef P
#undef W
static const struct wire_message probe_target_message =
    WIRE_MESSAGE("target", probe_target_fields, struct probe_target, wire__probe_target__descriptor, NULL);

#define P struct catalog_entry
#define W Wire__CatalogEntry
static const struct wire_field catalog_entry_fields[] = {
    ID_(name),          PART_(price, &wire_price), U64_(context_tokens), U64_(output_tokens_max),
    U32_(capabilities), U32_(capabilities_known),  TEXT_(deprecated_on),
};
#undef P
#undef W
static const struct wire_message catalog_entry_message =
    WIRE_MESSAGE("entry", catalog_entry_fields, struct catalog_entry, wire__catalog_entry__descriptor, NULL);

#define P struct model_telemetry
#define W Wire__ModelTelemetry
static const struct wire_field model_telemetry_fields[] = {
    ID_(model),
    U64_(attempts),
    U64_(failures),
    U64_(timeouts),
    U64_(cancelled),
    U64_(input_tokens),
    U64_(output_tokens),
    U64_(cost_nano),
    U64_(ttft_count),
    U64_(ttft_sum_us),
    U64_(gap_count),
    U64_(gap_sum_us),
    U64S_(ttft_buckets, ttft_bucket_count, TELEMETRY_BUCKETS_MAX),
    U32_(breaker_open),
    U32_(remaining_ppm),
};
#undef P
#undef W
static const struct wire_message model_telemetry_message =
    WIRE_MESSAGE("telemetry", model_telemetry_fields, struct model_telemetry, wire__model_telemetry__descriptor, NULL);

#define P struct evidence_report
#define W Wire__EvidenceReport
static const struct wire_field evidence_report_fields[] = {
    U32_(protocol),
    ENUM_(source, EVIDENCE_FROM_PROBER, EVIDENCE_FROM_NODE),
    ID_(sender),
    ID_(incarnation),
    U64_(seq),
    LIST_(probes, probe_count, PROBES_MAX, &probe_result_message),
    LIST_(prices, price_count, CATALOG_ENTRIES_MAX, &catalog_entry_message),
    TEXTS_(price_removed, CATALOG_ENTRIES_MAX),
    TEXT_(price_origin),
    BOOL_(price_full),
    U64_(price_base),
    LIST_(telemetry, telemetry_count, EVIDENCE_MODELS_MAX, &model_telemetry_message),
    BYTES_(price_problem),
    BOOL_(ships_records),
    NAME_(records_segment),
    U64_(records_from),
    U64_(records_to),
    BYTES_(records),
    U64_(worker_crashes),
};
#undef P
#undef W
const struct wire_message wire_evidence_report = WIRE_MESSAGE(
    "evidence_report", evidence_report_fields, struct evidence_report, wire__evidence_report__descriptor, NULL);

#define P struct evidence_reply
#define W Wire__EvidenceReply
static const struct wire_field evidence_reply_fields[] = {
    U32_(protocol),         BYTES_(error),
    U64_(price_base),       LIST_(targets, target_count, PROBES_MAX, &probe_target_message),
    NAME_(records_segment), U64_(records_offset),
};
#undef P
#undef W
const struct wire_message wire_evidence_reply = WIRE_MESSAGE(
    "evidence_reply", evidence_reply_fields, struct evidence_reply, wire__evidence_reply__descriptor, NULL);

/* ---- admin ---- */

#define P struct admin_arg
#define W Wire__AdminArg
static const struct wire_field admin_arg_fields[] = { ID_(name), BYTES_(value) };
#undef P
#undef W
static const struct wire_message admin_arg_message =
    WIRE_MESSAGE("arg", admin_arg_fields, struct admin_arg, wire__admin_arg__descriptor, NULL);

#define P struct admin_request
#define W Wire__AdminRequest
static const struct wire_field admin_request_fields[] = {
    U32_(protocol),
    ID_(request_id),
    ID_(command),
    NAME_(user),
    LIST_(args, arg_count, ADMIN_ARGS_MAX, &admin_arg_message),
    BOOL_(dry_run),
};
#undef P
#undef W
const struct wire_message wire_admin_request =
    WIRE_MESSAGE("admin_request", admin_request_fields, struct admin_request, wire__admin_request__descriptor, NULL);

#define P struct admin_reply
#define W Wire__AdminReply
static const struct wire_field admin_reply_fields[] = {
    U32_(protocol),
    ENUM_(status, ADMIN_OK, ADMIN_INTERNAL),
    BYTES_(message),
    BYTES_(result),
};
#undef P
#undef W
const struct wire_message wire_admin_reply =
    WIRE_MESSAGE("admin_reply", admin_reply_fields, struct admin_reply, wire__admin_reply__descriptor, NULL);

/* ---- the six of them alike ---- */

#define LINK_MESSAGE(name, type)                                                                                       \
    static const struct wire_limits name##_limits = {                                                                  \
        .bytes_max = FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES,                                                           \
        .version_least = LINK_PROTOCOL,                                                                                \
        .version = LINK_PROTOCOL,                                                                                      \
        .version_at = offsetof(type, protocol),                                                                        \
    };                                                                                                                 \
    enum err wire_encode_##name(const struct name *m, struct buf *out)                                                 \
    {                                                                                                                  \
        return wire_encode(&wire_##name, &name##_limits, m, out);                                                      \
    }                                                                                                                  \
    enum err wire_decode_##name(struct arena *arena, struct span bytes, struct name **ret)                             \
    {                                                                                                                  \
        void *plain;                                                                                                   \
        enum err err = wire_decode(&wire_##name, &name##_limits, arena, bytes, &plain, NULL);                          \
        if (err == OK)                                                                                                 \
            *ret = plain;                                                                                              \
        return err;                                                                                                    \
    }
LINK_MESSAGE(fetch_request, Wire__FetchRequest)
LINK_MESSAGE(fetch_reply, Wire__FetchReply)
LINK_MESSAGE(evidence_report, Wire__EvidenceReport)
LINK_MESSAGE(evidence_reply, Wire__EvidenceReply)
LINK_MESSAGE(admin_request, Wire__AdminRequest)
LINK_MESSAGE(admin_reply, Wire__AdminReply)
