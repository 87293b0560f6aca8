#include "tests/bench/replay/play.h"
#include "tests/bench/replay/figures.h"
#include "common/arena.h"
#include "common/json.h"
#include "common/sse.h"
#include <unistd.h>
#include <uv.h>

#define RESPONSE_BYTES_MAX (32u * 1024 * 1024) /* of a response that is no stream; what is longer stays unread */
#define USAGE_BYTES_MAX    (64u * 1024 * 1024) /* for the index of such a response */
#define BYTES_PER_TOKEN    4

/* ---- what a request says ---- */

static enum err put_prompt(const struct trace_row *row, size_t pad_bytes, struct buf *out)
{
    const struct span phrase = SPAN("and what does the tide say to the harbour, once more? ");
    size_t bytes = size_min((size_t)row->input_tokens * BYTES_PER_TOKEN, pad_bytes);
    enum err err = OK;
    for (size_t n = 0; err == OK && n < bytes; n += phrase.len)
        err = buf_append(out, span_head(phrase, bytes - n));
    return err ? err
               : buf_printf(out, "[[fake prompt=%u tokens=%u]]", (unsigned)row->input_tokens,
                            (unsigned)row->output_tokens);
}

/* The phrase and the directive need no escaping. */
static enum err put_body(const struct play_plan *plan, const struct trace_row *row, struct buf *out)
{
    struct json_writer w;
    struct buf prompt = BUF_INIT(PLAY_PAD_BYTES_MAX + 256);
    enum err err = put_prompt(row, plan->pad_bytes, &prompt);
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_cstr(&w, "model", plan->model);
    json_key(&w, SPAN("messages"));
    json_array_open(&w);
    json_object_open(&w);
    json_member_cstr(&w, "role", "user");
    json_member_string(&w, "content", buf_span(&prompt));
    json_object_close(&w);
    json_array_close(&w);
    json_member_u64(&w, "max_tokens", row->output_tokens);
    if (plan->stream) {
        json_member_bool(&w, "stream", true);
        json_key(&w, SPAN("stream_options"));
        json_object_open(&w);
        json_member_bool(&w, "include_usage", true);
        json_object_close(&w);
    }
    json_object_close(&w);
    buf_release(&prompt);
    return err ? err : json_writer_end(&w);
}

static struct span make_request(void *user, uint64_t number)
{
    struct play *play = user;
    const struct play_plan *plan = play->plan;
    struct buf body = BUF_INIT(2 * PLAY_PAD_BYTES_MAX);
    enum err err = put_body(plan, &plan->trace->rows[number], &body);
    buf_clear(&play->request);
    if (err == OK)
        err = buf_printf(&play->request, "POST " SPAN_FMT " HTTP/1.1\r\nhost: " SPAN_FMT "\r\n",
                         SPAN_ARG(plan->url.path), SPAN_ARG(plan->url.authority));
    if (err == OK && plan->key)
        err = buf_printf(&play->request, "authorization: Bearer %s\r\n", plan->key);
    if (err == OK)
        err = buf_printf(&play->request, "content-type: application/json\r\ncontent-length: %zu\r\n\r\n", body.len);
    if (err == OK)
        err = buf_append(&play->request, buf_span(&body));
    REQUIRE(err == OK); /* lengths are bounded; a benchmark without memory has nothing to say */
    buf_release(&body);
    return buf_span(&play->request);
}

/* ---- what a response says ---- */

static void name_model(struct play *play, struct play_result *result, struct span name)
{
    unsigned i;
    if (span_empty(name))
        return;
    name = span_head(name, LOAD_VALUE_BYTES - 1);
    for (i = 0; i < play->model_count && !span_eq(name, span_cstr(play->models[i])); i++)
        ;
    if (i == play->model_count && play->model_count == PLAY_MODELS_MAX - 1)
        name = SPAN("(other)");
    if (i == play->model_count && play->model_count == PLAY_MODELS_MAX)
        i = PLAY_MODELS_MAX - 1;
    if (i == play->model_count) {
        memcpy(play->models[i], name.ptr, name.len);
        play->models[i][name.len] = '\0';
        play->model_count++;
    }
    result->model = i;
    result->named = true;
}

