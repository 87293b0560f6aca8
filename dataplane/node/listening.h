/* listening.h - the listening sockets of a node: one for each worker slot and listener of the configuration, made and
 * kept by the master, so that connections that wait in a queue outlive the worker that would have taken them.
 *
 * A value: a new configuration has a new one, which keeps (as duplicates) the sockets that the one before has already;
 * each is closed by itself. */
#pragma once
#include "dataplane/node/config.h"
#include "dataplane/node/control.h"
#include "dataplane/node/passed.h"
#include "dataplane/node/sockets.h"

#define LISTENING_TEXT_BYTES 128u /* "unix:" and the longest path of a socket */

struct listening_line { /* a listener of the configuration: as many sockets as slots */
    enum listener_kind kind;
    char text[LISTENING_TEXT_BYTES]; /* as it was configured */
    struct address address;          /* TCP: with the port that the system chose, once it stands */
    unsigned mode;
    bool tls;
};
struct listening {
    unsigned slots, count;
    struct listening_line lines[NODE_LISTENERS_MAX];
    int fds[NODE_WORKERS_MAX][NODE_LISTENERS_MAX]; /* -1: none so far */
};

/* What the configuration asks for, without a socket. */
void listening_plan(struct listening *listening, const struct node_config *config);
/* Duplicates of those sockets of `before` that are asked for here, too. ERR_IO: no descriptors. */
MUST_CHECK enum err listening_keep(struct listening *listening, const struct listening *before);
/* Sockets that a worker brings: those that this slot misses are taken, the others closed. False when the slot still
 * misses some, or some were none of ours: that worker listens elsewhere. */
bool listening_adopt(struct listening *listening, unsigned slot, struct control_fds *fds);
struct listening_fault {
    unsigned line;
    const char *hint; /* static, for people; "" */
};
/* Opens what is missing, or takes it from what systemd passed. fresh: makes sure that nobody else listens at what was not
 * there before (socket_listen). Errors of socket_listen, socket_listen_unix, passed_find. */
MUST_CHECK enum err listening_open(struct listening *listening, const struct passed *passed, bool fresh,
                                   struct listening_fault *ret_fault);
/* Those of a slot, in the configuration's order; borrowed. */
void listening_of(const struct listening *listening, unsigned slot, struct control_fds *ret);
/* "127.0.0.1:4000", "unix:/run/fairlead/api": where a line listens. out: LISTENING_TEXT_BYTES. Returns out. */
char *listening_text(const struct listening_line *line, char *out);
/* For people and programs that seek us, a line each: ADDR:PORT or unix:PATH, as it came out, and " tls" where that is
 * spoken. The first line is that of the first plaintext TCP listener (else of the first TCP one, else of the first);
 * after others that systemd passed stands their name. */
MUST_CHECK enum err listening_describe(const struct listening *listening, struct buf *out);
void listening_close(struct listening *listening);
/* Takes away the files of Unix sockets that were ours: those that `now` has no more, or, NULL, all on which nobody
 * listens any longer. */
void listening_unlink(const struct listening *listening, const struct listening *now);
