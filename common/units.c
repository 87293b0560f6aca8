#include "common/units.h"

#define NANO_DIGITS   9 /* nano-dollars in a dollar, as a power of ten */
#define PPM_DIGITS    6
#define PPM_WHOLE     1000000
#define EXPONENT_MOST 1000 /* "1e999999999" must not cost a loop of that length */

static struct span take_digits(struct span *text)
{
    size_t n = 0;
    while (n < text->len && text->ptr[n] >= '0' && text->ptr[n] <= '9')
        n++;
    struct span digits = span_head(*text, n);
    *text = span_skip(*text, n);
    return digits;
}

static bool take_byte(struct span *text, char byte)
{
    if (text->len == 0 || text->ptr[0] != byte)
        return false;
    *text = span_skip(*text, 1);
    return true;
}

static bool take_exponent(struct span *text, int *ret)
{
    *ret = 0;
    if (!take_byte(text, 'e') && !take_byte(text, 'E'))
        return true;
    bool negative = take_byte(text, '-');
    if (!negative)
        (void)take_byte(text, '+');
    struct span digits = take_digits(text);
    uint64_t value;
    enum err err = span_to_u64(digits, &value);
    if (err == ERR_SYNTAX)
        return false;
    int bounded = err || value > EXPONENT_MOST ? EXPONENT_MOST : (int)value;
    *ret = negative ? -bounded : bounded;
    return true;
}

/* text times 10^scale as an exact integer. ERR_SYNTAX: no decimal number. ERR_INVALID: negative, or digits beyond the
 * scale. ERR_TOO_LARGE. */
static enum err parse_decimal(struct span text, int scale, uint64_t *ret)
{
    bool negative = take_byte(&text, '-');
    struct span parts[2] = { take_digits(&text), { .ptr = "", .len = 0 } };
    bool point = take_byte(&text, '.');
    if (point)
        parts[1] = take_digits(&text);
    int exponent;
    if (parts[0].len == 0 || (point && parts[1].len == 0) || !take_exponent(&text, &exponent) || text.len > 0)
        return ERR_SYNTAX;
    /* The exponent of the digit at hand: units first, then tenths. */
    int64_t place = (int64_t)parts[0].len - 1 + exponent + scale;
    uint64_t value = 0;
    bool overflow = false, too_fine = false;
    for (size_t part = 0; part < ARRAY_LEN(parts); part++) {
        for (size_t i = 0; i < parts[part].len; i++, place--) {
            unsigned digit = (unsigned)(parts[part].ptr[i] - '0');
            if (place < 0) {
                too_fine |= digit != 0;
            } else {
                overflow |= __builtin_mul_overflow(value, UINT64_C(10), &value);
                overflow |= __builtin_add_overflow(value, (uint64_t)digit, &value);
            }
        }
    }
    for (; place >= 0 && value != 0 && !overflow; place--)
        overflow |= __builtin_mul_overflow(value, UINT64_C(10), &value);
    if (too_fine || (negative && (value != 0 || overflow)))
        return ERR_INVALID;
    if (overflow)
        return ERR_TOO_LARGE;
    *ret = value;
    return OK;
}

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit duration_units[] = {
    { "d", UINT64_C(86400000) },
    { "h", UINT64_C(3600000) },
    { "m", UINT64_C(60000) },
    { "s", UINT64_C(1000) },
    { "ms", 1 },
};

/* Takes "12ms". Units must come from the largest to the smallest: *at is the first that may still come. */
static enum err take_duration(struct span *text, size_t *at, uint64_t *ret_ms)
{
    uint64_t number;
    enum err err = span_to_u64(take_digits(text), &number);
    if (err)
        return err;
    size_t letters = 0;
    while (letters < text->len && text->ptr[letters] >= 'a' && text->ptr[letters] <= 'z')
        letters++;
    struct span name = span_head(*text, letters);
    *text = span_skip(*text, letters);
    while (*at < ARRAY_LEN(duration_units) && !span_eq(name, span_cstr(duration_units[*at].name)))
        (*at)++;
    if (*at == ARRAY_LEN(duration_units))
        return ERR_SYNTAX;
    return __builtin_mul_overflow(number, duration_units[(*at)++].factor, ret_ms) ? ERR_TOO_LARGE : OK;
}

enum err units_parse_duration(struct span text, uint64_t *ret_ms)
{
    if (span_eq(text, SPAN("0"))) {
        *ret_ms = 0;
        return OK;
    }
    uint64_t sum = 0;
    size_t at = 0;
    bool overflow = false;
    do {
        uint64_t part;
        enum err err = take_duration(&text, &at, &part);
        if (err == ERR_TOO_LARGE)
            overflow = true;
        else if (err)
            return err;
        else
            overflow |= __builtin_add_overflow(sum, part, &sum);
    } while (text.len > 0 && !overflow);
    if (overflow)
        return ERR_TOO_LARGE;
    *ret_ms = sum;
    return OK;
}

