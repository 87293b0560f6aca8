#include "controlplane/admin/plan_args.h"
#include "common/digest.h"
#include "common/units.h"
#include "controlplane/admin/commands.h"

#define ROUTES_BYTES_MAX (64u << 10) /* of a list of routes on a command line */

static bool has_arg(const struct command_call *call, const char *name)
{
    return !span_empty(command_arg(call, name, SPAN("")));
}

static bool has_route(const struct artifact *artifact, struct span name)
{
    for (uint32_t i = 0; i < artifact->route_count; i++) {
        if (span_eq(artifact->routes[i].name, name))
            return true;
    }
    return false;
}

enum admin_status plan_routes_arg(struct command_call *call, const struct artifact *artifact, struct span_list *ret)
{
    struct span rest = command_arg(call, "routes", SPAN("")), name;
    if (span_empty(rest))
        return ADMIN_OK;
    if (rest.len > ROUTES_BYTES_MAX)
        return command_fail(call, ADMIN_INVALID, "the list of routes is longer than %u bytes", ROUTES_BYTES_MAX);
    struct span *items = ARENA_ARRAY(call->arena, rest.len / 2 + 2, struct span);
    if (!items)
        return command_fail_err(call, "reading the routes", ERR_NOMEM);
    *ret = (struct span_list){ .items = items };
    while (span_split(&rest, ',', &name)) {
        name = span_trim(name);
        if (artifact && !has_route(artifact, name))
            return command_fail(call, ADMIN_INVALID, "there is no route '" SPAN_FMT "' in this version",
                                SPAN_ARG(span_head(name, NAME_BYTES_MAX)));
        items[ret->count++] = arena_dup(call->arena, name);
    }
    state_routes_sort(ret);
    return ADMIN_OK;
}

enum admin_status plan_unit_arg(struct command_call *call, enum unit_kind *unit, struct span *header)
{
    const struct span text = command_arg(call, "unit", SPAN(""));
    if (span_empty(text))
        return ADMIN_OK;
    const enum err err = rollout_unit_text(call->arena, text, unit, header);
    if (err == ERR_NOMEM)
        return command_fail_err(call, "reading the unit", err);
    return err ? command_fail(call, ADMIN_INVALID, "'" SPAN_FMT "' is no unit: key, user, request or header:NAME",
                              SPAN_ARG(span_head(text, 100)))
               : ADMIN_OK;
}

static enum admin_status hold_arg(struct command_call *call, struct rollout_plan *plan)
{
    uint64_t ms;
    const struct span text = command_arg(call, "hold", SPAN(""));
    if (span_empty(text))
        return ADMIN_OK;
    if (units_parse_duration(text, &ms) != OK || ms > ROLLOUT_HOLD_MOST_MS)
        return command_fail(call, ADMIN_INVALID, "'" SPAN_FMT "' is no duration of at most 30 days, such as 10m",
                            SPAN_ARG(span_head(text, 50)));
    plan->hold_ms = (uint32_t)ms;
    return ADMIN_OK;
}

static enum admin_status guards_arg(struct command_call *call, struct rollout_plan *plan)
{
    struct span rest = command_arg(call, "guards", SPAN("")), text;
    const char *why = "there are too many guards";
    if (span_empty(rest))
        return ADMIN_OK;
    while (span_split(&rest, ',', &text)) {
        if (rollout_guard_text(plan, span_trim(text), &why) != OK)
            return command_fail(call, ADMIN_INVALID, "'" SPAN_FMT "': %s", SPAN_ARG(span_head(text, 100)), why);
    }
    return ADMIN_OK;
}

