#include "dataplane/node/replica_internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "dataplane/node/selftest.h"
#include "proto/wire.h"

static const char *const kind_names[] = { [OBJECT_HEAD] = "head",
                                          [OBJECT_ARTIFACT] = "artifact",
                                          [OBJECT_EVIDENCE] = "evidence",
                                          [OBJECT_DIRECTORY] = "directory" };

/* ---- refusals ---- */

bool replica_nacked(const struct replica *r, enum object_kind kind, const struct sha256 *hash)
{
    for (unsigned i = 0; i < r->nack_count; i++) {
        if (r->nacks[i].nack.kind == kind && sha256_eq(&r->nacks[i].nack.hash, hash))
            return true;
    }
    return false;
}

static void rebase(struct replica *r) /* the reasons moved with their rows */
{
    for (unsigned i = 0; i < r->nack_count; i++)
        r->nacks[i].nack.reason = span_cstr(r->nacks[i].text);
}

void replica_nack(struct replica *r, const struct object *object, uint64_t epoch, const char *reason)
{
    if (replica_nacked(r, object->kind, &object->hash))
        return;
    if (r->nack_count == REPLICA_NACKS_MAX) {
        r->nack_count--;
        memmove(&r->nacks[0], &r->nacks[1], r->nack_count * sizeof(r->nacks[0]));
    }
    struct replica_nack *n = &r->nacks[r->nack_count++];
    n->nack = (struct nack){
        .kind = object->kind, .epoch = epoch, .seq = object->seq, .hash = object->hash, .at_ms = clock_wall_ms()
    };
    (void)snprintf(n->text, sizeof(n->text), "%s", reason);
    rebase(r);
    r->report_due = true;
    if (object->kind < ARRAY_LEN(r->nacks_by_kind))
        r->nacks_by_kind[object->kind]++;
    log_error("table.nack", LOG_STR("kind", object->kind < ARRAY_LEN(kind_names) ? kind_names[object->kind] : "?"),
              LOG_U64("epoch", epoch), LOG_U64("seq", object->seq), LOG_STR("reason", n->text));
}

void replica_nacks_forget(struct replica *r, enum object_kind kind)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < r->nack_count; i++) {
        if (r->nacks[i].nack.kind != kind)
            r->nacks[kept++] = r->nacks[i];
    }
    r->report_due = r->report_due || kept != r->nack_count;
    r->nack_count = kept;
    rebase(r);
}

static void refuse(struct replica *r, struct staged *s, const struct object *object, uint64_t epoch, enum err err,
                   const char *why)
{
    char text[256];
    (void)snprintf(text, sizeof(text), "%s%s%s", err_name(err), why ? ": " : "", why ? why : "");
    replica_nack(r, object, epoch, text);
    s->refused = true;
}

/* ---- sorting a reply ---- */

static void stage_head(struct replica *r, struct staged *s, const struct object *object, uint64_t adopted_epoch)
{
    const char *why = NULL;
    struct head *head;
    const enum err err = wire_decode_head(&r->staged_arena, object->bytes, &head, &why);
    if (err) {
        refuse(r, s, object, 0, err, why);
        return;
    }
    if (head->generation != object->seq || head->arm_count > ARTIFACTS_KEPT) {
        refuse(r, s, object, head->epoch, ERR_INVALID, "its number or its arms");
        return;
    }
    const struct table_version *have = &r->committed;
    if (have->epoch != 0 && head->epoch != have->epoch) {
        if (adopted_epoch != head->epoch) {
            refuse(r, s, object, head->epoch, ERR_CONFLICT, "another epoch: it needs `nodes adopt`");
            return;
        }
        s->allowed_epoch = head->epoch;
    } else if (head->generation < have->generation) { /* no control plane in its right mind sends that */
        refuse(r, s, object, head->epoch, ERR_STALE, "older than what is committed");
        return;
    } else if (head->generation == have->generation) {
        return; /* known */
    }
    if (r->pinned)
        return;
    s->head = object;
    s->head_decoded = head;
}

