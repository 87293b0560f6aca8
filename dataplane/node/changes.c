#include "dataplane/node/changes.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "dataplane/node/supervisor.h"
#include "proto/errand.h"
#include "proto/home.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define COPY_BYTES_MAX (4u << 20) /* more than the configuration's reader takes: it says what is wrong */
#define NAMED          "fairlead-dataplane "
#define ARGUMENTS_MAX  128u
#define SETTLE_LOOK_MS 20u

static const char no_file[] = "schema: fairlead/1\nkind: node\n"; /* all defaults */

struct change {
    bool upgrade;
    struct hub_peer *asker; /* NULL: nobody, or gone */
    char *program;          /* upgrade: absolute */
    uint64_t begun_ms;
    struct change *next;
};

/* ---- what who asked is told ---- */

/* Whatever is quoted. */
static void one_line(char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < ' ')
            *text = ' ';
    }
}

static void say(const struct change *change, const char *word, const char *text)
{
    char line[ERRAND_LINE_BYTES];
    if (!change->asker)
        return;
    const int n = snprintf(line, sizeof(line), "%s%s", word, text);
    if (n < 0)
        return;
    one_line(line);
    hub_answer(change->asker, span_cstr(line));
}

static void free_change(struct change *change)
{
    free(change->program);
    free(change);
}

static void on_due(uv_timer_t *timer);

static void next_one(struct changes *c)
{
    struct change *over = c->first;
    c->first = over->next;
    if (!c->first)
        c->last = NULL;
    free_change(over);
    if (!c->closed)
        c->options.events.busy(c->options.events.user, false);
    if (c->first && !c->closed)
        uv_timer_start(&c->timer, on_due, 0, 0);
}

static void over(struct changes *c, const char *failure)
{
    c->past = (struct heritage_change){ .at_ms = clock_wall_ms(),
                                        .took_ms = uv_now(c->options.loop) - c->first->begun_ms,
                                        .upgrade = c->first->upgrade,
                                        .failed = failure != NULL };
    (void)snprintf(c->past.why, sizeof(c->past.why), "%s", failure ? failure : "");
    one_line(c->past.why);
}

static void failed(struct changes *c, const char *why)
{
    over(c, why);
    log_error(c->first->upgrade ? "upgrade.failed" : "reload.failed", LOG_STR("why", why));
    say(c->first, ERRAND_FAILED, why);
    next_one(c);
}

static void done(struct changes *c)
{
    struct buf text = BUF_INIT(4096);
    struct json_writer w;
    uint64_t until_ms;
    const uint64_t now = uv_now(c->options.loop), took = now - c->first->begun_ms;
    const unsigned workers = c->options.supervisor->slot_count;
    const unsigned draining = supervisor_draining(c->options.supervisor, &until_ms);
    over(c, NULL);
    json_writer_init(&w, &text);
    json_object_open(&w);
    json_member_cstr(&w, "change", c->first->upgrade ? "upgrade" : "reload");
    json_member_u64(&w, "workers", workers);
    json_member_u64(&w, "ms", took);
    json_member_u64(&w, "draining", draining);
    json_member_i64(&w, "drain_until_ms", draining ? clock_wall_ms() + (int64_t)(until_ms - now) : 0);
    json_member_cstr(&w, "version", FAIRLEAD_VERSION);
    json_object_close(&w);
    log_info(c->first->upgrade ? "upgrade.done" : "config.reloaded", LOG_U64("workers", workers), LOG_U64("ms", took),
             LOG_U64("draining", draining));
    if (json_writer_end(&w) == OK)
        say(c->first, ERRAND_DONE, buf_cstr(&text));
    buf_release(&text);
    next_one(c);
}

/* ---- the copy ---- */

/* Who edits a line that has no effect must not wonder why. */
static void tell_outranked(const struct changes *c, const struct node_config *fresh)
{
    char text[256];
    if (!fresh->outranked)
        return;
    log_warn("config.outranked", LOG_STR("setting", fresh->outranked), LOG_STR("by", "the command line"));
    (void)snprintf(text, sizeof(text),
                   "note: `%s` of the file has no effect, as this node was started with --%s; start it without",
                   fresh->outranked, fresh->outranked);
    if (c->first)
        say(c->first, ERRAND_DOING, text);
}

