/* metrics.h - the node as text: Prometheus exposition format 0.0.4 for /metrics, JSON for /status, and whether it is
 * ready. Reads, changes nothing. */
#pragma once
#include "common/buf.h"
#include "dataplane/node/records.h"
#include "dataplane/node/replica.h"
#include "dataplane/node/shipper.h"
#include "dataplane/node/supervisor.h"
#include "dataplane/node/tally.h"

#define METRICS_BYTES_MAX ((size_t)64 << 20) /* all series the board can hold, with room */

struct metrics_source {
    const struct node_config *config;
    struct board *board;
    const struct tally *ended;
    const struct supervisor *supervisor;
    const struct replica *replica;
    const struct records *records;
    const struct shipper *shipper;
    uint64_t stuck, starved;                   /* as the watchdog counts */
    const char *listen;                        /* where clients connect, as it came out */
    const struct heritage_change *last_change; /* NULL: of none is known */
    uint64_t now_ms, started_ms;
    int64_t wall_ms;
};
/* ERR_FULL, ERR_NOMEM: half a page is no page. */
MUST_CHECK enum err metrics_write(const struct metrics_source *source, struct buf *out);
MUST_CHECK enum err metrics_status(const struct metrics_source *source, struct buf *out);
/* Ready: has a policy, and a worker serves. Appends "ready\n", or a line for each reason why not. */
MUST_CHECK enum err metrics_ready(const struct metrics_source *source, bool *ret_ready, struct buf *out);
