#include "common/log.h"
#include "dataplane/node/supervisor_internal.h"
#include <errno.h>
#include <signal.h>

/* Workers seek their master every 50 ms: those of a board that is gone come within this. */
#define ADOPT_LEAST_MS 150u

/* ---- a worker speaks for the first time, or again after we had lost it for a moment ---- */

static void say_drain(struct hub_peer *peer, uint64_t ms)
{
    hub_say(peer, &(struct control_message){ .kind = CONTROL_DRAIN, .ms = ms });
}

static void greet_in_slot(struct slot *slot, bool first)
{
    if (first)
        supervisor_take_back(slot);
    else
        supervisor_drop_all(slot);
    supervisor_lend_all(slot->supervisor);
    if (first)
        slot->supervisor->options.events.serving(slot->supervisor->options.events.user);
}

/* Another comes for one that leaves, outside of a roll. */
static void succeed(struct slot *slot)
{
    struct process *old = slot->process;
    slot->process = slot->next;
    slot->next = NULL;
    supervisor_holds_no_more(slot);
    if (old)
        supervisor_retire(old);
    greet_in_slot(slot, true);
}

static void greet(struct supervisor *s, struct process *p, struct hub_peer *peer, bool accepts)
{
    struct slot *slot = &s->slots[p->slot];
    const bool first = p->state == PROCESS_STARTING;
    p->peer = peer;
    hub_peer_set_user(peer, p);
    if (p->state == PROCESS_DRAINING && p->kill_ms == 0) { /* it comes late: nobody has told it so far */
        supervisor_retire(p);
        return;
    }
    if (p->state == PROCESS_DRAINING) {
        const uint64_t until_ms = supervisor_now(s) + SUPERVISOR_GRACE_MS;
        say_drain(peer, p->kill_ms > until_ms ? p->kill_ms - until_ms : 0);
        return;
    }
    if (!accepts) { /* it was told by a signal while nobody heard it */
        if (slot->process == p)
            supervisor_vacate(slot);
        return;
    }
    if (first)
        process_move(p, PROCESS_UP);
    if (slot->process == p)
        greet_in_slot(slot, first);
    else if (slot->next == p && !s->roll.active)
        succeed(slot);
    supervisor_roll_look(s);
}

/* ---- adoption ---- */

const char *supervisor_cannot_adopt(const struct supervisor *s, const struct control_message *hello)
{
    if (hello->layout != BOARD_LAYOUT)
        return "other layout of the board";
    if (s->settled || s->draining)
        return "too late";
    if (hello->slot >= NODE_WORKERS_MAX)
        return "no such slot";
    if (hello->region >= board_regions(s->options.board) ||
        !board_region_taken(s->options.board, (unsigned)hello->region) ||
        atomic_load(&board_region(s->options.board, (unsigned)hello->region)->pid) != hello->pid)
        return "its region of the board is another's";
    return NULL;
}

/* It serves on in its slot when it listens where it should and is the only one there; else it drains. */
static bool adopt(struct supervisor *s, struct hub_peer *peer, const struct control_message *hello,
                  struct control_fds *fds)
{
    const unsigned number = (unsigned)hello->slot;
    const bool fits = fds->count > 0 && number < s->slot_count && !s->slots[number].process &&
                      listening_adopt(&s->listening, number, fds);
    struct process *p = supervisor_note(s, &(struct heritage_process){ .pid = hello->pid,
                                                                       .slot = number,
                                                                       .region = (unsigned)hello->region,
                                                                       .generation = s->generation,
                                                                       .state = PROCESS_UP,
                                                                       .adopted = true,
                                                                       .in_slot = fits });
    if (!p)
        return false;
    p->peer = peer;
    hub_peer_set_user(peer, p);
    log_info("worker.adopted", LOG_U64("slot", number), LOG_U64("pid", p->pid),
             LOG_STR("as", fits ? "up" : "draining"));
    if (!fits)
        supervisor_retire(p);
    return true;
}

