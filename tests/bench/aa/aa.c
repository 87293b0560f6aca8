/* aa - false alarms and power of controlplane/decide/experiment, simulated. Prints Markdown. */
#include "tests/bench/aa/world.h"
#include "common/opts.h"
#include <math.h>

int main(int argc, char **argv)
{
    uint32_t n = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 200;
    uint32_t requests = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 10000;
    static const uint32_t units[] = { 0, 20, 200, 1000 };
    static const double shares[] = { 0.5, 0.05 };
    for (size_t s = 0; s < 2; s++)
        for (size_t u = 0; u < 4; u++) {
            struct world_setting setting = { .units = units[u],
                                             .requests = requests,
                                             .treated = shares[s],
                                             .errors = 1,
                                             .ttft = 1,
                                             .errors_base = 0.01 };
            uint32_t harm = 0, diff = 0, ratio = 0, trip = 0, little = 0, of[WORLD_GUARDS] = { 0 };
            clock_t start = clock();
            for (uint32_t i = 0; i < n; i++) {
                struct world_outcome o;
                world_play(&setting, 1000003ull * (u + 10 * s + 1) + i, world_guards, WORLD_GUARDS, true, &o);
                harm += o.harm;
                diff += o.difference;
                ratio += o.ratio;
                trip += o.tripwire;
                little += o.too_little;
                for (uint32_t g = 0; g < WORLD_GUARDS; g++)
                    of[g] += o.harm_of[g];
            }
            printf("units %u treated %.2f: harm %.2f%% diff %.2f%% ratio %.2f%% trip %.2f%% little %.1f%% | %u %u %u "
                   "%u %u %u | %.1f ms each\n",
                   units[u], shares[s], 100.0 * harm / n, 100.0 * diff / n, 100.0 * ratio / n, 100.0 * trip / n,
                   100.0 * little / n, of[0], of[1], of[2], of[3], of[4], of[5],
                   1000.0 * (double)(clock() - start) / CLOCKS_PER_SEC / n);
            fflush(stdout);
        }
}
