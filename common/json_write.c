#include "common/json.h"
#include "common/buf.h"
#include "common/json_scan.h"
#include "common/units.h"
#include <locale.h>
#include <math.h>

#define DEPTH_MAX 63 /* bits of has_members, less the root's */

void json_writer_init(struct json_writer *w, struct buf *buf)
{
    *w = (struct json_writer){ .buf = buf };
}

/* Where n bytes may be written, which w->buf then counts; NULL on error. Inline while there is room: a record is some
 * two hundred pieces. */
static inline char *claim(struct json_writer *w, size_t n)
{
    struct buf *buf = w->buf;
    char *at;
    if (w->err)
        return NULL;
    if (n <= buf->cap - buf->start - buf->len && n <= buf->max - buf->len) {
        at = buf->data + buf->start + buf->len;
    } else {
        w->err = buf_reserve(buf, n, &at);
        if (w->err)
            return NULL;
    }
    buf->len += n;
    return at;
}

static void put(struct json_writer *w, struct span bytes)
{
    char *at = claim(w, bytes.len);
    if (at && bytes.len > 0)
        memcpy(at, bytes.ptr, bytes.len);
}

static inline void put_byte(struct json_writer *w, char byte)
{
    char *at = claim(w, 1);
    if (at)
        *at = byte;
}

/* The text in quotes, in one piece. Nothing in it needs an escape. */
static inline void put_plain(struct json_writer *w, struct span text)
{
    size_t bytes;
    if (!size_add(text.len, 2, &bytes)) {
        w->err = w->err ? w->err : ERR_FULL;
        return;
    }
    char *at = claim(w, bytes);
    if (!at)
        return;
    *at++ = '"';
    if (text.len > 0)
        memcpy(at, text.ptr, text.len);
    at[text.len] = '"';
}

/* Before every value and key: the comma, when one is due. */
static inline void begin(struct json_writer *w)
{
    uint64_t bit = (uint64_t)1 << w->depth;
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->has_members & bit) {
        if (w->depth == 0 && !w->err)
            w->err = ERR_INVALID; /* two roots */
        put_byte(w, ',');
    }
    w->has_members |= bit;
}

static void open_container(struct json_writer *w, struct span mark)
{
    begin(w);
    if (w->depth >= DEPTH_MAX) {
        if (!w->err)
            w->err = ERR_TOO_DEEP;
        return;
    }
    w->depth++;
    w->has_members &= ~((uint64_t)1 << w->depth);
    put(w, mark);
}

static void close_container(struct json_writer *w, struct span mark)
{
    if ((w->depth == 0 || w->after_key) && !w->err)
        w->err = ERR_INVALID;
    if (w->err)
        return;
    w->depth--;
    put(w, mark);
}

void json_object_open(struct json_writer *w)
{
    open_container(w, SPAN("{"));
}

void json_object_close(struct json_writer *w)
{
    close_container(w, SPAN("}"));
}

void json_array_open(struct json_writer *w)
{
    open_container(w, SPAN("["));
}

void json_array_close(struct json_writer *w)
{
    close_container(w, SPAN("]"));
}

/* What stands for the special byte (or character) at *at, written there; moves behind it. At most six bytes for each of
 * the input. */
static char *write_special(const unsigned char **at, const unsigned char *end, char *out)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char byte = **at;
    if (byte >= 0x80) {
        size_t length = json_utf8_length(*at, end);
        memcpy(out, length ? (const char *)*at : "\xEF\xBF\xBD", length ? length : 3);
        *at += length ? length : 1;
        return out + (length ? length : 3);
    }
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *known = memchr(from, byte, 7);
    const char escape[6] = { '\\', known ? to[known - from] : 'u', '0', '0', hex[byte >> 4], hex[byte & 15] };
    memcpy(out, escape, known ? 2 : 6);
    *at += 1;
    return out + (known ? 2 : 6);
}

size_t json_quote(struct span text, char *out)
{
    const unsigned char *at = (const unsigned char *)(text.ptr ? text.ptr : ""), *end = at + text.len;
    char *to = out;
    *to++ = '"';
    while (at < end) {
        const unsigned char *stop = json_plain_run(at, end);
        memcpy(to, at, (size_t)(stop - at));
        to += stop - at;
        at = stop;
        if (at < end)
            to = write_special(&at, end, to);
    }
    *to++ = '"';
    return (size_t)(to - out);
}

size_t json_quote_some(struct span text, size_t room, char *out, size_t *ret_taken)
{
    const unsigned char *const begin = (const unsigned char *)(text.ptr ? text.ptr : ""), *end = begin + text.len;
    const unsigned char *at = begin;
    REQUIRE(room >= 2);
    char *to = out, *const last = out + room - 1; /* the closing quote's place, at the latest */
    *to++ = '"';
    while (at < end) {
        const size_t run = size_min((size_t)(json_plain_run(at, end) - at), (size_t)(last - to));
        memcpy(to, at, run);
        to += run;
        at += run;
        if (at == end || to == last)
            break;
        char special[6];
        const unsigned char *behind = at;
        const size_t length = (size_t)(write_special(&behind, end, special) - special);
        if (length > (size_t)(last - to))
            break;
        memcpy(to, special, length);
        to += length;
        at = behind;
    }
    *to++ = '"';
    *ret_taken = (size_t)(at - begin);
    return (size_t)(to - out);
}

