#include "proto/board.h"
#include "common/digest.h"
#include "common/fault.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define REGIONS 3

struct fixture {
    char path[64];
    struct board *board;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->path, sizeof f->path, "/dev/shm/fairlead-board-XXXXXX");
    int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(board_create(f->path, REGIONS, &f->board), OK); /* an empty file is nobody's board */
    for (unsigned i = 0; i < REGIONS; i++) {
        unsigned number;
        assert_int_equal(board_region_take(f->board, &number), OK);
        assert_int_equal(number, i);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fault_disarm_all();
    board_close(f->board);
    (void)unlink(f->path);
    free(f);
    return 0;
}

static uint64_t read_counter(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void overwrite(const char *path, off_t at, const void *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, len, at), len);
    (void)close(fd);
}

/* -- mapping -- */

static void two_mappings_see_one_board(void **state)
{
    struct fixture *f = *state;
    struct board *worker = NULL;
    assert_int_equal(board_attach(f->path, &worker), OK);
    assert_int_equal(board_regions(worker), REGIONS);
    board_set_committed(f->board, 4812);
    assert_int_equal(board_committed(worker), 4812);
    struct board_region *region = board_region(worker, 2);
    board_add(&region->counters[WORKER_BAD_REQUESTS], 5);
    assert_int_equal(read_counter(&board_region(f->board, 2)->counters[WORKER_BAD_REQUESTS]), 5);
    assert_int_equal(read_counter(&board_region(f->board, 1)->counters[WORKER_BAD_REQUESTS]), 0);
    atomic_store(&board_model(worker, 7)->breaker, 99);
    assert_int_equal(atomic_load(&board_model(f->board, 7)->breaker), 99);
    assert_ptr_equal(board_model(worker, MODELS_MAX), board_model(worker, 0));
    struct board *onlooker = NULL;
    assert_int_equal(chmod(f->path, 0400), 0);
    assert_int_equal(board_look(f->path, &onlooker), OK);
    assert_int_equal(chmod(f->path, 0600), 0);
    assert_int_equal(atomic_load(&board_model(onlooker, 7)->breaker), 99);
    assert_int_equal(board_committed(onlooker), 4812);
    board_close(onlooker);
    board_close(worker);
}

static void only_ours_is_attached(void **state)
{
    struct fixture *f = *state;
    struct board *board = NULL;
    assert_int_equal(board_attach("/dev/shm/fairlead-none-such", &board), ERR_NOT_FOUND);
    char bytes[24], boot[36];
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(pread(fd, boot, sizeof boot, sizeof bytes), sizeof boot);
    (void)close(fd);
    for (size_t at = 0; at < sizeof bytes; at++) {
        char wrong = (char)(bytes[at] ^ 0x55);
        overwrite(f->path, (off_t)at, &wrong, 1);
        enum err expected = at < 8 || at >= 20 ? ERR_CORRUPT : ERR_UNSUPPORTED;
        assert_int_equal(board_attach(f->path, &board), expected);
        overwrite(f->path, (off_t)at, &bytes[at], 1);
    }
    overwrite(f->path, sizeof bytes, "00000000-0000-0000-0000-000000000000", 36);
    assert_int_equal(board_attach(f->path, &board), ERR_UNSUPPORTED);
    overwrite(f->path, sizeof bytes, boot, sizeof boot);
    struct stat status;
    assert_int_equal(stat(f->path, &status), 0);
    assert_int_equal(truncate(f->path, status.st_size - 4096), 0);
    assert_int_equal(board_attach(f->path, &board), ERR_CORRUPT);
    assert_int_equal(truncate(f->path, 10), 0);
    assert_int_equal(board_attach(f->path, &board), ERR_CORRUPT);
    assert_null(board);
}

static void keys_of_tickets_come_and_go(void **state)
{
    struct fixture *f = *state;
    struct board_ticket_key keys[BOARD_TICKET_KEYS + 3], got;
    struct board *worker, *next;
    assert_int_equal(board_attach(f->path, &worker), OK);
    assert_false(board_ticket_key(worker, 0, &got));
    uint64_t at_ms = 1000;
    for (unsigned made = 0; made < ARRAY_LEN(keys); made++, at_ms += BOARD_TICKET_MS) {
        board_tickets_renew(f->board, at_ms);
        board_tickets_renew(f->board, at_ms + BOARD_TICKET_MS - 1); /* not yet */
        assert_true(board_ticket_key(worker, 0, &keys[made]));
        for (unsigned age = 0; age < BOARD_TICKET_KEYS; age++) {
            assert_int_equal(board_ticket_key(worker, age, &got), age <= made);
            if (age <= made)
                assert_memory_equal(&got, &keys[made - age], sizeof got);
        }
        assert_false(board_ticket_key(worker, BOARD_TICKET_KEYS, &got));
        if (made > 0)
            assert_memory_not_equal(&keys[made], &keys[made - 1], sizeof got);
    }
    assert_int_equal(board_create(f->path, REGIONS, &next), OK); /* a new master has the same */
    board_tickets_renew(next, at_ms - 1);
    assert_true(board_ticket_key(next, 0, &got));
    assert_memory_equal(&got, &keys[ARRAY_LEN(keys) - 1], sizeof got);
    board_close(next);
    board_close(worker);
}

