/* Rollouts, experiments and shadows against a real store: commands begin them, records move them, a restart loses
 * nothing. */
#include "controlplane/pilot/pilot.h"
#include "controlplane/admin/service.h"
#include "proto/head.h"
#include "tests/unit/controlplane/publish/support.h"

#define T0 INT64_C(1800000000000)

static struct store *store;
static struct service service;
static int64_t now_ms;
static unsigned request_number;
static struct admin_reply *reply;

static void on_changed(void *user)
{
    (void)user;
    assert_int_equal(pilot_follow(service.pilot), OK);
}

static int set_up(void **state)
{
    static const char book[] = "schema: fairlead/1\nkind: prices\nprices:\n"
                               "  openai/gpt-4o: {input: 2.50, output: 10.00, can: [chat]}\n";
    const char *why = "";
    if (store_set_up(state) != 0)
        return -1;
    store = *state;
    service = (struct service){ .versions = store->versions, .home = "/nowhere", .changed = on_changed };
    assert_int_equal(evidence_state_new(&service.evidence), OK);
    assert_int_equal(evidence_load_shipped(service.evidence, span_cstr(book), &why), OK);
    assert_int_equal(nodes_new(&service.nodes), OK);
    assert_int_equal(pilot_new(store->versions, &service.pilot), OK);
    on_changed(NULL);
    now_ms = T0;
    return 0;
}

static int tear_down(void **state)
{
    fault_disarm_all();
    pilot_free(service.pilot);
    nodes_free(service.nodes);
    evidence_state_free(service.evidence);
    return store_tear_down(state);
}

/* words: the command, then names and values of its arguments, then NULL. */
static enum admin_status ask_words(const char *const *words)
{
    struct admin_arg list[10];
    struct buf request_bytes = BUF_INIT(1u << 20), bytes = BUF_INIT(FRAME_BYTES_MAX);
    char id[32];
    snprintf(id, sizeof(id), "request-%08u", ++request_number);
    struct admin_request request = { .protocol = LINK_PROTOCOL,
                                     .request_id = span_cstr(id),
                                     .command = span_cstr(words[0]),
                                     .user = SPAN("ann"),
                                     .args = list };
    for (words++; words[0]; words += 2)
        list[request.arg_count++] = (struct admin_arg){ .name = span_cstr(words[0]), .value = span_cstr(words[1]) };
    assert_int_equal(wire_encode_admin_request(&request, &request_bytes), OK);
    const struct caller caller = { .role = ROLE_OPERATOR, .uid = CALLER_UID_UNKNOWN };
    service_execute(&service, buf_span(&request_bytes), &caller, now_ms++, &bytes);
    assert_int_equal(wire_decode_admin_reply(&store->arena, buf_span(&bytes), &reply), OK);
    buf_release(&request_bytes);
    buf_release(&bytes);
    return reply->status;
}
#define ASK(...) ask_words((const char *const[]){ __VA_ARGS__, NULL })

static void says(const char *what)
{
    if (span_find(reply->message, span_cstr(what)) == SIZE_MAX)
        fail_msg("'" SPAN_FMT "' does not say '%s'", SPAN_ARG(reply->message), what);
}

/* Policies that differ in the attempts of their one route. */
static const char *policy(unsigned n)
{
    return arena_printf(
        &store->arena,
        "{\"root\":\"p.yaml\",\"files\":[{\"name\":\"p.yaml\",\"text\":\"schema: fairlead/1\\nkind: policy\\n"
        "providers:\\n  openai: {preset: openai, credentials: [k]}\\nmodels:\\n  openai/gpt-4o: {}\\n"
        "routes:\\n  chat: {tiers: [{models: [openai/gpt-4o]}], attempts: %u}\\n"
        "  bulk: {tiers: [{models: [openai/gpt-4o]}]}\\n\"}]}",
        n);
}

static struct head *live_head(void)
{
    struct head *head;
    begin(store, false);
    assert_int_equal(versions_head_get(store->versions, &store->arena, 0, &head), OK);
    versions_abort(store->versions);
    return head;
}

static uint64_t generation(void)
{
    return live_head()->generation;
}

