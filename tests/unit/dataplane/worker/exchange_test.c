/* One request's life: streams, failover before content, holding, honest errors after it, cancelling, backpressure,
 * accounting. */
#include "rig.h"
#include "dataplane/route/breaker.h"
#include "proto/record.h"

#define TRY(rig, n) (&(rig).lane.tries[n])

/* Of the one request that ended since the last look. It lives in the arena, which the caller releases. */
static struct record only_record(struct rig *rig, struct arena *arena)
{
    struct buf out;
    struct record read;
    arena_init(arena, 1 << 20);
    assert_int_equal(records(rig, &out), 1);
    assert_int_equal(record_read(arena, arena_dup(arena, span_head(buf_span(&out), out.len - 1)), &read), OK);
    buf_release(&out);
    return read;
}

static void streams_and_accounts(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    struct try *t = TRY(rig, 0);
    assert_string_equal(t->path, "/v1/chat/completions");
    assert_non_null(strstr(t->body, "\"model\":\"upstream-name\""));
    assert_non_null(strstr(t->body, "\"include_usage\":true"));
    assert_non_null(strstr(t->body, "\"x\":1.50"));
    try_head(t, 200, "text/event-stream", "openai-processing-ms", "12");
    try_body(t, ROLE);
    rig_pump(&rig);
    assert_int_equal(c->in.len, 0); /* opening events are held */
    try_body(t, CONTENT("hel") CONTENT("lo"));
    UNTIL(&rig, has(c, "\"lo\""));
    assert_true(has(c, "HTTP/1.1 200 OK\r\n"));
    assert_true(has(c, "transfer-encoding: chunked"));
    assert_true(has(c, "x-fairlead-model: a/m\r\n"));
    assert_true(has(c, "x-fairlead-policy: 1\r\n"));
    assert_true(has(c, "x-fairlead-attempts: 1\r\n"));
    assert_true(has(c, "x-fairlead-overhead-us: "));
    assert_true(has(c, "x-request-id: req_"));
    assert_true(has(c, "openai-processing-ms: 12"));
    assert_false(has(c, "set-cookie"));
    assert_true(has(c, "\"assistant\""));
    try_body(t, FINISH USAGE(10, 20) DONE);
    try_done(t, OK);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_true(has(c, "data: [DONE]"));
    assert_true(
        has(c, ": fairlead model=a/m attempts=1 input_tokens=10 output_tokens=20 estimated=0 cost_usd=0.00005\n\n"));
    assert_false(has(c, "prompt_tokens")); /* only we asked for it */
    assert_int_equal(counted(&rig, SERIES_REQUESTS), 1);
    assert_int_equal(counted(&rig, SERIES_OK), 1);
    assert_int_equal(counted(&rig, SERIES_ATTEMPTS), 1);
    assert_int_equal(counted(&rig, SERIES_TOKENS_INPUT), 10);
    assert_int_equal(counted(&rig, SERIES_TOKENS_OUTPUT), 20);
    assert_int_equal(counted(&rig, SERIES_COST_NANO), 50000);
    struct arena arena;
    const struct record read = only_record(&rig, &arena);
    assert_true(span_eq(read.model, SPAN("a/m")) && span_eq(read.finish, SPAN("stop")));
    assert_true(read.has_features && read.input_tokens_est > 0 && read.choices == 1 && !read.tools);
    arena_release(&arena);
    /* The connection carries another one. */
    buf_clear(&c->in);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 2);
    rig_stop(&rig);
}

static void certificates_reach_the_board(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    struct board *board = rig.core.board;
    const uint32_t a = board_label_find(board, BOARD_LABEL_MODEL, SPAN("a/m")),
                   b = board_label_find(board, BOARD_LABEL_MODEL, SPAN("b/m"));
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    struct upstream_result result = { .err = ERR_CLOSED, .why = "cut", .certificate_expires_at_ms = 1900000000000 };
    TRY(rig, 0)->live = false;
    TRY(rig, 0)->events.done(TRY(rig, 0)->user, &result);
    UNTIL(&rig, rig.lane.count == 2);
    assert_int_equal(atomic_load(&board_model(board, a)->certificate_expires_at_ms), 1900000000000);
    assert_int_equal(atomic_load(&board_model(board, b)->certificate_expires_at_ms), 0);
    /* Also what comes to an end when the client has all it asked for. */
    try_head(TRY(rig, 1), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 1), CONTENT("x") FINISH USAGE(10, 20) DONE);
    UNTIL(&rig, has(c, LAST_CHUNK));
    result = (struct upstream_result){ .phase = UPSTREAM_BODY, .certificate_expires_at_ms = 1800000000000 };
    TRY(rig, 1)->live = false;
    TRY(rig, 1)->events.done(TRY(rig, 1)->user, &result);
    assert_int_equal(atomic_load(&board_model(board, b)->certificate_expires_at_ms), 1800000000000);
    rig_stop(&rig);
}

static void usage_is_kept_when_asked_for(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c,
        "{\"model\":\"chat\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"messages\":[{\"role\":"
        "\"user\",\"content\":\"x\"}]}");
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), CONTENT("x") FINISH USAGE(10, 20) DONE);
    try_done(TRY(rig, 0), OK);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_true(has(c, "prompt_tokens"));
    rig_stop(&rig);
}

