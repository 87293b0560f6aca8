#include "common/file.h"
#include "common/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_CHUNK_BYTES 65536
#define DIRS_MODE        0755 /* of parents made on the way */

static enum err err_of_errno(int number)
{
    switch (number) {
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_DENIED;
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPACE;
    case ENOMEM:
        return ERR_NOMEM;
    default:
        return ERR_IO;
    }
}

/* On the way to write, a missing directory is a failure of the system and not "no such thing". */
static enum err err_of_write_errno(int number)
{
    enum err err = err_of_errno(number);
    return err == ERR_NOT_FOUND ? ERR_IO : err;
}

static void close_keeping_errno(int fd)
{
    int kept = errno;
    (void)close(fd);
    errno = kept;
}

static ssize_t read_some(int fd, char *at, size_t n)
{
    if (fault_hit(FAULT_READ)) {
        errno = EIO;
        return -1;
    }
    ssize_t got;
    do {
        got = read(fd, at, n);
    } while (got < 0 && errno == EINTR);
    return got;
}

static enum err read_all(int fd, size_t max_bytes, struct buf *buf)
{
    for (size_t total = 0;;) {
        size_t room = size_min(size_min(max_bytes - total, buf_room(buf)), READ_CHUNK_BYTES);
        char probe, *at = &probe;
        if (room > 0) {
            enum err err = buf_reserve(buf, room, &at);
            if (err)
                return err;
        }
        ssize_t got = read_some(fd, at, size_max(room, 1));
        if (got < 0)
            return err_of_errno(errno);
        if (got == 0)
            return OK;
        if (room == 0)
            return ERR_TOO_LARGE;
        buf_commit(buf, (size_t)got);
        total += (size_t)got;
    }
}

enum err file_read(const char *path, size_t max_bytes, struct buf *buf)
{
    bool standard_input = strcmp(path, "-") == 0;
    int fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_of_errno(errno);
    size_t before = buf->len;
    enum err err = read_all(fd, max_bytes, buf);
    if (err)
        buf_truncate(buf, before);
    if (!standard_input)
        close_keeping_errno(fd);
    return err;
}

static enum err write_all(int fd, struct span bytes)
{
    while (bytes.len > 0) {
        ssize_t wrote = -1;
        if (fault_hit(FAULT_WRITE))
            errno = ENOSPC;
        else
            wrote = write(fd, bytes.ptr, bytes.len);
        if (wrote < 0 && errno != EINTR)
            return err_of_write_errno(errno);
        if (wrote > 0)
            bytes = span_skip(bytes, (size_t)wrote);
    }
    return OK;
}

static enum err sync_fd(int fd)
{
    if (fault_hit(FAULT_FSYNC)) {
        errno = EIO;
        return ERR_IO;
    }
    return fsync(fd) == 0 ? OK : err_of_write_errno(errno);
}

/* Without this the rename itself may be lost in a crash. */
static enum err sync_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    if (!dir)
        return ERR_NOMEM;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(dir);
    if (fd < 0)
        return err_of_write_errno(errno);
    enum err err = sync_fd(fd);
    close_keeping_errno(fd);
    return err;
}

static enum err write_temporary(int fd, struct span bytes, unsigned mode)
{
    if (fchmod(fd, mode) != 0)
        return err_of_write_errno(errno);
    enum err err = write_all(fd, bytes);
    return err ? err : sync_fd(fd);
}

enum err file_write_atomic(const char *path, struct span bytes, unsigned mode)
{
    static const char suffix[] = ".XXXXXX";
    size_t path_len = strlen(path);
    char *temporary = fault_malloc(path_len + sizeof suffix);
    if (!temporary)
        return ERR_NOMEM;
    memcpy(temporary, path, path_len);
    memcpy(temporary + path_len, suffix, sizeof suffix);
    int fd = mkostemp(temporary, O_CLOEXEC);
    enum err err = OK;
    if (fd < 0) {
        err = err_of_write_errno(errno);
        goto out;
    }
    err = write_temporary(fd, bytes, mode);
    close_keeping_errno(fd);
    if (!err && rename(temporary, path) != 0)
        err = err_of_write_errno(errno);
    if (err) {
        int kept = errno;
        (void)unlink(temporary);
        errno = kept;
        goto out;
    }
    err = sync_parent(path);
out:
    free(temporary);
    return err;
}

