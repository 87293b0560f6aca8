/* What the pilot knows, as JSON for people: where things stand, what was measured, and what happens next. */
#include "common/units.h"
#include "controlplane/pilot/pilot_internal.h"

static void number(struct json_writer *w, const char *name, double value)
{
    json_key(w, span_cstr(name));
    json_put_double(w, value);
}

static void put_list(struct json_writer *w, const char *name, const struct span_list *list)
{
    json_key(w, span_cstr(name));
    json_array_open(w);
    for (uint32_t i = 0; i < list->count; i++)
        json_put_string(w, list->items[i]);
    json_array_close(w);
}

static void put_share(struct json_writer *w, const char *name, uint32_t buckets)
{
    json_member_decimal(w, name, buckets, 4);
}

/* Requests of all arms in a second, as the nodes' clocks have it; 0: too few to say. */
static double rate_of(const struct stage *s)
{
    uint64_t requests = 0;
    for (uint32_t i = 0; i < s->arm_count; i++)
        requests += s->requests[i];
    const int64_t ms = s->last_ms - s->first_ms;
    return requests > 1 && ms > 0 ? (double)requests * 1000 / (double)ms : 0;
}

/* Whether this traffic can tell a change as large as the guard tolerates, and when. */
static void put_needed(const struct stage *s, uint32_t arm, uint32_t guard, struct json_writer *w)
{
    uint64_t more = 0;
    const double rate = rate_of(s);
    struct judgement j;
    experiment_judge(s->experiment, arm, guard, &j);
    /* Whether units go on coming is seen from the second look on. */
    const enum needed needed =
        j.looks < 2 ? NEEDED_UNKNOWN : experiment_needed(s->experiment, arm, guard, s->guards[guard].tolerance, &more);
    json_key(w, SPAN("needed"));
    json_object_open(w);
    json_member_cstr(w, "answer", needed == NEEDED_KNOWN ? "known" : needed == NEEDED_NEVER ? "never" : "unknown");
    if (needed == NEEDED_KNOWN) {
        json_member_u64(w, "requests_more", more);
        if (rate > 0)
            number(w, "seconds_more", (double)more / rate);
    }
    json_object_close(w);
}

static void put_judgement(const struct stage *s, uint32_t arm, uint32_t guard, const struct judgement *j,
                          struct json_writer *w)
{
    json_object_open(w);
    json_member_u64(w, "version", s->versions[arm]);
    rollout_judgement_members(&s->guards[guard], j, w);
    put_needed(s, arm, guard, w);
    json_object_close(w);
}

/* Members that every stage has. */
static void put_stage(const struct stage *s, struct json_writer *w)
{
    struct experiment_counts counts = { 0 };
    if (s->experiment)
        experiment_counts(s->experiment, &counts);
    number(w, "requests_per_second", rate_of(s));
    json_member_u64(w, "strays", counts.strays);
    json_member_u64(w, "refused", counts.refused);
    json_member_u64(w, "lost", s->lost);
    json_key(w, SPAN("requests"));
    json_array_open(w);
    for (uint32_t i = 0; i < s->arm_count; i++)
        json_put_u64(w, s->requests[i]);
    json_array_close(w);
}

static void put_next(struct pilot *p, const struct rollout *r, struct json_writer *w)
{
    struct rollout_decision d;
    char share[16], words[ROLLOUT_REASON_BYTES];
    const char *even_so = r->plan.guard_count ? "; harm rolls back even so" : "";
    rollout_decide(r, pilot_evidence(p), &d);
    rollout_share_format(r->plan.steps[r->step + 1], share);
    json_member_i64(w, "hold_left_ms", d.hold_left_ms);
    json_member_bool(w, "waits", d.waits);
    json_member_bool(w, "too_little", d.too_little);
    json_member_cstr(w, "now", d.reason);
    put_share(w, "next_share", r->plan.steps[r->step + 1]);
    if (r->phase == ROLLOUT_PAUSED)
        snprintf(words, sizeof(words), "`fairlead rollout resume` goes on towards %s%s", share, even_so);
    else if (p->state.lock.at_ms)
        snprintf(words, sizeof(words), "nothing until `fairlead unlock`%s", even_so);
    else
        snprintf(words, sizeof(words), "%s%s%s", share, d.hold_left_ms > 0 ? " when the hold time is over" : "",
                 !r->plan.guard_count ? ""
                 : d.hold_left_ms > 0
                     ? " and no guard can show harm beyond its tolerance; harm by any guard rolls back at once"
                     : " when no guard can show harm beyond its tolerance; harm by any guard rolls back at once");
    json_member_cstr(w, "next", words);
}

