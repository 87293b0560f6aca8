/* pilot.h - flies rollouts: takes the records of all nodes, judges the arms by them, and does what follows.
 *
 * What is decided lives in the store (state.h); the pilot holds what was measured since the present step began, which is
 * read again from the record store after a restart. Each decision is one transaction: state, head, versions and an audit
 * line with every number; so a crash leaves all of it or nothing, and it is decided again. Each step is judged by its
 * own records alone: those whose head was of this epoch, and of the step's generation or a later one. After a restart no step
 * forward is taken before what nodes kept meanwhile has come, or had 30 s to. On the daemon's loop; no clock. */
#pragma once
#include "controlplane/pilot/state.h"
#include "proto/record.h"

struct pilot;

MUST_CHECK enum err pilot_new(struct versions *versions, struct pilot **ret);
void pilot_free(struct pilot *pilot); /* NULL is fine */

/* Reads the state from the store: at start, and after each commit that may have changed it. Not within a transaction.
 * On error the pilot decides nothing until this succeeds. */
MUST_CHECK enum err pilot_follow(struct pilot *pilot);
/* After the first pilot_follow: records from then on (node's time) are to be given again to pilot_taken, in any order;
 * INT64_MAX: none. */
int64_t pilot_since(const struct pilot *pilot);
/* One record; whatever does not concern it is passed over. user: the pilot. */
void pilot_taken(void *user, const struct record *record);
/* Looks, judges, and does what follows. True: something was committed; nodes and evidence must hear of it, and
 * pilot_follow is due. */
bool pilot_tick(struct pilot *pilot, int64_t now_ms);

/* ---- looking; of what pilot_follow read last ---- */

const struct pilot_state *pilot_state(const struct pilot *pilot);
/* What the rollout's present step has seen. Valid until the next call of anything but these. */
const struct rollout_evidence *pilot_evidence(struct pilot *pilot);
/* One JSON value each; null: there never was one.
 * {"id","phase","from","to","unit","share","next","steps","step","hold_ms","held_ms","hold_left_ms","requests","units",
 *  "next_words","needed",...plan, guards with every number, decisions} */
void pilot_json_rollout(struct pilot *pilot, int64_t now_ms, struct json_writer *w);
void pilot_json_experiment(struct pilot *pilot, int64_t now_ms, struct json_writer *w);
void pilot_json_shadow(struct pilot *pilot, int64_t now_ms, struct json_writer *w);
/* null or {"at_ms","by","reason"} */
void pilot_json_lock(const struct pilot *pilot, struct json_writer *w);
