#include "controlplane/publish/versions.h"
#include "controlplane/publish/versions_internal.h"
#include "common/fault.h"
#include "common/json.h"
#include "proto/wire.h"

static const char *const tree_names[TREE_COUNT] = {
    [TREE_META] = "meta",       [TREE_VERSIONS] = "versions",   [TREE_BUNDLES] = "bundles",
    [TREE_HASHES] = "hashes",   [TREE_ARTIFACTS] = "artifacts", [TREE_HEADS] = "heads",
    [TREE_TEAMS] = "teams",     [TREE_KEYS] = "keys",           [TREE_KEY_IDS] = "key_ids",
    [TREE_JOURNAL] = "journal", [TREE_ANSWERS] = "answers",     [TREE_ARRIVALS] = "arrivals",
    [TREE_AUDIT] = "audit",     [TREE_BLOBS] = "blobs",
};
static const char *const state_names[] = {
    [VERSION_STORED] = "stored",
    [VERSION_LIVE] = "live",
    [VERSION_RETIRED] = "retired",
    [VERSION_ROLLED_BACK] = "rolled_back",
};

#define RECORD_BYTES_MAX (64u << 10) /* author and message are bounded by the service; this is a backstop */

enum err versions_open(const char *dir, struct versions **ret)
{
    struct versions *v = fault_calloc(1, sizeof(*v));
    if (!v)
        return ERR_NOMEM;
    const struct snapshot_options options = { .path = dir, .trees = tree_names, .tree_count = TREE_COUNT };
    enum err err = snapshot_open(&options, &v->snapshot);
    if (err) {
        free(v);
        return err;
    }
    snapshot_check_readers(v->snapshot);
    uint64_t epoch = 0;
    err = versions_begin(v, true);
    if (!err)
        err = versions_number_get(v, "epoch", &epoch);
    if (!err && epoch == 0) {
        err = versions_number_put(v, "epoch", 1);
        if (!err)
            err = versions_commit(v);
    }
    versions_abort(v);
    if (err) {
        versions_close(v);
        return err;
    }
    *ret = v;
    return OK;
}

void versions_close(struct versions *v)
{
    if (!v)
        return;
    versions_abort(v);
    snapshot_close(v->snapshot);
    free(v);
}

struct snapshot *versions_snapshot(struct versions *v)
{
    return v->snapshot;
}

enum err versions_begin(struct versions *v, bool write)
{
    REQUIRE(!v->txn);
    v->writing = write;
    return write ? snapshot_write_begin(v->snapshot, &v->txn) : snapshot_read_begin(v->snapshot, &v->txn);
}

enum err versions_commit(struct versions *v)
{
    REQUIRE(v->txn && v->writing);
    struct snapshot_txn *txn = v->txn;
    v->txn = NULL;
    return snapshot_commit(txn);
}

void versions_abort(struct versions *v)
{
    if (!v->txn)
        return;
    if (v->writing)
        snapshot_abort(v->txn);
    else
        snapshot_read_end(v->txn);
    v->txn = NULL;
}

/* ---- numbers ---- */

enum err versions_number_get(struct versions *v, const char *name, uint64_t *ret)
{
    struct span value;
    enum err err = snapshot_get(v->txn, TREE_META, span_cstr(name), &value);
    if (err == ERR_NOT_FOUND) {
        *ret = 0;
        return OK;
    }
    return err ? err : snapshot_key_to_u64(value, ret);
}

enum err versions_number_put(struct versions *v, const char *name, uint64_t number)
{
    char bytes[8];
    snapshot_key_u64(number, bytes);
    return snapshot_put(v->txn, TREE_META, span_cstr(name), span_of(bytes, sizeof(bytes)));
}

enum err versions_number_next(struct versions *v, const char *name, uint64_t *ret)
{
    uint64_t number = 0;
    enum err err = versions_number_get(v, name, &number);
    if (err)
        return err;
    err = versions_number_put(v, name, number + 1);
    if (!err)
        *ret = number + 1;
    return err;
}

