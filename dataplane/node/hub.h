/* hub.h - the master's end of run/node.sock: workers connect, say hello, and are spoken to in the words of control.h;
 * the admin CLI connects and asks in those of proto/errand.h.
 *
 * Only processes of our own user are heard (of the superuser: errands), workers only under their own process id, as the
 * kernel tells it. A peer that says what is none of ours, or does not read, is cut off (a worker comes back by itself).
 */
#pragma once
#include "common/err.h"
#include "common/span.h"
#include "dataplane/node/control.h"
#include <uv.h>

#define HUB_PEERS_MAX 512u /* workers, those that drain, those of masters before; more are strangers' noise */

struct hub_peer;
struct hub_events {
    /* First words of a worker; later ones come to `told`. fds: its listeners; the handler owns them now. */
    void (*hello)(void *user, struct hub_peer *peer, const struct control_message *hello, struct control_fds *fds);
    void (*told)(void *user, struct hub_peer *peer, const struct control_message *message);
    void (*gone)(void *user, struct hub_peer *peer); /* the peer is freed afterwards */
    /* First words of another: a whole line, without its end. False: cut it off. Of what it says later nothing is heard. */
    bool (*asked)(void *user, struct hub_peer *peer, struct span line);
    void (*asker_gone)(void *user, struct hub_peer *peer);
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
/* With descriptors (which stay the caller's). ERR_AGAIN: words wait before them; ERR_CLOSED, ERR_IO, ERR_NOMEM. */
MUST_CHECK enum err hub_say_fds(struct hub_peer *peer, const struct control_message *message,
                                const struct control_fds *fds);
void hub_answer(struct hub_peer *asker, struct span line); /* ended by '\n' */
int hub_peer_fd(const struct hub_peer *peer);              /* borrowed */
/* One that a master before had heard already: its connection, owned from here on. NULL: it could not be kept. */
struct hub_peer *hub_keep_asker(struct hub *hub, int fd);
void hub_say_all(struct hub *hub, const struct control_message *message);
void *hub_peer_user(const struct hub_peer *peer); /* whatever was set; NULL at first */
void hub_peer_set_user(struct hub_peer *peer, void *user);
void hub_close(struct hub *hub); /* no events any more; run the loop until the handles are closed */
