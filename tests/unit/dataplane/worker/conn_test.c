/* A client's connection: framing, limits, timeouts, order, and who is answered what before a provider hears of it. */
#include "rig.h"

#define TRY(rig, n) (&(rig).lane.tries[n])

static void answer(struct rig *rig, unsigned n)
{
    UNTIL(rig, rig->lane.count > n);
    try_head(&rig->lane.tries[n], 200, "application/json", NULL, NULL);
    try_body(&rig->lane.tries[n], WHOLE_ANSWER);
    try_done(&rig->lane.tries[n], OK);
}

/* Sends text and wants this status and words, the connection closed or kept, and no provider called. */
static void refused(struct rig *rig, const char *text, const char *status, const char *words, bool closes)
{
    struct client *c = rig_client(rig);
    say(c, text);
    for (int i = 0; i < 2000 && !(has(c, status) && has(c, words)); i++) {
        rig_pump(rig);
        poll(NULL, 0, 1);
    }
    if (!has(c, status) || !has(c, words))
        fail_msg("%.300s\ngot: %.600s", text, buf_cstr(&c->in));
    if (closes) {
        assert_true(has(c, "connection: close\r\n"));
        UNTIL(rig, c->eof);
    } else {
        assert_false(has(c, "connection: close\r\n"));
        buf_clear(&c->in);
        ask_extra(rig, c, "/v1/nowhere", "{}", "");
        UNTIL(rig, has(c, "HTTP/1.1 404 "));
    }
    assert_int_equal(rig->lane.count, 0);
    rig->client_count--;
    close(c->fd);
    buf_release(&c->in);
}