enum err versions_numbers(struct versions *v, struct versions_numbers *ret)
{
    struct versions_numbers n = { 0 };
    uint64_t version_last = 0;
    const struct {
        const char *name;
        uint64_t *at;
    } rows[] = {
        { "epoch", &n.epoch },
        { "generation", &n.generation },
        { "directory", &n.directory_seq },
        { "audit", &n.audit_seq },
        { "evidence", &n.evidence_reserved },
        { "version", &version_last },
        { "adopt_all_epoch", &n.adopt_all_epoch },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        enum err err = versions_number_get(v, rows[i].name, rows[i].at);
        if (err)
            return err;
    }
    n.version_last = (uint32_t)version_last;
    *ret = n;
    return OK;
}

enum err versions_reserve_evidence(struct versions *v, uint64_t count, uint64_t *ret_first)
{
    uint64_t reserved = 0;
    enum err err = versions_number_get(v, "evidence", &reserved);
    if (!err)
        err = versions_number_put(v, "evidence", reserved + count);
    if (!err)
        *ret_first = reserved + 1;
    return err;
}

enum err versions_raise_epoch(struct versions *v)
{
    uint64_t epoch;
    return versions_number_next(v, "epoch", &epoch);
}

enum err versions_adopt_all(struct versions *v)
{
    uint64_t epoch;
    const enum err err = versions_number_get(v, "epoch", &epoch);
    return err ? err : versions_number_put(v, "adopt_all_epoch", epoch);
}

enum err versions_fetch(struct versions *v, struct arena *arena, enum tree tree, struct span key, struct span *ret)
{
    struct span value;
    enum err err = snapshot_get(v->txn, tree, key, &value);
    if (err)
        return err;
    struct span copy = arena_dup(arena, value);
    if (!copy.ptr)
        return ERR_NOMEM;
    *ret = copy;
    return OK;
}

static enum err put_at(struct versions *v, enum tree tree, uint64_t number, struct span value)
{
    char key[8];
    snapshot_key_u64(number, key);
    return snapshot_put(v->txn, tree, span_of(key, sizeof(key)), value);
}

static enum err fetch_at(struct versions *v, struct arena *arena, enum tree tree, uint64_t number, struct span *ret)
{
    char key[8];
    snapshot_key_u64(number, key);
    return versions_fetch(v, arena, tree, span_of(key, sizeof(key)), ret);
}

/* ---- versions ---- */

static enum err record_encode(const struct version_record *r, struct buf *out)
{
    struct json_writer w;
    char hex[SHA256_HEX + 1];
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_u64(&w, "version", r->version);
    json_member_cstr(&w, "state", state_names[r->state]);
    json_member_string(&w, "policy_hash", r->policy_hash);
    json_member_cstr(&w, "artifact", hex_encode(r->artifact.bytes, SHA256_BYTES, hex));
    json_member_string(&w, "author", r->author);
    json_member_string(&w, "message", r->message);
    json_member_i64(&w, "created_at_ms", r->created_at_ms);
    json_member_i64(&w, "full_at_ms", r->full_at_ms);
    json_member_u64(&w, "full_generation", r->full_generation);
    json_member_u64(&w, "book_version", r->book_version);
    json_object_close(&w);
    return json_writer_end(&w);
}

static bool read_text(struct arena *arena, const struct json_index *ix, const char *name, struct span *ret)
{
    uint32_t token = json_get(ix, 0, span_cstr(name));
    struct span text;
    if (token == JSON_NONE || json_string(arena, ix, token, &text))
        return false;
    *ret = arena_dup(arena, text);
    return ret->ptr != NULL;
}

static bool read_number(const struct json_index *ix, const char *name, int64_t *ret)
{
    uint32_t token = json_get(ix, 0, span_cstr(name));
    return token != JSON_NONE && json_i64(ix, token, ret) == OK;
}