/* Each of these first attempts fails before content; the answer comes whole from the second model. */
static void fails_over_before_content(void **state)
{
    (void)state;
    static const struct {
        unsigned status;
        const char *body;
        enum err err;
    } failures[] = {
        { 0, NULL, ERR_REFUSED },
        { 0, NULL, ERR_CLOSED },
        { 500, "{\"error\":{\"message\":\"boom\"}}", OK },
        { 429, "{\"error\":{\"message\":\"slow down\"}}", OK },
        { 200, ROLE, ERR_CLOSED },     /* cut */
        { 200, DONE, OK },             /* empty */
        { 200, ROLE FINISH DONE, OK }, /* still no content */
        { 200, CHUNK("{\"error\":{\"message\":\"overloaded\",\"type\":\"overloaded_error\"}}"),
          OK }, /* error in a 200 */
        { 200, CHUNK("this is not JSON"), OK },
    };
    for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
        struct rig rig = { .port = 0 };
        rig_start(&rig, true);
        struct client *c = rig_client(&rig);
        ask(&rig, c, STREAM_ASK);
        UNTIL(&rig, rig.lane.count == 1);
        struct try *t = TRY(rig, 0);
        if (failures[i].status)
            try_head(t, failures[i].status, failures[i].status == 200 ? "text/event-stream" : "application/json", NULL,
                     NULL);
        if (failures[i].body)
            try_body(t, failures[i].body);
        assert_int_equal(rig.lane.count, 1); /* never from within a callback */
        if (t->live)
            try_done(t, failures[i].err);
        UNTIL(&rig, rig.lane.count == 2);
        assert_string_equal(TRY(rig, 1)->model, "b");
        assert_non_null(strstr(TRY(rig, 1)->body, "\"x\":1.50"));
        try_head(TRY(rig, 1), 200, "text/event-stream", NULL, NULL);
        try_body(TRY(rig, 1), ROLE CONTENT("fine") FINISH DONE);
        try_done(TRY(rig, 1), OK);
        UNTIL(&rig, has(c, LAST_CHUNK));
        assert_true(has(c, "x-fairlead-model: b/m"));
        assert_true(has(c, "x-fairlead-attempts: 2"));
        assert_int_equal(times(c, "HTTP/1.1"), 1);
        assert_int_equal(times(c, "assistant"), 1); /* the first one's opening was never sent */
        assert_int_equal(counted(&rig, SERIES_ATTEMPTS), 2);
        assert_int_equal(counted(&rig, SERIES_ATTEMPT_FAILURES), 1);
        assert_int_equal(counted(&rig, SERIES_FAILOVERS), 1);
        assert_int_equal(counted(&rig, SERIES_REQUESTS), 1);
        assert_int_equal(counted(&rig, SERIES_ESTIMATED), 1); /* no usage came */
        rig_stop(&rig);
    }
}

static void silence_fails_over(void **state)
{
    (void)state;
    struct rig rig = { .first_ms = 60 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 2); /* the first hung */
    assert_true(TRY(rig, 0)->cancelled);
    try_head(TRY(rig, 1), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 1), CONTENT("x") FINISH DONE);
    try_done(TRY(rig, 1), OK);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_int_equal(counted(&rig, SERIES_ATTEMPT_TIMEOUTS), 1);
    rig_stop(&rig);
}

static void all_fail_honestly(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    for (unsigned i = 0; i < 3; i++) {
        UNTIL(&rig, rig.lane.count == i + 1);
        try_head(TRY(rig, i), 503, "text/plain", NULL, NULL);
        try_done(TRY(rig, i), OK);
    }
    UNTIL(&rig, has(c, "\"error\""));
    assert_true(has(c, "HTTP/1.1 502 "));
    assert_true(has(c, "a/m (status 503), b/m (status 503), c/m (status 503)"));
    assert_int_equal(counted(&rig, SERIES_ERRORS), 1);
    assert_int_equal(counted(&rig, SERIES_ATTEMPTS), 3);
    assert_int_equal(counted(&rig, SERIES_COST_NANO), 0);
    rig_stop(&rig);
}

/* The record keeps the sentence, not only the code: it is all that is left when somebody asks why. */
static void a_refusal_is_recorded_as_it_was_told(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, "{\"model\":\"chat\",\"messages\":[]}");
    UNTIL(&rig, has(c, "HTTP/1.1 400 "));
    struct buf out;
    assert_int_equal(records(&rig, &out), 1);
    assert_non_null(strstr(buf_cstr(&out), "\"message\":\"'messages' is empty"));
    buf_release(&out);
    rig_stop(&rig);
}

/* With b and c ejected, a alone is planned; when it fails they are tried after all. */
static void ejected_models_are_the_last_resort(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    for (unsigned i = 0; i < BREAKER_FAILURES_IN_ROW; i++) {
        for (const char *name = "b/m"; name; name = name[0] == 'b' ? "c/m" : NULL) {
            struct board_model *m =
                board_model(rig.board, board_label_find(rig.board, BOARD_LABEL_MODEL, span_cstr(name)));
            (void)breaker_record(&m->breaker, &m->breaker_extra, true, uv_now(&rig.loop));
        }
    }
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    for (unsigned i = 0; i < 2; i++) {
        UNTIL(&rig, rig.lane.count == i + 1);
        try_done(TRY(rig, i), ERR_CLOSED);
    }
    UNTIL(&rig, rig.lane.count == 3);
    try_head(TRY(rig, 2), 200, "application/json", NULL, NULL);
    try_body(TRY(rig, 2), WHOLE_ANSWER);
    try_done(TRY(rig, 2), OK);
    UNTIL(&rig, has(c, WHOLE_ANSWER));
    assert_string_equal(TRY(rig, 0)->model, "a");
    assert_int_equal(counted(&rig, SERIES_FAILOVERS), 2);
    rig_stop(&rig);
}

static void one_tier_of_two(struct rig *rig, struct artifact *artifact)
{
    static struct tier_member members[] = { { 0, 500000 }, { 1, 500000 } };
    static struct route route;
    (void)rig;
    route = artifact->routes[0];
    route.tier_count = 1;
    route.tiers[0] = (struct tier){ .members = members, .member_count = 2 };
    artifact->routes = &route;
}

