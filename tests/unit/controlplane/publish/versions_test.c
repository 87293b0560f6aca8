/* The control plane's store: what is acknowledged stays, whole, whatever ends the process. */
#include "controlplane/publish/versions.h"
#include "tests/unit/controlplane/publish/support.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

static const char *program;

static void a_new_store_has_epoch_one(void **state)
{
    struct store *s = *state;
    struct head *head;
    struct teams *teams;
    struct span bundle;
    const struct versions_numbers n = numbers(s);
    assert_int_equal(n.epoch, 1);
    assert_int_equal(n.generation + n.directory_seq + n.audit_seq + n.evidence_reserved + n.version_last, 0);
    begin(s, false);
    assert_int_equal(versions_head_get(s->versions, &s->arena, 0, &head), ERR_NOT_FOUND);
    assert_int_equal(versions_teams_get(s->versions, &s->arena, &teams, &bundle), OK);
    assert_int_equal(teams->count, 0);
    assert_int_equal(bundle.len, 0);
    versions_abort(s->versions);
    versions_abort(s->versions); /* harmless */
    versions_close(s->versions);
    store_open(s);
    assert_int_equal(numbers(s).epoch, 1); /* not raised by opening */
}

static void versions_are_numbered_and_found(void **state)
{
    struct store *s = *state;
    struct version_record *r;
    struct version_record *all;
    uint32_t count;
    begin(s, true);
    assert_int_equal(record_of(s, "aaa").version, 1);
    assert_int_equal(record_of(s, "aaab").version, 2); /* its hash begins with the other's */
    assert_int_equal(record_of(s, "aaa").version, 3);
    commit(s);
    begin(s, true);
    assert_int_equal(record_of(s, "dropped").version, 4);
    versions_abort(s->versions);
    begin(s, false);
    assert_int_equal(versions_find_hash(s->versions, &s->arena, SPAN("aaa"), &r), OK);
    assert_int_equal(r->version, 3);
    assert_int_equal(versions_find_hash(s->versions, &s->arena, SPAN("aaab"), &r), OK);
    assert_int_equal(r->version, 2);
    assert_int_equal(versions_find_hash(s->versions, &s->arena, SPAN("aa"), &r), ERR_NOT_FOUND);
    assert_int_equal(versions_find_hash(s->versions, &s->arena, SPAN(""), &r), ERR_NOT_FOUND);
    assert_int_equal(versions_find_hash(s->versions, &s->arena, SPAN("dropped"), &r), ERR_NOT_FOUND);
    assert_int_equal(versions_get(s->versions, &s->arena, 4, true, &r), ERR_NOT_FOUND);
    assert_int_equal(versions_get(s->versions, &s->arena, 1, true, &r), OK);
    assert_true(span_eq(r->bundle, SPAN("aaa")));
    assert_true(span_eq(r->author, SPAN("ann \"the\" admin")));
    assert_true(span_eq(r->message, SPAN("line\nand more")));
    assert_int_equal(r->created_at_ms, 1700000000000);
    assert_int_equal(r->book_version, 3);
    assert_int_equal(r->state, VERSION_STORED);
    assert_int_equal(versions_list(s->versions, &s->arena, &all, &count), OK);
    assert_int_equal(count, 3);
    assert_int_equal(all[0].version, 3);
    assert_int_equal(all[2].version, 1);
    assert_int_equal(all[0].bundle.len, 0);
    versions_abort(s->versions);
    begin(s, true);
    r->state = VERSION_ROLLED_BACK;
    r->full_at_ms = 7;
    r->full_generation = 9;
    assert_int_equal(versions_update(s->versions, r), OK);
    commit(s);
    begin(s, false);
    assert_int_equal(versions_get(s->versions, &s->arena, 1, true, &r), OK);
    assert_int_equal(r->state, VERSION_ROLLED_BACK);
    assert_int_equal(r->full_at_ms, 7);
    assert_int_equal(r->full_generation, 9);
    assert_true(span_eq(r->bundle, SPAN("aaa")));
    versions_abort(s->versions);
}

