#include "common/strmap.h"
#include "common/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void put_get_replace(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct strmap map;
    strmap_init(&map, &arena);
    int one = 1, two = 2;
    assert_null(strmap_get(&map, SPAN("a")));
    assert_int_equal(strmap_put(&map, SPAN("a"), &one), OK);
    assert_int_equal(strmap_put(&map, SPAN("a"), &two), ERR_EXISTS);
    assert_ptr_equal(strmap_get(&map, SPAN("a")), &one);
    strmap_replace_value(&map, SPAN("a"), &two);
    assert_ptr_equal(strmap_get(&map, SPAN("a")), &two);
    assert_int_equal(strmap_put(&map, SPAN(""), NULL), OK); /* the empty key and no value are allowed */
    assert_null(strmap_get(&map, SPAN("")));
    assert_true(strmap_has(&map, SPAN("")));
    assert_false(strmap_has(&map, SPAN("b")));
    assert_int_equal(map.count, 2);
    arena_release(&arena);
}

static void many_keys_are_all_found_and_visited_once(void **state UNUSED)
{
    enum { COUNT = 5000 };
    static bool visited[COUNT];
    memset(visited, 0, sizeof visited);
    struct arena arena;
    arena_init(&arena, 16 << 20);
    struct strmap map;
    strmap_init(&map, &arena);
    for (size_t i = 0; i < COUNT; i++) {
        char *key = arena_printf(&arena, "key-%zu", i);
        assert_int_equal(strmap_put(&map, span_cstr(key), &visited[i]), OK);
    }
    assert_int_equal(map.count, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "key-%zu", i);
        assert_ptr_equal(strmap_get(&map, span_cstr(key)), &visited[i]);
    }
    struct span key;
    void *value;
    size_t seen = 0;
    for (size_t at = 0; strmap_each(&map, &at, &key, &value); seen++) {
        bool *mark = value;
        assert_false(*mark);
        *mark = true;
        assert_true(span_starts(key, SPAN("key-")));
    }
    assert_int_equal(seen, COUNT);
    arena_release(&arena);
}

static void the_seed_differs_from_map_to_map(void **state UNUSED)
{
    struct strmap a, b;
    strmap_init(&a, NULL);
    strmap_init(&b, NULL);
    assert_memory_not_equal(a.seed, b.seed, sizeof a.seed);
}

static void nearest_name(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct strmap map;
    strmap_init(&map, &arena);
    assert_true(span_empty(strmap_nearest(&map, SPAN("chat"))));
    assert_int_equal(strmap_put(&map, SPAN("chat"), NULL), OK);
    assert_int_equal(strmap_put(&map, SPAN("bulk"), NULL), OK);
    assert_int_equal(strmap_put(&map, SPAN("private"), NULL), OK);
    assert_int_equal(strmap_put(&map, SPAN("bulb"), NULL), OK);
    assert_true(span_eq(strmap_nearest(&map, SPAN("caht")), SPAN("chat")));
    assert_true(span_eq(strmap_nearest(&map, SPAN("privat")), SPAN("private")));
    assert_true(span_eq(strmap_nearest(&map, SPAN("bulx")), SPAN("bulb"))); /* a tie: first by name */
    assert_true(span_empty(strmap_nearest(&map, SPAN("weather"))));
    arena_release(&arena);
}

static void without_memory_the_map_stays_whole(void **state UNUSED)
{
    struct arena arena;
    arena_init(&arena, 1000); /* the first slots fit, the next do not */
    struct strmap map;
    strmap_init(&map, &arena);
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    size_t put = 0;
    enum err err = OK;
    for (; put < 26 && !err; put += !err)
        err = strmap_put(&map, span_of(letters + put, 1), NULL);
    assert_int_equal(err, ERR_NOMEM);
    assert_true(put > 0 && put < 26);
    assert_int_equal(map.count, put);
    for (size_t i = 0; i < 26; i++)
        assert_int_equal(strmap_has(&map, span_of(letters + i, 1)), i < put);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put_get_replace),
        cmocka_unit_test(many_keys_are_all_found_and_visited_once),
        cmocka_unit_test(the_seed_differs_from_map_to_map),
        cmocka_unit_test(nearest_name),
        cmocka_unit_test(without_memory_the_map_stays_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
