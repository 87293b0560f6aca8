#include "common/json.h"
#include "tests/unit/controlplane/policy/support.h"

#define HEAD "schema: fairlead/1\nkind: policy\n"
#define BASE                                                                                                           \
    HEAD "providers:\n"                                                                                                \
         "  openai: {preset: openai, credentials: [a], data: {retention_days: 30}}\n"                                  \
         "  azure: {preset: azure, base_url: 'https://we.openai.azure.com', credentials: [z]}\n"                       \
         "models:\n"                                                                                                   \
         "  openai/gpt-4o: {}\n"                                                                                       \
         "  openai/o3: {price: {input: 2, output: 8}}\n"                                                               \
         "  azure/gpt-4o: {is: azure/gpt-4o-2024-08-06}\n"                                                             \
         "aliases: {gpt: chat, old: bulk}\n"                                                                           \
         "routes:\n"                                                                                                   \
         "  chat: {tiers: [{models: {azure/gpt-4o: 70, openai/gpt-4o: 30}}, {models: [openai/o3]}], max_cost_usd: "    \
         "0.5}\n"                                                                                                      \
         "  bulk: {tiers: [{models: [openai/o3, openai/gpt-4o], prefer: cheapest}]}\n"
#define CHANGED                                                                                                        \
    HEAD "providers:\n"                                                                                                \
         "  openai: {preset: openai, credentials: [a, b], discount: 12%, headers: {add: {x-a: y}}, data: "             \
         "{retention_days: 7}}\n"                                                                                      \
         "  azure: {preset: azure, base_url: 'https://se.openai.azure.com', credentials: [z], probe: {every: 1m}, "    \
         "data: {retention_days: 0}}\n"                                                                                \
         "  groq: {preset: groq, credentials: [g]}\n"                                                                  \
         "models:\n"                                                                                                   \
         "  openai/gpt-4o: {timeouts: {idle: 5s}}\n"                                                                   \
         "  openai/o3: {price: {input: 2.5, output: 8, cache_read: 0.5}, capabilities: {tools: false}}\n"              \
         "  azure/gpt-4o: {sends: prod, is: azure/gpt-4o-2024-08-06}\n"                                                \
         "  groq/llama-3.3-70b-versatile: {}\n"                                                                        \
         "aliases: {gpt: fast}\n"                                                                                      \
         "routes:\n"                                                                                                   \
         "  chat: {tiers: [{models: {azure/gpt-4o: 50, openai/o3: 50}}], attempts: 2, require: {max_retention_days: "  \
         "30}}\n"                                                                                                      \
         "  fast: {tiers: [{models: [groq/llama-3.3-70b-versatile]}]}\n"

static const char expected[] =
    "~ provider azure: base_url https://we.openai.azure.com -> https://se.openai.azure.com\n"
    "~ provider azure: retention_days 0 is new\n"
    "~ provider azure: probe every 10s -> 1m\n"
    "+ provider groq added\n"
    "~ provider openai: credentials a -> a, b\n"
    "~ provider openai: discount 12% is new\n"
    "~ provider openai: retention_days 30 -> 7\n"
    "~ provider openai: header x-a y is new\n"
    "~ model azure/gpt-4o: sends gpt-4o -> prod\n"
    "+ model groq/llama-3.3-70b-versatile added\n"
    "~ model openai/gpt-4o: timeout idle 30s -> 5s\n"
    "~ model openai/o3: price input $2.00 per million tokens -> $2.50 per million tokens\n"
    "~ model openai/o3: can tools yes -> no\n"
    "~ model openai/o3: price cache_read $0.50 per million tokens is new\n"
    "- route bulk removed\n"
    "~ route chat: tier 1: azure/gpt-4o weight 70% -> 50%\n"
    "~ route chat: tier 1: openai/gpt-4o weight 30% is gone\n"
    "~ route chat: tier 2: prefer balanced is gone\n"
    "~ route chat: tier 2: objectives cost 4, ttft 3, speed 2, errors 2, headroom 1 is gone\n"
    "~ route chat: tier 2: openai/o3 starting weight 100% is gone\n"
    "~ route chat: required max_retention_days 30 is new\n"
    "~ route chat: max_cost_usd $0.50 is gone\n"
    "~ route chat: attempts 3 -> 2\n"
    "~ route chat: tier 1: openai/o3 weight 50% is new\n"
    "+ route fast added\n"
    "~ alias gpt: target chat -> fast\n"
    "- alias old removed\n";

