/* What was recorded of requests, from files alone: no transaction, on any thread. */
#include "common/clock.h"
#include "common/strmap.h"
#include "controlplane/admin/commands.h"
#include "proto/request_id.h"

#define FIND_LINES_MAX  100u   /* a request's own, its shadows, its feedback; what anybody votes must fit a frame */
#define COSTS_ROWS_MAX  20000u /* of 1 KB at most, so that all fit a frame; the rest is one row */
#define COSTS_ARENA_MAX ((size_t)128 << 20)
#define DIMENSIONS_MAX  8u
#define LINE_ARENA_MAX  ((size_t)1 << 20)

static enum admin_status no_records(struct command_call *call)
{
    return command_fail(call, ADMIN_UNAVAILABLE, "this control plane keeps no records: its log says why");
}

/* ---- records.find ---- */

struct find {
    struct arena *arena;
    struct arena scratch;
    struct span id, quoted;
    struct span lines[FIND_LINES_MAX];
    unsigned count;
};

static enum err on_line(void *user, struct span line)
{
    struct find *f = user;
    struct record record;
    if (span_find(line, f->quoted) == SIZE_MAX)
        return OK;
    arena_reset(&f->scratch);
    if (record_read(&f->scratch, line, &record) != OK || record.kind == RECORD_CONTENT ||
        (!span_eq(record.request_id, f->id) && !span_eq(record.of, f->id)))
        return OK;
    if (f->count == FIND_LINES_MAX)
        return ERR_FULL;
    f->lines[f->count] = arena_dup(f->arena, line);
    return f->lines[f->count++].ptr ? OK : ERR_NOMEM;
}

enum admin_status command_records_find(struct command_call *call)
{
    const struct span id = command_arg(call, "id", SPAN(""));
    struct find find = { .arena = call->arena, .id = id };
    if (!call->service->records)
        return no_records(call);
    if (span_empty(id) || id.len > NAME_BYTES_MAX || span_find_byte(id, '"') != SIZE_MAX)
        return command_fail(call, ADMIN_INVALID, "say which request: the x-request-id of its answer");
    const struct span parts[] = { SPAN("\""), id, SPAN("\"") };
    find.quoted = arena_join(call->arena, parts, ARRAY_LEN(parts));
    if (!find.quoted.ptr)
        return command_fail_err(call, "looking for the request", ERR_NOMEM);
    arena_init(&find.scratch, LINE_ARENA_MAX);
    const enum err err = recordstore_each(call->service->records, request_id_time_ms(id), on_line, &find);
    arena_release(&find.scratch);
    if (err && err != ERR_FULL)
        return command_fail_err(call, "reading the records", err);
    if (find.count == 0)
        return command_fail(call, ADMIN_NOT_FOUND,
                            "no record of '" SPAN_FMT
                            "': not shipped yet, left out (records.ship of its node), or gone (--records-bytes)",
                            SPAN_ARG(span_head(id, 100)));
    json_object_open(call->result);
    json_key(call->result, SPAN("records"));
    json_array_open(call->result);
    for (unsigned i = find.count; i > 0; i--)
        json_put_raw(call->result, find.lines[i - 1]);
    json_array_close(call->result);
    json_object_close(call->result);
    return ADMIN_OK;
}

/* ---- costs ---- */

struct dimension {
    const char *name;
    struct span (*of)(const struct record *record, char text[CLOCK_TEXT_BYTES]);
};

static struct span team_of(const struct record *r, char *text UNUSED)
{
    return r->team;
}
static struct span model_of(const struct record *r, char *text UNUSED)
{
    return r->model;
}
static struct span key_of(const struct record *r, char *text UNUSED)
{
    return r->key_id;
}
static struct span route_of(const struct record *r, char *text UNUSED)
{
    return r->route;
}
static struct span arm_of(const struct record *r, char *text UNUSED)
{
    return r->arm;
}
static struct span node_of(const struct record *r, char *text UNUSED)
{
    return r->node;
}
static struct span policy_of(const struct record *r, char *text)
{
    (void)snprintf(text, CLOCK_TEXT_BYTES, "v%u", r->policy_version);
    return span_cstr(text);
}
static struct span day_of(const struct record *r, char *text)
{
    return span_head(span_cstr(clock_format_wall(r->time_ms, text)), sizeof("2026-11-22") - 1);
}

