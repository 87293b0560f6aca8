#include "controlplane/daemon.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include "common/notify.h"
#include "controlplane/admin/roles.h"
#include "controlplane/admin/service.h"
#include "controlplane/evidence/recordstore.h"
#include "controlplane/journal/journal.h"
#include "controlplane/jobs/simulations.h"
#include "proto/channel.h"
#include "proto/home.h"
#include "proto/snapshot.h"
#include "proto/wire.h"
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#define EVIDENCE_BLOCK   100000u /* sequences reserved at once: one store write a day at one a second */
#define TICK_MS          50u     /* how soon a significant change is published, and how exactly polls time out */
#define READER_CHECK_MS  60000u
#define FETCH_PARALLEL   1024u /* nodes that may poll at once; more wait */
#define LINK_PARALLEL    64u
#define BOOK_BYTES_MAX   (64u << 20)
#define REPLAY_ARENA_MAX ((size_t)1 << 20) /* of one record */
#define DECIDE_ARENA_MAX ((size_t)512 << 20)

struct daemon {
    const struct daemon_options *options;
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t tick, readers;
    uv_signal_t on_term, on_int;
    struct channel_server *fetch, *evidence, *admin;
    struct versions *versions;
    struct evidence_state *learned;
    struct nodes *nodes;
    struct journal *journal;
    struct publisher *publisher;
    struct pilot *pilot;
    struct recordstore *records; /* NULL: it cannot be used, and nodes keep theirs */
    struct simulations *simulations;
    struct service service;
    struct roles *roles;
    char *roles_path;
    uint64_t evidence_next, evidence_end; /* reserved sequences */
    uint64_t followed_generation, followed_epoch;
    int64_t decided_at_ms;
    uint64_t evidence_refused; /* reports that made no sense */
    bool decide_now;
    bool decide_failed;   /* the last time: the timer tries again, not every tick */
    bool prices_unstored; /* the last try failed */
    bool held_unstored;   /* likewise, of weights */
    bool pilot_lost;      /* what is stored could not be read the last time */
    bool stopping;
    int lock_fd;
    struct notify manager;
};

/* ---- evidence: follow what is live, decide, publish ---- */

static enum err reserve_evidence(struct daemon *d)
{
    uint64_t first;
    enum err err = versions_begin(d->versions, true);
    if (err)
        return err;
    err = versions_reserve_evidence(d->versions, EVIDENCE_BLOCK, &first);
    if (err) {
        versions_abort(d->versions);
        return err;
    }
    err = versions_commit(d->versions);
    if (!err) {
        d->evidence_next = first;
        d->evidence_end = first + EVIDENCE_BLOCK;
    }
    return err;
}

/* The learned state follows the live head: its artifacts and overrides. */
static enum err follow_head(struct daemon *d, struct arena *arena)
{
    struct head *head;
    const struct artifact *artifacts[ARTIFACTS_KEPT];
    uint32_t count = 0;
    enum err err = versions_begin(d->versions, false);
    if (err)
        return err;
    err = versions_head_get(d->versions, arena, 0, &head);
    for (uint32_t i = 0; !err && i < head->arm_count && i < ARTIFACTS_KEPT; i++) {
        struct span bytes;
        struct artifact *artifact;
        err = versions_artifact_get(d->versions, arena, &head->arms[i].artifact, &bytes);
        if (!err)
            err = wire_decode_artifact(arena, bytes, &artifact, NULL);
        if (!err)
            artifacts[count++] = artifact;
    }
    versions_abort(d->versions);
    if (err)
        return err;
    err = evidence_follow(d->learned, artifacts, count, head);
    if (!err) {
        d->followed_epoch = head->epoch;
        d->followed_generation = head->generation;
    }
    return err;
}

