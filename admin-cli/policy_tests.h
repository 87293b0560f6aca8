/* policy_tests.h - assertions beside a policy: reads a file of `kind: tests`, asks, and judges the answers. Pure: the
 * command that runs the programs stands in commands_policy_test.c.
 *
 *   schema: fairlead/1
 *   kind: tests
 *   policy: policy.yaml           # beside this file, where left out
 *   directory: directory.yaml     # likewise, where there is one
 *   tests:
 *     - name: hr stays in the EU
 *       request: {team: hr, model: private, images: true, input_tokens: 2000, max_output: 500, stream: true}
 *       expect: {region: eu, never: [openai/gpt-4o], cost_at_most_usd: 0.01, first: {azure-we/gpt-4o: 70%}}
 *
 * What is expected holds for every model that may serve the request, first or after a failure. */
#pragma once
#include "common/arena.h"
#include "common/err.h"
#include "common/json.h"
#include "common/yaml.h"

#define POLICY_TESTS_MAX    10000u
#define POLICY_FAILURES_MAX 16u /* of one test; more are not told */

struct policy_test {
    const char *name;
    const struct yaml_node *node, *request, *expect;
};
struct policy_tests {
    const char *policy, *directory; /* as written; NULL: left out */
    struct policy_test *items;
    uint32_t count;
};
struct policy_failure {
    const struct yaml_node *at;
    const char *message;
};

/* Everything in `arena`. ERR_INVALID: *ret_why says where and what, as FILE:LINE:COLUMN: text. ERR_NOMEM. */
MUST_CHECK enum err policy_tests_read(struct arena *arena, const char *file, struct span text, struct policy_tests *ret,
                                      const char **ret_why);
/* What `fairlead-dataplane --decide` takes. */
void policy_tests_ask(const struct policy_tests *tests, struct json_writer *w);
/* Holds an answer of --decide against what the test expects. Returns how many failures were written. */
unsigned policy_test_judge(struct arena *arena, const struct policy_test *test, const struct json_index *ix,
                           uint32_t answer, struct policy_failure failures[POLICY_FAILURES_MAX]);
