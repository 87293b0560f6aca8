/* The curl lane: whom it talks to. Proxies and certificates. */
#include "tests/unit/dataplane/upstream/support.h"
#include <fcntl.h>
#include <sys/wait.h>

/* ---- proxies ---- */

static void environment_is_ignored(void **state)
{
    struct owner o;
    (void)state;
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    expect_done(&o, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", answer_each, OK, UPSTREAM_BODY);
    unsetenv("http_proxy");
    unsetenv("all_proxy");
    owner_release(&o);
}

static void through_proxy(struct provider to, const char *answer, struct owner *o)
{
    struct server server;
    char proxy[64];
    use(&server, keep_request, answer);
    snprintf(proxy, sizeof(proxy), "http://127.0.0.1:%u", (unsigned)server.port);
    provider = to;
    provider.proxy = span_cstr(proxy);
    owner_init(o);
    assert_int_equal(start(o), OK);
    finish(o);
    server_stop(&server);
}

static void the_policy_s_proxy_is_used(void **state)
{
    struct owner o;
    (void)state;
    setenv("no_proxy", "*", 1);
    through_proxy((struct provider){ .host = SPAN("example.invalid"), .port = 8000 },
                  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", &o);
    unsetenv("no_proxy");
    assert_int_equal(o.err, OK);
    assert_true(span_starts(span_cstr(request_seen), SPAN("POST http://example.invalid:8000/v1/x?y=1 ")));
    owner_release(&o);
}

/* What a proxy answers to CONNECT is not the provider's answer. */
static void tunnel_answers_are_not_heads(void **state)
{
    const char *const answers[] = { "HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n",
                                    "HTTP/1.1 200 Go\r\n\r\nnot TLS at all" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct owner o;
        through_proxy((struct provider){ .host = SPAN("example.invalid"), .port = 443, .tls = true }, answers[i], &o);
        assert_true(span_starts(span_cstr(request_seen), SPAN("CONNECT example.invalid:443 ")));
        assert_int_equal(span_find(span_cstr(request_seen), SPAN("s3cret")), SIZE_MAX);
        assert_int_not_equal(o.err, OK);
        assert_int_equal(o.heads, 0);
        owner_release(&o);
    }
}

/* ---- TLS ---- */

static char tls_dir[] = "/tmp/fairlead-curl-lane-XXXXXX";
static pid_t tls_server;

static uint16_t tls_server_start(void)
{
    char command[1024], line[256];
    int out[2], in[2];
    unsigned port = 0;
    assert_non_null(mkdtemp(tls_dir));
    snprintf(command, sizeof(command),
             "cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=t "
             "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem 2>/dev/null",
             tls_dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(pipe(out), 0);
    assert_int_equal(pipe(in), 0); /* s_server reads commands from its input: kept open, empty */
    tls_server = fork();
    if (tls_server == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(open("/dev/null", O_WRONLY), 2);
        close(in[1]);
        close(out[0]);
        if (chdir(tls_dir) != 0)
            _exit(1);
        execlp("openssl", "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem",
               "-www", (char *)NULL);
        _exit(1);
    }
    close(out[1]);
    close(in[0]);
    FILE *from = fdopen(out[0], "r");
    assert_non_null(from);
    while (port == 0 && fgets(line, sizeof(line), from)) {
        if (strncmp(line, "ACCEPT ", 7) == 0)
            port = (unsigned)strtoul(strrchr(line, ':') + 1, NULL, 10);
    }
    fclose(from);
    assert_int_not_equal(port, 0);
    return (uint16_t)port;
}

static void tls_server_stop(void)
{
    char command[128];
    kill(tls_server, SIGKILL);
    waitpid(tls_server, NULL, 0);
    snprintf(command, sizeof(command), "rm -r %s", tls_dir);
    assert_int_equal(system(command), 0);
}

static void get_over_tls(struct owner *o)
{
    const struct upstream_request request = request_of(NULL, 0);
    owner_init(o);
    assert_int_equal(upstream_start(lane, &request, &events, o, &o->upstream), OK);
    finish(o);
}

static void certificates_are_verified(void **state)
{
    struct owner o;
    char ca_file[128];
    (void)state;
    provider = (struct provider){ .host = SPAN("127.0.0.1"), .port = tls_server_start(), .tls = true };
    get_over_tls(&o);
    assert_int_equal(o.err, ERR_DENIED);
    assert_int_equal(o.phase, UPSTREAM_CONNECTING);
    assert_int_equal(o.heads, 0);
    owner_release(&o);
    upstream_lane_close(lane);
    snprintf(ca_file, sizeof(ca_file), "%s/cert.pem", tls_dir);
    lane_open(4, ca_file);
    get_over_tls(&o);
    assert_int_equal(o.err, OK);
    assert_int_equal(o.status, 200);
    const int64_t now_ms = (int64_t)time(NULL) * 1000, day_ms = 86400000;
    assert_in_range(o.certificate_expires_at_ms - now_ms, 29 * day_ms, 31 * day_ms);
    owner_release(&o);
    provider.host = SPAN("localhost"); /* the right certificate for the wrong name */
    get_over_tls(&o);
    assert_int_equal(o.err, ERR_DENIED);
    owner_release(&o);
    tls_server_stop();
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    make_lane = curl_lane_new;
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(environment_is_ignored),
        TEST(the_policy_s_proxy_is_used),
        TEST(tunnel_answers_are_not_heads),
        TEST(certificates_are_verified),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
