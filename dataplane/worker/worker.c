#include "dataplane/worker/worker.h"
#include "common/log.h"
#include "dataplane/node/feedback_secret.h"
#include "dataplane/node/watchdog.h"
#include "dataplane/worker/backtrace.h"
#include "dataplane/worker/core.h"
#include "dataplane/worker/exchange.h"
#include "dataplane/worker/link.h"
#include "dataplane/worker/listener.h"
#include "proto/home.h"
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#define WORKER_TICK_MS  100u  /* backs up the master's wake: a lost one costs a tenth of a second */
#define WORKER_LEAVE_MS 5000u /* how long a master may take to put another worker in the place of one that leaves */
#define WORKER_GRACE_MS 1000u /* after the drain's deadline: for its error events to reach their clients */
/* Bodies come and go: what the C library gives back to the kernel for each of them is faulted in page by page for the
 * next (200 KB: 39 faults, half of the request's CPU time). So much free memory is kept. */
#define WORKER_HEAP_KEPT_BYTES (8 << 20)
#define WORKER_MMAP_BYTES      (4 << 20) /* a block from here on is the kernel's own, and goes back at once */

struct worker {
    uv_loop_t loop;
    struct core core;
    struct listener listener;
    struct link link;
    uv_timer_t tick, drain;
    uv_check_t turn;
    uv_signal_t term;
    bool leaving, stopping, past_deadline;
};

static void on_serving(void *user, const struct table_version *version)
{
    struct worker *w = user;
    board_set_serving(w->core.region, version->epoch, version->generation, version->evidence_seq,
                      version->directory_seq);
    core_count(&w->core, WORKER_TABLE_SWITCHES);
    log_debug("table.serving", LOG_U64("epoch", version->epoch), LOG_U64("generation", version->generation),
              LOG_U64("evidence", version->evidence_seq), LOG_U64("directory", version->directory_seq));
    link_serving(&w->link, version);
}

static void on_bad(void *user, const struct table_version *version, const char *why)
{
    struct worker *w = user;
    core_count(&w->core, WORKER_TABLE_ERRORS);
    link_bad_table(&w->link, version, why);
}

static void on_wake(void *user)
{
    struct worker *w = user;
    loader_refresh(&w->core.loader);
}

static void on_adopt_listener(void *user, unsigned slot, const struct control_fds *fds)
{
    struct worker *w = user;
    const enum err err = listener_adopt(&w->listener, slot, fds->fds, fds->count);
    if (err)
        log_warn("listener.adopt", LOG_U64("slot", slot), LOG_ERR(err));
    else
        log_info("listener.adopted", LOG_U64("slot", slot), LOG_U64("sockets", fds->count));
}

static void on_drop_listener(void *user, unsigned slot)
{
    struct worker *w = user;
    listener_drop(&w->listener, slot);
}

static void on_tick(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    core_renew_wall(&w->core);
    loader_refresh(&w->core.loader);
}

static void on_turn(uv_check_t *check)
{
    struct worker *w = check->data;
    core_count(&w->core, WORKER_LOOP_TURNS);
    atomic_store_explicit(&w->core.region->counters[WORKER_LOOP_LAST_MS], core_now_ms(&w->core), memory_order_relaxed);
}

/* The last connection is gone: closes all handles but the signal's, which holds no loop, and so the loop ends. */
static void on_emptied(void *user)
{
    struct worker *w = user;
    if (w->stopping)
        return;
    w->stopping = true;
    link_drained(&w->link);
    link_close(&w->link);
    uv_close((uv_handle_t *)&w->tick, NULL);
    uv_close((uv_handle_t *)&w->drain, NULL);
    uv_close((uv_handle_t *)&w->turn, NULL);
    core_close(&w->core);
    upstream_lane_close(w->core.lane);
}

static void on_drain_passed(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    if (w->past_deadline) {
        listener_abort(&w->listener);
        return;
    }
    w->past_deadline = true;
    log_warn("drain.deadline", LOG_U64("connections", w->listener.count));
    uv_timer_start(timer, on_drain_passed, WORKER_GRACE_MS, 0);
    listener_drain_passed(&w->listener);
}

static void drain(struct worker *w, uint64_t ms)
{
    if (w->core.draining || w->stopping)
        return;
    log_info("drain.begin", LOG_U64("ms", ms), LOG_U64("connections", w->listener.count));
    w->core.draining = true;
    link_drop_listeners(&w->link);
    uv_timer_start(&w->drain, on_drain_passed, ms, 0);
    listener_drain(&w->listener);
}

static void on_drain(void *user, uint64_t ms)
{
    drain(user, ms);
}

static void on_left_alone(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    drain(w, w->core.config->limits.drain_ms);
}

/* Whoever sends it wants this process to end; its slot's sockets should not be without one meanwhile. */
static void on_signal(uv_signal_t *signal, UNUSED int number)
{
    struct worker *w = signal->data;
    if (w->core.draining || w->leaving) {
        listener_abort(&w->listener);
    } else if (link_leaving(&w->link)) {
        w->leaving = true;
        uv_timer_start(&w->drain, on_left_alone, WORKER_LEAVE_MS, 0);
    } else {
        drain(w, w->core.config->limits.drain_ms);
    }
}

static bool on_upstream_memory(void *user, size_t before, size_t after)
{
    struct worker *w = user;
    core_account(&w->core, before, after);
    return !core_is_full(&w->core);
}

