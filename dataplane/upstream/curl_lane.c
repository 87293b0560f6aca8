/* The curl lane: libcurl's multi interface on libuv's loop.
 *
 * Three rules keep it sound, each from a known trap (curl issues 3537, 2393):
 *   - curl's timer callback only arms a uv timer, it never calls curl;
 *   - the owner's start, pause, resume and cancel inside curl's callbacks are only noted, and obeyed when curl has
 * returned;
 *   - a failed curl_multi_socket_action ends every try and rebuilds the multi handle. */
#include "dataplane/upstream/curl_internal.h"
#include "common/fault.h"
#include <strings.h>

struct watch { /* one socket that curl wants watched */
    uv_poll_t poll;
    struct curl_lane *lane;
    curl_socket_t fd;
};

/* ---- a try's life ---- */

static void link_transfer(struct curl_lane *lane, struct transfer *t)
{
    t->next = lane->transfers;
    if (t->next)
        t->next->previous = t;
    lane->transfers = t;
    lane->active++;
}

static void unlink_transfer(struct curl_lane *lane, struct transfer *t)
{
    if (t->previous)
        t->previous->next = t->next;
    else
        lane->transfers = t->next;
    if (t->next)
        t->next->previous = t->previous;
    t->next = t->previous = NULL;
    lane->active--;
    for (struct transfer **at = &lane->with_errand; t->has_errand && *at; at = &(*at)->next_errand) {
        if (*at == t) {
            *at = t->next_errand;
            break;
        }
    }
}

/* curl's limit is of all connections, those in use too, and is looked at when one falls idle. */
static void bound_connections(struct curl_lane *lane)
{
    const unsigned busy = lane->active ? lane->active - 1 : 0; /* beside the one that falls idle next */
    curl_multi_setopt(lane->multi, CURLMOPT_MAXCONNECTS, (long)busy + (long)lane->idle_max);
}

static void recycle_easy(struct curl_lane *lane, CURL *easy)
{
    if (lane->closing || lane->pool_count == EASY_POOL_MAX) {
        curl_easy_cleanup(easy);
        return;
    }
    curl_easy_reset(easy); /* keeps its buffers; live connections belong to the multi */
    lane->pool[lane->pool_count++] = easy;
}

/* Out of curl and of the lane's lists. Never inside a curl callback. */
static void detach(struct transfer *t)
{
    struct curl_lane *lane = transfer_lane(t);
    REQUIRE(lane->in_curl == 0);
    if (t->added) {
        lane->in_curl++;
        curl_multi_remove_handle(lane->multi, t->easy);
        lane->in_curl--;
        t->added = false;
    }
    unlink_transfer(lane, t);
    bound_connections(lane);
}

static void free_transfer(struct transfer *t)
{
    if (t->easy)
        recycle_easy(transfer_lane(t), t->easy);
    for (struct curl_slist *line = t->headers; line; line = line->next)
        explicit_bzero(line->data, strlen(line->data)); /* one holds the credential */
    curl_slist_free_all(t->headers);
    free(t->copied_body);
    buf_release(&t->head);
    t->copied_bytes = 0;
    t->is_paused = false;
    (void)transfer_account(t);
    free(t);
}

static int64_t certificate_expiry(const struct transfer *t)
{
    struct curl_certinfo *certificates = NULL;
    if (!t->tls || curl_easy_getinfo(t->easy, CURLINFO_CERTINFO, &certificates) != CURLE_OK || !certificates ||
        certificates->num_of_certs < 1)
        return 0;
    for (const struct curl_slist *row = certificates->certinfo[0]; row; row = row->next) {
        if (strncasecmp(row->data, "Expire date:", 12) == 0) {
            const time_t at = curl_getdate(row->data + 12, NULL);
            return at > 0 ? (int64_t)at * 1000 : 0;
        }
    }
    return 0;
}

