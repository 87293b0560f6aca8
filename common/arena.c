#include "common/arena.h"
#include "common/fault.h"

#include <stdalign.h>

/* What was not given out is poisoned under AddressSanitizer, so that overruns inside a block are seen too. */
#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif
#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(ptr, bytes)   ASAN_POISON_MEMORY_REGION((ptr), (bytes))
#define UNPOISON(ptr, bytes) ASAN_UNPOISON_MEMORY_REGION((ptr), (bytes))
#else
#define POISON(ptr, bytes)   ((void)(ptr), (void)(bytes))
#define UNPOISON(ptr, bytes) ((void)(ptr), (void)(bytes))
#endif

#define ARENA_ALIGN       16
#define ARENA_BLOCK_LEAST 4096
#define ARENA_BLOCK_MOST                                                                                               \
    65536 /* blocks double up to this; also the largest that a reset keeps, so that one huge                           \
             request does not pin its memory */

struct arena_block {
    struct arena_block *next;
    size_t cap;
    size_t used;
    alignas(ARENA_ALIGN) char data[];
};

struct arena_deferred {
    struct arena_deferred *next;
    void (*release)(void *object);
    void *object;
};

void arena_init(struct arena *arena, size_t max)
{
    *arena = (struct arena){ .max = max, .block_bytes = ARENA_BLOCK_LEAST };
}

static void run_deferred(struct arena *arena)
{
    while (arena->deferred) {
        struct arena_deferred *deferred = arena->deferred;
        arena->deferred = deferred->next;
        deferred->release(deferred->object);
    }
}

static void block_free(struct arena_block *block)
{
    UNPOISON(block->data, block->cap);
    free(block);
}

/* Frees all blocks but `kept` (may be NULL). */
static void free_blocks(struct arena *arena, const struct arena_block *kept)
{
    for (struct arena_block *block = arena->blocks, *next; block; block = next) {
        next = block->next;
        if (block != kept)
            block_free(block);
    }
    arena->blocks = NULL;
    arena->used = 0;
    arena->held = kept ? kept->cap : 0;
}

void arena_release(struct arena *arena)
{
    if (!arena)
        return;
    run_deferred(arena);
    free_blocks(arena, NULL);
    arena->block_bytes = ARENA_BLOCK_LEAST;
}

void arena_reset(struct arena *arena)
{
    run_deferred(arena);
    struct arena_block *kept = arena->blocks;
    while (kept && kept->cap > ARENA_BLOCK_MOST)
        kept = kept->next;
    free_blocks(arena, kept);
    if (kept) {
        kept->next = NULL;
        kept->used = 0;
        POISON(kept->data, kept->cap);
        arena->blocks = kept;
    }
}

static struct arena_block *block_add(struct arena *arena, size_t least)
{
    size_t cap = size_max(size_max(arena->block_bytes, ARENA_BLOCK_LEAST), least);
    size_t total;
    if (!size_add(cap, sizeof(struct arena_block), &total))
        return NULL;
    struct arena_block *block = fault_malloc(total);
    if (!block)
        return NULL;
    *block = (struct arena_block){ .cap = cap };
    POISON(block->data, cap);
    arena->held += cap;
    if (arena->blocks && least > arena->block_bytes) {
        /* It is filled by this one allocation: the block in front of it still has room for the next. */
        block->next = arena->blocks->next;
        arena->blocks->next = block;
        return block;
    }
    block->next = arena->blocks;
    arena->blocks = block;
    arena->block_bytes = size_min(size_max(arena->block_bytes, ARENA_BLOCK_LEAST) * 2, ARENA_BLOCK_MOST);
    return block;
}

void *arena_alloc_dirty(struct arena *arena, size_t bytes)
{
    size_t padded;
    if (!size_add(size_max(bytes, 1), ARENA_ALIGN - 1, &padded))
        return NULL;
    padded &= ~(size_t)(ARENA_ALIGN - 1);
    if (padded > arena->max - arena->used)
        return NULL;
    struct arena_block *block = arena->blocks;
    if (!block || padded > block->cap - block->used)
        block = block_add(arena, padded);
    if (!block)
        return NULL;
    char *at = block->data + block->used;
    block->used += padded;
    arena->used += padded;
    UNPOISON(at, bytes);
    return at;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    void *at = arena_alloc_dirty(arena, bytes);
    if (at)
        memset(at, 0, bytes);
    return at;
}

void *arena_alloc_array(struct arena *arena, size_t count, size_t element_bytes)
{
    size_t bytes;
    return size_mul(count, element_bytes, &bytes) ? arena_alloc(arena, bytes) : NULL;
}

struct span arena_dup(struct arena *arena, struct span bytes)
{
    size_t total;
    char *copy = size_add(bytes.len, 1, &total) ? arena_alloc_dirty(arena, total) : NULL;
    if (!copy)
        return span_of(NULL, 0);
    if (bytes.len > 0)
        memcpy(copy, bytes.ptr, bytes.len);
    copy[bytes.len] = '\0';
    return span_of(copy, bytes.len);
}

struct span arena_join(struct arena *arena, const struct span *parts, size_t count)
{
    size_t total = 1;
    for (size_t i = 0; i < count; i++)
        if (!size_add(total, parts[i].len, &total))
            return span_of(NULL, 0);
    char *text = arena_alloc_dirty(arena, total), *at = text;
    if (!text)
        return span_of(NULL, 0);
    for (size_t i = 0; i < count; i++) {
        if (parts[i].len > 0)
            memcpy(at, parts[i].ptr, parts[i].len);
        at += parts[i].len;
    }
    *at = '\0';
    return span_of(text, total - 1);
}

char *arena_printf(struct arena *arena, const char *fmt, ...)
{
    va_list args, measured;
    va_start(args, fmt);
    va_copy(measured, args);
    int length = vsnprintf(NULL, 0, fmt, measured);
    va_end(measured);
    REQUIRE(length >= 0);
    char *text = arena_alloc(arena, (size_t)length + 1);
    if (text)
        (void)vsnprintf(text, (size_t)length + 1, fmt, args);
    va_end(args);
    return text;
}

enum err arena_defer(struct arena *arena, void (*release)(void *object), void *object)
{
    struct arena_deferred *deferred = ARENA_NEW(arena, struct arena_deferred);
    if (!deferred)
        return ERR_NOMEM;
    *deferred = (struct arena_deferred){ .next = arena->deferred, .release = release, .object = object };
    arena->deferred = deferred;
    return OK;
}
