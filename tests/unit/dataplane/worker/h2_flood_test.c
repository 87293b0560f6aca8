/* HTTP/2: what a client may not do, and for how long. */
#include "tests/unit/dataplane/worker/h2_client.h"

/* ---- limits and floods: at the limit it is served, one over it is not ---- */

static void a_head_over_its_limits_gets_431(void **state)
{
    (void)state;
    char value[4096];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    struct client *c = client_new((struct node_limits){ .head_bytes = 4096, .headers = 3 }, 0);
    const size_t others = strlen(":methodGET:schemehttp:authorityh.example:path/") + 4 * 32 + strlen("x-mark") + 32;
    value[4096 - others] = '\0';
    const nghttp2_nv fits = NV("x-mark", value);
    (void)ask_with(c, "GET", "/", &fits, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 1);
    value[4096 - others] = 'v';
    value[4096 - others + 1] = '\0';
    const nghttp2_nv over = NV("x-mark", value);
    const int32_t large = ask_with(c, "GET", "/", &over, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 1);
    assert_int_equal(got_of(c, large)->status, 431);
    nghttp2_nv many[8] = { NV(":method", "GET"), NV(":scheme", "http"), NV(":authority", "h"), NV(":path", "/"),
                           NV("a", "1"),         NV("b", "2"),          NV("c", "3"),          NV("d", "4") };
    (void)nghttp2_submit_request(c->session, NULL, many, 7, NULL, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 2);
    const int32_t id = nghttp2_submit_request(c->session, NULL, many, 8, NULL, NULL);
    pump(c);
    assert_int_equal(rig_x_count, 2);
    assert_int_equal(got_of(c, id)->status, 431);
    assert_false(c->goaway);
    client_free(c);
}

/* One field of 4000 bytes goes into the table; each byte after that stands for all of it. */
static void hpack_bomb(struct buf *block, unsigned times)
{
    char value[3801];
    memset(value, 'v', 3800);
    value[3800] = '\0';
    assert_int_equal(buf_append(block, GET_BLOCK), OK);
    assert_int_equal(buf_append(block, SPAN("\x40\x01x\x7f\xd9\x1c")), OK); /* 3800 = 127 + 0x59 + (0x1c << 7) */
    assert_int_equal(buf_append(block, span_of(value, 3800)), OK);
    for (unsigned i = 1; i < times; i++)
        assert_int_equal(buf_append(block, SPAN("\xbe")), OK);
}

static void an_hpack_bomb_is_stopped(void **state)
{
    (void)state;
    const uint32_t pseudo = (uint32_t)strlen(":methodGET:schemehttp:authorityh:path/") + 4 * 32, one = 3801 + 32;
    const unsigned most = (H2_HEAD_BOMB * 4096u + H2_HEAD_BOMB - 1 - pseudo) / one;
    for (unsigned over = 0; over < 2; over++) {
        struct flood *f = calloc(1, sizeof(*f));
        assert_non_null(f);
        f->rig.config.limits.head_bytes = 4096;
        flood_open(f);
        struct buf block = BUF_INIT(1u << 20);
        hpack_bomb(&block, most + over);
        put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 1, buf_span(&block));
        const size_t before = f->rig.core.buffered;
        flood_send(f);
        unsigned answered;
        (void)came(f, NGHTTP2_HEADERS, &answered);
        assert_int_equal(answered, over ? 0 : 1); /* 431 */
        assert_int_equal(goaway_of(f), over ? NGHTTP2_ENHANCE_YOUR_CALM : UINT32_MAX);
        assert_true(f->rig.core.buffered < before + 40000);
        assert_int_equal(rig_x_count, 0);
        buf_release(&block);
        flood_end(f);
        free(f);
    }
}

