/* headers.h - the one table of headers: which go up to a provider, which come down to a client. Pure.
 *
 * Up is an allow-list: what is not named here or by the policy stays, so that no client header can choose a host, carry
 * a cookie or a credential of its own to a provider, or be forged to look like ours. Down is an allow-list too. The
 * reason for every entry stands in headers.c. */
#pragma once
#include "common/arena.h"
#include "common/err.h"
#include "proto/tables.h"

#define HEADERS_MAX 100u /* as many as http1 takes in; bounds what one request carries up */

/* What goes to this provider for this client's request: the allowed ones, then what the policy adds
 * (`provider->headers`, which replace a client's of the same name), `content-type` and `accept-encoding: identity`.
 * Without host, content-length (the lane's) and credential. Names are lower case; values borrow. ERR_TOO_MANY,
 * ERR_NOMEM. */
MUST_CHECK enum err headers_up(struct arena *arena, const struct provider *provider, const struct header_pair *client,
                               size_t client_count, bool stream, struct header_pair **ret, unsigned *ret_count);
/* The header that carries a credential. False for AUTH_SCHEME_NONE. `secret` must be a credential of this provider; the
 * value is in arena (which dies with the request) and must not be logged. ERR_INVALID: it holds bytes that may not
 * stand in a header. ERR_NOMEM. */
MUST_CHECK enum err headers_credential(struct arena *arena, enum auth_scheme scheme, struct span secret,
                                       struct header_pair *ret, bool *ret_needed);
/* True when a provider's response header goes to the client under its own name. */
bool headers_goes_down(struct span name);
/* True when a header never goes up, whatever the policy's forward list says. */
bool headers_never_up(struct span name);
/* Least remaining share told by rate-limit headers (x-ratelimit-{limit,remaining}-{requests,tokens} and
 * anthropic-ratelimit-...), as ppm + 1 (board_model.remaining_ppm_plus_1); 0: they say nothing. */
uint32_t headers_remaining_ppm_plus_1(const struct header_pair *headers, size_t count);
/* Value of the first header of this name (any case); empty span with .ptr NULL when absent. */
struct span headers_find(const struct header_pair *headers, size_t count, struct span name);
