#include "controlplane/publish/versions.h"
#include "controlplane/publish/versions_internal.h"
#include "proto/wire.h"

static const struct span teams_key = { .ptr = "teams", .len = 5 };
static const struct span teams_bundle_key = { .ptr = "bundle", .len = 6 };

/* Raises the directory's sequence, journals what changed, and forgets what is too old. */
static enum err journal(struct versions *v, struct span what, uint64_t *ret_seq)
{
    uint64_t seq = 0;
    char key[8];
    enum err err = versions_number_next(v, "directory", &seq);
    if (err)
        return err;
    snapshot_key_u64(seq, key);
    err = snapshot_put(v->txn, TREE_JOURNAL, span_of(key, sizeof(key)), what);
    if (!err && seq > VERSIONS_JOURNAL_MAX) {
        snapshot_key_u64(seq - VERSIONS_JOURNAL_MAX, key);
        err = snapshot_delete(v->txn, TREE_JOURNAL, span_of(key, sizeof(key)));
        if (err == ERR_NOT_FOUND)
            err = OK;
    }
    if (!err)
        *ret_seq = seq;
    return err;
}

enum err versions_teams_put(struct versions *v, struct teams *teams, struct span bundle)
{
    struct buf bytes = BUF_INIT(TEAMS_BYTES_MAX);
    enum err err = journal(v, teams_key, &teams->seq);
    if (!err)
        err = versions_number_get(v, "epoch", &teams->epoch);
    if (!err)
        err = wire_encode_teams(teams, &bytes);
    if (!err)
        err = snapshot_put(v->txn, TREE_TEAMS, teams_key, buf_span(&bytes));
    if (!err)
        err = snapshot_put(v->txn, TREE_TEAMS, teams_bundle_key, bundle);
    buf_release(&bytes);
    return err;
}

enum err versions_teams_get(struct versions *v, struct arena *arena, struct teams **ret, struct span *ret_bundle)
{
    struct span bytes;
    struct teams *teams = NULL;
    enum err err = snapshot_get(v->txn, TREE_TEAMS, teams_key, &bytes);
    if (err == ERR_NOT_FOUND) {
        teams = ARENA_NEW(arena, struct teams);
        if (!teams)
            return ERR_NOMEM;
        if (ret_bundle)
            *ret_bundle = SPAN("");
        *ret = teams;
        return versions_number_get(v, "epoch", &teams->epoch);
    }
    if (!err)
        err = wire_decode_teams(arena, bytes, &teams, NULL);
    if (!err && ret_bundle)
        err = versions_fetch(v, arena, TREE_TEAMS, teams_bundle_key, ret_bundle);
    if (!err)
        *ret = teams;
    return err;
}

/* A hash belongs to one id for ever, and an id to one hash: else a second key of the same text would take the place of a
 * revoked one. */
static enum err check_same_key(struct versions *v, const struct key_record *key, struct span hash)
{
    struct span stored;
    enum err err = snapshot_get(v->txn, TREE_KEY_IDS, key->id, &stored);
    if (err != ERR_NOT_FOUND)
        return err ? err : span_eq(stored, hash) ? OK : ERR_EXISTS;
    err = snapshot_get(v->txn, TREE_KEYS, hash, &stored);
    return err == ERR_NOT_FOUND ? OK : err ? err : ERR_EXISTS;
}

enum err versions_key_put(struct versions *v, const struct key_record *key)
{
    const struct span hash = span_of(key->hash.bytes, SHA256_BYTES);
    struct buf bytes = BUF_INIT(64u << 10);
    uint64_t seq;
    enum err err = check_same_key(v, key, hash);
    if (!err)
        err = wire_encode_key(key, &bytes);
    if (!err)
        err = snapshot_put(v->txn, TREE_KEYS, hash, buf_span(&bytes));
    if (!err)
        err = snapshot_put(v->txn, TREE_KEY_IDS, key->id, hash);
    if (!err)
        err = journal(v, hash, &seq);
    buf_release(&bytes);
    return err;
}

enum err versions_key_by_id(struct versions *v, struct arena *arena, struct span id, struct key_record **ret)
{
    struct span hash, bytes;
    if (span_empty(id) || id.len > SNAPSHOT_KEY_BYTES_MAX)
        return ERR_NOT_FOUND;
    enum err err = versions_fetch(v, arena, TREE_KEY_IDS, id, &hash);
    if (!err)
        err = snapshot_get(v->txn, TREE_KEYS, hash, &bytes);
    return err ? err : wire_decode_key(arena, bytes, ret, NULL);
}

struct keys_walk {
    versions_key_visit *visit;
    void *user;
    struct arena arena; /* one record at a time */
    enum err err;
};

static bool keys_step(void *user, UNUSED struct span hash, struct span value)
{
    struct keys_walk *walk = user;
    struct key_record *key;
    arena_reset(&walk->arena);
    walk->err = wire_decode_key(&walk->arena, value, &key, NULL);
    return !walk->err && walk->visit(walk->user, key);
}

enum err versions_keys_each(struct versions *v, versions_key_visit *visit, void *user)
{
    struct keys_walk walk = { .visit = visit, .user = user };
    arena_init(&walk.arena, 4u << 20);
    enum err err = snapshot_each(v->txn, TREE_KEYS, SPAN(""), SPAN(""), keys_step, &walk);
    arena_release(&walk.arena);
    return err ? err : walk.err;
}

/* ---- what a node lacks ---- */

