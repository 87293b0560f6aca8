/* heard.h - a sink for tests: what was told, a line each, "kind where|what|why|node". */
#pragma once
#include "controlplane/journal/event.h"
#include <stdio.h>

struct heard {
    char text[4096];
    unsigned count;
};

static inline void heard_take(void *user, const struct event *e, int64_t now_ms)
{
    struct heard *heard = user;
    const size_t len = strlen(heard->text);
    (void)now_ms;
    (void)snprintf(heard->text + len, sizeof(heard->text) - len,
                   "%s " SPAN_FMT "|" SPAN_FMT "|" SPAN_FMT "|" SPAN_FMT "\n", e->kind, SPAN_ARG(e->where),
                   SPAN_ARG(e->what), SPAN_ARG(e->why), SPAN_ARG(e->node));
    heard->count++;
}

/* What was told since the last look. */
#define assert_heard(what, expected)                                                                                   \
    do {                                                                                                               \
        assert_string_equal((what)->text, expected);                                                                   \
        memset((what), 0, sizeof(*(what)));                                                                            \
    } while (0)
