/* load_tally.h - what a load run counted, and its summary as JSON or one line. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/digest.h"
#include "common/err.h"
#include "common/span.h"

#define LOAD_HEADERS_MAX 8
#define LOAD_VALUES_MAX  64  /* further values are counted as "other" */
#define LOAD_VALUE_BYTES 256 /* a model's name among them */

enum load_failure {
    LOAD_OK,
    LOAD_CONNECT,     /* no connection */
    LOAD_RESET,       /* an error of the connection during the request */
    LOAD_NO_RESPONSE, /* closed before the first byte of a response */
    LOAD_CUT,         /* closed before the end of the response */
    LOAD_MALFORMED,   /* not HTTP, or more than the response */
    LOAD_STATUS,      /* a status that was not expected */
    LOAD_NO_DONE,     /* a stream that ended without [DONE] */
    LOAD_ERROR_EVENT, /* a stream with an error event */
    LOAD_TIMEOUT,
    LOAD_UNFINISHED, /* still running when the run ended */
    LOAD_FAILURES
};

/* Exact up to a million values, then a uniform sample of them (Vitter's algorithm R). */
#define LOAD_SAMPLES_MAX (1u << 20)
struct load_samples {
    uint32_t *us;
    size_t count; /* kept */
    uint64_t seen;
    uint64_t sum_us;
    uint64_t max_us;
    struct prng prng;
};

struct load_header {
    struct span name;
    struct load_value {
        char text[LOAD_VALUE_BYTES];
        uint64_t count;
    } values[LOAD_VALUES_MAX];
    unsigned count;
};

struct load_tally {
    uint64_t requests, aborted, held, waited, events, bytes_in, bytes_out, connections;
    uint64_t failures[LOAD_FAILURES]; /* [LOAD_OK] are the good ones */
    uint64_t statuses[600];
    struct load_samples latency, ttft;
    struct load_header headers[LOAD_HEADERS_MAX];
    unsigned header_count;
    char first_failure[320];
    double seconds;
};

MUST_CHECK enum err load_tally_init(struct load_tally *tally); /* ERR_NOMEM */
void load_tally_release(struct load_tally *tally);
void load_samples_add(struct load_samples *samples, uint64_t us);
void load_tally_value(struct load_header *header, struct span value);
const char *load_failure_name(enum load_failure failure);
uint64_t load_tally_failed(const struct load_tally *tally);
/* Sorts the samples. */
MUST_CHECK enum err load_tally_json(struct load_tally *tally, struct buf *out);
MUST_CHECK enum err load_tally_line(struct load_tally *tally, struct buf *out); /* for people */
