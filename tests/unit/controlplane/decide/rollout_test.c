#include "controlplane/decide/rollout.h"
#include "common/arena.h"
#include "common/buf.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define MINUTE ((int64_t)60000)
#define BY     SPAN("ann")

static struct arena arena;
static struct judgement judgements[EXPERIMENT_GUARDS_MAX];
static struct rollout_evidence evidence;
static struct rollout_decision d;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 4u << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

static void all_say(enum verdict verdict)
{
    for (size_t i = 0; i < EXPERIMENT_GUARDS_MAX; i++)
        judgements[i] = (struct judgement){ .verdict = verdict,
                                            .baseline = 0.01,
                                            .treatment = 0.012,
                                            .change = 0.002,
                                            .low = -0.001,
                                            .high = 0.005,
                                            .p_value = 0.5,
                                            .units = { 90, 30 },
                                            .requests = { 900, 300 },
                                            .units_effective = { 80, 25 },
                                            .looks = 3 };
    evidence = (struct rollout_evidence){ .judgements = judgements, .ratio = { .p_value = 0.7, .units = { 90, 30 } } };
}

/* v17 to v18 in 5, 25, 100 with ten minutes each, begun at time 0; nothing known yet. */
static struct rollout begun(void)
{
    struct rollout r = { .id = 7, .from = 17, .to = 18, .by = BY, .salt = { 1, 2, 3 } };
    rollout_plan_defaults(&r.plan);
    rollout_start(&r, 0);
    assert_int_equal(r.generation, 0);
    r.generation = 4811;
    all_say(VERDICT_TOO_LITTLE);
    return r;
}

static enum rollout_action at(struct rollout *r, int64_t now_ms)
{
    rollout_advance(r, now_ms);
    rollout_decide(r, &evidence, &d);
    return d.action;
}

static void apply(struct rollout *r, enum rollout_action action, int64_t now_ms)
{
    assert_int_equal(rollout_apply(r, &arena, action, SPAN("fairlead"), d.reason, now_ms), OK);
}

static void good_steps_reach_the_end(void **state)
{
    (void)state;
    struct rollout r = begun();
    assert_int_equal(rollout_share(&r), 500);
    all_say(VERDICT_NO_HARM);
    assert_int_equal(at(&r, 10 * MINUTE - 1), ROLLOUT_STAY); /* evidence alone is not enough */
    assert_int_equal(d.hold_left_ms, 1);
    assert_int_equal(at(&r, 10 * MINUTE), ROLLOUT_STEP);
    assert_non_null(strstr(d.reason, "to 25%"));
    apply(&r, d.action, 10 * MINUTE);
    assert_int_equal(rollout_share(&r), 2500);
    assert_int_equal(r.generation, 0);                       /* until its head is stored */
    assert_int_equal(at(&r, 20 * MINUTE - 1), ROLLOUT_STAY); /* each step holds anew */
    assert_int_equal(at(&r, 20 * MINUTE), ROLLOUT_FINISH);
    apply(&r, d.action, 20 * MINUTE);
    assert_int_equal(r.phase, ROLLOUT_DONE);
    assert_int_equal(rollout_share(&r), ASSIGNMENT_BUCKETS);
    assert_int_equal(r.decision_count, 2);
    assert_string_equal(r.decisions[0].what.ptr, "5% -> 25%");
    assert_string_equal(r.decisions[1].what.ptr, "25% -> 100%");
    assert_int_equal(rollout_apply(&r, &arena, ROLLOUT_ROLL_BACK, BY, "", 0), ERR_CONFLICT);
    assert_int_equal(rollout_abort(&r, &arena, BY, "", 0), ERR_CONFLICT);
}

