/* tree.h - a loaded policy: the sections of all its files, merged, still as trees with places. Private to this folder.
 */
#pragma once
#include "common/strmap.h"
#include "common/yaml.h"
#include "controlplane/policy/policy.h"

struct entry {
    struct span name;
    const struct yaml_node *node; /* its value; node->key is where it is named */
};
struct section {
    struct entry *items; /* in the order of the files */
    uint32_t count, capacity;
    struct strmap by_name; /* -> struct yaml_node */
};
struct policy {
    bool has_policy, has_directory;
    struct section providers, models, aliases, routes;
    struct section teams;
    const struct yaml_node *defaults;        /* NULL: none */
    const struct yaml_node *rollout;         /* NULL: none */
    const struct yaml_node *records;         /* NULL: none */
    const struct yaml_node *policy_document; /* the first one, as a place for what concerns the whole */
    const struct yaml_node *directory_document;
    struct span hash;
};

/* Directory part of a path with its slash: "a/b.yaml" -> "a/"; "" when there is none. */
struct span path_directory(struct span path);
/* Whether a path may stand in a bundle or an include: relative, without empty, "." or ".." parts. */
bool path_is_inner(struct span path);
/* Hex of the canonical encoding's SHA-256; ERR_NOMEM. */
MUST_CHECK enum err tree_hash(struct arena *arena, const struct policy *policy, struct span *ret_hex);
