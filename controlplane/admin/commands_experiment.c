/* Arms side by side (experiments), and arms that nobody sees (shadows). */
#include "common/units.h"
#include "controlplane/admin/commands.h"
#include "controlplane/admin/plan_args.h"
#include "controlplane/pilot/pilot.h"

#define REASON_BYTES_MAX 1000u

static void put_result(struct command_call *call, const struct apply *a, const char *id)
{
    json_object_open(call->result);
    json_member_cstr(call->result, "id", id);
    json_member_u64(call->result, "epoch", a->head->epoch);
    json_member_u64(call->result, "generation", a->head->generation);
    json_object_close(call->result);
}

static struct span reason_of(const struct command_call *call, struct span otherwise)
{
    return span_head(command_arg(call, "reason", otherwise), REASON_BYTES_MAX);
}

/* ---- experiments ---- */

static enum admin_status arms_arg(struct command_call *call, struct apply *a, struct state_experiment *e)
{
    struct span rest = command_arg(call, "arms", SPAN("")), part, version;
    uint32_t sum = 0, stable_share = 0, others = 0;
    while (!span_empty(rest) && span_split(&rest, ',', &part)) {
        struct version_record *record;
        struct state_arm arm = { 0 };
        part = span_trim(part);
        (void)span_split(&part, '=', &version);
        if (!part.ptr || rollout_share_text(part, &arm.share) != OK)
            return command_fail(call, ADMIN_INVALID, "arms are written VERSION=PERCENT, such as --arms 12=50,13=50");
        if (e->arm_count == EXPERIMENT_ARMS_MAX)
            return command_fail(call, ADMIN_INVALID, "at most %u arms", EXPERIMENT_ARMS_MAX);
        enum admin_status status = candidate_version_text(call, version, &arm.version);
        if (status == ADMIN_OK)
            status = candidate_get_version(call, arm.version, false, &record);
        if (status != ADMIN_OK)
            return status;
        for (uint32_t i = 0; i < e->arm_count; i++) {
            if (e->arms[i].version == arm.version)
                return command_fail(call, ADMIN_INVALID, "v%u is named twice", arm.version);
        }
        sum += arm.share;
        if (arm.version == apply_stable(a))
            stable_share = arm.share;
        else
            others += arm.share;
        e->arms[e->arm_count++] = arm;
        if (sum > ASSIGNMENT_BUCKETS)
            return command_fail(call, ADMIN_INVALID, "the arms take more than 100%% together");
    }
    if (e->arm_count < 2)
        return command_fail(call, ADMIN_INVALID, "name at least two versions: --arms 12=50,13=50");
    char left[16];
    if (stable_share && stable_share != ASSIGNMENT_BUCKETS - others)
        return command_fail(call, ADMIN_INVALID, "v%u is live and has what the others leave: say %u=%s",
                            apply_stable(a), apply_stable(a), rollout_share_format(ASSIGNMENT_BUCKETS - others, left));
    return ADMIN_OK;
}

static enum admin_status metrics_arg(struct command_call *call, struct state_experiment *e)
{
    struct rollout_plan plan = { 0 };
    struct span rest = command_arg(call, "metrics", SPAN("errors,ttft,cost")), text;
    const char *why; /* speaks of guards, which these are not */
    while (span_split(&rest, ',', &text)) {
        const enum err err = rollout_guard_text(&plan, span_trim(text), &why);
        if (err == ERR_TOO_MANY)
            return command_fail(call, ADMIN_INVALID, "there are too many metrics: at most %u", EXPERIMENT_GUARDS_MAX);
        if (err)
            return command_fail(call, ADMIN_INVALID,
                                "'" SPAN_FMT "' is no metric: errors, ttft, speed, cost, refusals, cancels, fallbacks, "
                                "feedback or feedback:NAME, alone or with the change that matters, such as errors=1%%",
                                SPAN_ARG(span_head(text, 100)));
    }
    if (plan.guard_count == 0)
        return command_fail(call, ADMIN_INVALID, "name what to measure: --metric cost,ttft,errors");
    memcpy(e->metrics, plan.guards, sizeof(e->metrics));
    e->metric_count = plan.guard_count;
    return ADMIN_OK;
}

static uint32_t least_share(const struct state_experiment *e)
{
    uint32_t least = ASSIGNMENT_BUCKETS;
    for (uint32_t i = 0; i < e->arm_count; i++)
        least = e->arms[i].share < least ? e->arms[i].share : least;
    return least;
}

