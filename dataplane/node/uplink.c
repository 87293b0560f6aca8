#include "dataplane/node/uplink.h"
#include "common/arena.h"
#include "common/digest.h"
#include "common/log.h"
#include "dataplane/route/breaker.h"
#include "proto/wire.h"

#define UPLINK_TIMEOUT_MS 5000u
#define UPLINK_ARENA_MAX  ((size_t)256 << 20) /* 4,000 models with their histograms */
#define REMAINING_UNKNOWN 1000001u

/* All teams and routes of a model in one series. */
static void by_model(const struct uplink *u, struct tally *into)
{
    struct tally all = { .slots = NULL };
    const struct tally_series *s;
    tally_sum(&all, u->options.ended, u->options.board);
    for (uint32_t at = 0; (s = tally_each(&all, &at));) {
        struct tally_series *model = s->model == BOARD_OTHER ? NULL : tally_series(into, 0, 0, s->model);
        if (model)
            tally_merge_series(model, s);
    }
    tally_release(&all);
}

static uint32_t remaining(struct board_model *model, uint64_t now_ms)
{
    const uint32_t plus_1 = atomic_load_explicit(&model->remaining_ppm_plus_1, memory_order_relaxed);
    const uint64_t at_ms = atomic_load_explicit(&model->remaining_at_ms, memory_order_relaxed);
    return plus_1 == 0 || at_ms + UPLINK_REMAINING_MS < now_ms ? REMAINING_UNKNOWN : plus_1 - 1;
}

static bool tell_model(const struct uplink *u, struct arena *arena, const struct tally_series *now,
                       const struct tally_series *base, struct model_telemetry *t)
{
    const uint64_t now_ms = uv_now(u->options.loop);
    struct board_model *model = board_model(u->options.board, now->model);
#define SINCE(counter) (now->counters[counter] - base->counters[counter])
    *t = (struct model_telemetry){
        .model = board_label_name(u->options.board, BOARD_LABEL_MODEL, now->model),
        .attempts = SINCE(SERIES_ATTEMPTS),
        .failures = SINCE(SERIES_ATTEMPT_FAILURES),
        .timeouts = SINCE(SERIES_ATTEMPT_TIMEOUTS),
        .cancelled = SINCE(SERIES_CANCELLED),
        .input_tokens = SINCE(SERIES_TOKENS_INPUT),
        .output_tokens = SINCE(SERIES_TOKENS_OUTPUT),
        .cost_nano = SINCE(SERIES_COST_NANO),
        .ttft_count = now->ttft_us.count - base->ttft_us.count,
        .ttft_sum_us = now->ttft_us.sum - base->ttft_us.sum,
        .ttft_bucket_count = HIST_BUCKETS,
        .breaker_open = breaker_state(atomic_load(&model->breaker), now_ms) == BREAKER_OPEN,
        .remaining_ppm = remaining(model, now_ms),
    };
#undef SINCE
    t->ttft_buckets = ARENA_ARRAY(arena, HIST_BUCKETS, uint64_t);
    if (!t->ttft_buckets)
        return false;
    for (size_t i = 0; i < HIST_BUCKETS; i++)
        t->ttft_buckets[i] = now->ttft_us.buckets[i] - base->ttft_us.buckets[i];
    return true;
}

static enum err build(struct uplink *u, struct arena *arena, struct buf *out)
{
    struct tally now = { .slots = NULL };
    const struct tally_series *s;
    by_model(u, &now);
    struct evidence_report report = { .protocol = LINK_PROTOCOL,
                                      .source = EVIDENCE_FROM_NODE,
                                      .sender = span_cstr(u->options.config->name),
                                      .incarnation = span_cstr(u->incarnation),
                                      .seq = u->seq + 1,
                                      .worker_crashes = u->worker_crashes,
                                      .telemetry = ARENA_ARRAY(arena, now.count + 1, struct model_telemetry) };
    enum err err = report.telemetry ? OK : ERR_NOMEM;
    for (uint32_t at = 0; !err && (s = tally_each(&now, &at));) {
        const struct tally_series *base = tally_series(&u->baseline, 0, 0, s->model);
        if (!base || !tell_model(u, arena, s, base, &report.telemetry[report.telemetry_count++]))
            err = ERR_NOMEM;
    }
    if (!err)
        err = wire_encode_evidence_report(&report, out);
    tally_release(&now);
    return err;
}

static void on_done(void *user, enum err err, struct span bytes)
{
    struct uplink *u = user;
    struct arena arena;
    struct evidence_reply *reply;
    u->sending = false;
    if (u->closing)
        return;
    arena_init(&arena, UPLINK_ARENA_MAX);
    if (!err)
        err = wire_decode_evidence_reply(&arena, bytes, &reply);
    const bool taken = !err && span_empty(reply->error);
    if (!taken && (u->contact || !u->told))
        log_warn("uplink.unheard", LOG_STR("address", u->options.config->evidence), LOG_ERR(err),
                 LOG_SPAN("why", err ? SPAN("") : reply->error));
    u->contact = taken;
    u->told = true;
    arena_release(&arena);
}

static void on_timer(uv_timer_t *timer)
{
    struct uplink *u = timer->data;
    struct arena arena;
    struct buf out = BUF_INIT(FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES);
    if (u->sending || u->closing)
        return;
    arena_init(&arena, UPLINK_ARENA_MAX);
    enum err err = build(u, &arena, &out);
    if (!err)
        err = channel_send(u->client, buf_span(&out), UPLINK_TIMEOUT_MS, on_done, u);
    if (err) {
        log_warn("uplink.send", LOG_ERR(err));
    } else {
        u->seq++;
        u->sending = true;
    }
    buf_release(&out);
    arena_release(&arena);
}

static void wake(void *user)
{
    uv_async_send(user);
}

static void on_wake(uv_async_t *async)
{
    struct uplink *u = async->data;
    if (u->client)
        channel_client_dispatch(u->client);
}

enum err uplink_open(struct uplink *u, const struct uplink_options *options)
{
    *u = (struct uplink){ .options = *options };
    (void)random_id("m", 16, u->incarnation);
    REQUIRE(uv_async_init(options->loop, &u->wake, on_wake) == 0 && uv_timer_init(options->loop, &u->timer) == 0);
    u->wake.data = u->timer.data = u;
    by_model(u, &u->baseline);
    const struct channel_client_options client = {
        .address = options->config->evidence, .parallel = 1, .wake = wake, .wake_user = &u->wake
    };
    const enum err err = channel_client_open(&client, &u->client);
    if (err) {
        log_error("uplink.open", LOG_STR("address", options->config->evidence), LOG_ERR(err));
        return err;
    }
    uv_timer_start(&u->timer, on_timer, UPLINK_EVERY_MS, UPLINK_EVERY_MS);
    return OK;
}

void uplink_close(struct uplink *u)
{
    if (u->closing || !u->options.loop)
        return;
    u->closing = true;
    if (u->client)
        channel_client_close(u->client);
    u->client = NULL;
    tally_release(&u->baseline);
    uv_close((uv_handle_t *)&u->wake, NULL);
    uv_close((uv_handle_t *)&u->timer, NULL);
}
