#include "admin-cli/cli.h"
#include "common/digest.h"
#include <stdio.h>

#define KEY_PREFIX       "fl-"
#define KEY_RANDOM_CHARS 43u /* 5 bits each: 215 bits, not to be guessed */

/* ---- teams ---- */

/* Teams that a teams.diff would remove. */
static unsigned removed_teams(const struct cli *cli, const struct json_index *ix)
{
    static const struct column kind = { "", "kind", COLUMN_TEXT }, what = { "", "what", COLUMN_TEXT };
    const uint32_t changes = json_get(ix, 0, SPAN("changes"));
    unsigned count = 0;
    for (uint32_t t = changes == JSON_NONE ? JSON_NONE : json_first(ix, changes); t != JSON_NONE;
         t = json_next(ix, changes, t)) {
        count += strcmp(render_cell(cli, ix, t, &kind), "removed") == 0 &&
                 span_starts(span_cstr(render_cell(cli, ix, t, &what)), SPAN("team "));
    }
    return count;
}

/* Removing a team stops its keys at once: asked first. */
static int confirm_removals(struct cli *cli, struct span bundle)
{
    struct call call = { .command = "teams.diff" };
    const struct admin_reply *reply;
    struct json_index ix;
    if (cli->yes || cli->dry_run)
        return EXIT_GOOD;
    call_arg(&call, "bundle", bundle);
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    const unsigned count = removed_teams(cli, &ix);
    if (count > 0 && !cli_confirm(cli, "This removes %u team%s, whose keys stop working at once. Go on?", count,
                                  count == 1 ? "" : "s"))
        return EXIT_REFUSED;
    return EXIT_GOOD;
}

static int send_teams(struct cli *cli, const char *command, bool is_change)
{
    struct call call = { .command = command, .is_change = is_change };
    struct buf bundle = BUF_INIT(PUSH_BYTES_MAX);
    const struct admin_reply *reply;
    struct json_index ix;
    int code = cli_bundle(cli, cli_arg(cli, 0), &bundle);
    call_arg(&call, "bundle", buf_span(&bundle));
    if (code == EXIT_GOOD && is_change)
        code = confirm_removals(cli, buf_span(&bundle));
    if (code == EXIT_GOOD)
        code = call_ask(cli, &call, &reply, &ix);
    buf_release(&bundle);
    if (code != EXIT_GOOD)
        return code;
    render_outcome(cli, reply, &ix);
    return is_change ? call_wait_if_asked(cli, &ix) : EXIT_GOOD;
}

int run_teams_apply(struct cli *cli)
{
    return send_teams(cli, "teams.apply", true);
}

int run_teams_diff(struct cli *cli)
{
    return send_teams(cli, "teams.diff", false);
}

int run_teams_list(struct cli *cli)
{
    static const struct column columns[] = { { "TEAM", "team", COLUMN_TEXT },
                                             { "ROUTES", "routes", COLUMN_LIST },
                                             { "MODELS", "models", COLUMN_LIST },
                                             { "REQUIRE", "require", COLUMN_LIST },
                                             { "MAY", "may", COLUMN_LIST } };
    struct call call = { .command = "teams.list" };
    return call_list(cli, &call, columns, ARRAY_LEN(columns), "no teams yet; `fairlead teams apply FILE` makes them");
}

/* ---- keys ---- */

void key_secret_make(struct key_secret *secret, struct call *call)
{
    _Static_assert(sizeof(KEY_PREFIX) + KEY_RANDOM_CHARS == KEY_TEXT_BYTES, "the whole key");
    random_id(KEY_PREFIX, KEY_RANDOM_CHARS, secret->text);
    const struct sha256 hash = sha256_of(span_cstr(secret->text));
    hex_encode(hash.bytes, SHA256_BYTES, secret->hash);
    call_arg_cstr(call, "hash", secret->hash);
    call_arg_cstr(call, "hint", secret->text + strlen(secret->text) - 4);
}

