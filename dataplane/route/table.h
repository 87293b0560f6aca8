/* table.h - what a worker decides by: the four objects, indexed. Immutable and reference-counted: a request pins the
 * table it started with.
 *
 * Built in three layers that change at different rates and are shared between tables: compiled (artifact and its name
 * maps), evidence view (health, prices and weights aligned with the artifact's indices), teams view. Single-threaded:
 * counts are plain. Pure: no I/O. `labels` resolves names to board ids through a callback so that this room does not
 * know the board. */
#pragma once
#include "common/arena.h"
#include "common/strmap.h"
#include "proto/tables.h"

struct table_labels { /* returns 0 ("other") for what does not fit */
    uint32_t (*find)(void *user, unsigned kind /* enum board_label_kind */, struct span name);
    void *user;
};

/* One artifact, ready to use. */
struct compiled {
    unsigned refs;
    struct arena arena;
    const struct artifact *artifact;                  /* in arena */
    struct strmap routes, models, aliases, providers; /* name -> struct route*, model*, alias*, provider* */
    uint32_t *route_labels, *model_labels;            /* board ids, by index */
};
struct member_view { /* one member of a tier, with what is known now */
    uint32_t model;
    uint32_t weight_ppm; /* evidence's while valid, else the policy's; excluded ones keep theirs */
};
struct model_view {
    enum health health;
    int64_t health_since_ms; /* 0: not known */
    bool drained, blocked;   /* by override */
    int64_t drained_until_ms,
        blocked_until_ms; /* wall; 0: until lifted. A node without its control plane lets them end, too */
    struct span override_reason;
    const struct price *price; /* never NULL */
    enum price_source price_source;
    bool price_stale;
    uint32_t ttft_ewma_us, ttft_p95_us, errors_ppm, samples;
};
struct arm_view {
    const struct arm *arm;
    struct compiled *compiled;
    struct model_view *models; /* by model index */
    struct weight_row
        *weights; /* sorted by slot; only what evidence has: a switch must not cost a pass over all routes */
    uint32_t weight_count;
};
struct weight_row {
    uint32_t slot;       /* route index * TIERS_MAX + tier */
    const uint32_t *ppm; /* aligned with the tier's members */
};
struct teams_view {
    unsigned refs;
    struct arena arena;
    const struct teams *teams;
    struct strmap by_name; /* -> struct team_view* */
};
struct team_view {
    const struct team *team;
    uint32_t label;
};
struct table {
    unsigned refs;
    struct arena arena;
    struct table_version version;
    const struct head *head;         /* in arena; arm_count 0: no policy yet */
    const struct evidence *evidence; /* in arena; may be NULL */
    struct arm_view *arms;           /* head->arm_count of them */
    struct teams_view *teams;        /* never NULL */
};

/* artifact bytes -> compiled with one reference. Errors of wire_decode_artifact. *ret_why (may be NULL), here and
 * below: a text that holds until the next failure. */
MUST_CHECK enum err compiled_new(struct span artifact_bytes, const struct table_labels *labels, struct compiled **ret,
                                 const char **ret_why);
void compiled_unref(struct compiled *compiled);
MUST_CHECK enum err teams_view_new(struct span teams_bytes, const struct table_labels *labels, struct teams_view **ret,
                                   const char **ret_why);
void teams_view_unref(struct teams_view *teams);
/* Assembles a table. compiled[i] serves head arm i. head and evidence bytes are decoded here (evidence may be empty).
 * Takes its own references. ERR_INVALID when they do not fit together. *ret has one reference. */
MUST_CHECK enum err table_new(struct span head_bytes, struct span evidence_bytes, struct compiled *const *compiled,
                              uint32_t compiled_count, struct teams_view *teams, const struct table_version *version,
                              struct table **ret, const char **ret_why);
struct table *table_ref(struct table *table);
void table_unref(struct table *table); /* NULL is fine */
/* Evidence that has expired is ignored from then on: health unknown, weights the policy's, prices stale. now in wall
 * ms. */
bool table_evidence_valid(const struct table *table, int64_t now_ms);
const struct team_view *table_team(const struct table *table, struct span name); /* NULL: unknown */
/* Route by name or alias within an arm; NULL when unknown. */
const struct route *table_route(const struct arm_view *arm, struct span name);
const struct model *table_model(const struct arm_view *arm, struct span name); /* exact provider/model, or by alias */
/* Evidence's weights of a tier, aligned with its members; NULL: the policy's hold. The caller looks at
 * table_evidence_valid. */
const uint32_t *table_weights(const struct arm_view *arm, uint32_t route_index, uint32_t tier);
uint32_t table_route_index(const struct arm_view *arm, const struct route *route);
uint32_t table_model_index(const struct arm_view *arm, const struct model *model);
