/* The store as one process sees it, as several do, and as the next process does after the last one was killed or the
 * disk went wrong. Other processes are this program again, exec'ed with a role and a directory: LMDB must not cross a
 * fork. */
#include "proto/snapshot.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/fault.h"
#include "common/file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST, SECOND };
static const char *const trees[] = { "first", "second" };
extern char **environ;

struct fixture {
    char dir[64];
    char data[96];
};

static void remove_store(const char *dir)
{
    static const char *const names[] = { "data.mdb", "lock.mdb" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = file_join(dir, names[i]);
        (void)unlink(path);
        free(path);
    }
    (void)rmdir(dir);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/fairlead-snapshot-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->data, sizeof f->data, "%s/data.mdb", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fault_disarm_all();
    remove_store(f->dir);
    free(f);
    return 0;
}

static enum err try_open(const char *dir, bool read_only, uint64_t map_bytes, struct snapshot **ret)
{
    struct snapshot_options options = {
        .path = dir, .read_only = read_only, .map_bytes = map_bytes, .trees = trees, .tree_count = ARRAY_LEN(trees)
    };
    return snapshot_open(&options, ret);
}

static struct snapshot *open_store(const char *dir, bool read_only)
{
    struct snapshot *s = NULL;
    assert_int_equal(try_open(dir, read_only, 0, &s), OK);
    return s;
}

static enum err put_number(struct snapshot *s, const char *key, uint64_t value)
{
    struct snapshot_txn *txn;
    char bytes[8];
    enum err err = snapshot_write_begin(s, &txn);
    if (err)
        return err;
    snapshot_key_u64(value, bytes);
    err = snapshot_put(txn, FIRST, span_cstr(key), span_of(bytes, 8));
    if (err) {
        snapshot_abort(txn);
        return err;
    }
    return snapshot_commit(txn);
}

static uint64_t get_number(struct snapshot *s, const char *key, uint64_t *ret_txn_id)
{
    struct snapshot_txn *txn;
    struct span value;
    uint64_t number = UINT64_MAX;
    if (snapshot_read_begin(s, &txn) != OK)
        return UINT64_MAX;
    if (ret_txn_id)
        *ret_txn_id = snapshot_txn_id(txn);
    if (snapshot_get(txn, FIRST, span_cstr(key), &value) != OK || snapshot_key_to_u64(value, &number) != OK)
        number = UINT64_MAX;
    snapshot_read_end(txn);
    return number;
}

/* -- one process -- */

static void entries_come_back_in_order(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = open_store(f->dir, false);
    struct snapshot_txn *txn;
    struct span key, value;
    assert_int_equal(snapshot_write_begin(s, &txn), OK);
    assert_int_equal(snapshot_last(txn, FIRST, &key, &value), ERR_NOT_FOUND);
    assert_int_equal(snapshot_put(txn, FIRST, SPAN("b"), SPAN("2")), OK);
    assert_int_equal(snapshot_put(txn, FIRST, SPAN("a"), SPAN("1")), OK);
    assert_int_equal(snapshot_put(txn, FIRST, SPAN("c"), SPAN("")), OK);
    assert_int_equal(snapshot_put(txn, SECOND, SPAN("a"), SPAN("other")), OK);
    assert_int_equal(snapshot_delete(txn, FIRST, SPAN("nobody")), ERR_NOT_FOUND);
    assert_int_equal(snapshot_commit(txn), OK);
    snapshot_close(s);

    s = open_store(f->dir, false);
    assert_int_equal(snapshot_read_begin(s, &txn), OK);
    assert_int_equal(snapshot_count(txn, FIRST), 3);
    assert_int_equal(snapshot_last(txn, FIRST, &key, &value), OK);
    assert_true(span_eq(key, SPAN("c")) && value.len == 0);
    assert_int_equal(snapshot_get(txn, FIRST, SPAN("a"), &value), OK);
    assert_true(span_eq(value, SPAN("1")));
    assert_int_equal(snapshot_get(txn, SECOND, SPAN("a"), &value), OK);
    assert_true(span_eq(value, SPAN("other")));
    assert_int_equal(snapshot_get(txn, FIRST, SPAN(""), &value), ERR_NOT_FOUND);
    snapshot_read_end(txn);
    assert_int_equal(snapshot_write_begin(s, &txn), OK);
    assert_int_equal(snapshot_drop_all(txn, FIRST), OK);
    assert_int_equal(snapshot_count(txn, FIRST), 0);
    assert_int_equal(snapshot_count(txn, SECOND), 1);
    snapshot_abort(txn);
    assert_int_equal(snapshot_read_begin(s, &txn), OK);
    assert_int_equal(snapshot_count(txn, FIRST), 3);
    snapshot_read_end(txn);
    snapshot_close(s);
}

