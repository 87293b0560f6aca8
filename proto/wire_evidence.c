#include "proto/wire_internal.h"
#include "proto/wire.h"
#include "evidence.pb-c.h"

#define PPM 1000000u

static const char *model_evidence_check(const void *plain)
{
    return ((const struct model_evidence *)plain)->errors_ppm > PPM ? "more errors than requests" : NULL;
}

#define P struct model_evidence
#define W Wire__ModelEvidence
static const struct wire_field model_evidence_fields[] = {
    ID_(name),
    ENUM_(health, HEALTH_UNKNOWN, HEALTH_DOWN),
    BYTES_(health_why),
    I64_(health_since_ms),
    ENUM_(price_source, PRICE_SOURCE_NONE, PRICE_SOURCE_BOOK),
    PART_(price, &wire_price),
    BOOL_(price_stale),
    U32_(samples),
    U32_(ttft_ewma_us),
    U32_(ttft_p95_us),
    U32_(token_gap_us),
    U32_(errors_ppm),
};
#undef P
#undef W
static const struct wire_message model_evidence_message = WIRE_MESSAGE(
    "model", model_evidence_fields, struct model_evidence, wire__model_evidence__descriptor, model_evidence_check);

static const char *tier_weights_check(const void *plain)
{
    const struct tier_weights *weights = plain;
    uint64_t sum = 0;
    if (weights->tier >= TIERS_MAX)
        return "no such tier";
    for (uint32_t i = 0; i < weights->count; i++)
        sum += weights->weights_ppm[i];
    return sum == PPM ? NULL : "weights do not sum to 1,000,000";
}

#define P struct tier_weights
#define W Wire__TierWeights
static const struct wire_field tier_weights_fields[] = {
    HASH_(artifact), ID_(route), U32_(tier), BOOL_(frozen), U32S_(weights_ppm, count, TIER_MEMBERS_MAX),
};
#undef P
#undef W
static const struct wire_message tier_weights_message = WIRE_MESSAGE(
    "weights", tier_weights_fields, struct tier_weights, wire__tier_weights__descriptor, tier_weights_check);

static const char *evidence_check(const void *plain)
{
    const struct evidence *e = plain;
    return WIRE_ASCENDING(e->models, e->model_count, struct model_evidence, name)
               ? NULL
               : "models are not sorted or not unique";
}

#define P struct evidence
#define W Wire__Evidence
static const struct wire_field evidence_fields[] = {
    U64_(epoch),
    U64_(seq),
    I64_(made_at_ms),
    I64_(expires_at_ms),
    U64_(book_version),
    LIST_(models, model_count, EVIDENCE_MODELS_MAX, &model_evidence_message),
    LIST_(weights, weight_count, EVIDENCE_WEIGHTS_MAX, &tier_weights_message),
};
#undef P
#undef W
const struct wire_message wire_evidence =
    WIRE_MESSAGE("evidence", evidence_fields, struct evidence, wire__evidence__descriptor, evidence_check);

static const struct wire_limits evidence_limits = {
    .bytes_max = EVIDENCE_BYTES_MAX,
    .version_least = TABLE_SCHEMA_LEAST,
    .version = TABLE_SCHEMA,
    .version_at = offsetof(Wire__Evidence, schema),
    .stamp = true,
};

enum err wire_encode_evidence(const struct evidence *evidence, struct buf *out)
{
    return wire_encode(&wire_evidence, &evidence_limits, evidence, out);
}

enum err wire_decode_evidence(struct arena *arena, struct span bytes, struct evidence **ret, const char **ret_why)
{
    void *plain;
    enum err err = wire_decode(&wire_evidence, &evidence_limits, arena, bytes, &plain, ret_why);
    if (err == OK)
        *ret = plain;
    return err;
}
