#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "dataplane/node/master_internal.h"
#include "dataplane/node/metrics.h"
#include "proto/errand.h"
#include <unistd.h>

/* ---- workers ---- */

void master_report_serving(struct master *m)
{
    struct table_version least = { .epoch = 0 };
    bool any = false;
    for (unsigned i = 0; i < m->supervisor.slot_count; i++) {
        uint64_t v[4];
        const struct board_region *region = supervisor_region(&m->supervisor, i);
        if (!region || !board_get_serving(region, v))
            continue;
        const bool older = v[0] < least.epoch || (v[0] == least.epoch && v[1] < least.generation);
        if (!any || older) {
            least.epoch = v[0];
            least.generation = v[1];
        }
        least.evidence_seq = !any || v[2] < least.evidence_seq ? v[2] : least.evidence_seq;
        least.directory_seq = !any || v[3] < least.directory_seq ? v[3] : least.directory_seq;
        any = true;
    }
    replica_serving(&m->replica, &least, supervisor_up(&m->supervisor));
}

void master_check_readers(struct master *m)
{
    const unsigned freed = snapshot_check_readers(tablestore_snapshot(m->store));
    if (freed)
        log_info("store.readers", LOG_U64("freed", freed));
}

static void on_ended(void *user, unsigned number, bool crashed)
{
    struct master *m = user;
    struct board_region *region = board_region(m->board, number);
    records_drain(&m->records, region);
    tally_add_region(&m->ended, region, false);
    board_fold(m->board, region);
    master_check_readers(m);
    if (crashed)
        m->uplink.worker_crashes++;
    if (!m->opened_replica)
        return;
    if (crashed)
        replica_worker_crashed(&m->replica);
    master_report_serving(m);
}

static void on_serving(void *user)
{
    master_report_serving(user);
}

static void on_bad_table(void *user, const struct table_version *version, const char *reason)
{
    struct master *m = user;
    log_error("worker.bad_table", LOG_U64("generation", version->generation), LOG_STR("reason", reason));
    replica_bad_table(&m->replica, version, reason);
}

static bool on_current(void *user, const struct board_region *region)
{
    const struct master *m = user;
    uint64_t v[4];
    return m->replica.committed.generation == 0 || (board_get_serving(region, v) && v[1] != 0);
}

static void tell_listening(struct master *m)
{
    const struct listening *l = &m->supervisor.listening;
    struct buf text = BUF_INIT((size_t)NODE_LISTENERS_MAX * 2 * LISTENING_TEXT_BYTES);
    REQUIRE(l->count > 0);
    if (listening_describe(l, &text)) {
        log_error("node.listening", LOG_ERR(ERR_NOMEM));
        return;
    }
    (void)master_write_file(m, MASTER_LISTEN_FILE, buf_span(&text));
    struct span lines = buf_span(&text), line;
    for (bool first = true; span_split(&lines, '\n', &line) && line.len > 0; first = false) {
        struct span rest = line, address = line; /* "127.0.0.1:8443 tls" */
        if (!span_starts(line, SPAN("unix:")))   /* a path may have spaces */
            (void)span_split(&rest, ' ', &address);
        if (first)
            (void)snprintf(m->listen, sizeof(m->listen), SPAN_FMT, SPAN_ARG(address));
        if (address.len < line.len)
            log_info("node.listening", LOG_SPAN("address", address), LOG_U64("workers", m->supervisor.slot_count),
                     LOG_SPAN("as", rest));
        else
            log_info("node.listening", LOG_SPAN("address", address), LOG_U64("workers", m->supervisor.slot_count));
    }
    buf_release(&text);
}

static void on_listening(void *user)
{
    struct master *m = user;
    tell_listening(m);
    enum err err = uplink_open(
        &m->uplink,
        &(struct uplink_options){ .loop = &m->loop, .config = m->config, .board = m->board, .ended = &m->ended });
    if (!err)
        err = shipper_open(&m->shipper,
                           &(struct shipper_options){ .loop = &m->loop, .config = m->config, .records = &m->records });
    if (err)
        master_stop(m, 1);
    else if (m->inherits)
        changes_inherit(&m->changes, m->inherits);
}

static void on_failed(void *user)
{
    master_stop(user, 1);
}

static void on_emptied(void *user)
{
    master_stop(user, 0);
}

void master_committed(void *user)
{
    struct master *m = user;
    supervisor_wake(&m->supervisor);
}

/* ---- pages ---- */

static struct metrics_source source_of(struct master *m)
{
    return (struct metrics_source){ .config = m->config,
                                    .board = m->board,
                                    .ended = &m->ended,
                                    .supervisor = &m->supervisor,
                                    .replica = &m->replica,
                                    .records = &m->records,
                                    .shipper = &m->shipper,
                                    .listen = m->listen,
                                    .last_change = &m->changes.past,
                                    .stuck = m->watchdog.stuck,
                                    .starved = m->watchdog.starved,
                                    .now_ms = uv_now(&m->loop),
                                    .started_ms = m->started_ms,
                                    .wall_ms = clock_wall_ms() };
}

