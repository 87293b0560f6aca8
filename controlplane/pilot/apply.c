#include "controlplane/pilot/apply.h"
#include "proto/head.h"

enum err apply_begin(struct apply *a)
{
    enum err err = versions_head_get(a->versions, a->arena, 0, &a->head);
    if (err == ERR_NOT_FOUND) {
        a->head = ARENA_NEW(a->arena, struct head);
        err = a->head ? OK : ERR_NOMEM;
    }
    return err ? err : state_load(a->versions, a->arena, &a->state);
}

uint32_t apply_stable(const struct apply *a)
{
    return a->head->arm_count ? a->head->arms[0].policy_version : 0;
}

/* ---- the head that a state asks for ---- */

struct composer {
    struct apply *a;
    struct arm *arms;
    uint32_t arm_count;
    struct assignment *assignments;
    uint32_t assignment_count;
    enum err err;
};

/* Index of the arm that obeys this version; made when there is none. */
static uint32_t arm_of(struct composer *c, uint32_t version, const char *name)
{
    struct version_record *record;
    for (uint32_t i = 0; i < c->arm_count; i++) {
        if (c->arms[i].policy_version == version)
            return i;
    }
    if (c->arm_count == ARMS_MAX)
        c->err = ERR_TOO_MANY;
    if (!c->err)
        c->err = versions_get(c->a->versions, c->a->arena, version, false, &record);
    const struct span copy = arena_dup(c->a->arena, span_cstr(name));
    if (!c->err && !copy.ptr)
        c->err = ERR_NOMEM;
    if (c->err)
        return 0;
    c->arms[c->arm_count] = (struct arm){ .name = copy, .policy_version = version, .artifact = record->artifact };
    return c->arm_count++;
}

static struct span id_of(struct composer *c, const char *kind, uint64_t id)
{
    char text[STATE_ID_BYTES];
    const struct span copy = arena_dup(c->a->arena, span_cstr(state_id(kind, id, text)));
    if (!copy.ptr)
        c->err = ERR_NOMEM;
    return copy;
}

static void add_rollout(struct composer *c, const struct rollout *r)
{
    struct bucket_range *range = ARENA_NEW(c->a->arena, struct bucket_range);
    if (!range) {
        c->err = ERR_NOMEM;
        return;
    }
    /* From bucket 0 on: each step takes in more of stable's buckets and gives none back. */
    *range = (struct bucket_range){ .arm = arm_of(c, r->to, "canary"), .count = rollout_share(r) };
    struct assignment *assignment = &c->assignments[c->assignment_count++];
    *assignment = (struct assignment){ .id = id_of(c, "rollout", r->id),
                                       .unit = r->plan.unit,
                                       .header = r->plan.header,
                                       .routes = r->plan.routes,
                                       .ranges = range,
                                       .range_count = 1 };
    memcpy(assignment->salt, r->salt, sizeof(assignment->salt));
}

static void add_experiment(struct composer *c, const struct state_experiment *e)
{
    struct bucket_range *ranges = ARENA_ARRAY(c->a->arena, EXPERIMENT_ARMS_MAX, struct bucket_range);
    struct assignment *assignment = &c->assignments[c->assignment_count++];
    uint32_t first = 0, count = 0;
    if (!ranges) {
        c->err = ERR_NOMEM;
        return;
    }
    /* Each arm keeps its buckets for the whole experiment; those of the stable version need no range. */
    for (uint32_t i = 0; i < e->arm_count; i++) {
        char name[16];
        snprintf(name, sizeof(name), "v%u", e->arms[i].version);
        const uint32_t arm = arm_of(c, e->arms[i].version, name);
        if (arm > 0)
            ranges[count++] = (struct bucket_range){ .arm = arm, .first = first, .count = e->arms[i].share };
        first += e->arms[i].share;
    }
    *assignment = (struct assignment){ .id = id_of(c, "experiment", e->id),
                                       .unit = e->unit,
                                       .header = e->header,
                                       .routes = e->routes,
                                       .ranges = ranges,
                                       .range_count = count };
    memcpy(assignment->salt, e->salt, sizeof(assignment->salt));
}

