/* HTTP/2: requests, answers, backpressure, draining, memory. */
#include "tests/unit/dataplane/worker/h2_client.h"

/* ---- requests and answers ---- */

static void answers_a_request(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .rest = SPAN("{\"model\":\"chat\"}") };
    const nghttp2_nv mark = NV("x-mark", "m1");
    const int32_t id = ask_with(c, "POST", "/v1/chat/completions?a=b", &mark, &up);
    pump(c);
    struct exchange *x = newest();
    assert_int_equal(x->method, HTTP1_POST);
    assert_string_equal(x->path, "/v1/chat/completions");
    assert_string_equal(x->query, "a=b");
    assert_string_equal(x->authority, "h.example");
    assert_string_equal(x->x, "m1");
    assert_true(x->has_body && x->whole);
    assert_true(span_eq(buf_span(&x->body), SPAN("{\"model\":\"chat\"}")));
    assert_false(got_of(c, id)->status);
    assert_int_equal(x_whole(x, 200, "{\"ok\":true}"), OK);
    pump(c);
    struct got *g = got_of(c, id);
    assert_int_equal(g->status, 200);
    assert_true(g->ended && g->closed && g->code == 0);
    assert_true(has(&g->head, "content-length: 11\n"));
    assert_true(has(&g->head, "content-type: application/json\n"));
    assert_true(has(&g->head, "x-request-id: req_1\n"));
    assert_true(has(&g->head, "x-empty: \n"));
    assert_true(has(&g->head, "x-two: a: b\n"));
    assert_true(has(&g->head, "date: "));
    assert_false(has(&g->head, "connection:"));
    assert_true(span_eq(buf_span(&g->body), SPAN("{\"ok\":true}")));
    assert_false(c->goaway);
    client_free(c);
}

static void a_request_without_body_is_whole_at_once(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c), head = ask_with(c, "HEAD", "/v1/models", NULL, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 2);
    assert_true(rig_x[0].whole && !rig_x[0].has_body && rig_x[1].whole);
    assert_int_equal(x_whole(&rig_x[0], 200, "models"), OK);
    assert_int_equal(x_whole(&rig_x[1], 200, "models"), OK);
    pump(c);
    assert_true(span_eq(buf_span(&got_of(c, id)->body), SPAN("models")));
    assert_true(got_of(c, head)->ended && got_of(c, head)->body.len == 0);
    assert_true(has(&got_of(c, head)->head, "content-length: 6\n"));
    client_free(c);
}

static void streams_event_by_event(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c);
    pump(c);
    struct exchange *x = newest();
    assert_int_equal(x_stream(x, true, SPAN("data: 1\n\n"), false), OK);
    pump(c);
    struct got *g = got_of(c, id);
    assert_int_equal(g->status, 200);
    assert_true(has(&g->head, "content-type: text/event-stream"));
    assert_false(has(&g->head, "content-length"));
    assert_true(span_eq(buf_span(&g->body), SPAN("data: 1\n\n")));
    assert_false(g->ended);
    assert_int_equal(x_stream(x, false, SPAN("data: 2\n\n"), false), OK);
    pump(c);
    assert_true(span_eq(buf_span(&g->body), SPAN("data: 1\n\ndata: 2\n\n")));
    assert_int_equal(x_stream(x, false, SPAN(""), true), OK);
    pump(c);
    assert_true(g->ended && g->closed && g->code == 0);
    client_free(c);
}

static void many_answers_of_one_turn_are_one_write(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    for (unsigned i = 0; i < 20; i++)
        (void)get(c);
    pump(c);
    const unsigned before = c->rig.socket.writes;
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(x_stream(&rig_x[i], true, SPAN("data: 1\n\n"), false), OK);
    rig_turn(&c->rig);
    assert_int_equal(c->rig.socket.writes, before + 1);
    client_free(c);
}

static void a_broken_answer_is_reset(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c), other = get(c);
    pump(c);
    struct exchange *x = &rig_x[0];
    assert_int_equal(x_stream(x, true, SPAN("data: 1\n\n"), false), OK);
    x->over = true;
    x->sink->ops->end(x->sink, true, true);
    pump(c);
    assert_true(got_of(c, id)->closed && !got_of(c, id)->ended);
    assert_int_equal(got_of(c, id)->code, NGHTTP2_INTERNAL_ERROR);
    assert_int_equal(x_whole(&rig_x[1], 200, "fine"), OK);
    pump(c);
    assert_true(got_of(c, other)->ended);
    client_free(c);
}

