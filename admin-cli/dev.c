/* dev: a Fairlead of one's own in the foreground: a policy file that is pushed whenever it is saved, a key, and one line
 * for each request. Everything lies in .fairlead beside the policy. */
#include "admin-cli/house.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/home.h"
#include "proto/limits.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#define TURN_MS      100  /* between looks at files, records and programs */
#define QUIET_MS     150u /* editors write, rename and touch: pushed when that long nothing happened */
#define KEY_FILE     "dev.key"
#define LOG_FILE     HOME_LOG_DIR "/fairlead.log"
#define RECORD_BYTES (1u << 20) /* of one turn */
#define DEV_TEAM     "dev"

struct dev {
    struct cli *cli;
    char *policy, *dir; /* absolute: the file, and where it lies */
    struct house_part parts[HOUSE_PARTS];
    int log, watch;    /* descriptors */
    uint64_t saved_ms; /* of the last event; 0: none since the last push */
    char segment[256]; /* of the records: the one that is read, and how far */
    uint64_t offset;
    struct buf partial; /* a line whose end has not come */
};

/* ---- the files of a first start ---- */

static int write_text(struct cli *cli, const char *dir, const char *name, const char *text)
{
    char *path = file_join(dir, name);
    const enum err err = path ? file_write_atomic(path, span_cstr(text), 0600) : ERR_NOMEM;
    const int code =
        err ? cli_fail(cli, EXIT_FAILED, "%s/%s cannot be written: %s", dir, name, err_name(err)) : EXIT_GOOD;
    free(path);
    return code;
}

static bool in_home(const struct cli *cli, const char *name)
{
    char *path = file_join(cli->home, name);
    const bool there = path && file_exists(path);
    free(path);
    return there;
}

static enum err copy_file(const char *from_dir, const char *to_dir, const char *name)
{
    struct buf text = BUF_INIT(4u << 20);
    char *from = file_join(from_dir, name), *to = file_join(to_dir, name);
    enum err err = from && to ? file_read(from, 4u << 20, &text) : ERR_NOMEM;
    if (!err)
        err = file_write_atomic(to, buf_span(&text), 0600);
    buf_release(&text);
    free(from);
    free(to);
    return err;
}

/* The node's configuration: the one beside the policy, else what init finds, else an empty one. */
static int make_node_config(struct dev *dev)
{
    struct cli *cli = dev->cli;
    const enum err err = copy_file(dev->dir, cli->home, HOME_NODE_CONFIG);
    if (!err)
        return EXIT_GOOD;
    if (err != ERR_NOT_FOUND)
        return cli_fail(cli, EXIT_FAILED, "%s/" HOME_NODE_CONFIG " cannot be taken: %s", dev->dir, err_name(err));
    if (in_home(cli, HOME_NODE_CONFIG))
        return EXIT_GOOD;
    cli->quiet = true;
    const int code = init_files(cli);
    cli->quiet = false;
    return code == EXIT_GOOD ? code : write_text(cli, cli->home, HOME_NODE_CONFIG, "schema: fairlead/1\nkind: node\n");
}

/* No policy yet: one is offered, made of what is found. */
static int offer_policy(struct dev *dev)
{
    struct cli *cli = dev->cli;
    if (!cli_confirm(cli,
                     "There is no %s. Write one from what is found here (provider keys in the environment, model "
                     "servers on this machine)?",
                     dev->policy))
        return cli_fail(cli, EXIT_NOT_FOUND,
                        "no policy; deploy/examples shows some, `fairlead dev FILE` names another");
    int code = init_files(cli);
    if (code != EXIT_GOOD)
        return code;
    char *made = file_join(cli->home, HOME_POLICY);
    struct buf text = BUF_INIT(4u << 20);
    enum err err = made ? file_read(made, 4u << 20, &text) : ERR_NOMEM;
    if (!err)
        err = file_write_atomic(dev->policy, buf_span(&text), 0644);
    if (err)
        code = cli_fail(cli, EXIT_FAILED, "%s cannot be written: %s", dev->policy, err_name(err));
    buf_release(&text);
    free(made);
    return code;
}

