#include "proto/snapshot.h"
#include "proto/snapshot_check.h"
#include "common/fault.h"
#include "common/file.h"
#include "common/log.h"

#include <lmdb.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#define READERS_MAX                                                                                                    \
    254u /* 64 workers, their replacements, tools: a store never refuses a worker for want of a slot                   \
          */
#define READ_TRIES 16u
#define FILE_MODE  0600

struct snapshot_txn {
    struct snapshot *snapshot;
    MDB_txn *txn;    /* of the reader: kept between reads, reset */
    enum err failed; /* of the writer: the first failed change; the commit then fails with it */
    bool writes;
    bool open;
};

struct snapshot {
    MDB_env *env;
    struct snapshot_txn reader, writer;
    unsigned tree_count;
    MDB_dbi trees[SNAPSHOT_TREES_MAX];
};

static enum err err_of(int rc)
{
    switch (rc) {
    case MDB_SUCCESS:
        return OK;
    case MDB_NOTFOUND:
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_INCOMPATIBLE:
        return ERR_CORRUPT;
    case MDB_VERSION_MISMATCH:
        return ERR_UNSUPPORTED;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPACE;
    case MDB_MAP_RESIZED: /* another process writes beyond the map that this one was opened with */
    case EBUSY:
    case EAGAIN:
        return ERR_CONFLICT;
    case MDB_READERS_FULL:
        return ERR_TOO_MANY;
    case MDB_BAD_VALSIZE:
        return ERR_INVALID;
    case MDB_KEYEXIST:
    case EEXIST:
        return ERR_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_DENIED;
    case ENOMEM:
        return ERR_NOMEM;
    default:
        /* Among them MDB_PANIC: a meta page could not be written, and LMDB refuses all work until the store is opened
         * anew. */
        log_error("snapshot.failed", LOG_STR("why", mdb_strerror(rc)), LOG_I64("code", rc));
        return ERR_IO;
    }
}

/* -- opening -- */

/* LMDB 0.9.24 opens its descriptors without O_CLOEXEC, and shows only one of them: find them by what they are. Opening
 * the lock file here to compare would be wrong: closing it again drops LMDB's record locks of this process. */
static enum err close_on_exec(const char *data_path, const char *lock_path)
{
    struct stat wanted[2];
    unsigned count = stat(data_path, &wanted[0]) == 0;
    count += stat(lock_path, &wanted[count]) == 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return ERR_IO;
    for (struct dirent *entry; (entry = readdir(dir));) {
        uint64_t number;
        struct stat status;
        if (span_to_u64(span_cstr(entry->d_name), &number) != OK || fstat((int)number, &status) != 0)
            continue;
        for (unsigned i = 0; i < count; i++) {
            if (status.st_dev == wanted[i].st_dev && status.st_ino == wanted[i].st_ino)
                (void)fcntl((int)number, F_SETFD, FD_CLOEXEC);
        }
    }
    (void)closedir(dir);
    return OK;
}

static enum err open_env(struct snapshot *s, const struct snapshot_options *options)
{
    int rc = mdb_env_create(&s->env);
    if (rc)
        return err_of(rc);
    rc = mdb_env_set_mapsize(s->env, options->map_bytes ? options->map_bytes : SNAPSHOT_MAP_BYTES);
    if (!rc)
        rc = mdb_env_set_maxdbs(s->env, SNAPSHOT_TREES_MAX);
    if (!rc)
        rc = mdb_env_set_maxreaders(s->env, READERS_MAX);
    if (!rc) /* NOTLS: a read transaction belongs to its handle, not to a thread */
        rc = mdb_env_open(s->env, options->path, MDB_NOTLS | (options->read_only ? MDB_RDONLY : 0), FILE_MODE);
    return err_of(rc);
}

/* Walks all pages of what a reader sees now, with the reader's slot keeping them from being reused. */
static enum err check_trees(struct snapshot *s, int fd)
{
    enum err err = ERR_AGAIN;
    for (unsigned tries = 0; err == ERR_AGAIN && tries < 1000; tries++) {
        struct snapshot_txn *txn = NULL;
        err = snapshot_read_begin(s, &txn);
        if (err)
            return err;
        REQUIRE(txn);
        err = snapshot_check_trees(fd, snapshot_txn_id(txn));
        snapshot_read_end(txn);
        if (err == ERR_AGAIN)
            (void)sched_yield();
    }
    /* Never once the same number twice: not a busy writer, but a lock file and a data file that do not belong together.
     */
    return err == ERR_AGAIN ? ERR_CORRUPT : err;
}

