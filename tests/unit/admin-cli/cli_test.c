/* Finding commands, options in any place, exit codes; nothing here needs a control plane. */
#include "admin-cli/cli.h"
#include "capture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#define ARGS_MAX 200

/* Runs "fairlead" and the words of line (no quoting). */
static int fairlead(struct capture *c, const char *line)
{
    char *copy = strdup(line), *rest = NULL;
    char *argv[ARGS_MAX] = { (char *)(uintptr_t) "fairlead" };
    int argc = 1;
    assert_non_null(copy);
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        assert_true(argc + 1 < ARGS_MAX);
        argv[argc++] = word;
    }
    capture_begin(c);
    const int code = cli_main(argc, argv);
    capture_end(c);
    free(copy);
    return code;
}

/* stdout or stderr must hold `text`. */
static void check(const char *line, int code, const char *out, const char *err)
{
    struct capture c;
    const int got = fairlead(&c, line);
    if (got != code || (out && !strstr(c.text[0], out)) || (err && !strstr(c.text[1], err)) || (!out && *c.text[0]) ||
        (!err && *c.text[1]))
        fail_msg("fairlead %s: code %d, expected %d\nout: %s\nerr: %s", line, got, code, c.text[0], c.text[1]);
    capture_release(&c);
}

#define NOWHERE "--home /nonexistent/fairlead "

static void words(UNUSED void **state)
{
    check("", EXIT_USAGE, NULL, "Usage: fairlead COMMAND");
    check("--help", EXIT_GOOD, "Usage: fairlead COMMAND", NULL);
    check("-h", EXIT_GOOD, "Usage: fairlead COMMAND", NULL);
    check("--version", EXIT_GOOD, "fairlead " FAIRLEAD_VERSION "\n", NULL);
    check("policy", EXIT_USAGE, NULL, "needs one more word:\n  fairlead policy check FILE");
    check("policy --help", EXIT_GOOD, "fairlead policy push FILE", NULL);
    check("policy psuh x", EXIT_USAGE, NULL, "unknown command 'policy psuh'; did you mean 'policy push'?");
    check("polcy push x", EXIT_USAGE, NULL, "unknown command 'polcy'; did you mean 'policy push'?");
    check("polcy", EXIT_USAGE, NULL, "did you mean 'policy'?");
    check("stauts", EXIT_USAGE, NULL, "did you mean 'status'?");
    check("frobnicate", EXIT_USAGE, NULL, "unknown command 'frobnicate'\nTry");
    check("nodes frobnicate", EXIT_USAGE, NULL, "unknown command 'nodes frobnicate'\n  fairlead nodes");
    check("audit one", EXIT_USAGE, NULL, "'one' is one argument too many\nusage: fairlead audit");
    check("prices set a/b 3", EXIT_USAGE, NULL, "'3' is one argument too many\nusage: fairlead prices set NAME");
    check(NOWHERE "top --once --node nope", EXIT_USAGE, NULL, "--node: 'nope' is no HOST:PORT");
    check(NOWHERE "top --once --node nope:http", EXIT_USAGE, NULL, "--node: 'nope:http' is no HOST:PORT");
    check("policy push f --hold 20", EXIT_USAGE, NULL,
          "'20' is one argument too many (a duration has a unit: --hold 20s, 20m)\nusage: fairlead policy push FILE");
}

static void longest_match(UNUSED void **state)
{
    check("nodes --help", EXIT_GOOD, "Usage: fairlead nodes [options]", NULL);
    check("nodes adopt --help", EXIT_GOOD, "Usage: fairlead nodes adopt NODE", NULL);
    check("rollback 3 --help", EXIT_GOOD, "Usage: fairlead rollback [VERSION]", NULL);
}

static void argument_counts(UNUSED void **state)
{
    check("policy push", EXIT_USAGE, NULL, "usage: fairlead policy push FILE");
    check("policy diff", EXIT_USAGE, NULL, "usage: fairlead policy diff");
    check("status now", EXIT_USAGE, NULL, "usage: fairlead status");
    check("rollback 1 2", EXIT_USAGE, NULL, "usage: fairlead rollback");
    check("keys revoke", EXIT_USAGE, NULL, "usage: fairlead keys revoke KEY_ID");
    /* refused with a stranger's word or without its own, whatever the command: none of them may crash or ask for more */
    for (unsigned i = 0; i < cli_command_count; i++) {
        char line[256];
        struct capture c;
        snprintf(line, sizeof(line), "%s a b c d --home /nonexistent", cli_commands[i].path);
        assert_int_equal(fairlead(&c, line), EXIT_USAGE);
        assert_string_not_equal(c.text[1], "");
        capture_release(&c);
        if (cli_commands[i].args_least > 0)
            check(cli_commands[i].path, EXIT_USAGE, NULL, "usage: fairlead ");
    }
}

