/* setup.h - what one listener's connections need to know: its part of the configuration, made ready (certificates
 * read, trusted proxies, the teams of certificates). Made once in a worker's life: a reload starts new workers, which read
 * the files anew. Counted: connections outlive their listener when the worker drains. On the loop's thread only. */
#pragma once
#include "common/arena.h"
#include "common/base.h"
#include "common/err.h"
#include "dataplane/node/config.h"

struct board;
struct sockaddr;
struct ssl_ctx_st;
struct x509_st;
struct listener_setup {
    unsigned users;
    struct arena arena; /* of the copies */
    bool http2;
    struct ssl_ctx_st *tls; /* NULL: plaintext */
    const struct certificate_team *teams;
    unsigned team_count;
    const struct network *proxies;
    unsigned proxy_count;
    const struct board *board; /* borrowed: the keys of tickets; NULL: the setup's own */
};

/* Reads the files and copies what it needs of `config`. board: must outlive the setup; NULL: TLS sessions are resumed by
 * this setup only. ERR_INVALID: *ret_message (malloc'd) names the file and what is
 * wrong with it. ERR_NOMEM (and NULL). */
MUST_CHECK enum err listener_setup_load(const struct listener_config *config, const struct board *board,
                                        struct listener_setup **ret, char **ret_message);
struct listener_setup *listener_setup_ref(struct listener_setup *setup);
void listener_setup_unref(struct listener_setup *setup); /* NULL is fine */
/* Connections from there begin with a PROXY header. A Unix socket's clients do when any proxy is configured: who may
 * connect is for the mode of its file to say. */
bool listener_setup_trusts(const struct listener_setup *setup, const struct sockaddr *peer);
/* The team of a verified certificate (NULL: none was shown): by the DNS names, e-mail addresses and URIs that it is for,
 * by its common name only if it has none of those (RFC 6125 section 6.4.4). Not of one that has expired since it was
 * verified, as a session may be resumed. *ret_team and *ret_name live as long as the setup; NULL: none. ERR_DENIED: its
 * names or its time cannot be read, also for lack of memory: whose it is is not known. */
MUST_CHECK enum err listener_setup_team(const struct listener_setup *setup, const struct x509_st *certificate,
                                        const char **ret_team, const char **ret_name);
