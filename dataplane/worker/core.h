/* core.h - what one worker owns and all its connections and exchanges share. One loop, one thread. */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "common/digest.h"
#include "dataplane/node/config.h"
#include "dataplane/route/retry.h"
#include "dataplane/upstream/upstream.h"
#include "dataplane/worker/http1.h"
#include "dataplane/worker/loader.h"
#include "proto/board.h"
#include "proto/request_id.h"
#include <uv.h>

#define CORE_READ_BYTES (64u << 10) /* one read from a client: bounds what one busy client takes of a turn */

#define CORE_WRITE_QUEUE_LEAST 4096u /* a full worker's streams go on, in small steps */

struct exchange;
struct exchange_shadow;
struct core {
    uv_loop_t *loop;
    const struct node_config *config;
    unsigned slot;
    struct board *board;
    struct board_region *region;
    struct loader loader;
    struct upstream_lane *lane;
    struct prng prng;
    struct request_id_key id_key; /* of no secret until worker.c gives one: ids of this process alone verify */
    struct prng ids;              /* requests': apart, as clients see them and must not learn what `prng` will choose */
    struct buf scratch;           /* for the length of one callback */
    struct arena event_arena;     /* the same: what one event of a stream is read with */
    struct buf lines;             /* an answer's header lines, and its head as the protocol writes it: the same */
    struct buf head;
    struct buf
        cipher; /* TLS with clients: records on their way out, and (CORE_READ_BYTES, when first needed) what came */
    char *plain;
    struct buf record; /* one line's room, from the start: what was served is recorded also when memory runs out */
    char *read_buffer; /* CORE_READ_BYTES; for the length of one read callback: idle connections hold no memory for
                           reading */
    struct retry_budget retries;
    uint64_t buffered; /* bytes of bodies, answers and unsent output that are held now: against limits.buffered_bytes */
    uint64_t credential_turn; /* credentials of a provider are used in turn */
    uint64_t credentials_read_ms;
    uint64_t *cool_until_ms; /* by model label: as Retry-After asked */
    struct exchange *tails;  /* exchanges that wait for the end of an upstream's message: no more than connections */
    struct exchange_shadow *shadows; /* under way */
    uint64_t shadow_unsent_due_ms;   /* from when on one that its budget has no room for is recorded again */
    struct exchange *spare;          /* exchanges that wait for a request */
    unsigned spare_count;
    int64_t date_s; /* that `date` says */
    char date[HTTP1_DATE_BYTES];
    int64_t wall_offset_ms; /* wall clock less uv_now; renewed by the timer */
    bool draining;
};

struct core_options {
    uv_loop_t *loop;
    const struct node_config *config;
    unsigned slot, region_number;
    const char *board_path, *store_path;
    struct upstream_lane *lane; /* borrowed */
    const struct loader_events *events;
};
/* ERR_NOMEM; errors of board_attach. */
MUST_CHECK enum err core_init(struct core *core, const struct core_options *options);
/* Closes the handles of spare exchanges, cuts what tails and ends shadows; run the loop until they are closed, then core_release. No client's exchange may be
 * under way. */
void core_close(struct core *core);
void core_release(struct core *core);

/* Clocks, read once per turn of the loop. */
static inline uint64_t core_now_ms(const struct core *core)
{
    return uv_now(core->loop);
}
static inline int64_t core_wall_ms(const struct core *core)
{
    return (int64_t)uv_now(core->loop) + core->wall_offset_ms;
}
void core_renew_wall(struct core *core);
/* For the Date header; formatted once a second. Until the next call. */
struct span core_date(struct core *core);
/* Held memory was `before` and is `after` now. */
static inline void core_account(struct core *core, size_t before, size_t after)
{
    core->buffered += after;
    core->buffered -= before;
    atomic_store_explicit(&core->region->counters[WORKER_BYTES_BUFFERED], core->buffered, memory_order_relaxed);
}
/* More is held than may be: nobody gets more, what is held goes on. */
static inline bool core_is_full(const struct core *core)
{
    return core->buffered > core->config->limits.buffered_bytes;
}
/* What one client's unsent answer may come to before its upstream is paused: next to nothing when the worker is full. */
static inline uint64_t core_write_queue_max(const struct core *core)
{
    return core_is_full(core) ? CORE_WRITE_QUEUE_LEAST : core->config->limits.write_queue_bytes;
}
static inline void core_count(struct core *core, enum worker_counter counter)
{
    board_add(&core->region->counters[counter], 1);
}
/* A gauge goes up (1) or down (-1). */
static inline void core_gauge(struct core *core, enum worker_counter counter, int by)
{
    board_add(&core->region->counters[counter], (uint64_t)(int64_t)by);
}