static void options_anywhere(UNUSED void **state)
{
    check(NOWHERE "status", EXIT_UNREACHABLE, NULL, "ipc:///nonexistent/fairlead/run/admin.ipc");
    check("status " NOWHERE, EXIT_UNREACHABLE, NULL, "ipc:///nonexistent/fairlead/run/admin.ipc");
    check("--json policy " NOWHERE "list", EXIT_UNREACHABLE, NULL, "no control plane answers");
    check("-n --timeout 5s keys -y " NOWHERE "revoke key_x", EXIT_UNREACHABLE, NULL, "no control plane answers");
    check("--address=ipc:///nonexistent/a status", EXIT_UNREACHABLE, NULL, "ipc:///nonexistent/a ");
    check("status --bogus", EXIT_USAGE, NULL, "unknown option --bogus");
    check("status --jsn", EXIT_USAGE, NULL, "did you mean --json?");
    check("status --home", EXIT_USAGE, NULL, "needs a value");
    check("status --home=", EXIT_USAGE, NULL, "--home is empty");
    check("status --timeout soon", EXIT_USAGE, NULL, "--timeout: 'soon'");
    check("status --timeout 2h", EXIT_USAGE, NULL, "at most 1h");
    check("status --wait", EXIT_USAGE, NULL, "unknown option --wait"); /* nothing to wait for */
}

/* find_command skips the value of an option before it knows the command: so a name means the same everywhere. */
static void options_agree(UNUSED void **state)
{
    for (unsigned a = 0; a < cli_command_count; a++) {
        for (unsigned b = 0; b < cli_command_count; b++) {
            for (size_t i = 0; i < cli_commands[a].option_count; i++) {
                for (size_t k = 0; k < cli_commands[b].option_count; k++) {
                    const struct opt *x = &cli_commands[a].options[i], *y = &cli_commands[b].options[k];
                    if (strcmp(x->name, y->name) == 0 || (x->letter && x->letter == y->letter))
                        assert_int_equal(x->kind == OPT_FLAG, y->kind == OPT_FLAG);
                }
            }
        }
    }
}

static void addresses(UNUSED void **state)
{
    char line[300] = "status --home /tmp/";
    memset(line + strlen(line), 'x', 120);
    check(line, EXIT_USAGE, NULL, "too long for a socket");
    memcpy(line, "up    ", 6);
    check(line, EXIT_USAGE, NULL, "too long a name for sockets");
    check("status --address nonsense", EXIT_UNREACHABLE, NULL, "nonsense");
}

static void no_terminal_no_yes(UNUSED void **state)
{
    /* stdin is no terminal under a test runner; where it is one, /dev/null stands in */
    const int saved = dup(STDIN_FILENO);
    assert_non_null(freopen("/dev/null", "r", stdin));
    check(NOWHERE "rollback", EXIT_REFUSED, NULL, "say --yes");
    check(NOWHERE "keys revoke key_x", EXIT_REFUSED, NULL, "say --yes");
    check(NOWHERE "providers drain x", EXIT_UNREACHABLE, NULL,
          "no control plane"); /* asked first whether there is an x */
    check(NOWHERE "restore /nonexistent/b", EXIT_REFUSED, NULL, "say --yes");
    check(NOWHERE "restore /nonexistent/b --dry-run", EXIT_GOOD, "nothing was changed", NULL);
    check(NOWHERE "rollback --yes", EXIT_UNREACHABLE, NULL, "no control plane");
    assert_true(dup2(saved, STDIN_FILENO) >= 0);
    close(saved);
}

