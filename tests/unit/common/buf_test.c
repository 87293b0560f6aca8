#include "common/buf.h"
#include "common/digest.h"
#include "common/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void full_is_an_answer_and_changes_nothing(void **state UNUSED)
{
    struct buf buf = BUF_INIT(5);
    assert_true(span_empty(buf_span(&buf)));
    assert_int_equal(buf_append(&buf, SPAN("abc")), OK);
    assert_int_equal(buf_append(&buf, SPAN("def")), ERR_FULL);
    assert_int_equal(buf_printf(&buf, "%d", 123), ERR_FULL);
    assert_true(span_eq(buf_span(&buf), SPAN("abc")));
    assert_int_equal(buf_room(&buf), 2);
    assert_int_equal(buf_append_cstr(&buf, "de"), OK);
    assert_int_equal(buf_append_byte(&buf, 'f'), ERR_FULL);
    assert_int_equal(buf_append(&buf, SPAN("")), OK);
    assert_string_equal(buf_cstr(&buf), "abcde"); /* the NUL does not count */
    buf_consume(&buf, 2);
    assert_int_equal(buf_append(&buf, SPAN("fg")), OK);
    assert_true(span_eq(buf_span(&buf), SPAN("cdefg")));
    buf_truncate(&buf, 1);
    assert_string_equal(buf_cstr(&buf), "c");
    buf_clear(&buf);
    assert_int_equal(buf.len, 0);
    buf_release(&buf);
    assert_int_equal(buf_append(&buf, SPAN("again")), OK);
    buf_release(&buf);
    buf_release(NULL);
}

static void formatting(void **state UNUSED)
{
    struct buf buf;
    buf_init(&buf, SIZE_MAX);
    assert_string_equal(buf_cstr(&buf), "");
    for (int i = 0; i < 1000; i++)
        assert_int_equal(buf_printf(&buf, "%d,", i), OK);
    assert_true(span_starts(buf_span(&buf), SPAN("0,1,2,3,")));
    assert_true(span_ends(buf_span(&buf), SPAN(",998,999,")));
    buf_release(&buf);
}

static void reserve_then_commit(void **state UNUSED)
{
    struct buf buf = BUF_INIT(100);
    char *at = NULL;
    assert_int_equal(buf_reserve(&buf, 101, &at), ERR_FULL);
    assert_null(at);
    assert_int_equal(buf_reserve(&buf, 0, &at), OK);
    assert_non_null(at);
    assert_int_equal(buf_reserve(&buf, 100, &at), OK);
    memset(at, 'x', 100);
    buf_commit(&buf, 40);
    assert_int_equal(buf.len, 40);
    assert_int_equal(buf_reserve(&buf, 60, &at), OK);
    buf_release(&buf);
}

/* Against a flat copy of what should be in it. */
static void any_order_of_appends_and_consumes_keeps_the_bytes(void **state UNUSED)
{
    enum { MAX = 3000 };
    char model[MAX];
    size_t model_len = 0;
    struct buf buf = BUF_INIT(MAX);
    struct prng prng;
    prng_seed(&prng, 2);
    for (int step = 0; step < 20000; step++) {
        char bytes[700];
        size_t n = prng_u64(&prng) % (step % 7 == 0 ? sizeof bytes : 20);
        if (prng_u64(&prng) % 2) {
            for (size_t i = 0; i < n; i++)
                bytes[i] = (char)prng_u64(&prng);
            enum err err = buf_append(&buf, span_of(bytes, n));
            assert_int_equal(err, n > MAX - model_len ? ERR_FULL : OK);
            if (!err) {
                memcpy(model + model_len, bytes, n);
                model_len += n;
            }
        } else {
            n = size_min(n, model_len);
            buf_consume(&buf, n);
            memmove(model, model + n, model_len - n);
            model_len -= n;
        }
        assert_true(span_eq(buf_span(&buf), span_of(model, model_len)));
        assert_true(buf.cap <= MAX + 1);
    }
    buf_release(&buf);
}

static void without_memory_nothing_changes(void **state UNUSED)
{
    struct buf buf = BUF_INIT(100000);
    assert_int_equal(buf_append(&buf, SPAN("kept")), OK);
    char large[5000] = "";
    fault_arm(FAULT_ALLOC, 0, UINT64_MAX);
    assert_int_equal(buf_append(&buf, span_of(large, sizeof large)), ERR_NOMEM);
    struct buf empty = BUF_INIT(10);
    assert_null(buf_cstr(&empty));
    assert_int_equal(buf_printf(&empty, "x"), ERR_NOMEM);
    fault_disarm_all();
    assert_string_equal(buf_cstr(&buf), "kept");
    buf_release(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_is_an_answer_and_changes_nothing),
        cmocka_unit_test(formatting),
        cmocka_unit_test(reserve_then_commit),
        cmocka_unit_test(any_order_of_appends_and_consumes_keeps_the_bytes),
        cmocka_unit_test(without_memory_nothing_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
