/* replay_send.h - sends a trace at its own pace, whatever becomes of the answers (an open loop: a slow instance does not
 * slow its load down), and measures. The only includer of curl in the CLI: connections, TLS and HTTP/2 to any URL are not
 * an admin tool's business. */
#pragma once
#include "admin-cli/replay_trace.h"
#include "common/hist.h"

#define REPLAY_OPEN_MAX 4096u /* requests at once: descriptors and memory; beyond it one is counted as not sent */

struct replay_options {
    const char *url;   /* of the API: http://127.0.0.1:4000 or .../v1 */
    const char *key;   /* NULL: none */
    const char *model; /* NULL: the trace's own */
    double speed;      /* 2: twice the trace's pace */
    size_t limit;      /* requests; 0: all */
    /* Some times a second, and at the end; true: stop. */
    bool (*progress)(void *user, const struct replay_options *options, uint64_t elapsed_us);
    void *user;
};
struct replay_result {
    uint64_t sent, answered, not_sent; /* not_sent: too many were open */
    uint64_t good, client_errors, limited, server_errors,
        broken;                           /* 2xx, 4xx but 429, 429, 5xx; without a whole answer */
    uint64_t open;                        /* now; at the end: given up */
    uint64_t input_tokens, output_tokens; /* asked for */
    uint64_t bytes_in;
    uint64_t late_us_most; /* how far behind its time the latest was sent */
    uint64_t elapsed_us;
    struct hist ttft, total; /* microseconds, of 2xx */
};
/* Runs until all is answered or progress says stop. ERR_NOMEM, ERR_IO (libcurl); *ret is filled as far as it came. */
MUST_CHECK enum err replay_send(const struct replay_trace *trace, const struct replay_options *options,
                                struct replay_result *ret);
