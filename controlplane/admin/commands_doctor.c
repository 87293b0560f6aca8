/* What `fairlead doctor` asks of the control plane beyond status and providers: its clock, its disk, what is wrong with
 * roles.yaml, and facts of the
 * models in use that nothing else shows. */
#include "controlplane/admin/commands.h"
#include "controlplane/admin/roles.h"
#include <sys/statvfs.h>

static void put_disk(struct command_call *call)
{
    struct statvfs fs;
    const bool known = statvfs(call->service->home, &fs) == 0;
    json_key(call->result, SPAN("disk"));
    json_object_open(call->result);
    json_member_cstr(call->result, "path", call->service->home);
    json_member_u64(call->result, "bytes", known ? (uint64_t)fs.f_blocks * fs.f_frsize : 0);
    json_member_u64(call->result, "available_bytes", known ? (uint64_t)fs.f_bavail * fs.f_frsize : 0);
    json_object_close(call->result);
}

enum admin_status command_doctor(struct command_call *call)
{
    json_object_open(call->result);
    json_member_i64(call->result, "now_ms", call->now_ms);
    put_disk(call);
    if (call->service->roles && roles_refused(call->service->roles))
        json_member_cstr(call->result, "roles_refused", roles_refused(call->service->roles));
    json_key(call->result, SPAN("models"));
    evidence_json_models(call->service->evidence, call->now_ms, call->result);
    json_object_close(call->result);
    return ADMIN_OK;
}
