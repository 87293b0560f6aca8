#include "common/json.h"
#include "common/arena.h"
#include <errno.h>
#include <locale.h>
#include <math.h>

uint32_t json_first(const struct json_index *ix, uint32_t parent)
{
    enum json_kind kind = json_kind(ix, parent);
    bool container = kind == JSON_ARRAY || kind == JSON_OBJECT;
    return container && ix->tokens[parent].next > parent + 1 ? parent + 1 : JSON_NONE;
}

uint32_t json_next(const struct json_index *ix, uint32_t parent, uint32_t token)
{
    uint32_t next = ix->tokens[token].next;
    return next < ix->tokens[parent].next ? next : JSON_NONE;
}

/* The name of a member, compared. Mostly it differs, and mostly in its length. */
static inline bool key_is(const struct json_index *ix, uint32_t key, struct span name)
{
    const struct json_token *t = &ix->tokens[key];
    if (t->escaped)
        return json_string_eq(ix, key, name);
    return t->end - t->start == name.len + 2 && memcmp(ix->text.ptr + t->start + 1, name.ptr, name.len) == 0;
}

uint32_t json_get(const struct json_index *ix, uint32_t object, struct span name)
{
    if (object == JSON_NONE || json_kind(ix, object) != JSON_OBJECT)
        return JSON_NONE;
    const uint32_t end = ix->tokens[object].next;
    for (uint32_t key = object + 1; key < end; key = ix->tokens[key + 1].next)
        if (key_is(ix, key, name))
            return key + 1;
    return JSON_NONE;
}

enum err json_get_once(const struct json_index *ix, uint32_t object, struct span name, uint32_t *ret_value)
{
    uint32_t value = json_get(ix, object, name);
    if (value != JSON_NONE)
        for (uint32_t key = json_next(ix, object, value); key != JSON_NONE; key = json_next(ix, object, key + 1))
            if (key_is(ix, key, name))
                return ERR_DUPLICATE;
    *ret_value = value;
    return OK;
}

/* A walk over a string's content: runs of plain bytes and decoded escapes. The index has checked the grammar. */
struct unescape {
    const char *at;
    const char *end;
    char decoded[4];
};

static struct span string_body(const struct json_index *ix, uint32_t token)
{
    const struct json_token *t = &ix->tokens[token];
    return span_of(ix->text.ptr + t->start + 1, t->end - t->start - 2);
}

static uint32_t hex4(const char *at)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return value;
}

static size_t utf8_encode(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned lead[5] = { 0, 0, 0xC0, 0xE0, 0xF0 };
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    out[0] = (char)(lead[length] | code);
    return length;
}

