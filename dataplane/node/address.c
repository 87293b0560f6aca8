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

bool address_agrees(const struct address *wanted, const struct address *have)
{
    struct address same = *have;
    char a[ADDRESS_TEXT_BYTES], b[ADDRESS_TEXT_BYTES];
    if (address_port(wanted) == 0)
        address_set_port(&same, 0);
    return strcmp(address_format(wanted, a), address_format(&same, b)) == 0;
}

/* The 16 bytes that networks are compared by. */
static bool bytes_of(const struct sockaddr *address, uint8_t *out)
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    if (address->sa_family == AF_INET6) {
        memcpy(out, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
        return true;
    }
    if (address->sa_family != AF_INET)
        return false;
    memcpy(out, mapped, sizeof(mapped));
    memcpy(out + sizeof(mapped), &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
    return true;
}

/* Do the first `bits` bits agree? */
static bool starts_alike(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    const unsigned whole = bits / 8, rest = bits % 8;
    return memcmp(a, b, whole) == 0 && (rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0);
}

enum err network_parse(struct span text, struct network *ret)
{
    struct network network = { .bits = 0 };
    struct sockaddr_storage address = { .ss_family = AF_INET6 };
    char host[INET6_ADDRSTRLEN];
    const size_t slash = span_find_byte(text, '/');
    const struct span name = span_head(text, slash);
    if (name.len == 0 || name.len >= sizeof(host) || memchr(name.ptr, '\0', name.len))
        return ERR_INVALID;
    memcpy(host, name.ptr, name.len);
    host[name.len] = '\0';
    uint64_t bits = 128, most = 128;
    if (inet_pton(AF_INET6, host, &((struct sockaddr_in6 *)&address)->sin6_addr) != 1) {
        address.ss_family = AF_INET;
        bits = most = 32;
        if (inet_pton(AF_INET, host, &((struct sockaddr_in *)&address)->sin_addr) != 1)
            return ERR_INVALID;
    }
    if (slash != SIZE_MAX && (span_to_u64(span_skip(text, slash + 1), &bits) || bits > most))
        return ERR_INVALID;
    (void)bytes_of((struct sockaddr *)&address, network.bytes);
    network.bits = (unsigned)(bits + 128 - most);
    for (unsigned i = network.bits; i < 128; i++) {
        if (network.bytes[i / 8] & 0x80u >> i % 8)
            return ERR_INVALID;
    }
    *ret = network;
    return OK;
}

bool network_has(const struct network *network, const struct sockaddr *address)
{
    uint8_t bytes[16];
    return bytes_of(address, bytes) && starts_alike(network->bytes, bytes, network->bits);
}
