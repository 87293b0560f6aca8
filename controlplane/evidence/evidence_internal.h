/* evidence_internal.h - the state behind evidence.h, shared by evidence.c (learning), decide (evidence_decide.c) and
 * the views (evidence_json.c). */
#pragma once
#include "common/arena.h"
#include "controlplane/decide/health.h"
#include "controlplane/decide/weights.h"
#include "controlplane/evidence/evidence.h"
#include "controlplane/evidence/prices.h"
#include "controlplane/evidence/probes.h"
#include "controlplane/evidence/senders.h"
#include "controlplane/evidence/telemetry.h"

/* A scored tier of a followed artifact: its weights live here. */
struct followed_tier {
    const struct route *route;
    uint32_t tier;
    uint32_t *weights_ppm;        /* sums to WEIGHT_WHOLE */
    uint32_t *told_ppm;           /* as an event told them last, or as they began */
    struct weights_outcome *last; /* of the last decision; for people, and what was excluded */
    uint32_t *held_ppm;           /* while arms are compared: what weights_ppm is but for who is down */
    bool frozen;
    bool held;
    bool still; /* the last decision changed nothing: with the same facts, neither would the next */
};
/* What weights are made of, for one model of one artifact, as of the last decision. */
struct model_facts {
    uint32_t model; /* index into the state's models */
    struct price price;
    struct weights_member member; /* without cost_nano and was, which are a tier's */
    bool stirs;                   /* new facts, or measured ones, which age */
};
/* Our copy of a live artifact. */
struct followed {
    struct sha256 hash;
    struct arena arena;
    struct artifact *artifact;
    struct model_facts *facts; /* of the artifact's models */
    struct followed_tier *tiers;
    uint32_t tier_count;
};
struct followed_model {
    const struct model *model; /* in the first artifact that has it */
    const struct provider *provider;
    /* As of the last decision: looked up once, used by every tier. */
    struct telemetry_view view; /* zero but for remaining_ppm: nothing known */
    const char *withdrawn;      /* "drained", "blocked"; NULL: neither */
    struct price price;         /* to publish */
    enum price_source price_source;
    bool price_stale;
    bool price_disputed; /* live artifacts map this name to different prices: each goes on with its own */
};
struct evidence_mark { /* prober and price feed */
    enum evidence_source source;
    char sender[NAME_BYTES_MAX + 1];
    struct sender_mark mark;
};
#define EVIDENCE_MARKS 16u /* probers and feeds; the one heard least recently is forgotten */

#define HELD_KEY_BYTES 256u

struct evidence_state {
    struct prices *prices;
    struct probes *probes;
    struct telemetry *telemetry;
    struct followed *followed[ARTIFACTS_KEPT];
    uint32_t followed_count;
    struct arena head_arena;
    const struct head *head;         /* NULL before the first follow */
    struct followed_model *models;   /* sorted by name */
    struct health_verdict *verdicts; /* of models, one each */
    uint32_t model_count;
    uint32_t doubted; /* verdicts that were not believed last time */
    struct evidence_mark marks[EVIDENCE_MARKS];
    uint32_t mark_count;
    int64_t now_ms; /* of the last call that said so */
    bool significant;
    const struct event_sink *sink; /* or NULL */
    /* evidence_hold.c */
    char held_key[HELD_KEY_BYTES]; /* which comparison of arms runs; "": none */
    bool held_unstored;
    char restored_key[HELD_KEY_BYTES]; /* what was held before a restart */
    struct arena restored_arena;
    struct tier_weights *restored;
    uint32_t restored_count;
};

/* Before tiers are decided: notices that a comparison begins, changes, or ends. */
void evidence_hold_begin(struct evidence_state *state);
/* While arms are compared: sets the outcome's weights to what is held (with the first call: where they would be heading
 * by the evidence of now), less who is down. False: nothing is compared, outcome is untouched. */
bool evidence_hold_tier(struct evidence_state *state, const struct followed *f, struct followed_tier *t,
                        const struct weights_member *members, struct weights_outcome *outcome);

/* The override of this kind in force for a provider or model (or, FREEZE, a route); NULL: none. */
const struct override *evidence_override(const struct evidence_state *state, enum override_kind kind,
                                         struct span target, int64_t now_ms);
/* Drained or blocked, itself or its provider. */
const struct override *evidence_withdrawn(const struct evidence_state *state, const struct followed_model *m,
                                          int64_t now_ms);
/* One model by itself, unsettled. */
void evidence_judge_one(const struct evidence_state *state, const struct followed_model *m, int64_t now_ms,
                        struct health_verdict *ret);
/* Fresh verdicts for all models, settled. verdicts: model_count of them. Returns how many were not believed. */
uint32_t evidence_judge(const struct evidence_state *state, int64_t now_ms, struct health_verdict *verdicts);
bool evidence_probe_fresh(const struct provider *provider, const struct probe_state *probe, int64_t now_ms);
const struct health_verdict *evidence_verdict(const struct evidence_state *state, const struct followed_model *m);
/* NULL: that tier is not scored, or not there. */
struct followed_tier *evidence_tier(const struct followed *f, struct span route, uint32_t tier);
/* Whether tiers of two artifacts have the same models in the same order; their weights may differ. */
bool evidence_same_members(const struct artifact *a, const struct tier *x, const struct artifact *b,
                           const struct tier *y);
/* Why a member of a scored tier is out, of the last decision: as weights_exclusion_name, or "drained" or "blocked" where
 * that is why it counts as down. "": it is in. */
const char *evidence_excluded(const struct evidence_state *state, const struct followed *f,
                              const struct tier_member *member, const struct weights_outcome *outcome);
/* evidence_events.c: tell, where something did change */
void evidence_tell_health(const struct evidence_state *state, const struct followed_model *m,
                          const struct health_verdict *before, const struct health_verdict *after, int64_t now_ms);
void evidence_tell_weights(const struct evidence_state *state, const struct followed *f, struct followed_tier *t,
                           int64_t now_ms);
void evidence_tell_held(const struct evidence_state *state, uint32_t before, struct span sender, int64_t now_ms);
struct followed_model *evidence_model(const struct evidence_state *state, struct span name);
/* What requests to this model cost now: the policy's price, else the book's, else the artifact's. */
void evidence_price_of(const struct evidence_state *state, const struct model *model, int64_t now_ms,
                       struct price *ret_price, enum price_source *ret_source, bool *ret_stale);