struct span json_whole_characters(struct span text)
{
    const unsigned char *const end = (const unsigned char *)text.ptr + text.len;
    for (size_t back = 1; back <= 3 && back <= text.len; back++) {
        const unsigned char lead = end[-(ptrdiff_t)back];
        if ((lead & 0xC0) == 0x80)
            continue; /* the character begins further in front */
        const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
        return length > back ? span_head(text, text.len - back) : text;
    }
    return text;
}

static void put_quoted(struct json_writer *w, struct span text)
{
    const unsigned char *at = (const unsigned char *)(text.ptr ? text.ptr : ""), *end = at + text.len;
    const unsigned char *stop = json_plain_run(at, end);
    if (stop == end) { /* nearly always */
        put_plain(w, text);
        return;
    }
    put(w, SPAN("\""));
    while (at < end && !w->err) {
        stop = json_plain_run(at, end);
        if (stop > at)
            put(w, span_of(at, (size_t)(stop - at)));
        at = stop;
        if (at < end) {
            char special[6];
            put(w, span_of(special, (size_t)(write_special(&at, end, special) - special)));
        }
    }
    put(w, SPAN("\""));
}

static void begin_key(struct json_writer *w)
{
    if ((w->after_key || w->depth == 0) && !w->err)
        w->err = ERR_INVALID;
    begin(w);
}

void json_key(struct json_writer *w, struct span key)
{
    begin_key(w);
    put_quoted(w, key);
    put(w, SPAN(":"));
    w->after_key = true;
}

void json_put_string(struct json_writer *w, struct span text)
{
    begin(w);
    put_quoted(w, text);
}

void json_put_cstr(struct json_writer *w, const char *text)
{
    if (text)
        json_put_string(w, span_cstr(text));
    else
        json_put_null(w);
}

static void put_magnitude(struct json_writer *w, bool negative, uint64_t magnitude)
{
    char text[1 + UNITS_U64_BYTES], *at = text;
    if (negative)
        *at++ = '-';
    at += units_put_u64(magnitude, at);
    json_put_raw(w, span_of(text, (size_t)(at - text)));
}

void json_put_u64(struct json_writer *w, uint64_t value)
{
    put_magnitude(w, false, value);
}

void json_put_i64(struct json_writer *w, int64_t value)
{
    put_magnitude(w, value < 0, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void json_put_double(struct json_writer *w, double value)
{
    if (!isfinite(value)) {
        json_put_null(w);
        return;
    }
    char text[40];
    int length = 0;
    /* printf writes the decimal point of the thread's locale; the C locale is a constant of libc, never freed. */
    locale_t before = uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0));
    for (int digits = 15; digits <= 17; digits++) {
        length = snprintf(text, sizeof(text), "%.*g", digits, value);
        double back = strtod(text, NULL);
        if (back >= value && back <= value)
            break;
    }
    (void)uselocale(before);
    json_put_raw(w, span_of(text, (size_t)length));
}

void json_put_decimal(struct json_writer *w, int64_t value, int scale)
{
    REQUIRE(scale >= 0 && scale <= 30);
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    while (scale > 0 && magnitude % 10 == 0) {
        magnitude /= 10;
        scale--;
    }
    /* Built from the end: the fraction with its zeros, the point, the whole part. */
    char text[64], *at = text + sizeof(text);
    for (int i = 0; i < scale; i++, magnitude /= 10)
        *--at = (char)('0' + magnitude % 10);
    if (scale > 0)
        *--at = '.';
    do {
        *--at = (char)('0' + magnitude % 10);
        magnitude /= 10;
    } while (magnitude > 0);
    if (value < 0)
        *--at = '-';
    json_put_raw(w, span_of(at, (size_t)(text + sizeof(text) - at)));
}

void json_put_bool(struct json_writer *w, bool value)
{
    json_put_raw(w, value ? SPAN("true") : SPAN("false"));
}

void json_put_null(struct json_writer *w)
{
    json_put_raw(w, SPAN("null"));
}

void json_put_raw(struct json_writer *w, struct span json)
{
    begin(w);
    put(w, json);
}

enum err json_writer_end(const struct json_writer *w)
{
    if (w->err)
        return w->err;
    return w->depth > 0 || w->after_key ? ERR_INVALID : OK;
}

void json_member_string(struct json_writer *w, const char *key, struct span value)
{
    json_key(w, span_cstr(key));
    json_put_string(w, value);
}

void json_member_cstr(struct json_writer *w, const char *key, const char *value)
{
    json_key(w, span_cstr(key));
    json_put_cstr(w, value);
}

void json_member_u64(struct json_writer *w, const char *key, uint64_t value)
{
    json_key(w, span_cstr(key));
    json_put_u64(w, value);
}

void json_member_i64(struct json_writer *w, const char *key, int64_t value)
{
    json_key(w, span_cstr(key));
    json_put_i64(w, value);
}

void json_member_bool(struct json_writer *w, const char *key, bool value)
{
    json_key(w, span_cstr(key));
    json_put_bool(w, value);
}

void json_member_decimal(struct json_writer *w, const char *key, int64_t value, int scale)
{
    json_key(w, span_cstr(key));
    json_put_decimal(w, value, scale);
}