static void set_cost(struct play_result *result, struct span usd)
{
    int64_t nano;
    if (json_decimal_text(usd, 9, &nano) == OK && nano >= 0)
        result->cost_nano = (uint64_t)nano;
}

static void on_header(void *user, uint64_t number, struct span name, struct span value)
{
    struct play *play = user;
    struct play_result *result = &play->results[number];
    if (span_eq_nocase(name, SPAN("x-fairlead-model")))
        name_model(play, result, value);
    else if (span_eq_nocase(name, SPAN("x-fairlead-cost-usd")))
        set_cost(result, value);
}

/* ": fairlead model=openai/gpt-4o attempts=1 input_tokens=12 output_tokens=3 estimated=0 cost_usd=0.0001" */
static void read_tail(struct play *play, struct play_result *result, struct span comment)
{
    struct span line;
    if (!span_starts(comment, SPAN(": fairlead ")) || !span_split(&comment, '\n', &line))
        return;
    struct span rest = span_skip(line, strlen(": fairlead "));
    for (struct span value; span_split(&rest, ' ', &value);) {
        struct span key;
        uint64_t tokens;
        if (!span_split(&value, '=', &key) || !value.ptr)
            continue;
        if (span_eq(key, SPAN("model")))
            name_model(play, result, value);
        else if (span_eq(key, SPAN("cost_usd")))
            set_cost(result, value);
        else if (span_eq(key, SPAN("input_tokens")) && span_to_u64(value, &tokens) == OK)
            result->input_tokens = tokens, result->usage_seen = true;
        else if (span_eq(key, SPAN("output_tokens")) && span_to_u64(value, &tokens) == OK)
            result->output_tokens = tokens, result->usage_seen = true;
    }
}

/* The object's usage, and its model where no header named one. */
static void read_object(struct play *play, struct play_result *result, struct span text)
{
    struct arena arena;
    struct json_index ix;
    arena_init(&arena, USAGE_BYTES_MAX);
    if (json_index(&arena, text, &json_limits_default, &ix, NULL) == OK && json_kind(&ix, 0) == JSON_OBJECT) {
        uint32_t usage = json_get(&ix, 0, SPAN("usage"));
        uint32_t in = usage == JSON_NONE ? JSON_NONE : json_get(&ix, usage, SPAN("prompt_tokens"));
        uint32_t out = usage == JSON_NONE ? JSON_NONE : json_get(&ix, usage, SPAN("completion_tokens"));
        uint32_t model = json_get(&ix, 0, SPAN("model"));
        uint64_t input, output;
        struct span name;
        if (in != JSON_NONE && out != JSON_NONE && json_u64(&ix, in, &input) == OK &&
            json_u64(&ix, out, &output) == OK) {
            result->input_tokens = input;
            result->output_tokens = output;
            result->usage_seen = true;
        }
        if (!result->named && model != JSON_NONE && json_string(&arena, &ix, model, &name) == OK)
            name_model(play, result, name);
    }
    arena_release(&arena);
}

static void on_event(void *user, uint64_t number, const struct sse_event *event)
{
    struct play *play = user;
    struct play_result *result = &play->results[number];
    if (!event->has_data)
        read_tail(play, result, event->raw);
    else if (span_find(event->data, SPAN("\"usage\":{")) != SIZE_MAX)
        read_object(play, result, event->data);
}

static void on_content(void *user, uint64_t number, uint64_t us)
{
    struct play_result *result = &((struct play *)user)->results[number];
    result->content_seen = true;
    result->ttft_us = us;
}

static void on_body(void *user, uint64_t number, struct span part)
{
    struct buf *body = &((struct play *)user)->bodies[number];
    if (buf_append(body, part) != OK)
        buf_release(body);
}

