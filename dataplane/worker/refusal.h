/* refusal.h - connections over the cap: each is told why by a 503 with Retry-After, and let read it. A socket that is
 * closed with unread bytes in it sends a reset, which would destroy the answer on its way: so ours is shut first, and
 * what the client sends is dropped until it closes, for a second at most. */
#pragma once
#include "dataplane/worker/core.h"

struct refusals {
    struct core *core;
    unsigned count;            /* under way */
    void (*ended)(void *user); /* one has; may be the last */
    void *user;
};

/* Accepts from `server`. One that would want a handshake first (plaintext false) is closed: the cap is for work, too.
 * Of more than REFUSALS_MAX at once the rest are closed without a word. ERR_NOMEM: it was not accepted. */
MUST_CHECK enum err refusal_begin(struct refusals *refusals, uv_stream_t *server, bool plaintext);
