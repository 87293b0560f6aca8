/* direct_internal.h - what the files of the direct lane share.
 *
 *   direct_lane   tries, destinations, the pool of idle connections; what upstream.h promises
 *   direct_dial   from a try to a connection of its own: name, addresses, connect, TLS, deadline
 *   direct_conn   one connection: bytes out, bytes in, the answer told
 *   direct_tls    TLS between a connection's socket and its bytes
 *   direct_names  names to addresses, by c-ares
 *   direct_head   a request's head, written
 *
 * Who owns whom: the lane owns everything. A try (struct direct_try) is lent to the caller of upstream_start. It waits
 * for a name, or dials, or holds one connection; a connection has at most one try. A destination lives while anything
 * points to it (`users`) and is kept for a while after.
 *
 * Two rules make re-entry harmless, for the owner may start, cancel, pause and resume any try in any callback:
 *   - no callback is made below start, pause, resume and cancel; what has to be said is said from the try's timer;
 *   - a connection's memory lives until libuv has closed its handle, so after each callback it is enough to look whether
 *     conn->try is still there. */
#pragma once
#include "common/buf.h"
#include "dataplane/upstream/lane.h"
#include "dataplane/worker/http1.h"
#include <netinet/in.h>
#include <uv.h>

#define DIRECT_READ_BYTES 65536u /* one read: what a pause may hold at most */
#define DIRECT_REQUEST_HEAD_BYTES_MAX                                                                                  \
    65536u /* a client's whole head is smaller: only a policy gone wrong writes more */
#define DIRECT_IDLE_MS                                                                                                 \
    60000u /* many servers close idle connections after a minute or more: do not send on one that may be closing */
#define DIRECT_IDLE_BYTES                                                                                              \
    8192u /* buffers that an idle connection keeps, uncharged: one unusually long head must not stay for a minute */
#define DIRECT_PLAIN_BYTES 16384u /* RFC 8446 section 5.1: no record holds more */
#define DIRECT_CIPHER_BYTES_MAX                                                                                        \
    (256u << 10) /* records that wait for the socket: a head and one batch of the body, with what TLS itself says */
#define DIRECT_STAGGER_MS    250u /* RFC 8305 section 5: the next address is tried beside one that keeps silent so long */
#define DIRECT_ADDRESSES_MAX 8u   /* of one name: an answer with a hundred bounds neither memory nor time */
#define DIRECT_BUCKETS       64u
#define DIRECT_DESTINATIONS_KEPT_MAX                                                                                   \
    256u /* without users: a policy that changes its hosts with each version must not fill memory */
#define DIRECT_SPARES_MAX 256u /* tries kept for the next request */

struct direct_lane;
struct direct_tls;   /* of one connection */
struct direct_names; /* the lane's resolver */
struct ssl_session_st;
struct ssl_ctx_st;

union direct_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

struct direct_destination {
    struct direct_destination *next; /* of its bucket */
    struct direct_lane *lane;
    unsigned users;             /* tries, connections and a query */
    struct direct_conn *idle;   /* the newest first: the old ones fall out of use and are closed */
    struct direct_try *waiting; /* for the name */
    union direct_address addresses[DIRECT_ADDRESSES_MAX];
    unsigned address_count, address_first; /* the one that answered last is asked first */
    uint64_t addresses_until_ms;
    bool asking;                    /* a query is under way */
    struct direct_names *names;     /* that it goes by */
    struct ssl_session_st *session; /* to resume; the newest ticket */
    int64_t certificate_expires_at_ms;
    uint16_t port;
    bool tls, literal; /* literal: the host is an address */
    size_t host_len;
    char host[]; /* with a NUL */
};

struct direct_try {
    struct upstream base;               /* first */
    struct direct_try *next, *previous; /* of the lane's tries; next: of its spares, too */
    struct direct_try *next_waiting, *previous_waiting;
    struct upstream_request request;
    struct upstream_events events;
    void *user;
    struct direct_destination *destination; /* NULL: a spare */
    struct direct_conn *conn;               /* that is ours; NULL while dialing */
    struct direct_conn *dials;              /* connects under way */
    unsigned dialed;                        /* addresses begun */
    unsigned part_at;                       /* of the body: what the socket (or TLS) took */
    size_t part_offset;
    uint64_t connect_due_ms;
    uv_timer_t timer; /* while connecting: deadline and stagger; else, at 0 ms, what could not be done at once */
    enum upstream_phase phase;
    enum err failure; /* to be told by the timer; while dialing, what the last address said */
    const char *failure_why;
    bool waits;     /* for the name */
    bool fails;     /* failure is final */
    bool paused;    /* the owner's wish */
    bool again;     /* sent anew after a stale connection: not twice */
    bool sent;      /* the whole request; the body is not read any more */
    bool sent_head; /* given to the socket, or kept in conn->out */
    bool finished;  /* within done */
};

