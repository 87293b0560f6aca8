/* What only the direct lane does by itself: its pool, TLS, names, and injected faults of reads and writes. What every
 * lane does is in lane_test.c. */
#include "tests/unit/dataplane/upstream/support.h"
#include "tests/unit/dataplane/upstream/support_dns.h"
#include "common/clock.h"
#include "common/file.h"
#include <ares.h>

static const char OK_ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

static void expect_ok(bool reused)
{
    struct owner o;
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    finish(&o);
    if (o.err != OK)
        fail_msg("%s (%s)", err_name(o.err), o.why);
    expect_body(&o, "ok");
    assert_int_equal(o.reused, reused);
    owner_release(&o);
}

static void expect_failure(enum err err, enum upstream_phase phase)
{
    struct owner o;
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    finish(&o);
    if (o.err != err)
        fail_msg("%s (%s), not %s", err_name(o.err), o.why, err_name(err));
    assert_int_equal(o.phase, phase);
    assert_int_equal(stats().active, 0);
    owner_release(&o);
}

/* ---- the pool ---- */

/* The newest is used first, so that what a quieter hour does not need falls idle and is closed. */
static void the_newest_connection_is_used_first(void **state)
{
    struct server server;
    struct owner a, b;
    (void)state;
    use(&server, says_nothing, NULL);
    owner_init(&a);
    owner_init(&b);
    assert_int_equal(start(&a), OK);
    while (!server.last || !server.last->in.len)
        turn();
    struct peer *first = server.last;
    assert_int_equal(start(&b), OK);
    while (server.accepted < 2 || !server.last->in.len)
        turn();
    struct peer *second = server.last;
    assert_true(take_request(second));
    peer_say(second, OK_ANSWER);
    finish(&b);
    assert_true(take_request(first));
    peer_say(first, OK_ANSWER);
    finish(&a); /* idle last */
    server.script = answer_each;
    server.answer = OK_ANSWER;
    expect_ok(true);
    expect_ok(true);
    assert_int_equal(first->requests, 3);
    assert_int_equal(second->requests, 1);
    owner_release(&a);
    owner_release(&b);
    server_stop(&server);
}

