/* load_run.h - sends requests over many connections and tallies what comes back. HTTP/1.1, keep-alive, plain or TLS.
 *
 * Without a rate each connection sends its next request when it has its answer (closed loop). With a rate or times of
 * arrival, requests are due at fixed times, whether or not the answers come; latency counts from the time a request was
 * due, so that a slow server cannot make its own measurement rarer ("coordinated omission"). */
#pragma once
#include "tests/support/load_tally.h"
#include <netinet/in.h>

struct fake_tls_server;
struct sse_event;

/* What a program may want to say and to know of each request, beyond the tally. Any function may be NULL. `number`
 * counts requests from 0 in the order in which they are sent; times count from when the request was due. Spans that are
 * passed live until the function returns. */
struct load_watch {
    void *user;
    struct span (*request)(void *user, uint64_t number); /* instead of plan->request; must live until the next call */
    void (*header)(void *user, uint64_t number, struct span name, struct span value);
    void (*event)(void *user, uint64_t number, const struct sse_event *event);
    void (*content)(void *user, uint64_t number, uint64_t us);   /* the first content of a stream */
    void (*body)(void *user, uint64_t number, struct span part); /* of what is no stream, as it comes */
    void (*ended)(void *user, uint64_t number, enum load_failure failure, uint64_t us);
    void (*progress)(void *user, uint64_t sent, uint64_t active, uint64_t failed); /* for plan->progress */
};

/* Ten digits somewhere in the request that differ from one to the next. */
struct load_vary {
    size_t at;
    char zero;      /* '0', or 'a' where digits are letters */
    uint64_t count; /* each below this, in a fixed order that looks random; 0: the request's number */
};
#define LOAD_VARIES_MAX 3

struct load_plan {
    struct sockaddr_storage address;
    struct span request; /* head and body, as sent each time; must be writable when something varies */
    struct load_vary varies[LOAD_VARIES_MAX];
    unsigned vary_count;
    struct fake_tls_server *tls; /* whom to trust (fake_tls_client_new); NULL: plain TCP */
    const char *tls_name;        /* that the certificate must have */
    unsigned connections;
    uint64_t requests;    /* UINT64_MAX: until the time is over */
    uint64_t duration_ms; /* 0: until the requests are done */
    double rate;          /* requests per second; 0: closed loop */
    /* When each request is due, after the start, in order; one for each of `requests`. Instead of rate. */
    const uint64_t *due_ns;
    const struct load_watch *watch; /* may be NULL */
    uint64_t timeout_ms;            /* of one request */
    uint64_t drain_ms;              /* for what is running when the time is over */
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
