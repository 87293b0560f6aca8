#include "dataplane/worker/h2_budget.h"

#define ONE 1000u

void h2_budget_init(struct h2_budget *budget, uint32_t most, uint32_t per_s, uint64_t now_ms)
{
    const uint64_t full = (uint64_t)most * ONE;
    *budget = (struct h2_budget){ .left = full, .most = full, .per_s = per_s, .at_ms = now_ms };
}

static void add(struct h2_budget *budget, uint64_t amount)
{
    budget->left = amount < budget->most - budget->left ? budget->left + amount : budget->most;
}

bool h2_budget_take(struct h2_budget *budget, uint64_t now_ms)
{
    uint64_t gain; /* n a second are n thousandths a millisecond */
    if (now_ms > budget->at_ms) {
        if (__builtin_mul_overflow(now_ms - budget->at_ms, budget->per_s, &gain))
            gain = budget->most;
        add(budget, gain);
        budget->at_ms = now_ms;
    }
    if (budget->left < ONE)
        return false;
    budget->left -= ONE;
    return true;
}

void h2_budget_earn(struct h2_budget *budget, uint32_t count)
{
    add(budget, (uint64_t)count * ONE);
}
