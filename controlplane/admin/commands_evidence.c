#include "common/clock.h"
#include "common/strmap.h"
#include "common/units.h"
#include "controlplane/admin/commands.h"

#define REASON_BYTES_MAX 500u

void command_put_overrides(struct command_call *call, const struct head *head)
{
    static const char *const kinds[] = { "drain", "block", "freeze" };
    struct json_writer *w = call->result;
    json_array_open(w);
    for (uint32_t i = 0; i < head->override_count; i++) {
        const struct override *o = &head->overrides[i];
        if (o->expires_at_ms && o->expires_at_ms <= call->now_ms)
            continue; /* it stands in the head until the next change, and counts no more */
        json_object_open(w);
        json_member_cstr(w, "kind", kinds[o->kind]);
        json_member_string(w, "target", o->target);
        json_member_string(w, "reason", o->reason);
        json_member_string(w, "by", o->by);
        json_member_i64(w, "set_at_ms", o->set_at_ms);
        json_member_i64(w, "expires_at_ms", o->expires_at_ms);
        json_object_close(w);
    }
    json_array_close(w);
}

/* ---- providers ---- */

enum admin_status command_providers_list(struct command_call *call)
{
    struct head *head;
    const enum err err = command_head(call, &head);
    if (err)
        return command_fail_err(call, "reading the head", err);
    json_object_open(call->result);
    json_key(call->result, SPAN("providers"));
    evidence_json_providers(call->service->evidence, call->now_ms, call->result);
    json_key(call->result, SPAN("overrides"));
    command_put_overrides(call, head);
    json_object_close(call->result);
    return ADMIN_OK;
}

/* What may be drained or frozen: something that the live policy names. */
static enum admin_status check_target(struct command_call *call, const struct head *head, enum override_kind kind,
                                      struct span target)
{
    struct artifact *artifact;
    struct strmap names;
    enum err err = command_live_artifact(call, head, &artifact);
    if (err)
        return command_fail_err(call, "reading the live policy", err);
    if (!artifact)
        return command_fail(call, ADMIN_CONFLICT, "no policy is live yet");
    strmap_init(&names, call->arena);
    for (uint32_t i = 0; !err && kind != OVERRIDE_FREEZE && i < artifact->provider_count; i++)
        err = strmap_put(&names, artifact->providers[i].name, &artifact->providers[i]);
    for (uint32_t i = 0; !err && kind != OVERRIDE_FREEZE && i < artifact->model_count; i++)
        err = strmap_put(&names, artifact->models[i].name, &artifact->models[i]);
    for (uint32_t i = 0; !err && kind == OVERRIDE_FREEZE && i < artifact->route_count; i++)
        err = strmap_put(&names, artifact->routes[i].name, &artifact->routes[i]);
    if (err)
        return command_fail_err(call, "reading the live policy", err);
    if (strmap_has(&names, target))
        return ADMIN_OK;
    const struct span near = strmap_nearest(&names, target);
    const char *what = kind == OVERRIDE_FREEZE ? "route" : "provider or provider/model";
    if (near.len)
        return command_fail(call, ADMIN_NOT_FOUND,
                            "the live policy has no %s '" SPAN_FMT "'; did you mean '" SPAN_FMT "'?", what,
                            SPAN_ARG(span_head(target, 100)), SPAN_ARG(near));
    return command_fail(call, ADMIN_NOT_FOUND, "the live policy has no %s '" SPAN_FMT "'", what,
                        SPAN_ARG(span_head(target, 100)));
}

static enum admin_status override_expiry(struct command_call *call, int64_t *ret_at_ms)
{
    const struct span text = command_arg(call, "expires", SPAN(""));
    uint64_t duration;
    *ret_at_ms = 0;
    if (span_empty(text))
        return ADMIN_OK;
    if (units_parse_duration(text, &duration) != OK || duration == 0 || duration > (1ull << 42))
        return command_fail(call, ADMIN_INVALID, "--for: '" SPAN_FMT "' is no duration (30m, 2h)",
                            SPAN_ARG(span_head(text, 60)));
    *ret_at_ms = call->now_ms + (int64_t)duration;
    return ADMIN_OK;
}

