/* bundle.c - a policy with its includes as one JSON text. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"
#include "controlplane/policy/tree.h"

struct bundle_file {
    struct span name, text;
};
struct bundle {
    struct policy_bundle public;
    struct bundle_file *files;
    uint32_t count;
};

static enum err bundle_read(void *user, struct span path, struct buf *text)
{
    const struct bundle *bundle = user;
    for (uint32_t i = 0; i < bundle->count; i++) {
        if (span_eq(bundle->files[i].name, path))
            return buf_append(text, bundle->files[i].text);
    }
    return ERR_NOT_FOUND;
}

/* As glob(3) does: '*' and '?' stay within a folder, and match no leading dot. */
static bool path_matches(struct span pattern, struct span path)
{
    struct span pattern_part, path_part;
    for (;;) {
        bool more_pattern = span_split(&pattern, '/', &pattern_part);
        bool more_path = span_split(&path, '/', &path_part);
        if (!more_pattern || !more_path)
            return more_pattern == more_path;
        bool hidden = span_starts(path_part, SPAN(".")) && !span_starts(pattern_part, SPAN("."));
        if (hidden || !span_glob(pattern_part, path_part))
            return false;
    }
}

static int by_bytes(const void *a, const void *b)
{
    return span_cmp(*(const struct span *)a, *(const struct span *)b);
}

static enum err bundle_glob(void *user, struct span pattern, struct arena *arena, struct span_list *ret_paths)
{
    const struct bundle *bundle = user;
    struct span *paths = ARENA_ARRAY(arena, bundle->count + 1, struct span);
    if (!paths)
        return ERR_NOMEM;
    uint32_t count = 0;
    for (uint32_t i = 0; i < bundle->count; i++) {
        if (path_matches(pattern, bundle->files[i].name))
            paths[count++] = bundle->files[i].name;
    }
    qsort(paths, count, sizeof *paths, by_bytes);
    *ret_paths = (struct span_list){ .items = paths, .count = count };
    return OK;
}

/* ---- open ---- */

static enum err open_file(struct arena *arena, const struct json_index *ix, uint32_t token, struct bundle *bundle)
{
    struct bundle_file *file = &bundle->files[bundle->count];
    uint32_t name, text;
    enum err err = json_get_once(ix, token, SPAN("name"), &name);
    if (!err)
        err = json_get_once(ix, token, SPAN("text"), &text);
    if (err == ERR_NOMEM)
        return err;
    if (err || name == JSON_NONE || text == JSON_NONE)
        return ERR_INVALID;
    err = json_string(arena, ix, name, &file->name);
    if (!err)
        err = json_string(arena, ix, text, &file->text);
    if (err)
        return err;
    file->name = arena_dup(arena, file->name);
    file->text = arena_dup(arena, file->text);
    if (!file->name.ptr || !file->text.ptr)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < bundle->count; i++) {
        if (span_eq(bundle->files[i].name, file->name))
            return ERR_INVALID;
    }
    bundle->count++;
    return path_is_inner(file->name) ? OK : ERR_INVALID;
}

enum err policy_bundle_open(struct arena *arena, struct span json, struct policy_bundle **ret_bundle)
{
    struct json_limits limits = json_limits_default;
    struct json_index ix;
    limits.bytes_max = 2 * PUSH_BYTES_MAX; /* escapes: a text of newlines and quotes doubles */
    enum err err = json_index(arena, json, &limits, &ix, NULL);
    if (err)
        return err;
    uint32_t list = json_get(&ix, 0, SPAN("files"));
    if (list == JSON_NONE || json_kind(&ix, list) != JSON_ARRAY || ix.tokens[list].count == 0)
        return ERR_INVALID;
    if (ix.tokens[list].count > POLICY_FILES_MAX)
        return ERR_TOO_MANY;
    struct bundle *bundle = ARENA_NEW(arena, struct bundle);
    if (!bundle)
        return ERR_NOMEM;
    bundle->files = ARENA_ARRAY(arena, ix.tokens[list].count, struct bundle_file);
    if (!bundle->files)
        return ERR_NOMEM;
    for (uint32_t at = json_first(&ix, list); at != JSON_NONE; at = json_next(&ix, list, at)) {
        if (json_kind(&ix, at) != JSON_OBJECT)
            return ERR_INVALID;
        err = open_file(arena, &ix, at, bundle);
        if (err)
            return err;
    }
    bundle->public.root = bundle->files[0].name;
    bundle->public.source = (struct policy_source){ .user = bundle, .read = bundle_read, .glob = bundle_glob };
    *ret_bundle = &bundle->public;
    return OK;
}

/* ---- make ---- */

/* Stands between policy_load and the real source, and writes down what is read. */
struct recorder {
    const struct policy_source *inner;
    struct diags *diags;
    struct json_writer writer;
    size_t prefix; /* bytes of root's directory, cut from each name */
    enum err err;
};

static enum err record_read(void *user, struct span path, struct buf *text)
{
    struct recorder *r = user;
    size_t before = text->len;
    enum err err = r->inner->read(r->inner->user, path, text);
    if (err == ERR_NOMEM)
        r->err = err;
    if (err) {
        diag_unreadable(r->diags, path.ptr, err);
        return err;
    }
    if (!yaml_is_utf8(span_skip(buf_span(text), before))) { /* JSON could only carry something else in its place */
        diag_at(r->diags, DIAG_ERROR, path.ptr, 0, 0, "this file is not UTF-8");
        return ERR_INVALID;
    }
    json_object_open(&r->writer);
    json_member_string(&r->writer, "name", span_skip(path, r->prefix));
    json_member_string(&r->writer, "text", span_skip(buf_span(text), before));
    json_object_close(&r->writer);
    return OK;
}

static enum err record_glob(void *user, struct span pattern, struct arena *arena, struct span_list *ret_paths)
{
    struct recorder *r = user;
    return r->inner->glob(r->inner->user, pattern, arena, ret_paths);
}

enum err policy_bundle_make(struct arena *arena, const struct policy_source *source, struct span root,
                            struct diags *diags, struct buf *out)
{
    struct recorder r = { .inner = source, .diags = diags, .prefix = path_directory(root).len };
    struct policy_source recording = { .user = &r, .read = record_read, .glob = record_glob };
    struct diags *ignored = ARENA_NEW(arena, struct diags);
    const struct policy *policy;
    if (!ignored)
        return ERR_NOMEM;
    diags_init(ignored, arena);
    json_writer_init(&r.writer, out);
    json_object_open(&r.writer);
    json_key(&r.writer, SPAN("files"));
    json_array_open(&r.writer);
    /* What is wrong with the content is for whoever opens the bundle to say, with all other errors. */
    enum err err = policy_load(arena, &recording, root, ignored, &policy);
    json_array_close(&r.writer);
    json_object_close(&r.writer);
    if (err == ERR_NOMEM || r.err)
        return ERR_NOMEM;
    if (diags_bad(diags))
        return ERR_INVALID;
    return json_writer_end(&r.writer);
}
