#include "proto/head.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct span many[] = { { "a", 1 }, { "bulk", 4 }, { "chat", 4 }, { "chat2", 5 } };

static void a_sorted_list_is_searched(void **state)
{
    (void)state;
    for (uint32_t count = 0; count <= ARRAY_LEN(many); count++) {
        const struct span_list list = { .items = many, .count = count };
        for (uint32_t i = 0; i < ARRAY_LEN(many); i++)
            assert_int_equal(head_lists(&list, many[i]), i < count);
        assert_false(head_lists(&list, SPAN("")));
        assert_false(head_lists(&list, SPAN("cha")));
        assert_false(head_lists(&list, SPAN("zz")));
    }
}

static void a_route_is_covered_by_one_assignment(void **state)
{
    (void)state;
    struct assignment both[] = { { .routes = { .items = &many[0], .count = 2 } },
                                 { .routes = { .items = &many[2], .count = 1 } } };
    struct head head = { .assignments = both, .assignment_count = 2 };
    assert_ptr_equal(head_assignment(&head, SPAN("bulk")), &both[0]);
    assert_ptr_equal(head_assignment(&head, SPAN("chat")), &both[1]);
    assert_null(head_assignment(&head, SPAN("private")));
    assert_null(head_assignment_of_all(&head));
    head.assignment_count = 1;
    assert_null(head_assignment_of_all(&head));
    both[0].routes.count = 0;
    assert_ptr_equal(head_assignment(&head, SPAN("private")), &both[0]);
    assert_ptr_equal(head_assignment_of_all(&head), &both[0]);
}

static void shares_add_up(void **state)
{
    (void)state;
    struct bucket_range ranges[] = { { 1, 0, 500 }, { 2, 5000, 300 }, { 1, 9000, 200 } };
    const struct assignment a = { .ranges = ranges, .range_count = 3 };
    assert_int_equal(head_share(&a, 0), 9000);
    assert_int_equal(head_share(&a, 1), 700);
    assert_int_equal(head_share(&a, 2), 300);
    assert_int_equal(head_share(&a, 3), 0);
    assert_int_equal(head_share(NULL, 0), ASSIGNMENT_BUCKETS);
    assert_int_equal(head_share(NULL, 1), 0);
}

static void arms_are_found_by_name(void **state)
{
    (void)state;
    struct arm arms[] = { { .name = SPAN("stable") }, { .name = SPAN("canary") } };
    const struct head head = { .arms = arms, .arm_count = 2 };
    assert_int_equal(head_arm(&head, SPAN("stable")), 0);
    assert_int_equal(head_arm(&head, SPAN("canary")), 1);
    assert_int_equal(head_arm(&head, SPAN("Canary")), 2);
    assert_string_equal(unit_kind_name(UNIT_HEADER), "header");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sorted_list_is_searched),
        cmocka_unit_test(a_route_is_covered_by_one_assignment),
        cmocka_unit_test(shares_add_up),
        cmocka_unit_test(arms_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
