#include "tests/bench/replay/figures.h"
#include "tests/bench/replay/report.h"
#include "common/json.h"

#define COLUMNS    12
#define CELL_BYTES LOAD_VALUE_BYTES

static const unsigned percentiles[] = { 50, 95, 99 };

/* Nearest rank: the least value that so many percent of all do not exceed. */
static uint64_t percentile(const struct report_times *times, unsigned percent)
{
    size_t at = (times->count * percent + 99) / 100;
    return times->us[at == 0 ? 0 : at - 1];
}

/* ---- for people ---- */

struct row {
    char cells[COLUMNS][CELL_BYTES];
};

static void set_cell(struct row *row, unsigned column, const char *text)
{
    (void)snprintf(row->cells[column], CELL_BYTES, "%s", text);
}

static void set_times(struct row *row, unsigned column, const struct report_times *times)
{
    char text[FIGURE_BYTES];
    for (unsigned i = 0; i < ARRAY_LEN(percentiles); i++)
        set_cell(row, column + i, times->count > 0 ? figure_time(percentile(times, percentiles[i]), text) : "-");
}

static void set_row(struct row *row, const struct report_group *group)
{
    char text[FIGURE_BYTES];
    set_cell(row, 0, group->name);
    set_cell(row, 1, figure_count(group->requests, text));
    set_cell(row, 2, figure_count(group->input_tokens, text));
    set_cell(row, 3, figure_count(group->output_tokens, text));
    set_cell(row, 4, group->unpriced == 0 ? figure_usd(group->cost_nano, text) : "-");
    set_times(row, 5, &group->ttft);
    set_times(row, 8, &group->total);
    set_cell(row, 11, figure_count(group->errors, text));
}

/* The first column to the left, numbers to the right. All cells are ASCII, or names whose width we do not know better.
 */
static enum err put_rows(const struct row *rows, unsigned count, struct buf *out)
{
    int widths[COLUMNS] = { 0 };
    enum err err = OK;
    for (unsigned r = 0; r < count; r++) {
        for (unsigned c = 0; c < COLUMNS; c++)
            widths[c] = (int)size_max((size_t)widths[c], strlen(rows[r].cells[c]));
    }
    for (unsigned r = 0; err == OK && r < count; r++) {
        err = buf_printf(out, "%-*s", widths[0], rows[r].cells[0]);
        for (unsigned c = 1; err == OK && c < COLUMNS; c++)
            err = buf_printf(out, "  %*s", widths[c], rows[r].cells[c]);
        if (err == OK)
            err = buf_append_byte(out, '\n');
    }
    return err;
}

static enum err put_groups(const struct report *report, struct buf *out)
{
    static const struct row head = { { "model", "requests", "input tok", "output tok", "cost USD", "TTFT p50", "p95",
                                       "p99", "total p50", "p95", "p99", "errors" } };
    struct row *rows = calloc(report->count + 2, sizeof(*rows));
    if (!rows)
        return ERR_NOMEM;
    rows[0] = head;
    for (unsigned m = 0; m < report->count; m++)
        set_row(&rows[m + 1], &report->groups[m]);
    set_row(&rows[report->count + 1], &report->all);
    enum err err = put_rows(rows, report->count + 2, out);
    free(rows);
    return err;
}

static enum err put_instead(const char *which, const struct report_instead *instead, const struct report *report,
                            struct buf *out)
{
    char text[FIGURE_BYTES];
    double there = (double)instead->cost_nano;
    double here = (double)report->all.cost_nano;
    enum err err = buf_printf(out, "everything to the %-8s (%s): %s USD", which, instead->price->name,
                              figure_usd(instead->cost_nano, text));
    if (err == OK && report->all.unpriced == 0 && instead->cost_nano > 0)
        err = here <= there ? buf_printf(out, ", saved %.1f%%", 100 * (1 - here / there))
                            : buf_printf(out, ", paid %.1f%% more", 100 * (here / there - 1));
    return err ? err : buf_append_byte(out, '\n');
}

static enum err put_notes(const struct report *report, struct buf *out)
{
    const struct load_tally *tally = &report->play->tally;
    char text[FIGURE_BYTES];
    enum err err = OK;
    if (report->all.requests < report->play->plan->trace->count)
        err = buf_printf(out, "note: interrupted; only %s requests were sent\n",
                         figure_count(report->all.requests, text));
    if (err == OK && report->usage_missing > 0)
        err = buf_printf(out, "note: %s responses told no usage; their tokens are the trace's\n",
                         figure_count(report->usage_missing, text));
    if (err == OK && report->all.unpriced > 0)
        err = buf_printf(out, "note: the cost of %s requests is not known; give their models a --price\n",
                         figure_count(report->all.unpriced, text));
    if (err == OK && tally->waited > 0)
        err = buf_printf(out, "note: %s requests waited for a free connection; raise --connections-max\n",
                         figure_count(tally->waited, text));
    if (err == OK && report->all.errors > 0)
        err = buf_printf(out, "first failure: %s\n", tally->first_failure);
    return err;
}

