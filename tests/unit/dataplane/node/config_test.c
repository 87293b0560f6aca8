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
    assert_int_equal(config.listener_count, 1);
    assert_string_equal(config.listeners[0].address, "127.0.0.1:4000");
    assert_true(config.listeners[0].http2 && !config.listeners[0].certificate && !config.resolvers);
    assert_int_equal(config.limits.http2_streams, 100);
    assert_int_equal(config.limits.watchdog_ms, 1000);
    assert_string_equal(config.operations, "127.0.0.1:4001");
    (void)snprintf(expected, sizeof(expected), "ipc://%s/run/fetch.ipc", home);
    assert_string_equal(config.control, expected);
    assert_true(config.workers >= 1 && config.workers <= 64);
    assert_int_equal(config.limits.head_bytes, 32768);
    assert_int_equal(config.limits.body_bytes, 32u << 20);
    assert_int_equal(config.limits.idle_ms, 75000);
    assert_int_equal(config.limits.write_queue_bytes, 65536);
    assert_int_equal(config.limits.drain_first_ms, 3000);
    assert_int_equal(config.limits.drain_idle_ms, 1000);
    assert_true(config.limits.drain_ms > 0 && config.limits.record_segments > 0);
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
    assert_int_equal(config.listener_count, 1);
    assert_string_equal(config.listeners[0].address, "[::1]:4100");
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
    assert_string_equal(config.listeners[0].address, "[::1]:4100");
    free(message);
    node_config_release(&config);
}

static void reads_listeners(UNUSED void **state)
{
    struct node_config config;
    char *message = NULL;
    const char *rest;
    assert_int_equal(load("schema: fairlead/1\nkind: node\nlisten:\n"
                          "  - unix:/run/a.sock\n"
                          "  - {address: \"0.0.0.0:8443\", http2: false, proxy_protocol: [10.0.0.0/8, "
                          "\"2001:db8::/32\", 192.0.2.7],\n"
                          "     tls: {certificate: c.pem, key: /k.pem, client_ca: ca.pem, teams: {ci.example.com: "
                          "build, Ann B: ann}}}\n"
                          "  - {address: 127.0.0.1:0, tls: {certificate: c.pem, key: k.pem, client_ca: ca.pem,\n"
                          "     client_certificates: optional}}\n"
                          "  - 127.0.0.1:0\n"
                          "  - systemd:api\n"
                          "  - {address: \"unix:/run/b.sock\", mode: 0660}\n",
                          &config, &message),
                     OK);
    const struct listener_config *l = config.listeners;
    assert_int_equal(config.listener_count, 6);
    assert_int_equal(listener_kind(&l[0], &rest), LISTENER_UNIX);
    assert_string_equal(rest, "/run/a.sock");
    assert_int_equal(l[0].mode, 0600);
    assert_int_equal(listener_kind(&l[1], &rest), LISTENER_TCP);
    assert_string_equal(rest, "0.0.0.0:8443");
    assert_false(l[1].http2);
    char beside[160];
    (void)snprintf(beside, sizeof(beside), "%s/c.pem", home);
    assert_string_equal(l[1].certificate, beside);
    assert_string_equal(l[1].key, "/k.pem");
    (void)snprintf(beside, sizeof(beside), "%s/ca.pem", home);
    assert_string_equal(l[1].client_ca, beside);
    assert_int_equal(l[1].client_certificates, CLIENT_CERTIFICATES_REQUIRED);
    assert_int_equal(l[1].team_count, 2);
    assert_string_equal(l[1].teams[1].name, "Ann B");
    assert_string_equal(l[1].teams[1].team, "ann");
    assert_int_equal(l[1].proxy_count, 3);
    assert_int_equal(l[1].proxies[0].bits, 104);
    assert_int_equal(l[1].proxies[2].bits, 128);
    assert_int_equal(l[2].client_certificates, CLIENT_CERTIFICATES_OPTIONAL);
    assert_true(l[3].http2 && !l[3].certificate);
    assert_int_equal(listener_kind(&l[4], &rest), LISTENER_SYSTEMD);
    assert_string_equal(rest, "api");
    assert_int_equal(l[5].mode, 0660);
    /* Flags replace them all. */
    assert_null(config.outranked);
    assert_int_equal(node_config_set(&config, "workers", "3", &message), OK);
    assert_null(config.outranked); /* the file says nothing of workers */
    const char *const flags[] = { "127.0.0.1:1", "systemd:" };
    assert_int_equal(node_config_listen(&config, flags, 2, &message), OK);
    assert_string_equal(config.outranked, "listen");
    assert_int_equal(config.listener_count, 2);
    assert_int_equal(listener_kind(&config.listeners[1], &rest), LISTENER_SYSTEMD);
    assert_string_equal(rest, "");
    assert_null(config.listeners[1].certificate);
    const char *const twice[] = { "127.0.0.1:1", "localhost:1" };
    assert_int_equal(node_config_listen(&config, twice, 2, &message), ERR_INVALID);
    assert_non_null(strstr(message, "listen: 'localhost:1' stands twice"));
    assert_int_equal(config.listener_count, 2);
    free(message);
    node_config_release(&config);
}

