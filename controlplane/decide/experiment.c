#include "controlplane/decide/experiment.h"
#include "controlplane/decide/experiment_internal.h"
#include "common/fault.h"
#include <math.h>

#define UNITS_FIRST 64u /* grows by doubling */

static const struct {
    const char *name;
    bool absolute, less_is_harm;
} metrics[METRICS] = {
    [METRIC_ERRORS] = { "errors", true, false },       [METRIC_TTFT] = { "ttft", false, false },
    [METRIC_SPEED] = { "speed", false, true },         [METRIC_COST] = { "cost", false, false },
    [METRIC_REFUSALS] = { "refusals", true, false },   [METRIC_CANCELS] = { "cancels", true, false },
    [METRIC_FALLBACKS] = { "fallbacks", true, false }, [METRIC_FEEDBACK] = { "feedback", true, true },
};

const char *metric_name(enum metric metric)
{
    return metric < METRICS ? metrics[metric].name : "unknown";
}

bool metric_of(const char *name, enum metric *ret)
{
    for (uint32_t m = 0; m < METRICS; m++)
        if (strcmp(name, metrics[m].name) == 0) {
            *ret = (enum metric)m;
            return true;
        }
    return false;
}

bool metric_is_absolute(enum metric metric)
{
    REQUIRE(metric < METRICS);
    return metrics[metric].absolute;
}

bool metric_less_is_harm(enum metric metric)
{
    REQUIRE(metric < METRICS);
    return metrics[metric].less_is_harm;
}

const char *verdict_name(enum verdict verdict)
{
    switch (verdict) {
    case VERDICT_TOO_LITTLE:
        return "too_little";
    case VERDICT_UNDECIDED:
        return "undecided";
    case VERDICT_HARM:
        return "harm";
    case VERDICT_NO_HARM:
        return "no_harm";
    }
    return "unknown";
}

/* ---- birth and death ---- */

bool guard_good(const struct guard *g)
{
    if (g->metric >= METRICS || !(g->tolerance >= 0) || !isfinite(g->tolerance))
        return false;
    if ((metric_is_absolute(g->metric) || metric_less_is_harm(g->metric)) && g->tolerance >= 1)
        return false; /* nothing is lost or gained by so much */
    if (!memchr(g->name, 0, sizeof g->name))
        return false;
    return g->metric != METRIC_TTFT || (g->quantile >= 0.5 && g->quantile <= 0.99);
}

static bool options_ok(const struct experiment_options *o)
{
    if (o->arms < 2 || o->arms > EXPERIMENT_ARMS_MAX || o->guard_count < 1 || o->guard_count > EXPERIMENT_GUARDS_MAX ||
        !(o->alpha > 0) || !(o->alpha < 1))
        return false;
    for (uint32_t a = 0; a < o->arms; a++)
        if (!(o->shares[a] > 0) || !isfinite(o->shares[a]))
            return false;
    for (uint32_t g = 0; g < o->guard_count; g++)
        if (!guard_good(&o->guards[g]))
            return false;
    return true;
}

static bool grow(void *array, size_t count, size_t bytes)
{
    void *old = *(void **)array, *new = fault_realloc(old, count * bytes);
    if (!new)
        return false;
    *(void **)array = new;
    return true;
}

static uint64_t mix(uint64_t x) /* the finaliser of splitmix64 (Steele, Lea, Flood 2014) */
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* The slot of a unit, or the free one where it belongs. */
static uint32_t *slot_of(const struct experiment *e, uint64_t id)
{
    uint32_t mask = e->slot_count - 1, at = (uint32_t)mix(id) & mask;
    while (e->slots[at] != 0 && e->units[e->slots[at] - 1].id != id)
        at = (at + 1) & mask;
    return &e->slots[at];
}

static enum err reserve(struct experiment *e, uint32_t capacity)
{
    size_t histogram = (size_t)e->histograms * EXPERIMENT_BUCKETS;
    uint32_t slot_count = 2 * capacity;
    if (!grow(&e->units, capacity, sizeof *e->units) ||
        !grow(&e->moments, capacity, e->options.guard_count * sizeof *e->moments) ||
        (histogram && !grow(&e->buckets, capacity, histogram * sizeof *e->buckets)) ||
        !grow(&e->values, capacity, sizeof *e->values) || !grow(&e->weights, capacity, sizeof *e->weights) ||
        !grow(&e->parts, capacity, sizeof *e->parts) || !grow(&e->members, capacity, sizeof *e->members))
        return ERR_NOMEM;
    uint32_t *slots = fault_calloc(slot_count, sizeof *slots);
    if (!slots)
        return ERR_NOMEM;
    free(e->slots);
    e->slots = slots;
    e->slot_count = slot_count;
    e->capacity = capacity;
    for (uint32_t i = 0; i < e->count; i++)
        *slot_of(e, e->units[i].id) = i + 1;
    return OK;
}

