#include "tests/support/fake_answer.h"
#include "tests/support/fake_conn.h" /* fake_must */
#include "common/json.h"

static const char passage[] =
    "A fairlead keeps a line from chafing where it turns. It gives the rope a smooth lip to run over, holds it clear "
    "of the "
    "rail, and asks for nothing but a little grease. The crew seldom looks at it. They see the anchor, the winch and "
    "the "
    "sail; yet a line that is led badly wears through on a quiet night, and a line that is led fairly comes home dry. "
    "So the "
    "old hands say: choose the lead before the load, keep the turn wide, and watch the rope rather than the weather.";

static void put(struct buf *out, struct span bytes)
{
    fake_must(buf_append(out, bytes));
}

void fake_text_init(struct fake_text *text, const char *name)
{
    struct span rest = SPAN("");
    struct span word;
    buf_release(&text->bytes);
    buf_init(&text->bytes, 1024 * 1024);
    for (unsigned i = 0; i < FAKE_TEXT_TOKENS; i++) {
        text->starts[i] = (uint32_t)text->bytes.len;
        if (i == 0 && name[0] != '\0') {
            fake_must(buf_printf(&text->bytes, "%s:", name));
            continue;
        }
        if (span_empty(rest))
            rest = span_of(passage, sizeof(passage) - 1);
        REQUIRE(span_split(&rest, ' ', &word));
        if (i > 0)
            put(&text->bytes, SPAN(" "));
        put(&text->bytes, word);
    }
    text->starts[FAKE_TEXT_TOKENS] = (uint32_t)text->bytes.len;
}

void fake_text_release(struct fake_text *text)
{
    buf_release(&text->bytes);
}

/* Tokens after the last one go round again, without the name. */
static unsigned text_index(uint64_t token)
{
    return token == 0 ? 0 : 1 + (unsigned)((token - 1) % (FAKE_TEXT_TOKENS - 1));
}

static struct span text_token(const struct fake_text *text, uint64_t token)
{
    unsigned i = text_index(token);
    return span_of(buf_span(&text->bytes).ptr + text->starts[i], text->starts[i + 1] - text->starts[i]);
}

static void put_text(const struct fake_text *text, uint64_t from, uint64_t to, struct buf *out)
{
    while (from < to) {
        unsigned i = text_index(from);
        uint64_t n = to - from < FAKE_TEXT_TOKENS - i ? to - from : FAKE_TEXT_TOKENS - i;
        put(out, span_of(buf_span(&text->bytes).ptr + text->starts[i], text->starts[i + n] - text->starts[i]));
        from += n;
    }
}

/* Each piece as it stands inside a JSON string. */
static struct span tool_piece(uint64_t step)
{
    static const struct span pieces[FAKE_TOOL_TOKENS - 1] = {
        { "{\\\"", 3 }, { "query", 5 }, { "\\\":\\\"", 5 }, { "fair", 4 }, { " winds", 6 }, { "\\\"}", 3 },
    };
    return pieces[step - 1];
}

static struct span huge_token(const struct fake_answer *answer, struct buf *scratch)
{
    uint64_t n = answer->shape.fault.has_arg ? answer->shape.fault.arg : 1024 * 1024;
    char *at;
    buf_init(scratch, FAKE_BYTES_MAX);
    fake_must(buf_reserve(scratch, n, &at));
    memset(at, 'x', n);
    buf_commit(scratch, n);
    return buf_span(scratch);
}

static bool is_huge(const struct fake_answer *answer)
{
    return answer->shape.fault.kind == FAKE_FAULT_HUGEEVENT;
}

/* The content token at this place, as it stands inside a JSON string. A JSON answer opens with its first and closes
 * with its last one. */
static struct span content_token(const struct fake_answer *answer, const struct fake_text *text, uint64_t token)
{
    if (answer->form == FAKE_FORM_JSON && token == 0)
        return SPAN("{\\\"answer\\\":\\\"");
    if (answer->form == FAKE_FORM_JSON && token + 1 == answer->tokens && !answer->cut_by_max)
        return SPAN("\\\"}");
    return text_token(text, token);
}

static struct span finish_reason(const struct fake_answer *answer)
{
    if (answer->cut_by_max)
        return SPAN("length");
    return answer->form == FAKE_FORM_TOOL ? SPAN("tool_calls") : SPAN("stop");
}

