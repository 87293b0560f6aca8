/* curl_internal.h - what the two files of the curl lane share: curl_lane.c drives curl on the loop and owns transfers,
 * curl_transfer.c says what one transfer sends and takes what comes back. */
#pragma once
#include "common/buf.h"
#include "dataplane/upstream/lane.h"
#include <curl/curl.h>
#include <uv.h>

#define RESPONSE_HEADERS_MAX 128u /* more is an attack or a fault; counted against the head limit as well */
#define EASY_POOL_MAX        64u  /* idle handles kept: a handle costs some 20 KiB */
#define RECEIVE_BUFFER_BYTES 65536L
#define HTTP2_PAUSED_BYTES                                                                                             \
    (33u                                                                                                               \
     << 20) /* what libcurl 7.88 may take in for a paused HTTP/2 stream: the window that it has announced, 32 MiB, \
                   which cannot be set */

struct transfer {
    struct upstream base;             /* first */
    struct transfer *next, *previous; /* all of the lane's */
    struct transfer *next_errand;
    struct upstream_events events;
    void *user;
    CURL *easy;
    struct curl_slist *headers;
    const struct span *parts; /* NULL: no body, or copied_body */
    unsigned part_count, part_at;
    size_t part_offset;
    char *copied_body;
    size_t copied_bytes;
    struct buf head; /* lower-cased names and values of the response's head */
    struct head_line {
        size_t name, name_len, value, value_len;
    } lines[RESPONSE_HEADERS_MAX];
    unsigned line_count;
    size_t head_bytes, head_bytes_max;
    enum upstream_phase phase;
    enum err failure; /* ours, before curl's */
    const char *failure_why;
    bool added;      /* to the multi handle */
    bool has_errand; /* stands in the lane's list */
    bool want_pause; /* the owner's wish */
    bool is_paused;  /* what curl was told */
    bool cancelled;  /* no callback any more, and what the owner lent is gone */
    bool finished;   /* done was given; freed next */
    bool tls, http2;
    size_t accounted;
    char error[CURL_ERROR_SIZE];
};

struct curl_lane {
    struct upstream_lane base; /* first */
    uv_loop_t *loop;
    CURLM *multi;       /* NULL: could not be rebuilt for want of memory; the next start tries again */
    uv_timer_t timer;   /* curl's */
    uv_timer_t errands; /* 0 ms: what had to wait until curl returned */
    struct transfer *transfers;
    struct transfer *with_errand;
    unsigned active, connections_max;
    unsigned idle_max;
    char *ca_file, *name_servers;
    bool (*account)(void *user, size_t before, size_t after);
    void *account_user;
    CURL *pool[EASY_POOL_MAX];
    unsigned pool_count;
    uint64_t connects, reused;
    unsigned in_curl; /* depth of calls into curl */
    unsigned open_handles;
    bool closing;
};

static inline struct curl_lane *transfer_lane(const struct transfer *t)
{
    return (struct curl_lane *)(void *)t->base.lane;
}

/* Tells t->easy all about the request. ERR_NOMEM, ERR_TOO_LARGE (a header line); what was made so far is the caller's
 * to free with the transfer. */
MUST_CHECK enum err transfer_set_up(struct transfer *t, const struct upstream_request *request);
/* Charges what the transfer holds now; false: that is more than the worker may hold. */
bool transfer_account(struct transfer *t);
/* curl's result in our words. */
enum err transfer_result(const struct transfer *t, CURLcode code, const char **ret_why);