/* Copies what the operator wrote, and reads the copy. */
static enum err stage(struct changes *c, struct node_config *ret, char **ret_message)
{
    const struct changes_options *o = &c->options;
    struct buf text = BUF_INIT(COPY_BYTES_MAX);
    char *file = o->file ? strdup(o->file) : node_config_path(o->config, HOME_NODE_CONFIG);
    enum err err = file ? OK : ERR_NOMEM;
    *ret_message = NULL;
    if (!err && (o->file || file_exists(file)))
        err = file_read(file, COPY_BYTES_MAX - 1, &text);
    else if (!err)
        err = buf_append_cstr(&text, no_file);
    if (!err)
        err = file_write_atomic(c->next, buf_span(&text), 0600);
    if (!err)
        err = o->read(o->read_user, c->next, ret, ret_message);
    else if (asprintf(ret_message, "%s: %s", file ? file : "", err == ERR_IO ? strerror(errno) : err_name(err)) < 0)
        *ret_message = NULL;
    free(file);
    buf_release(&text);
    return err;
}

static void put_in_force(struct changes *c)
{
    if (rename(c->next, c->copy) != 0)
        log_error("config.copy", LOG_STR("path", c->copy), LOG_STR("why", strerror(errno)));
}

enum err changes_first(struct changes *c, char **ret_message)
{
    struct node_config fresh;
    const enum err err = stage(c, &fresh, ret_message);
    if (err)
        return err;
    tell_outranked(c, &fresh);
    put_in_force(c);
    node_config_release(c->options.config);
    *c->options.config = fresh;
    return OK;
}

/* ---- reload ---- */

static void begin_reload(struct changes *c)
{
    char why[SUPERVISOR_WHY_BYTES];
    char *message = NULL;
    const enum err err = stage(c, &c->fresh, &message);
    if (err) {
        failed(c, message ? message : err_name(err));
        free(message);
        return;
    }
    tell_outranked(c, &c->fresh);
    const char *problem = c->options.events.prepare(c->options.events.user, &c->fresh);
    if (!problem && supervisor_roll(c->options.supervisor, &c->fresh, c->next, why))
        problem = why;
    if (problem) {
        node_config_release(&c->fresh);
        failed(c, problem);
        return;
    }
    c->rolls = true;
}

static void reloaded(struct changes *c)
{
    struct node_config before = *c->options.config;
    put_in_force(c);
    *c->options.config = c->fresh;
    c->fresh = (struct node_config){ .home = NULL };
    c->options.supervisor->options.config = c->options.config;
    done(c);
    c->options.events.reloaded(c->options.events.user, &before);
    node_config_release(&before);
}

/* ---- upgrade ---- */

static void on_judged(void *user, const char *said, const char *failure)
{
    struct changes *c = user;
    char why[CHECKUP_SAID_BYTES + 512];
    if (c->options.supervisor->draining) { /* who follows would begin anew what is to end */
        failed(c, "the node is stopping");
        return;
    }
    if (!failure) {
        say(c->first, ERRAND_DOING, "the new program takes over");
        c->leaving = true;
        if (c->options.events.leave(c->options.events.user)) {
            c->leaving = false;
            failed(c, "descriptors are out: nothing can be handed over");
        }
        return;
    }
    (void)snprintf(why, sizeof(why), "%.200s cannot take over: with --check-config it %s%s%.*s", c->program, failure,
                   said[0] ? ", saying: " : "", (int)CHECKUP_SAID_BYTES, said);
    failed(c, why);
}

