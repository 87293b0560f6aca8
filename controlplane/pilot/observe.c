/* Records become observations: which stage, arm and unit they belong to, and what they say. */
#include "common/digest.h"
#include "common/fault.h"
#include "controlplane/pilot/measure.h"
#include "controlplane/pilot/pilot_internal.h"
#include "proto/head.h"

/* ---- stages ---- */

void stage_end(struct stage *stage)
{
    experiment_free(stage->experiment);
    free(stage->votes);
    *stage = (struct stage){ 0 };
}

static bool asks_for_votes(const struct experiment_options *options)
{
    for (uint32_t i = 0; i < options->guard_count; i++) {
        if (options->guards[i].metric == METRIC_FEEDBACK)
            return true;
    }
    return false;
}

enum err stage_begin(struct stage *stage, const char *id, uint64_t generation, int64_t since_ms,
                     const struct experiment_options *options, const uint32_t *versions)
{
    struct stage s = { .on = true,
                       .generation = generation,
                       .since_ms = since_ms,
                       .arm_count = options->arms,
                       .guard_count = options->guard_count };
    REQUIRE(options->guard_count <= EXPERIMENT_GUARDS_MAX && options->arms <= EXPERIMENT_ARMS_MAX);
    snprintf(s.id, sizeof(s.id), "%s", id);
    for (uint32_t i = 0; i < options->arms; i++)
        s.versions[i] = versions[i];
    for (uint32_t i = 0; i < options->guard_count; i++)
        s.guards[i] = options->guards[i];
    if (options->guard_count > 0) {
        const enum err err = experiment_new(options, &s.experiment);
        if (err)
            return err;
    }
    if (asks_for_votes(options)) {
        s.votes = fault_calloc(VOTE_SLOTS, sizeof(*s.votes));
        if (!s.votes) {
            stage_end(&s);
            return ERR_NOMEM;
        }
    }
    stage_end(stage);
    *stage = s;
    return OK;
}

static uint64_t hash_of(const struct pilot *pilot, struct span id)
{
    const uint64_t hash = siphash24(pilot->hash_key, id);
    return hash ? hash : 1;
}

/* Index of the arm whose version it obeyed; arm_count when it is none of the stage's. */
static uint32_t arm_of(const struct stage *s, const struct record *r)
{
    uint32_t arm = 0;
    while (arm < s->arm_count && s->versions[arm] != r->policy_version)
        arm++;
    return arm;
}

/* What the experiment refuses it counts itself; a request that memory is missing for is lost in all arms alike. */
static void observe(struct stage *s, const struct observation *observation)
{
    if (experiment_add(s->experiment, observation) == ERR_NOMEM)
        s->lost++;
}

static void take_request(struct pilot *pilot, struct stage *s, const struct record *r)
{
    double values[EXPERIMENT_GUARDS_MAX];
    /* Without features it asked no model for anything: a list of models. */
    if (!s->on || r->forced || !r->has_unit || !r->has_features || r->generation < s->generation ||
        !span_eq(r->assignment, span_cstr(s->id)))
        return;
    const uint32_t arm = arm_of(s, r);
    if (arm == s->arm_count)
        return;
    s->requests[arm]++;
    s->fresh = true;
    s->last_ms = r->time_ms > s->last_ms ? r->time_ms : s->last_ms;
    s->first_ms = s->first_ms == 0 || r->time_ms < s->first_ms ? r->time_ms : s->first_ms;
    if (s->votes) {
        const uint64_t request = hash_of(pilot, r->request_id);
        s->votes[request % VOTE_SLOTS] = (struct vote_slot){ .request = request, .unit = r->unit, .arm = arm };
    }
    if (!s->experiment)
        return;
    const struct observation observation = { .arm = arm,
                                             .unit = r->unit,
                                             .guard_mask = measure_record(r, s->guards, s->guard_count, values),
                                             .values = values };
    observe(s, &observation);
}

/* A vote for a request that this stage has seen; the first one of each metric. */
static void take_vote(struct pilot *pilot, struct stage *s, const struct record *r)
{
    double values[EXPERIMENT_GUARDS_MAX] = { 0 };
    if (!s->votes)
        return;
    const uint64_t request = hash_of(pilot, r->request_id);
    struct vote_slot *slot = &s->votes[request % VOTE_SLOTS];
    if (slot->request != request)
        return;
    uint32_t mask = 0;
    for (uint32_t i = 0; i < s->guard_count; i++) {
        if (s->guards[i].metric != METRIC_FEEDBACK || !span_eq(r->metric, span_cstr(s->guards[i].name)) ||
            (slot->voted & 1u << i))
            continue;
        values[i] = r->score;
        mask |= 1u << i;
    }
    if (!mask)
        return;
    slot->voted |= mask;
    s->fresh = true;
    const struct observation observation = {
        .arm = slot->arm, .unit = slot->unit, .guard_mask = mask, .values = values
    };
    observe(s, &observation);
}

