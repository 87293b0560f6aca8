#include "dataplane/worker/worker.h"
#include "common/log.h"
#include "dataplane/worker/core.h"
#include "dataplane/worker/exchange.h"
#include "dataplane/worker/link.h"
#include "dataplane/worker/listener.h"
#include "proto/home.h"
#include <signal.h>
#include <unistd.h>

#define WORKER_TICK_MS  100u  /* backs up the master's wake: a lost one costs a tenth of a second */
#define WORKER_GRACE_MS 1000u /* after the drain's deadline: for its error events to reach their clients */

struct worker {
    uv_loop_t loop;
    struct node_config config; /* the caller's, but for what reload renews */
    bool own_credentials;
    struct core core;
    struct listener listener;
    struct link link;
    uv_timer_t tick, drain;
    uv_check_t turn;
    uv_signal_t term;
    bool stopping, past_deadline;
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

/* Limits, credentials and what listeners speak (certificates too) as they are written now; all else needs a restart. A file that cannot be read changes nothing.
 */
static void on_reload(void *user)
{
    struct worker *w = user;
    struct node_config fresh = { .home = NULL };
    char *message = NULL;
    if (node_config_load(w->config.home, w->config.source, &fresh, &message)) {
        log_error("reload.failed", LOG_STR("why", message ? message : ""));
        free(message);
        return;
    }
    struct credentials *old = w->config.credentials;
    w->config.limits = fresh.limits;
    w->config.credentials = fresh.credentials;
    fresh.credentials = w->own_credentials ? old : NULL; /* the first ones are the caller's */
    w->own_credentials = true;
    listener_reload(&w->listener, fresh.listeners, fresh.listener_count);
    node_config_release(&fresh);
    log_info("reload.done", LOG_U64("slot", w->core.slot));
}

static void on_adopt_listener(void *user, unsigned slot, int fd)
{
    struct worker *w = user;
    const enum err err = listener_adopt(&w->listener, slot, &fd, 1);
    if (err)
        log_warn("listener.adopt", LOG_U64("slot", slot), LOG_ERR(err));
    else
        log_info("listener.adopted", LOG_U64("slot", slot));
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

/* The last connection is gone: closes all handles, by which the loop ends. */
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
    uv_close((uv_handle_t *)&w->term, NULL);
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
    link_drop_listener(&w->link);
    uv_timer_start(&w->drain, on_drain_passed, ms, 0);
    listener_drain(&w->listener);
}

static void on_drain(void *user, uint64_t ms)
{
    drain(user, ms);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct worker *w = signal->data;
    (void)number;
    if (w->core.draining)
        listener_abort(&w->listener);
    else
        drain(w, w->core.config->limits.drain_ms);
}

static bool on_upstream_memory(void *user, size_t before, size_t after)
{
    struct worker *w = user;
    core_account(&w->core, before, after);
    return !core_is_full(&w->core);
}

static enum err open_core(struct worker *w, const struct worker_options *options)
{
    w->config = *options->config;
    const struct node_config *config = &w->config;
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
                                                          .board_path = board,
                                                          .store_path = store,
                                                          .lane = made,
                                                          .events = &events });
        if (err)
            upstream_lane_close(made);
    }
    free(store);
    free(board);
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
                                        .reload = on_reload,
                                        .adopt_listener = on_adopt_listener,
                                        .drop_listener = on_drop_listener,
                                        .user = w };
    char *path = node_config_path(options->config, HOME_NODE_SOCKET);
    enum err err = path ? link_open(&w->link, &w->loop, path, options->slot, options->listener_fd, &events) : ERR_NOMEM;
    free(path);
    return err;
}

static enum err start(struct worker *w, const struct worker_options *options)
{
    enum err err = open_core(w, options);
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
    /* Before the first client: nobody is told "no policy" by a worker that merely has not looked. */
    loader_refresh(&w->core.loader);
    REQUIRE(w->config.listener_count > 0);
    return listener_open(&w->listener, &w->core, w->config.listeners, &options->listener_fd, 1, on_emptied, w);
}

int worker_run(const struct worker_options *options)
{
    static struct worker worker; /* one a process; it is large and lives as long as that */
    struct worker *w = &worker;
    signal(SIGPIPE, SIG_IGN); /* a client that left is an error of its write */
    signal(SIGINT, SIG_IGN);  /* of a terminal: it is for the master, which then drains us */
    REQUIRE(uv_loop_init(&w->loop) == 0);
    enum err err = start(w, options);
    if (err) {
        log_error("worker.failed", LOG_U64("slot", options->slot), LOG_ERR(err));
        return 1; /* the process ends: nothing of ours outlives it */
    }
    log_info("worker.started", LOG_U64("slot", options->slot));
    uv_run(&w->loop, UV_RUN_DEFAULT);
    core_release(&w->core);
    (void)uv_loop_close(&w->loop);
    if (w->own_credentials)
        credentials_free(w->config.credentials);
    log_info("worker.stopped", LOG_U64("slot", options->slot));
    return 0;
}