/* No more than half of a tier is left aside, whatever the breakers say: one of the two is let in again, by force. */
static void a_tier_that_is_ejected_whole_still_serves(void **state)
{
    (void)state;
    struct rig rig = { .arrange = one_tier_of_two };
    rig_start(&rig, true);
    for (unsigned label = 1; label <= 2; label++)
        for (unsigned i = 0; i < BREAKER_FAILURES_IN_ROW; i++) {
            struct board_model *m = board_model(rig.board, label);
            (void)breaker_record(&m->breaker, &m->breaker_extra, true, uv_now(&rig.loop));
        }
    for (unsigned i = 0; i < 3; i++) { /* by the probe, and beside it */
        ask(&rig, rig_client(&rig), WHOLE_ASK);
        UNTIL(&rig, rig.lane.count == i + 1);
    }
    for (unsigned i = 0; i < 3; i++) {
        try_head(TRY(rig, i), 200, "application/json", NULL, NULL);
        try_body(TRY(rig, i), WHOLE_ANSWER);
        try_done(TRY(rig, i), OK);
        UNTIL(&rig, has(&rig.clients[i], WHOLE_ANSWER));
    }
    rig_stop(&rig);
}

static void holding_sends_comments_and_still_fails_over(void **state)
{
    (void)state;
    struct rig rig = { .hold_ms = 40 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), ROLE);
    UNTIL(&rig, times(c, ": keep-alive\n\n") >= 2);
    assert_false(has(c, "assistant"));
    assert_false(has(c, "x-fairlead-model"));
    try_done(TRY(rig, 0), ERR_CLOSED);
    UNTIL(&rig, rig.lane.count == 2);
    try_head(TRY(rig, 1), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 1), ROLE CONTENT("fine") FINISH DONE);
    try_done(TRY(rig, 1), OK);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_int_equal(times(c, "HTTP/1.1"), 1);
    assert_int_equal(times(c, "assistant"), 1);
    assert_true(has(c, ": fairlead model=b/m attempts=2"));
    rig_stop(&rig);
}

static void holding_then_failure_is_an_event(void **state)
{
    (void)state;
    struct rig rig = { .hold_ms = 30 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    for (unsigned i = 0; i < 3; i++) {
        UNTIL(&rig, rig.lane.count == i + 1);
        try_head(TRY(rig, i), 200, "text/event-stream", NULL, NULL);
        if (i == 0)
            UNTIL(&rig, has(c, ": keep-alive"));
        try_done(TRY(rig, i), OK);
    }
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_int_equal(times(c, "HTTP/1.1"), 1);
    assert_true(has(c, "data: {\"error\""));
    assert_false(has(c, "[DONE]"));
    assert_int_equal(counted(&rig, SERIES_ERRORS), 1);
    rig_stop(&rig);
}

static void error_after_content_is_said(void **state)
{
    (void)state;
    static const char *const ends[] = { NULL, CHUNK("{\"error\":{\"message\":\"overloaded\"}}"), CHUNK("rubbish") };
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        struct rig rig = { .port = 0 };
        rig_start(&rig, true);
        struct client *c = rig_client(&rig);
        ask(&rig, c, STREAM_ASK);
        UNTIL(&rig, rig.lane.count == 1);
        try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
        try_body(TRY(rig, 0), CONTENT("half of"));
        if (ends[i])
            try_body(TRY(rig, 0), ends[i]);
        else
            try_done(TRY(rig, 0), ERR_CLOSED);
        UNTIL(&rig, has(c, LAST_CHUNK));
        assert_int_equal(rig.lane.count, 1); /* nothing is tried again */
        assert_true(has(c, "half of"));
        assert_true(has(c, "data: {\"error\""));
        assert_true(has(c, "upstream_truncated"));
        if (i == 1)
            assert_true(has(c, "\"message\":\"overloaded\"")); /* the provider's own words, and no byte more */
        assert_false(has(c, "[DONE]"));
        assert_int_equal(counted(&rig, SERIES_TRUNCATED), 1);
        assert_int_equal(counted(&rig, SERIES_ESTIMATED), 1);
        assert_true(counted(&rig, SERIES_COST_NANO) > 0);
        rig_stop(&rig);
    }
}

/* The client has its end at once; the upstream's message may end later, when its connection serves again, or never. */
static void done_does_not_wait_for_upstream(void **state)
{
    (void)state;
    for (int ends = 0; ends < 3; ends++) {
        struct rig rig = { .port = 0 };
        rig_start(&rig, true);
        struct client *c = rig_client(&rig);
        ask(&rig, c, STREAM_ASK);
        UNTIL(&rig, rig.lane.count == 1);
        struct try *t = TRY(rig, 0);
        t->keeps_body = ends == 2; /* it still reads of the request: it cannot be left alone */
        try_head(t, 200, "text/event-stream", NULL, NULL);
        try_body(t, CONTENT("x") FINISH USAGE(10, 20) DONE CONTENT("beyond the end"));
        assert_int_equal(counted(&rig, SERIES_OK), 1); /* settled */
        UNTIL(&rig, has(c, "[DONE]\n\n" LAST_CHUNK));
        assert_int_equal(t->cancelled, ends == 2);
        buf_clear(&c->in);
        ask(&rig, c, STREAM_ASK); /* the connection carries the next one already */
        UNTIL(&rig, rig.lane.count == 2);
        assert_int_equal(t->live, ends != 2);
        if (ends == 0) {
            try_body(t, "more");
            try_done(t, OK);
            assert_false(t->cancelled);
        } else if (ends == 1) {
            UNTIL(&rig, t->cancelled);
        }
        assert_false(has(c, "beyond") || has(c, "more"));
        rig_stop(&rig); /* the second one is cancelled: see there */
    }
}

/* What only waits for the upstream's end does not outlive the worker. */
static void tails_are_cut_at_the_end(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), CONTENT("x") DONE);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_true(TRY(rig, 0)->live);
    rig_stop(&rig); /* checks that it is cancelled */
}

