/* load_url.h - where a load program sends to. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include <netinet/in.h>

struct load_url {
    struct span authority; /* HOST[:PORT]; borrows from the text */
    struct span path;      /* "/" when there is none */
    bool tls;              /* https */
};

/* http[s]://HOST[:PORT][/PATH]. ERR_INVALID: something else. */
MUST_CHECK enum err load_url_split(const char *text, struct load_url *ret);
/* The first address of its host. ERR_NOT_FOUND, with the resolver's words in *ret_why. */
MUST_CHECK enum err load_url_resolve(const struct load_url *url, struct sockaddr_storage *ret, const char **ret_why);
