/* What the records hold of prompts and answers, end to end in one worker: nothing, unless the policy names the team. */
#include "rig.h"
#include "common/json.h"
#include "proto/record.h"

static struct span teams[1];
static struct recorded_content wanted;

static void arrange(struct rig *rig, struct artifact *artifact)
{
    (void)rig;
    artifact->content = wanted;
}

static void start(struct rig *rig, const char *team, uint32_t share_ppm, uint32_t bytes)
{
    teams[0] = span_cstr(team);
    wanted = (struct recorded_content){ .teams = { teams, 1 }, .share_ppm = share_ppm, .bytes = bytes };
    rig->arrange = arrange;
    rig_start(rig, true);
}

/* The lines since the last look, and the one of content among them. */
struct said {
    struct buf lines;
    struct arena arena;
    struct json_index ix;
    unsigned count;
    bool found;
};

static void look(struct rig *rig, struct said *ret)
{
    *ret = (struct said){ .found = false };
    arena_init(&ret->arena, 1 << 20);
    ret->count = records(rig, &ret->lines);
    for (struct span rest = buf_span(&ret->lines), line; span_split(&rest, '\n', &line);) {
        if (!record_is_content(line))
            continue;
        assert_false(ret->found);
        ret->found = true;
        assert_int_equal(json_index(&ret->arena, line, &json_limits_default, &ret->ix, NULL), OK);
    }
}

static void forget(struct said *said)
{
    arena_release(&said->arena);
    buf_release(&said->lines);
}

static void says(struct said *said, const char *name, const char *text)
{
    const uint32_t token = json_get(&said->ix, 0, span_cstr(name));
    assert_true(said->found && token != JSON_NONE);
    if (!json_string_eq(&said->ix, token, span_cstr(text)))
        fail_msg("%s is " SPAN_FMT ", not %s", name, SPAN_ARG(json_raw(&said->ix, token)), text);
}

static bool cut(struct said *said, const char *name)
{
    bool value;
    assert_int_equal(json_bool(&said->ix, json_get(&said->ix, 0, span_cstr(name)), &value), OK);
    return value;
}

static void answer_whole(struct rig *rig, struct client *c)
{
    const unsigned before = rig->lane.count;
    buf_clear(&c->in);
    ask(rig, c, WHOLE_ASK);
    UNTIL(rig, rig->lane.count == before + 1);
    struct try *t = &rig->lane.tries[before];
    try_head(t, 200, "application/json", NULL, NULL);
    try_body(t, WHOLE_ANSWER);
    try_done(t, OK);
    UNTIL(rig, has(c, "hi there"));
}

static void a_whole_answer_is_kept(void **state UNUSED)
{
    struct rig rig = { .port = 0 };
    struct said said;
    start(&rig, "research", 1000000, 4096);
    answer_whole(&rig, rig_client(&rig));
    look(&rig, &said);
    assert_int_equal(said.count, 2);
    says(&said, "prompt", WHOLE_ASK);
    says(&said, "answer", WHOLE_ANSWER);
    says(&said, "team", "research");
    assert_false(cut(&said, "prompt_cut") || cut(&said, "answer_cut"));
    assert_true(span_find(buf_span(&said.lines), span_cstr(rig.key)) == SIZE_MAX);
    forget(&said);
    rig_stop(&rig);
}

/* As the client got it: without the chunk that only we asked for, with our comment. */
static void a_stream_is_kept(void **state UNUSED)
{
    struct rig rig = { .port = 0 };
    struct said said;
    start(&rig, "research", 1000000, 4096);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    struct try *t = &rig.lane.tries[0];
    try_head(t, 200, "text/event-stream", NULL, NULL);
    try_body(t, ROLE CONTENT("hel"));
    UNTIL(&rig, has(c, "hel"));
    try_body(t, CONTENT("lo") FINISH USAGE(10, 20) DONE);
    try_done(t, OK);
    UNTIL(&rig, has(c, LAST_CHUNK));
    look(&rig, &said);
    says(&said, "prompt", STREAM_ASK);
    says(&said, "answer",
         ROLE CONTENT("hel") CONTENT("lo") FINISH
         ": fairlead model=a/m attempts=1 input_tokens=10 output_tokens=20 estimated=0 cost_usd=0.00005\n\n" DONE);
    forget(&said);
    rig_stop(&rig);
}

static void only_the_beginnings_are_kept(void **state UNUSED)
{
    struct rig rig = { .port = 0 };
    struct said said;
    start(&rig, "research", 1000000, 12);
    answer_whole(&rig, rig_client(&rig));
    look(&rig, &said);
    says(&said, "prompt", "{\"model\":\"ch");
    says(&said, "answer", "{\"id\":\"1\",\"o");
    assert_true(cut(&said, "prompt_cut") && cut(&said, "answer_cut"));
    forget(&said);
    rig_stop(&rig);
}