static const char *const own_headers[] = { "\r\ndate: ",
                                           "\r\nx-request-id: req_",
                                           "\r\nx-fairlead-overhead-us: ",
                                           "\r\nx-fairlead-policy: 1\r\n",
                                           "\r\nx-fairlead-arm: stable\r\n",
                                           "\r\nx-fairlead-attempts: ",
                                           "\r\nx-fairlead-model: a/m\r\n",
                                           "\r\nx-fairlead-cost-usd: " };

/* Of own_headers, how many the answer has to have: strangers learn nothing of the policy, refusals name no model, and
 * what a stream costs is known at its end. */
static void answers_carry_our_headers(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body, *extra;
        unsigned status; /* of the provider; 0: not called */
        const char *expected;
        bool policy, model, cost;
    } cases[] = {
        { "/v1/chat/completions", WHOLE_ASK, "", 200, "HTTP/1.1 200 ", true, true, true },
        { "/v1/chat/completions", STREAM_ASK, "", 200, "HTTP/1.1 200 ", true, true, false },
        { "/v1/chat/completions", WHOLE_ASK, "", 422, "HTTP/1.1 422 ", true, true, true },
        { "/v1/chat/completions", "{}", "", 0, "HTTP/1.1 400 ", true, false, true },
        { "/v1/chat/completions", "{\"model\":\"x\",\"messages\":[{}]}", "", 0, "HTTP/1.1 404 ", true, false, true },
        { "/v1/nowhere", "{}", "", 0, "HTTP/1.1 404 ", false, false, true },
        { "/v1/chat/completions", WHOLE_ASK, "X-Api-Key: other\r\n", 0, "HTTP/1.1 401 ", false, false, true },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rig rig = { .port = 0 };
        rig_start(&rig, true);
        struct client *c = rig_client(&rig);
        ask_extra(&rig, c, cases[i].path, cases[i].body, cases[i].extra);
        if (cases[i].status) {
            bool stream = strstr(cases[i].body, "stream") != NULL;
            UNTIL(&rig, rig.lane.count == 1);
            try_head(TRY(rig, 0), cases[i].status, stream ? "text/event-stream" : "application/json", NULL, NULL);
            try_body(TRY(rig, 0), stream ? CONTENT("x") DONE : WHOLE_ANSWER);
            try_done(TRY(rig, 0), OK);
        }
        UNTIL(&rig, has(c, "\r\n\r\n"));
        assert_true(has(c, cases[i].expected));
        for (size_t h = 0; h < ARRAY_LEN(own_headers); h++) {
            bool wanted =
                h < 3 || (h < 6 && cases[i].policy) || (h == 6 && cases[i].model) || (h == 7 && cases[i].cost);
            if (has(c, own_headers[h]) != wanted)
                fail_msg("case %zu: %s", i, own_headers[h]);
        }
        rig_stop(&rig);
    }
}

static void a_clean_end_without_done_gets_none(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), CONTENT("x") FINISH);
    try_done(TRY(rig, 0), OK);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_false(has(c, "[DONE]"));
    assert_false(has(c, "error"));
    assert_int_equal(counted(&rig, SERIES_OK), 1);
    rig_stop(&rig);
}

static void client_gone_cancels_upstream(void **state)
{
    (void)state;
    for (int with_content = 0; with_content < 2; with_content++) {
        struct rig rig = { .port = 0 };
        rig_start(&rig, true);
        struct client *c = rig_client(&rig);
        ask(&rig, c, STREAM_ASK);
        UNTIL(&rig, rig.lane.count == 1);
        if (with_content) {
            try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
            try_body(TRY(rig, 0), CONTENT("0123456789012345678901234567890123456789"));
            UNTIL(&rig, has(c, "0123"));
        }
        shutdown(c->fd, SHUT_RDWR);
        UNTIL(&rig, TRY(rig, 0)->cancelled);
        assert_int_equal(counted(&rig, SERIES_CANCELLED), 1);
        assert_int_equal(counted(&rig, SERIES_REQUESTS), 1);
        assert_int_equal(counted(&rig, SERIES_ESTIMATED), 1);
        assert_int_equal(counted(&rig, SERIES_TOKENS_OUTPUT), with_content ? 10 : 0);
        struct buf out;
        assert_int_equal(records(&rig, &out), 1);
        assert_non_null(strstr(buf_cstr(&out), "cancelled"));
        buf_release(&out);
        rig_stop(&rig);
    }
}

static void slow_client_pauses_upstream(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    c->deaf = true;
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    struct try *t = TRY(rig, 0);
    try_head(t, 200, "text/event-stream", NULL, NULL);
    static char event[32768];
    memset(event, 'y', sizeof(event) - 1);
    memcpy(event, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"", 49);
    memcpy(event + sizeof(event) - 10, "\"}}]}\n\n\0", 8);
    size_t sent = 0;
    while (!t->paused) {
        try_body(t, event);
        sent += strlen(event);
        assert_true(sent < (64u << 20));
        rig_pump(&rig);
    }
    size_t queued = rig.core.buffered;
    assert_true(queued < 4 * rig.config.limits.write_queue_bytes + (1u << 20)); /* bounded */
    for (int i = 0; i < 10; i++)
        rig_pump(&rig);
    assert_int_equal(t->paused, 1);
    c->deaf = false;
    UNTIL(&rig, !t->paused);
    try_body(t, FINISH DONE);
    try_done(t, OK);
    UNTIL(&rig, has(c, "[DONE]"));
    assert_int_equal(times(c, "\"choices\""), sent / strlen(event) + 1); /* nothing was lost */
    rig_stop(&rig);
}

