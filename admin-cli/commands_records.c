/* records: what this machine's node wrote of each request: who answered, why, for how much. Read from the home; needs
 * no control plane. What was said, where a policy records that, is shown to those only who ask for it. And one request's
 * record, for `fairlead explain`, from there or from the control plane's store. */
#include "admin-cli/cli.h"
#include "common/file.h"
#include "common/units.h"
#include "proto/home.h"
#include <dirent.h>

#define RECORDS_SHOWN_DEFAULT 10u
#define RECORDS_SHOWN_MAX     10000u
#define SEGMENT_BYTES_MAX     (1u << 30) /* more than any configured rotation */

struct wanted {
    struct span id;     /* "": the newest */
    struct span member; /* how the id stands in a line: "request_id":"…" */
    bool content;       /* prompts and answers, and nothing else */
    struct span *lines; /* newest first, in the arena */
    uint64_t limit, count;
};

static int is_segment(const struct dirent *entry)
{
    return span_ends(span_cstr(entry->d_name), SPAN(".jsonl"));
}

static bool is_of_kind(struct span line, const char *member)
{
    return span_find(line, span_cstr(member)) != SIZE_MAX; /* no text can say so: quotes within are escaped */
}

/* A request has further lines of its id: feedback, and what was said. */
static bool is_wanted(const struct wanted *wanted, struct span line)
{
    if (line.len == 0 || is_of_kind(line, "\"kind\":\"content\"") != wanted->content)
        return false;
    if (wanted->id.len == 0)
        return true;
    return span_find(line, wanted->member) != SIZE_MAX &&
           (wanted->content || !is_of_kind(line, "\"kind\":\"feedback\""));
}

/* Whole lines of a segment from its end backwards. */
static enum err take_lines(struct cli *cli, struct span text, struct wanted *wanted)
{
    size_t end = text.len;
    while (end > 0 && wanted->count < wanted->limit) {
        if (text.ptr[end - 1] == '\n')
            end--;
        size_t start = end;
        while (start > 0 && text.ptr[start - 1] != '\n')
            start--;
        const struct span line = span_of(text.ptr + start, end - start);
        end = start;
        if (!is_wanted(wanted, line))
            continue;
        wanted->lines[wanted->count] = arena_dup(&cli->arena, line);
        if (!wanted->lines[wanted->count].ptr)
            return ERR_NOMEM;
        wanted->count++;
    }
    return OK;
}

static enum err read_records(struct cli *cli, struct wanted *wanted)
{
    struct dirent **names = NULL;
    char *dir = file_join(cli->home, HOME_RECORDS);
    const int found = dir ? scandir(dir, &names, is_segment, alphasort) : -1;
    enum err err = OK;
    for (int i = found - 1; i >= 0; i--) {
        struct buf text = BUF_INIT(SEGMENT_BYTES_MAX);
        char *path = err || wanted->count >= wanted->limit ? NULL : file_join(dir, names[i]->d_name);
        if (path) {
            const enum err read_err = file_read(path, SEGMENT_BYTES_MAX, &text);
            err = read_err == OK ? take_lines(cli, buf_span(&text), wanted) : read_err == ERR_NOT_FOUND ? OK : read_err;
        }
        buf_release(&text);
        free(path);
        free(names[i]);
    }
    free(names);
    free(dir);
    return err;
}

/* One JSON array of the lines, so that the table renderer can show them. */
static enum err join(const struct wanted *wanted, struct buf *out)
{
    enum err err = buf_append_byte(out, '[');
    for (uint64_t i = 0; !err && i < wanted->count; i++) {
        if (i)
            err = buf_append_byte(out, ',');
        if (!err)
            err = buf_append(out, wanted->lines[i]);
    }
    return err ? err : buf_append_byte(out, ']');
}

static const char *cell(const struct cli *cli, const struct json_index *ix, uint32_t object, const char *path)
{
    const struct column column = { "", path, COLUMN_TEXT };
    return render_cell(cli, ix, object, &column);
}

