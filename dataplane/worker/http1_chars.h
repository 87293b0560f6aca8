/* http1_chars.h - which bytes may stand where in an HTTP/1.1 message. Private to http1*.c, h2_head.c and their tests. */
#pragma once
#include "common/base.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum {
    HTTP1_TOKEN = 1,  /* RFC 9110 section 5.6.2: methods, names, chunk extensions */
    HTTP1_VALUE = 2,  /* section 5.5: HTAB, SP, VCHAR, obs-text */
    HTTP1_TARGET = 4, /* RFC 3986: unreserved, reserved without '#', '%' */
    HTTP1_HOST = 8,   /* RFC 3986 section 3.2.2 with a port, without ',': two hosts in one field are no host */
};
extern const unsigned char http1_chars[256];

static inline bool http1_is(char byte, unsigned kind)
{
    return (http1_chars[(unsigned char)byte] & kind) != 0;
}
static inline bool http1_is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}
/* The first byte in [at, end) that is not HTTP1_VALUE, or end. Sixteen at a time: values are most of a head. */
static inline const char *http1_value_run(const char *at, const char *end)
{
#if defined(__SSE2__)
    for (; end - at >= 16; at += 16) {
        const __m128i block = _mm_loadu_si128((const __m128i *)(const void *)at);
        /* Unsigned, below 0x20: the larger of the byte and 0x1f is 0x1f. */
        const __m128i low = _mm_cmpeq_epi8(_mm_max_epu8(block, _mm_set1_epi8(0x1f)), _mm_set1_epi8(0x1f));
        const __m128i bad = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(block, _mm_set1_epi8('\t')), low),
                                         _mm_cmpeq_epi8(block, _mm_set1_epi8(0x7f)));
        const int mask = _mm_movemask_epi8(bad);
        if (mask != 0)
            return at + __builtin_ctz((unsigned)mask);
    }
#endif
    while (at < end && http1_is(*at, HTTP1_VALUE))
        at++;
    return at;
}
/* Value of a hexadecimal digit, or -1. */
static inline int http1_hex(char byte)
{
    if (http1_is_digit(byte))
        return byte - '0';
    char lower = (char)(byte | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}
