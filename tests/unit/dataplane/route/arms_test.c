#include "dataplane/route/arms.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const uint8_t salt[ARMS_SALT_BYTES] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

/* From an implementation written apart from ours, after the paper; it gives the paper's own vector. */
static void buckets_agree_with_other_implementations(void **state)
{
    (void)state;
    assert_int_equal(arms_bucket(salt, SPAN("")), 4353);
    assert_int_equal(arms_bucket(salt, SPAN("key_a")), 7934);
    assert_int_equal(arms_bucket(salt, SPAN("user-42")), 9767);
    assert_int_equal(arms_bucket(salt, SPAN("key_2n7h4j9x")), 6209);
    assert_int_equal(arms_bucket(salt, SPAN("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")), 4075);
}

/* The hashes themselves stand in records, where units are told apart by them. */
static void unit_hashes_are_the_papers(void **state)
{
    (void)state;
    assert_true(arms_unit_hash(salt, SPAN("")) == UINT64_C(0x726fdb47dd0e0e31));
    assert_true(arms_unit_hash(salt, SPAN("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e")) ==
                UINT64_C(0xa129ca6149be45e5));
}

/* A head with three arms and one assignment of all routes, by key. */
struct live {
    struct arm arms[3];
    struct bucket_range ranges[3];
    struct assignment assignment;
    struct head head;
    char text[32];
    struct arm_units units;
};

static void live_init(struct live *l, uint32_t second, uint32_t third)
{
    *l = (struct live){ .ranges = { { 1, 0, second }, { 2, 5000, third } } };
    l->assignment = (struct assignment){ .id = SPAN("rollout-1"), .ranges = l->ranges, .range_count = third ? 2 : 1 };
    memcpy(l->assignment.salt, salt, sizeof salt);
    l->head = (struct head){ .arms = l->arms, .arm_count = 3, .assignments = &l->assignment, .assignment_count = 1 };
}

static struct arm_choice choose(struct live *l, unsigned unit)
{
    const int len = snprintf(l->text, sizeof l->text, "key_%u", unit);
    l->units = (struct arm_units){ .key = span_of(l->text, (size_t)len), .request = SPAN("req_1") };
    return arms_choose(&l->head, SPAN("chat"), &l->units);
}

static void without_assignment_arm_0_has_everyone(void **state)
{
    (void)state;
    struct live l;
    live_init(&l, 5000, 5000);
    l.head.assignment_count = 0;
    for (unsigned unit = 0; unit < 1000; unit++) {
        const struct arm_choice choice = choose(&l, unit);
        assert_int_equal(choice.arm, 0);
        assert_int_equal(choice.why, ARM_ONLY);
        assert_null(choice.assignment);
        assert_true(choice.unit == 0);
    }
}

static void shares_are_met(void **state)
{
    (void)state;
    struct live l;
    unsigned count[3] = { 0 };
    live_init(&l, 2000, 1000);
    for (unsigned unit = 0; unit < 100000; unit++) {
        const struct arm_choice choice = choose(&l, unit);
        assert_int_equal(choice.why, choice.arm ? ARM_BUCKET : ARM_REMAINDER);
        assert_int_equal(choice.bucket, arms_bucket(salt, l.units.key));
        count[choice.arm]++;
    }
    /* Five standard deviations: sqrt(100000 x 0.2 x 0.8) = 126, sqrt(100000 x 0.1 x 0.9) = 95. */
    assert_in_range(count[1], 20000 - 632, 20000 + 632);
    assert_in_range(count[2], 10000 - 474, 10000 + 474);
}

static void the_edges_of_a_range_belong_to_it(void **state)
{
    (void)state;
    struct live l;
    live_init(&l, 1, 0);
    for (unsigned unit = 0; unit < 3000; unit++) {
        const uint32_t bucket = choose(&l, unit).bucket;
        for (int off = -1; off <= 1; off++) {
            const uint32_t first = (uint32_t)((int)bucket + off) % ASSIGNMENT_BUCKETS;
            l.ranges[0] = (struct bucket_range){ 1, first, 1 };
            assert_int_equal(choose(&l, unit).arm, off == 0);
        }
        l.ranges[0] = (struct bucket_range){ 1, 0, ASSIGNMENT_BUCKETS };
        assert_int_equal(choose(&l, unit).arm, 1);
    }
}

/* From 1% to 100%: who was in the arm stays in it, whatever comes in between, and nobody changes without a step. */
static void growing_an_arm_moves_nobody_back(void **state)
{
    (void)state;
    static const uint32_t steps[] = { 100, 500, 2500, 5000, 10000 };
    static uint8_t was[20000];
    struct live l;
    memset(was, 0, sizeof was);
    for (size_t step = 0; step < ARRAY_LEN(steps); step++) {
        live_init(&l, steps[step], 0);
        for (unsigned unit = 0; unit < ARRAY_LEN(was); unit++) {
            const uint32_t arm = choose(&l, unit).arm;
            assert_true(arm >= was[unit]);
            assert_int_equal(arm, choose(&l, unit).arm);
            was[unit] = (uint8_t)arm;
        }
    }
    for (unsigned unit = 0; unit < ARRAY_LEN(was); unit++)
        assert_int_equal(was[unit], 1);
}

static uint64_t unit_for(enum unit_kind kind, const struct arm_units *units, enum unit_kind *ret)
{
    struct live l;
    live_init(&l, 5000, 0);
    l.assignment.unit = kind;
    l.assignment.header = SPAN("x-tenant");
    const struct arm_choice choice = arms_choose(&l.head, SPAN("chat"), units);
    *ret = choice.unit_kind;
    return choice.unit;
}

