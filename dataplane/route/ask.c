#include "dataplane/route/ask.h"
#include <stdarg.h>

#define TOKENS_CAP  1000000000u /* a larger max_tokens means "no limit" */
#define CHOICES_MAX 128u        /* OpenAI's own limit of n */

struct reader {
    struct arena *arena;
    struct ask *ask;
    struct ask_error *error;
};

static enum err refuse(struct reader *r, enum err err, const char *param, const char *code, const char *fmt, ...)
    PRINTF_LIKE(5, 6);
static enum err refuse(struct reader *r, enum err err, const char *param, const char *code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    *r->error = (struct ask_error){ .param = param, .code = code };
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start stands above; the analyzer loses it */
    (void)vsnprintf(r->error->message, sizeof r->error->message, fmt, args);
    va_end(args);
    return err;
}

static enum err wrong_type(struct reader *r, const char *param, const char *expected)
{
    return refuse(r, ERR_INVALID, param, "invalid_type", "'%s' must be %s.", param, expected);
}

/* The member's value; null counts as absent. ERR_DUPLICATE is said to the client. `param` is what it is called there.
 */
static enum err member(struct reader *r, uint32_t object, const char *name, const char *param, uint32_t *ret)
{
    enum err err = json_get_once(&r->ask->index, object, span_cstr(name), ret);
    if (err == ERR_DUPLICATE)
        return refuse(r, err, param, "duplicate_field", "'%s' stands twice in the request; send it once.", param);
    return err;
}

static bool present(const struct reader *r, uint32_t token)
{
    return token != JSON_NONE && json_kind(&r->ask->index, token) != JSON_NULL;
}

static enum err read_bool(struct reader *r, const char *name, bool *ret)
{
    uint32_t token;
    enum err err = member(r, 0, name, name, &token);
    if (!err && present(r, token) && json_bool(&r->ask->index, token, ret))
        err = wrong_type(r, name, "true or false");
    return err;
}

/* 0 when absent. */
static enum err read_count(struct reader *r, const char *name, uint64_t max, uint64_t *ret)
{
    uint32_t token;
    enum err err = member(r, 0, name, name, &token);
    if (err || !present(r, token))
        return err;
    err = json_u64(&r->ask->index, token, ret);
    if (err == ERR_TOO_LARGE && json_raw(&r->ask->index, token).ptr[0] != '-')
        *ret = max;
    else if (err)
        return wrong_type(r, name, "a whole number, not negative");
    if (*ret > max)
        *ret = max;
    return OK;
}

static enum err read_model(struct reader *r)
{
    struct ask *ask = r->ask;
    enum err err = member(r, 0, "model", "model", &ask->model_token);
    if (err)
        return err;
    if (!present(r, ask->model_token))
        return refuse(r, ERR_INVALID, "model", "missing_required_parameter",
                      "'model' is missing: name a route or a provider/model; GET /v1/models lists them.");
    if (json_kind(&ask->index, ask->model_token) != JSON_STRING)
        return wrong_type(r, "model", "a string");
    err = json_string(r->arena, &ask->index, ask->model_token, &ask->model);
    if (err == ERR_INVALID || (!err && span_empty(ask->model)))
        return refuse(r, ERR_INVALID, "model", "invalid_value", "'model' must be a name, and is not.");
    return err;
}

static enum err read_stream(struct reader *r)
{
    struct ask *ask = r->ask;
    enum err err = read_bool(r, "stream", &ask->stream);
    if (!err)
        err = member(r, 0, "stream_options", "stream_options", &ask->stream_options_token);
    if (err || !present(r, ask->stream_options_token))
        return err;
    if (json_kind(&ask->index, ask->stream_options_token) != JSON_OBJECT)
        return wrong_type(r, "stream_options", "an object");
    err = member(r, ask->stream_options_token, "include_usage", "stream_options.include_usage",
                 &ask->include_usage_token);
    if (!err && present(r, ask->include_usage_token) &&
        json_bool(&ask->index, ask->include_usage_token, &ask->wants_usage))
        err = wrong_type(r, "stream_options.include_usage", "true or false");
    return err;
}

/* One part of a message's content array. */
static enum err read_part(struct reader *r, uint32_t part)
{
    struct ask *ask = r->ask;
    const struct json_index *ix = &ask->index;
    if (json_kind(ix, part) == JSON_STRING)
        ask->input_bytes += json_raw(ix, part).len - 2;
    if (json_kind(ix, part) != JSON_OBJECT)
        return OK;
    uint32_t type, text;
    enum err err = member(r, part, "type", "messages.content.type", &type);
    if (!err)
        err = member(r, part, "text", "messages.content.text", &text);
    if (err)
        return err;
    if (text != JSON_NONE && json_kind(ix, text) == JSON_STRING)
        ask->input_bytes += json_raw(ix, text).len - 2;
    if (type == JSON_NONE || json_kind(ix, type) != JSON_STRING)
        return OK;
    if (json_string_eq(ix, type, SPAN("image_url")) || json_string_eq(ix, type, SPAN("input_image")) ||
        json_string_eq(ix, type, SPAN("image")))
        ask->has_images = true;
    if (json_string_eq(ix, type, SPAN("input_audio")) || json_string_eq(ix, type, SPAN("audio")))
        ask->has_audio = true;
    return OK;
}