static void says_continue_to_who_expects_it(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .open = true };
    const nghttp2_nv expect = NV("expect", "100-continue");
    const int32_t id = ask_with(c, "POST", "/", &expect, &up);
    pump(c);
    assert_true(newest()->expects);
    assert_int_equal(got_of(c, id)->interim, 1);
    assert_int_equal(got_of(c, id)->status, 0);
    up = (struct upload){ .rest = SPAN("body") };
    assert_int_equal(nghttp2_session_resume_data(c->session, id), 0);
    pump(c);
    assert_true(newest()->whole && newest()->body.len == 4);
    assert_int_equal(x_whole(newest(), 200, "ok"), OK);
    pump(c);
    assert_int_equal(got_of(c, id)->status, 200);
    client_free(c);
}

static void trailers_end_a_body_and_are_forgotten(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .rest = SPAN("body"), .trailers = true };
    (void)ask_with(c, "POST", "/", NULL, &up);
    pump(c);
    assert_true(newest()->whole && newest()->body.len == 4);
    assert_int_equal(x_whole(newest(), 200, "ok"), OK);
    pump(c);
    client_free(c);
}

static void a_body_larger_than_the_windows_comes_whole(void **state)
{
    (void)state;
    const size_t len = 3 * H2_CONNECTION_WINDOW + 1;
    char *bytes = malloc(len);
    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 >> 3);
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .rest = span_of(bytes, len) };
    (void)ask_with(c, "POST", "/", NULL, &up);
    pump(c);
    assert_true(newest()->whole);
    assert_true(span_eq(buf_span(&newest()->body), span_of(bytes, len)));
    assert_int_equal(x_whole(newest(), 200, "ok"), OK);
    pump(c);
    client_free(c);
    free(bytes);
}

/* What is left of a body that nobody wants: read when it is short, refused when it is long. */
static void the_rest_of_a_refused_body_is_forgotten_or_refused(void **state)
{
    (void)state;
    static char bytes[1 << 20];
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    rig_begin = BEGIN_REFUSED;
    struct upload small = { .rest = span_of(bytes, 5000) }, large = { .rest = span_of(bytes, sizeof(bytes)) };
    const int32_t first = ask_with(c, "POST", "/", NULL, &small);
    (void)ask_with(c, "POST", "/", NULL, &large);
    const nghttp2_nv length = NV("content-length", "1048576");
    struct upload told = { .rest = span_of(bytes, sizeof(bytes)) };
    const int32_t third = ask_with(c, "POST", "/", &length, &told);
    pump(c);
    for (int32_t id = first; id <= third; id += 2) {
        assert_int_equal(got_of(c, id)->status, 401);
        assert_true(got_of(c, id)->ended && got_of(c, id)->closed);
        assert_int_equal(got_of(c, id)->code, NGHTTP2_NO_ERROR);
    }
    assert_int_equal(small.rest.len, 0);
    assert_true(large.rest.len > 0 && told.rest.len > 0);
    rig_begin = BEGIN_GOOD;
    rig_body_max = 100000;
    struct upload again = { .rest = span_of(bytes, sizeof(bytes)) };
    const int32_t fourth = ask_with(c, "POST", "/", NULL, &again);
    pump(c);
    assert_int_equal(got_of(c, fourth)->status, 413);
    assert_true(got_of(c, fourth)->closed && got_of(c, fourth)->code == NGHTTP2_NO_ERROR);
    assert_false(c->goaway);
    assert_int_equal(c->error, 0);
    client_free(c);
}

static void a_request_that_nothing_was_done_for_may_be_sent_again(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    rig_begin = BEGIN_NO_MEMORY;
    const int32_t id = get(c);
    pump(c);
    assert_true(got_of(c, id)->closed);
    assert_int_equal(got_of(c, id)->code, NGHTTP2_REFUSED_STREAM);
    client_free(c);
}

/* ---- the client's side of things ---- */

