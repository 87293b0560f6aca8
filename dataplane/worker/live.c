#include "dataplane/worker/live.h"

static bool resolved(const struct live *live, struct span name)
{
    if (!live->unresolved)
        return live->credentials && credentials_resolved(live->credentials, name);
    for (uint32_t i = 0; i < live->unresolved->count; i++)
        if (span_eq(live->unresolved->items[i], name))
            return false;
    return true;
}

void live_read(void *user, uint32_t model, struct select_live *ret)
{
    const struct live *live = user;
    const struct artifact *a = live->compiled->artifact;
    const struct provider *provider = &a->providers[a->models[model].provider];
    const uint32_t label = live->compiled->model_labels[model];
    struct board_model *shared = board_model(live->board, label);
    *ret = (struct select_live){
        .breaker = atomic_load_explicit(&shared->breaker, memory_order_relaxed),
        .cool_until_ms = live->cool_until_ms && label < MODELS_MAX ? live->cool_until_ms[label] : 0,
        .outstanding = board_inflight(live->board, label),
        .ttft_us = atomic_load_explicit(&shared->ttft_ewma_us, memory_order_relaxed),
    };
    if (provider->auth == AUTH_SCHEME_NONE)
        return;
    ret->no_credential = true;
    for (uint32_t i = 0; i < provider->credentials.count && ret->no_credential; i++)
        ret->no_credential = !resolved(live, provider->credentials.items[i]);
}
