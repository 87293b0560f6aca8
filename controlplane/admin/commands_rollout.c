/* What people do with a running rollout, and the lock over all of it. */
#include "controlplane/admin/commands.h"
#include "controlplane/admin/plan_args.h"
#include "controlplane/pilot/pilot.h"

#define REASON_BYTES_MAX 1000u
#define HISTORY_DEFAULT  50u
#define HISTORY_MOST     1000u /* lines of one answer */

/* ---- status ---- */

enum admin_status command_rollout_status(struct command_call *call)
{
    struct json_writer *w = call->result;
    struct pilot *pilot = call->service->pilot;
    const struct rollout *r = pilot_state(pilot)->rollout;
    struct head *head;
    const enum err err = command_head(call, &head);
    if (err)
        return command_fail_err(call, "reading the head", err);
    json_object_open(w);
    json_member_u64(w, "live", candidate_live(head)); /* of a rollout that ended, it may be another since */
    json_key(w, SPAN("lock"));
    pilot_json_lock(pilot, w);
    json_key(w, SPAN("rollout"));
    pilot_json_rollout(pilot, call->now_ms, w);
    json_object_close(w);
    if (!r)
        command_fail(call, ADMIN_OK,
                     "there was no rollout yet; `fairlead policy push FILE --steps 5,25,100` makes one");
    return ADMIN_OK;
}

/* ---- pause, resume, promote, abort ---- */

static const char *reason_of(const struct command_call *call)
{
    const char *text = arena_printf(call->arena, SPAN_FMT,
                                    SPAN_ARG(span_head(command_arg(call, "reason", SPAN("")), REASON_BYTES_MAX)));
    return text ? text : "";
}

/* The state's rollout, which must run or be paused; time accounted for. */
static enum admin_status begin(struct command_call *call, struct apply *a)
{
    const enum admin_status status = plan_begin(call, a);
    if (status != ADMIN_OK)
        return status;
    if (!state_rolling(&a->state))
        return command_fail(call, ADMIN_NOT_FOUND, "no rollout is running");
    rollout_advance(a->state.rollout, call->now_ms);
    return ADMIN_OK;
}

/* Every number that the decision could be based on goes to the audit log. */
static enum err put_detail(struct command_call *call, const struct rollout *r)
{
    struct buf json = BUF_INIT(AUDIT_LINE_BYTES_MAX / 2); /* its line has more */
    struct json_writer w;
    struct pilot *pilot = call->service->pilot;
    const struct rollout *seen = pilot_state(pilot)->rollout;
    json_writer_init(&w, &json);
    json_object_open(&w);
    json_key(&w, SPAN("rollout"));
    rollout_json(r, &w);
    if (seen && seen->id == r->id && rollout_live(seen))
        rollout_evidence_json(r, pilot_evidence(pilot), &w);
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    call->audit_detail = err ? SPAN("") : arena_dup(call->arena, buf_span(&json));
    buf_release(&json);
    return err || call->audit_detail.ptr ? err : ERR_NOMEM;
}

static enum admin_status finish(struct command_call *call, struct apply *a, const char *why)
{
    const struct rollout *r = a->state.rollout;
    char share[16];
    const bool head_changes = r->generation == 0 || !rollout_live(r);
    enum err err = apply_rollout(a, why);
    if (!err)
        err = put_detail(call, r);
    if (err)
        return command_fail_err(call, "changing the rollout", err);
    call->republish = true; /* the pilot follows */
    json_object_open(call->result);
    json_member_u64(call->result, "rollout", r->id);
    json_member_cstr(call->result, "phase", rollout_phase_name(r->phase));
    json_member_cstr(call->result, "share", rollout_share_format(rollout_share(r), share));
    json_member_bool(call->result, "changed_tables", head_changes);
    json_member_u64(call->result, "epoch", a->head->epoch);
    json_member_u64(call->result, "generation", a->head->generation);
    json_object_close(call->result);
    return ADMIN_OK;
}

