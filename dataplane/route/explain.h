/* explain.h - a decision in words: every candidate with what speaks for and against it, and the rule behind each
 * exclusion with its place in the policy.
 *
 * Pure, and after the fact: select decided, this only says what it looked at. The node's live facts are asked for
 * again through the input's source; what a worker explains after an attempt may therefore be fresher than what it
 * decided by, and never more than that. */
#pragma once
#include "common/json.h"
#include "dataplane/route/select.h"

#define EXPLAIN_HEADER     "x-fairlead-explain" /* in requests: asks for it; in responses: a line of JSON */
#define EXPLAIN_RULE_BYTES 512u                 /* of one rule in words; names are bounded, lists of regions are cut */

struct explain_input { /* all borrowed */
    const struct table *table;
    const struct select_input *select; /* what decided */
    const struct plan *plan;
    const uint32_t *first_ppb; /* of each in plan->all: how likely it was the first; NULL: known for steps[0] only */
};

struct explain_rule {
    char text[EXPLAIN_RULE_BYTES]; /* "" when nothing excluded it */
    struct span where;             /* "policy.yaml:12"; "" when no line of a file says so */
};
/* Why this member of plan->all was left out or put last. */
void explain_rule(const struct explain_input *in, const struct plan_step *step, struct explain_rule *ret);

/* Members of the open object: target ("route" or "model", "where", limits), "tiers" with every candidate and every term,
 * "attempts" in their order, "propensity_ppb", "evidence". */
void explain_members(struct json_writer *w, const struct explain_input *in);

/* For a header: "candidates": [{"m": model, "why": reason, "w": weight in ppm, "at": file:line}], as many as leave the
 * buffer `bytes_left` bytes of room; then "more": how many were left out. */
void explain_brief(struct json_writer *w, const struct explain_input *in, size_t bytes_left);
