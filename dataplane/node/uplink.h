/* uplink.h - tells the control plane each second what this node's requests have seen, by model.
 *
 * Cumulative since this master began (an incarnation): a lost or repeated message changes nothing. What workers had
 * counted before it began belongs to the master before and is left out. */
#pragma once
#include "dataplane/node/config.h"
#include "dataplane/node/tally.h"
#include "proto/channel.h"
#include <uv.h>

#define UPLINK_EVERY_MS     1000u
#define UPLINK_REMAINING_MS 60000u /* rate-limit headers older than this say nothing of now */

struct uplink_options {
    uv_loop_t *loop;
    const struct node_config *config;
    struct board *board;
    const struct tally *ended; /* accumulators of the master; borrowed */
};
struct uplink {
    uint64_t worker_crashes; /* counted by the master, told with each report */
    struct uplink_options options;
    struct channel_client *client;
    uv_async_t wake;
    uv_timer_t timer;
    struct tally baseline; /* by model */
    char incarnation[32];
    uint64_t seq;
    bool sending, closing, contact, told;
};
/* Call once adoption is over: the baseline is what stands then. Errors of channel_client_open. */
MUST_CHECK enum err uplink_open(struct uplink *uplink, const struct uplink_options *options);
void uplink_close(struct uplink *uplink);
