#include "proto/board.h"
#include "common/digest.h"
#include "common/fault.h"
#include "proto/board_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define BOARD_MAGIC          0x646165726c696146ull /* "Fairlead" */
#define BOOT_ID_BYTES        36u
#define LABEL_NAME_BYTES_MAX (2 * NAME_BYTES_MAX + 1) /* provider/model */
#define LABEL_INDEX_SLOTS    (2 * BOARD_LABELS_MAX)   /* at most half full, so a search ends */
#define PART_BITS            21u
#define PART_MASK            ((1ull << PART_BITS) - 1)
#define KEY_USED             (1ull << 63)
#define SERVING_TRIES        100u /* a writer is inside for some nanoseconds; a dead one for ever */
#define RECORD_PREFIX_BYTES  4u   /* length of the line, in the machine's byte order */

_Static_assert(BOARD_LABELS_MAX <= 1u << PART_BITS, "a label id fits its part of a series key");
_Static_assert((BOARD_RECORD_RING_BYTES & (BOARD_RECORD_RING_BYTES - 1)) == 0, "positions wrap by masking");
_Static_assert(BOARD_SERIES_INDEX_SLOTS >= 2 * BOARD_SERIES_MAX && BOARD_SERIES_MAX <= UINT16_MAX, "a search ends");

struct label {
    uint32_t len;
    char name[LABEL_NAME_BYTES_MAX];
};

/* Written by the master alone. An entry is complete before the count covers it, and covered before the index names it.
 */
struct dictionary {
    _Atomic uint32_t count;                    /* ids given out, with 0 */
    _Atomic uint32_t index[LABEL_INDEX_SLOTS]; /* ids by hash, open addressing; 0: free */
    struct label labels[BOARD_LABELS_MAX];
};

#define TICKET_SLOTS (BOARD_TICKET_KEYS + 1) /* the next is written where nobody reads */
#define TICKET_WORDS (sizeof(struct board_ticket_key) / sizeof(uint64_t))
#define TICKET_TRIES 100u /* a reader tries again when a key came meanwhile: once an hour */
_Static_assert(sizeof(struct board_ticket_key) % sizeof(uint64_t) == 0, "it is copied by words");

/* Number n stands in slot n % TICKET_SLOTS. */
struct tickets {
    _Atomic uint64_t made; /* keys so far: the newest one's number; 0: none */
    _Atomic uint64_t made_at_ms;
    _Atomic uint64_t words[TICKET_SLOTS][TICKET_WORDS];
};

struct board_header {
    uint64_t magic;
    uint32_t layout;
    uint32_t header_bytes, region_bytes; /* a layout that changed without its number is refused too */
    _Atomic uint32_t regions;
    char boot_id[BOOT_ID_BYTES]; /* shared memory of another boot holds pids and times that mean nothing now */
    uint8_t hash_key[16];
    _Atomic uint64_t committed;
    _Atomic uint64_t taken[NODE_REGIONS_MAX / 64]; /* a bit for each region; reading free ones would cost memory */
    struct tickets tickets;
    struct board_budget budgets[BOARD_BUDGETS_MAX];
    struct dictionary dictionaries[BOARD_LABEL_KINDS];
    struct board_model models[MODELS_MAX];
};

struct board {
    struct board_header *header;
    struct board_region *ended; /* between header and regions: growing moves nothing */
    char *regions;
    size_t region_stride, map_bytes;
    unsigned count; /* of regions mapped here: another process may have grown the file since */
    int fd;         /* the master's; -1: attached */
};

static size_t page_round(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static size_t board_bytes(unsigned regions)
{
    return page_round(sizeof(struct board_header)) + (1 + regions) * page_round(sizeof(struct board_region));
}

static enum err err_of_errno(void)
{
    switch (errno) {
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPACE;
    case ENOMEM:
        return ERR_NOMEM;
    default:
        return ERR_IO;
    }
}

static enum err read_boot_id(char out[BOOT_ID_BYTES])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    ssize_t got = read(fd, out, BOOT_ID_BYTES);
    (void)close(fd);
    return got == (ssize_t)BOOT_ID_BYTES ? OK : ERR_IO;
}

