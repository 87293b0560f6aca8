/* stream.h - a client's bytes, whatever carries them: TCP or a Unix socket, with a PROXY header before them or not,
 * with TLS around them or not. Whoever speaks on it (speaker.h) sees plain bytes in and out.
 *
 * Writing: what the socket takes goes at once, the rest is copied (or taken over) and follows in order; nothing calls
 * back from within a write. Reading: `bytes` from the loop only, never from within stream_read. With TLS, what is
 * queued is counted as the cipher text that waits for the socket. The stream charges what it holds to the worker
 * itself (core_account). */
#pragma once
#include "dataplane/worker/core.h"
#include "dataplane/worker/outbox.h"
#include "dataplane/worker/setup.h"
#include "dataplane/worker/socket.h"

enum stream_protocol { STREAM_UNKNOWN /* plaintext: the first bytes tell */, STREAM_HTTP1, STREAM_HTTP2 };
#define STREAM_ADDRESS_BYTES 64u
#define STREAM_GIVEN_MAX     (CORE_READ_BYTES + (20u << 10)) /* of one read; with the rest of a record of TLS */
struct stream_facts {                                        /* known from `opened` on */
    enum stream_protocol protocol;                           /* by ALPN, or UNKNOWN */
    bool tls;
    char client[STREAM_ADDRESS_BYTES]; /* "192.0.2.1:1234"; by the PROXY header where one came; "unix" */
    const char
        *team; /* of the client's verified certificate, by the listener's map; NULL: none. As long as the stream */
    const char *certificate; /* the name that the map knows it by */
};
struct stream_events {
    void (*opened)(void *user); /* once: PROXY header and handshake are done; bytes may follow */
    /* All are the callee's to take; they go on return. After stream_read(off) what one read has brought still comes:
     * STREAM_GIVEN_MAX in all. */
    void (*bytes)(void *user, struct span bytes);
    /* No more will come. failed: the connection is dead; else only the client's side is shut. */
    void (*ended)(void *user, bool failed);
    void (*written)(void *user, bool failed); /* the queue is shorter than it was */
};

struct stream_tls;
struct proxy_v2;
struct stream { /* stream*.c's */
    struct core *core;
    struct listener_setup *setup;
    const struct stream_events *events;
    void *user;
    void (*closed)(void *user);
    struct proxy_v2 *proxy; /* NULL: its header is complete, or none comes */
    struct stream_tls *tls; /* NULL: plaintext */
    bool reading, opened, ended, shutting, closing;
    union socket socket;
    struct outbox outbox;
    uv_shutdown_t shutdown;
    size_t accounted;
    struct stream_facts facts;
};

/* Accepts from `server` into it (ERR_NOMEM, ERR_IO: the socket is or will be closed; wait for `closed` of stream_close
 * all the same). Reading is on. `setup` is counted. */
MUST_CHECK enum err stream_accept(struct stream *stream, struct core *core, uv_stream_t *server,
                                  struct listener_setup *setup, const struct stream_events *events, void *user);
/* Nothing precedes the client's own bytes, or it is behind us: true from stream_accept on, or from `opened`. */
static inline bool stream_opened(const struct stream *stream)
{
    return stream->opened;
}
static inline const struct stream_facts *stream_facts(const struct stream *stream)
{
    return &stream->facts;
}
void stream_read(struct stream *stream, bool on);
/* ERR_CLOSED: dead. ERR_FULL, ERR_NOMEM: bytes were lost, the connection must go. */
MUST_CHECK enum err stream_write(struct stream *stream, const struct span *parts, unsigned count);
/* The same for a head and a whole body, whose memory is taken over (empty on return). */
MUST_CHECK enum err stream_write_body(struct stream *stream, struct span head, struct buf *body);
/* Bytes that the client's socket has not taken. */
static inline size_t stream_queued(const struct stream *stream)
{
    return outbox_queued(&stream->outbox);
}
/* None, and no write under way. */
static inline bool stream_idle(const struct stream *stream)
{
    return outbox_idle(&stream->outbox);
}
/* The client has taken nothing for stall_ms though something waits for it. Else *ret_next_ms is when to look again
 * (UINT64_MAX: never). */
bool stream_stalled(struct stream *stream, uint64_t stall_ms, uint64_t *ret_next_ms);
/* Our side is shut (close_notify, FIN) when all has been written. The client's bytes still come, as they are on the
 * wire: for counting. ERR_CLOSED: dead. */
MUST_CHECK enum err stream_shutdown(struct stream *stream);
/* No event any more but `closed`, after which its memory may go. */
void stream_close(struct stream *stream, void (*closed)(void *user));
