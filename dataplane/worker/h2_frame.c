#include "dataplane/worker/h2_frame.h"

#define PREFACE_BYTES 24u /* "PRI * HTTP/2.0", judged by the library: section 3.4 */

void h2_cutter_init(struct h2_cutter *cutter)
{
    *cutter = (struct h2_cutter){ .left = PREFACE_BYTES };
}

static struct h2_frame frame_of(const uint8_t *head)
{
    return (struct h2_frame){ .length = (uint32_t)head[0] << 16 | (uint32_t)head[1] << 8 | head[2],
                              .type = head[3],
                              .flags = head[4],
                              .id = (uint32_t)(head[5] & 0x7f) << 24 | (uint32_t)head[6] << 16 |
                                    (uint32_t)head[7] << 8 | head[8] };
}

struct span h2_cut(struct h2_cutter *cutter, struct span *input, bool *ret_begins)
{
    size_t taken = 0;
    *ret_begins = false;
    if (cutter->left == 0) {
        taken = size_min(H2_FRAME_HEAD_BYTES - cutter->head_len, input->len);
        memcpy(cutter->head + cutter->head_len, input->ptr, taken);
        cutter->head_len = (uint8_t)(cutter->head_len + taken);
        if (cutter->head_len == H2_FRAME_HEAD_BYTES) {
            cutter->frame = frame_of(cutter->head);
            cutter->head_len = 0;
            cutter->left = cutter->frame.length;
            *ret_begins = true;
        }
    }
    const size_t payload = size_min(cutter->left, input->len - taken);
    cutter->left -= (uint32_t)payload;
    const struct span piece = span_head(*input, taken + payload);
    *input = span_skip(*input, piece.len);
    return piece;
}
