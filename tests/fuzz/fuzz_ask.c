/* A client's body, read and spliced for a provider: what goes up is JSON that means the same, and differs from what came
 * in the spliced places only. The first byte chooses endpoint and provider. */
#include "dataplane/dialect/openai_chat.h"
#include "dataplane/route/ask.h"
#include "tests/fuzz/fuzz.h"

#define SENDS "up \"stream\":\\ name"

static const struct json_limits limits = { .bytes_max = 1u << 20, .depth_max = 128, .tokens_max = 1u << 20 };
/* The splices may add a little. */
static const struct json_limits wider = { .bytes_max = 2u << 20, .depth_max = 128, .tokens_max = 2u << 20 };

/* The parts, end to end, against the splices applied by the book. */
static void join(const struct ask *ask, const struct openai_chat_body *b, struct buf *out)
{
    size_t at = 0, sent = 0;
    for (unsigned i = 0; i < b->part_count; i++)
        MUST(buf_append(out, b->parts[i]) == OK);
    struct span text = buf_span(out);
    MUST(text.len == b->bytes);
    for (unsigned i = 0; i < b->splice_count; i++) {
        const struct splice *s = &b->splices[i];
        MUST(s->start >= at && s->end >= s->start && s->end <= ask->body.len);
        struct span kept = span_head(span_skip(ask->body, at), s->start - at);
        MUST(span_eq(span_head(span_skip(text, sent), kept.len), kept));
        sent += kept.len;
        MUST(span_eq(span_head(span_skip(text, sent), s->with.len), s->with));
        sent += s->with.len;
        at = s->end;
    }
    MUST(span_eq(span_skip(text, sent), span_skip(ask->body, at)));
}

static void compare(const struct ask *came, const struct ask *goes, bool usage_added)
{
    MUST(span_eq(goes->model, SPAN(SENDS)));
    MUST(goes->stream == came->stream);
    MUST(goes->wants_usage == (came->wants_usage || usage_added));
    MUST(goes->has_tools == came->has_tools && goes->has_images == came->has_images);
    MUST(goes->has_audio == came->has_audio && goes->wants_json == came->wants_json);
    MUST(goes->max_output_tokens == came->max_output_tokens && goes->choices == came->choices);
    MUST(goes->input_bytes == came->input_bytes && span_eq(goes->user, came->user));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum endpoint endpoints[] = { ENDPOINT_CHAT, ENDPOINT_COMPLETIONS, ENDPOINT_EMBEDDINGS,
                                               ENDPOINT_CHAT };
    if (size == 0 || size > 1u << 20)
        return 0;
    const enum endpoint endpoint = endpoints[data[0] & 3];
    const struct provider provider = { .stream_usage = (data[0] & 4) != 0 };
    const struct model model = { .sends = SPAN(SENDS) };
    struct arena arena;
    struct ask came, goes;
    struct ask_error error = { .param = NULL };
    arena_init(&arena, 256u << 20);
    enum err err = ask_read(&arena, endpoint, span_of(data + 1, size - 1), &limits, &came, &error);
    MUST(err != ERR_NOMEM);
    if (err) {
        MUST(error.message[0] && memchr(error.message, '\0', sizeof(error.message)));
    } else {
        struct openai_chat_body body;
        struct buf sent = BUF_INIT(4u << 20);
        MUST(came.input_bytes <= size);
        MUST(openai_chat_body(&arena, &came, &provider, &model, &body) == OK);
        MUST(!body.usage_added || (came.stream && provider.stream_usage && !came.wants_usage));
        join(&came, &body, &sent);
        MUST(ask_read(&arena, endpoint, buf_span(&sent), &wider, &goes, &error) == OK);
        compare(&came, &goes, body.usage_added);
        buf_release(&sent);
    }
    arena_release(&arena);
    return 0;
}
