/* hub.h - the master's end of run/node.sock: workers connect, say hello, and are spoken to in the words of control.h.
 *
 * Only processes of our own user are heard, and only under their own process id, as the kernel tells it. A peer that
 * says what is none of ours, or does not read, is cut off (a worker comes back by itself). */
#pragma once
#include "common/err.h"
#include "dataplane/node/control.h"
#include <uv.h>

#define HUB_PEERS_MAX 256u /* workers, and those of masters before; more are strangers' noise */

struct hub_peer;
struct hub_events {
    /* First words of a peer; later ones come to `told`. fd: its listener or -1; the handler owns it now. */
    void (*hello)(void *user, struct hub_peer *peer, const struct control_message *hello, int fd);
    void (*told)(void *user, struct hub_peer *peer, const struct control_message *message);
    void (*gone)(void *user, struct hub_peer *peer); /* the peer is freed afterwards */
    void *user;
};
struct hub {
    uv_loop_t *loop;
    struct hub_events events;
    uv_poll_t accept;
    int fd;
    struct hub_peer *peers;
    unsigned count;
};

/* fd: a listening socket; owned by the hub from here on. ERR_IO. */
MUST_CHECK enum err hub_open(struct hub *hub, uv_loop_t *loop, int fd, const struct hub_events *events);
void hub_say(struct hub_peer *peer, const struct control_message *message);
/* With a descriptor (which stays the caller's). ERR_AGAIN: words wait before it; ERR_CLOSED, ERR_IO, ERR_NOMEM. */
MUST_CHECK enum err hub_say_fd(struct hub_peer *peer, const struct control_message *message, int fd);
void hub_say_all(struct hub *hub, const struct control_message *message);
void *hub_peer_user(const struct hub_peer *peer); /* whatever was set; NULL at first */
void hub_peer_set_user(struct hub_peer *peer, void *user);
void hub_close(struct hub *hub); /* no events any more; run the loop until the handles are closed */
