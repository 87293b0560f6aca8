#include "dataplane/account/usage.h"
#include "dataplane/dialect/openai_chat.h"

/* An answer is read leniently, but not without bounds. Its millions of small values (embeddings, log probabilities) lie
 * deeper than anything that is looked at here: they cost no memory. */
static const struct json_limits answer_limits = {
    .bytes_max = 64u << 20, .depth_max = 128, .tokens_max = 512u << 10, .depth_kept = 4 /* choices[].message.content */
};
static const struct json_limits embeddings_limits = {
    .bytes_max = 64u << 20, .depth_max = 128, .tokens_max = 512u << 10, .depth_kept = 3 /* usage.*_details.* */
};

static bool is_object(const struct json_index *ix, uint32_t token)
{
    return token != JSON_NONE && json_kind(ix, token) == JSON_OBJECT;
}

static bool is_array(const struct json_index *ix, uint32_t token)
{
    return token != JSON_NONE && json_kind(ix, token) == JSON_ARRAY;
}

static bool is_text(const struct json_index *ix, uint32_t token)
{
    return token != JSON_NONE && json_kind(ix, token) == JSON_STRING;
}

/* Bytes of a string as escaped: an upper bound of the text's, good enough for estimates. */
static uint64_t text_bytes(const struct json_index *ix, uint32_t token)
{
    return is_text(ix, token) ? json_raw(ix, token).len - 2 : 0;
}

/* As it stands between its quotes; .ptr NULL when it is no string. */
static struct span text_at(const struct json_index *ix, uint32_t token)
{
    if (!is_text(ix, token))
        return span_of(NULL, 0);
    const struct span raw = json_raw(ix, token);
    return span_of(raw.ptr + 1, raw.len - 2);
}

/* ---- errors ---- */

static bool one_of(struct span text, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (span_find(text, span_cstr(list[i])) != SIZE_MAX)
            return true;
    return false;
}

/* An error inside a 200 is about the request itself only when it says so: everything else may go better elsewhere. */
static bool retryable(struct span type, struct span code)
{
    static const char *const own[] = { "invalid_request", "invalid_prompt",    "context_length", "content_filter",
                                       "content_policy",  "unsupported_param", "invalid_value" };
    return !one_of(type, own, ARRAY_LEN(own)) && !one_of(code, own, ARRAY_LEN(own));
}

static enum err text_of(struct arena *arena, const struct json_index *ix, uint32_t token, struct span *ret)
{
    *ret = SPAN("");
    if (token == JSON_NONE || (json_kind(ix, token) != JSON_STRING && json_kind(ix, token) != JSON_NUMBER))
        return OK;
    if (json_kind(ix, token) == JSON_NUMBER) {
        *ret = json_raw(ix, token);
        return OK;
    }
    enum err err = json_string(arena, ix, token, ret);
    if (err == ERR_INVALID)
        *ret = SPAN("");
    return err == ERR_INVALID ? OK : err;
}

/* {"error":{"message","type","code"}}; also {"error":"text"}, and {"message","type","code"} under object "error". */
static enum err read_error(struct arena *arena, const struct json_index *ix, uint32_t error, struct event_facts *facts)
{
    struct span code = SPAN("");
    facts->class = EVENT_ERROR;
    enum err err;
    if (is_text(ix, error)) {
        facts->error_type = SPAN("error");
        err = text_of(arena, ix, error, &facts->error_message);
    } else {
        err = text_of(arena, ix, json_get(ix, error, SPAN("type")), &facts->error_type);
        if (!err)
            err = text_of(arena, ix, json_get(ix, error, SPAN("code")), &code);
        if (!err)
            err = text_of(arena, ix, json_get(ix, error, SPAN("message")), &facts->error_message);
    }
    if (span_empty(facts->error_type))
        facts->error_type = span_empty(code) ? SPAN("error") : code;
    facts->error_retryable = retryable(facts->error_type, code);
    /* Some put the status there: 4xx but those that pass (408, 429) is the request's own fault. */
    uint64_t status;
    if (span_to_u64(code, &status) == OK && status >= 400 && status < 500)
        facts->error_retryable = status == 401 || status == 403 || status == 404 || status == 408 || status == 429;
    return err;
}