static int make_files(struct dev *dev)
{
    struct cli *cli = dev->cli;
    char *stale = file_join(cli->home, HOME_POLICY);
    int code = file_exists(dev->policy) ? EXIT_GOOD : offer_policy(dev);
    if (code == EXIT_GOOD)
        code = make_node_config(dev);
    if (code == EXIT_GOOD)
        code = write_text(cli, cli->home, HOME_DIRECTORY,
                          "schema: fairlead/1\nkind: directory\nteams:\n  " DEV_TEAM
                          ": {routes: [\"*\"], models: [\"*/*\"], may: [choose_arm, explain]}\n");
    if (code == EXIT_GOOD)
        code = write_text(cli, cli->home, ".gitignore", "*\n");
    if (stale)
        (void)unlink(stale); /* init's, if any: what is pushed is the developer's file */
    free(stale);
    return code;
}

/* ---- pushing ---- */

/* Pushes the file as it is; what is wrong with it was printed, and the policy before it stays. */
static bool push(struct dev *dev)
{
    struct cli *cli = dev->cli;
    struct call call = { .command = "policy.push", .is_change = true };
    const struct admin_reply *reply;
    struct buf bundle = BUF_INIT(PUSH_BYTES_MAX);
    arena_reset(&cli->arena);
    int code = cli_bundle(cli, dev->policy, &bundle);
    call_arg(&call, "bundle", buf_span(&bundle));
    call_arg_cstr(&call, "message", "fairlead dev");
    call_arg_cstr(&call, "now", "true"); /* whatever steps the policy asks for */
    call_arg_cstr(&call, "again", "true");
    if (code == EXIT_GOOD)
        code = call_send(cli, &call, &reply);
    buf_release(&bundle);
    if (code == EXIT_GOOD)
        printf("policy  " SPAN_FMT "\n", SPAN_ARG(reply->message));
    else
        printf("policy  not taken; what was live stays live\n");
    fflush(stdout);
    return code == EXIT_GOOD;
}

/* Saved in the folder: the policy, or what it may include. */
static void hear_saves(struct dev *dev)
{
    char events[8192] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n;
    while ((n = read(dev->watch, events, sizeof(events))) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *event = (const struct inotify_event *)(const void *)(events + at);
            const struct span name = span_cstr(event->len ? event->name : "");
            const char *base = strrchr(dev->policy, '/') + 1;
            if (span_eq(name, span_cstr(base)) || span_ends(name, SPAN(".yaml")) || span_ends(name, SPAN(".yml")))
                dev->saved_ms = clock_ms();
            at += (ssize_t)(sizeof(*event) + event->len);
        }
    }
}

static int begin_watching(struct dev *dev)
{
    dev->watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (dev->watch < 0 || inotify_add_watch(dev->watch, dev->dir, IN_CLOSE_WRITE | IN_MOVED_TO) < 0)
        return cli_fail(dev->cli, EXIT_FAILED, "%s cannot be watched: %s", dev->dir, strerror(errno));
    return EXIT_GOOD;
}

/* ---- the key ---- */

/* True when the key of an earlier start still stands in the control plane's list. */
static bool key_known(struct dev *dev, struct span id)
{
    struct cli *cli = dev->cli;
    struct call call = { .command = "keys.list" };
    const struct admin_reply *reply;
    struct json_index ix;
    arena_reset(&cli->arena);
    if (call_ask(cli, &call, &reply, &ix) != EXIT_GOOD)
        return false;
    for (uint32_t t = json_first(&ix, 0); t != JSON_NONE; t = json_next(&ix, 0, t)) {
        struct span text;
        const uint32_t token = json_get(&ix, t, SPAN("id"));
        if (token != JSON_NONE && json_string(&cli->arena, &ix, token, &text) == OK && span_eq(text, id))
            return true;
    }
    return false;
}

