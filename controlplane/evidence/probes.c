#include "controlplane/evidence/probes.h"
#include "common/arena.h"
#include "common/fault.h"

struct probes {
    struct probe_state *items; /* sorted by name */
    uint32_t count, capacity;
};

enum err probes_new(struct probes **ret)
{
    struct probes *probes = fault_calloc(1, sizeof *probes);
    if (!probes)
        return ERR_NOMEM;
    *ret = probes;
    return OK;
}

void probes_free(struct probes *probes)
{
    if (!probes)
        return;
    for (uint32_t i = 0; i < probes->count; i++)
        free(probes->items[i].name);
    free(probes->items);
    free(probes);
}

/* Where the name stands, or where it would. */
static uint32_t place(const struct probes *probes, struct span name, bool *ret_there)
{
    uint32_t low = 0, high = probes->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = span_cmp(span_cstr(probes->items[mid].name), name);
        if (order == 0) {
            *ret_there = true;
            return mid;
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *ret_there = false;
    return low;
}

static enum err insert(struct probes *probes, uint32_t at, const char *name)
{
    if (probes->count == PROBES_KEPT_MAX)
        return ERR_TOO_MANY;
    if (probes->count == probes->capacity) {
        uint32_t capacity = probes->capacity ? 2 * probes->capacity : 16;
        struct probe_state *items = fault_realloc(probes->items, capacity * sizeof *items);
        if (!items)
            return ERR_NOMEM;
        probes->items = items;
        probes->capacity = capacity;
    }
    size_t bytes = strlen(name) + 1;
    char *copy = fault_malloc(bytes);
    if (!copy)
        return ERR_NOMEM;
    memcpy(copy, name, bytes);
    memmove(probes->items + at + 1, probes->items + at, (probes->count - at) * sizeof *probes->items);
    probes->items[at] = (struct probe_state){ .name = copy };
    probes->count++;
    return OK;
}

enum err probes_take(struct probes *probes, const struct probe_result *result, int64_t now_ms)
{
    char name[2 * NAME_BYTES_MAX + 2];
    bool there;
    /* A model comes as it is named in policies, "provider/model", or as what stands after the provider. */
    bool whole = result->model.len > result->provider.len && span_starts(result->model, result->provider) &&
                 result->model.ptr[result->provider.len] == '/';
    snprintf(name, sizeof name, SPAN_FMT "%s" SPAN_FMT, SPAN_ARG(whole ? SPAN("") : result->provider),
             whole || result->model.len == 0 ? "" : "/", SPAN_ARG(result->model));
    uint32_t at = place(probes, span_cstr(name), &there);
    if (!there) {
        enum err err = insert(probes, at, name);
        if (err)
            return err;
    }
    struct probe_state *s = &probes->items[at];
    int64_t at_ms = result->at_ms < now_ms ? result->at_ms : now_ms;
    if (there && at_ms <= s->at_ms && s->at_ms <= now_ms)
        return OK;
    bool turned = !there || (result->ok ? s->ok_streak == 0 : s->fail_streak == 0);
    s->ok_streak = result->ok ? s->ok_streak + 1 : 0;
    s->fail_streak = result->ok ? 0 : s->fail_streak + 1;
    s->at_ms = at_ms;
    s->since_ms = turned ? at_ms : s->since_ms;
    s->latency_us = result->latency_us;
    if (result->certificate_expires_at_ms > 0)
        s->certificate_expires_at_ms = result->certificate_expires_at_ms;
    snprintf(s->why, sizeof s->why, SPAN_FMT, SPAN_ARG(span_head(result->why, PROBE_WHY_BYTES_MAX)));
    return OK;
}

const struct probe_state *probes_find(const struct probes *probes, struct span name)
{
    bool there;
    uint32_t at = place(probes, name, &there);
    return there ? &probes->items[at] : NULL;
}

void probes_retain(struct probes *probes, bool (*keep)(void *user, struct span name), void *user)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < probes->count; i++) {
        if (keep(user, span_cstr(probes->items[i].name)))
            probes->items[kept++] = probes->items[i];
        else
            free(probes->items[i].name);
    }
    probes->count = kept;
}

/* ---- targets ---- */

static bool listed(const struct probe_target *targets, uint32_t count, struct span provider)
{
    for (uint32_t i = 0; i < count; i++) {
        if (span_eq(targets[i].provider, provider))
            return true;
    }
    return false;
}

static struct probe_target target_of(const struct provider *p)
{
    return (struct probe_target){ .provider = p->name,
                                  .base_url = p->base_url,
                                  /* Without a model there is nothing to complete: ask what costs nothing. */
                                  .how = p->probe == PROBE_HOW_COMPLETION && p->probe_model.len == 0 ? PROBE_HOW_MODELS
                                                                                                     : p->probe,
                                  .auth = p->auth,
                                  .path_style = p->path_style,
                                  .query = p->query,
                                  .credentials = p->credentials,
                                  .model = p->probe == PROBE_HOW_COMPLETION ? p->probe_model : SPAN(""),
                                  .every_ms = p->probe_every_ms,
                                  .timeout_ms = PROBE_TIMEOUT_MS,
                                  .proxy = p->proxy };
}

enum err probes_targets(struct arena *arena, const struct artifact *const *artifacts, uint32_t count,
                        struct probe_target **ret_targets, uint32_t *ret_count)
{
    uint32_t most = 0, n = 0;
    for (uint32_t i = 0; i < count; i++)
        most += artifacts[i]->provider_count;
    struct probe_target *targets = ARENA_ARRAY(arena, (size_t)most + 1, struct probe_target);
    if (!targets)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < artifacts[i]->provider_count && n < PROBES_MAX; k++) {
            const struct provider *p = &artifacts[i]->providers[k];
            if (p->probe != PROBE_HOW_NONE && !listed(targets, i > 0 ? n : 0, p->name))
                targets[n++] = target_of(p);
        }
    }
    *ret_targets = targets;
    *ret_count = n;
    return OK;
}
