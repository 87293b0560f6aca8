#include "controlplane/pilot/pilot.h"
#include "common/fault.h"
#include "common/log.h"
#include "controlplane/pilot/apply.h"
#include "controlplane/pilot/pilot_internal.h"

#define STATE_ARENA_MAX  ((size_t)16 << 20)
#define CHANGE_ARENA_MAX ((size_t)64 << 20) /* of one decision: head, state, some version records */
#define RETRY_MS         5000               /* after a commit that failed: a full disk is not asked at every tick */
#define CATCH_UP_MS      30000              /* nodes with much to ship, or with no traffic to tell that it is all */
#define CLOCK_SKEW_MS    3600000            /* between nodes and us; the generation is what separates stages */
#define PILOT_NAME       SPAN("fairlead")

enum err pilot_new(struct versions *versions, struct pilot **ret)
{
    struct pilot *p = fault_calloc(1, sizeof(*p));
    if (!p)
        return ERR_NOMEM;
    p->versions = versions;
    random_bytes(p->hash_key, sizeof(p->hash_key));
    arena_init(&p->arena, STATE_ARENA_MAX);
    *ret = p;
    return OK;
}

void pilot_free(struct pilot *p)
{
    if (!p)
        return;
    stage_end(&p->rollout);
    stage_end(&p->experiment);
    shadow_stage_end(&p->shadow);
    arena_release(&p->arena);
    free(p);
}

/* ---- following ---- */

static enum err follow_rollout(struct pilot *p)
{
    char id[STATE_ID_BYTES];
    const struct rollout *r = p->state.rollout;
    if (!state_rolling(&p->state)) {
        stage_end(&p->rollout);
        return OK;
    }
    state_id("rollout", r->id, id);
    if (p->rollout.on && strcmp(p->rollout.id, id) == 0 && p->rollout.generation == r->generation)
        return OK;
    const double share = (double)rollout_share(r) / ASSIGNMENT_BUCKETS;
    const struct experiment_options options = { .arms = 2,
                                                .shares = { 1 - share, share },
                                                .guards = r->plan.guards,
                                                .guard_count = r->plan.guard_count,
                                                .alpha = rollout_step_alpha(r) };
    memset(p->judgements, 0, sizeof(p->judgements));
    p->evidence = (struct rollout_evidence){ .judgements = p->judgements, .ratio = { .p_value = 1 } };
    return stage_begin(&p->rollout, id, r->generation, r->step_at_ms, &options, (const uint32_t[]){ r->from, r->to });
}

static enum err follow_experiment(struct pilot *p)
{
    char id[STATE_ID_BYTES];
    uint32_t versions[EXPERIMENT_ARMS_MAX];
    const struct state_experiment *e = p->state.experiment;
    if (!e) {
        stage_end(&p->experiment);
        return OK;
    }
    state_id("experiment", e->id, id);
    /* After its end it takes no more (its assignment is gone), and can still be reported. */
    if (p->experiment.on && strcmp(p->experiment.id, id) == 0)
        return OK;
    struct experiment_options options = { .arms = e->arm_count,
                                          .guards = e->metrics,
                                          .guard_count = e->metric_count,
                                          .alpha = EXPERIMENT_ALPHA,
                                          .two_sided = true };
    for (uint32_t i = 0; i < e->arm_count; i++) {
        options.shares[i] = (double)e->arms[i].share / ASSIGNMENT_BUCKETS;
        versions[i] = e->arms[i].version;
    }
    return stage_begin(&p->experiment, id, e->generation, e->started_at_ms, &options, versions);
}

static enum err follow_shadow(struct pilot *p)
{
    char id[STATE_ID_BYTES];
    const struct state_shadow *s = p->state.shadow;
    if (!s) {
        shadow_stage_end(&p->shadow);
        return OK;
    }
    if (p->shadow.on && strcmp(p->shadow.id, state_id("shadow", s->id, id)) == 0) {
        p->shadow.routes = s->routes; /* in the new state's arena */
        return OK;
    }
    return shadow_stage_begin(&p->shadow, s);
}