/* The token of an error, or JSON_NONE. */
static uint32_t find_error(const struct json_index *ix, struct span event_type)
{
    uint32_t error = json_get(ix, 0, SPAN("error"));
    if (error != JSON_NONE && json_kind(ix, error) != JSON_NULL)
        return error;
    uint32_t object = json_get(ix, 0, SPAN("object"));
    if (is_text(ix, object) && json_string_eq(ix, object, SPAN("error")))
        return 0;
    return span_eq(event_type, SPAN("error")) ? 0 : JSON_NONE;
}

/* ---- content ---- */

struct seen {
    unsigned choices, texts;
    bool content, finished, refused;
    enum finish finish; /* the last one said */
    bool answer;        /* message, delta or text is there, be it empty */
    uint64_t bytes;
    uint32_t text; /* the token of the only one that is not empty (texts is 1) */
};

static void count_text(const struct json_index *ix, uint32_t token, struct seen *seen)
{
    const uint64_t bytes = text_bytes(ix, token);
    if (bytes == 0)
        return;
    seen->bytes += bytes;
    seen->content = true;
    seen->text = token;
    seen->texts++;
}

/* What a message or delta carries: text, reasoning, refusal, calls of tools; these also without bytes yet. */
static void read_message(const struct json_index *ix, uint32_t message, struct seen *seen)
{
    enum { REFUSAL_TEXT = 3 };
    static const struct span texts[] = {
        { "content", 7 }, { "reasoning_content", 17 }, { "reasoning", 9 }, [REFUSAL_TEXT] = { "refusal", 7 }
    };
    static const struct span others[] = {
        { "tool_calls", 10 }, { "function_call", 13 }, { "audio", 5 }, { "images", 6 }, { "reasoning_details", 17 }
    };
    seen->answer = true;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        uint32_t value = json_get(ix, message, texts[i]);
        count_text(ix, value, seen);
        seen->refused |= i == REFUSAL_TEXT && text_bytes(ix, value) > 0;
        if (is_array(ix, value) && json_count(ix, value) > 0) { /* content in parts (Mistral) */
            seen->bytes += json_raw(ix, value).len;
            seen->content = true;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        uint32_t value = json_get(ix, message, others[i]);
        if ((!is_array(ix, value) && !is_object(ix, value)) || json_count(ix, value) == 0)
            continue;
        seen->bytes += json_raw(ix, value).len;
        seen->content = true;
    }
}

static enum finish finish_of(const struct json_index *ix, uint32_t reason)
{
    static const struct {
        struct span name;
        enum finish finish;
    } known[] = {
        { { "stop", 4 }, FINISH_STOP },
        { { "length", 6 }, FINISH_LENGTH },
        { { "tool_calls", 10 }, FINISH_TOOL_CALLS },
        { { "function_call", 13 }, FINISH_TOOL_CALLS },
        { { "content_filter", 14 }, FINISH_CONTENT_FILTER },
        { { "refusal", 7 }, FINISH_REFUSAL },
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (json_string_eq(ix, reason, known[i].name))
            return known[i].finish;
    return FINISH_OTHER;
}

static void read_choice(const struct json_index *ix, uint32_t choice, struct seen *seen)
{
    seen->choices++;
    uint32_t finish = json_get(ix, choice, SPAN("finish_reason"));
    if (is_text(ix, finish)) {
        seen->finished = true;
        seen->finish = finish_of(ix, finish);
    }
    /* The limit that the client set was used up (by reasoning, mostly), or a filter withheld the text: that is this
     * request's answer. Elsewhere it would be paid for again, and end alike; nor is the model to blame. */
    seen->content |= seen->finish == FINISH_LENGTH || seen->finish == FINISH_CONTENT_FILTER;
    static const struct span messages[] = { { "delta", 5 }, { "message", 7 } };
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        uint32_t message = json_get(ix, choice, messages[i]);
        if (is_object(ix, message))
            read_message(ix, message, seen);
    }
    uint32_t text = json_get(ix, choice, SPAN("text")); /* completions */
    if (is_text(ix, text)) {
        seen->answer = true;
        count_text(ix, text, seen);
    }
}

static struct seen read_choices(const struct json_index *ix, uint32_t choices)
{
    struct seen seen = { .choices = 0 };
    for (uint32_t c = json_first(ix, choices); c != JSON_NONE; c = json_next(ix, choices, c))
        if (is_object(ix, c))
            read_choice(ix, c, &seen);
    return seen;
}

