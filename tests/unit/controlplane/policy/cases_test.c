/* Golden cases: cases/NAME.case holds files and the diagnostics that they must give, to the letter.
 *
 *     == policy.yaml       a file; the first one is the root
 *     == without book      (optional) compile without a price book
 *     == expect            the whole text of the diagnostics
 *
 * FAIRLEAD_UPDATE_CASES=1 rewrites the expectations with what is said now; look at the difference before committing it.
 */
#include "common/file.h"
#include "tests/unit/controlplane/policy/support.h"
#include <glob.h>

struct test_case {
    struct memory_files files;
    struct span expected;
    size_t expected_at; /* offset in the case's text */
    bool without_book;
};

static void split_case(struct span text, struct fixture *f, struct test_case *ret)
{
    struct span rest = text, line, name = SPAN("");
    size_t from = 0;
    memset(ret, 0, sizeof *ret);
    while (span_split(&rest, '\n', &line)) {
        bool header = span_starts(line, SPAN("== "));
        size_t at = (size_t)(line.ptr - text.ptr);
        if (!header && rest.ptr)
            continue;
        struct span body = span_of(text.ptr + from, (header ? at : text.len) - from);
        if (span_eq(name, SPAN("without book")))
            ret->without_book = true;
        else if (name.len > 0 && !span_eq(name, SPAN("expect")))
            memory_add(&ret->files, arena_dup(&f->arena, name).ptr, body);
        name = header ? span_skip(line, 3) : name;
        from = at + line.len + 1;
        if (header && span_eq(name, SPAN("expect"))) {
            ret->expected_at = from;
            ret->expected = span_skip(text, from);
            return;
        }
    }
    fail_msg("a case must end with '== expect'");
}

static void run_case(struct fixture *f, struct test_case *c)
{
    const struct policy *policy;
    const struct artifact *artifact = NULL;
    const struct teams *teams;
    struct policy_source source = memory_source(&c->files);
    enum err err = policy_load(&f->arena, &source, c->files.files[0].name, &f->diags, &policy);
    if (err) {
        assert_int_equal(err, ERR_INVALID);
        return;
    }
    if (policy_has_policy(policy))
        err = policy_compile(&f->arena, policy, c->without_book ? NULL : &test_book, 1, &f->diags, &artifact);
    assert_true(err == (diags_bad(&f->diags) ? ERR_INVALID : OK));
    if (policy_has_directory(policy))
        err = policy_teams(&f->arena, policy, artifact, &f->diags, &teams);
    assert_true(err == (diags_bad(&f->diags) ? ERR_INVALID : OK));
}

static void update_case(const char *path, struct span text, const struct test_case *c, const char *actual)
{
    struct buf out = BUF_INIT(1u << 20);
    assert_int_equal(buf_append(&out, span_head(text, c->expected_at)), OK);
    assert_int_equal(buf_append_cstr(&out, actual), OK);
    assert_int_equal(file_write_atomic(path, buf_span(&out), 0644), OK);
    buf_release(&out);
}

static void check_case(const char *path, unsigned *failures)
{
    struct fixture *f;
    struct test_case c;
    struct buf text = BUF_INIT(1u << 20);
    assert_int_equal(fixture_up((void **)&f), 0);
    assert_int_equal(file_read(path, 1u << 20, &text), OK);
    split_case(buf_span(&text), f, &c);
    run_case(f, &c);
    const char *actual = diags_shown(f);
    if (getenv("FAIRLEAD_UPDATE_CASES")) {
        update_case(path, buf_span(&text), &c, actual);
    } else if (!span_eq(span_cstr(actual), c.expected)) {
        print_message("%s\n--- expected\n" SPAN_FMT "--- said\n%s", path, SPAN_ARG(c.expected), actual);
        (*failures)++;
    }
    buf_release(&text);
    assert_int_equal(fixture_down((void **)&f), 0);
}

static void test_cases(void **state)
{
    (void)state;
    glob_t found;
    unsigned failures = 0;
    assert_int_equal(glob(FAIRLEAD_SOURCE_DIR "/tests/unit/controlplane/policy/cases/*.case", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++)
        check_case(found.gl_pathv[i], &failures);
    assert_true(found.gl_pathc >= 20);
    globfree(&found);
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_cases) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
