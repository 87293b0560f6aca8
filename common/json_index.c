#include "common/json.h"
#include "common/arena.h"
#include "common/json_scan.h"

const struct json_limits json_limits_default = { .bytes_max = 32u << 20, .depth_max = 128, .tokens_max = 4u << 20 };

/* Tokens are gathered in chunks that double up to a limit and never move, so open containers can be pointed at; when
 * there was more than one chunk, one copy at the end makes them contiguous. The cost is twice the tokens plus one
 * chunk, whatever the text. */
#define CHUNK_TOKENS_MAX 65536u           /* 1 MiB: the most that a misjudged text can waste */
#define TOKENS_CEILING   ((1u << 28) - 1) /* what json_token.count can hold */

struct chunk {
    struct chunk *next;
    uint32_t count;
    uint32_t cap;
    struct json_token tokens[];
};

struct indexer {
    struct arena *arena;
    const struct json_limits *limits;
    const unsigned char *text;
    const unsigned char *at; /* on failure, the first byte that cannot stand there */
    const unsigned char *end;
    struct chunk *first;
    struct chunk *last;
    uint32_t count;             /* tokens in all chunks */
    struct json_token **open;   /* containers not closed yet, outermost first */
    struct json_token *passing; /* by depth: values that are checked but not kept */
    uint32_t depth, depth_kept;
    const char *message;
};

enum expect {
    EXPECT_VALUE,
    EXPECT_VALUE_OR_CLOSE, /* after [ */
    EXPECT_KEY,
    EXPECT_KEY_OR_CLOSE, /* after { */
    EXPECT_COLON,
    EXPECT_COMMA_OR_CLOSE,
    EXPECT_NOTHING, /* the root is complete */
};

static enum err fail(struct indexer *ix, enum err err, const unsigned char *at, const char *message)
{
    ix->at = at;
    ix->message = message;
    return err;
}

static struct chunk *chunk_new(struct arena *arena, uint32_t cap)
{
    struct chunk *chunk = arena_alloc_dirty(arena, sizeof(struct chunk) + cap * sizeof(struct json_token));
    if (chunk)
        *chunk = (struct chunk){ .cap = cap };
    return chunk;
}

static enum err chunk_add(struct indexer *ix, const unsigned char *start)
{
    struct chunk *chunk = chunk_new(ix->arena, ix->last->cap < CHUNK_TOKENS_MAX ? ix->last->cap * 2 : CHUNK_TOKENS_MAX);
    if (!chunk)
        return fail(ix, ERR_NOMEM, start, "out of memory");
    ix->last->next = chunk;
    ix->last = chunk;
    return OK;
}

static inline enum err token_add(struct indexer *ix, enum json_kind kind, const unsigned char *start,
                                 struct json_token **ret_token)
{
    if (ix->depth > ix->depth_kept) {
        ix->passing[ix->depth] = (struct json_token){ .kind = (unsigned)kind & 7u };
        *ret_token = &ix->passing[ix->depth];
        return OK;
    }
    if (ix->count >= ix->limits->tokens_max)
        return fail(ix, ERR_TOO_MANY, start, "too many values");
    if (ix->last->count == ix->last->cap) {
        const enum err err = chunk_add(ix, start);
        if (err)
            return err;
    }
    struct json_token *token = &ix->last->tokens[ix->last->count++];
    *token = (struct json_token){ .start = (uint32_t)(start - ix->text),
                                  .kind = (unsigned)kind & 7u,
                                  .next = ++ix->count /* a container's is written again when it closes */ };
    *ret_token = token;
    return OK;
}