/* Detached first: the owner may start the next try, or close the lane, in done. */
static void finish(struct transfer *t, enum err err, const char *why)
{
    const struct upstream_result result = {
        .err = err, .phase = t->phase, .why = why, .certificate_expires_at_ms = certificate_expiry(t)
    };
    detach(t);
    t->finished = true;
    if (!t->cancelled)
        t->events.done(t->user, &result);
    free_transfer(t);
}

/* ---- curl's callbacks: sockets and time ---- */

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *watch = handle->data;
    struct curl_lane *lane = watch->lane;
    free(watch);
    if (--lane->open_handles == 0 && lane->closing)
        free(lane);
}

static void act(struct curl_lane *lane, curl_socket_t fd, int events);

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct watch *watch = poll->data;
    int mask = 0;
    if (status < 0)
        mask = CURL_CSELECT_ERR;
    if (events & UV_READABLE)
        mask |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        mask |= CURL_CSELECT_OUT;
    act(watch->lane, watch->fd, mask);
}

static int on_socket(UNUSED CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user)
{
    struct curl_lane *lane = user;
    struct watch *watch = socket_user;
    if (what == CURL_POLL_REMOVE) {
        if (watch) {
            curl_multi_assign(lane->multi, fd, NULL);
            uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
        }
        return 0;
    }
    if (!watch) {
        watch = fault_calloc(1, sizeof(*watch));
        if (!watch)
            return -1;
        watch->lane = lane;
        watch->fd = fd;
        if (uv_poll_init_socket(lane->loop, &watch->poll, fd) != 0) {
            free(watch);
            return -1;
        }
        watch->poll.data = watch;
        lane->open_handles++;
        curl_multi_assign(lane->multi, fd, watch);
    }
    const int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&watch->poll, events, on_ready) == 0 ? 0 : -1;
}

static void on_timeout(uv_timer_t *timer)
{
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static int on_timer(UNUSED CURLM *multi, long timeout_ms, void *user)
{
    struct curl_lane *lane = user;
    if (lane->closing)
        return 0;
    if (timeout_ms < 0)
        uv_timer_stop(&lane->timer);
    else
        uv_timer_start(&lane->timer, on_timeout, (uint64_t)timeout_ms, 0);
    return 0;
}

/* ---- driving ---- */

static CURLM *new_multi(struct curl_lane *lane)
{
    CURLM *multi = curl_multi_init();
    if (!multi)
        return NULL;
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, lane);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, lane);
    curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    return multi;
}

static struct transfer *next_removed(struct curl_lane *lane)
{
    struct transfer *t = lane->transfers;
    while (t && t->added) /* NOLINT(clang-analyzer-unix.Malloc): it does not see that finish takes it off the list */
        t = t->next;
    return t;
}

/* The multi handle cannot be trusted any more: every try ends, a new one begins. */
static void rebuild(struct curl_lane *lane)
{
    struct transfer *t;
    lane->in_curl++;
    for (t = lane->transfers; t; t = t->next) {
        curl_multi_remove_handle(lane->multi, t->easy);
        t->added = false;
    }
    curl_multi_cleanup(lane->multi);
    lane->in_curl--;
    lane->multi = new_multi(lane);
    /* What done starts anew belongs to the new handle. */
    while (!lane->closing && (t = next_removed(lane)))
        finish(t, ERR_IO, "the transfer engine failed and was rebuilt");
}

static struct transfer *next_finished(struct curl_lane *lane, CURLcode *ret_code)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(lane->multi, &left))) {
        struct transfer *t = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        *ret_code = message->data.result;
        if (curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t) == CURLE_OK && t)
            return t;
    }
    return NULL;
}

static void act(struct curl_lane *lane, curl_socket_t fd, int events)
{
    struct transfer *t;
    CURLcode code;
    int running;
    if (lane->closing || !lane->multi)
        return;
    lane->in_curl++;
    const CURLMcode failed = curl_multi_socket_action(lane->multi, fd, events, &running);
    lane->in_curl--;
    if (failed != CURLM_OK && failed != CURLM_BAD_SOCKET) {
        rebuild(lane);
        return;
    }
    while (!lane->closing && (t = next_finished(lane, &code))) {
        const char *why;
        const enum err err = transfer_result(t, code, &why);
        finish(t, err, why);
    }
}