static int make_key(struct dev *dev, const char *path)
{
    struct cli *cli = dev->cli;
    struct call call = { .command = "keys.create", .is_change = true };
    struct key_secret secret;
    const struct admin_reply *reply;
    struct json_index ix;
    struct span id = SPAN("");
    arena_reset(&cli->arena);
    call_arg_cstr(&call, "team", DEV_TEAM);
    key_secret_make(&secret, &call);
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    const uint32_t token = json_get(&ix, 0, SPAN("id"));
    if (token != JSON_NONE && json_string(&cli->arena, &ix, token, &id) != OK)
        id = SPAN("");
    const char *text = arena_printf(&cli->arena, SPAN_FMT " %s\n", SPAN_ARG(id), secret.text);
    const enum err err = text ? file_write_atomic(path, span_cstr(text), 0600) : ERR_NOMEM;
    if (err)
        return cli_fail(cli, EXIT_FAILED, "%s cannot be written: %s", path, err_name(err));
    printf("key     %s (kept in %s; shown this once)\n", secret.text, path);
    return EXIT_GOOD;
}

static int find_key(struct dev *dev)
{
    char *path = file_join(dev->cli->home, KEY_FILE), *line = house_line(dev->cli, KEY_FILE);
    const size_t end = line ? strcspn(line, " ") : 0;
    int code = path ? EXIT_GOOD : cli_fail(dev->cli, EXIT_FAILED, "out of memory");
    if (code == EXIT_GOOD && end && key_known(dev, span_of(line, end)))
        printf("key     %.*s, in %s\n", (int)end, line, path);
    else if (code == EXIT_GOOD)
        code = make_key(dev, path);
    free(path);
    free(line);
    return code;
}

/* ---- requests, a line each ---- */

static const char *cell(struct dev *dev, const struct json_index *ix, const char *path, enum column_kind kind)
{
    const struct column column = { "", path, kind };
    return render_cell(dev->cli, ix, 0, &column);
}

static void print_request(struct dev *dev, struct span line)
{
    struct json_index ix;
    arena_reset(&dev->cli->arena);
    if (json_index(&dev->cli->arena, line, &json_limits_default, &ix, NULL) != OK ||
        json_get(&ix, 0, SPAN("kind")) != JSON_NONE)
        return; /* shadows and feedback are no requests */
    const char *time = cell(dev, &ix, "time", COLUMN_TEXT), *error = cell(dev, &ix, "error", COLUMN_TEXT);
    const uint32_t attempts = json_get(&ix, 0, SPAN("attempts"));
    const unsigned tries = attempts == JSON_NONE ? 0 : ix.tokens[attempts].count;
    printf("%.8s  %s  %s -> %s  %s%s%s  ", strlen(time) > 19 ? time + 11 : time,
           cell(dev, &ix, "status", COLUMN_NUMBER), cell(dev, &ix, "asked", COLUMN_TEXT),
           cell(dev, &ix, "model", COLUMN_TEXT), cell(dev, &ix, "outcome", COLUMN_TEXT),
           strcmp(error, "-") == 0 ? "" : ": ", strcmp(error, "-") == 0 ? "" : error);
    if (render_u64(&ix, 0, "ttft_us"))
        printf("first %s, ", cell(dev, &ix, "ttft_us", COLUMN_US));
    printf("all %s", cell(dev, &ix, "total_us", COLUMN_US));
    if (render_path(&ix, 0, "usage.output") != JSON_NONE)
        printf("  %s+%s tokens  $%s", cell(dev, &ix, "usage.input", COLUMN_NUMBER),
               cell(dev, &ix, "usage.output", COLUMN_NUMBER), cell(dev, &ix, "cost_nano_usd", COLUMN_NANO_USD));
    if (tries > 1)
        printf("  %u attempts", tries);
    printf("  %s\n", cell(dev, &ix, "request_id", COLUMN_TEXT));
}

static int is_segment(const struct dirent *entry)
{
    return span_starts(span_cstr(entry->d_name), SPAN("records-"));
}

