#include "admin-cli/policy_tests.h"
#include "common/units.h"

struct reading {
    struct arena *arena;
    const char *file, *why;
};

static void report(void *user, uint32_t line, uint32_t column, const char *message)
{
    struct reading *r = user;
    if (!r->why)
        r->why = arena_printf(r->arena, "%s:%u:%u: %s", r->file, line, column, message);
}

static enum err invalid(struct reading *r, const struct yaml_node *at, const char *what)
{
    report(r, at->line, at->column, what);
    return ERR_INVALID;
}

/* ---- fields ---- */

enum form { FORM_TEXT, FORM_BOOL, FORM_NUMBER, FORM_WORDS /* a text or a list of them */, FORM_USD, FORM_SHARES };
struct field {
    const char *name;
    enum form form;
};
static const struct field request_fields[] = {
    { "team", FORM_TEXT },           { "model", FORM_TEXT },        { "endpoint", FORM_TEXT },  { "stream", FORM_BOOL },
    { "tools", FORM_BOOL },          { "images", FORM_BOOL },       { "audio", FORM_BOOL },     { "json", FORM_BOOL },
    { "input_tokens", FORM_NUMBER }, { "max_output", FORM_NUMBER }, { "choices", FORM_NUMBER },
};
static const struct field expect_fields[] = {
    { "status", FORM_TEXT }, { "reason", FORM_TEXT },  { "route", FORM_TEXT },           { "models", FORM_WORDS },
    { "never", FORM_WORDS }, { "region", FORM_WORDS }, { "cost_at_most_usd", FORM_USD }, { "first", FORM_SHARES },
};

static bool is_bool(const struct yaml_node *node)
{
    return node->kind == YAML_SCALAR && (span_eq(node->text, SPAN("true")) || span_eq(node->text, SPAN("false")));
}

static const char *wrong_form(const struct yaml_node *at, enum form form)
{
    uint64_t number;
    int64_t nano;
    uint32_t ppm;
    switch (form) {
    case FORM_TEXT:
        return at->kind == YAML_SCALAR && !span_empty(at->text) ? NULL : "text was expected";
    case FORM_BOOL:
        return is_bool(at) ? NULL : "true or false was expected";
    case FORM_NUMBER:
        return at->kind == YAML_SCALAR && span_to_u64(at->text, &number) == OK ? NULL : "a whole number was expected";
    case FORM_USD:
        return at->kind == YAML_SCALAR && units_parse_usd(at->text, &nano) == OK
                   ? NULL
                   : "an amount in US dollars was expected, such as 0.01";
    case FORM_WORDS:
        for (const struct yaml_node *word = at->kind == YAML_LIST ? at->first : NULL; word; word = word->next)
            if (word->kind != YAML_SCALAR)
                return "a list of texts was expected";
        return at->kind != YAML_MAP && (at->kind == YAML_SCALAR || at->count > 0) ? NULL
                                                                                  : "a text or a list was expected";
    case FORM_SHARES:
        for (const struct yaml_node *share = at->kind == YAML_MAP ? at->first : NULL; share; share = share->next)
            if (share->kind != YAML_SCALAR || units_parse_share(share->text, &ppm) != OK)
                return "a share was expected, such as 70%";
        return at->kind == YAML_MAP ? NULL : "a map of models and shares was expected, such as {openai/gpt-4o: 70%}";
    }
    return NULL;
}

static enum err check_fields(struct reading *r, const struct yaml_node *map, const struct field *fields, size_t count,
                             const char *unknown)
{
    for (const struct yaml_node *at = map->first; at; at = at->next) {
        const struct field *field = NULL;
        for (size_t i = 0; i < count && !field; i++)
            if (span_eq(at->key->text, span_cstr(fields[i].name)))
                field = &fields[i];
        const char *wrong = field ? wrong_form(at, field->form) : unknown;
        if (wrong)
            return invalid(r, field ? at : at->key, wrong);
    }
    return OK;
}

static enum err check_word(struct reading *r, const struct yaml_node *map, const char *name, const char *words,
                           const char *what)
{
    const struct yaml_node *at = yaml_get(map, name);
    struct span rest = span_cstr(words), word;
    while (at && span_split(&rest, ' ', &word))
        if (span_eq(at->text, word))
            return OK;
    return at ? invalid(r, at, what) : OK;
}