static void refusals_are_answers_too(void **state UNUSED)
{
    struct rig rig = { .port = 0 };
    struct said said;
    start(&rig, "research", 1000000, 2048);
    struct client *c = rig_client(&rig);
    ask(&rig, c, "{\"model\":\"nobody\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    UNTIL(&rig, has(c, "model_not_found"));
    look(&rig, &said);
    says(&said, "prompt", "{\"model\":\"nobody\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    assert_true(has(c, "\r\n\r\n{\"error\""));
    says(&said, "answer", strstr(buf_cstr(&c->in), "\r\n\r\n") + 4);
    forget(&said);
    /* What was no request of that team at all: the arm is not known, so nothing allows it. */
    buf_clear(&c->in);
    ask(&rig, c, "no JSON");
    UNTIL(&rig, has(c, "400"));
    look(&rig, &said);
    assert_true(said.count == 1 && !said.found);
    forget(&said);
    rig_stop(&rig);
}

/* Nobody else's, and nobody's by a share of nothing. */
static void others_are_not_recorded(void **state UNUSED)
{
    static const struct {
        const char *team;
        uint32_t share_ppm;
    } cases[] = { { "researc", 1000000 }, { "research2", 1000000 }, { "research", 0 } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rig rig = { .port = 0 };
        struct said said;
        start(&rig, cases[i].team, cases[i].share_ppm, 4096);
        answer_whole(&rig, rig_client(&rig));
        look(&rig, &said);
        assert_true(said.count == 1 && !said.found);
        assert_true(span_find(buf_span(&said.lines), SPAN("hello")) == SIZE_MAX);
        assert_true(span_find(buf_span(&said.lines), SPAN("hi there")) == SIZE_MAX);
        forget(&said);
        rig_stop(&rig);
    }
}

static void a_share_is_drawn_by_request(void **state UNUSED)
{
    struct rig rig = { .port = 0 };
    unsigned kept = 0;
    start(&rig, "research", 500000, 64);
    struct client *c = rig_client(&rig);
    for (unsigned i = 0; i < 40; i++) {
        struct said said;
        answer_whole(&rig, c);
        look(&rig, &said);
        assert_int_equal(said.count, 1 + said.found);
        kept += said.found;
        forget(&said);
    }
    assert_in_range(kept, 4, 36); /* less than one in ten million runs are outside */
    rig_stop(&rig);
}

static void another_version_turns_it_off(void **state UNUSED)
{
    struct rig rig = { .port = 0 };
    struct said said;
    start(&rig, "research", 1000000, 4096);
    struct client *c = rig_client(&rig);
    answer_whole(&rig, c);
    look(&rig, &said);
    assert_true(said.found);
    forget(&said);
    wanted = (struct recorded_content){ .bytes = 0 };
    rig_publish(&rig);
    loader_refresh(&rig.core.loader);
    answer_whole(&rig, c);
    assert_true(has(c, "x-fairlead-policy: 2\r\n"));
    look(&rig, &said);
    assert_true(said.count == 1 && !said.found);
    forget(&said);
    rig_stop(&rig);
}

static struct shadow shadow = { .id = { "shadow-1", 8 }, .share_ppm = 1000000, .budget_nano = INT64_C(1000000000) };

static void with_shadow(struct rig *rig, struct head *head)
{
    (void)rig;
    head->shadows = &shadow;
    head->shadow_count = 1;
}

/* Its answer is discarded, in the records, too. */
static void shadows_say_nothing(void **state UNUSED)
{
    struct rig rig = { .arrange_head = with_shadow };
    struct said said;
    start(&rig, "research", 1000000, 4096);
    board_budgets_keep(rig.board, &shadow.id, 1);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 2);
    for (unsigned i = 0; i < 2; i++) {
        try_head(&rig.lane.tries[i], 200, "application/json", NULL, NULL);
        try_body(&rig.lane.tries[i], WHOLE_ANSWER);
        try_done(&rig.lane.tries[i], OK);
    }
    UNTIL(&rig, has(c, "hi there"));
    look(&rig, &said); /* finds one at most */
    assert_true(said.found && said.count == 3);
    assert_true(span_find(buf_span(&said.lines), SPAN("\"kind\":\"shadow\"")) != SIZE_MAX);
    forget(&said);
    rig_stop(&rig);
}

/* What is kept is charged to the worker like the rest of the request. */
static void what_is_kept_is_accounted(void **state UNUSED)
{
    size_t held[2];
    for (unsigned on = 0; on < 2; on++) {
        struct rig rig = { .port = 0 };
        start(&rig, on ? "research" : "others", 1000000, 4096);
        struct client *c = rig_client(&rig);
        ask(&rig, c, STREAM_ASK);
        UNTIL(&rig, rig.lane.count == 1);
        held[on] = rig.core.buffered;
        try_head(&rig.lane.tries[0], 200, "text/event-stream", NULL, NULL);
        try_body(&rig.lane.tries[0], CONTENT("x") FINISH DONE);
        try_done(&rig.lane.tries[0], OK);
        UNTIL(&rig, has(c, LAST_CHUNK));
        rig_stop(&rig); /* and nothing of it is left */
    }
    assert_true(held[1] >= held[0] + 2 * 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_answer_is_kept),       cmocka_unit_test(a_stream_is_kept),
        cmocka_unit_test(only_the_beginnings_are_kept), cmocka_unit_test(refusals_are_answers_too),
        cmocka_unit_test(others_are_not_recorded),      cmocka_unit_test(a_share_is_drawn_by_request),
        cmocka_unit_test(another_version_turns_it_off), cmocka_unit_test(what_is_kept_is_accounted),
        cmocka_unit_test(shadows_say_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
