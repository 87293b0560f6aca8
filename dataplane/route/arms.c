#include "dataplane/route/arms.h"

uint64_t arms_unit_hash(const uint8_t salt[ARMS_SALT_BYTES], struct span unit)
{
    return siphash24(salt, unit);
}

uint32_t arms_bucket(const uint8_t salt[ARMS_SALT_BYTES], struct span unit)
{
    return (uint32_t)(arms_unit_hash(salt, unit) % ASSIGNMENT_BUCKETS);
}

/* A header that stands twice or is empty recognises nobody. */
static struct span header_unit(const struct arm_units *units, struct span name)
{
    struct span found = SPAN("");
    for (size_t i = 0; i < units->header_count; i++) {
        if (!span_eq_nocase(units->headers[i].name, name))
            continue;
        if (!span_empty(found))
            return SPAN("");
        found = units->headers[i].value;
    }
    return found;
}

static struct span unit_of(const struct assignment *a, const struct arm_units *units, enum unit_kind *ret_kind)
{
    struct span unit = SPAN("");
    if (a->unit == UNIT_REQUEST)
        unit = units->request;
    else if (a->unit == UNIT_USER)
        unit = units->user;
    else if (a->unit == UNIT_HEADER)
        unit = header_unit(units, a->header);
    *ret_kind = span_empty(unit) ? UNIT_KEY : a->unit;
    return span_empty(unit) ? units->key : unit;
}

static uint32_t arm_of(const struct assignment *a, uint32_t bucket)
{
    for (uint32_t i = 0; i < a->range_count; i++)
        if (bucket - a->ranges[i].first < a->ranges[i].count) /* wraps to a large number below first */
            return a->ranges[i].arm;
    return 0;
}

struct arm_choice arms_choose(const struct head *head, struct span route, const struct arm_units *units)
{
    REQUIRE(head->arm_count > 0);
    const struct assignment *a = head_assignment(head, route);
    if (!a)
        return (struct arm_choice){ .why = ARM_ONLY };
    struct arm_choice choice = { .assignment = a };
    const struct span unit = unit_of(a, units, &choice.unit_kind);
    choice.unit = arms_unit_hash(a->salt, unit);
    choice.bucket = (uint32_t)(choice.unit % ASSIGNMENT_BUCKETS);
    choice.arm = arm_of(a, choice.bucket);
    choice.why = choice.arm ? ARM_BUCKET : ARM_REMAINDER;
    return choice;
}

struct arm_choice arms_force(const struct head *head, struct span route, const struct arm_units *units, uint32_t arm)
{
    REQUIRE(arm < head->arm_count);
    struct arm_choice choice = arms_choose(head, route, units);
    choice.arm = arm;
    choice.why = ARM_FORCED;
    return choice;
}

bool arms_shadow(const struct shadow *shadow, struct span route, struct span request_id)
{
    uint8_t key[ARMS_SALT_BYTES] = { 0 };
    if (shadow->routes.count && !head_lists(&shadow->routes, route))
        return false;
    const uint64_t own = siphash24(key, shadow->id);
    memcpy(key, &own, sizeof(own));
    return siphash24(key, request_id) % 1000000u < shadow->share_ppm;
}

const char *arm_why_name(enum arm_why why)
{
    switch (why) {
    case ARM_ONLY:
        return "only";
    case ARM_REMAINDER:
        return "remainder";
    case ARM_BUCKET:
        return "bucket";
    case ARM_FORCED:
        return "forced";
    }
    return "";
}
