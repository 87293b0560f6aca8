#include "admin-cli/detach.h"
#include "admin-cli/cli.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/home.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <sys/stat.h>
#include <unistd.h>

#define READY_VARIABLE "FAIRLEAD_READY_FD"
#define LOG_FILE       HOME_LOG_DIR "/fairlead.log"
#define LOG_KEPT_BYTES (64l << 20) /* a longer log is begun anew at start; the old one is kept once */
#define TAIL_BYTES     16384u      /* of the log, shown when it did not come up */
#define ARGS_MAX       (OPTS_VALUES_MAX + 4u)

extern char **environ;

static bool is_child;
static int ready_fd = -1;

bool detach_is_child(void)
{
    return is_child;
}

bool detach_tell(int code)
{
    const int fd = ready_fd;
    const char word = (char)('0' + code);
    if (fd < 0)
        return false;
    ready_fd = -1;
    if (write(fd, &word, 1) != 1)
        log_warn("ready.pipe", LOG_STR("why", strerror(errno)));
    close(fd);
    return true;
}

static int open_log(const char *path)
{
    struct stat facts;
    char *old = NULL;
    if (stat(path, &facts) == 0 && facts.st_size > LOG_KEPT_BYTES && asprintf(&old, "%s.1", path) > 0)
        (void)rename(path, old); /* otherwise it grows on */
    free(old);
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static bool redirect_output(const struct cli *cli)
{
    char *dir = file_join(cli->home, HOME_LOG_DIR), *path = file_join(cli->home, LOG_FILE);
    const int fd = dir && path && file_make_dirs(dir, 0700) == OK ? open_log(path) : -1;
    const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const bool good = fd >= 0 && null >= 0 && dup2(fd, STDERR_FILENO) >= 0 && dup2(fd, STDOUT_FILENO) >= 0 &&
                      dup2(null, STDIN_FILENO) >= 0;
    free(dir);
    free(path);
    if (fd >= 0)
        close(fd);
    if (null >= 0)
        close(null);
    return good;
}

bool detach_begin(struct cli *cli)
{
    const char *given = getenv(READY_VARIABLE);
    uint64_t fd;
    if (!given || span_to_u64(span_cstr(given), &fd) != OK || fd > INT_MAX)
        return true;
    is_child = true;
    ready_fd = (int)fd;
    fcntl(ready_fd, F_SETFD, FD_CLOEXEC); /* the parts must not hold the parent's pipe open */
    unsetenv(READY_VARIABLE);
    return redirect_output(cli);
}

/* ---- the parent ---- */

static off_t log_size(const struct cli *cli)
{
    struct stat facts;
    char *path = file_join(cli->home, LOG_FILE);
    const off_t size = path && stat(path, &facts) == 0 ? facts.st_size : 0;
    free(path);
    return size;
}

static bool is_event(struct span line)
{
    return span_starts(line, SPAN("time="));
}

/* What was logged since it had this size, at most TAIL_BYTES of it: what `up` itself said to people and, with `events`, the events
 * of its programs that do not only inform. */
static void print_log(const struct cli *cli, off_t since, bool events)
{
    char *path = file_join(cli->home, LOG_FILE), text[TAIL_BYTES];
    const int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    free(path);
    if (fd < 0)
        return;
    const off_t end = lseek(fd, 0, SEEK_END);
    const off_t from = end < since ? 0 : since; /* it was begun anew */
    const bool cut = end - from > (off_t)sizeof(text);
    const ssize_t n = pread(fd, text, sizeof(text), cut ? end - (off_t)sizeof(text) : from);
    close(fd);
    struct span rest = span_of(text, n > 0 ? (size_t)n : 0), line;
    if (cut)
        (void)span_split(&rest, '\n', &line); /* half a line */
    while (span_split(&rest, '\n', &line)) {
        if (line.len && (!is_event(line) || (events && span_find(line, SPAN(" level=info ")) == SIZE_MAX)))
            fprintf(stderr, SPAN_FMT "\n", SPAN_ARG(line));
    }
}

/* `fairlead up` with the options that we were given, but for --detach. NULL: memory is out. */
static char **arguments(struct cli *cli, char *program)
{
    char **argv = ARENA_ARRAY(&cli->arena, ARGS_MAX, char *);
    unsigned argc = 0;
    if (!argv)
        return NULL;
    argv[argc++] = program;
    argv[argc++] = (char *)(uintptr_t) "up";
    for (unsigned i = 0; i < cli->given.given_count; i++) {
        const struct opts_given *given = &cli->given.given[i];
        if (strcmp(given->opt->name, "detach") == 0)
            continue;
        argv[argc] = arena_printf(&cli->arena, "--%s%s%s", given->opt->name, given->value ? "=" : "",
                                  given->value ? given->value : "");
        if (!argv[argc++])
            return NULL;
    }
    return argv;
}

/* Spawns it in a session of its own; the pipe's write end stays open in it alone. */
static int spawn(char *const *argv, int read_end, int write_end)
{
    char descriptor[16];
    pid_t pid;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    snprintf(descriptor, sizeof(descriptor), "%d", write_end);
    setenv(READY_VARIABLE, descriptor, 1);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, read_end);
    const int rc = posix_spawnp(&pid, argv[0], &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    unsetenv(READY_VARIABLE);
    return rc;
}

int detach_spawn(struct cli *cli)
{
    char *program = cli_program("fairlead");
    char **argv = program ? arguments(cli, program) : NULL;
    const off_t before = log_size(cli);
    int ends[2];
    char word = '0' + EXIT_FAILED;
    if (!argv || pipe(ends) != 0) {
        free(program);
        return cli_fail(cli, EXIT_FAILED, "out of memory or descriptors");
    }
    const int rc = spawn(argv, ends[0], ends[1]);
    close(ends[1]);
    if (rc == 0 && read(ends[0], &word, 1) != 1) /* it died without a word */
        word = '0' + EXIT_FAILED;
    close(ends[0]);
    free(program);
    if (rc != 0)
        return cli_fail(cli, EXIT_FAILED, "fairlead cannot be run: %s", strerror(rc));
    print_log(cli, before, word != '0' + EXIT_GOOD);
    if (word == '0' + EXIT_GOOD)
        return EXIT_GOOD;
    return cli_fail(cli, (enum exit_code)(word - '0'), "it did not come up; %s/%s has all that it said", cli->home,
                    LOG_FILE);
}
