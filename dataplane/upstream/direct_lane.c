/* The direct lane: HTTP/1.1 over sockets of libuv, with connections kept for reuse. */
#include "dataplane/upstream/direct_internal.h"
#include "common/fault.h"

#define IDLE_HEAD_BYTES                                                                                                \
    4096u /* an idle connection keeps the room of a common head, not that of the largest it has seen */

/* ---- destinations ---- */

/* FNV-1a: hosts come from the policy, nobody chooses them to collide. */
static unsigned bucket_of(const struct provider *p)
{
    uint32_t hash = 2166136261u ^ p->port ^ (p->tls ? 0x10000u : 0u);
    for (size_t i = 0; i < p->host.len; i++)
        hash = (hash ^ (unsigned char)p->host.ptr[i]) * 16777619u;
    return (hash ^ hash >> 16) % DIRECT_BUCKETS;
}

static void read_literal(struct direct_destination *d)
{
    union direct_address *a = &d->addresses[0];
    d->literal = uv_ip4_addr(d->host, d->port, &a->v4) == 0 || uv_ip6_addr(d->host, d->port, &a->v6) == 0;
    d->address_count = d->literal;
}

/* ERR_NOMEM. Counts one more user. */
static enum err use_destination(struct direct_lane *lane, const struct provider *p, struct direct_destination **ret)
{
    struct direct_destination **bucket = &lane->buckets[bucket_of(p)], *d = *bucket;
    while (d && !(d->port == p->port && d->tls == p->tls && span_eq(span_of(d->host, d->host_len), p->host)))
        d = d->next;
    if (!d) {
        d = fault_calloc(1, sizeof(*d) + p->host.len + 1);
        if (!d)
            return ERR_NOMEM;
        d->lane = lane;
        d->port = p->port;
        d->tls = p->tls;
        d->host_len = p->host.len;
        memcpy(d->host, p->host.ptr, p->host.len);
        read_literal(d);
        d->next = *bucket;
        *bucket = d;
    } else if (d->users == 0) {
        lane->unused_destinations--;
    }
    d->users++;
    *ret = d;
    return OK;
}

static void free_destination(struct direct_destination *d)
{
    direct_tls_forget(d);
    free(d);
}

void direct_destination_unuse(struct direct_destination *d)
{
    struct direct_lane *lane = d->lane;
    REQUIRE(d->users > 0);
    if (--d->users > 0)
        return;
    if (lane->unused_destinations < DIRECT_DESTINATIONS_KEPT_MAX) {
        lane->unused_destinations++;
        return;
    }
    for (unsigned i = 0; i < DIRECT_BUCKETS; i++) {
        for (struct direct_destination **at = &lane->buckets[i]; *at; at = &(*at)->next) {
            if (*at == d) {
                *at = d->next;
                free_destination(d);
                return;
            }
        }
    }
}

/* ---- the pool ---- */

static void on_idle_timer(uv_timer_t *timer);

static void watch_oldest(struct direct_lane *lane)
{
    const uint64_t due_ms = lane->oldest_idle->idle_since_ms + lane->idle_ms, now_ms = direct_now_ms(lane);
    uv_timer_start(&lane->idle_timer, on_idle_timer, due_ms > now_ms ? due_ms - now_ms : 0, 0);
}

static void on_idle_timer(uv_timer_t *timer)
{
    struct direct_lane *lane = timer->data;
    while (lane->oldest_idle && lane->oldest_idle->idle_since_ms + lane->idle_ms <= direct_now_ms(lane))
        direct_conn_close(lane->oldest_idle);
    if (lane->oldest_idle)
        watch_oldest(lane);
}

void direct_pool_drop_oldest(struct direct_lane *lane)
{
    if (lane->oldest_idle)
        direct_conn_close(lane->oldest_idle);
}

void direct_pool_remove(struct direct_conn *conn)
{
    struct direct_lane *lane = conn->lane;
    if (conn->older)
        conn->older->newer = conn->newer;
    else
        lane->oldest_idle = conn->newer;
    if (conn->newer)
        conn->newer->older = conn->older;
    else
        lane->newest_idle = conn->older;
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        conn->destination->idle = conn->next;
    if (conn->next)
        conn->next->previous = conn->previous;
    conn->older = conn->newer = conn->next = conn->previous = NULL;
    lane->idle--;
}

