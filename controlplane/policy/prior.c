#include "controlplane/policy/prior.h"
#include <math.h>

void prior_normalise(const double *raw, uint32_t count, uint32_t *ret_ppm)
{
    REQUIRE(count > 0 && count <= TIER_MEMBERS_MAX);
    double remainders[TIER_MEMBERS_MAX] = { 0 }, sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += raw[i];
    REQUIRE(sum > 0);
    uint32_t given = 0;
    for (uint32_t i = 0; i < count; i++) {
        double exact = raw[i] / sum * WEIGHT_WHOLE;
        ret_ppm[i] = (uint32_t)floor(exact);
        remainders[i] = exact - floor(exact);
        given += ret_ppm[i];
    }
    /* Rounding may have given a millionth too much where exact is a hair above a whole number. */
    for (uint32_t i = 0; given > WEIGHT_WHOLE; i = (i + 1) % count) {
        if (ret_ppm[i] > 0) {
            ret_ppm[i]--;
            given--;
        }
    }
    while (given < WEIGHT_WHOLE) {
        uint32_t best = count;
        for (uint32_t i = 0; i < count; i++) {
            if (raw[i] > 0 && (best == count || remainders[i] > remainders[best]))
                best = i;
        }
        ret_ppm[best]++;
        remainders[best] -= 1;
        given++;
    }
}

int64_t prior_cost(const struct price *price, uint32_t discount_ppm, uint64_t input_tokens, uint64_t output_tokens)
{
    bool is_long = (price->known & PRICE_LONG) && input_tokens > price->long_above;
    __extension__ __int128 sum = (__int128)(is_long ? price->long_input : price->input) * (int64_t)input_tokens +
                                 (__int128)(is_long ? price->long_output : price->output) * (int64_t)output_tokens +
                                 (__int128)price->request * 1000000;
    sum = sum * (int64_t)(1000000 - discount_ppm);
    __extension__ const __int128 unit = (__int128)1000000 * 1000000; /* per million tokens, times parts per million */
    sum = (sum + unit - 1) / unit;
    return sum > INT64_MAX ? INT64_MAX : (int64_t)sum;
}

double prior_cost_penalty(double cost, double least, double most)
{
    if (most <= least || cost <= least)
        return 0;
    const double of_range = (cost - least) / (most - least);
    const double relative = 1 - least / cost;
    return fmin(fmax(of_range, relative), 1);
}

void prior_weights(const int64_t *costs, uint32_t count, const struct objective_weights *objectives, uint32_t *ret_ppm)
{
    REQUIRE(count > 0 && count <= TIER_MEMBERS_MAX);
    double all =
        (double)objectives->cost + objectives->ttft + objectives->speed + objectives->errors + objectives->headroom;
    double share = all > 0 ? objectives->cost / all : 0;
    int64_t least = costs[0], most = costs[0];
    for (uint32_t i = 1; i < count; i++) {
        least = costs[i] < least ? costs[i] : least;
        most = costs[i] > most ? costs[i] : most;
    }
    double raw[TIER_MEMBERS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        double x = prior_cost_penalty((double)costs[i], (double)least, (double)most);
        raw[i] = exp(-PRIOR_SHARPNESS * share * x);
    }
    prior_normalise(raw, count, ret_ppm);
}
