/* deadline.h - a moment by which something must have happened, cheap to move.
 *
 * Moving it later, or lifting it, costs a store: the timer under it is left alone and set again when it fires too
 * early. Times are those of uv_now (milliseconds, monotonic). On the loop's thread only. */
#pragma once
#include "common/base.h"
#include <uv.h>

#define DEADLINE_NONE UINT64_MAX

struct deadline {
    uv_timer_t timer;
    uint64_t due_ms;   /* what is wanted */
    uint64_t armed_ms; /* when the timer fires: never after due_ms */
    void (*passed)(struct deadline *deadline);
};

/* passed is called once for each deadline set, on the loop, from the timer phase: never from within deadline_set. */
void deadline_init(struct deadline *deadline, uv_loop_t *loop, void (*passed)(struct deadline *deadline));
/* due_ms in the past: in the next turn. DEADLINE_NONE: lifted. */
void deadline_set(struct deadline *deadline, uint64_t due_ms);
static inline void deadline_lift(struct deadline *deadline)
{
    deadline->due_ms = DEADLINE_NONE;
}
/* The memory may go when `closed` is called. */
void deadline_close(struct deadline *deadline, void (*closed)(uv_handle_t *timer));
