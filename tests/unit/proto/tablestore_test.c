#include "proto/tablestore.h"
#include "proto/wire.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <unistd.h>

#define EPOCH 1

struct fixture {
    char dir[64];
    struct tablestore *store;
    struct arena arena;
    int64_t now_ms;
};

static uint64_t no_time(void *user)
{
    (void)user;
    return 0;
}

static int64_t fixture_time(void *user)
{
    return ((struct fixture *)user)->now_ms;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir,
                   "/dev/shm/fairlead-tables-XXXXXX"); /* what the disk does is the snapshot's test */
    assert_non_null(mkdtemp(f->dir));
    arena_init(&f->arena, 256u << 20);
    f->now_ms = 1000000;
    clock_replace(&(struct clock_source){ .monotonic_ns = no_time, .wall_ms = fixture_time, .user = f });
    assert_int_equal(tablestore_open(f->dir, false, &f->store), OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fault_disarm_all();
    clock_replace(NULL);
    tablestore_close(f->store);
    arena_release(&f->arena);
    static const char *const names[] = { "data.mdb", "lock.mdb" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = file_join(f->dir, names[i]);
        (void)unlink(path);
        free(path);
    }
    (void)rmdir(f->dir);
    free(f);
    return 0;
}

/* -- objects to apply -- */

/* The store does not decode artifacts, so any bytes do. */
static struct object artifact(struct fixture *f, unsigned number)
{
    char *text = arena_printf(&f->arena, "artifact %u", number);
    return wire_object(OBJECT_ARTIFACT, 0, span_cstr(text));
}

static struct object encoded(struct fixture *f, enum object_kind kind, uint64_t seq, struct buf *bytes)
{
    struct span copy = arena_dup(&f->arena, buf_span(bytes));
    buf_release(bytes);
    return wire_object(kind, seq, copy);
}

static struct object head(struct fixture *f, uint64_t epoch, uint64_t generation, const struct object *needs)
{
    struct arm arm = { .name = SPAN("stable"), .policy_version = 1 };
    if (needs)
        arm.artifact = needs->hash;
    struct head plain = { .epoch = epoch, .generation = generation, .arms = &arm, .arm_count = needs ? 1 : 0 };
    struct buf bytes = BUF_INIT(HEAD_BYTES_MAX);
    assert_int_equal(wire_encode_head(&plain, &bytes), OK);
    return encoded(f, OBJECT_HEAD, generation, &bytes);
}

static struct object evidence(struct fixture *f, uint64_t epoch, uint64_t seq)
{
    struct evidence plain = { .epoch = epoch, .seq = seq };
    struct buf bytes = BUF_INIT(EVIDENCE_BYTES_MAX);
    assert_int_equal(wire_encode_evidence(&plain, &bytes), OK);
    return encoded(f, OBJECT_EVIDENCE, seq, &bytes);
}

static struct key_record key(unsigned number, const char *id)
{
    return (struct key_record){ .hash = sha256_of(span_of(&number, sizeof number)),
                                .id = span_cstr(id),
                                .team = SPAN("research") };
}

static struct table_version version(struct fixture *f)
{
    struct table_version v = { 0 };
    uint64_t txn_id;
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    assert_int_equal(tablestore_version(f->store, &v), OK);
    tablestore_end(f->store);
    return v;
}

static void assert_version(struct fixture *f, uint64_t epoch, uint64_t generation, uint64_t seq, uint64_t directory)
{
    struct table_version v = version(f);
    assert_int_equal(v.epoch, epoch);
    assert_int_equal(v.generation, generation);
    assert_int_equal(v.evidence_seq, seq);
    assert_int_equal(v.directory_seq, directory);
}

static enum err apply(struct fixture *f, const struct table_change *change, uint64_t allowed)
{
    struct table_version now = { .epoch = 77 };
    enum err err = tablestore_apply(f->store, change, allowed, &now);
    struct table_version stored = version(f);
    if (!err)
        assert_memory_equal(&now, &stored, sizeof now);
    else
        assert_int_equal(now.epoch, 77);
    return err;
}

static enum err apply_head(struct fixture *f, uint64_t epoch, uint64_t generation, const struct object *with)
{
    struct object object = head(f, epoch, generation, with);
    return apply(f, &(struct table_change){ .head = &object, .artifacts = with, .artifact_count = with ? 1 : 0 },
                 epoch);
}

