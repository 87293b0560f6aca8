#include "dataplane/node/master.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "dataplane/node/master_internal.h"
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#define RECORDS_EVERY_MS 50u
#define READERS_EVERY_MS 60000u
#define WATCHDOG_OFF_MS  1000u /* how often a watchdog that is off looks whether it still is */
#define DESCRIPTORS_OWN  256u  /* of a worker for itself: loop, store, board, link, listeners, logs, with room */

/* ---- timers and signals ---- */

/* Ready: every slot's worker takes connections. Whether a table is there is the control plane's affair, which may start
 * after us. */
static void tell_manager(struct master *m)
{
    char status[MASTER_STATUS_BYTES];
    const unsigned up = supervisor_up(&m->supervisor);
    notify_alive(&m->manager, uv_now(&m->loop));
    if (m->supervisor.draining || (!m->told_ready && up < m->supervisor.slot_count))
        return;
    const struct table_version *v = &m->replica.serving;
    (void)snprintf(status, sizeof(status), "%u of %u workers serve generation %llu at %.64s", up,
                   m->supervisor.slot_count, (unsigned long long)v->generation, m->listen);
    if (m->told_ready && strcmp(status, m->told_status) == 0)
        return;
    memcpy(m->told_status, status, sizeof(status));
    notify_say(&m->manager, "%sSTATUS=%s", m->told_ready ? "" : "READY=1\n", status);
    m->told_ready = true;
}

static void on_records(uv_timer_t *timer)
{
    struct master *m = timer->data;
    master_drain_records(m);
    master_report_serving(m);
    tell_manager(m);
}

/* Its time may change with the configuration, and from nothing to something. */
static void on_watchdog(uv_timer_t *timer)
{
    struct master *m = timer->data;
    const uint64_t limit_ms = m->config->limits.watchdog_ms;
    uv_timer_start(timer, on_watchdog, limit_ms ? limit_ms / 4 : WATCHDOG_OFF_MS, 0);
    for (unsigned i = 0; i < m->supervisor.slot_count; i++) {
        enum watchdog_verdict verdict;
        int number;
        uint64_t turned_ms, patience_ms;
        const uint64_t pid = supervisor_watched(&m->supervisor, i, limit_ms, &turned_ms, &patience_ms);
        if (watchdog_look(&m->watchdog, i, pid, turned_ms, uv_now(&m->loop), patience_ms, &verdict, &number))
            supervisor_replace(&m->supervisor, i, watchdog_verdict_name(verdict), number);
    }
}

static void on_readers(uv_timer_t *timer)
{
    struct master *m = timer->data;
    master_check_readers(m);
    (void)credentials_refresh(m->config->credentials);
    board_tickets_renew(m->board, clock_ms());
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
    struct master *m = handle->data;
    log_info("node.draining", LOG_I64("signal", number), LOG_U64("ms", m->config->limits.drain_ms));
    notify_say(&m->manager, "STOPPING=1\nSTATUS=draining");
    if (m->opened_supervisor)
        supervisor_drain(&m->supervisor, m->config->limits.drain_ms);
}

static void on_reload_signal(uv_signal_t *handle, UNUSED int number)
{
    struct master *m = handle->data;
    changes_reload(&m->changes);
}

/* ---- start and stop ---- */

/* Closes all handles, by which the loop ends. */
void master_stop(struct master *m, int status)
{
    if (m->stopping)
        return;
    m->stopping = true;
    m->status = status;
    changes_close(&m->changes);
    if (m->opened_supervisor)
        supervisor_close(&m->supervisor);
    if (m->opened_replica)
        replica_close(&m->replica);
    uplink_close(&m->uplink);
    shipper_close(&m->shipper);
    exporter_close(&m->exporter);
    uv_handle_t *const mine[] = { (uv_handle_t *)&m->records_timer,  (uv_handle_t *)&m->readers_timer,
                                  (uv_handle_t *)&m->watchdog_timer, (uv_handle_t *)&m->on_term,
                                  (uv_handle_t *)&m->on_int,         (uv_handle_t *)&m->on_hup };
    for (size_t i = 0; i < ARRAY_LEN(mine); i++)
        uv_close(mine[i], NULL);
}

