/* fairlead-dataplane: the node's master, which starts itself again, with --worker, for each of its workers. */
#include "common/buf.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/opts.h"
#include "dataplane/node/config.h"
#include "dataplane/node/control.h"
#include "dataplane/node/decide_now.h"
#include "dataplane/node/heritage.h"
#include "dataplane/node/master.h"
#include "dataplane/node/replica.h"
#include "dataplane/node/selftest.h"
#include "dataplane/simulate/tool.h"
#include "dataplane/worker/setup.h"
#include "dataplane/worker/worker.h"
#include "proto/home.h"
#include <limits.h>
#include <unistd.h>

#define DELETED " (deleted)" /* what /proc says of a program that was replaced */

static const struct opt options[] = {
    { "home", 0, OPT_TEXT, "DIR", "state directory (default: $FAIRLEAD_HOME, else the user's state directory)" },
    { "config", 0, OPT_TEXT, "FILE", "node configuration (default: node.yaml in the home, where it exists)" },
    { "listen", 0, OPT_MANY, "ADDRESS",
      "serve the API on ADDR:PORT, unix:PATH or systemd:NAME, instead of the configuration's listeners; may repeat" },
    { "operations", 0, OPT_TEXT, "ADDR:PORT",
      "address of /metrics, /readyz and /status, instead of the configuration's" },
    { "workers", 0, OPT_TEXT, "N", "worker processes, instead of the configuration's" },
    { "control", 0, OPT_TEXT, "ADDRESS", "where tables are fetched, instead of the configuration's" },
    { "evidence", 0, OPT_TEXT, "ADDRESS", "where telemetry goes, instead of the configuration's" },
    { "pin", 0, OPT_FLAG, NULL, "keep the present table whatever the control plane says, from now on, and exit" },
    { "unpin", 0, OPT_FLAG, NULL, "follow the control plane again, from now on, and exit" },
    { "check-config", 0, OPT_FLAG, NULL, "read the configuration, say what is wrong with it, and exit" },
    { "help-config", 0, OPT_FLAG, NULL, "print every setting of the configuration with its default and limits" },
    { "log-level", 0, OPT_TEXT, "LEVEL", "debug, info, warn or error (default: info)" },
    { "log-format", 0, OPT_TEXT, "FORMAT", "text or json (default: text)" },
    { "worker", 0, OPT_FLAG, NULL, "run as a worker of a master (started by it)" },
    { "slot", 0, OPT_TEXT, "N", "the worker's slot (with --worker)" },
    { "region", 0, OPT_TEXT, "N", "the worker's region of the board (with --worker)" },
    { "config-copy", 0, OPT_TEXT, "FILE",
      "read this copy of the configuration (with --worker, or when a master replaces itself)" },
    { "heritage-format", 0, OPT_TEXT, "N",
      "fail unless this program can follow a master that leaves it its sockets and workers in this format (with "
      "--check-config)" },
    { "selftest", 0, OPT_FLAG, NULL, "judge tables on standard input (started by a master)" },
    { "simulate", 0, OPT_TEXT, "DIR",
      "decide recorded requests again by the policies in DIR and print JSON lines (started by the control plane)" },
    { "records", 0, OPT_MANY, "PATH", "a file of records, or a directory of them (with --simulate)" },
    { "since", 0, OPT_TEXT, "MS", "leave out requests before this time, in ms since 1970 (with --simulate)" },
    { "limit", 0, OPT_TEXT, "N", "only the newest N requests (with --simulate)" },
    { "decide", 0, OPT_TEXT, "DIR",
      "decide the requests on standard input by the policy in DIR and print JSON (started by `fairlead policy test`)" },
    { "explain", 0, OPT_FLAG, NULL,
      "say what would be decided for the request on standard input, and why (started by `fairlead explain`)" },
    { "version", 0, OPT_FLAG, NULL, "print the version and exit" },
    { "help", 'h', OPT_FLAG, NULL, "print this and exit" },
};

/* A number that may be left out: 0. */
static bool number_given(const struct opts_result *given, const char *name, uint64_t *ret)
{
    const char *text = opts_text(given, name, NULL);
    *ret = 0;
    return !text || span_to_u64(span_cstr(text), ret) == OK;
}

static int simulate(const struct opts_result *given)
{
    const char *records[OPTS_VALUES_MAX];
    uint64_t since, limit;
    struct simulate_tool_options tool = { .dir = opts_text(given, "simulate", NULL), .records = records };
    for (unsigned i = 0; i < given->given_count; i++)
        if (strcmp(given->given[i].opt->name, "records") == 0)
            records[tool.record_count++] = given->given[i].value;
    if (!number_given(given, "since", &since) || since > INT64_MAX || !number_given(given, "limit", &limit)) {
        fputs("fairlead-dataplane: --since and --limit take whole numbers\n", stderr);
        return 2;
    }
    tool.since_ms = (int64_t)since;
    tool.limit = limit;
    return simulate_tool(&tool);
}

