#include "dataplane/worker/http1_head.h"
#include "dataplane/worker/http1_chars.h"
#include "dataplane/worker/http1_target.h"

/* How the scan works: parser->scan says what the next byte may be; a byte that may not stand there fails at once, so
 * that a verdict depends only on the bytes up to it and never on how they were split. Names and values are judged when
 * they end, and those that decide framing also while they come. Positions are offsets: the buffer moves when it grows.
 */

/* RFC 9110 section 9 and PATCH are told apart; the rest of the IANA registry that llhttp knows is HTTP1_OTHER. */
static const struct {
    const char *name;
    enum http1_method method;
} methods[] = {
    { "GET", HTTP1_GET },         { "HEAD", HTTP1_HEAD_METHOD }, { "POST", HTTP1_POST },
    { "PUT", HTTP1_PUT },         { "DELETE", HTTP1_DELETE },    { "CONNECT", HTTP1_CONNECT },
    { "OPTIONS", HTTP1_OPTIONS }, { "TRACE", HTTP1_TRACE },      { "PATCH", HTTP1_PATCH },
    { "ACL", HTTP1_OTHER },       { "BIND", HTTP1_OTHER },       { "CHECKOUT", HTTP1_OTHER },
    { "COPY", HTTP1_OTHER },      { "LINK", HTTP1_OTHER },       { "LOCK", HTTP1_OTHER },
    { "MERGE", HTTP1_OTHER },     { "MKACTIVITY", HTTP1_OTHER }, { "MKCALENDAR", HTTP1_OTHER },
    { "MKCOL", HTTP1_OTHER },     { "MOVE", HTTP1_OTHER },       { "PROPFIND", HTTP1_OTHER },
    { "PROPPATCH", HTTP1_OTHER }, { "REBIND", HTTP1_OTHER },     { "REPORT", HTTP1_OTHER },
    { "SEARCH", HTTP1_OTHER },    { "UNBIND", HTTP1_OTHER },     { "UNLINK", HTTP1_OTHER },
    { "UNLOCK", HTTP1_OTHER },
};

static struct span marked(const struct http1 *p)
{
    return span_of(buf_span(&p->bytes).ptr + p->mark, p->scanned - p->mark);
}

enum err http1_method_of(struct span name, enum http1_method *ret, struct span *ret_name)
{
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if (span_eq(name, span_cstr(methods[i].name))) {
            *ret = methods[i].method;
            *ret_name = span_cstr(methods[i].name);
            return OK;
        }
    }
    return ERR_UNSUPPORTED;
}

static enum err method_done(struct http1 *p)
{
    struct span name;
    if (http1_method_of(marked(p), &p->head.method, &name))
        return http1_refuse(p, ERR_UNSUPPORTED, "the method is not known");
    p->scan = HTTP1_SCAN_TARGET;
    p->mark = p->scanned + 1;
    return OK;
}

static enum err method_byte(struct http1 *p, char byte)
{
    if (byte == ' ' && p->scanned > p->mark)
        return method_done(p);
    if (!http1_is(byte, HTTP1_TOKEN))
        return http1_refuse(p, ERR_SYNTAX, "the method is malformed");
    bool known_letter = (byte >= 'A' && byte <= 'Z') && p->scanned - p->mark < 16;
    return known_letter ? OK : http1_refuse(p, ERR_UNSUPPORTED, "the method is not known");
}

static enum err target_byte(struct http1 *p, char byte)
{
    struct span path, query, authority;
    if (http1_is(byte, HTTP1_TARGET))
        return OK;
    if (byte != ' ' || p->scanned == p->mark ||
        http1_split_target(p->head.method, marked(p), &path, &query, &authority) != OK)
        return http1_refuse(p, ERR_SYNTAX, "the request target is malformed");
    p->scan = HTTP1_SCAN_VERSION;
    p->progress = 0;
    return OK;
}

static enum err version_byte(struct http1 *p, char byte)
{
    static const char expected[] = "HTTP/1.";
    if (byte != expected[p->progress])
        return p->progress < 5 ? http1_refuse(p, ERR_SYNTAX, "the version is malformed")
                               : http1_refuse(p, ERR_INVALID, "the version must be HTTP/1.0 or HTTP/1.1");
    if (++p->progress == sizeof(expected) - 1)
        p->scan = HTTP1_SCAN_MINOR;
    return OK;
}

