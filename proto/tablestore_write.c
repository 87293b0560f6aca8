#include "proto/tablestore.h"
#include "proto/tablestore_record.h"
#include "proto/wire.h"
#include "common/clock.h"
#include "common/fault.h"

#define DECODE_BYTES_MAX ((size_t)1 << 30) /* wire has its own, nearer limits: this one is for what they forgot */

struct writer {
    struct snapshot_txn *txn;
    struct state state;
    uint64_t allowed_epoch;
    struct arena arena; /* of what is decoded to be judged */
};

static enum err writer_begin(struct tablestore *store, struct writer *w)
{
    *w = (struct writer){ 0 };
    enum err err = snapshot_write_begin(store->snapshot, &w->txn);
    if (err)
        return err;
    arena_init(&w->arena, DECODE_BYTES_MAX);
    err = record_load_state(w->txn, &w->state);
    if (err) {
        snapshot_abort(w->txn);
        arena_release(&w->arena);
    }
    return err;
}

/* Commits when err is OK, else drops everything. */
static enum err writer_end(struct writer *w, enum err err, struct table_version *ret_now)
{
    if (!err)
        err = record_store_state(w->txn, &w->state);
    if (err)
        snapshot_abort(w->txn);
    else
        err = snapshot_commit(w->txn);
    arena_release(&w->arena);
    if (!err)
        *ret_now = record_version(&w->state);
    return err;
}

/* The first thing ever stored decides whose node this is. */
static enum err check_epoch(struct writer *w, uint64_t epoch)
{
    if (!w->state.present) {
        w->state.present = 1;
        w->state.epoch = epoch;
        return OK;
    }
    return epoch == (w->allowed_epoch ? w->allowed_epoch : w->state.epoch) ? OK : ERR_CONFLICT;
}

static enum err put_object(struct writer *w, struct span key, const struct object *object, uint64_t epoch)
{
    struct seal seal = {
        .kind = object->kind, .schema = object->schema, .epoch = epoch, .seq = object->seq, .hash = object->hash
    };
    return record_put_sealed(w->txn, TREE_OBJECTS, key, seal, object->bytes);
}

static enum err delete_if_there(struct writer *w, struct span key)
{
    enum err err = snapshot_delete(w->txn, TREE_OBJECTS, key);
    return err == ERR_NOT_FOUND ? OK : err;
}

/* Through a copy: a value's bytes move when its tree is written to. ERR_NOT_FOUND: nothing stands at from. */
static enum err copy_entry(struct writer *w, struct span from, struct span to)
{
    struct span value;
    enum err err = snapshot_get(w->txn, TREE_OBJECTS, from, &value);
    if (err)
        return err;
    char *copy = fault_malloc(value.len ? value.len : 1);
    if (!copy)
        return ERR_NOMEM;
    memcpy(copy, value.ptr, value.len);
    err = snapshot_put(w->txn, TREE_OBJECTS, to, span_of(copy, value.len));
    free(copy);
    return err;
}

static enum err move_entry(struct writer *w, struct span from, struct span to)
{
    enum err err = copy_entry(w, from, to);
    return err ? err : snapshot_delete(w->txn, TREE_OBJECTS, from);
}

/* What is current becomes what a revert goes back to; nothing current, nothing to go back to. */
static enum err keep_previous(struct writer *w, struct span current, struct span previous)
{
    enum err err = copy_entry(w, current, previous);
    return err == ERR_NOT_FOUND ? delete_if_there(w, previous) : err;
}

static uint32_t artifact_index(const struct state *state, const struct sha256 *hash)
{
    uint32_t i = 0;
    while (i < state->artifact_count && !sha256_eq(&state->artifacts[i], hash))
        i++;
    return i; /* the count when absent */
}

/* index may be the count: the artifact is then added. */
static void artifact_to_front(struct state *state, uint32_t index, const struct sha256 *hash)
{
    struct sha256 front = *hash;
    if (index == state->artifact_count)
        state->artifact_count++;
    memmove(&state->artifacts[1], &state->artifacts[0], index * sizeof front);
    state->artifacts[0] = front;
}