static void put_usage(const struct fake_answer *answer, struct buf *out)
{
    uint64_t reasoning = answer->shape.reasoning + answer->shape.think;
    uint64_t completion = answer->tokens + reasoning;
    fake_must(buf_printf(out,
                         "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                         "\"prompt_tokens_details\":{\"cached_tokens\":%llu,\"audio_tokens\":0},"
                         "\"completion_tokens_details\":{\"reasoning_tokens\":%llu,\"audio_tokens\":0,"
                         "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}",
                         (unsigned long long)answer->prompt_tokens, (unsigned long long)completion,
                         (unsigned long long)answer->prompt_tokens + completion,
                         (unsigned long long)answer->shape.cached, (unsigned long long)reasoning));
}

/* ---- whole answers ---- */

static void put_content(const struct fake_answer *answer, const struct fake_text *text, struct buf *out)
{
    if (is_huge(answer)) {
        struct buf scratch;
        put(out, huge_token(answer, &scratch));
        buf_release(&scratch);
    }
    if (answer->form == FAKE_FORM_TEXT) {
        put_text(text, 0, answer->tokens, out);
        return;
    }
    for (uint64_t i = 0; i < answer->tokens; i++)
        put(out, content_token(answer, text, i));
}

static void put_message(const struct fake_answer *answer, const struct fake_text *text, struct buf *out)
{
    put(out, SPAN("\"message\":{\"role\":\"assistant\",\"content\":"));
    if (answer->form == FAKE_FORM_TOOL) {
        fake_must(buf_printf(out,
                             "null,\"tool_calls\":[{\"id\":\"call_%s\",\"type\":\"function\",\"function\":{\"name\":\"%"
                             "s\",\"arguments\":\"",
                             answer->id, answer->tool));
        for (uint64_t step = 1; step < answer->tokens; step++)
            put(out, tool_piece(step));
        put(out, SPAN("\"}}]"));
    } else {
        put(out, SPAN("\""));
        put_content(answer, text, out);
        put(out, SPAN("\""));
    }
    if (answer->shape.think > 0) {
        put(out, SPAN(",\"reasoning_content\":\""));
        put_text(text, 1, 1 + answer->shape.think, out);
        put(out, SPAN("\""));
    }
    put(out, SPAN(",\"refusal\":null}"));
}

static void put_embedding(const struct fake_answer *answer, uint64_t input, struct buf *out)
{
    struct buf vector = BUF_INIT(FAKE_BYTES_MAX);
    struct prng prng;
    prng_seed(&prng, answer->salt + input);
    for (uint64_t i = 0; i < answer->dimensions; i++) {
        /* Eighths are exact in binary and short in decimal, so both encodings say the same. */
        float value = (float)((int)(prng_u64(&prng) % 17) - 8) / 8.0f;
        if (answer->base64)
            put(&vector, span_of(&value, sizeof(value)));
        else
            fake_must(buf_printf(&vector, "%s%g", i ? "," : "", (double)value));
    }
    fake_must(buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%llu,\"embedding\":", input ? "," : "",
                         (unsigned long long)input));
    put(out, answer->base64 ? SPAN("\"") : SPAN("["));
    if (answer->base64)
        fake_base64(buf_span(&vector), out);
    else
        put(out, buf_span(&vector));
    put(out, answer->base64 ? SPAN("\"}") : SPAN("]}"));
    buf_release(&vector);
}

static void put_embeddings(const struct fake_answer *answer, struct buf *out)
{
    put(out, SPAN("{\"object\":\"list\",\"data\":["));
    for (uint64_t i = 0; i < answer->inputs; i++)
        put_embedding(answer, i, out);
    put(out, SPAN("],\"model\":"));
    put(out, buf_span(&answer->model));
    if (answer->shape.fault.kind != FAKE_FAULT_NOUSAGE)
        fake_must(buf_printf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}",
                             (unsigned long long)answer->prompt_tokens, (unsigned long long)answer->prompt_tokens));
    put(out, SPAN("}"));
}

void fake_answer_whole(const struct fake_answer *answer, const struct fake_text *text, struct buf *body)
{
    if (answer->kind == FAKE_EMBEDDING) {
        put_embeddings(answer, body);
        return;
    }
    put(body, buf_span(&answer->prefix));
    put(body, SPAN("\"choices\":[{\"index\":0,"));
    if (answer->kind == FAKE_CHAT) {
        put_message(answer, text, body);
    } else {
        put(body, SPAN("\"text\":\""));
        put_content(answer, text, body);
        put(body, SPAN("\""));
    }
    put(body, SPAN(",\"logprobs\":null,\"finish_reason\":\""));
    put(body, finish_reason(answer));
    put(body, SPAN("\"}]"));
    if (answer->shape.fault.kind != FAKE_FAULT_NOUSAGE) {
        put(body, SPAN(","));
        put_usage(answer, body);
    }
    put(body, SPAN("}"));
}

