#include "common/credentials.h"
#include "common/arena.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/yaml.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[] = "/tmp/credentials-XXXXXX";
static char path[64];

static void write_file(struct span bytes)
{
    assert_int_equal(file_write_atomic(path, bytes, 0600), OK);
}

static enum err add(struct credentials *c, const char *name, const char *from, const char *host)
{
    struct span hosts[] = { span_cstr(host) };
    const char *why = NULL;
    enum err err = credentials_add(c, span_cstr(name), span_cstr(from), hosts, 1, &why);
    assert_true((why != NULL) == (err == ERR_INVALID || err == ERR_EXISTS));
    return err;
}

static enum err get(struct credentials *c, const char *name, const char *host, struct span *ret)
{
    return credentials_get(c, span_cstr(name), span_cstr(host), ret);
}

#define assert_secret(c, name, host, expected)                                                                         \
    do {                                                                                                               \
        struct span got_ = { 0 };                                                                                      \
        assert_int_equal(get(c, name, host, &got_), OK);                                                               \
        assert_int_equal(got_.len, strlen(expected));                                                                  \
        assert_memory_equal(got_.ptr, expected, got_.len);                                                             \
    } while (0)

static void environment_and_hosts(void **state)
{
    (void)state;
    struct credentials *c;
    struct span secret = { 0 };
    assert_int_equal(credentials_new(&c), OK);
    setenv("CREDENTIALS_TEST_A", "alpha\n", 1);
    unsetenv("CREDENTIALS_TEST_B");
    assert_int_equal(add(c, "a", "env:CREDENTIALS_TEST_A", "API.example.com"), OK);
    assert_int_equal(add(c, "b", "env:CREDENTIALS_TEST_B", "*.example.com"), OK);
    assert_int_equal(add(c, "a", "env:CREDENTIALS_TEST_A", "x"), ERR_EXISTS);
    assert_int_equal(credentials_count(c), 2);
    assert_true(span_eq(credentials_name(c, 1), SPAN("b")));
    assert_secret(c, "a", "api.EXAMPLE.com", "alpha");
    assert_int_equal(get(c, "a", "evil.com", &secret), ERR_DENIED);
    assert_int_equal(get(c, "a", "api.example.com.evil.com", &secret), ERR_DENIED);
    assert_int_equal(get(c, "a", "xapi.example.com", &secret), ERR_DENIED);
    assert_int_equal(get(c, "none", "api.example.com", &secret), ERR_NOT_FOUND);
    assert_int_equal(get(c, "b", "example.com", &secret), ERR_DENIED);
    assert_int_equal(get(c, "b", ".example.com", &secret), ERR_DENIED);
    assert_int_equal(get(c, "b", "evilexample.com", &secret), ERR_DENIED);
    assert_int_equal(get(c, "b", "we.example.com", &secret), ERR_UNAUTHORIZED);
    assert_false(credentials_resolved(c, SPAN("b")));
    assert_null(secret.ptr);
    setenv("CREDENTIALS_TEST_B", "beta", 1);
    assert_int_equal(credentials_refresh(c), 1);
    assert_int_equal(credentials_refresh(c), 0);
    assert_secret(c, "b", "we.example.com", "beta");
    credentials_free(c);
    credentials_free(NULL);
}

static void files_are_read_again(void **state)
{
    (void)state;
    struct credentials *c;
    struct span secret;
    char from[80];
    snprintf(from, sizeof from, "file:%s", path);
    assert_int_equal(credentials_new(&c), OK);
    assert_int_equal(add(c, "f", from, "h"), OK);
    assert_int_equal(get(c, "f", "h", &secret), ERR_UNAUTHORIZED);
    write_file(SPAN("one\r\n"));
    assert_int_equal(credentials_refresh(c), 1);
    assert_secret(c, "f", "h", "one");
    assert_int_equal(credentials_refresh(c), 0);
    write_file(SPAN("two"));
    assert_int_equal(credentials_refresh(c), 1);
    assert_secret(c, "f", "h", "two");
    write_file(SPAN("two\n")); /* a new file with the same secret */
    assert_int_equal(credentials_refresh(c), 0);
    unlink(path);
    assert_int_equal(credentials_refresh(c), 1);
    assert_false(credentials_resolved(c, SPAN("f")));
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes: must not hang */
    assert_int_equal(credentials_refresh(c), 0);
    unlink(path);
    credentials_free(c);
}