struct collected {
    char text[64];
    unsigned stop_after, count;
};

static bool collect(void *user, struct span key, struct span value)
{
    struct collected *c = user;
    (void)value;
    (void)snprintf(c->text + strlen(c->text), sizeof c->text - strlen(c->text), SPAN_FMT ",", SPAN_ARG(key));
    return ++c->count < c->stop_after;
}

static void each_keeps_to_prefix_and_start(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = open_store(f->dir, false);
    static const char *const keys[] = { "a", "n/1", "n/2", "n/3", "o" };
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
        assert_int_equal(put_number(s, keys[i], i), OK);
    static const struct {
        const char *prefix, *from, *expected;
        unsigned stop_after;
    } cases[] = {
        { "", "", "a,n/1,n/2,n/3,o,", 99 },
        { "n/", "", "n/1,n/2,n/3,", 99 },
        { "n/", "n/2", "n/2,n/3,", 99 },
        { "n/", "n/25", "n/3,", 99 },
        { "n/", "o", "", 99 },
        { "", "n/3", "n/3,o,", 99 },
        { "n/", "", "n/1,n/2,", 2 },
        { "z", "", "", 99 },
        { "n/", "a", "n/1,n/2,n/3,", 99 },
    };
    struct snapshot_txn *txn;
    assert_int_equal(snapshot_read_begin(s, &txn), OK);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct collected c = { .stop_after = cases[i].stop_after };
        assert_int_equal(snapshot_each(txn, FIRST, span_cstr(cases[i].prefix), span_cstr(cases[i].from), collect, &c),
                         OK);
        assert_string_equal(c.text, cases[i].expected);
    }
    snapshot_read_end(txn);
    snapshot_close(s);
}

static void numbers_sort_as_keys(void **state)
{
    (void)state;
    static const uint64_t numbers[] = { 0, 1, 255, 256, 0xFFFFFFFF, 1ull << 63, UINT64_MAX };
    char before[8], key[8];
    uint64_t back;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        snapshot_key_u64(numbers[i], key);
        assert_int_equal(snapshot_key_to_u64(span_of(key, 8), &back), OK);
        assert_true(back == numbers[i]);
        assert_true(i == 0 || span_cmp(span_of(before, 8), span_of(key, 8)) < 0);
        memcpy(before, key, sizeof key);
    }
    assert_int_equal(snapshot_key_to_u64(span_of(key, 7), &back), ERR_CORRUPT);
}

static void a_read_only_store_must_be_there(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = NULL;
    assert_int_equal(try_open("/tmp/fairlead-none-such", true, 0, &s), ERR_NOT_FOUND);
    assert_int_equal(try_open(f->dir, true, 0, &s), ERR_NOT_FOUND);
    int fd = open(f->data, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(try_open(f->dir, true, 0, &s), ERR_NOT_FOUND);
    snapshot_close(open_store(f->dir, false));
    s = open_store(f->dir, true);
    struct snapshot_txn *txn;
    assert_int_equal(snapshot_write_begin(s, &txn), ERR_DENIED);
    snapshot_close(s);
}

static void opening_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = open_store(f->dir, false);
    assert_int_equal(put_number(s, "n", 7), OK);
    uint64_t before, after;
    assert_int_equal(get_number(s, "n", &before), 7);
    snapshot_close(s);
    s = open_store(f->dir, false);
    assert_int_equal(get_number(s, "n", &after), 7);
    assert_true(before == after);
    snapshot_close(s);
}

