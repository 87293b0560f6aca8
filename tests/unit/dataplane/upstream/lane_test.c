/* Every lane: answers right and wrong, connections, bodies. */
#include "tests/unit/dataplane/upstream/support.h"
#include <sys/socket.h>

/* ---- answers ---- */

static void answers_whole(void **state)
{
    struct owner o;
    (void)state;
    expect_done(&o, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Many:  a b \r\nSet-Cookie: c\r\nX-None:\r\n\r\nhello",
                answer_each, OK, UPSTREAM_BODY);
    assert_int_equal(o.heads, 1);
    assert_int_equal(o.status, 200);
    assert_false(o.reused);
    assert_int_equal(o.phase_at_head, UPSTREAM_HEAD);
    assert_string_equal(buf_cstr(&o.headers), "content-length=5\nx-many=a b\nset-cookie=c\nx-none=\n");
    expect_body(&o, "hello");
    assert_string_equal(o.why, "");
    owner_release(&o);
}

static void answers_chunked_and_drops_trailers(void **state)
{
    struct owner o;
    (void)state;
    expect_done(&o,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: "
                "t\r\n\r\n",
                answer_each, OK, UPSTREAM_BODY);
    expect_body(&o, "abcde");
    assert_string_equal(buf_cstr(&o.headers), "transfer-encoding=chunked\n");
    owner_release(&o);
}

static void answers_until_close(void **state)
{
    struct owner o;
    (void)state;
    expect_done(&o, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\ndata: [DONE]\n\n",
                answer_and_close, OK, UPSTREAM_BODY);
    expect_body(&o, "data: 1\n\ndata: [DONE]\n\n");
    owner_release(&o);
}

static void interim_answers_are_skipped(void **state)
{
    struct owner o;
    (void)state;
    expect_done(&o,
                "HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 "
                "201 Made\r\nContent-Length: 0\r\nX: y\r\n\r\n",
                answer_each, OK, UPSTREAM_HEAD);
    assert_int_equal(o.heads, 1);
    assert_int_equal(o.status, 201);
    assert_string_equal(buf_cstr(&o.headers), "content-length=0\nx=y\n");
    owner_release(&o);
}

static void redirect_is_an_answer(void **state)
{
    struct owner o;
    (void)state;
    expect_done(&o, "HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", answer_each, OK,
                UPSTREAM_HEAD);
    assert_int_equal(o.status, 307);
    owner_release(&o);
}

static void no_body_statuses(void **state)
{
    struct owner o;
    (void)state;
    expect_done(&o, "HTTP/1.1 204 None\r\n\r\n", answer_each, OK, UPSTREAM_HEAD);
    assert_int_equal(o.status, 204);
    owner_release(&o);
}

