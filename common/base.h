/* base.h - what every file may assume: a few macros, checked arithmetic, and the libc calls that are banned. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MUST_CHECK                      __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, first)         __attribute__((format(printf, fmt, first)))
#define UNUSED                          __attribute__((unused))
#define LIKELY(x)                       __builtin_expect(!!(x), 1)
#define UNLIKELY(x)                     __builtin_expect(!!(x), 0)
#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* A condition that the caller promised or a transition keeps. Stays on in release: a wrong state must stop here and not
 * be served from. Never used on bytes from outside. */
#define REQUIRE(cond) ((cond) ? (void)0 : base_require_failed(#cond, __FILE__, __LINE__))
_Noreturn void base_require_failed(const char *condition, const char *file, int line);

static inline size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}
static inline size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}
/* True when the result fits; *ret is then written. */
static inline bool size_add(size_t a, size_t b, size_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}
static inline bool size_mul(size_t a, size_t b, size_t *ret)
{
    return !__builtin_mul_overflow(a, b, ret);
}

/* Unbounded, locale-dependent, or unable to say "that was no number". */
#pragma GCC poison strcpy strcat sprintf vsprintf gets strtok strncpy strncat atoi atol atoll atof rand srand
#pragma GCC poison asctime ctime gmtime localtime tmpnam mktemp
