/* live.h - what only this node knows of a model now, as select asks for it: read by workers for each request, and by
 * --explain for the one it explains. */
#pragma once
#include "common/credentials.h"
#include "dataplane/route/select.h"
#include "proto/board.h"

struct live { /* all borrowed */
    struct board *board;
    const struct compiled *compiled; /* of the arm that decides */
    const struct credentials *credentials;
    /* What a running node says it lacks: believed instead of `credentials`, whose environment is another. NULL: no node
     * was asked. */
    const struct span_list *unresolved;
    const uint64_t *cool_until_ms; /* by label, of this worker alone; NULL: none are known */
};
/* For select_source: user is a struct live. */
void live_read(void *user, uint32_t model, struct select_live *ret);