static void pool_add(struct direct_conn *conn)
{
    struct direct_lane *lane = conn->lane;
    struct direct_destination *d = conn->destination;
    http1_reset(&conn->parser);
    if (conn->parser.bytes.cap > IDLE_HEAD_BYTES)
        http1_trim(&conn->parser);
    buf_release(&conn->held); /* a pause left its memory */
    if (http1_memory(&conn->parser) > DIRECT_IDLE_BYTES)
        http1_trim(&conn->parser);
    conn->idle_since_ms = direct_now_ms(lane);
    conn->older = lane->newest_idle;
    if (conn->older)
        conn->older->newer = conn;
    else
        lane->oldest_idle = conn;
    lane->newest_idle = conn;
    conn->next = d->idle;
    if (conn->next)
        conn->next->previous = conn;
    d->idle = conn;
    lane->idle++;
    direct_conn_become(conn, DIRECT_CONN_IDLE);
    direct_conn_account(conn);
    if (lane->idle > lane->idle_max)
        direct_pool_drop_oldest(lane);
    if (lane->oldest_idle && !uv_is_active((const uv_handle_t *)&lane->idle_timer))
        watch_oldest(lane);
}

/* ---- a try's life ---- */

static void on_timer(uv_timer_t *timer)
{
    struct direct_try *t = timer->data;
    if (t->fails)
        direct_try_finish(t, t->failure, t->failure_why);
    else if (t->phase == UPSTREAM_CONNECTING)
        direct_dial_due(t);
    else if (t->conn && !t->paused)
        direct_conn_resume(t->conn); /* accounts by itself: the try may be gone */
}

void direct_try_wake_in(struct direct_try *t, uint64_t ms)
{
    uv_timer_start(&t->timer, on_timer, ms, 0);
}

static struct direct_try *new_try(struct direct_lane *lane)
{
    struct direct_try *t = lane->spare_tries;
    if (t) {
        lane->spare_tries = t->next;
        lane->spare_try_count--;
        return t;
    }
    t = fault_calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->base.lane = &lane->base;
    uv_timer_init(lane->loop, &t->timer);
    t->timer.data = t;
    lane->open_handles++;
    return t;
}

static struct direct_lane *lane_of(const struct direct_try *t)
{
    return (struct direct_lane *)(void *)t->base.lane;
}

static void on_try_closed(uv_handle_t *handle)
{
    struct direct_try *t = handle->data;
    struct direct_lane *lane = lane_of(t);
    free(t);
    direct_handle_closed(lane);
}

static void retire(struct direct_try *t)
{
    struct direct_lane *lane = lane_of(t);
    if (lane->closing || lane->spare_try_count == DIRECT_SPARES_MAX) {
        uv_close((uv_handle_t *)&t->timer, on_try_closed);
        return;
    }
    t->next = lane->spare_tries;
    lane->spare_tries = t;
    lane->spare_try_count++;
}

static void link_try(struct direct_lane *lane, struct direct_try *t)
{
    t->previous = NULL;
    t->next = lane->tries;
    if (t->next)
        t->next->previous = t;
    lane->tries = t;
    lane->active++;
}

/* Away from all that knows it, its connection closed. */
static void detach(struct direct_try *t)
{
    struct direct_lane *lane = lane_of(t);
    direct_dial_stop(t);
    if (t->conn)
        direct_conn_close(t->conn);
    uv_timer_stop(&t->timer);
    if (t->previous)
        t->previous->next = t->next;
    else
        lane->tries = t->next;
    if (t->next)
        t->next->previous = t->previous;
    lane->active--;
    direct_destination_unuse(t->destination);
    t->destination = NULL;
}

void direct_try_finish(struct direct_try *t, enum err err, const char *why)
{
    const bool connected = t->phase > UPSTREAM_CONNECTING;
    const struct upstream_result result = { .err = err,
                                            .phase = t->phase,
                                            .why = why,
                                            .certificate_expires_at_ms =
                                                connected ? t->destination->certificate_expires_at_ms : 0 };
    detach(t);
    t->finished = true; /* a cancel in done finds it so */
    t->events.done(t->user, &result);
    retire(t);
}

