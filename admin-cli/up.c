/* up and down: the programs of one machine, started together, watched, started again when they crash, stopped together.
 */
#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/home.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_LIMIT_MS   30000u /* a machine under load, with cold disks */
#define STOP_LIMIT_MS    45000u /* the node's drain takes up to 30 s */
#define RESTART_PAUSE_MS 500u   /* grows to 16 times that while it keeps crashing */
#define POLL_MS          50
#define ARGS_MAX         16u
#define LOG_KEPT_BYTES   (64l << 20) /* a longer log is begun anew at start; the old one is kept once */

extern char **environ;

struct part {                /* one program of the house */
    const char *name, *lock; /* program and its lock in the home, which tells its pid */
    char *args[ARGS_MAX];
    unsigned arg_count;
    pid_t pid; /* ours; 0: not running, or another supervisor's that we watch by its lock */
    uint64_t started_ms, start_at_ms;
    unsigned crashes;
};

enum { PART_CONTROL, PART_NODE, PART_PROBER, PART_PRICEFEED, PARTS };

static volatile sig_atomic_t stop_asked;

static void on_stop(UNUSED int number)
{
    stop_asked = 1;
}

/* Pid of who holds the lock; 0 when nobody does. */
static long holder(const struct cli *cli, const char *lock)
{
    char *path = file_join(cli->home, lock);
    long pid = 0;
    int fd = -1;
    if (!path || !file_exists(path)) {
        free(path);
        return 0;
    }
    if (file_lock(path, &fd, &pid) != ERR_CONFLICT)
        pid = 0;
    if (fd >= 0)
        close(fd);
    free(path);
    return pid;
}

static void add_arg(struct part *part, const char *name, const char *value)
{
    REQUIRE(part->arg_count + 3 < ARGS_MAX);
    if (!value)
        return;
    part->args[part->arg_count++] = (char *)(uintptr_t)name;
    part->args[part->arg_count++] = (char *)(uintptr_t)value;
}

static void describe_parts(const struct cli *cli, struct part *parts)
{
    const char *prices = opts_text(&cli->given, "prices", NULL);
    const char *listen = opts_text(&cli->given, "listen", NULL);
    const char *operations = opts_text(&cli->given, "operations", NULL);
    parts[PART_CONTROL] = (struct part){ .name = "fairlead-controlplane", .lock = HOME_CONTROL_LOCK };
    parts[PART_NODE] = (struct part){ .name = "fairlead-dataplane", .lock = HOME_NODE_LOCK };
    parts[PART_PROBER] = (struct part){ .name = "fairlead-prober", .lock = HOME_PROBER_LOCK };
    parts[PART_PRICEFEED] = (struct part){ .name = "fairlead-pricefeed", .lock = HOME_PRICEFEED_LOCK };
    for (unsigned i = 0; i < PARTS; i++) {
        parts[i].args[parts[i].arg_count++] = (char *)(uintptr_t)parts[i].name;
        add_arg(&parts[i], "--home", cli->home);
    }
    add_arg(&parts[PART_NODE], "--listen", listen);
    add_arg(&parts[PART_NODE], "--operations", operations);
    add_arg(&parts[PART_NODE], "--workers", opts_text(&cli->given, "workers", NULL));
    if (prices)
        add_arg(&parts[PART_PRICEFEED], strstr(prices, "://") ? "--url" : "--file", prices);
}

static int start_part(struct part *part)
{
    char *program = cli_program(part->name);
    posix_spawnattr_t attributes;
    sigset_t none, usual;
    part->args[part->arg_count] = NULL;
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGINT);
    sigaddset(&usual, SIGTERM);
    posix_spawnattr_init(&attributes);
    /* A group of its own: an interrupt from the terminal reaches us alone, and we stop the house in order. */
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    const int rc = program ? posix_spawnp(&part->pid, program, NULL, &attributes, part->args, environ) : ENOMEM;
    posix_spawnattr_destroy(&attributes);
    free(program);
    part->started_ms = clock_ms();
    if (rc != 0) {
        part->pid = 0;
        log_error("part.start", LOG_STR("program", part->name), LOG_STR("why", strerror(rc)));
    }
    return rc;
}