static void a_cancelled_stream_ends_its_own_exchange_only(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c), other = get(c);
    pump(c);
    assert_int_equal(x_stream(&rig_x[0], true, SPAN("1"), false), OK);
    pump(c);
    assert_int_equal(nghttp2_submit_rst_stream(c->session, 0, id, NGHTTP2_CANCEL), 0);
    pump(c);
    assert_true(rig_x[0].gone);
    assert_false(rig_x[1].over);
    assert_int_equal(x_whole(&rig_x[1], 200, "fine"), OK);
    pump(c);
    assert_true(got_of(c, other)->ended);
    assert_false(c->goaway);
    client_free(c);
}

static void malformed_requests_are_refused_alone(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
        unsigned status; /* 0: reset */
    } cases[] = {
        { "connection", "close", 0 },
        { "transfer-encoding", "chunked", 0 },
        { "upgrade", "h2c", 0 },
        { "te", "gzip", 0 },
        { "x", "a\r\nb", 0 },
        { "x", " a", 0 },
        { "x y", "a", 0 },
        { ":path", "/", 0 },
        { ":status", "200", 0 },
        { "content-length", "1x", 0 },
        { "content-length", "5", 0 }, /* and no body */
        { "host", "other.example", 400 },
        { "host", "a b", 0 },
    };
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const nghttp2_nv extra = NV(cases[i].name, cases[i].value);
        const int32_t id = ask_with(c, "GET", "/", &extra, NULL);
        pump(c);
        struct got *g = got_of(c, id);
        if (rig_x_count || g->status != cases[i].status || !g->closed)
            fail_msg("%s: %s: status %u, exchanges %u", cases[i].name, cases[i].value, g->status, rig_x_count);
        if (!cases[i].status)
            assert_int_equal(g->code, NGHTTP2_PROTOCOL_ERROR);
        assert_false(c->goaway);
    }
    static const char *const methods[] = { "CONNECT", "BREW" };
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        const int32_t id = ask_with(c, methods[i], "/", NULL, NULL);
        pump(c);
        assert_true(got_of(c, id)->closed);
        assert_int_equal(rig_x_count, 0);
    }
    const int32_t path = ask_with(c, "GET", "/%zz", NULL, NULL);
    pump(c);
    assert_int_equal(got_of(c, path)->status, 400);
    assert_true(has(&got_of(c, path)->body, "target is malformed"));
    assert_true(has(&got_of(c, path)->head, "x-request-id: req_"));
    (void)get(c);
    pump(c);
    assert_int_equal(x_whole(newest(), 200, "fine"), OK);
    pump(c);
    assert_false(c->goaway);
    client_free(c);
}

static void a_body_of_another_length_than_announced_is_reset(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const nghttp2_nv length = NV("content-length", "5");
    struct upload less = { .rest = SPAN("1234") }, more = { .rest = SPAN("123456") };
    const int32_t first = ask_with(c, "POST", "/", &length, &less);
    pump(c);
    const int32_t second = ask_with(c, "POST", "/", &length, &more);
    pump(c);
    assert_int_equal(got_of(c, first)->code, NGHTTP2_PROTOCOL_ERROR);
    assert_int_equal(got_of(c, second)->code, NGHTTP2_PROTOCOL_ERROR);
    assert_true(rig_x[0].gone && rig_x[1].gone && !rig_x[0].whole && !rig_x[1].whole);
    assert_false(c->goaway);
    client_free(c);
}

static void garbage_ends_with_goaway(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 1, GET_BLOCK);
    flood_send(f);
    put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 3,
              SPAN("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")); /* no HPACK */
    flood_send(f);
    assert_int_equal(goaway_of(f), NGHTTP2_COMPRESSION_ERROR);
    assert_true(rig_x[0].gone);
    assert_true(f->rig.socket.shut);
    flood_end(f);

    memset(f, 0, sizeof(*f));
    assert_int_equal(rig_open(&f->rig), OK);
    rig_give(&f->rig, SPAN("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    rig_turn(&f->rig);
    assert_int_equal(goaway_of(f), NGHTTP2_PROTOCOL_ERROR);
    assert_true(f->rig.socket.shut);
    flood_end(f);
    free(f);
}

static void a_client_that_leaves_ends_everything(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    (void)get(c);
    (void)get(c);
    pump(c);
    c->rig.speaker->ops->ended(c->rig.speaker);
    assert_null(c->rig.speaker);
    assert_true(rig_x[0].gone && rig_x[1].gone);
    client_free(c);
}

static void a_client_that_says_goaway_is_served_to_its_last_stream(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c);
    pump(c);
    assert_int_equal(nghttp2_submit_goaway(c->session, 0, 0, NGHTTP2_NO_ERROR, NULL, 0), 0);
    pump(c);
    assert_false(c->rig.socket.shut);
    assert_int_equal(x_whole(newest(), 200, "last"), OK);
    pump(c);
    assert_true(got_of(c, id)->ended);
    assert_true(c->rig.socket.shut);
    client_free(c);
}