void direct_try_fail_soon(struct direct_try *t, enum err err, const char *why)
{
    direct_dial_stop(t);
    t->fails = true;
    t->failure = err;
    t->failure_why = why;
    direct_try_wake_in(t, 0);
}

static bool may_go_again(const struct direct_try *t)
{
    return t->conn && t->conn->reused && !t->conn->heard && !t->again && t->phase < UPSTREAM_HEAD;
}

static void go_again(struct direct_try *t)
{
    direct_conn_close(t->conn);
    t->again = true;
    t->sent = t->sent_head = false;
    t->part_at = 0;
    t->part_offset = 0;
    direct_dial(t);
}

void direct_try_broken(struct direct_try *t, enum err err, const char *why)
{
    if (may_go_again(t))
        go_again(t);
    else
        direct_try_finish(t, err, why);
}

void direct_try_complete(struct direct_try *t, bool reusable)
{
    struct direct_conn *conn = t->conn;
    struct direct_lane *lane = conn->lane;
    if (reusable && t->sent && !conn->writing && lane->idle_max > 0 && direct_conn_read(conn) == 0) {
        conn->try = NULL;
        t->conn = NULL;
        pool_add(conn);
    }
    direct_try_finish(t, OK, "");
}

/* ---- the owner's calls ---- */

static void send_on_idle(struct direct_try *t)
{
    struct direct_conn *conn = t->destination->idle;
    direct_pool_remove(conn);
    direct_conn_become(conn, DIRECT_CONN_BUSY);
    conn->try = t;
    conn->reused = true;
    conn->heard = false;
    t->conn = conn;
    t->phase = UPSTREAM_SENDING;
    if (direct_conn_send(conn) != OK)
        go_again(t);
}

static enum err lane_start(struct upstream_lane *base, const struct upstream_request *request,
                           const struct upstream_events *events, void *user, struct upstream **ret)
{
    struct direct_lane *lane = (struct direct_lane *)(void *)base;
    struct direct_destination *destination;
    REQUIRE(!lane->closing);
    if (lane->active >= lane->connections_max)
        return ERR_TOO_MANY;
    buf_clear(&lane->head);
    enum err err = direct_head_write(&lane->head, request); /* judged now, though it may be written again later */
    if (err)
        return err;
    err = use_destination(lane, request->provider, &destination);
    if (err)
        return err;
    struct direct_try *t = new_try(lane);
    if (!t) {
        direct_destination_unuse(destination);
        return ERR_NOMEM;
    }
    t->request = *request;
    t->events = *events;
    t->user = user;
    t->destination = destination;
    t->conn = t->dials = NULL;
    t->dialed = t->part_at = 0;
    t->part_offset = 0;
    t->phase = UPSTREAM_CONNECTING;
    t->failure = OK;
    t->waits = t->fails = t->paused = t->again = t->sent = t->sent_head = t->finished = false;
    link_try(lane, t);
    if (destination->idle)
        send_on_idle(t);
    else
        direct_dial(t);
    if (t->conn)
        direct_conn_account(t->conn);
    *ret = &t->base;
    return OK;
}

static struct direct_try *try_of(const struct upstream *upstream)
{
    return (struct direct_try *)(void *)upstream;
}

static void lane_pause(struct upstream *upstream)
{
    struct direct_try *t = try_of(upstream);
    t->paused = true;
    if (t->conn && !t->finished)
        direct_conn_pause(t->conn);
}

static void lane_resume(struct upstream *upstream)
{
    struct direct_try *t = try_of(upstream);
    if (!t->paused)
        return;
    t->paused = false;
    if (t->conn && !t->fails && !t->finished)
        direct_try_wake_in(t, 0);
}

static void lane_cancel(struct upstream *upstream)
{
    struct direct_try *t = try_of(upstream);
    if (t->finished)
        return;
    detach(t);
    retire(t);
}

static enum upstream_phase lane_phase(const struct upstream *upstream)
{
    return try_of(upstream)->phase;
}

