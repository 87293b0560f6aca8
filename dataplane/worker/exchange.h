/* exchange.h - one request's life: auth, body, ask, arm, (traits, guard), admit, select, attempts, relay, settle. The
 * only includer of all phases.
 *
 * conn calls it with what the client does; it answers through the sink. It ends exactly once, by sink->end, after which
 * conn must not use it any more (it may still read the end of the upstream's message, which concerns nobody); that may happen within exchange_begin (*ret_ended), exchange_body (false) and
 * exchange_body_end. Upstream is called on the loop only, and a next attempt is never started from within an upstream's
 * callback.
 *
 * Definitions that people will ask for:
 *   ttft       from the start of the attempt that served to its first content (streams).
 *   duration   from the read that completed the head to the last byte handed to the client's queue.
 *   overhead   time spent in Fairlead's own callbacks for the request, from the read that brought its head until its
 * first content (or its whole answer) had been written; waiting for anybody is not in it. The header shows what was
 * spent before it was written, record and histogram all of it. end of a broken stream   one error event, then the
 * chunked body ends in good order: the event says that it is not whole. There is never a [DONE] that the provider did
 * not send. */
#pragma once
#include "dataplane/worker/core.h"
#include "dataplane/worker/http1.h"
#include "dataplane/worker/sink.h"

struct exchange;

#define EXCHANGE_BODY_STEP_BYTES                                                                                       \
    (64u << 10)                      /* of a body, in body_time each: one that trickles holds its memory for ever */
#define EXCHANGE_DISCARD_BYTES 65536 /* of a refused request's body: reading more for nothing is what a flood wants */

/* head: borrowed until the exchange ends. began_ns: clock_ns at the entry of the read callback. NULL: out of memory,
 * nothing was sent. */
struct exchange *exchange_begin(struct core *core, struct sink *sink, const struct http1_head *head, uint64_t began_ns,
                                bool *ret_ended);
/* True while the exchange still runs; false: it ended within. */
MUST_CHECK bool exchange_body(struct exchange *x, struct span bytes);
void exchange_body_end(struct exchange *x, uint64_t began_ns);
void exchange_body_timeout(struct exchange *x);                   /* ends it */
void exchange_malformed(struct exchange *x, const char *message); /* the body's framing is wrong; ends it */
void exchange_client_gone(struct exchange *x);                    /* ends it: upstream is cancelled at once */
void exchange_writable(struct exchange *x);
void exchange_drain_passed(struct exchange *x); /* the drain's deadline: ends it with an honest error */
/* For core_close: shadows, spare ones, and those that only wait for the end of an upstream's message. */
void exchange_close_idle(struct core *core);
