#include "dataplane/dialect/event_mold.h"
#include "common/json.h"

void event_mold_release(struct event_mold *mold)
{
    buf_release(&mold->raw);
    *mold = (struct event_mold){ .hole_count = 0 };
}

/* False when the string does not lie in the event: data of several lines was joined elsewhere. */
static bool add_hole(struct event_mold *mold, struct span raw, struct span text)
{
    const uintptr_t start = (uintptr_t)text.ptr, event = (uintptr_t)raw.ptr;
    if (start < event || start + text.len > event + raw.len)
        return false;
    struct event_mold_hole hole = { (uint32_t)(start - event), (uint32_t)(start - event + text.len) };
    if (mold->hole_count > 0 && hole.start < mold->holes[0].start) {
        mold->holes[1] = mold->holes[0];
        mold->holes[0] = hole;
        mold->content = 1;
    } else {
        mold->holes[mold->hole_count] = hole;
    }
    mold->hole_count++;
    return true;
}

void event_mold_cast(struct event_mold *mold, struct span raw, struct span content, struct span padding)
{
    mold->hole_count = mold->content = 0;
    buf_clear(&mold->raw);
    mold->raw.max = EVENT_MOLD_BYTES_MAX;
    /* Ended by LF: where the next event begins cannot depend on a byte that is still to come. */
    if (raw.len > EVENT_MOLD_BYTES_MAX || !span_ends(raw, SPAN("\n")) || span_empty(content))
        return;
    bool good = add_hole(mold, raw, content) && (!padding.ptr || add_hole(mold, raw, padding));
    if (!good || buf_append(&mold->raw, raw) != OK)
        mold->hole_count = 0;
}

size_t event_mold_match(const struct event_mold *mold, struct span bytes, size_t *ret_content_bytes)
{
    const char *raw = mold->raw.data;
    size_t at = 0, from = 0, content_bytes = 0;
    for (uint32_t i = 0; i < mold->hole_count; i++) {
        const struct event_mold_hole *hole = &mold->holes[i];
        const size_t same = hole->start - from;
        if (bytes.len - at < same || memcmp(bytes.ptr + at, raw + from, same) != 0)
            return 0;
        at += same;
        const size_t length = json_string_length(span_skip(bytes, at));
        if (length == SIZE_MAX)
            return 0;
        if (i == mold->content)
            content_bytes = length;
        at += length;
        from = hole->end;
    }
    const size_t rest = mold->raw.len - from;
    if (mold->hole_count == 0 || content_bytes == 0 || bytes.len - at < rest ||
        memcmp(bytes.ptr + at, raw + from, rest) != 0)
        return 0;
    *ret_content_bytes = content_bytes;
    return at + rest;
}