/* u->at is the backslash of \uXXXX. ERR_INVALID: half of a surrogate pair. */
static enum err unescape_unicode(struct unescape *u, struct span *ret)
{
    uint32_t code = hex4(u->at + 2);
    u->at += 6;
    if (code >= 0xDC00 && code <= 0xDFFF)
        return ERR_INVALID;
    if (code >= 0xD800 && code <= 0xDBFF) {
        if (u->end - u->at < 6 || u->at[0] != '\\' || u->at[1] != 'u')
            return ERR_INVALID;
        uint32_t low = hex4(u->at + 2);
        if (low < 0xDC00 || low > 0xDFFF)
            return ERR_INVALID;
        u->at += 6;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    *ret = span_of(u->decoded, utf8_encode(code, u->decoded));
    return OK;
}

/* The next piece of content, never empty; valid until the next call. ERR_AGAIN: the string is at its end. ERR_INVALID:
 * a lone surrogate. */
static enum err unescape_next(struct unescape *u, struct span *ret)
{
    if (u->at == u->end)
        return ERR_AGAIN;
    if (*u->at != '\\') {
        const char *stop = memchr(u->at, '\\', (size_t)(u->end - u->at));
        if (!stop)
            stop = u->end;
        *ret = span_of(u->at, (size_t)(stop - u->at));
        u->at = stop;
        return OK;
    }
    char letter = u->at[1];
    if (letter == 'u')
        return unescape_unicode(u, ret);
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *known = memchr(from, letter, 5);
    u->decoded[0] = known ? to[known - from] : letter;
    u->at += 2;
    *ret = span_of(u->decoded, 1);
    return OK;
}

bool json_string_eq(const struct json_index *ix, uint32_t token, struct span text)
{
    if (json_kind(ix, token) != JSON_STRING)
        return false;
    struct span body = string_body(ix, token);
    if (!ix->tokens[token].escaped)
        return span_eq(body, text);
    if (body.len < text.len) /* an escape is longer than what it stands for */
        return false;
    struct unescape u = { .at = body.ptr, .end = body.ptr + body.len };
    struct span piece;
    enum err err;
    while ((err = unescape_next(&u, &piece)) == OK) {
        if (!span_eq(span_head(text, piece.len), piece))
            return false;
        text = span_skip(text, piece.len);
    }
    return err == ERR_AGAIN && text.len == 0;
}

enum err json_string(struct arena *arena, const struct json_index *ix, uint32_t token, struct span *ret)
{
    if (json_kind(ix, token) != JSON_STRING)
        return ERR_INVALID;
    struct span body = string_body(ix, token);
    if (!ix->tokens[token].escaped) {
        *ret = body;
        return OK;
    }
    /* Checked before anything is allocated: the content is never longer than what stands in the text. */
    struct unescape u = { .at = body.ptr, .end = body.ptr + body.len };
    struct span piece;
    size_t length = 0;
    enum err err;
    while ((err = unescape_next(&u, &piece)) == OK)
        length += piece.len;
    if (err != ERR_AGAIN)
        return err;
    char *out = arena_alloc(arena, length + 1);
    if (!out)
        return ERR_NOMEM;
    u = (struct unescape){ .at = body.ptr, .end = body.ptr + body.len };
    for (size_t done = 0; unescape_next(&u, &piece) == OK; done += piece.len)
        memcpy(out + done, piece.ptr, piece.len);
    *ret = span_of(out, length);
    return OK;
}

/* A number taken apart: digits x 10^exponent. */
struct decimal {
    struct span whole;    /* digits before the point */
    struct span fraction; /* and after it */
    int64_t exponent;     /* of the point; saturated far beyond anything that fits */
    bool negative;
};

#define EXPONENT_FAR ((int64_t)1 << 40) /* more than a text's length can make up for */

static struct span take_digits(struct span *rest)
{
    size_t n = 0;
    while (n < rest->len && rest->ptr[n] >= '0' && rest->ptr[n] <= '9')
        n++;
    struct span digits = span_head(*rest, n);
    *rest = span_skip(*rest, n);
    return digits;
}

static bool take_byte(struct span *rest, char byte)
{
    if (rest->len == 0 || rest->ptr[0] != byte)
        return false;
    *rest = span_skip(*rest, 1);
    return true;
}

/* The number grammar of RFC 8259 section 6 over the whole text; false when it is not one. */
static bool decimal_parse(struct span text, struct decimal *ret)
{
    struct decimal d = { .negative = take_byte(&text, '-') };
    d.whole = take_digits(&text);
    if (d.whole.len == 0 || (d.whole.len > 1 && d.whole.ptr[0] == '0'))
        return false;
    if (take_byte(&text, '.')) {
        d.fraction = take_digits(&text);
        if (d.fraction.len == 0)
            return false;
    }
    if (take_byte(&text, 'e') || take_byte(&text, 'E')) {
        bool minus = take_byte(&text, '-');
        if (!minus)
            (void)take_byte(&text, '+');
        struct span digits = take_digits(&text);
        if (digits.len == 0)
            return false;
        for (size_t i = 0; i < digits.len && d.exponent < EXPONENT_FAR; i++)
            d.exponent = d.exponent * 10 + (digits.ptr[i] - '0');
        if (minus)
            d.exponent = -d.exponent;
    }
    *ret = d;
    return text.len == 0;
}

/* |text| x 10^scale. ERR_INVALID: not a number, or digits are left below the unit. ERR_TOO_LARGE: not in 64 bits. */
static enum err decimal_magnitude(struct span text, int scale, bool *ret_negative, uint64_t *ret)
{
    struct decimal d;
    if (!decimal_parse(text, &d))
        return ERR_INVALID;
    size_t total = d.whole.len + d.fraction.len;
    size_t first = total, last = 0; /* the significant digits, among whole and fraction together */
    for (size_t i = 0; i < total; i++) {
        char digit = i < d.whole.len ? d.whole.ptr[i] : d.fraction.ptr[i - d.whole.len];
        if (digit != '0') {
            first = first == total ? i : first;
            last = i;
        }
    }
    *ret_negative = d.negative && first < total;
    *ret = 0;
    if (first == total)
        return OK;
    int64_t zeros = d.exponent + scale + (int64_t)d.whole.len - (int64_t)last - 1; /* to append to the digits */
    if (zeros < 0)
        return ERR_INVALID;
    if (zeros > 20 || last - first > 20)
        return ERR_TOO_LARGE;
    uint64_t value = 0;
    for (size_t i = first; i <= last + (size_t)zeros; i++) {
        char digit = i > last ? '0' : i < d.whole.len ? d.whole.ptr[i] : d.fraction.ptr[i - d.whole.len];
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(digit - '0'), &value))
            return ERR_TOO_LARGE;
    }
    *ret = value;
    return OK;
}

