/* Every lane: pauses, cancels and starts in every place, and every allocation failing. */
#include "tests/unit/dataplane/upstream/support.h"
#include <curl/curl.h>
#include <sys/socket.h>

/* ---- flow ---- */

#define FLOOD_BYTES (4u << 20)

static void flood(struct peer *peer)
{
    if (take_request(peer)) {
        char *bytes = malloc(FLOOD_BYTES);
        assert_non_null(bytes);
        memset(bytes, 'f', FLOOD_BYTES);
        peer_say(peer, "HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\n");
        peer_send(peer, span_of(bytes, FLOOD_BYTES));
        free(bytes);
    }
}

static void flood_chunks(struct peer *peer)
{
    if (take_request(peer)) {
        struct buf out = BUF_INIT(16u << 20);
        peer_say(peer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (unsigned i = 0; i < FLOOD_BYTES / 256; i++) {
            char *at;
            assert_int_equal(buf_append_cstr(&out, "100\r\n"), OK);
            assert_int_equal(buf_reserve(&out, 256, &at), OK);
            memset(at, 'f', 256);
            buf_commit(&out, 256);
            assert_int_equal(buf_append_cstr(&out, "\r\n"), OK);
        }
        assert_int_equal(buf_append_cstr(&out, "0\r\n\r\n"), OK);
        peer_send(peer, buf_span(&out));
        buf_release(&out);
    }
}

static void pause_now(struct owner *o)
{
    upstream_pause(o->upstream);
}

static void pause_stops_the_flow(void **state)
{
    script *const scripts[] = { flood, flood_chunks };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        struct server server;
        struct owner o;
        unsigned rounds = 0;
        use(&server, scripts[i], NULL);
        owner_init(&o);
        o.on_body = pause_now;
        assert_int_equal(start(&o), OK);
        while (!o.bodies)
            turn();
        while (!o.dones) {
            const size_t before = o.body.len;
            turns(50);
            if (o.on_body)
                assert_in_range(o.body.len - before, 0, 65536);
            assert_true(o.dones || upstream_buffered(o.upstream) <= 128u << 10); /* a read, a head, a record */
            if (o.dones)
                break;
            upstream_resume(o.upstream);
            if (++rounds == 3)
                o.on_body = NULL; /* enough of it: let it flow */
        }
        assert_true(rounds >= 3);
        assert_int_equal(o.err, OK);
        assert_int_equal(o.body.len, FLOOD_BYTES);
        owner_release(&o);
        server_stop(&server);
    }
}

static void resume_now(struct owner *o)
{
    upstream_pause(o->upstream);
    upstream_resume(o->upstream);
}

static void pause_and_resume_in_one_callback(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, flood_chunks, NULL);
    owner_init(&o);
    o.on_head = o.on_body = resume_now;
    assert_int_equal(start(&o), OK);
    finish(&o);
    assert_int_equal(o.err, OK);
    assert_int_equal(o.body.len, FLOOD_BYTES);
    owner_release(&o);
    server_stop(&server);
}

/* Paused at the head of a short answer: nothing but the head, and done only after the resume. */
static void pause_at_head(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, answer_and_close, "HTTP/1.1 200 OK\r\n\r\nshort");
    owner_init(&o);
    o.on_head = pause_now;
    assert_int_equal(start(&o), OK);
    while (!o.heads)
        turn();
    turns(50);
    assert_int_equal(o.bodies + o.dones, 0);
    upstream_resume(o.upstream);
    finish(&o);
    assert_int_equal(o.err, OK);
    expect_body(&o, "short");
    owner_release(&o);
    server_stop(&server);
}

/* Paused before there is a connection at all: one read's worth is held, the rest stays with the provider. */
static void pause_before_the_connection(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, flood, NULL);
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    upstream_pause(o.upstream);
    while (!server.requests)
        turn();
    turns(100);
    assert_int_equal(o.bodies + o.dones, 0);
    assert_true(upstream_buffered(o.upstream) <= 2 * 65536);
    upstream_resume(o.upstream);
    finish(&o);
    assert_int_equal(o.err, OK);
    assert_int_equal(o.body.len, FLOOD_BYTES);
    owner_release(&o);
    server_stop(&server);
}

/* ---- cancels and starts ---- */

static void cancels_everywhere(void **state)
{
    (void)state;
    for (unsigned where = 0; where < 4; where++) {
        struct server server;
        struct owner o;
        use(&server, flood_chunks, NULL);
        owner_init(&o);
        if (where == 0)
            o.on_head = cancel;
        if (where == 1)
            o.on_body = cancel;
        assert_int_equal(start(&o), OK);
        while (where < 2 && !o.cancelled)
            turn();
        if (where == 2) {
            while (!o.bodies)
                turn();
            pause_now(&o);
            turns(10);
            cancel(&o);
        }
        if (where == 3)
            cancel(&o); /* before the loop ran at all */
        turns(5);
        assert_int_equal(o.dones, 0);
        assert_int_equal(stats().active, 0);
        while (server.open) /* the connection goes with its try, at once */
            turn();
        owner_release(&o);
        server_stop(&server);
    }
}