static void on_named(void *user, const char *said, const char *failure)
{
    struct changes *c = user;
    const struct changes_options *o = &c->options;
    char why[CHECKUP_SAID_BYTES + 512], format[16];
    const char *args[ARGUMENTS_MAX] = { c->program };
    unsigned n = 1;
    if (failure || strncmp(said, NAMED, strlen(NAMED)) != 0) {
        (void)snprintf(why, sizeof(why), "%.200s is no program of ours: with --version it %s%s%.*s", c->program,
                       failure ? failure : "said", said[0] ? ": " : " nothing", (int)CHECKUP_SAID_BYTES, said);
        failed(c, why);
        return;
    }
    say(c->first, ERRAND_DOING, said);
    (void)snprintf(format, sizeof(format), "%u", HERITAGE_FORMAT);
    for (const char *const *more = o->arguments; *more && n < ARGUMENTS_MAX - 6; more++)
        args[n++] = *more;
    const char *const last[] = { "--config-copy", c->copy, "--check-config", "--heritage-format", format };
    for (size_t i = 0; i < ARRAY_LEN(last); i++)
        args[n++] = last[i];
    args[n] = NULL;
    if (checkup_start(&c->checkup, args, on_judged, c))
        failed(c, "the new program cannot be started");
}

static void begin_upgrade(struct changes *c)
{
    const char *const args[] = { c->program, "--version", NULL };
    char why[PATH_MAX + 128];
    (void)snprintf(c->program, sizeof(c->program), "%s", c->first->program);
    if (c->program[0] != '/' || access(c->program, X_OK) != 0) {
        (void)snprintf(why, sizeof(why), "%s cannot be run: %s", c->program,
                       c->program[0] != '/' ? "an absolute path is wanted" : strerror(errno));
        failed(c, why);
        return;
    }
    if (checkup_start(&c->checkup, args, on_named, c)) {
        (void)snprintf(why, sizeof(why), "%s cannot be run", c->program);
        failed(c, why);
    }
}

/* This is the new program. */
static void end_upgrade(struct changes *c)
{
    char why[SUPERVISOR_WHY_BYTES];
    if (supervisor_roll(c->options.supervisor, c->options.config, c->copy, why)) {
        failed(c, why);
        return;
    }
    c->rolls = true;
}

/* ---- one after the other ---- */

static void on_due(uv_timer_t *timer)
{
    struct changes *c = timer->data;
    if (!c->first || c->rolls || c->leaving || c->checkup.run)
        return;
    if (!c->options.supervisor->settled) { /* a killed master's workers come first */
        uv_timer_start(&c->timer, on_due, SETTLE_LOOK_MS, 0);
        return;
    }
    c->options.events.busy(c->options.events.user, true);
    if (!c->first->upgrade) {
        c->first->begun_ms = uv_now(c->options.loop);
        say(c->first, ERRAND_DOING, "the configuration is read and judged");
        begin_reload(c);
    } else if (c->first->program) {
        c->first->begun_ms = uv_now(c->options.loop);
        begin_upgrade(c);
    } else {
        end_upgrade(c);
    }
}

void changes_rolling(struct changes *c, unsigned ready, unsigned of, const char *waits)
{
    char text[256];
    if (!c->first)
        return;
    if (waits)
        (void)snprintf(text, sizeof(text), "%s", waits);
    else
        (void)snprintf(text, sizeof(text), "new worker %u of %u serves", ready, of);
    say(c->first, ERRAND_DOING, text);
}

void changes_rolled(struct changes *c, const char *failure)
{
    char why[SUPERVISOR_WHY_BYTES + 128];
    if (!c->rolls)
        return;
    c->rolls = false;
    const bool upgrade = c->first->upgrade;
    if (failure && upgrade)
        (void)snprintf(why, sizeof(why), "%s; this is the new program's master, and the workers of before serve on",
                       failure);
    if (failure && !upgrade) {
        node_config_release(&c->fresh);
        (void)unlink(c->next);
    }
    if (failure)
        failed(c, upgrade ? why : failure);
    else if (upgrade)
        done(c);
    else
        reloaded(c);
}

/* Its program NULL: the asking is over, the workers are left to be replaced. */
static struct change *add(struct changes *c, bool upgrade, struct hub_peer *asker)
{
    struct change *change = fault_calloc(1, sizeof(*change));
    if (!change)
        return NULL;
    *change = (struct change){ .upgrade = upgrade, .asker = asker };
    *(c->last ? &c->last->next : &c->first) = change;
    c->last = change;
    uv_timer_start(&c->timer, on_due, 0, 0);
    return change;
}

