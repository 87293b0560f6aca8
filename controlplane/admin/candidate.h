/* candidate.h - what commands that look at policies share: a bundle compiled, versions by their numbers. What fails says so
 * in the call's message. */
#pragma once
#include "controlplane/admin/service.h"
#include "controlplane/policy/policy.h"

struct candidate {
    struct diags diags;
    const struct policy *policy;
    const struct artifact *artifact; /* NULL: diags say why */
    struct span bundle;
};

/* The argument `bundle`, compiled against the present book. */
enum admin_status candidate_compile(struct command_call *call, uint32_t version, struct candidate *ret);
void candidate_put_diagnostics(struct command_call *call, struct candidate *c); /* a member of an open object */
/* Version number from an argument ("3" or "v3"); 0 when absent. */
enum admin_status candidate_version_arg(struct command_call *call, const char *name, uint32_t *ret);
enum admin_status candidate_version_text(struct command_call *call, struct span text, uint32_t *ret);
enum admin_status candidate_get_version(struct command_call *call, uint32_t version, bool with_bundle,
                                        struct version_record **ret);
enum admin_status candidate_artifact(struct command_call *call, uint32_t version, const struct artifact **ret);
/* Member "changes". */
MUST_CHECK enum err candidate_put_changes(struct command_call *call, const struct artifact *before,
                                          const struct artifact *after, uint32_t *ret_count);
uint32_t candidate_live(const struct head *head); /* version of the stable arm; 0: none */
