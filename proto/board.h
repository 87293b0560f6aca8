/* board.h - the node's shared memory: counters by label, breakers per model, generation served. Layout and access; no
 * policy.
 *
 * A file on tmpfs, made by the master, mapped by every process of the node. A region is one worker process's for its
 * lifetime: its one writer (relaxed atomics). There are many more than workers, since those that drain keep theirs; one
 * that is free takes no memory. When its process has ended a region is folded into the master's accumulators; these
 * stand in a region of their own, so that a master that follows a killed one goes on counting. The model words are
 * shared truth of the node. Label names live in an append-only dictionary written by the master alone: names
 * come from tables, never from clients, and beyond the cap they are BOARD_OTHER.
 *
 * A process attaches only to a board of its own layout number (ERR_UNSUPPORTED) and boot id. */
#pragma once
#include <stdatomic.h>
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/hist.h"
#include "common/span.h"
#include "proto/limits.h"

#define BOARD_LAYOUT             5u
#define BOARD_LABELS_MAX         16384u /* bounds the dictionary, whatever policies are pushed over the years */
#define BOARD_SERIES_MAX         2048u  /* (team, route, model) triples per worker; more go to "other" */
#define BOARD_SERIES_INDEX_SLOTS (2 * BOARD_SERIES_MAX)
#define BOARD_OTHER              0u  /* label id of what does not fit */
#define BOARD_ARMS_MAX           16u /* per worker; policies come and go, and what they have counted takes room */
#define BOARD_ARM_NAME_BYTES     64u /* longer names are cut */
#define BOARD_BUDGETS_MAX        8u  /* live shadows, twice over */

enum board_label_kind { BOARD_LABEL_TEAM, BOARD_LABEL_ROUTE, BOARD_LABEL_MODEL, BOARD_LABEL_KINDS };

/* One per (team, route, model). For requests that reached no model, model is label 0 with the name "none" given by the
 * exporter. */
enum series_counter {
    SERIES_REQUESTS,      /* client requests settled here (last model tried) */
    SERIES_OK,            /* complete 2xx answers */
    SERIES_CLIENT_ERRORS, /* 4xx of the client's own */
    SERIES_ERRORS,        /* everything else that failed */
    SERIES_CANCELLED,     /* client went away */
    SERIES_STREAMS,
    SERIES_TRUNCATED, /* error after first content */
    SERIES_ATTEMPTS,  /* upstream tries of this model */
    SERIES_ATTEMPT_FAILURES,
    SERIES_ATTEMPT_TIMEOUTS,
    SERIES_FAILOVERS, /* requests that moved on from this model */
    SERIES_TOKENS_INPUT,
    SERIES_TOKENS_CACHED,
    SERIES_TOKENS_OUTPUT,
    SERIES_TOKENS_REASONING,
    SERIES_COST_NANO, /* charged */
    SERIES_COST_LIST_NANO,
    SERIES_ESTIMATED, /* requests whose usage was estimated */
    SERIES_COUNTERS
};
struct board_hist {
    _Atomic uint64_t count, sum;
    _Atomic uint64_t buckets[HIST_BUCKETS];
};
struct board_series {
    _Atomic uint64_t key; /* 0: free; else team << 42 | route << 21 | model, plus bit 63 */
    _Atomic uint64_t counters[SERIES_COUNTERS];
    struct board_hist ttft_us;
    struct board_hist duration_us;
};
/* One per arm: a policy version under a name. What shadows do is counted apart from what clients asked for. */
enum arm_counter {
    ARM_OK, /* requests, by how they ended */
    ARM_CLIENT_ERRORS,
    ARM_ERRORS,
    ARM_CANCELLED,
    ARM_ATTEMPTS,
    ARM_ATTEMPT_FAILURES,
    ARM_TOKENS_INPUT,
    ARM_TOKENS_CACHED,
    ARM_TOKENS_OUTPUT,
    ARM_TOKENS_REASONING,
    ARM_COST_NANO, /* charged */
    ARM_COST_LIST_NANO,
    ARM_COUNTERS
};
struct board_arm {
    _Atomic uint64_t key; /* 0: free, or being changed */
    uint64_t used;        /* the worker's own: which one rests longest */
    uint32_t name_len;
    char name[BOARD_ARM_NAME_BYTES];
    _Atomic uint64_t counters[ARM_COUNTERS];
    struct board_hist ttft_us;
};
struct board_arm_id {
    uint32_t version;
    bool shadow;
    struct span name; /* at most BOARD_ARM_NAME_BYTES of it count */
};
enum worker_counter {
    WORKER_CONNECTIONS_ACCEPTED,
    WORKER_CONNECTIONS_REFUSED, /* over the cap */
    WORKER_CONNECTIONS_OPEN,    /* a gauge */
    WORKER_REQUESTS_OPEN,       /* a gauge */
    WORKER_STREAMS_OPEN,        /* a gauge */
    WORKER_BYTES_BUFFERED,      /* a gauge */
    WORKER_RECORDS_DROPPED,
    WORKER_TABLE_SWITCHES,
    WORKER_TABLE_ERRORS,
    WORKER_BAD_REQUESTS, /* malformed HTTP */
    WORKER_UNAUTHORIZED,
    WORKER_UPSTREAM_CONNECTS,
    WORKER_UPSTREAM_REUSED,
    WORKER_SHADOWS_OPEN,    /* a gauge */
    WORKER_SHADOWS_SKIPPED, /* wanted by the head, not sent: the worker had enough to do */
    WORKER_LOOP_TURNS,
    WORKER_LOOP_LAST_MS, /* monotonic ms of the last turn: the watchdog's food */
    WORKER_COUNTERS
};
static inline bool worker_counter_is_gauge(enum worker_counter counter)
{
    return counter == WORKER_CONNECTIONS_OPEN || counter == WORKER_REQUESTS_OPEN || counter == WORKER_STREAMS_OPEN ||
           counter == WORKER_BYTES_BUFFERED || counter == WORKER_SHADOWS_OPEN || counter == WORKER_LOOP_LAST_MS;
}
#define BOARD_RECORD_RING_BYTES (1u << 20) /* records waiting for the master: a second of heavy traffic */

