/* JSON: what the index found, written again token by token, is the same text without its white space and indexes the
 * same; every reader can be called on every token; a decoded string, written again, decodes to the same. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"
#include "tests/fuzz/fuzz.h"

static const struct json_limits limits = { .bytes_max = 1u << 20, .depth_max = 100, .tokens_max = 1u << 18 };

static struct span container_mark(enum json_kind kind, bool open)
{
    if (kind == JSON_ARRAY)
        return open ? SPAN("[") : SPAN("]");
    return open ? SPAN("{") : SPAN("}");
}

/* Walks the tree by json_first and json_next alone. */
static void emit(const struct json_index *ix, struct buf *out)
{
    uint32_t open[100], depth = 0, token = 0;
    bool value_of_key = false;
    for (;;) {
        enum json_kind kind = json_kind(ix, token);
        bool container = kind == JSON_ARRAY || kind == JSON_OBJECT;
        bool is_key = depth > 0 && json_kind(ix, open[depth - 1]) == JSON_OBJECT && !value_of_key;
        MUST(buf_append(out, container ? container_mark(kind, true) : json_raw(ix, token)) == OK);
        value_of_key = is_key;
        if (is_key)
            MUST(buf_append(out, SPAN(":")) == OK);
        uint32_t next = json_first(ix, token);
        if (container && next != JSON_NONE) {
            open[depth++] = token;
            token = next;
            continue;
        }
        if (container)
            MUST(buf_append(out, container_mark(kind, false)) == OK);
        while (depth > 0 && (next = json_next(ix, open[depth - 1], token)) == JSON_NONE) {
            token = open[--depth];
            MUST(buf_append(out, container_mark(json_kind(ix, token), false)) == OK);
            value_of_key = false;
        }
        if (depth == 0)
            return;
        if (!is_key)
            MUST(buf_append(out, SPAN(",")) == OK);
        token = next;
    }
}

static void check_string(struct arena *arena, const struct json_index *ix, uint32_t token)
{
    struct span text, again;
    if (json_string(arena, ix, token, &text) != OK)
        return;
    MUST(json_string_eq(ix, token, text));
    struct buf written = BUF_INIT(8u << 20);
    struct json_writer w;
    struct json_index other;
    json_writer_init(&w, &written);
    json_put_string(&w, text);
    MUST(json_writer_end(&w) == OK);
    MUST(json_index(arena, buf_span(&written), &json_limits_default, &other, NULL) == OK);
    MUST(json_string(arena, &other, 0, &again) == OK);
    MUST(span_eq(text, again));
    buf_release(&written);
}

static void check_tokens(struct arena *arena, const struct json_index *ix)
{
    for (uint32_t token = 0; token < ix->count; token++) {
        int64_t i = 0;
        uint64_t u = 0;
        double d = 0;
        bool b = false, whole = json_i64(ix, token, &i) == OK;
        MUST(ix->tokens[token].end > ix->tokens[token].start && ix->tokens[token].end <= ix->text.len);
        MUST(ix->tokens[token].next > token && ix->tokens[token].next <= ix->count);
        if (json_u64(ix, token, &u) == OK && whole)
            MUST(i >= 0 && (uint64_t)i == u);
        MUST((json_bool(ix, token, &b) == OK) ==
             (json_kind(ix, token) == JSON_TRUE || json_kind(ix, token) == JSON_FALSE));
        (void)(json_double(ix, token, &d) == OK);
        (void)(json_decimal(ix, token, 15, &i) == OK);
        if (json_kind(ix, token) == JSON_STRING && token < 256)
            check_string(arena, ix, token);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct json_index ix, again;
    struct json_error error = { 0 };
    arena_init(&arena, 512u << 20);
    enum err err = json_index(&arena, span_of(data, size), &limits, &ix, &error);
    if (err) {
        MUST(error.message && error.line > 0 && error.column > 0 && (error.offset <= size));
    } else {
        struct buf first = BUF_INIT(4u << 20), second = BUF_INIT(4u << 20);
        check_tokens(&arena, &ix);
        emit(&ix, &first);
        MUST(first.len <= size);
        MUST(json_index(&arena, buf_span(&first), &limits, &again, NULL) == OK);
        MUST(again.count == ix.count);
        for (uint32_t i = 0; i < ix.count; i++) {
            MUST(json_kind(&ix, i) == json_kind(&again, i));
            MUST(ix.tokens[i].next == again.tokens[i].next && ix.tokens[i].count == again.tokens[i].count);
        }
        emit(&again, &second);
        MUST(span_eq(buf_span(&first), buf_span(&second)));
        buf_release(&first);
        buf_release(&second);
    }
    arena_release(&arena);
    return 0;
}
