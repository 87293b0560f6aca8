#include "dataplane/worker/listener.h"
#include "common/fault.h"
#include "common/log.h"
#include "proto/limits.h"
#include <unistd.h>

#define LISTENER_BACKLOG     511
#define LISTENER_REST_MS     100u             /* without descriptors: how long until we look again */
#define LISTENER_ADOPTED_MAX NODE_WORKERS_MAX /* there are no more siblings */

static void emptied(struct listener *listener)
{
    if (!listener->open && !listener->first && listener->refusals.count == 0)
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

static void on_refused(void *user)
{
    emptied(user);
}

static void on_connection(uv_stream_t *server, int status);

static void take_waiting(struct listener_socket *socket)
{
    if (!socket->waits)
        return;
    socket->waits = false;
    on_connection((uv_stream_t *)&socket->tcp, 0);
}

static void on_rested(uv_timer_t *timer)
{
    struct listener *listener = timer->data;
    take_waiting(&listener->own);
    for (struct listener_socket *socket = listener->adopted; socket; socket = socket->next)
        take_waiting(socket);
}

/* libuv holds the connection that was reported and reports no other before it is taken: it must be asked for again. */
static void rest(struct listener_socket *socket)
{
    socket->waits = true;
    uv_timer_start(&socket->listener->rest, on_rested, LISTENER_REST_MS, 0);
}

static void refuse(struct listener_socket *socket)
{
    if (refusal_begin(&socket->listener->refusals, (uv_stream_t *)&socket->tcp))
        rest(socket);
    else
        core_count(socket->listener->core, WORKER_CONNECTIONS_REFUSED);
}

static void on_connection(uv_stream_t *server, int status)
{
    struct listener_socket *socket = server->data;
    struct listener *listener = socket->listener;
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
        rest(socket);
        return;
    }
    if (listener->count >= listener->core->config->limits.connections) {
        refuse(socket);
        return;
    }
    if (conn_accept(listener->core, server, &listener->owner, &conn)) {
        refuse(socket);
        return;
    }
    core_count(listener->core, WORKER_CONNECTIONS_ACCEPTED);
    conn_link(conn, NULL, listener->first);
    if (listener->first)
        conn_link(listener->first, conn, conn_next(listener->first));
    listener->first = conn;
    listener->count++;
}

static enum err open_socket(struct listener_socket *socket, struct listener *listener, unsigned slot, int fd)
{
    *socket = (struct listener_socket){ .listener = listener, .slot = slot };
    REQUIRE(uv_tcp_init(listener->core->loop, &socket->tcp) == 0);
    socket->tcp.data = socket;
    int status = uv_tcp_open(&socket->tcp, fd);
    if (status)
        close(fd);
    else
        status = uv_listen((uv_stream_t *)&socket->tcp, LISTENER_BACKLOG, on_connection);
    if (status)
        log_error("listen.failed", LOG_U64("slot", slot), LOG_STR("error", uv_strerror(status)));
    return status ? ERR_IO : OK;
}

enum err listener_open(struct listener *listener, struct core *core, int fd, void (*on_emptied)(void *user), void *user)
{
    *listener = (struct listener){ .owner.closed = on_conn_closed, .core = core, .emptied = on_emptied, .user = user };
    listener->refusals = (struct refusals){ .core = core, .ended = on_refused, .user = listener };
    REQUIRE(uv_timer_init(core->loop, &listener->rest) == 0);
    listener->rest.data = listener;
    listener->open = open_socket(&listener->own, listener, core->slot, fd) == OK;
    if (listener->open)
        return OK;
    uv_close((uv_handle_t *)&listener->own.tcp, NULL);
    uv_close((uv_handle_t *)&listener->rest, NULL);
    return ERR_IO;
}

static void on_adopted_closed(uv_handle_t *handle)
{
    free(handle->data);
}

enum err listener_adopt(struct listener *listener, unsigned slot, int fd)
{
    struct listener_socket *socket = NULL;
    if (listener->open && listener->adopted_count < LISTENER_ADOPTED_MAX)
        socket = fault_malloc(sizeof(*socket));
    if (!socket) {
        close(fd);
        return !listener->open ? ERR_CLOSED : listener->adopted_count < LISTENER_ADOPTED_MAX ? ERR_NOMEM : ERR_TOO_MANY;
    }
    const enum err err = open_socket(socket, listener, slot, fd);
    if (err) {
        uv_close((uv_handle_t *)&socket->tcp, on_adopted_closed);
        return err;
    }
    socket->next = listener->adopted;
    listener->adopted = socket;
    listener->adopted_count++;
    return OK;
}

static void drop_at(struct listener *listener, struct listener_socket **at)
{
    struct listener_socket *socket = *at;
    *at = socket->next;
    listener->adopted_count--;
    uv_close((uv_handle_t *)&socket->tcp, on_adopted_closed);
}

void listener_drop(struct listener *listener, unsigned slot)
{
    struct listener_socket **at = &listener->adopted;
    while (*at) {
        if ((*at)->slot == slot)
            drop_at(listener, at);
        else
            at = &(*at)->next;
    }
}

static void close_socket(struct listener *listener)
{
    if (!listener->open)
        return;
    listener->open = false;
    while (listener->adopted)
        drop_at(listener, &listener->adopted);
    uv_close((uv_handle_t *)&listener->own.tcp, NULL);
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
