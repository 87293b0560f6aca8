/* simulate.h - recorded requests, decided again under the live policy and a candidate: who would serve them, for how
 * much, how soon, how reliably, and who would be refused. Pure; the records are handed in one by one.
 *
 * Both policies decide with the directory, overrides and evidence given (as they are now), so that a difference is the
 * policy's alone. Requests whose features are not in their record (their body was never read) and those of teams that
 * are no more are counted and left out. */
#pragma once
#include "common/json.h"
#include "dataplane/simulate/setting.h"
#include "proto/record.h"

#define SIMULATE_ROWS_MAX 2000000u /* some 110 bytes each: one simulation must not take a machine's memory */

struct simulate;

struct simulate_input {
    struct span live, candidate; /* artifacts */
    struct span head, evidence, directory;
    int64_t now_ms;
};
/* Errors of setting_new; *ret_why likewise. Borrows nothing. */
MUST_CHECK enum err simulate_new(const struct simulate_input *input, struct simulate **ret, const char **ret_why);
void simulate_free(struct simulate *simulate); /* NULL is fine */
/* Other kinds than requests are skipped. ERR_FULL: SIMULATE_ROWS_MAX were taken. ERR_NOMEM. */
MUST_CHECK enum err simulate_take(struct simulate *simulate, const struct record *record);
uint64_t simulate_taken(const struct simulate *simulate); /* requests that count */
/* Once, after all records: writes one JSON object (`result` in README). ERR_NOMEM. */
MUST_CHECK enum err simulate_report(struct simulate *simulate, struct json_writer *w);
