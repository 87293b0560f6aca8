#include "admin-cli/cli.h"
#include "proto/home.h"
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define NO_NODE         "no node has been heard of"
#define LOCAL_BYTES_MAX (512u << 10) /* of what this machine's node says */

static const struct column node_columns[] = {
    { "NODE", "node", COLUMN_TEXT },
    { "STATE", "state", COLUMN_TEXT },
    { "COMMITTED", "committed.generation", COLUMN_NUMBER },
    { "SERVING", "serving.generation", COLUMN_NUMBER },
    { "DIRECTORY", "serving.directory", COLUMN_NUMBER },
    { "EVIDENCE", "serving.evidence", COLUMN_NUMBER },
    { "WORKERS", "workers", COLUMN_NUMBER },
    { "SEEN", "seen_ms_ago", COLUMN_MS },
    { "VERSION", "version", COLUMN_TEXT },
    { "NO CREDENTIAL FOR", "unresolved_credentials", COLUMN_LIST },
};

/* Below the table, a line each: refusals, and what a node waits for. */
static void print_troubles(struct cli *cli, const struct json_index *ix, uint32_t nodes)
{
    static const struct column name = { "", "node", COLUMN_TEXT }, state = { "", "state", COLUMN_TEXT };
    static const struct column parts[] = { { "", "kind", COLUMN_TEXT },
                                           { "", "seq", COLUMN_NUMBER },
                                           { "", "reason", COLUMN_TEXT },
                                           { "", "at_ms", COLUMN_AGE } };
    if (nodes == JSON_NONE)
        return;
    for (uint32_t n = json_first(ix, nodes); n != JSON_NONE; n = json_next(ix, nodes, n)) {
        const uint32_t nacks = json_get(ix, n, SPAN("nacks"));
        const char *node = render_cell(cli, ix, n, &name), *word = render_cell(cli, ix, n, &state);
        if (strcmp(word, "other epoch") == 0)
            printf("%s keeps the tables it has: they are of another epoch (this store was restored?); `fairlead nodes "
                   "adopt "
                   "%s` lets it take these\n",
                   node, node);
        if (strcmp(word, "pinned") == 0)
            printf("%s is pinned: it takes no tables until `fairlead nodes unpin --local` on that machine\n", node);
        for (uint32_t t = nacks == JSON_NONE ? JSON_NONE : json_first(ix, nacks); t != JSON_NONE;
             t = json_next(ix, nacks, t)) {
            printf("%s refused %s %s: %s (%s ago)\n", node, render_cell(cli, ix, t, &parts[0]),
                   render_cell(cli, ix, t, &parts[1]), render_cell(cli, ix, t, &parts[2]),
                   render_cell(cli, ix, t, &parts[3]));
        }
    }
}

/* "v17 95% + v18 5%" */
static void print_shares(const struct json_index *ix, uint32_t object)
{
    const uint32_t arms = json_get(ix, object, SPAN("arms"));
    for (uint32_t t = arms == JSON_NONE ? JSON_NONE : json_first(ix, arms); t != JSON_NONE;
         t = json_next(ix, arms, t)) {
        double share = 0;
        const uint32_t token = json_get(ix, t, SPAN("share"));
        if (token == JSON_NONE || json_double(ix, token, &share) != OK)
            share = 0;
        printf("%sv%llu %g%%", t == json_first(ix, arms) ? "" : " + ", (unsigned long long)render_u64(ix, t, "version"),
               share * 100);
    }
}

/* What does not hold for all routes: "            rollout-7, unit key: v17 95% + v18 5% of chat, bulk". */
static void print_assignments(struct cli *cli, const struct json_index *ix)
{
    static const struct column id = { "", "id", COLUMN_TEXT }, unit = { "", "unit", COLUMN_TEXT },
                               share = { "", "share_ppm", COLUMN_SHARE };
    const uint32_t list = json_get(ix, 0, SPAN("assignments")), shadows = json_get(ix, 0, SPAN("shadows"));
    for (uint32_t t = list == JSON_NONE ? JSON_NONE : json_first(ix, list); t != JSON_NONE;
         t = json_next(ix, list, t)) {
        const uint32_t routes = json_get(ix, t, SPAN("routes"));
        printf("            %s, by %s: ", render_cell(cli, ix, t, &id), render_cell(cli, ix, t, &unit));
        print_shares(ix, t);
        if (routes != JSON_NONE && ix->tokens[routes].count)
            printf(" of %u route%s", ix->tokens[routes].count, ix->tokens[routes].count == 1 ? "" : "s");
        printf("\n");
    }
    for (uint32_t t = shadows == JSON_NONE ? JSON_NONE : json_first(ix, shadows); t != JSON_NONE;
         t = json_next(ix, shadows, t))
        printf("            %s: v%llu shadows %s of the requests\n", render_cell(cli, ix, t, &id),
               (unsigned long long)render_u64(ix, t, "version"), render_cell(cli, ix, t, &share));
}

