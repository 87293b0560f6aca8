/* retry.h - what a failed attempt means: for the next attempt, for the breaker, for the credential, for the client.
 *
 * One table of failures, one of statuses, one budget. Pure. After first content nothing is ever retried: the client has
 * part of an answer already. Before it, whatever was sent may be sent again elsewhere: at worst a provider bills an
 * answer that nobody reads, and the cost ceiling of the whole chain bounds that. */
#pragma once
#include "common/base.h"
#include "common/span.h"

enum retry_failure {
    RETRY_STATUS,         /* an HTTP status that is not 2xx: see the table of statuses */
    RETRY_CONNECT,        /* refused, no such name, unreachable, connect timeout */
    RETRY_TLS,            /* certificate or handshake */
    RETRY_RESET,          /* closed before the answer was complete */
    RETRY_TIMEOUT,        /* no first content in time, or silence in mid-stream */
    RETRY_PROTOCOL,       /* not HTTP, head too large */
    RETRY_ERROR_IN_200,   /* an error object in a 200 that another model may survive (overloaded, server error) */
    RETRY_REFUSAL_IN_200, /* an error object in a 200 that is about the request itself */
    RETRY_EMPTY,          /* a stream that ended, or a 200, without any content */
    RETRY_GARBAGE,        /* a 200 that is not of this dialect */
    RETRY_TOO_LARGE,      /* an answer over our limits */
    RETRY_NO_CREDENTIAL,  /* ours is missing on this node */
    RETRY_NO_CAPACITY,    /* our own cap on connections upstream */
    RETRY_FAILURES
};
struct retry_rule {
    bool next;           /* another model may be tried (first content not yet seen, budget and deadline permitting) */
    bool breaker;        /* counts against the model */
    bool credential_bad; /* our key there is refused: use another, re-read it */
    bool cool_down;      /* honour Retry-After as a time in which this model is better left alone */
    bool maybe_billed;   /* once the whole request was sent: the cost ceiling of the chain of attempts counts it */
    bool pass_through;   /* the client's own mistake: the provider's answer goes to the client as it is, once */
};
const char *retry_failure_name(enum retry_failure failure); /* stable: logs, records, metrics */
/* status matters for RETRY_STATUS only. content_seen: after first content; then `next` and `pass_through` are false. */
struct retry_rule retry_rule(enum retry_failure failure, unsigned status, bool content_seen);

/* One per worker. A retry holds a place from retry_take to retry_give (the end of its attempt), so that a dead provider
 * cannot double the load on the living: at most 20% of the active requests, plus 3. */
struct retry_budget {
    uint32_t active;   /* requests in this worker; kept by the caller */
    uint32_t retrying; /* attempts after the first that run now */
};
#define RETRY_BUDGET_PERCENT 20u
#define RETRY_BUDGET_LEAST   3u
bool retry_take(struct retry_budget *budget);
void retry_give(struct retry_budget *budget);

/* Retry-After (RFC 9110 section 10.2.3): seconds or an IMF-fixdate, to ms from now, at most RETRY_AFTER_MAX_MS; 0 when
 * it says nothing or is malformed. now in wall ms. */
#define RETRY_AFTER_MAX_MS 300000u /* a provider's typing error must not take a model away for days */
uint32_t retry_after_ms(struct span value, int64_t now_ms);