/* What a target is while the override holds: "small is drained". */
static const char *overridden(enum override_kind kind)
{
    return kind == OVERRIDE_FREEZE ? "frozen" : kind == OVERRIDE_BLOCK ? "blocked" : "drained";
}

static bool same_override(const struct override *o, enum override_kind kind, struct span target)
{
    return o->kind == kind && span_eq(o->target, target);
}

/* A copy of the head's overrides without this one and without those that have expired; room for one more. */
static enum err other_overrides(struct command_call *call, struct head *head, enum override_kind kind,
                                struct span target, bool *ret_was_there)
{
    struct override *kept = ARENA_ARRAY(call->arena, head->override_count + 1, struct override);
    uint32_t count = 0;
    if (!kept)
        return ERR_NOMEM;
    *ret_was_there = false;
    for (uint32_t i = 0; i < head->override_count; i++) {
        const struct override *o = &head->overrides[i];
        if (same_override(o, kind, target))
            *ret_was_there = true;
        else if (o->expires_at_ms == 0 || o->expires_at_ms > call->now_ms)
            kept[count++] = *o;
    }
    head->overrides = kept;
    head->override_count = count;
    return OK;
}

static enum admin_status put_override_result(struct command_call *call, const struct head *head, struct span target)
{
    json_object_open(call->result);
    json_member_string(call->result, "target", target);
    json_member_u64(call->result, "epoch", head->epoch);
    json_member_u64(call->result, "generation", head->generation);
    json_object_close(call->result);
    return ADMIN_OK;
}

static enum admin_status set_override(struct command_call *call, enum override_kind kind, const char *verb)
{
    const struct span target = command_arg(call, "name", SPAN(""));
    struct head *head;
    bool was_there;
    char why[NAME_BYTES_MAX + 32];
    int64_t expires_at_ms;
    enum err err = command_head(call, &head);
    if (err)
        return command_fail_err(call, "reading the head", err);
    enum admin_status status = check_target(call, head, kind, target);
    if (status == ADMIN_OK)
        status = override_expiry(call, &expires_at_ms);
    if (status != ADMIN_OK)
        return status;
    err = other_overrides(call, head, kind, target, &was_there);
    if (!err && head->override_count >= OVERRIDES_MAX)
        return command_fail(call, ADMIN_CONFLICT, "there are %u overrides already; lift some first", OVERRIDES_MAX);
    if (!err) {
        head->overrides[head->override_count++] =
            (struct override){ .kind = kind,
                               .target = target,
                               .reason = span_head(command_arg(call, "reason", SPAN("")), REASON_BYTES_MAX),
                               .by = call->request->user,
                               .set_at_ms = call->now_ms,
                               .expires_at_ms = expires_at_ms };
        snprintf(why, sizeof(why), "%s " SPAN_FMT, verb, SPAN_ARG(span_head(target, NAME_BYTES_MAX)));
        err = command_head_change(call, head, why);
    }
    if (err)
        return command_fail_err(call, "storing the override", err);
    command_fail(call, ADMIN_OK, SPAN_FMT " is %s%s", SPAN_ARG(target), overridden(kind),
                 expires_at_ms ? " until it expires or is lifted" : " until it is lifted; rollbacks do not lift it");
    return put_override_result(call, head, target);
}