/* ---- backpressure ---- */

static void a_stalled_stream_holds_up_only_itself(void **state)
{
    (void)state;
    static char bytes[20000];
    memset(bytes, 'x', sizeof(bytes));
    struct client *c = client_new((struct node_limits){ .write_queue_bytes = 65536 }, 1000);
    const int32_t slow = get(c), quick = get(c);
    pump(c);
    struct exchange *x = &rig_x[0], *y = &rig_x[1];
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(x_stream(x, i == 0, span_of(bytes, sizeof(bytes)), false), OK);
    pump(c);
    assert_int_equal(got_of(c, slow)->body.len, 1000); /* its window */
    assert_int_equal(x->sink->ops->queued(x->sink), 5 * sizeof(bytes) - 1000);
    assert_int_equal(y->sink->ops->queued(y->sink), 0);
    assert_int_equal(x->writable, 0);
    assert_int_equal(x_stream(y, true, span_of(bytes, 900), true), OK);
    pump(c);
    assert_true(got_of(c, quick)->ended && got_of(c, quick)->body.len == 900);
    /* Half the limit is the mark. */
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, slow, (int32_t)(5 * sizeof(bytes) - 1000 - 32769)), 0);
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, 0, 200000), 0);
    pump(c);
    assert_int_equal(x->sink->ops->queued(x->sink), 32769);
    assert_int_equal(x->writable, 0);
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, slow, 1), 0);
    pump(c);
    assert_int_equal(x->writable, 1);
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, slow, 100000), 0);
    pump(c);
    assert_int_equal(x->writable, 1);
    assert_int_equal(got_of(c, slow)->body.len, 5 * sizeof(bytes));
    client_free(c);
}

static void a_socket_that_is_full_is_given_no_more(void **state)
{
    (void)state;
    const size_t limit = 32768, len = 60000;
    char *bytes = calloc(1, len);
    assert_non_null(bytes);
    struct client *c = client_new((struct node_limits){ .write_queue_bytes = limit }, 1 << 20);
    assert_int_equal(nghttp2_submit_window_update(c->session, 0, 0, 1 << 22), 0);
    int32_t ids[10];
    for (unsigned i = 0; i < 10; i++)
        ids[i] = get(c);
    pump(c);
    c->rig.socket.room = 0;
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(x_stream(&rig_x[i], true, span_of(bytes, len), false), OK);
    pump(c);
    assert_true(stream_queued(&c->rig.socket.stream) > 0);
    assert_true(stream_queued(&c->rig.socket.stream) <= 2 * limit + (17u << 10));
    size_t held = 0;
    for (unsigned i = 0; i < 10; i++)
        held += rig_x[i].sink->ops->queued(rig_x[i].sink);
    assert_true(held + stream_queued(&c->rig.socket.stream) >= 10 * len);
    /* Fair: all have moved when the first is not half done. */
    for (unsigned turns = 0; got_of(c, ids[0])->body.len < len / 2; turns++) {
        assert_true(turns < 1000);
        rig_take(&c->rig, 10000);
        pump(c);
    }
    for (unsigned i = 0; i < 10; i++)
        assert_true(got_of(c, ids[i])->body.len > 0);
    rig_take(&c->rig, SIZE_MAX);
    pump(c);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(got_of(c, ids[i])->body.len, len);
        assert_int_equal(rig_x[i].sink->ops->queued(rig_x[i].sink), 0);
    }
    client_free(c);
    free(bytes);
}