/* -- mapping -- */

static enum err board_map(int fd, int protection, unsigned regions, struct board **ret)
{
    struct board *board = fault_calloc(1, sizeof *board);
    if (!board)
        return ERR_NOMEM;
    board->fd = -1;
    board->count = regions;
    board->map_bytes = board_bytes(regions);
    board->region_stride = page_round(sizeof(struct board_region));
    void *map = mmap(NULL, board->map_bytes, protection, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        free(board);
        return ERR_NOMEM;
    }
    board->header = map;
    board->ended = (void *)((char *)map + page_round(sizeof(struct board_header)));
    board->regions = (char *)map + board_bytes(0);
    *ret = board;
    return OK;
}

/* Is the open file a board of ours? Judged from a copy of its first bytes: nothing is mapped that may not be there. */
static enum err check_header(int fd, unsigned *ret_regions)
{
    struct stat status;
    char boot_id[BOOT_ID_BYTES];
    struct {
        uint64_t magic;
        uint32_t layout, header_bytes, region_bytes, regions;
        char boot_id[BOOT_ID_BYTES];
    } first;
    _Static_assert(offsetof(struct board_header, boot_id) == 24, "the beginning of board_header, without its atomics");
    ssize_t got = pread(fd, &first, sizeof first, 0);
    if (got < 0 || fstat(fd, &status) != 0 || read_boot_id(boot_id) != OK)
        return ERR_IO;
    if ((size_t)got < sizeof first || first.magic != BOARD_MAGIC)
        return ERR_CORRUPT;
    if (first.layout != BOARD_LAYOUT || first.header_bytes != sizeof(struct board_header) ||
        first.region_bytes != sizeof(struct board_region) || memcmp(first.boot_id, boot_id, BOOT_ID_BYTES) != 0)
        return ERR_UNSUPPORTED;
    if (first.regions == 0 || first.regions > NODE_REGIONS_MAX || (uint64_t)status.st_size < board_bytes(first.regions))
        return ERR_CORRUPT;
    *ret_regions = first.regions;
    return OK;
}

static enum err attach(const char *path, int flags, int protection, struct board **ret)
{
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_of_errno();
    unsigned regions;
    enum err err = check_header(fd, &regions);
    if (!err)
        err = board_map(fd, protection, regions, ret);
    (void)close(fd);
    return err;
}

enum err board_attach(const char *path, struct board **ret)
{
    return attach(path, O_RDWR, PROT_READ | PROT_WRITE, ret);
}

enum err board_look(const char *path, struct board **ret)
{
    return attach(path, O_RDONLY, PROT_READ, ret);
}

/* Backs what of a region is certainly written with memory now: a full tmpfs is then ERR_NOSPACE here and no SIGBUS in a
 * worker. The series, most of the bytes and mostly never used, are only checked to fit. */
static enum err back_region(int fd, off_t region)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0)
        return ERR_IO;
    /* f_blocks 0: a tmpfs without a limit. */
    if (fs.f_blocks != 0 && (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize < sizeof(struct board_region))
        return ERR_NOSPACE;
    size_t series = offsetof(struct board_region, series), after = series + sizeof(((struct board_region *)0)->series);
    if (fallocate(fd, 0, region, (off_t)series) != 0 ||
        fallocate(fd, 0, region + (off_t)after, (off_t)(sizeof(struct board_region) - after)) != 0)
        return err_of_errno();
    return OK;
}

static off_t region_at(unsigned number)
{
    return (off_t)(board_bytes(0) + number * page_round(sizeof(struct board_region)));
}

