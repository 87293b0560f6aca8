#include "admin-cli/top_sample.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_ARENA_MAX ((size_t)256 << 20)
#define LABELS_MAX       12u

void top_sample_begin(struct top_sample *sample, uint64_t at_ms)
{
    *sample = (struct top_sample){ .at_ms = at_ms };
    arena_init(&sample->arena, SAMPLE_ARENA_MAX);
    strmap_init(&sample->routes.by_name, &sample->arena);
    strmap_init(&sample->models.by_name, &sample->arena);
}

void top_sample_release(struct top_sample *sample)
{
    if (sample->at_ms || sample->nodes)
        arena_release(&sample->arena);
    *sample = (struct top_sample){ 0 };
}

/* ---- one line: name{label="value",...} number ---- */

struct line {
    struct span metric;
    struct {
        struct span name, value;
    } labels[LABELS_MAX];
    unsigned label_count;
    double value;
};

static struct span label(const struct line *line, struct span name)
{
    for (unsigned i = 0; i < line->label_count; i++) {
        if (span_eq(line->labels[i].name, name))
            return line->labels[i].value;
    }
    return SPAN("");
}

/* Past the quote that ends a value; SIZE_MAX: there is none. Escapes stay as they are: names of ours have none. */
static size_t value_end(struct span text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '\\')
            i++;
        else if (text.ptr[i] == '"')
            return i;
    }
    return SIZE_MAX;
}

static bool read_labels(struct span *rest, struct line *line)
{
    while (rest->len && rest->ptr[0] != '}') {
        const size_t equals = span_find(*rest, SPAN("=\""));
        if (equals == SIZE_MAX || line->label_count == LABELS_MAX)
            return false;
        const struct span name = span_head(*rest, equals);
        *rest = span_skip(*rest, equals + 2);
        const size_t end = value_end(*rest);
        if (end == SIZE_MAX)
            return false;
        line->labels[line->label_count].name = name;
        line->labels[line->label_count++].value = span_head(*rest, end);
        *rest = span_skip(*rest, end + 1);
        if (rest->len && rest->ptr[0] == ',')
            *rest = span_skip(*rest, 1);
    }
    if (!rest->len)
        return false;
    *rest = span_skip(*rest, 1);
    return true;
}

static bool read_number(struct span text, double *ret)
{
    char copy[64], *end;
    text = span_trim(text);
    if (text.len == 0 || text.len >= sizeof(copy))
        return false;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    *ret = strtod(copy, &end);
    return end != copy && (*end == '\0' || *end == ' '); /* a time may follow */
}

static bool read_line(struct span text, struct line *line)
{
    const size_t brace = span_find_byte(text, '{'), space = span_find_byte(text, ' ');
    const size_t end = size_min(brace, space);
    *line = (struct line){ 0 };
    if (text.len == 0 || text.ptr[0] == '#' || end == SIZE_MAX)
        return false;
    line->metric = span_head(text, end);
    struct span rest = span_skip(text, end);
    if (rest.ptr[0] == '{') {
        rest = span_skip(rest, 1);
        if (!read_labels(&rest, line))
            return false;
    }
    return read_number(rest, &line->value);
}

/* ---- summing up ---- */

static enum err row_of(struct arena *arena, struct top_rows *rows, struct span name, struct top_row **ret)
{
    const uintptr_t found = (uintptr_t)strmap_get(&rows->by_name, name); /* index and one: the array moves */
    if (found) {
        *ret = &rows->rows[found - 1];
        return OK;
    }
    if (rows->count == TOP_ROWS_MAX)
        return ERR_TOO_MANY;
    if (rows->count == rows->room) {
        const uint32_t room = rows->room ? rows->room * 2 : 32;
        struct top_row *more = ARENA_ARRAY(arena, room, struct top_row);
        if (!more)
            return ERR_NOMEM;
        if (rows->count)
            memcpy(more, rows->rows, rows->count * sizeof(*more));
        rows->rows = more;
        rows->room = room;
    }
    const struct span copy = arena_dup(arena, name);
    if (!copy.ptr || strmap_put(&rows->by_name, copy, (void *)((uintptr_t)rows->count + 1)) != OK)
        return ERR_NOMEM;
    *ret = &rows->rows[rows->count++];
    (*ret)->name = copy;
    return OK;
}