static int print_new_key(struct cli *cli, const struct admin_reply *reply, const struct json_index *ix,
                         const struct key_secret *secret)
{
    static const struct column fields[] = { { "id", "id", COLUMN_TEXT },
                                            { "team", "team", COLUMN_TEXT },
                                            { "routes", "routes", COLUMN_LIST },
                                            { "expires", "expires_at_ms", COLUMN_UNTIL },
                                            { "tags", "tags", COLUMN_LIST } };
    if (cli->json) {
        /* {"key": ..., then the members of the result. */
        struct span rest = span_skip(span_trim(reply->result), 1);
        printf("{\"key\":\"%s\"," SPAN_FMT "\n", cli->dry_run ? "" : secret->text, SPAN_ARG(rest));
    } else if (cli->dry_run) {
        printf("dry run, nothing was changed: " SPAN_FMT "\n", SPAN_ARG(reply->message));
    } else {
        printf("%s\n", secret->text);
        fflush(stdout);
        render_fields(cli, ix, 0, fields, ARRAY_LEN(fields));
        fflush(stdout);
        fprintf(stderr, "This is the only time the key is shown; only its SHA-256 is stored.\n");
    }
    return call_wait_if_asked(cli, ix);
}

int run_keys_create(struct cli *cli)
{
    struct call call = { .command = "keys.create", .is_change = true };
    struct key_secret secret;
    const struct admin_reply *reply;
    struct json_index ix;
    call_arg_cstr(&call, "team", cli_default(cli, "team"));
    call_option(cli, &call, "routes");
    call_option(cli, &call, "expires");
    call_option(cli, &call, "tag");
    key_secret_make(&secret, &call);
    const int code = call_ask(cli, &call, &reply, &ix);
    return code == EXIT_GOOD ? print_new_key(cli, reply, &ix, &secret) : code;
}

int run_keys_rotate(struct cli *cli)
{
    struct call call = { .command = "keys.rotate", .is_change = true };
    struct key_secret secret;
    const struct admin_reply *reply;
    struct json_index ix;
    call_arg_cstr(&call, "id", cli_arg(cli, 0));
    call_option(cli, &call, "overlap");
    key_secret_make(&secret, &call);
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code == EXIT_GOOD && !cli->json && !cli->dry_run)
        fprintf(stderr, SPAN_FMT "\n", SPAN_ARG(reply->message));
    return code == EXIT_GOOD ? print_new_key(cli, reply, &ix, &secret) : code;
}

int run_keys_list(struct cli *cli)
{
    static const struct column columns[] = {
        { "ID", "id", COLUMN_TEXT },
        { "TEAM", "team", COLUMN_TEXT },
        { "STATE", "state", COLUMN_TEXT },
        { "ENDS WITH", "hint", COLUMN_TEXT },
        { "CREATED", "created_at_ms", COLUMN_AGE },
        { "EXPIRES", "expires_at_ms", COLUMN_UNTIL },
        { "ROUTES", "routes", COLUMN_LIST },
        { "TAGS", "tags", COLUMN_LIST },
    };
    struct call call = { .command = "keys.list" };
    call_option(cli, &call, "team");
    call_option(cli, &call, "all");
    return call_list(cli, &call, columns, ARRAY_LEN(columns), "no keys; `fairlead keys create --team NAME` makes one");
}

int run_keys_revoke(struct cli *cli)
{
    struct call call = { .command = "keys.revoke", .is_change = true };
    const struct admin_reply *reply;
    struct json_index ix;
    call_arg_cstr(&call, "id", cli_arg(cli, 0));
    if (!cli_confirm(cli, "Revoke key %s? Nothing brings it back.", cli_arg(cli, 0)))
        return EXIT_REFUSED;
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    render_done(cli, reply);
    return call_wait_if_asked(cli, &ix);
}
