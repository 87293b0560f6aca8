/* units.h - the numbers that people write: durations, sizes, money, percentages. Exact integers out. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

/* "250ms", "3s", "10m", "24h", "7d", or a sum ("1h30m"); a bare 0 is allowed. ERR_SYNTAX, ERR_TOO_LARGE. */
MUST_CHECK enum err units_parse_duration(struct span text, uint64_t *ret_ms);
/* "32MiB", "64k" (= 1024), "1000", "1GB" (= 10^9). */
MUST_CHECK enum err units_parse_bytes(struct span text, uint64_t *ret_bytes);
/* "2%", "0.5%", "12%" -> parts per million. Without the sign: a fraction ("0.02"). ERR_INVALID over 100%. */
MUST_CHECK enum err units_parse_share(struct span text, uint32_t *ret_ppm);
/* US dollars as text -> nano-dollars. "0.15", "$0.50", "5e-07". ERR_SYNTAX, ERR_INVALID (negative, or finer than a
 * nano-dollar), ERR_TOO_LARGE. */
MUST_CHECK enum err units_parse_usd(struct span text, int64_t *ret_nano);
/* Decimal digits into out (no NUL); returns how many. A fifth of what snprintf costs. */
#define UNITS_U64_BYTES 20
size_t units_put_u64(uint64_t value, char *out);
/* Exactly `digits` digits, with leading zeros: the lowest ones of the value. */
void units_put_padded(uint64_t value, size_t digits, char *out);
/* Shortest exact text ("3s", "1m30s", "250ms"); out >= UNITS_TEXT_BYTES; returns out. */
#define UNITS_TEXT_BYTES 32
char *units_format_duration(uint64_t ms, char *out);
char *units_format_share(uint32_t ppm, char *out); /* exact: "12%", "0.05%" */
char *units_format_usd(int64_t nano, char *out);   /* "0.000123", at least two decimals, no trailing zeros beyond */
