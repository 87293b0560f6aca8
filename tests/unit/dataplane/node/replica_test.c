/* The replica against a scripted control plane over a real link; self-tests run in real processes: this program again.
 */
#include "dataplane/node/replica.h"
#include "common/fault.h"
#include "dataplane/node/selftest.h"
#include "tests/unit/dataplane/node/table_sample.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 20000u

struct world {
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t deadline;
    struct arena arena;         /* of one test: objects */
    struct arena request_arena; /* of the last request */
    struct channel_server *server;
    struct channel_call *held;              /* a long poll */
    struct fetch_request *request, *report; /* the last of each kind: wait_ms 0 or not */
    struct fetch_reply next;                /* for the next poll */
    bool has_next;
    unsigned polls, reports, commits;
    bool late;
    char home[64], board_path[64], program[512];
    struct node_config config;
    struct board *board;
    struct tablestore *store;
    struct replica replica;
};

static void answer(struct channel_call *call, const struct fetch_reply *reply)
{
    struct buf out = BUF_INIT(FRAME_BYTES_MAX);
    assert_int_equal(wire_encode_fetch_reply(reply, &out), OK);
    channel_reply(call, buf_span(&out));
    buf_release(&out);
}

static const struct fetch_reply nothing = { .protocol = LINK_PROTOCOL };

static void on_request(void *user, struct channel_call *call, struct span bytes, UNUSED const struct channel_peer *peer)
{
    struct world *w = user;
    struct fetch_request *request;
    assert_int_equal(wire_decode_fetch_request(&w->request_arena, bytes, &request), OK);
    if (request->wait_ms == 0) {
        w->report = request;
        w->reports++;
        answer(call, &nothing);
        return;
    }
    w->request = request;
    w->polls++;
    if (w->has_next) {
        w->has_next = false;
        answer(call, &w->next);
    } else {
        assert_null(w->held);
        w->held = call;
    }
}

/* Answers the poll that is held, or the next one. */
static void serve(struct world *w, struct object *objects, uint32_t count, uint64_t adopted)
{
    w->next = (struct fetch_reply){
        .protocol = LINK_PROTOCOL, .objects = objects, .object_count = count, .adopted_epoch = adopted
    };
    w->has_next = true;
    if (w->held) {
        struct channel_call *call = w->held;
        w->held = NULL;
        w->has_next = false;
        answer(call, &w->next);
    }
}

static void wake_server(void *user)
{
    uv_async_send(user);
}

static void on_wake(uv_async_t *async)
{
    struct world *w = async->data;
    if (w->server)
        channel_server_dispatch(w->server);
}

static void on_late(uv_timer_t *timer)
{
    ((struct world *)timer->data)->late = true;
}

static void on_committed(void *user)
{
    ((struct world *)user)->commits++;
}

#define RUN_UNTIL(w, condition)                                                                                        \
    do {                                                                                                               \
        (w)->late = false;                                                                                             \
        uv_timer_start(&(w)->deadline, on_late, WAIT_MS, 0);                                                           \
        while (!(condition) && !(w)->late)                                                                             \
            uv_run(&(w)->loop, UV_RUN_ONCE);                                                                           \
        assert_true(condition);                                                                                        \
    } while (0)

