/* address.h - networks as 10.0.0.0/8, and ADDR:PORT as people write it: "127.0.0.1:4000", "[::1]:4000", "localhost:0". Numbers only: a name that a
 * resolver could turn into another interface is no place to listen on. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include <sys/socket.h>

struct address {
    struct sockaddr_storage bytes;
    socklen_t len;
};
#define ADDRESS_TEXT_BYTES 64

/* "localhost" is 127.0.0.1. Port 0: the system chooses. ERR_INVALID. */
MUST_CHECK enum err address_parse(struct span text, struct address *ret);
uint16_t address_port(const struct address *address);
void address_set_port(struct address *address, uint16_t port);
/* "127.0.0.1:4000" into out (>= ADDRESS_TEXT_BYTES); returns out. */
char *address_format(const struct address *address, char *out);
/* Host and port agree; port 0 of `wanted` agrees with any. */
bool address_agrees(const struct address *wanted, const struct address *have);

struct network { /* 10.0.0.0/8, 2001:db8::/32; IPv4 as ::ffff:0:0/96 */
    uint8_t bytes[16];
    unsigned bits;
};
/* "10.0.0.0/8", "2001:db8::/32"; without a prefix: one address. ERR_INVALID, also for bits beyond the prefix. */
MUST_CHECK enum err network_parse(struct span text, struct network *ret);
/* IPv4 also when it comes mapped into IPv6; false for other families. */
bool network_has(const struct network *network, const struct sockaddr *address);