void supervisor_hello(void *user, struct hub_peer *peer, const struct control_message *hello, struct control_fds *fds)
{
    struct supervisor *s = user;
    struct process *known = supervisor_process(s, hello->pid);
    if (known) {
        const bool accepts = fds->count > 0;
        control_fds_close(fds);
        greet(s, known, peer, accepts);
        return;
    }
    const char *why = supervisor_cannot_adopt(s, hello);
    if (!why && !adopt(s, peer, hello, fds))
        why = "it cannot be watched";
    control_fds_close(fds);
    if (why) {
        log_warn("worker.refused", LOG_U64("pid", hello->pid), LOG_U64("slot", hello->slot), LOG_STR("why", why));
        say_drain(peer, s->options.config->limits.drain_ms);
        return;
    }
    supervisor_settle_on(&s->adoption);
}

/* ---- what another master left ---- */

void supervisor_inherit(struct supervisor *s, struct heritage *from)
{
    s->generation = from->generation;
    s->restarts = from->restarts;
    if (listening_keep(&s->listening, &from->listening))
        log_error("heritage.sockets", LOG_STR("why", strerror(errno)));
    listening_close(&from->listening); /* one that is wanted no more must not stay open in here */
    for (unsigned i = 0; i < from->process_count; i++) {
        struct heritage_process known = from->processes[i];
        if (from->layout != BOARD_LAYOUT) /* it counts on a board that is gone: what it has counted since is lost */
            known.region = PROCESS_NO_REGION;
        known.in_slot = known.in_slot && known.slot < s->slot_count;
        struct process *p = supervisor_note(s, &known);
        if (p && !known.in_slot && p->state != PROCESS_DRAINING)
            supervisor_retire(p);
    }
}

static struct process *of_region(const struct supervisor *s, unsigned region)
{
    struct process *p = s->processes;
    while (p && p->region != region)
        p = p->next;
    return p;
}

/* A region whose worker is still on its way to us, or ended while there was no master. */
static bool orphan(const struct supervisor *s, unsigned region, bool *ret_runs)
{
    struct board *board = s->options.board;
    if (!board_region_taken(board, region) || of_region(s, region))
        return false;
    *ret_runs = process_is_worker(atomic_load(&board_region(board, region)->pid));
    return true;
}

static bool expects_more(const struct supervisor *s)
{
    bool runs;
    for (unsigned i = 0; i < board_regions(s->options.board); i++) {
        if (orphan(s, i, &runs) && runs)
            return true;
    }
    return false;
}

/* One that runs and has not come keeps its region, and drains when it comes: the slots are filled without it. */
static void settle_regions(struct supervisor *s)
{
    bool runs;
    for (unsigned i = 0; i < board_regions(s->options.board); i++) {
        if (!orphan(s, i, &runs))
            continue;
        const struct heritage_process stray = { .pid = atomic_load(&board_region(s->options.board, i)->pid),
                                                .region = i,
                                                .state = PROCESS_DRAINING,
                                                .adopted = true };
        if (!runs || !supervisor_note(s, &stray))
            supervisor_region_ended(s, i, false);
    }
}

static void settle(struct supervisor *s)
{
    char text[LISTENING_TEXT_BYTES];
    struct listening_fault fault;
    s->settled = true;
    uv_timer_stop(&s->adoption);
    /* Workers of before may share the port with us. */
    const enum err err = listening_open(&s->listening, s->options.passed, s->hub.count == 0 && !s->processes, &fault);
    if (err) {
        log_error("node.listen", LOG_STR("address", listening_text(&s->listening.lines[fault.line], text)),
                  LOG_ERR(err), LOG_STR("hint", fault.hint));
        s->options.events.failed(s->options.events.user);
        return;
    }
    settle_regions(s);
    s->options.events.listening(s->options.events.user);
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (!s->slots[i].process)
            supervisor_fill(&s->slots[i]);
    }
}

void supervisor_settle_on(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    const uint64_t passed = supervisor_now(s) - s->begun_ms;
    if (s->settled || s->draining)
        return;
    if (s->options.heritage || !s->options.successor || passed >= SUPERVISOR_ADOPT_MS ||
        (passed >= ADOPT_LEAST_MS && !expects_more(s)))
        settle(s);
}