static void idle_bytes_close_the_connection(void **state)
{
    struct server server;
    (void)state;
    use(&server, answer_each, OK_ANSWER);
    expect_ok(false);
    peer_say(server.last, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen");
    while (server.open)
        turn();
    expect_ok(false);
    server_stop(&server);
}

static void idle_connections_are_closed_in_time(void **state)
{
    struct server server;
    (void)state;
    upstream_lane_close(lane);
    const struct upstream_lane_options options = { .loop = &loop,
                                                   .connections_max = 8,
                                                   .connections_idle_max = 8,
                                                   .ca_file = tls_of ? tls_of->ca_file : NULL,
                                                   .idle_ms = 40 };
    assert_int_equal(direct_lane_new(&options, &lane), OK);
    use(&server, answer_each, OK_ANSWER);
    expect_ok(false);
    expect_ok(true);
    const uint64_t since_ms = uv_now(&loop);
    while (server.open)
        turn();
    assert_in_range(uv_now(&loop) - since_ms, 35, 1000);
    expect_ok(false);
    server_stop(&server);
}

/* Hosts that came and went with policies do not stay for ever, and those that stay are found again. */
static void many_destinations(void **state)
{
    static char hosts[600][24];
    struct server server;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    const struct provider right = provider;
    for (unsigned i = 0; i < ARRAY_LEN(hosts); i++) {
        struct owner o;
        snprintf(hosts[i], sizeof(hosts[i]), "127.0.%u.%u", 1 + i / 250, 1 + i % 250);
        provider.host = span_cstr(hosts[i]);
        provider.port = 1;
        owner_init(&o);
        assert_int_equal(start(&o), OK);
        finish(&o);
        assert_int_equal(o.err, ERR_REFUSED);
        owner_release(&o);
    }
    provider = right;
    expect_ok(false);
    server_stop(&server);
}

/* What came behind an answer would be taken for the next one's. */
static void surplus_closes_the_connection(void **state)
{
    struct server server;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n");
    expect_ok(false);
    expect_ok(false);
    assert_int_equal(server.accepted, 2);
    server_stop(&server);
}

static void close_is_obeyed(void **state)
{
    const char *const answers[] = { "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
                                    "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct server server;
        use(&server, answer_each, answers[i]);
        expect_ok(false);
        expect_ok(false);
        server_stop(&server);
    }
}

/* Sent again once, not for ever: the second silence is a failure. */
static void a_stale_connection_is_replaced_once(void **state)
{
    struct server server;
    (void)state;
    use(&server, answer_each, OK_ANSWER);
    expect_ok(false);
    server.script = close_at_once;
    expect_failure(ERR_CLOSED, UPSTREAM_SENT);
    assert_int_equal(server.requests, 3);
    server_stop(&server);
}

/* Once a byte came, the provider may have acted on the request. */
static void half_a_head_is_no_stale_connection(void **state)
{
    struct server server;
    (void)state;
    use(&server, answer_each, OK_ANSWER);
    expect_ok(false);
    server.script = answer_and_close;
    server.answer = "HTTP/1.1 2";
    expect_failure(ERR_CLOSED, UPSTREAM_SENT);
    assert_int_equal(server.requests, 2);
    server_stop(&server);
}

static void read_and_write_faults(void **state)
{
    static const enum fault_kind kinds[] = { FAULT_READ, FAULT_WRITE };
    struct server server;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        use(&server, answer_each, OK_ANSWER);
        fault_arm(kinds[i], 0, 1);
        expect_failure(ERR_CLOSED, tls_of ? UPSTREAM_CONNECTING : i ? UPSTREAM_SENDING : UPSTREAM_SENT);
        fault_disarm_all();
        expect_ok(false);
        fault_arm(kinds[i], 0, 1); /* on a reused connection: sent again */
        expect_ok(false);
        fault_disarm_all();
        expect_ok(true);
        server_stop(&server);
    }
}

/* An answer that came before the peer stopped to read is the answer. */
static void answer_before_a_broken_write(void **state)
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
    assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
    while (!server.last || upstream_phase(o.upstream) < UPSTREAM_SENDING)
        turn();
    turns(20);
    peer_say(server.last, "HTTP/1.1 413 Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    finish(&o);
    assert_int_equal(o.err, OK);
    assert_int_equal(o.status, 413);
    assert_int_equal(stats().active, 0);
    free(bytes);
    owner_release(&o);
    server_stop(&server);
}

static void bad_requests_are_refused(void **state)
{
    static char huge[70000];
    static const struct upstream_header split = { { "x", 1 }, { "a\r\nhost: b", 10 } },
                                        no_name = { { "", 0 }, { "", 0 } }, spaced = { { "a b", 3 }, { "", 0 } };
    const struct upstream_header large = { { "x", 1 }, { huge, sizeof(huge) } };
    const struct {
        const struct upstream_header *header;
        struct span path;
        enum err err;
    } cases[] = { { &split, SPAN("/"), ERR_INVALID },
                  { &no_name, SPAN("/"), ERR_INVALID },
                  { &spaced, SPAN("/"), ERR_INVALID },
                  { &request_headers[0], SPAN("/ x"), ERR_INVALID },
                  { &request_headers[0], SPAN("/\r"), ERR_INVALID },
                  { &large, SPAN("/"), ERR_TOO_LARGE },
                  { &request_headers[0], SPAN(""), ERR_INVALID } };
    (void)state;
    memset(huge, 'h', sizeof(huge));
    provider = (struct provider){ .host = SPAN("127.0.0.1"), .port = 1 };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct owner o;
        struct upstream_request request = request_of(NULL, 0);
        request.headers = cases[i].header;
        request.header_count = 1;
        request.path = cases[i].path;
        owner_init(&o);
        assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), cases[i].err);
        assert_int_equal(stats().active, 0);
        owner_release(&o);
    }
}

