#include "dataplane/node/feedback_secret.h"
#include "common/file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[64], secret_path[128];
static struct node_config config;

static int set_up(UNUSED void **state)
{
    (void)snprintf(dir, sizeof(dir), "/tmp/fl-secret-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(secret_path, sizeof(secret_path), "%s/feedback.secret", dir);
    config = (struct node_config){ .home = dir };
    return 0;
}

static int tear_down(UNUSED void **state)
{
    (void)unlink(secret_path);
    return rmdir(dir);
}

static bool same(const struct request_id_key *a, const struct request_id_key *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

static void the_homes_file_is_made_once(UNUSED void **state)
{
    struct request_id_key first, second;
    struct stat status;
    assert_int_equal(feedback_secret_key(&config, &first), ERR_NOT_FOUND);
    assert_int_equal(feedback_secret_prepare(&config), OK);
    assert_int_equal(feedback_secret_key(&config, &first), OK);
    assert_int_equal(stat(secret_path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(feedback_secret_prepare(&config), OK);
    assert_int_equal(feedback_secret_key(&config, &second), OK);
    assert_true(same(&first, &second));
    assert_int_equal(unlink(secret_path), 0);
    assert_int_equal(feedback_secret_prepare(&config), OK);
    assert_int_equal(feedback_secret_key(&config, &second), OK);
    assert_false(same(&first, &second));
}

static void a_secret_may_be_given(UNUSED void **state)
{
    struct request_id_key from_file, from_env, expected = request_id_key_of(SPAN("shared"));
    char source[160];
    (void)snprintf(source, sizeof(source), "file:%s", secret_path);
    config.feedback_secret = source;
    assert_int_equal(feedback_secret_prepare(&config), ERR_NOT_FOUND); /* a file that somebody named is not made */
    assert_int_equal(file_write_atomic(secret_path, SPAN("\n\n"), 0600), OK);
    assert_int_equal(feedback_secret_prepare(&config), ERR_NOT_FOUND);
    assert_int_equal(file_write_atomic(secret_path, SPAN("shared\n"), 0600), OK);
    assert_int_equal(feedback_secret_prepare(&config), OK);
    assert_int_equal(feedback_secret_key(&config, &from_file), OK);
    assert_true(same(&from_file, &expected));
    config.feedback_secret = (char *)(uintptr_t) "env:FL_TEST_FEEDBACK_SECRET";
    assert_int_equal(feedback_secret_prepare(&config), ERR_NOT_FOUND);
    assert_int_equal(setenv("FL_TEST_FEEDBACK_SECRET", "shared", 1), 0);
    assert_int_equal(feedback_secret_key(&config, &from_env), OK);
    assert_true(same(&from_env, &expected));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_homes_file_is_made_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_secret_may_be_given, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
