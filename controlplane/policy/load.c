/* load.c - reads the root file and what it includes, and merges the sections of all documents. */
#include "common/arena.h"
#include "common/buf.h"
#include "controlplane/policy/fields.h"
#include "controlplane/policy/tree.h"

#define SCHEMA_NAME "fairlead/1"

struct loader {
    struct arena *arena;
    const struct policy_source *source;
    struct diags *diags;
    struct policy *policy;
    struct span root_directory;
    struct span paths[POLICY_FILES_MAX]; /* in the order in which they are read */
    uint32_t path_count;
    struct strmap seen;
    size_t bytes;     /* read so far */
    const char *file; /* being parsed, for report() */
};

struct span path_directory(struct span path)
{
    size_t length = path.len;
    while (length > 0 && path.ptr[length - 1] != '/')
        length--;
    return span_head(path, length);
}

bool path_is_inner(struct span path)
{
    struct span part, rest = path;
    if (path.len == 0)
        return false;
    while (span_split(&rest, '/', &part)) {
        if (part.len == 0 || span_eq(part, SPAN(".")) || span_eq(part, SPAN("..")))
            return false;
    }
    return memchr(path.ptr, '\0', path.len) == NULL;
}

bool policy_has_policy(const struct policy *policy)
{
    return policy->has_policy;
}

bool policy_has_directory(const struct policy *policy)
{
    return policy->has_directory;
}

struct span policy_hash(const struct policy *policy)
{
    return policy->hash;
}

static enum err add_path(struct loader *l, struct span path, const struct yaml_node *from)
{
    if (strmap_has(&l->seen, path))
        return OK; /* included from two places, or by a glob that also matches the includer */
    if (l->path_count == POLICY_FILES_MAX) {
        diag_error(l->diags, from, "more than %u files", POLICY_FILES_MAX);
        return ERR_TOO_MANY;
    }
    path = arena_dup(l->arena, path);
    if (!path.ptr)
        return ERR_NOMEM;
    l->paths[l->path_count++] = path;
    return strmap_put(&l->seen, path, l);
}

/* ---- sections ---- */

static enum err section_add(struct loader *l, struct section *section, const struct yaml_node *node, const char *what)
{
    struct span name = node->key->text;
    const struct yaml_node *before = strmap_get(&section->by_name, name);
    if (before) {
        diag_error(l->diags, node->key, "%s '" SPAN_FMT "' is there already, at %s:%u", what, SPAN_ARG(name),
                   before->key->file, before->key->line);
        return OK;
    }
    if (section->count == section->capacity) {
        uint32_t capacity = section->capacity ? section->capacity * 2 : 64;
        struct entry *items = ARENA_ARRAY(l->arena, capacity, struct entry);
        if (!items)
            return ERR_NOMEM;
        if (section->count > 0)
            memcpy(items, section->items, section->count * sizeof *items);
        section->items = items;
        section->capacity = capacity;
    }
    section->items[section->count++] = (struct entry){ .name = name, .node = node };
    return strmap_put(&section->by_name, name, (void *)node);
}

static enum err section_merge(struct loader *l, struct section *section, const struct yaml_node *document,
                              const char *field, const char *what)
{
    const struct yaml_node *map = yaml_get(document, field);
    if (!map || yaml_is_null(map)) {
        if (map)
            diag_warning(l->diags, map, "'%s' is empty", field);
        return OK;
    }
    if (map->kind != YAML_MAP) {
        diag_error(l->diags, map, "'%s' must be a map from names to what they mean", field);
        return OK;
    }
    for (const struct yaml_node *child = map->first; child; child = child->next) {
        enum err err = section_add(l, section, child, what);
        if (err)
            return err;
    }
    return OK;
}

/* A part that may stand once in all files. */
static void take_once(struct loader *l, const struct yaml_node **slot, const struct yaml_node *node)
{
    if (!node)
        return;
    if (*slot)
        diag_error(l->diags, node->key, "'" SPAN_FMT "' is there already, at %s:%u", SPAN_ARG(node->key->text),
                   (*slot)->key->file, (*slot)->key->line);
    else
        *slot = node;
}

