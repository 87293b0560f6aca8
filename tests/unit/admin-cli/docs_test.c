/* Help, manual pages and completion: complete, and good for the tools that read them. */
#include "admin-cli/cli.h"
#include "capture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <cmocka.h>

static char dir[] = "/tmp/fairlead-docs-XXXXXX";

static int fairlead(struct capture *c, int argc, const char *const *words)
{
    char *argv[10] = { (char *)(uintptr_t) "fairlead" };
    for (int i = 0; i < argc; i++)
        argv[i + 1] = (char *)(uintptr_t)words[i];
    capture_begin(c);
    const int code = cli_main(argc + 1, argv);
    capture_end(c);
    return code;
}

/* Exit status of a shell command. */
static int shell(const char *fmt, ...) PRINTF_LIKE(1, 2);
static int shell(const char *fmt, ...)
{
    char command[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(command, sizeof(command), fmt, args);
    va_end(args);
    const int status = system(command); /* NOLINT(cert-env33-c): our own text */
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void every_command_has_help(UNUSED void **state)
{
    for (unsigned i = 0; i < cli_command_count; i++) {
        const struct cli_command *command = &cli_commands[i];
        struct capture c;
        capture_begin(&c);
        docs_help_command(command);
        capture_end(&c);
        assert_non_null(strstr(c.text[0], command->path));
        for (size_t k = 0; k < command->option_count; k++) {
            char option[64];
            snprintf(option, sizeof(option), "--%s", command->options[k].name);
            assert_non_null(strstr(c.text[0], option));
            assert_true(command->options[k].help && *command->options[k].help);
        }
        assert_int_equal(strstr(c.text[0], "--dry-run") != NULL, command->changes);
        for (const char *line = c.text[0], *next; line && *line; line = next ? next + 1 : NULL) {
            next = strchr(line, '\n');
            assert_true(next != NULL);
            assert_true(next - line <= 120); /* fits a terminal */
        }
        capture_release(&c);
        assert_true(command->brief && *command->brief && command->run);
        assert_null(strchr(command->brief, '\n'));
        assert_true(command->args_least <= command->args_most);
    }
}

static void help_of_groups(UNUSED void **state)
{
    struct capture c;
    assert_int_equal(fairlead(&c, 2, (const char *const[]){ "help", "keys" }), EXIT_GOOD);
    assert_non_null(strstr(c.text[0], "fairlead keys create"));
    assert_non_null(strstr(c.text[0], "fairlead keys revoke"));
    assert_null(strstr(c.text[0], "fairlead policy"));
    capture_release(&c);
    assert_int_equal(fairlead(&c, 3, (const char *const[]){ "help", "keys", "revoke" }), EXIT_GOOD);
    assert_null(strstr(c.text[0], "fairlead keys create ["));
    capture_release(&c);
    assert_int_equal(fairlead(&c, 2, (const char *const[]){ "help", "key" }), EXIT_USAGE);
    capture_release(&c);
    assert_int_equal(fairlead(&c, 2, (const char *const[]){ "help", "exit-codes" }), EXIT_GOOD);
    for (int code = EXIT_GOOD; code <= EXIT_NOT_YET; code++) {
        char line[16];
        snprintf(line, sizeof(line), "%d  ", code);
        assert_non_null(strstr(c.text[0], line));
    }
    capture_release(&c);
}

static void manual_pages(UNUSED void **state)
{
    struct capture c;
    if (shell("command -v groff >/dev/null") != 0)
        skip();
    assert_int_equal(fairlead(&c, 3, (const char *const[]){ "man", "--dir", dir }), EXIT_GOOD);
    capture_release(&c);
    assert_int_equal(shell("test $(ls %s/*.1 | wc -l) -eq %u", dir, cli_command_count + 1), 0);
    /* every warning that groff knows, on every page */
    assert_int_equal(
        shell("for page in %s/*.1; do groff -man -ww -z -Tutf8 $page; done 2>%s/warnings; cat %s/warnings; test ! -s "
              "%s/warnings",
              dir, dir, dir, dir),
        0);
    assert_int_equal(fairlead(&c, 3, (const char *const[]){ "man", "policy", "push" }), EXIT_GOOD);
    assert_non_null(strstr(c.text[0], ".TH \"fairlead-policy-push\" 1"));
    capture_release(&c);
}

/* What bash offers for the last of the words. */
static void offers(const char *words, const char *wanted, const char *unwanted)
{
    char command[2048], answer[4096] = "";
    snprintf(command, sizeof(command),
             "bash -c 'source %s/bash; COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _fairlead; echo \" "
             "${COMPREPLY[*]} \"'",
             dir, words);
    FILE *pipe = popen(command, "r"); /* NOLINT(cert-env33-c) */
    assert_non_null(pipe);
    assert_non_null(fgets(answer, sizeof(answer), pipe));
    assert_int_equal(pclose(pipe), 0);
    char word[64];
    snprintf(word, sizeof(word), " %s ", wanted);
    if (!strstr(answer, word))
        fail_msg("for '%s' bash offers %s, not %s", words, answer, wanted);
    snprintf(word, sizeof(word), " %s ", unwanted);
    if (*unwanted && strstr(answer, word))
        fail_msg("for '%s' bash offers %s", words, unwanted);
}

static void completion(UNUSED void **state)
{
    struct capture c;
    char path[100];
    assert_int_equal(fairlead(&c, 2, (const char *const[]){ "completion", "bash" }), EXIT_GOOD);
    snprintf(path, sizeof(path), "%s/bash", dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(c.text[0], file);
    fclose(file);
    capture_release(&c);
    assert_int_equal(shell("bash -n %s/bash", dir), 0);
    offers("fairlead \"\"", "policy", "push");
    offers("fairlead po", "policy", "prices");
    offers("fairlead st", "status", "");
    offers("fairlead policy \"\"", "push", "rollback");
    offers("fairlead policy pu", "push", "list");
    offers("fairlead policy push --ag", "--again", "--hold");
    offers("fairlead policy push --", "--dry-run", "--team");
    offers("fairlead status --", "--json", "--dry-run");
    offers("fairlead nodes adopt --a", "--all", "");
    offers("fairlead keys create --", "--team", "");
    for (unsigned i = 0; i < cli_command_count; i++) { /* every word of every command */
        char words[100];
        const char *space = strchr(cli_commands[i].path, ' ');
        snprintf(words, sizeof(words), "fairlead %.*s", space ? (int)(space - cli_commands[i].path) + 1 : 1,
                 cli_commands[i].path);
        text_add(words, sizeof(words), space ? "\"\"" : "");
        if (space)
            offers(words, space + 1, "");
        else
            offers(words, cli_commands[i].path, "");
    }
}

static void other_shells(UNUSED void **state)
{
    struct capture c;
    assert_int_equal(fairlead(&c, 2, (const char *const[]){ "completion", "zsh" }), EXIT_GOOD);
    assert_non_null(strstr(c.text[0], "bashcompinit"));
    assert_null(strstr(c.text[0], "mapfile")); /* bash's alone */
    capture_release(&c);
    assert_int_equal(fairlead(&c, 2, (const char *const[]){ "completion", "fish" }), EXIT_GOOD);
    for (const char *line = c.text[0], *next; *line; line = next + 1) {
        unsigned quotes = 0;
        next = strchr(line, '\n');
        assert_non_null(next);
        for (const char *at = line; at < next; at++)
            quotes += *at == '\'' && at[-1] != '\\';
        assert_int_equal(quotes % 2, 0); /* an apostrophe in a text must not end it */
        assert_memory_equal(line, "complete -c fairlead", 20);
    }
    assert_non_null(strstr(c.text[0], "route\\'s"));
    capture_release(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_command_has_help), cmocka_unit_test(help_of_groups),
        cmocka_unit_test(manual_pages),           cmocka_unit_test(completion),
        cmocka_unit_test(other_shells),
    };
    if (!mkdtemp(dir))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    shell("rm -r %s", dir);
    return failed;
}
