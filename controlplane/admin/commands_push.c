/* Going live and back: policy push, rollback. */
#include "common/units.h"
#include "controlplane/admin/commands.h"
#include "controlplane/admin/plan_args.h"
#include "proto/wire.h"

#define AUTHOR_BYTES_MAX  200u
#define MESSAGE_BYTES_MAX 2000u

static enum admin_status store_version(struct command_call *call, const struct candidate *c,
                                       struct version_record *record)
{
    struct versions *versions = call->service->versions;
    struct buf bytes = BUF_INIT(ARTIFACT_BYTES_MAX);
    enum err err = wire_encode_artifact(c->artifact, &bytes);
    if (!err) {
        const struct object object = wire_object(OBJECT_ARTIFACT, 0, buf_span(&bytes));
        *record = (struct version_record){
            .state = VERSION_STORED,
            .policy_hash = policy_hash(c->policy),
            .artifact = object.hash,
            .author = span_head(call->request->user, AUTHOR_BYTES_MAX),
            .message = span_head(command_arg(call, "message", SPAN("")), MESSAGE_BYTES_MAX),
            .created_at_ms = call->now_ms,
            .book_version = evidence_book(call->service->evidence)->version,
            .bundle = c->bundle,
        };
        err = versions_artifact_put(versions, &object.hash, object.bytes);
    }
    buf_release(&bytes);
    if (!err)
        err = versions_add(versions, record);
    if (err == ERR_FULL)
        return command_fail(call, ADMIN_INVALID, "the compiled policy is larger than %u bytes", ARTIFACT_BYTES_MAX);
    return err ? command_fail_err(call, "storing the version", err) : ADMIN_OK;
}

/* --expect V: for scripts that must not push over somebody else's version. */
static enum admin_status check_expected(struct command_call *call, uint32_t live)
{
    uint32_t expected = 0;
    const enum admin_status status = candidate_version_arg(call, "expect", &expected);
    if (status == ADMIN_OK && expected && expected != live)
        return command_fail(call, ADMIN_CONFLICT,
                            "v%u was expected to be live, but v%u is; look at `fairlead policy diff` first", expected,
                            live);
    return status;
}

/* ---- how a push goes live ---- */

static enum admin_status go_straight(struct command_call *call, struct apply *a, struct version_record *record,
                                     bool again)
{
    char why[64];
    const uint32_t was = apply_stable(a);
    snprintf(why, sizeof(why), "push v%u%s", record->version, again ? " again" : "");
    const enum err err = apply_full(a, record, VERSION_RETIRED, why);
    if (err)
        return command_fail_err(call, "going live", err);
    if (again)
        command_fail(call, ADMIN_OK, "v%u, pushed before with the same content, is live again (was v%u)",
                     record->version, was);
    else if (was)
        command_fail(call, ADMIN_OK, "v%u is live at 100%% (was v%u)", record->version, was);
    else
        command_fail(call, ADMIN_OK, "v%u is live at 100%%, the first version", record->version);
    return ADMIN_OK;
}

/* The smallest share that any arm has while guards judge. */
static uint32_t least_share(const struct rollout_plan *plan)
{
    const uint32_t first = plan->steps[0], stable = ASSIGNMENT_BUCKETS - plan->steps[plan->step_count - 2];
    return first < stable ? first : stable;
}

static enum admin_status go_by_steps(struct command_call *call, struct apply *a, struct version_record *record,
                                     const struct rollout_plan *plan)
{
    char why[APPLY_WHY_BYTES], first[16], next[16], hold[UNITS_TEXT_BYTES], id[STATE_ID_BYTES];
    enum admin_status status =
        plan->guard_count == 0
            ? ADMIN_OK
            : plan_check_units(call, plan->unit, least_share(plan),
                               ", take larger steps, go by time alone (--guard none), or go to 100% at once (--now)");
    if (status != ADMIN_OK)
        return status;
    struct rollout *r = ARENA_NEW(call->arena, struct rollout);
    if (!r)
        return command_fail_err(call, "starting the rollout", ERR_NOMEM);
    *r = (struct rollout){ .id = ++a->state.last_id,
                           .from = apply_stable(a),
                           .to = record->version,
                           .plan = *plan,
                           .by = call->request->user };
    random_bytes(r->salt, sizeof(r->salt));
    rollout_start(r, call->now_ms);
    a->state.rollout = r;
    state_id("rollout", r->id, id);
    rollout_share_format(plan->steps[0], first);
    rollout_share_format(plan->steps[1], next);
    snprintf(why, sizeof(why), "push v%u: %s: %s", record->version, id, first);
    enum err err = apply_rollout(a, why);
    if (!err) {
        record->state = VERSION_STORED; /* again, when it was rolled back before */
        err = versions_update(call->service->versions, record);
    }
    if (err)
        return command_fail_err(call, "starting the rollout", err);
    command_fail(
        call, ADMIN_OK,
        "%s: v%u takes %s of %s%s now, v%u keeps the rest; %s after at least %s%s v%u%s. Watch it: `fairlead rollout "
        "status --watch`",
        id, record->version, first, rollout_unit_plural(plan->unit), plan->routes.count ? " on its routes" : "",
        r->from, next, units_format_duration(plan->hold_ms, hold),
        plan->guard_count ? " and when no guard can show harm beyond its tolerance; harm by any guard returns to"
                          : ", by time alone: without guards nothing but you returns to",
        r->from, plan->guard_count ? " by itself" : "");
    return ADMIN_OK;
}

