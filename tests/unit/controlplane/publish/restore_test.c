/* A backup in the place of the store: a new epoch each time, the old store kept. */
#include "controlplane/publish/restore.h"
#include "tests/unit/controlplane/publish/support.h"

static struct versions_numbers numbers_at(const char *dir)
{
    struct versions *versions;
    struct versions_numbers n;
    assert_int_equal(versions_open(dir, &versions), OK);
    assert_int_equal(versions_begin(versions, false), OK);
    assert_int_equal(versions_numbers(versions, &n), OK);
    versions_close(versions);
    return n;
}

/* A backup with one version; the store goes on to two. */
static void back_up(struct store *s, char *ret_backup, size_t bytes)
{
    snprintf(ret_backup, bytes, "%s/backup", s->dir);
    char at[96];
    snprintf(at, sizeof(at), "%s/store", s->dir);
    versions_close(s->versions);
    assert_int_equal(versions_open(at, &s->versions), OK);
    begin(s, true);
    record_of(s, "one");
    commit(s);
    assert_int_equal(snapshot_copy(versions_snapshot(s->versions), ret_backup), OK);
    begin(s, true);
    record_of(s, "two");
    commit(s);
    versions_close(s->versions);
    s->versions = NULL;
}

static void each_restore_is_a_new_epoch(void **state)
{
    struct store *s = *state;
    char backup[96], at[96], aside[128];
    back_up(s, backup, sizeof(backup));
    snprintf(at, sizeof(at), "%s/store", s->dir);
    for (uint64_t i = 1; i <= 3; i++) {
        const uint32_t before = numbers_at(at).version_last;
        assert_int_equal(restore_store(at, backup, aside, sizeof(aside)), OK);
        assert_int_equal(numbers_at(at).epoch, 1 + i); /* though it is the same backup */
        assert_int_equal(numbers_at(at).version_last, 1);
        assert_int_equal(numbers_at(aside).version_last, before);
        usleep(2000); /* the name of what is put aside has a time in it */
    }
    assert_int_equal(numbers_at(backup).epoch, 1);
}

static void restores_to_nowhere(void **state)
{
    struct store *s = *state;
    char backup[96], at[96], aside[128];
    back_up(s, backup, sizeof(backup));
    snprintf(at, sizeof(at), "%s/fresh", s->dir);
    assert_int_equal(restore_store(at, backup, aside, sizeof(aside)), OK);
    assert_string_equal(aside, "");
    assert_int_equal(numbers_at(at).epoch, 2);
    assert_int_equal(numbers_at(at).version_last, 1);
}

static void a_bad_backup_changes_nothing(void **state)
{
    struct store *s = *state;
    char backup[96], at[96], aside[128];
    back_up(s, backup, sizeof(backup));
    snprintf(at, sizeof(at), "%s/store", s->dir);
    assert_int_equal(restore_store(at, "/nowhere/at/all", aside, sizeof(aside)), ERR_NOT_FOUND);
    fault_arm(FAULT_COMMIT, 0, 1);
    assert_int_not_equal(restore_store(at, backup, aside, sizeof(aside)), OK);
    fault_disarm_all();
    for (uint64_t k = 0; k < 4; k++) {
        usleep(2000);
        fault_arm(FAULT_ALLOC, k, 1);
        const enum err err = restore_store(at, backup, aside, sizeof(aside));
        fault_disarm_all();
        assert_int_equal(err, ERR_NOMEM);
    }
    assert_int_equal(numbers_at(at).version_last, 2);
    assert_int_equal(numbers_at(at).epoch, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, store_set_up, store_tear_down)
    const struct CMUnitTest tests[] = { TEST(each_restore_is_a_new_epoch), TEST(restores_to_nowhere),
                                        TEST(a_bad_backup_changes_nothing) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
