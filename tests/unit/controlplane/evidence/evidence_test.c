#include "controlplane/evidence/evidence.h"
#include "common/arena.h"
#include "common/fault.h"
#include "controlplane/evidence/telemetry.h"
#include "controlplane/policy/prior.h"
#include "proto/wire.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include "tests/unit/controlplane/journal/heard.h"

#define T0 INT64_C(1800000000000)

static struct evidence_state *evidence;
static struct arena arena;
static const struct artifact *artifact;

static const char book[] = "schema: fairlead/1\nkind: prices\nprices:\n"
                           "  openai/gpt-4o: {input: 2.50, output: 10.00, can: [chat]}\n"
                           "  groq/llama: {input: 0.50, output: 0.80, can: [chat]}\n";
static const char policy[] = "schema: fairlead/1\\nkind: policy\\n"
                             "providers:\\n"
                             "  openai: {preset: openai, credentials: [k]}\\n"
                             "  groq: {preset: groq, credentials: [k]}\\n"
                             "  mine: {preset: vllm, probe: {how: none}}\\n"
                             "models:\\n"
                             "  openai/gpt-4o: {}\\n"
                             "  groq/llama: {}\\n"
                             "  mine/m: {price: {input: 1, output: 1}}\\n"
                             "routes:\\n"
                             "  chat: {tiers: [{models: [openai/gpt-4o, groq/llama, mine/m], prefer: balanced}]}\\n"
                             "  hand: {tiers: [{models: {openai/gpt-4o: 70, groq/llama: 30}}]}\\n";

static const struct artifact *compile_text(const char *policy_text)
{
    struct policy_bundle *bundle;
    const struct policy *loaded;
    const struct artifact *made;
    struct diags *diags = ARENA_NEW(&arena, struct diags);
    char *json = arena_printf(&arena, "{\"files\":[{\"name\":\"policy.yaml\",\"text\":\"%s\"}]}", policy_text);
    struct buf text = BUF_INIT(1u << 20);
    diags_init(diags, &arena);
    assert_int_equal(policy_bundle_open(&arena, span_cstr(json), &bundle), OK);
    assert_int_equal(policy_load(&arena, &bundle->source, bundle->root, diags, &loaded), OK);
    if (policy_compile(&arena, loaded, evidence_book(evidence), 1, diags, &made) != OK) {
        assert_int_equal(diags_text(diags, &text), OK);
        fail_msg("%s", buf_cstr(&text));
    }
    buf_release(&text);
    return made;
}

static const struct artifact *compile(void)
{
    return compile_text(policy);
}

static enum err follow(struct override *overrides, uint32_t count)
{
    struct arm arm = { .name = SPAN("stable"), .policy_version = 1 };
    const struct head head = { .epoch = 1,
                               .generation = 1,
                               .arms = &arm,
                               .arm_count = 1,
                               .overrides = overrides,
                               .override_count = count,
                               .why = SPAN(""),
                               .by = SPAN("") };
    return evidence_follow(evidence, &artifact, 1, &head);
}

