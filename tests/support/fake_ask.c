#include "tests/support/fake_ask.h"
#include "tests/support/fake_conn.h" /* fake_must */
#include "common/arena.h"
#include "common/json.h"

struct ask {
    struct arena *arena;
    const struct json_index *ix;
    struct span name;
    struct span model; /* unescaped */
    struct fake_answer *answer;
    const char **message;
    uint32_t last_user; /* content of the last user message, or JSON_NONE */
    uint64_t bytes;     /* of content */
};

static uint64_t get_u64(const struct json_index *ix, uint32_t object, struct span name, uint64_t otherwise)
{
    uint64_t value;
    uint32_t token = json_get(ix, object, name);
    return token != JSON_NONE && json_u64(ix, token, &value) == OK ? value : otherwise;
}

static bool get_bool(const struct json_index *ix, uint32_t object, struct span name)
{
    bool value;
    uint32_t token = json_get(ix, object, name);
    return token != JSON_NONE && json_bool(ix, token, &value) == OK && value;
}

static bool get_is(const struct json_index *ix, uint32_t object, struct span name, struct span text)
{
    uint32_t token = json_get(ix, object, name);
    return token != JSON_NONE && json_string_eq(ix, token, text);
}

/* Bytes of a value as it stands, a string without its quotes. */
static uint64_t content_bytes(const struct json_index *ix, uint32_t token)
{
    size_t n = json_raw(ix, token).len;
    return json_kind(ix, token) == JSON_STRING ? n - 2 : n;
}

static enum err read_messages(struct ask *ask, uint32_t root)
{
    const struct json_index *ix = ask->ix;
    uint32_t messages = json_get(ix, root, SPAN("messages"));
    if (messages == JSON_NONE || json_kind(ix, messages) != JSON_ARRAY) {
        *ask->message = "'messages' must be an array";
        return ERR_INVALID;
    }
    for (uint32_t m = json_first(ix, messages); m != JSON_NONE; m = json_next(ix, messages, m)) {
        uint32_t content = json_get(ix, m, SPAN("content"));
        if (content == JSON_NONE)
            continue;
        ask->bytes += content_bytes(ix, content);
        if (get_is(ix, m, SPAN("role"), SPAN("user")))
            ask->last_user = content;
    }
    return OK;
}

static enum err read_text(struct ask *ask, uint32_t root, struct span field)
{
    uint32_t text = json_get(ask->ix, root, field);
    if (text == JSON_NONE) {
        *ask->message = "'prompt' or 'input' is missing";
        return ERR_INVALID;
    }
    ask->bytes = content_bytes(ask->ix, text);
    ask->last_user = text;
    return OK;
}

static void read_embedding(struct ask *ask, uint32_t root)
{
    static const uint8_t key[16] = { 0 };
    const struct json_index *ix = ask->ix;
    struct fake_answer *answer = ask->answer;
    uint32_t input = ask->last_user;
    uint32_t first = json_first(ix, input);
    bool many = json_kind(ix, input) == JSON_ARRAY && first != JSON_NONE && json_kind(ix, first) != JSON_NUMBER;
    answer->inputs = many ? ix->tokens[input].count : 1;
    answer->dimensions = get_u64(ix, root, SPAN("dimensions"), 8);
    if (answer->dimensions > 4096)
        answer->dimensions = 4096; /* the greatest that models offer */
    answer->base64 = get_is(ix, root, SPAN("encoding_format"), SPAN("base64"));
    answer->salt = siphash24(key, json_raw(ix, input));
}

static enum err apply_directives(struct ask *ask, uint32_t token)
{
    struct span bad = { 0 };
    if (token == JSON_NONE ||
        fake_shape_directives(&ask->answer->shape, json_raw(ask->ix, token), ask->name, ask->model, &bad) == OK)
        return OK;
    *ask->message = arena_printf(ask->arena, "fake directive not understood: " SPAN_FMT, SPAN_ARG(bad));
    return ERR_INVALID;
}

