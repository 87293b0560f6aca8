#include "dataplane/worker/http1.h"
#include "common/fault.h"
#include "dataplane/worker/http1_head.h"
#include "dataplane/worker/http1_target.h"
#include <llhttp.h>

#define HEADERS_STEP 16 /* most clients send fewer */

static void clear_message(struct http1 *p)
{
    p->state = HTTP1_STATE_HEAD;
    p->scan = HTTP1_SCAN_FIRST;
    p->seen = 0;
    p->scanned = 0;
    p->head = (struct http1_head){ .content_length = -1 };
    p->chunks = (struct http1_chunks){ 0 };
    buf_clear(&p->bytes);
}

void http1_init(struct http1 *p, enum http1_kind kind)
{
    *p = (struct http1){ .kind = kind, .why = "nothing is wrong" };
    buf_init(&p->bytes, HTTP1_HEAD_BYTES_MAX);
    clear_message(p);
}

void http1_release(struct http1 *p)
{
    if (!p)
        return;
    buf_release(&p->bytes);
    free(p->headers);
    http1_init(p, p->kind);
}

void http1_reset(struct http1 *p)
{
    REQUIRE((p->state == HTTP1_STATE_ENDED && p->head.method != HTTP1_CONNECT) || http1_idle(p));
    p->answers_head = false;
    p->interim = 0;
    clear_message(p);
}

void http1_trim(struct http1 *p)
{
    REQUIRE(http1_idle(p));
    buf_release(&p->bytes);
    p->scanned = 0; /* the empty line before a request needs no bytes */
    free(p->headers);
    p->headers = NULL;
    p->header_cap = 0;
}

void http1_answers_head(struct http1 *p)
{
    REQUIRE(p->kind == HTTP1_RESPONSE && http1_idle(p));
    p->answers_head = true;
}

bool http1_idle(const struct http1 *p)
{
    return p->state == HTTP1_STATE_HEAD && p->scan == HTTP1_SCAN_FIRST && p->interim == 0;
}

const char *http1_why(const struct http1 *p)
{
    return p->why;
}

const struct http1_header *http1_find(const struct http1_head *head, struct span name)
{
    for (unsigned i = 0; i < head->header_count; i++)
        if (span_eq_nocase(head->headers[i].name, name))
            return &head->headers[i];
    return NULL;
}

/* What the second reader makes of the head. */
struct second_reading {
    size_t target_bytes;
    unsigned headers;
    bool complete;
    bool chunked;
    bool has_length;
    uint64_t content_length;
    const char *method;
    unsigned minor;
    unsigned status;
};

static int second_url(llhttp_t *second, const char *at, size_t length)
{
    (void)at;
    ((struct second_reading *)second->data)->target_bytes += length;
    return 0;
}

static int second_header(llhttp_t *second)
{
    ((struct second_reading *)second->data)->headers++;
    return 0;
}

static int second_head_complete(llhttp_t *second)
{
    struct second_reading *reading = second->data;
    reading->complete = true;
    reading->chunked = (second->flags & F_CHUNKED) != 0;
    reading->has_length = (second->flags & F_CONTENT_LENGTH) != 0;
    reading->content_length = second->content_length;
    reading->method = second->type == HTTP_REQUEST ? llhttp_method_name((llhttp_method_t)second->method) : "";
    reading->minor = second->http_minor;
    reading->status = second->status_code;
    return 0;
}

/* llhttp reads the head too and must find the same. Costs well under a microsecond. */
static enum err agree_with_llhttp(struct http1 *p)
{
    static const llhttp_settings_t settings = {
        .on_url = second_url,
        .on_header_value_complete = second_header,
        .on_headers_complete = second_head_complete,
    };
    struct second_reading reading = { 0 };
    llhttp_t second;
    llhttp_init(&second, p->kind == HTTP1_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE, &settings);
    second.data = &reading;
    struct span bytes = buf_span(&p->bytes);
    llhttp_errno_t code = llhttp_execute(&second, bytes.ptr, bytes.len);
    if ((code != HPE_OK && code != HPE_PAUSED_UPGRADE) || !reading.complete)
        return http1_refuse(p, ERR_SYNTAX, "the head is malformed");
    const struct http1_head *head = &p->head;
    bool same = reading.headers == head->header_count && reading.chunked == head->chunked &&
                reading.minor == head->version_minor && reading.has_length == (head->content_length >= 0) &&
                (!reading.has_length || reading.content_length == (uint64_t)head->content_length);
    if (p->kind == HTTP1_REQUEST)
        same =
            same && reading.target_bytes == head->target.len && span_eq(span_cstr(reading.method), head->method_name);
    else
        same = same && reading.status == head->status;
    return same ? OK : http1_refuse(p, ERR_SYNTAX, "the head can be read in two ways");
}