enum admin_status command_rollout_pause(struct command_call *call)
{
    struct apply a;
    char share[16];
    const enum admin_status status = begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    struct rollout *r = a.state.rollout;
    const enum err err =
        rollout_apply(r, call->arena, ROLLOUT_PAUSE, call->request->user, reason_of(call), call->now_ms);
    if (err == ERR_CONFLICT)
        return command_fail(call, ADMIN_CONFLICT, "rollout-%llu is paused already", (unsigned long long)r->id);
    if (err)
        return command_fail_err(call, "pausing", err);
    command_fail(call, ADMIN_OK, "rollout-%llu is paused: v%u stays at %s; time does not count%s",
                 (unsigned long long)r->id, r->to, rollout_share_format(rollout_share(r), share),
                 r->plan.guard_count ? ", and harm by any guard still returns everybody" : "");
    return finish(call, &a, "rollout paused");
}

/* The arms' sizes were wrong, and that is never forgotten of a step: it would pause again at once. */
static bool distrusted(const struct command_call *call, const struct rollout *r)
{
    const struct rollout *seen = pilot_state(call->service->pilot)->rollout;
    return seen && seen->id == r->id && seen->generation == r->generation &&
           pilot_evidence(call->service->pilot)->ratio.mismatch;
}

enum admin_status command_rollout_resume(struct command_call *call)
{
    struct apply a;
    char share[16], why[APPLY_WHY_BYTES];
    const enum admin_status status = begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    struct rollout *r = a.state.rollout;
    const bool anew = distrusted(call, r);
    const enum err err = rollout_resume(r, call->arena, anew, call->request->user, reason_of(call), call->now_ms);
    if (err == ERR_CONFLICT)
        return command_fail(call, ADMIN_CONFLICT, "rollout-%llu is not paused", (unsigned long long)r->id);
    if (err)
        return command_fail_err(call, "resuming", err);
    command_fail(call, ADMIN_OK, "rollout-%llu goes on at %s of v%u, %s", (unsigned long long)r->id,
                 rollout_share_format(rollout_share(r), share), r->to,
                 anew ? "measured anew: the hold time begins again, and what was seen so far does not count"
                      : "with the hold time it had");
    snprintf(why, sizeof(why), "rollout-%llu: %s of v%u, measured anew", (unsigned long long)r->id, share, r->to);
    return finish(call, &a, why);
}

enum admin_status command_rollout_promote(struct command_call *call)
{
    struct apply a;
    char why[APPLY_WHY_BYTES], share[16];
    enum admin_status status = begin(call, &a);
    if (status == ADMIN_OK)
        status = plan_check_lock(call, &a.state);
    if (status != ADMIN_OK)
        return status;
    struct rollout *r = a.state.rollout;
    const enum err err =
        rollout_promote(r, call->arena, command_flag(call, "full"), call->request->user, reason_of(call), call->now_ms);
    if (err)
        return command_fail_err(call, "promoting", err);
    rollout_share_format(rollout_share(r), share);
    snprintf(why, sizeof(why), "rollout-%llu: %s of v%u, by hand", (unsigned long long)r->id, share, r->to);
    if (r->phase == ROLLOUT_DONE)
        command_fail(call, ADMIN_OK, "v%u is live at 100%% (was v%u); `fairlead rollback` returns to v%u", r->to,
                     r->from, r->from);
    else
        command_fail(call, ADMIN_OK, "rollout-%llu: v%u takes %s now; the hold time begins anew",
                     (unsigned long long)r->id, r->to, share);
    return finish(call, &a, why);
}

enum admin_status command_rollout_abort(struct command_call *call)
{
    struct apply a;
    char why[APPLY_WHY_BYTES], share[16];
    const enum admin_status status = begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    struct rollout *r = a.state.rollout;
    rollout_share_format(rollout_share(r), share);
    const enum err err = rollout_abort(r, call->arena, call->request->user, reason_of(call), call->now_ms);
    if (err)
        return command_fail_err(call, "aborting", err);
    snprintf(why, sizeof(why), "rollout-%llu aborted: v%u -> v%u", (unsigned long long)r->id, r->to, r->from);
    command_fail(call, ADMIN_OK,
                 "rollout-%llu is aborted: v%u, which had %s, is marked as rolled back; v%u holds 100%%",
                 (unsigned long long)r->id, r->to, share, r->from);
    return finish(call, &a, why);
}

/* ---- history ---- */

struct history {
    uint64_t *seqs; /* ring of the newest that match */
    uint32_t wanted;
    uint64_t matched;
};

static struct span text_of(struct arena *arena, const struct json_index *ix, const char *name)
{
    struct span text;
    const uint32_t token = json_get(ix, 0, span_cstr(name));
    return token != JSON_NONE && json_string(arena, ix, token, &text) == OK ? text : SPAN("");
}

