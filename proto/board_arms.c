/* What arms count, and what shadows have spent. */
#include "proto/board_internal.h"

#define ARM_USED   (1ull << 63)
#define ARM_SHADOW (1ull << 62)

static uint64_t load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static uint64_t arm_key(const struct board_arm_id *id)
{
    return ARM_USED | (id->shadow ? ARM_SHADOW : 0) | id->version;
}

static bool arm_is(const struct board_arm *arm, uint64_t key, struct span name)
{
    return load(&arm->key) == key && arm->name_len == name.len && memcmp(arm->name, name.ptr, name.len) == 0;
}

static void fold_arm(struct board_arm *into, struct board_arm *from)
{
    for (unsigned i = 0; i < ARM_COUNTERS; i++)
        board_move(&into->counters[i], &from->counters[i]);
    board_hist_fold(&into->ttft_us, &from->ttft_us);
}

/* The key is away while the rest changes: a reader that sees it before and after has seen what belongs to it. */
static void name_arm(struct board_arm *arm, uint64_t key, struct span name)
{
    atomic_store_explicit(&arm->key, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    for (unsigned i = 0; i < ARM_COUNTERS; i++)
        atomic_store_explicit(&arm->counters[i], 0, memory_order_relaxed);
    atomic_store_explicit(&arm->ttft_us.count, 0, memory_order_relaxed);
    atomic_store_explicit(&arm->ttft_us.sum, 0, memory_order_relaxed);
    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        atomic_store_explicit(&arm->ttft_us.buckets[i], 0, memory_order_relaxed);
    memcpy(arm->name, name.ptr, name.len);
    arm->name_len = (uint32_t)name.len;
    atomic_store_explicit(&arm->key, key, memory_order_release);
}

static struct board_arm *other_arm(struct board_region *region)
{
    struct board_arm *other = &region->arms[0];
    if (load(&other->key) == 0)
        name_arm(other, ARM_USED, SPAN("other"));
    return other;
}

static uint32_t find_arm(struct board_region *region, uint64_t key, struct span name)
{
    uint32_t at = 1;
    for (uint32_t i = 1; i < BOARD_ARMS_MAX; i++) {
        const struct board_arm *arm = &region->arms[i];
        if (arm_is(arm, key, name))
            return i;
        if (load(&arm->key) == 0) { /* they are filled from the front */
            at = i;
            break;
        }
        if (arm->used < region->arms[at].used)
            at = i;
    }
    if (load(&region->arms[at].key))
        fold_arm(other_arm(region), &region->arms[at]);
    name_arm(&region->arms[at], key, name);
    return at;
}

struct board_arm *board_arm(struct board_region *region, const struct board_arm_id *id)
{
    const uint64_t key = arm_key(id);
    const struct span name = span_head(id->name, BOARD_ARM_NAME_BYTES);
    struct board_arm *last = &region->arms[region->arm_last % BOARD_ARMS_MAX];
    if (arm_is(last, key, name))
        return last;
    if (key == ARM_USED)
        return other_arm(region);
    region->arm_last = find_arm(region, key, name);
    region->arms[region->arm_last].used = ++region->arm_turns;
    return &region->arms[region->arm_last];
}

bool board_arm_read(const struct board_arm *arm, char name[BOARD_ARM_NAME_BYTES], struct board_arm_id *ret)
{
    const uint64_t key = atomic_load_explicit(&arm->key, memory_order_acquire);
    if (key == 0)
        return false;
    const size_t len = size_min(arm->name_len, BOARD_ARM_NAME_BYTES);
    memcpy(name, arm->name, len);
    *ret = (struct board_arm_id){ .version = (uint32_t)key,
                                  .shadow = (key & ARM_SHADOW) != 0,
                                  .name = span_of(name, len) };
    atomic_thread_fence(memory_order_acquire);
    return load(&arm->key) == key;
}

void board_arms_fold(struct board_region *into, struct board_region *from)
{
    for (unsigned i = 0; i < BOARD_ARMS_MAX; i++) {
        char name[BOARD_ARM_NAME_BYTES];
        struct board_arm_id id;
        if (board_arm_read(&from->arms[i], name, &id))
            fold_arm(board_arm(into, &id), &from->arms[i]);
    }
}

/* -- budgets -- */

static uint64_t budget_key(const struct board *board, struct span id)
{
    return board_hash(board, id) | 1;
}

static struct board_budget *find_budget(const struct board *board, uint64_t key)
{
    struct board_budget *budgets = board_budgets(board);
    for (uint32_t i = 0; i < BOARD_BUDGETS_MAX; i++)
        if (atomic_load_explicit(&budgets[i].key, memory_order_acquire) == key)
            return &budgets[i];
    return NULL;
}

void board_budgets_keep(struct board *board, const struct span *ids, uint32_t count)
{
    struct board_budget *budgets = board_budgets(board);
    REQUIRE(count <= BOARD_BUDGETS_MAX);
    for (uint32_t i = 0; i < BOARD_BUDGETS_MAX; i++) {
        const uint64_t key = atomic_load_explicit(&budgets[i].key, memory_order_relaxed);
        bool wanted = false;
        for (uint32_t k = 0; k < count && !wanted; k++)
            wanted = budget_key(board, ids[k]) == key;
        if (!wanted)
            atomic_store_explicit(&budgets[i].key, 0, memory_order_release);
    }
    for (uint32_t k = 0; k < count; k++) {
        struct board_budget *budget = find_budget(board, budget_key(board, ids[k]));
        if (budget)
            continue;
        budget = find_budget(board, 0);
        atomic_store_explicit(&budget->spent_nano, 0, memory_order_relaxed);
        atomic_store_explicit(&budget->key, budget_key(board, ids[k]), memory_order_release);
    }
}

bool board_budget_take(struct board *board, struct span id, int64_t nano, int64_t limit)
{
    struct board_budget *budget = find_budget(board, budget_key(board, id));
    if (!budget || nano < 0 || nano > limit)
        return false;
    int64_t spent = atomic_load_explicit(&budget->spent_nano, memory_order_relaxed);
    while (spent <= limit - nano)
        if (atomic_compare_exchange_weak_explicit(&budget->spent_nano, &spent, spent + nano, memory_order_relaxed,
                                                  memory_order_relaxed))
            return true;
    return false;
}

void board_budget_correct(struct board *board, struct span id, int64_t by_nano)
{
    struct board_budget *budget = find_budget(board, budget_key(board, id));
    if (budget)
        (void)atomic_fetch_add_explicit(&budget->spent_nano, by_nano, memory_order_relaxed);
}

int64_t board_budget_spent(const struct board *board, struct span id)
{
    const struct board_budget *budget = find_budget(board, budget_key(board, id));
    return budget ? atomic_load_explicit(&budget->spent_nano, memory_order_relaxed) : 0;
}
