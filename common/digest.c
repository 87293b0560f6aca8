#include "common/digest.h"

/* For the functions below: deprecated in favour of EVP's, which fetch and allocate for each digest and so can fail. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h> /* not evp.h: it has parameters called like the libc calls that base.h bans */
#include <errno.h>
#include <sys/random.h>

struct sha256 sha256_of(struct span bytes)
{
    struct sha256 digest;
    SHA256_CTX sha;
    SHA256_Init(&sha); /* these three always succeed */
    SHA256_Update(&sha, bytes.ptr, bytes.len);
    SHA256_Final(digest.bytes, &sha);
    explicit_bzero(&sha, sizeof(sha)); /* keys go through it */
    return digest;
}

bool sha256_eq(const struct sha256 *a, const struct sha256 *b)
{
    return constant_time_eq(span_of(a->bytes, SHA256_BYTES), span_of(b->bytes, SHA256_BYTES));
}

char *hex_encode(const void *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *in = bytes;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * n] = '\0';
    return out;
}

#define NO_DIGIT 16U

static unsigned hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return (unsigned)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (unsigned)(c - 'a') + 10;
    if (c >= 'A' && c <= 'F')
        return (unsigned)(c - 'A') + 10;
    return NO_DIGIT;
}

enum err hex_decode(struct span hex, void *out, size_t out_bytes)
{
    if (hex.len / 2 != out_bytes || hex.len % 2 != 0)
        return ERR_SYNTAX;
    for (size_t i = 0; i < hex.len; i++) {
        if (hex_digit(hex.ptr[i]) == NO_DIGIT)
            return ERR_SYNTAX;
    }
    uint8_t *to = out;
    for (size_t i = 0; i < out_bytes; i++)
        to[i] = (uint8_t)(hex_digit(hex.ptr[2 * i]) << 4 | hex_digit(hex.ptr[2 * i + 1]));
    return OK;
}

static uint64_t rotate_left(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static uint64_t load_le64(const void *ptr)
{
    const uint8_t *in = ptr;
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++)
        value |= (uint64_t)in[i] << (8 * i);
    return value;
}

static void sip_rounds(uint64_t v[4], unsigned rounds)
{
    while (rounds-- > 0) {
        v[0] += v[1];
        v[1] = rotate_left(v[1], 13) ^ v[0];
        v[0] = rotate_left(v[0], 32);
        v[2] += v[3];
        v[3] = rotate_left(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = rotate_left(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = rotate_left(v[1], 17) ^ v[2];
        v[2] = rotate_left(v[2], 32);
    }
}

uint64_t siphash24(const uint8_t key[16], struct span bytes)
{
    uint64_t k0 = load_le64(key), k1 = load_le64(key + 8);
    uint64_t v[4] = { k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                      k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573) };
    size_t whole = bytes.len & ~(size_t)7;
    for (size_t at = 0; at < whole; at += 8) {
        uint64_t word = load_le64(bytes.ptr + at);
        v[3] ^= word;
        sip_rounds(v, 2);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)bytes.len << 56;
    for (size_t i = whole; i < bytes.len; i++)
        last |= (uint64_t)(uint8_t)bytes.ptr[i] << (8 * (i - whole));
    v[3] ^= last;
    sip_rounds(v, 2);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

bool constant_time_eq(struct span a, struct span b)
{
    if (a.len != b.len)
        return false;
    volatile uint8_t difference = 0; /* volatile: no early exit may be optimised in */
    for (size_t i = 0; i < a.len; i++)
        difference |= (uint8_t)(a.ptr[i] ^ b.ptr[i]);
    return difference == 0;
}

void random_bytes(void *out, size_t n)
{
    char *at = out;
    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);
        REQUIRE(got > 0 || errno == EINTR);
        if (got > 0) {
            at += got;
            n -= (size_t)got;
        }
    }
}

static const char letters[] = "23456789abcdefghijkmnpqrstuvwxyz";

char *random_id(const char *prefix, size_t n, char *out)
{
    size_t prefix_len = strlen(prefix);
    (void)snprintf(out, prefix_len + 1, "%s", prefix);
    char *at = out + prefix_len;
    random_bytes(at, n);
    for (size_t i = 0; i < n; i++)
        at[i] = letters[(uint8_t)at[i] & 31];
    at[n] = '\0';
    return out;
}

void letters_put(uint64_t bits, char *out, size_t n)
{
    for (size_t i = 0; i < n; i++, bits >>= 5)
        out[i] = letters[bits & 31];
}

bool letters_get(const char *text, size_t n, uint64_t *ret_bits)
{
    uint64_t bits = 0;
    for (size_t i = n; i > 0; i--) {
        const char *found = text[i - 1] ? strchr(letters, text[i - 1]) : NULL;
        if (!found)
            return false;
        bits = bits << 5 | (uint64_t)(found - letters);
    }
    *ret_bits = bits;
    return true;
}

/* splitmix64 (Steele, Lea, Flood 2014), as Blackman and Vigna advise for seeding. */
void prng_seed(struct prng *prng, uint64_t seed)
{
    for (size_t i = 0; i < ARRAY_LEN(prng->s); i++) {
        seed += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z = seed;
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        prng->s[i] = z ^ (z >> 31);
    }
}

/* xoshiro256** 1.0 (Blackman, Vigna 2018). */
uint64_t prng_u64(struct prng *prng)
{
    uint64_t *s = prng->s;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

double prng_unit(struct prng *prng)
{
    return (double)(prng_u64(prng) >> 11) * 0x1p-53;
}

char *prng_id(struct prng *prng, const char *prefix, size_t n, char *out)
{
    size_t prefix_len = strlen(prefix);
    memcpy(out, prefix, prefix_len);
    char *at = out + prefix_len;
    uint64_t bits = 0;
    for (size_t i = 0; i < n; i++, bits >>= 5) {
        if (i % 12 == 0) /* the upper sixty bits are twelve letters */
            bits = prng_u64(prng) >> 4;
        at[i] = letters[bits & 31];
    }
    at[n] = '\0';
    return out;
}
