#include "dataplane/simulate/simulate.h"
#include "common/buf.h"
#include "tests/unit/dataplane/route/world.h"
#include <math.h>

enum { OBJECTS = 4 };

/* The live policy is `live`, the candidate whatever a test makes of `candidate`; records are made as workers would. */
static struct world live, candidate;
static struct buf objects[OBJECTS]; /* live, candidate, head, directory */
static struct simulate *simulate;
static struct buf out;
static struct arena arena;
static struct json_index ix;
static struct prng prng;
static uint64_t made;

static int setup(void **state)
{
    (void)state;
    world_init(&live);
    world_init(&candidate);
    candidate.artifact.policy_version = 2;
    arena_init(&arena, 16u << 20);
    out = (struct buf)BUF_INIT(1u << 20);
    prng_seed(&prng, 7);
    made = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < OBJECTS; i++)
        buf_release(&objects[i]);
    simulate_free(simulate);
    simulate = NULL;
    buf_release(&out);
    arena_release(&arena);
    return 0;
}

static void begin(void)
{
    const char *why = "";
    const struct directory_delta directory = {
        .epoch = 1, .to_seq = 1, .full = true, .has_teams = true, .teams = live.teams
    };
    for (size_t i = 0; i < OBJECTS; i++)
        objects[i] = (struct buf)BUF_INIT(1u << 20);
    assert_int_equal(wire_encode_artifact(&live.artifact, &objects[0]), OK);
    assert_int_equal(wire_encode_artifact(&candidate.artifact, &objects[1]), OK);
    assert_int_equal(wire_encode_head(&live.head, &objects[2]), OK);
    assert_int_equal(wire_encode_directory_delta(&directory, &objects[3]), OK);
    const struct simulate_input input = { .live = buf_span(&objects[0]),
                                          .candidate = buf_span(&objects[1]),
                                          .head = buf_span(&objects[2]),
                                          .directory = buf_span(&objects[3]),
                                          .now_ms = 1000 };
    if (simulate_new(&input, &simulate, &why))
        fail_msg("%s", why);
}

static struct record request(const char *asked, const char *route, const char *model, double propensity)
{
    made++;
    return (struct record){ .time_ms = 1000 + (int64_t)made,
                            .request_id = SPAN("req_1"),
                            .team = SPAN("research"),
                            .endpoint = SPAN("chat"),
                            .asked = span_cstr(asked),
                            .route = span_cstr(route),
                            .model = span_cstr(model),
                            .has_unit = true,
                            .unit = made % 50 * 0x9e3779b97f4a7c15u,
                            .has_features = true,
                            .input_tokens_est = 100,
                            .choices = 1,
                            .propensity_ppb = (uint32_t)(propensity * 1e9),
                            .attempts = { { .model = span_cstr(model) } },
                            .attempt_count = 1,
                            .status = 200,
                            .outcome = SPAN("ok"),
                            .usage_known = true,
                            .input = 100,
                            .output = 50,
                            .ttft_us = 100000 };
}

static void take(struct record r)
{
    assert_int_equal(simulate_take(simulate, &r), OK);
}

/* 70 to 30 of azure and openai, as chat's policy says; azure answers in 100 ms, openai in 200. */
static void chat_requests(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const bool azure = prng_unit(&prng) < 0.7;
        struct record r = request("chat", "chat", azure ? "azure/gpt-4o" : "openai/gpt-4o", azure ? 0.7 : 0.3);
        r.ttft_us = azure ? 100000 : 200000;
        take(r);
    }
}

static void report(void)
{
    struct json_writer w;
    json_writer_init(&w, &out);
    assert_int_equal(simulate_report(simulate, &w), OK);
    assert_int_equal(json_writer_end(&w), OK);
    assert_int_equal(json_index(&arena, buf_span(&out), &json_limits_default, &ix, NULL), OK);
}

