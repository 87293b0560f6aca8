/* replay: recorded requests or a public trace, sent at their own pace to a running instance. */
#include "admin-cli/cli.h"
#include "admin-cli/replay_send.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/units.h"
#include "proto/home.h"
#include "proto/record_dir.h"
#include <signal.h>

#define TRACE_BYTES_MAX ((size_t)1 << 30) /* a trace is read whole */
#define KEY_BYTES_MAX   400u

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

struct replay {
    struct cli *cli;
    struct replay_trace trace;
    struct replay_options options;
    struct replay_result result;
    char key[KEY_BYTES_MAX];
};

/* ---- reading ---- */

static int read_file(struct replay *r, const char *file)
{
    struct buf text = BUF_INIT(TRACE_BYTES_MAX);
    enum err err = file_read(file, TRACE_BYTES_MAX, &text);
    struct span rest = buf_span(&text), line;
    if (!err && rest.len > 2 && (unsigned char)rest.ptr[0] == 0x1f && (unsigned char)rest.ptr[1] == 0x8b) {
        buf_release(&text);
        return cli_fail(r->cli, EXIT_REFUSED, "%s is compressed: zcat %s | fairlead replay - ...", file, file);
    }
    while (!err && span_split(&rest, '\n', &line))
        err = replay_trace_line(&r->trace, line);
    buf_release(&text);
    return err ? cli_fail(r->cli, err == ERR_NOT_FOUND ? EXIT_NOT_FOUND : EXIT_REFUSED, "%s cannot be read: %s", file,
                          err == ERR_NOT_FOUND ? "it is not there" : err_name(err))
               : EXIT_GOOD;
}

static enum err take_line(void *user, struct span line)
{
    struct replay *r = user;
    return replay_trace_line(&r->trace, line);
}

/* What this home's node wrote; where none runs, what nodes shipped. */
static int read_records(struct replay *r, const char *since)
{
    uint64_t ms;
    if (units_parse_duration(span_cstr(since), &ms) != OK || ms == 0 || ms > (uint64_t)clock_wall_ms())
        return cli_fail(r->cli, EXIT_USAGE, "--since takes a duration (30m, 24h, 7d), not '%s'", since);
    static const char *const dirs[] = { HOME_RECORDS, HOME_CONTROL_RECORDS };
    enum err err = OK;
    for (size_t i = 0; i < ARRAY_LEN(dirs) && !err && r->trace.count == 0; i++) {
        char *dir = file_join(r->cli->home, dirs[i]);
        err = dir ? record_dir_each(dir, clock_wall_ms() - (int64_t)ms, take_line, r) : ERR_NOMEM;
        free(dir);
    }
    return err ? cli_fail(r->cli, EXIT_FAILED, "the records in %s cannot be read: %s", r->cli->home, err_name(err))
               : EXIT_GOOD;
}

/* --key, $FAIRLEAD_KEY, or with --key - a line of standard input: other users can read a command line. */
static int read_key(struct replay *r)
{
    const char *given = opts_text(&r->cli->given, "key", getenv("FAIRLEAD_KEY"));
    if (!given)
        return EXIT_GOOD;
    if (strcmp(given, "-") == 0) {
        if (!fgets(r->key, sizeof(r->key), stdin))
            return cli_fail(r->cli, EXIT_USAGE, "no key on standard input");
        r->key[strcspn(r->key, "\r\n")] = '\0';
    } else if (strlen(given) >= sizeof(r->key)) {
        return cli_fail(r->cli, EXIT_USAGE, "that is no key");
    } else {
        (void)snprintf(r->key, sizeof(r->key), "%s", given);
    }
    r->options.key = r->key;
    return EXIT_GOOD;
}

static int read_options(struct replay *r)
{
    const char *speed = opts_text(&r->cli->given, "speed", "1x"), *limit = opts_text(&r->cli->given, "limit", "0");
    struct span number = span_cstr(speed);
    int64_t milli = 0;
    uint64_t most;
    r->options.url = opts_text(&r->cli->given, "to", NULL);
    r->options.model = opts_text(&r->cli->given, "model", NULL);
    if (!r->options.url)
        return cli_fail(r->cli, EXIT_USAGE, "--to URL says where: http://127.0.0.1:4000");
    if (!span_starts(span_cstr(r->options.url), SPAN("http://")) &&
        !span_starts(span_cstr(r->options.url), SPAN("https://")))
        return cli_fail(r->cli, EXIT_USAGE, "--to takes a URL that begins with http:// or https://");
    if (span_ends(number, SPAN("x")))
        number = span_head(number, number.len - 1);
    if (json_decimal_text(number, 3, &milli) != OK || milli <= 0)
        return cli_fail(r->cli, EXIT_USAGE, "--speed takes a factor (2x, 0.5x), not '%s'", speed);
    if (span_to_u64(span_cstr(limit), &most) != OK)
        return cli_fail(r->cli, EXIT_USAGE, "--limit takes a number, not '%s'", limit);
    r->options.speed = (double)milli / 1000;
    r->options.limit = (size_t)most;
    return EXIT_GOOD;
}

/* ---- telling ---- */

static bool progress(void *user, const struct replay_options *options, uint64_t elapsed_us)
{
    const struct replay *r = user;
    const struct replay_result *out = &r->result;
    (void)options;
    if (r->cli->terminal && !r->cli->json) {
        fprintf(stderr, "\r%.0f s: %llu sent, %llu answered, %llu open, %llu failed   ", (double)elapsed_us / 1e6,
                (unsigned long long)out->sent, (unsigned long long)out->answered, (unsigned long long)out->open,
                (unsigned long long)out->broken + out->server_errors);
        fflush(stderr);
    }
    return interrupted != 0;
}

