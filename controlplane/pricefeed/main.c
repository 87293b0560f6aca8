/* fairlead-pricefeed - reads a price catalog again and again, and tells the control plane what changed. */
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/opts.h"
#include "common/units.h"
#include "controlplane/pricefeed/feed.h"
#include "controlplane/pricefeed/source.h"
#include "proto/home.h"
#include <curl/curl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#define EVERY_LEAST_MS 100u  /* a feed is no load test */
#define RETRY_MS       2000u /* while the control plane cannot be reached */

static const struct opt options[] = {
    { "home", 0, OPT_TEXT, "DIR",
      "where run/ and prices.yaml are (default: $FAIRLEAD_HOME or the usual state directory)" },
    { "evidence", 0, OPT_TEXT, "ADDRESS", "the control plane's evidence link (default: ipc in the home)" },
    { "file", 0, OPT_TEXT, "PATH",
      "the catalog: LiteLLM's JSON, OpenRouter's, or ours (default: prices.yaml in the home, else the one that "
      "ships)" },
    { "url", 0, OPT_TEXT, "URL", "the catalog over http or https; redirects are not followed" },
    { "every", 0, OPT_TEXT, "TIME", "how often it is read (default: 10m)" },
    { "once", 0, OPT_FLAG, NULL, "read and tell once, and end" },
    { "check", 0, OPT_FLAG, NULL, "read the catalog, print what is in it, tell nobody, and end" },
    { "check-config", 0, OPT_FLAG, NULL, "the same as --check" },
    { "unmapped", 0, OPT_FLAG, NULL, "with --check: list the names that belong to no provider we know" },
    { "log-level", 0, OPT_TEXT, "LEVEL", "debug, info, warn or error (default: info)" },
    { "log-format", 0, OPT_TEXT, "FORMAT", "text or json (default: text)" },
    { "help", 'h', OPT_FLAG, NULL, "show this and end" },
    { "version", 0, OPT_FLAG, NULL, "show the version and end" },
};

static volatile sig_atomic_t stop;

struct program {
    struct opts_result given;
    char *home, *evidence, *lock_path, *path;
    char *name; /* of the source, for people */
    uint64_t every_ms;
    struct source source;
    int lock;
};

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static int help(void)
{
    struct buf text = BUF_INIT(1u << 16);
    enum err err = buf_append_cstr(
        &text,
        "usage: fairlead-pricefeed [options]\n\nReads a price catalog on an interval and sends the control plane what "
        "changed.\n\n");
    if (!err)
        err = opts_help(options, ARRAY_LEN(options), &text);
    if (!err)
        fwrite(buf_span(&text).ptr, 1, text.len, stdout);
    buf_release(&text);
    return err != OK;
}

/* ---- set-up ---- */

/* Installed beside us, or in the source tree that we were built in. malloc'd; NULL: nowhere. */
static char *shipped_book(void)
{
    static const char *const places[] = { "../share/fairlead/examples/prices.yaml",
                                          "../../../deploy/examples/prices.yaml", "../../deploy/examples/prices.yaml",
                                          "../deploy/examples/prices.yaml" };
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return NULL;
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (!slash)
        return NULL;
    *slash = '\0';
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        char *path = file_join(self, places[i]);
        char *real = path ? realpath(path, NULL) : NULL; /* people read it in `fairlead status` */
        free(path);
        if (real)
            return real;
    }
    return NULL;
}

