#include "controlplane/publish/restore.h"
#include "common/arena.h"
#include "common/clock.h"
#include "controlplane/publish/versions.h"
#include "proto/snapshot.h"
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#define HEAD_ARENA_MAX ((size_t)16 << 20) /* of one decoded head */

/* Epoch of the store that is there now; 0 when there is none, or a broken one (what a backup is for). */
static enum err present_epoch(const char *store, uint64_t *ret)
{
    struct versions *versions;
    struct versions_numbers numbers = { 0 };
    *ret = 0;
    if (access(store, F_OK) != 0)
        return OK;
    enum err err = versions_open(store, &versions);
    if (!err) {
        err = versions_begin(versions, false);
        if (!err)
            err = versions_numbers(versions, &numbers);
        versions_close(versions);
    }
    *ret = numbers.epoch;
    return err == ERR_CORRUPT || err == ERR_UNSUPPORTED || err == ERR_NOT_FOUND ? OK : err;
}

/* The live head again, of the new epoch and the next generation: as the backup has it, it is of the old epoch, and a node
 * that was told to adopt the new one would refuse it as stale. */
static enum err renew_head(struct versions *versions)
{
    struct arena arena;
    struct head *head;
    arena_init(&arena, HEAD_ARENA_MAX);
    enum err err = versions_head_get(versions, &arena, 0, &head);
    if (!err)
        err = versions_head_put(versions, head);
    arena_release(&arena);
    return err == ERR_NOT_FOUND ? OK : err; /* nothing was ever live */
}

/* Above the backup's own epoch and above `present`: the same backup restored twice is two epochs. */
static enum err raise_epoch(const char *dir, uint64_t present)
{
    struct versions *versions;
    struct versions_numbers numbers;
    enum err err = versions_open(dir, &versions);
    if (err)
        return err;
    err = versions_begin(versions, true);
    do {
        if (!err)
            err = versions_raise_epoch(versions);
        if (!err)
            err = versions_numbers(versions, &numbers);
    } while (!err && numbers.epoch <= present);
    if (!err)
        err = renew_head(versions);
    if (!err)
        err = versions_commit(versions);
    versions_close(versions);
    return err;
}

/* At once where the file system can exchange two names; else there is a moment without a store, and a failed second
 * step is taken back. */
static enum err swap(const char *fresh, const char *store, const char *aside)
{
    if (renameat2(AT_FDCWD, fresh, AT_FDCWD, store, RENAME_EXCHANGE) == 0)
        return rename(fresh, aside) == 0 ? OK : ERR_IO;
    if (rename(store, aside) != 0)
        return ERR_IO;
    if (rename(fresh, store) == 0)
        return OK;
    return rename(aside, store) == 0 ? ERR_IO : ERR_CORRUPT;
}

enum err restore_store(const char *store, const char *backup_dir, char *ret_aside, size_t aside_bytes)
{
    static const char *const trees[] = { "meta" };
    const struct snapshot_options options = { .path = backup_dir, .read_only = true, .trees = trees, .tree_count = 1 };
    char fresh[PATH_MAX];
    struct snapshot *backup;
    uint64_t present = 0;
    snprintf(fresh, sizeof(fresh), "%s.restoring-%lld", store, (long long)clock_wall_ms());
    snprintf(ret_aside, aside_bytes, "%s.before-restore-%lld", store, (long long)clock_wall_ms());
    enum err err = snapshot_open(&options, &backup);
    if (err)
        return err;
    err = snapshot_copy(backup, fresh);
    snapshot_close(backup);
    if (!err)
        err = present_epoch(store, &present);
    if (!err)
        err = raise_epoch(fresh, present);
    if (err)
        return err;
    if (access(store, F_OK) == 0)
        return swap(fresh, store, ret_aside);
    ret_aside[0] = '\0';
    return rename(fresh, store) == 0 ? OK : ERR_IO;
}
