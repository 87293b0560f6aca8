#include "tests/support/load_url.h"
#include <netdb.h>

enum err load_url_split(const char *text, struct load_url *ret)
{
    struct span rest = span_cstr(text);
    ret->tls = span_starts(rest, SPAN("https://"));
    if (!ret->tls && !span_starts(rest, SPAN("http://")))
        return ERR_INVALID;
    rest = span_skip(rest, strlen(ret->tls ? "https://" : "http://"));
    size_t slash = span_find_byte(rest, '/');
    ret->authority = span_head(rest, slash);
    ret->path = slash == SIZE_MAX ? SPAN("/") : span_skip(rest, slash);
    return OK;
}

enum err load_url_resolve(const struct load_url *url, struct sockaddr_storage *ret, const char **ret_why)
{
    char host[256];
    char port[8];
    (void)snprintf(port, sizeof(port), "%s", url->tls ? "443" : "80");
    struct span authority = url->authority;
    size_t colon = authority.len;
    while (colon > 0 && authority.ptr[colon - 1] != ':' && authority.ptr[colon - 1] != ']')
        colon--;
    bool has_port = colon > 0 && authority.ptr[colon - 1] == ':';
    struct span name = has_port ? span_head(authority, colon - 1) : authority;
    if (name.len > 2 && name.ptr[0] == '[')
        name = span_of(name.ptr + 1, name.len - 2);
    if (has_port)
        (void)snprintf(port, sizeof(port), SPAN_FMT, SPAN_ARG(span_skip(authority, colon)));
    (void)snprintf(host, sizeof(host), SPAN_FMT, SPAN_ARG(name));
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    int code = getaddrinfo(host, port, &hints, &found);
    if (code != 0) {
        *ret_why = gai_strerror(code);
        return ERR_NOT_FOUND;
    }
    memcpy(ret, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return OK;
}
