/* journal.h - what happened lately, for `fairlead changes`: a bounded ring of events in memory, and a small file that
 * lets it outlive a restart.
 *
 * Not the truth of anything: pushes and all that people do stand in the audit log, and losing the newest lines to a
 * power cut loses no decision. So adding never fails for the caller, and nothing is synced. The file is rotated once
 * (FILE and FILE.1), so that it never holds more than twice JOURNAL_FILE_BYTES. */
#pragma once
#include "common/err.h"
#include "controlplane/journal/event.h"

#define JOURNAL_EVENTS_MAX 4096u      /* a flapping provider must not fill memory; some hours of a bad day */
#define JOURNAL_LINE_BYTES 1024u      /* of one event; longer reasons are cut */
#define JOURNAL_FILE_BYTES (1u << 20) /* nor the disk */

struct journal;

/* Reads what the files hold; torn or foreign lines are left out. path NULL: memory only. A file that cannot be read or
 * written costs only itself: it is logged. ERR_NOMEM. */
MUST_CHECK enum err journal_open(const char *path, struct journal **ret);
void journal_close(struct journal *journal); /* NULL is fine */
/* Its sink; as long as the journal. */
const struct event_sink *journal_sink(struct journal *journal);
/* In order of arrival: every event not older than since_ms, as one JSON object: {"at_ms","kind","where","what","why",
 * "node"}. Ends when visit returns false. */
typedef bool journal_visit(void *user, int64_t at_ms, struct span json);
void journal_each(const struct journal *journal, int64_t since_ms, journal_visit *visit, void *user);
