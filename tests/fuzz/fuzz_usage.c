/* What a provider says, read as an event of a stream or as a whole body: counts that can be charged whatever they were,
 * and errors that can be handed on. The first byte chooses which. */
#include "dataplane/account/cost.h"
#include "dataplane/account/usage.h"
#include "dataplane/dialect/openai_chat.h"
#include "tests/fuzz/fuzz.h"

static void check_usage(const struct usage *u)
{
    MUST(u->input <= USAGE_TOKENS_MAX && u->output <= USAGE_TOKENS_MAX);
    MUST(u->cached <= u->input && u->cache_write <= u->input - u->cached);
    MUST(u->reasoning <= u->output);
}

static void check_account(const struct event_facts *facts)
{
    static const struct price dear = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_REQUEST,
                                       .input = INT64_MAX,
                                       .output = INT64_MAX,
                                       .request = INT64_MAX };
    static const struct price usual = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ,
                                        .input = 2500000000,
                                        .output = 10000000000,
                                        .cache_read = 1250000000 };
    struct usage merged = { .known = true, .input = 7, .output = 5, .cached = 3 };
    if (facts->usage.known)
        check_usage(&facts->usage);
    usage_merge(&merged, &facts->usage);
    check_usage(&merged);
    MUST(merged.input >= 7 && merged.output >= 5);
    struct usage settled = usage_settle(&facts->usage, 100, facts->content_bytes);
    check_usage(&settled);
    struct cost list = cost_of(&usual, 0, &settled), less = cost_of(&usual, 120000, &settled);
    MUST(list.list_nano >= 0 && list.charged_nano == list.list_nano);
    MUST(less.list_nano == list.list_nano && less.charged_nano <= list.list_nano);
    MUST(cost_of(&dear, 0, &settled).list_nano == INT64_MAX);
}

/* The error as we would hand it on: one line, and JSON. */
static void check_error(struct arena *arena, const struct event_facts *facts)
{
    struct buf out = BUF_INIT(16u << 20);
    struct json_index ix;
    const struct openai_chat_error error = { .type = "server_error", .message = facts->error_message };
    MUST(!span_empty(facts->error_type));
    MUST(openai_chat_write_error_event(&out, &error) == OK);
    struct span text = buf_span(&out);
    MUST(span_starts(text, SPAN("data: ")) && span_ends(text, SPAN("\n\n")));
    text = span_head(span_skip(text, 6), text.len - 8);
    MUST(span_find_byte(text, '\n') == SIZE_MAX && span_find_byte(text, '\r') == SIZE_MAX);
    MUST(json_index(arena, text, &json_limits_default, &ix, NULL) == OK);
    buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum endpoint endpoints[] = { ENDPOINT_CHAT, ENDPOINT_COMPLETIONS, ENDPOINT_EMBEDDINGS,
                                               ENDPOINT_CHAT };
    if (size == 0 || size > 1u << 20)
        return 0;
    const enum endpoint endpoint = endpoints[data[0] & 3];
    struct span bytes = span_of(data + 1, size - 1);
    struct arena arena;
    struct event_facts facts;
    arena_init(&arena, 256u << 20);
    if (data[0] & 4) {
        MUST(openai_chat_answer(&arena, endpoint, bytes, &facts) == OK);
        MUST(facts.class == EVENT_CONTENT || facts.class == EVENT_ERROR || facts.class == EVENT_GARBAGE);
    } else {
        const struct sse_event event = {
            .type = data[0] & 8 ? SPAN("error") : SPAN(""), .data = bytes, .raw = bytes, .has_data = true
        };
        MUST(openai_chat_event(&arena, endpoint, &event, &facts) == OK);
        MUST(facts.class != EVENT_DONE || span_eq(span_trim(bytes), SPAN("[DONE]")));
    }
    MUST(facts.content_bytes <= size);
    check_account(&facts);
    if (facts.class == EVENT_ERROR)
        check_error(&arena, &facts);
    arena_release(&arena);
    return 0;
}