static void a_new_master_takes_the_board_over(void **state)
{
    struct fixture *f = *state;
    uint32_t id = board_label_add(f->board, BOARD_LABEL_TEAM, SPAN("research"));
    board_add(&board_region(f->board, 0)->counters[WORKER_LOOP_TURNS], 3);
    board_set_committed(f->board, 12);
    struct board *again = NULL;
    assert_int_equal(board_create(f->path, REGIONS - 1, &again), OK);
    assert_int_equal(board_regions(again), REGIONS);
    assert_int_equal(board_committed(again), 12);
    assert_int_equal(board_label_find(again, BOARD_LABEL_TEAM, SPAN("research")), id);
    board_close(again);

    assert_int_equal(board_create(f->path, REGIONS + 2, &again), OK);
    assert_int_equal(board_regions(again), REGIONS + 2);
    assert_int_equal(board_regions(f->board), REGIONS);
    assert_int_equal(read_counter(&board_region(again, 0)->counters[WORKER_LOOP_TURNS]), 3);
    board_add(&board_region(again, REGIONS + 1)->counters[WORKER_LOOP_TURNS], 1);
    board_close(again);
    assert_int_equal(board_attach(f->path, &again), OK);
    assert_int_equal(board_regions(again), REGIONS + 2);
    board_close(again);
}

static void another_boots_board_is_replaced(void **state)
{
    struct fixture *f = *state;
    board_set_committed(f->board, 12);
    overwrite(f->path, 24, "00000000-0000-0000-0000-000000000000", 36);
    struct board *fresh = NULL;
    assert_int_equal(board_create(f->path, REGIONS, &fresh), OK);
    assert_int_equal(board_committed(fresh), 0);
    assert_int_equal(board_committed(f->board), 12); /* who has the old one mapped keeps it */
    board_close(fresh);
}

static void a_disk_is_no_place_for_a_board(void **state)
{
    (void)state;
    struct board *board = NULL;
    char dir[] = "/var/tmp/fairlead-board-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char path[64];
    (void)snprintf(path, sizeof path, "%s/board", dir);
    enum err err = board_create(path, 1, &board);
    if (err == OK) { /* a machine where even this is tmpfs */
        board_close(board);
        (void)unlink(path);
    } else {
        assert_int_equal(err, ERR_INVALID);
        assert_int_equal(access(path, F_OK), -1);
    }
    assert_int_equal(rmdir(dir), 0); /* nothing is left beside it */
    assert_int_equal(board_create("/dev/shm/fairlead-none-such/board", 1, &board), ERR_IO);
}

static void no_memory_is_an_answer(void **state)
{
    struct fixture *f = *state;
    struct board *board = NULL;
    (void)unlink(f->path);
    for (uint64_t n = 0;; n++) {
        fault_arm(FAULT_ALLOC, n, 1);
        enum err err = board_create(f->path, 1, &board);
        fault_disarm_all();
        if (!err)
            break;
        assert_int_equal(err, ERR_NOMEM);
        assert_int_equal(access(f->path, F_OK), -1);
        assert_true(n < 20);
    }
    board_close(board);
}

/* -- labels -- */

static void labels_have_one_id_each_by_kind(void **state)
{
    struct fixture *f = *state;
    struct board *worker = NULL;
    assert_int_equal(board_attach(f->path, &worker), OK);
    uint32_t chat = board_label_add(f->board, BOARD_LABEL_ROUTE, SPAN("chat"));
    uint32_t bulk = board_label_add(f->board, BOARD_LABEL_ROUTE, SPAN("bulk"));
    assert_true(chat != BOARD_OTHER && bulk != BOARD_OTHER && chat != bulk);
    assert_int_equal(board_label_add(f->board, BOARD_LABEL_ROUTE, SPAN("chat")), chat);
    assert_int_equal(board_label_find(worker, BOARD_LABEL_ROUTE, SPAN("bulk")), bulk);
    assert_int_equal(board_label_find(worker, BOARD_LABEL_TEAM, SPAN("bulk")), BOARD_OTHER);
    assert_int_equal(board_label_find(worker, BOARD_LABEL_ROUTE, SPAN("bul")), BOARD_OTHER);
    assert_true(span_eq(board_label_name(worker, BOARD_LABEL_ROUTE, bulk), SPAN("bulk")));
    assert_true(span_eq(board_label_name(worker, BOARD_LABEL_ROUTE, BOARD_OTHER), SPAN("other")));
    assert_true(span_eq(board_label_name(worker, BOARD_LABEL_ROUTE, 12345678), SPAN("other")));
    assert_int_equal(board_label_count(worker, BOARD_LABEL_ROUTE), 3);
    static char longest[2 * NAME_BYTES_MAX + 2];
    memset(longest, 'x', sizeof longest);
    assert_int_equal(board_label_add(f->board, BOARD_LABEL_MODEL, span_of(longest, sizeof longest)), BOARD_OTHER);
    assert_int_equal(board_label_add(f->board, BOARD_LABEL_MODEL, SPAN("")), BOARD_OTHER);
    assert_int_not_equal(board_label_add(f->board, BOARD_LABEL_MODEL, span_of(longest, sizeof longest - 1)),
                         BOARD_OTHER);
    board_close(worker);
}

