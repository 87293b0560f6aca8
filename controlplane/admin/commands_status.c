#include "common/file.h"
#include "controlplane/admin/commands.h"
#include "proto/head.h"
#include "proto/snapshot.h"
#include "proto/wire.h"

/* With the share each has of what `assignment` covers (NULL: arm 0 has all); those that have none are left out. */
static void put_shares(struct json_writer *w, const struct head *head, const struct assignment *assignment)
{
    json_key(w, SPAN("arms"));
    json_array_open(w);
    for (uint32_t i = 0; i < head->arm_count; i++) {
        const uint32_t share = head_share(assignment, i);
        if (share == 0 && i > 0)
            continue;
        json_object_open(w);
        json_member_string(w, "arm", head->arms[i].name);
        json_member_u64(w, "version", head->arms[i].policy_version);
        json_member_decimal(w, "share", share, 4);
        json_object_close(w);
    }
    json_array_close(w);
}

static void put_routes(struct json_writer *w, const struct span_list *routes)
{
    json_key(w, SPAN("routes"));
    json_array_open(w);
    for (uint32_t i = 0; i < routes->count; i++)
        json_put_string(w, routes->items[i]);
    json_array_close(w);
}

static void put_assignments(struct json_writer *w, const struct head *head)
{
    json_key(w, SPAN("assignments"));
    json_array_open(w);
    for (uint32_t i = 0; i < head->assignment_count; i++) {
        const struct assignment *a = &head->assignments[i];
        json_object_open(w);
        json_member_string(w, "id", a->id);
        json_member_cstr(w, "unit", unit_kind_name(a->unit));
        json_member_string(w, "header", a->header);
        put_routes(w, &a->routes);
        put_shares(w, head, a);
        json_object_close(w);
    }
    json_array_close(w);
    json_key(w, SPAN("shadows"));
    json_array_open(w);
    for (uint32_t i = 0; i < head->shadow_count; i++) {
        const struct shadow *s = &head->shadows[i];
        json_object_open(w);
        json_member_string(w, "id", s->id);
        json_member_string(w, "arm", head->arms[s->arm].name);
        json_member_u64(w, "version", head->arms[s->arm].policy_version);
        json_member_u64(w, "share_ppm", s->share_ppm);
        json_member_decimal(w, "budget_usd", s->budget_nano, 9);
        json_member_bool(w, "tools", s->tools);
        put_routes(w, &s->routes);
        json_object_close(w);
    }
    json_array_close(w);
}

static void put_refusals(const struct service *service, struct json_writer *w)
{
    const struct link_refusals refusals =
        service->link_refusals ? service->link_refusals(service->changed_user) : (struct link_refusals){ 0 };
    json_key(w, SPAN("refused_messages"));
    json_object_open(w);
    json_member_u64(w, "fetch", refusals.fetch);
    json_member_u64(w, "evidence", refusals.evidence);
    json_member_u64(w, "admin", refusals.admin);
    json_object_close(w);
}

enum admin_status command_status(struct command_call *call)
{
    struct service *service = call->service;
    struct versions_numbers n;
    struct head *head;
    struct teams *teams;
    struct json_writer *w = call->result;
    enum err err = versions_numbers(service->versions, &n);
    if (!err)
        err = command_head(call, &head);
    if (!err)
        err = versions_teams_get(service->versions, call->arena, &teams, NULL);
    if (err)
        return command_fail_err(call, "reading the store", err);
    json_object_open(w);
    json_member_cstr(w, "version", FAIRLEAD_VERSION);
    json_member_cstr(w, "home", service->home);
    json_member_i64(w, "uptime_ms", call->now_ms - service->started_at_ms);
    json_member_u64(w, "epoch", n.epoch);
    json_member_u64(w, "generation", n.generation);
    json_member_string(w, "generation_why", head->why);
    json_member_string(w, "generation_by", head->by);
    json_member_i64(w, "generation_at_ms", head->made_at_ms);
    put_shares(w, head, head_assignment_of_all(head));
    put_assignments(w, head);
    json_key(w, SPAN("rollout"));
    pilot_json_rollout(service->pilot, call->now_ms, w);
    json_key(w, SPAN("lock"));
    pilot_json_lock(service->pilot, w);
    json_member_u64(w, "overrides", head->override_count);
    json_key(w, SPAN("overrides_set"));
    command_put_overrides(call, head);
    json_member_u64(w, "directory", n.directory_seq);
    json_member_u64(w, "teams", teams->count);
    json_member_u64(w, "store_bytes", snapshot_bytes_used(versions_snapshot(service->versions)));
    put_refusals(service, w);
    json_key(w, SPAN("evidence"));
    evidence_json_summary(service->evidence, call->now_ms, w);
    json_key(w, SPAN("nodes"));
    nodes_json(service->nodes, n.epoch, n.generation, call->now_ms, w);
    json_object_close(w);
    return ADMIN_OK;
}

