#include "controlplane/journal/journal.h"
#include "common/buf.h"
#include "common/fault.h"
#include "common/file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    char dir[64], path[96], old[96];
    struct journal *journal;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    (void)snprintf(f->dir, sizeof(f->dir), "/dev/shm/fairlead-journal-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof(f->path), "%s/events", f->dir);
    (void)snprintf(f->old, sizeof(f->old), "%s/events.1", f->dir);
    assert_int_equal(journal_open(f->path, &f->journal), OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fault_disarm_all();
    journal_close(f->journal);
    (void)unlink(f->path);
    (void)unlink(f->old);
    (void)rmdir(f->dir);
    free(f);
    return 0;
}

static void tell(struct fixture *f, int64_t at_ms, const char *where, const char *why)
{
    event_tell(
        journal_sink(f->journal), at_ms,
        &(struct event){ .kind = "health", .where = span_cstr(where), .what = SPAN("is down"), .why = span_cstr(why) });
}

struct seen {
    size_t count, most;
    int64_t first_ms, last_ms;
    char last[2048];
};

static bool look(void *user, int64_t at_ms, struct span json)
{
    struct seen *seen = user;
    if (seen->count++ == 0)
        seen->first_ms = at_ms;
    assert_true(at_ms >= seen->last_ms);
    seen->last_ms = at_ms;
    (void)snprintf(seen->last, sizeof(seen->last), SPAN_FMT, SPAN_ARG(json));
    return seen->most == 0 || seen->count < seen->most;
}

static struct seen seen_since(const struct fixture *f, int64_t since_ms)
{
    struct seen seen = { .count = 0 };
    journal_each(f->journal, since_ms, look, &seen);
    return seen;
}

static void reopen(struct fixture *f)
{
    journal_close(f->journal);
    f->journal = NULL;
    assert_int_equal(journal_open(f->path, &f->journal), OK);
}

/* The disk is full in the middle of a line: that line is lost, not the next one. */
static void half_a_line_goes_alone(void **state)
{
    struct fixture *f = *state;
    struct rlimit before;
    struct stat st;
    tell(f, 10, "a/one", "");
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ (rlim_t)st.st_size + 20, before.rlim_max }), 0);
    tell(f, 20, "a/two", "");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(seen_since(f, 0).count, 2); /* in memory it stands */
    tell(f, 30, "a/three", "");
    reopen(f);
    const struct seen seen = seen_since(f, 0);
    assert_int_equal(seen.count, 2);
    assert_non_null(strstr(seen.last, "a/three"));
}

static void events_are_kept_in_order(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(seen_since(f, 0).count, 0);
    tell(f, 1000, "a/one", "status 503");
    tell(f, 2000, "a/two", "");
    assert_int_equal(seen_since(f, 0).count, 2);
    assert_int_equal(seen_since(f, 1001).count, 1);
    assert_int_equal(seen_since(f, 2001).count, 0);
    struct seen one = { .most = 1 };
    journal_each(f->journal, 0, look, &one);
    assert_int_equal(one.count, 1);
    assert_string_equal(one.last, "{\"at_ms\":1000,\"kind\":\"health\",\"where\":\"a/one\",\"what\":\"is down\","
                                  "\"why\":\"status 503\",\"node\":\"\"}");
}

static void they_outlive_a_restart(void **state)
{
    struct fixture *f = *state;
    tell(f, 1000, "a/one", "status 503");
    tell(f, 2000, "a/two", "");
    reopen(f);
    assert_int_equal(seen_since(f, 0).count, 2);
    struct stat st;
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_torn_line_costs_itself_only(void **state)
{
    struct fixture *f = *state;
    tell(f, 1000, "a/one", "");
    const int fd = open(f->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "no line of ours\n{\"at_ms\":20", 27), 27);
    (void)close(fd);
    reopen(f);
    assert_int_equal(seen_since(f, 0).count, 1);
    tell(f, 3000, "a/three", "");
    reopen(f);
    const struct seen seen = seen_since(f, 0);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.last_ms, 3000);
}

/* However much happens: the newest stay, in memory and on disk. */
static void memory_and_disk_are_bounded(void **state)
{
    struct fixture *f = *state;
    enum { MANY = 3 * JOURNAL_EVENTS_MAX };
    char why[150];
    memset(why, 'x', sizeof(why) - 1);
    why[sizeof(why) - 1] = '\0';
    for (int64_t i = 1; i <= MANY; i++)
        tell(f, i, "a/one", why);
    assert_int_equal(seen_since(f, 0).count, JOURNAL_EVENTS_MAX);
    assert_int_equal(seen_since(f, 0).first_ms, MANY - JOURNAL_EVENTS_MAX + 1);
    struct stat now, old;
    assert_int_equal(stat(f->path, &now), 0);
    assert_int_equal(stat(f->old, &old), 0);
    assert_true(now.st_size <= JOURNAL_FILE_BYTES && old.st_size <= JOURNAL_FILE_BYTES);
    reopen(f);
    assert_int_equal(seen_since(f, 0).last_ms, MANY);
    assert_int_equal(seen_since(f, MANY - 999).count, 1000);
}

static void long_texts_are_cut(void **state)
{
    struct fixture *f = *state;
    char nasty[3000];
    memset(nasty, 1, sizeof(nasty) - 1);
    nasty[sizeof(nasty) - 1] = '\0';
    tell(f, 1000, "a/one", nasty);
    assert_int_equal(seen_since(f, 0).count, 1);
    assert_true(strlen(seen_since(f, 0).last) <= JOURNAL_LINE_BYTES);
    reopen(f);
    assert_int_equal(seen_since(f, 0).count, 1);
}

static void without_a_file_it_is_memory(void **state)
{
    struct fixture *f = *state;
    journal_close(f->journal);
    assert_int_equal(journal_open(NULL, &f->journal), OK);
    tell(f, 1000, "a/one", "");
    assert_int_equal(seen_since(f, 0).count, 1);
    journal_close(f->journal);
    assert_int_equal(journal_open("/dev/null/nowhere", &f->journal), OK);
    tell(f, 1000, "a/one", "");
    assert_int_equal(seen_since(f, 0).count, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(half_a_line_goes_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(events_are_kept_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(they_outlive_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(a_torn_line_costs_itself_only, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_and_disk_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(long_texts_are_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(without_a_file_it_is_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