static bool add_to_multi(struct transfer *t)
{
    struct curl_lane *lane = transfer_lane(t);
    bound_connections(lane);
    lane->in_curl++;
    t->added = curl_multi_add_handle(lane->multi, t->easy) == CURLM_OK;
    lane->in_curl--;
    return t->added;
}

static void run_errand(struct transfer *t)
{
    struct curl_lane *lane = transfer_lane(t);
    if (t->cancelled) {
        detach(t);
        free_transfer(t);
    } else if (!t->added) {
        if (!add_to_multi(t))
            finish(t, ERR_NOMEM, "the transfer engine takes no more");
    } else if (t->is_paused && !t->want_pause) {
        t->is_paused = false;
        (void)transfer_account(t);
        lane->in_curl++;
        curl_easy_pause(t->easy, CURLPAUSE_CONT); /* may call on_body; its failure shows in act */
        lane->in_curl--;
    }
}

/* What was asked for inside curl's callbacks, and resumes. */
static void on_errands(uv_timer_t *timer)
{
    struct curl_lane *lane = timer->data;
    while (!lane->closing && lane->with_errand) {
        struct transfer *t = lane->with_errand;
        lane->with_errand = t->next_errand;
        t->has_errand = false;
        run_errand(t);
    }
    act(lane, CURL_SOCKET_TIMEOUT, 0);
}

static void run_errand_soon(struct transfer *t)
{
    struct curl_lane *lane = transfer_lane(t);
    if (t->has_errand)
        return;
    t->has_errand = true;
    t->next_errand = lane->with_errand;
    lane->with_errand = t;
    uv_timer_start(&lane->errands, on_errands, 0, 0);
}

/* ---- the owner's calls ---- */

static enum err lane_start(struct upstream_lane *base, const struct upstream_request *request,
                           const struct upstream_events *events, void *user, struct upstream **ret)
{
    struct curl_lane *lane = (struct curl_lane *)(void *)base;
    REQUIRE(!lane->closing);
    if (lane->active >= lane->connections_max)
        return ERR_TOO_MANY;
    if (!lane->multi && !(lane->multi = new_multi(lane)))
        return ERR_NOMEM;
    struct transfer *t = fault_calloc(1, sizeof(*t));
    if (!t)
        return ERR_NOMEM;
    t->base.lane = base;
    t->events = *events;
    t->user = user;
    t->tls = request->provider->tls;
    t->http2 = request->provider->http2;
    t->head_bytes_max = request->response_head_bytes_max;
    buf_init(&t->head, t->head_bytes_max);
    t->easy = lane->pool_count ? lane->pool[--lane->pool_count] : curl_easy_init();
    enum err err = t->easy ? transfer_set_up(t, request) : ERR_NOMEM;
    if (err) {
        free_transfer(t);
        return err;
    }
    link_transfer(lane, t);
    if (lane->in_curl) {
        run_errand_soon(t); /* curl takes no new handle inside its callbacks */
    } else if (!add_to_multi(t)) {
        detach(t);
        free_transfer(t);
        return ERR_NOMEM;
    }
    (void)transfer_account(t);
    *ret = &t->base;
    return OK;
}

static struct transfer *transfer_of(const struct upstream *upstream)
{
    return (struct transfer *)(void *)upstream;
}

static void lane_pause(struct upstream *upstream)
{
    transfer_of(upstream)->want_pause = true; /* on_body tells curl when bytes come */
}

static void lane_resume(struct upstream *upstream)
{
    struct transfer *t = transfer_of(upstream);
    t->want_pause = false;
    if (t->is_paused && !t->finished)
        run_errand_soon(t);
}

