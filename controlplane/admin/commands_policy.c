#include "controlplane/admin/commands.h"
#include "controlplane/policy/policy.h"
#include "proto/wire.h"

#define AUTHOR_BYTES_MAX  200u
#define MESSAGE_BYTES_MAX 2000u

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

static uint32_t live_version(const struct head *head)
{
    return head->arm_count ? head->arms[0].policy_version : 0;
}

/* ---- from a pushed bundle to an artifact ---- */

struct candidate {
    struct diags diags;
    const struct policy *policy;
    const struct artifact *artifact; /* NULL: diags say why */
    struct span bundle;
};

enum admin_status command_refuse_diags(struct command_call *call, struct diags *diags)
{
    struct buf text = BUF_INIT(1u << 20);
    json_object_open(call->result);
    json_key(call->result, SPAN("diagnostics"));
    diags_json(diags, call->result);
    json_object_close(call->result);
    if (diags_text(diags, &text) == OK && text.len > 0) {
        struct span rest = buf_span(&text), first;
        if (span_split(&rest, '\n', &first))
            command_fail(call, ADMIN_INVALID, SPAN_FMT "%s", SPAN_ARG(span_head(first, 900)),
                         diags->errors > 1 ? " (and more)" : "");
    } else {
        command_fail(call, ADMIN_INVALID, "the policy cannot be used");
    }
    buf_release(&text);
    return ADMIN_INVALID;
}

static enum admin_status load_bundle(struct command_call *call, struct candidate *c)
{
    struct policy_bundle *bundle;
    c->bundle = command_arg(call, "bundle", SPAN(""));
    diags_init(&c->diags, call->arena);
    if (span_empty(c->bundle))
        return command_fail(call, ADMIN_INVALID, "the argument 'bundle' is missing");
    if (c->bundle.len > PUSH_BYTES_MAX)
        return command_fail(call, ADMIN_INVALID, "the policy with its includes is %zu bytes; at most %u are taken",
                            c->bundle.len, PUSH_BYTES_MAX);
    enum err err = policy_bundle_open(call->arena, c->bundle, &bundle);
    if (err)
        return command_fail(call, ADMIN_INVALID, "the bundle is malformed: %s", err_name(err));
    err = policy_load(call->arena, &bundle->source, bundle->root, &c->diags, &c->policy);
    if (err == ERR_NOMEM)
        return command_fail_err(call, "loading the policy", err);
    return err ? command_refuse_diags(call, &c->diags) : ADMIN_OK;
}

static enum admin_status compile_bundle(struct command_call *call, uint32_t version, struct candidate *c)
{
    enum admin_status status = load_bundle(call, c);
    if (status != ADMIN_OK)
        return status;
    if (!policy_has_policy(c->policy))
        return command_fail(call, ADMIN_INVALID,
                            "no document of `kind: policy` in it (a directory is applied by `fairlead teams apply`)");
    struct policy_book book = *evidence_book(call->service->evidence);
    book.now_ms = call->now_ms;
    const enum err err = policy_compile(call->arena, c->policy, &book, version, &c->diags, &c->artifact);
    if (err == ERR_INVALID)
        return command_refuse_diags(call, &c->diags);
    return err ? command_fail_err(call, "compiling the policy", err) : ADMIN_OK;
}

static void put_diagnostics(struct command_call *call, struct candidate *c)
{
    json_key(call->result, SPAN("diagnostics"));
    diags_json(&c->diags, call->result);
}

enum admin_status command_policy_check(struct command_call *call)
{
    struct candidate c = { 0 };
    const enum admin_status status = compile_bundle(call, 0, &c);
    if (status != ADMIN_OK)
        return status;
    json_object_open(call->result);
    json_member_string(call->result, "policy_hash", policy_hash(c.policy));
    json_member_u64(call->result, "providers", c.artifact->provider_count);
    json_member_u64(call->result, "models", c.artifact->model_count);
    json_member_u64(call->result, "routes", c.artifact->route_count);
    put_diagnostics(call, &c);
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, "good: %u providers, %u models, %u routes%s", c.artifact->provider_count,
                 c.artifact->model_count, c.artifact->route_count, c.diags.warnings ? "; see the warnings" : "");
    return ADMIN_OK;
}