static bool find_source(struct program *p)
{
    p->source = (struct source){ .stop = &stop, .url = opts_text(&p->given, "url", NULL) };
    const char *file = opts_text(&p->given, "file", NULL);
    if (p->source.url)
        return true;
    p->path = file ? strdup(file) : file_join(p->home, HOME_PRICES);
    if (!file && p->path && !file_exists(p->path)) {
        free(p->path);
        p->path = shipped_book();
    }
    p->source.path = p->path;
    return p->path;
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

static bool find_paths(struct program *p)
{
    const char *home = opts_text(&p->given, "home", NULL), *evidence = opts_text(&p->given, "evidence", NULL);
    p->home = home ? strdup(home) : file_default_home();
    if (!p->home)
        return false;
    p->evidence = evidence ? strdup(evidence) : default_address(p->home);
    p->lock_path = file_join(p->home, HOME_PRICEFEED_LOCK);
    return p->evidence && p->lock_path;
}

static bool take_lock(struct program *p)
{
    char *run = file_join(p->home, HOME_RUN);
    long pid = 0;
    enum err err = run ? file_make_dirs(run, 0700) : ERR_NOMEM;
    if (!err)
        err = file_lock(p->lock_path, &p->lock, &pid);
    if (err == ERR_CONFLICT)
        log_error("pricefeed.running", LOG_STR("lock", p->lock_path), LOG_I64("pid", pid));
    else if (err)
        log_error("pricefeed.lock", LOG_STR("lock", p->lock_path), LOG_ERR(err));
    free(run);
    return !err;
}

/* ---- --check ---- */

static int check(const struct program *p)
{
    struct buf text = BUF_INIT(CATALOG_BYTES_MAX);
    struct catalog c;
    struct arena arena;
    char why[400] = "";
    const char *bad = why;
    arena_init(&arena, CATALOG_ARENA_MAX);
    enum err err = source_read(&p->source, &text, why, sizeof why);
    if (!err)
        err = catalog_read(&arena, buf_span(&text), &c, &bad);
    if (err) {
        fprintf(stderr, "%s: %s\n", p->name, bad[0] ? bad : err_name(err));
    } else {
        printf("source     %s\nform       %s\nentries    %u\nunpriced   %u\nunmapped   %u\nrounded    %u\nbad        "
               "%u\nskipped    "
               "%u\nduplicate  %u\n",
               p->name, catalog_form_name(c.form), c.count, c.unpriced, c.unmapped.count, c.rounded, c.bad, c.skipped,
               c.duplicate);
        for (uint32_t i = 0; opts_flag(&p->given, "unmapped") && i < c.unmapped.count; i++)
            printf("unmapped " SPAN_FMT "\n", SPAN_ARG(c.unmapped.items[i]));
    }
    arena_release(&arena);
    buf_release(&text);
    return err != OK;
}

/* ---- the loop ---- */

/* One round. True: told, good or bad; false: the control plane could not be reached. */
static bool one_round(const struct program *p, struct feed *feed, const sigset_t *unblocked, bool *ret_good)
{
    struct buf text = BUF_INIT(CATALOG_BYTES_MAX);
    char why[400] = "";
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, unblocked, &blocked);
    enum err err = source_read(&p->source, &text, why, sizeof why), told;
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    bool read = !err;
    if (read)
        told = err = feed_tell(feed, buf_span(&text), why, sizeof why);
    else
        told = feed_tell_problem(feed, why[0] ? why : err_name(err));
    buf_release(&text);
    if (err && !stop)
        log_warn(read ? "prices.untold" : "prices.unread", LOG_STR("source", feed->origin), LOG_STR("why", why),
                 LOG_ERR(err));
    *ret_good = !err;
    return told != ERR_TIMEOUT && told != ERR_CLOSED && told != ERR_REFUSED && told != ERR_IO && told != ERR_NOT_FOUND;
}

/* Signals are blocked in every thread but while we sleep or download: a thread of nng must not take one that is to wake
 * us. */
static void wait_ms(uint64_t ms, const sigset_t *unblocked)
{
    struct timespec t = { .tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000 };
    if (!stop)
        (void)ppoll(NULL, 0, &t, unblocked);
}

