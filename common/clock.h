/* clock.h - time, replaceable in tests. Monotonic time for durations, wall time for people and expiry. */
#pragma once
#include "common/base.h"
#include "common/span.h"

struct clock_source {
    uint64_t (*monotonic_ns)(void *user);
    int64_t (*wall_ms)(void *user); /* since 1970-01-01 UTC */
    void *user;
};

uint64_t clock_ns(void);     /* CLOCK_MONOTONIC */
uint64_t clock_ms(void);     /* the same in milliseconds */
int64_t clock_wall_ms(void); /* CLOCK_REALTIME */
/* Replaces the process's clock; NULL restores the system's. For tests and the simulator; not while threads run. */
void clock_replace(const struct clock_source *source);
/* "2026-11-22T09:48:00.123Z" into out (>= CLOCK_TEXT_BYTES), NUL-terminated; returns out. */
#define CLOCK_TEXT_BYTES 32
char *clock_format_wall(int64_t wall_ms, char *out);
/* RFC 3339 date or date-time, or "now". ERR_SYNTAX. */
MUST_CHECK enum err clock_parse_wall(struct span text, int64_t *ret_wall_ms);