static void add_outcome(struct top_row *row, struct span outcome, double value)
{
    row->requests += value;
    if (span_eq(outcome, SPAN("ok")))
        row->ok += value;
    else if (span_eq(outcome, SPAN("cancelled")))
        row->cancelled += value;
    else if (!span_eq(outcome, SPAN("client_error")))
        row->errors += value;
}

/* Index of the edge; new ones are told by the first histogram of the first page, in rising order. */
static uint32_t edge_of(struct top_sample *sample, struct span text)
{
    double edge;
    if (span_eq(text, SPAN("+Inf")))
        edge = INFINITY;
    else if (!read_number(text, &edge))
        return TOP_EDGES_MAX;
    for (uint32_t i = 0; i < sample->edge_count; i++) {
        if (sample->edges[i] == edge) /* both were read from the same text */
            return i;
    }
    if (sample->edge_count == TOP_EDGES_MAX || (sample->edge_count && sample->edges[sample->edge_count - 1] >= edge))
        return TOP_EDGES_MAX;
    sample->edges[sample->edge_count] = edge;
    return sample->edge_count++;
}

static void add_to_row(struct top_sample *sample, struct top_row *row, const struct line *line)
{
    const struct span metric = span_skip(line->metric, strlen("fairlead_"));
    if (span_eq(metric, SPAN("requests_total")))
        add_outcome(row, label(line, SPAN("outcome")), line->value);
    else if (span_eq(metric, SPAN("attempts_total")))
        row->attempts += line->value;
    else if (span_eq(metric, SPAN("attempt_failures_total")))
        row->failures += line->value;
    else if (span_eq(metric, SPAN("tokens_total")) && span_eq(label(line, SPAN("kind")), SPAN("output")))
        row->output_tokens += line->value;
    else if (span_eq(metric, SPAN("cost_usd_total")))
        row->cost += line->value;
    else if (span_eq(metric, SPAN("cost_list_usd_total")))
        row->list += line->value;
    else if (span_eq(metric, SPAN("ttft_seconds_bucket"))) {
        const uint32_t edge = edge_of(sample, label(line, SPAN("le")));
        if (edge < TOP_EDGES_MAX)
            row->ttft[edge] += line->value;
    }
}

static void add_gauge(struct top_sample *sample, const struct line *line)
{
    const struct span metric = span_skip(line->metric, strlen("fairlead_")), state = label(line, SPAN("state"));
    if (span_eq(metric, SPAN("requests_open")))
        sample->requests_open += line->value;
    else if (span_eq(metric, SPAN("streams_open")))
        sample->streams_open += line->value;
    else if (span_eq(metric, SPAN("connections_open")))
        sample->connections_open += line->value;
    else if (span_eq(metric, SPAN("breaker_state")) && line->value > 0 && !span_eq(state, SPAN("closed"))) {
        if (sample->breaker_count < TOP_BREAKERS_MAX)
            sample->breakers[sample->breaker_count] =
                (struct top_breaker){ .model = arena_dup(&sample->arena, label(line, SPAN("model"))),
                                      .state = arena_dup(&sample->arena, state) };
        sample->breaker_count++;
    }
}

static bool wanted(struct span metric)
{
    static const char *const names[] = { "requests_total",     "attempts_total", "attempt_failures_total",
                                         "tokens_total",       "cost_usd_total", "cost_list_usd_total",
                                         "ttft_seconds_bucket" };
    if (!span_starts(metric, SPAN("fairlead_")))
        return false;
    metric = span_skip(metric, strlen("fairlead_"));
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (span_eq(metric, span_cstr(names[i])))
            return true;
    }
    return false;
}

enum err top_sample_add(struct top_sample *sample, struct span page)
{
    struct span text;
    enum err err = OK;
    sample->nodes++;
    while (!err && span_split(&page, '\n', &text)) {
        struct line line;
        struct top_row *row;
        if (!read_line(text, &line))
            continue;
        if (!wanted(line.metric)) {
            if (span_starts(line.metric, SPAN("fairlead_")))
                add_gauge(sample, &line);
            continue;
        }
        const struct span route = label(&line, SPAN("route")), model = label(&line, SPAN("model"));
        if (route.len) {
            err = row_of(&sample->arena, &sample->routes, route, &row);
            if (!err)
                add_to_row(sample, row, &line);
        }
        if (!err && model.len) {
            err = row_of(&sample->arena, &sample->models, model, &row);
            if (!err)
                add_to_row(sample, row, &line);
        }
    }
    return err;
}