static void request_is_what_was_asked(void **state)
{
    struct owner o;
    char expected[512];
    (void)state;
    expect_done(&o, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", keep_request, OK, UPSTREAM_HEAD);
    snprintf(expected, sizeof(expected),
             "POST /v1/x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nauthorization: Bearer s3cret\r\ncontent-type: "
             "application/json\r\naccept-encoding: identity\r\nx-empty:\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
             (unsigned)provider.port);
    assert_string_equal(request_seen, expected);
    owner_release(&o);
}

static void a_get(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, keep_request, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    owner_init(&o);
    const struct upstream_request request = request_of(NULL, 0);
    assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
    finish(&o);
    assert_int_equal(o.err, OK);
    assert_true(span_starts(span_cstr(request_seen), SPAN("GET /v1/x?y=1 HTTP/1.1\r\n")));
    assert_int_equal(span_find(span_cstr(request_seen), SPAN("Content-Length")), SIZE_MAX);
    owner_release(&o);
    server_stop(&server);
}

/* ---- what goes wrong ---- */

static void wrong_answers(void **state)
{
    static char too_many[8192], huge[40000], endless[200000];
    const struct {
        const char *answer;
        script *script;
        enum err err;
        enum upstream_phase phase;
    } cases[] = {
        { "", close_at_once, ERR_CLOSED, UPSTREAM_SENT },
        { "HTTP/1.1 200 OK\r\nContent-Le", answer_and_close, ERR_CLOSED, UPSTREAM_SENT },
        { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", answer_and_close, ERR_CLOSED, UPSTREAM_BODY },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", answer_and_close, ERR_CLOSED,
          UPSTREAM_BODY },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", answer_and_close,
          is_curl() ? ERR_CLOSED : ERR_SYNTAX, UPSTREAM_HEAD },
        { "SSH-2.0-OpenSSH_9.2\r\n", answer_and_close, ERR_SYNTAX, UPSTREAM_SENT },
        { "\x16\x03\x01\x02\x00\x01", answer_and_close, ERR_SYNTAX, UPSTREAM_SENT },
        { "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nsecret", answer_and_close, ERR_SYNTAX, UPSTREAM_SENT },
        { "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", answer_and_close, ERR_SYNTAX, UPSTREAM_SENT },
        { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 4\r\n\r\nhalf", answer_and_close, ERR_SYNTAX,
          UPSTREAM_SENT },
        { "HTTP/1.1 100 Continue\r\n\r\n", answer_and_close, ERR_CLOSED, UPSTREAM_SENT },
        { too_many, answer_each, ERR_TOO_LARGE, UPSTREAM_SENT },
        { huge, answer_each, ERR_TOO_LARGE, UPSTREAM_SENT },
        { endless, answer_each, ERR_TOO_LARGE, UPSTREAM_SENT },
    };
    (void)state;
    struct buf many = BUF_INIT(sizeof(too_many));
    assert_int_equal(buf_append_cstr(&many, "HTTP/1.1 200 OK\r\n"), OK);
    for (int i = 0; i < 130; i++)
        assert_int_equal(buf_append_cstr(&many, "a: b\r\n"), OK);
    assert_int_equal(buf_append_cstr(&many, "\r\n"), OK);
    snprintf(too_many, sizeof(too_many), "%s", buf_cstr(&many));
    buf_release(&many);
    memset(huge, 'h', sizeof(huge) - 1);
    memcpy(huge, "HTTP/1.1 200 OK\r\nX: ", 20);
    memcpy(huge + sizeof(huge) - 5, "\r\n\r\n", 4);
    memset(endless, 'e', sizeof(endless) - 1);
    memcpy(endless, "HTTP/1.1 200 OK\r\nX: ", 20);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct owner o;
        print_message("case %zu\n", i);
        expect_done(&o, cases[i].answer, cases[i].script, cases[i].err, cases[i].phase);
        assert_int_equal(o.heads, cases[i].phase >= UPSTREAM_HEAD);
        assert_string_not_equal(o.why, "");
        assert_int_equal(span_find(span_cstr(o.why), SPAN("s3cret")), SIZE_MAX);
        owner_release(&o);
    }
}

static void reset_in_mid_body(struct peer *peer)
{
    if (take_request(peer)) {
        peer_say(peer, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        peer->server->last = peer;
    }
}

static void cut_by_reset(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, reset_in_mid_body, NULL);
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    while (!o.bodies)
        turn();
    peer_reset(server.last);
    finish(&o);
    assert_int_equal(o.err, ERR_CLOSED);
    assert_int_equal(o.phase, UPSTREAM_BODY);
    expect_body(&o, "half");
    owner_release(&o);
    server_stop(&server);
}

static void nobody_listens(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, says_nothing, NULL);
    server_stop(&server);
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    assert_int_equal(o.dones, 0); /* never from within start */
    finish(&o);
    assert_int_equal(o.err, ERR_REFUSED);
    assert_int_equal(o.phase, UPSTREAM_CONNECTING);
    owner_release(&o);
}

static void connect_fault(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    owner_init(&o);
    fault_arm(FAULT_CONNECT, 0, 1);
    assert_int_equal(start(&o), OK);
    finish(&o);
    assert_int_equal(o.err, ERR_REFUSED);
    o.dones = 0;
    assert_int_equal(start(&o), OK);
    finish(&o);
    assert_int_equal(o.err, OK);
    owner_release(&o);
    server_stop(&server);
}

static void name_not_found(void **state)
{
    struct owner o;
    (void)state;
    provider = (struct provider){ .host = SPAN("nowhere.invalid"), .port = 80 };
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    finish(&o);
    assert_int_equal(o.err, ERR_NOT_FOUND);
    owner_release(&o);
}

