#include "admin-cli/cli.h"
#include "common/file.h"
#include "common/units.h"
#include "proto/home.h"
#include <limits.h>
#include <stdarg.h>
#include <unistd.h>

#define OPTIONS_MAX   40u
#define WORDS_MAX     3u                /* a command's words, and one too many */
#define CLI_ARENA_MAX ((size_t)2 << 30) /* a listing of the longest answer with its index and cells */

int cli_fail(const struct cli *cli, enum exit_code code, const char *fmt, ...)
{
    va_list args;
    if (cli->quiet)
        return (int)code;
    fflush(stdout);
    fputs("fairlead: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    return (int)code;
}

bool cli_confirm(const struct cli *cli, const char *fmt, ...)
{
    char answer[16];
    va_list args;
    if (cli->yes || cli->dry_run)
        return true;
    if (cli->context.name)
        fprintf(stderr, "In context %s: ", cli->context.name);
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

/* ---- which command is meant ---- */

static const struct opt *option_in(const struct opt *table, size_t count, struct span name, char letter)
{
    for (size_t i = 0; i < count; i++) {
        if (letter ? table[i].letter == letter : span_eq(name, span_cstr(table[i].name)))
            return &table[i];
    }
    return NULL;
}

/* An option by name or letter, of whatever command: of the same name all take a value, or none does. */
static const struct opt *option_any(struct span name, char letter)
{
    const struct opt *found = option_in(cli_global_options, cli_global_option_count, name, letter);
    if (!found)
        found = option_in(cli_change_options, cli_change_option_count, name, letter);
    for (unsigned c = 0; !found && c < cli_command_count; c++)
        found = option_in(cli_commands[c].options, cli_commands[c].option_count, name, letter);
    return found;
}

/* True when the argument after this one (NULL: none) is its value. */
static bool takes_next(const char *arg, const char *next)
{
    if (arg[0] != '-')
        return false;
    if (arg[1] == '-') {
        const struct opt *opt = option_any(span_cstr(arg + 2), 0); /* "name=value" is no name: it has its value */
        return opt && opts_takes_next(opt->kind, next);
    }
    for (const char *at = arg + 1; *at; at++) {
        const struct opt *opt = option_any(SPAN(""), *at);
        if (opt && opt->kind != OPT_FLAG)
            return at[1] == '\0' && opts_takes_next(opt->kind, next);
    }
    return false;
}

/* The first words of the command line, options and their values left out. */
static unsigned first_words(int argc, char *const *argv, const char **words)
{
    unsigned count = 0;
    for (int i = 1; i < argc && count < WORDS_MAX && strcmp(argv[i], "--") != 0; i++) {
        if (argv[i][0] != '-')
            words[count++] = argv[i];
        else
            i += takes_next(argv[i], i + 1 < argc ? argv[i + 1] : NULL);
    }
    return count;
}

/* The command whose words stand first; the longest wins. */
static const struct cli_command *find_command(const char *const *words, unsigned count)
{
    const struct cli_command *best = NULL;
    unsigned best_words = 0;
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

static struct span first_word(const char *path)
{
    struct span rest = span_cstr(path), first = SPAN("");
    (void)span_split(&rest, ' ', &first);
    return first;
}

/* How many commands begin with the same word. */
static unsigned group_count(const char *path)
{
    unsigned count = 0;
    for (unsigned c = 0; c < cli_command_count; c++)
        count += span_eq(first_word(cli_commands[c].path), first_word(path));
    return count;
}

/* The path nearest to what was written, at most two letters away. */
static const char *nearest_path(const char *written)
{
    const char *near = NULL;
    unsigned least = 3;
    for (unsigned c = 0; c < cli_command_count; c++) {
        const unsigned distance = span_distance(span_cstr(written), span_cstr(cli_commands[c].path), 2);
        if (distance < least) {
            least = distance;
            near = cli_commands[c].path;
        }
    }
    return near;
}

/* The group whose name is nearest to the word; empty when none is. */
static struct span nearest_group(struct span word)
{
    struct span near = SPAN("");
    unsigned least = 3;
    for (unsigned c = 0; c < cli_command_count; c++) {
        const unsigned distance = span_distance(word, first_word(cli_commands[c].path), 2);
        if (distance < least) {
            least = distance;
            near = first_word(cli_commands[c].path);
        }
    }
    return near;
}

static void list_group(FILE *to, struct span group)
{
    char line[128];
    for (unsigned c = 0; c < cli_command_count; c++) {
        const struct cli_command *command = &cli_commands[c];
        if (!span_eq(first_word(command->path), group))
            continue;
        snprintf(line, sizeof(line), "%s %s", command->path, command->arguments);
        fprintf(to, "  fairlead %-36s  %s\n", line, command->brief);
    }
}

/* What to say to words that are no command, or only the beginning of some. second may be NULL. */
static int unknown_command(const char *word, const char *second, bool help)
{
    char written[256];
    const struct span group = nearest_group(span_cstr(word));
    const bool is_group = span_eq(group, span_cstr(word));
    if (is_group && !second) {
        if (!help)
            fprintf(stderr, "fairlead: '%s' needs one more word:\n", word);
        list_group(help ? stdout : stderr, group);
        return help ? EXIT_GOOD : EXIT_USAGE;
    }
    fprintf(stderr, "fairlead: unknown command '%.100s%s%.100s'", word, is_group ? " " : "", is_group ? second : "");
    snprintf(written, sizeof(written), SPAN_FMT " %.100s", SPAN_ARG(group), second ? second : "");
    const char *near = group.len && second ? nearest_path(written) : NULL;
    if (near)
        fprintf(stderr, "; did you mean '%s'?", near);
    else if (!is_group && group.len)
        fprintf(stderr, "; did you mean '" SPAN_FMT "'?", SPAN_ARG(group));
    fprintf(stderr, "\n");
    if (is_group)
        list_group(stderr, group);
    else
        fprintf(stderr, "Try 'fairlead help'.\n");
    return EXIT_USAGE;
}

static bool asks_help(int argc, char *const *argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
        i += takes_next(argv[i], i + 1 < argc ? argv[i + 1] : NULL);
    }
    return false;
}

/* ---- running it ---- */

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

/* Absolute, symbolic links resolved as far as it exists: programs are started in it and sockets lie in it. */
static bool find_home(struct cli *cli, const char *given)
{
    char path[PATH_MAX];
    char *home = given ? strdup(given) : file_default_home();
    if (home && realpath(home, path)) {
        free(home);
        home = strdup(path);
    } else if (home && home[0] != '/' && getcwd(path, sizeof(path))) {
        char *joined = file_join(path, home);
        free(home);
        home = joined;
    }
    cli->home = home;
    return home != NULL;
}

const char *cli_default(const struct cli *cli, const char *option)
{
    const char *other = strcmp(option, "team") == 0  ? cli->context.team
                        : strcmp(option, "key") == 0 ? cli->context.key
                                                     : NULL;
    return opts_text(&cli->given, option, other);
}

/* Which context is in use; see contexts.h. */
static int find_context(struct cli *cli, const char *home, const char *address)
{
    const char *named = opts_text(&cli->given, "context", NULL), *env = getenv("FAIRLEAD_CONTEXT"), *why = "";
    const char *env_home = getenv("FAIRLEAD_HOME");
    struct contexts contexts;
    if (env && !*env)
        env = NULL;
    cli->context_why = home || address ? "--home or --address" : env_home && *env_home ? "$FAIRLEAD_HOME" : "default";
    if (cli->command->nowhere || (!named && (home || address)) || (!named && !env && env_home && *env_home))
        return EXIT_GOOD;
    char *path = contexts_path();
    const enum err err = path ? contexts_load(&cli->lasting, path, &contexts, &why) : ERR_NOT_FOUND;
    if (err == ERR_NOT_FOUND)
        contexts = (struct contexts){ 0 };
    const char *name = named ? named : env ? env : contexts.current;
    const struct context *found = name ? contexts_find(&contexts, name) : NULL;
    int code = EXIT_GOOD;
    if (err && err != ERR_NOT_FOUND)
        code = cli_fail(cli, EXIT_USAGE, "%s", why);
    else if (name && !found)
        code = cli_fail(cli, EXIT_USAGE, "there is no context '%s'; `fairlead context list` shows them", name);
    free(path);
    if (code == EXIT_GOOD && found) {
        cli->context = *found;
        cli->context_why = named ? "--context" : env ? "$FAIRLEAD_CONTEXT" : "the current one";
    }
    return code;
}

static int prepare(struct cli *cli)
{
    const char *home = opts_text(&cli->given, "home", NULL);
    const char *address = opts_text(&cli->given, "address", NULL);
    const char *timeout = opts_text(&cli->given, "timeout", "30s");
    uint64_t timeout_ms;
    cli->json = opts_flag(&cli->given, "json");
    cli->yes = opts_flag(&cli->given, "yes");
    cli->dry_run = opts_flag(&cli->given, "dry-run");
    cli->terminal = isatty(STDOUT_FILENO);
    if (units_parse_duration(span_cstr(timeout), &timeout_ms) != OK || timeout_ms < 1 || timeout_ms > 3600000)
        return cli_fail(cli, EXIT_USAGE, "--timeout: '%s' is no duration of at most 1h", timeout);
    cli->timeout_ms = (uint32_t)timeout_ms;
    if (home && !*home)
        return cli_fail(cli, EXIT_USAGE, "--home is empty");
    const int code = find_context(cli, home, address);
    if (code != EXIT_GOOD)
        return code;
    if (!home && !address)
        address = cli->context.address;
    if (!find_home(cli, home ? home : cli->context.home))
        return cli_fail(cli, EXIT_FAILED, "no home: $HOME is not set, or memory is out; say --home DIR");
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

/* `--hold 20`: a number after an option that may have a duration was meant as one. */
static const char *unit_missing(struct cli *cli, const char *extra)
{
    for (unsigned i = 0; i < cli->given.given_count; i++) {
        const struct opts_given *given = &cli->given.given[i];
        uint64_t number;
        if (given->opt->kind == OPT_TIME && !given->value && span_to_u64(span_cstr(extra), &number) == OK)
            return arena_printf(&cli->arena, " (a duration has a unit: --%s %.20ss, %.20sm)", given->opt->name, extra,
                                extra);
    }
    return "";
}

static int too_many(struct cli *cli, const char *extra)
{
    const char *hint = unit_missing(cli, extra);
    return cli_fail(cli, EXIT_USAGE,
                    "'%.100s' is one argument too many%s\nusage: fairlead %s %s\nTry 'fairlead %s --help'.", extra,
                    hint ? hint : "", cli->command->path, cli->command->arguments, cli->command->path);
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
    /* 'nodes' is a command itself and the beginning of others: 'nodes frobnicate' is meant to be one of those */
    if (args > cli->command->args_most && words == 1 && group_count(cli->command->path) > 1)
        return unknown_command(cli->given.args[0], cli->given.args[1], false);
    if (args > cli->command->args_most)
        return too_many(cli, cli->given.args[words + cli->command->args_most]);
    if (args < cli->command->args_least)
        return cli_fail(cli, EXIT_USAGE, "usage: fairlead %s %s\nTry 'fairlead %s --help'.", cli->command->path,
                        cli->command->arguments, cli->command->path);
    const int code = prepare(cli);
    return code == EXIT_GOOD ? cli->command->run(cli) : code;
}

int cli_main(int argc, char *const *argv)
{
    struct cli cli = { 0 };
    const char *words[WORDS_MAX] = { NULL };
    const unsigned count = first_words(argc, argv, words);
    if (count == 0 && argc > 1 && strcmp(argv[1], "--version") == 0)
        return printf("fairlead %s\n", FAIRLEAD_VERSION) < 0 ? EXIT_FAILED : EXIT_GOOD;
    if (count == 0) {
        const bool asked = asks_help(argc, argv);
        docs_help_all(asked ? stdout : stderr);
        return asked ? EXIT_GOOD : EXIT_USAGE;
    }
    cli.command = find_command(words, count);
    if (!cli.command)
        return unknown_command(words[0], words[1], asks_help(argc, argv));
    arena_init(&cli.arena, CLI_ARENA_MAX);
    arena_init(&cli.lasting, CLI_ARENA_MAX);
    int code = run(&cli, argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_GOOD)
        code = cli_fail(&cli, EXIT_FAILED, "standard output cannot be written");
    arena_release(&cli.arena);
    arena_release(&cli.lasting);
    free(cli.home);
    free(cli.address);
    return code;
}
