#include "dataplane/node/master.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "common/notify.h"
#include "dataplane/node/exporter.h"
#include "dataplane/node/metrics.h"
#include "dataplane/node/records.h"
#include "dataplane/node/replica.h"
#include "dataplane/node/supervisor.h"
#include "dataplane/node/tally.h"
#include "dataplane/node/uplink.h"
#include "proto/home.h"
#include "proto/snapshot.h"
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#define RECORDS_EVERY_MS 50u
#define READERS_EVERY_MS 60000u
#define STATUS_BYTES     200u
#define LISTEN_FILE      HOME_RUN "/listen"     /* where clients connect, for tests and `fairlead up` */
#define OPERATIONS_FILE  HOME_RUN "/operations" /* where /metrics is */

struct master {
    const struct master_options *options;
    struct node_config *config;
    uv_loop_t loop;
    int lock_fd;
    struct board *board;
    struct tablestore *store;
    struct tally ended;
    struct supervisor supervisor;
    struct replica replica;
    struct uplink uplink;
    struct records records;
    struct exporter exporter;
    uv_timer_t records_timer, readers_timer;
    uv_signal_t on_term, on_int, on_hup;
    uint64_t started_ms;
    char listen[ADDRESS_TEXT_BYTES];
    bool opened_supervisor, opened_replica, stopping;
    struct notify manager;
    bool draining, told_ready;
    char told_status[STATUS_BYTES];
    int status;
};

/* ---- workers ---- */

static void report_serving(struct master *m)
{
    struct table_version least = { .epoch = 0 };
    bool any = false;
    for (unsigned i = 0; i < m->supervisor.slot_count; i++) {
        uint64_t v[4];
        if (!supervisor_slot_up(&m->supervisor, i) || !board_get_serving(board_region(m->board, i), v))
            continue;
        const bool older = v[0] < least.epoch || (v[0] == least.epoch && v[1] < least.generation);
        if (!any || older) {
            least.epoch = v[0];
            least.generation = v[1];
        }
        least.evidence_seq = !any || v[2] < least.evidence_seq ? v[2] : least.evidence_seq;
        least.directory_seq = !any || v[3] < least.directory_seq ? v[3] : least.directory_seq;
        any = true;
    }
    replica_serving(&m->replica, &least, supervisor_up(&m->supervisor));
}

static void check_readers(struct master *m)
{
    const unsigned freed = snapshot_check_readers(tablestore_snapshot(m->store));
    if (freed)
        log_info("store.readers", LOG_U64("freed", freed));
}

static void on_ended(void *user, unsigned slot, bool crashed)
{
    struct master *m = user;
    struct board_region *region = board_region(m->board, slot);
    records_drain(&m->records, region);
    tally_add_region(&m->ended, region, false);
    board_fold(m->board, region); /* a master killed before the next line counts this worker twice */
    board_region_clear(region);
    check_readers(m);
    if (!m->opened_replica)
        return;
    if (crashed)
        replica_worker_crashed(&m->replica);
    report_serving(m);
}

static void on_serving(void *user)
{
    report_serving(user);
}

static void on_bad_table(void *user, const struct table_version *version, const char *reason)
{
    struct master *m = user;
    log_error("worker.bad_table", LOG_U64("generation", version->generation), LOG_STR("reason", reason));
    replica_bad_table(&m->replica, version, reason);
}

static enum err write_home_file(struct master *m, const char *relative, const char *text)
{
    char line[ADDRESS_TEXT_BYTES + 2];
    char *path = node_config_path(m->config, relative);
    (void)snprintf(line, sizeof(line), "%s\n", text);
    const enum err err = path ? file_write_atomic(path, span_cstr(line), 0644) : ERR_NOMEM;
    if (err)
        log_error("home.write", LOG_STR("file", relative), LOG_ERR(err));
    free(path);
    return err;
}

static void stop(struct master *m, int status);

static void on_listening(void *user, const struct address *address)
{
    struct master *m = user;
    (void)address_format(address, m->listen);
    (void)write_home_file(m, LISTEN_FILE, m->listen);
    log_info("node.listening", LOG_STR("address", m->listen), LOG_U64("workers", m->config->workers));
    const enum err err = uplink_open(
        &m->uplink,
        &(struct uplink_options){ .loop = &m->loop, .config = m->config, .board = m->board, .ended = &m->ended });
    if (err)
        stop(m, 1);
}