static int print(enum err err, struct buf *text)
{
    if (err == OK)
        (void)fwrite(buf_span(text).ptr, 1, text->len, stdout);
    buf_release(text);
    return err == OK ? 0 : 1;
}

static int help(void)
{
    struct buf text = BUF_INIT(64u << 10);
    enum err err = buf_append_cstr(
        &text, "Usage: fairlead-dataplane [OPTIONS]\n\nServes the API on this machine: a master and its workers.\n\n");
    if (err == OK)
        err = opts_help(options, ARRAY_LEN(options), &text);
    return print(err, &text);
}

static int help_config(void)
{
    struct buf text = BUF_INIT(64u << 10);
    return print(node_config_describe(&text), &text);
}

static bool set_up_log(const struct opts_result *given)
{
    enum log_level level;
    enum log_format format;
    if (log_parse_level(span_cstr(opts_text(given, "log-level", "info")), &level) ||
        log_parse_format(span_cstr(opts_text(given, "log-format", "text")), &format))
        return false;
    if (opts_flag(given, "worker"))
        log_copy_errors(STDIN_FILENO); /* where its master reads why it did not come up */
    log_setup(opts_flag(given, "worker") ? "fairlead-worker" : "fairlead-dataplane", level, format);
    return true;
}

static bool number_below(const struct opts_result *given, const char *name, uint64_t limit, unsigned *ret)
{
    uint64_t value;
    if (span_to_u64(span_cstr(opts_text(given, name, "")), &value) || value >= limit)
        return false;
    *ret = (unsigned)value;
    return true;
}

static int run_worker(const struct opts_result *given, const struct node_config *config)
{
    struct worker_options worker = { .config = config, .listeners.count = config->listener_count };
    if (!number_below(given, "slot", NODE_WORKERS_MAX, &worker.slot) ||
        !number_below(given, "region", NODE_REGIONS_MAX, &worker.region)) {
        fputs("fairlead-dataplane: --worker is for masters, which say --slot and --region\n", stderr);
        return 2;
    }
    for (unsigned i = 0; i < worker.listeners.count; i++)
        worker.listeners.fds[i] = CONTROL_LISTENER_FD + (int)i;
    return worker_run(&worker);
}

/* Options that stand for settings of the same name. */
static enum err override_config(const struct opts_result *given, struct node_config *config, char **ret_message)
{
    static const char *const names[] = { "operations", "workers", "control", "evidence" };
    const char *listen[OPTS_VALUES_MAX];
    unsigned listen_count = 0;
    for (unsigned i = 0; i < given->given_count; i++) {
        if (strcmp(given->given[i].opt->name, "listen") == 0)
            listen[listen_count++] = given->given[i].value;
    }
    enum err err = listen_count ? node_config_listen(config, listen, listen_count, ret_message) : OK;
    for (size_t i = 0; i < ARRAY_LEN(names) && !err; i++) {
        const char *value = opts_text(given, names[i], NULL);
        if (value)
            err = node_config_set(config, names[i], value, ret_message);
    }
    return err;
}

/* What the listeners' files hold: what no worker could use is refused before one is started. */
static enum err check_listeners(const struct node_config *config, char **ret_message)
{
    enum err err = OK;
    for (unsigned i = 0; i < config->listener_count && !err; i++) {
        struct listener_setup *setup = NULL;
        err = listener_setup_load(&config->listeners[i], NULL, &setup, ret_message);
        listener_setup_unref(setup);
    }
    return err;
}

static enum err read_config(void *user, const char *copy, struct node_config *ret, char **ret_message)
{
    const struct opts_result *given = user;
    enum err err =
        node_config_load_copy(opts_text(given, "home", NULL), opts_text(given, "config", NULL), copy, ret, ret_message);
    if (!err) {
        err = override_config(given, ret, ret_message);
        if (!err && !opts_flag(given, "worker") && !opts_flag(given, "explain"))
            err = check_listeners(ret, ret_message);
        if (err)
            node_config_release(ret);
    }
    return err;
}

/* What workers must know of the command line: their listeners, and how to log. source: the configuration's file, or NULL;
 * borrowed. */
static void worker_arguments(const struct opts_result *given, const char *source, const char **args)
{
    unsigned n = 0;
    args[n++] = "--log-level";
    args[n++] = opts_text(given, "log-level", "info");
    args[n++] = "--log-format";
    args[n++] = opts_text(given, "log-format", "text");
    if (source) {
        args[n++] = "--config";
        args[n++] = source;
    }
    for (unsigned i = 0; i < given->given_count; i++) {
        if (strcmp(given->given[i].opt->name, "listen") == 0) {
            args[n++] = "--listen";
            args[n++] = given->given[i].value;
        }
    }
    args[n] = NULL;
}