static enum err apply_evidence(struct fixture *f, uint64_t epoch, uint64_t seq)
{
    struct object object = evidence(f, epoch, seq);
    return apply(f, &(struct table_change){ .evidence = &object }, epoch);
}

static enum err apply_directory(struct fixture *f, const struct directory_delta *delta)
{
    return apply(f, &(struct table_change){ .directory = delta }, delta->epoch);
}

static enum err object_at(struct fixture *f, enum object_kind kind, const struct sha256 *hash, struct span expected)
{
    uint64_t txn_id;
    struct span bytes;
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    enum err err = tablestore_object(f->store, kind, hash, &bytes);
    bool same = !err && span_eq(bytes, expected);
    tablestore_end(f->store);
    assert_true(err || same || !expected.ptr);
    return err;
}

/* Id of the record stored for this number, "" when none is. */
static const char *key_id(struct fixture *f, unsigned number)
{
    uint64_t txn_id;
    struct key_record wanted = key(number, ""), *found;
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    enum err err = tablestore_key(f->store, &f->arena, &wanted.hash, &found);
    tablestore_end(f->store);
    assert_true(err == OK || err == ERR_NOT_FOUND);
    return err ? "" : found->id.ptr;
}

/* The hash of the key of this id, by its first byte; -1: none. */
static int key_named(struct fixture *f, const char *id)
{
    uint64_t txn_id;
    struct key_record *found = NULL;
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    enum err err = tablestore_key_named(f->store, &f->arena, span_cstr(id), &found);
    tablestore_end(f->store);
    assert_true(err == OK || err == ERR_NOT_FOUND);
    return err ? -1 : found->hash.bytes[0];
}

/* -- head, evidence, artifacts -- */

static void an_empty_store_has_nothing(void **state)
{
    struct fixture *f = *state;
    assert_version(f, 0, 0, 0, 0);
    assert_int_equal(object_at(f, OBJECT_HEAD, NULL, SPAN("")), ERR_NOT_FOUND);
    assert_int_equal(object_at(f, OBJECT_EVIDENCE, NULL, SPAN("")), ERR_NOT_FOUND);
    assert_int_equal(object_at(f, OBJECT_DIRECTORY, NULL, SPAN("")), ERR_NOT_FOUND);
    assert_string_equal(key_id(f, 1), "");
    struct table_version now;
    assert_int_equal(tablestore_revert(f->store, &now), ERR_NOT_FOUND);
}

static void a_whole_change_is_applied_and_survives(void **state)
{
    struct fixture *f = *state;
    struct object a = artifact(f, 1), h = head(f, EPOCH, 5, &a), e = evidence(f, EPOCH, 9);
    struct key_record k = key(1, "key_one");
    struct team team = { .name = SPAN("research") };
    struct directory_delta d = { .epoch = EPOCH,
                                 .to_seq = 3,
                                 .full = true,
                                 .has_teams = true,
                                 .teams = { .items = &team, .count = 1 },
                                 .keys = &k,
                                 .key_count = 1 };
    struct table_change change = { .head = &h, .evidence = &e, .artifacts = &a, .artifact_count = 1, .directory = &d };
    assert_int_equal(apply(f, &change, 0), OK);
    for (unsigned round = 0; round < 2; round++) {
        assert_version(f, EPOCH, 5, 9, 3);
        assert_int_equal(object_at(f, OBJECT_HEAD, NULL, h.bytes), OK);
        assert_int_equal(object_at(f, OBJECT_EVIDENCE, NULL, e.bytes), OK);
        assert_int_equal(object_at(f, OBJECT_ARTIFACT, &a.hash, a.bytes), OK);
        assert_string_equal(key_id(f, 1), "key_one");
        tablestore_close(f->store);
        f->store = NULL;
        assert_int_equal(tablestore_open(f->dir, round == 0, &f->store), OK);
    }
}

