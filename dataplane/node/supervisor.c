#include "dataplane/node/supervisor.h"
#include "common/fault.h"
#include "common/log.h"
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ADOPT_LOOK_MS 10u
/* Workers seek their master every 50 ms: those of a board that is gone come within this. */
#define ADOPT_LEAST_MS  150u
#define BACKOFF_MS      100u
#define WORKER_ARGS_MAX 24u

struct slot_process {  /* outlives the slot's interest: handles close later */
    struct slot *slot; /* NULL: nobody waits */
    bool child;
    uv_process_t process; /* a child of ours */
    uv_poll_t poll;       /* else: its pidfd */
    int pidfd;
};

const char *slot_state_name(enum slot_state state)
{
    static const char *const names[SLOT_STATES] = { "empty", "starting", "up", "draining", "backing_off" };
    return names[state];
}

/* Every change of a slot's state passes here. */
static void move(struct slot *slot, enum slot_state to)
{
    static const unsigned allowed[SLOT_STATES] = {
        [SLOT_EMPTY] = 1u << SLOT_STARTING | 1u << SLOT_UP | 1u << SLOT_BACKING_OFF,
        [SLOT_STARTING] = 1u << SLOT_UP | 1u << SLOT_EMPTY | 1u << SLOT_DRAINING,
        [SLOT_UP] = 1u << SLOT_EMPTY | 1u << SLOT_DRAINING,
        [SLOT_DRAINING] = 1u << SLOT_EMPTY,
        [SLOT_BACKING_OFF] = 1u << SLOT_EMPTY,
    };
    REQUIRE(allowed[slot->state] & 1u << to);
    slot->state = to;
}

static uint64_t now_ms(const struct supervisor *s)
{
    return uv_now(s->options.loop);
}

/* ---- the socket of a slot that backs off ---- */

static bool lends(const struct slot *slot)
{
    return slot->state == SLOT_BACKING_OFF && !slot->lent_to && slot->listener_fd >= 0 && !slot->supervisor->draining &&
           !slot->supervisor->closed;
}

/* To the sibling that holds the fewest. Without one that is up, it is lent when one comes. */
static void lend(struct slot *slot)
{
    struct supervisor *s = slot->supervisor;
    struct slot *least = NULL;
    unsigned least_held = UINT_MAX;
    if (!lends(slot))
        return;
    for (unsigned i = 0; i < s->slot_count; i++) {
        unsigned held = 0;
        if (s->slots[i].state != SLOT_UP || !s->slots[i].peer)
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
    const enum err err = hub_say_fd(least->peer, &message, slot->listener_fd);
    if (err) {
        log_warn("listener.lend", LOG_U64("slot", slot->number), LOG_U64("to", least->number), LOG_ERR(err));
        return;
    }
    slot->lent_to = least;
    log_info("listener.lent", LOG_U64("slot", slot->number), LOG_U64("to", least->number));
}

static void lend_all(struct supervisor *s)
{
    for (unsigned i = 0; i < s->slot_count; i++)
        lend(&s->slots[i]);
}

static void drop_at(const struct slot *holder, const struct slot *slot)
{
    if (holder->peer)
        hub_say(holder->peer, &(struct control_message){ .kind = CONTROL_DROP_LISTENER, .slot = slot->number });
}

static void take_back(struct slot *slot)
{
    if (slot->lent_to)
        drop_at(slot->lent_to, slot);
    slot->lent_to = NULL;
}

/* The worker of `holder` has ended, or its connection did: what it held is another's to hold. */
static void holds_no_more(struct slot *holder)
{
    struct supervisor *s = holder->supervisor;
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (s->slots[i].lent_to == holder)
            s->slots[i].lent_to = NULL;
    }
    lend_all(s);
}

/* ---- the end of a process ---- */

static void fill(struct slot *slot);

static void check_emptied(struct supervisor *s)
{
    if (!s->draining || s->emptied)
        return;
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (s->slots[i].pid)
            return;
    }
    s->emptied = true;
    s->options.events.emptied(s->options.events.user);
}

