#include "dataplane/worker/proxy_v2.h"
#include <arpa/inet.h>

#define FIXED_BYTES 16u

enum { COMMAND_LOCAL = 0x0, COMMAND_PROXY = 0x1 };
enum { TCP_OVER_V4 = 0x11, TCP_OVER_V6 = 0x21 };

static const uint8_t signature[12] = { '\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n' };

static unsigned length_of(const struct proxy_v2 *header)
{
    return (unsigned)header->bytes[14] << 8 | header->bytes[15];
}

/* The addresses' size; 0: unspecified, of whatever length. -1: no family and protocol of the specification. */
static int address_bytes(uint8_t family_and_protocol)
{
    const unsigned protocol = family_and_protocol & 0xfu;
    if (protocol > 2)
        return -1;
    switch (family_and_protocol >> 4) {
    case 0:
        return 0;
    case 1:
        return 12;
    case 2:
        return 36;
    case 3:
        return 216;
    default:
        return -1;
    }
}

/* The fixed part -> how much of what follows is kept, and how much is skipped. */
static enum err judge(struct proxy_v2 *header)
{
    const unsigned length = length_of(header);
    const int addresses = address_bytes(header->bytes[13]);
    const unsigned command = header->bytes[12] & 0xfu;
    if (header->bytes[12] >> 4 != 2 || command > COMMAND_PROXY || addresses < 0 ||
        FIXED_BYTES + length > PROXY_V2_BYTES_MAX)
        return ERR_SYNTAX;
    /* The addresses of a LOCAL connection mean nothing. */
    if (command == COMMAND_PROXY && length < (unsigned)addresses)
        return ERR_SYNTAX;
    header->skip = length;
    header->sized = true;
    return OK;
}

static bool tells_client(const struct proxy_v2 *header)
{
    return (header->bytes[12] & 0xfu) == COMMAND_PROXY &&
           (header->bytes[13] == TCP_OVER_V4 || header->bytes[13] == TCP_OVER_V6);
}

/* Fills bytes up to `want`. */
static bool fill(struct proxy_v2 *header, unsigned want, struct span *bytes)
{
    const size_t n = size_min(want - header->have, bytes->len);
    if (n)
        memcpy(header->bytes + header->have, bytes->ptr, n);
    header->have += (unsigned)n;
    *bytes = span_skip(*bytes, n);
    return header->have == want;
}

enum err proxy_v2_take(struct proxy_v2 *header, struct span *bytes)
{
    if (!header->sized) {
        const bool whole = fill(header, FIXED_BYTES, bytes);
        /* Told apart at the first wrong byte: something else must not wait for a header's length. */
        if (memcmp(header->bytes, signature, size_min(header->have, sizeof(signature))) != 0)
            return ERR_SYNTAX;
        if (!whole)
            return ERR_AGAIN;
        if (judge(header))
            return ERR_SYNTAX;
    }
    if (tells_client(header)) {
        const unsigned before = header->have;
        const bool whole = fill(header, FIXED_BYTES + (unsigned)address_bytes(header->bytes[13]), bytes);
        header->skip -= header->have - before;
        if (!whole)
            return ERR_AGAIN;
    }
    const size_t n = size_min(header->skip, bytes->len);
    header->skip -= (unsigned)n;
    *bytes = span_skip(*bytes, n);
    return header->skip ? ERR_AGAIN : OK;
}

bool proxy_v2_client(const struct proxy_v2 *header, char *out, size_t room)
{
    char text[INET6_ADDRSTRLEN];
    const uint8_t *at = header->bytes + FIXED_BYTES;
    if (!tells_client(header))
        return false;
    const bool v4 = header->bytes[13] == TCP_OVER_V4;
    const uint8_t *port = at + (v4 ? 8 : 32); /* of the source; behind both addresses */
    if (!inet_ntop(v4 ? AF_INET : AF_INET6, at, text, sizeof(text)))
        return false;
    (void)snprintf(out, room, v4 ? "%s:%u" : "[%s]:%u", text, (unsigned)port[0] << 8 | port[1]);
    return true;
}
