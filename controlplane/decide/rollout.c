#include "controlplane/decide/rollout.h"
#include "common/arena.h"
#include "common/units.h"
#include <math.h>

bool rollout_live(const struct rollout *r)
{
    return r->phase == ROLLOUT_RUNNING || r->phase == ROLLOUT_PAUSED;
}

uint32_t rollout_share(const struct rollout *r)
{
    switch (r->phase) {
    case ROLLOUT_RUNNING:
    case ROLLOUT_PAUSED:
        return r->plan.steps[r->step];
    case ROLLOUT_DONE:
        return ASSIGNMENT_BUCKETS;
    case ROLLOUT_ABORTED:
    case ROLLOUT_ROLLED_BACK:
        return 0;
    }
    return 0;
}

double rollout_step_alpha(const struct rollout *r)
{
    return ROLLOUT_ALPHA / (r->plan.step_count > 1 ? r->plan.step_count - 1 : 1);
}

const char *rollout_phase_name(enum rollout_phase phase)
{
    static const char *const names[] = { [ROLLOUT_RUNNING] = "running",
                                         [ROLLOUT_PAUSED] = "paused",
                                         [ROLLOUT_DONE] = "done",
                                         [ROLLOUT_ABORTED] = "aborted",
                                         [ROLLOUT_ROLLED_BACK] = "rolled back" };
    return names[phase];
}

const char *rollout_action_name(enum rollout_action action)
{
    static const char *const names[] = { [ROLLOUT_STAY] = "stay",
                                         [ROLLOUT_STEP] = "step",
                                         [ROLLOUT_FINISH] = "finish",
                                         [ROLLOUT_ROLL_BACK] = "roll back",
                                         [ROLLOUT_PAUSE] = "pause" };
    return names[action];
}

void rollout_start(struct rollout *r, int64_t now_ms)
{
    REQUIRE(!rollout_plan_straight(&r->plan));
    r->phase = ROLLOUT_RUNNING;
    r->step = 0;
    r->started_at_ms = r->step_at_ms = r->looked_at_ms = now_ms;
    r->held_ms = r->ended_at_ms = 0;
    r->generation = 0;
    r->decision_count = 0;
}

void rollout_advance(struct rollout *r, int64_t now_ms)
{
    if (r->phase == ROLLOUT_RUNNING && now_ms > r->looked_at_ms)
        r->held_ms += now_ms - r->looked_at_ms;
    r->looked_at_ms = now_ms;
}

/* ---- deciding ---- */

static bool has_data(const struct judgement *j)
{
    return j->requests[0] > 0 || j->requests[1] > 0;
}

/* Guards whose interval does not exclude harm yet; *ret_first is the first of them. Without any data at all, all are. */
static uint32_t count_missing(const struct rollout *r, const struct rollout_evidence *e, uint32_t *ret_first)
{
    uint32_t missing = 0;
    bool any_data = false;
    for (uint32_t i = 0; i < r->plan.guard_count; i++)
        any_data |= has_data(&e->judgements[i]);
    for (uint32_t i = r->plan.guard_count; i-- > 0;) {
        const struct judgement *j = &e->judgements[i];
        if (j->verdict == VERDICT_NO_HARM || (any_data && !has_data(j)))
            continue;
        *ret_first = i;
        missing++;
    }
    return missing;
}

