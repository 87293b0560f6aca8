#include "dataplane/route/ask.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct fixture {
    struct arena arena;
    struct ask ask;
    struct ask_error error;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    arena_init(&f->arena, 64u << 20);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    arena_release(&f->arena);
    free(f);
    return 0;
}

static enum err ask(struct fixture *f, enum endpoint endpoint, const char *text)
{
    arena_reset(&f->arena);
    f->error = (struct ask_error){ .param = NULL };
    size_t len = strlen(text);
    char *copy = malloc(len ? len : 1);
    memcpy(copy, text, len);
    assert_int_equal(arena_defer(&f->arena, free, copy), OK);
    return ask_read(&f->arena, endpoint, span_of(copy, len), NULL, &f->ask, &f->error);
}

static void refused(struct fixture *f, enum endpoint endpoint, const char *text, enum err expected, const char *param,
                    const char *code)
{
    assert_int_equal(ask(f, endpoint, text), expected);
    if (param)
        assert_string_equal(f->error.param, param);
    else
        assert_null(f->error.param);
    assert_string_equal(f->error.code, code);
    assert_true(strlen(f->error.message) > 10);
}

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static void a_plain_chat_is_read(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, ENDPOINT_CHAT, "{\"model\":\"ch\\u0061t\"," HI ",\"future_field\":{\"a\":[1]}}"), OK);
    assert_true(span_eq(f->ask.model, SPAN("chat")));
    assert_true(span_eq(json_raw(&f->ask.index, f->ask.model_token), SPAN("\"ch\\u0061t\"")));
    assert_false(f->ask.stream || f->ask.wants_usage || f->ask.has_tools || f->ask.has_images || f->ask.wants_json);
    assert_int_equal(f->ask.choices, 1);
    assert_int_equal(f->ask.max_output_tokens, 0);
    assert_int_equal(f->ask.input_bytes, 2);
    assert_int_equal(f->ask.stream_options_token, JSON_NONE);
}

static void everything_we_act_on_is_seen(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, ENDPOINT_CHAT,
                         "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"n\":3,"
                         "\"max_tokens\":5,\"max_completion_tokens\":7,\"user\":\"u1\","
                         "\"tools\":[{\"type\":\"function\"}],\"response_format\":{\"type\":\"json_schema\"},"
                         "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"four\"},"
                         "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:...\"}},"
                         "{\"type\":\"input_audio\",\"input_audio\":{}}]}]}"),
                     OK);
    assert_true(f->ask.stream && f->ask.wants_usage && f->ask.has_tools && f->ask.has_images && f->ask.has_audio &&
                f->ask.wants_json);
    assert_int_equal(f->ask.choices, 3);
    assert_int_equal(f->ask.max_output_tokens, 7);
    assert_true(span_eq(f->ask.user, SPAN("u1")));
    assert_int_equal(f->ask.input_bytes, 4 + strlen("[{\"type\":\"function\"}]"));
    assert_int_equal(ask(f, ENDPOINT_CHAT, "{\"model\":\"m\",\"tools\":[],\"max_tokens\":5," HI "}"), OK);
    assert_false(f->ask.has_tools);
    assert_int_equal(f->ask.max_output_tokens, 5);
    assert_int_equal(ask(f, ENDPOINT_CHAT, "{\"model\":\"m\",\"functions\":[{}]," HI "}"), OK);
    assert_true(f->ask.has_tools);
    assert_int_equal(ask(f, ENDPOINT_CHAT, "{\"model\":\"m\",\"response_format\":{\"type\":\"text\"}," HI "}"), OK);
    assert_false(f->ask.wants_json);
    assert_int_equal(ask(f, ENDPOINT_CHAT, "{\"model\":\"m\",\"modalities\":[\"text\",\"audio\"]," HI "}"), OK);
    assert_true(f->ask.has_audio);
}

