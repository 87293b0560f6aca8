/* listener.h - accepts connections on the sockets that the master bound, and on those of sibling slots whose workers are
 * down, and keeps the worker's list of them. Sockets come in lists, one for each of the node's listeners and in their
 * order, by which each connection finds its setup.
 *
 * Over the cap a connection is answered with 503 and Retry-After and closed: its client can go elsewhere, instead of
 * waiting in a queue that nobody empties. With TLS it is only closed, as the answer would need a handshake. When memory
 * runs out accepting rests for a moment (the kernel's queue holds the rest) instead of spinning. */
#pragma once
#include "dataplane/worker/peer.h"
#include "dataplane/worker/refusal.h"
#include "dataplane/worker/socket.h"

struct listener_socket {
    union socket socket;
    struct listener *listener;
    unsigned at; /* of the node's listeners */
    unsigned slot;
    bool waits; /* a connection was reported that could not be taken yet */
    struct listener_socket *next;
};
struct listener {
    struct peer_owner owner;
    struct core *core;
    struct listener_setup *setups[NODE_LISTENERS_MAX];
    unsigned setup_count;
    struct listener_socket *sockets; /* our own, and adopted ones */
    uv_timer_t rest;
    struct peer *first;
    unsigned count;
    struct refusals refusals;
    bool open;
    void (*emptied)(void *user); /* no connection is left, and none will come */
    void *user;
};

/* fds: one for each listener, bound and listening (or to be); taken over, also on error. ERR_NOMEM, ERR_IO, ERR_INVALID
 * (a listener's setup: logged). */
MUST_CHECK enum err listener_open(struct listener *listener, struct core *core, const struct listener_config *configs,
                                  const int *fds, unsigned count, void (*emptied)(void *user), void *user);
/* Accepts on a sibling's sockets, too, until they are dropped or this worker stops accepting. fds: in the order of the
 * node's listeners; taken over, also on error (ERR_CLOSED: no longer accepting; ERR_TOO_MANY: more than there are
 * listeners, ERR_NOMEM, ERR_IO: none was adopted). Dropping leaves the connections that came by them; the master holds
 * duplicates, so that what still waits in the queue is not reset. */
MUST_CHECK enum err listener_adopt(struct listener *listener, unsigned slot, const int *fds, unsigned count);
void listener_drop(struct listener *listener, unsigned slot); /* nothing when there is none */
/* Stops accepting and closes what is idle; emptied is called when the last connection has gone (maybe from within). */
void listener_drain(struct listener *listener);
void listener_drain_passed(struct listener *listener); /* the deadline: honest errors to all who still wait */
void listener_abort(struct listener *listener);        /* closes everything at once */
