#include "controlplane/evidence/recordstore.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "common/strmap.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define STORE_VERSION    1u
#define FILE_BYTES_LEAST (1ull << 20)
#define FILE_BYTES_MOST  (64ull << 20) /* what goes at once when all are too large, and is read at a start */
#define FILES_OF_A_STORE 16u
#define HEADER_BYTES_MAX 2048u /* names of NAME_BYTES_MAX with every byte escaped, and some numbers */
#define PLACES_BYTES_MAX ((size_t)RECORDSTORE_NODES_MAX * 1024)
#define PREAMBLE_MAX     ((size_t)RECORDSTORE_NODES_MAX * HEADER_BYTES_MAX)
#define LINE_ARENA_MAX   ((size_t)1 << 20)
#define SUM_HEX_BYTES    17u

struct place { /* where a node stands */
    struct span node;
    char segment[RECORD_FILE_NAME_BYTES];
    uint64_t offset;
};

struct recordstore {
    char *dir;
    uint64_t bytes_max, file_bytes_max;
    int fd; /* of the newest file; -1: the next batch begins one */
    char name[RECORD_FILE_NAME_BYTES];
    uint64_t file_bytes;
    bool torn; /* a write failed half way, and what it left could not be taken back yet */
    bool failing;
    struct arena arena; /* of places */
    struct strmap places;
    struct buf out;
    struct arena line_arena;
    void (*taken)(void *user, const struct record *record);
    void *taken_user;
    struct recordstore_stats stats;
};

/* ---- where nodes stand ---- */

static bool name_good(struct span name, size_t bytes_max)
{
    for (size_t i = 0; i < name.len; i++) {
        if ((unsigned char)name.ptr[i] <= ' ' || (unsigned char)name.ptr[i] >= 0x7f)
            return false;
    }
    return name.len > 0 && name.len <= bytes_max;
}

/* Made when it is not there. ERR_TOO_MANY, ERR_NOMEM. */
static enum err place_of(struct recordstore *rs, struct span node, struct place **ret)
{
    struct place *place = strmap_get(&rs->places, node);
    if (!place) {
        if (rs->places.count >= RECORDSTORE_NODES_MAX)
            return ERR_TOO_MANY;
        place = ARENA_NEW(&rs->arena, struct place);
        if (!place)
            return ERR_NOMEM;
        place->node = arena_dup(&rs->arena, node);
        const enum err err = place->node.ptr ? strmap_put(&rs->places, place->node, place) : ERR_NOMEM;
        if (err)
            return err;
    }
    *ret = place;
    return OK;
}

static void place_set(struct place *place, struct span segment, uint64_t offset)
{
    memcpy(place->segment, segment.ptr, segment.len);
    place->segment[segment.len] = '\0';
    place->offset = offset;
}

void recordstore_position(const struct recordstore *rs, struct span node, struct span *ret_segment,
                          uint64_t *ret_offset)
{
    const struct place *place = strmap_get(&rs->places, node);
    *ret_segment = place ? span_cstr(place->segment) : SPAN("");
    *ret_offset = place ? place->offset : 0;
}

/* ---- what stands in a file beside the lines ---- */

static char *sum_of(struct span lines, char out[SUM_HEX_BYTES])
{
    static const uint8_t key[16] = { 0 }; /* against torn ends, not against people */
    (void)snprintf(out, SUM_HEX_BYTES, "%016llx", (unsigned long long)siphash24(key, lines));
    return out;
}

static enum err write_batch(struct buf *out, const struct recordstore_batch *batch)
{
    char sum[SUM_HEX_BYTES];
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_cstr(&w, "kind", "batch");
    json_member_string(&w, "node", batch->node);
    json_member_string(&w, "segment", batch->segment);
    json_member_u64(&w, "from", batch->from);
    json_member_u64(&w, "to", batch->to);
    json_member_u64(&w, "bytes", batch->lines.len);
    json_member_cstr(&w, "sum", sum_of(batch->lines, sum));
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    if (!err)
        err = buf_append_byte(out, '\n');
    return err ? err : buf_append(out, batch->lines);
}

static enum err write_preamble(const struct recordstore *rs, struct buf *out)
{
    struct span node;
    void *value;
    enum err err = buf_printf(out, "{\"kind\":\"store\",\"version\":%u}\n", STORE_VERSION);
    for (size_t at = 0; !err && strmap_each(&rs->places, &at, &node, &value);) {
        const struct place *place = value;
        struct json_writer w;
        if (place->segment[0] == '\0') /* asked, but nothing came of it */
            continue;
        json_writer_init(&w, out);
        json_object_open(&w);
        json_member_cstr(&w, "kind", "position");
        json_member_string(&w, "node", node);
        json_member_cstr(&w, "segment", place->segment);
        json_member_u64(&w, "offset", place->offset);
        json_object_close(&w);
        err = json_writer_end(&w);
        if (!err)
            err = buf_append_byte(out, '\n');
    }
    return err;
}