/* v1 live, v2 rolled out by requests: 20%, then 50%, then all; a second each. */
static void push_two(const char *guards)
{
    assert_int_equal(ASK("policy.push", "bundle", policy(1)), ADMIN_OK);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "steps", "20,50,100", "hold", "1s", "unit", "request",
                         "guards", guards),
                     ADMIN_OK);
    says("v2 takes 20% of requests now, v1 keeps the rest; 50% after at least 1s");
}

struct taken {
    const char *assignment;
    uint32_t version;
    uint64_t generation;
    bool failed, forced, listing;
};
static uint64_t unit_number, epoch = 1;
static int64_t kept_ms; /* so long nodes kept what is taken now */

static void take(struct taken t)
{
    char id[32];
    snprintf(id, sizeof(id), "req_%llu", (unsigned long long)unit_number);
    const struct record record = { .kind = RECORD_REQUEST,
                                   .time_ms = now_ms - kept_ms,
                                   .request_id = span_cstr(id),
                                   .endpoint = t.listing ? SPAN("models") : SPAN("chat"),
                                   .route = SPAN("chat"),
                                   .assignment = span_cstr(t.assignment),
                                   .policy_version = t.version,
                                   .epoch = epoch,
                                   .generation = t.generation,
                                   .forced = t.forced,
                                   .has_unit = true,
                                   .unit = ++unit_number * UINT64_C(0x9E3779B97F4A7C15),
                                   .has_features = !t.listing,
                                   .attempt_count = 1,
                                   .status = t.failed ? 502 : 200,
                                   .outcome = t.failed ? SPAN("error") : SPAN("ok"),
                                   .usage_known = true,
                                   .output = 20,
                                   .cost_nano = 1000,
                                   .total_us = 30000 };
    pilot_taken(service.pilot, &record);
}

/* `count` requests of the step, one in `each` of them by v2, of which one in `fails` fails (0: none). */
static void traffic(unsigned count, unsigned each, unsigned fails)
{
    const uint64_t g = pilot_state(service.pilot)->rollout->generation;
    for (unsigned i = 0; i < count; i++) {
        const bool second = i % each == 0;
        take((struct taken){ "rollout-1", second ? 2 : 1, g, second && fails && i / each % fails == 0, false, false });
        if (i % 100 == 99 && pilot_tick(service.pilot, now_ms))
            on_changed(NULL);
    }
}

static bool tick(int64_t ms)
{
    const bool changed = pilot_tick(service.pilot, now_ms += ms);
    if (changed)
        on_changed(NULL);
    return changed;
}

static const struct rollout *rollout(void)
{
    return pilot_state(service.pilot)->rollout;
}

static void restart(void)
{
    pilot_free(service.pilot);
    assert_int_equal(pilot_new(store->versions, &service.pilot), OK);
    on_changed(NULL);
}

static bool last_audit(void *user, uint64_t seq, struct span json)
{
    (void)seq;
    *(struct span *)user = arena_dup(&store->arena, json);
    return true;
}

static void audit_has(const char *what)
{
    struct span line = SPAN("");
    begin(store, false);
    assert_int_equal(versions_audit_each(store->versions, 1, last_audit, &line), OK);
    versions_abort(store->versions);
    if (span_find(line, span_cstr(what)) == SIZE_MAX)
        fail_msg("'" SPAN_FMT "' does not have '%s'", SPAN_ARG(line), what);
}

/* ---- rollouts ---- */

