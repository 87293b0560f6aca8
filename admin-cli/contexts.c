#include "admin-cli/contexts.h"
#include "common/file.h"
#include "common/json.h"
#include "common/yaml.h"
#include <libgen.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MAX_BYTES 64u

char *contexts_path(void)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (config && config[0] == '/')
        return file_join(config, "fairlead/contexts.yaml");
    return home && *home ? file_join(home, ".config/fairlead/contexts.yaml") : NULL;
}

bool contexts_name_good(const char *name)
{
    size_t len = 0;
    for (; name[len]; len++) {
        const char c = name[len];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
              (c == '-' && len > 0)))
            return false;
    }
    return len > 0 && len <= NAME_MAX_BYTES;
}

struct context *contexts_find(struct contexts *contexts, const char *name)
{
    for (uint32_t i = 0; i < contexts->count; i++) {
        if (strcmp(contexts->items[i].name, name) == 0)
            return &contexts->items[i];
    }
    return NULL;
}

/* ---- reading ---- */

struct reading {
    struct arena *arena;
    const char *file, *why;
};

static void report(void *user, uint32_t line, uint32_t column, const char *message)
{
    struct reading *r = user;
    if (!r->why)
        r->why = arena_printf(r->arena, "%s:%u:%u: %s", r->file, line, column, message);
}

static enum err invalid(struct reading *r, const struct yaml_node *at, const char *what)
{
    report(r, at->line, at->column, what);
    return ERR_INVALID;
}

static enum err read_context(struct reading *r, const struct yaml_node *node, struct context *context)
{
    context->name = node->key->text.ptr;
    if (!contexts_name_good(context->name))
        return invalid(r, node->key, "a name has letters, digits, '.', '_' and '-', 64 at most");
    if (node->kind != YAML_MAP)
        return invalid(r, node, "a map was expected: {home: /var/lib/fairlead}");
    const struct {
        const char *name;
        const char **at;
    } fields[] = { { "home", &context->home },
                   { "address", &context->address },
                   { "team", &context->team },
                   { "key", &context->key } };
    for (const struct yaml_node *at = node->first; at; at = at->next) {
        bool known = false;
        if (at->kind != YAML_SCALAR || span_empty(at->text))
            return invalid(r, at, "text was expected");
        for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
            if (!span_eq(at->key->text, span_cstr(fields[i].name)))
                continue;
            *fields[i].at = at->text.ptr;
            known = true;
        }
        if (!known)
            return invalid(r, at->key, "not a field of a context; those are home, address, team, key");
        if (at->text.ptr == context->home && context->home[0] != '/')
            return invalid(r, at, "an absolute path was expected");
    }
    return OK;
}

static enum err read_tree(struct reading *r, const struct yaml_node *root, struct contexts *ret)
{
    const struct yaml_node *kind = yaml_get(root, "kind"), *current = yaml_get(root, "current");
    const struct yaml_node *list = yaml_get(root, "contexts"), *schema = yaml_get(root, "schema");
    enum err err = OK;
    if (!schema || !span_eq(schema->text, SPAN("fairlead/1")) || !kind || !span_eq(kind->text, SPAN("contexts")))
        return invalid(r, root, "'schema: fairlead/1' and 'kind: contexts' were expected");
    if (list && !yaml_is_null(list) && list->kind != YAML_MAP)
        return invalid(r, list, "a map of names was expected");
    for (const struct yaml_node *at = list ? list->first : NULL; !err && at; at = at->next) {
        if (ret->count == CONTEXTS_MAX)
            return invalid(r, at, "too many contexts");
        err = read_context(r, at, &ret->items[ret->count++]);
    }
    if (err || !current || yaml_is_null(current))
        return err;
    ret->current = current->text.ptr;
    return current->kind == YAML_SCALAR && contexts_find(ret, ret->current)
               ? OK
               : invalid(r, current, "the current one is not among the contexts");
}

enum err contexts_parse(struct arena *arena, const char *file, struct span text, struct contexts *ret,
                        const char **ret_why)
{
    struct reading r = { .arena = arena, .file = file };
    const struct yaml_node *root = NULL;
    *ret = (struct contexts){ 0 };
    enum err err = yaml_parse(arena, file, text, report, &r, &root);
    if (!err && root)
        err = read_tree(&r, root, ret);
    if (err)
        *ret_why = r.why ? r.why : err_name(err);
    return err;
}

/* ---- writing ---- */

/* A JSON string is a YAML string. */
static enum err put_field(struct buf *out, bool *first, const char *name, const char *value)
{
    struct json_writer w;
    if (!value)
        return OK;
    enum err err = buf_printf(out, "%s%s: ", *first ? "" : ", ", name);
    *first = false;
    if (err)
        return err;
    json_writer_init(&w, out);
    json_put_string(&w, span_cstr(value));
    return json_writer_end(&w);
}

enum err contexts_print(const struct contexts *contexts, struct buf *out)
{
    enum err err = buf_append_cstr(out, "# Where `fairlead` goes; `fairlead context` changes it.\n"
                                        "schema: fairlead/1\nkind: contexts\n");
    if (!err && contexts->current)
        err = buf_printf(out, "current: \"%s\"\n", contexts->current);
    if (!err)
        err = buf_append_cstr(out, "contexts:\n");
    for (uint32_t i = 0; !err && i < contexts->count; i++) {
        const struct context *c = &contexts->items[i];
        bool first = true;
        err = buf_printf(out, "  \"%s\": {", c->name);
        if (!err)
            err = put_field(out, &first, "home", c->home);
        if (!err)
            err = put_field(out, &first, "address", c->address);
        if (!err)
            err = put_field(out, &first, "team", c->team);
        if (!err)
            err = put_field(out, &first, "key", c->key);
        if (!err)
            err = buf_append_cstr(out, "}\n");
    }
    return err;
}

/* ---- the file ---- */

enum err contexts_load(struct arena *arena, const char *path, struct contexts *ret, const char **ret_why)
{
    struct buf text = BUF_INIT(CONTEXTS_BYTES_MAX);
    struct stat st;
    *ret = (struct contexts){ 0 };
    if (stat(path, &st) == 0 && ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)))) {
        *ret_why = arena_printf(arena,
                                "%s could have been written by somebody else: it says where commands go, so "
                                "only you may write it (chmod 600)",
                                path);
        return ERR_DENIED;
    }
    enum err err = file_read(path, CONTEXTS_BYTES_MAX, &text);
    if (err == ERR_NOT_FOUND)
        err = OK;
    else if (err)
        *ret_why = arena_printf(arena, "%s: %s", path, err_name(err));
    else
        err = contexts_parse(arena, path, buf_span(&text), ret, ret_why);
    buf_release(&text);
    return err;
}

/* What could not be read again (a control character in a path) must not lock its owner out. */
static enum err reads_back(const char *path, struct span text)
{
    struct arena arena;
    struct contexts again;
    const char *why;
    arena_init(&arena, 64u << 20);
    const enum err err = contexts_parse(&arena, path, text, &again, &why);
    arena_release(&arena);
    return err;
}

enum err contexts_store(const char *path, const struct contexts *contexts)
{
    struct buf text = BUF_INIT(CONTEXTS_BYTES_MAX);
    char *copy = strdup(path);
    enum err err = copy ? file_make_dirs(dirname(copy), 0700) : ERR_NOMEM;
    if (!err)
        err = contexts_print(contexts, &text);
    if (!err)
        err = reads_back(path, buf_span(&text));
    if (!err)
        err = file_write_atomic(path, buf_span(&text), 0600);
    buf_release(&text);
    free(copy);
    return err;
}