enum admin_status plan_args(struct command_call *call, struct candidate *c, struct rollout_plan *ret)
{
    static const char *const flags[] = { "steps", "hold", "unit", "guards", "routes" };
    bool has = false, asked = false;
    const char *why = "";
    *ret = (struct rollout_plan){ 0 };
    const enum err err = policy_rollout(call->arena, c->policy, &c->diags, ret, &has);
    if (err)
        return command_fail_err(call, "reading the rollout", err);
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        asked |= has_arg(call, flags[i]);
    if (command_flag(call, "now")) {
        if (asked)
            return command_fail(call, ADMIN_INVALID,
                                "--now goes to 100%% at once: leave out --steps, --hold and the like");
        ret->step_count = 0;
        return ADMIN_OK;
    }
    if (!has && asked)
        rollout_plan_defaults(ret);
    if (has_arg(call, "steps") && rollout_steps_text(ret, command_arg(call, "steps", SPAN("")), &why) != OK)
        return command_fail(call, ADMIN_INVALID, "'" SPAN_FMT "': %s",
                            SPAN_ARG(span_head(command_arg(call, "steps", SPAN("")), 100)), why);
    state_routes_sort(&ret->routes);
    enum admin_status status = hold_arg(call, ret);
    if (status == ADMIN_OK)
        status = plan_unit_arg(call, &ret->unit, &ret->header);
    if (status == ADMIN_OK)
        status = guards_arg(call, ret);
    return status == ADMIN_OK ? plan_routes_arg(call, c->artifact, &ret->routes) : status;
}

struct key_count {
    int64_t now_ms;
    uint64_t active;
};

static bool count_key(void *user, const struct key_record *key)
{
    struct key_count *count = user;
    count->active += !key->revoked && (key->expires_at_ms == 0 || key->expires_at_ms > count->now_ms);
    return true;
}

enum admin_status plan_check_units(struct command_call *call, enum unit_kind unit, uint32_t share,
                                   const char *otherwise)
{
    struct key_count count = { .now_ms = call->now_ms };
    char text[16];
    if (unit != UNIT_KEY)
        return ADMIN_OK; /* how many users or requests will come is not known before */
    const enum err err = versions_keys_each(call->service->versions, count_key, &count);
    if (err)
        return command_fail_err(call, "counting the keys", err);
    const double expected = (double)count.active * share / ASSIGNMENT_BUCKETS;
    if (expected >= EXPERIMENT_UNITS_LEAST)
        return ADMIN_OK;
    return command_fail(
        call, ADMIN_INVALID,
        "%s of %llu valid key%s makes %.1f on an arm, which needs at least %.0f to be judged. Use another "
        "unit (--unit user, or --unit request)%s",
        rollout_share_format(share, text), (unsigned long long)count.active, command_plural(count.active), expected,
        EXPERIMENT_UNITS_LEAST, otherwise);
}

enum admin_status plan_begin(struct command_call *call, struct apply *ret)
{
    *ret = (struct apply){
        .versions = call->service->versions, .arena = call->arena, .by = call->request->user, .now_ms = call->now_ms
    };
    const enum err err = apply_begin(ret);
    return err ? command_fail_err(call, "reading what is live", err) : ADMIN_OK;
}

enum admin_status plan_check_lock(struct command_call *call, const struct pilot_state *state)
{
    if (!state->lock.at_ms)
        return ADMIN_OK;
    return command_fail(call, ADMIN_CONFLICT,
                        "locked by " SPAN_FMT ": " SPAN_FMT
                        ". Nothing goes forward before `fairlead unlock`; `fairlead "
                        "rollback` works",
                        SPAN_ARG(state->lock.by), SPAN_ARG(span_head(state->lock.reason, 500)));
}

enum admin_status plan_check_free(struct command_call *call, const struct pilot_state *state,
                                  const struct span_list *routes)
{
    char share[16];
    const struct rollout *r = state->rollout;
    if (state_rolling(state) && state_routes_meet(routes, &r->plan.routes))
        return command_fail(call, ADMIN_CONFLICT,
                            "rollout-%llu of v%u is at %s (%s): `fairlead rollout promote` or `abort` it first",
                            (unsigned long long)r->id, r->to, rollout_share_format(rollout_share(r), share),
                            rollout_phase_name(r->phase));
    if (state_experimenting(state) && state_routes_meet(routes, &state->experiment->routes))
        return command_fail(call, ADMIN_CONFLICT,
                            "experiment-%llu runs on these routes: `fairlead experiment stop` it first",
                            (unsigned long long)state->experiment->id);
    return ADMIN_OK;
}