static void steps_to_the_end(void **state)
{
    (void)state;
    push_two("none,errors=5%");
    struct head *head = live_head();
    assert_int_equal(head->arm_count, 2);
    assert_int_equal(head_share(&head->assignments[0], 1), 2000);
    assert_int_equal(rollout()->generation, head->generation);
    assert_false(tick(2000)); /* time alone is not enough */
    traffic(2000, 5, 0);      /* with a tick now and then */
    assert_int_equal(rollout()->step, 1);
    assert_int_equal(rollout()->generation, generation());
    audit_has("\"command\":\"rollout.step\"");
    audit_has("\"requests_treatment\":");
    /* What the first step saw is not the second's evidence, not even when it comes late. */
    for (unsigned i = 0; i < 3000; i++)
        take((struct taken){ "rollout-1", 1 + i % 2, head->generation, false, false, false });
    for (unsigned i = 0; i < 3000; i++) /* nor what somebody chose, or another assignment's */
        take((struct taken){ i % 2 ? "rollout-1" : "rollout-9", 1 + i % 3, generation(), true, i % 2 == 1, false });
    for (unsigned i = 0; i < 3000; i++) /* nor lists of models, which clients poll: no arm answers better or worse */
        take((struct taken){ "rollout-1", 1 + i % 2, generation(), i % 2 == 1, false, true });
    assert_false(tick(1000));
    traffic(2000, 2, 0);
    assert_int_equal(rollout()->phase, ROLLOUT_DONE);
    head = live_head();
    assert_int_equal(head->arm_count, 1);
    assert_int_equal(head->arms[0].policy_version, 2);
    assert_int_equal(head->assignment_count, 0);
    audit_has("\"command\":\"rollout.finish\"");
    assert_false(tick(5000));
    assert_int_equal(ASK("rollback"), ADMIN_OK);
    says("returned to v1, which last held 100%");
}

static void harm_returns(void **state)
{
    (void)state;
    push_two("none,errors=1%");
    assert_int_equal(ASK("lock", "reason", "freeze of the year"), ADMIN_OK);
    assert_int_equal(ASK("rollout.pause"), ADMIN_OK);
    traffic(2000, 5, 5);
    assert_int_equal(rollout()->phase, ROLLOUT_ROLLED_BACK); /* although paused and locked */
    assert_int_equal(live_head()->arms[0].policy_version, 1);
    assert_int_equal(live_head()->arm_count, 1);
    audit_has(
        "\"command\":\"rollout.roll_back\",\"message\":\"rollout-1: returned to v1, which holds 100% again; v2 is "
        "marked as rolled back: errors");
    assert_int_equal(ASK("policy.push", "bundle", policy(2)), ADMIN_CONFLICT);
    says("rolled back");
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "again", "1"), ADMIN_CONFLICT);
    says("locked by ann: freeze of the year");
    assert_int_equal(ASK("unlock"), ADMIN_OK);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "again", "1"), ADMIN_OK);
}

static void a_restart_goes_on(void **state)
{
    (void)state;
    push_two("none");
    assert_false(tick(900));
    restart();
    assert_int_equal(pilot_since(service.pilot) <= rollout()->step_at_ms, 1);
    assert_false(tick(50));
    assert_true(tick(100));
    assert_int_equal(rollout()->step, 1);
    restart();
    assert_int_equal(rollout()->step, 1);
    assert_int_equal(ASK("lock", "reason", "x"), ADMIN_OK);
    restart();
    assert_false(tick(5000));
    assert_int_equal(ASK("rollout.promote"), ADMIN_CONFLICT);
    assert_int_equal(ASK("unlock"), ADMIN_OK);
    assert_true(tick(0));
    assert_int_equal(rollout()->phase, ROLLOUT_DONE);
}

