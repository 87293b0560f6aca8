#include "dataplane/node/supervisor.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/node/supervisor_internal.h"
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#define ADOPT_LOOK_MS   10u
#define BACKOFF_MS      100u
#define OVERDUE_LOOK_MS 250u
#define WORKER_ARGS_MAX 64u /* our own, and what the master passes on: a --listen for each listener */
#define NUMBER_BYTES    16u

const char *slot_state_name(enum slot_state state)
{
    static const char *const names[SLOT_STATES] = { "empty", "starting", "up", "draining", "backing_off" };
    return names[state];
}

enum slot_state slot_state(const struct slot *slot)
{
    static const enum slot_state states[PROCESS_STATES] = {
        [PROCESS_STARTING] = SLOT_STARTING, [PROCESS_UP] = SLOT_UP, [PROCESS_DRAINING] = SLOT_DRAINING
    };
    if (slot->process)
        return states[slot->process->state];
    return slot->backing_off ? SLOT_BACKING_OFF : SLOT_EMPTY;
}

void supervisor_check_emptied(struct supervisor *s)
{
    if (!s->draining || s->emptied || s->closed || s->processes)
        return;
    s->emptied = true;
    s->options.events.emptied(s->options.events.user);
}

/* ---- the end of a process ---- */

/* How long the slot waits before its next process. */
static uint64_t backoff(struct slot *slot)
{
    const uint64_t now = supervisor_now(slot->supervisor);
    const uint64_t oldest = slot->crashes_ms[slot->crash_at]; /* SLOT_CRASHES_QUICK ends ago */
    slot->crashes_ms[slot->crash_at] = now;
    slot->crash_at = (slot->crash_at + 1) % ARRAY_LEN(slot->crashes_ms);
    if (oldest == 0 || now - oldest > SLOT_CRASHES_WITHIN_MS) {
        slot->backoffs = 0;
        return 0;
    }
    const uint64_t wait = (uint64_t)BACKOFF_MS << (slot->backoffs < 6 ? slot->backoffs : 6);
    slot->backoffs++;
    return wait < SLOT_BACKOFF_MS_MAX ? wait : SLOT_BACKOFF_MS_MAX;
}

static void on_backed_off(uv_timer_t *timer)
{
    struct slot *slot = timer->data;
    slot->backing_off = false;
    supervisor_fill(slot);
}

static void back_off(struct slot *slot, uint64_t ms)
{
    log_warn("worker.backoff", LOG_U64("slot", slot->number), LOG_U64("ms", ms));
    slot->backing_off = true;
    uv_timer_start(&slot->timer, on_backed_off, ms, 0);
    supervisor_lend(slot);
}

static void refill(struct slot *slot)
{
    struct supervisor *s = slot->supervisor;
    if (s->draining || s->closed || slot->number >= s->slot_count)
        return;
    const uint64_t wait = backoff(slot);
    if (wait == 0)
        supervisor_fill(slot);
    else
        back_off(slot, wait);
}

void supervisor_region_ended(struct supervisor *s, unsigned region, bool crashed)
{
    if (region == PROCESS_NO_REGION)
        return;
    s->options.events.ended(s->options.events.user, region, crashed);
    board_region_free(s->options.board, region);
}

static void unlink_process(struct process *p)
{
    struct supervisor *s = p->owner;
    struct process **at = &s->processes;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    if (p->peer)
        hub_peer_set_user(p->peer, NULL);
    p->peer = NULL;
}

static void log_end(const struct process *p, const struct process_end *end)
{
    const char *how = !end->known ? "adopted" : end->signal ? "signal" : "status";
    const int code = !end->known ? 1 : end->signal ? end->signal : end->status;
    if (p->state == PROCESS_DRAINING)
        log_info("worker.ended", LOG_U64("slot", p->slot), LOG_U64("pid", p->pid), LOG_I64(how, code));
    else
        log_error("worker.crashed", LOG_U64("slot", p->slot), LOG_U64("pid", p->pid), LOG_I64(how, code));
}

