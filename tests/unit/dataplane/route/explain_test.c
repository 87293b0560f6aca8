#include "dataplane/route/explain.h"
#include "tests/unit/dataplane/route/world.h"

static struct world w;
static struct select_live live[WORLD_MODELS];
static struct ask ask;
static struct select_input input;
static struct arena arena;
static struct prng prng;
static struct plan plan;
static struct override overrides[2];

static void live_of(void *user, uint32_t model, struct select_live *ret)
{
    (void)user;
    *ret = live[model];
}

static int setup(void **state)
{
    (void)state;
    world_init(&w);
    memset(live, 0, sizeof live);
    ask = (struct ask){ .endpoint = ENDPOINT_CHAT, .choices = 1, .input_bytes = 400 };
    arena_init(&arena, 1 << 20);
    prng_seed(&prng, 42);
    w.routes[CHAT].where = SPAN("p.yaml:20");
    w.routes[CHAT].max_cost_where = SPAN("p.yaml:21");
    w.routes[CHAT].require.where = SPAN("p.yaml:22");
    w.routes[BULK].tiers[0].within.where = SPAN("p.yaml:33");
    w.team.require.where = SPAN("d.yaml:4");
    w.models[AZURE].where = SPAN("p.yaml:9");
    w.providers[0].where = SPAN("p.yaml:3");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_release(&arena);
    world_release(&w);
    return 0;
}

static struct explain_input explained(unsigned route)
{
    world_build(&w);
    arena_reset(&arena);
    input = (struct select_input){ .arm = &w.table->arms[0],
                                   .target = { .route = &w.compiled->artifact->routes[route] },
                                   .ask = &ask,
                                   .team_require = &w.table->teams->teams->items[0].require,
                                   .evidence_valid = w.has_evidence,
                                   .wall_ms = 100000,
                                   .now_ms = 100000,
                                   .source = { .live = live_of } };
    enum err err = select_plan(&arena, &input, &prng, &plan);
    assert_true(err == OK || err == ERR_NO_CANDIDATE);
    return (struct explain_input){ .table = w.table, .select = &input, .plan = &plan };
}

static const struct plan_step *step_of(uint32_t model)
{
    for (uint32_t i = 0; i < plan.all_count; i++)
        if (plan.all[i].model == model)
            return &plan.all[i];
    fail_msg("model %u is no candidate", model);
    return NULL;
}

static void assert_rule(unsigned route, uint32_t model, enum plan_reason reason, const char *text, const char *where)
{
    const struct explain_input in = explained(route);
    struct explain_rule rule;
    assert_int_equal(step_of(model)->reason, reason);
    explain_rule(&in, step_of(model), &rule);
    assert_string_equal(rule.text, text);
    assert_true(span_eq(rule.where, span_cstr(where)));
}

static void what_was_chosen_needs_no_rule(void **state)
{
    (void)state;
    const struct explain_input in = explained(CHAT);
    struct explain_rule rule;
    for (uint32_t i = 0; i < plan.all_count; i++) {
        explain_rule(&in, &plan.all[i], &rule);
        assert_string_equal(rule.text, "");
        assert_int_equal(rule.where.len, 0);
    }
}

static void what_a_model_cannot(void **state)
{
    (void)state;
    ask.has_tools = true;
    w.models[AZURE].capabilities &= ~(uint32_t)CAP_TOOLS;
    assert_rule(CHAT, AZURE, PLAN_NO_TOOLS,
                "the request has tools; the model is not known to take it (capabilities: tools)", "p.yaml:9");
}

static void how_long_a_context_is(void **state)
{
    (void)state;
    ask.max_output_tokens = 50;
    w.models[AZURE].context_tokens = 120;
    assert_rule(CHAT, AZURE, PLAN_TOO_LONG, "its context is 120 tokens; this needs 100 in and 50 out", "p.yaml:9");
}

static void the_team_is_named_before_the_route(void **state)
{
    (void)state;
    const struct span eu[] = { SPAN("eu"), SPAN("ch") };
    w.routes[CHAT].require.regions = (struct span_list){ eu, 2 };
    assert_rule(CHAT, OPENAI_4O, PLAN_REGION, "the route requires region eu, ch; openai is in us, eu", "p.yaml:22");
}

