/* h2_head.h - the head of an HTTP/2 request, field by field: judged as strictly as http1 judges its own, and presented
 * in the same form. RFC 9113 section 8. Pure: no library, no I/O.
 *
 * nghttp2 finds most of what is wrong before us and resets the stream; that it is found here, too, is what keeps the
 * promise of http1.h (names are tokens, no control character in a value, one host, one length) true whatever the
 * version of the library. */
#pragma once
#include "dataplane/worker/http1.h"

#define H2_FIELD_OVERHEAD 32u /* what each field counts beyond its bytes: RFC 9113 section 6.5.2 */

struct h2_field { /* its name, directly followed by its value, in `bytes` */
    uint32_t at, name_len, value_len;
};
struct h2_head {
    size_t bytes_max, fields_max;
    size_t size;      /* of all fields that came, with their overhead; counted on after an error */
    struct buf bytes; /* at most bytes_max */
    struct h2_field *fields;
    uint32_t count, cap;
    uint32_t authority, authority_len, path, path_len; /* places in `bytes`; the length 0: not seen */
    unsigned seen;
    enum err err; /* the first thing wrong: the rest of the block is only counted */
    const char *why;
    struct http1_header *headers; /* once it is whole */
    struct http1_head head;
};

/* bytes_max: of h2_head.size; fields_max: without pseudo-fields. */
void h2_head_init(struct h2_head *head, size_t bytes_max, size_t fields_max);
void h2_head_release(struct h2_head *head);
void h2_head_add(struct h2_head *head, struct span name, struct span value);
/* The block is whole; head->head is valid until h2_head_release unless an error is returned. ends: so is the request,
 * there is no body.
 * ERR_SYNTAX, ERR_INVALID, ERR_DUPLICATE, ERR_UNSUPPORTED: as http1_next says them; head->why tells people.
 * ERR_TOO_LARGE, ERR_TOO_MANY, ERR_NOMEM. */
MUST_CHECK enum err h2_head_done(struct h2_head *head, bool ends);
size_t h2_head_memory(const struct h2_head *head);
