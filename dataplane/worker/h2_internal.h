/* h2_internal.h - the inside of one client's HTTP/2 connection (RFC 9113), shared by h2*.c only.
 *
 *   h2.c         the speaker: states, time, output, the end
 *   h2_input.c   what the client sends: nghttp2's callbacks
 *   h2_answer.c  the sink of each stream
 *   h2_frame.c   where frames begin      h2_head.c    a request's head      h2_budget.c  what a connection may do
 *
 * nghttp2 frames and unframes; everything it is told to send is pulled by flush, which runs at the end of a read or
 * a write callback, or from the timer: never from within a sink's call, so no exchange is ever called back from its own
 * call. Output waits in two places: in each stream's buffer (queued(), by which its own upstream is paused), and in the
 * connection's stream, which is given no more than limits.write_queue_bytes; a client that does not read one stream
 * holds up that one only. A body's window is given back as its exchange takes the bytes, which it does at once or
 * refuses the request: what is held of bodies is bounded by limits.body_bytes and limits.buffered_bytes.
 *
 * Which flood is stopped where:
 *   streams at once             SETTINGS_MAX_CONCURRENT_STREAMS, kept by nghttp2: RST_STREAM REFUSED_STREAM before the
 *                               client has acknowledged it (`resets` pay), a connection error after
 *   rapid reset                 CVE-2023-44487, and resets that the client provokes (CVE-2025-8671): `resets`, GOAWAY
 *   ping, settings, priority,   `frames`: GOAWAY. What waits to be sent in answer is bounded by H2_QUEUE
 *   window update, empty data,
 *   unknown frames
 *   head too large, too many    431 on the stream; a block that unpacks to H2_HEAD_BOMB times the limit (CVE-2016-6581)
 *   fields, continuation flood, or has more than H2_CONTINUATIONS frames: GOAWAY
 *   HPACK bomb
 *   slow heads, slow bodies     limits.head_time: GOAWAY; limits.body_time: 408
 *   readers that stall          limits.write_stall, of the stream (RST_STREAM) and of the connection
 *   idle connections            limits.idle since the last stream ended, whatever pings say
 *   dependency trees            nghttp2 keeps no closed stream and at most 100 idle ones; each change is one of `frames`
 *                               (CVE-2019-9513)
 *
 * The tree of RFC 7540 priorities is left on: without a client's wishes all streams send in turns, byte for byte. What
 * RFC 9218 put in its place would send one answer after the other, and in 1.52 frees a frame twice when the queue of
 * streams cannot grow. */
#pragma once
#include "common/buf.h"
#include "dataplane/worker/deadline.h"
#include "dataplane/worker/exchange.h"
#include "dataplane/worker/h2_budget.h"
#include "dataplane/worker/h2_frame.h"
#include "dataplane/worker/h2_head.h"
#include "dataplane/worker/sink.h"
#include "dataplane/worker/speaker.h"
#include <nghttp2/nghttp2.h>

#define H2_STREAM_WINDOW     (256u << 10) /* of a request's body in flight: a 200 KB prompt comes without waiting */
#define H2_CONNECTION_WINDOW (1u << 20)   /* of all of them */
#define H2_TABLE_BYTES       4096u        /* of each direction's HPACK table: what a connection holds for ever */
#define H2_FRAMES            1000u        /* ping, settings and other floods: more are sent in one go by nobody */
#define H2_FRAMES_PER_S      100u
#define H2_FRAMES_PER_DATA   2u   /* what a frame of ours may be answered by: window updates, stream and connection */
#define H2_RESETS            200u /* rapid reset: so many, and twice everything at once, may be cancelled, */
#define H2_RESETS_PER_S      20u  /* then so many a second, and one for each answer that was taken whole */
#define H2_QUEUE             4096u /* frames of nghttp2's own that wait (acks, resets): a client that does not read them */
#define H2_CONTINUATIONS     8u /* continuation flood (CVE-2024-28182): nine full frames hold four times the largest head */
#define H2_HEAD_BOMB         16u /* HPACK bomb: a few bytes may stand for kilobytes; by how much over the limit */
#define H2_ANSWER_BYTES                                                                                                \
    (72u << 20) /* never reached: an upstream is paused long before; stops a mistake of ours from filling memory */
