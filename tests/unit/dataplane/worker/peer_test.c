/* A listener's client before anything is spoken with it: Unix sockets, several listeners, PROXY headers, and which
 * protocol its first bytes are. */
#include "rig.h"
#include <sys/un.h>

#define PROXY_V4                                                                                                       \
    "\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x01\xbb" /* of 192.0.2.1:12345 */
#define PREFACE   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define ELSEWHERE "GET /v1/nowhere HTTP/1.1\r\nHost: x\r\n\r\n"

static struct network loopback = { .bytes = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127 }, .bits = 104 };
static struct network elsewhere = { .bytes = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 128 }, .bits = 113 };

static void send_bytes(struct client *c, const char *bytes, size_t count)
{
    assert_int_equal(send(c->fd, bytes, count, MSG_NOSIGNAL), (ssize_t)count);
}

/* Without a file system's help: an abstract name. */
static int unix_socket(struct sockaddr_un *ret, socklen_t *ret_size)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    assert_int_equal(bind(fd, (struct sockaddr *)ret, sizeof(sa_family_t)), 0); /* the kernel names it */
    *ret_size = sizeof(*ret);
    assert_int_equal(getsockname(fd, (struct sockaddr *)ret, ret_size), 0);
    return fd;
}

static void two_listeners_one_on_a_unix_socket(void **state)
{
    (void)state;
    struct sockaddr_un address;
    socklen_t size;
    struct rig rig = { .more = { unix_socket(&address, &size) } };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, size), 0);
    struct client *d = rig_client_over(&rig, fd);
    ask(&rig, d, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(&rig.lane.tries[0], 200, "application/json", NULL, NULL);
    try_body(&rig.lane.tries[0], WHOLE_ANSWER);
    try_done(&rig.lane.tries[0], OK);
    UNTIL(&rig, has(d, WHOLE_ANSWER));
    say(c, ELSEWHERE);
    UNTIL(&rig, has(c, "HTTP/1.1 404 "));
    assert_string_equal(stream_facts(&rig.listener.first->stream)->client, "unix");
    assert_true(span_starts(span_cstr(stream_facts(&rig.listener.first->next->stream)->client), SPAN("127.0.0.1:")));
    rig_stop(&rig);
}

/* A header of the trusted is required, at any cut; of others it is a bad request. */
static void proxy_headers(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.listen[0].proxies = &loopback;
    rig.listen[0].proxy_count = 1;
    rig_start(&rig, true);
    const size_t header = sizeof(PROXY_V4) - 1;
    for (size_t at = 1; at <= header; at += 9) {
        struct client *c = rig_client(&rig);
        send_bytes(c, PROXY_V4, at);
        for (int i = 0; i < 3; i++)
            rig_pump(&rig);
        send_bytes(c, &PROXY_V4 ELSEWHERE[at], sizeof(PROXY_V4 ELSEWHERE) - 1 - at);
        UNTIL(&rig, has(c, "HTTP/1.1 404 "));
        assert_string_equal(stream_facts(&rig.listener.first->stream)->client, "192.0.2.1:12345");
        close(c->fd);
        buf_release(&c->in);
        rig.client_count--;
        UNTIL(&rig, rig.listener.count == 0);
    }
    struct client *without = rig_client(&rig);
    say(without, ELSEWHERE);
    UNTIL(&rig, without->eof);
    assert_int_equal(without->in.len, 0);
    rig_stop(&rig);

    struct rig stranger = { .port = 0 };
    stranger.listen[0].proxies = &elsewhere;
    stranger.listen[0].proxy_count = 1;
    rig_start(&stranger, true);
    struct client *c = rig_client(&stranger);
    say(c, ELSEWHERE);
    UNTIL(&stranger, has(c, "HTTP/1.1 404 "));
    struct client *liar = rig_client(&stranger);
    send_bytes(liar, PROXY_V4 ELSEWHERE, sizeof(PROXY_V4 ELSEWHERE) - 1);
    UNTIL(&stranger, liar->eof);
    assert_true(has(liar, "HTTP/1.1 400 "));
    rig_stop(&stranger);
}