static int setup(void **state)
{
    const char *why;
    (void)state;
    arena_init(&arena, 1u << 28);
    assert_int_equal(evidence_state_new(&evidence), OK);
    assert_int_equal(evidence_load_shipped(evidence, span_cstr(book), &why), OK);
    artifact = compile();
    assert_int_equal(follow(NULL, 0), OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fault_disarm_all();
    evidence_state_free(evidence);
    arena_release(&arena);
    return 0;
}

static struct evidence *decide(int64_t now_ms)
{
    struct evidence *e = NULL, *back = NULL;
    struct buf bytes = BUF_INIT(EVIDENCE_BYTES_MAX);
    assert_int_equal(evidence_decide(evidence, &arena, now_ms, 30000, &e), OK);
    assert_int_equal(e->expires_at_ms, now_ms + 30000);
    assert_int_equal(wire_encode_evidence(e, &bytes), OK); /* what nodes would refuse is no evidence */
    assert_int_equal(wire_decode_evidence(&arena, buf_span(&bytes), &back, NULL), OK);
    buf_release(&bytes);
    return e;
}

static const struct model_evidence *model(const struct evidence *e, const char *name)
{
    for (uint32_t i = 0; i < e->model_count; i++) {
        if (span_eq(e->models[i].name, span_cstr(name)))
            return &e->models[i];
    }
    fail_msg("no model %s", name);
    return NULL;
}

static struct evidence_reply take(const struct evidence_report *report, enum err expected, int64_t now_ms)
{
    struct evidence_reply reply = { 0 };
    assert_int_equal(evidence_take(evidence, report, now_ms, &arena, &reply), expected);
    assert_true((reply.error.len > 0) == (expected != OK));
    return reply;
}

static void probe(const char *provider, bool ok, uint64_t seq, int64_t at_ms)
{
    struct probe_result r = { .provider = span_cstr(provider), .ok = ok, .why = SPAN("test"), .at_ms = at_ms };
    const struct evidence_report report = { .protocol = LINK_PROTOCOL,
                                            .source = EVIDENCE_FROM_PROBER,
                                            .sender = SPAN("prober"),
                                            .incarnation = SPAN("a"),
                                            .seq = seq,
                                            .probes = &r,
                                            .probe_count = 1 };
    (void)take(&report, OK, at_ms);
}

static void tells_what_to_probe(void **state)
{
    (void)state;
    const struct evidence_report hello = { .protocol = LINK_PROTOCOL,
                                           .source = EVIDENCE_FROM_PROBER,
                                           .sender = SPAN("prober"),
                                           .incarnation = SPAN("a"),
                                           .seq = 1 };
    struct evidence_reply reply = take(&hello, OK, T0);
    assert_int_equal(reply.target_count, 2); /* `how: none` is left alone */
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(reply.targets[i].how, PROBE_HOW_MODELS);
        assert_true(span_starts(reply.targets[i].base_url, SPAN("https://api.")));
        assert_int_equal(reply.targets[i].credentials.count, 1);
    }
    const struct evidence_report alien = { .protocol = 99, .source = EVIDENCE_FROM_PROBER };
    (void)take(&alien, ERR_INVALID, T0);
}

static void prices_of_models(void **state)
{
    (void)state;
    const struct price dear = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 7, .output = 8 };
    struct evidence *e = decide(T0);
    assert_int_equal(e->model_count, 3);
    assert_int_equal(model(e, "openai/gpt-4o")->price_source, PRICE_SOURCE_BOOK);
    assert_int_equal(model(e, "openai/gpt-4o")->price.input, 2500000000);
    assert_int_equal(model(e, "mine/m")->price_source, PRICE_SOURCE_NONE); /* the policy's own holds */
    assert_false(evidence_significant(evidence));
    assert_int_equal(evidence_price_set(evidence, SPAN("openai/gpt-4o"), &dear, T0, SPAN("ann")), OK);
    assert_true(evidence_significant(evidence));
    assert_true(evidence_dirty(evidence));
    uint64_t version = e->book_version;
    e = decide(T0 + 1);
    assert_int_equal(model(e, "openai/gpt-4o")->price_source, PRICE_SOURCE_SET);
    assert_int_equal(model(e, "openai/gpt-4o")->price.input, 7);
    assert_int_equal(e->book_version, version + 1);
    const struct price nothing = { 0 };
    assert_int_equal(evidence_price_set(evidence, SPAN("x"), &nothing, T0, SPAN("ann")), ERR_INVALID);
}