static enum err read_message(struct reader *r, uint32_t message)
{
    const struct json_index *ix = &r->ask->index;
    if (json_kind(ix, message) != JSON_OBJECT)
        return wrong_type(r, "messages", "an array of objects");
    uint32_t content;
    enum err err = member(r, message, "content", "messages.content", &content);
    if (err || content == JSON_NONE)
        return err;
    if (json_kind(ix, content) == JSON_STRING)
        r->ask->input_bytes += json_raw(ix, content).len - 2;
    if (json_kind(ix, content) != JSON_ARRAY)
        return OK;
    for (uint32_t part = json_first(ix, content); part != JSON_NONE && !err; part = json_next(ix, content, part))
        err = read_part(r, part);
    return err;
}

static enum err read_messages(struct reader *r)
{
    const struct json_index *ix = &r->ask->index;
    uint32_t messages;
    enum err err = member(r, 0, "messages", "messages", &messages);
    if (err)
        return err;
    if (!present(r, messages))
        return refuse(r, ERR_INVALID, "messages", "missing_required_parameter",
                      "'messages' is missing: send an array of messages.");
    if (json_kind(ix, messages) != JSON_ARRAY)
        return wrong_type(r, "messages", "an array of objects");
    if (json_first(ix, messages) == JSON_NONE)
        return refuse(r, ERR_INVALID, "messages", "invalid_value", "'messages' is empty: send at least one message.");
    for (uint32_t m = json_first(ix, messages); m != JSON_NONE && !err; m = json_next(ix, messages, m))
        err = read_message(r, m);
    return err;
}

/* prompt or input: a string, or an array of strings or tokens. */
static enum err read_text(struct reader *r, const char *name)
{
    const struct json_index *ix = &r->ask->index;
    uint32_t token;
    enum err err = member(r, 0, name, name, &token);
    if (err)
        return err;
    if (!present(r, token))
        return refuse(r, ERR_INVALID, name, "missing_required_parameter", "'%s' is missing.", name);
    enum json_kind kind = json_kind(ix, token);
    if (kind == JSON_STRING)
        r->ask->input_bytes = json_raw(ix, token).len - 2;
    else if (kind == JSON_ARRAY)
        r->ask->input_bytes = json_raw(ix, token).len; /* with commas and brackets: an estimate */
    else
        return wrong_type(r, name, "a string or an array");
    return OK;
}

static enum err read_non_empty_array(struct reader *r, const char *name, bool *ret)
{
    uint32_t token;
    enum err err = member(r, 0, name, name, &token);
    if (err || !present(r, token))
        return err;
    if (json_kind(&r->ask->index, token) != JSON_ARRAY)
        return wrong_type(r, name, "an array");
    if (json_first(&r->ask->index, token) != JSON_NONE) {
        *ret = true;
        r->ask->input_bytes += json_raw(&r->ask->index, token).len; /* definitions are read by the model, too */
    }
    return OK;
}

static enum err read_response_format(struct reader *r)
{
    const struct json_index *ix = &r->ask->index;
    uint32_t format, type;
    enum err err = member(r, 0, "response_format", "response_format", &format);
    if (err || !present(r, format))
        return err;
    if (json_kind(ix, format) != JSON_OBJECT)
        return wrong_type(r, "response_format", "an object");
    err = member(r, format, "type", "response_format.type", &type);
    if (!err && type != JSON_NONE && json_kind(ix, type) == JSON_STRING)
        r->ask->wants_json =
            json_string_eq(ix, type, SPAN("json_object")) || json_string_eq(ix, type, SPAN("json_schema"));
    return err;
}

static enum err read_modalities(struct reader *r)
{
    const struct json_index *ix = &r->ask->index;
    uint32_t list;
    enum err err = member(r, 0, "modalities", "modalities", &list);
    if (err || !present(r, list) || json_kind(ix, list) != JSON_ARRAY)
        return err;
    for (uint32_t at = json_first(ix, list); at != JSON_NONE; at = json_next(ix, list, at))
        if (json_kind(ix, at) == JSON_STRING && json_string_eq(ix, at, SPAN("audio")))
            r->ask->has_audio = true;
    return OK;
}