static void beyond_the_cap_is_other(void **state)
{
    struct fixture *f = *state;
    char name[32];
    for (uint32_t i = 1; i < BOARD_LABELS_MAX + 100; i++) {
        (void)snprintf(name, sizeof name, "team-%u", i);
        uint32_t id = board_label_add(f->board, BOARD_LABEL_TEAM, span_cstr(name));
        assert_int_equal(id, i < BOARD_LABELS_MAX ? i : BOARD_OTHER);
    }
    assert_int_equal(board_label_count(f->board, BOARD_LABEL_TEAM), BOARD_LABELS_MAX);
    for (uint32_t i = 1; i < BOARD_LABELS_MAX; i++) {
        (void)snprintf(name, sizeof name, "team-%u", i);
        assert_int_equal(board_label_find(f->board, BOARD_LABEL_TEAM, span_cstr(name)), i);
    }
    struct board *again = NULL;
    assert_int_equal(board_create(f->path, REGIONS, &again), OK);
    assert_int_equal(board_label_find(again, BOARD_LABEL_TEAM, SPAN("team-77")), 77);
    board_close(again);
}

/* -- series and histograms -- */

static void series_are_found_again(void **state)
{
    struct fixture *f = *state;
    struct board_region *region = board_region(f->board, 1);
    struct board_series *others = board_series(region, 0, 0, 0);
    struct board_series *a = board_series(region, 1, 2, 3), *b = board_series(region, 3, 2, 1);
    assert_ptr_equal(others, &region->series[0]);
    assert_true(a != b && a != others && b != others);
    assert_ptr_equal(board_series(region, 1, 2, 3), a);
    uint32_t team, route, model;
    board_series_key(read_counter(&a->key), &team, &route, &model);
    assert_true(team == 1 && route == 2 && model == 3);
    struct board_series *most = board_series(region, BOARD_LABELS_MAX - 1, BOARD_LABELS_MAX - 1, BOARD_LABELS_MAX - 1);
    board_series_key(read_counter(&most->key), &team, &route, &model);
    assert_true(team == BOARD_LABELS_MAX - 1 && route == team && model == team);
}

static void series_beyond_the_cap_are_other(void **state)
{
    struct fixture *f = *state;
    struct board_region *region = board_region(f->board, 0);
    for (uint32_t i = 1; i < BOARD_SERIES_MAX + 50; i++) {
        struct board_series *series = board_series(region, i % 7, i, i % 11);
        assert_ptr_equal(series, &region->series[i < BOARD_SERIES_MAX ? i : 0]);
        board_add(&series->counters[SERIES_REQUESTS], 1);
    }
    assert_int_equal(read_counter(&region->series[0].counters[SERIES_REQUESTS]), 50);
    for (uint32_t i = 1; i < BOARD_SERIES_MAX; i++)
        assert_ptr_equal(board_series(region, i % 7, i, i % 11), &region->series[i]);
}

static void histograms_add_up(void **state)
{
    struct fixture *f = *state;
    struct board_hist *shared = &board_region(f->board, 0)->overhead_us;
    struct hist plain = { 0 }, read = { 0 };
    struct prng prng;
    prng_seed(&prng, 1);
    for (unsigned i = 0; i < 10000; i++) {
        uint64_t value = prng_u64(&prng) >> (prng_u64(&prng) % 60);
        value >>= 20; /* sums stay in range */
        board_hist_add(shared, value);
        hist_add(&plain, value);
    }
    board_hist_read(shared, &read);
    assert_memory_equal(&read, &plain, sizeof plain);
    board_hist_read(shared, &read);
    assert_int_equal(read.count, 20000);
}

static void a_freed_region_is_as_new(void **state)
{
    struct fixture *f = *state;
    struct board_region *region = board_region(f->board, 1), *neighbour = board_region(f->board, 2);
    board_add(&neighbour->counters[WORKER_LOOP_TURNS], 1);
    for (uint32_t i = 0; i < 100; i++) {
        struct board_series *series = board_series(region, i, i, i);
        board_add(&series->counters[SERIES_OK], 1);
        board_hist_add(&series->ttft_us, i);
    }
    board_hist_add(&region->overhead_us, 5);
    board_set_serving(region, 1, 2, 3, 4);
    atomic_store(&region->pid, 123);
    atomic_store(&region->inflight[5], 2);
    atomic_store(&board_region(f->board, 0)->inflight[5], 3);
    assert_int_equal(board_inflight(f->board, 5), 5);
    assert_int_equal(board_record_put(region, SPAN("{}")), OK);
    board_region_free(f->board, 1);
    assert_int_equal(board_inflight(f->board, 5), 3);
    struct buf out = BUF_INIT(100);
    assert_int_equal(board_record_take(region, &out), 0);
    const char *bytes = (const char *)region;
    for (size_t i = 0; i < offsetof(struct board_region, records); i++)
        assert_int_equal(bytes[i], 0);
    assert_int_equal(read_counter(&neighbour->counters[WORKER_LOOP_TURNS]), 1);
    assert_ptr_equal(board_series(region, 9, 9, 9), &region->series[1]);
    buf_release(&out);
}

