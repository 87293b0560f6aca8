/* loadgen - sends HTTP requests at a server of the OpenAI kind, checks what comes back and prints a summary. See
 * load_run.h. */
#include "tests/support/fake_tls.h"
#include "tests/support/load_run.h"
#include "tests/support/load_url.h"
#include "common/file.h"
#include "common/json.h"
#include "common/opts.h"
#include "common/units.h"
#include <signal.h>

#define EXIT_FAILED 1
#define EXIT_USAGE  2

#define BODY_BYTES_MAX  (512u * 1024 * 1024)
#define CONNECTIONS_MAX 100000
/* load_run writes the digits. */
#define DIGITS     "0000000000"
#define LETTERS    "aaaaaaaaaa" /* the same in the alphabet of keys: a for 0 to j for 9 */
#define USER_PLACE "u-" DIGITS

static const struct opt options[] = {
    { "url", 0, OPT_TEXT, "URL", "http://HOST:PORT/PATH or https:// to send to" },
    { "method", 0, OPT_TEXT, "NAME", "request method, default POST" },
    { "key", 0, OPT_TEXT, "KEY", "send it as Authorization: Bearer" },
    { "header", 0, OPT_MANY, "NAME: VALUE", "a further request header" },
    { "connections", 'c', OPT_TEXT, "N", "connections, default 1" },
    { "requests", 'n', OPT_TEXT, "N", "requests in all, default one per connection when there is no --seconds" },
    { "seconds", 's', OPT_TEXT, "N", "how long to go on" },
    { "rate", 0, OPT_TEXT, "N",
      "requests per second, due at fixed times (open loop); without it each connection waits for its answer" },
    { "timeout", 0, OPT_TEXT, "TIME", "of one request, default 60s" },
    { "drain", 0, OPT_TEXT, "TIME", "for running requests at the end, default 10s" },
    { "body", 0, OPT_TEXT, "FILE", "request body, \"-\" for standard input; without it a chat request is made" },
    { "model", 0, OPT_TEXT, "NAME", "of the chat request, default fake-small" },
    { "prompt", 0, OPT_TEXT, "TEXT", "how its user message starts" },
    { "prompt-bytes", 0, OPT_TEXT, "N", "and how long it is at least" },
    { "max-tokens", 0, OPT_TEXT, "N", "its max_tokens" },
    { "stream", 0, OPT_FLAG, NULL, "ask for a stream, and require [DONE]" },
    { "include-usage", 0, OPT_FLAG, NULL, "ask for usage in the stream" },
    { "unique-user", 0, OPT_FLAG, NULL, "a different user in each chat request" },
    { "vary-models", 0, OPT_TEXT, "N", "models NAME-0000000000 up to N, in an order that looks random" },
    { "vary-keys", 0, OPT_TEXT, "N", "the same of keys: KEYaaaaaaaaaa, the digits as letters" },
    { "ca", 0, OPT_TEXT, "FILE", "PEM file of what to trust, for https" },
    { "tls-name", 0, OPT_TEXT, "NAME", "that the certificate must have, default localhost" },
    { "expect-status", 0, OPT_TEXT, "A,B", "statuses that count as success, default 200" },
    { "abort-after-events", 0, OPT_TEXT, "N", "close each stream after so many events" },
    { "hold", 0, OPT_FLAG, NULL, "one request per connection: read its first bytes, then nothing more until the end" },
    { "read-rate", 0, OPT_TEXT, "BYTES", "read so much per second and connection" },
    { "close", 0, OPT_FLAG, NULL, "a new connection for each request" },
    { "count-header", 0, OPT_MANY, "NAME", "count the values of a response header" },
    { "progress", 0, OPT_FLAG, NULL, "a line each second on stderr" },
    { "human", 0, OPT_FLAG, NULL, "print a line for people instead of JSON" },
    { "help", 'h', OPT_FLAG, NULL, "print this" },
};

static _Noreturn void die(const char *what, const char *value)
{
    fprintf(stderr, "loadgen: %s%s%s\n", what, value ? ": " : "", value ? value : "");
    exit(EXIT_USAGE);
}

static void must(enum err err)
{
    if (err != OK)
        die(err_name(err), NULL);
}

static uint64_t number(const struct opts_result *given, const char *name, uint64_t otherwise, uint64_t max)
{
    const char *text = opts_text(given, name, NULL);
    uint64_t value = otherwise;
    if (text && (span_to_u64(span_cstr(text), &value) != OK || value > max))
        die(name, text);
    return value;
}

static uint64_t duration_ms(const struct opts_result *given, const char *name, const char *otherwise)
{
    const char *text = opts_text(given, name, otherwise);
    uint64_t ms = 0;
    if (units_parse_duration(span_cstr(text), &ms) != OK)
        die(name, text);
    return ms;
}

