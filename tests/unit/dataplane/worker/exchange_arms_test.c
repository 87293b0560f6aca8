/* Which arm a request obeys, end to end in one worker: by assignment, by force, in lists, records and counters. */
#include "rig.h"
#include "dataplane/route/arms.h"
#include "proto/record.h"

/* Two arms over one artifact: what they are told apart by is the version. */
static struct arm arms[2];
static struct bucket_range half = { .arm = 1, .first = 0, .count = ASSIGNMENT_BUCKETS / 2 };
static struct span only_route;
static struct assignment assignment;

static void two_arms(struct rig *rig, struct head *head)
{
    (void)rig;
    arms[0] = head->arms[0];
    arms[1] = (struct arm){ .name = SPAN("canary"), .policy_version = 9, .artifact = head->arms[0].artifact };
    head->arms = arms;
    head->arm_count = 2;
    head->assignments = &assignment;
    head->assignment_count = 1;
}

static void start(struct rig *rig, enum unit_kind unit)
{
    assignment =
        (struct assignment){ .id = SPAN("rollout-1"), .salt = { 7 }, .unit = unit, .ranges = &half, .range_count = 1 };
    if (unit == UNIT_HEADER)
        assignment.header = SPAN("x-tenant");
    rig->arrange_head = two_arms;
    rig_start(rig, true);
}

/* Sends a request and plays its provider. True: the canary answered; the client has read all of it. */
static bool canary(struct rig *rig, struct client *c, const char *body, const char *extra)
{
    const unsigned before = rig->lane.count;
    buf_clear(&c->in);
    ask_extra(rig, c, "/v1/chat/completions", body, extra);
    UNTIL(rig, rig->lane.count == before + 1);
    struct try *t = &rig->lane.tries[before];
    try_head(t, 200, "application/json", NULL, NULL);
    try_body(t, WHOLE_ANSWER);
    try_done(t, OK);
    UNTIL(rig, has(c, "hi there"));
    const bool is_canary = has(c, "x-fairlead-arm: canary\r\n");
    assert_true(has(c, is_canary ? "x-fairlead-policy: 9\r\n" : "x-fairlead-policy: 1\r\n"));
    assert_true(is_canary || has(c, "x-fairlead-arm: stable\r\n"));
    return is_canary;
}

static bool expected(const char *unit)
{
    return arms_bucket(assignment.salt, span_cstr(unit)) < half.count;
}

static const char *body_of(const char *members)
{
    static char text[512];
    snprintf(text, sizeof(text), "{\"model\":\"chat\",%s\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
             members);
    return text;
}

static void users_stay_in_their_arm(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    unsigned canaries = 0;
    start(&rig, UNIT_USER);
    struct client *c = rig_client(&rig);
    for (unsigned i = 0; i < 20; i++) {
        char members[128], unit[32];
        snprintf(unit, sizeof(unit), "user-%u", i / 2);
        /* The second time it is named where Anthropic's clients name it. */
        snprintf(members, sizeof(members), i % 2 ? "\"metadata\":{\"user_id\":\"%s\"}," : "\"user\":\"%s\",", unit);
        const bool is_canary = canary(&rig, c, body_of(members), "");
        assert_int_equal(is_canary, expected(unit));
        canaries += is_canary;
    }
    assert_in_range(canaries, 2, 18); /* both arms were met */
    /* What is odd about metadata is not ours to judge: the key decides then. */
    assert_int_equal(canary(&rig, c, body_of("\"metadata\":{\"user_id\":7},"), ""), expected("key_1"));
    assert_int_equal(canary(&rig, c, body_of("\"metadata\":[],"), ""), expected("key_1"));
    rig_stop(&rig);
}

static void headers_name_units_too(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, UNIT_HEADER);
    struct client *c = rig_client(&rig);
    for (unsigned i = 0; i < 10; i++) {
        char extra[64], unit[16];
        snprintf(unit, sizeof(unit), "t%u", i);
        snprintf(extra, sizeof(extra), "X-Tenant: %s\r\n", unit);
        assert_int_equal(canary(&rig, c, WHOLE_ASK, extra), expected(unit));
    }
    assert_int_equal(canary(&rig, c, WHOLE_ASK, ""), expected("key_1"));
    rig_stop(&rig);
}

