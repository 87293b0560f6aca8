/* simulate.start, simulate.poll, simulate.cancel: what the recorded requests would have met under another policy. */
#include "controlplane/admin/candidate.h"
#include "controlplane/admin/commands.h"
#include "controlplane/jobs/simulations.h"
#include "proto/wire.h"

#define TIMEOUT_MS_DEFAULT 600000u
#define TIMEOUT_MS_MAX     3600000u /* a simulation nobody waits for must end some time */
#define LIMIT_DEFAULT      1000000u

/* ---- the candidate ---- */

static enum admin_status encode_candidate(struct command_call *call, uint32_t *ret_version, struct buf *out)
{
    struct candidate c = { .artifact = NULL };
    const struct artifact *artifact = NULL;
    enum admin_status status;
    if (span_empty(command_arg(call, "bundle", SPAN("")))) {
        status = candidate_version_text(call, command_arg(call, "version", SPAN("")), ret_version);
        if (status == ADMIN_OK)
            status = candidate_artifact(call, *ret_version, &artifact);
    } else {
        status = candidate_compile(call, 0, &c);
        artifact = c.artifact;
    }
    if (status != ADMIN_OK)
        return status;
    const enum err err = wire_encode_artifact(artifact, out);
    return err ? command_fail_err(call, "encoding the policy", err) : ADMIN_OK;
}

/* ---- what stands around it ---- */

struct narrowed { /* keys with routes of their own */
    struct command_call *call;
    struct key_record *keys;
    uint32_t count, room;
    enum err err;
};

static bool take_key(void *user, const struct key_record *key)
{
    struct narrowed *n = user;
    if (key->routes.count == 0)
        return true;
    if (n->count == n->room) {
        const uint32_t room = n->room ? n->room * 2 : 64;
        struct key_record *keys = ARENA_ARRAY(n->call->arena, room, struct key_record);
        if (!keys) {
            n->err = ERR_NOMEM;
            return false;
        }
        if (n->count > 0)
            memcpy(keys, n->keys, n->count * sizeof(*keys));
        n->keys = keys;
        n->room = room;
    }
    struct span *routes = ARENA_ARRAY(n->call->arena, key->routes.count, struct span);
    struct key_record copy = { .hash = key->hash,
                               .id = arena_dup(n->call->arena, key->id),
                               .team = arena_dup(n->call->arena, key->team),
                               .routes = { routes, key->routes.count } };
    bool copied = routes && copy.id.ptr && copy.team.ptr;
    for (uint32_t i = 0; copied && i < key->routes.count; i++) {
        routes[i] = arena_dup(n->call->arena, key->routes.items[i]);
        copied = routes[i].ptr != NULL;
    }
    n->err = copied ? OK : ERR_NOMEM;
    if (copied)
        n->keys[n->count++] = copy;
    return copied;
}

static enum err encode_directory(struct command_call *call, struct buf *out)
{
    struct narrowed narrowed = { .call = call };
    struct teams *teams;
    enum err err = versions_teams_get(call->service->versions, call->arena, &teams, NULL);
    if (!err)
        err = versions_keys_each(call->service->versions, take_key, &narrowed);
    if (!err)
        err = narrowed.err;
    if (err)
        return err;
    const struct directory_delta delta = { .epoch = 1,
                                           .to_seq = 1,
                                           .full = true,
                                           .has_teams = true,
                                           .teams = *teams,
                                           .keys = narrowed.keys,
                                           .key_count = narrowed.count };
    return wire_encode_directory_delta(&delta, out);
}

/* As nodes have it now, and the weights that the candidate's scored tiers would come to. */
static enum err encode_evidence(struct command_call *call, struct span live, struct span candidate, struct buf *out)
{
    const struct span published = publisher_evidence_bytes(call->service->publisher);
    struct evidence *evidence;
    struct artifact *before, *after;
    if (span_empty(published))
        return OK;
    enum err err = wire_decode_evidence(call->arena, published, &evidence, NULL);
    if (!err)
        err = wire_decode_artifact(call->arena, live, &before, NULL);
    if (!err)
        err = wire_decode_artifact(call->arena, candidate, &after, NULL);
    if (!err)
        err = evidence_foresee(call->service->evidence, call->arena, before, after, call->now_ms, evidence);
    return err ? err : wire_encode_evidence(evidence, out);
}

/* ---- the commands ---- */

/* What the candidate is compared with: the stable arm; where that is the candidate itself (it was just pushed to 100%),
 * the version that held 100% most lately before it. */
static enum admin_status choose_live(struct command_call *call, const struct head *head, uint32_t candidate,
                                     uint32_t *ret_version, struct span *ret_artifact)
{
    struct version_record *all;
    uint32_t count;
    const struct version_record *best = NULL;
    const uint32_t stable = head->arms[0].policy_version;
    enum err err = versions_list(call->service->versions, call->arena, &all, &count);
    for (uint32_t i = 0; !err && i < count; i++) {
        const struct version_record *r = &all[i];
        if (stable == candidate ? r->version != candidate && r->full_generation > 0 &&
                                      (!best || r->full_generation > best->full_generation)
                                : r->version == stable)
            best = r;
    }
    if (!err && !best)
        return command_fail(call, ADMIN_NOT_FOUND,
                            "v%u is live and no other version ever was, so there is nothing to compare it with",
                            stable);
    if (!err)
        err = versions_artifact_get(call->service->versions, call->arena, &best->artifact, ret_artifact);
    if (err)
        return command_fail_err(call, "reading the live artifact", err);
    *ret_version = best->version;
    return ADMIN_OK;
}