static void time_alone_is_not_evidence(void **state)
{
    (void)state;
    struct rollout r = begun();
    assert_int_equal(at(&r, 119 * MINUTE), ROLLOUT_STAY);
    assert_true(d.waits && !d.too_little);
    assert_non_null(strstr(d.reason, "8 of 8 guards do not exclude harm yet: errors: too few keys"));
    assert_int_equal(at(&r, 120 * MINUTE), ROLLOUT_STAY); /* too_little: then wait */
    assert_true(d.waits && d.too_little);
    r.plan.too_little_proceeds = true;
    assert_int_equal(at(&r, 120 * MINUTE), ROLLOUT_STEP);
    assert_non_null(strstr(d.reason, "the plan says proceed"));
    all_say(VERDICT_NO_HARM);
    judgements[1].verdict = VERDICT_UNDECIDED; /* one guard holds all up */
    assert_int_equal(at(&r, 60 * MINUTE), ROLLOUT_STEP);
    r.plan.too_little_proceeds = false;
    assert_int_equal(at(&r, 61 * MINUTE), ROLLOUT_STAY);
    assert_non_null(strstr(d.reason, "1 of 8"));
}

static void guards_without_any_data_hold_nothing_up(void **state)
{
    (void)state;
    struct rollout r = begun();
    all_say(VERDICT_NO_HARM);
    judgements[7] = (struct judgement){ .verdict = VERDICT_TOO_LITTLE }; /* nobody votes */
    assert_int_equal(at(&r, 10 * MINUTE), ROLLOUT_STEP);
    for (size_t i = 0; i < EXPERIMENT_GUARDS_MAX; i++)
        judgements[i] = (struct judgement){ .verdict = VERDICT_TOO_LITTLE }; /* nobody asks */
    assert_int_equal(at(&r, 10 * MINUTE), ROLLOUT_STAY);
    r.plan.guard_count = 0; /* by time alone, as asked for */
    assert_int_equal(at(&r, 10 * MINUTE), ROLLOUT_STEP);
}

static void harm_rolls_back_at_once(void **state)
{
    (void)state;
    struct rollout r = begun();
    all_say(VERDICT_NO_HARM);
    judgements[0] = (struct judgement){ .verdict = VERDICT_HARM,
                                        .baseline = 0.01,
                                        .treatment = 0.045,
                                        .change = 0.035,
                                        .low = 0.014,
                                        .high = 0.06,
                                        .units = { 90, 30 },
                                        .requests = { 8000, 412 } };
    evidence.locked = true; /* a lock stops no rollback */
    assert_int_equal(at(&r, 1000), ROLLOUT_ROLL_BACK);
    assert_string_equal(d.reason,
                        "errors: v18 4.50%, v17 1.00%: +3.50 points, surely between +1.40 points and +6.00 points; "
                        "tolerated +1.00 points (8000 and 412 requests of 90 and 30 keys)");
    apply(&r, d.action, 1000);
    assert_int_equal(r.phase, ROLLOUT_ROLLED_BACK);
    assert_int_equal(rollout_share(&r), 0);
    assert_int_equal(r.ended_at_ms, 1000);
    r = begun();
    evidence.tripwire = "12 of 12 requests failed";
    assert_int_equal(at(&r, 1), ROLLOUT_ROLL_BACK);
    assert_string_equal(d.reason, "12 of 12 requests failed");
}

static void paused_time_does_not_count(void **state)
{
    (void)state;
    struct rollout r = begun();
    all_say(VERDICT_NO_HARM);
    assert_int_equal(at(&r, 9 * MINUTE), ROLLOUT_STAY);
    apply(&r, ROLLOUT_PAUSE, 9 * MINUTE);
    assert_int_equal(rollout_apply(&r, &arena, ROLLOUT_PAUSE, BY, "", 0), ERR_CONFLICT);
    assert_int_equal(rollout_apply(&r, &arena, ROLLOUT_STEP, BY, "", 0), ERR_CONFLICT);
    assert_int_equal(at(&r, 500 * MINUTE), ROLLOUT_STAY);
    assert_non_null(strstr(d.reason, "paused"));
    judgements[0].verdict = VERDICT_HARM;
    assert_int_equal(at(&r, 500 * MINUTE), ROLLOUT_ROLL_BACK); /* guards go on watching */
    all_say(VERDICT_NO_HARM);
    assert_int_equal(rollout_resume(&r, &arena, false, BY, "looked", 500 * MINUTE), OK);
    assert_int_equal(rollout_resume(&r, &arena, false, BY, "", 500 * MINUTE), ERR_CONFLICT);
    assert_int_equal(at(&r, 501 * MINUTE - 1), ROLLOUT_STAY);
    assert_int_equal(d.hold_left_ms, 1);
    assert_int_equal(at(&r, 501 * MINUTE), ROLLOUT_STEP);
}

