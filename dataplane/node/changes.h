/* changes.h - what changes a node while it serves: a reload of its configuration, an upgrade of its program. One at a
 * time, in the order in which they were asked for (proto/errand.h, SIGHUP).
 *
 * reload: the file is copied beside the copy in force and judged; workers by it roll in; then it is the one in force.
 * upgrade: the program is tried (checkup.h), this master leaves everything to it, and as a master it rolls its workers in.
 * When something fails before the roll is over, nothing has changed, and who asked is told why. */
#pragma once
#include "dataplane/node/checkup.h"
#include "dataplane/node/config.h"
#include "dataplane/node/heritage.h"
#include "dataplane/node/hub.h"
#include <limits.h>

#define CHANGES_WAITING_MAX 16u /* further ones are somebody's loop */

struct supervisor;
/* Reads a configuration from a copy of its file, as the command line wants it. node_config_load_copy's results. */
typedef enum err changes_read(void *user, const char *copy, struct node_config *ret, char **ret_message);

struct changes_events {
    /* `fresh` may come into force (its workers will roll in next): what can fail of it in the master is tried now.
     * NULL, or what is wrong: until the next call. */
    const char *(*prepare)(void *user, const struct node_config *fresh);
    /* The configuration in force was replaced; `before` is what it was, until this returns. */
    void (*reloaded)(void *user, const struct node_config *before);
    void (*busy)(void *user, bool begins); /* a change begins, or is over */
    /* This master is to leave everything to that program. On error it goes on. */
    enum err (*leave)(void *user);
    void *user;
};
struct changes_options {
    uv_loop_t *loop;
    struct node_config *config; /* in force: replaced */
    struct supervisor *supervisor;
    const char *file;             /* the operator's, or NULL: node.yaml in the home, where it exists */
    const char *program;          /* where the running program came from */
    const char *const *arguments; /* of the running program, without its name, NULL-terminated */
    changes_read *read;
    void *read_user;
    struct changes_events events;
};
struct change;
struct changes {
    struct changes_options options;
    struct checkup checkup;
    uv_timer_t timer;
    struct change *first, *last; /* the first one is under way */
    struct node_config fresh;    /* rolls in */
    struct heritage_change past; /* the last that is over */
    bool rolls, leaving, closed;
    char *copy, *next;      /* paths: the copy in force, and the one that may come */
    char program[PATH_MAX]; /* to become: absolute */
};

/* Paths only. ERR_NOMEM. */
MUST_CHECK enum err changes_init(struct changes *changes, const struct changes_options *options);
/* At a master's start: copies the operator's file, reads the copy and puts it in force. *ret_message: malloc'd. Errors of
 * changes_read; ERR_IO, ERR_NOSPACE. */
MUST_CHECK enum err changes_first(struct changes *changes, char **ret_message);
/* What another master was asked for goes on; once all sockets stand. */
void changes_inherit(struct changes *changes, struct heritage *heritage);
/* asker NULL: a signal, which hears nothing. False: it is none of our words. */
bool changes_ask(struct changes *changes, struct hub_peer *asker, struct span line);
void changes_reload(struct changes *changes);
void changes_asker_gone(struct changes *changes, struct hub_peer *asker);
/* Events of the supervisor. */
void changes_rolling(struct changes *changes, unsigned ready, unsigned of, const char *waits);
void changes_rolled(struct changes *changes, const char *failure);
/* When it is time to leave: who asked, for the next master. Others that wait are told to ask again. */
void changes_leave(struct changes *changes, struct heritage *heritage);
void changes_close(struct changes *changes); /* run the loop until handles are closed */
