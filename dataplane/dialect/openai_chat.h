/* openai_chat.h - OpenAI's chat completions, completions, embeddings and models, as a client dialect and as an upstream
 * one; beside them stands our own /v1/feedback.
 *
 * Pure: bytes in, answers out. Source: OpenAI's API reference (chat, completions, embeddings, models, errors) and, for
 * deployments in paths, Azure OpenAI's. Providers that call themselves compatible differ in details: what is
 * read here is read leniently, what is written is written as OpenAI does. `model` in answers is not rewritten. */
#pragma once
#include "common/sse.h"
#include "dataplane/dialect/chat.h"

/* ---- in: where ---- */

struct openai_chat_place {
    enum endpoint endpoint;
    bool head;           /* HEAD: answer as GET without the body */
    struct span model;   /* ENDPOINT_MODEL: percent-decoded, in arena */
    const char *allowed; /* "POST" or "GET, HEAD": for 405's Allow */
};
/* target: the request-target in origin form; its query is ignored. With and without /v1.
 * ERR_NOT_FOUND: 404. ERR_UNSUPPORTED: 405, ret->allowed is set (and endpoint). ERR_INVALID: a malformed escape in the
 * model's name. ERR_NOMEM. */
MUST_CHECK enum err openai_chat_place(struct arena *arena, struct span method, struct span target,
                                      struct openai_chat_place *ret);

/* ---- up: path and body ---- */

/* Complete request-target for the provider, its query included. ERR_NOMEM. */
MUST_CHECK enum err openai_chat_path(struct arena *arena, const struct provider *provider, const struct model *model,
                                     enum endpoint endpoint, struct span *ret);

#define OPENAI_CHAT_SPLICES_MAX 2
#define OPENAI_CHAT_PARTS_MAX   (2 * OPENAI_CHAT_SPLICES_MAX + 1)
struct openai_chat_body {
    struct splice splices[OPENAI_CHAT_SPLICES_MAX]; /* ascending, not overlapping */
    unsigned splice_count;
    struct span parts[OPENAI_CHAT_PARTS_MAX]; /* what is sent, one after the other: borrowed from body, arena */
    unsigned part_count;
    uint64_t bytes;   /* of all parts */
    bool usage_added; /* only we asked for usage: drop the event that carries nothing else (EVENT_USAGE) */
};
/* The client's body for this model: `model` becomes what the provider calls it, and a stream's usage is asked for where
 * the provider takes that. Everything else stays byte for byte. ERR_NOMEM. */
MUST_CHECK enum err openai_chat_body(struct arena *arena, const struct ask *ask, const struct provider *provider,
                                     const struct model *model, struct openai_chat_body *ret);

/* ---- down: what came ---- */

/* One event of a stream. arena holds scratch and the error's texts: the caller resets it between events. ERR_NOMEM
 * only; an event that makes no sense is EVENT_GARBAGE. */
MUST_CHECK enum err openai_chat_event(struct arena *arena, enum endpoint endpoint, const struct sse_event *event,
                                      struct event_facts *ret);
/* A whole body: EVENT_CONTENT (an answer), EVENT_ERROR, or EVENT_GARBAGE (no answer of this dialect, no choices). Also
 * for bodies of errors with a status of their own. ERR_NOMEM. */
MUST_CHECK enum err openai_chat_answer(struct arena *arena, enum endpoint endpoint, struct span body,
                                       struct event_facts *ret);

/* ---- down: what we write ---- */

struct openai_chat_error {
    const char *type;    /* "invalid_request_error", "authentication_error", "server_error", ... */
    const char *code;    /* or NULL */
    const char *param;   /* or NULL */
    struct span message; /* bytes that are not UTF-8 are replaced */
};
/* {"error":{"message":...,"type":...,"param":...,"code":...}}. ERR_FULL, ERR_NOMEM. */
MUST_CHECK enum err openai_chat_write_error(struct buf *out, const struct openai_chat_error *error);
/* The same as one event ("data: {...}" and a blank line), for streams that have begun. No [DONE] follows: it did not
 * end well. */
MUST_CHECK enum err openai_chat_write_error_event(struct buf *out, const struct openai_chat_error *error);

struct openai_chat_listed {
    struct span id;
    const char *owned_by;
};
/* One model object; created_s in seconds since 1970. ERR_FULL, ERR_NOMEM. */
MUST_CHECK enum err openai_chat_write_model(struct buf *out, const struct openai_chat_listed *item, int64_t created_s);
/* {"object":"list","data":[...]}; `more` adds "has_more":true. */
MUST_CHECK enum err openai_chat_write_models(struct buf *out, const struct openai_chat_listed *items, size_t count,
                                             int64_t created_s, bool more);