static void open_replica(struct world *w)
{
    assert_int_equal(replica_open(&w->replica, &(struct replica_options){ .loop = &w->loop,
                                                                          .config = &w->config,
                                                                          .board = w->board,
                                                                          .store = w->store,
                                                                          .program = w->program,
                                                                          .events = { on_committed, w } }),
                     OK);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    char address[128], dir[128];
    (void)snprintf(w->home, sizeof(w->home), "/tmp/fl-replica-XXXXXX");
    assert_non_null(mkdtemp(w->home));
    (void)snprintf(w->board_path, sizeof(w->board_path), "/dev/shm/fl-replica-%ld", (long)getpid());
    (void)snprintf(dir, sizeof(dir), "%s/store", w->home);
    (void)snprintf(address, sizeof(address), "ipc://%s/fetch", w->home);
    assert_true(readlink("/proc/self/exe", w->program, sizeof(w->program) - 1) > 0);
    arena_init(&w->arena, 64u << 20);
    arena_init(&w->request_arena, 64u << 20);
    assert_int_equal(uv_loop_init(&w->loop), 0);
    assert_int_equal(uv_async_init(&w->loop, &w->wake, on_wake), 0);
    assert_int_equal(uv_timer_init(&w->loop, &w->deadline), 0);
    w->wake.data = w->deadline.data = w;
    w->config = (struct node_config){ .name = strdup("n1"), .control = strdup(address) };
    assert_int_equal(credentials_new(&w->config.credentials), OK);
    assert_int_equal(board_create(w->board_path, 1, &w->board), OK);
    assert_int_equal(tablestore_open(dir, false, &w->store), OK);
    const struct channel_server_options options = {
        .address = address, .parallel = 4, .handler = on_request, .user = w, .wake = wake_server, .wake_user = &w->wake
    };
    assert_int_equal(channel_server_open(&options, &w->server), OK);
    open_replica(w);
    *state = w;
    return 0;
}

