#include "dataplane/route/breaker.h"

/* The word: until_ms in the low 40 bits (end of the ejection or of the probe's lease), then 8 bits each of failures in
 * a row, ejections so far, and phase. */
enum phase { PHASE_CLOSED, PHASE_OPEN, PHASE_PROBING };
#define TIME_BITS 40
#define TIME_MASK ((UINT64_C(1) << TIME_BITS) - 1)

struct unpacked {
    uint64_t until_ms;
    unsigned in_row, ejections;
    unsigned phase;
};

static struct unpacked unpack(uint64_t word)
{
    return (struct unpacked){ .until_ms = word & TIME_MASK,
                              .in_row = (unsigned)(word >> TIME_BITS) & 0xff,
                              .ejections = (unsigned)(word >> (TIME_BITS + 8)) & 0xff,
                              .phase = (unsigned)(word >> (TIME_BITS + 16)) & 0xff };
}

static uint64_t pack(struct unpacked u)
{
    return (u.until_ms & TIME_MASK) | (uint64_t)u.in_row << TIME_BITS | (uint64_t)u.ejections << (TIME_BITS + 8) |
           (uint64_t)u.phase << (TIME_BITS + 16);
}

static uint64_t ejected(struct unpacked u, uint64_t now_ms)
{
    unsigned n = u.ejections < BREAKER_EJECTIONS_MAX ? u.ejections + 1 : BREAKER_EJECTIONS_MAX;
    return pack(
        (struct unpacked){ .until_ms = now_ms + (uint64_t)BREAKER_EJECT_MS * n, .ejections = n, .phase = PHASE_OPEN });
}

enum breaker_state breaker_state(uint64_t word, uint64_t now_ms)
{
    struct unpacked u = unpack(word);
    if (u.phase == PHASE_CLOSED)
        return BREAKER_CLOSED;
    if (now_ms >= u.until_ms)
        return BREAKER_HALF_OPEN;
    return u.phase == PHASE_OPEN ? BREAKER_OPEN : BREAKER_PROBING;
}

const char *breaker_state_name(enum breaker_state state)
{
    static const char *const names[] = { [BREAKER_CLOSED] = "closed",
                                         [BREAKER_OPEN] = "open",
                                         [BREAKER_HALF_OPEN] = "half_open",
                                         [BREAKER_PROBING] = "probing" };
    REQUIRE((size_t)state < ARRAY_LEN(names));
    return names[state];
}

uint64_t breaker_until_ms(uint64_t word)
{
    struct unpacked u = unpack(word);
    return u.phase == PHASE_CLOSED ? 0 : u.until_ms;
}

unsigned breaker_ejections(uint64_t word)
{
    return unpack(word).ejections;
}

static uint64_t after_failure(uint64_t word, uint64_t now_ms)
{
    struct unpacked u = unpack(word);
    if (u.phase != PHASE_CLOSED)
        return word;
    if (++u.in_row >= BREAKER_FAILURES_IN_ROW)
        return ejected(u, now_ms);
    return pack(u);
}

uint64_t breaker_after(uint64_t word, enum breaker_event event, uint64_t now_ms)
{
    struct unpacked u = unpack(word);
    switch (event) {
    case BREAKER_SUCCESS:
        if (u.phase == PHASE_CLOSED)
            u.in_row = 0;
        return pack(u);
    case BREAKER_FAILURE:
        return after_failure(word, now_ms);
    case BREAKER_RATE_BAD:
        return u.phase == PHASE_CLOSED ? ejected(u, now_ms) : word;
    case BREAKER_PROBE_START:
        if (u.phase == PHASE_CLOSED)
            return word;
        u.phase = PHASE_PROBING;
        u.until_ms = now_ms + BREAKER_PROBE_LEASE_MS;
        return pack(u);
    case BREAKER_PROBE_SUCCESS:
        /* Also one whose lease ran out: it is the newest thing known about the model. */
        return u.phase == PHASE_CLOSED ? word : pack((struct unpacked){ .ejections = u.ejections / 2 });
    case BREAKER_PROBE_FAILURE:
        return u.phase == PHASE_PROBING ? ejected(u, now_ms) : after_failure(word, now_ms);
    case BREAKER_PROBE_ABANDONED:
        if (u.phase != PHASE_PROBING)
            return word;
        u.phase = PHASE_OPEN;
        u.until_ms = now_ms & TIME_MASK; /* half-open from now on */
        return pack(u);
    case BREAKER_EVENTS:
        break;
    }
    REQUIRE(false && "a breaker event");
    return word;
}

