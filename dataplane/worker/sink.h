/* sink.h - the way up: where an exchange's answer goes, message by message. The protocol behind it (HTTP/1 in conn, a
 * stream of HTTP/2 in h2) does the framing: an exchange knows neither chunks nor versions. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"

struct sink;
struct sink_head {
    unsigned status;
    bool close;               /* no further request on this connection: HTTP/1 says so in the head */
    bool bodiless;            /* answers HEAD: the body's length is said, none of its bytes is sent */
    struct span content_type; /* empty: none */
    struct span lines; /* further header lines, "name: value\r\n" each, names in lower case, as http1_write_header makes
                          them; none of framing, no date: the sink adds those */
};
struct sink_ops {
    /* "100 Continue": the body may come. Only for a request that expects it. */
    void (*go_on)(struct sink *sink);
    /* A complete answer. The body's memory is taken over (it is empty on return, also on error). ERR_NOMEM: nothing was
     * sent. A client that is gone is told later, by exchange_client_gone: no call here ever calls the exchange back. */
    enum err (*whole)(struct sink *sink, const struct sink_head *head, struct buf *body);
    /* The next bytes of a streamed answer; head with the first of them, NULL later; last: none follow. What the socket
     * does not take at once is copied: they may go on return. ERR_NOMEM: these were not sent. */
    enum err (*stream)(struct sink *sink, const struct sink_head *head, struct span bytes, bool last);
    /* Bytes the client has not taken yet. Over the configured limit the exchange pauses its upstream; exchange_writable
     * is called when it fell below half of it. */
    size_t (*queued)(const struct sink *sink);
    /* The answer is complete; the exchange is gone on return. close: no further request on this connection; `abort`:
     * cut it at once, so that the client cannot take what came for a whole answer. */
    void (*end)(struct sink *sink, bool close, bool abort);
};
struct stream_facts;
struct sink {
    const struct sink_ops *ops;
    const struct stream_facts *client; /* whose requests these are; as long as the sink */
};
