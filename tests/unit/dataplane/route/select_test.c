#include "dataplane/route/select.h"
#include "tests/unit/dataplane/route/world.h"

static struct world w;
static struct select_live live[WORLD_MODELS];
static struct ask ask;
static struct select_input input;
static struct arena arena;
static struct prng prng;

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
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_release(&arena);
    world_release(&w);
    return 0;
}

/* Ready to plan for a route of the world as it stands. */
static void aim(unsigned route)
{
    world_build(&w);
    input = (struct select_input){ .arm = &w.table->arms[0],
                                   .target = { .route = &w.compiled->artifact->routes[route] },
                                   .ask = &ask,
                                   .evidence_valid = w.has_evidence,
                                   .wall_ms = 1000,
                                   .now_ms = 1000,
                                   .source = { .live = live_of } };
}

/* The distribution of first choices is the one that this plan's was drawn from. */
static void check_distribution(const struct plan *p)
{
    struct distribution d = { .all_count = 0 };
    uint64_t sum = 0;
    assert_int_equal(select_distribution(&arena, &input, &d), p->count > 0 ? OK : ERR_NO_CANDIDATE);
    assert_int_equal(d.all_count, p->all_count);
    for (uint32_t i = 0; i < d.all_count; i++) {
        assert_int_equal(d.all[i].model, p->all[i].model);
        sum += d.first_ppb[i];
        if (p->count > 0 && d.all[i].model == p->steps[0].model && d.all[i].tier == p->steps[0].tier)
            assert_int_equal(d.first_ppb[i], p->propensity_ppb);
        assert_true(p->count > 0 || d.all[i].reason == p->all[i].reason);
    }
    assert_true(p->count == 0 ? sum == 0 : sum + d.all_count >= 1000000000 && sum <= 1000000000 + d.all_count);
}

/* What must hold of every plan, whatever the input. */
static struct plan plan(enum err expected)
{
    struct plan p = { .count = 0 };
    arena_reset(&arena);
    assert_int_equal(select_plan(&arena, &input, &prng, &p), expected);
    assert_true((p.count > 0) == (expected == OK));
    assert_true(p.count <= ATTEMPTS_MAX);
    assert_true(p.propensity_ppb <= 1000000000 && (p.count == 0) == (p.propensity_ppb == 0));
    check_distribution(&p);
    unsigned included = 0;
    for (uint32_t i = 0; i < p.all_count; i++) {
        assert_true(p.all[i].reason != PLAN_NONE);
        included += plan_reason_included(p.all[i].reason);
    }
    assert_int_equal(included, p.count);
    for (uint32_t i = 0; i < p.count; i++) {
        assert_true(plan_reason_included(p.steps[i].reason));
        for (uint32_t j = 0; j < i; j++)
            assert_int_not_equal(p.steps[i].model, p.steps[j].model);
    }
    return p;
}

static enum plan_reason reason_of(const struct plan *p, uint32_t model)
{
    for (uint32_t i = 0; i < p->all_count; i++)
        if (p->all[i].model == model)
            return p->all[i].reason;
    return PLAN_NONE;
}

static void tiers_come_in_order(void **state)
{
    (void)state;
    aim(CHAT);
    for (unsigned i = 0; i < 200; i++) {
        struct plan p = plan(OK);
        assert_int_equal(p.count, 3);
        assert_int_equal(p.steps[2].model, VLLM);
        assert_int_equal(p.steps[2].reason, PLAN_NEXT_TIER);
        assert_int_equal(p.steps[0].reason, PLAN_WEIGHT);
        assert_int_equal(p.steps[1].reason, PLAN_NEXT);
        assert_int_equal(p.propensity_ppb, p.steps[0].model == AZURE ? 700000000 : 300000000);
    }
    input.attempts_max = 1;
    struct plan p = plan(OK);
    assert_int_equal(p.count, 1);
    assert_int_equal(reason_of(&p, VLLM), PLAN_BEYOND);
}

