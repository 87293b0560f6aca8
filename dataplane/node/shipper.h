/* shipper.h - ships the lines of this node's segments to the control plane, in order, each once.
 *
 * Nothing is remembered here: the control plane says where it stands (segment, offset), and what stands behind that is
 * sent, in batches that say where they begin. After whatever was lost or cut, and in a new master, it is asked again. A
 * segment that was removed before it was acknowledged is lost, and counted; the one that is being read stays open, and is
 * read to its end.
 *
 * With records.ship under 100% whole units are left out, by a hash that knows nothing of arms. */
#pragma once
#include "common/arena.h"
#include "dataplane/node/config.h"
#include "dataplane/node/records.h"
#include "proto/channel.h"
#include "proto/record_dir.h"
#include <uv.h>

#define SHIPPER_EVERY_MS 200u  /* a rollout's guards see harm no sooner than this */
#define SHIPPER_AGAIN_MS 1000u /* after a failure */

struct shipper_options {
    uv_loop_t *loop;
    const struct node_config *config;
    struct records *records; /* its `removing` is taken */
};
struct shipper {
    struct shipper_options options;
    struct channel_client *client;
    uv_async_t wake;
    uv_timer_t timer;
    bool known; /* what is acknowledged: */
    char segment[RECORD_FILE_NAME_BYTES];
    uint64_t from;
    uint64_t at;           /* read up to here; lines between were left out, or are in the batch */
    int fd;                /* of the segment, or -1 */
    struct buf raw, lines; /* as read; the batch */
    uint64_t batch_lines;
    struct arena arena; /* of a line */
    uint64_t not_before_ms;
    bool sending, closing;
    bool contact, told, elsewhere;    /* said once */
    uint64_t shipped, lost, left_out; /* lines */
};
/* Errors of channel_client_open; ERR_NOMEM. records.ship 0: nothing is opened, and that is OK. */
MUST_CHECK enum err shipper_open(struct shipper *shipper, const struct shipper_options *options);
void shipper_close(struct shipper *shipper);