static void artifacts_are_checked(void **state)
{
    struct store *s = *state;
    const struct sha256 good = sha256_of(SPAN("one")), other = sha256_of(SPAN("two"));
    struct span bytes;
    begin(s, true);
    assert_int_equal(versions_artifact_put(s->versions, &good, SPAN("one")), OK);
    assert_int_equal(versions_artifact_put(s->versions, &other, SPAN("not two")), OK);
    assert_int_equal(versions_artifact_get(s->versions, &s->arena, &good, &bytes), OK);
    assert_true(span_eq(bytes, SPAN("one")));
    assert_int_equal(versions_artifact_get(s->versions, &s->arena, &other, &bytes), ERR_CORRUPT);
    commit(s);
}

static void heads_have_generations(void **state)
{
    struct store *s = *state;
    struct arm arm = { .name = SPAN("stable"), .policy_version = 1, .artifact = sha256_of(SPAN("a")) };
    struct head *read;
    begin(s, true);
    for (uint64_t i = 1; i <= VERSIONS_HEADS_MAX + 5; i++) {
        struct head head = {
            .arms = &arm, .arm_count = 1, .made_at_ms = (int64_t)i, .by = SPAN("ann"), .why = SPAN("w")
        };
        assert_int_equal(versions_head_put(s->versions, &head), OK);
        assert_int_equal(head.generation, i);
        assert_int_equal(head.epoch, 1);
    }
    commit(s);
    begin(s, false);
    assert_int_equal(versions_head_get(s->versions, &s->arena, 0, &read), OK);
    assert_int_equal(read->generation, VERSIONS_HEADS_MAX + 5);
    assert_int_equal(read->made_at_ms, VERSIONS_HEADS_MAX + 5);
    assert_int_equal(read->arms[0].policy_version, 1);
    assert_int_equal(versions_head_get(s->versions, &s->arena, 5, &read), ERR_NOT_FOUND); /* forgotten */
    assert_int_equal(versions_head_get(s->versions, &s->arena, 6, &read), OK);
    versions_abort(s->versions);
}

static void evidence_numbers_never_repeat(void **state)
{
    struct store *s = *state;
    uint64_t first;
    begin(s, true);
    assert_int_equal(versions_reserve_evidence(s->versions, 100, &first), OK);
    assert_int_equal(first, 1);
    commit(s);
    begin(s, true);
    assert_int_equal(versions_reserve_evidence(s->versions, 10, &first), OK);
    assert_int_equal(first, 101);
    assert_int_equal(versions_raise_epoch(s->versions), OK);
    commit(s);
    assert_int_equal(numbers(s).epoch, 2);
    assert_int_equal(numbers(s).evidence_reserved, 110);
}

/* ---- the directory ---- */

static struct directory_delta *since(struct store *s, uint64_t epoch, uint64_t seq, struct span cursor, uint64_t resync)
{
    struct directory_delta *delta = NULL;
    begin(s, false);
    const enum err err = versions_directory_since(s->versions, &s->arena, epoch, seq, cursor, resync, &delta);
    versions_abort(s->versions);
    assert_true(err == OK || err == ERR_NOT_FOUND);
    return err == OK ? delta : NULL;
}

