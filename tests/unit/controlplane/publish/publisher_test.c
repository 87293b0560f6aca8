/* Long polls: answered when there is something, when their time is up, and never twice. */
#include "controlplane/publish/publisher.h"
#include "tests/unit/controlplane/publish/support.h"

#define CALLS 8

static struct nodes *nodes;
static struct publisher *publisher;
static struct fetch_reply *replies[CALLS];
static unsigned answered[CALLS];
static struct arena arena;

static void on_reply(void *user, void *call, struct span reply)
{
    const size_t i = (size_t)((unsigned *)call - answered);
    assert_ptr_equal(user, &arena);
    assert_int_equal(answered[i]++, 0);
    fault_disarm_all();
    replies[i] = NULL;
    if (reply.len == 0) /* it could not be encoded: the node asks again */
        return;
    assert_int_equal(wire_decode_fetch_reply(&arena, reply, &replies[i]), OK);
    assert_int_equal(replies[i]->protocol, LINK_PROTOCOL);
}

static int set_up(void **state)
{
    memset(answered, 0, sizeof(answered));
    memset(replies, 0, sizeof(replies));
    arena_init(&arena, (size_t)1 << 30);
    if (store_set_up(state) != 0 || nodes_new(&nodes) != OK)
        return -1;
    return publisher_new(((struct store *)*state)->versions, nodes, on_reply, &arena, &publisher);
}

static int tear_down(void **state)
{
    fault_disarm_all();
    publisher_free(publisher);
    nodes_free(nodes);
    arena_release(&arena);
    return store_tear_down(state);
}

static struct fetch_request request_of(uint64_t epoch, uint64_t generation, uint64_t evidence, uint64_t directory)
{
    const struct table_version at = {
        .epoch = epoch, .generation = generation, .evidence_seq = evidence, .directory_seq = directory
    };
    return (struct fetch_request){ .protocol = LINK_PROTOCOL,
                                   .node = SPAN("n1"),
                                   .version = SPAN("0.1"),
                                   .incarnation = SPAN("i"),
                                   .committed = at,
                                   .serving = at,
                                   .wait_ms = 5000,
                                   .adopt_epoch = epoch };
}

static void fetch(unsigned call, const struct fetch_request *request, uint64_t now_ms)
{
    struct buf bytes = BUF_INIT(1u << 20);
    assert_int_equal(wire_encode_fetch_request(request, &bytes), OK);
    answered[call] = 0;
    publisher_fetch(publisher, &answered[call], buf_span(&bytes), 1700000000000, now_ms);
    buf_release(&bytes);
}

static void publish(struct store *s, unsigned number)
{
    char content[32];
    struct arm arm = { .name = SPAN("stable"), .policy_version = number };
    struct head head = { .arms = &arm, .arm_count = 1, .by = SPAN("b"), .why = SPAN("w") };
    snprintf(content, sizeof(content), "artifact %u", number);
    begin(s, true);
    arm.artifact = record_of(s, content).artifact;
    assert_int_equal(versions_head_put(s->versions, &head), OK);
    commit(s);
}

static void refresh(void)
{
    assert_int_equal(publisher_refresh(publisher), OK);
}

static const struct object *object_of(unsigned call, enum object_kind kind)
{
    assert_int_equal(answered[call], 1);
    for (uint32_t i = 0; i < replies[call]->object_count; i++) {
        if (replies[call]->objects[i].kind == kind)
            return &replies[call]->objects[i];
    }
    return NULL;
}

static void expect_nothing(unsigned call)
{
    assert_int_equal(answered[call], 1);
    assert_int_equal(replies[call]->object_count, 0);
    assert_int_equal(replies[call]->error.len, 0);
}