/* While the control plane is down nodes keep their records: no step is taken before those were seen. */
static void a_restart_waits_for_what_nodes_kept(void **state)
{
    static const struct {
        unsigned fails; /* of what nodes kept: one in so many */
        int64_t quiet_ms;
        enum rollout_phase phase;
        uint32_t step;
    } cases[] = { { 3, 0, ROLLOUT_ROLLED_BACK, 0 }, { 0, 0, ROLLOUT_RUNNING, 1 }, { 0, 30000, ROLLOUT_RUNNING, 1 } };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char name[32];
        if (i == 0)
            push_two("none,errors=5%");
        else
            assert_int_equal(ASK("policy.push", "bundle", policy(2), "steps", "20,50,100", "hold", "1s", "unit",
                                 "request", "guards", "none,errors=5%", "again", "1"),
                             ADMIN_OK);
        snprintf(name, sizeof(name), "rollout-%zu", i + 1);
        const uint64_t g = rollout()->generation;
        for (unsigned n = 0; n < 2000; n++)
            take((struct taken){ .assignment = name, .version = n % 5 == 0 ? 2 : 1, .generation = g });
        restart();
        for (unsigned n = 0; n < 2000; n++) /* read again */
            take((struct taken){ .assignment = name, .version = n % 5 == 0 ? 2 : 1, .generation = g });
        assert_false(tick(5000)); /* no harm in it, and the hold time is over */
        kept_ms = 2500;
        for (unsigned n = 0; n < 2000; n++) {
            const bool failed = cases[i].fails && n % 5 == 0 && n / 5 % cases[i].fails == 0;
            take(
                (struct taken){ .assignment = name, .version = n % 5 == 0 ? 2 : 1, .generation = g, .failed = failed });
        }
        kept_ms = 0;
        assert_int_equal(tick(10), cases[i].phase == ROLLOUT_ROLLED_BACK);
        if (cases[i].phase == ROLLOUT_RUNNING && !cases[i].quiet_ms)
            take((struct taken){ .assignment = name, .version = 1, .generation = g });
        (void)tick(cases[i].quiet_ms);
        assert_int_equal(rollout()->phase, cases[i].phase);
        assert_int_equal(rollout()->step, cases[i].step);
        if (rollout_live(rollout()))
            assert_int_equal(ASK("rollout.abort"), ADMIN_OK);
    }
}

/* A restored store gives the same ids and numbers to other things: what came of the former ones is none of theirs. */
static void another_epoch_is_no_evidence(void **state)
{
    (void)state;
    push_two("none,errors=5%");
    epoch = 2;
    traffic(2000, 5, 2);
    epoch = 1;
    assert_false(tick(2000));
    assert_int_equal(rollout()->phase, ROLLOUT_RUNNING);
    assert_int_equal(ASK("rollout.status"), ADMIN_OK);
    assert_true(span_find(reply->result, SPAN("\"requests\":[0,0]")) != SIZE_MAX);
    traffic(2000, 5, 0);
    assert_int_equal(rollout()->step, 1);
}

/* Arms of the wrong size stop it; people may go on, and then the step is measured anew. */
static void a_wrong_ratio_is_forgotten_when_resumed(void **state)
{
    (void)state;
    push_two("none,errors=5%");
    const uint64_t before = generation();
    traffic(2000, 50, 0);
    assert_int_equal(rollout()->phase, ROLLOUT_PAUSED);
    assert_int_equal(ASK("rollout.resume", "reason", "the balancer was it"), ADMIN_OK);
    says("goes on at 20% of v2, measured anew");
    assert_int_equal(rollout()->phase, ROLLOUT_RUNNING);
    assert_true(generation() > before && rollout()->generation == generation());
    assert_int_equal(head_share(&live_head()->assignments[0], 1), 2000);
    assert_false(tick(1000)); /* nor paused again by what was */
    traffic(2000, 5, 0);
    assert_int_equal(rollout()->step, 1);
    assert_int_equal(ASK("rollout.pause"), ADMIN_OK);
    const uint64_t then = generation();
    assert_int_equal(ASK("rollout.resume"), ADMIN_OK);
    says("with the hold time it had");
    assert_int_equal(generation(), then);
}

/* What was only stored goes live by no way while locked; a rollout's own way back is open. */
static void a_lock_leaves_only_ways_back(void **state)
{
    (void)state;
    push_two("none");
    assert_int_equal(ASK("policy.push", "bundle", policy(3), "store", "1"), ADMIN_OK);
    assert_int_equal(ASK("lock", "reason", "freeze"), ADMIN_OK);
    assert_int_equal(ASK("rollback", "version", "3"), ADMIN_CONFLICT);
    says("locked by ann");
    assert_int_equal(ASK("rollback", "version", "2"), ADMIN_CONFLICT); /* the canary to 100% */
    assert_int_equal(live_head()->arm_count, 2);
    assert_int_equal(rollout()->phase, ROLLOUT_RUNNING);
    assert_int_equal(ASK("rollback"), ADMIN_OK);
    says("returned to v1");
    assert_int_equal(ASK("unlock"), ADMIN_OK);
    assert_int_equal(ASK("rollback", "version", "3"), ADMIN_OK);
    assert_int_equal(ASK("lock", "reason", "freeze"), ADMIN_OK);
    assert_int_equal(ASK("rollback", "version", "1"), ADMIN_OK);
    says("returned to v1, which last held 100%");
}