/* Draws many plans and holds the frequency of every first choice against its weight and the probability reported. */
static void check_frequencies(const double expected[WORLD_MODELS])
{
    enum { DRAWS = 40000 };
    unsigned count[WORLD_MODELS] = { 0 };
    double reported[WORLD_MODELS] = { 0 };
    for (unsigned i = 0; i < DRAWS; i++) {
        struct plan p = plan(OK);
        count[p.steps[0].model]++;
        reported[p.steps[0].model] = p.propensity_ppb / 1e9;
    }
    for (unsigned m = 0; m < WORLD_MODELS; m++) {
        double off = count[m] / (double)DRAWS - expected[m], variance = expected[m] * (1 - expected[m]) / DRAWS;
        assert_true(off * off <= 25 * variance); /* five standard deviations */
        double misreported = reported[m] - expected[m];
        assert_true(count[m] == 0 || (misreported < 1e-8 && misreported > -1e-8));
    }
}

static void hand_set_weights_are_met(void **state)
{
    (void)state;
    aim(CHAT);
    check_frequencies((double[]){ [AZURE] = 0.7, [OPENAI_4O] = 0.3, [VLLM] = 0 });
    /* Renormalised over who is left. */
    w.routes[BULK].tiers[0].prefer = PREFER_WEIGHTS;
    compiled_unref(w.compiled);
    teams_view_unref(w.teams_view);
    table_unref(w.table);
    w.compiled = NULL;
    w.table = NULL;
    aim(BULK);
    live[OPENAI_41].no_credential = true;
    check_frequencies((double[]){ [OPENAI_4O] = 3.0 / 8, [VLLM] = 5.0 / 8, [AZURE] = 0 });
}

static void two_draws_prefer_the_less_loaded_and_keep_weights(void **state)
{
    (void)state;
    aim(BULK); /* weights .2 .3 .5 of gpt-4.1, gpt-4o, llama */
    live[OPENAI_41] = (struct select_live){ .ttft_us = 100, .outstanding = 0 };
    live[OPENAI_4O] = (struct select_live){ .ttft_us = 100, .outstanding = 4 };
    live[VLLM] = (struct select_live){ .ttft_us = 50, .outstanding = 3 };
    /* loads 100, 500, 200. .2: .04 + 2 x .2 x .8 = .36; .5: .25 + 2 x .5 x .3 = .55; .3: .09 */
    check_frequencies((double[]){ [OPENAI_41] = 0.36, [VLLM] = 0.55, [OPENAI_4O] = 0.09, [AZURE] = 0 });
    live[VLLM].outstanding =
        1; /* 100: equal to gpt-4.1. .2: .04 + 2 x .2 x .3 + .2 x .5 = .26; .5: .25 + .3 + .1 = .65 */
    check_frequencies((double[]){ [OPENAI_41] = 0.26, [VLLM] = 0.65, [OPENAI_4O] = 0.09, [AZURE] = 0 });
    /* Only where load decided between two different ones is it the reason. */
    bool weight_seen = false, load_seen = false;
    for (int i = 0; i < 400; i++) {
        struct plan p = plan(OK);
        weight_seen |= p.steps[0].reason == PLAN_WEIGHT;
        load_seen |= p.steps[0].reason == PLAN_LESS_LOADED;
        assert_true(p.steps[0].reason == PLAN_WEIGHT || p.steps[0].model != OPENAI_4O); /* the most loaded never is */
    }
    assert_true(weight_seen && load_seen);
    /* Nobody knows anything: the weights alone. */
    memset(live, 0, sizeof live);
    for (int i = 0; i < 50; i++)
        assert_int_equal(plan(OK).steps[0].reason, PLAN_WEIGHT);
    check_frequencies((double[]){ [OPENAI_41] = 0.2, [VLLM] = 0.5, [OPENAI_4O] = 0.3, [AZURE] = 0 });
}

