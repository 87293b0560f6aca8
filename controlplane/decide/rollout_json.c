/* The state of a rollout as it is stored: every number, read back strictly. */
#include "common/arena.h"
#include "common/json_fields.h"
#include "controlplane/decide/rollout.h"

static const char *const phases[] = { "running", "paused", "done", "aborted", "rolled back" };

void rollout_decisions_member(const struct rollout *r, struct json_writer *w)
{
    json_key(w, SPAN("decisions"));
    json_array_open(w);
    for (uint32_t i = 0; i < r->decision_count; i++) {
        json_object_open(w);
        json_member_i64(w, "at_ms", r->decisions[i].at_ms);
        json_member_string(w, "what", r->decisions[i].what);
        json_member_string(w, "by", r->decisions[i].by);
        json_member_string(w, "reason", r->decisions[i].reason);
        json_object_close(w);
    }
    json_array_close(w);
}

void rollout_json(const struct rollout *r, struct json_writer *w)
{
    char salt[2 * sizeof(r->salt) + 1];
    json_object_open(w);
    json_member_u64(w, "schema", ROLLOUT_STATE_SCHEMA);
    json_member_u64(w, "id", r->id);
    json_member_u64(w, "from", r->from);
    json_member_u64(w, "to", r->to);
    json_key(w, SPAN("plan"));
    rollout_plan_json(&r->plan, w);
    json_member_cstr(w, "salt", hex_encode(r->salt, sizeof(r->salt), salt));
    json_member_cstr(w, "phase", phases[r->phase]);
    json_member_u64(w, "step", r->step);
    json_member_u64(w, "generation", r->generation);
    json_member_i64(w, "started_at_ms", r->started_at_ms);
    json_member_i64(w, "step_at_ms", r->step_at_ms);
    json_member_i64(w, "ended_at_ms", r->ended_at_ms);
    json_member_i64(w, "held_ms", r->held_ms);
    json_member_i64(w, "looked_at_ms", r->looked_at_ms);
    json_member_string(w, "by", r->by);
    rollout_decisions_member(r, w);
    json_object_close(w);
}

static void read_decisions(struct json_fields *f, uint32_t array, struct rollout *r)
{
    for (uint32_t t = f->err ? JSON_NONE : json_first(f->ix, array); t != JSON_NONE && !f->err;
         t = json_next(f->ix, array, t)) {
        if (r->decision_count == ROLLOUT_DECISIONS_MAX) {
            f->err = ERR_CORRUPT;
            return;
        }
        r->decisions[r->decision_count++] = (struct rollout_decided){ .at_ms = json_field_i64(f, t, "at_ms"),
                                                                      .what = json_field_text(f, t, "what"),
                                                                      .by = json_field_text(f, t, "by"),
                                                                      .reason = json_field_text(f, t, "reason") };
    }
}

/* What no rollout of ours can be. */
static bool impossible(const struct rollout *r)
{
    if (rollout_plan_straight(&r->plan) || r->step >= r->plan.step_count || r->id == 0 || r->from == 0 || r->to == 0 ||
        r->held_ms < 0)
        return true;
    const bool at_end = r->step + 1 == r->plan.step_count;
    return at_end != (r->phase == ROLLOUT_DONE);
}

enum err rollout_read(struct arena *arena, const struct json_index *ix, uint32_t object, struct rollout *ret)
{
    struct json_fields f = { .arena = arena, .ix = ix };
    struct rollout r = { 0 };
    const uint64_t schema = json_field_u64(&f, object, "schema", UINT32_MAX);
    if (!f.err && schema != ROLLOUT_STATE_SCHEMA)
        return ERR_UNSUPPORTED;
    r.id = json_field_u64(&f, object, "id", UINT64_MAX);
    r.from = (uint32_t)json_field_u64(&f, object, "from", UINT32_MAX);
    r.to = (uint32_t)json_field_u64(&f, object, "to", UINT32_MAX);
    const uint32_t plan = json_field(&f, object, "plan", JSON_OBJECT);
    if (!f.err)
        f.err = rollout_plan_read(arena, ix, plan, &r.plan);
    const struct span salt = json_field_text(&f, object, "salt");
    r.phase = (enum rollout_phase)json_field_word(&f, object, "phase", phases, ARRAY_LEN(phases));
    r.step = (uint32_t)json_field_u64(&f, object, "step", ROLLOUT_STEPS_MAX - 1);
    r.generation = json_field_u64(&f, object, "generation", UINT64_MAX);
    r.started_at_ms = json_field_i64(&f, object, "started_at_ms");
    r.step_at_ms = json_field_i64(&f, object, "step_at_ms");
    r.ended_at_ms = json_field_i64(&f, object, "ended_at_ms");
    r.held_ms = json_field_i64(&f, object, "held_ms");
    r.looked_at_ms = json_field_i64(&f, object, "looked_at_ms");
    r.by = json_field_text(&f, object, "by");
    read_decisions(&f, json_field(&f, object, "decisions", JSON_ARRAY), &r);
    if (!f.err && (hex_decode(salt, r.salt, sizeof(r.salt)) != OK || impossible(&r)))
        f.err = ERR_CORRUPT;
    if (!f.err)
        *ret = r;
    return f.err;
}
