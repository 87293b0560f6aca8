#include "proto/request_id.h"

#define PREFIX_CHARS (sizeof(REQUEST_ID_PREFIX) - 1)
#define TIME_CHARS   7u  /* 35 bits of seconds: a thousand years */
#define RANDOM_CHARS 12u /* two requests of one second are alike once in 10^18 */
#define CODE_CHARS   12u /* 60 bits */
#define BODY_CHARS   (PREFIX_CHARS + TIME_CHARS + RANDOM_CHARS)
#define ID_CHARS     (BODY_CHARS + CODE_CHARS)
#define TEAM_MAX     256u /* longer than any team's name; what is longer is compared this far */

_Static_assert(ID_CHARS < REQUEST_ID_BYTES, "an id fits");

struct request_id_key request_id_key_of(struct span secret)
{
    struct request_id_key key;
    char text[SHA256_BYTES + 32];
    const struct sha256 digest = sha256_of(secret);
    /* Not the digest itself, which something else may be made of. */
    const int length = snprintf(text, sizeof(text), "fairlead request id ");
    memcpy(text + length, digest.bytes, sizeof(digest.bytes));
    const struct sha256 derived = sha256_of(span_of(text, (size_t)length + sizeof(digest.bytes)));
    memcpy(key.bytes, derived.bytes, sizeof(key.bytes));
    return key;
}

static void code_of(const struct request_id_key *key, struct span team, const char *body, char out[CODE_CHARS])
{
    char text[BODY_CHARS + TEAM_MAX];
    team = span_head(team, TEAM_MAX);
    memcpy(text, body, BODY_CHARS);
    if (team.len > 0)
        memcpy(text + BODY_CHARS, team.ptr, team.len);
    letters_put(siphash24(key->bytes, span_of(text, BODY_CHARS + team.len)), out, CODE_CHARS);
}

void request_id_make(struct prng *prng, int64_t now_ms, char out[REQUEST_ID_BYTES])
{
    (void)prng_id(prng, REQUEST_ID_PREFIX, TIME_CHARS + RANDOM_CHARS + CODE_CHARS, out);
    letters_put((uint64_t)(now_ms / 1000), out + PREFIX_CHARS, TIME_CHARS);
}

void request_id_sign(const struct request_id_key *key, struct span team, char id[REQUEST_ID_BYTES])
{
    code_of(key, team, id, id + BODY_CHARS);
}

static bool well_formed(struct span id)
{
    uint64_t unused;
    return id.len == ID_CHARS && span_starts(id, SPAN(REQUEST_ID_PREFIX)) &&
           letters_get(id.ptr + PREFIX_CHARS, TIME_CHARS, &unused) &&
           letters_get(id.ptr + PREFIX_CHARS + TIME_CHARS, RANDOM_CHARS, &unused) &&
           letters_get(id.ptr + BODY_CHARS, CODE_CHARS, &unused);
}

enum err request_id_verify(const struct request_id_key *key, struct span team, struct span id)
{
    char code[CODE_CHARS];
    if (!well_formed(id))
        return ERR_SYNTAX;
    code_of(key, team, id.ptr, code);
    return constant_time_eq(span_of(code, CODE_CHARS), span_of(id.ptr + BODY_CHARS, CODE_CHARS)) ? OK : ERR_DENIED;
}

int64_t request_id_time_ms(struct span id)
{
    uint64_t seconds;
    if (!well_formed(id) || !letters_get(id.ptr + PREFIX_CHARS, TIME_CHARS, &seconds))
        return 0;
    return (int64_t)seconds * 1000;
}