static void descriptors_do_not_cross_exec(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = open_store(f->dir, false);
    DIR *dir = opendir("/proc/self/fd");
    unsigned seen = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char target[256];
        ssize_t len = readlinkat(dirfd(dir), entry->d_name, target, sizeof target);
        struct span name = span_of(target, len > 0 ? (size_t)len : 0);
        if (!span_starts(name, span_cstr(f->dir)))
            continue;
        uint64_t fd;
        assert_int_equal(span_to_u64(span_cstr(entry->d_name), &fd), OK);
        assert_true(fcntl((int)fd, F_GETFD) & FD_CLOEXEC);
        seen++;
    }
    (void)closedir(dir);
    assert_true(seen >= 2);
    snapshot_close(s);
}

static void a_failed_commit_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = open_store(f->dir, false);
    assert_int_equal(put_number(s, "n", 1), OK);
    fault_arm(FAULT_COMMIT, 0, 1);
    assert_int_equal(put_number(s, "n", 2), ERR_NOSPACE);
    fault_arm(FAULT_FSYNC, 0, 1);
    assert_int_equal(put_number(s, "n", 3), ERR_IO);
    assert_int_equal(get_number(s, "n", NULL), 1);
    assert_int_equal(put_number(s, "n", 4), OK);
    assert_int_equal(get_number(s, "n", NULL), 4);
    snapshot_close(s);
}

static void a_full_map_is_an_answer(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = NULL;
    assert_int_equal(try_open(f->dir, false, 256 << 10, &s), OK);
    assert_int_equal(put_number(s, "n", 1), OK);
    static char big[64 << 10];
    struct snapshot_txn *txn;
    enum err err = OK;
    unsigned i = 0;
    for (; i < 100 && !err; i++) {
        char key[8];
        snapshot_key_u64(i, key);
        assert_int_equal(snapshot_write_begin(s, &txn), OK);
        err = snapshot_put(txn, SECOND, span_of(key, 8), span_of(big, sizeof big));
        if (err) { /* going on is in vain: the commit says so again */
            assert_int_equal(snapshot_commit(txn), err);
        } else {
            err = snapshot_commit(txn);
        }
    }
    assert_int_equal(err, ERR_NOSPACE);
    assert_in_range(i, 2, 6);
    assert_true(snapshot_bytes_used(s) <= 256 << 10);
    assert_int_equal(get_number(s, "n", NULL), 1);
    assert_int_equal(snapshot_write_begin(s, &txn), OK);
    assert_int_equal(snapshot_drop_all(txn, SECOND), OK);
    assert_int_equal(snapshot_commit(txn), OK);
    /* A page given up is free one transaction later, when no reader can see it any more. */
    for (uint64_t n = 2; n < 200; n++)
        assert_int_equal(put_number(s, "n", n), OK);
    snapshot_close(s);
    assert_int_equal(try_open(f->dir, false, 256 << 10, &s), OK);
    assert_int_equal(get_number(s, "n", NULL), 199);
    snapshot_close(s);
}

static void a_copy_holds_the_same(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = open_store(f->dir, false);
    for (uint64_t n = 0; n < 100; n++) {
        char key[8];
        (void)snprintf(key, sizeof key, "k%u", (unsigned)n);
        assert_int_equal(put_number(s, key, n), OK);
    }
    char to[96];
    (void)snprintf(to, sizeof to, "%s/copy", f->dir);
    assert_int_equal(snapshot_copy(s, to), OK);
    assert_int_equal(snapshot_copy(s, to), ERR_EXISTS);
    snapshot_close(s);
    s = open_store(to, false);
    assert_int_equal(get_number(s, "k99", NULL), 99);
    assert_int_equal(put_number(s, "k99", 100), OK);
    snapshot_close(s);
    remove_store(to);
}

static void memory_that_runs_out_leaves_nothing_behind(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = open_store(f->dir, false);
    snapshot_close(s);
    for (uint64_t n = 0;; n++) {
        fault_arm(FAULT_ALLOC, n, 1);
        enum err err = try_open(f->dir, false, 0, &s);
        fault_disarm_all();
        if (!err)
            break;
        assert_int_equal(err, ERR_NOMEM);
        assert_true(n < 50);
    }
    snapshot_close(s);
}

/* -- several processes -- */

struct child {
    pid_t pid;
    FILE *from; /* its standard output */
    int to;     /* its standard input */
};

