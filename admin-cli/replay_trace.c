#include "admin-cli/replay_trace.h"
#include "common/fault.h"
#include "proto/record.h"

#define TRACE_ARENA_MAX (16u << 20)
#define SCRATCH_MAX     (1u << 20)

void replay_trace_init(struct replay_trace *trace)
{
    *trace = (struct replay_trace){ .items = NULL };
    arena_init(&trace->arena, TRACE_ARENA_MAX);
    arena_init(&trace->scratch, SCRATCH_MAX);
}

void replay_trace_release(struct replay_trace *trace)
{
    free(trace->items);
    arena_release(&trace->arena);
    arena_release(&trace->scratch);
    *trace = (struct replay_trace){ .items = NULL };
}

static enum err add(struct replay_trace *trace, const struct replay_item *item)
{
    if (trace->count == REPLAY_REQUESTS_MAX)
        return ERR_TOO_MANY;
    if (trace->count == trace->room) {
        const size_t room = trace->room ? trace->room * 2 : 1024;
        struct replay_item *items = fault_realloc(trace->items, room * sizeof(*items));
        if (!items)
            return ERR_NOMEM;
        trace->items = items;
        trace->room = room;
    }
    trace->items[trace->count++] = *item;
    return OK;
}

/* Names beyond the table go under the first one: they are a few of very many. */
static enum err model_index(struct replay_trace *trace, struct span name, uint16_t *ret)
{
    *ret = 0;
    for (unsigned i = 0; i < trace->model_count; i++)
        if (span_eq(trace->models[i], name)) {
            *ret = (uint16_t)i;
            return OK;
        }
    if (trace->model_count == REPLAY_MODELS_MAX)
        return OK;
    const struct span copy = arena_dup(&trace->arena, name);
    if (!copy.ptr)
        return ERR_NOMEM;
    *ret = (uint16_t)trace->model_count;
    trace->models[trace->model_count++] = copy;
    return OK;
}

static uint32_t clamp(uint64_t value)
{
    return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

static enum err take_record(struct replay_trace *trace, struct span line)
{
    struct record r;
    arena_reset(&trace->scratch);
    enum err err = record_read(&trace->scratch, line, &r);
    if (err == OK && (r.kind != RECORD_REQUEST || !r.has_features || !span_eq(r.endpoint, SPAN("chat"))))
        err = ERR_UNSUPPORTED;
    if (err == OK) {
        struct replay_item item = { .at_us = r.time_ms * 1000,
                                    .input_tokens = r.usage_known ? clamp(r.input) : r.input_tokens_est,
                                    .output_tokens = r.usage_known && r.output > 0 ? clamp(r.output) : r.max_output,
                                    .stream = r.stream };
        err = model_index(trace, r.asked, &item.model);
        if (err == OK)
            err = add(trace, &item);
    } else if (err != ERR_NOMEM) {
        trace->skipped++;
        err = OK;
    }
    return err;
}

/* Days since 1970 of a date of the Gregorian calendar. */
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
    const int64_t y = month <= 2 ? year - 1 : year, era = y / 400, of_era = y - era * 400;
    const int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static bool digits(struct span *rest, size_t count, int64_t *ret)
{
    uint64_t value;
    if (rest->len < count || span_to_u64(span_head(*rest, count), &value) != OK)
        return false;
    *rest = span_skip(*rest, count);
    *ret = (int64_t)value;
    return true;
}

static bool literal(struct span *rest, char c)
{
    if (rest->len == 0 || rest->ptr[0] != c)
        return false;
    *rest = span_skip(*rest, 1);
    return true;
}

/* "2023-11-16 18:17:03.9799600" -> microseconds since 1970. */
static bool parse_moment(struct span text, int64_t *ret_us)
{
    struct span rest = text;
    int64_t year, month, day, hour, minute, second, us = 0, unit = 100000;
    if (!digits(&rest, 4, &year) || !literal(&rest, '-') || !digits(&rest, 2, &month) || !literal(&rest, '-') ||
        !digits(&rest, 2, &day) || !(literal(&rest, ' ') || literal(&rest, 'T')) || !digits(&rest, 2, &hour) ||
        !literal(&rest, ':') || !digits(&rest, 2, &minute) || !literal(&rest, ':') || !digits(&rest, 2, &second))
        return false;
    if (literal(&rest, '.'))
        for (int64_t digit; digits(&rest, 1, &digit); unit /= 10)
            us += digit * unit;
    *ret_us = (((days_of(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1000000 + us;
    return month >= 1 && month <= 12 && day >= 1 && day <= 31;
}

static enum err take_csv(struct replay_trace *trace, struct span line)
{
    struct span rest = line, moment, input, output;
    uint64_t input_tokens, output_tokens;
    struct replay_item item = { .stream = true };
    if (!span_split(&rest, ',', &moment) || !span_split(&rest, ',', &input) || !span_split(&rest, ',', &output) ||
        !parse_moment(moment, &item.at_us) || span_to_u64(span_trim(input), &input_tokens) != OK ||
        span_to_u64(span_trim(output), &output_tokens) != OK) {
        trace->skipped++;
        return OK;
    }
    item.input_tokens = clamp(input_tokens);
    item.output_tokens = clamp(output_tokens);
    const enum err err = model_index(trace, SPAN("chat"), &item.model);
    return err ? err : add(trace, &item);
}

enum err replay_trace_line(struct replay_trace *trace, struct span line)
{
    if (line.len > 0 && line.ptr[line.len - 1] == '\r')
        line = span_head(line, line.len - 1);
    if (span_empty(line))
        return OK;
    return line.ptr[0] == '{' ? take_record(trace, line) : take_csv(trace, line);
}

static int by_time(const void *a, const void *b)
{
    const struct replay_item *x = a, *y = b;
    return (x->at_us > y->at_us) - (x->at_us < y->at_us);
}

void replay_trace_end(struct replay_trace *trace)
{
    if (trace->count == 0)
        return;
    qsort(trace->items, trace->count, sizeof(*trace->items), by_time);
    const int64_t first = trace->items[0].at_us;
    for (size_t i = 0; i < trace->count; i++)
        trace->items[i].at_us -= first;
}