static int open_trees_in(struct snapshot *s, const struct snapshot_options *options, bool create)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(s->env, NULL, create ? 0 : MDB_RDONLY, &txn);
    if (rc)
        return rc;
    for (unsigned i = 0; i < options->tree_count && !rc; i++)
        rc = mdb_dbi_open(txn, options->trees[i], create ? MDB_CREATE : 0, &s->trees[i]);
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn); /* the handles live on only if their transaction is committed */
}

/* Without a write when all the trees are there: opening a store must not change it. */
static enum err open_trees(struct snapshot *s, const struct snapshot_options *options)
{
    int rc = open_trees_in(s, options, false);
    if (rc == MDB_NOTFOUND && !options->read_only)
        rc = open_trees_in(s, options, true);
    s->tree_count = options->tree_count;
    return err_of(rc);
}

static enum err open_checked(struct snapshot *s, const struct snapshot_options *options, const char *data_path,
                             const char *lock_path)
{
    int fd = open(data_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && (errno != ENOENT || options->read_only))
        return err_of(errno);
    enum err err = OK;
    if (fd >= 0) {
        err = snapshot_check_metas(fd, options->map_bytes ? options->map_bytes : SNAPSHOT_MAP_BYTES);
        if (err == ERR_NOT_FOUND && !options->read_only)
            err = OK; /* an empty file: LMDB begins it */
    }
    if (!err)
        err = open_env(s, options);
    if (!err)
        err = close_on_exec(data_path, lock_path);
    if (!err && fd < 0) {
        fd = open(data_path, O_RDONLY | O_CLOEXEC);
        err = fd < 0 ? err_of(errno) : OK;
    }
    if (!err) {
        (void)snapshot_check_readers(s);
        err = check_trees(s, fd);
    }
    if (fd >= 0)
        (void)close(fd);
    return err ? err : open_trees(s, options);
}

enum err snapshot_open(const struct snapshot_options *options, struct snapshot **ret)
{
    REQUIRE(options->tree_count <= SNAPSHOT_TREES_MAX);
    enum err err = options->read_only ? OK : file_make_dirs(options->path, 0700);
    if (err)
        return err;
    struct snapshot *s = fault_calloc(1, sizeof *s);
    char *data_path = file_join(options->path, "data.mdb"), *lock_path = file_join(options->path, "lock.mdb");
    if (!s || !data_path || !lock_path)
        err = ERR_NOMEM;
    if (!err) {
        s->reader.snapshot = s->writer.snapshot = s;
        s->writer.writes = true;
        err = open_checked(s, options, data_path, lock_path);
    }
    free(data_path);
    free(lock_path);
    if (err) {
        snapshot_close(s);
        return err;
    }
    *ret = s;
    return OK;
}

void snapshot_close(struct snapshot *snapshot)
{
    if (!snapshot)
        return;
    REQUIRE(!snapshot->reader.open && !snapshot->writer.open);
    if (snapshot->reader.txn)
        mdb_txn_abort(snapshot->reader.txn);
    if (snapshot->env)
        mdb_env_close(snapshot->env);
    free(snapshot);
}

unsigned snapshot_check_readers(struct snapshot *snapshot)
{
    int dead = 0;
    if (mdb_reader_check(snapshot->env, &dead) != MDB_SUCCESS || dead < 0)
        return 0;
    return (unsigned)dead;
}

uint64_t snapshot_bytes_used(struct snapshot *snapshot)
{
    MDB_envinfo info;
    MDB_stat stat;
    if (mdb_env_info(snapshot->env, &info) != MDB_SUCCESS || mdb_env_stat(snapshot->env, &stat) != MDB_SUCCESS)
        return 0;
    return (uint64_t)(info.me_last_pgno + 1) * stat.ms_psize;
}

/* -- transactions -- */

