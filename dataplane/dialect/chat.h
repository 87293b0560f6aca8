/* chat.h - the neutral words that the exchange uses of every dialect, and the interface that a dialect implements.
 * Pure: bytes in, answers out. */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"
#include "common/span.h"
#include "proto/tables.h"

enum endpoint {
    ENDPOINT_NONE,
    ENDPOINT_CHAT,
    ENDPOINT_COMPLETIONS,
    ENDPOINT_EMBEDDINGS,
    ENDPOINT_MODELS,
    ENDPOINT_MODEL,
    ENDPOINT_FEEDBACK /* what a client thinks of an answer: ours, no provider's */
};

/* What is asked for: read once from the body's index. Spans borrow from body or arena. */
struct ask {
    enum endpoint endpoint;
    struct span model;    /* as the client wrote it */
    uint32_t model_token; /* index of its value token: where to splice */
    bool stream;
    bool wants_usage;              /* stream_options.include_usage true */
    uint32_t stream_options_token; /* value token of stream_options, or JSON_NONE */
    uint32_t include_usage_token;  /* value token of include_usage, or JSON_NONE */
    bool has_tools, has_images, has_audio, wants_json;
    uint64_t max_output_tokens; /* 0: not said */
    uint64_t input_bytes;       /* of prompt or messages text: for estimates */
    uint32_t choices;           /* n, at least 1 */
    struct span user;           /* see ask_user */
    struct json_index index;
    struct span body;
};

/* Why a body was refused, for the 400's message. */
struct ask_error {
    const char *param; /* "model", "messages", or NULL */
    char message[256]; /* says what is wrong, where, what to do */
    const char *code;  /* "invalid_json", "missing_required_parameter", "duplicate_field", ... */
};

struct usage { /* tokens; absent is not zero */
    bool known;
    bool estimated;
    bool suspect; /* a count could not be right and was clamped */
    uint64_t input, output, cached, cache_write,
        reasoning; /* cached, cache_write within input; reasoning within output */
};

/* One streamed event, or one unary body, judged. */
enum event_class {
    EVENT_OPENING, /* role only, ping, comments: not yet an answer */
    EVENT_CONTENT, /* text, tool call or reasoning delta, refusal text; the end of an answer that a limit or filter
                      left empty */
    EVENT_FINISH,  /* finish_reason without content */
    EVENT_USAGE,   /* usage and nothing else: dropped when only we asked for it */
    EVENT_DONE,    /* the stream's proper end */
    EVENT_ERROR,   /* an error object inside a 200 */
    EVENT_GARBAGE  /* not of this dialect */
};
/* Why an answer ended, of any dialect. */
enum finish {
    FINISH_NONE, /* not said (yet) */
    FINISH_STOP,
    FINISH_LENGTH,
    FINISH_TOOL_CALLS,
    FINISH_CONTENT_FILTER,
    FINISH_REFUSAL, /* also where the model refused in words of a field for that, whatever the reason says */
    FINISH_OTHER
};
struct event_facts {
    enum event_class class;
    struct usage usage;     /* when it carries one (known) */
    uint64_t content_bytes; /* for estimates when usage never comes */
    bool finished;          /* carries a finish_reason */
    enum finish finish;     /* of it; FINISH_REFUSAL also from a refusal's text, which comes before the end */
    /* For EVENT_CONTENT, when everything else in the event is alike in every event of its kind: its only text, as it
     * stands between its quotes in the event's data, and a string there of which nothing is read (OpenAI's
     * "obfuscation"). .ptr NULL: none such. */
    struct span content, padding;
    struct span error_type, error_message; /* in arena, for EVENT_ERROR */
    bool error_retryable;                  /* overloaded, server error: another model may do */
};

struct splice { /* replaces text[start, end) by `with` */
    uint32_t start, end;
    struct span with;
};
