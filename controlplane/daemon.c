#include "controlplane/daemon.h"
#include "controlplane/daemon_internal.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include "controlplane/admin/roles.h"
#include "controlplane/evidence/recordstore.h"
#include "controlplane/jobs/simulations.h"
#include "controlplane/journal/journal.h"
#include "proto/home.h"
#include "proto/snapshot.h"
#include <signal.h>
#include <unistd.h>

#define TICK_MS          50u /* how soon a significant change is published, and how exactly polls time out */
#define READER_CHECK_MS  60000u
#define REPLAY_ARENA_MAX ((size_t)1 << 20) /* of one record */

/* ---- rooms ---- */

/* Tables are published without records, too. */
static enum err open_records(struct daemon *d)
{
    char *dir = file_join(d->options->home, HOME_CONTROL_RECORDS);
    const enum err err = dir ? recordstore_open(dir, d->options->records_bytes, &d->records) : ERR_NOMEM;
    if (err)
        log_error("recordstore.open", LOG_STR("directory", dir ? dir : ""), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_CORRUPT ? "move its newest file away: nodes ship again what they have"
                                                     : "nodes keep their records"));
    free(dir);
    return err == ERR_NOMEM ? err : OK;
}

struct replay {
    struct pilot *pilot;
    struct arena scratch;
    uint64_t unreadable;
};

static enum err replay_line(void *user, struct span line)
{
    struct replay *r = user;
    struct record record;
    arena_reset(&r->scratch);
    if (record_read(&r->scratch, line, &record) == OK)
        pilot_taken(r->pilot, &record);
    else
        r->unreadable++;
    return OK;
}

/* What was measured before a restart is read again; from here on records come as nodes ship them. Without it the pilot
 * would judge on what comes, so a failure only costs time. */
static enum err open_pilot(struct daemon *d)
{
    enum err err = pilot_new(d->versions, &d->pilot);
    if (err)
        return err;
    daemon_follow_pilot(d);
    const int64_t since_ms = pilot_since(d->pilot);
    if (d->records && since_ms != INT64_MAX) {
        struct replay replay = { .pilot = d->pilot };
        arena_init(&replay.scratch, REPLAY_ARENA_MAX);
        err = recordstore_each(d->records, since_ms, replay_line, &replay);
        arena_release(&replay.scratch);
        if (err || replay.unreadable)
            log_warn("rollout.replay", LOG_ERR(err), LOG_U64("unreadable", replay.unreadable));
    }
    if (d->records)
        recordstore_listen(d->records, pilot_taken, d->pilot);
    return OK;
}

/* Its rooms tell it what they notice. */
static enum err open_journal(struct daemon *d)
{
    char *path = file_join(d->options->home, HOME_CONTROL_EVENTS);
    char *dir = path ? strndup(path, (size_t)(strrchr(path, '/') - path)) : NULL;
    enum err err = dir ? file_make_dirs(dir, 0700) : ERR_NOMEM;
    if (err && err != ERR_NOMEM)
        log_warn("journal.directory", LOG_STR("path", dir), LOG_ERR(err));
    if (err != ERR_NOMEM)
        err = journal_open(path, &d->journal);
    free(dir);
    free(path);
    if (err)
        return err;
    const struct event_sink *sink = journal_sink(d->journal);
    evidence_tell(d->learned, sink);
    nodes_tell(d->nodes, sink);
    event_tell(sink, clock_wall_ms(),
               &(struct event){ .kind = "control",
                                .where = SPAN("control plane"),
                                .what = SPAN("started"),
                                .why = SPAN(FAIRLEAD_VERSION) });
    return OK;
}

static enum err open_rooms(struct daemon *d)
{
    char *store = file_join(d->options->home, HOME_CONTROL_STORE);
    if (!store)
        return ERR_NOMEM;
    enum err err = file_make_dirs(store, 0700);
    if (!err)
        err = versions_open(store, &d->versions);
    if (err)
        log_error("store.open", LOG_STR("path", store), LOG_ERR(err));
    free(store);
    if (!err)
        err = evidence_state_new(&d->learned);
    if (!err)
        err = nodes_new(&d->nodes);
    if (!err)
        err = open_journal(d);
    if (!err)
        err = publisher_new(d->versions, d->nodes, daemon_reply_fetch, d, &d->publisher);
    if (!err) {
        d->roles_path = file_join(d->options->home, HOME_ROLES);
        err = d->roles_path ? roles_new(d->roles_path, &d->roles) : ERR_NOMEM;
    }
    if (!err)
        err = open_records(d);
    if (!err)
        err = open_pilot(d);
    return err ? err : daemon_evidence_load(d);
}

/* Without them everything else still works. */
static void open_simulations(struct daemon *d)
{
    const struct simulations_options options = { .loop = &d->loop, .home = d->options->home };
    const enum err err = simulations_new(&options, &d->simulations);
    if (err)
        log_error("simulations.open", LOG_ERR(err));
}

static void close_rooms(struct daemon *d)
{
    roles_free(d->roles);
    free(d->roles_path);
    nodes_free(d->nodes);
    journal_close(d->journal);
    recordstore_close(d->records);
    pilot_free(d->pilot);
    evidence_state_free(d->learned);
    versions_close(d->versions);
}

