#include "proto/request_id.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define NOW_MS INT64_C(1764000000123)

static void make(char id[REQUEST_ID_BYTES])
{
    struct prng prng;
    random_bytes(prng.s, sizeof(prng.s));
    request_id_make(&prng, NOW_MS, id);
}

static void only_its_team_may_speak_of_it(void **state UNUSED)
{
    const struct request_id_key key = request_id_key_of(SPAN("secret")), other = request_id_key_of(SPAN("Secret"));
    char id[REQUEST_ID_BYTES];
    make(id);
    assert_int_equal(request_id_verify(&key, SPAN("a"), span_cstr(id)), ERR_DENIED); /* made for nobody */
    request_id_sign(&key, SPAN("a"), id);
    assert_int_equal(strlen(id), 35);
    assert_int_equal(request_id_verify(&key, SPAN("a"), span_cstr(id)), OK);
    assert_int_equal(request_id_verify(&key, SPAN("b"), span_cstr(id)), ERR_DENIED);
    assert_int_equal(request_id_verify(&key, SPAN(""), span_cstr(id)), ERR_DENIED);
    assert_int_equal(request_id_verify(&other, SPAN("a"), span_cstr(id)), ERR_DENIED);
}

static void no_letter_can_be_changed(void **state UNUSED)
{
    const struct request_id_key key = request_id_key_of(SPAN("secret"));
    char id[REQUEST_ID_BYTES];
    make(id);
    request_id_sign(&key, SPAN("a"), id);
    for (size_t i = 0; id[i]; i++) {
        const char was = id[i];
        id[i] = was == 'a' ? 'b' : 'a';
        assert_true(request_id_verify(&key, SPAN("a"), span_cstr(id)) != OK);
        id[i] = was;
    }
    assert_int_equal(request_id_verify(&key, SPAN("a"), span_cstr(id)), OK);
}

static void others_are_told_apart(void **state UNUSED)
{
    static const char *const others[] = { "",
                                          "req_",
                                          "req_123",
                                          "chatcmpl-abcdefghijkmnpqrstuvwxyz23",
                                          "req_222222222222222222222222222222!",
                                          "req_1222222222222222222222222222222",
                                          "req_22222222222222222222222222222222" };
    const struct request_id_key key = request_id_key_of(SPAN("secret"));
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        assert_int_equal(request_id_verify(&key, SPAN("a"), span_cstr(others[i])), ERR_SYNTAX);
        assert_int_equal(request_id_time_ms(span_cstr(others[i])), 0);
    }
}

static void they_say_when(void **state UNUSED)
{
    char id[REQUEST_ID_BYTES];
    make(id);
    assert_int_equal(request_id_time_ms(span_cstr(id)), NOW_MS / 1000 * 1000);
}

/* Other nodes, and later releases, must agree. */
static void a_known_id(void **state UNUSED)
{
    const struct request_id_key key = request_id_key_of(SPAN("correct horse battery staple"));
    struct prng prng;
    char id[REQUEST_ID_BYTES];
    prng_seed(&prng, 1);
    request_id_make(&prng, NOW_MS, id);
    request_id_sign(&key, SPAN("research"), id);
    assert_string_equal(id, "req_2a2bkn3ycthqg8t89k7e64u2jmm9r3d");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_its_team_may_speak_of_it),
        cmocka_unit_test(no_letter_can_be_changed),
        cmocka_unit_test(others_are_told_apart),
        cmocka_unit_test(they_say_when),
        cmocka_unit_test(a_known_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
