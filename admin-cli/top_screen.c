#include "admin-cli/top_screen.h"
#include "common/clock.h"
#include <math.h>
#include <stdarg.h>

#define LINE_BYTES_MAX     2048u
#define NAME_COLUMNS_MOST  36u
#define NAME_COLUMNS_LEAST 12u
#define OTHER_COLUMNS      79u /* of a table, with a word of health */

struct screen {
    const struct top_view *view;
    struct buf *out;
    size_t width, left; /* columns; lines */
    size_t name_width;
    bool terminal;
    enum err err;
};

/* One line, cut to the width; what does not fit the height is dropped. */
static void put(struct screen *s, const char *style, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void put(struct screen *s, const char *style, const char *fmt, ...)
{
    char text[LINE_BYTES_MAX];
    va_list args;
    if (s->err || s->left == 0)
        return;
    s->left--;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    const struct span cut = render_head(span_cstr(text), s->width);
    if (!s->terminal)
        s->err = buf_printf(s->out, SPAN_FMT "\n", SPAN_ARG(cut));
    else
        s->err = buf_printf(s->out, "%s" SPAN_FMT "%s\x1b[K%s", style, SPAN_ARG(cut), *style ? "\x1b[0m" : "",
                            s->left ? "\r\n" : "");
}

static const char *cell(const struct screen *s, const struct json_index *ix, uint32_t object, const char *path,
                        enum column_kind kind)
{
    const struct column column = { "", path, kind };
    return render_cell(s->view->cli, ix, object, &column);
}

/* ---- figures ---- */

static double rate(const struct screen *s, double count)
{
    return s->view->change->seconds > 0 ? count / s->view->change->seconds : 0;
}

static const char *share_text(char *out, size_t room, double part, double whole)
{
    if (whole <= 0)
        snprintf(out, room, "-");
    else
        snprintf(out, room, "%.1f%%", 100 * part / whole);
    return out;
}

static const char *seconds_text(char *out, size_t room, double seconds)
{
    if (isnan(seconds))
        snprintf(out, room, "-");
    else if (seconds < 10)
        snprintf(out, room, "%.0fms", seconds * 1000);
    else
        snprintf(out, room, "%.1fs", seconds);
    return out;
}

static const char *money_text(char *out, size_t room, double usd)
{
    snprintf(out, room, usd == 0 ? "-" : usd < 0.995 ? "$%.4f" : "$%.2f", usd);
    return out;
}

struct figures {
    char errors[16], cancelled[16], p50[16], p95[16], cost[32], list[32];
};

static void work_out(const struct screen *s, const struct top_row *row, double failed, double of, struct figures *f)
{
    share_text(f->errors, sizeof(f->errors), failed, of);
    share_text(f->cancelled, sizeof(f->cancelled), row->cancelled, row->requests);
    seconds_text(f->p50, sizeof(f->p50), top_quantile(s->view->sample, row, 0.50));
    seconds_text(f->p95, sizeof(f->p95), top_quantile(s->view->sample, row, 0.95));
    money_text(f->cost, sizeof(f->cost), 3600 * rate(s, row->cost));
    money_text(f->list, sizeof(f->list), 3600 * rate(s, row->list));
}

/* A name in exactly the columns of names. */
static const char *name_cell(const struct screen *s, struct span name)
{
    struct arena *arena = &s->view->cli->arena;
    const char *text = render_text(arena, name);
    const struct span head = render_head(span_cstr(text), s->name_width);
    if (head.len == strlen(text)) {
        const int pad = (int)(s->name_width - render_width(head));
        const char *made = arena_printf(arena, SPAN_FMT "%*s", SPAN_ARG(head), pad, "");
        return made ? made : "?";
    }
    const char *cut = arena_printf(arena, SPAN_FMT "…", SPAN_ARG(render_head(head, s->name_width - 1)));
    return cut ? cut : "?";
}

/* ---- the head ---- */

static const char *policy_text(const struct screen *s)
{
    const struct json_index *ix = s->view->status;
    struct arena *arena = &s->view->cli->arena;
    const char *text = "";
    const uint32_t arms = ix ? json_get(ix, 0, SPAN("arms")) : JSON_NONE;
    if (arms == JSON_NONE || ix->tokens[arms].count == 0)
        return ix ? "no policy" : "control plane not asked";
    for (uint32_t t = json_first(ix, arms); text && t != JSON_NONE; t = json_next(ix, arms, t)) {
        double share = 0;
        const uint32_t token = json_get(ix, t, SPAN("share"));
        if (token == JSON_NONE || json_double(ix, token, &share) != OK)
            share = 0;
        text = arena_printf(arena, "%s%sv%llu %g%%", text, *text ? " + " : "policy ",
                            (unsigned long long)render_u64(ix, t, "version"), share * 100);
    }
    return text ? text : "?";
}

/* "3 nodes: 2 current, 1 silent" */
static const char *nodes_text(const struct screen *s)
{
    static const char *const states[] = { "current", "behind", "refusing", "pinned", "other epoch", "silent" };
    const struct json_index *ix = s->view->status;
    struct arena *arena = &s->view->cli->arena;
    const uint32_t nodes = ix ? json_get(ix, 0, SPAN("nodes")) : JSON_NONE;
    unsigned counts[ARRAY_LEN(states)] = { 0 }, all = 0;
    if (nodes == JSON_NONE)
        return "";
    for (uint32_t t = json_first(ix, nodes); t != JSON_NONE; t = json_next(ix, nodes, t)) {
        const char *state = cell(s, ix, t, "state", COLUMN_TEXT);
        all++;
        for (size_t i = 0; i < ARRAY_LEN(states); i++)
            counts[i] += strcmp(state, states[i]) == 0;
    }
    const char *text = arena_printf(arena, " · %u node%s", all, all == 1 ? "" : "s");
    for (size_t i = 0, told = 0; text && i < ARRAY_LEN(states); i++) {
        if (counts[i])
            text = arena_printf(arena, "%s%s %u %s", text, told++ ? "," : ":", counts[i], states[i]);
    }
    return text ? text : "?";
}

static void put_head(struct screen *s)
{
    const struct top_view *v = s->view;
    const struct top_row *all = &v->change->all;
    struct figures f;
    char now[64];
    work_out(s, all, all->errors, all->requests, &f);
    put(s, "\x1b[1m", "fairlead top · %s%s%.8sZ · %s%s", v->cli->context.name ? v->cli->context.name : "",
        v->cli->context.name ? " · " : "", clock_format_wall(v->wall_ms, now) + 11, policy_text(s), nodes_text(s));
    put(s, "",
        "%.1f requests/s · %.0f open, %.0f streaming · errors %s · TTFT p50 %s p95 %s · %s/h (list %s) · %s, %.0f s",
        rate(s, all->requests), v->sample->requests_open, v->sample->streams_open, f.errors, f.p50, f.p95, f.cost,
        f.list, v->source, v->change->seconds);
    if (*v->trouble)
        put(s, "\x1b[33m", "%s", v->trouble);
}

/* ---- what goes on besides ---- */

static void put_rollout(struct screen *s)
{
    const struct json_index *ix = s->view->rollout;
    const uint32_t r = ix ? json_get(ix, 0, SPAN("rollout")) : JSON_NONE;
    const uint32_t lock = ix ? json_get(ix, 0, SPAN("lock")) : JSON_NONE;
    if (lock != JSON_NONE && json_kind(ix, lock) == JSON_OBJECT)
        put(s, "\x1b[33m", "locked    by %s: %s", cell(s, ix, lock, "by", COLUMN_TEXT),
            cell(s, ix, lock, "reason", COLUMN_TEXT));
    if (r == JSON_NONE || json_kind(ix, r) != JSON_OBJECT || render_u64(ix, r, "ended_at_ms"))
        return;
    const char *next = cell(s, ix, r, "next_words", COLUMN_TEXT);
    put(s, "\x1b[36m", "rollout   %s %s: v%llu -> v%llu, step %llu%s%s", cell(s, ix, r, "id", COLUMN_TEXT),
        cell(s, ix, r, "phase", COLUMN_TEXT), (unsigned long long)render_u64(ix, r, "from"),
        (unsigned long long)render_u64(ix, r, "to"), (unsigned long long)render_u64(ix, r, "step"),
        strcmp(next, "-") == 0 ? "" : "; ", strcmp(next, "-") == 0 ? "" : next);
}

static void put_overrides(struct screen *s)
{
    const struct json_index *ix = s->view->status;
    const uint32_t set = ix ? json_get(ix, 0, SPAN("overrides_set")) : JSON_NONE;
    for (uint32_t t = set == JSON_NONE ? JSON_NONE : json_first(ix, set); t != JSON_NONE; t = json_next(ix, set, t))
        put(s, "\x1b[33m", "%-9s %s by %s: %s", cell(s, ix, t, "kind", COLUMN_TEXT),
            cell(s, ix, t, "target", COLUMN_TEXT), cell(s, ix, t, "by", COLUMN_TEXT),
            cell(s, ix, t, "reason", COLUMN_TEXT));
}

static void put_breakers(struct screen *s)
{
    const struct top_sample *sample = s->view->sample;
    struct arena *arena = &s->view->cli->arena;
    const char *text = "";
    if (sample->breaker_count == 0)
        return;
    for (uint32_t i = 0; text && i < sample->breaker_count && i < TOP_BREAKERS_MAX; i++)
        text = arena_printf(arena, "%s%s%s %s", text, *text ? ", " : "", render_text(arena, sample->breakers[i].model),
                            render_text(arena, sample->breakers[i].state));
    put(s, "\x1b[31m", "breakers  %s", text ? text : "?");
}

/* ---- the tables ---- */

static void put_routes(struct screen *s, size_t lines)
{
    const struct top_change *c = s->view->change;
    put(s, "\x1b[7m", "%-*s %9s %8s %8s %9s %9s %9s %10s", (int)s->name_width, "ROUTE", "REQ/S", "ERRORS", "CANCEL",
        "TTFT P50", "TTFT P95", "TOKENS/S", "COST/H");
    for (uint32_t i = 0; i < c->route_count; i++) {
        const struct top_row *row = &c->routes[i];
        struct figures f;
        if (lines != SIZE_MAX && i + 2 > lines && c->route_count > i + 1) {
            put(s, "", "… %u more", c->route_count - i);
            return;
        }
        work_out(s, row, row->errors, row->requests, &f);
        put(s, "", "%s %9.1f %8s %8s %9s %9s %9.0f %10s", name_cell(s, row->name), rate(s, row->requests), f.errors,
            f.cancelled, f.p50, f.p95, rate(s, row->output_tokens), f.cost);
    }
    if (c->route_count == 0)
        put(s, "", "no requests yet");
}

/* What the control plane says of a model: its health and why, or that operators withdrew it. */
static const char *health_of(const struct screen *s, struct span model, bool *ret_bad)
{
    const struct json_index *ix = s->view->providers;
    const uint32_t providers = ix ? json_get(ix, 0, SPAN("providers")) : JSON_NONE;
    *ret_bad = false;
    for (uint32_t p = providers == JSON_NONE ? JSON_NONE : json_first(ix, providers); p != JSON_NONE;
         p = json_next(ix, providers, p)) {
        const uint32_t models = json_get(ix, p, SPAN("models"));
        for (uint32_t m = models == JSON_NONE ? JSON_NONE : json_first(ix, models); m != JSON_NONE;
             m = json_next(ix, models, m)) {
            struct span name;
            const uint32_t token = json_get(ix, m, SPAN("name"));
            if (token == JSON_NONE || json_string(&s->view->cli->arena, ix, token, &name) != OK ||
                !span_eq(name, model))
                continue;
            const char *health = cell(s, ix, m, "health", COLUMN_TEXT), *why = cell(s, ix, m, "why", COLUMN_TEXT);
            const char *set = cell(s, ix, m, "override.kind", COLUMN_TEXT);
            *ret_bad = strcmp(health, "down") == 0 || strcmp(set, "-") != 0;
            const char *text = arena_printf(&s->view->cli->arena, "%s%s%s%s%s", health, *why && *why != '-' ? ": " : "",
                                            *why && *why != '-' ? why : "", *set && *set != '-' ? ", " : "",
                                            *set && *set != '-' ? set : "");
            return text ? text : "?";
        }
    }
    return "";
}

static void put_models(struct screen *s, size_t lines)
{
    const struct top_change *c = s->view->change;
    put(s, "\x1b[7m", "%-*s %9s %8s %8s %9s %9s %9s %10s  %s", (int)s->name_width, "MODEL", "TRIES/S", "FAILED",
        "CANCEL", "TTFT P50", "TTFT P95", "TOKENS/S", "COST/H", "HEALTH");
    for (uint32_t i = 0; i < c->model_count; i++) {
        const struct top_row *row = &c->models[i];
        struct figures f;
        bool bad;
        if (lines != SIZE_MAX && i + 2 > lines && c->model_count > i + 1) {
            put(s, "", "… %u more", c->model_count - i);
            return;
        }
        const char *health = health_of(s, row->name, &bad);
        work_out(s, row, row->failures, row->attempts, &f);
        put(s, bad ? "\x1b[31m" : "", "%s %9.1f %8s %8s %9s %9s %9.0f %10s  %s", name_cell(s, row->name),
            rate(s, row->attempts), f.errors, f.cancelled, f.p50, f.p95, rate(s, row->output_tokens), f.cost, health);
    }
}

/* As wide as the longest name, within what the width allows. */
static size_t name_columns(const struct top_change *c, size_t width)
{
    size_t longest = NAME_COLUMNS_LEAST, most = NAME_COLUMNS_MOST;
    for (uint32_t i = 0; i < c->route_count; i++)
        longest = size_max(longest, render_width(c->routes[i].name));
    for (uint32_t i = 0; i < c->model_count; i++)
        longest = size_max(longest, render_width(c->models[i].name));
    if (width < OTHER_COLUMNS + most)
        most = width > OTHER_COLUMNS + NAME_COLUMNS_LEAST ? width - OTHER_COLUMNS : NAME_COLUMNS_LEAST;
    return size_min(longest, most);
}

enum err top_frame(const struct top_view *view, size_t width, size_t height, bool terminal, struct buf *out)
{
    struct screen s = { .view = view,
                        .out = out,
                        .width = width,
                        .left = height,
                        .terminal = terminal,
                        .name_width = name_columns(view->change, width) };
    const bool endless = height == SIZE_MAX;
    put_head(&s);
    put_rollout(&s);
    put_overrides(&s);
    put_breakers(&s);
    put(&s, "", "%s", "");
    /* Of the rest: routes take what they need up to a third, models what is left. */
    const size_t third = s.left / 3 > 3 ? s.left / 3 : 3;
    put_routes(&s, endless ? SIZE_MAX : third);
    put(&s, "", "%s", "");
    put_models(&s, endless ? SIZE_MAX : s.left > 1 ? s.left - 1 : 0);
    return s.err;
}

/* ---- for programs ---- */

static void json_row(struct json_writer *w, const struct screen *s, const struct top_row *row)
{
    const double p50 = top_quantile(s->view->sample, row, 0.5), p95 = top_quantile(s->view->sample, row, 0.95);
    json_object_open(w);
    json_member_string(w, "name", row->name);
    const struct {
        const char *name;
        double value;
    } members[] = { { "requests_per_s", rate(s, row->requests) },
                    { "errors", row->requests > 0 ? row->errors / row->requests : NAN },
                    { "cancelled", row->requests > 0 ? row->cancelled / row->requests : NAN },
                    { "attempts_per_s", rate(s, row->attempts) },
                    { "failures", row->attempts > 0 ? row->failures / row->attempts : NAN },
                    { "ttft_p50_ms", p50 * 1000 },
                    { "ttft_p95_ms", p95 * 1000 },
                    { "output_tokens_per_s", rate(s, row->output_tokens) },
                    { "usd_per_hour", 3600 * rate(s, row->cost) },
                    { "list_usd_per_hour", 3600 * rate(s, row->list) } };
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        char number[64];
        json_key(w, span_cstr(members[i].name));
        const int len = snprintf(number, sizeof(number), "%.9g", members[i].value);
        if (!isfinite(members[i].value))
            json_put_null(w);
        else
            json_put_raw(w, span_of(number, (size_t)len));
    }
    json_object_close(w);
}

