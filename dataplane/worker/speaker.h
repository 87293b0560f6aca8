/* speaker.h - a protocol spoken with one client over its stream: HTTP/1 (conn.c) or HTTP/2 (h2.c). peer.c decides which
 * (ALPN, or the first bytes of plaintext: RFC 9113 section 3.3), owns the stream, and calls; the speaker answers by
 * stream_*, times out by its own deadline, and ends the connection by speaker_host.close.
 *
 * Calls into a speaker come from the loop, never from within a stream_* or host call of its own. */
#pragma once
#include "dataplane/worker/stream.h"

struct speaker;
struct speaker_ops {
    /* All bytes are taken, or copied within limits; stream_read(off) holds back more than one read (STREAM_GIVEN_MAX).
     * They begin with the first byte of the connection: HTTP/2's preface comes, too. began_ns: clock_ns when they came. */
    void (*bytes)(struct speaker *speaker, struct span bytes, uint64_t began_ns);
    void (*ended)(struct speaker *speaker);   /* the client has shut its side: taken to have left */
    void (*written)(struct speaker *speaker); /* the stream's queue is shorter than it was */
    /* The worker drains: no new connection's work is lost. A connection that has not sent its first request yet may
     * still send one (limits.drain_first); one that idles between requests gets a short while (limits.drain_idle), too,
     * as its next request may be on the way; every answer from now on is its connection's last. */
    void (*drain)(struct speaker *speaker);
    void (*drain_passed)(struct speaker *speaker); /* the deadline: honest errors to all who still wait, then the end */
    /* The connection is gone or going: exchanges under way are told (client_gone), no stream or host call any more. It
     * frees itself when its handles are closed. */
    void (*release)(struct speaker *speaker);
};
struct speaker_host {                         /* peer.c's */
    void (*close)(struct speaker_host *host); /* at once; release follows from within */
};
struct speaker {
    const struct speaker_ops *ops;
    struct speaker_host *host;
    struct stream *stream;
};
/* Both take over nothing but the promise of calls. ERR_NOMEM. */
MUST_CHECK enum err conn_speak(struct core *core, struct stream *stream, struct speaker_host *host,
                               struct speaker **ret);
MUST_CHECK enum err h2_speak(struct core *core, struct stream *stream, struct speaker_host *host, struct speaker **ret);
