/* up and down: the programs of one machine, started together, watched, started again when they crash, stopped together.
 */
#include "admin-cli/detach.h"
#include "admin-cli/house.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/home.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_LIMIT_MS   30000u /* a machine under load, with cold disks */
#define STOP_LIMIT_MS    45000u /* the node's drain takes up to 30 s; a supervisor stops its house in that time */
#define RESTART_PAUSE_MS 500u   /* grows to 16 times that while it keeps crashing */
#define POLL_MS          50
#define ODD_LIMIT_MS     2000u /* a node that refuses or waits for adoption is given this long, then it is told */

extern char **environ;

#define HOME_LISTEN     HOME_RUN "/listen" /* written by the node: where it listens */
#define HOME_OPERATIONS HOME_RUN "/operations"

static volatile sig_atomic_t stop_asked;

static void on_stop(UNUSED int number)
{
    stop_asked = 1;
}

long cli_holder(const struct cli *cli, const char *lock)
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

static void add_arg(struct house_part *part, const char *name, const char *value)
{
    REQUIRE(part->arg_count + 3 < HOUSE_ARGS_MAX);
    if (!value)
        return;
    part->args[part->arg_count++] = (char *)(uintptr_t)name;
    part->args[part->arg_count++] = (char *)(uintptr_t)value;
}

void house_describe(const struct cli *cli, struct house_part *parts, int output)
{
    const char *prices = opts_text(&cli->given, "prices", NULL);
    const char *listen = opts_text(&cli->given, "listen", NULL);
    const char *operations = opts_text(&cli->given, "operations", NULL);
    parts[HOUSE_CONTROL] = (struct house_part){ .name = "fairlead-controlplane", .lock = HOME_CONTROL_LOCK };
    parts[HOUSE_NODE] = (struct house_part){ .name = "fairlead-dataplane", .lock = HOME_NODE_LOCK };
    parts[HOUSE_PROBER] = (struct house_part){ .name = "fairlead-prober", .lock = HOME_PROBER_LOCK };
    parts[HOUSE_PRICEFEED] = (struct house_part){ .name = "fairlead-pricefeed", .lock = HOME_PRICEFEED_LOCK };
    for (unsigned i = 0; i < HOUSE_PARTS; i++) {
        parts[i].output = output;
        parts[i].args[parts[i].arg_count++] = (char *)(uintptr_t)parts[i].name;
        add_arg(&parts[i], "--home", cli->home);
    }
    add_arg(&parts[HOUSE_CONTROL], "--admin-group", opts_text(&cli->given, "admin-group", NULL));
    add_arg(&parts[HOUSE_NODE], "--listen", listen);
    add_arg(&parts[HOUSE_NODE], "--operations", operations);
    add_arg(&parts[HOUSE_NODE], "--workers", opts_text(&cli->given, "workers", NULL));
    if (prices)
        add_arg(&parts[HOUSE_PRICEFEED], strstr(prices, "://") ? "--url" : "--file", prices);
}

static int start_part(struct house_part *part)
{
    char *program = cli_program(part->name);
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    sigset_t none, usual;
    part->args[part->arg_count] = NULL;
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGINT);
    sigaddset(&usual, SIGTERM);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_init(&actions);
    if (part->output >= 0) {
        posix_spawn_file_actions_adddup2(&actions, part->output, 1);
        posix_spawn_file_actions_adddup2(&actions, part->output, 2);
    }
    /* A group of its own: an interrupt from the terminal reaches us alone, and we stop the house in order. */
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    const int rc = program ? posix_spawnp(&part->pid, program, &actions, &attributes, part->args, environ) : ENOMEM;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(program);
    part->started_ms = clock_ms();
    if (rc != 0) {
        part->pid = 0;
        log_error("part.start", LOG_STR("program", part->name), LOG_STR("why", strerror(rc)));
    }
    return rc;
}

/* ---- readiness ---- */

char *house_line(const struct cli *cli, const char *relative)
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

static bool reap(struct house_part *parts, bool restart);

/* The control plane's status without a word when it does not answer: it may be starting. Resets the arena. */
static bool look(struct cli *cli, struct json_index *ret)
{
    struct call call = { .command = "status" };
    const struct admin_reply *reply;
    arena_reset(&cli->arena);
    cli->quiet = true;
    const int code = call_ask(cli, &call, &reply, ret);
    cli->quiet = false;
    return code == EXIT_GOOD;
}

/* Waits until the control plane answers; false when it cannot be had in time or we are to stop. parts: NULL when they
 * are another supervisor's. */