static void print_attempts(const struct cli *cli, const struct json_index *ix, uint32_t record)
{
    const uint32_t attempts = json_get(ix, record, SPAN("attempts"));
    unsigned number = 0;
    if (attempts == JSON_NONE || json_kind(ix, attempts) != JSON_ARRAY)
        return;
    for (uint32_t t = json_first(ix, attempts); t != JSON_NONE; t = json_next(ix, attempts, t)) {
        const char *error = cell(cli, ix, t, "error");
        printf("attempt %u     %s, which %s: %s after %.1f ms\n", ++number, cell(cli, ix, t, "model"),
               cell(cli, ix, t, "because"), *error == '-' ? "answered" : error,
               (double)render_u64(ix, t, "duration_us") / 1e3);
    }
}

/* How it ended, in words: clients' and records' words for it are for programs. */
static const char *ending(const char *outcome)
{
    static const char *const words[][2] = { { "ok", "answered" },
                                            { "client_error", "refused, the request is wrong" },
                                            { "error", "failed" },
                                            { "cancelled", "the client went away" } };
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(words[i][0], outcome) == 0)
            return words[i][1];
    }
    return outcome;
}

/* "; experiment-3 by its user": what sent it to its arm. */
static void print_arm_why(const struct cli *cli, const struct json_index *ix, uint32_t record)
{
    const char *why = cell(cli, ix, record, "arm_why"), *assignment = cell(cli, ix, record, "assignment");
    if (strcmp(why, "forced") == 0)
        printf(" (its client asked for that arm)");
    else if (strcmp(why, "bucket") == 0 || strcmp(why, "remainder") == 0)
        printf(" (%s %s it by its %s)", assignment, *why == 'b' ? "sends" : "leaves",
               cell(cli, ix, record, "unit_kind"));
}

/* One record in words. */
void records_print(const struct cli *cli, const struct json_index *ix, uint32_t record)
{
    char charged[UNITS_TEXT_BYTES], list[UNITS_TEXT_BYTES];
    const char *error = cell(cli, ix, record, "error"), *route = cell(cli, ix, record, "route");
    const uint32_t attempts = json_get(ix, record, SPAN("attempts"));
    const bool tried = attempts != JSON_NONE && json_first(ix, attempts) != JSON_NONE;
    const uint64_t ttft_us = render_u64(ix, record, "ttft_us");
    units_format_usd((int64_t)render_u64(ix, record, "cost_nano_usd"), charged);
    units_format_usd((int64_t)render_u64(ix, record, "cost_list_nano_usd"), list);
    printf("request       %s at %s\n", cell(cli, ix, record, "request_id"), cell(cli, ix, record, "time"));
    printf("asked for     %s%s%s%s by team %s with %s\n", cell(cli, ix, record, "asked"),
           *route == '-' ? "" : " (route ", *route == '-' ? "" : route, *route == '-' ? "" : ")",
           cell(cli, ix, record, "team"), cell(cli, ix, record, "key_id"));
    printf("decided by    policy v%s, arm %s", cell(cli, ix, record, "policy_version"), cell(cli, ix, record, "arm"));
    print_arm_why(cli, ix, record);
    printf(", generation %s", cell(cli, ix, record, "generation"));
    if (tried)
        printf("; this first choice had a chance of %.1f%%", (double)render_u64(ix, record, "propensity_ppb") / 1e7);
    printf("\n");
    print_attempts(cli, ix, record);
    printf("%s     %s: %s%s%s, status %s\n",
           strcmp(cell(cli, ix, record, "outcome"), "ok") == 0 ? "served by" : "ended at ",
           cell(cli, ix, record, "model"), ending(cell(cli, ix, record, "outcome")), *error == '-' ? "" : ": ",
           *error == '-' ? "" : error, cell(cli, ix, record, "status"));
    if (*cell(cli, ix, record, "message") != '-')
        printf("told          %s\n", cell(cli, ix, record, "message"));
    if (tried) {
        printf("tokens        %s in (%s cached), %s out (%s reasoning)%s\n", cell(cli, ix, record, "usage.input"),
               cell(cli, ix, record, "usage.cached"), cell(cli, ix, record, "usage.output"),
               cell(cli, ix, record, "usage.reasoning"),
               *cell(cli, ix, record, "estimated") == 'y' ? ", estimated" : "");
        printf("cost          $%s (list $%s), price from %s\n", charged, list, cell(cli, ix, record, "price_source"));
    }
    printf("time          ");
    if (ttft_us > 0) /* 0: not a stream, or nothing came */
        printf("first token %.1f ms, ", (double)ttft_us / 1e3);
    printf("in all %.1f ms, of it Fairlead's own %.3f ms\n", (double)render_u64(ix, record, "total_us") / 1e3,
           (double)render_u64(ix, record, "overhead_us") / 1e3);
}

