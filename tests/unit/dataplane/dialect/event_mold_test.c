#include "dataplane/dialect/event_mold.h"
#include "common/arena.h"
#include "common/fault.h"
#include "dataplane/dialect/openai_chat.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define EVENT(text)                                                                                                    \
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"},\"finish_reason\":null}]}\n\n"
#define PADDED(text, padding)                                                                                          \
    "data: {\"choices\":[{\"delta\":{\"content\":\"" text "\"}}],\"obfuscation\":\"" padding "\"}\n\n"

struct judged {
    const struct sse_event *event;
    struct event_facts facts;
    struct arena arena;
};

static enum err on_event(void *user, const struct sse_event *event)
{
    struct judged *j = user;
    assert_int_equal(openai_chat_event(&j->arena, ENDPOINT_CHAT, event, &j->facts), OK);
    return OK;
}

static struct event_facts judge(struct span raw)
{
    struct judged j = { .event = NULL };
    struct sse_framer framer;
    arena_init(&j.arena, 1 << 20);
    sse_init(&framer, 1 << 16);
    assert_int_equal(sse_feed(&framer, raw, on_event, &j), OK);
    sse_release(&framer);
    arena_release(&j.arena);
    return j.facts;
}

static struct event_mold cast(struct span raw)
{
    struct event_mold mold = { .hole_count = 0 };
    const struct event_facts facts = judge(raw);
    event_mold_cast(&mold, raw, facts.content, facts.padding);
    return mold;
}

/* Both ways to the same facts, or no match. */
static void check(const struct event_mold *mold, struct span bytes, bool fits)
{
    size_t content_bytes = 0;
    const size_t n = event_mold_match(mold, bytes, &content_bytes);
    assert_int_equal(n, fits ? bytes.len : 0);
    if (!fits)
        return;
    const struct event_facts facts = judge(bytes);
    assert_int_equal(facts.class, EVENT_CONTENT);
    assert_int_equal(facts.content_bytes, content_bytes);
    assert_false(facts.finished);
    assert_false(facts.usage.known);
}

static void another_text_fits(void **state UNUSED)
{
    struct event_mold mold = cast(SPAN(EVENT("Hello")));
    check(&mold, SPAN(EVENT("x")), true);
    check(&mold, SPAN(EVENT("a longer piece of text, over sixteen bytes")), true);
    check(&mold, SPAN(EVENT("\\n\\u00e9 \\\"quoted\\\" h\xc3\xa9")), true);
    event_mold_release(&mold);
}

static void anything_else_does_not(void **state UNUSED)
{
    struct event_mold mold = cast(SPAN(EVENT("Hello")));
    const struct span others[] = {
        SPAN(""),
        SPAN("data: [DONE]\n\n"),
        SPAN(EVENT("")), /* no content: another class */
        SPAN(EVENT("a\nb")),
        SPAN(EVENT("\\x")),
        SPAN(EVENT("\xff")),
        SPAN(EVENT("a\",\"tool_calls\":[{}],\"refusal\":\"b")),
        SPAN("data: "
             "{\"id\":\"d\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n"),
        SPAN("data: "
             "{\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n"),
        SPAN("data: "
             "{\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\ndata: "
             "x\n\n"),
    };
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        check(&mold, others[i], false);
    const struct span whole = SPAN(EVENT("cut"));
    for (size_t n = 0; n < whole.len; n++)
        check(&mold, span_head(whole, n), false);
    event_mold_release(&mold);
}

static void padding_may_differ_too(void **state UNUSED)
{
    struct event_mold mold = cast(SPAN(PADDED("Hello", "xyz")));
    check(&mold, SPAN(PADDED("a", "")), true);
    check(&mold, SPAN(PADDED("ab", "wvut")), true);
    check(&mold, SPAN(PADDED("", "wvut")), false);
    check(&mold, SPAN("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"obfuscation\":1}\n\n"), false);
    event_mold_release(&mold);
    mold = cast(SPAN("data: {\"obfuscation\":\"ab\",\"choices\":[{\"text\":\"Hello\"}]}\n\n"));
    check(&mold, SPAN("data: {\"obfuscation\":\"\",\"choices\":[{\"text\":\"Hi\"}]}\n\n"), true);
    event_mold_release(&mold);
}

static void some_events_are_no_mold(void **state UNUSED)
{
    const struct span events[] = {
        SPAN(EVENT("")),
        SPAN("data: {\"choices\":[{\"delta\":{\"content\":\"a\",\"reasoning\":\"b\"}}]}\n\n"),
        SPAN("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}},{\"delta\":{\"content\":\"b\"}}]}\n\n"),
        SPAN("data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n"),
        SPAN("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":1}}\n\n"),
        SPAN("data: {\"choices\":\ndata: [{\"delta\":{\"content\":\"a\"}}]}\n\n"), /* joined elsewhere */
        SPAN("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\r"),
    };
    for (size_t i = 0; i < ARRAY_LEN(events); i++) {
        struct event_mold mold = cast(events[i]);
        check(&mold, events[i], false);
        event_mold_release(&mold);
    }
    struct event_mold mold = { .hole_count = 0 };
    const struct span raw = SPAN(EVENT("Hello"));
    const struct span content = span_of(raw.ptr + span_find(raw, SPAN("Hello")), 5);
    fault_arm(FAULT_ALLOC, 0, 1);
    event_mold_cast(&mold, raw, content, span_of(NULL, 0));
    fault_disarm_all();
    check(&mold, raw, false);
    event_mold_release(&mold);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_text_fits),
        cmocka_unit_test(anything_else_does_not),
        cmocka_unit_test(padding_may_differ_too),
        cmocka_unit_test(some_events_are_no_mold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
