/* link.h - a worker's line to its master, over run/node.sock in the words of node/control.h.
 *
 * Lost, it is sought again every 50 ms for ever; the worker serves meanwhile. Each time it is found, hello (with
 * duplicates of the listeners) and what is served go first. */
#pragma once
#include "common/buf.h"
#include "dataplane/node/control.h"
#include <uv.h>

struct link_events {
    void (*wake)(void *user);
    void (*drain)(void *user, uint64_t ms);
    void (*adopt_listener)(void *user, unsigned slot, const struct control_fds *fds); /* the handler owns them */
    void (*drop_listener)(void *user, unsigned slot);
    void *user;
};
struct link {
    uv_loop_t *loop;
    char *path;
    unsigned slot, region;
    struct control_fds listeners; /* our duplicates */
    struct control_fds given;     /* came before the last of their words */
    struct link_events events;
    uv_timer_t retry;
    struct link_poll *poll; /* NULL: not connected */
    struct buf in, out;
    bool hello_sent, closed;
    bool has_version;
    struct table_version version;
    char boot[64];
};

struct link_options {
    uv_loop_t *loop;
    const char *path;
    unsigned slot, region;
    const struct control_fds *listeners; /* duplicated */
    struct link_events events;
};
/* The first try is made in the loop's next turn. ERR_NOMEM, ERR_IO. */
MUST_CHECK enum err link_open(struct link *link, const struct link_options *options);
/* Remembered and told again after each reconnection. */
void link_serving(struct link *link, const struct table_version *version);
void link_bad_table(struct link *link, const struct table_version *version,
                    const char *why); /* told once, or never when nobody listens */
/* Asks for `drain`. False: no master is there to be asked. */
bool link_leaving(struct link *link);
void link_drained(struct link *link);
/* The worker stops accepting: a new master must not take these sockets from us, nor may we keep them open. */
void link_drop_listeners(struct link *link);
/* Sends what it can, closes the handles; run the loop until they are closed. */
void link_close(struct link *link);
