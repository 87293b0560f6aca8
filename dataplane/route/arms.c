#include "dataplane/route/arms.h"

uint32_t arms_bucket(const uint8_t salt[ARMS_SALT_BYTES], struct span unit)
{
    return (uint32_t)(siphash24(salt, unit) % ASSIGNMENT_BUCKETS);
}

uint32_t arms_pick(const struct head *head, const uint8_t salt[ARMS_SALT_BYTES], struct span unit)
{
    REQUIRE(head->arm_count > 0);
    if (head->arm_count == 1)
        return 0;
    uint32_t bucket = arms_bucket(salt, unit);
    uint64_t end = 0;
    for (uint32_t arm = 1; arm < head->arm_count; arm++) {
        end += head->arms[arm].buckets;
        if (bucket < end)
            return arm;
    }
    return 0;
}