static bool wait_control(struct cli *cli, struct house_part *parts)
{
    const uint64_t start = clock_ms();
    struct json_index ix;
    while (!stop_asked && clock_ms() - start < READY_LIMIT_MS) {
        if (look(cli, &ix))
            return true;
        if (parts && !reap(parts, false))
            return false;
        poll(NULL, 0, POLL_MS);
    }
    return false;
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
    char *path = named ? strdup(named) : file_join(cli->home, in_home);
    const int code = path && (named || (empty && file_exists(path))) ? send_file(cli, command, path) : EXIT_GOOD;
    if (code != EXIT_GOOD && !empty)
        fprintf(stderr, "fairlead: %s was not taken; what was live stays live\n", path);
    free(path);
    return code;
}

/* *ret_live: a policy was live before. */
static int push_all(struct cli *cli, bool *ret_live)
{
    struct json_index ix;
    if (!look(cli, &ix))
        return cli_fail(cli, EXIT_UNREACHABLE, "the control plane at %s does not answer", cli->address);
    const uint32_t arms = json_get(&ix, 0, SPAN("arms"));
    const bool no_teams = render_u64(&ix, 0, "teams") == 0;
    *ret_live = arms != JSON_NONE && ix.tokens[arms].count > 0;
    const int code = push_first(cli, "policy", "policy.push", HOME_POLICY, !*ret_live);
    return code == EXIT_GOOD ? push_first(cli, "directory", "teams.apply", HOME_DIRECTORY, no_teams) : code;
}

enum serving { SERVING_NOT_YET, SERVING_ODD, SERVING };

/* Whether a node serves what is live; odd: it will not by waiting alone. */
static enum serving node_serving(const struct cli *cli, const struct json_index *ix)
{
    static const struct column state = { "", "state", COLUMN_TEXT };
    const uint32_t nodes = json_get(ix, 0, SPAN("nodes"));
    enum serving best = SERVING_NOT_YET;
    for (uint32_t t = nodes == JSON_NONE ? JSON_NONE : json_first(ix, nodes); t != JSON_NONE;
         t = json_next(ix, nodes, t)) {
        const char *word = render_cell(cli, ix, t, &state);
        if (strcmp(word, "current") == 0 && render_u64(ix, t, "serving.directory") >= render_u64(ix, 0, "directory"))
            return SERVING;
        if (strcmp(word, "other epoch") == 0 || strcmp(word, "refusing") == 0 || strcmp(word, "pinned") == 0)
            best = SERVING_ODD;
    }
    return best;
}

/* Waits until this machine's node listens and serves what is live. A node that listens but cannot serve it is up all
 * the same, and told about: it serves its last good table, or can be helped only while the house runs. */
static bool wait_serving(struct cli *cli, struct house_part *parts)
{
    const uint64_t start = clock_ms();
    bool bound = false;
    while (!stop_asked && clock_ms() - start < READY_LIMIT_MS) {
        struct json_index ix;
        char *listening = house_line(cli, HOME_LISTEN);
        bound = listening != NULL && (!parts || parts[HOUSE_NODE].pid || cli_holder(cli, HOME_NODE_LOCK));
        free(listening);
        if (bound && look(cli, &ix)) {
            const enum serving serving = node_serving(cli, &ix);
            if (serving == SERVING || render_u64(&ix, 0, "generation") == 0)
                return true;
            if (serving == SERVING_ODD && clock_ms() - start > ODD_LIMIT_MS)
                break;
        }
        if (parts && !reap(parts, false))
            return false;
        poll(NULL, 0, POLL_MS);
    }
    if (bound && !stop_asked)
        fprintf(stderr, "fairlead: the node listens, but does not serve what is live; `fairlead nodes` tells why\n");
    return bound;
}

/* ---- watching ---- */

/* Takes note of ended children. False when one of the two that must run ended while starting up (restart not yet asked
 * for). */
static bool reap(struct house_part *parts, bool restart)
{
    bool fine = true;
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (unsigned i = 0; i < HOUSE_PARTS; i++) {
            struct house_part *part = &parts[i];
            if (part->pid != pid)
                continue;
            part->pid = 0;
            part->crashes = clock_ms() - part->started_ms > 60000 ? 1 : part->crashes + 1;
            const unsigned shift = part->crashes < 5 ? part->crashes - 1 : 4;
            part->start_at_ms = clock_ms() + ((uint64_t)RESTART_PAUSE_MS << shift);
            if (!stop_asked)
                log_warn("part.ended", LOG_STR("program", part->name), LOG_I64("pid", pid),
                         LOG_I64("status", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status)));
            if (!restart && (i == HOUSE_CONTROL || i == HOUSE_NODE))
                fine = false;
        }
    }
    return fine;
}