/* However much people had to say: what does harm is returned, with its line in the log. */
static void long_reasons_stop_nothing(void **state)
{
    (void)state;
    char reason[1001];
    memset(reason, '\x01', sizeof(reason) - 1); /* six bytes each, as JSON */
    reason[sizeof(reason) - 1] = '\0';
    push_two("none,errors=1%");
    for (unsigned i = 0; i < ROLLOUT_DECISIONS_MAX; i++)
        assert_int_equal(i % 2 ? ASK("rollout.resume", "reason", reason) : ASK("rollout.pause", "reason", reason),
                         ADMIN_OK);
    traffic(2000, 5, 5);
    assert_int_equal(rollout()->phase, ROLLOUT_ROLLED_BACK);
    audit_has("\"command\":\"rollout.roll_back\"");
}

/* A guard that no experiment takes would leave a rollout that nobody judges: it is refused before. */
static void what_cannot_be_judged_is_refused(void **state)
{
    char guard[] = "none,feedback:1234567890123456789012345678901";
    (void)state;
    memset(guard + strlen("none,feedback:"), 0xff,
           sizeof(guard) - sizeof("none,feedback:")); /* each three when stored */
    assert_int_equal(ASK("policy.push", "bundle", policy(1)), ADMIN_OK);
    assert_int_equal(
        ASK("policy.push", "bundle", policy(2), "steps", "20,100", "unit", "request", "guards", "none,errors=1"),
        ADMIN_INVALID);
    says("only of ttft and cost can 100% or more be tolerated");
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "steps", "20,100", "unit", "request", "guards", guard),
                     ADMIN_INVALID);
    assert_int_equal(live_head()->arm_count, 1);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "steps", "20,100", "unit", "request", "guards",
                         "none,ttft=150%,errors=99%"),
                     ADMIN_OK);
    assert_true(pilot_since(service.pilot) < INT64_MAX);
}

/* Nothing is written when the write fails, and it is tried again later, not at every tick. */
static void a_full_disk_only_delays(void **state)
{
    (void)state;
    push_two("none");
    const uint64_t before = generation();
    fault_arm(FAULT_COMMIT, 0, 1);
    assert_false(tick(1000));
    fault_disarm_all();
    assert_int_equal(generation(), before);
    assert_false(tick(1000));
    assert_true(tick(5000));
    assert_int_equal(generation(), before + 1);
}

static void one_thing_at_a_time(void **state)
{
    (void)state;
    push_two("none");
    assert_int_equal(ASK("policy.push", "bundle", policy(3)), ADMIN_CONFLICT);
    says("rollout-1 of v2 is at 20% (running)");
    assert_int_equal(ASK("policy.push", "bundle", policy(2)), ADMIN_OK);
    says("is being rolled out (rollout-1, at 20%)");
    assert_int_equal(ASK("policy.push", "bundle", policy(1)), ADMIN_OK);
    says("this is v1, which is live; rollout-1 goes on (v2 at 20%)");
    assert_int_equal(ASK("experiment.start", "arms", "1=50,2=50", "unit", "request"), ADMIN_CONFLICT);
    assert_int_equal(ASK("rollout.resume"), ADMIN_CONFLICT);
    assert_int_equal(ASK("rollout.promote"), ADMIN_OK);
    says("v2 takes 50% now");
    assert_int_equal(ASK("rollout.abort", "reason", "no"), ADMIN_OK);
    says("rollout-1 is aborted: v2, which had 50%, is marked as rolled back; v1 holds 100%");
    assert_int_equal(ASK("rollout.abort"), ADMIN_NOT_FOUND);
    assert_int_equal(ASK("rollout.history"), ADMIN_OK);
    assert_true(span_find(reply->result, SPAN("rollout.abort")) != SIZE_MAX);
    assert_true(span_find(reply->result, SPAN("nothing to do")) == SIZE_MAX); /* those two pushes changed nothing */
}