static enum err reserve(int fd, unsigned regions)
{
    struct statfs fs;
    struct stat status;
    if (fstatfs(fd, &fs) != 0 || fstat(fd, &status) != 0)
        return ERR_IO;
    if (fs.f_type != TMPFS_MAGIC)
        return ERR_INVALID;
    /* Header, accumulators and one worker: less is of no use. */
    uint64_t have = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize + (uint64_t)status.st_blocks * 512;
    if (fs.f_blocks != 0 && have < board_bytes(1))
        return ERR_NOSPACE;
    if ((uint64_t)status.st_size < board_bytes(regions) && ftruncate(fd, (off_t)board_bytes(regions)) != 0)
        return err_of_errno();
    size_t series = offsetof(struct board_region, series), after = series + sizeof(((struct board_region *)0)->series);
    off_t ended = (off_t)page_round(sizeof(struct board_header));
    if (fallocate(fd, 0, ended, (off_t)series) != 0 ||
        fallocate(fd, 0, ended + (off_t)after, (off_t)(offsetof(struct board_region, records) - after)) != 0)
        return err_of_errno();
    return OK;
}

static void header_init(struct board_header *header, unsigned regions, const char *boot_id)
{
    header->magic = BOARD_MAGIC;
    header->layout = BOARD_LAYOUT;
    header->header_bytes = (uint32_t)sizeof *header;
    header->region_bytes = (uint32_t)sizeof(struct board_region);
    memcpy(header->boot_id, boot_id, BOOT_ID_BYTES);
    random_bytes(header->hash_key, sizeof header->hash_key);
    for (unsigned kind = 0; kind < BOARD_LABEL_KINDS; kind++)
        atomic_store_explicit(&header->dictionaries[kind].count, 1, memory_order_relaxed);
    atomic_store_explicit(&header->regions, regions, memory_order_release);
}

/* Made beside its place and renamed there, so that nobody attaches to half a board. */
static enum err create_fresh(const char *path, unsigned regions, struct board **ret)
{
    static const char suffix[] = ".new"; /* one name, so that a master killed in here leaves one file at most */
    char boot_id[BOOT_ID_BYTES];
    enum err err = read_boot_id(boot_id);
    if (err)
        return err;
    size_t path_len = strlen(path);
    char *temporary = fault_malloc(path_len + sizeof suffix);
    if (!temporary)
        return ERR_NOMEM;
    memcpy(temporary, path, path_len);
    memcpy(temporary + path_len, suffix, sizeof suffix);
    (void)unlink(temporary);
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    struct board *board = NULL;
    if (fd < 0)
        err = err_of_errno() == ERR_NOT_FOUND ? ERR_IO : err_of_errno();
    if (!err)
        err = reserve(fd, regions);
    if (!err)
        err = board_map(fd, PROT_READ | PROT_WRITE, regions, &board);
    if (!err) {
        header_init(board->header, regions, boot_id);
        if (rename(temporary, path) != 0)
            err = err_of_errno();
    }
    if (err && fd >= 0)
        (void)unlink(temporary);
    free(temporary);
    if (err) {
        board_close(board);
        if (fd >= 0)
            (void)close(fd);
        return err;
    }
    board->fd = fd;
    *ret = board;
    return OK;
}

static void index_label(struct board_header *header, struct dictionary *d, uint32_t id);
static uint32_t label_find(const struct board_header *header, struct dictionary *d, struct span name);

/* A master that died between counting a label and indexing it left one that cannot be found. */
static enum err mend_dictionaries(struct board_header *header)
{
    for (unsigned kind = 0; kind < BOARD_LABEL_KINDS; kind++) {
        struct dictionary *d = &header->dictionaries[kind];
        uint32_t count = atomic_load_explicit(&d->count, memory_order_acquire);
        if (count == 0 || count > BOARD_LABELS_MAX)
            return ERR_CORRUPT;
        for (uint32_t id = 1; id < count; id++) {
            const struct label *label = &d->labels[id];
            if (label->len > LABEL_NAME_BYTES_MAX)
                return ERR_CORRUPT;
            if (label_find(header, d, span_of(label->name, label->len)) == BOARD_OTHER)
                index_label(header, d, id);
        }
    }
    return OK;
}