static void bad_secrets_are_not_sent(void **state)
{
    (void)state;
    static char longest[CREDENTIAL_BYTES_MAX];
    const struct span bad[] = { SPAN(""),
                                SPAN("\n"),
                                SPAN("a b"),
                                SPAN("a\r\nx-evil: 1"),
                                SPAN("caf\xc3\xa9"),
                                SPAN("a\0b"),
                                span_of(longest, sizeof longest) };
    struct credentials *c;
    char from[80];
    memset(longest, 'x', sizeof longest);
    snprintf(from, sizeof from, "file:%s", path);
    assert_int_equal(credentials_new(&c), OK);
    write_file(SPAN("good"));
    assert_int_equal(add(c, "f", from, "h"), OK);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        write_file(SPAN("good"));
        (void)credentials_refresh(c);
        assert_true(credentials_resolved(c, SPAN("f")));
        write_file(bad[i]);
        assert_int_equal(credentials_refresh(c), 1);
        assert_false(credentials_resolved(c, SPAN("f")));
    }
    write_file(span_of(longest, sizeof longest - 1));
    assert_int_equal(credentials_refresh(c), 1);
    assert_true(credentials_resolved(c, SPAN("f")));
    credentials_free(c);
}

static void declarations_are_judged(void **state)
{
    (void)state;
    struct credentials *c;
    const char *why = NULL;
    assert_int_equal(credentials_new(&c), OK);
    assert_int_equal(add(c, "", "env:A", "h"), ERR_INVALID);
    assert_int_equal(add(c, "n", "env:", "h"), ERR_INVALID);
    assert_int_equal(add(c, "n", "file:", "h"), ERR_INVALID);
    assert_int_equal(add(c, "n", "sk-123", "h"), ERR_INVALID);
    assert_int_equal(add(c, "n", "env:A", ""), ERR_INVALID);
    assert_int_equal(add(c, "n", "env:A", "*"), ERR_INVALID);
    assert_int_equal(add(c, "n", "env:A", "*."), ERR_INVALID);
    assert_int_equal(add(c, "n", "env:A", "a*.com"), ERR_INVALID);
    assert_int_equal(add(c, "n", "env:A", "https://a"), ERR_INVALID);
    assert_int_equal(credentials_add(c, SPAN("n"), SPAN("env:A"), NULL, 0, &why), ERR_INVALID);
    assert_int_equal(credentials_count(c), 0);
    credentials_free(c);
}

static enum err from_yaml(const char *text, struct credentials **ret, uint32_t *ret_line)
{
    struct arena arena;
    const struct yaml_node *root, *at = NULL;
    const char *why = NULL;
    arena_init(&arena, 1u << 20);
    assert_int_equal(credentials_new(ret), OK);
    assert_int_equal(yaml_parse(&arena, "node.yaml", span_cstr(text), NULL, NULL, &root), OK);
    enum err err = credentials_from_yaml(*ret, yaml_get(root, "credentials"), &at, &why);
    assert_true((why != NULL) == (err == ERR_INVALID));
    *ret_line = err ? at->line : 0;
    arena_release(&arena);
    return err;
}

static void reads_yaml(void **state)
{
    (void)state;
    struct credentials *c;
    uint32_t line;
    assert_int_equal(
        from_yaml(
            "credentials:\n  a: {from: env:CREDENTIALS_TEST_Y, hosts: [h, \"*.i\"]}\n  b: {from: env:X, hosts: [j]}\n",
            &c, &line),
        OK);
    assert_int_equal(credentials_count(c), 2);
    credentials_free(c);
    assert_int_equal(from_yaml("name: x\n", &c, &line), OK);
    assert_int_equal(credentials_count(c), 0);
    credentials_free(c);
    static const struct {
        const char *text;
        uint32_t line;
    } bad[] = {
        { "credentials: [a]\n", 1 },
        { "credentials:\n  a: env:X\n", 2 },
        { "credentials:\n  a: {from: env:X, hosts: [h]}\n  b: {hosts: [h]}\n", 3 },
        { "credentials:\n  a: {from: env:X}\n", 2 },
        { "credentials:\n  a: {from: env:X, hosts: h}\n", 2 },
        { "credentials:\n  a:\n    from: env:X\n    hosts: [h]\n    host: h\n", 5 },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(from_yaml(bad[i].text, &c, &line), ERR_INVALID);
        assert_int_equal(line, bad[i].line);
        credentials_free(c);
    }
}

static void survives_no_memory(void **state)
{
    (void)state;
    enum err err = ERR_NOMEM;
    for (uint64_t n = 0; err != OK; n++) {
        struct credentials *c = NULL;
        assert_true(n < 50);
        fault_arm(FAULT_ALLOC, n, 1);
        err = credentials_new(&c);
        if (!err)
            err = add(c, "a", "env:A", "h");
        fault_disarm_all();
        assert_true(err == OK || err == ERR_NOMEM);
        credentials_free(c);
    }
}

int main(void)
{
    if (!mkdtemp(directory))
        return 1;
    snprintf(path, sizeof path, "%s/key", directory);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(environment_and_hosts),
        cmocka_unit_test(files_are_read_again),
        cmocka_unit_test(bad_secrets_are_not_sent),
        cmocka_unit_test(declarations_are_judged),
        cmocka_unit_test(reads_yaml),
        cmocka_unit_test(survives_no_memory),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(directory);
    return failed;
}
