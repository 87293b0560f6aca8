/* changes: what happened lately, whoever noticed it: the first command in an incident. */
#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/units.h"
#include <poll.h>

#define SINCE_DEFAULT_MS 1800000u
#define FOLLOW_MS        1000
#define OVERLAP_MS       5000u /* asked for again: what happened first may be told last */
#define SHOWN_MAX        8192u /* remembered, so that what is asked for again is not shown again */

struct timeline {
    struct cli *cli;
    uint64_t since_ms;
    uint64_t *shown; /* hashes of events, a ring; NULL: all are new */
    size_t shown_count;
};

static const char *cell(const struct cli *cli, const struct json_index *ix, uint32_t object, const char *path,
                        enum column_kind kind)
{
    const struct column column = { "", path, kind };
    const char *text = render_cell(cli, ix, object, &column);
    return strcmp(text, "-") == 0 ? "" : text;
}

/* "16:40:01Z  breaker  b/one is ejected: its breaker opened, five failures in a row (on node-1)" */
static void print_event(const struct cli *cli, const struct json_index *ix, uint32_t event)
{
    const char *at = cell(cli, ix, event, "at_ms", COLUMN_TIME), *kind = cell(cli, ix, event, "kind", COLUMN_TEXT);
    const char *where = cell(cli, ix, event, "where", COLUMN_TEXT), *what = cell(cli, ix, event, "what", COLUMN_TEXT);
    const char *why = cell(cli, ix, event, "why", COLUMN_TEXT), *by = cell(cli, ix, event, "by", COLUMN_TEXT);
    const char *node = cell(cli, ix, event, "node", COLUMN_TEXT);
    const bool done = strcmp(kind, "change") == 0 || strcmp(kind, "weights") == 0;
    printf("%s  %-8s %s%s%s%s%s%s", at, kind, where, done ? ": " : " ", what, *why ? " (" : "", why, *why ? ")" : "");
    if (*by)
        printf(", by %s", by);
    if (*node && strcmp(node, where) != 0)
        printf(", seen by %s", node);
    printf("\n");
}

static bool is_new(struct timeline *t, struct span event)
{
    static const uint8_t key[16] = "changes"; /* nothing secret: it tells events apart */
    const uint64_t hash = siphash24(key, event);
    if (!t->shown)
        return true;
    for (size_t i = 0; i < t->shown_count && i < SHOWN_MAX; i++)
        if (t->shown[i] == hash)
            return false;
    t->shown[t->shown_count++ % SHOWN_MAX] = hash;
    return true;
}

static int ask(struct timeline *t)
{
    struct cli *cli = t->cli;
    struct call call = { .command = "changes" };
    const struct admin_reply *reply;
    struct json_index ix;
    arena_reset(&cli->arena);
    call_arg_cstr(&call, "since_ms", arena_printf(&cli->arena, "%llu", (unsigned long long)t->since_ms));
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    const uint32_t events = json_get(&ix, 0, SPAN("events"));
    const uint64_t left_out = render_u64(&ix, 0, "left_out"), now_ms = render_u64(&ix, 0, "now_ms");
    if (events == JSON_NONE || json_kind(&ix, events) != JSON_ARRAY)
        return cli_fail(cli, EXIT_FAILED, "the control plane's answer is not understood: is it of this version?");
    if (left_out)
        fprintf(stderr, "fairlead: %llu older ones are left out; --since with less shows all of it\n",
                (unsigned long long)left_out);
    if (cli->json && !t->shown) {
        render_json(json_raw(&ix, events));
        return EXIT_GOOD;
    }
    if (!t->shown && json_count(&ix, events) == 0)
        printf("nothing happened\n");
    for (uint32_t e = json_first(&ix, events); e != JSON_NONE; e = json_next(&ix, events, e)) {
        if (!is_new(t, json_raw(&ix, e)))
            continue;
        if (cli->json)
            render_json(json_raw(&ix, e));
        else
            print_event(cli, &ix, e);
    }
    t->since_ms = now_ms > OVERLAP_MS && now_ms - OVERLAP_MS > t->since_ms ? now_ms - OVERLAP_MS : t->since_ms;
    return EXIT_GOOD;
}

int run_changes(struct cli *cli)
{
    const char *since = opts_text(&cli->given, "since", NULL);
    struct timeline t = { .cli = cli };
    uint64_t ago = SINCE_DEFAULT_MS;
    if (since && (units_parse_duration(span_cstr(since), &ago) != OK || ago == 0))
        return cli_fail(cli, EXIT_USAGE, "--since: '%s' is no duration (30m, 24h, 7d)", since);
    const uint64_t now = (uint64_t)clock_wall_ms();
    t.since_ms = now > ago ? now - ago : 1;
    if (!opts_flag(&cli->given, "follow"))
        return ask(&t);
    t.shown = calloc(SHOWN_MAX, sizeof(*t.shown));
    int code = t.shown ? EXIT_GOOD : cli_fail(cli, EXIT_FAILED, "out of memory");
    while (code == EXIT_GOOD) {
        code = ask(&t);
        if (fflush(stdout) != 0)
            break; /* nobody reads on */
        if (code == EXIT_GOOD)
            poll(NULL, 0, FOLLOW_MS);
    }
    free(t.shown);
    return code;
}
