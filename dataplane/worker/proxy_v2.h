/* proxy_v2.h - the header by which a proxy tells whose connection it passes on (HAProxy's PROXY protocol, section 2.2:
 * the binary version 2). Pure: any split of the bytes gives the same result. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

#define PROXY_V2_BYTES_MAX                                                                                             \
    4096u /* with all its TLVs, which some proxies fill with certificates; nobody else may make us read more */

struct proxy_v2 {
    uint8_t bytes[16 + 36]; /* the fixed part, and addresses of TCP over IPv6 */
    unsigned have;          /* of those wanted */
    unsigned skip;          /* bytes of the header that follow: other addresses, TLVs */
    bool sized;             /* the fixed part was judged */
};
/* All-zero at first. Takes the header off the front of *bytes. OK: it is complete; what is left in *bytes follows it.
 * ERR_AGAIN: all was taken, more must come. ERR_SYNTAX: not such a header. */
MUST_CHECK enum err proxy_v2_take(struct proxy_v2 *header, struct span *bytes);
/* After OK: "192.0.2.1:1234", "[2001:db8::1]:1234"; false when the proxy speaks for itself (LOCAL: a health check), or
 * of no address that we know: then the connection's own is the client's. out: 64 bytes. */
bool proxy_v2_client(const struct proxy_v2 *header, char *out, size_t room);
