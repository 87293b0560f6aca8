#include "proto/tablestore.h"
#include "proto/tablestore_record.h"
#include "proto/wire.h"
#include "common/fault.h"

#define KEY_ARENA_BYTES (1u << 20) /* a decoded key record */

static const char *const tree_names[TREES] = {
    [TREE_META] = "meta",     [TREE_OBJECTS] = "objects", [TREE_NOTES] = "notes",
    [TREE_KEYS_A] = "keys.a", [TREE_KEYS_B] = "keys.b",
};

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
    const uint64_t txn_id = snapshot_txn_id(store->reader);
    if (!store->state_loaded || store->state_txn_id != txn_id) {
        store->state_err = record_load_state(store->reader, &store->state);
        store->state_txn_id = txn_id;
        store->state_loaded = store->state_err == OK; /* what was garbled is looked at again */
    }
    *ret_txn_id = txn_id;
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
    *ret = record_version(&store->state);
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
        err = record_get_object(store->reader, KEY_HEAD, kind, &seal, &bytes);
        break;
    case OBJECT_EVIDENCE:
        err = record_get_object(store->reader, KEY_EVIDENCE, kind, &seal, &bytes);
        break;
    case OBJECT_DIRECTORY:
        err = record_get_object(store->reader, KEY_TEAMS, kind, &seal, &bytes);
        break;
    case OBJECT_ARTIFACT: {
        REQUIRE(artifact);
        struct artifact_key key = record_artifact_key(artifact);
        err = record_get_object(store->reader, artifact_span(&key), kind, &seal, &bytes);
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
    enum err err =
        record_get_checked(store->reader, TREE_KEYS_A + store->state.active, hash_span(hash), hash->bytes, &bytes);
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

struct named {
    struct span id;
    struct sha256 hash;
    bool found;
    struct arena arena; /* of one record */
};

/* Decodes only what holds the id's bytes somewhere. */
static bool is_named(void *user, struct span key, struct span value)
{
    struct named *named = user;
    struct key_record *record;
    if (key.len != SHA256_BYTES || value.len < CHECK_BYTES || span_find(value, named->id) == SIZE_MAX)
        return true;
    if (wire_decode_key(&named->arena, span_skip(value, CHECK_BYTES), &record, NULL) == OK &&
        span_eq(record->id, named->id)) {
        memcpy(named->hash.bytes, key.ptr, SHA256_BYTES);
        named->found = true;
    }
    arena_reset(&named->arena);
    return !named->found;
}

enum err tablestore_key_named(struct tablestore *store, struct arena *arena, struct span id, struct key_record **ret)
{
    REQUIRE(store->reader);
    if (store->state_err)
        return store->state_err;
    struct named named = { .id = id };
    arena_init(&named.arena, KEY_ARENA_BYTES);
    enum err err = span_empty(id) ? ERR_NOT_FOUND
                                  : snapshot_each(store->reader, TREE_KEYS_A + store->state.active, SPAN(""), SPAN(""),
                                                  is_named, &named);
    arena_release(&named.arena);
    if (err)
        return err;
    return named.found ? tablestore_key(store, arena, &named.hash, ret) : ERR_NOT_FOUND;
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

/* -- notes -- */

static const uint8_t note_key[16] = "fairlead-note-01"; /* nothing secret */

enum err tablestore_note_get(struct tablestore *store, struct arena *arena, struct span name, struct span *ret)
{
    struct snapshot_txn *txn = store->reader;
    struct span bytes;
    enum err err = txn ? OK : snapshot_read_begin(store->snapshot, &txn);
    if (err)
        return err;
    err = record_get_checked(txn, TREE_NOTES, name, note_key, &bytes);
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
    err = record_put_checked(txn, TREE_NOTES, name, note_key, value);
    if (err) {
        snapshot_abort(txn);
        return err;
    }
    return snapshot_commit(txn);
}
