/* h2_budget.h - how much of what costs the client little and us more one HTTP/2 connection may do: a bucket that holds
 * `most`, is refilled by time and by useful work, and says when it is empty. Pure. */
#pragma once
#include "common/base.h"

struct h2_budget {
    uint64_t left, most; /* thousandths */
    uint64_t per_s;      /* what time gives back */
    uint64_t at_ms;      /* of the last look */
};
/* Full. */
void h2_budget_init(struct h2_budget *budget, uint32_t most, uint32_t per_s, uint64_t now_ms);
/* One is spent. False: there was none; the connection has to go. */
MUST_CHECK bool h2_budget_take(struct h2_budget *budget, uint64_t now_ms);
void h2_budget_earn(struct h2_budget *budget, uint32_t count);