/* Exact probabilities against 100,000 draws, with weights, loads and exclusions of every kind. */
static void check_draws(void)
{
    enum { DRAWS = 100000 };
    unsigned count[WORLD_MODELS] = { 0 };
    double exact[WORLD_MODELS] = { 0 };
    struct distribution d;
    arena_reset(&arena);
    assert_int_equal(select_distribution(&arena, &input, &d), OK);
    for (uint32_t i = 0; i < d.all_count; i++)
        exact[d.all[i].model] += d.first_ppb[i] / 1e9;
    struct arena drawing;
    arena_init(&drawing, 1 << 20);
    for (unsigned i = 0; i < DRAWS; i++) {
        struct plan p;
        arena_reset(&drawing);
        assert_int_equal(select_plan(&drawing, &input, &prng, &p), OK);
        count[p.steps[0].model]++;
    }
    arena_release(&drawing);
    for (unsigned m = 0; m < WORLD_MODELS; m++) {
        double off = count[m] / (double)DRAWS - exact[m];
        assert_true(off * off <= 25 * (exact[m] * (1 - exact[m]) + 1e-9) / DRAWS); /* five standard deviations */
        assert_true((exact[m] > 0) == (count[m] > 0));
    }
}

static void the_distribution_is_what_is_drawn(void **state)
{
    (void)state;
    aim(CHAT);
    check_draws();
    aim(BULK);
    check_draws();
    live[OPENAI_41] = (struct select_live){ .ttft_us = 100, .outstanding = 2 };
    live[OPENAI_4O] = (struct select_live){ .ttft_us = 150, .outstanding = 1 };
    live[VLLM] = (struct select_live){ .ttft_us = 90 };
    check_draws();
    input.target.wish = RESOLVE_FASTEST;
    check_draws();
    input.target.wish = RESOLVE_AS_TOLD;
    live[VLLM].no_credential = true;
    check_draws();
    for (unsigned m = 0; m < WORLD_MODELS; m++)
        live[m] = (struct select_live){ .cool_until_ms = 5000 + m };
    check_draws();
}

static void evidence_sets_weights_while_it_is_valid(void **state)
{
    (void)state;
    world_compile(&w);
    uint32_t ppm[] = { 0, 100000, 900000 };
    struct tier_weights weights = {
        .artifact = w.arm.artifact, .route = SPAN("bulk"), .tier = 0, .weights_ppm = ppm, .count = 3
    };
    struct model_evidence down = { .name = SPAN("vllm/llama:8b"), .health = HEALTH_DOWN, .health_since_ms = 5 };
    w.evidence.weights = &weights;
    w.evidence.weight_count = 1;
    w.has_evidence = true;
    aim(BULK);
    check_frequencies((double[]){ [VLLM] = 0.9, [OPENAI_4O] = 0.1, [OPENAI_41] = 0, [AZURE] = 0 });
    struct plan p = plan(OK);
    assert_int_equal(p.steps[2].model, OPENAI_41); /* weight 0: last, but not lost */
    input.evidence_valid = false;
    check_frequencies((double[]){ [VLLM] = 0.5, [OPENAI_4O] = 0.3, [OPENAI_41] = 0.2, [AZURE] = 0 });
    w.evidence.models = &down;
    w.evidence.model_count = 1;
    aim(BULK);
    p = plan(OK);
    assert_int_equal(reason_of(&p, VLLM), PLAN_DOWN);
    assert_int_equal(p.count, 2);
    input.evidence_valid = false; /* marked down before the outage: must not stay down */
    p = plan(OK);
    assert_int_equal(p.count, 3);
}

