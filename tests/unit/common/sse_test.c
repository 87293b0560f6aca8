#include "common/sse.h"
#include "common/fault.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* What was reported, as text: one line "type|data|has_data" an event, and all raw bytes. */
struct seen {
    struct buf events;
    struct buf raw;
    unsigned count;
    unsigned fail_at; /* the callback fails on this event, from 1 */
};

static enum err on_event(void *user, const struct sse_event *event)
{
    struct seen *seen = user;
    seen->count++;
    if (seen->count == seen->fail_at)
        return ERR_CANCELLED;
    assert_int_equal(buf_append(&seen->raw, event->raw), OK);
    if (event->has_data || event->type.len > 0)
        assert_int_equal(buf_printf(&seen->events, SPAN_FMT "|" SPAN_FMT "|%d\n", SPAN_ARG(event->type),
                                    SPAN_ARG(event->data), event->has_data),
                         OK);
    return OK;
}

static void seen_init(struct seen *seen)
{
    *seen = (struct seen){ 0 };
    buf_init(&seen->events, 1 << 20);
    buf_init(&seen->raw, 1 << 20);
}

static void seen_release(struct seen *seen)
{
    buf_release(&seen->events);
    buf_release(&seen->raw);
}

/* Feeds bytes cut at two places, from memory of exactly the size; the unfinished rest is appended to raw. */
static void run(struct span bytes, size_t first, size_t second, struct seen *seen)
{
    struct sse_framer framer;
    seen_init(seen);
    sse_init(&framer, 4096);
    size_t from[4] = { 0, first, second, bytes.len };
    for (int i = 0; i < 3; i++) {
        size_t n = from[i + 1] - from[i];
        char *copy = malloc(n ? n : 1);
        memcpy(copy, bytes.ptr + from[i], n);
        assert_int_equal(sse_feed(&framer, span_of(copy, n), on_event, seen), OK);
        free(copy);
    }
    assert_int_equal(buf_append(&seen->raw, buf_span(&framer.pending)), OK);
    sse_release(&framer);
}

static void assert_events(struct span bytes, const char *expected)
{
    struct seen seen;
    run(bytes, bytes.len, bytes.len, &seen);
    assert_string_equal(buf_cstr(&seen.events), expected);
    seen_release(&seen);
    for (size_t first = 0; first <= bytes.len; first++) {
        for (size_t second = first; second <= bytes.len; second++) {
            run(bytes, first, second, &seen);
            if (strcmp(buf_cstr(&seen.events), expected) != 0)
                fail_msg("cut at %zu and %zu: %s", first, second, buf_cstr(&seen.events));
            assert_true(span_eq(buf_span(&seen.raw), bytes));
            seen_release(&seen);
        }
    }
}

static void fields_are_read_as_the_standard_says(void **state)
{
    (void)state;
    assert_events(SPAN("data: a\n\n"), "|a|1\n");
    assert_events(SPAN("data:a\ndata: b\ndata\n\n"), "|a\nb\n|1\n");
    assert_events(SPAN("data\ndata:\n\n"), "|\n|1\n");
    assert_events(SPAN("data:  two spaces\n\n"), "| two spaces|1\n");
    assert_events(SPAN("event: x\ndata: {\"a\":1}\nevent: y\nid: 3\nretry: 5\n\n"), "y|{\"a\":1}|1\n");
    assert_events(SPAN(": comment\n\ndata: a:b: c\n\n:\n\n"), "|a:b: c|1\n");
    assert_events(SPAN("datax: a\n data: b\nData: c\n\n"), "");
    assert_events(SPAN("data: a\n\n\n\ndata: b\n\ndata: cut"), "|a|1\n|b|1\n");
    assert_events(SPAN("\xEF\xBB\xBF"
                       "data: a\n\n\xEF\xBB\xBF"
                       "data: b\n\n"),
                  "|a|1\n");
    assert_events(SPAN("\xEF\xBB\xBF\n\ndata: a\n\n"), "|a|1\n");
}

static void every_line_end_counts(void **state)
{
    (void)state;
    assert_events(SPAN("data: a\r\n\r\ndata: b\r\n\r\n"), "|a|1\n|b|1\n");
    assert_events(SPAN("data: a\r\rdata: b\r\r"), "|a|1\n|b|1\n");
    assert_events(SPAN("data: a\r\n\ndata: b\n\r\ndata: c\r\r\n\n\r"), "|a|1\n|b|1\n|c|1\n");
    assert_events(SPAN("\r\n\r\n\rdata: a\n\r"), "|a|1\n");
}

static void any_bytes_survive_any_cut(void **state)
{
    (void)state;
    static const char alphabet[] = "\n\r\n\r: d\xEF";
    uint64_t random = 88172645463325252u;
    for (int round = 0; round < 400; round++) {
        char bytes[24];
        for (size_t i = 0; i < sizeof(bytes); i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            bytes[i] = alphabet[random % (sizeof(alphabet) - 1)];
        }
        if (round % 2)
            memcpy(bytes + random % 16, "data:x\n", 7);
        struct seen whole;
        run(span_of(bytes, sizeof(bytes)), sizeof(bytes), sizeof(bytes), &whole);
        char *expected = strdup(buf_cstr(&whole.events));
        seen_release(&whole);
        assert_events(span_of(bytes, sizeof(bytes)), expected);
        free(expected);
    }
}

