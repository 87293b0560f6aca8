/* fields.h - typed reading of tree nodes. Every reader reports what is wrong at the node's place and returns false;
 * *ret is then untouched. A NULL node is absent: false, nothing reported. Private to this folder. */
#pragma once
#include "common/yaml.h"
#include "controlplane/policy/defaults.h"
#include "controlplane/policy/policy.h"

/* Reports fields that are none of `known` (NULL-terminated), with a suggestion, and what is no map. `what` names the
 * map in messages ("provider openai"). True when node is a map. */
bool fields_check(struct diags *diags, const struct yaml_node *node, const char *what, const char *const *known);
/* `%s` of the nearest of the words, else of one that it is a part of, for "did you mean": " (did you mean 'x'?)" or "". In the diags' arena. */
const char *suggest_word(struct diags *diags, struct span name, const char *const *words);
const char *suggest(struct diags *diags, struct span name, const struct strmap *known);

/* A scalar that says something. */
bool field_text(struct diags *diags, const struct yaml_node *node, struct span *ret);
bool field_bool(struct diags *diags, const struct yaml_node *node, bool *ret);
bool field_count(struct diags *diags, const struct yaml_node *node, uint64_t least, uint64_t most, uint64_t *ret);
/* "3s"; `off_allowed`: 0 and off give 0, else they are refused. At most TIMEOUT_MOST_MS. */
bool field_duration(struct diags *diags, const struct yaml_node *node, bool off_allowed, uint32_t *ret_ms);
bool field_share(struct diags *diags, const struct yaml_node *node, uint32_t *ret_ppm);
bool field_usd(struct diags *diags, const struct yaml_node *node, int64_t *ret_nano);
/* Index into words (NULL-terminated). */
bool field_word(struct diags *diags, const struct yaml_node *node, const char *const *words, size_t *ret);
/* A list of scalars, none empty, none twice. False also when an element is wrong. */
bool field_list(struct diags *diags, struct arena *arena, const struct yaml_node *node, struct span_list *ret);
/* Timeouts in a map: reports unknown fields; writes those that are there. */
void field_timeouts(struct diags *diags, const struct yaml_node *map, struct timeouts *timeouts);
/* {region | regions, max_retention_days, no_training} */
void field_requirement(struct diags *diags, struct arena *arena, const struct yaml_node *map, struct requirement *ret);

enum name_kind {
    NAME_PLAIN, /* letters, digits, . _ - (providers, teams) */
    NAME_ROUTE, /* also : */
    NAME_MODEL  /* also / : @ + */
};
/* Reports a name that is empty, too long or has other characters. */
bool name_check(struct diags *diags, const struct yaml_node *node, struct span name, enum name_kind kind,
                const char *what);
/* "policy.yaml:12" in the arena; .ptr NULL when memory is out. */
struct span place_of(struct arena *arena, const struct yaml_node *node);

/* ---- like ---- */

/* An entry and the ones it is like, nearest first. */
struct chain {
    const struct yaml_node *nodes[LIKE_DEPTH_MAX + 1];
    uint32_t count;
};
struct section;
/* Follows `like` from the entry; cycles, unknown names and too long chains are reported and end the chain. */
void chain_make(struct diags *diags, const struct section *section, const struct yaml_node *node, const char *what,
                struct chain *ret);
/* The nearest one's field; NULL: nobody has it. */
const struct yaml_node *chain_get(const struct chain *chain, const char *field);
/* The nearest one's field of a map field: merges timeouts, data and the like field by field. */
const struct yaml_node *chain_get_in(const struct chain *chain, const char *map, const char *field);
