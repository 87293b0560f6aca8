#include "dataplane/dialect/openai_chat.h"
#include "common/digest.h"
#include "dataplane/route/ask.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 16u << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

/* ---- where ---- */

static enum err place(const char *method, const char *target, struct openai_chat_place *ret)
{
    *ret = (struct openai_chat_place){ .endpoint = ENDPOINT_NONE };
    return openai_chat_place(&arena, span_cstr(method), span_cstr(target), ret);
}

static void paths_lead_to_endpoints(void **state)
{
    (void)state;
    struct openai_chat_place p;
    static const struct {
        const char *method, *target;
        enum endpoint endpoint;
    } good[] = {
        { "POST", "/v1/chat/completions", ENDPOINT_CHAT },
        { "POST", "/chat/completions", ENDPOINT_CHAT },
        { "POST", "/v1/chat/completions?api-version=1", ENDPOINT_CHAT },
        { "POST", "/v1/completions", ENDPOINT_COMPLETIONS },
        { "POST", "/embeddings", ENDPOINT_EMBEDDINGS },
        { "GET", "/v1/models", ENDPOINT_MODELS },
        { "HEAD", "/models", ENDPOINT_MODELS },
        { "POST", "/v1/feedback", ENDPOINT_FEEDBACK },
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(place(good[i].method, good[i].target, &p), OK);
        assert_int_equal(p.endpoint, good[i].endpoint);
        assert_int_equal(p.head, good[i].method[0] == 'H');
    }
    static const char *const unknown[] = {
        "/",           "/v1",           "/v1/",       "/v1/chat", "/v2/models", "/v1/chat/completions/",
        "/v1/models/", "/v1/v1/models", "/V1/models", ""
    };
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        assert_int_equal(place("GET", unknown[i], &p), ERR_NOT_FOUND);
}

static void known_paths_with_other_methods_say_what_they_take(void **state)
{
    (void)state;
    struct openai_chat_place p;
    assert_int_equal(place("GET", "/v1/chat/completions", &p), ERR_UNSUPPORTED);
    assert_string_equal(p.allowed, "POST");
    assert_int_equal(place("HEAD", "/v1/embeddings", &p), ERR_UNSUPPORTED);
    assert_int_equal(place("DELETE", "/v1/models/x", &p), ERR_UNSUPPORTED);
    assert_string_equal(p.allowed, "GET, HEAD");
    assert_int_equal(place("get", "/v1/models", &p), ERR_UNSUPPORTED);
}

