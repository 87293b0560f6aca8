#include "common/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void sha256_of_known_texts(void **state UNUSED)
{
    /* FIPS 180-2, appendix B.1 and B.2, and the empty message. */
    static const struct {
        const char *text, *hex;
    } rows[] = {
        { "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
        { "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
        { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
    };
    char hex[SHA256_HEX + 1];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct sha256 digest = sha256_of(span_cstr(rows[i].text));
        assert_string_equal(hex_encode(digest.bytes, SHA256_BYTES, hex), rows[i].hex);
    }
    struct sha256 a = sha256_of(SPAN("a")), b = a, empty = sha256_of(span_cstr(NULL));
    assert_true(sha256_eq(&a, &b));
    b.bytes[31] ^= 1;
    assert_false(sha256_eq(&a, &b));
    assert_string_equal(hex_encode(empty.bytes, SHA256_BYTES, hex), rows[0].hex);
}

static void hex_there_and_back(void **state UNUSED)
{
    uint8_t bytes[256], back[256];
    for (size_t i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    char hex[513];
    hex_encode(bytes, 256, hex);
    assert_int_equal(hex_decode(span_cstr(hex), back, 256), OK);
    assert_memory_equal(bytes, back, 256);
    assert_int_equal(hex_decode(SPAN("fFa0"), back, 2), OK);
    assert_int_equal(back[0], 0xff);
    assert_int_equal(back[1], 0xa0);
    static const char *const bad[] = { "", "a", "aaa", "aaaaa", "aaaaaa", "aag0", "0xaa", "aa a" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(hex_decode(span_cstr(bad[i]), back, 2), ERR_SYNTAX);
    assert_int_equal(back[0], 0xff); /* untouched */
    assert_int_equal(hex_decode(SPAN(""), back, 0), OK);
}

static void siphash_vectors(void **state UNUSED)
{
    /* From the reference implementation's vectors: key 00..0f, input 00..n-1. The one of 15 is in the paper's appendix
     * A. */
    static const struct {
        size_t len;
        uint64_t hash;
    } rows[] = {
        { 0, UINT64_C(0x726fdb47dd0e0e31) }, { 1, UINT64_C(0x74f839c593dc67fd) },  { 7, UINT64_C(0xab0200f58b01d137) },
        { 8, UINT64_C(0x93f5f5799a932462) }, { 15, UINT64_C(0xa129ca6149be45e5) }, { 63, UINT64_C(0x958a324ceb064572) },
    };
    uint8_t key[16], input[64];
    for (size_t i = 0; i < 16; i++)
        key[i] = (uint8_t)i;
    for (size_t i = 0; i < 64; i++)
        input[i] = (uint8_t)i;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_true(siphash24(key, span_of(input, rows[i].len)) == rows[i].hash);
    assert_true(siphash24(key, span_cstr(NULL)) == rows[0].hash);
}

static void comparing_without_haste(void **state UNUSED)
{
    assert_true(constant_time_eq(SPAN("secret"), SPAN("secret")));
    assert_false(constant_time_eq(SPAN("secret"), SPAN("secreT")));
    assert_false(constant_time_eq(SPAN("Secret"), SPAN("secret")));
    assert_false(constant_time_eq(SPAN("secret"), SPAN("secre")));
    assert_false(constant_time_eq(SPAN("aa"), span_head(SPAN("aa"), 1)));
    assert_false(constant_time_eq(span_head(SPAN("aa"), 1), SPAN("aa")));
    assert_true(constant_time_eq(SPAN(""), span_cstr(NULL)));
}

static void random_ids(void **state UNUSED)
{
    char id[64];
    bool seen[256] = { false };
    for (int i = 0; i < 200; i++) {
        assert_ptr_equal(random_id("fl-", 32, id), id);
        assert_int_equal(strlen(id), 35);
        assert_memory_equal(id, "fl-", 3);
        assert_int_equal(strspn(id + 3, "23456789abcdefghijkmnpqrstuvwxyz"), 32);
        for (size_t k = 3; k < 35; k++)
            seen[(unsigned char)id[k]] = true;
    }
    unsigned letters = 0;
    for (size_t i = 0; i < 256; i++)
        letters += seen[i];
    assert_int_equal(letters, 32); /* 6,400 draws: all of them, but for once in 10^86 */
    char other[64];
    assert_string_not_equal(random_id("", 20, id), random_id("", 20, other));
    assert_string_equal(random_id("x", 0, id), "x");
    struct prng prng;
    random_bytes(&prng, sizeof(prng));
    for (int i = 0; i < 100; i++) {
        assert_ptr_equal(prng_id(&prng, "req_", 24, id), id);
        assert_int_equal(strlen(id), 28);
        assert_int_equal(strspn(id + 4, "23456789abcdefghijkmnpqrstuvwxyz"), 24);
        assert_string_not_equal(id, prng_id(&prng, "req_", 24, other));
    }
}

static void generator_vectors(void **state UNUSED)
{
    /* xoshiro256** from state {1, 2, 3, 4}: the first two by hand from its definition. */
    struct prng prng = { { 1, 2, 3, 4 } };
    assert_true(prng_u64(&prng) == 11520);
    assert_true(prng_u64(&prng) == 0);
    assert_true(prng_u64(&prng) == 1509978240);
    /* splitmix64 from 0. */
    prng_seed(&prng, 0);
    assert_true(prng.s[0] == UINT64_C(0xe220a8397b1dcdaf));
    assert_true(prng.s[1] == UINT64_C(0x6e789e6aa1b965f4));
}

static void units_are_uniform(void **state UNUSED)
{
    struct prng prng;
    prng_seed(&prng, 7);
    unsigned counts[10] = { 0 };
    for (int i = 0; i < 100000; i++) {
        double unit = prng_unit(&prng);
        assert_true(unit >= 0 && unit < 1);
        counts[(size_t)(unit * 10)]++;
    }
    for (size_t i = 0; i < 10; i++)
        assert_in_range(counts[i], 9600, 10400); /* four standard deviations; the seed is fixed */
}

static void letters_there_and_back(void **state UNUSED)
{
    char text[12];
    uint64_t bits = 0;
    letters_put(UINT64_C(0xfedcba987654321), text, sizeof(text));
    assert_true(letters_get(text, sizeof(text), &bits));
    assert_true(bits == UINT64_C(0xfedcba987654321));
    letters_put(33, text, 2);
    assert_memory_equal(text, "33", 2); /* 1 and 1: the lowest bits first */
    assert_false(letters_get("2l", 2, &bits));
    assert_false(letters_get("2\0", 2, &bits));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_of_known_texts),
        cmocka_unit_test(hex_there_and_back),
        cmocka_unit_test(siphash_vectors),
        cmocka_unit_test(comparing_without_haste),
        cmocka_unit_test(random_ids),
        cmocka_unit_test(generator_vectors),
        cmocka_unit_test(units_are_uniform),
        cmocka_unit_test(letters_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
