/* event_mold.h - recognises an event that differs from an earlier one in its text alone.
 *
 * A stream's events are alike to the byte but for the piece of text in each. What was read and judged once need not be
 * read again: when the bytes before and behind the text are the same, and the text ends as a JSON string does, then
 * everything is known, exactly. A fifteenth of the cost of framing, indexing and judging the event (200 events of 230
 * bytes: 5 us instead of 120).
 *
 * Pure. All-zero is the empty mold, which fits nothing. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/span.h"

#define EVENT_MOLD_BYTES_MAX                                                                                           \
    2048u /* kept per stream; longer events are rare, and their own reading costs little beside them */
#define EVENT_MOLD_HOLES_MAX 2u

struct event_mold {
    struct buf raw; /* the event it was made from */
    struct event_mold_hole {
        uint32_t start, end;       /* of a JSON string's content, in raw */
    } holes[EVENT_MOLD_HOLES_MAX]; /* ascending; the others must fit to the byte */
    uint32_t hole_count;
    uint32_t content; /* the hole with the answer's text: its length is what differs in the event's facts */
};

void event_mold_release(struct event_mold *mold);
/* From a whole event and, within its bytes, the contents of two JSON strings: its text, not empty, and padding (.ptr
 * NULL: none) of which nothing is read. What cannot be a mold leaves it empty. */
void event_mold_cast(struct event_mold *mold, struct span raw, struct span content, struct span padding);
/* Length of the event at the start of `bytes` when it fits, with *ret_content_bytes (not 0) of text; else 0. */
size_t event_mold_match(const struct event_mold *mold, struct span bytes, size_t *ret_content_bytes);