static void model_names_are_unescaped(void **state)
{
    (void)state;
    struct openai_chat_place p;
    assert_int_equal(place("GET", "/v1/models/openai%2Fgpt-4o?x", &p), OK);
    assert_true(p.endpoint == ENDPOINT_MODEL && span_eq(p.model, SPAN("openai/gpt-4o")));
    assert_int_equal(place("GET", "/models/openai/gpt-4o", &p), OK);
    assert_true(span_eq(p.model, SPAN("openai/gpt-4o")));
    static const char *const bad[] = { "/models/%", "/models/%2", "/models/%zz", "/models/a%00b" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(place("GET", bad[i], &p), ERR_INVALID);
}

static void upstream_paths_follow_the_provider(void **state)
{
    (void)state;
    struct model model = { .sends = SPAN("gpt 4o/prod\xc3\xa9") };
    struct provider openai = { .path = SPAN("/v1") };
    struct provider azure = { .path_style = PATH_STYLE_AZURE, .query = SPAN("api-version=2024-10-21") };
    struct span path;
    assert_int_equal(openai_chat_path(&arena, &openai, &model, ENDPOINT_CHAT, &path), OK);
    assert_true(span_eq(path, SPAN("/v1/chat/completions")));
    assert_int_equal(openai_chat_path(&arena, &openai, &model, ENDPOINT_EMBEDDINGS, &path), OK);
    assert_true(span_eq(path, SPAN("/v1/embeddings")));
    assert_int_equal(openai_chat_path(&arena, &azure, &model, ENDPOINT_COMPLETIONS, &path), OK);
    assert_true(span_eq(path, SPAN("/openai/deployments/gpt%204o%2Fprod%C3%A9/completions?api-version=2024-10-21")));
}

/* ---- body ---- */

static void assert_body(const char *text, bool takes_usage, const char *expected, bool added)
{
    struct ask ask;
    struct ask_error error;
    assert_int_equal(ask_read(&arena, ENDPOINT_CHAT, span_cstr(text), NULL, &ask, &error), OK);
    struct provider provider = { .stream_usage = takes_usage };
    struct model model = { .sends = SPAN("up/\"stream") };
    struct openai_chat_body body;
    assert_int_equal(openai_chat_body(&arena, &ask, &provider, &model, &body), OK);
    struct buf out = BUF_INIT(1 << 16);
    for (unsigned i = 0; i < body.part_count; i++) {
        assert_true(body.parts[i].len > 0);
        assert_int_equal(buf_append(&out, body.parts[i]), OK);
    }
    if (!span_eq(buf_span(&out), span_cstr(expected)))
        fail_msg("got " SPAN_FMT, SPAN_ARG(buf_span(&out)));
    assert_int_equal(body.bytes, out.len);
    assert_int_equal(body.usage_added, added);
    struct json_index ix;
    assert_int_equal(json_index(&arena, buf_span(&out), &json_limits_default, &ix, NULL), OK);
    buf_release(&out);
}

#define M  "\"messages\":[{\"role\":\"user\",\"content\":\"\\u0041 1.0e2\"}]"
#define UP "\"up/\\\"stream\""

static void bodies_are_spliced_and_nothing_else(void **state)
{
    (void)state;
    assert_body("{ \"temperature\": 1.00, \"model\" : \"chat\" , " M " }", true,
                "{ \"temperature\": 1.00, \"model\" : " UP " , " M " }", false);
    assert_body("{" M ",\"stream\":true,\"model\":\"c\"}", true,
                "{" M ",\"stream\":true,\"model\":" UP ",\"stream_options\":{\"include_usage\":true}}", true);
    assert_body("{" M ",\"stream\":true,\"model\":\"c\"}", false, "{" M ",\"stream\":true,\"model\":" UP "}", false);
    assert_body("{\"stream_options\":{},\"model\":\"c\",\"stream\":true," M "}", true,
                "{\"stream_options\":{\"include_usage\":true},\"model\":" UP ",\"stream\":true," M "}", true);
    assert_body("{\"model\":\"c\",\"stream\":true,\"stream_options\":{ \"x\":1}," M "}", true,
                "{\"model\":" UP ",\"stream\":true,\"stream_options\":{\"include_usage\":true, \"x\":1}," M "}", true);
    assert_body("{\"model\":\"c\",\"stream\":true,\"stream_options\":{\"include_usage\":false}," M "}", true,
                "{\"model\":" UP ",\"stream\":true,\"stream_options\":{\"include_usage\":true}," M "}", true);
    assert_body("{\"stream_options\":null,\"stream\":true,\"model\":\"c\"," M "}", true,
                "{\"stream_options\":{\"include_usage\":true},\"stream\":true,\"model\":" UP "," M "}", true);
    /* The client asked itself: nothing is added, nothing dropped. */
    assert_body("{\"model\":\"c\",\"stream\":true,\"stream_options\":{\"include_usage\":true}," M "}", true,
                "{\"model\":" UP ",\"stream\":true,\"stream_options\":{\"include_usage\":true}," M "}", false);
    assert_body("{\"model\":\"c\",\"stream_options\":{\"include_usage\":false}," M "}", true,
                "{\"model\":" UP ",\"stream_options\":{\"include_usage\":false}," M "}", false);
}

/* ---- events ---- */

static struct event_facts event(const char *type, const char *data)
{
    struct sse_event e = { .type = span_cstr(type), .data = span_cstr(data), .has_data = data != NULL };
    struct event_facts facts;
    assert_int_equal(openai_chat_event(&arena, ENDPOINT_CHAT, &e, &facts), OK);
    return facts;
}

static void events_are_classified(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        enum event_class class;
    } cases[] = {
        { NULL, EVENT_OPENING },
        { "", EVENT_OPENING },
        { "[DONE]", EVENT_DONE },
        { " [DONE] ", EVENT_DONE },
        { "{\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}",
          EVENT_OPENING },
        { "{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null,\"refusal\":null}}]}", EVENT_OPENING },
        { "{\"choices\":[],\"prompt_filter_results\":[{}],\"usage\":null}", EVENT_OPENING }, /* Azure's first */
        { "{\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}", EVENT_CONTENT },
        { "{\"choices\":[{\"delta\":{\"content\":\" \"}}]}", EVENT_CONTENT },
        { "{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}", EVENT_CONTENT },
        { "{\"choices\":[{\"delta\":{\"reasoning\":\"hm\"}}]}", EVENT_CONTENT },
        { "{\"choices\":[{\"delta\":{\"refusal\":\"no\"}}]}", EVENT_CONTENT },
        { "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\","
          "\"arguments\":\"\"}}]}}]}",
          EVENT_CONTENT },
        { "{\"choices\":[{\"delta\":{\"content\":\"\",\"tool_calls\":[]}}]}", EVENT_OPENING },
        { "{\"choices\":[{\"text\":\"Hi\",\"finish_reason\":null}]}", EVENT_CONTENT },
        { "{\"choices\":[{\"text\":\"\"}]}", EVENT_OPENING },
        { "{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}", EVENT_FINISH },
        { "{\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}", EVENT_CONTENT },
        { "{\"choices\":[{\"delta\":{},\"finish_reason\":\"content_filter\"}]}", EVENT_CONTENT },
        { "{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1}}", EVENT_FINISH },
        { "{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}", EVENT_USAGE },
        { "{\"error\":{\"message\":\"overloaded\",\"type\":\"overloaded_error\"}}", EVENT_ERROR },
        { "{\"error\":\"boom\"}", EVENT_ERROR },
        { "{\"object\":\"error\",\"message\":\"x\",\"code\":500}", EVENT_ERROR },
        { "{\"error\":null,\"choices\":[{\"delta\":{\"content\":\"a\"}}]}", EVENT_CONTENT },
        { "{\"hello\":1}", EVENT_GARBAGE },
        { "<html>", EVENT_GARBAGE },
        { "[1]", EVENT_GARBAGE },
        { "{\"choices\":[{\"delta\":{\"content\":\"a\"}}]", EVENT_GARBAGE },
        { "{\"choices\":3}", EVENT_GARBAGE },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct event_facts facts = event("", cases[i].data);
        if (facts.class != cases[i].class)
            fail_msg("%s: class %d, not %d", cases[i].data, (int)facts.class, (int)cases[i].class);
    }
    assert_int_equal(event("ping", "{\"type\":\"ping\"}").class, EVENT_OPENING);
    assert_int_equal(event("error", "{\"message\":\"m\",\"type\":\"server_error\"}").class, EVENT_ERROR);
}

