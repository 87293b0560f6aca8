/* Roles by local user: what the file gives whom, and that a bad file gives nobody anything. */
#include "controlplane/admin/roles.h"
#include "common/arena.h"
#include "common/file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

static struct arena arena;

static int set_up(void **state)
{
    (void)state;
    arena_init(&arena, 1u << 26);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

#define HEAD "schema: fairlead/1\nkind: roles\n"

static struct role_list parse(const char *text)
{
    struct role_list list;
    const char *why = "";
    const enum err err = roles_parse(&arena, "roles.yaml", span_cstr(text), &list, &why);
    if (err)
        fail_msg("%s: %s", text, why);
    return list;
}

static const char *refused(const char *text)
{
    struct role_list list;
    const char *why = NULL;
    assert_int_not_equal(roles_parse(&arena, "roles.yaml", span_cstr(text), &list, &why), OK);
    assert_non_null(why);
    return why;
}

/* "viewer", ... or "none" */
static const char *role_in(const struct role_list *list, uint32_t uid, const char *name, const char *const *groups,
                           uint32_t group_count)
{
    const struct person person = { .uid = uid, .name = name, .groups = groups, .group_count = group_count };
    enum role role;
    return roles_find(list, &person, &role) ? role_name(role) : "none";
}

static void test_users_and_groups(void **state)
{
    static const char *const oncall[] = { "1000", "staff", "2000", "oncall" }, *const staff[] = { "1000", "staff" };
    const struct role_list list = parse(HEAD "users: {ann: admin, \"1003\": viewer, ben: viewer}\n"
                                             "groups: {oncall: operator, staff: viewer, \"3000\": admin}\n");
    (void)state;
    assert_int_equal(list.count, 6);
    assert_string_equal(role_in(&list, 1001, "ann", NULL, 0), "admin");
    assert_string_equal(role_in(&list, 1003, "", NULL, 0), "viewer");
    assert_string_equal(role_in(&list, 1003, "cem", NULL, 0), "viewer");     /* by uid, whatever the name */
    assert_string_equal(role_in(&list, 1004, "dee", oncall, 4), "operator"); /* the highest of her groups */
    assert_string_equal(role_in(&list, 1004, "dee", staff, 2), "viewer");
    assert_string_equal(role_in(&list, 1005, "ben", oncall, 4), "viewer"); /* his own entry goes first, down as well */
    assert_string_equal(role_in(&list, 1006, "eve", NULL, 0), "none");
    assert_string_equal(role_in(&list, 1007, "", NULL, 0), "none");       /* no name matches no entry */
    assert_string_equal(role_in(&list, 1008, "oncall", NULL, 0), "none"); /* a user called like a group */
    assert_string_equal(role_in(&list, 1009, "x", (const char *const[]){ "ann" }, 1), "none"); /* and the reverse */
    assert_string_equal(role_in(&list, 1010, "x", (const char *const[]){ "3000" }, 1), "admin");
}

static void test_nothing_listed(void **state)
{
    struct role_list list = parse("");
    (void)state;
    assert_int_equal(list.count, 0);
    list = parse(HEAD);
    assert_int_equal(list.count, 0);
    list = parse(HEAD "users:\ngroups: {}\n");
    assert_string_equal(role_in(&list, 1, "ann", NULL, 0), "none");
}

static void test_bad_files(void **state)
{
    (void)state;
    assert_non_null(strstr(refused(HEAD "users: {ann: root}\n"), "3:14: a role is one of viewer, operator, admin"));
    assert_non_null(strstr(refused(HEAD "users: {ann: [admin]}\n"), "a role is one of"));
    assert_non_null(strstr(refused(HEAD "users: [ann]\n"), "3:8: a map of names"));
    assert_non_null(strstr(refused(HEAD "user: {ann: admin}\n"), "3:1: not a field"));
    assert_non_null(strstr(refused("kind: roles\n"), "schema"));
    assert_non_null(strstr(refused("schema: fairlead/1\nkind: policy\n"), "2:7: 'kind: roles'"));
    assert_non_null(strstr(refused("- a\n"), "one map"));
    assert_non_null(strstr(refused(HEAD "---\n" HEAD), "one map"));
    assert_non_null(strstr(refused(HEAD "users: {\"\": admin}\n"), "a name"));
    (void)refused(HEAD "users: {ann: admin, ann: viewer}\n");
    (void)refused(HEAD "users: {");
}

static void put(const char *path, const char *text, mode_t mode)
{
    assert_int_equal(file_write_atomic(path, span_cstr(text), mode), OK);
    assert_int_equal(chmod(path, mode), 0);
}

static void test_the_file(void **state)
{
    char dir[] = "/tmp/fl-roles-XXXXXX", path[64];
    const uint32_t other = getuid() + 4321; /* no user of this machine */
    struct roles *roles;
    struct caller caller;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/roles.yaml", dir);
    assert_int_equal(roles_new(path, &roles), OK);
    assert_true(roles_judge(roles, getuid(), 0, &caller)); /* without a file: the owner and root */
    assert_int_equal(caller.role, ROLE_ADMIN);
    assert_true(roles_judge(roles, 0, 0, &caller));
    assert_true(span_eq(caller.name, SPAN("root")));
    assert_false(roles_judge(roles, other, 0, &caller));
    assert_int_equal(caller.uid, other);

    char text[256];
    snprintf(text, sizeof(text), HEAD "users: {\"%u\": operator, \"%u\": viewer, root: viewer}\n", other, getuid());
    put(path, text, 0600);
    assert_true(roles_judge(roles, other, 0, &caller)); /* read again at once */
    assert_int_equal(caller.role, ROLE_OPERATOR);
    assert_true(roles_judge(roles, getuid(), 0, &caller)); /* they cannot lock themselves out */
    assert_int_equal(caller.role, ROLE_ADMIN);
    assert_true(roles_judge(roles, 0, 0, &caller));
    assert_int_equal(caller.role, ROLE_ADMIN);

    assert_null(roles_refused(roles));
    put(path, text, 0660); /* the group could give itself roles */
    assert_false(roles_judge(roles, other, 0, &caller));
    assert_non_null(roles_refused(roles));
    put(path, text, 0640);
    assert_true(roles_judge(roles, other, 0, &caller));
    put(path, HEAD "users: {x: king}\n", 0600);
    assert_false(roles_judge(roles, other, 0, &caller));
    assert_string_equal(roles_refused(roles), "3:12: a role is one of viewer, operator, admin");
    put(path, text, 0600);
    assert_true(roles_judge(roles, other, 0, &caller));
    assert_null(roles_refused(roles));
    assert_int_equal(unlink(path), 0);
    assert_false(roles_judge(roles, other, 0, &caller));
    roles_free(roles);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_users_and_groups, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nothing_listed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_file, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