struct header {
    struct span kind, node, segment, sum;
    uint64_t version, offset, to, bytes;
};

static enum err read_header(struct arena *arena, struct span line, struct header *ret)
{
    static const struct json_limits limits = { .bytes_max = HEADER_BYTES_MAX, .depth_max = 2, .tokens_max = 64 };
    struct json_index ix;
    *ret = (struct header){ .version = 0 };
    const struct {
        const char *name;
        struct span *text;
        uint64_t *number;
    } members[] = {
        { "kind", &ret->kind, NULL }, { "node", &ret->node, NULL },       { "segment", &ret->segment, NULL },
        { "sum", &ret->sum, NULL },   { "version", NULL, &ret->version }, { "offset", NULL, &ret->offset },
        { "to", NULL, &ret->to },     { "bytes", NULL, &ret->bytes },
    };
    enum err err = json_index(arena, line, &limits, &ix, NULL);
    for (size_t i = 0; !err && i < ARRAY_LEN(members); i++) {
        const uint32_t token = json_get(&ix, 0, span_cstr(members[i].name));
        if (token != JSON_NONE)
            err = members[i].text ? json_string(arena, &ix, token, members[i].text)
                                  : json_u64(&ix, token, members[i].number);
    }
    return err == OK || err == ERR_NOMEM ? err : ERR_CORRUPT;
}

static enum err take_place(struct recordstore *rs, const struct header *h, uint64_t offset)
{
    struct place *place;
    if (!name_good(h->node, NAME_BYTES_MAX) || !name_good(h->segment, RECORD_FILE_NAME_BYTES - 1))
        return ERR_CORRUPT;
    const enum err err = place_of(rs, h->node, &place);
    if (!err)
        place_set(place, h->segment, offset);
    return err;
}

/* One line of the store's own at the start of *rest, and the lines that follow a batch. ERR_CORRUPT: *rest is as it was,
 * and nothing behind it can be trusted. */
static enum err take_header(struct recordstore *rs, struct arena *arena, struct span *rest)
{
    struct header h;
    char sum[SUM_HEX_BYTES];
    const size_t end = span_find_byte(span_head(*rest, HEADER_BYTES_MAX), '\n');
    if (end == SIZE_MAX)
        return ERR_CORRUPT;
    arena_reset(arena);
    struct span behind = span_skip(*rest, end + 1);
    enum err err = read_header(arena, span_head(*rest, end), &h);
    if (err)
        return err;
    if (span_eq(h.kind, SPAN("batch"))) {
        if (h.bytes > behind.len || !span_eq(h.sum, span_cstr(sum_of(span_head(behind, h.bytes), sum))))
            return ERR_CORRUPT;
        err = take_place(rs, &h, h.to);
        behind = span_skip(behind, h.bytes);
    } else if (span_eq(h.kind, SPAN("position"))) {
        err = take_place(rs, &h, h.offset);
    } else if (!span_eq(h.kind, SPAN("store")) || h.version > STORE_VERSION) {
        return ERR_CORRUPT;
    }
    if (!err)
        *rest = behind;
    return err;
}

/* ---- open ---- */

static enum err open_file(struct recordstore *rs, const char *name)
{
    struct stat status;
    char *path = file_join(rs->dir, name);
    const int fd = path ? open(path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW) : -1;
    free(path);
    if (fd < 0)
        return !path ? ERR_NOMEM : errno == EACCES ? ERR_DENIED : ERR_IO;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode)) {
        (void)close(fd);
        return ERR_IO;
    }
    rs->fd = fd;
    rs->file_bytes = (uint64_t)status.st_size;
    memcpy(rs->name, name, strlen(name) + 1);
    return OK;
}

static enum err cut(struct recordstore *rs, uint64_t to)
{
    if (ftruncate(rs->fd, (off_t)to))
        return ERR_IO;
    log_warn("recordstore.cut", LOG_STR("file", rs->name), LOG_U64("bytes", rs->file_bytes - to));
    rs->stats.held_bytes -= rs->file_bytes - to;
    rs->file_bytes = to;
    return OK;
}

static enum err read_newest(struct recordstore *rs)
{
    struct buf text = BUF_INIT(2 * (FILE_BYTES_MOST + RECORDS_BATCH_BYTES_MAX) + PREAMBLE_MAX);
    struct arena arena;
    char *path = file_join(rs->dir, rs->name);
    arena_init(&arena, 64 * HEADER_BYTES_MAX);
    enum err err = path ? file_read(path, text.max, &text) : ERR_NOMEM;
    struct span rest = buf_span(&text);
    if (!err && !span_starts(rest, SPAN("{\"kind\":\"store\",")))
        err = ERR_CORRUPT;
    while (!err && rest.len > 0)
        err = take_header(rs, &arena, &rest);
    if (err == ERR_CORRUPT && rest.len < text.len) /* it begins as one of ours */
        err = cut(rs, text.len - rest.len);
    free(path);
    arena_release(&arena);
    buf_release(&text);
    return err;
}