static void events_carry_their_facts(void **state)
{
    (void)state;
    struct event_facts facts = event("", "{\"choices\":[{\"delta\":{\"content\":\"four\"},\"finish_reason\":\"stop\"}],"
                                         "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}");
    assert_true(facts.class == EVENT_CONTENT && facts.finished && facts.usage.known);
    assert_int_equal(facts.content_bytes, 4);
    assert_int_equal(facts.usage.input, 9);
    facts = event("", "{\"error\":{\"message\":\"Try \\\"later\\\"\",\"type\":\"overloaded_error\",\"code\":null}}");
    assert_true(facts.error_retryable);
    assert_true(span_eq(facts.error_type, SPAN("overloaded_error")));
    assert_true(span_eq(facts.error_message, SPAN("Try \"later\"")));
    assert_false(event("", "{\"error\":{\"message\":\"m\",\"type\":\"invalid_request_error\"}}").error_retryable);
    assert_false(event("", "{\"error\":{\"code\":\"context_length_exceeded\"}}").error_retryable);
    assert_false(event("", "{\"error\":{\"message\":\"m\",\"code\":400}}").error_retryable);
    assert_true(event("", "{\"error\":{\"message\":\"m\",\"code\":429}}").error_retryable);
    assert_true(event("", "{\"error\":{\"message\":\"m\",\"code\":\"502\"}}").error_retryable);
    assert_true(event("", "{\"error\":{\"message\":\"\\ud800\"}}").error_retryable);
}