enum direct_conn_state {
    DIRECT_CONN_DIALING,
    DIRECT_CONN_SECURING, /* TLS handshake */
    DIRECT_CONN_BUSY,
    DIRECT_CONN_IDLE,
    DIRECT_CONN_CLOSING,
};

struct direct_conn {
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct direct_lane *lane;
    struct direct_destination *destination;
    struct direct_try *try;              /* NULL: idle or closing */
    struct direct_conn *next_dial;       /* of the try's */
    struct direct_conn *newer, *older;   /* idle ones, of the lane */
    struct direct_conn *next, *previous; /* idle ones, of the destination */
    uint64_t idle_since_ms;
    struct http1 parser;
    struct buf held; /* read from the socket, not looked at yet: the try is paused */
    struct buf
        out; /* taken from the try, not by the socket yet: the rest of a head, TLS records. libuv reads it while `writing` */
    struct direct_tls *tls;
    enum direct_conn_state state;
    unsigned address; /* of the destination */
    size_t accounted; /* of its buffers' memory, told to lane->account */
    bool writing;     /* a uv_write is under way */
    bool reading;
    bool reused;
    bool heard;       /* a byte of the answer came */
    bool send_failed; /* the peer reads no more; its answer may still come */
};

struct direct_lane {
    struct upstream_lane base; /* first */
    uv_loop_t *loop;
    struct direct_try *tries, *spare_tries;
    struct direct_conn *oldest_idle, *newest_idle;
    unsigned active, open, idle, spare_try_count; /* open: connections, idle ones too */
    unsigned connections_max, idle_max;
    uint32_t idle_ms;
    struct direct_destination *buckets[DIRECT_BUCKETS];
    unsigned unused_destinations;
    uv_timer_t idle_timer;
    uint64_t connects, reused;
    bool (*account)(void *user, size_t before, size_t after); /* NULL: nobody asks */
    void *account_user;
    struct buf head;            /* scratch: a request's head; for the length of one call */
    struct buf cipher;          /* scratch: TLS records on their way out; for the length of one call */
    char *read_buffer;          /* DIRECT_READ_BYTES: for the length of one read callback, shared by all connections */
    char *plain_in, *plain_out; /* DIRECT_PLAIN_BYTES each: one TLS record's content */
    char *ca_file, *name_servers, *resolv_conf;
    struct ssl_ctx_st *tls;     /* made for the first connection that needs it */
    struct direct_names *names; /* the present ones, then those that were retired */
    unsigned open_handles;
    bool closing;
};

/* ---- direct_lane.c ---- */

static inline uint64_t direct_now_ms(const struct direct_lane *lane)
{
    return uv_now(lane->loop);
}
/* A handle of the lane's was closed: the last one frees the lane. */
void direct_handle_closed(struct direct_lane *lane);
void direct_destination_unuse(struct direct_destination *destination);
/* Ends the try and calls done. The try is gone afterwards, and so is its connection. Not below the owner's calls. */
void direct_try_finish(struct direct_try *t, enum err err, const char *why);
/* The same, from the timer: for what happens below the owner's calls. */
void direct_try_fail_soon(struct direct_try *t, enum err err, const char *why);
/* The try's connection is no good: sends the request again on a fresh one when the connection was a reused one that
 * said nothing (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1), else fails. */
void direct_try_broken(struct direct_try *t, enum err err, const char *why);
/* The timer's work, so many milliseconds from now. */
void direct_try_wake_in(struct direct_try *t, uint64_t ms);
/* The answer is complete. Keeps the connection for the next try when `reusable`. */
void direct_try_complete(struct direct_try *t, bool reusable);
/* Takes an idle connection out of the pool. */
void direct_pool_remove(struct direct_conn *conn);
/* Closes the connection that has been idle longest, when there is one. */
void direct_pool_drop_oldest(struct direct_lane *lane);

/* ---- direct_dial.c ---- */

/* Gets a fresh connection for the try and sends the request on it. */
void direct_dial(struct direct_try *t);
/* The name's query ended: err OK when there are addresses. Makes no callback. */
void direct_dial_named(struct direct_destination *destination, enum err err, const char *why);
/* The socket is connected, or not. */
void direct_dial_connected(struct direct_conn *conn, int status);
/* The TLS handshake failed: `why` is static, or OpenSSL's and as lasting. */
void direct_dial_insecure(struct direct_conn *conn, enum err err, const char *why);
/* TLS is up. */
void direct_dial_secured(struct direct_conn *conn);
/* The timer's work while connecting. */
void direct_dial_due(struct direct_try *t);
/* Waits and connects no more. */
void direct_dial_stop(struct direct_try *t);

