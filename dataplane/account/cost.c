#include "dataplane/account/cost.h"

__extension__ typedef unsigned __int128 wide; /* 10^9 tokens x 2^63 x 10^6 needs 113 bits */

#define MILLION UINT64_C(1000000)

struct rates { /* nano-dollars per million tokens; complete */
    uint64_t input, output, cache_read, cache_write, reasoning;
};

/* Prices are never negative; a table that says otherwise is treated as free rather than paying the client. */
static uint64_t rate(int64_t price)
{
    return price > 0 ? (uint64_t)price : 0;
}

static wide round_up(wide value, wide unit)
{
    return (value + unit - 1) / unit;
}

/* base x to / from, rounded up; `to` when nothing can be inferred. */
static uint64_t in_proportion(uint64_t base, uint64_t from, uint64_t to)
{
    if (from == 0)
        return to;
    wide value = round_up((wide)base * to, from);
    return value > INT64_MAX ? INT64_MAX : (uint64_t)value;
}

static struct rates rates_of(const struct price *p, uint64_t input_tokens)
{
    struct rates r = { .input = rate(p->input), .output = rate(p->output) };
    r.cache_read = p->known & PRICE_CACHE_READ ? rate(p->cache_read) : r.input;
    r.cache_write = p->known & PRICE_CACHE_WRITE ? rate(p->cache_write) : r.input;
    r.reasoning = p->known & PRICE_REASONING ? rate(p->reasoning) : r.output;
    if (!(p->known & PRICE_LONG) || input_tokens <= p->long_above)
        return r;
    struct rates l = { .input = p->long_input > 0 ? rate(p->long_input) : r.input,
                       .output = p->long_output > 0 ? rate(p->long_output) : r.output };
    l.cache_read = p->long_cache_read > 0 ? rate(p->long_cache_read) : in_proportion(r.cache_read, r.input, l.input);
    l.cache_write = in_proportion(r.cache_write, r.input, l.input);
    l.reasoning = in_proportion(r.reasoning, r.output, l.output);
    return l;
}

static int64_t saturated(wide value)
{
    return value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

struct cost cost_of(const struct price *price, uint32_t discount_ppm, const struct usage *usage)
{
    REQUIRE(discount_ppm <= MILLION);
    wide sum = (wide)rate(price->known & PRICE_REQUEST ? price->request : 0) * MILLION;
    if (usage->known || usage->estimated) {
        /* Parts within the whole are usage.c's promise; a broken one must not wrap around here. */
        uint64_t cached = usage->cached < usage->input ? usage->cached : usage->input;
        uint64_t written = usage->cache_write < usage->input - cached ? usage->cache_write : usage->input - cached;
        uint64_t reasoning = usage->reasoning < usage->output ? usage->reasoning : usage->output;
        struct rates r = rates_of(price, usage->input);
        sum += (wide)(usage->input - cached - written) * r.input;
        sum += (wide)cached * r.cache_read + (wide)written * r.cache_write;
        sum += (wide)(usage->output - reasoning) * r.output + (wide)reasoning * r.reasoning;
    }
    wide list = round_up(sum, MILLION);
    if (list > INT64_MAX) /* before the discount's multiplication can overflow */
        return (struct cost){ .list_nano = INT64_MAX, .charged_nano = discount_ppm == MILLION ? 0 : INT64_MAX };
    return (struct cost){ .list_nano = saturated(list),
                          .charged_nano =
                              saturated(round_up(sum * (MILLION - discount_ppm), (wide)MILLION * MILLION)) };
}
