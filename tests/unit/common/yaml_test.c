#include "common/yaml.h"
#include "common/arena.h"
#include "common/buf.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct seen {
    struct buf text;
};

static void note(void *user, uint32_t line, uint32_t column, const char *message)
{
    struct seen *seen = user;
    assert_int_equal(buf_printf(&seen->text, "%u:%u %s\n", line, column, message), OK);
}

static struct arena arena;
static struct seen seen;

static int set_up(void **state)
{
    (void)state;
    arena_init(&arena, 512u << 20);
    buf_init(&seen.text, 1u << 20);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_release(&arena);
    buf_release(&seen.text);
    return 0;
}

static enum err parse(const char *text, const struct yaml_node **ret)
{
    *ret = NULL;
    return yaml_parse(&arena, "f.yaml", span_cstr(text), note, &seen, ret);
}

static void expect_error(const char *text, enum err err, const char *messages)
{
    const struct yaml_node *root;
    buf_clear(&seen.text);
    assert_string_equal(err_name(parse(text, &root)), err_name(err));
    assert_string_equal(buf_cstr(&seen.text), messages);
}

static void test_tree_and_places(void **state)
{
    (void)state;
    const struct yaml_node *root;
    assert_int_equal(parse("a: {b: [1, \"2\"], c: }\nd:\ne: |\n  x\n  y\n'f g': 'q'\n", &root), OK);
    assert_int_equal(root->kind, YAML_MAP);
    assert_int_equal(root->count, 4);
    assert_null(root->next);
    const struct yaml_node *a = root->first;
    assert_string_equal(a->key->text.ptr, "a");
    assert_int_equal(a->key->column, 1);
    assert_string_equal(a->file, "f.yaml");
    const struct yaml_node *list = yaml_get(a, "b");
    assert_int_equal(list->kind, YAML_LIST);
    assert_int_equal(list->count, 2);
    assert_string_equal(list->first->text.ptr, "1");
    assert_false(list->first->quoted);
    assert_int_equal(list->first->line, 1);
    assert_int_equal(list->first->column, 9);
    assert_true(list->first->next->quoted);
    assert_int_equal(list->first->next->column, 12);
    assert_true(yaml_is_null(yaml_get(a, "c")));
    assert_true(yaml_is_null(yaml_get(root, "d")));
    assert_int_equal(yaml_get(root, "d")->line, 2);
    assert_string_equal(yaml_get(root, "e")->text.ptr, "x\ny\n");
    assert_true(yaml_get(root, "e")->quoted);
    assert_string_equal(yaml_get(root, "f g")->text.ptr, "q");
    assert_int_equal(yaml_get(root, "f g")->key->line, 6);
    assert_null(yaml_get(root, "nothing"));
    assert_null(yaml_get(list, "b"));
    assert_null(yaml_get(NULL, "b"));
}

static void test_documents(void **state)
{
    (void)state;
    const struct yaml_node *root;
    assert_int_equal(parse("a: 1\n---\n---\n# only a comment\n---\n- x\n", &root), OK);
    assert_int_equal(root->kind, YAML_MAP);
    assert_non_null(root->next);
    assert_int_equal(root->next->kind, YAML_LIST);
    assert_null(root->next->next);
    assert_int_equal(parse("", &root), OK);
    assert_null(root);
    assert_int_equal(parse("# nothing\n", &root), OK);
    assert_null(root);
}

static void test_null_is_not_quoted_null(void **state)
{
    (void)state;
    const struct yaml_node *root;
    assert_int_equal(parse("[null, ~, \"null\", '~', '', nul]", &root), OK);
    const bool expected[] = { true, true, false, false, false, false };
    size_t i = 0;
    for (const struct yaml_node *child = root->first; child; child = child->next)
        assert_int_equal(yaml_is_null(child), expected[i++]);
    assert_int_equal(i, 6);
}

/* Scalars of many pieces: each line end and escape is one, and libfyaml 0.7.12 keeps a list of them that must be freed.
 */
static void test_scalars_of_many_pieces(void **state)
{
    (void)state;
    const struct yaml_node *root;
    struct buf text = BUF_INIT(1u << 20), wanted = BUF_INIT(1u << 20);
    assert_int_equal(buf_append_cstr(&text, "a: '"), OK);
    for (unsigned i = 0; i < 500; i++) {
        assert_int_equal(buf_append_cstr(&text, "it''s "), OK);
        assert_int_equal(buf_append_cstr(&wanted, "it's "), OK);
    }
    assert_int_equal(buf_append_cstr(&text, "'\nb: \"x\\n\\u00e9\\\"\"\nc: one\n  two\n\n  three\nd: >\n  f g\n  h\n"),
                     OK);
    assert_int_equal(parse(buf_cstr(&text), &root), OK);
    assert_string_equal(yaml_get(root, "a")->text.ptr, buf_cstr(&wanted));
    assert_string_equal(yaml_get(root, "b")->text.ptr, "x\n\u00e9\"");
    assert_string_equal(yaml_get(root, "c")->text.ptr, "one two\nthree");
    assert_string_equal(yaml_get(root, "d")->text.ptr, "f g h\n");
    buf_release(&text);
    buf_release(&wanted);
}

