#include "common/buf.h"
#include "common/fault.h"

#define BUF_FIRST_BYTES 256

void buf_init(struct buf *buf, size_t max)
{
    *buf = (struct buf)BUF_INIT(max);
}

void buf_release(struct buf *buf)
{
    if (!buf)
        return;
    free(buf->data);
    buf_init(buf, buf->max);
}

void buf_clear(struct buf *buf)
{
    buf->start = 0;
    buf->len = 0;
}

void buf_consume(struct buf *buf, size_t n)
{
    REQUIRE(n <= buf->len);
    buf->len -= n;
    buf->start = buf->len ? buf->start + n : 0;
}

void buf_truncate(struct buf *buf, size_t len)
{
    REQUIRE(len <= buf->len);
    buf->len = len;
}

/* Room for n bytes that count and `extra` that do not (a NUL). */
static enum err make_room(struct buf *buf, size_t n, size_t extra)
{
    if (n > buf_room(buf))
        return ERR_FULL;
    size_t needed;
    if (!size_add(buf->len + n, extra, &needed))
        return ERR_NOMEM;
    if (needed <= buf->cap - buf->start)
        return OK;
    /* Moving alone will do when what was consumed pays for it, or when the buffer may not grow any further. */
    bool move_only = needed <= buf->cap && (buf->start >= buf->len || buf->cap >= buf->max);
    if (buf->start > 0) {
        memmove(buf->data, buf->data + buf->start, buf->len);
        buf->start = 0;
    }
    if (move_only)
        return OK;
    size_t wanted;
    if (!size_mul(buf->cap, 2, &wanted))
        wanted = buf->max;
    wanted = size_max(size_min(size_max(wanted, BUF_FIRST_BYTES), buf->max), needed);
    char *data = fault_realloc(buf->data, wanted);
    if (!data)
        return ERR_NOMEM;
    buf->data = data;
    buf->cap = wanted;
    return OK;
}

enum err buf_append_growing(struct buf *buf, struct span bytes)
{
    enum err err = make_room(buf, bytes.len, 0);
    if (err)
        return err;
    if (bytes.len > 0)
        memcpy(buf->data + buf->start + buf->len, bytes.ptr, bytes.len);
    buf->len += bytes.len;
    return OK;
}

enum err buf_append_cstr(struct buf *buf, const char *cstr)
{
    return buf_append(buf, span_cstr(cstr));
}

enum err buf_append_byte(struct buf *buf, char byte)
{
    return buf_append(buf, span_of(&byte, 1));
}

enum err buf_printf(struct buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    enum err err = buf_vprintf(buf, fmt, args);
    va_end(args);
    return err;
}

enum err buf_vprintf(struct buf *buf, const char *fmt, va_list args)
{
    va_list measured;
    va_copy(measured, args);
    int length = vsnprintf(NULL, 0, fmt, measured);
    va_end(measured);
    REQUIRE(length >= 0);
    enum err err = make_room(buf, (size_t)length, 1);
    if (err)
        return err;
    (void)vsnprintf(buf->data + buf->start + buf->len, (size_t)length + 1, fmt, args);
    buf->len += (size_t)length;
    return OK;
}

enum err buf_reserve(struct buf *buf, size_t n, char **ret_at)
{
    enum err err = make_room(buf, n, n == 0); /* a pointer to give back even for nothing */
    if (err)
        return err;
    *ret_at = buf->data + buf->start + buf->len;
    return OK;
}

void buf_commit(struct buf *buf, size_t n)
{
    REQUIRE(n <= buf->cap - buf->start - buf->len && n <= buf_room(buf));
    buf->len += n;
}

const char *buf_cstr(struct buf *buf)
{
    if (make_room(buf, 0, 1) != OK)
        return NULL;
    buf->data[buf->start + buf->len] = '\0';
    return buf->data + buf->start;
}