static void said_before_asking(UNUSED void **state)
{
    check(NOWHERE "prices accept", EXIT_USAGE, NULL, "--all");
    check(NOWHERE "prices accept a --all", EXIT_USAGE, NULL, "--all");
    check(NOWHERE "nodes adopt", EXIT_USAGE, NULL, "--all");
    check(NOWHERE "nodes pin", EXIT_USAGE, NULL, "--local");
    check(NOWHERE "audit --limit x", EXIT_USAGE, NULL, "--limit");
    check("completion tcsh", EXIT_USAGE, NULL, "not 'tcsh'");
    check("man frobnicate", EXIT_USAGE, NULL, "no command");
    check("man status --dir /nonexistent", EXIT_USAGE, NULL, "--dir");
    check(NOWHERE "down", EXIT_GOOD, "nothing runs in /nonexistent/fairlead\n", NULL);
}

static void too_many_options(UNUSED void **state)
{
    char line[2000] = NOWHERE "keys create --team t";
    for (int i = 0; i < 70; i++)
        text_add(line, sizeof(line), " --tag a=b");
    struct capture c;
    const int code = fairlead(&c, line); /* refused or asked, never a crash */
    assert_true(code == EXIT_USAGE || code == EXIT_UNREACHABLE);
    capture_release(&c);
}

#define RECORD(id, outcome, error, attempts, ttft)                                                                     \
    "{\"time\":\"T\",\"request_id\":\"" id                                                                             \
    "\",\"key_id\":\"key_a\",\"team\":\"t\",\"asked\":\"chat\",\"route\":\"chat\","                                    \
    "\"arm\":\"stable\",\"policy_version\":1,\"generation\":2,\"attempts\":[" attempts                                 \
    "],\"model\":\"p/m\",\"propensity_ppb\":500000000,\"status\":200,\"outcome\":\"" outcome "\",\"error\":" error     \
    ",\"usage\":null,\"estimated\":false,\"cost_list_nano_usd\":0,\"cost_nano_usd\":10800,\"price_source\":"           \
    "\"policy\","                                                                                                      \
    "\"ttft_us\":" ttft ",\"total_us\":2000,\"overhead_us\":300}\n"

static void records_by_their_whole_id(UNUSED void **state)
{
    char home[] = "/tmp/cli_test_XXXXXX", path[128], line[256];
    assert_non_null(mkdtemp(home));
    snprintf(path, sizeof(path), "%s/records", home);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/records/records-1.jsonl", home);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(RECORD("req_aa", "ok", "null",
                 "{\"model\":\"p/m\",\"because\":\"is first\",\"error\":null,\"duration_us\":5}", "1500")
              RECORD("req_ab", "error", "\"no_model_available\"", "", "0"),
          file);
    assert_int_equal(fclose(file), 0);
#define RECORDS(text) (snprintf(line, sizeof(line), "--home %s records %s", home, text), line)
    check(RECORDS("req_aa"), EXIT_GOOD,
          "generation 2; this first choice had a chance of 50.0%\n"
          "attempt 1     p/m, which is first: answered after 0.0 ms\n"
          "served by     p/m: answered, status 200\n",
          NULL);
    check(RECORDS("req_aa"), EXIT_GOOD, "time          first token 1.5 ms, in all 2.0 ms", NULL);
    /* nothing was tried: no chance, no tokens, no cost, no first token to tell of */
    check(RECORDS("req_ab"), EXIT_GOOD,
          "generation 2\nended at      p/m: failed: no_model_available, status 200\ntime          in all 2.0 ms", NULL);
    check(RECORDS("req_a"), EXIT_NOT_FOUND, NULL, "no record of 'req_a'"); /* a part of an id is none */
    check(RECORDS("chat"), EXIT_NOT_FOUND, NULL, "no record of 'chat'");
    check(RECORDS(""), EXIT_GOOD, "0.0000108  1.5ms  ok\n", NULL);
    unlink(path);
    snprintf(path, sizeof(path), "%s/records", home);
    rmdir(path);
    rmdir(home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words),
        cmocka_unit_test(longest_match),
        cmocka_unit_test(argument_counts),
        cmocka_unit_test(options_anywhere),
        cmocka_unit_test(options_agree),
        cmocka_unit_test(addresses),
        cmocka_unit_test(no_terminal_no_yes),
        cmocka_unit_test(said_before_asking),
        cmocka_unit_test(too_many_options),
        cmocka_unit_test(records_by_their_whole_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
