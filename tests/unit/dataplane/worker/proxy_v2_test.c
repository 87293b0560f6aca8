/* PROXY headers, whole and cut at every byte; what is none is known at its first wrong byte. */
#include "common/buf.h"
#include "dataplane/worker/proxy_v2.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V4        "\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x01\xbb" /* 192.0.2.1:12345 -> 10.0.0.1:443 */
#define V6_FROM   "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"
#define V6        V6_FROM V6_FROM "\xff\xff\x00\x50"
#define BYTES(literal)                                                                                                 \
    {                                                                                                                  \
        (literal), sizeof(literal) - 1                                                                                 \
    }

/* Feeds `step` bytes at a time; *ret_rest is how much stood behind the header. */
static enum err feed(struct span bytes, size_t step, struct proxy_v2 *header, size_t *ret_rest)
{
    *header = (struct proxy_v2){ .have = 0 };
    for (size_t at = 0; at < bytes.len; at += step) {
        struct span piece = span_head(span_skip(bytes, at), step);
        const size_t given = piece.len;
        const enum err err = proxy_v2_take(header, &piece);
        if (err != ERR_AGAIN) {
            *ret_rest = bytes.len - at - (given - piece.len);
            return err;
        }
        assert_int_equal(piece.len, 0);
    }
    return ERR_AGAIN;
}

static void headers_at_any_cut(void **state)
{
    (void)state;
    static const struct {
        struct span bytes;
        const char *client; /* NULL: the connection's own */
    } cases[] = {
        { BYTES(SIGNATURE "\x21\x11\x00\x0c" V4), "192.0.2.1:12345" },
        { BYTES(SIGNATURE "\x21\x21\x00\x24" V6), "[2001:db8::7]:65535" },
        { BYTES(SIGNATURE "\x21\x11\x00\x13" V4 "\x04\x00\x04tlvs"), "192.0.2.1:12345" },
        { BYTES(SIGNATURE "\x20\x00\x00\x00"), NULL },
        { BYTES(SIGNATURE "\x20\x11\x00\x0c" V4), NULL }, /* LOCAL: the proxy itself */
        { BYTES(SIGNATURE "\x20\x21\x00\x02xx"), NULL },  /* its addresses mean nothing, whatever their size */
        { BYTES(SIGNATURE "\x21\x00\x00\x03xyz"), NULL }, /* unspecified */
        { BYTES(SIGNATURE "\x21\x12\x00\x0c" V4), NULL }, /* UDP */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf all = BUF_INIT(1024);
        assert_int_equal(buf_append(&all, cases[i].bytes), OK);
        assert_int_equal(buf_append(&all, SPAN("GET / ")), OK);
        for (size_t step = 1; step <= all.len; step++) {
            struct proxy_v2 header;
            char client[64];
            size_t rest = 0;
            assert_int_equal(feed(buf_span(&all), step, &header, &rest), OK);
            assert_int_equal(rest, 6);
            assert_int_equal(proxy_v2_client(&header, client, sizeof(client)), cases[i].client != NULL);
            if (cases[i].client)
                assert_string_equal(client, cases[i].client);
        }
        buf_release(&all);
    }
}

static void a_unix_client_is_skipped_whole(void **state)
{
    (void)state;
    char bytes[16 + 216 + 1] = SIGNATURE "\x21\x31\x00\xd8";
    struct proxy_v2 header;
    char client[64];
    size_t rest = 0;
    assert_int_equal(feed(span_of(bytes, sizeof(bytes)), 7, &header, &rest), OK);
    assert_int_equal(rest, 1);
    assert_false(proxy_v2_client(&header, client, sizeof(client)));
}

static void what_is_none_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct span bytes;
        size_t known_at; /* bytes after which it is clear */
    } cases[] = {
        { BYTES("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 1 },
        { BYTES("\r\n\r\n\0\r\nQUIX\n\x21\x11\x00\x0c" V4), 11 },
        { BYTES(SIGNATURE "\x11\x11\x00\x0c" V4), 16 }, /* version 1 */
        { BYTES(SIGNATURE "\x22\x11\x00\x0c" V4), 16 }, /* no such command */
        { BYTES(SIGNATURE "\x21\x13\x00\x0c" V4), 16 }, /* no such protocol */
        { BYTES(SIGNATURE "\x21\x41\x00\x0c" V4), 16 }, /* no such family */
        { BYTES(SIGNATURE "\x21\x11\x00\x0b" V4), 16 }, /* too short for its addresses */
        { BYTES(SIGNATURE "\x21\x21\x00\x0c" V4), 16 },
        { BYTES(SIGNATURE "\x21\x11\x0f\xf1" V4), 16 }, /* one byte over PROXY_V2_BYTES_MAX */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct proxy_v2 header;
        size_t rest = 0;
        assert_int_equal(feed(span_head(cases[i].bytes, cases[i].known_at - 1), 1, &header, &rest), ERR_AGAIN);
        assert_int_equal(feed(span_head(cases[i].bytes, cases[i].known_at), 1, &header, &rest), ERR_SYNTAX);
        assert_int_equal(feed(cases[i].bytes, cases[i].bytes.len, &header, &rest), ERR_SYNTAX);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_at_any_cut),
        cmocka_unit_test(a_unix_client_is_skipped_whole),
        cmocka_unit_test(what_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
