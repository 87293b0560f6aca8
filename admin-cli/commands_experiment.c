/* Experiments and shadows: starting, stopping, and their reports with a picture. */
#include "admin-cli/cli.h"
#include "admin-cli/watch.h"
#include <math.h>

#define PICTURE_COLUMNS 41 /* odd: no difference stands in the middle */

static const char *cell(const struct cli *cli, const struct json_index *ix, uint32_t object, const char *path,
                        enum column_kind kind)
{
    const struct column column = { "", path, kind };
    return render_cell(cli, ix, object, &column);
}

/* fallback: where the member is null, which stands for what is not known or infinite. */
static double number(const struct json_index *ix, uint32_t object, const char *path, double fallback)
{
    double value = 0;
    const uint32_t token = render_path(ix, object, path);
    return token != JSON_NONE && json_double(ix, token, &value) == OK ? value : fallback;
}

static bool is_word(const struct json_index *ix, uint32_t object, const char *path, const char *word)
{
    const uint32_t token = render_path(ix, object, path);
    return token != JSON_NONE && json_kind(ix, token) == JSON_STRING && json_string_eq(ix, token, span_cstr(word));
}

static bool is_object(const struct json_index *ix, uint32_t token)
{
    return token != JSON_NONE && json_kind(ix, token) == JSON_OBJECT;
}

/* ---- experiments ---- */

int run_experiment_start(struct cli *cli)
{
    struct call call = { .command = "experiment.start" };
    call_option(cli, &call, "arms");
    call_arg_cstr(&call, "metrics", opts_text(&cli->given, "metric", NULL));
    call_option(cli, &call, "unit");
    call_option(cli, &call, "routes");
    return call_change(cli, &call);
}

int run_experiment_stop(struct cli *cli)
{
    struct call call = { .command = "experiment.stop" };
    call_option(cli, &call, "reason");
    return call_change(cli, &call);
}

static int column_of(double value, double limit)
{
    const double half = (PICTURE_COLUMNS - 1) / 2.0;
    const double at = half + value / limit * half;
    return at < 0 ? 0 : at > PICTURE_COLUMNS - 1 ? PICTURE_COLUMNS - 1 : (int)lround(at);
}

/* "          |   [=====o=====]      ": the interval, the estimate in it, and no difference as the bar. */
static void draw(const struct json_index *ix, uint32_t result, double limit)
{
    char line[PICTURE_COLUMNS + 1];
    const double low = number(ix, result, "low", -INFINITY), high = number(ix, result, "high", INFINITY),
                 mid = number(ix, result, "change", NAN);
    memset(line, ' ', PICTURE_COLUMNS);
    line[PICTURE_COLUMNS] = '\0';
    line[PICTURE_COLUMNS / 2] = '|';
    if (!is_word(ix, result, "verdict", "too_little")) {
        const int from = low < -limit ? 0 : column_of(low, limit),
                  to = high > limit ? PICTURE_COLUMNS - 1 : column_of(high, limit);
        for (int i = from; i <= to; i++)
            line[i] = i == PICTURE_COLUMNS / 2 ? '+' : '-';
        line[from] = low < -limit ? '<' : '[';
        line[to] = high > limit ? '>' : ']';
        if (!isnan(mid))
            line[column_of(mid, limit)] = 'o';
    }
    printf("  %s\n", line);
}

/* A scale on which every interval that has ends can be seen: the farthest of them, else a tenth. */
static double scale_of(const struct json_index *ix, uint32_t results, bool absolute)
{
    double limit = 0;
    for (uint32_t t = json_first(ix, results); t != JSON_NONE; t = json_next(ix, results, t)) {
        bool here = false;
        const uint32_t token = json_get(ix, t, SPAN("absolute"));
        if (token == JSON_NONE || json_bool(ix, token, &here) != OK || here != absolute)
            continue;
        limit = fmax(limit, fabs(number(ix, t, "change", 0)) * 1.5);
        limit = fmax(limit, fabs(number(ix, t, "low", 0)));
        limit = fmax(limit, fmin(fabs(number(ix, t, "high", 0)), 10));
    }
    return limit > 0 ? limit : 0.1;
}

