#include "common/buf.h"
#include "common/units.h"
#include "dataplane/route/select.h"

#define EXPLANATION_BYTES_MAX 2048u /* of an error message */
#define EXPLAINED_MAX         8u    /* members named in it */

static const struct {
    const char *name, *text;
} reasons[PLAN_REASONS] = {
    [PLAN_NONE] = { "none", "was not judged" },
    [PLAN_DIRECT] = { "direct", "was asked for by name" },
    [PLAN_ONLY] = { "only", "is the only candidate" },
    [PLAN_WEIGHT] = { "weight", "was drawn by weight" },
    [PLAN_LESS_LOADED] = { "less_loaded", "was less loaded than another drawn with it" },
    [PLAN_CHEAPEST] = { "cheapest", "is the cheapest" },
    [PLAN_FASTEST] = { "fastest", "answers soonest" },
    [PLAN_NEXT] = { "next", "is next in its tier" },
    [PLAN_NEXT_TIER] = { "next_tier", "is in a later tier" },
    [PLAN_LEAST_BAD] = { "least_bad", "is the least bad of what is left" },
    [PLAN_BEYOND] = { "beyond", "comes after the attempts that the route allows" },
    [PLAN_OUT_OF_BOUNDS] = { "out_of_bounds", "is outside the tier's bounds" },
    [PLAN_PROBED] = { "probed", "is being tried again after failures" },
    [PLAN_EJECTED] = { "ejected", "failed too often lately" },
    [PLAN_DOWN] = { "down", "is down" },
    [PLAN_TRIED] = { "tried", "was tried already" },
    [PLAN_NO_CREDENTIAL] = { "no_credential", "has no credential on this node" },
    [PLAN_DRAINED] = { "drained", "is drained by an operator" },
    [PLAN_BLOCKED] = { "blocked", "is blocked by an operator" },
    [PLAN_TOO_DEAR] = { "too_dear", "would cost more than the route allows" },
    [PLAN_TOO_LONG] = { "too_long", "has too short a context for this request" },
    [PLAN_REGION] = { "region", "is not in a region that may be used" },
    [PLAN_RETENTION] = { "retention", "keeps data longer than may be" },
    [PLAN_TRAINING] = { "training", "may train on the data" },
    [PLAN_NO_JSON] = { "no_json", "does not take response_format" },
    [PLAN_NO_AUDIO] = { "no_audio", "does not take audio" },
    [PLAN_NO_IMAGES] = { "no_images", "does not take images" },
    [PLAN_NO_TOOLS] = { "no_tools", "does not take tools" },
    [PLAN_NO_STREAM] = { "no_stream", "does not stream" },
    [PLAN_NO_ENDPOINT] = { "no_endpoint", "does not offer this endpoint" },
};

const char *plan_reason_name(enum plan_reason reason)
{
    REQUIRE(reason < PLAN_REASONS);
    return reasons[reason].name;
}

const char *plan_reason_text(enum plan_reason reason)
{
    REQUIRE(reason < PLAN_REASONS);
    return reasons[reason].text;
}

enum plan_reason plan_chief_reason(const struct plan *plan)
{
    enum plan_reason chief = PLAN_NONE;
    for (uint32_t i = 0; i < plan->all_count; i++) {
        enum plan_reason reason = plan->all[i].reason;
        if (reason != PLAN_NONE && (chief == PLAN_NONE || reason < chief))
            chief = reason;
    }
    return chief;
}

static enum err explain_member(struct buf *out, const struct select_input *in, const struct plan_step *step)
{
    const struct route *route = in->target.route;
    const struct model *model = &in->arm->compiled->artifact->models[step->model];
    enum err err = buf_printf(out, SPAN_FMT " %s", SPAN_ARG(model->name), plan_reason_text(step->reason));
    if (err || step->reason != PLAN_TOO_DEAR || !route)
        return err;
    char estimate[UNITS_TEXT_BYTES], ceiling[UNITS_TEXT_BYTES];
    return buf_printf(out, " (estimated %s USD, at most %s USD)", units_format_usd(step->estimate_nano, estimate),
                      units_format_usd(route->max_cost_nano, ceiling));
}

static enum err explain(struct buf *out, const struct select_input *in, const struct plan *plan)
{
    const struct route *route = in->target.route;
    enum err err =
        route ? buf_printf(out, "No model of route '" SPAN_FMT "' can serve this request", SPAN_ARG(route->name))
              : buf_append_cstr(out, "The model cannot serve this request");
    for (uint32_t i = 0; !err && i < plan->all_count && i < EXPLAINED_MAX; i++) {
        err = buf_append_cstr(out, i == 0 ? ": " : "; ");
        if (!err)
            err = explain_member(out, in, &plan->all[i]);
    }
    if (!err && plan->all_count > EXPLAINED_MAX)
        err = buf_printf(out, "; and %u more", plan->all_count - EXPLAINED_MAX);
    return err ? err : buf_append_byte(out, '.');
}

char *plan_explain(struct arena *arena, const struct select_input *input, const struct plan *plan)
{
    struct buf out = BUF_INIT(EXPLANATION_BYTES_MAX);
    enum err err = explain(&out, input, plan);
    char *text = err == OK || err == ERR_FULL ? arena_printf(arena, SPAN_FMT, SPAN_ARG(buf_span(&out))) : NULL;
    buf_release(&out);
    return text;
}