/* Did the transaction take the number and the trees of one and the same commit? LMDB 0.9's reader takes the number from
 * the lock file and then the trees from the meta page of that number's parity. If it sleeps in between while two
 * commits pass, the trees are newer than the number says, or even being written. While its number is still the last,
 * that cannot have happened. */
static bool read_is_exact(const struct snapshot_txn *reader)
{
    MDB_envinfo info;
    return mdb_env_info(reader->snapshot->env, &info) == MDB_SUCCESS && info.me_last_txnid == mdb_txn_id(reader->txn);
}

enum err snapshot_read_begin(struct snapshot *snapshot, struct snapshot_txn **ret)
{
    struct snapshot_txn *reader = &snapshot->reader;
    REQUIRE(!reader->open);
    if (fault_hit(FAULT_STORE))
        return ERR_IO;
    /* A writer killed at the wrong instruction leaves the last number ahead of readers until the next commit: so not
     * for ever. */
    for (unsigned tries = 0; tries < READ_TRIES; tries++) {
        if (reader->txn && tries > 0)
            mdb_txn_reset(reader->txn);
        int rc =
            reader->txn ? mdb_txn_renew(reader->txn) : mdb_txn_begin(snapshot->env, NULL, MDB_RDONLY, &reader->txn);
        if (rc)
            return err_of(rc);
        if (read_is_exact(reader))
            break;
    }
    reader->open = true;
    *ret = reader;
    return OK;
}

void snapshot_read_end(struct snapshot_txn *txn)
{
    if (!txn)
        return;
    REQUIRE(txn->open && !txn->writes);
    mdb_txn_reset(txn->txn);
    txn->open = false;
}

uint64_t snapshot_txn_id(const struct snapshot_txn *txn)
{
    REQUIRE(txn->open);
    return mdb_txn_id(txn->txn);
}

enum err snapshot_write_begin(struct snapshot *snapshot, struct snapshot_txn **ret)
{
    struct snapshot_txn *writer = &snapshot->writer;
    REQUIRE(!writer->open);
    int rc = mdb_txn_begin(snapshot->env, NULL, 0, &writer->txn);
    if (rc)
        return err_of(rc);
    writer->open = true;
    writer->failed = OK;
    *ret = writer;
    return OK;
}

enum err snapshot_commit(struct snapshot_txn *txn)
{
    REQUIRE(txn->open && txn->writes);
    enum err err = txn->failed;
    if (!err && fault_hit(FAULT_COMMIT))
        err = ERR_NOSPACE;
    if (!err && fault_hit(FAULT_FSYNC))
        err = ERR_IO;
    if (err) {
        snapshot_abort(txn);
        return err;
    }
    int rc = mdb_txn_commit(txn->txn);
    txn->txn = NULL;
    txn->open = false;
    return err_of(rc);
}

void snapshot_abort(struct snapshot_txn *txn)
{
    if (!txn)
        return;
    REQUIRE(txn->open && txn->writes);
    mdb_txn_abort(txn->txn);
    txn->txn = NULL;
    txn->open = false;
}

/* -- entries -- */

static MDB_val val_of(struct span bytes)
{
    return (MDB_val){ .mv_size = bytes.len, .mv_data = (void *)(uintptr_t)bytes.ptr };
}

static struct span span_of_val(MDB_val val)
{
    return span_of(val.mv_data, val.mv_size);
}

static MDB_dbi tree_of(const struct snapshot_txn *txn, unsigned tree)
{
    REQUIRE(txn->open && tree < txn->snapshot->tree_count);
    return txn->snapshot->trees[tree];
}

static enum err changed(struct snapshot_txn *txn, int rc)
{
    enum err err = err_of(rc);
    if (err && err != ERR_NOT_FOUND && !txn->failed)
        txn->failed = err;
    return err;
}

enum err snapshot_get(struct snapshot_txn *txn, unsigned tree, struct span key, struct span *ret_value)
{
    MDB_dbi dbi = tree_of(txn, tree);
    if (key.len == 0 || key.len > SNAPSHOT_KEY_BYTES_MAX)
        return ERR_NOT_FOUND; /* such a key cannot have been put */
    MDB_val k = val_of(key), v;
    int rc = mdb_get(txn->txn, dbi, &k, &v);
    if (rc)
        return err_of(rc);
    *ret_value = span_of_val(v);
    return OK;
}

