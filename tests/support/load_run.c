#include "tests/support/load_run.h"
#include "tests/support/load_conn.h"
#include <signal.h>
#include <sys/timerfd.h>
#include <unistd.h>

struct run {
    struct load_shared shared;
    struct load_conn *conns;
    struct load_conn **idle; /* a stack: the one that was used last is the warmest */
    size_t idle_count;
    uint64_t issued;
    bool stopping, ended;
    int timer_fd;
    uint64_t alarm_for; /* number of the request that the timer is set for, or UINT64_MAX */
    uv_poll_t arrivals;
    uv_prepare_t before_poll;
    uv_timer_t end, progress;
    uv_signal_t signals[2];
    uint64_t last_progress;
};

/* ---- who sends when ---- */

static struct run *run_of(const struct load_conn *conn)
{
    return CONTAINER_OF(conn->shared, struct run, shared);
}

static bool may_issue(const struct run *run)
{
    return !run->stopping && run->issued < run->shared.plan->requests;
}

static bool is_open_loop(const struct load_plan *plan)
{
    return plan->due_ns || plan->rate > 0;
}

/* Of a request that may be issued. */
static uint64_t due_ns(const struct run *run, uint64_t number)
{
    const struct load_plan *plan = run->shared.plan;
    return run->shared.started_ns +
           (plan->due_ns ? plan->due_ns[number] : (uint64_t)((double)number * 1e9 / plan->rate));
}

static void start_request(struct load_conn *conn, uint64_t due)
{
    load_conn_start(conn, run_of(conn)->issued++, due);
}

static void set_alarm(struct run *run)
{
    if (run->alarm_for == run->issued)
        return;
    run->alarm_for = run->issued;
    uint64_t at = due_ns(run, run->issued);
    struct itimerspec spec = { .it_value = { .tv_sec = (time_t)(at / 1000000000),
                                             .tv_nsec = (long)(at % 1000000000) } };
    (void)timerfd_settime(run->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Gives what is due to connections that have nothing to do. Once in a turn of the loop, after all responses that were
 * there have been read: were it done after each of them, sending would starve reading near saturation, and the answers
 * would seem late. */
static void dispatch(struct run *run)
{
    while (run->idle_count > 0 && may_issue(run)) {
        uint64_t due = due_ns(run, run->issued);
        if (due > uv_hrtime()) {
            set_alarm(run);
            return;
        }
        struct load_conn *conn = run->idle[--run->idle_count];
        conn->idle = false;
        if (load_conn_is_free(conn)) /* else its server has just closed it, and it comes back when that is done */
            start_request(conn, due);
    }
}

/* Of a connection that is open or closed, and has no request. */
static void take_work(struct load_conn *conn)
{
    struct run *run = run_of(conn);
    if (conn->idle || !may_issue(run) || !load_conn_is_free(conn))
        return;
    if (!is_open_loop(run->shared.plan)) {
        start_request(conn, uv_hrtime());
        return;
    }
    if (run->idle_count == 0 && due_ns(run, run->issued) <= uv_hrtime())
        run->shared.tally->waited++;
    conn->idle = true;
    run->idle[run->idle_count++] = conn;
}

static void on_arrival(uv_poll_t *poll, int status, int events)
{
    struct run *run = poll->data;
    uint64_t expirations;
    (void)status;
    (void)events;
    if (read(run->timer_fd, &expirations, sizeof(expirations)) > 0)
        run->alarm_for = UINT64_MAX;
}

static void on_before_poll(uv_prepare_t *prepare)
{
    dispatch(prepare->data);
}

/* ---- the run ---- */

static void end_run(struct run *run)
{
    if (run->ended)
        return;
    run->ended = run->stopping = true;
    run->shared.tally->seconds = (double)(uv_hrtime() - run->shared.started_ns) / 1e9;
    for (unsigned i = 0; i < run->shared.plan->connections; i++)
        load_conn_end(&run->conns[i]);
    uv_close((uv_handle_t *)&run->end, NULL);
    uv_close((uv_handle_t *)&run->progress, NULL);
    for (size_t i = 0; i < ARRAY_LEN(run->signals); i++)
        uv_close((uv_handle_t *)&run->signals[i], NULL);
    if (run->timer_fd >= 0) {
        uv_close((uv_handle_t *)&run->arrivals, NULL);
        uv_close((uv_handle_t *)&run->before_poll, NULL);
    }
}

static void maybe_end(struct load_shared *shared)
{
    struct run *run = CONTAINER_OF(shared, struct run, shared);
    if (!run->ended && run->shared.active == 0 && !may_issue(run))
        end_run(run);
}

static void on_drained(uv_timer_t *timer)
{
    end_run(timer->data);
}

static void stop_issuing(struct run *run)
{
    if (run->ended)
        return;
    run->stopping = true;
    if (run->shared.plan->hold)
        end_run(run);
    else
        uv_timer_start(&run->end, on_drained, run->shared.plan->drain_ms, 0);
    maybe_end(&run->shared);
}

static void on_time_over(uv_timer_t *timer)
{
    stop_issuing(timer->data);
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)number;
    stop_issuing(handle->data);
}

static void on_progress(uv_timer_t *timer)
{
    struct run *run = timer->data;
    const struct load_watch *watch = run->shared.plan->watch;
    uint64_t now = run->shared.tally->requests;
    if (watch && watch->progress) {
        watch->progress(watch->user, run->issued, run->shared.active, load_tally_failed(run->shared.tally));
        return;
    }
    fprintf(stderr, "loadgen: %.0f s, %llu requests (%llu/s), %llu failed, %llu running\n",
            (double)(uv_hrtime() - run->shared.started_ns) / 1e9, (unsigned long long)now,
            (unsigned long long)(now - run->last_progress), (unsigned long long)load_tally_failed(run->shared.tally),
            (unsigned long long)run->shared.active);
    run->last_progress = now;
}

static enum err open_arrivals(struct run *run)
{
    run->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); /* uv_hrtime's clock */
    run->alarm_for = UINT64_MAX;
    if (run->timer_fd < 0 || uv_poll_init(&run->shared.loop, &run->arrivals, run->timer_fd) != 0 ||
        uv_prepare_init(&run->shared.loop, &run->before_poll) != 0 ||
        uv_prepare_start(&run->before_poll, on_before_poll) != 0)
        return ERR_IO;
    run->arrivals.data = run->before_poll.data = run;
    return uv_poll_start(&run->arrivals, UV_READABLE, on_arrival) == 0 ? OK : ERR_IO;
}

