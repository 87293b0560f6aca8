/* peer.h - one client of a listener: owns its stream, finds out which protocol it speaks (by ALPN; in plaintext by its
 * first bytes, RFC 9113 section 3.3) and has it spoken by a speaker. What a listener's list holds. */
#pragma once
#include "dataplane/worker/deadline.h"
#include "dataplane/worker/speaker.h"

struct peer;
struct peer_owner { /* the listener's */
    void (*closed)(struct peer_owner *owner, struct peer *peer);
};

enum peer_state {
    PEER_OPENING,  /* a PROXY header or a handshake is awaited */
    PEER_FIRST,    /* the first bytes are */
    PEER_SPEAKING, /* a speaker has it */
    PEER_LEAVING,  /* our side is shut; the client's last bytes are dropped */
    PEER_CLOSED,
    PEER_STATES
};
struct peer {
    struct peer *previous, *next; /* the owner's list, and its to set and read */
    /* The rest is peer.c's. */
    struct speaker_host host;
    struct core *core;
    struct peer_owner *owner;
    enum peer_state state;
    unsigned matched; /* bytes of HTTP/2's preface that have come: they need no copy */
    unsigned closing; /* handles still open */
    struct speaker *speaker;
    struct deadline timer;
    struct stream stream;
};

/* Takes over an accepted socket by uv_accept from `server`. ERR_NOMEM: it was not taken. Else the owner has it in its
 * list until `closed`, after which it is gone. */
MUST_CHECK enum err peer_accept(struct core *core, uv_stream_t *server, struct listener_setup *setup,
                                struct peer_owner *owner, struct peer **ret);
void peer_drain(struct peer *peer);        /* speaker.h says what drain means */
void peer_drain_passed(struct peer *peer); /* its deadline */
void peer_abort(struct peer *peer);        /* at once */
