#include "dataplane/node/selftest.h"
#include "tests/unit/dataplane/node/table_sample.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct arena arena;
static struct buf frames;

static int set_up(UNUSED void **state)
{
    arena_init(&arena, 16u << 20);
    buf_init(&frames, SELFTEST_BYTES_MAX);
    return 0;
}

static int tear_down(UNUSED void **state)
{
    arena_release(&arena);
    buf_release(&frames);
    return 0;
}

static void frame(const struct object *object)
{
    assert_int_equal(selftest_frame(object->kind, object->bytes, &frames), OK);
}

static void a_good_table_passes(UNUSED void **state)
{
    const struct object artifact = sample_artifact(&arena, 1), head = sample_head(&arena, 1, 1, &artifact),
                        evidence = sample_evidence(&arena, 1, 1);
    const char *why = NULL;
    frame(&head);
    frame(&artifact);
    assert_int_equal(selftest_judge(buf_span(&frames), &why), OK);
    frame(&evidence);
    assert_int_equal(selftest_judge(buf_span(&frames), &why), OK);
    /* Cut anywhere, it is no table, and nothing worse. */
    for (size_t i = 0; i + 1 < frames.len; i++) {
        if (i != frames.len - evidence.bytes.len - 5)
            assert_int_not_equal(selftest_judge(span_head(buf_span(&frames), i), &why), OK);
    }
}

static void a_missing_artifact_is_named(UNUSED void **state)
{
    const struct object artifact = sample_artifact(&arena, 1), other = sample_artifact(&arena, 2),
                        head = sample_head(&arena, 1, 1, &artifact);
    const char *why = NULL;
    frame(&head);
    frame(&other);
    assert_int_equal(selftest_judge(buf_span(&frames), &why), ERR_NOT_FOUND);
    assert_string_equal(why, "not_found");
}

static void bytes_from_anywhere_are_no_danger(UNUSED void **state)
{
    const struct object artifact = sample_artifact(&arena, 1), head = sample_head(&arena, 1, 1, &artifact);
    frame(&head);
    frame(&artifact);
    struct prng prng;
    prng_seed(&prng, 7);
    for (int i = 0; i < 2000; i++) {
        const size_t at = prng_u64(&prng) % frames.len;
        char *byte = frames.data + frames.start + at;
        const char before = *byte;
        *byte = (char)prng_u64(&prng);
        (void)!selftest_judge(buf_span(&frames), NULL);
        *byte = before;
    }
    assert_int_equal(selftest_judge(SPAN("\x09\x00\x00\x00\x00"), NULL), ERR_SYNTAX);
    assert_int_equal(selftest_judge(SPAN("\x01\xff\xff\xff\xff"), NULL), ERR_SYNTAX);
    assert_int_equal(selftest_judge(SPAN(""), NULL), ERR_SYNTAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_good_table_passes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_missing_artifact_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bytes_from_anywhere_are_no_danger, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
