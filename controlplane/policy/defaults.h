/* defaults.h - what holds when a policy leaves it out. Each value with its reason; `nearer wins` is applied by the
 * compiler: these < defaults: < provider < model. A route's own timeouts stay 0 (as the model says) unless the route
 * writes them. */
#pragma once

/* A connection over the ocean takes some 300 ms with TLS; three seconds let one SYN retransmission through and no more.
 */
#define DEFAULT_CONNECT_MS 3000u
/* Large prompts and queued requests answer late, but an application's user has gone by then. Before it failover is
 * possible. */
#define DEFAULT_FIRST_TOKEN_MS 20000u
/* Between two events of a stream: the slowest models pause for seconds while they call tools of their own. */
#define DEFAULT_IDLE_MS 30000u
/* Off: long answers are not faults; the idle time catches those that stop. */
#define DEFAULT_TOTAL_MS 0u
/* How long opening events are held back: shorter than the 15 to 30 s after which clients and proxies give up on
 * silence. */
#define DEFAULT_HOLD_MS 10000u

/* The first and two more: a third failure in a row is hardly ever bad luck of single providers. */
#define DEFAULT_ATTEMPTS 3u
/* To first content over all attempts: what an interactive client waits at most. */
#define DEFAULT_DEADLINE_MS 60000u

/* Notices a dead provider within seconds; listing models costs nothing and stays far below any provider's request
 * limit. */
#define DEFAULT_PROBE_EVERY_MS 10000u
/* The least that a policy may ask for: a probe is no load test. */
#define PROBE_EVERY_LEAST_MS 1000u
/* A completion costs money: not more often than this. */
#define PROBE_COMPLETION_LEAST_MS 30000u

/* Usual request for scoring: near the medians of the Azure LLM inference trace 2023 (conversation: 1,020 in, 129 out;
 * code: 1,500 in, 13 out) with longer answers, as chat models give today. */
#define DEFAULT_MIX_INPUT_TOKENS  1000u
#define DEFAULT_MIX_OUTPUT_TOKENS 300u

/* What `prefer` stands for: weights of the objectives. Only their ratios matter. Errors always count, else the cheapest
 * model that answers nothing but errors would win. */
/*                         cost ttft speed errors headroom */
#define OBJECTIVES_CHEAPEST                                                                                            \
    {                                                                                                                  \
        8, 1, 0, 2, 1                                                                                                  \
    }
#define OBJECTIVES_FASTEST                                                                                             \
    {                                                                                                                  \
        1, 5, 3, 2, 1                                                                                                  \
    }
#define OBJECTIVES_BALANCED                                                                                            \
    {                                                                                                                  \
        4, 3, 2, 2, 1                                                                                                  \
    }
/* Larger ones say nothing that smaller ones cannot. */
#define OBJECTIVE_MOST 1000u

/* Of a prompt and of an answer, where their recording is on: both fit into a record's line with nearly every byte kept. */
#define DEFAULT_CONTENT_BYTES 2048u

/* No timeout longer than a day: it is a slip of a unit ("30000s"). */
#define TIMEOUT_MOST_MS 86400000u
/* Retention is counted in days; a century is a slip. */
#define RETENTION_DAYS_MOST 36500u
/* A chain of `like` longer than this is more riddle than policy; also bounds the work of each lookup. */
#define LIKE_DEPTH_MAX 8u
/* Names in one list (credentials, regions, headers, globs): a list is read by people. */
#define LIST_ITEMS_MAX 1000u
/* Windows and mixes beyond this are slips; keeps price arithmetic far from overflow. */
#define TOKENS_MOST 1000000000u
