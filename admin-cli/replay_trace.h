/* replay_trace.h - what `fairlead replay` sends: recorded requests, or a public trace, as sizes and moments. Pure.
 *
 * Understood, by the first line: record lines (JSON; dataplane/account/ledger), and the Azure LLM inference traces (CSV:
 * TIMESTAMP,ContextTokens,GeneratedTokens; 2023-11-16 18:17:03.9799600). */
#pragma once
#include "common/arena.h"
#include "common/err.h"
#include "common/span.h"

#define REPLAY_REQUESTS_MAX 5000000u /* 48 bytes each: a trace must not take the machine's memory */

struct replay_item {
    int64_t at_us;                        /* after the first */
    uint32_t input_tokens, output_tokens; /* output 0: not said */
    uint16_t model;                       /* index of the trace's models */
    bool stream;
};
#define REPLAY_MODELS_MAX 1000u
struct replay_trace {
    struct replay_item *items; /* sorted by time */
    size_t count, room, skipped;
    struct span models[REPLAY_MODELS_MAX];
    unsigned model_count;
    struct arena arena;   /* models' names */
    struct arena scratch; /* of one line */
};
void replay_trace_init(struct replay_trace *trace);
void replay_trace_release(struct replay_trace *trace);
/* One line of either form. A heading, another kind of record, and a request that was never read (its size is not known)
 * are counted in `skipped`. ERR_TOO_MANY, ERR_NOMEM. */
MUST_CHECK enum err replay_trace_line(struct replay_trace *trace, struct span line);
/* Sorts, and makes times relative to the first. */
void replay_trace_end(struct replay_trace *trace);
