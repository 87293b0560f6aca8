#include "proto/record.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/json.h"
#include <stddef.h>

static const struct json_limits limits = {
    .bytes_max = RECORD_LINE_MAX, .depth_max = 16, .tokens_max = RECORD_LINE_MAX, .depth_kept = 3
};

enum type { TYPE_SPAN, TYPE_U64, TYPE_U32, TYPE_I64, TYPE_BOOL, TYPE_DOUBLE, TYPE_TIME };

struct member {
    struct span name;
    enum type type;
    size_t offset;
};
#define MEMBER(key, kind, structure, field)                                                                            \
    {                                                                                                                  \
        { key, sizeof(key) - 1 }, kind, offsetof(structure, field)                                                     \
    }

/* In the order in which the ledger writes them: the next one is mostly found at once. */
static const struct member members[] = {
    MEMBER("time", TYPE_TIME, struct record, time_ms),
    MEMBER("request_id", TYPE_SPAN, struct record, request_id),
    MEMBER("node", TYPE_SPAN, struct record, node),
    MEMBER("of", TYPE_SPAN, struct record, of),
    MEMBER("key_id", TYPE_SPAN, struct record, key_id),
    MEMBER("team", TYPE_SPAN, struct record, team),
    MEMBER("endpoint", TYPE_SPAN, struct record, endpoint),
    MEMBER("stream", TYPE_BOOL, struct record, stream),
    MEMBER("asked", TYPE_SPAN, struct record, asked),
    MEMBER("route", TYPE_SPAN, struct record, route),
    MEMBER("arm", TYPE_SPAN, struct record, arm),
    MEMBER("policy_version", TYPE_U32, struct record, policy_version),
    MEMBER("epoch", TYPE_U64, struct record, epoch),
    MEMBER("generation", TYPE_U64, struct record, generation),
    MEMBER("assignment", TYPE_SPAN, struct record, assignment),
    MEMBER("unit_kind", TYPE_SPAN, struct record, unit_kind),
    MEMBER("arm_why", TYPE_SPAN, struct record, arm_why),
    MEMBER("forced", TYPE_BOOL, struct record, forced),
    MEMBER("model", TYPE_SPAN, struct record, model),
    MEMBER("propensity_ppb", TYPE_U32, struct record, propensity_ppb),
    MEMBER("status", TYPE_U32, struct record, status),
    MEMBER("outcome", TYPE_SPAN, struct record, outcome),
    MEMBER("error", TYPE_SPAN, struct record, error),
    MEMBER("finish", TYPE_SPAN, struct record, finish),
    MEMBER("estimated", TYPE_BOOL, struct record, estimated),
    MEMBER("cost_list_nano_usd", TYPE_I64, struct record, cost_list_nano),
    MEMBER("cost_nano_usd", TYPE_I64, struct record, cost_nano),
    MEMBER("estimate_nano_usd", TYPE_I64, struct record, estimate_nano),
    MEMBER("input_bytes", TYPE_U64, struct record, input_bytes),
    MEMBER("output_bytes", TYPE_U64, struct record, output_bytes),
    MEMBER("ttft_us", TYPE_U64, struct record, ttft_us),
    MEMBER("total_us", TYPE_U64, struct record, total_us),
    MEMBER("overhead_us", TYPE_U64, struct record, overhead_us),
    MEMBER("metric", TYPE_SPAN, struct record, metric),
    MEMBER("score", TYPE_DOUBLE, struct record, score),
};
static const struct member features[] = {
    MEMBER("input_tokens", TYPE_U32, struct record, input_tokens_est),
    MEMBER("max_output", TYPE_U32, struct record, max_output),
    MEMBER("choices", TYPE_U32, struct record, choices),
    MEMBER("tools", TYPE_BOOL, struct record, tools),
    MEMBER("images", TYPE_BOOL, struct record, images),
    MEMBER("audio", TYPE_BOOL, struct record, audio),
    MEMBER("json", TYPE_BOOL, struct record, json),
};
static const struct member usage[] = {
    MEMBER("input", TYPE_U64, struct record, input),
    MEMBER("cached", TYPE_U64, struct record, cached),
    MEMBER("cache_write", TYPE_U64, struct record, cache_write),
    MEMBER("output", TYPE_U64, struct record, output),
    MEMBER("reasoning", TYPE_U64, struct record, reasoning),
};
static const struct member attempt[] = {
    MEMBER("model", TYPE_SPAN, struct record_attempt, model),
    MEMBER("why", TYPE_SPAN, struct record_attempt, why),
    MEMBER("status", TYPE_U32, struct record_attempt, status),
    MEMBER("error", TYPE_SPAN, struct record_attempt, error),
    MEMBER("ttft_us", TYPE_U64, struct record_attempt, ttft_us),
    MEMBER("duration_us", TYPE_U64, struct record_attempt, duration_us),
};