/* ---- streams ---- */

void fake_answer_open(struct fake_answer *answer, const char *name)
{
    static const char *const objects[2][2] = { { "chat.completion", "chat.completion.chunk" },
                                               { "text_completion", "text_completion" } };
    buf_clear(&answer->prefix);
    fake_must(buf_printf(&answer->prefix, "%s{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":",
                         answer->stream ? "data: " : "", answer->kind == FAKE_CHAT ? "chatcmpl" : "cmpl", answer->id,
                         objects[answer->kind == FAKE_COMPLETION][answer->stream], (long long)answer->created));
    put(&answer->prefix, buf_span(&answer->model));
    fake_must(buf_printf(&answer->prefix, ",\"system_fingerprint\":\"fp_%s\",", name));
}

static void put_parts(const struct span *parts, size_t count, bool chunked, struct buf *out)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += parts[i].len;
    if (chunked)
        fake_must(buf_printf(out, "%zx\r\n", total));
    for (size_t i = 0; i < count; i++)
        put(out, parts[i]);
    if (chunked)
        put(out, SPAN("\r\n"));
}

void fake_event_data(struct span data, bool chunked, struct buf *out)
{
    const struct span parts[] = { SPAN("data: "), data, SPAN("\n\n") };
    put_parts(parts, ARRAY_LEN(parts), chunked, out);
}

/* before, text and after make the choice: its delta, or its text. */
static void put_choice(const struct fake_answer *answer, struct span before, struct span text, struct span after,
                       struct span reason, bool chunked, struct buf *out)
{
    const struct span parts[] = { buf_span(&answer->prefix),
                                  SPAN("\"choices\":[{\"index\":0,"),
                                  before,
                                  text,
                                  after,
                                  SPAN(",\"logprobs\":null,\"finish_reason\":"),
                                  reason,
                                  answer->include_usage ? SPAN("}],\"usage\":null}\n\n") : SPAN("}]}\n\n") };
    put_parts(parts, ARRAY_LEN(parts), chunked, out);
}

void fake_event_role(const struct fake_answer *answer, bool chunked, struct buf *out)
{
    if (answer->kind != FAKE_CHAT)
        return;
    struct span content = answer->form == FAKE_FORM_TOOL ? SPAN("null") : SPAN("\"\"");
    put_choice(answer, SPAN("\"delta\":{\"role\":\"assistant\",\"content\":"), content, SPAN(",\"refusal\":null}"),
               SPAN("null"), chunked, out);
}

static void put_tool_token(const struct fake_answer *answer, uint64_t token, bool chunked, struct buf *out)
{
    if (token > 0) {
        put_choice(answer, SPAN("\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\""),
                   tool_piece(token), SPAN("\"}}]}"), SPAN("null"), chunked, out);
        return;
    }
    struct buf call = BUF_INIT(1024);
    fake_must(buf_printf(&call, "\"call_%s\",\"type\":\"function\",\"function\":{\"name\":\"%s\",\"arguments\":\"\"}",
                         answer->id, answer->tool));
    put_choice(answer, SPAN("\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":"), buf_span(&call), SPAN("}]}"),
               SPAN("null"), chunked, out);
    buf_release(&call);
}

void fake_event_token(const struct fake_answer *answer, const struct fake_text *text, uint64_t step, bool chunked,
                      struct buf *out)
{
    if (step < answer->shape.think) {
        put_choice(answer, SPAN("\"delta\":{\"reasoning_content\":\""), text_token(text, step + 1), SPAN("\"}"),
                   SPAN("null"), chunked, out);
        return;
    }
    uint64_t token = step - answer->shape.think;
    if (answer->form == FAKE_FORM_TOOL) {
        put_tool_token(answer, token, chunked, out);
        return;
    }
    struct buf scratch = BUF_INIT(0);
    struct span piece =
        token == 0 && is_huge(answer) ? huge_token(answer, &scratch) : content_token(answer, text, token);
    if (answer->kind == FAKE_CHAT)
        put_choice(answer, SPAN("\"delta\":{\"content\":\""), piece, SPAN("\"}"), SPAN("null"), chunked, out);
    else
        put_choice(answer, SPAN("\"text\":\""), piece, SPAN("\""), SPAN("null"), chunked, out);
    buf_release(&scratch);
}