/* "v12 50%, v13 50%" */
static void arms_words(const struct state_experiment *e, char *out, size_t bytes)
{
    size_t len = 0;
    for (uint32_t i = 0; i < e->arm_count && len < bytes; i++) {
        char share[16];
        len += (size_t)snprintf(out + len, bytes - len, "%sv%u %s", i ? ", " : "", e->arms[i].version,
                                rollout_share_format(e->arms[i].share, share));
    }
}

enum admin_status command_experiment_start(struct command_call *call)
{
    struct apply a;
    char id[STATE_ID_BYTES], why[APPLY_WHY_BYTES], words[200];
    struct artifact *live;
    struct state_experiment *e = ARENA_NEW(call->arena, struct state_experiment);
    if (!e)
        return command_fail_err(call, "starting", ERR_NOMEM);
    enum admin_status status = plan_begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    if (apply_stable(&a) == 0)
        return command_fail(call, ADMIN_NOT_FOUND, "no policy is live yet");
    if (state_experimenting(&a.state))
        return command_fail(call, ADMIN_CONFLICT, "experiment-%llu runs; `fairlead experiment stop` it first",
                            (unsigned long long)a.state.experiment->id);
    const enum err read_err = command_live_artifact(call, a.head, &live);
    if (read_err)
        return command_fail_err(call, "reading the live artifact", read_err);
    status = plan_check_lock(call, &a.state);
    if (status == ADMIN_OK)
        status = arms_arg(call, &a, e);
    if (status == ADMIN_OK)
        status = metrics_arg(call, e);
    if (status == ADMIN_OK)
        status = plan_unit_arg(call, &e->unit, &e->header);
    if (status == ADMIN_OK)
        status = plan_routes_arg(call, live, &e->routes);
    if (status == ADMIN_OK)
        status = plan_check_free(call, &a.state, &e->routes);
    if (status == ADMIN_OK)
        status = plan_check_units(call, e->unit, least_share(e), "");
    if (status != ADMIN_OK)
        return status;
    e->id = ++a.state.last_id;
    e->by = call->request->user;
    e->ended_why = SPAN("");
    e->started_at_ms = call->now_ms;
    random_bytes(e->salt, sizeof(e->salt));
    a.state.experiment = e;
    state_id("experiment", e->id, id);
    arms_words(e, words, sizeof(words));
    snprintf(why, sizeof(why), "%s: %.100s", id, words);
    const enum err err = apply_head(&a, apply_stable(&a), why);
    if (err)
        return command_fail_err(call, "starting the experiment", err);
    call->republish = true;
    put_result(call, &a, id);
    command_fail(call, ADMIN_OK,
                 "%s runs: %s of %s, compared with v%u; it decides nothing by itself, but gross harm stops it. Look: "
                 "`fairlead experiment report`",
                 id, words, rollout_unit_plural(e->unit), e->arms[0].version);
    return ADMIN_OK;
}

enum admin_status command_experiment_stop(struct command_call *call)
{
    struct apply a;
    char id[STATE_ID_BYTES], why[APPLY_WHY_BYTES];
    const enum admin_status status = plan_begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    if (!state_experimenting(&a.state))
        return command_fail(call, ADMIN_NOT_FOUND, "no experiment is running");
    state_id("experiment", a.state.experiment->id, id);
    apply_end_experiment(&a, reason_of(call, SPAN("stopped by hand")));
    snprintf(why, sizeof(why), "%s: stopped", id);
    const enum err err = apply_head(&a, apply_stable(&a), why);
    if (err)
        return command_fail_err(call, "stopping the experiment", err);
    call->republish = true;
    put_result(call, &a, id);
    command_fail(call, ADMIN_OK, "%s is stopped: everybody is on v%u; its report stays until the next one begins", id,
                 apply_stable(&a));
    return ADMIN_OK;
}

enum admin_status command_experiment_report(struct command_call *call)
{
    pilot_json_experiment(call->service->pilot, call->now_ms, call->result);
    if (!pilot_state(call->service->pilot)->experiment)
        command_fail(call, ADMIN_OK, "there was no experiment yet");
    return ADMIN_OK;
}

/* ---- shadows ---- */

