#include "controlplane/evidence/telemetry.h"
#include "common/fault.h"
#include "common/hist.h"
#include "controlplane/evidence/senders.h"
#include <math.h>

/* ---- a sorted list of named things ---- */

struct named {
    char *name; /* first member of each */
};
struct named_list {
    struct named **items;
    uint32_t count, capacity;
};

static uint32_t named_place(const struct named_list *list, struct span name, bool *ret_there)
{
    uint32_t low = 0, high = list->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = span_cmp(span_cstr(list->items[mid]->name), name);
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

static void *named_find(const struct named_list *list, struct span name)
{
    bool there;
    uint32_t at = named_place(list, name, &there);
    return there ? list->items[at] : NULL;
}

/* A zeroed thing of `bytes` under this name, which is not there yet. NULL: out of memory. */
static void *named_add(struct named_list *list, struct span name, size_t bytes)
{
    bool there;
    uint32_t at = named_place(list, name, &there);
    REQUIRE(!there);
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? 2 * list->capacity : 8;
        struct named **items = fault_realloc(list->items, capacity * sizeof(struct named *));
        if (!items)
            return NULL;
        list->items = items;
        list->capacity = capacity;
    }
    struct named *item = fault_calloc(1, bytes + name.len + 1);
    if (!item)
        return NULL;
    item->name = (char *)item + bytes;
    memcpy(item->name, name.ptr, name.len);
    memmove(list->items + at + 1, list->items + at, (list->count - at) * sizeof(struct named *));
    list->items[at] = item;
    list->count++;
    return item;
}

/* ---- state ---- */

struct totals { /* one model as one sender told it last */
    struct named named;
    uint64_t attempts, failures, timeouts, cancelled, input_tokens, output_tokens, cost_nano;
    uint64_t ttft_count, ttft_sum_us, gap_count, gap_sum_us;
    uint64_t *buckets; /* HIST_BUCKETS, or NULL */
    uint32_t breaker_open, remaining_ppm;
};
struct sender {
    struct named named;
    struct sender_mark mark;
    int64_t heard_at_ms;
    uint64_t worker_crashes;
    struct named_list models; /* struct totals */
};
struct slot {
    int64_t minute; /* of now_ms / TELEMETRY_SLOT_MS; another one: empty */
    uint32_t attempts;
    uint32_t *buckets; /* HIST_BUCKETS, or NULL */
};
struct aggregate { /* one model over all senders */
    struct named named;
    int64_t decayed_at_ms;
    double attempts, failures, ttft_count, ttft_sum_us, gap_count, gap_sum_us;
    int64_t heard_at_ms, answered_at_ms;
    struct slot slots[TELEMETRY_SLOTS];
};
struct telemetry {
    struct named_list senders;
    struct named_list models; /* struct aggregate */
    const struct event_sink *sink;
};

enum err telemetry_new(struct telemetry **ret)
{
    struct telemetry *telemetry = fault_calloc(1, sizeof *telemetry);
    if (!telemetry)
        return ERR_NOMEM;
    *ret = telemetry;
    return OK;
}

void telemetry_tell(struct telemetry *telemetry, const struct event_sink *sink)
{
    telemetry->sink = sink;
}

static void sender_forget_models(struct sender *s)
{
    for (uint32_t i = 0; i < s->models.count; i++) {
        struct totals *t = (struct totals *)(void *)s->models.items[i];
        free(t->buckets);
        free(t);
    }
    free(s->models.items);
    s->models = (struct named_list){ 0 };
}

static void aggregate_free(struct aggregate *a)
{
    for (uint32_t i = 0; i < TELEMETRY_SLOTS; i++)
        free(a->slots[i].buckets);
    free(a);
}

void telemetry_free(struct telemetry *telemetry)
{
    if (!telemetry)
        return;
    for (uint32_t i = 0; i < telemetry->senders.count; i++) {
        sender_forget_models((struct sender *)(void *)telemetry->senders.items[i]);
        free(telemetry->senders.items[i]);
    }
    for (uint32_t i = 0; i < telemetry->models.count; i++)
        aggregate_free((struct aggregate *)(void *)telemetry->models.items[i]);
    free(telemetry->senders.items);
    free(telemetry->models.items);
    free(telemetry);
}

/* ---- judging a report before any of it is taken ---- */

static bool went_down(const struct totals *old, const struct model_telemetry *m)
{
    if (m->attempts < old->attempts || m->failures < old->failures || m->timeouts < old->timeouts ||
        m->cancelled < old->cancelled || m->input_tokens < old->input_tokens || m->output_tokens < old->output_tokens ||
        m->cost_nano < old->cost_nano || m->ttft_count < old->ttft_count || m->ttft_sum_us < old->ttft_sum_us ||
        m->gap_count < old->gap_count || m->gap_sum_us < old->gap_sum_us)
        return true;
    for (uint32_t i = 0; old->buckets && m->ttft_buckets && i < HIST_BUCKETS; i++) {
        if (m->ttft_buckets[i] < old->buckets[i])
            return true;
    }
    return false;
}

