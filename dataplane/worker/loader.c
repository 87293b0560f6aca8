#include "dataplane/worker/loader.h"
#include "common/fault.h"
#include "common/log.h"
#include "proto/wire.h"

#define KEY_ARENA_BYTES  (1u << 20)  /* a decoded key record */
#define KEY_KEPT_BYTES   (16u << 10) /* a larger one is not kept for the next request: few are, and they add up */
#define HEAD_ARENA_BYTES (16u << 20) /* a decoded head with all its overrides; bounds what a bad one can cost */

static uint32_t find_label(void *user, unsigned kind, struct span name)
{
    return board_label_find(user, (enum board_label_kind)kind, name);
}

enum err loader_init(struct loader *loader, const char *store_path, struct board *board,
                     const struct loader_events *events)
{
    size_t bytes = strlen(store_path) + 1;
    char *path = fault_malloc(bytes);
    if (!path)
        return ERR_NOMEM;
    memcpy(path, store_path, bytes);
    *loader = (struct loader){ .store_path = path, .labels = { .find = find_label, .user = board }, .events = *events };
    return OK;
}

/* A record as it stood in one transaction. Counted: requests go on using what is known no more. */
struct known_key {
    unsigned users;
    uint64_t txn_id;
    struct key_record *record; /* in arena */
    struct arena arena;
};

static void known_unuse(void *object)
{
    struct known_key *known = object;
    if (--known->users > 0)
        return;
    arena_release(&known->arena);
    free(known);
}

void loader_release(struct loader *loader)
{
    table_unref(loader->table);
    if (loader->teams)
        teams_view_unref(loader->teams);
    for (size_t i = 0; i < ARRAY_LEN(loader->cache); i++)
        if (loader->cache[i].compiled)
            compiled_unref(loader->cache[i].compiled);
    for (size_t i = 0; i < LOADER_KEYS_KNOWN; i++)
        if (loader->known[i])
            known_unuse(loader->known[i]);
    if (loader->store)
        tablestore_close(loader->store);
    free(loader->store_path);
    *loader = (struct loader){ .store_path = NULL };
}

static enum err compiled_by_hash(struct loader *loader, const struct sha256 *hash, struct compiled **ret,
                                 const char **ret_why)
{
    size_t oldest = 0;
    for (size_t i = 0; i < ARRAY_LEN(loader->cache); i++) {
        if (loader->cache[i].compiled && sha256_eq(&loader->cache[i].hash, hash)) {
            loader->cache[i].used = ++loader->uses;
            *ret = loader->cache[i].compiled;
            return OK;
        }
        if (loader->cache[i].used < loader->cache[oldest].used)
            oldest = i;
    }
    struct span bytes;
    struct compiled *compiled = NULL;
    enum err err = tablestore_object(loader->store, OBJECT_ARTIFACT, hash, &bytes);
    if (err == OK)
        err = compiled_new(bytes, &loader->labels, &compiled, ret_why);
    if (err)
        return err;
    if (loader->cache[oldest].compiled)
        compiled_unref(loader->cache[oldest].compiled);
    loader->cache[oldest].compiled = compiled;
    loader->cache[oldest].hash = *hash;
    loader->cache[oldest].used = ++loader->uses;
    *ret = compiled;
    return OK;
}

/* Teams change rarely, the directory's sequence with every key: the layer is rebuilt when its bytes differ. */
static enum err refresh_teams(struct loader *loader, const char **ret_why)
{
    struct span bytes;
    struct buf none = BUF_INIT(4096);
    enum err err = tablestore_object(loader->store, OBJECT_DIRECTORY, NULL, &bytes);
    if (err == ERR_NOT_FOUND) {
        err = wire_encode_teams(&(struct teams){ .epoch = 0 }, &none);
        bytes = buf_span(&none);
    }
    struct sha256 hash = { .bytes = { 0 } };
    if (err == OK)
        hash = sha256_of(bytes);
    if (err == OK && !(loader->teams && sha256_eq(&hash, &loader->teams_hash))) {
        struct teams_view *teams = NULL;
        err = teams_view_new(bytes, &loader->labels, &teams, ret_why);
        if (err == OK) {
            if (loader->teams)
                teams_view_unref(loader->teams);
            loader->teams = teams;
            loader->teams_hash = hash;
        }
    }
    buf_release(&none);
    return err;
}

