/* Named targets: what is read, what is refused, and that what is written is read again as it was. */
#include "admin-cli/contexts.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD "schema: fairlead/1\nkind: contexts\n"

static struct arena arena;
static struct contexts got;

static int set_up(UNUSED void **state)
{
    arena_init(&arena, 1u << 26);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    arena_release(&arena);
    return 0;
}

static void parse(const char *text)
{
    const char *why = "";
    if (contexts_parse(&arena, "c.yaml", span_cstr(text), &got, &why) != OK)
        fail_msg("%s: %s", text, why);
}

static void refuse(const char *text, const char *expected)
{
    const char *why = NULL;
    assert_int_not_equal(contexts_parse(&arena, "c.yaml", span_cstr(text), &got, &why), OK);
    if (!why || !strstr(why, expected))
        fail_msg("'%s' does not say '%s'", why ? why : "(nothing)", expected);
}

static void reads(UNUSED void **state)
{
    parse("");
    assert_int_equal(got.count, 0);
    parse(HEAD "current: lab\ncontexts:\n  prod: {home: /var/lib/f, team: search}\n"
               "  lab: {address: \"ipc:///x\", key: key_1}\n");
    assert_int_equal(got.count, 2);
    assert_string_equal(got.current, "lab");
    assert_string_equal(contexts_find(&got, "prod")->home, "/var/lib/f");
    assert_string_equal(contexts_find(&got, "prod")->team, "search");
    assert_null(contexts_find(&got, "prod")->address);
    assert_string_equal(contexts_find(&got, "lab")->key, "key_1");
    assert_null(contexts_find(&got, "la"));
}

static void refuses(UNUSED void **state)
{
    refuse("kind: contexts\n", "schema");
    refuse(HEAD "contexts: [a]\n", "c.yaml:3:11: a map of names");
    refuse(HEAD "contexts: {a: b}\n", "a map was expected");
    refuse(HEAD "contexts: {\"a b\": {home: /x}}\n", "a name has letters");
    refuse(HEAD "contexts: {-a: {home: /x}}\n", "a name has letters");
    refuse(HEAD "contexts: {a: {hoem: /x}}\n", "not a field");
    refuse(HEAD "contexts: {a: {home: x}}\n", "absolute");
    refuse(HEAD "contexts: {a: {home: }}\n", "text was expected");
    refuse(HEAD "current: b\ncontexts: {a: {home: /x}}\n", "not among");
    refuse(HEAD "contexts: {a: {home: /x}, a: {home: /y}}\n", "c.yaml:3");
}

static void comes_back(UNUSED void **state)
{
    const struct contexts made = {
        .items = { { .name = "1.0", .home = "/a \"quoted\" \\ path: {#}", .team = "null" },
                   { .name = "no", .address = "tcp://127.0.0.1:1", .key = "~", .team = "ü" },
                   { .name = "empty" } },
        .count = 3,
        .current = "no",
    };
    char dir[] = "/tmp/fl-contexts-XXXXXX", path[100], sub[100];
    const char *why = "";
    struct stat st;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/fairlead/contexts.yaml", dir);
    snprintf(sub, sizeof(sub), "%s/fairlead", dir);
    assert_int_equal(contexts_load(&arena, path, &got, &why), OK); /* none is none */
    assert_int_equal(got.count, 0);
    assert_int_equal(contexts_store(path, &made), OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    if (contexts_load(&arena, path, &got, &why) != OK)
        fail_msg("%s", why);
    assert_int_equal(got.count, 3);
    assert_string_equal(got.current, "no");
    for (unsigned i = 0; i < 3; i++) {
        assert_string_equal(got.items[i].name, made.items[i].name);
        const char *const a[] = { got.items[i].home, got.items[i].address, got.items[i].team, got.items[i].key };
        const char *const b[] = { made.items[i].home, made.items[i].address, made.items[i].team, made.items[i].key };
        for (unsigned f = 0; f < 4; f++) {
            assert_int_equal(!a[f], !b[f]);
            if (a[f])
                assert_string_equal(a[f], b[f]);
        }
    }
    got = (struct contexts){ .items = { { .name = "x", .home = "/\x01" } }, .count = 1 };
    assert_int_not_equal(contexts_store(path, &got), OK);
    assert_int_equal(contexts_load(&arena, path, &got, &why), OK);
    assert_int_equal(got.count, 3);         /* what was there stays */
    assert_int_equal(chmod(path, 0620), 0); /* the group could send our commands elsewhere */
    assert_int_equal(contexts_load(&arena, path, &got, &why), ERR_DENIED);
    assert_non_null(strstr(why, "chmod 600"));
    assert_int_equal(unlink(path) | rmdir(sub) | rmdir(dir), 0);
}

static void names(UNUSED void **state)
{
    assert_true(contexts_name_good("prod-eu.1_A"));
    assert_false(contexts_name_good(""));
    assert_false(contexts_name_good("--yes"));
    assert_false(contexts_name_good("a/b"));
    assert_false(contexts_name_good("a\"b"));
    assert_true(contexts_name_good("0123456789012345678901234567890123456789012345678901234567890123"));
    assert_false(contexts_name_good("01234567890123456789012345678901234567890123456789012345678901234"));
}

static void where_it_lies(UNUSED void **state)
{
    setenv("XDG_CONFIG_HOME", "/c", 1);
    char *path = contexts_path();
    assert_string_equal(path, "/c/fairlead/contexts.yaml");
    free(path);
    setenv("XDG_CONFIG_HOME", "relative", 1); /* to be ignored: XDG Base Directory Specification */
    setenv("HOME", "/h", 1);
    path = contexts_path();
    assert_string_equal(path, "/h/.config/fairlead/contexts.yaml");
    free(path);
    unsetenv("HOME");
    assert_null(contexts_path());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(comes_back, set_up, tear_down),
        cmocka_unit_test(names),
        cmocka_unit_test(where_it_lies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
