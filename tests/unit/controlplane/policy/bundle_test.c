/* Bundles and files on disk. */
#include "common/file.h"
#include "common/json.h"
#include "tests/unit/controlplane/policy/support.h"
#include <unistd.h>

#define HEAD         "schema: fairlead/1\nkind: policy\n"
#define PROVIDERS    "providers: {openai: {preset: openai, credentials: [a]}}\nmodels: {openai/gpt-4o: {}}\n"
#define ROUTES(name) HEAD "routes: {" name ": {tiers: [{models: [openai/gpt-4o]}]}}\n"

static void test_round_trip(void **state)
{
    struct fixture *f = *state;
    struct policy_bundle *bundle;
    const struct policy *direct, *bundled;
    memory_add(&f->files, "conf/p.yaml", SPAN(HEAD "include: [routes/*.yaml]\n" PROVIDERS));
    memory_add(&f->files, "conf/routes/a.yaml", SPAN(ROUTES("\"a\"")));
    memory_add(&f->files, "conf/routes/b.yaml", SPAN(ROUTES("b")));
    memory_add(&f->files, "conf/other.yaml", SPAN("not a policy"));
    struct policy_source source = memory_source(&f->files);
    struct buf json = BUF_INIT(1u << 20);
    assert_int_equal(policy_bundle_make(&f->arena, &source, SPAN("conf/p.yaml"), &f->diags, &json), OK);
    assert_int_equal(policy_bundle_open(&f->arena, buf_span(&json), &bundle), OK);
    assert_null(strstr(buf_cstr(&json), "other.yaml"));
    assert_span_equal(bundle->root, "p.yaml");
    assert_int_equal(policy_load(&f->arena, &source, SPAN("conf/p.yaml"), &f->diags, &direct), OK);
    assert_int_equal(policy_load(&f->arena, &bundle->source, bundle->root, &f->diags, &bundled), OK);
    assert_string_equal(policy_hash(direct).ptr, policy_hash(bundled).ptr);
    assert_string_equal(diags_shown(f), "");
    buf_release(&json);
}

/* Whoever opens the bundle says what is wrong with it; the maker only carries. */
static void test_broken_text_is_carried(void **state)
{
    struct fixture *f = *state;
    struct policy_bundle *bundle;
    const struct policy *policy;
    memory_add(&f->files, "p.yaml", SPAN("a: [\n"));
    struct policy_source source = memory_source(&f->files);
    struct buf json = BUF_INIT(1u << 20);
    assert_int_equal(policy_bundle_make(&f->arena, &source, SPAN("p.yaml"), &f->diags, &json), OK);
    assert_string_equal(diags_shown(f), "");
    assert_int_equal(policy_bundle_open(&f->arena, buf_span(&json), &bundle), OK);
    assert_int_equal(policy_load(&f->arena, &bundle->source, bundle->root, &f->diags, &policy), ERR_INVALID);
    assert_string_equal(diags_shown(f), "p.yaml:2:1: error: flow sequence without a closing bracket\n");
    buf_clear(&json);
    assert_int_equal(policy_bundle_make(&f->arena, &source, SPAN("gone.yaml"), &f->diags, &json), ERR_INVALID);
    assert_non_null(strstr(diags_shown(f), "gone.yaml: error: cannot read this file: it is not there\n"));
    buf_release(&json);
}

static void test_other_encodings_are_not_bundled(void **state)
{
    struct fixture *f = *state;
    memory_add(&f->files, "p.yaml", SPAN("a: \xe9\n"));
    struct policy_source source = memory_source(&f->files);
    struct buf json = BUF_INIT(1u << 20);
    assert_int_equal(policy_bundle_make(&f->arena, &source, SPAN("p.yaml"), &f->diags, &json), ERR_INVALID);
    assert_string_equal(diags_shown(f), "p.yaml: error: this file is not UTF-8\n");
    buf_release(&json);
}

