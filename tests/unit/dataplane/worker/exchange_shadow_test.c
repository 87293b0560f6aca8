/* Shadows: sent beside the client's request, discarded, counted apart, bounded, and of no consequence to anybody. */
#include "rig.h"
#include "dataplane/route/breaker.h"
#include "proto/record.h"

#define DOLLAR INT64_C(1000000000)

static struct arm arms[2];
static struct shadow shadows[2];
static uint32_t shadow_count;

/* One arm for clients; the shadows' is another version of the same. */
static void with_shadows(struct rig *rig, struct head *head)
{
    (void)rig;
    arms[0] = head->arms[0];
    arms[1] = (struct arm){ .name = SPAN("next"), .policy_version = 9, .artifact = head->arms[0].artifact };
    head->arms = arms;
    head->arm_count = 2;
    head->shadows = shadows;
    head->shadow_count = shadow_count;
}

static void start(struct rig *rig, int64_t budget_nano)
{
    shadow_count = 1;
    shadows[0] = (struct shadow){
        .id = SPAN("shadow-1"), .arm = 1, .share_ppm = 1000000, .budget_nano = budget_nano, .tools = shadows[0].tools
    };
    shadows[1] = (struct shadow){ .id = SPAN("shadow-2"), .arm = 0, .share_ppm = 1000000, .budget_nano = DOLLAR };
    rig->arrange_head = with_shadows;
    rig_start(rig, true);
    const struct span ids[] = { shadows[0].id, shadows[1].id };
    board_budgets_keep(rig->board, ids, 2); /* as the master does with a head */
}

static void answer(struct rig *rig, unsigned number)
{
    struct try *t = &rig->lane.tries[number];
    try_head(t, 200, "application/json", NULL, NULL);
    try_body(t, WHOLE_ANSWER);
    try_done(t, OK);
}

static void answer_stream(struct rig *rig, unsigned number)
{
    struct try *t = &rig->lane.tries[number];
    try_head(t, 200, "text/event-stream", NULL, NULL);
    try_body(t, ROLE CONTENT("x") FINISH USAGE(10, 20) DONE);
    try_done(t, OK);
}

static uint64_t of_arm(struct rig *rig, bool shadow, enum arm_counter counter)
{
    const struct board_arm_id id = { .version = shadow ? 9 : 1,
                                     .shadow = shadow,
                                     .name = shadow ? SPAN("next") : SPAN("stable") };
    return atomic_load(&board_arm(rig->core.region, &id)->counters[counter]);
}

static uint64_t worker_count(struct rig *rig, enum worker_counter counter)
{
    return atomic_load(&rig->core.region->counters[counter]);
}

/* The newest record of a kind; it lives in the arena. */
static struct record record_of(struct rig *rig, struct arena *arena, enum record_kind kind)
{
    struct buf out;
    struct record read, found = { .kind = RECORD_FEEDBACK };
    arena_init(arena, 1 << 20);
    (void)records(rig, &out);
    struct span rest = arena_dup(arena, buf_span(&out));
    buf_release(&out);
    for (size_t end; (end = span_find_byte(rest, '\n')) != SIZE_MAX; rest = span_skip(rest, end + 1)) {
        if (record_read(arena, span_head(rest, end), &read))
            fail_msg(SPAN_FMT, SPAN_ARG(span_head(rest, end)));
        if (read.kind == kind)
            found = read;
    }
    assert_int_equal(found.kind, kind);
    return found;
}

static void a_shadow_is_sent_and_discarded(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, DOLLAR);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 2);
    assert_string_equal(rig.lane.tries[0].body, rig.lane.tries[1].body);
    answer_stream(&rig, 0);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_true(has(c, "x-fairlead-arm: stable\r\n"));
    const size_t heard = c->in.len;
    struct arena arena;
    const struct record mine = record_of(&rig, &arena, RECORD_REQUEST);
    char id[64];
    snprintf(id, sizeof(id), SPAN_FMT, SPAN_ARG(mine.request_id));
    arena_release(&arena);
    assert_int_equal(worker_count(&rig, WORKER_SHADOWS_OPEN), 1);

    answer_stream(&rig, 1); /* nobody waits for it */
    UNTIL(&rig, worker_count(&rig, WORKER_SHADOWS_OPEN) == 0);
    rig_pump(&rig);
    assert_int_equal(c->in.len, heard);
    const struct record shadow = record_of(&rig, &arena, RECORD_SHADOW);
    assert_true(span_eq(shadow.of, span_cstr(id)));
    assert_false(span_eq(shadow.request_id, span_cstr(id)));
    assert_true(span_eq(shadow.arm, SPAN("next")) && span_eq(shadow.assignment, SPAN("shadow-1")));
    assert_true(span_eq(shadow.outcome, SPAN("ok")) && span_eq(shadow.model, SPAN("a/m")));
    assert_true(span_eq(shadow.route, SPAN("chat")) && span_eq(shadow.team, SPAN("research")));
    assert_int_equal(shadow.policy_version, 9);
    assert_int_equal(shadow.attempt_count, 1);
    assert_int_equal(shadow.cost_nano, 50000);
    arena_release(&arena);
    /* The team's books know one request. */
    assert_int_equal(counted(&rig, SERIES_REQUESTS), 1);
    assert_int_equal(counted(&rig, SERIES_ATTEMPTS), 1);
    assert_int_equal(counted(&rig, SERIES_COST_NANO), 50000);
    assert_int_equal(of_arm(&rig, false, ARM_OK), 1);
    assert_int_equal(of_arm(&rig, true, ARM_OK), 1);
    assert_int_equal(of_arm(&rig, true, ARM_COST_NANO), 50000);
    assert_int_equal(board_budget_spent(rig.board, SPAN("shadow-1")), 50000);
    rig_stop(&rig);
}

