/* http1_chunks.h - the chunked transfer coding (RFC 9112, section 7.1), decoded without copying.
 *
 * Stricter than the RFC where readers have disagreed and requests were smuggled: no white space around the size or in
 * extensions, CRLF only, at most sixteen digits. Extensions and trailers are checked and dropped. All-zero is the state
 * before the first chunk. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

#define HTTP1_EXTENSION_BYTES_MAX                                                                                      \
    4096                             /* in one body: stops "1;aaaa..." from making us read far more than is delivered */
#define HTTP1_TRAILER_BYTES_MAX 8192 /* stops a trailer without end; nobody looks at it */

enum http1_chunk_state {
    HTTP1_CHUNK_SIZE_FIRST,
    HTTP1_CHUNK_SIZE,
    HTTP1_CHUNK_EXT_NAME_FIRST,
    HTTP1_CHUNK_EXT_NAME,
    HTTP1_CHUNK_EXT_VALUE_FIRST,
    HTTP1_CHUNK_EXT_VALUE,
    HTTP1_CHUNK_EXT_QUOTED,
    HTTP1_CHUNK_EXT_QUOTED_PAIR,
    HTTP1_CHUNK_EXT_QUOTED_END,
    HTTP1_CHUNK_SIZE_LF,
    HTTP1_CHUNK_DATA,
    HTTP1_CHUNK_DATA_CR,
    HTTP1_CHUNK_DATA_LF,
    HTTP1_CHUNK_TRAILER_FIRST,
    HTTP1_CHUNK_TRAILER_NAME,
    HTTP1_CHUNK_TRAILER_VALUE,
    HTTP1_CHUNK_TRAILER_LF,
    HTTP1_CHUNK_LAST_LF,
    HTTP1_CHUNK_DONE,
};

struct http1_chunks {
    uint64_t left; /* of the chunk's data; while in a size line, the size so far */
    enum http1_chunk_state state;
    uint8_t digits;
    uint16_t extension_bytes;
    uint16_t trailer_bytes;
};

/* Reads framing from *input until there is data or nothing more; *input is moved behind what was used.
 * OK: *ret_data is body bytes that lie in the input (not empty), or it is empty and either the body is complete (state
 * HTTP1_CHUNK_DONE) or the input is used up. ERR_SYNTAX, ERR_INVALID (a limit of the framing), ERR_TOO_LARGE
 * (trailers): *ret_reason is a static text. */
MUST_CHECK enum err http1_chunks_next(struct http1_chunks *chunks, struct span *input, struct span *ret_data,
                                      const char **ret_reason);
