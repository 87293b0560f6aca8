#include "common/clock.h"
#include "common/units.h"

#define MS_PER_DAY INT64_C(86400000)

static uint64_t system_monotonic_ns(void *user UNUSED)
{
    struct timespec now;
    REQUIRE(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static int64_t system_wall_ms(void *user UNUSED)
{
    struct timespec now;
    REQUIRE(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const struct clock_source system_source = { .monotonic_ns = system_monotonic_ns, .wall_ms = system_wall_ms };
static struct clock_source source = { .monotonic_ns = system_monotonic_ns, .wall_ms = system_wall_ms };

uint64_t clock_ns(void)
{
    return source.monotonic_ns(source.user);
}

uint64_t clock_ms(void)
{
    return clock_ns() / 1000000;
}

int64_t clock_wall_ms(void)
{
    return source.wall_ms(source.user);
}

void clock_replace(const struct clock_source *replacement)
{
    source = replacement ? *replacement : system_source;
}

/* Days since 1970-01-01 of a date in the Gregorian calendar, and back: Howard Hinnant, "chrono-compatible low-level
 * date algorithms". Years are counted from March, in eras of 400. */
static int64_t days_of_date(int64_t year, unsigned month, unsigned day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    unsigned year_of_era = (unsigned)(year - era * 400);
    unsigned day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    unsigned day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + (int64_t)day_of_era - 719468;
}

static void date_of_days(int64_t days, int64_t *ret_year, unsigned *ret_month, unsigned *ret_day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned day_of_era = (unsigned)(days - era * 146097);
    unsigned year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned month_from_march = (5 * day_of_year + 2) / 153;
    *ret_day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    *ret_month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
    *ret_year = (int64_t)year_of_era + era * 400 + (*ret_month <= 2);
}

char *clock_format_wall(int64_t wall_ms, char *out)
{
    int64_t days = wall_ms / MS_PER_DAY, in_day = wall_ms % MS_PER_DAY;
    if (in_day < 0) {
        in_day += MS_PER_DAY;
        days--;
    }
    int64_t year;
    unsigned month, day, ms = (unsigned)in_day;
    date_of_days(days, &year, &month, &day);
    char *at = out;
    if (year >= 0 && year <= 9999) {
        units_put_padded((uint64_t)year, 4, at);
        at += 4;
    } else { /* the years of an int64_t of milliseconds have nine digits */
        at += snprintf(at, 16, "%04lld", (long long)year);
    }
    /* By hand: every record has a time, and snprintf costs ten times as much. */
    memcpy(at, "-00-00T00:00:00.000Z", sizeof "-00-00T00:00:00.000Z");
    units_put_padded(month, 2, at + 1);
    units_put_padded(day, 2, at + 4);
    units_put_padded(ms / 3600000, 2, at + 7);
    units_put_padded(ms / 60000 % 60, 2, at + 10);
    units_put_padded(ms / 1000 % 60, 2, at + 13);
    units_put_padded(ms % 1000, 3, at + 16);
    return out;
}

/* Takes exactly `digits` digits that make a number from low to high. */
static bool take_number(struct span *text, size_t digits, unsigned low, unsigned high, unsigned *ret)
{
    uint64_t value;
    if (text->len < digits || span_to_u64(span_head(*text, digits), &value) != OK || value < low || value > high)
        return false;
    *text = span_skip(*text, digits);
    *ret = (unsigned)value;
    return true;
}

static bool take_byte(struct span *text, const char *one_of)
{
    if (text->len == 0 || text->ptr[0] == '\0' || !strchr(one_of, text->ptr[0]))
        return false;
    *text = span_skip(*text, 1);
    return true;
}

/* ".123456": finer than a millisecond is cut off. */
static bool take_fraction(struct span *text, unsigned *ret_ms)
{
    *ret_ms = 0;
    if (!take_byte(text, "."))
        return true;
    unsigned digit, weight = 100;
    size_t digits = 0;
    for (; take_number(text, 1, 0, 9, &digit); digits++) {
        *ret_ms += digit * weight;
        weight /= 10;
    }
    return digits > 0;
}

static bool take_offset(struct span *text, int64_t *ret_minutes)
{
    *ret_minutes = 0;
    if (take_byte(text, "Zz"))
        return true;
    bool west = text->len > 0 && text->ptr[0] == '-';
    unsigned hours, minutes;
    if (!take_byte(text, "+-") || !take_number(text, 2, 0, 23, &hours) || !take_byte(text, ":") ||
        !take_number(text, 2, 0, 59, &minutes))
        return false;
    *ret_minutes = (int64_t)(hours * 60 + minutes) * (west ? -1 : 1);
    return true;
}

static unsigned days_in_month(unsigned year, unsigned month)
{
    static const unsigned char days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap ? 1U : 0U);
}

enum err clock_parse_wall(struct span text, int64_t *ret_wall_ms)
{
    if (span_eq(text, SPAN("now"))) {
        *ret_wall_ms = clock_wall_ms();
        return OK;
    }
    unsigned year, month, day;
    if (!take_number(&text, 4, 0, 9999, &year) || !take_byte(&text, "-") || !take_number(&text, 2, 1, 12, &month) ||
        !take_byte(&text, "-") || !take_number(&text, 2, 1, days_in_month(year, month), &day))
        return ERR_SYNTAX;
    unsigned hour = 0, minute = 0, second = 0, ms = 0;
    int64_t offset_minutes = 0;
    if (text.len > 0) {
        /* RFC 3339, 5.6: a space may stand for the T, letters may be small, and 60 is a leap second. */
        if (!take_byte(&text, "Tt ") || !take_number(&text, 2, 0, 23, &hour) || !take_byte(&text, ":") ||
            !take_number(&text, 2, 0, 59, &minute) || !take_byte(&text, ":") ||
            !take_number(&text, 2, 0, 60, &second) || !take_fraction(&text, &ms) ||
            !take_offset(&text, &offset_minutes) || text.len > 0)
            return ERR_SYNTAX;
    }
    int64_t seconds = ((int64_t)hour * 60 + minute - offset_minutes) * 60 + second;
    *ret_wall_ms = days_of_date(year, month, day) * MS_PER_DAY + seconds * 1000 + ms;
    return OK;
}
