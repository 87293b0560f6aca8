/* lane.h - what a lane (curl, direct, a test's script) implements behind upstream.h. Included by upstream.c and by the
 * lanes only.
 *
 * A lane's own struct begins with struct upstream_lane, each of its tries with struct upstream; upstream.c dispatches
 * through `ops`, whose functions obey the contracts of upstream.h (a lane sets base.lane of each try before start
 * returns it). upstream_cancel(NULL) never reaches a lane. */
#pragma once
#include "common/fault.h"
#include "dataplane/upstream/upstream.h"

struct upstream_ops {
    MUST_CHECK enum err (*start)(struct upstream_lane *lane, const struct upstream_request *request,
                                 const struct upstream_events *events, void *user, struct upstream **ret);
    void (*pause)(struct upstream *upstream);
    void (*resume)(struct upstream *upstream);
    void (*cancel)(struct upstream *upstream);
    enum upstream_phase (*phase)(const struct upstream *upstream);
    size_t (*buffered)(const struct upstream *upstream);
    bool (*release_body)(struct upstream *upstream); /* NULL: never (the lane reads body_parts until the end) */
    void (*stats)(const struct upstream_lane *lane, struct upstream_lane_stats *ret);
    void (*keep_idle)(struct upstream_lane *lane, unsigned most); /* from now on; NULL: there is no pool */
    void (*close)(struct upstream_lane *lane);
};
struct upstream_lane {
    const struct upstream_ops *ops;
};
struct upstream {
    struct upstream_lane *lane;
};

/* For options: they outlive nothing. NULL stays NULL. False: no memory. */
static inline bool upstream_copy_text(const char *text, char **ret)
{
    const size_t bytes = text ? strlen(text) + 1 : 0;
    *ret = text ? fault_malloc(bytes) : NULL;
    if (*ret)
        memcpy(*ret, text, bytes);
    return *ret || !text;
}