static struct child start(const char *role, const char *dir)
{
    int out[2], in[2];
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&actions, out[1], 1), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&actions, in[0], 0), 0);
    char *const args[] = { (char *)(uintptr_t) "snapshot_test", (char *)(uintptr_t)role, (char *)(uintptr_t)dir, NULL };
    struct child child = { .to = in[1] };
    assert_int_equal(posix_spawn(&child.pid, "/proc/self/exe", &actions, NULL, args, environ), 0);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)close(out[1]);
    (void)close(in[0]);
    child.from = fdopen(out[0], "r");
    return child;
}

static int finish(struct child *child)
{
    int status;
    (void)close(child->to);
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    (void)fclose(child->from);
    return status;
}

static void kill_child(struct child *child)
{
    assert_int_equal(kill(child->pid, SIGKILL), 0);
    (void)finish(child);
}

static bool next_number(struct child *child, uint64_t *ret)
{
    char line[32];
    if (!fgets(line, sizeof line, child->from) || !strchr(line, '\n'))
        return false;
    assert_int_equal(span_to_u64(span_of(line, strcspn(line, "\n")), ret), OK);
    return true;
}

static void say(uint64_t number)
{
    char line[32];
    int len = snprintf(line, sizeof line, "%llu\n", (unsigned long long)number);
    if (write(1, line, (size_t)len) != len)
        _exit(1);
}

/* Role: commits n, n+1, … and says each number once it is durable. A value of many pages and its number in two trees
 * tell whole from half. */
static int role_writer(const char *dir)
{
    struct snapshot *s;
    if (try_open(dir, false, 0, &s) != OK)
        return 1;
    static char big[40000];
    uint64_t n = get_number(s, "n", NULL);
    for (n = n == UINT64_MAX ? 1 : n + 1;; n++) {
        struct snapshot_txn *txn;
        char bytes[8];
        snapshot_key_u64(n, bytes);
        memset(big, (int)(n & 0xFF), sizeof big);
        if (snapshot_write_begin(s, &txn) != OK || snapshot_put(txn, FIRST, SPAN("n"), span_of(bytes, 8)) != OK ||
            snapshot_put(txn, SECOND, span_of(bytes, 8), span_of(big, (size_t)(n * 211 % sizeof big))) != OK ||
            snapshot_put(txn, SECOND, SPAN("big"), span_of(big, sizeof big)) != OK || snapshot_commit(txn) != OK)
            return 1;
        say(n);
    }
}

static void check_written(struct snapshot *s, uint64_t acknowledged, uint64_t *ret_last)
{
    struct snapshot_txn *txn;
    struct span value;
    uint64_t n = get_number(s, "n", NULL);
    if (n == UINT64_MAX)
        n = 0;
    assert_true(n >= acknowledged && n <= acknowledged + 1); /* the one in flight may or may not be there */
    assert_int_equal(snapshot_read_begin(s, &txn), OK);
    assert_int_equal(snapshot_count(txn, SECOND), n ? n + 1 : 0);
    for (uint64_t i = 1; i <= n; i++) {
        char key[8];
        snapshot_key_u64(i, key);
        assert_int_equal(snapshot_get(txn, SECOND, span_of(key, 8), &value), OK);
        assert_int_equal(value.len, i * 211 % 40000);
        for (size_t at = 0; at < value.len; at += 97)
            assert_int_equal((uint8_t)value.ptr[at], i & 0xFF);
    }
    if (n) {
        assert_int_equal(snapshot_get(txn, SECOND, SPAN("big"), &value), OK);
        assert_int_equal((uint8_t)value.ptr[39999], n & 0xFF);
    }
    snapshot_read_end(txn);
    *ret_last = n;
}

static void what_was_acknowledged_survives_kill(void **state)
{
    struct fixture *f = *state;
    struct prng prng;
    prng_seed(&prng, 20261122);
    uint64_t last = 0;
    for (unsigned round = 0; last < 200; round++) {
        assert_true(round < 200);
        struct child child = start("writer", f->dir);
        uint64_t acknowledged = last, wanted = last + prng_u64(&prng) % 20;
        while (acknowledged < wanted)
            assert_true(next_number(&child, &acknowledged));
        /* A busy wait of random length, so that the kill lands anywhere in a commit; not to order anything. */
        uint64_t until = clock_ns() + prng_u64(&prng) % 3000000;
        while (clock_ns() < until)
            ;
        assert_int_equal(kill(child.pid, SIGKILL), 0);
        while (next_number(&child, &acknowledged))
            ;
        (void)finish(&child);
        struct snapshot *s = open_store(f->dir, round & 1);
        check_written(s, acknowledged, &last);
        snapshot_close(s);
    }
}

