#include "dataplane/upstream/direct_internal.h"
#include "common/units.h"

/* No controls but HT: one CR or LF in a value and a request becomes two. Names and target: no space either. */
static bool is_clean(struct span text, unsigned least)
{
    unsigned bad = 0;
    for (size_t i = 0; i < text.len; i++) {
        const unsigned byte = (unsigned char)text.ptr[i];
        bad |= (unsigned)(byte < least && byte != '\t') | (unsigned)(byte == 0x7f);
    }
    return bad == 0;
}

/* One pass: each request has a dozen. */
static bool is_name(struct span text)
{
    unsigned bad = 0;
    for (size_t i = 0; i < text.len; i++) {
        const unsigned byte = (unsigned char)text.ptr[i];
        bad |= (unsigned)(byte < 0x21) | (unsigned)(byte == 0x7f) | (unsigned)(byte == ':');
    }
    return text.len > 0 && bad == 0;
}

static bool is_target(struct span text)
{
    return text.len > 0 && is_clean(text, 0x21) && !memchr(text.ptr, '\t', text.len);
}

static char *put(char *at, struct span text)
{
    if (text.len)
        memcpy(at, text.ptr, text.len);
    return at + text.len;
}

static enum err check(const struct upstream_request *request, size_t *ret_bytes)
{
    if (!is_name(request->method) || !is_target(request->path))
        return ERR_INVALID;
    size_t bytes = 256; /* what is fixed, with the numbers */
    bool fits = size_add(bytes, request->method.len, &bytes) && size_add(bytes, request->path.len, &bytes) &&
                size_add(bytes, request->provider->host.len, &bytes);
    for (unsigned i = 0; fits && i < request->header_count; i++) {
        const struct upstream_header *h = &request->headers[i];
        fits = size_add(bytes, h->name.len, &bytes) && size_add(bytes, h->value.len, &bytes) &&
               size_add(bytes, 4, &bytes) && bytes <= DIRECT_REQUEST_HEAD_BYTES_MAX;
        if (fits && (!is_name(h->name) || !is_clean(h->value, 0x20)))
            return ERR_INVALID;
    }
    if (!fits || bytes > DIRECT_REQUEST_HEAD_BYTES_MAX)
        return ERR_TOO_LARGE;
    *ret_bytes = bytes;
    return OK;
}

static char *put_host(char *at, const struct provider *p)
{
    const bool bare = span_find_byte(p->host, ':') == SIZE_MAX;
    at = put(at, SPAN("Host: "));
    at = put(at, bare ? SPAN("") : SPAN("["));
    at = put(at, p->host);
    at = put(at, bare ? SPAN("") : SPAN("]"));
    if (p->port != (p->tls ? 443 : 80)) {
        *at++ = ':';
        at += units_put_u64(p->port, at);
    }
    return put(at, SPAN("\r\n"));
}

enum err direct_head_write(struct buf *out, const struct upstream_request *request)
{
    size_t room, body = 0;
    for (unsigned i = 0; i < request->body_part_count; i++) {
        if (!size_add(body, request->body_parts[i].len, &body))
            return ERR_TOO_LARGE;
    }
    enum err err = check(request, &room);
    char *start;
    if (!err)
        err = buf_reserve(out, room, &start);
    if (err)
        return err == ERR_FULL ? ERR_TOO_LARGE : err;
    char *at = put(start, request->method);
    at = put(at, SPAN(" "));
    at = put(at, request->path);
    at = put(at, SPAN(" HTTP/1.1\r\n"));
    at = put_host(at, request->provider);
    for (unsigned i = 0; i < request->header_count; i++) {
        const struct upstream_header *h = &request->headers[i];
        at = put(at, h->name);
        at = put(at, h->value.len ? SPAN(": ") : SPAN(":"));
        at = put(at, h->value);
        at = put(at, SPAN("\r\n"));
    }
    if (request->body_part_count > 0 || span_eq(request->method, SPAN("POST"))) {
        at = put(at, SPAN("Content-Length: "));
        at += units_put_u64(body, at);
        at = put(at, SPAN("\r\n"));
    }
    at = put(at, SPAN("\r\n"));
    buf_commit(out, (size_t)(at - start));
    return OK;
}