/* One line each where a rollout runs, and where somebody locked the policy. */
static void print_rollout(struct cli *cli, const struct json_index *ix)
{
    static const struct column id = { "", "rollout.id", COLUMN_TEXT }, now = { "", "rollout.now", COLUMN_TEXT },
                               by = { "", "lock.by", COLUMN_TEXT }, reason = { "", "lock.reason", COLUMN_TEXT };
    if (render_path(ix, 0, "rollout.now") != JSON_NONE)
        printf("rollout     %s to v%llu: %s; `fairlead rollout status`\n", render_cell(cli, ix, 0, &id),
               (unsigned long long)render_u64(ix, 0, "rollout.to"), render_cell(cli, ix, 0, &now));
    if (render_path(ix, 0, "lock.by") != JSON_NONE)
        printf("LOCKED      by %s: %s\n", render_cell(cli, ix, 0, &by), render_cell(cli, ix, 0, &reason));
}

static void print_arms(struct cli *cli, const struct json_index *ix)
{
    const uint32_t arms = json_get(ix, 0, SPAN("arms"));
    printf("policy      ");
    if (arms == JSON_NONE || ix->tokens[arms].count == 0)
        printf("none pushed yet; `fairlead policy push FILE`");
    print_shares(ix, 0);
    static const struct column why[] = { { "", "generation_why", COLUMN_TEXT },
                                         { "", "generation_by", COLUMN_TEXT },
                                         { "", "generation_at_ms", COLUMN_AGE } };
    printf(" · generation %llu", (unsigned long long)render_u64(ix, 0, "generation"));
    if (render_u64(ix, 0, "generation"))
        printf(" (%s, by %s, %s ago)", render_cell(cli, ix, 0, &why[0]), render_cell(cli, ix, 0, &why[1]),
               render_cell(cli, ix, 0, &why[2]));
    printf("\n");
    print_assignments(cli, ix);
    print_rollout(cli, ix);
}

static bool is_true(const struct json_index *ix, uint32_t object, const char *path)
{
    bool value = false;
    const uint32_t token = render_path(ix, object, path);
    return token != JSON_NONE && json_bool(ix, token, &value) == OK && value;
}

static bool has_text(const struct json_index *ix, uint32_t object, const char *path)
{
    const uint32_t token = render_path(ix, object, path);
    return token != JSON_NONE && json_kind(ix, token) == JSON_STRING && json_raw(ix, token).len > 2;
}

static void print_models(const struct cli *cli, const struct json_index *ix)
{
    static const struct column down = { "", "evidence.models_down", COLUMN_LIST };
    const uint32_t list = render_path(ix, 0, "evidence.models_down");
    const unsigned down_count = list == JSON_NONE ? 0 : ix->tokens[list].count;
    const uint64_t all = render_u64(ix, 0, "evidence.models"), up = render_u64(ix, 0, "evidence.models_up");
    const uint64_t doubted = render_u64(ix, 0, "evidence.health_quarantined");
    printf("models      %llu: %llu up, %u down, %llu not known yet", (unsigned long long)all, (unsigned long long)up,
           down_count, (unsigned long long)(all - up - down_count));
    if (down_count)
        printf("; down: %s", render_cell(cli, ix, 0, &down));
    printf("\n");
    if (doubted)
        printf("            too many went down at once to be believed: %llu verdicts are held back; see `fairlead "
               "providers list`\n",
               (unsigned long long)doubted);
}