static const char *judge(const struct sender *s, const struct evidence_report *report)
{
    for (uint32_t i = 0; i < report->telemetry_count; i++) {
        const struct model_telemetry *m = &report->telemetry[i];
        const struct totals *old = s ? named_find(&s->models, m->model) : NULL;
        if (m->model.len == 0 || m->model.len > NAME_BYTES_MAX)
            return "telemetry of a model without a good name";
        if (m->ttft_bucket_count != 0 && (m->ttft_bucket_count != HIST_BUCKETS || !m->ttft_buckets))
            return "a histogram of another shape";
        if (old && went_down(old, m))
            return "a counter went down within one incarnation";
    }
    return NULL;
}

static int model_name_order(const void *a, const void *b)
{
    const struct model_telemetry *const *x = a, *const *y = b;
    return span_cmp((*x)->model, (*y)->model);
}

/* The second totals of a model would be judged by the first, not by what was judged. */
static enum err find_twins(const struct evidence_report *report, bool *ret_twins)
{
    const uint32_t count = report->telemetry_count;
    const struct model_telemetry **sorted = fault_malloc(((size_t)count + 1) * sizeof(struct model_telemetry *));
    *ret_twins = false;
    if (!sorted)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = &report->telemetry[i];
    if (count > 1)
        qsort(sorted, count, sizeof(struct model_telemetry *), model_name_order);
    for (uint32_t i = 1; i < count && !*ret_twins; i++)
        *ret_twins = span_eq(sorted[i - 1]->model, sorted[i]->model);
    free(sorted);
    return OK;
}

/* ---- adding up ---- */

static void decay(struct aggregate *a, int64_t now_ms)
{
    if (now_ms <= a->decayed_at_ms) {
        a->decayed_at_ms = now_ms; /* a clock that was set back must not stop the decay */
        return;
    }
    double factor = exp2(-(double)(now_ms - a->decayed_at_ms) / TELEMETRY_HALF_LIFE_MS);
    a->attempts *= factor;
    a->failures *= factor;
    a->ttft_count *= factor;
    a->ttft_sum_us *= factor;
    a->gap_count *= factor;
    a->gap_sum_us *= factor;
    a->decayed_at_ms = now_ms;
}

static struct slot *slot_now(struct aggregate *a, int64_t now_ms)
{
    int64_t minute = now_ms / TELEMETRY_SLOT_MS;
    struct slot *slot = &a->slots[(uint64_t)minute % TELEMETRY_SLOTS];
    if (slot->minute != minute) {
        slot->minute = minute;
        slot->attempts = 0;
        if (slot->buckets)
            memset(slot->buckets, 0, HIST_BUCKETS * sizeof *slot->buckets);
    }
    return slot;
}

static uint32_t add_capped(uint32_t a, uint64_t b)
{
    return b > UINT32_MAX - a ? UINT32_MAX : a + (uint32_t)b;
}

static enum err add_difference(struct aggregate *a, const struct totals *old, const struct model_telemetry *m,
                               int64_t now_ms)
{
    struct slot *slot = slot_now(a, now_ms);
    uint64_t attempts = m->attempts - old->attempts;
    if (m->ttft_buckets && !slot->buckets) {
        slot->buckets = fault_calloc(HIST_BUCKETS, sizeof *slot->buckets);
        if (!slot->buckets)
            return ERR_NOMEM;
    }
    decay(a, now_ms);
    a->attempts += (double)attempts;
    a->failures += (double)(m->failures - old->failures);
    a->ttft_count += (double)(m->ttft_count - old->ttft_count);
    a->ttft_sum_us += (double)(m->ttft_sum_us - old->ttft_sum_us);
    a->gap_count += (double)(m->gap_count - old->gap_count);
    a->gap_sum_us += (double)(m->gap_sum_us - old->gap_sum_us);
    slot->attempts = add_capped(slot->attempts, attempts);
    for (uint32_t i = 0; m->ttft_buckets && i < HIST_BUCKETS; i++)
        slot->buckets[i] = add_capped(slot->buckets[i], m->ttft_buckets[i] - (old->buckets ? old->buckets[i] : 0));
    if (attempts > 0)
        a->heard_at_ms = now_ms;
    if (attempts > (m->failures - old->failures) + (m->cancelled - old->cancelled))
        a->answered_at_ms = now_ms;
    return OK;
}