enum err snapshot_put(struct snapshot_txn *txn, unsigned tree, struct span key, struct span value)
{
    MDB_dbi dbi = tree_of(txn, tree);
    REQUIRE(txn->writes && key.len > 0 && key.len <= SNAPSHOT_KEY_BYTES_MAX);
    MDB_val k = val_of(key), v = val_of(value);
    return changed(txn, mdb_put(txn->txn, dbi, &k, &v, 0));
}

enum err snapshot_delete(struct snapshot_txn *txn, unsigned tree, struct span key)
{
    MDB_dbi dbi = tree_of(txn, tree);
    REQUIRE(txn->writes);
    if (key.len == 0 || key.len > SNAPSHOT_KEY_BYTES_MAX)
        return ERR_NOT_FOUND;
    MDB_val k = val_of(key);
    return changed(txn, mdb_del(txn->txn, dbi, &k, NULL));
}

enum err snapshot_drop_all(struct snapshot_txn *txn, unsigned tree)
{
    MDB_dbi dbi = tree_of(txn, tree);
    REQUIRE(txn->writes);
    return changed(txn, mdb_drop(txn->txn, dbi, 0));
}

uint64_t snapshot_count(struct snapshot_txn *txn, unsigned tree)
{
    MDB_stat stat;
    return mdb_stat(txn->txn, tree_of(txn, tree), &stat) == MDB_SUCCESS ? stat.ms_entries : 0;
}

enum err snapshot_each(struct snapshot_txn *txn, unsigned tree, struct span prefix, struct span from,
                       snapshot_visit *visit, void *user)
{
    MDB_dbi dbi = tree_of(txn, tree);
    struct span start = span_cmp(prefix, from) >= 0 ? prefix : from;
    REQUIRE(start.len <= SNAPSHOT_KEY_BYTES_MAX);
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn->txn, dbi, &cursor);
    if (rc)
        return err_of(rc);
    MDB_val key = val_of(start), value;
    rc = mdb_cursor_get(cursor, &key, &value, start.len ? MDB_SET_RANGE : MDB_FIRST);
    while (!rc) {
        struct span at = span_of_val(key);
        if (!span_starts(at, prefix) || !visit(user, at, span_of_val(value)))
            break;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? OK : err_of(rc);
}

enum err snapshot_last(struct snapshot_txn *txn, unsigned tree, struct span *ret_key, struct span *ret_value)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn->txn, tree_of(txn, tree), &cursor);
    if (rc)
        return err_of(rc);
    MDB_val key, value;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
    mdb_cursor_close(cursor);
    if (rc)
        return err_of(rc);
    *ret_key = span_of_val(key);
    *ret_value = span_of_val(value);
    return OK;
}

/* -- copies -- */

static enum err sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_of(errno);
    bool synced = !fault_hit(FAULT_FSYNC) && fsync(fd) == 0;
    (void)close(fd);
    return synced ? OK : ERR_IO;
}

enum err snapshot_copy(struct snapshot *snapshot, const char *to_dir)
{
    enum err err = file_make_dirs(to_dir, 0700);
    if (err)
        return err;
    char *data_path = file_join(to_dir, "data.mdb");
    if (!data_path)
        return ERR_NOMEM;
    err = err_of(mdb_env_copy2(snapshot->env, to_dir, MDB_CP_COMPACT));
    if (!err)
        err = sync_path(data_path); /* mdb_env_copy2 leaves that to its caller */
    if (!err)
        err = sync_path(to_dir);
    free(data_path);
    return err;
}

void snapshot_key_u64(uint64_t number, char out[8])
{
    for (unsigned i = 0; i < 8; i++)
        out[i] = (char)(unsigned char)(number >> (56 - 8 * i));
}

enum err snapshot_key_to_u64(struct span key, uint64_t *ret)
{
    if (key.len != 8)
        return ERR_CORRUPT;
    uint64_t number = 0;
    for (unsigned i = 0; i < 8; i++)
        number = number << 8 | (unsigned char)key.ptr[i];
    *ret = number;
    return OK;
}