/* Either may hang, fail or go away: the other does not notice. */
static void client_and_shadow_do_not_meet(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, DOLLAR);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 2);
    shutdown(c->fd, SHUT_RDWR);
    UNTIL(&rig, !rig.lane.tries[0].live);
    assert_true(rig.lane.tries[1].live);
    answer_stream(&rig, 1);
    UNTIL(&rig, of_arm(&rig, true, ARM_OK) == 1);

    struct client *d = rig_client(&rig);
    ask(&rig, d, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 4);
    answer(&rig, 2);
    UNTIL(&rig, has(d, "hi there"));
    assert_true(rig.lane.tries[3].live); /* cut when the worker closes; rig_stop sees that nothing is left */
    listener_abort(&rig.listener);
    core_close(&rig.core);
    assert_true(rig.lane.tries[3].cancelled);
    assert_int_equal(of_arm(&rig, true, ARM_CANCELLED), 1);
    struct arena arena;
    const struct record cut = record_of(&rig, &arena, RECORD_SHADOW);
    assert_true(span_eq(cut.outcome, SPAN("cancelled")));
    arena_release(&arena);
    rig_stop(&rig);
}

static void a_failing_shadow_has_no_say(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, DOLLAR);
    struct client *c = rig_client(&rig);
    const uint32_t a = board_label_find(rig.board, BOARD_LABEL_MODEL, SPAN("a/m"));
    unsigned first = 0;
    for (unsigned i = 0; i < 10; i++, first = rig.lane.count) {
        buf_clear(&c->in);
        ask(&rig, c, WHOLE_ASK);
        UNTIL(&rig, rig.lane.count == first + 2);
        answer(&rig, first);
        UNTIL(&rig, has(c, "hi there"));
        for (unsigned n = first + 1; n <= first + 3; n++) { /* down its whole chain */
            UNTIL(&rig, rig.lane.count == n + 1);
            try_head(&rig.lane.tries[n], 500, "application/json", NULL, NULL);
            try_done(&rig.lane.tries[n], OK);
        }
        UNTIL(&rig, worker_count(&rig, WORKER_SHADOWS_OPEN) == 0);
    }
    assert_int_equal(of_arm(&rig, true, ARM_ERRORS), 10);
    assert_int_equal(of_arm(&rig, true, ARM_ATTEMPT_FAILURES), 30);
    assert_int_equal(counted(&rig, SERIES_ATTEMPT_FAILURES), 0);
    assert_int_equal(counted(&rig, SERIES_FAILOVERS), 0);
    const uint64_t word = atomic_load(&board_model(rig.board, a)->breaker);
    assert_int_equal(breaker_state(word, core_now_ms(&rig.core)), BREAKER_CLOSED);
    const uint32_t c_model = board_label_find(rig.board, BOARD_LABEL_MODEL, SPAN("c/m"));
    assert_int_equal(breaker_state(atomic_load(&board_model(rig.board, c_model)->breaker), core_now_ms(&rig.core)),
                     BREAKER_CLOSED);
    rig_stop(&rig);
}

#define TOOLS_ASK                                                                                                      \
    "{\"model\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":\"function\","      \
    "\"function\":{\"name\":\"f\"}}]}"

static void tools_are_left_out_unless_allowed(void **state)
{
    (void)state;
    for (int allowed = 0; allowed < 2; allowed++) {
        struct rig rig = { .port = 0 };
        shadows[0].tools = allowed;
        start(&rig, DOLLAR);
        struct client *c = rig_client(&rig);
        ask(&rig, c, TOOLS_ASK);
        UNTIL(&rig, rig.lane.count >= 1);
        answer(&rig, 0);
        UNTIL(&rig, has(c, "hi there"));
        UNTIL(&rig, rig.lane.count == 1u + (unsigned)allowed);
        assert_int_equal(worker_count(&rig, WORKER_SHADOWS_OPEN), allowed);
        assert_int_equal(worker_count(&rig, WORKER_SHADOWS_SKIPPED), 0);
        rig_stop(&rig);
    }
    shadows[0].tools = false;
}

