/* master_internal.h - shared by master*.c alone: what a master is made of. */
#pragma once
#include "common/notify.h"
#include "dataplane/node/changes.h"
#include "dataplane/node/exporter.h"
#include "dataplane/node/heritage.h"
#include "dataplane/node/master.h"
#include "dataplane/node/passed.h"
#include "dataplane/node/records.h"
#include "dataplane/node/replica.h"
#include "dataplane/node/shipper.h"
#include "dataplane/node/supervisor.h"
#include "dataplane/node/tally.h"
#include "dataplane/node/uplink.h"
#include "dataplane/node/watchdog.h"
#include "proto/home.h"
#include "proto/snapshot.h"

#define MASTER_STATUS_BYTES    200u
#define MASTER_LISTEN_FILE     HOME_RUN "/listen"     /* where clients connect, for tests and `fairlead up` */
#define MASTER_OPERATIONS_FILE HOME_RUN "/operations" /* where /metrics is */

struct master {
    const struct master_options *options;
    struct node_config *config;
    uv_loop_t loop;
    int lock_fd;
    struct board *board;
    struct tablestore *store;
    struct tally ended;
    struct supervisor supervisor;
    struct changes changes;
    struct replica replica;
    struct uplink uplink;
    struct records records;
    struct shipper shipper;
    struct exporter exporter;
    struct watchdog watchdog;
    uv_timer_t records_timer, readers_timer, watchdog_timer;
    uv_signal_t on_term, on_int, on_hup;
    uint64_t started_ms;
    char listen[LISTENING_TEXT_BYTES];
    int operations_fd;      /* a duplicate, for the next master; -1 */
    int next_operations_fd; /* of a configuration that rolls in; -1 */
    char operations[ADDRESS_TEXT_BYTES];
    char problem[256];
    bool opened_supervisor, opened_replica, stopping;
    struct notify manager;
    bool told_ready;
    char told_status[MASTER_STATUS_BYTES];
    const struct passed *passed; /* what systemd passed to this process, or to the one before; borrowed */
    bool leaving;                /* another master goes on, in this process or by another program */
    struct heritage *inherits;   /* NULL: nothing */
    struct heritage leaves;
    int status;
};

/* ---- master.c ---- */
void master_stop(struct master *m, int status); /* closes all handles, by which the loop ends */
/* Ends this master in favour of another, which is given all it has. On error it goes on. */
MUST_CHECK enum err master_leave(struct master *m);

/* ---- master_rooms.c ---- */
MUST_CHECK enum err master_open_rooms(struct master *m);
enum err master_write_file(struct master *m, const char *relative, struct span text); /* a file of the home, whole */
unsigned master_regions(const struct node_config *config); /* of the board, for so many workers */
const char *master_operations_hint(enum err err);

/* ---- master_events.c: what its rooms tell it ---- */
extern const struct supervisor_events master_supervisor_events; /* without user */
extern const struct changes_events master_changes_events;
exporter_page master_page;
void master_committed(void *user);
void master_drain_records(struct master *m);
void master_check_readers(struct master *m);
void master_report_serving(struct master *m);