enum err pilot_follow(struct pilot *p)
{
    struct arena arena;
    struct pilot_state state;
    struct versions_numbers numbers;
    arena_init(&arena, STATE_ARENA_MAX);
    p->followed = false;
    enum err err = versions_begin(p->versions, false);
    if (!err) {
        err = state_load(p->versions, &arena, &state);
        if (!err)
            err = versions_numbers(p->versions, &numbers);
        versions_abort(p->versions);
    }
    if (err) {
        arena_release(&arena);
        return err;
    }
    arena_release(&p->arena);
    p->arena = arena;
    p->state = state;
    p->epoch = numbers.epoch;
    p->shadow.routes = (struct span_list){ 0 };
    p->resumed = p->began ? p->resumed : state_rolling(&p->state);
    p->began = true;
    err = follow_rollout(p);
    if (!err)
        err = follow_experiment(p);
    if (!err)
        err = follow_shadow(p);
    p->followed = err == OK;
    return err;
}

int64_t pilot_since(const struct pilot *p)
{
    int64_t since = INT64_MAX;
    if (p->rollout.on)
        since = p->state.rollout->step_at_ms;
    if (p->experiment.on && p->state.experiment->started_at_ms < since)
        since = p->state.experiment->started_at_ms;
    if (p->shadow.on && p->state.shadow->started_at_ms < since)
        since = p->state.shadow->started_at_ms;
    return since == INT64_MAX ? since : since - CLOCK_SKEW_MS;
}

/* ---- deciding ---- */

static enum err put_audit(struct pilot *p, struct apply *a, const char *command, const char *message,
                          void (*put_detail)(struct pilot *p, struct apply *a, struct json_writer *w))
{
    struct buf line = BUF_INIT(AUDIT_LINE_BYTES_MAX);
    struct json_writer w;
    json_writer_init(&w, &line);
    json_object_open(&w);
    json_member_i64(&w, "at_ms", a->now_ms);
    json_member_string(&w, "user", a->by);
    json_member_cstr(&w, "command", command);
    json_member_cstr(&w, "message", message);
    json_key(&w, SPAN("args"));
    json_object_open(&w);
    json_object_close(&w);
    json_member_cstr(&w, "request_id", "");
    json_key(&w, SPAN("detail"));
    json_object_open(&w);
    put_detail(p, a, &w);
    json_object_close(&w);
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    if (!err)
        err = versions_audit_put(p->versions, buf_span(&line));
    buf_release(&line);
    return err;
}

/* Runs `change` in a write transaction of its own. ERR_STALE: the state is no longer what it was judged by. */
struct decision {
    const struct rollout_decision *rollout; /* or NULL */
    const char *why;
};
typedef enum err change_fn(struct pilot *p, struct apply *a, const struct decision *d);

static bool commit(struct pilot *p, int64_t now_ms, change_fn *change, const struct decision *d, const char *event)
{
    struct arena arena;
    if (now_ms < p->retry_at_ms && p->retry_at_ms - now_ms <= RETRY_MS)
        return false;
    arena_init(&arena, CHANGE_ARENA_MAX);
    struct apply a = { .versions = p->versions, .arena = &arena, .by = PILOT_NAME, .now_ms = now_ms };
    enum err err = versions_begin(p->versions, true);
    if (!err)
        err = apply_begin(&a);
    if (!err)
        err = change(p, &a, d);
    if (!err)
        err = versions_commit(p->versions);
    versions_abort(p->versions);
    arena_release(&arena);
    p->retry_at_ms = err ? now_ms + RETRY_MS : 0;
    if (err)
        log_error(event, LOG_ERR(err), LOG_STR("why", d->why));
    else
        log_info(event, LOG_STR("why", d->why));
    return err == OK;
}