static void takes_no_more_listeners_than_a_worker_is_handed(UNUSED void **state)
{
    struct node_config config;
    char *message = NULL;
    struct buf text = BUF_INIT(4096);
    assert_int_equal(buf_append_cstr(&text, "schema: fairlead/1\nkind: node\nlisten:\n"), OK);
    for (unsigned i = 0; i < NODE_LISTENERS_MAX; i++)
        assert_int_equal(buf_append_cstr(&text, "  - 127.0.0.1:0\n"), OK);
    assert_int_equal(load(buf_cstr(&text), &config, &message), OK);
    assert_int_equal(config.listener_count, NODE_LISTENERS_MAX);
    node_config_release(&config);
    assert_int_equal(buf_append_cstr(&text, "  - 127.0.0.1:0\n"), OK);
    assert_int_equal(load(buf_cstr(&text), &config, &message), ERR_INVALID);
    assert_non_null(strstr(message, ":20:5: listen: at most 16 listeners"));
    free(message);
    buf_release(&text);
}

static void reads_resolvers_and_the_watchdog(UNUSED void **state)
{
    struct node_config config;
    char *message = NULL;
    assert_int_equal(load("schema: fairlead/1\nkind: node\nlimits: {watchdog: 0, http2_streams: 7}\n"
                          "resolvers: [127.0.0.1, \"127.0.0.1:5353\", \"::1\", \"[2001:db8::1]\", \"[::1]:54\"]\n",
                          &config, &message),
                     OK);
    assert_string_equal(config.resolvers, "127.0.0.1:53,127.0.0.1:5353,[::1]:53,[2001:db8::1]:53,[::1]:54");
    assert_int_equal(config.limits.watchdog_ms, 0);
    assert_int_equal(config.limits.http2_streams, 7);
    node_config_release(&config);
    assert_int_equal(load("schema: fairlead/1\nkind: node\nresolvers: 127.0.0.53\n", &config, &message), OK);
    assert_string_equal(config.resolvers, "127.0.0.53:53");
    node_config_release(&config);
}

