/* records.h - takes request records from the workers' rings and appends them to segments: home/records/
 * records-<utc>.jsonl, mode 0600, rotated by size, the oldest removed beyond a count.
 *
 * Serving never waits for this: what cannot be written (disk full) is dropped and counted. A line is whole or not
 * there; a torn one that a killed master left is cut off when its segment is continued. Nothing is fsynced: records are
 * for people and bills, money is settled elsewhere. */
#pragma once
#include "common/buf.h"
#include "proto/board.h"

struct records {
    char *dir;
    uint64_t segment_bytes_max, segments_max;
    int fd;         /* -1: no segment is open */
    uint64_t bytes; /* in it */
    uint64_t written, dropped;
    bool failing; /* said once, until it works again */
    struct buf lines;
    void (*removing)(void *user, const char *segment); /* before one is removed; or NULL */
    void *removing_user;
};

/* dir is copied and made when missing. ERR_NOMEM, ERR_IO, ERR_DENIED. */
MUST_CHECK enum err records_open(struct records *records, const char *dir, uint64_t segment_bytes_max,
                                 uint64_t segments_max);
/* The next line begins another segment. */
void records_roll(struct records *records);
void records_close(struct records *records);
/* Takes all that lies in a region's ring and writes it. */
void records_drain(struct records *records, struct board_region *region);
