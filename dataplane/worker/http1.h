/* http1.h - HTTP/1.x messages, requests and responses: bytes in, events out. RFC 9112 and 9110, with refusal wherever
 * readers are known to disagree.
 *
 * Pure: no I/O, no clock. The only memory is the head's buffer and its array of headers, both bounded; http1_trim gives
 * them back while a connection idles. Not thread-safe.
 *
 * How to use it. Give http1_next whatever arrived, again and again until it says HTTP1_MORE, then read more:
 *
 *     while ((err = http1_next(&parser, &input, &event, &body)) == OK && event != HTTP1_MORE)
 *         ...
 *
 * Each call moves `input` behind what it used and returns one event: HTTP1_HEAD once, HTTP1_BODY for each run of body
 * bytes (they lie in the input: nothing is copied), HTTP1_END once. It may be left at any event and resumed later with
 * the rest, so backpressure is: do not call. What is left in `input` after HTTP1_END belongs to the next message: call
 * http1_reset, then go on. Any split of the same bytes gives the same events, body runs apart. After an error the
 * parser stays failed and the connection has to be closed.
 *
 * How the head is judged. Its bytes are gathered up to the empty line and checked as they come, each byte once: CRLF
 * only, no folded lines, token names directly followed by a colon, no controls, single spaces, HTTP/1.0 or 1.1, one
 * Host, one plain Content-Length or one "Transfer-Encoding: chunked" and never both. Then llhttp (strict) reads the
 * same head and must find the same method, target, header count and framing; two readers that disagree are what request
 * smuggling is made of. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"
#include "dataplane/worker/http1_chunks.h"

#define HTTP1_HEAD_BYTES_MAX                                                                                           \
    32768 /* stops a head without end from filling memory; also the least that long cookies and tokens need */
#define HTTP1_HEADERS_MAX 100 /* stops a head of ten thousand one-letter headers from costing a search each */
#define HTTP1_INTERIM_MAX 16  /* stops an upstream that sends 1xx for ever */

enum http1_kind { HTTP1_REQUEST, HTTP1_RESPONSE };

enum http1_method {
    HTTP1_METHOD_NONE, /* a response */
    HTTP1_GET,
    HTTP1_HEAD_METHOD,
    HTTP1_POST,
    HTTP1_PUT,
    HTTP1_DELETE,
    HTTP1_CONNECT,
    HTTP1_OPTIONS,
    HTTP1_TRACE,
    HTTP1_PATCH,
    HTTP1_OTHER, /* registered elsewhere (WebDAV and such): nothing of ours answers it; see method_name */
};

enum http1_event { HTTP1_MORE, HTTP1_HEAD, HTTP1_BODY, HTTP1_END };

struct http1_header {
    struct span name;
    struct span value; /* without the white space around it */
};

/* All spans borrow from the parser: valid until http1_reset, http1_trim or http1_release. */
struct http1_head {
    enum http1_method method;
    struct span method_name;
    struct span target;    /* as it came */
    struct span path;      /* "/" when an absolute-form target has none; "*" for OPTIONS *; empty for CONNECT */
    struct span query;     /* without the '?' */
    struct span authority; /* of an absolute-form or CONNECT target, else the Host field: RFC 9112 section 3.2.2 */
    unsigned status;       /* of a response, 200 to 999: interim ones are skipped */
    struct span reason;
    unsigned version_minor; /* 0 or 1 */
    const struct http1_header *headers;
    unsigned header_count;
    int64_t content_length; /* as the field says (also for responses that have no body), -1 without */
    bool chunked;           /* Transfer-Encoding: chunked */
    bool until_close;       /* a response whose body ends with the connection */
    bool has_body;          /* bytes of a body may follow; false for Content-Length: 0 */
    bool keep_alive;        /* the connection may carry another message */
    bool expect_continue;   /* HTTP/1.1 and "Expect: 100-continue" */
    bool expect_unknown;    /* HTTP/1.1 and something else is expected: RFC 9110 section 10.1.1 */
    bool upgrade;           /* asks for another protocol; may be ignored (RFC 9110 section 7.8) */
};

/* Where the scan of the head stands: what the next byte may be. */
enum http1_scan {
    HTTP1_SCAN_FIRST, /* a request may follow one empty line: RFC 9112 section 2.2 */
    HTTP1_SCAN_EMPTY_LF,
    HTTP1_SCAN_METHOD,
    HTTP1_SCAN_TARGET,
    HTTP1_SCAN_VERSION,
    HTTP1_SCAN_MINOR,
    HTTP1_SCAN_LINE_CR,
    HTTP1_SCAN_STATUS_SP,
    HTTP1_SCAN_STATUS,
    HTTP1_SCAN_REASON_SP,
    HTTP1_SCAN_REASON,
    HTTP1_SCAN_LINE_LF,
    HTTP1_SCAN_NAME_FIRST,
    HTTP1_SCAN_NAME,
    HTTP1_SCAN_VALUE_FIRST,
    HTTP1_SCAN_VALUE,
    HTTP1_SCAN_END_LF,
    HTTP1_SCAN_DONE,
};