static void wishes_reorder_scored_tiers_only(void **state)
{
    (void)state;
    aim(BULK);
    live[OPENAI_41].ttft_us = 10;
    live[OPENAI_4O].ttft_us = 20;
    live[VLLM].ttft_us = 30;
    input.target.wish = RESOLVE_CHEAPEST;
    for (unsigned i = 0; i < 50; i++) {
        struct plan p = plan(OK);
        assert_true(p.steps[0].model == VLLM && p.steps[1].model == OPENAI_41 && p.steps[2].model == OPENAI_4O);
        assert_true(p.steps[0].reason == PLAN_CHEAPEST && p.propensity_ppb == 1000000000);
    }
    input.target.wish = RESOLVE_FASTEST;
    live[OPENAI_41].outstanding = 2; /* 30 against 20 */
    struct plan p = plan(OK);
    assert_true(p.steps[0].model == OPENAI_4O && p.steps[0].reason == PLAN_FASTEST);
    aim(CHAT);
    input.target.wish = RESOLVE_CHEAPEST;
    memset(live, 0, sizeof live);
    check_frequencies((double[]){ [AZURE] = 0.7, [OPENAI_4O] = 0.3, [VLLM] = 0 });
}

static void capabilities_exclude(void **state)
{
    (void)state;
    static const struct {
        uint32_t capability;
        enum plan_reason reason;
    } cases[] = {
        { CAP_CHAT, PLAN_NO_ENDPOINT }, { CAP_STREAM, PLAN_NO_STREAM }, { CAP_TOOLS, PLAN_NO_TOOLS },
        { CAP_IMAGES, PLAN_NO_IMAGES }, { CAP_AUDIO, PLAN_NO_AUDIO },   { CAP_JSON, PLAN_NO_JSON },
    };
    ask.stream = ask.has_tools = ask.has_images = ask.has_audio = ask.wants_json = true;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        world_release(&w);
        world_init(&w);
        w.models[AZURE].capabilities = WORLD_ALL & ~cases[i].capability;
        aim(CHAT);
        struct plan p = plan(OK);
        assert_int_equal(reason_of(&p, AZURE), cases[i].reason);
        assert_int_equal(p.count, 2);
    }
}

static void data_rules_exclude_and_unknown_facts_do_not_satisfy(void **state)
{
    (void)state;
    struct span eu[] = { SPAN("eu") };
    aim(CHAT);
    struct requirement region = { .regions = { eu, 1 } };
    input.team_require = &region;
    struct plan p = plan(OK);
    assert_int_equal(p.count, 1);
    assert_int_equal(p.steps[0].model, AZURE);
    assert_int_equal(p.steps[0].reason, PLAN_ONLY);
    assert_int_equal(reason_of(&p, OPENAI_4O), PLAN_REGION); /* eu and us: may be us */
    assert_int_equal(reason_of(&p, VLLM), PLAN_REGION);
    struct requirement retention = { .has_retention = true };
    input.team_require = &retention;
    p = plan(OK);
    assert_int_equal(reason_of(&p, OPENAI_4O), PLAN_RETENTION);
    assert_int_equal(reason_of(&p, VLLM), PLAN_RETENTION);
    struct requirement training = { .no_training = true };
    input.team_require = &training;
    p = plan(OK);
    assert_int_equal(reason_of(&p, OPENAI_4O), PLAN_TRAINING);
    assert_int_equal(reason_of(&p, VLLM), PLAN_TRAINING);
    /* The route's own rules, and a direct model under the team's. */
    world_release(&w);
    world_init(&w);
    w.routes[PRIVATE].require = (struct requirement){ .regions = { eu, 1 } };
    aim(PRIVATE);
    p = plan(OK);
    assert_int_equal(reason_of(&p, VLLM), PLAN_REGION);
    input.target = (struct resolved){ .model = &w.compiled->artifact->models[VLLM] };
    input.team_require = &region;
    p = plan(ERR_NO_CANDIDATE);
    assert_int_equal(plan_chief_reason(&p), PLAN_REGION);
}