enum err experiment_new(const struct experiment_options *options, struct experiment **ret)
{
    if (!options_ok(options))
        return ERR_INVALID;
    struct experiment *e = fault_calloc(1, sizeof *e);
    if (!e)
        return ERR_NOMEM;
    e->options = *options;
    e->options.guards = e->guards;
    for (uint32_t g = 0; g < options->guard_count; g++) {
        e->guards[g] = options->guards[g];
        enum metric metric = e->guards[g].metric;
        if (metric == METRIC_TTFT)
            e->histogram_of[g] = e->histograms++;
        if ((metric == METRIC_ERRORS || metric == METRIC_REFUSALS) && e->watched_count < EXPERIMENT_WATCHED_MAX)
            e->watched[e->watched_count++] = g;
    }
    for (uint32_t a = 0; a < options->arms; a++)
        for (uint32_t g = 0; g < options->guard_count; g++)
            e->judged[a][g] = (struct judgement){ .baseline = NAN,
                                                  .treatment = NAN,
                                                  .change = NAN,
                                                  .low = metric_is_absolute(e->guards[g].metric) ? -INFINITY : -1,
                                                  .high = INFINITY,
                                                  .p_value = 1 };
    e->next_look = EXPERIMENT_LOOK_FIRST;
    sequence_ratio_init(&e->ratio, e->options.shares, e->options.arms);
    enum err err = reserve(e, UNITS_FIRST);
    if (err != OK) {
        experiment_free(e);
        return err;
    }
    *ret = e;
    return OK;
}

void experiment_free(struct experiment *e)
{
    if (!e)
        return;
    free(e->units);
    free(e->moments);
    free(e->buckets);
    free(e->slots);
    free(e->values);
    free(e->weights);
    free(e->parts);
    free(e->members);
    free(e);
}

/* ---- units ---- */

static struct moments *moments_of(const struct experiment *e, uint32_t unit)
{
    return e->moments + (size_t)unit * e->options.guard_count;
}

static uint32_t *buckets_of(const struct experiment *e, uint32_t unit)
{
    return e->buckets + (size_t)unit * e->histograms * EXPERIMENT_BUCKETS;
}

static uint64_t cell_of(const struct experiment *e, uint32_t arm, uint64_t unit)
{
    return (uint64_t)arm << 32 | (mix(unit) >> 32) * e->cells[arm] >> 32;
}

static uint32_t add_saturated(uint32_t a, uint32_t b)
{
    return a > UINT32_MAX - b ? UINT32_MAX : a + b;
}

static void merge(struct moments *into, const struct moments *from)
{
    if (from->n == 0)
        return;
    double n = (double)into->n + from->n, apart = from->mean - into->mean;
    into->squares += from->squares + apart * apart * into->n * from->n / n;
    into->mean += apart * from->n / n;
    into->n = add_saturated(into->n, from->n);
}

/* Puts units together into half as many cells; each arm gets cells by its share of the units, so that the cells of
 * all arms hold equally many units. */
static void fold(struct experiment *e)
{
    uint32_t units[EXPERIMENT_ARMS_MAX] = { 0 }, count = 0;
    size_t guards = e->options.guard_count, histogram = (size_t)e->histograms * EXPERIMENT_BUCKETS;
    for (uint32_t i = 0; i < e->count; i++)
        units[e->units[i].arm]++;
    for (uint32_t a = 0; a < e->options.arms; a++)
        e->cells[a] = (units[a] + 2) / 2;
    memset(e->slots, 0, e->slot_count * sizeof *e->slots);
    for (uint32_t i = 0; i < e->count; i++) {
        uint32_t arm = e->units[i].arm;
        uint64_t cell = cell_of(e, arm, e->units[i].id);
        uint32_t *slot = slot_of(e, cell);
        if (*slot == 0) {
            e->units[count] = (struct unit){ .id = cell, .arm = arm };
            memmove(moments_of(e, count), moments_of(e, i), guards * sizeof *e->moments);
            if (histogram)
                memmove(buckets_of(e, count), buckets_of(e, i), histogram * sizeof *e->buckets);
            *slot = ++count;
            continue;
        }
        uint32_t into = *slot - 1;
        for (size_t g = 0; g < guards; g++)
            merge(&moments_of(e, into)[g], &moments_of(e, i)[g]);
        for (size_t b = 0; b < histogram; b++)
            buckets_of(e, into)[b] = add_saturated(buckets_of(e, into)[b], buckets_of(e, i)[b]);
    }
    e->count = count;
    e->counts.folded = true;
}

