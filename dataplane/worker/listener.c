#include "dataplane/worker/listener.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/worker/reply.h"

#define LISTENER_BACKLOG      511
#define LISTENER_REST_MS      100u /* without descriptors: how long until we look again */
#define LISTENER_REFUSALS_MAX 256u /* a flood over the cap is closed without a word beyond so many 503s at once */

struct refusal {
    uv_tcp_t tcp;
    uv_write_t write;
    struct listener *listener;
    struct buf text;
};

static void emptied(struct listener *listener)
{
    if (!listener->open && !listener->first && listener->refusals == 0)
        listener->emptied(listener->user);
}

static void on_conn_closed(struct conn_owner *owner, struct conn *conn)
{
    struct listener *listener = CONTAINER_OF(owner, struct listener, owner);
    struct conn *previous = conn_previous(conn), *next = conn_next(conn);
    if (previous)
        conn_link(previous, conn_previous(previous), next);
    else
        listener->first = next;
    if (next)
        conn_link(next, previous, conn_next(next));
    listener->count--;
    emptied(listener);
}

static void on_refusal_closed(uv_handle_t *handle)
{
    struct refusal *refusal = handle->data;
    struct listener *listener = refusal->listener;
    buf_release(&refusal->text);
    free(refusal);
    listener->refusals--;
    emptied(listener);
}

static void on_refusal_written(uv_write_t *request, int status)
{
    struct refusal *refusal = request->data;
    (void)status;
    uv_close((uv_handle_t *)&refusal->tcp, on_refusal_closed);
}

static void on_connection(uv_stream_t *server, int status);

static void on_rested(uv_timer_t *timer)
{
    struct listener *listener = timer->data;
    on_connection((uv_stream_t *)&listener->tcp, 0);
}

/* libuv holds the connection that was reported and reports no other before it is taken: it must be asked for again. */
static void rest(struct listener *listener)
{
    uv_timer_start(&listener->rest, on_rested, LISTENER_REST_MS, 0);
}

static void refuse(struct listener *listener)
{
    struct refusal *refusal = fault_calloc(1, sizeof(*refusal));
    if (!refusal) {
        rest(listener);
        return;
    }
    refusal->listener = listener;
    buf_init(&refusal->text, 4096);
    REQUIRE(uv_tcp_init(listener->core->loop, &refusal->tcp) == 0);
    refusal->tcp.data = refusal;
    refusal->write.data = refusal;
    listener->refusals++;
    core_count(listener->core, WORKER_CONNECTIONS_REFUSED);
    const struct reply_error error = { .outcome = OUTCOME_BUSY };
    const struct reply_frame frame = { .close = true, .date = core_date(listener->core), .headers = SPAN("") };
    bool told = uv_accept((uv_stream_t *)&listener->tcp, (uv_stream_t *)&refusal->tcp) == 0 &&
                listener->refusals <= LISTENER_REFUSALS_MAX && reply_error_whole(&error, &frame, &refusal->text) == OK;
    if (told) {
        struct span text = buf_span(&refusal->text);
        uv_buf_t part = uv_buf_init((char *)(uintptr_t)text.ptr, (unsigned)text.len);
        told = uv_write(&refusal->write, (uv_stream_t *)&refusal->tcp, &part, 1, on_refusal_written) == 0;
    }
    if (!told)
        uv_close((uv_handle_t *)&refusal->tcp, on_refusal_closed);
}

static void on_connection(uv_stream_t *server, int status)
{
    struct listener *listener = server->data;
    struct conn *conn;
    if (!listener->open)
        return;
    if (status < 0) {
        /* Out of descriptors, mostly. libuv keeps one in reserve, by which it takes and closes what waits: no spinning.
         */
        log_warn("accept.failed", LOG_STR("error", uv_strerror(status)));
        return;
    }
    if (fault_hit(FAULT_ACCEPT)) {
        rest(listener);
        return;
    }
    if (listener->count >= listener->core->config->limits.connections) {
        refuse(listener);
        return;
    }
    if (conn_accept(listener->core, server, &listener->owner, &conn)) {
        refuse(listener);
        return;
    }
    core_count(listener->core, WORKER_CONNECTIONS_ACCEPTED);
    conn_link(conn, NULL, listener->first);
    if (listener->first)
        conn_link(listener->first, conn, conn_next(listener->first));
    listener->first = conn;
    listener->count++;
}

enum err listener_open(struct listener *listener, struct core *core, int fd, void (*on_emptied)(void *user), void *user)
{
    *listener = (struct listener){ .owner.closed = on_conn_closed, .core = core, .emptied = on_emptied, .user = user };
    REQUIRE(uv_tcp_init(core->loop, &listener->tcp) == 0);
    REQUIRE(uv_timer_init(core->loop, &listener->rest) == 0);
    listener->tcp.data = listener;
    listener->rest.data = listener;
    int status = uv_tcp_open(&listener->tcp, fd);
    if (status == 0)
        status = uv_listen((uv_stream_t *)&listener->tcp, LISTENER_BACKLOG, on_connection);
    listener->open = status == 0;
    if (listener->open)
        return OK;
    log_error("listen.failed", LOG_STR("error", uv_strerror(status)));
    uv_close((uv_handle_t *)&listener->tcp, NULL);
    uv_close((uv_handle_t *)&listener->rest, NULL);
    return ERR_IO;
}

static void close_socket(struct listener *listener)
{
    if (!listener->open)
        return;
    listener->open = false;
    uv_close((uv_handle_t *)&listener->tcp, NULL);
    uv_close((uv_handle_t *)&listener->rest, NULL);
}

/* `each` may close its connection, which stays in the list until its handles are closed. */
static void for_each(struct listener *listener, void (*each)(struct conn *conn))
{
    struct conn *next;
    for (struct conn *conn = listener->first; conn; conn = next) {
        next = conn_next(conn);
        each(conn);
    }
}

void listener_drain(struct listener *listener)
{
    close_socket(listener);
    for_each(listener, conn_drain);
    emptied(listener);
}

void listener_drain_passed(struct listener *listener)
{
    for_each(listener, conn_drain_passed);
}

void listener_abort(struct listener *listener)
{
    close_socket(listener);
    for_each(listener, conn_abort);
    emptied(listener);
}
