#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/digest.h"
#include "proto/channel.h"
#include "proto/wire.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pwd.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#define ATTEMPTS     3u /* a change that got no answer is repeated with the same request id: it is done once */
#define WAIT_POLL_MS 50

extern char **environ;

void call_arg(struct call *call, const char *name, struct span value)
{
    REQUIRE(call->arg_count < CALL_ARGS_MAX);
    call->args[call->arg_count++] = (struct admin_arg){ .name = span_cstr(name), .value = value };
}

void call_arg_cstr(struct call *call, const char *name, const char *value)
{
    if (value)
        call_arg(call, name, span_cstr(value));
}

void call_option(const struct cli *cli, struct call *call, const char *name)
{
    for (unsigned i = 0; i < cli->given.given_count; i++) {
        const struct opts_given *given = &cli->given.given[i];
        if (strcmp(given->opt->name, name) == 0)
            call_arg_cstr(call, name, given->value ? given->value : "true");
    }
}

static const char *user_name(void)
{
    const struct passwd *entry = getpwuid(getuid());
    return entry && entry->pw_name ? entry->pw_name : "unknown";
}

static enum exit_code exit_of(enum admin_status status)
{
    switch (status) {
    case ADMIN_OK:
        return EXIT_GOOD;
    case ADMIN_INVALID:
        return EXIT_REFUSED;
    case ADMIN_NOT_FOUND:
        return EXIT_NOT_FOUND;
    case ADMIN_CONFLICT:
        return EXIT_CONFLICT;
    case ADMIN_DENIED:
        return EXIT_DENIED;
    case ADMIN_UNAVAILABLE:
        return EXIT_UNREACHABLE;
    case ADMIN_INTERNAL:
        return EXIT_FAILED;
    }
    return EXIT_FAILED;
}

static int unreachable(const struct cli *cli, enum err err, bool is_change)
{
    if (err == ERR_TOO_LARGE)
        return cli_fail(cli, EXIT_USAGE, "the address %s is too long for a socket (107 bytes); choose a shorter --home",
                        cli->address);
    if (err == ERR_TIMEOUT && is_change)
        return cli_fail(cli, EXIT_UNREACHABLE,
                        "no answer from the control plane at %s in time; whether the change was made is shown by "
                        "`fairlead status` and `fairlead audit`",
                        cli->address);
    if (span_starts(span_cstr(cli->address), SPAN("ipc://")) && access(cli->address + strlen("ipc://"), W_OK) != 0 &&
        errno == EACCES)
        return cli_fail(cli, EXIT_DENIED,
                        "the control plane's socket %s is not open to you; its owner opens it to a group by "
                        "--admin-group, and says in roles.yaml who may do what",
                        cli->address + strlen("ipc://"));
    return cli_fail(
        cli, EXIT_UNREACHABLE,
        "no control plane answers at %s (%s); is it running? `fairlead up` starts one, --home names another",
        cli->address, err_name(err));
}

static enum err ask(struct cli *cli, const struct call *call, struct buf *reply)
{
    char id[40];
    struct buf out = BUF_INIT(FRAME_BYTES_MAX);
    struct admin_request request = { .protocol = LINK_PROTOCOL,
                                     .request_id = span_cstr(random_id("cli-", 26, id)),
                                     .command = span_cstr(call->command),
                                     .user = span_cstr(user_name()),
                                     .args = (struct admin_arg *)call->args,
                                     .arg_count = call->arg_count,
                                     .dry_run = cli->dry_run };
    enum err err = wire_encode_admin_request(&request, &out);
    for (unsigned i = 0; !err && i < ATTEMPTS; i++) {
        buf_clear(reply);
        err = channel_ask(cli->address, NULL, buf_span(&out), cli->timeout_ms, reply);
        if (err != ERR_CLOSED)
            break;
        err = i + 1 < ATTEMPTS ? OK : err;
    }
    buf_release(&out);
    return err;
}