static void held_until_there_is_something(void **state)
{
    struct store *s = *state;
    struct fetch_request r = request_of(0, 0, 0, 0);
    fetch(0, &r, 1000);
    fetch(1, &r, 1000);
    assert_int_equal(answered[0] + answered[1], 0);
    refresh(); /* no change: still held */
    assert_int_equal(answered[0] + answered[1], 0);
    publish(s, 1);
    refresh();
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(object_of(i, OBJECT_HEAD)->seq, 1);
        assert_true(span_eq(object_of(i, OBJECT_ARTIFACT)->bytes, SPAN("artifact 1")));
        assert_int_equal(replies[i]->objects[0].kind, OBJECT_ARTIFACT); /* before the head that names it */
    }
    refresh();
    publisher_tick(publisher, 1000000);
}

/* Three arms over two artifacts that do not fit one frame together. */
static void large_artifacts_come_one_by_one(void **state)
{
    struct store *s = *state;
    struct arm arms[3] = { { .name = SPAN("stable") }, { .name = SPAN("canary") }, { .name = SPAN("same") } };
    struct head head = { .arms = arms, .arm_count = 3, .by = SPAN("b"), .why = SPAN("w") };
    const size_t bytes = FRAME_BYTES_MAX / 2;
    char *text = calloc(1, bytes);
    struct sha256 held[2];
    begin(s, true);
    for (unsigned i = 0; i < 2; i++) {
        text[0] = (char)('a' + i);
        held[i] = sha256_of(span_of(text, bytes));
        assert_int_equal(versions_artifact_put(s->versions, &held[i], span_of(text, bytes)), OK);
        arms[i].artifact = arms[2].artifact = held[i];
    }
    free(text);
    assert_int_equal(versions_head_put(s->versions, &head), OK);
    commit(s);
    refresh();
    struct fetch_request r = request_of(1, 0, 0, 0);
    r.artifacts = held;
    for (unsigned i = 0; i < 3; i++) {
        r.artifact_count = i;
        fetch(i, &r, 0);
        assert_int_equal(answered[i], 1);
        assert_int_equal(replies[i]->object_count, i == 1 ? 2 : 1);
        assert_int_equal(object_of(i, OBJECT_HEAD) != NULL, i > 0);
        if (i < 2)
            assert_true(sha256_eq(&object_of(i, OBJECT_ARTIFACT)->hash, &held[i]));
    }
}

static void answered_when_time_is_up(void **state)
{
    struct fetch_request r = request_of(1, 0, 0, 0);
    (void)state;
    fetch(0, &r, 1000);
    r.wait_ms = UINT32_MAX; /* bounded by us */
    fetch(1, &r, 1000);
    publisher_tick(publisher, 5999);
    assert_int_equal(answered[0], 0);
    publisher_tick(publisher, 6000);
    expect_nothing(0);
    publisher_tick(publisher, 999 + PUBLISHER_WAIT_MS_MAX);
    assert_int_equal(answered[1], 0);
    publisher_tick(publisher, 1000 + PUBLISHER_WAIT_MS_MAX);
    expect_nothing(1);
    r.wait_ms = 0;
    fetch(2, &r, 1000);
    expect_nothing(2);
}

static void only_what_is_lacking(void **state)
{
    struct store *s = *state;
    publish(s, 1);
    begin(s, true);
    put_key(s, 1);
    commit(s);
    refresh();
    assert_int_equal(publisher_evidence(publisher, 7, SPAN("evidence")), OK);
    struct fetch_request r = request_of(0, 0, 0, 0);
    fetch(0, &r, 0);
    assert_non_null(object_of(0, OBJECT_HEAD));
    assert_non_null(object_of(0, OBJECT_ARTIFACT));
    assert_non_null(object_of(0, OBJECT_DIRECTORY));
    assert_true(span_eq(object_of(0, OBJECT_EVIDENCE)->bytes, SPAN("evidence")));
    r = request_of(1, 0, 7, 1);
    struct sha256 held = sha256_of(SPAN("artifact 1"));
    r.artifacts = &held;
    r.artifact_count = 1;
    fetch(1, &r, 0); /* a head whose artifact the node has: a rollback */
    assert_int_equal(replies[1]->object_count, 1);
    assert_non_null(object_of(1, OBJECT_HEAD));
    r = request_of(1, 1, 6, 1);
    fetch(2, &r, 0);
    assert_int_equal(replies[2]->object_count, 1);
    assert_int_equal(object_of(2, OBJECT_EVIDENCE)->seq, 7);
    r = request_of(1, 1, 7, 1);
    fetch(3, &r, 0); /* up to date: held */
    assert_int_equal(answered[3], 0);
    begin(s, true);
    put_key(s, 2);
    commit(s);
    refresh();
    assert_int_equal(replies[3]->object_count, 1);
    struct directory_delta *delta;
    assert_int_equal(wire_decode_directory_delta(&arena, object_of(3, OBJECT_DIRECTORY)->bytes, &delta, NULL), OK);
    assert_false(delta->full);
    assert_int_equal(delta->key_count, 1);
    r.committed.directory_seq = 2;
    fetch(4, &r, 0);
    assert_int_equal(publisher_evidence(publisher, 8, SPAN("newer")), OK);
    assert_true(span_eq(object_of(4, OBJECT_EVIDENCE)->bytes, SPAN("newer")));
}