static void the_teams_own_rule(void **state)
{
    (void)state;
    w.team.require.no_training = true;
    w.routes[CHAT].require.no_training = true;
    assert_rule(CHAT, OPENAI_4O, PLAN_TRAINING, "the team requires no training on its data; openai trains", "d.yaml:4");
    assert_rule(CHAT, VLLM, PLAN_TRAINING, "the team requires no training on its data; vllm does not say", "d.yaml:4");
}

static void how_long_data_is_kept(void **state)
{
    (void)state;
    w.routes[CHAT].require.has_retention = true;
    w.routes[CHAT].require.max_retention_days = 7;
    assert_rule(CHAT, OPENAI_4O, PLAN_RETENTION, "the route allows data to be kept for 7 days; openai keeps it for 30",
                "p.yaml:22");
    assert_rule(CHAT, VLLM, PLAN_RETENTION,
                "the route allows data to be kept for 7 days; how long vllm keeps it is not known", "p.yaml:22");
}

static void what_would_cost_too_much(void **state)
{
    (void)state;
    w.routes[CHAT].max_cost_nano = 1000000; /* azure: 100 in and 500 out at $4 a million: $0.0024 */
    assert_rule(CHAT, AZURE, PLAN_TOO_DEAR, "the route allows $0.001 (max_cost_usd); the estimate is $0.0024",
                "p.yaml:21");
}

static void who_took_it_out_and_why(void **state)
{
    (void)state;
    overrides[0] = (struct override){ .kind = OVERRIDE_DRAIN,
                                      .target = SPAN("azure"),
                                      .by = SPAN("eve"),
                                      .reason = SPAN("rack moves"),
                                      .expires_at_ms = 160000 };
    w.head.overrides = overrides;
    w.head.override_count = 1;
    assert_rule(CHAT, AZURE, PLAN_DRAINED, "azure is drained by eve: rack moves, for another 1m", "");
    overrides[1] = (struct override){ .kind = OVERRIDE_BLOCK, .target = SPAN("azure/gpt-4o"), .by = SPAN("bob") };
    w.head.override_count = 2;
    assert_rule(CHAT, AZURE, PLAN_BLOCKED, "azure/gpt-4o is blocked by bob, until it is lifted", "");
}

static void what_the_node_has_seen(void **state)
{
    (void)state;
    for (unsigned i = 0; i < BREAKER_FAILURES_IN_ROW; i++)
        live[AZURE].breaker = breaker_after(live[AZURE].breaker, BREAKER_FAILURE, 98000);
    live[VLLM].cool_until_ms = 102500;
    live[OPENAI_4O].no_credential = true;
    const struct span names[] = { SPAN("openai-a"), SPAN("openai-b") };
    w.providers[1].credentials = (struct span_list){ names, 2 };
    w.providers[1].where = SPAN("p.yaml:5");
    w.team_routes[0] = SPAN("*");
    assert_rule(CHAT, OPENAI_4O, PLAN_NO_CREDENTIAL, "this node has no secret for any of openai-a, openai-b",
                "p.yaml:5");
    w.chat_second[0].weight_ppm = 1000000;
    live[OPENAI_4O].no_credential = false;
    assert_rule(CHAT, AZURE, PLAN_EJECTED, "its breaker on this node is open for another 28s, ejection 1 in a row", "");
    assert_rule(CHAT, VLLM, PLAN_EJECTED, "it asked to be left alone (Retry-After) for another 3s", "");
}

static void what_evidence_says(void **state)
{
    (void)state;
    struct model_evidence models[] = {
        { .name = SPAN("openai/gpt-4.1"),
          .health = HEALTH_DOWN,
          .health_why = SPAN("status 503"),
          .health_since_ms = 40000 },
        { .name = SPAN("openai/gpt-4o"), .health = HEALTH_UP, .samples = 10, .ttft_p95_us = 4200000 },
    };
    w.has_evidence = true;
    w.evidence.models = models;
    w.evidence.model_count = 2;
    w.routes[BULK].tiers[0].within.ttft_p95_ms = 3000;
    assert_rule(BULK, OPENAI_41, PLAN_DOWN, "the control plane found it down for 1m: status 503", "");
    assert_rule(BULK, OPENAI_4O, PLAN_OUT_OF_BOUNDS, "the tier wants ttft_p95 within 3s; it is 4s200ms", "p.yaml:33");
    models[1].ttft_p95_us = 0;
    models[1].errors_ppm = 50000;
    w.routes[BULK].tiers[0].within.errors_ppm = 20000;
    table_unref(w.table);
    w.table = NULL;
    compiled_unref(w.compiled);
    teams_view_unref(w.teams_view);
    w.compiled = NULL;
    assert_rule(BULK, OPENAI_4O, PLAN_OUT_OF_BOUNDS, "the tier wants errors within 2.00%; they are 5.00%", "p.yaml:33");
}