/* A refused policy comes with its diagnostics; true when some were printed. */
static bool print_diagnostics(struct cli *cli, const struct admin_reply *reply)
{
    struct json_index ix;
    if (cli->quiet || reply->result.len == 0 ||
        json_index(&cli->arena, reply->result, &json_limits_default, &ix, NULL) != OK)
        return false;
    const uint32_t diagnostics = json_get(&ix, 0, SPAN("diagnostics"));
    const unsigned errors = diagnostics == JSON_NONE ? 0 : (unsigned)render_u64(&ix, diagnostics, "errors");
    if (errors == 0)
        return false;
    render_diagnostics(cli, &ix, diagnostics, stderr);
    fprintf(stderr, "fairlead: refused: %u error%s; nothing was changed\n", errors, errors == 1 ? "" : "s");
    return true;
}

int call_send(struct cli *cli, const struct call *call, const struct admin_reply **ret_reply)
{
    struct buf bytes = BUF_INIT(FRAME_BYTES_MAX);
    struct admin_reply *reply;
    enum err err = ask(cli, call, &bytes);
    if (err) {
        buf_release(&bytes);
        return unreachable(cli, err, call->is_change);
    }
    err = wire_decode_admin_reply(&cli->arena, buf_span(&bytes), &reply);
    buf_release(&bytes);
    if (err)
        return cli_fail(cli, EXIT_FAILED,
                        "the control plane's answer is malformed (%s): do CLI and control plane have the same version?",
                        err_name(err));
    reply->message = span_cstr(render_whole(&cli->arena, reply->message)); /* people's words stand in it */
    if (reply->status == ADMIN_OK) {
        *ret_reply = reply;
        return EXIT_GOOD;
    }
    if (cli->json && reply->result.len)
        render_json(reply->result);
    else if (print_diagnostics(cli, reply))
        return (int)exit_of(reply->status);
    return cli_fail(cli, exit_of(reply->status), SPAN_FMT, SPAN_ARG(reply->message));
}

int call_index(struct cli *cli, const struct admin_reply *reply, struct json_index *ret)
{
    static const struct json_limits limits = { .bytes_max = ADMIN_RESULT_BYTES_MAX,
                                               .depth_max = 64,
                                               .tokens_max = 32u << 20 };
    const enum err err = json_index(&cli->arena, reply->result, &limits, ret, NULL);
    return err ? cli_fail(cli, EXIT_FAILED, "the control plane's answer is no JSON (%s)", err_name(err)) : EXIT_GOOD;
}

int call_ask(struct cli *cli, const struct call *call, const struct admin_reply **ret_reply, struct json_index *ret)
{
    const int code = call_send(cli, call, ret_reply);
    if (code != EXIT_GOOD)
        return code;
    REQUIRE(*ret_reply);
    return call_index(cli, *ret_reply, ret);
}

int call_list(struct cli *cli, const struct call *call, const struct column *columns, size_t count, const char *empty)
{
    const struct admin_reply *reply = NULL;
    struct json_index ix;
    const int code = call_ask(cli, call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json)
        render_json(reply->result);
    else
        render_table(cli, &ix, 0, columns, count, empty);
    return EXIT_GOOD;
}

/* ---- waiting for nodes ---- */

static int ask_behind(struct cli *cli, uint64_t epoch, uint64_t generation, uint64_t directory, uint64_t *ret_count,
                      struct json_index *ret)
{
    struct call call = { .command = "nodes.behind" };
    const struct admin_reply *reply = NULL;
    call_arg_cstr(&call, "epoch", arena_printf(&cli->arena, "%llu", (unsigned long long)epoch));
    call_arg_cstr(&call, "generation", arena_printf(&cli->arena, "%llu", (unsigned long long)generation));
    call_arg_cstr(&call, "directory", arena_printf(&cli->arena, "%llu", (unsigned long long)directory));
    const int code = call_ask(cli, &call, &reply, ret);
    if (code == EXIT_GOOD)
        *ret_count = render_u64(ret, 0, "count");
    return code;
}