enum http1_field {
    HTTP1_FIELD_OTHER,
    HTTP1_FIELD_HOST,
    HTTP1_FIELD_CONTENT_LENGTH,
    HTTP1_FIELD_TRANSFER_ENCODING,
    HTTP1_FIELD_CONNECTION,
    HTTP1_FIELD_EXPECT,
    HTTP1_FIELD_UPGRADE,
};

enum http1_state {
    HTTP1_STATE_HEAD,
    HTTP1_STATE_BODY_LENGTH,
    HTTP1_STATE_BODY_CHUNKED,
    HTTP1_STATE_BODY_UNTIL_CLOSE,
    HTTP1_STATE_END_DUE, /* the message is complete, HTTP1_END not said yet */
    HTTP1_STATE_ENDED,
    HTTP1_STATE_FAILED,
};

struct http1 {
    enum http1_kind kind;
    enum http1_state state;
    enum err err; /* of HTTP1_STATE_FAILED */
    const char *why;
    bool answers_head;
    uint8_t interim;              /* responses skipped */
    struct http1_header *headers; /* made when the head is complete */
    unsigned header_cap;
    struct http1_head head;
    struct buf bytes; /* of the head */
    enum http1_scan scan;
    enum http1_field field; /* of the line being scanned */
    unsigned seen;          /* HTTP1_SEEN_ bits of http1_head.h */
    uint32_t scanned;       /* bytes of the head that have been looked at */
    uint32_t mark;          /* where the method, target, name or value being scanned begins */
    uint32_t progress;      /* bytes of a fixed text matched, digits read */
    uint64_t body_left;
    struct http1_chunks chunks;
};

void http1_init(struct http1 *parser, enum http1_kind kind);
void http1_release(struct http1 *parser); /* NULL is fine */
/* Ready for the next message on the same connection; the buffers are kept. Not after an error or CONNECT: what follows
 * is no message. */
void http1_reset(struct http1 *parser);
/* Gives the buffers back. Only between messages, before the first byte of the next. */
void http1_trim(struct http1 *parser);
/* The response to come answers a HEAD request: it has no body whatever it says. After init or reset. */
void http1_answers_head(struct http1 *parser);
/* Bytes that its buffers take. */
static inline size_t http1_memory(const struct http1 *parser)
{
    return parser->bytes.cap + parser->header_cap * sizeof(parser->headers[0]);
}
/* Nothing of the next message has arrived. */
bool http1_idle(const struct http1 *parser);
/* Valid from HTTP1_HEAD on. */
static inline const struct http1_head *http1_head(const struct http1 *parser)
{
    return &parser->head;
}

/* ERR_SYNTAX: malformed. ERR_INVALID: well-formed, but refused (framing, Host, version). ERR_DUPLICATE: Host,
 * Content-Length or Transfer-Encoding stands twice. ERR_UNSUPPORTED: a method or transfer coding that we do not know.
 * ERR_TOO_LARGE: head (or trailers) over the limit. ERR_TOO_MANY: headers, or interim responses. ERR_NOMEM. http1_why
 * says more. *ret_body is written for HTTP1_BODY only. */
MUST_CHECK enum err http1_next(struct http1 *parser, struct span *input, enum http1_event *ret_event,
                               struct span *ret_body);
/* HTTP1_END, which the last call gave, is given once more by the next: the owner cannot deal with it yet. */
void http1_end_again(struct http1 *parser);
/* The connection was closed by the peer. HTTP1_END: that ended the body. HTTP1_MORE: there was no message under way.
 * ERR_CLOSED: a message was cut short. Or the error the parser has failed with. */
MUST_CHECK enum err http1_eof(struct http1 *parser, enum http1_event *ret_event);
/* A static text for people: why the last call failed. Never NULL. */
const char *http1_why(const struct http1 *parser);

/* First header of that name (case ignored), NULL when absent. */
const struct http1_header *http1_find(const struct http1_head *head, struct span name);

/* Writers. ERR_INVALID: a byte that could end the line or the name early (CR, LF, NUL, any control but HT); nothing is
 * written then, nor on ERR_FULL and ERR_NOMEM. */
MUST_CHECK enum err http1_write_request_line(struct buf *buf, struct span method, struct span target);
MUST_CHECK enum err http1_write_status_line(struct buf *buf, unsigned status); /* 100 to 999 is the caller's promise */
MUST_CHECK enum err http1_write_header(struct buf *buf, struct span name, struct span value);
MUST_CHECK enum err http1_write_header_u64(struct buf *buf, struct span name, uint64_t value);
MUST_CHECK enum err http1_write_head_end(struct buf *buf);
/* Size line of a chunk; then its bytes and HTTP1_CHUNK_END. bytes > 0 is the caller's promise: an empty chunk ends the
 * body. */
MUST_CHECK enum err http1_write_chunk_size(struct buf *buf, size_t bytes);
#define HTTP1_CHUNK_END  SPAN("\r\n")
#define HTTP1_LAST_CHUNK SPAN("0\r\n\r\n")
/* "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 section 5.6.7), NUL-terminated; returns out. Years 1970 to 9999 are the
 * caller's promise. */
#define HTTP1_DATE_BYTES 32
char *http1_format_date(int64_t wall_ms, char out[HTTP1_DATE_BYTES]);
const char *http1_status_phrase(unsigned status); /* RFC 9110 section 15; "Unknown" for what is not there */
