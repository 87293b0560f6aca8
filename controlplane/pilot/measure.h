/* measure.h - what one record says to the guards of a rollout or the metrics of an experiment. Pure. */
#pragma once
#include "controlplane/decide/experiment.h"
#include "proto/record.h"

/* Values by guard into values (guard_count of them); returns the mask of those that this record has anything to say to:
 *
 *   errors     1: no answer, a broken-off one, or a refusal (4xx) after the body was read: what a policy no longer serves
 *              is harm too, and clients' own mistakes fall on all arms alike. Limits (402, 429 of ours) say nothing.
 *   ttft       ms from the first attempt's start to first content, earlier failed attempts included; the whole answer's
 *              where it is not streamed; INFINITY where none ever came (failed, timed out, or the client gave up waiting).
 *   speed      output tokens per second after the first one, of streams with at least MEASURE_SPEED_TOKENS.
 *   cost       nano-dollars charged, of what was answered at all.
 *   refusals   1: refused by a content filter or by the model, or an empty answer; not of embeddings.
 *   cancels    1: the client went away.
 *   fallbacks  1: it took more than one attempt.
 *   feedback   nothing: votes come later, as records of their own. */
#define MEASURE_SPEED_TOKENS 8u /* fewer measure the network's chunks, not the model */
uint32_t measure_record(const struct record *record, const struct guard *guards, uint32_t guard_count, double *values);
