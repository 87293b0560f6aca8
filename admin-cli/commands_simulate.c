/* simulate: the recorded requests under another policy; in short, after a push. */
#include "admin-cli/simulation.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/units.h"
#include <poll.h>
#include <signal.h>

#define POLL_MS       100
#define PUSH_WAIT_MS  4000u /* a push is not held up for longer */
#define PUSH_SINCE_MS 3600000
#define PUSH_LIMIT    "20000"
#define SINCE_DEFAULT "24h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

struct simulation {
    const char *id;
    unsigned version, live;
    struct json_index ix;
    uint32_t object; /* the simulation's, once it is done */
    struct span json;
};

static bool start(struct cli *cli, const struct call *call, struct simulation *ret, int *ret_code)
{
    const struct admin_reply *reply;
    struct json_index ix;
    struct span id;
    *ret_code = call_ask(cli, call, &reply, &ix);
    if (*ret_code != EXIT_GOOD)
        return false;
    const uint32_t token = json_get(&ix, 0, SPAN("id"));
    if (token == JSON_NONE || json_string(&cli->arena, &ix, token, &id) != OK) {
        *ret_code = cli_fail(cli, EXIT_FAILED, "the control plane's answer names no simulation");
        return false;
    }
    ret->id = arena_dup(&cli->arena, id).ptr;
    ret->version = (unsigned)render_u64(&ix, 0, "version");
    ret->live = (unsigned)render_u64(&ix, 0, "live_version");
    return ret->id != NULL;
}

static void cancel(struct cli *cli, const struct simulation *s)
{
    const struct admin_reply *reply;
    struct call call = { .command = "simulate.cancel" };
    call_arg_cstr(&call, "id", s->id);
    cli->quiet = true;
    (void)call_send(cli, &call, &reply);
}

static void print_progress(const struct json_index *ix, bool end)
{
    const uint64_t records = render_u64(ix, 0, "records"), bytes = render_u64(ix, 0, "bytes");
    const uint64_t total = render_u64(ix, 0, "bytes_total");
    if (end)
        fprintf(stderr, "\r%60s\r", "");
    else
        fprintf(stderr, "\r%llu records read, %.0f%%   ", (unsigned long long)records,
                total ? 100 * (double)bytes / (double)total : 0.0);
    fflush(stderr);
}

/* Until it is done. EXIT_NOT_YET: wait_ms passed (0: no bound), or it was interrupted; then it was cancelled. */
static int wait_for(struct cli *cli, struct simulation *s, uint64_t wait_ms)
{
    const uint64_t begun = clock_ms();
    const bool show = !cli->quiet && cli->terminal && !cli->json;
    for (;;) {
        const struct admin_reply *reply;
        struct call call = { .command = "simulate.poll" };
        struct span state;
        call_arg_cstr(&call, "id", s->id);
        const int code = call_ask(cli, &call, &reply, &s->ix);
        if (code != EXIT_GOOD)
            return code;
        const uint32_t token = json_get(&s->ix, 0, SPAN("state"));
        if (token == JSON_NONE || json_string(&cli->arena, &s->ix, token, &state) != OK)
            return cli_fail(cli, EXIT_FAILED, "the control plane's answer tells no state");
        const bool running = span_eq(state, SPAN("running"));
        if (show)
            print_progress(&s->ix, !running);
        if (span_eq(state, SPAN("done"))) {
            s->object = json_get(&s->ix, 0, SPAN("simulation"));
            s->json = s->object == JSON_NONE ? SPAN("{}") : json_raw(&s->ix, s->object);
            return s->object == JSON_NONE ? EXIT_FAILED : EXIT_GOOD;
        }
        if (!running) {
            static const struct column why = { "why", "why", COLUMN_TEXT };
            return cli_fail(cli, EXIT_FAILED, "the simulation failed: %s",
                            json_get(&s->ix, 0, SPAN("why")) == JSON_NONE ? "it was cancelled"
                                                                          : render_cell(cli, &s->ix, 0, &why));
        }
        if (interrupted || (wait_ms && clock_ms() - begun >= wait_ms)) {
            cancel(cli, s);
            return EXIT_NOT_YET;
        }
        poll(NULL, 0, POLL_MS);
    }
}

