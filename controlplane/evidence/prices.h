/* prices.h - the price book: what people set, what the feed says, what ships; and what is held back because it looks
 * absurd. Plain memory, no clock.
 *
 * Precedence for a price: set > feed > shipped (a policy's own price comes before all, in the compiler). Facts
 * (context, capabilities) come from the feed where it has the entry, else from the shipped book. `version` rises with
 * each change of what requests are charged by.
 *
 * Quarantine. A figure of the feed is compared with the last one that was accepted (the feed's, else the shipped one),
 * part by part:
 *   - zero where it was not, or more than PRICES_JUMP times, or less than 1/PRICES_JUMP of it: this entry's change is
 * held back; and the whole batch is, when
 *   - it leaves no entry at all, or half or fewer of those that the feed had;
 *   - more than a fifth of the entries known before (and at least PRICES_BATCH_LEAST) changed a part by more than
 * twice. Held changes are shown with old, new and why, and wait for prices_accept; a feed that comes back to the
 * accepted figure, or to a credible one, ends the hold. The feed's base goes on either way, so it sends only what
 * changes.
 *
 * A catalog always travels in one message (CATALOG_ENTRIES_MAX fits a frame), so that a batch can be judged as a whole.
 */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include "controlplane/policy/policy.h"
#include "proto/links.h"

#define PRICES_JUMP           10 /* no provider changes a price tenfold overnight; a slip of the decimal point does */
#define PRICES_BATCH_LEAST    3u /* in a feed of a handful, single entries are judged by themselves */
#define PRICES_STALE_MS       86400000ll /* not heard of the feed for a day: its prices are marked stale */
#define PRICES_DATE_BYTES_MAX 11u

enum prices_hold {
    PRICES_HOLD_NONE,
    PRICES_HOLD_ZERO,
    PRICES_HOLD_JUMP,
    PRICES_HOLD_EMPTY,
    PRICES_HOLD_HALF,
    PRICES_HOLD_SWEEP,
    PRICES_HOLD_COUNT
};
const char *prices_hold_text(enum prices_hold hold); /* for people */

struct prices;

bool prices_equal(const struct price *a, const struct price *b);

MUST_CHECK enum err prices_new(struct prices **ret);
void prices_free(struct prices *prices);

/* Replaces the shipped book. ERR_NOMEM. */
MUST_CHECK enum err prices_ship(struct prices *prices, const struct catalog_entry *entries, uint32_t count);
/* Takes the price part of a report. ERR_STALE: its base is not ours, everything must be sent (nothing changed).
 * ERR_INVALID: a name twice (nothing changed). ERR_NOMEM. */
MUST_CHECK enum err prices_take(struct prices *prices, const struct evidence_report *report, int64_t now_ms);
uint64_t prices_base(const struct prices *prices); /* the feed's; 0: nothing of it yet */

MUST_CHECK enum err prices_set(struct prices *prices, struct span name, const struct price *price, int64_t now_ms,
                               struct span by);
MUST_CHECK enum err prices_unset(struct prices *prices, struct span name); /* ERR_NOT_FOUND */
/* Releases what is held: one name, or all when empty. ERR_NOT_FOUND: nothing is held under that name (or at all). */
MUST_CHECK enum err prices_accept(struct prices *prices, struct span name, int64_t now_ms, uint32_t *ret_count);

const struct policy_book *prices_book(const struct prices *prices); /* valid until the next change */
uint64_t prices_version(const struct prices *prices);
/* What the book says now. False: nothing known. */
bool prices_find(const struct prices *prices, struct span name, int64_t now_ms, struct price *ret_price,
                 enum price_source *ret_source, bool *ret_stale);
bool prices_feed_stale(const struct prices *prices, int64_t now_ms); /* false when there never was a feed */
uint32_t prices_held(const struct prices *prices);

bool prices_dirty(const struct prices *prices);
void prices_exported(struct prices *prices); /* what was exported is stored: clean again */
/* One JSON object; prices_import takes it back. ERR_CORRUPT: unchanged. */
MUST_CHECK enum err prices_export(const struct prices *prices, struct buf *out);
MUST_CHECK enum err prices_import(struct prices *prices, struct span blob);

void prices_json(const struct prices *prices, struct span pattern, bool unmapped_only, int64_t now_ms,
                 struct json_writer *w);
void prices_json_summary(const struct prices *prices, int64_t now_ms,
                         struct json_writer *w); /* members of an open object */
