/* http1_answer.h - the head of an answer as HTTP/1 writes it: what the sink was given, with the date and the framing
 * (RFC 9112 section 6). Pure. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"
#include "dataplane/worker/sink.h"

struct http1_answer {
    const struct sink_head *head;
    bool http10;      /* the client's version: no chunks */
    bool stream;      /* chunked; for HTTP/1.0 the body ends with the connection, which `close` must say */
    bool close;       /* "connection: close", whatever the head says */
    uint64_t bytes;   /* content-length when not a stream */
    struct span date; /* as http1_format_date; empty: none */
};
/* Appends it, the empty line included. ERR_NOMEM, ERR_FULL, ERR_INVALID (a value that may not stand in a head). */
MUST_CHECK enum err http1_answer_head(const struct http1_answer *answer, struct buf *out);