static void lane_cancel(struct upstream *upstream)
{
    struct transfer *t = transfer_of(upstream);
    if (t->finished) /* inside done: freed right after it */
        return;
    t->cancelled = true;
    if (transfer_lane(t)->in_curl) { /* the callback that we are in makes curl give up; the errand frees */
        run_errand_soon(t);
        return;
    }
    detach(t);
    free_transfer(t);
}

static enum upstream_phase lane_phase(const struct upstream *upstream)
{
    return transfer_of(upstream)->phase;
}

static size_t lane_buffered(const struct upstream *upstream)
{
    const struct transfer *t = transfer_of(upstream);
    return t->accounted;
}

static bool lane_release_body(struct upstream *upstream)
{
    struct transfer *t = transfer_of(upstream);
    if (!t->parts)
        return true; /* copied, or none */
    return t->phase >= UPSTREAM_HEAD && t->part_at == t->part_count;
}

static void lane_stats(const struct upstream_lane *base, struct upstream_lane_stats *ret)
{
    const struct curl_lane *lane = (const struct curl_lane *)(const void *)base;
    *ret = (struct upstream_lane_stats){ .connects = lane->connects, .reused = lane->reused, .active = lane->active };
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct curl_lane *lane = handle->data;
    if (--lane->open_handles == 0)
        free(lane);
}

static void lane_close(struct upstream_lane *base)
{
    struct curl_lane *lane = (struct curl_lane *)(void *)base;
    REQUIRE(lane->in_curl == 0);
    lane->closing = true;
    while (lane->transfers) {
        struct transfer *t = lane->transfers;
        detach(t); /* NOLINT(clang-analyzer-unix.Malloc): it does not see that this takes it off the list */
        free_transfer(t);
    }
    while (lane->pool_count)
        curl_easy_cleanup(lane->pool[--lane->pool_count]);
    lane->in_curl++;
    if (lane->multi)
        curl_multi_cleanup(lane->multi); /* closes the idle connections: their watches go by on_socket */
    lane->in_curl--;
    free(lane->ca_file);
    free(lane->name_servers);
    lane->ca_file = lane->name_servers = NULL;
    uv_close((uv_handle_t *)&lane->timer, on_timer_closed);
    uv_close((uv_handle_t *)&lane->errands, on_timer_closed);
}

static void lane_keep_idle(struct upstream_lane *base, unsigned most)
{
    struct curl_lane *lane = (struct curl_lane *)(void *)base;
    lane->idle_max = most; /* heeded when a transfer begins or ends */
}

static const struct upstream_ops curl_ops = {
    .start = lane_start,
    .pause = lane_pause,
    .resume = lane_resume,
    .cancel = lane_cancel,
    .phase = lane_phase,
    .buffered = lane_buffered,
    .release_body = lane_release_body,
    .stats = lane_stats,
    .keep_idle = lane_keep_idle,
    .close = lane_close,
};

enum err curl_lane_new(const struct upstream_lane_options *options, struct upstream_lane **ret)
{
    static bool initialised;
    if (!initialised && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return ERR_NOMEM;
    initialised = true;
    struct curl_lane *lane = fault_calloc(1, sizeof(*lane));
    if (!lane)
        return ERR_NOMEM;
    lane->base.ops = &curl_ops;
    lane->loop = options->loop;
    lane->connections_max = options->connections_max;
    lane->idle_max = options->connections_idle_max;
    lane->account = options->account;
    lane->account_user = options->account_user;
    const bool copied = upstream_copy_text(options->ca_file, &lane->ca_file) &&
                        upstream_copy_text(options->name_servers, &lane->name_servers);
    lane->multi = copied ? new_multi(lane) : NULL;
    if (!lane->multi) {
        free(lane->ca_file);
        free(lane->name_servers);
        free(lane);
        return ERR_NOMEM;
    }
    uv_timer_init(lane->loop, &lane->timer);
    uv_timer_init(lane->loop, &lane->errands);
    lane->timer.data = lane->errands.data = lane;
    lane->open_handles = 2;
    *ret = &lane->base;
    return OK;
}