static void lanes_are_chosen(void **state)
{
    const struct {
        struct provider provider;
        bool direct;
    } cases[] = { { { .lane = LANE_AUTO }, true },
                  { { .lane = LANE_DIRECT }, true },
                  { { .lane = LANE_CURL }, false },
                  { { .lane = LANE_AUTO, .http2 = true }, false },
                  { { .lane = LANE_AUTO, .proxy = SPAN("http://p:1") }, false },
                  { { .lane = LANE_DIRECT, .proxy = SPAN("http://p:1") }, false } }; /* never past a proxy */
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(upstream_goes_direct(&cases[i].provider), cases[i].direct);
}

/* ---- TLS ---- */

static void reopen(const char *ca_file)
{
    upstream_lane_close(lane);
    lane_open(8, ca_file);
}

static void certificates_are_verified(void **state)
{
    const struct tls_server *right = tls_of;
    struct tls_server stranger, expired;
    struct server server;
    struct owner o;
    (void)state;
    tls_server_init(&stranger, "IP:127.0.0.1", 30);
    tls_server_init(&expired, "IP:127.0.0.1", -1);
    use(&server, answer_each, OK_ANSWER);
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    finish(&o);
    assert_int_equal(o.err, OK);
    const int64_t day_ms = 86400000;
    assert_in_range(o.certificate_expires_at_ms - clock_wall_ms(), 29 * day_ms, 31 * day_ms);
    owner_release(&o);
    reopen(stranger.ca_file); /* trusts somebody else */
    expect_failure(ERR_DENIED, UPSTREAM_CONNECTING);
    reopen("/nowhere/at/all.pem");
    expect_failure(ERR_DENIED, UPSTREAM_CONNECTING);
    tls_of = &expired;
    reopen(expired.ca_file);
    expect_failure(ERR_DENIED, UPSTREAM_CONNECTING);
    assert_int_equal(server.requests, 1); /* nobody else was told anything */
    tls_of = right;
    server_stop(&server);
    tls_server_release(&stranger);
    tls_server_release(&expired);
}

static void names_are_verified(void **state)
{
    const struct tls_server *right = tls_of;
    struct tls_server named;
    struct server server;
    struct dns dns;
    (void)state;
    tls_server_init(&named, "DNS:right.test", 30);
    dns_start(&dns, &loop);
    dns_says(&dns, "right.test", "127.0.0.1", 60);
    dns_says(&dns, "wrong.test", "127.0.0.1", 60);
    tls_of = &named;
    name_servers = dns.address;
    reopen(NULL);
    use(&server, answer_each, OK_ANSWER);
    provider.host = SPAN("right.test");
    expect_ok(false);
    assert_string_equal(named.seen_name, "right.test"); /* SNI */
    assert_string_equal(named.seen_protocols, "\x08http/1.1");
    provider.host = SPAN("wrong.test");
    expect_failure(ERR_DENIED, UPSTREAM_CONNECTING);
    provider.host = SPAN("127.0.0.1");
    expect_failure(ERR_DENIED, UPSTREAM_CONNECTING);
    server_stop(&server);
    upstream_lane_close(lane);
    lane = NULL;
    turns(5);
    name_servers = NULL;
    dns_stop(&dns);
    turns(5);
    tls_of = right;
    tls_server_release(&named);
}

static void on_doorman_connection(uv_stream_t *door, int status)
{
    uv_tcp_t *peer = malloc(sizeof(*peer));
    assert_true(status == 0 && peer && uv_tcp_init(&loop, peer) == 0);
    assert_int_equal(uv_accept(door, (uv_stream_t *)peer), 0);
    ++*(unsigned *)door->data;
    uv_close((uv_handle_t *)peer, (uv_close_cb)(void (*)(void))free);
}

