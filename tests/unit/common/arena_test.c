#include "common/arena.h"
#include "common/digest.h"
#include "common/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static char released[8];

static void note_release(void *object)
{
    const char *name = object;
    size_t len = strlen(released);
    released[len] = *name;
    released[len + 1] = '\0';
}

static void memory_is_zeroed_aligned_and_apart(void **state UNUSED)
{
    enum { COUNT = 500 };
    struct {
        unsigned char *at;
        size_t bytes;
    } given[COUNT];
    struct arena arena;
    arena_init(&arena, SIZE_MAX);
    struct prng prng;
    prng_seed(&prng, 3);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < COUNT; i++) {
            given[i].bytes = prng_u64(&prng) % (i % 50 == 0 ? 100000 : 200);
            given[i].at = arena_alloc(&arena, given[i].bytes);
            assert_non_null(given[i].at);
            assert_int_equal((uintptr_t)given[i].at % 16, 0);
            for (size_t k = 0; k < given[i].bytes; k++)
                assert_int_equal(given[i].at[k], 0);
            memset(given[i].at, (int)(i % 251) + 1, given[i].bytes);
        }
        for (size_t i = 0; i < COUNT; i++) {
            for (size_t k = 0; k < given[i].bytes; k++)
                assert_int_equal(given[i].at[k], i % 251 + 1);
        }
        arena_reset(&arena);
        assert_int_equal(arena.used, 0);
    }
    arena_release(&arena);
}

static void the_maximum_holds(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, 64);
    assert_null(arena.blocks); /* no memory before the first use */
    assert_null(arena_alloc(&arena, 65));
    assert_non_null(arena_alloc(&arena, 33));
    assert_int_equal(arena.used, 48);
    assert_non_null(arena_alloc(&arena, 16));
    assert_null(arena_alloc(&arena, 0)); /* even nothing takes an address */
    assert_null(arena_dup(&arena, SPAN("x")).ptr);
    assert_null(arena_printf(&arena, "%d", 1));
    assert_int_equal(arena_defer(&arena, note_release, NULL), ERR_NOMEM);
    arena_reset(&arena);
    assert_non_null(arena_alloc(&arena, 64));
    arena_release(&arena);
    assert_non_null(arena_alloc(&arena, 64));
    arena_release(&arena);
}

static void sizes_that_overflow_are_refused(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, SIZE_MAX);
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_null(arena_alloc(&arena, SIZE_MAX - 40));
    assert_null(arena_alloc_array(&arena, SIZE_MAX / 2, 3));
    assert_non_null(ARENA_ARRAY(&arena, 3, uint64_t));
    assert_null(arena_dup(&arena, span_of("", SIZE_MAX)).ptr);
    arena_release(&arena);
}

static void copies_end_with_a_nul(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, 10000);
    struct span copy = arena_dup(&arena, span_head(SPAN("abcdef"), 3));
    assert_int_equal(copy.len, 3);
    assert_string_equal(copy.ptr, "abc");
    struct span empty = arena_dup(&arena, span_cstr(NULL));
    assert_non_null(empty.ptr);
    assert_string_equal(empty.ptr, "");
    assert_string_equal(arena_printf(&arena, "%s-%d", "v", 17), "v-17");
    const struct span parts[] = { SPAN("a"), SPAN(""), span_of(NULL, 0), SPAN("bc") };
    const struct span joined = arena_join(&arena, parts, ARRAY_LEN(parts));
    assert_true(span_eq(joined, SPAN("abc")));
    assert_string_equal(joined.ptr, "abc");
    assert_string_equal(arena_join(&arena, NULL, 0).ptr, "");
    arena_release(&arena);
}

static void the_deferred_run_newest_first_and_once(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, 10000);
    released[0] = '\0';
    assert_int_equal(arena_defer(&arena, note_release, "a"), OK);
    assert_int_equal(arena_defer(&arena, note_release, "b"), OK);
    arena_reset(&arena);
    assert_string_equal(released, "ba");
    assert_int_equal(arena_defer(&arena, note_release, "c"), OK);
    arena_release(&arena);
    assert_string_equal(released, "bac");
    arena_release(&arena);
    assert_string_equal(released, "bac");
    arena_release(NULL);
}

static void what_was_deferred_may_live_in_the_arena(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, 10000);
    released[0] = '\0';
    struct span name = arena_dup(&arena, SPAN("z"));
    assert_int_equal(arena_defer(&arena, note_release, (void *)(uintptr_t)name.ptr), OK);
    arena_release(&arena);
    assert_string_equal(released, "z");
}

static void reset_keeps_a_block_but_not_a_huge_one(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, SIZE_MAX);
    assert_non_null(arena_alloc(&arena, 100));
    assert_non_null(arena_alloc(&arena, 10000000));
    arena_reset(&arena);
    assert_non_null(arena.blocks);
    fault_arm(FAULT_ALLOC, 0, UINT64_MAX);
    assert_non_null(arena_alloc(&arena, 100)); /* from the kept block */
    assert_null(arena_alloc(&arena, 1000000));
    fault_disarm_all();
    arena_reset(&arena);
    arena_release(&arena);
    assert_null(arena.blocks);
    assert_non_null(arena_alloc(&arena, 10000000));
    arena_reset(&arena);
    assert_null(arena.blocks);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_aligned_and_apart),
        cmocka_unit_test(the_maximum_holds),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(copies_end_with_a_nul),
        cmocka_unit_test(the_deferred_run_newest_first_and_once),
        cmocka_unit_test(what_was_deferred_may_live_in_the_arena),
        cmocka_unit_test(reset_keeps_a_block_but_not_a_huge_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