/* ---- documents ---- */

static enum err take_include(struct loader *l, const struct yaml_node *document, struct span path)
{
    struct span_list patterns = { 0 };
    const struct yaml_node *list = yaml_get(document, "include");
    if (!field_list(l->diags, l->arena, list, &patterns))
        return OK;
    if (patterns.count == 0)
        diag_warning(l->diags, list, "'include' is empty");
    const struct yaml_node *node = list->first;
    for (uint32_t i = 0; i < patterns.count; i++, node = node->next) {
        if (!path_is_inner(patterns.items[i])) {
            diag_error(l->diags, node,
                       "an include must stay below the folder of the file that includes; no '..', '.' or "
                       "leading '/'");
            continue;
        }
        struct span directory = path_directory(path);
        char *whole = arena_printf(l->arena, SPAN_FMT SPAN_FMT, SPAN_ARG(directory), SPAN_ARG(patterns.items[i]));
        struct span_list found = { 0 };
        if (!whole)
            return ERR_NOMEM;
        enum err err = l->source->glob(l->source->user, span_cstr(whole), l->arena, &found);
        if (err == ERR_NOMEM)
            return err;
        if (err)
            diag_error(l->diags, node, "cannot look for '%s': %s", whole, err_name(err));
        else if (found.count == 0)
            diag_error(l->diags, node, "'include' matches no file: %s", whole);
        for (uint32_t f = 0; f < found.count && !err; f++)
            err = add_path(l, found.items[f], node);
        if (err == ERR_NOMEM || err == ERR_TOO_MANY)
            return err;
    }
    return OK;
}

static enum err take_policy(struct loader *l, const struct yaml_node *document, struct span path)
{
    static const char *const known[] = { "schema",  "kind",   "include", "defaults", "providers", "models",
                                         "aliases", "routes", "rollout", "records",  NULL };
    struct policy *p = l->policy;
    fields_check(l->diags, document, "a policy", known);
    if (!p->has_policy)
        p->policy_document = document;
    p->has_policy = true;
    take_once(l, &p->defaults, yaml_get(document, "defaults"));
    take_once(l, &p->rollout, yaml_get(document, "rollout"));
    take_once(l, &p->records, yaml_get(document, "records"));
    enum err err = section_merge(l, &p->providers, document, "providers", "provider");
    if (!err)
        err = section_merge(l, &p->models, document, "models", "model");
    if (!err)
        err = section_merge(l, &p->aliases, document, "aliases", "alias");
    if (!err)
        err = section_merge(l, &p->routes, document, "routes", "route");
    return err ? err : take_include(l, document, path);
}

static enum err take_directory(struct loader *l, const struct yaml_node *document, struct span path)
{
    static const char *const known[] = { "schema", "kind", "include", "teams", NULL };
    struct policy *p = l->policy;
    fields_check(l->diags, document, "a directory", known);
    if (!p->has_directory)
        p->directory_document = document;
    p->has_directory = true;
    enum err err = section_merge(l, &p->teams, document, "teams", "team");
    return err ? err : take_include(l, document, path);
}