static const char *changes_shown(struct fixture *f, const struct policy_changes *changes)
{
    buf_clear(&f->text);
    assert_int_equal(policy_changes_text(changes, &f->text), OK);
    return buf_cstr(&f->text);
}

static void test_nothing_changes(void **state)
{
    struct fixture *f = *state;
    struct policy_changes changes;
    const struct artifact *a = compile_text(f, BASE), *b = compile_text(f, "# other places\n\n" BASE);
    assert_int_equal(policy_diff(&f->arena, a, b, &changes), OK);
    assert_string_equal(changes_shown(f, &changes), "");
}

static void test_changes(void **state)
{
    struct fixture *f = *state;
    struct policy_changes changes;
    const struct artifact *a = compile_text(f, BASE), *b = compile_text(f, CHANGED);
    assert_int_equal(policy_diff(&f->arena, a, b, &changes), OK);
    assert_string_equal(changes_shown(f, &changes), expected);
}

static void test_first_version_and_json(void **state)
{
    struct fixture *f = *state;
    struct policy_changes changes;
    const struct artifact *a = compile_text(f, BASE);
    assert_int_equal(policy_diff(&f->arena, NULL, a, &changes), OK);
    assert_string_equal(
        changes_shown(f, &changes),
        "+ provider azure added\n+ provider openai added\n+ model azure/gpt-4o added\n+ model openai/gpt-4o added\n"
        "+ model openai/o3 added\n+ route bulk added\n+ route chat added\n+ alias gpt added\n+ alias old added\n");
    changes.count = 1;
    struct json_writer w;
    buf_clear(&f->text);
    json_writer_init(&w, &f->text);
    policy_changes_json(&changes, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_string_equal(buf_cstr(&f->text),
                        "[{\"kind\":\"added\",\"what\":\"provider azure\",\"text\":\"provider azure added\"}]");
}

#define RECORDS(text) BASE "records: {content: " text "}\n"

static const char *between(struct fixture *f, const char *before, const char *after)
{
    struct policy_changes changes;
    const struct artifact *a = compile_text(f, before), *b = compile_text(f, after);
    assert_int_equal(policy_diff(&f->arena, a, b, &changes), OK);
    return changes_shown(f, &changes);
}

static void test_content(void **state)
{
    struct fixture *f = *state;
    const struct artifact *a = compile_text(f, RECORDS("{teams: [law, hr], share: 0.5%, bytes: 1KiB}"));
    assert_true(a->content.teams.count == 2 && span_eq(a->content.teams.items[0], SPAN("hr")));
    assert_true(a->content.share_ppm == 5000 && a->content.bytes == 1024);
    a = compile_text(f, BASE);
    assert_true(a->content.teams.count == 0 && a->content.share_ppm == 0 && a->content.bytes == 0);

    assert_string_equal(between(f, BASE, RECORDS("{teams: [law, hr], share: 1%}")),
                        "+ content of team hr is now recorded: 1%\n+ content of team law is now recorded: 1%\n");
    assert_string_equal(
        between(f, RECORDS("{teams: [law, hr], share: 1%}"), RECORDS("{teams: [law], share: 2%, bytes: 4KiB}")),
        "- content of team hr is no longer recorded\n~ content of team law: recorded share 1% -> 2%\n"
        "~ content of team law: recorded bytes 2048 -> 4096\n");
    assert_string_equal(between(f, RECORDS("{teams: [law], share: 1%}"), RECORDS("{teams: [law], share: 0%}")),
                        "- content of team law is no longer recorded\n");
    assert_string_equal(between(f, BASE, RECORDS("{teams: [law], share: 0%}")), "");
    assert_int_equal(f->diags.warnings, 0);
}

/* How many warnings going from one to the other brings. */
static uint32_t warned(struct fixture *f, const char *before, const char *after)
{
    const struct artifact *old = before ? compile_text(f, before) : NULL, *new = compile_text(f, after);
    const struct policy *policy = load_text(f, after);
    diags_init(&f->diags, &f->arena);
    policy_warn_content(policy, old, new, &f->diags);
    assert_int_equal(f->diags.errors, 0);
    return f->diags.warnings;
}

static void test_content_is_warned_of(void **state)
{
    struct fixture *f = *state;
    const char *one = RECORDS("{teams: [law], share: 1%}");
    assert_int_equal(warned(f, NULL, RECORDS("{teams: [law, hr], share: 1%}")), 2);
    assert_int_equal(warned(f, BASE, one), 1);
    assert_string_equal(f->diags.items[0].message,
                        "personal data: a part of team law's prompts and answers is written to the nodes' disks: of 1% "
                        "of its requests, up to 2048 bytes each");
    assert_true(f->diags.items[0].line > 0);
    assert_int_equal(warned(f, one, one), 0);
    assert_int_equal(warned(f, one, BASE), 0);
    assert_int_equal(warned(f, one, RECORDS("{teams: [law], share: 0.1%}")), 0);
    assert_int_equal(warned(f, one, RECORDS("{teams: [law], share: 1%, bytes: 1KiB}")), 0);
    assert_int_equal(warned(f, BASE, RECORDS("{teams: [law], share: 0%}")), 0);
    assert_int_equal(warned(f, RECORDS("{teams: [law], share: 0%}"), one), 1);
    assert_int_equal(warned(f, one, RECORDS("{teams: [law, hr], share: 1%}")), 1);
    assert_int_equal(warned(f, one, RECORDS("{teams: [law], share: 1.5%}")), 1);
    assert_int_equal(warned(f, one, RECORDS("{teams: [law], share: 1%, bytes: 3KiB}")), 1);
    assert_true(strncmp(f->diags.items[0].message, "personal data: more of", 22) == 0);
}

static const struct teams *teams_of(struct fixture *f, const char *text)
{
    const struct teams *teams;
    assert_int_equal(policy_teams(&f->arena, load_text(f, text), NULL, &f->diags, &teams), OK);
    return teams;
}

static void test_teams(void **state)
{
    struct fixture *f = *state;
    struct policy_changes changes;
    const struct teams *a = teams_of(
        f,
        "schema: fairlead/1\nkind: directory\nteams: {a: {routes: [x]}, b: {routes: [x, y], require: {region: eu}}}\n");
    const struct teams *b = teams_of(f, "schema: fairlead/1\nkind: directory\nteams: {b: {routes: [x], models: [p/*], "
                                        "may: [explain]}, c: {routes: [x]}}\n");
    assert_int_equal(policy_teams_diff(&f->arena, a, b, &changes), OK);
    assert_string_equal(changes_shown(f, &changes), "- team a removed\n"
                                                    "~ team b: routes x, y -> x\n"
                                                    "~ team b: models p/* is new\n"
                                                    "~ team b: required region eu is gone\n"
                                                    "~ team b: may explain no -> yes\n"
                                                    "+ team c added\n");
    assert_int_equal(policy_teams_diff(&f->arena, NULL, a, &changes), OK);
    assert_int_equal(changes.count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing_changes, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_changes, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_first_version_and_json, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_content, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_content_is_warned_of, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_teams, fixture_up, fixture_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
