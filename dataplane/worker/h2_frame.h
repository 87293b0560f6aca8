/* h2_frame.h - where frames begin in a client's bytes (RFC 9113 section 4.1), so that each can be judged before the
 * library sees it: it tells of some kinds only afterwards, and of continuations, unknown frames and frames on closed
 * streams not at all. Pure. */
#pragma once
#include "common/base.h"
#include "common/span.h"

#define H2_FRAME_HEAD_BYTES 9u

struct h2_frame {
    uint32_t length, id;
    uint8_t type, flags;
};
struct h2_cutter {
    struct h2_frame frame; /* the newest whose head is complete */
    uint8_t head[H2_FRAME_HEAD_BYTES];
    uint8_t head_len;
    uint32_t left; /* of the frame's payload */
};
/* The client's preface, which is no frame, is to come. */
void h2_cutter_init(struct h2_cutter *cutter);
/* The next piece of `input`, which is moved behind it: never beyond the end of a frame. *ret_begins: the piece completes
 * the head of cutter->frame. input is not empty. */
struct span h2_cut(struct h2_cutter *cutter, struct span *input, bool *ret_begins);