static void a_feed_speaks(void **state)
{
    (void)state;
    struct catalog_entry entries[] = {
        { .name = SPAN("openai/gpt-4o"),
          .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 2000000000, .output = 9000000000 } }
    };
    struct evidence_report r = { .protocol = LINK_PROTOCOL,
                                 .source = EVIDENCE_FROM_PRICEFEED,
                                 .sender = SPAN("pricefeed"),
                                 .incarnation = SPAN("a"),
                                 .seq = 1,
                                 .prices = entries,
                                 .price_count = 1 };
    assert_int_equal(take(&r, OK, T0).price_base, 0); /* a difference without a base: send everything */
    r.seq = 2;
    r.price_full = true;
    uint64_t base = take(&r, OK, T0).price_base;
    assert_true(base > 0);
    assert_int_equal(model(decide(T0), "openai/gpt-4o")->price.input, 2000000000);
    entries[0].price.input = 2100000000;
    assert_int_equal(take(&r, OK, T0).price_base, base); /* seq 2 again: changes nothing */
    assert_int_equal(model(decide(T0), "openai/gpt-4o")->price.input, 2000000000);
    r.seq = 3;
    entries[0].price.input = 0;
    (void)take(&r, OK, T0);
    struct evidence *e = decide(T0);
    assert_int_equal(model(e, "openai/gpt-4o")->price.input, 2000000000);
    uint32_t count;
    assert_int_equal(evidence_price_accept(evidence, SPAN("openai/gpt-4o"), T0, &count), OK);
    assert_int_equal(model(decide(T0), "openai/gpt-4o")->price.input, 0);
    struct buf blob = BUF_INIT(1u << 20);
    assert_int_equal(evidence_export(evidence, &blob), OK);
    assert_false(evidence_dirty(evidence));
    assert_int_equal(evidence_import(evidence, SPAN("2\n{}")), ERR_CORRUPT);
    assert_int_equal(evidence_import(evidence, buf_span(&blob)), OK);
    assert_int_equal(decide(T0)->book_version, e->book_version + 1);
    buf_release(&blob);
}

static struct price price_of(int64_t input)
{
    return (struct price){ .known = PRICE_INPUT | PRICE_OUTPUT, .input = input, .output = 2 * input };
}

/* A full catalog of one entry. */
static void feed(const char *name, int64_t input, uint64_t seq)
{
    struct catalog_entry entry = { .name = span_cstr(name), .price = price_of(input) };
    const struct evidence_report r = { .protocol = LINK_PROTOCOL,
                                       .source = EVIDENCE_FROM_PRICEFEED,
                                       .sender = SPAN("pricefeed"),
                                       .incarnation = SPAN("a"),
                                       .seq = seq,
                                       .prices = &entry,
                                       .price_count = 1,
                                       .price_full = true };
    (void)take(&r, OK, T0);
}

static void expect_price(const char *name, enum price_source source, int64_t input)
{
    const struct model_evidence *e = model(decide(T0), name);
    assert_int_equal(e->price_source, source);
    assert_int_equal(e->price.input, input);
}

/* What was compiled follows the entry it was compiled with, however its name was found: `is:`, a preset's prefix, what
 * is sent upstream. */