static enum admin_status shadow_args(struct command_call *call, struct apply *a, struct state_shadow *s)
{
    struct version_record *record;
    const struct artifact *artifact;
    const struct span share = command_arg(call, "share", SPAN("")), budget = command_arg(call, "budget", SPAN(""));
    enum admin_status status = candidate_version_text(call, command_arg(call, "version", SPAN("")), &s->version);
    if (status == ADMIN_OK)
        status = candidate_get_version(call, s->version, false, &record);
    if (status != ADMIN_OK)
        return status;
    if (!span_ends(share, SPAN("%")) || units_parse_share(share, &s->share_ppm) != OK || s->share_ppm == 0)
        return command_fail(call, ADMIN_INVALID,
                            "--share: '" SPAN_FMT "' is no share of requests to send twice, over 0%% and up to 100%%, "
                            "such as 5%%",
                            SPAN_ARG(span_head(share, 50)));
    if (units_parse_usd(budget, &s->budget_nano) != OK || s->budget_nano == 0 || s->budget_nano > SHADOW_ALLOWANCE_MAX)
        return command_fail(call, ADMIN_INVALID,
                            "--budget: '" SPAN_FMT "' is no number of dollars that it may spend, such as 10",
                            SPAN_ARG(span_head(budget, 50)));
    s->tools = command_flag(call, "allow-tools");
    status = candidate_artifact(call, apply_stable(a), &artifact);
    return status == ADMIN_OK ? plan_routes_arg(call, artifact, &s->routes) : status;
}

enum admin_status command_shadow_start(struct command_call *call)
{
    struct apply a;
    char id[STATE_ID_BYTES], why[APPLY_WHY_BYTES], usd[UNITS_TEXT_BYTES];
    struct state_shadow *s = ARENA_NEW(call->arena, struct state_shadow);
    if (!s)
        return command_fail_err(call, "starting", ERR_NOMEM);
    enum admin_status status = plan_begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    if (apply_stable(&a) == 0)
        return command_fail(call, ADMIN_NOT_FOUND, "no policy is live yet");
    if (state_shadowing(&a.state))
        return command_fail(call, ADMIN_CONFLICT, "shadow-%llu runs; `fairlead shadow stop` it first",
                            (unsigned long long)a.state.shadow->id);
    status = plan_check_lock(call, &a.state);
    if (status == ADMIN_OK)
        status = shadow_args(call, &a, s);
    if (status != ADMIN_OK)
        return status;
    s->id = ++a.state.last_id;
    s->by = call->request->user;
    s->ended_why = SPAN("");
    s->started_at_ms = call->now_ms;
    a.state.shadow = s;
    state_id("shadow", s->id, id);
    snprintf(why, sizeof(why), "%s: %g%% of requests also to v%u", id, s->share_ppm / 1e4, s->version);
    const enum err err = apply_head(&a, apply_stable(&a), why);
    if (err)
        return command_fail_err(call, "starting the shadow", err);
    call->republish = true;
    put_result(call, &a, id);
    command_fail(
        call, ADMIN_OK,
        "%s runs: %g%% of requests%s are sent again under v%u, their answers are discarded; it ends when $%s are "
        "spent. Look: `fairlead shadow status`",
        id, s->share_ppm / 1e4, s->tools ? "" : " without tools", s->version, units_format_usd(s->budget_nano, usd));
    return ADMIN_OK;
}

enum admin_status command_shadow_stop(struct command_call *call)
{
    struct apply a;
    char id[STATE_ID_BYTES], why[APPLY_WHY_BYTES];
    const enum admin_status status = plan_begin(call, &a);
    if (status != ADMIN_OK)
        return status;
    if (!state_shadowing(&a.state))
        return command_fail(call, ADMIN_NOT_FOUND, "no shadow is running");
    state_id("shadow", a.state.shadow->id, id);
    apply_end_shadow(&a, reason_of(call, SPAN("stopped by hand")));
    snprintf(why, sizeof(why), "%s: stopped", id);
    const enum err err = apply_head(&a, apply_stable(&a), why);
    if (err)
        return command_fail_err(call, "stopping the shadow", err);
    call->republish = true;
    put_result(call, &a, id);
    command_fail(call, ADMIN_OK, "%s is stopped; its figures stay until the next one begins", id);
    return ADMIN_OK;
}

enum admin_status command_shadow_status(struct command_call *call)
{
    pilot_json_shadow(call->service->pilot, call->now_ms, call->result);
    if (!pilot_state(call->service->pilot)->shadow)
        command_fail(call, ADMIN_OK, "there was no shadow yet");
    return ADMIN_OK;
}
