/* digest.h - SHA-256, a fast named hash for assignment, hex, constant-time comparison, random ids. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

#define SHA256_BYTES 32
#define SHA256_HEX   64

struct sha256 {
    uint8_t bytes[SHA256_BYTES];
};
/* One shot. Never fails for real inputs; aborts if the library does. */
struct sha256 sha256_of(struct span bytes);
bool sha256_eq(const struct sha256 *a, const struct sha256 *b); /* constant time */
/* Lower-case hex of n bytes and a NUL into out (2n+1 bytes); returns out. */
char *hex_encode(const void *bytes, size_t n, char *out);
MUST_CHECK enum err hex_decode(struct span hex, void *out, size_t out_bytes); /* exact length; ERR_SYNTAX */
/* "siphash24" (Aumasson, Bernstein 2012) with a 16-byte key: stable across machines, used for assignment and hash maps.
 */
uint64_t siphash24(const uint8_t key[16], struct span bytes);
bool constant_time_eq(struct span a, struct span b);
/* From the kernel; aborts if it cannot. */
void random_bytes(void *out, size_t n);
/* prefix + n characters of [0-9a-z] (no look-alikes: without l, 1, o, 0 ... 32 letters, 5 bits each) and a NUL. out
 * holds strlen(prefix)+n+1. */
char *random_id(const char *prefix, size_t n, char *out);
/* The same alphabet for numbers: the lowest 5 * n bits, lowest first, in n letters (12 at most). No NUL. */
void letters_put(uint64_t bits, char *out, size_t n);
/* False: a letter of another alphabet is among them. */
bool letters_get(const char *text, size_t n, uint64_t *ret_bits);
/* A fast generator for choices (xoshiro256**); seed it from random_bytes, or a constant in tests. */
struct prng {
    uint64_t s[4];
};
void prng_seed(struct prng *prng, uint64_t seed);
uint64_t prng_u64(struct prng *prng);
double prng_unit(struct prng *prng); /* [0, 1) */
/* As random_id, without a system call: unique when all of `prng` came from random_bytes, but no secret. */
char *prng_id(struct prng *prng, const char *prefix, size_t n, char *out);
