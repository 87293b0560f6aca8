/* event.h - what a room of the control plane noticed, told to whoever keeps it. Rooms that tell know no journal. */
#pragma once
#include "common/span.h"

/* All borrowed until the sink returns. */
struct event {
    const char *kind;  /* "health", "breaker", "weights", "price", "node", "worker", "control": static */
    struct span where; /* the model, route or node that it is about */
    struct span what;  /* "is down", after `where` */
    struct span why;   /* or "" */
    struct span node;  /* who saw it; "": the control plane */
};
struct event_sink {
    void (*happened)(void *user, const struct event *event, int64_t now_ms);
    void *user;
};
/* sink may be NULL: nobody listens. */
static inline void event_tell(const struct event_sink *sink, int64_t now_ms, const struct event *event)
{
    if (sink)
        sink->happened(sink->user, event, now_ms);
}
