#include "admin-cli/cli.h"

#define NO_POLICY "no policy is live yet; `fairlead policy push FILE` makes one live"

static struct call named(struct cli *cli, const char *command)
{
    struct call call = { .command = command };
    call_arg_cstr(&call, "name", cli_arg(cli, 0));
    call_option(cli, &call, "reason");
    call_arg_cstr(&call, "expires", opts_text(&cli->given, "for", NULL));
    return call;
}

static int change_named(struct cli *cli, const char *command)
{
    struct call call = named(cli, command);
    return call_change(cli, &call);
}

/* Before people are asked whether they mean it: what would be refused anyway is, as by a misspelt name. */
static int try_named(struct cli *cli, const char *command)
{
    struct call call = named(cli, command);
    const struct admin_reply *reply;
    struct json_index ix;
    if (cli->yes || cli->dry_run)
        return EXIT_GOOD;
    cli->dry_run = true;
    const int code = call_ask(cli, &call, &reply, &ix);
    cli->dry_run = false;
    return code;
}

/* ---- providers ---- */

int run_providers_list(struct cli *cli)
{
    static const struct column columns[] = {
        { "PROVIDER", "^name", COLUMN_TEXT },
        { "PROBE", "^health", COLUMN_TEXT },
        { "PROBED", "^probe.at_ms", COLUMN_AGE },
        { "CERTIFICATE", "^probe.certificate_expires_at_ms", COLUMN_UNTIL },
        { "MODEL", "name", COLUMN_TEXT },
        { "HEALTH", "health", COLUMN_TEXT },
        { "SINCE", "since_ms", COLUMN_AGE },
        { "TTFT P95", "ttft_p95_us", COLUMN_US },
        { "ERRORS", "errors_ppm", COLUMN_SHARE },
        { "SET", "override.kind", COLUMN_TEXT },
        { "WHY", "why", COLUMN_TEXT },
    };
    static const struct column overrides[] = {
        { "OVERRIDE", "kind", COLUMN_TEXT },
        { "TARGET", "target", COLUMN_TEXT },
        { "BY", "by", COLUMN_TEXT },
        { "SET", "set_at_ms", COLUMN_AGE },
        { "EXPIRES", "expires_at_ms", COLUMN_UNTIL },
        { "REASON", "reason", COLUMN_TEXT },
    };
    struct call call = { .command = "providers.list" };
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json) {
        render_json(reply->result);
        return EXIT_GOOD;
    }
    render_nested(cli, &ix, json_get(&ix, 0, SPAN("providers")), "models", columns, ARRAY_LEN(columns), NO_POLICY);
    const uint32_t set = json_get(&ix, 0, SPAN("overrides"));
    if (set != JSON_NONE && ix.tokens[set].count > 0) {
        printf("\n");
        render_table(cli, &ix, set, overrides, ARRAY_LEN(overrides), "");
    }
    return EXIT_GOOD;
}

int run_providers_drain(struct cli *cli)
{
    const int code = try_named(cli, "providers.drain");
    if (code != EXIT_GOOD)
        return code;
    if (!cli_confirm(cli, "Send no more requests to %s?", cli_arg(cli, 0)))
        return EXIT_REFUSED;
    return change_named(cli, "providers.drain");
}

int run_providers_undrain(struct cli *cli)
{
    return change_named(cli, "providers.undrain");
}

int run_block(struct cli *cli)
{
    if (!opts_text(&cli->given, "reason", NULL))
        return cli_fail(cli, EXIT_USAGE, "say why, for those who come after: --reason TEXT");
    const int code = try_named(cli, "block");
    if (code != EXIT_GOOD)
        return code;
    if (!cli_confirm(cli, "Forbid %s to every request, whatever policy is live?", cli_arg(cli, 0)))
        return EXIT_REFUSED;
    return change_named(cli, "block");
}

int run_unblock(struct cli *cli)
{
    return change_named(cli, "unblock");
}

/* ---- weights ---- */

static int print_weights(struct cli *cli, const struct admin_reply *reply, const struct json_index *ix)
{
    static const struct column columns[] = {
        { "VERSION", "^policy_version", COLUMN_NUMBER },
        { "ROUTE", "^route", COLUMN_TEXT },
        { "TIER", "^tier", COLUMN_NUMBER },
        { "PREFER", "^prefer", COLUMN_TEXT },
        { "MODEL", "model", COLUMN_TEXT },
        { "WEIGHT", "weight_ppm", COLUMN_SHARE },
        { "GOES TO", "target_ppm", COLUMN_SHARE },
        { "POLICY", "policy_ppm", COLUMN_SHARE },
        { "SCORE", "score", COLUMN_SCORE },
        { "OUT FOR", "excluded", COLUMN_TEXT },
        { "FROZEN", "^frozen", COLUMN_TEXT },
    };
    if (cli->json)
        render_json(reply->result);
    else
        render_nested(cli, ix, 0, "members", columns, ARRAY_LEN(columns), NO_POLICY);
    return EXIT_GOOD;
}