static enum err publish_evidence(struct daemon *d, struct arena *arena, int64_t now_ms)
{
    struct evidence *evidence;
    struct buf bytes = BUF_INIT(EVIDENCE_BYTES_MAX);
    enum err err = evidence_decide(d->learned, arena, now_ms, d->options->evidence_lifetime_ms, &evidence);
    if (!err && d->evidence_next == d->evidence_end)
        err = reserve_evidence(d);
    if (!err) {
        evidence->epoch = d->followed_epoch;
        evidence->seq = d->evidence_next++;
        err = wire_encode_evidence(evidence, &bytes);
    }
    if (!err)
        err = publisher_evidence(d->publisher, evidence->seq, buf_span(&bytes));
    buf_release(&bytes);
    return err;
}

static enum err store_prices(struct daemon *d)
{
    struct buf blob = BUF_INIT(FRAME_BYTES_MAX);
    enum err err = evidence_export(d->learned, &blob);
    if (!err)
        err = versions_begin(d->versions, true);
    if (err) {
        buf_release(&blob);
        return err;
    }
    err = versions_blob_put(d->versions, SPAN("evidence"), buf_span(&blob));
    buf_release(&blob);
    if (err) {
        versions_abort(d->versions);
        return err;
    }
    return versions_commit(d->versions);
}

/* What weights are held while arms are compared, for a restart in the middle of it. */
static enum err store_held(struct daemon *d)
{
    struct buf blob = BUF_INIT(FRAME_BYTES_MAX);
    enum err err = evidence_held_export(d->learned, &blob);
    if (!err)
        err = versions_begin(d->versions, true);
    if (!err) {
        err = versions_blob_put(d->versions, SPAN("held_weights"), buf_span(&blob));
        if (err)
            versions_abort(d->versions);
        else
            err = versions_commit(d->versions);
    }
    buf_release(&blob);
    return err;
}

static void decide(struct daemon *d, int64_t now_ms)
{
    struct arena arena;
    arena_init(&arena, DECIDE_ARENA_MAX);
    enum err err = d->followed_generation ? OK : follow_head(d, &arena);
    if (!err)
        err = publish_evidence(d, &arena, now_ms);
    d->decide_failed = err != OK;
    if (err && err != ERR_NOT_FOUND) /* nothing pushed yet */
        log_error("evidence.publish", LOG_ERR(err));
    if (evidence_dirty(d->learned) || d->prices_unstored) {
        err = store_prices(d);
        d->prices_unstored = err != OK;
        if (err)
            log_error("evidence.store", LOG_ERR(err));
    }
    nodes_watch(d->nodes, now_ms);
    if (evidence_held_unstored(d->learned) || d->held_unstored) {
        err = store_held(d);
        d->held_unstored = err != OK;
        if (err)
            log_error("weights.store", LOG_ERR(err));
    }
    d->decided_at_ms = now_ms;
    d->decide_now = false;
    arena_release(&arena);
}

static void follow_pilot(struct daemon *d)
{
    const enum err err = pilot_follow(d->pilot);
    d->pilot_lost = err != OK;
    if (err)
        log_error("rollout.follow", LOG_ERR(err), LOG_STR("hint", "no rollout goes on before this succeeds"));
}

/* After a commit that nodes must hear of. */
static void on_changed(void *user)
{
    struct daemon *d = user;
    d->followed_generation = 0; /* follow again: head or overrides may be new */
    d->decide_now = true;
    const enum err err = publisher_refresh(d->publisher);
    if (err)
        log_error("publish.refresh", LOG_ERR(err));
    follow_pilot(d);
}

static void on_tick(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    const int64_t now_ms = clock_wall_ms();
    if (pilot_tick(d->pilot, now_ms))
        on_changed(d);
    const bool due = now_ms - d->decided_at_ms >= (int64_t)d->options->decide_every_ms || now_ms < d->decided_at_ms;
    if (d->decide_now || due || (evidence_significant(d->learned) && !d->decide_failed))
        decide(d, now_ms);
    if (due && d->pilot_lost)
        follow_pilot(d);
    publisher_tick(d->publisher, clock_ms());
    notify_alive(&d->manager, clock_ms());
}

static void on_readers(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    const unsigned freed = snapshot_check_readers(versions_snapshot(d->versions));
    if (freed)
        log_info("store.readers", LOG_U64("freed", freed));
}

