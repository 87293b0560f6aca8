/* Both lanes behind one: each try goes by the lane that its provider asks for. */
#include "common/fault.h"
#include "dataplane/upstream/lane.h"

struct choice {
    struct upstream_lane base; /* first */
    struct upstream_lane *curl, *direct;
    unsigned connections_max, idle_max;
    bool curl_used;
};

static const struct choice *choice_of(const struct upstream_lane *base)
{
    return (const struct choice *)(const void *)base;
}

static void choice_stats(const struct upstream_lane *base, struct upstream_lane_stats *ret)
{
    const struct choice *choice = choice_of(base);
    struct upstream_lane_stats curl;
    upstream_lane_stats(choice->curl, &curl);
    upstream_lane_stats(choice->direct, ret);
    ret->connects += curl.connects;
    ret->reused += curl.reused;
    ret->active += curl.active;
}

bool upstream_goes_direct(const struct provider *provider)
{
    const bool possible = provider->proxy.len == 0 && !provider->http2;
    return possible && provider->lane != LANE_CURL;
}

/* Most workers never need the curl lane: it has no share before it does. */
static void share_idle(struct choice *choice)
{
    const unsigned curls = choice->idle_max > 1 ? (choice->idle_max + 3) / 4 : 0;
    choice->curl_used = true;
    choice->curl->ops->keep_idle(choice->curl, curls);
    choice->direct->ops->keep_idle(choice->direct, choice->idle_max - curls);
}

/* The try that comes back knows its own lane: nothing but start goes through here. */
static enum err choice_start(struct upstream_lane *base, const struct upstream_request *request,
                             const struct upstream_events *events, void *user, struct upstream **ret)
{
    struct choice *choice = (struct choice *)(void *)base;
    struct upstream_lane_stats stats;
    choice_stats(base, &stats);
    if (stats.active >= choice->connections_max)
        return ERR_TOO_MANY;
    struct upstream_lane *lane = upstream_goes_direct(request->provider) ? choice->direct : choice->curl;
    if (lane == choice->curl && !choice->curl_used)
        share_idle(choice);
    return upstream_start(lane, request, events, user, ret);
}

static void choice_close(struct upstream_lane *base)
{
    struct choice *choice = (struct choice *)(void *)base;
    upstream_lane_close(choice->curl);
    upstream_lane_close(choice->direct);
    free(choice);
}

enum err upstream_lane_new(const struct upstream_lane_options *options, struct upstream_lane **ret)
{
    static const struct upstream_ops ops = { .start = choice_start, .stats = choice_stats, .close = choice_close };
    struct choice *choice = fault_calloc(1, sizeof(*choice));
    if (!choice)
        return ERR_NOMEM;
    choice->base.ops = &ops;
    choice->connections_max = options->connections_max;
    choice->idle_max = options->connections_idle_max;
    enum err err = direct_lane_new(options, &choice->direct);
    if (!err) {
        err = curl_lane_new(options, &choice->curl);
        if (err)
            upstream_lane_close(choice->direct);
    }
    if (err) {
        free(choice);
        return err;
    }
    *ret = &choice->base;
    return OK;
}