/* Role: reads after each byte on standard input and says "txn id * 100000 + value". */
static int role_reader(const char *dir)
{
    struct snapshot *s;
    if (try_open(dir, true, 0, &s) != OK)
        return 1;
    for (char byte; read(0, &byte, 1) == 1;) {
        uint64_t txn_id, value = get_number(s, "n", &txn_id);
        if (value == UINT64_MAX)
            return 1;
        say(txn_id * 100000 + value);
    }
    snapshot_close(s);
    return 0;
}

/* Role: reads in a circle until its input is closed. Values and transaction numbers rise together, one by one, so a
 * value may be ahead of its number (see snapshot_txn_id), but never behind: that would be a commit that
 * nobody notices. */
static int role_watcher(const char *dir)
{
    struct snapshot *s;
    if (try_open(dir, true, 0, &s) != OK)
        return 1;
    (void)fcntl(0, F_SETFL, O_NONBLOCK);
    uint64_t last_txn, last_value = get_number(s, "n", &last_txn), changes = 0, ahead = 0;
    const uint64_t apart = last_txn - last_value;
    say(0);
    for (bool open = true; open;) { /* one more look after the writer's last commit */
        char byte;
        open = read(0, &byte, 1) < 0 && errno == EAGAIN;
        uint64_t txn_id, value = get_number(s, "n", &txn_id);
        if (txn_id < last_txn || value < last_value || value + apart < txn_id)
            return 2;
        ahead += value + apart != txn_id;
        changes += txn_id != last_txn;
        last_txn = txn_id;
        last_value = value;
    }
    say(last_value);
    say(last_txn - apart);
    say(changes);
    say(ahead);
    snapshot_close(s);
    return 0;
}

static void readers_miss_no_commit(void **state)
{
    (void)state;
    char dir[] = "/dev/shm/fairlead-snapshot-XXXXXX"; /* 10,000 fsyncs are not what is tested */
    assert_non_null(mkdtemp(dir));
    struct snapshot *s = open_store(dir, false);
    assert_int_equal(put_number(s, "n", 1), OK);
    struct child reader = start("reader", dir), watcher = start("watcher", dir);
    uint64_t said;
    assert_true(next_number(&watcher, &said));
    uint64_t last_txn = 0;
    for (uint64_t n = 2; n <= 10000; n++) {
        assert_int_equal(put_number(s, "n", n), OK);
        assert_int_equal(write(reader.to, "r", 1), 1);
        assert_true(next_number(&reader, &said));
        assert_int_equal(said % 100000, n);
        assert_true(said / 100000 > last_txn);
        last_txn = said / 100000;
    }
    assert_int_equal(finish(&reader), 0);
    (void)close(watcher.to);
    watcher.to = -1;
    assert_true(next_number(&watcher, &said));
    assert_int_equal(said, 10000);
    assert_true(next_number(&watcher, &said));
    assert_int_equal(said, 10000);
    assert_true(next_number(&watcher, &said));
    assert_true(said > 1);
    assert_true(next_number(&watcher, &said));
    print_message("reads ahead of their number: %u\n", (unsigned)said);
    assert_int_equal(finish(&watcher), 0);
    snapshot_close(s);
    remove_store(dir);
}

/* Role: begins a read, says so, and holds it until it is killed. */
static int role_holder(const char *dir)
{
    struct snapshot *s;
    struct snapshot_txn *txn;
    if (try_open(dir, true, 0, &s) != OK || snapshot_read_begin(s, &txn) != OK)
        return 1;
    say(snapshot_txn_id(txn));
    for (;;)
        (void)pause();
}

