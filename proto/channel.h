/* channel.h - request/reply links over nng (which only endpoint includes besides). Callbacks run on the caller's loop.
 *
 * nng completes on its own threads; a channel queues completions under a lock and calls `wake(user)` from there, which
 * must be async-signal-like cheap (uv_async_send). The owner then calls channel_dispatch on its loop, which runs the
 * callbacks. One wake-up may carry several completions.
 *
 * Addresses: ipc:///path (at most IPC_PATH_BYTES_MAX; ERR_TOO_LARGE), tcp://127.0.0.1:port or [::1] (plain tcp off
 * loopback: ERR_DENIED), tls+tcp://host:port. Every socket has RECVMAXSZ = FRAME_BYTES_MAX. Resend time is infinite:
 * nothing is sent twice by nng. Frames: a 4-byte magic "FLR1", then the encoded message; anything else is answered with
 * an empty frame, counted, and dropped. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"

struct channel_server;
struct channel_client;
struct channel_call; /* one request being answered */

struct channel_peer {
    bool local;   /* came over ipc */
    uint32_t uid; /* peer uid for ipc; UINT32_MAX when unknown */
    uint64_t pid; /* 0 unknown */
};
struct channel_tls {              /* for tls+tcp; NULL elsewhere */
    const char *certificate_file; /* PEM, certificate and key */
    const char *ca_file;
    const char *server_name;
};
/* The handler owns the call and must answer it exactly once, now or later, by channel_reply (even when it has nothing
 * to say). request lives until then. */
typedef void channel_handler(void *user, struct channel_call *call, struct span request,
                             const struct channel_peer *peer);

struct channel_server_options {
    const char *address;
    unsigned parallel; /* contexts: how many requests may be in hand at once; more wait in nng */
    unsigned ipc_mode; /* permissions of an ipc socket, 0: 0600 */
    const struct channel_tls *tls;
    channel_handler *handler;
    void *user;
    void (*wake)(void *wake_user); /* called from nng's threads */
    void *wake_user;
};
/* ERR_EXISTS: address in use. ERR_INVALID: not an address. ERR_TOO_LARGE, ERR_DENIED, ERR_NOMEM, ERR_IO. A stale ipc
 * socket file (nobody listens) is replaced. */
MUST_CHECK enum err channel_server_open(const struct channel_server_options *options, struct channel_server **ret);
void channel_server_dispatch(struct channel_server *server); /* on the loop, after wake */
/* Copies message. The call is gone afterwards. A message over the limit (FRAME_BYTES_MAX less FRAME_OVERHEAD_BYTES) is
 * logged and reaches the asker as ERR_CORRUPT. */
void channel_reply(struct channel_call *call, struct span message);
uint64_t channel_server_refused(const struct channel_server *server); /* frames that were not ours */
/* Waits for nng's threads (milliseconds; two seconds at most); wake may be called until it returns. Allowed inside a
 * handler. */
void channel_server_close(
    struct channel_server *server); /* stops; unanswered calls become no-ops to reply to and must still be replied */

struct channel_client_options {
    const char *address;
    unsigned parallel; /* requests in flight at once; more are ERR_FULL */
    const struct channel_tls *tls;
    void (*wake)(void *wake_user);
    void *wake_user;
};
/* OK: reply is the message. ERR_TIMEOUT, ERR_CLOSED, ERR_CORRUPT (not a frame), ERR_CANCELLED (client closed). */
typedef void channel_done(void *user, enum err err, struct span reply);
/* Connects in the background and again after every loss; a request sent meanwhile waits for the connection until its
 * timeout. A request that was sent when the connection went is ERR_CLOSED and never repeated here: whether it was
 * executed is unknown. */
MUST_CHECK enum err channel_client_open(const struct channel_client_options *options, struct channel_client **ret);
void channel_client_dispatch(struct channel_client *client);
/* Copies message. done is called exactly once, from dispatch or close, unless an error is returned here (ERR_FULL, also
 * while closing, ERR_NOMEM, ERR_TOO_LARGE). ERR_TIMEOUT leaves open whether the other side acted: reads may be
 * repeated, mutations only with the same request id. */
MUST_CHECK enum err channel_send(struct channel_client *client, struct span message, uint32_t timeout_ms,
                                 channel_done *done, void *user);
/* Waits like channel_server_close. Not inside done. */
void channel_client_close(struct channel_client *client); /* done(ERR_CANCELLED) for what is in flight, then frees */

/* For programs without a loop (the CLI): sends and waits, timeout_ms and then for nng's threads like
 * channel_client_close. reply is appended. Also ERR_REFUSED: nobody listens. */
MUST_CHECK enum err channel_ask(const char *address, const struct channel_tls *tls, struct span message,
                                uint32_t timeout_ms, struct buf *reply);
