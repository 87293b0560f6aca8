/* admit.h - whether a worker takes on one more request now: its own caps only (rates and budgets are the directory's
 * and come later). What the client is told stands in worker/reply.c. A worker that drains takes what comes on the
 * connections it still has, and closes each after its answer. Pure. */
#pragma once
#include "common/base.h"

enum admit_reason {
    ADMIT_OK,
    ADMIT_NO_POLICY, /* no table with a policy has arrived yet */
    ADMIT_REQUESTS,  /* as many requests as this worker takes */
    ADMIT_BYTES,     /* bodies and unsent answers fill its memory share */
    ADMIT_REASONS
};
struct admit_load {
    bool has_policy;
    uint64_t requests_open, requests_max;
    uint64_t bytes_buffered, bytes_max;
    uint64_t bytes_more; /* what this request is going to hold: its content-length, or 0 while unknown */
};
enum admit_reason admit_request(const struct admit_load *load);