static enum err take_over(const char *path, unsigned regions, struct board **ret)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_of_errno();
    unsigned there;
    struct board *board = NULL;
    enum err err = check_header(fd, &there);
    if (!err && regions > there)
        err = reserve(fd, regions); /* regions stand last: growing moves nothing */
    if (!err)
        err = board_map(fd, PROT_READ | PROT_WRITE, regions > there ? regions : there, &board);
    if (!err)
        err = mend_dictionaries(board->header);
    if (err) {
        board_close(board);
        (void)close(fd);
        return err;
    }
    atomic_store_explicit(&board->header->regions, board->count, memory_order_release);
    board->fd = fd;
    *ret = board;
    return OK;
}

enum err board_create(const char *path, unsigned regions, struct board **ret)
{
    REQUIRE(regions > 0 && regions <= NODE_REGIONS_MAX);
    enum err err = take_over(path, regions, ret);
    if (err == OK || err == ERR_NOMEM || err == ERR_NOSPACE)
        return err;
    return create_fresh(path, regions, ret); /* none there, or one that nobody can use any more */
}

void board_close(struct board *board)
{
    if (!board)
        return;
    (void)munmap(board->header, board->map_bytes);
    if (board->fd >= 0)
        (void)close(board->fd);
    free(board);
}

unsigned board_regions(const struct board *board)
{
    return board->count;
}

struct board_region *board_region(struct board *board, unsigned number)
{
    REQUIRE(number < board->count);
    return (struct board_region *)(void *)(board->regions + number * board->region_stride);
}

bool board_region_taken(const struct board *board, unsigned number)
{
    REQUIRE(number < board->count);
    return atomic_load_explicit(&board->header->taken[number / 64], memory_order_acquire) >> number % 64 & 1;
}

enum err board_region_take(struct board *board, unsigned *ret_number)
{
    REQUIRE(board->fd >= 0);
    unsigned number = 0;
    while (number < board->count && board_region_taken(board, number))
        number++;
    if (number == board->count)
        return ERR_TOO_MANY;
    enum err err = back_region(board->fd, region_at(number));
    if (err)
        return err;
    atomic_fetch_or_explicit(&board->header->taken[number / 64], 1ull << number % 64, memory_order_release);
    *ret_number = number;
    return OK;
}

void board_region_free(struct board *board, unsigned number)
{
    struct board_region *region = board_region(board, number);
    REQUIRE(board->fd >= 0);
    /* A hole reads as zeros and gives the memory back. Where it cannot be made, what was used is cleared by hand. */
    if (fallocate(board->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, region_at(number),
                  (off_t)board->region_stride) != 0)
        memset((void *)region, 0, sizeof *region);
    atomic_fetch_and_explicit(&board->header->taken[number / 64], ~(1ull << number % 64), memory_order_release);
}

struct board_region *board_ended(struct board *board)
{
    return board->ended;
}

void board_set_committed(struct board *board, uint64_t txn_id)
{
    atomic_store_explicit(&board->header->committed, txn_id, memory_order_release);
}

uint64_t board_committed(const struct board *board)
{
    return atomic_load_explicit(&board->header->committed, memory_order_acquire);
}

/* -- keys of TLS tickets -- */

static void write_ticket(struct tickets *tickets, uint64_t number, const uint64_t words[TICKET_WORDS])
{
    for (size_t i = 0; i < TICKET_WORDS; i++)
        atomic_store_explicit(&tickets->words[number % TICKET_SLOTS][i], words[i], memory_order_relaxed);
}

