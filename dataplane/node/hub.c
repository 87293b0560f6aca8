#include "dataplane/node/hub.h"
#include "common/fault.h"
#include "common/log.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEER_OUT_MAX (64u * CONTROL_LINE_BYTES) /* a worker that does not read must not fill our memory */

struct hub_peer {
    struct hub *hub;
    uv_poll_t poll;
    int fd;
    uint64_t pid;
    bool greeted, closing;
    void *user;
    struct buf in, out;
    struct hub_peer *next;
};

static void on_peer_closed(uv_handle_t *handle)
{
    struct hub_peer *peer = handle->data;
    (void)close(peer->fd);
    buf_release(&peer->in);
    buf_release(&peer->out);
    free(peer);
}

static void cut(struct hub_peer *peer)
{
    struct hub *hub = peer->hub;
    if (peer->closing)
        return;
    peer->closing = true;
    struct hub_peer **at = &hub->peers;
    while (*at != peer)
        at = &(*at)->next;
    *at = peer->next;
    hub->count--;
    if (peer->greeted)
        hub->events.gone(hub->events.user, peer);
    uv_close((uv_handle_t *)&peer->poll, on_peer_closed);
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct hub_peer *peer)
{
    if (!peer->closing)
        uv_poll_start(&peer->poll, UV_READABLE | (peer->out.len ? UV_WRITABLE : 0), on_poll);
}

static void send_out(struct hub_peer *peer)
{
    while (!peer->closing && peer->out.len > 0) {
        const struct span bytes = buf_span(&peer->out);
        const ssize_t n = send(peer->fd, bytes.ptr, bytes.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            buf_consume(&peer->out, (size_t)n);
        else if (n < 0 && errno == EAGAIN)
            break;
        else if (!(n < 0 && errno == EINTR))
            return; /* gone: reading will say so, outside of the caller's own work */
    }
    watch(peer);
}

static bool greet(struct hub_peer *peer, const struct control_message *hello, int *fd)
{
    struct hub *hub = peer->hub;
    if (hello->kind != CONTROL_HELLO || hello->pid != peer->pid) {
        log_warn("hub.odd", LOG_U64("pid", peer->pid), LOG_U64("kind", hello->kind), LOG_U64("said_pid", hello->pid));
        return false;
    }
    peer->greeted = true;
    const int given = *fd;
    *fd = -1;
    hub->events.hello(hub->events.user, peer, hello, given);
    return true;
}

static void receive(struct hub_peer *peer)
{
    int fd = -1;
    enum err err = control_recv_fd(peer->fd, &peer->in, &fd);
    if (err == ERR_AGAIN)
        return;
    while (err == OK && !peer->closing) {
        struct control_message message;
        err = control_parse(&peer->in, &message);
        if (err)
            break;
        if (!peer->greeted)
            err = greet(peer, &message, &fd) ? OK : ERR_INVALID;
        else
            peer->hub->events.told(peer->hub->events.user, peer, &message);
    }
    if (fd >= 0)
        (void)close(fd);
    if (err && err != ERR_AGAIN) {
        if (err != ERR_CLOSED)
            log_warn("hub.cut", LOG_U64("pid", peer->pid), LOG_ERR(err));
        cut(peer);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct hub_peer *peer = poll->data;
    if (status < 0) {
        cut(peer);
        return;
    }
    if (events & UV_READABLE)
        receive(peer);
    if (!peer->closing && (events & UV_WRITABLE))
        send_out(peer);
}

static void welcome(struct hub *hub, int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    struct hub_peer *peer = NULL;
    const bool known =
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == getuid() && cred.pid > 0;
    if (known && hub->count < HUB_PEERS_MAX)
        peer = fault_calloc(1, sizeof(*peer));
    if (!known)
        log_warn("hub.stranger", LOG_U64("uid", len == sizeof(cred) ? cred.uid : 0));
    if (!peer || uv_poll_init(hub->loop, &peer->poll, fd)) {
        free(peer);
        (void)close(fd);
        return;
    }
    peer->hub = hub;
    peer->fd = fd;
    peer->pid = (uint64_t)cred.pid;
    peer->poll.data = peer;
    buf_init(&peer->in, 4 * CONTROL_LINE_BYTES);
    buf_init(&peer->out, PEER_OUT_MAX);
    peer->next = hub->peers;
    hub->peers = peer;
    hub->count++;
    watch(peer);
}

static void on_accept(uv_poll_t *poll, int status, UNUSED int events)
{
    struct hub *hub = poll->data;
    int fd;
    if (status < 0)
        return;
    while ((fd = accept4(hub->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
        welcome(hub, fd);
}

enum err hub_open(struct hub *hub, uv_loop_t *loop, int fd, const struct hub_events *events)
{
    *hub = (struct hub){ .fd = fd, .events = *events };
    if (uv_poll_init(loop, &hub->accept, fd)) {
        (void)close(fd);
        return ERR_IO;
    }
    hub->loop = loop;
    hub->accept.data = hub;
    return uv_poll_start(&hub->accept, UV_READABLE, on_accept) ? ERR_IO : OK;
}

void hub_say(struct hub_peer *peer, const struct control_message *message)
{
    if (peer->closing)
        return;
    if (control_format(message, &peer->out)) /* full: the 100 ms timer of the worker stands in for a lost wake */
        log_warn("hub.full", LOG_U64("pid", peer->pid));
    send_out(peer);
}

enum err hub_say_fd(struct hub_peer *peer, const struct control_message *message, int fd)
{
    struct buf line = BUF_INIT(CONTROL_LINE_BYTES);
    if (peer->closing)
        return ERR_CLOSED;
    if (peer->out.len > 0)
        return ERR_AGAIN;
    enum err err = control_format(message, &line);
    if (!err)
        err = control_send_fd(peer->fd, buf_span(&line), fd);
    buf_release(&line);
    return err;
}

void hub_say_all(struct hub *hub, const struct control_message *message)
{
    for (struct hub_peer *peer = hub->peers; peer; peer = peer->next) {
        if (peer->greeted)
            hub_say(peer, message);
    }
}

void *hub_peer_user(const struct hub_peer *peer)
{
    return peer->user;
}

void hub_peer_set_user(struct hub_peer *peer, void *user)
{
    peer->user = user;
}

static void on_accept_closed(uv_handle_t *handle)
{
    struct hub *hub = handle->data;
    (void)close(hub->fd);
}

void hub_close(struct hub *hub)
{
    if (!hub->loop)
        return;
    while (hub->peers) {
        hub->peers->greeted = false; /* no event */
        cut(hub->peers);
    }
    uv_close((uv_handle_t *)&hub->accept, on_accept_closed);
}
