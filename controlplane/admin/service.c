#include "controlplane/admin/service.h"
#include "common/clock.h"
#include "common/log.h"
#include "controlplane/admin/commands.h"
#include "proto/home.h"
#include "proto/wire.h"
#include <stdarg.h>

#define COMMAND_ARENA_MAX ((size_t)3 << 30) /* loading and compiling the largest policy that may be pushed */
#define USER_BYTES_MAX    128u

struct span command_arg(const struct command_call *call, const char *name, struct span otherwise)
{
    for (uint32_t i = 0; i < call->request->arg_count; i++) {
        if (span_eq(call->request->args[i].name, span_cstr(name)))
            return call->request->args[i].value;
    }
    return otherwise;
}

bool command_flag(const struct command_call *call, const char *name)
{
    const struct span value = command_arg(call, name, SPAN(""));
    return span_eq(value, SPAN("true")) || span_eq(value, SPAN("1"));
}

enum admin_status command_fail(struct command_call *call, enum admin_status status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(call->message, sizeof(call->message), fmt, args);
    va_end(args);
    return status;
}

enum admin_status command_fail_err(struct command_call *call, const char *what, enum err err)
{
    const enum admin_status status = err == ERR_NOSPACE || err == ERR_NOMEM ? ADMIN_UNAVAILABLE : ADMIN_INTERNAL;
    return command_fail(call, status, "%s: %s%s", what, err_name(err),
                        err == ERR_NOSPACE ? " (the disk or the store is full; nothing was changed)" : "");
}

const char *role_name(enum role role)
{
    static const char *const names[] = { "viewer", "operator", "admin" };
    return names[role];
}

static const struct command *find_in(const struct command *list, unsigned count, struct span name)
{
    for (unsigned i = 0; i < count; i++) {
        if (span_eq(name, span_cstr(list[i].name)))
            return &list[i];
    }
    return NULL;
}

static const struct command *find_apart(struct span name)
{
    return find_in(service_commands_apart, service_command_apart_count, name);
}

static const struct command *find_command(struct span name)
{
    const struct command *command = find_in(service_commands, service_command_count, name);
    return command ? command : find_apart(name);
}

/* One line of the audit log: who did what, with which arguments (long ones by their length), and how it ended. */
static enum err audit(struct command_call *call, const struct command *command)
{
    struct buf line = BUF_INIT(AUDIT_LINE_BYTES_MAX);
    struct json_writer w;
    json_writer_init(&w, &line);
    json_object_open(&w);
    json_member_i64(&w, "at_ms", call->now_ms);
    json_member_string(&w, "user", call->request->user);
    if (call->caller->uid != CALLER_UID_UNKNOWN)
        json_member_u64(&w, "uid", call->caller->uid);
    if (!span_eq(span_head(call->claimed, USER_BYTES_MAX), call->request->user))
        json_member_string(&w, "claimed", span_head(call->claimed, USER_BYTES_MAX));
    json_member_cstr(&w, "role", role_name(call->caller->role));
    json_member_cstr(&w, "command", command->name);
    json_member_cstr(&w, "message", call->message);
    json_key(&w, SPAN("args"));
    json_object_open(&w);
    for (uint32_t i = 0; i < call->request->arg_count; i++) {
        const struct admin_arg *arg = &call->request->args[i];
        json_key(&w, arg->name);
        if (arg->value.len <= 200)
            json_put_string(&w, arg->value);
        else
            json_put_u64(&w, arg->value.len);
    }
    json_object_close(&w);
    json_member_string(&w, "request_id", call->request->request_id);
    if (!span_empty(call->audit_detail)) {
        json_key(&w, SPAN("detail"));
        json_put_raw(&w, call->audit_detail);
    }
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    if (!err)
        err = versions_audit_put(call->service->versions, buf_span(&line));
    buf_release(&line);
    return err;
}

static enum err store_evidence(struct service *service)
{
    struct buf blob = BUF_INIT(FRAME_BYTES_MAX);
    enum err err = evidence_export(service->evidence, &blob);
    if (!err)
        err = versions_blob_put(service->versions, SPAN("evidence"), buf_span(&blob));
    buf_release(&blob);
    return err;
}