void board_tickets_renew(struct board *board, uint64_t now_ms)
{
    static const uint64_t nothing[TICKET_WORDS];
    struct tickets *tickets = &board->header->tickets;
    const uint64_t made = atomic_load_explicit(&tickets->made, memory_order_relaxed);
    const uint64_t at_ms = atomic_load_explicit(&tickets->made_at_ms, memory_order_relaxed);
    if (made > 0 && now_ms < at_ms + BOARD_TICKET_MS)
        return;
    uint64_t words[TICKET_WORDS];
    random_bytes(words, sizeof(words));
    write_ticket(tickets, made + 1, words);
    explicit_bzero(words, sizeof(words));
    atomic_store_explicit(&tickets->made_at_ms, now_ms, memory_order_relaxed);
    atomic_store_explicit(&tickets->made, made + 1, memory_order_release);
    atomic_thread_fence(memory_order_release);
    write_ticket(tickets, made + 2, nothing); /* the oldest opens nothing any more */
}

bool board_ticket_key(const struct board *board, unsigned age, struct board_ticket_key *ret)
{
    const struct tickets *tickets = &board->header->tickets;
    for (unsigned tries = 0; age < BOARD_TICKET_KEYS && tries < TICKET_TRIES; tries++) {
        const uint64_t made = atomic_load_explicit(&tickets->made, memory_order_acquire);
        uint64_t words[TICKET_WORDS];
        if (age >= made)
            return false;
        for (size_t i = 0; i < TICKET_WORDS; i++)
            words[i] = atomic_load_explicit(&tickets->words[(made - age) % TICKET_SLOTS][i], memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        const bool same = atomic_load_explicit(&tickets->made, memory_order_relaxed) == made;
        if (same)
            memcpy(ret, words, sizeof(*ret));
        explicit_bzero(words, sizeof(words));
        if (same)
            return true;
    }
    return false;
}

/* -- labels -- */

static uint32_t index_home(const struct board_header *header, struct span name)
{
    return (uint32_t)(siphash24(header->hash_key, name) % LABEL_INDEX_SLOTS);
}

static uint32_t label_find(const struct board_header *header, struct dictionary *d, struct span name)
{
    uint32_t at = index_home(header, name);
    for (uint32_t probes = 0; probes < LABEL_INDEX_SLOTS; probes++, at = (at + 1) % LABEL_INDEX_SLOTS) {
        uint32_t id = atomic_load_explicit(&d->index[at], memory_order_acquire);
        if (id == BOARD_OTHER || id >= BOARD_LABELS_MAX)
            return BOARD_OTHER;
        const struct label *label = &d->labels[id];
        if (span_eq(name, span_of(label->name, size_min(label->len, LABEL_NAME_BYTES_MAX))))
            return id;
    }
    return BOARD_OTHER;
}

static void index_label(struct board_header *header, struct dictionary *d, uint32_t id)
{
    uint32_t at = index_home(header, span_of(d->labels[id].name, d->labels[id].len));
    while (atomic_load_explicit(&d->index[at], memory_order_relaxed) != BOARD_OTHER)
        at = (at + 1) % LABEL_INDEX_SLOTS;
    atomic_store_explicit(&d->index[at], id, memory_order_release);
}

uint32_t board_label_find(struct board *board, enum board_label_kind kind, struct span name)
{
    return label_find(board->header, &board->header->dictionaries[kind], name);
}

uint32_t board_label_add(struct board *board, enum board_label_kind kind, struct span name)
{
    struct dictionary *d = &board->header->dictionaries[kind];
    if (name.len == 0 || name.len > LABEL_NAME_BYTES_MAX)
        return BOARD_OTHER;
    uint32_t id = label_find(board->header, d, name);
    if (id != BOARD_OTHER)
        return id;
    id = atomic_load_explicit(&d->count, memory_order_relaxed);
    if (id >= BOARD_LABELS_MAX)
        return BOARD_OTHER;
    memcpy(d->labels[id].name, name.ptr, name.len);
    d->labels[id].len = (uint32_t)name.len;
    atomic_store_explicit(&d->count, id + 1, memory_order_release);
    index_label(board->header, d, id);
    return id;
}

struct span board_label_name(const struct board *board, enum board_label_kind kind, uint32_t id)
{
    if (id == BOARD_OTHER || id >= board_label_count(board, kind))
        return SPAN("other");
    const struct label *label = &board->header->dictionaries[kind].labels[id];
    return span_of(label->name, size_min(label->len, LABEL_NAME_BYTES_MAX));
}

uint32_t board_label_count(const struct board *board, enum board_label_kind kind)
{
    uint32_t count = atomic_load_explicit(&board->header->dictionaries[kind].count, memory_order_acquire);
    return count < BOARD_LABELS_MAX ? count : BOARD_LABELS_MAX;
}

struct board_model *board_model(struct board *board, uint32_t model_label)
{
    return &board->header->models[model_label < MODELS_MAX ? model_label : 0];
}

/* -- for board_arms.c -- */

struct board_budget *board_budgets(const struct board *board)
{
    return board->header->budgets;
}

uint64_t board_hash(const struct board *board, struct span text)
{
    return siphash24(board->header->hash_key, text);
}

/* -- series -- */

static uint64_t series_key(uint32_t team, uint32_t route, uint32_t model)
{
    return KEY_USED | (team & PART_MASK) << (2 * PART_BITS) | (route & PART_MASK) << PART_BITS | (model & PART_MASK);
}

void board_series_key(uint64_t key, uint32_t *ret_team, uint32_t *ret_route, uint32_t *ret_model)
{
    *ret_team = (uint32_t)(key >> (2 * PART_BITS) & PART_MASK);
    *ret_route = (uint32_t)(key >> PART_BITS & PART_MASK);
    *ret_model = (uint32_t)(key & PART_MASK);
}

/* Series fill from the front and are found through an index of their own, so that a few triples touch a few pages and
 * not one page each somewhere in 17 MB. The first is always that of OTHERs. */
struct board_series *board_series(struct board_region *region, uint32_t team, uint32_t route, uint32_t model)
{
    uint64_t key = series_key(team, route, model), others = series_key(BOARD_OTHER, BOARD_OTHER, BOARD_OTHER);
    if (region->series_count == 0) {
        region->series_count = 1;
        atomic_store_explicit(&region->series[0].key, others, memory_order_release);
    }
    if (key == others)
        return &region->series[0];
    /* Fibonacci hashing (Knuth, TAOCP 3, 6.4): ids are small and dense, and not of a client's choosing. */
    size_t at = (size_t)((key * 0x9E3779B97F4A7C15ull) >> 32) % BOARD_SERIES_INDEX_SLOTS;
    for (; region->series_index[at] != 0; at = (at + 1) % BOARD_SERIES_INDEX_SLOTS) {
        struct board_series *series = &region->series[region->series_index[at]];
        if (atomic_load_explicit(&series->key, memory_order_relaxed) == key)
            return series;
    }
    if (region->series_count >= BOARD_SERIES_MAX)
        return &region->series[0];
    uint16_t next = (uint16_t)region->series_count++;
    region->series_index[at] = next;
    atomic_store_explicit(&region->series[next].key, key, memory_order_release);
    return &region->series[next];
}

void board_hist_add(struct board_hist *hist, uint64_t value)
{
    board_add(&hist->count, 1);
    board_add(&hist->sum, value);
    board_add(&hist->buckets[hist_bucket(value)], 1);
}

void board_hist_read(const struct board_hist *hist, struct hist *into)
{
    if (atomic_load_explicit(&hist->count, memory_order_relaxed) == 0)
        return;
    /* The count is that of the buckets read, or a histogram read while it is written would not add up. */
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        uint64_t n = atomic_load_explicit(&hist->buckets[i], memory_order_relaxed);
        into->buckets[i] += n;
        into->count += n;
    }
    into->sum += atomic_load_explicit(&hist->sum, memory_order_relaxed);
}

