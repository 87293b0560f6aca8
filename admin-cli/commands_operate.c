#include "admin-cli/cli.h"

static int send_call(struct cli *cli, const struct call *call, const struct admin_reply **ret_reply,
                     struct json_index *ret_ix)
{
    const int code = call_send(cli, call, ret_reply);
    return code == EXIT_GOOD ? call_index(cli, *ret_reply, ret_ix) : code;
}

/* Sends a change and prints its message (or its JSON). */
static int change(struct cli *cli, struct call *call)
{
    const struct admin_reply *reply;
    struct json_index ix;
    call->is_change = true;
    const int code = send_call(cli, call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json)
        render_json(reply->result);
    else
        printf("%s" SPAN_FMT "\n", cli->dry_run ? "dry run, nothing was changed: " : "", SPAN_ARG(reply->message));
    return call_wait_if_asked(cli, &ix);
}

static int change_named(struct cli *cli, const char *command)
{
    struct call call = { .command = command };
    call_arg_cstr(&call, "name", cli_arg(cli, 0));
    call_option(cli, &call, "reason");
    call_arg_cstr(&call, "expires", opts_text(&cli->given, "for", NULL));
    return change(cli, &call);
}

/* ---- providers ---- */

int run_providers_list(struct cli *cli)
{
    static const struct column columns[] = {
        { "PROVIDER", "provider", COLUMN_TEXT },
        { "MODEL", "model", COLUMN_TEXT },
        { "HEALTH", "health", COLUMN_TEXT },
        { "SINCE", "since_ms", COLUMN_AGE },
        { "PROBED", "probed_at_ms", COLUMN_AGE },
        { "ERRORS", "errors_ppm", COLUMN_SHARE },
        { "TTFT p95 MS", "ttft_p95_ms", COLUMN_NUMBER },
        { "CERTIFICATE", "certificate_expires_at_ms", COLUMN_UNTIL },
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
    const int code = send_call(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json) {
        render_json(reply->result);
        return EXIT_GOOD;
    }
    render_table(cli, &ix, json_get(&ix, 0, SPAN("providers")), columns, ARRAY_LEN(columns), "no policy is live yet");
    const uint32_t set = json_get(&ix, 0, SPAN("overrides"));
    if (set != JSON_NONE && ix.tokens[set].count > 0) {
        printf("\n");
        render_table(cli, &ix, set, overrides, ARRAY_LEN(overrides), "");
    }
    return EXIT_GOOD;
}

int run_providers_drain(struct cli *cli)
{
    if (!cli_confirm(cli, "Send no more requests to %s?", cli_arg(cli, 0)))
        return EXIT_REFUSED;
    return change_named(cli, "providers.drain");
}

int run_providers_undrain(struct cli *cli)
{
    return change_named(cli, "providers.undrain");
}

/* ---- weights ---- */

static int print_weights(struct cli *cli, const struct admin_reply *reply, const struct json_index *ix)
{
    static const struct column columns[] = {
        { "ROUTE", "route", COLUMN_TEXT },
        { "TIER", "tier", COLUMN_NUMBER },
        { "MODEL", "model", COLUMN_TEXT },
        { "WEIGHT", "weight_ppm", COLUMN_SHARE },
        { "POLICY", "policy_ppm", COLUMN_SHARE },
        { "PREFER", "prefer", COLUMN_TEXT },
        { "FROZEN", "frozen", COLUMN_TEXT },
        { "SCORE", "score", COLUMN_TEXT },
        { "WHY", "why", COLUMN_TEXT },
    };
    if (cli->json)
        render_json(reply->result);
    else
        render_table(cli, ix, 0, columns, ARRAY_LEN(columns), "no policy is live yet");
    return EXIT_GOOD;
}

int run_weights_show(struct cli *cli)
{
    struct call call = { .command = "weights.show" };
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = send_call(cli, &call, &reply, &ix);
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
    return change(cli, &call);
}

/* ---- prices ---- */

static const struct column price_columns[] = {
    { "NAME", "name", COLUMN_TEXT },
    { "INPUT", "input", COLUMN_USD_MTOK },
    { "OUTPUT", "output", COLUMN_USD_MTOK },
    { "CACHE READ", "cache_read", COLUMN_USD_MTOK },
    { "CACHE WRITE", "cache_write", COLUMN_USD_MTOK },
    { "REASONING", "reasoning", COLUMN_USD_MTOK },
    { "SOURCE", "source", COLUMN_TEXT },
    { "AGE", "at_ms", COLUMN_AGE },
    { "STATE", "state", COLUMN_TEXT },
};

static int list_prices(struct cli *cli, struct call *call, const char *empty)
{
    const struct admin_reply *reply;
    struct json_index ix;
    const int code = send_call(cli, call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json) {
        render_json(reply->result);
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
    return list_prices(cli, &call, "no price matches");
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
    return change(cli, &call);
}

int run_prices_unset(struct cli *cli)
{
    return change_named(cli, "prices.unset");
}

int run_prices_accept(struct cli *cli)
{
    struct call call = { .command = "prices.accept" };
    const char *name = cli_arg(cli, 0);
    call_arg_cstr(&call, "name", name);
    call_option(cli, &call, "all");
    if (!cli_confirm(cli, "Accept %s as the true price?", name ? name : "everything in quarantine"))
        return EXIT_REFUSED;
    return change(cli, &call);
}
