/* fairlead-prober - asks providers whether they are there, and tells the control plane. */
#include "common/buf.h"
#include "common/credentials.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include "common/opts.h"
#include "controlplane/prober/config.h"
#include "controlplane/prober/prober.h"
#include "proto/home.h"
#include <unistd.h>

static const struct opt options[] = {
    { "home", 0, OPT_TEXT, "DIR",
      "where run/ and node.yaml are (default: $FAIRLEAD_HOME or the usual state directory)" },
    { "evidence", 0, OPT_TEXT, "ADDRESS", "the control plane's evidence link (default: ipc in the home)" },
    { "config", 0, OPT_TEXT, "FILE",
      "the node's configuration, for its credentials (default: node.yaml in the home, where it exists)" },
    { "once", 0, OPT_FLAG, NULL, "probe every target once, report, and end" },
    { "check-config", 0, OPT_FLAG, NULL, "read the configuration, say what is in it, and end" },
    { "log-level", 0, OPT_TEXT, "LEVEL", "debug, info, warn or error (default: info)" },
    { "log-format", 0, OPT_TEXT, "FORMAT", "text or json (default: text)" },
    { "help", 'h', OPT_FLAG, NULL, "show this and end" },
    { "version", 0, OPT_FLAG, NULL, "show the version and end" },
};

struct program {
    struct opts_result given;
    char *home, *evidence, *config_path, *lock_path;
    struct prober_config config;
    int lock;
};

static int help(void)
{
    struct buf text = BUF_INIT(1u << 16);
    enum err err = buf_append_cstr(
        &text, "usage: fairlead-prober [options]\n\nProbes the providers of the live policy and reports to the control "
               "plane. By default nothing that costs money is asked.\n\n");
    if (!err)
        err = opts_help(options, ARRAY_LEN(options), &text);
    if (!err)
        fwrite(buf_span(&text).ptr, 1, text.len, stdout);
    buf_release(&text);
    return err != OK;
}

/* malloc'd; NULL: out of memory. */
static char *default_address(const char *home)
{
    char *socket = file_join(home, HOME_EVIDENCE_SOCKET), *address = NULL;
    if (socket && asprintf(&address, "ipc://%s", socket) < 0)
        address = NULL;
    free(socket);
    return address;
}

/* malloc'd; NULL: the home has none. */
static char *default_config(const char *home)
{
    char *path = file_join(home, HOME_NODE_CONFIG);
    if (path && file_exists(path))
        return path;
    free(path);
    return NULL;
}

static bool find_paths(struct program *p)
{
    const char *home = opts_text(&p->given, "home", NULL), *config = opts_text(&p->given, "config", NULL);
    p->home = home ? strdup(home) : file_default_home();
    if (!p->home)
        return false;
    const char *evidence = opts_text(&p->given, "evidence", NULL);
    p->evidence = evidence ? strdup(evidence) : default_address(p->home);
    p->lock_path = file_join(p->home, HOME_PROBER_LOCK);
    p->config_path = config ? strdup(config) : default_config(p->home);
    return p->evidence && p->lock_path;
}

static int check(const struct program *p)
{
    const struct credentials *c = p->config.credentials;
    printf("home %s\nevidence %s\nconfig %s\n", p->home, p->evidence, p->config_path ? p->config_path : "(none)");
    for (unsigned i = 0; i < credentials_count(c); i++) {
        struct span name = credentials_name(c, i);
        printf("credential " SPAN_FMT ": %s\n", SPAN_ARG(name),
               credentials_resolved(c, name) ? "there" : "its source has nothing");
    }
    return 0;
}

static bool take_lock(struct program *p)
{
    char *run = file_join(p->home, HOME_RUN);
    long pid = 0;
    enum err err = run ? file_make_dirs(run, 0700) : ERR_NOMEM;
    if (!err)
        err = file_lock(p->lock_path, &p->lock, &pid);
    if (err == ERR_CONFLICT)
        log_error("prober.running", LOG_STR("lock", p->lock_path), LOG_I64("pid", pid));
    else if (err)
        log_error("prober.lock", LOG_STR("lock", p->lock_path), LOG_ERR(err));
    free(run);
    return !err;
}

static int run(struct program *p)
{
    const struct prober_options o = { .address = p->evidence,
                                      .credentials = p->config.credentials,
                                      .ca_file = p->config.ca_file,
                                      .once = opts_flag(&p->given, "once") };
    if (!take_lock(p))
        return 1;
    enum err err = prober_run(&o);
    if (err)
        log_error("prober.failed", LOG_ERR(err));
    else
        log_info("prober.ended");
    return err != OK;
}

static int with_options(struct program *p)
{
    enum log_level level;
    enum log_format format;
    char *message = NULL;
    if (log_parse_level(span_cstr(opts_text(&p->given, "log-level", "info")), &level) != OK ||
        log_parse_format(span_cstr(opts_text(&p->given, "log-format", "text")), &format) != OK) {
        fprintf(stderr, "fairlead-prober: --log-level is debug, info, warn or error; --log-format is text or json\n");
        return 2;
    }
    log_setup("prober", level, format);
    if (!find_paths(p)) {
        fprintf(stderr, "fairlead-prober: out of memory\n");
        return 1;
    }
    struct prober_config config;
    enum err err = prober_config_load(p->config_path, &config, &message);
    if (err) {
        fprintf(stderr, "%s\n", message ? message : err_name(err));
        free(message);
        return 2;
    }
    p->config = config;
    return opts_flag(&p->given, "check-config") ? check(p) : run(p);
}

int main(int argc, char **argv)
{
    struct program p = { .lock = -1 };
    char *message = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &p.given, &message) != OK || p.given.arg_count > 0) {
        fprintf(stderr, "fairlead-prober: %s\n", message ? message : "it takes no arguments, only options");
        free(message);
        return 2;
    }
    if (opts_flag(&p.given, "help"))
        return help();
    if (opts_flag(&p.given, "version")) {
        printf("fairlead-prober %s\n", FAIRLEAD_VERSION);
        return 0;
    }
    if (fault_from_env() != OK) {
        fprintf(stderr, "fairlead-prober: FAIRLEAD_FAULT cannot be read\n");
        return 2;
    }
    int status = with_options(&p);
    prober_config_release(&p.config);
    if (p.lock >= 0)
        close(p.lock);
    free(p.home);
    free(p.evidence);
    free(p.config_path);
    free(p.lock_path);
    return status;
}
