/* evidence.h - what the control plane has learned, and what it makes of it: probe results, prices, telemetry in; one
 * `struct evidence` out.
 *
 * Plain memory and arithmetic: no I/O, no clock (now is passed in). What must survive a restart (prices held, set and
 * quarantined, their version) is exported as one blob that the caller stores in the transaction of whatever changed it;
 * health and telemetry are learned anew. The book that policies are compiled against is part of it: precedence is
 * policy, then `prices set`, then feed, then the shipped book. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include "controlplane/journal/event.h"
#include "controlplane/policy/policy.h"
#include "proto/links.h"

struct evidence_state;

MUST_CHECK enum err evidence_state_new(struct evidence_state **ret);
void evidence_state_free(struct evidence_state *state);
/* Whom to tell of health that changes, breakers, weights that move, prices held back. Borrowed; NULL: nobody listens. */
void evidence_tell(struct evidence_state *state, const struct event_sink *sink);

/* -- persistence of what is decided by people and feeds -- */
MUST_CHECK enum err evidence_export(const struct evidence_state *state, struct buf *out);
MUST_CHECK enum err evidence_import(struct evidence_state *state, struct span blob); /* ERR_CORRUPT: state unchanged */
bool evidence_dirty(const struct evidence_state *state);                             /* changed since the last export */

/* -- learning -- */
/* What requests can reach now: probe targets, scoring and telemetry follow the live artifacts and the overrides of the
 * head. Copies what it keeps. */
MUST_CHECK enum err evidence_follow(struct evidence_state *state, const struct artifact *const *artifacts,
                                    uint32_t count, const struct head *head);
/* One report from the evidence link; fills *ret_reply from `arena` (its targets borrow from the state until the next
 * follow). Replays and out-of-order reports (incarnation, seq) change nothing. ERR_INVALID (reply.error says why),
 * ERR_NOMEM. */
MUST_CHECK enum err evidence_take(struct evidence_state *state, const struct evidence_report *report, int64_t now_ms,
                                  struct arena *arena, struct evidence_reply *ret_reply);

/* -- deciding -- */
/* True when something happened that should not wait for the timer (a model went down or came up, a price was accepted,
 * an override). */
bool evidence_significant(const struct evidence_state *state);
/* Recomputes health, prices and weights and gives the object to publish (epoch and seq are the caller's to fill).
 * lifetime_ms: until expires_at_ms. */
MUST_CHECK enum err evidence_decide(struct evidence_state *state, struct arena *arena, int64_t now_ms,
                                    uint32_t lifetime_ms, struct evidence **ret);

/* Adds to *evidence the weights that the scored tiers of an artifact that is not live would come to with what is known
 * now (not step by step, as live ones move). A tier that is the same in `live` gets what it has there. Changes nothing in
 * the state. ERR_NOMEM, ERR_TOO_MANY. */
MUST_CHECK enum err evidence_foresee(const struct evidence_state *state, struct arena *arena,
                                     const struct artifact *live, const struct artifact *artifact, int64_t now_ms,
                                     struct evidence *evidence);

/* -- prices -- */
/* The book as policies see it now (set, feed, shipped). Borrowed; valid until the next change of state. */
const struct policy_book *evidence_book(const struct evidence_state *state);
/* The catalog that ships with Fairlead, parsed by evidence/catalog. */
MUST_CHECK enum err evidence_load_shipped(struct evidence_state *state, struct span text, const char **ret_why);
MUST_CHECK enum err evidence_price_set(struct evidence_state *state, struct span name, const struct price *price,
                                       int64_t now_ms, struct span by);
MUST_CHECK enum err evidence_price_unset(struct evidence_state *state, struct span name);
/* How many models of the live policies are charged by this entry now. None: its name is no model's name in the book, it
 * lacks a part that they need, or their policy has its own price. */
uint32_t evidence_price_reach(const struct evidence_state *state, struct span name, int64_t now_ms);
/* Releases quarantined prices: one name, or all when empty. Returns how many through ret_count. ERR_NOT_FOUND. */
MUST_CHECK enum err evidence_price_accept(struct evidence_state *state, struct span name, int64_t now_ms,
                                          uint32_t *ret_count);

/* -- weights -- */
MUST_CHECK enum err
evidence_weights_reset(struct evidence_state *state,
                       struct span route); /* back to the policy's prior; empty: all. ERR_NOT_FOUND */

/* While a head has assignments, weights of scored tiers are held in all arms, as the evidence had them when the comparison
 * began; what is down gets 0 all the same. So that a restart changes nothing in the middle of it: true when what is held
 * has not been exported yet; the blob; and reading it at start. ERR_CORRUPT, ERR_NOMEM: weights are held anew. */
bool evidence_held_unstored(const struct evidence_state *state);
MUST_CHECK enum err evidence_held_export(struct evidence_state *state, struct buf *out);
MUST_CHECK enum err evidence_held_import(struct evidence_state *state, struct span blob);

/* -- looking: each writes one JSON value. Times in ms since 1970, 0: never; prices in US dollars per million tokens, as
 * numbers -- */

/* [{"name","base_url","health":"up|down|unknown","why","since_ms",
 *   "probe":{"how","every_ms","at_ms","ok_streak","fail_streak","latency_us","stale","certificate_expires_at_ms"},
 *   "override":null|{"kind","reason","by","expires_at_ms"},
 *   "models":[{"name","health","why","since_ms","quarantined","samples","ttft_ewma_us","ttft_p95_us","token_gap_us","errors_ppm",
 *              "remaining_ppm":null|n,"breakers_open","override"}]}] */
void evidence_json_providers(const struct evidence_state *state, int64_t now_ms, struct json_writer *w);
/* What doctor asks of the models in use: [{"name","identity" (in the book; "" when priced by the policy),"priced","stale",
 * "disputed","deprecated_on"}] */
void evidence_json_models(const struct evidence_state *state, int64_t now_ms, struct json_writer *w);
/* [{"policy_version","route","tier" (from 1),"prefer":"weights|cheapest|fastest|balanced","frozen",
 *   "members":[{"model","policy_ppm","weight_ppm"} and, in scored tiers,
 * {"target_ppm","excluded":""|"down|ttft_p95|errors|cost","score",
 *               "terms":{"cost","ttft","speed","errors","headroom"}}]}] */
void evidence_json_weights(const struct evidence_state *state, struct json_writer *w);
/* [{"name","source":"set|feed|book|none","price":{"input","output","cache_read","cache_write","reasoning","request","long_above","long_input",
 *   "long_output","long_cache_read"} (known parts only),"at_ms","by" (set
 * only),"stale","mapped","context","max_output","deprecated", "quarantined" (only when
 * held):{"why","at_ms","old":null|price,"new":null|price}}] pattern: a glob; empty: all. */
void evidence_json_prices(const struct evidence_state *state, struct span pattern, bool unmapped_only,
                          struct json_writer *w);
/* {"prices":{"version","entries","unpriced","unmapped","set","quarantined","quarantined_batch":null|why,
 *            "feed":null|{"origin","heard_at_ms","stale","problem":null|why}},
 *  "models","models_down":[names],"models_up","health_quarantined","nodes_reporting"} */
void evidence_json_summary(const struct evidence_state *state, int64_t now_ms, struct json_writer *w);