static void later_prices_reach_live_policies(void **state)
{
    static const char mapped[] = "schema: fairlead/1\\nkind: policy\\n"
                                 "providers:\\n"
                                 "  eu: {preset: azure, base_url: https://eu.openai.azure.com, credentials: [k]}\\n"
                                 "  mine: {preset: vllm}\\n"
                                 "  fast: {preset: groq, credentials: [k]}\\n"
                                 "models:\\n"
                                 "  eu/prod: {sends: deployment, is: openai/gpt-4o}\\n"
                                 "  mine/m: {is: groq/llama}\\n"
                                 "  fast/best: {sends: llama}\\n"
                                 "routes:\\n"
                                 "  chat: {tiers: [{models: [eu/prod, mine/m, fast/best]}]}\\n";
    const struct price set = price_of(7), own = price_of(9);
    (void)state;
    artifact = compile_text(mapped);
    assert_int_equal(follow(NULL, 0), OK);
    expect_price("eu/prod", PRICE_SOURCE_BOOK, 2500000000);
    expect_price("mine/m", PRICE_SOURCE_BOOK, 500000000);
    expect_price("fast/best", PRICE_SOURCE_BOOK, 500000000);
    feed("groq/llama", 600000000, 1);
    expect_price("mine/m", PRICE_SOURCE_FEED, 600000000);
    expect_price("fast/best", PRICE_SOURCE_FEED, 600000000);
    assert_int_equal(evidence_price_set(evidence, SPAN("groq/llama"), &set, T0, SPAN("ann")), OK);
    feed("groq/llama", 650000000, 2);
    expect_price("mine/m", PRICE_SOURCE_SET, 7);
    expect_price("fast/best", PRICE_SOURCE_SET, 7);
    assert_int_equal(evidence_price_reach(evidence, SPAN("groq/llama"), T0), 2);
    assert_int_equal(evidence_price_unset(evidence, SPAN("groq/llama")), OK);
    expect_price("fast/best", PRICE_SOURCE_FEED, 650000000);
    /* Our own name of a model is no name of the book: nobody is charged by that. */
    assert_int_equal(evidence_price_set(evidence, SPAN("fast/best"), &own, T0, SPAN("ann")), OK);
    expect_price("fast/best", PRICE_SOURCE_FEED, 650000000);
    assert_int_equal(evidence_price_reach(evidence, SPAN("fast/best"), T0), 0);
    /* Nor by half a price. */
    const struct price half = { .known = PRICE_INPUT, .input = 7 };
    assert_int_equal(evidence_price_set(evidence, SPAN("groq/llama"), &half, T0, SPAN("ann")), OK);
    assert_int_equal(evidence_price_reach(evidence, SPAN("groq/llama"), T0), 0);
}

/* Two arms that map one name to different entries: no price by name can be right for both. */
static void arms_that_disagree_keep_their_own_prices(void **state)
{
    static const char text[] = "schema: fairlead/1\\nkind: policy\\n"
                               "providers: {mine: {preset: vllm}}\\n"
                               "models:\\n"
                               "  mine/m: {is: %s}\\n"
                               "  mine/n: {is: groq/llama}\\n"
                               "routes: {chat: {tiers: [{models: [mine/m, mine/n]}]}}\\n";
    const struct artifact *arms[2] = { compile_text(arena_printf(&arena, text, "groq/llama")),
                                       compile_text(arena_printf(&arena, text, "openai/gpt-4o")) };
    const struct head head = { .epoch = 1, .generation = 1, .why = SPAN(""), .by = SPAN("") };
    (void)state;
    assert_int_equal(evidence_follow(evidence, arms, 2, &head), OK);
    expect_price("mine/m", PRICE_SOURCE_NONE, 0);
    expect_price("mine/n", PRICE_SOURCE_BOOK, 500000000);
    assert_int_equal(evidence_follow(evidence, arms, 1, &head), OK);
    expect_price("mine/m", PRICE_SOURCE_BOOK, 500000000);
}

static void still_tiers_follow_new_facts(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++)
        assert_int_equal(decide(T0 + i)->weight_count, 0);
    const struct price cheap = price_of(1);
    assert_int_equal(evidence_price_set(evidence, SPAN("openai/gpt-4o"), &cheap, T0, SPAN("ann")), OK);
    assert_int_equal(decide(T0 + 10)->weight_count, 1);
}

static void probes_decide_health(void **state)
{
    (void)state;
    (void)decide(T0);
    for (uint64_t i = 1; i <= 3; i++) {
        probe("groq", false, i, T0 + (int64_t)i * 1000);
        assert_int_equal(evidence_significant(evidence), i == 3);
    }
    struct evidence *e = decide(T0 + 3500);
    assert_int_equal(model(e, "groq/llama")->health, HEALTH_DOWN);
    assert_int_equal(model(e, "openai/gpt-4o")->health, HEALTH_UNKNOWN);
    assert_int_equal(e->weight_count, 1); /* hand-set tiers have none */
    assert_true(span_eq(e->weights[0].route, SPAN("chat")));
    assert_int_equal(e->weights[0].weights_ppm[1], 0);
    probe("groq", true, 4, T0 + 4000);
    probe("groq", true, 4, T0 + 4500); /* a repeat */
    assert_false(evidence_significant(evidence));
    probe("groq", true, 5, T0 + 5000);
    assert_true(evidence_significant(evidence));
    e = decide(T0 + 5500);
    assert_int_equal(model(e, "groq/llama")->health, HEALTH_UP);
    assert_true(e->weights[0].weights_ppm[1] > 0);
    for (uint64_t i = 6; i <= 8; i++)
        probe("groq", false, i, T0 + (int64_t)i * 1000);
    assert_int_equal(model(decide(T0 + 9000), "groq/llama")->health, HEALTH_DOWN);
    /* the prober is gone: its last word fades */
    assert_int_equal(model(decide(T0 + 9000 + 600000), "groq/llama")->health, HEALTH_UNKNOWN);
}