static void on_ended(void *user, uint64_t number, enum load_failure failure, uint64_t us)
{
    struct play *play = user;
    struct play_result *result = &play->results[number];
    if (failure == LOAD_OK && !play->plan->stream)
        read_object(play, result, buf_span(&play->bodies[number]));
    buf_release(&play->bodies[number]);
    result->ended = true;
    result->failure = failure;
    result->total_us = us;
    if (!result->named)
        name_model(play, result, failure == LOAD_OK ? span_cstr(play->plan->model) : SPAN("(no model)"));
}

/* ---- the run ---- */

static void on_progress(void *user, uint64_t sent, uint64_t active, uint64_t failed)
{
    const struct play *play = user;
    const size_t count = play->plan->trace->count;
    const char *ends[] = { "", "\n" };
    bool terminal = isatty(STDERR_FILENO) != 0;
    char number[FIGURE_BYTES];
    uint64_t passed = uv_hrtime() - play->started_ns;
    uint64_t last = play->due_ns[count - 1];
    uint64_t left_s = last > passed ? (last - passed + 999999999) / 1000000000 : 0;
    if (terminal)
        ends[0] = "\r", ends[1] = "\033[K"; /* over the line that stands there; erase what is left of it */
    fprintf(stderr, "%s[%3u%%] %s sent · %llu in flight · %llu failed · %llu:%02llu left%s", ends[0],
            (unsigned)(sent * 100 / count), figure_count(sent, number), (unsigned long long)active,
            (unsigned long long)failed, (unsigned long long)(left_s / 60), (unsigned long long)(left_s % 60), ends[1]);
    fflush(stderr);
}

static enum err prepare(const struct play_plan *plan, struct play *play)
{
    const struct trace *trace = plan->trace;
    enum err err = load_tally_init(&play->tally);
    play->results = calloc(trace->count, sizeof(*play->results));
    play->bodies = calloc(trace->count, sizeof(*play->bodies));
    play->due_ns = calloc(trace->count, sizeof(*play->due_ns));
    if (err != OK || !play->results || !play->bodies || !play->due_ns)
        return ERR_NOMEM;
    for (size_t i = 0; i < trace->count; i++) {
        const struct trace_row *row = &trace->rows[i];
        play->due_ns[i] = (uint64_t)((double)(row->at_ns - plan->zero_ns) / plan->speed);
        buf_init(&play->bodies[i], RESPONSE_BYTES_MAX);
        play->results[i].cost_nano = PLAY_NO_COST;
        play->results[i].input_tokens = row->input_tokens;
        play->results[i].output_tokens = row->output_tokens;
    }
    return OK;
}

enum err play_run(const struct play_plan *plan, struct play *play, const char **ret_why)
{
    *play = (struct play){ .plan = plan, .request = BUF_INIT(2 * PLAY_PAD_BYTES_MAX + 64 * 1024) };
    const struct load_watch watch = { .user = play,
                                      .request = make_request,
                                      .header = on_header,
                                      .event = on_event,
                                      .content = on_content,
                                      .body = on_body,
                                      .ended = on_ended,
                                      .progress = on_progress };
    struct load_plan load = { .connections = plan->connections,
                              .requests = plan->trace->count,
                              .timeout_ms = plan->timeout_ms,
                              .drain_ms = plan->timeout_ms,
                              .stream = plan->stream,
                              .progress = plan->progress,
                              .watch = &watch };
    enum err err = load_url_resolve(&plan->url, &load.address, ret_why);
    if (err == OK)
        err = prepare(plan, play);
    if (err != OK)
        return err;
    load.status_expected[200] = true;
    load.due_ns = play->due_ns;
    play->started_ns = uv_hrtime();
    err = load_run(&load, &play->tally);
    if (plan->progress && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    return err;
}

void play_release(struct play *play)
{
    if (play->bodies) {
        for (size_t i = 0; i < play->plan->trace->count; i++)
            buf_release(&play->bodies[i]);
    }
    free(play->bodies);
    free(play->results);
    free(play->due_ns);
    buf_release(&play->request);
    load_tally_release(&play->tally);
}
