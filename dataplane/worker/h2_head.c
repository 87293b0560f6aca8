#include "dataplane/worker/h2_head.h"
#include "common/fault.h"
#include "dataplane/worker/http1_chars.h"
#include "dataplane/worker/http1_head.h"
#include "dataplane/worker/http1_target.h"

enum {
    SEEN_METHOD = 1 << 0,
    SEEN_SCHEME = 1 << 1,
    SEEN_AUTHORITY = 1 << 2,
    SEEN_PATH = 1 << 3,
    SEEN_HOST = 1 << 4,
    SEEN_CONTENT_LENGTH = 1 << 5,
};

void h2_head_init(struct h2_head *head, size_t bytes_max, size_t fields_max)
{
    *head = (struct h2_head){ .bytes_max = bytes_max, .fields_max = fields_max };
    buf_init(&head->bytes, bytes_max);
    head->head = (struct http1_head){ .version_minor = 1, .keep_alive = true, .content_length = -1 };
}

void h2_head_release(struct h2_head *head)
{
    buf_release(&head->bytes);
    free(head->fields);
    free(head->headers);
    head->fields = NULL;
    head->headers = NULL;
}

size_t h2_head_memory(const struct h2_head *head)
{
    const size_t headers = head->headers ? head->head.header_count * sizeof(*head->headers) : 0;
    return head->bytes.cap + head->cap * sizeof(*head->fields) + headers;
}

static enum err refuse(struct h2_head *head, enum err err, const char *why)
{
    head->why = why;
    return err;
}

static enum err once(struct h2_head *head, unsigned bit, const char *why)
{
    if (head->seen & bit)
        return refuse(head, ERR_DUPLICATE, why);
    head->seen |= bit;
    return OK;
}