void pilot_json_rollout(struct pilot *p, int64_t now_ms, struct json_writer *w)
{
    const struct rollout *r = p->state.rollout;
    char id[STATE_ID_BYTES];
    if (!r) {
        json_put_null(w);
        return;
    }
    struct rollout live = *r;
    rollout_advance(&live, now_ms);
    json_object_open(w);
    json_member_cstr(w, "id", state_id("rollout", r->id, id));
    json_member_cstr(w, "phase", rollout_phase_name(r->phase));
    json_member_u64(w, "from", r->from);
    json_member_u64(w, "to", r->to);
    json_member_cstr(w, "unit", rollout_unit_plural(r->plan.unit));
    json_member_u64(w, "step", r->step + 1);
    put_share(w, "share", rollout_share(r));
    json_member_i64(w, "started_at_ms", r->started_at_ms);
    json_member_i64(w, "step_at_ms", r->step_at_ms);
    json_member_i64(w, "ended_at_ms", r->ended_at_ms);
    json_member_i64(w, "held_ms", live.held_ms);
    json_member_string(w, "by", r->by);
    json_key(w, SPAN("plan"));
    rollout_plan_json(&r->plan, w);
    if (rollout_live(r)) {
        put_next(p, &live, w);
        put_stage(&p->rollout, w);
        rollout_evidence_json(r, pilot_evidence(p), w);
        json_key(w, SPAN("needed"));
        json_array_open(w);
        for (uint32_t i = 0; p->rollout.experiment && i < p->rollout.guard_count; i++) {
            json_object_open(w);
            json_member_cstr(w, "metric", metric_name(p->rollout.guards[i].metric));
            put_needed(&p->rollout, 1, i, w);
            json_object_close(w);
        }
        json_array_close(w);
    }
    rollout_decisions_member(r, w);
    json_object_close(w);
}

void pilot_json_experiment(struct pilot *p, int64_t now_ms, struct json_writer *w)
{
    const struct state_experiment *e = p->state.experiment;
    const struct stage *s = &p->experiment;
    struct ratio_check ratio = { .p_value = 1 };
    char id[STATE_ID_BYTES];
    if (!e) {
        json_put_null(w);
        return;
    }
    if (s->experiment)
        experiment_ratio(s->experiment, &ratio);
    json_object_open(w);
    json_member_cstr(w, "id", state_id("experiment", e->id, id));
    json_member_cstr(w, "phase", e->ended_at_ms ? "stopped" : "running");
    json_member_i64(w, "started_at_ms", e->started_at_ms);
    json_member_i64(w, "ended_at_ms", e->ended_at_ms);
    json_member_i64(w, "runs_ms", (e->ended_at_ms ? e->ended_at_ms : now_ms) - e->started_at_ms);
    json_member_string(w, "ended_why", e->ended_why);
    json_member_string(w, "by", e->by);
    json_member_cstr(w, "unit", rollout_unit_plural(e->unit));
    put_list(w, "routes", &e->routes);
    number(w, "alpha", EXPERIMENT_ALPHA);
    json_key(w, SPAN("arms"));
    json_array_open(w);
    for (uint32_t i = 0; i < e->arm_count; i++) {
        json_object_open(w);
        json_member_u64(w, "version", e->arms[i].version);
        put_share(w, "share", e->arms[i].share);
        json_member_u64(w, "requests", i < s->arm_count ? s->requests[i] : 0);
        json_member_u64(w, "units", ratio.units[i]);
        json_object_close(w);
    }
    json_array_close(w);
    json_member_bool(w, "ratio_mismatch", ratio.mismatch);
    number(w, "ratio_p_value", ratio.p_value);
    put_stage(s, w);
    json_key(w, SPAN("results"));
    json_array_open(w);
    for (uint32_t guard = 0; s->experiment && guard < s->guard_count; guard++) {
        for (uint32_t arm = 1; arm < s->arm_count; arm++) {
            struct judgement j;
            experiment_judge(s->experiment, arm, guard, &j);
            put_judgement(s, arm, guard, &j, w);
        }
    }
    json_array_close(w);
    json_object_close(w);
}