static enum err record_decode(struct arena *arena, struct span json, struct version_record **ret)
{
    struct json_index ix;
    struct version_record *r = ARENA_NEW(arena, struct version_record);
    if (!r)
        return ERR_NOMEM;
    enum err err = json_index(arena, json, &json_limits_default, &ix, NULL);
    if (err)
        return err == ERR_NOMEM ? err : ERR_CORRUPT;
    struct span state, artifact;
    int64_t version, full_generation, book;
    if (!read_number(&ix, "version", &version) || !read_text(arena, &ix, "state", &state) ||
        !read_text(arena, &ix, "policy_hash", &r->policy_hash) || !read_text(arena, &ix, "artifact", &artifact) ||
        !read_text(arena, &ix, "author", &r->author) || !read_text(arena, &ix, "message", &r->message) ||
        !read_number(&ix, "created_at_ms", &r->created_at_ms) || !read_number(&ix, "full_at_ms", &r->full_at_ms) ||
        !read_number(&ix, "full_generation", &full_generation) || !read_number(&ix, "book_version", &book) ||
        hex_decode(artifact, r->artifact.bytes, SHA256_BYTES) || version < 1 || version > UINT32_MAX)
        return ERR_CORRUPT;
    r->version = (uint32_t)version;
    r->full_generation = (uint64_t)full_generation;
    r->book_version = (uint64_t)book;
    for (size_t i = 0; i < ARRAY_LEN(state_names); i++) {
        if (span_eq(state, span_cstr(state_names[i]))) {
            r->state = (enum version_state)i;
            *ret = r;
            return OK;
        }
    }
    return ERR_CORRUPT;
}

/* Policy hash followed by the version: the last entry with the hash as prefix is its newest version. */
static enum err hash_key(const struct version_record *r, char *out, size_t out_bytes, struct span *ret)
{
    if (r->policy_hash.len > out_bytes - 8)
        return ERR_TOO_LARGE;
    memcpy(out, r->policy_hash.ptr, r->policy_hash.len);
    snapshot_key_u64(r->version, out + r->policy_hash.len);
    *ret = span_of(out, r->policy_hash.len + 8);
    return OK;
}

enum err versions_add(struct versions *v, struct version_record *record)
{
    uint64_t number = 0;
    char key_bytes[160];
    struct span key;
    enum err err = versions_number_next(v, "version", &number);
    if (err)
        return err;
    if (number > UINT32_MAX)
        return ERR_TOO_MANY;
    record->version = (uint32_t)number;
    err = put_at(v, TREE_BUNDLES, number, record->bundle);
    if (!err)
        err = hash_key(record, key_bytes, sizeof(key_bytes), &key);
    if (!err)
        err = snapshot_put(v->txn, TREE_HASHES, key, SPAN(""));
    return err ? err : versions_update(v, record);
}

enum err versions_update(struct versions *v, const struct version_record *record)
{
    struct buf json = BUF_INIT(RECORD_BYTES_MAX);
    enum err err = record_encode(record, &json);
    if (!err)
        err = put_at(v, TREE_VERSIONS, record->version, buf_span(&json));
    buf_release(&json);
    return err;
}

enum err versions_get(struct versions *v, struct arena *arena, uint32_t version, bool with_bundle,
                      struct version_record **ret)
{
    struct span json;
    struct version_record *r;
    enum err err = fetch_at(v, arena, TREE_VERSIONS, version, &json);
    if (!err)
        err = record_decode(arena, json, &r);
    if (!err && with_bundle)
        err = fetch_at(v, arena, TREE_BUNDLES, version, &r->bundle);
    if (!err)
        *ret = r;
    return err;
}

struct newest {
    uint64_t version;
    size_t prefix_len;
};

static bool keep_newest(void *user, struct span key, UNUSED struct span value)
{
    struct newest *newest = user;
    uint64_t version;
    if (key.len == newest->prefix_len + 8 && !snapshot_key_to_u64(span_skip(key, newest->prefix_len), &version))
        newest->version = version;
    return true;
}