static void add_shadow(struct composer *c, const struct state_shadow *s, struct head *head)
{
    char name[16];
    struct shadow *shadow = ARENA_NEW(c->a->arena, struct shadow);
    if (!shadow) {
        c->err = ERR_NOMEM;
        return;
    }
    snprintf(name, sizeof(name), "v%u", s->version);
    *shadow = (struct shadow){ .id = id_of(c, "shadow", s->id),
                               .arm = arm_of(c, s->version, name),
                               .routes = s->routes,
                               .share_ppm = s->share_ppm,
                               .budget_nano = s->budget_nano,
                               .tools = s->tools };
    head->shadows = shadow;
    head->shadow_count = 1;
}

static enum err compose(struct apply *a, uint32_t stable)
{
    struct composer c = { .a = a,
                          .arms = ARENA_ARRAY(a->arena, ARMS_MAX, struct arm),
                          .assignments = ARENA_ARRAY(a->arena, 2, struct assignment) };
    struct head *head = a->head;
    if (!c.arms || !c.assignments)
        return ERR_NOMEM;
    head->shadows = NULL;
    head->shadow_count = 0;
    arm_of(&c, stable, "stable");
    if (!c.err && state_rolling(&a->state))
        add_rollout(&c, a->state.rollout);
    if (!c.err && state_experimenting(&a->state))
        add_experiment(&c, a->state.experiment);
    if (!c.err && state_shadowing(&a->state))
        add_shadow(&c, a->state.shadow, head);
    head->arms = c.arms;
    head->arm_count = c.arm_count;
    head->assignments = c.assignments;
    head->assignment_count = c.assignment_count;
    return c.err;
}

/* ---- storing ---- */

enum err apply_head(struct apply *a, uint32_t stable, const char *why)
{
    struct pilot_state *state = &a->state;
    enum err err = compose(a, stable);
    a->head->made_at_ms = a->now_ms;
    a->head->by = a->by;
    a->head->why = arena_dup(a->arena, span_cstr(why));
    if (!err && !a->head->why.ptr)
        err = ERR_NOMEM;
    if (!err)
        err = versions_head_put(a->versions, a->head);
    if (err)
        return err;
    if (state->rollout && state->rollout->generation == 0)
        state->rollout->generation = a->head->generation;
    if (state->experiment && state->experiment->generation == 0)
        state->experiment->generation = a->head->generation;
    if (state->shadow && state->shadow->generation == 0)
        state->shadow->generation = a->head->generation;
    return state_store(a->versions, state);
}

static enum err mark(struct apply *a, uint32_t version, enum version_state state)
{
    struct version_record *record;
    const enum err err = versions_get(a->versions, a->arena, version, false, &record);
    if (err)
        return err;
    record->state = state;
    return versions_update(a->versions, record);
}

enum err apply_full(struct apply *a, struct version_record *next, enum version_state state_of_old, const char *why)
{
    const uint32_t old = apply_stable(a);
    enum err err = old && old != next->version ? mark(a, old, state_of_old) : OK;
    if (!err)
        err = apply_head(a, next->version, why);
    next->state = VERSION_LIVE;
    next->full_at_ms = a->now_ms;
    next->full_generation = a->head->generation;
    return err ? err : versions_update(a->versions, next);
}

enum err apply_rollout(struct apply *a, const char *why)
{
    const struct rollout *r = a->state.rollout;
    struct version_record *to;
    enum err err;
    switch (r->phase) {
    case ROLLOUT_RUNNING:
    case ROLLOUT_PAUSED:
        return r->generation ? state_store(a->versions, &a->state) : apply_head(a, r->from, why);
    case ROLLOUT_DONE:
        err = versions_get(a->versions, a->arena, r->to, false, &to);
        return err ? err : apply_full(a, to, VERSION_RETIRED, why);
    case ROLLOUT_ABORTED:
    case ROLLOUT_ROLLED_BACK:
        err = mark(a, r->to, VERSION_ROLLED_BACK);
        return err ? err : apply_head(a, r->from, why);
    }
    return ERR_INVALID;
}

void apply_end_experiment(struct apply *a, struct span why)
{
    if (!state_experimenting(&a->state))
        return;
    a->state.experiment->ended_at_ms = a->now_ms;
    a->state.experiment->ended_why = why;
}

void apply_end_shadow(struct apply *a, struct span why)
{
    if (!state_shadowing(&a->state))
        return;
    a->state.shadow->ended_at_ms = a->now_ms;
    a->state.shadow->ended_why = why;
}
