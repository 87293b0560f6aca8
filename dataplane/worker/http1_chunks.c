#include "dataplane/worker/http1_chunks.h"
#include "dataplane/worker/http1_chars.h"

#define SIZE_DIGITS_MAX 16 /* of a 64-bit size; leading zeros count too */

static enum err size_digit(struct http1_chunks *chunks, char byte, const char **ret_reason)
{
    if (++chunks->digits > SIZE_DIGITS_MAX || chunks->left >> 59 != 0) {
        *ret_reason = "the chunk size is too large";
        return ERR_INVALID;
    }
    chunks->left = chunks->left << 4 | (unsigned)http1_hex(byte);
    return OK;
}

/* States that end the size line or begin an extension come here on ';' and CR. */
static bool size_line_goes_on(struct http1_chunks *chunks, char byte)
{
    if (byte != ';' && byte != '\r')
        return false;
    chunks->state = byte == ';' ? HTTP1_CHUNK_EXT_NAME_FIRST : HTTP1_CHUNK_SIZE_LF;
    return true;
}

static bool size_line_ended(struct http1_chunks *chunks)
{
    chunks->state = chunks->left ? HTTP1_CHUNK_DATA : HTTP1_CHUNK_TRAILER_FIRST;
    chunks->digits = 0;
    return true;
}

/* True when the byte may stand in the extension (RFC 9112 section 7.1.1, without "bad" white space). */
static bool extension_byte(struct http1_chunks *chunks, char byte)
{
    switch (chunks->state) {
    case HTTP1_CHUNK_EXT_NAME_FIRST:
        chunks->state = HTTP1_CHUNK_EXT_NAME;
        return http1_is(byte, HTTP1_TOKEN);
    case HTTP1_CHUNK_EXT_NAME:
        if (byte == '=') {
            chunks->state = HTTP1_CHUNK_EXT_VALUE_FIRST;
            return true;
        }
        return http1_is(byte, HTTP1_TOKEN) || size_line_goes_on(chunks, byte);
    case HTTP1_CHUNK_EXT_VALUE_FIRST:
        chunks->state = byte == '"' ? HTTP1_CHUNK_EXT_QUOTED : HTTP1_CHUNK_EXT_VALUE;
        return byte == '"' || http1_is(byte, HTTP1_TOKEN);
    case HTTP1_CHUNK_EXT_VALUE:
        return http1_is(byte, HTTP1_TOKEN) || size_line_goes_on(chunks, byte);
    case HTTP1_CHUNK_EXT_QUOTED:
        if (byte == '"')
            chunks->state = HTTP1_CHUNK_EXT_QUOTED_END;
        else if (byte == '\\')
            chunks->state = HTTP1_CHUNK_EXT_QUOTED_PAIR;
        return http1_is(byte, HTTP1_VALUE);
    case HTTP1_CHUNK_EXT_QUOTED_PAIR:
        chunks->state = HTTP1_CHUNK_EXT_QUOTED;
        return http1_is(byte, HTTP1_VALUE);
    case HTTP1_CHUNK_EXT_QUOTED_END:
        return size_line_goes_on(chunks, byte);
    case HTTP1_CHUNK_SIZE_FIRST:
    case HTTP1_CHUNK_SIZE:
    case HTTP1_CHUNK_SIZE_LF:
    case HTTP1_CHUNK_DATA:
    case HTTP1_CHUNK_DATA_CR:
    case HTTP1_CHUNK_DATA_LF:
    case HTTP1_CHUNK_TRAILER_FIRST:
    case HTTP1_CHUNK_TRAILER_NAME:
    case HTTP1_CHUNK_TRAILER_VALUE:
    case HTTP1_CHUNK_TRAILER_LF:
    case HTTP1_CHUNK_LAST_LF:
    case HTTP1_CHUNK_DONE:
        break;
    }
    return false;
}

