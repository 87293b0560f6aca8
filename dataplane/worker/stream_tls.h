/* stream_tls.h - TLS around a client's stream (OpenSSL, TLS 1.2 and 1.3), shared by stream*.c only. */
#pragma once
#include "dataplane/worker/stream.h"

/* ERR_NOMEM. */
MUST_CHECK enum err stream_tls_open(struct stream *stream);
void stream_tls_free(struct stream_tls *tls); /* NULL is fine */
/* What the socket has brought: handshakes, and gives plain bytes to stream_give. ERR_CLOSED: the client has said that it
 * sends no more. Other errors: the connection is dead, as is what it says no TLS. */
MUST_CHECK enum err stream_tls_take(struct stream *stream, struct span bytes);
/* Errors as stream_write. */
MUST_CHECK enum err stream_tls_write(struct stream *stream, const struct span *parts, unsigned count);
/* Says that we send no more. */
MUST_CHECK enum err stream_tls_shutdown(struct stream *stream);

/* stream.c, for it */
void stream_opened_now(struct stream *stream); /* the handshake is done */
void stream_give(struct stream *stream, struct span bytes);