static enum err apply_artifacts(struct writer *w, const struct object *artifacts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = artifact_index(&w->state, &artifacts[i].hash);
        if (index == ARTIFACTS_HELD_MAX)
            return ERR_TOO_MANY;
        struct artifact_key key = record_artifact_key(&artifacts[i].hash);
        enum err err =
            put_object(w, artifact_span(&key), &artifacts[i], 0); /* again when there: it may have been garbled */
        if (err)
            return err;
        artifact_to_front(&w->state, index, &artifacts[i].hash);
    }
    return OK;
}

static enum err apply_head(struct writer *w, const struct object *object)
{
    struct state *s = &w->state;
    struct head *head;
    enum err err = wire_decode_head(&w->arena, object->bytes, &head, NULL);
    if (err)
        return err;
    if (head->generation != object->seq)
        return ERR_INVALID;
    err = check_epoch(w, head->epoch);
    if (err)
        return err;
    if (head->epoch == s->epoch && head->generation <= s->generation)
        return ERR_STALE;
    if (head->epoch == s->refused_epoch && head->generation <= s->refused_generation)
        return ERR_STALE;
    for (uint32_t i = 0; i < head->arm_count; i++) {
        uint32_t index = artifact_index(s, &head->arms[i].artifact);
        if (index == s->artifact_count)
            return ERR_NOT_FOUND;
        artifact_to_front(s, index, &head->arms[i].artifact);
    }
    err = keep_previous(w, KEY_HEAD, KEY_HEAD_PREVIOUS);
    if (!err)
        err = put_object(w, KEY_HEAD, object, head->epoch);
    s->epoch = head->epoch;
    s->generation = head->generation;
    s->head_at_ms = clock_wall_ms();
    return err;
}

static enum err apply_evidence(struct writer *w, const struct object *object)
{
    struct state *s = &w->state;
    struct evidence *evidence;
    enum err err = wire_decode_evidence(&w->arena, object->bytes, &evidence, NULL);
    if (err)
        return err;
    if (evidence->seq != object->seq)
        return ERR_INVALID;
    err = check_epoch(w, evidence->epoch);
    if (err)
        return err;
    if (evidence->epoch == s->evidence_epoch && evidence->seq <= s->evidence_seq)
        return ERR_STALE;
    if (evidence->epoch == s->refused_evidence_epoch && evidence->seq <= s->refused_evidence_seq)
        return ERR_STALE;
    err = keep_previous(w, KEY_EVIDENCE, KEY_EVIDENCE_PREVIOUS);
    if (!err)
        err = put_object(w, KEY_EVIDENCE, object, evidence->epoch);
    s->evidence_epoch = evidence->epoch;
    s->evidence_seq = evidence->seq;
    return err;
}

/* -- the directory -- */

static enum err put_teams(struct writer *w, struct span key, const struct directory_delta *delta)
{
    struct buf bytes = BUF_INIT(TEAMS_BYTES_MAX);
    enum err err = wire_encode_teams(&delta->teams, &bytes);
    if (!err) {
        struct object object = wire_object(OBJECT_DIRECTORY, delta->to_seq, buf_span(&bytes));
        err = put_object(w, key, &object, delta->epoch);
    }
    buf_release(&bytes);
    return err;
}

static enum err put_keys(struct writer *w, unsigned tree, const struct directory_delta *delta)
{
    struct buf bytes = BUF_INIT(FRAME_BYTES_MAX);
    enum err err = OK;
    for (uint32_t i = 0; i < delta->key_count && !err; i++) {
        const struct key_record *key = &delta->keys[i];
        buf_clear(&bytes);
        err = wire_encode_key(key, &bytes);
        if (!err)
            err = record_put_checked(w->txn, tree, hash_span(&key->hash), key->hash.bytes, buf_span(&bytes));
    }
    buf_release(&bytes);
    /* After the puts: what one delta both gives and takes is taken. */
    for (uint32_t i = 0; i < delta->removed_count && !err; i++) {
        err = snapshot_delete(w->txn, tree, hash_span(&delta->removed[i]));
        if (err == ERR_NOT_FOUND)
            err = OK;
    }
    return err;
}

static unsigned active_tree(const struct state *state)
{
    return TREE_KEYS_A + state->active;
}