static void bad_requests_reach_no_provider(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.config.limits.body_bytes = 1000;
    rig_start(&rig, true);
    char text[4096], *big;
    refused(&rig, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 ", "/v1/chat/completions", false);
    refused(&rig, "NONSENSE\r\n\r\n", "HTTP/1.1 400 ", "\"malformed_request\"", true);
    refused(&rig,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 400 ", "\"error\"", true);
    refused(&rig, "GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 ", "allow: POST\r\n", false);
    refused(&rig, "DELETE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 ", "allow: GET, HEAD\r\n", false);
    refused(&rig, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 401 ",
            "\"missing_api_key\"", false);
    refused(&rig,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-wrong\r\nContent-Length: "
            "2\r\n\r\n{}",
            "HTTP/1.1 401 ", "\"invalid_api_key\"", false);
    refused(&rig, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 204 ", "allow: GET, HEAD, POST, OPTIONS\r\n",
            false);
    refused(&rig, "OPTIONS * HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 204 ", "\r\n\r\n", false);
    refused(&rig, "OPTIONS /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 ", "\"error\"", false);
    refused(&rig, "GET /v1/models HTTP/1.1\r\nHost: x\r\nExpect: 100-continue, tea\r\n\r\n", "HTTP/1.1 417 ",
            "\"expectation_failed\"", false);
    refused(&rig, "GET / HTTP/1.1\r\nHost: x\r\nExpect: ,100-Continue\r\n\r\n", "HTTP/1.1 404 ", "\"error\"", false);
    /* A stranger's large body is not waited for. */
    refused(&rig, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n{", "HTTP/1.1 401 ",
            "\"missing_api_key\"", true);
#define WITH_KEY(rest)                                                                                                 \
    (snprintf(text, sizeof(text),                                                                                      \
              "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" rest, rig.key),          \
     text)
    refused(&rig, WITH_KEY("Content-Length: 70000\r\n\r\n"), "HTTP/1.1 413 ", "\"request_too_large\"", true);
    refused(&rig, WITH_KEY("Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"), "HTTP/1.1 415 ",
            "Content-Encoding", false);
    refused(&rig, WITH_KEY("Content-Length: 9\r\n\r\n{\"model\":"), "HTTP/1.1 400 ", "\"error\"", false);
    refused(&rig, WITH_KEY("Content-Length: 0\r\n\r\n"), "HTTP/1.1 400 ", "\"error\"", false);
    refused(&rig, WITH_KEY("Content-Length: 29\r\n\r\n{\"model\":\"a\",\"messages\":[{}]}"), "HTTP/1.1 404 ", "chat",
            false);
    refused(&rig, WITH_KEY("Content-Length: 42\r\n\r\n{\"model\":\"a\",\"model\":\"chat\",\"messages\":[]}"),
            "HTTP/1.1 400 ", "\"error\"", false);
    refused(&rig, WITH_KEY("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz"), "HTTP/1.1 400 ", "\"error\"", true);
    big = malloc(1200);
    assert_non_null(big);
    memset(big, 'a', 1100);
    big[1100] = 0;
    snprintf(text, sizeof(text),
             "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: "
             "chunked\r\n\r\n44c\r\n%s",
             rig.key, big);
    refused(&rig, text, "HTTP/1.1 413 ", "\"request_too_large\"", true);
    free(big);
    big = malloc(41000);
    assert_non_null(big);
    snprintf(big, 41000, "GET / HTTP/1.1\r\nHost: x\r\nX-Long: %0*d", 40000, 1);
    refused(&rig, big, "HTTP/1.1 431 ", "\"headers_too_large\"", true);
    free(big);
    struct buf out;
    (void)records(&rig, &out);
    assert_null(strstr(buf_cstr(&out), "no_key")); /* strangers leave no records */
    buf_release(&out);
    assert_true(atomic_load(&rig.core.region->counters[WORKER_UNAUTHORIZED]) >= 3);
    rig_stop(&rig);
}

static void slow_head_and_body(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.config.limits.head_time_ms = 60;
    rig.config.limits.body_time_ms = 60;
    rig_start(&rig, true);
    refused(&rig, "POST /v1/chat", "HTTP/1.1 408 ", "headers did not arrive", true);
    char text[512];
    snprintf(text, sizeof(text),
             "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 10\r\n\r\n{",
             rig.key);
    refused(&rig, text, "HTTP/1.1 408 ", "body did not arrive", true);
    rig_stop(&rig);
}

static void idle_connections_end(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.config.limits.idle_ms = 50;
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    UNTIL(&rig, c->eof);
    assert_int_equal(c->in.len, 0);
    rig_stop(&rig);
}

/* The same request, whole and at every split. */
static void any_split(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    char text[1024];
    int len =
        snprintf(text, sizeof(text),
                 "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: "
                 "chunked\r\n\r\n10\r\n{\"model\":\"chat\",\r\n2f\r\n\"messages\":[{\"role\":\"user\",\"content\":"
                 "\"hello\"}]}\r\n0\r\n\r\n",
                 rig.key);
    struct client *c = rig_client(&rig);
    for (int at = 1; at < len; at += 7) {
        unsigned before = rig.lane.count;
        buf_clear(&c->in);
        assert_int_equal(send(c->fd, text, (size_t)at, 0), at);
        for (int i = 0; i < 3; i++)
            rig_pump(&rig);
        assert_int_equal(rig.lane.count, before);
        assert_int_equal(send(c->fd, text + at, (size_t)(len - at), 0), len - at);
        answer(&rig, before);
        UNTIL(&rig, has(c, WHOLE_ANSWER));
    }
    rig_stop(&rig);
}

static void pipelined_in_order(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    char one[1024], text[4096] = "";
    size_t at = 0;
    for (int i = 0; i < 3; i++) {
        int n = snprintf(one, sizeof(one),
                         "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: "
                         "%zu\r\n\r\n%s",
                         rig.key, strlen(WHOLE_ASK), WHOLE_ASK);
        memcpy(text + at, one, (size_t)n + 1);
        at += (size_t)n;
    }
    say(c, text);
    for (unsigned i = 0; i < 3; i++) {
        UNTIL(&rig, rig.lane.count == i + 1);
        for (int k = 0; k < 5; k++)
            rig_pump(&rig);
        assert_int_equal(rig.lane.count, i + 1); /* one at a time */
        answer(&rig, i);
        UNTIL(&rig, times(c, WHOLE_ANSWER) == i + 1);
    }
    rig_stop(&rig);
}

static void continue_after_auth(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    char text[512];
    snprintf(text, sizeof(text),
             "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nExpect: "
             "100-continue\r\nContent-Length: %zu\r\n\r\n",
             rig.key, strlen(WHOLE_ASK));
    say(c, text);
    UNTIL(&rig, has(c, "HTTP/1.1 100 Continue\r\n\r\n"));
    say(c, WHOLE_ASK);
    answer(&rig, 0);
    UNTIL(&rig, has(c, WHOLE_ANSWER));
    /* A stranger is not asked to go on. */
    struct client *d = rig_client(&rig);
    say(d, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    UNTIL(&rig, d->eof);
    assert_true(has(d, "HTTP/1.1 401 "));
    assert_false(has(d, "100 Continue"));
    rig_stop(&rig);
}

static void http10_is_closed_by_the_end(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    char text[1024];
    snprintf(text, sizeof(text),
             "POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer %s\r\nContent-Length: %zu\r\n\r\n%s", rig.key,
             strlen(STREAM_ASK), STREAM_ASK);
    say(c, text);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), CONTENT("x") FINISH DONE);
    try_done(TRY(rig, 0), OK);
    UNTIL(&rig, c->eof);
    assert_false(has(c, "chunked"));
    assert_true(has(c, "data: [DONE]\n\n"));
    assert_false(has(c, LAST_CHUNK));
    rig_stop(&rig);
}

static void models(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    char text[512];
    static const struct {
        const char *line, *words, *missing;
    } cases[] = {
        { "GET /v1/models", "\"chat\"", "\"b/m\"" },
        { "GET /models", "\"a/m\"", "\"b/m\"" },
        { "GET /v1/models/chat", "\"id\":\"chat\"", "\"a/m\"" },
        { "GET /v1/models/a/m", "\"id\":\"a/m\"", "list" },
        { "GET /v1/models/b%2Fm", "HTTP/1.1 404 ", "\"id\":" },
        { "HEAD /v1/models", "content-length: 0", "\"chat\"" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        buf_clear(&c->in);
        snprintf(text, sizeof(text), "%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", cases[i].line,
                 rig.key);
        say(c, text);
        if (i + 1 < ARRAY_LEN(cases))
            UNTIL(&rig, has(c, cases[i].words));
        else
            UNTIL(&rig, has(c, "\r\n\r\n"));
        assert_false(has(c, cases[i].missing));
    }
    rig_stop(&rig);
}

static void over_the_cap_is_told(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.config.limits.connections = 1;
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    UNTIL(&rig, rig.listener.count == 1);
    struct client *d = rig_client(&rig);
    UNTIL(&rig, d->eof);
    assert_true(has(d, "HTTP/1.1 503 "));
    assert_true(has(d, "retry-after: 1\r\n"));
    close(c->fd);
    c->fd = -1;
    UNTIL(&rig, rig.listener.count == 0);
    struct client *e = rig_client(&rig);
    ask(&rig, e, WHOLE_ASK);
    answer(&rig, 0);
    UNTIL(&rig, has(e, WHOLE_ANSWER));
    rig_stop(&rig);
}

static void buffered_bytes_are_capped(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.config.limits.buffered_bytes = 100000;
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    char text[512];
    snprintf(
        text, sizeof(text),
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 200000\r\n\r\n",
        rig.key);
    say(c, text);
    UNTIL(&rig, has(c, "HTTP/1.1 503 "));
    assert_true(has(c, "retry-after: 1\r\n"));
    rig_stop(&rig);
}

static void a_dead_writer_is_cut(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig.config.limits.write_stall_ms = 80;
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    c->deaf = true;
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    struct try *t = TRY(rig, 0);
    try_head(t, 200, "text/event-stream", NULL, NULL);
    static char event[65536];
    memset(event, 'y', sizeof(event) - 1);
    memcpy(event, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"", 49);
    memcpy(event + sizeof(event) - 10, "\"}}]}\n\n\0", 8);
    while (!t->paused) {
        try_body(t, event);
        rig_pump(&rig);
    }
    UNTIL(&rig, t->cancelled); /* it takes nothing: cut, though its socket is open */
    assert_int_equal(counted(&rig, SERIES_CANCELLED), 1);
    rig_stop(&rig);
}

static void a_failing_write_ends_it(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    fault_arm(FAULT_WRITE, 0, 1);
    try_body(TRY(rig, 0), CONTENT("x"));
    fault_disarm_all();
    UNTIL(&rig, TRY(rig, 0)->cancelled);
    assert_int_equal(counted(&rig, SERIES_CANCELLED), 1);
    rig_stop(&rig);
}

/* libuv stops reporting connections while one is not taken: it must be taken later, or the worker is deaf. */
static void accepting_goes_on_after_a_failure(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = { FAULT_ACCEPT, FAULT_ALLOC };
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        fault_arm(kinds[i], 0, 2); /* the connection, and the refusal after it */
        struct client *c = rig_client(&rig);
        UNTIL(&rig, rig.listener.count == i + 1);
        fault_disarm_all();
        ask(&rig, c, WHOLE_ASK);
        answer(&rig, i);
        UNTIL(&rig, has(c, WHOLE_ANSWER));
    }
    rig_stop(&rig);
}

/* Every allocation in turn fails once: nothing crashes or leaks, and the next request is served. */
static void allocations_fail(void **state)
{
    (void)state;
    bool reached = true;
    for (uint64_t nth = 0; reached; nth++) {
        struct rig rig = { .port = 0 };
        rig_start(&rig, true);
        struct client *c = rig_client(&rig), *d = rig_client(&rig);
        UNTIL(&rig, rig.listener.count == 2);
        char *room; /* the test's own memory must not be what fails */
        assert_int_equal(buf_reserve(&c->in, 65536, &room), OK);
        fault_arm(FAULT_ALLOC, nth, 1);
        ask(&rig, c, STREAM_ASK);
        uint64_t until_ms = clock_ms() + 10000;
        unsigned played = 0;
        while (!c->eof && !has(c, "[DONE]") && !has(c, "\"error\"") && clock_ms() < until_ms) {
            rig_pump(&rig);
            if (rig.lane.count > played && TRY(rig, played)->live) {
                struct try *t = TRY(rig, played++);
                try_head(t, 200, "text/event-stream", NULL, NULL);
                if (t->live)
                    try_body(t, ROLE CONTENT("x"));
                if (t->live)
                    try_body(t, FINISH DONE);
                if (t->live)
                    try_done(t, OK);
            }
        }
        assert_true(clock_ms() < until_ms);
        reached = fault_seen(FAULT_ALLOC) > nth;
        fault_disarm_all();
        unsigned count = rig.lane.count;
        ask(&rig, d, WHOLE_ASK);
        answer(&rig, count);
        UNTIL(&rig, has(d, WHOLE_ANSWER));
        rig_stop(&rig);
    }
}

/* An unstreamed answer larger than the sockets' buffers. */
static char *large_answer(size_t bytes)
{
    static const char begin[] = "{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    static const char end[] = "\"},\"finish_reason\":\"stop\"}]}";
    char *text = malloc(bytes + 1);
    assert_non_null(text);
    memset(text, 'z', bytes);
    memcpy(text, begin, strlen(begin));
    memcpy(text + bytes - strlen(end), end, strlen(end) + 1);
    return text;
}

/* The last answer is still on its way to a slow reader: neither idleness nor the worker's drain may cut it. */
static void a_slow_reader_gets_all(void **state)
{
    (void)state;
    for (int drains = 0; drains < 2; drains++) {
        struct rig rig = { .port = 0 };
        rig.config.limits.idle_ms = rig.config.limits.drain_idle_ms = 300;
        rig_start(&rig, true);
        struct client *c = rig_client(&rig);
        c->deaf = true;
        ask(&rig, c, WHOLE_ASK);
        UNTIL(&rig, rig.lane.count == 1);
        char *text = large_answer(24u << 20);
        try_head(TRY(rig, 0), 200, "application/json", NULL, NULL);
        try_body(TRY(rig, 0), text);
        try_done(TRY(rig, 0), OK);
        uint64_t until_ms = clock_ms() + 700; /* twice the idle time */
        if (drains) {
            rig.core.draining = true;
            listener_drain(&rig.listener);
        }
        UNTIL(&rig, clock_ms() > until_ms);
        assert_int_equal(rig.listener.count, 1);
        c->deaf = false;
        UNTIL(&rig, c->eof);
        assert_true(span_ends(buf_span(&c->in), SPAN("\"finish_reason\":\"stop\"}]}")));
        assert_true(c->in.len > 24u << 20);
        free(text);
        rig_stop(&rig);
    }
}

struct playing {
    uv_idle_t idle;
    struct rig *rig;
};

static void end_it(uv_idle_t *idle)
{
    struct playing *p = CONTAINER_OF(idle, struct playing, idle);
    try_body(TRY(*p->rig, 0), FINISH DONE);
    try_done(TRY(*p->rig, 0), OK);
    uv_close((uv_handle_t *)idle, NULL);
}

/* The answer ends, and its last bytes leave, in one turn of the loop and after its timers. A client that then does not
 * close its side must not keep the connection. */
static void lingering_ends(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    c->deaf = true;
    ask_extra(&rig, c, "/v1/chat/completions", STREAM_ASK, "Connection: close\r\n");
    UNTIL(&rig, rig.lane.count == 1);
    struct try *t = TRY(rig, 0);
    try_head(t, 200, "text/event-stream", NULL, NULL);
    for (unsigned n = 0; !t->paused; n++) {
        static const char filler[] = CONTENT("0123456789012345678901234567890123456789012345678901234567890123");
        try_body(t, filler);
        assert_true(n < 1000000);
        if (n % 100 == 0)
            rig_pump(&rig);
    }
    struct playing p = { .rig = &rig };
    uv_idle_init(&rig.loop, &p.idle);
    uv_idle_start(&p.idle, end_it);
    char bytes[65536];
    while (recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    c->deaf = false;
    UNTIL(&rig, c->eof);
    assert_true(has(c, "[DONE]"));
    UNTIL(&rig, rig.listener.count == 0);
    rig_stop(&rig);
}

static void begin_drain(struct rig *rig)
{
    rig->core.draining = true;
    listener_drain(&rig->listener);
}

/* Connections that have not asked yet, and one between two requests: what they ask while we drain is answered, as their
 * last. */
static void a_drain_loses_no_request(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *fresh = rig_client(&rig), *used = rig_client(&rig), *half = rig_client(&rig);
    ask(&rig, used, WHOLE_ASK);
    answer(&rig, 0);
    UNTIL(&rig, has(used, WHOLE_ANSWER) && rig.listener.count == 3);
    assert_false(has(used, "connection: close\r\n"));
    say(half, "GET /v1/nowhere HTTP/1.1\r\n");
    rig_pump(&rig);
    buf_clear(&used->in);
    struct client *const both[] = { fresh, used };
    for (unsigned i = 0; i < ARRAY_LEN(both); i++)
        ask(&rig, both[i], WHOLE_ASK); /* on its way */
    begin_drain(&rig);
    for (unsigned i = 0; i < ARRAY_LEN(both); i++)
        answer(&rig, i + 1);
    for (unsigned i = 0; i < ARRAY_LEN(both); i++) {
        UNTIL(&rig, both[i]->eof);
        assert_true(has(both[i], WHOLE_ANSWER));
        assert_true(has(both[i], "connection: close\r\n"));
    }
    say(half, "Host: x\r\n\r\n");
    UNTIL(&rig, half->eof);
    assert_true(has(half, "HTTP/1.1 404 "));
    assert_true(has(half, "connection: close\r\n"));
    UNTIL(&rig, rig.emptied);
    rig_stop(&rig);
}

/* The head of a stream that was begun before the drain said nothing of closing: what follows it is still answered. */
static void a_stream_may_be_followed(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), CONTENT("x"));
    UNTIL(&rig, has(c, CONTENT("x")));
    begin_drain(&rig);
    ask(&rig, c, WHOLE_ASK);
    try_body(TRY(rig, 0), FINISH DONE);
    try_done(TRY(rig, 0), OK);
    answer(&rig, 1);
    UNTIL(&rig, c->eof);
    assert_true(has(c, WHOLE_ANSWER));
    assert_int_equal(times(c, "connection: close\r\n"), 1);
    rig_stop(&rig);
}