static void json_rows(struct json_writer *w, const struct screen *s, const char *name, const struct top_row *rows,
                      uint32_t count)
{
    json_key(w, span_cstr(name));
    json_array_open(w);
    for (uint32_t i = 0; i < count; i++)
        json_row(w, s, &rows[i]);
    json_array_close(w);
}

enum err top_json(const struct top_view *view, struct buf *out)
{
    const struct screen s = { .view = view };
    const struct top_sample *sample = view->sample;
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_i64(&w, "at_ms", view->wall_ms);
    json_member_u64(&w, "over_ms", (uint64_t)(view->change->seconds * 1000));
    json_member_u64(&w, "nodes", sample->nodes);
    json_member_u64(&w, "requests_open", (uint64_t)sample->requests_open);
    json_member_u64(&w, "streams_open", (uint64_t)sample->streams_open);
    json_key(&w, SPAN("all"));
    json_row(&w, &s, &view->change->all);
    json_rows(&w, &s, "routes", view->change->routes, view->change->route_count);
    json_rows(&w, &s, "models", view->change->models, view->change->model_count);
    json_key(&w, SPAN("breakers"));
    json_array_open(&w);
    for (uint32_t i = 0; i < sample->breaker_count && i < TOP_BREAKERS_MAX; i++) {
        json_object_open(&w);
        json_member_string(&w, "model", sample->breakers[i].model);
        json_member_string(&w, "state", sample->breakers[i].state);
        json_object_close(&w);
    }
    json_array_close(&w);
    if (view->rollout) {
        json_key(&w, SPAN("rollout"));
        json_put_raw(&w, json_raw(view->rollout, 0));
    }
    json_object_close(&w);
    return json_writer_end(&w);
}