static enum admin_status go_live(struct command_call *call, struct apply *a, struct candidate *c,
                                 struct version_record *record, bool again)
{
    struct rollout_plan plan;
    enum admin_status status = plan_check_lock(call, &a->state);
    if (status == ADMIN_OK)
        status = plan_args(call, c, &plan);
    if (status != ADMIN_OK)
        return status;
    const bool straight = rollout_plan_straight(&plan) || apply_stable(a) == 0;
    const struct span_list everywhere = { 0 };
    status = plan_check_free(call, &a->state, straight ? &everywhere : &plan.routes);
    /* One at a time, also on other routes: two would leave open which version comes after. */
    if (status == ADMIN_OK && state_rolling(&a->state))
        status = plan_check_free(call, &a->state, &everywhere);
    if (status != ADMIN_OK)
        return status;
    call->republish = true;
    return straight ? go_straight(call, a, record, again) : go_by_steps(call, a, record, &plan);
}

/* ---- push ---- */

static void put_push_result(struct command_call *call, const struct version_record *record, const struct apply *a,
                            bool stored)
{
    const bool rolling = state_rolling(&a->state) && a->state.rollout->to == record->version;
    json_member_u64(call->result, "version", record->version);
    json_member_bool(call->result, "new", stored);
    json_member_cstr(call->result, "state",
                     rolling                         ? "rolling out"
                     : record->state == VERSION_LIVE ? "live"
                                                     : "stored");
    if (rolling)
        json_member_u64(call->result, "rollout", a->state.rollout->id);
    json_member_u64(call->result, "epoch", a->head->epoch);
    json_member_u64(call->result, "generation", a->head->generation);
    json_member_string(call->result, "policy_hash", record->policy_hash);
}

/* Same content as a version that is there: no new version is made. */
static enum admin_status push_known(struct command_call *call, struct apply *a, struct version_record *known,
                                    struct candidate *c)
{
    char share[16];
    enum admin_status status = ADMIN_OK;
    if (known->version == apply_stable(a) && state_rolling(&a->state)) {
        command_fail(call, ADMIN_OK,
                     COMMAND_NOTHING_TO_DO
                     ": this is v%u, which is live; rollout-%llu goes on (v%u at %s): `fairlead rollout "
                     "abort` ends it",
                     known->version, (unsigned long long)a->state.rollout->id, a->state.rollout->to,
                     rollout_share_format(rollout_share(a->state.rollout), share));
    } else if (known->version == apply_stable(a)) {
        command_fail(call, ADMIN_OK, COMMAND_NOTHING_TO_DO ": this is v%u, which is live", known->version);
    } else if (state_rolling(&a->state) && a->state.rollout->to == known->version) {
        command_fail(call, ADMIN_OK,
                     COMMAND_NOTHING_TO_DO ": this is v%u, which is being rolled out (rollout-%llu, at %s)",
                     known->version, (unsigned long long)a->state.rollout->id,
                     rollout_share_format(rollout_share(a->state.rollout), share));
    } else if (command_flag(call, "store")) {
        command_fail(call, ADMIN_OK, COMMAND_NOTHING_TO_DO ": this is v%u, stored already", known->version);
    } else if (known->state == VERSION_ROLLED_BACK && !command_flag(call, "again")) {
        return command_fail(call, ADMIN_CONFLICT,
                            "this is v%u, which was rolled back; push with --again if you mean it", known->version);
    } else {
        status = go_live(call, a, c, known, true);
    }
    if (status != ADMIN_OK)
        return status;
    put_push_result(call, known, a, false);
    candidate_put_diagnostics(call, c);
    return ADMIN_OK;
}