/* The function to call, when one is to be called. Its name goes unescaped into the answer. */
static bool wants_tool(struct ask *ask, uint32_t root)
{
    const struct json_index *ix = ask->ix;
    struct span name;
    uint32_t tools = json_get(ix, root, SPAN("tools"));
    uint32_t choice = json_get(ix, root, SPAN("tool_choice"));
    uint32_t tool = tools == JSON_NONE ? JSON_NONE : json_first(ix, tools);
    if (tool == JSON_NONE)
        return false;
    if (choice != JSON_NONE && json_kind(ix, choice) == JSON_OBJECT)
        tool = choice;
    else if (!(choice != JSON_NONE && json_string_eq(ix, choice, SPAN("required"))) &&
             !(ask->last_user != JSON_NONE &&
               span_find(json_raw(ix, ask->last_user), SPAN("call the tool")) != SIZE_MAX))
        return false;
    uint32_t function = json_get(ix, tool, SPAN("function"));
    uint32_t token = function == JSON_NONE ? JSON_NONE : json_get(ix, function, SPAN("name"));
    if (token == JSON_NONE || json_string(ask->arena, ix, token, &name) != OK ||
        name.len >= sizeof(ask->answer->tool) || span_find_byte(json_raw(ix, token), '\\') != SIZE_MAX)
        name = SPAN("unnamed");
    memcpy(ask->answer->tool, name.ptr, name.len);
    ask->answer->tool[name.len] = '\0';
    return true;
}

static void read_length(struct ask *ask, uint32_t root)
{
    struct fake_answer *answer = ask->answer;
    uint64_t max = get_u64(ask->ix, root, SPAN("max_completion_tokens"), UINT64_MAX);
    if (max == UINT64_MAX)
        max = get_u64(ask->ix, root, SPAN("max_tokens"), UINT64_MAX);
    answer->tokens = answer->form == FAKE_FORM_TOOL ? FAKE_TOOL_TOKENS : answer->shape.tokens;
    if (answer->form == FAKE_FORM_JSON && answer->tokens < 2)
        answer->tokens = 2; /* less is no JSON text */
    answer->cut_by_max = max < answer->tokens;
    if (answer->cut_by_max)
        answer->tokens = max;
}

static enum err read_model(struct ask *ask, uint32_t root)
{
    uint32_t token = json_get(ask->ix, root, SPAN("model"));
    buf_clear(&ask->answer->model);
    if (token == JSON_NONE || json_string(ask->arena, ask->ix, token, &ask->model) != OK) {
        *ask->message = "you must provide a model parameter";
        return ERR_INVALID;
    }
    fake_must(buf_append(&ask->answer->model, json_raw(ask->ix, token)));
    return OK;
}

static enum err read_input(struct ask *ask, uint32_t root)
{
    switch (ask->answer->kind) {
    case FAKE_CHAT:
        return read_messages(ask, root);
    case FAKE_COMPLETION:
        return read_text(ask, root, SPAN("prompt"));
    case FAKE_EMBEDDING:
        return read_text(ask, root, SPAN("input"));
    }
    return ERR_INVALID;
}

enum err fake_ask(struct arena *arena, struct span body, struct span name, struct fake_answer *answer,
                  const char **ret_message)
{
    static const struct json_limits limits = { .bytes_max = FAKE_BODY_MAX, .depth_max = 1000, .tokens_max = 1u << 24 };
    struct json_index ix;
    struct ask ask = {
        .arena = arena, .ix = &ix, .name = name, .answer = answer, .message = ret_message, .last_user = JSON_NONE
    };
    *ret_message = "the body is not a JSON object";
    if (json_index(arena, body, &limits, &ix, NULL) != OK || json_kind(&ix, 0) != JSON_OBJECT)
        return ERR_INVALID;
    enum err err = read_model(&ask, 0);
    if (err == OK)
        err = read_input(&ask, 0);
    if (err == OK)
        err = apply_directives(&ask, ask.last_user);
    if (err == OK)
        err = apply_directives(&ask, json_get(&ix, 0, SPAN("user")));
    if (err == OK)
        err = apply_directives(&ask, json_get(&ix, 0, SPAN("metadata")));
    if (err != OK)
        return err;
    answer->prompt_tokens = answer->shape.prompt > 0 ? answer->shape.prompt : ask.bytes / 4 + 3;
    if (answer->kind == FAKE_EMBEDDING) {
        read_embedding(&ask, 0);
        return OK;
    }
    uint32_t options = json_get(&ix, 0, SPAN("stream_options"));
    uint32_t format = json_get(&ix, 0, SPAN("response_format"));
    answer->stream = get_bool(&ix, 0, SPAN("stream"));
    answer->include_usage = answer->stream && options != JSON_NONE && get_bool(&ix, options, SPAN("include_usage"));
    answer->form = FAKE_FORM_TEXT;
    if (answer->kind == FAKE_CHAT && wants_tool(&ask, 0))
        answer->form = FAKE_FORM_TOOL;
    else if (format != JSON_NONE && json_get(&ix, format, SPAN("type")) != JSON_NONE &&
             !get_is(&ix, format, SPAN("type"), SPAN("text")))
        answer->form = FAKE_FORM_JSON;
    read_length(&ask, 0);
    return OK;
}