/* The segment after the one that is read ("": the newest, to begin with); false when there is none. */
static bool next_segment(struct dev *dev, bool newest, char *name, size_t room)
{
    struct dirent **names = NULL;
    char *dir = file_join(dev->cli->home, HOME_RECORDS);
    const int found = dir ? scandir(dir, &names, is_segment, alphasort) : -1;
    bool any = false;
    for (int i = 0; i < found; i++) {
        if ((newest || !any) && strcmp(names[i]->d_name, dev->segment) > 0)
            any = snprintf(name, room, "%s", names[i]->d_name) < (int)room;
        free(names[i]);
    }
    free(names);
    free(dir);
    return any;
}

/* Appends what has been written beyond the offset; how much. */
static size_t read_on(struct dev *dev)
{
    char path[PATH_MAX];
    char *at;
    snprintf(path, sizeof(path), "%s/" HOME_RECORDS "/%s", dev->cli->home, dev->segment);
    const int fd = *dev->segment ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = -1;
    if (fd >= 0 && buf_reserve(&dev->partial, RECORD_BYTES, &at) == OK) {
        n = pread(fd, at, RECORD_BYTES, (off_t)dev->offset);
        if (n > 0)
            buf_commit(&dev->partial, (size_t)n);
    }
    if (fd >= 0)
        close(fd);
    dev->offset += n > 0 ? (uint64_t)n : 0;
    return n > 0 ? (size_t)n : 0;
}

static void print_requests(struct dev *dev)
{
    char next[sizeof(dev->segment)];
    size_t end;
    if (read_on(dev) == 0 && next_segment(dev, false, next, sizeof(next))) {
        snprintf(dev->segment, sizeof(dev->segment), "%s", next);
        dev->offset = 0;
        buf_clear(&dev->partial); /* a torn line of a node that was killed */
        (void)read_on(dev);
    }
    while ((end = span_find_byte(buf_span(&dev->partial), '\n')) != SIZE_MAX) {
        print_request(dev, span_head(buf_span(&dev->partial), end));
        buf_consume(&dev->partial, end + 1);
    }
    fflush(stdout);
}

/* What was recorded before is not shown again. */
static void skip_old_records(struct dev *dev)
{
    char name[sizeof(dev->segment)];
    if (!next_segment(dev, true, name, sizeof(name)))
        return;
    snprintf(dev->segment, sizeof(dev->segment), "%s", name);
    while (read_on(dev) > 0)
        buf_clear(&dev->partial);
}

/* ---- all of it ---- */

static void print_ready(struct dev *dev)
{
    char *api = house_line(dev->cli, HOME_RUN "/listen");
    printf("API     http://%.*s/v1\nlogs    %s/" LOG_FILE "\nwatch   %s; Ctrl-C ends it\n",
           api ? (int)strcspn(api, " ") : 1, api ? api : "?", dev->cli->home, dev->policy);
    fflush(stdout);
    free(api);
}

static void live(struct dev *dev)
{
    while (!house_stop_asked()) {
        struct pollfd saves = { .fd = dev->watch, .events = POLLIN };
        poll(&saves, 1, TURN_MS);
        hear_saves(dev);
        if (dev->saved_ms && clock_ms() - dev->saved_ms >= QUIET_MS) {
            dev->saved_ms = 0;
            (void)push(dev);
        }
        print_requests(dev);
        house_watch(dev->cli, dev->parts);
    }
}

static int open_log(struct dev *dev)
{
    char *dir = file_join(dev->cli->home, HOME_LOG_DIR), *path = file_join(dev->cli->home, LOG_FILE);
    const enum err err = dir && path ? file_make_dirs(dir, 0700) : ERR_NOMEM;
    dev->log = err ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    free(dir);
    free(path);
    return dev->log >= 0 ? EXIT_GOOD
                         : cli_fail(dev->cli, EXIT_FAILED, "the log cannot be written: %s", strerror(errno));
}