static void regions_are_given_out(void **state)
{
    struct fixture *f = *state;
    unsigned number = 77;
    assert_int_equal(board_region_take(f->board, &number), ERR_TOO_MANY);
    assert_int_equal(number, 77);
    board_region_free(f->board, 1);
    assert_false(board_region_taken(f->board, 1));
    assert_true(board_region_taken(f->board, 0) && board_region_taken(f->board, 2));
    struct board *next = NULL; /* a master that follows knows whose they are */
    assert_int_equal(board_create(f->path, REGIONS, &next), OK);
    assert_true(!board_region_taken(next, 1) && board_region_taken(next, 2));
    assert_int_equal(board_region_take(next, &number), OK);
    assert_int_equal(number, 1);
    assert_true(board_region_taken(f->board, 1));
    board_close(next);
    assert_int_equal(board_create(f->path, NODE_REGIONS_MAX, &next), OK);
    for (unsigned i = REGIONS; i < NODE_REGIONS_MAX; i++) {
        assert_int_equal(board_region_take(next, &number), OK);
        assert_int_equal(number, i);
        atomic_store(&board_region(next, i)->inflight[3], 1);
        if (i > REGIONS + 20) /* the others are held: bits of every word */
            board_region_free(next, i);
        if (i > REGIONS + 20)
            assert_int_equal(board_region_take(next, &number), OK);
    }
    assert_int_equal(board_region_take(next, &number), ERR_TOO_MANY);
    assert_int_equal(board_inflight(next, 3), 21);
    assert_int_equal(board_inflight(f->board, 3), 0); /* mapped before it grew */
    board_close(next);
}

/* What ended workers left is still there for the next master, and for the one after. */
static void what_ended_is_kept(void **state)
{
    struct fixture *f = *state;
    struct board *next = NULL;
    for (unsigned round = 1; round <= 2; round++) {
        struct board_region *region = board_region(f->board, round);
        struct board_series *series = board_series(region, 1, 2, 3);
        board_add(&region->counters[WORKER_BAD_REQUESTS], round);
        board_add(&region->counters[WORKER_REQUESTS_OPEN], 7);
        board_hist_add(&region->overhead_us, 40);
        board_add(&series->counters[SERIES_COST_NANO], 100 * round);
        board_hist_add(&series->ttft_us, 1000);
        board_fold(f->board, region);
        board_region_free(f->board, round);
        assert_int_equal(board_create(f->path, REGIONS + round, &next), OK);
        board_close(f->board);
        f->board = next;
    }
    struct board_region *ended = board_ended(f->board);
    struct hist ttft = { .count = 0 };
    assert_int_equal(read_counter(&ended->counters[WORKER_BAD_REQUESTS]), 3);
    assert_int_equal(read_counter(&ended->counters[WORKER_REQUESTS_OPEN]), 0);
    assert_int_equal(read_counter(&ended->overhead_us.count), 2);
    assert_int_equal(read_counter(&board_series(ended, 1, 2, 3)->counters[SERIES_COST_NANO]), 300);
    board_hist_read(&board_series(ended, 1, 2, 3)->ttft_us, &ttft);
    assert_int_equal(ttft.count, 2);
    assert_int_equal(ttft.sum, 2000);
}

static struct board_arm *arm(struct board_region *region, uint32_t version, const char *name, bool shadow)
{
    return board_arm(region, &(struct board_arm_id){ .version = version, .shadow = shadow, .name = span_cstr(name) });
}

static void arms_are_counted_apart(void **state)
{
    struct fixture *f = *state;
    struct board *board = f->board;
    char name[BOARD_ARM_NAME_BYTES], long_name[BOARD_ARM_NAME_BYTES + 2];
    struct board_arm_id id;
    struct board_region *region = board_region(board, 0);
    assert_false(board_arm_read(&region->arms[1], name, &id));
    struct board_arm *stable = arm(region, 17, "stable", false);
    assert_ptr_not_equal(arm(region, 17, "canary", false), stable);
    assert_ptr_not_equal(arm(region, 18, "stable", false), stable);
    assert_ptr_not_equal(arm(region, 17, "stable", true), stable);
    assert_ptr_equal(arm(region, 17, "stable", false), stable);
    assert_true(board_arm_read(stable, name, &id));
    assert_true(id.version == 17 && !id.shadow && span_eq(id.name, SPAN("stable")));
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    assert_true(board_arm_read(arm(region, 1, long_name, true), name, &id));
    assert_true(id.shadow && id.name.len == BOARD_ARM_NAME_BYTES);

    /* What is used stays; of the others the one that rested longest makes room, and what it counted is kept. */
    for (uint32_t version = 100; version < 100 + 3 * BOARD_ARMS_MAX; version++) {
        board_add(&arm(region, version, "stable", false)->counters[ARM_OK], 1);
        board_add(&arm(region, 17, "stable", false)->counters[ARM_OK], 1);
        board_hist_add(&arm(region, version, "stable", false)->ttft_us, 1000);
    }
    assert_ptr_equal(arm(region, 17, "stable", false), stable);
    struct board_region *const both[] = { region, board_ended(board) };
    for (size_t b = 0; b < 2; b++) {
        if (b == 1)
            board_fold(board, region); /* and again, in the accumulators */
        uint64_t sum = 0, mine = 0, timed = 0;
        for (unsigned i = 0; i < BOARD_ARMS_MAX; i++) {
            const struct board_arm *at = &both[b]->arms[i];
            if (!board_arm_read(at, name, &id))
                continue;
            sum += atomic_load(&at->counters[ARM_OK]);
            timed += atomic_load(&at->ttft_us.count);
            if (id.version == 17 && !id.shadow && span_eq(id.name, SPAN("stable")))
                mine += atomic_load(&at->counters[ARM_OK]);
            assert_int_equal(id.version == 0, i == 0);
        }
        assert_int_equal(sum, 2 * 3 * BOARD_ARMS_MAX);
        assert_int_equal(timed, 3 * BOARD_ARMS_MAX);
        assert_int_equal(mine, 3 * BOARD_ARMS_MAX);
    }
}