static void dead_readers_do_not_make_the_store_grow(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s = open_store(f->dir, false);
    assert_int_equal(put_number(s, "n", 0), OK);
    struct child holder = start("holder", f->dir);
    uint64_t said;
    assert_true(next_number(&holder, &said));
    for (uint64_t n = 1; n <= 100; n++)
        assert_int_equal(put_number(s, "n", n), OK);
    uint64_t held = snapshot_bytes_used(s);
    assert_int_equal(snapshot_check_readers(s), 0); /* it lives */
    kill_child(&holder);
    assert_int_equal(snapshot_check_readers(s), 1);
    assert_int_equal(snapshot_check_readers(s), 0);
    for (uint64_t n = 1; n <= 300; n++)
        assert_int_equal(put_number(s, "n", n), OK);
    assert_true(held > 100 * 4096);
    assert_true(snapshot_bytes_used(s) <= held + 8 * 4096);
    snapshot_close(s);
}

/* -- broken files -- */

/* A store of some hundred pages: branch pages, overflow pages, a free list. */
static struct buf make_store(const char *dir, const char *data)
{
    struct snapshot *s = open_store(dir, false);
    struct snapshot_txn *txn;
    static char value[9000];
    for (unsigned i = 0; i < 400; i++) {
        if (i % 40 == 0)
            assert_int_equal(snapshot_write_begin(s, &txn), OK);
        char key[40];
        int len = snprintf(key, sizeof key, "key %u of some length", i * 7919 % 400);
        assert_int_equal(snapshot_put(txn, i % 2, span_of(key, (size_t)len), span_of(value, i % 50 == 0 ? 9000 : 90)),
                         OK);
        if (i % 40 == 39)
            assert_int_equal(snapshot_commit(txn), OK);
    }
    snapshot_close(s);
    struct buf whole = BUF_INIT(16 << 20);
    assert_int_equal(file_read(data, 16 << 20, &whole), OK);
    assert_in_range(whole.len, 30 * 4096, 200 * 4096);
    return whole;
}

static void write_data(const char *data, struct span bytes)
{
    int fd = open(data, O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes.ptr, bytes.len), bytes.len);
    (void)close(fd);
}

static bool touch(void *user, struct span key, struct span value)
{
    uint64_t *sum = user;
    for (size_t i = 0; i < key.len; i++)
        *sum += (uint8_t)key.ptr[i];
    for (size_t i = 0; i < value.len; i++)
        *sum += (uint8_t)value.ptr[i];
    return true;
}

/* Opens, reads all, writes: whatever the file holds, an answer and no signal. */
static enum err use_store(const char *dir, bool read_only)
{
    struct snapshot *s;
    struct snapshot_txn *txn;
    enum err err = try_open(dir, read_only, 0, &s);
    if (err)
        return err;
    uint64_t sum = 0;
    assert_int_equal(snapshot_read_begin(s, &txn), OK);
    for (unsigned tree = 0; tree < ARRAY_LEN(trees) && !err; tree++)
        err = snapshot_each(txn, tree, SPAN(""), SPAN(""), touch, &sum);
    snapshot_read_end(txn);
    for (uint64_t n = 0; n < 10 && !err && !read_only; n++)
        err = put_number(s, "key 3 of some length", n);
    snapshot_close(s);
    return err;
}

static void a_truncated_file_is_corrupt(void **state)
{
    struct fixture *f = *state;
    struct buf whole = make_store(f->dir, f->data);
    struct span bytes = buf_span(&whole);
    unsigned refused = 0, kept = 0;
    for (size_t len = 0; len < bytes.len; len += 512) {
        write_data(f->data, span_head(bytes, len));
        enum err read = use_store(f->dir, true);
        write_data(f->data, span_head(bytes, len));
        enum err written = use_store(f->dir, false);
        if (len == 0) {
            assert_int_equal(read, ERR_NOT_FOUND);
            assert_int_equal(written, OK); /* begun anew */
            continue;
        }
        assert_int_equal(read, written);
        assert_true(read == OK || read == ERR_CORRUPT);
        *(read ? &refused : &kept) += 1;
    }
    /* Free pages at the end may be missing. Nothing else may. */
    assert_true(kept < refused / 4);
    buf_release(&whole);
}

