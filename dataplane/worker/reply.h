/* reply.h - what clients are told: the only place where an HTTP status is chosen. Pure.
 *
 * Errors have the OpenAI shape, {"error": {"message", "type", "param", "code"}}, so that every SDK raises its own
 * exception class for them. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"
#include "dataplane/worker/http1.h"

/* How a request ended. The name stands in records and logs. */
enum outcome {
    OUTCOME_OK,
    OUTCOME_PASSED, /* the provider's own 4xx, passed through as it came */
    /* The client's fault, or its limits. */
    OUTCOME_MALFORMED,
    OUTCOME_HEAD_TOO_LARGE,
    OUTCOME_HEAD_TIMEOUT,
    OUTCOME_BODY_TIMEOUT,
    OUTCOME_BODY_TOO_LARGE,
    OUTCOME_BODY_ENCODED,
    OUTCOME_BAD_METHOD,
    OUTCOME_BAD_PATH,
    OUTCOME_BAD_BODY,
    OUTCOME_NO_KEY,
    OUTCOME_BAD_KEY,
    OUTCOME_UNKNOWN_MODEL,
    OUTCOME_DENIED,
    OUTCOME_TOO_DEAR,
    OUTCOME_UNSUITABLE, /* no model of the route can do what is asked */
    OUTCOME_CANCELLED,  /* the client went away: nobody is told */
    /* Ours, or the providers'. */
    OUTCOME_NO_POLICY,
    OUTCOME_NO_CANDIDATE,
    OUTCOME_BUSY,
    OUTCOME_DRAINING,
    OUTCOME_UPSTREAM_FAILED,
    OUTCOME_UPSTREAM_LIMITED,
    OUTCOME_UPSTREAM_TIMEOUT,
    OUTCOME_TRUNCATED, /* after first content */
    OUTCOME_INTERNAL,
    OUTCOME_COUNT
};

const char *outcome_name(enum outcome outcome);
unsigned outcome_status(enum outcome outcome); /* 200 for OK; 499 for CANCELLED, which only records show */
bool outcome_is_clients(enum outcome outcome); /* a client's own error */
/* What the parser of the head says -> what the client is told. */
enum outcome outcome_of_http1(enum err err);

struct reply_error {
    enum outcome outcome;
    const char *message;    /* says what is wrong and what to do; NULL: the outcome's own */
    const char *param;      /* may be NULL */
    const char *code;       /* NULL: the outcome's own */
    struct span allow;      /* for BAD_METHOD: what the path takes */
    unsigned retry_after_s; /* 0: the outcome's own */
};
/* As a server-sent event, for streams whose head has gone out. */
MUST_CHECK enum err reply_error_event(const struct reply_error *error, struct buf *out);

struct reply_head {
    unsigned status;
    bool http10;              /* the client's version: no chunks */
    bool close;               /* "Connection: close" */
    bool stream;              /* chunked, or until close for HTTP/1.0 */
    uint64_t bytes;           /* Content-Length when not a stream */
    struct span date;         /* as http1_format_date; empty: none */
    struct span content_type; /* empty: none */
};
/* Status line and the headers of framing; the caller adds its own and http1_write_head_end. */
MUST_CHECK enum err reply_head_begin(const struct reply_head *head, struct buf *out);
struct reply_frame {
    bool http10, close;
    bool head_only;      /* for HEAD: without the body */
    struct span date;    /* as in reply_head */
    struct span headers; /* whole lines, already written: "x-request-id: ...\r\n" */
};
/* A complete error response. */
MUST_CHECK enum err reply_error_whole(const struct reply_error *error, const struct reply_frame *frame,
                                      struct buf *out);