/* ---- killed while folding ---- */

#define FILLED_MAX 2048

static void fill(struct board_region *region)
{
    for (unsigned i = 0; i < WORKER_COUNTERS; i++)
        board_add(&region->counters[i], 1 + i);
    for (uint32_t i = 1; i <= 3; i++) {
        struct board_series *series = board_series(region, i, i, i);
        for (unsigned k = 0; k < SERIES_COUNTERS; k++)
            board_add(&series->counters[k], 10 * i + k);
        struct board_arm *counted = arm(region, i, "stable", false);
        board_add(&counted->counters[ARM_OK], i);
        for (uint64_t us = 1; us < 1000000; us *= 3) {
            board_hist_add(&series->ttft_us, us);
            board_hist_add(&series->duration_us, 2 * us);
            board_hist_add(&counted->ttft_us, us);
            board_hist_add(&region->overhead_us, us);
        }
    }
}

static void list_hist(const struct board_hist *hist, uint64_t *words, size_t *count)
{
    words[(*count)++] = atomic_load(&hist->count);
    words[(*count)++] = atomic_load(&hist->sum);
    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        words[*count] += atomic_load(&hist->buckets[i]) * (i + 1);
    (*count)++;
}

/* All that fill counts, in a fixed order; the buckets of a histogram as one. */
static size_t list(struct board_region *region, uint64_t words[FILLED_MAX])
{
    size_t count = 0;
    memset(words, 0, FILLED_MAX * sizeof *words);
    for (unsigned i = 0; i < WORKER_COUNTERS; i++)
        words[count++] = worker_counter_is_gauge((enum worker_counter)i) ? 0 : atomic_load(&region->counters[i]);
    list_hist(&region->overhead_us, words, &count);
    for (uint32_t i = 1; i <= 3; i++) {
        struct board_series *series = board_series(region, i, i, i);
        for (unsigned k = 0; k < SERIES_COUNTERS; k++)
            words[count++] = atomic_load(&series->counters[k]);
        list_hist(&series->ttft_us, words, &count);
        list_hist(&series->duration_us, words, &count);
        words[count++] = atomic_load(&arm(region, i, "stable", false)->counters[ARM_OK]);
        list_hist(&arm(region, i, "stable", false)->ttft_us, words, &count);
    }
    assert_true(count <= FILLED_MAX);
    return count;
}

static void die_here(int number)
{
    (void)number;
    _exit(9);
}

/* A process that dies as it writes to the page of `at`: something has been taken out and not been added. */
static void fold_and_die(struct board *board, struct board_region *region, void *at)
{
    int status = 0;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        void *start = (char *)at - (uintptr_t)at % page;
        if (signal(SIGSEGV, die_here) == SIG_ERR || mprotect(start, page, PROT_READ) != 0)
            _exit(8);
        board_fold(board, region);
        _exit(7);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 9);
}

