#include "tests/bench/aa/world.h"
#include <math.h>

#define ALPHA         0.05
#define ZIPF          1.1
#define BURST_CHANCE  0.005 /* that a request begins a burst of its unit */
#define BURST_STAY    0.98  /* a burst is 50 requests on average, half of the traffic while it lasts */
#define INCIDENT_MEAN 3000  /* requests between incidents of a provider that both arms use */
#define INCIDENT_LAST 200

const struct guard world_guards[WORLD_GUARDS] = {
    { .metric = METRIC_ERRORS },   { .metric = METRIC_TTFT, .quantile = 0.9 },
    { .metric = METRIC_SPEED },    { .metric = METRIC_COST },
    { .metric = METRIC_REFUSALS }, { .metric = METRIC_FEEDBACK, .name = "thumbs" },
};

struct person {
    uint64_t hash;
    double traffic; /* cumulated */
    double phase;   /* of the day */
    double errors, ttft, speed, cost, refusals, votes;
    double wide; /* another draw of cost, for the treated arm that spreads costs */
};
struct world {
    struct world_setting setting;
    struct prng prng;
    struct person *persons, alone;
    uint64_t salt;
    uint32_t at, burst, incident; /* incident: requests left of it */
    double burst_mood;
    double values[WORLD_GUARDS];
};

static double normal(struct prng *prng) /* Box and Muller */
{
    double u = 1 - prng_unit(prng), v = prng_unit(prng);
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

/* Mean 1, whatever the spread. */
static double lognormal(struct prng *prng, double sigma)
{
    return exp(sigma * normal(prng) - sigma * sigma / 2);
}

static struct person person_of(struct world *w, double differ)
{
    struct prng *r = &w->prng;
    return (struct person){
        .hash = prng_u64(r),
        .phase = prng_unit(r),
        .errors = w->setting.errors_base * lognormal(r, differ),
        .ttft = 600 * lognormal(r, 0.5 * differ),
        .speed = 60 * lognormal(r, 0.4 * differ),
        .cost = 2e6 * lognormal(r, differ),
        .refusals = 0.02 * lognormal(r, differ),
        .votes = fmin(0.8 * lognormal(r, 0.2 * differ), 1),
        .wide = w->setting.spread > 0 ? lognormal(r, w->setting.spread) : 1,
    };
}

struct world *world_new(const struct world_setting *setting, uint64_t seed)
{
    struct world *w = calloc(1, sizeof *w);
    REQUIRE(w);
    w->setting = *setting;
    prng_seed(&w->prng, seed);
    if (setting->units == 0) {
        w->alone = person_of(w, 0);
        return w;
    }
    w->persons = calloc(setting->units, sizeof *w->persons);
    REQUIRE(w->persons);
    double traffic = 0;
    for (uint32_t i = 0; i < setting->units; i++) {
        w->persons[i] = person_of(w, 1);
        traffic += pow(i + 1, -ZIPF);
        w->persons[i].traffic = traffic;
    }
    w->burst = UINT32_MAX;
    return w;
}

void world_free(struct world *w)
{
    free(w->persons);
    free(w);
}

static double day(const struct world *w, double phase)
{
    return sin(2 * M_PI * (3.0 * w->at / w->setting.requests + phase)); /* three days in an experiment */
}

static uint32_t somebody(struct world *w)
{
    uint32_t units = w->setting.units;
    for (;;) {
        double at = prng_unit(&w->prng) * w->persons[units - 1].traffic;
        uint32_t low = 0, high = units - 1;
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (w->persons[middle].traffic > at)
                high = middle;
            else
                low = middle + 1;
        }
        if (prng_unit(&w->prng) < (1 + 0.9 * day(w, w->persons[low].phase)) / 1.9)
            return low;
    }
}

static const struct person *next_person(struct world *w, double *ret_mood)
{
    *ret_mood = 1;
    if (w->setting.units == 0) {
        w->alone.hash = prng_u64(&w->prng);
        return &w->alone;
    }
    if (w->burst != UINT32_MAX) {
        if (prng_unit(&w->prng) > BURST_STAY)
            w->burst = UINT32_MAX;
        else if (prng_unit(&w->prng) < 0.5) {
            *ret_mood = w->burst_mood;
            return &w->persons[w->burst];
        }
    }
    uint32_t who = somebody(w);
    if (w->burst == UINT32_MAX && prng_unit(&w->prng) < BURST_CHANCE) {
        w->burst = who;
        w->burst_mood = lognormal(&w->prng, 1);
    }
    return &w->persons[who];
}

static bool chance(struct world *w, double p)
{
    return prng_unit(&w->prng) < p;
}

