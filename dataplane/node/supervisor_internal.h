/* supervisor_internal.h - shared by supervisor*.c alone. */
#pragma once
#include "dataplane/node/supervisor.h"

static inline uint64_t supervisor_now(const struct supervisor *s)
{
    return uv_now(s->options.loop);
}

/* ---- supervisor.c: processes and slots ---- */
/* Starts a process for a slot, which is not told. ERR_TOO_MANY: all regions of the board are taken. ERR_NOSPACE, ERR_NOMEM,
 * ERR_IO. */
MUST_CHECK enum err supervisor_launch(struct supervisor *s, unsigned slot, const struct listening *listening,
                                      const char *config_file, unsigned generation, struct process **ret);
/* Notes one that runs already; NULL: it cannot be watched, and so not be kept. */
struct process *supervisor_note(struct supervisor *s, const struct heritage_process *known);
struct process *supervisor_process(const struct supervisor *s, uint64_t pid); /* NULL: none of ours */
void supervisor_retire(struct process *process);                              /* drains from now on */
void supervisor_fill(struct slot *slot);
/* Its process serves there no more: another is to come. */
void supervisor_vacate(struct slot *slot);
void supervisor_region_ended(struct supervisor *s, unsigned region, bool crashed);
void supervisor_check_emptied(struct supervisor *s);

/* ---- supervisor_adopt.c ---- */
void supervisor_hello(void *user, struct hub_peer *peer, const struct control_message *hello, struct control_fds *fds);
/* NULL: the worker of another master that says this can be taken over. */
const char *supervisor_cannot_adopt(const struct supervisor *s, const struct control_message *hello);
void supervisor_settle_on(uv_timer_t *timer);
void supervisor_inherit(struct supervisor *s, struct heritage *heritage);

/* ---- supervisor_lend.c: sockets of a slot that backs off ---- */
void supervisor_lend(struct slot *slot); /* to the sibling that holds the fewest; without one, when one comes */
void supervisor_lend_all(struct supervisor *s);
void supervisor_take_back(struct slot *slot);
void supervisor_holds_no_more(struct slot *holder); /* its worker has ended, or its connection did */
void supervisor_drop_all(struct slot *holder);      /* what it may hold that was lent elsewhere or taken back */

/* ---- supervisor_roll.c ---- */
void supervisor_roll_look(struct supervisor *s); /* something happened that a roll may have waited for */
void supervisor_roll_fail(struct supervisor *s, const char *why);
