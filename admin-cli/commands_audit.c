/* audit: who changed what, read in pages, so that any length of it arrives. */
#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/units.h"
#include <poll.h>

#define PAGE_LINES 1000u
#define FOLLOW_MS  500

static const struct column columns[] = { { "SEQ", "seq", COLUMN_NUMBER },
                                         { "WHEN", "entry.at_ms", COLUMN_TIME },
                                         { "WHO", "entry.user", COLUMN_TEXT },
                                         { "COMMAND", "entry.command", COLUMN_TEXT },
                                         { "WHAT", "entry", COLUMN_AUDIT } };

struct reader {
    struct cli *cli;
    struct buf entries;  /* gathered, separated by commas */
    uint64_t from;       /* 0: the newest `left` */
    uint64_t left, last; /* lines wanted; the log's end as it was last seen */
    uint64_t since_ms;
};

/* One page more. *ret_more: there is another. */
static int read_page(struct reader *r, bool *ret_more)
{
    struct cli *cli = r->cli;
    struct call call = { .command = "audit.list" };
    const struct admin_reply *reply;
    struct json_index ix;
    /* Asked for the newest, the first answer says where they begin; all must then be asked for at once. */
    const uint64_t lines = r->from && r->left > PAGE_LINES ? PAGE_LINES : r->left;
    arena_reset(&cli->arena);
    call_arg_cstr(&call, "limit", arena_printf(&cli->arena, "%llu", (unsigned long long)lines));
    if (r->from)
        call_arg_cstr(&call, "from", arena_printf(&cli->arena, "%llu", (unsigned long long)r->from));
    if (r->since_ms)
        call_arg_cstr(&call, "since_ms", arena_printf(&cli->arena, "%llu", (unsigned long long)r->since_ms));
    call_option(cli, &call, "user");
    call_option(cli, &call, "command");
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    const uint32_t entries = json_get(&ix, 0, SPAN("entries"));
    if (entries == JSON_NONE || json_kind(&ix, entries) != JSON_ARRAY)
        return cli_fail(cli, EXIT_FAILED, "the control plane's answer is not understood: is it of this version?");
    const struct span inside = json_raw(&ix, entries);
    enum err err = ix.tokens[entries].count && r->entries.len ? buf_append_byte(&r->entries, ',') : OK;
    if (!err)
        err = buf_append(&r->entries, span_head(span_skip(inside, 1), inside.len - 2));
    if (err)
        return cli_fail(cli, EXIT_FAILED, "too much to hold (%s); narrow it by --since, --user or --command",
                        err_name(err));
    r->left -= ix.tokens[entries].count < r->left ? ix.tokens[entries].count : r->left;
    r->from = render_u64(&ix, 0, "next");
    r->last = render_u64(&ix, 0, "last");
    *ret_more = r->from && r->left;
    return EXIT_GOOD;
}

static int read_pages(struct reader *r)
{
    bool more = true;
    int code = EXIT_GOOD;
    buf_clear(&r->entries);
    while (more && code == EXIT_GOOD)
        code = read_page(r, &more);
    return code;
}

/* False: out of memory. */
static bool gathered(struct reader *r, struct span *ret_json, struct json_index *ret)
{
    static const struct json_limits limits = { .bytes_max = 1u << 30, .depth_max = 64, .tokens_max = 64u << 20 };
    struct cli *cli = r->cli;
    const struct span parts[] = { SPAN("["), buf_span(&r->entries), SPAN("]") };
    arena_reset(&cli->arena);
    *ret_json = arena_join(&cli->arena, parts, ARRAY_LEN(parts));
    return ret_json->ptr && json_index(&cli->arena, *ret_json, &limits, ret, NULL) == OK;
}

static int print_all(struct reader *r)
{
    struct json_index ix;
    struct span json;
    if (!gathered(r, &json, &ix))
        return cli_fail(r->cli, EXIT_FAILED, "out of memory");
    if (r->cli->json)
        render_json(json);
    else
        render_table(r->cli, &ix, 0, columns, ARRAY_LEN(columns), "nothing of that kind has been changed yet");
    return EXIT_GOOD;
}

/* Lines without a heading: they come one by one. */
static int print_lines(struct reader *r)
{
    struct json_index ix;
    struct span json;
    if (!gathered(r, &json, &ix))
        return cli_fail(r->cli, EXIT_FAILED, "out of memory");
    for (uint32_t t = json_first(&ix, 0); t != JSON_NONE; t = json_next(&ix, 0, t)) {
        if (r->cli->json) {
            render_json(json_raw(&ix, t));
            continue;
        }
        for (size_t c = 0; c < ARRAY_LEN(columns); c++)
            printf("%s%s", render_cell(r->cli, &ix, t, &columns[c]), c + 1 < ARRAY_LEN(columns) ? "  " : "\n");
    }
    return EXIT_GOOD;
}

static int follow(struct reader *r)
{
    int code = print_lines(r);
    while (code == EXIT_GOOD && fflush(stdout) == 0) {
        poll(NULL, 0, FOLLOW_MS);
        r->from = r->last + 1;
        r->left = UINT64_MAX;
        code = read_pages(r);
        if (code == EXIT_GOOD)
            code = print_lines(r);
    }
    return code;
}

int run_audit(struct cli *cli)
{
    const char *limit = opts_text(&cli->given, "limit", NULL), *since = opts_text(&cli->given, "since", NULL);
    struct reader r = { .cli = cli, .entries = BUF_INIT(1u << 30), .left = since ? UINT64_MAX : 50 };
    uint64_t ago;
    if (limit && (span_to_u64(span_cstr(limit), &r.left) != OK || r.left == 0 || r.left > 100000))
        return cli_fail(cli, EXIT_USAGE, "--limit: '%s' is no number from 1 to 100000", limit);
    if (since && (units_parse_duration(span_cstr(since), &ago) != OK || ago == 0))
        return cli_fail(cli, EXIT_USAGE, "--since: '%s' is no duration (30m, 24h, 7d)", since);
    if (since) {
        const int64_t now = clock_wall_ms();
        r.since_ms = now > (int64_t)ago ? (uint64_t)(now - (int64_t)ago) : 1;
    }
    if (!limit && since)
        r.from = 1; /* from the oldest on; else the newest of them */
    int code = read_pages(&r);
    if (code == EXIT_GOOD)
        code = opts_flag(&cli->given, "follow") ? follow(&r) : print_all(&r);
    buf_release(&r.entries);
    return code;
}
