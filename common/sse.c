#include "common/sse.h"

void sse_init(struct sse_framer *framer, size_t event_bytes_max)
{
    *framer = (struct sse_framer){ .line_empty = true, .at_start = true };
    buf_init(&framer->pending, event_bytes_max);
    buf_init(&framer->data, event_bytes_max);
}

void sse_release(struct sse_framer *framer)
{
    if (!framer)
        return;
    buf_release(&framer->pending);
    buf_release(&framer->data);
}

struct span sse_unfinished(const struct sse_framer *framer)
{
    struct span pending = buf_span(&framer->pending);
    /* The other half of the last blank line is nothing that was cut. */
    return span_eq(pending, SPAN("\n")) ? SPAN("") : pending;
}

/* Length of the current event up to the end of its blank line, 0 when it does not end in these bytes. Each byte is
 * looked at once. */
static size_t find_end(struct sse_framer *framer, struct span bytes)
{
    for (size_t i = 0; i < bytes.len; i++) {
        char byte = bytes.ptr[i];
        bool second_half = framer->after_cr && byte == '\n';
        framer->after_cr = byte == '\r';
        if (second_half)
            continue;
        if (byte != '\n' && byte != '\r') {
            framer->line_empty = false;
            const size_t skip = span_find_eol(span_skip(bytes, i + 1));
            if (skip == SIZE_MAX)
                return 0;
            i += skip;
            continue;
        }
        if (!framer->line_empty) {
            framer->line_empty = true;
            continue;
        }
        if (byte == '\r' && i + 1 < bytes.len && bytes.ptr[i + 1] == '\n') {
            framer->after_cr = false;
            i++;
        }
        return i + 1;
    }
    return 0;
}

static struct span take_line(struct span *rest)
{
    size_t n = size_min(span_find_eol(*rest), rest->len);
    struct span line = span_head(*rest, n);
    bool crlf = rest->len - n >= 2 && rest->ptr[n] == '\r' && rest->ptr[n + 1] == '\n';
    *rest = span_skip(*rest, n + (crlf ? 2 : 1));
    return line;
}

/* The first data line is lent; from the second on, all are joined in framer->data. */
static enum err add_data(struct sse_framer *framer, struct sse_event *event, struct span value)
{
    if (!event->has_data) {
        event->has_data = true;
        event->data = value;
        return OK;
    }
    enum err err = OK;
    if (framer->data.len == 0)
        err = buf_append(&framer->data, event->data);
    if (!err)
        err = buf_append_byte(&framer->data, '\n');
    if (!err)
        err = buf_append(&framer->data, value);
    event->data = buf_span(&framer->data);
    return err;
}

/* The fields of one event: WHATWG HTML section 9.2.6. Empty lines inside are only what a BOM or half a line end left
 * over. */
static enum err read_fields(struct sse_framer *framer, struct sse_event *event)
{
    struct span rest = event->raw;
    if (framer->at_start && span_starts(rest, SPAN("\xEF\xBB\xBF")))
        rest = span_skip(rest, 3);
    framer->at_start = false;
    buf_clear(&framer->data);
    while (rest.len > 0) {
        struct span line = take_line(&rest), value = SPAN(""), name = line;
        size_t colon = span_find_byte(line, ':');
        if (colon != SIZE_MAX) {
            name = span_head(line, colon);
            value = span_skip(line, colon + 1);
            if (value.len > 0 && value.ptr[0] == ' ')
                value = span_skip(value, 1);
        }
        enum err err = OK;
        if (span_eq(name, SPAN("data")))
            err = add_data(framer, event, value);
        else if (span_eq(name, SPAN("event")))
            event->type = value;
        if (err)
            return err;
    }
    return OK;
}

static enum err deliver(struct sse_framer *framer, struct span raw, sse_callback *callback, void *user)
{
    struct sse_event event = { .raw = raw, .type = SPAN(""), .data = SPAN("") };
    enum err err = read_fields(framer, &event);
    return err ? err : callback(user, &event);
}

/* The buffer's "full" is the limit on one event. */
static enum err keep(struct sse_framer *framer, struct span bytes)
{
    enum err err = buf_append(&framer->pending, bytes);
    return err == ERR_FULL ? ERR_TOO_LARGE : err;
}

enum err sse_feed(struct sse_framer *framer, struct span bytes, sse_callback *callback, void *user)
{
    while (bytes.len > 0) {
        const bool between = framer->pending.len == 0 && framer->line_empty && !framer->after_cr && !framer->at_start;
        const size_t known = between && framer->known ? framer->known(user, bytes) : 0;
        if (known > 0) {
            bytes = span_skip(bytes, known);
            continue;
        }
        size_t end = find_end(framer, bytes);
        struct span part = span_head(bytes, end ? end : bytes.len);
        bytes = span_skip(bytes, part.len);
        if (end == 0)
            return keep(framer, part);
        enum err err;
        if (framer->pending.len == 0) {
            err = part.len > framer->pending.max ? ERR_TOO_LARGE : deliver(framer, part, callback, user);
        } else {
            err = keep(framer, part);
            if (!err)
                err = deliver(framer, buf_span(&framer->pending), callback, user);
            buf_clear(&framer->pending);
        }
        if (err)
            return err;
    }
    return OK;
}