enum err versions_find_hash(struct versions *v, struct arena *arena, struct span policy_hash,
                            struct version_record **ret)
{
    struct newest newest = { .prefix_len = policy_hash.len };
    if (policy_hash.len == 0)
        return ERR_NOT_FOUND;
    enum err err = snapshot_each(v->txn, TREE_HASHES, policy_hash, policy_hash, keep_newest, &newest);
    if (err)
        return err;
    return newest.version ? versions_get(v, arena, (uint32_t)newest.version, false, ret) : ERR_NOT_FOUND;
}

enum err versions_list(struct versions *v, struct arena *arena, struct version_record **ret, uint32_t *ret_count)
{
    struct versions_numbers n;
    enum err err = versions_numbers(v, &n);
    if (err)
        return err;
    struct version_record *all = ARENA_ARRAY(arena, n.version_last ? n.version_last : 1, struct version_record);
    if (!all)
        return ERR_NOMEM;
    uint32_t count = 0;
    for (uint32_t version = n.version_last; version > 0; version--) {
        struct version_record *r;
        err = versions_get(v, arena, version, false, &r);
        if (err)
            return err;
        all[count++] = *r;
    }
    *ret = all;
    *ret_count = count;
    return OK;
}

enum err versions_artifact_put(struct versions *v, const struct sha256 *hash, struct span bytes)
{
    return snapshot_put(v->txn, TREE_ARTIFACTS, span_of(hash->bytes, SHA256_BYTES), bytes);
}

enum err versions_artifact_get(struct versions *v, struct arena *arena, const struct sha256 *hash, struct span *ret)
{
    struct span bytes;
    enum err err = versions_fetch(v, arena, TREE_ARTIFACTS, span_of(hash->bytes, SHA256_BYTES), &bytes);
    if (err)
        return err;
    const struct sha256 now = sha256_of(bytes);
    if (!sha256_eq(&now, hash))
        return ERR_CORRUPT;
    *ret = bytes;
    return OK;
}

/* ---- heads ---- */

enum err versions_head_put(struct versions *v, struct head *head)
{
    struct buf bytes = BUF_INIT(HEAD_BYTES_MAX);
    uint64_t generation = 0;
    enum err err = versions_number_get(v, "epoch", &head->epoch);
    if (!err)
        err = versions_number_next(v, "generation", &generation);
    head->generation = generation;
    if (!err)
        err = wire_encode_head(head, &bytes);
    if (!err)
        err = put_at(v, TREE_HEADS, generation, buf_span(&bytes));
    buf_release(&bytes);
    if (!err && generation > VERSIONS_HEADS_MAX) {
        char key[8];
        snapshot_key_u64(generation - VERSIONS_HEADS_MAX, key);
        err = snapshot_delete(v->txn, TREE_HEADS, span_of(key, sizeof(key)));
        if (err == ERR_NOT_FOUND)
            err = OK;
    }
    return err;
}

static enum err head_bytes_at(struct versions *v, struct arena *arena, uint64_t generation, struct span *ret)
{
    if (generation == 0) {
        enum err err = versions_number_get(v, "generation", &generation);
        if (err)
            return err;
        if (generation == 0)
            return ERR_NOT_FOUND;
    }
    return fetch_at(v, arena, TREE_HEADS, generation, ret);
}

enum err versions_head_get(struct versions *v, struct arena *arena, uint64_t generation, struct head **ret)
{
    struct span bytes;
    enum err err = head_bytes_at(v, arena, generation, &bytes);
    return err ? err : wire_decode_head(arena, bytes, ret, NULL);
}

enum err versions_head_bytes(struct versions *v, struct arena *arena, struct span *ret)
{
    return head_bytes_at(v, arena, 0, ret);
}

/* ---- answers, audit, blobs ---- */

enum err versions_answer_get(struct versions *v, struct arena *arena, struct span request_id, struct span *ret)
{
    struct span value;
    enum err err = versions_fetch(v, arena, TREE_ANSWERS, request_id, &value);
    if (!err)
        *ret = span_skip(value, 8);
    return err;
}