static int run_house(struct dev *dev)
{
    struct cli *cli = dev->cli;
    house_take_signals();
    log_setup("dev", LOG_LEVEL_WARN, LOG_FORMAT_TEXT);
    house_describe(cli, dev->parts, dev->log);
    skip_old_records(dev);
    int code = house_bring_up(cli, dev->parts);
    if (code != EXIT_GOOD)
        fprintf(stderr, "fairlead: what its programs said stands in %s/" LOG_FILE "\n", cli->home);
    if (code == EXIT_GOOD && !house_stop_asked())
        (void)push(dev); /* a bad file is mended while we watch */
    if (code == EXIT_GOOD && !house_stop_asked())
        code = find_key(dev);
    if (code == EXIT_GOOD && !house_stop_asked()) {
        print_ready(dev);
        live(dev);
    }
    if (house_stop_asked())
        fprintf(stderr, "\nfairlead: stopping\n");
    return house_stop(cli, dev->parts) || code != EXIT_GOOD ? code : EXIT_FAILED;
}

/* The file's full name, and beside it the home, where --home names none. */
static int find_places(struct dev *dev)
{
    struct cli *cli = dev->cli;
    const char *file = cli_arg(cli, 0) ? cli_arg(cli, 0) : HOME_POLICY;
    const char *slash = strrchr(file, '/');
    char dir[PATH_MAX], *wanted = slash ? strndup(file, (size_t)(slash - file) + 1) : strdup(".");
    if (!wanted || !realpath(wanted, dir)) {
        free(wanted);
        return cli_fail(cli, EXIT_NOT_FOUND, "%s: %s", file, strerror(errno));
    }
    free(wanted);
    dev->dir = strdup(dir);
    dev->policy = file_join(dir, slash ? slash + 1 : file);
    if (!dev->dir || !dev->policy)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    return EXIT_GOOD;
}

static int use_home(struct dev *dev)
{
    struct cli *cli = dev->cli;
    if (!opts_text(&cli->given, "home", NULL)) {
        free(cli->home);
        cli->home = file_join(dev->dir, ".fairlead");
    }
    const int code = cli->home ? house_make_home(cli) : cli_fail(cli, EXIT_FAILED, "out of memory");
    if (code != EXIT_GOOD)
        return code;
    free(cli->address);
    if (asprintf(&cli->address, "ipc://%s/" HOME_ADMIN_SOCKET, cli->home) < 0)
        cli->address = NULL;
    cli->context = (struct context){ 0 }; /* a house of its own, whatever context is in use */
    return cli->address ? EXIT_GOOD : cli_fail(cli, EXIT_FAILED, "out of memory");
}

int run_dev(struct cli *cli)
{
    struct dev dev = { .cli = cli, .log = -1, .watch = -1, .partial = BUF_INIT(2 * RECORD_BYTES) };
    long pid = 0;
    int lock = -1;
    int code = find_places(&dev);
    if (code == EXIT_GOOD)
        code = use_home(&dev);
    const enum err err = code == EXIT_GOOD ? house_lock(cli, &lock, &pid) : OK;
    if (err == ERR_CONFLICT)
        code = cli_fail(cli, EXIT_CONFLICT, "another one (pid %ld) runs in %s", pid, cli->home);
    else if (err)
        code = cli_fail(cli, EXIT_FAILED, "the home %s cannot be used: %s", cli->home, err_name(err));
    if (code == EXIT_GOOD)
        code = make_files(&dev);
    if (code == EXIT_GOOD)
        code = begin_watching(&dev); /* before the first push: no save is missed */
    if (code == EXIT_GOOD)
        code = open_log(&dev);
    if (code == EXIT_GOOD)
        code = run_house(&dev);
    const int open_ones[] = { lock, dev.log, dev.watch };
    for (size_t i = 0; i < ARRAY_LEN(open_ones); i++) {
        if (open_ones[i] >= 0)
            close(open_ones[i]);
    }
    buf_release(&dev.partial);
    free(dev.policy);
    free(dev.dir);
    return code;
}
