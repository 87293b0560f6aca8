/* decide_now.h - `fairlead-dataplane --explain`: what this node would decide for a request now, and why.
 *
 * A throwaway process, started by `fairlead explain`. It reads one JSON object on standard input (a key's secret must
 * stand in no process list), opens the node's store and board as a worker does, changes nothing, decides with the
 * workers' own code and prints one JSON object. In:
 *   "key" | "key_id"    who asks: the key itself, or its id
 *   "endpoint"          "chat" (default), "completions", "embeddings"
 *   "request"           the request's body, an object; or, of a past request,
 *   "features"          {"input_tokens","max_output","choices","stream","tools","images","audio","json"}
 *   "asked"             outranks the request's `model`
 *   "user"              outranks the request's `user`
 *   "headers"           {"name": "value"}: those that assignments may look at, and x-fairlead-arm
 *   "policy_version"    decide by this policy, live or still held, whatever the arms say
 *   "unresolved"        names of credentials that the running node lacks; absent: what this process's own environment
 *                       and files give
 * Out: "node", "generation", "epoch", "key", "arm", "asked", "ask", explain_members, and "refused": null or {"error",
 * "message"} when nothing could serve.
 *
 * Not seen: how long a provider asked one worker to wait (Retry-After); each worker keeps that for itself. */
#pragma once
#include "common/buf.h"
#include "dataplane/node/config.h"

#define DECIDE_NOW_IN_BYTES  ((size_t)64 << 20) /* a body of the greatest length with room for the rest */
#define DECIDE_NOW_OUT_BYTES ((size_t)16 << 20) /* tiers of 64 models each, described at length */

struct board;
/* One explanation. ERR_SYNTAX, ERR_INVALID (what came in), ERR_NOT_FOUND (key, policy version), ERR_UNAUTHORIZED (a key
 * that may not ask), ERR_AGAIN (the node has no table yet), ERR_NOMEM, ERR_IO, ERR_CORRUPT: *ret_why (until the next
 * call) says what to do. Nothing is appended then. */
MUST_CHECK enum err decide_now(const struct node_config *config, struct board *board, const char *store_path,
                               struct span in, struct buf *out, const char **ret_why);
/* The process: exit status 0 with the JSON on standard output, else 1 (3: not found, 5: unauthorized, 6: no table or
 * board) with one line on standard error. */
int decide_now_main(const struct node_config *config);
