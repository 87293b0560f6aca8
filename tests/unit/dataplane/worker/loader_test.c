/* Tables as they are committed: never behind, rebuilt by layers, bad ones refused once. */
#include "rig.h"

static void is_never_behind(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct loader *loader = &rig.core.loader;
    loader_refresh(loader);
    assert_int_equal(rig.serving, 1);
    for (unsigned i = 0; i < 500; i++) {
        rig_publish(&rig);
        loader_refresh(loader);
        assert_int_equal(loader->table->version.generation, rig.generation);
        assert_int_equal(loader->table->arms[0].compiled->artifact->policy_version, rig.generation);
    }
    assert_int_equal(rig.serving, 501);
    loader_refresh(loader);
    assert_int_equal(rig.serving, 501); /* nothing new, nothing done */
    rig_stop(&rig);
}

static void rebuilds_only_what_changed(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct loader *loader = &rig.core.loader;
    loader_refresh(loader);
    struct table *old = table_ref(loader->table);
    rig_directory(&rig, 1, false); /* the same teams */
    loader_refresh(loader);
    assert_ptr_not_equal(loader->table, old);
    assert_int_equal(loader->table->version.directory_seq, 2);
    assert_ptr_equal(loader->table->arms[0].compiled, old->arms[0].compiled);
    assert_ptr_equal(loader->table->teams, old->teams);
    table_unref(old);
    rig_stop(&rig);
}

static void a_bad_table_is_refused_once(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct loader *loader = &rig.core.loader;
    loader_refresh(loader);
    struct table *good = loader->table;
    /* An artifact that is well sealed and no artifact. */
    struct object artifact = wire_object(OBJECT_ARTIFACT, 0, SPAN("\377\377\377 this is no message"));
    struct arm arm = { .name = SPAN("stable"), .policy_version = 2, .artifact = artifact.hash };
    struct head head = { .epoch = 1, .generation = ++rig.generation, .arms = &arm, .arm_count = 1 };
    struct buf bytes = BUF_INIT(1 << 16);
    assert_int_equal(wire_encode_head(&head, &bytes), OK);
    struct object head_object = wire_object(OBJECT_HEAD, rig.generation, buf_span(&bytes));
    struct table_change change = { .head = &head_object, .artifacts = &artifact, .artifact_count = 1 };
    struct table_version now;
    assert_int_equal(tablestore_apply(rig.store, &change, 1, &now), OK);
    buf_release(&bytes);
    loader_refresh(loader);
    assert_int_equal(rig.bad, 1);
    assert_ptr_equal(loader->table, good);
    assert_int_equal(loader->version.generation, 1);
    loader_refresh(loader);
    assert_int_equal(rig.bad, 1);
    rig_publish(&rig);
    loader_refresh(loader);
    assert_int_equal(loader->version.generation, 3);
    assert_int_equal(rig.bad, 1);
    rig_stop(&rig);
}

/* For want of memory the last good one stays, and the next look takes the new one. */
static void memory_that_is_short_is_no_verdict(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct loader *loader = &rig.core.loader;
    loader_refresh(loader);
    bool reached = true;
    for (uint64_t nth = 0; reached; nth++) {
        rig_publish(&rig);
        fault_arm(FAULT_ALLOC, nth, 1);
        loader_refresh(loader);
        reached = fault_seen(FAULT_ALLOC) > nth;
        fault_disarm_all();
        assert_non_null(loader->table);
        loader_refresh(loader);
        assert_int_equal(loader->version.generation, rig.generation);
    }
    assert_int_equal(rig.bad, 0);
    rig_stop(&rig);
}

/* What is known of a key is as good as what stands there: gone with the commit that revokes it, while a request that
 * has it keeps it. */
static void a_key_is_known_until_the_next_commit(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct loader *loader = &rig.core.loader;
    struct arena first, second;
    struct key_record *key = NULL, *again = NULL;
    const struct sha256 hash = sha256_of(span_cstr(rig.key)), other = sha256_of(SPAN("x"));
    arena_init(&first, 4096);
    arena_init(&second, 4096);
    assert_int_equal(loader_key(loader, &first, &other, &key), ERR_NOT_FOUND);
    for (uint64_t nth = 0; nth < 20; nth++) { /* each allocation fails once */
        fault_arm(FAULT_ALLOC, nth, 1);
        enum err err = loader_key(loader, &second, &hash, &again);
        bool hit = fault_seen(FAULT_ALLOC) > nth;
        fault_disarm_all();
        assert_int_equal(err, hit ? ERR_NOMEM : OK);
        arena_release(&second);
        arena_init(&second, 4096);
    }
    assert_int_equal(loader_key(loader, &first, &hash, &key), OK);
    assert_int_equal(loader_key(loader, &second, &hash, &again), OK);
    assert_ptr_equal(key, again);
    arena_release(&second);
    arena_init(&second, 4096);
    rig_directory(&rig, 1, true);
    assert_int_equal(loader_key(loader, &second, &hash, &again), OK);
    assert_true(again->revoked);
    assert_false(key->revoked);
    assert_true(sha256_eq(&key->hash, &hash));
    arena_release(&second);
    rig_stop(&rig);
    arena_release(&first);
}

static void a_store_that_is_not_there_yet(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct loader other;
    struct loader_events events = { .serving = rig_serving, .bad = rig_bad, .user = &rig };
    assert_int_equal(loader_init(&other, "/dev/shm/fairlead-nowhere/store", rig.board, &events), OK);
    struct arena arena;
    struct key_record *key;
    arena_init(&arena, 4096);
    struct sha256 hash = sha256_of(SPAN("x"));
    loader_refresh(&other);
    assert_int_equal(loader_key(&other, &arena, &hash, &key), ERR_AGAIN);
    arena_release(&arena);
    loader_release(&other);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_never_behind),
        cmocka_unit_test(rebuilds_only_what_changed),
        cmocka_unit_test(a_bad_table_is_refused_once),
        cmocka_unit_test(memory_that_is_short_is_no_verdict),
        cmocka_unit_test(a_key_is_known_until_the_next_commit),
        cmocka_unit_test(a_store_that_is_not_there_yet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