static void directory_deltas(void **state)
{
    struct store *s = *state;
    struct team team = { .name = SPAN("research") };
    struct teams teams = { .items = &team, .count = 1 };
    struct directory_delta *d;
    char id[32];
    assert_null(since(s, 1, 0, SPAN(""), 0)); /* nothing yet */
    begin(s, true);
    assert_int_equal(versions_teams_put(s->versions, &teams, SPAN("source")), OK);
    put_key(s, 1);
    put_key(s, 2);
    commit(s);
    assert_int_equal(numbers(s).directory_seq, 3);
    assert_null(since(s, 1, 3, SPAN(""), 0));
    d = since(s, 1, 0, SPAN(""), 0); /* a new node takes all */
    assert_true(d->full && !d->more && d->has_teams);
    assert_int_equal(d->key_count, 2);
    assert_int_equal(d->to_seq, 3);
    assert_int_equal(d->teams.count, 1);
    d = since(s, 1, 1, SPAN(""), 0);
    assert_true(!d->full && !d->has_teams);
    assert_int_equal(d->from_seq, 1);
    assert_int_equal(d->to_seq, 3);
    assert_int_equal(d->key_count, 2);
    begin(s, true); /* one key changes twice: it comes once, as it is now */
    struct key_record key = key_of(id, 1);
    key.expires_at_ms = 10;
    assert_int_equal(versions_key_put(s->versions, &key), OK);
    key.revoked = true;
    assert_int_equal(versions_key_put(s->versions, &key), OK);
    assert_int_equal(versions_teams_put(s->versions, &teams, SPAN("source 2")), OK);
    commit(s);
    d = since(s, 1, 3, SPAN(""), 0);
    assert_int_equal(d->key_count, 1);
    assert_true(d->keys[0].revoked);
    assert_true(d->has_teams);
    assert_int_equal(d->to_seq, 6);
    assert_true(since(s, 1, 7, SPAN(""), 0)->full); /* a node ahead of us */
    assert_true(since(s, 2, 6, SPAN(""), 0)->full); /* of another epoch */
    assert_int_equal(since(s, 2, 6, SPAN(""), 0)->epoch, 1);
}

static void keys_keep_their_ids(void **state)
{
    struct store *s = *state;
    struct key_record *read;
    char id[32];
    begin(s, true);
    put_key(s, 1);
    put_key(s, 2);
    struct key_record key = key_of(id, 1);
    key.id = SPAN("key_other"); /* the same text under another id: would undo a revocation */
    assert_int_equal(versions_key_put(s->versions, &key), ERR_EXISTS);
    key = key_of(id, 3);
    key.id = SPAN("key_2");
    assert_int_equal(versions_key_put(s->versions, &key), ERR_EXISTS);
    assert_int_equal(versions_key_by_id(s->versions, &s->arena, SPAN("key_2"), &read), OK);
    assert_true(span_eq(read->team, SPAN("research")));
    assert_int_equal(versions_key_by_id(s->versions, &s->arena, SPAN("key_other"), &read), ERR_NOT_FOUND);
    assert_int_equal(versions_key_by_id(s->versions, &s->arena, SPAN(""), &read), ERR_NOT_FOUND);
    commit(s);
    assert_int_equal(numbers(s).directory_seq, 2);
}

/* Pages follow each other while keys change; what changed meanwhile comes as a delta after the last page. */
static void a_resync_in_pages(void **state)
{
    struct store *s = *state;
    const unsigned count = DIRECTORY_PAGE_KEYS + 50;
    struct directory_delta *first, *second, *after;
    char id[32];
    begin(s, true);
    for (unsigned i = 1; i <= count; i++)
        put_key(s, i);
    commit(s);
    first = since(s, 1, 0, SPAN(""), 0);
    assert_true(first->full && first->more);
    assert_int_equal(first->key_count, DIRECTORY_PAGE_KEYS);
    assert_int_equal(first->to_seq, count);
    const struct sha256 last = first->keys[first->key_count - 1].hash;
    begin(s, true);
    struct key_record key = key_of(id, 1);
    key.revoked = true;
    assert_int_equal(versions_key_put(s->versions, &key), OK);
    put_key(s, count + 1);
    commit(s);
    second = since(s, 1, 0, span_of(last.bytes, SHA256_BYTES), first->to_seq);
    assert_true(second->full && !second->more);
    assert_int_equal(second->to_seq, count); /* of the resync, not of now */
    assert_in_range(second->key_count, 50, 51);
    assert_true(memcmp(second->keys[0].hash.bytes, last.bytes, SHA256_BYTES) > 0);
    after = since(s, 1, second->to_seq, SPAN(""), 0);
    assert_true(!after->full);
    assert_int_equal(after->key_count, 2);
    assert_int_equal(after->to_seq, count + 2);
    /* A node further behind than the journal, or than a delta is long, takes pages. */
    assert_true(since(s, 1, 1, SPAN(""), 0)->full);
    assert_true(since(s, 1, count - 3000, SPAN(""), 0)->full);
    assert_true(!since(s, 1, count - 1000, SPAN(""), 0)->full);
    /* A cursor of a resync that we never began starts over. */
    assert_int_equal(since(s, 1, 0, span_of(last.bytes, SHA256_BYTES), count + 100)->key_count, DIRECTORY_PAGE_KEYS);
}