static void a_stream_that_takes_nothing_is_cut(void **state)
{
    (void)state;
    static char bytes[5000];
    struct client *c = client_new((struct node_limits){ .write_stall_ms = 50 }, 1000);
    const int32_t stalled = get(c), whole = get(c), idle = get(c);
    pump(c);
    assert_int_equal(x_stream(&rig_x[0], true, span_of(bytes, sizeof(bytes)), false), OK);
    /* One whose exchange has ended long ago. */
    assert_int_equal(x_stream(&rig_x[1], true, span_of(bytes, sizeof(bytes)), true), OK);
    assert_int_equal(x_stream(&rig_x[2], true, SPAN("1"), false), OK);
    UNTIL(c, got_of(c, stalled)->closed && got_of(c, whole)->closed);
    assert_true(rig_x[0].gone);
    assert_false(got_of(c, stalled)->ended || got_of(c, whole)->ended);
    assert_true(got_of(c, stalled)->code != 0 && got_of(c, whole)->code != 0);
    assert_false(got_of(c, idle)->closed || rig_x[2].over); /* nothing waits for it */
    client_free(c);
}

/* Without a window even the end of an answer has to wait: RFC 9113 section 6.9.1 lets it pass, nghttp2 does not. */
static void an_end_that_is_not_taken_is_cut(void **state)
{
    (void)state;
    static char bytes[1000];
    struct client *c = client_new((struct node_limits){ .write_stall_ms = 50 }, sizeof(bytes));
    const int32_t id = get(c);
    pump(c);
    assert_int_equal(x_stream(&rig_x[0], true, span_of(bytes, sizeof(bytes)), false), OK);
    UNTIL(c, got_of(c, id)->body.len == sizeof(bytes));
    assert_int_equal(x_stream(&rig_x[0], false, SPAN(""), true), OK);
    UNTIL(c, got_of(c, id)->closed);
    assert_true(got_of(c, id)->ended || got_of(c, id)->code == NGHTTP2_CANCEL);
    client_free(c);
}

static void a_connection_that_takes_nothing_is_cut(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .write_stall_ms = 50 }, 0);
    (void)get(c);
    pump(c);
    c->rig.socket.room = 0;
    c->rig.socket.stalled = true;
    assert_int_equal(x_stream(newest(), true, SPAN("1"), false), OK);
    UNTIL(c, !c->rig.speaker);
    assert_true(rig_x[0].gone);
    client_free(c);
}

static void a_dead_socket_ends_the_connection(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    (void)get(c);
    pump(c);
    c->rig.socket.refuse = ERR_CLOSED;
    assert_int_equal(x_stream(newest(), true, SPAN("1"), false), OK);
    assert_false(newest()->over); /* not from within its own call */
    UNTIL(c, !c->rig.speaker);
    assert_true(rig_x[0].gone);
    client_free(c);
}

/* ---- draining ---- */

static void drains_in_good_order(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const int32_t under_way = get(c);
    pump(c);
    c->deaf = true;
    c->rig.speaker->ops->drain(c->rig.speaker);
    const int32_t in_flight = get(c); /* sent before it has heard of it */
    pump(c);
    assert_int_equal(rig_x_count, 2);
    c->deaf = false;
    pump(c);
    assert_int_equal(c->goaways, 2);
    assert_int_equal(c->goaway_first, INT32_MAX);
    assert_int_equal(c->goaway_last, in_flight);
    assert_int_equal(c->goaway_code, NGHTTP2_NO_ERROR);
    assert_false(c->rig.socket.shut);
    assert_int_equal(x_stream(&rig_x[0], true, SPAN("1"), false), OK);
    assert_int_equal(x_whole(&rig_x[1], 200, "2"), OK);
    pump(c);
    assert_true(got_of(c, in_flight)->ended);
    assert_false(c->rig.socket.shut);
    assert_int_equal(x_stream(&rig_x[0], false, SPAN("2"), true), OK);
    pump(c);
    assert_true(got_of(c, under_way)->ended && got_of(c, under_way)->code == 0);
    assert_true(c->rig.socket.shut);
    c->rig.speaker->ops->ended(c->rig.speaker);
    assert_null(c->rig.speaker);
    client_free(c);
}