static void close_replica(struct world *w)
{
    replica_close(&w->replica);
    uv_unref((uv_handle_t *)&w->wake);
    uv_unref((uv_handle_t *)&w->deadline);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_ref((uv_handle_t *)&w->wake);
    uv_ref((uv_handle_t *)&w->deadline);
    replica_release(&w->replica);
    if (w->held)
        answer(w->held, &nothing);
    w->held = NULL;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    char command[128];
    close_replica(w);
    channel_server_close(w->server);
    uv_close((uv_handle_t *)&w->wake, NULL);
    uv_close((uv_handle_t *)&w->deadline, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    tablestore_close(w->store);
    board_close(w->board);
    (void)unlink(w->board_path);
    node_config_release(&w->config);
    arena_release(&w->arena);
    arena_release(&w->request_arena);
    (void)snprintf(command, sizeof(command), "rm -r %s", w->home);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

static void put_first(struct world *w)
{
    struct object objects[] = { sample_artifact(&w->arena, 1), { .kind = 0 }, { .kind = 0 } };
    objects[1] = sample_head(&w->arena, 1, 1, &objects[0]);
    objects[2] = sample_page(&w->arena, 1, 1, 'a', false);
    serve(w, objects, 3, 0);
    RUN_UNTIL(w, w->commits == 1 && w->held);
}

static void applies_and_reports(void **state)
{
    struct world *w = *state;
    RUN_UNTIL(w, w->held);
    assert_int_equal(w->reports, 1); /* whether anybody is there */
    assert_true(span_eq(w->request->node, SPAN("n1")));
    put_first(w);
    assert_int_equal(w->request->committed.generation, 1);
    assert_int_equal(w->request->committed.directory_seq, 1);
    assert_int_equal(w->request->artifact_count, 1);
    assert_int_equal(w->request->unresolved_credentials.count, 1);
    assert_true(span_eq(w->request->unresolved_credentials.items[0], SPAN("openai-a")));
    assert_true(board_committed(w->board) > 0);
    assert_int_not_equal(board_label_find(w->board, BOARD_LABEL_MODEL, SPAN("fake/small")), BOARD_OTHER);
    assert_int_not_equal(board_label_find(w->board, BOARD_LABEL_ROUTE, SPAN("chat")), BOARD_OTHER);
    assert_int_not_equal(board_label_find(w->board, BOARD_LABEL_TEAM, SPAN("research")), BOARD_OTHER);
    /* What is served goes out at once, while the long poll is held. */
    const unsigned reports = w->reports, polls = w->polls;
    replica_serving(&w->replica, &(struct table_version){ .epoch = 1, .generation = 1, .directory_seq = 1 }, 2);
    RUN_UNTIL(w, w->reports > reports);
    assert_int_equal(w->report->serving.generation, 1);
    assert_int_equal(w->report->workers, 2);
    assert_int_equal(w->polls, polls);
}

static void refuses_the_corrupt(void **state)
{
    struct world *w = *state;
    put_first(w);
    struct object bad = sample_evidence(&w->arena, 1, 7);
    bad.hash.bytes[0] ^= 1;
    serve(w, &bad, 1, 0);
    RUN_UNTIL(w, w->report && w->report->nack_count == 1); /* told at once */
    assert_int_equal(w->report->nacks[0].kind, OBJECT_EVIDENCE);
    assert_true(span_eq(w->report->nacks[0].reason, SPAN("corrupt")));
    assert_int_equal(w->commits, 1);
    /* A good one afterwards ends the refusal. */
    struct object good = sample_evidence(&w->arena, 1, 8);
    serve(w, &good, 1, 0);
    RUN_UNTIL(w, w->commits == 2 && w->held);
    assert_int_equal(w->request->nack_count, 0);
    assert_int_equal(w->request->committed.evidence_seq, 8);
}

/* Well-formed head, garbage for an artifact: the throwaway process finds out, evidence in the same reply is taken. */
static void refuses_what_fails_its_test(void **state)
{
    struct world *w = *state;
    put_first(w);
    struct object objects[] = { wire_object(OBJECT_ARTIFACT, 0, SPAN("\xff\xff\xff garbage")),
                                { .kind = 0 },
                                sample_evidence(&w->arena, 1, 3) };
    objects[1] = sample_head(&w->arena, 1, 2, &objects[0]);
    serve(w, objects, 3, 0);
    RUN_UNTIL(w, w->commits == 2 && w->report->nack_count == 1);
    assert_int_equal(w->report->nacks[0].kind, OBJECT_HEAD);
    assert_int_equal(w->report->nacks[0].seq, 2);
    assert_true(span_find(w->report->nacks[0].reason, SPAN("corrupt")) != SIZE_MAX);
    assert_int_equal(w->replica.committed.generation, 1);
    assert_int_equal(w->replica.committed.evidence_seq, 3);
    /* The same again costs no second test and no hot loop: the next poll comes after a pause. */
    RUN_UNTIL(w, w->held);
    const unsigned polls = w->polls;
    serve(w, objects, 3, 0);
    RUN_UNTIL(w, w->polls > polls);
    assert_int_equal(w->replica.nacks_by_kind[OBJECT_HEAD], 1);
    struct object good[] = { sample_artifact(&w->arena, 2), { .kind = 0 } };
    good[1] = sample_head(&w->arena, 1, 3, &good[0]);
    serve(w, good, 2, 0);
    RUN_UNTIL(w, w->commits == 3 && w->held);
    assert_int_equal(w->request->committed.generation, 3);
    assert_int_equal(w->request->nack_count, 0);
}

static void refuses_a_head_without_its_artifact(void **state)
{
    struct world *w = *state;
    put_first(w);
    const struct object missing = sample_artifact(&w->arena, 9);
    struct object head = sample_head(&w->arena, 1, 2, &missing);
    serve(w, &head, 1, 0);
    RUN_UNTIL(w, w->report && w->report->nack_count == 1);
    assert_true(span_starts(w->report->nacks[0].reason, SPAN("not_found")));
    assert_int_equal(w->replica.committed.generation, 1);
}

/* Two arms whose artifacts come one by one, as they do not fit a frame together. */
static void keeps_artifacts_for_a_head_to_come(void **state)
{
    struct world *w = *state;
    put_first(w);
    struct object objects[] = { sample_artifact(&w->arena, 2), sample_artifact(&w->arena, 3), { .kind = 0 } };
    struct arm arms[] = { { .name = SPAN("stable"), .artifact = objects[0].hash },
                          { .name = SPAN("canary"), .policy_version = 3, .artifact = objects[1].hash } };
    struct bucket_range range = { .arm = 1, .count = 100 };
    struct assignment assignment = { .id = SPAN("rollout-1"), .ranges = &range, .range_count = 1 };
    const struct head head = {
        .epoch = 1, .generation = 2, .arms = arms, .arm_count = 2, .assignments = &assignment, .assignment_count = 1
    };
    struct buf bytes = BUF_INIT(HEAD_BYTES_MAX);
    assert_int_equal(wire_encode_head(&head, &bytes), OK);
    objects[2] = wire_object(OBJECT_HEAD, 2, sample_bytes(&w->arena, &bytes));
    serve(w, objects, 1, 0);
    RUN_UNTIL(w, w->commits == 2 && w->held); /* asked again at once, and told what is there */
    assert_int_equal(w->request->artifact_count, 2);
    assert_int_equal(w->request->committed.generation, 1);
    unsigned polls = w->polls;
    serve(w, objects, 1, 0); /* known: no commit, and no hot loop */
    RUN_UNTIL(w, w->polls > polls && w->held);
    assert_int_equal(w->commits, 2);
    serve(w, objects + 1, 2, 0);
    RUN_UNTIL(w, w->commits == 3 && w->held);
    assert_int_equal(w->request->committed.generation, 2);
    assert_int_equal(w->request->nack_count, 0);
    assert_int_equal(w->replica.arm_count, 2);
    assert_int_equal(w->replica.arms[0].share, ASSIGNMENT_BUCKETS - 100);
    assert_int_equal(w->replica.arms[1].policy_version, 3);
    assert_int_equal(w->replica.arms[1].share, 100);
    assert_true(span_eq(w->replica.arms[1].name, SPAN("canary")));
}

/* Workers look at the store with every request: labels must stand on the board before the commit, also those of an
 * artifact that is here already. */
static void labels_come_before_the_commit(void **state)
{
    struct world *w = *state;
    put_first(w);
    struct object ahead = sample_artifact(&w->arena, 2), head = sample_head(&w->arena, 1, 2, &ahead);
    serve(w, &ahead, 1, 0);
    RUN_UNTIL(w, w->commits == 2 && w->held);
    board_close(w->board); /* a machine that was started anew */
    assert_int_equal(unlink(w->board_path), 0);
    assert_int_equal(board_create(w->board_path, 1, &w->board), OK);
    w->replica.options.board = w->board;
    assert_int_equal(board_label_count(w->board, BOARD_LABEL_MODEL), 1); /* "other" */
    fault_arm(FAULT_COMMIT, 0, 1);
    serve(w, &head, 1, 0);
    RUN_UNTIL(w, fault_seen(FAULT_COMMIT) > 0);
    fault_disarm_all();
    assert_int_equal(w->replica.committed.generation, 1);
    assert_true(board_label_count(w->board, BOARD_LABEL_MODEL) > 1);
}

static void waits_for_adoption(void **state)
{
    struct world *w = *state;
    put_first(w);
    struct object objects[] = { sample_artifact(&w->arena, 2),
                                { .kind = 0 },
                                sample_page(&w->arena, 5, 1, 'b', false) };
    objects[1] = sample_head(&w->arena, 5, 1, &objects[0]);
    serve(w, objects, 3, 0);
    RUN_UNTIL(w, w->report && w->report->nack_count == 1);
    assert_int_equal(w->replica.committed.epoch, 1);
    assert_int_equal(w->commits, 1);
    assert_int_equal(w->report->adopt_epoch, 1);
    /* An operator allows it: the same head is now taken. */
    RUN_UNTIL(w, w->held);
    serve(w, objects, 3, 5);
    RUN_UNTIL(w, w->replica.committed.epoch == 5 && w->held);
    assert_int_equal(w->request->committed.generation, 1);
    assert_int_equal(w->request->committed.directory_seq, 1);
    assert_int_equal(w->request->nack_count, 0);
}

static void takes_pages(void **state)
{
    struct world *w = *state;
    struct object first = sample_page(&w->arena, 1, 4, 'a', true), last = sample_page(&w->arena, 1, 4, 'b', false);
    struct object objects[] = { sample_artifact(&w->arena, 1), { .kind = 0 }, first };
    objects[1] = sample_head(&w->arena, 1, 1, &objects[0]);
    serve(w, objects, 3, 0);
    RUN_UNTIL(w, w->commits == 1 && w->held);
    char expected[SHA256_BYTES];
    memset(expected, 'a', sizeof(expected));
    assert_true(span_eq(w->request->directory_cursor, span_of(expected, sizeof(expected))));
    assert_int_equal(w->request->directory_resync_seq, 4);
    assert_int_equal(w->request->directory_resync_epoch, 1);
    assert_int_equal(w->request->committed.directory_seq, 0);
    serve(w, &last, 1, 0);
    RUN_UNTIL(w, w->commits == 2 && w->held);
    assert_int_equal(w->request->directory_cursor.len, 0);
    assert_int_equal(w->request->committed.directory_seq, 4);
}

/* Between two pages comes another epoch: the rest of the old directory is not asked of the new one. */
static void an_epoch_ends_a_resync(void **state)
{
    struct world *w = *state;
    struct object first = sample_page(&w->arena, 1, 4, 'a', true);
    struct object objects[] = { sample_artifact(&w->arena, 1), { .kind = 0 }, first };
    objects[1] = sample_head(&w->arena, 1, 1, &objects[0]);
    serve(w, objects, 3, 0);
    RUN_UNTIL(w, w->commits == 1 && w->held);
    assert_int_equal(w->request->directory_cursor.len, SHA256_BYTES);
    objects[1] = sample_head(&w->arena, 5, 1, &objects[0]);
    serve(w, objects, 2, 5);
    RUN_UNTIL(w, w->replica.committed.epoch == 5 && w->held);
    assert_int_equal(w->request->directory_cursor.len, 0);
    assert_int_equal(w->request->directory_resync_seq, 0);
    assert_int_equal(w->request->directory_resync_epoch, 0);
}

static void reverts_what_crashes_workers(void **state)
{
    struct world *w = *state;
    put_first(w);
    struct object objects[] = { sample_artifact(&w->arena, 2), { .kind = 0 } };
    objects[1] = sample_head(&w->arena, 1, 2, &objects[0]);
    serve(w, objects, 2, 0);
    RUN_UNTIL(w, w->commits == 2 && w->held);
    replica_worker_crashed(&w->replica);
    assert_int_equal(w->replica.committed.generation, 2);
    replica_worker_crashed(&w->replica);
    assert_int_equal(w->replica.committed.generation, 1);
    assert_int_equal(w->commits, 3); /* workers are woken for it */
    RUN_UNTIL(w, w->report && w->report->nack_count == 1);
    assert_true(span_eq(w->report->nacks[0].reason, SPAN("crashed")));
    assert_int_equal(w->report->nacks[0].seq, 2);
    assert_int_equal(w->report->committed.generation, 1);
    /* It comes again, and is not taken again. */
    const unsigned polls = w->polls;
    serve(w, objects, 2, 0);
    RUN_UNTIL(w, w->polls > polls && w->held);
    assert_int_equal(w->replica.committed.generation, 1);
    assert_int_equal(w->commits, 3);
}

static void keeps_a_pinned_head(void **state)
{
    struct world *w = *state;
    char dir[128];
    put_first(w);
    close_replica(w);
    tablestore_close(w->store);
    (void)snprintf(dir, sizeof(dir), "%s/store", w->home);
    assert_int_equal(replica_pin(dir, true), OK);
    assert_int_equal(tablestore_open(dir, false, &w->store), OK);
    open_replica(w); /* what was stored is served on */
    RUN_UNTIL(w, w->held);
    assert_true(w->request->pinned);
    assert_int_equal(w->request->committed.generation, 1);
    struct object objects[] = { sample_artifact(&w->arena, 2), { .kind = 0 }, sample_evidence(&w->arena, 1, 2) };
    objects[1] = sample_head(&w->arena, 1, 2, &objects[0]);
    serve(w, objects, 3, 0);
    RUN_UNTIL(w, w->commits == 2 && w->held);
    assert_int_equal(w->request->committed.generation, 1);
    assert_int_equal(w->request->committed.evidence_seq, 2);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--selftest") == 0)
        return selftest_main();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(applies_and_reports, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_the_corrupt, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_what_fails_its_test, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_a_head_without_its_artifact, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keeps_artifacts_for_a_head_to_come, set_up, tear_down),
        cmocka_unit_test_setup_teardown(labels_come_before_the_commit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waits_for_adoption, set_up, tear_down),
        cmocka_unit_test_setup_teardown(takes_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_epoch_ends_a_resync, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reverts_what_crashes_workers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keeps_a_pinned_head, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
