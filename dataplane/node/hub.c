#include "dataplane/node/hub.h"
#include "common/fault.h"
#include "common/log.h"
#include "proto/errand.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEER_IN_MAX (4u * CONTROL_LINE_BYTES + ERRAND_LINE_BYTES)
#define PEER_OUT_MAX                                                                                                   \
    (ERRAND_ANSWER_BYTES + 64u * CONTROL_LINE_BYTES) /* a peer that does not read must not fill our memory */

struct hub_peer {
    struct hub *hub;
    uv_poll_t poll;
    int fd;
    uint64_t pid;
    bool ours; /* of our own user: may be a worker */
    bool greeted, asker, closing;
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
    if (peer->asker)
        hub->events.asker_gone(hub->events.user, peer);
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

static bool greet(struct hub_peer *peer, const struct control_message *hello, struct control_fds *fds)
{
    struct hub *hub = peer->hub;
    if (hello->kind != CONTROL_HELLO || hello->pid != peer->pid || !peer->ours) {
        log_warn("hub.odd", LOG_U64("pid", peer->pid), LOG_U64("kind", hello->kind), LOG_U64("said_pid", hello->pid));
        return false;
    }
    peer->greeted = true;
    hub->events.hello(hub->events.user, peer, hello, fds);
    return true;
}

/* What does not begin as an errand is a worker's: ERR_SYNTAX. ERR_AGAIN: its line is not whole. */
static enum err ask(struct hub_peer *peer)
{
    const struct span bytes = buf_span(&peer->in);
    if (!span_starts(bytes, SPAN(ERRAND_WORD)))
        return ERR_SYNTAX;
    const size_t end = span_find_byte(bytes, '\n');
    if (end == SIZE_MAX)
        return buf_room(&peer->in) ? ERR_AGAIN : ERR_TOO_LARGE;
    peer->asker = true;
    return peer->hub->events.asked(peer->hub->events.user, peer, span_head(bytes, end)) ? OK : ERR_INVALID;
}

static enum err hear(struct hub_peer *peer, struct control_fds *fds)
{
    enum err err = OK;
    if (peer->asker) {
        buf_clear(&peer->in); /* it is only waited for its leaving */
        return OK;
    }
    if (!peer->greeted) {
        err = ask(peer);
        if (err != ERR_SYNTAX)
            return err;
        err = OK;
    }
    while (err == OK && !peer->closing) {
        struct control_message message;
        err = control_parse(&peer->in, &message);
        if (err)
            break;
        if (!peer->greeted)
            err = greet(peer, &message, fds) ? OK : ERR_INVALID;
        else
            peer->hub->events.told(peer->hub->events.user, peer, &message);
    }
    return err;
}

static void receive(struct hub_peer *peer)
{
    struct control_fds fds = { .count = 0 };
    enum err err = control_recv_fds(peer->fd, &peer->in, &fds);
    if (err == ERR_AGAIN)
        return;
    if (err == OK)
        err = hear(peer, &fds);
    control_fds_close(&fds);
    if (err && err != ERR_AGAIN && !peer->closing) {
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

static struct hub_peer *welcome(struct hub *hub, int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    struct hub_peer *peer = NULL;
    const bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 &&
                       (cred.uid == getuid() || cred.uid == 0) && cred.pid > 0;
    if (known && hub->count < HUB_PEERS_MAX)
        peer = fault_calloc(1, sizeof(*peer));
    if (!known)
        log_warn("hub.stranger", LOG_U64("uid", len == sizeof(cred) ? cred.uid : 0));
    if (!peer || uv_poll_init(hub->loop, &peer->poll, fd)) {
        free(peer);
        (void)close(fd);
        return NULL;
    }
    peer->hub = hub;
    peer->fd = fd;
    peer->pid = (uint64_t)cred.pid;
    peer->ours = cred.uid == getuid();
    peer->poll.data = peer;
    buf_init(&peer->in, PEER_IN_MAX);
    buf_init(&peer->out, PEER_OUT_MAX);
    peer->next = hub->peers;
    hub->peers = peer;
    hub->count++;
    watch(peer);
    return peer;
}

static void on_accept(uv_poll_t *poll, int status, UNUSED int events)
{
    struct hub *hub = poll->data;
    int fd;
    if (status < 0)
        return;
    while ((fd = accept4(hub->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
        (void)welcome(hub, fd);
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

enum err hub_say_fds(struct hub_peer *peer, const struct control_message *message, const struct control_fds *fds)
{
    struct buf line = BUF_INIT(CONTROL_LINE_BYTES);
    if (peer->closing)
        return ERR_CLOSED;
    if (peer->out.len > 0)
        return ERR_AGAIN;
    enum err err = control_format(message, &line);
    if (!err)
        err = control_send_fds(peer->fd, buf_span(&line), fds);
    buf_release(&line);
    return err;
}

void hub_answer(struct hub_peer *asker, struct span line)
{
    if (asker->closing)
        return;
    if (buf_append(&asker->out, line) || buf_append_byte(&asker->out, '\n'))
        log_warn("hub.full", LOG_U64("pid", asker->pid));
    send_out(asker);
}

int hub_peer_fd(const struct hub_peer *peer)
{
    return peer->fd;
}

struct hub_peer *hub_keep_asker(struct hub *hub, int fd)
{
    struct hub_peer *peer = welcome(hub, fd);
    if (peer)
        peer->asker = true;
    return peer;
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
        hub->peers->greeted = hub->peers->asker = false; /* no event */
        cut(hub->peers);
    }
    uv_close((uv_handle_t *)&hub->accept, on_accept_closed);
}