/* Nobody asks any more: our side is shut, and a request that comes too late meets no reset. */
static void the_idle_leave_without_a_reset(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *used = rig_client(&rig), *half = rig_client(&rig);
    ask(&rig, used, WHOLE_ASK);
    answer(&rig, 0);
    UNTIL(&rig, has(used, WHOLE_ANSWER) && rig.listener.count == 2);
    say(half, "GET /v1/nowhere HTTP/1.1\r\n");
    begin_drain(&rig);
    for (int i = 0; i < 3; i++)
        rig_pump(&rig);
    listener_drain_passed(&rig.listener);
    UNTIL(&rig, used->eof && half->eof);
    assert_true(has(half, "HTTP/1.1 503 ")); /* it had begun to ask: it is told */
    ask(&rig, used, WHOLE_ASK);
    rig_pump(&rig);
    char byte;
    assert_int_equal(recv(used->fd, &byte, 1, MSG_DONTWAIT), 0); /* a reset would be an error here */
    close(used->fd);
    used->fd = -1;
    UNTIL(&rig, rig.emptied);
    assert_int_equal(rig.lane.count, 1);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_requests_reach_no_provider),
        cmocka_unit_test(slow_head_and_body),
        cmocka_unit_test(idle_connections_end),
        cmocka_unit_test(any_split),
        cmocka_unit_test(pipelined_in_order),
        cmocka_unit_test(continue_after_auth),
        cmocka_unit_test(http10_is_closed_by_the_end),
        cmocka_unit_test(models),
        cmocka_unit_test(over_the_cap_is_told),
        cmocka_unit_test(buffered_bytes_are_capped),
        cmocka_unit_test(a_dead_writer_is_cut),
        cmocka_unit_test(a_failing_write_ends_it),
        cmocka_unit_test(a_slow_reader_gets_all),
        cmocka_unit_test(lingering_ends),
        cmocka_unit_test(accepting_goes_on_after_a_failure),
        cmocka_unit_test(allocations_fail),
        cmocka_unit_test(a_drain_loses_no_request),
        cmocka_unit_test(a_stream_may_be_followed),
        cmocka_unit_test(the_idle_leave_without_a_reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
