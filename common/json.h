/* json.h - a JSON index over the original bytes, and a writer.
 *
 * The index accepts exactly RFC 8259 texts in UTF-8 (no BOM, no trailing bytes, no lone surrogate escapes left
 * unchecked: a \ud800 without its pair is accepted as RFC 8259 grammar allows, but json_string refuses to decode it).
 * It copies nothing: tokens are byte offsets into `text`, which must outlive them. Memory comes only from the caller's
 * arena and is bounded by the limits. Strings are scanned 16 bytes at a time. Recursion-free.
 *
 * Tokens stand in document order. An object's children alternate key, value, key, value; token->next is the index of
 * the token after the whole value, so the child after c is tokens[c].next. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

struct arena;
struct buf;

enum json_kind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_token {
    uint32_t start;      /* offset of the first byte; a string's opening quote */
    uint32_t end;        /* offset after the last byte */
    uint32_t next;       /* index of the token after this value */
    uint32_t count : 28; /* members of an object, elements of an array */
    uint32_t kind : 3;
    uint32_t escaped : 1; /* a string with a backslash in it */
};

struct json_index {
    struct span text;
    const struct json_token *tokens; /* tokens[0] is the root */
    uint32_t count;
};

struct json_limits {
    uint32_t bytes_max;  /* stops one body from filling memory; at most UINT32_MAX - 1 */
    uint32_t depth_max;  /* stops "[[[[..." from costing a stack anywhere behind us */
    uint32_t tokens_max; /* stops "[0,0,0,..." from costing 8 times its size in tokens */
    /* Values within more open containers than this are checked but get no token: a container at that depth seems empty,
     * but for json_count. For readers of large texts that look only at their upper levels. 0: all are kept. */
    uint32_t depth_kept;
};
extern const struct json_limits json_limits_default; /* 32 MiB, 128 deep, 4 Mi tokens */

struct json_error {
    uint32_t offset;     /* of the first byte that cannot stand there */
    uint32_t line;       /* from 1 */
    uint32_t column;     /* from 1, in bytes */
    const char *message; /* static text, e.g. "a comma or ] must follow" */
};

#define JSON_NONE UINT32_MAX

/* ERR_SYNTAX (with *ret_error, which may be NULL), ERR_TOO_LARGE, ERR_TOO_DEEP, ERR_TOO_MANY, ERR_NOMEM. */
MUST_CHECK enum err json_index(struct arena *arena, struct span text, const struct json_limits *limits,
                               struct json_index *ret_index, struct json_error *ret_error);

static inline enum json_kind json_kind(const struct json_index *ix, uint32_t token)
{
    return (enum json_kind)ix->tokens[token].kind;
}
/* The token's bytes as they stand in the text (a string with its quotes). */
static inline struct span json_raw(const struct json_index *ix, uint32_t token)
{
    return span_of(ix->text.ptr + ix->tokens[token].start, ix->tokens[token].end - ix->tokens[token].start);
}
/* Elements of an array, members of an object, also of one whose children were not kept; 0 for a scalar. */
static inline uint32_t json_count(const struct json_index *ix, uint32_t token)
{
    return ix->tokens[token].count;
}
/* First child of an array or object (an object's first key), JSON_NONE when empty or a scalar. */
uint32_t json_first(const struct json_index *ix, uint32_t parent);
/* Next sibling after `token` under `parent`: JSON_NONE at the end. For objects it steps key -> value -> key. */
uint32_t json_next(const struct json_index *ix, uint32_t parent, uint32_t token);
/* Value of the first member with this name (compared after unescaping); JSON_NONE when absent or not an object. */
uint32_t json_get(const struct json_index *ix, uint32_t object, struct span name);
/* The same, but a name that stands twice is ERR_DUPLICATE: a reader behind us may take the other one.
 * OK with *ret_value = JSON_NONE when absent. */
MUST_CHECK enum err json_get_once(const struct json_index *ix, uint32_t object, struct span name, uint32_t *ret_value);
/* Bytes of the string content that begins here up to its closing quote, which must follow; SIZE_MAX when json_index would
 * refuse it, or when it goes on behind these bytes. */
