/* context: named targets. These commands ask nobody and change one file of the user's own. */
#include "admin-cli/cli.h"
#include "admin-cli/contexts.h"

static int load(struct cli *cli, struct contexts *contexts, char **ret_path)
{
    const char *why = "";
    *contexts = (struct contexts){ .count = 0 };
    *ret_path = contexts_path();
    if (!*ret_path)
        return cli_fail(cli, EXIT_FAILED, "neither $XDG_CONFIG_HOME nor $HOME says where contexts are kept");
    if (contexts_load(&cli->lasting, *ret_path, contexts, &why) == OK)
        return EXIT_GOOD;
    free(*ret_path);
    *ret_path = NULL;
    return cli_fail(cli, EXIT_REFUSED, "%s", why);
}

static int store(struct cli *cli, const char *path, const struct contexts *contexts)
{
    const enum err err = cli->dry_run ? OK : contexts_store(path, contexts);
    return err ? cli_fail(cli, EXIT_FAILED, "%s cannot be written: %s", path, err_name(err)) : EXIT_GOOD;
}

static int unknown(struct cli *cli, const char *name)
{
    return cli_fail(cli, EXIT_NOT_FOUND, "there is no context '%s'; `fairlead context list` shows them", name);
}

static void put_context(struct json_writer *w, const struct context *c, bool current)
{
    json_object_open(w);
    json_member_cstr(w, "name", c->name);
    json_member_bool(w, "current", current);
    json_member_cstr(w, "home", c->home);
    json_member_cstr(w, "address", c->address);
    json_member_cstr(w, "team", c->team);
    json_member_cstr(w, "key", c->key);
    json_object_close(w);
}

static bool is_current(const struct contexts *contexts, const struct context *c)
{
    return contexts->current && strcmp(contexts->current, c->name) == 0;
}

static enum err put_list(const struct contexts *contexts, struct buf *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_array_open(&w);
    for (uint32_t i = 0; i < contexts->count; i++)
        put_context(&w, &contexts->items[i], is_current(contexts, &contexts->items[i]));
    json_array_close(&w);
    return json_writer_end(&w);
}

static int print_list(struct cli *cli, const struct contexts *contexts)
{
    static const struct column columns[] = { { "NAME", "name", COLUMN_TEXT }, { "CURRENT", "current", COLUMN_TEXT },
                                             { "HOME", "home", COLUMN_TEXT }, { "ADDRESS", "address", COLUMN_TEXT },
                                             { "TEAM", "team", COLUMN_TEXT }, { "KEY", "key", COLUMN_TEXT } };
    struct buf out = BUF_INIT(1u << 20);
    struct json_index ix;
    int code = EXIT_GOOD;
    if (put_list(contexts, &out) != OK ||
        json_index(&cli->arena, buf_span(&out), &json_limits_default, &ix, NULL) != OK)
        code = cli_fail(cli, EXIT_FAILED, "out of memory");
    else if (cli->json)
        render_json(buf_span(&out));
    else
        render_table(cli, &ix, 0, columns, ARRAY_LEN(columns),
                     "no contexts; `fairlead context add NAME --home DIR` makes one");
    buf_release(&out);
    return code;
}

int run_context_list(struct cli *cli)
{
    struct contexts contexts;
    char *path;
    int code = load(cli, &contexts, &path);
    if (code == EXIT_GOOD)
        code = print_list(cli, &contexts);
    free(path);
    return code;
}

int run_context_show(struct cli *cli)
{
    const struct context here = { .name = cli->context.name ? cli->context.name : "(none)",
                                  .home = cli->home,
                                  .address = cli->address,
                                  .team = cli->context.team,
                                  .key = cli->context.key };
    struct buf out = BUF_INIT(65536);
    struct json_writer w;
    if (!cli->json) {
        printf("context  %s, by %s\nhome     %s\naddress  %s\n", here.name, cli->context_why, here.home, here.address);
        if (here.team)
            printf("team     %s\n", here.team);
        if (here.key)
            printf("key      %s\n", here.key);
        return EXIT_GOOD;
    }
    json_writer_init(&w, &out);
    put_context(&w, &here, cli->context.name != NULL);
    const enum err err = json_writer_end(&w);
    if (!err)
        render_json(buf_span(&out));
    buf_release(&out);
    return err ? cli_fail(cli, EXIT_FAILED, "out of memory") : EXIT_GOOD;
}

