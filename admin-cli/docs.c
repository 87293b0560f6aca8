/* Help, manual pages and completion, all from the table of commands. */
#include "admin-cli/cli.h"
#include "common/file.h"
#include <ctype.h>

#define HELP_WIDTH 100u /* as the options below it */

static const struct {
    int code;
    const char *name, *means;
} exit_codes[] = {
    { EXIT_GOOD, "good", "done" },
    { EXIT_REFUSED, "refused", "the input is wrong, or the question was answered with no" },
    { EXIT_USAGE, "usage", "the command line is wrong" },
    { EXIT_NOT_FOUND, "not found", "no such version, key, provider, node or price" },
    { EXIT_CONFLICT, "conflict", "the state is not what was expected: look, then try again" },
    { EXIT_DENIED, "denied", "this user may not" },
    { EXIT_UNREACHABLE, "unreachable", "no control plane answers, or it cannot store anything now" },
    { EXIT_FAILED, "failed", "something broke" },
    { EXIT_NOT_YET, "not yet", "--wait: stored, but not every node serves it yet" },
};

void docs_help_all(FILE *to)
{
    fprintf(to,
            "Usage: fairlead COMMAND [options]\n\nFairlead routes requests to language models: by price, speed, health "
            "and rules that you version.\n\nCommands:\n");
    size_t width = 0;
    for (unsigned i = 0; i < cli_command_count; i++)
        width = size_max(width, strlen(cli_commands[i].path));
    for (unsigned i = 0; i < cli_command_count; i++)
        fprintf(to, "  %-*s  %s\n", (int)width, cli_commands[i].path, cli_commands[i].brief);
    fprintf(to, "\n'fairlead COMMAND --help' tells more; 'fairlead help exit-codes' lists exit codes.\n");
}

static void print_options(const char *title, const struct opt *options, size_t count)
{
    struct buf out = BUF_INIT(64u << 10);
    if (count == 0)
        return;
    printf("\n%s:\n", title);
    if (opts_help(options, count, &out) == OK)
        fwrite(out.data + out.start, 1, out.len, stdout);
    buf_release(&out);
}

/* Words of a paragraph in lines of at most HELP_WIDTH. */
static void print_wrapped(const char *text)
{
    struct span rest = span_cstr(text), word;
    size_t column = 0;
    while (span_split(&rest, ' ', &word)) {
        const bool fits = column == 0 || column + 1 + word.len <= HELP_WIDTH;
        printf("%s" SPAN_FMT, column == 0 ? "" : fits ? " " : "\n", SPAN_ARG(word));
        column = fits ? column + (column > 0) + word.len : word.len;
    }
    printf("\n");
}

void docs_help_command(const struct cli_command *command)
{
    printf("Usage: fairlead %s%s%s [options]\n\n%c%s.\n", command->path, *command->arguments ? " " : "",
           command->arguments, toupper((unsigned char)command->brief[0]), command->brief + 1);
    if (command->more)
        print_wrapped(command->more);
    print_options("Options", command->options, command->option_count);
    if (command->changes)
        print_options("Options of every change", cli_change_options, cli_change_option_count);
    print_options("Options of every command", cli_global_options, cli_global_option_count);
}

static void print_exit_codes(void)
{
    for (size_t i = 0; i < ARRAY_LEN(exit_codes); i++)
        printf("%d  %-12s %s\n", exit_codes[i].code, exit_codes[i].name, exit_codes[i].means);
}

/* ---- manual pages (man(7)) ---- */

/* A leading dot or apostrophe would be a request, a backslash an escape, a hyphen a dash. */
static enum err man_text(struct buf *out, const char *text)
{
    enum err err = *text == '.' || *text == '\'' ? buf_append_cstr(out, "\\&") : OK;
    for (; !err && *text; text++) {
        if (*text == '\\')
            err = buf_append_cstr(out, "\\e");
        else if (*text == '-')
            err = buf_append_cstr(out, "\\-");
        else
            err = buf_append_byte(out, *text);
    }
    return err;
}

static enum err man_options(struct buf *out, const struct opt *options, size_t count)
{
    enum err err = OK;
    for (size_t i = 0; !err && i < count; i++) {
        err = buf_append_cstr(out, ".TP\n.B ");
        if (!err && options[i].letter)
            err = buf_printf(out, "\\-%c, ", options[i].letter);
        if (!err)
            err = buf_append_cstr(out, "\\-\\-");
        if (!err)
            err = man_text(out, options[i].name);
        if (!err && options[i].value)
            err = buf_printf(out, " \\fI%s\\fR", options[i].value);
        if (!err)
            err = buf_append_byte(out, '\n');
        if (!err)
            err = man_text(out, options[i].help);
        if (!err)
            err = buf_append_byte(out, '\n');
    }
    return err;
}