static void what_attempts_leave_over(void **state)
{
    (void)state;
    w.routes[CHAT].attempts = 2;
    assert_rule(CHAT, VLLM, PLAN_BEYOND, "the route allows 2 attempts", "p.yaml:20");
}

static struct json_index written(struct buf *out)
{
    struct json_index ix;
    assert_int_equal(json_index(&arena, buf_span(out), &json_limits_default, &ix, NULL), OK);
    return ix;
}

static void everything_is_told(void **state)
{
    (void)state;
    struct explain_input in = explained(CHAT);
    struct distribution first;
    struct buf out = BUF_INIT(1 << 20);
    struct json_writer writer;
    assert_int_equal(select_distribution(&arena, &input, &first), OK);
    in.first_ppb = first.first_ppb;
    json_writer_init(&writer, &out);
    json_object_open(&writer);
    explain_members(&writer, &in);
    json_object_close(&writer);
    assert_int_equal(json_writer_end(&writer), OK);
    const struct json_index ix = written(&out);
    const uint32_t tiers = json_get(&ix, 0, SPAN("tiers"));
    assert_int_equal(json_count(&ix, tiers), 2);
    const uint32_t candidates = json_get(&ix, json_first(&ix, tiers), SPAN("candidates"));
    assert_int_equal(json_count(&ix, candidates), 2);
    uint64_t ppm, sum = 0;
    for (uint32_t t = json_first(&ix, candidates); t != JSON_NONE; t = json_next(&ix, candidates, t)) {
        assert_int_equal(json_u64(&ix, json_get(&ix, t, SPAN("first_ppm")), &ppm), OK);
        sum += ppm;
    }
    assert_int_equal(sum, 1000000);
    assert_int_equal(json_count(&ix, json_get(&ix, 0, SPAN("attempts"))), 3);
    buf_release(&out);
}

/* Whatever the room, it is JSON, and what was left out is counted. */
static void a_header_has_little_room(void **state)
{
    (void)state;
    const struct explain_input in = explained(CHAT);
    for (size_t room = 100; room < 400; room += 7) {
        struct buf out = BUF_INIT(room);
        struct json_writer writer;
        json_writer_init(&writer, &out);
        json_object_open(&writer);
        explain_brief(&writer, &in, 40);
        json_object_close(&writer);
        assert_int_equal(json_writer_end(&writer), OK);
        const struct json_index ix = written(&out);
        const uint32_t list = json_get(&ix, 0, SPAN("candidates")), more = json_get(&ix, 0, SPAN("more"));
        uint64_t left = 0;
        if (more != JSON_NONE)
            assert_int_equal(json_u64(&ix, more, &left), OK);
        assert_int_equal(json_count(&ix, list) + left, 3);
        assert_true(room < 390 || left == 0);
        buf_release(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_chosen_needs_no_rule, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_model_cannot, setup, teardown),
        cmocka_unit_test_setup_teardown(how_long_a_context_is, setup, teardown),
        cmocka_unit_test_setup_teardown(the_team_is_named_before_the_route, setup, teardown),
        cmocka_unit_test_setup_teardown(the_teams_own_rule, setup, teardown),
        cmocka_unit_test_setup_teardown(how_long_data_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(what_would_cost_too_much, setup, teardown),
        cmocka_unit_test_setup_teardown(who_took_it_out_and_why, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_node_has_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(what_evidence_says, setup, teardown),
        cmocka_unit_test_setup_teardown(what_attempts_leave_over, setup, teardown),
        cmocka_unit_test_setup_teardown(everything_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(a_header_has_little_room, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