/* The window: number of the half window in the low 32 bits, then totals and failures of this half and of the one
 * before, 8 bits each: a half that is full (255) stops counting, its rate is clear by then. */
#define HALF_MS   (BREAKER_WINDOW_MS / 2)
#define HALF_FULL 255u

struct window {
    uint32_t half;
    unsigned total[2], failed[2]; /* [0] now, [1] before */
};

static struct window window_at(uint64_t word, uint64_t now_ms)
{
    struct window w = { .half = (uint32_t)word,
                        .total = { (unsigned)(word >> 32) & 0xff, (unsigned)(word >> 48) & 0xff },
                        .failed = { (unsigned)(word >> 40) & 0xff, (unsigned)(word >> 56) & 0xff } };
    uint32_t half = (uint32_t)(now_ms / HALF_MS);
    if (half == w.half || half == w.half - 1) /* a colleague's clock reading may be a little older than its word */
        return w;
    if (half == w.half + 1)
        return (struct window){ .half = half, .total = { 0, w.total[0] }, .failed = { 0, w.failed[0] } };
    return (struct window){ .half = half };
}

uint64_t breaker_window_after(uint64_t window, bool failed, uint64_t now_ms)
{
    struct window w = window_at(window, now_ms);
    if (w.total[0] < HALF_FULL) {
        w.total[0]++;
        w.failed[0] += failed;
    }
    return w.half | (uint64_t)w.total[0] << 32 | (uint64_t)w.failed[0] << 40 | (uint64_t)w.total[1] << 48 |
           (uint64_t)w.failed[1] << 56;
}

bool breaker_window_bad(uint64_t window, uint64_t now_ms)
{
    struct window w = window_at(window, now_ms);
    unsigned total = w.total[0] + w.total[1];
    return total >= BREAKER_WINDOW_LEAST && (w.failed[0] + w.failed[1]) * 2 >= total;
}

/* Applies an event; returns the word before it, *ret_after the word after. */
static uint64_t apply(_Atomic uint64_t *word, enum breaker_event event, uint64_t now_ms, uint64_t *ret_after)
{
    uint64_t before = atomic_load_explicit(word, memory_order_relaxed);
    do {
        *ret_after = breaker_after(before, event, now_ms);
    } while (
        !atomic_compare_exchange_weak_explicit(word, &before, *ret_after, memory_order_relaxed, memory_order_relaxed));
    return before;
}

enum breaker_pass breaker_enter(_Atomic uint64_t *word, bool forced, uint64_t now_ms)
{
    uint64_t before = atomic_load_explicit(word, memory_order_relaxed);
    for (;;) {
        enum breaker_state state = breaker_state(before, now_ms);
        if (state == BREAKER_CLOSED)
            return BREAKER_PASS_ORDINARY;
        if (state == BREAKER_PROBING)
            return forced ? BREAKER_PASS_ORDINARY : BREAKER_PASS_REFUSED;
        if (state == BREAKER_OPEN && !forced)
            return BREAKER_PASS_REFUSED;
        uint64_t after = breaker_after(before, BREAKER_PROBE_START, now_ms);
        if (atomic_compare_exchange_weak_explicit(word, &before, after, memory_order_relaxed, memory_order_relaxed))
            return BREAKER_PASS_PROBE;
    }
}

bool breaker_record(_Atomic uint64_t *word, _Atomic uint64_t *window, bool failed, uint64_t now_ms)
{
    uint64_t seen = atomic_load_explicit(window, memory_order_relaxed), counted;
    do {
        counted = breaker_window_after(seen, failed, now_ms);
    } while (
        !atomic_compare_exchange_weak_explicit(window, &seen, counted, memory_order_relaxed, memory_order_relaxed));
    enum breaker_event event = !failed                               ? BREAKER_SUCCESS
                               : breaker_window_bad(counted, now_ms) ? BREAKER_RATE_BAD
                                                                     : BREAKER_FAILURE;
    uint64_t after;
    uint64_t before = apply(word, event, now_ms, &after);
    return unpack(before).phase == PHASE_CLOSED && unpack(after).phase != PHASE_CLOSED;
}

bool breaker_probe_end(_Atomic uint64_t *word, enum breaker_event event, uint64_t now_ms)
{
    REQUIRE(event == BREAKER_PROBE_SUCCESS || event == BREAKER_PROBE_FAILURE || event == BREAKER_PROBE_ABANDONED);
    uint64_t after;
    uint64_t before = apply(word, event, now_ms, &after);
    return (unpack(before).phase == PHASE_CLOSED) != (unpack(after).phase == PHASE_CLOSED);
}