size_t json_string_length(struct span content);
/* True when the string token, unescaped, equals text. */
bool json_string_eq(const struct json_index *ix, uint32_t token, struct span text);
/* Unescaped content. Borrows from the text when nothing is escaped, else from the arena (then NUL-terminated).
 * ERR_INVALID: not a string, or a lone surrogate. ERR_NOMEM. */
MUST_CHECK enum err json_string(struct arena *arena, const struct json_index *ix, uint32_t token, struct span *ret);
/* Whole numbers only (1, 1.0 and 1e2 count as whole). ERR_INVALID: not one. ERR_TOO_LARGE: does not fit. */
MUST_CHECK enum err json_i64(const struct json_index *ix, uint32_t token, int64_t *ret);
MUST_CHECK enum err json_u64(const struct json_index *ix, uint32_t token, uint64_t *ret);
MUST_CHECK enum err json_bool(const struct json_index *ix, uint32_t token, bool *ret);
MUST_CHECK enum err json_double(const struct json_index *ix, uint32_t token, double *ret); /* locale-independent */
/* The number at `token` times 10^scale as an exact integer (prices: "5e-07" dollars with scale 15 -> 500000000).
 * ERR_INVALID: not a number (a string holding only a number is taken too), or more digits than the scale keeps.
 * ERR_TOO_LARGE. */
MUST_CHECK enum err json_decimal(const struct json_index *ix, uint32_t token, int scale, int64_t *ret);
/* The same for plain text. */
MUST_CHECK enum err json_decimal_text(struct span text, int scale, int64_t *ret);

/* The text as a JSON string, in quotes and escaped as json_put_string does, into out, which has room for
 * JSON_QUOTED_MAX(text.len) bytes. Returns how many were written. */
#define JSON_QUOTED_MAX(bytes) (6 * (bytes) + 2)
size_t json_quote(struct span text, char *out);
/* The same of as much of the text's beginning as fits into `room` bytes (2 at least), quotes included; no character is
 * cut in two. *ret_taken: bytes of the text that were taken. */
size_t json_quote_some(struct span text, size_t room, char *out, size_t *ret_taken);
/* The text without the beginning of a character that its end cuts in two. What is no UTF-8 may lose up to
 * three bytes. */
struct span json_whole_characters(struct span text);

/* Writer: appends to a buf; commas and colons are placed by it. Errors stick: check once with json_writer_end.
 * struct json_writer w; json_writer_init(&w, buf); json_object_open(&w); json_key(&w, SPAN("a")); json_put_u64(&w, 1);
 * json_object_close(&w); */
struct json_writer {
    struct buf *buf;
    enum err err;
    uint64_t has_members; /* a bit per depth: a comma is due */
    unsigned depth;       /* at most 63 */
    bool after_key;
};
void json_writer_init(struct json_writer *w, struct buf *buf);
void json_object_open(struct json_writer *w);
void json_object_close(struct json_writer *w);
void json_array_open(struct json_writer *w);
void json_array_close(struct json_writer *w);
void json_key(struct json_writer *w, struct span key);
void json_put_string(struct json_writer *w, struct span text); /* bytes that are not UTF-8 become U+FFFD */
void json_put_cstr(struct json_writer *w, const char *text);   /* NULL writes null */
void json_put_u64(struct json_writer *w, uint64_t value);
void json_put_i64(struct json_writer *w, int64_t value);
void json_put_double(struct json_writer *w, double value); /* shortest that reads back; NaN and infinities write null */
void json_put_decimal(struct json_writer *w, int64_t value, int scale); /* value / 10^scale, exact, no trailing zeros */
void json_put_bool(struct json_writer *w, bool value);
void json_put_null(struct json_writer *w);
void json_put_raw(struct json_writer *w, struct span json); /* already JSON; the caller's promise */
MUST_CHECK enum err
json_writer_end(const struct json_writer *w); /* first error, or ERR_INVALID when something is still open */
/* Shorthand for members. */
void json_member_string(struct json_writer *w, const char *key, struct span value);
void json_member_cstr(struct json_writer *w, const char *key, const char *value);
void json_member_u64(struct json_writer *w, const char *key, uint64_t value);
void json_member_i64(struct json_writer *w, const char *key, int64_t value);
void json_member_bool(struct json_writer *w, const char *key, bool value);
void json_member_decimal(struct json_writer *w, const char *key, int64_t value, int scale);