/* An event that does not end is memory, too: it counts while it is held, and no longer. */
static void unfinished_events_are_accounted(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), CONTENT("x"));
    UNTIL(&rig, has(c, "\"x\""));
    uint64_t before = rig.core.buffered;
    static char part[1 << 16];
    memset(part, 'y', sizeof(part) - 1);
    try_body(TRY(rig, 0), "data: ");
    for (unsigned i = 0; i < 16; i++)
        try_body(TRY(rig, 0), part);
    assert_true(rig.core.buffered >= before + 16 * (sizeof(part) - 1));
    try_done(TRY(rig, 0), ERR_CLOSED);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_true(rig.core.buffered < before + sizeof(part));
    rig_stop(&rig);
}

static void deadline_covers_all_attempts(void **state)
{
    (void)state;
    struct rig rig = { .deadline_ms = 80 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    UNTIL(&rig, has(c, "HTTP/1.1 504 "));
    assert_true(TRY(rig, 0)->cancelled);
    assert_int_equal(counted(&rig, SERIES_ATTEMPT_TIMEOUTS), 1);
    rig_stop(&rig);
}

static void whole_answers_pass_byte_by_byte(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask_extra(&rig, c, "/chat/completions", WHOLE_ASK, "");
    UNTIL(&rig, rig.lane.count == 1);
    assert_null(strstr(TRY(rig, 0)->body, "stream_options"));
    try_head(TRY(rig, 0), 200, "application/json", NULL, NULL);
    static const char answer[] = WHOLE_ANSWER;
    char first[20] = "";
    memcpy(first, answer, sizeof(first) - 1);
    try_body(TRY(rig, 0), first);
    rig_pump(&rig);
    assert_int_equal(c->in.len, 0);
    try_body(TRY(rig, 0), answer + strlen(first));
    try_done(TRY(rig, 0), OK);
    UNTIL(&rig, has(c, "\r\n\r\n" WHOLE_ANSWER));
    assert_true(has(c, "x-fairlead-cost-usd: 0.00005\r\n"));
    assert_true(has(c, "content-type: application/json\r\n"));
    assert_int_equal(counted(&rig, SERIES_OK), 1);
    assert_int_equal(counted(&rig, SERIES_COST_NANO), 50000);
    struct arena arena;
    assert_true(span_eq(only_record(&rig, &arena).finish, SPAN("stop")));
    arena_release(&arena);
    rig_stop(&rig);
}

/* A refusal's words come before an ordinary end, and most of them in events that are not read again. */
static void a_refusal_in_words_is_a_refusal(void **state UNUSED)
{
#define REFUSAL(text) CHUNK("{\"choices\":[{\"delta\":{\"refusal\":\"" text "\"}}]}")
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), ROLE REFUSAL("I") REFUSAL(" will not.") FINISH USAGE(10, 20) DONE);
    try_done(TRY(rig, 0), OK);
    UNTIL(&rig, has(c, LAST_CHUNK));
    struct arena arena;
    assert_true(span_eq(only_record(&rig, &arena).finish, SPAN("refusal")));
    arena_release(&arena);
    rig_stop(&rig);
}

static void whole_failures_in_200_fail_over(void **state)
{
    (void)state;
    static const char *const bodies[] = { "", "{\"oops\"",
                                          "{\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\"}}" };
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        struct rig rig = { .port = 0 };
        rig_start(&rig, true);
        struct client *c = rig_client(&rig);
        ask(&rig, c, WHOLE_ASK);
        UNTIL(&rig, rig.lane.count == 1);
        try_head(TRY(rig, 0), 200, "application/json", NULL, NULL);
        if (bodies[i][0])
            try_body(TRY(rig, 0), bodies[i]);
        try_done(TRY(rig, 0), OK);
        UNTIL(&rig, rig.lane.count == 2);
        try_head(TRY(rig, 1), 200, "application/json", NULL, NULL);
        try_body(TRY(rig, 1), WHOLE_ANSWER);
        try_done(TRY(rig, 1), OK);
        UNTIL(&rig, has(c, WHOLE_ANSWER));
        rig_stop(&rig);
    }
}

/* A provider's header that could break our head is left out, the answer is not. */
static void odd_content_types_are_left_out(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "application/json\r\nx-evil: 1", "openai-version", "1\r\nx-evil: 1");
    try_body(TRY(rig, 0), WHOLE_ANSWER);
    try_done(TRY(rig, 0), OK);
    UNTIL(&rig, has(c, WHOLE_ANSWER));
    assert_true(has(c, "HTTP/1.1 200 "));
    assert_false(has(c, "evil"));
    struct buf out;
    assert_int_equal(records(&rig, &out), 1);
    assert_non_null(strstr(buf_cstr(&out), "\"why\":\"only\",\"because\":\"is the only candidate\""));
    buf_release(&out);
    rig_stop(&rig);
}

/* A limit used up before the first word is an answer: not tried elsewhere, not held against the model. */
static void an_empty_answer_by_limit_passes(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), ROLE CHUNK("{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}") DONE);
    UNTIL(&rig, has(c, LAST_CHUNK));
    assert_int_equal(rig.lane.count, 1);
    assert_true(has(c, "\"length\"") && has(c, "[DONE]"));
    assert_int_equal(counted(&rig, SERIES_OK), 1);
    rig_stop(&rig);
}

static void own_4xx_passes_once(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    try_head(TRY(rig, 0), 400, "application/json", NULL, NULL);
    try_body(TRY(rig, 0), "{\"error\" : {\"message\":\"bad temperature\"}}");
    try_done(TRY(rig, 0), OK);
    UNTIL(&rig, has(c, "{\"error\" : {\"message\":\"bad temperature\"}}"));
    assert_true(has(c, "HTTP/1.1 400 "));
    assert_int_equal(rig.lane.count, 1);
    assert_int_equal(counted(&rig, SERIES_CLIENT_ERRORS), 1);
    assert_int_equal(counted(&rig, SERIES_ATTEMPT_FAILURES), 0);
    rig_stop(&rig);
}