static void roll_fails_by(struct process *p, const struct process_end *end)
{
    char why[SUPERVISOR_WHY_BYTES], said[SUPERVISOR_WHY_BYTES - 128];
    process_said(p, said, sizeof(said));
    (void)snprintf(why, sizeof(why), "a new worker ended %s %d before all of them served%s%s",
                   end->signal ? "by signal" : "with status", end->signal ? end->signal : end->status,
                   said[0] ? ": " : "; its log tells why", said);
    supervisor_roll_fail(p->owner, why);
}

/* Accused is the table. Who is killed from outside accuses nobody; nor does one whose status is another's to know (its
 * replacement will show it), nor one that is new in more than its table. */
static void on_ended(struct process *p, const struct process_end *end)
{
    struct supervisor *s = p->owner;
    struct slot *slot = &s->slots[p->slot];
    const bool asked = p->state == PROCESS_DRAINING, rolls_in = slot->next == p;
    const bool accused = end->known && end->signal != SIGKILL && end->signal != SIGTERM && !asked && !rolls_in;
    log_end(p, end);
    unlink_process(p);
    s->restarts += !asked;
    supervisor_region_ended(s, p->region, accused);
    if (slot->process == p) {
        slot->process = NULL;
        refill(slot);
        supervisor_holds_no_more(slot);
    }
    if (rolls_in) {
        slot->next = NULL;
        roll_fails_by(p, end);
    }
    supervisor_roll_look(s); /* its region is free */
    supervisor_check_emptied(s);
}

/* ---- the start of one ---- */

struct arguments {
    const char *list[WORKER_ARGS_MAX];
    char slot[NUMBER_BYTES], region[NUMBER_BYTES];
};

static void arguments(const struct supervisor_options *o, unsigned slot, unsigned region, const char *config_file,
                      struct arguments *ret)
{
    unsigned n = 0;
    (void)snprintf(ret->slot, sizeof(ret->slot), "%u", slot);
    (void)snprintf(ret->region, sizeof(ret->region), "%u", region);
    const char *const own[] = { "fairlead-dataplane", "--worker", "--slot",        ret->slot,       "--region",
                                ret->region,          "--home",   o->config->home, "--config-copy", config_file };
    for (; n < ARRAY_LEN(own); n++)
        ret->list[n] = own[n];
    for (const char *const *more = o->worker_args; *more; more++) {
        REQUIRE(n < WORKER_ARGS_MAX - 1);
        ret->list[n++] = *more;
    }
    ret->list[n] = NULL;
}

static void add_process(struct supervisor *s, struct process *p)
{
    p->owner = s;
    p->ended = on_ended;
    p->next = s->processes;
    s->processes = p;
}

enum err supervisor_launch(struct supervisor *s, unsigned slot, const struct listening *listening,
                           const char *config_file, unsigned generation, struct process **ret)
{
    struct process *p = fault_calloc(1, sizeof(*p));
    struct arguments args;
    struct control_fds fds;
    unsigned region = 0;
    enum err err = p ? board_region_take(s->options.board, &region) : ERR_NOMEM;
    if (err) {
        free(p);
        return err;
    }
    p->slot = slot;
    p->region = region;
    p->generation = generation;
    arguments(&s->options, slot, region, config_file, &args);
    listening_of(listening, slot, &fds);
    err = process_start(p, &(struct process_start){ .loop = s->options.loop, .args = args.list, .listeners = &fds });
    if (err) {
        board_region_free(s->options.board, region);
        free(p);
        return err;
    }
    /* The worker writes it, too. A master that follows a killed one must not give this region away meanwhile. */
    atomic_store(&board_region(s->options.board, region)->pid, p->pid);
    add_process(s, p);
    s->slots[slot].starts++;
    *ret = p;
    return OK;
}

