#include "dataplane/route/table.h"
#include "common/clock.h"
#include "common/fault.h"
#include "tests/unit/dataplane/route/world.h"

static struct world w;

static int setup(void **state)
{
    (void)state;
    world_init(&w);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fault_disarm_all();
    world_release(&w);
    return 0;
}

static void names_and_labels_are_indexed(void **state)
{
    (void)state;
    world_build(&w);
    const struct arm_view *arm = &w.table->arms[0];
    const struct artifact *a = w.compiled->artifact;
    assert_ptr_equal(table_route(arm, SPAN("chat")), &a->routes[CHAT]);
    assert_ptr_equal(table_route(arm, SPAN("gpt-4o")), &a->routes[CHAT]);
    assert_ptr_equal(table_model(arm, SPAN("llama")), &a->models[VLLM]);
    assert_ptr_equal(table_model(arm, SPAN("openai/gpt-4o")), &a->models[OPENAI_4O]);
    assert_null(table_route(arm, SPAN("llama")));
    assert_null(table_model(arm, SPAN("gpt-4o")));
    assert_null(table_route(arm, SPAN("chat ")));
    assert_int_equal(table_route_index(arm, &a->routes[CHAT]), CHAT);
    assert_int_equal(w.compiled->model_labels[VLLM], 200 + strlen("vllm/llama:8b"));
    assert_int_equal(w.compiled->route_labels[CHAT], 104);
    assert_int_equal(table_team(w.table, SPAN("research"))->label, 8);
    assert_null(table_team(w.table, SPAN("other")));
    assert_int_equal(arm->models[AZURE].price->input, 4000000000);
    assert_int_equal(arm->models[AZURE].price_source, PRICE_SOURCE_BOOK);
}

static void overrides_reach_models_and_providers(void **state)
{
    (void)state;
    struct override overrides[] = {
        { .kind = OVERRIDE_DRAIN, .target = SPAN("openai"), .expires_at_ms = 50, .reason = SPAN("r") },
        { .kind = OVERRIDE_BLOCK, .target = SPAN("vllm/llama:8b") },
        { .kind = OVERRIDE_DRAIN, .target = SPAN("openai/gpt-4o"), .expires_at_ms = 40 },
        { .kind = OVERRIDE_FREEZE, .target = SPAN("chat") },
        { .kind = OVERRIDE_BLOCK, .target = SPAN("nobody/here") },
    };
    w.head.overrides = overrides;
    w.head.override_count = ARRAY_LEN(overrides);
    world_build(&w);
    const struct model_view *m = w.table->arms[0].models;
    assert_true(m[OPENAI_4O].drained && m[OPENAI_41].drained && !m[OPENAI_4O].blocked);
    assert_int_equal(m[OPENAI_4O].drained_until_ms, 50);
    assert_true(m[VLLM].blocked && !m[VLLM].drained);
    assert_int_equal(m[VLLM].blocked_until_ms, 0);
    assert_false(m[AZURE].drained || m[AZURE].blocked);
}

static struct model_evidence told(const char *name)
{
    return (struct model_evidence){ .name = span_cstr(name),
                                    .health = HEALTH_DOWN,
                                    .health_since_ms = 77,
                                    .price_source = PRICE_SOURCE_FEED,
                                    .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 9, .output = 9 },
                                    .samples = 5,
                                    .ttft_ewma_us = 1234 };
}

static void evidence_is_resolved_to_indices(void **state)
{
    (void)state;
    w.models[VLLM].price_source = PRICE_SOURCE_POLICY;
    world_compile(&w);
    struct model_evidence models[] = { told("gone/model"), told("openai/gpt-4o"), told("vllm/llama:8b") };
    uint32_t chat[] = { 100000, 900000 }, other[] = { 1000000 };
    struct tier_weights weights[] = {
        { .artifact = w.arm.artifact, .route = SPAN("chat"), .tier = 0, .weights_ppm = chat, .count = 2 },
        { .artifact = { { 9 } }, .route = SPAN("unknown"), .tier = 0, .weights_ppm = other, .count = 1 },
        { .artifact = w.arm.artifact, .route = SPAN("chat"), .tier = 1, .weights_ppm = other, .count = 1 },
    };
    w.evidence.models = models;
    w.evidence.model_count = 3;
    w.evidence.weights = weights;
    w.evidence.weight_count = 3;
    w.has_evidence = true;
    world_build(&w);
    const struct arm_view *arm = &w.table->arms[0];
    assert_int_equal(arm->models[OPENAI_4O].health, HEALTH_DOWN);
    assert_int_equal(arm->models[OPENAI_4O].health_since_ms, 77);
    assert_int_equal(arm->models[OPENAI_4O].price->input, 9);
    assert_int_equal(arm->models[OPENAI_4O].price_source, PRICE_SOURCE_FEED);
    assert_int_equal(arm->models[VLLM].price->input, 1000000000); /* the policy's own price stands */
    assert_int_equal(arm->models[AZURE].health, HEALTH_UNKNOWN);
    assert_int_equal(arm->weight_count, 2);
    assert_int_equal(table_weights(arm, CHAT, 0)[1], 900000);
    assert_non_null(table_weights(arm, CHAT, 1));
    assert_null(table_weights(arm, BULK, 0));
    assert_true(table_evidence_valid(w.table, 999999));
    assert_false(table_evidence_valid(w.table, 1000000));
}