enum admin_status command_nodes_list(struct command_call *call)
{
    struct versions_numbers n;
    const enum err err = versions_numbers(call->service->versions, &n);
    if (err)
        return command_fail_err(call, "reading the store", err);
    nodes_json(call->service->nodes, n.epoch, n.generation, call->now_ms, call->result);
    return ADMIN_OK;
}

static uint64_t number_arg(const struct command_call *call, const char *name)
{
    uint64_t number = 0;
    return span_to_u64(command_arg(call, name, SPAN("0")), &number) == OK ? number : 0;
}

/* Behind --wait: which nodes do not serve this head or directory yet. */
enum admin_status command_nodes_behind(struct command_call *call)
{
    json_object_open(call->result);
    json_key(call->result, SPAN("behind"));
    const unsigned behind =
        nodes_behind(call->service->nodes, number_arg(call, "epoch"), number_arg(call, "generation"),
                     number_arg(call, "directory"), call->now_ms, call->result);
    json_member_u64(call->result, "count", behind);
    json_object_close(call->result);
    return ADMIN_OK;
}

enum admin_status command_nodes_adopt(struct command_call *call)
{
    struct versions_numbers n;
    const struct span node = command_arg(call, "node", SPAN(""));
    if (span_empty(node) && !command_flag(call, "all"))
        return command_fail(call, ADMIN_INVALID, "name a node, or --all");
    enum err err = versions_numbers(call->service->versions, &n);
    /* All: in the store, from where the publisher takes it after the commit, and after each restart. */
    if (!err && !call->request->dry_run)
        err = span_empty(node) ? versions_adopt_all(call->service->versions)
                               : nodes_adopt(call->service->nodes, node, n.epoch);
    if (err == ERR_NOT_FOUND)
        return command_fail(call, ADMIN_NOT_FOUND, "no node '" SPAN_FMT "' has been heard of",
                            SPAN_ARG(span_head(node, 100)));
    if (err)
        return command_fail_err(call, "adopting", err);
    call->republish = true;
    json_object_open(call->result);
    json_member_u64(call->result, "epoch", n.epoch);
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, "%s may take tables of epoch %llu now", span_empty(node) ? "every node" : "the node",
                 (unsigned long long)n.epoch);
    return ADMIN_OK;
}

/* A consistent copy beside the running store. The path is on the control plane's machine. */
enum admin_status command_backup(struct command_call *call)
{
    const struct span to = command_arg(call, "to", SPAN(""));
    if (to.len == 0 || to.ptr[0] != '/' || to.len > 4000)
        return command_fail(call, ADMIN_INVALID, "say where to, as an absolute path to a new directory");
    if (file_exists(to.ptr))
        return command_fail(call, ADMIN_CONFLICT, "'" SPAN_FMT "' is there already; backups overwrite nothing",
                            SPAN_ARG(to));
    /* The copy reads in a transaction of its own. */
    versions_abort(call->service->versions);
    enum err err = snapshot_copy(versions_snapshot(call->service->versions), to.ptr);
    if (!err)
        err = versions_begin(call->service->versions, false);
    if (err)
        return command_fail_err(call, "copying the store", err);
    json_object_open(call->result);
    json_member_string(call->result, "to", to);
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, "backed up to " SPAN_FMT "; it holds hashes of keys, no keys and no credentials",
                 SPAN_ARG(to));
    return ADMIN_OK;
}
