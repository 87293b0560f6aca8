/* fake_answer.h - the bytes of answers: OpenAI's JSON objects and server-sent events. No I/O. */
#pragma once
#include "tests/support/fake_knobs.h"
#include "common/buf.h"

enum fake_kind { FAKE_CHAT, FAKE_COMPLETION, FAKE_EMBEDDING };
enum fake_form { FAKE_FORM_TEXT, FAKE_FORM_JSON, FAKE_FORM_TOOL };

/* What the request asked for; borrows nothing. */
struct fake_answer {
    enum fake_kind kind;
    enum fake_form form;
    bool stream;
    bool include_usage;
    bool base64;     /* embeddings */
    bool cut_by_max; /* finish_reason "length" */
    uint64_t tokens; /* of content */
    uint64_t prompt_tokens;
    uint64_t inputs;     /* embeddings */
    uint64_t dimensions; /* embeddings */
    uint64_t salt;       /* embeddings: hash of the input */
    int64_t created;
    char id[40];
    char tool[128];    /* function to call */
    struct buf model;  /* JSON string as it came, quotes included */
    struct buf prefix; /* what stands before the delta in each event */
    struct fake_shape shape;
};

/* A passage cut into tokens once, so that an answer's content is copied in one piece. */
#define FAKE_TEXT_TOKENS 1024
struct fake_text {
    struct buf bytes;
    uint32_t starts[FAKE_TEXT_TOKENS + 1];
};
void fake_text_init(struct fake_text *text, const char *name); /* name: the first token, when not empty */
void fake_text_release(struct fake_text *text);

/* Tokens of a tool call, however many were asked for. */
#define FAKE_TOOL_TOKENS 7

/* The body of an answer that is not a stream. */
void fake_answer_whole(const struct fake_answer *answer, const struct fake_text *text, struct buf *body);
/* answer->prefix, which all events of one stream share. */
void fake_answer_open(struct fake_answer *answer, const char *name);
/* Events of a stream, each framed as one HTTP chunk when chunked. */
void fake_event_role(const struct fake_answer *answer, bool chunked, struct buf *out);
void fake_event_token(const struct fake_answer *answer, const struct fake_text *text, uint64_t step, bool chunked,
                      struct buf *out);
void fake_event_tail(const struct fake_answer *answer, bool chunked,
                     struct buf *out); /* finish_reason, usage, [DONE] */
void fake_event_data(struct span data, bool chunked, struct buf *out);
/* {"error":{...}} in OpenAI's shape for a status. */
void fake_error_object(unsigned status, struct span message, struct buf *body);
/* A list of models, or one of them. */
void fake_models_list(struct span models, struct buf *body);
void fake_model_object(struct span model, struct buf *body);
void fake_base64(struct span bytes, struct buf *out);
/* Reasoning tokens that are sent, then content. */
static inline uint64_t fake_answer_steps(const struct fake_answer *answer)
{
    return answer->shape.think + answer->tokens;
}