void world_next(struct world *w, struct observation *ret)
{
    struct prng *r = &w->prng;
    double mood, *v = w->values;
    const struct person *who = next_person(w, &mood);
    bool is_treated = (double)(who->hash % 10000) < w->setting.treated * 10000;
    if (w->setting.units && w->incident == 0 && chance(w, 1.0 / INCIDENT_MEAN))
        w->incident = INCIDENT_LAST;
    double trouble = w->incident ? 1 : 0, busy = w->setting.units ? 1 + 0.3 * day(w, 0) : 1;
    w->incident -= w->incident > 0;
    double worse = is_treated ? w->setting.errors : 1;
    bool failed = chance(w, fmin(who->errors * mood * busy * worse + 0.2 * trouble, 0.95));
    v[WORLD_ERRORS] = failed;
    v[WORLD_TTFT] = failed && chance(w, 0.5)
                        ? INFINITY
                        : who->ttft * busy * (1 + trouble) * lognormal(r, 0.6) * (is_treated ? w->setting.ttft : 1);
    v[WORLD_SPEED] = who->speed * lognormal(r, 0.4) / busy;
    v[WORLD_COST] = who->cost * mood * lognormal(r, 0.8) * (is_treated ? who->wide : 1);
    v[WORLD_REFUSALS] = chance(w, fmin(who->refusals * mood, 0.5));
    v[WORLD_FEEDBACK] = chance(w, who->votes) ? 1 : -1;
    *ret = (struct observation){ .arm = is_treated, .unit = who->hash, .values = v };
    ret->guard_mask = failed ? 0x03 : chance(w, 0.1) ? 0x3f : 0x1f; /* a tenth votes */
    w->at++;
}

static bool holds(const struct world_setting *setting, const struct guard *guard, const struct judgement *j)
{
    if (j->looks == 0 || (guard->metric != METRIC_ERRORS && guard->metric != METRIC_TTFT))
        return true;
    double truth = guard->metric == METRIC_ERRORS ? setting->errors_base * (setting->errors - 1) : setting->ttft - 1;
    return j->low <= truth && truth <= j->high;
}

static void ask(const struct world_setting *setting, struct experiment *e, const struct guard *guards,
                uint32_t guard_count, struct world_outcome *ret, uint32_t at)
{
    char why[200];
    for (uint32_t g = 0; g < guard_count; g++) {
        struct judgement j;
        experiment_judge(e, 1, g, &j);
        if (g == 0)
            ret->too_little = j.looks == 0;
        ret->missed[g] |= !holds(setting, &guards[g], &j);
        if (j.verdict == VERDICT_HARM)
            ret->harm_of[g] = ret->harm = true;
    }
    ret->tripwire |= experiment_tripwire(e, 1, why, sizeof why);
    if (ret->found_at == 0 && (ret->harm || ret->tripwire))
        ret->found_at = at;
    struct ratio_check ratio;
    experiment_ratio(e, &ratio);
    ret->ratio |= ratio.mismatch;
}

struct tally {
    double n[2], bad[2];
};

static bool naive_alarm(const struct tally *t)
{
    if (t->n[0] < 50 || t->n[1] < 50)
        return false;
    double p = (t->bad[0] + t->bad[1]) / (t->n[0] + t->n[1]);
    double apart = t->bad[1] / t->n[1] - t->bad[0] / t->n[0];
    return apart > 1.6449 * sqrt(p * (1 - p) * (1 / t->n[0] + 1 / t->n[1]));
}

void world_play(const struct world_setting *setting, uint64_t seed, const struct guard *guards, uint32_t guard_count,
                bool both, struct world_outcome *ret)
{
    struct experiment_options options = { .arms = 2,
                                          .shares = { 1 - setting->treated, setting->treated },
                                          .guards = guards,
                                          .guard_count = guard_count,
                                          .alpha = ALPHA };
    struct experiment *one, *two = NULL;
    REQUIRE(experiment_new(&options, &one) == OK);
    options.two_sided = true;
    if (both)
        REQUIRE(experiment_new(&options, &two) == OK);
    struct world *w = world_new(setting, seed);
    struct tally tally = { 0 };
    *ret = (struct world_outcome){ 0 };
    for (uint32_t i = 1; i <= setting->requests; i++) {
        struct observation o;
        world_next(w, &o);
        tally.n[o.arm]++;
        tally.bad[o.arm] += o.values[WORLD_ERRORS];
        o.values += guards - world_guards;
        o.guard_mask = o.guard_mask >> (guards - world_guards) & ((1u << guard_count) - 1);
        REQUIRE(experiment_add(one, &o) == OK && (!two || experiment_add(two, &o) == OK));
        if (i % WORLD_BATCH)
            continue;
        ret->naive |= naive_alarm(&tally);
        (void)experiment_look(one);
        ask(setting, one, guards, guard_count, ret, i);
        if (!two && ret->found_at > 0)
            break;
        if (!two)
            continue;
        (void)experiment_look(two);
        for (uint32_t g = 0; g < guard_count; g++) {
            struct judgement j;
            experiment_judge(two, 1, g, &j);
            ret->difference |= j.p_value <= ALPHA;
        }
    }
    world_free(w);
    experiment_free(one);
    experiment_free(two);
}