/* ---- one event, one body ---- */

static enum event_class class_of(const struct seen *seen, bool has_usage)
{
    if (seen->content)
        return EVENT_CONTENT;
    if (seen->finished)
        return EVENT_FINISH;
    return seen->choices == 0 && has_usage ? EVENT_USAGE : EVENT_OPENING;
}

enum err openai_chat_event(struct arena *arena, enum endpoint endpoint, const struct sse_event *event,
                           struct event_facts *ret)
{
    (void)endpoint; /* chat's and text completions' events differ in places that do not collide */
    struct event_facts facts = { .class = EVENT_OPENING };
    struct json_index ix;
    *ret = facts;
    if (!event->has_data || span_empty(span_trim(event->data)))
        return OK; /* comments, keep-alives */
    if (span_eq(span_trim(event->data), SPAN("[DONE]"))) {
        ret->class = EVENT_DONE;
        return OK;
    }
    enum err err = json_index(arena, event->data, &answer_limits, &ix, NULL);
    if (err == ERR_NOMEM)
        return err;
    facts.class = EVENT_GARBAGE;
    if (!err && json_kind(&ix, 0) == JSON_OBJECT) {
        uint32_t error = find_error(&ix, event->type), choices = json_get(&ix, 0, SPAN("choices"));
        uint32_t usage = json_get(&ix, 0, SPAN("usage"));
        usage_read(&ix, usage, &facts.usage);
        if (error != JSON_NONE) {
            err = read_error(arena, &ix, error, &facts);
        } else if (is_array(&ix, choices)) {
            struct seen seen = read_choices(&ix, choices);
            facts.class = class_of(&seen, is_object(&ix, usage));
            facts.finished = seen.finished;
            facts.finish = seen.refused ? FINISH_REFUSAL : seen.finish;
            facts.content_bytes = seen.bytes;
            if (!seen.finished && !facts.usage.known && seen.texts == 1 && seen.bytes == text_bytes(&ix, seen.text)) {
                facts.content = text_at(&ix, seen.text);
                facts.padding = text_at(&ix, json_get(&ix, 0, SPAN("obfuscation")));
            }
        } else if (is_object(&ix, usage)) {
            facts.class = EVENT_USAGE;
        } else if (span_eq(event->type, SPAN("ping"))) {
            facts.class = EVENT_OPENING;
        }
    }
    if (err == ERR_NOMEM)
        return err;
    *ret = facts;
    return OK;
}

enum err openai_chat_answer(struct arena *arena, enum endpoint endpoint, struct span body, struct event_facts *ret)
{
    struct event_facts facts = { .class = EVENT_GARBAGE };
    const struct json_limits *limits = endpoint == ENDPOINT_EMBEDDINGS ? &embeddings_limits : &answer_limits;
    struct json_index ix;
    enum err err = json_index(arena, body, limits, &ix, NULL);
    if (err == ERR_NOMEM)
        return err;
    if (err || json_kind(&ix, 0) != JSON_OBJECT) {
        *ret = facts;
        return OK;
    }
    usage_read(&ix, json_get(&ix, 0, SPAN("usage")), &facts.usage);
    uint32_t error = find_error(&ix, SPAN(""));
    uint32_t choices = json_get(&ix, 0, SPAN("choices")), data = json_get(&ix, 0, SPAN("data"));
    if (error != JSON_NONE) {
        err = read_error(arena, &ix, error, &facts);
    } else if (endpoint == ENDPOINT_EMBEDDINGS && is_array(&ix, data) && json_count(&ix, data) > 0) {
        facts.class = EVENT_CONTENT;
        facts.finished = true;
    } else if (endpoint != ENDPOINT_EMBEDDINGS && is_array(&ix, choices)) {
        struct seen seen = read_choices(&ix, choices);
        facts.class = seen.answer ? EVENT_CONTENT : EVENT_GARBAGE;
        facts.finished = seen.finished;
        facts.finish = seen.refused ? FINISH_REFUSAL : seen.finish;
        facts.content_bytes = seen.bytes;
    }
    if (err)
        return err;
    *ret = facts;
    return OK;
}
