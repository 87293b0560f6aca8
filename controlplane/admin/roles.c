#include "controlplane/admin/roles.h"
#include "common/arena.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include "common/yaml.h"
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#define PERSON_LIFETIME_MS 30000u /* a user taken from a group keeps its role no longer */
#define GROUPS_MAX         256u   /* of one user */
#define NSS_BYTES_MAX      (1u << 20)
#define ROLES_ARENA_MAX    (64u << 20)

/* ---- the file's text ---- */

struct reading {
    struct arena *arena;
    const char *why;
};

static void report(void *user, uint32_t line, uint32_t column, const char *message)
{
    struct reading *reading = user;
    if (!reading->why)
        reading->why = arena_printf(reading->arena, "%u:%u: %s", line, column, message);
}

static enum err invalid(struct reading *reading, const struct yaml_node *at, const char *what)
{
    report(reading, at->line, at->column, what);
    return ERR_INVALID;
}

static bool role_of_word(struct span word, enum role *ret)
{
    for (enum role role = ROLE_VIEWER; role <= ROLE_ADMIN; role++) {
        if (span_eq(word, span_cstr(role_name(role)))) {
            *ret = role;
            return true;
        }
    }
    return false;
}

static enum err read_entries(struct reading *reading, const struct yaml_node *map, bool group, struct role_list *list)
{
    if (!map || yaml_is_null(map))
        return OK;
    if (map->kind != YAML_MAP)
        return invalid(reading, map, "a map of names to viewer, operator or admin was expected");
    for (const struct yaml_node *at = map->first; at; at = at->next) {
        struct role_entry *entry = &list->entries[list->count];
        *entry = (struct role_entry){ .name = at->key->text, .group = group };
        if (span_empty(entry->name))
            return invalid(reading, at->key, "a name was expected");
        if (at->kind != YAML_SCALAR || !role_of_word(at->text, &entry->role))
            return invalid(reading, at, "a role is one of viewer, operator, admin");
        list->count++;
    }
    return OK;
}

static enum err read_tree(struct reading *reading, const struct yaml_node *root, struct role_list *list)
{
    static const char *const known[] = { "schema", "kind", "users", "groups" };
    const struct yaml_node *users = yaml_get(root, "users"), *groups = yaml_get(root, "groups");
    const struct yaml_node *schema = yaml_get(root, "schema"), *kind = yaml_get(root, "kind");
    if (root->kind != YAML_MAP || root->next)
        return invalid(reading, root, "one map was expected");
    for (const struct yaml_node *at = root->first; at; at = at->next) {
        bool found = false;
        for (size_t i = 0; i < ARRAY_LEN(known); i++)
            found = found || span_eq(at->key->text, span_cstr(known[i]));
        if (!found)
            return invalid(reading, at->key, "not a field of this file; those are schema, kind, users, groups");
    }
    if (!schema || !span_eq(schema->text, SPAN("fairlead/1")))
        return invalid(reading, schema ? schema : root, "'schema: fairlead/1' was expected");
    if (!kind || !span_eq(kind->text, SPAN("roles")))
        return invalid(reading, kind ? kind : root, "'kind: roles' was expected");
    const size_t room = (users ? users->count : 0) + (groups ? groups->count : 0);
    list->entries = ARENA_ARRAY(reading->arena, room + 1, struct role_entry);
    if (!list->entries)
        return ERR_NOMEM;
    const enum err err = read_entries(reading, users, false, list);
    return err ? err : read_entries(reading, groups, true, list);
}

enum err roles_parse(struct arena *arena, const char *file, struct span text, struct role_list *ret,
                     const char **ret_why)
{
    struct reading reading = { .arena = arena };
    struct role_list list = { 0 };
    const struct yaml_node *root = NULL;
    enum err err = yaml_parse(arena, file, text, report, &reading, &root);
    if (!err && root)
        err = read_tree(&reading, root, &list);
    if (err) {
        *ret_why = reading.why ? reading.why : err_name(err);
        return err;
    }
    *ret = list; /* an empty file lists nobody */
    return OK;
}

static bool names_group(const struct person *person, struct span name)
{
    for (uint32_t i = 0; i < person->group_count; i++) {
        if (span_eq(span_cstr(person->groups[i]), name))
            return true;
    }
    return false;
}

bool roles_find(const struct role_list *list, const struct person *person, enum role *ret)
{
    char uid[16];
    bool found = false;
    snprintf(uid, sizeof(uid), "%u", person->uid);
    for (uint32_t i = 0; i < list->count; i++) {
        const struct role_entry *entry = &list->entries[i];
        if (!entry->group && (span_eq(entry->name, span_cstr(uid)) ||
                              (person->name[0] && span_eq(entry->name, span_cstr(person->name))))) {
            *ret = entry->role;
            return true;
        }
    }
    for (uint32_t i = 0; i < list->count; i++) {
        const struct role_entry *entry = &list->entries[i];
        if (entry->group && names_group(person, entry->name) && (!found || entry->role > *ret)) {
            *ret = entry->role;
            found = true;
        }
    }
    return found;
}

/* ---- the file and the system's users ---- */