static void the_old_and_the_foreign_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(apply_head(f, EPOCH, 5, NULL), OK);
    assert_int_equal(apply_evidence(f, EPOCH, 9), OK);
    assert_int_equal(apply_head(f, EPOCH, 5, NULL), ERR_STALE);
    assert_int_equal(apply_head(f, EPOCH, 4, NULL), ERR_STALE);
    assert_int_equal(apply_evidence(f, EPOCH, 9), ERR_STALE);
    assert_int_equal(apply_evidence(f, EPOCH, 8), ERR_STALE);
    struct object h = head(f, EPOCH + 1, 6, NULL), e = evidence(f, EPOCH + 1, 10);
    assert_int_equal(apply(f, &(struct table_change){ .head = &h }, 0), ERR_CONFLICT);
    assert_int_equal(apply(f, &(struct table_change){ .head = &h }, EPOCH), ERR_CONFLICT);
    assert_int_equal(apply(f, &(struct table_change){ .evidence = &e }, EPOCH), ERR_CONFLICT);
    struct object nobody = artifact(f, 99), needs = head(f, EPOCH, 6, &nobody);
    assert_int_equal(apply(f, &(struct table_change){ .head = &needs }, EPOCH), ERR_NOT_FOUND);
    struct object garbled = head(f, EPOCH, 6, NULL);
    garbled.hash.bytes[0] ^= 1;
    assert_int_equal(apply(f, &(struct table_change){ .head = &garbled }, EPOCH), ERR_CORRUPT);
    struct object lying = head(f, EPOCH, 6, NULL);
    lying.seq = 7;
    assert_int_equal(apply(f, &(struct table_change){ .head = &lying }, EPOCH), ERR_INVALID);
    struct object mistaken = head(f, EPOCH, 6, NULL);
    assert_int_equal(apply(f, &(struct table_change){ .evidence = &mistaken }, EPOCH), ERR_INVALID);
    /* Half a change is no change. */
    struct object good = evidence(f, EPOCH, 10), stale = head(f, EPOCH, 5, NULL);
    assert_int_equal(apply(f, &(struct table_change){ .head = &stale, .evidence = &good }, EPOCH), ERR_STALE);
    assert_version(f, EPOCH, 5, 9, 0);
}

static void an_adopted_epoch_starts_its_sequences_anew(void **state)
{
    struct fixture *f = *state;
    struct key_record k = key(1, "key_one");
    struct directory_delta full = { .epoch = EPOCH, .to_seq = 30, .full = true, .keys = &k, .key_count = 1 };
    assert_int_equal(apply_head(f, EPOCH, 50, NULL), OK);
    assert_int_equal(apply_evidence(f, EPOCH, 90), OK);
    assert_int_equal(apply_directory(f, &full), OK);
    assert_int_equal(apply_head(f, EPOCH + 1, 3, NULL), OK);
    assert_version(f, EPOCH + 1, 3, 0, 0);
    assert_string_equal(key_id(f, 1), "key_one"); /* serves on until the new directory comes */
    assert_int_equal(apply_head(f, EPOCH + 1, 3, NULL), ERR_STALE);
    struct object old = head(f, EPOCH, 51, NULL);
    assert_int_equal(apply(f, &(struct table_change){ .head = &old }, EPOCH + 1), ERR_CONFLICT);
    struct directory_delta delta = { .epoch = EPOCH + 1, .from_seq = 30, .to_seq = 31 };
    assert_int_equal(apply_directory(f, &delta), ERR_CONFLICT);
    full = (struct directory_delta){ .epoch = EPOCH + 1, .to_seq = 7, .full = true };
    assert_int_equal(apply_directory(f, &full), OK);
    assert_int_equal(apply_evidence(f, EPOCH + 1, 2), OK);
    assert_version(f, EPOCH + 1, 3, 2, 7);
    assert_string_equal(key_id(f, 1), "");
}

