#include "controlplane/publish/publisher.h"
#include "common/fault.h"
#include "common/log.h"
#include "proto/wire.h"

#define FETCH_ARENA_MAX ((size_t)512 << 20) /* a page of keys, a whole artifact, and what they decode to */

struct waiting { /* one held poll */
    void *call;
    struct table_version has; /* the node's committed */
    uint64_t answer_at_ms;    /* monotonic */
    bool pinned;
    struct waiting *next;
    size_t node_len;
    size_t request_len;
    char request[]; /* encoded request, then the node's name: decoded again when there is something to say */
};

struct publisher {
    struct versions *versions;
    struct nodes *nodes;
    publisher_reply *reply;
    void *user;
    struct waiting *waiting;
    size_t waiting_count;
    struct versions_numbers numbers;
    struct buf evidence; /* encoded */
    uint64_t evidence_seq;
    uint64_t refused;
};

enum err publisher_new(struct versions *versions, struct nodes *nodes, publisher_reply *reply, void *user,
                       struct publisher **ret)
{
    struct publisher *p = fault_calloc(1, sizeof(*p));
    if (!p)
        return ERR_NOMEM;
    *p = (struct publisher){ .versions = versions, .nodes = nodes, .reply = reply, .user = user };
    buf_init(&p->evidence, EVIDENCE_BYTES_MAX);
    const enum err err = publisher_refresh(p);
    if (err) {
        publisher_free(p);
        return err;
    }
    *ret = p;
    return OK;
}

static void send_reply(struct publisher *p, void *call, const struct fetch_reply *reply)
{
    struct buf out = BUF_INIT(FRAME_BYTES_MAX);
    const enum err err = wire_encode_fetch_reply(reply, &out);
    if (err) {
        log_error("fetch.encode", LOG_ERR(err), LOG_U64("objects", reply->object_count));
        buf_clear(&out); /* an empty answer: the node asks again */
    }
    p->reply(p->user, call, buf_span(&out));
    buf_release(&out);
}

static void send_nothing(struct publisher *p, void *call, struct span error)
{
    const struct fetch_reply reply = { .protocol = LINK_PROTOCOL, .error = error };
    send_reply(p, call, &reply);
}

void publisher_free(struct publisher *p)
{
    if (!p)
        return;
    while (p->waiting) {
        struct waiting *w = p->waiting;
        p->waiting = w->next;
        send_nothing(p, w->call, SPAN(""));
        free(w);
    }
    buf_release(&p->evidence);
    free(p);
}

/* ---- what a node lacks ---- */

static bool lacks(const struct publisher *p, const struct table_version *has, bool pinned, uint64_t allowed_epoch)
{
    const struct versions_numbers *n = &p->numbers;
    if (has->epoch != n->epoch && has->epoch != 0)
        return allowed_epoch == n->epoch && !pinned; /* until it is allowed there is nothing for it */
    if (n->directory_seq != 0 && has->directory_seq != n->directory_seq)
        return true;
    if (!pinned && has->generation < n->generation)
        return true;
    return p->evidence_seq != 0 && has->evidence_seq < p->evidence_seq;
}

static bool holds(const struct fetch_request *request, const struct sha256 *artifact)
{
    for (uint32_t i = 0; i < request->artifact_count; i++) {
        if (sha256_eq(&request->artifacts[i], artifact))
            return true;
    }
    return false;
}

/* In one reply: with the head they fit a frame. One of the largest fits alone. */
#define ARTIFACTS_AT_ONCE_BYTES (FRAME_BYTES_MAX - 2 * HEAD_BYTES_MAX)
_Static_assert(ARTIFACT_BYTES_MAX <= ARTIFACTS_AT_ONCE_BYTES, "every artifact can be sent");

struct reply_objects {
    struct object items[ARTIFACTS_KEPT + 3];
    uint32_t count;
    size_t bytes;
};

static void add(struct reply_objects *objects, enum object_kind kind, uint64_t seq, struct span bytes)
{
    REQUIRE(objects->count < ARRAY_LEN(objects->items));
    objects->items[objects->count++] = wire_object(kind, seq, bytes);
    objects->bytes += bytes.len;
}

static bool added(const struct reply_objects *objects, const struct sha256 *hash)
{
    for (uint32_t i = 0; i < objects->count; i++) {
        if (sha256_eq(&objects->items[i].hash, hash))
            return true;
    }
    return false;
}