static void a_killed_fold_counts_nothing_twice(void **state)
{
    static uint64_t whole[FILLED_MAX], left[FILLED_MAX], now[FILLED_MAX];
    struct fixture *f = *state;
    struct board *board = f->board;
    struct board_region *region = board_region(board, 1), *ended = board_ended(board);
    fill(region);
    const size_t count = list(region, whole);
    board_fold(board, region); /* so that all names are there */
    assert_int_equal(list(ended, now), count);
    assert_memory_equal(now, whole, count * sizeof *now);
    assert_int_equal(list(region, left), count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(left[i], 0); /* a second fold has nothing left to count */
    void *const places[] = { &ended->counters[WORKER_BAD_REQUESTS],
                             &ended->overhead_us.buckets[HIST_BUCKETS / 2],
                             &arm(ended, 2, "stable", false)->counters[ARM_OK],
                             &arm(ended, 3, "stable", false)->ttft_us.count,
                             &board_series(ended, 1, 1, 1)->counters[0],
                             &board_series(ended, 2, 2, 2)->ttft_us.sum,
                             &board_series(ended, 3, 3, 3)->duration_us.count };
    size_t lost = 0;
    for (size_t p = 0; p < ARRAY_LEN(places); p++) {
        unsigned less = 0;
        static uint64_t before[FILLED_MAX];
        list(ended, before);
        fill(region);
        fold_and_die(board, region, places[p]);
        board_fold(board, region); /* the next master */
        list(ended, now);
        for (size_t i = 0; i < count; i++) {
            assert_true(now[i] <= before[i] + whole[i]);
            less += now[i] < before[i] + whole[i];
        }
        assert_true(less <= 1);
        lost += less;
    }
    assert_true(lost >= ARRAY_LEN(places) / 2); /* some died at a name, with nothing in hand */
}

static void budgets_are_kept_to(void **state)
{
    struct fixture *f = *state;
    struct board *board = f->board, *other;
    assert_int_equal(board_attach(f->path, &other), OK);
    const struct span ids[] = { SPAN("shadow-1"), SPAN("shadow-2") };
    assert_false(board_budget_take(board, ids[0], 0, 100)); /* nobody gave it one */
    board_budgets_keep(board, ids, 2);
    assert_true(board_budget_take(board, ids[0], 60, 100));
    assert_false(board_budget_take(other, ids[0], 41, 100));
    assert_true(board_budget_take(other, ids[0], 40, 100));
    assert_false(board_budget_take(board, ids[0], 1, 100));
    assert_true(board_budget_take(board, ids[0], 0, 100)); /* what costs nothing needs nothing */
    assert_false(board_budget_take(board, ids[1], INT64_MAX, 100));
    assert_false(board_budget_take(board, ids[1], -1, 100));
    board_budget_correct(other, ids[0], -30);
    assert_int_equal(board_budget_spent(board, ids[0]), 70);
    board_budgets_keep(board, ids, 2); /* a new head with the same shadows */
    assert_int_equal(board_budget_spent(board, ids[0]), 70);
    board_budgets_keep(board, &ids[1], 1);
    assert_int_equal(board_budget_spent(board, ids[0]), 0);
    assert_false(board_budget_take(board, ids[0], 1, 100));
    board_budget_correct(board, ids[0], 5); /* of one that is gone: to nobody */
    for (unsigned round = 0; round < 3 * BOARD_BUDGETS_MAX; round++) {
        char text[16];
        snprintf(text, sizeof text, "s-%u", round);
        const struct span id = span_cstr(text);
        board_budgets_keep(board, &id, 1);
        assert_true(board_budget_take(other, id, 100, 100));
    }
    board_close(other);
}

static void the_earliest_certificate_counts(void **state)
{
    struct fixture *f = *state;
    struct board_model *model = board_model(f->board, 5);
    const struct {
        int64_t expires_at_ms;
        uint64_t now_ms;
        int64_t kept;
    } steps[] = {
        { 9000, 100, 9000 },
        { 9500, 200, 9000 }, /* another server of theirs */
        { 8000, 300, 8000 },
        { 8000, 400, 8000 },
        { 9500, 400 + BOARD_CERTIFICATE_MS, 8000 },
        { 9500, 401 + BOARD_CERTIFICATE_MS, 9500 }, /* the other one has not been seen for long: renewed */
        { 9600, 300, 9500 },                        /* a worker whose clock is a little behind */
    };
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        board_certificate_seen(model, steps[i].expires_at_ms, steps[i].now_ms);
        assert_int_equal(atomic_load(&model->certificate_expires_at_ms), steps[i].kept);
    }
}

/* A master that was killed while it made a board left its file. */
static void nothing_is_left_beside_it(void **state)
{
    struct fixture *f = *state;
    struct board *fresh = NULL;
    char beside[80];
    (void)snprintf(beside, sizeof beside, "%s.new", f->path);
    int fd = open(beside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    overwrite(f->path, 0, "garbage!", 8);
    assert_int_equal(board_create(f->path, REGIONS, &fresh), OK);
    board_close(fresh);
    assert_int_equal(access(beside, F_OK), -1);
}

static void an_unused_board_costs_little(void **state)
{
    struct fixture *f = *state;
    struct stat before, after;
    assert_int_equal(stat(f->path, &before), 0);
    struct board_region *region = board_region(f->board, 0);
    for (uint32_t i = 1; i < 20; i++)
        board_add(&board_series(region, 1, 1, i)->counters[SERIES_OK], 1);
    assert_int_equal(stat(f->path, &after), 0);
    assert_true((after.st_blocks - before.st_blocks) * 512 < 1 << 20);
    for (unsigned i = 0; i < REGIONS; i++)
        board_region_free(f->board, i);
    assert_int_equal(stat(f->path, &after), 0);
    assert_true(after.st_blocks * 512 < before.st_blocks * 512 - 2 * (blkcnt_t)BOARD_RECORD_RING_BYTES);
    assert_true(after.st_blocks * 512 < after.st_size / 4);
}

/* -- several threads: each worker its region, one reader over all; run under TSan too -- */

struct crew {
    struct board *board;
    unsigned slot;
    atomic_bool stop;
    atomic_uint lines;
};

#define ROUNDS 20000u

static void *worker_thread(void *arg)
{
    struct crew *crew = arg;
    struct board_region *region = board_region(crew->board, crew->slot);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "m%u", (unsigned)(i % 50));
        uint32_t model = board_label_find(crew->board, BOARD_LABEL_MODEL, span_cstr(name));
        struct board_series *series = board_series(region, 1, 1, model);
        board_add(&series->counters[SERIES_REQUESTS], 1);
        board_hist_add(&series->ttft_us, i);
        board_set_serving(region, i, i + 1, i + 2, i + 3);
        atomic_fetch_add_explicit(&board_model(crew->board, 3)->breaker, 1, memory_order_relaxed);
    }
    return NULL;
}

