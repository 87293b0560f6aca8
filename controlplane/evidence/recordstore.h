/* recordstore.h - the records of all nodes, as they shipped them: home/control/records/records-<utc>.jsonl, mode 0600.
 *
 * A node ships the lines of its segments in order, in batches that say from where to where in which segment; what is
 * acknowledged is where its next batch has to begin, and only here is that kept. So whatever is lost, repeated or
 * overtaken on the way, each line arrives once, in its node's order.
 *
 * A file is JSON lines. First {"kind":"store",...}, then where each node stood when the file was begun
 * ({"kind":"position",...}), then batches: {"kind":"batch",...} with what it acknowledges, how many bytes of lines
 * follow, and their checksum. So the newest file alone says where everybody stands, and a torn end is found and cut.
 * The oldest file goes when all of them are too large. Nothing is fsynced while a file grows: after a power failure nodes
 * ship again what was lost, from segments that they keep. Not thread-safe. */
#pragma once
#include "proto/record.h"
#include "proto/record_dir.h"

#define RECORDSTORE_BYTES_DEFAULT (2ull << 30)
#define RECORDSTORE_BYTES_LEAST   (4ull << 20) /* a few batches: a store that forgets each of them at once is none */
#define RECORDSTORE_NODES_MAX     10000u       /* names that somebody invents must not fill memory */

struct recordstore;

struct recordstore_stats {
    uint64_t lines, bytes; /* taken since it was opened */
    uint64_t unreadable;   /* of the lines: stored, but no record that this build reads */
    uint64_t refused;      /* batches that did not begin where they had to: repeated, or with a gap */
    uint64_t held_bytes, files, nodes;
};

/* Reads where everybody stands, and cuts a torn end. dir is copied and made when missing; other programs may read its
 * files, nobody else may write them. ERR_CORRUPT: the newest file is none of ours. ERR_IO, ERR_DENIED, ERR_NOSPACE,
 * ERR_NOMEM. */
MUST_CHECK enum err recordstore_open(const char *dir, uint64_t bytes_max, struct recordstore **ret);
void recordstore_close(struct recordstore *rs); /* NULL is fine */

/* Each record of a batch that was taken, after it was written. */
void recordstore_listen(struct recordstore *rs, void (*taken)(void *user, const struct record *record), void *user);

/* Where the node's next batch has to begin; segment "" (and offset 0): nothing came of it yet, it begins with its oldest.
 * The segment is valid until the next call with this store. */
void recordstore_position(const struct recordstore *rs, struct span node, struct span *ret_segment,
                          uint64_t *ret_offset);

struct recordstore_batch {
    struct span node;
    struct span segment;
    uint64_t from, to; /* offsets in the segment: more than lines.len apart where the node left lines out */
    struct span lines; /* whole ones, each ended by '\n' */
};
/* Takes all of it or nothing. It has to begin at the node's position, or at 0 of a later segment (the one before is done,
 * or gone). ERR_CONFLICT: it does not: a repetition, or a gap. ERR_INVALID: names or lines that no node of ours sends.
 * ERR_TOO_MANY nodes. ERR_NOSPACE, ERR_IO, ERR_NOMEM: may be sent again. */
MUST_CHECK enum err recordstore_append(struct recordstore *rs, const struct recordstore_batch *batch);

/* record_dir_each over what is held. */
MUST_CHECK enum err recordstore_each(const struct recordstore *rs, int64_t since_ms, record_visit *visit, void *user);
const char *recordstore_dir(const struct recordstore *rs);
struct recordstore_stats recordstore_stats(const struct recordstore *rs);
