/* arms.h - which of the live policy versions a request obeys. Pure.
 *
 * The assignment that covers the route takes a unit from the request; unit_hash = siphash24(salt, unit's text), bucket =
 * unit_hash mod ASSIGNMENT_BUCKETS (the modulo favours low buckets by less than 10^-15). The range that holds the bucket
 * names the arm; a bucket in no range is arm 0's ("stable"). So an arm that grows, by extending its range into free
 * buckets, only takes from stable. The hash is part of the contract: other implementations must agree, see the vectors
 * in arms_test.c. */
#pragma once
#include "proto/head.h"

#define ARMS_HASH       "siphash24"
#define ARMS_SALT_BYTES ASSIGNMENT_SALT_BYTES
#define ARMS_HEADER     "x-fairlead-arm" /* in requests: forces an arm; in responses: which one it was */

/* What a request can be recognised by. Empty: it has none. */
struct arm_units {
    struct span key; /* the key's id; never empty */
    struct span user;
    const struct header_pair *headers;
    size_t header_count;
    struct span request; /* the request's id; never empty */
};
enum arm_why {
    ARM_ONLY,      /* no assignment covers the route */
    ARM_REMAINDER, /* one does, and leaves this bucket to arm 0 */
    ARM_BUCKET,    /* one does, and gives this bucket to the arm */
    ARM_FORCED     /* the client named it; never judged */
};
struct arm_choice {
    uint32_t arm;
    enum arm_why why;
    const struct assignment *assignment; /* in the head; NULL with ARM_ONLY, and may be with ARM_FORCED */
    enum unit_kind unit_kind;            /* that was found, after falling back; as unit and bucket of the assignment */
    uint64_t unit;                       /* hash; 0 without an assignment */
    uint32_t bucket;
};

uint64_t arms_unit_hash(const uint8_t salt[ARMS_SALT_BYTES], struct span unit);
uint32_t arms_bucket(const uint8_t salt[ARMS_SALT_BYTES], struct span unit);
/* The route's name, or what was asked for where no route is meant. head->arm_count > 0 is the caller's promise. */
struct arm_choice arms_choose(const struct head *head, struct span route, const struct arm_units *units);
/* The same, but by the client's wish: unit and assignment are told, too. arm < head->arm_count. */
struct arm_choice arms_force(const struct head *head, struct span route, const struct arm_units *units, uint32_t arm);
/* Is this request one of a shadow's share? By siphash24 of its id, under a key of the shadow's own: each shadow draws
 * apart from the others. */
bool arms_shadow(const struct shadow *shadow, struct span route, struct span request_id);
const char *arm_why_name(enum arm_why why); /* "only", "remainder", "bucket", "forced" */