static void test_refused_bundles(void **state)
{
    struct fixture *f = *state;
    struct policy_bundle *bundle;
    static const struct {
        const char *json;
        enum err err;
    } cases[] = {
        { "{\"files\":", ERR_SYNTAX },
        { "{}", ERR_INVALID },
        { "[]", ERR_INVALID },
        { "{\"files\":[]}", ERR_INVALID },
        { "{\"files\":[1]}", ERR_INVALID },
        { "{\"files\":[{\"name\":\"a\"}]}", ERR_INVALID },
        { "{\"files\":[{\"name\":\"a\",\"text\":1}]}", ERR_INVALID },
        { "{\"files\":[{\"name\":\"a\",\"name\":\"b\",\"text\":\"\"}]}", ERR_INVALID },
        { "{\"files\":[{\"name\":\"\",\"text\":\"\"}]}", ERR_INVALID },
        { "{\"files\":[{\"name\":\"/etc/x\",\"text\":\"\"}]}", ERR_INVALID },
        { "{\"files\":[{\"name\":\"a/../b\",\"text\":\"\"}]}", ERR_INVALID },
        { "{\"files\":[{\"name\":\"a\",\"text\":\"\"},{\"name\":\"a\",\"text\":\"\"}]}", ERR_INVALID },
        { "{\"files\":[{\"name\":\"a/b.c\",\"text\":\"\"}]}", OK },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_string_equal(err_name(policy_bundle_open(&f->arena, span_cstr(cases[i].json), &bundle)),
                            err_name(cases[i].err));
}

static void write_file(const char *directory, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    assert_int_equal(file_write_atomic(path, span_cstr(text), 0600), OK);
}

static void test_disk(void **state)
{
    struct fixture *f = *state;
    const struct policy *policy;
    char directory[] = "/tmp/fairlead-policy-XXXXXX", root[64], sub[64], command[128];
    assert_non_null(mkdtemp(directory));
    snprintf(root, sizeof root, "%s/p.yaml", directory);
    snprintf(sub, sizeof sub, "%s/routes", directory);
    assert_int_equal(file_make_dirs(sub, 0700), OK);
    write_file(directory, "p.yaml", HEAD "include: [routes/*.yaml, none/*]\n" PROVIDERS);
    write_file(directory, "routes/a.yaml", ROUTES("a"));
    write_file(directory, "routes/b.yaml", ROUTES("a"));
    assert_int_equal(policy_load(&f->arena, &policy_files, span_cstr(root), &f->diags, &policy), OK);
    const char *shown = diags_shown(f);
    assert_non_null(strstr(shown, "/p.yaml:3:26: error: 'include' matches no file: "));
    assert_non_null(strstr(shown, "/routes/b.yaml:3:10: error: route 'a' is there already, at "));
    assert_int_equal(f->diags.errors, 2);
    snprintf(root, sizeof root, "%s/gone.yaml", directory);
    assert_int_equal(policy_load(&f->arena, &policy_files, span_cstr(root), &f->diags, &policy), ERR_INVALID);
    static const char *const names[] = { "routes/a.yaml", "routes/b.yaml", "p.yaml" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(command, sizeof command, "%s/%s", directory, names[i]);
        assert_int_equal(unlink(command), 0);
    }
    assert_int_equal(rmdir(sub), 0);
    assert_int_equal(rmdir(directory), 0);
}

static void test_examples(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = { "policy.yaml", "directory.yaml" };
    const struct policy *policy, *directory;
    const struct artifact *artifact;
    const struct teams *teams;
    char path[512];
    snprintf(path, sizeof path, "%s/deploy/examples/%s", FAIRLEAD_SOURCE_DIR, names[0]);
    assert_int_equal(policy_load(&f->arena, &policy_files, span_cstr(path), &f->diags, &policy), OK);
    assert_int_equal(policy_compile(&f->arena, policy, &test_book, 1, &f->diags, &artifact), OK);
    snprintf(path, sizeof path, "%s/deploy/examples/%s", FAIRLEAD_SOURCE_DIR, names[1]);
    assert_int_equal(policy_load(&f->arena, &policy_files, span_cstr(path), &f->diags, &directory), OK);
    assert_int_equal(policy_teams(&f->arena, directory, artifact, &f->diags, &teams), OK);
    assert_string_equal(diags_shown(f), "");
}

static void test_diagnostics_as_json(void **state)
{
    struct fixture *f = *state;
    struct json_writer w;
    diag_at(&f->diags, DIAG_WARNING, "b.yaml", 1, 2, "late");
    diag_at(&f->diags, DIAG_ERROR, "a.yaml", 3, 4, "a \"quoted\" word");
    diag_at(&f->diags, DIAG_ERROR, "a.yaml", 3, 4, "a \"quoted\" word");
    json_writer_init(&w, &f->text);
    diags_json(&f->diags, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_string_equal(
        buf_cstr(&f->text),
        "{\"errors\":1,\"warnings\":1,\"items\":[{\"severity\":\"error\",\"file\":\"a.yaml\",\"line\":3,\"column\":4,"
        "\"message\":\"a \\\"quoted\\\" word\"},{\"severity\":\"warning\",\"file\":\"b.yaml\",\"line\":1,\"column\":2,"
        "\"message\":\"late\"}]}");
}

static void test_a_diagnostic_is_one_line(void **state)
{
    struct fixture *f = *state;
    diag_at(&f->diags, DIAG_ERROR, "a", 1, 1, "no field '%s'", "x\ny: error: made up");
    assert_string_equal(diags_shown(f), "a:1:1: error: no field 'x y: error: made up'\n");
}

/* Warnings never push out an error, and what is beyond the limit is counted. */
static void test_diagnostics_are_bounded(void **state)
{
    struct fixture *f = *state;
    for (uint32_t i = 0; i < 2 * DIAGS_MAX; i++)
        diag_at(&f->diags, DIAG_WARNING, "a", i + 1, 1, "warning");
    diag_at(&f->diags, DIAG_ERROR, "a", 9999, 1, "the error");
    assert_int_equal(f->diags.count, DIAGS_MAX);
    assert_true(diags_bad(&f->diags));
    assert_non_null(strstr(diags_shown(f), "a:9999:1: error: the error\n... and 201 more\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_broken_text_is_carried, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_other_encodings_are_not_bundled, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_refused_bundles, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_disk, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_examples, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_diagnostics_as_json, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_a_diagnostic_is_one_line, fixture_up, fixture_down),
        cmocka_unit_test_setup_teardown(test_diagnostics_are_bounded, fixture_up, fixture_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
