#include "common/span.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

static unsigned char lower(char c)
{
    unsigned char u = (unsigned char)c;
    return u >= 'A' && u <= 'Z' ? (unsigned char)(u + ('a' - 'A')) : u;
}

int span_cmp(struct span a, struct span b)
{
    size_t common = size_min(a.len, b.len);
    int order = common ? memcmp(a.ptr, b.ptr, common) : 0;
    if (order != 0)
        return order;
    return (a.len > b.len) - (a.len < b.len);
}

bool span_starts(struct span s, struct span prefix)
{
    return s.len >= prefix.len && span_eq(span_head(s, prefix.len), prefix);
}

bool span_starts_nocase(struct span s, struct span prefix)
{
    if (s.len < prefix.len)
        return false;
    for (size_t i = 0; i < prefix.len; i++) {
        if (s.ptr[i] != prefix.ptr[i] && lower(s.ptr[i]) != lower(prefix.ptr[i]))
            return false;
    }
    return true;
}

bool span_ends(struct span s, struct span suffix)
{
    return s.len >= suffix.len && span_eq(span_skip(s, s.len - suffix.len), suffix);
}

struct span span_trim(struct span s)
{
    while (s.len > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t'))
        s = span_skip(s, 1);
    while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

size_t span_find_byte(struct span s, char byte)
{
    const char *at = s.len ? memchr(s.ptr, (unsigned char)byte, s.len) : NULL;
    return at ? (size_t)(at - s.ptr) : SIZE_MAX;
}

size_t span_find_eol(struct span s)
{
    size_t at = 0;
#if defined(__SSE2__)
    const __m128i cr = _mm_set1_epi8('\r'), lf = _mm_set1_epi8('\n');
    for (; s.len - at >= 16; at += 16) {
        const __m128i block = _mm_loadu_si128((const __m128i *)(const void *)(s.ptr + at));
        const int mask = _mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(block, cr), _mm_cmpeq_epi8(block, lf)));
        if (mask != 0)
            return at + (size_t)__builtin_ctz((unsigned)mask);
    }
#endif
    for (; at < s.len; at++)
        if (s.ptr[at] == '\r' || s.ptr[at] == '\n')
            return at;
    return SIZE_MAX;
}

size_t span_find(struct span s, struct span needle)
{
    if (needle.len == 0)
        return 0;
    const char *at = s.len ? memmem(s.ptr, s.len, needle.ptr, needle.len) : NULL;
    return at ? (size_t)(at - s.ptr) : SIZE_MAX;
}

bool span_split(struct span *rest, char sep, struct span *ret_part)
{
    if (!rest->ptr)
        return false;
    size_t at = span_find_byte(*rest, sep);
    if (at == SIZE_MAX) {
        *ret_part = *rest;
        *rest = span_of(NULL, 0);
    } else {
        *ret_part = span_head(*rest, at);
        *rest = span_skip(*rest, at + 1);
    }
    return true;
}

bool span_glob(struct span pattern, struct span text)
{
    size_t p = 0, t = 0;
    size_t star = SIZE_MAX, star_text = 0; /* the last '*' seen, and where the text after its run begins */
    while (t < text.len) {
        if (p < pattern.len && pattern.ptr[p] == '*') {
            star = p++;
            star_text = t;
        } else if (p < pattern.len && (pattern.ptr[p] == '?' || pattern.ptr[p] == text.ptr[t])) {
            p++;
            t++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            t = ++star_text;
        } else {
            return false;
        }
    }
    while (p < pattern.len && pattern.ptr[p] == '*')
        p++;
    return p == pattern.len;
}

enum err span_to_u64(struct span s, uint64_t *ret)
{
    if (s.len == 0)
        return ERR_SYNTAX;
    uint64_t value = 0;
    bool overflow = false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return ERR_SYNTAX;
        overflow |= __builtin_mul_overflow(value, UINT64_C(10), &value);
        overflow |= __builtin_add_overflow(value, (uint64_t)(s.ptr[i] - '0'), &value);
    }
    if (overflow)
        return ERR_TOO_LARGE;
    *ret = value;
    return OK;
}

enum err span_to_i64(struct span s, int64_t *ret)
{
    bool negative = s.len > 0 && s.ptr[0] == '-';
    uint64_t magnitude;
    enum err err = span_to_u64(negative ? span_skip(s, 1) : s, &magnitude);
    if (err)
        return err;
    if (magnitude > (uint64_t)INT64_MAX + (negative ? 1 : 0))
        return ERR_TOO_LARGE;
    /* -INT64_MIN does not exist: step down to where negation is safe. */
    *ret = !negative ? (int64_t)magnitude : magnitude == 0 ? 0 : -(int64_t)(magnitude - 1) - 1;
    return OK;
}

/* Cell (i, j) of the alignment matrix from the two rows before; i and j count from 1. */
static unsigned distance_cell(struct span a, struct span b, size_t i, size_t j, const unsigned *before2,
                              const unsigned *before, const unsigned *row)
{
    unsigned best = before[j - 1] + (a.ptr[i - 1] != b.ptr[j - 1]);
    if (before[j] + 1 < best)
        best = before[j] + 1;
    if (row[j - 1] + 1 < best)
        best = row[j - 1] + 1;
    if (i > 1 && j > 1 && a.ptr[i - 1] == b.ptr[j - 2] && a.ptr[i - 2] == b.ptr[j - 1] && before2[j - 2] + 1 < best)
        best = before2[j - 2] + 1;
    return best;
}

unsigned span_distance(struct span a, struct span b, unsigned max)
{
    if (span_eq(a, b))
        return 0;
    size_t difference = size_max(a.len, b.len) - size_min(a.len, b.len);
    if (difference > max || a.len > SPAN_DISTANCE_LEN_MAX || b.len > SPAN_DISTANCE_LEN_MAX)
        return max + 1;
    unsigned storage[3][SPAN_DISTANCE_LEN_MAX + 1];
    unsigned *before2 = storage[0], *before = storage[1], *row = storage[2];
    for (size_t j = 0; j <= b.len; j++)
        before[j] = before2[j] = (unsigned)j;
    for (size_t i = 1; i <= a.len; i++) {
        row[0] = (unsigned)i;
        unsigned least = row[0];
        for (size_t j = 1; j <= b.len; j++) {
            row[j] = distance_cell(a, b, i, j, before2, before, row);
            if (row[j] < least)
                least = row[j];
        }
        /* No way on from here comes back below. A swap skips this row, but the row before it is then at max at least.
         */
        if (least > max)
            return max + 1;
        unsigned *oldest = before2;
        before2 = before;
        before = row;
        row = oldest;
    }
    return before[b.len] > max ? max + 1 : before[b.len];
}