struct process *supervisor_note(struct supervisor *s, const struct heritage_process *known)
{
    struct process *p = fault_calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->pid = known->pid;
    p->slot = known->slot;
    p->region = known->region;
    p->generation = known->generation;
    p->state = known->state;
    p->adopted = known->adopted;
    p->started_ms = known->started_ms;
    p->kill_ms = known->kill_ms;
    if (process_watch(p, s->options.loop)) {
        free(p);
        return NULL;
    }
    add_process(s, p);
    if (known->in_slot)
        s->slots[p->slot].process = p;
    return p;
}

struct process *supervisor_process(const struct supervisor *s, uint64_t pid)
{
    struct process *p = s->processes;
    while (p && p->pid != pid)
        p = p->next;
    return p;
}

/* The slot is empty and has its sockets. */
void supervisor_fill(struct slot *slot)
{
    struct supervisor *s = slot->supervisor;
    const enum err err =
        supervisor_launch(s, slot->number, &s->listening, s->options.config_file, s->generation, &slot->process);
    if (err) {
        log_error("worker.start", LOG_U64("slot", slot->number), LOG_ERR(err),
                  LOG_STR("hint", err == ERR_TOO_MANY ? "as many workers drain as there can be" : ""));
        back_off(slot, err == ERR_TOO_MANY ? BACKOFF_MS : SLOT_BACKOFF_MS_MAX);
    }
}

/* ---- one drains ---- */

static void retire_in(struct process *p, uint64_t ms)
{
    struct supervisor *s = p->owner;
    if (p->state != PROCESS_DRAINING)
        process_move(p, PROCESS_DRAINING);
    p->kill_ms = supervisor_now(s) + ms + SUPERVISOR_GRACE_MS;
    if (p->peer)
        hub_say(p->peer, &(struct control_message){ .kind = CONTROL_DRAIN, .ms = ms });
    else
        process_signal(p, SIGTERM); /* not connected now */
}

void supervisor_retire(struct process *p)
{
    const struct supervisor *s = p->owner;
    retire_in(p, s->draining ? s->drain_ms : s->options.config->limits.drain_ms);
}

void supervisor_vacate(struct slot *slot)
{
    struct supervisor *s = slot->supervisor;
    struct process *old = slot->process;
    slot->process = NULL;
    supervisor_retire(old);
    supervisor_holds_no_more(slot);
    if (!s->draining && !s->closed && slot->number < s->slot_count)
        supervisor_fill(slot);
}

/* It was told by a signal to leave: another is put in its place first. */
static void leave(struct slot *slot)
{
    struct supervisor *s = slot->supervisor;
    log_info("worker.leaving", LOG_U64("slot", slot->number), LOG_U64("pid", slot->process->pid));
    if (s->roll.active || s->draining || slot->number >= s->slot_count ||
        (!slot->next &&
         supervisor_launch(s, slot->number, &s->listening, s->options.config_file, s->generation, &slot->next)))
        supervisor_vacate(slot);
}

static void on_overdue(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    for (struct process *p = s->processes; p; p = p->next) {
        if (p->state != PROCESS_DRAINING || p->kill_ms == 0 || supervisor_now(s) < p->kill_ms)
            continue;
        log_error("worker.killed", LOG_U64("slot", p->slot), LOG_U64("pid", p->pid));
        process_signal(p, SIGKILL);
    }
}

/* ---- the hub ---- */

static void on_told(void *user, struct hub_peer *peer, const struct control_message *message)
{
    struct supervisor *s = user;
    struct process *p = hub_peer_user(peer);
    switch (message->kind) {
    case CONTROL_SERVING:
        s->options.events.serving(s->options.events.user);
        supervisor_roll_look(s);
        break;
    case CONTROL_BAD_TABLE:
        s->options.events.bad_table(s->options.events.user, &message->version, message->reason);
        break;
    case CONTROL_LEAVING:
        if (p && s->slots[p->slot].process == p && p->state == PROCESS_UP)
            leave(&s->slots[p->slot]);
        else if (p && p->state != PROCESS_DRAINING)
            supervisor_retire(p);
        break;
    case CONTROL_DRAINED:
        if (p && s->slots[p->slot].process == p && p->state == PROCESS_UP)
            supervisor_vacate(&s->slots[p->slot]); /* told by a signal while we were not there */
        break;
    case CONTROL_HELLO:
    case CONTROL_WAKE:
    case CONTROL_DRAIN:
    case CONTROL_ADOPT_LISTENER:
    case CONTROL_DROP_LISTENER:
        log_warn("hub.odd", LOG_U64("kind", message->kind));
        break;
    }
}