static enum err read_sizes(struct reader *r)
{
    uint64_t n = 0, old_max = 0;
    uint32_t user;
    enum err err = read_count(r, "n", CHOICES_MAX, &n);
    if (!err)
        err = read_count(r, "max_tokens", TOKENS_CAP, &old_max);
    if (!err)
        err = read_count(r, "max_completion_tokens", TOKENS_CAP, &r->ask->max_output_tokens);
    if (!err)
        err = member(r, 0, "user", "user", &user);
    if (err)
        return err;
    if (r->ask->max_output_tokens == 0)
        r->ask->max_output_tokens = old_max;
    r->ask->choices = n > 0 ? (uint32_t)n : 1;
    if (!present(r, user))
        return OK;
    if (json_kind(&r->ask->index, user) != JSON_STRING)
        return wrong_type(r, "user", "a string");
    err = json_string(r->arena, &r->ask->index, user, &r->ask->user);
    return err == ERR_INVALID ? wrong_type(r, "user", "a string of Unicode text") : err;
}

static enum err read_chat(struct reader *r)
{
    enum err err = read_messages(r);
    if (!err)
        err = read_non_empty_array(r, "tools", &r->ask->has_tools);
    if (!err)
        err = read_non_empty_array(r, "functions", &r->ask->has_tools);
    if (!err)
        err = read_response_format(r);
    if (!err)
        err = read_modalities(r);
    return err;
}

static enum err read_fields(struct reader *r)
{
    enum err err = read_model(r);
    /* Embeddings have neither; whoever sends them still gets them judged alike. */
    if (!err)
        err = read_stream(r);
    if (!err)
        err = read_sizes(r);
    if (err)
        return err;
    switch (r->ask->endpoint) {
    case ENDPOINT_CHAT:
        return read_chat(r);
    case ENDPOINT_COMPLETIONS:
        return read_text(r, "prompt");
    case ENDPOINT_EMBEDDINGS:
        r->ask->stream = false;
        return read_text(r, "input");
    case ENDPOINT_NONE:
    case ENDPOINT_MODELS:
    case ENDPOINT_MODEL:
    case ENDPOINT_FEEDBACK:
        break;
    }
    REQUIRE(false && "an endpoint with a body");
    return ERR_INVALID;
}

static enum err read_json(struct reader *r, const struct json_limits *limits)
{
    if (span_empty(span_trim(r->ask->body)))
        return refuse(r, ERR_SYNTAX, NULL, "invalid_json", "The body is empty; send a JSON object.");
    struct json_error at = { .message = "" };
    enum err err = json_index(r->arena, r->ask->body, limits, &r->ask->index, &at);
    switch (err) {
    case OK:
        break;
    case ERR_SYNTAX:
        return refuse(r, err, NULL, "invalid_json", "The body is not valid JSON: line %u, column %u: %s.", at.line,
                      at.column, at.message);
    case ERR_TOO_LARGE:
        return refuse(r, err, NULL, "request_too_large", "The body is larger than this gateway takes.");
    case ERR_TOO_DEEP:
    case ERR_TOO_MANY:
        return refuse(r, err, NULL, "invalid_json", "The body %s than this gateway takes.",
                      err == ERR_TOO_DEEP ? "nests deeper" : "has more JSON values");
    default: /* ERR_NOMEM: nothing of the client's doing */
        return err;
    }
    if (json_kind(&r->ask->index, 0) != JSON_OBJECT)
        return refuse(r, ERR_INVALID, NULL, "invalid_json", "The body must be a JSON object.");
    return OK;
}

enum err ask_read(struct arena *arena, enum endpoint endpoint, struct span body, const struct json_limits *limits,
                  struct ask *ret_ask, struct ask_error *ret_error)
{
    struct ask ask = { .endpoint = endpoint,
                       .body = body,
                       .model_token = JSON_NONE,
                       .stream_options_token = JSON_NONE,
                       .include_usage_token = JSON_NONE,
                       .choices = 1 };
    struct reader r = { .arena = arena, .ask = &ask, .error = ret_error };
    enum err err = read_json(&r, limits ? limits : &json_limits_default);
    if (!err)
        err = read_fields(&r);
    if (!err)
        *ret_ask = ask;
    return err;
}

struct span ask_user(struct arena *arena, const struct ask *ask)
{
    uint32_t metadata, user;
    struct span text;
    if (!span_empty(ask->user))
        return ask->user;
    /* What is odd about it is the provider's to judge: here it only means that nobody is named. */
    if (json_get_once(&ask->index, 0, SPAN("metadata"), &metadata) || metadata == JSON_NONE ||
        json_kind(&ask->index, metadata) != JSON_OBJECT ||
        json_get_once(&ask->index, metadata, SPAN("user_id"), &user) || user == JSON_NONE ||
        json_kind(&ask->index, user) != JSON_STRING || json_string(arena, &ask->index, user, &text))
        return SPAN("");
    return text;
}
