/* fairlead: the admin CLI. */
#include "admin-cli/cli.h"
#include "common/file.h"
#include "common/units.h"
#include "proto/home.h"
#include <limits.h>
#include <stdarg.h>
#include <unistd.h>

#define OPTIONS_MAX   40u
#define CLI_ARENA_MAX ((size_t)2 << 30) /* a listing of the longest answer with its index and cells */

int cli_fail(const struct cli *cli, enum exit_code code, const char *fmt, ...)
{
    va_list args;
    (void)cli;
    fflush(stdout);
    fputs("fairlead: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    return code;
}

bool cli_confirm(const struct cli *cli, const char *fmt, ...)
{
    char answer[16];
    va_list args;
    if (cli->yes || cli->dry_run)
        return true;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    if (!isatty(STDIN_FILENO)) {
        fputs("\nfairlead: say --yes to do this without a terminal\n", stderr);
        return false;
    }
    fputs(" [y/N] ", stderr);
    if (fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y'))
        return true;
    fputs("nothing was changed\n", stderr);
    return false;
}

static unsigned words_of(const struct cli_command *command)
{
    unsigned words = 1;
    for (const char *at = command->path; *at; at++)
        words += *at == ' ';
    return words;
}

const char *cli_arg(const struct cli *cli, unsigned n)
{
    const unsigned at = words_of(cli->command) + n;
    return at < cli->given.arg_count ? cli->given.args[at] : NULL;
}

/* The command whose words stand at the front of argv (options may stand between); the longest wins. */
static const struct cli_command *find_command(int argc, char *const *argv, const char **ret_word)
{
    const struct cli_command *best = NULL;
    const char *words[3];
    unsigned count = 0, best_words = 0;
    for (int i = 1; i < argc && count < ARRAY_LEN(words); i++) {
        if (argv[i][0] == '-')
            break;
        words[count++] = argv[i];
    }
    *ret_word = count ? words[0] : NULL;
    for (unsigned c = 0; c < cli_command_count; c++) {
        struct span rest = span_cstr(cli_commands[c].path), word;
        unsigned matched = 0;
        bool all = true;
        while (all && span_split(&rest, ' ', &word)) {
            all = matched < count && span_eq(word, span_cstr(words[matched]));
            matched++;
        }
        if (all && matched > best_words) {
            best = &cli_commands[c];
            best_words = matched;
        }
    }
    return best;
}

static int unknown_command(const char *word)
{
    const char *near = NULL;
    unsigned least = 3;
    for (unsigned c = 0; c < cli_command_count; c++) {
        struct span rest = span_cstr(cli_commands[c].path), first;
        if (!span_split(&rest, ' ', &first))
            continue;
        if (span_eq(first, span_cstr(word))) { /* a group: list it */
            fprintf(stderr, "fairlead: '%s' needs one more word:\n", word);
            for (unsigned k = c; k < cli_command_count; k++) {
                if (span_starts(span_cstr(cli_commands[k].path), first))
                    fprintf(stderr, "  fairlead %s %s\n", cli_commands[k].path, cli_commands[k].arguments);
            }
            return EXIT_USAGE;
        }
        const unsigned distance = span_distance(span_cstr(word), first, 2);
        if (distance < least) {
            least = distance;
            near = cli_commands[c].path;
        }
    }
    fprintf(stderr, "fairlead: unknown command '%s'", word);
    if (near)
        fprintf(stderr, "; did you mean '%s'?", near);
    fprintf(stderr, "\nTry 'fairlead help'.\n");
    return EXIT_USAGE;
}

static size_t gather_options(const struct cli_command *command, struct opt *out)
{
    size_t count = 0;
    for (size_t i = 0; i < command->option_count; i++)
        out[count++] = command->options[i];
    for (size_t i = 0; command->changes && i < cli_change_option_count; i++)
        out[count++] = cli_change_options[i];
    for (size_t i = 0; i < cli_global_option_count; i++)
        out[count++] = cli_global_options[i];
    REQUIRE(count <= OPTIONS_MAX);
    return count;
}

static int prepare(struct cli *cli)
{
    const char *home = opts_text(&cli->given, "home", NULL);
    const char *timeout = opts_text(&cli->given, "timeout", "30s");
    uint64_t timeout_ms;
    char path[PATH_MAX];
    cli->json = opts_flag(&cli->given, "json");
    cli->yes = opts_flag(&cli->given, "yes");
    cli->dry_run = opts_flag(&cli->given, "dry-run");
    cli->terminal = isatty(STDOUT_FILENO);
    if (units_parse_duration(span_cstr(timeout), &timeout_ms) != OK || timeout_ms < 1 || timeout_ms > 3600000)
        return cli_fail(cli, EXIT_USAGE, "--timeout: '%s' is no duration of at most 1h", timeout);
    cli->timeout_ms = (uint32_t)timeout_ms;
    cli->home = home ? strdup(home) : file_default_home();
    if (cli->home && realpath(cli->home, path)) {
        free(cli->home);
        cli->home = strdup(path);
    }
    if (!cli->home)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    const char *address = opts_text(&cli->given, "address", NULL);
    if (address) {
        cli->address = strdup(address);
    } else {
        const size_t bytes = strlen(cli->home) + sizeof("ipc:///" HOME_ADMIN_SOCKET);
        cli->address = malloc(bytes);
        if (cli->address)
            snprintf(cli->address, bytes, "ipc://%s/%s", cli->home, HOME_ADMIN_SOCKET);
    }
    return cli->address ? EXIT_GOOD : cli_fail(cli, EXIT_FAILED, "out of memory");
}

static int run(struct cli *cli, int argc, char *const *argv)
{
    struct opt options[OPTIONS_MAX];
    char *message = NULL;
    const size_t option_count = gather_options(cli->command, options);
    if (opts_parse(options, option_count, argc, argv, &cli->given, &message) != OK) {
        cli_fail(cli, EXIT_USAGE, "%s\nTry 'fairlead %s --help'.", message ? message : "out of memory",
                 cli->command->path);
        free(message);
        return EXIT_USAGE;
    }
    if (opts_flag(&cli->given, "help")) {
        docs_help_command(cli->command);
        return EXIT_GOOD;
    }
    const unsigned words = words_of(cli->command);
    const unsigned args = cli->given.arg_count > words ? cli->given.arg_count - words : 0;
    if (args < cli->command->args_least || args > cli->command->args_most)
        return cli_fail(cli, EXIT_USAGE, "usage: fairlead %s %s\nTry 'fairlead %s --help'.", cli->command->path,
                        cli->command->arguments, cli->command->path);
    const int code = prepare(cli);
    return code == EXIT_GOOD ? cli->command->run(cli) : code;
}

int main(int argc, char **argv)
{
    struct cli cli = { 0 };
    const char *word;
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        docs_help_all();
        return argc < 2 ? EXIT_USAGE : EXIT_GOOD;
    }
    if (strcmp(argv[1], "--version") == 0)
        return printf("fairlead %s\n", FAIRLEAD_VERSION) < 0;
    cli.command = find_command(argc, argv, &word);
    if (!cli.command) {
        if (!word)
            return cli_fail(&cli, EXIT_USAGE, "the command comes first, then its options: fairlead status --json");
        return unknown_command(word);
    }
    arena_init(&cli.arena, CLI_ARENA_MAX);
    int code = run(&cli, argc, argv);
    if (fflush(stdout) != 0 && code == EXIT_GOOD)
        code = cli_fail(&cli, EXIT_FAILED, "standard output cannot be written");
    arena_release(&cli.arena);
    free(cli.home);
    free(cli.address);
    return code;
}