static bool refuse(struct hub_peer *asker, const char *why)
{
    say(&(struct change){ .asker = asker }, ERRAND_FAILED, why);
    return true;
}

bool changes_ask(struct changes *c, struct hub_peer *asker, struct span line)
{
    const struct span errand = span_skip(line, strlen(ERRAND_WORD));
    const bool upgrade = span_starts(errand, SPAN(ERRAND_UPGRADE));
    unsigned waiting = 0;
    if (!upgrade && !span_eq(errand, SPAN(ERRAND_RELOAD)))
        return false;
    for (const struct change *at = c->first; at; at = at->next)
        waiting++;
    if (c->closed || c->leaving || c->options.supervisor->draining)
        return refuse(asker, "the node is stopping, or just being replaced: ask again");
    if (waiting >= CHANGES_WAITING_MAX)
        return refuse(asker, "too many changes wait already");
    char *program = NULL;
    if (upgrade) {
        const struct span path = span_skip(errand, strlen(ERRAND_UPGRADE));
        program = span_eq(path, SPAN("-")) ? strdup(c->options.program) : strndup(path.ptr, path.len);
        if (!program)
            return refuse(asker, "memory is out");
    }
    struct change *change = add(c, upgrade, asker);
    if (!change) {
        free(program);
        return refuse(asker, "memory is out");
    }
    change->program = program;
    if (waiting)
        say(change, ERRAND_DOING, "another change is under way: this one follows it");
    return true;
}

void changes_reload(struct changes *c)
{
    if (c->closed || !add(c, false, NULL))
        log_error("reload.failed", LOG_STR("why", "memory is out"));
}

void changes_asker_gone(struct changes *c, struct hub_peer *asker)
{
    for (struct change *at = c->first; at; at = at->next) {
        if (at->asker == asker)
            at->asker = NULL;
    }
}

/* ---- start, handing over, end ---- */

enum err changes_init(struct changes *c, const struct changes_options *options)
{
    *c = (struct changes){ .options = *options };
    checkup_init(&c->checkup, options->loop);
    REQUIRE(uv_timer_init(options->loop, &c->timer) == 0);
    c->timer.data = c;
    c->copy = node_config_path(options->config, HOME_NODE_COPY);
    c->next = node_config_path(options->config, HOME_NODE_COPY ".next");
    return c->copy && c->next ? OK : ERR_NOMEM;
}

void changes_inherit(struct changes *c, struct heritage *h)
{
    c->past = h->last;
    if (!h->upgrade)
        return;
    struct hub_peer *asker = h->asker_fd >= 0 ? hub_keep_asker(&c->options.supervisor->hub, h->asker_fd) : NULL;
    h->asker_fd = -1;
    struct change *change = add(c, true, asker);
    if (!change)
        return;
    change->begun_ms = h->asked_ms;
    if (h->failure[0])
        failed(c, h->failure);
}

void changes_leave(struct changes *c, struct heritage *to)
{
    to->upgrade = c->leaving;
    to->last = c->past;
    if (c->leaving) {
        to->asked_ms = c->first->begun_ms;
        to->asker_fd = c->first->asker ? fcntl(hub_peer_fd(c->first->asker), F_DUPFD_CLOEXEC, 3) : -1;
        c->first->asker = NULL;
    }
    changes_close(c);
}

void changes_close(struct changes *c)
{
    if (c->closed || !c->options.loop)
        return;
    c->closed = true;
    for (struct change *at = c->first; at; at = at->next)
        say(at, ERRAND_FAILED, "the node was stopped or replaced before: ask again");
    while (c->first)
        next_one(c);
    if (c->rolls)
        node_config_release(&c->fresh);
    c->rolls = false;
    checkup_close(&c->checkup);
    uv_close((uv_handle_t *)&c->timer, NULL);
    free(c->copy);
    free(c->next);
    c->copy = c->next = NULL;
}