/* ---- links ---- */

static void wake_loop(void *user)
{
    uv_async_send(user);
}

static void on_wake(uv_async_t *async)
{
    struct daemon *d = async->data;
    if (d->fetch)
        channel_server_dispatch(d->fetch);
    if (d->evidence)
        channel_server_dispatch(d->evidence);
    if (d->admin)
        channel_server_dispatch(d->admin);
}

static uint64_t frames_refused(const struct channel_server *server)
{
    return server ? channel_server_refused(server) : 0;
}

static struct link_refusals link_refusals(void *user)
{
    const struct daemon *d = user;
    return (struct link_refusals){ .fetch = frames_refused(d->fetch) + publisher_refused(d->publisher),
                                   .evidence = frames_refused(d->evidence) + d->evidence_refused,
                                   .admin = frames_refused(d->admin) + d->service.refused };
}

static void on_fetch(void *user, struct channel_call *call, struct span request, UNUSED const struct channel_peer *peer)
{
    struct daemon *d = user;
    publisher_fetch(d->publisher, call, request, clock_wall_ms(), clock_ms());
}

static void reply_fetch(UNUSED void *user, void *call, struct span reply)
{
    channel_reply(call, reply);
}

/* Takes a batch, or none, and says where the node's next one has to begin. A repetition or a gap is no fault: that says
 * it all. */
static enum err take_records(struct daemon *d, const struct evidence_report *report, struct evidence_reply *reply)
{
    enum err err = OK;
    if (report->source != EVIDENCE_FROM_NODE)
        return ERR_INVALID;
    if (!d->records) {
        reply->error = SPAN("this control plane keeps no records: its log says why");
        return ERR_UNSUPPORTED;
    }
    if (!span_empty(report->records_segment))
        err = recordstore_append(d->records, &(struct recordstore_batch){ .node = report->sender,
                                                                          .segment = report->records_segment,
                                                                          .from = report->records_from,
                                                                          .to = report->records_to,
                                                                          .lines = report->records });
    recordstore_position(d->records, report->sender, &reply->records_segment, &reply->records_offset);
    return err == ERR_CONFLICT ? OK : err;
}

static void on_evidence(void *user, struct channel_call *call, struct span request,
                        UNUSED const struct channel_peer *peer)
{
    struct daemon *d = user;
    struct arena arena;
    struct evidence_report *report;
    struct evidence_reply reply = { .protocol = LINK_PROTOCOL };
    struct buf out = BUF_INIT(FRAME_BYTES_MAX);
    arena_init(&arena, DECIDE_ARENA_MAX);
    enum err err = wire_decode_evidence_report(&arena, request, &report);
    if (!err && report->protocol != LINK_PROTOCOL)
        err = ERR_UNSUPPORTED;
    if (!err && report->ships_records)
        err = take_records(d, report, &reply);
    else if (!err)
        err = evidence_take(d->learned, report, clock_wall_ms(), &arena, &reply);
    if (err) {
        d->evidence_refused++;
        log_warn("evidence.refused", LOG_ERR(err), LOG_SPAN("why", reply.error));
        if (span_empty(reply.error))
            reply.error = span_cstr(err_name(err));
    }
    if (wire_encode_evidence_reply(&reply, &out) != OK)
        buf_clear(&out);
    channel_reply(call, buf_span(&out));
    buf_release(&out);
    arena_release(&arena);
}

/* A query that takes long: nothing else waits for it. */
struct apart {
    uv_work_t work;
    struct daemon *daemon;
    struct channel_call *call;
    struct span request; /* lives until the call is answered */
    struct caller caller;
    char name[NAME_BYTES_MAX]; /* the caller's: the roles that lent it may be read anew meanwhile */
    struct buf reply;
};

static void run_apart(uv_work_t *work)
{
    struct apart *a = work->data;
    service_execute(&a->daemon->service, a->request, &a->caller, clock_wall_ms(), &a->reply);
}

static void end_apart(uv_work_t *work, UNUSED int status)
{
    struct apart *a = work->data;
    channel_reply(a->call, buf_span(&a->reply));
    buf_release(&a->reply);
    free(a);
}

