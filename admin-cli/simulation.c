#include "admin-cli/simulation.h"
#include <math.h>

#define MOVES_SHOWN  20u
#define GROUPS_SHOWN 10u
#define FIGURE_BYTES 80u

/* The number at a path; NaN when it is null or absent. */
static double number(const struct json_index *ix, uint32_t object, const char *path)
{
    double value;
    const uint32_t token = object == JSON_NONE ? JSON_NONE : render_path(ix, object, path);
    return token != JSON_NONE && json_double(ix, token, &value) == OK ? value : (double)NAN;
}

enum kind { KIND_USD, KIND_MS, KIND_SHARE };

static void format_one(enum kind kind, double value, bool with_sign, char *out, size_t room)
{
    const char *sign = with_sign && value >= 0 ? "+" : value < 0 ? "-" : "";
    const double size = fabs(value);
    switch (kind) {
    case KIND_USD: {
        const int places = size == 0 || size >= 1 ? 2 : size >= 0.01 ? 4 : size >= 0.0001 ? 6 : 8;
        (void)snprintf(out, room, "%s$%.*f", sign, places, size);
        break;
    }
    case KIND_MS:
        (void)snprintf(out, room, size >= 1000 ? "%s%.2f s" : "%s%.0f ms", sign, size >= 1000 ? size / 1000 : size);
        break;
    case KIND_SHARE:
        (void)snprintf(out, room, "%s%.2f%%", sign, size * 100);
        break;
    }
}

/* "$0.0021 (0.0018 to 0.0024)", or "unknown". */
static const char *figure(const struct json_index *ix, uint32_t object, enum kind kind, bool with_sign,
                          char out[FIGURE_BYTES])
{
    const double value = number(ix, object, "value"), low = number(ix, object, "low"),
                 high = number(ix, object, "high");
    char a[24], b[24], c[24];
    if (isnan(value)) {
        (void)snprintf(out, FIGURE_BYTES, "unknown");
        return out;
    }
    format_one(kind, value, with_sign, a, sizeof(a));
    format_one(kind, low, with_sign, b, sizeof(b));
    format_one(kind, high, with_sign, c, sizeof(c));
    if (isnan(low) || isnan(high))
        (void)snprintf(out, FIGURE_BYTES, "%s (interval unknown)", a);
    else
        (void)snprintf(out, FIGURE_BYTES, "%s (%s to %s)", a, b, c);
    return out;
}

static const struct {
    const char *name, *title;
    enum kind kind;
} metrics[] = { { "cost_usd", "cost per request", KIND_USD },
                { "ttft_ms", "time to first token", KIND_MS },
                { "failures", "failures", KIND_SHARE } };

static const char *version_name(struct cli *cli, unsigned version, const char *otherwise)
{
    const char *name = version ? arena_printf(&cli->arena, "v%u", version) : otherwise;
    return name ? name : otherwise;
}

static void print_metrics(const struct json_index *ix, uint32_t result, const char *live, const char *candidate)
{
    printf("\n%-20s  %-34s  %-34s  %s\n", "PER REQUEST, 95%", live, candidate, "DIFFERENCE");
    for (size_t i = 0; i < ARRAY_LEN(metrics); i++) {
        char a[FIGURE_BYTES], b[FIGURE_BYTES], c[FIGURE_BYTES];
        const uint32_t metric = json_get(ix, render_path(ix, result, "metrics"), span_cstr(metrics[i].name));
        if (metric == JSON_NONE)
            continue;
        printf("%-20s  %-34s  %-34s  %s\n", metrics[i].title,
               figure(ix, json_get(ix, metric, SPAN("live")), metrics[i].kind, false, a),
               figure(ix, json_get(ix, metric, SPAN("candidate")), metrics[i].kind, false, b),
               figure(ix, json_get(ix, metric, SPAN("difference")), metrics[i].kind, true, c));
    }
}

static const char *text(struct cli *cli, const struct json_index *ix, uint32_t object, const char *name,
                        const char *otherwise)
{
    const struct column column = { name, name, COLUMN_TEXT };
    const uint32_t token = json_get(ix, object, span_cstr(name));
    return token == JSON_NONE || json_kind(ix, token) == JSON_NULL ? otherwise : render_cell(cli, ix, object, &column);
}

static void print_moves(struct cli *cli, const struct json_index *ix, uint32_t result)
{
    const uint32_t matrix = render_path(ix, result, "matrix");
    unsigned shown = 0, left = 0;
    for (uint32_t t = matrix == JSON_NONE ? JSON_NONE : json_first(ix, matrix); t != JSON_NONE;
         t = json_next(ix, matrix, t)) {
        const char *from = text(cli, ix, t, "from", "(refused)"), *to = text(cli, ix, t, "to", "(refused)");
        if (strcmp(from, to) == 0 || number(ix, t, "requests") < 0.5)
            continue;
        if (shown == 0)
            printf("\n%-34s  %-34s  %s\n", "FROM", "TO", "REQUESTS");
        if (shown++ < MOVES_SHOWN)
            printf("%-34s  %-34s  %.0f\n", from, to, number(ix, t, "requests"));
        else
            left++;
    }
    if (left > 0)
        printf("and %u more; --json has them all\n", left);
}