static unsigned staging_tree(const struct state *state)
{
    return TREE_KEYS_A + 1 - state->active;
}

static enum err stage_nothing(struct writer *w)
{
    w->state.resyncing = 0;
    enum err err = snapshot_drop_all(w->txn, staging_tree(&w->state));
    return err ? err : delete_if_there(w, KEY_TEAMS_NEXT);
}

static enum err finish_resync(struct writer *w, const struct directory_delta *delta)
{
    struct state *s = &w->state;
    enum err err = move_entry(w, KEY_TEAMS_NEXT, KEY_TEAMS);
    if (err == ERR_NOT_FOUND) /* a directory without teams is one where nobody may do anything, and a whole one */
        err = put_teams(w, KEY_TEAMS, &(struct directory_delta){ .epoch = delta->epoch, .to_seq = delta->to_seq });
    s->active = 1 - s->active;
    s->directory_epoch = delta->epoch;
    s->directory_seq = delta->to_seq;
    return err ? err : stage_nothing(w);
}

static enum err apply_page(struct writer *w, const struct directory_delta *delta)
{
    struct state *s = &w->state;
    if (delta->epoch == s->directory_epoch && delta->to_seq <= s->directory_seq)
        return ERR_STALE;
    enum err err = OK;
    if (!s->resyncing || s->resync_epoch != delta->epoch || s->resync_seq != delta->to_seq) {
        err = stage_nothing(w); /* pages of another resync that was given up */
        s->resyncing = 1;
        s->resync_epoch = delta->epoch;
        s->resync_seq = delta->to_seq;
    }
    if (!err)
        err = put_keys(w, staging_tree(s), delta);
    if (!err && delta->has_teams)
        err = put_teams(w, KEY_TEAMS_NEXT, delta);
    if (!err && !delta->more)
        err = finish_resync(w, delta);
    return err;
}

static enum err apply_directory(struct writer *w, const struct directory_delta *delta)
{
    struct state *s = &w->state;
    enum err err = check_epoch(w, delta->epoch);
    if (err)
        return err;
    if (delta->full)
        return apply_page(w, delta);
    if (delta->more)
        return ERR_INVALID;
    if (delta->epoch != s->directory_epoch || delta->from_seq != s->directory_seq)
        return ERR_CONFLICT;
    if (delta->to_seq <= s->directory_seq)
        return ERR_STALE;
    err = put_keys(w, active_tree(s), delta);
    if (!err && delta->has_teams)
        err = put_teams(w, KEY_TEAMS, delta);
    s->directory_seq = delta->to_seq;
    return err;
}

/* -- all together -- */

/* Adds the artifacts of a stored head to hashes. One that cannot be read needs nothing. */
static uint32_t needed_by(struct writer *w, struct span key, struct sha256 *hashes, uint32_t count, uint32_t max)
{
    struct seal seal;
    struct span bytes;
    struct head *head;
    if (record_get_object(w->txn, key, OBJECT_HEAD, &seal, &bytes) != OK ||
        wire_decode_head(&w->arena, bytes, &head, NULL) != OK)
        return count;
    for (uint32_t i = 0; i < head->arm_count && count < max; i++)
        hashes[count++] = head->arms[i].artifact;
    return count;
}

/* Drops the artifacts longest out of use beyond `most`, but none of the head or of the one a revert goes back
 * to. */
static enum err prune_artifacts(struct writer *w, uint32_t most)
{
    struct state *s = &w->state;
    if (s->artifact_count <= most)
        return OK;
    struct sha256 needed[2 * ARTIFACTS_HELD_MAX];
    uint32_t count = needed_by(w, KEY_HEAD, needed, 0, ARTIFACTS_HELD_MAX);
    count = needed_by(w, KEY_HEAD_PREVIOUS, needed, count, 2 * ARTIFACTS_HELD_MAX);
    for (uint32_t i = s->artifact_count; i-- > 0 && s->artifact_count > most;) {
        bool keep = false;
        for (uint32_t k = 0; k < count && !keep; k++)
            keep = sha256_eq(&needed[k], &s->artifacts[i]);
        if (keep)
            continue;
        struct artifact_key key = record_artifact_key(&s->artifacts[i]);
        enum err err = delete_if_there(w, artifact_span(&key));
        if (err)
            return err;
        s->artifact_count--;
        memmove(&s->artifacts[i], &s->artifacts[i + 1], (s->artifact_count - i) * sizeof s->artifacts[0]);
    }
    return OK;
}