static enum err encode_reply(enum admin_status status, const char *message, struct span result, struct buf *out)
{
    const struct admin_reply reply = {
        .protocol = LINK_PROTOCOL, .status = status, .message = span_cstr(message), .result = result
    };
    return wire_encode_admin_reply(&reply, out);
}

/* After a failed mutation the evidence in memory may be ahead of the store: what was stored counts. */
static void reload_evidence(struct service *service, struct arena *arena)
{
    struct span blob;
    if (versions_begin(service->versions, false))
        return;
    if (versions_blob_get(service->versions, arena, SPAN("evidence"), &blob) != OK ||
        evidence_import(service->evidence, blob) != OK)
        log_warn("evidence.reload", LOG_STR("why", "prices in memory may differ from the store until a restart"));
    versions_abort(service->versions);
}

/* Stores what feeds changed since the last time, so that after a failed or a dry run the store's is exactly what was. */
static enum err settle_evidence(struct service *service, struct arena *arena)
{
    struct span blob;
    enum err err = versions_begin(service->versions, true);
    if (err)
        return err;
    err = versions_blob_get(service->versions, arena, SPAN("evidence"), &blob);
    if (err == OK && !evidence_dirty(service->evidence)) {
        versions_abort(service->versions);
        return OK;
    }
    if (err == OK || err == ERR_NOT_FOUND)
        err = store_evidence(service);
    if (!err)
        return versions_commit(service->versions);
    versions_abort(service->versions);
    return err;
}

static enum admin_status execute_mutation(struct command_call *call, const struct command *command, struct buf *result,
                                          struct buf *encoded)
{
    struct service *service = call->service;
    struct span stored;
    enum err err = command->changes_evidence ? settle_evidence(service, call->arena) : OK;
    if (!err)
        err = versions_begin(service->versions, true);
    if (err)
        return command_fail_err(call, "the store cannot be written", err);
    err = versions_answer_get(service->versions, call->arena, call->request->request_id, &stored);
    if (err == OK) { /* executed before: the same answer again */
        versions_abort(service->versions);
        err = buf_append(encoded, stored);
        return err ? command_fail_err(call, "the stored answer cannot be read", err) : ADMIN_OK;
    }
    enum admin_status status =
        err == ERR_NOT_FOUND ? command->run(call) : command_fail_err(call, "looking for an earlier answer", err);
    if (status == ADMIN_OK && json_writer_end(call->result) != OK)
        status = command_fail(call, ADMIN_INTERNAL, "the answer is larger than %u bytes", ADMIN_RESULT_BYTES_MAX);
    if (status != ADMIN_OK || call->request->dry_run) {
        versions_abort(service->versions);
        if (call->evidence_changed)
            reload_evidence(service, call->arena);
        return status;
    }
    err = call->evidence_changed ? store_evidence(service) : OK;
    if (!err)
        err = audit(call, command);
    if (!err)
        err = encode_reply(ADMIN_OK, call->message, buf_span(result), encoded);
    if (!err)
        err = versions_answer_put(service->versions, call->request->request_id, buf_span(encoded));
    if (err)
        versions_abort(service->versions);
    else
        err = versions_commit(service->versions);
    if (err) {
        buf_clear(encoded);
        if (call->evidence_changed)
            reload_evidence(service, call->arena);
        return command_fail_err(call, "not stored", err);
    }
    if (call->republish)
        service->changed(service->changed_user);
    return ADMIN_OK;
}

static enum admin_status execute_query(struct command_call *call, const struct command *command)
{
    const bool apart = find_apart(call->request->command) != NULL;
    const enum err err = apart ? OK : versions_begin(call->service->versions, false);
    if (err)
        return command_fail_err(call, "the store cannot be read", err);
    enum admin_status status = command->run(call);
    if (!apart)
        versions_abort(call->service->versions);
    if (status == ADMIN_OK && json_writer_end(call->result) != OK)
        status = command_fail(call, ADMIN_INTERNAL, "the answer is larger than %u bytes", ADMIN_RESULT_BYTES_MAX);
    return status;
}

