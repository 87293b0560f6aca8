/* publisher.h - gives nodes what they lack: keeps the present objects encoded and answers fetch long-polls. Loop-side,
 * but knows neither uv nor nng: the program hands in requests with a reply function and calls publisher_tick. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "controlplane/publish/nodes.h"
#include "controlplane/publish/versions.h"

#define PUBLISHER_WAIT_MS_MAX 20000u /* a long poll is answered by then, with nothing if there is nothing */
#define PUBLISHER_WAITING_MAX 20000u /* polls held at once */

struct publisher;
typedef void publisher_reply(void *user, void *call,
                             struct span reply); /* reply is copied by the callee; `call` is gone then */

MUST_CHECK enum err publisher_new(struct versions *versions, struct nodes *nodes, publisher_reply *reply, void *user,
                                  struct publisher **ret);
void publisher_free(struct publisher *publisher); /* answers what still waits, with nothing */
/* Reads head and directory numbers from the store again (after a commit) and answers the polls that now lack something.
 */
MUST_CHECK enum err publisher_refresh(struct publisher *publisher);
/* New evidence to publish; bytes are copied. */
MUST_CHECK enum err publisher_evidence(struct publisher *publisher, uint64_t seq, struct span bytes);
struct span publisher_evidence_bytes(const struct publisher *publisher); /* the latest; empty: none; until the next */
/* One fetch request from the link. Answers through the callback now or later, always exactly once. wall_ms: for people,
 * who ask when a node was seen; now_ms: monotonic, for deadlines, so that a clock that is set neither holds polls for
 * hours nor answers them all at once. */
void publisher_fetch(struct publisher *publisher, void *call, struct span request, int64_t wall_ms, uint64_t now_ms);
uint64_t publisher_refused(const struct publisher *publisher);     /* fetch requests that made no sense */
void publisher_tick(struct publisher *publisher, uint64_t now_ms); /* monotonic; answers polls whose time is up */