static void put_rollout_detail(struct pilot *p, struct apply *a, struct json_writer *w)
{
    json_key(w, SPAN("rollout"));
    rollout_json(a->state.rollout, w);
    rollout_evidence_json(a->state.rollout, &p->evidence, w);
}

static enum err change_rollout(struct pilot *p, struct apply *a, const struct decision *d)
{
    char why[APPLY_WHY_BYTES], share[16], id[STATE_ID_BYTES], command[40], message[ROLLOUT_REASON_BYTES + 160];
    struct rollout *r = a->state.rollout;
    if (!state_rolling(&a->state) || r->id != p->state.rollout->id || r->generation != p->state.rollout->generation ||
        r->phase != p->state.rollout->phase)
        return ERR_STALE;
    rollout_advance(r, a->now_ms);
    enum err err = rollout_apply(r, a->arena, d->rollout->action, PILOT_NAME, d->why, a->now_ms);
    if (err)
        return err;
    state_id("rollout", r->id, id);
    if (r->phase == ROLLOUT_ROLLED_BACK) {
        snprintf(why, sizeof(why), "%s: rolled back v%u -> v%u", id, r->to, r->from);
        snprintf(message, sizeof(message),
                 "%s: returned to v%u, which holds 100%% again; v%u is marked as rolled back: %s", id, r->from, r->to,
                 d->why);
    } else if (r->phase == ROLLOUT_PAUSED) {
        snprintf(why, sizeof(why), "%s: paused", id);
        snprintf(message, sizeof(message), "%s: paused at %s of v%u: %s", id,
                 rollout_share_format(rollout_share(r), share), r->to, d->why);
    } else {
        rollout_share_format(rollout_share(r), share);
        snprintf(why, sizeof(why), "%s: %s of v%u", id, share, r->to);
        snprintf(message, sizeof(message), "%s: v%u takes %s now: %s", id, r->to, share, d->why);
    }
    snprintf(command, sizeof(command), "rollout.%s",
             d->rollout->action == ROLLOUT_ROLL_BACK ? "roll_back" : rollout_action_name(d->rollout->action));
    err = apply_rollout(a, why);
    return err ? err : put_audit(p, a, command, message, put_rollout_detail);
}

/* After a restart guards have seen what was stored. What nodes kept meanwhile comes in its order, so a record of after the
 * restart says that it came. */
static bool catching_up(struct pilot *p, int64_t now_ms)
{
    if (p->resumed_at_ms == 0)
        p->resumed_at_ms = now_ms;
    const int64_t waited_ms = now_ms - p->resumed_at_ms;
    p->resumed = p->rollout.last_ms < p->resumed_at_ms && waited_ms >= 0 && waited_ms < CATCH_UP_MS;
    return p->resumed;
}

static bool tick_rollout(struct pilot *p, int64_t now_ms)
{
    struct stage *s = &p->rollout;
    struct rollout *r = p->state.rollout;
    struct rollout_decision decision;
    if (s->experiment && s->fresh) {
        if (experiment_look(s->experiment)) {
            for (uint32_t i = 0; i < s->guard_count; i++)
                experiment_judge(s->experiment, 1, i, &p->judgements[i]);
            experiment_ratio(s->experiment, &p->evidence.ratio);
        }
        p->evidence.tripwire =
            experiment_tripwire(s->experiment, 1, p->tripwire, sizeof(p->tripwire)) ? p->tripwire : NULL;
        s->fresh = false;
    }
    p->evidence.locked = p->state.lock.at_ms != 0;
    rollout_advance(r, now_ms);
    rollout_decide(r, &p->evidence, &decision);
    const bool waits = p->resumed && r->plan.guard_count > 0 && catching_up(p, now_ms);
    if (decision.action == ROLLOUT_STAY ||
        (waits && (decision.action == ROLLOUT_STEP || decision.action == ROLLOUT_FINISH)))
        return false;
    const struct decision d = { .rollout = &decision, .why = decision.reason };
    return commit(p, now_ms, change_rollout, &d, "rollout.decided");
}