static enum err take_document(struct loader *l, const struct yaml_node *document, struct span path)
{
    static const char *const kinds[] = { "policy", "directory", NULL };
    if (document->kind != YAML_MAP) {
        diag_error(l->diags, document,
                   "a document must be a map that begins with 'schema: " SCHEMA_NAME "' and 'kind: policy'");
        return OK;
    }
    const struct yaml_node *schema = yaml_get(document, "schema");
    struct span text;
    if (!schema)
        diag_error(l->diags, document, "'schema: " SCHEMA_NAME "' is missing");
    else if (field_text(l->diags, schema, &text) && !span_eq(text, SPAN(SCHEMA_NAME)))
        diag_error(l->diags, schema, "schema '" SPAN_FMT "' is not known; this version reads " SCHEMA_NAME,
                   SPAN_ARG(text));
    const struct yaml_node *kind = yaml_get(document, "kind");
    size_t which;
    if (!kind)
        diag_error(l->diags, document, "'kind: policy' or 'kind: directory' is missing");
    const bool node = kind && span_eq(kind->text, SPAN("node")), prices = kind && span_eq(kind->text, SPAN("prices"));
    if (node || prices) { /* ours too, but of other programs */
        diag_error(l->diags, kind, "this is neither a policy nor a directory; `fairlead-%s FILE` checks it",
                   node ? "dataplane --check-config --config" : "pricefeed --check --file");
        return OK;
    }
    if (!field_word(l->diags, kind, kinds, &which))
        return OK;
    return which == 0 ? take_policy(l, document, path) : take_directory(l, document, path);
}

/* ---- files ---- */

static void report(void *user, uint32_t line, uint32_t column, const char *message)
{
    struct loader *l = user;
    diag_at(l->diags, DIAG_ERROR, l->file, line, column, "%s", message);
}

static enum err read_text(struct loader *l, struct span path, struct buf *text)
{
    enum err err = l->source->read(l->source->user, path, text);
    if (err == ERR_NOMEM)
        return err;
    if (err) {
        diag_unreadable(l->diags, l->file, err);
        return ERR_INVALID;
    }
    l->bytes += text->len;
    if (l->bytes > PUSH_BYTES_MAX) {
        diag_at(l->diags, DIAG_ERROR, l->file, 0, 0, "all files together are longer than %u MiB", PUSH_BYTES_MAX >> 20);
        return ERR_INVALID;
    }
    return OK;
}

/* ERR_INVALID: reported; other files may still be read. */
static enum err load_file(struct loader *l, struct span path)
{
    struct buf text;
    buf_init(&text, PUSH_BYTES_MAX);
    l->file = path.ptr;
    const struct yaml_node *document = NULL;
    enum err err = read_text(l, path, &text);
    if (!err)
        err = yaml_parse(l->arena, l->file, buf_span(&text), report, l, &document);
    buf_release(&text);
    if (err == ERR_DUPLICATE)
        err = OK; /* reported; the rest is worth checking */
    if (err)
        return err == ERR_NOMEM ? err : ERR_INVALID;
    if (!document)
        diag_at(l->diags, DIAG_ERROR, l->file, 0, 0, "this file has no document in it");
    for (; document; document = document->next) {
        err = take_document(l, document, path);
        if (err)
            return err;
    }
    return OK;
}

enum err policy_load(struct arena *arena, const struct policy_source *source, struct span root, struct diags *diags,
                     const struct policy **ret_policy)
{
    struct loader *l = ARENA_NEW(arena, struct loader);
    struct policy *p = ARENA_NEW(arena, struct policy);
    if (!l || !p)
        return ERR_NOMEM;
    *l = (struct loader){ .arena = arena, .source = source, .diags = diags, .policy = p };
    strmap_init(&l->seen, arena);
    struct section *sections[] = { &p->providers, &p->models, &p->aliases, &p->routes, &p->teams };
    for (size_t i = 0; i < ARRAY_LEN(sections); i++)
        strmap_init(&sections[i]->by_name, arena);
    enum err err = add_path(l, root, NULL);
    bool broken = false;
    for (uint32_t i = 0; i < l->path_count && !err; i++) {
        err = load_file(l, l->paths[i]);
        broken |= err == ERR_INVALID;
        if (err == ERR_INVALID)
            err = OK;
    }
    if (err)
        return err == ERR_TOO_MANY ? ERR_INVALID : err;
    /* With a file missing, everything that refers to it would be reported too: noise. */
    if (broken || (!p->has_policy && !p->has_directory))
        return ERR_INVALID;
    err = tree_hash(arena, p, &p->hash);
    if (err)
        return err;
    *ret_policy = p;
    return diags->failed ? ERR_NOMEM : OK;
}
