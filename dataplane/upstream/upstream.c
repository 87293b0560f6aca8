#include "dataplane/upstream/upstream.h"
#include "dataplane/upstream/lane.h"

enum err upstream_start(struct upstream_lane *lane, const struct upstream_request *request,
                        const struct upstream_events *events, void *user, struct upstream **ret)
{
    return lane->ops->start(lane, request, events, user, ret);
}

void upstream_pause(struct upstream *upstream)
{
    upstream->lane->ops->pause(upstream);
}

void upstream_resume(struct upstream *upstream)
{
    upstream->lane->ops->resume(upstream);
}

void upstream_cancel(struct upstream *upstream)
{
    if (upstream)
        upstream->lane->ops->cancel(upstream);
}

enum upstream_phase upstream_phase(const struct upstream *upstream)
{
    return upstream->lane->ops->phase(upstream);
}

size_t upstream_buffered(const struct upstream *upstream)
{
    return upstream->lane->ops->buffered(upstream);
}

bool upstream_release_body(struct upstream *upstream)
{
    bool (*release_body)(struct upstream *) = upstream->lane->ops->release_body;
    return release_body && release_body(upstream);
}

void upstream_lane_stats(const struct upstream_lane *lane, struct upstream_lane_stats *ret)
{
    lane->ops->stats(lane, ret);
}

void upstream_lane_close(struct upstream_lane *lane)
{
    lane->ops->close(lane);
}
