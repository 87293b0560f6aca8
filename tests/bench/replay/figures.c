#include "tests/bench/replay/figures.h"

char *figure_count(uint64_t value, char *out)
{
    char digits[24];
    int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)value);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

char *figure_time(uint64_t us, char *out)
{
    if (us < 10000)
        (void)snprintf(out, FIGURE_BYTES, "%.1f ms", (double)us / 1e3);
    else if (us < 1000000)
        (void)snprintf(out, FIGURE_BYTES, "%.0f ms", (double)us / 1e3);
    else
        (void)snprintf(out, FIGURE_BYTES, "%.2f s", (double)us / 1e6);
    return out;
}

char *figure_usd(uint64_t nano, char *out)
{
    uint64_t micro = nano / 1000 + (nano % 1000 >= 500);
    (void)snprintf(out, FIGURE_BYTES, "%llu.%06llu", (unsigned long long)(micro / 1000000),
                   (unsigned long long)(micro % 1000000));
    return out;
}