static void null_counts_as_absent(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, ENDPOINT_CHAT,
                         "{\"model\":\"m\",\"stream\":null,\"stream_options\":null,\"n\":null,\"max_tokens\":null,"
                         "\"user\":null,\"tools\":null,\"response_format\":null," HI "}"),
                     OK);
    assert_true(f->ask.stream_options_token != JSON_NONE);
    assert_int_equal(ask(f, ENDPOINT_CHAT, "{\"model\":\"m\",\"stream_options\":{\"include_usage\":null}," HI "}"), OK);
    assert_false(f->ask.wants_usage);
    /* A message without content: a call of a tool. */
    assert_int_equal(ask(f, ENDPOINT_CHAT, "{\"model\":\"m\",\"messages\":[{\"content\":null},{}]}"), OK);
}

static void a_duplicate_of_any_field_we_read_is_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *member, *param;
    } cases[] = {
        { "\"model\":\"b\"", "model" },
        { "\"mod\\u0065l\":\"b\"", "model" },
        { "\"stream\":true,\"stream\":false", "stream" },
        { "\"stream_options\":{},\"stream_options\":{}", "stream_options" },
        { "\"stream_options\":{\"include_usage\":true,\"include_usage\":false}", "stream_options.include_usage" },
        { "\"messages\":[]", "messages" },
        { "\"n\":1,\"n\":2", "n" },
        { "\"user\":\"a\",\"user\":\"b\"", "user" },
        { "\"tools\":[],\"tools\":[]", "tools" },
        { "\"functions\":[],\"functions\":[]", "functions" },
        { "\"max_tokens\":1,\"max_tokens\":2", "max_tokens" },
        { "\"max_completion_tokens\":1,\"max_completion_tokens\":2", "max_completion_tokens" },
        { "\"response_format\":{},\"response_format\":{}", "response_format" },
        { "\"response_format\":{\"type\":\"text\",\"type\":\"json_object\"}", "response_format.type" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[512];
        (void)snprintf(text, sizeof text, "{\"model\":\"a\"," HI ",%s}", cases[i].member);
        refused(f, ENDPOINT_CHAT, text, ERR_DUPLICATE, cases[i].param, "duplicate_field");
    }
    refused(f, ENDPOINT_COMPLETIONS, "{\"model\":\"a\",\"prompt\":\"x\",\"prompt\":\"y\"}", ERR_DUPLICATE, "prompt",
            "duplicate_field");
    refused(f, ENDPOINT_EMBEDDINGS, "{\"model\":\"a\",\"input\":\"x\",\"input\":\"y\"}", ERR_DUPLICATE, "input",
            "duplicate_field");
    /* What we do not read passes. */
    assert_int_equal(ask(f, ENDPOINT_CHAT, "{\"model\":\"a\",\"top_p\":1,\"top_p\":2," HI "}"), OK);
}