static enum err make_dir(const char *path, unsigned mode)
{
    if (mkdir(path, mode) == 0)
        return OK;
    struct stat status;
    int kept = errno;
    if (kept == EEXIST || kept == EROFS || kept == EACCES) {
        if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
            return OK;
    }
    errno = kept == EEXIST ? ENOTDIR : kept;
    return err_of_write_errno(errno);
}

enum err file_make_dirs(const char *path, unsigned mode)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    char *partial = fault_malloc(len + 1);
    if (!partial)
        return ERR_NOMEM;
    memcpy(partial, path, len);
    partial[len] = '\0';
    enum err err = OK;
    for (size_t i = 1; i < len && !err; i++) {
        if (partial[i] != '/')
            continue;
        partial[i] = '\0';
        err = make_dir(partial, DIRS_MODE);
        partial[i] = '/';
    }
    if (!err)
        err = make_dir(partial, mode);
    int kept = errno;
    free(partial);
    errno = kept;
    return err;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static long read_pid(int fd)
{
    char text[24];
    ssize_t got = pread(fd, text, sizeof text, 0);
    struct span digits = span_of(text, got > 0 ? (size_t)got : 0);
    size_t newline = span_find_byte(digits, '\n');
    uint64_t pid;
    if (span_to_u64(span_head(digits, newline), &pid) != OK || pid > INT32_MAX)
        return 0;
    return (long)pid;
}

enum err file_lock(const char *path, int *ret_fd, long *ret_pid)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_of_write_errno(errno);
    enum err err;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        err = errno == EWOULDBLOCK ? ERR_CONFLICT : ERR_IO;
        if (err == ERR_CONFLICT)
            *ret_pid = read_pid(fd);
        close_keeping_errno(fd);
        return err;
    }
    char text[24];
    int len = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0)
        err = err_of_write_errno(errno);
    else
        err = write_all(fd, span_of(text, (size_t)len));
    if (err) {
        close_keeping_errno(fd);
        return err;
    }
    *ret_fd = fd;
    return OK;
}

char *file_join(const char *dir, const char *name)
{
    size_t dir_len = strlen(dir), name_len = strlen(name);
    while (dir_len > 1 && dir[dir_len - 1] == '/')
        dir_len--;
    bool slash = dir_len > 0 && dir[dir_len - 1] != '/';
    size_t bytes = dir_len + slash + name_len + 1;
    char *joined = fault_malloc(bytes);
    if (joined)
        (void)snprintf(joined, bytes, "%.*s%s%s", (int)dir_len, dir, slash ? "/" : "", name);
    return joined;
}

static char *copy(struct span text)
{
    char *out = fault_malloc(text.len + 1);
    if (out) {
        memcpy(out, text.ptr, text.len);
        out[text.len] = '\0';
    }
    return out;
}

static const char *env_or_null(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

char *file_default_home(void)
{
    const char *value;
    if ((value = env_or_null("FAIRLEAD_HOME")))
        return copy(span_cstr(value));
    if ((value = env_or_null("STATE_DIRECTORY"))) {
        /* systemd.exec(5): several directories are separated by colons; the first is the state directory. */
        struct span rest = span_cstr(value), first;
        return span_split(&rest, ':', &first) ? copy(first) : NULL;
    }
    if ((value = env_or_null("XDG_STATE_HOME")))
        return file_join(value, "fairlead");
    if ((value = env_or_null("HOME")))
        return file_join(value, ".local/state/fairlead");
    return copy(SPAN("/var/lib/fairlead"));
}