/* How the id of a request stands in its line. NULL: out of memory. */
static const char *member_of(struct cli *cli, struct span id)
{
    return arena_printf(&cli->arena, "\"request_id\":\"" SPAN_FMT "\"", SPAN_ARG(id));
}

/* The control plane's: its shadows and its feedback, too. */
static int records_shipped(struct cli *cli, struct span id, struct span *ret_json)
{
    struct call call = { .command = "records.find" };
    const struct admin_reply *reply;
    struct json_index ix;
    const bool quiet = cli->quiet;
    call_arg(&call, "id", id);
    cli->quiet = true;
    const int code = call_ask(cli, &call, &reply, &ix);
    cli->quiet = quiet;
    const uint32_t records = code == EXIT_GOOD ? json_get(&ix, 0, SPAN("records")) : JSON_NONE;
    if (records == JSON_NONE || json_count(&ix, records) == 0)
        return EXIT_NOT_FOUND;
    *ret_json = json_raw(&ix, records);
    return EXIT_GOOD;
}

int records_of(struct cli *cli, struct span id, struct span *ret_json)
{
    struct span line;
    struct wanted wanted = { .id = id, .lines = &line, .limit = 1 };
    if (records_shipped(cli, id, ret_json) == EXIT_GOOD)
        return EXIT_GOOD;
    const char *member = member_of(cli, id);
    wanted.member = span_cstr(member);
    const enum err err = member ? read_records(cli, &wanted) : ERR_NOMEM;
    if (err)
        return cli_fail(cli, EXIT_FAILED, "the records in %s/%s cannot be read: %s", cli->home, HOME_RECORDS,
                        err_name(err));
    if (wanted.count == 0)
        return cli_fail(cli, EXIT_NOT_FOUND,
                        "no record of '" SPAN_FMT "', neither in %s/%s nor at the control plane (which has what nodes "
                        "shipped)",
                        SPAN_ARG(id), cli->home, HOME_RECORDS);
    const struct span parts[] = { SPAN("["), line, SPAN("]") };
    *ret_json = arena_join(&cli->arena, parts, ARRAY_LEN(parts));
    return ret_json->ptr ? EXIT_GOOD : cli_fail(cli, EXIT_FAILED, "out of memory");
}

/* What was said, as the bodies had it: JSON, or a stream's events. */
static void print_content(const struct cli *cli, const struct json_index *ix, uint32_t record)
{
    printf("request       %s at %s by team %s\n", cell(cli, ix, record, "request_id"), cell(cli, ix, record, "time"),
           cell(cli, ix, record, "team"));
    printf("prompt%s\n", *cell(cli, ix, record, "prompt_cut") == 'y' ? "        its beginning" : "");
    render_long(cli, ix, record, "prompt");
    printf("answer%s\n", *cell(cli, ix, record, "answer_cut") == 'y' ? "        its beginning" : "");
    render_long(cli, ix, record, "answer");
}