static enum admin_status execute(struct command_call *call, struct buf *result, struct buf *encoded)
{
    const struct admin_request *request = call->request;
    if (request->protocol != LINK_PROTOCOL)
        return command_fail(call, ADMIN_INVALID,
                            "this control plane speaks protocol %u, the caller %u: use programs of one version",
                            LINK_PROTOCOL, request->protocol);
    const struct command *command = find_command(request->command);
    if (!command)
        return command_fail(call, ADMIN_NOT_FOUND,
                            "unknown command '" SPAN_FMT "': is the CLI newer than the control plane?",
                            SPAN_ARG(span_head(request->command, NAME_BYTES_MAX)));
    if (call->caller->role < command->role)
        return command_fail(call, ADMIN_DENIED,
                            "%s needs the role %s, you have %s; root and the user that runs the control plane can "
                            "grant it in %s/" HOME_ROLES,
                            command->name, role_name(command->role), role_name(call->caller->role),
                            call->service->home);
    if (!command->mutates)
        return execute_query(call, command);
    if (request->request_id.len < 8 || request->request_id.len > 128)
        return command_fail(call, ADMIN_INVALID, "a change needs a request id of 8 to 128 bytes");
    return execute_mutation(call, command, result, encoded);
}

void service_deny(const struct service *service, const struct caller *caller, struct buf *reply)
{
    char message[1024];
    if (caller->uid == CALLER_UID_UNKNOWN)
        snprintf(message, sizeof(message),
                 "roles go by local users: ask on the control plane's machine, by its socket");
    else
        snprintf(message, sizeof(message),
                 SPAN_FMT
                 " (uid %u) has no role on this control plane: even to look takes the role viewer; root and the "
                 "user that runs the control plane can grant one in %.600s/" HOME_ROLES,
                 SPAN_ARG(span_empty(caller->name) ? SPAN("you") : span_head(caller->name, USER_BYTES_MAX)),
                 caller->uid, service->home);
    log_warn("admin.denied", LOG_U64("uid", caller->uid), LOG_SPAN("name", caller->name));
    if (encode_reply(ADMIN_DENIED, message, SPAN(""), reply) != OK)
        buf_clear(reply);
}

bool service_is_apart(struct span bytes)
{
    struct arena arena;
    struct admin_request *request;
    arena_init(&arena, COMMAND_ARENA_MAX);
    const bool apart = wire_decode_admin_request(&arena, bytes, &request) == OK && find_apart(request->command);
    arena_release(&arena);
    return apart;
}

void service_execute(struct service *service, struct span bytes, const struct caller *caller, int64_t now_ms,
                     struct buf *reply)
{
    struct arena arena;
    struct admin_request *request;
    struct buf result = BUF_INIT(ADMIN_RESULT_BYTES_MAX);
    struct json_writer writer;
    struct command_call call = {
        .service = service, .caller = caller, .arena = &arena, .now_ms = now_ms, .result = &writer
    };
    enum admin_status status;

    arena_init(&arena, COMMAND_ARENA_MAX);
    json_writer_init(&writer, &result);
    const enum err err = wire_decode_admin_request(&arena, bytes, &request);
    if (err) {
        service->refused++;
        log_warn("admin.refused", LOG_ERR(err));
        status = command_fail(&call, ADMIN_INVALID, "not a request of this protocol: %s", err_name(err));
    } else {
        call.request = request;
        call.claimed = request->user;
        if (!span_empty(caller->name))
            request->user = caller->name;
        request->user = span_head(request->user, USER_BYTES_MAX); /* it is kept with what it did */
        status = execute(&call, &result, reply);
        const struct command *command = find_command(request->command);
        if (status != ADMIN_OK || !command || command->mutates)
            log_info("admin", LOG_SPAN("command", request->command), LOG_SPAN("user", request->user),
                     LOG_U64("status", status), LOG_STR("message", call.message));
        else
            log_debug("admin", LOG_SPAN("command", request->command), LOG_SPAN("user", request->user));
    }
    if (status != ADMIN_OK && json_writer_end(&writer) != OK)
        buf_clear(&result); /* it failed half way through its result */
    if (reply->len == 0 && encode_reply(status, call.message, buf_span(&result), reply) != OK) {
        buf_clear(reply);
        if (encode_reply(ADMIN_INTERNAL, "the answer does not fit a frame", SPAN(""), reply) != OK)
            buf_clear(reply);
    }
    buf_release(&result);
    arena_release(&arena);
}
