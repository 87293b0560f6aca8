/* replay - plays a slice of a real request trace against a server of the OpenAI kind, and prints what it cost and how
 * long it took, per model. */
#include "tests/bench/replay/report.h"
#include "common/opts.h"
#include "common/units.h"
#include <signal.h>
#include <unistd.h>

#define EXIT_FAILED  1
#define EXIT_USAGE   2
#define EXIT_SKIPPED 77 /* the convention of test drivers: what it needs is not here */

#define CONNECTIONS_MAX 60000 /* ports between two addresses */
#define NS_PER_MS       UINT64_C(1000000)
#define TRACE_DEFAULT   "traces/azure_llm_conv_2023.csv.gz"

static const struct opt options[] = {
    { "url", 0, OPT_TEXT, "URL", "where to send, default http://127.0.0.1:4000/v1/chat/completions" },
    { "key", 0, OPT_TEXT, "KEY", "send it as Authorization: Bearer; default $FAIRLEAD_KEY" },
    { "model", 0, OPT_TEXT, "NAME", "the route or model to ask for, default chat" },
    { "trace", 0, OPT_TEXT, "FILE",
      "Azure LLM inference trace (CSV) or Mooncake trace (JSON lines), either gzipped when its name ends in .gz; "
      "default " TRACE_DEFAULT " in $FAIRLEAD_DATA, else in ../shared/data" },
    { "slice", 0, OPT_TEXT, "START,COUNT", "so many rows, the first being row 0; default 0,1000" },
    { "from", 0, OPT_TEXT, "TIME", "instead: the rows from this time of the trace on (10m)" },
    { "for", 0, OPT_TEXT, "TIME", "for so long (5m), default to the end" },
    { "speed", 0, OPT_TEXT, "FACTOR",
      "how much faster than in the trace requests arrive, default 1; answers take the time they take" },
    { "connections-max", 'c', OPT_TEXT, "N",
      "connections, opened as they are needed, default 1000; a request that finds none free waits, and its waiting is "
      "measured" },
    { "timeout", 0, OPT_TEXT, "TIME", "of one request, default 2m" },
    { "unary", 0, OPT_FLAG, NULL, "whole answers instead of streams; there is no TTFT then" },
    { "pad-bytes", 0, OPT_TEXT, "N",
      "a prompt is padded to four bytes a token, but to no more than this, default 4096, so that long contexts do not "
      "cost megabytes each; a directive tells the simulated provider (fakellm) how many tokens to report and to "
      "answer, and only max_tokens tells a real one" },
    { "price", 0, OPT_MANY, "MODEL=IN,OUT",
      "US dollars per million input and output tokens; for the comparison with one model, and for the cost of "
      "responses that do not tell theirs" },
    { "prices", 0, OPT_TEXT, "FILE", "such prices, one a line" },
    { "progress", 0, OPT_FLAG, NULL, "a line each second on stderr, also when that is no terminal" },
    { "json", 0, OPT_FLAG, NULL, "print JSON: times in microseconds, costs in US dollars" },
    { "help", 'h', OPT_FLAG, NULL, "print this" },
};

static _Noreturn void die(const char *what, const char *value)
{
    fprintf(stderr, "replay: %s%s%s\n", what, value ? ": " : "", value ? value : "");
    exit(EXIT_USAGE);
}

static void must(enum err err)
{
    if (err != OK)
        die(err_name(err), NULL);
}

static void print_and_release(struct buf *out)
{
    fwrite(buf_span(out).ptr, 1, out->len, stdout);
    buf_release(out);
}

static int print_help(void)
{
    struct buf out = BUF_INIT(64 * 1024);
    must(buf_append_cstr(
        &out,
        "usage: replay [options]\n\nPlays a slice of a request trace: each request is sent when it is due, whether or "
        "not "
        "earlier ones\nhave their answer, and its times count from then. Prints requests, tokens, cost and percentiles "
        "per "
        "model,\nand what the same requests would have cost at the dearest and at the cheapest model of --price.\n"
        "Exit code: 0 all answered, 1 failures, 2 usage, 77 the trace is not there.\n\n"));
    must(opts_help(options, ARRAY_LEN(options), &out));
    print_and_release(&out);
    return 0;
}

static uint64_t number(const struct opts_result *given, const char *name, uint64_t otherwise, uint64_t least,
                       uint64_t max)
{
    const char *text = opts_text(given, name, NULL);
    uint64_t value = otherwise;
    if (text && (span_to_u64(span_cstr(text), &value) != OK || value < least || value > max))
        die(name, text);
    return value;
}

static uint64_t duration_ms(const struct opts_result *given, const char *name, const char *otherwise)
{
    const char *text = opts_text(given, name, otherwise);
    uint64_t ms = 0;
    if (units_parse_duration(span_cstr(text), &ms) != OK || ms > UINT64_MAX / NS_PER_MS)
        die(name, text);
    return ms;
}

static double speed(const struct opts_result *given)
{
    const char *text = opts_text(given, "speed", "1");
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0.001 && value <= 1e6))
        die("speed", text);
    return value;
}

