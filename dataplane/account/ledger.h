/* ledger.h - one record per request, as one JSON line. Never a key or a credential; the prompt and the answer only in
 * lines of their own, for teams for which the policy turns that on. Pure.
 * proto/record.h reads what is written here.
 *
 * Every request with a valid key leaves exactly one, however it ends: answered, refused (4xx of ours, of a provider),
 * failed, cut, left by its client. Strangers (401, unknown paths, what is no HTTP) are counted but leave none: they must
 * not be able to fill disks. */
#pragma once
#include "common/buf.h"
#include "dataplane/account/cost.h"
#include "dataplane/dialect/chat.h"
#include "proto/record.h"

#define LEDGER_LINE_MAX RECORD_LINE_MAX
#define LEDGER_TEXT_MAX 200u /* of any text within; clients choose some of them */
/* What ledger_write asks of its buffer: room is judged member by member, and each is shorter than the difference. */
#define LEDGER_ROOM (LEDGER_LINE_MAX + 2048u)

enum ledger_outcome {
    LEDGER_OK,
    LEDGER_CLIENT_ERROR, /* a 4xx of the client's own */
    LEDGER_ERROR,        /* no answer could be had */
    LEDGER_CANCELLED,    /* the client went away */
    LEDGER_TRUNCATED,    /* failed after first content */
    LEDGER_OUTCOMES
};
const char *ledger_outcome_name(enum ledger_outcome outcome);

struct ledger_attempt {
    struct span model;   /* "provider/model" */
    const char *why;     /* plan_reason_name: for programs */
    const char *because; /* the same in words, after the model's name: "was drawn by weight (98.2% likely)"; or NULL */
    unsigned status;     /* 0: no answer came */
    const char *error;   /* retry_failure_name, or NULL when it served */
    uint64_t ttft_us;    /* 0: none */
    uint64_t duration_us;
};
/* What a decision needs of a request's body: sizes and kinds, never its words. */
struct ledger_features {
    uint64_t input_tokens; /* estimate */
    uint64_t max_output;   /* tokens; 0: not said. Both are written as UINT32_MAX at most: clients choose them */
    uint32_t choices;
    bool tools, images, audio, json;
};
struct ledger_record {
    enum record_kind kind; /* RECORD_REQUEST or RECORD_SHADOW */
    int64_t time_ms;       /* wall, when the head was read */
    struct span request_id, node;
    struct span of;        /* a shadow's: the request that it repeats */
    int64_t estimate_nano; /* of a shadow that its budget had no room for: what it would have needed; else 0 */
    unsigned worker;
    struct span client; /* its address, as the PROXY header says where one came; "" when not known */
    struct span key_id, team;
    struct span asked; /* `model` as the client wrote it */
    struct span route; /* "" when a model was asked for directly */
    struct span arm;
    uint32_t policy_version;
    uint64_t epoch, generation;
    struct span assignment; /* "": none covered it */
    const char *unit_kind;  /* "key", "user", "header", "request"; NULL: no unit, and no hash of it */
    uint64_t unit;
    const char *arm_why; /* "only", "remainder", "bucket", "forced"; NULL: no arm */
    bool forced;
    const struct ledger_features *features; /* NULL: the body was never read */
    enum endpoint endpoint;
    bool stream;
    struct ledger_attempt attempts[ATTEMPTS_MAX];
    unsigned attempt_count;
    struct span model;       /* that served, or was tried last; "" for none */
    uint32_t propensity_ppb; /* of the first choice; 0: nothing was chosen */
    unsigned status;         /* sent to the client */
    enum ledger_outcome outcome;
    enum finish finish;
    const char *error;   /* stable word, or NULL */
    const char *message; /* what the client was told when we refused or gave up; NULL otherwise */
    struct usage usage;
    struct cost cost;
    enum price_source price_source;
    bool price_stale;
    uint64_t book_version;
    uint64_t input_bytes, output_bytes;
    uint64_t ttft_us, total_us, overhead_us; /* 0: not known */
};
/* Appends the record without a newline, at most LEDGER_LINE_MAX bytes: over-long texts are cut, and if it still does
 * not fit the attempts are left out, with "cut":true. ERR_FULL (out has no room for LEDGER_ROOM bytes more), ERR_NOMEM;
 * nothing is appended on error. */
MUST_CHECK enum err ledger_write(const struct ledger_record *record, struct buf *out);
struct ledger_feedback {
    int64_t time_ms;
    struct span request_id, node, team, metric;
    double score; /* -1 to 1 */
};
/* What a client thinks of an answer that it had: a line of its own. Errors as above. */
MUST_CHECK enum err ledger_write_feedback(const struct ledger_feedback *feedback, struct buf *out);
/* What was said, of a team for which the policy turns that on: the only line that holds words of clients and models. */
struct ledger_content {
    int64_t time_ms;
    struct span request_id, node, team;
    struct span prompt, answer;  /* the bodies' bytes, from their beginnings */
    bool prompt_cut, answer_cut; /* there was more */
};
/* A line of its own, beside the request's. What does not fit into LEDGER_LINE_MAX, escaped, is cut between characters and
 * marked: half of the room is each text's own, and what one leaves is the other's. Errors as of ledger_write. */
MUST_CHECK enum err ledger_write_content(const struct ledger_content *content, struct buf *out);
const char *ledger_finish_name(enum finish finish);             /* "stop", "length", ...; NULL for FINISH_NONE */
const char *ledger_endpoint_name(enum endpoint endpoint);       /* "chat", "completions", ... */
const char *ledger_price_source_name(enum price_source source); /* "policy", "set", "feed", "book", "none" */