struct board_region {
    _Atomic uint64_t pid;        /* of its process, written by that; 0: has not come so far */
    _Atomic uint64_t started_ms; /* monotonic */
    /* What this worker serves; written together under `serving_lock` parity (odd while being written). */
    _Atomic uint64_t serving_lock;
    _Atomic uint64_t serving_epoch, serving_generation, serving_evidence, serving_directory;
    _Atomic uint64_t counters[WORKER_COUNTERS];
    struct board_hist overhead_us;
    _Atomic uint32_t
        inflight[MODELS_MAX]; /* by model label slot (label id < MODELS_MAX, else slot 0): outstanding attempts */
    struct board_arm arms[BOARD_ARMS_MAX]; /* the first is of those that had to make room */
    uint32_t arm_last;                     /* the worker's own, as is the next: where to look first */
    uint64_t arm_turns;
    struct board_series
        series[BOARD_SERIES_MAX]; /* filled from the front: the first free one ends them, and reading on costs memory */
    uint16_t series_index[BOARD_SERIES_INDEX_SLOTS]; /* the worker's own, as is the count: finds a series by its key */
    uint32_t series_count;
    /* Single-producer single-consumer ring of records; see board_record_put. */
    _Atomic uint64_t record_head, record_tail; /* bytes ever written, ever read */
    char records[BOARD_RECORD_RING_BYTES];
};
/* Shared truth per model label; many writers, compare-and-swap. */
struct board_model {
    _Atomic uint64_t breaker; /* route/breaker's packed word */
    _Atomic uint64_t breaker_extra;
    _Atomic uint32_t ttft_ewma_us;         /* node's own, 0: none yet */
    _Atomic uint32_t remaining_ppm_plus_1; /* least remaining share that rate-limit headers told lately; 0: unknown */
    _Atomic uint64_t remaining_at_ms;
    _Atomic int64_t certificate_expires_at_ms; /* wall clock; 0: unknown. See board_certificate_seen */
    _Atomic uint64_t certificate_at_ms;
};
/* How long a date counts after it was seen last: servers behind one name may hold different certificates, of which the
 * first to expire matters; one that was renewed is gone. */
#define BOARD_CERTIFICATE_MS 3600000u

struct board;

/* Master: makes (or, when a board of this layout and boot is there, takes over) the board at `path`; a path not on
 * tmpfs is refused with ERR_INVALID (callers choose /dev/shm then). regions <= NODE_REGIONS_MAX. ERR_IO, ERR_NOSPACE,
 * ERR_NOMEM. */
MUST_CHECK enum err board_create(const char *path, unsigned regions, struct board **ret); /* one caller at a time */
MUST_CHECK enum err board_attach(const char *path,
                                 struct board **ret); /* workers, tests; ERR_UNSUPPORTED, ERR_NOT_FOUND, ERR_CORRUPT */
/* The same for who only reads: any write is a fault. */
MUST_CHECK enum err board_look(const char *path, struct board **ret);
void board_close(struct board *board); /* unmaps; the file stays */
unsigned board_regions(const struct board *board);
struct board_region *board_region(struct board *board, unsigned number);

/* Master only: gives a region that is free to a process that will be started, backed by memory as far as it is
 * certainly written. ERR_TOO_MANY: none is free now. ERR_NOSPACE: the tmpfs is full. ERR_IO. */