static void only_covered_routes_are_assigned(void **state)
{
    (void)state;
    struct rig rig = { .port = 0, .opens_all = true };
    only_route = SPAN("chat");
    start(&rig, UNIT_KEY);
    assignment.routes = (struct span_list){ .items = &only_route, .count = 1 };
    half.count = ASSIGNMENT_BUCKETS;
    rig_publish(&rig);
    arms[0].policy_version = 1;
    struct client *c = rig_client(&rig);
    static const struct {
        const char *model;
        const char *arm;
    } cases[] = { { "chat", "canary" },
                  { "gpt-4o", "canary" },
                  { "chat:floor", "canary" },
                  { "gpt-4o:nitro", "canary" },
                  { "a/m", "stable" } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char body[256], header[64];
        snprintf(body, sizeof(body), "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
                 cases[i].model);
        snprintf(header, sizeof(header), "x-fairlead-arm: %s\r\n", cases[i].arm);
        const unsigned before = rig.lane.count;
        buf_clear(&c->in);
        ask(&rig, c, body);
        UNTIL(&rig, rig.lane.count == before + 1);
        try_head(&rig.lane.tries[before], 200, "application/json", NULL, NULL);
        try_body(&rig.lane.tries[before], WHOLE_ANSWER);
        try_done(&rig.lane.tries[before], OK);
        UNTIL(&rig, has(c, "hi there"));
        assert_true(has(c, header));
    }
    half.count = ASSIGNMENT_BUCKETS / 2;
    rig_stop(&rig);
}

static void an_arm_is_forced_by_who_may(void **state)
{
    (void)state;
    struct rig rig = { .port = 0, .team_may = TEAM_MAY_CHOOSE_ARM };
    start(&rig, UNIT_KEY);
    struct client *c = rig_client(&rig);
    assert_true(canary(&rig, c, WHOLE_ASK, "X-Fairlead-Arm: canary\r\n"));
    assert_false(canary(&rig, c, WHOLE_ASK, "x-fairlead-arm: stable\r\n"));
    const char *const wrong[] = { "x-fairlead-arm: nothing\r\n", "x-fairlead-arm:\r\n", "x-fairlead-arm: CANARY\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        buf_clear(&c->in);
        ask_extra(&rig, c, "/v1/chat/completions", WHOLE_ASK, wrong[i]);
        UNTIL(&rig, has(c, "unknown_arm"));
        assert_true(has(c, "HTTP/1.1 400 "));
    }
    assert_int_equal(rig.lane.count, 2);
    struct buf out;
    assert_int_equal(records(&rig, &out), 5);
    assert_true(span_find(buf_span(&out), SPAN("\"forced\":true")) != SIZE_MAX);
    assert_true(span_find(buf_span(&out), SPAN("\"arm_why\":\"forced\"")) != SIZE_MAX);
    buf_release(&out);
    rig_stop(&rig);
}

static void who_may_not_is_refused(void **state)
{
    (void)state;
    struct rig rig = { .port = 0, .team_may = TEAM_MAY_EXPLAIN };
    start(&rig, UNIT_KEY);
    struct client *c = rig_client(&rig);
    const char *const names[] = { "canary", "stable", "no-such-arm" }; /* the answer tells nobody which there are */
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char extra[64];
        snprintf(extra, sizeof(extra), "x-fairlead-arm: %s\r\n", names[i]);
        buf_clear(&c->in);
        ask_extra(&rig, c, "/v1/chat/completions", WHOLE_ASK, extra);
        UNTIL(&rig, has(c, "arm_not_allowed"));
        assert_true(has(c, "HTTP/1.1 403 "));
    }
    assert_int_equal(rig.lane.count, 0);
    rig_stop(&rig);
}