/* How long the slot waits before its next process. */
static uint64_t backoff(struct slot *slot)
{
    const uint64_t now = now_ms(slot->supervisor);
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
    move(slot, SLOT_EMPTY);
    fill(slot);
}

static void refill(struct slot *slot)
{
    struct supervisor *s = slot->supervisor;
    if (s->draining || s->closed)
        return;
    const uint64_t wait = backoff(slot);
    if (wait == 0) {
        fill(slot);
        return;
    }
    log_warn("worker.backoff", LOG_U64("slot", slot->number), LOG_U64("ms", wait));
    move(slot, SLOT_BACKING_OFF);
    uv_timer_start(&slot->timer, on_backed_off, wait, 0);
    lend(slot);
}

/* accused: it may have been the table. Who is killed from outside accuses nobody; nor does an adopted one, whose status
 * we cannot know (its replacement will show it). */
static void ended(struct slot *slot, const char *how, int64_t code, bool accused)
{
    struct supervisor *s = slot->supervisor;
    const bool asked = slot->state == SLOT_DRAINING;
    if (asked)
        log_info("worker.ended", LOG_U64("slot", slot->number), LOG_U64("pid", slot->pid), LOG_I64(how, code));
    else
        log_error("worker.crashed", LOG_U64("slot", slot->number), LOG_U64("pid", slot->pid), LOG_I64(how, code));
    if (slot->peer)
        hub_peer_set_user(slot->peer, NULL);
    slot->peer = NULL;
    slot->process = NULL;
    slot->pid = 0;
    slot->adopted = false;
    s->restarts += !asked;
    move(slot, SLOT_EMPTY);
    s->options.events.ended(s->options.events.user, slot->number, accused && !asked);
    refill(slot);
    holds_no_more(slot);
    check_emptied(s);
}

static void on_process_closed(uv_handle_t *handle)
{
    struct slot_process *p = handle->data;
    if (p->pidfd >= 0)
        (void)close(p->pidfd);
    free(p);
}

static void unwatch(struct slot_process *p)
{
    p->slot = NULL;
    uv_close(p->child ? (uv_handle_t *)&p->process : (uv_handle_t *)&p->poll, on_process_closed);
}

static void on_child_exit(uv_process_t *process, int64_t status, int number)
{
    struct slot_process *p = process->data;
    struct slot *slot = p->slot;
    unwatch(p);
    if (slot)
        ended(slot, number ? "signal" : "status", number ? number : status, number != SIGKILL && number != SIGTERM);
}

static void on_adopted_exit(uv_poll_t *poll, UNUSED int status, UNUSED int events)
{
    struct slot_process *p = poll->data;
    struct slot *slot = p->slot;
    unwatch(p);
    if (slot)
        ended(slot, "adopted", 1, false);
}

/* ---- the start of one ---- */

static void arguments(const struct slot *slot, char *number, size_t number_bytes, const char **args)
{
    const struct supervisor_options *o = &slot->supervisor->options;
    unsigned n = 0;
    (void)snprintf(number, number_bytes, "%u", slot->number);
    args[n++] = o->program;
    args[n++] = "--worker";
    args[n++] = "--slot";
    args[n++] = number;
    args[n++] = "--home";
    args[n++] = o->config->home;
    if (o->config->source) {
        args[n++] = "--config";
        args[n++] = o->config->source;
    }
    for (const char *const *more = o->worker_args; *more; more++) {
        REQUIRE(n < WORKER_ARGS_MAX - 1);
        args[n++] = *more;
    }
    args[n] = NULL;
}

static int spawn(struct slot *slot, struct slot_process *p)
{
    const struct supervisor_options *o = &slot->supervisor->options;
    const char *args[WORKER_ARGS_MAX];
    char number[16];
    uv_stdio_container_t stdio[CONTROL_LISTENER_FD + 1] = {
        { .flags = UV_IGNORE },
        { .flags = UV_INHERIT_FD, .data.fd = 1 },
        { .flags = UV_INHERIT_FD, .data.fd = 2 },
        [CONTROL_LISTENER_FD] = { .flags = UV_INHERIT_FD, .data.fd = slot->listener_fd },
    };
    arguments(slot, number, sizeof(number), args);
    const uv_process_options_t options = { .file = o->program,
                                           .args = (char **)(uintptr_t)args,
                                           .stdio = stdio,
                                           .stdio_count = ARRAY_LEN(stdio),
                                           .exit_cb = on_child_exit };
    p->process.data = p;
    return uv_spawn(o->loop, &p->process, &options);
}

