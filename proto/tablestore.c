#include "proto/tablestore.h"
#include "proto/wire.h"
#include "common/clock.h"
#include "common/fault.h"

/* Trees. Key records stand in one of two, so that a paged resync fills the other and the switch is one word. */
enum { TREE_META, TREE_OBJECTS, TREE_NOTES, TREE_KEYS_A, TREE_KEYS_B, TREES };
static const char *const tree_names[TREES] = {
    [TREE_META] = "meta",     [TREE_OBJECTS] = "objects", [TREE_NOTES] = "notes",
    [TREE_KEYS_A] = "keys.a", [TREE_KEYS_B] = "keys.b",
};

#define STORE_LAYOUT       1u   /* of what this file writes; a store of another layout is ERR_UNSUPPORTED */
#define RECORD_STATE       100u /* a kind beside enum object_kind */
#define ARTIFACTS_HELD_MAX 64u  /* of a head and the one before it; a head that needs more is refused */
#define DECODE_BYTES_MAX   ((size_t)1 << 30)
#define CHECK_BYTES        8u /* before a key record or a note: siphash24 of it, against a garbled disk and not a forger */

#define KEY_HEAD              SPAN("head")
#define KEY_HEAD_PREVIOUS     SPAN("head.previous")
#define KEY_EVIDENCE          SPAN("evidence")
#define KEY_EVIDENCE_PREVIOUS SPAN("evidence.previous")
#define KEY_TEAMS             SPAN("teams")
#define KEY_TEAMS_NEXT        SPAN("teams.next")
#define KEY_STATE             SPAN("state")
#define ARTIFACT_PREFIX       "artifact/"

/* Before the bytes of each object. */
struct seal {
    uint32_t kind, schema;
    uint64_t epoch, seq;
    struct sha256 hash; /* of the bytes behind it */
    uint64_t check;     /* of the fields above */
};
_Static_assert(sizeof(struct seal) == 64, "no padding: it is stored as it stands");

/* Where everything stands; written in each transaction. Sequences belong to their own epochs: a head of a restored
 * control plane does not make the directory of the one before it current. */
struct state {
    uint64_t epoch, generation;
    uint64_t evidence_epoch, evidence_seq;
    uint64_t directory_epoch, directory_seq;
    uint64_t resync_epoch, resync_seq; /* of the full resync being staged */
    uint64_t refused_epoch, refused_generation;
    uint64_t refused_evidence_epoch, refused_evidence_seq;
    int64_t head_at_ms; /* when the head was applied */
    uint32_t resyncing; /* 1 while pages are staged in the tree that is not active */
    uint32_t present;   /* 1 once anything was applied */
    uint32_t active;    /* 0: keys.a, 1: keys.b */
    uint32_t artifact_count;
    struct sha256 artifacts[ARTIFACTS_HELD_MAX]; /* newest use first */
};

struct tablestore {
    struct snapshot *snapshot;
    struct snapshot_txn *reader; /* NULL outside of begin and end */
    struct state state;          /* of the reader's transaction */
    enum err state_err;
};

/* -- records -- */

static const uint8_t check_key[16] = "fairlead-store-1"; /* nothing secret */

static uint64_t seal_check(const struct seal *seal)
{
    return siphash24(check_key, span_of(seal, offsetof(struct seal, check)));
}

static enum err put_sealed(struct snapshot_txn *txn, unsigned tree, struct span key, struct seal seal,
                           struct span bytes)
{
    char *record = fault_malloc(sizeof seal + bytes.len);
    if (!record)
        return ERR_NOMEM;
    seal.check = seal_check(&seal);
    memcpy(record, &seal, sizeof seal);
    if (bytes.len > 0)
        memcpy(record + sizeof seal, bytes.ptr, bytes.len);
    enum err err = snapshot_put(txn, tree, key, span_of(record, sizeof seal + bytes.len));
    free(record);
    return err;
}

/* The bytes are not hashed here. ERR_NOT_FOUND, ERR_CORRUPT. */
static enum err get_sealed(struct snapshot_txn *txn, unsigned tree, struct span key, uint32_t kind, struct seal *ret,
                           struct span *ret_bytes)
{
    struct span record;
    enum err err = snapshot_get(txn, tree, key, &record);
    if (err)
        return err;
    struct seal seal;
    if (record.len < sizeof seal)
        return ERR_CORRUPT;
    memcpy(&seal, record.ptr, sizeof seal);
    if (seal.check != seal_check(&seal) || seal.kind != kind)
        return ERR_CORRUPT;
    *ret = seal;
    *ret_bytes = span_skip(record, sizeof seal);
    return OK;
}