static void on_gone(void *user, struct hub_peer *peer)
{
    struct supervisor *s = user;
    struct process *p = hub_peer_user(peer);
    if (!p || p->peer != peer)
        return;
    p->peer = NULL;
    if (s->slots[p->slot].process == p)
        supervisor_holds_no_more(&s->slots[p->slot]);
}

static bool on_asked(void *user, struct hub_peer *peer, struct span line)
{
    struct supervisor *s = user;
    return s->options.events.asked(s->options.events.user, peer, line);
}

static void on_asker_gone(void *user, struct hub_peer *peer)
{
    struct supervisor *s = user;
    s->options.events.asker_gone(s->options.events.user, peer);
}

/* ---- from outside ---- */

static void init_timer(struct supervisor *s, uv_timer_t *timer, void *data)
{
    REQUIRE(uv_timer_init(s->options.loop, timer) == 0);
    timer->data = data;
}

enum err supervisor_open(struct supervisor *s, const struct supervisor_options *options)
{
    *s = (struct supervisor){ .options = *options, .slot_count = options->config->workers };
    const struct hub_events events = { .hello = supervisor_hello,
                                       .told = on_told,
                                       .gone = on_gone,
                                       .asked = on_asked,
                                       .asker_gone = on_asker_gone,
                                       .user = s };
    init_timer(s, &s->adoption, s);
    init_timer(s, &s->overdue, s);
    init_timer(s, &s->roll.timer, s);
    for (unsigned i = 0; i < NODE_WORKERS_MAX; i++) {
        s->slots[i] = (struct slot){ .supervisor = s, .number = i };
        init_timer(s, &s->slots[i].timer, &s->slots[i]);
    }
    listening_plan(&s->listening, options->config);
    const enum err err = hub_open(&s->hub, options->loop, options->hub_fd, &events);
    if (err)
        return err;
    if (options->heritage)
        supervisor_inherit(s, options->heritage);
    s->begun_ms = supervisor_now(s);
    uv_timer_start(&s->adoption, supervisor_settle_on, 0, ADOPT_LOOK_MS);
    uv_timer_start(&s->overdue, on_overdue, OVERDUE_LOOK_MS, OVERDUE_LOOK_MS);
    return OK;
}

void supervisor_wake(struct supervisor *s)
{
    hub_say_all(&s->hub, &(struct control_message){ .kind = CONTROL_WAKE });
}

void supervisor_drain(struct supervisor *s, uint64_t drain_ms)
{
    const bool again = s->draining;
    s->draining = true;
    s->drain_ms = drain_ms;
    supervisor_roll_fail(s, "the node is stopping");
    uv_timer_stop(&s->adoption);
    for (unsigned i = 0; i < NODE_WORKERS_MAX; i++) {
        s->slots[i].backing_off = false;
        uv_timer_stop(&s->slots[i].timer);
    }
    for (struct process *p = s->processes; p; p = p->next) {
        if (!again) {
            retire_in(p, drain_ms);
            continue;
        }
        process_signal(p, SIGTERM); /* a second time: at once */
        p->kill_ms = supervisor_now(s) + SUPERVISOR_GRACE_MS;
    }
    listening_close(&s->listening);
    supervisor_check_emptied(s);
}

void supervisor_replace(struct supervisor *s, unsigned slot, const char *why, int number)
{
    const struct process *p = slot < s->slot_count ? s->slots[slot].process : NULL;
    if (!p)
        return;
    log_error("worker.replaced", LOG_U64("slot", slot), LOG_U64("pid", p->pid), LOG_STR("why", why));
    process_signal(p, number);
}

