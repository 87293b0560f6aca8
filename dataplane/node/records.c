#include "dataplane/node/records.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/record_dir.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAIL_BYTES      (64u << 10) /* more than the longest line: where a torn one ends */
#define LINES_BYTES_MAX (2u * BOARD_RECORD_RING_BYTES)

static int open_at(const struct records *r, const char *name, int flags)
{
    char *path = file_join(r->dir, name);
    const int fd = path ? open(path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW | flags, 0600) : -1;
    free(path);
    return fd;
}

static void remove_oldest(const struct records *r)
{
    struct record_dir files;
    if (record_dir_list(r->dir, &files))
        return;
    for (size_t i = 0; files.count - i > r->segments_max; i++) {
        char *path = file_join(r->dir, files.names[i]);
        if (path && r->removing)
            r->removing(r->removing_user, files.names[i]);
        const bool removed = path && unlink(path) == 0;
        free(path);
        if (!removed)
            break;
    }
    record_dir_release(&files);
}

static enum err open_next(struct records *r)
{
    struct record_dir files;
    char name[RECORD_FILE_NAME_BYTES];
    enum err err = record_dir_list(r->dir, &files);
    if (err)
        return err;
    record_file_next_name(files.count ? files.names[files.count - 1] : "", clock_wall_ms(), name);
    record_dir_release(&files);
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
    struct record_dir files;
    struct stat status;
    if (record_dir_list(r->dir, &files))
        return;
    const int fd = files.count ? open_at(r, files.names[files.count - 1], 0) : -1;
    record_dir_release(&files);
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

void records_roll(struct records *r)
{
    if (r->fd >= 0)
        (void)close(r->fd);
    r->fd = -1;
}

void records_close(struct records *r)
{
    records_roll(r);
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
    if (r->fd >= 0 && r->bytes > 0 && r->bytes + r->lines.len > r->segment_bytes_max)
        records_roll(r);
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
