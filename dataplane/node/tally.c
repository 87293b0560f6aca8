#include "dataplane/node/tally.h"
#include "common/fault.h"

#define TALLY_CAPACITY_LEAST 64u

void tally_release(struct tally *tally)
{
    if (!tally)
        return;
    for (uint32_t i = 0; i < tally->capacity; i++)
        free(tally->slots[i]);
    free(tally->slots);
    free(tally->arms);
    *tally = (struct tally){ .slots = NULL };
}

static uint32_t slot_of(uint32_t capacity, uint32_t team, uint32_t route, uint32_t model)
{
    /* Labels are small numbers of our own: a multiplicative hash spreads them well enough. */
    const uint64_t key = ((uint64_t)team << 42 | (uint64_t)route << 21 | model) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(key >> 32) & (capacity - 1);
}

static struct tally_series **find(struct tally_series **slots, uint32_t capacity, uint32_t team, uint32_t route,
                                  uint32_t model)
{
    uint32_t at = slot_of(capacity, team, route, model);
    while (slots[at] && !(slots[at]->team == team && slots[at]->route == route && slots[at]->model == model))
        at = (at + 1) & (capacity - 1);
    return &slots[at];
}

static bool grow(struct tally *tally)
{
    const uint32_t capacity = tally->capacity ? 2 * tally->capacity : TALLY_CAPACITY_LEAST;
    struct tally_series **slots = fault_calloc(capacity, sizeof(struct tally_series *));
    if (!slots)
        return false;
    for (uint32_t i = 0; i < tally->capacity; i++) {
        struct tally_series *s = tally->slots[i];
        if (s)
            *find(slots, capacity, s->team, s->route, s->model) = s;
    }
    free(tally->slots);
    tally->slots = slots;
    tally->capacity = capacity;
    return true;
}

struct tally_series *tally_series(struct tally *tally, uint32_t team, uint32_t route, uint32_t model)
{
    if (2 * (tally->count + 1) > tally->capacity && !grow(tally)) {
        tally->lost++;
        return NULL;
    }
    struct tally_series **at = find(tally->slots, tally->capacity, team, route, model);
    if (!*at) {
        *at = fault_calloc(1, sizeof(**at));
        if (!*at) {
            tally->lost++;
            return NULL;
        }
        (*at)->team = team;
        (*at)->route = route;
        (*at)->model = model;
        tally->count++;
    }
    return *at;
}

void tally_merge_series(struct tally_series *into, const struct tally_series *from)
{
    for (size_t i = 0; i < SERIES_COUNTERS; i++)
        into->counters[i] += from->counters[i];
    hist_merge(&into->ttft_us, &from->ttft_us);
    hist_merge(&into->duration_us, &from->duration_us);
}

static void merge_arm(struct tally_arm *into, const struct tally_arm *from)
{
    for (size_t i = 0; i < ARM_COUNTERS; i++)
        into->counters[i] += from->counters[i];
    hist_merge(&into->ttft_us, &from->ttft_us);
}

static void name_arm(struct tally_arm *arm, const struct board_arm_id *id)
{
    arm->version = id->version;
    arm->shadow = id->shadow;
    arm->name_len = (uint32_t)id->name.len;
    memcpy(arm->name, id->name.ptr, id->name.len);
}

static struct tally_arm *find_arm(const struct tally *tally, const struct board_arm_id *id)
{
    for (uint32_t i = 0; i < tally->arm_count; i++) {
        struct tally_arm *arm = &tally->arms[i];
        if (arm->version == id->version && arm->shadow == id->shadow &&
            span_eq(span_of(arm->name, arm->name_len), id->name))
            return arm;
    }
    return NULL;
}

static struct tally_arm *oldest_arm(const struct tally *tally, const struct tally_arm *but)
{
    struct tally_arm *oldest = NULL;
    for (uint32_t i = 0; i < tally->arm_count; i++) {
        struct tally_arm *arm = &tally->arms[i];
        if (arm != but && (!oldest || arm->version < oldest->version))
            oldest = arm;
    }
    return oldest;
}

/* Where one more of this version is counted when there are as many as there may be: as on the board, the oldest policy's
 * becomes part of "other", or is what begins it; one that is older still is counted there itself. */
