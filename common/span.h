/* span.h - borrowed bytes: a pointer and a length. Owns nothing; whoever lends the bytes says how long they live.
 * Spans made by arena_dup and by the table decoders are followed by a NUL, so their .ptr is also a C string. */
#pragma once
#include "common/base.h"
#include "common/err.h"

struct span {
    const char *ptr;
    size_t len;
};

#define SPAN(literal) ((struct span){ .ptr = "" literal, .len = sizeof(literal) - 1 })
#define SPAN_FMT      "%.*s"
#define SPAN_ARG(s)   (int)((s).len > 4096 ? 4096 : (s).len), ((s).ptr ? (s).ptr : "")

static inline struct span span_of(const void *ptr, size_t len)
{
    return (struct span){ .ptr = ptr, .len = len };
}
static inline struct span span_cstr(const char *cstr) /* NULL gives the empty span */
{
    return (struct span){ .ptr = cstr, .len = cstr ? strlen(cstr) : 0 };
}
static inline bool span_empty(struct span s)
{
    return s.len == 0;
}
static inline bool span_eq(struct span a, struct span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}
/* s without its first n bytes (all of them when n > len). */
static inline struct span span_skip(struct span s, size_t n)
{
    n = size_min(n, s.len);
    return span_of(n ? s.ptr + n : s.ptr, s.len - n);
}
static inline struct span span_head(struct span s, size_t n)
{
    return span_of(s.ptr, size_min(n, s.len));
}

int span_cmp(struct span a, struct span b); /* bytewise; a prefix comes before what it begins */
bool span_starts(struct span s, struct span prefix);
bool span_starts_nocase(struct span s, struct span prefix);
/* ASCII only. Inline up to the first byte, where names mostly differ already. */
static inline bool span_eq_nocase(struct span a, struct span b)
{
    return a.len == b.len && (a.len == 0 || (((a.ptr[0] ^ b.ptr[0]) & ~0x20) == 0 && span_starts_nocase(a, b)));
}
bool span_ends(struct span s, struct span suffix);
struct span span_trim(struct span s); /* SP and HT at both ends */
/* Index of the first occurrence, or SIZE_MAX. */
size_t span_find_byte(struct span s, char byte);
size_t span_find(struct span s, struct span needle);
size_t span_find_eol(struct span s); /* the first CR or LF */
/* Cuts *rest at the first `sep`: *ret_part is what stands before it, *rest what stands after. False when *rest was
 * exhausted already (its .ptr is then NULL). "a,,b" gives "a", "", "b"; "" gives one empty part. */
bool span_split(struct span *rest, char sep, struct span *ret_part);
/* Shell-like pattern with '*' (any run, '/' included) and '?' only. Linear in practice: one backtrack point. */
bool span_glob(struct span pattern, struct span text);
/* Whole span must be a decimal number without sign. ERR_SYNTAX, ERR_TOO_LARGE. */
MUST_CHECK enum err span_to_u64(struct span s, uint64_t *ret);
MUST_CHECK enum err span_to_i64(struct span s, int64_t *ret); /* one leading '-' allowed */
/* Edit distance with adjacent swaps, bounded by max (returns max + 1 when more, and for unequal spans of which one is
 * longer than SPAN_DISTANCE_LEN_MAX); for "did you mean". Optimal string alignment: no byte is edited twice. */
#define SPAN_DISTANCE_LEN_MAX 128 /* work is the product of the lengths: a long name must not buy much */
unsigned span_distance(struct span a, struct span b, unsigned max);
