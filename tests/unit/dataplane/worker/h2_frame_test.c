#include "dataplane/worker/h2_frame.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* A preface, an empty SETTINGS, DATA of 3 bytes on stream 0x01020304 with the reserved bit set, PING, and a head that is
 * not whole. */
static const char bytes[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                            "\0\0\0\4\0\0\0\0\0"
                            "\0\0\3\0\1\x81\2\3\4abc"
                            "\0\0\10\6\1\0\0\0\0"
                            "12345678"
                            "\1\2\3";
#define LEN (sizeof(bytes) - 1)

static void finds_every_frame_however_it_is_cut(void **state)
{
    (void)state;
    static const struct h2_frame expected[] = { { 0, 0, 4, 0 },
                                                { 3, 0x01020304, 0, 1 },
                                                { 8, 0, 6, 1 } }; /* length, id, type, flags */
    for (size_t step = 1; step <= LEN; step++) {
        struct h2_cutter cutter;
        h2_cutter_init(&cutter);
        unsigned found = 0;
        size_t fed = 0;
        for (size_t at = 0; at < LEN; at += step) {
            struct span input = span_of(bytes + at, size_min(step, LEN - at));
            while (input.len > 0) {
                bool begins;
                const struct span piece = h2_cut(&cutter, &input, &begins);
                assert_ptr_equal(piece.ptr, bytes + fed); /* nothing is left out, nothing comes twice */
                assert_true(piece.len > 0);
                fed += piece.len;
                if (begins) {
                    assert_true(found < ARRAY_LEN(expected));
                    assert_memory_equal(&cutter.frame, &expected[found], sizeof(expected[0]));
                    found++;
                }
            }
        }
        assert_int_equal(fed, LEN);
        assert_int_equal(found, ARRAY_LEN(expected));
    }
}

static void a_piece_ends_with_its_frame(void **state)
{
    (void)state;
    struct h2_cutter cutter;
    bool begins;
    h2_cutter_init(&cutter);
    struct span input = span_of(bytes, LEN);
    static const size_t sizes[] = { 24, 9, 12, 17, 3 };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        assert_int_equal(h2_cut(&cutter, &input, &begins).len, sizes[i]);
        assert_int_equal(begins, i > 0 && i < 4);
    }
    assert_int_equal(input.len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_every_frame_however_it_is_cut),
        cmocka_unit_test(a_piece_ends_with_its_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