static uint64_t load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

/* The count goes last: as long as it stands, there may be more to fold. */
void board_hist_fold(struct board_hist *into, struct board_hist *from)
{
    if (load(&from->count) == 0)
        return;
    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        board_move(&into->buckets[i], &from->buckets[i]);
    board_move(&into->sum, &from->sum);
    board_move(&into->count, &from->count);
}

void board_fold(struct board *board, struct board_region *region)
{
    for (unsigned i = 0; i < WORKER_COUNTERS; i++) {
        if (!worker_counter_is_gauge((enum worker_counter)i))
            board_move(&board->ended->counters[i], &region->counters[i]);
    }
    board_hist_fold(&board->ended->overhead_us, &region->overhead_us);
    board_arms_fold(board->ended, region);
    for (unsigned i = 0; i < BOARD_SERIES_MAX; i++) {
        struct board_series *from = &region->series[i];
        uint64_t key = atomic_load_explicit(&from->key, memory_order_acquire);
        uint32_t team, route, model;
        if (key == 0)
            break;
        board_series_key(key, &team, &route, &model);
        struct board_series *into = board_series(board->ended, team, route, model);
        for (unsigned k = 0; k < SERIES_COUNTERS; k++)
            board_move(&into->counters[k], &from->counters[k]);
        board_hist_fold(&into->ttft_us, &from->ttft_us);
        board_hist_fold(&into->duration_us, &from->duration_us);
    }
}