static struct trace_slice choose_slice(const struct opts_result *given)
{
    struct trace_slice slice = { .rows = UINT64_MAX, .for_ns = UINT64_MAX };
    bool by_time = opts_text(given, "from", NULL) || opts_text(given, "for", NULL);
    const char *text = opts_text(given, "slice", by_time ? NULL : "0,1000");
    struct span rest = span_cstr(text);
    struct span start;
    if (text && by_time)
        die("--slice and --from or --for exclude each other", NULL);
    if (text && (!span_split(&rest, ',', &start) || span_to_u64(start, &slice.first_row) != OK ||
                 span_to_u64(rest, &slice.rows) != OK || slice.rows == 0))
        die("slice", text);
    if (opts_text(given, "from", NULL))
        slice.from_ns = duration_ms(given, "from", "0") * NS_PER_MS;
    if (opts_text(given, "for", NULL))
        slice.for_ns = duration_ms(given, "for", "0") * NS_PER_MS;
    return slice;
}

static void read_trace(const char *path, const struct trace_slice *slice, struct trace *trace)
{
    char why[512];
    enum err err = trace_read(path, slice, trace, why, sizeof(why));
    if (err != OK)
        fprintf(stderr, "replay: %s\n", why);
    if (err == ERR_NOT_FOUND) {
        fputs(
            "replay: the traces are public: azure_llm_conv_2023 and azure_llm_code_2023 are in the GitHub repository\n"
            "replay: Azure/AzurePublicDataset, mooncake_conversation is in kvcache-ai/Mooncake; name the file with "
            "--trace,\n"
            "replay: or the directory above traces/ in FAIRLEAD_DATA\n",
            stderr);
        exit(EXIT_SKIPPED);
    }
    if (err != OK)
        exit(EXIT_USAGE);
    if (trace->count == 0)
        die("no request of the trace is in this slice", path);
}

static void read_prices(const struct opts_result *given, struct price_list *prices)
{
    const char *file = opts_text(given, "prices", NULL);
    char what[64];
    unsigned line = 0;
    enum err err = file ? prices_read(prices, file, &line) : OK;
    if (err != OK) {
        (void)snprintf(what, sizeof(what), "--prices: line %u: %s", line, err_name(err));
        die(line > 0 ? what : err_name(err), file);
    }
    for (unsigned i = 0; i < given->given_count; i++) {
        if (strcmp(given->given[i].opt->name, "price") != 0)
            continue;
        err = prices_add(prices, span_cstr(given->given[i].value));
        if (err != OK)
            die(err == ERR_SYNTAX ? "--price is not MODEL=IN,OUT" : err_name(err), given->given[i].value);
    }
}

static void make_plan(const struct opts_result *given, const struct trace_slice *slice, const struct trace *trace,
                      struct play_plan *plan)
{
    const char *url = opts_text(given, "url", "http://127.0.0.1:4000/v1/chat/completions");
    if (load_url_split(url, &plan->url) != OK || plan->url.tls)
        die("--url must start with http://", url);
    plan->trace = trace;
    plan->zero_ns = slice->from_ns > 0 ? slice->from_ns : trace->rows[0].at_ns;
    plan->speed = speed(given);
    plan->key = opts_text(given, "key", getenv("FAIRLEAD_KEY"));
    plan->model = opts_text(given, "model", "chat");
    plan->connections = (unsigned)number(given, "connections-max", 1000, 1, CONNECTIONS_MAX);
    plan->timeout_ms = duration_ms(given, "timeout", "2m");
    plan->pad_bytes = number(given, "pad-bytes", 4096, 0, PLAY_PAD_BYTES_MAX);
    plan->stream = !opts_flag(given, "unary");
    plan->progress = opts_flag(given, "progress") || isatty(STDERR_FILENO);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int report(const struct opts_result *given, const struct play *play, const struct price_list *prices,
                  const char *trace_name)
{
    static struct report made;
    struct buf out = BUF_INIT(1024 * 1024);
    must(report_make(play, prices, trace_name, &made));
    must(opts_flag(given, "json") ? report_json(&made, &out) : report_table(&made, &out));
    print_and_release(&out);
    bool all_answered = made.all.errors == 0 && made.all.requests == play->plan->trace->count;
    report_release(&made);
    return all_answered ? 0 : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    static struct opts_result given;
    static struct price_list prices;
    static struct play play;
    struct play_plan plan = { 0 };
    struct trace trace;
    char path[4096];
    const char *why = NULL;
    char *message = NULL;
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) != OK)
        die(message ? message : "out of memory", NULL);
    if (opts_flag(&given, "help"))
        return print_help();
    if (given.arg_count > 0)
        die("no such argument", given.args[0]);
    (void)signal(SIGPIPE, SIG_IGN);
    const char *data = getenv("FAIRLEAD_DATA");
    (void)snprintf(path, sizeof(path), "%s/%s", data && data[0] ? data : "../shared/data", TRACE_DEFAULT);
    const char *file = opts_text(&given, "trace", path);
    struct trace_slice slice = choose_slice(&given);
    read_prices(&given, &prices);
    read_trace(file, &slice, &trace);
    make_plan(&given, &slice, &trace, &plan);
    enum err err = play_run(&plan, &play, &why);
    if (err != OK)
        die(why ? why : err_name(err), opts_text(&given, "url", NULL));
    int code = report(&given, &play, &prices, base_name(file));
    play_release(&play);
    trace_release(&trace);
    return code;
}