#define H2_BATCH_BYTES  (64u << 10) /* of frames that are handed to the socket in one write */
#define H2_LINGER_MS    1000u       /* for the client to read our last words before a reset could destroy them */
#define H2_LINGER_BYTES (4u << 20)  /* a client that goes on sending what nobody reads is cut */

enum h2_state {
    H2_OPEN,
    H2_NOTICED,   /* draining: the client is told to open no more streams, those on the way are still taken */
    H2_LEAVING,   /* the last GOAWAY is said: streams under way end, then the connection */
    H2_LINGERING, /* our side is shut; the client's last bytes are dropped */
    H2_CLOSED,
    H2_STATES
};

enum h2_side { /* what the client has still to send */
               H2_SIDE_HEAD,
               H2_SIDE_BODY,
               H2_SIDE_DONE,
};

struct h2_stream {
    struct sink sink;
    struct h2 *h2;
    struct h2_stream *previous, *next;
    int32_t id;
    enum h2_side side;
    struct exchange *exchange; /* NULL: not begun, or ended */
    struct h2_head head;
    struct buf out;       /* of the answer's body, not framed yet */
    bool answered;        /* the exchange's last byte is in `out` */
    bool sent;            /* and framed */
    bool deferred;        /* nghttp2 does not ask for bytes until it is told that there are some */
    bool full;            /* its upstream may be paused */
    bool cut;             /* by us: it is not counted against the client */
    size_t body_step;     /* of a body since its time was last set */
    size_t forgotten;     /* bytes of a body that nobody wanted */
    size_t trailers;      /* their size */
    uint64_t phase_due;   /* of the head, or the body */
    uint64_t progress_ms; /* when something was last taken from `out`, or it began to wait */
    size_t accounted;
};

struct h2 {
    struct speaker speaker;
    struct core *core;
    nghttp2_session *session;
    enum h2_state state;
    struct deadline timer;
    struct h2_stream *streams; /* that nghttp2 knows, newest first */
    unsigned count;
    struct h2_budget frames, resets;
    size_t held;      /* by nghttp2, the streams and us */
    size_t accounted; /* of that */
    struct h2_cutter cutter;
    unsigned continuations; /* of the newest header block */
    bool greeted;           /* the client's preface is complete */
    bool deaf;              /* broken off: nothing that comes counts any more */
    bool speechless;        /* a reset could not be said, for lack of memory */
    bool dirty;             /* there may be something to send */
    bool hurried;           /* the drain's deadline has passed: nobody's body is waited for */
    size_t lingered;
    uint64_t began_ns;   /* of the read under way */
    uint64_t phase_due;  /* greeting, idling, lingering */
    uint64_t notice_due; /* of the last GOAWAY */
    uint64_t stall_due;
};

/* h2.c */
/* GOAWAY with that code, then the end. All exchanges are told. Also from nghttp2's callbacks. */
void h2_break_off(struct h2 *h2, uint32_t code, const char *why);
void h2_greeted(struct h2 *h2);     /* the client's preface is complete */
void h2_last_goaway(struct h2 *h2); /* of a drain */
void h2_due_in(struct h2 *h2, uint64_t *due, uint64_t ms);
void h2_dirty(struct h2 *h2);   /* flush soon */
void h2_account(struct h2 *h2); /* the worker is told what is held */
void h2_account_stream(struct h2_stream *s);
unsigned h2_streams_max(const struct h2 *h2);
struct h2_stream *h2_stream_new(struct h2 *h2, int32_t id); /* NULL: out of memory */
void h2_stream_free(struct h2_stream *s);
void h2_reset(struct h2_stream *s, uint32_t code);
/* One of them is spent; at the last the connection is broken off. False: it is. */
bool h2_spend(struct h2 *h2, struct h2_budget *budget, const char *what);

/* h2_input.c */
void h2_input(struct h2 *h2, struct span bytes);
MUST_CHECK enum err h2_callbacks(nghttp2_session_callbacks **ret); /* ERR_NOMEM */

/* h2_answer.c */
extern const struct sink_ops h2_sink_ops;
/* A request that never became an exchange. */
void h2_refuse(struct h2_stream *s, enum err err);
/* Bytes of `out` for a frame of nghttp2's. */
ssize_t h2_take(nghttp2_session *session, int32_t id, uint8_t *to, size_t max, uint32_t *flags,
                nghttp2_data_source *source, void *user);
/* The end of its answer has been framed: what the client has still to send is forgotten, or refused. */
void h2_answer_sent(struct h2_stream *s);