static void cancel_in_done(void **state)
{
    struct server server;
    struct owner o;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    owner_init(&o);
    o.on_done = cancel;
    assert_int_equal(start(&o), OK);
    finish(&o);
    turns(5);
    assert_int_equal(stats().active, 0);
    owner_release(&o);
    server_stop(&server);
}

static void cancel_and_start_other(struct owner *o)
{
    struct owner *other = o->other;
    if (other->upstream)
        return;
    if (!o->dones)
        cancel(o);
    assert_int_equal(start(other), OK);
}

/* The next try begins inside a callback of the last: what failover does. */
static void starts_inside_callbacks(void **state)
{
    (void)state;
    upstream_lane_close(lane);
    lane_open(2, NULL);
    for (unsigned where = 0; where < 3; where++) {
        struct server server;
        struct owner a, b;
        use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        owner_init(&a);
        owner_init(&b);
        a.other = &b;
        if (where == 0)
            a.on_head = cancel_and_start_other;
        else if (where == 1)
            a.on_body = cancel_and_start_other;
        else
            a.on_done = cancel_and_start_other;
        assert_int_equal(start(&a), OK);
        finish(&b);
        assert_int_equal(b.err, OK);
        expect_body(&b, "ok");
        assert_int_equal(a.dones, where == 2);
        assert_int_equal(server.requests, 2);
        owner_release(&a);
        owner_release(&b);
        server_stop(&server);
    }
}

/* A start in done may take the place of the try that ends, though the lane is at its cap. */
static void start_in_done_at_the_cap(void **state)
{
    struct server server;
    struct owner a, b;
    (void)state;
    upstream_lane_close(lane);
    lane_open(1, NULL);
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    owner_init(&a);
    owner_init(&b);
    a.other = &b;
    a.on_done = cancel_and_start_other;
    assert_int_equal(start(&a), OK);
    finish(&b);
    assert_int_equal(b.err, OK);
    assert_true(b.reused);
    owner_release(&a);
    owner_release(&b);
    server_stop(&server);
}

static void start_then_cancel_it(struct owner *o)
{
    assert_int_equal(start(o->other), OK);
    cancel(o->other);
}

static void start_and_cancel_inside_callback(void **state)
{
    struct server server;
    struct owner a, b;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    owner_init(&a);
    owner_init(&b);
    a.other = &b;
    a.on_head = start_then_cancel_it;
    assert_int_equal(start(&a), OK);
    finish(&a);
    turns(5);
    assert_int_equal(server.requests, 1);
    assert_int_equal(stats().active, 0);
    owner_release(&a);
    owner_release(&b);
    server_stop(&server);
}

static char *lent_body;

static void cancel_other_and_free(struct owner *o)
{
    if (o->other->cancelled)
        return;
    cancel(o->other);
    free(lent_body); /* it was lent until cancel: the lane may not look at it any more */
    lent_body = NULL;
}