void house_watch(const struct cli *cli, struct house_part *parts)
{
    reap(parts, true);
    for (unsigned i = 0; i < HOUSE_PARTS && !stop_asked; i++) {
        if (parts[i].pid == 0 && clock_ms() >= parts[i].start_at_ms && cli_holder(cli, parts[i].lock) == 0)
            start_part(&parts[i]);
    }
}

/* True when our child has ended; *ret_fine: by itself and with 0. */
static bool child_ended(pid_t pid, bool *ret_fine)
{
    int status = 0;
    const pid_t ended = waitpid(pid, &status, WNOHANG);
    *ret_fine = ended != pid || (WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return ended == pid || (ended < 0 && errno == ECHILD);
}

/* Asks a process to stop, waits, and tells how it went. Ours is one of our children, which need not hold its lock yet;
 * another's is the holder of the lock. */
static bool stop_one(const struct cli *cli, const char *name, const char *lock, pid_t ours)
{
    const pid_t pid = ours > 0 ? ours : (pid_t)cli_holder(cli, lock);
    const uint64_t start = clock_ms();
    bool fine = true;
    if (pid <= 1)
        return true;
    kill(pid, SIGTERM);
    while (clock_ms() - start < STOP_LIMIT_MS) {
        if (ours > 0 ? child_ended(pid, &fine) : cli_holder(cli, lock) != pid) {
            if (!fine)
                fprintf(stderr, "fairlead: %s (pid %ld) did not end well; look at its log\n", name, (long)pid);
            return fine;
        }
        poll(NULL, 0, POLL_MS);
    }
    fprintf(stderr, "fairlead: %s (pid %ld) does not stop; look at its log\n", name, (long)pid);
    return false;
}

bool house_stop(const struct cli *cli, const struct house_part *parts)
{
    static const struct {
        const char *name, *lock;
        unsigned part;
    } order[] = { { "fairlead-dataplane", HOME_NODE_LOCK, HOUSE_NODE },
                  { "fairlead-prober", HOME_PROBER_LOCK, HOUSE_PROBER },
                  { "fairlead-pricefeed", HOME_PRICEFEED_LOCK, HOUSE_PRICEFEED },
                  { "fairlead-controlplane", HOME_CONTROL_LOCK, HOUSE_CONTROL } };
    bool stopped = true;
    for (size_t i = 0; i < ARRAY_LEN(order); i++)
        stopped = stop_one(cli, order[i].name, order[i].lock, parts ? parts[order[i].part].pid : 0) && stopped;
    return stopped;
}

/* ---- up ---- */

static void print_ready(struct cli *cli)
{
    char *api = house_line(cli, HOME_LISTEN), *operations = house_line(cli, HOME_OPERATIONS);
    const size_t len = api ? strcspn(api, " ") : 0; /* "127.0.0.1:8443 tls", "unix:/run/api.sock" */
    const bool local = api && strncmp(api, "unix:", 5) == 0, tls = api && strncmp(api + len, " tls", 4) == 0;
    struct json_index ix;
    printf("Fairlead is up. API %s%.*s%s · operations http://%s/metrics · home %s\n",
           local ? "at "
           : tls ? "https://"
                 : "http://",
           api ? (int)len : 1, api ? api : "?", local ? "" : "/v1", operations ? operations : "?", cli->home);
    if (look(cli, &ix) && render_u64(&ix, 0, "generation") == 0)
        printf(
            "No policy is live yet: `fairlead init` writes a first one, `fairlead policy push FILE` makes it live.\n");
    fflush(stdout);
    free(api);
    free(operations);
}

static void forget_addresses(const struct cli *cli)
{
    static const char *const names[] = { HOME_LISTEN, HOME_OPERATIONS };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = file_join(cli->home, names[i]);
        if (path)
            (void)unlink(path); /* what an earlier node left must not pass for the new one's */
        free(path);
    }
}

/* Options that only a program's start can heed. */
static void tell_unheeded(const struct cli *cli, const char *const *names, size_t count, const char *program)
{
    for (size_t i = 0; i < count; i++) {
        if (opts_text(&cli->given, names[i], NULL))
            fprintf(stderr, "fairlead: %s runs already; --%s counts only after `fairlead down`\n", program, names[i]);
    }
}