static enum err decimal_i64(struct span text, int scale, int64_t *ret)
{
    bool negative;
    uint64_t magnitude;
    enum err err = decimal_magnitude(text, scale, &negative, &magnitude);
    if (err)
        return err;
    if (magnitude > (uint64_t)INT64_MAX + negative)
        return ERR_TOO_LARGE;
    *ret = negative ? -(int64_t)(magnitude - 1) - 1 : (int64_t)magnitude;
    return OK;
}

enum err json_i64(const struct json_index *ix, uint32_t token, int64_t *ret)
{
    return json_kind(ix, token) == JSON_NUMBER ? decimal_i64(json_raw(ix, token), 0, ret) : ERR_INVALID;
}

/* Plain digits, which cannot overflow: nearly every count. The index has checked the grammar. */
static bool short_digits(struct span text, uint64_t *ret)
{
    uint64_t value = 0;
    for (size_t i = 0; i < text.len; i++) {
        const unsigned digit = (unsigned)((unsigned char)text.ptr[i] - '0');
        if (digit > 9 || i >= 19)
            return false;
        value = value * 10 + digit;
    }
    *ret = value;
    return true;
}

enum err json_u64(const struct json_index *ix, uint32_t token, uint64_t *ret)
{
    if (json_kind(ix, token) != JSON_NUMBER)
        return ERR_INVALID;
    if (short_digits(json_raw(ix, token), ret))
        return OK;
    bool negative;
    uint64_t magnitude;
    enum err err = decimal_magnitude(json_raw(ix, token), 0, &negative, &magnitude);
    if (err)
        return err;
    if (negative)
        return ERR_TOO_LARGE;
    *ret = magnitude;
    return OK;
}

enum err json_bool(const struct json_index *ix, uint32_t token, bool *ret)
{
    enum json_kind kind = json_kind(ix, token);
    if (kind != JSON_TRUE && kind != JSON_FALSE)
        return ERR_INVALID;
    *ret = kind == JSON_TRUE;
    return OK;
}

enum err json_double(const struct json_index *ix, uint32_t token, double *ret)
{
    if (json_kind(ix, token) != JSON_NUMBER)
        return ERR_INVALID;
    struct span raw = json_raw(ix, token);
    char text[1024]; /* 17 digits identify a double and 767 decide any rounding; more is no honest number */
    if (raw.len >= sizeof(text))
        return ERR_TOO_LARGE;
    memcpy(text, raw.ptr, raw.len);
    text[raw.len] = '\0';
    /* The C locale is a constant of libc: this neither allocates nor has to be freed. */
    double value = strtod_l(text, NULL, newlocale(LC_ALL_MASK, "C", (locale_t)0));
    if (!isfinite(value))
        return ERR_TOO_LARGE;
    *ret = value;
    return OK;
}

enum err json_decimal_text(struct span text, int scale, int64_t *ret)
{
    return decimal_i64(text, scale, ret);
}

enum err json_decimal(const struct json_index *ix, uint32_t token, int scale, int64_t *ret)
{
    switch (json_kind(ix, token)) {
    case JSON_NUMBER:
        return decimal_i64(json_raw(ix, token), scale, ret);
    case JSON_STRING:
        return decimal_i64(string_body(ix, token), scale, ret);
    case JSON_NULL:
    case JSON_FALSE:
    case JSON_TRUE:
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    return ERR_INVALID;
}