static struct tally_arm *make_room(struct tally *tally, const struct board_arm_id *id)
{
    const struct board_arm_id others = { .version = 0, .name = SPAN("other") };
    struct tally_arm *other = find_arm(tally, &others);
    if (!other) {
        other = oldest_arm(tally, NULL);
        name_arm(other, &others);
    }
    struct tally_arm *oldest = oldest_arm(tally, other);
    if (id->version <= oldest->version)
        return other;
    merge_arm(other, oldest);
    *oldest = (struct tally_arm){ .version = 0 };
    name_arm(oldest, id);
    return oldest;
}

/* NULL: memory is out. */
static struct tally_arm *arm_of(struct tally *tally, const struct board_arm_id *id)
{
    struct tally_arm *found = find_arm(tally, id);
    if (found)
        return found;
    if (tally->arm_count == TALLY_ARMS_MAX)
        return make_room(tally, id);
    if (tally->arm_count == tally->arm_capacity) {
        const uint32_t capacity = tally->arm_capacity ? 2 * tally->arm_capacity : BOARD_ARMS_MAX;
        struct tally_arm *arms = fault_realloc(tally->arms, capacity * sizeof *arms);
        if (!arms) {
            tally->lost++;
            return NULL;
        }
        tally->arms = arms;
        tally->arm_capacity = capacity;
    }
    struct tally_arm *arm = &tally->arms[tally->arm_count++];
    *arm = (struct tally_arm){ .version = 0 };
    name_arm(arm, id);
    return arm;
}

static void add_arms(struct tally *tally, const struct board_region *region)
{
    for (size_t i = 0; i < BOARD_ARMS_MAX; i++) {
        const struct board_arm *from = &region->arms[i];
        char name[BOARD_ARM_NAME_BYTES];
        struct board_arm_id id;
        struct tally_arm *into = board_arm_read(from, name, &id) ? arm_of(tally, &id) : NULL;
        for (size_t k = 0; into && k < ARM_COUNTERS; k++)
            into->counters[k] += atomic_load_explicit(&from->counters[k], memory_order_relaxed);
        if (into)
            board_hist_read(&from->ttft_us, &into->ttft_us);
    }
}

void tally_add_region(struct tally *tally, const struct board_region *region, bool gauges)
{
    for (size_t i = 0; i < WORKER_COUNTERS; i++) {
        if (gauges || !worker_counter_is_gauge((enum worker_counter)i))
            tally->workers[i] += atomic_load_explicit(&region->counters[i], memory_order_relaxed);
    }
    board_hist_read(&region->overhead_us, &tally->overhead_us);
    add_arms(tally, region);
    for (size_t i = 0; i < BOARD_SERIES_MAX; i++) {
        const struct board_series *from = &region->series[i];
        const uint64_t key = atomic_load_explicit(&from->key, memory_order_acquire);
        uint32_t team, route, model;
        if (key == 0)
            break;
        board_series_key(key, &team, &route, &model);
        struct tally_series *into = tally_series(tally, team, route, model);
        if (!into)
            continue;
        for (size_t k = 0; k < SERIES_COUNTERS; k++)
            into->counters[k] += atomic_load_explicit(&from->counters[k], memory_order_relaxed);
        board_hist_read(&from->ttft_us, &into->ttft_us);
        board_hist_read(&from->duration_us, &into->duration_us);
    }
}

void tally_add(struct tally *tally, const struct tally *from)
{
    const struct tally_series *s;
    for (size_t i = 0; i < WORKER_COUNTERS; i++)
        tally->workers[i] += from->workers[i];
    hist_merge(&tally->overhead_us, &from->overhead_us);
    for (uint32_t i = 0; i < from->arm_count; i++) {
        const struct tally_arm *arm = &from->arms[i];
        struct tally_arm *into = arm_of(tally, &(struct board_arm_id){ .version = arm->version,
                                                                       .shadow = arm->shadow,
                                                                       .name = span_of(arm->name, arm->name_len) });
        if (into)
            merge_arm(into, arm);
    }
    for (uint32_t at = 0; (s = tally_each(from, &at));) {
        struct tally_series *into = tally_series(tally, s->team, s->route, s->model);
        if (into)
            tally_merge_series(into, s);
    }
}

void tally_sum(struct tally *tally, const struct tally *ended, struct board *board)
{
    tally_add(tally, ended);
    for (unsigned number = 0; number < board_regions(board); number++) {
        if (board_region_taken(board, number))
            tally_add_region(tally, board_region(board, number), true);
    }
}

const struct tally_series *tally_each(const struct tally *tally, uint32_t *at)
{
    while (*at < tally->capacity) {
        const struct tally_series *s = tally->slots[(*at)++];
        if (s)
            return s;
    }
    return NULL;
}
