/* request_id.h - ids of requests: "req_", when (to the second), random letters, and a code over both and the team's name,
 * so that nobody can vote on a request that is not his team's (POST /v1/feedback), and no node has to remember any.
 *
 * The code is SipHash-2-4, a keyed function made for short messages, cut to 60 bits: it protects one vote, is made for
 * every request, and costs a hundredth of what HMAC with SHA-256 does. Its key is derived from a secret that all nodes of
 * an installation share. Pure. */
#pragma once
#include "common/digest.h"

#define REQUEST_ID_BYTES  40u /* with its NUL; 35 are used */
#define REQUEST_ID_PREFIX "req_"

struct request_id_key {
    uint8_t bytes[16];
};
/* From the secret, of any length. */
struct request_id_key request_id_key_of(struct span secret);

/* A new id, with random letters where the code will stand: what was made for nobody in particular verifies for nobody. */
void request_id_make(struct prng *prng, int64_t now_ms, char out[REQUEST_ID_BYTES]);
/* Writes the code of this team into it. */
void request_id_sign(const struct request_id_key *key, struct span team, char id[REQUEST_ID_BYTES]);
/* ERR_SYNTAX: not in the form of our ids. ERR_DENIED: of another team, another installation, or invented. */
MUST_CHECK enum err request_id_verify(const struct request_id_key *key, struct span team, struct span id);
/* When the request began, cut to the second; 0: not in the form of our ids. */
int64_t request_id_time_ms(struct span id);
