/* snapshot_check.h - is this LMDB data file whole? Asked before LMDB trusts it, because LMDB does not ask itself.
 *
 * LMDB has no checksums: a page number beyond the end of a truncated file is a SIGBUS, a garbled page a wild pointer.
 * So every page that can be reached is visited once: inside the file, of the right kind, used once, nodes inside their
 * page and in order, counts as recorded. What values hold is their reader's to check. Reads the file only; knows
 * version 1 of the format (LMDB 0.9, 64 bits, little-endian). */
#pragma once
#include "common/base.h"
#include "common/err.h"

/* Before mdb_env_open: both meta pages make sense and none claims more than map_bytes. fd is open for reading.
 * ERR_NOT_FOUND: the file is empty. ERR_CORRUPT, ERR_UNSUPPORTED (another format version), ERR_IO. */
MUST_CHECK enum err snapshot_check_metas(int fd, uint64_t map_bytes);
/* The trees of transaction txn_id, which an open read transaction keeps from being overwritten. Costs a read of all
 * pages but those of large values. ERR_AGAIN: a writer has replaced its meta page meanwhile; take a newer transaction.
 * ERR_CORRUPT, ERR_NOMEM, ERR_IO. */
MUST_CHECK enum err snapshot_check_trees(int fd, uint64_t txn_id);