static void print_refusals(struct cli *cli, const struct json_index *ix, uint32_t result)
{
    const uint32_t refused = render_path(ix, result, "refused");
    const uint32_t groups = refused == JSON_NONE ? JSON_NONE : json_get(ix, refused, SPAN("groups"));
    const double fresh = number(ix, refused, "new"), again = number(ix, refused, "served_again");
    unsigned shown = 0;
    if (again > 0)
        printf("\n%.0f requests that are refused now would be served\n", again);
    if (!(fresh > 0)) {
        printf("\nnobody would newly be refused\n");
        return;
    }
    printf("\n%.0f requests would newly be refused:\n", fresh);
    for (uint32_t t = groups == JSON_NONE ? JSON_NONE : json_first(ix, groups); t != JSON_NONE && shown < GROUPS_SHOWN;
         t = json_next(ix, groups, t), shown++)
        printf("  team %s, asking for %s: %.0f (%s)\n    %s\n", text(cli, ix, t, "team", ""),
               text(cli, ix, t, "asked", ""), number(ix, t, "requests"), text(cli, ix, t, "reason", ""),
               text(cli, ix, t, "why", ""));
}

static void print_unmeasured(struct cli *cli, const struct json_index *ix, uint32_t result)
{
    const uint32_t models = render_path(ix, result, "models"), path = render_path(ix, result, "slowest_new_path");
    const double requests = number(ix, result, "requests");
    char ttft[24];
    for (uint32_t t = models == JSON_NONE ? JSON_NONE : json_first(ix, models); t != JSON_NONE;
         t = json_next(ix, models, t)) {
        const double mass = number(ix, t, "candidate_requests");
        if (number(ix, t, "recorded") > 0 || !(mass > 0))
            continue;
        printf("\nno recorded request ever went to %s, which would get %.1f%%: %s\n", text(cli, ix, t, "model", ""),
               100 * mass / requests,
               isnan(number(ix, t, "ttft_ms"))
                   ? "its cost is of answers of the usual length, its speed and failures are not known"
                   : "its cost is of answers of the usual length, its speed what probes and other traffic measured");
    }
    if (path == JSON_NONE || json_kind(ix, path) == JSON_NULL)
        return;
    const double ms = number(ix, path, "ttft_ms");
    if (!isnan(ms))
        format_one(KIND_MS, ms, false, ttft, sizeof(ttft));
    printf("\nslowest new path: %s to %s, %.0f requests, first token %s\n", text(cli, ix, path, "route", "direct"),
           text(cli, ix, path, "model", ""), number(ix, path, "requests"), isnan(ms) ? "nobody knows when" : ttft);
}

static void print_quality(const struct json_index *ix, uint32_t result)
{
    const double requests = number(ix, result, "requests");
    const double effective = number(ix, result, "quality.effective_requests.candidate");
    const uint32_t by = render_path(ix, result, "quality.clustered_by");
    const bool by_time = by != JSON_NONE && json_string_eq(ix, by, SPAN("time"));
    printf("\nThe candidate is judged by what corresponds to %.0f of these %.0f requests, in %.0f %s. Not foreseen: "
           "that a "
           "model gets slower when more is sent there.\n",
           effective, requests, number(ix, result, "quality.clusters"),
           by_time ? "blocks of time (few units, or one sends most)" : "units");
}

/* "12431 requests", with what was left out. */
static void print_head(const struct json_index *ix, uint32_t simulation, uint32_t result)
{
    const double requests = number(ix, result, "requests"), moved = number(ix, result, "moved");
    const double unread = number(ix, result, "left_out_unread"), gone = number(ix, result, "left_out_team_gone");
    const uint32_t limited = json_get(ix, simulation, SPAN("limited"));
    printf("%.0f recorded requests, decided again by both%s\n", requests,
           limited != JSON_NONE && json_kind(ix, limited) == JSON_TRUE ? " (the newest; --limit takes more)" : "");
    if (unread > 0)
        printf("left out: %.0f whose body was never read\n", unread);
    if (gone > 0)
        printf("left out: %.0f of teams that are no more\n", gone);
    printf("%.0f of them (%.1f%%) would go elsewhere\n", moved, 100 * moved / requests);
}

void simulation_render(struct cli *cli, const struct json_index *ix, uint32_t simulation, unsigned live,
                       unsigned candidate)
{
    const uint32_t result = json_get(ix, simulation, SPAN("result"));
    if (result == JSON_NONE || !(number(ix, result, "requests") > 0)) {
        printf("no recorded request of that time can be decided again\n");
        return;
    }
    print_head(ix, simulation, result);
    print_metrics(ix, result, version_name(cli, live, "LIVE"), version_name(cli, candidate, "CANDIDATE"));
    print_moves(cli, ix, result);
    print_refusals(cli, ix, result);
    print_unmeasured(cli, ix, result);
    print_quality(ix, result);
}

void simulation_render_short(const struct json_index *ix, uint32_t simulation, unsigned live, const char *candidate)
{
    const uint32_t result = json_get(ix, simulation, SPAN("result"));
    const double requests = result == JSON_NONE ? 0 : number(ix, result, "requests");
    if (!(requests > 0))
        return;
    printf("simulated: of %.0f requests of the last hour %.1f%% would go elsewhere under %s than under v%u", requests,
           100 * number(ix, result, "moved") / requests, candidate, live);
    const double refused = number(ix, result, "refused.new");
    if (refused > 0)
        printf(", and %.0f would newly be refused", refused);
    printf("\n");
    for (size_t i = 0; i < ARRAY_LEN(metrics); i++) {
        char out[FIGURE_BYTES];
        const uint32_t metric = json_get(ix, render_path(ix, result, "metrics"), span_cstr(metrics[i].name));
        if (metric != JSON_NONE)
            printf("  %-20s  %s\n", metrics[i].title,
                   figure(ix, json_get(ix, metric, SPAN("difference")), metrics[i].kind, true, out));
    }
}