static void wrong_types_are_named(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text, *param, *code;
    } cases[] = {
        { "{" HI "}", "model", "missing_required_parameter" },
        { "{\"model\":null," HI "}", "model", "missing_required_parameter" },
        { "{\"model\":3," HI "}", "model", "invalid_type" },
        { "{\"model\":\"\"," HI "}", "model", "invalid_value" },
        { "{\"model\":\"\\ud800\"," HI "}", "model", "invalid_value" },
        { "{\"model\":\"m\"}", "messages", "missing_required_parameter" },
        { "{\"model\":\"m\",\"messages\":\"hi\"}", "messages", "invalid_type" },
        { "{\"model\":\"m\",\"messages\":[]}", "messages", "invalid_value" },
        { "{\"model\":\"m\",\"messages\":[\"hi\"]}", "messages", "invalid_type" },
        { "{\"model\":\"m\",\"stream\":\"yes\"," HI "}", "stream", "invalid_type" },
        { "{\"model\":\"m\",\"stream_options\":true," HI "}", "stream_options", "invalid_type" },
        { "{\"model\":\"m\",\"stream_options\":{\"include_usage\":1}," HI "}", "stream_options.include_usage",
          "invalid_type" },
        { "{\"model\":\"m\",\"n\":1.5," HI "}", "n", "invalid_type" },
        { "{\"model\":\"m\",\"max_tokens\":-1," HI "}", "max_tokens", "invalid_type" },
        { "{\"model\":\"m\",\"max_tokens\":\"9\"," HI "}", "max_tokens", "invalid_type" },
        { "{\"model\":\"m\",\"tools\":{}," HI "}", "tools", "invalid_type" },
        { "{\"model\":\"m\",\"response_format\":\"json\"," HI "}", "response_format", "invalid_type" },
        { "{\"model\":\"m\",\"user\":7," HI "}", "user", "invalid_type" },
        { "[]", NULL, "invalid_json" },
        { "\"model\"", NULL, "invalid_json" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        refused(f, ENDPOINT_CHAT, cases[i].text, ERR_INVALID, cases[i].param, cases[i].code);
    refused(f, ENDPOINT_CHAT, "", ERR_SYNTAX, NULL, "invalid_json");
    refused(f, ENDPOINT_CHAT, "{\"model\":\"m\",}", ERR_SYNTAX, NULL, "invalid_json");
    assert_non_null(strstr(f->error.message, "column 14"));
    refused(f, ENDPOINT_COMPLETIONS, "{\"model\":\"m\"}", ERR_INVALID, "prompt", "missing_required_parameter");
    refused(f, ENDPOINT_COMPLETIONS, "{\"model\":\"m\",\"prompt\":{}}", ERR_INVALID, "prompt", "invalid_type");
    refused(f, ENDPOINT_EMBEDDINGS, "{\"model\":\"m\",\"input\":1}", ERR_INVALID, "input", "invalid_type");
}

static void the_other_endpoints_are_read(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, ENDPOINT_COMPLETIONS, "{\"model\":\"m\",\"prompt\":\"hello\",\"stream\":true}"), OK);
    assert_true(f->ask.stream);
    assert_int_equal(f->ask.input_bytes, 5);
    assert_int_equal(ask(f, ENDPOINT_EMBEDDINGS, "{\"model\":\"m\",\"input\":[\"ab\",\"cd\"]}"), OK);
    assert_int_equal(f->ask.input_bytes, 11);
    assert_int_equal(ask(f, ENDPOINT_COMPLETIONS, "{\"model\":\"m\",\"prompt\":\"x\",\"max_tokens\":1e30}"), OK);
    assert_int_equal(f->ask.max_output_tokens, 1000000000);
}

static void limits_are_told_apart(void **state)
{
    struct fixture *f = *state;
    struct json_limits limits = { .bytes_max = 50, .depth_max = 3, .tokens_max = 8 };
    struct span small = SPAN("{\"model\":\"m\",\"prompt\":\"0123456789012345678901234567890\"}");
    struct span deep = SPAN("{\"a\":[[[[]]]]}"), many = SPAN("{\"a\":[1,2,3,4,5,6,7,8,9]}");
    assert_int_equal(ask_read(&f->arena, ENDPOINT_CHAT, small, &limits, &f->ask, &f->error), ERR_TOO_LARGE);
    assert_string_equal(f->error.code, "request_too_large");
    assert_int_equal(ask_read(&f->arena, ENDPOINT_CHAT, deep, &limits, &f->ask, &f->error), ERR_TOO_DEEP);
    assert_int_equal(ask_read(&f->arena, ENDPOINT_CHAT, many, &limits, &f->ask, &f->error), ERR_TOO_MANY);
    struct arena none;
    arena_init(&none, 16);
    assert_int_equal(ask_read(&none, ENDPOINT_CHAT, SPAN("{\"model\":\"m\"," HI "}"), NULL, &f->ask, &f->error),
                     ERR_NOMEM);
    arena_release(&none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_plain_chat_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(everything_we_act_on_is_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(null_counts_as_absent, setup, teardown),
        cmocka_unit_test_setup_teardown(a_duplicate_of_any_field_we_read_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_types_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(the_other_endpoints_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(limits_are_told_apart, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