/* False: it cannot be had now. */
static bool begin_apart(struct daemon *d, struct channel_call *call, struct span request, const struct caller *caller)
{
    struct apart *a = fault_calloc(1, sizeof(*a));
    if (!a)
        return false;
    *a = (struct apart){ .daemon = d, .call = call, .request = request, .caller = *caller };
    a->caller.name = span_head(caller->name, sizeof(a->name));
    if (a->caller.name.len > 0)
        memcpy(a->name, caller->name.ptr, a->caller.name.len);
    a->caller.name.ptr = a->name;
    a->work.data = a;
    buf_init(&a->reply, FRAME_BYTES_MAX);
    if (uv_queue_work(&d->loop, &a->work, run_apart, end_apart) == 0)
        return true;
    free(a);
    return false;
}

static void on_admin(void *user, struct channel_call *call, struct span request, const struct channel_peer *peer)
{
    struct daemon *d = user;
    struct buf reply = BUF_INIT(FRAME_BYTES_MAX);
    struct caller caller = { .uid = CALLER_UID_UNKNOWN };
    /* Over a network nobody is known: roles go by the peer's uid. */
    if (peer->local && peer->uid != UINT32_MAX && roles_judge(d->roles, peer->uid, clock_ms(), &caller)) {
        if (service_is_apart(request) && begin_apart(d, call, request, &caller))
            return;
        service_execute(&d->service, request, &caller, clock_wall_ms(), &reply);
    } else {
        service_deny(&d->service, &caller, &reply);
    }
    channel_reply(call, buf_span(&reply));
    buf_release(&reply);
}

/* Lets a group in: through this directory or to this socket, no further than its name says. */
static enum err open_to_group(const char *path, gid_t group, mode_t bits)
{
    struct stat st;
    if (stat(path, &st) == 0 && (st.st_gid == group || chown(path, (uid_t)-1, group) == 0) &&
        ((st.st_mode & bits) == bits || chmod(path, (st.st_mode & 0777) | bits) == 0))
        return OK;
    log_error("admin.group", LOG_STR("path", path), LOG_STR("why", strerror(errno)),
              LOG_STR("hint", "the control plane's user must own it and be a member of the group itself"));
    return errno == EPERM || errno == EACCES ? ERR_DENIED : ERR_IO;
}

/* The admin socket becomes the group's to connect to, and in our own home the way to it its to go: names in run/ can
 * then be tried, so each of the other sockets there keeps a mode of its own (0600). */
static enum err admit_group(const struct daemon *d)
{
    const struct daemon_options *o = d->options;
    char path[PATH_MAX + 16];
    errno = 0;
    const struct group *group = getgrnam(o->admin_group);
    if (!group) {
        log_error("admin.group", LOG_STR("group", o->admin_group), LOG_STR("why", "this system has no such group"));
        return ERR_NOT_FOUND;
    }
    const gid_t gid = group->gr_gid;
    if (o->admin_address)
        return span_starts(span_cstr(o->admin_address), SPAN("ipc://"))
                   ? open_to_group(o->admin_address + strlen("ipc://"), gid, 0660)
                   : OK;
    enum err err = open_to_group(o->home, gid, 0010);
    snprintf(path, sizeof(path), "%s/%s", o->home, HOME_RUN);
    if (!err)
        err = open_to_group(path, gid, 0010);
    snprintf(path, sizeof(path), "%s/%s", o->home, HOME_ADMIN_SOCKET);
    return err ? err : open_to_group(path, gid, 0660);
}

static enum err open_link(struct daemon *d, const char *address, const char *relative, unsigned parallel,
                          channel_handler *handler, struct channel_server **ret)
{
    char text[PATH_MAX + 16];
    if (!address) {
        snprintf(text, sizeof(text), "ipc://%s/%s", d->options->home, relative);
        address = text;
    }
    const struct channel_server_options options = { .address = address,
                                                    .parallel = parallel,
                                                    .handler = handler,
                                                    .user = d,
                                                    .wake = wake_loop,
                                                    .wake_user = &d->wake };
    const enum err err = channel_server_open(&options, ret);
    if (err)
        log_error("link.open", LOG_STR("address", address), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_TOO_LARGE
                                      ? "the path of a socket may have 107 bytes: choose a shorter --home"
                                  : err == ERR_EXISTS ? "another control plane answers there"
                                                      : ""));
    else
        log_info("link.listening", LOG_STR("address", address));
    return err;
}