static enum admin_status lift_override(struct command_call *call, enum override_kind kind, const char *verb)
{
    const struct span target = command_arg(call, "name", SPAN(""));
    struct head *head;
    bool was_there = false;
    char why[NAME_BYTES_MAX + 32];
    enum err err = command_head(call, &head);
    if (!err)
        err = other_overrides(call, head, kind, target, &was_there);
    if (err)
        return command_fail_err(call, "reading the head", err);
    if (!was_there)
        return command_fail(call, ADMIN_NOT_FOUND, "'" SPAN_FMT "' is not %s; `fairlead %s` shows what is",
                            SPAN_ARG(span_head(target, 100)), overridden(kind),
                            kind == OVERRIDE_FREEZE ? "weights show" : "providers list");
    snprintf(why, sizeof(why), "%s " SPAN_FMT, verb, SPAN_ARG(span_head(target, NAME_BYTES_MAX)));
    err = command_head_change(call, head, why);
    if (err)
        return command_fail_err(call, "storing the head", err);
    command_fail(call, ADMIN_OK, SPAN_FMT " is no longer %s", SPAN_ARG(target), overridden(kind));
    return put_override_result(call, head, target);
}

enum admin_status command_providers_drain(struct command_call *call)
{
    return set_override(call, OVERRIDE_DRAIN, "drain");
}

enum admin_status command_providers_undrain(struct command_call *call)
{
    return lift_override(call, OVERRIDE_DRAIN, "undrain");
}

/* A drain is part of running things; a block says that something must not be used, and always why. */
enum admin_status command_block(struct command_call *call)
{
    if (span_empty(span_trim(command_arg(call, "reason", SPAN("")))))
        return command_fail(call, ADMIN_INVALID, "say why, for those who come after: --reason TEXT");
    return set_override(call, OVERRIDE_BLOCK, "block");
}

enum admin_status command_unblock(struct command_call *call)
{
    return lift_override(call, OVERRIDE_BLOCK, "unblock");
}

/* ---- weights ---- */

enum admin_status command_weights_show(struct command_call *call)
{
    evidence_json_weights(call->service->evidence, call->result);
    return ADMIN_OK;
}

enum admin_status command_weights_freeze(struct command_call *call)
{
    return set_override(call, OVERRIDE_FREEZE, "freeze");
}

enum admin_status command_weights_unfreeze(struct command_call *call)
{
    return lift_override(call, OVERRIDE_FREEZE, "unfreeze");
}

enum admin_status command_weights_reset(struct command_call *call)
{
    const struct span route = command_arg(call, "name", SPAN(""));
    if (call->request->dry_run) { /* weights have no transaction that could be dropped */
        evidence_json_weights(call->service->evidence, call->result);
        command_fail(call, ADMIN_OK, "the weights would be the policy's again; these are the present ones");
        return ADMIN_OK;
    }
    const enum err err = evidence_weights_reset(call->service->evidence, route);
    if (err == ERR_NOT_FOUND)
        return command_fail(call, ADMIN_NOT_FOUND, "no scored route '" SPAN_FMT "' in the live policy",
                            SPAN_ARG(span_head(route, 100)));
    if (err)
        return command_fail_err(call, "resetting", err);
    call->republish = true;
    evidence_json_weights(call->service->evidence, call->result);
    command_fail(call, ADMIN_OK, "weights are the policy's again, and move from there");
    return ADMIN_OK;
}

/* ---- prices ---- */

enum admin_status command_prices_list(struct command_call *call)
{
    evidence_json_prices(call->service->evidence, command_arg(call, "pattern", SPAN("")),
                         command_flag(call, "unmapped"), call->result);
    return ADMIN_OK;
}

enum admin_status command_prices_show(struct command_call *call)
{
    const struct span name = command_arg(call, "name", SPAN(""));
    const struct policy_book *book = evidence_book(call->service->evidence);
    if (!book->find(book->user, name))
        return command_fail(call, ADMIN_NOT_FOUND,
                            "no price for '" SPAN_FMT "'; `fairlead prices list '*NAME*'` searches",
                            SPAN_ARG(span_head(name, 100)));
    evidence_json_prices(call->service->evidence, name, false, call->result);
    return ADMIN_OK;
}

/* "2.50" US dollars per million tokens -> nano-dollars; absent arguments leave the part unknown. */
static enum admin_status price_part(struct command_call *call, const char *name, enum price_part part,
                                    struct price *price, int64_t *ret)
{
    const struct span text = command_arg(call, name, SPAN(""));
    if (span_empty(text))
        return ADMIN_OK;
    if (units_parse_usd(text, ret) != OK)
        return command_fail(call, ADMIN_INVALID,
                            "--%s: '" SPAN_FMT "' is no price in US dollars per million tokens (2.50)", name,
                            SPAN_ARG(span_head(text, 40)));
    price->known |= part;
    return ADMIN_OK;
}

