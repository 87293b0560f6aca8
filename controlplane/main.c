/* fairlead-controlplane: gathers evidence, keeps policy versions, publishes tables, answers the CLI. */
#include "common/buf.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include "common/opts.h"
#include "common/units.h"
#include "controlplane/daemon.h"
#include "controlplane/evidence/recordstore.h"
#include "controlplane/tools.h"
#include <limits.h>

#define DECIDE_EVERY_MS 1000u
#define EVIDENCE_LIFETIME_MS                                                                                           \
    30000u /* long enough for a restart, short enough that a model once down is not down for ever */

static const struct opt options[] = {
    { "home", 0, OPT_TEXT, "DIR", "home directory (default: $FAIRLEAD_HOME, or the usual state directory)" },
    { "fetch", 0, OPT_TEXT, "ADDRESS", "where nodes fetch tables (default: ipc://HOME/run/fetch.ipc)" },
    { "evidence", 0, OPT_TEXT, "ADDRESS",
      "where prober, price feed and nodes report (default: ipc://HOME/run/evidence.ipc)" },
    { "admin", 0, OPT_TEXT, "ADDRESS", "where the CLI asks (default: ipc://HOME/run/admin.ipc)" },
    { "admin-group", 0, OPT_TEXT, "GROUP",
      "open the admin socket to this group; HOME/roles.yaml says who of them may do what (default: only root and the "
      "user that runs this program may ask)" },
    { "prices", 0, OPT_TEXT, "FILE", "the price book under all feeds (default: the one that ships with Fairlead)" },
    { "decide-every", 0, OPT_TEXT, "TIME", "how often weights are recomputed and published (default: 1s)" },
    { "evidence-lifetime", 0, OPT_TEXT, "TIME",
      "nodes fall back to the policy's weights after so long without news (default: 30s)" },
    { "records-bytes", 0, OPT_TEXT, "SIZE",
      "what the records of all nodes may take in the home; the oldest go (default: 2GiB)" },
    { "check-config", 0, OPT_FLAG, NULL, "check options and home, then exit" },
    { "check-policy", 0, OPT_TEXT, "FILE",
      "check a policy or directory file with its includes, print what is wrong, then exit" },
    { "bundle", 0, OPT_TEXT, "FILE", "print a policy file with its includes as one JSON bundle, then exit" },
    { "compile", 0, OPT_TEXT, "FILE",
      "compile a policy file for `fairlead-dataplane --decide`, print what is wrong, then exit" },
    { "directory", 0, OPT_TEXT, "FILE", "with --compile: the teams" },
    { "to", 0, OPT_TEXT, "DIR", "with --compile: where the compiled files go" },
    { "presets", 0, OPT_FLAG, NULL, "print the providers that Fairlead knows as JSON, then exit" },
    { "restore", 0, OPT_TEXT, "DIR", "put a backup in place of the home's store, then exit" },
    { "json", 0, OPT_FLAG, NULL, "with --check-policy: print JSON" },
    { "log-level", 0, OPT_TEXT, "LEVEL", "debug, info, warn or error (default: info)" },
    { "log-format", 0, OPT_TEXT, "FORMAT", "text or json (default: text)" },
    { "help", 'h', OPT_FLAG, NULL, "print this help" },
    { "version", 0, OPT_FLAG, NULL, "print the version" },
};

static int usage(const char *message)
{
    fprintf(stderr, "fairlead-controlplane: %s\nTry 'fairlead-controlplane --help'.\n", message);
    return 2;
}

static int help(void)
{
    struct buf out = BUF_INIT(64u << 10);
    printf("Usage: fairlead-controlplane [options]\n\n"
           "The control plane of Fairlead: keeps policy versions, gathers probes, prices and telemetry,\n"
           "recomputes weights and publishes tables to nodes. Logs to stderr; SIGTERM stops it cleanly.\n\n");
    if (opts_help(options, ARRAY_LEN(options), &out) == OK)
        fwrite(out.data + out.start, 1, out.len, stdout);
    buf_release(&out);
    return 0;
}