/* The number at "a.b.c"; NaN for null. Fails where there is none. */
static double at(const char *path)
{
    struct span rest = span_cstr(path), part;
    uint32_t token = 0;
    double value = (double)NAN;
    while (span_split(&rest, '.', &part)) {
        token = json_get(&ix, token, part);
        if (token == JSON_NONE)
            fail_msg("no %s in %.*s", path, (int)out.len, out.data);
    }
    if (json_kind(&ix, token) != JSON_NULL)
        assert_int_equal(json_double(&ix, token, &value), OK);
    return value;
}

static double moved_to(const char *from, const char *to)
{
    const uint32_t matrix = json_get(&ix, 0, SPAN("matrix"));
    for (uint32_t t = json_first(&ix, matrix); t != JSON_NONE; t = json_next(&ix, matrix, t)) {
        const uint32_t a = json_get(&ix, t, SPAN("from")), b = json_get(&ix, t, SPAN("to"));
        double requests;
        if ((from ? json_string_eq(&ix, a, span_cstr(from)) : json_kind(&ix, a) == JSON_NULL) &&
            (to ? json_string_eq(&ix, b, span_cstr(to)) : json_kind(&ix, b) == JSON_NULL)) {
            assert_int_equal(json_double(&ix, json_get(&ix, t, SPAN("requests")), &requests), OK);
            return requests;
        }
    }
    return 0;
}

static bool near(double value, double expected, double within)
{
    return fabs(value - expected) <= within;
}

static void the_same_policy_moves_nothing(void **state)
{
    (void)state;
    begin();
    chat_requests(400);
    report();
    assert_true(at("requests") == 400 && near(at("moved"), 0, 1e-6));
    assert_true(near(moved_to("azure/gpt-4o", "azure/gpt-4o"), 280, 1e-6));
    assert_true(near(at("metrics.cost_usd.difference.value"), 0, 1e-12));
    assert_true(near(at("quality.effective_requests.live"), 400, 1));
    assert_true(near(at("metrics.ttft_ms.live.value"), 130, 8));
    /* 150 tokens of 4 or 3 dollars a million */
    assert_true(near(at("metrics.cost_usd.live.value"), 150e-6 * (0.7 * 4 + 0.3 * 3), 5e-6));
}

static void other_shares_move_the_least_that_can_move(void **state)
{
    (void)state;
    candidate.chat_first[0].weight_ppm = 200000;
    candidate.chat_first[1].weight_ppm = 800000;
    begin();
    chat_requests(1000);
    report();
    assert_true(near(at("moved"), 500, 1e-6));
    assert_true(near(moved_to("azure/gpt-4o", "openai/gpt-4o"), 500, 1e-6));
    assert_true(near(moved_to("azure/gpt-4o", "azure/gpt-4o"), 200, 1e-6));
    assert_true(moved_to("openai/gpt-4o", "azure/gpt-4o") == 0);
    assert_true(near(at("metrics.ttft_ms.candidate.value"), 180, 1));
    assert_true(at("metrics.ttft_ms.difference.low") > 40 && at("metrics.ttft_ms.difference.high") < 60);
    assert_true(at("metrics.cost_usd.difference.high") < 0);
    assert_true(at("quality.unmeasured.candidate") == 0);
}

static void another_price_changes_the_cost_alone(void **state)
{
    (void)state;
    candidate.models[AZURE].price.input = candidate.models[AZURE].price.output = 8000000000;
    begin();
    chat_requests(500);
    report();
    assert_true(near(at("moved"), 0, 1e-6) && near(at("metrics.ttft_ms.difference.value"), 0, 1e-9));
    assert_true(near(at("metrics.cost_usd.difference.value"), 150e-6 * 0.7 * 4, 2e-5));
}

