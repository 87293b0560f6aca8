/* sink.h - the way up: where an exchange's answer goes. Implemented by conn, and by nobody else in the programs. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/span.h"

struct sink;
struct sink_ops {
    /* Sends these bytes after what was sent before. What the socket does not take at once is copied: they may go on
     * return. Never calls the exchange back: a client that is gone is told later, by exchange_client_gone. */
    void (*write)(struct sink *sink, const struct span *parts, unsigned count);
    /* The same for a head and a whole body, whose memory is taken over (the buffer is empty on return). */
    void (*write_body)(struct sink *sink, struct span head, struct buf *body);
    /* Bytes the client has not taken yet. Over the configured limit the exchange pauses its upstream; exchange_writable
     * is called when it fell below half of it. */
    size_t (*queued)(const struct sink *sink);
    /* The answer is complete; the exchange is gone on return. close: no further request on this connection; `abort`:
     * cut it at once, so that the client cannot take what came for a whole answer. */
    void (*end)(struct sink *sink, bool close, bool abort);
};
struct sink {
    const struct sink_ops *ops;
};
