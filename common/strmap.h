/* strmap.h - open-addressing map from bytes to a pointer, in an arena. Keys are borrowed. Keyed hash: names from
 * outside cannot make it slow. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

struct arena;

struct strmap_slot {
    struct span key; /* .ptr NULL: free */
    void *value;
    uint64_t hash;
};
struct strmap {
    struct arena *arena;
    struct strmap_slot *slots;
    size_t capacity; /* power of two or 0 */
    size_t count;
    uint8_t seed[16];
};

void strmap_init(struct strmap *map, struct arena *arena);
/* ERR_EXISTS: the key is there; its value is unchanged. ERR_NOMEM. key.ptr must not be NULL. */
MUST_CHECK enum err strmap_put(struct strmap *map, struct span key, void *value);
void strmap_replace_value(struct strmap *map, struct span key, void *value); /* key must be there */
void *strmap_get(const struct strmap *map, struct span key);                 /* NULL when absent */
bool strmap_has(const struct strmap *map, struct span key);
/* The key nearest to `name` by edit distance (at most 1 + len/4 away), for "did you mean"; empty span when none is
 * near. */
struct span strmap_nearest(const struct strmap *map, struct span name);
/* for (size_t at = 0; strmap_each(&map, &at, &key, &value);) - in slot order, not sorted. */
bool strmap_each(const struct strmap *map, size_t *at, struct span *ret_key, void **ret_value);