/* ---- the loop ---- */

static void on_wake(uv_async_t *async)
{
    daemon_links_dispatch(async->data);
}

static void on_tick(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    const int64_t now_ms = clock_wall_ms();
    if (pilot_tick(d->pilot, now_ms))
        daemon_changed(d);
    const bool due = now_ms - d->decided_at_ms >= (int64_t)d->options->decide_every_ms || now_ms < d->decided_at_ms;
    if (d->decide_now || due || (evidence_significant(d->learned) && !d->decide_failed))
        daemon_decide(d, now_ms);
    if (due && d->pilot_lost)
        daemon_follow_pilot(d);
    publisher_tick(d->publisher, clock_ms());
    notify_alive(&d->manager, clock_ms());
}

static void on_readers(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    const unsigned freed = snapshot_check_readers(versions_snapshot(d->versions));
    if (freed)
        log_info("store.readers", LOG_U64("freed", freed));
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon *d = handle->data;
    if (d->stopping)
        return;
    d->stopping = true;
    log_info("stopping", LOG_I64("signal", number));
    notify_say(&d->manager, "STOPPING=1");
    uv_stop(&d->loop);
}

static void close_handle(uv_handle_t *handle, UNUSED void *user)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static int start_loop(struct daemon *d)
{
    int rc = uv_loop_init(&d->loop);
    if (rc)
        return rc;
    rc = uv_async_init(&d->loop, &d->wake, on_wake);
    if (!rc)
        rc = uv_timer_init(&d->loop, &d->tick);
    if (!rc)
        rc = uv_timer_init(&d->loop, &d->readers);
    if (!rc)
        rc = uv_signal_init(&d->loop, &d->on_term);
    if (!rc)
        rc = uv_signal_init(&d->loop, &d->on_int);
    if (rc)
        return rc;
    d->wake.data = d->tick.data = d->readers.data = d->on_term.data = d->on_int.data = d;
    rc = uv_signal_start(&d->on_term, on_signal, SIGTERM);
    if (!rc)
        rc = uv_signal_start(&d->on_int, on_signal, SIGINT);
    if (!rc)
        rc = uv_timer_start(&d->tick, on_tick, TICK_MS, TICK_MS);
    if (!rc)
        rc = uv_timer_start(&d->readers, on_readers, READER_CHECK_MS, READER_CHECK_MS);
    return rc;
}

/* ---- start and stop ---- */

static int take_home(struct daemon *d)
{
    long pid = 0;
    char *run = file_join(d->options->home, HOME_RUN);
    char *lock = file_join(d->options->home, HOME_CONTROL_LOCK);
    enum err err = run && lock ? file_make_dirs(run, 0700) : ERR_NOMEM;
    if (!err)
        err = file_lock(lock, &d->lock_fd, &pid);
    if (err == ERR_CONFLICT)
        log_error("home.locked", LOG_STR("home", d->options->home), LOG_I64("pid", pid),
                  LOG_STR("hint", "another control plane runs on this home"));
    else if (err)
        log_error("home", LOG_STR("home", d->options->home), LOG_ERR(err));
    free(run);
    free(lock);
    return err == OK ? 0 : err == ERR_CONFLICT ? 2 : 1;
}

int daemon_run(const struct daemon_options *options)
{
    struct daemon *d = fault_calloc(1, sizeof(*d));
    if (!d)
        return 1;
    d->options = options;
    d->lock_fd = -1;
    notify_open(&d->manager);
    signal(SIGPIPE, SIG_IGN);
    int status = take_home(d);
    const bool looping = status == 0 && start_loop(d) == 0;
    if (status == 0 && !looping)
        status = 1;
    if (status == 0 && open_rooms(d) != OK)
        status = 1;
    if (status == 0) {
        open_simulations(d);
        d->service = (struct service){ .versions = d->versions,
                                       .evidence = d->learned,
                                       .nodes = d->nodes,
                                       .publisher = d->publisher,
                                       .pilot = d->pilot,
                                       .records = d->records,
                                       .journal = d->journal,
                                       .simulations = d->simulations,
                                       .roles = d->roles,
                                       .started_at_ms = clock_wall_ms(),
                                       .home = options->home,
                                       .changed = daemon_changed,
                                       .changed_user = d,
                                       .link_refusals = daemon_link_refusals };
        status = daemon_links_open(d) == OK ? 0 : 1;
    }
    if (status == 0) {
        log_info("started", LOG_STR("home", options->home), LOG_STR("version", FAIRLEAD_VERSION));
        notify_say(&d->manager, "READY=1\nSTATUS=publishing");
        uv_run(&d->loop, UV_RUN_DEFAULT);
    }
    simulations_close(d->simulations);
    publisher_free(d->publisher); /* answers the polls that are held, while their links still live */
    daemon_links_close(d);
    if (looping) {
        uv_walk(&d->loop, close_handle, NULL);
        uv_run(&d->loop, UV_RUN_DEFAULT);
        uv_loop_close(&d->loop);
    }
    close_rooms(d);
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    notify_close(&d->manager);
    free(d);
    if (status == 0)
        log_info("stopped");
    return status;
}