static void every_model_down_at_once_is_not_believed(void **state)
{
    (void)state;
    struct model_telemetry all[3];
    static const char *const names[] = { "openai/gpt-4o", "groq/llama", "mine/m" };
    (void)decide(T0);
    for (int i = 0; i < 3; i++)
        all[i] = (struct model_telemetry){
            .model = span_cstr(names[i]), .attempts = 100, .failures = 100, .remaining_ppm = 1000001
        };
    const struct evidence_report r = { .protocol = LINK_PROTOCOL,
                                       .source = EVIDENCE_FROM_NODE,
                                       .sender = SPAN("n"),
                                       .incarnation = SPAN("i"),
                                       .seq = 1,
                                       .telemetry = all,
                                       .telemetry_count = 3 };
    (void)take(&r, OK, T0);
    struct evidence *e = decide(T0);
    struct buf text = BUF_INIT(1u << 20);
    struct json_writer w;
    for (int i = 0; i < 3; i++)
        assert_int_equal(model(e, names[i])->health, HEALTH_UNKNOWN);
    json_writer_init(&w, &text);
    evidence_json_summary(evidence, T0, &w);
    assert_non_null(strstr(buf_cstr(&text), "\"health_quarantined\":3"));
    buf_release(&text);
}

static void what_changed_is_told(void **state)
{
    (void)state;
    struct heard heard = { .count = 0 };
    const struct event_sink sink = { .happened = heard_take, .user = &heard };
    evidence_tell(evidence, &sink);
    (void)decide(T0);
    probe("openai", true, 1, T0);
    probe("openai", true, 2, T0 + 500);
    (void)decide(T0 + 600); /* what was never down comes up without a word */
    assert_heard(&heard, "");
    for (uint64_t i = 3; i <= 5; i++)
        probe("groq", false, i, T0 + (int64_t)i * 1000);
    (void)decide(T0 + 5500);
    assert_non_null(strstr(heard.text, "health groq/llama|is down|"));
    assert_non_null(strstr(heard.text, "weights chat tier 1|groq/llama (down) "));
    assert_non_null(strstr(heard.text, "% -> 0%"));
    assert_int_equal(heard.count, 2);
    heard = (struct heard){ .count = 0 };
    (void)decide(T0 + 6000);
    assert_heard(&heard, "");
    probe("groq", true, 6, T0 + 7000);
    probe("groq", true, 7, T0 + 8000);
    (void)decide(T0 + 8500);
    assert_non_null(strstr(heard.text, "health groq/llama|is up|"));
    evidence_tell(evidence, NULL);
}

static void prices_held_back_are_told(void **state)
{
    (void)state;
    struct heard heard = { .count = 0 };
    const struct event_sink sink = { .happened = heard_take, .user = &heard };
    evidence_tell(evidence, &sink);
    feed("openai/gpt-4o", 2500000000, 1);
    assert_heard(&heard, "");
    feed("openai/gpt-4o", 250000000000, 2); /* a hundred times the price */
    assert_heard(&heard, "price pricefeed|1 price held back in quarantine|`fairlead prices list --held` shows them|\n");
    evidence_tell(evidence, NULL);
}

