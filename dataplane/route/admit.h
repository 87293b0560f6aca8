/* admit.h - whether a worker takes on one more request now: its own caps only (rates and budgets are the directory's
 * and come later). Pure. */
#pragma once
#include "common/base.h"

enum admit_reason {
    ADMIT_OK,
    ADMIT_DRAINING,  /* the worker finishes what it has: 503, and the connection closes */
    ADMIT_NO_POLICY, /* no table with a policy has arrived yet: 503 */
    ADMIT_REQUESTS,  /* as many requests as this worker takes: 503 with Retry-After */
    ADMIT_BYTES,     /* bodies and unsent answers fill its memory share: 503 with Retry-After */
    ADMIT_REASONS
};
struct admit_load {
    bool draining, has_policy;
    uint64_t requests_open, requests_max;
    uint64_t bytes_buffered, bytes_max;
    uint64_t bytes_more; /* what this request is going to hold: its content-length, or 0 while unknown */
};
enum admit_reason admit_request(const struct admit_load *load);
const char *admit_reason_name(enum admit_reason reason);    /* "draining", "requests", ...; for logs and metrics */
const char *admit_reason_message(enum admit_reason reason); /* for the client */
