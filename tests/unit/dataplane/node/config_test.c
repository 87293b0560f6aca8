#include "dataplane/node/config.h"
#include "common/file.h"
#include "proto/home.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static char home[64], file[128];

static int set_up(UNUSED void **state)
{
    (void)snprintf(home, sizeof(home), "/tmp/fl-config-XXXXXX");
    assert_non_null(mkdtemp(home));
    (void)snprintf(file, sizeof(file), "%s/%s", home, HOME_NODE_CONFIG);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    (void)unlink(file);
    return rmdir(home);
}

static enum err load(const char *text, struct node_config *config, char **message)
{
    assert_int_equal(file_write_atomic(file, span_cstr(text), 0600), OK);
    return node_config_load(home, NULL, config, message);
}

static void defaults(UNUSED void **state)
{
    struct node_config config;
    char *message;
    char expected[128];
    assert_int_equal(node_config_load(home, NULL, &config, &message), OK);
    assert_null(message);
    assert_null(config.source);
    assert_string_equal(config.listen, "127.0.0.1:4000");
    assert_string_equal(config.operations, "127.0.0.1:4001");
    (void)snprintf(expected, sizeof(expected), "ipc://%s/run/fetch.ipc", home);
    assert_string_equal(config.control, expected);
    assert_true(config.workers >= 1 && config.workers <= 64);
    assert_int_equal(config.limits.head_bytes, 32768);
    assert_int_equal(config.limits.body_bytes, 32u << 20);
    assert_int_equal(config.limits.idle_ms, 75000);
    assert_int_equal(config.limits.write_queue_bytes, 65536);
    assert_true(config.limits.drain_ms > 0 && config.limits.record_segments > 0 && config.limits.models_timeout_ms > 0);
    char *path = node_config_path(&config, "db/node");
    (void)snprintf(expected, sizeof(expected), "%s/db/node", home);
    assert_string_equal(path, expected);
    free(path);
    node_config_release(&config);
}

static void reads_a_file(UNUSED void **state)
{
    struct node_config config;
    char *message = NULL;
    assert_int_equal(setenv("FL_CONFIG_TEST_SECRET", "sk-123", 1), 0);
    assert_int_equal(
        load("schema: fairlead/1\nkind: node\nname: n1\nlisten: \"[::1]:4100\"\nworkers: 3\n"
             "control: tcp://127.0.0.1:9\nca_file: /etc/ca.pem\nlimits: {idle: 10s, body_bytes: 1MiB, connections: 5}\n"
             "credentials: {a: {from: \"env:FL_CONFIG_TEST_SECRET\", hosts: [api.openai.com]}}\n",
             &config, &message),
        OK);
    assert_string_equal(config.name, "n1");
    assert_string_equal(config.listen, "[::1]:4100");
    assert_string_equal(config.control, "tcp://127.0.0.1:9");
    assert_string_equal(config.ca_file, "/etc/ca.pem");
    assert_int_equal(config.workers, 3);
    assert_int_equal(config.limits.idle_ms, 10000);
    assert_int_equal(config.limits.body_bytes, 1u << 20);
    assert_int_equal(config.limits.connections, 5);
    assert_true(credentials_resolved(config.credentials, SPAN("a")));
    assert_string_equal(config.source, file);
    /* A flag overrides the file and is judged like it. */
    assert_int_equal(node_config_set(&config, "workers", "5", &message), OK);
    assert_int_equal(config.workers, 5);
    assert_int_equal(node_config_set(&config, "listen", "nowhere", &message), ERR_INVALID);
    assert_non_null(strstr(message, "'nowhere' is not an address"));
    assert_string_equal(config.listen, "[::1]:4100");
    free(message);
    node_config_release(&config);
}

static void says_what_is_wrong_and_where(UNUSED void **state)
{
#define TOP "schema: fairlead/1\nkind: node\n"
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "kind: node\n", ":1:1: schema: must be fairlead/1" },
        { "schema: fairlead/1\nkind: policy\n", ":2:7: kind: must be node" },
        { TOP "lisen: 127.0.0.1:1\n", ":3:1: unknown field 'lisen'; did you mean 'listen'?" },
        { TOP "limits: {idel: 1s}\n", ":3:10: unknown field 'limits.idel'; did you mean 'idle'?" },
        { TOP "limits.idle: 1s\n", ":3:1: unknown field 'limits.idle'" },
        { TOP "zzzzzz: 1\n", ":3:1: unknown field 'zzzzzz'" },
        { TOP "limits: {idle: 1s, idle: 2s}\n", ":3:20:" },
        { TOP "limits: {head_bytes: 1MiB}\n", ":3:22: limits.head_bytes: between 1KiB and 32KiB" },
        { TOP "limits: {idle: soon}\n", ":3:16: limits.idle: 'soon' is not a time" },
        { TOP "limits: 3\n", ":3:9: limits: a map of limits must stand here" },
        { TOP "workers: 0\n", ":3:10: workers: between 1 and 64" },
        { TOP "workers: [1]\n", ":3:10: one value must stand here" },
        { TOP "listen: example.com:80\n", ":3:9: listen: 'example.com:80' is not an address" },
        { TOP "listen: 127.0.0.1\n", ":3:9: listen:" },
        { TOP "control: udp://x\n", ":3:10: control: ipc:///PATH" },
        { TOP "name: \"a b\"\n", ":3:7: name: printable" },
        { TOP "credentials: {a: {from: \"vault:x\", hosts: [b]}}\n", ":3:" },
        { TOP "---\nkind: node\n", ":4:" },
        { "[1, 2\n", ":" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct node_config config;
        char *message = NULL;
        assert_int_not_equal(load(cases[i].text, &config, &message), OK);
        assert_non_null(message);
        if (strncmp(message, file, strlen(file)) != 0 ||
            strncmp(message + strlen(file), cases[i].message, strlen(cases[i].message)) != 0)
            fail_msg("%s\nsaid: %s\nnot:  %s", cases[i].text, message, cases[i].message);
        free(message);
    }
}

static void an_absent_file_is_an_error_when_named(UNUSED void **state)
{
    struct node_config config;
    char *message = NULL;
    assert_int_equal(node_config_load(home, "/nonexistent/node.yaml", &config, &message), ERR_NOT_FOUND);
    assert_non_null(strstr(message, "/nonexistent/node.yaml"));
    free(message);
}

static void describes_every_setting(UNUSED void **state)
{
    struct buf out = BUF_INIT(1u << 20);
    assert_int_equal(node_config_describe(&out), OK);
    static const char *const names[] = { "name\n", "workers\n", "limits.head_bytes\n", "limits.models_timeout\n",
                                         "credentials\n" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        assert_non_null(strstr(buf_cstr(&out), names[i]));
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_a_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_is_wrong_and_where, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_absent_file_is_an_error_when_named, set_up, tear_down),
        cmocka_unit_test(describes_every_setting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