static enum err minor_byte(struct http1 *p, char byte)
{
    if (byte != '0' && byte != '1')
        return http1_refuse(p, ERR_INVALID, "the version must be HTTP/1.0 or HTTP/1.1");
    p->head.version_minor = byte == '1';
    p->scan = p->kind == HTTP1_REQUEST ? HTTP1_SCAN_LINE_CR : HTTP1_SCAN_STATUS_SP;
    return OK;
}

static enum err first_byte(struct http1 *p, char byte)
{
    p->mark = p->scanned;
    p->progress = 0;
    if (p->kind == HTTP1_RESPONSE) {
        p->scan = HTTP1_SCAN_VERSION;
        return version_byte(p, byte);
    }
    if (byte == '\r' && !(p->seen & HTTP1_SEEN_EMPTY_LINE)) {
        p->seen |= HTTP1_SEEN_EMPTY_LINE;
        p->scan = HTTP1_SCAN_EMPTY_LF;
        return OK;
    }
    p->scan = HTTP1_SCAN_METHOD;
    return method_byte(p, byte);
}

static enum err status_byte(struct http1 *p, char byte)
{
    if (!http1_is_digit(byte) || (p->progress == 0 && byte == '0'))
        return http1_refuse(p, ERR_SYNTAX, "the status is malformed");
    p->head.status = p->head.status * 10 + (unsigned)(byte - '0');
    if (++p->progress == 3)
        p->scan = HTTP1_SCAN_REASON_SP;
    return OK;
}