/* The unit's place, made if it is new. */
static enum err place(struct experiment *e, uint32_t arm, uint64_t unit, uint32_t *ret)
{
    uint64_t id = e->counts.folded ? cell_of(e, arm, unit) : unit;
    uint32_t *slot = slot_of(e, id);
    if (*slot == 0) {
        if (!e->counts.folded && e->count == EXPERIMENT_UNITS_MAX) {
            fold(e);
            return place(e, arm, unit, ret);
        }
        if (e->count == e->capacity) {
            enum err err = reserve(e, 2 * e->capacity);
            if (err != OK)
                return err;
            slot = slot_of(e, id);
        }
        uint32_t new = e->count++;
        e->units[new] = (struct unit){ .id = id, .arm = arm };
        memset(moments_of(e, new), 0, e->options.guard_count * sizeof *e->moments);
        if (e->histograms)
            memset(buckets_of(e, new), 0, (size_t)e->histograms * EXPERIMENT_BUCKETS * sizeof *e->buckets);
        *slot = new + 1;
        if (!e->counts.folded)
            sequence_ratio_add(&e->ratio, arm);
    }
    *ret = *slot - 1;
    return OK;
}

/* ---- observations ---- */

static bool value_ok(enum metric metric, double value)
{
    switch (metric) {
    case METRIC_ERRORS:
    case METRIC_REFUSALS:
    case METRIC_CANCELS:
    case METRIC_FALLBACKS:
        return value >= 0 && value <= 1;
    case METRIC_TTFT:
        return value >= 0;
    case METRIC_SPEED:
    case METRIC_COST:
        return value >= 0 && value <= 1e18; /* a thousand million dollars: squares and their sums stay finite */
    case METRIC_FEEDBACK:
        return value >= -1 && value <= 1;
    case METRICS:
        break;
    }
    return false;
}

static uint32_t bucket_of(double ms)
{
    if (!(ms > 1))
        return 0;
    double at = log2(ms) * EXPERIMENT_BUCKETS_PER_OCTAVE;
    return at < EXPERIMENT_BUCKETS - 1 ? (uint32_t)at : EXPERIMENT_BUCKETS - 1;
}

static void watch(struct experiment *e, const struct observation *o)
{
    for (uint32_t i = 0; i < e->watched_count; i++) {
        uint32_t guard = e->watched[i];
        if (!(o->guard_mask >> guard & 1))
            continue;
        struct recent *r = &e->recent[o->arm][i];
        bool bad = o->values[guard] >= 0.5;
        const struct recent *baseline = &e->recent[0][i];
        r->outcomes[r->seen++ % EXPERIMENT_RECENT] =
            (struct recent_outcome){ o->unit, baseline->requests, baseline->bad, bad };
        r->requests++;
        r->bad += bad;
    }
}

enum err experiment_add(struct experiment *e, const struct observation *o)
{
    uint32_t guards = e->options.guard_count, unit;
    bool ok = o->arm < e->options.arms && o->guard_mask >> guards == 0;
    for (uint32_t g = 0; ok && g < guards; g++)
        ok = !(o->guard_mask >> g & 1) || value_ok(e->guards[g].metric, o->values[g]);
    if (!ok) {
        e->counts.refused++;
        return ERR_INVALID;
    }
    enum err err = place(e, o->arm, o->unit, &unit);
    if (err != OK)
        return err;
    e->counts.requests++;
    e->counts.strays += e->units[unit].arm != o->arm;
    struct moments *moments = moments_of(e, unit);
    for (uint32_t g = 0; g < guards; g++) {
        struct moments *m = &moments[g];
        if (!(o->guard_mask >> g & 1) || m->n == UINT32_MAX)
            continue;
        m->n++;
        if (e->guards[g].metric == METRIC_TTFT) {
            buckets_of(e, unit)[(size_t)e->histogram_of[g] * EXPERIMENT_BUCKETS + bucket_of(o->values[g])]++;
            continue;
        }
        double apart = o->values[g] - m->mean;
        m->mean += apart / m->n;
        m->squares += apart * (o->values[g] - m->mean);
    }
    watch(e, o);
    return OK;
}