static void test_duplicates(void **state)
{
    (void)state;
    expect_error(
        "a: 1\nb: {c: 1, c: 2}\na: 3\n", ERR_DUPLICATE,
        "2:11 'c' stands twice in this map; first at line 2\n3:1 'a' stands twice in this map; first at line 1\n");
    const struct yaml_node *root;
    assert_int_equal(parse("a: 1\na: {b: 2}\nc: 3\n", &root), ERR_DUPLICATE);
    assert_int_equal(root->count, 2);
    assert_string_equal(yaml_get(root, "a")->text.ptr, "1"); /* the first one stays */
    assert_string_equal(yaml_get(root, "c")->text.ptr, "3");
}

static void test_duplicates_in_large_maps(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(1u << 20);
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(buf_printf(&text, "k%u: %u\n", i, i), OK);
    for (unsigned i = 0; i < 5000; i += 100)
        assert_int_equal(buf_printf(&text, "k%u: again\n", i), OK);
    const struct yaml_node *root;
    assert_int_equal(parse(buf_cstr(&text), &root), ERR_DUPLICATE);
    assert_int_equal(root->count, 5000);
    unsigned lines = 0;
    for (const char *at = buf_cstr(&seen.text); (at = strchr(at, '\n')); at++)
        lines++;
    assert_int_equal(lines, YAML_DUPLICATES_REPORTED);
    assert_non_null(strstr(buf_cstr(&seen.text), "5002:1 'k100' stands twice in this map; first at line 101\n"));
    buf_release(&text);
}

static void test_refusals(void **state)
{
    (void)state;
    const char anchors[] = "anchors and aliases are not used here; write `like:` or the value itself\n";
    char message[200];
    snprintf(message, sizeof message, "1:7 %s", anchors);
    expect_error("a: &x 1\nb: *x\n", ERR_UNSUPPORTED, message);
    expect_error("a: !!str 1\n", ERR_UNSUPPORTED, "1:10 tags (!...) are not used here\n");
    expect_error("? [a]\n: b\n", ERR_UNSUPPORTED, "1:3 a key must be plain text\n");
    expect_error("a: {b: 1", ERR_SYNTAX, "2:1 missing comma in flow mapping\n");
    expect_error("a:\n\t- b", ERR_SYNTAX, "2:1 tab character may not be used as indentation\n");
    expect_error("a: \x01", ERR_SYNTAX, "1:4 a control character may not stand here\n");
    expect_error("a: \"\\0\"", ERR_SYNTAX, "1:4 a control character may not stand here\n");
    expect_error("a: 1\nb: \xff", ERR_SYNTAX, "2:4 this is not UTF-8\n");
    expect_error("\xc0\x80", ERR_SYNTAX, "1:1 this is not UTF-8\n");
    expect_error("\xed\xa0\x80", ERR_SYNTAX, "1:1 this is not UTF-8\n");
}

static void test_limits(void **state)
{
    (void)state;
    char deep[YAML_DEPTH_MAX * 2 + 3] = "";
    memset(deep, '[', YAML_DEPTH_MAX);
    memset(deep + YAML_DEPTH_MAX, ']', YAML_DEPTH_MAX);
    const struct yaml_node *root;
    assert_int_equal(parse(deep, &root), OK);
    memset(deep, '[', YAML_DEPTH_MAX + 1);
    memset(deep + YAML_DEPTH_MAX + 1, ']', YAML_DEPTH_MAX + 1);
    expect_error(deep, ERR_TOO_DEEP, "1:33 nested too deeply\n");
    static char unclosed[100001];
    memset(unclosed, '[', sizeof unclosed - 1);
    expect_error(unclosed, ERR_TOO_DEEP, "1:33 nested too deeply\n");
    struct arena small;
    arena_init(&small, 200);
    assert_int_equal(yaml_parse(&small, "f", SPAN("a: [1, 2, 3, 4, 5]"), NULL, NULL, &root), ERR_NOMEM);
    arena_release(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tree_and_places, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_documents, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_null_is_not_quoted_null, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_scalars_of_many_pieces, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_duplicates, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_duplicates_in_large_maps, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_limits, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