enum err master_leave(struct master *m)
{
    sigset_t signals;
    heritage_init(&m->leaves);
    const enum err err = supervisor_leave(&m->supervisor, &m->leaves);
    if (err) {
        heritage_close(&m->leaves);
        return err;
    }
    m->leaving = true;
    m->leaves.lock_fd = m->lock_fd;
    m->lock_fd = -1;
    m->leaves.operations_fd = m->operations_fd;
    (void)snprintf(m->leaves.operations, sizeof(m->leaves.operations), "%s", m->operations);
    m->operations_fd = -1;
    m->leaves.stuck = m->watchdog.stuck;
    m->leaves.starved = m->watchdog.starved;
    /* Until the next master listens for them they wait: unheard, one would end the process. */
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)sigaddset(&signals, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL);
    changes_leave(&m->changes, &m->leaves);
    master_stop(m, 0);
    return OK;
}

static enum err make_dirs(struct master *m)
{
    static const char *const dirs[] = { HOME_RUN, HOME_NODE_STORE };
    enum err err = file_make_dirs(m->config->home, 0700);
    for (size_t i = 0; i < ARRAY_LEN(dirs) && !err; i++) {
        char *path = node_config_path(m->config, dirs[i]);
        err = path ? file_make_dirs(path, 0700) : ERR_NOMEM;
        free(path);
    }
    return err;
}

static enum err take_home(struct master *m)
{
    long pid = 0;
    if (m->inherits) {
        m->lock_fd = m->inherits->lock_fd;
        m->inherits->lock_fd = -1;
        return OK;
    }
    enum err err = make_dirs(m);
    char *lock = node_config_path(m->config, HOME_NODE_LOCK);
    if (!err)
        err = lock ? file_lock(lock, &m->lock_fd, &pid) : ERR_NOMEM;
    if (err == ERR_CONFLICT)
        log_error("home.locked", LOG_STR("home", m->config->home), LOG_I64("pid", pid),
                  LOG_STR("hint", "another node runs on this home"));
    else if (err)
        log_error("home.unusable", LOG_STR("home", m->config->home), LOG_ERR(err), LOG_STR("why", strerror(errno)));
    free(lock);
    return err;
}

static void init_handles(struct master *m)
{
    REQUIRE(uv_timer_init(&m->loop, &m->records_timer) == 0 && uv_timer_init(&m->loop, &m->readers_timer) == 0 &&
            uv_timer_init(&m->loop, &m->watchdog_timer) == 0);
    REQUIRE(uv_signal_init(&m->loop, &m->on_term) == 0 && uv_signal_init(&m->loop, &m->on_int) == 0 &&
            uv_signal_init(&m->loop, &m->on_hup) == 0);
    m->records_timer.data = m->readers_timer.data = m->watchdog_timer.data = m->on_term.data = m->on_int.data =
        m->on_hup.data = m;
}

static void start_handles(struct master *m)
{
    uv_timer_start(&m->records_timer, on_records, RECORDS_EVERY_MS, RECORDS_EVERY_MS);
    uv_timer_start(&m->readers_timer, on_readers, READERS_EVERY_MS, READERS_EVERY_MS);
    uv_timer_start(&m->watchdog_timer, on_watchdog, 0, 0);
    uv_signal_start(&m->on_term, on_stop_signal, SIGTERM);
    uv_signal_start(&m->on_int, on_stop_signal, SIGINT);
    uv_signal_start(&m->on_hup, on_reload_signal, SIGHUP);
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL); /* what came while one master followed the other */
}

static bool process_runs(uint64_t pid)
{
    return pid != 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

/* A master that could not start may find workers of one before: they wait for the next, which must find them, too. */
static bool workers_remain(const struct master *m)
{
    for (unsigned i = 0; i < board_regions(m->board); i++) {
        if (board_region_taken(m->board, i) && process_runs(atomic_load(&board_region(m->board, i)->pid)))
            return true;
    }
    return false;
}

/* After a good end nothing is left of run/: who finds the socket there follows a master whose workers serve on. */
static void leave_home(struct master *m)
{
    static const char *const files[] = { HOME_NODE_SOCKET, HOME_NODE_COPY, MASTER_LISTEN_FILE, MASTER_OPERATIONS_FILE };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char *path = node_config_path(m->config, files[i]);
        if (path)
            (void)unlink(path);
        free(path);
    }
    listening_unlink(&m->supervisor.listening, NULL);
}

