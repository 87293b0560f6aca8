/* restore.h - a backup takes the place of the control plane's store, as a new epoch: what nodes hold may be newer than
 * what the backup knows, so they take its tables only after an operator's `nodes adopt`. */
#pragma once
#include "common/base.h"
#include "common/err.h"

/* Copies the backup beside the store, raises the copy's epoch above its own and above the store's, then swaps by
 * rename: whatever stops us, one good store stands. What was there is kept beside it; ret_aside names it ("" when
 * nothing was there). The caller holds the home's lock. Errors of snapshot_open; ERR_IO: the store is as it was; ERR_CORRUPT:
 * the old store stands at ret_aside, and could not be put back. */
MUST_CHECK enum err restore_store(const char *store, const char *backup_dir, char *ret_aside, size_t aside_bytes);