static void a_clock_set_back_adds_nothing(void **state)
{
    (void)state;
    struct rollout r = begun();
    all_say(VERDICT_NO_HARM);
    assert_int_equal(at(&r, 6 * MINUTE), ROLLOUT_STAY);
    assert_int_equal(at(&r, 1 * MINUTE), ROLLOUT_STAY);
    assert_int_equal(d.hold_left_ms, 4 * MINUTE);
    assert_int_equal(at(&r, 5 * MINUTE - 1), ROLLOUT_STAY);
    assert_int_equal(at(&r, 5 * MINUTE), ROLLOUT_STEP);
}

static void arms_of_the_wrong_size_pause(void **state)
{
    (void)state;
    struct rollout r = begun();
    all_say(VERDICT_NO_HARM);
    evidence.ratio = (struct ratio_check){ .mismatch = true, .p_value = 0.0001, .units = { 900, 10 } };
    assert_int_equal(at(&r, 60 * MINUTE), ROLLOUT_PAUSE);
    assert_non_null(strstr(d.reason, "900 and 10"));
    judgements[0].verdict = VERDICT_HARM; /* what harms is stopped all the same */
    assert_int_equal(at(&r, 60 * MINUTE), ROLLOUT_ROLL_BACK);
}

static void a_lock_holds_back_steps(void **state)
{
    (void)state;
    struct rollout r = begun();
    all_say(VERDICT_NO_HARM);
    evidence.locked = true;
    assert_int_equal(at(&r, 10 * MINUTE), ROLLOUT_STAY);
    assert_non_null(strstr(d.reason, "locked"));
    evidence.locked = false;
    assert_int_equal(at(&r, 10 * MINUTE), ROLLOUT_STEP);
}

static void people_promote_and_abort(void **state)
{
    (void)state;
    struct rollout r = begun();
    assert_int_equal(rollout_promote(&r, &arena, false, BY, "in a hurry", 5), OK);
    assert_int_equal(rollout_share(&r), 2500);
    assert_int_equal(r.held_ms, 0);
    apply(&r, ROLLOUT_PAUSE, 6);
    assert_int_equal(rollout_promote(&r, &arena, false, BY, "go", 7), OK);
    assert_int_equal(r.phase, ROLLOUT_DONE);
    assert_int_equal(rollout_promote(&r, &arena, true, BY, "", 8), ERR_CONFLICT);
    r = begun();
    assert_int_equal(rollout_promote(&r, &arena, true, BY, "all", 5), OK);
    assert_int_equal(r.phase, ROLLOUT_DONE);
    assert_string_equal(r.decisions[0].what.ptr, "5% -> 100%");
    r = begun();
    assert_int_equal(rollout_abort(&r, &arena, BY, "no", 5), OK);
    assert_int_equal(r.phase, ROLLOUT_ABORTED);
    assert_string_equal(r.decisions[0].by.ptr, "ann");
}

static void alpha_is_split_over_the_judged_steps(void **state)
{
    (void)state;
    struct rollout r = begun();
    assert_true(rollout_step_alpha(&r) == ROLLOUT_ALPHA / 2);
}

/* ---- as it is stored ---- */

static struct span stored(const struct rollout *r)
{
    struct buf out = BUF_INIT(1u << 20);
    struct json_writer w;
    json_writer_init(&w, &out);
    rollout_json(r, &w);
    assert_int_equal(json_writer_end(&w), OK);
    const struct span copy = arena_dup(&arena, buf_span(&out));
    buf_release(&out);
    return copy;
}

static enum err restored(struct span json, struct rollout *ret)
{
    struct json_index ix;
    assert_int_equal(json_index(&arena, json, &json_limits_default, &ix, NULL), OK);
    return rollout_read(&arena, &ix, 0, ret);
}

