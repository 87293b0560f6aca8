/* reply.h - what clients are told: the only place where an HTTP status is chosen. Pure.
 *
 * Errors have the OpenAI shape, {"error": {"message", "type", "param", "code"}}, so that every SDK raises its own
 * exception class for them. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"

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
    OUTCOME_EXPECTATION, /* other than 100-continue */
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

/* The same as the body of a whole answer of outcome_status, in JSON. */
MUST_CHECK enum err reply_error_body(const struct reply_error *error, struct buf *out);
/* The header lines that go with it: retry-after, allow. */
MUST_CHECK enum err reply_error_lines(const struct reply_error *error, struct buf *out);
#define REPLY_ERROR_TYPE SPAN("application/json")