/* Version number from an argument ("3" or "v3"); 0 when absent. */
static enum admin_status version_arg(struct command_call *call, const char *name, uint32_t *ret)
{
    struct span text = command_arg(call, name, SPAN(""));
    uint64_t number = 0;
    if (!span_empty(text) && (text.ptr[0] == 'v' || text.ptr[0] == 'V'))
        text = span_skip(text, 1);
    if (!span_empty(text) && (span_to_u64(text, &number) != OK || number == 0 || number > UINT32_MAX))
        return command_fail(call, ADMIN_INVALID,
                            "'" SPAN_FMT "' is no version; say a number as `fairlead policy list` shows it",
                            SPAN_ARG(span_head(command_arg(call, name, SPAN("")), 50)));
    *ret = (uint32_t)number;
    return ADMIN_OK;
}

static enum admin_status get_version(struct command_call *call, uint32_t version, bool with_bundle,
                                     struct version_record **ret)
{
    const enum err err = versions_get(call->service->versions, call->arena, version, with_bundle, ret);
    if (err == ERR_NOT_FOUND)
        return command_fail(call, ADMIN_NOT_FOUND, "there is no version %u; `fairlead policy list` shows them all",
                            version);
    return err ? command_fail_err(call, "reading the version", err) : ADMIN_OK;
}

static enum admin_status version_artifact(struct command_call *call, uint32_t version, const struct artifact **ret)
{
    struct version_record *record;
    struct span bytes;
    struct artifact *artifact;
    const enum admin_status status = get_version(call, version, false, &record);
    if (status != ADMIN_OK)
        return status;
    enum err err = versions_artifact_get(call->service->versions, call->arena, &record->artifact, &bytes);
    if (!err)
        err = wire_decode_artifact(call->arena, bytes, &artifact, NULL);
    if (err)
        return command_fail_err(call, "reading the artifact", err);
    *ret = artifact;
    return ADMIN_OK;
}

static enum err put_changes(struct command_call *call, const struct artifact *before, const struct artifact *after,
                            uint32_t *ret_count)
{
    struct policy_changes changes;
    const enum err err = policy_diff(call->arena, before, after, &changes);
    if (err)
        return err;
    json_key(call->result, SPAN("changes"));
    policy_changes_json(&changes, call->result);
    *ret_count = changes.count;
    return OK;
}

enum admin_status command_policy_diff(struct command_call *call)
{
    uint32_t from = 0, to = 0, count = 0;
    struct head *head;
    struct candidate c = { 0 };
    const struct artifact *before = NULL, *after = NULL;
    enum admin_status status = version_arg(call, "from", &from);
    if (status == ADMIN_OK)
        status = version_arg(call, "to", &to);
    if (status != ADMIN_OK)
        return status;
    enum err err = command_head(call, &head);
    if (err)
        return command_fail_err(call, "reading the head", err);
    from = from ? from : live_version(head);
    if (from)
        status = version_artifact(call, from, &before);
    if (status == ADMIN_OK && to)
        status = version_artifact(call, to, &after);
    else if (status == ADMIN_OK) {
        status = compile_bundle(call, 0, &c);
        after = c.artifact;
    }
    if (status != ADMIN_OK)
        return status;
    json_object_open(call->result);
    json_member_u64(call->result, "from", from);
    json_member_u64(call->result, "to", to);
    err = put_changes(call, before, after, &count);
    json_object_close(call->result);
    if (err)
        return command_fail_err(call, "comparing", err);
    command_fail(call, ADMIN_OK, count ? "%u change%s" : "no change for requests", count, command_plural(count));
    return ADMIN_OK;
}

/* ---- going live ---- */

/* The version that holds 100% now becomes `state`; `next` takes its place. */
static enum err switch_to(struct command_call *call, struct head *head, struct version_record *next,
                          enum version_state state_of_old, const char *why)
{
    struct versions *versions = call->service->versions;
    const uint32_t old_version = live_version(head);
    enum err err = OK;
    if (old_version && old_version != next->version) {
        struct version_record *old;
        err = versions_get(versions, call->arena, old_version, false, &old);
        if (!err) {
            old->state = state_of_old;
            err = versions_update(versions, old);
        }
    }
    struct arm *arm = ARENA_NEW(call->arena, struct arm);
    if (!arm)
        return ERR_NOMEM;
    *arm = (struct arm){ .name = SPAN("stable"), .policy_version = next->version, .artifact = next->artifact };
    head->arms = arm;
    head->arm_count = 1;
    head->assignment_count = head->shadow_count = 0;
    if (!err)
        err = command_head_change(call, head, why);
    next->state = VERSION_LIVE;
    next->full_at_ms = call->now_ms;
    next->full_generation = head->generation;
    return err ? err : versions_update(versions, next);
}

