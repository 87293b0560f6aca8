/* link.h - a worker's line to its master, over run/node.sock in the words of node/control.h.
 *
 * Lost, it is sought again every 50 ms for ever; the worker serves meanwhile. Each time it is found, hello (with a
 * duplicate of the listener) and what is served go first. */
#pragma once
#include "common/buf.h"
#include "dataplane/node/control.h"
#include <uv.h>

struct link_events {
    void (*wake)(void *user);
    void (*drain)(void *user, uint64_t ms);
    void (*reload)(void *user);
    void (*adopt_listener)(void *user, unsigned slot, int fd); /* the handler owns fd */
    void (*drop_listener)(void *user, unsigned slot);
    void *user;
};
struct link {
    uv_loop_t *loop;
    char *path;
    unsigned slot;
    int listener_fd; /* our duplicate, or -1 */
    int given_fd;    /* came before the last of its words, or -1 */
    struct link_events events;
    uv_timer_t retry;
    struct link_poll *poll; /* NULL: not connected */
    struct buf in, out;
    bool hello_sent, closed;
    bool has_version;
    struct table_version version;
    char boot[64];
};

/* listener_fd is duplicated. The first try is made in the loop's next turn. ERR_NOMEM, ERR_IO. */
MUST_CHECK enum err link_open(struct link *link, uv_loop_t *loop, const char *path, unsigned slot, int listener_fd,
                              const struct link_events *events);
/* Remembered and told again after each reconnection. */
void link_serving(struct link *link, const struct table_version *version);
void link_bad_table(struct link *link, const struct table_version *version,
                    const char *why); /* told once, or never when nobody listens */
void link_drained(struct link *link);
/* The worker stops accepting: a new master must not take this socket from us, nor may we keep it open. */
void link_drop_listener(struct link *link);
/* Sends what it can, closes the handles; run the loop until they are closed. */
void link_close(struct link *link);
