#include "proto/record_dir.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include "proto/record.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define PREFIX     "records-"
#define SUFFIX     ".jsonl"
#define FORM       "20261122T104500.123Z"
#define READ_BYTES (1u << 20)

_Static_assert(sizeof(PREFIX FORM SUFFIX) <= RECORD_FILE_NAME_BYTES, "a name fits");

int64_t record_file_begun_ms(const char *name)
{
    char text[CLOCK_TEXT_BYTES];
    int64_t ms;
    const char *d = name + sizeof(PREFIX) - 1;
    const struct span whole = span_cstr(name);
    if (whole.len != sizeof(PREFIX FORM SUFFIX) - 1 || !span_starts(whole, SPAN(PREFIX)) ||
        !span_ends(whole, SPAN(SUFFIX)))
        return 0;
    (void)snprintf(text, sizeof(text), "%.4s-%.2s-%.5s:%.2s:%.7s", d, d + 4, d + 6, d + 11, d + 13);
    return clock_parse_wall(span_cstr(text), &ms) == OK ? ms : 0;
}

void record_file_next_name(const char *newest, int64_t now_ms, char out[RECORD_FILE_NAME_BYTES])
{
    char text[CLOCK_TEXT_BYTES], stamp[CLOCK_TEXT_BYTES];
    const int64_t after_ms = record_file_begun_ms(newest) + 1;
    size_t n = 0;
    for (const char *c = clock_format_wall(now_ms > after_ms ? now_ms : after_ms, text); *c; c++) {
        if (*c != '-' && *c != ':')
            stamp[n++] = *c;
    }
    stamp[n] = '\0';
    (void)snprintf(out, RECORD_FILE_NAME_BYTES, PREFIX "%s" SUFFIX, stamp);
}

/* ---- lists ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static enum err add(struct record_dir *files, const char *name)
{
    if ((files->count & (files->count - 1)) == 0) { /* room doubles at each power of two */
        char(*more)[RECORD_FILE_NAME_BYTES] =
            fault_realloc(files->names, (files->count ? 2 * files->count : 1) * sizeof(*files->names));
        if (!more)
            return ERR_NOMEM;
        files->names = more;
    }
    memcpy(files->names[files->count++], name, sizeof(PREFIX FORM SUFFIX)); /* they are all of this length */
    return OK;
}

enum err record_dir_list(const char *dir, struct record_dir *ret)
{
    struct record_dir files = { .count = 0 };
    enum err err = OK;
    DIR *stream = opendir(dir);
    if (!stream && errno != ENOENT)
        return errno == EACCES ? ERR_DENIED : errno == ENOMEM ? ERR_NOMEM : ERR_IO;
    for (const struct dirent *entry; !err && stream && (entry = readdir(stream));) {
        if (record_file_begun_ms(entry->d_name) != 0)
            err = add(&files, entry->d_name);
    }
    if (stream)
        (void)closedir(stream);
    if (err) {
        record_dir_release(&files);
        return err;
    }
    if (files.count > 1)
        qsort(files.names, files.count, sizeof(*files.names), by_name);
    *ret = files;
    return OK;
}

void record_dir_release(struct record_dir *files)
{
    free(files->names);
    *files = (struct record_dir){ .count = 0 };
}

/* ---- lines ---- */

bool record_line_good(struct span line)
{
    return line.len >= 2 && line.len <= RECORD_LINE_MAX && line.ptr[0] == '{' && line.ptr[line.len - 1] == '}' &&
           span_find_byte(line, '\0') == SIZE_MAX;
}

struct walk {
    record_visit *visit;
    void *user;
    bool since;
    char since_text[CLOCK_TEXT_BYTES]; /* compares with a line's time as text: both are in UTC, of one width */
};

static enum err visit_line(const struct walk *walk, struct span line)
{
    const struct span begins = SPAN("{\"time\":\"");
    if (!record_line_good(line) || span_starts(line, SPAN("{\"kind\":")))
        return OK;
    const size_t width = strlen(walk->since_text);
    if (walk->since && line.len > begins.len + width && span_starts(line, begins) &&
        memcmp(line.ptr + begins.len, walk->since_text, width) < 0)
        return OK;
    return walk->visit(walk->user, line);
}

/* Takes the whole lines of what was read so far. */
static enum err visit_lines(const struct walk *walk, struct buf *text)
{
    struct span rest = buf_span(text);
    enum err err = OK;
    for (size_t end; !err && (end = span_find_byte(rest, '\n')) != SIZE_MAX; rest = span_skip(rest, end + 1))
        err = visit_line(walk, span_head(rest, end));
    buf_consume(text, text->len - rest.len);
    return err;
}

static enum err visit_file(const struct walk *walk, int fd, struct buf *text)
{
    buf_clear(text);
    for (;;) {
        char *at;
        enum err err = buf_reserve(text, READ_BYTES, &at);
        if (err == ERR_FULL) { /* a line without end is none of ours */
            buf_clear(text);
            continue;
        }
        if (err)
            return err;
        const ssize_t n = fault_hit(FAULT_READ) ? -1 : read(fd, at, READ_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? ERR_IO : OK;
        buf_commit(text, (size_t)n);
        err = visit_lines(walk, text);
        if (err)
            return err;
    }
}

static enum err visit_named(const struct walk *walk, const char *dir, const char *name, struct buf *text)
{
    char *path = file_join(dir, name);
    const int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    enum err err = path ? OK : ERR_NOMEM;
    if (path && fd < 0)
        err = errno == ENOENT ? OK : ERR_IO; /* removed meanwhile */
    else if (path)
        err = visit_file(walk, fd, text);
    if (fd >= 0)
        (void)close(fd);
    free(path);
    return err;
}

enum err record_dir_each(const char *dir, int64_t since_ms, record_visit *visit, void *user)
{
    struct walk walk = { .visit = visit, .user = user, .since = since_ms > 0 };
    struct record_dir files;
    struct buf text = BUF_INIT(READ_BYTES + RECORD_LINE_MAX + 1);
    (void)clock_format_wall(since_ms, walk.since_text);
    enum err err = record_dir_list(dir, &files);
    if (err)
        return err;
    for (size_t i = 0; !err && i < files.count; i++) {
        /* All that a file holds had come before the next one was begun. */
        const bool older =
            i + 1 < files.count && record_file_begun_ms(files.names[i + 1]) < since_ms - RECORD_DIR_SKEW_MS;
        if (!older)
            err = visit_named(&walk, dir, files.names[i], &text);
    }
    buf_release(&text);
    record_dir_release(&files);
    return err;
}
