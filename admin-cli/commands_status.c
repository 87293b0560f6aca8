#include "admin-cli/cli.h"
#include "proto/home.h"
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const struct column node_columns[] = {
    { "NODE", "node", COLUMN_TEXT },
    { "STATE", "state", COLUMN_TEXT },
    { "COMMITTED", "committed.generation", COLUMN_NUMBER },
    { "SERVING", "serving.generation", COLUMN_NUMBER },
    { "DIRECTORY", "serving.directory", COLUMN_NUMBER },
    { "EVIDENCE", "serving.evidence", COLUMN_NUMBER },
    { "WORKERS", "workers", COLUMN_NUMBER },
    { "SEEN MS AGO", "seen_ms_ago", COLUMN_NUMBER },
    { "VERSION", "version", COLUMN_TEXT },
    { "NO CREDENTIAL FOR", "unresolved_credentials", COLUMN_LIST },
};

/* Refusals below the table: one line each. */
static void print_nacks(struct cli *cli, const struct json_index *ix, uint32_t nodes)
{
    static const struct column name = { "", "node", COLUMN_TEXT };
    static const struct column parts[] = { { "", "kind", COLUMN_TEXT },
                                           { "", "seq", COLUMN_NUMBER },
                                           { "", "reason", COLUMN_TEXT },
                                           { "", "at_ms", COLUMN_AGE } };
    if (nodes == JSON_NONE)
        return;
    for (uint32_t n = json_first(ix, nodes); n != JSON_NONE; n = json_next(ix, nodes, n)) {
        const uint32_t nacks = json_get(ix, n, SPAN("nacks"));
        for (uint32_t t = nacks == JSON_NONE ? JSON_NONE : json_first(ix, nacks); t != JSON_NONE;
             t = json_next(ix, nacks, t)) {
            printf("%s refused %s %s: %s (%s ago)\n", render_cell(cli, ix, n, &name),
                   render_cell(cli, ix, t, &parts[0]), render_cell(cli, ix, t, &parts[1]),
                   render_cell(cli, ix, t, &parts[2]), render_cell(cli, ix, t, &parts[3]));
        }
    }
}

static void print_arms(struct cli *cli, const struct json_index *ix)
{
    const uint32_t arms = json_get(ix, 0, SPAN("arms"));
    printf("policy      ");
    if (arms == JSON_NONE || ix->tokens[arms].count == 0)
        printf("none pushed yet; `fairlead policy push FILE`");
    for (uint32_t t = arms == JSON_NONE ? JSON_NONE : json_first(ix, arms); t != JSON_NONE;
         t = json_next(ix, arms, t)) {
        double share = 0;
        const uint32_t token = json_get(ix, t, SPAN("share"));
        if (token == JSON_NONE || json_double(ix, token, &share) != OK)
            share = 0;
        printf("%sv%llu %g%%", t == json_first(ix, arms) ? "" : " + ", (unsigned long long)render_u64(ix, t, "version"),
               share * 100);
    }
    static const struct column why[] = { { "", "generation_why", COLUMN_TEXT },
                                         { "", "generation_by", COLUMN_TEXT },
                                         { "", "generation_at_ms", COLUMN_AGE } };
    printf(" · generation %llu", (unsigned long long)render_u64(ix, 0, "generation"));
    if (render_u64(ix, 0, "generation"))
        printf(" (%s, by %s, %s ago)", render_cell(cli, ix, 0, &why[0]), render_cell(cli, ix, 0, &why[1]),
               render_cell(cli, ix, 0, &why[2]));
    printf("\n");
}