static int run(struct program *p)
{
    struct feed feed;
    struct notify manager;
    struct sigaction action = { .sa_handler = on_signal };
    sigset_t mine, before;
    bool good = false;
    if (!take_lock(p))
        return 1;
    sigemptyset(&mine);
    sigaddset(&mine, SIGTERM);
    sigaddset(&mine, SIGINT);
    if (sigaction(SIGTERM, &action, NULL) != 0 || sigaction(SIGINT, &action, NULL) != 0 ||
        sigprocmask(SIG_BLOCK, &mine, &before) != 0)
        return 1;
    feed_init(&feed, p->evidence, p->name);
    log_info("pricefeed.started", LOG_STR("version", FAIRLEAD_VERSION), LOG_STR("source", feed.origin),
             LOG_U64("every_ms", p->every_ms));
    notify_open(&manager);
    notify_say(&manager, "READY=1\nSTATUS=reading %s", feed.origin);
    while (!stop) {
        bool reached = one_round(p, &feed, &before, &good);
        if (opts_flag(&p->given, "once"))
            break;
        wait_ms(reached || p->every_ms < RETRY_MS ? p->every_ms : RETRY_MS, &before);
    }
    notify_say(&manager, "STOPPING=1");
    notify_close(&manager);
    feed_release(&feed);
    log_info("pricefeed.ended");
    return opts_flag(&p->given, "once") && !good;
}

static int with_options(struct program *p)
{
    enum log_level level;
    enum log_format format;
    if (log_parse_level(span_cstr(opts_text(&p->given, "log-level", "info")), &level) != OK ||
        log_parse_format(span_cstr(opts_text(&p->given, "log-format", "text")), &format) != OK) {
        fprintf(stderr,
                "fairlead-pricefeed: --log-level is debug, info, warn or error; --log-format is text or json\n");
        return 2;
    }
    log_setup("pricefeed", level, format);
    if (opts_text(&p->given, "file", NULL) && opts_text(&p->given, "url", NULL)) {
        fprintf(stderr, "fairlead-pricefeed: --file or --url, not both\n");
        return 2;
    }
    if (units_parse_duration(span_cstr(opts_text(&p->given, "every", "10m")), &p->every_ms) != OK ||
        p->every_ms < EVERY_LEAST_MS) {
        fprintf(stderr, "fairlead-pricefeed: --every is a time of at least 100ms, like 10m\n");
        return 2;
    }
    if (!find_paths(p)) {
        fprintf(stderr, "fairlead-pricefeed: out of memory\n");
        return 1;
    }
    if (!find_source(p)) {
        fprintf(stderr,
                "fairlead-pricefeed: no catalog: %s/" HOME_PRICES
                " is not there and neither is the one that ships; --file says where\n",
                p->home);
        return 2;
    }
    p->name = source_name(&p->source);
    if (!p->name) {
        fprintf(stderr, "fairlead-pricefeed: out of memory\n");
        return 1;
    }
    bool checks = opts_flag(&p->given, "check") || opts_flag(&p->given, "check-config");
    return checks ? check(p) : run(p);
}

int main(int argc, char **argv)
{
    struct program p = { .lock = -1 };
    char *message = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &p.given, &message) != OK || p.given.arg_count > 0) {
        fprintf(stderr, "fairlead-pricefeed: %s\n", message ? message : "it takes no arguments, only options");
        free(message);
        return 2;
    }
    if (opts_flag(&p.given, "help"))
        return help();
    if (opts_flag(&p.given, "version")) {
        printf("fairlead-pricefeed %s\n", FAIRLEAD_VERSION);
        return 0;
    }
    if (fault_from_env() != OK || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        fprintf(stderr, "fairlead-pricefeed: FAIRLEAD_FAULT cannot be read, or libcurl cannot start\n");
        return 2;
    }
    int status = with_options(&p);
    if (p.lock >= 0)
        close(p.lock);
    free(p.home);
    free(p.evidence);
    free(p.lock_path);
    free(p.path);
    free(p.name);
    curl_global_cleanup();
    return status;
}
