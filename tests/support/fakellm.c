/* fakellm - a simulated OpenAI-compatible provider, for tests, benchmarks and the quickstart. See fake_knobs.h for what
 * can be turned, and fake_control.h for what a test can ask it. */
#include "tests/support/fake_conn.h"
#include "tests/support/fake_tls.h"
#include "common/file.h"
#include "common/opts.h"
#include <signal.h>

#define EXIT_USAGE 2

static const struct opt options[] = {
    { "listen", 0, OPT_TEXT, "ADDR:PORT", "where to listen, default 127.0.0.1:0 (port 0: chosen by the system)" },
    { "name", 0, OPT_TEXT, "NAME", "first word of answers, and the system_fingerprint" },
    { "models", 0, OPT_TEXT, "A,B,C", "models to list, default fake-small,fake-large" },
    { "strict-models", 0, OPT_FLAG, NULL, "answer 404 for a model that is not listed" },
    { "ttft-ms", 0, OPT_TEXT, "N|LO-HI", "milliseconds to the first token" },
    { "token-ms", 0, OPT_TEXT, "N|LO-HI", "milliseconds between tokens, 0 (the default) for full speed" },
    { "tokens", 0, OPT_TEXT, "N", "length of an answer without max_tokens, default 24" },
    { "cached", 0, OPT_TEXT, "N", "cached prompt tokens to report" },
    { "reasoning", 0, OPT_TEXT, "N", "reasoning tokens to report" },
    { "think", 0, OPT_TEXT, "N", "reasoning tokens to send before the answer" },
    { "prompt", 0, OPT_TEXT, "N", "prompt tokens to report instead of a count" },
    { "require-key", 0, OPT_TEXT, "KEY[,KEY]", "answer 401 without one of these keys" },
    { "fault", 0, OPT_TEXT, "SPEC",
      "how every request goes wrong: refuse hang 429[:retry_after_s] 400..599 overload200 error200 cut:N reset:N "
      "nodone:N errorevent:N "
      "silent:N empty[:1] garbage[:1] slowhead:MS nousage redirect setcookie bighead[:BYTES] hugeevent:BYTES die[:N]; "
      "with @0.03 for 3% of requests, x2 for the next two only" },
    { "fault-ms", 0, OPT_TEXT, "N|LO-HI", "milliseconds until a fault answers" },
    { "keep", 0, OPT_TEXT, "N", "requests kept for GET /__fake/requests, default 16" },
    { "seed", 0, OPT_TEXT, "N", "for jitter and fault probability, default 1" },
    { "tls-cert", 0, OPT_TEXT, "FILE", "PEM certificate chain: speak TLS" },
    { "tls-key", 0, OPT_TEXT, "FILE", "PEM private key" },
    { "lock", 0, OPT_TEXT, "FILE", "hold this lock file and write the pid into it, so that `fairlead down` finds us" },
    { "help", 'h', OPT_FLAG, NULL, "print this" },
};

static int print_help(void)
{
    struct buf out = BUF_INIT(64 * 1024);
    fake_must(buf_append_cstr(&out, "usage: fakellm [options]\n\nA simulated OpenAI-compatible provider.\n\n"));
    fake_must(opts_help(options, ARRAY_LEN(options), &out));
    fwrite(buf_span(&out).ptr, 1, out.len, stdout);
    buf_release(&out);
    return 0;
}

static bool is_knob(const char *name)
{
    static const char *const others[] = { "listen", "tls-cert", "tls-key", "lock", "help" };
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        if (strcmp(name, others[i]) == 0)
            return false;
    }
    return true;
}

static bool set_knobs(struct fake_knobs *knobs, const struct opts_result *given)
{
    for (unsigned i = 0; i < given->given_count; i++) {
        const struct opt *opt = given->given[i].opt;
        const char *value = given->given[i].value ? given->given[i].value : "true";
        if (is_knob(opt->name) && fake_knobs_set(knobs, span_cstr(opt->name), span_cstr(value)) != OK) {
            fprintf(stderr, "fakellm: --%s: \"%s\" is not understood\n", opt->name, value);
            return false;
        }
    }
    return true;
}

static bool set_tls(struct fake_server *server, const char *cert, const char *key)
{
    if (!cert && !key)
        return true;
    server->tls = cert && key ? fake_tls_server_new(cert, key) : NULL;
    if (server->tls)
        return true;
    fprintf(stderr, "fakellm: --tls-cert and --tls-key must both name PEM files that belong together\n");
    return false;
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)number;
    fake_server_stop(handle->data);
}

static int serve(struct fake_server *server, const char *address)
{
    static const int numbers[] = { SIGTERM, SIGINT };
    uv_loop_t loop;
    int port = 0;
    fake_must(uv_loop_init(&loop) == 0 ? OK : ERR_IO);
    server->loop = &loop;
    enum err err = fake_server_listen(server, span_cstr(address), &port);
    if (err != OK) {
        if (err == ERR_INVALID)
            fprintf(stderr, "fakellm: --listen: \"%s\" is not ADDR:PORT\n", address);
        uv_run(&loop, UV_RUN_DEFAULT);
        (void)uv_loop_close(&loop);
        return 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        uv_signal_init(&loop, &server->signals[i]);
        server->signals[i].data = server;
        uv_signal_start(&server->signals[i], on_signal, numbers[i]);
    }
    size_t host = strlen(address);
    while (host > 0 && address[host - 1] != ':')
        host--;
    printf("listening %.*s%d\n", (int)host, address, port);
    fflush(stdout);
    uv_run(&loop, UV_RUN_DEFAULT);
    REQUIRE(uv_loop_close(&loop) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    struct opts_result given;
    char *message = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) != OK) {
        fprintf(stderr, "fakellm: %s\n", message ? message : "out of memory");
        free(message);
        return EXIT_USAGE;
    }
    if (opts_flag(&given, "help"))
        return print_help();
    long holder = 0;
    int lock_fd = -1;
    const char *lock = opts_text(&given, "lock", NULL);
    if (lock && file_lock(lock, &lock_fd, &holder) != OK) {
        fprintf(stderr, "fakellm: %s is held by pid %ld or cannot be made\n", lock, holder);
        return 1;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    struct fake_server *server = calloc(1, sizeof(*server));
    fake_must(server ? OK : ERR_NOMEM);
    fake_knobs_init(&server->knobs);
    arena_init(&server->arena, UINT32_MAX);
    buf_init(&server->body, UINT32_MAX);
    random_id("", sizeof(server->id_prefix) - 1, server->id_prefix);
    int code = EXIT_USAGE;
    if (given.arg_count > 0)
        fprintf(stderr, "fakellm: \"%s\": no such argument\n", given.args[0]);
    else if (set_knobs(&server->knobs, &given) &&
             set_tls(server, opts_text(&given, "tls-cert", NULL), opts_text(&given, "tls-key", NULL))) {
        fake_text_init(&server->text, server->knobs.name);
        code = serve(server, opts_text(&given, "listen", "127.0.0.1:0"));
    }
    fake_server_release(server);
    free(server);
    return code;
}