/* Nobody's work is lost: what the client sent before it could know is answered, also over an idle or a new connection. */
static void a_request_on_its_way_to_a_draining_connection_is_answered(void **state)
{
    (void)state;
    for (unsigned fresh = 0; fresh < 2; fresh++) {
        struct client *c = client_new((struct node_limits){ 0 }, 0);
        if (!fresh) {
            (void)get(c);
            pump(c);
            assert_int_equal(x_whole(newest(), 200, "first"), OK);
            pump(c);
        }
        c->deaf = true;
        c->rig.speaker->ops->drain(c->rig.speaker);
        pump(c);
        const int32_t id = get(c);
        pump(c);
        assert_int_equal(rig_x_count, fresh ? 1 : 2);
        assert_int_equal(x_whole(newest(), 200, "last"), OK);
        c->deaf = false;
        pump(c);
        assert_true(got_of(c, id)->ended && got_of(c, id)->code == 0);
        assert_true(c->rig.socket.shut); /* its ping came back */
        client_free(c);
    }
}

static void an_idle_connection_drains_at_once(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    c->rig.speaker->ops->drain(c->rig.speaker);
    pump(c);
    assert_true(c->goaway && c->rig.socket.shut);
    client_free(c);
}

static void a_client_that_answers_no_ping_drains_all_the_same(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .drain_first_ms = 100 }, 0);
    c->deaf = true;
    c->rig.speaker->ops->drain(c->rig.speaker);
    UNTIL(c, c->rig.socket.shut);
    client_free(c);
}

static void at_the_deadline_everybody_is_told(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    struct upload up = { .rest = SPAN("some"), .open = true }, refused = { .rest = SPAN("some"), .open = true };
    const int32_t waiting = get(c), sending = ask_with(c, "POST", "/", NULL, &up);
    pump(c);
    rig_begin = BEGIN_REFUSED;
    const int32_t forgotten = ask_with(c, "POST", "/", NULL, &refused);
    pump(c);
    c->rig.speaker->ops->drain(c->rig.speaker);
    pump(c);
    c->rig.speaker->ops->drain_passed(c->rig.speaker);
    pump(c);
    assert_true(rig_x[0].drained && rig_x[1].drained);
    assert_int_equal(got_of(c, waiting)->status, 503);
    assert_int_equal(got_of(c, sending)->status, 503);
    assert_int_equal(got_of(c, forgotten)->status, 401);
    assert_true(c->rig.socket.shut);
    client_free(c);
}

/* ---- memory ---- */

static void each_failed_allocation_is_survived(void **state)
{
    (void)state;
    static char bytes[30000];
    bool done = false;
    for (unsigned k = 0; k < 2000 && !done; k++) {
        struct client *c = calloc(1, sizeof(*c));
        assert_non_null(c);
        /* The connection's own allocations fail, not the client's: it has no part in fault_malloc. */
        fault_arm(FAULT_ALLOC, 1000000, 1);
        assert_int_equal(rig_open(&c->rig), OK);
        rig_end(&c->rig);
        fault_arm(FAULT_ALLOC, k, 1);
        memset(c, 0, sizeof(*c));
        if (rig_open(&c->rig) == OK) {
            struct buf in = BUF_INIT(1u << 20); /* made while nothing fails */
            const uint64_t seen = fault_seen(FAULT_ALLOC);
            fault_disarm_all();
            assert_int_equal(buf_append(&in, PREFACE), OK);
            put_frame(&in, NGHTTP2_SETTINGS, 0, 0, SPAN(""));
            put_frame(&in, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, GET_BLOCK);
            put_frame(&in, NGHTTP2_DATA, 0, 1, SPAN("body"));
            put_frame(&in, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, SPAN("end"));
            put_frame(&in, NGHTTP2_HEADERS, END_ALL, 3, GET_BLOCK);
            put_frame(&in, NGHTTP2_HEADERS, END_ALL, 5, SPAN("\x82\x86\x04\x02/ \x41\x01h")); /* 400 */
            /* The wire and the bodies of the test's own are made beforehand. */
            char *room;
            assert_int_equal(buf_reserve(&c->rig.socket.wire, 1u << 20, &room), OK);
            assert_int_equal(buf_reserve(&c->rig.socket.stream.outbox.pending, 1u << 20, &room), OK);
            if (k >= seen)
                fault_arm(FAULT_ALLOC, k - seen, 1);
            if (c->rig.speaker)
                c->rig.speaker->ops->bytes(c->rig.speaker, buf_span(&in), clock_ns());
            for (unsigned i = 0; i < rig_x_count; i++) {
                struct exchange *x = &rig_x[i];
                if (x->over || !x->whole)
                    continue;
                if (i == 0) {
                    if (x_stream(x, true, span_of(bytes, sizeof(bytes)), false) == OK)
                        (void)x_stream(x, false, span_of(bytes, sizeof(bytes)), true);
                } else {
                    (void)x_whole(x, 200, "{}");
                }
            }
            rig_turn(&c->rig);
            if (c->rig.speaker)
                c->rig.speaker->ops->drain(c->rig.speaker);
            rig_turn(&c->rig);
            if (c->rig.speaker)
                c->rig.speaker->ops->drain_passed(c->rig.speaker);
            rig_turn(&c->rig);
            done = k >= seen && fault_seen(FAULT_ALLOC) <= k - seen;
            fault_disarm_all();
            if (done)
                assert_true(rig_x_count == 2 && c->rig.socket.shut);
            buf_release(&in);
        } else {
            fault_disarm_all();
            c->rig.speaker = NULL;
        }
        rig_end(&c->rig);
        free(c);
    }
    fault_disarm_all();
    assert_true(done);
}

