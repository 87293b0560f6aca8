/* yaml.h - a YAML text as a plain immutable tree; the only includer of libfyaml.
 *
 * A subset that people can predict: maps with scalar keys, lists, scalars as text (nobody guesses types here). Anchors,
 * aliases and tags are refused, so a small text can never grow into a large tree. All nodes and spans live in the
 * caller's arena and borrow nothing from the text. Pure; recursion-free on our side, depth-bounded on the library's. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

struct arena;

#define YAML_BYTES_MAX           (32u << 20) /* one file: a push is no larger, and memory is a multiple of it */
#define YAML_DEPTH_MAX           32u         /* stops "[[[[..." from costing a stack in whoever walks the tree */
#define YAML_NODES_MAX           (8u << 20)  /* stops "[,,,,..." from costing 64 times its size */
#define YAML_DUPLICATES_REPORTED 50u         /* one text cannot fill the caller's diagnostics */

enum yaml_kind { YAML_SCALAR, YAML_MAP, YAML_LIST };

struct yaml_node {
    enum yaml_kind kind;
    bool quoted;                   /* a scalar that was written with quotes, or as a block: "null" and null differ */
    uint32_t line;                 /* from 1 */
    uint32_t column;               /* from 1, in characters */
    uint32_t count;                /* children (of a map: pairs) */
    const char *file;              /* the name given to yaml_parse */
    struct span text;              /* of a scalar, followed by a NUL; "" for nothing */
    const struct yaml_node *key;   /* of a map's child: its name, a scalar */
    const struct yaml_node *first; /* first child */
    const struct yaml_node *next;  /* next child of the same parent; of a document: the next document */
};

/* for (const struct yaml_node *child = node->first; child; child = child->next) visits children in written order. */

/* What is wrong and where; called in the order of the text. message lives until the call returns. */
typedef void yaml_report(void *user, uint32_t line, uint32_t column, const char *message);

/* Reads all documents of `text`; empty ones are left out, so *ret_first may be NULL. `file` names the text in each node
 * (NUL-terminated, must outlive the tree). report may be NULL.
 * ERR_SYNTAX: the first fault was reported and nothing is returned. ERR_DUPLICATE: a key stands twice in one map; each
 * was reported, and the tree, with the first of each, is returned all the same. ERR_UNSUPPORTED: an anchor, alias, tag
 * or a key that is no scalar (reported). ERR_TOO_LARGE, ERR_TOO_DEEP, ERR_TOO_MANY (reported). ERR_NOMEM. */
MUST_CHECK enum err yaml_parse(struct arena *arena, const char *file, struct span text, yaml_report *report, void *user,
                               const struct yaml_node **ret_first);

/* Child of a map by name; NULL when absent, or when map is NULL or no map. Linear. */
const struct yaml_node *yaml_get(const struct yaml_node *map, const char *name);
/* True for well-formed UTF-8 (RFC 3629), which yaml_parse asks for. */
bool yaml_is_utf8(struct span text);
/* True for a scalar that says nothing: empty, ~ or null, unquoted. */
bool yaml_is_null(const struct yaml_node *node);
