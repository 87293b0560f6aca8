/* head.h - what a head says about its arms: who is covered by what, and the shares. Pure. */
#pragma once
#include "proto/tables.h"

/* Is name in a sorted list? */
bool head_lists(const struct span_list *sorted, struct span name);
/* The assignment that covers a route; NULL: none does, all of it obeys arm 0. */
const struct assignment *head_assignment(const struct head *head, struct span route);
/* The one that covers everything, or NULL. */
const struct assignment *head_assignment_of_all(const struct head *head);
/* How many of ASSIGNMENT_BUCKETS obey an arm. assignment NULL: arm 0 has all. */
uint32_t head_share(const struct assignment *assignment, uint32_t arm);
/* Index; head->arm_count when there is none of that name. */
uint32_t head_arm(const struct head *head, struct span name);
const char *unit_kind_name(enum unit_kind kind); /* "key", "user", "header", "request" */
