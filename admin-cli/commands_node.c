/* reload, upgrade and what status tells of this machine: errands of this machine's node, asked over its own socket (proto/errand.h); no control plane is
 * needed. */
#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/file.h"
#include "proto/errand.h"
#include "proto/home.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define STATUS_MS 2000u /* a master that has not answered by then does not turn */

struct errand {
    struct cli *cli;
    const char *name; /* "reload" */
    int fd;
    struct buf in;
    uint64_t deadline_ms; /* monotonic */
};

static int unreachable(const struct cli *cli, const char *path, int number)
{
    if (number == EACCES || number == EPERM)
        return cli_fail(cli, EXIT_DENIED, "%s is another user's: ask as the node's user, or as root", path);
    return cli_fail(cli, EXIT_UNREACHABLE, "no node runs in %s (%s: %s); --home names another", cli->home, path,
                    strerror(number));
}

static int connect_to(struct cli *cli, int *ret_fd)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char *path = file_join(cli->home, HOME_NODE_SOCKET);
    int code = EXIT_GOOD;
    if (!path || strlen(path) >= sizeof(address.sun_path)) {
        free(path);
        return cli_fail(cli, EXIT_USAGE, "the home %s is too long a name for a socket in it", cli->home);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    *ret_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*ret_fd < 0 || connect(*ret_fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        code = unreachable(cli, path, errno);
        if (*ret_fd >= 0)
            close(*ret_fd);
    }
    free(path);
    return code;
}

/* ERR_TIMEOUT, ERR_CLOSED, ERR_IO, ERR_FULL. The line, without its end, stands in front of errand->in. */
static enum err next_line(struct errand *errand, size_t *ret_len)
{
    for (;;) {
        const uint64_t now = clock_ms();
        struct pollfd ready = { .fd = errand->fd, .events = POLLIN };
        char *at;
        *ret_len = span_find_byte(buf_span(&errand->in), '\n');
        if (*ret_len != SIZE_MAX)
            return OK;
        const int n = now < errand->deadline_ms ? poll(&ready, 1, (int)(errand->deadline_ms - now)) : 0;
        if (n == 0)
            return ERR_TIMEOUT;
        if (n < 0 && errno != EINTR)
            return ERR_IO;
        if (n < 0)
            continue;
        const enum err err = buf_reserve(&errand->in, 4096, &at);
        if (err)
            return err;
        const ssize_t got = read(errand->fd, at, 4096);
        if (got == 0)
            return ERR_CLOSED;
        if (got > 0)
            buf_commit(&errand->in, (size_t)got);
        else if (errno != EINTR)
            return errno == ECONNRESET ? ERR_CLOSED : ERR_IO;
    }
}

static int broken(const struct errand *errand, enum err err)
{
    if (err == ERR_TIMEOUT)
        return cli_fail(errand->cli, EXIT_NOT_YET,
                        "the %s is not over yet; it goes on, and `fairlead status` shows the workers", errand->name);
    return cli_fail(errand->cli, EXIT_FAILED,
                    "the node ended the connection (%s) before the %s was over: it was stopped or replaced meanwhile; "
                    "`fairlead status` shows what runs, and its log why",
                    err_name(err), errand->name);
}

/* "reloaded: 2 workers replaced in 0.4 s; 3 old ones finish 12 connections, until 14:03:10 at the latest" */
static int tell_done(struct errand *errand, struct span json)
{
    struct json_index ix;
    char until[32] = "";
    if (errand->cli->json) {
        render_json(json);
        return EXIT_GOOD;
    }
    if (json_index(&errand->cli->arena, json, &json_limits_default, &ix, NULL))
        return cli_fail(errand->cli, EXIT_FAILED, "the node's answer is no JSON");
    const uint64_t workers = render_u64(&ix, 0, "workers"), draining = render_u64(&ix, 0, "draining");
    const time_t at = (time_t)(render_u64(&ix, 0, "drain_until_ms") / 1000);
    struct tm when;
    printf("%s: %llu worker%s replaced in %.1f s", strcmp(errand->name, "reload") == 0 ? "reloaded" : "upgraded",
           (unsigned long long)workers, workers == 1 ? "" : "s", (double)render_u64(&ix, 0, "ms") / 1000.0);
    if (draining && localtime_r(&at, &when) && strftime(until, sizeof(until), "%H:%M:%S", &when))
        printf("; %llu old one%s finish%s what runs, until %s at the latest", (unsigned long long)draining,
               draining == 1 ? "" : "s", draining == 1 ? "es" : "", until);
    printf("\n");
    return EXIT_GOOD;
}