static enum err remember(struct totals *t, const struct model_telemetry *m)
{
    if (m->ttft_buckets && !t->buckets) {
        t->buckets = fault_calloc(HIST_BUCKETS, sizeof *t->buckets);
        if (!t->buckets)
            return ERR_NOMEM;
    }
    if (m->ttft_buckets)
        memcpy(t->buckets, m->ttft_buckets, HIST_BUCKETS * sizeof *t->buckets);
    t->attempts = m->attempts;
    t->failures = m->failures;
    t->timeouts = m->timeouts;
    t->cancelled = m->cancelled;
    t->input_tokens = m->input_tokens;
    t->output_tokens = m->output_tokens;
    t->cost_nano = m->cost_nano;
    t->ttft_count = m->ttft_count;
    t->ttft_sum_us = m->ttft_sum_us;
    t->gap_count = m->gap_count;
    t->gap_sum_us = m->gap_sum_us;
    t->breaker_open = m->breaker_open;
    t->remaining_ppm = m->remaining_ppm;
    return OK;
}

static void tell_breaker(const struct telemetry *telemetry, struct span node, const struct model_telemetry *m,
                         bool was_open, int64_t now_ms)
{
    if (was_open == (m->breaker_open != 0))
        return;
    event_tell(telemetry->sink, now_ms,
               &(struct event){ .kind = "breaker",
                                .where = m->model,
                                .what = was_open ? SPAN("is let in again: its breaker closed, or tries it")
                                                 : SPAN("is ejected: its breaker opened"),
                                .why = was_open ? SPAN("") : SPAN("failures in a row, or half of its attempts"),
                                .node = node });
}

static void tell_crashes(const struct telemetry *telemetry, struct span node, uint64_t more, int64_t now_ms)
{
    char what[64];
    const int n = more == 1 ? snprintf(what, sizeof(what), "had a worker crash")
                            : snprintf(what, sizeof(what), "had %llu workers crash", (unsigned long long)more);
    event_tell(telemetry->sink, now_ms,
               &(struct event){ .kind = "worker", .where = node, .what = span_of(what, (size_t)n), .node = node });
}

/* only_base: what this sender did before we listened is not counted. */
static enum err take_model(struct telemetry *telemetry, struct sender *s, const struct model_telemetry *m,
                           bool only_base, int64_t now_ms)
{
    struct aggregate *a = named_find(&telemetry->models, m->model);
    if (!a) {
        if (telemetry->models.count == TELEMETRY_MODELS_MAX)
            return ERR_TOO_MANY;
        a = named_add(&telemetry->models, m->model, sizeof *a);
        if (!a)
            return ERR_NOMEM;
        a->decayed_at_ms = now_ms;
    }
    struct totals *t = named_find(&s->models, m->model);
    if (!t) {
        t = named_add(&s->models, m->model, sizeof *t);
        if (!t)
            return ERR_NOMEM;
    }
    /* Remembered first: when memory runs out there, nothing has been counted that would be counted again. */
    struct totals old = *t;
    uint64_t old_buckets[HIST_BUCKETS];
    if (t->buckets) {
        memcpy(old_buckets, t->buckets, sizeof old_buckets);
        old.buckets = old_buckets;
    }
    enum err err = remember(t, m);
    if (!err)
        tell_breaker(telemetry, span_cstr(s->named.name), m, old.breaker_open != 0, now_ms);
    return err || only_base ? err : add_difference(a, &old, m, now_ms);
}

enum err telemetry_take(struct telemetry *telemetry, const struct evidence_report *report, int64_t now_ms,
                        const char **ret_why)
{
    struct sender *s = named_find(&telemetry->senders, report->sender);
    enum sender_word word = s ? sender_mark_look(&s->mark, report->incarnation, report->seq) : SENDER_REBORN;
    bool fresh = word == SENDER_REBORN;
    if (word == SENDER_OLD)
        return ERR_STALE;
    bool twins;
    enum err err = find_twins(report, &twins);
    if (err)
        return err;
    const char *why = twins ? "a model stands twice in this report" : judge(fresh ? NULL : s, report);
    if (why) {
        *ret_why = why;
        return ERR_INVALID;
    }
    if (!s) {
        if (telemetry->senders.count == TELEMETRY_SENDERS_MAX)
            return ERR_TOO_MANY;
        s = named_add(&telemetry->senders, report->sender, sizeof *s);
        if (!s)
            return ERR_NOMEM;
    }
    if (fresh)
        sender_forget_models(s);
    bool only_base = fresh && report->seq > 1;
    const uint64_t crashes = fresh ? 0 : s->worker_crashes;
    if (!only_base && report->worker_crashes > crashes)
        tell_crashes(telemetry, report->sender, report->worker_crashes - crashes, now_ms);
    s->worker_crashes = report->worker_crashes;
    for (uint32_t i = 0; i < report->telemetry_count && !err; i++)
        err = take_model(telemetry, s, &report->telemetry[i], only_base, now_ms);
    sender_mark_take(&s->mark, report->incarnation, report->seq);
    s->heard_at_ms = now_ms;
    return err;
}