/* The slot is empty and has its socket. */
static void fill(struct slot *slot)
{
    struct slot_process *p = fault_calloc(1, sizeof(*p));
    int rc = UV_ENOMEM;
    if (p) {
        p->slot = slot;
        p->child = true;
        p->pidfd = -1;
        rc = spawn(slot, p);
    }
    if (rc) {
        log_error("worker.spawn", LOG_U64("slot", slot->number), LOG_STR("why", uv_strerror(rc)));
        if (p)
            unwatch(p);
        move(slot, SLOT_BACKING_OFF);
        uv_timer_start(&slot->timer, on_backed_off, SLOT_BACKOFF_MS_MAX, 0);
        lend(slot);
        return;
    }
    slot->process = p;
    slot->pid = (uint64_t)p->process.pid;
    slot->starts++;
    move(slot, SLOT_STARTING);
}

/* ---- adoption ---- */

static const char *cannot_adopt(struct supervisor *s, const struct control_message *hello, int fd)
{
    struct address address;
    if (hello->layout != BOARD_LAYOUT)
        return "other layout of the board";
    if (s->settled || s->draining)
        return "too late";
    if (hello->slot >= s->slot_count)
        return "no such slot any more";
    if (s->slots[hello->slot].pid)
        return "the slot is taken";
    if (atomic_load(&board_region(s->options.board, (unsigned)hello->slot)->pid) != hello->pid)
        return "its region of the board is another's";
    if (fd < 0 || socket_address(fd, &address))
        return "without its socket";
    if (!address_agrees(&s->address, &address))
        return "listens elsewhere";
    return NULL;
}

static bool watch_adopted(struct slot *slot, uint64_t pid)
{
    struct slot_process *p = fault_calloc(1, sizeof(*p));
    if (!p)
        return false;
    p->slot = slot;
    p->pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (p->pidfd < 0 || uv_poll_init(slot->supervisor->options.loop, &p->poll, p->pidfd)) {
        if (p->pidfd >= 0)
            (void)close(p->pidfd);
        free(p);
        return false;
    }
    p->poll.data = p;
    uv_poll_start(&p->poll, UV_READABLE, on_adopted_exit);
    slot->process = p;
    return true;
}

static void look_at_adoption(uv_timer_t *timer);

/* A child of ours speaks: for the first time, or again after we had lost it for a moment. */
static void greet(struct slot *slot)
{
    struct supervisor *s = slot->supervisor;
    if (slot->state == SLOT_STARTING) {
        move(slot, SLOT_UP);
        take_back(slot);
    } else {
        for (unsigned i = 0; i < s->slot_count; i++) { /* it may hold what was lent elsewhere or taken back meanwhile */
            if (s->slots[i].lent_to != slot && i != slot->number)
                drop_at(slot, &s->slots[i]);
        }
    }
    lend_all(s);
}

static void on_hello(void *user, struct hub_peer *peer, const struct control_message *hello, int fd)
{
    struct supervisor *s = user;
    struct slot *slot = hello->slot < s->slot_count ? &s->slots[hello->slot] : NULL;
    if (slot && slot->pid == hello->pid) { /* known: our child, or one that lost us for a moment */
        if (fd >= 0)
            (void)close(fd);
        slot->peer = peer;
        hub_peer_set_user(peer, slot);
        greet(slot);
        if (slot->state == SLOT_DRAINING)
            hub_say(peer, &(struct control_message){ .kind = CONTROL_DRAIN, .ms = s->options.config->limits.drain_ms });
        return;
    }
    const char *why = cannot_adopt(s, hello, fd);
    if (!why && !watch_adopted(slot, hello->pid))
        why = "it cannot be watched";
    if (why) {
        if (fd >= 0)
            (void)close(fd);
        log_warn("worker.refused", LOG_U64("pid", hello->pid), LOG_U64("slot", hello->slot), LOG_STR("why", why));
        hub_say(peer, &(struct control_message){ .kind = CONTROL_DRAIN, .ms = s->options.config->limits.drain_ms });
        return;
    }
    struct address address;
    if (address_port(&s->address) == 0 && socket_address(fd, &address) == OK)
        s->address = address; /* all slots share the port that the system chose then */
    slot->listener_fd = fd;
    slot->pid = hello->pid;
    slot->adopted = true;
    slot->peer = peer;
    hub_peer_set_user(peer, slot);
    move(slot, SLOT_UP);
    log_info("worker.adopted", LOG_U64("slot", slot->number), LOG_U64("pid", slot->pid));
    look_at_adoption(&s->adoption);
}