enum err report_table(const struct report *report, struct buf *out)
{
    char text[FIGURE_BYTES];
    const struct play_plan *plan = report->play->plan;
    uint64_t span_s = report->span_ns / 1000000000;
    enum err err =
        buf_printf(out, "%s: %s requests of %llu:%02llu minutes, at %g times their pace in %.1f s\n\n",
                   report->trace_name, figure_count(plan->trace->count, text), (unsigned long long)(span_s / 60),
                   (unsigned long long)(span_s % 60), plan->speed, report->play->tally.seconds);
    if (err == OK)
        err = put_groups(report, out);
    if (err == OK)
        err = buf_append_byte(out, '\n');
    if (err == OK && report->dearest.price)
        err = put_instead("dearest", &report->dearest, report, out);
    if (err == OK && report->cheapest.price)
        err = put_instead("cheapest", &report->cheapest, report, out);
    return err ? err : put_notes(report, out);
}

/* ---- for programs ---- */

static void member_times(struct json_writer *w, const char *key, const struct report_times *times)
{
    json_key(w, span_cstr(key));
    json_object_open(w);
    json_member_u64(w, "count", times->count);
    for (unsigned i = 0; times->count > 0 && i < ARRAY_LEN(percentiles); i++) {
        char name[8];
        (void)snprintf(name, sizeof(name), "p%u", percentiles[i]);
        json_member_u64(w, name, percentile(times, percentiles[i]));
    }
    json_object_close(w);
}

static void member_usd(struct json_writer *w, uint64_t nano)
{
    json_member_decimal(w, "cost_usd", nano > INT64_MAX ? INT64_MAX : (int64_t)nano, 9);
}

static void put_group(struct json_writer *w, const struct report_group *group)
{
    json_object_open(w);
    json_member_cstr(w, "model", group->name);
    json_member_u64(w, "requests", group->requests);
    json_member_u64(w, "errors", group->errors);
    json_member_u64(w, "input_tokens", group->input_tokens);
    json_member_u64(w, "output_tokens", group->output_tokens);
    member_usd(w, group->cost_nano);
    json_member_u64(w, "unpriced", group->unpriced);
    member_times(w, "ttft_us", &group->ttft);
    member_times(w, "total_us", &group->total);
    json_object_close(w);
}

static void member_instead(struct json_writer *w, const char *key, const struct report_instead *instead)
{
    json_key(w, span_cstr(key));
    if (!instead->price) {
        json_put_null(w);
        return;
    }
    json_object_open(w);
    json_member_cstr(w, "model", instead->price->name);
    member_usd(w, instead->cost_nano);
    json_object_close(w);
}

static void put_failures(struct json_writer *w, const struct load_tally *tally)
{
    json_key(w, SPAN("failures"));
    json_object_open(w);
    for (unsigned i = LOAD_OK + 1; i < LOAD_FAILURES; i++) {
        if (tally->failures[i] > 0)
            json_member_u64(w, load_failure_name((enum load_failure)i), tally->failures[i]);
    }
    json_object_close(w);
    json_member_cstr(w, "first_failure", tally->first_failure[0] ? tally->first_failure : NULL);
}

enum err report_json(const struct report *report, struct buf *out)
{
    struct json_writer w;
    const struct load_tally *tally = &report->play->tally;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_cstr(&w, "trace", report->trace_name);
    json_member_u64(&w, "planned", report->play->plan->trace->count);
    json_key(&w, SPAN("speed"));
    json_put_double(&w, report->play->plan->speed);
    json_key(&w, SPAN("trace_seconds"));
    json_put_double(&w, (double)report->span_ns / 1e9);
    json_key(&w, SPAN("seconds"));
    json_put_double(&w, tally->seconds);
    json_member_u64(&w, "connections", tally->connections);
    json_member_u64(&w, "waited", tally->waited);
    json_member_u64(&w, "usage_missing", report->usage_missing);
    json_key(&w, SPAN("models"));
    json_array_open(&w);
    for (unsigned m = 0; m < report->count; m++)
        put_group(&w, &report->groups[m]);
    json_array_close(&w);
    json_key(&w, SPAN("all"));
    put_group(&w, &report->all);
    member_instead(&w, "dearest", &report->dearest);
    member_instead(&w, "cheapest", &report->cheapest);
    put_failures(&w, tally);
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    return err ? err : buf_append_byte(out, '\n');
}
