#include "dataplane/worker/deadline.h"

static void arm(struct deadline *deadline, uint64_t due_ms);

static void on_timer(uv_timer_t *timer)
{
    struct deadline *deadline = CONTAINER_OF(timer, struct deadline, timer);
    uint64_t now_ms = uv_now(timer->loop);
    deadline->armed_ms = DEADLINE_NONE;
    if (deadline->due_ms == DEADLINE_NONE)
        return;
    if (deadline->due_ms > now_ms) {
        arm(deadline, deadline->due_ms);
        return;
    }
    deadline->due_ms = DEADLINE_NONE;
    deadline->passed(deadline);
}

static void arm(struct deadline *deadline, uint64_t due_ms)
{
    uint64_t now_ms = uv_now(deadline->timer.loop);
    deadline->armed_ms = due_ms;
    /* Fails only for a handle that is being closed, which is the caller's promise. */
    REQUIRE(uv_timer_start(&deadline->timer, on_timer, due_ms > now_ms ? due_ms - now_ms : 0, 0) == 0);
}

void deadline_init(struct deadline *deadline, uv_loop_t *loop, void (*passed)(struct deadline *deadline))
{
    REQUIRE(uv_timer_init(loop, &deadline->timer) == 0);
    deadline->due_ms = DEADLINE_NONE;
    deadline->armed_ms = DEADLINE_NONE;
    deadline->passed = passed;
}

void deadline_set(struct deadline *deadline, uint64_t due_ms)
{
    deadline->due_ms = due_ms;
    if (due_ms < deadline->armed_ms)
        arm(deadline, due_ms);
}

void deadline_close(struct deadline *deadline, void (*closed)(uv_handle_t *timer))
{
    deadline->due_ms = DEADLINE_NONE;
    uv_close((uv_handle_t *)&deadline->timer, closed);
}