/* ---- start and stop ---- */

char *daemon_book_path(const char *prices_file)
{
    char self[PATH_MAX];
    char path[PATH_MAX + 64];
    static const char *const beside[] = { "../share/fairlead/examples/prices.yaml",
                                          "../../../deploy/examples/prices.yaml", "../../deploy/examples/prices.yaml",
                                          "../deploy/examples/prices.yaml" };
    if (prices_file)
        return strdup(prices_file);
    const ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (len <= 0)
        return NULL;
    self[len] = '\0';
    char *slash = strrchr(self, '/');
    if (!slash)
        return NULL;
    *slash = '\0';
    for (size_t i = 0; i < ARRAY_LEN(beside); i++) {
        snprintf(path, sizeof(path), "%s/%s", self, beside[i]);
        if (file_exists(path))
            return strdup(path);
    }
    return NULL;
}

static void load_book(struct daemon *d)
{
    struct buf text = BUF_INIT(BOOK_BYTES_MAX);
    const char *why = "";
    char *path = daemon_book_path(d->options->prices_file);
    enum err err = path ? file_read(path, BOOK_BYTES_MAX, &text) : ERR_NOT_FOUND;
    if (!err)
        err = evidence_load_shipped(d->learned, buf_span(&text), &why);
    if (err)
        log_warn("prices.book", LOG_STR("file", path ? path : "prices.yaml"), LOG_ERR(err), LOG_STR("why", why));
    buf_release(&text);
    free(path);
}

/* Tables are published without records, too. */
static enum err open_records(struct daemon *d)
{
    char *dir = file_join(d->options->home, HOME_CONTROL_RECORDS);
    const enum err err = dir ? recordstore_open(dir, d->options->records_bytes, &d->records) : ERR_NOMEM;
    if (err)
        log_error("recordstore.open", LOG_STR("directory", dir ? dir : ""), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_CORRUPT ? "move its newest file away: nodes ship again what they have"
                                                     : "nodes keep their records"));
    free(dir);
    return err == ERR_NOMEM ? err : OK;
}

struct replay {
    struct pilot *pilot;
    struct arena scratch;
    uint64_t unreadable;
};

static enum err replay_line(void *user, struct span line)
{
    struct replay *r = user;
    struct record record;
    arena_reset(&r->scratch);
    if (record_read(&r->scratch, line, &record) == OK)
        pilot_taken(r->pilot, &record);
    else
        r->unreadable++;
    return OK;
}

/* What was measured before a restart is read again; from here on records come as nodes ship them. Without it the pilot
 * would judge on what comes, so a failure only costs time. */
static enum err open_pilot(struct daemon *d)
{
    enum err err = pilot_new(d->versions, &d->pilot);
    if (err)
        return err;
    follow_pilot(d);
    const int64_t since_ms = pilot_since(d->pilot);
    if (d->records && since_ms != INT64_MAX) {
        struct replay replay = { .pilot = d->pilot };
        arena_init(&replay.scratch, REPLAY_ARENA_MAX);
        err = recordstore_each(d->records, since_ms, replay_line, &replay);
        arena_release(&replay.scratch);
        if (err || replay.unreadable)
            log_warn("rollout.replay", LOG_ERR(err), LOG_U64("unreadable", replay.unreadable));
    }
    if (d->records)
        recordstore_listen(d->records, pilot_taken, d->pilot);
    return OK;
}

