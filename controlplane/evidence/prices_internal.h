/* prices_internal.h - rows of the book, shared by prices.c (what they become) and prices_json.c (how they are stored
 * and shown). */
#pragma once
#include "common/digest.h"
#include "controlplane/evidence/prices.h"

struct prices_value { /* what one source says of one name */
    bool there;
    struct price price;
    uint64_t context_tokens, output_tokens_max;
    uint32_t capabilities, capabilities_known;
    char deprecated_on[PRICES_DATE_BYTES_MAX];
};
struct prices_row {
    struct span name; /* in the same allocation, followed by a NUL */
    struct prices_value shipped, feed;
    int64_t feed_at_ms; /* when the feed's figure was accepted */
    struct {
        bool there;
        struct price price;
        int64_t at_ms;
        char *by;
    } set;
    struct {
        enum prices_hold why;      /* NONE: nothing is held */
        struct prices_value value; /* what the feed says; not there: it dropped the entry */
        int64_t at_ms;
    } held;
    /* Made of the above by prices_settle. */
    enum price_source source; /* NONE: nothing that the book could show */
    struct catalog_entry entry;
};
struct prices {
    struct prices_row **rows; /* sorted by name */
    struct prices_row **book; /* those of them with a source; as many places as rows has */
    uint32_t count, book_count, capacity;
    struct policy_book view;
    uint64_t version, base;
    struct sha256 shipped;   /* of the shipped book that `version` counted last */
    char *origin, *problem;  /* NULL: none */
    int64_t heard_at_ms;     /* last good word of the feed; 0: never */
    int64_t heard_stored_ms; /* of it, what was exported */
    enum prices_hold batch;  /* how the last batch was judged as a whole */
    bool dirty;
};

struct prices_row *prices_row_find(const struct prices *prices, struct span name);
/* Rows for all these names (sorted, each once); new ones are empty. ERR_NOMEM: some may have been added, which shows
 * nowhere. */
MUST_CHECK enum err prices_rows_add(struct prices *prices, const struct span *names, uint32_t count);
/* Brings entries, book and version in line with the rows, and drops rows that hold nothing. */
void prices_settle(struct prices *prices);
void prices_note_shipped(struct prices *prices); /* counts a shipped book that is another than the one before */
bool prices_stale_row(const struct prices *prices, const struct prices_row *row, int64_t now_ms);