static void too_few_keys_are_refused(void **state)
{
    (void)state;
    assert_int_equal(ASK("policy.push", "bundle", policy(1)), ADMIN_OK);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "steps", "5,100"), ADMIN_INVALID);
    says("5% of 0 valid keys makes 0.0 on an arm, which needs at least");
    says("Use another unit (--unit user, or --unit request)");
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "steps", "100,5"), ADMIN_INVALID);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "unit", "planet"), ADMIN_INVALID);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "routes", "chta"), ADMIN_INVALID);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "now", "1", "steps", "5,100"), ADMIN_INVALID);
    assert_int_equal(live_head()->arms[0].policy_version, 1);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "steps", "5,100", "guards", "none"), ADMIN_OK);
    says(", by time alone: without guards nothing but you returns to v1.");
    assert_int_equal(ASK("rollout.status"), ADMIN_OK);
    assert_true(span_find(reply->result, SPAN("harm")) == SIZE_MAX);
    assert_int_equal(ASK("rollout.pause"), ADMIN_OK);
    says("is paused: v2 stays at 5%; time does not count");
    assert_true(span_find(reply->message, SPAN("harm")) == SIZE_MAX);
}

/* ---- experiments and shadows ---- */

static void an_experiment_runs_beside_a_rollout(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 3; i++)
        assert_int_equal(ASK("policy.push", "bundle", policy(i)), ADMIN_OK);
    assert_int_equal(ASK("experiment.start", "arms", "1=30,2=30", "unit", "request", "routes", "bulk"), ADMIN_OK);
    says("experiment-1 runs: v1 30%, v2 30% of requests, compared with v1");
    assert_int_equal(ASK("policy.push", "bundle", policy(4)), ADMIN_CONFLICT);
    assert_int_equal(ASK("policy.push", "bundle", policy(4), "steps", "10,100", "unit", "request", "routes", "chat"),
                     ADMIN_OK);
    struct head *head = live_head();
    assert_int_equal(head->assignment_count, 2);
    assert_int_equal(head->arm_count, 4);
    assert_int_equal(ASK("shadow.start", "version", "1", "share", "5%", "budget", "0.000001"), ADMIN_OK);
    assert_int_equal(live_head()->shadow_count, 1);
    assert_int_equal(ASK("rollback"), ADMIN_OK);
    says("returned to v3, which holds 100%; v4 is marked as rolled back; ended experiment-1; ended shadow-3");
    head = live_head();
    assert_true(head->assignment_count == 0 && head->shadow_count == 0 && head->arm_count == 1);
    assert_int_equal(ASK("experiment.report"), ADMIN_OK); /* its figures stay */
    assert_true(span_find(reply->result, SPAN("\"phase\":\"stopped\"")) != SIZE_MAX);
}

/* With no version to return to, a rollback ends what runs beside the live one. */
static void a_rollback_ends_an_experiment_alone(void **state)
{
    (void)state;
    assert_int_equal(ASK("policy.push", "bundle", policy(1)), ADMIN_OK);
    assert_int_equal(ASK("policy.push", "bundle", policy(2), "store", "1"), ADMIN_OK);
    assert_int_equal(ASK("experiment.start", "arms", "1=50,2=50", "unit", "request"), ADMIN_OK);
    assert_int_equal(ASK("rollback"), ADMIN_OK);
    says("everybody is on v1, which holds 100%; ended experiment-1");
    assert_int_equal(live_head()->arm_count, 1);
    assert_int_equal(ASK("rollback"), ADMIN_NOT_FOUND);
}

