/* load_run.h - sends requests over many connections and tallies what comes back. HTTP/1.1, keep-alive, no TLS.
 *
 * Without a rate each connection sends its next request when it has its answer (closed loop). With a rate, requests are
 * due at fixed times, whether or not the answers come; latency counts from the time a request was due, so that a slow
 * server cannot make its own measurement rarer ("coordinated omission"). */
#pragma once
#include "tests/support/load_tally.h"
#include <netinet/in.h>

struct load_plan {
    struct sockaddr_storage address;
    struct span request; /* head and body, as sent each time; must be writable when user_at is set */
    size_t user_at;      /* where the ten digits of the unique user stand, or SIZE_MAX */
    unsigned connections;
    uint64_t requests;    /* UINT64_MAX: until the time is over */
    uint64_t duration_ms; /* 0: until the requests are done */
    double rate;          /* requests per second; 0: closed loop */
    uint64_t timeout_ms;  /* of one request */
    uint64_t drain_ms;    /* for what is running when the time is over */
    bool stream;
    bool status_expected[600];
    uint64_t abort_after; /* events; 0: never */
    bool hold;            /* reads the first bytes of a response and then no more, until the end of the run */
    uint64_t read_rate;   /* bytes per second and connection; 0: as fast as they come */
    bool progress;        /* a line each second on stderr */
    bool close;           /* a connection for each request */
};

/* Runs to the end, or to SIGINT or SIGTERM. ERR_IO, ERR_NOMEM. */
MUST_CHECK enum err load_run(const struct load_plan *plan, struct load_tally *tally);