static enum err read_test(struct reading *r, const struct yaml_node *node, struct policy_test *test)
{
    if (node->kind != YAML_MAP)
        return invalid(r, node, "a map was expected: {name, request, expect}");
    for (const struct yaml_node *at = node->first; at; at = at->next)
        if (!span_eq(at->key->text, SPAN("name")) && !span_eq(at->key->text, SPAN("request")) &&
            !span_eq(at->key->text, SPAN("expect")))
            return invalid(r, at->key, "not a field of a test; those are name, request, expect");
    const struct yaml_node *name = yaml_get(node, "name");
    test->node = node;
    test->request = yaml_get(node, "request");
    test->expect = yaml_get(node, "expect");
    if (!name || name->kind != YAML_SCALAR || span_empty(name->text))
        return invalid(r, node, "a test needs a name");
    test->name = name->text.ptr;
    if (!test->request || test->request->kind != YAML_MAP || !yaml_get(test->request, "team") ||
        !yaml_get(test->request, "model"))
        return invalid(r, test->request ? test->request : node, "a request needs a team and a model at least");
    if (!test->expect || test->expect->kind != YAML_MAP || test->expect->count == 0)
        return invalid(r, test->expect ? test->expect : node, "a test without anything expected always passes");
    enum err err =
        check_fields(r, test->request, request_fields, ARRAY_LEN(request_fields),
                     "not a field of a request; those are team, model, endpoint, stream, tools, images, audio, "
                     "json, input_tokens, max_output, choices");
    if (!err)
        err = check_fields(r, test->expect, expect_fields, ARRAY_LEN(expect_fields),
                           "nothing that can be expected; that is status, reason, route, models, never, region, "
                           "cost_at_most_usd, first");
    if (!err)
        err = check_word(r, test->request, "endpoint", "chat completions embeddings",
                         "chat, completions or embeddings was expected");
    return err ? err
               : check_word(r, test->expect, "status", "ok refused unknown_model unknown_team",
                            "ok, refused, unknown_model or unknown_team was expected");
}

static enum err read_tree(struct reading *r, const struct yaml_node *root, struct policy_tests *ret)
{
    const struct yaml_node *schema = yaml_get(root, "schema"), *kind = yaml_get(root, "kind");
    const struct yaml_node *tests = yaml_get(root, "tests");
    if (!schema || !span_eq(schema->text, SPAN("fairlead/1")) || !kind || !span_eq(kind->text, SPAN("tests")))
        return invalid(r, root, "'schema: fairlead/1' and 'kind: tests' were expected");
    for (const struct yaml_node *at = root->first; at; at = at->next) {
        const bool text = span_eq(at->key->text, SPAN("policy")) || span_eq(at->key->text, SPAN("directory"));
        if (text && (at->kind != YAML_SCALAR || span_empty(at->text)))
            return invalid(r, at, "the path of a file was expected");
        if (!text && at != schema && at != kind && at != tests)
            return invalid(r, at->key, "not a field of a file of tests; those are policy, directory, tests");
    }
    if (yaml_get(root, "policy"))
        ret->policy = yaml_get(root, "policy")->text.ptr;
    if (yaml_get(root, "directory"))
        ret->directory = yaml_get(root, "directory")->text.ptr;
    if (!tests || tests->kind != YAML_LIST || tests->count == 0)
        return invalid(r, tests ? tests : root, "a list of tests was expected");
    if (tests->count > POLICY_TESTS_MAX)
        return invalid(r, tests, "too many tests for one file");
    ret->items = ARENA_ARRAY(r->arena, tests->count, struct policy_test);
    if (!ret->items)
        return ERR_NOMEM;
    for (const struct yaml_node *at = tests->first; at; at = at->next) {
        const enum err err = read_test(r, at, &ret->items[ret->count]);
        if (err)
            return err;
        ret->count++;
    }
    return OK;
}

enum err policy_tests_read(struct arena *arena, const char *file, struct span text, struct policy_tests *ret,
                           const char **ret_why)
{
    struct reading r = { .arena = arena, .file = file };
    const struct yaml_node *root = NULL;
    *ret = (struct policy_tests){ .count = 0 };
    enum err err = yaml_parse(arena, file, text, report, &r, &root);
    if (!err && (!root || root->kind != YAML_MAP || root->next)) {
        r.why = arena_printf(arena, "%s:1:1: one document, a map, was expected", file);
        err = ERR_INVALID;
    }
    if (!err)
        err = read_tree(&r, root, ret);
    if (err)
        *ret_why = r.why ? r.why : err_name(err);
    return err == OK || err == ERR_NOMEM ? err : ERR_INVALID;
}

/* ---- asking ---- */

static void put_field(struct json_writer *w, const struct yaml_node *value, enum form form)
{
    uint64_t number = 0;
    json_key(w, value->key->text);
    switch (form) {
    case FORM_BOOL:
        json_put_bool(w, span_eq(value->text, SPAN("true")));
        return;
    case FORM_NUMBER:
        if (span_to_u64(value->text, &number) != OK)
            number = 0; /* it was checked */
        json_put_u64(w, number);
        return;
    case FORM_TEXT:
    case FORM_WORDS:
    case FORM_USD:
    case FORM_SHARES:
        json_put_string(w, value->text);
        return;
    }
}

void policy_tests_ask(const struct policy_tests *tests, struct json_writer *w)
{
    json_object_open(w);
    json_key(w, SPAN("requests"));
    json_array_open(w);
    for (uint32_t i = 0; i < tests->count; i++) {
        json_object_open(w);
        for (const struct yaml_node *at = tests->items[i].request->first; at; at = at->next)
            for (size_t k = 0; k < ARRAY_LEN(request_fields); k++)
                if (span_eq(at->key->text, span_cstr(request_fields[k].name)))
                    put_field(w, at, request_fields[k].form);
        json_object_close(w);
    }
    json_array_close(w);
    json_object_close(w);
}