/* a's callback cancels b, which is sending a large body: no byte of that body is read afterwards. */
static void cancel_of_another_that_sends(void **state)
{
    const size_t len = 32u << 20;
    (void)state;
    for (unsigned i = 0; i < 10; i++) {
        struct server slow, fast;
        struct owner a, b;
        lent_body = calloc(1, len);
        assert_non_null(lent_body);
        const struct span part = { .ptr = lent_body, .len = len };
        const struct upstream_request request = request_of(&part, 1);
        use(&fast, says_nothing, NULL);
        const struct provider to_fast = provider;
        use(&slow, says_nothing, NULL);
        slow.hold_reading = true;
        owner_init(&a);
        owner_init(&b);
        assert_int_equal(upstream_start(lane, &request, &events, &b, &b.upstream), OK);
        while (!slow.last)
            turn();
        provider = to_fast;
        a.other = &b;
        a.on_body = cancel_other_and_free;
        assert_int_equal(start(&a), OK);
        while (!fast.last || fast.last->in.len == 0)
            turn();
        turns(20);
        /* Both sockets become ready in one turn. */
        peer_say(fast.last, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        char *sink = malloc(len);
        assert_non_null(sink);
        uv_os_fd_t fd;
        assert_int_equal(uv_fileno((uv_handle_t *)&slow.last->tcp, &fd), 0);
        while (recv(fd, sink, len, MSG_DONTWAIT) > 0)
            continue;
        free(sink);
        finish(&a);
        assert_int_equal(a.err, OK);
        assert_true(b.cancelled);
        turns(5);
        owner_release(&a);
        owner_release(&b);
        server_stop(&fast);
        server_stop(&slow);
    }
}

static void close_with_tries_in_flight(void **state)
{
    struct server server;
    struct owner owners[8];
    (void)state;
    use(&server, flood, NULL);
    for (unsigned i = 0; i < ARRAY_LEN(owners); i++) {
        owner_init(&owners[i]);
        if (i % 2)
            owners[i].on_body = pause_now;
        assert_int_equal(start(&owners[i]), OK);
    }
    while (!owners[0].bodies)
        turn();
    for (unsigned i = 0; i < ARRAY_LEN(owners); i++)
        owners[i].cancelled = true; /* no callback from now on */
    upstream_lane_close(lane);
    lane = NULL;
    turns(5);
    for (unsigned i = 0; i < ARRAY_LEN(owners); i++)
        owner_release(&owners[i]);
    server_stop(&server);
}

static void close_the_lane(struct owner *o)
{
    o->other->cancelled = true;
    upstream_lane_close(lane);
    lane = NULL;
}

static void close_inside_done(void **state)
{
    struct server server;
    struct owner a, b;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    owner_init(&a);
    owner_init(&b);
    a.other = &b;
    a.on_done = close_the_lane;
    b.other = &a;
    b.on_done = close_the_lane;
    assert_int_equal(start(&a), OK);
    assert_int_equal(start(&b), OK);
    while (lane)
        turn();
    turns(5);
    owner_release(&a);
    owner_release(&b);
    server_stop(&server);
}

/* ---- resources ---- */

static void many_requests(void **state)
{
    struct server server;
    struct owner owners[50];
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    for (unsigned round = 0; round < 40; round++) {
        for (unsigned i = 0; i < ARRAY_LEN(owners); i++) {
            owner_init(&owners[i]);
            if (i % 7 == 3)
                owners[i].on_head = cancel;
            assert_int_equal(start(&owners[i]), OK);
        }
        while (stats().active)
            turn();
        for (unsigned i = 0; i < ARRAY_LEN(owners); i++) {
            if (i % 7 != 3)
                expect_body(&owners[i], "ok");
            owner_release(&owners[i]);
        }
    }
    assert_true(stats().reused > 200);
    server_stop(&server);
}

/* Every allocation of the lane and of curl fails in turn: an error, never a hang, a leak or a crash. */
static void each_allocation_fails(void **state)
{
    static char bytes[70000];
    const struct span part = { .ptr = bytes, .len = sizeof(bytes) };
    const struct upstream_request request = request_of(&part, 1);
    struct server server;
    unsigned refused = 0, failed = 0;
    bool hit = true;
    (void)state;
    upstream_lane_close(lane);
    lane = NULL;
    turns(5);
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    for (uint64_t k = 0; hit; k++) {
        const struct upstream_lane_options options = { .loop = &loop,
                                                       .connections_max = 4,
                                                       .connections_idle_max = 4,
                                                       .ca_file = tls_of ? tls_of->ca_file : "/nowhere" };
        struct owner o;
        owner_init(&o);
        assert_int_equal(buf_reserve(&o.headers, 100, &(char *){ NULL }), OK);
        assert_int_equal(buf_reserve(&o.body, 100, &(char *){ NULL }), OK);
        fault_arm(FAULT_ALLOC, k, 1);
        enum err err = make_lane(&options, &lane);
        if (err == OK) {
            err = upstream_start(lane, &request, &events, &o, &o.upstream);
            if (err == OK) {
                while (!o.dones && !(server.last && server.last->in.len > 0 && fault_seen(FAULT_ALLOC) > k))
                    turn();
                fault_disarm_all();
                finish(&o);
                failed += o.err != OK;
            } else {
                refused++;
            }
            hit = o.dones == 0 || o.err != OK || k < 40;
            upstream_lane_close(lane);
            lane = NULL;
        }
        fault_disarm_all();
        assert_true(err == OK || err == ERR_NOMEM);
        turns(5);
        owner_release(&o);
    }
    assert_true(refused >= 3);
    assert_true(failed >= 3);
    server_stop(&server);
}

static void *curl_calloc(size_t count, size_t bytes)
{
    return fault_calloc(count, bytes);
}

static char *curl_strdup(const char *text)
{
    const size_t bytes = strlen(text) + 1;
    char *copy = fault_malloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    /* curl's own allocations can be made to fail, too. */
    if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, fault_malloc, free, fault_realloc, curl_strdup, curl_calloc) !=
        CURLE_OK)
        return 1;
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(pause_stops_the_flow),
        TEST(pause_and_resume_in_one_callback),
        TEST(pause_at_head),
        TEST(pause_before_the_connection),
        TEST(cancels_everywhere),
        TEST(cancel_in_done),
        TEST(starts_inside_callbacks),
        TEST(start_in_done_at_the_cap),
        TEST(start_and_cancel_inside_callback),
        TEST(cancel_of_another_that_sends),
        TEST(close_with_tries_in_flight),
        TEST(close_inside_done),
        TEST(many_requests),
        TEST(each_allocation_fails),
    };
    const int failed = RUN_OVER_LANES(tests);
    curl_global_cleanup();
    return failed;
}