static void length_and_cost_are_bounded(void **state)
{
    (void)state;
    w.models[AZURE].context_tokens = 150;
    w.routes[CHAT].max_cost_nano = 350000; /* 0.00035 USD */
    aim(CHAT);
    ask.max_output_tokens = 51; /* 100 + 51 > 150 */
    struct plan p = plan(OK);
    assert_int_equal(reason_of(&p, AZURE), PLAN_TOO_LONG);
    assert_int_equal(reason_of(&p, OPENAI_4O), PLAN_TOO_DEAR); /* 151 x 3000 nano-dollars */
    assert_int_equal(p.steps[0].model, VLLM);
    assert_int_equal(p.steps[0].estimate_nano, 151000);
    ask.choices = 10; /* 610 x 1000 */
    p = plan(ERR_NO_CANDIDATE);
    assert_int_equal(plan_chief_reason(&p), PLAN_TOO_DEAR);
    char *why = plan_explain(&arena, &input, &p);
    assert_non_null(strstr(why, "route 'chat'"));
    assert_non_null(strstr(why, "vllm/llama:8b would cost more than the route allows (estimated 0.00061 USD, at most "
                                "0.00035 USD)"));
    assert_non_null(strstr(why, "azure/gpt-4o has too short a context"));
    ask.max_output_tokens = 0; /* the route's usual 500 */
    ask.choices = 1;
    assert_int_equal(select_estimate(input.arm, input.target.route, VLLM, &ask), 600000);
    ask.endpoint = ENDPOINT_EMBEDDINGS;
    assert_int_equal(select_estimate(input.arm, input.target.route, VLLM, &ask), 100000);
}

static void overrides_hold_until_they_end(void **state)
{
    (void)state;
    struct override overrides[] = {
        { .kind = OVERRIDE_DRAIN, .target = SPAN("openai"), .expires_at_ms = 2000 },
        { .kind = OVERRIDE_BLOCK, .target = SPAN("azure/gpt-4o") },
    };
    w.head.overrides = overrides;
    w.head.override_count = 2;
    aim(CHAT);
    struct plan p = plan(OK);
    assert_int_equal(p.count, 1);
    assert_int_equal(reason_of(&p, OPENAI_4O), PLAN_DRAINED);
    assert_int_equal(reason_of(&p, AZURE), PLAN_BLOCKED);
    input.wall_ms = 2000;
    p = plan(OK);
    assert_int_equal(p.steps[0].model, OPENAI_4O);
    assert_int_equal(reason_of(&p, AZURE), PLAN_BLOCKED);
}

static uint64_t ejected_at(uint64_t now_ms)
{
    return breaker_after(0, BREAKER_RATE_BAD, now_ms);
}

static void ejected_models_wait_while_others_can_serve(void **state)
{
    (void)state;
    aim(CHAT);
    live[AZURE].breaker = ejected_at(900);
    struct plan p = plan(OK);
    assert_int_equal(reason_of(&p, AZURE), PLAN_EJECTED);
    assert_int_equal(p.steps[0].model, OPENAI_4O);
    live[VLLM].breaker = ejected_at(900); /* a tier of one: it waits, too */
    p = plan(OK);
    assert_int_equal(p.count, 1);
    assert_int_equal(reason_of(&p, VLLM), PLAN_EJECTED);
    input.now_ms = 31000; /* half-open: may be drawn, the exchange makes it a probe */
    p = plan(OK);
    assert_int_equal(p.count, 3);
    live[AZURE].breaker = breaker_after(live[AZURE].breaker, BREAKER_PROBE_START, 31000);
    p = plan(OK);
    assert_int_equal(reason_of(&p, AZURE), PLAN_PROBED);
    live[AZURE] = (struct select_live){ .cool_until_ms = 40000 };
    p = plan(OK);
    assert_int_equal(reason_of(&p, AZURE), PLAN_EJECTED);
}

static void never_more_than_half_of_a_tier_is_ejected(void **state)
{
    (void)state;
    aim(BULK);
    live[OPENAI_41].breaker = ejected_at(900);
    live[OPENAI_4O].breaker = ejected_at(800); /* ends soonest */
    live[VLLM].breaker = ejected_at(950);
    struct plan p = plan(OK);
    assert_int_equal(p.count, 2); /* 3 / 2 = 1 stays out */
    assert_int_equal(reason_of(&p, VLLM), PLAN_EJECTED);
    assert_true(p.steps[0].forced && p.steps[1].forced);
    live[OPENAI_41].breaker = 0;
    p = plan(OK);
    assert_int_equal(reason_of(&p, VLLM), PLAN_EJECTED);
    assert_true(plan_reason_included(reason_of(&p, OPENAI_4O)));
}