static bool setup_log(const struct opts_result *given)
{
    enum log_level level;
    enum log_format format;
    if (log_parse_level(span_cstr(opts_text(given, "log-level", "info")), &level) ||
        log_parse_format(span_cstr(opts_text(given, "log-format", "text")), &format))
        return false;
    log_setup("controlplane", level, format);
    return true;
}

static bool duration(const struct opts_result *given, const char *name, uint32_t otherwise_ms, uint32_t *ret_ms)
{
    const char *text = opts_text(given, name, NULL);
    uint64_t ms = otherwise_ms;
    if (text && (units_parse_duration(span_cstr(text), &ms) || ms < 10 || ms > 24u * 3600 * 1000))
        return false;
    *ret_ms = (uint32_t)ms;
    return true;
}

/* Absolute home in malloc'd memory; made when missing. */
static char *find_home(const char *given)
{
    char path[PATH_MAX];
    char *home = given ? strdup(given) : file_default_home();
    if (!home || file_make_dirs(home, 0700) != OK || !realpath(home, path)) {
        fprintf(stderr, "fairlead-controlplane: the home %s cannot be made or used\n", home ? home : "");
        free(home);
        return NULL;
    }
    free(home);
    return strdup(path);
}

static int run(const struct opts_result *given)
{
    struct daemon_options o = { .fetch_address = opts_text(given, "fetch", NULL),
                                .evidence_address = opts_text(given, "evidence", NULL),
                                .admin_address = opts_text(given, "admin", NULL),
                                .admin_group = opts_text(given, "admin-group", NULL),
                                .prices_file = opts_text(given, "prices", NULL) };
    if (!duration(given, "decide-every", DECIDE_EVERY_MS, &o.decide_every_ms))
        return usage("--decide-every: a duration of 10ms to 24h, such as 1s");
    if (!duration(given, "evidence-lifetime", EVIDENCE_LIFETIME_MS, &o.evidence_lifetime_ms))
        return usage("--evidence-lifetime: a duration of 10ms to 24h, such as 30s");
    o.records_bytes = RECORDSTORE_BYTES_DEFAULT;
    const char *bytes = opts_text(given, "records-bytes", NULL);
    if (bytes && (units_parse_bytes(span_cstr(bytes), &o.records_bytes) || o.records_bytes < RECORDSTORE_BYTES_LEAST))
        return usage("--records-bytes: a size of 4MiB or more, such as 2GiB");
    char *home = find_home(opts_text(given, "home", NULL));
    if (!home)
        return 1;
    o.home = home;
    int status;
    if (opts_text(given, "restore", NULL))
        status = tool_restore(home, opts_text(given, "restore", NULL));
    else if (opts_flag(given, "check-config"))
        status = printf("good: home %s\n", home) < 0;
    else
        status = daemon_run(&o);
    free(home);
    return status;
}

int main(int argc, char **argv)
{
    struct opts_result given;
    char *message = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) != OK) {
        const int status = usage(message ? message : "out of memory");
        free(message);
        return status;
    }
    if (opts_flag(&given, "help"))
        return help();
    if (opts_flag(&given, "version"))
        return printf("fairlead-controlplane %s\n", FAIRLEAD_VERSION) < 0;
    if (given.arg_count > 0)
        return usage("it takes options only");
    if (!setup_log(&given))
        return usage("--log-level is one of debug, info, warn, error; --log-format one of text, json");
    if (fault_from_env() != OK)
        return usage("FAIRLEAD_FAULT is malformed");
    if (opts_text(&given, "check-policy", NULL))
        return tool_check(opts_text(&given, "check-policy", NULL), opts_text(&given, "prices", NULL),
                          opts_flag(&given, "json"));
    if (opts_text(&given, "bundle", NULL))
        return tool_bundle(opts_text(&given, "bundle", NULL));
    if (opts_text(&given, "compile", NULL) && opts_text(&given, "to", NULL))
        return tool_compile(opts_text(&given, "compile", NULL), opts_text(&given, "directory", NULL),
                            opts_text(&given, "to", NULL), opts_text(&given, "prices", NULL));
    if (opts_flag(&given, "presets"))
        return tool_presets();
    return run(&given);
}
