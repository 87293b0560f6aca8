/* commands.h - the commands behind service_commands, one function each, grouped by file as here. */
#pragma once
#include "controlplane/admin/service.h"

/* How the message begins of what was well and changed nothing: a rollout's history leaves it out. */
#define COMMAND_NOTHING_TO_DO "nothing to do"

/* commands_policy.c */
enum admin_status command_policy_check(struct command_call *call);
enum admin_status command_policy_diff(struct command_call *call);
enum admin_status command_policy_list(struct command_call *call);
enum admin_status command_policy_show(struct command_call *call);

/* commands_push.c */
enum admin_status command_policy_push(struct command_call *call);
enum admin_status command_rollback(struct command_call *call);

/* commands_rollout.c */
enum admin_status command_rollout_status(struct command_call *call);
enum admin_status command_rollout_pause(struct command_call *call);
enum admin_status command_rollout_resume(struct command_call *call);
enum admin_status command_rollout_promote(struct command_call *call);
enum admin_status command_rollout_abort(struct command_call *call);
enum admin_status command_rollout_history(struct command_call *call);
enum admin_status command_lock(struct command_call *call);
enum admin_status command_unlock(struct command_call *call);

/* commands_experiment.c */
enum admin_status command_experiment_start(struct command_call *call);
enum admin_status command_experiment_stop(struct command_call *call);
enum admin_status command_experiment_report(struct command_call *call);
enum admin_status command_shadow_start(struct command_call *call);
enum admin_status command_shadow_stop(struct command_call *call);
enum admin_status command_shadow_status(struct command_call *call);

/* commands_directory.c */
enum admin_status command_teams_apply(struct command_call *call);
enum admin_status command_teams_diff(struct command_call *call);
enum admin_status command_teams_list(struct command_call *call);
enum admin_status command_keys_create(struct command_call *call);
enum admin_status command_keys_list(struct command_call *call);
enum admin_status command_keys_rotate(struct command_call *call);
enum admin_status command_keys_revoke(struct command_call *call);

/* commands_evidence.c */
enum admin_status command_providers_list(struct command_call *call);
enum admin_status command_providers_drain(struct command_call *call);
enum admin_status command_providers_undrain(struct command_call *call);
enum admin_status command_block(struct command_call *call);
enum admin_status command_unblock(struct command_call *call);
enum admin_status command_weights_show(struct command_call *call);
enum admin_status command_weights_freeze(struct command_call *call);
enum admin_status command_weights_unfreeze(struct command_call *call);
enum admin_status command_weights_reset(struct command_call *call);
enum admin_status command_prices_list(struct command_call *call);
enum admin_status command_prices_show(struct command_call *call);
enum admin_status command_prices_set(struct command_call *call);
enum admin_status command_prices_unset(struct command_call *call);
enum admin_status command_prices_accept(struct command_call *call);

/* commands_records.c: apart */
enum admin_status command_records_find(struct command_call *call);
enum admin_status command_costs(struct command_call *call);

/* commands_status.c */
enum admin_status command_status(struct command_call *call);
enum admin_status command_nodes_list(struct command_call *call);
enum admin_status command_nodes_behind(struct command_call *call);
enum admin_status command_nodes_adopt(struct command_call *call);
enum admin_status command_backup(struct command_call *call);

/* commands_audit.c */
enum admin_status command_audit_list(struct command_call *call);

/* commands_changes.c */
enum admin_status command_changes(struct command_call *call);

/* commands_doctor.c */
enum admin_status command_doctor(struct command_call *call);

/* commands_simulate.c */
enum admin_status command_simulate_start(struct command_call *call);
enum admin_status command_simulate_poll(struct command_call *call);
enum admin_status command_simulate_cancel(struct command_call *call);

/* Shared. Fails with the library's word for it; disk-full is said as such. */
enum admin_status command_fail_err(struct command_call *call, const char *what, enum err err);
/* The result of a refused check: {"diagnostics":{...}} and a message that leads with the first error. */
struct diags;
enum admin_status command_refuse_diags(struct command_call *call, struct diags *diags);
/* The live head, or an empty one when nothing was pushed yet. */
MUST_CHECK enum err command_head(struct command_call *call, struct head **ret);
/* Stores a changed copy of the live head as the next generation; `why` is what people read in lists. */
MUST_CHECK enum err command_head_change(struct command_call *call, struct head *head, const char *why);
/* Artifact of the live head's stable arm; NULL in *ret when nothing is live. */
MUST_CHECK enum err command_live_artifact(struct command_call *call, const struct head *head, struct artifact **ret);
/* The overrides that hold, as a JSON array. */
void command_put_overrides(struct command_call *call, const struct head *head);
/* "" for one, "s" otherwise. */
static inline const char *command_plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}