int run_context_use(struct cli *cli)
{
    const char *name = cli_arg(cli, 0);
    const bool none = opts_flag(&cli->given, "none");
    struct contexts contexts;
    char *path;
    if (!name == !none)
        return cli_fail(cli, EXIT_USAGE, "name one context, or say --none");
    int code = load(cli, &contexts, &path);
    if (code != EXIT_GOOD)
        return code;
    const struct context *found = name ? contexts_find(&contexts, name) : NULL;
    if (name && !found) {
        code = unknown(cli, name);
    } else {
        contexts.current = name;
        code = store(cli, path, &contexts);
    }
    if (code == EXIT_GOOD && found)
        printf("commands go to %s (%s) from now on\n", name, found->address ? found->address : found->home);
    else if (code == EXIT_GOOD)
        printf("no context is in use from now on\n");
    free(path);
    return code;
}

/* What the options say; false when that is no target. */
static int describe(struct cli *cli, const char *name, struct context *ret)
{
    const char *home = opts_text(&cli->given, "home", NULL), *address = opts_text(&cli->given, "address", NULL);
    *ret = (struct context){ .name = name,
                             .home = home ? cli->home : NULL, /* absolute */
                             .address = address,
                             .team = opts_text(&cli->given, "team", NULL),
                             .key = opts_text(&cli->given, "key", NULL) };
    if (!contexts_name_good(name))
        return cli_fail(cli, EXIT_USAGE, "'%.100s': a name has letters, digits, '.', '_' and '-', 64 at most", name);
    if (!home && !address)
        return cli_fail(cli, EXIT_USAGE, "say where it is: --home DIR, or --address ADDRESS of an admin link");
    return EXIT_GOOD;
}

int run_context_add(struct cli *cli)
{
    struct contexts contexts;
    struct context made, *old;
    char *path = NULL;
    int code = describe(cli, cli_arg(cli, 0), &made);
    if (code == EXIT_GOOD)
        code = load(cli, &contexts, &path);
    if (code != EXIT_GOOD)
        return code;
    old = contexts_find(&contexts, made.name);
    if (old && !opts_flag(&cli->given, "force"))
        code = cli_fail(cli, EXIT_CONFLICT, "there is a context '%s' already; --force replaces it", made.name);
    else if (!old && contexts.count == CONTEXTS_MAX)
        code = cli_fail(cli, EXIT_CONFLICT, "there are %u contexts already", CONTEXTS_MAX);
    else
        *(old ? old : &contexts.items[contexts.count++]) = made;
    if (code == EXIT_GOOD)
        code = store(cli, path, &contexts);
    if (code == EXIT_GOOD)
        printf("context %s is %s; `fairlead context use %s` makes it the one commands go to\n", made.name,
               old ? "changed" : "added", made.name);
    free(path);
    return code;
}

int run_context_remove(struct cli *cli)
{
    const char *name = cli_arg(cli, 0);
    struct contexts contexts;
    char *path;
    int code = load(cli, &contexts, &path);
    if (code != EXIT_GOOD)
        return code;
    struct context *found = contexts_find(&contexts, name);
    if (!found) {
        code = unknown(cli, name);
    } else if (!cli_confirm(cli, "Forget the context %s?", name)) {
        code = EXIT_REFUSED;
    } else {
        if (is_current(&contexts, found))
            contexts.current = NULL;
        *found = contexts.items[--contexts.count];
        code = store(cli, path, &contexts);
    }
    if (code == EXIT_GOOD)
        printf("context %s is forgotten; what it named goes on as it is\n", name);
    free(path);
    return code;
}