static void on_told(void *user, struct hub_peer *peer, const struct control_message *message)
{
    struct supervisor *s = user;
    switch (message->kind) {
    case CONTROL_SERVING:
        s->options.events.serving(s->options.events.user);
        break;
    case CONTROL_BAD_TABLE:
        s->options.events.bad_table(s->options.events.user, &message->version, message->reason);
        break;
    case CONTROL_DRAINED:
        if (hub_peer_user(peer)) {
            struct slot *slot = hub_peer_user(peer);
            if (slot->state == SLOT_UP)
                move(slot, SLOT_DRAINING); /* somebody told it by a signal */
        }
        break;
    case CONTROL_HELLO:
    case CONTROL_WAKE:
    case CONTROL_DRAIN:
    case CONTROL_RELOAD:
    case CONTROL_ADOPT_LISTENER:
    case CONTROL_DROP_LISTENER:
        log_warn("hub.odd", LOG_U64("kind", message->kind));
        break;
    }
}

static void on_gone(UNUSED void *user, struct hub_peer *peer)
{
    struct slot *slot = hub_peer_user(peer);
    if (slot && slot->peer == peer) {
        slot->peer = NULL;
        holds_no_more(slot);
    }
}

static const char *hint_of(enum err err)
{
    switch (err) {
    case ERR_EXISTS:
        return "another program listens there: stop it, or choose another address with --listen";
    case ERR_DENIED:
        return "this user may not listen there: choose a port from 1024 on, or give the capability";
    case ERR_NOT_FOUND:
        return "this machine has no such address";
    default:
        return "";
    }
}

static enum err open_sockets(struct supervisor *s)
{
    bool exclusive = s->hub.count == 0; /* workers of before share the port with us */
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (s->slots[i].listener_fd >= 0)
            continue;
        const enum err err = socket_listen(&s->address, exclusive, &s->slots[i].listener_fd);
        if (err) {
            char text[ADDRESS_TEXT_BYTES];
            log_error("node.listen", LOG_STR("address", address_format(&s->address, text)), LOG_ERR(err),
                      LOG_STR("hint", hint_of(err)));
            return err;
        }
        exclusive = false;
    }
    return OK;
}

static bool alive(uint64_t pid)
{
    return pid != 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

/* Is a worker of the board still on its way to us? */
static bool expects_more(const struct supervisor *s)
{
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (!s->slots[i].pid && alive(atomic_load(&board_region(s->options.board, i)->pid)))
            return true;
    }
    return false;
}

static void settle(struct supervisor *s)
{
    s->settled = true;
    uv_timer_stop(&s->adoption);
    if (open_sockets(s)) {
        s->options.events.failed(s->options.events.user);
        return;
    }
    for (unsigned i = 0; i < board_slots(s->options.board); i++) {
        const bool taken = i < s->slot_count && s->slots[i].pid;
        if (!taken && atomic_load(&board_region(s->options.board, i)->pid))
            s->options.events.ended(s->options.events.user, i, false); /* it ended while there was no master */
    }
    s->options.events.listening(s->options.events.user, &s->address);
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (!s->slots[i].pid)
            fill(&s->slots[i]);
    }
}

static void look_at_adoption(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    const uint64_t passed = now_ms(s) - s->begun_ms;
    if (s->settled || s->draining)
        return;
    if (!s->options.successor || passed >= SUPERVISOR_ADOPT_MS || (passed >= ADOPT_LEAST_MS && !expects_more(s)))
        settle(s);
}