static void say(struct rollout_decision *d, enum rollout_action action, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void say(struct rollout_decision *d, enum rollout_action action, const char *fmt, ...)
{
    va_list args;
    d->action = action;
    va_start(args, fmt);
    vsnprintf(d->reason, sizeof(d->reason), fmt, args);
    va_end(args);
}

static bool decide_harm(const struct rollout *r, const struct rollout_evidence *e, struct rollout_decision *d)
{
    for (uint32_t i = 0; i < r->plan.guard_count; i++) {
        if (e->judgements[i].verdict != VERDICT_HARM)
            continue;
        d->action = ROLLOUT_ROLL_BACK;
        rollout_guard_words(r, i, &e->judgements[i], d->reason, sizeof(d->reason));
        return true;
    }
    if (e->tripwire)
        say(d, ROLLOUT_ROLL_BACK, "%s", e->tripwire);
    return e->tripwire != NULL;
}

static void go_on(const struct rollout *r, const char *why, struct rollout_decision *d)
{
    char next[16];
    if (r->step + 2 >= r->plan.step_count)
        say(d, ROLLOUT_FINISH, "%s: to 100%%", why);
    else
        say(d, ROLLOUT_STEP, "%s: to %s", why, rollout_share_format(r->plan.steps[r->step + 1], next));
}

/* In whole seconds once it is one: people wait for it. */
static char *format_while(uint64_t ms, char *out)
{
    return units_format_duration(ms < 1000 ? ms : ms - ms % 1000, out);
}

static void decide_time(const struct rollout *r, const struct rollout_evidence *e, struct rollout_decision *d)
{
    char held[UNITS_TEXT_BYTES], left[UNITS_TEXT_BYTES], words[ROLLOUT_REASON_BYTES / 2];
    uint32_t first = 0;
    const uint32_t missing = count_missing(r, e, &first);
    format_while((uint64_t)r->held_ms, held);
    if (d->hold_left_ms > 0) {
        say(d, ROLLOUT_STAY, "held for %s, %s to go", held, format_while((uint64_t)d->hold_left_ms, left));
        return;
    }
    if (missing == 0) {
        snprintf(words, sizeof(words),
                 r->plan.guard_count ? "held for %s, and no guard shows harm beyond its tolerance" : "held for %s",
                 held);
        go_on(r, words, d);
        return;
    }
    d->waits = true;
    d->too_little = r->held_ms >= (int64_t)r->plan.too_little_after_ms;
    rollout_guard_words(r, first, &e->judgements[first], words, sizeof(words));
    if (d->too_little && r->plan.too_little_proceeds) {
        char why[ROLLOUT_REASON_BYTES];
        snprintf(why, sizeof(why),
                 "after %s still too little traffic to exclude harm for %u of %u guards, and the plan "
                 "says proceed (%s)",
                 held, missing, r->plan.guard_count, words);
        go_on(r, why, d);
    } else {
        say(d, ROLLOUT_STAY, "held for %s, but %u of %u guards do not exclude harm yet%s: %s", held, missing,
            r->plan.guard_count, d->too_little ? " for want of traffic; it waits, as the plan says" : "", words);
    }
}

void rollout_decide(const struct rollout *r, const struct rollout_evidence *e, struct rollout_decision *ret)
{
    REQUIRE(rollout_live(r));
    *ret = (struct rollout_decision){ .hold_left_ms = (int64_t)r->plan.hold_ms - r->held_ms };
    if (ret->hold_left_ms < 0)
        ret->hold_left_ms = 0;
    if (decide_harm(r, e, ret))
        return;
    if (r->phase == ROLLOUT_PAUSED)
        say(ret, ROLLOUT_STAY, "paused; guards go on watching");
    else if (e->ratio.mismatch)
        say(ret, ROLLOUT_PAUSE,
            "the arms did not get the shares of %s that they should have (%llu and %llu, p = %.2g): the comparison "
            "cannot "
            "be trusted; look for what loses requests of one arm, then `fairlead rollout resume` or `abort`",
            rollout_unit_plural(r->plan.unit), (unsigned long long)e->ratio.units[0],
            (unsigned long long)e->ratio.units[1], e->ratio.p_value);
    else {
        decide_time(r, e, ret);
        if (e->locked && (ret->action == ROLLOUT_STEP || ret->action == ROLLOUT_FINISH))
            say(ret, ROLLOUT_STAY, "ready for the next step, but the policy is locked");
    }
}

/* ---- doing ---- */

static enum err note(struct rollout *r, struct arena *arena, const char *what, struct span by, const char *reason,
                     int64_t now_ms)
{
    const struct rollout_decided decided = { .at_ms = now_ms,
                                             .what = arena_dup(arena, span_cstr(what)),
                                             .by = arena_dup(arena, by),
                                             .reason = arena_dup(arena, span_cstr(reason)) };
    if (!decided.what.ptr || !decided.by.ptr || !decided.reason.ptr)
        return ERR_NOMEM;
    if (r->decision_count == ROLLOUT_DECISIONS_MAX) {
        r->decision_count--;
        memmove(&r->decisions[0], &r->decisions[1], r->decision_count * sizeof(r->decisions[0]));
    }
    r->decisions[r->decision_count++] = decided;
    return OK;
}

static void end(struct rollout *r, enum rollout_phase phase, int64_t now_ms)
{
    rollout_advance(r, now_ms);
    r->phase = phase;
    r->ended_at_ms = now_ms;
}

static void begin_step(struct rollout *r, int64_t now_ms)
{
    r->phase = ROLLOUT_RUNNING;
    r->held_ms = 0;
    r->generation = 0;
    r->step_at_ms = r->looked_at_ms = now_ms;
}

static enum err to_step(struct rollout *r, struct arena *arena, uint32_t step, struct span by, const char *reason,
                        int64_t now_ms)
{
    char from[16], to[16], what[48];
    rollout_share_format(r->plan.steps[r->step], from);
    rollout_share_format(r->plan.steps[step], to);
    snprintf(what, sizeof(what), "%s -> %s", from, to);
    const enum err err = note(r, arena, what, by, reason, now_ms);
    if (err)
        return err;
    if (step + 1 == r->plan.step_count) {
        end(r, ROLLOUT_DONE, now_ms);
    } else {
        begin_step(r, now_ms);
    }
    r->step = step;
    return OK;
}

enum err rollout_apply(struct rollout *r, struct arena *arena, enum rollout_action action, struct span by,
                       const char *reason, int64_t now_ms)
{
    enum err err = OK;
    switch (action) {
    case ROLLOUT_STAY:
        return OK;
    case ROLLOUT_STEP:
    case ROLLOUT_FINISH:
        if (r->phase != ROLLOUT_RUNNING)
            return ERR_CONFLICT;
        return to_step(r, arena, action == ROLLOUT_STEP ? r->step + 1 : r->plan.step_count - 1, by, reason, now_ms);
    case ROLLOUT_ROLL_BACK:
        if (!rollout_live(r))
            return ERR_CONFLICT;
        err = note(r, arena, "rolled back", by, reason, now_ms);
        if (!err)
            end(r, ROLLOUT_ROLLED_BACK, now_ms);
        return err;
    case ROLLOUT_PAUSE:
        if (r->phase != ROLLOUT_RUNNING)
            return ERR_CONFLICT;
        err = note(r, arena, "paused", by, reason, now_ms);
        if (!err) {
            rollout_advance(r, now_ms);
            r->phase = ROLLOUT_PAUSED;
        }
        return err;
    }
    return ERR_INVALID;
}

enum err rollout_promote(struct rollout *r, struct arena *arena, bool full, struct span by, const char *reason,
                         int64_t now_ms)
{
    if (!rollout_live(r))
        return ERR_CONFLICT;
    return to_step(r, arena, full ? r->plan.step_count - 1 : r->step + 1, by, reason, now_ms);
}

enum err rollout_resume(struct rollout *r, struct arena *arena, bool anew, struct span by, const char *reason,
                        int64_t now_ms)
{
    if (r->phase != ROLLOUT_PAUSED)
        return ERR_CONFLICT;
    const enum err err = note(r, arena, anew ? "resumed anew" : "resumed", by, reason, now_ms);
    if (!err && anew) {
        begin_step(r, now_ms);
    } else if (!err) {
        rollout_advance(r, now_ms);
        r->phase = ROLLOUT_RUNNING;
    }
    return err;
}

enum err rollout_abort(struct rollout *r, struct arena *arena, struct span by, const char *reason, int64_t now_ms)
{
    if (!rollout_live(r))
        return ERR_CONFLICT;
    const enum err err = note(r, arena, "aborted", by, reason, now_ms);
    if (!err)
        end(r, ROLLOUT_ABORTED, now_ms);
    return err;
}