static void says_what_is_wrong_and_where(UNUSED void **state)
{
#define LONG                                                                                                           \
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
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
        { TOP "limits: 3\n", ":3:9: limits: a map must stand here" },
        { TOP "records: {shop: 1}\n", ":3:11: unknown field 'records.shop'; did you mean 'ship'?" },
        { TOP "records: {ship: 101%}\n", ":3:17: records.ship: '101%' is not a share, such as 100%" },
        { TOP "feedback_secret: hunter2\n", ":3:18: feedback_secret: env:NAME or file:PATH" },
        { TOP "workers: 0\n", ":3:10: workers: between 1 and 64" },
        { TOP "workers: [1]\n", ":3:10: one value must stand here" },
        { TOP "listen: example.com:80\n", ":3:9: listen: 'example.com:80' is not an address" },
        { TOP "listen: 127.0.0.1\n", ":3:9: listen:" },
        { TOP "listen: []\n", ":3:9: listen: at least one address" },
        { TOP "listen: [127.0.0.1:1, [a]]\n", ":3:23: listen: an address must stand here" },
        { TOP "listen:\n", ":3:" },
        { TOP "listen: [127.0.0.1:1, 127.0.0.1:1]\n", ":3:23: listen: '127.0.0.1:1' stands twice" },
        { TOP "listen: [\"unix:/a\", \"unix:/a\"]\n", ":3:21: listen: 'unix:/a' stands twice" },
        { TOP "listen: [\"systemd:a\", {address: \"systemd:a\"}]\n", ":3:33: listen: 'systemd:a' stands twice" },
        { TOP "listen: unix:a.sock\n", ":3:9: listen: 'unix:a.sock' is not a socket" },
        { TOP "listen: \"systemd:a b\"\n", ":3:9: listen: 'systemd:a b' is not a name" },
        { TOP "listen: \"systemd:a:b\"\n", ":3:9: listen: 'systemd:a:b' is not a name" },
        { TOP "listen: unix:/" LONG "\n", ":3:9: listen: the path of a Unix socket has 107 bytes at most, not 108" },
        { TOP "listen: {adress: 127.0.0.1:1}\n", ":3:10: unknown field 'listen.adress'; did you mean 'address'?" },
        { TOP "listen: {http2: true}\n", ":3:9: listen: `address` must stand here" },
        { TOP "listen: {address: 127.0.0.1:1, tsl: {}}\n", ":3:32: unknown field 'listen.tsl'; did you mean 'tls'?" },
        { TOP "listen: {address: 127.0.0.1:1, http2: maybe}\n", ":3:39: http2: true or false" },
        { TOP "listen: {address: 127.0.0.1:1, mode: 0660}\n", ":3:38: mode: only of a Unix socket" },
        { TOP "listen: {address: \"unix:/a\", mode: 0698}\n", ":3:36: mode: permissions in octal" },
        { TOP "listen: {address: \"unix:/a\", mode: 1777}\n", ":3:36: mode: permissions in octal" },
        { TOP "listen: {address: \"unix:/a\", proxy_protocol: [::/0]}\n", ":3:46: proxy_protocol: who connects" },
        { TOP "listen: {address: 127.0.0.1:1, proxy_protocol: 10.0.0.0/8}\n", ":3:48: proxy_protocol: a list" },
        { TOP "listen: {address: 127.0.0.1:1, proxy_protocol: [10.0.0.1/8]}\n",
          ":3:49: proxy_protocol: not a network" },
        { TOP "listen: {address: 127.0.0.1:1, proxy_protocol: [10.0.0.0/33]}\n", ":3:49: proxy_protocol: not a" },
        { TOP "listen: {address: 127.0.0.1:1, tls: yes}\n", ":3:37: tls: a map must stand here" },
        { TOP "listen: {address: 127.0.0.1:1, tls: {key: k}}\n", ":3:37: tls: both `certificate` and `key`" },
        { TOP "listen: {address: 127.0.0.1:1, tls: {certificate: c}}\n", ":3:37: tls: both `certificate` and `key`" },
        { TOP "listen: {address: 127.0.0.1:1, tls: {certificate: c, key: k, client_certificates: optional}}\n",
          ":3:62: client_certificates: needs `client_ca`" },
        { TOP "listen: {address: 127.0.0.1:1, tls: {certificate: c, key: k, teams: {a: b}}}\n",
          ":3:62: teams: needs `client_ca`" },
        { TOP "listen: {address: 127.0.0.1:1, tls: {certificate: c, key: k, client_ca: a, client_certificates: no}}\n",
          ":3:97: client_certificates: none, optional or required" },
        { TOP "listen: {address: 127.0.0.1:1, tls: {certificate: c, kee: k}}\n",
          ":3:54: unknown field 'tls.kee'; did you mean 'key'?" },
        { TOP "listen: {address: 127.0.0.1:1, tls: {certificate: c, key: k, client_ca: a, teams: {A.b: c, a.B: d}}}\n",
          ":3:92: teams: 'a.B' stands twice" },
        { TOP "listen: {address: 127.0.0.1:1, tls: {certificate: c, key: k, client_ca: a, teams: {a: [b]}}}\n",
          ":3:87: teams: the name of a team" },
        { TOP "resolvers: localhost\n", ":3:12: resolvers: 'localhost' is not an address" },
        { TOP "resolvers: [127.0.0.1:0]\n", ":3:12: resolvers: '127.0.0.1:0' is not an address" },
        { TOP "resolvers: []\n", ":3:12: resolvers: 1 to 8 addresses" },
        { TOP "resolvers: [{a: b}]\n", ":3:13: resolvers: addresses must stand here" },
        { TOP "limits: {watchdog: 10ms}\n", ":3:20: limits.watchdog: between 500ms and 10m" },
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
    static const char *const names[] = {
        "name\n", "workers\n", "limits.head_bytes\n", "limits.record_segments\n", "a listener (", "credentials\n"
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        assert_non_null(strstr(buf_cstr(&out), names[i]));
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_a_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_listeners, set_up, tear_down),
        cmocka_unit_test_setup_teardown(takes_no_more_listeners_than_a_worker_is_handed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_resolvers_and_the_watchdog, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_is_wrong_and_where, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_absent_file_is_an_error_when_named, set_up, tear_down),
        cmocka_unit_test(describes_every_setting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
