#include "admin-cli/cli.h"
#include "common/file.h"
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <errno.h>

extern char **environ;

/* Checked by the control plane's own program, so that no control plane need run. */
int run_policy_check(struct cli *cli)
{
    char *program = cli_program("fairlead-controlplane");
    char *argv[8] = { program, (char *)"--check-policy", (char *)(uintptr_t)cli_arg(cli, 0) };
    unsigned argc = 3;
    pid_t pid;
    int status = 0;
    if (!program)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    const char *prices = opts_text(&cli->given, "prices", NULL);
    if (cli->json)
        argv[argc++] = (char *)"--json";
    if (prices) {
        argv[argc++] = (char *)"--prices";
        argv[argc++] = (char *)(uintptr_t)prices;
    }
    fflush(stdout);
    const int rc = posix_spawnp(&pid, program, NULL, NULL, argv, environ);
    free(program);
    if (rc != 0)
        return cli_fail(cli, EXIT_FAILED, "fairlead-controlplane cannot be run: %s", strerror(rc));
    waitpid(pid, &status, 0);
    if (!WIFEXITED(status))
        return EXIT_FAILED;
    return WEXITSTATUS(status) == 0 ? EXIT_GOOD : WEXITSTATUS(status) == 1 ? EXIT_REFUSED : EXIT_FAILED;
}

/* Sends a call whose `bundle` is the file's; the reply indexed. */
static int send_bundle(struct cli *cli, struct call *call, const char *file, const struct admin_reply **ret_reply,
                       struct json_index *ret_ix)
{
    struct buf bundle = BUF_INIT(PUSH_BYTES_MAX);
    int code = EXIT_GOOD;
    if (file) {
        code = cli_bundle(cli, file, &bundle);
        call_arg(call, "bundle", buf_span(&bundle));
    }
    if (code == EXIT_GOOD)
        code = call_send(cli, call, ret_reply);
    buf_release(&bundle);
    return code == EXIT_GOOD ? call_index(cli, *ret_reply, ret_ix) : code;
}

int run_policy_diff(struct cli *cli)
{
    struct call call = { .command = "policy.diff" };
    const struct admin_reply *reply;
    struct json_index ix;
    const char *first = cli_arg(cli, 0), *second = cli_arg(cli, 1);
    const bool versions =
        second != NULL || (first && !file_exists(first) && strspn(first, "v0123456789") == strlen(first));
    if (versions) {
        call_arg_cstr(&call, second ? "from" : "to", first);
        call_arg_cstr(&call, "to", second);
    }
    const int code = send_bundle(cli, &call, versions ? NULL : first, &reply, &ix);
    if (code == EXIT_GOOD)
        render_outcome(cli, reply, &ix);
    return code;
}

/* The values of a repeated option, with commas between; NULL when there is none, or memory is out. */
static const char *joined(struct cli *cli, const char *name)
{
    const char *text = NULL;
    for (unsigned i = 0; i < cli->given.given_count; i++) {
        const struct opts_given *given = &cli->given.given[i];
        if (strcmp(given->opt->name, name) == 0)
            text = arena_printf(&cli->arena, "%s%s%s", text ? text : "", text ? "," : "", given->value);
    }
    return text;
}

/* --hold alone stores, as --store does; with a time it says how long each step lasts at least. */
static void push_options(struct cli *cli, struct call *call)
{
    static const char *const same[] = { "message", "again", "expect", "now", "steps", "unit", "routes", "store" };
    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        call_option(cli, call, same[i]);
    const char *hold = opts_text(&cli->given, "hold", NULL);
    if (hold)
        call_arg_cstr(call, "hold", hold);
    else if (opts_flag(&cli->given, "hold") && !opts_flag(&cli->given, "store"))
        call_arg_cstr(call, "store", "true");
    call_arg_cstr(call, "guards", joined(cli, "guard"));
}

int run_policy_push(struct cli *cli)
{
    struct call call = { .command = "policy.push", .is_change = true };
    const struct admin_reply *reply;
    struct json_index ix;
    push_options(cli, &call);
    const int code = send_bundle(cli, &call, cli_arg(cli, 0), &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    render_outcome(cli, reply, &ix);
    simulate_after_push(cli, &ix);
    return call_wait_if_asked(cli, &ix);
}

int run_policy_list(struct cli *cli)
{
    static const struct column columns[] = {
        { "VERSION", "version", COLUMN_NUMBER },     { "STATE", "state", COLUMN_TEXT },
        { "SHARE", "share", COLUMN_TEXT },           { "PUSHED", "created_at_ms", COLUMN_TIME },
        { "LIVE SINCE", "live_at_ms", COLUMN_TIME }, { "AUTHOR", "author", COLUMN_TEXT },
        { "MESSAGE", "message", COLUMN_TEXT },
    };
    struct call call = { .command = "policy.list" };
    return call_list(cli, &call, columns, ARRAY_LEN(columns),
                     "no policy has been pushed yet; `fairlead policy push FILE` pushes one");
}

/* The files of a version as they were pushed. */
static void print_files(struct cli *cli, const struct json_index *ix)
{
    const uint32_t files = render_path(ix, 0, "bundle.files");
    if (files == JSON_NONE)
        return;
    for (uint32_t t = json_first(ix, files); t != JSON_NONE; t = json_next(ix, files, t)) {
        struct span name, text;
        const uint32_t name_token = json_get(ix, t, SPAN("name")), text_token = json_get(ix, t, SPAN("text"));
        if (name_token == JSON_NONE || text_token == JSON_NONE ||
            json_string(&cli->arena, ix, name_token, &name) != OK ||
            json_string(&cli->arena, ix, text_token, &text) != OK)
            continue;
        printf("# --- " SPAN_FMT "\n", SPAN_ARG(name));
        fwrite(text.ptr, 1, text.len, stdout);
        if (text.len && text.ptr[text.len - 1] != '\n')
            putchar('\n');
    }
}

int run_policy_show(struct cli *cli)
{
    static const struct column fields[] = {
        { "# version", "version", COLUMN_NUMBER },       { "# state", "state", COLUMN_TEXT },
        { "# pushed", "created_at_ms", COLUMN_TIME },    { "# live since", "live_at_ms", COLUMN_TIME },
        { "# generation", "generation", COLUMN_NUMBER }, { "# author", "author", COLUMN_TEXT },
        { "# message", "message", COLUMN_TEXT },         { "# content", "policy_hash", COLUMN_TEXT },
    };
    struct call call = { .command = "policy.show" };
    const struct admin_reply *reply;
    struct json_index ix;
    call_arg_cstr(&call, "version", cli_arg(cli, 0));
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json) {
        render_json(reply->result);
        return EXIT_GOOD;
    }
    render_fields(cli, &ix, 0, fields, ARRAY_LEN(fields));
    print_files(cli, &ix);
    return EXIT_GOOD;
}

int run_rollback(struct cli *cli)
{
    struct call call = { .command = "rollback", .is_change = true };
    const struct admin_reply *reply;
    struct json_index ix;
    const char *version = cli_arg(cli, 0);
    call_arg_cstr(&call, "version", version);
    if (!cli_confirm(cli, "Roll back to %s%s?", version ? "version " : "the version that last held 100%",
                     version ? version : ""))
        return EXIT_REFUSED;
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    render_outcome(cli, reply, &ix);
    return call_wait_if_asked(cli, &ix);
}