static void on_failed(void *user)
{
    stop(user, 1);
}

static void on_emptied(void *user)
{
    stop(user, 0);
}

static void on_committed(void *user)
{
    struct master *m = user;
    supervisor_wake(&m->supervisor);
}

/* ---- pages ---- */

static enum err on_page(void *user, struct span path, struct buf *out, unsigned *ret_status, const char **ret_type)
{
    struct master *m = user;
    const struct metrics_source source = { .config = m->config,
                                           .board = m->board,
                                           .ended = &m->ended,
                                           .supervisor = &m->supervisor,
                                           .replica = &m->replica,
                                           .records = &m->records,
                                           .listen = m->listen,
                                           .now_ms = uv_now(&m->loop),
                                           .started_ms = m->started_ms,
                                           .wall_ms = clock_wall_ms() };
    report_serving(m);
    if (span_eq(path, SPAN("/livez")))
        return buf_append_cstr(out, "alive\n");
    if (span_eq(path, SPAN("/readyz"))) {
        bool ready = false;
        const enum err err = metrics_ready(&source, &ready, out);
        *ret_status = ready ? 200 : 503;
        return err;
    }
    if (span_eq(path, SPAN("/metrics"))) {
        *ret_type = "text/plain; version=0.0.4; charset=utf-8";
        return metrics_write(&source, out);
    }
    if (span_eq(path, SPAN("/status"))) {
        *ret_type = "application/json";
        return metrics_status(&source, out);
    }
    return ERR_NOT_FOUND;
}

/* ---- timers and signals ---- */

static void drain_records(struct master *m)
{
    for (unsigned i = 0; i < board_slots(m->board); i++) {
        if (atomic_load(&board_region(m->board, i)->pid))
            records_drain(&m->records, board_region(m->board, i));
    }
}

/* Ready: every slot's worker takes connections. Whether a table is there is the control plane's affair, which may start
 * after us. */
static void tell_manager(struct master *m)
{
    char status[STATUS_BYTES];
    const unsigned up = supervisor_up(&m->supervisor);
    notify_alive(&m->manager, uv_now(&m->loop));
    if (m->draining || (!m->told_ready && up < m->supervisor.slot_count))
        return;
    const struct table_version *v = &m->replica.serving;
    (void)snprintf(status, sizeof(status), "%u of %u workers serve generation %llu at %s", up, m->supervisor.slot_count,
                   (unsigned long long)v->generation, m->listen);
    if (m->told_ready && strcmp(status, m->told_status) == 0)
        return;
    memcpy(m->told_status, status, sizeof(status));
    notify_say(&m->manager, "%sSTATUS=%s", m->told_ready ? "" : "READY=1\n", status);
    m->told_ready = true;
}

static void on_records(uv_timer_t *timer)
{
    struct master *m = timer->data;
    drain_records(m);
    report_serving(m);
    tell_manager(m);
}

static void on_readers(uv_timer_t *timer)
{
    struct master *m = timer->data;
    check_readers(m);
    (void)credentials_refresh(m->config->credentials);
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
    struct master *m = handle->data;
    log_info("node.draining", LOG_I64("signal", number), LOG_U64("ms", m->config->limits.drain_ms));
    m->draining = true;
    notify_say(&m->manager, "STOPPING=1\nSTATUS=draining");
    if (m->opened_supervisor)
        supervisor_drain(&m->supervisor, m->config->limits.drain_ms);
}

/* Credentials take effect at once; what sockets, processes and links are made of needs a restart. */
static void on_reload_signal(uv_signal_t *handle, UNUSED int number)
{
    struct master *m = handle->data;
    struct node_config now;
    char *message = NULL;
    notify_reloading(&m->manager);
    if (node_config_load(m->config->home, m->config->source, &now, &message)) {
        log_error("config.reload", LOG_STR("why", message ? message : ""), LOG_STR("hint", "the one before goes on"));
        notify_say(&m->manager, "READY=1");
        free(message);
        return;
    }
    struct credentials *before = m->config->credentials;
    m->config->credentials = now.credentials;
    now.credentials = before;
    node_config_release(&now);
    supervisor_reload(&m->supervisor);
    log_info("config.reloaded", LOG_U64("credentials", credentials_count(m->config->credentials)),
             LOG_STR("hint", "other settings change with a restart"));
    notify_say(&m->manager, "READY=1");
}

