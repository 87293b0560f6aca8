/* upstream.h - one try at one provider: the interface behind which the lanes (curl, direct) stand.
 *
 * All calls and callbacks are on the worker's loop. A callback is never called from within upstream_start. Order of callbacks: head once, body any number
 * of times, then done exactly once; done may come at any time. After done, or after upstream_cancel returns, no callback comes and the handle is gone. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "proto/tables.h"

struct upstream;      /* one try */
struct upstream_lane; /* owns connections of one worker */

struct upstream_header {
    struct span name, value;
};
struct upstream_request {
    /* All spans must live until the head has come (or done, or cancel before that), body_parts until done, cancel or
     * upstream_release_body; the provider until done or cancel. Destination comes from the table only. */
    const struct provider *provider;
    struct span method; /* "POST", "GET" */
    struct span path;   /* complete request-target, starts with '/' */
    /* Complete: with authorization, accept-encoding, content-type; without host and content-length. */
    const struct upstream_header *headers;
    unsigned header_count;
    const struct span *body_parts; /* sent one after the other (splices borrow from the original body) */
    unsigned body_part_count;
    uint32_t connect_timeout_ms;
    uint64_t response_head_bytes_max;
};
struct upstream_head {
    unsigned status;
    const struct upstream_header *headers; /* until the callback returns; names lower case */
    unsigned header_count;
    bool reused; /* the connection */
};
/* How far it came: retry asks what was already sent. */
enum upstream_phase {
    UPSTREAM_CONNECTING,
    UPSTREAM_SENDING,
    UPSTREAM_SENT, /* whole request sent, no head yet */
    UPSTREAM_HEAD,
    UPSTREAM_BODY
};
struct upstream_result {
    /* OK: the response is complete. ERR_REFUSED, ERR_TIMEOUT (connect), ERR_CLOSED (cut), ERR_DENIED (TLS verification),
     * ERR_FULL (to pause it would take the worker over its buffered bytes), ERR_SYNTAX (not HTTP), ERR_TOO_LARGE, ERR_NOT_FOUND (name), ERR_NOMEM, ERR_IO. */
    enum err err;
    enum upstream_phase phase;
    const char *why; /* static or until the callback returns: for logs and records; never contains a secret */
    int64_t certificate_expires_at_ms; /* 0 unknown */
};
struct upstream_events {
    void (*head)(void *user, const struct upstream_head *head);
    /* Takes all bytes (they die on return). To stop the flow call upstream_pause; at most one read's worth may still come. */
    void (*body)(void *user, struct span bytes);
    void (*done)(void *user, const struct upstream_result *result);
};
/* May be called inside any callback of any try. ERR_TOO_MANY: the lane's connection cap is reached. ERR_TOO_LARGE: a header or the
 * path. ERR_INVALID (direct lane): a byte that may not stand in a head. ERR_NOMEM. On error no callback comes. */
MUST_CHECK enum err upstream_start(struct upstream_lane *lane, const struct upstream_request *request,
                                   const struct upstream_events *events, void *user, struct upstream **ret);
void upstream_pause(struct upstream *upstream);
void upstream_resume(struct upstream *upstream);
void upstream_cancel(struct upstream *upstream); /* at once; NULL is fine */
enum upstream_phase upstream_phase(const struct upstream *upstream);
/* What it buffers now, for the worker's buffered-bytes cap. */
size_t upstream_buffered(const struct upstream *upstream);

/* The owner wants body_parts' memory back (at first content). True: they were sent whole and the lane never reads them
 * again, they may go now. False: they must live until done or cancel. */
bool upstream_release_body(struct upstream *upstream);

struct uv_loop_s;
struct upstream_lane_stats {
    uint64_t connects, reused, active;
};
struct upstream_lane_options {
    struct uv_loop_s *loop;
    unsigned connections_max;      /* in all: bounds descriptors */
    unsigned connections_idle_max; /* kept for reuse */
    const char *ca_file;           /* NULL: the system's */
    uint32_t idle_ms;              /* how long, in the direct lane; 0: a minute, as in the curl lane */
    /* What the lane holds for its tries was `before` bytes and is `after` now. False: the worker holds more than it may;
     * only what can do without heeds it. NULL: nobody asks. */
    bool (*account)(void *user, size_t before, size_t after);
    void *account_user;
    const char
        *name_servers; /* "127.0.0.1:5353,..."; NULL: the system's. The curl lane: only where libcurl has c-ares */
    const char *resolv_conf; /* of the direct lane; NULL: /etc/resolv.conf. A change is seen within a second */
};
/* All that a provider may ask for: proxies, HTTP/2. */
MUST_CHECK enum err curl_lane_new(const struct upstream_lane_options *options, struct upstream_lane **ret);
/* HTTP/1.1 without a proxy, plain and over TLS, at a fraction of the cost. */
MUST_CHECK enum err direct_lane_new(const struct upstream_lane_options *options, struct upstream_lane **ret);
/* Both: each try goes by the one that upstream_goes_direct says. Once the curl lane is used, a quarter of
 * connections_idle_max is its own. */
MUST_CHECK enum err upstream_lane_new(const struct upstream_lane_options *options, struct upstream_lane **ret);
/* True unless the provider asks for what only curl can do, or for curl. */
bool upstream_goes_direct(const struct provider *provider);
void upstream_lane_stats(const struct upstream_lane *lane, struct upstream_lane_stats *ret);
/* Not inside head and body. Cancels what is running without callbacks; frees once the loop has closed its handles (run the loop until it is idle). */
void upstream_lane_close(struct upstream_lane *lane);
