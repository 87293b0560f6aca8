#include "controlplane/daemon.h"
#include "controlplane/daemon_internal.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "controlplane/admin/roles.h"
#include "controlplane/evidence/recordstore.h"
#include "proto/channel.h"
#include "proto/home.h"
#include "proto/wire.h"
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#define FETCH_PARALLEL 1024u /* nodes that may poll at once; more wait */
#define LINK_PARALLEL  64u

/* ---- policies and evidence out, evidence and records in ---- */

static void on_fetch(void *user, struct channel_call *call, struct span request, UNUSED const struct channel_peer *peer)
{
    struct daemon *d = user;
    publisher_fetch(d->publisher, call, request, clock_wall_ms(), clock_ms());
}

void daemon_reply_fetch(UNUSED void *user, void *call, struct span reply)
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

/* ---- queries beside the loop ---- */

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

/* ---- who may ask ---- */

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

/* ---- open and close ---- */

static void wake_loop(void *user)
{
    uv_async_send(user);
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

enum err daemon_links_open(struct daemon *d)
{
    const struct daemon_options *o = d->options;
    enum err err = open_link(d, o->fetch_address, HOME_FETCH_SOCKET, FETCH_PARALLEL, on_fetch, &d->fetch);
    if (!err)
        err = open_link(d, o->evidence_address, HOME_EVIDENCE_SOCKET, LINK_PARALLEL, on_evidence, &d->evidence);
    if (!err)
        err = open_link(d, o->admin_address, HOME_ADMIN_SOCKET, LINK_PARALLEL, on_admin, &d->admin);
    return err || !o->admin_group ? err : admit_group(d);
}

void daemon_links_dispatch(const struct daemon *d)
{
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

struct link_refusals daemon_link_refusals(void *user)
{
    const struct daemon *d = user;
    return (struct link_refusals){ .fetch = frames_refused(d->fetch) + publisher_refused(d->publisher),
                                   .evidence = frames_refused(d->evidence) + d->evidence_refused,
                                   .admin = frames_refused(d->admin) + d->service.refused };
}

void daemon_links_close(struct daemon *d)
{
    if (d->fetch)
        channel_server_close(d->fetch);
    if (d->evidence)
        channel_server_close(d->evidence);
    if (d->admin)
        channel_server_close(d->admin);
    d->fetch = d->evidence = d->admin = NULL;
}