static enum admin_status store_version(struct command_call *call, const struct candidate *c, struct span author,
                                       struct span message, struct version_record *record)
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
            .author = author,
            .message = message,
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

static void put_push_result(struct command_call *call, const struct version_record *record, const struct head *head,
                            bool stored)
{
    json_member_u64(call->result, "version", record->version);
    json_member_bool(call->result, "new", stored);
    json_member_cstr(call->result, "state", record->state == VERSION_LIVE ? "live" : "stored");
    json_member_u64(call->result, "epoch", head->epoch);
    json_member_u64(call->result, "generation", head->generation);
    json_member_string(call->result, "policy_hash", record->policy_hash);
}

/* Same content as a version that is there: no new version is made. */
static enum admin_status push_known(struct command_call *call, struct head *head, struct version_record *known,
                                    struct candidate *c)
{
    const uint32_t live = live_version(head);
    char why[64];
    enum err err = OK;
    if (known->version == live) {
        call->republish = false;
        command_fail(call, ADMIN_OK, "nothing to do: this is v%u, which is live", live);
    } else if (command_flag(call, "hold")) {
        command_fail(call, ADMIN_OK, "nothing to do: this is v%u, stored already", known->version);
    } else if (known->state == VERSION_ROLLED_BACK && !command_flag(call, "again")) {
        return command_fail(call, ADMIN_CONFLICT,
                            "this is v%u, which was rolled back; push with --again if you mean it", known->version);
    } else {
        snprintf(why, sizeof(why), "push v%u again", known->version);
        err = switch_to(call, head, known, VERSION_RETIRED, why);
        command_fail(call, ADMIN_OK, "v%u, pushed before with the same content, is live again (was v%u)",
                     known->version, live);
    }
    if (err)
        return command_fail_err(call, "going live", err);
    put_push_result(call, known, head, false);
    put_diagnostics(call, c);
    json_object_close(call->result);
    return ADMIN_OK;
}

/* --expect V: for scripts that must not push over somebody else's version. */
static enum admin_status check_expected(struct command_call *call, const struct head *head)
{
    uint32_t expected = 0;
    const enum admin_status status = version_arg(call, "expect", &expected);
    if (status == ADMIN_OK && expected && expected != live_version(head))
        return command_fail(call, ADMIN_CONFLICT,
                            "v%u was expected to be live, but v%u is; look at `fairlead policy diff` first", expected,
                            live_version(head));
    return status;
}