static void whole_events_are_lent_not_copied(void **state)
{
    (void)state;
    struct seen seen;
    struct sse_framer framer;
    seen_init(&seen);
    sse_init(&framer, 100);
    assert_int_equal(sse_feed(&framer, SPAN("data: a\n\ndata: b\n\n"), on_event, &seen), OK);
    assert_int_equal(seen.count, 2);
    assert_null(framer.pending.data);
    assert_null(framer.data.data);
    sse_release(&framer);
    seen_release(&seen);
}

static void the_rest_says_that_a_stream_was_cut(void **state)
{
    (void)state;
    struct seen seen;
    struct sse_framer framer;
    seen_init(&seen);
    sse_init(&framer, 100);
    assert_int_equal(sse_feed(&framer, SPAN("data: a\r\n\r"), on_event, &seen), OK);
    assert_int_equal(seen.count, 1); /* a CR may be all that ever comes */
    assert_int_equal(sse_unfinished(&framer).len, 0);
    assert_int_equal(sse_feed(&framer, SPAN("\n"), on_event, &seen), OK);
    assert_int_equal(sse_unfinished(&framer).len, 0);
    assert_int_equal(sse_feed(&framer, SPAN("data: b\n"), on_event, &seen), OK);
    assert_true(span_ends(sse_unfinished(&framer), SPAN("data: b\n")));
    sse_release(&framer);
    seen_release(&seen);
}

static void an_event_has_a_maximum(void **state)
{
    (void)state;
    struct seen seen;
    struct sse_framer framer;
    for (size_t cut = 0; cut <= 10; cut++) {
        seen_init(&seen);
        sse_init(&framer, 10);
        assert_int_equal(sse_feed(&framer, span_head(SPAN("data: ab\n\n"), cut), on_event, &seen), OK);
        assert_int_equal(sse_feed(&framer, span_skip(SPAN("data: ab\n\n"), cut), on_event, &seen), OK);
        assert_int_equal(seen.count, 1);
        enum err err = sse_feed(&framer, span_head(SPAN("data: abc\n\n"), cut), on_event, &seen);
        assert_int_equal(err, OK);
        assert_int_equal(sse_feed(&framer, span_skip(SPAN("data: abc\n\n"), cut), on_event, &seen), ERR_TOO_LARGE);
        assert_int_equal(seen.count, 1);
        sse_release(&framer);
        seen_release(&seen);
    }
}

static void errors_of_the_callback_and_of_memory_come_back(void **state)
{
    (void)state;
    struct seen seen;
    struct sse_framer framer;
    seen_init(&seen);
    seen.fail_at = 2;
    sse_init(&framer, 100);
    assert_int_equal(sse_feed(&framer, SPAN("data: a\n\ndata: b\n\ndata: c\n\n"), on_event, &seen), ERR_CANCELLED);
    assert_int_equal(seen.count, 2);
    fault_arm(FAULT_ALLOC, 0, 1);
    assert_int_equal(sse_feed(&framer, SPAN("data: a"), on_event, &seen), ERR_NOMEM);
    fault_disarm_all();
    sse_release(&framer);
    sse_init(&framer, 100);
    fault_arm(FAULT_ALLOC, 0, 1);
    assert_int_equal(sse_feed(&framer, SPAN("data: a\ndata: b\n\n"), on_event, &seen), ERR_NOMEM);
    fault_disarm_all();
    sse_release(&framer);
    sse_release(NULL);
    seen_release(&seen);
}

static size_t knows_a(void *user, struct span bytes)
{
    unsigned *asked = user;
    ++*asked;
    size_t n = 0;
    while (span_starts(span_skip(bytes, n), SPAN("data: a\n\n")))
        n += 9;
    return n;
}

static enum err count_other(void *user, const struct sse_event *event)
{
    unsigned *asked = user;
    *asked += 100;
    assert_false(span_eq(event->data, SPAN("a")));
    return OK;
}

static void what_the_owner_knows_is_passed_over(void **state UNUSED)
{
    struct sse_framer framer;
    unsigned asked = 0;
    sse_init(&framer, 100);
    framer.known = knows_a;
    assert_int_equal(sse_feed(&framer, SPAN("data: b\n\n"), count_other, &asked), OK);
    assert_int_equal(asked, 100); /* the first event may begin with a BOM: not asked */
    assert_int_equal(sse_feed(&framer, SPAN("data: a\n\ndata: a\n\ndata: c\n\nda"), count_other, &asked), OK);
    assert_int_equal(asked, 203); /* for the two, for c, for the piece */
    assert_int_equal(sse_feed(&framer, SPAN("ta: d\n\n"), count_other, &asked), OK);
    assert_int_equal(asked, 303); /* in the middle of an event nobody is asked */
    assert_int_equal(sse_feed(&framer, SPAN("data: e\r\n\r"), count_other, &asked), OK);
    assert_int_equal(asked, 404);
    assert_int_equal(sse_feed(&framer, SPAN("\ndata: f\r\n\r\n"), count_other, &asked), OK);
    assert_int_equal(asked, 504); /* nor before the other half of a line end */
    assert_int_equal(sse_unfinished(&framer).len, 0);
    sse_release(&framer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_read_as_the_standard_says),
        cmocka_unit_test(every_line_end_counts),
        cmocka_unit_test(any_bytes_survive_any_cut),
        cmocka_unit_test(whole_events_are_lent_not_copied),
        cmocka_unit_test(the_rest_says_that_a_stream_was_cut),
        cmocka_unit_test(an_event_has_a_maximum),
        cmocka_unit_test(errors_of_the_callback_and_of_memory_come_back),
        cmocka_unit_test(what_the_owner_knows_is_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