static void put_latency(struct json_writer *w, const char *name, const struct hist *hist)
{
    json_key(w, span_cstr(name));
    json_object_open(w);
    json_member_u64(w, "p50_us", hist_quantile(hist, 0.5));
    json_member_u64(w, "p90_us", hist_quantile(hist, 0.9));
    json_member_u64(w, "mean_us", hist->count ? hist->sum / hist->count : 0);
    json_object_close(w);
}

void pilot_json_shadow(struct pilot *p, int64_t now_ms, struct json_writer *w)
{
    const struct state_shadow *s = p->state.shadow;
    const struct shadow_stage *seen = &p->shadow;
    char id[STATE_ID_BYTES];
    if (!s) {
        json_put_null(w);
        return;
    }
    json_object_open(w);
    json_member_cstr(w, "id", state_id("shadow", s->id, id));
    json_member_cstr(w, "phase", s->ended_at_ms ? "stopped" : "running");
    json_member_u64(w, "version", s->version);
    json_member_u64(w, "share_ppm", s->share_ppm);
    json_member_i64(w, "budget_nano", s->budget_nano);
    json_member_i64(w, "spent_nano", seen->spent_nano);
    json_member_bool(w, "tools", s->tools);
    put_list(w, "routes", &s->routes);
    json_member_i64(w, "started_at_ms", s->started_at_ms);
    json_member_i64(w, "ended_at_ms", s->ended_at_ms);
    json_member_i64(w, "runs_ms", (s->ended_at_ms ? s->ended_at_ms : now_ms) - s->started_at_ms);
    json_member_string(w, "ended_why", s->ended_why);
    json_member_string(w, "by", s->by);
    json_member_u64(w, "copies", seen->copies);
    json_member_u64(w, "failed", seen->failed);
    json_member_u64(w, "unsent", seen->unsent);
    json_key(w, SPAN("compared"));
    json_object_open(w);
    json_member_u64(w, "requests", seen->compared);
    json_member_u64(w, "same_status", seen->same_status);
    json_member_u64(w, "real_failed", seen->real_failed);
    json_member_u64(w, "shadow_failed", seen->copy_failed);
    json_member_u64(w, "real_tokens", seen->real_tokens);
    json_member_u64(w, "shadow_tokens", seen->copy_tokens);
    json_member_i64(w, "real_nano", seen->real_nano);
    json_member_i64(w, "shadow_nano", seen->copy_nano);
    put_latency(w, "real_latency", &seen->real_us);
    put_latency(w, "shadow_latency", &seen->copy_us);
    json_object_close(w);
    json_object_close(w);
}

void pilot_json_lock(const struct pilot *p, struct json_writer *w)
{
    const struct state_lock *lock = &p->state.lock;
    if (!lock->at_ms) {
        json_put_null(w);
        return;
    }
    json_object_open(w);
    json_member_i64(w, "at_ms", lock->at_ms);
    json_member_string(w, "by", lock->by);
    json_member_string(w, "reason", lock->reason);
    json_object_close(w);
}