static void if_all_are_bad_the_least_bad_is_tried(void **state)
{
    (void)state;
    struct model_evidence down[] = {
        { .name = SPAN("azure/gpt-4o"), .health = HEALTH_DOWN, .health_since_ms = 70 },
        { .name = SPAN("openai/gpt-4o"), .health = HEALTH_DOWN, .health_since_ms = 50 },
    };
    w.evidence.models = down;
    w.evidence.model_count = 2;
    w.has_evidence = true;
    aim(CHAT);
    live[VLLM].no_credential = true;
    struct plan p = plan(OK);
    assert_int_equal(p.count, 2);
    assert_int_equal(p.steps[0].model, OPENAI_4O); /* down for longest */
    assert_true(p.steps[0].reason == PLAN_LEAST_BAD && p.steps[0].forced && p.propensity_ppb == 1000000000);
    assert_int_equal(p.steps[1].model, AZURE);
    w.evidence.model_count = 1; /* azure down, gpt-4o being probed: the probed one first */
    aim(CHAT);
    live[OPENAI_4O].breaker = breaker_after(ejected_at(0), BREAKER_PROBE_START, 900);
    p = plan(OK);
    assert_int_equal(p.steps[0].model, OPENAI_4O);
    live[VLLM].no_credential = false; /* a later tier can serve */
    p = plan(OK);
    assert_int_equal(p.count, 1);
    assert_int_equal(p.steps[0].model, VLLM);
}

static void bounds_of_a_tier_are_soft(void **state)
{
    (void)state;
    struct model_evidence slow = {
        .name = SPAN("vllm/llama:8b"), .samples = 10, .ttft_p95_us = 3001000, .errors_ppm = 100
    };
    w.evidence.models = &slow;
    w.evidence.model_count = 1;
    w.has_evidence = true;
    w.routes[BULK].tiers[0].within = (struct bounds){ .ttft_p95_ms = 3000, .cost_nano_max = 4000000 };
    aim(BULK); /* the usual 1,500 tokens: 3,000,000 at gpt-4.1, 4,500,000 at gpt-4o */
    struct plan p = plan(OK);
    assert_int_equal(p.count, 1);
    assert_int_equal(p.steps[0].model, OPENAI_41);
    assert_int_equal(reason_of(&p, VLLM), PLAN_OUT_OF_BOUNDS);
    assert_int_equal(reason_of(&p, OPENAI_4O), PLAN_OUT_OF_BOUNDS);
    live[OPENAI_41].no_credential = true;
    p = plan(OK);
    assert_int_equal(p.steps[0].reason, PLAN_LEAST_BAD);
}

static void what_was_tried_is_not_tried_again(void **state)
{
    (void)state;
    aim(CHAT);
    uint32_t tried[] = { AZURE, VLLM };
    input.tried = tried;
    input.tried_count = 2;
    struct plan p = plan(OK);
    assert_int_equal(p.count, 1);
    assert_int_equal(p.steps[0].model, OPENAI_4O);
    assert_int_equal(reason_of(&p, AZURE), PLAN_TRIED);
}

static void a_model_in_two_tiers_is_tried_once(void **state)
{
    (void)state;
    w.chat_second[0].model = AZURE;
    aim(CHAT);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(plan(OK).count, 2);
}

static void a_direct_model_is_one_attempt(void **state)
{
    (void)state;
    aim(CHAT);
    input.target = (struct resolved){ .model = &w.compiled->artifact->models[OPENAI_4O] };
    struct plan p = plan(OK);
    assert_int_equal(p.count, 1);
    assert_true(p.steps[0].model == OPENAI_4O && p.steps[0].reason == PLAN_DIRECT);
    live[OPENAI_4O].breaker = ejected_at(900);
    p = plan(OK);
    assert_true(p.steps[0].reason == PLAN_LEAST_BAD && p.steps[0].forced);
    live[OPENAI_4O].no_credential = true;
    p = plan(ERR_NO_CANDIDATE);
    assert_string_equal(plan_explain(&arena, &input, &p),
                        "The model cannot serve this request: openai/gpt-4o has no credential on this node.");
}