/* Its rooms tell it what they notice. */
static enum err open_journal(struct daemon *d)
{
    char *path = file_join(d->options->home, HOME_CONTROL_EVENTS);
    char *dir = path ? strndup(path, (size_t)(strrchr(path, '/') - path)) : NULL;
    enum err err = dir ? file_make_dirs(dir, 0700) : ERR_NOMEM;
    if (err && err != ERR_NOMEM)
        log_warn("journal.directory", LOG_STR("path", dir), LOG_ERR(err));
    if (err != ERR_NOMEM)
        err = journal_open(path, &d->journal);
    free(dir);
    free(path);
    if (err)
        return err;
    const struct event_sink *sink = journal_sink(d->journal);
    evidence_tell(d->learned, sink);
    nodes_tell(d->nodes, sink);
    event_tell(sink, clock_wall_ms(),
               &(struct event){ .kind = "control",
                                .where = SPAN("control plane"),
                                .what = SPAN("started"),
                                .why = SPAN(FAIRLEAD_VERSION) });
    return OK;
}

static enum err open_rooms(struct daemon *d)
{
    struct arena arena;
    struct span blob;
    char *store = file_join(d->options->home, HOME_CONTROL_STORE);
    if (!store)
        return ERR_NOMEM;
    enum err err = file_make_dirs(store, 0700);
    if (!err)
        err = versions_open(store, &d->versions);
    if (err)
        log_error("store.open", LOG_STR("path", store), LOG_ERR(err));
    free(store);
    if (!err)
        err = evidence_state_new(&d->learned);
    if (!err)
        err = nodes_new(&d->nodes);
    if (!err)
        err = open_journal(d);
    if (!err)
        err = publisher_new(d->versions, d->nodes, reply_fetch, d, &d->publisher);
    if (!err) {
        d->roles_path = file_join(d->options->home, HOME_ROLES);
        err = d->roles_path ? roles_new(d->roles_path, &d->roles) : ERR_NOMEM;
    }
    if (!err)
        err = open_records(d);
    if (!err)
        err = open_pilot(d);
    if (err)
        return err;
    load_book(d);
    arena_init(&arena, DECIDE_ARENA_MAX);
    err = versions_begin(d->versions, false);
    if (!err) {
        err = versions_blob_get(d->versions, &arena, SPAN("evidence"), &blob);
        if (!err)
            err = evidence_import(d->learned, blob);
        if (err == ERR_NOT_FOUND)
            err = OK;
        if (versions_blob_get(d->versions, &arena, SPAN("held_weights"), &blob) == OK &&
            evidence_held_import(d->learned, blob) != OK)
            log_warn("weights.import", LOG_STR("hint", "weights of arms that are compared are held anew"));
        versions_abort(d->versions);
    }
    arena_release(&arena);
    if (err)
        log_error("evidence.import", LOG_ERR(err));
    return err;
}

/* Without them everything else still works. */
static void open_simulations(struct daemon *d)
{
    const struct simulations_options options = { .loop = &d->loop, .home = d->options->home };
    const enum err err = simulations_new(&options, &d->simulations);
    if (err)
        log_error("simulations.open", LOG_ERR(err));
}

static enum err open_links(struct daemon *d)
{
    const struct daemon_options *o = d->options;
    enum err err = open_link(d, o->fetch_address, HOME_FETCH_SOCKET, FETCH_PARALLEL, on_fetch, &d->fetch);
    if (!err)
        err = open_link(d, o->evidence_address, HOME_EVIDENCE_SOCKET, LINK_PARALLEL, on_evidence, &d->evidence);
    if (!err)
        err = open_link(d, o->admin_address, HOME_ADMIN_SOCKET, LINK_PARALLEL, on_admin, &d->admin);
    return err || !o->admin_group ? err : admit_group(d);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon *d = handle->data;
    if (d->stopping)
        return;
    d->stopping = true;
    log_info("stopping", LOG_I64("signal", number));
    notify_say(&d->manager, "STOPPING=1");
    uv_stop(&d->loop);
}