static void experiments_count_their_arms(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 2; i++)
        assert_int_equal(ASK("policy.push", "bundle", policy(i)), ADMIN_OK);
    assert_int_equal(ASK("experiment.start", "arms", "2=50,1=60", "unit", "request"), ADMIN_INVALID);
    assert_int_equal(ASK("experiment.start", "arms", "2=60,1=30", "unit", "request"), ADMIN_INVALID);
    says("v2 is live and has what the others leave: say 2=70%");
    assert_int_equal(ASK("experiment.start", "arms", "2=50,1=50", "unit", "request", "metrics", "foo"), ADMIN_INVALID);
    says("'foo' is no metric: errors, ttft,");
    assert_int_equal(ASK("experiment.start", "arms", "2=50,1=50", "unit", "request", "metrics", "cost,errors"),
                     ADMIN_OK);
    const struct head *head = live_head();
    assert_int_equal(head_share(&head->assignments[0], 0), 5000);
    for (unsigned i = 0; i < 400; i++)
        take((struct taken){ "experiment-1", 1 + i % 2, head->generation, false, false, false });
    assert_false(tick(0));
    assert_int_equal(ASK("experiment.report"), ADMIN_OK);
    assert_true(span_find(reply->result, SPAN("\"requests\":[200,200]")) != SIZE_MAX);
    /* Gross harm in one arm stops it. */
    for (unsigned i = 0; i < 200; i++)
        take((struct taken){ "experiment-1", 1 + i % 2, head->generation, i % 2 == 0, false, false });
    assert_true(tick(0));
    assert_int_equal(live_head()->assignment_count, 0);
    audit_has("\"command\":\"experiment.stop\"");
}

static void a_shadow_ends_with_its_budget(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 2; i++)
        assert_int_equal(ASK("policy.push", "bundle", policy(i)), ADMIN_OK);
    assert_int_equal(ASK("shadow.start", "version", "1", "share", "5", "budget", "1"), ADMIN_INVALID);
    assert_int_equal(ASK("shadow.start", "version", "1", "share", "150%", "budget", "1"), ADMIN_INVALID);
    says("--share: '150%' is no share");
    assert_int_equal(ASK("shadow.start", "version", "1", "share", "5%", "budget", "much"), ADMIN_INVALID);
    says("--budget: 'much' is no number of dollars");
    assert_int_equal(ASK("shadow.start", "version", "1", "share", "5%", "budget", "0.00001"), ADMIN_OK);
    const uint64_t g = generation();
    for (unsigned i = 0; i < 5; i++) {
        char id[16];
        snprintf(id, sizeof(id), "req_%u", i);
        const struct record real = { .kind = RECORD_REQUEST,
                                     .time_ms = now_ms,
                                     .request_id = span_cstr(id),
                                     .route = SPAN("chat"),
                                     .epoch = 1,
                                     .generation = g,
                                     .policy_version = 2,
                                     .status = 200,
                                     .outcome = SPAN("ok"),
                                     .output = 10,
                                     .cost_nano = 1000,
                                     .total_us = 20000 };
        struct record copy = real;
        copy.kind = RECORD_SHADOW;
        copy.request_id = SPAN("shadow");
        copy.of = span_cstr(id);
        copy.assignment = SPAN("shadow-1");
        copy.policy_version = 1;
        copy.status = i == 0 ? 500 : 200;
        copy.cost_nano = 2000;
        pilot_taken(service.pilot, i % 2 ? &copy : &real); /* in either order */
        pilot_taken(service.pilot, i % 2 ? &real : &copy);
    }
    for (unsigned i = 5; i < 7; i++) { /* one whose client has left, and one that its node gave up */
        const bool left = i == 5;
        char id[16];
        snprintf(id, sizeof(id), "req_%u", i);
        const struct record real = { .kind = RECORD_REQUEST,
                                     .time_ms = now_ms,
                                     .request_id = span_cstr(id),
                                     .route = SPAN("chat"),
                                     .epoch = 1,
                                     .generation = g,
                                     .policy_version = 2,
                                     .status = left ? 499 : 200,
                                     .outcome = left ? SPAN("cancelled") : SPAN("ok") };
        struct record copy = real;
        copy.kind = RECORD_SHADOW;
        copy.of = span_cstr(id);
        copy.assignment = SPAN("shadow-1");
        copy.status = left ? 200 : 499;
        copy.outcome = left ? SPAN("ok") : SPAN("cancelled");
        pilot_taken(service.pilot, &real);
        pilot_taken(service.pilot, &copy);
    }
    assert_int_equal(ASK("shadow.status"), ADMIN_OK);
    assert_true(span_find(reply->result,
                          SPAN("\"copies\":7,\"failed\":1,\"unsent\":0,\"compared\":{\"requests\":5,\"same_status\":4,"
                               "\"real_failed\":0,\"shadow_failed\":1,\"real_tokens\":50,"
                               "\"shadow_tokens\":50,\"real_nano\":5000,\"shadow_nano\":10000")) != SIZE_MAX);
    for (unsigned i = 0; i < 2; i++) { /* whatever a node writes, its sum is one */
        const struct record dear = { .kind = RECORD_SHADOW,
                                     .time_ms = now_ms,
                                     .request_id = SPAN("shadow"),
                                     .of = SPAN("req_0"),
                                     .assignment = SPAN("shadow-1"),
                                     .epoch = 1,
                                     .generation = g,
                                     .cost_nano = INT64_MAX };
        pilot_taken(service.pilot, &dear);
    }
    assert_true(tick(0)); /* the budget is spent */
    assert_int_equal(live_head()->shadow_count, 0);
    audit_has("\"command\":\"shadow.stop\",\"message\":\"the shadow's budget is spent\"");
}