static enum err man_dashed(struct buf *out, const char *path)
{
    enum err err = buf_append_cstr(out, "fairlead");
    if (!err && *path)
        err = buf_append_cstr(out, "-");
    for (; !err && *path; path++)
        err = buf_append_byte(out, *path == ' ' ? '-' : *path);
    return err;
}

static enum err man_head(struct buf *out, const char *path, const char *brief)
{
    struct buf name = BUF_INIT(256);
    enum err err = man_dashed(&name, path);
    if (!err)
        err = buf_printf(out, ".TH \"%s\" 1 \"\" \"Fairlead %s\" \"Fairlead\"\n.SH NAME\n", buf_cstr(&name),
                         FAIRLEAD_VERSION);
    if (!err)
        err = man_text(out, buf_cstr(&name));
    if (!err)
        err = buf_append_cstr(out, " \\- ");
    if (!err)
        err = man_text(out, brief);
    buf_release(&name);
    return err ? err : buf_append_cstr(out, "\n.SH SYNOPSIS\n");
}

static enum err man_exit_codes(struct buf *out)
{
    enum err err = buf_append_cstr(out, ".SH EXIT STATUS\n");
    for (size_t i = 0; !err && i < ARRAY_LEN(exit_codes); i++) {
        err = buf_printf(out, ".TP\n.B %d\n", exit_codes[i].code);
        if (!err)
            err = man_text(out, exit_codes[i].means);
        if (!err)
            err = buf_append_byte(out, '\n');
    }
    return err;
}

/* "brief" as "Brief.\n" */
static enum err man_sentence(struct buf *out, const char *brief)
{
    enum err err = buf_append_byte(out, (char)toupper((unsigned char)brief[0]));
    if (!err)
        err = man_text(out, brief + 1);
    return err ? err : buf_append_cstr(out, ".\n");
}

static enum err man_command(struct buf *out, const struct cli_command *command)
{
    enum err err = man_head(out, command->path, command->brief);
    if (!err)
        err = buf_printf(out, ".B fairlead %s\n", command->path);
    if (!err && *command->arguments)
        err = man_text(out, command->arguments);
    if (!err)
        err = buf_append_cstr(out,
                              *command->arguments ? " [options]\n.SH DESCRIPTION\n" : "[options]\n.SH DESCRIPTION\n");
    if (!err)
        err = man_sentence(out, command->brief);
    if (!err && command->more)
        err = buf_append_cstr(out, ".PP\n");
    if (!err && command->more)
        err = man_text(out, command->more);
    if (!err)
        err = buf_append_cstr(out, "\n.SH OPTIONS\n");
    if (!err)
        err = man_options(out, command->options, command->option_count);
    if (!err && command->changes)
        err = man_options(out, cli_change_options, cli_change_option_count);
    if (!err)
        err = man_options(out, cli_global_options, cli_global_option_count);
    if (!err)
        err = man_exit_codes(out);
    return err ? err : buf_append_cstr(out, ".SH SEE ALSO\n.BR fairlead (1)\n");
}

static enum err man_overview(struct buf *out)
{
    enum err err = man_head(out, "", "administer the Fairlead AI router");
    if (!err)
        err = buf_append_cstr(out, ".B fairlead\n\\fICOMMAND\\fR [options]\n.SH COMMANDS\n");
    for (unsigned i = 0; !err && i < cli_command_count; i++) {
        err = buf_printf(out, ".TP\n.B %s\n", cli_commands[i].path);
        if (!err)
            err = man_text(out, cli_commands[i].brief);
        if (!err)
            err = buf_append_byte(out, '\n');
    }
    return err ? err : man_exit_codes(out);
}

static int write_page(struct cli *cli, const char *dir, const char *path, struct buf *page)
{
    struct buf name = BUF_INIT(4096);
    enum err err = buf_printf(&name, "%s/", dir);
    if (!err)
        err = man_dashed(&name, path);
    if (!err)
        err = buf_append_cstr(&name, ".1");
    if (!err)
        err = file_write_atomic(buf_cstr(&name), buf_span(page), 0644);
    const int code =
        err ? cli_fail(cli, EXIT_FAILED, "%s cannot be written: %s", name.data ? buf_cstr(&name) : dir, err_name(err))
            : EXIT_GOOD;
    buf_release(&name);
    return code;
}