/* A number argument; `otherwise` when absent, UINT64_MAX when it is none. */
static uint64_t number_arg(const struct command_call *call, const char *name, uint64_t otherwise)
{
    const struct span text = command_arg(call, name, SPAN(""));
    uint64_t value;
    if (span_empty(text))
        return otherwise;
    return span_to_u64(text, &value) == OK ? value : UINT64_MAX;
}

static enum admin_status start(struct command_call *call, struct simulation_order *order, uint32_t version,
                               uint32_t live_version)
{
    const char *id;
    order->records = recordstore_dir(call->service->records);
    const enum err err = simulations_start(call->service->simulations, order, &id);
    if (err == ERR_AGAIN)
        return command_fail(call, ADMIN_UNAVAILABLE,
                            "%u simulations run already: each wants a core and the disk; wait for one, or cancel it",
                            SIMULATIONS_RUNNING_MAX);
    if (err)
        return command_fail_err(call, "starting the simulation", err);
    json_object_open(call->result);
    json_member_cstr(call->result, "id", id);
    json_member_u64(call->result, "version", version);
    json_member_u64(call->result, "live_version", live_version);
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, "%s runs", id);
    return ADMIN_OK;
}

enum admin_status command_simulate_start(struct command_call *call)
{
    struct head *head;
    uint32_t version = 0;
    const uint64_t since = number_arg(call, "since_ms", 0), limit = number_arg(call, "limit", LIMIT_DEFAULT);
    const uint64_t timeout = number_arg(call, "timeout_ms", TIMEOUT_MS_DEFAULT);
    if (since > INT64_MAX || limit == 0 || limit == UINT64_MAX || timeout == 0 || timeout > TIMEOUT_MS_MAX)
        return command_fail(call, ADMIN_INVALID, "since_ms, limit or timeout_ms is no number that can be used");
    if (!call->service->simulations || !call->service->records)
        return command_fail(call, ADMIN_UNAVAILABLE, "simulations cannot run here; the log of the start says why");
    if (recordstore_stats(call->service->records).nodes == 0)
        return command_fail(call, ADMIN_NOT_FOUND,
                            "no node has shipped any record yet (records.ship in its configuration says how much)");
    enum err err = command_head(call, &head);
    if (err)
        return command_fail_err(call, "reading the head", err);
    if (head->arm_count == 0)
        return command_fail(call, ADMIN_NOT_FOUND, "nothing is live, so there is nothing to compare with");
    struct buf candidate = BUF_INIT(ARTIFACT_BYTES_MAX), evidence = BUF_INIT(EVIDENCE_BYTES_MAX);
    struct buf directory = BUF_INIT(FRAME_BYTES_MAX);
    struct simulation_order order = { .since_ms = (int64_t)since, .limit = limit, .timeout_ms = (uint32_t)timeout };
    enum admin_status status = encode_candidate(call, &version, &candidate);
    uint32_t against = 0;
    if (status == ADMIN_OK)
        status = choose_live(call, head, version, &against, &order.live);
    if (status == ADMIN_OK) {
        err = versions_head_bytes(call->service->versions, call->arena, &order.head);
        if (!err)
            err = encode_evidence(call, order.live, buf_span(&candidate), &evidence);
        if (!err)
            err = encode_directory(call, &directory);
        order.candidate = buf_span(&candidate);
        order.evidence = buf_span(&evidence);
        order.directory = buf_span(&directory);
        status = err ? command_fail_err(call, "gathering what a simulation needs", err)
                     : start(call, &order, version, against);
    }
    buf_release(&candidate);
    buf_release(&evidence);
    buf_release(&directory);
    return status;
}

enum admin_status command_simulate_poll(struct command_call *call)
{
    struct simulation_status status;
    const struct span id = command_arg(call, "id", SPAN(""));
    if (!call->service->simulations || simulations_look(call->service->simulations, id, &status))
        return command_fail(call, ADMIN_NOT_FOUND, "there is no simulation '" SPAN_FMT "' (only the last %u are kept)",
                            SPAN_ARG(span_head(id, 50)), SIMULATIONS_KEPT_MAX);
    json_object_open(call->result);
    json_member_cstr(call->result, "state", simulation_state_name(status.state));
    json_member_u64(call->result, "records", status.records);
    json_member_u64(call->result, "bytes", status.bytes);
    json_member_u64(call->result, "bytes_total", status.bytes_total);
    if (status.state == SIMULATION_FAILED)
        json_member_cstr(call->result, "why", status.why);
    if (status.state == SIMULATION_DONE) {
        json_key(call->result, SPAN("simulation"));
        json_put_raw(call->result, status.result);
    }
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, SPAN_FMT " is %s", SPAN_ARG(id), simulation_state_name(status.state));
    return ADMIN_OK;
}

enum admin_status command_simulate_cancel(struct command_call *call)
{
    const struct span id = command_arg(call, "id", SPAN(""));
    if (!call->service->simulations || simulations_cancel(call->service->simulations, id))
        return command_fail(call, ADMIN_NOT_FOUND, "there is no simulation '" SPAN_FMT "'",
                            SPAN_ARG(span_head(id, 50)));
    json_object_open(call->result);
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, "cancelled");
    return ADMIN_OK;
}