static void a_restart_goes_on_in_the_middle_of_a_hold(void **state)
{
    (void)state;
    struct rollout r = begun(), again;
    all_say(VERDICT_NO_HARM);
    assert_int_equal(at(&r, 4 * MINUTE), ROLLOUT_STAY);
    assert_int_equal(restored(stored(&r), &again), OK);
    assert_true(span_eq(stored(&r), stored(&again)));
    assert_int_equal(at(&again, 10 * MINUTE - 1), ROLLOUT_STAY);
    assert_int_equal(at(&again, 10 * MINUTE), ROLLOUT_STEP);
    apply(&again, d.action, 10 * MINUTE);
    apply(&again, ROLLOUT_PAUSE, 11 * MINUTE);
    assert_int_equal(restored(stored(&again), &r), OK);
    assert_true(span_eq(stored(&r), stored(&again)));
    assert_int_equal(r.phase, ROLLOUT_PAUSED);
    assert_int_equal(r.decision_count, 2);
    assert_memory_equal(r.salt, again.salt, sizeof(r.salt));
}

static void old_decisions_go_first(void **state)
{
    (void)state;
    struct rollout r = begun();
    for (unsigned i = 0; i <= ROLLOUT_DECISIONS_MAX; i++) {
        apply(&r, ROLLOUT_PAUSE, i);
        assert_int_equal(rollout_resume(&r, &arena, false, BY, "", i), OK);
    }
    assert_int_equal(r.decision_count, ROLLOUT_DECISIONS_MAX);
    assert_string_equal(r.decisions[ROLLOUT_DECISIONS_MAX - 1].what.ptr, "resumed");
    assert_int_equal(r.decisions[ROLLOUT_DECISIONS_MAX - 1].at_ms, ROLLOUT_DECISIONS_MAX);
    assert_int_equal(restored(stored(&r), &r), OK);
}

static void what_we_did_not_write_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        enum err err;
    } spoilt[] = {
        { "\"schema\":1", "\"schema\":2", ERR_UNSUPPORTED }, { "\"id\":7", "\"id\":0", ERR_CORRUPT },
        { "\"step\":0", "\"step\":2", ERR_CORRUPT },         { "\"step\":0", "\"step\":99", ERR_CORRUPT },
        { "\"running\"", "\"walking\"", ERR_CORRUPT },       { "\"running\"", "\"done\"", ERR_CORRUPT },
        { "\"salt\":\"01", "\"salt\":\"0", ERR_CORRUPT },    { "\"held_ms\":0", "\"held_ms\":-1", ERR_CORRUPT },
        { "\"held_ms\"", "\"hold_ms\"", ERR_CORRUPT },       { "\"decisions\":[]", "\"decisions\":[1]", ERR_CORRUPT },
        { "[500,2500,10000]", "[10000]", ERR_CORRUPT },      { "\"plan\":{", "\"plan\":{\"unit\":1,", ERR_CORRUPT },
    };
    struct rollout r = begun(), again;
    const struct span good = stored(&r);
    for (size_t i = 0; i < ARRAY_LEN(spoilt); i++) {
        const size_t where = span_find(good, span_cstr(spoilt[i].from));
        assert_true(where != SIZE_MAX);
        const char *bad = arena_printf(&arena, SPAN_FMT "%s" SPAN_FMT, SPAN_ARG(span_head(good, where)), spoilt[i].to,
                                       SPAN_ARG(span_skip(good, where + strlen(spoilt[i].from))));
        assert_int_equal(restored(span_cstr(bad), &again), spoilt[i].err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_steps_reach_the_end),
        cmocka_unit_test(time_alone_is_not_evidence),
        cmocka_unit_test(guards_without_any_data_hold_nothing_up),
        cmocka_unit_test(harm_rolls_back_at_once),
        cmocka_unit_test(paused_time_does_not_count),
        cmocka_unit_test(a_clock_set_back_adds_nothing),
        cmocka_unit_test(arms_of_the_wrong_size_pause),
        cmocka_unit_test(a_lock_holds_back_steps),
        cmocka_unit_test(people_promote_and_abort),
        cmocka_unit_test(alpha_is_split_over_the_judged_steps),
        cmocka_unit_test(a_restart_goes_on_in_the_middle_of_a_hold),
        cmocka_unit_test(old_decisions_go_first),
        cmocka_unit_test(what_we_did_not_write_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