/* One of a name's addresses takes connections and shakes no hands. */
static void the_next_address_shakes_hands(void **state)
{
    const struct tls_server *right = tls_of;
    struct tls_server named;
    struct server server;
    struct sockaddr_in at;
    struct dns dns;
    uv_tcp_t door;
    unsigned turned_away = 0;
    (void)state;
    tls_server_init(&named, "DNS:two.test", 30);
    dns_start(&dns, &loop);
    dns_says(&dns, "two.test", "127.0.0.2", 60);
    dns_says(&dns, "two.test", "127.0.0.1", 60);
    tls_of = &named;
    name_servers = dns.address;
    reopen(NULL);
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    assert_true(uv_tcp_init(&loop, &door) == 0 && uv_ip4_addr("127.0.0.2", server.port, &at) == 0);
    assert_int_equal(uv_tcp_bind(&door, (struct sockaddr *)&at, 0), 0);
    door.data = &turned_away;
    assert_int_equal(uv_listen((uv_stream_t *)&door, 8, on_doorman_connection), 0);
    provider.host = SPAN("two.test");
    expect_ok(false);
    expect_ok(false); /* the one that answered is asked first now */
    assert_int_equal(turned_away, 1);
    uv_close((uv_handle_t *)&door, NULL);
    server_stop(&server);
    upstream_lane_close(lane);
    lane = NULL;
    turns(5);
    name_servers = NULL;
    dns_stop(&dns);
    turns(5);
    tls_of = right;
    tls_server_release(&named);
}

static void sessions_are_resumed(void **state)
{
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        struct server server;
        SSL_CTX_set_max_proto_version(tls_of->ctx, versions[i]);
        reopen(NULL);
        use(&server, answer_each, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        expect_ok(false);
        expect_ok(false);
        expect_ok(false);
        assert_int_equal(server.secured, 3);
        assert_int_equal(server.resumed, 2);
        server_stop(&server);
    }
    SSL_CTX_set_max_proto_version(tls_of->ctx, 0);
}