/* The head with those of its artifacts that the node does not hold. When they are too large for one frame, as many as
 * fit, and not the head: the node keeps them, says so in its next poll, and gets the rest. */
static enum err add_head(struct publisher *p, struct arena *arena, const struct fetch_request *request,
                         struct reply_objects *objects)
{
    struct span bytes;
    struct head *head;
    enum err err = versions_head_bytes(p->versions, arena, &bytes);
    if (!err)
        err = wire_decode_head(arena, bytes, &head, NULL);
    for (uint32_t i = 0; !err && i < head->arm_count && i < ARTIFACTS_KEPT; i++) {
        struct span artifact;
        if (holds(request, &head->arms[i].artifact) || added(objects, &head->arms[i].artifact))
            continue;
        err = versions_artifact_get(p->versions, arena, &head->arms[i].artifact, &artifact);
        if (!err && objects->count > 0 && objects->bytes + artifact.len > ARTIFACTS_AT_ONCE_BYTES)
            return OK;
        if (!err)
            add(objects, OBJECT_ARTIFACT, 0, artifact);
    }
    if (!err)
        add(objects, OBJECT_HEAD, head->generation, bytes);
    return err;
}

static enum err add_directory(struct publisher *p, struct arena *arena, const struct fetch_request *request,
                              struct reply_objects *objects)
{
    struct directory_delta *delta;
    /* Following a cursor of another epoch would give the node the end of a directory without its beginning. */
    const bool follows = request->directory_resync_epoch == p->numbers.epoch;
    enum err err = versions_directory_since(
        p->versions, arena, request->committed.epoch, request->committed.directory_seq,
        follows ? request->directory_cursor : SPAN(""), follows ? request->directory_resync_seq : 0, &delta);
    if (err == ERR_NOT_FOUND)
        return OK;
    struct buf *bytes = ARENA_NEW(arena, struct buf);
    if (!err && !bytes)
        err = ERR_NOMEM;
    if (err)
        return err;
    buf_init(bytes, FRAME_BYTES_MAX / 2);
    err = wire_encode_directory_delta(delta, bytes);
    struct span copy = err ? SPAN("") : arena_dup(arena, buf_span(bytes));
    buf_release(bytes);
    if (!err && !copy.ptr)
        err = ERR_NOMEM;
    if (!err)
        add(objects, OBJECT_DIRECTORY, delta->to_seq, copy);
    return err;
}

static void answer(struct publisher *p, void *call, struct arena *arena, const struct fetch_request *request)
{
    const struct versions_numbers *n = &p->numbers;
    const uint64_t allowed = nodes_adopted(p->nodes, request->node);
    struct reply_objects objects = { .count = 0 };
    enum err err = versions_begin(p->versions, false);
    if (err) {
        send_nothing(p, call, SPAN("the store cannot be read"));
        return;
    }
    const bool other_epoch = request->committed.epoch != n->epoch;
    if (!request->pinned && n->generation > 0 && (other_epoch || request->committed.generation < n->generation))
        err = add_head(p, arena, request, &objects);
    /* What does not fit beside the head comes with the next poll, which is asked at once. */
    const bool room = objects.bytes + p->evidence.len < FRAME_BYTES_MAX / 2;
    if (!err && room && p->evidence_seq && (other_epoch || request->committed.evidence_seq < p->evidence_seq))
        add(&objects, OBJECT_EVIDENCE, p->evidence_seq, buf_span(&p->evidence));
    if (!err && (room || objects.count == 0))
        err = add_directory(p, arena, request, &objects);
    versions_abort(p->versions);
    if (err) {
        log_error("fetch.failed", LOG_SPAN("node", request->node), LOG_ERR(err));
        send_nothing(p, call, span_cstr(err_name(err)));
        return;
    }
    const struct fetch_reply reply = {
        .protocol = LINK_PROTOCOL, .objects = objects.items, .object_count = objects.count, .adopted_epoch = allowed
    };
    send_reply(p, call, &reply);
}

