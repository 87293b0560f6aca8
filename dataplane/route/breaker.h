/* breaker.h - local outlier detection: one model, judged by what this node's requests saw.
 *
 * The state of a model is one 64-bit word that all workers of the node share (board_model.breaker) plus one word for
 * the error-rate window (board_model.breaker_extra). The transitions are pure functions word -> word; the calls on
 * atomics at the end only loop compare-and-swap around them. All-zero words: closed, nothing seen. Times are monotonic
 * ms of the node and must fit 40 bits (34 years of uptime).
 *
 *   closed  --5 failures in a row, or >= 50% of >= 20 in 10 s-->  open for 30 s x n (n: ejections so far, at most 10)
 *   open    --time is up-->  half-open: one request at a time may try (the probe)
 *   probing --success-->  closed, n halved          --failure-->  open for 30 s x (n + 1)
 *           --abandoned (client left)-->  half-open  --no word for a minute (its worker died)-->  half-open
 *
 * Verdicts of requests that began before the ejection change nothing while it lasts. */
#pragma once
#include <stdatomic.h>
#include "common/base.h"

#define BREAKER_FAILURES_IN_ROW 5u
#define BREAKER_WINDOW_MS       10000u
#define BREAKER_WINDOW_LEAST    20u /* fewer say nothing about a rate */
#define BREAKER_EJECT_MS        30000u
#define BREAKER_EJECTIONS_MAX   10u /* x 30 s: a model is looked at again every five minutes at least */
#define BREAKER_PROBE_LEASE_MS  60000u

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN, BREAKER_PROBING };
enum breaker_event {
    BREAKER_SUCCESS, /* of an ordinary attempt: first content, or a complete answer */
    BREAKER_FAILURE,
    BREAKER_RATE_BAD, /* the window says so: see breaker_window_bad */
    BREAKER_PROBE_START,
    BREAKER_PROBE_SUCCESS,
    BREAKER_PROBE_FAILURE,
    BREAKER_PROBE_ABANDONED, /* no verdict: the client went away */
    BREAKER_EVENTS
};

enum breaker_state breaker_state(uint64_t word, uint64_t now_ms);
const char *breaker_state_name(enum breaker_state state);
/* When the ejection ends; 0 when closed. */
uint64_t breaker_until_ms(uint64_t word);
unsigned breaker_ejections(uint64_t word);
uint64_t breaker_after(uint64_t word, enum breaker_event event, uint64_t now_ms);

/* The window word: outcomes of the last BREAKER_WINDOW_MS, in two halves so that old ones fall away. */
uint64_t breaker_window_after(uint64_t window, bool failed, uint64_t now_ms);
bool breaker_window_bad(uint64_t window, uint64_t now_ms);

/* What an attempt at a model is. An ordinary one ends in breaker_record, a probe in breaker_probe_end, exactly once. */
enum breaker_pass { BREAKER_PASS_REFUSED, BREAKER_PASS_ORDINARY, BREAKER_PASS_PROBE };
/* Just before the attempt. `forced` (plan_step: nothing better is left, or too many are ejected) is never refused, and becomes the
 * probe if there is none. */
enum breaker_pass breaker_enter(_Atomic uint64_t *word, bool forced, uint64_t now_ms);
/* ordinary attempts; true when this very verdict ejected the model (worth a log line) */
bool breaker_record(_Atomic uint64_t *word, _Atomic uint64_t *window, bool failed, uint64_t now_ms);
/* event: one of the three BREAKER_PROBE_ verdicts; true when the state changed between closed and open */
bool breaker_probe_end(_Atomic uint64_t *word, enum breaker_event event, uint64_t now_ms);
