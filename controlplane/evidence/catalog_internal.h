/* catalog_internal.h - what the readers of the three forms share. */
#pragma once
#include "controlplane/evidence/catalog.h"

#define CATALOG_PRICE_MOST_NANO INT64_C(1000000000000000) /* a million dollars per million tokens, or per call */
#define CATALOG_TOKENS_MOST     1000000000u               /* windows beyond this are slips */

struct catalog_draft {
    struct catalog_entry entry;
    bool bare;           /* made from a bare name: gives way to an entry that says the whole name */
    struct span written; /* the name as it stands in the catalog */
    uint32_t order;
};
struct catalog_build {
    struct arena *arena;
    struct catalog_draft *drafts;
    uint32_t count, capacity;
    uint32_t rounded, bad, skipped, duplicate;
    const char *why; /* of the error */
};

/* Room for `most` entries. ERR_TOO_MANY, ERR_NOMEM. */
MUST_CHECK enum err catalog_room(struct catalog_build *b, uint32_t most);
/* A new draft with its name; NULL: the name cannot be used (counted as skipped), or memory is out (b->why is set).
 * company: whose bare names it makes whole, or "". */
struct catalog_draft *catalog_add(struct catalog_build *b, struct span name, struct span company);
enum catalog_figure { CATALOG_FIGURE_NONE, CATALOG_FIGURE_KNOWN, CATALOG_FIGURE_BAD };
/* text (a JSON number) in dollars times 10^scale, rounded to the nearest. BAD: no number, negative or too large;
 * counted unless it is a plain -1. */
enum catalog_figure catalog_figure(struct catalog_build *b, struct span text, int scale, int64_t *ret);

MUST_CHECK enum err catalog_read_json(struct catalog_build *b, struct span text, enum catalog_form *ret_form);
MUST_CHECK enum err catalog_read_yaml(struct catalog_build *b, struct span text);