#define KEYS_BYTES_MAX (FRAME_BYTES_MAX / 8) /* encoded, of one page or delta: with the teams it must fit a frame */

/* A page of a full resync: keys after the cursor, in order of hash. Changes made while the pages travel are journalled
 * after to_seq, and come as a delta. */
struct page {
    struct arena *arena;
    struct span cursor;
    struct directory_delta *delta;
    size_t bytes;
    enum err err;
};

static bool page_step(void *user, struct span hash, struct span value)
{
    struct page *page = user;
    if (!span_empty(page->cursor) && span_eq(hash, page->cursor))
        return true; /* the last one of the page before */
    page->bytes += value.len;
    if (page->delta->key_count == DIRECTORY_PAGE_KEYS || page->bytes > KEYS_BYTES_MAX) {
        page->delta->more = true;
        return false;
    }
    struct key_record *key;
    page->err = wire_decode_key(page->arena, value, &key, NULL);
    if (page->err)
        return false;
    page->delta->keys[page->delta->key_count++] = *key;
    return true;
}

static enum err full_page(struct versions *v, struct arena *arena, struct span cursor, struct directory_delta *delta)
{
    struct page page = { .arena = arena, .cursor = cursor, .delta = delta };
    delta->full = true;
    delta->keys = ARENA_ARRAY(arena, DIRECTORY_PAGE_KEYS, struct key_record);
    if (!delta->keys)
        return ERR_NOMEM;
    enum err err = snapshot_each(v->txn, TREE_KEYS, SPAN(""), cursor, page_step, &page);
    return err ? err : page.err;
}

struct changes {
    struct versions *v;
    struct arena *arena;
    struct directory_delta *delta;
    uint32_t capacity;
    size_t bytes;
    enum err err;
};

static bool changes_step(void *user, UNUSED struct span seq, struct span what)
{
    struct changes *changes = user;
    struct directory_delta *delta = changes->delta;
    if (span_eq(what, teams_key)) {
        delta->has_teams = true;
        return true;
    }
    for (uint32_t i = 0; i < delta->key_count; i++) { /* deltas are short: what changed since a poll ago */
        if (span_eq(span_of(delta->keys[i].hash.bytes, SHA256_BYTES), what))
            return true;
    }
    if (delta->key_count == changes->capacity) {
        changes->err = ERR_TOO_MANY;
        return false;
    }
    struct span bytes;
    struct key_record *key;
    changes->err = snapshot_get(changes->v->txn, TREE_KEYS, what, &bytes);
    changes->bytes += changes->err ? 0 : bytes.len;
    if (changes->bytes > KEYS_BYTES_MAX)
        changes->err = ERR_TOO_MANY;
    if (!changes->err)
        changes->err = wire_decode_key(changes->arena, bytes, &key, NULL);
    if (changes->err)
        return false;
    delta->keys[delta->key_count++] = *key;
    return true;
}

#define DELTA_KEYS_MAX 2000u /* a node further behind takes pages instead: keeps the duplicate check above short */

static enum err since_journal(struct versions *v, struct arena *arena, uint64_t node_seq, struct directory_delta *delta)
{
    char from[8];
    struct span first;
    struct changes changes = { .v = v, .arena = arena, .delta = delta, .capacity = DELTA_KEYS_MAX };
    snapshot_key_u64(node_seq + 1, from);
    enum err err = snapshot_get(v->txn, TREE_JOURNAL, span_of(from, sizeof(from)), &first);
    if (err)
        return err; /* ERR_NOT_FOUND: forgotten already */
    delta->keys = ARENA_ARRAY(arena, DELTA_KEYS_MAX, struct key_record);
    if (!delta->keys)
        return ERR_NOMEM;
    delta->from_seq = node_seq;
    err = snapshot_each(v->txn, TREE_JOURNAL, SPAN(""), span_of(from, sizeof(from)), changes_step, &changes);
    return err ? err : changes.err;
}

enum err versions_directory_since(struct versions *v, struct arena *arena, uint64_t node_epoch, uint64_t node_seq,
                                  struct span cursor, uint64_t resync_seq, struct directory_delta **ret)
{
    struct versions_numbers n;
    enum err err = versions_numbers(v, &n);
    if (err)
        return err;
    struct directory_delta *delta = ARENA_NEW(arena, struct directory_delta);
    if (!delta)
        return ERR_NOMEM;
    delta->epoch = n.epoch;
    delta->to_seq = n.directory_seq;
    const bool same_epoch = node_epoch == n.epoch;
    if (resync_seq == 0 && same_epoch && node_seq == n.directory_seq)
        return ERR_NOT_FOUND;
    err = ERR_NOT_FOUND;
    if (resync_seq == 0 && same_epoch && node_seq > 0 && node_seq < n.directory_seq)
        err = since_journal(v, arena, node_seq, delta);
    if (err == ERR_NOT_FOUND || err == ERR_TOO_MANY) {
        *delta = (struct directory_delta){ .epoch = n.epoch, .to_seq = n.directory_seq };
        const bool resumes = resync_seq != 0 && resync_seq <= n.directory_seq && cursor.len == SHA256_BYTES;
        if (resumes)
            delta->to_seq = resync_seq;
        err = full_page(v, arena, resumes ? cursor : SPAN(""), delta);
        delta->has_teams = true;
    }
    if (!err && delta->has_teams) {
        struct teams *teams;
        err = versions_teams_get(v, arena, &teams, NULL);
        if (!err)
            delta->teams = *teams;
    }
    if (!err)
        *ret = delta;
    return err;
}