static void pinned_nodes_keep_their_head(void **state)
{
    struct store *s = *state;
    publish(s, 1);
    refresh();
    struct fetch_request r = request_of(1, 0, 0, 0);
    r.pinned = true;
    fetch(0, &r, 0);
    assert_int_equal(answered[0], 0);
    begin(s, true);
    put_key(s, 1);
    commit(s);
    refresh(); /* keys are never held back */
    assert_int_equal(replies[0]->object_count, 1);
    assert_non_null(object_of(0, OBJECT_DIRECTORY));
}

static void another_epoch_waits_for_adoption(void **state)
{
    struct store *s = *state;
    publish(s, 1);
    begin(s, true);
    put_key(s, 1);
    assert_int_equal(versions_raise_epoch(s->versions), OK);
    commit(s);
    publish(s, 2);
    refresh();
    struct fetch_request r = request_of(1, 90, 5, 80);
    fetch(0, &r, 0);
    assert_int_equal(answered[0], 0);
    assert_int_equal(nodes_adopt(nodes, SPAN("n1"), 2), OK);
    refresh();
    assert_int_equal(replies[0]->adopted_epoch, 2);
    assert_int_equal(object_of(0, OBJECT_HEAD)->seq, 2); /* lower than the node's, of a higher epoch */
    struct directory_delta *delta;
    assert_int_equal(wire_decode_directory_delta(&arena, object_of(0, OBJECT_DIRECTORY)->bytes, &delta, NULL), OK);
    assert_true(delta->full);
    assert_int_equal(delta->epoch, 2);
    r.pinned = true;
    fetch(1, &r, 0); /* pinned in its epoch: nothing to send, and no storm of polls */
    assert_int_equal(answered[1], 0);
}

/* A cursor of one epoch would skip keys of the directory of another. */
static void a_cursor_counts_in_its_epoch_only(void **state)
{
    struct store *s = *state;
    char end[SHA256_BYTES];
    struct directory_delta *delta;
    memset(end, 0xff, sizeof(end));
    begin(s, true);
    put_key(s, 1);
    put_key(s, 2);
    assert_int_equal(versions_raise_epoch(s->versions), OK);
    commit(s);
    refresh();
    struct fetch_request r = request_of(0, 0, 0, 0);
    r.directory_cursor = span_of(end, sizeof(end));
    r.directory_resync_seq = 2;
    r.directory_resync_epoch = 1;
    fetch(0, &r, 0);
    assert_int_equal(wire_decode_directory_delta(&arena, object_of(0, OBJECT_DIRECTORY)->bytes, &delta, NULL), OK);
    assert_int_equal(delta->key_count, 2);
    r.directory_resync_epoch = 2;
    fetch(1, &r, 0);
    assert_int_equal(wire_decode_directory_delta(&arena, object_of(1, OBJECT_DIRECTORY)->bytes, &delta, NULL), OK);
    assert_int_equal(delta->key_count, 0);
}