static enum err count_held(struct recordstore *rs, const struct record_dir *files)
{
    for (size_t i = 0; i < files->count; i++) {
        struct stat status;
        char *path = file_join(rs->dir, files->names[i]);
        if (!path)
            return ERR_NOMEM;
        if (stat(path, &status) == 0)
            rs->stats.held_bytes += (uint64_t)status.st_size;
        free(path);
    }
    rs->stats.files = files->count;
    return OK;
}

enum err recordstore_open(const char *dir, uint64_t bytes_max, struct recordstore **ret)
{
    struct record_dir files = { .count = 0 };
    struct recordstore *rs = fault_calloc(1, sizeof(*rs));
    if (!rs)
        return ERR_NOMEM;
    rs->fd = -1;
    rs->bytes_max = bytes_max > RECORDSTORE_BYTES_LEAST ? bytes_max : RECORDSTORE_BYTES_LEAST;
    rs->file_bytes_max = rs->bytes_max / FILES_OF_A_STORE;
    rs->file_bytes_max = rs->file_bytes_max < FILE_BYTES_LEAST ? FILE_BYTES_LEAST : rs->file_bytes_max;
    rs->file_bytes_max = rs->file_bytes_max > FILE_BYTES_MOST ? FILE_BYTES_MOST : rs->file_bytes_max;
    arena_init(&rs->arena, PLACES_BYTES_MAX);
    arena_init(&rs->line_arena, LINE_ARENA_MAX);
    strmap_init(&rs->places, &rs->arena);
    buf_init(&rs->out, RECORDS_BATCH_BYTES_MAX + HEADER_BYTES_MAX);
    rs->dir = strdup(dir);
    enum err err = rs->dir ? file_make_dirs(dir, 0700) : ERR_NOMEM;
    if (!err)
        err = record_dir_list(dir, &files);
    if (!err)
        err = count_held(rs, &files);
    if (!err && files.count > 0)
        err = open_file(rs, files.names[files.count - 1]);
    if (!err && rs->fd >= 0)
        err = read_newest(rs);
    record_dir_release(&files);
    if (err)
        recordstore_close(rs);
    else
        *ret = rs;
    return err;
}

void recordstore_close(struct recordstore *rs)
{
    if (!rs)
        return;
    if (rs->fd >= 0)
        (void)close(rs->fd);
    arena_release(&rs->arena);
    arena_release(&rs->line_arena);
    buf_release(&rs->out);
    free(rs->dir);
    free(rs);
}

/* ---- append ---- */

/* The oldest go until `more` bytes fit; the newest stays. */
static void make_room(struct recordstore *rs, uint64_t more)
{
    struct record_dir files;
    if (rs->stats.held_bytes + more <= rs->bytes_max || record_dir_list(rs->dir, &files))
        return;
    for (size_t i = 0; i + 1 < files.count && rs->stats.held_bytes + more > rs->bytes_max; i++) {
        struct stat status;
        char *path = file_join(rs->dir, files.names[i]);
        const bool removed = path && stat(path, &status) == 0 && unlink(path) == 0;
        free(path);
        if (!removed)
            break;
        log_info("recordstore.removed", LOG_STR("file", files.names[i]), LOG_U64("bytes", (uint64_t)status.st_size));
        rs->stats.held_bytes -= (uint64_t)status.st_size;
        rs->stats.files--;
    }
    record_dir_release(&files);
}

static enum err begin_file(struct recordstore *rs)
{
    char name[RECORD_FILE_NAME_BYTES];
    struct buf preamble = BUF_INIT(PREAMBLE_MAX);
    struct record_dir files;
    if (rs->fd >= 0 && fdatasync(rs->fd)) /* positions in the new file must not outlive the lines in this one */
        return ERR_IO;
    enum err err = record_dir_list(rs->dir, &files);
    if (err)
        return err;
    record_file_next_name(files.count ? files.names[files.count - 1] : "", clock_wall_ms(), name);
    record_dir_release(&files);
    err = write_preamble(rs, &preamble);
    char *path = err ? NULL : file_join(rs->dir, name);
    if (!err)
        err = path ? file_write_atomic(path, buf_span(&preamble), 0600) : ERR_NOMEM;
    free(path);
    buf_release(&preamble);
    if (err)
        return err;
    if (rs->fd >= 0)
        (void)close(rs->fd);
    rs->fd = -1;
    rs->stats.files++;
    err = open_file(rs, name);
    if (!err)
        rs->stats.held_bytes += rs->file_bytes;
    return err;
}