unsigned supervisor_up(const struct supervisor *s)
{
    unsigned up = 0;
    for (unsigned i = 0; i < s->slot_count; i++)
        up += slot_state(&s->slots[i]) == SLOT_UP;
    return up;
}

struct board_region *supervisor_region(const struct supervisor *s, unsigned slot)
{
    const struct process *p = slot < s->slot_count ? s->slots[slot].process : NULL;
    if (!p || p->state != PROCESS_UP || p->region == PROCESS_NO_REGION)
        return NULL;
    return board_region(s->options.board, p->region);
}

uint64_t supervisor_watched(const struct supervisor *s, unsigned slot, uint64_t limit_ms, uint64_t *ret_turned_ms,
                            uint64_t *ret_limit_ms)
{
    const struct board_region *region = supervisor_region(s, slot);
    const struct process *p = slot < s->slot_count ? s->slots[slot].process : NULL;
    *ret_limit_ms = limit_ms;
    *ret_turned_ms = 0;
    if (region) {
        *ret_turned_ms = atomic_load(&region->counters[WORKER_LOOP_LAST_MS]);
        return p->pid;
    }
    if (!p || p->state != PROCESS_STARTING)
        return 0;
    *ret_turned_ms = p->started_ms;
    if (limit_ms && limit_ms < SUPERVISOR_START_MS)
        *ret_limit_ms = SUPERVISOR_START_MS;
    return p->pid;
}

unsigned supervisor_draining(const struct supervisor *s, uint64_t *ret_until_ms)
{
    unsigned count = 0;
    *ret_until_ms = 0;
    for (const struct process *p = s->processes; p; p = p->next) {
        if (p->state != PROCESS_DRAINING || s->slots[p->slot].process == p)
            continue;
        count++;
        if (p->kill_ms > SUPERVISOR_GRACE_MS + *ret_until_ms)
            *ret_until_ms = p->kill_ms - SUPERVISOR_GRACE_MS;
    }
    return count;
}

void supervisor_close(struct supervisor *s)
{
    if (s->closed)
        return;
    s->closed = true;
    hub_close(&s->hub);
    listening_close(&s->listening);
    if (s->roll.active)
        listening_close(&s->roll.listening);
    uv_close((uv_handle_t *)&s->adoption, NULL);
    uv_close((uv_handle_t *)&s->overdue, NULL);
    uv_close((uv_handle_t *)&s->roll.timer, NULL);
    for (unsigned i = 0; i < NODE_WORKERS_MAX; i++)
        uv_close((uv_handle_t *)&s->slots[i].timer, NULL);
    while (s->processes) {
        struct process *p = s->processes;
        s->processes = p->next;
        process_forget(p);
    }
}

static void describe(const struct supervisor *s, struct heritage *to)
{
    to->layout = BOARD_LAYOUT;
    to->generation = s->generation;
    to->restarts = s->restarts;
    for (const struct process *p = s->processes; p && to->process_count < NODE_REGIONS_MAX; p = p->next)
        to->processes[to->process_count++] = (struct heritage_process){ .pid = p->pid,
                                                                        .started_ms = p->started_ms,
                                                                        .kill_ms = p->kill_ms,
                                                                        .slot = p->slot,
                                                                        .region = p->region,
                                                                        .generation = p->generation,
                                                                        .state = p->state,
                                                                        .adopted = p->adopted,
                                                                        .in_slot = s->slots[p->slot].process == p };
}

enum err supervisor_leave(struct supervisor *s, struct heritage *to)
{
    REQUIRE(!s->roll.active);
    to->listening = s->listening; /* the plan: its sockets are duplicated */
    for (unsigned slot = 0; slot < NODE_WORKERS_MAX; slot++) {
        for (unsigned i = 0; i < NODE_LISTENERS_MAX; i++)
            to->listening.fds[slot][i] = -1;
    }
    to->hub_fd = fcntl(s->hub.fd, F_DUPFD_CLOEXEC, 3);
    if (to->hub_fd < 0 || listening_keep(&to->listening, &s->listening))
        return ERR_IO;
    describe(s, to);
    supervisor_close(s);
    return OK;
}
