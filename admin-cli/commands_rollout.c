/* A running rollout, and the lock: how it stands, and what people do about it. */
#include "admin-cli/cli.h"
#include "admin-cli/watch.h"
#include <time.h>

static bool has_text(const struct json_index *ix, uint32_t object, const char *path)
{
    const uint32_t token = render_path(ix, object, path);
    return token != JSON_NONE && json_kind(ix, token) == JSON_STRING && json_raw(ix, token).len > 2;
}

static const char *cell(const struct cli *cli, const struct json_index *ix, uint32_t object, const char *path,
                        enum column_kind kind)
{
    const struct column column = { "", path, kind };
    return render_cell(cli, ix, object, &column);
}

static double number(const struct json_index *ix, uint32_t object, const char *path)
{
    double value = 0;
    const uint32_t token = render_path(ix, object, path);
    return token != JSON_NONE && json_double(ix, token, &value) == OK ? value : 0;
}

/* ---- status ---- */

static void print_lock(const struct cli *cli, const struct json_index *ix, uint32_t lock)
{
    if (lock == JSON_NONE || json_kind(ix, lock) != JSON_OBJECT)
        return;
    printf("LOCKED      by %s, %s ago: %s\n", cell(cli, ix, lock, "by", COLUMN_TEXT),
           cell(cli, ix, lock, "at_ms", COLUMN_AGE), cell(cli, ix, lock, "reason", COLUMN_TEXT));
}

/* When guards will be able to answer, the slowest of them. */
static void print_needed(const struct json_index *ix, uint32_t rollout)
{
    const uint32_t list = json_get(ix, rollout, SPAN("needed"));
    uint64_t most = 0, never = 0;
    double seconds = 0;
    for (uint32_t t = list == JSON_NONE ? JSON_NONE : json_first(ix, list); t != JSON_NONE;
         t = json_next(ix, list, t)) {
        const uint32_t answer = render_path(ix, t, "needed.answer");
        never += answer != JSON_NONE && json_string_eq(ix, answer, SPAN("never"));
        const uint64_t more = render_u64(ix, t, "needed.requests_more");
        if (more > most) {
            most = more;
            seconds = number(ix, t, "needed.seconds_more");
        }
    }
    if (most && seconds > 0)
        printf("evidence    some %llu more requests, at this rate %.0f minutes, until every guard can answer\n",
               (unsigned long long)most, seconds / 60);
    if (never)
        printf("            %llu guard%s will not be answered by more requests of these units: another unit would\n",
               (unsigned long long)never, never == 1 ? "" : "s");
}

/* A rollout that ended says what it left; a rollback or push since then may have made it untrue. */
static void print_since(const struct json_index *ix, uint32_t rollout)
{
    const uint32_t phase = json_get(ix, rollout, SPAN("phase"));
    const bool done = phase != JSON_NONE && json_string_eq(ix, phase, SPAN("done"));
    const uint64_t live = render_u64(ix, 0, "live"), left = render_u64(ix, rollout, done ? "to" : "from");
    if (live && live != left && !has_text(ix, rollout, "now"))
        printf("since then  v%llu became live: it holds 100%% now, not v%llu\n", (unsigned long long)live,
               (unsigned long long)left);
}

