/* aa - false alarms and power of controlplane/decide/experiment, in simulated traffic whose truth is known. */
#include "tests/bench/aa/world.h"
#include <errno.h>
#include <math.h>

#define ALPHA_PERCENT        5.0
#define REQUESTS_ALONE       2000  /* of an experiment whose unit is the request */
#define REQUESTS             10000 /* of others: some 1,000 an hour for a working day */
#define REQUESTS_POWER       30000
#define REQUESTS_POWER_ALONE 8000

struct totals {
    uint32_t played, harm, difference, ratio, tripwire, too_little, naive;
    uint32_t harm_of[WORLD_GUARDS], missed[WORLD_GUARDS];
};

static void add(struct totals *t, const struct world_outcome *o)
{
    t->played++;
    t->harm += o->harm;
    t->difference += o->difference;
    t->ratio += o->ratio;
    t->tripwire += o->tripwire;
    t->too_little += o->too_little;
    t->naive += o->naive;
    for (uint32_t g = 0; g < WORLD_GUARDS; g++) {
        t->harm_of[g] += o->harm_of[g];
        t->missed[g] += o->missed[g];
    }
}

static double percent(uint32_t part, uint32_t whole)
{
    return 100.0 * part / whole;
}

static const char *unit_name(uint32_t units, char *buffer, size_t bytes)
{
    if (units == 0)
        return "each request its own";
    (void)snprintf(buffer, bytes, "%u", units);
    return buffer;
}

/* ---- false alarms ---- */

static bool false_alarms(uint32_t experiments, uint64_t seed)
{
    static const uint32_t units[] = { 0, 20, 200, 1000 };
    static const double shares[] = { 0.5, 0.05 };
    bool ok = true;
    printf("### False alarms: nothing differs between the arms, %u experiments in each row\n\n"
           "Everybody peeks after every %u requests; six guards together (errors, TTFT p90, speed, cost, refusals, "
           "feedback), all at tolerance 0;\n"
           "nominal: 5%% for harm (one-sided) and for differences (two-sided), 1%% for the sample ratio. Naive: errors "
           "alone, a z test of requests\n"
           "at 5%% after each batch.\n\n"
           "| units | treated | requests | harm | difference | sample ratio | tripwire | errors never judged: too few "
           "units | naive |\n"
           "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
           experiments, WORLD_BATCH);
    for (size_t s = 0; s < ARRAY_LEN(shares); s++)
        for (size_t u = 0; u < ARRAY_LEN(units); u++) {
            struct world_setting setting = { .units = units[u],
                                             .requests = units[u] ? REQUESTS : REQUESTS_ALONE,
                                             .treated = shares[s],
                                             .errors = 1,
                                             .ttft = 1,
                                             .errors_base = 0.01 };
            struct totals t = { 0 };
            for (uint32_t i = 0; i < experiments; i++) {
                struct world_outcome o;
                world_play(&setting, seed + 1000003u * (s * 10 + u) + i, world_guards, WORLD_GUARDS, true, &o);
                add(&t, &o);
            }
            char name[16];
            printf("| %s | %.0f%% | %u | %.2f%% | %.2f%% | %.2f%% | %.2f%% | %.0f%% | %.0f%% |\n",
                   unit_name(units[u], name, sizeof name), 100 * shares[s], setting.requests, percent(t.harm, t.played),
                   percent(t.difference, t.played), percent(t.ratio, t.played), percent(t.tripwire, t.played),
                   percent(t.too_little, t.played), percent(t.naive, t.played));
            (void)fflush(stdout);
            ok = ok && percent(t.harm, t.played) <= ALPHA_PERCENT && percent(t.difference, t.played) <= ALPHA_PERCENT &&
                 percent(t.ratio, t.played) <= 1 && percent(t.tripwire, t.played) <= 0.1;
        }
    return ok;
}