static void refused_credential_tries_the_next(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    const char *why;
    struct span host = SPAN("localhost");
    setenv("RIG_ONE", "secret-one", 1);
    setenv("RIG_TWO", "secret-two", 1);
    assert_int_equal(credentials_new(&rig.credentials), OK);
    assert_int_equal(credentials_add(rig.credentials, SPAN("cred-1"), SPAN("env:RIG_ONE"), &host, 1, &why), OK);
    assert_int_equal(credentials_add(rig.credentials, SPAN("cred-2"), SPAN("env:RIG_TWO"), &host, 1, &why), OK);
    (void)credentials_refresh(rig.credentials);
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    assert_string_equal(TRY(rig, 0)->authorization, "Bearer secret-one");
    try_head(TRY(rig, 0), 401, "application/json", NULL, NULL);
    try_done(TRY(rig, 0), OK);
    UNTIL(&rig, rig.lane.count == 2);
    assert_string_equal(TRY(rig, 1)->model, "a");
    assert_string_equal(TRY(rig, 1)->authorization, "Bearer secret-two");
    static const char wiped[64];
    assert_memory_equal(TRY(rig, 0)->secret.ptr, wiped, TRY(rig, 0)->secret.len);
    assert_true(span_eq(TRY(rig, 1)->secret, SPAN("Bearer secret-two")));
    try_head(TRY(rig, 1), 401, "application/json", NULL, NULL);
    try_done(TRY(rig, 1), OK);
    UNTIL(&rig, rig.lane.count == 3);
    assert_string_equal(TRY(rig, 2)->model, "b");
    try_head(TRY(rig, 2), 200, "application/json", NULL, NULL);
    try_body(TRY(rig, 2), WHOLE_ANSWER);
    try_done(TRY(rig, 2), OK);
    UNTIL(&rig, has(c, WHOLE_ANSWER));
    assert_int_equal(counted(&rig, SERIES_ATTEMPTS), 3);
    rig_stop(&rig);
    credentials_free(rig.credentials);
}

/* Another credential is another attempt, and the route says how many there are. */
static void credentials_count_as_attempts(void **state)
{
    (void)state;
    struct rig rig = { .attempts = 2 };
    const char *why;
    struct span host = SPAN("localhost");
    setenv("RIG_ONE", "secret-one", 1);
    assert_int_equal(credentials_new(&rig.credentials), OK);
    assert_int_equal(credentials_add(rig.credentials, SPAN("cred-1"), SPAN("env:RIG_ONE"), &host, 1, &why), OK);
    assert_int_equal(credentials_add(rig.credentials, SPAN("cred-2"), SPAN("env:RIG_ONE"), &host, 1, &why), OK);
    (void)credentials_refresh(rig.credentials);
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    for (unsigned i = 0; i < 2; i++) {
        UNTIL(&rig, rig.lane.count == i + 1);
        assert_string_equal(TRY(rig, i)->model, "a");
        try_head(TRY(rig, i), 401, "application/json", NULL, NULL);
        try_done(TRY(rig, i), OK);
    }
    UNTIL(&rig, has(c, "a/m (status 401), a/m (status 401)."));
    assert_int_equal(rig.lane.count, 2);
    assert_int_equal(counted(&rig, SERIES_ATTEMPTS), 2);
    rig_stop(&rig);
    /* A model asked for by name has no route: each credential is tried once. */
    rig = (struct rig){ .credentials = rig.credentials };
    rig_start(&rig, true);
    c = rig_client(&rig);
    ask(&rig, c, "{\"model\":\"a/m\",\"messages\":[{}]}");
    for (unsigned i = 0; i < 2; i++) {
        UNTIL(&rig, rig.lane.count == i + 1);
        try_head(TRY(rig, i), 401, "application/json", NULL, NULL);
        try_done(TRY(rig, i), OK);
    }
    UNTIL(&rig, has(c, "a/m (status 401), a/m (status 401)."));
    rig_stop(&rig);
    credentials_free(rig.credentials);
}

/* Each attempt is estimated at 2000 nano-dollars; the route allows two and a half. */
static void one_ceiling_for_the_whole_chain(void **state)
{
    (void)state;
    static const struct {
        unsigned status;
        enum upstream_phase phase;
        bool billed;
    } cases[] = {
        { 0, UPSTREAM_SENT, true },     /* sent whole, then cut */
        { 200, UPSTREAM_BODY, true },   /* an answer of no use */
        { 504, UPSTREAM_HEAD, true },   /* somebody on the way stopped waiting */
        { 0, UPSTREAM_SENDING, false }, /* cut before it was whole */
        { 500, UPSTREAM_HEAD, false },  /* no provider bills its own errors */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rig rig = { .max_cost_nano = 5000 };
        rig_start(&rig, true);
        struct client *c = rig_client(&rig);
        ask(&rig, c, WHOLE_ASK);
        for (unsigned n = 0; n < 2; n++) {
            UNTIL(&rig, rig.lane.count == n + 1);
            if (cases[i].status)
                try_head(TRY(rig, n), cases[i].status, "application/json", NULL, NULL);
            TRY(rig, n)->phase = cases[i].phase;
            try_done(TRY(rig, n), cases[i].status ? OK : ERR_CLOSED);
        }
        if (cases[i].billed) {
            UNTIL(&rig, has(c, "\"error\""));
            assert_int_equal(rig.lane.count, 2);
            assert_true(has(c, "may cost 0.000004 USD, the next is estimated at 0.000002 USD, and the route allows "
                               "0.000005 USD"));
        } else {
            UNTIL(&rig, rig.lane.count == 3);
            try_head(TRY(rig, 2), 200, "application/json", NULL, NULL);
            try_body(TRY(rig, 2), WHOLE_ANSWER);
            try_done(TRY(rig, 2), OK);
            UNTIL(&rig, has(c, WHOLE_ANSWER));
        }
        rig_stop(&rig);
    }
}