static void print_rollout(const struct cli *cli, const struct json_index *ix, uint32_t r)
{
    static const struct column guards[] = {
        { "GUARD", "words.title", COLUMN_TEXT },
        { "BEFORE", "words.baseline", COLUMN_TEXT },
        { "NEW", "words.treatment", COLUMN_TEXT },
        { "CHANGE", "words.change", COLUMN_TEXT },
        { "SURELY", "words.interval", COLUMN_TEXT },
        { "TOLERATED", "words.tolerance", COLUMN_TEXT },
        { "VERDICT", "verdict", COLUMN_WORD },
        { "UNITS", "units_baseline", COLUMN_NUMBER },
        { "NEW UNITS", "units_treatment", COLUMN_NUMBER },
        { "REQUESTS", "requests_baseline", COLUMN_NUMBER },
        { "NEW REQUESTS", "requests_treatment", COLUMN_NUMBER },
    };
    static const struct column decisions[] = {
        { "WHEN", "at_ms", COLUMN_TIME },
        { "WHAT", "what", COLUMN_TEXT },
        { "BY", "by", COLUMN_TEXT },
        { "WHY", "reason", COLUMN_PROSE },
    };
    printf("%-11s v%llu -> v%llu, %s: %g%% of %s, step %llu of %u, begun %s ago by %s\n",
           cell(cli, ix, r, "id", COLUMN_TEXT), (unsigned long long)render_u64(ix, r, "from"),
           (unsigned long long)render_u64(ix, r, "to"), cell(cli, ix, r, "phase", COLUMN_TEXT),
           number(ix, r, "share") * 100, cell(cli, ix, r, "unit", COLUMN_TEXT),
           (unsigned long long)render_u64(ix, r, "step"), json_count(ix, render_path(ix, r, "plan.steps")),
           cell(cli, ix, r, "started_at_ms", COLUMN_AGE), cell(cli, ix, r, "by", COLUMN_TEXT));
    print_since(ix, r);
    if (has_text(ix, r, "now")) {
        printf("now         %s\n", cell(cli, ix, r, "now", COLUMN_TEXT));
        printf("next        %s\n", cell(cli, ix, r, "next", COLUMN_TEXT));
        print_needed(ix, r);
        printf("weights     of scored tiers are frozen, in both arms from the same evidence, while it runs\n\n");
        render_table(cli, ix, json_get(ix, r, SPAN("guards")), guards, ARRAY_LEN(guards),
                     "no guards: only time decides");
    }
    const uint32_t list = json_get(ix, r, SPAN("decisions"));
    if (list != JSON_NONE && json_count(ix, list) > 0) {
        printf("\n");
        render_table(cli, ix, list, decisions, ARRAY_LEN(decisions), "");
    }
}

static bool is_live(const struct json_index *ix, uint32_t rollout)
{
    return rollout != JSON_NONE && json_kind(ix, rollout) == JSON_OBJECT && has_text(ix, rollout, "now");
}

static int show_status(struct cli *cli, bool *ret_live)
{
    struct call call = { .command = "rollout.status" };
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    const uint32_t rollout = json_get(&ix, 0, SPAN("rollout"));
    *ret_live = is_live(&ix, rollout);
    if (cli->json) {
        render_json(reply->result);
        return EXIT_GOOD;
    }
    print_lock(cli, &ix, json_get(&ix, 0, SPAN("lock")));
    if (rollout == JSON_NONE || json_kind(&ix, rollout) != JSON_OBJECT)
        printf("%s\n", reply->message.ptr);
    else
        print_rollout(cli, &ix, rollout);
    const uint32_t phase = rollout == JSON_NONE ? JSON_NONE : json_get(&ix, rollout, SPAN("phase"));
    const bool undone = phase != JSON_NONE && (json_string_eq(&ix, phase, SPAN("rolled back")) ||
                                               json_string_eq(&ix, phase, SPAN("aborted")));
    return undone && opts_flag(&cli->given, "watch") ? EXIT_CONFLICT : EXIT_GOOD;
}

int run_rollout_status(struct cli *cli)
{
    return watch(cli, show_status);
}

/* ---- changes ---- */

static int change(struct cli *cli, const char *command)
{
    struct call call = { .command = command };
    call_option(cli, &call, "reason");
    call_option(cli, &call, "full");
    return call_change(cli, &call);
}

int run_rollout_pause(struct cli *cli)
{
    return change(cli, "rollout.pause");
}

int run_rollout_resume(struct cli *cli)
{
    return change(cli, "rollout.resume");
}

int run_rollout_promote(struct cli *cli)
{
    if (!cli_confirm(cli, opts_flag(&cli->given, "full") ? "Go to 100%% without waiting for the guards?"
                                                         : "Go to the next step without waiting for the guards?"))
        return EXIT_REFUSED;
    return change(cli, "rollout.promote");
}

int run_rollout_abort(struct cli *cli)
{
    if (!cli_confirm(cli, "Return everybody to the version before?"))
        return EXIT_REFUSED;
    return change(cli, "rollout.abort");
}

int run_rollout_history(struct cli *cli)
{
    static const struct column columns[] = { { "SEQ", "seq", COLUMN_NUMBER },
                                             { "WHEN", "entry.at_ms", COLUMN_TIME },
                                             { "WHO", "entry.user", COLUMN_TEXT },
                                             { "COMMAND", "entry.command", COLUMN_TEXT },
                                             { "WHAT", "entry", COLUMN_AUDIT } };
    struct call call = { .command = "rollout.history" };
    call_option(cli, &call, "limit");
    return call_list(cli, &call, columns, ARRAY_LEN(columns), "nothing was pushed yet");
}

int run_lock(struct cli *cli)
{
    return change(cli, "lock");
}

int run_unlock(struct cli *cli)
{
    return change(cli, "unlock");
}
