#include "dataplane/simulate/files.h"
#include "common/fault.h"
#include "common/file.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_SOURCES_MAX 100000u /* a directory of something else must not take the memory */

enum err files_read(const char *dir, const char *name, size_t bytes_max, struct buf *out)
{
    char *path = file_join(dir, name);
    const enum err err = path ? file_read(path, bytes_max, out) : ERR_NOMEM;
    free(path);
    return err == ERR_NOT_FOUND ? OK : err;
}

static enum err add(struct record_sources *files, unsigned *room, char *path, const struct stat *st)
{
    if (files->count == RECORD_SOURCES_MAX)
        return ERR_TOO_MANY;
    if (files->count == *room) {
        const unsigned more = *room ? *room * 2 : 64;
        struct record_source *items = fault_realloc(files->items, more * sizeof(*items));
        if (!items)
            return ERR_NOMEM;
        files->items = items;
        *room = more;
    }
    files->items[files->count++] =
        (struct record_source){ .path = path,
                                .bytes = (uint64_t)st->st_size,
                                .changed_ms = (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000 };
    files->bytes += (uint64_t)st->st_size;
    return OK;
}

/* Takes path. */
static enum err look_at(struct record_sources *files, unsigned *room, char *path, int64_t since_ms)
{
    struct stat st;
    enum err err = OK;
    if (!path)
        return ERR_NOMEM;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 &&
        (int64_t)st.st_mtim.tv_sec * 1000 + 999 >= since_ms)
        err = add(files, room, path, &st);
    else
        free(path);
    if (err)
        free(path);
    return err;
}

static enum err look_into(struct record_sources *files, unsigned *room, const char *dir, int64_t since_ms)
{
    DIR *d = opendir(dir);
    enum err err = OK;
    if (!d)
        return ERR_NOT_FOUND;
    for (const struct dirent *entry; !err && (entry = readdir(d));)
        if (entry->d_name[0] != '.')
            err = look_at(files, room, file_join(dir, entry->d_name), since_ms);
    closedir(d);
    return err;
}

static int newest_first(const void *a, const void *b)
{
    const struct record_source *x = a, *y = b;
    if (x->changed_ms != y->changed_ms)
        return x->changed_ms < y->changed_ms ? 1 : -1;
    return strcmp(y->path, x->path);
}

enum err record_sources_find(const char *const *paths, unsigned count, int64_t since_ms, struct record_sources *ret,
                             const char **ret_path)
{
    struct record_sources files = { .items = NULL };
    unsigned room = 0;
    enum err err = OK;
    for (unsigned i = 0; i < count && !err; i++) {
        struct stat st;
        *ret_path = paths[i];
        if (stat(paths[i], &st) != 0)
            err = ERR_NOT_FOUND;
        else if (S_ISDIR(st.st_mode))
            err = look_into(&files, &room, paths[i], since_ms);
        else
            err = look_at(&files, &room, strdup(paths[i]), since_ms);
    }
    if (err) {
        record_sources_release(&files);
        return err;
    }
    if (files.count > 1)
        qsort(files.items, files.count, sizeof(*files.items), newest_first);
    *ret = files;
    return OK;
}

void record_sources_release(struct record_sources *files)
{
    for (unsigned i = 0; i < files->count; i++)
        free(files->items[i].path);
    free(files->items);
    *files = (struct record_sources){ .items = NULL };
}

enum err record_lines_open(const struct record_source *file, struct record_lines *ret)
{
    struct stat st;
    struct record_lines lines = { .bytes = 0 };
    const int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    void *map = MAP_FAILED;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        lines.bytes = lines.at = (size_t)st.st_size;
        map = mmap(NULL, lines.bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    close(fd);
    if (map == MAP_FAILED)
        return ERR_IO;
    lines.map = map;
    *ret = lines;
    return OK;
}

bool record_lines_next(struct record_lines *lines, struct span *ret)
{
    size_t end = lines->at;
    if (end == 0)
        return false;
    if (lines->map[end - 1] == '\n')
        end--;
    const char *newline = end > 0 ? memrchr(lines->map, '\n', end) : NULL;
    const size_t start = newline ? (size_t)(newline - lines->map) + 1 : 0;
    *ret = span_of(lines->map + start, end - start);
    lines->at = start;
    return true;
}

void record_lines_close(struct record_lines *lines)
{
    if (lines->map)
        (void)munmap((void *)(uintptr_t)lines->map, lines->bytes);
    *lines = (struct record_lines){ .map = NULL };
}