static struct event_facts answer(enum endpoint endpoint, const char *body)
{
    struct event_facts facts;
    assert_int_equal(openai_chat_answer(&arena, endpoint, span_cstr(body), &facts), OK);
    return facts;
}

/* Two million numbers, as 1,024 texts of 2,048 dimensions have: no memory but for what is looked at. */
static void embeddings_cost_no_index(void **state)
{
    (void)state;
    struct event_facts facts;
    struct arena small;
    struct buf body = BUF_INIT(64u << 20);
    arena_init(&small, 1u << 20);
    assert_int_equal(buf_append_cstr(&body, "{\"data\":["), OK);
    for (unsigned i = 0; i < 1024; i++) {
        assert_int_equal(buf_append_cstr(&body, i ? ",{\"embedding\":[0" : "{\"embedding\":[0"), OK);
        for (unsigned k = 1; k < 2048; k++)
            assert_int_equal(buf_append_cstr(&body, ",-0.0125"), OK);
        assert_int_equal(buf_append_cstr(&body, "]}"), OK);
    }
    assert_int_equal(buf_append_cstr(&body, "],\"usage\":{\"prompt_tokens\":7,\"total_tokens\":7}}"), OK);
    assert_int_equal(openai_chat_answer(&small, ENDPOINT_EMBEDDINGS, buf_span(&body), &facts), OK);
    assert_true(facts.class == EVENT_CONTENT && facts.usage.known && facts.usage.input == 7);
    buf_release(&body);
    arena_release(&small);
}

static void whole_bodies_are_judged(void **state)
{
    (void)state;
    struct event_facts facts =
        answer(ENDPOINT_CHAT, "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"Hello\"},"
                              "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}");
    assert_true(facts.class == EVENT_CONTENT && facts.finished && facts.usage.output == 2);
    assert_int_equal(facts.content_bytes, 5);
    assert_int_equal(
        answer(ENDPOINT_CHAT, "{\"choices\":[{\"message\":{\"content\":null,\"tool_calls\":[{}]}}]}").class,
        EVENT_CONTENT);
    assert_int_equal(answer(ENDPOINT_COMPLETIONS, "{\"choices\":[{\"text\":\"\"}]}").class, EVENT_CONTENT);
    assert_int_equal(answer(ENDPOINT_EMBEDDINGS, "{\"data\":[{\"embedding\":[0.1]}]}").class, EVENT_CONTENT);
    assert_int_equal(answer(ENDPOINT_EMBEDDINGS, "{\"data\":[]}").class, EVENT_GARBAGE);
    assert_int_equal(answer(ENDPOINT_CHAT, "{\"data\":[{\"embedding\":[0.1]}]}").class, EVENT_GARBAGE);
    assert_int_equal(answer(ENDPOINT_CHAT, "{\"choices\":[]}").class, EVENT_GARBAGE);
    assert_int_equal(answer(ENDPOINT_CHAT, "{\"choices\":[{}]}").class, EVENT_GARBAGE);
    assert_int_equal(answer(ENDPOINT_CHAT, "").class, EVENT_GARBAGE);
    assert_int_equal(answer(ENDPOINT_CHAT, "<html>busy</html>").class, EVENT_GARBAGE);
    assert_int_equal(answer(ENDPOINT_CHAT, "{\"error\":{\"message\":\"m\",\"type\":\"server_error\"}}").class,
                     EVENT_ERROR);
}

/* Bytes from outside, damaged at random: any class is fine, any harm is not; and a body that is still taken must still
 * be JSON after splicing, with our name in it. */
