/* json_scan.h - what the JSON index and the JSON writer both do to the bytes of a string. Private to common/json_*.c.
 */
#pragma once
#include "common/base.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN)
#include <arm_neon.h>
#define JSON_SCAN_NEON 1
#endif

/* True for a byte that ends a run of plain ones: a quote, a backslash, a control or the start of a multi-byte
 * character. */
static inline bool json_byte_special(unsigned char byte)
{
    return byte < 0x20 || byte >= 0x80 || byte == '"' || byte == '\\';
}

#if defined(__SSE2__)
/* A byte of ones for each special byte. The comparison is signed: one test finds controls and bytes with the high bit.
 */
static inline __m128i json_special16(__m128i block)
{
    return _mm_or_si128(
        _mm_or_si128(_mm_cmpeq_epi8(block, _mm_set1_epi8('"')), _mm_cmpeq_epi8(block, _mm_set1_epi8('\\'))),
        _mm_cmplt_epi8(block, _mm_set1_epi8(0x20)));
}

static inline __m128i json_load16(const unsigned char *at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}
#endif

/* The closing quote of a string whose content begins at `at`, when only plain bytes come before it and it is one of the
 * first sixteen; NULL when that is not so, or not known. One load judges most names and short values. */
static inline const unsigned char *json_short_end(const unsigned char *at, const unsigned char *end)
{
#if defined(__SSE2__)
    if (end - at >= 16) {
        const int mask = _mm_movemask_epi8(json_special16(json_load16(at)));
        at += mask ? __builtin_ctz((unsigned)mask) : 0;
        return mask && *at == '"' ? at : NULL;
    }
#endif
    (void)at;
    (void)end;
    return NULL;
}

/* The first special byte in [at, end), or end. Sixteen at a time, and four times that while there is none: string bytes
 * are most of every prompt. */
static inline const unsigned char *json_plain_run(const unsigned char *at, const unsigned char *end)
{
#if defined(__SSE2__)
    for (; end - at >= 64; at += 64) {
        const __m128i any =
            _mm_or_si128(_mm_or_si128(json_special16(json_load16(at)), json_special16(json_load16(at + 16))),
                         _mm_or_si128(json_special16(json_load16(at + 32)), json_special16(json_load16(at + 48))));
        if (_mm_movemask_epi8(any) != 0)
            break;
    }
    for (; end - at >= 16; at += 16) {
        const int mask = _mm_movemask_epi8(json_special16(json_load16(at)));
        if (mask != 0)
            return at + __builtin_ctz((unsigned)mask);
    }
    if (end - at >= 8) { /* names are short: eight more in one step */
        const __m128i block = _mm_loadl_epi64((const __m128i *)(const void *)at);
        const int mask = _mm_movemask_epi8(json_special16(block)) & 0xFF;
        if (mask != 0)
            return at + __builtin_ctz((unsigned)mask);
        at += 8;
    }
#elif defined(JSON_SCAN_NEON)
    while (end - at >= 16) {
        uint8x16_t block = vld1q_u8(at);
        uint8x16_t special = vorrq_u8(vorrq_u8(vceqq_u8(block, vdupq_n_u8('"')), vceqq_u8(block, vdupq_n_u8('\\'))),
                                      vcltq_s8(vreinterpretq_s8_u8(block), vdupq_n_s8(0x20)));
        /* Four bits a byte, lowest first: NEON has no movemask. */
        uint8x8_t nibbles = vshrn_n_u16(vreinterpretq_u16_u8(special), 4);
        uint64_t mask = vget_lane_u64(vreinterpret_u64_u8(nibbles), 0);
        if (mask != 0)
            return at + (__builtin_ctzll(mask) >> 2);
        at += 16;
    }
#endif
    while (at < end && !json_byte_special(*at))
        at++;
    return at;
}

/* Length of the well-formed multi-byte character at `at` (2 to 4), 0 when there is none: overlong forms, surrogates and
 * what lies above U+10FFFF included. The table is Unicode 15, section 3.9, table 3-7. at < end. */
static inline size_t json_utf8_length(const unsigned char *at, const unsigned char *end)
{
    size_t left = (size_t)(end - at);
    unsigned char lead = at[0], low = 0x80, high = 0xBF;
    size_t length;
    if (lead >= 0xC2 && lead <= 0xDF) {
        length = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        length = 3;
        low = lead == 0xE0 ? 0xA0 : 0x80;
        high = lead == 0xED ? 0x9F : 0xBF;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        length = 4;
        low = lead == 0xF0 ? 0x90 : 0x80;
        high = lead == 0xF4 ? 0x8F : 0xBF;
    } else {
        return 0;
    }
    if (left < length || at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    return length;
}