/* Keys with long route lists: a page stays within a frame. */
static void pages_fit_a_frame(void **state)
{
    struct store *s = *state;
    static char name[NAME_BYTES_MAX];
    struct span routes[64];
    struct buf out = BUF_INIT(FRAME_BYTES_MAX / 2);
    struct sha256 cursor;
    unsigned keys = 0, pages = 0;
    memset(name, 'r', sizeof(name));
    for (unsigned i = 0; i < 64; i++)
        routes[i] = span_of(name, sizeof(name));
    begin(s, true);
    for (unsigned i = 1; i <= 3000; i++) {
        char id[32];
        struct key_record key = key_of(id, i);
        key.routes = (struct span_list){ .items = routes, .count = 64 };
        assert_int_equal(versions_key_put(s->versions, &key), OK);
    }
    commit(s);
    struct directory_delta *d = since(s, 1, 1500, SPAN(""), 0);
    for (;;) {
        assert_true(d->full);
        buf_clear(&out);
        assert_int_equal(wire_encode_directory_delta(d, &out), OK);
        keys += d->key_count;
        pages++;
        if (!d->more)
            break;
        cursor = d->keys[d->key_count - 1].hash;
        const uint64_t seq = d->to_seq;
        arena_reset(&s->arena);
        d = since(s, 1, 1500, span_of(cursor.bytes, SHA256_BYTES), seq);
    }
    assert_int_equal(keys, 3000);
    assert_true(pages > 1);
    buf_release(&out);
}

/* ---- answers, audit, blobs ---- */

static void answers_are_kept_for_a_while(void **state)
{
    struct store *s = *state;
    struct span answer;
    char id[32];
    begin(s, true);
    for (unsigned i = 0; i < VERSIONS_ANSWERS_MAX + 2; i++) {
        snprintf(id, sizeof(id), "request-%u", i);
        assert_int_equal(versions_answer_put(s->versions, span_cstr(id), span_cstr(id)), OK);
    }
    assert_int_equal(versions_answer_put(s->versions, SPAN(""), SPAN("x")), ERR_INVALID);
    commit(s);
    begin(s, false);
    assert_int_equal(versions_answer_get(s->versions, &s->arena, SPAN("request-1"), &answer), ERR_NOT_FOUND);
    assert_int_equal(versions_answer_get(s->versions, &s->arena, SPAN("request-2"), &answer), OK);
    assert_true(span_eq(answer, SPAN("request-2")));
    versions_abort(s->versions);
}

static void answers_are_bounded_in_bytes(void **state)
{
    struct store *s = *state;
    const size_t large = (size_t)VERSIONS_ANSWERS_BYTES_MAX / 4;
    char *bytes = calloc(1, large);
    struct span answer;
    char id[32];
    assert_non_null(bytes);
    for (unsigned i = 0; i < 6; i++) {
        begin(s, true);
        snprintf(id, sizeof(id), "request-%u", i);
        assert_int_equal(versions_answer_put(s->versions, span_cstr(id), span_of(bytes, large)), OK);
        commit(s);
    }
    begin(s, true);
    for (unsigned i = 0; i < 6; i++) { /* with their numbers three fit and four do not */
        snprintf(id, sizeof(id), "request-%u", i);
        assert_int_equal(versions_answer_get(s->versions, &s->arena, span_cstr(id), &answer),
                         i < 3 ? ERR_NOT_FOUND : OK);
    }
    for (unsigned i = 0; i < 100; i++) { /* what was forgotten is not counted any more */
        snprintf(id, sizeof(id), "small-%u", i);
        assert_int_equal(versions_answer_put(s->versions, span_cstr(id), SPAN("yes")), OK);
    }
    assert_int_equal(versions_answer_get(s->versions, &s->arena, SPAN("request-3"), &answer), OK);
    assert_int_equal(versions_answer_get(s->versions, &s->arena, SPAN("small-0"), &answer), OK);
    commit(s);
    free(bytes);
}