/* The epoch that will hold after this commit. */
static uint64_t epoch_to_be(const struct replica *r, const struct staged *s)
{
    return s->head ? s->head_decoded->epoch : r->committed.epoch;
}

static void stage_evidence(struct replica *r, struct staged *s, const struct object *object)
{
    const char *why = NULL;
    struct evidence *evidence;
    const enum err err = wire_decode_evidence(&r->staged_arena, object->bytes, &evidence, &why);
    if (err || evidence->seq != object->seq) {
        refuse(r, s, object, 0, err ? err : ERR_INVALID, err ? why : "its number");
        return;
    }
    const uint64_t epoch = epoch_to_be(r, s);
    if ((epoch != 0 && evidence->epoch != epoch) || (!s->allowed_epoch && evidence->seq <= r->committed.evidence_seq))
        return;
    s->evidence = object;
    s->evidence_decoded = evidence;
}

static void stage_directory(struct replica *r, struct staged *s, const struct object *object)
{
    const char *why = NULL;
    struct directory_delta *delta;
    const enum err err = wire_decode_directory_delta(&r->staged_arena, object->bytes, &delta, &why);
    if (err || delta->to_seq != object->seq) {
        refuse(r, s, object, 0, err ? err : ERR_INVALID, err ? why : "its number");
        return;
    }
    const uint64_t epoch = epoch_to_be(r, s);
    if (epoch != 0 && delta->epoch != epoch)
        return;
    if (!s->allowed_epoch && delta->to_seq <= r->committed.directory_seq)
        return;
    if (!delta->full && (s->allowed_epoch || delta->from_seq != r->committed.directory_seq))
        return; /* a gap: the next poll says where we stand and gets all of it */
    s->directory = object;
    s->delta = delta;
}

enum err replica_artifact(struct replica *r, const struct staged *s, const struct sha256 *hash, struct span *ret)
{
    for (uint32_t i = 0; i < s->artifact_count; i++) {
        if (sha256_eq(&s->artifacts[i].hash, hash)) {
            *ret = s->artifacts[i].bytes;
            return OK;
        }
    }
    return tablestore_object(r->options.store, OBJECT_ARTIFACT, hash, ret);
}

static void check_arms(struct replica *r, struct staged *s)
{
    uint64_t txn;
    if (!s->head || tablestore_begin(r->options.store, &txn))
        return;
    for (uint32_t i = 0; s->head && i < s->head_decoded->arm_count; i++) {
        struct span bytes;
        if (replica_artifact(r, s, &s->head_decoded->arms[i].artifact, &bytes)) {
            refuse(r, s, s->head, s->head_decoded->epoch, ERR_NOT_FOUND, "an artifact that it needs");
            s->head = NULL;
        }
    }
    tablestore_end(r->options.store);
}

/* Artifacts without a head that is taken: nobody needs them, unless none came with them. Then they are sent ahead of a
 * head that they do not fit beside, and those that are new are kept. */
static void keep_ahead(struct replica *r, struct staged *s, bool head_came)
{
    uint64_t txn;
    uint32_t kept = 0;
    struct span bytes;
    if (s->artifact_count > 0 && !head_came && !r->pinned && tablestore_begin(r->options.store, &txn) == OK) {
        for (uint32_t i = 0; i < s->artifact_count; i++)
            if (tablestore_object(r->options.store, OBJECT_ARTIFACT, &s->artifacts[i].hash, &bytes) == ERR_NOT_FOUND)
                s->artifacts[kept++] = s->artifacts[i];
        tablestore_end(r->options.store);
    }
    s->artifact_count = kept;
}

/* Refused before, and nothing has changed since: only the leave to take another epoch does. */
static bool still_refused(const struct replica *r, const struct object *object, uint64_t adopted_epoch)
{
    for (unsigned i = 0; i < r->nack_count; i++) {
        const struct nack *nack = &r->nacks[i].nack;
        if (nack->kind == object->kind && sha256_eq(&nack->hash, &object->hash))
            return adopted_epoch == 0 || nack->epoch != adopted_epoch || nack->epoch == r->committed.epoch;
    }
    return false;
}

