/* record.h - reads the lines that nodes write of requests, shadows and feedback (dataplane/account/ledger): for the
 * pilot, costs, simulate and explain. Pure, and fast: a million lines of 1 KB in some seconds.
 *
 * Members that are not known here are skipped, so that an older control plane reads what a newer node writes; members
 * that are absent leave their zero. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "proto/limits.h"

struct arena;

#define RECORD_LINE_MAX                                                                                                \
    8192u /* a slot of the nodes' record ring: one request cannot push out many others, nor one line fill a batch */

/* CONTENT: a prompt and its answer, cut, of a team for which the policy turns that on. record_read gives who and when;
 * the texts are for people alone (`fairlead records --content`). */
enum record_kind { RECORD_REQUEST, RECORD_SHADOW, RECORD_FEEDBACK, RECORD_CONTENT };

struct record_attempt {
    struct span model, why, error; /* error: "" when it served */
    unsigned status;               /* 0: no answer came */
    uint64_t ttft_us, duration_us;
};

/* Words (outcome, arm_why, finish, ...) are those of ledger.h; spans that are absent or null in the line are empty. */
struct record {
    enum record_kind kind;
    int64_t time_ms; /* wall, when the head was read */
    struct span request_id, node;
    struct span of; /* a shadow's: the request that it repeats; a content's: its own */
    struct span key_id, team, asked, route, model, endpoint;
    bool stream;
    uint64_t epoch, generation;

    /* Which policy it obeyed, and why. */
    struct span arm, arm_why, assignment, unit_kind;
    uint32_t policy_version;
    bool forced, has_unit;
    uint64_t unit; /* the unit's hash */

    bool has_features, tools, images, audio, json;
    uint32_t input_tokens_est, max_output, choices;

    uint32_t propensity_ppb; /* of the first choice; 0: nothing was chosen */
    struct record_attempt attempts[ATTEMPTS_MAX];
    unsigned attempt_count;
    unsigned status;
    struct span outcome, error, finish;

    bool usage_known, estimated;
    uint64_t input, cached, cache_write, output, reasoning; /* tokens */
    int64_t cost_nano, cost_list_nano;
    int64_t estimate_nano; /* > 0: a shadow that was never sent, as what was left of its budget was less than this */
    uint64_t input_bytes, output_bytes;
    uint64_t ttft_us, total_us, overhead_us; /* 0: not known */

    /* Feedback only. */
    struct span metric;
    double score; /* -1 to 1 */
};

/* Whether a line of ours holds a prompt and an answer, told without reading it: these words cannot stand in a text, whose
 * quotes are escaped. */
#define RECORD_CONTENT_MARK "\"kind\":\"content\""
static inline bool record_is_content(struct span line)
{
    return span_find(line, SPAN(RECORD_CONTENT_MARK)) != SIZE_MAX;
}

/* Sums of money over records: nodes wrote these numbers, and no sum of them may overflow. Stays at the limit. */
static inline int64_t record_add_nano(int64_t sum, int64_t nano)
{
    int64_t ret;
    if (__builtin_add_overflow(sum, nano, &ret))
        ret = nano < 0 ? INT64_MIN : INT64_MAX;
    return ret;
}

/* One line, without its newline. Spans borrow from line, or from scratch, which the caller resets between lines.
 * ERR_SYNTAX: no JSON object, or larger than any line of ours. ERR_INVALID: no time or request_id, or a member of a
 * wrong type. ERR_UNSUPPORTED: of a kind not known here: skip it. ERR_NOMEM. *ret is untouched on error. */
MUST_CHECK enum err record_read(struct arena *scratch, struct span line, struct record *ret);