static void units_fall_back_to_the_key(void **state)
{
    (void)state;
    const struct header_pair headers[] = { { SPAN("x-other"), SPAN("o") },
                                           { SPAN("X-Tenant"), SPAN("acme") },
                                           { SPAN("x-tenant"), SPAN("other") } };
    struct arm_units units = {
        .key = SPAN("key_a"), .user = SPAN("user-42"), .headers = headers, .header_count = 2, .request = SPAN("req_7")
    };
    const uint64_t key = arms_unit_hash(salt, SPAN("key_a"));
    enum unit_kind kind;
    assert_true(unit_for(UNIT_KEY, &units, &kind) == key && kind == UNIT_KEY);
    assert_true(unit_for(UNIT_USER, &units, &kind) == arms_unit_hash(salt, SPAN("user-42")) && kind == UNIT_USER);
    assert_true(unit_for(UNIT_HEADER, &units, &kind) == arms_unit_hash(salt, SPAN("acme")) && kind == UNIT_HEADER);
    assert_true(unit_for(UNIT_REQUEST, &units, &kind) == arms_unit_hash(salt, SPAN("req_7")) && kind == UNIT_REQUEST);
    units.user = SPAN("");
    assert_true(unit_for(UNIT_USER, &units, &kind) == key && kind == UNIT_KEY);
    units.header_count = 1;
    assert_true(unit_for(UNIT_HEADER, &units, &kind) == key && kind == UNIT_KEY);
    units.header_count = 3; /* twice: nobody knows which one is meant */
    assert_true(unit_for(UNIT_HEADER, &units, &kind) == key && kind == UNIT_KEY);
}

static void routes_obey_their_own_assignment(void **state)
{
    (void)state;
    struct arm arms[3] = { { .policy_version = 1 } };
    struct span chat[] = { SPAN("chat") }, rest[] = { SPAN("bulk"), SPAN("private") };
    struct bucket_range to_first[] = { { 1, 0, ASSIGNMENT_BUCKETS } }, to_second[] = { { 2, 0, ASSIGNMENT_BUCKETS } };
    struct assignment both[] = {
        { .id = SPAN("a"), .routes = { .items = chat, .count = 1 }, .ranges = to_first, .range_count = 1 },
        { .id = SPAN("b"), .routes = { .items = rest, .count = 2 }, .ranges = to_second, .range_count = 1 }
    };
    const struct head head = { .arms = arms, .arm_count = 3, .assignments = both, .assignment_count = 2 };
    const struct arm_units units = { .key = SPAN("key_a"), .request = SPAN("req_1") };
    assert_int_equal(arms_choose(&head, SPAN("chat"), &units).arm, 1);
    assert_int_equal(arms_choose(&head, SPAN("private"), &units).arm, 2);
    assert_int_equal(arms_choose(&head, SPAN("other"), &units).arm, 0);
    assert_int_equal(arms_choose(&head, SPAN("other"), &units).why, ARM_ONLY);
}

static void a_forced_arm_still_tells_the_unit(void **state)
{
    (void)state;
    struct live l;
    live_init(&l, ASSIGNMENT_BUCKETS, 0);
    (void)choose(&l, 1);
    const struct arm_choice forced = arms_force(&l.head, SPAN("chat"), &l.units, 2);
    assert_int_equal(forced.arm, 2);
    assert_int_equal(forced.why, ARM_FORCED);
    assert_ptr_equal(forced.assignment, &l.assignment);
    assert_true(forced.unit == arms_unit_hash(salt, l.units.key));
    assert_string_equal(arm_why_name(forced.why), "forced");
}

static void shadows_draw_their_share(void **state)
{
    (void)state;
    struct span chat[] = { SPAN("chat") };
    struct shadow a = { .id = SPAN("shadow-1"), .share_ppm = 100000 },
                  b = { .id = SPAN("shadow-2"), .share_ppm = 100000 };
    unsigned count = 0, both = 0;
    for (unsigned i = 0; i < 100000; i++) {
        char text[32];
        const struct span id = span_of(text, (size_t)snprintf(text, sizeof text, "req_%u", i));
        const bool drawn = arms_shadow(&a, SPAN("chat"), id);
        count += drawn;
        both += drawn && arms_shadow(&b, SPAN("chat"), id);
    }
    /* Five standard deviations: sqrt(100000 x 0.1 x 0.9) = 95, sqrt(100000 x 0.01 x 0.99) = 31. */
    assert_in_range(count, 10000 - 474, 10000 + 474);
    assert_in_range(both, 1000 - 157, 1000 + 157);
    a.share_ppm = 1000000;
    b.share_ppm = 0;
    a.routes = b.routes = (struct span_list){ .items = chat, .count = 1 };
    assert_true(arms_shadow(&a, SPAN("chat"), SPAN("req_1")));
    assert_false(arms_shadow(&a, SPAN("bulk"), SPAN("req_1")));
    assert_false(arms_shadow(&b, SPAN("chat"), SPAN("req_1")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_agree_with_other_implementations),
        cmocka_unit_test(unit_hashes_are_the_papers),
        cmocka_unit_test(without_assignment_arm_0_has_everyone),
        cmocka_unit_test(shares_are_met),
        cmocka_unit_test(the_edges_of_a_range_belong_to_it),
        cmocka_unit_test(growing_an_arm_moves_nobody_back),
        cmocka_unit_test(units_fall_back_to_the_key),
        cmocka_unit_test(routes_obey_their_own_assignment),
        cmocka_unit_test(a_forced_arm_still_tells_the_unit),
        cmocka_unit_test(shadows_draw_their_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