enum err units_parse_bytes(struct span text, uint64_t *ret_bytes)
{
    static const struct unit byte_units[] = {
        { "", 1 },
        { "B", 1 },
        { "K", UINT64_C(1) << 10 },
        { "KiB", UINT64_C(1) << 10 },
        { "kB", UINT64_C(1000) },
        { "M", UINT64_C(1) << 20 },
        { "MiB", UINT64_C(1) << 20 },
        { "MB", UINT64_C(1000000) },
        { "G", UINT64_C(1) << 30 },
        { "GiB", UINT64_C(1) << 30 },
        { "GB", UINT64_C(1000000000) },
        { "T", UINT64_C(1) << 40 },
        { "TiB", UINT64_C(1) << 40 },
        { "TB", UINT64_C(1000000000000) },
    };
    struct span digits = take_digits(&text);
    for (size_t i = 0; i < ARRAY_LEN(byte_units); i++) {
        if (!span_eq_nocase(text, span_cstr(byte_units[i].name)))
            continue;
        uint64_t number;
        enum err err = span_to_u64(digits, &number);
        if (err)
            return err;
        uint64_t bytes;
        if (__builtin_mul_overflow(number, byte_units[i].factor, &bytes))
            return ERR_TOO_LARGE;
        *ret_bytes = bytes;
        return OK;
    }
    return ERR_SYNTAX;
}

enum err units_parse_share(struct span text, uint32_t *ret_ppm)
{
    bool percent = span_ends(text, SPAN("%"));
    if (percent)
        text.len--;
    uint64_t ppm;
    enum err err = parse_decimal(text, percent ? PPM_DIGITS - 2 : PPM_DIGITS, &ppm);
    if (err == ERR_TOO_LARGE || (!err && ppm > PPM_WHOLE))
        return ERR_INVALID;
    if (err)
        return err;
    *ret_ppm = (uint32_t)ppm;
    return OK;
}

enum err units_parse_usd(struct span text, int64_t *ret_nano)
{
    (void)take_byte(&text, '$');
    uint64_t nano;
    enum err err = parse_decimal(text, NANO_DIGITS, &nano);
    if (err)
        return err;
    if (nano > INT64_MAX)
        return ERR_TOO_LARGE;
    *ret_nano = (int64_t)nano;
    return OK;
}

char *units_format_duration(uint64_t ms, char *out)
{
    size_t len = 0;
    for (size_t i = 0; i < ARRAY_LEN(duration_units); i++) {
        const struct unit *unit = &duration_units[i];
        if (ms >= unit->factor)
            len += (size_t)snprintf(out + len, UNITS_TEXT_BYTES - len, "%llu%s",
                                    (unsigned long long)(ms / unit->factor), unit->name);
        ms %= unit->factor;
    }
    if (len == 0)
        memcpy(out, "0s", sizeof "0s");
    return out;
}

size_t units_put_u64(uint64_t value, char *out)
{
    size_t length = 1; /* compared, not divided: most numbers here have few digits */
    for (uint64_t least = 10; value >= least; length++) {
        if (length == UNITS_U64_BYTES - 1) {
            length++;
            break;
        }
        least *= 10;
    }
    units_put_padded(value, length, out);
    return length;
}

void units_put_padded(uint64_t value, size_t digits, char *out)
{
    while (digits > 0) {
        out[--digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

char *units_format_share(uint32_t ppm, char *out)
{
    int n = snprintf(out, UNITS_TEXT_BYTES, "%u.%04u", ppm / 10000, ppm % 10000);
    while (out[n - 1] == '0')
        n--;
    n -= out[n - 1] == '.';
    memcpy(out + n, "%", 2);
    return out;
}

char *units_format_usd(int64_t nano, char *out)
{
    const uint64_t dollar = UINT64_C(1000000000);
    uint64_t magnitude = nano < 0 ? -(uint64_t)nano : (uint64_t)nano;
    char *at = out;
    if (nano < 0)
        *at++ = '-';
    at += units_put_u64(magnitude / dollar, at);
    *at++ = '.';
    units_put_padded(magnitude % dollar, NANO_DIGITS, at);
    const char *least = at + 2;
    at += NANO_DIGITS;
    while (at > least && at[-1] == '0')
        at--;
    *at = '\0';
    return out;
}
