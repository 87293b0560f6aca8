#include "common/yaml.h"
#include "common/arena.h"
#include "common/buf.h"
#include "common/strmap.h"
#include <libfyaml.h>

/* From this many keys on a map gets a hash map to find duplicates: small maps are cheaper to compare pairwise. */
#define PAIRWISE_KEYS_MAX 16u

/* An open map or list. */
struct frame {
    struct yaml_node *node;
    struct yaml_node *last;       /* child that was put last */
    const struct yaml_node *key;  /* map: waits for its value */
    const struct yaml_node *twin; /* map: the child that has this key already, so the value is to be dropped */
    struct strmap *keys;          /* map: of large ones */
};

struct builder {
    struct arena *arena;
    const char *file;
    yaml_report *report;
    void *user;
    struct frame frames[YAML_DEPTH_MAX];
    uint32_t depth;
    uint32_t nodes;
    uint32_t duplicates;
    uint32_t line, column; /* of the last event that had a place */
    struct yaml_node *first_document, *last_document;
    struct fy_token_iter *chunks; /* of the scalar at hand */
    struct buf text;              /* the scalar at hand */
};

static enum err fail(struct builder *b, enum err err, uint32_t line, uint32_t column, const char *message)
{
    if (b->report && err != ERR_NOMEM)
        b->report(b->user, line, column, message);
    return err;
}

static enum err fail_here(struct builder *b, enum err err, const char *message)
{
    return fail(b, err, b->line, b->column, message);
}

const struct yaml_node *yaml_get(const struct yaml_node *map, const char *name)
{
    if (!map || map->kind != YAML_MAP)
        return NULL;
    struct span wanted = span_cstr(name);
    for (const struct yaml_node *child = map->first; child; child = child->next) {
        if (span_eq(child->key->text, wanted))
            return child;
    }
    return NULL;
}

bool yaml_is_null(const struct yaml_node *node)
{
    if (!node || node->kind != YAML_SCALAR || node->quoted)
        return false;
    return node->text.len == 0 || span_eq(node->text, SPAN("~")) || span_eq(node->text, SPAN("null"));
}

/* ---- what the library must not see ---- */

/* Length of the well-formed UTF-8 sequence at p (RFC 3629), 0 when there is none. */
static size_t utf8_length(const unsigned char *p, size_t left)
{
    unsigned char least = 0x80,
                  most = 0xbf; /* of the second byte: no overlong forms, no surrogates, not above U+10FFFF */
    size_t length;
    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        length = 2;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        length = 3;
        least = p[0] == 0xe0 ? 0xa0 : 0x80;
        most = p[0] == 0xed ? 0x9f : 0xbf;
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        length = 4;
        least = p[0] == 0xf0 ? 0x90 : 0x80;
        most = p[0] == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    if (left < length || p[1] < least || p[1] > most)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if (p[i] < 0x80 || p[i] > 0xbf)
            return 0;
    }
    return length;
}

bool yaml_is_utf8(struct span text)
{
    for (size_t at = 0, length; at < text.len; at += length) {
        length = utf8_length((const unsigned char *)text.ptr + at, text.len - at);
        if (length == 0)
            return false;
    }
    return true;
}

/* YAML 1.2 section 5.1 asks for a printable subset of Unicode; checking it first keeps odd bytes out of the library. */
static enum err check_characters(struct builder *b, struct span text)
{
    uint32_t line = 1, column = 1;
    for (size_t at = 0; at < text.len;) {
        unsigned char c = (unsigned char)text.ptr[at];
        if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f)
            return fail(b, ERR_SYNTAX, line, column, "a control character may not stand here");
        size_t length = utf8_length((const unsigned char *)text.ptr + at, text.len - at);
        if (length == 0)
            return fail(b, ERR_SYNTAX, line, column, "this is not UTF-8");
        at += length;
        column++;
        if (c == '\n') {
            line++;
            column = 1;
        }
    }
    return OK;
}

/* ---- the tree ---- */

static enum err node_new(struct builder *b, enum yaml_kind kind, struct yaml_node **ret)
{
    if (b->nodes >= YAML_NODES_MAX)
        return fail_here(b, ERR_TOO_MANY, "too many values in one file");
    struct yaml_node *node = ARENA_NEW(b->arena, struct yaml_node);
    if (!node)
        return ERR_NOMEM;
    b->nodes++;
    *node = (struct yaml_node){ .kind = kind, .line = b->line, .column = b->column, .file = b->file, .text = SPAN("") };
    *ret = node;
    return OK;
}