/* The board goes with the last who uses it, or the next home at this path would leave another one in memory. */
static void leave_board(const struct master *m)
{
    char *path = node_config_board_path(m->config);
    if (path)
        (void)unlink(path);
    free(path);
}

static void release(struct master *m)
{
    const bool last = !m->leaving && m->board && !workers_remain(m);
    if (last && m->opened_supervisor && m->supervisor.hub.loop)
        leave_home(m);
    if (m->opened_replica)
        replica_release(&m->replica);
    if (m->board)
        master_drain_records(m);
    if (last)
        leave_board(m);
    if (m->records.dir)
        records_close(&m->records);
    tally_release(&m->ended);
    tablestore_close(m->store);
    board_close(m->board);
    int *const fds[] = { &m->lock_fd, &m->operations_fd, &m->next_operations_fd };
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        if (*fds[i] >= 0)
            (void)close(*fds[i]);
    }
    /* The next master speaks to it, whichever program that is. */
    if (m->leaving && notify_restore_environment(&m->manager))
        log_error("notify.environment", LOG_ERR(ERR_NOMEM));
    notify_close(&m->manager);
}

/* One master's life; what it leaves is in m->leaves. */
static int live(struct master *m, const struct master_options *options, const struct passed *passed,
                struct heritage *inherits)
{
    const struct heritage none = { .layout = 0 };
    *m = (struct master){ .options = options,
                          .config = options->config,
                          .inherits = inherits,
                          .passed = passed,
                          .leaves = none,
                          .lock_fd = -1,
                          .operations_fd = -1,
                          .next_operations_fd = -1,
                          .records = { .fd = -1 } };
    if (inherits) {
        m->watchdog.stuck = inherits->stuck;
        m->watchdog.starved = inherits->starved;
    }
    notify_open(&m->manager);
    enum err err = take_home(m);
    if (err) {
        notify_close(&m->manager);
        return err == ERR_CONFLICT ? 2 : 1;
    }
    REQUIRE(uv_loop_init(&m->loop) == 0);
    m->started_ms = uv_now(&m->loop);
    init_handles(m);
    err = master_open_rooms(m);
    if (err)
        master_stop(m, 1);
    else
        start_handles(m);
    uv_run(&m->loop, UV_RUN_DEFAULT);
    release(m);
    (void)uv_loop_close(&m->loop);
    return m->status;
}

/* ---- one master after the other ---- */

/* As many descriptors as this user may have: clients' and providers' connections each take one. */
static void raise_descriptors(const struct node_config *config)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    const uint64_t wanted = config->limits.connections + config->limits.upstream_connections + DESCRIPTORS_OWN;
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < wanted)
        log_warn("limits.descriptors", LOG_U64("have", limit.rlim_max), LOG_U64("wanted", wanted),
                 LOG_STR("hint", "limits.connections and limits.upstream_connections do not fit: raise the hard limit "
                                 "(ulimit -Hn, LimitNOFILE=) or lower them"));
}

int master_run(const struct master_options *options)
{
    static struct master master; /* one a process; large */
    static struct heritage heritage;
    static struct passed passed;
    int status;
    signal(SIGPIPE, SIG_IGN); /* a peer that left is an error of its write */
    raise_descriptors(options->config);
    heritage_init(&heritage);
    if (options->heritage && heritage_inherit(options->heritage, &heritage))
        return 1;
    struct heritage *inherits = options->heritage ? &heritage : NULL;
    if (inherits)
        passed = heritage.passed;
    else if (passed_take(&passed))
        return 1;
    for (;;) {
        status = live(&master, options, &passed, inherits);
        heritage_close(&heritage);
        if (!master.leaving)
            break;
        heritage = master.leaves;
        heritage.passed = passed;
        inherits = &heritage;
        if (heritage.upgrade)
            heritage_become(&heritage, master.changes.program, options->arguments);
    }
    passed_release(&passed);
    log_info("node.stopped", LOG_I64("status", status));
    return status;
}