/* The arm is as dear on average, but spreads its costs wider over units: not "no effect", but no harm. */
static void wider(uint32_t experiments, uint64_t seed)
{
    static const uint32_t units[] = { 200, 1000 };
    static const double shares[] = { 0.5, 0.05 };
    static const double spreads[] = { 0.5, 1 };
    printf("\n### An arm that is as dear on average but spreads its costs wider over units (guard on cost alone, 5%%, "
           "%u experiments)\n\n"
           "Each unit's cost is multiplied by a lognormal of mean 1. The randomisation test promises nothing here; "
           "studentising is what holds it.\n\n"
           "| units | treated | sigma | harm | difference |\n| ---: | ---: | ---: | ---: | ---: |\n",
           experiments);
    for (size_t s = 0; s < ARRAY_LEN(shares); s++)
        for (size_t u = 0; u < ARRAY_LEN(units); u++)
            for (size_t k = 0; k < ARRAY_LEN(spreads); k++) {
                struct world_setting setting = { .units = units[u],
                                                 .requests = REQUESTS,
                                                 .treated = shares[s],
                                                 .errors = 1,
                                                 .ttft = 1,
                                                 .spread = spreads[k],
                                                 .errors_base = 0.01 };
                struct totals t = { 0 };
                for (uint32_t i = 0; i < experiments; i++) {
                    struct world_outcome o;
                    world_play(&setting, seed + 70000003u * (s * 10 + u + 5 * k + 1) + i, &world_guards[WORLD_COST], 1,
                               true, &o);
                    add(&t, &o);
                }
                printf("| %u | %.0f%% | %.1f | %.2f%% | %.2f%% |\n", units[u], 100 * shares[s], spreads[k],
                       percent(t.harm, t.played), percent(t.difference, t.played));
                (void)fflush(stdout);
            }
}

/* What an interval is worth: does it hold the truth at every look, where there is an effect. */
static void intervals(uint32_t experiments, uint64_t seed)
{
    static const uint32_t units[] = { 0, 20, 200, 1000 };
    static const double shares[] = { 0.5, 0.05 };
    printf("\n### Intervals: how often the truth was outside at any look (%u experiments; 90%% intervals, two guards "
           "share them)\n\n"
           "| units | treated | errors 1%% to 3%% | TTFT x 1.5 |\n| --- | ---: | ---: | ---: |\n",
           experiments);
    for (size_t s = 0; s < ARRAY_LEN(shares); s++)
        for (size_t u = 0; u < ARRAY_LEN(units); u++) {
            uint32_t missed[2] = { 0 };
            for (uint32_t effect = 0; effect < 2; effect++) {
                struct world_setting setting = { .units = units[u],
                                                 .requests = units[u] ? REQUESTS : REQUESTS_ALONE,
                                                 .treated = shares[s],
                                                 .errors = effect == WORLD_ERRORS ? 3 : 1,
                                                 .ttft = effect == WORLD_TTFT ? 1.5 : 1,
                                                 .errors_base = 0.01 };
                for (uint32_t i = 0; i < experiments; i++) {
                    struct world_outcome o;
                    world_play(&setting, seed + 500000003u * (s * 100 + u * 10 + effect + 1) + i, world_guards, 2, true,
                               &o);
                    missed[effect] += o.missed[effect];
                }
            }
            char name[16];
            printf("| %s | %.0f%% | %.2f%% | %.2f%% |\n", unit_name(units[u], name, sizeof name), 100 * shares[s],
                   percent(missed[0], experiments), percent(missed[1], experiments));
            (void)fflush(stdout);
        }
}

/* ---- power ---- */

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void power_row(const struct world_setting *setting, const char *change, uint32_t experiments, uint64_t seed)
{
    uint32_t *at = calloc(experiments, sizeof *at), found = 0, little = 0, tripped = 0;
    REQUIRE(at);
    for (uint32_t i = 0; i < experiments; i++) {
        struct world_outcome o;
        world_play(setting, seed + i, world_guards, WORLD_GUARDS, false, &o);
        little += o.too_little;
        tripped += o.tripwire;
        if (o.found_at > 0)
            at[found++] = o.found_at;
    }
    qsort(at, found, sizeof *at, by_size);
    char name[16], median[24] = "-";
    if (found * 2 > experiments)
        (void)snprintf(median, sizeof median, "%u", at[experiments / 2]);
    printf("| %s | %.0f%% | %s | %.0f%% | %s | %.0f%% | %.0f%% |\n", unit_name(setting->units, name, sizeof name),
           100 * setting->treated, change, percent(found, experiments), median, percent(tripped, experiments),
           percent(little, experiments));
    (void)fflush(stdout);
    free(at);
}

