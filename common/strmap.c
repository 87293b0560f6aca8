#include "common/strmap.h"
#include "common/arena.h"
#include "common/digest.h"

#define STRMAP_FIRST_SLOTS 16

void strmap_init(struct strmap *map, struct arena *arena)
{
    *map = (struct strmap){ .arena = arena };
    random_bytes(map->seed, sizeof map->seed);
}

/* The slot of the key, or the free one where it would go. The map is never full. */
static struct strmap_slot *slot_of(struct strmap_slot *slots, size_t capacity, struct span key, uint64_t hash)
{
    for (size_t at = (size_t)hash & (capacity - 1);; at = (at + 1) & (capacity - 1)) {
        struct strmap_slot *slot = &slots[at];
        if (!slot->key.ptr || (slot->hash == hash && span_eq(slot->key, key)))
            return slot;
    }
}

static struct strmap_slot *find(const struct strmap *map, struct span key)
{
    if (map->count == 0)
        return NULL;
    struct strmap_slot *slot = slot_of(map->slots, map->capacity, key, siphash24(map->seed, key));
    return slot->key.ptr ? slot : NULL;
}

/* The old slots stay in the arena: together they are smaller than the new ones. */
static enum err grow(struct strmap *map)
{
    size_t capacity;
    if (!size_mul(map->capacity, 2, &capacity))
        return ERR_NOMEM;
    capacity = size_max(capacity, STRMAP_FIRST_SLOTS);
    struct strmap_slot *slots = ARENA_ARRAY(map->arena, capacity, struct strmap_slot);
    if (!slots)
        return ERR_NOMEM;
    for (size_t i = 0; i < map->capacity; i++) {
        const struct strmap_slot *old = &map->slots[i];
        if (old->key.ptr)
            *slot_of(slots, capacity, old->key, old->hash) = *old;
    }
    map->slots = slots;
    map->capacity = capacity;
    return OK;
}

enum err strmap_put(struct strmap *map, struct span key, void *value)
{
    REQUIRE(key.ptr);
    if (find(map, key))
        return ERR_EXISTS;
    if (map->count >= map->capacity / 4 * 3) {
        enum err err = grow(map);
        if (err)
            return err;
    }
    uint64_t hash = siphash24(map->seed, key);
    *slot_of(map->slots, map->capacity, key, hash) = (struct strmap_slot){ .key = key, .value = value, .hash = hash };
    map->count++;
    return OK;
}

void strmap_replace_value(struct strmap *map, struct span key, void *value)
{
    struct strmap_slot *slot = find(map, key);
    REQUIRE(slot);
    slot->value = value;
}

void *strmap_get(const struct strmap *map, struct span key)
{
    const struct strmap_slot *slot = find(map, key);
    return slot ? slot->value : NULL;
}

bool strmap_has(const struct strmap *map, struct span key)
{
    return find(map, key) != NULL;
}

struct span strmap_nearest(const struct strmap *map, struct span name)
{
    struct span best = span_of(NULL, 0);
    if (name.len > SPAN_DISTANCE_LEN_MAX)
        return best;
    unsigned bound = 1 + (unsigned)(name.len / 4);
    unsigned best_distance = bound + 1;
    for (size_t i = 0; i < map->capacity; i++) {
        struct span key = map->slots[i].key;
        if (!key.ptr)
            continue;
        unsigned distance = span_distance(name, key, bound);
        /* Slot order is random: ties go to the first by name, so that messages are the same each time. */
        bool nearer = distance < best_distance;
        bool tie = distance == best_distance && distance <= bound && span_cmp(key, best) < 0;
        if (nearer || tie) {
            best = key;
            best_distance = distance;
        }
    }
    return best;
}

bool strmap_each(const struct strmap *map, size_t *at, struct span *ret_key, void **ret_value)
{
    for (; *at < map->capacity; (*at)++) {
        const struct strmap_slot *slot = &map->slots[*at];
        if (slot->key.ptr) {
            *ret_key = slot->key;
            *ret_value = slot->value;
            (*at)++;
            return true;
        }
    }
    return false;
}
