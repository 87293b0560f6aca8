/* feed.h - what changed between two catalogs, and telling the control plane about it.
 *
 * The first report, and the one after the control plane says that it holds another base, carries the whole catalog;
 * later ones only what is new, different or gone. When nothing changed an empty report says that the source was read
 * and is good. A source that cannot be read or understood is reported as a problem and changes nothing. A report that
 * was not answered goes again with the same sequence number. */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "controlplane/evidence/catalog.h"

#define FEED_ASK_TIMEOUT_MS 3000u /* also how long a SIGTERM may have to wait */

struct feed {
    const char *address;
    const char *origin; /* for people: path or URL */
    char incarnation[17];
    uint64_t seq;
    uint64_t base;       /* the control plane's, of what it took last; 0: it must get everything */
    struct arena arena;  /* holds `held` */
    struct catalog held; /* as sent last */
};
void feed_init(struct feed *feed, const char *address, const char *origin);
void feed_release(struct feed *feed);

struct feed_difference {
    const struct catalog_entry *changed; /* new or different */
    uint32_t changed_count;
    struct span_list removed;
};
/* Both sorted by name, as catalog_read gives them. ERR_NOMEM. */
MUST_CHECK enum err feed_compare(struct arena *arena, const struct catalog *before, const struct catalog *after,
                                 struct feed_difference *ret);

/* Tells what `text`, a catalog, changes. ERR_INVALID and others of catalog_read: the catalog is bad, and that was told
 * (ret_why). ERR_TIMEOUT, ERR_CLOSED, ERR_REFUSED, …: the control plane could not be reached. ERR_DENIED: it refused
 * the report. why: for people. */
MUST_CHECK enum err feed_tell(struct feed *feed, struct span text, char *why, size_t why_bytes);
/* Tells that the source cannot be read. */
MUST_CHECK enum err feed_tell_problem(struct feed *feed, const char *problem);