static void power(uint32_t experiments, uint64_t seed)
{
    static const uint32_t units[] = { 0, 20, 200, 1000 };
    static const double shares[] = { 0.5, 0.05 };
    static const struct {
        const char *name;
        double errors, ttft;
    } changes[] = { { "errors 1% to 2%", 2, 1 },   { "errors 1% to 3%", 3, 1 },   { "errors 1% to 5%", 5, 1 },
                    { "errors 1% to 10%", 10, 1 }, { "errors 1% to 60%", 60, 1 }, { "TTFT x 1.1", 1, 1.1 },
                    { "TTFT x 1.2", 1, 1.2 },      { "TTFT x 1.5", 1, 1.5 },      { "TTFT x 2", 1, 2 } };
    printf("\n### Power: what is found of %u experiments in each row, within %u requests (%u where each request is a "
           "unit)\n\n"
           "The same six guards share the 5%%, tolerance 0. Median: requests of both arms until harm was said, over "
           "all experiments.\n"
           "Too few units: the verdict on errors was still \"too little\" at the end; the advice is another unit.\n\n"
           "| units | treated | the arm's harm | found | median requests | by tripwire | too few units |\n"
           "| --- | ---: | --- | ---: | ---: | ---: | ---: |\n",
           experiments, REQUESTS_POWER, REQUESTS_POWER_ALONE);
    for (size_t s = 0; s < ARRAY_LEN(shares); s++)
        for (size_t u = 0; u < ARRAY_LEN(units); u++)
            for (size_t c = 0; c < ARRAY_LEN(changes); c++) {
                struct world_setting setting = { .units = units[u],
                                                 .requests = units[u] ? REQUESTS_POWER : REQUESTS_POWER_ALONE,
                                                 .treated = shares[s],
                                                 .errors = changes[c].errors,
                                                 .ttft = changes[c].ttft,
                                                 .errors_base = 0.01 };
                power_row(&setting, changes[c].name, experiments, seed + 900000011u * (s * 100 + u * 10 + c + 1));
            }
}

/* ---- the program ---- */

static bool number(const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == 0 && *text != '-';
}

static bool wanted(const char *part, const char *name)
{
    return !*part || strcmp(part, name) == 0;
}

int main(int argc, char **argv)
{
    uint64_t experiments = 4000, seed = 1;
    const char *part = "";
    bool usage = false;
    for (int i = 1; i < argc && !usage; i += 2) {
        if (i + 1 == argc)
            usage = true;
        else if (strcmp(argv[i], "--part") == 0)
            part = argv[i + 1];
        else
            usage = !number(argv[i + 1], strcmp(argv[i], "--experiments") == 0 ? &experiments : &seed) ||
                    (strcmp(argv[i], "--experiments") != 0 && strcmp(argv[i], "--seed") != 0);
    }
    if (usage || experiments < 40 || experiments > 1000000) {
        (void)fprintf(stderr,
                      "usage: aa [--experiments N (4000)] [--seed N (1)] [--part alarms|wider|intervals|power]\n"
                      "Prints tables in Markdown; exits 1 when a rate of false alarms is over its nominal one.\n");
        return 2;
    }
    uint32_t n = (uint32_t)experiments;
    bool ok = true;
    if (wanted(part, "alarms")) {
        printf("# Experiments: false alarms and power\n\n"
               "Written by `ninja -C build/release aa_report`, seed %llu. Units are sticky, Zipf-distributed in "
               "traffic (exponent 1.1), come in bursts\n"
               "and by the time of day; each has its own rate of errors, TTFT, speed and cost (lognormal); incidents "
               "hit both arms.\n\n",
               (unsigned long long)seed);
        ok = false_alarms(n, seed);
    }
    if (wanted(part, "wider"))
        wider(n / 4, seed);
    if (wanted(part, "intervals"))
        intervals(n / 4, seed);
    if (wanted(part, "power"))
        power(n / 40, seed);
    return ok ? 0 : 1;
}