/* ---- readiness ---- */

static char *read_line(const struct cli *cli, const char *relative)
{
    char *path = file_join(cli->home, relative);
    struct buf text = BUF_INIT(4096);
    char *line = NULL;
    if (path && file_read(path, 4000, &text) == OK) {
        const struct span trimmed = buf_span(&text);
        size_t len = span_find_byte(trimmed, '\n');
        line = strndup(trimmed.ptr, len == SIZE_MAX ? trimmed.len : len);
    }
    buf_release(&text);
    free(path);
    return line;
}

static bool reap(struct part *parts, bool restart);

/* Waits until the control plane answers; false when it cannot be had in time or we are to stop. */
static bool wait_control(struct cli *cli, struct part *parts)
{
    const uint64_t start = clock_ms();
    while (!stop_asked && clock_ms() - start < READY_LIMIT_MS) {
        char *socket_path = file_join(cli->home, HOME_ADMIN_SOCKET);
        const bool there = socket_path && file_exists(socket_path) && holder(cli, HOME_CONTROL_LOCK) != 0;
        free(socket_path);
        if (there)
            return true;
        if (!reap(parts, false))
            return false;
        poll(NULL, 0, POLL_MS);
    }
    return false;
}

static uint64_t live_generation(struct cli *cli, struct json_index *ix)
{
    struct call call = { .command = "status" };
    const struct admin_reply *reply;
    if (call_send(cli, &call, &reply) != EXIT_GOOD || call_index(cli, reply, ix) != EXIT_GOOD)
        return 0;
    return render_u64(ix, 0, "generation");
}

/* Sends a file's bundle to a command; what it says goes to stderr. */
static int send_file(struct cli *cli, const char *command, const char *file)
{
    struct call call = { .command = command, .is_change = true };
    const struct admin_reply *reply;
    struct buf bundle = BUF_INIT(PUSH_BYTES_MAX);
    int code = cli_bundle(cli, file, &bundle);
    call_arg(&call, "bundle", buf_span(&bundle));
    call_arg_cstr(&call, "message", "fairlead up");
    if (code == EXIT_GOOD)
        code = call_send(cli, &call, &reply);
    buf_release(&bundle);
    if (code == EXIT_GOOD)
        fprintf(stderr, "%s: " SPAN_FMT "\n", file, SPAN_ARG(reply->message));
    return code;
}

/* The named file, or the one in the home when nothing is there yet. */
static int push_first(struct cli *cli, const char *option, const char *command, const char *in_home, bool empty)
{
    const char *named = opts_text(&cli->given, option, NULL);
    if (named)
        return send_file(cli, command, named);
    char *path = file_join(cli->home, in_home);
    const int code = path && empty && file_exists(path) ? send_file(cli, command, path) : EXIT_GOOD;
    free(path);
    return code;
}

static int push_all(struct cli *cli)
{
    struct json_index ix;
    const uint64_t generation = live_generation(cli, &ix);
    const bool no_policy = generation == 0 || ix.tokens[json_get(&ix, 0, SPAN("arms"))].count == 0;
    int code = push_first(cli, "policy", "policy.push", HOME_POLICY, no_policy);
    if (code == EXIT_GOOD)
        code = push_first(cli, "directory", "teams.apply", HOME_DIRECTORY, render_u64(&ix, 0, "teams") == 0);
    return code;
}