/* Whatever the world is like: the invariants of plan(), and nothing that stands excluded for good is ever chosen. */
static void random_worlds_never_choose_the_excluded(void **state)
{
    (void)state;
    struct prng dice;
    prng_seed(&dice, 7);
    aim(BULK);
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t bits = prng_u64(&dice);
        unsigned route = (unsigned)(bits % WORLD_ROUTES);
        input.target.route = &w.compiled->artifact->routes[route];
        input.target.wish = (enum resolve_wish)((bits >> 2) % 3);
        uint32_t tried[1] = { (uint32_t)((bits >> 4) % WORLD_MODELS) };
        input.tried = tried;
        input.tried_count = (bits >> 6) & 1;
        bool possible = false;
        for (unsigned m = 0; m < WORLD_MODELS; m++) {
            uint64_t r = prng_u64(&dice);
            live[m] = (struct select_live){ .breaker = r & 1 ? ejected_at(r % 60000 & ~1023ull) : 0,
                                            .outstanding = (uint32_t)(r >> 8) % 5,
                                            .ttft_us = (uint32_t)(r >> 12) % 3 * 1000,
                                            .no_credential = (r >> 20) % 4 == 0 };
        }
        for (unsigned t = 0; t < input.target.route->tier_count; t++)
            for (uint32_t k = 0; k < input.target.route->tiers[t].member_count; k++) {
                uint32_t m = input.target.route->tiers[t].members[k].model;
                possible |= !live[m].no_credential && !(input.tried_count && tried[0] == m);
            }
        input.now_ms = prng_u64(&dice) % 100000;
        struct plan p = plan(possible ? OK : ERR_NO_CANDIDATE);
        for (uint32_t k = 0; k < p.count; k++) {
            uint32_t m = p.steps[k].model;
            assert_false(live[m].no_credential);
            assert_false(input.tried_count && tried[0] == m);
            assert_true(p.steps[k].forced || breaker_state(live[m].breaker, input.now_ms) != BREAKER_OPEN);
        }
    }
}

static void every_reason_has_its_words(void **state)
{
    (void)state;
    for (unsigned r = 0; r < PLAN_REASONS; r++) {
        assert_non_null(plan_reason_name((enum plan_reason)r));
        assert_non_null(plan_reason_text((enum plan_reason)r));
        for (unsigned other = 0; other < r; other++)
            assert_string_not_equal(plan_reason_name((enum plan_reason)r), plan_reason_name((enum plan_reason)other));
    }
    aim(CHAT);
    struct arena none;
    arena_init(&none, 64);
    struct plan untouched = { .count = 99 };
    assert_int_equal(select_plan(&none, &input, &prng, &untouched), ERR_NOMEM);
    assert_int_equal(untouched.count, 99);
    arena_release(&none);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(tiers_come_in_order),
        T(hand_set_weights_are_met),
        T(two_draws_prefer_the_less_loaded_and_keep_weights),
        T(the_distribution_is_what_is_drawn),
        T(evidence_sets_weights_while_it_is_valid),
        T(wishes_reorder_scored_tiers_only),
        T(capabilities_exclude),
        T(data_rules_exclude_and_unknown_facts_do_not_satisfy),
        T(length_and_cost_are_bounded),
        T(overrides_hold_until_they_end),
        T(ejected_models_wait_while_others_can_serve),
        T(never_more_than_half_of_a_tier_is_ejected),
        T(if_all_are_bad_the_least_bad_is_tried),
        T(bounds_of_a_tier_are_soft),
        T(what_was_tried_is_not_tried_again),
        T(a_model_in_two_tiers_is_tried_once),
        T(a_direct_model_is_one_attempt),
        T(random_worlds_never_choose_the_excluded),
        T(every_reason_has_its_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