static void print_feed(const struct cli *cli, const struct json_index *ix)
{
    static const struct column origin = { "", "evidence.prices.feed.origin", COLUMN_TEXT },
                               heard = { "", "evidence.prices.feed.heard_at_ms", COLUMN_AGE },
                               problem = { "", "evidence.prices.feed.problem", COLUMN_TEXT };
    if (render_u64(ix, 0, "evidence.prices.feed.heard_at_ms"))
        printf("price feed  %s, heard %s ago%s\n", render_cell(cli, ix, 0, &origin), render_cell(cli, ix, 0, &heard),
               is_true(ix, 0, "evidence.prices.feed.stale") ? ": STALE, its prices stay in use" : "");
    else
        printf("price feed  nothing heard yet; prices come from the shipped book\n");
    if (has_text(ix, 0, "evidence.prices.feed.problem"))
        printf("            PROBLEM: %s\n", render_cell(cli, ix, 0, &problem));
}

static void print_prices(const struct cli *cli, const struct json_index *ix)
{
    static const struct column batch = { "", "evidence.prices.quarantined_batch", COLUMN_TEXT };
    const uint64_t held = render_u64(ix, 0, "evidence.prices.quarantined");
    printf("prices      %llu in the book, %llu set by hand, %llu held back\n",
           (unsigned long long)render_u64(ix, 0, "evidence.prices.entries"),
           (unsigned long long)render_u64(ix, 0, "evidence.prices.set"), (unsigned long long)held);
    if (has_text(ix, 0, "evidence.prices.quarantined_batch"))
        printf("            QUARANTINE: the feed's last news is not believed: %s\n", render_cell(cli, ix, 0, &batch));
    if (held)
        printf("            QUARANTINE: look with `fairlead prices list --held`, release with `fairlead prices accept "
               "NAME | --all`\n");
    print_feed(cli, ix);
}

static void print_refusals(const struct json_index *ix)
{
    static const char *const links[] = { "fetch", "evidence", "admin" };
    char path[40];
    for (size_t i = 0; i < ARRAY_LEN(links); i++) {
        snprintf(path, sizeof(path), "refused_messages.%s", links[i]);
        const uint64_t count = render_u64(ix, 0, path);
        if (count)
            printf("garbage     %llu messages on the %s link made no sense and were refused\n",
                   (unsigned long long)count, links[i]);
    }
}

/* ---- the node of this machine ---- */

static const struct column worker_columns[] = {
    { "WORKER", "slot", COLUMN_NUMBER },
    { "STATE", "state", COLUMN_TEXT },
    { "PID", "pid", COLUMN_NUMBER },
    { "ROLL", "roll", COLUMN_NUMBER },
    { "AGE", "age_ms", COLUMN_MS },
    { "STARTS", "starts", COLUMN_NUMBER },
    { "CONNECTIONS", "connections", COLUMN_NUMBER },
    { "REQUESTS", "requests", COLUMN_NUMBER },
    { "SERVING", "generation", COLUMN_NUMBER },
};
static const struct column draining_columns[] = {
    { "DRAINING", "slot", COLUMN_NUMBER },
    { "PID", "pid", COLUMN_NUMBER },
    { "ROLL", "roll", COLUMN_NUMBER },
    { "AGE", "age_ms", COLUMN_MS },
    { "CONNECTIONS", "connections", COLUMN_NUMBER },
    { "REQUESTS", "requests", COLUMN_NUMBER },
    { "UNTIL", "killed_at_ms", COLUMN_UNTIL },
};

static void print_change(const struct cli *cli, const struct json_index *ix)
{
    static const struct column at = { "", "last_change.at_ms", COLUMN_AGE },
                               what = { "", "last_change.change", COLUMN_TEXT },
                               outcome = { "", "last_change.outcome", COLUMN_TEXT },
                               why = { "", "last_change.why", COLUMN_TEXT };
    if (!has_text(ix, 0, "last_change.change"))
        return;
    printf("last change %s %s %s ago, in %.1f s\n", render_cell(cli, ix, 0, &what), render_cell(cli, ix, 0, &outcome),
           render_cell(cli, ix, 0, &at), (double)render_u64(ix, 0, "last_change.ms") / 1000.0);
    if (has_text(ix, 0, "last_change.why"))
        printf("            FAILED: %s\n", render_cell(cli, ix, 0, &why));
}

