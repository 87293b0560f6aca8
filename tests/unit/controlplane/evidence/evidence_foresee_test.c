#include "common/arena.h"
#include "common/buf.h"
#include "controlplane/evidence/evidence.h"
#include "proto/wire.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define NOW INT64_C(1800000000000)

static struct evidence_state *state_;
static struct arena arena;

#define POLICY(models)                                                                                                 \
    "schema: fairlead/1\\nkind: policy\\n"                                                                             \
    "providers: {mine: {preset: vllm, probe: {how: none}}}\\n"                                                         \
    "models:\\n"                                                                                                       \
    "  mine/cheap: {price: {input: 1, output: 1}}\\n"                                                                  \
    "  mine/dear: {price: {input: 9, output: 9}}\\n"                                                                   \
    "routes:\\n"                                                                                                       \
    "  chat: {tiers: [" models "]}\\n"                                                                                 \
    "  hand: {tiers: [{models: {mine/cheap: 1, mine/dear: 1}}]}\\n"

static struct artifact *compile(const char *text, uint32_t version)
{
    struct policy_bundle *bundle;
    const struct policy *loaded;
    const struct artifact *made;
    struct artifact *decoded;
    struct diags *diags = ARENA_NEW(&arena, struct diags);
    struct buf bytes = BUF_INIT(1u << 20);
    char *json = arena_printf(&arena, "{\"files\":[{\"name\":\"policy.yaml\",\"text\":\"%s\"}]}", text);
    diags_init(diags, &arena);
    assert_int_equal(policy_bundle_open(&arena, span_cstr(json), &bundle), OK);
    assert_int_equal(policy_load(&arena, &bundle->source, bundle->root, diags, &loaded), OK);
    assert_int_equal(policy_compile(&arena, loaded, evidence_book(state_), version, diags, &made), OK);
    assert_int_equal(wire_encode_artifact(made, &bytes), OK);
    assert_int_equal(wire_decode_artifact(&arena, buf_span(&bytes), &decoded, NULL), OK);
    buf_release(&bytes);
    return decoded;
}

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 1u << 28);
    assert_int_equal(evidence_state_new(&state_), OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    evidence_state_free(state_);
    arena_release(&arena);
    return 0;
}

static struct evidence *decide(const struct artifact *live, unsigned times)
{
    struct arm arm = { .name = SPAN("stable"), .policy_version = 1, .artifact = live->hash };
    const struct head head = {
        .epoch = 1, .generation = 1, .arms = &arm, .arm_count = 1, .why = SPAN(""), .by = SPAN("")
    };
    struct evidence *e = NULL;
    assert_int_equal(evidence_follow(state_, &live, 1, &head), OK);
    for (unsigned i = 0; i < times; i++)
        assert_int_equal(evidence_decide(state_, &arena, NOW + i * 1000, 30000, &e), OK);
    return e;
}

static const struct tier_weights *weights_of(const struct evidence *e, const struct artifact *a)
{
    const struct tier_weights *found = NULL;
    for (uint32_t i = 0; i < e->weight_count; i++)
        if (sha256_eq(&e->weights[i].artifact, &a->hash)) {
            assert_null(found); /* one tier is scored */
            found = &e->weights[i];
        }
    return found;
}

static void a_tier_that_stays_keeps_its_weights(void **state)
{
    (void)state;
    const struct artifact *live = compile(POLICY("{models: [mine/cheap, mine/dear], prefer: balanced}"), 1);
    const struct artifact *next = compile(POLICY("{models: [mine/cheap, mine/dear], prefer: balanced}"), 2);
    uint32_t own[] = { 123456, 876544 };
    struct tier_weights there = { .artifact = live->hash, .route = SPAN("chat"), .weights_ppm = own, .count = 2 };
    struct evidence *e = decide(live, 1);
    e->weights = &there;
    e->weight_count = 1;
    assert_int_equal(evidence_foresee(state_, &arena, live, next, NOW, e), OK);
    const struct tier_weights *w = weights_of(e, next);
    assert_non_null(w);
    assert_true(w->weights_ppm[0] == 123456 && w->weights_ppm[1] == 876544);
    assert_non_null(weights_of(e, live));
    /* Where the live one has the policy's own, so has the other: nothing travels. */
    e->weight_count = 0;
    assert_int_equal(evidence_foresee(state_, &arena, live, next, NOW, e), OK);
    assert_null(weights_of(e, next));
}

static void a_new_tier_gets_what_it_would_come_to(void **state)
{
    (void)state;
    const struct artifact *live = compile(POLICY("{models: [mine/cheap, mine/dear], prefer: balanced}"), 1);
    const struct artifact *next = compile(POLICY("{models: [mine/dear, mine/cheap], prefer: cheapest}"), 2);
    struct evidence *e = decide(live, 1);
    assert_int_equal(evidence_foresee(state_, &arena, live, next, NOW, e), OK);
    const struct tier_weights *w = weights_of(e, next);
    assert_non_null(w);
    assert_true(w->count == 2 && w->weights_ppm[0] + w->weights_ppm[1] == 1000000);
    assert_true(w->weights_ppm[1] > 700000); /* the cheap one stands second */
    /* The same as if it had been live for long. */
    struct evidence *later = decide(next, 60);
    const struct tier_weights *settled = weights_of(later, next);
    const uint32_t reached = settled ? settled->weights_ppm[1] : next->routes[0].tiers[0].members[1].weight_ppm;
    assert_true(reached >= w->weights_ppm[1] - 10000 && reached <= w->weights_ppm[1] + 10000);
}

static void the_live_one_needs_nothing(void **state)
{
    (void)state;
    const struct artifact *live = compile(POLICY("{models: [mine/cheap, mine/dear], prefer: fastest}"), 1);
    struct evidence *e = decide(live, 1);
    const uint32_t before = e->weight_count;
    assert_int_equal(evidence_foresee(state_, &arena, live, live, NOW, e), OK);
    assert_int_equal(e->weight_count, before);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = { T(a_tier_that_stays_keeps_its_weights),
                                        T(a_new_tier_gets_what_it_would_come_to), T(the_live_one_needs_nothing) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
