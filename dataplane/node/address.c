#include "dataplane/node/address.h"
#include <arpa/inet.h>
#include <netinet/in.h>

static bool parse_host(struct span host, struct address *ret)
{
    char text[INET6_ADDRSTRLEN];
    struct sockaddr_in *four = (struct sockaddr_in *)&ret->bytes;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&ret->bytes;
    const bool bracketed = host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']';
    if (span_eq(host, SPAN("localhost")))
        host = SPAN("127.0.0.1");
    if (bracketed)
        host = span_of(host.ptr + 1, host.len - 2);
    if (host.len >= sizeof(text))
        return false;
    memcpy(text, host.ptr, host.len);
    text[host.len] = '\0';
    if (bracketed) {
        six->sin6_family = AF_INET6;
        ret->len = sizeof(*six);
        return inet_pton(AF_INET6, text, &six->sin6_addr) == 1;
    }
    four->sin_family = AF_INET;
    ret->len = sizeof(*four);
    return inet_pton(AF_INET, text, &four->sin_addr) == 1;
}

enum err address_parse(struct span text, struct address *ret)
{
    struct address address = { .len = 0 };
    uint64_t port;
    size_t colon = text.len;
    while (colon > 0 && text.ptr[colon - 1] != ':')
        colon--;
    if (colon < 2 || span_to_u64(span_skip(text, colon), &port) != OK || port > UINT16_MAX)
        return ERR_INVALID;
    if (!parse_host(span_head(text, colon - 1), &address))
        return ERR_INVALID;
    address_set_port(&address, (uint16_t)port);
    *ret = address;
    return OK;
}

uint16_t address_port(const struct address *address)
{
    return ntohs(address->bytes.ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)&address->bytes)->sin6_port
                                                      : ((const struct sockaddr_in *)&address->bytes)->sin_port);
}

void address_set_port(struct address *address, uint16_t port)
{
    if (address->bytes.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&address->bytes)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)&address->bytes)->sin_port = htons(port);
}

char *address_format(const struct address *address, char *out)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (address->bytes.ss_family == AF_INET6) {
        (void)inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)&address->bytes)->sin6_addr, host, sizeof(host));
        (void)snprintf(out, ADDRESS_TEXT_BYTES, "[%s]:%u", host, (unsigned)address_port(address));
    } else {
        (void)inet_ntop(AF_INET, &((const struct sockaddr_in *)&address->bytes)->sin_addr, host, sizeof(host));
        (void)snprintf(out, ADDRESS_TEXT_BYTES, "%s:%u", host, (unsigned)address_port(address));
    }
    return out;
}
