/* roles.h - who may do what on the admin link of this machine: local users by their peer uid.
 *
 * Root and the user that runs the control plane are administrators, always: they could change the store anyway. Others
 * have the role that HOME/roles.yaml gives them, and none without it:
 *
 *     schema: fairlead/1
 *     kind: roles
 *     users: {ann: admin, "1003": viewer}      # by name or uid; goes before groups
 *     groups: {oncall: operator}               # by name or gid; of several, the highest role counts
 *
 * The file is read again when it changes, so a role is taken back at once. It fails closed: a file that cannot be
 * understood, or that somebody else could write, gives nobody a role. A name that the system does not know gives none
 * either. The socket itself has to be open to them too: the daemon's --admin-group. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "controlplane/admin/service.h"

struct arena;

#define ROLES_BYTES_MAX 65536u /* a list of people */

struct role_entry {
    struct span name;
    enum role role;
    bool group;
};
struct role_list {
    struct role_entry *entries;
    uint32_t count;
};

/* Pure. Everything lives in the arena. ERR_INVALID, ERR_SYNTAX ...: *ret_why (in the arena) says what and where. */
MUST_CHECK enum err roles_parse(struct arena *arena, const char *file, struct span text, struct role_list *ret,
                                const char **ret_why);

/* Who asks, as the system knows him. */
struct person {
    uint32_t uid;
    const char *name;          /* "" when the uid has none */
    const char *const *groups; /* names, and gids as digits */
    uint32_t group_count;
};
/* False: the list gives him no role. Pure. */
bool roles_find(const struct role_list *list, const struct person *person, enum role *ret);

struct roles;
/* path must outlive it. ERR_NOMEM. */
MUST_CHECK enum err roles_new(const char *path, struct roles **ret);
void roles_free(struct roles *roles);
/* Looks at the file when it changed, and at the system's users (which may ask a directory service: at most once in 30
 * seconds per uid). What is wrong with the file is logged once. ret->name borrows until the next call. False: no role;
 * ret->name is set all the same. */
bool roles_judge(struct roles *roles, uint32_t uid, uint64_t now_ms /* monotonic */, struct caller *ret);
/* Why the file, as it was last looked at, gives nobody a role; NULL: nothing is wrong with it. Borrows until the next look. */
const char *roles_refused(const struct roles *roles);
