/* fake_tls.h - TLS over memory, either side: bytes in, bytes out, no sockets. */
#pragma once
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"

struct fake_tls_server; /* certificate and key; or, of a client, what it trusts */
struct fake_tls;        /* one connection */

/* PEM files. NULL: they cannot be read or do not belong together. */
struct fake_tls_server *fake_tls_server_new(const char *cert_file, const char *key_file);
/* For clients: they accept only what the PEM file certifies. NULL: it cannot be read. */
struct fake_tls_server *fake_tls_client_new(const char *ca_file);
void fake_tls_server_free(struct fake_tls_server *server);
struct fake_tls *fake_tls_new(struct fake_tls_server *server); /* NULL when out of memory */
void fake_tls_free(struct fake_tls *tls);
/* A client's connection to `host`, a name that the certificate must have; speaks first. NULL when out of memory. */
struct fake_tls *fake_tls_dial(struct fake_tls_server *client, const char *host);
bool fake_tls_is_ready(const struct fake_tls *tls); /* the handshake is done */
/* Bytes from the peer; then read until ERR_AGAIN. ERR_NOMEM. */
MUST_CHECK enum err fake_tls_feed(struct fake_tls *tls, struct span wire);
/* OK: *ret_n plain bytes. ERR_AGAIN: more must be fed first. ERR_CLOSED: the peer said goodbye or broke the protocol.
 */
MUST_CHECK enum err fake_tls_read(struct fake_tls *tls, char *out, size_t out_bytes, size_t *ret_n);
/* Moves plain, encrypted, and whatever the handshake has to say into wire. Before the handshake is done plain stays as
 * it is. ERR_NOMEM. */
MUST_CHECK enum err fake_tls_write(struct fake_tls *tls, struct buf *plain, struct buf *wire);