void telemetry_age(struct telemetry *telemetry, int64_t now_ms)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < telemetry->senders.count; i++) {
        struct sender *s = (struct sender *)(void *)telemetry->senders.items[i];
        if (now_ms - s->heard_at_ms <= TELEMETRY_GONE_MS) {
            telemetry->senders.items[kept++] = &s->named;
            continue;
        }
        sender_forget_models(s);
        free(s);
    }
    telemetry->senders.count = kept;
    kept = 0;
    for (uint32_t i = 0; i < telemetry->models.count; i++) {
        struct aggregate *a = (struct aggregate *)(void *)telemetry->models.items[i];
        int64_t last = a->heard_at_ms > a->decayed_at_ms ? a->heard_at_ms : a->decayed_at_ms;
        if (now_ms - last <= 2 * (int64_t)TELEMETRY_GONE_MS)
            telemetry->models.items[kept++] = &a->named;
        else
            aggregate_free(a);
    }
    telemetry->models.count = kept;
}

/* ---- looking ---- */

static uint32_t to_u32(double value)
{
    return value >= (double)UINT32_MAX ? UINT32_MAX : value > 0 ? (uint32_t)value : 0;
}

/* Attempts and TTFT quantile of the slots that are still within the window. */
static void window(const struct aggregate *a, int64_t now_ms, struct telemetry_view *ret)
{
    struct hist hist = { 0 };
    uint64_t samples = 0;
    for (uint32_t i = 0; i < TELEMETRY_SLOTS; i++) {
        const struct slot *slot = &a->slots[i];
        int64_t age = now_ms / TELEMETRY_SLOT_MS - slot->minute;
        if (age < 0 || age >= (int64_t)TELEMETRY_SLOTS)
            continue;
        samples += slot->attempts;
        for (uint32_t k = 0; slot->buckets && k < HIST_BUCKETS; k++) {
            hist.buckets[k] += slot->buckets[k];
            hist.count += slot->buckets[k];
        }
    }
    ret->samples = samples > UINT32_MAX ? UINT32_MAX : (uint32_t)samples;
    ret->ttft_p95_us = hist.count ? to_u32((double)hist_quantile(&hist, 0.95)) : 0;
}

static void live_facts(const struct telemetry *telemetry, struct span model, int64_t now_ms, struct telemetry_view *ret)
{
    ret->remaining_ppm = 1000001;
    for (uint32_t i = 0; i < telemetry->senders.count; i++) {
        const struct sender *s = (const struct sender *)(const void *)telemetry->senders.items[i];
        const struct totals *t = now_ms - s->heard_at_ms <= TELEMETRY_FRESH_MS ? named_find(&s->models, model) : NULL;
        if (!t)
            continue;
        ret->breakers_open += t->breaker_open != 0;
        if (t->remaining_ppm < ret->remaining_ppm)
            ret->remaining_ppm = t->remaining_ppm;
    }
}

struct telemetry_recent telemetry_recent(const struct telemetry *telemetry, struct span model, int64_t now_ms)
{
    const struct aggregate *a = named_find(&telemetry->models, model);
    if (!a)
        return (struct telemetry_recent){ 0 };
    const double factor =
        now_ms > a->decayed_at_ms ? exp2(-(double)(now_ms - a->decayed_at_ms) / TELEMETRY_HALF_LIFE_MS) : 1;
    return (struct telemetry_recent){ .attempts = a->attempts * factor,
                                      .failures = a->failures * factor,
                                      .answered_at_ms = a->answered_at_ms };
}

bool telemetry_view(const struct telemetry *telemetry, struct span model, int64_t now_ms, struct telemetry_view *ret)
{
    const struct aggregate *a = named_find(&telemetry->models, model);
    if (!a)
        return false;
    struct telemetry_view view = { .heard_at_ms = a->heard_at_ms };
    window(a, now_ms, &view);
    live_facts(telemetry, model, now_ms, &view);
    if (view.samples > 0) {
        view.ttft_ewma_us = a->ttft_count > 0 ? to_u32(a->ttft_sum_us / a->ttft_count) : 0;
        view.token_gap_us = a->gap_count > 0 ? to_u32(a->gap_sum_us / a->gap_count) : 0;
        view.errors_ppm = a->attempts > 0 ? to_u32(fmin(a->failures / a->attempts, 1.0) * 1e6) : 0;
    }
    *ret = view;
    return true;
}

uint32_t telemetry_nodes(const struct telemetry *telemetry)
{
    return telemetry->senders.count;
}