/* This program's arguments for one that follows it: with the copy in force, but once. */
static void next_arguments(int argc, char *const *argv, const char *copy, const char **args)
{
    unsigned n = 0;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--config-copy") == 0 && i + 1 < argc)
            i++;
        else
            args[n++] = argv[i];
    }
    args[n++] = "--config-copy";
    args[n++] = copy;
    args[n] = NULL;
}

static int run_master(int argc, char *const *argv, struct opts_result *given, struct node_config *config)
{
    char program[PATH_MAX];
    const char *worker_args[2 * OPTS_VALUES_MAX + 8];
    const char **args = fault_calloc((size_t)argc + 3, sizeof(*args));
    char *copy = node_config_path(config, HOME_NODE_COPY);
    char *source = config->source ? strdup(config->source) : NULL; /* a reload frees the configuration's */
    const ssize_t len = readlink("/proc/self/exe", program, sizeof(program) - 1);
    int status = 1;
    if (len <= 0)
        fputs("fairlead-dataplane: /proc/self/exe cannot be read: is /proc mounted?\n", stderr);
    if (len > 0 && args && copy && (source || !config->source)) {
        const char *heritage = getenv(HERITAGE_ENV);
        char number[16] = "";
        program[len] = '\0';
        if (span_ends(span_cstr(program), SPAN(DELETED)))
            program[(size_t)len - strlen(DELETED)] = '\0';
        if (heritage)
            (void)snprintf(number, sizeof(number), "%s", heritage);
        (void)unsetenv(HERITAGE_ENV);
        worker_arguments(given, source, worker_args);
        next_arguments(argc, argv, copy, args);
        status = master_run(&(struct master_options){ .config = config,
                                                      .file = opts_text(given, "config", NULL),
                                                      .program = program,
                                                      .arguments = args,
                                                      .worker_args = worker_args,
                                                      .read = read_config,
                                                      .read_user = given,
                                                      .heritage = heritage ? number : NULL });
    }
    free(source);
    free(copy);
    free(args);
    return status;
}

static int pin(const struct node_config *config, bool pinned)
{
    char *store = node_config_path(config, HOME_NODE_STORE);
    const enum err err = store ? replica_pin(store, pinned) : ERR_NOMEM;
    if (err)
        fprintf(stderr, "fairlead-dataplane: the store %s cannot be written: %s\n", store ? store : "", err_name(err));
    else
        printf("%s: %s\n", config->home, pinned ? "pinned: the table stays as it is" : "follows its control plane");
    free(store);
    return err ? 1 : 0;
}

static int run(int argc, char *const *argv, struct opts_result *given)
{
    struct node_config config = { .home = NULL };
    char *message = NULL;
    const char *format = opts_text(given, "heritage-format", NULL);
    char ours[16];
    (void)snprintf(ours, sizeof(ours), "%u", HERITAGE_FORMAT);
    if (format && strcmp(format, ours) != 0) {
        fprintf(stderr,
                "fairlead-dataplane: a running node's sockets are handed over in format %s here, not %s: start "
                "this program anew\n",
                ours, format);
        return 2;
    }
    const enum err err = read_config(given, opts_text(given, "config-copy", NULL), &config, &message);
    if (err) {
        if (opts_flag(given, "worker"))
            log_error("config.read", LOG_STR("why", message ? message : err_name(err)));
        else
            fprintf(stderr, "fairlead-dataplane: %s\n", message ? message : err_name(err));
        free(message);
        return 2;
    }
    int status = 0;
    if (opts_flag(given, "check-config"))
        status = printf("%s: ok\n", config.source ? config.source : "defaults") < 0;
    else if (opts_flag(given, "explain"))
        status = decide_now_main(&config);
    else if (opts_flag(given, "pin") || opts_flag(given, "unpin"))
        status = pin(&config, opts_flag(given, "pin"));
    else
        status = opts_flag(given, "worker") ? run_worker(given, &config) : run_master(argc, argv, given, &config);
    node_config_release(&config);
    return status;
}

int main(int argc, char **argv)
{
    struct opts_result given;
    char *message = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) || given.arg_count > 0) {
        fprintf(stderr, "fairlead-dataplane: %s\n", message ? message : "takes no arguments; see --help");
        free(message);
        return 2;
    }
    if (opts_flag(&given, "help"))
        return help();
    if (opts_flag(&given, "version"))
        return puts("fairlead-dataplane " FAIRLEAD_VERSION) < 0;
    if (opts_flag(&given, "help-config"))
        return help_config();
    if (opts_flag(&given, "selftest"))
        return selftest_main();
    if (opts_text(&given, "simulate", NULL))
        return simulate(&given);
    if (opts_text(&given, "decide", NULL))
        return decide_tool(opts_text(&given, "decide", NULL));
    if (!set_up_log(&given) || fault_from_env()) {
        fputs("fairlead-dataplane: --log-level, --log-format or FAIRLEAD_FAULT is not understood; see "
              "--help\n",
              stderr);
        return 2;
    }
    return run(argc, argv, &given);
}