/* ---- direct_conn.c ---- */

/* Bytes of its buffers, without what OpenSSL has. */
size_t direct_conn_memory(const struct direct_conn *conn);
/* Tells the owner of the lane when that has changed. */
void direct_conn_account(struct direct_conn *conn);

/* Begins to connect; errors are libuv's (negative). */
MUST_CHECK int direct_conn_open(struct direct_try *t, unsigned address, struct direct_conn **ret);
/* Out of the pool and away from its try; its memory goes when libuv has closed the handle. Twice is fine. */
void direct_conn_close(struct direct_conn *conn);
void direct_conn_become(struct direct_conn *conn, enum direct_conn_state state);
/* Reads from now on. Errors are libuv's. */
MUST_CHECK int direct_conn_read(struct direct_conn *conn);
/* Sends what the try still has to send, as far as the socket takes it. ERR_CLOSED, ERR_NOMEM, ERR_IO: the connection is
 * of no use; no callback was made. */
MUST_CHECK enum err direct_conn_send(struct direct_conn *conn);
/* Goes on after a pause: with what is held, then with the socket. */
void direct_conn_resume(struct direct_conn *conn);
void direct_conn_pause(struct direct_conn *conn);
/* What came of bytes given to the try. */
enum direct_progress {
    DIRECT_MORE,   /* all used: read on */
    DIRECT_PAUSED, /* *bytes is what is left */
    DIRECT_ENDED,  /* the answer is complete; *bytes is what came after it */
    DIRECT_GONE    /* the try is over, or no longer this connection's: touch nothing */
};
enum direct_progress direct_conn_parse(struct direct_conn *conn, struct span *bytes);
/* The socket takes some of the bytes, or none (0), or fails (libuv's error). */
MUST_CHECK int direct_conn_try_write(struct direct_conn *conn, const uv_buf_t *bufs, unsigned count);
/* Leaves the bytes to libuv; they must stay until `writing` ends. */
MUST_CHECK enum err direct_conn_write_later(struct direct_conn *conn, const uv_buf_t *bufs, unsigned count);
/* A write failed. OK: something of an answer came before and is read first. ERR_CLOSED. */
MUST_CHECK enum err direct_conn_write_failed(struct direct_conn *conn);
/* The peer says no more (uv_error UV_EOF), or the connection broke. */
void direct_conn_ended(struct direct_conn *conn, int uv_error);
/* The whole request is on its way; its body is not read any more. */
void direct_conn_sent(struct direct_try *t);

/* ---- direct_tls.c ---- */

/* Prepares a handshake: verified peer and name, SNI, ALPN, the destination's session. ERR_DENIED (the certificates to
 * verify by cannot be read), ERR_NOMEM. */
MUST_CHECK enum err direct_tls_open(struct direct_conn *conn, const char **ret_why);
void direct_tls_free(struct direct_tls *tls);
/* Goes on with the handshake (bytes may be empty). ERR_AGAIN: it needs more. ERR_DENIED: not verified, or refused. */
MUST_CHECK enum err direct_tls_handshake(struct direct_conn *conn, struct span bytes, const char **ret_why);
/* Decrypts and gives to the try. */
void direct_tls_take(struct direct_conn *conn, struct span bytes);
/* The same with what came behind the handshake. */
void direct_tls_take_rest(struct direct_conn *conn);
void direct_tls_resume(struct direct_conn *conn);
/* Bytes on an idle connection: false when it must be closed. */
bool direct_tls_take_idle(struct direct_conn *conn, struct span bytes);
/* Encrypts and sends. As direct_conn_send. */
MUST_CHECK enum err direct_tls_send(struct direct_conn *conn);
/* A uv_write ended: what TLS had to say meanwhile goes now. */
MUST_CHECK enum err direct_tls_written(struct direct_conn *conn);
/* The peer said that it is done: the end of the bytes is no cut. */
bool direct_tls_ended(const struct direct_conn *conn);
size_t direct_tls_buffered(const struct direct_conn *conn);
void direct_tls_lane_free(struct direct_lane *lane);
void direct_tls_forget(struct direct_destination *destination); /* its session */

/* ---- direct_names.c ---- */

/* Asks for the addresses of destination->host; direct_dial_named is called, perhaps before this returns. */
void direct_names_ask(struct direct_destination *destination);
/* Ends all queries. */
void direct_names_close(struct direct_lane *lane);

/* ---- direct_head.c ---- */

/* Request line, Host, the request's own headers, Content-Length when there is a body. ERR_TOO_LARGE; ERR_INVALID: a
 * byte that may not stand there; ERR_NOMEM. */
MUST_CHECK enum err direct_head_write(struct buf *out, const struct upstream_request *request);