static void adoption_of_all_outlives_a_restart(void **state)
{
    struct store *s = *state;
    begin(s, true);
    assert_int_equal(versions_raise_epoch(s->versions), OK);
    assert_int_equal(versions_adopt_all(s->versions), OK);
    commit(s);
    publish(s, 1);
    assert_int_equal(nodes_adopted(nodes, SPAN("n1")), 0);
    publisher_free(publisher);
    nodes_free(nodes);
    assert_int_equal(nodes_new(&nodes), OK);
    assert_int_equal(publisher_new(s->versions, nodes, on_reply, &arena, &publisher), OK);
    struct fetch_request r = request_of(1, 90, 5, 80); /* a node that was offline meanwhile */
    fetch(0, &r, 0);
    assert_int_equal(replies[0]->adopted_epoch, 2);
    assert_non_null(object_of(0, OBJECT_HEAD));
    /* It was said of that epoch alone. */
    begin(s, true);
    assert_int_equal(versions_raise_epoch(s->versions), OK);
    commit(s);
    publish(s, 2);
    refresh();
    r.committed.epoch = 2;
    fetch(1, &r, 0);
    assert_int_equal(answered[1], 0);
}

static void garbage_is_answered(void **state)
{
    struct fetch_request r = request_of(0, 0, 0, 0);
    (void)state;
    publisher_fetch(publisher, &answered[0], SPAN("\xff\xff garbage"), 0, 0);
    assert_int_equal(answered[0], 1);
    assert_int_not_equal(replies[0]->error.len, 0);
    r.protocol = LINK_PROTOCOL + 1;
    fetch(1, &r, 0);
    assert_true(span_eq(replies[1]->error, SPAN("unsupported")));
    r = request_of(0, 0, 0, 0);
    r.node = SPAN("not a name");
    fetch(2, &r, 0);
    assert_int_not_equal(replies[2]->error.len, 0);
}

/* A head whose artifact is damaged: said as an error, nothing sent. */
static void a_damaged_artifact_is_not_sent(void **state)
{
    struct store *s = *state;
    const struct sha256 hash = sha256_of(SPAN("artifact 1"));
    publish(s, 1);
    begin(s, true);
    assert_int_equal(versions_artifact_put(s->versions, &hash, SPAN("damaged")), OK);
    commit(s);
    refresh();
    struct fetch_request r = request_of(0, 0, 0, 0);
    fetch(0, &r, 0);
    assert_int_equal(replies[0]->object_count, 0);
    assert_true(span_eq(replies[0]->error, SPAN("corrupt")));
}

static void each_allocation_fails(void **state)
{
    struct store *s = *state;
    publish(s, 1);
    refresh();
    struct fetch_request r = request_of(0, 0, 0, 0);
    struct buf bytes = BUF_INIT(1u << 20);
    assert_int_equal(wire_encode_fetch_request(&r, &bytes), OK);
    for (uint64_t k = 0; k < 60; k++) {
        answered[0] = 0;
        fault_arm(FAULT_ALLOC, k, 1);
        publisher_fetch(publisher, &answered[0], buf_span(&bytes), 0, 0);
        fault_disarm_all();
        assert_int_equal(answered[0], 1);
    }
    buf_release(&bytes);
}

static void freed_while_polls_wait(void **state)
{
    struct fetch_request r = request_of(1, 0, 0, 0);
    (void)state;
    fetch(0, &r, 0);
    fetch(1, &r, 0);
    publisher_free(publisher);
    publisher = NULL;
    expect_nothing(0);
    expect_nothing(1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(held_until_there_is_something),
        TEST(large_artifacts_come_one_by_one),
        TEST(answered_when_time_is_up),
        TEST(only_what_is_lacking),
        TEST(pinned_nodes_keep_their_head),
        TEST(another_epoch_waits_for_adoption),
        TEST(a_cursor_counts_in_its_epoch_only),
        TEST(adoption_of_all_outlives_a_restart),
        TEST(garbage_is_answered),
        TEST(a_damaged_artifact_is_not_sent),
        TEST(each_allocation_fails),
        TEST(freed_while_polls_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