/* Cuts the next line off the head, which the scan found to be made of lines. */
static struct span take_line(struct span *rest)
{
    struct span line = span_head(*rest, span_find_byte(*rest, '\r'));
    *rest = span_skip(*rest, line.len + 2);
    return line;
}

static enum err first_line(struct http1 *p, struct span line)
{
    struct http1_head *head = &p->head;
    if (p->kind == HTTP1_RESPONSE) {
        head->reason = span_skip(line, sizeof("HTTP/1.1 200 ") - 1);
        return OK;
    }
    (void)span_split(&line, ' ', &head->method_name);
    (void)span_split(&line, ' ', &head->target);
    return http1_split_target(head->method, head->target, &head->path, &head->query, &head->authority);
}

static enum err make_headers(struct http1 *p, struct span rest)
{
    unsigned count = p->head.header_count;
    if (count > p->header_cap) {
        unsigned cap = (count + HEADERS_STEP - 1) / HEADERS_STEP * HEADERS_STEP;
        struct http1_header *headers = fault_realloc(p->headers, cap * sizeof(headers[0]));
        if (!headers)
            return http1_refuse(p, ERR_NOMEM, "out of memory");
        p->headers = headers;
        p->header_cap = cap;
    }
    for (unsigned i = 0; i < count; i++) {
        struct span line = take_line(&rest);
        (void)span_split(&line, ':', &p->headers[i].name);
        p->headers[i].value = span_trim(line);
    }
    p->head.headers = p->headers;
    return OK;
}

static enum err judge_request(struct http1 *p)
{
    struct http1_head *head = &p->head;
    if (head->version_minor == 1 && !(p->seen & HTTP1_SEEN_HOST))
        return http1_refuse(p, ERR_INVALID, "Host is missing");
    bool framed = head->chunked || head->content_length >= 0;
    if (head->method == HTTP1_CONNECT && framed)
        return http1_refuse(p, ERR_INVALID, "CONNECT has no body");
    const struct http1_header *host = http1_find(head, SPAN("host"));
    if (head->authority.len == 0 && host)
        head->authority = host->value;
    head->has_body = head->chunked || head->content_length > 0;
    head->keep_alive = head->keep_alive && head->method != HTTP1_CONNECT;
    return OK;
}

/* RFC 9112 section 6.3. */
static enum err judge_response(struct http1 *p)
{
    struct http1_head *head = &p->head;
    bool framed = head->chunked || head->content_length > 0;
    if (head->status == 101)
        return http1_refuse(p, ERR_INVALID, "a change of protocol that nobody asked for");
    if (head->status < 200 && (head->chunked || head->content_length >= 0))
        return http1_refuse(p, ERR_INVALID, "an interim response has no body");
    if (head->status == 204 &&
        framed) /* whoever announces one may also send it, where the next response should begin */
        return http1_refuse(p, ERR_INVALID, "a 204 response has no body");
    bool bodyless = p->answers_head || head->status < 200 || head->status == 204 || head->status == 304;
    head->until_close = !bodyless && !head->chunked && head->content_length < 0;
    head->has_body = !bodyless && (framed || head->until_close);
    head->keep_alive = head->keep_alive && !head->until_close;
    return OK;
}

/* The scan found the head's end: spans, second reading, framing. */
static enum err finish_head(struct http1 *p)
{
    struct http1_head *head = &p->head;
    struct span rest = buf_span(&p->bytes);
    if (p->seen & HTTP1_SEEN_EMPTY_LINE && rest.ptr[0] == '\r')
        rest = span_skip(rest, 2);
    enum err err = first_line(p, take_line(&rest));
    if (!err)
        err = make_headers(p, rest);
    if (!err)
        err = agree_with_llhttp(p);
    if (err)
        return err;
    bool close = (p->seen & HTTP1_SEEN_CLOSE) != 0;
    head->keep_alive = !close && (head->version_minor == 1 || (p->seen & HTTP1_SEEN_KEEP_ALIVE));
    head->upgrade = (p->seen & HTTP1_SEEN_CONNECTION_UPGRADE) && (p->seen & HTTP1_SEEN_UPGRADE);
    err = p->kind == HTTP1_REQUEST ? judge_request(p) : judge_response(p);
    if (err)
        return err;
    p->body_left = head->content_length > 0 ? (uint64_t)head->content_length : 0;
    p->state = !head->has_body     ? HTTP1_STATE_END_DUE
               : head->chunked     ? HTTP1_STATE_BODY_CHUNKED
               : head->until_close ? HTTP1_STATE_BODY_UNTIL_CLOSE
                                   : HTTP1_STATE_BODY_LENGTH;
    return OK;
}

