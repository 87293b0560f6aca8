#include "dataplane/node/watchdog.h"
#include "common/buf.h"
#include "common/file.h"
#include "common/log.h"
#include <unistd.h>

#define PROC_BYTES_MAX 4096u

const char *watchdog_verdict_name(enum watchdog_verdict verdict)
{
    static const char *const names[WATCHDOG_VERDICTS] = { "turns", "waits", "starved", "spins", "blocked", "stopped" };
    return names[verdict];
}

static bool is_asleep(char state)
{
    return state == 'S' || state == 'D' || state == 'I';
}

enum watchdog_verdict watchdog_judge(const struct watchdog_sight *turned, const struct watchdog_sight *last,
                                     const struct watchdog_sight *now, uint64_t now_ms, uint64_t limit_ms)
{
    if (limit_ms == 0 || now->turned_ms == 0 || now_ms < now->turned_ms || now_ms - now->turned_ms < limit_ms)
        return WATCHDOG_TURNS;
    if (now->state != 'R' && now->state != 'T' && !is_asleep(now->state))
        return WATCHDOG_TURNS;
    if (now->turned_ms != last->turned_ms || now->turned_ms != turned->turned_ms)
        return WATCHDOG_WAITS;
    if (now->state == 'T')
        return last->state == 'T' ? WATCHDOG_STOPPED : WATCHDOG_WAITS;
    if (now->cpu_ms - turned->cpu_ms >= limit_ms)
        return WATCHDOG_SPINS;
    if (now->state == 'R')
        return WATCHDOG_STARVED;
    /* Awake between the looks, or woken just now by a machine that stood still: the next look tells. */
    return is_asleep(last->state) && now->cpu_ms == last->cpu_ms ? WATCHDOG_BLOCKED : WATCHDOG_WAITS;
}

enum err watchdog_parse_stat(struct span text, uint64_t ticks_per_second, struct watchdog_sight *ret)
{
    struct span word;
    uint64_t ticks[2] = { 0, 0 };
    size_t after = text.len;
    while (after > 0 && text.ptr[after - 1] != ')') /* the name in the parentheses may hold anything, proc(5) */
        after--;
    struct span rest = span_skip(text, after + 1);
    if (after == 0 || !span_split(&rest, ' ', &word) || word.len != 1)
        return ERR_SYNTAX;
    const char state = word.ptr[0];
    for (unsigned field = 4; field <= 15; field++) {
        if (!span_split(&rest, ' ', &word) || (field >= 14 && span_to_u64(word, &ticks[field - 14])))
            return ERR_SYNTAX;
    }
    ret->state = state;
    ret->cpu_ms = (ticks[0] + ticks[1]) * 1000 / ticks_per_second;
    return OK;
}

/* A file of /proc/PID; empty when it cannot be read. */
static void read_proc(uint64_t pid, const char *name, struct buf *out)
{
    char path[96];
    buf_clear(out);
    (void)snprintf(path, sizeof(path), "/proc/%llu/%s", (unsigned long long)pid, name);
    if (file_read(path, PROC_BYTES_MAX - 1, out))
        buf_clear(out);
}

static bool see(uint64_t pid, struct watchdog_sight *ret)
{
    struct buf text = BUF_INIT(PROC_BYTES_MAX);
    char name[48];
    const long ticks = sysconf(_SC_CLK_TCK);
    (void)snprintf(name, sizeof(name), "task/%llu/stat", (unsigned long long)pid); /* the loop's thread alone */
    read_proc(pid, name, &text);
    const bool seen = ticks > 0 && text.len > 0 && watchdog_parse_stat(buf_span(&text), (uint64_t)ticks, ret) == OK;
    buf_release(&text);
    return seen;
}

static struct span line_of(const struct buf *text)
{
    const struct span all = buf_span(text);
    return span_head(all, span_find_byte(all, '\n'));
}

/* A worker is stuck: what can be known of it goes into the log. */
static void accuse(const struct watchdog_subject *s, unsigned slot, uint64_t now_ms)
{
    struct buf wchan = BUF_INIT(PROC_BYTES_MAX), call = BUF_INIT(PROC_BYTES_MAX);
    read_proc(s->pid, "wchan", &wchan);
    read_proc(s->pid, "syscall", &call);
    log_error("worker.stuck", LOG_U64("slot", slot), LOG_U64("pid", s->pid),
              LOG_STR("how", watchdog_verdict_name(s->verdict)), LOG_U64("age_ms", now_ms - s->last.turned_ms),
              LOG_SPAN("wchan", line_of(&wchan)), LOG_SPAN("syscall", line_of(&call)));
    buf_release(&wchan);
    buf_release(&call);
    (void)kill((pid_t)s->pid, WATCHDOG_SIGNAL);
}

static void tell_starved(struct watchdog *w, struct watchdog_subject *s, unsigned slot, uint64_t now_ms)
{
    if (s->told_starved)
        return;
    s->told_starved = true;
    w->starved++;
    log_warn("worker.starved", LOG_U64("slot", slot), LOG_U64("pid", s->pid),
             LOG_U64("age_ms", now_ms - s->last.turned_ms), LOG_STR("hint", "more wants to run than this machine can"));
}

bool watchdog_look(struct watchdog *w, unsigned slot, uint64_t pid, uint64_t turned_ms, uint64_t now_ms,
                   uint64_t limit_ms, enum watchdog_verdict *ret_verdict, int *ret_signal)
{
    REQUIRE(slot < NODE_WORKERS_MAX);
    struct watchdog_subject *s = &w->subjects[slot];
    struct watchdog_sight now = { .turned_ms = turned_ms };
    /* Who turned just now costs nothing. */
    if (pid == 0 || now_ms < turned_ms + limit_ms / 4 || turned_ms == 0 || limit_ms == 0 || !see(pid, &now)) {
        *s = (struct watchdog_subject){ .pid = 0 };
        return false;
    }
    if (s->pid != pid ||
        s->turned.turned_ms != turned_ms) { /* one look proves nothing: the machine may have stood still */
        *s = (struct watchdog_subject){ .pid = pid, .turned = now, .last = now, .verdict = WATCHDOG_WAITS };
        return false;
    }
    const enum watchdog_verdict verdict = watchdog_judge(&s->turned, &s->last, &now, now_ms, limit_ms);
    s->last = now;
    if (s->asked_ms) { /* not taken back: who was asked was stuck, and a turn would have begun it anew */
        *ret_verdict = s->verdict;
        *ret_signal = s->verdict == WATCHDOG_SPINS && now_ms - s->asked_ms < 2 * limit_ms ? SIGABRT : SIGKILL;
        return now_ms - s->asked_ms >= WATCHDOG_PRINT_MS;
    }
    s->verdict = verdict;
    if (verdict == WATCHDOG_STARVED)
        tell_starved(w, s, slot, now_ms);
    if (verdict < WATCHDOG_SPINS)
        return false;
    w->stuck++;
    s->asked_ms = now_ms;
    accuse(s, slot, now_ms);
    return false;
}