static void artifacts_in_use_outlive_the_others(void **state)
{
    struct fixture *f = *state;
    struct object first = artifact(f, 0), second = artifact(f, 1);
    assert_int_equal(apply_head(f, EPOCH, 1, &first), OK);
    assert_int_equal(apply_head(f, EPOCH, 2, &second), OK);
    for (unsigned i = 2; i < 40; i++) {
        struct object more = artifact(f, i);
        assert_int_equal(apply(f, &(struct table_change){ .artifacts = &more, .artifact_count = 1 }, EPOCH), OK);
    }
    struct sha256 *hashes;
    uint32_t count;
    uint64_t txn_id;
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    assert_int_equal(tablestore_artifacts(f->store, &f->arena, &hashes, &count), OK);
    tablestore_end(f->store);
    assert_int_equal(count, ARTIFACTS_HELD);
    struct object newest = artifact(f, 39), dropped = artifact(f, 10);
    assert_true(sha256_eq(&hashes[0], &newest.hash));
    assert_int_equal(object_at(f, OBJECT_ARTIFACT, &newest.hash, newest.bytes), OK);
    assert_int_equal(object_at(f, OBJECT_ARTIFACT, &dropped.hash, SPAN("")), ERR_NOT_FOUND);
    assert_int_equal(object_at(f, OBJECT_ARTIFACT, &first.hash, first.bytes), OK); /* a revert needs it */
    assert_int_equal(object_at(f, OBJECT_ARTIFACT, &second.hash, second.bytes), OK);
    assert_int_equal(apply_head(f, EPOCH, 3, &second), OK); /* what came ahead of no head goes with the next */
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    assert_int_equal(tablestore_artifacts(f->store, &f->arena, &hashes, &count), OK);
    tablestore_end(f->store);
    assert_int_equal(count, ARTIFACTS_KEPT);
    for (uint64_t i = 3; i < 20; i++) { /* a head's use makes an artifact young again */
        struct object other = artifact(f, 100 + (unsigned)i);
        assert_int_equal(apply_head(f, EPOCH, 2 * i, &other), OK);
        struct object again = head(f, EPOCH, 2 * i + 1, &second);
        assert_int_equal(apply(f, &(struct table_change){ .head = &again }, EPOCH), OK);
    }
    assert_int_equal(object_at(f, OBJECT_ARTIFACT, &first.hash, SPAN("")), ERR_NOT_FOUND);
}

/* -- going back -- */

static void revert_goes_back_and_stays_back(void **state)
{
    struct fixture *f = *state;
    struct object a = artifact(f, 1), b = artifact(f, 2);
    struct table_version now, refused;
    uint64_t txn_id;
    assert_int_equal(apply_head(f, EPOCH, 1, &a), OK);
    assert_int_equal(apply_evidence(f, EPOCH, 10), OK);
    assert_int_equal(apply_head(f, EPOCH, 2, &b), OK);
    assert_int_equal(apply_evidence(f, EPOCH, 11), OK);
    assert_int_equal(tablestore_revert(f->store, &now), OK);
    assert_true(now.epoch == EPOCH && now.generation == 1 && now.evidence_seq == 10);
    assert_version(f, EPOCH, 1, 10, 0);
    struct object old_head = head(f, EPOCH, 1, &a), old_evidence = evidence(f, EPOCH, 10);
    assert_int_equal(object_at(f, OBJECT_HEAD, NULL, old_head.bytes), OK);
    assert_int_equal(object_at(f, OBJECT_EVIDENCE, NULL, old_evidence.bytes), OK);
    assert_int_equal(object_at(f, OBJECT_ARTIFACT, &a.hash, a.bytes), OK);
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    assert_int_equal(tablestore_refused(f->store, &refused), OK);
    tablestore_end(f->store);
    assert_true(refused.epoch == EPOCH && refused.generation == 2 && refused.evidence_seq == 11);

    tablestore_close(f->store);
    f->store = NULL;
    assert_int_equal(tablestore_open(f->dir, false, &f->store), OK);
    assert_int_equal(apply_head(f, EPOCH, 2, &b), ERR_STALE);
    assert_int_equal(apply_evidence(f, EPOCH, 11), ERR_STALE);
    assert_int_equal(tablestore_revert(f->store, &now), ERR_NOT_FOUND);
    assert_version(f, EPOCH, 1, 10, 0);
    assert_int_equal(apply_head(f, EPOCH, 3, &b), OK);
    assert_int_equal(apply_evidence(f, EPOCH, 12), OK);
    assert_int_equal(tablestore_revert(f->store, &now), OK);
    assert_true(now.generation == 1 && now.evidence_seq == 10);
}

