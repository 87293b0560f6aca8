/* support.h - what the tests of lanes share: servers that a test scripts byte by byte (plain or with TLS), an owner that
 * checks the order of callbacks, and a lane, all on one loop. */
#pragma once
#include "tests/unit/dataplane/upstream/support_tls.h"
#include "common/buf.h"
#include "common/fault.h"
#include "dataplane/upstream/upstream.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define WATCHDOG_MS   10000u /* of one test */
#define BEAT_MS       5u
#define PEER_IN_BYTES (128u << 10)

/* ---- the scripted server ---- */

struct peer;
typedef void script(struct peer *peer); /* called when bytes came; peer->in holds all of them since the last answer */

struct server {
    uint16_t port;
    uv_tcp_t tcp;
    script *script;
    const char *answer; /* for scripts that use it */
    unsigned accepted, requests, secured, resumed;
    struct peer *last;
    unsigned open;
    bool hold_reading; /* new connections are not read (beyond a handshake) */
};
struct peer {
    uv_tcp_t tcp; /* first: tells peers from servers in a walk */
    struct server *server;
    struct buf in; /* what scripts see */
    unsigned requests;
    bool closing;
    SSL *ssl; /* NULL: plain */
    bool secure;
};

static uv_loop_t loop;
static const struct tls_server *tls_of; /* all servers speak TLS with this, when there is one */

static inline void on_peer_closed(uv_handle_t *handle)
{
    struct peer *peer = handle->data;
    peer->server->open--;
    if (peer->server->last == peer)
        peer->server->last = NULL;
    buf_release(&peer->in);
    SSL_free(peer->ssl);
    free(peer);
}

static inline void peer_close(struct peer *peer)
{
    if (!peer->closing) {
        peer->closing = true;
        uv_close((uv_handle_t *)&peer->tcp, on_peer_closed);
    }
}

static inline void peer_reset(struct peer *peer)
{
    if (!peer->closing) {
        peer->closing = true;
        assert_int_equal(uv_tcp_close_reset(&peer->tcp, on_peer_closed), 0);
    }
}

static inline void on_sent(uv_write_t *write, int status)
{
    (void)status;
    free(write);
}

static inline void peer_send_raw(struct peer *peer, struct span bytes)
{
    uv_write_t *write = malloc(sizeof(*write) + bytes.len);
    assert_non_null(write);
    char *copy = (char *)(write + 1);
    memcpy(copy, bytes.ptr, bytes.len);
    const uv_buf_t out = uv_buf_init(copy, (unsigned)bytes.len);
    assert_int_equal(uv_write(write, (uv_stream_t *)&peer->tcp, &out, 1, on_sent), 0);
}

static inline void peer_flush(struct peer *peer)
{
    char *records;
    const long count = BIO_get_mem_data(SSL_get_wbio(peer->ssl), &records);
    if (count > 0)
        peer_send_raw(peer, span_of(records, (size_t)count));
    BIO_reset(SSL_get_wbio(peer->ssl));
}

static inline void peer_send(struct peer *peer, struct span bytes)
{
    if (!peer->ssl) {
        peer_send_raw(peer, bytes);
    } else if (bytes.len) {
        assert_int_equal(SSL_write(peer->ssl, bytes.ptr, (int)bytes.len), (int)bytes.len);
        peer_flush(peer);
    }
}

static inline void peer_say(struct peer *peer, const char *text)
{
    peer_send(peer, span_cstr(text));
}

static inline void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    static char bytes[65536];
    (void)handle;
    (void)suggested;
    *ret = uv_buf_init(bytes, sizeof(bytes));
}

/* True when there is something for the script. A client that gives up in the handshake is closed on. */
static inline bool peer_decrypt(struct peer *peer, struct span records)
{
    char *at;
    size_t before = peer->in.len, n = 0;
    assert_int_equal(BIO_write(SSL_get_rbio(peer->ssl), records.ptr, (int)records.len), (int)records.len);
    if (!peer->secure) {
        const int done = SSL_accept(peer->ssl);
        peer_flush(peer);
        if (done != 1 && SSL_get_error(peer->ssl, done) != SSL_ERROR_WANT_READ)
            peer_close(peer);
        if (done != 1)
            return false;
        peer->secure = true;
        peer->server->secured++;
        peer->server->resumed += (unsigned)SSL_session_reused(peer->ssl);
        if (peer->server->hold_reading)
            uv_read_stop((uv_stream_t *)&peer->tcp);
    }
    do {
        buf_commit(&peer->in, n);
        assert_int_equal(buf_reserve(&peer->in, 16384, &at), OK);
    } while (SSL_read_ex(peer->ssl, at, 16384, &n) == 1);
    ERR_clear_error();
    peer_flush(peer);
    return peer->in.len > before;
}