static double decimal(const struct opts_result *given, const char *name)
{
    const char *text = opts_text(given, name, NULL);
    char *end;
    if (!text)
        return 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value > 0 && value < 1e7))
        die(name, text);
    return value;
}

static void print_help(void)
{
    struct buf out = BUF_INIT(64 * 1024);
    must(buf_append_cstr(
        &out,
        "usage: loadgen --url URL [options]\n\nSends requests and prints what came back. Exit code: 0 all as expected, "
        "1 failures, 2 usage.\n\n"));
    must(opts_help(options, ARRAY_LEN(options), &out));
    fwrite(buf_span(&out).ptr, 1, out.len, stdout);
    buf_release(&out);
}

static void make_chat(const struct opts_result *given, struct buf *out)
{
    struct json_writer w;
    struct buf prompt = BUF_INIT(BODY_BYTES_MAX);
    uint64_t bytes = number(given, "prompt-bytes", 0, BODY_BYTES_MAX / 2);
    must(buf_append_cstr(&prompt, opts_text(given, "prompt", "")));
    while (prompt.len < bytes || prompt.len == 0)
        must(buf_append(&prompt,
                        span_head(SPAN("tell me about the sea. "), bytes > prompt.len ? bytes - prompt.len : 22)));
    json_writer_init(&w, out);
    json_object_open(&w);
    struct buf model = BUF_INIT(1024);
    must(buf_printf(&model, "%s%s", opts_text(given, "model", "fake-small"),
                    opts_text(given, "vary-models", NULL) ? "-" DIGITS : ""));
    json_member_string(&w, "model", buf_span(&model));
    buf_release(&model);
    json_key(&w, SPAN("messages"));
    json_array_open(&w);
    json_object_open(&w);
    json_member_cstr(&w, "role", "user");
    json_member_string(&w, "content", buf_span(&prompt));
    json_object_close(&w);
    json_array_close(&w);
    if (opts_text(given, "max-tokens", NULL))
        json_member_u64(&w, "max_tokens", number(given, "max-tokens", 0, 1u << 30));
    if (opts_flag(given, "stream"))
        json_member_bool(&w, "stream", true);
    if (opts_flag(given, "include-usage")) {
        json_key(&w, SPAN("stream_options"));
        json_object_open(&w);
        json_member_bool(&w, "include_usage", true);
        json_object_close(&w);
    }
    if (opts_flag(given, "unique-user"))
        json_member_cstr(&w, "user", USER_PLACE);
    json_object_close(&w);
    must(json_writer_end(&w));
    buf_release(&prompt);
}

static void make_body(const struct opts_result *given, bool post, struct buf *out)
{
    const char *file = opts_text(given, "body", NULL);
    if (file && opts_flag(given, "unique-user"))
        die("--unique-user needs the body to be made here, without --body", NULL);
    if (file) {
        enum err err = file_read(file, BODY_BYTES_MAX, out);
        if (err != OK)
            die(file, err_name(err));
    } else if (post) {
        make_chat(given, out);
    }
}

/* The whole request, head and body. */
static void make_request(const struct opts_result *given, const struct load_url *url, struct buf *out)
{
    const char *method = opts_text(given, "method", "POST");
    const char *key = opts_text(given, "key", NULL);
    bool post = strcmp(method, "POST") == 0;
    struct buf body = BUF_INIT(BODY_BYTES_MAX);
    make_body(given, post, &body);
    must(buf_printf(out, "%s " SPAN_FMT " HTTP/1.1\r\nhost: " SPAN_FMT "\r\n", method, SPAN_ARG(url->path),
                    SPAN_ARG(url->authority)));
    if (key)
        must(
            buf_printf(out, "authorization: Bearer %s%s\r\n", key, opts_text(given, "vary-keys", NULL) ? LETTERS : ""));
    for (unsigned i = 0; i < given->given_count; i++) {
        if (strcmp(given->given[i].opt->name, "header") == 0)
            must(buf_printf(out, "%s\r\n", given->given[i].value));
    }
    if (opts_flag(given, "close"))
        must(buf_append_cstr(out, "connection: close\r\n"));
    if (post || body.len > 0)
        must(buf_printf(out, "content-type: application/json\r\ncontent-length: %zu\r\n", body.len));
    must(buf_append_cstr(out, "\r\n"));
    must(buf_append(out, buf_span(&body)));
    buf_release(&body);
}

/* The place after `name`, which the request holds once. */
static void vary(struct load_plan *plan, const char *name, const char *zeros, uint64_t count)
{
    struct buf place = BUF_INIT(1024);
    must(buf_printf(&place, "%s%s", name, zeros));
    size_t at = span_find(plan->request, buf_span(&place));
    if (at == SIZE_MAX)
        die("nothing in the request that could vary", name);
    plan->varies[plan->vary_count++] =
        (struct load_vary){ .at = at + place.len - strlen(zeros), .zero = zeros[0], .count = count };
    buf_release(&place);
}