static void revert_leaves_the_directory_and_a_proven_head(void **state)
{
    struct fixture *f = *state;
    struct key_record k = key(1, "key_one");
    struct directory_delta full = { .epoch = EPOCH, .to_seq = 30, .full = true, .keys = &k, .key_count = 1 };
    struct directory_delta gone = {
        .epoch = EPOCH, .from_seq = 30, .to_seq = 31, .removed = &k.hash, .removed_count = 1
    };
    struct table_version now;
    assert_int_equal(apply_directory(f, &full), OK);
    assert_int_equal(apply_head(f, EPOCH, 1, NULL), OK);
    assert_int_equal(apply_head(f, EPOCH, 2, NULL), OK);
    assert_int_equal(apply_directory(f, &gone), OK);
    assert_int_equal(apply_evidence(f, EPOCH, 1), OK);
    assert_int_equal(apply_evidence(f, EPOCH, 2), OK);
    f->now_ms += TABLESTORE_HEAD_PROVEN_MS + 1;
    assert_int_equal(tablestore_revert(f->store, &now), OK);
    assert_version(f, EPOCH, 2, 1, 31);
    assert_string_equal(key_id(f, 1), ""); /* a revoked key stays revoked */
    /* Nothing else to go back to: then it is the head after all, and no evidence. */
    assert_int_equal(tablestore_revert(f->store, &now), OK);
    assert_version(f, EPOCH, 1, 0, 31);
    assert_int_equal(object_at(f, OBJECT_EVIDENCE, NULL, SPAN("")), ERR_NOT_FOUND);
    assert_int_equal(apply_evidence(f, EPOCH, 1), ERR_STALE);
    assert_int_equal(tablestore_revert(f->store, &now), ERR_NOT_FOUND);
}

/* -- directory -- */

static void deltas_follow_each_other(void **state)
{
    struct fixture *f = *state;
    struct key_record keys[] = { key(1, "one"), key(2, "two") };
    struct directory_delta d = { .epoch = EPOCH, .to_seq = 5, .full = true, .keys = keys, .key_count = 2 };
    assert_int_equal(apply_directory(f, &d), OK);
    assert_int_equal(object_at(f, OBJECT_DIRECTORY, NULL, (struct span){ 0 }), OK);
    assert_int_equal(key_named(f, "two"), keys[1].hash.bytes[0]);
    assert_int_equal(key_named(f, "tw"), -1);
    assert_int_equal(key_named(f, ""), -1);
    struct key_record changed = key(2, "two again"), fresh = key(3, "three");
    d = (struct directory_delta){ .epoch = EPOCH, .from_seq = 5, .to_seq = 6, .keys = &changed, .key_count = 1 };
    assert_int_equal(apply_directory(f, &d), OK);
    assert_int_equal(apply_directory(f, &d), ERR_CONFLICT); /* a repeat does not apply */
    d = (struct directory_delta){ .epoch = EPOCH, .from_seq = 6, .to_seq = 6 };
    assert_int_equal(apply_directory(f, &d), ERR_STALE);
    d = (struct directory_delta){ .epoch = EPOCH,
                                  .from_seq = 6,
                                  .to_seq = 8,
                                  .keys = &fresh,
                                  .key_count = 1,
                                  .removed = &keys[0].hash,
                                  .removed_count = 1 };
    assert_int_equal(apply_directory(f, &d), OK);
    assert_version(f, EPOCH, 0, 0, 8);
    assert_string_equal(key_id(f, 1), "");
    assert_string_equal(key_id(f, 2), "two again");
    assert_string_equal(key_id(f, 3), "three");
    assert_int_equal(key_named(f, "one"), -1);
    assert_int_equal(key_named(f, "two"), -1);
    assert_int_equal(key_named(f, "two again"), changed.hash.bytes[0]);
    d = (struct directory_delta){ .epoch = EPOCH, .to_seq = 7, .full = true };
    assert_int_equal(apply_directory(f, &d), ERR_STALE);
}

static uint64_t keys_stored(struct fixture *f)
{
    struct snapshot_txn *txn;
    assert_int_equal(snapshot_read_begin(tablestore_snapshot(f->store), &txn), OK);
    uint64_t count = snapshot_count(txn, 3) + snapshot_count(txn, 4);
    snapshot_read_end(txn);
    return count;
}

static enum err apply_page(struct fixture *f, uint64_t seq, unsigned from, unsigned count, const char *id, bool more)
{
    struct key_record *keys = ARENA_ARRAY(&f->arena, count, struct key_record);
    for (unsigned i = 0; i < count; i++)
        keys[i] = key(from + i, id);
    struct team team = { .name = SPAN("research") };
    struct directory_delta d = {
        .epoch = EPOCH, .to_seq = seq, .full = true, .more = more, .keys = keys, .key_count = count
    };
    if (from == 0) {
        d.has_teams = true;
        d.teams = (struct teams){ .epoch = EPOCH, .seq = seq, .items = &team, .count = 1 };
    }
    return apply_directory(f, &d);
}