/* Words after the command's own, joined by spaces; cut at 127 bytes, where no command's path is left. */
static void join_args(const struct cli *cli, char path[128])
{
    size_t len = 0;
    path[0] = '\0';
    for (unsigned i = 0; cli_arg(cli, i); i++) {
        const int n = snprintf(path + len, 128 - len, "%s%s", i ? " " : "", cli_arg(cli, i));
        len += n > 0 ? size_min((size_t)n, 127 - len) : 0;
    }
}

/* One page: of the command, or the overview (NULL). */
static int man_page(struct cli *cli, const struct cli_command *command, const char *dir, struct buf *page)
{
    buf_clear(page);
    if ((command ? man_command(page, command) : man_overview(page)) != OK)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    if (dir)
        return write_page(cli, dir, command ? command->path : "", page);
    fwrite(page->data + page->start, 1, page->len, stdout);
    return EXIT_GOOD;
}

int run_man(struct cli *cli)
{
    const char *dir = opts_text(&cli->given, "dir", NULL);
    char path[128];
    struct buf page = BUF_INIT(1u << 20);
    int code = EXIT_GOOD;
    join_args(cli, path);
    if (dir && *path)
        return cli_fail(cli, EXIT_USAGE, "--dir writes the pages of all commands; name a command or say --dir");
    if (dir && file_make_dirs(dir, 0755) != OK)
        return cli_fail(cli, EXIT_FAILED, "%s cannot be made", dir);
    bool found = *path == '\0';
    if (found)
        code = man_page(cli, NULL, dir, &page);
    for (unsigned i = 0; code == EXIT_GOOD && i < cli_command_count; i++) {
        const bool named = strcmp(cli_commands[i].path, path) == 0;
        if (named || dir)
            code = man_page(cli, &cli_commands[i], dir, &page);
        found = found || named;
    }
    buf_release(&page);
    return found ? code : cli_fail(cli, EXIT_USAGE, "no command '%s'; 'fairlead help' lists them", path);
}

/* ---- help on demand ---- */

int run_help(struct cli *cli)
{
    char path[128];
    join_args(cli, path);
    const size_t len = strlen(path);
    unsigned shown = 0;
    if (len == 0) {
        docs_help_all(stdout);
        return EXIT_GOOD;
    }
    if (strcmp(path, "exit-codes") == 0) {
        print_exit_codes();
        return EXIT_GOOD;
    }
    for (unsigned i = 0; i < cli_command_count; i++) {
        const struct span name = span_cstr(cli_commands[i].path);
        const struct span rest = span_skip(name, len);
        if (!span_starts(name, span_of(path, len)) || (rest.len && rest.ptr[0] != ' '))
            continue;
        if (shown++)
            printf("\n");
        docs_help_command(&cli_commands[i]);
    }
    return shown ? EXIT_GOOD : cli_fail(cli, EXIT_USAGE, "no command '%s'; 'fairlead help' lists them", path);
}

/* ---- completion ---- */

static void words_after(const char *prefix, const char *separator)
{
    const struct span head = span_cstr(prefix);
    struct span last = SPAN("");
    for (unsigned i = 0; i < cli_command_count; i++) {
        struct span path = span_cstr(cli_commands[i].path), word;
        if (head.len) {
            if (!span_starts(path, head) || path.len <= head.len || path.ptr[head.len] != ' ')
                continue;
            path = span_skip(path, head.len + 1);
        }
        if (span_split(&path, ' ', &word) && !span_eq(word, last)) {
            printf(SPAN_FMT "%s", SPAN_ARG(word), separator);
            last = word;
        }
    }
}

static void option_words(const struct cli_command *command)
{
    for (size_t i = 0; i < command->option_count; i++)
        printf("--%s ", command->options[i].name);
    for (size_t i = 0; command->changes && i < cli_change_option_count; i++)
        printf("--%s ", cli_change_options[i].name);
    for (size_t i = 0; i < cli_global_option_count; i++)
        printf("--%s ", cli_global_options[i].name);
}