/* ---- what changed ---- */

static double grown(double before, double then)
{
    return then >= before ? then - before : then;
}

static void subtract(const struct top_row *before, struct top_row *row)
{
    row->requests = grown(before->requests, row->requests);
    row->ok = grown(before->ok, row->ok);
    row->errors = grown(before->errors, row->errors);
    row->cancelled = grown(before->cancelled, row->cancelled);
    row->attempts = grown(before->attempts, row->attempts);
    row->failures = grown(before->failures, row->failures);
    row->output_tokens = grown(before->output_tokens, row->output_tokens);
    row->cost = grown(before->cost, row->cost);
    row->list = grown(before->list, row->list);
    for (uint32_t i = 0; i < TOP_EDGES_MAX; i++)
        row->ttft[i] = grown(before->ttft[i], row->ttft[i]);
}

static void sum(struct top_row *all, const struct top_row *row)
{
    all->requests += row->requests;
    all->ok += row->ok;
    all->errors += row->errors;
    all->cancelled += row->cancelled;
    all->attempts += row->attempts;
    all->failures += row->failures;
    all->output_tokens += row->output_tokens;
    all->cost += row->cost;
    all->list += row->list;
    for (uint32_t i = 0; i < TOP_EDGES_MAX; i++)
        all->ttft[i] += row->ttft[i];
}

static double busy(const struct top_row *row)
{
    return row->requests > row->attempts ? row->requests : row->attempts;
}

static int busiest_first(const void *a, const void *b)
{
    const struct top_row *x = a, *y = b;
    return busy(x) > busy(y) ? -1 : busy(x) < busy(y) ? 1 : span_cmp(x->name, y->name);
}

static enum err compare_rows(struct arena *arena, const struct top_rows *before, const struct top_rows *then,
                             struct top_row **ret)
{
    struct top_row *rows = ARENA_ARRAY(arena, (size_t)then->count + 1, struct top_row);
    if (!rows)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < then->count; i++) {
        const uintptr_t old = (uintptr_t)strmap_get(&before->by_name, then->rows[i].name);
        rows[i] = then->rows[i];
        if (old)
            subtract(&before->rows[old - 1], &rows[i]);
    }
    if (then->count)
        qsort(rows, then->count, sizeof(*rows), busiest_first);
    *ret = rows;
    return OK;
}

enum err top_compare(struct arena *arena, const struct top_sample *before, const struct top_sample *then,
                     struct top_change *ret)
{
    struct top_change change = { .route_count = then->routes.count, .model_count = then->models.count };
    enum err err = compare_rows(arena, &before->routes, &then->routes, &change.routes);
    if (!err)
        err = compare_rows(arena, &before->models, &then->models, &change.models);
    if (err)
        return err;
    for (uint32_t i = 0; i < change.route_count; i++)
        sum(&change.all, &change.routes[i]);
    change.seconds = then->at_ms > before->at_ms ? (double)(then->at_ms - before->at_ms) / 1000.0 : 0;
    *ret = change;
    return OK;
}

double top_quantile(const struct top_sample *sample, const struct top_row *row, double share)
{
    const uint32_t edges = sample->edge_count;
    const double total = edges ? row->ttft[edges - 1] : 0, wanted_count = total * share;
    if (total <= 0)
        return NAN;
    for (uint32_t i = 0; i < edges; i++) {
        if (row->ttft[i] < wanted_count)
            continue;
        const double low = i ? sample->edges[i - 1] : 0, below = i ? row->ttft[i - 1] : 0;
        if (isinf(sample->edges[i]))
            return low;
        const double inside = row->ttft[i] - below;
        return inside > 0 ? low + (sample->edges[i] - low) * (wanted_count - below) / inside : sample->edges[i];
    }
    return NAN;
}