enum admin_status command_policy_push(struct command_call *call)
{
    struct candidate c = { 0 };
    struct head *head;
    struct versions_numbers numbers;
    struct version_record *known;
    struct version_record *record = ARENA_NEW(call->arena, struct version_record);
    struct artifact *before;
    const struct span message = span_head(command_arg(call, "message", SPAN("")), MESSAGE_BYTES_MAX);
    const struct span author = span_head(call->request->user, AUTHOR_BYTES_MAX);
    enum err err = command_head(call, &head);
    if (!err)
        err = versions_numbers(call->service->versions, &numbers);
    if (err || !record)
        return command_fail_err(call, "reading the head", err ? err : ERR_NOMEM);
    enum admin_status status = check_expected(call, head);
    if (status == ADMIN_OK)
        status = compile_bundle(call, numbers.version_last + 1, &c);
    if (status != ADMIN_OK)
        return status;
    json_object_open(call->result);
    err = versions_find_hash(call->service->versions, call->arena, policy_hash(c.policy), &known);
    if (err == OK)
        return push_known(call, head, known, &c);
    if (err != ERR_NOT_FOUND)
        return command_fail_err(call, "looking for the same content", err);
    err = command_live_artifact(call, head, &before);
    if (err)
        return command_fail_err(call, "reading the live artifact", err);
    const uint32_t was = live_version(head);
    status = store_version(call, &c, author, message, record);
    if (status != ADMIN_OK)
        return status;
    if (!command_flag(call, "hold")) {
        char why[64];
        snprintf(why, sizeof(why), "push v%u", record->version);
        err = switch_to(call, head, record, VERSION_RETIRED, why);
        if (err)
            return command_fail_err(call, "going live", err);
        if (was)
            command_fail(call, ADMIN_OK, "v%u is live at 100%% (was v%u)", record->version, was);
        else
            command_fail(call, ADMIN_OK, "v%u is live at 100%%, the first version", record->version);
    } else {
        command_fail(call, ADMIN_OK,
                     "v%u is stored, not live; `fairlead rollback %u` or a push without --hold makes it live",
                     record->version, record->version);
    }
    uint32_t count = 0;
    put_push_result(call, record, head, true);
    err = put_changes(call, before, c.artifact, &count);
    put_diagnostics(call, &c);
    json_object_close(call->result);
    return err ? command_fail_err(call, "comparing", err) : ADMIN_OK;
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

static void put_version(struct command_call *call, const struct version_record *r)
{
    char hex[SHA256_HEX + 1];
    struct json_writer *w = call->result;
    json_member_u64(w, "version", r->version);
    json_member_cstr(w, "state", version_state_name(r->state));
    json_member_string(w, "author", r->author);
    json_member_string(w, "message", r->message);
    json_member_i64(w, "created_at_ms", r->created_at_ms);
    json_member_i64(w, "live_at_ms", r->full_at_ms);
    json_member_u64(w, "generation", r->full_generation);
    json_member_string(w, "policy_hash", r->policy_hash);
    json_member_cstr(w, "artifact", hex_encode(r->artifact.bytes, SHA256_BYTES, hex));
    json_member_u64(w, "book_version", r->book_version);
}

enum admin_status command_policy_list(struct command_call *call)
{
    struct version_record *all;
    uint32_t count;
    const enum err err = versions_list(call->service->versions, call->arena, &all, &count);
    if (err)
        return command_fail_err(call, "reading the versions", err);
    json_array_open(call->result);
    for (uint32_t i = 0; i < count; i++) {
        json_object_open(call->result);
        put_version(call, &all[i]);
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
    enum admin_status status = version_arg(call, "version", &version);
    if (status != ADMIN_OK)
        return status;
    const enum err err = command_head(call, &head);
    if (err)
        return command_fail_err(call, "reading the head", err);
    version = version ? version : live_version(head);
    if (!version)
        return command_fail(call, ADMIN_NOT_FOUND, "no policy has been pushed yet");
    status = get_version(call, version, true, &record);
    if (status != ADMIN_OK)
        return status;
    json_object_open(call->result);
    put_version(call, record);
    json_key(call->result, SPAN("bundle"));
    json_put_raw(call->result, record->bundle);
    json_object_close(call->result);
    return ADMIN_OK;
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

enum admin_status command_rollback(struct command_call *call)
{
    uint32_t wanted = 0, count;
    struct head *head;
    struct version_record *all, *target = NULL;
    enum admin_status status = version_arg(call, "version", &wanted);
    if (status != ADMIN_OK)
        return status;
    enum err err = command_head(call, &head);
    if (!err)
        err = versions_list(call->service->versions, call->arena, &all, &count);
    if (err)
        return command_fail_err(call, "reading the versions", err);
    const uint32_t live = live_version(head);
    if (!live)
        return command_fail(call, ADMIN_NOT_FOUND, "nothing is live, so there is nothing to roll back");
    if (!wanted) {
        const struct version_record *last = last_full(all, count, live);
        if (!last)
            return command_fail(call, ADMIN_NOT_FOUND,
                                "v%u is live and no other version ever held 100%% without being rolled back; name one: "
                                "`fairlead rollback VERSION`",
                                live);
        wanted = last->version;
    }
    status = get_version(call, wanted, false, &target);
    if (status != ADMIN_OK)
        return status;
    const int64_t held_at = target->full_at_ms;
    char why[64];
    snprintf(why, sizeof(why), "rollback v%u -> v%u", live, wanted);
    json_object_open(call->result);
    if (wanted == live) {
        command_fail(call, ADMIN_OK, "nothing to do: v%u is live", live);
    } else {
        err = switch_to(call, head, target, held_at ? VERSION_ROLLED_BACK : VERSION_RETIRED, why);
        if (err)
            return command_fail_err(call, "rolling back", err);
        if (held_at)
            command_fail(call, ADMIN_OK, "returned to v%u, which last held 100%%; v%u is marked as rolled back", wanted,
                         live);
        else
            command_fail(call, ADMIN_OK, "v%u, stored before, is live at 100%% (was v%u)", wanted, live);
    }
    json_member_u64(call->result, "version", wanted);
    json_member_u64(call->result, "from", live);
    json_member_u64(call->result, "epoch", head->epoch);
    json_member_u64(call->result, "generation", head->generation);
    json_object_close(call->result);
    return ADMIN_OK;
}