static inline void on_peer_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *bytes)
{
    struct peer *peer = stream->data;
    if (got < 0) {
        peer_close(peer);
        return;
    }
    if (peer->ssl ? peer_decrypt(peer, span_of(bytes->base, (size_t)got))
                  : buf_append(&peer->in, span_of(bytes->base, (size_t)got)) == OK)
        peer->server->script(peer);
}

static inline void on_connection(uv_stream_t *listener, int status)
{
    struct server *server = listener->data;
    assert_int_equal(status, 0);
    struct peer *peer = calloc(1, sizeof(*peer));
    assert_non_null(peer);
    peer->server = server;
    peer->tcp.data = peer;
    buf_init(&peer->in, 64u << 20);
    peer->in.cap = PEER_IN_BYTES; /* made here, so that no fault is spent on the server */
    peer->in.data = malloc(PEER_IN_BYTES);
    assert_non_null(peer->in.data);
    if (tls_of)
        peer->ssl = tls_server_accept(tls_of);
    assert_int_equal(uv_tcp_init(&loop, &peer->tcp), 0);
    assert_int_equal(uv_accept(listener, (uv_stream_t *)&peer->tcp), 0);
    uv_tcp_nodelay(&peer->tcp, 1);
    server->accepted++;
    server->open++;
    server->last = peer;
    if (!server->hold_reading || peer->ssl)
        assert_int_equal(uv_read_start((uv_stream_t *)&peer->tcp, on_alloc, on_peer_read), 0);
}

static inline void server_start(struct server *server, script *script_of)
{
    struct sockaddr_in at;
    int len = sizeof(at);
    *server = (struct server){ .script = script_of };
    assert_int_equal(uv_tcp_init(&loop, &server->tcp), 0);
    server->tcp.data = server;
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &at), 0);
    assert_int_equal(uv_tcp_bind(&server->tcp, (struct sockaddr *)&at, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&server->tcp, 512, on_connection), 0);
    assert_int_equal(uv_tcp_getsockname(&server->tcp, (struct sockaddr *)&at, &len), 0);
    server->port = ntohs(at.sin_port);
}

/* A listener whose queue is full answers no SYN. Port 0: the system's choice, see getsockname. */
static inline int silent_listener(const char *address, uint16_t port, int *ret_fillers, int count)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
    socklen_t len = sizeof(at);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(inet_pton(AF_INET, address, &at.sin_addr), 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    for (int i = 0; i < count; i++) {
        ret_fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(ret_fillers[i], (struct sockaddr *)&at, sizeof(at));
    }
    return fd;
}

/* True once for each whole request in peer->in, which is then taken out. */
static inline bool take_request(struct peer *peer)
{
    const struct span in = buf_span(&peer->in);
    const size_t end = span_find(in, SPAN("\r\n\r\n"));
    uint64_t body = 0;
    if (end == SIZE_MAX)
        return false;
    const size_t length = span_find(span_head(in, end + 2), SPAN("Content-Length: "));
    if (length != SIZE_MAX) {
        struct span rest = span_skip(in, length + 16), number;
        assert_true(span_split(&rest, '\r', &number));
        assert_int_equal(span_to_u64(number, &body), OK);
    }
    if (in.len < end + 4 + body)
        return false;
    buf_consume(&peer->in, end + 4 + (size_t)body);
    peer->requests++;
    peer->server->requests++;
    return true;
}

static inline void answer_each(struct peer *peer)
{
    while (take_request(peer))
        peer_say(peer, peer->server->answer);
}

static inline void on_shut(uv_shutdown_t *shut, int status)
{
    (void)status;
    free(shut);
}

static inline void answer_and_close(struct peer *peer)
{
    if (take_request(peer)) {
        peer_say(peer, peer->server->answer);
        if (peer->ssl) {
            SSL_shutdown(peer->ssl);
            peer_flush(peer);
        }
        uv_shutdown_t *shut = malloc(sizeof(*shut));
        assert_non_null(shut);
        assert_int_equal(uv_shutdown(shut, (uv_stream_t *)&peer->tcp, on_shut), 0);
    }
}

static inline void close_raw(struct peer *peer)
{
    peer_close(peer);
}

static inline void close_at_once(struct peer *peer)
{
    if (take_request(peer))
        peer_close(peer);
}

/* ---- the owner of tries ---- */