static void tell_running(const struct cli *cli, unsigned part)
{
    static const char *const of_node[] = { "listen", "operations", "workers" }, *const of_feed[] = { "prices" };
    if (part == HOUSE_NODE)
        tell_unheeded(cli, of_node, ARRAY_LEN(of_node), "the node");
    if (part == HOUSE_PRICEFEED)
        tell_unheeded(cli, of_feed, ARRAY_LEN(of_feed), "the price feed");
}

int house_bring_up(struct cli *cli, struct house_part *parts)
{
    for (unsigned i = 0; i < HOUSE_PARTS; i++) {
        if (cli_holder(cli, parts[i].lock) != 0) { /* left by a supervisor that died: watched by its lock */
            log_info("part.running", LOG_STR("program", parts[i].name));
            tell_running(cli, i);
            continue;
        }
        if (i == HOUSE_NODE)
            forget_addresses(cli);
        if (start_part(&parts[i]) != 0)
            return cli_fail(cli, EXIT_FAILED, "%s cannot be started; is it installed beside this program?",
                            parts[i].name);
        if (i == HOUSE_CONTROL && !wait_control(cli, parts))
            return stop_asked ? EXIT_GOOD : cli_fail(cli, EXIT_FAILED, "the control plane did not come up");
    }
    bool live = false;
    const int code = push_all(cli, &live);
    if (code != EXIT_GOOD &&
        !live) /* else, as after a reboot, the last good table serves, whatever was done to a file */
        return code;
    if (!wait_serving(cli, parts) && !stop_asked)
        return cli_fail(cli, EXIT_FAILED, "the node did not come up; its last words above say why");
    return EXIT_GOOD;
}

void house_take_signals(void)
{
    const struct sigaction action = { .sa_handler = on_stop };
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL); /* the terminal went */
    signal(SIGPIPE, SIG_IGN);
}

bool house_stop_asked(void)
{
    return stop_asked != 0;
}