static void damage_does_no_harm(void **state)
{
    (void)state;
    static const char *const seeds[] = {
        "{\"model\":\"c\",\"stream\":true,\"stream_options\":{\"include_usage\":false}," M "}",
        "{\"model\":\"c\",\"stream\":true,\"tools\":[{}],\"stream_options\":null," M "}",
        "{\"choices\":[{\"delta\":{\"content\":\"Hi\",\"tool_calls\":[{}]},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens_details\":{\"reasoning_tokens\":1}}}",
        "{\"error\":{\"message\":\"m\",\"type\":\"t\",\"code\":429},\"data\":[{}]}",
    };
    static const char letters[] = "{}[]\",:\\u0 1-9eaZ\n\x80\xff";
    struct prng prng;
    prng_seed(&prng, 11);
    unsigned spliced = 0;
    for (unsigned round = 0; round < 40000; round++) {
        arena_reset(&arena);
        struct span seed = span_cstr(seeds[round % ARRAY_LEN(seeds)]);
        char *text = malloc(seed.len);
        memcpy(text, seed.ptr, seed.len);
        for (uint64_t n = prng_u64(&prng) % 4; n > 0; n--)
            text[prng_u64(&prng) % seed.len] = letters[prng_u64(&prng) % (sizeof letters - 1)];
        struct span damaged = span_of(text, seed.len - (prng_u64(&prng) % 8 == 0 ? prng_u64(&prng) % seed.len : 0));
        struct sse_event e = { .data = damaged, .has_data = true };
        struct event_facts facts;
        assert_int_equal(openai_chat_event(&arena, ENDPOINT_CHAT, &e, &facts), OK);
        assert_int_equal(openai_chat_answer(&arena, ENDPOINT_EMBEDDINGS, damaged, &facts), OK);
        struct ask ask;
        struct ask_error error;
        if (ask_read(&arena, ENDPOINT_CHAT, damaged, NULL, &ask, &error) == OK) {
            struct provider provider = { .stream_usage = true };
            struct model model = { .sends = SPAN("upstream") };
            struct openai_chat_body body;
            struct buf out = BUF_INIT(1 << 16);
            struct json_index ix;
            assert_int_equal(openai_chat_body(&arena, &ask, &provider, &model, &body), OK);
            for (unsigned i = 0; i < body.part_count; i++)
                assert_int_equal(buf_append(&out, body.parts[i]), OK);
            assert_int_equal(json_index(&arena, buf_span(&out), &json_limits_default, &ix, NULL), OK);
            assert_true(json_string_eq(&ix, json_get(&ix, 0, SPAN("model")), SPAN("upstream")));
            uint32_t usage = json_get(&ix, json_get(&ix, 0, SPAN("stream_options")), SPAN("include_usage"));
            assert_true(!ask.stream || json_kind(&ix, usage) == JSON_TRUE);
            buf_release(&out);
            spliced++;
        }
        free(text);
    }
    assert_true(spliced > 2000);
}

/* ---- what we write ---- */

static void errors_have_openais_shape(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(4096);
    struct openai_chat_error error = { .type = "invalid_request_error",
                                       .param = "model",
                                       .message = SPAN("no \"x\"\nhere") };
    assert_int_equal(openai_chat_write_error(&out, &error), OK);
    assert_true(span_eq(buf_span(&out), SPAN("{\"error\":{\"message\":\"no \\\"x\\\"\\nhere\",\"type\":"
                                             "\"invalid_request_error\",\"param\":\"model\",\"code\":null}}")));
    buf_clear(&out);
    assert_int_equal(openai_chat_write_error_event(&out, &error), OK);
    assert_true(span_starts(buf_span(&out), SPAN("data: {\"error\"")));
    assert_true(span_ends(buf_span(&out), SPAN("}}\n\n")));
    assert_int_equal(span_find_byte(buf_span(&out), '\n'), out.len - 2);
    buf_release(&out);
    struct buf small = BUF_INIT(60);
    assert_int_equal(buf_append(&small, SPAN("x")), OK);
    assert_int_equal(openai_chat_write_error_event(&small, &error), ERR_FULL);
    assert_true(span_eq(buf_span(&small), SPAN("x")));
    buf_release(&small);
}