/* A credential that is there in name only, and a model that is being probed: its probe must be given back. */
static void unusable_credential_gives_its_probe_back(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    const char *why;
    struct span elsewhere = SPAN("api.example");
    setenv("RIG_ONE", "secret-one", 1);
    assert_int_equal(credentials_new(&rig.credentials), OK);
    assert_int_equal(credentials_add(rig.credentials, SPAN("cred-1"), SPAN("env:RIG_ONE"), &elsewhere, 1, &why), OK);
    (void)credentials_refresh(rig.credentials);
    rig_start(&rig, true);
    struct board_model *m = board_model(rig.board, board_label_find(rig.board, BOARD_LABEL_MODEL, SPAN("a/m")));
    uint64_t long_ago = uv_now(&rig.loop) > 40000 ? uv_now(&rig.loop) - 40000 : 1;
    for (unsigned i = 0; i < BREAKER_FAILURES_IN_ROW; i++)
        (void)breaker_record(&m->breaker, &m->breaker_extra, true, long_ago);
    assert_int_equal(breaker_state(atomic_load(&m->breaker), uv_now(&rig.loop)), BREAKER_HALF_OPEN);
    struct client *c = rig_client(&rig);
    ask(&rig, c, WHOLE_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    assert_string_equal(TRY(rig, 0)->model, "b"); /* the secret may not be sent to a's host */
    assert_int_equal(breaker_state(atomic_load(&m->breaker), uv_now(&rig.loop)), BREAKER_HALF_OPEN);
    rig_stop(&rig);
    credentials_free(rig.credentials);
}

static void a_request_pins_its_table(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 1);
    rig_publish(&rig);
    struct client *d = rig_client(&rig);
    ask(&rig, d, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 2);
    for (unsigned i = 0; i < 2; i++) {
        try_head(TRY(rig, i), 200, "text/event-stream", NULL, NULL);
        try_body(TRY(rig, i), CONTENT("x") FINISH DONE);
        try_done(TRY(rig, i), OK);
    }
    UNTIL(&rig, has(c, "[DONE]") && has(d, "[DONE]"));
    assert_true(has(c, "x-fairlead-policy: 1\r\n"));
    assert_true(has(d, "x-fairlead-policy: 2\r\n"));
    rig_stop(&rig);
}

static void revoked_key_is_refused_at_once(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    rig_directory(&rig, 1, true);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, has(c, "\"error\""));
    assert_true(has(c, "HTTP/1.1 401 "));
    assert_int_equal(rig.lane.count, 0);
    rig_stop(&rig);
}

static void no_policy_says_so(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    rig_start(&rig, false);
    rig_directory(&rig, 0, false);
    struct client *c = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    UNTIL(&rig, has(c, "\"error\""));
    assert_true(has(c, "HTTP/1.1 503 "));
    assert_true(has(c, "No policy has been pushed"));
    rig_stop(&rig);
}

static void drain_deadline_is_said(void **state)
{
    (void)state;
    struct rig rig = { .config.limits.drain_first_ms = 100 };
    rig_start(&rig, true);
    struct client *c = rig_client(&rig), *d = rig_client(&rig), *idle = rig_client(&rig);
    ask(&rig, c, STREAM_ASK);
    ask(&rig, d, STREAM_ASK);
    UNTIL(&rig, rig.lane.count == 2 && rig.listener.count == 3);
    try_head(TRY(rig, 0), 200, "text/event-stream", NULL, NULL);
    try_body(TRY(rig, 0), CONTENT("half"));
    rig.core.draining = true;
    listener_drain(&rig.listener);
    UNTIL(&rig, idle->eof);
    assert_false(c->eof);
    listener_drain_passed(&rig.listener);
    UNTIL(&rig, c->eof && d->eof);
    assert_true(has(c, "half"));
    assert_true(has(c, "data: {\"error\""));
    assert_false(has(c, "[DONE]"));
    assert_true(has(d, "HTTP/1.1 503 "));
    UNTIL(&rig, rig.emptied);
    rig_stop(&rig);
}

/* ---- feedback ---- */

/* The status of an answer to this body. */
static unsigned vote(struct rig *rig, struct client *c, const char *body)
{
    uint64_t status = 0;
    buf_clear(&c->in);
    ask_extra(rig, c, "/v1/feedback", body, "");
    UNTIL(rig, (has(c, "\r\n\r\n{") && span_ends(buf_span(&c->in), SPAN("}"))) || has(c, "true}\n"));
    assert_int_equal(span_to_u64(span_head(span_skip(buf_span(&c->in), 9), 3), &status), OK);
    return (unsigned)status;
}

static void a_team_votes_on_its_own_requests(void **state UNUSED)
{
    struct rig rig = { .port = 0 };
    struct arena arena;
    char id[REQUEST_ID_BYTES], body[256];
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    request_id_make(&rig.core.ids, 1764000000000, id);
    request_id_sign(&rig.core.id_key, SPAN("research"), id);
    (void)snprintf(body, sizeof(body), "{\"request_id\":\"%s\",\"score\":0.5,\"metric\":\"thumbs\",\"comment\":{}}",
                   id);
    assert_int_equal(vote(&rig, c, body), 202);
    struct record read = only_record(&rig, &arena);
    assert_int_equal(read.kind, RECORD_FEEDBACK);
    assert_true(span_eq(read.request_id, span_cstr(id)) && span_eq(read.team, SPAN("research")));
    assert_true(span_eq(read.metric, SPAN("thumbs")) && read.score > 0.49 && read.score < 0.51);
    arena_release(&arena);
    (void)snprintf(body, sizeof(body), "{\"request_id\":\"%s\",\"score\":false}", id);
    assert_int_equal(vote(&rig, c, body), 202);
    read = only_record(&rig, &arena);
    assert_true(span_eq(read.metric, SPAN("feedback")) && read.score < -0.99);
    arena_release(&arena);
    assert_int_equal(rig.lane.count, 0);
    rig_stop(&rig);
}

