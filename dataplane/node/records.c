#include "dataplane/node/records.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX          "records-"
#define SUFFIX          ".jsonl"
#define NAME_BYTES      64u
#define TAIL_BYTES      (64u << 10) /* more than the longest line: where a torn one ends */
#define LINES_BYTES_MAX (2u * BOARD_RECORD_RING_BYTES)

struct listing { /* names sort by time */
    char oldest[NAME_BYTES], newest[NAME_BYTES];
    uint64_t count;
};

static bool list(const struct records *r, struct listing *ret)
{
    DIR *dir = opendir(r->dir);
    if (!dir)
        return false;
    *ret = (struct listing){ .count = 0 };
    for (const struct dirent *entry; (entry = readdir(dir));) {
        const struct span name = span_cstr(entry->d_name);
        if (!span_starts(name, SPAN(PREFIX)) || !span_ends(name, SPAN(SUFFIX)) || name.len >= NAME_BYTES)
            continue;
        if (ret->count == 0 || strcmp(entry->d_name, ret->oldest) < 0)
            memcpy(ret->oldest, name.ptr, name.len + 1);
        if (ret->count == 0 || strcmp(entry->d_name, ret->newest) > 0)
            memcpy(ret->newest, name.ptr, name.len + 1);
        ret->count++;
    }
    (void)closedir(dir);
    return true;
}

static int open_at(const struct records *r, const char *name, int flags)
{
    char *path = file_join(r->dir, name);
    const int fd = path ? open(path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW | flags, 0600) : -1;
    free(path);
    return fd;
}

static void remove_oldest(const struct records *r)
{
    struct listing now;
    while (list(r, &now) && now.count > r->segments_max) {
        char *path = file_join(r->dir, now.oldest);
        const bool removed = path && unlink(path) == 0;
        free(path);
        if (!removed)
            return;
    }
}

/* When the segment of this name was begun; 0 when the name is none of ours. "records-20261122T104500.123Z.jsonl" */
static int64_t begun_ms(const char *name)
{
    char text[CLOCK_TEXT_BYTES];
    int64_t ms;
    const char *d = name + sizeof(PREFIX) - 1;
    if (strlen(name) != sizeof(PREFIX "20261122T104500.123Z" SUFFIX) - 1)
        return 0;
    (void)snprintf(text, sizeof(text), "%.4s-%.2s-%.5s:%.2s:%.7s", d, d + 4, d + 6, d + 11, d + 13);
    return clock_parse_wall(span_cstr(text), &ms) == OK ? ms : 0;
}

/* Later than any that is there: two may begin in one millisecond, and a clock may be set back. */
static void next_name(const char *newest, char *out)
{
    char text[CLOCK_TEXT_BYTES], stamp[CLOCK_TEXT_BYTES];
    const int64_t now_ms = clock_wall_ms(), after_ms = begun_ms(newest) + 1;
    size_t n = 0;
    for (const char *c = clock_format_wall(now_ms > after_ms ? now_ms : after_ms, text); *c; c++) {
        if (*c != '-' && *c != ':')
            stamp[n++] = *c;
    }
    stamp[n] = '\0';
    (void)snprintf(out, NAME_BYTES, PREFIX "%s" SUFFIX, stamp);
}

static enum err open_next(struct records *r)
{
    struct listing now = { .count = 0 };
    char name[NAME_BYTES];
    if (!list(r, &now))
        return ERR_IO;
    next_name(now.newest, name);
    r->fd = open_at(r, name, O_CREAT | O_EXCL);
    if (r->fd < 0)
        return errno == ENOSPC ? ERR_NOSPACE : ERR_IO;
    r->bytes = 0;
    remove_oldest(r);
    return OK;
}

/* Length up to the end of the last whole line. */
static off_t whole_bytes(int fd, off_t size)
{
    char tail[4096];
    for (off_t end = size; end > 0 && size - end < (off_t)TAIL_BYTES;) {
        const size_t n = size_min(sizeof(tail), (size_t)end);
        if (pread(fd, tail, n, end - (off_t)n) != (ssize_t)n)
            return size;
        for (size_t i = n; i > 0; i--) {
            if (tail[i - 1] == '\n')
                return end - (off_t)(n - i);
        }
        end -= (off_t)n;
    }
    return size < (off_t)TAIL_BYTES ? 0 : size; /* no line of ours is that long: leave it alone */
}

/* Goes on with the newest segment when it has room, so that restarts do not use up segments. */
static void continue_newest(struct records *r)
{
    struct listing now;
    struct stat status;
    if (!list(r, &now) || now.count == 0)
        return;
    const int fd = open_at(r, now.newest, 0);
    if (fd < 0)
        return;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode) || (uint64_t)status.st_size >= r->segment_bytes_max) {
        (void)close(fd);
        return;
    }
    const off_t whole = whole_bytes(fd, status.st_size);
    if (whole != status.st_size && ftruncate(fd, whole)) {
        (void)close(fd);
        return;
    }
    r->fd = fd;
    r->bytes = (uint64_t)whole;
}

enum err records_open(struct records *r, const char *dir, uint64_t segment_bytes_max, uint64_t segments_max)
{
    *r = (struct records){ .fd = -1, .segment_bytes_max = segment_bytes_max, .segments_max = segments_max };
    buf_init(&r->lines, LINES_BYTES_MAX);
    enum err err = file_make_dirs(dir, 0700);
    if (err)
        return err;
    r->dir = strdup(dir);
    if (!r->dir)
        return ERR_NOMEM;
    continue_newest(r);
    return OK;
}

void records_close(struct records *r)
{
    if (r->fd >= 0)
        (void)close(r->fd);
    r->fd = -1;
    free(r->dir);
    r->dir = NULL;
    buf_release(&r->lines);
}

/* All of it or nothing: what was written of a line that did not fit is taken back. */
static enum err append(struct records *r, struct span bytes)
{
    size_t done = 0;
    while (done < bytes.len) {
        ssize_t n = -1;
        if (fault_hit(FAULT_WRITE))
            errno = ENOSPC;
        else
            n = write(r->fd, bytes.ptr + done, bytes.len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            const enum err err = errno == ENOSPC || errno == EDQUOT ? ERR_NOSPACE : ERR_IO;
            if (done > 0 && ftruncate(r->fd, (off_t)r->bytes) != 0) {
                (void)close(r->fd);
                r->fd = -1;
            }
            return err;
        }
        done += (size_t)n;
    }
    r->bytes += done;
    return OK;
}

static enum err write_lines(struct records *r)
{
    enum err err = OK;
    if (r->fd >= 0 && r->bytes > 0 && r->bytes + r->lines.len > r->segment_bytes_max) {
        (void)close(r->fd);
        r->fd = -1;
    }
    if (r->fd < 0)
        err = open_next(r);
    return err ? err : append(r, buf_span(&r->lines));
}

void records_drain(struct records *r, struct board_region *region)
{
    for (;;) {
        buf_clear(&r->lines);
        const unsigned count = board_record_take(region, &r->lines);
        if (count == 0)
            return;
        const enum err err = write_lines(r);
        if (err) {
            r->dropped += count;
            if (!r->failing)
                log_error("records.dropped", LOG_STR("directory", r->dir), LOG_ERR(err), LOG_U64("records", count));
        } else {
            r->written += count;
            if (r->failing)
                log_info("records.written_again", LOG_U64("dropped", r->dropped));
        }
        r->failing = err != OK;
    }
}
