/* play.h - sends a trace's requests when they are due and keeps what came of each. */
#pragma once
#include "tests/bench/replay/trace.h"
#include "tests/support/load_run.h"
#include "tests/support/load_url.h"

#define PLAY_MODELS_MAX    64 /* further ones are counted as "(other)" */
#define PLAY_NO_COST       UINT64_MAX
#define PLAY_PAD_BYTES_MAX (8u * 1024 * 1024)

struct play_plan {
    const struct trace *trace;
    uint64_t zero_ns; /* time of the trace at which the run starts */
    double speed;     /* 10: ten minutes of the trace in one */
    struct load_url url;
    const char *key;   /* may be NULL */
    const char *model; /* to ask for */
    unsigned connections;
    uint64_t timeout_ms;
    size_t pad_bytes; /* a prompt has 4 bytes a token, but not more than this */
    bool stream;
    bool progress;
};

struct play_result {
    bool ended; /* not so: never sent, since the run was interrupted */
    bool content_seen;
    enum load_failure failure;
    unsigned model;         /* index of play.models; meaningful when named */
    bool named;             /* somebody said which model it was */
    bool usage_seen;        /* tokens are the response's, not the trace's */
    uint64_t input_tokens;  /* as the response says, else as in the trace */
    uint64_t output_tokens; /* likewise */
    uint64_t cost_nano;     /* as Fairlead says, else PLAY_NO_COST */
    uint64_t ttft_us;       /* when content_seen; from when it was due */
    uint64_t total_us;
};

struct play {
    const struct play_plan *plan;
    struct play_result *results; /* in the trace's order */
    char models[PLAY_MODELS_MAX][LOAD_VALUE_BYTES];
    unsigned model_count;
    struct load_tally tally;
    uint64_t *due_ns;   /* after the start */
    struct buf request; /* the one that is being sent */
    struct buf *bodies; /* of responses that are under way and no streams */
    uint64_t started_ns;
};

/* Runs to the end, or to a signal (see load_run). plan must outlive *play. ERR_NOT_FOUND: no address (*ret_why).
 * ERR_IO, ERR_NOMEM. *play is to be released in any case. */
MUST_CHECK enum err play_run(const struct play_plan *plan, struct play *play, const char **ret_why);
void play_release(struct play *play);