static double ms(const struct hist *hist, double quantile)
{
    return (double)hist_quantile(hist, quantile) / 1000;
}

static void put_latency(struct json_writer *w, const char *key, const struct hist *hist)
{
    static const struct {
        const char *name;
        double quantile;
    } points[] = { { "p50", 0.5 }, { "p95", 0.95 }, { "p99", 0.99 } };
    json_key(w, span_cstr(key));
    json_object_open(w);
    for (size_t i = 0; i < ARRAY_LEN(points); i++) {
        json_key(w, span_cstr(points[i].name));
        json_put_double(w, ms(hist, points[i].quantile));
    }
    json_object_close(w);
}

static void tell_json(const struct replay_result *out)
{
    struct buf text = BUF_INIT(64u << 10);
    struct json_writer w;
    json_writer_init(&w, &text);
    json_object_open(&w);
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = { { "sent", out->sent },
                   { "not_sent", out->not_sent },
                   { "answered", out->answered },
                   { "good", out->good },
                   { "client_errors", out->client_errors },
                   { "rate_limited", out->limited },
                   { "server_errors", out->server_errors },
                   { "broken", out->broken },
                   { "given_up", out->open },
                   { "input_tokens", out->input_tokens },
                   { "output_tokens", out->output_tokens },
                   { "bytes_in", out->bytes_in },
                   { "late_ms_most", out->late_us_most / 1000 },
                   { "elapsed_ms", out->elapsed_us / 1000 } };
    for (size_t i = 0; i < ARRAY_LEN(counts); i++)
        json_member_u64(&w, counts[i].name, counts[i].value);
    put_latency(&w, "ttft_ms", &out->ttft);
    put_latency(&w, "total_ms", &out->total);
    json_object_close(&w);
    if (json_writer_end(&w) == OK)
        render_json(buf_span(&text));
    buf_release(&text);
}

static void tell(const struct replay *r)
{
    const struct replay_result *out = &r->result;
    const double seconds = (double)out->elapsed_us / 1e6, per = seconds > 0 ? 1 / seconds : 0;
    if (r->cli->terminal)
        fprintf(stderr, "\r%78s\r", "");
    printf(
        "%llu requests in %.1f s: %.1f sent a second, %.1f answered; %.0f input and %.0f output tokens a second asked "
        "for\n",
        (unsigned long long)out->sent, seconds, (double)out->sent * per, (double)out->answered * per,
        (double)out->input_tokens * per, (double)out->output_tokens * per);
    printf("good %llu, 4xx %llu, 429 %llu, 5xx %llu, broken %llu, given up %llu\n", (unsigned long long)out->good,
           (unsigned long long)out->client_errors, (unsigned long long)out->limited,
           (unsigned long long)out->server_errors, (unsigned long long)out->broken, (unsigned long long)out->open);
    if (out->good > 0)
        printf("first byte  p50 %.0f ms, p95 %.0f ms, p99 %.0f ms\nin all      p50 %.0f ms, p95 %.0f ms, p99 %.0f ms\n",
               ms(&out->ttft, 0.5), ms(&out->ttft, 0.95), ms(&out->ttft, 0.99), ms(&out->total, 0.5),
               ms(&out->total, 0.95), ms(&out->total, 0.99));
    if (out->not_sent > 0)
        printf("%llu were not sent: %u were open at once\n", (unsigned long long)out->not_sent, REPLAY_OPEN_MAX);
    if (out->late_us_most > 1000000)
        printf("the latest was sent %.1f s after its time: this machine cannot keep that pace\n",
               (double)out->late_us_most / 1e6);
}

static int play(struct replay *r)
{
    replay_trace_end(&r->trace);
    if (r->trace.count == 0)
        return cli_fail(r->cli, EXIT_NOT_FOUND, "there is no request in it that can be sent (%zu lines were left out)",
                        r->trace.skipped);
    if (!r->options.key)
        fprintf(stderr, "fairlead: no key (--key KEY or $FAIRLEAD_KEY): what asks for one refuses every request\n");
    r->options.progress = progress;
    r->options.user = r;
    (void)signal(SIGINT, on_interrupt);
    const enum err err = replay_send(&r->trace, &r->options, &r->result);
    if (r->cli->json)
        tell_json(&r->result);
    else
        tell(r);
    if (err)
        return cli_fail(r->cli, EXIT_FAILED, "sending: %s", err_name(err));
    return r->result.good > 0 ? EXIT_GOOD : EXIT_FAILED;
}

int run_replay(struct cli *cli)
{
    struct replay *r = arena_alloc(&cli->arena, sizeof(*r)); /* histograms are large for a stack */
    const char *file = cli_arg(cli, 0), *since = opts_text(&cli->given, "since", NULL);
    if (!r)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    r->cli = cli;
    if ((file != NULL) == (since != NULL))
        return cli_fail(cli, EXIT_USAGE, "either FILE or --since TIME says what is sent");
    int code = read_options(r);
    if (code == EXIT_GOOD)
        code = read_key(r);
    replay_trace_init(&r->trace);
    if (code == EXIT_GOOD)
        code = file ? read_file(r, file) : read_records(r, since);
    if (code == EXIT_GOOD)
        code = play(r);
    replay_trace_release(&r->trace);
    explicit_bzero(r->key, sizeof(r->key));
    return code;
}
