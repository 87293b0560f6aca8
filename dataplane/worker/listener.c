#include "dataplane/worker/listener.h"
#include "common/fault.h"
#include "common/log.h"
#include "proto/limits.h"
#include <sys/socket.h>
#include <unistd.h>

#define LISTENER_BACKLOG 511
#define LISTENER_REST_MS 100u /* without descriptors: how long until we look again */
static void emptied(struct listener *listener)
{
    if (!listener->open && !listener->first && listener->refusals.count == 0)
        listener->emptied(listener->user);
}

static void on_peer_closed(struct peer_owner *owner, struct peer *peer)
{
    struct listener *listener = CONTAINER_OF(owner, struct listener, owner);
    if (peer->previous)
        peer->previous->next = peer->next;
    else
        listener->first = peer->next;
    if (peer->next)
        peer->next->previous = peer->previous;
    listener->count--;
    emptied(listener);
}

static void on_refused(void *user)
{
    emptied(user);
}

static void on_connection(uv_stream_t *server, int status);

static void on_rested(uv_timer_t *timer)
{
    struct listener *listener = timer->data;
    for (struct listener_socket *socket = listener->sockets; socket; socket = socket->next) {
        if (!socket->waits)
            continue;
        socket->waits = false;
        on_connection(&socket->socket.stream, 0);
    }
}

/* libuv holds the connection that was reported and reports no other before it is taken: it must be asked for again. */
static void rest(struct listener_socket *socket)
{
    socket->waits = true;
    uv_timer_start(&socket->listener->rest, on_rested, LISTENER_REST_MS, 0);
}

static void refuse(struct listener_socket *socket)
{
    struct listener *listener = socket->listener;
    if (refusal_begin(&listener->refusals, &socket->socket.stream, !listener->setups[socket->at]->tls))
        rest(socket);
    else
        core_count(listener->core, WORKER_CONNECTIONS_REFUSED);
}

static void on_connection(uv_stream_t *server, int status)
{
    struct listener_socket *socket = server->data;
    struct listener *listener = socket->listener;
    struct peer *peer;
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
    if (peer_accept(listener->core, server, listener->setups[socket->at], &listener->owner, &peer)) {
        refuse(socket);
        return;
    }
    core_count(listener->core, WORKER_CONNECTIONS_ACCEPTED);
    peer->previous = NULL;
    peer->next = listener->first;
    if (listener->first)
        listener->first->previous = peer;
    listener->first = peer;
    listener->count++;
}

static void on_socket_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void close_at(struct listener_socket **at)
{
    struct listener_socket *socket = *at;
    *at = socket->next;
    uv_close(&socket->socket.handle, on_socket_closed);
}

/* fd is taken over, also on error. */
static enum err open_socket(struct listener *listener, unsigned at, unsigned slot, int fd)
{
    struct sockaddr_storage address = { .ss_family = AF_UNSPEC };
    socklen_t size = sizeof(address);
    struct listener_socket *socket = fault_calloc(1, sizeof(*socket));
    if (!socket) {
        close(fd);
        return ERR_NOMEM;
    }
    socket->listener = listener;
    socket->at = at;
    socket->slot = slot;
    const bool local = getsockname(fd, (struct sockaddr *)&address, &size) == 0 && address.ss_family == AF_UNIX;
    socket_init(&socket->socket, listener->core->loop, !local, socket);
    socket->next = listener->sockets;
    listener->sockets = socket;
    int status = local ? uv_pipe_open(&socket->socket.pipe, fd) : uv_tcp_open(&socket->socket.tcp, fd);
    if (status)
        close(fd);
    else
        status = uv_listen(&socket->socket.stream, LISTENER_BACKLOG, on_connection);
    if (status) {
        log_error("listen.failed", LOG_U64("slot", slot), LOG_STR("error", uv_strerror(status)));
        close_at(&listener->sockets);
        return ERR_IO;
    }
    return OK;
}

/* All of them, or none. */
static enum err open_sockets(struct listener *listener, unsigned slot, const int *fds, unsigned count)
{
    enum err err = OK;
    unsigned done = 0;
    for (; done < count && err == OK; done++)
        err = open_socket(listener, done, slot, fds[done]);
    for (unsigned i = done; i < count; i++)
        close(fds[i]);
    if (err)
        for (; done > 1; done--)
            close_at(&listener->sockets);
    return err;
}

static enum err load_setup(const struct listener_config *config, const struct board *board, struct listener_setup **ret)
{
    char *message = NULL;
    const enum err err = listener_setup_load(config, board, ret, &message);
    if (err)
        log_error("listener.setup", LOG_STR("listener", config->address ? config->address : ""), LOG_ERR(err),
                  LOG_STR("why", message ? message : ""));
    free(message);
    return err;
}

static enum err load_setups(struct listener *listener, const struct listener_config *configs, unsigned count)
{
    enum err err = OK;
    while (listener->setup_count < count && err == OK) {
        err = load_setup(&configs[listener->setup_count], listener->core->board,
                         &listener->setups[listener->setup_count]);
        if (err == OK)
            listener->setup_count++;
    }
    return err;
}

static void release_setups(struct listener *listener)
{
    while (listener->setup_count > 0)
        listener_setup_unref(listener->setups[--listener->setup_count]);
}

enum err listener_open(struct listener *listener, struct core *core, const struct listener_config *configs,
                       const int *fds, unsigned count, void (*on_emptied)(void *user), void *user)
{
    REQUIRE(count > 0 && count <= NODE_LISTENERS_MAX);
    *listener = (struct listener){ .owner.closed = on_peer_closed, .core = core, .emptied = on_emptied, .user = user };
    listener->refusals = (struct refusals){ .core = core, .ended = on_refused, .user = listener };
    enum err err = load_setups(listener, configs, count);
    if (err)
        for (unsigned i = 0; i < count; i++)
            close(fds[i]);
    else
        err = open_sockets(listener, core->slot, fds, count);
    if (err) {
        release_setups(listener);
        return err;
    }
    REQUIRE(uv_timer_init(core->loop, &listener->rest) == 0);
    listener->rest.data = listener;
    listener->open = true;
    return OK;
}

enum err listener_adopt(struct listener *listener, unsigned slot, const int *fds, unsigned count)
{
    if (listener->open && count <= listener->setup_count)
        return open_sockets(listener, slot, fds, count);
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
    return listener->open ? ERR_TOO_MANY : ERR_CLOSED;
}

void listener_drop(struct listener *listener, unsigned slot)
{
    struct listener_socket **at = &listener->sockets;
    while (*at) {
        if ((*at)->slot == slot && slot != listener->core->slot)
            close_at(at);
        else
            at = &(*at)->next;
    }
}

static void close_sockets(struct listener *listener)
{
    if (!listener->open)
        return;
    listener->open = false;
    while (listener->sockets)
        close_at(&listener->sockets);
    release_setups(listener);
    uv_close((uv_handle_t *)&listener->rest, NULL);
}

/* `each` may close its connection, which stays in the list until its handles are closed. */
static void for_each(struct listener *listener, void (*each)(struct peer *peer))
{
    struct peer *next;
    for (struct peer *peer = listener->first; peer; peer = next) {
        next = peer->next;
        each(peer);
    }
}

void listener_drain(struct listener *listener)
{
    close_sockets(listener);
    for_each(listener, peer_drain);
    emptied(listener);
}

void listener_drain_passed(struct listener *listener)
{
    for_each(listener, peer_drain_passed);
}

void listener_abort(struct listener *listener)
{
    close_sockets(listener);
    for_each(listener, peer_abort);
    emptied(listener);
}