static bool is_digit(unsigned char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_hex(unsigned char byte)
{
    return is_digit(byte) || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f');
}

/* ix->at is behind a backslash; moves behind the escape. */
static enum err read_escape(struct indexer *ix)
{
    if (ix->at == ix->end)
        return fail(ix, ERR_SYNTAX, ix->at, "the string does not end");
    unsigned char letter = *ix->at++;
    if (letter == 'u') {
        for (int i = 0; i < 4; i++, ix->at++)
            if (ix->at == ix->end || !is_hex(*ix->at))
                return fail(ix, ERR_SYNTAX, ix->at, "four hexadecimal digits must follow \\u");
        return OK;
    }
    if (letter == 0 || !memchr("\"\\/bfnrt", letter, 8))
        return fail(ix, ERR_SYNTAX, ix->at - 1, "no such escape");
    return OK;
}

/* ix->at is behind the opening quote; moves to the closing one. */
static enum err read_string_content(struct indexer *ix, bool *ret_escaped)
{
    for (;;) {
        ix->at = json_plain_run(ix->at, ix->end);
        if (ix->at == ix->end)
            return fail(ix, ERR_SYNTAX, ix->at, "the string does not end");
        if (*ix->at == '"')
            return OK;
        if (*ix->at == '\\') {
            *ret_escaped = true;
            ix->at++;
            enum err err = read_escape(ix);
            if (err)
                return err;
        } else if (*ix->at < 0x20) {
            return fail(ix, ERR_SYNTAX, ix->at, "a control character in a string must be escaped");
        } else {
            do { /* scripts other than Latin come in runs: no vector load for every character */
                size_t length = json_utf8_length(ix->at, ix->end);
                if (length == 0)
                    return fail(ix, ERR_SYNTAX, ix->at, "not UTF-8");
                ix->at += length;
            } while (ix->at < ix->end && *ix->at >= 0x80);
        }
    }
}

/* ix->at is the opening quote. */
static inline enum err read_string(struct indexer *ix)
{
    struct json_token *token;
    enum err err = token_add(ix, JSON_STRING, ix->at, &token);
    if (err)
        return err;
    const unsigned char *quote = json_short_end(ix->at + 1, ix->end);
    if (quote) { /* nearly all of them but texts: a third of what an index costs goes by this */
        ix->at = quote;
    } else {
        bool escaped = false;
        ix->at++;
        err = read_string_content(ix, &escaped);
        if (err)
            return err;
        token->escaped = escaped;
    }
    ix->at++;
    token->end = (uint32_t)(ix->at - ix->text);
    return OK;
}

size_t json_string_length(struct span content)
{
    struct indexer ix = { .text = (const unsigned char *)(content.ptr ? content.ptr : "") };
    bool escaped = false;
    ix.at = ix.text;
    ix.end = ix.text + content.len;
    return read_string_content(&ix, &escaped) == OK ? (size_t)(ix.at - ix.text) : SIZE_MAX;
}

static bool skip_digits(struct indexer *ix)
{
    const unsigned char *from = ix->at;
    while (ix->at < ix->end && is_digit(*ix->at))
        ix->at++;
    return ix->at > from;
}

/* RFC 8259 section 6. What follows the number is judged by the caller's next expectation, so "01" fails at the 1. */
static enum err read_number(struct indexer *ix)
{
    struct json_token *token;
    enum err err = token_add(ix, JSON_NUMBER, ix->at, &token);
    if (err)
        return err;
    if (*ix->at == '-')
        ix->at++;
    if (ix->at < ix->end && *ix->at == '0')
        ix->at++;
    else if (!skip_digits(ix))
        return fail(ix, ERR_SYNTAX, ix->at, "a digit must follow the sign");
    if (ix->at < ix->end && *ix->at == '.') {
        ix->at++;
        if (!skip_digits(ix))
            return fail(ix, ERR_SYNTAX, ix->at, "a digit must follow the point");
    }
    if (ix->at < ix->end && (*ix->at | 0x20) == 'e') {
        ix->at++;
        if (ix->at < ix->end && (*ix->at == '+' || *ix->at == '-'))
            ix->at++;
        if (!skip_digits(ix))
            return fail(ix, ERR_SYNTAX, ix->at, "a digit must follow the exponent's mark");
    }
    token->end = (uint32_t)(ix->at - ix->text);
    return OK;
}

static enum err read_literal(struct indexer *ix, enum json_kind kind, const char *name)
{
    struct json_token *token;
    enum err err = token_add(ix, kind, ix->at, &token);
    if (err)
        return err;
    for (; *name != '\0'; name++, ix->at++)
        if (ix->at == ix->end || *ix->at != (unsigned char)*name)
            return fail(ix, ERR_SYNTAX, ix->at, "only true, false and null are written without quotes");
    token->end = (uint32_t)(ix->at - ix->text);
    return OK;
}

static enum expect after_value(const struct indexer *ix)
{
    return ix->depth ? EXPECT_COMMA_OR_CLOSE : EXPECT_NOTHING;
}

static enum err open_container(struct indexer *ix, enum json_kind kind)
{
    struct json_token *token;
    if (ix->depth >= ix->limits->depth_max)
        return fail(ix, ERR_TOO_DEEP, ix->at, "nested too deep");
    enum err err = token_add(ix, kind, ix->at, &token);
    if (err)
        return err;
    ix->open[ix->depth++] = token;
    ix->at++;
    return OK;
}

static enum err close_container(struct indexer *ix, enum expect *expect)
{
    struct json_token *token = ix->open[--ix->depth];
    ix->at++;
    token->end = (uint32_t)(ix->at - ix->text);
    token->next = ix->count;
    *expect = after_value(ix);
    return OK;
}

static bool innermost_is(const struct indexer *ix, enum json_kind kind)
{
    return ix->depth > 0 && ix->open[ix->depth - 1]->kind == (unsigned)kind;
}

static enum err read_value(struct indexer *ix, enum expect *expect)
{
    if (innermost_is(ix, JSON_ARRAY))
        ix->open[ix->depth - 1]->count++;
    enum expect after = after_value(ix);
    enum err err;
    switch (*ix->at) {
    case '{':
        after = EXPECT_KEY_OR_CLOSE;
        err = open_container(ix, JSON_OBJECT);
        break;
    case '[':
        after = EXPECT_VALUE_OR_CLOSE;
        err = open_container(ix, JSON_ARRAY);
        break;
    case '"':
        err = read_string(ix);
        break;
    case 't':
        err = read_literal(ix, JSON_TRUE, "true");
        break;
    case 'f':
        err = read_literal(ix, JSON_FALSE, "false");
        break;
    case 'n':
        err = read_literal(ix, JSON_NULL, "null");
        break;
    default:
        err = *ix->at == '-' || is_digit(*ix->at) ? read_number(ix)
                                                  : fail(ix, ERR_SYNTAX, ix->at, "a value must stand here");
    }
    *expect = after;
    return err;
}

static enum err read_key(struct indexer *ix, enum expect *expect)
{
    if (*ix->at != '"')
        return fail(ix, ERR_SYNTAX, ix->at, "a name in quotes must stand here");
    ix->open[ix->depth - 1]->count++;
    *expect = EXPECT_COLON;
    const enum err err = read_string(ix);
    if (err == OK && ix->at < ix->end && *ix->at == ':') { /* white space before it is rare: a step less */
        ix->at++;
        *expect = EXPECT_VALUE;
    }
    return err;
}

static enum err read_comma_or_close(struct indexer *ix, enum expect *expect)
{
    bool object = innermost_is(ix, JSON_OBJECT);
    if (*ix->at == (object ? '}' : ']'))
        return close_container(ix, expect);
    if (*ix->at != ',')
        return fail(ix, ERR_SYNTAX, ix->at, object ? "a comma or } must follow" : "a comma or ] must follow");
    ix->at++;
    *expect = object ? EXPECT_KEY : EXPECT_VALUE;
    return OK;
}

/* One token or one mark; ix->at is at neither the end nor white space. */
static enum err read_step(struct indexer *ix, enum expect *expect)
{
    switch (*expect) {
    case EXPECT_VALUE_OR_CLOSE:
        if (*ix->at == ']')
            return close_container(ix, expect);
        return read_value(ix, expect);
    case EXPECT_VALUE:
        return read_value(ix, expect);
    case EXPECT_KEY_OR_CLOSE:
        if (*ix->at == '}')
            return close_container(ix, expect);
        return read_key(ix, expect);
    case EXPECT_KEY:
        return read_key(ix, expect);
    case EXPECT_COLON:
        if (*ix->at != ':')
            return fail(ix, ERR_SYNTAX, ix->at, "a colon must follow the name");
        ix->at++;
        *expect = EXPECT_VALUE;
        return OK;
    case EXPECT_COMMA_OR_CLOSE:
        return read_comma_or_close(ix, expect);
    case EXPECT_NOTHING:
        break;
    }
    return fail(ix, ERR_SYNTAX, ix->at, "nothing may follow the value");
}

static enum err read_text(struct indexer *ix)
{
    enum expect expect = EXPECT_VALUE;
    for (;;) {
        while (ix->at < ix->end && (*ix->at == ' ' || *ix->at == '\n' || *ix->at == '\r' || *ix->at == '\t'))
            ix->at++;
        if (ix->at == ix->end)
            return expect == EXPECT_NOTHING ? OK : fail(ix, ERR_SYNTAX, ix->at, "the text ends too early");
        enum err err = read_step(ix, &expect);
        if (err)
            return err;
    }
}

static const struct json_token *tokens_join(struct indexer *ix)
{
    if (ix->first == ix->last)
        return ix->first->tokens;
    struct json_token *all = ARENA_ARRAY(ix->arena, ix->count, struct json_token);
    size_t done = 0;
    for (const struct chunk *chunk = ix->first; all && chunk; chunk = chunk->next) {
        memcpy(all + done, chunk->tokens, chunk->count * sizeof(all[0]));
        done += chunk->count;
    }
    return all;
}

static void describe(const struct indexer *ix, struct json_error *ret_error)
{
    struct json_error error = { .offset = (uint32_t)(ix->at - ix->text), .line = 1, .message = ix->message };
    const unsigned char *line_start = ix->text;
    for (const unsigned char *at = ix->text; at < ix->at; at++) {
        if (*at == '\n') {
            error.line++;
            line_start = at + 1;
        }
    }
    error.column = (uint32_t)(ix->at - line_start) + 1;
    *ret_error = error;
}

enum err json_index(struct arena *arena, struct span text, const struct json_limits *limits,
                    struct json_index *ret_index, struct json_error *ret_error)
{
    REQUIRE(limits->bytes_max < UINT32_MAX && limits->tokens_max <= TOKENS_CEILING);
    const char *bytes = text.ptr ? text.ptr : "";
    struct indexer ix = { .arena = arena,
                          .limits = limits,
                          .text = (const unsigned char *)bytes,
                          .depth_kept = limits->depth_kept ? limits->depth_kept : UINT32_MAX };
    ix.at = ix.text;
    enum err err;
    if (text.len > limits->bytes_max) {
        err = fail(&ix, ERR_TOO_LARGE, ix.text, "the text is too large");
        goto out;
    }
    ix.end = ix.text + text.len;
    /* A token in eight bytes is what chat requests have; a small text should need one chunk, a large string should not
     * pay for it. */
    ix.first = ix.last = chunk_new(arena, (uint32_t)size_min(text.len / 8 + 4, 1024));
    /* Written before they are read, by depth: to zero them was a tenth of a small text's cost. */
    const size_t deepest = size_min(limits->depth_max, text.len) + 1;
    ix.open = arena_alloc_dirty(arena, deepest * sizeof(struct json_token *));
    if (limits->depth_kept)
        ix.passing = arena_alloc_dirty(arena, deepest * sizeof(struct json_token));
    if (!ix.first || !ix.open || (limits->depth_kept && !ix.passing))
        err = fail(&ix, ERR_NOMEM, ix.text, "out of memory");
    else
        err = read_text(&ix);
    const struct json_token *tokens = err ? NULL : tokens_join(&ix);
    if (!err && !tokens)
        err = fail(&ix, ERR_NOMEM, ix.text, "out of memory");
    if (!err)
        *ret_index = (struct json_index){ .text = span_of(bytes, text.len), .tokens = tokens, .count = ix.count };
out:
    if (err && ret_error)
        describe(&ix, ret_error);
    return err;
}
