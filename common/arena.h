/* arena.h - one owner, one free point: memory and linked resources of one request, one decode or one compile.
 *
 * Allocations are aligned to 16 and zeroed. Releasing or resetting the arena runs the deferred releases in reverse
 * order, then frees everything, so that error paths carry no free lists. Not thread-safe. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include <stdarg.h>

struct arena_block;
struct arena_deferred;

struct arena {
    struct arena_block *blocks;      /* newest first */
    struct arena_deferred *deferred; /* newest first */
    size_t used;                     /* bytes given out, with padding */
    size_t held;                     /* bytes of all blocks: what it costs */
    size_t max;                      /* used never exceeds this */
    size_t block_bytes;              /* least size of a block */
};

/* max: the most this owner may ever use. No memory is taken before the first allocation. */
void arena_init(struct arena *arena, size_t max);
void arena_release(struct arena *arena); /* runs the deferred, frees all; reusable; NULL is fine */
void arena_reset(struct arena *arena);   /* the same, but keeps one block for reuse */
/* NULL: the maximum is reached or memory is out. */
void *arena_alloc(struct arena *arena, size_t bytes);
void *arena_alloc_dirty(struct arena *arena, size_t bytes); /* the same, not zeroed: for what is written at once */
void *arena_alloc_array(struct arena *arena, size_t count, size_t element_bytes); /* checks the product */
/* Copy followed by a NUL. On failure .ptr is NULL. */
struct span arena_dup(struct arena *arena, struct span bytes);
/* The parts, one behind the other, and a NUL. On failure .ptr is NULL. A tenth of what arena_printf costs. */
struct span arena_join(struct arena *arena, const struct span *parts, size_t count);
char *arena_printf(struct arena *arena, const char *fmt, ...) PRINTF_LIKE(2, 3); /* NULL on failure */
/* Runs release(object) when the arena is released or reset. ERR_NOMEM: not linked; the caller still owns it. */
MUST_CHECK enum err arena_defer(struct arena *arena, void (*release)(void *object), void *object);

#define ARENA_NEW(arena, type)          ((type *)arena_alloc((arena), sizeof(type)))
#define ARENA_ARRAY(arena, count, type) ((type *)arena_alloc_array((arena), (count), sizeof(type)))