static void put_experiment_detail(struct pilot *p, struct apply *a, struct json_writer *w)
{
    json_key(w, SPAN("experiment"));
    pilot_json_experiment(p, a->now_ms, w);
}

static enum err change_experiment(struct pilot *p, struct apply *a, const struct decision *d)
{
    char why[APPLY_WHY_BYTES];
    if (!state_experimenting(&a->state) || a->state.experiment->id != p->state.experiment->id)
        return ERR_STALE;
    apply_end_experiment(a, span_cstr(d->why));
    snprintf(why, sizeof(why), "experiment-%llu: stopped", (unsigned long long)a->state.experiment->id);
    const enum err err = apply_head(a, apply_stable(a), why);
    return err ? err : put_audit(p, a, "experiment.stop", d->why, put_experiment_detail);
}

/* An experiment decides nothing, but gross harm ends it. */
static bool tick_experiment(struct pilot *p, int64_t now_ms)
{
    struct stage *s = &p->experiment;
    char why[ROLLOUT_REASON_BYTES / 2], words[ROLLOUT_REASON_BYTES];
    if (!s->experiment || !s->fresh)
        return false;
    s->fresh = false;
    (void)experiment_look(s->experiment);
    for (uint32_t arm = 1; arm < s->arm_count; arm++) {
        if (!experiment_tripwire(s->experiment, arm, why, sizeof(why)))
            continue;
        snprintf(words, sizeof(words), "%s stopped, everybody is back on the stable version; v%u: %s", s->id,
                 s->versions[arm], why);
        const struct decision d = { .why = words };
        return commit(p, now_ms, change_experiment, &d, "experiment.stopped");
    }
    return false;
}

static void put_shadow_detail(struct pilot *p, struct apply *a, struct json_writer *w)
{
    json_key(w, SPAN("shadow"));
    pilot_json_shadow(p, a->now_ms, w);
}

static enum err change_shadow(struct pilot *p, struct apply *a, const struct decision *d)
{
    char why[APPLY_WHY_BYTES];
    if (!state_shadowing(&a->state) || a->state.shadow->id != p->state.shadow->id)
        return ERR_STALE;
    apply_end_shadow(a, span_cstr(d->why));
    snprintf(why, sizeof(why), "shadow-%llu: stopped", (unsigned long long)a->state.shadow->id);
    const enum err err = apply_head(a, apply_stable(a), why);
    return err ? err : put_audit(p, a, "shadow.stop", d->why, put_shadow_detail);
}

/* Nodes bound what each of them spends; this bounds all of them together. */
static bool tick_shadow(struct pilot *p, int64_t now_ms)
{
    char why[128];
    struct decision d = { .why = "the shadow's budget is spent" };
    if (p->shadow.spent_nano < p->state.shadow->budget_nano) {
        if (p->shadow.unsent < SHADOW_UNSENT_MAX)
            return false;
        snprintf(why, sizeof(why), "what is left of the shadow's budget is less than any of the last %u copies needed",
                 SHADOW_UNSENT_MAX);
        d.why = why;
    }
    return commit(p, now_ms, change_shadow, &d, "shadow.stopped");
}

bool pilot_tick(struct pilot *p, int64_t now_ms)
{
    bool changed = false;
    if (!p->followed)
        return false;
    if (state_rolling(&p->state))
        changed = tick_rollout(p, now_ms);
    if (!changed && state_experimenting(&p->state))
        changed = tick_experiment(p, now_ms);
    if (!changed && state_shadowing(&p->state))
        changed = tick_shadow(p, now_ms);
    return changed;
}

const struct pilot_state *pilot_state(const struct pilot *p)
{
    return &p->state;
}

const struct rollout_evidence *pilot_evidence(struct pilot *p)
{
    p->evidence.judgements = p->judgements;
    return &p->evidence;
}