/* Bytes up to and with the first empty line, or all of them. Line by line: half of what memmem costs on a head. */
static size_t guess_end(struct span input)
{
    const char *at = input.ptr, *end = input.ptr + input.len;
    while ((at = memchr(at, '\r', (size_t)(end - at))) != NULL) {
        if (end - at >= 4 && memcmp(at, "\r\n\r\n", 4) == 0)
            return (size_t)(at + 4 - input.ptr);
        at++;
    }
    return input.len;
}

/* Gathers bytes up to the end of the head, which may be found before that of the input. */
static enum err gather_head(struct http1 *p, struct span *input)
{
    size_t before = p->bytes.len;
    if (before == HTTP1_HEAD_BYTES_MAX)
        return http1_refuse(p, ERR_TOO_LARGE, "the head is too large");
    /* Only a guess, to copy little of a body that came along: the scan decides. */
    size_t n = size_min(guess_end(*input), HTTP1_HEAD_BYTES_MAX - before);
    if (buf_append(&p->bytes, span_head(*input, n)) != OK)
        return http1_refuse(p, ERR_NOMEM, "out of memory");
    enum err err = http1_scan_head(p);
    if (err)
        return err;
    buf_truncate(&p->bytes, p->scanned);
    *input = span_skip(*input, p->scanned - before);
    return OK;
}

static enum err next_head(struct http1 *p, struct span *input, enum http1_event *ret_event)
{
    *ret_event = HTTP1_MORE;
    while (input->len > 0) {
        enum err err = gather_head(p, input);
        if (!err && p->scan == HTTP1_SCAN_DONE)
            err = finish_head(p);
        if (err)
            return err;
        if (p->scan != HTTP1_SCAN_DONE)
            continue;
        if (p->kind == HTTP1_REQUEST || p->head.status >= 200) {
            *ret_event = HTTP1_HEAD;
            return OK;
        }
        if (++p->interim > HTTP1_INTERIM_MAX)
            return http1_refuse(p, ERR_TOO_MANY, "too many interim responses");
        clear_message(p);
    }
    return OK;
}

static enum err next_body(struct http1 *p, struct span *input, enum http1_event *ret_event, struct span *ret_body)
{
    struct span data = span_of(input->ptr, 0);
    if (p->state == HTTP1_STATE_BODY_CHUNKED) {
        enum err err = http1_chunks_next(&p->chunks, input, &data, &p->why);
        if (err)
            return err;
        if (p->chunks.state == HTTP1_CHUNK_DONE)
            p->state = HTTP1_STATE_ENDED;
    } else {
        size_t n = input->len;
        if (p->state == HTTP1_STATE_BODY_LENGTH) {
            n = p->body_left < n ? (size_t)p->body_left : n;
            p->body_left -= n;
            if (p->body_left == 0)
                p->state = HTTP1_STATE_END_DUE;
        }
        data = span_head(*input, n);
        *input = span_skip(*input, n);
    }
    *ret_event = data.len > 0 ? HTTP1_BODY : p->state == HTTP1_STATE_ENDED ? HTTP1_END : HTTP1_MORE;
    if (data.len > 0)
        *ret_body = data;
    return OK;
}

enum err http1_next(struct http1 *p, struct span *input, enum http1_event *ret_event, struct span *ret_body)
{
    enum err err = OK;
    switch (p->state) {
    case HTTP1_STATE_HEAD:
        err = next_head(p, input, ret_event);
        break;
    case HTTP1_STATE_BODY_LENGTH:
    case HTTP1_STATE_BODY_CHUNKED:
    case HTTP1_STATE_BODY_UNTIL_CLOSE:
        err = next_body(p, input, ret_event, ret_body);
        break;
    case HTTP1_STATE_END_DUE:
        p->state = HTTP1_STATE_ENDED;
        *ret_event = HTTP1_END;
        break;
    case HTTP1_STATE_ENDED:
        *ret_event = HTTP1_MORE;
        break;
    case HTTP1_STATE_FAILED:
        return p->err;
    }
    if (err) {
        p->state = HTTP1_STATE_FAILED;
        p->err = err;
    }
    return err;
}

void http1_end_again(struct http1 *p)
{
    REQUIRE(p->state == HTTP1_STATE_ENDED);
    p->state = HTTP1_STATE_END_DUE;
}

enum err http1_eof(struct http1 *p, enum http1_event *ret_event)
{
    if (p->state == HTTP1_STATE_FAILED)
        return p->err;
    if (p->state == HTTP1_STATE_BODY_UNTIL_CLOSE || p->state == HTTP1_STATE_END_DUE) {
        p->state = HTTP1_STATE_ENDED;
        *ret_event = HTTP1_END;
        return OK;
    }
    if (p->state == HTTP1_STATE_ENDED || http1_idle(p)) {
        *ret_event = HTTP1_MORE;
        return OK;
    }
    p->state = HTTP1_STATE_FAILED;
    p->err = ERR_CLOSED;
    p->why = "the connection was closed in the middle of a message";
    return ERR_CLOSED;
}