/* ---- shadows ---- */

void shadow_stage_end(struct shadow_stage *stage)
{
    free(stage->pairs);
    *stage = (struct shadow_stage){ 0 };
}

enum err shadow_stage_begin(struct shadow_stage *stage, const struct state_shadow *shadow)
{
    struct pair_slot *pairs = fault_calloc(PAIR_SLOTS, sizeof(*pairs));
    if (!pairs)
        return ERR_NOMEM;
    shadow_stage_end(stage);
    stage->on = true;
    stage->pairs = pairs;
    stage->generation = shadow->generation;
    stage->routes = shadow->routes;
    stage->budget_nano = shadow->budget_nano;
    state_id("shadow", shadow->id, stage->id);
    return OK;
}

static void compare(struct shadow_stage *s, const struct pair_slot *pair)
{
    const struct side *real = &pair->real, *copy = &pair->copy;
    s->compared++;
    s->same_status += real->status == copy->status;
    s->real_failed += real->status != 200;
    s->copy_failed += copy->status != 200;
    s->real_tokens += real->tokens;
    s->copy_tokens += copy->tokens;
    s->real_nano = record_add_nano(s->real_nano, real->cost_nano);
    s->copy_nano = record_add_nano(s->copy_nano, copy->cost_nano);
    hist_add(&s->real_us, real->total_us);
    hist_add(&s->copy_us, copy->total_us);
}

/* A client that left, or a node that gave a copy up for want of room, says nothing of either. */
static bool given_up(const struct record *r)
{
    return span_eq(r->outcome, SPAN("cancelled"));
}

static void take_side(struct pilot *pilot, const struct record *r, bool copy)
{
    struct shadow_stage *s = &pilot->shadow;
    const uint64_t request = hash_of(pilot, copy ? r->of : r->request_id);
    struct pair_slot *slot = &s->pairs[request % PAIR_SLOTS];
    const struct side side = {
        .known = true, .status = r->status, .total_us = r->total_us, .tokens = r->output, .cost_nano = r->cost_nano
    };
    if (slot->request != request) {
        /* A copy that still waits is rarer than requests without one: those give way. */
        if (!copy && slot->request && slot->copy.known && !slot->real.known)
            return;
        *slot = (struct pair_slot){ .request = request };
    }
    *(copy ? &slot->copy : &slot->real) = side;
    if (slot->real.known && slot->copy.known) {
        compare(s, slot);
        *slot = (struct pair_slot){ 0 };
    }
}

static void take_shadow(struct pilot *pilot, const struct record *r)
{
    struct shadow_stage *s = &pilot->shadow;
    if (!s->on || r->generation < s->generation || !span_eq(r->assignment, span_cstr(s->id)))
        return;
    if (r->estimate_nano > 0) {
        /* While copies are under way a node holds their estimates back, too: what would fit once they have ended does
         * not count. */
        s->unsent += r->estimate_nano > s->budget_nano - s->spent_nano;
        return;
    }
    s->unsent = 0;
    s->copies++;
    s->spent_nano = record_add_nano(s->spent_nano, r->cost_nano);
    if (given_up(r))
        return;
    s->failed += r->status != 200;
    take_side(pilot, r, true);
}

void pilot_taken(void *user, const struct record *record)
{
    struct pilot *pilot = user;
    if (record->kind != RECORD_FEEDBACK && record->epoch != pilot->epoch)
        return; /* before the store was restored */
    switch (record->kind) {
    case RECORD_REQUEST:
        take_request(pilot, &pilot->rollout, record);
        take_request(pilot, &pilot->experiment, record);
        if (pilot->shadow.on && !given_up(record) && record->generation >= pilot->shadow.generation &&
            (pilot->shadow.routes.count == 0 || head_lists(&pilot->shadow.routes, record->route)))
            take_side(pilot, record, false);
        return;
    case RECORD_SHADOW:
        take_shadow(pilot, record);
        return;
    case RECORD_FEEDBACK:
        take_vote(pilot, &pilot->rollout, record);
        take_vote(pilot, &pilot->experiment, record);
        return;
    case RECORD_CONTENT: /* for people */
        return;
    }
}
