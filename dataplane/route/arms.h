/* arms.h - which of the live policy versions a unit obeys. Pure.
 *
 * bucket = siphash24(salt, unit) mod ASSIGNMENT_BUCKETS (the modulo favours low buckets by less than 10^-15). Arms
 * after the first take their shares from bucket 0 upwards in the head's order; the first arm ("stable") is the
 * remainder. So with two arms, growing the second only takes from stable. The hash is part of the contract: other
 * implementations must agree, see the vectors in arms_test.c. */
#pragma once
#include "proto/tables.h"

#define ARMS_HASH       "siphash24"
#define ARMS_SALT_BYTES 16

uint32_t arms_bucket(const uint8_t salt[ARMS_SALT_BYTES], struct span unit);
/* Index into head->arms; head->arm_count > 0 is the caller's promise. */
uint32_t arms_pick(const struct head *head, const uint8_t salt[ARMS_SALT_BYTES], struct span unit);
