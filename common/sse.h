/* sse.h - incremental framing of server-sent events (WHATWG HTML, section 9.2), bytes in, events out.
 *
 * The framer does not copy what it can lend: sse_feed calls back with one event at a time, whose `raw` is exactly the
 * bytes that arrived (terminating blank line included), so a relay can forward or drop whole events byte for byte. LF,
 * CRLF and CR end lines; a BOM at the start is skipped in fields. When a feed ends between the CR and the LF of the
 * blank line, the event is reported at the CR and the LF begins the next event's raw: nobody has to wait for a byte
 * that may not come. An event split over feeds is gathered in a buffer bounded by event_bytes_max. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"

struct sse_event {
    struct span raw;  /* everything from the first byte of the event to its blank line */
    struct span type; /* last "event:" field; empty when absent */
    struct span data; /* joined "data:" fields (LF between); empty when absent */
    bool has_data;    /* an event without data is not dispatched by browsers: comments, keep-alives */
};

/* Asked at the start of an event: how many of these bytes are whole events, each ended by LF, that the owner knows and
 * has dealt with; 0: none. */
typedef size_t sse_known(void *user, struct span bytes);

struct sse_framer {
    sse_known *known;   /* the owner may set it after sse_init; NULL: every event is framed and given to the callback */
    struct buf pending; /* bytes of an unfinished event */
    struct buf data;    /* joined data when there is more than one data line */
    bool line_empty;    /* state of the scan: nothing on this line yet */
    bool after_cr;
    bool at_start;
};

/* Returning an error stops the feed, which returns it. Spans live until the callback returns. */
typedef enum err sse_callback(void *user, const struct sse_event *event);

void sse_init(struct sse_framer *framer, size_t event_bytes_max);
void sse_release(struct sse_framer *framer);
/* ERR_TOO_LARGE: an event longer than the maximum. ERR_NOMEM, or what the callback returned. */
MUST_CHECK enum err sse_feed(struct sse_framer *framer, struct span bytes, sse_callback *callback, void *user);
/* Bytes of an unfinished event: a stream that ends with some was cut. */
struct span sse_unfinished(const struct sse_framer *framer);
