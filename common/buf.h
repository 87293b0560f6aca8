/* buf.h - owned bytes that know their maximum from birth. "Full" is an ordinary answer: stop, drain, go on.
 *
 * All-zero is not valid: use BUF_INIT or buf_init. Not thread-safe. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include <stdarg.h>

struct buf {
    char *data;   /* start of the allocation */
    size_t start; /* first unread byte */
    size_t len;   /* unread bytes */
    size_t cap;   /* allocated */
    size_t max;   /* len never exceeds this */
};

#define BUF_INIT(max_bytes)                                                                                            \
    {                                                                                                                  \
        .max = (max_bytes)                                                                                             \
    }

void buf_init(struct buf *buf, size_t max);
void buf_release(struct buf *buf); /* frees; the buffer is empty again and usable; NULL is fine */
/* Unread bytes; valid until the next call that changes the buffer. */
static inline struct span buf_span(const struct buf *buf)
{
    return span_of(buf->data ? buf->data + buf->start : "", buf->len);
}
static inline size_t buf_room(const struct buf *buf)
{
    return buf->max - buf->len;
}
void buf_clear(struct buf *buf);             /* empties, keeps the allocation */
void buf_consume(struct buf *buf, size_t n); /* drops n unread bytes from the front; n <= len is the caller's promise */
void buf_truncate(struct buf *buf, size_t len); /* keeps only the first len unread bytes; len <= buf->len */
MUST_CHECK enum err buf_append_growing(struct buf *buf, struct span bytes); /* buf_append's slow half */
/* ERR_FULL: would exceed max. ERR_NOMEM. Nothing is appended on error. Inline while there is room: heads and records are
 * built of dozens of small pieces. */
MUST_CHECK static inline enum err buf_append(struct buf *buf, struct span bytes)
{
    if (bytes.len > buf->cap - buf->start - buf->len || bytes.len > buf->max - buf->len)
        return buf_append_growing(buf, bytes);
    if (bytes.len > 0)
        memcpy(buf->data + buf->start + buf->len, bytes.ptr, bytes.len);
    buf->len += bytes.len;
    return OK;
}
MUST_CHECK enum err buf_append_cstr(struct buf *buf, const char *cstr);
MUST_CHECK enum err buf_append_byte(struct buf *buf, char byte);
MUST_CHECK enum err buf_printf(struct buf *buf, const char *fmt, ...) PRINTF_LIKE(2, 3);
MUST_CHECK enum err buf_vprintf(struct buf *buf, const char *fmt, va_list args);
/* Makes room for n more bytes and returns where to write them; then buf_commit what was written. */
MUST_CHECK enum err buf_reserve(struct buf *buf, size_t n, char **ret_at);
void buf_commit(struct buf *buf, size_t n);
/* A NUL after the last byte (not counted): the unread bytes as a C string, until the next change. NULL on ERR_NOMEM. */
const char *buf_cstr(struct buf *buf);