static void print_records(const struct cli *cli, const struct json_index *ix, bool content)
{
    static const struct column columns[] = {
        { "TIME", "time", COLUMN_TEXT },
        { "REQUEST", "request_id", COLUMN_TEXT },
        { "TEAM", "team", COLUMN_TEXT },
        { "ASKED", "asked", COLUMN_TEXT },
        { "MODEL", "model", COLUMN_TEXT },
        { "STATUS", "status", COLUMN_NUMBER },
        { "IN", "usage.input", COLUMN_NUMBER },
        { "OUT", "usage.output", COLUMN_NUMBER },
        { "COST USD", "cost_nano_usd", COLUMN_NANO_USD },
        { "TTFT", "ttft_us", COLUMN_US },
        { "OUTCOME", "outcome", COLUMN_TEXT },
    };
    static const struct column said[] = {
        { "TIME", "time", COLUMN_TEXT },     { "REQUEST", "request_id", COLUMN_TEXT }, { "TEAM", "team", COLUMN_TEXT },
        { "PROMPT", "prompt", COLUMN_TEXT }, { "ANSWER", "answer", COLUMN_TEXT },
    };
    if (content)
        render_table(cli, ix, 0, said, ARRAY_LEN(said), "no prompts or answers are recorded here");
    else
        render_table(cli, ix, 0, columns, ARRAY_LEN(columns), "no records yet");
}

int run_records(struct cli *cli)
{
    static const struct json_limits limits = { .bytes_max = 256u << 20, .depth_max = 32, .tokens_max = 16u << 20 };
    struct wanted wanted = { .id = span_cstr(cli_arg(cli, 0)),
                             .content = opts_flag(&cli->given, "content"),
                             .limit = RECORDS_SHOWN_DEFAULT };
    const char *last = opts_text(&cli->given, "last", NULL);
    struct buf all = BUF_INIT(limits.bytes_max);
    struct json_index ix;
    if (last &&
        (span_to_u64(span_cstr(last), &wanted.limit) != OK || wanted.limit == 0 || wanted.limit > RECORDS_SHOWN_MAX))
        return cli_fail(cli, EXIT_USAGE, "--last takes a number from 1 to %u", RECORDS_SHOWN_MAX);
    if (wanted.id.len) {
        const char *member = member_of(cli, wanted.id);
        if (!member)
            return cli_fail(cli, EXIT_FAILED, "out of memory");
        wanted.member = span_cstr(member);
        wanted.limit = 1;
    }
    wanted.lines = ARENA_ARRAY(&cli->arena, wanted.limit, struct span);
    enum err err = wanted.lines ? read_records(cli, &wanted) : ERR_NOMEM;
    if (!err)
        err = join(&wanted, &all);
    if (!err)
        err = json_index(&cli->arena, buf_span(&all), &limits, &ix, NULL);
    int code = EXIT_GOOD;
    if (err)
        code = cli_fail(cli, EXIT_FAILED, "the records in %s/%s cannot be read: %s", cli->home, HOME_RECORDS,
                        err_name(err));
    else if (wanted.id.len && wanted.count == 0)
        code = cli_fail(cli, EXIT_NOT_FOUND,
                        "no %s of '" SPAN_FMT "' in %s/%s (%s of other nodes stand on their machines)",
                        wanted.content ? "prompt and answer" : "record", SPAN_ARG(wanted.id), cli->home, HOME_RECORDS,
                        wanted.content ? "those" : "records");
    else if (cli->json)
        render_json(buf_span(&all));
    else if (wanted.id.len && wanted.content)
        print_content(cli, &ix, json_first(&ix, 0));
    else if (wanted.id.len)
        records_print(cli, &ix, json_first(&ix, 0));
    else
        print_records(cli, &ix, wanted.content);
    buf_release(&all);
    return code;
}