/* ---- start and stop ---- */

/* Closes all handles, by which the loop ends. */
static void stop(struct master *m, int status)
{
    if (m->stopping)
        return;
    m->stopping = true;
    m->status = status;
    if (m->opened_supervisor)
        supervisor_close(&m->supervisor);
    if (m->opened_replica)
        replica_close(&m->replica);
    uplink_close(&m->uplink);
    exporter_close(&m->exporter);
    uv_handle_t *const mine[] = { (uv_handle_t *)&m->records_timer, (uv_handle_t *)&m->readers_timer,
                                  (uv_handle_t *)&m->on_term, (uv_handle_t *)&m->on_int, (uv_handle_t *)&m->on_hup };
    for (size_t i = 0; i < ARRAY_LEN(mine); i++)
        uv_close(mine[i], NULL);
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

static enum err open_board(struct master *m)
{
    char *path = node_config_board_path(m->config);
    const enum err err = path ? board_create(path, m->config->workers, &m->board) : ERR_NOMEM;
    if (err)
        log_error("board.create", LOG_STR("path", path ? path : ""), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_INVALID ? "it must lie on a tmpfs: is /dev/shm one?" : ""));
    else
        tally_add_region(&m->ended, board_ended(m->board), false); /* of a master that was killed */
    free(path);
    return err;
}

static enum err open_store(struct master *m)
{
    char *path = node_config_path(m->config, HOME_NODE_STORE);
    const enum err err = path ? tablestore_open(path, false, &m->store) : ERR_NOMEM;
    if (err)
        log_error("store.open", LOG_STR("path", path ? path : ""), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_CORRUPT ? "move it away: the control plane gives all of it again" : ""));
    free(path);
    return err;
}

static enum err open_records(struct master *m)
{
    char *path = node_config_path(m->config, HOME_RECORDS);
    const enum err err = path ? records_open(&m->records, path, m->config->limits.record_segment_bytes,
                                             m->config->limits.record_segments)
                              : ERR_NOMEM;
    if (err)
        log_error("records.open", LOG_STR("path", path ? path : ""), LOG_ERR(err));
    free(path);
    return err;
}

static enum err open_exporter(struct master *m)
{
    struct address address;
    char text[ADDRESS_TEXT_BYTES];
    int fd;
    REQUIRE(address_parse(span_cstr(m->config->operations), &address) == OK); /* was checked with the configuration */
    enum err err = socket_listen(&address, true, &fd);
    (void)address_format(&address, text);
    if (!err)
        err = exporter_open(&m->exporter, &m->loop, fd, METRICS_BYTES_MAX, on_page, m);
    if (err) {
        log_error("operations.listen", LOG_STR("address", text), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_EXISTS
                                      ? "another program listens there: choose another address with --operations"
                                      : ""));
        return err;
    }
    log_info("operations.listening", LOG_STR("address", text));
    return write_home_file(m, OPERATIONS_FILE, text);
}

static enum err open_supervisor(struct master *m)
{
    char *path = node_config_path(m->config, HOME_NODE_SOCKET);
    int fd;
    const bool successor = path && file_exists(path); /* a master that ends well takes it away */
    enum err err = path ? socket_listen_unix(path, 0600, false, &fd) : ERR_NOMEM;
    if (err)
        log_error("hub.listen", LOG_STR("path", path ? path : ""), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_TOO_LARGE
                                      ? "the path of a socket may have 107 bytes: choose a shorter --home"
                                      : ""));
    free(path);
    if (err)
        return err;
    m->opened_supervisor = true;
    return supervisor_open(&m->supervisor, &(struct supervisor_options){ .loop = &m->loop,
                                                                         .config = m->config,
                                                                         .board = m->board,
                                                                         .program = m->options->program,
                                                                         .worker_args = m->options->worker_args,
                                                                         .hub_fd = fd,
                                                                         .successor = successor,
                                                                         .events = { .ended = on_ended,
                                                                                     .serving = on_serving,
                                                                                     .bad_table = on_bad_table,
                                                                                     .listening = on_listening,
                                                                                     .failed = on_failed,
                                                                                     .emptied = on_emptied,
                                                                                     .user = m } });
}