static void *reader_thread(void *arg)
{
    struct crew *crew = arg;
    uint64_t inconsistent = 0;
    while (!atomic_load(&crew->stop)) {
        for (unsigned slot = 0; slot < REGIONS; slot++) {
            struct board_region *region = board_region(crew->board, slot);
            uint64_t v[4];
            if (board_get_serving(region, v) && v[0] != 0)
                inconsistent += v[1] != v[0] + 1 || v[2] != v[0] + 2 || v[3] != v[0] + 3;
            struct hist hist = { 0 };
            for (unsigned i = 0; i < BOARD_SERIES_MAX; i++) {
                if (atomic_load_explicit(&region->series[i].key, memory_order_acquire) == 0)
                    break;
                board_hist_read(&region->series[i].ttft_us, &hist);
            }
            inconsistent += hist.count > ROUNDS;
        }
        for (uint32_t id = 1; id < board_label_count(crew->board, BOARD_LABEL_MODEL); id++)
            inconsistent += board_label_name(crew->board, BOARD_LABEL_MODEL, id).ptr[0] != 'm';
    }
    return (void *)(uintptr_t)inconsistent;
}

static void workers_master_and_reader_at_once(void **state)
{
    struct fixture *f = *state;
    struct crew crews[REGIONS], reader = { .board = f->board };
    pthread_t threads[REGIONS], watching;
    assert_int_equal(pthread_create(&watching, NULL, reader_thread, &reader), 0);
    for (unsigned i = 0; i < REGIONS; i++) {
        crews[i] = (struct crew){ .board = f->board, .slot = i };
        assert_int_equal(pthread_create(&threads[i], NULL, worker_thread, &crews[i]), 0);
    }
    for (unsigned i = 0; i < 50; i++) { /* the master names models while workers look them up */
        char name[16];
        (void)snprintf(name, sizeof name, "m%u", i);
        assert_int_equal(board_label_add(f->board, BOARD_LABEL_MODEL, span_cstr(name)), i + 1);
        (void)sched_yield();
    }
    uint64_t requests = 0;
    for (unsigned i = 0; i < REGIONS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    atomic_store(&reader.stop, true);
    void *inconsistent;
    assert_int_equal(pthread_join(watching, &inconsistent), 0);
    assert_null(inconsistent);
    for (unsigned slot = 0; slot < REGIONS; slot++) {
        struct board_region *region = board_region(f->board, slot);
        for (unsigned i = 0; i < BOARD_SERIES_MAX; i++)
            requests += read_counter(&region->series[i].counters[SERIES_REQUESTS]);
    }
    assert_int_equal(requests, REGIONS * ROUNDS);
    assert_int_equal(atomic_load(&board_model(f->board, 3)->breaker), REGIONS * ROUNDS);
}

static void a_writer_that_died_inside_is_told(void **state)
{
    struct fixture *f = *state;
    struct board_region *region = board_region(f->board, 0);
    uint64_t v[4] = { 9, 9, 9, 9 };
    board_set_serving(region, 1, 2, 3, 4);
    atomic_fetch_add(&region->serving_lock, 1);
    assert_false(board_get_serving(region, v));
    assert_int_equal(v[0], 9);
    board_set_serving(region, 5, 6, 7, 8);
    assert_true(board_get_serving(region, v));
    assert_true(v[0] == 5 && v[1] == 6 && v[2] == 7 && v[3] == 8);
}

/* -- records -- */

/* Against a list of what should be there: whatever the lengths and the order of puts and takes, lines come out whole,
 * once, in order. */
static void the_ring_keeps_lines_whole_and_in_order(void **state)
{
    struct fixture *f = *state;
    struct board_region *region = board_region(f->board, 0);
    struct prng prng;
    prng_seed(&prng, 7);
    struct buf out = BUF_INIT(4 << 20);
    static char line[70000];
    uint64_t put = 0, taken = 0, full = 0;
    size_t lengths[4096];
    for (unsigned step = 0; step < 20000; step++) {
        if (prng_u64(&prng) % 8 != 0) {
            size_t len = 8 + prng_u64(&prng) % (prng_u64(&prng) % 50 == 0 ? sizeof line - 8 : 500);
            memset(line, (int)('a' + put % 26), len);
            char number[9];
            (void)snprintf(number, sizeof number, "%08u", (unsigned)put);
            memcpy(line, number, 8);
            enum err err = put - taken < ARRAY_LEN(lengths) ? board_record_put(region, span_of(line, len)) : ERR_FULL;
            if (err == OK)
                lengths[put++ % ARRAY_LEN(lengths)] = len;
            else
                full++;
        } else if (prng_u64(&prng) % 128 == 0) {
            buf_clear(&out);
            unsigned n = board_record_take(region, &out);
            struct span rest = buf_span(&out), part;
            for (unsigned i = 0; i < n; i++, taken++) {
                uint64_t number;
                assert_true(span_split(&rest, '\n', &part));
                assert_int_equal(part.len, lengths[taken % ARRAY_LEN(lengths)]);
                assert_int_equal(span_to_u64(span_head(part, 8), &number), OK);
                assert_int_equal(number, taken);
                for (size_t k = 9; k < part.len; k += 61)
                    assert_int_equal(part.ptr[k], 'a' + taken % 26);
            }
            assert_int_equal(rest.len, 0);
        }
    }
    assert_true(put > 9000 && full > 0);
    assert_true(read_counter(&region->record_head) > 4u * BOARD_RECORD_RING_BYTES); /* it went round */
    buf_release(&out);
}

static void a_full_ring_says_so(void **state)
{
    struct fixture *f = *state;
    struct board_region *region = board_region(f->board, 0);
    static char line[BOARD_RECORD_RING_BYTES];
    memset(line, 'r', sizeof line);
    assert_int_equal(board_record_put(region, span_of(line, sizeof line)), ERR_FULL);
    assert_int_equal(board_record_put(region, span_of(line, sizeof line - 4)), OK);
    assert_int_equal(board_record_put(region, SPAN("")), ERR_FULL);
    struct buf small = BUF_INIT(100), out = BUF_INIT(2 * sizeof line);
    assert_int_equal(board_record_take(region, &small), 0); /* can never fit there: given up, not stuck */
    assert_int_equal(board_record_put(region, SPAN("short")), OK);
    assert_int_equal(board_record_take(region, &small), 1);
    assert_true(span_eq(buf_span(&small), SPAN("short\n")));
    buf_clear(&small);
    static char ninety[90];
    memset(ninety, 'n', sizeof ninety);
    assert_int_equal(board_record_put(region, span_of(ninety, sizeof ninety)), OK);
    assert_int_equal(board_record_put(region, span_of(ninety, sizeof ninety)), OK);
    assert_int_equal(board_record_take(region, &small), 1);
    assert_int_equal(small.len, 91);
    assert_int_equal(board_record_take(region, &out), 1);
    buf_release(&small);
    buf_release(&out);
}

static void a_ring_written_over_is_given_up(void **state)
{
    struct fixture *f = *state;
    struct board_region *region = board_region(f->board, 0);
    struct buf out = BUF_INIT(1 << 20);
    static const uint64_t heads[] = { 1, 3, UINT64_MAX, BOARD_RECORD_RING_BYTES + 1, 100 };
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        board_region_free(f->board, 0);
        memset(region->records, 0xFF, 200);
        atomic_store(&region->record_head, heads[i]);
        assert_int_equal(board_record_take(region, &out), 0);
        assert_true(read_counter(&region->record_tail) == heads[i]);
        assert_int_equal(board_record_put(region, SPAN("line")), OK);
        assert_int_equal(board_record_take(region, &out), 1);
    }
    buf_release(&out);
}