/* ---- values ---- */

/* "" where the request had no unit. */
static enum err read_unit(struct span text, struct record *record)
{
    uint64_t value = 0;
    if (text.len > 16)
        return ERR_INVALID;
    for (size_t i = 0; i < text.len; i++) {
        const char c = text.ptr[i];
        const bool digit = c >= '0' && c <= '9';
        if (!digit && (c < 'a' || c > 'f'))
            return ERR_INVALID;
        value = value << 4 | (uint64_t)(digit ? c - '0' : c - 'a' + 10);
    }
    record->has_unit = text.len > 0;
    record->unit = value;
    return OK;
}

static enum err read_u32(const struct json_index *ix, uint32_t token, uint32_t *ret)
{
    uint64_t value;
    enum err err = json_u64(ix, token, &value);
    if (!err && value > UINT32_MAX)
        err = ERR_INVALID;
    if (!err)
        *ret = (uint32_t)value;
    return err;
}

struct reader {
    struct arena *scratch;
    struct json_index ix;
};

static enum err read_text(struct reader *r, uint32_t token, enum type type, void *field)
{
    struct span text;
    enum err err = json_string(r->scratch, &r->ix, token, &text);
    if (err)
        return err;
    if (type == TYPE_SPAN) {
        *(struct span *)field = text;
        return OK;
    }
    if (span_eq(text, SPAN("now"))) /* means the clock's time to clock_parse_wall */
        return ERR_INVALID;
    return clock_parse_wall(text, field);
}

static enum err read_value(struct reader *r, uint32_t token, enum type type, void *field)
{
    switch (type) {
    case TYPE_U64:
        return json_u64(&r->ix, token, field);
    case TYPE_I64:
        return json_i64(&r->ix, token, field);
    case TYPE_U32:
        return read_u32(&r->ix, token, field);
    case TYPE_BOOL:
        return json_bool(&r->ix, token, field);
    case TYPE_DOUBLE:
        return json_double(&r->ix, token, field);
    case TYPE_SPAN:
    case TYPE_TIME:
        break;
    }
    return read_text(r, token, type, field);
}

/* ---- objects ---- */

static bool name_is(const struct json_index *ix, uint32_t key, struct span name)
{
    const struct json_token *t = &ix->tokens[key];
    if (t->escaped)
        return json_string_eq(ix, key, name);
    return t->end - t->start == name.len + 2 && memcmp(ix->text.ptr + t->start + 1, name.ptr, name.len) == 0;
}

struct object {
    const struct member *members;
    size_t count;
    size_t due; /* the member that should come next */
    char *into;
};

static const struct member *find(const struct json_index *ix, uint32_t key, struct object *object)
{
    for (size_t i = 0, at = object->due; i < object->count; i++, at = at + 1 < object->count ? at + 1 : 0) {
        if (name_is(ix, key, object->members[at].name)) {
            object->due = at + 1 < object->count ? at + 1 : 0;
            return &object->members[at];
        }
    }
    return NULL;
}