/* ---- from outside ---- */

enum err supervisor_open(struct supervisor *s, const struct supervisor_options *options)
{
    *s = (struct supervisor){ .options = *options, .slot_count = options->config->workers };
    const struct hub_events events = { .hello = on_hello, .told = on_told, .gone = on_gone, .user = s };
    enum err err = address_parse(span_cstr(options->config->listen), &s->address);
    REQUIRE(err == OK); /* the configuration was checked */
    REQUIRE(uv_timer_init(options->loop, &s->adoption) == 0 && uv_timer_init(options->loop, &s->deadline) == 0);
    s->adoption.data = s->deadline.data = s;
    for (unsigned i = 0; i < s->slot_count; i++) {
        struct slot *slot = &s->slots[i];
        *slot = (struct slot){ .supervisor = s, .number = i, .listener_fd = -1 };
        REQUIRE(uv_timer_init(options->loop, &slot->timer) == 0);
        slot->timer.data = slot;
    }
    err = hub_open(&s->hub, options->loop, options->hub_fd, &events);
    if (err)
        return err;
    s->begun_ms = now_ms(s);
    uv_timer_start(&s->adoption, look_at_adoption, 0, ADOPT_LOOK_MS);
    return OK;
}

void supervisor_wake(struct supervisor *s)
{
    hub_say_all(&s->hub, &(struct control_message){ .kind = CONTROL_WAKE });
}

void supervisor_reload(struct supervisor *s)
{
    hub_say_all(&s->hub, &(struct control_message){ .kind = CONTROL_RELOAD });
}

static void on_deadline(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (s->slots[i].pid) {
            log_error("worker.killed", LOG_U64("slot", i), LOG_U64("pid", s->slots[i].pid));
            (void)kill((pid_t)s->slots[i].pid, SIGKILL);
        }
    }
}

static void close_listeners(struct supervisor *s)
{
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (s->slots[i].listener_fd >= 0)
            (void)close(s->slots[i].listener_fd);
        s->slots[i].listener_fd = -1;
    }
}

void supervisor_drain(struct supervisor *s, uint64_t drain_ms)
{
    const bool again = s->draining;
    s->draining = true;
    uv_timer_stop(&s->adoption);
    for (unsigned i = 0; i < s->slot_count; i++) {
        struct slot *slot = &s->slots[i];
        if (slot->state == SLOT_BACKING_OFF) {
            uv_timer_stop(&slot->timer);
            move(slot, SLOT_EMPTY);
        }
        if (!slot->pid)
            continue;
        if (slot->state != SLOT_DRAINING)
            move(slot, SLOT_DRAINING);
        if (slot->peer && !again)
            hub_say(slot->peer, &(struct control_message){ .kind = CONTROL_DRAIN, .ms = drain_ms });
        else
            (void)kill((pid_t)slot->pid, SIGTERM); /* not connected yet; or a second time: at once */
    }
    close_listeners(s);
    uv_timer_start(&s->deadline, on_deadline, again ? SUPERVISOR_GRACE_MS : drain_ms + SUPERVISOR_GRACE_MS,
                   SUPERVISOR_GRACE_MS);
    check_emptied(s);
}

unsigned supervisor_up(const struct supervisor *s)
{
    unsigned up = 0;
    for (unsigned i = 0; i < s->slot_count; i++)
        up += s->slots[i].state == SLOT_UP;
    return up;
}

bool supervisor_slot_up(const struct supervisor *s, unsigned slot)
{
    return slot < s->slot_count && s->slots[slot].state == SLOT_UP;
}

void supervisor_close(struct supervisor *s)
{
    if (s->closed)
        return;
    s->closed = true;
    hub_close(&s->hub);
    close_listeners(s);
    uv_close((uv_handle_t *)&s->adoption, NULL);
    uv_close((uv_handle_t *)&s->deadline, NULL);
    for (unsigned i = 0; i < s->slot_count; i++) {
        if (s->slots[i].process)
            unwatch(s->slots[i].process);
        s->slots[i].process = NULL;
        uv_close((uv_handle_t *)&s->slots[i].timer, NULL);
    }
}
