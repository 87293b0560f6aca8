#include "common/log.h"
#include "dataplane/node/supervisor_internal.h"

#define LOOK_MS 20u /* a worker is up within some tens of milliseconds; it is polled for what it does not say */

static bool ready(const struct supervisor *s, const struct process *p)
{
    return p && p->state == PROCESS_UP &&
           s->options.events.current(s->options.events.user, board_region(s->options.board, p->region));
}

static void say(struct supervisor *s, const char *waits)
{
    s->options.events.rolling(s->options.events.user, s->roll.at, s->roll.listening.slots, waits);
}

static void end_roll(struct supervisor *s)
{
    s->roll.active = false;
    uv_timer_stop(&s->roll.timer);
}

/* What the new ones have accepted they finish. */
void supervisor_roll_fail(struct supervisor *s, const char *why)
{
    if (!s->roll.active)
        return;
    end_roll(s);
    for (unsigned i = 0; i < NODE_WORKERS_MAX; i++) {
        if (s->slots[i].next)
            supervisor_retire(s->slots[i].next);
        s->slots[i].next = NULL;
    }
    listening_close(&s->roll.listening);
    log_error("roll.failed", LOG_STR("why", why));
    s->options.events.rolled(s->options.events.user, why);
}

/* All the new ones serve. Sockets that are no more are closed last: by then the old workers know. */
static void commit(struct supervisor *s)
{
    struct listening before = s->listening;
    const unsigned slots = s->slot_count > s->roll.listening.slots ? s->slot_count : s->roll.listening.slots;
    end_roll(s);
    s->listening = s->roll.listening;
    s->options.config = s->roll.config;
    s->generation++;
    for (unsigned i = 0; i < slots; i++) {
        struct slot *slot = &s->slots[i];
        struct process *old = slot->process;
        slot->process = slot->next;
        slot->next = NULL;
        slot->lent_to = NULL;
        slot->backing_off = false;
        uv_timer_stop(&slot->timer);
        if (old)
            supervisor_retire(old);
    }
    s->slot_count = s->listening.slots;
    listening_unlink(&before, &s->listening);
    listening_close(&before);
    log_info("roll.done", LOG_U64("workers", s->slot_count), LOG_U64("generation", s->generation));
    s->options.events.serving(s->options.events.user);
    s->options.events.rolled(s->options.events.user, NULL);
}

/* False: not now, or never. */
static bool start_next(struct supervisor *s)
{
    char why[SUPERVISOR_WHY_BYTES];
    struct roll *roll = &s->roll;
    const enum err err = supervisor_launch(s, roll->at, &roll->listening, roll->config_file, s->generation + 1,
                                           &s->slots[roll->at].next);
    if (err == ERR_TOO_MANY) {
        if (!roll->waiting)
            say(s, "as many workers drain as there can be: waiting for one of them to end");
        roll->waiting = true;
        return false;
    }
    if (err) {
        (void)snprintf(why, sizeof(why), "a worker cannot be started: %s", err_name(err));
        supervisor_roll_fail(s, why);
        return false;
    }
    roll->waiting = false;
    roll->deadline_ms = supervisor_now(s) + SUPERVISOR_START_MS;
    return true;
}

void supervisor_roll_look(struct supervisor *s)
{
    struct roll *roll = &s->roll;
    while (roll->active && roll->at < roll->listening.slots) {
        if (!s->slots[roll->at].next && !start_next(s))
            return;
        if (!ready(s, s->slots[roll->at].next)) {
            if (supervisor_now(s) > roll->deadline_ms)
                supervisor_roll_fail(s, "a new worker was not up in time; its log tells what it waits for");
            return;
        }
        roll->at++;
        say(s, NULL);
    }
    if (roll->active)
        commit(s);
}

static void on_look(uv_timer_t *timer)
{
    supervisor_roll_look(timer->data);
}

enum err supervisor_roll(struct supervisor *s, const struct node_config *config, const char *config_file,
                         char why[SUPERVISOR_WHY_BYTES])
{
    struct roll *roll = &s->roll;
    struct listening_fault fault = { .hint = "" };
    if (roll->active || s->draining || !s->settled) {
        (void)snprintf(why, SUPERVISOR_WHY_BYTES, "%s",
                       s->draining ? "the node is stopping" : "the workers are being replaced or adopted already");
        return ERR_CONFLICT;
    }
    listening_plan(&roll->listening, config);
    enum err err = listening_keep(&roll->listening, &s->listening);
    if (!err)
        err = listening_open(&roll->listening, s->options.passed, true, &fault);
    if (err) {
        (void)snprintf(why, SUPERVISOR_WHY_BYTES, "%s cannot be listened on: %s%s%s",
                       roll->listening.lines[fault.line].text, err_name(err), fault.hint[0] ? ": " : "", fault.hint);
        listening_close(&roll->listening);
        return err;
    }
    for (unsigned i = 0; i < NODE_WORKERS_MAX; i++) { /* one that came for a worker that leaves: this one will do */
        if (s->slots[i].next)
            supervisor_retire(s->slots[i].next);
        s->slots[i].next = NULL;
    }
    roll->active = true;
    roll->waiting = false;
    roll->config = config;
    roll->config_file = config_file;
    roll->at = 0;
    log_info("roll.begin", LOG_U64("workers", roll->listening.slots), LOG_U64("generation", s->generation + 1));
    uv_timer_start(&roll->timer, on_look, 0, LOOK_MS);
    return OK;
}