static enum err get_object(struct snapshot_txn *txn, struct span key, enum object_kind kind, struct seal *ret,
                           struct span *ret_bytes)
{
    struct span bytes;
    struct seal seal;
    enum err err = get_sealed(txn, TREE_OBJECTS, key, kind, &seal, &bytes);
    if (err)
        return err;
    struct sha256 hash = sha256_of(bytes);
    if (!sha256_eq(&hash, &seal.hash))
        return ERR_CORRUPT;
    if (seal.schema < TABLE_SCHEMA_LEAST || seal.schema > TABLE_SCHEMA)
        return ERR_UNSUPPORTED; /* written by a newer program; this one went back */
    *ret = seal;
    *ret_bytes = bytes;
    return OK;
}

static enum err state_load(struct snapshot_txn *txn, struct state *ret)
{
    struct seal seal;
    struct span bytes;
    enum err err = get_sealed(txn, TREE_META, KEY_STATE, RECORD_STATE, &seal, &bytes);
    if (err == ERR_NOT_FOUND) {
        *ret = (struct state){ 0 };
        return OK;
    }
    if (err)
        return err;
    if (seal.schema != STORE_LAYOUT)
        return ERR_UNSUPPORTED;
    struct sha256 hash = sha256_of(bytes);
    if (bytes.len != sizeof *ret || !sha256_eq(&hash, &seal.hash))
        return ERR_CORRUPT;
    memcpy(ret, bytes.ptr, sizeof *ret);
    return ret->artifact_count <= ARTIFACTS_HELD_MAX && ret->active <= 1 ? OK : ERR_CORRUPT;
}

static enum err state_store(struct snapshot_txn *txn, const struct state *state)
{
    struct span bytes = span_of(state, sizeof *state);
    struct seal seal = { .kind = RECORD_STATE, .schema = STORE_LAYOUT, .hash = sha256_of(bytes) };
    return put_sealed(txn, TREE_META, KEY_STATE, seal, bytes);
}

static struct table_version version_of(const struct state *state)
{
    return (struct table_version){
        .epoch = state->epoch,
        .generation = state->generation,
        .evidence_seq = state->evidence_epoch == state->epoch ? state->evidence_seq : 0,
        .directory_seq = state->directory_epoch == state->epoch ? state->directory_seq : 0,
    };
}

struct artifact_key {
    char bytes[sizeof ARTIFACT_PREFIX - 1 + SHA256_BYTES];
};

static struct artifact_key artifact_key(const struct sha256 *hash)
{
    struct artifact_key key;
    memcpy(key.bytes, ARTIFACT_PREFIX, sizeof ARTIFACT_PREFIX - 1);
    memcpy(key.bytes + sizeof ARTIFACT_PREFIX - 1, hash->bytes, SHA256_BYTES);
    return key;
}

static struct span key_span(const struct artifact_key *key)
{
    return span_of(key->bytes, sizeof key->bytes);
}

static struct span hash_span(const struct sha256 *hash)
{
    return span_of(hash->bytes, SHA256_BYTES);
}

/* -- a checked value: CHECK_BYTES and the bytes. The check also covers what it is stored under, by its key. -- */

static enum err put_checked(struct snapshot_txn *txn, unsigned tree, struct span key, const uint8_t hash_key[16],
                            struct span bytes)
{
    char *record = fault_malloc(CHECK_BYTES + bytes.len);
    if (!record)
        return ERR_NOMEM;
    uint64_t check = siphash24(hash_key, bytes);
    memcpy(record, &check, CHECK_BYTES);
    if (bytes.len > 0)
        memcpy(record + CHECK_BYTES, bytes.ptr, bytes.len);
    enum err err = snapshot_put(txn, tree, key, span_of(record, CHECK_BYTES + bytes.len));
    free(record);
    return err;
}

static enum err get_checked(struct snapshot_txn *txn, unsigned tree, struct span key, const uint8_t hash_key[16],
                            struct span *ret)
{
    struct span record;
    uint64_t check;
    enum err err = snapshot_get(txn, tree, key, &record);
    if (err)
        return err;
    if (record.len < CHECK_BYTES)
        return ERR_CORRUPT;
    memcpy(&check, record.ptr, CHECK_BYTES);
    struct span bytes = span_skip(record, CHECK_BYTES);
    if (check != siphash24(hash_key, bytes))
        return ERR_CORRUPT;
    *ret = bytes;
    return OK;
}