static void lists_have_openais_shape(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(4096);
    struct openai_chat_listed items[] = { { SPAN("chat"), "fairlead" }, { SPAN("openai/gpt-4o"), "openai" } };
    assert_int_equal(openai_chat_write_models(&out, items, 2, 7, false), OK);
    assert_true(span_eq(buf_span(&out),
                        SPAN("{\"object\":\"list\",\"data\":[{\"id\":\"chat\",\"object\":\"model\",\"created\":7,"
                             "\"owned_by\":\"fairlead\"},{\"id\":\"openai/gpt-4o\",\"object\":\"model\",\"created\":7,"
                             "\"owned_by\":\"openai\"}]}")));
    buf_clear(&out);
    assert_int_equal(openai_chat_write_models(&out, NULL, 0, 7, true), OK);
    assert_true(span_eq(buf_span(&out), SPAN("{\"object\":\"list\",\"data\":[],\"has_more\":true}")));
    buf_clear(&out);
    assert_int_equal(openai_chat_write_model(&out, &items[0], 7), OK);
    assert_true(span_starts(buf_span(&out), SPAN("{\"id\":\"chat\",")));
    buf_release(&out);
}

static enum finish finish_of(const char *data)
{
    struct event_facts facts;
    const struct sse_event event = { .has_data = true, .data = span_cstr(data), .raw = span_cstr(data) };
    assert_int_equal(openai_chat_event(&arena, ENDPOINT_CHAT, &event, &facts), OK);
    const enum finish streamed = facts.finish;
    assert_int_equal(openai_chat_answer(&arena, ENDPOINT_CHAT, span_cstr(data), &facts), OK);
    assert_int_equal(facts.finish, streamed);
    return streamed;
}

static void why_an_answer_ended(void **state UNUSED)
{
#define ENDED(reason) "{\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":" reason "}]}"
    assert_int_equal(finish_of(ENDED("null")), FINISH_NONE);
    assert_int_equal(finish_of(ENDED("\"stop\"")), FINISH_STOP);
    assert_int_equal(finish_of(ENDED("\"length\"")), FINISH_LENGTH);
    assert_int_equal(finish_of(ENDED("\"tool_calls\"")), FINISH_TOOL_CALLS);
    assert_int_equal(finish_of(ENDED("\"function_call\"")), FINISH_TOOL_CALLS);
    assert_int_equal(finish_of(ENDED("\"content_filter\"")), FINISH_CONTENT_FILTER);
    assert_int_equal(finish_of(ENDED("\"refusal\"")), FINISH_REFUSAL);
    assert_int_equal(finish_of(ENDED("\"eos\"")), FINISH_OTHER);
    /* A refusal has a field of its own; its reason is an ordinary one. */
    assert_int_equal(finish_of("{\"choices\":[{\"message\":{\"refusal\":\"No.\"},\"finish_reason\":\"stop\"}]}"),
                     FINISH_REFUSAL);
    assert_int_equal(finish_of("{\"choices\":[{\"delta\":{\"refusal\":\"N\"},\"finish_reason\":null}]}"),
                     FINISH_REFUSAL);
    assert_int_equal(finish_of("{\"choices\":[{\"delta\":{\"refusal\":\"\",\"content\":\"a\"}}]}"), FINISH_NONE);
    assert_int_equal(finish_of("{\"choices\":[{\"delta\":{\"refusal\":null,\"content\":\"a\"}}]}"), FINISH_NONE);
#undef ENDED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(paths_lead_to_endpoints, setup, teardown),
        cmocka_unit_test_setup_teardown(known_paths_with_other_methods_say_what_they_take, setup, teardown),
        cmocka_unit_test_setup_teardown(model_names_are_unescaped, setup, teardown),
        cmocka_unit_test_setup_teardown(upstream_paths_follow_the_provider, setup, teardown),
        cmocka_unit_test_setup_teardown(bodies_are_spliced_and_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(events_are_classified, setup, teardown),
        cmocka_unit_test_setup_teardown(events_carry_their_facts, setup, teardown),
        cmocka_unit_test_setup_teardown(whole_bodies_are_judged, setup, teardown),
        cmocka_unit_test_setup_teardown(embeddings_cost_no_index, setup, teardown),
        cmocka_unit_test_setup_teardown(damage_does_no_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(errors_have_openais_shape, setup, teardown),
        cmocka_unit_test_setup_teardown(lists_have_openais_shape, setup, teardown),
        cmocka_unit_test_setup_teardown(why_an_answer_ended, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