static void bash_completion(void)
{
    printf("_fairlead() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} one=${COMP_WORDS[1]} two=${COMP_WORDS[2]}\n"
           "    local words=\n"
           "    if [ \"$COMP_CWORD\" = 1 ]; then words='");
    words_after("", " ");
    printf("'\n    elif [[ $cur == -* ]]; then\n        case \"$one $two\" in\n");
    for (int pass = 0; pass < 2; pass++) { /* two words before one: the first match wins */
        for (unsigned i = 0; i < cli_command_count; i++) {
            const bool two = strchr(cli_commands[i].path, ' ') != NULL;
            if (two != (pass == 0))
                continue;
            printf("        '%s%s') words='", cli_commands[i].path, two ? "" : " '*'");
            option_words(&cli_commands[i]);
            printf("' ;;\n");
        }
    }
    printf("        esac\n    elif [ \"$COMP_CWORD\" = 2 ]; then\n        case $one in\n");
    for (unsigned i = 0; i < cli_command_count; i++) {
        struct span path = span_cstr(cli_commands[i].path), first;
        if (!span_split(&path, ' ', &first) || !path.ptr || path.len == 0)
            continue;
        char group[64];
        snprintf(group, sizeof(group), SPAN_FMT, SPAN_ARG(first));
        printf("        %s) words='", group);
        words_after(group, " ");
        printf("' ;;\n");
        while (i + 1 < cli_command_count && span_starts(span_cstr(cli_commands[i + 1].path), first))
            i++;
    }
    /* Words hold neither spaces nor patterns; zsh's bashcompinit knows no mapfile. File names are left to the shell. */
    printf("        esac\n    fi\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
           "}\ncomplete -o default -F _fairlead fairlead\n");
}

/* In single quotes, where fish takes only \' and \\ for escapes. */
static void fish_quoted(const char *text)
{
    putchar('\'');
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            putchar('\\');
        putchar(*text);
    }
    putchar('\'');
}

/* condition: of fish; may be NULL. */
static void fish_options(const char *condition, const struct opt *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        printf("complete -c fairlead");
        if (condition)
            printf(" -n '%s'", condition);
        if (options[i].letter)
            printf(" -s %c", options[i].letter);
        printf(" -l %s%s -d ", options[i].name,
               options[i].kind == OPT_FLAG || options[i].kind == OPT_TIME ? "" : " -r -F");
        fish_quoted(options[i].help);
        printf("\n");
    }
}

static void fish_command(const struct cli_command *command)
{
    char condition[160];
    struct span path = span_cstr(command->path), first;
    (void)span_split(&path, ' ', &first);
    if (path.ptr) {
        printf("complete -c fairlead -n '__fish_seen_subcommand_from " SPAN_FMT "' -a " SPAN_FMT " -d ",
               SPAN_ARG(first), SPAN_ARG(path));
        snprintf(condition, sizeof(condition),
                 "__fish_seen_subcommand_from " SPAN_FMT "; and __fish_seen_subcommand_from " SPAN_FMT, SPAN_ARG(first),
                 SPAN_ARG(path));
    } else {
        printf("complete -c fairlead -n __fish_use_subcommand -a " SPAN_FMT " -d ", SPAN_ARG(first));
        snprintf(condition, sizeof(condition), "__fish_seen_subcommand_from " SPAN_FMT, SPAN_ARG(first));
    }
    fish_quoted(command->brief);
    printf("\n");
    fish_options(condition, command->options, command->option_count);
    if (command->changes)
        fish_options(condition, cli_change_options, cli_change_option_count);
}

static void fish_completion(void)
{
    struct span last = SPAN("");
    printf("complete -c fairlead -f\n");
    fish_options(NULL, cli_global_options, cli_global_option_count);
    for (unsigned i = 0; i < cli_command_count; i++) {
        struct span path = span_cstr(cli_commands[i].path), first;
        (void)span_split(&path, ' ', &first);
        if (path.ptr && !span_eq(first, last)) /* the group's name itself */
            printf("complete -c fairlead -n __fish_use_subcommand -a " SPAN_FMT "\n", SPAN_ARG(first));
        last = first;
        fish_command(&cli_commands[i]);
    }
}

int run_completion(struct cli *cli)
{
    const char *shell = cli_arg(cli, 0);
    if (strcmp(shell, "bash") == 0) {
        bash_completion();
    } else if (strcmp(shell, "zsh") == 0) {
        printf("autoload -Uz bashcompinit && bashcompinit\n");
        bash_completion();
    } else if (strcmp(shell, "fish") == 0) {
        fish_completion();
    } else {
        return cli_fail(cli, EXIT_USAGE, "completion for bash, zsh or fish, not '%s'", shell);
    }
    return EXIT_GOOD;
}