static enum err check_name(struct h2_head *head, struct span name)
{
    for (size_t i = 0; i < name.len; i++)
        if (!http1_is(name.ptr[i], HTTP1_TOKEN) || (name.ptr[i] >= 'A' && name.ptr[i] <= 'Z'))
            return refuse(head, ERR_SYNTAX, "a header name is malformed");
    return name.len > 0 ? OK : refuse(head, ERR_SYNTAX, "a header name is empty");
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

static enum err check_value(struct h2_head *head, struct span value)
{
    for (size_t i = 0; i < value.len; i++)
        if (!http1_is(value.ptr[i], HTTP1_VALUE))
            return refuse(head, ERR_SYNTAX, "a control character in a header");
    if (value.len > 0 && (is_blank(value.ptr[0]) || is_blank(value.ptr[value.len - 1])))
        return refuse(head, ERR_SYNTAX, "white space around the value of a header");
    return OK;
}

/* Copies the field; on return *ret_at is where it lies. */
static enum err keep(struct h2_head *head, struct span name, struct span value, uint32_t *ret_at)
{
    const size_t at = head->bytes.len;
    enum err err = buf_append(&head->bytes, name);
    if (err == OK)
        err = buf_append(&head->bytes, value);
    *ret_at = (uint32_t)at;
    return err == ERR_FULL ? ERR_TOO_LARGE : err;
}

static enum err add_pseudo(struct h2_head *head, struct span name, struct span value)
{
    uint32_t at;
    if (head->count > 0)
        return refuse(head, ERR_INVALID, "a pseudo-header follows a header");
    enum err err = ERR_INVALID;
    if (span_eq(name, SPAN(":method"))) {
        err = once(head, SEEN_METHOD, ":method stands twice");
        if (err == OK && http1_method_of(value, &head->head.method, &head->head.method_name))
            err = refuse(head, ERR_UNSUPPORTED, "the method is not known");
    } else if (span_eq(name, SPAN(":scheme"))) {
        err = once(head, SEEN_SCHEME, ":scheme stands twice");
        if (err == OK && !span_eq_nocase(value, SPAN("http")) && !span_eq_nocase(value, SPAN("https")))
            err = refuse(head, ERR_UNSUPPORTED, "the scheme must be http or https");
    } else if (span_eq(name, SPAN(":authority"))) {
        err = once(head, SEEN_AUTHORITY, ":authority stands twice");
        if (err == OK && !http1_host_ok(value))
            err = refuse(head, ERR_INVALID, ":authority is malformed");
        if (err == OK)
            err = keep(head, SPAN(""), value, &at);
        if (err == OK) {
            head->authority = at;
            head->authority_len = (uint32_t)value.len;
        }
    } else if (span_eq(name, SPAN(":path"))) {
        err = once(head, SEEN_PATH, ":path stands twice");
        if (err == OK)
            err = keep(head, SPAN(""), value, &at);
        if (err == OK) {
            head->path = at;
            head->path_len = (uint32_t)value.len;
        }
    } else {
        err = refuse(head, ERR_INVALID, "a pseudo-header is not known");
    }
    return err;
}

static enum err judge_content_length(struct h2_head *head, struct span value)
{
    bool plain = value.len > 0 && value.len <= 19;
    for (size_t i = 0; i < value.len && plain; i++)
        plain = http1_is_digit(value.ptr[i]);
    if (!plain || span_to_i64(value, &head->head.content_length))
        return refuse(head, ERR_INVALID, "Content-Length is not a plain number");
    return OK;
}

/* Fields that mean something to the framing, or may not stand in HTTP/2: RFC 9113 section 8.2.2. */
static enum err judge(struct h2_head *head, struct span name, struct span value)
{
    static const char *const banned[] = { "connection", "keep-alive", "proxy-connection", "transfer-encoding",
                                          "upgrade" };
    for (size_t i = 0; i < ARRAY_LEN(banned); i++)
        if (span_eq(name, span_cstr(banned[i])))
            return refuse(head, ERR_INVALID, "a header of HTTP/1 connections");
    if (span_eq(name, SPAN("te")) && !span_eq_nocase(value, SPAN("trailers")))
        return refuse(head, ERR_INVALID, "TE says more than trailers");
    if (span_eq(name, SPAN("host"))) {
        const enum err err = once(head, SEEN_HOST, "Host stands twice");
        if (err)
            return err;
        return http1_host_ok(value) ? OK : refuse(head, ERR_INVALID, "Host is malformed");
    }
    if (span_eq(name, SPAN("content-length"))) {
        const enum err err = once(head, SEEN_CONTENT_LENGTH, "Content-Length stands twice");
        return err ? err : judge_content_length(head, value);
    }
    if (span_eq(name, SPAN("expect")))
        http1_read_expect(value, &head->head);
    return OK;
}

static enum err make_room(struct h2_head *head)
{
    if (head->count < head->cap)
        return OK;
    const uint32_t cap = head->cap ? head->cap * 2 : 16;
    struct h2_field *fields = fault_realloc(head->fields, cap * sizeof(*fields));
    if (!fields)
        return ERR_NOMEM;
    head->fields = fields;
    head->cap = cap;
    return OK;
}

static enum err add(struct h2_head *head, struct span name, struct span value)
{
    if (head->size > head->bytes_max)
        return refuse(head, ERR_TOO_LARGE, "the head is too large");
    enum err err = check_value(head, value);
    if (err)
        return err;
    if (name.len > 0 && name.ptr[0] == ':')
        return add_pseudo(head, name, value);
    if (head->count >= head->fields_max)
        return refuse(head, ERR_TOO_MANY, "there are too many headers");
    err = check_name(head, name);
    if (err == OK)
        err = judge(head, name, value);
    if (err == OK)
        err = make_room(head);
    struct h2_field field = { .name_len = (uint32_t)name.len, .value_len = (uint32_t)value.len };
    if (err == OK)
        err = keep(head, name, value, &field.at);
    if (err == OK)
        head->fields[head->count++] = field;
    return err;
}

void h2_head_add(struct h2_head *head, struct span name, struct span value)
{
    head->size += name.len + value.len + H2_FIELD_OVERHEAD;
    if (head->err == OK)
        head->err = add(head, name, value);
}

/* The bytes stay where they are from now on. */
static enum err make_headers(struct h2_head *head)
{
    const char *bytes = buf_span(&head->bytes).ptr;
    if (head->count > 0) {
        head->headers = fault_malloc(head->count * sizeof(*head->headers));
        if (!head->headers)
            return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < head->count; i++) {
        const struct h2_field *field = &head->fields[i];
        head->headers[i] =
            (struct http1_header){ .name = span_of(bytes + field->at, field->name_len),
                                   .value = span_of(bytes + field->at + field->name_len, field->value_len) };
    }
    free(head->fields);
    head->fields = NULL;
    head->cap = 0;
    head->head.headers = head->headers;
    head->head.header_count = head->count;
    return OK;
}

/* One authority, by :authority or Host; by both only if they agree: RFC 9113 section 8.3.1. */
static enum err settle_authority(struct h2_head *head)
{
    const struct http1_header *host = http1_find(&head->head, SPAN("host"));
    if (!(head->seen & SEEN_AUTHORITY)) {
        if (!host)
            return refuse(head, ERR_INVALID, "there is neither :authority nor Host");
        head->head.authority = host->value;
        return OK;
    }
    head->head.authority = span_of(buf_span(&head->bytes).ptr + head->authority, head->authority_len);
    if (host && !span_eq_nocase(host->value, head->head.authority))
        return refuse(head, ERR_INVALID, "Host and :authority disagree");
    return OK;
}

static enum err settle_target(struct h2_head *head)
{
    struct http1_head *h = &head->head;
    struct span none;
    h->target = span_of(buf_span(&head->bytes).ptr + head->path, head->path_len);
    const bool form = h->target.len > 0 && (h->target.ptr[0] == '/' || span_eq(h->target, SPAN("*")));
    if (!form || http1_split_target(h->method, h->target, &h->path, &h->query, &none))
        return refuse(head, ERR_SYNTAX, "the request target is malformed");
    return OK;
}

enum err h2_head_done(struct h2_head *head, bool ends)
{
    const unsigned needed = SEEN_METHOD | SEEN_SCHEME | SEEN_PATH;
    if (head->err)
        return head->err;
    if (head->head.method == HTTP1_CONNECT)
        return refuse(head, ERR_UNSUPPORTED, "CONNECT is not served");
    if ((head->seen & needed) != needed)
        return refuse(head, ERR_INVALID, "a pseudo-header is missing");
    enum err err = make_headers(head);
    if (err == OK)
        err = settle_authority(head);
    if (err == OK)
        err = settle_target(head);
    if (err == OK && ends && head->head.content_length > 0)
        err = refuse(head, ERR_INVALID, "Content-Length announces a body that does not come");
    head->head.has_body = !ends && head->head.content_length != 0;
    return err;
}