static enum admin_status push_new(struct command_call *call, struct apply *a, struct candidate *c,
                                  const struct artifact *before)
{
    uint32_t count = 0;
    struct version_record *record = ARENA_NEW(call->arena, struct version_record);
    if (!record)
        return command_fail_err(call, "storing the version", ERR_NOMEM);
    enum admin_status status = store_version(call, c, record);
    if (status == ADMIN_OK && !command_flag(call, "store"))
        status = go_live(call, a, c, record, false);
    else if (status == ADMIN_OK)
        command_fail(call, ADMIN_OK,
                     "v%u is stored, not live; a push without --store, or `fairlead rollback %u`, makes it live",
                     record->version, record->version);
    if (status != ADMIN_OK)
        return status;
    put_push_result(call, record, a, true);
    const enum err err = candidate_put_changes(call, before, c->artifact, &count);
    candidate_put_diagnostics(call, c);
    return err ? command_fail_err(call, "comparing", err) : ADMIN_OK;
}

enum admin_status command_policy_push(struct command_call *call)
{
    struct candidate c = { 0 };
    struct apply a;
    struct versions_numbers numbers;
    struct version_record *known;
    enum admin_status status = plan_begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    enum err err = versions_numbers(call->service->versions, &numbers);
    if (err)
        return command_fail_err(call, "reading the head", err);
    status = check_expected(call, apply_stable(&a));
    if (status == ADMIN_OK)
        status = candidate_compile(call, numbers.version_last + 1, &c);
    if (status != ADMIN_OK)
        return status;
    struct artifact *before;
    err = command_live_artifact(call, a.head, &before);
    if (err)
        return command_fail_err(call, "reading the live artifact", err);
    policy_warn_content(c.policy, before, c.artifact, &c.diags);
    err = versions_find_hash(call->service->versions, call->arena, policy_hash(c.policy), &known);
    if (err && err != ERR_NOT_FOUND)
        return command_fail_err(call, "looking for the same content", err);
    json_object_open(call->result);
    status = err ? push_new(call, &a, &c, before) : push_known(call, &a, known, &c);
    if (status == ADMIN_OK)
        json_object_close(call->result);
    return status;
}

/* ---- rollback ---- */

/* The version that held 100% most lately before the live one, other than it, and was not itself rolled back from. */
static const struct version_record *last_full(const struct version_record *all, uint32_t count, uint32_t live)
{
    const struct version_record *best = NULL;
    for (uint32_t i = 0; i < count; i++) {
        const struct version_record *r = &all[i];
        if (r->version == live || r->full_generation == 0 || r->state == VERSION_ROLLED_BACK)
            continue;
        if (!best || r->full_generation > best->full_generation)
            best = r;
    }
    return best;
}

/* What a rollback ends besides: " Ended: rollout-7 of v18, experiment-8." */
static void end_all(struct apply *a, char *out, size_t bytes)
{
    int len = 0;
    out[0] = '\0';
    if (state_experimenting(&a->state))
        len = snprintf(out, bytes, "; ended experiment-%llu", (unsigned long long)a->state.experiment->id);
    if (state_shadowing(&a->state))
        snprintf(out + len, bytes - (size_t)len, "; ended shadow-%llu", (unsigned long long)a->state.shadow->id);
    apply_end_experiment(a, SPAN("ended by a rollback"));
    apply_end_shadow(a, SPAN("ended by a rollback"));
}

/* Ends the running rollout: everybody is back on the version that holds the rest. */
static enum admin_status end_rollout(struct command_call *call, struct apply *a)
{
    char why[APPLY_WHY_BYTES], share[16], ended[100];
    struct rollout *r = a->state.rollout;
    rollout_share_format(rollout_share(r), share);
    rollout_advance(r, call->now_ms);
    enum err err = rollout_apply(r, call->arena, ROLLOUT_ROLL_BACK, call->request->user, "by hand: `fairlead rollback`",
                                 call->now_ms);
    end_all(a, ended, sizeof(ended));
    snprintf(why, sizeof(why), "rollback v%u -> v%u", r->to, r->from);
    if (!err)
        err = apply_rollout(a, why);
    if (err)
        return command_fail_err(call, "rolling back", err);
    command_fail(call, ADMIN_OK,
                 "ended rollout-%llu, which had v%u at %s: returned to v%u, which holds 100%%; v%u is marked as rolled "
                 "back%s",
                 (unsigned long long)r->id, r->to, share, r->from, r->to, ended);
    return ADMIN_OK;
}

/* In the state only: what follows stores it. */
static enum admin_status drop_rollout(struct command_call *call, struct apply *a)
{
    struct version_record *to;
    if (!state_rolling(&a->state))
        return ADMIN_OK;
    enum err err = rollout_apply(a->state.rollout, call->arena, ROLLOUT_ROLL_BACK, call->request->user,
                                 "by hand: `fairlead rollback` to another version", call->now_ms);
    if (!err)
        err = versions_get(call->service->versions, call->arena, a->state.rollout->to, false, &to);
    if (!err) {
        to->state = VERSION_ROLLED_BACK;
        err = versions_update(call->service->versions, to);
    }
    return err ? command_fail_err(call, "ending the rollout", err) : ADMIN_OK;
}