static void close_handle(uv_handle_t *handle, UNUSED void *user)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static int start_loop(struct daemon *d)
{
    int rc = uv_loop_init(&d->loop);
    if (rc)
        return rc;
    rc = uv_async_init(&d->loop, &d->wake, on_wake);
    if (!rc)
        rc = uv_timer_init(&d->loop, &d->tick);
    if (!rc)
        rc = uv_timer_init(&d->loop, &d->readers);
    if (!rc)
        rc = uv_signal_init(&d->loop, &d->on_term);
    if (!rc)
        rc = uv_signal_init(&d->loop, &d->on_int);
    if (rc)
        return rc;
    d->wake.data = d->tick.data = d->readers.data = d->on_term.data = d->on_int.data = d;
    rc = uv_signal_start(&d->on_term, on_signal, SIGTERM);
    if (!rc)
        rc = uv_signal_start(&d->on_int, on_signal, SIGINT);
    if (!rc)
        rc = uv_timer_start(&d->tick, on_tick, TICK_MS, TICK_MS);
    if (!rc)
        rc = uv_timer_start(&d->readers, on_readers, READER_CHECK_MS, READER_CHECK_MS);
    return rc;
}

static int take_home(struct daemon *d)
{
    long pid = 0;
    char *run = file_join(d->options->home, HOME_RUN);
    char *lock = file_join(d->options->home, HOME_CONTROL_LOCK);
    enum err err = run && lock ? file_make_dirs(run, 0700) : ERR_NOMEM;
    if (!err)
        err = file_lock(lock, &d->lock_fd, &pid);
    if (err == ERR_CONFLICT)
        log_error("home.locked", LOG_STR("home", d->options->home), LOG_I64("pid", pid),
                  LOG_STR("hint", "another control plane runs on this home"));
    else if (err)
        log_error("home", LOG_STR("home", d->options->home), LOG_ERR(err));
    free(run);
    free(lock);
    return err == OK ? 0 : err == ERR_CONFLICT ? 2 : 1;
}

int daemon_run(const struct daemon_options *options)
{
    struct daemon *d = fault_calloc(1, sizeof(*d));
    if (!d)
        return 1;
    d->options = options;
    d->lock_fd = -1;
    notify_open(&d->manager);
    signal(SIGPIPE, SIG_IGN);
    int status = take_home(d);
    const bool looping = status == 0 && start_loop(d) == 0;
    if (status == 0 && !looping)
        status = 1;
    if (status == 0 && open_rooms(d) != OK)
        status = 1;
    if (status == 0) {
        open_simulations(d);
        d->service = (struct service){ .versions = d->versions,
                                       .evidence = d->learned,
                                       .nodes = d->nodes,
                                       .publisher = d->publisher,
                                       .pilot = d->pilot,
                                       .records = d->records,
                                       .journal = d->journal,
                                       .simulations = d->simulations,
                                       .roles = d->roles,
                                       .started_at_ms = clock_wall_ms(),
                                       .home = options->home,
                                       .changed = on_changed,
                                       .changed_user = d,
                                       .link_refusals = link_refusals };
        status = open_links(d) == OK ? 0 : 1;
    }
    if (status == 0) {
        log_info("started", LOG_STR("home", options->home), LOG_STR("version", FAIRLEAD_VERSION));
        notify_say(&d->manager, "READY=1\nSTATUS=publishing");
        uv_run(&d->loop, UV_RUN_DEFAULT);
    }
    simulations_close(d->simulations);
    publisher_free(d->publisher); /* answers the polls that are held, while their links still live */
    if (d->fetch)
        channel_server_close(d->fetch);
    if (d->evidence)
        channel_server_close(d->evidence);
    if (d->admin)
        channel_server_close(d->admin);
    if (looping) {
        uv_walk(&d->loop, close_handle, NULL);
        uv_run(&d->loop, UV_RUN_DEFAULT);
        uv_loop_close(&d->loop);
    }
    roles_free(d->roles);
    free(d->roles_path);
    nodes_free(d->nodes);
    journal_close(d->journal);
    recordstore_close(d->records);
    pilot_free(d->pilot);
    evidence_state_free(d->learned);
    versions_close(d->versions);
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    notify_close(&d->manager);
    free(d);
    if (status == 0)
        log_info("stopped");
    return status;
}
