/* files.c - a policy's files on disk; the only file of this folder that touches the system. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/file.h"
#include "controlplane/policy/policy.h"
#include <errno.h>
#include <glob.h>

static const char *path_text(struct span path, char out[4096])
{
    int n = snprintf(out, 4096, SPAN_FMT, SPAN_ARG(path));
    return n < 0 || n >= 4096 ? NULL : out;
}

static enum err disk_read(void *user, struct span path, struct buf *text)
{
    (void)user;
    char name[4096];
    return path_text(path, name) ? file_read(name, buf_room(text), text) : ERR_NOT_FOUND;
}

static enum err copy_paths(struct arena *arena, const glob_t *found, struct span_list *ret)
{
    struct span *paths = ARENA_ARRAY(arena, found->gl_pathc + 1, struct span);
    if (!paths)
        return ERR_NOMEM;
    uint32_t count = 0;
    for (size_t i = 0; i < found->gl_pathc && count <= POLICY_FILES_MAX; i++) {
        paths[count] = arena_dup(arena, span_cstr(found->gl_pathv[i]));
        if (!paths[count++].ptr)
            return ERR_NOMEM;
    }
    *ret = (struct span_list){ .items = paths, .count = count };
    return OK;
}

/* A folder that is not there matches nothing; one that cannot be read may hide what is meant, and stops the search. */
static int stop_unless_missing(const char *path, int error)
{
    (void)path;
    return error != ENOENT && error != ENOTDIR;
}

/* glob(3) sorts by the locale; the order of includes is of no effect beyond the order of messages. */
static enum err disk_glob(void *user, struct span pattern, struct arena *arena, struct span_list *ret_paths)
{
    (void)user;
    char name[4096];
    glob_t found;
    *ret_paths = (struct span_list){ 0 };
    if (!path_text(pattern, name))
        return OK;
    int answer = glob(name, 0, stop_unless_missing, &found);
    enum err err = answer == GLOB_NOSPACE ? ERR_NOMEM : answer == GLOB_ABORTED ? ERR_IO : OK;
    if (answer == 0)
        err = copy_paths(arena, &found, ret_paths);
    globfree(&found);
    return err;
}

const struct policy_source policy_files = { .read = disk_read, .glob = disk_glob };
