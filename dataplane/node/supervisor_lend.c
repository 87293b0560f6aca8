#include "common/log.h"
#include "dataplane/node/supervisor_internal.h"
#include <limits.h>

static bool lends(const struct slot *slot)
{
    const struct supervisor *s = slot->supervisor;
    return slot->backing_off && !slot->lent_to && slot->number < s->slot_count && s->settled && !s->draining &&
           !s->closed;
}

/* One of another configuration might have other listeners. */
static bool can_hold(const struct slot *slot)
{
    const struct process *p = slot->process;
    return p && p->state == PROCESS_UP && p->peer && p->generation == slot->supervisor->generation;
}

void supervisor_lend(struct slot *slot)
{
    struct supervisor *s = slot->supervisor;
    struct slot *least = NULL;
    unsigned least_held = UINT_MAX;
    if (!lends(slot))
        return;
    for (unsigned i = 0; i < s->slot_count; i++) {
        unsigned held = 0;
        if (!can_hold(&s->slots[i]))
            continue;
        for (unsigned k = 0; k < s->slot_count; k++)
            held += s->slots[k].lent_to == &s->slots[i];
        if (held < least_held) {
            least = &s->slots[i];
            least_held = held;
        }
    }
    if (!least)
        return;
    const struct control_message message = { .kind = CONTROL_ADOPT_LISTENER, .slot = slot->number };
    struct control_fds fds;
    listening_of(&s->listening, slot->number, &fds);
    const enum err err = hub_say_fds(least->process->peer, &message, &fds);
    if (err) {
        log_warn("listener.lend", LOG_U64("slot", slot->number), LOG_U64("to", least->number), LOG_ERR(err));
        return;
    }
    slot->lent_to = least;
    log_info("listener.lent", LOG_U64("slot", slot->number), LOG_U64("to", least->number));
}

void supervisor_lend_all(struct supervisor *s)
{
    for (unsigned i = 0; i < s->slot_count; i++)
        supervisor_lend(&s->slots[i]);
}

static void drop_at(const struct slot *holder, const struct slot *slot)
{
    if (holder->process && holder->process->peer)
        hub_say(holder->process->peer,
                &(struct control_message){ .kind = CONTROL_DROP_LISTENER, .slot = slot->number });
}

void supervisor_take_back(struct slot *slot)
{
    if (slot->lent_to)
        drop_at(slot->lent_to, slot);
    slot->lent_to = NULL;
}

void supervisor_holds_no_more(struct slot *holder)
{
    struct supervisor *s = holder->supervisor;
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (s->slots[i].lent_to == holder)
            s->slots[i].lent_to = NULL;
    }
    supervisor_lend_all(s);
}

void supervisor_drop_all(struct slot *holder)
{
    struct supervisor *s = holder->supervisor;
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (s->slots[i].lent_to != holder && i != holder->number)
            drop_at(holder, &s->slots[i]);
    }
}