enum admin_status command_prices_set(struct command_call *call)
{
    struct price price = { 0 };
    const struct span name = command_arg(call, "name", SPAN(""));
    const struct {
        const char *name;
        enum price_part part;
        int64_t *at;
    } rows[] = {
        { "input", PRICE_INPUT, &price.input },
        { "output", PRICE_OUTPUT, &price.output },
        { "cache-read", PRICE_CACHE_READ, &price.cache_read },
        { "cache-write", PRICE_CACHE_WRITE, &price.cache_write },
        { "reasoning", PRICE_REASONING, &price.reasoning },
        { "request", PRICE_REQUEST, &price.request },
    };
    if (span_empty(name) || name.len > NAME_BYTES_MAX)
        return command_fail(call, ADMIN_INVALID,
                            "say which entry of the price book: fairlead prices set NAME --input 2.50 --output 10");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const enum admin_status status = price_part(call, rows[i].name, rows[i].part, &price, rows[i].at);
        if (status != ADMIN_OK)
            return status;
    }
    if (!(price.known & PRICE_INPUT))
        return command_fail(call, ADMIN_INVALID, "--input is needed (US dollars per million tokens)");
    const enum err err = evidence_price_set(call->service->evidence, name, &price, call->now_ms, call->request->user);
    if (err)
        return command_fail_err(call, "setting the price", err);
    call->evidence_changed = call->republish = true;
    evidence_json_prices(call->service->evidence, name, false, call->result);
    const uint32_t reach = evidence_price_reach(call->service->evidence, name, call->now_ms);
    if (reach == 0)
        command_fail(call, ADMIN_OK,
                     "price of " SPAN_FMT
                     " is set; it outranks feed and book, but charges no model of the live policy: that takes the "
                     "book's name of the model, all parts that the model needs, and no price in the policy",
                     SPAN_ARG(name));
    else
        command_fail(call, ADMIN_OK,
                     "price of " SPAN_FMT " is set; it outranks feed and book, and charges %u live model%s",
                     SPAN_ARG(name), reach, reach == 1 ? "" : "s");
    return ADMIN_OK;
}

enum admin_status command_prices_unset(struct command_call *call)
{
    const struct span name = command_arg(call, "name", SPAN(""));
    const enum err err = evidence_price_unset(call->service->evidence, name);
    if (err == ERR_NOT_FOUND)
        return command_fail(call, ADMIN_NOT_FOUND, "no price of '" SPAN_FMT "' was set by hand",
                            SPAN_ARG(span_head(name, 100)));
    if (err)
        return command_fail_err(call, "unsetting the price", err);
    call->evidence_changed = call->republish = true;
    evidence_json_prices(call->service->evidence, name, false, call->result);
    command_fail(call, ADMIN_OK, "price of " SPAN_FMT " comes from feed or book again", SPAN_ARG(name));
    return ADMIN_OK;
}

enum admin_status command_prices_accept(struct command_call *call)
{
    const struct span name = command_arg(call, "name", SPAN(""));
    uint32_t count = 0;
    if (span_empty(name) && !command_flag(call, "all"))
        return command_fail(call, ADMIN_INVALID, "name one entry, or --all");
    const enum err err = evidence_price_accept(call->service->evidence, name, call->now_ms, &count);
    if (err == ERR_NOT_FOUND)
        return command_fail(call, ADMIN_NOT_FOUND, "nothing of that name is in quarantine");
    if (err)
        return command_fail_err(call, "accepting", err);
    call->evidence_changed = call->republish = true;
    json_object_open(call->result);
    json_member_u64(call->result, "accepted", count);
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, "%u prices accepted", count);
    return ADMIN_OK;
}