/* After `count` frames more the budget is just spent; then one over. */
static void spend_all_frames(unsigned type, unsigned flags, uint32_t id, struct span payload)
{
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    if (id > 0) { /* a stream to send them on */
        put_frame(&f->out, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, GET_BLOCK);
        flood_send(f);
    }
    rig_h2(&f->rig)->frames.per_s = 0; /* the clock shall not help */
    const uint64_t left = rig_h2(&f->rig)->frames.left / 1000;
    assert_true(left > H2_FRAMES - 10);
    for (uint64_t i = 0; i < left; i++)
        put_frame(&f->out, type, flags, id, payload);
    flood_send(f);
    if (goaway_of(f) != UINT32_MAX)
        fail_msg("frame type %u: too early", type);
    assert_false(f->rig.socket.shut);
    put_frame(&f->out, type, flags, id, payload);
    flood_send(f);
    if (goaway_of(f) != NGHTTP2_ENHANCE_YOUR_CALM)
        fail_msg("frame type %u: %u", type, goaway_of(f));
    assert_true(f->rig.socket.shut);
    if (id > 0)
        assert_true(rig_x[0].gone);
    /* What it sends on is read by nobody; it is cut in the end. */
    const unsigned exchanges = rig_x_count;
    put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 101, GET_BLOCK);
    flood_send(f);
    assert_int_equal(rig_x_count, exchanges);
    static char junk[CORE_READ_BYTES];
    for (size_t sent = 0; sent <= H2_LINGER_BYTES && f->rig.speaker; sent += sizeof(junk))
        rig_give(&f->rig, span_of(junk, sizeof(junk)));
    assert_null(f->rig.speaker);
    flood_end(f);
    free(f);
}

static void floods_of_frames_end_with_goaway(void **state)
{
    (void)state;
    spend_all_frames(NGHTTP2_PING, 0, 0, SPAN("12345678"));
    spend_all_frames(NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, SPAN("12345678"));
    spend_all_frames(NGHTTP2_SETTINGS, 0, 0, SPAN(""));
    spend_all_frames(NGHTTP2_SETTINGS, 0, 0, SPAN("\x00\x01\x00\x00\x10\x00"));
    spend_all_frames(NGHTTP2_WINDOW_UPDATE, 0, 0, SPAN("\x00\x00\x00\x01"));
    spend_all_frames(NGHTTP2_WINDOW_UPDATE, 0, 1, SPAN("\x00\x00\x00\x01"));
    spend_all_frames(NGHTTP2_PRIORITY, 0, 1, SPAN("\x00\x00\x00\x05\x10"));
    spend_all_frames(NGHTTP2_DATA, 0, 1, SPAN(""));
    spend_all_frames(0x7b, 0, 0, SPAN("unknown"));
}

/* Frames that answer ours are no flood. */
static void window_updates_for_what_was_sent_are_free(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    rig_h2(&c->rig)->frames.per_s = 0;
    (void)get(c);
    pump(c);
    for (unsigned i = 0; i < 3 * H2_FRAMES; i++) {
        assert_int_equal(x_stream(newest(), i == 0, SPAN("data: 1\n\n"), false), OK);
        pump(c);
        assert_int_equal(nghttp2_submit_window_update(c->session, 0, 1, 9), 0);
        assert_int_equal(nghttp2_submit_window_update(c->session, 0, 0, 9), 0);
        pump(c);
    }
    assert_false(c->goaway);
    client_free(c);
}

static void rapid_resets_end_with_goaway(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    rig_h2(&f->rig)->resets.per_s = 0;
    uint32_t id = 1;
    for (unsigned i = 0; i < H2_RESETS; i++, id += 2) {
        put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, id, GET_BLOCK);
        put_frame(&f->out, NGHTTP2_RST_STREAM, 0, id, SPAN("\x00\x00\x00\x08"));
    }
    flood_send(f);
    assert_int_equal(goaway_of(f), UINT32_MAX);
    assert_int_equal(rig_x_count, H2_RESETS);
    for (unsigned i = 0; i < 1000; i++, id += 2) {
        put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, id, GET_BLOCK);
        put_frame(&f->out, NGHTTP2_RST_STREAM, 0, id, SPAN("\x00\x00\x00\x08"));
    }
    flood_send(f);
    assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(rig_x_count, H2_RESETS + 1);
    for (unsigned i = 0; i < rig_x_count; i++)
        assert_true(rig_x[i].gone);
    flood_end(f);
    free(f);
}