static void a_new_model_is_named(void **state)
{
    (void)state;
    candidate.chat_first[0].model = VLLM;
    begin();
    chat_requests(500);
    report();
    assert_true(near(moved_to("azure/gpt-4o", "vllm/llama:8b"), 350, 1e-6));
    assert_true(near(at("quality.unmeasured.candidate"), 0.7, 1e-6) &&
                near(at("quality.unknown.candidate"), 0.7, 1e-6));
    assert_true(json_string_eq(&ix, json_get(&ix, json_get(&ix, 0, SPAN("slowest_new_path")), SPAN("model")),
                               SPAN("vllm/llama:8b")));
    assert_true(isnan(at("slowest_new_path.ttft_ms")));
    assert_true(isnan(at("metrics.ttft_ms.candidate.low")) && !isnan(at("metrics.ttft_ms.candidate.value")));
    assert_true(at("metrics.failures.candidate.high") > 0.6);
}

static void who_is_newly_refused_is_told(void **state)
{
    (void)state;
    candidate.models[AZURE].capabilities &= ~(uint32_t)CAP_IMAGES;
    candidate.models[OPENAI_4O].capabilities &= ~(uint32_t)CAP_IMAGES;
    candidate.models[VLLM].capabilities &= ~(uint32_t)CAP_IMAGES;
    candidate.routes[BULK].name = SPAN("bulky"); /* sorted still: bulky, chat, private */
    begin();
    chat_requests(100);
    for (unsigned i = 0; i < 30; i++) {
        struct record r = request("chat", "chat", "azure/gpt-4o", 0.7);
        r.images = true;
        take(r);
    }
    for (unsigned i = 0; i < 20; i++)
        take(request("bulk", "bulk", "vllm/llama:8b", 0.5));
    take(request("openai/gpt-4o", "", "openai/gpt-4o", 1));
    report();
    assert_true(at("requests") == 151 && at("refused.new") == 50 && at("refused.live") == 0);
    assert_true(near(moved_to("vllm/llama:8b", NULL) + moved_to("openai/gpt-4o", NULL) +
                         moved_to("openai/gpt-4.1", NULL) + moved_to("azure/gpt-4o", NULL),
                     50, 1e-6));
    const uint32_t groups = json_get(&ix, json_get(&ix, 0, SPAN("refused")), SPAN("groups"));
    assert_int_equal(json_count(&ix, groups), 2);
    const uint32_t first = json_first(&ix, groups), second = json_next(&ix, groups, first);
    assert_true(json_string_eq(&ix, json_get(&ix, first, SPAN("reason")), SPAN("no_images")));
    assert_true(json_string_eq(&ix, json_get(&ix, first, SPAN("team")), SPAN("research")));
    assert_true(json_string_eq(&ix, json_get(&ix, second, SPAN("reason")), SPAN("unknown_model")));
    assert_true(span_find(json_raw(&ix, json_get(&ix, second, SPAN("why"))), SPAN("bulk")) != SIZE_MAX);
}

static void what_cannot_be_decided_is_counted(void **state)
{
    (void)state;
    begin();
    struct record r = request("chat", "chat", "azure/gpt-4o", 0.7);
    r.has_features = false;
    take(r);
    r = request("chat", "chat", "azure/gpt-4o", 0.7);
    r.team = SPAN("gone");
    take(r);
    r.kind = RECORD_SHADOW;
    take(r);
    report();
    assert_true(at("requests") == 0 && at("left_out_unread") == 1 && at("left_out_team_gone") == 1);
    assert_true(isnan(at("metrics.cost_usd.live.value")));
}

static void a_bad_candidate_says_why(void **state)
{
    (void)state;
    struct simulate *none = NULL;
    const char *why = NULL;
    begin();
    assert_int_not_equal(
        simulate_new(&(struct simulate_input){ .live = buf_span(&objects[0]), .candidate = SPAN("x") }, &none, &why),
        OK);
    assert_null(none);
    assert_non_null(why);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(the_same_policy_moves_nothing),
        T(other_shares_move_the_least_that_can_move),
        T(another_price_changes_the_cost_alone),
        T(a_new_model_is_named),
        T(who_is_newly_refused_is_told),
        T(what_cannot_be_decided_is_counted),
        T(a_bad_candidate_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