static int supervise(struct cli *cli)
{
    struct house_part parts[HOUSE_PARTS];
    house_take_signals();
    log_setup("up", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    house_describe(cli, parts, -1);
    const int code = house_bring_up(cli, parts);
    if (code == EXIT_GOOD && !stop_asked) {
        if (!detach_tell(EXIT_GOOD))
            print_ready(cli);
        while (!stop_asked) {
            house_watch(cli, parts);
            poll(NULL, 0, 200);
        }
    }
    if (!detach_is_child() && stop_asked)
        fprintf(stderr, "fairlead: stopping; streams under way may finish\n");
    const bool stopped = house_stop(cli, parts);
    (void)detach_tell(code != EXIT_GOOD ? code : EXIT_FAILED); /* stopped before it was up */
    return code != EXIT_GOOD ? code : stopped ? EXIT_GOOD : EXIT_FAILED;
}

/* `up` where it is up: what the options name is pushed. */
static int up_again(struct cli *cli, long pid)
{
    tell_running(cli, HOUSE_NODE);
    tell_running(cli, HOUSE_PRICEFEED);
    if (!wait_control(cli, NULL))
        return cli_fail(cli, EXIT_UNREACHABLE,
                        "another `fairlead up` (pid %ld) holds %s, but its control plane does not answer", pid,
                        cli->home);
    bool live = false;
    const int code = push_all(cli, &live);
    if (code != EXIT_GOOD)
        return code;
    if (!wait_serving(cli, NULL))
        return cli_fail(cli, EXIT_FAILED, "another `fairlead up` (pid %ld) holds %s, but its node does not listen", pid,
                        cli->home);
    print_ready(cli);
    return EXIT_GOOD;
}

int house_make_home(struct cli *cli)
{
    char path[PATH_MAX];
    if (strlen(cli->home) + sizeof("/" HOME_EVIDENCE_SOCKET) > IPC_PATH_BYTES_MAX)
        return cli_fail(cli, EXIT_USAGE,
                        "the home %s is too long a name for sockets in it (at most %zu bytes); choose another --home",
                        cli->home, IPC_PATH_BYTES_MAX - sizeof("/" HOME_EVIDENCE_SOCKET));
    char *run = file_join(cli->home, HOME_RUN);
    const enum err err = run ? file_make_dirs(run, 0700) : ERR_NOMEM;
    free(run);
    if (err)
        return cli_fail(cli, EXIT_FAILED, "the home %s cannot be made: %s", cli->home, err_name(err));
    if (realpath(cli->home, path)) {
        char *home = strdup(path);
        if (!home)
            return cli_fail(cli, EXIT_FAILED, "out of memory");
        free(cli->home);
        cli->home = home;
    }
    return EXIT_GOOD;
}

enum err house_lock(const struct cli *cli, int *ret_fd, long *ret_pid)
{
    char *lock = file_join(cli->home, HOME_UP_LOCK);
    const enum err err = lock ? file_lock(lock, ret_fd, ret_pid) : ERR_NOMEM;
    free(lock);
    return err;
}

int run_up(struct cli *cli)
{
    long pid = 0;
    int fd = -1;
    int code = house_make_home(cli);
    if (code != EXIT_GOOD)
        return code;
    const enum err err = house_lock(cli, &fd, &pid);
    if (err == ERR_CONFLICT)
        return up_again(cli, pid);
    if (err)
        return cli_fail(cli, EXIT_FAILED, "the home %s cannot be used: %s", cli->home, err_name(err));
    if (opts_flag(&cli->given, "detach")) {
        close(fd); /* the detached one takes it */
        code = detach_spawn(cli);
        if (code == EXIT_GOOD)
            print_ready(cli);
        return code;
    }
    code = detach_begin(cli)
               ? supervise(cli)
               : cli_fail(cli, EXIT_FAILED, "the log in %s/%s cannot be written", cli->home, HOME_LOG_DIR);
    close(fd);
    return code;
}

static int is_lock(const struct dirent *entry)
{
    return span_ends(span_cstr(entry->d_name), SPAN(".lock"));
}

/* What else holds a lock in run/ asked to end with the house: the quickstart's simulated providers. After the house,
 * so that no request meets a dead provider. True in *ret_any when there was one. */
static bool stop_guests(const struct cli *cli, bool *ret_any)
{
    struct dirent **names = NULL;
    char *dir = file_join(cli->home, HOME_RUN);
    const int found = dir ? scandir(dir, &names, is_lock, alphasort) : -1;
    bool stopped = true;
    for (int i = 0; i < found; i++) {
        char *lock = file_join(HOME_RUN, names[i]->d_name);
        if (lock && cli_holder(cli, lock) > 1) {
            *ret_any = true;
            stopped = stop_one(cli, names[i]->d_name, lock, 0) && stopped;
        }
        free(lock);
        free(names[i]);
    }
    free(names);
    free(dir);
    return stopped;
}

static bool is_worker_of(const struct cli *cli, struct span cmdline)
{
    bool worker = false, ours = false, home_next = false;
    while (cmdline.len > 0) {
        const size_t end = span_find_byte(cmdline, '\0');
        const struct span word = end == SIZE_MAX ? cmdline : span_head(cmdline, end);
        worker = worker || span_eq(word, SPAN("--worker"));
        ours = ours || (home_next && span_eq(word, span_cstr(cli->home)));
        home_next = span_eq(word, SPAN("--home"));
        cmdline = end == SIZE_MAX ? SPAN("") : span_skip(cmdline, end + 1);
    }
    return worker && ours;
}

static int is_pid(const struct dirent *entry)
{
    return entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
}

/* Workers outlive a master that was killed, and serve on until a new one comes. When none shall come, they hold no lock
 * to be found by: only /proc knows them. They finish their streams by themselves. True when there was one. */
static bool stop_orphans(const struct cli *cli)
{
    struct dirent **names = NULL;
    const int found = scandir("/proc", &names, is_pid, NULL);
    bool any = false;
    for (int i = 0; i < found; i++) {
        struct buf cmdline = BUF_INIT(64u << 10);
        char path[64];
        snprintf(path, sizeof(path), "/proc/%.20s/cmdline", names[i]->d_name);
        if (file_read(path, 64u << 10, &cmdline) == OK && is_worker_of(cli, buf_span(&cmdline)))
            any = kill((pid_t)strtol(names[i]->d_name, NULL, 10), SIGTERM) == 0 || any;
        buf_release(&cmdline);
        free(names[i]);
    }
    free(names);
    return any;
}

int run_down(struct cli *cli)
{
    bool was_up = cli_holder(cli, HOME_UP_LOCK) || cli_holder(cli, HOME_CONTROL_LOCK) ||
                  cli_holder(cli, HOME_NODE_LOCK) || cli_holder(cli, HOME_PROBER_LOCK) ||
                  cli_holder(cli, HOME_PRICEFEED_LOCK);
    bool stopped = stop_one(cli, "fairlead up", HOME_UP_LOCK, 0);
    stopped = house_stop(cli, NULL) && stopped; /* what a dead supervisor left */
    was_up = stop_orphans(cli) || was_up;
    stopped = stop_guests(cli, &was_up) && stopped;
    if (!was_up)
        printf("nothing runs in %s\n", cli->home);
    else if (stopped)
        printf("Fairlead is down.\n");
    return stopped ? EXIT_GOOD : EXIT_FAILED;
}