static void print_local(struct cli *cli, enum err err, struct span json)
{
    static const struct column fields[] = {
        { "this node ", "node", COLUMN_TEXT },       { "listens   ", "listen", COLUMN_TEXT },
        { "running   ", "uptime_ms", COLUMN_MS },    { "roll      ", "roll", COLUMN_NUMBER },
        { "restarts  ", "restarts", COLUMN_NUMBER },
    };
    struct json_index ix;
    if (err == ERR_NOT_FOUND)
        return; /* on another machine */
    printf("\n");
    if (err || json_index(&cli->arena, json, &json_limits_default, &ix, NULL)) {
        printf("this node   does not answer (%s)\n", err_name(err ? err : ERR_SYNTAX));
        return;
    }
    render_fields(cli, &ix, 0, fields, ARRAY_LEN(fields));
    print_change(cli, &ix);
    render_table(cli, &ix, json_get(&ix, 0, SPAN("workers")), worker_columns, ARRAY_LEN(worker_columns), "no workers");
    const uint32_t draining = json_get(&ix, 0, SPAN("draining_workers"));
    if (draining != JSON_NONE && ix.tokens[draining].count > 0)
        render_table(cli, &ix, draining, draining_columns, ARRAY_LEN(draining_columns), "");
}

/* The control plane's answer (an object), and in it what this machine's node says. */
static void print_json(struct span control, enum err err, struct span local)
{
    struct buf both = BUF_INIT(control.len + local.len + 64);
    const struct span head = span_head(span_trim(control), span_trim(control).len - 1);
    if (err || buf_append(&both, head) || buf_append_cstr(&both, ",\"local_node\":") || buf_append(&both, local) ||
        buf_append_byte(&both, '}'))
        render_json(control);
    else
        render_json(buf_span(&both));
    buf_release(&both);
}

/* What operators forbade, which no rollback lifts: to be seen before anybody looks for another reason. */
static void print_blocks(struct cli *cli, const struct json_index *ix)
{
    static const struct column kind = { "", "kind", COLUMN_TEXT }, target = { "", "target", COLUMN_TEXT },
                               by = { "", "by", COLUMN_TEXT }, reason = { "", "reason", COLUMN_TEXT },
                               until = { "", "expires_at_ms", COLUMN_UNTIL };
    const uint32_t set = json_get(ix, 0, SPAN("overrides_set"));
    for (uint32_t t = set == JSON_NONE ? JSON_NONE : json_first(ix, set); t != JSON_NONE; t = json_next(ix, set, t)) {
        const bool ends = render_u64(ix, t, "expires_at_ms") != 0;
        printf("%-10s  %s by %s: %s%s%s\n", render_cell(cli, ix, t, &kind), render_cell(cli, ix, t, &target),
               render_cell(cli, ix, t, &by), render_cell(cli, ix, t, &reason), ends ? "; lifted by itself " : "",
               ends ? render_cell(cli, ix, t, &until) : "");
    }
}

static int print_status(struct cli *cli, enum err local_err, struct span local)
{
    static const struct column fields[] = {
        { "control   ", "version", COLUMN_TEXT },     { "home      ", "home", COLUMN_TEXT },
        { "running   ", "uptime_ms", COLUMN_MS },     { "teams     ", "teams", COLUMN_NUMBER },
        { "directory ", "directory", COLUMN_NUMBER }, { "overrides ", "overrides", COLUMN_NUMBER },
    };
    struct call call = { .command = "status" };
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD) {
        if (!cli->json)
            print_local(cli, local_err, local); /* what can be said without a control plane */
        return code;
    }
    if (cli->json) {
        print_json(reply->result, local_err, local);
        return EXIT_GOOD;
    }
    print_arms(cli, &ix);
    print_blocks(cli, &ix);
    render_fields(cli, &ix, 0, fields, ARRAY_LEN(fields));
    print_models(cli, &ix);
    print_prices(cli, &ix);
    print_refusals(&ix);
    printf("\n");
    const uint32_t nodes = json_get(&ix, 0, SPAN("nodes"));
    render_table(cli, &ix, nodes, node_columns, ARRAY_LEN(node_columns), NO_NODE);
    print_troubles(cli, &ix, nodes);
    print_local(cli, local_err, local);
    return EXIT_GOOD;
}

