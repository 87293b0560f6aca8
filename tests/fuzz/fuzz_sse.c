/* Server-sent events: any cut gives the same events, and the raw bytes of all events are the input. */
#include "common/sse.h"
#include "tests/fuzz/fuzz.h"

struct seen {
    struct buf events;
    struct buf raw;
};

static enum err on_event(void *user, const struct sse_event *event)
{
    struct seen *seen = user;
    MUST(buf_append(&seen->raw, event->raw) == OK);
    if (!event->has_data && event->type.len == 0)
        return OK; /* where an empty line stands alone depends on the cut */
    MUST(buf_printf(&seen->events, "%d %zu %zu ", event->has_data, event->type.len, event->data.len) == OK);
    MUST(buf_append(&seen->events, event->type) == OK);
    MUST(buf_append(&seen->events, event->data) == OK);
    return OK;
}

static void feed(struct sse_framer *framer, struct span piece, struct seen *seen)
{
    char *copy = malloc(piece.len ? piece.len : 1);
    MUST(copy != NULL);
    memcpy(copy, piece.ptr, piece.len);
    MUST(sse_feed(framer, span_of(copy, piece.len), on_event, seen) == OK);
    free(copy);
}

/* In pieces of `step` bytes. */
static void run(struct span bytes, size_t step, struct seen *seen)
{
    struct sse_framer framer;
    *seen = (struct seen){ .events = BUF_INIT(64u << 20), .raw = BUF_INIT(64u << 20) };
    sse_init(&framer, bytes.len + 1);
    for (struct span rest = bytes; rest.len > 0; rest = span_skip(rest, step))
        feed(&framer, span_head(rest, step), seen);
    MUST(buf_append(&seen->raw, buf_span(&framer.pending)) == OK);
    MUST(span_eq(buf_span(&seen->raw), bytes));
    sse_release(&framer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t steps[] = { 1, 2, 3, 7, 64 };
    struct seen whole, pieces;
    struct span bytes = span_of(data, size);
    if (size > 1u << 20)
        return 0;
    run(bytes, size ? size : 1, &whole);
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        run(bytes, steps[i], &pieces);
        MUST(span_eq(buf_span(&whole.events), buf_span(&pieces.events)));
        buf_release(&pieces.events);
        buf_release(&pieces.raw);
    }
    buf_release(&whole.events);
    buf_release(&whole.raw);
    return 0;
}