/* The client makes us reset: the same budget. */
static void resets_that_the_client_provokes_count(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    rig_h2(&f->rig)->resets.per_s = 0;
    uint32_t id = 1;
    for (unsigned i = 0; i <= H2_RESETS; i++, id += 2) {
        assert_int_equal(goaway_of(f), UINT32_MAX);
        put_frame(&f->out, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, GET_BLOCK);
        put_frame(&f->out, NGHTTP2_WINDOW_UPDATE, 0, id, SPAN("\x7f\xff\xff\xff")); /* over 2^31-1 */
        flood_send(f);
    }
    assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
    flood_end(f);
    free(f);
}

static void answered_requests_earn_resets(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ 0 }, 0);
    rig_h2(&c->rig)->resets.per_s = 0;
    rig_h2(&c->rig)->resets.left = 0;
    (void)get(c);
    pump(c);
    assert_int_equal(x_whole(newest(), 200, "ok"), OK);
    pump(c);
    for (unsigned i = 0; i < 2; i++) {
        assert_false(c->goaway);
        const int32_t id = get(c);
        pump(c);
        assert_int_equal(nghttp2_submit_rst_stream(c->session, 0, id, NGHTTP2_CANCEL), 0);
        pump(c);
    }
    assert_true(c->goaway);
    assert_int_equal(c->goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    client_free(c);
}

/* However many are allowed at once: who cancels all of them does nothing wrong. */
static void all_streams_may_be_cancelled_at_once(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .http2_streams = 400 }, 0);
    int32_t last = 0;
    for (unsigned i = 0; i < 400; i++)
        last = get(c);
    pump(c);
    assert_int_equal(rig_x_count, 400);
    for (int32_t id = 1; id <= last; id += 2)
        assert_int_equal(nghttp2_submit_rst_stream(c->session, 0, id, NGHTTP2_CANCEL), 0);
    pump(c);
    assert_false(c->goaway);
    const int32_t id = get(c);
    pump(c);
    assert_int_equal(x_whole(newest(), 200, "{}"), OK);
    UNTIL(c, got_of(c, id)->status == 200);
    client_free(c);
}

static void streams_at_once_are_limited(void **state)
{
    (void)state;
    for (unsigned acked = 0; acked < 2; acked++) {
        struct flood *f = calloc(1, sizeof(*f));
        assert_non_null(f);
        f->rig.config.limits.http2_streams = 5;
        assert_int_equal(rig_open(&f->rig), OK);
        buf_init(&f->out, 1u << 20);
        assert_int_equal(buf_append(&f->out, PREFACE), OK);
        put_frame(&f->out, NGHTTP2_SETTINGS, 0, 0, SPAN(""));
        if (acked)
            put_frame(&f->out, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, SPAN(""));
        for (uint32_t i = 0; i < 5; i++)
            put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 2 * i + 1, GET_BLOCK);
        rig_turn(&f->rig); /* our settings go out before the client's acknowledgement comes */
        flood_send(f);
        unsigned resets;
        (void)came(f, NGHTTP2_RST_STREAM, &resets);
        assert_int_equal(rig_x_count, 5);
        assert_int_equal(resets, 0);
        put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 11, GET_BLOCK);
        flood_send(f);
        const struct span code = came(f, NGHTTP2_RST_STREAM, &resets);
        assert_int_equal(rig_x_count, 5);
        if (acked) {
            assert_int_equal(goaway_of(f), NGHTTP2_PROTOCOL_ERROR); /* it was told, and has said so */
        } else {
            assert_int_equal(resets, 1);
            assert_true(span_eq(code, SPAN("\x00\x00\x00\x07"))); /* REFUSED_STREAM */
            assert_int_equal(goaway_of(f), UINT32_MAX);
            for (uint32_t i = 0; i < H2_RESETS; i++) /* it never acknowledges: bounded all the same */
                put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 2 * i + 13, GET_BLOCK);
            rig_h2(&f->rig)->resets.per_s = 0;
            flood_send(f);
            assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
        }
        flood_end(f);
        free(f);
    }
}