static enum err check_kind(const struct object *object, enum object_kind kind)
{
    if (!object)
        return OK;
    return object->kind == kind ? wire_check_object(object) : ERR_INVALID;
}

enum err tablestore_apply(struct tablestore *store, const struct table_change *change, uint64_t allowed_epoch,
                          struct table_version *ret_now)
{
    enum err err = check_kind(change->head, OBJECT_HEAD);
    if (!err)
        err = check_kind(change->evidence, OBJECT_EVIDENCE);
    for (uint32_t i = 0; i < change->artifact_count && !err; i++)
        err = check_kind(&change->artifacts[i], OBJECT_ARTIFACT);
    struct writer w;
    if (!err)
        err = writer_begin(store, &w);
    if (err)
        return err;
    w.allowed_epoch = allowed_epoch;
    err = apply_artifacts(&w, change->artifacts, change->artifact_count);
    if (!err && change->evidence)
        err = apply_evidence(&w, change->evidence);
    if (!err && change->directory)
        err = apply_directory(&w, change->directory);
    if (!err && change->head)
        err = apply_head(&w, change->head);
    if (!err && (change->head || change->artifact_count > 0))
        err = prune_artifacts(&w, change->head ? ARTIFACTS_KEPT : ARTIFACTS_HELD);
    return writer_end(&w, err, ret_now);
}

/* -- going back -- */

static enum err seal_at(struct writer *w, struct span key, enum object_kind kind, struct seal *ret)
{
    struct span bytes;
    return record_get_object(w->txn, key, kind, ret, &bytes);
}

static enum err revert_head(struct writer *w)
{
    struct state *s = &w->state;
    struct seal seal;
    enum err err = seal_at(w, KEY_HEAD_PREVIOUS, OBJECT_HEAD, &seal);
    if (!err)
        err = move_entry(w, KEY_HEAD_PREVIOUS, KEY_HEAD);
    if (err)
        return err;
    s->refused_epoch = s->epoch;
    s->refused_generation = s->generation;
    s->epoch = seal.epoch;
    s->generation = seal.seq;
    return OK;
}

static enum err revert_evidence(struct writer *w)
{
    struct state *s = &w->state;
    struct seal seal = { 0 };
    enum err err = seal_at(w, KEY_EVIDENCE_PREVIOUS, OBJECT_EVIDENCE, &seal);
    if (err == ERR_NOT_FOUND) /* before the first there was none, which is served well: the policy's own weights */
        err = delete_if_there(w, KEY_EVIDENCE);
    else if (!err)
        err = move_entry(w, KEY_EVIDENCE_PREVIOUS, KEY_EVIDENCE);
    if (err)
        return err;
    s->refused_evidence_epoch = s->evidence_epoch;
    s->refused_evidence_seq = s->evidence_seq;
    s->evidence_epoch = seal.epoch;
    s->evidence_seq = seal.seq;
    return OK;
}

enum err tablestore_revert(struct tablestore *store, struct table_version *ret_now)
{
    struct writer w;
    enum err err = writer_begin(store, &w);
    if (err)
        return err;
    struct seal seal;
    bool evidence_before = seal_at(&w, KEY_EVIDENCE_PREVIOUS, OBJECT_EVIDENCE, &seal) == OK;
    bool head_before = seal_at(&w, KEY_HEAD_PREVIOUS, OBJECT_HEAD, &seal) == OK;
    int64_t age_ms = clock_wall_ms() - w.state.head_at_ms;
    bool proven =
        age_ms >
        TABLESTORE_HEAD_PROVEN_MS; /* a clock set back makes it young: reverted once too often, not too seldom */
    if (!head_before && !evidence_before)
        err = ERR_NOT_FOUND;
    if (!err && head_before && !(proven && evidence_before))
        err = revert_head(&w);
    if (!err)
        err = revert_evidence(&w);
    return writer_end(&w, err, ret_now);
}