/* True when the errand is over, with its exit code. */
static bool hear(struct errand *errand, struct span line, int *ret_code)
{
    if (span_starts(line, SPAN(ERRAND_DOING))) {
        const struct span text = span_skip(line, strlen(ERRAND_DOING));
        if (!errand->cli->json)
            fprintf(stderr, SPAN_FMT "\n", SPAN_ARG(text));
        return false;
    }
    if (span_starts(line, SPAN(ERRAND_DONE))) {
        *ret_code = tell_done(errand, span_skip(line, strlen(ERRAND_DONE)));
    } else if (span_starts(line, SPAN(ERRAND_FAILED))) {
        const struct span why = span_skip(line, strlen(ERRAND_FAILED));
        *ret_code = cli_fail(errand->cli, EXIT_REFUSED, "%s failed: " SPAN_FMT, errand->name, SPAN_ARG(why));
    } else {
        *ret_code = cli_fail(errand->cli, EXIT_FAILED, "the node's answer is not understood: is it of this version?");
    }
    return true;
}

static int run_errand(struct cli *cli, const char *name, const char *line)
{
    struct errand errand = { .cli = cli, .name = name, .deadline_ms = clock_ms() + cli->timeout_ms };
    int code = connect_to(cli, &errand.fd);
    if (code != EXIT_GOOD)
        return code;
    buf_init(&errand.in, (size_t)4 * ERRAND_LINE_BYTES);
    bool over = send(errand.fd, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line);
    if (over)
        code = broken(&errand, ERR_CLOSED);
    while (!over) {
        size_t len;
        const enum err err = next_line(&errand, &len);
        over = err != OK;
        if (err) {
            code = broken(&errand, err);
            break;
        }
        over = hear(&errand, span_head(buf_span(&errand.in), len), &code);
        buf_consume(&errand.in, len + 1);
    }
    buf_release(&errand.in);
    close(errand.fd);
    return code;
}

enum err node_status(struct cli *cli, struct buf *out)
{
    struct errand errand = { .cli = cli, .name = "status", .deadline_ms = clock_ms() + STATUS_MS };
    static const char line[] = ERRAND_WORD ERRAND_STATUS "\n";
    size_t len;
    const bool quiet = cli->quiet;
    cli->quiet = true;
    const int code = connect_to(cli, &errand.fd);
    cli->quiet = quiet;
    if (code != EXIT_GOOD)
        return ERR_NOT_FOUND;
    buf_init(&errand.in, ERRAND_ANSWER_BYTES + 4096);
    enum err err = send(errand.fd, line, strlen(line), MSG_NOSIGNAL) == (ssize_t)strlen(line) ? OK : ERR_CLOSED;
    if (!err)
        err = next_line(&errand, &len);
    const struct span answer = err ? SPAN("") : span_head(buf_span(&errand.in), len);
    if (!err)
        err = span_starts(answer, SPAN(ERRAND_DONE)) ? buf_append(out, span_skip(answer, strlen(ERRAND_DONE)))
                                                     : ERR_UNSUPPORTED;
    buf_release(&errand.in);
    close(errand.fd);
    return err;
}

int run_reload(struct cli *cli)
{
    return run_errand(cli, "reload", ERRAND_WORD ERRAND_RELOAD "\n");
}

int run_upgrade(struct cli *cli)
{
    const char *binary = opts_text(&cli->given, "binary", NULL);
    char path[PATH_MAX];
    if (!binary)
        return run_errand(cli, "upgrade", ERRAND_WORD ERRAND_UPGRADE "-\n");
    if (!realpath(binary, path))
        return cli_fail(cli, EXIT_REFUSED, "%s: %s", binary, strerror(errno));
    if (strchr(path, '\n'))
        return cli_fail(cli, EXIT_USAGE, "a path of one line is wanted");
    return run_errand(cli, "upgrade", arena_printf(&cli->arena, ERRAND_WORD ERRAND_UPGRADE "%s\n", path));
}
