/* http1_chars.h - which bytes may stand where in an HTTP/1.1 message. Private to http1*.c, h2_head.c and their tests. */
#pragma once
#include "common/base.h"

enum {
    HTTP1_TOKEN = 1,  /* RFC 9110 section 5.6.2: methods, names, chunk extensions */
    HTTP1_VALUE = 2,  /* section 5.5: HTAB, SP, VCHAR, obs-text */
    HTTP1_TARGET = 4, /* RFC 3986: unreserved, reserved without '#', '%' */
    HTTP1_HOST = 8,   /* RFC 3986 section 3.2.2 with a port, without ',': two hosts in one field are no host */
};
extern const unsigned char http1_chars[256];

static inline bool http1_is(char byte, unsigned kind)
{
    return (http1_chars[(unsigned char)byte] & kind) != 0;
}
static inline bool http1_is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}
/* Value of a hexadecimal digit, or -1. */
static inline int http1_hex(char byte)
{
    if (http1_is_digit(byte))
        return byte - '0';
    char lower = (char)(byte | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}