static void a_resync_shows_only_when_it_is_whole(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(apply_page(f, 5, 0, 1000, "old", false), OK);
    assert_int_equal(apply_page(f, 9, 0, 500, "new", true), OK);
    assert_version(f, EPOCH, 0, 0, 5);
    assert_string_equal(key_id(f, 0), "old");
    assert_string_equal(key_id(f, 999), "old");
    /* A delta in between belongs to what is visible. */
    struct key_record live = key(5000, "live");
    struct directory_delta d = { .epoch = EPOCH, .from_seq = 5, .to_seq = 6, .keys = &live, .key_count = 1 };
    assert_int_equal(apply_directory(f, &d), OK);
    assert_string_equal(key_id(f, 5000), "live");
    assert_int_equal(apply_page(f, 9, 500, 200, "new", false), OK);
    assert_version(f, EPOCH, 0, 0, 9);
    assert_string_equal(key_id(f, 0), "new");
    assert_string_equal(key_id(f, 699), "new");
    assert_string_equal(key_id(f, 700), "");
    assert_string_equal(key_id(f, 5000), "");
    assert_int_equal(keys_stored(f), 700);

    /* One that was given up leaves nothing in the next. */
    assert_int_equal(apply_page(f, 12, 0, 300, "lost", true), OK);
    assert_int_equal(apply_page(f, 13, 0, 100, "last", true), OK);
    assert_int_equal(apply_page(f, 13, 100, 1, "last", false), OK);
    assert_int_equal(keys_stored(f), 101);
    assert_string_equal(key_id(f, 200), "");
    struct teams *teams;
    struct span bytes;
    uint64_t txn_id;
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    assert_int_equal(tablestore_object(f->store, OBJECT_DIRECTORY, NULL, &bytes), OK);
    assert_int_equal(wire_decode_teams(&f->arena, bytes, &teams, NULL), OK);
    tablestore_end(f->store);
    assert_true(teams->count == 1 && teams->seq == 13);
}

static void resyncs_give_their_space_back(void **state)
{
    struct fixture *f = *state;
    for (uint64_t seq = 1; seq < 4; seq++)
        assert_int_equal(apply_page(f, seq, 0, 2000, "key", false), OK);
    uint64_t used = snapshot_bytes_used(tablestore_snapshot(f->store));
    for (uint64_t seq = 4; seq < 24; seq++)
        assert_int_equal(apply_page(f, seq, 0, 2000, "key", false), OK);
    assert_true(snapshot_bytes_used(tablestore_snapshot(f->store)) <= used + used / 10);
}

/* -- failures -- */

static void a_failed_commit_keeps_the_last_good(void **state)
{
    struct fixture *f = *state;
    struct object a = artifact(f, 1);
    assert_int_equal(apply_head(f, EPOCH, 1, &a), OK);
    struct object b = artifact(f, 2), h = head(f, EPOCH, 2, &b), e = evidence(f, EPOCH, 1);
    struct table_change change = { .head = &h, .evidence = &e, .artifacts = &b, .artifact_count = 1 };
    static const struct {
        enum fault_kind kind;
        enum err expected;
    } faults[] = { { FAULT_COMMIT, ERR_NOSPACE }, { FAULT_FSYNC, ERR_IO } };
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        fault_arm(faults[i].kind, 0, 1);
        assert_int_equal(apply(f, &change, EPOCH), faults[i].expected);
        fault_disarm_all();
        assert_version(f, EPOCH, 1, 0, 0);
        assert_int_equal(object_at(f, OBJECT_ARTIFACT, &b.hash, SPAN("")), ERR_NOT_FOUND);
    }
    for (uint64_t n = 0;; n++) {
        assert_true(n < 1000);
        fault_arm(FAULT_ALLOC, n, 1);
        struct table_version now;
        enum err err = tablestore_apply(f->store, &change, EPOCH, &now);
        fault_disarm_all();
        if (!err)
            break;
        assert_int_equal(err, ERR_NOMEM);
        assert_version(f, EPOCH, 1, 0, 0);
    }
    assert_version(f, EPOCH, 2, 1, 0);
}

