/* http1_head.h - the head of a message, byte by byte. Private to http1*.c; h2_head.c shares the methods. */
#pragma once
#include "dataplane/worker/http1.h"

enum {
    HTTP1_SEEN_EMPTY_LINE = 1 << 0,
    HTTP1_SEEN_HOST = 1 << 1,
    HTTP1_SEEN_CONTENT_LENGTH = 1 << 2,
    HTTP1_SEEN_TRANSFER_ENCODING = 1 << 3,
    HTTP1_SEEN_CLOSE = 1 << 4,
    HTTP1_SEEN_KEEP_ALIVE = 1 << 5,
    HTTP1_SEEN_CONNECTION_UPGRADE = 1 << 6,
    HTTP1_SEEN_UPGRADE = 1 << 7,
};

/* Looks at parser->bytes from parser->scanned on, up to the end of the head (then parser->scan is HTTP1_SCAN_DONE) or
 * of the bytes. Writes method, status, version, header_count, content_length, chunked and expect_continue into
 * parser->head. Errors and parser->why as for http1_next. */
MUST_CHECK enum err http1_scan_head(struct http1 *parser);

static inline enum err http1_refuse(struct http1 *parser, enum err err, const char *why)
{
    parser->why = why;
    return err;
}

/* The name of a method -> which one it is, and its name for good. ERR_UNSUPPORTED: none that we know. */
MUST_CHECK enum err http1_method_of(struct span name, enum http1_method *ret, struct span *ret_name);
