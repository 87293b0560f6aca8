/* listener.h - accepts connections on the socket that the master bound, and on those of sibling slots whose workers are
 * down, and keeps the worker's list of them.
 *
 * Over the cap a connection is answered with 503 and Retry-After and closed: its client can go elsewhere, instead of
 * waiting in a queue that nobody empties. When memory runs out accepting rests for a moment (the kernel's queue
 * holds the rest) instead of spinning. */
#pragma once
#include "dataplane/worker/conn.h"
#include "dataplane/worker/refusal.h"

struct listener_socket {
    uv_tcp_t tcp;
    struct listener *listener;
    unsigned slot;
    bool waits; /* a connection was reported that could not be taken yet */
    struct listener_socket *next;
};
struct listener {
    struct conn_owner owner;
    struct core *core;
    struct listener_socket own;
    struct listener_socket *adopted;
    unsigned adopted_count;
    uv_timer_t rest;
    struct conn *first;
    unsigned count;
    struct refusals refusals;
    bool open;
    void (*emptied)(void *user); /* no connection is left, and none will come */
    void *user;
};

/* fd: bound and listening (or to be); taken over. ERR_IO. */
MUST_CHECK enum err listener_open(struct listener *listener, struct core *core, int fd, void (*emptied)(void *user),
                                  void *user);
/* Accepts on a sibling's socket, too, until it is dropped or this worker stops accepting. fd: taken over, also on error
 * (ERR_CLOSED: no longer accepting; ERR_TOO_MANY, ERR_NOMEM, ERR_IO). Dropping leaves the connections that came by it;
 * the master holds a duplicate, so that what still waits in the queue is not reset. */
MUST_CHECK enum err listener_adopt(struct listener *listener, unsigned slot, int fd);
void listener_drop(struct listener *listener, unsigned slot); /* nothing when there is none */
/* Stops accepting and closes what is idle; emptied is called when the last connection has gone (maybe from within). */
void listener_drain(struct listener *listener);
void listener_drain_passed(struct listener *listener); /* the deadline: honest errors to all who still wait */
void listener_abort(struct listener *listener);        /* closes everything at once */
