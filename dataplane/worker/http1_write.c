#include "dataplane/worker/http1.h"
#include "common/units.h"
#include "dataplane/worker/http1_chars.h"
#include <time.h>

static bool all_are(struct span text, unsigned kind)
{
    unsigned all = kind; /* no early exit: nearly every text is good, and the loop without branches is the fast one */
    for (size_t i = 0; i < text.len; i++)
        all &= http1_chars[(unsigned char)text.ptr[i]];
    return (all & kind) == kind;
}

/* The parts in one piece or not at all: half a line must never be sent. */
static enum err append_all(struct buf *buf, const struct span *parts, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        if (!size_add(total, parts[i].len, &total))
            return ERR_FULL;
    char *at;
    enum err err = buf_reserve(buf, total, &at);
    if (err)
        return err;
    for (size_t i = 0; i < count; i++) {
        if (parts[i].len > 0)
            memcpy(at, parts[i].ptr, parts[i].len);
        at += parts[i].len;
    }
    buf_commit(buf, total);
    return OK;
}

enum err http1_write_request_line(struct buf *buf, struct span method, struct span target)
{
    if (method.len == 0 || target.len == 0 || !all_are(method, HTTP1_TOKEN) || !all_are(target, HTTP1_TARGET))
        return ERR_INVALID;
    const struct span parts[] = { method, SPAN(" "), target, SPAN(" HTTP/1.1\r\n") };
    return append_all(buf, parts, ARRAY_LEN(parts));
}

enum err http1_write_status_line(struct buf *buf, unsigned status)
{
    REQUIRE(status >= 100 && status <= 999);
    char digits[UNITS_U64_BYTES];
    const struct span parts[] = { SPAN("HTTP/1.1 "), span_of(digits, units_put_u64(status, digits)), SPAN(" "),
                                  span_cstr(http1_status_phrase(status)), SPAN("\r\n") };
    return append_all(buf, parts, ARRAY_LEN(parts));
}

/* "name: " and where a value of as many bytes and the line's end have room; NULL with the reason in *ret_err. A dozen
 * lines are written for each request: in one piece each. */
static char *begin_line(struct buf *buf, struct span name, size_t value_bytes, enum err *ret_err)
{
    size_t total;
    char *at = NULL;
    if (name.len == 0 || !all_are(name, HTTP1_TOKEN))
        *ret_err = ERR_INVALID;
    else if (!size_add(name.len, 4, &total) || !size_add(total, value_bytes, &total))
        *ret_err = ERR_FULL;
    else
        *ret_err = buf_reserve(buf, total, &at);
    if (*ret_err)
        return NULL;
    memcpy(at, name.ptr, name.len);
    memcpy(at + name.len, ": ", 2);
    return at + name.len + 2;
}

enum err http1_write_header(struct buf *buf, struct span name, struct span value)
{
    const char *end = value.ptr + value.len;
    if (value.len > 0 && http1_value_run(value.ptr, end) != end)
        return ERR_INVALID;
    enum err err;
    char *at = begin_line(buf, name, value.len, &err);
    if (!at)
        return err;
    if (value.len > 0)
        memcpy(at, value.ptr, value.len);
    memcpy(at + value.len, "\r\n", 2);
    buf_commit(buf, name.len + value.len + 4);
    return OK;
}

enum err http1_write_header_u64(struct buf *buf, struct span name, uint64_t value)
{
    enum err err;
    char *at = begin_line(buf, name, UNITS_U64_BYTES, &err);
    if (!at)
        return err;
    const size_t digits = units_put_u64(value, at);
    memcpy(at + digits, "\r\n", 2);
    buf_commit(buf, name.len + digits + 4);
    return OK;
}

enum err http1_write_head_end(struct buf *buf)
{
    return buf_append(buf, SPAN("\r\n"));
}

enum err http1_write_chunk_size(struct buf *buf, size_t bytes)
{
    REQUIRE(bytes > 0);
    return buf_printf(buf, "%zx\r\n", bytes);
}

char *http1_format_date(int64_t wall_ms, char out[HTTP1_DATE_BYTES])
{
    /* Not strftime's: names must not follow the locale. */
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t at = (time_t)(wall_ms / 1000);
    struct tm t;
    REQUIRE(wall_ms >= 0 && gmtime_r(&at, &t) && t.tm_year < 8100);
    /* The remainders change nothing: by them the compiler knows that it fits. */
    (void)snprintf(out, HTTP1_DATE_BYTES, "%.3s, %02u %.3s %04u %02u:%02u:%02u GMT", days + 3 * t.tm_wday,
                   (unsigned)t.tm_mday % 100u, months + 3 * t.tm_mon, (unsigned)(t.tm_year + 1900) % 10000u,
                   (unsigned)t.tm_hour % 100u, (unsigned)t.tm_min % 100u, (unsigned)t.tm_sec % 100u);
    return out;
}

const char *http1_status_phrase(unsigned status)
{
    static const struct {
        unsigned status;
        const char *phrase;
    } phrases[] = {
        { 100, "Continue" },
        { 101, "Switching Protocols" },
        { 103, "Early Hints" },
        { 200, "OK" },
        { 201, "Created" },
        { 202, "Accepted" },
        { 203, "Non-Authoritative Information" },
        { 204, "No Content" },
        { 205, "Reset Content" },
        { 206, "Partial Content" },
        { 300, "Multiple Choices" },
        { 301, "Moved Permanently" },
        { 302, "Found" },
        { 303, "See Other" },
        { 304, "Not Modified" },
        { 307, "Temporary Redirect" },
        { 308, "Permanent Redirect" },
        { 400, "Bad Request" },
        { 401, "Unauthorized" },
        { 402, "Payment Required" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 406, "Not Acceptable" },
        { 407, "Proxy Authentication Required" },
        { 408, "Request Timeout" },
        { 409, "Conflict" },
        { 410, "Gone" },
        { 411, "Length Required" },
        { 412, "Precondition Failed" },
        { 413, "Content Too Large" },
        { 414, "URI Too Long" },
        { 415, "Unsupported Media Type" },
        { 416, "Range Not Satisfiable" },
        { 417, "Expectation Failed" },
        { 421, "Misdirected Request" },
        { 422, "Unprocessable Content" },
        { 424, "Failed Dependency" },
        { 425, "Too Early" },
        { 426, "Upgrade Required" },
        { 428, "Precondition Required" },
        { 429, "Too Many Requests" },
        { 431, "Request Header Fields Too Large" },
        { 451, "Unavailable For Legal Reasons" },
        { 499, "Client Closed Request" },
        { 500, "Internal Server Error" },
        { 501, "Not Implemented" },
        { 502, "Bad Gateway" },
        { 503, "Service Unavailable" },
        { 504, "Gateway Timeout" },
        { 505, "HTTP Version Not Supported" },
        { 529, "Overloaded" },
    };
    for (size_t i = 0; i < ARRAY_LEN(phrases); i++)
        if (phrases[i].status == status)
            return phrases[i].phrase;
    return "Unknown";
}
