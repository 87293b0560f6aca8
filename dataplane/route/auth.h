/* auth.h - who asks: finds the key in the request's headers, judges its record, and says what its holder may use.
 *
 * Pure: no lookup, no clock. The exchange hashes the key (sha256_of), finds the record by that hash in the directory
 * and the team in the table. `*ret_why` texts are static, name no secret and may be shown to the client. */
#pragma once
#include "common/arena.h"
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "dataplane/route/table.h"

#define AUTH_KEY_PREFIX         "fl-"
#define AUTH_CERTIFICATE_PREFIX "certificate:"
#define AUTH_KEY_RANDOM_LEAST   40   /* characters of 5 bits: 200 bits cannot be guessed */
#define AUTH_KEY_BYTES_MAX      128u /* a stranger's "key" must not buy the hashing of a whole head */

/* The client's key from `authorization: Bearer`, `x-api-key`, `x-goog-api-key` or `api-key` (names in any case).
 * Other schemes of `authorization` are not ours and are skipped. The same key in several headers is fine.
 * ERR_NOT_FOUND: no key. ERR_CONFLICT: different keys (a proxy in between may have judged another one).
 * ERR_UNAUTHORIZED: not in the form of our keys, so it cannot be known. All of them are answered with 401. */
MUST_CHECK enum err auth_extract(const struct header_pair *headers, size_t count, struct span *ret_key,
                                 const char **ret_why);
/* "fl-" and at least AUTH_KEY_RANDOM_LEAST characters of random_id's alphabet. */
bool auth_key_well_formed(struct span key);

/* ERR_UNAUTHORIZED: unknown (record NULL), revoked or expired, or its team is gone (team NULL). now in wall ms. */
MUST_CHECK enum err auth_judge(const struct key_record *record, const struct team_view *team, int64_t now_ms,
                               const char **ret_why);

/* A client without a key whose verified certificate (by this name) is a team's: what stands for the key's record, with
 * the id "certificate:NAME". It narrows nothing. ERR_NOMEM: the arena is full. */
MUST_CHECK enum err auth_by_certificate(struct arena *arena, struct span name, struct span team,
                                        struct key_record **ret);

/* Borrowed for the length of a request. */
struct auth_principal {
    const struct key_record *key; /* or what stands for it */
    const struct team_view *team;
};
/* The team's routes, narrowed by the key's own list where it has one. */
bool auth_may_route(const struct auth_principal *principal, struct span route);
/* Directly as provider/model: the team's `models`; a key with a list of its own must list the model there too, so that
 * a key made for one route reaches nothing else. */
bool auth_may_model(const struct auth_principal *principal, struct span model);