static void *putting_thread(void *arg)
{
    struct crew *crew = arg;
    struct board_region *region = board_region(crew->board, 0);
    char line[64];
    for (unsigned i = 0; i < 50000;) {
        int len = snprintf(line, sizeof line, "%u %.*s", i, (int)(i % 40), "----------------------------------------");
        if (board_record_put(region, span_of(line, (size_t)len)) == OK)
            i++;
        else
            (void)sched_yield();
    }
    atomic_store(&crew->stop, true);
    return NULL;
}

static void putting_and_taking_at_once(void **state)
{
    struct fixture *f = *state;
    struct crew crew = { .board = f->board };
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, putting_thread, &crew), 0);
    struct buf out = BUF_INIT(64 << 10);
    uint64_t next = 0;
    for (bool last = false; !last;) {
        last = atomic_load(&crew.stop);
        unsigned n;
        do {
            buf_clear(&out);
            n = board_record_take(board_region(f->board, 0), &out);
            struct span rest = buf_span(&out), part, word;
            for (unsigned i = 0; i < n; i++, next++) {
                uint64_t number;
                assert_true(span_split(&rest, '\n', &part));
                size_t len = part.len;
                assert_true(span_split(&part, ' ', &word));
                assert_int_equal(span_to_u64(word, &number), OK);
                assert_int_equal(number, next);
                assert_int_equal(len, word.len + 1 + next % 40);
            }
        } while (n > 0);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(next, 50000);
    buf_release(&out);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(two_mappings_see_one_board),
        TEST(only_ours_is_attached),
        TEST(keys_of_tickets_come_and_go),
        TEST(a_new_master_takes_the_board_over),
        TEST(another_boots_board_is_replaced),
        TEST(a_disk_is_no_place_for_a_board),
        TEST(no_memory_is_an_answer),
        TEST(labels_have_one_id_each_by_kind),
        TEST(beyond_the_cap_is_other),
        TEST(series_are_found_again),
        TEST(series_beyond_the_cap_are_other),
        TEST(histograms_add_up),
        TEST(a_freed_region_is_as_new),
        TEST(regions_are_given_out),
        TEST(what_ended_is_kept),
        TEST(arms_are_counted_apart),
        TEST(a_killed_fold_counts_nothing_twice),
        TEST(budgets_are_kept_to),
        TEST(the_earliest_certificate_counts),
        TEST(nothing_is_left_beside_it),
        TEST(an_unused_board_costs_little),
        TEST(workers_master_and_reader_at_once),
        TEST(a_writer_that_died_inside_is_told),
        TEST(the_ring_keeps_lines_whole_and_in_order),
        TEST(a_full_ring_says_so),
        TEST(a_ring_written_over_is_given_up),
        TEST(putting_and_taking_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