/* What a connection and a stream hold; the figures of the README. */
static void memory_is_counted_and_bounded(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    const size_t idle = c->rig.core.buffered;
    assert_true(idle > 0 && idle < 32u << 10);
    for (unsigned i = 0; i < 100; i++)
        (void)get(c);
    pump(c);
    assert_int_equal(rig_x_count, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(x_stream(&rig_x[i], true, SPAN("data: 1\n\n"), false), OK);
    pump(c);
    const size_t open = (c->rig.core.buffered - idle) / 100;
    assert_true(open < 3u << 10);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(x_stream(&rig_x[i], false, SPAN(""), true), OK);
    pump(c);
    const size_t after = c->rig.core.buffered;
    assert_true(after < idle + (16u << 10)); /* HPACK tables, the map of streams */
    print_message("bytes held: idle %zu, each open stream %zu, idle after 100 streams %zu\n", idle, open, after);
    client_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_a_request),
        cmocka_unit_test(a_request_without_body_is_whole_at_once),
        cmocka_unit_test(streams_event_by_event),
        cmocka_unit_test(many_answers_of_one_turn_are_one_write),
        cmocka_unit_test(a_broken_answer_is_reset),
        cmocka_unit_test(says_continue_to_who_expects_it),
        cmocka_unit_test(trailers_end_a_body_and_are_forgotten),
        cmocka_unit_test(a_body_larger_than_the_windows_comes_whole),
        cmocka_unit_test(the_rest_of_a_refused_body_is_forgotten_or_refused),
        cmocka_unit_test(a_request_that_nothing_was_done_for_may_be_sent_again),
        cmocka_unit_test(a_cancelled_stream_ends_its_own_exchange_only),
        cmocka_unit_test(malformed_requests_are_refused_alone),
        cmocka_unit_test(a_body_of_another_length_than_announced_is_reset),
        cmocka_unit_test(garbage_ends_with_goaway),
        cmocka_unit_test(a_client_that_leaves_ends_everything),
        cmocka_unit_test(a_client_that_says_goaway_is_served_to_its_last_stream),
        cmocka_unit_test(a_stalled_stream_holds_up_only_itself),
        cmocka_unit_test(a_socket_that_is_full_is_given_no_more),
        cmocka_unit_test(a_stream_that_takes_nothing_is_cut),
        cmocka_unit_test(an_end_that_is_not_taken_is_cut),
        cmocka_unit_test(a_connection_that_takes_nothing_is_cut),
        cmocka_unit_test(a_dead_socket_ends_the_connection),
        cmocka_unit_test(drains_in_good_order),
        cmocka_unit_test(a_request_on_its_way_to_a_draining_connection_is_answered),
        cmocka_unit_test(an_idle_connection_drains_at_once),
        cmocka_unit_test(a_client_that_answers_no_ping_drains_all_the_same),
        cmocka_unit_test(at_the_deadline_everybody_is_told),
        cmocka_unit_test(each_failed_allocation_is_survived),
        cmocka_unit_test(memory_is_counted_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