static void old_versions_are_refused(void **state)
{
    struct server server;
    (void)state;
    SSL_CTX_set_min_proto_version(tls_of->ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(tls_of->ctx, TLS1_1_VERSION);
    use(&server, answer_each, OK_ANSWER);
    expect_failure(ERR_DENIED, UPSTREAM_CONNECTING);
    server_stop(&server);
    SSL_CTX_set_min_proto_version(tls_of->ctx, 0);
    SSL_CTX_set_max_proto_version(tls_of->ctx, 0);
}

static void cut_raw(struct peer *peer)
{
    if (take_request(peer)) {
        peer_say(peer, peer->server->answer);
        peer_close(peer); /* no close_notify */
    }
}

/* A body that ends with the connection, and TLS that was not ended: somebody cut it. */
static void truncation_is_noticed(void **state)
{
    struct server server;
    (void)state;
    use(&server, cut_raw, "HTTP/1.1 200 OK\r\n\r\nhalf");
    expect_failure(ERR_CLOSED, UPSTREAM_BODY);
    server_stop(&server);
}

static void not_tls(struct peer *peer)
{
    peer_send_raw(peer, SPAN("HTTP/1.1 400 Bad\r\n\r\n"));
}

static void a_plain_server(void **state)
{
    const struct tls_server *right = tls_of;
    struct server server;
    (void)state;
    tls_of = NULL;
    use(&server, not_tls, NULL);
    provider.tls = true;
    expect_failure(ERR_DENIED, UPSTREAM_CONNECTING);
    server.script = close_raw;
    expect_failure(ERR_CLOSED, UPSTREAM_CONNECTING);
    server.script = says_nothing;
    struct owner o;
    struct upstream_request request = request_of(NULL, 0);
    request.connect_timeout_ms = 50;
    owner_init(&o);
    assert_int_equal(upstream_start(lane, &request, &events, &o, &o.upstream), OK);
    finish(&o);
    assert_int_equal(o.err, ERR_TIMEOUT);
    owner_release(&o);
    server_stop(&server);
    tls_of = right;
}

/* ---- names ---- */

static struct dns dns;

static int set_up_names(void **state)
{
    if (uv_loop_init(&loop) != 0)
        return 1;
    start_watchdog();
    dns_start(&dns, &loop);
    name_servers = dns.address;
    lane_open(64, NULL);
    (void)state;
    return 0;
}

static int tear_down_names(void **state)
{
    if (lane)
        upstream_lane_close(lane);
    lane = NULL;
    turns(5);
    dns_stop(&dns);
    return tear_down(state);
}

/* Asked once; then the answer is kept, though its TTL is 0. */
static void names_are_asked_once(void **state)
{
    struct server server;
    struct owner owners[5];
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    provider.host = SPAN("a.test");
    dns_says(&dns, "a.test", "127.0.0.1", 0);
    for (unsigned i = 0; i < ARRAY_LEN(owners); i++) {
        owner_init(&owners[i]);
        assert_int_equal(start(&owners[i]), OK);
    }
    for (unsigned i = 0; i < ARRAY_LEN(owners); i++) {
        finish(&owners[i]);
        assert_int_equal(owners[i].err, OK);
        owner_release(&owners[i]);
    }
    expect_ok(false);
    assert_int_equal(dns_asked(&dns, "a.test"), 1);
    server_stop(&server);
}

static void a_name_that_is_not(void **state)
{
    (void)state;
    provider = (struct provider){ .host = SPAN("not.test"), .port = 80 };
    expect_failure(ERR_NOT_FOUND, UPSTREAM_CONNECTING);
    expect_failure(ERR_NOT_FOUND, UPSTREAM_CONNECTING); /* asked again: it may be there by now */
    assert_int_equal(dns_asked(&dns, "not.test"), 2);
}

/* One name's server is a black hole: who asks for it waits out its time, nobody else waits at all. */
static void a_black_hole_delays_nobody_else(void **state)
{
    struct server server;
    struct owner lost, gone;
    (void)state;
    use(&server, answer_each, OK_ANSWER);
    const struct provider right = provider;
    dns_says(&dns, "good.test", "127.0.0.1", 60);
    dns_ignores(&dns, "hole.test");
    provider.host = SPAN("hole.test");
    owner_init(&lost);
    owner_init(&gone);
    assert_int_equal(start(&gone), OK);
    struct upstream_request request = request_of(NULL, 0);
    request.connect_timeout_ms = 300;
    assert_int_equal(upstream_start(lane, &request, &events, &lost, &lost.upstream), OK);
    provider = right;
    for (unsigned i = 0; i < 20; i++)
        expect_ok(i > 0);
    provider.host = SPAN("good.test");
    expect_ok(false);
    assert_int_equal(lost.dones, 0); /* all of that while it waits */
    cancel(&gone);
    finish(&lost);
    assert_int_equal(lost.err, ERR_TIMEOUT);
    assert_int_equal(lost.phase, UPSTREAM_CONNECTING);
    owner_release(&lost);
    owner_release(&gone);
    server_stop(&server);
}

/* 127.0.0.2 refuses at once, and the silent listener never answers: the next address is tried. */
static void the_next_address_is_tried(void **state)
{
    struct server server;
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    provider.host = SPAN("two.test");
    dns_says(&dns, "two.test", "127.0.0.2", 60);
    dns_says(&dns, "two.test", "127.0.0.1", 60);
    expect_ok(false);
    expect_ok(false);
    assert_int_equal(dns_asked(&dns, "two.test"), 1);
    server_stop(&server);
}

/* A listener on the same port of 127.0.0.3 whose queue is full answers no SYN. */
static void a_silent_address_is_overtaken(void **state)
{
    struct server server;
    int fillers[4];
    (void)state;
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    const int silent = silent_listener("127.0.0.3", server.port, fillers, 4);
    provider.host = SPAN("slow.test");
    dns_says(&dns, "slow.test", "127.0.0.3", 60);
    dns_says(&dns, "slow.test", "127.0.0.1", 60);
    const uint64_t before_ms = uv_now(&loop);
    expect_ok(false);
    assert_in_range(uv_now(&loop) - before_ms, 0, 900); /* not a second SYN, not the time-out */
    const uint64_t again_ms = uv_now(&loop);
    expect_ok(false); /* the one that answered is asked first now */
    assert_in_range(uv_now(&loop) - again_ms, 0, 200);
    for (int i = 0; i < 4; i++)
        close(fillers[i]);
    close(silent);
    server_stop(&server);
}

/* Every allocation of the lane and of c-ares fails in turn. */
static void each_allocation_fails(void **state)
{
    struct server server;
    unsigned failed = 0;
    (void)state;
    use(&server, answer_each, OK_ANSWER);
    provider.host = SPAN("a.test");
    dns_says(&dns, "a.test", "127.0.0.1", 60);
    bool hit = true;
    for (uint64_t k = 0; hit; k++) {
        struct upstream_request request = request_of(NULL, 0);
        struct owner o;
        upstream_lane_close(lane);
        turns(5);
        lane_open(8, NULL);
        request.connect_timeout_ms = 300; /* a query whose socket is not watched ends by it */
        owner_init(&o);
        assert_int_equal(buf_reserve(&o.headers, 200, &(char *){ NULL }), OK);
        assert_int_equal(buf_reserve(&o.body, 100, &(char *){ NULL }), OK);
        fault_arm(FAULT_ALLOC, k, 1);
        const enum err err = upstream_start(lane, &request, &events, &o, &o.upstream);
        if (!err)
            finish(&o);
        hit = fault_seen(FAULT_ALLOC) > k;
        fault_disarm_all();
        failed += err || o.err;
        assert_true(err == OK || err == ERR_NOMEM);
        owner_release(&o);
    }
    assert_true(failed >= 6);
    expect_ok(true);
    server_stop(&server);
}

static void close_while_names_are_asked(void **state)
{
    struct owner o;
    (void)state;
    dns_ignores(&dns, "hole.test");
    provider = (struct provider){ .host = SPAN("hole.test"), .port = 80 };
    owner_init(&o);
    assert_int_equal(start(&o), OK);
    turns(3);
    o.cancelled = true;
    upstream_lane_close(lane);
    lane = NULL;
    turns(5);
    owner_release(&o);
}

static void say_in_resolv_conf(const char *text)
{
    assert_int_equal(file_write_atomic(resolv_conf, span_cstr(text), 0600), OK);
}

/* For `name`, on the port of `provider`; *of holds the provider as long as the try runs. */
static void ask_for(struct span name, struct provider *of, struct owner *o)
{
    struct upstream_request request = request_of(NULL, 0);
    *of = provider;
    of->host = name;
    request.provider = of;
    request.connect_timeout_ms = 60000; /* names are part of it */
    owner_init(o);
    assert_int_equal(upstream_start(lane, &request, &events, o, &o->upstream), OK);
}

static void pass_a_second(void)
{
    for (const uint64_t until_ms = uv_now(&loop) + 1001; uv_now(&loop) < until_ms;)
        turn();
}

/* What another file says is heeded, and who asked before it changed gets an answer all the same. */
static void a_changed_resolv_conf_is_read_again(void **state)
{
    struct server server;
    struct owner early, late;
    struct provider of_early, of_late;
    char path[] = "/tmp/fl-resolv-XXXXXX";
    const int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    (void)close(fd);
    upstream_lane_close(lane);
    resolv_conf = path;
    say_in_resolv_conf("search one.test\n");
    lane_open(64, NULL);
    use(&server, answer_each, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    dns_says(&dns, "first.one.test", "127.0.0.1", 60);
    provider.host = SPAN("first");
    expect_ok(false);
    assert_int_equal(dns_asked(&dns, "first.one.test"), 1);

    dns_ignores(&dns, "silent.test");
    ask_for(SPAN("silent.test"), &of_early, &early);
    say_in_resolv_conf("search two.test\n");
    pass_a_second();
    dns_says(&dns, "second.two.test", "127.0.0.1", 60);
    provider.host = SPAN("second");
    expect_ok(false);
    assert_int_equal(dns_asked(&dns, "second.two.test"), 1);
    assert_int_equal(dns_asked(&dns, "second.one.test"), 0);

    dns_says(&dns, "silent.test", "127.0.0.1", 60); /* when it is asked again */
    dns_name(&dns, "silent.test", false)->silent = false;
    finish(&early);
    assert_int_equal(early.err, OK);
    owner_release(&early);
    dns_ignores(&dns, "never.test"); /* and a lane that closes with an old question open leaks nothing */
    ask_for(SPAN("never.test"), &of_late, &late);
    say_in_resolv_conf("search three.test\n");
    pass_a_second();
    dns_says(&dns, "third.three.test", "127.0.0.1", 60);
    provider.host = SPAN("third");
    expect_ok(false);
    late.cancelled = true;
    upstream_lane_close(lane);
    lane = NULL;
    turns(5);
    owner_release(&late);
    server_stop(&server);
    resolv_conf = NULL;
    (void)unlink(path);
}

static void localhost_needs_no_server(void **state)
{
    struct server server;
    (void)state;
    use(&server, answer_each, OK_ANSWER);
    provider.host = SPAN("localhost");
    expect_ok(false);
    assert_int_equal(dns_asked(&dns, "localhost"), 0);
    server_stop(&server);
}

int main(int argc, char **argv)
{
    struct tls_server tls;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    make_lane = direct_lane_new;
    /* c-ares's own allocations can be made to fail, too. */
    if (ares_library_init_mem(ARES_LIB_INIT_ALL, fault_malloc, free, fault_realloc) != ARES_SUCCESS)
        return 1;
#define TEST(name)  cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define NAMES(name) cmocka_unit_test_setup_teardown(name, set_up_names, tear_down_names)
    const struct CMUnitTest pool[] = {
        TEST(the_newest_connection_is_used_first),
        TEST(idle_bytes_close_the_connection),
        TEST(idle_connections_are_closed_in_time),
        TEST(many_destinations),
        TEST(surplus_closes_the_connection),
        TEST(close_is_obeyed),
        TEST(a_stale_connection_is_replaced_once),
        TEST(half_a_head_is_no_stale_connection),
        TEST(read_and_write_faults),
        TEST(answer_before_a_broken_write),
        TEST(bad_requests_are_refused),
        TEST(lanes_are_chosen),
    };
    const struct CMUnitTest secure[] = {
        TEST(certificates_are_verified),     TEST(sessions_are_resumed), TEST(old_versions_are_refused),
        TEST(truncation_is_noticed),         TEST(a_plain_server),       TEST(names_are_verified),
        TEST(the_next_address_shakes_hands),
    };
    const struct CMUnitTest names[] = {
        NAMES(names_are_asked_once),
        NAMES(a_name_that_is_not),
        NAMES(a_black_hole_delays_nobody_else),
        NAMES(the_next_address_is_tried),
        NAMES(a_silent_address_is_overtaken),
        NAMES(close_while_names_are_asked),
        NAMES(a_changed_resolv_conf_is_read_again),
        NAMES(localhost_needs_no_server),
        NAMES(each_allocation_fails),
    };
    int failed = cmocka_run_group_tests_name("pool", pool, NULL, NULL);
    failed += cmocka_run_group_tests_name("names", names, NULL, NULL);
    tls_server_init(&tls, "IP:127.0.0.1", 30);
    tls_of = &tls;
    name_servers = NULL;
    failed += cmocka_run_group_tests_name("pool over TLS", pool, NULL, NULL);
    failed += cmocka_run_group_tests_name("TLS", secure, NULL, NULL);
    tls_server_release(&tls);
    return failed;
}