/* Also: the id that an answer carried is signed for its team. */
static void nobody_else_votes(void **state UNUSED)
{
    struct rig rig = { .port = 0 };
    char id[REQUEST_ID_BYTES], body[256];
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    static const char *const bad[] = {
        "",
        "[]",
        "{\"score\":1}",
        "{\"request_id\":7,\"score\":1}",
        "{\"request_id\":\"req_1\",\"score\":1}",
        "{\"request_id\":\"req_1\",\"request_id\":\"req_1\",\"score\":1}",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(vote(&rig, c, bad[i]), 400);
    request_id_make(&rig.core.ids, 1764000000000, id);
    request_id_sign(&rig.core.id_key, SPAN("sales"), id);
    (void)snprintf(body, sizeof(body), "{\"request_id\":\"%s\",\"score\":1}", id);
    assert_int_equal(vote(&rig, c, body), 403);
    assert_true(has(c, "not_your_request"));
    const size_t at = span_find(buf_span(&c->in), SPAN("x-request-id: "));
    const struct span mine = span_head(span_skip(buf_span(&c->in), at + 14), strlen(id));
    assert_int_equal(request_id_verify(&rig.core.id_key, SPAN("research"), mine), OK);
    request_id_sign(&rig.core.id_key, SPAN("research"), id);
    static const char *const wrong[] = { "\"score\":2",
                                         "\"score\":\"1\"",
                                         "\"score\":null",
                                         "\"score\":1,\"metric\":\"\"",
                                         "\"score\":1,\"metric\":\"a b\"",
                                         "\"score\":1,\"metric\":3",
                                         "\"metric\":\"a\"" };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        (void)snprintf(body, sizeof(body), "{\"request_id\":\"%s\",%s}", id, wrong[i]);
        assert_int_equal(vote(&rig, c, body), 400);
    }
    struct buf out;
    assert_int_equal(records(&rig, &out), 6 + 1 + 7);
    assert_null(strstr(buf_cstr(&out), "\"kind\""));
    buf_release(&out);
    rig_stop(&rig);
}

static void a_vote_is_short_and_is_kept_or_refused(void **state UNUSED)
{
    static char long_body[8192]; /* as a vote may have */
    struct rig rig = { .port = 0 };
    char id[REQUEST_ID_BYTES], body[256];
    rig_start(&rig, true);
    struct client *c = rig_client(&rig);
    request_id_make(&rig.core.ids, 1764000000000, id);
    request_id_sign(&rig.core.id_key, SPAN("research"), id);
    (void)snprintf(body, sizeof(body), "{\"request_id\":\"%s\",\"score\":1}", id);
    fault_arm(FAULT_RECORD, 0, 1);
    assert_int_equal(vote(&rig, c, body), 503);
    fault_disarm_all();
    assert_int_equal(vote(&rig, c, body), 202);
    memset(long_body, ' ', sizeof(long_body) - 1);
    char text[256];
    (void)snprintf(text, sizeof(text),
                   "POST /v1/feedback HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: "
                   "chunked\r\n\r\n2000\r\n",
                   rig.key);
    buf_clear(&c->in);
    say(c, text);
    say(c, long_body);
    say(c, " \r\n1\r\n \r\n0\r\n\r\n");
    UNTIL(&rig, has(c, "HTTP/1.1 413 "));
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_and_accounts),
        cmocka_unit_test(certificates_reach_the_board),
        cmocka_unit_test(usage_is_kept_when_asked_for),
        cmocka_unit_test(fails_over_before_content),
        cmocka_unit_test(silence_fails_over),
        cmocka_unit_test(all_fail_honestly),
        cmocka_unit_test(a_refusal_is_recorded_as_it_was_told),
        cmocka_unit_test(ejected_models_are_the_last_resort),
        cmocka_unit_test(a_tier_that_is_ejected_whole_still_serves),
        cmocka_unit_test(holding_sends_comments_and_still_fails_over),
        cmocka_unit_test(holding_then_failure_is_an_event),
        cmocka_unit_test(error_after_content_is_said),
        cmocka_unit_test(done_does_not_wait_for_upstream),
        cmocka_unit_test(tails_are_cut_at_the_end),
        cmocka_unit_test(answers_carry_our_headers),
        cmocka_unit_test(a_clean_end_without_done_gets_none),
        cmocka_unit_test(client_gone_cancels_upstream),
        cmocka_unit_test(slow_client_pauses_upstream),
        cmocka_unit_test(unfinished_events_are_accounted),
        cmocka_unit_test(deadline_covers_all_attempts),
        cmocka_unit_test(whole_answers_pass_byte_by_byte),
        cmocka_unit_test(a_refusal_in_words_is_a_refusal),
        cmocka_unit_test(a_team_votes_on_its_own_requests),
        cmocka_unit_test(nobody_else_votes),
        cmocka_unit_test(a_vote_is_short_and_is_kept_or_refused),
        cmocka_unit_test(whole_failures_in_200_fail_over),
        cmocka_unit_test(odd_content_types_are_left_out),
        cmocka_unit_test(an_empty_answer_by_limit_passes),
        cmocka_unit_test(own_4xx_passes_once),
        cmocka_unit_test(refused_credential_tries_the_next),
        cmocka_unit_test(credentials_count_as_attempts),
        cmocka_unit_test(one_ceiling_for_the_whole_chain),
        cmocka_unit_test(unusable_credential_gives_its_probe_back),
        cmocka_unit_test(a_request_pins_its_table),
        cmocka_unit_test(revoked_key_is_refused_at_once),
        cmocka_unit_test(no_policy_says_so),
        cmocka_unit_test(drain_deadline_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
