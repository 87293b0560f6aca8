/* cost.h - tokens times prices, exactly. Pure.
 *
 * Prices are nano-dollars per million tokens. Every part is multiplied and added in 128 bits, then rounded up once, to
 * a whole nano-dollar: list = ceil(sum / 10^6), charged = ceil(sum x (10^6 - discount_ppm) / 10^12).
 *
 *   sum = plain input x input + cached x cache_read + cache_write x cache_write
 *       + plain output x output + reasoning x reasoning + 10^6 x request
 *
 * Absent parts fall back as tables.h says. When input > long_above the whole request is billed at the long tier; what
 * the tier does not name (cache_write, reasoning, or an unset long_cache_read) grows in proportion to input or output.
 */
#pragma once
#include "dataplane/dialect/chat.h"
#include "proto/tables.h"

struct cost {
    int64_t list_nano;
    int64_t charged_nano;
};
/* usage->known or estimated; the absence of usage costs the request price only. Saturates at INT64_MAX, which no real
 * figures reach. discount_ppm <= 1,000,000. */
struct cost cost_of(const struct price *price, uint32_t discount_ppm, const struct usage *usage);