static void a_flood_of_continuations_is_stopped(void **state)
{
    (void)state;
    static char zeros[16000];
    static const size_t sizes[] = { 0, 1, sizeof(zeros) };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct flood *f = calloc(1, sizeof(*f));
        assert_non_null(f);
        flood_open(f);
        /* A field whose value is to be 60,000 bytes long: never whole. */
        put_frame(&f->out, NGHTTP2_HEADERS, 0, 1, SPAN("\x82\x86\x84\x41\x01h\x00\x01x\x7f\xe1\xd3\x03"));
        const size_t before = f->rig.core.buffered;
        for (unsigned n = 0; n < (sizes[i] < 1000 ? H2_CONTINUATIONS : 3); n++)
            put_frame(&f->out, NGHTTP2_CONTINUATION, 0, 1, span_of(zeros, sizes[i]));
        flood_send(f);
        assert_int_equal(goaway_of(f), UINT32_MAX);
        for (unsigned n = 0; n < 1000; n++)
            put_frame(&f->out, NGHTTP2_CONTINUATION, 0, 1, span_of(zeros, sizes[i]));
        flood_send(f);
        assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
        assert_true(f->rig.core.buffered < before + (128u << 10));
        assert_int_equal(rig_x_count, 0);
        flood_end(f);
        free(f);
    }
}

static void a_client_that_reads_no_answers_to_pings_is_bounded(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    flood_open(f);
    f->rig.socket.room = 0;
    rig_h2(&f->rig)->frames.left = rig_h2(&f->rig)->frames.most = 1000000000; /* generous, to reach the queue's bound */
    const size_t before = f->rig.core.buffered;
    for (unsigned i = 0; i < 100 && !rig_h2(&f->rig)->deaf; i++) {
        for (unsigned j = 0; j < 1000; j++)
            put_frame(&f->out, NGHTTP2_PING, 0, 0, SPAN("12345678"));
        flood_send(f);
        assert_true(f->rig.core.buffered < before + (4u << 20));
    }
    assert_true(rig_h2(&f->rig)->deaf);
    flood_end(f);
    free(f);
}

/* ---- time ---- */

static void who_sends_no_preface_is_closed(void **state)
{
    (void)state;
    struct client *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    c->rig.config.limits.head_time_ms = 30;
    client_open(c, 0);
    c->error = 1; /* says nothing, and reads nothing */
    rig_give(&c->rig, SPAN("PRI * HTTP/2.0\r\n"));
    UNTIL(c, c->rig.socket.shut);
    UNTIL(c, !c->rig.speaker);
    client_free(c);
}

static void a_slow_head_ends_the_connection(void **state)
{
    (void)state;
    struct flood *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->rig.config.limits.head_time_ms = 30;
    flood_open(f);
    put_frame(&f->out, NGHTTP2_HEADERS, END_ALL, 1, GET_BLOCK);
    put_frame(&f->out, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM, 3, GET_BLOCK); /* to be continued */
    flood_send(f);
    for (const uint64_t until = clock_ms() + 10000; !f->rig.socket.shut;) {
        assert_true(clock_ms() < until);
        poll(NULL, 0, 1);
        rig_turn(&f->rig);
    }
    assert_int_equal(goaway_of(f), NGHTTP2_ENHANCE_YOUR_CALM);
    assert_true(rig_x_count == 1 && rig_x[0].gone);
    flood_end(f);
    free(f);
}