/* All of it or nothing. What could not be taken back is taken back before the next write. */
static enum err write_out(struct recordstore *rs)
{
    const struct span bytes = buf_span(&rs->out);
    size_t done = 0;
    if (rs->torn && ftruncate(rs->fd, (off_t)rs->file_bytes))
        return ERR_IO;
    rs->torn = false;
    while (done < bytes.len) {
        ssize_t n = -1;
        if (fault_hit(FAULT_WRITE))
            errno = ENOSPC;
        else
            n = write(rs->fd, bytes.ptr + done, bytes.len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            const enum err err = errno == ENOSPC || errno == EDQUOT ? ERR_NOSPACE : ERR_IO;
            rs->torn = done > 0 && ftruncate(rs->fd, (off_t)rs->file_bytes) != 0;
            return err;
        }
        done += (size_t)n;
    }
    rs->file_bytes += done;
    rs->stats.held_bytes += done;
    return OK;
}

static bool lines_good(struct span lines)
{
    for (size_t end; lines.len > 0; lines = span_skip(lines, end + 1)) {
        end = span_find_byte(lines, '\n');
        if (end == SIZE_MAX || !record_line_good(span_head(lines, end)))
            return false;
    }
    return true;
}

static bool batch_good(const struct recordstore_batch *b)
{
    return name_good(b->node, NAME_BYTES_MAX) && b->segment.len < RECORD_FILE_NAME_BYTES && b->segment.ptr &&
           name_good(b->segment, RECORD_FILE_NAME_BYTES - 1) && b->from <= b->to &&
           b->lines.len <= RECORDS_BATCH_BYTES_MAX && b->lines.len <= b->to - b->from && lines_good(b->lines);
}

static void tell(struct recordstore *rs, struct span lines)
{
    for (size_t end; lines.len > 0; lines = span_skip(lines, end + 1)) {
        struct record record;
        end = span_find_byte(lines, '\n');
        arena_reset(&rs->line_arena);
        rs->stats.lines++;
        rs->stats.bytes += end + 1;
        if (record_read(&rs->line_arena, span_head(lines, end), &record))
            rs->stats.unreadable++;
        else if (rs->taken)
            rs->taken(rs->taken_user, &record);
    }
}

static enum err store(struct recordstore *rs, const struct recordstore_batch *batch)
{
    buf_clear(&rs->out);
    enum err err = write_batch(&rs->out, batch);
    if (err)
        return err == ERR_FULL ? ERR_INVALID : err;
    make_room(rs, rs->out.len);
    if (rs->fd < 0 || (rs->file_bytes + rs->out.len > rs->file_bytes_max && !rs->torn))
        err = begin_file(rs);
    return err ? err : write_out(rs);
}

static void tell_failing(struct recordstore *rs, enum err err)
{
    const bool failing = err == ERR_NOSPACE || err == ERR_IO;
    if (failing && !rs->failing)
        log_error("recordstore.write", LOG_STR("directory", rs->dir), LOG_ERR(err),
                  LOG_STR("hint", "nodes keep their records and ship them again"));
    else if (err == OK && rs->failing)
        log_info("recordstore.written_again", LOG_STR("directory", rs->dir));
    if (failing || err == OK)
        rs->failing = failing;
}

enum err recordstore_append(struct recordstore *rs, const struct recordstore_batch *batch)
{
    struct place *place;
    if (!batch_good(batch))
        return ERR_INVALID;
    enum err err = place_of(rs, batch->node, &place);
    if (err)
        return err;
    const int order = span_cmp(batch->segment, span_cstr(place->segment));
    if (order < 0 || batch->from != (order == 0 ? place->offset : 0)) {
        rs->stats.refused++;
        return ERR_CONFLICT;
    }
    if (batch->to == batch->from)
        return OK;
    err = store(rs, batch);
    tell_failing(rs, err);
    if (err)
        return err;
    place_set(place, batch->segment, batch->to);
    tell(rs, batch->lines);
    return OK;
}

/* ---- the rest ---- */

void recordstore_listen(struct recordstore *rs, void (*taken)(void *user, const struct record *record), void *user)
{
    rs->taken = taken;
    rs->taken_user = user;
}

enum err recordstore_each(const struct recordstore *rs, int64_t since_ms, record_visit *visit, void *user)
{
    return record_dir_each(rs->dir, since_ms, visit, user);
}

const char *recordstore_dir(const struct recordstore *rs)
{
    return rs->dir;
}

struct recordstore_stats recordstore_stats(const struct recordstore *rs)
{
    struct recordstore_stats stats = rs->stats;
    stats.nodes = rs->places.count;
    return stats;
}