int call_wait(struct cli *cli, uint64_t epoch, uint64_t generation, uint64_t directory, uint32_t limit_ms)
{
    const uint64_t start = clock_ms();
    for (;;) {
        struct json_index ix;
        uint64_t count = 0;
        const int code = ask_behind(cli, epoch, generation, directory, &count, &ix);
        if (code != EXIT_GOOD)
            return code;
        const uint64_t elapsed = clock_ms() - start;
        if (count == 0) {
            if (!cli->json)
                printf("serving on every worker of every node after %llu ms\n", (unsigned long long)elapsed);
            return EXIT_GOOD;
        }
        if (elapsed >= limit_ms) {
            const uint32_t names = json_get(&ix, 0, SPAN("behind"));
            fflush(stdout);
            fprintf(stderr, "fairlead: stored, but %llu %s not serve it yet:", (unsigned long long)count,
                    count == 1 ? "node does" : "nodes do");
            for (uint32_t t = names == JSON_NONE ? JSON_NONE : json_first(&ix, names); t != JSON_NONE;
                 t = json_next(&ix, names, t))
                fprintf(stderr, " " SPAN_FMT, SPAN_ARG(json_raw(&ix, t)));
            fprintf(stderr, "\n");
            return EXIT_NOT_YET;
        }
        poll(NULL, 0, WAIT_POLL_MS);
    }
}

int call_wait_if_asked(struct cli *cli, const struct json_index *result)
{
    if (!opts_flag(&cli->given, "wait") || cli->dry_run)
        return EXIT_GOOD;
    if (json_get(result, 0, SPAN("epoch")) == JSON_NONE) {
        fprintf(stderr,
                "fairlead: this reaches nodes with the evidence of the next moments, which --wait does not watch\n");
        return EXIT_GOOD;
    }
    return call_wait(cli, render_u64(result, 0, "epoch"), render_u64(result, 0, "generation"),
                     render_u64(result, 0, "directory"), cli->timeout_ms);
}

int call_change(struct cli *cli, struct call *call)
{
    const struct admin_reply *reply = NULL;
    struct json_index ix;
    call->is_change = true;
    const int code = call_ask(cli, call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    render_done(cli, reply);
    return call_wait_if_asked(cli, &ix);
}

/* ---- sibling programs ---- */

char *cli_program(const char *name)
{
    char self[PATH_MAX];
    char path[PATH_MAX + 64];
    const ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (len > 0) {
        self[len] = '\0';
        char *slash = strrchr(self, '/');
        if (slash) {
            *slash = '\0';
            snprintf(path, sizeof(path), "%s/%s", self, name);
            if (access(path, X_OK) == 0)
                return strdup(path);
        }
    }
    return strdup(name);
}

static int read_all(int fd, struct buf *out)
{
    for (;;) {
        char *at;
        if (buf_reserve(out, 65536, &at) != OK)
            return -1;
        const ssize_t n = read(fd, at, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        buf_commit(out, (size_t)n);
    }
}

int cli_bundle(struct cli *cli, const char *file, struct buf *out)
{
    char *program = cli_program("fairlead-controlplane");
    char *argv[] = { program, (char *)"--bundle", (char *)file, NULL };
    int ends[2] = { -1, -1 };
    pid_t pid = 0;
    int status = -1;
    posix_spawn_file_actions_t actions;
    if (!program || pipe(ends) != 0) {
        free(program);
        return cli_fail(cli, EXIT_FAILED, "a pipe cannot be made: %s", strerror(errno));
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    const int rc = posix_spawnp(&pid, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    const int got = rc == 0 ? read_all(ends[0], out) : -1;
    close(ends[0]);
    if (rc == 0)
        waitpid(pid, &status, 0);
    free(program);
    if (rc != 0)
        return cli_fail(cli, EXIT_FAILED, "fairlead-controlplane cannot be run: %s", strerror(rc));
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1 || got < 0)
        return cli_fail(cli, EXIT_FAILED, "%s could not be read", file);
    return WEXITSTATUS(status) == 0 ? EXIT_GOOD : EXIT_REFUSED;
}
