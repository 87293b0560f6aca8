#include "dataplane/route/retry.h"

static const struct {
    const char *name;
    struct retry_rule rule;
} failures[RETRY_FAILURES] = {
    [RETRY_STATUS] = { "status", { .next = false } }, /* see of_status */
    [RETRY_CONNECT] = { "connect", { .next = true, .breaker = true } },
    [RETRY_TLS] = { "tls", { .next = true, .breaker = true } },
    [RETRY_RESET] = { "reset", { .next = true, .breaker = true, .maybe_billed = true } },
    [RETRY_TIMEOUT] = { "timeout", { .next = true, .breaker = true, .maybe_billed = true } },
    [RETRY_PROTOCOL] = { "protocol", { .next = true, .breaker = true, .maybe_billed = true } },
    [RETRY_ERROR_IN_200] = { "error_in_200", { .next = true, .breaker = true, .maybe_billed = true } },
    [RETRY_REFUSAL_IN_200] = { "refusal_in_200", { .pass_through = true } },
    [RETRY_EMPTY] = { "empty", { .next = true, .breaker = true, .maybe_billed = true } },
    [RETRY_GARBAGE] = { "garbage", { .next = true, .breaker = true, .maybe_billed = true } },
    /* A fat answer is this request's doing more than the model's. */
    [RETRY_TOO_LARGE] = { "too_large", { .next = true, .maybe_billed = true } },
    /* Our own lack: no reason to shun the model. */
    [RETRY_NO_CREDENTIAL] = { "no_credential", { .next = true, .credential_bad = true } },
    [RETRY_NO_CAPACITY] = { "no_capacity", { .next = true } },
};

/* First match wins. An error's status means that nothing was generated, so nothing is billed; but 408 and 504 say that
 * somebody on the way only stopped waiting. */
static const struct {
    unsigned from, to;
    struct retry_rule rule;
} statuses[] = {
    { 401, 401, { .next = true, .credential_bad = true } }, /* our credential, never the client's key */
    { 402, 402, { .next = true, .breaker = true } },        /* our account there is empty */
    { 403, 403, { .next = true, .credential_bad = true } },
    /* The deployment is gone, or a client asked a chat model for text completions: elsewhere it may go well, but one
     * client's odd requests must not eject a model for all. */
    { 404, 404, { .next = true } },
    { 408, 408, { .next = true, .breaker = true, .maybe_billed = true } },
    { 409, 409, { .next = true } }, /* OpenAI's SDKs retry it: a lock over there */
    { 425, 425, { .next = true } },
    { 429, 429, { .next = true, .cool_down = true } }, /* busy, not broken */
    { 400, 499, { .pass_through = true } },            /* 400, 413, 415, 422, ...: about what the client sent */
    { 503, 503, { .next = true, .breaker = true, .cool_down = true } },
    { 504, 504, { .next = true, .breaker = true, .maybe_billed = true } },
    { 529, 529, { .next = true, .breaker = true, .cool_down = true } }, /* Anthropic: overloaded */
    { 500, 599, { .next = true, .breaker = true } },
    { 0, 999, { .next = true, .breaker = true } }, /* 1xx, 3xx (redirects are off), and what no standard knows */
};

const char *retry_failure_name(enum retry_failure failure)
{
    REQUIRE(failure < RETRY_FAILURES);
    return failures[failure].name;
}

static struct retry_rule of_status(unsigned status)
{
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++)
        if (status >= statuses[i].from && status <= statuses[i].to)
            return statuses[i].rule;
    return (struct retry_rule){ .next = true, .breaker = true };
}

struct retry_rule retry_rule(enum retry_failure failure, unsigned status, bool content_seen)
{
    REQUIRE(failure < RETRY_FAILURES);
    struct retry_rule rule = failure == RETRY_STATUS ? of_status(status) : failures[failure].rule;
    if (content_seen)
        rule.next = rule.pass_through = false;
    return rule;
}

bool retry_take(struct retry_budget *budget)
{
    uint64_t places = (uint64_t)budget->active * RETRY_BUDGET_PERCENT / 100 + RETRY_BUDGET_LEAST;
    if (budget->retrying >= places)
        return false;
    budget->retrying++;
    return true;
}

void retry_give(struct retry_budget *budget)
{
    REQUIRE(budget->retrying > 0);
    budget->retrying--;
}

/* Days since 1970-01-01 in the proleptic Gregorian calendar; month 1..12. Counts years from March, so that the leap day
 * is a year's last. */
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
    year -= month <= 2;
    int64_t from_march = (month + 9) % 12;
    return 365 * year + year / 4 - year / 100 + year / 400 + (153 * from_march + 2) / 5 + day - 1 - 719468;
}

static bool digits(struct span s, size_t at, size_t n, int64_t *ret)
{
    uint64_t value;
    if (span_to_u64(span_head(span_skip(s, at), n), &value))
        return false;
    *ret = (int64_t)value;
    return true;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 section 5.6.7, the one form that may be sent) to seconds since 1970. */
static bool http_date(struct span s, int64_t *ret_s)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    if (s.len != 29 || !span_ends(s, SPAN(" GMT")))
        return false;
    size_t month = 0;
    while (month < 12 && memcmp(months + 3 * month, s.ptr + 8, 3) != 0)
        month++;
    int64_t day, year, hour, minute, second;
    if (month == 12 || !digits(s, 5, 2, &day) || !digits(s, 12, 4, &year) || !digits(s, 17, 2, &hour) ||
        !digits(s, 20, 2, &minute) || !digits(s, 23, 2, &second))
        return false;
    if (day < 1 || day > 31 || year < 1970 || hour > 23 || minute > 59 || second > 60)
        return false;
    *ret_s = ((days_of(year, (int64_t)month + 1, day) * 24 + hour) * 60 + minute) * 60 + second;
    return true;
}

uint32_t retry_after_ms(struct span value, int64_t now_ms)
{
    value = span_trim(value);
    uint64_t seconds;
    int64_t at_s;
    enum err err = span_to_u64(value, &seconds);
    if (err == OK)
        return seconds >= RETRY_AFTER_MAX_MS / 1000 ? RETRY_AFTER_MAX_MS : (uint32_t)seconds * 1000;
    if (err == ERR_TOO_LARGE)
        return RETRY_AFTER_MAX_MS;
    if (!http_date(value, &at_s))
        return 0;
    int64_t left = at_s * 1000 - now_ms;
    return left <= 0 ? 0 : left >= (int64_t)RETRY_AFTER_MAX_MS ? RETRY_AFTER_MAX_MS : (uint32_t)left;
}
