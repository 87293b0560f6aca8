/* wire.h - protobuf-c <-> plain structs. The only includers of *.pb-c.h are wire*.c.
 *
 * Encoders append the encoded message to `out`. Decoders copy everything into `arena` (spans NUL-terminated), so the
 * input may go at once. They check: byte limit, well-formedness, schema range, every count and index of proto/limits.h,
 * sorted order where tables.h promises it, weights summing to 1,000,000, indices in range, enums known. Bytes from
 * outside never trip an assertion.
 *
 * Errors of decoders: ERR_TOO_LARGE, ERR_CORRUPT (not protobuf), ERR_UNSUPPORTED (schema or required feature),
 * ERR_INVALID (an invariant; *ret_why, which may be NULL, gets a static or arena text), ERR_TOO_MANY, ERR_NOMEM. *ret
 * is untouched on error. Errors of encoders: ERR_FULL, ERR_NOMEM, ERR_TOO_MANY. */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "proto/links.h"

#define FEATURE_ARMS   (1ull << 0)  /* a head with several arms, assignments or shadows; its encoder sets the bit */
#define FEATURES_KNOWN FEATURE_ARMS /* bits of `requires` that this build understands */

MUST_CHECK enum err wire_encode_artifact(const struct artifact *artifact, struct buf *out);
MUST_CHECK enum err wire_decode_artifact(struct arena *arena, struct span bytes, struct artifact **ret,
                                         const char **ret_why);
MUST_CHECK enum err wire_encode_head(const struct head *head, struct buf *out);
MUST_CHECK enum err wire_decode_head(struct arena *arena, struct span bytes, struct head **ret, const char **ret_why);
MUST_CHECK enum err wire_encode_evidence(const struct evidence *evidence, struct buf *out);
MUST_CHECK enum err wire_decode_evidence(struct arena *arena, struct span bytes, struct evidence **ret,
                                         const char **ret_why);
MUST_CHECK enum err wire_encode_teams(const struct teams *teams, struct buf *out);
MUST_CHECK enum err wire_decode_teams(struct arena *arena, struct span bytes, struct teams **ret, const char **ret_why);
MUST_CHECK enum err wire_encode_key(const struct key_record *key, struct buf *out);
MUST_CHECK enum err wire_decode_key(struct arena *arena, struct span bytes, struct key_record **ret,
                                    const char **ret_why);
MUST_CHECK enum err wire_encode_directory_delta(const struct directory_delta *delta, struct buf *out);
MUST_CHECK enum err wire_decode_directory_delta(struct arena *arena, struct span bytes, struct directory_delta **ret,
                                                const char **ret_why);

MUST_CHECK enum err wire_encode_fetch_request(const struct fetch_request *m, struct buf *out);
MUST_CHECK enum err wire_decode_fetch_request(struct arena *arena, struct span bytes, struct fetch_request **ret);
MUST_CHECK enum err wire_encode_fetch_reply(const struct fetch_reply *m, struct buf *out);
MUST_CHECK enum err wire_decode_fetch_reply(struct arena *arena, struct span bytes, struct fetch_reply **ret);
MUST_CHECK enum err wire_encode_evidence_report(const struct evidence_report *m, struct buf *out);
MUST_CHECK enum err wire_decode_evidence_report(struct arena *arena, struct span bytes, struct evidence_report **ret);
MUST_CHECK enum err wire_encode_evidence_reply(const struct evidence_reply *m, struct buf *out);
MUST_CHECK enum err wire_decode_evidence_reply(struct arena *arena, struct span bytes, struct evidence_reply **ret);
MUST_CHECK enum err wire_encode_admin_request(const struct admin_request *m, struct buf *out);
MUST_CHECK enum err wire_decode_admin_request(struct arena *arena, struct span bytes, struct admin_request **ret);
MUST_CHECK enum err wire_encode_admin_reply(const struct admin_reply *m, struct buf *out);
MUST_CHECK enum err wire_decode_admin_reply(struct arena *arena, struct span bytes, struct admin_reply **ret);

/* bytes with their hash and coordinates; hashes `bytes`. */
struct object wire_object(enum object_kind kind, uint64_t seq, struct span bytes);
/* Length, hash and schema range of an object as received. ERR_TOO_LARGE, ERR_CORRUPT, ERR_UNSUPPORTED. */
MUST_CHECK enum err wire_check_object(const struct object *object);