struct roles {
    const char *path;
    struct arena file_arena, person_arena;
    struct role_list list;
    struct stat seen; /* of the file as it was last read; st_ino 0: there was none */
    bool looked;
    const char *refused;  /* why it gives nobody a role; NULL: it is good, or not there */
    struct person person; /* the last who asked */
    uint64_t person_at_ms;
    bool person_known;
};

enum err roles_new(const char *path, struct roles **ret)
{
    struct roles *roles = fault_calloc(1, sizeof(*roles));
    if (!roles)
        return ERR_NOMEM;
    roles->path = path;
    arena_init(&roles->file_arena, ROLES_ARENA_MAX);
    arena_init(&roles->person_arena, ROLES_ARENA_MAX);
    *ret = roles;
    return OK;
}

void roles_free(struct roles *roles)
{
    if (!roles)
        return;
    arena_release(&roles->file_arena);
    arena_release(&roles->person_arena);
    free(roles);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size && a->st_uid == b->st_uid &&
           a->st_mode == b->st_mode && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
           a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static void read_file(struct roles *roles, const struct stat *st)
{
    struct buf text = BUF_INIT(ROLES_BYTES_MAX);
    const char *why = NULL;
    enum err err = ERR_DENIED;
    if (!S_ISREG(st->st_mode) || (st->st_uid != 0 && st->st_uid != getuid()) || (st->st_mode & (S_IWGRP | S_IWOTH)))
        why = "it must be a file that only root or the control plane's user can write";
    else
        err = file_read(roles->path, ROLES_BYTES_MAX, &text);
    if (!err)
        err = roles_parse(&roles->file_arena, roles->path, buf_span(&text), &roles->list, &why);
    roles->refused = err ? why ? why : err_name(err) : NULL;
    if (err)
        log_error("roles.refused", LOG_STR("file", roles->path), LOG_STR("why", roles->refused),
                  LOG_STR("effect", "only root and the control plane's own user may ask until it is mended"));
    else
        log_info("roles.read", LOG_STR("file", roles->path), LOG_U64("entries", roles->list.count));
    buf_release(&text);
}

static void look_at_file(struct roles *roles)
{
    struct stat st = { 0 };
    if (stat(roles->path, &st) != 0)
        st = (struct stat){ 0 };
    if (roles->looked && same_file(&st, &roles->seen))
        return;
    arena_reset(&roles->file_arena);
    roles->list = (struct role_list){ 0 };
    roles->refused = NULL;
    roles->seen = st;
    roles->looked = true;
    if (st.st_ino)
        read_file(roles, &st);
}

/* Names of the groups of a user, and their numbers. */
static void look_up_groups(struct roles *roles, const struct passwd *entry, char *room)
{
    struct arena *arena = &roles->person_arena;
    struct person *person = &roles->person;
    gid_t ids[GROUPS_MAX];
    int count = (int)GROUPS_MAX;
    if (getgrouplist(entry->pw_name, entry->pw_gid, ids, &count) < 0)
        count = (int)GROUPS_MAX; /* those that fit */
    const char **groups = ARENA_ARRAY(arena, (size_t)count * 2, const char *);
    if (!groups)
        return;
    for (int i = 0; i < count; i++) {
        struct group found, *group = NULL;
        const char *digits = arena_printf(arena, "%u", (unsigned)ids[i]);
        if (digits)
            groups[person->group_count++] = digits;
        if (getgrgid_r(ids[i], &found, room, NSS_BYTES_MAX, &group) == 0 && group) {
            const char *name = arena_dup(arena, span_cstr(group->gr_name)).ptr;
            if (name)
                groups[person->group_count++] = name;
        }
    }
    person->groups = groups;
}

static void look_up_person(struct roles *roles, uint32_t uid, uint64_t now_ms)
{
    struct passwd found, *entry = NULL;
    if (roles->person_known && roles->person.uid == uid && now_ms - roles->person_at_ms < PERSON_LIFETIME_MS)
        return;
    arena_reset(&roles->person_arena);
    roles->person = (struct person){ .uid = uid, .name = "" };
    roles->person_at_ms = now_ms;
    roles->person_known = true;
    char *room = fault_malloc(2 * (size_t)NSS_BYTES_MAX);
    if (room && getpwuid_r(uid, &found, room, NSS_BYTES_MAX, &entry) == 0 && entry) {
        const char *name = arena_dup(&roles->person_arena, span_cstr(entry->pw_name)).ptr;
        roles->person.name = name ? name : "";
        look_up_groups(roles, entry, room + NSS_BYTES_MAX);
    }
    roles->person_known = room != NULL;
    free(room);
}

const char *roles_refused(const struct roles *roles)
{
    return roles->refused;
}

bool roles_judge(struct roles *roles, uint32_t uid, uint64_t now_ms, struct caller *ret)
{
    look_at_file(roles);
    look_up_person(roles, uid, now_ms);
    *ret = (struct caller){ .role = ROLE_ADMIN, .uid = uid, .name = span_cstr(roles->person.name) };
    return uid == 0 || uid == (uint32_t)getuid() || roles_find(&roles->list, &roles->person, &ret->role);
}