/* The child of the frame's map that has this key; NULL: none, and the key is remembered. */
static enum err find_twin(struct builder *b, struct frame *frame, struct yaml_node *key, const struct yaml_node **ret)
{
    *ret = NULL;
    if (!frame->keys && frame->node->count < PAIRWISE_KEYS_MAX) {
        for (const struct yaml_node *child = frame->node->first; child; child = child->next) {
            if (span_eq(child->key->text, key->text))
                *ret = child->key;
        }
        return OK;
    }
    if (!frame->keys) {
        frame->keys = ARENA_NEW(b->arena, struct strmap);
        if (!frame->keys)
            return ERR_NOMEM;
        strmap_init(frame->keys, b->arena);
        for (const struct yaml_node *child = frame->node->first; child; child = child->next) {
            enum err err = strmap_put(frame->keys, child->key->text, (void *)child->key);
            if (err && err != ERR_EXISTS)
                return err;
        }
    }
    enum err err = strmap_put(frame->keys, key->text, key);
    if (err == ERR_EXISTS) {
        *ret = strmap_get(frame->keys, key->text);
        err = OK;
    }
    return err;
}

static enum err take_key(struct builder *b, struct frame *frame, struct yaml_node *key)
{
    if (key->kind != YAML_SCALAR)
        return fail(b, ERR_UNSUPPORTED, key->line, key->column, "a key must be plain text");
    enum err err = find_twin(b, frame, key, &frame->twin);
    if (err)
        return err;
    frame->key = key;
    if (frame->twin && b->duplicates++ < YAML_DUPLICATES_REPORTED) {
        char message[256];
        snprintf(message, sizeof message, "'%.*s' stands twice in this map; first at line %u",
                 (int)size_min(key->text.len, 100), key->text.ptr, (unsigned)frame->twin->line);
        fail(b, ERR_DUPLICATE, key->line, key->column, message);
    }
    return OK;
}

/* Puts a node where the text has it: as key, value, element or document. */
static enum err place(struct builder *b, struct yaml_node *node)
{
    if (b->depth == 0) {
        if (yaml_is_null(node))
            return OK;
        if (b->last_document)
            b->last_document->next = node;
        else
            b->first_document = node;
        b->last_document = node;
        return OK;
    }
    struct frame *frame = &b->frames[b->depth - 1];
    if (frame->node->kind == YAML_MAP) {
        if (!frame->key)
            return take_key(b, frame, node);
        node->key = frame->key;
        frame->key = NULL;
        if (frame->twin)
            return OK;
    }
    if (frame->last)
        frame->last->next = node;
    else
        frame->node->first = node;
    frame->last = node;
    frame->node->count++;
    return OK;
}

static enum err open_node(struct builder *b, enum yaml_kind kind)
{
    struct yaml_node *node;
    if (b->depth == YAML_DEPTH_MAX)
        return fail_here(b, ERR_TOO_DEEP, "nested too deeply");
    enum err err = node_new(b, kind, &node);
    if (!err)
        err = place(b, node);
    if (!err)
        b->frames[b->depth++] = (struct frame){ .node = node };
    return err;
}

/* Chunk by chunk: fy_token_get_text of libfyaml 0.7.12 leaks when a scalar has many chunks (escapes, line ends). */
static enum err gather_text(struct builder *b, struct fy_token *token)
{
    const struct fy_iter_chunk *chunk = NULL;
    enum err err = OK;
    int failed = 0;
    buf_clear(&b->text);
    if (!token)
        return OK;
    fy_token_iter_start(token, b->chunks);
    while (!err && (chunk = fy_token_iter_chunk_next(b->chunks, chunk, &failed)))
        err = buf_append(&b->text, span_of(chunk->str, chunk->len));
    fy_token_iter_finish(b->chunks);
    return failed ? ERR_NOMEM : err == ERR_FULL ? ERR_TOO_LARGE : err;
}

static enum err take_scalar(struct builder *b, struct fy_event *event)
{
    struct fy_token *token = event->scalar.value;
    enum fy_scalar_style style = token ? fy_token_scalar_style(token) : FYSS_PLAIN;
    if (b->column > 1 && (style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED))
        b->column--; /* the library counts from behind the quote */
    struct yaml_node *node;
    enum err err = node_new(b, YAML_SCALAR, &node);
    if (err)
        return err;
    err = gather_text(b, token);
    if (err)
        return err;
    node->text = arena_dup(b->arena, buf_span(&b->text));
    if (!node->text.ptr)
        return ERR_NOMEM;
    node->quoted = style != FYSS_PLAIN && style != FYSS_ANY;
    /* An escape ("\0", "\x1b") can bring back what check_characters kept out; names are used as C strings. */
    for (size_t i = 0; i < node->text.len; i++) {
        unsigned char c = (unsigned char)node->text.ptr[i];
        if (c < 0x20 && c != '\t' && c != '\n' && c != '\r')
            return fail_here(b, ERR_SYNTAX, "a control character may not stand here");
    }
    return place(b, node);
}