/* The evidence summary is a list of lines {"what", "state", "text"} made where the facts are. */
static void print_evidence(struct cli *cli, const struct json_index *ix)
{
    const uint32_t evidence = json_get(ix, 0, SPAN("evidence"));
    if (evidence == JSON_NONE)
        return;
    const uint32_t lines = json_get(ix, evidence, SPAN("lines"));
    for (uint32_t t = lines == JSON_NONE ? JSON_NONE : json_first(ix, lines); t != JSON_NONE;
         t = json_next(ix, lines, t)) {
        static const struct column what = { "", "what", COLUMN_TEXT }, text = { "", "text", COLUMN_TEXT };
        printf("%-11s %s\n", render_cell(cli, ix, t, &what), render_cell(cli, ix, t, &text));
    }
}

int run_status(struct cli *cli)
{
    static const struct column fields[] = {
        { "control   ", "version", COLUMN_TEXT },     { "home      ", "home", COLUMN_TEXT },
        { "up        ", "uptime_ms", COLUMN_MS },     { "teams     ", "teams", COLUMN_NUMBER },
        { "directory ", "directory", COLUMN_NUMBER }, { "overrides ", "overrides", COLUMN_NUMBER }
    };
    struct call call = { .command = "status" };
    const struct admin_reply *reply;
    struct json_index ix;
    int code = call_send(cli, &call, &reply);
    if (code == EXIT_GOOD)
        code = call_index(cli, reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json) {
        render_json(reply->result);
        return EXIT_GOOD;
    }
    print_arms(cli, &ix);
    render_fields(cli, &ix, 0, fields, ARRAY_LEN(fields));
    print_evidence(cli, &ix);
    printf("\n");
    const uint32_t nodes = json_get(&ix, 0, SPAN("nodes"));
    render_table(cli, &ix, nodes, node_columns, ARRAY_LEN(node_columns), "no node has been heard of");
    print_nacks(cli, &ix, nodes);
    return EXIT_GOOD;
}

int run_nodes_list(struct cli *cli)
{
    struct call call = { .command = "nodes.list" };
    const struct admin_reply *reply;
    struct json_index ix;
    int code = call_send(cli, &call, &reply);
    if (code == EXIT_GOOD)
        code = call_index(cli, reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json) {
        render_json(reply->result);
        return EXIT_GOOD;
    }
    render_table(cli, &ix, 0, node_columns, ARRAY_LEN(node_columns), "no node has been heard of");
    print_nacks(cli, &ix, 0);
    return EXIT_GOOD;
}

int run_nodes_adopt(struct cli *cli)
{
    struct call call = { .command = "nodes.adopt", .is_change = true };
    const struct admin_reply *reply;
    call_arg_cstr(&call, "node", cli_arg(cli, 0));
    call_option(cli, &call, "all");
    if (!cli_confirm(cli, "Let %s take the tables of the restored control plane?",
                     cli_arg(cli, 0) ? cli_arg(cli, 0) : "every node"))
        return EXIT_REFUSED;
    const int code = call_send(cli, &call, &reply);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json)
        render_json(reply->result);
    else
        printf(SPAN_FMT "\n", SPAN_ARG(reply->message));
    return EXIT_GOOD;
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

int run_audit(struct cli *cli)
{
    static const struct column columns[] = { { "SEQ", "seq", COLUMN_NUMBER },
                                             { "WHEN", "entry.at_ms", COLUMN_TIME },
                                             { "WHO", "entry.user", COLUMN_TEXT },
                                             { "COMMAND", "entry.command", COLUMN_TEXT },
                                             { "WHAT", "entry.message", COLUMN_TEXT } };
    struct call call = { .command = "audit.list" };
    const struct admin_reply *reply;
    struct json_index ix;
    call_option(cli, &call, "lines");
    int code = call_send(cli, &call, &reply);
    if (code == EXIT_GOOD)
        code = call_index(cli, reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json)
        render_json(reply->result);
    else
        render_table(cli, &ix, 0, columns, ARRAY_LEN(columns), "nothing has been changed yet");
    return EXIT_GOOD;
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
    if (cli->json)
        render_json(reply->result);
    else
        printf(SPAN_FMT "\n", SPAN_ARG(reply->message));
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