int run_weights_show(struct cli *cli)
{
    struct call call = { .command = "weights.show" };
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = call_ask(cli, &call, &reply, &ix);
    return code == EXIT_GOOD ? print_weights(cli, reply, &ix) : code;
}

int run_weights_freeze(struct cli *cli)
{
    return change_named(cli, "weights.freeze");
}

int run_weights_unfreeze(struct cli *cli)
{
    return change_named(cli, "weights.unfreeze");
}

int run_weights_reset(struct cli *cli)
{
    struct call call = { .command = "weights.reset" };
    const char *route = cli_arg(cli, 0);
    call_arg_cstr(&call, "name", route);
    if (!cli_confirm(cli, "Forget what was learned of %s?", route ? route : "every route"))
        return EXIT_REFUSED;
    return call_change(cli, &call);
}

/* ---- prices ---- */

static const struct column price_columns[] = {
    { "NAME", "name", COLUMN_TEXT },
    { "INPUT", "price.input", COLUMN_USD },
    { "OUTPUT", "price.output", COLUMN_USD },
    { "CACHE READ", "price.cache_read", COLUMN_USD },
    { "CACHE WRITE", "price.cache_write", COLUMN_USD },
    { "REASONING", "price.reasoning", COLUMN_USD },
    { "SOURCE", "source", COLUMN_TEXT },
    { "AGE", "at_ms", COLUMN_AGE },
    { "STALE", "stale", COLUMN_TEXT },
    { "HELD BACK", "quarantined.new", COLUMN_LIST },
    { "FOR", "quarantined.why", COLUMN_TEXT },
};

/* With --held: only what is in quarantine. ERR_NOMEM, ERR_FULL. */
static enum err only_held(struct cli *cli, struct span *json, struct json_index *ix)
{
    struct buf out = BUF_INIT(ADMIN_RESULT_BYTES_MAX);
    enum err err = buf_append_byte(&out, '[');
    for (uint32_t t = json_first(ix, 0); !err && t != JSON_NONE; t = json_next(ix, 0, t)) {
        if (json_get(ix, t, SPAN("quarantined")) == JSON_NONE)
            continue;
        if (out.len > 1)
            err = buf_append_byte(&out, ',');
        if (!err)
            err = buf_append(&out, json_raw(ix, t));
    }
    if (!err)
        err = buf_append_byte(&out, ']');
    const struct span copy = err ? SPAN("") : arena_dup(&cli->arena, buf_span(&out));
    buf_release(&out);
    if (err || !copy.ptr)
        return err ? err : ERR_NOMEM;
    *json = copy;
    return json_index(&cli->arena, copy, &json_limits_default, ix, NULL);
}

static int list_prices(struct cli *cli, struct call *call, const char *empty)
{
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = call_ask(cli, call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    struct span json = reply->result;
    if (opts_flag(&cli->given, "held") && only_held(cli, &json, &ix) != OK)
        return cli_fail(cli, EXIT_FAILED, "out of memory");
    if (cli->json) {
        render_json(json);
        return EXIT_GOOD;
    }
    render_table(cli, &ix, 0, price_columns, ARRAY_LEN(price_columns), empty);
    if (json_kind(&ix, 0) == JSON_ARRAY && ix.tokens[0].count > 0)
        printf("(US dollars per million tokens)\n");
    return EXIT_GOOD;
}

int run_prices_list(struct cli *cli)
{
    struct call call = { .command = "prices.list" };
    call_arg_cstr(&call, "pattern", cli_arg(cli, 0));
    call_option(cli, &call, "unmapped");
    return list_prices(cli, &call,
                       opts_flag(&cli->given, "held")
                           ? "nothing is held back"
                           : "no price matches; names are PROVIDER/MODEL, and '*gpt*' matches a part");
}

int run_prices_show(struct cli *cli)
{
    struct call call = { .command = "prices.show" };
    call_arg_cstr(&call, "name", cli_arg(cli, 0));
    return list_prices(cli, &call, "no such price");
}

int run_prices_set(struct cli *cli)
{
    static const char *const parts[] = { "input", "output", "cache-read", "cache-write", "reasoning", "request" };
    struct call call = { .command = "prices.set" };
    call_arg_cstr(&call, "name", cli_arg(cli, 0));
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        call_option(cli, &call, parts[i]);
    return call_change(cli, &call);
}

int run_prices_unset(struct cli *cli)
{
    return change_named(cli, "prices.unset");
}

int run_prices_accept(struct cli *cli)
{
    struct call call = { .command = "prices.accept" };
    const char *name = cli_arg(cli, 0);
    if (!name == !opts_flag(&cli->given, "all"))
        return cli_fail(cli, EXIT_USAGE, "name one price, or say --all; `fairlead prices list --held` lists them");
    call_arg_cstr(&call, "name", name);
    call_option(cli, &call, "all");
    if (!cli_confirm(cli, "Accept %s as the true price?", name ? name : "everything in quarantine"))
        return EXIT_REFUSED;
    return call_change(cli, &call);
}
