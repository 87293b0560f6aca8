#include "dataplane/worker/http1_target.h"
#include "dataplane/worker/http1_chars.h"

/* Every '%' is followed by two hexadecimal digits, and all bytes are of that kind. */
static bool uri_text(struct span text, unsigned kind)
{
    for (size_t i = 0; i < text.len; i++) {
        if (!http1_is(text.ptr[i], kind))
            return false;
        if (text.ptr[i] == '%' &&
            (text.len - i < 3 || http1_hex(text.ptr[i + 1]) < 0 || http1_hex(text.ptr[i + 2]) < 0))
            return false;
    }
    return true;
}

static bool port_ok(struct span port)
{
    uint64_t value = 0;
    return port.len == 0 || (span_to_u64(port, &value) == OK && value <= 65535);
}

bool http1_host_ok(struct span host)
{
    struct span name = host, port = SPAN("");
    if (host.len > 0 && host.ptr[0] == '[') {
        size_t close = span_find_byte(host, ']');
        if (close == SIZE_MAX || close < 2)
            return false;
        for (size_t i = 1; i < close; i++) /* an IPv6 address; nobody has ever used IPvFuture */
            if (http1_hex(host.ptr[i]) < 0 && host.ptr[i] != ':' && host.ptr[i] != '.')
                return false;
        struct span rest = span_skip(host, close + 1);
        return rest.len == 0 || (rest.ptr[0] == ':' && port_ok(span_skip(rest, 1)));
    }
    size_t colon = span_find_byte(host, ':');
    if (colon != SIZE_MAX) {
        name = span_head(host, colon);
        port = span_skip(host, colon + 1);
    }
    bool brackets = span_find_byte(name, '[') != SIZE_MAX || span_find_byte(name, ']') != SIZE_MAX;
    return !brackets && uri_text(name, HTTP1_HOST) && (name.len > 0 || colon == SIZE_MAX) && port_ok(port);
}

static void split_query(struct span text, struct span *ret_path, struct span *ret_query)
{
    *ret_path = text;
    *ret_query = SPAN("");
    size_t mark = span_find_byte(text, '?');
    if (mark != SIZE_MAX) {
        *ret_path = span_head(text, mark);
        *ret_query = span_skip(text, mark + 1);
    }
}

/* What stands behind "http://". */
static enum err split_absolute(struct span rest, struct span *ret_path, struct span *ret_query,
                               struct span *ret_authority)
{
    size_t end = 0;
    while (end < rest.len && rest.ptr[end] != '/' && rest.ptr[end] != '?')
        end++;
    *ret_authority =
        span_head(rest, end); /* '@' is no host byte: user names in targets are refused, RFC 9110 section 4.2.4 */
    if (end == 0 || !http1_host_ok(*ret_authority))
        return ERR_SYNTAX;
    split_query(span_skip(rest, end), ret_path, ret_query);
    if (ret_path->len == 0)
        *ret_path = SPAN("/");
    return OK;
}

enum err http1_split_target(enum http1_method method, struct span target, struct span *ret_path, struct span *ret_query,
                            struct span *ret_authority)
{
    *ret_path = *ret_query = *ret_authority = SPAN("");
    if (method == HTTP1_CONNECT) {
        *ret_authority = target;
        size_t last = target.len;
        while (last > 0 && http1_is_digit(target.ptr[last - 1]))
            last--;
        bool has_port = last > 1 && last < target.len && target.ptr[last - 1] == ':';
        return has_port && http1_host_ok(target) ? OK : ERR_SYNTAX;
    }
    if (!uri_text(target, HTTP1_TARGET))
        return ERR_SYNTAX;
    if (span_eq(target, SPAN("*"))) {
        *ret_path = target;
        return method == HTTP1_OPTIONS ? OK : ERR_SYNTAX;
    }
    if (target.ptr[0] == '/') {
        split_query(target, ret_path, ret_query);
        return OK;
    }
    if (span_starts_nocase(target, SPAN("http://")))
        return split_absolute(span_skip(target, 7), ret_path, ret_query, ret_authority);
    if (span_starts_nocase(target, SPAN("https://")))
        return split_absolute(span_skip(target, 8), ret_path, ret_query, ret_authority);
    return ERR_SYNTAX;
}

void http1_read_expect(struct span value, struct http1_head *head)
{
    struct span member;
    while (span_split(&value, ',', &member)) {
        member = span_trim(member);
        if (span_eq_nocase(member, SPAN("100-continue")))
            head->expect_continue = true;
        else if (!span_empty(member))
            head->expect_unknown = true;
    }
}