static void a_slow_body_gets_408(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .body_time_ms = 30 }, 0);
    struct upload up = { .rest = SPAN("some"), .open = true }, refused = { .rest = SPAN("some"), .open = true };
    const int32_t id = ask_with(c, "POST", "/", NULL, &up), other = get(c);
    pump(c);
    rig_begin = BEGIN_REFUSED;
    const int32_t unwanted = ask_with(c, "POST", "/", NULL, &refused);
    UNTIL(c, got_of(c, id)->status == 408);
    assert_true(rig_x[0].timed_out);
    UNTIL(c, got_of(c, unwanted)->closed && got_of(c, id)->closed); /* the rest is not waited for */
    assert_int_equal(got_of(c, unwanted)->code, NGHTTP2_NO_ERROR);
    assert_false(rig_x[1].over || got_of(c, other)->closed);
    assert_false(c->goaway);
    client_free(c);
}

/* A byte now and then would hold all that came before it for ever. */
static void a_body_that_trickles_gets_408(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .body_time_ms = 300 }, 0);
    struct upload up = { .rest = SPAN("x"), .open = true };
    const int32_t id = ask_with(c, "POST", "/", NULL, &up);
    const uint64_t until_ms = clock_ms() + 10000;
    for (pump(c); got_of(c, id)->status == 0 && clock_ms() < until_ms; pump(c)) {
        up.rest = SPAN("x");
        (void)nghttp2_session_resume_data(c->session, id);
        poll(NULL, 0, 1);
    }
    assert_int_equal(got_of(c, id)->status, 408);
    assert_true(rig_x[0].body.len > 1);
    client_free(c);
}

static void an_idle_connection_is_closed_in_good_order(void **state)
{
    (void)state;
    struct client *c = client_new((struct node_limits){ .idle_ms = 50 }, 0);
    UNTIL(c, c->goaway);
    assert_int_equal(c->goaway_code, NGHTTP2_NO_ERROR);
    assert_true(c->rig.socket.shut);
    UNTIL(c, !c->rig.speaker); /* it does not close: it lingers no longer than so */
    client_free(c);
    c = client_new((struct node_limits){ 0 }, 0);
    const int32_t id = get(c);
    UNTIL(c, rig_x_count == 1);
    c->rig.config.limits.idle_ms = 50;
    for (unsigned i = 0; i < 100; i++) { /* longer than that: a stream is no idling */
        poll(NULL, 0, 1);
        pump(c);
    }
    assert_false(c->goaway);
    assert_int_equal(x_whole(newest(), 200, "late"), OK);
    UNTIL(c, got_of(c, id)->ended);
    UNTIL(c, c->goaway && c->rig.socket.shut);
    client_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_over_its_limits_gets_431),
        cmocka_unit_test(an_hpack_bomb_is_stopped),
        cmocka_unit_test(floods_of_frames_end_with_goaway),
        cmocka_unit_test(window_updates_for_what_was_sent_are_free),
        cmocka_unit_test(rapid_resets_end_with_goaway),
        cmocka_unit_test(resets_that_the_client_provokes_count),
        cmocka_unit_test(answered_requests_earn_resets),
        cmocka_unit_test(all_streams_may_be_cancelled_at_once),
        cmocka_unit_test(streams_at_once_are_limited),
        cmocka_unit_test(a_flood_of_continuations_is_stopped),
        cmocka_unit_test(a_client_that_reads_no_answers_to_pings_is_bounded),
        cmocka_unit_test(who_sends_no_preface_is_closed),
        cmocka_unit_test(a_slow_head_ends_the_connection),
        cmocka_unit_test(a_slow_body_gets_408),
        cmocka_unit_test(a_body_that_trickles_gets_408),
        cmocka_unit_test(an_idle_connection_is_closed_in_good_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