static enum err open_timers(struct run *run)
{
    static const int numbers[] = { SIGINT, SIGTERM };
    if (uv_timer_init(&run->shared.loop, &run->end) != 0 || uv_timer_init(&run->shared.loop, &run->progress) != 0)
        return ERR_IO;
    run->end.data = run->progress.data = run;
    if (run->shared.plan->duration_ms > 0)
        uv_timer_start(&run->end, on_time_over, run->shared.plan->duration_ms, 0);
    if (run->shared.plan->progress)
        uv_timer_start(&run->progress, on_progress, 1000, 1000);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        if (uv_signal_init(&run->shared.loop, &run->signals[i]) != 0)
            return ERR_IO;
        run->signals[i].data = run;
        uv_signal_start(&run->signals[i], on_signal, numbers[i]);
    }
    return OK;
}

static enum err start(struct run *run)
{
    unsigned count = run->shared.plan->connections;
    run->conns = calloc(count, sizeof(*run->conns));
    run->idle = calloc(count, sizeof(struct load_conn *));
    if (!run->conns || !run->idle)
        return ERR_NOMEM;
    load_conn_settings(&run->shared.settings);
    enum err err = open_timers(run);
    if (err == OK && is_open_loop(run->shared.plan))
        err = open_arrivals(run);
    if (err != OK)
        return err;
    run->shared.started_ns = uv_hrtime();
    for (unsigned i = 0; i < count; i++) {
        err = load_conn_init(&run->conns[i], &run->shared);
        if (err != OK)
            return err;
    }
    for (unsigned i = 0; i < count && !run->ended; i++)
        take_work(&run->conns[i]);
    run->shared.tally->waited = 0; /* the first ones found nobody who could have been late */
    maybe_end(&run->shared);
    return OK;
}

enum err load_run(const struct load_plan *plan, struct load_tally *tally)
{
    struct run *run = calloc(1, sizeof(*run));
    if (!run)
        return ERR_NOMEM;
    run->shared.plan = plan;
    run->shared.tally = tally;
    run->shared.on_free = take_work;
    run->shared.on_settled = maybe_end;
    run->timer_fd = -1;
    if (uv_loop_init(&run->shared.loop) != 0) {
        free(run);
        return ERR_IO;
    }
    enum err err = start(run);
    if (err == OK) {
        uv_run(&run->shared.loop, UV_RUN_DEFAULT);
        REQUIRE(uv_loop_close(&run->shared.loop) == 0);
        for (unsigned i = 0; i < plan->connections; i++)
            load_conn_release(&run->conns[i]);
    }
    if (run->timer_fd >= 0)
        close(run->timer_fd);
    free(run->idle);
    free(run->conns);
    free(run);
    return err;
}