static void note_place(struct builder *b, struct fy_event *event)
{
    struct fy_token *token = fy_event_get_token(event);
    const struct fy_mark *mark = token ? fy_token_start_mark(token) : NULL;
    if (!mark || mark->line < 0 || mark->column < 0)
        return;
    b->line = (uint32_t)mark->line + 1;
    b->column = (uint32_t)mark->column + 1;
}

static enum err take_event(struct builder *b, struct fy_event *event)
{
    static const char anchor[] = "anchors and aliases are not used here; write `like:` or the value itself";
    static const char tag[] = "tags (!...) are not used here";
    note_place(b, event);
    switch (event->type) {
    case FYET_SCALAR:
        if (event->scalar.anchor)
            return fail_here(b, ERR_UNSUPPORTED, anchor);
        return event->scalar.tag ? fail_here(b, ERR_UNSUPPORTED, tag) : take_scalar(b, event);
    case FYET_MAPPING_START:
        if (event->mapping_start.anchor)
            return fail_here(b, ERR_UNSUPPORTED, anchor);
        return event->mapping_start.tag ? fail_here(b, ERR_UNSUPPORTED, tag) : open_node(b, YAML_MAP);
    case FYET_SEQUENCE_START:
        if (event->sequence_start.anchor)
            return fail_here(b, ERR_UNSUPPORTED, anchor);
        return event->sequence_start.tag ? fail_here(b, ERR_UNSUPPORTED, tag) : open_node(b, YAML_LIST);
    case FYET_MAPPING_END:
    case FYET_SEQUENCE_END:
        if (b->depth == 0)
            return fail_here(b, ERR_SYNTAX, "this closes nothing");
        b->depth--;
        return OK;
    case FYET_ALIAS:
        return fail_here(b, ERR_UNSUPPORTED, anchor);
    case FYET_NONE:
    case FYET_STREAM_START:
    case FYET_STREAM_END:
    case FYET_DOCUMENT_START:
    case FYET_DOCUMENT_END:
        return OK;
    }
    return fail_here(b, ERR_SYNTAX, "this is no YAML");
}

/* ---- the library ---- */

static void discard(struct fy_diag *diag, void *user, const char *text, size_t length)
{
    (void)diag;
    (void)user;
    (void)text;
    (void)length;
}

static enum err report_library_error(struct builder *b, struct fy_diag *diag)
{
    void *at = NULL;
    const struct fy_diag_error *error = fy_diag_errors_iterate(diag, &at);
    if (!error || !error->msg)
        return fail_here(b, ERR_SYNTAX, "this is no YAML");
    uint32_t line = error->line > 0 ? (uint32_t)error->line : b->line;
    uint32_t column = error->column > 0 ? (uint32_t)error->column : b->column;
    return fail(b, ERR_SYNTAX, line, column, error->msg);
}

static enum err take_events(struct builder *b, struct fy_parser *parser, struct fy_diag *diag)
{
    for (;;) {
        struct fy_event *event = fy_parser_parse(parser);
        if (!event)
            break;
        enum err err = take_event(b, event);
        fy_parser_event_free(parser, event);
        if (err)
            return err;
    }
    if (fy_parser_get_stream_error(parser))
        return report_library_error(b, diag);
    return OK;
}

static enum err read_stream(struct builder *b, struct span text)
{
    struct fy_diag_cfg diag_config;
    fy_diag_cfg_default(&diag_config);
    diag_config.fp = NULL;
    diag_config.output_fn = discard;
    diag_config.colorize = false;
    struct fy_diag *diag = fy_diag_create(&diag_config);
    if (!diag)
        return ERR_NOMEM;
    fy_diag_set_collect_errors(diag, true);
    struct fy_parse_cfg config = {
        .flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_DEFAULT_VERSION_1_2 | FYPCF_JSON_NONE,
        .diag = diag,
    };
    struct fy_parser *parser = fy_parser_create(&config);
    enum err err = ERR_NOMEM;
    b->chunks = fy_token_iter_create(NULL);
    if (b->chunks && parser && fy_parser_set_string(parser, text.ptr, text.len) == 0)
        err = take_events(b, parser, diag);
    fy_token_iter_destroy(b->chunks);
    fy_parser_destroy(parser);
    fy_diag_destroy(diag);
    return err;
}

enum err yaml_parse(struct arena *arena, const char *file, struct span text, yaml_report *report, void *user,
                    const struct yaml_node **ret_first)
{
    struct builder b = { .arena = arena, .file = file, .report = report, .user = user, .line = 1, .column = 1 };
    buf_init(&b.text, YAML_BYTES_MAX);
    if (text.len > YAML_BYTES_MAX)
        return fail_here(&b, ERR_TOO_LARGE, "the file is too large");
    enum err err = check_characters(&b, text);
    if (!err && text.len > 0)
        err = read_stream(&b, text);
    buf_release(&b.text);
    if (err)
        return err;
    *ret_first = b.first_document;
    return b.duplicates > 0 ? ERR_DUPLICATE : OK;
}