static const struct dimension dimensions[] = {
    { "team", team_of }, { "model", model_of }, { "key", key_of },       { "route", route_of },
    { "arm", arm_of },   { "node", node_of },   { "policy", policy_of }, { "day", day_of },
};

struct cost_row {
    struct span values[DIMENSIONS_MAX];
    uint64_t requests, errors, estimated, input, cached, output;
    int64_t list_nano, charged_nano;
};
struct costs {
    const struct dimension *by[DIMENSIONS_MAX];
    unsigned by_count;
    struct arena arena, scratch;
    struct strmap rows;
    struct cost_row rest, shadow; /* rows over the most; what shadows cost, which is nobody's */
    uint64_t unreadable;
    int64_t first_ms, last_ms;
};

static struct cost_row *row_of(struct costs *c, const struct record *r)
{
    char texts[DIMENSIONS_MAX][CLOCK_TEXT_BYTES];
    struct span values[DIMENSIONS_MAX], parts[2 * DIMENSIONS_MAX];
    const unsigned count = c->by_count;
    for (unsigned i = 0; i < count; i++) {
        values[i] = c->by[i]->of(r, texts[i]);
        parts[2 * i] = values[i];
        parts[2 * i + 1] = SPAN("\n"); /* stands in no name */
    }
    const struct span key = arena_join(&c->scratch, parts, 2 * (size_t)count);
    if (!key.ptr)
        return NULL;
    struct cost_row *row = strmap_get(&c->rows, key);
    if (row)
        return row;
    if (c->rows.count >= COSTS_ROWS_MAX)
        return &c->rest;
    row = ARENA_NEW(&c->arena, struct cost_row);
    const struct span kept = arena_dup(&c->arena, key);
    if (!row || !kept.ptr || strmap_put(&c->rows, kept, row) != OK)
        return NULL;
    for (unsigned i = 0, at = 0; i < count; at += (unsigned)values[i].len + 1, i++)
        row->values[i] = span_of(kept.ptr + at, values[i].len);
    return row;
}

static void add(struct cost_row *row, const struct record *r)
{
    row->requests++;
    row->errors += !span_eq(r->outcome, SPAN("ok"));
    row->estimated += r->estimated;
    row->input += r->input;
    row->cached += r->cached;
    row->output += r->output;
    row->list_nano = record_add_nano(row->list_nano, r->cost_list_nano);
    row->charged_nano = record_add_nano(row->charged_nano, r->cost_nano);
}

static enum err on_cost(void *user, struct span line)
{
    struct costs *c = user;
    struct record r;
    arena_reset(&c->scratch);
    const enum err err = record_read(&c->scratch, line, &r);
    if (err) {
        c->unreadable += err != ERR_UNSUPPORTED;
        return err == ERR_NOMEM ? err : OK;
    }
    if (r.kind == RECORD_FEEDBACK || r.kind == RECORD_CONTENT || r.estimate_nano > 0) /* never sent */
        return OK;
    struct cost_row *row = r.kind == RECORD_SHADOW ? &c->shadow : row_of(c, &r);
    if (!row)
        return ERR_NOMEM;
    add(row, &r);
    c->first_ms = c->first_ms == 0 || r.time_ms < c->first_ms ? r.time_ms : c->first_ms;
    c->last_ms = r.time_ms > c->last_ms ? r.time_ms : c->last_ms;
    return OK;
}

static int dearest_first(const void *a, const void *b)
{
    const struct cost_row *x = *(struct cost_row *const *)a, *y = *(struct cost_row *const *)b;
    if (x->charged_nano != y->charged_nano)
        return x->charged_nano < y->charged_nano ? 1 : -1;
    for (unsigned i = 0; i < DIMENSIONS_MAX; i++) {
        const int order = span_cmp(x->values[i], y->values[i]);
        if (order != 0)
            return order;
    }
    return 0;
}