static void the_budget_ends_it(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, 120000); /* each costs 50,000 in the end; what is estimated before is more */
    struct client *c = rig_client(&rig);
    unsigned sent = 0;
    for (unsigned i = 0; i < 8; i++) {
        const unsigned before = rig.lane.count;
        buf_clear(&c->in);
        ask(&rig, c, "{\"model\":\"chat\",\"max_tokens\":20,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}");
        UNTIL(&rig, rig.lane.count > before);
        answer(&rig, before);
        UNTIL(&rig, has(c, "hi there"));
        rig_pump(&rig); /* a shadow's first attempt comes with the next turn */
        rig_pump(&rig);
        if (rig.lane.count == before + 2) {
            answer(&rig, before + 1);
            sent++;
        }
        assert_int_equal(worker_count(&rig, WORKER_SHADOWS_OPEN), 0);
    }
    assert_in_range(sent, 1, 3);
    assert_int_equal(board_budget_spent(rig.board, SPAN("shadow-1")), 50000 * (int64_t)sent);
    assert_int_equal(of_arm(&rig, true, ARM_OK), sent);
    assert_int_equal(of_arm(&rig, true, ARM_CANCELLED), 0); /* what was never sent is not counted */
    assert_true(rig.core.shadow_unsent_due_ms > 0);
    rig.core.shadow_unsent_due_ms = 0;
    unsigned before = rig.lane.count;
    buf_clear(&c->in);
    ask(&rig, c, "{\"model\":\"chat\",\"max_tokens\":20,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}");
    UNTIL(&rig, rig.lane.count > before);
    answer(&rig, before);
    UNTIL(&rig, has(c, "hi there"));
    rig_pump(&rig);
    struct arena arena;
    const struct record unsent = record_of(&rig, &arena, RECORD_SHADOW); /* but the control plane hears of it */
    assert_true(unsent.estimate_nano > 120000 - 50000 * (int64_t)sent);
    assert_true(span_eq(unsent.error, SPAN("budget")) && unsent.attempt_count == 0 && unsent.cost_nano == 0);
    arena_release(&arena);
    rig.core.shadow_unsent_due_ms = UINT64_MAX; /* of those that follow at once it does not */
    before = rig.lane.count;
    buf_clear(&c->in);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count > before);
    answer(&rig, before);
    UNTIL(&rig, has(c, "hi there"));
    rig_pump(&rig);
    struct buf out;
    assert_int_equal(records(&rig, &out), 1);
    buf_release(&out);
    rig_stop(&rig);
}

static void two_shadows_of_one_request(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, DOLLAR);
    shadow_count = 2;
    rig_publish(&rig);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 3);
    for (unsigned i = 3; i-- > 0;)
        answer(&rig, i);
    UNTIL(&rig, has(c, "hi there"));
    assert_int_equal(times(c, "hi there"), 1);
    assert_int_equal(worker_count(&rig, WORKER_SHADOWS_OPEN), 0);
    struct buf out;
    assert_int_equal(records(&rig, &out), 3);
    buf_release(&out);
    rig_stop(&rig);
}

static void a_busy_worker_sends_none(void **state)
{
    (void)state;
    struct rig rig = { .port = 0, .config.limits.connections = 2 };
    start(&rig, DOLLAR);
    struct client *c = rig_client(&rig), *d = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 2);
    answer(&rig, 1);
    ask(&rig, d, WHOLE_ASK); /* the second of two */
    UNTIL(&rig, rig.lane.count == 3);
    answer(&rig, 2);
    UNTIL(&rig, has(d, "hi there"));
    assert_int_equal(worker_count(&rig, WORKER_SHADOWS_SKIPPED), 1);
    assert_int_equal(worker_count(&rig, WORKER_SHADOWS_OPEN), 0);
    answer(&rig, 0);
    UNTIL(&rig, has(c, "hi there"));
    rig.core.draining = true; /* nor does one that is about to end */
    buf_clear(&d->in);
    ask(&rig, d, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 4);
    answer(&rig, 3);
    UNTIL(&rig, has(d, "hi there"));
    assert_int_equal(worker_count(&rig, WORKER_SHADOWS_SKIPPED), 2);
    rig.core.draining = false;
    rig_stop(&rig);
}

