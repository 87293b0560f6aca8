/* tls_bio.h - OpenSSL without sockets of its own: it reads records from bytes that have come, and writes them into a
 * buffer, so that what goes to a socket goes in one write. */
#pragma once
#include "common/buf.h"
#include "common/span.h"

struct bio_st;
struct tls_bio {
    struct span in;  /* records not looked at; for the length of one call */
    struct buf *out; /* what does not fit breaks the connection */
};
/* `ends` must outlive it. NULL: out of memory. */
struct bio_st *tls_bio_new(struct tls_bio *ends);