void board_certificate_seen(struct board_model *model, int64_t expires_at_ms, uint64_t now_ms)
{
    /* Two workers at once may mix their words: an hour later at most they are right again. */
    int64_t known = atomic_load_explicit(&model->certificate_expires_at_ms, memory_order_relaxed);
    uint64_t at_ms = atomic_load_explicit(&model->certificate_at_ms, memory_order_relaxed);
    bool old = known == 0 || at_ms + BOARD_CERTIFICATE_MS < now_ms;
    if (expires_at_ms > known && !old)
        return;
    atomic_store_explicit(&model->certificate_at_ms, now_ms, memory_order_relaxed);
    atomic_store_explicit(&model->certificate_expires_at_ms, expires_at_ms, memory_order_relaxed);
}

/* -- what a worker serves: a sequence lock. Every store releases and every load acquires, so no fences are needed (TSan
 * knows none): a reader that sees any new value also sees the odd number before it. -- */

void board_set_serving(struct board_region *region, uint64_t epoch, uint64_t generation, uint64_t evidence,
                       uint64_t directory)
{
    uint64_t lock = atomic_load_explicit(&region->serving_lock, memory_order_relaxed) & ~1ull;
    atomic_store_explicit(&region->serving_lock, lock + 1, memory_order_release);
    atomic_store_explicit(&region->serving_epoch, epoch, memory_order_release);
    atomic_store_explicit(&region->serving_generation, generation, memory_order_release);
    atomic_store_explicit(&region->serving_evidence, evidence, memory_order_release);
    atomic_store_explicit(&region->serving_directory, directory, memory_order_release);
    atomic_store_explicit(&region->serving_lock, lock + 2, memory_order_release);
}

bool board_get_serving(const struct board_region *region, uint64_t ret[4])
{
    for (unsigned tries = 0; tries < SERVING_TRIES; tries++) {
        uint64_t before = atomic_load_explicit(&region->serving_lock, memory_order_acquire);
        if (before & 1)
            continue;
        uint64_t values[4] = {
            atomic_load_explicit(&region->serving_epoch, memory_order_acquire),
            atomic_load_explicit(&region->serving_generation, memory_order_acquire),
            atomic_load_explicit(&region->serving_evidence, memory_order_acquire),
            atomic_load_explicit(&region->serving_directory, memory_order_acquire),
        };
        if (atomic_load_explicit(&region->serving_lock, memory_order_relaxed) != before)
            continue;
        memcpy(ret, values, sizeof values);
        return true;
    }
    return false;
}