static int full_listener(int *ret_fillers, int count)
{
    struct sockaddr_in at;
    socklen_t len = sizeof(at);
    const int fd = silent_listener("127.0.0.1", 0, ret_fillers, count);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    provider = (struct provider){ .host = SPAN("127.0.0.1"), .port = ntohs(at.sin_port), .tls = tls_of != NULL };
    return fd;
}

static void connect_takes_too_long(void **state)
{
    struct owner o;
    int fillers[4];
    (void)state;
    const int fd = full_listener(fillers, 4);
    owner_init(&o);
    struct upstream_request request = request_of(NULL, 0);
    request.connect_timeout_ms = 50;
    assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
    finish(&o);
    assert_int_equal(o.err, ERR_TIMEOUT);
    assert_int_equal(o.phase, UPSTREAM_CONNECTING);
    /* And a cancel while connecting. */
    o.dones = 0;
    assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
    turns(3);
    assert_int_equal(upstream_phase(o.upstream), UPSTREAM_CONNECTING);
    cancel(&o);
    assert_int_equal(stats().active, 0);
    turns(3);
    for (int i = 0; i < 4; i++)
        close(fillers[i]);
    close(fd);
    owner_release(&o);
}

/* ---- connections ---- */

static void connections_are_reused(void **state)
{
    struct server server;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    for (unsigned i = 0; i < 5; i++) {
        struct owner o;
        owner_init(&o);
        assert_int_equal(start(&o), OK);
        finish(&o);
        assert_int_equal(o.err, OK);
        assert_int_equal(o.reused, i > 0);
        owner_release(&o);
    }
    assert_int_equal(server.accepted, 1);
    assert_int_equal(stats().connects, 1);
    assert_int_equal(stats().reused, 4);
    server_stop(&server);
}

/* As many connections as are busy at once stay for the next ones, up to the idle limit (8). */
static void busy_connections_do_not_push_out_idle_ones(void **state)
{
    struct server server;
    struct owner owners[24];
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < ARRAY_LEN(owners); i++) {
            owner_init(&owners[i]);
            assert_int_equal(start(&owners[i]), OK);
        }
        for (unsigned i = 0; i < ARRAY_LEN(owners); i++) {
            finish(&owners[i]);
            assert_int_equal(owners[i].err, OK);
            owner_release(&owners[i]);
        }
        turns(20);
        assert_in_range(server.open, 7, 9);
    }
    assert_in_range(stats().reused, 7, 9);
    server_stop(&server);
}

static void server_closed_the_idle_connection(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    finish(&o);
    peer_close(server.last);
    while (server.open)
        turn();
    owner_release(&o);
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    finish(&o);
    assert_int_equal(o.err, OK);
    assert_false(o.reused);
    assert_int_equal(server.accepted, 2);
    owner_release(&o);
    server_stop(&server);
}

static void close_on_second_request(struct peer *peer)
{
    if (peer->requests == 0 || peer->server->accepted > 1)
        answer_each(peer);
    else if (take_request(peer))
        peer_close(peer);
}

