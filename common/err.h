/* err.h - the one error type. Zero is success; values are grouped by what the caller does next. Library codes are
 * translated where the library is wrapped; an HTTP status is chosen in one place (dataplane/worker/reply). */
#pragma once
#include "common/base.h"

enum err {
    OK = 0,
    /* Try again, later or elsewhere. */
    ERR_AGAIN,     /* nothing to do until more arrives */
    ERR_TIMEOUT,   /* a deadline passed */
    ERR_CLOSED,    /* the other side went away */
    ERR_REFUSED,   /* nobody listens there */
    ERR_CANCELLED, /* our side gave up */
    /* The peer or the input is at fault: say so, do not retry. */
    ERR_SYNTAX,       /* not well-formed */
    ERR_INVALID,      /* well-formed, but may not be */
    ERR_DUPLICATE,    /* said twice */
    ERR_UNSUPPORTED,  /* understood, but not offered (version, feature, encoding) */
    ERR_CORRUPT,      /* a checksum, a magic or a stored record is wrong */
    ERR_STALE,        /* older than what we have */
    ERR_CONFLICT,     /* the state it was based on has changed */
    ERR_NOT_FOUND,    /* no such thing */
    ERR_EXISTS,       /* there is one already */
    ERR_UNAUTHORIZED, /* nobody we know */
    ERR_DENIED,       /* known, but not allowed */
    ERR_NO_CANDIDATE, /* every choice was excluded */
    /* A limit: nothing is wrong, there is too much of it. */
    ERR_TOO_LARGE, /* bytes */
    ERR_TOO_DEEP,  /* nesting */
    ERR_TOO_MANY,  /* elements */
    ERR_FULL,      /* this buffer or queue is full; drain it and go on */
    /* Out of resource: refuse this, stay up. */
    ERR_NOMEM,
    ERR_NOSPACE, /* disk or map is full */
    ERR_IO,      /* the system said no; errno was logged where it happened */
    ERR_COUNT
};

/* A short lower-case name ("too_large"), never NULL. Stable: it appears in logs, metrics and records. */
const char *err_name(enum err err);