static bool count_audit(void *user, uint64_t seq, struct span json)
{
    uint64_t *next = user;
    char expected[16];
    assert_int_equal(seq, *next);
    snprintf(expected, sizeof(expected), "{\"n\":%u}", (unsigned)seq);
    assert_true(span_eq(json, span_cstr(expected)));
    ++*next;
    return seq != 8;
}

static void the_audit_log_only_grows(void **state)
{
    struct store *s = *state;
    uint64_t next = 1;
    for (unsigned i = 1; i <= 10; i++) {
        char json[16];
        snprintf(json, sizeof(json), "{\"n\":%u}", i);
        begin(s, true);
        assert_int_equal(versions_audit_put(s->versions, span_cstr(json)), OK);
        commit(s);
    }
    begin(s, false);
    assert_int_equal(versions_audit_each(s->versions, 0, count_audit, &next), OK);
    assert_int_equal(next, 9); /* stopped by the visitor */
    next = 10;
    assert_int_equal(versions_audit_each(s->versions, 10, count_audit, &next), OK);
    assert_int_equal(next, 11);
    versions_abort(s->versions);
}

static void blobs(void **state)
{
    struct store *s = *state;
    struct span bytes;
    begin(s, true);
    assert_int_equal(versions_blob_get(s->versions, &s->arena, SPAN("b"), &bytes), ERR_NOT_FOUND);
    assert_int_equal(versions_blob_put(s->versions, SPAN("b"), SPAN("one")), OK);
    assert_int_equal(versions_blob_put(s->versions, SPAN("b"), SPAN("two")), OK);
    assert_int_equal(versions_blob_get(s->versions, &s->arena, SPAN("b"), &bytes), OK);
    assert_true(span_eq(bytes, SPAN("two")));
    commit(s);
}

/* ---- failures ---- */

static void a_failed_commit_changes_nothing(void **state)
{
    struct store *s = *state;
    struct version_record *r;
    begin(s, true);
    record_of(s, "first");
    commit(s);
    fault_arm(FAULT_COMMIT, 0, 1);
    begin(s, true);
    record_of(s, "second");
    assert_int_not_equal(versions_commit(s->versions), OK);
    fault_disarm_all();
    assert_int_equal(numbers(s).version_last, 1);
    begin(s, true);
    assert_int_equal(versions_find_hash(s->versions, &s->arena, SPAN("second"), &r), ERR_NOT_FOUND);
    assert_int_equal(record_of(s, "second").version, 2);
    commit(s);
    assert_int_equal(numbers(s).version_last, 2);
}

/* One commit: a version, its head, a key, an answer and an audit line, all of the same number. */
static void publish(struct store *s, unsigned number)
{
    char text[32], bytes[4096];
    struct arm arm = { .name = SPAN("stable"), .policy_version = number };
    struct head head = { .arms = &arm, .arm_count = 1, .by = SPAN("b"), .why = SPAN("w") };
    snprintf(text, sizeof(text), "content-%u", number);
    memset(bytes, 'x', sizeof(bytes));
    begin(s, true);
    const struct version_record r = record_of(s, text);
    assert_int_equal(r.version, number);
    arm.artifact = r.artifact;
    assert_int_equal(versions_head_put(s->versions, &head), OK);
    put_key(s, number);
    assert_int_equal(versions_answer_put(s->versions, span_cstr(text), span_of(bytes, sizeof(bytes))), OK);
    assert_int_equal(versions_audit_put(s->versions, SPAN("{}")), OK);
    commit(s);
}

/* The child of the test below: publishes until it is killed, and says each number when it is acknowledged. */
static int child(const char *dir)
{
    struct store s = { .versions = NULL };
    snprintf(s.dir, sizeof(s.dir), "%s", dir);
    arena_init(&s.arena, 1u << 20);
    if (versions_open(s.dir, &s.versions) != OK)
        return 1;
    unsigned number = numbers(&s).version_last;
    for (;;) {
        publish(&s, ++number);
        if (write(1, &number, sizeof(number)) != sizeof(number))
            return 0;
    }
}