/* The connection dies when the second request is on it already: sent again, whole, on a fresh one. */
static void stale_connection_is_replaced(void **state)
{
    struct server server;
    (void)state;
    for (unsigned large = 0; large < 2; large++) {
        static char bytes[200000];
        const struct span part = { .ptr = bytes, .len = large ? sizeof(bytes) : 10 };
        const struct upstream_request request = request_of(&part, 1);
        memset(bytes, 'b', sizeof(bytes));
        use(&server, close_on_second_request, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        for (unsigned i = 0; i < 2; i++) {
            struct owner o;
            owner_init(&o);
            assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
            finish(&o);
            assert_int_equal(o.err, OK);
            expect_body(&o, "ok");
            owner_release(&o);
        }
        assert_int_equal(server.accepted, 2);
        assert_int_equal(server.requests, 3);
        server_stop(&server);
    }
}

static void connections_are_bounded(void **state)
{
    struct server server;
    struct owner a, b;
    (void)state;
    upstream_lane_close(lane);
    lane_open(1, NULL);
    use(&server, says_nothing, NULL);
    owner_init(&a);
    owner_init(&b);
    assert_int_equal(start(&a), OK);
    assert_int_equal(start(&b), ERR_TOO_MANY);
    assert_null(b.upstream);
    cancel(&a);
    assert_int_equal(start(&b), OK);
    cancel(&b);
    owner_release(&a);
    owner_release(&b);
    server_stop(&server);
}

/* ---- bodies ---- */

static struct span large_seen;

static void check_large(struct peer *peer)
{
    const struct span in = buf_span(&peer->in);
    const size_t end = span_find(span_head(in, 4096), SPAN("\r\n\r\n"));
    if (end == SIZE_MAX || in.len < end + 4 + large_seen.len)
        return;
    assert_memory_equal(in.ptr + end + 4, large_seen.ptr, large_seen.len);
    answer_each(peer);
}

static void body_in_parts(void **state)
{
    static char bytes[300000];
    struct server server;
    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 31 + i / 251);
    const size_t sizes[] = { 0, 1, 61439, 61440, 61441, 65536, 131072, 300000 };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        const size_t third = sizes[i] / 3;
        const struct span parts[] = {
            { NULL, 0 }, { bytes, third }, { bytes + third, 0 }, { bytes + third, sizes[i] - third }, { NULL, 0 }
        };
        const struct upstream_request request = request_of(parts, ARRAY_LEN(parts));
        struct owner o;
        large_seen = span_of(bytes, sizes[i]);
        use(&server, check_large, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        owner_init(&o);
        assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
        finish(&o);
        assert_int_equal(o.err, OK);
        expect_body(&o, "ok");
        assert_int_equal(server.requests, 1);
        owner_release(&o);
        server_stop(&server);
    }
}

static bool released_at_head;

static void try_release(struct owner *o)
{
    released_at_head = upstream_release_body(o->upstream);
}

/* An answer before the request was read whole: the body is still needed. */
static void early_answer(void **state)
{
    const size_t len = 16u << 20;
    char *bytes = calloc(1, len);
    const struct span part = { .ptr = bytes, .len = len };
    const struct upstream_request request = request_of(&part, 1);
    struct server server;
    struct owner o;
    (void)state;
    assert_non_null(bytes);
    use(&server, says_nothing, NULL);
    server.hold_reading = true;
    owner_init(&o);
    o.on_head = try_release;
    assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
    while (!server.last || upstream_phase(o.upstream) < UPSTREAM_SENDING)
        turn();
    turns(50);
    assert_int_equal(upstream_phase(o.upstream), UPSTREAM_SENDING);
    assert_false(upstream_release_body(o.upstream));
    peer_say(server.last, "HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n");
    while (!o.heads)
        turn();
    assert_int_equal(o.status, 413);
    assert_false(released_at_head);
    if (o.upstream)
        cancel(&o);
    free(bytes);
    turns(5);
    owner_release(&o);
    server_stop(&server);
}

static void body_can_go_once_answered(void **state)
{
    static char bytes[100000];
    const struct span part = { .ptr = bytes, .len = sizeof(bytes) };
    const struct upstream_request request = request_of(&part, 1);
    struct server server;
    struct owner o;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    owner_init(&o);
    o.on_head = try_release;
    released_at_head = false;
    assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
    finish(&o);
    assert_true(released_at_head);
    owner_release(&o);
    server_stop(&server);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(answers_whole),
        TEST(answers_chunked_and_drops_trailers),
        TEST(answers_until_close),
        TEST(interim_answers_are_skipped),
        TEST(redirect_is_an_answer),
        TEST(no_body_statuses),
        TEST(request_is_what_was_asked),
        TEST(a_get),
        TEST(wrong_answers),
        TEST(cut_by_reset),
        TEST(nobody_listens),
        TEST(connect_fault),
        TEST(name_not_found),
        TEST(connect_takes_too_long),
        TEST(connections_are_reused),
        TEST(busy_connections_do_not_push_out_idle_ones),
        TEST(server_closed_the_idle_connection),
        TEST(stale_connection_is_replaced),
        TEST(connections_are_bounded),
        TEST(body_in_parts),
        TEST(early_answer),
        TEST(body_can_go_once_answered),
    };
    return RUN_OVER_LANES(tests);
}