/* Waits until this machine's node serves what is live (or, without a policy, until it listens). */
static bool wait_serving(struct cli *cli, struct part *parts)
{
    const uint64_t start = clock_ms();
    while (!stop_asked && clock_ms() - start < READY_LIMIT_MS) {
        struct json_index ix;
        char *listening = read_line(cli, "run/listen");
        const bool bound = listening != NULL && holder(cli, HOME_NODE_LOCK) != 0;
        free(listening);
        arena_reset(&cli->arena);
        const uint64_t generation = live_generation(cli, &ix);
        const uint32_t nodes = generation ? json_get(&ix, 0, SPAN("nodes")) : JSON_NONE;
        if (bound && generation == 0)
            return true;
        for (uint32_t t = nodes == JSON_NONE ? JSON_NONE : json_first(&ix, nodes); t != JSON_NONE;
             t = json_next(&ix, nodes, t)) {
            if (bound && render_u64(&ix, t, "serving.generation") >= generation &&
                render_u64(&ix, t, "serving.directory") >= render_u64(&ix, 0, "directory"))
                return true;
        }
        if (!reap(parts, false))
            return false;
        poll(NULL, 0, POLL_MS);
    }
    return false;
}

/* ---- watching ---- */

/* Takes note of ended children. False when one of the two that must run ended while starting up (restart not yet asked
 * for). */
static bool reap(struct part *parts, bool restart)
{
    bool fine = true;
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (unsigned i = 0; i < PARTS; i++) {
            struct part *part = &parts[i];
            if (part->pid != pid)
                continue;
            part->pid = 0;
            part->crashes = clock_ms() - part->started_ms > 60000 ? 1 : part->crashes + 1;
            const unsigned shift = part->crashes < 5 ? part->crashes - 1 : 4;
            part->start_at_ms = clock_ms() + ((uint64_t)RESTART_PAUSE_MS << shift);
            if (!stop_asked)
                log_warn("part.ended", LOG_STR("program", part->name), LOG_I64("pid", pid),
                         LOG_I64("status", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status)));
            if (!restart && (i == PART_CONTROL || i == PART_NODE))
                fine = false;
        }
    }
    return fine;
}

static void watch(struct cli *cli, struct part *parts)
{
    while (!stop_asked) {
        reap(parts, true);
        for (unsigned i = 0; i < PARTS && !stop_asked; i++) {
            if (parts[i].pid == 0 && clock_ms() >= parts[i].start_at_ms && holder(cli, parts[i].lock) == 0)
                start_part(&parts[i]);
        }
        poll(NULL, 0, 200);
    }
}

/* Asks the holder of a lock to stop, waits, and tells how it went. */
static bool stop_holder(const struct cli *cli, const char *name, const char *lock)
{
    const long pid = holder(cli, lock);
    const uint64_t start = clock_ms();
    if (pid <= 1)
        return true;
    kill((pid_t)pid, SIGTERM);
    while (clock_ms() - start < STOP_LIMIT_MS) {
        if (holder(cli, lock) != pid)
            return true;
        waitpid((pid_t)pid, NULL, WNOHANG); /* when it is our child; else nothing */
        poll(NULL, 0, POLL_MS);
    }
    fprintf(stderr, "fairlead: %s (pid %ld) does not stop; look at its log\n", name, pid);
    return false;
}

/* The node first, so that no request is cut; the control plane last, so that the others can say goodbye. */
static bool stop_house(const struct cli *cli)
{
    bool stopped = stop_holder(cli, "fairlead-dataplane", HOME_NODE_LOCK);
    stopped = stop_holder(cli, "fairlead-prober", HOME_PROBER_LOCK) && stopped;
    stopped = stop_holder(cli, "fairlead-pricefeed", HOME_PRICEFEED_LOCK) && stopped;
    return stop_holder(cli, "fairlead-controlplane", HOME_CONTROL_LOCK) && stopped;
}

/* ---- up ---- */

static void print_ready(const struct cli *cli)
{
    char *api = read_line(cli, "run/listen"), *operations = read_line(cli, "run/operations");
    printf("Fairlead is up. API http://%s/v1 · operations http://%s/metrics · home %s\n", api ? api : "?",
           operations ? operations : "?", cli->home);
    fflush(stdout);
    free(api);
    free(operations);
}

