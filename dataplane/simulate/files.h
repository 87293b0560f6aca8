/* files.h - what the throwaway processes read: a simulation's directory, and record files from their end backwards. */
#pragma once
#include "common/buf.h"
#include "dataplane/simulate/setting.h"

/* A file of a simulation's directory; one that is not there is empty. Errors of file_read but ERR_NOT_FOUND. */
MUST_CHECK enum err files_read(const char *dir, const char *name, size_t bytes_max, struct buf *out);

struct record_source {
    char *path;
    uint64_t bytes;
    int64_t changed_ms;
};
struct record_sources {
    struct record_source *items; /* newest first */
    unsigned count;
    uint64_t bytes;
};
/* Files, and those in directories (not below), without those that were last written before since_ms. ERR_NOT_FOUND:
 * *ret_path, of paths, cannot be read. ERR_NOMEM. */
MUST_CHECK enum err record_sources_find(const char *const *paths, unsigned count, int64_t since_ms,
                                        struct record_sources *ret, const char **ret_path);
void record_sources_release(struct record_sources *files);

/* One file, mapped; lines are given from the last to the first. */
struct record_lines {
    const char *map;
    size_t bytes, at; /* what stands before `at` was not given yet */
};
MUST_CHECK enum err record_lines_open(const struct record_source *file, struct record_lines *ret); /* ERR_IO */
bool record_lines_next(struct record_lines *lines, struct span *ret);                              /* without newline */
void record_lines_close(struct record_lines *lines);
