/* outbox.h - bytes on their way to one client: what the socket takes goes at once, the rest waits in order.
 *
 * At most one write is under way in the loop; what comes meanwhile is gathered for the next. Nothing here calls back
 * from within outbox_write. */
#pragma once
#include "common/buf.h"
#include <uv.h>

#define OUTBOX_BYTES                                                                                                   \
    (72u << 20) /* never reached: an upstream is paused long before; stops a mistake of ours from filling memory */
#define OUTBOX_PARTS_MAX 8u

struct outbox {
    uv_stream_t *stream;
    void (*written)(void *user, bool failed); /* a write has ended, from the loop; there may be more to come */
    void *user;
    struct buf pending, writing;
    uv_write_t request;
    bool active;
    uint64_t progress_ms; /* when the client was last seen to take something */
    size_t unsent;        /* at that look */
};

void outbox_init(struct outbox *outbox, uv_stream_t *stream, void (*written)(void *user, bool failed), void *user);
void outbox_release(struct outbox *outbox); /* after the stream has closed */
/* Copies what the socket does not take. ERR_CLOSED: it is dead. ERR_FULL, ERR_NOMEM: bytes were lost, the connection
 * must go. */
MUST_CHECK enum err outbox_write(struct outbox *outbox, const struct span *parts, unsigned count);
/* The same for a head and a body whose memory is taken over: `body` is empty on return. */
MUST_CHECK enum err outbox_write_body(struct outbox *outbox, struct span head, struct buf *body);
static inline size_t outbox_queued(const struct outbox *outbox)
{
    return outbox->pending.len + outbox->writing.len;
}
static inline bool outbox_idle(const struct outbox *outbox)
{
    return !outbox->active && outbox->pending.len == 0;
}
static inline size_t outbox_memory(const struct outbox *outbox)
{
    return outbox->pending.cap + outbox->writing.cap;
}
/* The client has taken nothing for stall_ms though something waits for it. Else *ret_next_ms is when to look again
 * (UINT64_MAX: never). */
bool outbox_stalled(struct outbox *outbox, uint64_t stall_ms, uint64_t *ret_next_ms);