static void lists_are_of_the_keys_arm(void **state)
{
    (void)state;
    struct rig rig = { .port = 0, .team_may = TEAM_MAY_CHOOSE_ARM };
    start(&rig, UNIT_REQUEST);
    struct client *c = rig_client(&rig);
    char text[512];
    const char *const extra[] = { "", "", "x-fairlead-arm: canary\r\n", "x-fairlead-arm: stable\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(extra); i++) {
        buf_clear(&c->in);
        snprintf(text, sizeof(text), "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n",
                 rig.key, extra[i]);
        say(c, text);
        UNTIL(&rig, has(c, "\"list\""));
        assert_true(
            has(c, (i < 2 ? expected("key_1") : i == 2) ? "x-fairlead-arm: canary\r\n" : "x-fairlead-arm: stable\r\n"));
    }
    rig_stop(&rig);
}

static void records_and_counters_know_the_arm(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    start(&rig, UNIT_HEADER);
    struct client *c = rig_client(&rig);
    bool met[2] = { false, false };
    for (unsigned i = 0; !met[0] || !met[1]; i++) {
        char extra[64], unit[16];
        snprintf(unit, sizeof(unit), "t%u", i);
        if (met[expected(unit)])
            continue;
        met[expected(unit)] = true;
        snprintf(extra, sizeof(extra), "x-tenant: %s\r\n", unit);
        const bool is_canary = canary(&rig, c, WHOLE_ASK, extra);
        struct buf out;
        struct record read;
        struct arena arena;
        arena_init(&arena, 1 << 20);
        assert_int_equal(records(&rig, &out), 1);
        assert_int_equal(record_read(&arena, span_head(buf_span(&out), out.len - 1), &read), OK);
        assert_true(span_eq(read.arm, is_canary ? SPAN("canary") : SPAN("stable")));
        assert_true(span_eq(read.arm_why, is_canary ? SPAN("bucket") : SPAN("remainder")));
        assert_true(span_eq(read.assignment, SPAN("rollout-1")));
        assert_true(span_eq(read.unit_kind, SPAN("header")));
        assert_true(read.unit == arms_unit_hash(assignment.salt, span_cstr(unit)));
        assert_int_equal(read.policy_version, is_canary ? 9 : 1);
        assert_false(read.forced);
        buf_release(&out);
        arena_release(&arena);
        const struct board_arm *counted_arm =
            board_arm(rig.core.region, &(struct board_arm_id){ .version = is_canary ? 9 : 1,
                                                               .name = is_canary ? SPAN("canary") : SPAN("stable") });
        assert_int_equal(atomic_load(&counted_arm->counters[ARM_OK]), 1);
        assert_int_equal(atomic_load(&counted_arm->counters[ARM_ATTEMPTS]), 1);
        assert_int_equal(atomic_load(&counted_arm->counters[ARM_TOKENS_INPUT]), 10);
        assert_int_equal(atomic_load(&counted_arm->counters[ARM_COST_NANO]), 50000);
    }
    /* A body that is none: which arm it would have obeyed nobody knows. */
    buf_clear(&c->in);
    ask(&rig, c, "{");
    UNTIL(&rig, has(c, "HTTP/1.1 400 "));
    struct buf out;
    assert_int_equal(records(&rig, &out), 1);
    assert_true(span_find(buf_span(&out), SPAN("\"assignment\":\"rollout-1\"")) == SIZE_MAX);
    assert_true(span_find(buf_span(&out), SPAN("\"arm_why\":\"bucket\"")) == SIZE_MAX);
    buf_release(&out);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(users_stay_in_their_arm),
        cmocka_unit_test(headers_name_units_too),
        cmocka_unit_test(only_covered_routes_are_assigned),
        cmocka_unit_test(an_arm_is_forced_by_who_may),
        cmocka_unit_test(who_may_not_is_refused),
        cmocka_unit_test(lists_are_of_the_keys_arm),
        cmocka_unit_test(records_and_counters_know_the_arm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