void fake_event_tail(const struct fake_answer *answer, bool chunked, struct buf *out)
{
    char reason[16];
    int n = snprintf(reason, sizeof(reason), "\"" SPAN_FMT "\"", SPAN_ARG(finish_reason(answer)));
    struct span choice = answer->kind == FAKE_CHAT ? SPAN("\"delta\":{}") : SPAN("\"text\":\"\"");
    put_choice(answer, choice, SPAN(""), SPAN(""), span_of(reason, (size_t)n), chunked, out);
    if (answer->include_usage && answer->shape.fault.kind != FAKE_FAULT_NOUSAGE) {
        struct buf usage = BUF_INIT(1024);
        put_usage(answer, &usage);
        const struct span parts[] = { buf_span(&answer->prefix), SPAN("\"choices\":[],"), buf_span(&usage),
                                      SPAN("}\n\n") };
        put_parts(parts, ARRAY_LEN(parts), chunked, out);
        buf_release(&usage);
    }
    fake_event_data(SPAN("[DONE]"), chunked, out);
}

/* ---- errors and models ---- */

void fake_error_object(unsigned status, struct span message, struct buf *body)
{
    static const struct {
        unsigned status;
        const char *type, *code;
    } rows[] = {
        { 400, "invalid_request_error", "invalid_value" },
        { 401, "invalid_request_error", "invalid_api_key" },
        { 403, "invalid_request_error", "unsupported_region" },
        { 404, "invalid_request_error", "model_not_found" },
        { 429, "requests", "rate_limit_exceeded" },
        { 503, "server_error", "service_unavailable" },
        { 529, "overloaded_error", "overloaded" },
    };
    const char *type = status < 500 ? "invalid_request_error" : "server_error";
    const char *code = NULL;
    struct json_writer w;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].status == status) {
            type = rows[i].type;
            code = rows[i].code;
        }
    }
    json_writer_init(&w, body);
    json_object_open(&w);
    json_key(&w, SPAN("error"));
    json_object_open(&w);
    json_member_string(&w, "message", message);
    json_member_cstr(&w, "type", type);
    json_member_cstr(&w, "param", NULL);
    json_member_cstr(&w, "code", code);
    json_object_close(&w);
    json_object_close(&w);
    fake_must(json_writer_end(&w));
}

static void put_model(struct json_writer *w, struct span model)
{
    json_object_open(w);
    json_member_string(w, "id", model);
    json_member_cstr(w, "object", "model");
    json_member_u64(w, "created", 1700000000);
    json_member_cstr(w, "owned_by", "fakellm");
    json_object_close(w);
}

void fake_model_object(struct span model, struct buf *body)
{
    struct json_writer w;
    json_writer_init(&w, body);
    put_model(&w, model);
    fake_must(json_writer_end(&w));
}

void fake_models_list(struct span models, struct buf *body)
{
    struct json_writer w;
    struct span model;
    json_writer_init(&w, body);
    json_object_open(&w);
    json_member_cstr(&w, "object", "list");
    json_key(&w, SPAN("data"));
    json_array_open(&w);
    while (span_split(&models, ',', &model))
        put_model(&w, span_trim(model));
    json_array_close(&w);
    json_object_close(&w);
    fake_must(json_writer_end(&w));
}

void fake_base64(struct span bytes, struct buf *out)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *in = (const uint8_t *)bytes.ptr;
    char *at;
    fake_must(buf_reserve(out, (bytes.len + 2) / 3 * 4, &at));
    for (size_t i = 0; i < bytes.len; i += 3) {
        size_t n = size_min(bytes.len - i, 3);
        uint32_t group = (uint32_t)in[i] << 16 | (n > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (n > 2 ? in[i + 2] : 0);
        const char four[4] = { letters[group >> 18], letters[group >> 12 & 63], n > 1 ? letters[group >> 6 & 63] : '=',
                               n > 2 ? letters[group & 63] : '=' };
        memcpy(at, four, sizeof(four));
        at += sizeof(four);
    }
    buf_commit(out, (bytes.len + 2) / 3 * 4);
}