static enum err hold(struct publisher *p, void *call, struct span bytes, const struct fetch_request *request,
                     uint64_t now_ms)
{
    if (p->waiting_count >= PUBLISHER_WAITING_MAX)
        return ERR_TOO_MANY;
    struct waiting *w = fault_malloc(sizeof(*w) + bytes.len + request->node.len);
    if (!w)
        return ERR_NOMEM;
    const uint32_t wait_ms = request->wait_ms < PUBLISHER_WAIT_MS_MAX ? request->wait_ms : PUBLISHER_WAIT_MS_MAX;
    *w = (struct waiting){ .call = call,
                           .has = request->committed,
                           .answer_at_ms = now_ms + wait_ms,
                           .pinned = request->pinned,
                           .next = p->waiting,
                           .node_len = request->node.len,
                           .request_len = bytes.len };
    memcpy(w->request, bytes.ptr, bytes.len);
    memcpy(w->request + bytes.len, request->node.ptr, request->node.len);
    p->waiting = w;
    p->waiting_count++;
    return OK;
}

uint64_t publisher_refused(const struct publisher *p)
{
    return p->refused;
}

void publisher_fetch(struct publisher *p, void *call, struct span bytes, int64_t wall_ms, uint64_t now_ms)
{
    struct arena arena;
    struct fetch_request *request;
    arena_init(&arena, FETCH_ARENA_MAX);
    enum err err = wire_decode_fetch_request(&arena, bytes, &request);
    if (!err && request->protocol != LINK_PROTOCOL)
        err = ERR_UNSUPPORTED;
    if (!err)
        err = nodes_report(p->nodes, request, wall_ms);
    if (err) {
        p->refused++;
        log_warn("fetch.refused", LOG_ERR(err));
        send_nothing(p, call, span_cstr(err_name(err)));
    } else if (lacks(p, &request->committed, request->pinned, nodes_adopted(p->nodes, request->node))) {
        answer(p, call, &arena, request);
    } else if (request->wait_ms == 0 || hold(p, call, bytes, request, now_ms) != OK) {
        const struct fetch_reply reply = { .protocol = LINK_PROTOCOL,
                                           .adopted_epoch = nodes_adopted(p->nodes, request->node) };
        send_reply(p, call, &reply);
    }
    arena_release(&arena);
}

static void answer_waiting(struct publisher *p, struct waiting *w)
{
    struct arena arena;
    struct fetch_request *request;
    arena_init(&arena, FETCH_ARENA_MAX);
    if (wire_decode_fetch_request(&arena, span_of(w->request, w->request_len), &request) == OK)
        answer(p, w->call, &arena, request);
    else
        send_nothing(p, w->call, SPAN(""));
    arena_release(&arena);
}

/* Answers the held polls that lack something now, or (by_time) those whose time is up. */
static void answer_those(struct publisher *p, bool by_time, uint64_t now_ms)
{
    struct waiting **at = &p->waiting;
    while (*at) {
        struct waiting *w = *at;
        const uint64_t allowed = nodes_adopted(p->nodes, span_of(w->request + w->request_len, w->node_len));
        const bool due = by_time ? now_ms >= w->answer_at_ms : lacks(p, &w->has, w->pinned, allowed);
        if (!due) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        p->waiting_count--;
        if (by_time)
            send_nothing(p, w->call, SPAN(""));
        else
            answer_waiting(p, w);
        free(w);
    }
}

enum err publisher_refresh(struct publisher *p)
{
    enum err err = versions_begin(p->versions, false);
    if (err)
        return err;
    err = versions_numbers(p->versions, &p->numbers);
    versions_abort(p->versions);
    if (!err && p->numbers.adopt_all_epoch)
        err = nodes_adopt(p->nodes, SPAN(""), p->numbers.adopt_all_epoch);
    if (!err)
        answer_those(p, false, 0);
    return err;
}

struct span publisher_evidence_bytes(const struct publisher *p)
{
    return p->evidence_seq ? buf_span(&p->evidence) : SPAN("");
}

enum err publisher_evidence(struct publisher *p, uint64_t seq, struct span bytes)
{
    buf_clear(&p->evidence);
    const enum err err = buf_append(&p->evidence, bytes);
    if (err) {
        p->evidence_seq = 0;
        return err;
    }
    p->evidence_seq = seq;
    answer_those(p, false, 0);
    return OK;
}

void publisher_tick(struct publisher *p, uint64_t now_ms)
{
    answer_those(p, true, now_ms);
}