static void put_sums(struct json_writer *w, const struct cost_row *row)
{
    json_member_u64(w, "requests", row->requests);
    json_member_u64(w, "errors", row->errors);
    json_member_u64(w, "estimated", row->estimated);
    json_member_u64(w, "input_tokens", row->input);
    json_member_u64(w, "cached_tokens", row->cached);
    json_member_u64(w, "output_tokens", row->output);
    json_member_i64(w, "list_nano_usd", row->list_nano);
    json_member_i64(w, "charged_nano_usd", row->charged_nano);
}

static void put_other(struct json_writer *w, const char *name, const struct cost_row *row)
{
    if (row->requests == 0)
        return;
    json_key(w, span_cstr(name));
    json_object_open(w);
    put_sums(w, row);
    json_object_close(w);
}

static enum err put_costs(struct json_writer *w, struct costs *c)
{
    struct span key;
    void *value;
    size_t count = 0;
    struct cost_row **rows = ARENA_ARRAY(&c->arena, c->rows.count + 1, struct cost_row *);
    if (!rows)
        return ERR_NOMEM;
    for (size_t at = 0; strmap_each(&c->rows, &at, &key, &value);)
        rows[count++] = value;
    qsort(rows, count, sizeof(struct cost_row *), dearest_first);
    json_object_open(w);
    json_key(w, SPAN("by"));
    json_array_open(w);
    for (unsigned i = 0; i < c->by_count; i++)
        json_put_cstr(w, c->by[i]->name);
    json_array_close(w);
    json_member_i64(w, "first_ms", c->first_ms);
    json_member_i64(w, "last_ms", c->last_ms);
    json_member_u64(w, "unreadable", c->unreadable);
    json_key(w, SPAN("rows"));
    json_array_open(w);
    for (size_t i = 0; i < count; i++) {
        json_object_open(w);
        for (unsigned d = 0; d < c->by_count; d++)
            json_member_string(w, c->by[d]->name, rows[i]->values[d]);
        put_sums(w, rows[i]);
        json_object_close(w);
    }
    json_array_close(w);
    put_other(w, "rest", &c->rest);
    put_other(w, "shadow", &c->shadow);
    json_object_close(w);
    return OK;
}

/* "team,model"; each once. */
static enum admin_status read_dimensions(struct command_call *call, struct costs *c)
{
    struct span rest = command_arg(call, "by", SPAN("team")), name;
    while (span_split(&rest, ',', &name)) {
        const struct dimension *found = NULL;
        for (size_t i = 0; i < ARRAY_LEN(dimensions); i++)
            found = span_eq(span_trim(name), span_cstr(dimensions[i].name)) ? &dimensions[i] : found;
        for (unsigned i = 0; i < c->by_count; i++)
            found = c->by[i] == found ? NULL : found;
        if (!found)
            return command_fail(call, ADMIN_INVALID,
                                "--by: '" SPAN_FMT "' is none of team, model, key, route, arm, node, policy, day, or "
                                "stands there twice",
                                SPAN_ARG(span_head(name, 40)));
        c->by[c->by_count++] = found;
    }
    return ADMIN_OK;
}

enum admin_status command_costs(struct command_call *call)
{
    struct costs costs = { .by_count = 0 };
    int64_t since_ms = 0;
    _Static_assert(ARRAY_LEN(dimensions) <= DIMENSIONS_MAX, "each may be asked for at once");
    if (!call->service->records)
        return no_records(call);
    if (span_to_i64(command_arg(call, "since_ms", SPAN("0")), &since_ms) != OK)
        return command_fail(call, ADMIN_INVALID, "since_ms: milliseconds since 1970");
    const enum admin_status status = read_dimensions(call, &costs);
    if (status != ADMIN_OK)
        return status;
    arena_init(&costs.arena, COSTS_ARENA_MAX);
    arena_init(&costs.scratch, LINE_ARENA_MAX);
    strmap_init(&costs.rows, &costs.arena);
    enum err err = recordstore_each(call->service->records, since_ms, on_cost, &costs);
    if (!err)
        err = put_costs(call->result, &costs);
    arena_release(&costs.scratch);
    arena_release(&costs.arena);
    return err ? command_fail_err(call, "adding up the records", err) : ADMIN_OK;
}