static bool trailer_byte(struct http1_chunks *chunks, char byte)
{
    if (chunks->state == HTTP1_CHUNK_TRAILER_FIRST) {
        chunks->state = byte == '\r' ? HTTP1_CHUNK_LAST_LF : HTTP1_CHUNK_TRAILER_NAME;
        return byte == '\r' || http1_is(byte, HTTP1_TOKEN);
    }
    if (chunks->state == HTTP1_CHUNK_TRAILER_NAME) {
        if (byte == ':')
            chunks->state = HTTP1_CHUNK_TRAILER_VALUE;
        return byte == ':' || http1_is(byte, HTTP1_TOKEN);
    }
    if (byte == '\r')
        chunks->state = HTTP1_CHUNK_TRAILER_LF;
    return byte == '\r' || http1_is(byte, HTTP1_VALUE);
}

static bool expect(struct http1_chunks *chunks, char byte, char expected, enum http1_chunk_state then)
{
    chunks->state = then;
    return byte == expected;
}

static enum err framing_byte(struct http1_chunks *chunks, char byte, const char **ret_reason)
{
    bool good = false;
    switch (chunks->state) {
    case HTTP1_CHUNK_SIZE_FIRST:
    case HTTP1_CHUNK_SIZE:
        if (http1_hex(byte) >= 0) {
            chunks->state = HTTP1_CHUNK_SIZE;
            return size_digit(chunks, byte, ret_reason);
        }
        good = chunks->state == HTTP1_CHUNK_SIZE && size_line_goes_on(chunks, byte);
        break;
    case HTTP1_CHUNK_EXT_NAME_FIRST:
    case HTTP1_CHUNK_EXT_NAME:
    case HTTP1_CHUNK_EXT_VALUE_FIRST:
    case HTTP1_CHUNK_EXT_VALUE:
    case HTTP1_CHUNK_EXT_QUOTED:
    case HTTP1_CHUNK_EXT_QUOTED_PAIR:
    case HTTP1_CHUNK_EXT_QUOTED_END:
        if (++chunks->extension_bytes > HTTP1_EXTENSION_BYTES_MAX) {
            *ret_reason = "too many bytes of chunk extensions";
            return ERR_INVALID;
        }
        good = extension_byte(chunks, byte);
        break;
    case HTTP1_CHUNK_SIZE_LF:
        good = byte == '\n' && size_line_ended(chunks);
        break;
    case HTTP1_CHUNK_DATA_CR:
        good = expect(chunks, byte, '\r', HTTP1_CHUNK_DATA_LF);
        break;
    case HTTP1_CHUNK_DATA_LF:
        good = expect(chunks, byte, '\n', HTTP1_CHUNK_SIZE_FIRST);
        break;
    case HTTP1_CHUNK_TRAILER_FIRST:
    case HTTP1_CHUNK_TRAILER_NAME:
    case HTTP1_CHUNK_TRAILER_VALUE:
        if (++chunks->trailer_bytes > HTTP1_TRAILER_BYTES_MAX) {
            *ret_reason = "the trailers are too large";
            return ERR_TOO_LARGE;
        }
        good = trailer_byte(chunks, byte);
        break;
    case HTTP1_CHUNK_TRAILER_LF:
        good = expect(chunks, byte, '\n', HTTP1_CHUNK_TRAILER_FIRST);
        break;
    case HTTP1_CHUNK_LAST_LF:
        good = expect(chunks, byte, '\n', HTTP1_CHUNK_DONE);
        break;
    case HTTP1_CHUNK_DATA:
    case HTTP1_CHUNK_DONE:
        break;
    }
    *ret_reason = "malformed chunk framing";
    return good ? OK : ERR_SYNTAX;
}

enum err http1_chunks_next(struct http1_chunks *chunks, struct span *input, struct span *ret_data,
                           const char **ret_reason)
{
    size_t used = 0;
    *ret_data = span_of(input->ptr, 0);
    while (used < input->len && chunks->state != HTTP1_CHUNK_DONE) {
        if (chunks->state == HTTP1_CHUNK_DATA) {
            size_t n = (size_t)(chunks->left < input->len - used ? chunks->left : input->len - used);
            *ret_data = span_of(input->ptr + used, n);
            chunks->left -= n;
            if (chunks->left == 0)
                chunks->state = HTTP1_CHUNK_DATA_CR;
            used += n;
            break;
        }
        enum err err = framing_byte(chunks, input->ptr[used++], ret_reason);
        if (err)
            return err;
    }
    *input = span_skip(*input, used);
    return OK;
}