/* --since as the moment it means, in ms since 1970. */
static int since_arg(struct cli *cli, struct call *call)
{
    uint64_t ms;
    const char *text = opts_text(&cli->given, "since", SINCE_DEFAULT);
    const int64_t now_ms = clock_wall_ms();
    if (units_parse_duration(span_cstr(text), &ms) != OK || ms == 0)
        return cli_fail(cli, EXIT_USAGE, "--since takes a duration (30m, 24h, 7d), not '%s'", text);
    call_arg_cstr(call, "since_ms",
                  arena_printf(&cli->arena, "%lld", ms > (uint64_t)now_ms ? 0LL : (long long)(now_ms - (int64_t)ms)));
    return EXIT_GOOD;
}

static int limit_arg(struct cli *cli, struct call *call)
{
    const char *text = opts_text(&cli->given, "limit", NULL);
    uint64_t limit;
    if (text && (span_to_u64(span_cstr(text), &limit) != OK || limit == 0))
        return cli_fail(cli, EXIT_USAGE, "--limit: '%s' is no number of requests", text);
    call_arg_cstr(call, "limit", text);
    return EXIT_GOOD;
}

int run_simulate(struct cli *cli)
{
    struct call call = { .command = "simulate.start" };
    struct simulation s = { .id = NULL };
    struct buf bundle = BUF_INIT(PUSH_BYTES_MAX);
    const char *what = cli_arg(cli, 0);
    const bool version = !file_exists(what) && strspn(what, "v0123456789") == strlen(what);
    int code = since_arg(cli, &call);
    if (code == EXIT_GOOD)
        code = limit_arg(cli, &call);
    if (code == EXIT_GOOD && version)
        call_arg_cstr(&call, "version", what);
    else if (code == EXIT_GOOD)
        code = cli_bundle(cli, what, &bundle);
    if (code == EXIT_GOOD && !version)
        call_arg(&call, "bundle", buf_span(&bundle));
    (void)signal(SIGINT, on_interrupt);
    if (code == EXIT_GOOD && start(cli, &call, &s, &code))
        code = wait_for(cli, &s, 0);
    buf_release(&bundle);
    if (code == EXIT_NOT_YET)
        fprintf(stderr, "fairlead: interrupted; the simulation was cancelled\n");
    if (code != EXIT_GOOD)
        return code;
    if (cli->json)
        render_json(s.json);
    else
        simulation_render(cli, &s.ix, s.object, s.live, s.version);
    return EXIT_GOOD;
}

void simulate_after_push(struct cli *cli, const struct json_index *result)
{
    struct call call = { .command = "simulate.start" };
    struct simulation s = { .id = NULL };
    int code;
    const unsigned version = (unsigned)render_u64(result, 0, "version");
    const uint32_t stored = json_get(result, 0, SPAN("new"));
    if (cli->json || cli->dry_run || opts_flag(&cli->given, "no-simulate") || version < 2)
        return; /* there is nothing before a first version */
    if (stored != JSON_NONE && json_kind(result, stored) == JSON_FALSE && !opts_flag(&cli->given, "again"))
        return; /* nothing was pushed that was not there */
    const bool was_quiet = cli->quiet;
    const uint32_t was_timeout = cli->timeout_ms;
    cli->quiet = true; /* the push is done: whatever goes wrong here is no failure of it */
    cli->timeout_ms = was_timeout < PUSH_WAIT_MS ? was_timeout : PUSH_WAIT_MS;
    call_arg_cstr(&call, "version", arena_printf(&cli->arena, "%u", version));
    call_arg_cstr(&call, "since_ms", arena_printf(&cli->arena, "%lld", (long long)clock_wall_ms() - PUSH_SINCE_MS));
    call_arg_cstr(&call, "limit", PUSH_LIMIT);
    if (start(cli, &call, &s, &code)) {
        code = wait_for(cli, &s, PUSH_WAIT_MS);
        if (code == EXIT_GOOD)
            simulation_render_short(&s.ix, s.object, s.live, arena_printf(&cli->arena, "v%u", version));
        else if (code == EXIT_NOT_YET)
            printf("the simulation takes longer than a push should: `fairlead simulate %u` shows it\n", version);
    }
    cli->quiet = was_quiet;
    cli->timeout_ms = was_timeout;
}