static void a_header_that_does_not_come_ends_it(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.config.limits.head_time_ms = 50;
    rig.listen[0].proxies = &loopback;
    rig.listen[0].proxy_count = 1;
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    send_bytes(c, PROXY_V4, 5);
    UNTIL(&rig, c->eof);
    UNTIL(&rig, rig.listener.count == 0);
    rig_stop(&rig);
}

static void networks_are_matched_by_their_bits(void **state)
{
    (void)state;
    struct listener_setup *setup;
    struct network networks[] = { elsewhere, { .bytes = { 0x20, 0x01, 0x0d, 0xb8 }, .bits = 32 } };
    const struct listener_config config = { .proxies = networks, .proxy_count = 2 };
    char *message;
    assert_int_equal(listener_setup_load(&config, NULL, &setup, &message), OK);
    static const struct {
        const char *address;
        bool trusted;
    } v4[] = { { "10.1.128.1", true }, { "10.1.255.255", true }, { "10.1.127.255", false }, { "127.0.0.1", false } };
    for (size_t i = 0; i < ARRAY_LEN(v4); i++) {
        struct sockaddr_in address = { .sin_family = AF_INET };
        assert_int_equal(inet_pton(AF_INET, v4[i].address, &address.sin_addr), 1);
        assert_int_equal(listener_setup_trusts(setup, (struct sockaddr *)&address), v4[i].trusted);
    }
    static const struct {
        const char *address;
        bool trusted;
    } v6[] = { { "2001:db8:1::1", true }, { "2001:db9::1", false }, { "::ffff:10.1.129.2", true }, { "::1", false } };
    for (size_t i = 0; i < ARRAY_LEN(v6); i++) {
        struct sockaddr_in6 address = { .sin6_family = AF_INET6 };
        assert_int_equal(inet_pton(AF_INET6, v6[i].address, &address.sin6_addr), 1);
        assert_int_equal(listener_setup_trusts(setup, (struct sockaddr *)&address), v6[i].trusted);
    }
    const struct sockaddr local = { .sa_family = AF_UNIX };
    assert_true(listener_setup_trusts(setup, &local));
    listener_setup_unref(setup);
}

/* Beginnings of HTTP/2's preface wait; what turns out to be another thing is HTTP/1's, whole. */
static void first_bytes_decide(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.listen[0].http2 = true;
    rig_start(&rig, true);
    for (size_t at = 1; at < sizeof(PREFACE) - 1; at += 5) {
        struct client *c = rig_client(&rig);
        send_bytes(c, PREFACE, at);
        UNTIL(&rig, rig.listener.first && rig.listener.first->matched == at);
        assert_int_equal(rig.listener.first->state, PEER_FIRST);
        say(c, "@");
        UNTIL(&rig, c->eof);
        assert_true(has(c, "HTTP/1.1 400 ")); /* by HTTP/1's parser, which has seen the beginning */
        close(c->fd);
        buf_release(&c->in);
        rig.client_count--;
        UNTIL(&rig, rig.listener.count == 0);
    }
    struct client *c = rig_client(&rig);
    say(c, "P");
    UNTIL(&rig, rig.listener.first && rig.listener.first->matched == 1);
    say(c, "UT /v1/models HTTP/1.1\r\nHost: x\r\n\r\n");
    UNTIL(&rig, has(c, "HTTP/1.1 405 "));
    rig_stop(&rig);
}

static void a_preface_in_pieces_is_bounded_in_time(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.config.limits.head_time_ms = 50;
    rig.listen[0].http2 = true;
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    say(c, "PRI * ");
    UNTIL(&rig, c->eof);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_listeners_one_on_a_unix_socket),
        cmocka_unit_test(proxy_headers),
        cmocka_unit_test(a_header_that_does_not_come_ends_it),
        cmocka_unit_test(networks_are_matched_by_their_bits),
        cmocka_unit_test(first_bytes_decide),
        cmocka_unit_test(a_preface_in_pieces_is_bounded_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
