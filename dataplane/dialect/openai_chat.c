#include "dataplane/dialect/openai_chat.h"

/* ---- in: where ---- */

static const struct {
    const char *path;
    enum endpoint endpoint;
    const char *allowed;
} places[] = {
    { "/chat/completions", ENDPOINT_CHAT, "POST" }, { "/completions", ENDPOINT_COMPLETIONS, "POST" },
    { "/embeddings", ENDPOINT_EMBEDDINGS, "POST" }, { "/models", ENDPOINT_MODELS, "GET, HEAD" },
    { "/feedback", ENDPOINT_FEEDBACK, "POST" },
};

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* RFC 3986 section 2.1. ERR_INVALID: a malformed escape, or a NUL. */
static enum err percent_decode(struct arena *arena, struct span text, struct span *ret)
{
    char *out = arena_alloc(arena, text.len + 1);
    if (!out)
        return ERR_NOMEM;
    size_t len = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '%') {
            int high = i + 2 < text.len ? hex_digit(text.ptr[i + 1]) : -1;
            int low = i + 2 < text.len ? hex_digit(text.ptr[i + 2]) : -1;
            if (high < 0 || low < 0)
                return ERR_INVALID;
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0')
            return ERR_INVALID;
        out[len++] = c;
    }
    *ret = span_of(out, len);
    return OK;
}

static enum err check_method(struct span method, struct openai_chat_place *place)
{
    place->head = false;
    if (place->allowed[0] == 'P')
        return span_eq(method, SPAN("POST")) ? OK : ERR_UNSUPPORTED;
    place->head = span_eq(method, SPAN("HEAD"));
    return place->head || span_eq(method, SPAN("GET")) ? OK : ERR_UNSUPPORTED;
}

enum err openai_chat_place(struct arena *arena, struct span method, struct span target, struct openai_chat_place *ret)
{
    struct span path = span_head(target, span_find_byte(target, '?'));
    if (span_starts(path, SPAN("/v1/")))
        path = span_skip(path, 3);
    struct openai_chat_place place = { .endpoint = ENDPOINT_NONE };
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        if (span_eq(path, span_cstr(places[i].path)))
            place = (struct openai_chat_place){ .endpoint = places[i].endpoint, .allowed = places[i].allowed };
    /* The name may hold slashes ("provider/model"), escaped or not: everything after /models/ is the name. */
    if (span_starts(path, SPAN("/models/")) && path.len > 8) {
        place = (struct openai_chat_place){ .endpoint = ENDPOINT_MODEL, .allowed = "GET, HEAD" };
        enum err err = percent_decode(arena, span_skip(path, 8), &place.model);
        if (err)
            return err;
    }
    if (place.endpoint == ENDPOINT_NONE)
        return ERR_NOT_FOUND;
    enum err err = check_method(method, &place);
    *ret = place;
    return err;
}

/* ---- up: path ---- */

/* Everything but RFC 3986's unreserved characters is escaped. .ptr NULL when the arena is full. */
static struct span percent_encode(struct arena *arena, struct span text)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t room;
    if (!size_mul(text.len, 3, &room))
        return span_of(NULL, 0);
    char *out = arena_alloc(arena, room + 1);
    size_t len = 0;
    for (size_t i = 0; out && i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
            c == '_' || c == '~') {
            out[len++] = (char)c;
            continue;
        }
        out[len++] = '%';
        out[len++] = hex[c >> 4];
        out[len++] = hex[c & 15];
    }
    return span_of(out, len);
}

enum err openai_chat_path(struct arena *arena, const struct provider *provider, const struct model *model,
                          enum endpoint endpoint, struct span *ret)
{
    const char *operation = NULL;
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        if (places[i].endpoint == endpoint)
            operation = places[i].path;
    REQUIRE(operation);
    struct span before = SPAN(""), deployment = SPAN("");
    if (provider->path_style == PATH_STYLE_AZURE) {
        before = SPAN("/openai/deployments/");
        deployment = percent_encode(arena, model->sends);
        if (!deployment.ptr)
            return ERR_NOMEM;
    }
    const struct span parts[] = {
        provider->path, before, deployment, span_cstr(operation), span_empty(provider->query) ? SPAN("") : SPAN("?"),
        provider->query
    };
    const struct span path = arena_join(arena, parts, ARRAY_LEN(parts));
    if (!path.ptr)
        return ERR_NOMEM;
    *ret = path;
    return OK;
}

/* ---- up: body ---- */

/* The name as a JSON string, followed by `more`. */
static enum err quoted(struct arena *arena, struct span name, struct span more, struct span *ret)
{
    struct buf out = BUF_INIT(NAME_BYTES_MAX * 6 + 256);
    struct json_writer w;
    json_writer_init(&w, &out);
    json_put_string(&w, name);
    enum err err = json_writer_end(&w);
    if (!err)
        err = buf_append(&out, more);
    if (!err) {
        *ret = arena_dup(arena, buf_span(&out));
        err = ret->ptr ? OK : ERR_NOMEM;
    }
    buf_release(&out);
    return err;
}

/* Where include_usage must be said when stream_options is there already. */
static struct splice usage_splice(const struct ask *ask)
{
    const struct json_index *ix = &ask->index;
    const struct json_token *options = &ix->tokens[ask->stream_options_token];
    if (json_kind(ix, ask->stream_options_token) == JSON_NULL)
        return (struct splice){ options->start, options->end, SPAN("{\"include_usage\":true}") };
    if (ask->include_usage_token != JSON_NONE) {
        const struct json_token *flag = &ix->tokens[ask->include_usage_token];
        return (struct splice){ flag->start, flag->end, SPAN("true") };
    }
    return (struct splice){ options->start + 1, options->start + 1,
                            options->count > 0 ? SPAN("\"include_usage\":true,") : SPAN("\"include_usage\":true") };
}

/* Cuts the body at the splices. */
static void make_parts(struct span body, struct openai_chat_body *b)
{
    size_t at = 0;
    for (unsigned i = 0; i <= b->splice_count; i++) {
        size_t end = i < b->splice_count ? b->splices[i].start : body.len;
        if (end > at)
            b->parts[b->part_count++] = span_of(body.ptr + at, end - at);
        if (i < b->splice_count && !span_empty(b->splices[i].with))
            b->parts[b->part_count++] = b->splices[i].with;
        at = i < b->splice_count ? b->splices[i].end : at;
    }
    for (unsigned i = 0; i < b->part_count; i++)
        b->bytes += b->parts[i].len;
}

enum err openai_chat_body(struct arena *arena, const struct ask *ask, const struct provider *provider,
                          const struct model *model, struct openai_chat_body *ret)
{
    const struct json_token *name = &ask->index.tokens[ask->model_token];
    struct openai_chat_body b = { .usage_added = ask->stream && provider->stream_usage && !ask->wants_usage };
    bool whole_object = b.usage_added && ask->stream_options_token == JSON_NONE;
    struct splice *first = &b.splices[0], *second = &b.splices[1];
    *first = (struct splice){ .start = name->start, .end = name->end };
    enum err err = quoted(arena, model->sends,
                          whole_object ? SPAN(",\"stream_options\":{\"include_usage\":true}") : SPAN(""), &first->with);
    if (err)
        return err;
    b.splice_count = 1;
    if (b.usage_added && !whole_object) {
        *second = usage_splice(ask);
        b.splice_count = 2;
        if (second->start < first->start) {
            struct splice swapped = *first;
            *first = *second;
            *second = swapped;
        }
    }
    make_parts(ask->body, &b);
    *ret = b;
    return OK;
}