struct owner {
    struct upstream *upstream;
    unsigned heads, bodies, dones;
    unsigned status;
    bool reused;
    struct buf body, headers;
    enum err err;
    enum upstream_phase phase, phase_at_head;
    int64_t certificate_expires_at_ms;
    char why[256];
    void (*on_head)(struct owner *);
    void (*on_body)(struct owner *);
    void (*on_done)(struct owner *);
    struct owner *other;
    bool cancelled;
};

typedef enum err lane_maker(const struct upstream_lane_options *options, struct upstream_lane **ret);
static lane_maker *make_lane;
static const char *resolv_conf;                  /* NULL: the system's */
static const char *name_servers = "127.0.0.1:1"; /* nobody there: names fail at once */
static struct upstream_lane *lane;
static struct provider provider;
static uv_timer_t watchdog;

static inline void got_head(void *user, const struct upstream_head *head)
{
    struct owner *o = user;
    assert_false(o->cancelled);
    assert_int_equal(o->bodies + o->dones, 0);
    o->heads++;
    o->status = head->status;
    o->reused = head->reused;
    o->phase_at_head = upstream_phase(o->upstream);
    for (unsigned i = 0; i < head->header_count; i++)
        assert_int_equal(buf_printf(&o->headers, SPAN_FMT "=" SPAN_FMT "\n", SPAN_ARG(head->headers[i].name),
                                    SPAN_ARG(head->headers[i].value)),
                         OK);
    if (o->on_head)
        o->on_head(o);
}

static inline void got_body(void *user, struct span bytes)
{
    struct owner *o = user;
    assert_false(o->cancelled);
    assert_int_equal(o->heads, 1);
    assert_int_equal(o->dones, 0);
    o->bodies++;
    assert_int_equal(buf_append(&o->body, bytes), OK);
    if (o->on_body)
        o->on_body(o);
}

static inline void got_done(void *user, const struct upstream_result *result)
{
    struct owner *o = user;
    assert_false(o->cancelled);
    assert_int_equal(o->dones, 0);
    o->dones++;
    o->err = result->err;
    o->phase = result->phase;
    o->certificate_expires_at_ms = result->certificate_expires_at_ms;
    assert_non_null(result->why);
    snprintf(o->why, sizeof(o->why), "%s", result->why);
    if (o->on_done)
        o->on_done(o);
    o->upstream = NULL;
}

static const struct upstream_events events = { .head = got_head, .body = got_body, .done = got_done };

static inline void owner_init(struct owner *o)
{
    *o = (struct owner){ .heads = 0 };
    buf_init(&o->body, 64u << 20);
    buf_init(&o->headers, 1u << 20);
}

static inline void owner_release(struct owner *o)
{
    buf_release(&o->body);
    buf_release(&o->headers);
}

static inline void cancel(struct owner *o)
{
    upstream_cancel(o->upstream);
    o->upstream = NULL;
    o->cancelled = true;
}

static const struct upstream_header request_headers[] = {
    { { "authorization", 13 }, { "Bearer s3cret", 13 } },
    { { "content-type", 12 }, { "application/json", 16 } },
    { { "accept-encoding", 15 }, { "identity", 8 } },
    { { "x-empty", 7 }, { "", 0 } },
};

static inline struct upstream_request request_of(const struct span *parts, unsigned count)
{
    return (struct upstream_request){ .provider = &provider,
                                      .method = count ? SPAN("POST") : SPAN("GET"),
                                      .path = SPAN("/v1/x?y=1"),
                                      .headers = request_headers,
                                      .header_count = ARRAY_LEN(request_headers),
                                      .body_parts = parts,
                                      .body_part_count = count,
                                      .connect_timeout_ms = 3000,
                                      .response_head_bytes_max = 16384 };
}

static inline enum err start(struct owner *o)
{
    static const struct span body = { .ptr = "{\"a\":1}", .len = 7 };
    const struct upstream_request request = request_of(&body, 1);
    return upstream_start(lane, &request, &events, o, &o->upstream);
}

static inline void on_watchdog(uv_timer_t *timer)
{
    unsigned *beats = timer->data;
    if (++*beats * BEAT_MS > WATCHDOG_MS)
        fail_msg("nothing happened for %u ms", WATCHDOG_MS);
}

/* The beat ends a turn whose work was done before the loop went to wait. */
static inline void turn(void)
{
    uv_run(&loop, UV_RUN_ONCE);
}

static inline void finish(struct owner *o)
{
    while (!o->dones)
        turn();
}

