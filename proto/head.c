#include "proto/head.h"

bool head_lists(const struct span_list *sorted, struct span name)
{
    uint32_t low = 0, high = sorted->count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const int order = span_cmp(sorted->items[middle], name);
        if (order == 0)
            return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

const struct assignment *head_assignment(const struct head *head, struct span route)
{
    for (uint32_t i = 0; i < head->assignment_count; i++) {
        const struct assignment *a = &head->assignments[i];
        if (a->routes.count == 0 || head_lists(&a->routes, route))
            return a;
    }
    return NULL;
}

const struct assignment *head_assignment_of_all(const struct head *head)
{
    return head->assignment_count == 1 && head->assignments[0].routes.count == 0 ? &head->assignments[0] : NULL;
}

uint32_t head_share(const struct assignment *assignment, uint32_t arm)
{
    uint32_t given = 0, mine = 0;
    for (uint32_t i = 0; assignment && i < assignment->range_count; i++) {
        given += assignment->ranges[i].count;
        if (assignment->ranges[i].arm == arm)
            mine += assignment->ranges[i].count;
    }
    return arm == 0 ? ASSIGNMENT_BUCKETS - given : mine;
}

uint32_t head_arm(const struct head *head, struct span name)
{
    uint32_t i = 0;
    while (i < head->arm_count && !span_eq(head->arms[i].name, name))
        i++;
    return i;
}

const char *unit_kind_name(enum unit_kind kind)
{
    switch (kind) {
    case UNIT_KEY:
        return "key";
    case UNIT_USER:
        return "user";
    case UNIT_HEADER:
        return "header";
    case UNIT_REQUEST:
        return "request";
    }
    return "";
}
