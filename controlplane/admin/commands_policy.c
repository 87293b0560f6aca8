#include "controlplane/admin/candidate.h"
#include "controlplane/admin/commands.h"
#include "controlplane/policy/policy.h"
#include "controlplane/pilot/state.h"
#include "proto/head.h"
#include "proto/wire.h"

enum err command_head(struct command_call *call, struct head **ret)
{
    const enum err err = versions_head_get(call->service->versions, call->arena, 0, ret);
    if (err != ERR_NOT_FOUND)
        return err;
    *ret = ARENA_NEW(call->arena, struct head);
    return *ret ? OK : ERR_NOMEM;
}

enum err command_head_change(struct command_call *call, struct head *head, const char *why)
{
    head->made_at_ms = call->now_ms;
    head->by = call->request->user;
    head->why = arena_dup(call->arena, span_cstr(why));
    if (!head->why.ptr)
        return ERR_NOMEM;
    call->republish = true;
    return versions_head_put(call->service->versions, head);
}

enum err command_live_artifact(struct command_call *call, const struct head *head, struct artifact **ret)
{
    struct span bytes;
    *ret = NULL;
    if (head->arm_count == 0)
        return OK;
    const enum err err = versions_artifact_get(call->service->versions, call->arena, &head->arms[0].artifact, &bytes);
    return err ? err : wire_decode_artifact(call->arena, bytes, ret, NULL);
}

enum admin_status command_policy_check(struct command_call *call)
{
    struct candidate c = { 0 };
    const enum admin_status status = candidate_compile(call, 0, &c);
    if (status != ADMIN_OK)
        return status;
    json_object_open(call->result);
    json_member_string(call->result, "policy_hash", policy_hash(c.policy));
    json_member_u64(call->result, "providers", c.artifact->provider_count);
    json_member_u64(call->result, "models", c.artifact->model_count);
    json_member_u64(call->result, "routes", c.artifact->route_count);
    candidate_put_diagnostics(call, &c);
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, "good: %u provider%s, %u model%s, %u route%s%s", c.artifact->provider_count,
                 command_plural(c.artifact->provider_count), c.artifact->model_count,
                 command_plural(c.artifact->model_count), c.artifact->route_count,
                 command_plural(c.artifact->route_count), c.diags.warnings ? "; see the warnings" : "");
    return ADMIN_OK;
}

enum admin_status command_policy_diff(struct command_call *call)
{
    uint32_t from = 0, to = 0, count = 0;
    struct head *head;
    struct candidate c = { 0 };
    const struct artifact *before = NULL, *after = NULL;
    enum admin_status status = candidate_version_arg(call, "from", &from);
    if (status == ADMIN_OK)
        status = candidate_version_arg(call, "to", &to);
    if (status != ADMIN_OK)
        return status;
    enum err err = command_head(call, &head);
    if (err)
        return command_fail_err(call, "reading the head", err);
    from = from ? from : candidate_live(head);
    if (from)
        status = candidate_artifact(call, from, &before);
    if (status == ADMIN_OK && to)
        status = candidate_artifact(call, to, &after);
    else if (status == ADMIN_OK) {
        status = candidate_compile(call, 0, &c);
        after = c.artifact;
    }
    if (status != ADMIN_OK)
        return status;
    json_object_open(call->result);
    json_member_u64(call->result, "from", from);
    json_member_u64(call->result, "to", to);
    err = candidate_put_changes(call, before, after, &count);
    json_object_close(call->result);
    if (err)
        return command_fail_err(call, "comparing", err);
    command_fail(call, ADMIN_OK, count ? "%u change%s" : "no change for requests", count, command_plural(count));
    return ADMIN_OK;
}

/* ---- looking ---- */

static const char *version_state_name(enum version_state state)
{
    switch (state) {
    case VERSION_STORED:
        return "stored";
    case VERSION_LIVE:
        return "live";
    case VERSION_RETIRED:
        return "retired";
    case VERSION_ROLLED_BACK:
        return "rolled back";
    }
    return "?";
}

static void put_version(struct command_call *call, const struct version_record *r, bool rolling)
{
    char hex[SHA256_HEX + 1];
    struct json_writer *w = call->result;
    json_member_u64(w, "version", r->version);
    json_member_cstr(w, "state", rolling ? "rolling out" : version_state_name(r->state));
    json_member_string(w, "author", r->author);
    json_member_string(w, "message", r->message);
    json_member_i64(w, "created_at_ms", r->created_at_ms);
    json_member_i64(w, "live_at_ms", r->full_at_ms);
    json_member_u64(w, "generation", r->full_generation);
    json_member_string(w, "policy_hash", r->policy_hash);
    json_member_cstr(w, "artifact", hex_encode(r->artifact.bytes, SHA256_BYTES, hex));
    json_member_u64(w, "book_version", r->book_version);
}

/* "5%", or with routes of its own "5% of rollout-7"; several parted by commas; "" when it has none. */
static const char *share_of(struct command_call *call, const struct head *head, uint32_t version)
{
    const char *text = "";
    char share[16];
    const struct assignment *all = head_assignment_of_all(head);
    for (uint32_t arm = 0; text && arm < head->arm_count; arm++) {
        if (head->arms[arm].policy_version != version)
            continue;
        if (head_share(all, arm))
            text = rollout_share_format(head_share(all, arm), share);
        for (uint32_t i = 0; text && !all && i < head->assignment_count; i++) {
            const struct assignment *a = &head->assignments[i];
            char part[16];
            if (arm > 0 && head_share(a, arm))
                text = arena_printf(call->arena, "%s%s%s of " SPAN_FMT, text, *text ? ", " : "",
                                    rollout_share_format(head_share(a, arm), part), SPAN_ARG(a->id));
        }
        text = text ? arena_dup(call->arena, span_cstr(text)).ptr : NULL;
    }
    return text ? text : "";
}

enum admin_status command_policy_list(struct command_call *call)
{
    struct version_record *all;
    struct head *head;
    struct pilot_state state;
    uint32_t count;
    enum err err = versions_list(call->service->versions, call->arena, &all, &count);
    if (!err)
        err = command_head(call, &head);
    if (!err)
        err = state_load(call->service->versions, call->arena, &state);
    if (err)
        return command_fail_err(call, "reading the versions", err);
    json_array_open(call->result);
    for (uint32_t i = 0; i < count; i++) {
        const bool rolling = state_rolling(&state) && state.rollout->to == all[i].version;
        json_object_open(call->result);
        put_version(call, &all[i], rolling);
        json_member_cstr(call->result, "share", share_of(call, head, all[i].version));
        json_object_close(call->result);
    }
    json_array_close(call->result);
    command_fail(call, ADMIN_OK, count ? "%u versions" : "no policy has been pushed yet", count);
    return ADMIN_OK;
}

enum admin_status command_policy_show(struct command_call *call)
{
    uint32_t version = 0;
    struct head *head;
    struct version_record *record;
    enum admin_status status = candidate_version_arg(call, "version", &version);
    if (status != ADMIN_OK)
        return status;
    const enum err err = command_head(call, &head);
    if (err)
        return command_fail_err(call, "reading the head", err);
    version = version ? version : candidate_live(head);
    if (!version)
        return command_fail(call, ADMIN_NOT_FOUND, "no policy has been pushed yet");
    status = candidate_get_version(call, version, true, &record);
    if (status != ADMIN_OK)
        return status;
    json_object_open(call->result);
    put_version(call, record, false);
    json_key(call->result, SPAN("bundle"));
    json_put_raw(call->result, record->bundle);
    json_object_close(call->result);
    return ADMIN_OK;
}