static enum admin_status return_to(struct command_call *call, struct apply *a, uint32_t wanted)
{
    struct version_record *target;
    char why[64], ended[100];
    const uint32_t live = apply_stable(a);
    const bool rolling = state_rolling(&a->state);
    enum admin_status status = drop_rollout(call, a);
    if (status == ADMIN_OK)
        status = candidate_get_version(call, wanted, false, &target);
    if (status != ADMIN_OK)
        return status;
    const int64_t held_at = target->full_at_ms;
    /* What never held 100% is no way back: a lock holds it as it holds a push. */
    if (!held_at)
        status = plan_check_lock(call, &a->state);
    if (status != ADMIN_OK)
        return status;
    end_all(a, ended, sizeof(ended));
    snprintf(why, sizeof(why), "rollback v%u -> v%u", live, wanted);
    const enum err err = apply_full(a, target, held_at ? VERSION_ROLLED_BACK : VERSION_RETIRED, why);
    if (err)
        return command_fail_err(call, "rolling back", err);
    if (held_at)
        command_fail(call, ADMIN_OK, "returned to v%u, which last held 100%%; v%u is marked as rolled back%s%s", wanted,
                     live, rolling ? "; ended the rollout" : "", ended);
    else
        command_fail(call, ADMIN_OK, "v%u, stored before, is live at 100%% (was v%u)%s%s", wanted, live,
                     rolling ? "; ended the rollout" : "", ended);
    return ADMIN_OK;
}

/* Nothing else to return to, but something beside the live version: it ends. */
static enum admin_status end_sides(struct command_call *call, struct apply *a)
{
    char ended[100];
    const uint32_t live = apply_stable(a);
    end_all(a, ended, sizeof(ended));
    const enum err err = apply_head(a, live, "rollback: the live version alone");
    if (err)
        return command_fail_err(call, "rolling back", err);
    command_fail(call, ADMIN_OK, "everybody is on v%u, which holds 100%%%s", live, ended);
    return ADMIN_OK;
}

/* What no version was named for: the last that held 100% before, or the live one where that only ends what runs beside
 * it. */
static enum admin_status choose_target(struct command_call *call, const struct apply *a, uint32_t *wanted)
{
    struct version_record *all;
    uint32_t count;
    const uint32_t live = apply_stable(a);
    const enum err err = versions_list(call->service->versions, call->arena, &all, &count);
    if (err)
        return command_fail_err(call, "reading the versions", err);
    const struct version_record *last = last_full(all, count, live);
    if (!last && !state_experimenting(&a->state) && !state_shadowing(&a->state))
        return command_fail(call, ADMIN_NOT_FOUND,
                            "v%u is live and no other version ever held 100%% without being rolled back; name one: "
                            "`fairlead rollback VERSION`",
                            live);
    *wanted = last ? last->version : live;
    return ADMIN_OK;
}

enum admin_status command_rollback(struct command_call *call)
{
    uint32_t wanted = 0;
    struct apply a;
    enum admin_status status = candidate_version_arg(call, "version", &wanted);
    if (status == ADMIN_OK)
        status = plan_begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    const uint32_t live = apply_stable(&a);
    const bool rolling = state_rolling(&a.state);
    if (!live)
        return command_fail(call, ADMIN_NOT_FOUND, "nothing is live, so there is nothing to roll back");
    const uint32_t from = rolling ? a.state.rollout->to : live;
    if (!rolling && wanted == 0)
        status = choose_target(call, &a, &wanted);
    if (status != ADMIN_OK)
        return status;
    call->republish = true;
    if (rolling && (wanted == 0 || wanted == live)) {
        wanted = live;
        status = end_rollout(call, &a);
    } else if (wanted == live && (state_experimenting(&a.state) || state_shadowing(&a.state))) {
        status = end_sides(call, &a);
    } else if (wanted == live) {
        call->republish = false;
        command_fail(call, ADMIN_OK, COMMAND_NOTHING_TO_DO ": v%u is live", live);
    } else {
        status = return_to(call, &a, wanted);
    }
    if (status != ADMIN_OK)
        return status;
    json_object_open(call->result);
    json_member_u64(call->result, "version", wanted);
    json_member_u64(call->result, "from", from);
    json_member_u64(call->result, "epoch", a.head->epoch);
    json_member_u64(call->result, "generation", a.head->generation);
    json_object_close(call->result);
    return ADMIN_OK;
}