/* -- opening and reading -- */

enum err tablestore_open(const char *dir, bool read_only, struct tablestore **ret)
{
    struct tablestore *store = fault_calloc(1, sizeof *store);
    if (!store)
        return ERR_NOMEM;
    struct snapshot_options options = { .path = dir, .read_only = read_only, .trees = tree_names, .tree_count = TREES };
    enum err err = snapshot_open(&options, &store->snapshot);
    uint64_t txn_id;
    if (!err)
        err = tablestore_begin(store, &txn_id);
    if (!err) {
        err = store->state_err;
        tablestore_end(store);
    }
    if (err) {
        tablestore_close(store);
        return err;
    }
    *ret = store;
    return OK;
}

void tablestore_close(struct tablestore *store)
{
    if (!store)
        return;
    snapshot_close(store->snapshot);
    free(store);
}

struct snapshot *tablestore_snapshot(struct tablestore *store)
{
    return store->snapshot;
}

enum err tablestore_begin(struct tablestore *store, uint64_t *ret_txn_id)
{
    REQUIRE(!store->reader);
    enum err err = snapshot_read_begin(store->snapshot, &store->reader);
    if (err)
        return err;
    store->state_err = state_load(store->reader, &store->state);
    *ret_txn_id = snapshot_txn_id(store->reader);
    return OK;
}

void tablestore_end(struct tablestore *store)
{
    snapshot_read_end(store->reader);
    store->reader = NULL;
}

enum err tablestore_version(struct tablestore *store, struct table_version *ret)
{
    REQUIRE(store->reader);
    if (store->state_err)
        return store->state_err;
    *ret = version_of(&store->state);
    return OK;
}

enum err tablestore_refused(struct tablestore *store, struct table_version *ret)
{
    REQUIRE(store->reader);
    if (store->state_err)
        return store->state_err;
    const struct state *state = &store->state;
    if (state->refused_epoch == 0 && state->refused_generation == 0 && state->refused_evidence_seq == 0)
        return ERR_NOT_FOUND;
    *ret = (struct table_version){ .epoch = state->refused_epoch,
                                   .generation = state->refused_generation,
                                   .evidence_seq = state->refused_evidence_seq };
    return OK;
}

enum err tablestore_object(struct tablestore *store, enum object_kind kind, const struct sha256 *artifact,
                           struct span *ret_bytes)
{
    REQUIRE(store->reader);
    struct seal seal;
    struct span bytes = { 0 };
    enum err err = ERR_NOT_FOUND;
    switch (kind) {
    case OBJECT_HEAD:
        err = get_object(store->reader, KEY_HEAD, kind, &seal, &bytes);
        break;
    case OBJECT_EVIDENCE:
        err = get_object(store->reader, KEY_EVIDENCE, kind, &seal, &bytes);
        break;
    case OBJECT_DIRECTORY:
        err = get_object(store->reader, KEY_TEAMS, kind, &seal, &bytes);
        break;
    case OBJECT_ARTIFACT: {
        REQUIRE(artifact);
        struct artifact_key key = artifact_key(artifact);
        err = get_object(store->reader, key_span(&key), kind, &seal, &bytes);
        if (!err && !sha256_eq(&seal.hash, artifact))
            err = ERR_CORRUPT;
        break;
    }
    }
    if (!err)
        *ret_bytes = bytes;
    return err;
}

enum err tablestore_key(struct tablestore *store, struct arena *arena, const struct sha256 *hash,
                        struct key_record **ret)
{
    REQUIRE(store->reader);
    if (store->state_err)
        return store->state_err;
    struct span bytes;
    enum err err = get_checked(store->reader, TREE_KEYS_A + store->state.active, hash_span(hash), hash->bytes, &bytes);
    if (err)
        return err;
    struct key_record *record;
    err = wire_decode_key(arena, bytes, &record, NULL);
    if (err)
        return err == ERR_NOMEM ? err : ERR_CORRUPT;
    if (!sha256_eq(&record->hash, hash))
        return ERR_CORRUPT;
    *ret = record;
    return OK;
}

enum err tablestore_artifacts(struct tablestore *store, struct arena *arena, struct sha256 **ret, uint32_t *ret_count)
{
    REQUIRE(store->reader);
    if (store->state_err)
        return store->state_err;
    size_t count = store->state.artifact_count;
    struct sha256 *hashes = ARENA_ARRAY(arena, count ? count : 1, struct sha256);
    if (!hashes)
        return ERR_NOMEM;
    memcpy(hashes, store->state.artifacts, count * sizeof *hashes);
    *ret = hashes;
    *ret_count = (uint32_t)count;
    return OK;
}