/* Of each kind the first good one counts. Artifacts and the head come first, whatever the order in the reply: they set
 * the epoch by which the others are judged. */
enum err replica_stage(struct replica *r, const struct fetch_reply *reply, struct staged *s)
{
    static const enum object_kind order[] = { OBJECT_ARTIFACT, OBJECT_HEAD, OBJECT_EVIDENCE, OBJECT_DIRECTORY };
    bool head_came = false;
    *s = (struct staged){ .artifact_count = 0 };
    for (size_t k = 0; k < ARRAY_LEN(order); k++) {
        for (uint32_t i = 0; i < reply->object_count; i++) {
            const struct object *object = &reply->objects[i];
            if (object->kind != order[k])
                continue;
            head_came = head_came || object->kind == OBJECT_HEAD;
            if (still_refused(r, object, reply->adopted_epoch)) {
                s->refused = true;
                continue;
            }
            const enum err err = wire_check_object(object);
            if (err)
                refuse(r, s, object, 0, err, NULL);
            else if (object->kind == OBJECT_ARTIFACT && s->artifact_count < ARTIFACTS_KEPT)
                s->artifacts[s->artifact_count++] = *object;
            else if (object->kind == OBJECT_HEAD && !s->head)
                stage_head(r, s, object, reply->adopted_epoch);
            else if (object->kind == OBJECT_EVIDENCE && !s->evidence)
                stage_evidence(r, s, object);
            else if (object->kind == OBJECT_DIRECTORY && !s->directory)
                stage_directory(r, s, object);
        }
    }
    check_arms(r, s);
    if (!s->head) {
        keep_ahead(r, s, head_came);
        if (s->allowed_epoch) /* what came with that head belongs to its epoch */
            s->evidence = s->directory = NULL;
        s->allowed_epoch = 0;
    }
    return OK;
}

/* ---- frames for the self-test ---- */

static enum err frame_artifact(struct replica *r, const struct staged *s, const struct sha256 *hash, struct buf *out)
{
    struct span bytes;
    const enum err err = replica_artifact(r, s, hash, &bytes);
    return err ? err : selftest_frame(OBJECT_ARTIFACT, bytes, out);
}

static enum err frame_stored(struct replica *r, enum object_kind kind, struct buf *out)
{
    struct span bytes;
    const enum err err = tablestore_object(r->options.store, kind, NULL, &bytes);
    if (err == ERR_NOT_FOUND)
        return OK;
    return err ? err : selftest_frame(kind, bytes, out);
}

static enum err frame_teams(struct replica *r, const struct staged *s, struct buf *out)
{
    struct buf teams = BUF_INIT(TEAMS_BYTES_MAX);
    if (!s->delta || !s->delta->has_teams)
        return frame_stored(r, OBJECT_DIRECTORY, out);
    enum err err = wire_encode_teams(&s->delta->teams, &teams);
    if (!err)
        err = selftest_frame(OBJECT_DIRECTORY, buf_span(&teams), out);
    buf_release(&teams);
    return err;
}

enum err replica_frames(struct replica *r, const struct staged *s, struct buf *out)
{
    uint64_t txn;
    enum err err = tablestore_begin(r->options.store, &txn);
    if (err)
        return err;
    err = selftest_frame(OBJECT_HEAD, s->head->bytes, out);
    for (uint32_t i = 0; i < s->head_decoded->arm_count && !err; i++)
        err = frame_artifact(r, s, &s->head_decoded->arms[i].artifact, out);
    if (!err)
        err = s->evidence ? selftest_frame(OBJECT_EVIDENCE, s->evidence->bytes, out)
                          : frame_stored(r, OBJECT_EVIDENCE, out);
    if (!err)
        err = frame_teams(r, s, out);
    tablestore_end(r->options.store);
    return err;
}