/* Deletes the answer that arrived with this number, and takes its length off *bytes. */
static enum err forget_answer(struct versions *v, uint64_t arrival, uint64_t *bytes)
{
    char number[8];
    char id[SNAPSHOT_KEY_BYTES_MAX];
    struct span key = span_of(number, sizeof(number));
    struct span stored, answer;
    snapshot_key_u64(arrival, number);
    enum err err = snapshot_get(v->txn, TREE_ARRIVALS, key, &stored);
    if (err)
        return err == ERR_NOT_FOUND ? OK : err;
    /* A value dies with the next write of its transaction. */
    const size_t id_len = size_min(stored.len, sizeof(id));
    memcpy(id, stored.ptr, id_len);
    err = snapshot_get(v->txn, TREE_ANSWERS, span_of(id, id_len), &answer);
    if (!err) {
        *bytes -= answer.len < *bytes ? answer.len : *bytes;
        err = snapshot_delete(v->txn, TREE_ANSWERS, span_of(id, id_len));
    }
    if (!err || err == ERR_NOT_FOUND)
        err = snapshot_delete(v->txn, TREE_ARRIVALS, key);
    return err;
}

/* Oldest first, until number and bytes are within their bounds; the one that has just come (`last`) stays. */
static enum err forget_old_answers(struct versions *v, uint64_t last, uint64_t added)
{
    uint64_t oldest, bytes;
    enum err err = versions_number_get(v, "answers_oldest", &oldest);
    if (!err)
        err = versions_number_get(v, "answers_bytes", &bytes);
    if (err)
        return err;
    bytes += added;
    for (; !err && oldest < last && (last - oldest >= VERSIONS_ANSWERS_MAX || bytes > VERSIONS_ANSWERS_BYTES_MAX);
         oldest++)
        err = forget_answer(v, oldest, &bytes);
    if (!err)
        err = versions_number_put(v, "answers_oldest", oldest);
    return err ? err : versions_number_put(v, "answers_bytes", bytes);
}

enum err versions_answer_put(struct versions *v, struct span request_id, struct span answer)
{
    if (span_empty(request_id) || request_id.len > SNAPSHOT_KEY_BYTES_MAX)
        return ERR_INVALID;
    uint64_t arrival = 0;
    char number[8];
    struct buf value = BUF_INIT((size_t)ADMIN_RESULT_BYTES_MAX + FRAME_BYTES_MAX);
    enum err err = versions_number_next(v, "arrival", &arrival);
    snapshot_key_u64(arrival, number);
    if (!err)
        err = buf_append(&value, span_of(number, sizeof(number)));
    if (!err)
        err = buf_append(&value, answer);
    if (!err)
        err = snapshot_put(v->txn, TREE_ANSWERS, request_id, buf_span(&value));
    if (!err)
        err = put_at(v, TREE_ARRIVALS, arrival, request_id);
    if (!err)
        err = forget_old_answers(v, arrival, value.len);
    buf_release(&value);
    return err;
}

enum err versions_audit_put(struct versions *v, struct span json)
{
    uint64_t seq = 0;
    enum err err = versions_number_next(v, "audit", &seq);
    return err ? err : put_at(v, TREE_AUDIT, seq, json);
}

struct audit_walk {
    versions_audit_visit *visit;
    void *user;
};

static bool audit_step(void *user, struct span key, struct span value)
{
    const struct audit_walk *walk = user;
    uint64_t seq;
    return snapshot_key_to_u64(key, &seq) != OK || walk->visit(walk->user, seq, value);
}

enum err versions_audit_each(struct versions *v, uint64_t from_seq, versions_audit_visit *visit, void *user)
{
    char key[8];
    struct audit_walk walk = { .visit = visit, .user = user };
    snapshot_key_u64(from_seq, key);
    return snapshot_each(v->txn, TREE_AUDIT, SPAN(""), span_of(key, sizeof(key)), audit_step, &walk);
}

enum err versions_blob_get(struct versions *v, struct arena *arena, struct span name, struct span *ret)
{
    return versions_fetch(v, arena, TREE_BLOBS, name, ret);
}

enum err versions_blob_put(struct versions *v, struct span name, struct span bytes)
{
    return snapshot_put(v->txn, TREE_BLOBS, name, bytes);
}