/* -- writing -- */

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
    err = state_load(w->txn, &w->state);
    if (err) {
        snapshot_abort(w->txn);
        arena_release(&w->arena);
    }
    return err;
}

/* Commits when err is OK, else drops everything. */
static enum err writer_end(struct writer *w, enum err err, struct table_version *ret_now)
{
    w->state.present = 1;
    if (!err)
        err = state_store(w->txn, &w->state);
    if (err)
        snapshot_abort(w->txn);
    else
        err = snapshot_commit(w->txn);
    arena_release(&w->arena);
    if (!err)
        *ret_now = version_of(&w->state);
    return err;
}

static enum err check_epoch(const struct writer *w, uint64_t epoch)
{
    if (!w->state.present)
        return OK;
    return epoch == (w->allowed_epoch ? w->allowed_epoch : w->state.epoch) ? OK : ERR_CONFLICT;
}

static enum err put_object(struct writer *w, struct span key, const struct object *object, uint64_t epoch)
{
    struct seal seal = {
        .kind = object->kind, .schema = object->schema, .epoch = epoch, .seq = object->seq, .hash = object->hash
    };
    return put_sealed(w->txn, TREE_OBJECTS, key, seal, object->bytes);
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
        struct artifact_key key = artifact_key(&artifacts[i].hash);
        enum err err = put_object(w, key_span(&key), &artifacts[i], 0); /* again when there: it may have been garbled */
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
    if (s->present && head->epoch == s->epoch && head->generation <= s->generation)
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
            err = put_checked(w->txn, tree, hash_span(&key->hash), key->hash.bytes, buf_span(&bytes));
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
    if (get_object(w->txn, key, OBJECT_HEAD, &seal, &bytes) != OK ||
        wire_decode_head(&w->arena, bytes, &head, NULL) != OK)
        return count;
    for (uint32_t i = 0; i < head->arm_count && count < max; i++)
        hashes[count++] = head->arms[i].artifact;
    return count;
}

/* Drops the artifacts longest out of use beyond ARTIFACTS_KEPT, but none of the head or of the one a revert goes back
 * to. */
static enum err prune_artifacts(struct writer *w)
{
    struct state *s = &w->state;
    if (s->artifact_count <= ARTIFACTS_KEPT)
        return OK;
    struct sha256 needed[2 * ARTIFACTS_HELD_MAX];
    uint32_t count = needed_by(w, KEY_HEAD, needed, 0, ARTIFACTS_HELD_MAX);
    count = needed_by(w, KEY_HEAD_PREVIOUS, needed, count, 2 * ARTIFACTS_HELD_MAX);
    for (uint32_t i = s->artifact_count; i-- > 0 && s->artifact_count > ARTIFACTS_KEPT;) {
        bool keep = false;
        for (uint32_t k = 0; k < count && !keep; k++)
            keep = sha256_eq(&needed[k], &s->artifacts[i]);
        if (keep)
            continue;
        struct artifact_key key = artifact_key(&s->artifacts[i]);
        enum err err = delete_if_there(w, key_span(&key));
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
        err = prune_artifacts(&w);
    return writer_end(&w, err, ret_now);
}

/* -- going back -- */

static enum err seal_at(struct writer *w, struct span key, enum object_kind kind, struct seal *ret)
{
    struct span bytes;
    return get_object(w->txn, key, kind, ret, &bytes);
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

/* -- notes -- */

enum err tablestore_note_get(struct tablestore *store, struct arena *arena, struct span name, struct span *ret)
{
    struct snapshot_txn *txn = store->reader;
    struct span bytes;
    enum err err = txn ? OK : snapshot_read_begin(store->snapshot, &txn);
    if (err)
        return err;
    err = get_checked(txn, TREE_NOTES, name, check_key, &bytes);
    if (!err) {
        struct span copy = arena_dup(arena, bytes);
        if (copy.ptr)
            *ret = copy;
        else
            err = ERR_NOMEM;
    }
    if (!store->reader)
        snapshot_read_end(txn);
    return err;
}

enum err tablestore_note_put(struct tablestore *store, struct span name, struct span value)
{
    struct snapshot_txn *txn;
    enum err err = snapshot_write_begin(store->snapshot, &txn);
    if (err)
        return err;
    err = put_checked(txn, TREE_NOTES, name, check_key, value);
    if (err) {
        snapshot_abort(txn);
        return err;
    }
    return snapshot_commit(txn);
}