/* ERR_NOT_FOUND: no member of this object. null says as much as absence. */
static enum err read_member(struct reader *r, uint32_t key, struct object *object)
{
    if (json_kind(&r->ix, key + 1) == JSON_NULL)
        return OK;
    const struct member *m = find(&r->ix, key, object);
    if (!m)
        return ERR_NOT_FOUND;
    const enum err err = read_value(r, key + 1, m->type, object->into + m->offset);
    return err && err != ERR_NOMEM ? ERR_INVALID : err;
}

static enum err read_object(struct reader *r, uint32_t token, const struct member *list, size_t count, void *into)
{
    struct object object = { .members = list, .count = count, .into = into };
    if (json_kind(&r->ix, token) != JSON_OBJECT)
        return ERR_INVALID;
    for (uint32_t key = json_first(&r->ix, token); key != JSON_NONE; key = json_next(&r->ix, token, key + 1)) {
        const enum err err = read_member(r, key, &object);
        if (err && err != ERR_NOT_FOUND)
            return err;
    }
    return OK;
}

static enum err read_attempts(struct reader *r, uint32_t token, struct record *record)
{
    if (json_kind(&r->ix, token) != JSON_ARRAY || json_count(&r->ix, token) > ATTEMPTS_MAX)
        return ERR_INVALID;
    record->attempt_count = 0;
    for (uint32_t t = json_first(&r->ix, token); t != JSON_NONE; t = json_next(&r->ix, token, t)) {
        struct record_attempt *row = &record->attempts[record->attempt_count++];
        const enum err err = read_object(r, t, attempt, ARRAY_LEN(attempt), row);
        if (err)
            return err;
    }
    return OK;
}

static enum err read_kind(const struct json_index *ix, uint32_t token, struct record *record)
{
    if (json_kind(ix, token) != JSON_STRING)
        return ERR_INVALID;
    if (json_string_eq(ix, token, SPAN("shadow")))
        record->kind = RECORD_SHADOW;
    else if (json_string_eq(ix, token, SPAN("feedback")))
        record->kind = RECORD_FEEDBACK;
    else if (json_string_eq(ix, token, SPAN("content")))
        record->kind = RECORD_CONTENT;
    else
        return ERR_UNSUPPORTED;
    return OK;
}

/* A member that is no plain value of the record's; null and unknown ones are skipped. */
static enum err read_other(struct reader *r, uint32_t key, struct record *record)
{
    const struct json_index *ix = &r->ix;
    const uint32_t value = key + 1;
    if (name_is(ix, key, SPAN("attempts")))
        return read_attempts(r, value, record);
    if (name_is(ix, key, SPAN("usage"))) {
        record->usage_known = true;
        return read_object(r, value, usage, ARRAY_LEN(usage), record);
    }
    if (name_is(ix, key, SPAN("features"))) {
        record->has_features = true;
        return read_object(r, value, features, ARRAY_LEN(features), record);
    }
    if (name_is(ix, key, SPAN("kind")))
        return read_kind(ix, value, record);
    if (name_is(ix, key, SPAN("unit"))) {
        struct span text;
        const enum err err = json_string(r->scratch, ix, value, &text);
        return err ? err : read_unit(text, record);
    }
    return OK;
}

enum err record_read(struct arena *scratch, struct span line, struct record *ret)
{
    struct reader r = { .scratch = scratch };
    struct record record = { .kind = RECORD_REQUEST };
    struct object object = { .members = members, .count = ARRAY_LEN(members), .into = (char *)&record };
    enum err err = json_index(scratch, line, &limits, &r.ix, NULL);
    if (err)
        return err == ERR_NOMEM ? err : ERR_SYNTAX;
    if (json_kind(&r.ix, 0) != JSON_OBJECT)
        return ERR_SYNTAX;
    for (uint32_t key = json_first(&r.ix, 0); !err && key != JSON_NONE; key = json_next(&r.ix, 0, key + 1)) {
        err = read_member(&r, key, &object);
        if (err == ERR_NOT_FOUND)
            err = read_other(&r, key, &record);
    }
    if (!err && (record.time_ms == 0 || span_empty(record.request_id)))
        err = ERR_INVALID;
    if (!err)
        *ret = record;
    return err;
}