static void make_varying(const struct opts_result *given, struct load_plan *plan)
{
    uint64_t models = number(given, "vary-models", 0, 1u << 30);
    uint64_t keys = number(given, "vary-keys", 0, 1u << 30);
    char name[512];
    if (opts_flag(given, "unique-user"))
        vary(plan, "u-", DIGITS, 0);
    (void)snprintf(name, sizeof(name), "%s-", opts_text(given, "model", "fake-small"));
    if (models > 0)
        vary(plan, name, DIGITS, models);
    if (keys > 0)
        vary(plan, opts_text(given, "key", ""), LETTERS, keys);
}

static void expect_statuses(const char *text, struct load_plan *plan)
{
    struct span rest = span_cstr(text);
    struct span part;
    while (span_split(&rest, ',', &part)) {
        uint64_t status;
        if (span_to_u64(span_trim(part), &status) != OK || status < 100 || status >= ARRAY_LEN(plan->status_expected))
            die("--expect-status", text);
        plan->status_expected[status] = true;
    }
}

static void count_headers(const struct opts_result *given, struct load_tally *tally)
{
    for (unsigned i = 0; i < given->given_count; i++) {
        if (strcmp(given->given[i].opt->name, "count-header") != 0)
            continue;
        if (tally->header_count == LOAD_HEADERS_MAX)
            die("too many --count-header", NULL);
        tally->headers[tally->header_count++].name = span_cstr(given->given[i].value);
    }
}

static void make_plan(const struct opts_result *given, struct load_plan *plan)
{
    plan->connections = (unsigned)number(given, "connections", 1, CONNECTIONS_MAX);
    if (plan->connections == 0)
        die("--connections must be at least 1", NULL);
    plan->hold = opts_flag(given, "hold");
    double seconds = decimal(given, "seconds");
    plan->duration_ms = (uint64_t)(seconds * 1000);
    uint64_t otherwise = plan->hold || plan->duration_ms == 0 ? plan->connections : UINT64_MAX;
    plan->requests = number(given, "requests", otherwise, UINT64_MAX);
    plan->rate = decimal(given, "rate");
    plan->timeout_ms = duration_ms(given, "timeout", "60s");
    plan->drain_ms = duration_ms(given, "drain", "10s");
    plan->stream = opts_flag(given, "stream");
    plan->abort_after = number(given, "abort-after-events", 0, UINT64_MAX);
    plan->read_rate = number(given, "read-rate", 0, UINT32_MAX);
    plan->progress = opts_flag(given, "progress");
    plan->close = opts_flag(given, "close");
    expect_statuses(opts_text(given, "expect-status", "200"), plan);
}

static void make_tls(const struct opts_result *given, struct load_plan *plan)
{
    const char *ca = opts_text(given, "ca", NULL);
    plan->tls = ca ? fake_tls_client_new(ca) : NULL;
    plan->tls_name = opts_text(given, "tls-name", "localhost");
    if (!plan->tls)
        die("https needs --ca with a PEM file", ca);
}

static int report(const struct opts_result *given, struct load_tally *tally)
{
    struct buf out = BUF_INIT(1024 * 1024);
    must(opts_flag(given, "human") ? load_tally_line(tally, &out) : load_tally_json(tally, &out));
    fwrite(buf_span(&out).ptr, 1, out.len, stdout);
    buf_release(&out);
    return load_tally_failed(tally) == 0 ? 0 : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    static struct load_plan plan;
    static struct load_tally tally;
    struct opts_result given;
    struct load_url url;
    struct buf request = BUF_INIT(BODY_BYTES_MAX);
    char *message = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) != OK)
        die(message ? message : "out of memory", NULL);
    if (opts_flag(&given, "help")) {
        print_help();
        return 0;
    }
    if (!opts_text(&given, "url", NULL))
        die("--url is missing", NULL);
    if (given.arg_count > 0)
        die("no such argument", given.args[0]);
    (void)signal(SIGPIPE, SIG_IGN);
    const char *where = opts_text(&given, "url", NULL);
    const char *why = NULL;
    if (load_url_split(where, &url) != OK)
        die("--url must start with http:// or https://", where);
    if (load_url_resolve(&url, &plan.address, &why) != OK)
        die(why, where);
    make_plan(&given, &plan);
    make_request(&given, &url, &request);
    plan.request = buf_span(&request);
    make_varying(&given, &plan);
    if (url.tls)
        make_tls(&given, &plan);
    must(load_tally_init(&tally));
    count_headers(&given, &tally);
    must(load_run(&plan, &tally));
    int code = report(&given, &tally);
    load_tally_release(&tally);
    fake_tls_server_free(plan.tls);
    buf_release(&request);
    return code;
}