/* The master has read it at its start. What comes without it is refused, but requests are served. */
static void take_secret(struct worker *w, const struct node_config *config)
{
    const enum err err = feedback_secret_key(config, &w->core.id_key);
    if (err)
        log_error("feedback.secret", LOG_ERR(err),
                  LOG_STR("hint", "no feedback is taken for what this worker answers, until it is replaced"));
}

static enum err open_core(struct worker *w, const struct worker_options *options)
{
    const struct node_config *config = options->config;
    char *store = node_config_path(config, HOME_NODE_STORE);
    char *board = node_config_board_path(config);
    const struct upstream_lane_options lane = { .loop = &w->loop,
                                                .connections_max = (unsigned)config->limits.upstream_connections,
                                                .connections_idle_max = (unsigned)config->limits.upstream_idle,
                                                .account = on_upstream_memory,
                                                .account_user = w,
                                                .ca_file = config->ca_file,
                                                .name_servers = config->resolvers };
    struct upstream_lane *made = NULL;
    enum err err = store && board ? OK : ERR_NOMEM;
    if (err == OK)
        err = upstream_lane_new(&lane, &made);
    if (err == OK) {
        const struct loader_events events = { .serving = on_serving, .bad = on_bad, .user = w };
        err = core_init(&w->core, &(struct core_options){ .loop = &w->loop,
                                                          .config = config,
                                                          .slot = options->slot,
                                                          .region_number = options->region,
                                                          .board_path = board,
                                                          .store_path = store,
                                                          .lane = made,
                                                          .events = &events });
        if (err) {
            log_error("core.open", LOG_ERR(err), LOG_STR("board", board), LOG_STR("store", store));
            upstream_lane_close(made);
        }
    }
    free(store);
    free(board);
    if (!err)
        take_secret(w, config);
    return err;
}

static void init_handles(struct worker *w)
{
    REQUIRE(uv_timer_init(&w->loop, &w->tick) == 0);
    REQUIRE(uv_timer_init(&w->loop, &w->drain) == 0);
    REQUIRE(uv_check_init(&w->loop, &w->turn) == 0);
    w->tick.data = w->drain.data = w->turn.data = w;
    uv_timer_start(&w->tick, on_tick, WORKER_TICK_MS, WORKER_TICK_MS);
    uv_check_start(&w->turn, on_turn);
}

static enum err open_link(struct worker *w, const struct worker_options *options)
{
    const struct link_events events = { .wake = on_wake,
                                        .drain = on_drain,
                                        .adopt_listener = on_adopt_listener,
                                        .drop_listener = on_drop_listener,
                                        .user = w };
    char *path = node_config_path(options->config, HOME_NODE_SOCKET);
    const struct link_options link = { .loop = &w->loop,
                                       .path = path,
                                       .slot = options->slot,
                                       .region = options->region,
                                       .listeners = &options->listeners,
                                       .events = events };
    enum err err = path ? link_open(&w->link, &link) : ERR_NOMEM;
    free(path);
    return err;
}

static enum err start(struct worker *w, const struct worker_options *options)
{
    enum err err = backtrace_on_signal(WATCHDOG_SIGNAL);
    if (!err)
        err = open_core(w, options);
    if (err)
        return err;
    atomic_store(&w->core.region->started_ms, core_now_ms(&w->core));
    atomic_store(&w->core.region->pid, (uint64_t)getpid());
    err = open_link(w, options);
    if (err)
        return err;
    init_handles(w);
    if (uv_signal_init(&w->loop, &w->term) || uv_signal_start(&w->term, on_signal, SIGTERM))
        return ERR_IO;
    w->term.data = w;
    uv_unref((uv_handle_t *)&w->term);
    /* Before the first client: nobody is told "no policy" by a worker that merely has not looked. */
    loader_refresh(&w->core.loader);
    REQUIRE(options->listeners.count > 0 && options->listeners.count == options->config->listener_count);
    return listener_open(&w->listener, &w->core, options->config->listeners, options->listeners.fds,
                         options->listeners.count, on_emptied, w);
}

int worker_run(const struct worker_options *options)
{
    static struct worker worker; /* one a process; it is large and lives as long as that */
    struct worker *w = &worker;
    (void)mallopt(M_MMAP_THRESHOLD, WORKER_MMAP_BYTES); /* where it cannot be set, it only costs time */
    (void)mallopt(M_TRIM_THRESHOLD, WORKER_HEAP_KEPT_BYTES);
    signal(SIGPIPE, SIG_IGN);                    /* a client that left is an error of its write */
    signal(SIGINT, SIG_IGN);                     /* of a terminal: it is for the master, which then drains us */
    (void)prctl(PR_SET_NAME, "fairlead-worker"); /* it was started as /proc/self/exe */
    REQUIRE(options->listeners.count > 0 && uv_loop_init(&w->loop) == 0);
    enum err err = start(w, options);
    if (err) {
        log_error("worker.failed", LOG_U64("slot", options->slot), LOG_ERR(err));
        return 1; /* the process ends: nothing of ours outlives it */
    }
    log_info("worker.started", LOG_U64("slot", options->slot));
    log_copy_errors(-1);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    /* Closing the signal's handle, and the loop with it, would bring SIGTERM's default back: one more of them between
     * here and the exit would make an orderly end a death by signal. */
    signal(SIGTERM, SIG_IGN);
    core_release(&w->core);
    log_info("worker.stopped", LOG_U64("slot", options->slot));
    return 0;
}