static inline void turns(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

static inline struct upstream_lane_stats stats(void)
{
    struct upstream_lane_stats s;
    upstream_lane_stats(lane, &s);
    return s;
}

/* ---- set-up ---- */

static size_t lane_holds; /* as the lane says */

static inline bool on_lane_memory(void *user, size_t before, size_t after)
{
    (void)user;
    assert_true(lane_holds >= before);
    lane_holds += after - before;
    return true;
}

static inline void lane_open(unsigned connections_max, const char *ca_file)
{
    const struct upstream_lane_options options = {
        .loop = &loop,
        .connections_max = connections_max,
        .connections_idle_max = 8,
        .account = on_lane_memory,
        .ca_file = ca_file  ? ca_file
                   : tls_of ? tls_of->ca_file
                            : NULL,
        .name_servers = name_servers,
        .resolv_conf = resolv_conf,
    };
    assert_int_equal(make_lane(&options, &lane), OK);
}

static inline void start_watchdog(void)
{
    assert_int_equal(uv_timer_init(&loop, &watchdog), 0);
    static unsigned beats;
    beats = 0;
    watchdog.data = &beats;
    uv_timer_start(&watchdog, on_watchdog, BEAT_MS, BEAT_MS);
    uv_unref((uv_handle_t *)&watchdog);
}

static inline int set_up(void **state)
{
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    start_watchdog();
    lane = NULL;
    lane_open(64, NULL);
    return 0;
}

static inline void close_any(uv_handle_t *handle, void *user)
{
    if (handle->type == UV_TCP && handle->data == handle && ((struct peer *)(void *)handle)->server == user)
        peer_close(handle->data);
}

static inline void server_stop(struct server *server)
{
    uv_walk(&loop, close_any, server);
    uv_close((uv_handle_t *)&server->tcp, NULL);
    while (server->open || uv_is_active((uv_handle_t *)&server->tcp))
        uv_run(&loop, UV_RUN_NOWAIT);
    turns(2);
}

static inline int tear_down(void **state)
{
    (void)state;
    fault_disarm_all();
    if (lane)
        upstream_lane_close(lane);
    uv_timer_stop(&watchdog);
    uv_close((uv_handle_t *)&watchdog, NULL);
    turns(50); /* a failed test leaves its server open */
    const bool balanced = lane_holds == 0;
    lane_holds = 0;
    if (!balanced)
        return -1;
    return uv_loop_close(&loop); /* not 0 when a handle was left open */
}

static inline void use(struct server *server, script *script_of, const char *answer)
{
    server_start(server, script_of);
    server->answer = answer;
    provider =
        (struct provider){ .name = SPAN("p"), .host = SPAN("127.0.0.1"), .port = server->port, .tls = tls_of != NULL };
}

static inline void expect_done(struct owner *o, const char *answer, script *script_of, enum err err,
                               enum upstream_phase phase)
{
    struct server server;
    use(&server, script_of, answer);
    owner_init(o);
    assert_int_equal(start(o), OK);
    finish(o);
    server_stop(&server);
    if (o->err != err)
        fail_msg("%s (%s), not %s", err_name(o->err), o->why, err_name(err));
    assert_int_equal(o->phase, phase);
    assert_int_equal(stats().active, 0);
}

static inline void expect_body(const struct owner *o, const char *text)
{
    const struct span body = buf_span(&o->body);
    assert_int_equal(body.len, strlen(text));
    assert_memory_equal(body.ptr, text, body.len);
}

static char request_seen[4096];

static inline void keep_request(struct peer *peer)
{
    const struct span in = buf_span(&peer->in);
    snprintf(request_seen, sizeof(request_seen), SPAN_FMT, SPAN_ARG(in));
    answer_each(peer);
}

static inline void says_nothing(struct peer *peer)
{
    (void)peer;
}

/* ---- every lane ---- */

static inline bool is_curl(void)
{
    return make_lane == curl_lane_new;
}

/* The tests over curl, direct, the choice of both, and direct with TLS. */
#define RUN_OVER_LANES(tests) run_over_lanes(tests, ARRAY_LEN(tests))
static inline int run_over_lanes(const struct CMUnitTest *tests, size_t count)
{
    static const struct {
        const char *name;
        lane_maker *maker;
        bool tls;
    } kinds[] = { { "curl", curl_lane_new, false },
                  { "direct", direct_lane_new, false },
                  { "both", upstream_lane_new, false },
                  { "direct over TLS", direct_lane_new, true } };
    struct tls_server tls;
    int failed = 0;
    tls_server_init(&tls, "IP:127.0.0.1", 30);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        print_message("---- %s ----\n", kinds[i].name);
        make_lane = kinds[i].maker;
        tls_of = kinds[i].tls ? &tls : NULL;
        failed += _cmocka_run_group_tests(kinds[i].name, tests, count, NULL, NULL);
    }
    tls_of = NULL;
    tls_server_release(&tls);
    return failed;
}
