/* file.h - whole small files: bounded reads, atomic writes, directories, pid and lock files. errno is kept on error. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"

/* Appends the file to buf. ERR_NOT_FOUND, ERR_DENIED, ERR_TOO_LARGE (longer than max_bytes), ERR_IO, ERR_NOMEM. "-" is
 * standard input. */
MUST_CHECK enum err file_read(const char *path, size_t max_bytes, struct buf *buf);
/* Writes a temporary file beside path, fsyncs it and renames it over: readers see the old or the new, never half.
 * ERR_IO, ERR_NOSPACE, ERR_DENIED. */
MUST_CHECK enum err file_write_atomic(const char *path, struct span bytes, unsigned mode);
/* mkdir -p with this mode for the last part. ERR_IO, ERR_DENIED. */
MUST_CHECK enum err file_make_dirs(const char *path, unsigned mode);
bool file_exists(const char *path);
/* Takes an exclusive flock on path (made when missing), held until the returned descriptor (CLOEXEC) is closed.
 * ERR_CONFLICT: somebody else holds it; *ret_pid is then what stands in the file (0 when unreadable). On success our
 * pid is written into it. */
MUST_CHECK enum err file_lock(const char *path, int *ret_fd, long *ret_pid);
/* dir + "/" + name in a fresh malloc'd string; NULL when out of memory. */
char *file_join(const char *dir, const char *name);
/* $FAIRLEAD_HOME, else $STATE_DIRECTORY, else $XDG_STATE_HOME/fairlead, else $HOME/.local/state/fairlead, else
 * /var/lib/fairlead for root without HOME. malloc'd. */
char *file_default_home(void);