static enum err open_rooms(struct master *m)
{
    enum err err = open_board(m);
    if (!err)
        err = open_store(m);
    if (!err) {
        check_readers(m);
        err = open_records(m);
    }
    if (!err) {
        m->opened_replica = true;
        err =
            replica_open(&m->replica, &(struct replica_options){ .loop = &m->loop,
                                                                 .config = m->config,
                                                                 .board = m->board,
                                                                 .store = m->store,
                                                                 .program = m->options->program,
                                                                 .events = { .committed = on_committed, .user = m } });
    }
    if (!err)
        err = open_supervisor(m);
    if (!err)
        err = open_exporter(m);
    return err;
}

static void init_handles(struct master *m)
{
    REQUIRE(uv_timer_init(&m->loop, &m->records_timer) == 0 && uv_timer_init(&m->loop, &m->readers_timer) == 0);
    REQUIRE(uv_signal_init(&m->loop, &m->on_term) == 0 && uv_signal_init(&m->loop, &m->on_int) == 0 &&
            uv_signal_init(&m->loop, &m->on_hup) == 0);
    m->records_timer.data = m->readers_timer.data = m->on_term.data = m->on_int.data = m->on_hup.data = m;
}

static void start_handles(struct master *m)
{
    uv_timer_start(&m->records_timer, on_records, RECORDS_EVERY_MS, RECORDS_EVERY_MS);
    uv_timer_start(&m->readers_timer, on_readers, READERS_EVERY_MS, READERS_EVERY_MS);
    uv_signal_start(&m->on_term, on_stop_signal, SIGTERM);
    uv_signal_start(&m->on_int, on_stop_signal, SIGINT);
    uv_signal_start(&m->on_hup, on_reload_signal, SIGHUP);
}

/* After a good end nothing is left of run/: who finds the socket there follows a master that was killed. */
static void leave_home(struct master *m)
{
    static const char *const files[] = { HOME_NODE_SOCKET, LISTEN_FILE, OPERATIONS_FILE };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char *path = node_config_path(m->config, files[i]);
        if (path)
            (void)unlink(path);
        free(path);
    }
}

static bool process_runs(uint64_t pid)
{
    return pid != 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

/* The board goes with the last who uses it, or the next home at this path would leave another one in memory; with
 * workers on it, it waits for the next master. */
static void leave_board(struct master *m)
{
    for (unsigned i = 0; i < m->supervisor.slot_count; i++) {
        if (process_runs(m->supervisor.slots[i].pid))
            return;
    }
    for (unsigned i = 0; i < board_slots(m->board); i++) {
        if (process_runs(atomic_load(&board_region(m->board, i)->pid)))
            return;
    }
    char *path = node_config_board_path(m->config);
    if (path)
        (void)unlink(path);
    free(path);
}

static void release(struct master *m)
{
    if (m->opened_supervisor && m->supervisor.hub.loop)
        leave_home(m);
    if (m->opened_replica)
        replica_release(&m->replica);
    if (m->board) {
        drain_records(m);
        leave_board(m);
    }
    if (m->records.dir)
        records_close(&m->records);
    tally_release(&m->ended);
    tablestore_close(m->store);
    board_close(m->board);
    if (m->lock_fd >= 0)
        (void)close(m->lock_fd);
    notify_close(&m->manager);
}

int master_run(const struct master_options *options)
{
    static struct master master; /* one a process; large */
    struct master *m = &master;
    *m = (struct master){ .options = options, .config = options->config, .lock_fd = -1, .records = { .fd = -1 } };
    notify_open(&m->manager);
    signal(SIGPIPE, SIG_IGN); /* a peer that left is an error of its write */
    enum err err = take_home(m);
    if (err)
        return err == ERR_CONFLICT ? 2 : 1;
    REQUIRE(uv_loop_init(&m->loop) == 0);
    m->started_ms = uv_now(&m->loop);
    init_handles(m);
    err = open_rooms(m);
    if (err)
        stop(m, 1);
    else
        start_handles(m);
    uv_run(&m->loop, UV_RUN_DEFAULT);
    release(m);
    (void)uv_loop_close(&m->loop);
    log_info("node.stopped", LOG_I64("status", m->status));
    return m->status;
}
