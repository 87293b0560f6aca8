/* selftest.h - tries a table in a throwaway process before anybody serves it: what crashes or runs away there hurts
 * nobody.
 *
 * The parent writes frames to the child's standard input: one byte of kind (enum object_kind), four bytes of length
 * (big endian), the object. One head, the artifacts of all its arms, at most one evidence and one directory (encoded
 * teams). The child decodes all, builds the table that a worker would, takes decisions on its routes, and exits 0; else
 * 1 with one line on standard output saying why. */
#pragma once
#include "common/buf.h"
#include "proto/links.h"

#define SELFTEST_BYTES_MAX  ((size_t)512 << 20) /* all artifacts of a head, evidence and teams */
#define SELFTEST_TIMEOUT_MS 5000u               /* a table that takes longer stalls every worker, too */
#define SELFTEST_ROUTES_MAX 1000u               /* decisions taken: bounds the time, not the size of a policy */

MUST_CHECK enum err selftest_frame(enum object_kind kind, struct span bytes, struct buf *out);
/* Judges frames; *ret_why (may be NULL; static, or until the next call) says what is wrong. ERR_SYNTAX: not frames. */
MUST_CHECK enum err selftest_judge(struct span frames, const char **ret_why);
/* The child: reads standard input, judges, returns the exit status. */
int selftest_main(void);