static void print_answer(const struct cli *cli, const struct json_index *ix, uint32_t t)
{
    const double p = number(ix, t, "p_value", 1), seconds = number(ix, t, "needed.seconds_more", 0);
    printf("  p = %.3g", p);
    if (number(ix, t, "low", -1) > 0 || number(ix, t, "high", 1) < 0)
        printf("; they differ");
    else if (is_word(ix, t, "needed.answer", "never"))
        printf("; these units differ too much from each other for more of their requests to tell a change of %s",
               cell(cli, ix, t, "words.tolerance", COLUMN_TEXT));
    else if (is_word(ix, t, "needed.answer", "known") && render_u64(ix, t, "needed.requests_more") == 0)
        printf("; this traffic can tell a change of %s", cell(cli, ix, t, "words.tolerance", COLUMN_TEXT));
    else if (is_word(ix, t, "needed.answer", "known"))
        printf("; a change of %s could be told after %llu more requests, at this rate in %.0f %s",
               cell(cli, ix, t, "words.tolerance", COLUMN_TEXT),
               (unsigned long long)render_u64(ix, t, "needed.requests_more"),
               ceil(seconds < 2 * 3600 ? seconds / 60 : seconds / 3600), seconds < 2 * 3600 ? "minutes" : "hours");
    else
        printf("; too little traffic yet to say when it can be told");
    printf("\n");
}

static void print_results(const struct cli *cli, const struct json_index *ix, uint32_t results)
{
    for (uint32_t t = json_first(ix, results); t != JSON_NONE; t = json_next(ix, results, t)) {
        bool absolute = false;
        const uint32_t token = json_get(ix, t, SPAN("absolute"));
        if (token != JSON_NONE && json_bool(ix, token, &absolute) != OK)
            absolute = false;
        printf("\n%s, v%llu: %s against %s: %s, surely %s\n", cell(cli, ix, t, "words.title", COLUMN_TEXT),
               (unsigned long long)render_u64(ix, t, "version"), cell(cli, ix, t, "words.treatment", COLUMN_TEXT),
               cell(cli, ix, t, "words.baseline", COLUMN_TEXT), cell(cli, ix, t, "words.change", COLUMN_TEXT),
               cell(cli, ix, t, "words.interval", COLUMN_TEXT));
        draw(ix, t, scale_of(ix, results, absolute));
        print_answer(cli, ix, t);
    }
}

static int show_report(struct cli *cli, bool *ret_live)
{
    static const struct column arms[] = { { "VERSION", "version", COLUMN_NUMBER },
                                          { "SHARE", "share", COLUMN_FRACTION },
                                          { "REQUESTS", "requests", COLUMN_NUMBER },
                                          { "UNITS", "units", COLUMN_NUMBER } };
    struct call call = { .command = "experiment.report" };
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    *ret_live = is_object(&ix, 0) && is_word(&ix, 0, "phase", "running");
    if (cli->json) {
        render_json(reply->result);
        return EXIT_GOOD;
    }
    if (!is_object(&ix, 0)) {
        printf("%s\n", reply->message.ptr);
        return EXIT_GOOD;
    }
    printf("%s, %s, for %s, by %s%s%s\n", cell(cli, &ix, 0, "id", COLUMN_TEXT), cell(cli, &ix, 0, "phase", COLUMN_TEXT),
           cell(cli, &ix, 0, "runs_ms", COLUMN_MS), cell(cli, &ix, 0, "unit", COLUMN_TEXT), *ret_live ? "" : ": ",
           *ret_live ? "" : cell(cli, &ix, 0, "ended_why", COLUMN_TEXT));
    render_table(cli, &ix, json_get(&ix, 0, SPAN("arms")), arms, ARRAY_LEN(arms), "");
    bool mismatch = false;
    const uint32_t token = json_get(&ix, 0, SPAN("ratio_mismatch"));
    if (token != JSON_NONE && json_bool(&ix, token, &mismatch) == OK && mismatch)
        printf("TRUST NOTHING BELOW: the arms did not get their shares of units (p = %.2g)\n",
               number(&ix, 0, "ratio_p_value", 1));
    printf("intervals and p-values hold however often you look, at %g%% for all of them together; weights of scored "
           "tiers\n"
           "are frozen in all arms, from the same evidence, while it runs\n",
           number(&ix, 0, "alpha", 0.05) * 100);
    const uint32_t results = json_get(&ix, 0, SPAN("results"));
    if (results != JSON_NONE)
        print_results(cli, &ix, results);
    return EXIT_GOOD;
}