/* A push or rollback that changed nothing is in the audit log alone. */
static bool concerns(struct span json)
{
    static const char *const prefixes[] = { "rollout.", "experiment.", "shadow.", "policy.push",
                                            "rollback", "lock",        "unlock" };
    struct json_index ix;
    struct arena arena;
    bool found = false;
    arena_init(&arena, 8u << 20);
    if (json_index(&arena, json, &json_limits_default, &ix, NULL) == OK) {
        const struct span command = text_of(&arena, &ix, "command");
        for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
            found |= span_starts(command, span_cstr(prefixes[i]));
        found = found && !span_starts(text_of(&arena, &ix, "message"), SPAN(COMMAND_NOTHING_TO_DO));
    }
    arena_release(&arena);
    return found;
}

static bool note_seq(void *user, uint64_t seq, struct span json)
{
    struct history *h = user;
    if (concerns(json))
        h->seqs[h->matched++ % h->wanted] = seq;
    return true;
}

static bool put_line(void *user, uint64_t seq, struct span json)
{
    struct command_call *call = user;
    json_object_open(call->result);
    json_member_u64(call->result, "seq", seq);
    json_key(call->result, SPAN("entry"));
    json_put_raw(call->result, json);
    json_object_close(call->result);
    return false; /* this one only */
}

enum admin_status command_rollout_history(struct command_call *call)
{
    uint64_t wanted = HISTORY_DEFAULT;
    struct versions *versions = call->service->versions;
    const struct span limit = command_arg(call, "limit", SPAN(""));
    if (!span_empty(limit) && (span_to_u64(limit, &wanted) != OK || wanted == 0 || wanted > HISTORY_MOST))
        return command_fail(call, ADMIN_INVALID, "'limit' must be a number from 1 to %u", HISTORY_MOST);
    struct history h = { .wanted = (uint32_t)wanted };
    h.seqs = ARENA_ARRAY(call->arena, wanted, uint64_t);
    enum err err = h.seqs ? versions_audit_each(versions, 1, note_seq, &h) : ERR_NOMEM;
    json_array_open(call->result);
    for (uint64_t i = h.matched > wanted ? h.matched - wanted : 0; !err && i < h.matched; i++)
        err = versions_audit_each(versions, h.seqs[i % wanted], put_line, call);
    json_array_close(call->result);
    return err ? command_fail_err(call, "reading the audit log", err) : ADMIN_OK;
}

/* ---- lock ---- */

static enum admin_status store_lock(struct command_call *call, struct apply *a)
{
    const enum err err = state_store(call->service->versions, &a->state);
    if (err)
        return command_fail_err(call, "storing the lock", err);
    call->republish = true; /* the pilot follows */
    json_object_open(call->result);
    json_member_bool(call->result, "locked", a->state.lock.at_ms != 0);
    json_object_close(call->result);
    return ADMIN_OK;
}

enum admin_status command_lock(struct command_call *call)
{
    struct apply a;
    const struct span reason = span_head(command_arg(call, "reason", SPAN("")), REASON_BYTES_MAX);
    if (span_empty(reason))
        return command_fail(call, ADMIN_INVALID, "say why: --reason TEXT");
    const enum admin_status status = plan_begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    if (a.state.lock.at_ms)
        return command_fail(call, ADMIN_CONFLICT, "locked already, by " SPAN_FMT ": " SPAN_FMT,
                            SPAN_ARG(a.state.lock.by), SPAN_ARG(span_head(a.state.lock.reason, 500)));
    a.state.lock = (struct state_lock){ .at_ms = call->now_ms, .by = call->request->user, .reason = reason };
    command_fail(
        call, ADMIN_OK,
        "locked: no push, no promotion, no step by itself, until `fairlead unlock`; rollback works, and guards go "
        "on watching");
    return store_lock(call, &a);
}

enum admin_status command_unlock(struct command_call *call)
{
    struct apply a;
    const enum admin_status status = plan_begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    if (!a.state.lock.at_ms)
        return command_fail(call, ADMIN_CONFLICT, "it is not locked");
    a.state.lock = (struct state_lock){ 0 };
    command_fail(call, ADMIN_OK, "unlocked%s", state_rolling(&a.state) ? "; the rollout may go on" : "");
    return store_lock(call, &a);
}