static void garbage_is_refused_or_harmless(void **state)
{
    struct fixture *f = *state;
    struct buf whole = make_store(f->dir, f->data);
    struct span bytes = buf_span(&whole);
    char *copy = malloc(bytes.len);
    struct prng prng;
    unsigned refused = 0, rounds = 0;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        prng_seed(&prng, seed);
        for (size_t at = 0; at < bytes.len; at += 512) {
            memcpy(copy, bytes.ptr, bytes.len);
            /* a whole sector, sixteen bytes of it, one byte */
            size_t n = seed == 1 ? 512 : seed == 2 ? 16 : 1, skip = prng_u64(&prng) % (512 - n + 1);
            for (size_t i = 0; i < n; i++)
                copy[at + skip + i] = (char)(prng_u64(&prng) & 0xFF);
            write_data(f->data, span_of(copy, bytes.len));
            enum err err = use_store(f->dir, rounds++ & 1);
            assert_true(err == OK || err == ERR_CORRUPT || err == ERR_UNSUPPORTED || err == ERR_NOT_FOUND);
            refused += err != OK;
        }
    }
    assert_true(refused > rounds / 20);
    free(copy);
    buf_release(&whole);
}

/* Every 16-bit word of the meta pages' and of each page's beginning, where the structure is. */
static void garbled_headers_are_refused_or_harmless(void **state)
{
    struct fixture *f = *state;
    struct buf whole = make_store(f->dir, f->data);
    struct span bytes = buf_span(&whole);
    char *copy = malloc(bytes.len);
    static const uint8_t patterns[][2] = { { 0, 0 }, { 0xFF, 0xFF }, { 1, 0 }, { 0, 0x80 } };
    for (size_t page = 0; page < bytes.len; page += page < 8192 ? 4096 : 5 * 4096) {
        for (size_t at = page; at < page + (page < 8192 ? 152 : 40); at += 2) {
            for (size_t p = page < 8192 ? 0 : at / 2 % 4; p < 4; p += page < 8192 ? 1 : 4) {
                memcpy(copy, bytes.ptr, bytes.len);
                memcpy(copy + at, patterns[p], 2);
                write_data(f->data, span_of(copy, bytes.len));
                enum err err = use_store(f->dir, false);
                assert_true(err == OK || err == ERR_CORRUPT || err == ERR_UNSUPPORTED || err == ERR_NOT_FOUND);
            }
        }
    }
    free(copy);
    buf_release(&whole);
}

static void another_format_is_unsupported(void **state)
{
    struct fixture *f = *state;
    struct buf whole = make_store(f->dir, f->data);
    char *bytes = whole.data + whole.start;
    bytes[20] = bytes[4096 + 20] = 2; /* MDB_meta's version, behind the page header and the magic */
    write_data(f->data, buf_span(&whole));
    assert_int_equal(use_store(f->dir, false), ERR_UNSUPPORTED);
    bytes[20] = bytes[4096 + 20] = 1;
    bytes[16] ^= 1;
    write_data(f->data, buf_span(&whole));
    assert_int_equal(use_store(f->dir, false), ERR_CORRUPT);
    buf_release(&whole);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const char *dir);
    } roles[] = {
        { "writer", role_writer }, { "reader", role_reader }, { "watcher", role_watcher }, { "holder", role_holder }
    };
    for (size_t i = 0; argc == 3 && i < ARRAY_LEN(roles); i++) {
        if (strcmp(argv[1], roles[i].name) == 0)
            return roles[i].run(argv[2]);
    }
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(entries_come_back_in_order),
        TEST(each_keeps_to_prefix_and_start),
        TEST(numbers_sort_as_keys),
        TEST(a_read_only_store_must_be_there),
        TEST(opening_changes_nothing),
        TEST(descriptors_do_not_cross_exec),
        TEST(a_failed_commit_changes_nothing),
        TEST(a_full_map_is_an_answer),
        TEST(a_copy_holds_the_same),
        TEST(memory_that_runs_out_leaves_nothing_behind),
        TEST(what_was_acknowledged_survives_kill),
        TEST(readers_miss_no_commit),
        TEST(dead_readers_do_not_make_the_store_grow),
        TEST(a_truncated_file_is_corrupt),
        TEST(garbage_is_refused_or_harmless),
        TEST(garbled_headers_are_refused_or_harmless),
        TEST(another_format_is_unsupported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