/* That the worker has much to do says nothing of the arm; what was sent is paid for all the same. */
static void it_yields_as_cancelled(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, DOLLAR);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 2);
    answer(&rig, 0);
    UNTIL(&rig, has(c, "hi there"));
    const uint64_t most = rig.config.limits.buffered_bytes;
    rig.config.limits.buffered_bytes = 1; /* half of it is held by anything */
    struct try *t = &rig.lane.tries[1];
    try_head(t, 200, "application/json", NULL, NULL);
    try_body(t, "{");
    rig.config.limits.buffered_bytes = most;
    assert_true(t->cancelled);
    assert_int_equal(worker_count(&rig, WORKER_SHADOWS_OPEN), 0);
    assert_int_equal(of_arm(&rig, true, ARM_CANCELLED), 1);
    assert_int_equal(of_arm(&rig, true, ARM_ERRORS), 0);
    struct arena arena;
    const struct record cut = record_of(&rig, &arena, RECORD_SHADOW);
    assert_true(span_eq(cut.outcome, SPAN("cancelled")) && span_eq(cut.error, SPAN("busy")));
    assert_true(cut.cost_nano > 0);
    assert_int_equal(board_budget_spent(rig.board, SPAN("shadow-1")), cut.cost_nano);
    arena_release(&arena);
    rig_stop(&rig);
}

/* Its provider may bill what nobody waited for: an arm that hangs must not spend without end. */
static void what_hangs_is_spent(void **state)
{
    (void)state;
    struct rig rig = { .deadline_ms = 300 };
    start(&rig, DOLLAR);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 2);
    const int64_t taken = board_budget_spent(rig.board, SPAN("shadow-1"));
    assert_true(taken > 0);
    UNTIL(&rig, worker_count(&rig, WORKER_SHADOWS_OPEN) == 0);
    assert_true(rig.lane.tries[1].cancelled);
    assert_int_equal(board_budget_spent(rig.board, SPAN("shadow-1")), taken);
    UNTIL(&rig, has(c, "\"error\""));
    rig_stop(&rig);
}

static void they_do_not_pile_up(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, DOLLAR);
    atomic_store(&rig.core.region->counters[WORKER_SHADOWS_OPEN], 64); /* as many hang already */
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    answer(&rig, 0);
    UNTIL(&rig, has(c, "hi there"));
    assert_int_equal(rig.lane.count, 1);
    assert_int_equal(worker_count(&rig, WORKER_SHADOWS_SKIPPED), 1);
    atomic_store(&rig.core.region->counters[WORKER_SHADOWS_OPEN], 0);
    rig_stop(&rig);
}

/* Every allocation in turn fails once: the client is answered or told, nothing leaks, and the next is served. */
static void memory_may_run_out(void **state)
{
    (void)state;
    bool reached = true;
    for (uint64_t nth = 0; reached; nth++) {
        struct rig rig = { .port = 0 };
        start(&rig, DOLLAR);
        struct client *c = rig_client(&rig), *d = rig_client(&rig);
        UNTIL(&rig, rig.listener.count == 2);
        char *room; /* the test's own memory must not be what fails */
        assert_int_equal(buf_reserve(&c->in, 65536, &room), OK);
        fault_arm(FAULT_ALLOC, nth, 1);
        ask(&rig, c, WHOLE_ASK);
        const uint64_t until_ms = clock_ms() + 10000;
        unsigned played = 0;
        while (clock_ms() < until_ms) {
            rig_pump(&rig);
            if (rig.lane.count > played) {
                struct try *t = &rig.lane.tries[played++];
                try_head(t, 200, "application/json", NULL, NULL);
                if (t->live)
                    try_body(t, WHOLE_ANSWER);
                if (t->live)
                    try_done(t, OK);
            } else if ((c->eof || has(c, "hi there") || has(c, "\"error\"")) &&
                       worker_count(&rig, WORKER_SHADOWS_OPEN) == 0) {
                break;
            }
        }
        assert_true(clock_ms() < until_ms);
        reached = fault_seen(FAULT_ALLOC) > nth;
        fault_disarm_all();
        played = rig.lane.count;
        ask(&rig, d, WHOLE_ASK);
        UNTIL(&rig, rig.lane.count == played + 2);
        answer(&rig, played);
        answer(&rig, played + 1);
        UNTIL(&rig, has(d, "hi there"));
        rig_stop(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shadow_is_sent_and_discarded),
        cmocka_unit_test(client_and_shadow_do_not_meet),
        cmocka_unit_test(a_failing_shadow_has_no_say),
        cmocka_unit_test(tools_are_left_out_unless_allowed),
        cmocka_unit_test(the_budget_ends_it),
        cmocka_unit_test(two_shadows_of_one_request),
        cmocka_unit_test(a_busy_worker_sends_none),
        cmocka_unit_test(it_yields_as_cancelled),
        cmocka_unit_test(what_hangs_is_spent),
        cmocka_unit_test(they_do_not_pile_up),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