int run_experiment_report(struct cli *cli)
{
    return watch(cli, show_report);
}

/* ---- shadows ---- */

int run_shadow_start(struct cli *cli)
{
    struct call call = { .command = "shadow.start" };
    call_arg_cstr(&call, "version", cli_arg(cli, 0));
    call_option(cli, &call, "share");
    call_option(cli, &call, "budget");
    call_option(cli, &call, "routes");
    call_option(cli, &call, "allow-tools");
    return call_change(cli, &call);
}

int run_shadow_stop(struct cli *cli)
{
    struct call call = { .command = "shadow.stop" };
    call_option(cli, &call, "reason");
    return call_change(cli, &call);
}

static double percent(uint64_t part, uint64_t of)
{
    return of ? 100.0 * (double)part / (double)of : 0;
}

static void print_shadow(const struct cli *cli, const struct json_index *ix)
{
    const uint64_t pairs = render_u64(ix, 0, "compared.requests");
    const double each = pairs ? (double)pairs : 1;
    printf("%s of v%llu, %s, for %s: %s of requests, $%s of $%s spent\n", cell(cli, ix, 0, "id", COLUMN_TEXT),
           (unsigned long long)render_u64(ix, 0, "version"), cell(cli, ix, 0, "phase", COLUMN_TEXT),
           cell(cli, ix, 0, "runs_ms", COLUMN_MS), cell(cli, ix, 0, "share_ppm", COLUMN_SHARE),
           cell(cli, ix, 0, "spent_nano", COLUMN_NANO_USD), cell(cli, ix, 0, "budget_nano", COLUMN_NANO_USD));
    if (!is_word(ix, 0, "phase", "running"))
        printf("ended       %s\n", cell(cli, ix, 0, "ended_why", COLUMN_TEXT));
    printf("copies      %llu, of which %llu failed; %llu compared with their requests\n",
           (unsigned long long)render_u64(ix, 0, "copies"), (unsigned long long)render_u64(ix, 0, "failed"),
           (unsigned long long)pairs);
    if (render_u64(ix, 0, "unsent") > 0)
        printf("budget      no room for the last %llu copies: each was estimated at more than what is left\n",
               (unsigned long long)render_u64(ix, 0, "unsent"));
    if (pairs == 0)
        return;
    printf("status      the same in %.1f%%; failed: %.2f%% real, %.2f%% shadow\n",
           percent(render_u64(ix, 0, "compared.same_status"), pairs),
           percent(render_u64(ix, 0, "compared.real_failed"), pairs),
           percent(render_u64(ix, 0, "compared.shadow_failed"), pairs));
    printf("latency     p50 %s real, %s shadow; p90 %s real, %s shadow\n",
           cell(cli, ix, 0, "compared.real_latency.p50_us", COLUMN_US),
           cell(cli, ix, 0, "compared.shadow_latency.p50_us", COLUMN_US),
           cell(cli, ix, 0, "compared.real_latency.p90_us", COLUMN_US),
           cell(cli, ix, 0, "compared.shadow_latency.p90_us", COLUMN_US));
    printf("tokens      %.1f real, %.1f shadow, for each request\n",
           (double)render_u64(ix, 0, "compared.real_tokens") / each,
           (double)render_u64(ix, 0, "compared.shadow_tokens") / each);
    printf("cost        $%.6f real, $%.6f shadow, for each request\n",
           (double)render_u64(ix, 0, "compared.real_nano") / 1e9 / each,
           (double)render_u64(ix, 0, "compared.shadow_nano") / 1e9 / each);
}

static int show_shadow(struct cli *cli, bool *ret_live)
{
    struct call call = { .command = "shadow.status" };
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    *ret_live = is_object(&ix, 0) && is_word(&ix, 0, "phase", "running");
    if (cli->json)
        render_json(reply->result);
    else if (!is_object(&ix, 0))
        printf("%s\n", reply->message.ptr);
    else
        print_shadow(cli, &ix);
    return EXIT_GOOD;
}

int run_shadow_status(struct cli *cli)
{
    return watch(cli, show_shadow);
}
