/* support_dns.h - a name server on 127.0.0.1 that knows what a test tells it: addresses (A), silence, or no such name. */
#pragma once
#include "common/buf.h"
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <strings.h>
#include <uv.h>
#include <cmocka.h>

#define DNS_NAMES_MAX 8u

struct dns_name {
    const char *name;
    struct in_addr addresses[4];
    unsigned count, asked; /* asked: for A */
    uint32_t ttl_s;
    bool silent;
};
struct dns {
    uv_udp_t udp;
    char address[32];
    struct dns_name names[DNS_NAMES_MAX];
    unsigned count;
};

static inline struct dns_name *dns_name(struct dns *dns, const char *name, bool add)
{
    for (unsigned i = 0; i < dns->count; i++) {
        if (strcasecmp(dns->names[i].name, name) == 0)
            return &dns->names[i];
    }
    if (!add)
        return NULL;
    assert_true(dns->count < DNS_NAMES_MAX);
    dns->names[dns->count] = (struct dns_name){ .name = name };
    return &dns->names[dns->count++];
}

static inline void dns_says(struct dns *dns, const char *name, const char *address, uint32_t ttl_s)
{
    struct dns_name *n = dns_name(dns, name, true);
    assert_true(n->count < ARRAY_LEN(n->addresses));
    assert_int_equal(inet_pton(AF_INET, address, &n->addresses[n->count++]), 1);
    n->ttl_s = ttl_s;
}

static inline void dns_ignores(struct dns *dns, const char *name)
{
    dns_name(dns, name, true)->silent = true;
}

/* How often it was asked for the name's A records; names it does not know are remembered, too. */
static inline unsigned dns_asked(struct dns *dns, const char *name)
{
    const struct dns_name *n = dns_name(dns, name, false);
    return n ? n->asked : 0;
}

static inline void dns_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    static char bytes[2048];
    (void)handle;
    (void)suggested;
    *ret = uv_buf_init(bytes, sizeof(bytes));
}

/* RFC 1035 section 4: the question's name with dots, and where the question ends. */
static inline size_t dns_question(const uint8_t *query, size_t len, char name[256])
{
    size_t at = 12, out = 0;
    while (at < len && query[at] && out + query[at] + 1 < 256) {
        memcpy(name + out, query + at + 1, query[at]);
        out += query[at];
        name[out++] = '.';
        at += query[at] + 1u;
    }
    name[out ? out - 1 : 0] = '\0';
    return at + 5;
}

static inline void dns_received(uv_udp_t *udp, ssize_t got, const uv_buf_t *buf, const struct sockaddr *from,
                                unsigned flags)
{
    struct dns *dns = udp->data;
    uint8_t answer[1024];
    char name[256];
    (void)flags;
    if (got < 17 || !from)
        return;
    const size_t end = dns_question((const uint8_t *)buf->base, (size_t)got, name);
    assert_true(end <= (size_t)got && end < 512);
    const bool wants_a = buf->base[end - 3] == 1;
    struct dns_name *n = dns_name(dns, name, false);
    if (n && n->silent)
        return;
    const unsigned count = n && wants_a ? n->count : 0;
    if (!n) {
        char *copy = strdup(name);
        assert_non_null(copy);
        n = dns_name(dns, copy, true);
    }
    n->asked += wants_a;
    memcpy(answer, buf->base, end);
    const uint8_t head[] = { 0x81, n->count ? 0x80 : 0x83, 0, 1, 0, (uint8_t)count, 0, 0, 0, 0 }; /* else NXDOMAIN */
    memcpy(answer + 2, head, sizeof(head));
    size_t at = end;
    for (unsigned i = 0; i < count; i++) {
        const uint32_t ttl = htonl(n->ttl_s);
        const uint8_t record[] = { 0xc0, 12, 0, 1, 0, 1 };
        memcpy(answer + at, record, sizeof(record));
        memcpy(answer + at + 6, &ttl, 4);
        answer[at + 10] = 0;
        answer[at + 11] = 4;
        memcpy(answer + at + 12, &n->addresses[i], 4);
        at += 16;
    }
    const uv_buf_t out = uv_buf_init((char *)answer, (unsigned)at);
    assert_int_equal(uv_udp_try_send(udp, &out, 1, from), (int)at);
}

static inline void dns_start(struct dns *dns, uv_loop_t *on)
{
    struct sockaddr_in at;
    int len = sizeof(at);
    *dns = (struct dns){ .count = 0 };
    assert_int_equal(uv_udp_init(on, &dns->udp), 0);
    dns->udp.data = dns;
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &at), 0);
    assert_int_equal(uv_udp_bind(&dns->udp, (struct sockaddr *)&at, 0), 0);
    assert_int_equal(uv_udp_getsockname(&dns->udp, (struct sockaddr *)&at, &len), 0);
    snprintf(dns->address, sizeof(dns->address), "127.0.0.1:%u", (unsigned)ntohs(at.sin_port));
    assert_int_equal(uv_udp_recv_start(&dns->udp, dns_alloc, dns_received), 0);
}

/* Run the loop afterwards. */
static inline void dns_stop(struct dns *dns)
{
    uv_close((uv_handle_t *)&dns->udp, NULL);
    for (unsigned i = 0; i < dns->count; i++) {
        if (!dns->names[i].count && !dns->names[i].silent)
            free((char *)(uintptr_t)dns->names[i].name);
    }
}