uint32_t board_inflight(struct board *board, uint32_t model_label)
{
    uint32_t sum = 0, slot = model_label < MODELS_MAX ? model_label : 0;
    for (unsigned word = 0; word < ARRAY_LEN(board->header->taken); word++) {
        uint64_t taken = atomic_load_explicit(&board->header->taken[word], memory_order_acquire);
        for (; taken != 0; taken &= taken - 1) {
            const unsigned number = word * 64 + (unsigned)__builtin_ctzll(taken);
            if (number < board->count) /* one that the file has grown by is not mapped here */
                sum += atomic_load_explicit(&board_region(board, number)->inflight[slot], memory_order_relaxed);
        }
    }
    return sum;
}

/* -- records: positions are bytes ever written and ever read. A writer that dies before it moves the head has written
 * nothing. -- */

static void ring_write(struct board_region *region, uint64_t position, const void *bytes, size_t len)
{
    size_t at = position & (BOARD_RECORD_RING_BYTES - 1), first = size_min(len, BOARD_RECORD_RING_BYTES - at);
    memcpy(region->records + at, bytes, first);
    memcpy(region->records, (const char *)bytes + first, len - first);
}

static void ring_read(const struct board_region *region, uint64_t position, void *out, size_t len)
{
    size_t at = position & (BOARD_RECORD_RING_BYTES - 1), first = size_min(len, BOARD_RECORD_RING_BYTES - at);
    memcpy(out, region->records + at, first);
    memcpy((char *)out + first, region->records, len - first);
}

enum err board_record_put(struct board_region *region, struct span line)
{
    uint64_t head = atomic_load_explicit(&region->record_head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&region->record_tail, memory_order_acquire);
    size_t room = fault_hit(FAULT_RECORD) ? 0 : BOARD_RECORD_RING_BYTES - (size_t)(head - tail);
    if (room < RECORD_PREFIX_BYTES || line.len > room - RECORD_PREFIX_BYTES)
        return ERR_FULL;
    uint32_t len = (uint32_t)line.len;
    ring_write(region, head, &len, sizeof len);
    if (line.len > 0)
        ring_write(region, head + RECORD_PREFIX_BYTES, line.ptr, line.len);
    atomic_store_explicit(&region->record_head, head + RECORD_PREFIX_BYTES + len, memory_order_release);
    return OK;
}

unsigned board_record_take(struct board_region *region, struct buf *out)
{
    uint64_t tail = atomic_load_explicit(&region->record_tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&region->record_head, memory_order_acquire);
    unsigned taken = 0;
    while (head != tail) {
        uint32_t len = 0;
        uint64_t unread = head - tail;
        if (unread >= RECORD_PREFIX_BYTES)
            ring_read(region, tail, &len, sizeof len);
        if (unread > BOARD_RECORD_RING_BYTES || unread < RECORD_PREFIX_BYTES || len > unread - RECORD_PREFIX_BYTES) {
            tail = head; /* a worker gone wild wrote over its region: what cannot be told apart is given up */
            break;
        }
        char *at;
        bool fits = len < buf_room(out);
        if (!fits && out->len > 0)
            break;
        if (fits) { /* else longer than the buffer can ever hold: skipped, or it would stop the ring for good */
            if (buf_reserve(out, (size_t)len + 1, &at) != OK)
                break;
            ring_read(region, tail + RECORD_PREFIX_BYTES, at, len);
            at[len] = '\n';
            buf_commit(out, (size_t)len + 1);
            taken++;
        }
        tail += RECORD_PREFIX_BYTES + len;
    }
    atomic_store_explicit(&region->record_tail, tail, memory_order_release);
    return taken;
}