static size_t lane_buffered(const struct upstream *upstream)
{
    const struct direct_conn *conn = try_of(upstream)->conn;
    return conn ? direct_conn_memory(conn) : 0;
}

static bool lane_release_body(struct upstream *upstream)
{
    struct direct_try *t = try_of(upstream);
    return t->sent && t->phase >= UPSTREAM_HEAD; /* before that it may have to be sent again */
}

static void lane_stats(const struct upstream_lane *base, struct upstream_lane_stats *ret)
{
    const struct direct_lane *lane = (const struct direct_lane *)(const void *)base;
    *ret = (struct upstream_lane_stats){ .connects = lane->connects, .reused = lane->reused, .active = lane->active };
}

static void free_lane(struct direct_lane *lane)
{
    for (unsigned i = 0; i < DIRECT_BUCKETS; i++) {
        for (struct direct_destination *d = lane->buckets[i], *next; d; d = next) {
            next = d->next;
            free_destination(d);
        }
    }
    direct_tls_lane_free(lane);
    buf_release(&lane->head);
    buf_release(&lane->cipher);
    free(lane->read_buffer);
    free(lane->plain_in);
    free(lane->plain_out);
    free(lane->ca_file);
    free(lane->name_servers);
    free(lane->resolv_conf);
    free(lane);
}

void direct_handle_closed(struct direct_lane *lane)
{
    if (--lane->open_handles == 0 && lane->closing)
        free_lane(lane);
}

static void on_idle_timer_closed(uv_handle_t *handle)
{
    direct_handle_closed(handle->data);
}

static void lane_close(struct upstream_lane *base)
{
    struct direct_lane *lane = (struct direct_lane *)(void *)base;
    lane->closing = true;
    while (lane->tries) {
        struct direct_try *t = lane->tries;
        detach(t);
        retire(t);
    }
    while (lane->oldest_idle)
        direct_pool_drop_oldest(lane);
    for (struct direct_try *t = lane->spare_tries, *next; t; t = next) {
        next = t->next;
        uv_close((uv_handle_t *)&t->timer, on_try_closed);
    }
    lane->spare_tries = NULL;
    direct_names_close(lane);
    uv_close((uv_handle_t *)&lane->idle_timer, on_idle_timer_closed);
}

static void lane_keep_idle(struct upstream_lane *base, unsigned most)
{
    struct direct_lane *lane = (struct direct_lane *)(void *)base;
    lane->idle_max = most;
    while (lane->idle > most)
        direct_pool_drop_oldest(lane);
}

static const struct upstream_ops direct_ops = {
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

enum err direct_lane_new(const struct upstream_lane_options *options, struct upstream_lane **ret)
{
    struct direct_lane *lane = fault_calloc(1, sizeof(*lane));
    if (!lane)
        return ERR_NOMEM;
    lane->base.ops = &direct_ops;
    lane->loop = options->loop;
    lane->connections_max = options->connections_max;
    lane->idle_max = options->connections_idle_max;
    lane->account = options->account;
    lane->account_user = options->account_user;
    lane->idle_ms = options->idle_ms ? options->idle_ms : DIRECT_IDLE_MS;
    buf_init(&lane->head, DIRECT_REQUEST_HEAD_BYTES_MAX);
    buf_init(&lane->cipher, DIRECT_CIPHER_BYTES_MAX);
    lane->read_buffer = fault_malloc(DIRECT_READ_BYTES);
    lane->plain_in = fault_malloc(DIRECT_PLAIN_BYTES);
    lane->plain_out = fault_malloc(DIRECT_PLAIN_BYTES);
    if (!lane->read_buffer || !lane->plain_in || !lane->plain_out ||
        !upstream_copy_text(options->ca_file, &lane->ca_file) ||
        !upstream_copy_text(options->name_servers, &lane->name_servers) ||
        !upstream_copy_text(options->resolv_conf, &lane->resolv_conf)) {
        free_lane(lane);
        return ERR_NOMEM;
    }
    uv_timer_init(lane->loop, &lane->idle_timer);
    lane->idle_timer.data = lane;
    lane->open_handles = 1;
    *ret = &lane->base;
    return OK;
}