static int redirect_output(const struct cli *cli)
{
    char *dir = file_join(cli->home, HOME_LOG_DIR);
    char path[PATH_MAX], old[PATH_MAX];
    if (!dir || file_make_dirs(dir, 0700) != OK) {
        free(dir);
        return -1;
    }
    snprintf(path, sizeof(path), "%.*s/fairlead.log", PATH_MAX - 20, dir);
    snprintf(old, sizeof(old), "%.*s/fairlead.log.1", PATH_MAX - 20, dir);
    free(dir);
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    if (lseek(fd, 0, SEEK_END) > LOG_KEPT_BYTES && rename(path, old) == 0) {
        close(fd);
        return redirect_output(cli);
    }
    const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const bool good =
        dup2(fd, STDERR_FILENO) >= 0 && dup2(fd, STDOUT_FILENO) >= 0 && (null < 0 || dup2(null, STDIN_FILENO) >= 0);
    close(fd);
    if (null >= 0)
        close(null);
    return good ? 0 : -1;
}

/* Starts this program again in a session of its own and waits for its word: a byte on a pipe, '1' ready or '0' not. */
static int detach(struct cli *cli)
{
    char *program = cli_program("fairlead");
    char *argv[OPTS_VALUES_MAX * 2 + 8];
    char text[OPTS_VALUES_MAX][PATH_MAX / 4];
    unsigned argc = 0, texts = 0;
    int ends[2];
    pid_t pid;
    char word = '0';
    char descriptor[16];
    if (!program || pipe(ends) != 0) {
        free(program);
        return cli_fail(cli, EXIT_FAILED, "a pipe cannot be made");
    }
    argv[argc++] = program;
    argv[argc++] = (char *)"up";
    for (unsigned i = 0; i < cli->given.given_count; i++) {
        const struct opts_given *given = &cli->given.given[i];
        if (strcmp(given->opt->name, "detach") == 0)
            continue;
        snprintf(text[texts], sizeof(text[0]), "--%s%s%s", given->opt->name, given->value ? "=" : "",
                 given->value ? given->value : "");
        argv[argc++] = text[texts++];
    }
    argv[argc] = NULL;
    snprintf(descriptor, sizeof(descriptor), "%d", ends[1]);
    setenv("FAIRLEAD_READY_FD", descriptor, 1);
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    const int rc = posix_spawnp(&pid, program, &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(ends[1]);
    if (rc == 0 && read(ends[0], &word, 1) != 1)
        word = '0';
    close(ends[0]);
    free(program);
    if (rc != 0)
        return cli_fail(cli, EXIT_FAILED, "fairlead cannot be run: %s", strerror(rc));
    if (word != '1')
        return cli_fail(cli, EXIT_FAILED, "it did not come up; see %s/%s/fairlead.log", cli->home, HOME_LOG_DIR);
    print_ready(cli);
    return EXIT_GOOD;
}

/* Tells the detaching parent how it went, once. */
static void tell_parent(bool ready)
{
    const char *descriptor = getenv("FAIRLEAD_READY_FD");
    uint64_t fd;
    if (!descriptor || span_to_u64(span_cstr(descriptor), &fd) != OK || fd > INT_MAX)
        return;
    if (write((int)fd, ready ? "1" : "0", 1) != 1)
        log_warn("ready.pipe", LOG_STR("why", strerror(errno)));
    close((int)fd);
    unsetenv("FAIRLEAD_READY_FD");
}

static int bring_up(struct cli *cli, struct part *parts)
{
    for (unsigned i = 0; i < PARTS; i++) {
        if (holder(cli, parts[i].lock) != 0)
            log_info("part.running",
                     LOG_STR("program", parts[i].name)); /* left by a supervisor that died: watched by its lock */
        else if (start_part(&parts[i]) != 0)
            return cli_fail(cli, EXIT_FAILED, "%s cannot be started", parts[i].name);
        if (i == PART_CONTROL && !wait_control(cli, parts))
            return cli_fail(cli, EXIT_FAILED, "the control plane did not come up");
    }
    const int code = push_all(cli);
    if (code != EXIT_GOOD)
        return code;
    if (!wait_serving(cli, parts))
        return stop_asked ? EXIT_GOOD : cli_fail(cli, EXIT_FAILED, "the node did not begin to serve");
    return EXIT_GOOD;
}

static int supervise(struct cli *cli)
{
    struct part parts[PARTS];
    const struct sigaction action = { .sa_handler = on_stop };
    const bool detached = getenv("FAIRLEAD_READY_FD") != NULL;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (detached) {
        const char *descriptor = getenv("FAIRLEAD_READY_FD");
        uint64_t fd;
        if (span_to_u64(span_cstr(descriptor), &fd) == OK && fd <= INT_MAX)
            fcntl((int)fd, F_SETFD, FD_CLOEXEC); /* the parts must not hold the parent's pipe open */
    }
    log_setup("up", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    describe_parts(cli, parts);
    const int code = bring_up(cli, parts);
    if (code == EXIT_GOOD && !stop_asked) {
        if (detached)
            tell_parent(true);
        else
            print_ready(cli);
        watch(cli, parts);
    }
    const bool stopped = stop_house(cli);
    tell_parent(false);
    return code != EXIT_GOOD ? code : stopped ? EXIT_GOOD : EXIT_FAILED;
}

int run_up(struct cli *cli)
{
    char *run = file_join(cli->home, HOME_RUN), *lock = NULL;
    char home[PATH_MAX];
    long pid = 0;
    int fd = -1;
    enum err err = run ? file_make_dirs(run, 0700) : ERR_NOMEM;
    free(run);
    if (!err && realpath(cli->home, home)) { /* it may have been made just now */
        free(cli->home);
        cli->home = strdup(home);
    }
    lock = cli->home ? file_join(cli->home, HOME_UP_LOCK) : NULL;
    if (!err)
        err = lock ? file_lock(lock, &fd, &pid) : ERR_NOMEM;
    free(lock);
    if (err == ERR_CONFLICT) {
        const int code = push_all(cli);
        if (code == EXIT_GOOD)
            print_ready(cli);
        return code;
    }
    if (err)
        return cli_fail(cli, EXIT_FAILED, "the home %s cannot be used: %s", cli->home, err_name(err));
    if (opts_flag(&cli->given, "detach")) {
        close(fd); /* the detached one takes it */
        return detach(cli);
    }
    if (getenv("FAIRLEAD_READY_FD") && redirect_output(cli) != 0)
        return cli_fail(cli, EXIT_FAILED, "the log in %s/%s cannot be written", cli->home, HOME_LOG_DIR);
    const int code = supervise(cli);
    close(fd);
    return code;
}

/* Whoever else holds a lock in run/ belongs to this home, too: the simulated providers of the quickstart. */
static bool stop_others(const struct cli *cli)
{
    char *dir = file_join(cli->home, HOME_RUN);
    DIR *entries = dir ? opendir(dir) : NULL;
    const struct dirent *entry;
    bool stopped = true;
    free(dir);
    while (entries && (entry = readdir(entries))) {
        char lock[sizeof(HOME_RUN) + sizeof(entry->d_name)];
        if (!span_ends(span_cstr(entry->d_name), SPAN(".lock")))
            continue;
        snprintf(lock, sizeof(lock), "%s/%s", HOME_RUN, entry->d_name);
        stopped = stop_holder(cli, entry->d_name, lock) && stopped;
    }
    if (entries)
        closedir(entries);
    return stopped;
}

int run_down(struct cli *cli)
{
    const long supervisor = holder(cli, HOME_UP_LOCK);
    const bool was_up = supervisor || holder(cli, HOME_CONTROL_LOCK) || holder(cli, HOME_NODE_LOCK);
    bool stopped = stop_holder(cli, "fairlead up", HOME_UP_LOCK);
    stopped = stop_house(cli) && stopped; /* what a dead supervisor left */
    stopped = stop_others(cli) && stopped;
    if (!was_up)
        printf("nothing runs on %s\n", cli->home);
    else if (stopped)
        printf("Fairlead is down.\n");
    return stopped ? EXIT_GOOD : EXIT_FAILED;
}
