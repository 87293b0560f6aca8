#include "proto/tablestore_record.h"
#include "common/fault.h"

static const uint8_t seal_key[16] = "fairlead-store-1"; /* nothing secret */

static uint64_t seal_check(const struct seal *seal)
{
    return siphash24(seal_key, span_of(seal, offsetof(struct seal, check)));
}

enum err record_put_sealed(struct snapshot_txn *txn, unsigned tree, struct span key, struct seal seal,
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

enum err record_get_object(struct snapshot_txn *txn, struct span key, enum object_kind kind, struct seal *ret,
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

enum err record_load_state(struct snapshot_txn *txn, struct state *ret)
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

enum err record_store_state(struct snapshot_txn *txn, const struct state *state)
{
    struct span bytes = span_of(state, sizeof *state);
    struct seal seal = { .kind = RECORD_STATE, .schema = STORE_LAYOUT, .hash = sha256_of(bytes) };
    return record_put_sealed(txn, TREE_META, KEY_STATE, seal, bytes);
}

struct table_version record_version(const struct state *state)
{
    return (struct table_version){
        .epoch = state->epoch,
        .generation = state->generation,
        .evidence_seq = state->evidence_epoch == state->epoch ? state->evidence_seq : 0,
        .directory_seq = state->directory_epoch == state->epoch ? state->directory_seq : 0,
    };
}

struct artifact_key record_artifact_key(const struct sha256 *hash)
{
    struct artifact_key key;
    memcpy(key.bytes, ARTIFACT_PREFIX, sizeof ARTIFACT_PREFIX - 1);
    memcpy(key.bytes + sizeof ARTIFACT_PREFIX - 1, hash->bytes, SHA256_BYTES);
    return key;
}

enum err record_put_checked(struct snapshot_txn *txn, unsigned tree, struct span key, const uint8_t hash_key[16],
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

enum err record_get_checked(struct snapshot_txn *txn, unsigned tree, struct span key, const uint8_t hash_key[16],
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