static void check_whole(struct store *s, unsigned acknowledged)
{
    const struct versions_numbers n = numbers(s);
    assert_true(n.version_last >= acknowledged); /* one more may have been committed and not yet said */
    assert_true(n.version_last <= acknowledged + 1);
    assert_int_equal(n.generation, n.version_last);
    assert_int_equal(n.directory_seq, n.version_last);
    assert_int_equal(n.audit_seq, n.version_last);
    begin(s, false);
    for (uint32_t i = 1; i <= n.version_last; i++) {
        struct version_record *r;
        struct head *head;
        struct key_record *key;
        struct span bytes;
        char text[32];
        arena_reset(&s->arena);
        snprintf(text, sizeof(text), "content-%u", i);
        assert_int_equal(versions_get(s->versions, &s->arena, i, true, &r), OK);
        assert_true(span_eq(r->bundle, span_cstr(text)));
        assert_int_equal(versions_artifact_get(s->versions, &s->arena, &r->artifact, &bytes), OK);
        assert_int_equal(versions_head_get(s->versions, &s->arena, i, &head), OK);
        assert_int_equal(head->arms[0].policy_version, i);
        assert_int_equal(versions_answer_get(s->versions, &s->arena, span_cstr(text), &bytes), OK);
        assert_int_equal(bytes.len, 4096);
        snprintf(text, sizeof(text), "key_%u", i);
        assert_int_equal(versions_key_by_id(s->versions, &s->arena, span_cstr(text), &key), OK);
    }
    versions_abort(s->versions);
}

static void killed_while_it_publishes(void **state)
{
    extern char **environ;
    struct store *s = *state;
    unsigned acknowledged = 0, kills = 0, seed = 12345;
    versions_close(s->versions);
    s->versions = NULL;
    while (acknowledged < 200) {
        int out[2];
        pid_t pid;
        unsigned number, left;
        posix_spawn_file_actions_t actions;
        char *const argv[] = { (char *)(uintptr_t)program, (char *)(uintptr_t) "--publish", s->dir, NULL };
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, out[1], 1);
        assert_int_equal(posix_spawn(&pid, program, &actions, NULL, argv, environ), 0);
        posix_spawn_file_actions_destroy(&actions);
        close(out[1]);
        seed = seed * 1103515245u + 12345u;
        left = seed >> 16 & 15;
        while (read(out[0], &number, sizeof(number)) == sizeof(number)) {
            acknowledged = number;
            if (left-- == 0) {
                seed = seed * 1103515245u + 12345u;
                for (volatile unsigned spin = (seed >> 16) * 40; spin > 0; spin--) /* anywhere within a commit */
                    continue;
                kill(pid, SIGKILL);
                break;
            }
        }
        while (read(out[0], &number, sizeof(number)) == sizeof(number)) /* said before the kill came */
            acknowledged = number;
        close(out[0]);
        waitpid(pid, NULL, 0);
        kills++;
        store_open(s);
        check_whole(s, acknowledged);
        acknowledged = numbers(s).version_last;
        versions_close(s->versions);
        s->versions = NULL;
    }
    print_message("%u kills, %u versions\n", kills, acknowledged);
    assert_true(kills > 5);
}

int main(int argc, char **argv)
{
    program = "/proc/self/exe";
    if (argc == 3 && strcmp(argv[1], "--publish") == 0)
        return child(argv[2]);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
#define TEST(name) cmocka_unit_test_setup_teardown(name, store_set_up, store_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_new_store_has_epoch_one),
        TEST(versions_are_numbered_and_found),
        TEST(artifacts_are_checked),
        TEST(heads_have_generations),
        TEST(evidence_numbers_never_repeat),
        TEST(directory_deltas),
        TEST(keys_keep_their_ids),
        TEST(a_resync_in_pages),
        TEST(pages_fit_a_frame),
        TEST(answers_are_kept_for_a_while),
        TEST(answers_are_bounded_in_bytes),
        TEST(the_audit_log_only_grows),
        TEST(blobs),
        TEST(a_failed_commit_changes_nothing),
        TEST(killed_while_it_publishes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