static void what_does_not_fit_together_is_refused(void **state)
{
    (void)state;
    world_compile(&w);
    struct table *table = NULL;
    const char *why = NULL;
    uint32_t three[] = { 1, 1, 999998 }, two[] = { 500000, 500000 };
    struct tier_weights bad[] = {
        { .artifact = w.arm.artifact, .route = SPAN("chat"), .tier = 0, .weights_ppm = three, .count = 3 },
        { .artifact = w.arm.artifact, .route = SPAN("chat"), .tier = 2, .weights_ppm = two, .count = 2 },
        { .artifact = w.arm.artifact, .route = SPAN("none"), .tier = 0, .weights_ppm = two, .count = 2 },
    };
    w.has_evidence = true;
    w.evidence.weight_count = 1;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        w.evidence.weights = &bad[i];
        assert_int_equal(world_table(&w, &table, &why), ERR_INVALID);
    }
    struct tier_weights twice[] = {
        { .artifact = w.arm.artifact, .route = SPAN("chat"), .tier = 0, .weights_ppm = two, .count = 2 },
        { .artifact = w.arm.artifact, .route = SPAN("chat"), .tier = 0, .weights_ppm = two, .count = 2 },
    };
    w.evidence.weights = twice;
    w.evidence.weight_count = 2;
    assert_int_equal(world_table(&w, &table, &why), ERR_INVALID);
    w.has_evidence = false;
    w.arm.artifact.bytes[0] ^= 1;
    assert_int_equal(world_table(&w, &table, &why), ERR_INVALID);
    assert_null(table);
    assert_non_null(why);
    struct compiled *compiled = NULL;
    assert_int_not_equal(compiled_new(SPAN("garbage"), &world_labels, &compiled, &why), OK);
    assert_int_equal(w.compiled->refs, 1);
    assert_int_equal(w.teams_view->refs, 1);
}

static void every_failing_allocation_leaves_nothing_behind(void **state)
{
    (void)state;
    w.has_evidence = true;
    world_compile(&w);
    enum err err = ERR_NOMEM;
    for (uint64_t n = 0; err != OK; n++) {
        const char *why = NULL;
        struct table *table = NULL;
        struct buf head = BUF_INIT(HEAD_BYTES_MAX);
        struct table_version version = { .epoch = 1 };
        assert_int_equal(wire_encode_head(&w.head, &head), OK);
        fault_arm(FAULT_ALLOC, n, 1);
        err = table_new(buf_span(&head), SPAN(""), &w.compiled, 1, w.teams_view, &version, &table, &why);
        fault_disarm_all();
        assert_true(err == OK || err == ERR_NOMEM);
        assert_int_equal(w.compiled->refs, err ? 1 : 2);
        assert_int_equal(w.teams_view->refs, err ? 1 : 2);
        table_unref(table);
        buf_release(&head);
        assert_true(n < 1000);
    }
}

static void no_policy_yet_is_a_table_too(void **state)
{
    (void)state;
    world_compile(&w);
    struct head head = { .epoch = 1 };
    struct buf bytes = BUF_INIT(HEAD_BYTES_MAX);
    struct table_version version = { .epoch = 1 };
    assert_int_equal(wire_encode_head(&head, &bytes), OK);
    assert_int_equal(table_new(buf_span(&bytes), SPAN(""), NULL, 0, w.teams_view, &version, &w.table, NULL), OK);
    buf_release(&bytes);
    assert_int_equal(w.table->head->arm_count, 0);
    assert_false(table_evidence_valid(w.table, 0));
    struct table *second = table_ref(w.table);
    table_unref(second);
}

/* Time per route must not grow, and new evidence must not pay for routes: measured against each other, not a clock. */
static void hundred_thousand_routes_are_linear(void **state)
{
    (void)state;
    enum { MANY = 100000 };
    struct route *routes = calloc(MANY, sizeof *routes);
    char(*names)[16] = calloc(MANY, sizeof *names);
    for (unsigned i = 0; i < MANY; i++) {
        routes[i] = w.routes[CHAT];
        routes[i].name = span_of(names[i], (size_t)snprintf(names[i], sizeof names[i], "route-%06u", i));
    }
    w.artifact.routes = routes;
    w.artifact.route_count = MANY;
    uint64_t t0 = clock_ns();
    world_compile(&w);
    uint64_t compile_ns = clock_ns() - t0;
    w.has_evidence = true;
    t0 = clock_ns();
    for (unsigned i = 0; i < 10; i++)
        world_build(&w);
    uint64_t switch_ns = (clock_ns() - t0) / 10;
    const struct arm_view *arm = &w.table->arms[0];
    for (unsigned i = 0; i < MANY; i += 997)
        assert_int_equal(table_route_index(arm, table_route(arm, routes[i].name)), i);
    print_message("100,000 routes: compiled in %llu ms, evidence switched in %llu us\n",
                  (unsigned long long)(compile_ns / 1000000), (unsigned long long)(switch_ns / 1000));
    assert_true(switch_ns < compile_ns / 50);
    free(names);
    free(routes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_and_labels_are_indexed, setup, teardown),
        cmocka_unit_test_setup_teardown(overrides_reach_models_and_providers, setup, teardown),
        cmocka_unit_test_setup_teardown(evidence_is_resolved_to_indices, setup, teardown),
        cmocka_unit_test_setup_teardown(what_does_not_fit_together_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(every_failing_allocation_leaves_nothing_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(no_policy_yet_is_a_table_too, setup, teardown),
        cmocka_unit_test_setup_teardown(hundred_thousand_routes_are_linear, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