static void assert_weights_say(const char *what)
{
    struct buf text = BUF_INIT(1u << 20);
    struct json_writer w;
    json_writer_init(&w, &text);
    evidence_json_weights(evidence, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_true(span_find(buf_span(&text), span_cstr(what)) != SIZE_MAX);
    buf_release(&text);
}

static void overrides_and_resets(void **state)
{
    (void)state;
    struct heard heard = { .count = 0 };
    const struct event_sink sink = { .happened = heard_take, .user = &heard };
    evidence_tell(evidence, &sink);
    struct override freeze = { .kind = OVERRIDE_FREEZE,
                               .target = SPAN("chat"),
                               .reason = SPAN("r"),
                               .by = SPAN("b"),
                               .set_at_ms = T0,
                               .expires_at_ms = T0 + 1000 };
    struct override drain = {
        .kind = OVERRIDE_DRAIN, .target = SPAN("openai"), .reason = SPAN("r"), .by = SPAN("b"), .set_at_ms = T0
    };
    struct evidence *e = decide(T0);
    assert_int_equal(e->weight_count, 0); /* the policy's own do not travel */
    assert_int_equal(follow(&drain, 1), OK);
    assert_true(evidence_significant(evidence));
    e = decide(T0);
    assert_int_equal(e->weights[0].weights_ppm[0], 0);
    assert_weights_say("\"excluded\":\"drained\"");
    assert_non_null(strstr(heard.text, " (drained) "));
    drain.kind = OVERRIDE_BLOCK;
    assert_int_equal(follow(&drain, 1), OK);
    (void)decide(T0);
    assert_weights_say("\"excluded\":\"blocked\"");
    assert_int_equal(follow(&freeze, 1), OK); /* the drain is gone, but what is frozen stays as it is */
    e = decide(T0);
    assert_true(e->weights[0].frozen);
    assert_int_equal(e->weights[0].weights_ppm[0], 0);
    e = decide(T0 + 1000);
    assert_false(e->weights[0].frozen);
    assert_true(e->weights[0].weights_ppm[0] > 0);
    assert_int_equal(evidence_weights_reset(evidence, SPAN("nowhere")), ERR_NOT_FOUND);
    assert_int_equal(evidence_weights_reset(evidence, SPAN("chat")), OK);
    uint32_t prior = 0;
    for (uint32_t r = 0; r < artifact->route_count; r++) {
        if (span_eq(artifact->routes[r].name, SPAN("chat")))
            prior = artifact->routes[r].tiers[0].members[0].weight_ppm;
    }
    e = decide(T0 + 2000);
    assert_true(prior > 0);
    assert_int_equal(e->weight_count, 0);
}

static void views_are_json(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(1u << 20);
    struct json_index ix;
    struct json_writer w;
    probe("groq", true, 1, T0);
    (void)decide(T0);
    for (int i = 0; i < 4; i++) {
        buf_clear(&text);
        json_writer_init(&w, &text);
        if (i == 0)
            evidence_json_providers(evidence, T0, &w);
        else if (i == 1)
            evidence_json_weights(evidence, &w);
        else if (i == 2)
            evidence_json_prices(evidence, SPAN(""), false, &w);
        else
            evidence_json_summary(evidence, T0, &w);
        assert_int_equal(json_writer_end(&w), OK);
        assert_int_equal(json_index(&arena, buf_span(&text), &json_limits_default, &ix, NULL), OK);
        assert_true(ix.count > 10);
    }
    buf_release(&text);
}

static void one_artifact_in_two_arms(void **state)
{
    (void)state;
    struct evidence *e;
    struct artifact same = *artifact;
    memset(&same.hash, 7, sizeof same.hash);
    const struct artifact *const both[] = { &same, &same };
    const struct head head = { .epoch = 1, .generation = 1, .why = SPAN(""), .by = SPAN("") };
    for (int i = 0; i < 3; i++) {
        assert_int_equal(evidence_follow(evidence, both, 2, &head), OK);
        for (uint64_t k = 1; k <= 3; k++)
            probe("groq", false, 10 * (uint64_t)i + k, T0 + 10 * (int64_t)i + (int64_t)k);
        e = decide(T0 + 1000);
        assert_int_equal(e->weight_count, 1);
    }
    assert_int_equal(evidence_follow(evidence, NULL, 0, NULL), OK);
    assert_int_equal(decide(T0)->model_count, 0);
}

static void following_survives_no_memory(void **state)
{
    (void)state;
    enum err err = ERR_NOMEM;
    struct override drain = {
        .kind = OVERRIDE_DRAIN, .target = SPAN("openai"), .reason = SPAN("r"), .by = SPAN("b"), .set_at_ms = T0
    };
    struct artifact other = *artifact; /* not the one that is followed: made by hand */
    other.policy_version = 2;
    artifact = &other;
    memset(&other.hash, 0, sizeof other.hash);
    for (uint64_t n = 0; err != OK; n++) {
        assert_true(n < 200);
        fault_arm(FAULT_ALLOC, n, 1);
        err = follow(&drain, 1);
        fault_disarm_all();
        assert_true(err == OK || err == ERR_NOMEM);
        (void)decide(T0); /* old or new, never half */
    }
}

/* What doctor is told of the models in use. */
static void models_told(void **state)
{
    static const char dated[] = "schema: fairlead/1\nkind: prices\nprices:\n"
                                "  openai/gpt-4o: {input: 2.50, output: 10.00, can: [chat], deprecated: 2027-02-01}\n";
    struct buf out = BUF_INIT(1u << 20);
    struct json_writer w;
    const char *why = "";
    (void)state;
    assert_int_equal(evidence_load_shipped(evidence, span_cstr(dated), &why), OK); /* groq/llama is gone from it */
    json_writer_init(&w, &out);
    evidence_json_models(evidence, T0, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_string_equal(buf_cstr(&out),
                        "[{\"name\":\"groq/llama\",\"identity\":\"groq/llama\",\"priced\":false,\"stale\":false,"
                        "\"disputed\":false,\"deprecated_on\":\"\"},"
                        "{\"name\":\"mine/m\",\"identity\":\"\",\"priced\":true,\"stale\":false,"
                        "\"disputed\":false,\"deprecated_on\":\"\"},"
                        "{\"name\":\"openai/gpt-4o\",\"identity\":\"openai/gpt-4o\",\"priced\":true,\"stale\":false,"
                        "\"disputed\":false,\"deprecated_on\":\"2027-02-01\"}]");
    buf_release(&out);
}

/* A head whose arms are compared by an assignment of this name. */
static enum err follow_compared(const char *id, struct override *overrides, uint32_t count)
{
    struct arm arms[] = { { .name = SPAN("stable"), .policy_version = 1, .artifact = artifact->hash },
                          { .name = SPAN("canary"), .policy_version = 2, .artifact = artifact->hash } };
    struct bucket_range range = { .arm = 1, .count = 500 };
    struct assignment assignment = { .id = span_cstr(id), .ranges = &range, .range_count = 1 };
    const struct head head = { .epoch = 1,
                               .generation = 2,
                               .arms = arms,
                               .arm_count = 2,
                               .assignments = &assignment,
                               .assignment_count = 1,
                               .overrides = overrides,
                               .override_count = count,
                               .why = SPAN(""),
                               .by = SPAN("") };
    return evidence_follow(evidence, &artifact, 1, &head);
}

static void set_price(const char *name, int64_t nano)
{
    const struct price price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = nano, .output = nano };
    assert_int_equal(evidence_price_set(evidence, span_cstr(name), &price, T0, SPAN("ann")), OK);
}

/* Of tier 1 of "chat", once it stands still; members are sorted by name: groq, mine, openai. */
static void settled(int64_t *now_ms, uint32_t weights[3])
{
    const struct evidence *e = NULL;
    for (int i = 0; i < 40; i++)
        e = decide(*now_ms += 1000);
    assert_int_equal(e->weight_count, 1);
    assert_int_equal(e->weights[0].count, 3);
    memcpy(weights, e->weights[0].weights_ppm, 3 * sizeof(*weights));
}

static void weights_are_held_while_arms_are_compared(void **state)
{
    (void)state;
    struct override drain = {
        .kind = OVERRIDE_DRAIN, .target = SPAN("groq"), .reason = SPAN("r"), .by = SPAN("b"), .set_at_ms = T0
    };
    uint32_t before[3], held[3], now[3];
    int64_t now_ms = T0;
    struct artifact published = *artifact; /* known again by its hash */
    published.hash.bytes[0] = 1;
    artifact = &published;
    assert_int_equal(follow(NULL, 0), OK);
    set_price("openai/gpt-4o", 100000000);
    settled(&now_ms, before);
    set_price("openai/gpt-4o", 400000000);
    assert_int_equal(follow_compared("rollout-1", NULL, 0), OK);
    const struct evidence *e = decide(now_ms += 1000); /* at once to where the evidence of now leads */
    assert_true(e->weight_count == 0 || e->weights[0].frozen);
    set_price("groq/llama", 1000000);
    settled(&now_ms, held);
    assert_memory_not_equal(held, before, sizeof(held));
    set_price("groq/llama", 90000000000);
    settled(&now_ms, now);
    assert_memory_equal(now, held, sizeof(held)); /* whatever becomes known */
    /* What is down gets nothing, and its share again afterwards. */
    assert_int_equal(follow_compared("rollout-1", &drain, 1), OK);
    settled(&now_ms, now);
    uint32_t zero = 0, sum = 0;
    for (unsigned i = 0; i < 3; i++) {
        zero += now[i] == 0;
        sum += now[i];
    }
    assert_int_equal(zero, 1);
    assert_int_equal(sum, WEIGHT_WHOLE);
    assert_int_equal(follow_compared("rollout-1", NULL, 0), OK);
    settled(&now_ms, now);
    assert_memory_equal(now, held, sizeof(held));
    /* A restart in the middle of it changes nothing. */
    struct buf blob = BUF_INIT(1u << 20), prices = BUF_INIT(1u << 20);
    const char *why;
    assert_true(evidence_held_unstored(evidence));
    assert_int_equal(evidence_held_export(evidence, &blob), OK);
    assert_false(evidence_held_unstored(evidence));
    assert_int_equal(evidence_export(evidence, &prices), OK);
    evidence_state_free(evidence);
    assert_int_equal(evidence_state_new(&evidence), OK);
    assert_int_equal(evidence_load_shipped(evidence, span_cstr(book), &why), OK);
    assert_int_equal(evidence_import(evidence, buf_span(&prices)), OK);
    assert_int_equal(evidence_held_import(evidence, SPAN("{}")), ERR_CORRUPT);
    assert_int_equal(evidence_held_import(evidence, buf_span(&blob)), OK);
    assert_int_equal(follow_compared("rollout-1", NULL, 0), OK);
    settled(&now_ms, now);
    assert_memory_equal(now, held, sizeof(held));
    /* The next comparison begins with the evidence of its own time, and afterwards they move again. */
    assert_int_equal(follow_compared("rollout-2", NULL, 0), OK);
    settled(&now_ms, now);
    assert_memory_not_equal(now, held, sizeof(held));
    memcpy(held, now, sizeof(held));
    assert_int_equal(follow(NULL, 0), OK);
    set_price("groq/llama", 1000000);
    settled(&now_ms, now);
    assert_memory_not_equal(now, held, sizeof(held));
    buf_release(&blob);
    buf_release(&prices);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(tells_what_to_probe),
        TEST(prices_of_models),
        TEST(models_told),
        TEST(a_feed_speaks),
        TEST(later_prices_reach_live_policies),
        TEST(arms_that_disagree_keep_their_own_prices),
        TEST(still_tiers_follow_new_facts),
        TEST(probes_decide_health),
        TEST(every_model_down_at_once_is_not_believed),
        TEST(what_changed_is_told),
        TEST(prices_held_back_are_told),
        TEST(overrides_and_resets),
        TEST(weights_are_held_while_arms_are_compared),
        TEST(one_artifact_in_two_arms),
        TEST(views_are_json),
        TEST(following_survives_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
