/* setup.h - what one listener's connections need to know: its part of the configuration, made ready (certificates
 * read, trusted proxies, the teams of certificates). Counted: a reload makes a new one for the connections to come,
 * those that are open keep theirs. On the loop's thread only. */
#pragma once
#include "common/arena.h"
#include "common/base.h"
#include "common/err.h"
#include "dataplane/node/config.h"

struct sockaddr;
struct listener_setup {
    unsigned users;
    struct arena arena;  /* of the copies */
    struct span address; /* as configured: what a reload knows it by */
    bool http2;
    const struct network *proxies;
    unsigned proxy_count;
};

/* Copies what it needs of `config`. ERR_NOMEM. */
MUST_CHECK enum err listener_setup_load(const struct listener_config *config, struct listener_setup **ret);
struct listener_setup *listener_setup_ref(struct listener_setup *setup);
void listener_setup_unref(struct listener_setup *setup); /* NULL is fine */
/* Connections from there begin with a PROXY header. A Unix socket's clients do when any proxy is configured: who may
 * connect is for the mode of its file to say. */
bool listener_setup_trusts(const struct listener_setup *setup, const struct sockaddr *peer);