/* Flips one byte of the stored value. */
static void garble(struct fixture *f, unsigned tree, struct span name, size_t at)
{
    struct snapshot *snapshot = tablestore_snapshot(f->store);
    struct snapshot_txn *txn;
    struct span value;
    assert_int_equal(snapshot_write_begin(snapshot, &txn), OK);
    assert_int_equal(snapshot_get(txn, tree, name, &value), OK);
    struct span copy = arena_dup(&f->arena, value);
    ((char *)(uintptr_t)copy.ptr)[at] ^= 0x10;
    assert_int_equal(snapshot_put(txn, tree, name, copy), OK);
    assert_int_equal(snapshot_commit(txn), OK);
}

static void what_is_garbled_is_not_served(void **state)
{
    struct fixture *f = *state;
    enum { META, OBJECTS, NOTES, KEYS_A, KEYS_B };
    struct object e = evidence(f, EPOCH, 3);
    assert_int_equal(apply(f, &(struct table_change){ .evidence = &e }, EPOCH), OK);
    for (size_t at = 0; at < 64 + e.bytes.len; at++) {
        garble(f, OBJECTS, SPAN("evidence"), at);
        assert_int_equal(object_at(f, OBJECT_EVIDENCE, NULL, SPAN("")), ERR_CORRUPT);
        garble(f, OBJECTS, SPAN("evidence"), at);
    }
    assert_int_equal(object_at(f, OBJECT_EVIDENCE, NULL, e.bytes), OK);
    struct key_record k = key(1, "one"), *found;
    struct directory_delta full = { .epoch = EPOCH, .to_seq = 30, .full = true, .keys = &k, .key_count = 1 };
    assert_int_equal(apply_directory(f, &full), OK);
    uint64_t txn_id;
    for (size_t at = 0; at < 20; at++) {
        garble(f, KEYS_B, span_of(k.hash.bytes, SHA256_BYTES), at);
        assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
        assert_int_equal(tablestore_key(f->store, &f->arena, &k.hash, &found), ERR_CORRUPT);
        tablestore_end(f->store);
        garble(f, KEYS_B, span_of(k.hash.bytes, SHA256_BYTES), at);
    }
    assert_string_equal(key_id(f, 1), "one");
    garble(f, META, SPAN("state"), 100);
    struct table_version v;
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    assert_int_equal(tablestore_version(f->store, &v), ERR_CORRUPT);
    tablestore_end(f->store);
    tablestore_close(f->store);
    f->store = NULL;
    assert_int_equal(tablestore_open(f->dir, true, &f->store), ERR_CORRUPT);
}

static void notes_are_kept(void **state)
{
    struct fixture *f = *state;
    struct span value;
    assert_int_equal(tablestore_note_get(f->store, &f->arena, SPAN("pinned"), &value), ERR_NOT_FOUND);
    assert_int_equal(tablestore_note_put(f->store, SPAN("pinned"), SPAN("7")), OK);
    assert_int_equal(tablestore_note_put(f->store, SPAN("pinned"), SPAN("8")), OK);
    assert_int_equal(tablestore_note_get(f->store, &f->arena, SPAN("pinned"), &value), OK);
    assert_true(span_eq(value, SPAN("8")));
    uint64_t txn_id;
    assert_int_equal(tablestore_begin(f->store, &txn_id), OK);
    assert_int_equal(tablestore_note_get(f->store, &f->arena, SPAN("pinned"), &value), OK);
    tablestore_end(f->store);
    fault_arm(FAULT_COMMIT, 0, 1);
    assert_int_equal(tablestore_note_put(f->store, SPAN("pinned"), SPAN("9")), ERR_NOSPACE);
    fault_disarm_all();
    assert_int_equal(tablestore_note_get(f->store, &f->arena, SPAN("pinned"), &value), OK);
    assert_true(span_eq(value, SPAN("8")));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(an_empty_store_has_nothing),
        TEST(a_whole_change_is_applied_and_survives),
        TEST(the_old_and_the_foreign_are_refused),
        TEST(an_adopted_epoch_starts_its_sequences_anew),
        TEST(artifacts_in_use_outlive_the_others),
        TEST(revert_goes_back_and_stays_back),
        TEST(revert_leaves_the_directory_and_a_proven_head),
        TEST(deltas_follow_each_other),
        TEST(a_resync_shows_only_when_it_is_whole),
        TEST(resyncs_give_their_space_back),
        TEST(a_failed_commit_keeps_the_last_good),
        TEST(what_is_garbled_is_not_served),
        TEST(notes_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
