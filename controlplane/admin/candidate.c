/* From a pushed bundle to an artifact, and from a version's number to what is stored of it. */
#include "controlplane/admin/candidate.h"
#include "controlplane/admin/commands.h"
#include "proto/wire.h"

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

enum admin_status candidate_compile(struct command_call *call, uint32_t version, struct candidate *c)
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

void candidate_put_diagnostics(struct command_call *call, struct candidate *c)
{
    json_key(call->result, SPAN("diagnostics"));
    diags_json(&c->diags, call->result);
}

enum admin_status candidate_version_text(struct command_call *call, struct span text, uint32_t *ret)
{
    uint64_t number = 0;
    const struct span written = text;
    if (!span_empty(text) && (text.ptr[0] == 'v' || text.ptr[0] == 'V'))
        text = span_skip(text, 1);
    if (span_to_u64(text, &number) != OK || number == 0 || number > UINT32_MAX)
        return command_fail(call, ADMIN_INVALID,
                            "'" SPAN_FMT "' is no version; say a number as `fairlead policy list` shows it",
                            SPAN_ARG(span_head(written, 50)));
    *ret = (uint32_t)number;
    return ADMIN_OK;
}

enum admin_status candidate_version_arg(struct command_call *call, const char *name, uint32_t *ret)
{
    const struct span text = command_arg(call, name, SPAN(""));
    *ret = 0;
    return span_empty(text) ? ADMIN_OK : candidate_version_text(call, text, ret);
}

enum admin_status candidate_get_version(struct command_call *call, uint32_t version, bool with_bundle,
                                        struct version_record **ret)
{
    const enum err err = versions_get(call->service->versions, call->arena, version, with_bundle, ret);
    if (err == ERR_NOT_FOUND)
        return command_fail(call, ADMIN_NOT_FOUND, "there is no version %u; `fairlead policy list` shows them all",
                            version);
    return err ? command_fail_err(call, "reading the version", err) : ADMIN_OK;
}

enum admin_status candidate_artifact(struct command_call *call, uint32_t version, const struct artifact **ret)
{
    struct version_record *record;
    struct span bytes;
    struct artifact *artifact;
    const enum admin_status status = candidate_get_version(call, version, false, &record);
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

enum err candidate_put_changes(struct command_call *call, const struct artifact *before, const struct artifact *after,
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

uint32_t candidate_live(const struct head *head)
{
    return head->arm_count ? head->arms[0].policy_version : 0;
}