enum err master_page(void *user, struct span path, struct buf *out, unsigned *ret_status, const char **ret_type)
{
    struct master *m = user;
    const struct metrics_source source = source_of(m);
    master_report_serving(m);
    if (span_eq(path, SPAN("/livez")))
        return buf_append_cstr(out, "alive\n");
    if (span_eq(path, SPAN("/readyz"))) {
        bool ready = false;
        const enum err err = metrics_ready(&source, &ready, out);
        *ret_status = ready ? 200 : 503;
        return err;
    }
    if (span_eq(path, SPAN("/metrics"))) {
        *ret_type = "text/plain; version=0.0.4; charset=utf-8";
        return metrics_write(&source, out);
    }
    if (span_eq(path, SPAN("/status"))) {
        *ret_type = "application/json";
        return metrics_status(&source, out);
    }
    return ERR_NOT_FOUND;
}

void master_drain_records(struct master *m)
{
    for (unsigned i = 0; i < board_regions(m->board); i++) {
        if (board_region_taken(m->board, i))
            records_drain(&m->records, board_region(m->board, i));
    }
}

/* ---- changes ---- */

static enum err on_leave(void *user)
{
    return master_leave(user);
}

static const char *on_prepare(void *user, const struct node_config *fresh)
{
    struct master *m = user;
    struct address address;
    if (m->next_operations_fd >= 0)
        (void)close(m->next_operations_fd);
    m->next_operations_fd = -1;
    if (strcmp(fresh->operations, m->config->operations) == 0)
        return NULL;
    REQUIRE(address_parse(span_cstr(fresh->operations), &address) == OK);
    const enum err err = socket_listen(&address, true, &m->next_operations_fd);
    if (!err)
        return NULL;
    m->next_operations_fd = -1;
    (void)snprintf(m->problem, sizeof(m->problem), "%.100s cannot be listened on: %s %s", fresh->operations,
                   err_name(err), master_operations_hint(err));
    return m->problem;
}

/* What the master's own rooms were opened with. */
static bool rooms_differ(const struct node_config *a, const struct node_config *b)
{
    return strcmp(a->name, b->name) != 0 || strcmp(a->control, b->control) != 0 ||
           strcmp(a->evidence, b->evidence) != 0 || strcmp(a->operations, b->operations) != 0 ||
           a->limits.record_segment_bytes != b->limits.record_segment_bytes ||
           a->limits.record_segments != b->limits.record_segments || master_regions(a) > master_regions(b);
}

/* The workers are by the new configuration. A master whose own rooms are not is followed by another one in this process,
 * just as one by another program would follow it. */
static void on_reloaded(void *user, const struct node_config *before)
{
    struct master *m = user;
    tell_listening(m);
    if (!rooms_differ(m->config, before))
        return;
    if (m->next_operations_fd >= 0) {
        (void)close(m->operations_fd);
        m->operations_fd = m->next_operations_fd;
        m->next_operations_fd = -1;
        (void)snprintf(m->operations, sizeof(m->operations), "%s", m->config->operations);
    }
    if (master_leave(m))
        log_error("config.rooms", LOG_STR("hint", "the node's links and files go on as before: restart it"));
}

static void on_busy(void *user, bool begins)
{
    struct master *m = user;
    if (begins)
        notify_reloading(&m->manager);
    else if (m->told_ready) /* else it is told when the workers are up */
        notify_say(&m->manager, "READY=1");
}

static void on_rolling(void *user, unsigned ready, unsigned of, const char *waits)
{
    struct master *m = user;
    changes_rolling(&m->changes, ready, of, waits);
}

static void on_rolled(void *user, const char *failure)
{
    struct master *m = user;
    changes_rolled(&m->changes, failure);
}

/* The page of /status, as the answer to an errand. */
static void tell_status(struct master *m, struct hub_peer *asker)
{
    const struct metrics_source source = source_of(m);
    struct buf text = BUF_INIT(ERRAND_ANSWER_BYTES);
    master_report_serving(m);
    if (buf_append_cstr(&text, ERRAND_DONE) || metrics_status(&source, &text))
        hub_answer(asker, SPAN(ERRAND_FAILED "memory is out"));
    else
        hub_answer(asker, span_head(buf_span(&text), text.len - 1)); /* without its newline */
    buf_release(&text);
}

static bool on_asked(void *user, struct hub_peer *peer, struct span line)
{
    struct master *m = user;
    if (span_eq(line, SPAN(ERRAND_WORD ERRAND_STATUS))) {
        tell_status(m, peer);
        return true;
    }
    return changes_ask(&m->changes, peer, line);
}

static void on_asker_gone(void *user, struct hub_peer *peer)
{
    struct master *m = user;
    changes_asker_gone(&m->changes, peer);
}

const struct supervisor_events master_supervisor_events = { .ended = on_ended,
                                                            .serving = on_serving,
                                                            .bad_table = on_bad_table,
                                                            .current = on_current,
                                                            .listening = on_listening,
                                                            .failed = on_failed,
                                                            .emptied = on_emptied,
                                                            .rolling = on_rolling,
                                                            .rolled = on_rolled,
                                                            .asked = on_asked,
                                                            .asker_gone = on_asker_gone };
const struct changes_events master_changes_events = {
    .prepare = on_prepare, .reloaded = on_reloaded, .busy = on_busy, .leave = on_leave
};
