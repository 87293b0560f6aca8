/* record_dir.h - directories of record lines: a node's segments (dataplane/node/records) and what the control plane
 * gathered of all nodes (controlplane/evidence/recordstore). Files are named by the moment they were begun, so that
 * names sort by time: "records-20261122T104500.123Z.jsonl". */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

#define RECORD_FILE_NAME_BYTES 48u /* with its NUL; 36 are used */
#define RECORD_DIR_SKEW_MS                                                                                             \
    600000 /* clocks of nodes may differ so much, and a stream may take so long, before a record is missed by a search \
              from its time on */

struct record_dir {
    char (*names)[RECORD_FILE_NAME_BYTES]; /* oldest first */
    size_t count;
};
/* What lies there now; other files are left out. A directory that does not exist is empty. ERR_IO, ERR_DENIED,
 * ERR_NOMEM. */
MUST_CHECK enum err record_dir_list(const char *dir, struct record_dir *ret);
void record_dir_release(struct record_dir *files);
/* When the file of this name was begun (wall); 0: none of ours. */
int64_t record_file_begun_ms(const char *name);
/* A name that sorts after `newest` (""), also when clocks were set back or two begin in one millisecond. */
void record_file_next_name(const char *newest, int64_t now_ms, char out[RECORD_FILE_NAME_BYTES]);

/* A line that may be shipped and stored: an object by its ends, not longer than RECORD_LINE_MAX, without NUL. Whether it
 * can be read is record_read's affair. */
bool record_line_good(struct span line);

/* An error ends the walk and is returned. */
typedef enum err record_visit(void *user, struct span line);
/* Whole lines of records from since_ms on (0: all), in the order in which they stand: by node in the order in which they
 * were written. Lines that say a time before since_ms are left out. Files may grow meanwhile, and be removed. A line
 * that begins with {"kind": is the store's own and no record. ERR_NOMEM, ERR_IO, and what visit returns. */
MUST_CHECK enum err record_dir_each(const char *dir, int64_t since_ms, record_visit *visit, void *user);