int run_status(struct cli *cli)
{
    struct buf local = BUF_INIT(LOCAL_BYTES_MAX);
    const enum err err = node_status(cli, &local);
    const int code = print_status(cli, err, buf_span(&local));
    buf_release(&local);
    return code;
}

int run_nodes_list(struct cli *cli)
{
    struct call call = { .command = "nodes.list" };
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json) {
        render_json(reply->result);
        return EXIT_GOOD;
    }
    render_table(cli, &ix, 0, node_columns, ARRAY_LEN(node_columns), NO_NODE);
    print_troubles(cli, &ix, 0);
    return EXIT_GOOD;
}

int run_nodes_adopt(struct cli *cli)
{
    struct call call = { .command = "nodes.adopt" };
    if (!cli_arg(cli, 0) == !opts_flag(&cli->given, "all"))
        return cli_fail(cli, EXIT_USAGE, "name one node, or say --all; `fairlead nodes` lists them");
    call_arg_cstr(&call, "node", cli_arg(cli, 0));
    call_option(cli, &call, "all");
    if (!cli_confirm(cli, "Let %s take the tables of the restored control plane?",
                     cli_arg(cli, 0) ? cli_arg(cli, 0) : "every node"))
        return EXIT_REFUSED;
    return call_change(cli, &call);
}

/* Runs one of our own programs and gives its exit status; -1 when it cannot be run. */
static int run_program(const char *name, char *const *argv)
{
    char *program = cli_program(name);
    pid_t pid;
    int status = 0;
    fflush(stdout);
    const int rc = program ? posix_spawnp(&pid, program, NULL, NULL, argv, environ) : ENOMEM;
    free(program);
    if (rc != 0)
        return -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int pin(struct cli *cli, const char *flag)
{
    char *argv[] = { (char *)"fairlead-dataplane", (char *)"--home", cli->home, (char *)(uintptr_t)flag, NULL };
    if (!opts_flag(&cli->given, "local"))
        return cli_fail(cli, EXIT_USAGE, "a node is pinned on its own machine: say --local");
    const int status = run_program("fairlead-dataplane", argv);
    return status == 0  ? EXIT_GOOD
           : status < 0 ? cli_fail(cli, EXIT_FAILED, "fairlead-dataplane cannot be run")
                        : EXIT_FAILED;
}

int run_nodes_pin(struct cli *cli)
{
    return pin(cli, "--pin");
}

int run_nodes_unpin(struct cli *cli)
{
    return pin(cli, "--unpin");
}

int run_backup(struct cli *cli)
{
    struct call call = { .command = "backup" };
    const struct admin_reply *reply;
    char path[PATH_MAX];
    const char *to = cli_arg(cli, 0);
    if (to[0] != '/') { /* the control plane has another working directory */
        char cwd[PATH_MAX / 2];
        if (!getcwd(cwd, sizeof(cwd)) || strlen(to) > PATH_MAX / 4)
            return cli_fail(cli, EXIT_USAGE, "say an absolute path");
        snprintf(path, sizeof(path), "%s/%s", cwd, to);
        to = path;
    }
    call_arg_cstr(&call, "to", to);
    const int code = call_send(cli, &call, &reply);
    if (code != EXIT_GOOD)
        return code;
    render_done(cli, reply);
    return EXIT_GOOD;
}

int run_restore(struct cli *cli)
{
    char *argv[] = { (char *)"fairlead-controlplane",
                     (char *)"--home",
                     cli->home,
                     (char *)"--restore",
                     (char *)(uintptr_t)cli_arg(cli, 0),
                     NULL };
    if (!cli_confirm(cli, "Replace the control plane's store in %s by the backup %s?", cli->home, cli_arg(cli, 0)))
        return EXIT_REFUSED;
    if (cli->dry_run) {
        printf("dry run, nothing was changed: %s would replace the store in %s\n", cli_arg(cli, 0), cli->home);
        return EXIT_GOOD;
    }
    const int status = run_program("fairlead-controlplane", argv);
    return status == 0 ? EXIT_GOOD : EXIT_FAILED;
}