static enum http1_field field_of(struct span name)
{
    static const struct {
        const char *name;
        enum http1_field field;
    } known[] = {
        { "host", HTTP1_FIELD_HOST },
        { "content-length", HTTP1_FIELD_CONTENT_LENGTH },
        { "transfer-encoding", HTTP1_FIELD_TRANSFER_ENCODING },
        { "connection", HTTP1_FIELD_CONNECTION },
        { "expect", HTTP1_FIELD_EXPECT },
        { "upgrade", HTTP1_FIELD_UPGRADE },
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (span_eq_nocase(name, span_cstr(known[i].name)))
            return known[i].field;
    return HTTP1_FIELD_OTHER;
}

/* A name is complete: may this field stand in this head, given the ones before? */
static enum err name_done(struct http1 *p)
{
    p->field = field_of(marked(p));
    if (p->field == HTTP1_FIELD_HOST && p->kind == HTTP1_REQUEST) {
        if (p->seen & HTTP1_SEEN_HOST)
            return http1_refuse(p, ERR_DUPLICATE, "Host stands twice");
        p->seen |= HTTP1_SEEN_HOST;
    }
    if (p->field == HTTP1_FIELD_CONTENT_LENGTH) {
        if (p->seen & HTTP1_SEEN_CONTENT_LENGTH)
            return http1_refuse(p, ERR_DUPLICATE, "Content-Length stands twice");
        p->seen |= HTTP1_SEEN_CONTENT_LENGTH;
    }
    if (p->field == HTTP1_FIELD_TRANSFER_ENCODING) {
        if (p->head.version_minor == 0)
            return http1_refuse(p, ERR_INVALID, "HTTP/1.0 has no Transfer-Encoding");
        if (p->seen & HTTP1_SEEN_TRANSFER_ENCODING)
            return http1_refuse(p, ERR_DUPLICATE, "Transfer-Encoding stands twice");
        p->seen |= HTTP1_SEEN_TRANSFER_ENCODING;
    }
    if ((p->seen & HTTP1_SEEN_CONTENT_LENGTH) && (p->seen & HTTP1_SEEN_TRANSFER_ENCODING))
        return http1_refuse(p, ERR_INVALID, "Content-Length and Transfer-Encoding exclude each other");
    p->scan = HTTP1_SCAN_VALUE_FIRST;
    return OK;
}

static enum err name_first_byte(struct http1 *p, char byte)
{
    if (byte == '\r') {
        p->scan = HTTP1_SCAN_END_LF;
        return OK;
    }
    if (byte == ' ' || byte == '\t')
        return http1_refuse(p, ERR_SYNTAX, "a line begins with white space");
    if (!http1_is(byte, HTTP1_TOKEN))
        return http1_refuse(p, ERR_SYNTAX, "a header name is malformed");
    if (p->head.header_count >= HTTP1_HEADERS_MAX)
        return http1_refuse(p, ERR_TOO_MANY, "too many headers");
    p->head.header_count++;
    p->mark = p->scanned;
    p->scan = HTTP1_SCAN_NAME;
    return OK;
}

static enum err name_byte(struct http1 *p, char byte)
{
    if (byte == ':')
        return name_done(p);
    return http1_is(byte, HTTP1_TOKEN) ? OK : http1_refuse(p, ERR_SYNTAX, "a header name is malformed");
}

/* The value so far, of which the bytes from `from` are new, can still become a good one. */
static enum err value_goes_on(struct http1 *p, uint32_t from)
{
    struct span value = marked(p);
    switch (p->field) {
    case HTTP1_FIELD_CONTENT_LENGTH:
        for (size_t i = from - p->mark; i < value.len; i++)
            if (!http1_is_digit(value.ptr[i]) && value.ptr[i] != ' ' && value.ptr[i] != '\t')
                return http1_refuse(p, ERR_INVALID, "Content-Length is not a plain number");
        break;
    case HTTP1_FIELD_TRANSFER_ENCODING:
        if (!span_eq_nocase(span_head(value, 7), span_head(SPAN("chunked"), value.len)))
            return http1_refuse(p, ERR_UNSUPPORTED, "no transfer coding but chunked is known");
        break;
    case HTTP1_FIELD_HOST:
        for (size_t i = from - p->mark; i < value.len && p->kind == HTTP1_REQUEST; i++)
            if (!http1_is(value.ptr[i], HTTP1_HOST) && value.ptr[i] != ' ' && value.ptr[i] != '\t')
                return http1_refuse(p, ERR_INVALID, "Host is malformed");
        break;
    case HTTP1_FIELD_OTHER:
    case HTTP1_FIELD_CONNECTION:
    case HTTP1_FIELD_EXPECT:
    case HTTP1_FIELD_UPGRADE:
        break;
    }
    return OK;
}

static enum err content_length_done(struct http1 *p, struct span value)
{
    /* Nineteen digits: no leading zeros without end, no overflow on the way to INT64_MAX. */
    if (value.len == 0 || value.len > 19 || span_to_i64(value, &p->head.content_length) != OK || value.ptr[0] == '-')
        return http1_refuse(p, ERR_INVALID, "Content-Length is not a plain number");
    return OK;
}

static enum err connection_done(struct http1 *p, struct span value)
{
    struct span option;
    while (span_split(&value, ',', &option)) {
        option = span_trim(option);
        for (size_t i = 0; i < option.len; i++)
            if (!http1_is(option.ptr[i], HTTP1_TOKEN))
                return http1_refuse(p, ERR_SYNTAX, "Connection is malformed");
        if (span_eq_nocase(option, SPAN("close")))
            p->seen |= HTTP1_SEEN_CLOSE;
        else if (span_eq_nocase(option, SPAN("keep-alive")))
            p->seen |= HTTP1_SEEN_KEEP_ALIVE;
        else if (span_eq_nocase(option, SPAN("upgrade")))
            p->seen |= HTTP1_SEEN_CONNECTION_UPGRADE;
    }
    return OK;
}

static enum err value_done(struct http1 *p, struct span value)
{
    value = span_trim(value);
    switch (p->field) {
    case HTTP1_FIELD_HOST:
        if (p->kind == HTTP1_REQUEST && !http1_host_ok(value))
            return http1_refuse(p, ERR_INVALID, "Host is malformed");
        break;
    case HTTP1_FIELD_CONTENT_LENGTH:
        return content_length_done(p, value);
    case HTTP1_FIELD_TRANSFER_ENCODING:
        p->head.chunked = span_eq_nocase(value, SPAN("chunked"));
        return p->head.chunked ? OK : http1_refuse(p, ERR_UNSUPPORTED, "no transfer coding but chunked is known");
    case HTTP1_FIELD_CONNECTION:
        return connection_done(p, value);
    case HTTP1_FIELD_EXPECT: /* HTTP/1.0 clients do not know it: RFC 9110 section 10.1.1 */
        if (p->kind == HTTP1_REQUEST && p->head.version_minor == 1)
            http1_read_expect(value, &p->head);
        break;
    case HTTP1_FIELD_UPGRADE:
        p->seen |= HTTP1_SEEN_UPGRADE;
        break;
    case HTTP1_FIELD_OTHER:
        break;
    }
    return OK;
}

static enum err value_first_byte(struct http1 *p, char byte)
{
    if (byte == ' ' || byte == '\t')
        return OK;
    p->mark = p->scanned;
    if (byte == '\r') {
        p->scan = HTTP1_SCAN_LINE_LF;
        return value_done(p, SPAN(""));
    }
    if (!http1_is(byte, HTTP1_VALUE))
        return http1_refuse(p, ERR_SYNTAX, "a control character in a header");
    p->scan = HTTP1_SCAN_VALUE;
    p->scanned++; /* so that the value, seen from its first byte, is not empty */
    enum err err = value_goes_on(p, p->mark);
    p->scanned--;
    return err;
}

static enum err value_byte(struct http1 *p, char byte)
{
    if (byte != '\r')
        return http1_refuse(p, ERR_SYNTAX, "a control character in a header");
    p->scan = HTTP1_SCAN_LINE_LF;
    return value_done(p, marked(p));
}

/* Moves over bytes of a kind that the state takes one like the other; stops at the buffer's end, too. */
static void skip_run(struct http1 *p, unsigned kind)
{
    const struct span bytes = buf_span(&p->bytes);
    uint32_t at = p->scanned;
    while (at < bytes.len && http1_is(bytes.ptr[at], kind))
        at++;
    p->scanned = at;
}

/* Runs are most of every head. */
static enum err skip(struct http1 *p)
{
    const uint32_t from = p->scanned;
    if (p->scan == HTTP1_SCAN_NAME)
        skip_run(p, HTTP1_TOKEN);
    else if (p->scan == HTTP1_SCAN_TARGET)
        skip_run(p, HTTP1_TARGET);
    else if (p->scan == HTTP1_SCAN_REASON)
        skip_run(p, HTTP1_VALUE);
    if (p->scan != HTTP1_SCAN_VALUE)
        return OK;
    const struct span rest = span_skip(buf_span(&p->bytes), from);
    p->scanned += (uint32_t)(http1_value_run(rest.ptr, rest.ptr + rest.len) - rest.ptr);
    return p->scanned > from ? value_goes_on(p, from) : OK;
}

static enum err expect(struct http1 *p, char byte, char expected, enum http1_scan then, const char *why)
{
    p->scan = then;
    return byte == expected ? OK : http1_refuse(p, ERR_SYNTAX, why);
}

static enum err scan_byte(struct http1 *p, char byte)
{
    static const char lone_cr[] = "LF must follow CR", bad_line[] = "the first line is malformed";
    switch (p->scan) {
    case HTTP1_SCAN_FIRST:
        return first_byte(p, byte);
    case HTTP1_SCAN_EMPTY_LF:
        return expect(p, byte, '\n', HTTP1_SCAN_FIRST, lone_cr);
    case HTTP1_SCAN_METHOD:
        return method_byte(p, byte);
    case HTTP1_SCAN_TARGET:
        return target_byte(p, byte);
    case HTTP1_SCAN_VERSION:
        return version_byte(p, byte);
    case HTTP1_SCAN_MINOR:
        return minor_byte(p, byte);
    case HTTP1_SCAN_LINE_CR:
        return expect(p, byte, '\r', HTTP1_SCAN_LINE_LF, bad_line);
    case HTTP1_SCAN_STATUS_SP:
        p->progress = 0;
        return expect(p, byte, ' ', HTTP1_SCAN_STATUS, bad_line);
    case HTTP1_SCAN_STATUS:
        return status_byte(p, byte);
    case HTTP1_SCAN_REASON_SP:
        return expect(p, byte, ' ', HTTP1_SCAN_REASON, bad_line);
    case HTTP1_SCAN_REASON:
        if (http1_is(byte, HTTP1_VALUE))
            return OK;
        return expect(p, byte, '\r', HTTP1_SCAN_LINE_LF, bad_line);
    case HTTP1_SCAN_LINE_LF:
        return expect(p, byte, '\n', HTTP1_SCAN_NAME_FIRST, lone_cr);
    case HTTP1_SCAN_NAME_FIRST:
        return name_first_byte(p, byte);
    case HTTP1_SCAN_NAME:
        return name_byte(p, byte);
    case HTTP1_SCAN_VALUE_FIRST:
        return value_first_byte(p, byte);
    case HTTP1_SCAN_VALUE:
        return value_byte(p, byte);
    case HTTP1_SCAN_END_LF:
        return expect(p, byte, '\n', HTTP1_SCAN_DONE, lone_cr);
    case HTTP1_SCAN_DONE:
        break;
    }
    return OK;
}

enum err http1_scan_head(struct http1 *p)
{
    struct span bytes = buf_span(&p->bytes);
    while (p->scanned < bytes.len && p->scan != HTTP1_SCAN_DONE) {
        enum err err = skip(p);
        if (err)
            return err;
        if (p->scanned == bytes.len)
            break;
        err = scan_byte(p, bytes.ptr[p->scanned]);
        if (err)
            return err;
        p->scanned++;
    }
    return OK;
}
