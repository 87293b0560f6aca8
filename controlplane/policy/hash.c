/* hash.c - the content hash of a policy: SHA-256 over a canonical encoding of its merged tree.
 *
 * Encoding: nothing "n", a scalar "s<bytes>:<text>", a list "l<count>:" and its elements, a map "m<count>:" and its
 * pairs in bytewise order of keys, each key as a scalar. The whole is the map of the sections. Comments, spacing,
 * quoting, key order and the split into files are not in the tree; `schema`, `kind` and `include` are left out. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/digest.h"
#include "controlplane/policy/tree.h"

#define ENCODING_BYTES_MAX ((size_t)1 << 30) /* some times the text; a policy's text is bounded before */

static int by_key(const void *a, const void *b)
{
    const struct yaml_node *const *x = a, *const *y = b;
    return span_cmp((*x)->key->text, (*y)->key->text);
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return span_cmp(x->name, y->name);
}

static enum err put_text(struct buf *out, struct span text)
{
    enum err err = buf_printf(out, "s%zu:", text.len);
    return err ? err : buf_append(out, text);
}

static enum err put_node(struct arena *arena, struct buf *out, const struct yaml_node *node);

static enum err put_map(struct arena *arena, struct buf *out, const struct yaml_node *map)
{
    const struct yaml_node **sorted = ARENA_ARRAY(arena, map->count + 1, const struct yaml_node *);
    if (!sorted)
        return ERR_NOMEM;
    uint32_t count = 0;
    for (const struct yaml_node *child = map->first; child; child = child->next)
        sorted[count++] = child;
    qsort(sorted, count, sizeof(const struct yaml_node *), by_key);
    enum err err = buf_printf(out, "m%u:", count);
    for (uint32_t i = 0; i < count && !err; i++) {
        err = put_text(out, sorted[i]->key->text);
        if (!err)
            err = put_node(arena, out, sorted[i]);
    }
    return err;
}

/* Recursion is bounded by YAML_DEPTH_MAX. */
static enum err put_node(struct arena *arena, struct buf *out, const struct yaml_node *node)
{
    if (!node || yaml_is_null(node))
        return buf_append_byte(out, 'n');
    if (node->kind == YAML_SCALAR)
        return put_text(out, node->text);
    if (node->kind == YAML_MAP)
        return put_map(arena, out, node);
    enum err err = buf_printf(out, "l%u:", node->count);
    for (const struct yaml_node *child = node->first; child && !err; child = child->next)
        err = put_node(arena, out, child);
    return err;
}

static enum err put_section(struct arena *arena, struct buf *out, const char *name, const struct section *section)
{
    struct entry *sorted = ARENA_ARRAY(arena, section->count + 1, struct entry);
    if (!sorted)
        return ERR_NOMEM;
    if (section->count > 0)
        memcpy(sorted, section->items, section->count * sizeof *sorted);
    qsort(sorted, section->count, sizeof *sorted, by_name);
    enum err err = put_text(out, span_cstr(name));
    if (!err)
        err = buf_printf(out, "m%u:", section->count);
    for (uint32_t i = 0; i < section->count && !err; i++) {
        err = put_text(out, sorted[i].name);
        if (!err)
            err = put_node(arena, out, sorted[i].node);
    }
    return err;
}

/* `records` came later: a policy without it keeps the hash that it had. */
static enum err put_policy(struct arena *arena, struct buf *out, const struct policy *p)
{
    enum err err = buf_append_cstr(out, p->records ? "m7:" : "m6:");
    if (!err)
        err = put_section(arena, out, "aliases", &p->aliases);
    if (!err)
        err = put_text(out, SPAN("defaults"));
    if (!err)
        err = put_node(arena, out, p->defaults);
    if (!err)
        err = put_section(arena, out, "models", &p->models);
    if (!err)
        err = put_section(arena, out, "providers", &p->providers);
    if (!err && p->records)
        err = put_text(out, SPAN("records"));
    if (!err && p->records)
        err = put_node(arena, out, p->records);
    if (!err)
        err = put_text(out, SPAN("rollout"));
    if (!err)
        err = put_node(arena, out, p->rollout);
    return err ? err : put_section(arena, out, "routes", &p->routes);
}

enum err tree_hash(struct arena *arena, const struct policy *policy, struct span *ret_hex)
{
    struct buf out;
    buf_init(&out, ENCODING_BYTES_MAX);
    char *hex = arena_alloc(arena, SHA256_HEX + 1);
    enum err err = hex ? put_policy(arena, &out, policy) : ERR_NOMEM;
    if (!err) {
        struct sha256 hash = sha256_of(buf_span(&out));
        *ret_hex = span_cstr(hex_encode(hash.bytes, sizeof hash.bytes, hex));
    }
    buf_release(&out);
    return err == ERR_FULL ? ERR_NOMEM : err;
}