void experiment_counts(const struct experiment *e, struct experiment_counts *ret)
{
    *ret = e->counts;
    ret->units = e->count;
}

/* ---- looks ---- */

bool experiment_look(struct experiment *e)
{
    if (e->counts.requests < e->next_look)
        return false;
    e->next_look = (uint64_t)((double)e->counts.requests * EXPERIMENT_LOOK_GROWTH) + 1;
    for (uint32_t a = 1; a < e->options.arms; a++)
        for (uint32_t g = 0; g < e->options.guard_count; g++)
            experiment_judge_now(e, a, g);
    return true;
}

void experiment_judge(const struct experiment *e, uint32_t arm, uint32_t guard, struct judgement *ret)
{
    REQUIRE(arm >= 1 && arm < e->options.arms && guard < e->options.guard_count);
    *ret = e->judged[arm][guard];
}

void experiment_ratio(const struct experiment *e, struct ratio_check *ret)
{
    *ret = (struct ratio_check){ .p_value = sequence_ratio_p(&e->ratio) };
    ret->mismatch = ret->p_value <= EXPERIMENT_RATIO_ALPHA;
    for (uint32_t a = 0; a < e->options.arms; a++)
        ret->units[a] = e->ratio.counts[a];
}

/* ---- the tripwire ---- */

/* Of an arm's last EXPERIMENT_RECENT requests: */
#define TRIP_BAD      25u /* half failed: no guard's tolerance is so wide, and nobody wants to wait for statistics */
#define TRIP_OF_UNIT  10u /* counted of one unit: a single broken client is not a broken arm, it takes three */
#define TRIP_BASELINE 10u /* of the baseline's requests in the same time are needed for a comparison, */
#define TRIP_LOG_TAIL                                                                                                  \
    -13.8 /* which must exclude equal shares at one in a million: an outage of both arms is not this arm's harm */
#define TRIP_BAD_ALONE 45u /* without a baseline beside it (a step of 100%) */

static uint32_t bad_capped(const struct recent *r)
{
    uint32_t bad = 0;
    for (uint32_t i = 0; i < EXPERIMENT_RECENT; i++) {
        uint32_t same = 0;
        for (uint32_t j = 0; j < i; j++)
            same += r->outcomes[j].bad && r->outcomes[j].unit == r->outcomes[i].unit;
        bad += r->outcomes[i].bad && same < TRIP_OF_UNIT;
    }
    return bad;
}

static bool trips(const struct recent *r, const struct recent *baseline, uint32_t *ret_bad, bool *ret_alone)
{
    if (r->seen < EXPERIMENT_RECENT)
        return false;
    uint32_t bad = 0;
    for (uint32_t i = 0; i < EXPERIMENT_RECENT; i++)
        bad += r->outcomes[i].bad;
    *ret_bad = bad;
    /* Nothing but failures speaks for itself even from one unit: a canary of one key must not fail for ever. */
    if (bad < EXPERIMENT_RECENT && bad_capped(r) < TRIP_BAD)
        return false;
    const struct recent_outcome *oldest = &r->outcomes[r->seen % EXPERIMENT_RECENT];
    uint64_t requests = baseline->requests - oldest->baseline_requests;
    uint64_t baseline_bad = baseline->bad - oldest->baseline_bad;
    *ret_alone = requests < TRIP_BASELINE;
    if (*ret_alone)
        return bad >= TRIP_BAD_ALONE;
    struct sequence_shares shares = { .share = { (double)baseline_bad / (double)requests,
                                                 (double)bad / EXPERIMENT_RECENT },
                                      .n = { (double)requests, EXPERIMENT_RECENT },
                                      .dispersion = 1 };
    return sequence_shares(&shares, 0) >= sequence_normal_quantile(TRIP_LOG_TAIL);
}

bool experiment_tripwire(const struct experiment *e, uint32_t arm, char *why, size_t why_bytes)
{
    REQUIRE(arm >= 1 && arm < e->options.arms);
    for (uint32_t i = 0; i < e->watched_count; i++) {
        uint32_t bad;
        bool alone;
        if (!trips(&e->recent[arm][i], &e->recent[0][i], &bad, &alone))
            continue;
        if (why_bytes > 0)
            (void)snprintf(why, why_bytes, "%s: %u of the last %u requests, %s",
                           metric_name(e->guards[e->watched[i]].metric), bad, EXPERIMENT_RECENT,
                           alone ? "with next to none of the baseline's in the same time to compare them with"
                                 : "far more than the baseline in the same time");
        return true;
    }
    return false;
}