MUST_CHECK enum err board_region_take(struct board *board, unsigned *ret_number);
/* Its process has ended (or never came) and was folded: all-zero, without memory, free. */
void board_region_free(struct board *board, unsigned number);
bool board_region_taken(const struct board *board, unsigned number);

/* Master only: what workers that ended have left. Moves the counters, histograms and series of a region there; its gauges
 * (worker_counter_is_gauge) ended with the process. A master killed on the way loses one count at most, and the next
 * one, who folds the region again, counts none twice. */
struct board_region *board_ended(struct board *board);
void board_fold(struct board *board, struct board_region *region);

/* A provider showed a certificate that expires then; now_ms: monotonic. The earliest date seen lately is kept. */
void board_certificate_seen(struct board_model *model, int64_t expires_at_ms, uint64_t now_ms);

/* Generation the master has committed: workers compare it with what they serve. */
void board_set_committed(struct board *board, uint64_t txn_id);
uint64_t board_committed(const struct board *board);

/* Keys of the tickets by which clients resume TLS sessions: shared by the workers of the node, kept over reloads and
 * upgrades, gone with the board. RFC 5077 section 5.5: changed often, as whoever has one reads what it sealed. */
#define BOARD_TICKET_KEYS 3u       /* the newest seals; all of them open */
#define BOARD_TICKET_MS   3600000u /* so no ticket is taken for longer than three hours while a master lives */
struct board_ticket_key {
    uint8_t name[16], cipher[32], mac[32];
};
/* Master only, now and then: another key when there is none yet, or the newest is that old. now_ms: monotonic. */
void board_tickets_renew(struct board *board, uint64_t now_ms);
/* age 0: the newest, 1: the one before. False: there is none. The caller wipes its copy. */
bool board_ticket_key(const struct board *board, unsigned age, struct board_ticket_key *ret);

/* Labels. Add: master only; the same name gives the same id; BOARD_OTHER when the cap is reached. Find: any process;
 * BOARD_OTHER when absent. */
uint32_t board_label_add(struct board *board, enum board_label_kind kind, struct span name);
uint32_t board_label_find(struct board *board, enum board_label_kind kind, struct span name);
struct span board_label_name(const struct board *board, enum board_label_kind kind, uint32_t id); /* "other" for 0 */
uint32_t board_label_count(const struct board *board, enum board_label_kind kind);
/* What shadows have spent on this node, by their ids; a board's life long. Keep: master only: these ids have a budget,
 * those spent before included; all others are forgotten. */
void board_budgets_keep(struct board *board, const struct span *ids, uint32_t count);
/* Any process. Takes `nano` where that stays within `limit`. False: it would not, or the id has no budget here. */
bool board_budget_take(struct board *board, struct span id, int64_t nano, int64_t limit);
void board_budget_correct(struct board *board, struct span id,
                          int64_t by_nano);                                 /* what was taken is not what it cost */
int64_t board_budget_spent(const struct board *board, struct span id);      /* 0: nothing, or no budget */
struct board_model *board_model(struct board *board, uint32_t model_label); /* slot 0 for what does not fit */

/* The series of a triple in this worker's region; never NULL (the last resort is the triple of OTHERs). Worker only. */
struct board_series *board_series(struct board_region *region, uint32_t team, uint32_t route, uint32_t model);
void board_series_key(uint64_t key, uint32_t *ret_team, uint32_t *ret_route, uint32_t *ret_model);
static inline void board_add(_Atomic uint64_t *counter, uint64_t n)
{
    /* single writer: a plain load and store, no locked instruction */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}
/* What an arm counts in this worker's region; never NULL. When there are too many, the one that rested longest is added
 * to "other" (version 0) and makes room. Worker only. */
struct board_arm *board_arm(struct board_region *region, const struct board_arm_id *id);
/* False: free, or being changed at this moment. The name is copied into `name`. */
bool board_arm_read(const struct board_arm *arm, char name[BOARD_ARM_NAME_BYTES], struct board_arm_id *ret);
void board_hist_add(struct board_hist *hist, uint64_t value);           /* single writer */
void board_hist_read(const struct board_hist *hist, struct hist *into); /* adds to `into` */
void board_set_serving(struct board_region *region, uint64_t epoch, uint64_t generation, uint64_t evidence,
                       uint64_t directory);
/* False while it could not be read consistently in a few tries. */
bool board_get_serving(const struct board_region *region, uint64_t ret[4]);
/* Outstanding attempts of a model over all workers of the node (regions that are taken). */
uint32_t board_inflight(struct board *board, uint32_t model_label);

/* Records: one JSON line each, without the newline. Put never blocks: ERR_FULL when the ring has no room (the caller
 * counts a drop). */
MUST_CHECK enum err board_record_put(struct board_region *region, struct span line);
/* Master: appends as many whole lines as there are, each ended by '\n', to `out`; returns how many. */
unsigned board_record_take(struct board_region *region, struct buf *out);