/* *ret stays NULL when no head was ever stored. */
static enum err build(struct loader *loader, const struct table_version *version, struct table **ret,
                      const char **ret_why)
{
    enum err err = refresh_teams(loader, ret_why);
    struct span head_bytes, evidence_bytes = SPAN("");
    if (err == OK)
        err = tablestore_object(loader->store, OBJECT_HEAD, NULL, &head_bytes);
    if (err)
        return err == ERR_NOT_FOUND ? OK : err;
    err = tablestore_object(loader->store, OBJECT_EVIDENCE, NULL, &evidence_bytes);
    if (err == ERR_NOT_FOUND)
        err = OK;
    struct arena arena;
    arena_init(&arena, HEAD_ARENA_BYTES);
    struct head *head = NULL;
    struct compiled *compiled[ARTIFACTS_KEPT] = { NULL };
    uint32_t count = 0;
    if (err == OK)
        err = wire_decode_head(&arena, head_bytes, &head, ret_why);
    if (err == OK && head->arm_count > ARTIFACTS_KEPT)
        err = ERR_TOO_MANY;
    for (; err == OK && count < head->arm_count; count++)
        err = compiled_by_hash(loader, &head->arms[count].artifact, &compiled[count], ret_why);
    if (err == OK)
        err = table_new(head_bytes, evidence_bytes, compiled, count, loader->teams, version, ret, ret_why);
    if (err && *ret_why) /* it may lie in the arena */
        log_warn("table.refused", LOG_ERR(err), LOG_STR("why", *ret_why));
    if (err)
        *ret_why = err_name(err);
    arena_release(&arena);
    return err;
}

static bool same_version(const struct table_version *a, const struct table_version *b)
{
    return a->epoch == b->epoch && a->generation == b->generation && a->evidence_seq == b->evidence_seq &&
           a->directory_seq == b->directory_seq;
}

/* Within a read transaction whose id differs from the one looked at last. */
static void take(struct loader *loader, uint64_t txn_id)
{
    struct table_version version = { .epoch = 0 };
    struct table *table = NULL;
    const char *why = NULL;
    loader->txn_id = txn_id;
    loader->looked = true;
    enum err err = tablestore_version(loader->store, &version);
    if (err == OK && same_version(&version, &loader->version))
        return;
    if (err == OK && (version.generation != loader->version.generation || version.epoch != loader->version.epoch) &&
        fault_hit(FAULT_CRASH_TABLE))
        abort(); /* a table that kills its worker, on demand */
    if (err == OK)
        err = build(loader, &version, &table, &why);
    if (err == ERR_NOMEM || err == ERR_IO || err == ERR_TIMEOUT) {
        loader->looked = false; /* not the table's fault: tried again at the next look */
        log_warn("table.postponed", LOG_U64("generation", version.generation), LOG_ERR(err));
        return;
    }
    if (err) {
        loader->errors++;
        log_error("table.bad", LOG_U64("epoch", version.epoch), LOG_U64("generation", version.generation), LOG_ERR(err),
                  LOG_STR("why", why ? why : ""));
        loader->events.bad(loader->events.user, &version, why ? why : err_name(err));
        return;
    }
    table_unref(loader->table);
    loader->table = table;
    loader->version = version;
    loader->switches++;
    loader->events.serving(loader->events.user, &version);
}

static enum err begin(struct loader *loader)
{
    uint64_t txn_id = 0;
    if (!loader->store) {
        enum err err = tablestore_open(loader->store_path, true, &loader->store);
        if (err) {
            loader->store = NULL;
            return err == ERR_NOT_FOUND ? ERR_AGAIN : err;
        }
    }
    enum err err = tablestore_begin(loader->store, &txn_id);
    if (err == OK && (!loader->looked || txn_id != loader->txn_id))
        take(loader, txn_id);
    return err;
}

void loader_refresh(struct loader *loader)
{
    enum err err = begin(loader);
    if (err == OK)
        tablestore_end(loader->store);
    else if (err != ERR_AGAIN) {
        loader->errors++;
        log_error("store.unreadable", LOG_ERR(err));
    }
}

static enum err known_read(struct loader *loader, const struct sha256 *hash, struct known_key **ret)
{
    struct known_key *known = fault_calloc(1, sizeof(*known));
    if (!known)
        return ERR_NOMEM;
    known->users = 1;
    known->txn_id = loader->txn_id;
    arena_init(&known->arena, KEY_ARENA_BYTES);
    enum err err = tablestore_key(loader->store, &known->arena, hash, &known->record);
    if (err)
        known_unuse(known);
    else
        *ret = known;
    return err;
}

/* What is known spares a key that asks again the tree, the check and the decoding: 6,000 instructions. A revocation is a
 * commit, and after any commit nothing is known. */
enum err loader_key(struct loader *loader, struct arena *arena, const struct sha256 *hash, struct key_record **ret)
{
    struct known_key **slot = &loader->known[hash->bytes[0] % LOADER_KEYS_KNOWN], *known = *slot;
    enum err err = begin(loader);
    if (err)
        return err;
    if (known && known->txn_id == loader->txn_id && sha256_eq(&known->record->hash, hash))
        known->users++;
    else
        err = known_read(loader, hash, &known);
    tablestore_end(loader->store);
    if (err)
        return err;
    if (known != *slot && known->arena.held <= KEY_KEPT_BYTES) {
        if (*slot)
            known_unuse(*slot);
        *slot = known;
        known->users++;
    }
    err = arena_defer(arena, known_unuse, known);
    if (err)
        known_unuse(known);
    else
        *ret = known->record;
    return err;
}