static void shadow_copy(int64_t cost_nano, int64_t estimate_nano)
{
    pilot_taken(service.pilot, &(struct record){ .kind = RECORD_SHADOW,
                                                 .time_ms = now_ms,
                                                 .request_id = SPAN("shadow"),
                                                 .of = SPAN("req_1"),
                                                 .route = SPAN("chat"),
                                                 .assignment = SPAN("shadow-1"),
                                                 .epoch = 1,
                                                 .generation = generation(),
                                                 .policy_version = 1,
                                                 .cost_nano = cost_nano,
                                                 .estimate_nano = estimate_nano });
}

/* A node stops a little before the budget is spent: it holds estimates back. */
static void a_shadow_ends_when_nothing_fits_any_more(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 2; i++)
        assert_int_equal(ASK("policy.push", "bundle", policy(i)), ADMIN_OK);
    assert_int_equal(ASK("shadow.start", "version", "1", "share", "5%", "budget", "0.00001"), ADMIN_OK); /* 10,000 */
    shadow_copy(2000, 0);
    for (unsigned i = 0; i < 100; i++)
        shadow_copy(0, 8000); /* had no room beside others under way; it would fit into what is left */
    assert_false(tick(0));
    for (unsigned i = 0; i < 19; i++)
        shadow_copy(0, 8001);
    assert_false(tick(0));
    shadow_copy(1000, 0); /* some do fit: the others were large */
    for (unsigned i = 0; i < 19; i++)
        shadow_copy(0, 7001);
    assert_false(tick(0));
    assert_int_equal(ASK("shadow.status"), ADMIN_OK);
    assert_true(span_find(reply->result, SPAN("\"copies\":2,\"failed\":2,\"unsent\":19,")) != SIZE_MAX);
    shadow_copy(0, 7001);
    assert_true(tick(0));
    assert_int_equal(live_head()->shadow_count, 0);
    audit_has("\"command\":\"shadow.stop\",\"message\":\"what is left of the shadow's budget is less than any of the "
              "last 20 copies needed\"");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(steps_to_the_end),
        TEST(harm_returns),
        TEST(a_restart_goes_on),
        TEST(a_restart_waits_for_what_nodes_kept),
        TEST(another_epoch_is_no_evidence),
        TEST(a_wrong_ratio_is_forgotten_when_resumed),
        TEST(long_reasons_stop_nothing),
        TEST(a_lock_leaves_only_ways_back),
        TEST(what_cannot_be_judged_is_refused),
        TEST(a_full_disk_only_delays),
        TEST(one_thing_at_a_time),
        TEST(too_few_keys_are_refused),
        TEST(an_experiment_runs_beside_a_rollout),
        TEST(a_rollback_ends_an_experiment_alone),
        TEST(experiments_count_their_arms),
        TEST(a_shadow_ends_with_its_budget),
        TEST(a_shadow_ends_when_nothing_fits_any_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
